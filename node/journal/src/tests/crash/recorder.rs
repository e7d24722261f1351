//! A disk that remembers what it held before each changing operation, and what its user knew then.

use crate::{Blob, BlobWriter, Blobs, Disk, DiskFile, Error, MemoryBlobs, MemoryDisk};
use jincai_types::{Digest, RecordNumber};
use std::sync::{Arc, Mutex};

/// What the user of a journal was told, or has asked for, up to some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Known {
    /// Records up to this one must be there.
    pub(super) durable: RecordNumber,
    /// Records beyond this one must not.
    pub(super) given: RecordNumber,
    /// The base that is in place covers records up to here; 0 is none.
    pub(super) based: RecordNumber,
    /// A base up to here may be in place already.
    pub(super) basing: RecordNumber,
    /// Whether the journal may call the end of the run a clean one.
    pub(super) may_be_clean: bool,
    /// Whether it must.
    pub(super) is_clean: bool,
}

/// A disk before one operation, with everything that is not durable yet.
pub(super) struct Moment {
    /// What was done next.
    pub(super) next: String,
    pub(super) disk: MemoryDisk,
    pub(super) blobs: MemoryBlobs,
    pub(super) known: Known,
}

#[derive(Default)]
struct Log {
    moments: Vec<Moment>,
    known: Known,
}

/// Records what is done to a disk and to a store of files. Clones share it.
#[derive(Clone)]
pub(super) struct Recorder {
    pub(super) disk: MemoryDisk,
    pub(super) blobs: MemoryBlobs,
    log: Arc<Mutex<Log>>,
}

impl Recorder {
    pub(super) fn new(disk: MemoryDisk, blobs: MemoryBlobs) -> Self {
        Self { disk, blobs, log: Arc::default() }
    }

    /// The user has learnt or asked for something.
    pub(super) fn know(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.log.lock().expect("no test panics with it").known);
    }

    /// Every moment, the end included.
    pub(super) fn moments(&self) -> Vec<Moment> {
        self.note("the end", self.disk.fork());
        std::mem::take(&mut self.log.lock().expect("no test panics with it").moments)
    }

    fn before(&self, operation: &str, name: &str) {
        self.note(&format!("{operation} {name}"), self.disk.fork());
    }

    fn note(&self, next: &str, disk: MemoryDisk) {
        let mut log = self.log.lock().expect("no test panics with it");
        let (next, blobs, known) = (next.to_owned(), self.blobs.copy(), log.known);
        log.moments.push(Moment { next, disk, blobs, known });
    }

    /// A real directory makes a file in steps: a power cut may leave it with any length.
    fn half_made(&self, name: &str, length: u64) {
        for length in [0, 100, length / 8192 * 4096, length.saturating_sub(1)] {
            let disk = self.disk.fork();
            if disk.create(name, length).is_ok() {
                self.note(&format!("{name} with {length} bytes"), disk);
            }
        }
    }
}

impl Disk for Recorder {
    fn list(&self) -> Result<Vec<String>, Error> {
        self.disk.list()
    }

    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn DiskFile>, Error> {
        self.before("create", name);
        self.half_made(name, length);
        let file = self.disk.create(name, length)?;
        Ok(Arc::new(RecordedFile { recorder: self.clone(), file, name: name.to_owned() }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, Error> {
        let file = self.disk.open(name)?;
        Ok(Arc::new(RecordedFile { recorder: self.clone(), file, name: name.to_owned() }))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.before("replace", name);
        self.half_made("HEAD.new", bytes.len() as u64);
        self.disk.replace(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.before("rename", from);
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.before("remove", name);
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> Result<(), Error> {
        self.before("sync", "the directory");
        self.disk.sync_dir()
    }
}

/// The store of files. What is finished is durable, and what is removed is gone.
impl Blobs for Recorder {
    fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        self.blobs.create()
    }

    fn open(&self, digest: &Digest) -> Result<Arc<dyn Blob>, Error> {
        Blobs::open(&self.blobs, digest)
    }

    fn list(&self) -> Result<Vec<Digest>, Error> {
        Blobs::list(&self.blobs)
    }

    fn remove(&self, digest: &Digest) -> Result<(), Error> {
        self.before("remove", &digest.to_string());
        Blobs::remove(&self.blobs, digest)
    }
}

struct RecordedFile {
    recorder: Recorder,
    file: Arc<dyn DiskFile>,
    name: String,
}

impl DiskFile for RecordedFile {
    fn length(&self) -> Result<u64, Error> {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.recorder.before("write", &self.name);
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> Result<(), Error> {
        self.recorder.before("sync", &self.name);
        self.file.sync()
    }

    fn truncate(&self, length: u64) -> Result<(), Error> {
        self.recorder.before("truncate", &self.name);
        self.file.truncate(length)
    }
}
