//! The journal itself, synchronous and without threads: append commits, sync, mark, close.
//!
//! One commit is one write at a block boundary of the newest segment; [`Engine::sync`] makes it durable. Each commit says
//! how far the journal was durable before it, which is what recovery goes by. The first write or sync that fails poisons
//! the engine: what is on disk is unknown until it is opened again. In quarantine it only reads. That there is no room for
//! another segment is no failure: the call is refused before anything is written.

use crate::base::{Opened, check_range};
use crate::format::{self, BLOCK, CommitHeader, CommitKind, HEADER_BYTES, Place, RESTORED, SegmentHeader};
use crate::reader::Shared;
use crate::recovery::{Current, recover};
use crate::reserve::{Reserve, Space};
use crate::scan::SEGMENT_BYTES_MAX;
use crate::segment::establish;
use crate::survey::ChainEnd;
use crate::{Base, Blobs, Disk, Error, Quarantine, Reader, Record, Recovery};
use jincai_types::{Digest, Millis, Mutation, RecordNumber, mutated};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The term of every commit until journals are mirrored.
pub(crate) const TERM: u64 = 0;

/// Settings of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Length of a segment file in bytes, pre-allocated: a multiple of 4,096 from 8 KiB to 4 GiB. A commit that does not
    /// fit gets a longer one. Default 64 MiB.
    pub segment_bytes: u64,
    /// Most bytes of newest records kept in memory for readers. Default 8 MiB.
    pub cache_bytes: usize,
    /// How many segments' room is set aside for when the disk is full. Default 2.
    pub reserve: usize,
    /// Which of a node's journals this is. Default 0.
    pub shard: u32,
    /// 64 bits drawn anew at every start, so that files of another run, or of a copied node, are told apart. Default 0.
    pub salt: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, cache_bytes: 8 << 20, reserve: 2, shard: 0, salt: 0 }
    }
}

/// What may use the room that is set aside for when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Refused when only the reserve is left.
    Normal,
    /// Drains the node: receipts, cursors, what frees room.
    Reserve,
}

