//! A file on its way into the store: hashed as it is written, and written to the disk meanwhile, so that little is left to wait
//! for at its end and little memory is dirty.

use super::{Hold, Inner, STEP, failed, tree};
use jincai_files::tree::{TreeBuilder, join_digests};
use jincai_files::{Error, Taken, Upload};
use jincai_types::Digest;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::JoinHandle;

/// After so many bytes the disk is told to write; the one before must be done by then.
const SYNCED: u64 = 32 << 20;

pub(super) struct DiskUpload {
    store: Arc<Inner>,
    name: String,
    file: Arc<File>,
    digests: File,
    builder: TreeBuilder,
    written: u64,
    unsynced: u64,
    /// Room set aside for it.
    reserved: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
    /// Its name is gone: it became a file.
    done: bool,
}

impl DiskUpload {
    pub(super) fn new(store: Arc<Inner>) -> Result<Self, Error> {
        let number = {
            let mut state = store.state();
            state.next_upload += 1;
            state.next_upload
        };
        let name = format!("upload-{number}");
        let file = Arc::new(store.create(&name)?);
        let digests = store.create(&format!("{name}.tree"))?;
        let builder = TreeBuilder::default();
        Ok(Self {
            store,
            name,
            file,
            digests,
            builder,
            written: 0,
            unsynced: 0,
            reserved: 0,
            syncing: None,
            done: false,
        })
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), Error> {
        if self.written + bytes <= self.reserved {
            return Ok(());
        }
        let more = (self.written + bytes - self.reserved).max(STEP);
        let mut state = self.store.state();
        self.store.check_room(&state, more)?;
        state.uploads += more;
        self.reserved += more;
        Ok(())
    }

    /// Waits for the sync that is under way.
    fn join(&mut self) -> Result<(), Error> {
        let joined = self.syncing.take().map_or(Ok(Ok(())), JoinHandle::join);
        joined.map_err(|_| Error::Disk("a sync was not done".into()))?.map_err(failed("syncing a new file"))
    }

    fn begin_sync(&mut self) -> Result<(), Error> {
        self.join()?;
        self.unsynced = 0;
        let file = Arc::clone(&self.file);
        let thread = std::thread::Builder::new().name("upload".into()).spawn(move || file.sync_data());
        self.syncing = Some(thread.map_err(failed("a thread"))?);
        Ok(())
    }

    /// Gives the file its name, unless the store has it already.
    fn publish(&mut self, root: &Digest, size: u64) -> Result<(), Error> {
        let known = self.store.state().whole.contains_key(root);
        let path = |name: &str| self.store.directory.join(name);
        if !known {
            std::fs::rename(path(&format!("{}.tree", self.name)), path(&tree(root)))
                .map_err(failed("naming a tree"))?;
            std::fs::rename(path(&self.name), path(&root.to_string())).map_err(failed("naming a file"))?;
            self.store.sync_directory()?;
            self.done = true;
        }
        let mut state = self.store.state();
        let mark = state.mark;
        // A part of it that is being received finds out that it is whole now.
        state.open.remove(&tree(root));
        state.whole.entry(*root).or_insert((size, mark));
        *state.held.entry(*root).or_insert(0) += 1;
        Ok(())
    }
}

impl Upload for DiskUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.reserve(bytes.len() as u64)?;
        let digests = &mut self.digests;
        let mut wrote = Ok(());
        self.builder.update(bytes, &mut |page| {
            if wrote.is_ok() {
                wrote = digests.write_all(&join_digests(page));
            }
        })?;
        wrote.map_err(failed("writing a tree"))?;
        (&*self.file).write_all(bytes).map_err(failed("writing a new file"))?;
        self.written += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNCED { self.begin_sync() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<Taken, Error> {
        let (digests, mut wrote) = (&mut self.digests, Ok(()));
        let builder = std::mem::take(&mut self.builder);
        let tree = builder.finish(&mut |page| wrote = digests.write_all(&join_digests(page)));
        wrote.and_then(|()| self.digests.sync_all()).map_err(failed("writing a tree"))?;
        self.join()?;
        self.file.sync_all().map_err(failed("syncing a new file"))?;
        self.publish(&tree.root, tree.size)?;
        let hold = Box::new(Hold(Arc::clone(&self.store), tree.root));
        Ok(Taken { tree, hold })
    }
}

impl Drop for DiskUpload {
    fn drop(&mut self) {
        // Whether it was written or not, it must not be written to any more.
        drop(self.join());
        self.store.state().uploads -= self.reserved;
        if !self.done {
            for name in [self.name.clone(), format!("{}.tree", self.name)] {
                // What is left is removed at the next start.
                drop(std::fs::remove_file(self.store.directory.join(name)));
            }
        }
    }
}
