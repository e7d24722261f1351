//! What goes into the core's thread.

use jincai_console::Call;
use jincai_core::Event;

/// Events and calls that may wait.
pub(crate) const QUEUE: usize = 4096;

/// What the core's thread is told.
pub(crate) enum Input {
    /// Something happened.
    Event(Event),
    /// Somebody wants something done.
    Call(Call),
    /// The journal moved.
    Wake,
    /// Finish what is under way and close the journal.
    Stop,
}
