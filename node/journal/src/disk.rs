//! The seam under the journal: a flat directory of files that are written by position. [`DirDisk`] is the real one.
//!
//! What a disk promises: bytes written to a file are durable once its [`DiskFile::sync`] returned; a name that was
//! created, replaced or removed is durable once [`Disk::sync_dir`] returned; until then any part of it may survive a power
//! cut, or not. A disk refuses a second process. It never retries: after a failed sync nothing is known about the file.

use crate::Error;
use crate::format::BLOCK;
use rustix::fs::OFlags;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Zeros are written in pieces of this many bytes.
const ZEROS: usize = 1 << 20;
/// Journal files are for the node's own account only.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
const LOCK: &str = "LOCK";
/// A replacement is written under this name first.
const REPLACEMENT: &str = "HEAD.new";
/// A segment is prepared under this name.
const PREPARED: &str = "NEXT.new";

/// A directory of files.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files, in order.
    fn list(&self) -> Result<Vec<String>, Error>;

    /// Creates a file of zeros; they are durable on return, its name is not. The name must be free. Where there is no room
    /// for all of it ([`Error::is_full`]) there is nothing of it.
    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn DiskFile>, Error>;

    /// A file of this length will be created before long: what takes long may begin now. May be called again and again.
    fn prepare(&self, _length: u64) {}

    /// Gives back the room that a prepared file takes.
    fn unprepare(&self) {}

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, Error>;

    /// Replaces a small file as a whole: after a power cut it is the old one or the new one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Gives a file another, free name: after a power cut it has the one or the other.
    fn rename(&self, from: &str, to: &str) -> Result<(), Error>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), Error>;

    /// Makes created, replaced and removed names durable.
    fn sync_dir(&self) -> Result<(), Error>;
}

/// An open file. Reads and writes name their position, so that many readers share it.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> Result<u64, Error>;

    /// Fills the buffer from `offset`; a read beyond the end fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// Writes all bytes at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Makes what was written durable (`fdatasync`).
    fn sync(&self) -> Result<(), Error>;

    /// Cuts the file to a length, or lengthens it with zeros.
    fn truncate(&self, length: u64) -> Result<(), Error>;
}

/// A directory of the operating system, locked for this process as long as the value lives.
///
/// Whole blocks go past the page cache where the file system permits it (`O_DIRECT`): a node writes what it hardly ever
/// reads, and copying it into pages costs more than all else that a write does.
pub struct DirDisk {
    path: PathBuf,
    directory: File,
    prepared: Mutex<Option<Prepared>>,
    _lock: File,
}

/// A file that a thread fills with zeros, under a name of its own.
struct Prepared {
    length: u64,
    thread: JoinHandle<Result<DirFile, Error>>,
}

impl DirDisk {
    /// Opens the directory, creating it if need be; refuses one that another process (or this one) has open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        create_directory(path)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path.join(LOCK))
            .map_err(Error::io("open the lock file of", &shown))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { directory: shown }),
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", shown)(e)),
        }
        let directory = File::open(path).map_err(Error::io("open", &shown))?;
        // What a run before has prepared and not used.
        match std::fs::remove_file(path.join(PREPARED)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove from", shown)(error)),
            _ => Ok(Self { path: path.to_owned(), directory, prepared: Mutex::new(None), _lock: lock }),
        }
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        // Whoever holds the lock replaces the value as a whole.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that was prepared with this length, under its name.
    fn use_prepared(&self, name: &str, length: u64) -> Option<DirFile> {
        let prepared = self.prepared().take_if(|prepared| prepared.length == length)?;
        let (from, to) = (self.path.join(PREPARED), self.path.join(name));
        // One that could not be prepared is created now, which says why it cannot be.
        let mut file = prepared.thread.join().ok()?.ok()?;
        if to.exists() || std::fs::rename(&from, &to).is_err() {
            let _gone = std::fs::remove_file(from).is_ok();
            return None;
        }
        file.shown = to.display().to_string();
        Some(file)
    }

    fn options(&self, name: &str) -> (OpenOptions, PathBuf, String) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(FILE_MODE);
        let path = self.path.join(name);
        let shown = path.display().to_string();
        (options, path, shown)
    }
}

impl Disk for DirDisk {
    fn list(&self) -> Result<Vec<String>, Error> {
        list_directory(&self.path)
    }

    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn DiskFile>, Error> {
        if let Some(file) = self.use_prepared(name, length) {
            return Ok(Arc::new(file));
        }
        let (options, path, shown) = self.options(name);
        create(options, &path, shown, length).map(|file| Arc::new(file) as Arc<dyn DiskFile>)
    }

