//! Checks a journal without writing: `jincai journal verify`.
//!
//! It reads every byte that counts, those of the newest base's files too, and follows the chain from its beginning to its end, going on behind damage. It
//! refuses to judge what lies past the durable mark: that is recovery's to keep or to cut.

use crate::base::check_digest;
use crate::carry::CarryFile;
use crate::survey::survey;
use crate::{Base, Blobs, Cut, Disk, Error, Quarantine};
use jincai_types::{Digest, RecordNumber};

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
    /// Damage to records that the base covers, the first 100.
    pub covered: Vec<Quarantine>,
    /// The newest base.
    pub base: Option<Base>,
    /// Records in its carry files.
    pub carried: u64,
    /// How many files of the base were read and match their digests.
    pub files: u64,
    /// Those that are missing or do not match.
    pub damaged_files: Vec<Digest>,
}

/// Checks the journal on a disk, and the files that its newest base names.
pub fn verify(disk: &dyn Disk, blobs: &dyn Blobs) -> Result<VerifyReport, Error> {
    let found = survey(disk)?;
    let base = found.base.map(|found| found.base);
    let (mut carried, mut files, mut damaged_files) = (0, 0, Vec::new());
    for digest in base.iter().flat_map(Base::files) {
        let is_carry = base.as_ref().is_some_and(|base| base.carried.contains(&digest));
        let checked = check_digest(blobs, &digest).and_then(|()| {
            if is_carry { CarryFile::open(blobs, &digest).map(|file| file.numbers().count() as u64) } else { Ok(0) }
        });
        match checked {
            Ok(records) => (carried, files) = (carried + records, files + 1),
            Err(Error::BlobDamaged { .. }) => damaged_files.push(digest),
            Err(error) => return Err(error),
        }
    }
    Ok(VerifyReport {
        segments: found.live.len() as u64,
        commits: found.commits,
        records: found.records,
        bytes: found.bytes,
        last: found.whole.record,
        chain_whole: found.damages.is_empty(),
        clean: found.clean,
        cut: found.cut,
        damage: found.damages,
        covered: found.covered,
        base,
        carried,
        files,
        damaged_files,
    })
}
