//! The hash tree of a file: its bytes in chunks, chunks in pages, pages under one root that also says how long the file is.
//!
//! ```text
//! chunk digest = H("jincai/file-chunk/1\0" ‖ bytes)                     512 KiB each, the last one what is left
//! page digest  = H("jincai/file-page/1\0" ‖ chunk digests)              4,096 each, the last one what is left
//! root         = H("jincai/file/1\0" ‖ size u64 big-endian ‖ page digests)
//! ```
//!
//! Equal contents have equal roots. A file has at most 1,024 pages (2 TiB); an empty one has none. Who knows the root can check
//! the page digests, who knows those a page, and who knows a page each of its chunks on its own.

use crate::Error;
use jincai_crypto::Hasher;
use jincai_types::Digest;

/// Bytes of a chunk.
pub const CHUNK_BYTES: u64 = 512 << 10;
/// Chunks of a page.
pub const PAGE_CHUNKS: u64 = 4096;
/// Most pages of a file.
pub const PAGES_MAX: u64 = 1024;
/// Longest file, in bytes.
pub const FILE_BYTES_MAX: u64 = CHUNK_BYTES * PAGE_CHUNKS * PAGES_MAX;

/// How many chunks a file of this size has.
#[must_use]
pub fn chunks_of(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES)
}

/// How many pages a file of this size has.
#[must_use]
pub fn pages_of(size: u64) -> u64 {
    chunks_of(size).div_ceil(PAGE_CHUNKS)
}

/// How many chunks a page of a file of this size has.
#[must_use]
pub fn page_len(size: u64, page: u32) -> u64 {
    chunks_of(size).saturating_sub(u64::from(page) * PAGE_CHUNKS).min(PAGE_CHUNKS)
}

/// How long a chunk of a file of this size is; 0 beyond its end.
#[must_use]
pub fn chunk_len(size: u64, chunk: u64) -> u64 {
    size.saturating_sub(chunk.saturating_mul(CHUNK_BYTES)).min(CHUNK_BYTES)
}

/// The digest of a chunk.
#[must_use]
pub fn chunk_digest(bytes: &[u8]) -> Digest {
    Hasher::default().with(b"jincai/file-chunk/1\0").with(bytes).finish()
}

/// The digest of a page.
#[must_use]
pub fn page_digest(chunks: &[Digest]) -> Digest {
    let mut hasher = Hasher::default().with(b"jincai/file-page/1\0");
    chunks.iter().for_each(|digest| hasher.update(&digest.0));
    hasher.finish()
}

/// The root of a file.
#[must_use]
pub fn root(size: u64, pages: &[Digest]) -> Digest {
    let mut hasher = Hasher::default().with(b"jincai/file/1\0").with(&size.to_be_bytes());
    pages.iter().for_each(|digest| hasher.update(&digest.0));
    hasher.finish()
}

/// Chunk digests as they stand in a message or a file: back to back.
#[must_use]
pub fn join_digests(digests: &[Digest]) -> Vec<u8> {
    digests.iter().flat_map(|digest| digest.0).collect()
}

/// Reads what [`join_digests`] wrote; `None` if bytes are left over.
#[must_use]
pub fn split_digests(bytes: &[u8]) -> Option<Vec<Digest>> {
    let (digests, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| digests.iter().map(|bytes| Digest(*bytes)).collect())
}

/// The tree of a file, as far as it travels with an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Bytes of the file.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// The digests of its pages.
    pub pages: Vec<Digest>,
}

/// Makes a tree while a file goes by, piece by piece; it holds one page's digests at a time.
#[derive(Default)]
pub struct TreeBuilder {
    size: u64,
    chunk: Option<Hasher>,
    in_chunk: u64,
    page: Vec<Digest>,
    pages: Vec<Digest>,
}

