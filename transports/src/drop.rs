//! File drop: a directory a direction, that a third tool may carry between the neighbours' machines.
//!
//! ```text
//! outgoing/ 2-00000000000000a7-5be0c1d2e3f40516.frame        class, counter, run (hexadecimal, lower case)
//! outgoing/ .2-00000000000000a7-5be0c1d2e3f40516.frame.part  while it is written
//! incoming/ …                                               what is the neighbour's outgoing directory
//! incoming/ bad/ …                                          what held no whole frame
//! ```
//! An entry is written under its temporary name, synced, renamed, and the directory synced: a reader of this directory
//! never sees half of it. Names sort by class, then by age; the run is random, so that no restart uses a name again.
//! Other names, directories and links are left alone. The directories are never created here: a share that is not
//! mounted must look like trouble, not like an empty mailbox.

use crate::parcel::ENTRY_BYTES;
use crate::{Error, Events, Link, Mailbox, mailbox_link};
use bytes::Bytes;
use jincai_crypto::{Entropy, SystemEntropy};
use jincai_types::{AuthorityId, Priority};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Names that one listing returns; the rest has its turn when these are gone.
const LISTING: usize = 1024;
/// Unreadable entries that are kept for people; more are deleted.
const BAD: usize = 256;

/// A file drop shared with one neighbour.
#[derive(Clone, Debug)]
pub struct DropConfig {
    /// The neighbour.
    pub peer: AuthorityId,
    /// Where our frames are put; the neighbour, or a tool for it, takes them away.
    pub outgoing: PathBuf,
    /// Where the neighbour's frames appear.
    pub incoming: PathBuf,
    /// How often to look for them.
    pub poll: Duration,
    /// Most frames that may lie in the outgoing directory; beyond it the link is full.
    pub most_waiting: usize,
}

/// Starts a file drop on the current tokio runtime; the link ends with the handle. Directories that are missing are
/// waited for.
pub fn open_drop(config: DropConfig, events: Events) -> Result<Link, Error> {
    if config.outgoing == config.incoming {
        return Err(Error::SameFolder { path: config.outgoing });
    }
    let (peer, poll) = (config.peer, config.poll);
    let folders = Folders {
        outgoing: config.outgoing,
        incoming: config.incoming,
        most_waiting: config.most_waiting,
        written: Mutex::default(),
    };
    Ok(mailbox_link(peer, FileDrop(Arc::new(folders)), poll, events))
}

/// The mailbox: file work on tokio's threads for blocking calls.
struct FileDrop(Arc<Folders>);

impl FileDrop {
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folders) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let folders = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&folders)).await;
        // It fails only while the runtime shuts down.
        done.unwrap_or_else(|e| Err(Error::Lost { reason: e.to_string() }))
    }
}

impl Mailbox for FileDrop {
    async fn put(&self, class: Priority, entry: Bytes) -> Result<(), Error> {
        self.on_thread(move |folders| folders.put(class, &entry)).await
    }

    async fn list(&self) -> Result<Vec<String>, Error> {
        self.on_thread(Folders::list).await
    }

    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let name = name.to_owned();
        self.on_thread(move |folders| folders.get(&name)).await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.on_thread(move |folders| folders.remove(&name)).await
    }

    async fn set_aside(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.on_thread(move |folders| folders.set_aside(&name)).await
    }
}

struct Folders {
    outgoing: PathBuf,
    incoming: PathBuf,
    most_waiting: usize,
    /// `None` until the outgoing directory was looked through.
    written: Mutex<Option<Written>>,
}

/// What this run knows of the outgoing directory.
struct Written {
    run: u64,
    counter: u64,
    /// At least as many frames as lie there: others only take away.
    waiting: usize,
}

impl Folders {
    fn put(&self, class: Priority, entry: &[u8]) -> Result<(), Error> {
        let name = self.next_name(class)?;
        let (whole, part) = (self.outgoing.join(&name), self.outgoing.join(part_of(&name)));
        let written = write_synced(&part, entry).and_then(|()| fs::rename(&part, &whole));
        if let Err(source) = written {
            // Best effort: the next run clears what a full or vanished disk keeps.
            fs::remove_file(&part).ok();
            return Err(Error::Folder { path: whole, source });
        }
        // The rename itself must last, or a power cut would take back what the neighbour was promised.
        File::open(&self.outgoing).and_then(|folder| folder.sync_all()).map_err(|e| failed(&self.outgoing, e))
    }

