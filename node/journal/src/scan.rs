//! Reads a segment file from end to end and says what stands at each of its block boundaries.
//!
//! It skips a commit's body only if the commit is whole; in anything else it looks for a header at every boundary, since
//! what follows damage must still be found; a block that cannot be read is damage too. It never holds more than one commit in memory, and never writes.

use crate::format::{self, BLOCK, CommitHeader, CommitKind, HEADER_BYTES, SegmentHeader};
use crate::{Base, COMMIT_BYTES_MAX, DiskFile, Error};
use jincai_types::Digest;

/// Largest setting of a segment's length, in bytes.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// No segment that we wrote is longer: one that begins with an older segment's tail may exceed the setting by a commit.
const SCAN_BYTES_MAX: u64 = SEGMENT_BYTES_MAX + 2 * COMMIT_BYTES_MAX as u64;
/// Bytes read ahead.
const READ_AHEAD: u64 = 256 << 10;

/// A block that was never written.
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// What stands at a block boundary.
pub(crate) enum Found {
    /// A whole commit, its hash, and the base that it holds if it is one.
    Whole(CommitHeader, Digest, Option<Base>),
    /// A commit whose header holds and whose body does not.
    Torn(CommitHeader),
    /// Bytes that are no commit of this segment, or cannot be read.
    Other,
}

/// Scans a segment behind its header; zero blocks are passed over.
pub(crate) fn scan(file: &dyn DiskFile, segment: &SegmentHeader, each: &mut dyn FnMut(Found)) -> Result<(), Error> {
    let mut window = Window::new(file)?;
    let mut offset = BLOCK;
    while offset + BLOCK <= window.length {
        let Ok(block) = window.bytes(offset, BLOCK) else {
            each(Found::Other);
            offset += BLOCK;
            continue;
        };
        let header = block.first_chunk::<HEADER_BYTES>().and_then(CommitHeader::decode);
        let Some(header) = header.filter(|h| belongs(h, segment, offset)) else {
            if block != ZEROS {
                each(Found::Other);
            }
            offset += BLOCK;
            continue;
        };
        let padded = header.padded();
        let whole = if offset + padded <= window.length { window.whole(offset, &header) } else { None };
        let (found, next) = match whole {
            Some((hash, base)) => (Found::Whole(header, hash, base), padded),
            None => (Found::Torn(header), BLOCK),
        };
        each(found);
        offset += next;
    }
    Ok(())
}

/// Whether every byte behind the first block is zero: nothing was ever written there.
pub(crate) fn is_unused(file: &dyn DiskFile) -> Result<bool, Error> {
    let mut window = Window::new(file)?;
    let mut offset = BLOCK;
    while offset < window.length {
        let piece = BLOCK.min(window.length - offset);
        if !ZEROS.starts_with(window.bytes(offset, piece)?) {
            return Ok(false);
        }
        offset += piece;
    }
    Ok(true)
}

fn belongs(header: &CommitHeader, segment: &SegmentHeader, offset: u64) -> bool {
    let place = &header.place;
    (place.shard, place.segment, place.salt, place.offset) == (segment.shard, segment.segment, segment.salt, offset)
}

/// A piece of the file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    length: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn DiskFile) -> Result<Self, Error> {
        let length = file.length()?.min(SCAN_BYTES_MAX);
        Ok(Self { file, length, start: 0, buffer: Vec::new() })
    }

    /// The hash of the commit that lies there, and its base, if it is whole.
    fn whole(&mut self, offset: u64, header: &CommitHeader) -> Option<(Digest, Option<Base>)> {
        let commit = self.bytes(offset, header.bytes() as u64).ok()?;
        let body = &commit[HEADER_BYTES..];
        let base = match header.kind {
            // It covers records that were there before it, or it is none.
            CommitKind::Base => Some(format::decode_base(body).filter(|base| base.through < header.first_record)?),
            CommitKind::Records | CommitKind::Mark | CommitKind::Closing => {
                format::decode_body(header, body)?;
                None
            }
        };
        Some((format::hash(commit), base))
    }

    /// The bytes from `offset`, which lie within `length`; at most a commit.
    fn bytes(&mut self, offset: u64, length: u64) -> Result<&[u8], Error> {
        let end = offset + length;
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let wanted = length.max(READ_AHEAD).min(self.length - offset);
            self.buffer.resize(usize::try_from(wanted).expect("at most a commit of 64 MiB"), 0);
            self.start = offset;
            if self.file.read_at(offset, &mut self.buffer).is_err() {
                // Some of what was read ahead cannot be read: what is wanted now may be.
                self.buffer.truncate(usize::try_from(length).expect("at most a commit of 64 MiB"));
                let read = self.file.read_at(offset, &mut self.buffer);
                read.inspect_err(|_| self.buffer.clear())?;
            }
        }
        let from = usize::try_from(offset - self.start).expect("within the buffer");
        let length = usize::try_from(length).expect("within the buffer");
        Ok(&self.buffer[from..from + length])
    }
}
