//! How fast a neighbour is sent to: a token bucket for the link and one for each class, and daily windows. Time comes from
//! the caller; a clock that goes back neither lends nor takes.

use jincai_policies::LinkLimits;
use jincai_types::{Millis, Priority};

/// Why a class waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaceReason {
    /// Its daily window is closed.
    Window,
    /// It has had its bytes for now.
    Rate,
}

/// A bucket holds at most what a second brings. A batch that is larger than what is left is sent whole, and paid afterwards.
#[derive(Clone, Debug)]
struct Bucket {
    rate: u64,
    /// Thousandths of bytes.
    tokens: i64,
    filled: Millis,
}

impl Bucket {
    fn new(rate: u64, now: Millis) -> Self {
        Self { rate, tokens: Self::cap(rate), filled: now }
    }

    fn cap(rate: u64) -> i64 {
        i64::try_from(rate.saturating_mul(1000)).unwrap_or(i64::MAX)
    }

    fn tokens_at(&self, now: Millis) -> i64 {
        let elapsed = now.saturating_sub(self.filled);
        let more = i64::try_from(self.rate.saturating_mul(elapsed)).unwrap_or(i64::MAX);
        self.tokens.saturating_add(more).min(Self::cap(self.rate))
    }

    /// When it is not in debt any more.
    fn ready_at(&self, now: Millis) -> Millis {
        let tokens = self.tokens_at(now);
        if self.rate == 0 || tokens > 0 { now } else { now + tokens.unsigned_abs() / self.rate + 1 }
    }

    fn spend(&mut self, bytes: u64, now: Millis) {
        let cost = i64::try_from(bytes.saturating_mul(1000)).unwrap_or(i64::MAX);
        (self.tokens, self.filled) = (self.tokens_at(now).saturating_sub(cost), now);
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    limits: LinkLimits,
    link: Bucket,
    classes: [Bucket; 4],
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(LinkLimits::default(), 0)
    }
}

impl Pace {
    pub(crate) fn new(limits: LinkLimits, now: Millis) -> Self {
        let link = Bucket::new(limits.bytes_per_second, now);
        let classes = Priority::ALL.map(|class| Bucket::new(limits.class(class).bytes_per_second, now));
        Self { limits, link, classes }
    }

    /// When a class may be sent, and why not before; `None`: now.
    pub(crate) fn waits(&self, class: Priority, now: Millis) -> Option<(Millis, PaceReason)> {
        let opens = self.limits.opens_at(class, now);
        if opens > now {
            return Some((opens, PaceReason::Window));
        }
        let ready = self.link.ready_at(now).max(self.classes[class.index()].ready_at(now));
        (ready > now).then_some((ready, PaceReason::Rate))
    }

    /// Bytes of a class were sent.
    pub(crate) fn spend(&mut self, class: Priority, bytes: u64, now: Millis) {
        self.link.spend(bytes, now);
        self.classes[class.index()].spend(bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jincai_policies::ClassLimits;
    use proptest::prelude::*;

    fn pace(link: u64, bulk: u64) -> Pace {
        let bulk = ClassLimits { bytes_per_second: bulk, windows: Vec::new() };
        Pace::new(LinkLimits { bytes_per_second: link, bulk, ..LinkLimits::default() }, 0)
    }

    #[test]
    fn nothing_waits_without_limits_and_a_class_only_for_its_own() {
        let mut free = pace(0, 0);
        free.spend(Priority::Bulk, u64::MAX, 0);
        assert_eq!(free.waits(Priority::Bulk, 1), None);
        let mut thin = pace(0, 1_000);
        thin.spend(Priority::Bulk, 3_000, 0);
        assert_eq!(thin.waits(Priority::Control, 0), None);
        assert_eq!(thin.waits(Priority::Bulk, 0), Some((2_001, PaceReason::Rate)));
        assert_eq!(thin.waits(Priority::Bulk, 2_001), None);
    }

    proptest! {
        /// Whatever is sent whenever it may be, over any time it is no more than the rate, a second's burst and one batch.
        #[test]
        fn the_rate_holds_over_any_time(
            rate in 100_u64..1_000_000,
            steps in prop::collection::vec((0_u64..500, 1_u64..1_000_000), 1..200),
        ) {
            let mut pace = pace(rate, 0);
            let (mut now, mut sent, mut largest) = (0, 0, 0);
            for (pause, bytes) in steps {
                now += pause;
                if pace.waits(Priority::Record, now).is_none() {
                    pace.spend(Priority::Record, bytes, now);
                    sent += bytes;
                    largest = largest.max(bytes);
                }
                prop_assert!(sent <= rate + rate * now / 1000 + largest + 1);
            }
        }

        /// The time that is told is the time: not before, and then indeed.
        #[test]
        fn what_waits_may_go_when_it_was_told(rate in 100_u64..1_000_000, bytes in 1_u64..10_000_000) {
            let mut pace = pace(rate, 0);
            pace.spend(Priority::Bulk, rate + bytes, 0);
            let (at, _) = pace.waits(Priority::Bulk, 0).expect("in debt");
            prop_assert!(pace.waits(Priority::Bulk, at - 1).is_some());
            prop_assert!(pace.waits(Priority::Bulk, at).is_none());
        }
    }
}
