//! The bytes of the journal on disk: format version 1.
//!
//! All integers are little-endian. A journal is a directory of segment files, `<number, 16 hexadecimal digits>.segment`,
//! and one file `HEAD`. A segment is a row of 4,096-byte blocks: block 0 holds its header, every later block starts a
//! commit, continues one, or is zero (segments are pre-allocated with zeros, and cut to what lives once replaced).
//!
//! ```text
//! HEAD (32)      0 magic "JCJRHEAD"   8 CRC-32C of 12..32   12 version u16   14 zero u16   16 shard u32   20 zero u32
//!               24 newest segment u64
//!
//! segment (128)  0 magic "JCSEGMNT"   8 CRC-32C of 12..128  12 version u16   14 zero u16   16 shard u32   20 zero u32
//!               24 segment u64       32 salt u64           40 term u64      48 first position u64
//!               56 first record u64  64 durable-to u64     72 hash of the commit before the first [32]   104 zero [24]
//!
//! commit (128)   0 magic "JCCOMMIT"   8 CRC-32C of 12..128
//!      place    12 shard u32         16 segment u64        24 salt u64      32 offset in the file u64
//!               40 durable-to u64
//!      content  48 position u64      56 term u64           64 first record u64
//!               72 record count u32  76 body length u32    80 flags u32 (1 mark, 2 closing, 4 base)
//!               84 time u64          92 zero [4]           96 hash of the commit before [32]
//! body          record count × entry (24), then the payloads back to back, then zeros to the next block
//!      entry     0 number u64    8 offset of the payload u32   12 length u32   16 kind u16   18 zero u16
//!               20 CRC-32C of entry 0..20 and payload
//! base body      0 CRC-32C of the rest   4 through u64   12 snapshot [32]   44 count u32   48 count × carried [32]
//! ```
//!
//! *Position* numbers commits from 1 over the journal's life; *record* numbers records likewise. *Durable-to* is a
//! position: the writer had synced every commit up to it before it wrote this header. A segment's header is written when
//! what the segment began with is synced, voids every commit at or beyond its first position in older segments, and its
//! durable-to covers what recovery copied into it. A mark is a commit without records; a closing mark ends a clean run. A
//! base is one too: it names the snapshot that replaces every record up to *through*. *Time* is the writer's wall clock in
//! milliseconds since 1970; it orders nothing, and serves to restore a point in time.
//!
//! A commit is whole if its header and every record match their checksums, and the header names the file, offset, shard
//! and salt where it was found (so a copied, swapped or recycled file, or a payload that holds a header, is told apart).
//! The *hash* is SHA-256 from the header's byte 48 to the body's end: what the commit says, not where it lies, so that
//! recovery moves commits without breaking the chain that a standby has seen. Term and shard are 0 until mirrors exist.
//!
//! Limits: payload 2 MiB, commit 64 MiB with its header, segment 4 GiB, numbers up to 2^62. Evolution: magic, CRC and version keep their
//! places for ever; zero fields are written as zero and ignored; every other change raises the version, brings a reader
//! of the old bytes, and programs refuse segments of a newer version than they know.

use crate::{Base, Error};
use bytes::Bytes;
use jincai_types::{Digest, Millis, RecordNumber};
use ring::digest::{SHA256, digest};
use std::ops::Range;

/// Largest payload of one record, in bytes.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
/// Largest commit, in bytes: header, entries and payloads. What a submission holds stands in one commit, so it is the limit of that,
/// too; small ones share a commit only up to a part of this.
pub const COMMIT_BYTES_MAX: usize = 64 << 20;

/// Commits start at multiples of this many bytes.
pub(crate) const BLOCK: u64 = 4096;
/// The newest format version that this program reads, and the one it writes.
pub(crate) const VERSION: u16 = 1;
/// Bytes of a segment's or commit's header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of a record's entry.
pub(crate) const ENTRY_BYTES: usize = 24;
/// Name of the file that names the newest segment.
pub(crate) const HEAD: &str = "HEAD";
/// Name of the file that says that the directory was laid by a restore.
pub(crate) const RESTORED: &str = "RESTORED";
/// Bytes of [`HEAD`].
pub(crate) const HEAD_BYTES: usize = 32;

/// Segments, positions and records are never numbered higher, so that whoever counts on from one that was read cannot
/// overflow. What says otherwise is damaged, whatever its checksum says, and a file named so is none of the journal's.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;
/// Bytes of a base's body before the carry files.
const BASE_BYTES: usize = 48;
/// Where a commit header's content begins: from here on it is hashed.
const CONTENT: usize = 48;
/// Where the bytes covered by a header's checksum begin.
const CHECKED: usize = 12;
const HEAD_MAGIC: [u8; 8] = *b"JCJRHEAD";
const SEGMENT_MAGIC: [u8; 8] = *b"JCSEGMNT";
const COMMIT_MAGIC: [u8; 8] = *b"JCCOMMIT";

