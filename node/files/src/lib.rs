//! Bulk files: what goes from an authority's store to another's, in chunks under a hash tree.
//!
//! A file is *offered* with the root of its tree; its destination *wants* pages of digests and chunks as it has room for them, and
//! gets them as ordinary messages, which every hop stores before it forwards. Each is held against the tree before it is
//! taken. A file is visible at its destination when all of it is there, durably, and not before.
//!
//! Pure: the room ([`Files`]) decides and remembers; a [`Keeper`] does what there is to do with a [`Store`], whose disk is the
//! shell's. A kill of either side at any moment leaves what was reported, and the room asks for the rest again.

mod command;
mod depot;
mod effect;
mod error;
mod job;
mod keeper;
mod memory;
mod meter;
mod model;
mod room;
#[cfg(test)]
mod tests;
mod transfer;
pub mod tree;

pub use command::{Staged, Submission};
pub use depot::{Content, Depot, Taken, Upload, Usage};
pub use error::Error;
pub use job::{Job, Mood, Report};
pub use keeper::{Keeper, Payloads, Store};
pub use memory::MemoryStore;
pub use model::{CHUNK, END, FileKey, OFFER, Offer, PAGE, RECEIVED, Span, WANT, chunk_bytes, spans_of};
pub use room::{FileCounters, Files};
pub use transfer::{ReceiveState, Receiving, SendState, Sending};
