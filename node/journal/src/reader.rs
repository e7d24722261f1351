//! Reads records by number while the engine writes.
//!
//! The newest records come from a bounded cache, others from the disk by position. Every payload is checked against its
//! checksum on its way: a reader returns what was appended or an error, never anything else.

use crate::base::{Opened, superseded};
use crate::carry::Carried;
use crate::format::{self, CommitHeader, ENTRY_BYTES, Entry, HEADER_BYTES};
use crate::index::{Index, Located};
use crate::recovery::Recovered;
use crate::{Base, Disk, DiskFile, Error, Quarantine, RECORD_BYTES_MAX, Record, Stored};
use bytes::Bytes;
use jincai_types::{Millis, RecordNumber};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Most segment files kept open for readers.
const OPEN_FILES: usize = 64;
/// What a cached record costs besides its payload, in bytes.
const CACHED_RECORD_BYTES: usize = 64;

/// A journal that can be read.
pub trait Log: Send + Sync {
    /// The record of this number. One that the base covers may be gone.
    fn read(&self, number: RecordNumber) -> Result<Stored, Error>;

    /// Calls `each` for the records behind the newest base from `from` on, in order, up to the one that was the last when the replay began. An
    /// error of `each` ends it and is returned ([`Error::Stopped`] is there for that).
    fn replay(&self, from: RecordNumber, each: &mut dyn FnMut(Stored) -> Result<(), Error>) -> Result<(), Error>;

    /// The number of the last record that can be read, 0 if there is none.
    fn end(&self) -> RecordNumber;
}

/// A reader of an engine's records; clones share index and cache. It keeps the disk open, and locked.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

/// What the engine and its readers share.
pub(crate) struct Shared {
    disk: Arc<dyn Disk>,
    state: RwLock<State>,
    files: Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>,
    cache_bytes: usize,
    quarantine: Option<Quarantine>,
}

/// What of a segment is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) segment: u64,
    pub(crate) first_record: RecordNumber,
    /// The first byte behind its last commit.
    pub(crate) end: u64,
}

/// What is durable at one moment.
#[derive(Clone)]
pub(crate) struct Durable {
    /// The segments, the newest last.
    pub(crate) spans: Vec<Span>,
    pub(crate) base: Option<Base>,
    pub(crate) last: RecordNumber,
    /// The time of the newest commit.
    pub(crate) time: Millis,
}

struct State {
    index: Index,
    end: RecordNumber,
    durable: Durable,
    carried: Carried,
    /// How many backups keep segments and files of bases from being removed.
    pins: usize,
    /// The newest records, consecutive up to `end`.
    cache: VecDeque<Stored>,
    cached_bytes: usize,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The newest base that is durable.
    #[must_use]
    pub fn base(&self) -> Option<Base> {
        self.0.read_state(|state| state.durable.base.clone())
    }

    pub(crate) fn carried(&self) -> Carried {
        self.0.read_state(|state| state.carried.clone())
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.0.disk
    }

    /// What is durable now; nothing of it is removed as long as the pin lives.
    pub(crate) fn pin(&self) -> Pin {
        let durable = self.0.change(|state| {
            state.pins += 1;
            state.durable.clone()
        });
        Pin { durable, shared: self.0.clone() }
    }
}

/// Keeps segments and files of bases from being removed.
pub(crate) struct Pin {
    pub(crate) durable: Durable,
    shared: Arc<Shared>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.change(|state| state.pins -= 1);
    }
}

impl Log for Reader {
    fn read(&self, number: RecordNumber) -> Result<Stored, Error> {
        loop {
            let commit = match self.0.find(number)? {
                Where::Memory(stored) => return Ok(stored),
                Where::Disk(commit) => commit,
            };
            match self.0.read_record(number, commit) {
                // A checkpoint may have removed the segment meanwhile: then the record is in a carry file, or gone.
                Err(_) if self.0.located(number) != Some(commit) => {}
                read => return read,
            }
        }
    }

    fn replay(&self, from: RecordNumber, each: &mut dyn FnMut(Stored) -> Result<(), Error>) -> Result<(), Error> {
        let (end, through) = self.0.read_state(|state| (state.end, state.through()));
        let mut number = from.max(through + 1);
        while number <= end {
            let commit = self.0.locate(number)?;
            for stored in self.0.read_commit(commit)? {
                if (number..=end).contains(&stored.number) {
                    each(stored)?;
                }
            }
            number = commit.first + u64::from(commit.count);
        }
        Ok(())
    }

    fn end(&self) -> RecordNumber {
        self.0.read_state(|state| state.end)
    }
}

enum Where {
    Memory(Stored),
    Disk(Located),
}