/// A record to append. Its kind is the caller's; the journal gives it its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub kind: u16,
    /// At most [`RECORD_BYTES_MAX`] bytes.
    pub payload: Bytes,
}

/// A record as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub number: RecordNumber,
    /// What the payload is.
    pub kind: u16,
    /// What was appended. After a replay it shares memory with the other records of its commit.
    pub payload: Bytes,
}

/// The header of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) shard: u32,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) term: u64,
    pub(crate) first_position: u64,
    pub(crate) first_record: RecordNumber,
    pub(crate) durable_to: u64,
    pub(crate) previous: Digest,
}

/// Where a commit lies, and what was durable when it was written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: u32,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) offset: u64,
    pub(crate) durable_to: u64,
}

/// What the last commit of a run of commits means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitKind {
    /// It holds records.
    Records,
    /// It only says how far the journal is durable.
    Mark,
    /// As a mark, and the run ended cleanly.
    Closing,
    /// It names the snapshot that replaces what lies before it.
    Base,
}

/// The header of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) place: Place,
    pub(crate) position: u64,
    pub(crate) term: u64,
    pub(crate) first_record: RecordNumber,
    pub(crate) count: u32,
    pub(crate) body_bytes: u32,
    pub(crate) kind: CommitKind,
    pub(crate) time: Millis,
    pub(crate) previous: Digest,
}

/// What stands before a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: RecordNumber,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) kind: u16,
    crc: u32,
}

/// The bytes of [`HEAD`].
pub(crate) fn encode_head(shard: u32, newest: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    start(&mut out, HEAD_MAGIC);
    put_version_and_shard(&mut out, shard);
    out.extend(newest.to_le_bytes());
    seal(&mut out);
    out
}

/// The newest segment that [`HEAD`] names, or `None` if its bytes are damaged.
pub(crate) fn decode_head(bytes: &[u8; HEAD_BYTES]) -> Result<Option<u64>, Error> {
    let Some(mut fields) = Fields::open(bytes, HEAD_MAGIC) else { return Ok(None) };
    let (version, _shard) = fields.version_and_shard();
    let newest = u64::from_le_bytes(fields.take());
    check_version(newest, version)?;
    Ok((newest <= NUMBER_MAX).then_some(newest))
}

impl SegmentHeader {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        start(&mut out, SEGMENT_MAGIC);
        put_version_and_shard(&mut out, self.shard);
        let numbers = [self.segment, self.salt, self.term, self.first_position, self.first_record, self.durable_to];
        out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        out.extend(self.previous.0);
        out.resize(HEADER_BYTES, 0);
        seal(&mut out);
        out
    }

    /// Reads it back; `None` if the bytes are damaged, an error if a newer program wrote them.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Option<Self>, Error> {
        let Some(mut fields) = Fields::open(bytes, SEGMENT_MAGIC) else { return Ok(None) };
        let (version, shard) = fields.version_and_shard();
        let mut number = || u64::from_le_bytes(fields.take());
        let (segment, salt, term) = (number(), number(), number());
        check_version(segment, version)?;
        let (first_position, first_record, durable_to) = (number(), number(), number());
        let previous = Digest(fields.take());
        let highest = segment.max(first_position).max(first_record).max(durable_to);
        let sane = highest <= NUMBER_MAX && first_position > 0 && first_record > 0 && durable_to >= first_position - 1;
        Ok(sane.then_some(Self { shard, segment, salt, term, first_position, first_record, durable_to, previous }))
    }
}

