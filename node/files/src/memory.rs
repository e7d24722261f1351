//! A store in memory for tests and the simulation: what was not synced is lost in a crash.

use crate::Error;
use crate::keeper::Store;
use crate::tree::{CHUNK_BYTES, PAGE_CHUNKS, Tree, TreeBuilder, chunk_len, page_len};
use jincai_types::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    pages: BTreeMap<u32, Vec<Digest>>,
}

#[derive(Debug, Default)]
struct State {
    whole: BTreeMap<Digest, Content>,
    parts: BTreeMap<Digest, Content>,
    /// Parts as a crash leaves them.
    synced: BTreeMap<Digest, Content>,
    limit: u64,
    chunks_written: u64,
}

/// See the module's head; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

impl MemoryStore {
    /// A store with room for so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Mutex::new(State { limit, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a file in, as a caller gives it.
    pub fn take(&self, bytes: &[u8]) -> Result<Tree, Error> {
        let (tree, pages) = tree_of(bytes)?;
        let content = Content { bytes: bytes.to_vec(), pages: (0..).zip(pages).collect() };
        self.state().whole.insert(tree.root, content);
        Ok(tree)
    }

    /// The process dies: whatever of the parts was not synced is as it was before.
    pub fn crash(&self) {
        let mut state = self.state();
        state.parts = state.synced.clone();
    }

    /// Removes what is not among these roots.
    pub fn keep(&self, roots: &BTreeSet<Digest>) {
        let mut state = self.state();
        state.whole.retain(|root, _| roots.contains(root));
        state.parts.retain(|root, _| roots.contains(root));
        state.synced.retain(|root, _| roots.contains(root));
    }

    /// Whether a whole file is there, as its root promises.
    #[must_use]
    pub fn holds(&self, root: &Digest) -> bool {
        self.whole(root).and_then(|bytes| tree_of(&bytes).ok()).is_some_and(|(tree, _)| tree.root == *root)
    }

    /// A whole file.
    #[must_use]
    pub fn whole(&self, root: &Digest) -> Option<Vec<u8>> {
        self.state().whole.get(root).map(|content| content.bytes.clone())
    }

    /// Changes a byte of a whole file, as a bad disk does.
    pub fn spoil(&self, root: &Digest, at: usize) {
        if let Some(byte) = self.state().whole.get_mut(root).and_then(|content| content.bytes.get_mut(at)) {
            *byte ^= 1;
        }
    }

    /// Gives it another limit.
    pub fn set_limit(&self, limit: u64) {
        self.state().limit = limit;
    }

    /// Chunks that were written into parts so far.
    #[must_use]
    pub fn chunks_written(&self) -> u64 {
        self.state().chunks_written
    }
}

/// The tree of a file, and the digests of its pages.
fn tree_of(bytes: &[u8]) -> Result<(Tree, Vec<Vec<Digest>>), Error> {
    let (mut builder, mut pages) = (TreeBuilder::default(), Vec::new());
    builder.update(bytes, &mut |page| pages.push(page.to_vec()))?;
    let tree = builder.finish(&mut |page| pages.push(page.to_vec()));
    Ok((tree, pages))
}

fn range(at: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let at = usize::try_from(at).ok()?;
    Some(at..at.checked_add(length)?)
}

fn lacks(what: &str) -> Error {
    Error::Disk(format!("{what} is not there"))
}

impl Store for MemoryStore {
    fn size_of(&self, root: &Digest) -> Option<u64> {
        self.state().whole.get(root).map(|content| content.bytes.len() as u64)
    }

    fn begin(&self, root: &Digest, size: u64) -> Result<bool, Error> {
        let mut state = self.state();
        if state.parts.contains_key(root) {
            return Ok(false);
        }
        let used: u64 = state.whole.values().chain(state.parts.values()).map(|c| c.bytes.len() as u64).sum();
        if used.saturating_add(size) > state.limit {
            return Err(Error::NoRoom { wanted: size, used, limit: state.limit });
        }
        let bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let content = Content { bytes, pages: BTreeMap::new() };
        state.parts.insert(*root, content.clone());
        state.synced.insert(*root, content);
        Ok(true)
    }

    fn has_part(&self, root: &Digest) -> bool {
        self.state().parts.contains_key(root)
    }

    fn write(&self, root: &Digest, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.state();
        state.chunks_written += 1;
        let part = state.parts.get_mut(root).ok_or_else(|| lacks("a part"))?;
        let place = range(at, bytes.len()).and_then(|range| part.bytes.get_mut(range));
        place.ok_or_else(|| lacks("that place of a part"))?.copy_from_slice(bytes);
        Ok(())
    }

    fn read_part(&self, root: &Digest, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let state = self.state();
        let part = state.parts.get(root).ok_or_else(|| lacks("a part"))?;
        let place = range(at, bytes.len()).and_then(|range| part.bytes.get(range));
        bytes.copy_from_slice(place.ok_or_else(|| lacks("that place of a part"))?);
        Ok(())
    }

    fn put_page(&self, root: &Digest, page: u32, digests: &[Digest]) -> Result<(), Error> {
        let mut state = self.state();
        let part = state.parts.get_mut(root).ok_or_else(|| lacks("a part"))?;
        part.pages.insert(page, digests.to_vec());
        Ok(())
    }

    fn page(&self, root: &Digest, page: u32) -> Result<Vec<Digest>, Error> {
        let state = self.state();
        let content = state.whole.get(root).or_else(|| state.parts.get(root)).ok_or_else(|| lacks("a file"))?;
        let digests = content.pages.get(&page).ok_or_else(|| lacks("a page"))?;
        let size = content.bytes.len() as u64;
        if digests.len() as u64 == page_len(size, page) { Ok(digests.clone()) } else { Err(lacks("a whole page")) }
    }

    fn sync(&self, root: &Digest) -> Result<(), Error> {
        let mut state = self.state();
        let part = state.parts.get(root).cloned().ok_or_else(|| lacks("a part"))?;
        state.synced.insert(*root, part);
        Ok(())
    }

    fn publish(&self, root: &Digest, _: u64) -> Result<(), Error> {
        let mut state = self.state();
        let part = state.parts.remove(root).ok_or_else(|| lacks("a part"))?;
        state.synced.remove(root);
        state.whole.insert(*root, part);
        Ok(())
    }

    fn read(&self, root: &Digest, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let state = self.state();
        let content = state.whole.get(root).ok_or_else(|| lacks("a file"))?;
        let place = range(at, bytes.len()).and_then(|range| content.bytes.get(range));
        bytes.copy_from_slice(place.ok_or_else(|| lacks("that place of a file"))?);
        Ok(())
    }

    fn find(&self, digests: &[Digest]) -> Vec<Option<(Digest, u64)>> {
        let state = self.state();
        let place = |digest: &Digest| {
            state.whole.iter().find_map(|(root, content)| {
                let size = content.bytes.len() as u64;
                content.pages.iter().find_map(|(page, held)| {
                    let at = held.iter().position(|d| d == digest)? as u64;
                    let chunk = u64::from(*page) * PAGE_CHUNKS + at;
                    (chunk_len(size, chunk) > 0 && chunk.checked_mul(CHUNK_BYTES).is_some()).then_some((*root, chunk))
                })
            })
        };
        digests.iter().map(place).collect()
    }
}
