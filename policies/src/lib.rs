//! Policies as values, and the decisions taken from them. Pure: what a policy says never depends on who asks when.
//!
//! So far: how links behave ([`LinkPolicy`]), what may be sent to a neighbour and when ([`LinkLimits`]), and which payloads
//! are encrypted ([`is_encrypted`]).

mod limits;

pub use limits::{ClassLimits, LinkLimits, Window};

use jincai_types::{Destination, Millis, Priority};
use serde::{Deserialize, Serialize};

/// Milliseconds of a day.
const DAY: Millis = 86_400_000;

/// How a node behaves on one link. Every key has a default; unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkPolicy {
    /// Bytes of unconfirmed batches in flight for `control`, `interactive`, `record` and `bulk`; 64 KiB to 256 MiB each.
    pub window_bytes: [u64; 4],
    /// The share of custody of one next hop, in bytes for `control`, `interactive`, `record` and `bulk`; 64 KiB to 1 TiB
    /// each. While more than that waits for it, neighbours are asked to hold back what leads there, and submitters of
    /// this node are refused.
    pub share_bytes: [u64; 4],
    /// Bytes that may be in flight to this node from all its neighbours together, 1 MiB to 16 GiB; each is granted its share.
    pub intake_bytes: u64,
    /// Without progress for this long, unconfirmed batches are sent again; milliseconds, doubled up to 32 times.
    pub retry_ms: Millis,
    /// Signed receipts go out at most this often; milliseconds.
    pub receipt_ms: Millis,
    /// An origin keeps its copy of a batch for this long after its destination has signed for it, so that a destination
    /// which was restored from a backup can be filled again: at least as old as the oldest backup in use; milliseconds.
    pub retain_after_receipt_ms: Millis,
    /// For how long a node remembers when a batch passed it and who signed for it, for people who trace a message;
    /// milliseconds. Nothing else depends on it.
    pub provenance_ms: Millis,
    /// Of how many batches at most; some 250 bytes of memory each.
    pub provenance_batches: usize,
}

impl Default for LinkPolicy {
    fn default() -> Self {
        Self {
            window_bytes: [4 << 20, 8 << 20, 16 << 20, 8 << 20],
            share_bytes: [16 << 20, 64 << 20, 256 << 20, 1 << 30],
            intake_bytes: 64 << 20,
            retry_ms: 3_000,
            receipt_ms: 1_000,
            retain_after_receipt_ms: 35 * DAY,
            provenance_ms: 7 * DAY,
            provenance_batches: 20_000,
        }
    }
}

impl LinkPolicy {
    /// The window of a class, in bytes.
    #[must_use]
    pub fn window(&self, class: Priority) -> u64 {
        self.window_bytes[class.index()]
    }

    /// A next hop's share of custody for a class, in bytes.
    #[must_use]
    pub fn share(&self, class: Priority) -> u64 {
        self.share_bytes[class.index()]
    }

    /// Says what is wrong with the values, if something is.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let windows = self.window_bytes.iter().all(|w| (64 << 10..=256 << 20).contains(w));
        let shares = self.share_bytes.iter().all(|s| (64 << 10..=1 << 40).contains(s));
        match () {
            () if !shares => Some("share_bytes: each must lie between 65536 and 1099511627776"),
            () if !windows => Some("window_bytes: each must lie between 65536 and 268435456"),
            () if !(1 << 20..=16 << 30).contains(&self.intake_bytes) => {
                Some("intake_bytes: must lie between 1048576 and 17179869184")
            }
            () if !(100..=3_600_000).contains(&self.retry_ms) => Some("retry_ms: must lie between 100 and 3600000"),
            () if !(10..=60_000).contains(&self.receipt_ms) => Some("receipt_ms: must lie between 10 and 60000"),
            () if !(60_000..=400 * DAY).contains(&self.retain_after_receipt_ms) => {
                Some("retain_after_receipt_ms: must lie between 60000 (a minute) and 34560000000 (400 days)")
            }
            () if !(60_000..=400 * DAY).contains(&self.provenance_ms) => {
                Some("provenance_ms: must lie between 60000 (a minute) and 34560000000 (400 days)")
            }
            () if !(100..=10_000_000).contains(&self.provenance_batches) => {
                Some("provenance_batches: must lie between 100 and 10000000")
            }
            () => None,
        }
    }
}

/// Whether payloads to this destination are encrypted: to one authority always; what goes to a group of every authority
/// above or below is public among them (releases are meant to be read by all, and are signed).
#[must_use]
pub fn is_encrypted(destination: Destination) -> bool {
    matches!(destination, Destination::Authority(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_own_limits() {
        assert_eq!(LinkPolicy::default().fault(), None);
        assert!(LinkPolicy { retry_ms: 1, ..LinkPolicy::default() }.fault().is_some());
        assert!(LinkPolicy { window_bytes: [0; 4], ..LinkPolicy::default() }.fault().is_some());
        assert!(LinkPolicy { share_bytes: [1; 4], ..LinkPolicy::default() }.fault().is_some());
    }
}
