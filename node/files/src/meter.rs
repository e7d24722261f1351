//! How fast transfers are, for people: bytes since a moment, forgotten when a transfer is over and with the run.

use crate::model::FileKey;
use jincai_types::Millis;
use std::collections::BTreeMap;

/// A rate is taken over so long, in milliseconds.
const SPAN: Millis = 2_000;
/// A transfer that has not moved for so long has no rate.
const STILL: Millis = 10_000;

#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    since: Millis,
    bytes: u64,
    rate: u64,
    moved: Millis,
}

/// The meters of all transfers.
#[derive(Debug, Default)]
pub(crate) struct Meters(BTreeMap<FileKey, Meter>);

impl Meters {
    pub(crate) fn moved(&mut self, key: &FileKey, bytes: u64, now: Millis) {
        let meter = self.0.entry(key.clone()).or_insert_with(|| Meter { since: now, ..Meter::default() });
        meter.bytes = meter.bytes.saturating_add(bytes);
        meter.moved = now;
        let passed = now.saturating_sub(meter.since);
        if passed >= SPAN || now < meter.since {
            meter.rate = meter.bytes.saturating_mul(1000) / passed.max(1);
            (meter.since, meter.bytes) = (now, 0);
        }
    }

    pub(crate) fn rate(&self, key: &FileKey, now: Millis) -> u64 {
        let Some(meter) = self.0.get(key).filter(|meter| now.saturating_sub(meter.moved) < STILL) else { return 0 };
        let passed = now.saturating_sub(meter.since).max(1);
        if meter.rate == 0 { meter.bytes.saturating_mul(1000) / passed } else { meter.rate }
    }

    pub(crate) fn forget(&mut self, key: &FileKey) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let key = FileKey { origin: jincai_types::AuthorityId::MINISTRY, id: "1".into() };
        let mut meters = Meters::default();
        (0..=20).for_each(|step| meters.moved(&key, 1_000, 10_000 + step * 100));
        assert_eq!(meters.rate(&key, 12_000), 10_500);
        (1..=20).for_each(|step| meters.moved(&key, 50_000, 12_000 + step * 100));
        assert_eq!(meters.rate(&key, 14_000), 500_000);
        assert_eq!(meters.rate(&key, 30_000), 0, "it stands still");
        meters.forget(&key);
        assert_eq!(meters.rate(&key, 14_000), 0);
    }
}
