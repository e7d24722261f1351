//! Backups and restores: the form of a backup, how it is written by a running node, and how it is laid back.
//!
//! A backup is one tar file: `node/…` (keys, enrolment, token), `journal/…`, `blobs/…`, and last `MANIFEST.json` with the
//! length and the SHA-256 of every file before it; a backup without it is not whole. Whoever has a backup has the node's
//! keys. A restore lays everything beside the data directory's own files first, checks it, and renames it into place.

use crate::config::Config;
use crate::error::{Error, read};
use jincai_journal::{
    BackupFile, Blobs, DirBlobs, DirDisk, Disk, Point, Reader, Repaired, SetBack, backup, repair, set_back,
};
use jincai_types::{AuthorityId, Digest, Millis, RecordNumber};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MANIFEST: &str = "MANIFEST.json";
const FORMAT: u32 = 1;
/// The node's own files; those that are there are part of a backup.
const NODE_FILES: [&str; 4] = ["keys.cbor", "enrolment.cbor", "enrolment.request", "token"];
/// Longest manifest: a million files.
const MANIFEST_BYTES: u64 = 256 << 20;
/// Where a backup is laid before it is known to be whole …
const UNFINISHED: &str = "restore.unfinished";
/// … and from where it is moved into place: a node does not start as long as this is there.
const PLACING: &str = "restore.placing";

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// Whose node.
    pub(crate) authority: AuthorityId,
    /// It cannot be set back to before this record.
    pub(crate) through: RecordNumber,
    /// The last record.
    pub(crate) last: RecordNumber,
    /// The time of the last commit.
    pub(crate) time: Millis,
    files: BTreeMap<String, Listed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    length: u64,
    sha256: Digest,
}

/// What a running node makes a backup of.
pub(crate) struct Source {
    pub(crate) authority: AuthorityId,
    pub(crate) data: PathBuf,
    pub(crate) log: Reader,
    pub(crate) blobs: Arc<dyn Blobs>,
}

impl Source {
    /// Writes a backup.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let mut tar = tar::Builder::new(out);
        let mut files = BTreeMap::new();
        for name in NODE_FILES {
            let path = self.data.join(name);
            if path.exists() {
                let bytes = read(&path)?;
                let name = format!("node/{name}");
                let listed = put(&mut tar, &name, bytes.len() as u64, &mut &bytes[..]).map_err(stream)?;
                files.insert(name, listed);
            }
        }
        let report = backup(&self.log, &*self.blobs, &mut |file, length, content| {
            let name = match file {
                BackupFile::Journal(name) => format!("journal/{name}"),
                BackupFile::Blob(digest) => format!("blobs/{digest}"),
            };
            let listed = put(&mut tar, &name, length, content).map_err(|source| jincai_journal::Error::Io {
                operation: "write",
                file: name.clone(),
                source,
            })?;
            files.insert(name, listed);
            Ok(())
        })?;
        let (through, last, time) = (report.through, report.last, report.time);
        let manifest = Manifest { format: FORMAT, authority: self.authority, through, last, time, files };
        let bytes = serde_json::to_vec(&manifest).map_err(|e| stream(e.into()))?;
        put(&mut tar, MANIFEST, bytes.len() as u64, &mut &bytes[..]).map_err(stream)?;
        tar.finish().map_err(stream)
    }
}

fn stream(source: io::Error) -> Error {
    Error::System { what: "the backup's stream", source }
}

/// Adds a file, hashing it on its way.
fn put(tar: &mut tar::Builder<&mut dyn Write>, name: &str, length: u64, content: &mut dyn Read) -> io::Result<Listed> {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o600);
    header.set_cksum();
    let mut hashed = Hashed { inner: content, context: Context::new(&SHA256), length: 0 };
    tar.append_data(&mut header, name, &mut hashed)?;
    if hashed.length != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(hashed.listed())
}

struct Hashed<R> {
    inner: R,
    context: Context,
    length: u64,
}

impl<R> Hashed<R> {
    fn listed(self) -> Listed {
        let digest = self.context.finish();
        Listed { length: self.length, sha256: Digest(digest.as_ref().try_into().expect("SHA-256 is 32 bytes")) }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.context.update(&buffer[..read]);
        self.length += read as u64;
        Ok(read)
    }
}

fn damaged(file: impl Into<String>, reason: &'static str) -> Error {
    jincai_journal::Error::BackupDamaged { file: file.into(), reason }.into()
}

/// Reads a backup from its beginning to its end and checks it; lays its files below `target`, if there is one.
pub(crate) fn unpack(path: &Path, target: Option<&Path>) -> Result<Manifest, Error> {
    let file = File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 20, file));
    let torn = |_| damaged(path.display().to_string(), "is torn");
    let (mut found, mut manifest) = (BTreeMap::new(), None);
    for entry in archive.entries().map_err(torn)? {
        let mut entry = entry.map_err(torn)?;
        let name = entry.path().map_err(torn)?.to_string_lossy().into_owned();
        if manifest.is_some() {
            return Err(damaged(name, "stands behind the manifest"));
        }
        if name == MANIFEST {
            let mut bytes = Vec::new();
            entry.by_ref().take(MANIFEST_BYTES).read_to_end(&mut bytes).map_err(torn)?;
            let read: Manifest = serde_json::from_slice(&bytes).map_err(|_| damaged(MANIFEST, "cannot be read"))?;
            manifest = Some(read);
            continue;
        }
        if !is_ours(&name) || !entry.header().entry_type().is_file() {
            return Err(damaged(name, "does not belong into a backup"));
        }
        let mut hashed = Hashed { inner: &mut entry, context: Context::new(&SHA256), length: 0 };
        match target {
            Some(target) => lay(&target.join(&name), &mut hashed)?,
            None => io::copy(&mut hashed, &mut io::sink()).map(|_| ()).map_err(torn)?,
        }
        found.insert(name, hashed.listed());
    }
    let manifest = manifest.ok_or_else(|| damaged(MANIFEST, "is missing: the backup was never finished"))?;
    if manifest.format != FORMAT {
        return Err(damaged(MANIFEST, "has a format that this version does not know"));
    }
    let differs = |(name, listed): &(&String, &Listed)| found.get(*name) != Some(listed);
    if let Some((name, _)) = manifest.files.iter().find(differs) {
        return Err(damaged(name.clone(), "is missing or was altered"));
    }
    match found.keys().find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(damaged(name.clone(), "is not in the manifest")),
        None => Ok(manifest),
    }
}

