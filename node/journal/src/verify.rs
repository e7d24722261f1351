//! Checks a journal without writing: `jincai journal verify`.
//!
//! It reads every byte that counts, and follows the chain from its beginning to its end, going on behind damage. It
//! refuses to judge what lies past the durable mark: that is recovery's to keep or to cut.

use crate::survey::survey;
use crate::{Cut, Disk, Error, Quarantine};
use jincai_types::RecordNumber;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segments that count.
    pub segments: u64,
    /// Whole commits, marks included.
    pub commits: u64,
    /// Records in whole commits.
    pub records: u64,
    /// Bytes of whole commits on disk.
    pub bytes: u64,
    /// The last record before any damage.
    pub last: RecordNumber,
    /// Whether the chain of hashes is whole up to the durable mark.
    pub chain_whole: bool,
    /// The last run ended with a closing mark.
    pub clean: bool,
    /// What recovery would cut.
    pub cut: Cut,
    /// Damage below the durable mark, in order, the first 100.
    pub damage: Vec<Quarantine>,
}

/// Checks the journal on a disk.
pub fn verify(disk: &dyn Disk) -> Result<VerifyReport, Error> {
    let found = survey(disk)?;
    let damage = found.damages();
    Ok(VerifyReport {
        segments: found.live.len() as u64,
        commits: found.commits,
        records: found.records,
        bytes: found.bytes,
        last: found.whole.record,
        chain_whole: damage.is_empty(),
        clean: found.clean(),
        cut: found.cut(),
        damage,
    })
}
