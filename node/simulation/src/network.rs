//! The network between neighbours: sessions, which know when they end, and frames, which get lost, doubled, overtaken,
//! altered or delayed, or vanish without anybody's notice.

use crate::faults::Fault;
use crate::trace::{show_frame, signed_for};
use crate::world::{Happening, World};
use jincai_core::Event;
use jincai_exchange::LinkKind;
use jincai_types::{AuthorityId, Millis};
use std::collections::{BTreeMap, VecDeque};

/// A batch frame's kind and floor, which only the transport protects; everything behind is signed.
const FLOOR_BYTES: u64 = 140;
/// Signed frames remembered, to be replayed; receipts are remembered apart, because there are few.
const REMEMBERED: usize = 64;
const REMEMBERED_RECEIPTS: usize = 256;

/// A signed frame that has travelled.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Network {
    /// Sessions that are up, by (child, superior), with their number: frames of an older one are lost.
    sessions: BTreeMap<(usize, usize), u64>,
    count: u64,
    /// Until when nothing arrives from one node at another.
    cut: BTreeMap<(usize, usize), Millis>,
    /// Until when everything takes longer from one node to another.
    slow: BTreeMap<(usize, usize), Millis>,
    pub(crate) seen: VecDeque<Seen>,
    pub(crate) seen_receipts: VecDeque<Seen>,
}

impl Network {
    pub(crate) fn session(&self, a: usize, b: usize) -> Option<u64> {
        self.sessions.get(&(a, b)).or_else(|| self.sessions.get(&(b, a))).copied()
    }

    fn remember(&mut self, seen: Seen, sender: AuthorityId) {
        let (all, most) = match signed_for(&seen.bytes, sender).is_empty() {
            false => (&mut self.seen_receipts, REMEMBERED_RECEIPTS),
            true => (&mut self.seen, REMEMBERED),
        };
        if all.len() == most {
            all.pop_front();
        }
        all.push_back(seen);
    }

    /// The weather clears up.
    pub(crate) fn clear(&mut self) {
        self.cut.clear();
        self.slow.clear();
    }
}

/// Kinds of frames that are signed: batches, receipts, slots.
pub(crate) fn is_signed(frame: &[u8]) -> bool {
    matches!(frame.get(1), Some(1 | 3 | 5))
}

impl World {
    pub(crate) fn join(&mut self, child: usize, superior: usize) -> Result<(), String> {
        let up = self.nodes[child].running.is_some() && self.nodes[superior].running.is_some();
        if !up || self.network.sessions.contains_key(&(child, superior)) {
            return Ok(());
        }
        self.network.count += 1;
        self.network.sessions.insert((child, superior), self.network.count);
        let (a, b) = (self.nodes[child].id, self.nodes[superior].id);
        self.tell(child, || format!("joins {b}"));
        self.nodes[child].step(self.now, Event::LinkUp(b, LinkKind::Session))?;
        self.nodes[superior].step(self.now, Event::LinkUp(a, LinkKind::Session))?;
        self.drive(child)?;
        self.drive(superior)
    }

    pub(crate) fn break_link(&mut self, child: usize, superior: usize) -> Result<(), String> {
        if self.network.sessions.remove(&(child, superior)).is_none() {
            return Ok(());
        }
        let (a, b) = (self.nodes[child].id, self.nodes[superior].id);
        self.tell(child, || format!("loses its connection with {b}"));
        self.nodes[child].step(self.now, Event::LinkDown(b))?;
        self.nodes[superior].step(self.now, Event::LinkDown(a))?;
        let back = self.random.between(200, 8_000);
        self.at(back, Happening::Join(child, superior));
        Ok(())
    }

    /// A node is gone: its connections end, and the other ends notice.
    pub(crate) fn hang_up(&mut self, node: usize) -> Result<(), String> {
        let sessions = self.network.sessions.keys().filter(|(a, b)| *a == node || *b == node);
        let broken: Vec<(usize, usize)> = sessions.copied().collect();
        for pair in broken {
            self.network.sessions.remove(&pair);
            let other = if pair.0 == node { pair.1 } else { pair.0 };
            let id = self.nodes[node].id;
            self.nodes[other].step(self.now, Event::LinkDown(id))?;
        }
        Ok(())
    }

    /// The weather between a node and its superior.
    pub(crate) fn tick_weather(&mut self, child: usize, superior: usize) {
        if self.strikes(Fault::LinkBreak, 8) {
            self.at(0, Happening::Break(child, superior));
        }
        let until = self.now + self.random.between(500, 10_000);
        if self.strikes(Fault::OneWay, 2) {
            let way = if self.random.chance(500) { (child, superior) } else { (superior, child) };
            self.network.cut.insert(way, until);
        }
        if self.strikes(Fault::Partition, 2) {
            self.network.cut.extend([((child, superior), until), ((superior, child), until)]);
        }
        if self.strikes(Fault::Delay, 2) {
            self.network.slow.extend([((child, superior), until), ((superior, child), until)]);
        }
    }