/// Names are plain, so that nothing is laid anywhere else.
fn is_ours(name: &str) -> bool {
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') && !name.starts_with('.');
    match name.split_once('/') {
        Some(("node", name)) => NODE_FILES.contains(&name),
        Some(("journal" | "blobs", name)) => plain(name),
        _ => false,
    }
}

fn create(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lay(path: &Path, content: &mut dyn Read) -> Result<(), Error> {
    let mut write = || {
        create(path.parent().unwrap_or(path))?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        io::copy(content, &mut file)?;
        file.sync_all()
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Where a restore takes the journal from.
pub(crate) enum From<'a> {
    /// A backup, up to a point.
    Backup(&'a Path, Point),
    /// The node's own journal, up to its first damage.
    BeforeDamage,
}

/// Sets a node that is not running back. What it had is set aside if `set_aside`; else there must be no journal.
pub(crate) fn restore(config: &Config, from: From<'_>, set_aside: bool) -> Result<SetBack, Error> {
    let staging = config.file(UNFINISHED);
    remove(&staging)?;
    remove(&config.file(PLACING))?;
    // Held to the end: a running node has it, and none may start meanwhile.
    let lock = DirDisk::open(&config.file("journal"))?;
    let done = match from {
        From::Backup(path, point) => {
            if !set_aside && lock.list()?.iter().any(|name| name != "LOCK") {
                let directory = config.file("journal").display().to_string();
                return Err(jincai_journal::Error::NotEmpty { directory }.into());
            }
            let manifest = unpack(path, Some(&staging))?;
            if manifest.authority != config.authority {
                return Err(Error::Check(format!("the backup is of node {}", manifest.authority)));
            }
            let done = set_back(&DirDisk::open(&staging.join("journal"))?, point)?;
            for name in NODE_FILES {
                let (from, to) = (staging.join("node").join(name), config.file(name));
                if from.exists() && !to.exists() {
                    rename(&from, &to)?;
                }
            }
            done
        }
        From::BeforeDamage => {
            for name in lock.list()?.iter().filter(|name| *name != "LOCK") {
                let file = File::open(config.file("journal").join(name));
                let path = staging.join("journal").join(name);
                let mut file = file.map_err(|source| Error::File { path: path.clone(), source })?;
                lay(&path, &mut file)?;
            }
            set_back(&DirDisk::open(&staging.join("journal"))?, Point::BeforeDamage)?
        }
    };
    place(config, &staging, set_aside)?;
    Ok(done)
}

/// Moves what was restored into place.
fn place(config: &Config, staging: &Path, keep: bool) -> Result<(), Error> {
    let placing = config.file(PLACING);
    rename(staging, &placing)?;
    sync(&config.data)?;
    let aside = config.file(&format!("set-aside-{}", crate::clock::now()));
    for name in ["blobs", "journal"] {
        let (new, old) = (placing.join(name), config.file(name));
        if !new.exists() {
            continue;
        }
        if old.exists() {
            create(&aside).map_err(|source| Error::File { path: aside.clone(), source })?;
            rename(&old, &aside.join(name))?;
        }
        rename(&new, &old)?;
    }
    sync(&config.data)?;
    if !keep {
        // Nothing but the lock was there.
        remove(&aside)?;
    }
    remove(&placing)
}

/// Refuses to start a node whose restore was interrupted: it would begin with an empty journal.
pub(crate) fn check_placed(config: &Config) -> Result<(), Error> {
    let placing = config.file(PLACING);
    if !placing.exists() {
        return Ok(());
    }
    Err(Error::Stopped(format!(
        "{} is there: a restore was interrupted; run «jincai restore» again",
        placing.display()
    )))
}

/// Mends the journal and the files of a node that is not running with a backup.
pub(crate) fn mend(config: &Config, path: &Path) -> Result<Repaired, Error> {
    let staging = config.file(UNFINISHED);
    remove(&staging)?;
    let disk: Arc<dyn Disk> = Arc::new(DirDisk::open(&config.file("journal"))?);
    let blobs = DirBlobs::open(&config.file("blobs"))?;
    let manifest = unpack(path, Some(&staging))?;
    if manifest.authority != config.authority {
        return Err(Error::Check(format!("the backup is of node {}", manifest.authority)));
    }
    let copy = DirDisk::open(&staging.join("journal"))?;
    let done = repair((&disk, &blobs), (&copy, &DirBlobs::open(&staging.join("blobs"))?))?;
    remove(&staging)?;
    Ok(done)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::File { path: from.to_owned(), source })
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| Error::File { path: path.to_owned(), source })
}
