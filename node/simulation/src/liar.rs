//! Neighbours that do not tell the truth, each time with what an honest node must still keep to: frames replayed, claims
//! that nobody signed, receipts for what was never sent, batches where they do not belong, and two signed batches for one
//! place. Lies that are signed well stand in `signed_lies`.

use crate::faults::Fault;
use crate::network::Seen;
use crate::node::InCustody;
use crate::trace::signed_for;
use crate::world::World;
use jincai_crypto::{BatchView, Purpose, Recipient, SealInput, SeededEntropy, seal, sign};
use jincai_exchange::record::to_body;
use jincai_exchange::{Frame, HeldBack, HopOrder, Obstacle, Receipt, ReceiptList};
use jincai_types::{Attributes, Destination, Digest, Lane, LanePosition, Priority, encode};
use std::collections::BTreeSet;

impl World {
    /// Lies on the link between a node and its superior.
    pub(crate) fn tick_lies(&mut self, child: usize, superior: usize) -> Result<(), String> {
        let (from, to) = if self.random.chance(500) { (child, superior) } else { (superior, child) };
        if self.network.session(from, to).is_none() {
            return Ok(());
        }
        if self.may_strike(Fault::Replay, 10) {
            self.replay(from, to)?;
        }
        if self.may_strike(Fault::Lie, 10) {
            match self.random.below(7) {
                0 => self.claim_durable(from, to)?,
                1 => self.sign_falsely(from, to)?,
                2 => self.misroute(from, to)?,
                3 => self.claim_floor(from, to)?,
                4 => self.claim_gap(from, to)?,
                5 => self.claim_pressure(from, to)?,
                _ => self.claim_ends(from, to)?,
            }
        }
        if self.may_strike(Fault::FalseCustody, 5) {
            self.claim_custody(from, to)?;
        }
        if self.may_strike(Fault::FalseChain, 5) {
            self.break_chain(from, to)?;
        }
        if self.may_strike(Fault::FalseDelivery, 5) {
            self.claim_delivery(from, to)?;
        }
        Ok(())
    }

    pub(crate) fn lies(
        &mut self,
        fault: Fault,
        (from, to): (usize, usize),
        what: &str,
        bytes: Vec<u8>,
    ) -> Result<(), String> {
        let id = self.nodes[to].id;
        self.tell(from, || format!("lies to {id}: {what}"));
        self.report.faults.note(fault);
        self.deliver(from, to, bytes).map(|_| ())
    }

    pub(crate) fn pick<T>(&mut self, mut of: Vec<T>) -> Option<T> {
        let at = usize::try_from(self.random.below(of.len() as u64)).unwrap_or(0);
        (at < of.len()).then(|| of.swap_remove(at))
    }

    fn seen(&mut self, which: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let found: Vec<Seen> = self.network.seen.iter().filter(|seen| which(seen)).cloned().collect();
        self.pick(found)
    }

    /// A batch that one node has in custody for another.
    pub(crate) fn custody(&mut self, of: usize, for_whom: usize) -> Option<InCustody> {
        let peer = self.nodes[for_whom].id;
        let exchange = self.nodes[of].running.as_ref()?.core.exchange();
        let held = exchange.custody().filter(|(whom, ..)| *whom == peer);
        let held = held.map(|(peer, lane, end, _)| (peer, lane, end)).collect();
        self.pick(held)
    }

    fn holds(&self, node: usize, batch: &InCustody) -> bool {
        let running = self.nodes[node].running.as_ref();
        running.is_some_and(|r| r.core.exchange().custody().any(|(peer, lane, end, _)| (peer, lane, end) == *batch))
    }

    /// An old signed frame arrives again: it was true when it was signed.
    fn replay(&mut self, from: usize, to: usize) -> Result<(), String> {
        let seen = match self.random.chance(500) {
            true => self.old_receipt(from, to),
            false => self.seen(|s| (s.from, s.to) == (from, to)),
        };
        let Some(seen) = seen else { return Ok(()) };
        self.report.faults.note(Fault::Replay);
        self.tell(from, || "has an old frame arrive again".into());
        self.deliver(from, to, seen.bytes).map(|_| ())
    }

