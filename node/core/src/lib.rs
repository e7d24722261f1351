//! One node, sans-IO: the exchange, the rooms and the journal's records composed into `step(now, event)`.
//!
//! «Persist, then send» stands here once: whatever a step wants to leave the node (a frame, a table change) is held back
//! until the records staged before it are durable. The gateway and the simulation drive this very code.

mod core;
mod error;
mod files;
mod inbox;
mod rooms;

pub use crate::core::{Action, Core, Event, Snapshot, Turn};
pub use error::Error;
pub use inbox::{Inbox, KNOWN, NOTE, Note, note_id};
pub use rooms::RoomSet;
