//! The store on disk: `files/ROOT` is a whole file, `ROOT.part` one that is being received, `ROOT.tree` the digests of its chunks
//! back to back; `upload-N` and `upload-N.tree` a file on its way in, which a start removes.
//!
//! A file gets its name only once all of it is durable, and the directory after it. A part has all of its room from the
//! beginning. The store is this node's alone.

mod upload;

use jincai_files::tree::{CHUNK_BYTES, PAGE_CHUNKS, chunks_of, page_len};
use jincai_files::{Content, Depot, Error, Store, Upload, Usage};
use jincai_types::Digest;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use upload::DiskUpload;

/// Files kept open.
const OPEN: usize = 16;
/// Of so many whole files, the newest, the trees are searched for chunks that a new file shares with them, and of so many
/// bytes of trees: 64 MiB stand for a TiB of files. Nothing of it stays in memory.
const SEARCHED_FILES: usize = 1024;
const SEARCHED_BYTES: u64 = 64 << 20;
/// Bytes of a digest in a tree.
const DIGEST: usize = 32;

/// How the store is bounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of files and parts.
    pub(crate) max_bytes: u64,
    /// Bytes that stay free on the disk.
    pub(crate) free_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Whole files: size, and the mark after which they came.
    whole: BTreeMap<Digest, (u64, u64)>,
    parts: BTreeMap<Digest, u64>,
    /// Bytes set aside for files on their way in.
    uploads: u64,
    /// Files that somebody holds.
    held: BTreeMap<Digest, usize>,
    /// Files and trees that are open, by name.
    open: BTreeMap<String, Arc<File>>,
    mark: u64,
    next_upload: u64,
}

/// The store.
#[derive(Debug)]
pub(crate) struct DiskStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    limits: Limits,
    state: Mutex<State>,
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Disk(format!("{what}: {error}"))
}

impl State {
    fn used(&self) -> u64 {
        let whole = self.whole.values().map(|(size, _)| *size);
        whole.chain(self.parts.values().copied()).fold(self.uploads, u64::saturating_add)
    }
}

impl DiskStore {
    /// Opens a store, and makes its directory.
    pub(crate) fn open(directory: &Path, limits: Limits) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(failed("its directory"))?;
        let mut state = State::default();
        let mut trees = BTreeSet::new();
        for entry in std::fs::read_dir(directory).map_err(failed("its directory"))? {
            let entry = entry.map_err(failed("its directory"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = entry.metadata().map_err(failed("a file"))?.len();
            match (name.split_once('.').unwrap_or((&name, "")), name.starts_with("upload-")) {
                (_, true) => std::fs::remove_file(entry.path()).map_err(failed("a file that was not whole"))?,
                ((root, ""), _) => drop(root.parse().map(|root| state.whole.insert(root, (size, 0)))),
                ((root, "part"), _) => drop(root.parse().map(|root| state.parts.insert(root, size))),
                ((root, "tree"), _) => drop(root.parse().map(|root: Digest| trees.insert(root))),
                _ => {}
            }
        }
        // Without its tree nothing of a file could be sent or found.
        state.whole.retain(|root, (size, _)| *size == 0 || trees.contains(root));
        Ok(Self(Arc::new(Inner { directory: directory.to_owned(), limits, state: Mutex::new(state) })))
    }

    /// A moment: what comes after it is not removed by [`Self::keep`].
    pub(crate) fn mark(&self) -> u64 {
        let mut state = self.0.state();
        state.mark += 1;
        state.mark
    }

    /// Removes whatever is not among these roots, was there at a mark, and is held by nobody.
    pub(crate) fn keep(&self, roots: &BTreeSet<Digest>, mark: u64) {
        let mut state = self.0.state();
        let held = &state.held;
        let free = |root: &Digest| !roots.contains(root) && !held.contains_key(root);
        let whole: Vec<Digest> =
            state.whole.iter().filter(|(root, (_, since))| free(root) && *since < mark).map(|(r, _)| *r).collect();
        // A part that became whole in another way is needed no more, either.
        let over = |root: &&Digest| free(root) || state.whole.contains_key(*root);
        let parts: Vec<Digest> = state.parts.keys().filter(over).copied().collect();
        let mut names: Vec<String> = whole.iter().map(ToString::to_string).chain(parts.iter().map(part)).collect();
        let trees = whole.iter().chain(parts.iter().filter(|root| !state.whole.contains_key(*root)));
        names.extend(trees.map(tree));
        for name in names {
            state.open.remove(&name);
            match std::fs::remove_file(self.0.directory.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(code = "JC-2011", %error, name, "a file that nobody needs could not be removed");
                }
                _ => tracing::debug!(name, "a file that nobody needs was removed"),
            }
        }
        state.whole.retain(|root, _| !whole.contains(root));
        state.parts.retain(|root, _| !parts.contains(root));
    }
}

