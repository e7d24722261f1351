//! What travels about a file, and what names it. The messages' shapes stand in docs/protocol.md.

use crate::Error;
use crate::tree::{FILE_BYTES_MAX, chunks_of, pages_of, root};
use jincai_types::{AuthorityId, Digest, decode_canonical, limits};
use minicbor::bytes::{ByteSlice, ByteVec};
use minicbor::{Decode, Encode};
use std::fmt;

/// The type of an offer: the origin has a file for the destination.
pub const OFFER: &str = "jincai.file.offer";
/// The type of a want: the destination asks for pages and chunks.
pub const WANT: &str = "jincai.file.want";
/// The type of a page's digests.
pub const PAGE: &str = jincai_exchange::FILE_PAGE;
/// The type of a chunk.
pub const CHUNK: &str = jincai_exchange::FILE_CHUNK;
/// The type of the destination's word that a file is whole.
pub const RECEIVED: &str = "jincai.file.received";
/// The type of either side's word that a transfer is over.
pub const END: &str = "jincai.file.end";

/// Longest id of a transfer, in bytes.
const ID_BYTES: usize = 200;
/// Longest name of a file, in bytes.
const NAME_BYTES: usize = 255;
/// Longest media type, in bytes.
const MEDIA_BYTES: usize = 127;
/// Most spans in one want.
pub(crate) const SPANS_MAX: usize = 4096;

/// Which transfer: an id is unique at the file's origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct FileKey {
    /// Who sends the file.
    #[n(0)]
    pub origin: AuthorityId,
    /// Its id there.
    #[n(1)]
    pub id: String,
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.origin, self.id)
    }
}

/// Consecutive chunks: from the first up to, not including, the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Span {
    /// The first chunk.
    #[n(0)]
    pub from: u64,
    /// Behind the last one.
    #[n(1)]
    pub to: u64,
}

impl Span {
    /// How many chunks.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunks.
    pub fn chunks(&self) -> std::ops::Range<u64> {
        self.from..self.to
    }
}

/// Ascending chunks as spans.
#[must_use]
pub fn spans_of(chunks: impl IntoIterator<Item = u64>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for chunk in chunks {
        match spans.last_mut() {
            Some(last) if last.to == chunk => last.to += 1,
            _ => spans.push(Span { from: chunk, to: chunk + 1 }),
        }
    }
    spans
}

/// An offer: everything about a file but its chunks and their digests.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// The transfer's id.
    #[n(0)]
    pub id: String,
    /// The file's name, for people.
    #[n(1)]
    pub name: String,
    /// Its media type; may be empty.
    #[n(2)]
    pub media: String,
    /// Its size in bytes.
    #[n(3)]
    pub size: u64,
    /// The root of its tree.
    #[n(4)]
    pub root: Digest,
    /// The digests of its pages.
    #[n(5)]
    pub pages: Vec<Digest>,
}

impl Offer {
    /// Refuses what is no file or could not be shown.
    pub fn check(&self) -> Result<(), Error> {
        let unusable = |reason: &str| Err(Error::Unusable { reason: reason.to_owned() });
        if self.size > FILE_BYTES_MAX {
            return Err(Error::TooLong { limit: FILE_BYTES_MAX });
        }
        if !is_plain(&self.id, ID_BYTES) || self.id.is_empty() || self.id.contains('/') {
            return unusable("an id has 1 to 200 bytes, without «/» and control characters");
        }
        let no_name = [".", ".."].contains(&self.name.as_str()) || self.name.contains(['/', '\\']);
        if !is_plain(&self.name, NAME_BYTES) || self.name.trim().is_empty() || no_name {
            return unusable("a file's name has 1 to 255 bytes, without slashes, control and invisible characters");
        }
        if !is_plain(&self.media, MEDIA_BYTES) || !self.media.is_ascii() {
            return unusable("a media type has at most 127 bytes of ASCII");
        }
        if self.pages.len() as u64 != pages_of(self.size) || root(self.size, &self.pages) != self.root {
            return unusable("the root is not that of the size and the pages");
        }
        Ok(())
    }

    /// How many chunks the file has.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        chunks_of(self.size)
    }
}

/// Whether a text has no characters that are not seen, or turn the direction of those that are.
fn is_plain(text: &str, limit: usize) -> bool {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.len() <= limit && !text.chars().any(hidden)
}

/// What the destination asks for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Want {
    /// The transfer's id.
    #[n(0)]
    pub(crate) id: String,
    /// Whether it takes the place of whatever was wanted before.
    #[n(1)]
    pub(crate) anew: bool,
    /// Pages, ascending.
    #[n(2)]
    pub(crate) pages: Vec<u32>,
    /// Chunks, ascending.
    #[n(3)]
    pub(crate) chunks: Vec<Span>,
}

