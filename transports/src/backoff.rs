//! How long to wait before the next attempt: doubling from 0.2 s to 30 s, half of it random.
//!
//! The random half keeps thousands of nodes that lost one superior at the same moment from coming back at the same moment.

use jincai_crypto::{Entropy, SystemEntropy};
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// A connection that lasted this long was a good one: the next wait is short again. Resetting at once would let two
/// nodes with one identity replace each other's connections five times a second.
pub(crate) const STEADY: Duration = Duration::from_secs(10);

/// The state of one neighbour's attempts.
pub(crate) struct Backoff {
    next: Duration,
    entropy: SystemEntropy,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: SHORTEST, entropy: SystemEntropy::default() }
    }

    /// All is well: start over.
    pub(crate) fn reset(&mut self) {
        self.next = SHORTEST;
    }

    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(LONGEST);
        // Without randomness the wait is whole: late is better than never.
        let share = self.entropy.number().map_or(1000, |n| n % 1001);
        half + half * u32::try_from(share).unwrap_or(1000) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_stay_within_bounds_and_start_over() {
        let mut backoff = Backoff::new();
        let mut whole = SHORTEST;
        for _ in 0..20 {
            let wait = backoff.next();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST);
        }
        assert_eq!(whole, LONGEST);
        backoff.reset();
        assert!(backoff.next() <= SHORTEST);
    }
}