impl CommitHeader {
    /// Its bytes.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        start(&mut out, COMMIT_MAGIC);
        out.extend(self.place.shard.to_le_bytes());
        let numbers = [
            self.place.segment,
            self.place.salt,
            self.place.offset,
            self.place.durable_to,
            self.position,
            self.term,
            self.first_record,
        ];
        out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        let flags: u32 = match self.kind {
            CommitKind::Records => 0,
            CommitKind::Mark => 1,
            CommitKind::Closing => 3,
            CommitKind::Base => 4,
        };
        out.extend([self.count, self.body_bytes, flags].iter().flat_map(|n| n.to_le_bytes()));
        out.extend(self.time.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.previous.0);
        seal(&mut out);
        out.try_into().expect("the fields above are 128 bytes")
    }

    /// Reads it back; `None` if the bytes are no header or a damaged one.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut fields = Fields::open(bytes, COMMIT_MAGIC)?;
        let shard = u32::from_le_bytes(fields.take());
        let mut number = || u64::from_le_bytes(fields.take());
        let (segment, salt, offset, durable_to) = (number(), number(), number(), number());
        let (position, term, first_record) = (number(), number(), number());
        let mut small = || u32::from_le_bytes(fields.take());
        let (count, body_bytes, flags) = (small(), small(), small());
        let time = u64::from_le_bytes(fields.take());
        let _zero: [u8; 4] = fields.take();
        let previous = Digest(fields.take());
        let kind = match flags {
            0 => CommitKind::Records,
            1 => CommitKind::Mark,
            3 => CommitKind::Closing,
            4 => CommitKind::Base,
            _ => return None,
        };
        let sane = durable_to < position
            && position.max(first_record) <= NUMBER_MAX
            && first_record > 0
            && (kind == CommitKind::Records) == (count > 0)
            && HEADER_BYTES as u64 + u64::from(body_bytes) <= COMMIT_BYTES_MAX as u64
            && u64::from(count) * ENTRY_BYTES as u64 <= u64::from(body_bytes);
        let place = Place { shard, segment, salt, offset, durable_to };
        sane.then_some(Self { place, position, term, first_record, count, body_bytes, kind, time, previous })
    }

    /// Bytes of header and body.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// Bytes of the blocks that it fills.
    pub(crate) fn padded(&self) -> u64 {
        (self.bytes() as u64).next_multiple_of(BLOCK)
    }
}

impl Entry {
    /// Reads an entry.
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        let number = u64::from_le_bytes(fields.take());
        let offset = u32::from_le_bytes(fields.take());
        let length = u32::from_le_bytes(fields.take());
        let kind = u16::from_le_bytes(fields.take());
        let _zero: [u8; 2] = fields.take();
        Self { number, offset, length, kind, crc: u32::from_le_bytes(fields.take()) }
    }

    /// Whether the entry's bytes and the payload match the checksum.
    pub(crate) fn matches(&self, bytes: &[u8; ENTRY_BYTES], payload: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..ENTRY_BYTES - 4]), payload) == self.crc
    }
}

/// Bytes of header and body that a commit of these records has; refuses what is over a limit.
pub(crate) fn commit_bytes(records: &[Record]) -> Result<usize, Error> {
    let mut bytes = HEADER_BYTES;
    for record in records {
        let size = record.payload.len();
        if size > RECORD_BYTES_MAX {
            return Err(Error::TooLarge { what: "a record", size: size as u64, limit: RECORD_BYTES_MAX as u64 });
        }
        bytes = bytes.saturating_add(ENTRY_BYTES + size);
    }
    if bytes > COMMIT_BYTES_MAX {
        return Err(Error::TooLarge { what: "a commit", size: bytes as u64, limit: COMMIT_BYTES_MAX as u64 });
    }
    Ok(bytes)
}