    pub(crate) fn send(&mut self, from: usize, peer: AuthorityId, bytes: Vec<u8>) {
        let Some(to) = self.index.get(&peer).copied() else { return };
        let Some(session) = self.network.session(from, to) else { return };
        self.tell(from, || format!("-> {peer} {}", show_frame(&bytes)));
        let now = self.now;
        let until = |weather: &BTreeMap<(usize, usize), Millis>| weather.get(&(from, to)).is_some_and(|t| now < *t);
        let (cut, slow) = (until(&self.network.cut), until(&self.network.slow));
        let mut delay = self.random.between(1, 40);
        if slow {
            delay += self.random.between(400, 2_000);
        }
        if cut || self.strikes(Fault::Loss, 20) {
            return;
        }
        if self.strikes(Fault::Reorder, 30) {
            delay += self.random.between(40, 2_000);
        }
        if self.strikes(Fault::Duplicate, 15) {
            let later = self.random.between(1, 3_000);
            self.at(later, Happening::Frame { from, to, session, bytes: bytes.clone() });
        }
        self.at(delay, Happening::Frame { from, to, session, bytes });
    }

    pub(crate) fn arrive(&mut self, from: usize, to: usize, session: u64, bytes: Vec<u8>) -> Result<(), String> {
        if self.network.session(from, to) != Some(session) {
            return Ok(());
        }
        if is_signed(&bytes) {
            if self.strikes(Fault::Alter, 5) {
                self.altered(from, to, bytes.clone())?;
            }
            self.network.remember(Seen { from, to, bytes: bytes.clone() }, self.nodes[from].id);
        }
        self.report.frames += 1;
        if self.report.frames > self.frames_max {
            return Err(format!("I9: {} frames: somebody sends without end", self.frames_max));
        }
        self.report.bytes += bytes.len() as u64;
        self.deliver(from, to, bytes.clone())?;
        self.after_frame(from, to, &bytes)
    }

    /// Hands a frame over, wherever it comes from, and has the node do what follows; returns whether it was taken.
    pub(crate) fn deliver(&mut self, from: usize, to: usize, bytes: Vec<u8>) -> Result<bool, String> {
        let taken = self.hand_over(from, to, bytes)?;
        self.drive(to)?;
        Ok(taken)
    }

    pub(crate) fn hand_over(&mut self, from: usize, to: usize, bytes: Vec<u8>) -> Result<bool, String> {
        self.trace.mix_bytes(&bytes);
        let peer = self.nodes[from].id;
        let shown = bytes.clone();
        let taken = self.nodes[to].step(self.now, Event::Frame(peer, bytes))?;
        self.tell(to, || format!("<- {peer} {}{}", show_frame(&shown), if taken { "" } else { " (refused)" }));
        Ok(taken)
    }

    /// I5: an altered copy arrives before the frame itself. A copy whose altered bit means nothing may be taken for the
    /// original, and leaves a record; anything else moves no cursor, and if it is refused nothing at all. Only what is signed can be told
    /// from its altered copy; the rest is protected by the transport's own integrity.
    fn altered(&mut self, from: usize, to: usize, mut bytes: Vec<u8>) -> Result<(), String> {
        let bits = bytes.len().max(FLOOR_BYTES as usize + 1) as u64 * 8;
        let bit = self.random.between(FLOOR_BYTES * 8, bits);
        if let Some(byte) = bytes.get_mut(usize::try_from(bit / 8).unwrap_or(0)) {
            *byte ^= 1 << (bit % 8);
        }
        let look = |world: &Self| {
            let running = world.nodes[to].running.as_ref()?;
            let exchange = running.core.exchange();
            Some((running.core.staged(), exchange.cursors(), exchange.custody().collect::<Vec<_>>()))
        };
        let before = look(self);
        // A slot that is taken is authentic still, and may make a node forget receipts without a record.
        let slot = bytes.get(1) == Some(&5);
        let taken = self.hand_over(from, to, bytes)?;
        if let (Some(before), Some(after)) = (before, look(self)) {
            let same = if taken { slot || before.0 != after.0 || before.1 == after.1 } else { before == after };
            if !same {
                return Err(format!("{}: I5: a frame that says nothing moved a cursor", self.nodes[to].id));
            }
        }
        self.drive(to)
    }
}