fn part(root: &Digest) -> String {
    format!("{root}.part")
}

fn tree(root: &Digest) -> String {
    format!("{root}.tree")
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what would not fit, by the store's limit or the disk's.
    fn check_room(&self, state: &State, wanted: u64) -> Result<(), Error> {
        let (used, limit) = (state.used(), self.limits.max_bytes);
        let free = rustix::fs::statvfs(&self.directory).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        let scarce = free.is_ok_and(|free| free < wanted.saturating_add(self.limits.free_bytes));
        if used.saturating_add(wanted) > limit || scarce {
            return Err(Error::NoRoom { wanted, used, limit });
        }
        Ok(())
    }

    /// A file, kept open for the next time.
    fn file(&self, name: &str) -> Result<Arc<File>, Error> {
        if let Some(open) = self.state().open.get(name) {
            return Ok(Arc::clone(open));
        }
        let opened = OpenOptions::new().read(true).write(true).open(self.directory.join(name));
        Ok(self.remember(name, opened.map_err(failed("a file"))?))
    }

    fn remember(&self, name: &str, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let mut state = self.state();
        if state.open.len() >= OPEN {
            state.open.pop_first();
        }
        state.open.insert(name.to_owned(), Arc::clone(&file));
        file
    }

    fn create(&self, name: &str) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        options.open(self.directory.join(name)).map_err(failed("a new file"))
    }

    fn sync_directory(&self) -> Result<(), Error> {
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed("its directory"))
    }

    /// Makes the part with all its room.
    fn make_part(&self, root: &Digest, size: u64) -> Result<(), Error> {
        let file = self.create(&part(root))?;
        if size > 0 {
            match fallocate(&file, FallocateFlags::empty(), 0, size) {
                Ok(()) => {}
                // A file system that cannot set room aside gives it as it comes.
                Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size).map_err(failed("a part"))?,
                Err(rustix::io::Errno::NOSPC) => {
                    let (used, limit) = (self.state().used(), self.limits.max_bytes);
                    return Err(Error::NoRoom { wanted: size, used, limit });
                }
                Err(error) => return Err(failed("a part")(error.into())),
            }
        }
        let digests = self.create(&tree(root))?;
        file.sync_all().and_then(|()| digests.sync_all()).map_err(failed("a part"))?;
        self.sync_directory()?;
        self.remember(&tree(root), digests);
        self.remember(&part(root), file);
        Ok(())
    }
}

impl Store for DiskStore {
    fn size_of(&self, root: &Digest) -> Option<u64> {
        self.0.state().whole.get(root).map(|(size, _)| *size)
    }

    fn begin(&self, root: &Digest, size: u64) -> Result<bool, Error> {
        {
            let mut state = self.0.state();
            if state.parts.get(root) == Some(&size) {
                return Ok(false);
            }
            self.0.check_room(&state, size)?;
            state.parts.insert(*root, size);
            state.open.remove(&part(root));
            state.open.remove(&tree(root));
        }
        let made = self.0.make_part(root, size);
        if made.is_err() {
            // An error leaves what it left to the next start, and takes no room in the count.
            drop(std::fs::remove_file(self.0.directory.join(part(root))));
            self.0.state().parts.remove(root);
        }
        made.map(|()| true)
    }

    fn has_part(&self, root: &Digest) -> bool {
        self.0.state().parts.contains_key(root)
    }

    fn write(&self, root: &Digest, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.file(&part(root))?.write_all_at(bytes, at).map_err(failed("writing a part"))
    }

    fn read_part(&self, root: &Digest, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.0.file(&part(root))?.read_exact_at(bytes, at).map_err(failed("reading a part"))
    }

    fn put_page(&self, root: &Digest, page: u32, digests: &[Digest]) -> Result<(), Error> {
        let at = u64::from(page) * PAGE_CHUNKS * DIGEST as u64;
        let bytes = jincai_files::tree::join_digests(digests);
        self.0.file(&tree(root))?.write_all_at(&bytes, at).map_err(failed("writing a tree"))
    }

