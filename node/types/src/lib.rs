//! The vocabulary of jincai: ids, addresses, message attributes, money, dates and the CBOR codec.
//!
//! Pure: no clock, file, socket, thread or random source. Every decoder here takes bytes or text from outside, refuses
//! what is malformed with a typed [`Error`], never panics, and bounds every length before it allocates.

mod address;
mod calendar;
mod codec;
mod error;
mod ids;
mod lane;
mod message;
mod money;
mod mutation;
mod table;
mod tree;

pub use address::{Address, AddressPattern, Audience, FiscalYear, SYSTEM_ATTRIBUTE, Sender, System, YEAR_ATTRIBUTE};
pub use calendar::{Date, Millis, Month};
pub use codec::{decode, decode_canonical, encode, encode_into, hex, unhex};
pub use error::{Error, Fault};
pub use ids::{AuthorityId, Digest, Epoch, Level, RecordNumber, Sequence};
pub use lane::{Destination, Lane, LanePosition, Priority};
pub use message::{Attributes, Requirement};
pub use money::{format_fen, parse_fen};
#[cfg(feature = "mutations")]
pub use mutation::mutate;
pub use mutation::{Mutation, mutated};
pub use table::{Column, ColumnType, PartKey, PartRecord, TableEffect, TableSchema};
pub use tree::AuthorityTree;

/// Limits that every node keeps, whatever a peer sends.
pub mod limits {
    /// Largest sealed batch, in bytes. Larger payloads travel as bulk parts.
    pub const BATCH_BYTES: usize = 1 << 20;
    /// Most messages in one batch.
    pub const BATCH_MESSAGES: usize = 1024;
    /// Largest payload of one message, in bytes; it leaves room for attributes and seals within a batch.
    pub const PAYLOAD_BYTES: usize = BATCH_BYTES - (64 << 10);
    /// Largest link frame, in bytes: a batch and its envelope on the link.
    pub const FRAME_BYTES: usize = BATCH_BYTES + (4 << 10);
    /// Longest message id, type, subject or attribute name or value, in bytes of UTF-8.
    pub const ATTRIBUTE_BYTES: usize = 1024;
    /// Most attributes of one message, extensions included.
    pub const ATTRIBUTES: usize = 32;
    /// Most conditions one message may name in `requires`.
    pub const REQUIREMENTS: usize = 256;
}
