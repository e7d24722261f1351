//! Snapshots: immutable, sorted, read by position, so that a node never holds all codes in memory.
//!
//! ```text
//! "jincaiD1" │ page │ page │ … │ index │ footer
//! index  = one CBOR array [first set, first code, bytes, digest, entries] a page
//! footer = index bytes u64 │ entries u64 │ codes u64 │ root 32 │ SHA-256(index ‖ the four before) 32 │ "jincaiD1"
//! ```
//! Integers are big-endian. Limits: 8 Mi entries, 512 entries a page, 1 Mi pages. The root is
//! SHA-256("jincai dictionary snapshot 1" ‖ codes u64 ‖ Merkle tree hash of the page digests, RFC 9162): equal sets of
//! entries have equal roots on every node, whatever releases led to them.
//!
//! Opening reads index and footer only and checks both against the root; each page is checked against its digest when it
//! is read. It refuses to return an entry from bytes that do not check.

mod cursor;
mod write;

pub(crate) use cursor::Cursor;
pub(crate) use write::SnapshotWriter;
pub use write::Written;

use crate::model::{Key, limits};
use crate::page::{PAGE_BYTES, PAGE_ENTRIES, decode_page, ends_page, page_digest};
use crate::{Entry, Error};
use jincai_crypto::{Hasher, merkle_root};
use jincai_journal::Blob;
use jincai_types::Digest;
use minicbor::Decoder;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"jincaiD1";
const FOOTER_BYTES: u64 = 8 + 8 + 8 + 32 + 32 + 8;
const INDEX_BYTES: u64 = 256 << 20;
/// Most pages in a snapshot: eight times what the most entries usually need, so that keys chosen to cut a page each cannot
/// fill the memory with index.
const PAGES: usize = 1 << 20;
/// Pages kept for look-ups that come close together; about 130 KB of usual pages.
const CACHED_PAGES: usize = 32;

/// Where a page lies and what it must hash to.
#[derive(Clone, Debug)]
struct PageInfo {
    set: Box<str>,
    code: Box<str>,
    offset: u64,
    bytes: u32,
    entries: u16,
    digest: Digest,
}

impl PageInfo {
    fn first(&self) -> Key<'_> {
        (&self.set, &self.code)
    }
}

/// The root of a snapshot of these pages.
fn root_of(codes: u64, pages: &[PageInfo]) -> Digest {
    let leaves: Vec<Digest> = pages.iter().map(|page| page.digest).collect();
    Hasher::default()
        .with(b"jincai dictionary snapshot 1")
        .with(&codes.to_be_bytes())
        .with(&merkle_root(&leaves).0)
        .finish()
}

fn damaged<T>(reason: &'static str) -> Result<T, Error> {
    Err(Error::Damaged { reason })
}

/// One state of a line: all its code sets and codes.
pub struct Snapshot {
    /// `None` only for the empty snapshot, which has no pages.
    blob: Option<Arc<dyn Blob>>,
    pages: Vec<PageInfo>,
    root: Digest,
    codes: u64,
    cache: Mutex<VecDeque<(usize, Arc<[u8]>)>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("root", &self.root).field("codes", &self.codes).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The snapshot without entries, from which the first release starts.
    #[must_use]
    pub fn empty() -> Self {
        Self { blob: None, pages: Vec::new(), root: root_of(0, &[]), codes: 0, cache: Mutex::default() }
    }