    /// The name of the next entry, if there is room for one.
    fn next_name(&self, class: Priority) -> Result<String, Error> {
        let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|written| written.waiting >= self.most_waiting) {
            let survey = survey(&self.outgoing).map_err(|e| failed(&self.outgoing, e))?;
            let written = match known.take() {
                Some(written) => Written { waiting: survey.waiting, ..written },
                None => self.begin(survey)?,
            };
            *known = Some(written);
        }
        let Some(written) = known.as_mut().filter(|written| written.waiting < self.most_waiting) else {
            return Err(Error::MailboxFull { limit: self.most_waiting });
        };
        written.waiting += 1;
        written.counter += 1;
        Ok(format!("{}-{:016x}-{:016x}.frame", class.index(), written.counter, written.run))
    }

    /// The first look of this run: what an earlier one left half-written is removed, its counter is carried on.
    fn begin(&self, survey: Survey) -> Result<Written, Error> {
        for part in survey.parts {
            fs::remove_file(self.outgoing.join(part)).ok();
        }
        let unusable = |e: jincai_crypto::Error| failed(&self.outgoing, io::Error::other(e.to_string()));
        let run = SystemEntropy::default().number().map_err(unusable)?;
        Ok(Written { run, counter: survey.highest, waiting: survey.waiting })
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        if !fs::metadata(&self.outgoing).map_err(|e| failed(&self.outgoing, e))?.is_dir() {
            return Err(failed(&self.outgoing, ErrorKind::NotADirectory.into()));
        }
        let mut names = BTreeSet::new();
        for name in entries(&self.incoming).map_err(|e| failed(&self.incoming, e))? {
            let name = name.map_err(|e| failed(&self.incoming, e))?;
            if read_name(&name).is_some() {
                names.insert(name);
                // The most urgent stay, and a directory of any size takes little memory.
                if names.len() > LISTING {
                    names.pop_last();
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.incoming.join(name);
        let read = || -> io::Result<Vec<u8>> {
            let mut entry = Vec::new();
            File::open(&path)?.take(ENTRY_BYTES as u64 + 1).read_to_end(&mut entry)?;
            Ok(entry)
        };
        match read() {
            Ok(entry) if entry.len() > ENTRY_BYTES => Err(Error::Parcel("it is longer than an entry may be")),
            Ok(entry) => Ok(Some(entry)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(&path, e)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.incoming.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(&path, e)),
            _ => Ok(()),
        }
    }

    fn set_aside(&self, name: &str) -> Result<(), Error> {
        let bad = self.incoming.join("bad");
        let kept = fs::create_dir(&bad)
            .or_else(|e| if e.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
            .and_then(|()| Ok(fs::read_dir(&bad)?.take(BAD).count()))
            .map_err(|e| failed(&bad, e))?;
        if kept >= BAD {
            return self.remove(name);
        }
        match fs::rename(self.incoming.join(name), bad.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(&bad, e)),
            _ => Ok(()),
        }
    }
}

/// What lies in the outgoing directory.
#[derive(Default)]
struct Survey {
    waiting: usize,
    highest: u64,
    parts: Vec<String>,
}

fn survey(outgoing: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    for name in entries(outgoing)? {
        let name = name?;
        if let Some(counter) = read_name(&name) {
            survey.waiting += 1;
            survey.highest = survey.highest.max(counter);
        } else if survey.parts.len() < LISTING && is_part(&name) {
            survey.parts.push(name);
        }
    }
    Ok(survey)
}

/// Names of the plain files in a directory; others, and names that are not UTF-8, are nobody's entries.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let plain = |entry: io::Result<fs::DirEntry>| match entry {
        Ok(entry) => match entry.file_type() {
            Ok(kind) if kind.is_file() => entry.file_name().into_string().ok().map(Ok),
            Ok(_) => None,
            // It has vanished since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => Some(Err(e)),
        },
        Err(e) => Some(Err(e)),
    };
    Ok(fs::read_dir(folder)?.filter_map(plain))
}

/// The counter in an entry's name, or `None` if it is no entry's name.
fn read_name(name: &str) -> Option<u64> {
    let (class, rest) = name.strip_suffix(".frame")?.split_once('-')?;
    let (counter, run) = rest.split_once('-')?;
    let hexadecimal =
        |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let known = ["0", "1", "2", "3"].contains(&class) && hexadecimal(counter) && hexadecimal(run);
    // The highest counter leaves no room to count on from, so it is no counter of ours.
    known.then(|| u64::from_str_radix(counter, 16).ok())?.filter(|counter| *counter < u64::MAX / 2)
}

fn part_of(name: &str) -> String {
    format!(".{name}.part")
}

fn is_part(name: &str) -> bool {
    name.strip_prefix('.').and_then(|n| n.strip_suffix(".part")).and_then(read_name).is_some()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Folder { path: path.to_owned(), source }
}