/// Appends a whole commit, padded to a block, to `out`, and returns its hash. `header`'s count and body length are those
/// of `records`, which passed [`commit_bytes`].
pub(crate) fn encode_commit(out: &mut Vec<u8>, header: &CommitHeader, records: &[Record]) -> Digest {
    let start = out.len();
    out.reserve(usize::try_from(header.padded()).expect("a commit is at most 64 MiB"));
    out.extend(header.encode());
    let mut offset = 0u32;
    for (number, record) in (header.first_record..).zip(records) {
        let length = u32::try_from(record.payload.len()).expect("a payload is at most 2 MiB");
        let at = out.len();
        out.extend(number.to_le_bytes());
        out.extend(offset.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(record.kind.to_le_bytes());
        out.extend([0; 2]);
        out.extend(crc32c::crc32c_append(crc32c::crc32c(&out[at..]), &record.payload).to_le_bytes());
        offset += length;
    }
    for record in records {
        out.extend_from_slice(&record.payload);
    }
    end_commit(out, start)
}

/// Pads the commit that begins at `start`, and returns its hash.
fn end_commit(out: &mut Vec<u8>, start: usize) -> Digest {
    let hash = hash(&out[start..]);
    let length = (out.len() - start).next_multiple_of(BLOCK as usize);
    out.resize(start + length, 0);
    hash
}

/// Appends a whole commit that holds a base, as [`encode_commit`] does. The header's body length is [`base_bytes`] long.
pub(crate) fn encode_base(out: &mut Vec<u8>, header: &CommitHeader, base: &Base) -> Digest {
    let start = out.len();
    out.extend(header.encode());
    let body = out.len();
    out.extend([0; 4]);
    out.extend(base.through.to_le_bytes());
    out.extend(base.snapshot.0);
    out.extend(u32::try_from(base.carried.len()).expect("the engine has checked the limit").to_le_bytes());
    base.carried.iter().for_each(|digest| out.extend(digest.0));
    let crc = crc32c::crc32c(&out[body + 4..]).to_le_bytes();
    out[body..body + 4].copy_from_slice(&crc);
    end_commit(out, start)
}

/// Bytes of the body of a commit that holds this base.
pub(crate) fn base_bytes(base: &Base) -> usize {
    BASE_BYTES + base.carried.len() * size_of::<Digest>()
}

/// The base in a body; `None` if it is not whole.
pub(crate) fn decode_base(body: &[u8]) -> Option<Base> {
    let (crc, rest) = body.split_first_chunk()?;
    let (fixed, carried) = rest.split_first_chunk::<{ BASE_BYTES - 4 }>()?;
    let mut fields = Fields(fixed);
    let through = u64::from_le_bytes(fields.take());
    let snapshot = Digest(fields.take());
    let count = u32::from_le_bytes(fields.take()) as usize;
    let (carried, left) = carried.as_chunks::<32>();
    let whole = u32::from_le_bytes(*crc) == crc32c::crc32c(rest) && carried.len() == count && left.is_empty();
    let whole = whole && through <= NUMBER_MAX;
    whole.then(|| Base { through, snapshot, carried: carried.iter().copied().map(Digest).collect() })
}

/// The hash of a commit, from its header and body without the padding.
pub(crate) fn hash(commit: &[u8]) -> Digest {
    let digest = digest(&SHA256, &commit[CONTENT..]);
    Digest(digest.as_ref().try_into().expect("SHA-256 is 32 bytes"))
}

/// The records of a body and where their payloads lie in it; `None` unless every one is in its place and whole.
pub(crate) fn decode_body(header: &CommitHeader, body: &[u8]) -> Option<Vec<(Entry, Range<usize>)>> {
    let (entries, payloads) = body.split_at_checked(header.count as usize * ENTRY_BYTES)?;
    let mut records = Vec::with_capacity(header.count as usize);
    let (mut number, mut end) = (header.first_record, 0usize);
    for bytes in entries.as_chunks::<ENTRY_BYTES>().0 {
        let entry = Entry::decode(bytes);
        let start = entry.offset as usize;
        let next = start.checked_add(entry.length as usize)?;
        let payload = payloads.get(start..next)?;
        if entry.number != number || start != end || !entry.matches(bytes, payload) {
            return None;
        }
        records.push((entry, entries.len() + start..entries.len() + next));
        number = number.checked_add(1)?;
        end = next;
    }
    (end == payloads.len()).then_some(records)
}

/// The name of a segment's file.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("{segment:016x}.segment")
}

/// The segment that a file of this name holds, if it is a segment's name.
pub(crate) fn segment_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    let segment = u64::from_str_radix(digits, 16).ok()?;
    (segment <= NUMBER_MAX && segment_name(segment) == name).then_some(segment)
}

/// The name of a reserve file.
pub(crate) fn reserve_name(number: u64) -> String {
    format!("{number:016x}.reserve")
}

/// The number of a reserve file of this name, if it is one's name.
pub(crate) fn reserve_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".reserve")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (number <= NUMBER_MAX && reserve_name(number) == name).then_some(number)
}

/// Fixed fields, read from the front. The callers' arrays are as long as the fields they take from them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields behind a magic and a checksum that hold.
    fn open(bytes: &'a [u8], magic: [u8; 8]) -> Option<Self> {
        let mut fields = Self(bytes);
        let found: [u8; 8] = fields.take();
        let crc = u32::from_le_bytes(fields.take());
        (found == magic && crc == crc32c::crc32c(fields.0)).then_some(fields)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the array is as long as its fields");
        self.0 = rest;
        *field
    }

    fn version_and_shard(&mut self) -> (u16, u32) {
        let version = u16::from_le_bytes(self.take());
        let _zero: [u8; 2] = self.take();
        let shard = u32::from_le_bytes(self.take());
        let _zero: [u8; 4] = self.take();
        (version, shard)
    }
}

fn start(out: &mut Vec<u8>, magic: [u8; 8]) {
    out.extend(magic);
    out.extend([0; 4]);
}

fn put_version_and_shard(out: &mut Vec<u8>, shard: u32) {
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 2]);
    out.extend(shard.to_le_bytes());
    out.extend([0; 4]);
}

/// Puts the checksum of a header into its place.
fn seal(out: &mut [u8]) {
    let crc = crc32c::crc32c(&out[CHECKED..]).to_le_bytes();
    out[CHECKED - 4..CHECKED].copy_from_slice(&crc);
}

fn check_version(segment: u64, version: u16) -> Result<(), Error> {
    if version > VERSION { Err(Error::Version { segment, version, known: VERSION }) } else { Ok(()) }
}
