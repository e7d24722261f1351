//! Walking a snapshot a page at a time, with whole pages skipped or copied where nothing differs.

use super::{Snapshot, SnapshotWriter};
use crate::model::Key;
use crate::page::{decode_page, page_entries};
use crate::{Entry, Error};

/// A place between two entries of a snapshot. It holds one page in memory; after an error it is at the end.
pub(crate) struct Cursor<'s> {
    snapshot: &'s Snapshot,
    /// The page after the one whose entries are held.
    next_page: usize,
    /// What is left of the page, last entry first.
    held: Vec<Entry>,
}

impl<'s> Cursor<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        Self::at(snapshot, 0)
    }

    /// At the start of a page.
    pub(super) fn at(snapshot: &'s Snapshot, page: usize) -> Self {
        Self { snapshot, next_page: page, held: Vec::new() }
    }

    /// The next entry, left where it is.
    pub(crate) fn peek(&mut self) -> Result<Option<&Entry>, Error> {
        if self.held.is_empty() && self.next_page < self.snapshot.pages.len() {
            let page = self.next_page;
            self.next_page = self.snapshot.pages.len();
            self.held = page_entries(&self.snapshot.read_page(page)?)?;
            self.held.reverse();
            self.next_page = page + 1;
        }
        Ok(self.held.last())
    }

    /// Takes the entry that [`Cursor::peek`] showed.
    pub(crate) fn take_shown(&mut self) -> Option<Entry> {
        self.held.pop()
    }

    /// Passes pages that both snapshots have, if both cursors stand at the start of one.
    pub(crate) fn skip_common(&mut self, other: &mut Self) {
        while let (Some(own), Some(its)) = (self.page(), other.page()) {
            if own.digest != its.digest {
                return;
            }
            self.next_page += 1;
            other.next_page += 1;
        }
    }

    /// Copies pages that no operation touches, `next` being the key of the next operation, if there is one.
    pub(crate) fn copy_untouched(&mut self, next: Option<Key<'_>>, to: &mut SnapshotWriter) -> Result<(), Error> {
        while let (Some(page), true) = (self.page(), to.at_page_start()) {
            let following = self.snapshot.pages.get(self.next_page + 1);
            // Without a page after it, a page may have ended only because the entries did: an operation behind it
            // would lengthen it.
            let untouched = next.is_none_or(|next| following.is_some_and(|page| page.first() <= next));
            if !untouched {
                return Ok(());
            }
            let bytes = self.snapshot.read_page(self.next_page)?;
            let mut codes = 0;
            for entry in decode_page(&bytes) {
                codes += u64::from(!entry?.code.is_empty());
            }
            to.push_page(page, &bytes, codes)?;
            self.next_page += 1;
        }
        Ok(())
    }

    fn page(&self) -> Option<&'s super::PageInfo> {
        self.snapshot.pages.get(self.next_page).filter(|_| self.held.is_empty())
    }
}

impl Iterator for Cursor<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.peek() {
            Ok(Some(_)) => self.take_shown().map(Ok),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
