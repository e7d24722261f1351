//! The keeper: does jobs with a store, and says what came of them. It remembers nothing but what it has written itself in this
//! run; everything else is the room's and the store's.
//!
//! What it keeps, whatever it finds: a chunk is reported stored only when it is synced; it is sent only if it is what the tree
//! promises; a file becomes visible only if all of its chunks were checked in this run, on their way in or read back.

use crate::Error;
use crate::job::{Job, Report};
use crate::model::{FileKey, chunk_bytes};
use crate::tree::{CHUNK_BYTES, PAGE_CHUNKS, chunk_digest, chunk_len, chunks_of, page_digest, page_len, pages_of};
use jincai_types::{Digest, RecordNumber};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that are copied within the store before that is reported.
const COPIED: u64 = 64 << 20;

/// Where files lie: whole ones, and parts of those that are being received, both by root.
pub trait Store {
    /// The size of a whole file, if it is there.
    fn size_of(&self, root: &Digest) -> Option<u64>;
    /// Sets room aside for a file, all of it, and makes its part; `true` if the part is new, and so all zeros. What of a
    /// part was there before stays.
    fn begin(&self, root: &Digest, size: u64) -> Result<bool, Error>;
    /// Whether there is a part.
    fn has_part(&self, root: &Digest) -> bool;
    /// Writes into a part.
    fn write(&self, root: &Digest, at: u64, bytes: &[u8]) -> Result<(), Error>;
    /// Reads from a part.
    fn read_part(&self, root: &Digest, at: u64, bytes: &mut [u8]) -> Result<(), Error>;
    /// Remembers the digests of a page of a part, or of a whole file.
    fn put_page(&self, root: &Digest, page: u32, digests: &[Digest]) -> Result<(), Error>;
    /// The digests of a page, as they were remembered.
    fn page(&self, root: &Digest, page: u32) -> Result<Vec<Digest>, Error>;
    /// Makes what was written into a part, and its pages, durable.
    fn sync(&self, root: &Digest) -> Result<(), Error>;
    /// Makes a part a whole file, durably.
    fn publish(&self, root: &Digest, size: u64) -> Result<(), Error>;
    /// Reads from a whole file.
    fn read(&self, root: &Digest, at: u64, bytes: &mut [u8]) -> Result<(), Error>;
    /// For each of some digests a whole file and a chunk of it that should have it, if the store knows one.
    fn find(&self, digests: &[Digest]) -> Vec<Option<(Digest, u64)>>;
}

/// Gives the payload of a message in a record of the journal.
pub type Payloads<'a> = &'a dyn Fn(RecordNumber, u64) -> Result<Vec<u8>, Error>;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Keeper {
    /// Parts that were new in this run, or read back.
    sound: BTreeSet<Digest>,
    /// The digest of a whole chunk of zeros.
    zeros: Option<Digest>,
}

impl Keeper {
    /// Does a job.
    pub fn work(&mut self, job: Job, store: &dyn Store, payloads: Payloads<'_>) -> Report {
        let key = job.key().clone();
        let done = match job {
            Job::Begin { root, size, .. } => self.begin(&key, (root, size), store),
            Job::Check { root, size, page, from, digests, .. } => {
                self.check(&key, (root, size), (page, from, &digests), store)
            }
            Job::Write { root, size, chunks, .. } => write(&key, (root, size), &chunks, store, payloads),
            Job::Finish { root, size, pages, .. } => self.finish(&key, (root, size), &pages, store),
            Job::Read { root, size, pages, chunks, of, .. } => {
                return read_wanted(&key, (root, size), (&pages, &chunks, &of), store);
            }
        };
        done.unwrap_or_else(|error| Report::Waits { key, error })
    }

    fn begin(&mut self, key: &FileKey, (root, size): (Digest, u64), store: &dyn Store) -> Result<Report, Error> {
        let key = key.clone();
        if store.size_of(&root) == Some(size) {
            return Ok(Report::Completed { key });
        }
        if store.begin(&root, size)? {
            self.sound.insert(root);
        } else {
            // Whoever wrote into it may have been another transfer, or another run: it is read back at the end.
            self.sound.remove(&root);
        }
        Ok(Report::Begun { key })
    }

    /// What of a page the store has: in the part itself, in other files, or because it is all zeros.
    fn check(
        &mut self,
        key: &FileKey,
        (root, size): (Digest, u64),
        (page, from, digests): (u32, u64, &[Digest]),
        store: &dyn Store,
    ) -> Result<Report, Error> {
        let key = key.clone();
        if let Some(report) = not_here(&key, (root, size), store) {
            return Ok(report);
        }
        if from == 0 {
            store.put_page(&root, page, digests)?;
        }
        let first = u64::from(page) * PAGE_CHUNKS;
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(digests.len());
        let places = store.find(&digests[start..]);
        let new = self.sound.contains(&root);
        let (mut known, mut copied, mut upto) = (Vec::new(), 0, from);
        let mut buffer = Vec::new();
        for (digest, place) in digests[start..].iter().zip(places) {
            let chunk = first + upto;
            let length = chunk_len(size, chunk);
            buffer.resize(usize::try_from(length).unwrap_or_default(), 0);
            let is_it = |read: Result<(), Error>, buffer: &[u8]| read.is_ok() && chunk_digest(buffer) == *digest;
            let here = match new {
                // A part that is new holds zeros.
                true if length == CHUNK_BYTES => *self.zeros.get_or_insert_with(|| zeros(length)) == *digest,
                true => zeros(length) == *digest,
                false => {
                    let read = store.read_part(&root, chunk * CHUNK_BYTES, &mut buffer);
                    copied += length;
                    is_it(read, &buffer)
                }
            };
            if here {
                known.push(chunk);
            } else if let Some((other, at)) = place {
                let read = store.read(&other, at.saturating_mul(CHUNK_BYTES), &mut buffer);
                if is_it(read, &buffer) {
                    store.write(&root, chunk * CHUNK_BYTES, &buffer)?;
                    known.push(chunk);
                    copied += length;
                }
            }
            upto += 1;
            if copied >= COPIED {
                break;
            }
        }
        store.sync(&root)?;
        Ok(Report::Checked { key, page, upto, known })
    }

