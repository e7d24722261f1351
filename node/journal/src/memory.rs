//! The disk's faulty twin, in memory: it loses power, tears writes, fails syncs and flips bits on demand.
//!
//! Deterministic: it has no randomness of its own, every choice of a crash is the caller's. Clones share one disk. Memory
//! is spent only on bytes that are not zero, so that thousands of nodes with large pre-allocated segments fit a test.

use crate::{Disk, DiskFile, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Writes survive or vanish in blocks of this many bytes …
const BLOCK: usize = 4096;
/// … or, torn, in sectors of this many.
const SECTOR: usize = 512;

/// A disk in memory. See [`MemoryDisk::crash`] for what a power cut does to it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

type FileId = u64;

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<FileId, Content>,
    /// What a process sees.
    names: BTreeMap<String, FileId>,
    /// What is there after a power cut, at the least.
    durable_names: BTreeMap<String, FileId>,
    /// Files renamed since the last directory sync, by their durable name: they keep the one name or get the other.
    renamed: BTreeMap<String, String>,
    /// Blocks that cannot be read.
    unreadable: BTreeSet<(FileId, u64)>,
    capacity: Option<u64>,
    read_only: bool,
    next_file: FileId,
    operations: u64,
    power_lasts: Option<u64>,
    next_sync_fails: bool,
}

#[derive(Clone, Default)]
struct Content {
    length: u64,
    durable_length: u64,
    /// Blocks without their trailing zeros; absent means all zeros.
    blocks: BTreeMap<u64, Vec<u8>>,
    unsynced: BTreeMap<u64, Unsynced>,
}

/// A block that was changed since it was last durable.
#[derive(Clone)]
struct Unsynced {
    durable: Vec<u8>,
    /// Its sync failed. As on Linux, the page then counts as clean: a later sync reports success and does not write it.
    stuck: bool,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power and restores it. `choose(n)` returns a number below `n`, and decides for each name changed since
    /// the last directory sync whether the change survived, and for each 4,096-byte block written since the last sync of
    /// its file whether it survived whole, in some of its 512-byte sectors, or not at all.
    pub fn crash(&self, choose: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.lock();
        let state = &mut *state;
        let changed: Vec<String> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for (from, to) in std::mem::take(&mut state.renamed) {
            let Some(file) = state.names.get(&to).copied() else { continue };
            // Both names change together, whichever way it goes. What had the new name before may still have it, if the
            // file was not given it.
            if choose(2) == 0 {
                state.names.remove(&to);
                state.names.insert(from, file);
            } else {
                for names in [&mut state.names, &mut state.durable_names] {
                    names.remove(&from);
                    names.insert(to.clone(), file);
                }
            }
        }
        for name in changed {
            let (now, durable) = (state.names.get(&name).copied(), state.durable_names.get(&name).copied());
            if now == durable {
                continue;
            }
            let survivor = if choose(2) == 0 { durable } else { now };
            for names in [&mut state.names, &mut state.durable_names] {
                match survivor {
                    Some(file) => names.insert(name.clone(), file),
                    None => names.remove(&name),
                };
            }
        }
        state.forget_unnamed();
        for content in state.files.values_mut() {
            content.crash(choose);
        }
        state.power_lasts = None;
        state.next_sync_fails = false;
        state.read_only = false;
    }