    fn prepare(&self, length: u64) {
        let mut prepared = self.prepared();
        if prepared.is_none() {
            let (options, path, shown) = self.options(PREPARED);
            let create = move || create(options, &path, shown, length);
            // Without a thread the file is created when it is needed.
            let thread = std::thread::Builder::new().name("segment".into()).spawn(create).ok();
            *prepared = thread.map(|thread| Prepared { length, thread });
        }
    }

    fn unprepare(&self) {
        let prepared = self.prepared().take();
        if let Some(prepared) = prepared {
            // Whether it was finished or not, there is nothing of it afterwards.
            let _done = prepared.thread.join().is_ok();
            let _gone = std::fs::remove_file(self.path.join(PREPARED)).is_ok();
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, Error> {
        let (options, path, shown) = self.options(name);
        let file = options.open(&path).map_err(Error::io("open", &shown))?;
        Ok(Arc::new(DirFile { direct: open_direct(options, &path), file, shown }))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (mut options, path, shown) = self.options(REPLACEMENT);
        let mut file = options.create(true).truncate(true).open(&path).map_err(Error::io("create", &shown))?;
        file.write_all(bytes).map_err(Error::io("write", &shown))?;
        file.sync_all().map_err(Error::io("sync", &shown))?;
        std::fs::rename(&path, self.path.join(name)).map_err(Error::io("rename", &shown))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (_, path, shown) = self.options(from);
        std::fs::rename(path, self.path.join(to)).map_err(Error::io("rename", shown))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let (_, path, shown) = self.options(name);
        std::fs::remove_file(path).map_err(Error::io("remove", shown))
    }

    fn sync_dir(&self) -> Result<(), Error> {
        self.directory.sync_all().map_err(Error::io("sync", self.path.display().to_string()))
    }
}

impl Drop for DirDisk {
    fn drop(&mut self) {
        // The lock goes with this value: nothing may be written in the directory behind it.
        self.unprepare();
    }
}

struct DirFile {
    file: File,
    /// The same file, past the page cache; `None` where the file system does not know that.
    direct: Option<File>,
    shown: String,
}

fn open_direct(mut options: OpenOptions, path: &Path) -> Option<File> {
    options.custom_flags(i32::try_from(OFlags::DIRECT.bits()).ok()?).open(path).ok()
}

/// Whether bytes can go to this place past the page cache: all of it in whole blocks.
fn is_aligned(offset: u64, bytes: &[u8]) -> bool {
    let block = usize::try_from(BLOCK).expect("a block is 4,096 bytes");
    offset.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(block) && bytes.as_ptr().align_offset(block) == 0
}

fn create(mut options: OpenOptions, path: &Path, shown: String, length: u64) -> Result<DirFile, Error> {
    let file = options.create_new(true).open(path).map_err(Error::io("create", &shown))?;
    let direct = open_direct(options.create_new(false).clone(), path);
    let file = DirFile { file, direct, shown };
    if let Err(error) = write_zeros(&file, length) {
        // If this fails too, the file is one that was never finished.
        let _gone = std::fs::remove_file(path).is_ok();
        return Err(error);
    }
    Ok(file)
}

impl DiskFile for DirFile {
    fn length(&self) -> Result<u64, Error> {
        self.file.metadata().map(|m| m.len()).map_err(Error::io("measure", &self.shown))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buffer, offset).map_err(Error::io("read", &self.shown))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let direct = self.direct.as_ref().filter(|_| is_aligned(offset, bytes));
        direct.unwrap_or(&self.file).write_all_at(bytes, offset).map_err(Error::io("write", &self.shown))
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io("sync", &self.shown))
    }

    fn truncate(&self, length: u64) -> Result<(), Error> {
        self.file.set_len(length).map_err(Error::io("truncate", &self.shown))
    }
}

fn write_zeros(file: &DirFile, length: u64) -> Result<(), Error> {
    let block = usize::try_from(BLOCK).expect("a block is 4,096 bytes");
    let zeros = vec![0; ZEROS + block];
    let zeros = &zeros[zeros.as_ptr().align_offset(block).min(block)..];
    let mut offset = 0;
    while offset < length {
        let piece = usize::try_from(length - offset).map_or(ZEROS, |left| left.min(ZEROS));
        file.write_at(offset, &zeros[..piece])?;
        offset += piece as u64;
    }
    file.file.sync_all().map_err(Error::io("sync", &file.shown))
}

/// Creates a directory for this account only, and makes its name durable.
pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    let shown = path.display().to_string();
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(Error::io("create", &shown))?;
    // A relative path of one part has the empty path as its parent, which means the current directory.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::io("sync the parent of", shown))
}

/// The names in a directory that are UTF-8, in order.
pub(crate) fn list_directory(path: &Path) -> Result<Vec<String>, Error> {
    let shown = path.display().to_string();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io("list", &shown))? {
        let entry = entry.map_err(Error::io("list", &shown))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
