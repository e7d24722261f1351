//! The journal itself, synchronous and without threads: append commits, sync, mark, close.
//!
//! One commit is one write at a block boundary of the newest segment; [`Engine::sync`] makes it durable. Each commit says
//! how far the journal was durable before it, which is what recovery goes by. The first write or sync that fails poisons
//! the engine: what is on disk is unknown until it is opened again. In quarantine it only reads.

use crate::format::{self, BLOCK, CommitHeader, CommitKind, HEADER_BYTES, Place, SegmentHeader};
use crate::reader::Shared;
use crate::recovery::{Current, recover};
use crate::scan::SEGMENT_BYTES_MAX;
use crate::segment::establish;
use crate::survey::ChainEnd;
use crate::{Disk, Error, Quarantine, Reader, Record, Recovery};
use jincai_types::RecordNumber;
use std::sync::Arc;

/// The term of every commit until journals are mirrored.
pub(crate) const TERM: u64 = 0;
/// The buffer for a commit is given back if it grew beyond this many bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Settings of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Length of a segment file in bytes, pre-allocated: a multiple of 4,096 from 8 KiB to 4 GiB. A commit that does not
    /// fit gets a longer one. Default 64 MiB.
    pub segment_bytes: u64,
    /// Most bytes of newest records kept in memory for readers. Default 8 MiB.
    pub cache_bytes: usize,
    /// Which of a node's journals this is. Default 0.
    pub shard: u32,
    /// 64 bits drawn anew at every start, so that files of another run, or of a copied node, are told apart. Default 0.
    pub salt: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 8 << 20, shard: 0, salt: 0 }
    }
}

/// A journal open for writing, or read-only in quarantine.
pub struct Engine<D: Disk> {
    disk: Arc<D>,
    config: Config,
    state: State,
    /// The last commit that was written.
    end: ChainEnd,
    durable_position: u64,
    durable_record: RecordNumber,
    /// Whether a record was appended since the last mark; what was recovered is marked by the segment's header.
    unmarked: bool,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

enum State {
    Writing(Current),
    Quarantined(Quarantine),
    Poisoned,
}

impl<D: Disk> Engine<D> {
    /// Recovers the journal and opens it; every record that is found is durable on return.
    pub fn open(disk: D, config: Config) -> Result<(Self, Recovery), Error> {
        let bytes = config.segment_bytes;
        if !bytes.is_multiple_of(BLOCK) || !(2 * BLOCK..=SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err(Error::SegmentBytes { bytes });
        }
        let disk = Arc::new(disk);
        let recovered = recover(&*disk, &config)?;
        let report = recovered.report;
        let state = recovered.current.map_or_else(State::Quarantined, State::Writing);
        let shared = Shared::new(disk.clone(), recovered.index, report.last, config.cache_bytes, &report.quarantine);
        let engine = Self {
            disk,
            config,
            state,
            end: recovered.end,
            durable_position: recovered.end.position,
            durable_record: recovered.end.record,
            unmarked: false,
            buffer: Vec::new(),
            shared: Arc::new(shared),
        };
        Ok((engine, report))
    }

    /// Writes the records as one commit, which a power cut leaves whole or not there, and returns the last one's number.
    /// They are not durable before [`Engine::sync`]. No records: nothing happens.
    pub fn append(&mut self, records: &[Record]) -> Result<RecordNumber, Error> {
        self.writing()?;
        let bytes = format::commit_bytes(records)?;
        if !records.is_empty() {
            let written = self.write(CommitKind::Records, records, bytes);
            self.poison_on_failure(written)?;
            self.unmarked = true;
        }
        Ok(self.end.record)
    }

    /// Makes everything that was appended durable, and returns the last record's number.
    pub fn sync(&mut self) -> Result<RecordNumber, Error> {
        let current = self.writing()?;
        let file = current.file.clone();
        if self.durable_position < self.end.position {
            let synced = file.sync();
            self.poison_on_failure(synced)?;
            self.durable_position = self.end.position;
            self.durable_record = self.end.record;
        }
        Ok(self.durable_record)
    }

