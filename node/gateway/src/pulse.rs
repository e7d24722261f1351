//! The core's clock: a tick every 50 milliseconds while something goes on, and one a second when the core says that nothing is
//! due. An idle node must cost its machine next to nothing.

use crate::clock;
use crate::input::Input;
use jincai_core::Event;
use jincai_types::Millis;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Between two ticks while something goes on.
const TICK: Duration = Duration::from_millis(50);
/// Between two ticks when nothing does: health is told by them.
const REST: Duration = Duration::from_secs(1);

/// When the next tick is due: the core says so, the ticking task keeps to it.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Milliseconds since 1970; 0: as soon as may be.
    due: AtomicU64,
    sooner: Notify,
}

impl Pulse {
    /// Nothing is due before this time, unless something happens.
    pub(crate) fn rest_until(&self, due: Millis) {
        self.due.store(due, Ordering::Release);
    }

    /// Something happened.
    pub(crate) fn stir(&self) {
        if self.due.swap(0, Ordering::AcqRel) != 0 {
            self.sooner.notify_one();
        }
    }

    /// Ticks for as long as somebody listens.
    pub(crate) async fn beat(&self, inputs: mpsc::Sender<Input>) {
        while inputs.send(Input::Event(Event::Tick)).await.is_ok() {
            tokio::time::sleep(TICK).await;
            let due = self.due.load(Ordering::Acquire);
            tokio::select! {
                () = tokio::time::sleep(rest(due, clock::now())) => {}
                () = self.sooner.notified() => {}
            }
        }
    }
}

/// How long to rest after the shortest pause between two ticks, if the next one is due then.
fn rest(due: Millis, now: Millis) -> Duration {
    Duration::from_millis(due.saturating_sub(now)).min(REST.saturating_sub(TICK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_until_something_is_due_and_a_second_at_most() {
        assert_eq!(rest(0, 1_000), Duration::ZERO);
        assert_eq!(rest(1_200, 1_000), Duration::from_millis(200));
        assert_eq!(rest(Millis::MAX, 1_000) + TICK, REST);
        // A clock that went back by a year keeps nobody waiting.
        assert_eq!(rest(1_800_000_000_000, 1_768_464_000_000) + TICK, REST);
    }

    #[test]
    fn stirring_ends_a_rest_and_only_that() {
        let pulse = Pulse::default();
        pulse.rest_until(9);
        assert_eq!(pulse.due.load(Ordering::Acquire), 9);
        pulse.stir();
        assert_eq!(pulse.due.load(Ordering::Acquire), 0);
    }
}
