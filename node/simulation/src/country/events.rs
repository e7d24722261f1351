//! The order of everything that happens: a heap by time, then by the order in which it was asked for.

use jincai_types::Millis;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Frame {
        from: usize,
        to: usize,
        session: u64,
        bytes: Vec<u8>,
    },
    /// A node's clock ticks.
    Wake(usize),
    /// A node's disk has what was written in its life of this number.
    Synced(usize, u64),
    /// The link from a node to its superior ends, for so long.
    Break(usize, Millis),
    Join(usize),
    PowerCut(usize),
    PowerBack(usize),
    Release(u64),
    Spec,
    Write(usize),
    Forge(usize),
}

#[derive(Default)]
pub(crate) struct Heap {
    heap: BinaryHeap<Reverse<(Millis, u64, Happening)>>,
    order: u64,
    trace: u64,
}

impl Heap {
    pub(crate) fn push(&mut self, at: Millis, happening: Happening) {
        self.order += 1;
        self.heap.push(Reverse((at, self.order, happening)));
    }

    pub(crate) fn pop(&mut self) -> Option<(Millis, Happening)> {
        let Reverse((at, order, happening)) = self.heap.pop()?;
        self.mix(at ^ order.rotate_left(32));
        if let Happening::Frame { bytes, .. } = &happening {
            self.mix(bytes.len() as u64);
            let last = bytes.last_chunk::<8>().copied().unwrap_or_default();
            self.mix(u64::from_le_bytes(last));
        }
        Some((at, happening))
    }

    fn mix(&mut self, value: u64) {
        // FNV-1a over words: it only has to tell two runs apart.
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3);
    }

    /// A digest of everything so far.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }
}
