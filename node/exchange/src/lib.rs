//! The exchange core: store and forward between nodes, without I/O, clock, threads or randomness of its own.
//!
//! A *lane* runs from an origin authority to a destination in one priority class; its batches form a hash chain that the
//! origin signs. Hops hold a batch in *custody* until the next hop's signed receipt. At the destination, *rooms* decide
//! on each message; the effect and the message's place go into the journal in one record, so nothing is applied twice.
//!
//! What it keeps, whatever comes in: a receipt leaves only for what is durable; what cannot be verified moves no cursor;
//! a lane whose chain forks is held, with both branches kept as evidence.

mod apply;
mod chain;
mod credit;
mod delivery;
mod error;
mod exchange;
mod frame;
mod gaps;
mod held;
mod link;
mod operator;
mod outbox;
mod output;
mod pace;
mod press;
mod provenance;
mod receive;
pub mod record;
mod replay;
mod report;
mod restore;
mod room;
mod slots;
mod snapshot;
#[cfg(test)]
mod tests;
mod trace;
mod wake;

pub use apply::{BULK_PART, FILE_CHUNK, FILE_PAGE, REFUSAL, RefusalNote};
pub use error::Error;
pub use exchange::{Counters, Exchange, Opening, Setup, open, read_batch, read_message};
pub use frame::{
    Frame, HeldBack, HopOrder, Obstacle, PROTOCOL_VERSION, Receipt, ReceiptList, SlotId, SlotValue, Waiting, Windows,
};
pub use link::LinkKind;
pub use operator::{Person, Target};
pub use output::{Context, Notice, Output, Payload, Send};
pub use pace::PaceReason;
pub use press::Waits;
pub use report::{BatchState, InboundReport, LinkReport, OutboundReport, QueuedBatch};
pub use room::{Decision, Delivery, Outgoing, Parts, Place, Refusal, Room, RoomError, Rooms};
pub use trace::{Answer, Found, HandedOn, HopReport, MessageState, Trace, find_messages};