/// A journal open for writing, or read-only in quarantine.
pub struct Engine<D: Disk> {
    disk: Arc<D>,
    blobs: Arc<dyn Blobs>,
    config: Config,
    state: State,
    reserve: Reserve,
    /// The last commit that was written.
    end: ChainEnd,
    durable_position: u64,
    durable_record: RecordNumber,
    /// The time of the last commit.
    time: Millis,
    /// Whether a record was appended since the last mark; what was recovered is marked by the segment's header.
    unmarked: bool,
    /// The segment in which the newest base stands.
    base_segment: u64,
    /// Files that only older bases name, to be removed.
    retired: BTreeSet<Digest>,
    /// Whether something that the base has replaced is still there.
    untidy: bool,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

enum State {
    Writing(Current),
    Quarantined(Quarantine),
    Poisoned,
}

/// What a commit holds.
#[derive(Clone, Copy)]
enum Content<'a> {
    Records(&'a [Record]),
    Mark,
    Closing,
    Base(&'a Base),
}

impl<D: Disk> Engine<D> {
    /// Recovers the journal and opens it; every record that is found is durable on return. `blobs` holds the files that
    /// bases name.
    pub fn open(disk: D, blobs: Arc<dyn Blobs>, config: Config) -> Result<(Self, Recovery), Error> {
        let bytes = config.segment_bytes;
        if !bytes.is_multiple_of(BLOCK) || !(2 * BLOCK..=SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err(Error::SegmentBytes { bytes });
        }
        let disk = Arc::new(disk);
        let mut recovered = recover(&*disk, &*blobs, &config)?;
        let report = recovered.report.clone();
        let mut reserve = std::mem::take(&mut recovered.reserve);
        let state = match (recovered.current.take(), &report.quarantine) {
            (Some(current), _) => {
                reserve.fill(&*disk, &config, 0)?;
                State::Writing(current)
            }
            (None, Some(quarantine)) => State::Quarantined(quarantine.clone()),
            (None, None) => State::Poisoned,
        };
        let engine = Self {
            config: config.clone(),
            state,
            reserve,
            end: recovered.end,
            durable_position: recovered.end.position,
            durable_record: recovered.end.record,
            time: recovered.time,
            unmarked: false,
            base_segment: recovered.base_segment,
            retired: BTreeSet::new(),
            untidy: false,
            buffer: Vec::new(),
            shared: Arc::new(Shared::new(disk.clone(), recovered, config.cache_bytes)),
            disk,
            blobs,
        };
        Ok((engine, report))
    }

    /// Writes the records as one commit, which a power cut leaves whole or not there, and returns the last one's number.
    /// They are not durable before [`Engine::sync`]. No records: nothing happens. [`Error::Full`]: there is no room for
    /// them, nothing was written, and a later call may find room.
    pub fn append(&mut self, now: Millis, records: &[Record], urgency: Urgency) -> Result<RecordNumber, Error> {
        self.writing()?;
        let bytes = format::commit_bytes(records)?;
        if !records.is_empty() {
            self.check_room(now, urgency)?;
            self.write(now, Content::Records(records), bytes, urgency)?;
            self.unmarked = true;
        }
        Ok(self.end.record)
    }

    /// Makes everything that was appended durable, and returns the last record's number.
    pub fn sync(&mut self) -> Result<RecordNumber, Error> {
        let current = self.writing()?;
        let (file, span) = (current.file.clone(), current.span());
        if self.durable_position < self.end.position {
            let synced = if mutated(Mutation::SkipSync) { Ok(()) } else { file.sync() };
            let synced = if mutated(Mutation::IgnoreFailedSync) { Ok(()) } else { synced };
            self.poison_on_failure(synced)?;
            self.durable_position = self.end.position;
            self.durable_record = self.end.record;
            self.shared.synced(span, self.durable_record, self.time);
        }
        Ok(self.durable_record)
    }

    /// Writes and syncs an idle mark, from which recovery knows that everything before it was durable, unless nothing was
    /// appended since the last mark or there is no room for it. Fills up the reserve, and removes what a backup has kept.
    /// Memory that only a busy journal needs is given back.
    pub fn mark(&mut self, now: Millis) -> Result<(), Error> {
        self.writing()?;
        self.buffer = Vec::new();
        self.shared.empty_cache();
        self.fill_reserve(now)?;
        self.remove_replaced(now)?;
        if !self.unmarked {
            return Ok(());
        }
        match self.write_mark(now, Content::Mark, Urgency::Normal) {
            Err(Error::Full) => Ok(()),
            done => done,
        }
    }

    /// Writes and syncs the closing mark: the next start is a clean one.
    pub fn close(mut self, now: Millis) -> Result<(), Error> {
        self.writing()?;
        self.write_mark(now, Content::Closing, Urgency::Reserve)
    }

    /// Makes a base durable, in a fresh segment; then removes the segments that hold nothing but records up to
    /// `base.through`, and the files that only the base before named. The base's files must be there, as
    /// [`prepare_base`](crate::prepare_base) left them. A base takes no record number. It may use the reserve.
    pub fn checkpoint(&mut self, now: Millis, base: Base) -> Result<(), Error> {
        self.writing()?;
        let before = self.reader().base();
        check_range(&base, before.as_ref(), self.durable_record)?;
        let opened = Opened::open(&*self.blobs, base.clone())?;
        let bytes = HEADER_BYTES + format::base_bytes(&base);
        if self.writing()?.offset > BLOCK {
            let padded = (bytes as u64).next_multiple_of(BLOCK);
            let rolled = self.roll(now, padded, Urgency::Reserve);
            self.poison_unless_full(rolled)?;
        }
        self.write(now, Content::Base(&base), bytes, Urgency::Reserve)?;
        self.base_segment = self.writing()?.segment;
        // What the base replaces is removed only once the base itself is below the durable mark: damage to it is then told
        // from a write that never ended.
        self.write_mark(now, Content::Mark, Urgency::Reserve)?;
        self.retired.extend(before.iter().flat_map(Base::files));
        self.retired.retain(|digest| *digest != base.snapshot && !base.carried.contains(digest));
        self.shared.rebase(opened);
        self.untidy = true;
        self.remove_replaced(now)
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

    /// How much room is left.
    #[must_use]
    pub fn space(&self) -> Space {
        self.reserve.space()
    }

    /// Says that the owner has acted on a restore: the next start does not report it again.
    pub fn acknowledge_restore(&mut self) -> Result<(), Error> {
        self.writing()?;
        if self.disk.list()?.iter().any(|name| name == RESTORED) {
            let removed = self.disk.remove(RESTORED).and_then(|()| self.disk.sync_dir());
            self.poison_on_failure(removed)?;
        }
        Ok(())
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

    /// [`Error::Full`] is the one failure that leaves everything as it was.
    fn poison_unless_full<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Err(Error::Full)) { result } else { self.poison_on_failure(result) }
    }

    /// Refuses what may not use the reserve while the newest segment is part of it.
    fn check_room(&mut self, now: Millis, urgency: Urgency) -> Result<(), Error> {
        if urgency == Urgency::Reserve || !self.writing()?.reserved {
            return Ok(());
        }
        self.fill_reserve(now)?;
        if self.writing()?.reserved { Err(Error::Full) } else { Ok(()) }
    }

    /// Once the reserve is whole again, the newest segment is no part of it.
    fn fill_reserve(&mut self, now: Millis) -> Result<(), Error> {
        let filled = self.reserve.fill(&*self.disk, &self.config, now);
        self.poison_on_failure(filled)?;
        if self.reserve.space() == Space::Plenty {
            self.writing()?.reserved = false;
        }
        Ok(())
    }

    /// Removes what the base has replaced, unless a backup still reads it. The files that the base before named go first:
    /// the segment that names them is what a start after a power cut knows them from.
    fn remove_replaced(&mut self, now: Millis) -> Result<(), Error> {
        if !self.untidy {
            return Ok(());
        }
        let Some(segments) = self.shared.supersede(self.base_segment) else { return Ok(()) };
        let removed = self.retired.iter().try_for_each(|digest| self.blobs.remove(digest));
        self.poison_on_failure(removed)?;
        self.retired.clear();
        let disk = &self.disk;
        let removed = segments.iter().try_for_each(|segment| disk.remove(&format::segment_name(*segment)));
        let removed = removed.and_then(|()| self.disk.sync_dir());
        self.poison_on_failure(removed)?;
        self.untidy = false;
        self.reserve.forget_failure();
        self.fill_reserve(now)
    }

    fn write_mark(&mut self, now: Millis, mark: Content<'_>, urgency: Urgency) -> Result<(), Error> {
        // A mark says that what precedes it is durable, so that must be true before it is written.
        self.sync()?;
        self.write(now, mark, HEADER_BYTES, urgency)?;
        self.sync()?;
        self.unmarked = false;
        Ok(())
    }

    /// Writes one commit of `bytes` bytes at the end, in a new segment if this one is full.
    fn write(&mut self, now: Millis, content: Content<'_>, bytes: usize, urgency: Urgency) -> Result<(), Error> {
        let padded = (bytes as u64).next_multiple_of(BLOCK);
        let current = self.writing()?;
        if current.offset + padded > current.length {
            let rolled = self.roll(now, padded, urgency);
            self.poison_unless_full(rolled)?;
        }
        let written = self.write_here(now, content, bytes, padded);
        self.poison_on_failure(written)
    }

    fn write_here(&mut self, now: Millis, content: Content<'_>, bytes: usize, padded: u64) -> Result<(), Error> {
        let State::Writing(current) = &mut self.state else { return Err(Error::Poisoned) };
        let place = Place {
            shard: self.config.shard,
            segment: current.segment,
            salt: self.config.salt,
            offset: current.offset,
            durable_to: if mutated(Mutation::MarkBeforeSync) { self.end.position + 1 } else { self.durable_position },
        };
        let (kind, records): (_, &[Record]) = match content {
            Content::Records(records) => (CommitKind::Records, records),
            Content::Mark => (CommitKind::Mark, &[]),
            Content::Closing => (CommitKind::Closing, &[]),
            Content::Base(_) => (CommitKind::Base, &[]),
        };
        let header = CommitHeader {
            place,
            position: self.end.position + 1,
            term: TERM,
            first_record: self.end.record + 1,
            count: u32::try_from(records.len()).expect("64 MiB hold fewer than 2^20 entries"),
            body_bytes: u32::try_from(bytes - HEADER_BYTES).expect("a commit is at most 64 MiB"),
            kind,
            time: now,
            previous: self.end.hash,
        };
        let start = aligned_start(&mut self.buffer, padded);
        let hash = match content {
            Content::Base(base) => format::encode_base(&mut self.buffer, &header, base),
            Content::Records(_) | Content::Mark | Content::Closing => {
                format::encode_commit(&mut self.buffer, &header, records)
            }
        };
        current.file.write_at(current.offset, &self.buffer[start..])?;
        current.offset += padded;
        if current.offset > current.length / 2 && self.reserve.space() == Space::Plenty {
            self.disk.prepare(self.config.segment_bytes);
        }
        self.time = now;
        self.end = ChainEnd { position: header.position, record: self.end.record + u64::from(header.count), hash };
        self.shared.push(&header, records);
        Ok(())
    }

    /// Goes on in a new segment, which has room for a commit of `needed` bytes. All before it is durable then.
    fn roll(&mut self, now: Millis, needed: u64, urgency: Urgency) -> Result<(), Error> {
        self.sync()?;
        let segment = self.writing()?.segment + 1;
        let first_record = self.end.record + 1;
        let header = SegmentHeader {
            shard: self.config.shard,
            segment,
            salt: self.config.salt,
            term: TERM,
            first_position: self.end.position + 1,
            first_record,
            durable_to: self.end.position,
            previous: self.end.hash,
        };
        let how = (now, urgency);
        let (file, length, reserved) = self.reserve.segment(&*self.disk, &self.config, segment, BLOCK + needed, how)?;
        match establish(&*self.disk, &header, &*file, |_| Ok(())) {
            // The segment took the last of the room, and HEAD found none: it goes again, and nothing has happened.
            Err(error) if error.is_full() => {
                self.reserve.note_failure(now);
                self.disk.remove(&format::segment_name(segment))?;
                self.disk.sync_dir()?;
                return Err(Error::Full);
            }
            established => established?,
        }
        let current = Current { segment, first_record, file, offset: BLOCK, length, reserved };
        self.shared.synced(current.span(), self.durable_record, self.time);
        self.state = State::Writing(current);
        self.fill_reserve(now)
    }
}

/// Empties the buffer and makes room for a commit at an address that a disk can take bytes from without copying them;
/// returns where that is.
fn aligned_start(buffer: &mut Vec<u8>, padded: u64) -> usize {
    let block = usize::try_from(BLOCK).expect("a block is 4,096 bytes");
    buffer.clear();
    buffer.reserve(usize::try_from(padded).expect("a commit is at most 64 MiB") + block);
    let start = buffer.as_ptr().align_offset(block).min(block);
    buffer.resize(start, 0);
    start
}