impl State {
    /// The last record that the base covers.
    fn through(&self) -> RecordNumber {
        self.durable.base.as_ref().map_or(0, |base| base.through)
    }
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, recovered: Recovered, cache_bytes: usize) -> Self {
        let (base, carried) = match recovered.opened {
            Some(Opened { base, carried }) => (Some(base), carried),
            None => (None, Carried::default()),
        };
        let (last, quarantine) = (recovered.report.last, recovered.report.quarantine);
        let durable = Durable { spans: recovered.spans, base, last, time: recovered.time };
        let (index, end) = (recovered.index, last);
        let state = State { index, end, durable, carried, pins: 0, cache: VecDeque::new(), cached_bytes: 0 };
        Self { disk, state: RwLock::new(state), files: Mutex::new(BTreeMap::new()), cache_bytes, quarantine }
    }

    /// Notes what a sync has made durable.
    pub(crate) fn synced(&self, span: Span, last: RecordNumber, time: Millis) {
        self.change(|state| {
            let durable = &mut state.durable;
            durable.spans.pop_if(|newest| newest.segment == span.segment);
            durable.spans.push(span);
            (durable.last, durable.time) = (last, time);
        });
    }

    /// Notes a base that is durable.
    pub(crate) fn rebase(&self, opened: Opened) {
        self.change(|state| {
            state.durable.base = Some(opened.base);
            state.carried = opened.carried;
        });
    }

    /// Forgets the segments that the base, which stands in `base_segment`, has replaced, and returns them; `None` while
    /// they are pinned.
    pub(crate) fn supersede(&self, base_segment: u64) -> Option<Vec<u64>> {
        let segments = self.change(|state| {
            if state.pins > 0 {
                return None;
            }
            let spans: Vec<_> = state.durable.spans.iter().map(|span| (span.segment, span.first_record)).collect();
            let needless = superseded(&spans, base_segment, state.through());
            state.durable.spans.drain(..needless);
            state.index.forget_before(state.durable.spans.first().map_or(0, |span| span.segment));
            Some(spans[..needless].iter().map(|(segment, _)| *segment).collect::<Vec<_>>())
        })?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        segments.iter().for_each(|segment| {
            files.remove(segment);
        });
        Some(segments)
    }

    /// Makes a commit that was written known to readers.
    pub(crate) fn push(&self, header: &CommitHeader, records: &[Record]) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.index.push(header);
        for record in records {
            state.end += 1;
            state.cached_bytes += record.payload.len() + CACHED_RECORD_BYTES;
            let payload = record.payload.clone();
            state.cache.push_back(Stored { number: state.end, kind: record.kind, payload });
            while state.cached_bytes > self.cache_bytes {
                let Some(oldest) = state.cache.pop_front() else { break };
                state.cached_bytes -= oldest.payload.len() + CACHED_RECORD_BYTES;
            }
        }
    }

    /// Lets go of the newest records; the disk has them.
    pub(crate) fn empty_cache(&self) {
        self.change(|state| {
            state.cache = VecDeque::new();
            state.cached_bytes = 0;
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        // Nothing panics between two changes that belong together, so that a poisoned lock still guards a whole state.
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, number: RecordNumber) -> Result<Where, Error> {
        let cached = self.read_state(|state| {
            let at = number.checked_sub(state.cache.front()?.number)?;
            state.cache.get(usize::try_from(at).ok()?).cloned()
        });
        if let Some(stored) = cached {
            return Ok(Where::Memory(stored));
        }
        let (located, carried) = self
            .read_state(|state| (state.index.find(number), (number <= state.through()).then(|| state.carried.clone())));
        match (located, carried) {
            (Some(located), _) => Ok(Where::Disk(located)),
            (None, Some(carried)) => carried.read(number)?.map(Where::Memory).ok_or_else(|| self.missing(number)),
            (None, None) => Err(self.missing(number)),
        }
    }

    fn located(&self, number: RecordNumber) -> Option<Located> {
        self.read_state(|state| state.index.find(number))
    }

    fn locate(&self, number: RecordNumber) -> Result<Located, Error> {
        self.located(number).ok_or_else(|| self.missing(number))
    }

    fn missing(&self, number: RecordNumber) -> Error {
        let last = self.read_state(|state| state.end);
        match &self.quarantine {
            Some(quarantine) if number > last => Error::Quarantined(quarantine.clone()),
            _ => Error::NoRecord { number, last },
        }
    }

    fn read_record(&self, number: RecordNumber, commit: Located) -> Result<Stored, Error> {
        let damaged = || Error::Damaged { number, segment: commit.segment };
        let file = self.file(commit.segment)?;
        let entries = commit.offset + HEADER_BYTES as u64;
        let payloads = entries + u64::from(commit.count) * ENTRY_BYTES as u64;
        let mut bytes = [0; ENTRY_BYTES];
        file.read_at(entries + (number - commit.first) * ENTRY_BYTES as u64, &mut bytes)?;
        let entry = Entry::decode(&bytes);
        if entry.number != number || entry.length as usize > RECORD_BYTES_MAX {
            return Err(damaged());
        }
        let mut payload = vec![0; entry.length as usize];
        // An offset that damage has moved may lie beyond the file, which the disk refuses.
        file.read_at(payloads + u64::from(entry.offset), &mut payload)?;
        if !entry.matches(&bytes, &payload) {
            return Err(damaged());
        }
        Ok(Stored { number, kind: entry.kind, payload: payload.into() })
    }

    fn read_commit(&self, commit: Located) -> Result<Vec<Stored>, Error> {
        let damaged = || Error::Damaged { number: commit.first, segment: commit.segment };
        let file = self.file(commit.segment)?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(commit.offset, &mut bytes)?;
        let header = CommitHeader::decode(&bytes)
            .filter(|h| (h.first_record, h.count) == (commit.first, commit.count))
            .ok_or_else(damaged)?;
        let mut body = vec![0; header.body_bytes as usize];
        file.read_at(commit.offset + HEADER_BYTES as u64, &mut body)?;
        let records = format::decode_body(&header, &body).ok_or_else(damaged)?;
        let body = Bytes::from(body);
        let stored = records.into_iter().map(|(entry, range)| Stored {
            number: entry.number,
            kind: entry.kind,
            payload: body.slice(range),
        });
        Ok(stored.collect())
    }

    fn file(&self, segment: u64) -> Result<Arc<dyn DiskFile>, Error> {
        let mut files: MutexGuard<'_, _> = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&format::segment_name(segment))?;
        if files.len() >= OPEN_FILES {
            // The oldest: a replay runs upwards and does not come back to it.
            files.pop_first();
        }
        files.insert(segment, file.clone());
        Ok(file)
    }
}
