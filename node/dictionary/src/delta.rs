//! Deltas: the operations between two snapshots, and the parts they travel in.
//!
//! A part is one zstd frame (window ≤ 8 MiB). Its plain bytes are a header, the CBOR array [1, line, release number, part
//! index], then operations in strictly ascending order of (set, code) across all parts, each the CBOR array
//! [0 add | 1 change, set, code, name, level, parent] or [2 remove, set, code], with an empty set standing for the set of
//! the operation before within the part. A part holds whole operations and at least one.
//! Limits: 512 KiB compressed and 8 MiB plain a part, 255 parts, so 2 GiB plain in all; reading holds 64 KiB of it.

mod read;
mod write;

pub(crate) use read::PartReader;
pub(crate) use write::DeltaWriter;

use crate::Entry;
use crate::model::Key;

/// Most bytes in a part as it travels.
pub const PART_BYTES: usize = 512 << 10;
/// Most parts in a delta. A manifest names them all in `requires`, and its issuer commits them together with it.
pub const PARTS: usize = 64;
/// Most plain bytes in a part.
const PLAIN_BYTES: usize = 8 << 20;
/// Plain bytes that are held while a part is written or read.
const CHUNK_BYTES: usize = 64 << 10;
/// More bytes than one header or operation can have.
const OPERATION_BYTES: usize = 1 << 10;
/// Log2 of the largest zstd window that a reader must hold.
const WINDOW_LOG: u32 = 23;
const FORMAT: u8 = 1;
const ADD: u8 = 0;
const CHANGE: u8 = 1;
const REMOVE: u8 = 2;

/// One step from a snapshot to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An entry appears.
    Add(Entry),
    /// An entry gets this name, level and parent.
    Change(Entry),
    /// An entry goes.
    Remove {
        /// Its code set.
        set: String,
        /// Its code; empty for the set itself.
        code: String,
    },
}

impl Operation {
    pub(crate) fn key(&self) -> Key<'_> {
        match self {
            Self::Add(entry) | Self::Change(entry) => entry.key(),
            Self::Remove { set, code } => (set, code),
        }
    }
}

/// Which part of which delta a part must say it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartName<'a> {
    pub(crate) line: &'a str,
    pub(crate) number: u64,
    pub(crate) index: usize,
}
