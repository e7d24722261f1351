//! The seam under the journal: a flat directory of files that are written by position. [`DirDisk`] is the real one.
//!
//! What a disk promises: bytes written to a file are durable once its [`DiskFile::sync`] returned; a name that was
//! created, replaced or removed is durable once [`Disk::sync_dir`] returned; until then any part of it may survive a power
//! cut, or not. A disk refuses a second process. It never retries: after a failed sync nothing is known about the file.

use crate::Error;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Zeros are written in pieces of this many bytes.
const ZEROS: usize = 1 << 20;
/// Journal files are for the node's own account only.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
const LOCK: &str = "LOCK";
/// A replacement is written under this name first.
const REPLACEMENT: &str = "HEAD.new";

/// A directory of files.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files, in order.
    fn list(&self) -> Result<Vec<String>, Error>;

    /// Creates a file of zeros; they are durable on return, its name is not. The name must be free. Where there is no room
    /// for all of it ([`Error::is_full`]) there is nothing of it.
    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn DiskFile>, Error>;

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
pub struct DirDisk {
    path: PathBuf,
    directory: File,
    _lock: File,
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
        let directory = File::open(path).map_err(Error::io("open", shown))?;
        Ok(Self { path: path.to_owned(), directory, _lock: lock })
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
        let (mut options, path, shown) = self.options(name);
        let mut file = options.create_new(true).open(&path).map_err(Error::io("create", &shown))?;
        if let Err(error) = write_zeros(&mut file, length, &shown) {
            // If this fails too, the file is one that was never finished.
            let _gone = std::fs::remove_file(path).is_ok();
            return Err(error);
        }
        Ok(Arc::new(DirFile { file, shown }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, Error> {
        let (options, path, shown) = self.options(name);
        let file = options.open(path).map_err(Error::io("open", &shown))?;
        Ok(Arc::new(DirFile { file, shown }))
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

struct DirFile {
    file: File,
    shown: String,
}

impl DiskFile for DirFile {
    fn length(&self) -> Result<u64, Error> {
        self.file.metadata().map(|m| m.len()).map_err(Error::io("measure", &self.shown))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buffer, offset).map_err(Error::io("read", &self.shown))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(Error::io("write", &self.shown))
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::io("sync", &self.shown))
    }

    fn truncate(&self, length: u64) -> Result<(), Error> {
        self.file.set_len(length).map_err(Error::io("truncate", &self.shown))
    }
}

fn write_zeros(file: &mut File, length: u64, shown: &str) -> Result<(), Error> {
    let zeros = vec![0; ZEROS];
    let mut left = length;
    while left > 0 {
        let piece = usize::try_from(left).map_or(ZEROS, |left| left.min(ZEROS));
        file.write_all(&zeros[..piece]).map_err(Error::io("pre-allocate", shown))?;
        left -= piece as u64;
    }
    file.sync_all().map_err(Error::io("sync", shown))
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
