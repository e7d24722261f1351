//! A backup of a journal that is being written: the bytes of every durable commit, and every file of the store.
//!
//! While it is read nothing that it needs is removed ([`Reader`] pins it); what is written meanwhile is not part of it. A
//! backup is the files themselves, each as long as it was when the backup began, so that a restore lays them back and a
//! repair takes single commits out of them. The owner decides where the bytes go and how they are checked on their way.

use crate::reader::Pin;
use crate::{Blob, Blobs, DiskFile, Error, Reader, format};
use jincai_types::{Digest, Millis, RecordNumber};
use std::io::{self, Read};
use std::sync::Arc;

/// Bytes read from the disk at once.
const PIECE_BYTES: usize = 256 << 10;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The last record that the newest snapshot covers; 0 without one. The backup cannot be set back to before it.
    pub through: RecordNumber,
    /// The last record.
    pub last: RecordNumber,
    /// The time of the last commit, in milliseconds since 1970.
    pub time: Millis,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupFile {
    /// A file of the journal, by name.
    Journal(String),
    /// An immutable file of the store.
    Blob(Digest),
}

/// Takes a file of a backup: which, its length in bytes, and its content.
pub type TakeFile<'a> = &'a mut dyn FnMut(&BackupFile, u64, &mut dyn Read) -> Result<(), Error>;

/// Hands every file of a backup to `each`, with its length in bytes and its content.
pub fn backup(reader: &Reader, blobs: &dyn Blobs, each: TakeFile<'_>) -> Result<BackupReport, Error> {
    let pin = reader.pin();
    // Listed after the pin: whatever a durable record names was there before that record.
    let files = blobs.list()?;
    let Pin { durable, .. } = &pin;
    for span in &durable.spans {
        let name = format::segment_name(span.segment);
        let file = reader.disk().open(&name)?;
        let read = |offset, buffer: &mut [u8]| DiskFile::read_at(&*file, offset, buffer);
        each(&BackupFile::Journal(name), span.end, &mut Source::new(read, span.end))?;
    }
    for digest in files {
        let blob = match blobs.open(&digest) {
            Ok(blob) => blob,
            // The owner has removed it: nothing durable names it.
            Err(Error::NoBlob { .. }) => continue,
            Err(error) => return Err(error),
        };
        let read = |offset, buffer: &mut [u8]| Blob::read_at(&*blob, offset, buffer);
        each(&BackupFile::Blob(digest), blob.len(), &mut Source::new(read, blob.len()))?;
    }
    let through = durable.base.as_ref().map_or(0, |base| base.through);
    Ok(BackupReport { through, last: durable.last, time: durable.time })
}

/// Reads a range by position as a stream.
struct Source<F> {
    read: F,
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<F: Fn(u64, &mut [u8]) -> Result<(), Error>> Source<F> {
    fn new(read: F, end: u64) -> Self {
        Self { read, offset: 0, end, buffer: Vec::new(), at: 0 }
    }
}

impl<F: Fn(u64, &mut [u8]) -> Result<(), Error>> Read for Source<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() && self.offset < self.end {
            let piece = usize::try_from(self.end - self.offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            self.buffer.resize(piece, 0);
            (self.read)(self.offset, &mut self.buffer).map_err(io::Error::other)?;
            (self.offset, self.at) = (self.offset + piece as u64, 0);
        }
        let taken = out.len().min(self.buffer.len() - self.at);
        out[..taken].copy_from_slice(&self.buffer[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

/// To which point a restore goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Everything that there is.
    End,
    /// Up to this record.
    Record(RecordNumber),
    /// Up to the last commit at or before this time, in milliseconds since 1970. Where the clock went back, up to the
    /// first commit after this time.
    Time(Millis),
    /// Up to the first damage.
    BeforeDamage,
}

/// Where a restore has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetBack {
    /// The last record that is left.
    pub last: RecordNumber,
    /// The time of the last commit that is left.
    pub time: Millis,
}

/// Sets a copy of a journal's files, which nobody has open, back to a point, and marks it so that the next start knows it
/// was restored ([`Recovery::restored`](crate::Recovery::restored)). It works on commits: what one append wrote stays or
/// goes as a whole.
///
/// Refused, with nothing written, unless what is left is whole: [`Error::NoSuchPoint`] for a point outside of what the
/// files hold, [`Error::Quarantined`] for damage at or before the point.
pub fn set_back(disk: &dyn crate::Disk, point: Point) -> Result<SetBack, Error> {
    crate::set_back::set_back(disk, point)
}

/// A file of a journal or a blob, open for reading as a whole; used by repairs.
pub(crate) fn read_whole(file: &Arc<dyn DiskFile>) -> Result<Vec<u8>, Error> {
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
