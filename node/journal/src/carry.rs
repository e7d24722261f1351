//! Carry files: single records, by number, that outlive the segments they were written to.
//!
//! A carry file is an immutable file of the store, so its digest names it. It is never hashed as a whole when a journal is
//! opened: the footer and the index have checksums, and so has every record, which is checked on each read.
//!
//! ```text
//! header (16)    0 magic "JCCARRY1"   8 version u16   10 zero [6]
//! record (20)    0 number u64   8 length u32   12 kind u16   14 zero u16   16 CRC-32C of 0..16 and payload, then the payload
//! index          count × (number u64, offset of the record in the file u64), numbers ascending
//! footer (40)    0 magic "JCCARRYX"   8 CRC-32C of 12..40   12 version u16   14 zero u16   16 count u64
//!               24 offset of the index u64   32 CRC-32C of the index   36 zero u32
//! ```
//!
//! Integers are little-endian. Limits: 2^24 records, so that an index takes at most 256 MiB of memory; 64 GiB.

use crate::base::open;
use crate::{Blob, Blobs, Error, Log, RECORD_BYTES_MAX, Stored};
use jincai_types::{Digest, RecordNumber};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most records of one file.
const RECORDS_MAX: u64 = 1 << 24;
/// Longest file, in bytes.
pub(crate) const CARRY_BYTES_MAX: u64 = 64 << 30;
const HEADER_BYTES: u64 = 16;
const RECORD_HEADER: usize = 20;
const INDEX_ENTRY: usize = 16;
const FOOTER_BYTES: usize = 40;
const VERSION: u16 = 1;
const HEADER_MAGIC: [u8; 8] = *b"JCCARRY1";
const FOOTER_MAGIC: [u8; 8] = *b"JCCARRYX";

/// Writes the records of these numbers, which ascend, into one file; `None` if there are none.
pub fn write_carried(
    blobs: &dyn Blobs,
    log: &dyn Log,
    numbers: &mut dyn Iterator<Item = RecordNumber>,
) -> Result<Option<Digest>, Error> {
    let mut numbers = numbers.peekable();
    if numbers.peek().is_none() {
        return Ok(None);
    }
    let mut writer = blobs.create()?;
    writer.write(&HEADER_MAGIC)?;
    writer.write(&VERSION.to_le_bytes())?;
    writer.write(&[0; 6])?;
    let mut index = Vec::new();
    let mut last = 0;
    for number in numbers {
        assert!(number > last, "the numbers of a carry file ascend");
        last = number;
        index.extend(number.to_le_bytes());
        index.extend(writer.position().to_le_bytes());
        let stored = log.read(number)?;
        let header = record_header(&stored);
        writer.write(&header)?;
        writer.write(&stored.payload)?;
        check_limits((index.len() / INDEX_ENTRY) as u64, writer.position())?;
    }
    let at = writer.position();
    writer.write(&index)?;
    writer.write(&footer((index.len() / INDEX_ENTRY) as u64, at, crc32c::crc32c(&index)))?;
    writer.finish().map(Some)
}

/// Removes the carry files that are not among `named`: those of a base that was prepared and, because the node was killed,
/// never handed over. On a full disk theirs may be the only room for a start. The store is this journal's alone.
pub(crate) fn remove_unnamed(blobs: &dyn Blobs, named: &BTreeSet<Digest>) -> Result<(), Error> {
    for digest in blobs.list()? {
        if !named.contains(&digest) && blobs.open(&digest).is_ok_and(|blob| is_carry_file(&*blob)) {
            blobs.remove(&digest)?;
        }
    }
    Ok(())
}

/// Whether a file of the store begins as a carry file; nothing else that is kept there does.
fn is_carry_file(blob: &dyn Blob) -> bool {
    let mut magic = [0; 8];
    // One that cannot be read is none that may be removed.
    blob.len() >= HEADER_BYTES && blob.read_at(0, &mut magic).is_ok() && magic == HEADER_MAGIC
}

fn check_limits(count: u64, bytes: u64) -> Result<(), Error> {
    if count > RECORDS_MAX {
        return Err(Error::TooLarge { what: "the number of records in a carry file", size: count, limit: RECORDS_MAX });
    }
    if bytes > CARRY_BYTES_MAX {
        return Err(Error::TooLarge { what: "a carry file", size: bytes, limit: CARRY_BYTES_MAX });
    }
    Ok(())
}

fn record_header(stored: &Stored) -> [u8; RECORD_HEADER] {
    let mut header = [0; RECORD_HEADER];
    let length = u32::try_from(stored.payload.len()).expect("a payload is at most 2 MiB");
    header[..8].copy_from_slice(&stored.number.to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12..14].copy_from_slice(&stored.kind.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..16]), &stored.payload);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn footer(count: u64, index: u64, crc: u32) -> [u8; FOOTER_BYTES] {
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&FOOTER_MAGIC);
    footer[12..14].copy_from_slice(&VERSION.to_le_bytes());
    footer[16..24].copy_from_slice(&count.to_le_bytes());
    footer[24..32].copy_from_slice(&index.to_le_bytes());
    footer[32..36].copy_from_slice(&crc.to_le_bytes());
    let own = crc32c::crc32c(&footer[12..]);
    footer[8..12].copy_from_slice(&own.to_le_bytes());
    footer
}

