//! Immutable files that records name by digest: dictionary snapshots, Parquet files, archives.
//!
//! A file appears whole, under the SHA-256 of its content, and durable, or not at all; so a record that names it may be
//! appended as soon as [`BlobWriter::finish`] returned. Nothing here changes a file, and nothing removes one by itself:
//! the room that wrote it knows when no record needs it.

use crate::Error;
use crate::disk::{create_directory, list_directory};
use jincai_types::Digest;
use ring::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes gathered before they are written to the file.
const BUFFER_BYTES: usize = 64 << 10;
/// Unfinished files end so.
const UNFINISHED: &str = ".unfinished";

/// A store of immutable files.
pub trait Blobs: Send + Sync {
    /// Begins a new file.
    fn create(&self) -> Result<Box<dyn BlobWriter>, Error>;

    /// Opens a file for reading.
    fn open(&self, digest: &Digest) -> Result<Arc<dyn Blob>, Error>;

    /// The digests of all files, in order.
    fn list(&self) -> Result<Vec<Digest>, Error>;

    /// Removes a file; one that is not there is removed already. Readers that have it open keep it.
    fn remove(&self, digest: &Digest) -> Result<(), Error>;
}

/// A file being written. Dropped unfinished, it leaves nothing.
pub trait BlobWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// How many bytes were written.
    fn position(&self) -> u64;

    /// Makes the file durable and visible; returns the SHA-256 of its content. The same content twice is one file.
    fn finish(self: Box<Self>) -> Result<Digest, Error>;
}

/// An immutable file.
pub trait Blob: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills the buffer from `offset`; a read beyond the end is refused.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;
}

/// A store in a directory; each file is named by its digest in hexadecimal.
pub struct DirBlobs {
    path: Arc<PathBuf>,
    next: AtomicU64,
}

impl DirBlobs {
    /// Opens the directory, creating it if need be, and removes what an earlier run left unfinished. The directory must
    /// lie under the lock of the node's journal: it has none of its own.
    pub fn open(path: &Path) -> Result<Self, Error> {
        create_directory(path)?;
        for name in list_directory(path)?.iter().filter(|name| name.ends_with(UNFINISHED)) {
            let path = path.join(name);
            std::fs::remove_file(&path).map_err(Error::io("remove", show(&path)))?;
        }
        Ok(Self { path: Arc::new(path.to_owned()), next: AtomicU64::new(0) })
    }
}

impl Blobs for DirBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number:016x}{UNFINISHED}"));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Error::io("create", show(&path)))?;
        let unfinished = Unfinished(path);
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let context = Context::new(&SHA256);
        Ok(Box::new(DirWriter { directory: self.path.clone(), unfinished, file, context, position: 0 }))
    }

    fn open(&self, digest: &Digest) -> Result<Arc<dyn Blob>, Error> {
        let path = self.path.join(digest.to_string());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NoBlob { digest: *digest }),
            Err(e) => return Err(Error::io("open", show(&path))(e)),
        };
        let length = file.metadata().map_err(Error::io("measure", show(&path)))?.len();
        Ok(Arc::new(DirBlob { file, length, path }))
    }

    fn list(&self) -> Result<Vec<Digest>, Error> {
        Ok(list_directory(&self.path)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn remove(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.path.join(digest.to_string());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", show(&path))(e)),
            _ => sync_directory(&self.path),
        }
    }
}

/// Removes the file when dropped; a finished one has another name by then.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // If this fails, the next start removes it.
        let _gone = std::fs::remove_file(&self.0).is_ok();
    }
}

struct DirWriter {
    directory: Arc<PathBuf>,
    unfinished: Unfinished,
    file: BufWriter<File>,
    context: Context,
    position: u64,
}

impl BlobWriter for DirWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io("write", show(&self.unfinished.0)))?;
        self.context.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn finish(mut self: Box<Self>) -> Result<Digest, Error> {
        let shown = show(&self.unfinished.0);
        self.file.flush().map_err(Error::io("write", &shown))?;
        self.file.get_ref().sync_all().map_err(Error::io("sync", &shown))?;
        let digest = digest_of(self.context);
        let path = self.directory.join(digest.to_string());
        std::fs::rename(&self.unfinished.0, path).map_err(Error::io("rename", shown))?;
        sync_directory(&self.directory)?;
        Ok(digest)
    }
}

struct DirBlob {
    file: File,
    length: u64,
    path: PathBuf,
}

impl Blob for DirBlob {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        check_range(offset, buffer.len(), self.length)?;
        self.file.read_exact_at(buffer, offset).map_err(Error::io("read", show(&self.path)))
    }
}

/// A store in memory; clones share it. What is finished survives everything.
#[derive(Clone, Default)]
pub struct MemoryBlobs(Arc<Mutex<BTreeMap<Digest, Arc<Vec<u8>>>>>);

impl MemoryBlobs {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Flips one bit of a file: bit `offset_bit % 8` of byte `offset_bit / 8`. Who has it open does not see it.
    #[cfg(test)]
    pub(crate) fn flip_bit(&self, digest: &Digest, offset_bit: u64) {
        let mut store = self.lock();
        let bytes = store.get_mut(digest).map(Arc::make_mut).expect("the file is there");
        bytes[(offset_bit / 8) as usize] ^= 1 << (offset_bit % 8);
    }

    /// A store of its own with the same files.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Vec<u8>>>> {
        // Every change is one insertion or removal, so that a poisoned lock still guards a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs for MemoryBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        Ok(Box::new(MemoryWriter { store: self.clone(), bytes: Vec::new() }))
    }

    fn open(&self, digest: &Digest) -> Result<Arc<dyn Blob>, Error> {
        let found = self.lock().get(digest).cloned();
        let blob: Arc<dyn Blob> = found.map(MemoryBlob).map(Arc::new).ok_or(Error::NoBlob { digest: *digest })?;
        Ok(blob)
    }

    fn list(&self) -> Result<Vec<Digest>, Error> {
        Ok(self.lock().keys().copied().collect())
    }

    fn remove(&self, digest: &Digest) -> Result<(), Error> {
        self.lock().remove(digest);
        Ok(())
    }
}

struct MemoryWriter {
    store: MemoryBlobs,
    bytes: Vec<u8>,
}

impl BlobWriter for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn finish(self: Box<Self>) -> Result<Digest, Error> {
        let mut context = Context::new(&SHA256);
        context.update(&self.bytes);
        let digest = digest_of(context);
        self.store.lock().insert(digest, Arc::new(self.bytes));
        Ok(digest)
    }
}

struct MemoryBlob(Arc<Vec<u8>>);

impl Blob for MemoryBlob {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        check_range(offset, buffer.len(), self.len())?;
        let start = usize::try_from(offset).expect("within a vector");
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

fn check_range(offset: u64, length: usize, end: u64) -> Result<(), Error> {
    let length = length as u64;
    let inside = offset.checked_add(length).is_some_and(|to| to <= end);
    if inside { Ok(()) } else { Err(Error::BlobRange { offset, length }) }
}

fn digest_of(context: Context) -> Digest {
    Digest(context.finish().as_ref().try_into().expect("SHA-256 is 32 bytes"))
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::io("sync", show(path)))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
