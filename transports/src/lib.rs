//! Moves opaque frames to a neighbour at least once: over QUIC sessions or through a shared directory.
//!
//! A transport is trusted for nothing: it may lose, duplicate, reorder and delay, and whoever carries frames can read and
//! alter them. Order, integrity, secrecy and custody belong to the exchange. What this crate does promise: a frame arrives
//! whole or not at all, at most [`jincai_types::limits::FRAME_BYTES`] long; [`LinkEvent::Up`] and [`LinkEvent::Down`] of a
//! neighbour alternate strictly; memory is bounded whatever the neighbour does; nothing has to be restarted by hand.

mod backoff;
mod contract;
mod drop;
mod error;
mod link;
mod mailbox;
mod parcel;
mod quic;
mod session;
mod tls;
mod wire;

pub use contract::{Events, LinkEvent, Mailbox, Meter, Session, Shape, WireBytes};
pub use drop::{DropConfig, open_drop};
pub use error::{Error, Trouble};
pub use link::{Link, QUEUE_BYTES, QUEUE_FRAMES};
pub use mailbox::mailbox_link;
pub use quic::{QuicConfig, QuicEndpoint};
pub use session::session_link;
