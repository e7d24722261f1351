//! The exchange core, sans-IO.
mod room;
pub use room::{Decision, Delivery, Outgoing, Parts, Refusal, Room, RoomError};
