//! When the clock's next tick would do something, so that a shell without anything else to do may sleep until then.
//!
//! The answer may be too early and never too late. It counts until the next event: whoever sleeps asks again after each.
//! Left out is what has no deadline and only gives memory back, which any later tick does as well (lanes that a relay
//! remembers after they are drained).

use crate::Rooms;
use crate::exchange::Exchange;
use jincai_types::{Lane, Millis};

impl Exchange {
    /// The earliest time at which [`Exchange::tick`] would do something; `now` or earlier means at once, `None` means not
    /// before something else happens.
    #[must_use]
    pub fn next_wake(&self, now: Millis, rooms: &dyn Rooms) -> Option<Millis> {
        if now < self.last_tick || self.has_work(rooms) {
            return Some(now);
        }
        let links = self.links.values().filter_map(|link| link.next_wake(&self.policy, now));
        let others = [self.deliveries.next_wake(), self.next_catch_up(now), self.next_tidying(), self.next_press()];
        links.chain(others.into_iter().flatten()).min()
    }

    /// Receipts that are out of date go with the next tick; and a room that met a fault of this machine, so that a lane
    /// waits for nothing that is missing, is asked again at every tick.
    fn has_work(&self, rooms: &dyn Rooms) -> bool {
        let waits_for_us = |lane: &Lane| {
            let blocked = self.inbound.get(lane).map(|inbound| &inbound.blocked);
            let waits =
                blocked.is_some_and(|blocked| blocked.as_ref().is_none_or(|blocker| self.is_over(blocker, rooms)));
            waits && !self.is_paused(lane)
        };
        !self.receipts_due.is_empty() || self.grants.has_work() || self.waiting.iter().any(waits_for_us)
    }
}