    fn finish(
        &mut self,
        key: &FileKey,
        (root, size): (Digest, u64),
        pages: &[Digest],
        store: &dyn Store,
    ) -> Result<Report, Error> {
        let key = key.clone();
        if let Some(report) = not_here(&key, (root, size), store) {
            return Ok(report);
        }
        if crate::tree::root(size, pages) != root {
            return Ok(Report::Again { key });
        }
        if !self.sound.contains(&root) && !is_whole((&root, size), pages, store) {
            // Checked chunk by chunk, the next round finds out what of it is sound.
            return Ok(Report::Again { key });
        }
        store.publish(&root, size)?;
        self.sound.remove(&root);
        Ok(Report::Completed { key })
    }
}

/// What there is to say if a part is no part any more.
fn not_here(key: &FileKey, (root, size): (Digest, u64), store: &dyn Store) -> Option<Report> {
    let key = key.clone();
    if store.size_of(&root) == Some(size) {
        // Another transfer of the same content was faster.
        return Some(Report::Completed { key });
    }
    (!store.has_part(&root)).then_some(Report::Again { key })
}

fn zeros(length: u64) -> Digest {
    chunk_digest(&vec![0; usize::try_from(length).unwrap_or_default()])
}

/// Reads a part back and holds it against its tree.
fn is_whole((root, size): (&Digest, u64), pages: &[Digest], store: &dyn Store) -> bool {
    let mut buffer = Vec::new();
    for page in 0..u32::try_from(pages_of(size)).unwrap_or(u32::MAX) {
        let promised = usize::try_from(page).ok().and_then(|at| pages.get(at));
        let Ok(digests) = store.page(root, page) else { return false };
        if digests.len() as u64 != page_len(size, page) || promised != Some(&page_digest(&digests)) {
            return false;
        }
        for (chunk, digest) in (u64::from(page) * PAGE_CHUNKS..).zip(&digests) {
            buffer.resize(usize::try_from(chunk_len(size, chunk)).unwrap_or_default(), 0);
            let read = store.read_part(root, chunk * CHUNK_BYTES, &mut buffer);
            if read.is_err() || chunk_digest(&buffer) != *digest {
                return false;
            }
        }
    }
    true
}

fn write(
    key: &FileKey,
    (root, size): (Digest, u64),
    chunks: &[(u64, RecordNumber, u64)],
    store: &dyn Store,
    payloads: Payloads<'_>,
) -> Result<Report, Error> {
    let key = key.clone();
    if let Some(report) = not_here(&key, (root, size), store) {
        return Ok(report);
    }
    for (chunk, record, index) in chunks {
        let payload = payloads(*record, *index)?;
        let bytes = chunk_bytes(&payload)?;
        if bytes.len() as u64 != chunk_len(size, *chunk) {
            return Err(Error::Mismatch { id: key.id, what: format!("chunk {chunk}") });
        }
        store.write(&root, chunk * CHUNK_BYTES, bytes)?;
    }
    store.sync(&root)?;
    Ok(Report::Stored { key, chunks: chunks.iter().map(|(chunk, ..)| *chunk).collect() })
}

/// Pages and the digests that an offer promises for them.
type Promised<'a> = &'a [(u32, Digest)];

/// Pages and chunks that somebody wants, each held against the tree before it leaves.
fn read_wanted(
    key: &FileKey,
    (root, size): (Digest, u64),
    (pages, chunks, of): (Promised<'_>, &[u64], Promised<'_>),
    store: &dyn Store,
) -> Report {
    let (key, id) = (key.clone(), key.id.clone());
    if store.size_of(&root) != Some(size) {
        return Report::Broken { key, error: Error::Gone { id } };
    }
    let damaged = || Error::Damaged { id: id.clone() };
    let page_of = |(page, promised): &(u32, Digest)| -> Result<(u32, Vec<Digest>), Error> {
        let digests = store.page(&root, *page)?;
        if page_digest(&digests) == *promised { Ok((*page, digests)) } else { Err(damaged()) }
    };
    let read = || -> Result<_, Error> {
        let sent = pages.iter().map(page_of).collect::<Result<Vec<_>, _>>()?;
        let digests: BTreeMap<u32, Vec<Digest>> = of.iter().map(page_of).collect::<Result<_, _>>()?;
        let mut out = Vec::with_capacity(chunks.len());
        for chunk in chunks.iter().filter(|chunk| **chunk < chunks_of(size)) {
            let mut bytes = vec![0; usize::try_from(chunk_len(size, *chunk)).unwrap_or_default()];
            store.read(&root, chunk * CHUNK_BYTES, &mut bytes)?;
            let page = u32::try_from(chunk / PAGE_CHUNKS).ok().and_then(|page| digests.get(&page));
            let at = usize::try_from(chunk % PAGE_CHUNKS).unwrap_or(usize::MAX);
            if page.and_then(|page| page.get(at)) != Some(&chunk_digest(&bytes)) {
                return Err(damaged());
            }
            out.push((*chunk, bytes));
        }
        Ok((sent, out))
    };
    match read() {
        Ok((pages, chunks)) => Report::Sent { key, pages, chunks },
        Err(error @ Error::Disk(_)) => Report::Waits { key, error },
        Err(error) => Report::Broken { key, error },
    }
}
