//! Reads records by number while the engine writes.
//!
//! The newest records come from a bounded cache, others from the disk by position. Every payload is checked against its
//! checksum on its way: a reader returns what was appended or an error, never anything else.

use crate::format::{self, CommitHeader, ENTRY_BYTES, Entry, HEADER_BYTES};
use crate::index::{Index, Located};
use crate::{Disk, DiskFile, Error, Quarantine, RECORD_BYTES_MAX, Record, Stored};
use bytes::Bytes;
use jincai_types::RecordNumber;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Most segment files kept open for readers.
const OPEN_FILES: usize = 64;
/// What a cached record costs besides its payload, in bytes.
const CACHED_RECORD_BYTES: usize = 64;

/// A journal that can be read.
pub trait Log: Send + Sync {
    /// The record of this number.
    fn read(&self, number: RecordNumber) -> Result<Stored, Error>;

    /// Calls `each` for the records from `from` on, in order, up to the one that was the last when the replay began. An
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

struct State {
    index: Index,
    end: RecordNumber,
    /// The newest records, consecutive up to `end`.
    cache: VecDeque<Stored>,
    cached_bytes: usize,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Log for Reader {
    fn read(&self, number: RecordNumber) -> Result<Stored, Error> {
        match self.0.find(number)? {
            Where::Cache(stored) => Ok(stored),
            Where::Disk(commit) => self.0.read_record(number, commit),
        }
    }

    fn replay(&self, from: RecordNumber, each: &mut dyn FnMut(Stored) -> Result<(), Error>) -> Result<(), Error> {
        let end = self.end();
        let mut number = from.max(1);
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
    Cache(Stored),
    Disk(Located),
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        index: Index,
        end: RecordNumber,
        cache_bytes: usize,
        quarantine: &Option<Quarantine>,
    ) -> Self {
        let state = State { index, end, cache: VecDeque::new(), cached_bytes: 0 };
        let files = Mutex::new(BTreeMap::new());
        Self { disk, state: RwLock::new(state), files, cache_bytes, quarantine: quarantine.clone() }
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

    fn read_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        // Nothing panics between two changes that belong together, so that a poisoned lock still guards a whole state.
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, number: RecordNumber) -> Result<Where, Error> {
        let cached = self.read_state(|state| {
            let at = number.checked_sub(state.cache.front()?.number)?;
            state.cache.get(usize::try_from(at).ok()?).cloned()
        });
        match cached {
            Some(stored) => Ok(Where::Cache(stored)),
            None => self.locate(number).map(Where::Disk),
        }
    }

    fn locate(&self, number: RecordNumber) -> Result<Located, Error> {
        let (located, last) = self.read_state(|state| (state.index.find(number), state.end));
        match (located, &self.quarantine) {
            (Some(located), _) => Ok(located),
            (None, Some(quarantine)) if number > last => Err(Error::Quarantined(quarantine.clone())),
            (None, _) => Err(Error::NoRecord { number, last }),
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