    /// Writes and syncs an idle mark, from which recovery knows that everything before it was durable. Does nothing if
    /// nothing was appended since the last mark.
    pub fn mark(&mut self) -> Result<(), Error> {
        self.writing()?;
        if self.unmarked { self.write_mark(CommitKind::Mark) } else { Ok(()) }
    }

    /// Writes and syncs the closing mark: the next start is a clean one.
    pub fn close(mut self) -> Result<(), Error> {
        self.writing()?;
        self.write_mark(CommitKind::Closing)
    }

    /// The number that the next record gets.
    #[must_use]
    pub fn next_number(&self) -> RecordNumber {
        self.end.record + 1
    }

    /// Every record up to this number is durable.
    #[must_use]
    pub fn durable(&self) -> RecordNumber {
        self.durable_record
    }

    /// A reader of all records, those not yet durable too; it follows what is appended.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    fn writing(&mut self) -> Result<&mut Current, Error> {
        match &mut self.state {
            State::Writing(current) => Ok(current),
            State::Quarantined(quarantine) => Err(Error::Quarantined(quarantine.clone())),
            State::Poisoned => Err(Error::Poisoned),
        }
    }

    fn poison_on_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.state = State::Poisoned;
        }
        result
    }

    fn write_mark(&mut self, kind: CommitKind) -> Result<(), Error> {
        // A mark says that what precedes it is durable, so that must be true before it is written.
        self.sync()?;
        let written = self.write(kind, &[], HEADER_BYTES);
        self.poison_on_failure(written)?;
        self.sync()?;
        self.unmarked = false;
        Ok(())
    }

    /// Writes one commit of `bytes` bytes at the end, in a new segment if this one is full.
    fn write(&mut self, kind: CommitKind, records: &[Record], bytes: usize) -> Result<(), Error> {
        let padded = (bytes as u64).next_multiple_of(BLOCK);
        let current = self.writing()?;
        if current.offset + padded > current.length {
            self.roll(padded)?;
        }
        let State::Writing(current) = &mut self.state else { return Err(Error::Poisoned) };
        let place = Place {
            shard: self.config.shard,
            segment: current.segment,
            salt: self.config.salt,
            offset: current.offset,
            durable_to: self.durable_position,
        };
        let header = CommitHeader {
            place,
            position: self.end.position + 1,
            term: TERM,
            first_record: self.end.record + 1,
            count: u32::try_from(records.len()).expect("16 MiB hold fewer than 2^20 entries"),
            body_bytes: u32::try_from(bytes - HEADER_BYTES).expect("a commit is at most 16 MiB"),
            kind,
            previous: self.end.hash,
        };
        let hash = format::encode_commit(&mut self.buffer, &header, records);
        current.file.write_at(current.offset, &self.buffer)?;
        current.offset += padded;
        self.end = ChainEnd { position: header.position, record: self.end.record + u64::from(header.count), hash };
        self.shared.push(&header, records);
        if self.buffer.capacity() > BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Goes on in a new segment, which has room for a commit of `needed` bytes. All before it is durable then.
    fn roll(&mut self, needed: u64) -> Result<(), Error> {
        self.sync()?;
        let segment = self.writing()?.segment + 1;
        let header = SegmentHeader {
            shard: self.config.shard,
            segment,
            salt: self.config.salt,
            term: TERM,
            first_position: self.end.position + 1,
            first_record: self.end.record + 1,
            durable_to: self.end.position,
            previous: self.end.hash,
        };
        let length = self.config.segment_bytes.max(BLOCK + needed);
        let file = establish(&*self.disk, &header, length, |_| Ok(()))?;
        self.state = State::Writing(Current { segment, file, offset: BLOCK, length });
        Ok(())
    }
}
