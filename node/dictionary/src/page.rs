//! Pages: runs of sorted entries, cut where the content says so.
//!
//! A page ends after an entry whose SHA-256(set ‖ 0x00 ‖ code) ends in six zero bits, or after 512 entries. So the cuts
//! depend on the set of entries alone, never on how it came about, and an edit moves no cut but those next to it.
//!
//! A page's bytes are its entries, one after the other, each the CBOR array [set, code, name, level, parent]; the set is
//! empty text where it is that of the entry before. Its digest is SHA-256(0x00 ‖ bytes). Limits: 512 entries, 400 KiB.

use crate::model::{EntryRef, Key};
use crate::{Entry, Error};
use jincai_crypto::Hasher;
use jincai_types::Digest;
use minicbor::{Decoder, Encoder};

/// Most entries in a page.
pub(crate) const PAGE_ENTRIES: usize = 512;
/// Most bytes in a page: 512 entries of the longest texts and their CBOR heads stay below it.
pub(crate) const PAGE_BYTES: usize = 400 << 10;

/// Whether a page ends after the entry with this key, being the `entries`-th of its page.
pub(crate) fn ends_page(key: Key<'_>, entries: usize) -> bool {
    let digest = Hasher::default().with(key.0.as_bytes()).with(&[0]).with(key.1.as_bytes()).finish();
    entries >= PAGE_ENTRIES || digest.0[31].trailing_zeros() >= 6
}

/// The digest of a page, a leaf of the snapshot's tree.
pub(crate) fn page_digest(bytes: &[u8]) -> Digest {
    Hasher::default().with(&[0]).with(bytes).finish()
}

/// Appends an entry. `set` is what to write for the set: empty if it is that of the entry before.
pub(crate) fn encode_entry(out: &mut Vec<u8>, set: &str, entry: EntryRef<'_>) {
    Encoder::new(out)
        .array(5)
        .and_then(|e| e.str(set)?.str(entry.code)?.str(entry.name)?.str(entry.level)?.str(entry.parent))
        .expect("a Vec never refuses a write");
}

/// Reads one entry; `previous` is the set of the entry before and takes the set of this one.
pub(crate) fn decode_entry<'b>(
    decoder: &mut Decoder<'b>,
    previous: &mut &'b str,
) -> Result<EntryRef<'b>, minicbor::decode::Error> {
    if decoder.array()? != Some(5) {
        return Err(minicbor::decode::Error::message("an entry is an array of five"));
    }
    let set = decoder.str()?;
    if !set.is_empty() {
        *previous = set;
    }
    Ok(EntryRef {
        set: previous,
        code: decoder.str()?,
        name: decoder.str()?,
        level: decoder.str()?,
        parent: decoder.str()?,
    })
}

/// The entries of a page whose digest has been checked.
pub(crate) fn decode_page(bytes: &[u8]) -> impl Iterator<Item = Result<EntryRef<'_>, Error>> {
    let mut decoder = Decoder::new(bytes);
    let mut previous = "";
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || decoder.position() == bytes.len() {
            return None;
        }
        let entry = decode_entry(&mut decoder, &mut previous);
        failed = entry.is_err();
        Some(entry.map_err(|_| Error::Damaged { reason: "a page cannot be read" }))
    })
}

/// The entries of a page, owned.
pub(crate) fn page_entries(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    decode_page(bytes).map(|entry| entry.map(EntryRef::to_entry)).collect()
}