    /// A disk of its own with what a power cut would leave for certain: the image that a backup of a stopped node is.
    #[must_use]
    pub fn durable_copy(&self) -> Self {
        let state = self.lock();
        let mut copy = State { names: state.durable_names.clone(), ..State::default() };
        copy.durable_names = copy.names.clone();
        copy.next_file = state.next_file;
        for (id, content) in state.files.iter().filter(|(id, _)| copy.names.values().any(|named| named == *id)) {
            let mut content = content.clone();
            for (block, unsynced) in std::mem::take(&mut content.unsynced) {
                content.blocks.insert(block, unsynced.durable);
            }
            content.length = content.durable_length;
            copy.files.insert(*id, content);
        }
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Lets `operations` more changing operations (write, sync, create, replace, remove, truncate) succeed; every later
    /// one fails until [`MemoryDisk::crash`].
    pub fn stop_after(&self, operations: u64) {
        self.lock().power_lasts = Some(operations);
    }

    /// How many changing operations were done so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Makes the next sync of a file fail; what it should have written is not durable, whatever later syncs say.
    pub fn fail_next_sync(&self) {
        self.lock().next_sync_fails = true;
    }

    /// Limits the bytes of all files, in whole blocks; `None` lifts the limit. What is there stays.
    pub fn limit(&self, capacity: Option<u64>) {
        self.lock().capacity = capacity;
    }

    /// Makes every later change fail, as on a file system that was mounted again for reading only.
    pub fn make_read_only(&self) {
        self.lock().read_only = true;
    }

    /// Makes reads that touch this 4,096-byte block of a file fail.
    pub fn make_unreadable(&self, file: &str, block: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let id = state.find(file)?;
        state.unreadable.insert((id, block));
        Ok(())
    }

    /// A disk of its own with the same content and the same unsynced changes.
    #[cfg(test)]
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// Stands for the names and contents of all files: two disks that a process could not tell apart have the same.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let state = self.lock();
        let mut hasher = DefaultHasher::new();
        for (name, id) in &state.names {
            let content = &state.files[id];
            let blocks = content.blocks.range(..content.length.div_ceil(BLOCK as u64));
            let written: Vec<_> = blocks.filter(|(_, bytes)| !bytes.is_empty()).collect();
            (name, content.length, written).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Flips one bit of a file, durably: bit `offset_bit % 8` of byte `offset_bit / 8`.
    pub fn flip_bit(&self, file: &str, offset_bit: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let id = state.find(file)?;
        let content = state.files.entry(id).or_default();
        let (offset, mask) = (offset_bit / 8, 1 << (offset_bit % 8));
        content.check(file, offset, 1)?;
        let (block, within) = (offset / BLOCK as u64, usize::try_from(offset % BLOCK as u64).unwrap_or(0));
        let flip = |bytes: &mut Vec<u8>| {
            bytes.resize(bytes.len().max(within + 1), 0);
            bytes[within] ^= mask;
        };
        flip(content.blocks.entry(block).or_default());
        if let Some(unsynced) = content.unsynced.get_mut(&block) {
            flip(&mut unsynced.durable);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed by code that cannot panic half-way, so that a poisoned lock still guards a whole state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: FileId, name: &str) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile { disk: self.clone(), id, name: name.to_owned() })
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> Result<Vec<String>, Error> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn DiskFile>, Error> {
        let mut state = self.lock();
        state.operate("create", name)?;
        if state.names.contains_key(name) {
            return Err(Error::io("create", name)(io::ErrorKind::AlreadyExists.into()));
        }
        state.check_room(name, length)?;
        let id = state.add(name, Content { length, durable_length: length, ..Content::default() });
        Ok(self.file(id, name))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, Error> {
        let id = self.lock().find(name)?;
        Ok(self.file(id, name))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.lock();
        state.operate("replace", name)?;
        let length = bytes.len() as u64;
        state.check_room(name, length)?;
        let mut content = Content { length, durable_length: length, ..Content::default() };
        content.write(0, bytes);
        content.unsynced.clear();
        state.add(name, content);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut state = self.lock();
        state.operate("rename", from)?;
        if state.names.contains_key(to) {
            return Err(Error::io("rename", from)(io::ErrorKind::AlreadyExists.into()));
        }
        let id = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), id);
        if state.durable_names.get(from) == Some(&id) {
            state.renamed.insert(from.to_owned(), to.to_owned());
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let mut state = self.lock();
        state.operate("remove", name)?;
        state.find(name)?;
        state.names.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), Error> {
        let mut state = self.lock();
        state.operate("sync", "the directory")?;
        state.durable_names = state.names.clone();
        state.renamed.clear();
        state.forget_unnamed();
        Ok(())
    }
}

impl State {
    /// Counts a changing operation, and refuses it if the power is off.
    fn operate(&mut self, operation: &'static str, name: &str) -> Result<(), Error> {
        match &mut self.power_lasts {
            Some(0) => return Err(Error::io(operation, name)(io::Error::other("the power is off"))),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.read_only {
            return Err(Error::io(operation, name)(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        self.operations += 1;
        Ok(())
    }

    /// Refuses a file that the disk has no room for.
    fn check_room(&self, name: &str, length: u64) -> Result<(), Error> {
        let blocks = |length: u64| length.next_multiple_of(BLOCK as u64);
        let used: u64 = self.names.values().filter_map(|id| self.files.get(id)).map(|f| blocks(f.length)).sum();
        let full = self.capacity.is_some_and(|capacity| used + blocks(length) > capacity);
        if full { Err(Error::io("create", name)(io::ErrorKind::StorageFull.into())) } else { Ok(()) }
    }

    fn find(&self, name: &str) -> Result<FileId, Error> {
        self.names.get(name).copied().ok_or_else(|| Error::io("open", name)(io::ErrorKind::NotFound.into()))
    }

    fn add(&mut self, name: &str, content: Content) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, content);
        self.names.insert(name.to_owned(), id);
        id
    }

    fn forget_unnamed(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.files.retain(|id, _| names.values().chain(durable.values()).any(|named| named == id));
    }
}

impl Content {
    fn check(&self, name: &str, offset: u64, length: usize) -> Result<(), Error> {
        let inside = offset.checked_add(length as u64).is_some_and(|end| end <= self.length);
        if inside { Ok(()) } else { Err(Error::io("reach", name)(io::ErrorKind::UnexpectedEof.into())) }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) {
        for (block, within, piece) in pieces(offset, buffer.len()) {
            let out = &mut buffer[piece];
            let stored = self.blocks.get(&block).and_then(|bytes| bytes.get(within..)).unwrap_or_default();
            let known = stored.len().min(out.len());
            out[..known].copy_from_slice(&stored[..known]);
            out[known..].fill(0);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (block, within, piece) in pieces(offset, bytes.len()) {
            let bytes = &bytes[piece];
            let stored = self.blocks.entry(block).or_default();
            let unsynced =
                self.unsynced.entry(block).or_insert_with(|| Unsynced { durable: stored.clone(), stuck: false });
            unsynced.stuck = false;
            stored.resize(stored.len().max(within + bytes.len()), 0);
            stored[within..within + bytes.len()].copy_from_slice(bytes);
            trim(stored);
        }
    }

    fn crash(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        for (block, unsynced) in std::mem::take(&mut self.unsynced) {
            let written = self.blocks.entry(block).or_default();
            match choose(3) {
                0 => *written = unsynced.durable,
                1 => {}
                _ => {
                    written.resize(BLOCK, 0);
                    let mut durable = unsynced.durable;
                    durable.resize(BLOCK, 0);
                    for (new, old) in written.chunks_mut(SECTOR).zip(durable.chunks(SECTOR)) {
                        if choose(2) == 0 {
                            new.copy_from_slice(old);
                        }
                    }
                    trim(written);
                }
            }
        }
        if self.length != self.durable_length && choose(2) == 0 {
            self.length = self.durable_length;
        }
        self.durable_length = self.length;
    }

    fn truncate(&mut self, length: u64) {
        let kept = length.div_ceil(BLOCK as u64);
        for (block, bytes) in self.blocks.split_off(&kept) {
            self.unsynced.entry(block).or_insert(Unsynced { durable: bytes, stuck: false });
        }
        self.length = length;
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    id: FileId,
    name: String,
}

impl MemoryFile {
    /// Runs `act` on the content, unless the file is gone.
    fn with<T>(&self, state: &mut State, act: impl FnOnce(&mut Content) -> Result<T, Error>) -> Result<T, Error> {
        let gone = || Error::io("reach", &self.name)(io::ErrorKind::NotFound.into());
        state.files.get_mut(&self.id).ok_or_else(gone).and_then(act)
    }
}

impl DiskFile for MemoryFile {
    fn length(&self) -> Result<u64, Error> {
        self.with(&mut self.disk.lock(), |content| Ok(content.length))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut state = self.disk.lock();
        if pieces(offset, buffer.len()).any(|(block, ..)| state.unreadable.contains(&(self.id, block))) {
            return Err(Error::io("read", &self.name)(io::Error::other("the simulated block cannot be read")));
        }
        self.with(&mut state, |content| {
            content.check(&self.name, offset, buffer.len())?;
            content.read(offset, buffer);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.disk.lock();
        state.operate("write", &self.name)?;
        self.with(&mut state, |content| {
            content.check(&self.name, offset, bytes.len())?;
            content.write(offset, bytes);
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), Error> {
        let mut state = self.disk.lock();
        state.operate("sync", &self.name)?;
        let fails = std::mem::take(&mut state.next_sync_fails);
        self.with(&mut state, |content| {
            if fails {
                content.unsynced.values_mut().for_each(|block| block.stuck = true);
                return Err(Error::io("sync", &self.name)(io::Error::other("the simulated sync fails")));
            }
            content.unsynced.retain(|_, block| block.stuck);
            content.durable_length = content.length;
            Ok(())
        })
    }

    fn truncate(&self, length: u64) -> Result<(), Error> {
        let mut state = self.disk.lock();
        state.operate("truncate", &self.name)?;
        self.with(&mut state, |content| {
            content.truncate(length);
            Ok(())
        })
    }
}

/// Splits a range of a file into (block, offset within it, range of the buffer).
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let first = usize::try_from(offset % BLOCK as u64).unwrap_or(0);
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = first + done;
        let piece = (BLOCK - at % BLOCK).min(length - done);
        let range = done..done + piece;
        done += piece;
        (piece > 0).then(|| (offset / BLOCK as u64 + (at / BLOCK) as u64, at % BLOCK, range))
    })
}

/// Drops trailing zeros and what they took.
fn trim(block: &mut Vec<u8>) {
    let used = block.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    block.truncate(used);
    block.shrink_to_fit();
}