    /// Opens a snapshot: reads its index and checks it against its root. Pages are checked when they are read.
    pub fn open(blob: Arc<dyn Blob>) -> Result<Self, Error> {
        let Some(index_end) = blob.len().checked_sub(FOOTER_BYTES).filter(|end| *end >= MAGIC.len() as u64) else {
            return damaged("it is too short");
        };
        let (mut head, mut footer) = ([0u8; 8], [0u8; FOOTER_BYTES as usize]);
        blob.read_at(0, &mut head)?;
        blob.read_at(index_end, &mut footer)?;
        let footer = Footer::read(&footer);
        if head != *MAGIC || footer.magic != *MAGIC {
            return damaged("it is no snapshot of format 1");
        }
        let index_bytes = footer.index_bytes;
        let pages_end = index_end.checked_sub(index_bytes).filter(|end| *end >= MAGIC.len() as u64);
        let (Some(pages_end), true) = (pages_end, index_bytes <= INDEX_BYTES) else {
            return damaged("its index does not fit");
        };
        let mut index = vec![0u8; usize::try_from(index_bytes).expect("checked against INDEX_BYTES")];
        blob.read_at(pages_end, &mut index)?;
        if footer.digest_with(&index) != footer.digest {
            return damaged("its index does not hash to its digest");
        }
        let pages = read_index(&index, pages_end)?;
        let entries: u64 = pages.iter().map(|page| u64::from(page.entries)).sum();
        if entries != footer.entries || entries > limits::ENTRIES || root_of(footer.codes, &pages) != footer.root {
            return damaged("its pages do not add up to its root");
        }
        Ok(Self { blob: Some(blob), pages, root: footer.root, codes: footer.codes, cache: Mutex::default() })
    }

