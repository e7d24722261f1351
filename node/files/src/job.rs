//! What there is to do on the disk, and what came of it.
//!
//! Jobs follow from the room's state and from nothing else, so that a restart goes on by asking for them again. A job that was
//! done twice, or whose report got lost, does no harm.

use crate::Error;
use crate::model::FileKey;
use crate::room::Files;
use crate::transfer::{HeldPage, ReceiveState, Receiving, Sending};
use jincai_types::{AuthorityId, Digest, RecordNumber};
use std::sync::Arc;

/// Transfers that are received at a time; others wait for their turn.
const ACTIVE: usize = 8;
/// Transfers for which room is looked for at a time.
const TRIED: usize = 16;
/// Chunks that are written before they are synced, at most; at least so many are waited for, unless the keeper is eager.
const WRITTEN: usize = 64;
const GATHERED: usize = 16;
/// Chunks and pages in one answer to a want: one append of the journal must hold several of them.
const ANSWERED: usize = 8;
/// Answers at a time.
const ANSWERS: usize = 4;

/// Something to do with the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Make room for a file that is offered.
    Begin {
        /// The transfer.
        key: FileKey,
        /// The file's root.
        root: Digest,
        /// Its size.
        size: u64,
    },
    /// Look for the chunks of a page in the store.
    Check {
        /// The transfer.
        key: FileKey,
        /// The file's root.
        root: Digest,
        /// Its size.
        size: u64,
        /// The page.
        page: u32,
        /// From which of its chunks on.
        from: u64,
        /// The digests of its chunks.
        digests: Arc<Vec<Digest>>,
    },
    /// Write chunks that have come, durably.
    Write {
        /// The transfer.
        key: FileKey,
        /// The file's root.
        root: Digest,
        /// Its size.
        size: u64,
        /// Each chunk, the record that holds it, and its index there.
        chunks: Vec<(u64, RecordNumber, u64)>,
    },
    /// Make a file whole and visible: all its chunks are there.
    Finish {
        /// The transfer.
        key: FileKey,
        /// The file's root.
        root: Digest,
        /// Its size.
        size: u64,
        /// The digests of its pages.
        pages: Vec<Digest>,
    },
    /// Read pages and chunks that are wanted.
    Read {
        /// The transfer.
        key: FileKey,
        /// The file's root.
        root: Digest,
        /// Its size.
        size: u64,
        /// The pages wanted, and the digests of all pages.
        pages: Vec<(u32, Digest)>,
        /// The chunks wanted.
        chunks: Vec<u64>,
        /// The digests of the pages that hold those chunks.
        of: Vec<(u32, Digest)>,
    },
}

impl Job {
    /// The transfer.
    #[must_use]
    pub fn key(&self) -> &FileKey {
        match self {
            Self::Begin { key, .. }
            | Self::Check { key, .. }
            | Self::Write { key, .. }
            | Self::Finish { key, .. }
            | Self::Read { key, .. } => key,
        }
    }
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// There is room for the file, and it is set aside.
    Begun {
        /// The transfer.
        key: FileKey,
    },
    /// It must wait.
    Waits {
        /// The transfer.
        key: FileKey,
        /// For what.
        error: Error,
    },
    /// A page was held against the store up to one of its chunks.
    Checked {
        /// The transfer.
        key: FileKey,
        /// The page.
        page: u32,
        /// So many of its chunks were looked at.
        upto: u64,
        /// Chunks of the file that are in their place now, durably; ascending.
        known: Vec<u64>,
    },
    /// Chunks are in their place, durably.
    Stored {
        /// The transfer.
        key: FileKey,
        /// Which; ascending.
        chunks: Vec<u64>,
    },
    /// The file is whole and visible, durably.
    Completed {
        /// The transfer.
        key: FileKey,
    },
    /// What the room takes for stored is not there: it begins anew.
    Again {
        /// The transfer.
        key: FileKey,
    },
    /// What was wanted was read, and is what the tree promises.
    Sent {
        /// The transfer.
        key: FileKey,
        /// Pages and the digests of their chunks.
        pages: Vec<(u32, Vec<Digest>)>,
        /// Chunks and their bytes.
        chunks: Vec<(u64, Vec<u8>)>,
    },
    /// The file cannot be sent any more.
    Broken {
        /// The transfer.
        key: FileKey,
        /// Why.
        error: Error,
    },
}

impl Report {
    /// The transfer.
    #[must_use]
    pub fn key(&self) -> &FileKey {
        match self {
            Self::Begun { key }
            | Self::Waits { key, .. }
            | Self::Checked { key, .. }
            | Self::Stored { key, .. }
            | Self::Completed { key }
            | Self::Again { key }
            | Self::Sent { key, .. }
            | Self::Broken { key, .. } => key,
        }
    }
}