    /// Receipts that were signed before, for something that is in custody (again).
    fn old_receipt(&mut self, from: usize, to: usize) -> Option<Seen> {
        let peer = self.nodes[from].id;
        let exchange = self.nodes[to].running.as_ref()?.core.exchange();
        let custody = exchange.custody().filter(|(whom, ..)| *whom == peer);
        let custody: BTreeSet<(Lane, LanePosition)> = custody.map(|(_, lane, end, _)| (lane, end)).collect();
        let names = |seen: &Seen| signed_for(&seen.bytes, peer).iter().any(|receipt| custody.contains(receipt));
        let from_there = self.network.seen_receipts.iter().filter(|s| (s.from, s.to) == (from, to));
        let found = from_there.filter(|seen| !custody.is_empty() && names(seen)).cloned().collect();
        self.pick(found)
    }

    /// An unsigned «durable» for something that has not arrived: it may move a window, but custody stays.
    fn claim_durable(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some(batch) = self.custody(to, from) else { return Ok(()) };
        let (_, lane, position) = batch;
        self.lies(Fault::Lie, (from, to), "that something is durable", Frame::Durable { lane, position }.to_bytes())?;
        self.still_holds(to, &batch, "an unsigned claim")
    }

    /// A signed receipt for a batch other than the one sent, or for one that was never sent.
    fn sign_falsely(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some(batch) = self.custody(to, from) else { return Ok(()) };
        let (_, lane, mut position) = batch;
        position.digest = Digest([7; 32]);
        if self.random.chance(300) {
            position.sequence += 7;
        }
        let Some(running) = &self.nodes[from].running else { return Ok(()) };
        let list = ReceiptList {
            version: 1,
            issuer: self.nodes[from].id,
            epoch: running.core.exchange().epoch(),
            neighbour: self.nodes[to].id,
            receipts: vec![Receipt { lane, position, refusals: 0 }],
        };
        let signed = sign(Purpose::Receipts, to_body(&list), &self.nodes[from].keys()?.signing);
        self.lies(Fault::Lie, (from, to), "with a receipt", Frame::Receipts { signed: signed.into() }.to_bytes())?;
        self.still_holds(to, &batch, "a receipt for something else")
    }

    fn still_holds(&self, node: usize, batch: &InCustody, what: &str) -> Result<(), String> {
        let (peer, lane, end) = batch;
        if self.nodes[node].running.is_none() || self.holds(node, batch) {
            return Ok(());
        }
        let id = self.nodes[node].id;
        Err(format!("{id}: I5: {what} ended custody of {} of lane {lane} for {peer}", end.sequence))
    }

    /// A batch of some other link.
    fn misroute(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some(seen) = self.seen(|s| (s.from, s.to) != (from, to) && s.bytes.get(1) == Some(&1)) else {
            return Ok(());
        };
        self.lies(Fault::Lie, (from, to), "with a batch of another link", seen.bytes)
    }

    /// A batch as if nothing came before it.
    fn claim_floor(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some(seen) = self.seen(|s| (s.from, s.to) == (from, to) && s.bytes.get(1) == Some(&1)) else {
            return Ok(());
        };
        let Ok(Frame::Batch { bytes, .. }) = Frame::from_bytes(&seen.bytes) else { return Ok(()) };
        let Ok(view) = BatchView::parse(bytes) else { return Ok(()) };
        let hop = HopOrder { floor: view.statement.previous, after: LanePosition::START };
        self.lies(Fault::Lie, (from, to), "about what came before a batch", Frame::batch_bytes(&hop, bytes))
    }

    /// A request for what the speaker has long had.
    fn claim_gap(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some((_, lane, _)) = self.custody(to, from) else { return Ok(()) };
        self.lies(
            Fault::Lie,
            (from, to),
            "that it lacks everything",
            Frame::Gap { lane, have: LanePosition::START }.to_bytes(),
        )
    }

