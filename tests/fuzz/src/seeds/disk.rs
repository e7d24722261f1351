//! Seeds of the journal and of transports.

use super::{Seed, accepted, refused};
use crate::journal::{carry_file, edit};
use crate::read::piece;
use crate::wires::{entry, framed};

/// Which file an edit means: HEAD, or the segment with this place in their order.
const HEAD: u8 = 2;

fn number(file: u8, offset: u16, number: u64) -> Vec<u8> {
    [vec![edit::NUMBER, file], offset.to_le_bytes().to_vec(), number.to_le_bytes().to_vec()].concat()
}

fn on_file(kind: u8, file: u8, offset: u16) -> Vec<u8> {
    [vec![kind, file], offset.to_le_bytes().to_vec()].concat()
}

fn created(name: &str, content: &[u8]) -> Vec<u8> {
    [on_file(edit::CREATE, 0, 0), piece(name.as_bytes()), piece(content)].concat()
}

pub(super) fn seeds() -> Vec<Seed> {
    let journal = |edits: &[Vec<u8>]| edits.concat();
    let (clean, based) = (vec![0], vec![1]);
    let (sealed, chained) = (vec![edit::SEAL], vec![edit::CHAIN]);
    let renamed = [on_file(edit::RENAME, 0, 0), u64::MAX.to_le_bytes().to_vec()].concat();
    let carried = carry_file();
    let mut altered = carried.clone();
    altered[40] ^= 1;
    vec![
        accepted("journal", "clean", clean.clone()),
        accepted("journal", "with-a-base", based.clone()),
        accepted("journal", "sealed-again", journal(&[based.clone(), chained.clone()])),
        refused("journal", "segment-without-a-successor", journal(&[clean.clone(), renamed])),
        accepted("journal", "foreign-file", journal(&[clean.clone(), created("notes.txt", b"mine")])),
        accepted(
            "journal",
            "file-beyond-the-last-number",
            journal(&[clean.clone(), created("ffffffffffffffff.segment", b"")]),
        ),
        refused("journal", "cut-in-the-middle", journal(&[clean.clone(), on_file(edit::TRUNCATE, 0, 5000)])),
        refused("journal", "HEAD-at-the-end", journal(&[clean.clone(), number(HEAD, 24, u64::MAX), sealed.clone()])),
        refused("journal", "base-through-the-end", journal(&[based, number(0, 4096 + 128 + 4, u64::MAX), chained])),
        refused(
            "journal",
            "last-position",
            journal(&[clean, number(0, 48, u64::MAX), number(0, 56, u64::MAX), sealed]),
        ),
        accepted("carry", "two", [vec![0], carried].concat()),
        refused("carry", "altered", [vec![1], altered].concat()),
        accepted("mailbox", "entry", [vec![0], entry(b"frame")].concat()),
        accepted("mailbox", "frame", b"\x01frame".to_vec()),
        refused("mailbox", "half", [vec![0], entry(b"frame")[..43].to_vec()].concat()),
        refused("mailbox", "empty", vec![1]),
        accepted("stream", "two", [framed(b"one"), framed(&[7; 300])].concat()),
        refused("stream", "half", framed(b"one")[..6].to_vec()),
        refused("stream", "too-long", vec![0x10, 0, 0, 0, 1]),
    ]
}