/// How the keeper asks for jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mood {
    /// Whether few chunks are worth a sync: nothing has come for a while.
    pub eager: bool,
    /// Whether transfers that waited for room are to be tried again.
    pub retry: bool,
}

impl Files {
    /// Whether chunks have come that are not stored.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.open().any(|(_, coming)| coming.staged().next().is_some())
    }

    /// Whether something is wanted of this node that it has not sent.
    #[must_use]
    pub fn has_wanted(&self) -> bool {
        self.sending.values().any(|s| !(s.pages.is_empty() && s.wanted.is_empty()))
    }

    /// Whether something that is offered has not begun, or waits for this node.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waits.is_empty() || self.open().any(|(_, r)| r.state == ReceiveState::Offered)
    }

    /// What there is to do for files that come to here.
    #[must_use]
    pub fn receiving_jobs(&self, mood: Mood) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        let mut active = 0;
        for (key, coming) in self.open().filter(|(_, coming)| coming.is_active()) {
            active += 1;
            if mood.retry || !self.waits.contains_key(key) {
                jobs.extend(receiving_job(key, coming, mood));
            }
        }
        let mut offered: Vec<_> = self.open().filter(|(_, r)| r.state == ReceiveState::Offered).collect();
        offered.retain(|(key, _)| mood.retry || !self.waits.contains_key(key));
        offered.sort_by_key(|(key, coming)| (coming.offered, *key));
        // Those that there is no room for shall not keep others out: more are tried than may begin.
        let tried = if active < ACTIVE { TRIED } else { 0 };
        for (key, coming) in offered.into_iter().take(tried) {
            let (root, size) = (coming.offer.root, coming.offer.size);
            jobs.push(Job::Begin { key: key.clone(), root, size });
        }
        jobs
    }

    /// What there is to do for files that go from here, from the one behind `after` on; `may` says to whom something may
    /// be sent now.
    #[must_use]
    pub fn sending_jobs(&self, after: Option<&FileKey>, mood: Mood, may: &dyn Fn(AuthorityId) -> bool) -> Vec<Job> {
        let asked = |(key, s): &(&FileKey, &Sending)| {
            let wanted = !(s.pages.is_empty() && s.wanted.is_empty());
            wanted && (mood.retry || !self.waits.contains_key(*key)) && may(s.to)
        };
        let behind = self.sending.iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
        let before = self.sending.iter().filter(|(key, _)| after.is_some_and(|after| *key <= after));
        let all: Vec<_> = behind.chain(before).filter(asked).take(ANSWERS).collect();
        let each = if all.len() == 1 { ANSWERS } else { 1 };
        all.into_iter().flat_map(|(key, sending)| read_jobs(key, sending, each)).collect()
    }
}

fn receiving_job(key: &FileKey, coming: &Receiving, mood: Mood) -> Option<Job> {
    let (key, root, size) = (key.clone(), coming.offer.root, coming.offer.size);
    if coming.stored_chunks == coming.offer.chunks() {
        return Some(Job::Finish { key, root, size, pages: coming.offer.pages.clone() });
    }
    let unchecked = |(_, held): &(&u32, &HeldPage)| held.checked < held.digests.len() as u64;
    if let Some((page, held)) = coming.pages.iter().find(unchecked) {
        let digests = Arc::clone(&held.digests);
        return Some(Job::Check { key, root, size, page: *page, from: held.checked, digests });
    }
    let chunks: Vec<_> = coming.staged().take(WRITTEN).collect();
    // Nothing more is under way than what has come: it is all there is to wait for.
    let all = chunks.len() == coming.asked.len();
    let worth = chunks.len() >= GATHERED || mood.eager || all;
    (!chunks.is_empty() && worth).then_some(Job::Write { key, root, size, chunks })
}

fn read_jobs(key: &FileKey, sending: &Sending, most: usize) -> Vec<Job> {
    let page_digest = |page: u32| {
        let at = usize::try_from(page).ok()?;
        sending.offer.pages.get(at).map(|digest| (page, *digest))
    };
    let chunks = sending.next_chunks(ANSWERED * most);
    let mut groups: Vec<Vec<u64>> = chunks.chunks(ANSWERED).map(<[u64]>::to_vec).collect();
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    let job = |(at, chunks): (usize, Vec<u64>)| {
        let pages = sending.pages.iter().copied().take(if at == 0 { ANSWERED } else { 0 }).filter_map(page_digest);
        let mut of: Vec<u32> =
            chunks.iter().filter_map(|chunk| u32::try_from(chunk / crate::tree::PAGE_CHUNKS).ok()).collect();
        of.dedup();
        Job::Read {
            key: key.clone(),
            root: sending.offer.root,
            size: sending.offer.size,
            pages: pages.collect(),
            of: of.into_iter().filter_map(page_digest).collect(),
            chunks,
        }
    };
    groups.into_iter().enumerate().map(job).collect()
}
