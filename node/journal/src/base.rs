//! A base: the snapshot that replaces every record up to a number, and the files that carry the few still needed.
//!
//! The journal knows neither what a snapshot means nor which records are still needed: its owner says so. A base is
//! prepared on any thread ([`prepare_base`]), every file of it read back, and then handed to the engine, which makes it
//! durable before it removes anything. Invariant: a record up to *through* is in the snapshot's state, and by number in a
//! segment that stays or in a carry file, or its owner has said that nobody needs its number again.

use crate::carry::{Carried, CarryFile, write_carried};
use crate::{Blob, Blobs, Error, Reader};
use jincai_types::{Digest, RecordNumber};
use ring::digest::{Context, SHA256};
use std::collections::BTreeSet;

/// Most carry files of a base.
pub(crate) const CARRIED_MAX: usize = 16;
/// Largest snapshot, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// Files are hashed in pieces of this many bytes.
const PIECE_BYTES: usize = 256 << 10;

/// What replaces the records up to a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The last record that the snapshot covers.
    pub through: RecordNumber,
    /// The file that holds the owner's state as of that record.
    pub snapshot: Digest,
    /// The files that hold single records up to it that are still needed by number.
    pub carried: Vec<Digest>,
}

impl Base {
    /// Every file that it names.
    #[must_use]
    pub fn files(&self) -> BTreeSet<Digest> {
        self.carried.iter().copied().chain([self.snapshot]).collect()
    }
}

/// Writes the snapshot and a carry file for a base up to `through`, reads both back, and returns the base.
///
/// `live` are the records up to `through` that must still be found by number. One that lies in a carry file of the base
/// before stays there while at least half of that file's bytes are live and there are not too many files; else it is
/// written again. Nothing else may remove files of the store or checkpoint meanwhile. What a base that is never handed to
/// the engine has written is the owner's to remove.
pub fn prepare_base(
    reader: &Reader,
    blobs: &dyn Blobs,
    through: RecordNumber,
    snapshot: &[u8],
    live: &BTreeSet<RecordNumber>,
) -> Result<Base, Error> {
    let (mut carried, mut rewritten) = (Vec::new(), live.range(..=through).copied().collect::<BTreeSet<_>>());
    for file in kept(&reader.carried(), live) {
        file.numbers().for_each(|number| {
            rewritten.remove(&number);
        });
        carried.push(file.digest());
    }
    if let Some(digest) = write_carried(blobs, reader, &mut rewritten.into_iter())? {
        check_digest(blobs, &digest)?;
        CarryFile::open(blobs, &digest)?;
        carried.push(digest);
    }
    let mut writer = blobs.create()?;
    writer.write(snapshot)?;
    let base = Base { through, snapshot: writer.finish()?, carried };
    read_snapshot(blobs, &base)?;
    Ok(base)
}

/// The carry files that stay: those at least half of whose bytes are live, the largest of them if there are many.
fn kept<'a>(carried: &'a Carried, live: &BTreeSet<RecordNumber>) -> Vec<&'a CarryFile> {
    let mut kept: Vec<(u64, &CarryFile)> = carried
        .files()
        .map(|file| (file.bytes_of(live), file))
        .filter(|(bytes, file)| *bytes > 0 && bytes * 2 >= file.bytes())
        .collect();
    if kept.len() >= CARRIED_MAX {
        kept.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        kept.truncate(CARRIED_MAX / 2);
    }
    kept.into_iter().map(|(_, file)| file).collect()
}

/// The snapshot of a base; refuses one whose content does not match its digest.
pub fn read_snapshot(blobs: &dyn Blobs, base: &Base) -> Result<Vec<u8>, Error> {
    let blob = open(blobs, &base.snapshot)?;
    let mut bytes = Vec::new();
    hash_blob(&base.snapshot, &*blob, &mut |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// Reads a file of a base and checks its content against its digest.
pub(crate) fn check_digest(blobs: &dyn Blobs, digest: &Digest) -> Result<(), Error> {
    hash_blob(digest, &*open(blobs, digest)?, &mut |_| {})
}

/// Opens a file that a base names: that it is not there is damage.
pub(crate) fn open(blobs: &dyn Blobs, digest: &Digest) -> Result<std::sync::Arc<dyn Blob>, Error> {
    blobs.open(digest).map_err(|error| match error {
        Error::NoBlob { digest } => Error::BlobDamaged { digest, reason: "is missing" },
        other => other,
    })
}

fn hash_blob(digest: &Digest, blob: &dyn Blob, each: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
    if blob.len() > SNAPSHOT_BYTES_MAX.max(crate::carry::CARRY_BYTES_MAX) {
        return Err(Error::TooLarge { what: "a file of a base", size: blob.len(), limit: SNAPSHOT_BYTES_MAX });
    }
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < blob.len() {
        let piece = usize::try_from(blob.len() - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let damaged = |_| Error::BlobDamaged { digest: *digest, reason: "cannot be read" };
        blob.read_at(offset, &mut buffer[..piece]).map_err(damaged)?;
        context.update(&buffer[..piece]);
        each(&buffer[..piece]);
        offset += piece as u64;
    }
    let whole = context.finish().as_ref() == digest.0;
    if whole { Ok(()) } else { Err(Error::BlobDamaged { digest: *digest, reason: "does not match its digest" }) }
}

/// How many of the oldest segments a base makes needless, given each segment's number and first record: those before the
/// last one that begins at or before the record after the base, but never the base's own.
pub(crate) fn superseded(segments: &[(u64, RecordNumber)], base_segment: u64, through: RecordNumber) -> usize {
    let needed = segments.iter().rposition(|(_, first)| *first <= through + 1).unwrap_or(0);
    let own = segments.iter().position(|(segment, _)| *segment >= base_segment).unwrap_or(0);
    needed.min(own)
}

/// A base and its carry files, opened.
pub(crate) struct Opened {
    pub(crate) base: Base,
    pub(crate) carried: Carried,
}

impl Opened {
    /// Opens the files of a base, and checks all but the content of the carry files.
    pub(crate) fn open(blobs: &dyn Blobs, base: Base) -> Result<Self, Error> {
        let carried = Carried::open(blobs, &base.carried)?;
        check_digest(blobs, &base.snapshot)?;
        Ok(Self { base, carried })
    }
}

/// Refuses a base that the journal cannot take.
pub(crate) fn check_range(base: &Base, before: Option<&Base>, durable: RecordNumber) -> Result<(), Error> {
    let refuse = |reason| Err(Error::BaseRefused { through: base.through, reason });
    if base.through > durable {
        return refuse("it covers records that are not durable");
    }
    if before.is_some_and(|before| before.through > base.through) {
        return refuse("a later one is in place");
    }
    if base.carried.len() > CARRIED_MAX {
        return refuse("it names too many carry files");
    }
    Ok(())
}