    /// The root: equal for equal entries.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root
    }

    /// How many codes it holds; the code sets themselves are not counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.codes
    }

    /// The entry of a code, or of a set if `code` is empty.
    pub fn get(&self, set: &str, code: &str) -> Result<Option<Entry>, Error> {
        let key = (set, code);
        let Some(page) = self.pages.partition_point(|page| page.first() <= key).checked_sub(1) else {
            return Ok(None);
        };
        let bytes = self.cached_page(page)?;
        for entry in decode_page(&bytes) {
            let entry = entry?;
            if entry.key() == key {
                return Ok(Some(entry.to_entry()));
            }
        }
        Ok(None)
    }

    /// All entries in order, a page at a time. After an error there is nothing more.
    pub fn iter(&self) -> impl Iterator<Item = Result<Entry, Error>> + '_ {
        Cursor::new(self)
    }

    /// The entries from (set, code) on, in order: the place to go on with the next page of a listing.
    pub fn range_from<'s>(
        &'s self,
        set: &'s str,
        code: &'s str,
    ) -> impl Iterator<Item = Result<Entry, Error>> + use<'s> {
        let start = self.pages.partition_point(|page| page.first() <= (set, code)).saturating_sub(1);
        Cursor::at(self, start).skip_while(move |entry| entry.as_ref().is_ok_and(|e| e.key() < (set, code)))
    }

    /// The entries of one code set, the set itself first.
    pub fn entries_of<'s>(&'s self, set: &'s str) -> impl Iterator<Item = Result<Entry, Error>> + use<'s> {
        self.range_from(set, "").take_while(move |entry| entry.as_ref().map_or(true, |e| e.set == set))
    }

    /// The code sets, in order. It reads one page a set.
    pub fn sets(&self) -> Result<Vec<Entry>, Error> {
        let mut sets: Vec<Entry> = Vec::new();
        let mut after = String::new();
        loop {
            let Some(entry) = self.range_from(&after, "").next().transpose()? else {
                return Ok(sets);
            };
            // No id of a set holds a control character, so this lies behind the set and before every other one.
            after = format!("{}\u{1}", entry.set);
            if entry.is_set() {
                sets.push(entry);
            }
        }
    }

    /// The codes directly below `parent` (empty: the topmost ones), in order. It scans the set.
    pub fn children<'s>(
        &'s self,
        set: &'s str,
        parent: &'s str,
    ) -> impl Iterator<Item = Result<Entry, Error>> + use<'s> {
        self.entries_of(set).filter(move |entry| entry.as_ref().map_or(true, |e| !e.is_set() && e.parent == parent))
    }

    /// Reads everything again: every page's digest, order and cuts, the counts, the root.
    pub fn verify(&self) -> Result<(), Error> {
        let mut last: Option<Entry> = None;
        let mut codes = 0;
        for (number, page) in self.pages.iter().enumerate() {
            let bytes = self.read_page(number)?;
            let mut entries = 0;
            for entry in decode_page(&bytes) {
                let entry = entry?;
                entry.check()?;
                let follows = last.as_ref().is_none_or(|before| before.key() < entry.key());
                let closed = last.as_ref().is_some_and(|before| entries > 0 && ends_page(before.key(), entries));
                if !follows || closed || (entries == 0 && entry.key() != page.first()) {
                    return damaged("its entries are not in order or not cut where they must be");
                }
                entries += 1;
                codes += u64::from(!entry.code.is_empty());
                last = Some(entry.to_entry());
            }
            let ended = last.as_ref().is_some_and(|entry| ends_page(entry.key(), entries));
            if entries != usize::from(page.entries) || !(ended || number + 1 == self.pages.len()) {
                return damaged("a page does not hold what the index says");
            }
        }
        if codes == self.codes { Ok(()) } else { damaged("it does not hold as many codes as it says") }
    }

    /// A page's bytes, checked against its digest.
    fn read_page(&self, number: usize) -> Result<Vec<u8>, Error> {
        let (Some(page), Some(blob)) = (self.pages.get(number), &self.blob) else {
            return damaged("it has no such page");
        };
        let mut bytes = vec![0u8; page.bytes as usize];
        blob.read_at(page.offset, &mut bytes)?;
        if page_digest(&bytes) == page.digest { Ok(bytes) } else { damaged("a page does not hash to its digest") }
    }

    fn cached_page(&self, number: usize) -> Result<Arc<[u8]>, Error> {
        // A panic elsewhere cannot leave the list half changed in a way that matters: each element is complete.
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = lock().iter().find(|(cached, _)| *cached == number) {
            return Ok(Arc::clone(bytes));
        }
        let bytes: Arc<[u8]> = self.read_page(number)?.into();
        let mut cache = lock();
        cache.truncate(CACHED_PAGES - 1);
        cache.push_front((number, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

struct Footer {
    index_bytes: u64,
    entries: u64,
    codes: u64,
    root: Digest,
    digest: Digest,
    magic: [u8; 8],
}

impl Footer {
    fn read(bytes: &[u8; FOOTER_BYTES as usize]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let digest = |at: usize| Digest(bytes[at..at + 32].try_into().expect("32 bytes"));
        Self {
            index_bytes: number(0),
            entries: number(8),
            codes: number(16),
            root: digest(24),
            digest: digest(56),
            magic: bytes[88..].try_into().expect("the last eight bytes"),
        }
    }

    fn digest_with(&self, index: &[u8]) -> Digest {
        Hasher::default()
            .with(index)
            .with(&self.index_bytes.to_be_bytes())
            .with(&self.entries.to_be_bytes())
            .with(&self.codes.to_be_bytes())
            .with(&self.root.0)
            .finish()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES as usize);
        for number in [self.index_bytes, self.entries, self.codes] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.digest.0);
        out.extend_from_slice(&self.magic);
        out
    }
}

fn read_index(index: &[u8], pages_end: u64) -> Result<Vec<PageInfo>, Error> {
    let malformed = |_| Error::Damaged { reason: "its index cannot be read" };
    let mut decoder = Decoder::new(index);
    let mut pages: Vec<PageInfo> = Vec::new();
    let mut offset = MAGIC.len() as u64;
    while decoder.position() < index.len() {
        let page = read_page_info(&mut decoder, offset).map_err(malformed)?;
        let sorted = pages.last().is_none_or(|before| before.first() < page.first());
        let sized = (1..=PAGE_BYTES).contains(&(page.bytes as usize));
        if !sorted || !sized || !(1..=PAGE_ENTRIES).contains(&usize::from(page.entries)) {
            return damaged("its index is not in order");
        }
        offset += u64::from(page.bytes);
        pages.push(page);
    }
    if offset == pages_end { Ok(pages) } else { damaged("its pages and its index do not meet") }
}

fn read_page_info(decoder: &mut Decoder<'_>, offset: u64) -> Result<PageInfo, minicbor::decode::Error> {
    if decoder.array()? != Some(5) {
        return Err(minicbor::decode::Error::message("a page's index entry is an array of five"));
    }
    Ok(PageInfo {
        set: decoder.str()?.into(),
        code: decoder.str()?.into(),
        offset,
        bytes: decoder.u32()?,
        digest: decoder.decode()?,
        entries: decoder.u16()?,
    })
}
