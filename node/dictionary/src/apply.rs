//! Applying operations to a snapshot, which gives a new snapshot; the old one stays as it is.
//!
//! One pass, a page in memory; pages that no operation touches are copied without being read into entries. It refuses
//! operations out of order and those that do not fit, and then nothing is left behind.

use crate::snapshot::{Cursor, SnapshotWriter};
use crate::{Entry, Error, Operation, Snapshot, Written};
use jincai_journal::Blobs;
use jincai_types::Digest;
use std::cmp::Ordering;

/// From which snapshot to which one operations lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Root of the snapshot that they were made for.
    pub base: Digest,
    /// Root of the snapshot that they must give.
    pub root: Digest,
    /// How many codes that one holds.
    pub count: u64,
}

/// Applies operations to `old` and writes the result to `blobs`, if it is what `step` promises.
pub fn apply(
    old: &Snapshot,
    step: &Step,
    operations: impl Iterator<Item = Result<Operation, Error>>,
    blobs: &dyn Blobs,
) -> Result<Written, Error> {
    if step.base != old.root() {
        return Err(Error::WrongBase { named: step.base, held: old.root() });
    }
    let mut operations = Ascending { operations, last: None };
    let mut cursor = Cursor::new(old);
    let mut writer = SnapshotWriter::new(blobs)?;
    let mut next = operations.next()?;
    loop {
        cursor.copy_untouched(next.as_ref().map(Operation::key), &mut writer)?;
        let held = cursor.peek()?;
        let order = match (&held, &next) {
            (None, None) => return finish(writer, step),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(entry), Some(operation)) => entry.key().cmp(&operation.key()),
        };
        let held = if order.is_le() { cursor.take_shown() } else { None };
        let operation = if order.is_ge() { std::mem::replace(&mut next, operations.next()?) } else { None };
        if let Some(entry) = outcome(held, operation)? {
            writer.push(entry.borrowed())?;
        }
    }
}

fn finish(mut writer: SnapshotWriter, step: &Step) -> Result<Written, Error> {
    let (made, made_count) = writer.root()?;
    if (made, made_count) == (step.root, step.count) {
        return writer.finish();
    }
    Err(Error::WrongResult { promised: step.root, promised_count: step.count, made, made_count })
}

/// What becomes of an entry that may be held under an operation that may name it.
fn outcome(held: Option<Entry>, operation: Option<Operation>) -> Result<Option<Entry>, Error> {
    let refuse = |operation: &Operation, reason| {
        let (set, code) = operation.key();
        Err(Error::Operation { set: set.into(), code: code.into(), reason })
    };
    match (held, operation) {
        (held, None) => Ok(held),
        (Some(_), Some(operation @ Operation::Add(_))) => refuse(&operation, "it is to be added but is there"),
        (Some(held), Some(Operation::Change(entry))) if held == entry => {
            refuse(&Operation::Change(entry), "it is to be changed but stays the same")
        }
        (Some(_), Some(Operation::Change(entry))) | (None, Some(Operation::Add(entry))) => Ok(Some(entry)),
        (Some(_), Some(Operation::Remove { .. })) => Ok(None),
        (None, Some(operation)) => refuse(&operation, "it is to be changed or removed but is not there"),
    }
}

/// Hands out operations and refuses one that does not come after the one before.
struct Ascending<I> {
    operations: I,
    last: Option<(String, String)>,
}

impl<I: Iterator<Item = Result<Operation, Error>>> Ascending<I> {
    fn next(&mut self) -> Result<Option<Operation>, Error> {
        let Some(operation) = self.operations.next().transpose()? else {
            return Ok(None);
        };
        let (set, code) = operation.key();
        if self.last.as_ref().is_some_and(|last| (last.0.as_str(), last.1.as_str()) >= (set, code)) {
            return Err(Error::Delta { reason: "its operations are not in ascending order" });
        }
        self.last = Some((set.into(), code.into()));
        Ok(Some(operation))
    }
}