    /// That some hop is over its share, wherever it lies: it may hold back what leads through the liar, until somebody asks
    /// the liar again.
    fn claim_pressure(&mut self, from: usize, to: usize) -> Result<(), String> {
        let ids = self.nodes.iter().map(|node| node.id).collect();
        let Some(hop) = self.pick(ids) else { return Ok(()) };
        let (why, at) = (Obstacle::Share, self.nodes[from].id);
        let held = Priority::ALL.map(|class| HeldBack { hop, class, why, at, since: self.now });
        let frame = Frame::Intake { open: true, held: held.to_vec() };
        self.lies(Fault::Lie, (from, to), "about what is to be held back", frame.to_bytes())
    }

    /// An answer that nobody asked for, about batches that do not exist.
    fn claim_ends(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some((_, lane, mut end)) = self.custody(from, to) else { return Ok(()) };
        end.sequence += 7;
        self.lies(
            Fault::Lie,
            (from, to),
            "about where a lane ends",
            Frame::Ends { lanes: vec![(lane, end)], more: false }.to_bytes(),
        )
    }

    /// Whatever follows a frame that has arrived: an origin may sign a second batch for the same place, which whoever has the
    /// first must keep as evidence and hold the lane.
    pub(crate) fn after_frame(&mut self, from: usize, to: usize, frame: &[u8]) -> Result<(), String> {
        if frame.get(1) != Some(&1) || !self.may_strike(Fault::Fork, 10) {
            return Ok(());
        }
        let Ok(Frame::Batch { hop, bytes }) = Frame::from_bytes(frame) else { return Ok(()) };
        let Ok(view) = BatchView::parse(bytes) else { return Ok(()) };
        let lane = view.statement.lane;
        let forks = |world: &Self| world.nodes[to].running.as_ref().map(|r| r.core.exchange().counters().forks);
        // A node that has no room looks at no batch.
        let receiver = self.nodes[to].running.as_ref().map(|r| r.core.exchange()).filter(|e| !e.is_full());
        let holds = receiver.is_some_and(|exchange| exchange.held_up_to(&lane) == view.end());
        // The rooms' own messages go on other classes: a world must go on without the lane.
        let plain = lane.class == Priority::Interactive && matches!(lane.destination, Destination::Authority(_));
        if lane.origin != self.nodes[from].id || !holds || !plain || self.forked.contains(&lane) {
            return Ok(());
        }
        let Some(other) = self.other_batch(from, &view) else { return Ok(()) };
        let before = forks(self);
        self.report.faults.note(Fault::Fork);
        self.forked.insert(lane);
        self.tell(from, || format!("signs a second batch for one place of lane {lane}"));
        self.deliver(from, to, Frame::batch_bytes(&hop, &other))?;
        match (before, forks(self)) {
            (Some(before), Some(after)) if after == before => {
                Err(format!("{}: I5: lane {lane} forks, and is not held", self.nodes[to].id))
            }
            _ => Ok(()),
        }
    }

    fn other_batch(&mut self, origin: usize, view: &BatchView<'_>) -> Option<Vec<u8>> {
        let s = &view.statement;
        let Destination::Authority(to) = s.lane.destination else { return None };
        let key = |authority| {
            let directory = self.nodes[origin].running.as_ref()?.core.exchange().directory();
            Some(Recipient { authority, key: directory.card(authority)?.encryption() })
        };
        let recipients = [key(to)?, key(s.lane.origin)?];
        let attributes = Attributes {
            id: format!("forged/{}", s.first),
            source: s.lane.origin.to_string(),
            kind: jincai_core::NOTE.into(),
            ..Attributes::default()
        };
        let message = (encode(&attributes), b"another".to_vec());
        let messages = vec![message; s.count()];
        let (lane, epoch, first, previous) = (s.lane, s.epoch, s.first, s.previous);
        let recipients = if s.encrypted { &recipients[..] } else { &[] };
        let input = SealInput { lane, epoch, first, previous, messages: &messages, recipients, now: s.sealed_at };
        let keys = self.nodes[origin].keys().ok()?;
        seal(&input, &keys, &mut SeededEntropy::new(self.random.next())).ok().map(|(bytes, _)| bytes)
    }
}