impl Want {
    /// Refuses what is not within a file of this size, or not in order.
    pub(crate) fn check(&self, size: u64) -> Result<(), Error> {
        let (chunks, pages) = (chunks_of(size), pages_of(size));
        let ordered = self.chunks.is_sorted_by(|a, b| a.to <= b.from) && self.pages.is_sorted_by(|a, b| a < b);
        let within = self.chunks.iter().all(|span| span.from < span.to && span.to <= chunks)
            && self.pages.iter().all(|page| u64::from(*page) < pages);
        if ordered && within && self.chunks.len() <= SPANS_MAX {
            Ok(())
        } else {
            Err(Error::Unusable { reason: "a want names pages and chunks of the file, ascending".into() })
        }
    }
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PageMessage {
    #[n(0)]
    pub(crate) id: String,
    #[n(1)]
    pub(crate) page: u32,
    /// The digests of its chunks, back to back.
    #[n(2)]
    pub(crate) digests: ByteVec,
}

/// A chunk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ChunkMessage<'b> {
    #[n(0)]
    pub(crate) id: String,
    #[n(1)]
    pub(crate) chunk: u64,
    #[b(2)]
    pub(crate) bytes: &'b ByteSlice,
}

/// The bytes in the payload of a message with a chunk.
pub fn chunk_bytes(payload: &[u8]) -> Result<&[u8], Error> {
    let message: ChunkMessage<'_> = read("file chunk", payload)?;
    Ok(message.bytes)
}

/// The file is whole at its destination.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ReceivedMessage {
    #[n(0)]
    pub(crate) id: String,
    #[n(1)]
    pub(crate) root: Digest,
}

/// A transfer is over before the file was whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EndMessage {
    #[n(0)]
    pub(crate) key: FileKey,
    #[n(1)]
    pub(crate) code: String,
    #[n(2)]
    pub(crate) reason: String,
}

/// Longest code and reason that are kept of what somebody else says.
const CODE_BYTES: usize = 16;
const REASON_BYTES: usize = 500;

/// What somebody else says about an end, cut to what is kept of it.
pub(crate) fn cut((code, reason): (&str, &str)) -> (String, String) {
    let short = |text: &str, limit: usize| text.chars().filter(|c| !c.is_control()).take(limit).collect();
    (short(code, CODE_BYTES), short(reason, REASON_BYTES))
}

/// Reads a payload that must have its one canonical form.
pub(crate) fn read<'b, T: Decode<'b, ()> + Encode<()>>(what: &'static str, bytes: &'b [u8]) -> Result<T, Error> {
    Ok(decode_canonical(what, bytes, limits::PAYLOAD_BYTES)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::CHUNK_BYTES;

    fn offer(name: &str, size: u64, pages: Vec<Digest>) -> Offer {
        Offer { id: "1".into(), name: name.into(), media: String::new(), size, root: root(size, &pages), pages }
    }

    #[test]
    fn names_that_deceive_or_lead_elsewhere_are_refused() {
        assert_eq!(offer("报表 2026.xlsx", 1, vec![Digest::ZERO]).check(), Ok(()));
        let long = "x".repeat(256);
        for name in ["", " ", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "a\u{202e}fdp.exe", "a\u{200b}b", &long] {
            let refused = offer(name, 1, vec![Digest::ZERO]).check();
            assert_eq!(refused.expect_err(name).code(), "JC-2002", "{name:?}");
        }
    }

    #[test]
    fn an_offer_whose_tree_is_none_is_refused() {
        for (size, pages) in [(1, 0), (0, 1), (CHUNK_BYTES * 4096 + 1, 1)] {
            assert!(offer("a", size, vec![Digest::ZERO; pages]).check().is_err(), "{size} {pages}");
        }
        let wrong = Offer { root: Digest::ZERO, ..offer("a", 1, vec![Digest::ZERO]) };
        assert!(wrong.check().is_err());
        assert_eq!(offer("a", u64::MAX, Vec::new()).check().expect_err("too long").code(), "JC-2001");
    }

    #[test]
    fn a_want_beyond_the_file_or_out_of_order_is_refused() {
        let span = |from, to| Span { from, to };
        let want = |pages: &[u32], chunks: &[Span]| Want {
            id: "1".into(),
            anew: false,
            pages: pages.to_vec(),
            chunks: chunks.to_vec(),
        };
        let size = CHUNK_BYTES * 5000;
        assert_eq!(want(&[0, 1], &[span(0, 2), span(2, 3), span(10, 5000)]).check(size), Ok(()));
        for wrong in [
            want(&[2], &[]),
            want(&[1, 0], &[]),
            want(&[1, 1], &[]),
            want(&[], &[span(0, 5001)]),
            want(&[], &[span(3, 3)]),
            want(&[], &[span(4, 3)]),
            want(&[], &[span(3, 5), span(4, 6)]),
        ] {
            assert!(wrong.check(size).is_err(), "{wrong:?}");
        }
        assert_eq!(spans_of([0, 1, 2, 7, 9, 10]), [span(0, 3), span(7, 8), span(9, 11)]);
    }
}