impl TreeBuilder {
    /// Takes the next bytes; `each` gets every page that they fill.
    pub fn update(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(&[Digest])) -> Result<(), Error> {
        if self.size.saturating_add(bytes.len() as u64) > FILE_BYTES_MAX {
            return Err(Error::TooLong { limit: FILE_BYTES_MAX });
        }
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - self.in_chunk).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let hasher = self.chunk.get_or_insert_with(|| Hasher::default().with(b"jincai/file-chunk/1\0"));
            hasher.update(now);
            self.in_chunk += now.len() as u64;
            bytes = later;
            if self.in_chunk == CHUNK_BYTES {
                self.end_chunk();
            }
            if self.page.len() as u64 == PAGE_CHUNKS {
                self.end_page(each);
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        if let Some(hasher) = self.chunk.take() {
            self.page.push(hasher.finish());
            self.in_chunk = 0;
        }
    }

    fn end_page(&mut self, each: &mut dyn FnMut(&[Digest])) {
        self.pages.push(page_digest(&self.page));
        each(&self.page);
        self.page.clear();
    }

    /// The file has ended; `each` gets its last page.
    pub fn finish(mut self, each: &mut dyn FnMut(&[Digest])) -> Tree {
        self.end_chunk();
        if !self.page.is_empty() {
            self.end_page(each);
        }
        Tree { size: self.size, root: root(self.size, &self.pages), pages: self.pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree_of(bytes: &[u8], pieces: &[usize]) -> (Tree, Vec<Vec<Digest>>) {
        let (mut builder, mut pages, mut rest) = (TreeBuilder::default(), Vec::new(), bytes);
        for piece in pieces {
            let (now, later) = rest.split_at(rest.len().min(*piece));
            builder.update(now, &mut |page| pages.push(page.to_vec())).expect("short");
            rest = later;
        }
        builder.update(rest, &mut |page| pages.push(page.to_vec())).expect("short");
        let tree = builder.finish(&mut |page| pages.push(page.to_vec()));
        (tree, pages)
    }

    #[test]
    fn sizes_are_cut_into_chunks_and_pages() {
        for (size, chunks, pages) in
            [(0, 0, 0), (1, 1, 1), (CHUNK_BYTES, 1, 1), (CHUNK_BYTES + 1, 2, 1), (FILE_BYTES_MAX, 4 << 20, 1024)]
        {
            assert_eq!((chunks_of(size), pages_of(size)), (chunks, pages), "{size}");
            let sum: u64 = (0..chunks.min(5)).map(|chunk| chunk_len(size, chunk)).sum();
            assert_eq!(sum, size.min(5 * CHUNK_BYTES));
            assert_eq!(chunk_len(size, chunks), 0);
        }
        assert_eq!(page_len(CHUNK_BYTES * (PAGE_CHUNKS + 3), 1), 3);
    }

    #[test]
    fn a_root_is_that_of_the_content_alone_and_of_all_of_it() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 77).map(|n| u8::try_from(n % 251).expect("small")).collect();
        let (tree, pages) = tree_of(&bytes, &[]);
        assert_eq!((tree.pages.len(), pages[0].len()), (1, 3));
        assert_eq!(tree.pages[0], page_digest(&pages[0]));
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(tree_of(&other, &[]).0.root, tree.root);
        }
        assert_ne!(tree_of(&bytes[..bytes.len() - 1], &[]).0.root, tree.root);
        // A chunk is no page and a page is no file, whatever their bytes are.
        let (one, digests) = (tree_of(b"x", &[]).0, tree_of(b"x", &[]).1);
        assert_ne!(chunk_digest(&join_digests(&digests[0])), one.pages[0]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_a_file_goes_by(
            length in 0usize..1_200_000,
            pieces in prop::collection::vec(0usize..600_000, 0..6),
        ) {
            let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n * 31 % 256).expect("a byte")).collect();
            prop_assert_eq!(tree_of(&bytes, &pieces), tree_of(&bytes, &[]));
        }

        #[test]
        fn digests_are_split_as_they_were_joined(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            match split_digests(&bytes) {
                Some(digests) => prop_assert_eq!(join_digests(&digests), bytes),
                None => prop_assert!(!bytes.len().is_multiple_of(32)),
            }
        }
    }
}