/// A carry file that can be read.
pub(crate) struct CarryFile {
    digest: Digest,
    blob: Arc<dyn Blob>,
    /// Numbers and offsets, ascending.
    index: Vec<(RecordNumber, u64)>,
    /// Where the records end.
    end: u64,
}

impl CarryFile {
    /// Opens it, and checks footer and index.
    pub(crate) fn open(blobs: &dyn Blobs, digest: &Digest) -> Result<Self, Error> {
        let blob = open(blobs, digest)?;
        let damaged = |reason| Error::BlobDamaged { digest: *digest, reason };
        let (count, at, crc) = read_footer(&*blob).ok_or_else(|| damaged("has no whole footer"))?;
        let bytes = usize::try_from(count).expect("at most 2^24") * INDEX_ENTRY;
        let fits = at >= HEADER_BYTES && at.checked_add((bytes + FOOTER_BYTES) as u64) == Some(blob.len());
        let mut index = vec![0; if fits { bytes } else { 0 }];
        if !fits || blob.read_at(at, &mut index).is_err() || crc32c::crc32c(&index) != crc {
            return Err(damaged("has no whole index"));
        }
        let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let index: Vec<_> =
            index.as_chunks::<8>().0.as_chunks::<2>().0.iter().map(|[n, o]| (number(n), number(o))).collect();
        let ascends = index.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let within = index.first().is_some_and(|first| first.1 == HEADER_BYTES) && index.iter().all(|i| i.1 < at);
        if !ascends || !within {
            return Err(damaged("has no whole index"));
        }
        Ok(Self { digest: *digest, blob, index, end: at })
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// The numbers of its records, ascending.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = RecordNumber> {
        self.index.iter().map(|(number, _)| *number)
    }

    /// Bytes of all its records.
    pub(crate) fn bytes(&self) -> u64 {
        self.end - HEADER_BYTES
    }

    /// Bytes of those of its records that are live.
    pub(crate) fn bytes_of(&self, live: &BTreeSet<RecordNumber>) -> u64 {
        let live = self.index.iter().enumerate().filter(|(_, (number, _))| live.contains(number));
        live.map(|(at, (_, offset))| self.next(at) - offset).sum()
    }

    /// Where the record after the one at this place of the index begins.
    fn next(&self, at: usize) -> u64 {
        self.index.get(at + 1).map_or(self.end, |(_, offset)| *offset)
    }

    /// The record of this number, checked; `None` if it is not here.
    pub(crate) fn read(&self, number: RecordNumber) -> Result<Option<Stored>, Error> {
        let Ok(at) = self.index.binary_search_by_key(&number, |(number, _)| *number) else { return Ok(None) };
        let damaged = || Error::BlobDamaged { digest: self.digest, reason: "holds a record that is damaged" };
        let bytes = usize::try_from(self.next(at) - self.index[at].1).unwrap_or(usize::MAX);
        if !(RECORD_HEADER..=RECORD_HEADER + RECORD_BYTES_MAX).contains(&bytes) {
            return Err(damaged());
        }
        let mut record = vec![0; bytes];
        self.blob.read_at(self.index[at].1, &mut record)?;
        let kind = u16::from_le_bytes([record[12], record[13]]);
        let mut payload = bytes::Bytes::from(record);
        let header = payload.split_to(RECORD_HEADER);
        let stored = Stored { number, kind, payload };
        if header[..] == record_header(&stored) { Ok(Some(stored)) } else { Err(damaged()) }
    }
}

/// Count, offset and checksum of the index.
fn read_footer(blob: &dyn Blob) -> Option<(u64, u64, u32)> {
    let mut bytes = [0; FOOTER_BYTES];
    blob.read_at(blob.len().checked_sub(FOOTER_BYTES as u64)?, &mut bytes).ok()?;
    let mut magic = [0; 8];
    blob.read_at(0, &mut magic).ok()?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let crc = u32::from_le_bytes(std::array::from_fn(|i| bytes[32 + i]));
    let found = (number(16), number(24), crc);
    let whole = magic == HEADER_MAGIC && footer(found.0, found.1, found.2) == bytes && found.0 <= RECORDS_MAX;
    whole.then_some(found)
}

/// The carry files of a base.
#[derive(Clone, Default)]
pub(crate) struct Carried(Arc<Vec<CarryFile>>);

impl Carried {
    /// Opens all of them.
    pub(crate) fn open(blobs: &dyn Blobs, digests: &[Digest]) -> Result<Self, Error> {
        digests.iter().map(|digest| CarryFile::open(blobs, digest)).collect::<Result<_, _>>().map(Arc::new).map(Self)
    }

    /// All files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &CarryFile> {
        self.0.iter()
    }

    /// The record of this number, if one of them has it.
    pub(crate) fn read(&self, number: RecordNumber) -> Result<Option<Stored>, Error> {
        for file in self.files() {
            if let Some(stored) = file.read(number)? {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }
}
