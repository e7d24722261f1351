//! The guard against an empty or strongly shrunken release.
//!
//! A registry that publishes an empty list by mistake takes everybody down with it. So operations that remove more than
//! 30 % of a code set of more than 1,000 codes, or leave a code set without any, pass only if the release states a reason.
//! The issuer checks when it makes the release, every receiver checks again before it writes anything.

use crate::{Error, Operation, Snapshot};
use std::collections::BTreeMap;

/// Code sets up to this many codes may shrink freely, unless they end up empty.
const SMALL_SET: u64 = 1000;

/// Hands operations through and ends with an error if together they shrink a set of `old` too much.
pub(crate) struct ShrinkGuard<'s, I> {
    operations: I,
    old: &'s Snapshot,
    /// Per code set: codes added, codes removed. `None` once checked, or if a reason was given.
    counts: Option<BTreeMap<String, (u64, u64)>>,
}

impl<'s, I> ShrinkGuard<'s, I> {
    pub(crate) fn new(old: &'s Snapshot, reason: Option<&str>, operations: I) -> Self {
        Self { operations, old, counts: reason.is_none().then(BTreeMap::new) }
    }
}

impl<I: Iterator<Item = Result<Operation, Error>>> Iterator for ShrinkGuard<'_, I> {
    type Item = Result<Operation, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(operation) = self.operations.next() else {
            let counts = self.counts.take()?;
            return check(self.old, &counts).err().map(Err);
        };
        if let (Some(counts), Ok(operation)) = (&mut self.counts, &operation) {
            count(counts, operation);
        }
        Some(operation)
    }
}

fn count(counts: &mut BTreeMap<String, (u64, u64)>, operation: &Operation) {
    let (set, code) = operation.key();
    if code.is_empty() {
        return;
    }
    if !counts.contains_key(set) {
        counts.insert(set.into(), (0, 0));
    }
    if let Some((added, removed)) = counts.get_mut(set) {
        match operation {
            Operation::Add(_) => *added += 1,
            Operation::Remove { .. } => *removed += 1,
            Operation::Change(_) => {}
        }
    }
}

fn check(old: &Snapshot, counts: &BTreeMap<String, (u64, u64)>) -> Result<(), Error> {
    for (set, (added, removed)) in counts {
        // More codes than these, and the removal is below 30 %: no need to count on.
        let enough = removed.saturating_mul(10) / 3 + 1;
        let mut held = 0;
        for entry in old.entries_of(set) {
            held += u64::from(!entry?.is_set());
            if held > enough {
                break;
            }
        }
        let strongly = held > SMALL_SET && removed * 10 > held * 3;
        let emptied = *added == 0 && *removed > 0 && *removed >= held;
        if strongly || emptied {
            return Err(Error::Shrinks { set: set.clone(), held, removed: *removed });
        }
    }
    Ok(())
}
