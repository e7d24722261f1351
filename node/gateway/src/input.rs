//! What goes into the core's thread.

use jincai_console::Call;
use jincai_core::{Core, Event};

/// Events and calls that may wait.
pub(crate) const QUEUE: usize = 4096;

/// Looks at the core at the end of a turn.
pub(crate) type Watch = Box<dyn FnMut(&Core) + Send>;

/// What the core's thread is told.
pub(crate) enum Input {
    /// Something happened.
    Event(Event),
    /// People want something done; together, so that many callers cost the queue one entry.
    Calls(Vec<Call>),
    /// Somebody wants to see the core at the end of each turn from now on.
    Watch(Watch),
    /// The journal moved.
    Wake,
    /// Finish what is under way and close the journal.
    Stop,
}
