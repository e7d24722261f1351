//! A tick that nobody would have needed: `next_wake` promises that nothing is due before its answer, and every tick of
//! every world holds it to that.

use crate::node::Node;
use jincai_core::Event;
use jincai_types::Millis;

impl Node {
    /// Time passes. If the node could have slept on, the tick must set nothing off.
    pub(crate) fn tick(&mut self, now: Millis) -> Result<(), String> {
        let clock = self.clock(now);
        let wake = |running: &crate::node::Running| running.core.next_wake(clock);
        let sleeps = self.running.as_ref().is_some_and(|running| wake(running).is_none_or(|at| at > clock));
        let stirs = |node: &Self| node.running.as_ref().is_some_and(|running| running.core.has_output());
        let stirred = stirs(self);
        self.step(now, Event::Tick)?;
        if sleeps && !stirred && stirs(self) {
            return Err(format!("{}: it would have slept through something that was due", self.id));
        }
        Ok(())
    }
}
