//! Writing a snapshot in one pass over sorted entries; memory holds one page and the index.

use super::{Footer, MAGIC, PAGES, PageInfo, root_of};
use crate::Error;
use crate::model::{EntryRef, limits};
use crate::page::{encode_entry, ends_page, page_digest};
use jincai_journal::{BlobWriter, Blobs};
use jincai_types::Digest;
use minicbor::Encoder;

/// A snapshot that was written: where it is and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The blob that holds it.
    pub blob: Digest,
    /// Its root.
    pub root: Digest,
    /// How many codes it holds.
    pub count: u64,
}

/// Takes entries in strictly ascending order. Dropped before [`SnapshotWriter::finish`], it leaves nothing.
pub(crate) struct SnapshotWriter {
    blob: Box<dyn BlobWriter>,
    pages: Vec<PageInfo>,
    page: Vec<u8>,
    page_entries: u16,
    last: (String, String),
    entries: u64,
    codes: u64,
}

impl SnapshotWriter {
    pub(crate) fn new(blobs: &dyn Blobs) -> Result<Self, Error> {
        let mut blob = blobs.create()?;
        blob.write(MAGIC)?;
        Ok(Self {
            blob,
            pages: Vec::new(),
            page: Vec::new(),
            page_entries: 0,
            last: Default::default(),
            entries: 0,
            codes: 0,
        })
    }

    /// Appends an entry.
    pub(crate) fn push(&mut self, entry: EntryRef<'_>) -> Result<(), Error> {
        assert!((self.last.0.as_str(), self.last.1.as_str()) < entry.key(), "entries are written in ascending order");
        let first = self.page_entries == 0;
        if first {
            self.add_page(PageInfo {
                set: entry.set.into(),
                code: entry.code.into(),
                offset: self.blob.position(),
                bytes: 0,
                entries: 0,
                digest: Digest::ZERO,
            })?;
        }
        let set = if first || entry.set != self.last.0 { entry.set } else { "" };
        encode_entry(&mut self.page, set, entry);
        self.page_entries += 1;
        self.codes += u64::from(!entry.code.is_empty());
        self.count_entries(1)?;
        self.remember(entry.set, entry.code);
        if ends_page(entry.key(), usize::from(self.page_entries)) {
            self.end_page()?;
        }
        Ok(())
    }

    /// Whether the next entry begins a page.
    pub(super) fn at_page_start(&self) -> bool {
        self.page_entries == 0
    }

    /// Appends a whole page of another snapshot as it is. It must begin a page here too, and unless it is the last one it
    /// must have ended where its content said so.
    pub(super) fn push_page(&mut self, page: &PageInfo, bytes: &[u8], codes: u64) -> Result<(), Error> {
        assert!(self.at_page_start(), "a page is copied only to where a page begins");
        self.add_page(PageInfo { offset: self.blob.position(), ..page.clone() })?;
        self.blob.write(bytes)?;
        self.codes += codes;
        // The page's first key is below all its others, so it still catches an entry that comes too late by a page.
        self.remember(&page.set, &page.code);
        self.count_entries(u64::from(page.entries))
    }

    /// The root and the number of codes, once all entries were pushed.
    pub(crate) fn root(&mut self) -> Result<(Digest, u64), Error> {
        if self.page_entries > 0 {
            self.end_page()?;
        }
        Ok((root_of(self.codes, &self.pages), self.codes))
    }

    /// Ends the blob: from here on it exists.
    pub(crate) fn finish(mut self) -> Result<Written, Error> {
        let (root, count) = self.root()?;
        let index = encode_index(&self.pages);
        let mut footer = Footer {
            index_bytes: index.len() as u64,
            entries: self.entries,
            codes: count,
            root,
            digest: Digest::ZERO,
            magic: *MAGIC,
        };
        footer.digest = footer.digest_with(&index);
        self.blob.write(&index)?;
        self.blob.write(&footer.to_bytes())?;
        Ok(Written { blob: self.blob.finish()?, root, count })
    }

    fn add_page(&mut self, page: PageInfo) -> Result<(), Error> {
        if self.pages.len() == PAGES {
            return Err(Error::TooLarge { what: "pages in a snapshot", limit: PAGES as u64 });
        }
        self.pages.push(page);
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), Error> {
        let page = self.pages.last_mut().expect("a page with entries was pushed by its first one");
        page.bytes = u32::try_from(self.page.len()).expect("a page stays below PAGE_BYTES");
        page.entries = self.page_entries;
        page.digest = page_digest(&self.page);
        self.blob.write(&self.page)?;
        self.page.clear();
        self.page_entries = 0;
        Ok(())
    }

    fn count_entries(&mut self, more: u64) -> Result<(), Error> {
        self.entries += more;
        if self.entries > limits::ENTRIES {
            return Err(Error::TooLarge { what: "entries in a snapshot", limit: limits::ENTRIES });
        }
        Ok(())
    }

    fn remember(&mut self, set: &str, code: &str) {
        if self.last.0 != set {
            set.clone_into(&mut self.last.0);
        }
        code.clone_into(&mut self.last.1);
    }
}

fn encode_index(pages: &[PageInfo]) -> Vec<u8> {
    let mut out = Vec::new();
    for page in pages {
        Encoder::new(&mut out)
            .array(5)
            .and_then(|e| e.str(&page.set)?.str(&page.code)?.u32(page.bytes)?.encode(page.digest)?.u16(page.entries))
            .expect("a Vec never refuses a write");
    }
    out
}
