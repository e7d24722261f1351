//! Importing a CSV file as a code set: a new snapshot in which that set is exactly what the file says.

use crate::compare::{Summary, differences};
use crate::model::{EntryRef, check_id, check_name};
use crate::snapshot::{Cursor, SnapshotWriter};
use crate::table::Table;
use crate::{Error, Snapshot, Written};
use jincai_journal::Blobs;
use jincai_types::Digest;
use serde::Serialize;
use std::io::Read;

/// What an import did to the draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Rows of the file.
    pub rows: u64,
    /// What differs from the draft before, or from the current release if there was none.
    pub summary: Summary,
    /// The draft's root.
    pub root: Digest,
    /// The draft's codes, all code sets together.
    pub count: u64,
}

/// Replaces code set `set` of `base` by the rows of a CSV file, writes the result to `blobs` and leaves `base` as it is.
pub fn import(
    base: &Snapshot,
    set: &str,
    name: &str,
    rows: &mut dyn Read,
    blobs: &dyn Blobs,
) -> Result<(Written, ImportReport), Error> {
    check_id("set", set)?;
    check_name(name)?;
    let table = Table::read(rows)?;
    let mut writer = SnapshotWriter::new(blobs)?;
    let mut cursor = Cursor::new(base);
    cursor.copy_untouched(Some((set, "")), &mut writer)?;
    while let Some(entry) = cursor.peek()?.filter(|entry| entry.set.as_str() < set) {
        writer.push(entry.borrowed())?;
        cursor.take_shown();
    }
    writer.push(EntryRef { set, code: "", name, level: "", parent: "" })?;
    for entry in table.entries(set) {
        writer.push(entry)?;
    }
    while let Some(entry) = cursor.peek()? {
        if entry.set != set {
            writer.push(entry.borrowed())?;
        }
        cursor.take_shown();
    }
    let rows = table.len();
    drop(table);
    let written = writer.finish()?;
    let new = Snapshot::open(blobs.open(&written.blob)?)?;
    let mut summary = Summary::default();
    for difference in differences(base, &new) {
        summary.count(&difference?);
    }
    Ok((written, ImportReport { rows, summary, root: written.root, count: written.count }))
}

/// Reads a CSV file into a snapshot of one code set, to compare it with another one.
pub fn snapshot_of_csv(set: &str, rows: &mut dyn Read, blobs: &dyn Blobs) -> Result<Snapshot, Error> {
    let (written, _) = import(&Snapshot::empty(), set, set, rows, blobs)?;
    Snapshot::open(blobs.open(&written.blob)?)
}