    fn page(&self, root: &Digest, page: u32) -> Result<Vec<Digest>, Error> {
        let state = self.0.state();
        let size = state.whole.get(root).map(|(size, _)| *size).or_else(|| state.parts.get(root).copied());
        drop(state);
        let size = size.ok_or_else(|| Error::Disk("there is no such file".into()))?;
        let length = usize::try_from(page_len(size, page)).unwrap_or(usize::MAX).saturating_mul(DIGEST);
        let mut bytes = vec![0; length];
        let at = u64::from(page) * PAGE_CHUNKS * DIGEST as u64;
        // A tree that is too short is a damaged one, which its digest tells.
        match self.0.file(&tree(root))?.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(failed("reading a tree")(error)),
            _ => Ok(jincai_files::tree::split_digests(&bytes).unwrap_or_default()),
        }
    }

    fn sync(&self, root: &Digest) -> Result<(), Error> {
        self.0.file(&part(root))?.sync_data().map_err(failed("syncing a part"))?;
        self.0.file(&tree(root))?.sync_data().map_err(failed("syncing a tree"))
    }

    fn publish(&self, root: &Digest, size: u64) -> Result<(), Error> {
        self.0.file(&part(root))?.sync_all().map_err(failed("syncing a part"))?;
        self.0.file(&tree(root))?.sync_all().map_err(failed("syncing a tree"))?;
        let (from, to) = (self.0.directory.join(part(root)), self.0.directory.join(root.to_string()));
        std::fs::rename(from, to).map_err(failed("naming a whole file"))?;
        self.0.sync_directory()?;
        let mut state = self.0.state();
        let mark = state.mark;
        state.open.remove(&part(root));
        state.parts.remove(root);
        state.whole.insert(*root, (size, mark));
        Ok(())
    }

    fn read(&self, root: &Digest, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        match self.0.file(&root.to_string())?.read_exact_at(bytes, at) {
            // It was cut off: what is missing is not what the tree promises.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            other => other.map_err(failed("reading a file")),
        }
    }

    fn find(&self, digests: &[Digest]) -> Vec<Option<(Digest, u64)>> {
        let mut wanted: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        // A page of a new file shares nothing with most files: two bytes of a digest tell that for all but one in sixteen.
        let mut likely = vec![false; 1 << 16];
        let short = |digest: &[u8]| usize::from(u16::from_be_bytes([digest[0], digest[1]]));
        for (at, digest) in digests.iter().enumerate() {
            wanted.entry(*digest).or_default().push(at);
            likely[short(&digest.0)] = true;
        }
        let mut found = vec![None; digests.len()];
        let mut searched = 0;
        for (root, size) in self.0.newest() {
            let length = chunks_of(size) * DIGEST as u64;
            searched += length;
            if searched > SEARCHED_BYTES {
                break;
            }
            let Ok(bytes) = std::fs::read(self.0.directory.join(tree(&root))) else { continue };
            for (chunk, digest) in (0..).zip(bytes.as_chunks::<DIGEST>().0) {
                if !likely[short(digest)] {
                    continue;
                }
                for at in wanted.get(&Digest(*digest)).into_iter().flatten() {
                    found[*at] = Some((root, chunk));
                }
            }
        }
        found
    }
}

impl Inner {
    /// Whole files that a new one may share chunks with, newest first.
    fn newest(&self) -> Vec<(Digest, u64)> {
        let whole: Vec<(Digest, u64)> = self.state().whole.iter().map(|(root, (size, _))| (*root, *size)).collect();
        let time = |root: &Digest| {
            let metadata = std::fs::metadata(self.directory.join(root.to_string()));
            metadata.map_or((0, 0), |found| (found.mtime(), found.mtime_nsec()))
        };
        let mut whole: Vec<_> = whole.into_iter().map(|(root, size)| (time(&root), root, size)).collect();
        whole.sort_unstable_by(|a, b| b.cmp(a));
        whole.into_iter().take(SEARCHED_FILES).map(|(_, root, size)| (root, size)).collect()
    }
}

struct OpenFile(File);

impl Content for OpenFile {
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < bytes.len() {
            match self.0.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading a file")(error)),
            }
        }
        Ok(done)
    }
}

/// Holds a whole file.
struct Hold(Arc<Inner>, Digest);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state();
        // Whoever was told to tidy before this moment does not know yet who needs the file now.
        let mark = state.mark;
        if let Some((_, since)) = state.whole.get_mut(&self.1) {
            *since = mark;
        }
        if let Some(holders) = state.held.get_mut(&self.1) {
            *holders -= 1;
            if *holders == 0 {
                state.held.remove(&self.1);
            }
        }
    }
}

impl Depot for DiskStore {
    fn upload(&self) -> Result<Box<dyn Upload>, Error> {
        Ok(Box::new(DiskUpload::new(Arc::clone(&self.0))?))
    }

    fn open(&self, root: &Digest) -> Result<Box<dyn Content>, Error> {
        let opened = File::open(self.0.directory.join(root.to_string()));
        Ok(Box::new(OpenFile(opened.map_err(failed("opening a file"))?)))
    }

    fn usage(&self) -> Usage {
        let state = self.0.state();
        let (files, parts) = (state.whole.len() as u64, state.parts.len() as u64);
        Usage { used: state.used(), limit: self.0.limits.max_bytes, files, parts }
    }
}

/// How much room an upload sets aside at a time.
const STEP: u64 = 16 * CHUNK_BYTES;
