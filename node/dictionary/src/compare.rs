//! What differs between two snapshots: a stream for machines, counts and lists for people.
//!
//! Both snapshots are merged in order, and pages that both have are passed unread. Names are no keys: a code that vanished
//! and one that appeared with the same name stay a removal and an addition.

use crate::snapshot::Cursor;
use crate::{Entry, Error, Operation, Snapshot};
use minicbor::{Decode, Encode};
use serde::Serialize;
use std::cmp::Ordering;

/// One entry that is not the same in both snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the new snapshot has it.
    Added(Entry),
    /// Only the old snapshot has it.
    Removed(Entry),
    /// Both have it, with another name, level or parent.
    Changed {
        /// As the old snapshot has it.
        before: Entry,
        /// As the new snapshot has it.
        after: Entry,
    },
}

impl Difference {
    /// The operation that makes the new entry of the old one.
    #[must_use]
    pub fn into_operation(self) -> Operation {
        match self {
            Self::Added(entry) => Operation::Add(entry),
            Self::Removed(entry) => Operation::Remove { set: entry.set, code: entry.code },
            Self::Changed { after, .. } => Operation::Change(after),
        }
    }
}

/// The differences in order of (set, code). After an error there is nothing more.
pub struct Differences<'s> {
    old: Cursor<'s>,
    new: Cursor<'s>,
    failed: bool,
}

/// Compares two snapshots; memory holds a page of each.
#[must_use]
pub fn differences<'s>(old: &'s Snapshot, new: &'s Snapshot) -> Differences<'s> {
    Differences { old: Cursor::new(old), new: Cursor::new(new), failed: false }
}

impl Differences<'_> {
    fn step(&mut self) -> Result<Option<Difference>, Error> {
        loop {
            self.old.skip_common(&mut self.new);
            let order = match (self.old.peek()?, self.new.peek()?) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.key().cmp(&new.key()),
            };
            let old = if order.is_le() { self.old.take_shown() } else { None };
            let new = if order.is_ge() { self.new.take_shown() } else { None };
            match (old, new) {
                (Some(before), Some(after)) if before == after => {}
                (Some(before), Some(after)) => return Ok(Some(Difference::Changed { before, after })),
                (Some(entry), None) => return Ok(Some(Difference::Removed(entry))),
                (None, Some(entry)) => return Ok(Some(Difference::Added(entry))),
                (None, None) => return Ok(None),
            }
        }
    }
}

impl Iterator for Differences<'_> {
    type Item = Result<Difference, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// How many codes differ, and how. Code sets themselves are not counted; a code that was both renamed and re-parented
/// counts as both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Summary {
    /// Codes that appeared.
    #[n(0)]
    pub added: u64,
    /// Codes that vanished.
    #[n(1)]
    pub removed: u64,
    /// Codes with another name.
    #[n(2)]
    pub renamed: u64,
    /// Codes below another parent.
    #[n(3)]
    pub reparented: u64,
    /// Codes that succession mappings merge; 0 without mappings.
    #[n(4)]
    pub merged: u64,
    /// Codes that succession mappings split; 0 without mappings.
    #[n(5)]
    pub split: u64,
    /// Codes with another name, level or parent, each counted once.
    #[n(6)]
    #[serde(skip)]
    pub changed: u64,
}

impl Summary {
    /// Counts one difference.
    pub fn count(&mut self, difference: &Difference) {
        match difference {
            Difference::Added(entry) => self.added += u64::from(!entry.is_set()),
            Difference::Removed(entry) => self.removed += u64::from(!entry.is_set()),
            Difference::Changed { before, after } if !after.is_set() => {
                self.changed += 1;
                self.renamed += u64::from(before.name != after.name);
                self.reparented += u64::from(before.parent != after.parent);
            }
            Difference::Changed { .. } => {}
        }
    }
}

/// A code whose name or parent is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The code set.
    pub set: String,
    /// The code.
    pub code: String,
    /// As it was.
    pub from: String,
    /// As it is.
    pub to: String,
}

/// Counts and lists of what differs; its JSON form is that of `jincai dict diff --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The counts.
    pub summary: Summary,
    /// Codes that appeared.
    pub added: Vec<Entry>,
    /// Codes that vanished.
    pub removed: Vec<Entry>,
    /// Codes with another name.
    pub renamed: Vec<Move>,
    /// Codes below another parent.
    pub reparented: Vec<Move>,
}

/// Compares two snapshots and collects what differs between their codes.
pub fn compare(old: &Snapshot, new: &Snapshot) -> Result<Comparison, Error> {
    let mut out = Comparison::default();
    for difference in differences(old, new) {
        let difference = difference?;
        out.summary.count(&difference);
        match difference {
            Difference::Added(entry) if !entry.is_set() => out.added.push(entry),
            Difference::Removed(entry) if !entry.is_set() => out.removed.push(entry),
            Difference::Changed { before, after } if !after.is_set() => {
                let Entry { set, code, .. } = after;
                let moved = |from, to| Move { set: set.clone(), code: code.clone(), from, to };
                if before.name != after.name {
                    out.renamed.push(moved(before.name, after.name));
                }
                if before.parent != after.parent {
                    out.reparented.push(moved(before.parent, after.parent));
                }
            }
            Difference::Added(_) | Difference::Removed(_) | Difference::Changed { .. } => {}
        }
    }
    Ok(out)
}
