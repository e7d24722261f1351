//! Lies that are signed well: receipts for what the signer does not hold or has not been sent, batches that leave a gap or
//! continue from what never was, figures that rows do not have. A signature says who lies, not that it is true; each time
//! what honest nodes must still keep to is checked, and at the end that every message has arrived all the same.

use crate::faults::Fault;
use crate::forge::{Batch, forge};
use crate::workload::{COLLECTED, Retry, spec};
use crate::world::World;
use jincai_crypto::{Purpose, Recipient, SealInput, SeededEntropy, seal, sign};
use jincai_exchange::record::to_body;
use jincai_exchange::{Exchange, Frame, HopOrder, OutboundReport, Receipt, ReceiptList, SlotValue};
use jincai_types::{
    Attributes, AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Priority, RecordNumber, Sequence, encode,
};

/// Versions from here on are forgers': no source in a world gets so far.
const FORGED: u64 = 1_000;

/// What no batch has.
const NOBODYS: Digest = Digest([9; 32]);

/// Where a forged batch claims to stand.
struct Claim {
    lane: Lane,
    epoch: Epoch,
    first: Sequence,
    previous: LanePosition,
    /// Whether that contradicts what its origin signed before, for whoever holds everything up to there.
    forks: bool,
}

/// What of a node no lie may change.
type State = (RecordNumber, Digest, Vec<(AuthorityId, Lane, LanePosition, RecordNumber)>);

impl World {
    fn exchange(&self, node: usize) -> Option<&Exchange> {
        self.nodes[node].running.as_ref().map(|running| running.core.exchange())
    }

    fn state(&self, node: usize) -> Option<State> {
        let running = self.nodes[node].running.as_ref()?;
        let exchange = running.core.exchange();
        Some((running.core.staged(), exchange.cursors(), exchange.custody().collect()))
    }

    /// A node signs for a batch, with the right digest, and has thrown it away: its neighbour lets go. What its origin
    /// still keeps must arrive all the same.
    pub(crate) fn claim_custody(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some((_, lane, position)) = self.custody(to, from) else { return Ok(()) };
        // Of a batch that its origin, set back, does not know of any more, the neighbour's copy may be the last; the receipt
        // speaks of all that come before it, too.
        let id = self.nodes[from].id;
        let named: Vec<LanePosition> = self.exchange(to).map_or_else(Vec::new, |exchange| {
            let custody = exchange.custody().filter(|(peer, of, ..)| (*peer, *of) == (id, lane));
            custody.map(|(_, _, end, _)| end).filter(|end| end.key() <= position.key()).collect()
        });
        let kept = |exchange: &Exchange| named.iter().all(|e| exchange.find(&lane, e.epoch, e.sequence).is_some());
        let origin = self.index.get(&lane.origin).and_then(|origin| self.exchange(*origin));
        let lacks = |exchange: &Exchange| exchange.held_up_to(&lane).key() < position.key();
        if !origin.is_some_and(kept) || !self.exchange(from).is_some_and(lacks) {
            return Ok(());
        }
        let Some(epoch) = self.exchange(from).map(Exchange::epoch) else { return Ok(()) };
        let (issuer, neighbour) = (self.nodes[from].id, self.nodes[to].id);
        let list = ReceiptList {
            version: 1,
            issuer,
            epoch,
            neighbour,
            receipts: vec![Receipt { lane, position, refusals: 0 }],
        };
        let signed = sign(Purpose::Receipts, to_body(&list), &self.nodes[from].keys()?.signing);
        self.lied_custody.insert((issuer, lane, position));
        let frame = Frame::Receipts { signed: signed.into() };
        self.lies(Fault::FalseCustody, (from, to), "that it holds a batch, signed", frame.to_bytes())
    }

    /// An origin signs a batch that does not follow the one before it. Nobody may move a cursor for it; where it contradicts
    /// what is held, the lane is held; and otherwise what the origin signs honestly must still pass.
    pub(crate) fn break_chain(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some(OutboundReport { lane, sealed, .. }) = self.lane_of(from) else { return Ok(()) };
        let Some(held) = self.exchange(to).map(|exchange| exchange.held_up_to(&lane)) else { return Ok(()) };
        // An origin that was set back may be in an epoch that is over elsewhere: what it signs then is late, and authentic.
        let first_hop = self.exchange(from).is_some_and(|e| e.links().iter().any(|l| l.peer == self.nodes[to].id));
        if !first_hop || held.key() > sealed.key() || sealed.sequence == 0 || self.forked.contains(&lane) {
            return Ok(());
        }
        let claim = self.claim(lane, sealed);
        let Some(batch) = self.forge_batch(from, &claim) else { return Ok(()) };
        let full = self.exchange(to).is_some_and(Exchange::is_full);
        let forks = claim.forks && held == sealed && !full;
        if forks {
            self.forked.insert(lane);
        }
        let look = |world: &Self| {
            let forks = world.exchange(to).map(|e| (e.held_up_to(&lane), e.counters().forks));
            Some((world.state(to)?, forks?))
        };
        let (id, before) = (self.nodes[to].id, look(self));
        self.tell(from, || format!("lies to {id}: with a batch that follows nothing"));
        self.report.faults.note(Fault::FalseChain);
        let hop = HopOrder { floor: sealed, after: sealed };
        self.hand_over(from, to, Frame::batch_bytes(&hop, &batch))?;
        if let (Some((state, (held, counted))), Some((state_after, (held_after, counted_after)))) = (before, look(self))
        {
            if forks && counted_after == counted {
                return Err(format!("{id}: I5: lane {lane} continues from what never was, and is not held"));
            }
            if held != held_after || (!forks && state != state_after) {
                return Err(format!("{id}: I5: a batch that follows nothing moved a cursor of lane {lane}"));
            }
        }
        self.drive(to)
    }

    /// A lane of a node to some authority, not of the classes that the rooms' own messages go on.
    fn lane_of(&mut self, node: usize) -> Option<OutboundReport> {
        let plain =
            |lane: &Lane| lane.class == Priority::Interactive && matches!(lane.destination, Destination::Authority(_));
        let lanes = self.exchange(node)?.outbound().into_iter().filter(|o| plain(&o.lane)).collect();
        self.pick(lanes)
    }

    fn claim(&mut self, lane: Lane, end: LanePosition) -> Claim {
        let next = Epoch { number: end.epoch.number + 1, salt: self.random.next() };
        let ahead = LanePosition { sequence: end.sequence + self.random.between(1, 5), digest: NOBODYS, ..end };
        let other = LanePosition { digest: NOBODYS, ..end };
        let (epoch, first, previous, forks) = match self.random.below(8) {
            0..3 => (end.epoch, ahead.sequence + 1, ahead, false),
            3..6 => (next, 1, ahead, false),
            6 => (end.epoch, end.sequence + 1, other, true),
            _ => (next, 1, other, true),
        };
        Claim { lane, epoch, first, previous, forks }
    }

    /// A batch of one message that its origin signs, wherever it claims to stand.
    fn forge_batch(&mut self, origin: usize, claim: &Claim) -> Option<Vec<u8>> {
        let Destination::Authority(to) = claim.lane.destination else { return None };
        let directory = self.exchange(origin)?.directory();
        let key = |authority| Some(Recipient { authority, key: directory.card(authority)?.encryption() });
        let recipients = [key(to)?, key(claim.lane.origin)?];
        let attributes = Attributes {
            id: format!("forged/{}", claim.first),
            source: claim.lane.origin.to_string(),
            kind: jincai_core::NOTE.into(),
            ..Attributes::default()
        };
        let messages = [(encode(&attributes), b"out of place".to_vec())];
        let Claim { lane, epoch, first, previous, .. } = *claim;
        let recipients = if to == claim.lane.origin { &recipients[..1] } else { &recipients[..] };
        let input = SealInput { lane, epoch, first, previous, messages: &messages, recipients, now: self.now };
        let keys = self.nodes[origin].keys().ok()?;
        seal(&input, &keys, &mut SeededEntropy::new(self.random.next())).ok().map(|(bytes, _)| bytes)
    }

    /// A node signs for having applied a lane beyond its end, or a lane that does not lead to it. The origin may believe
    /// neither: no more was signed for than it has sent.
    pub(crate) fn claim_delivery(&mut self, from: usize, to: usize) -> Result<(), String> {
        let origin = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
        let Some(OutboundReport { lane, mut sealed, .. }) = self.lane_of(origin) else { return Ok(()) };
        let (Some(exchange), Some(running)) = (self.exchange(origin), &self.nodes[from].running) else { return Ok(()) };
        // In an older epoch it would tell an origin that was set back of what that has forgotten, and be believed.
        if origin == from || sealed.epoch != exchange.epoch() {
            return Ok(());
        }
        sealed.sequence += self.random.between(1, 9);
        let receipt = Receipt { lane, position: LanePosition { digest: NOBODYS, ..sealed }, refusals: 0 };
        // The next honest receipt has a higher number.
        let (issuer, epoch, number) =
            (self.nodes[from].id, running.core.exchange().epoch(), running.core.staged().saturating_sub(1));
        let (name, to_origin) = (format!("receipt:{lane}"), Some(Destination::Authority(lane.origin)));
        let value = to_body(&receipt).into();
        let slot = SlotValue { version: 1, issuer, epoch, name, number, to: to_origin, value };
        let signed = sign(Purpose::Slot, to_body(&slot), &self.nodes[from].keys()?.signing);
        let frame = Frame::Slot { signed: signed.into() };
        let what = format!("that it has applied {} of lane {lane}, signed", receipt.position.sequence);
        self.lies(Fault::FalseDelivery, (from, to), &what, frame.to_bytes())?;
        self.believes_no_more_than_it_sent(to)
    }

    /// No destination counts as having applied what was never sent to it in this epoch.
    pub(crate) fn believes_no_more_than_it_sent(&self, node: usize) -> Result<(), String> {
        let Some(exchange) = self.exchange(node) else { return Ok(()) };
        for OutboundReport { lane, sealed, delivered } in exchange.outbound() {
            let beyond = |end: &LanePosition| end.epoch >= exchange.epoch() && end.key() > sealed.key();
            if let Some((who, end, _)) = delivered.iter().find(|(_, end, _)| beyond(end)) {
                let (id, sequence) = (self.nodes[node].id, end.sequence);
                return Err(format!(
                    "{id}: I1: it believes {who} to have applied {sequence} of lane {lane}, never sent"
                ));
            }
        }
        Ok(())
    }

    /// A program of a node signs a collected batch whose figures are not those of its rows: it must become a dead letter at
    /// the collector, and nothing else.
    pub(crate) fn sign_false_totals(&mut self, node: usize) -> Result<(), String> {
        let knows =
            |exchange: &Self| exchange.nodes[node].running.as_ref().map(|r| r.core.rooms().storage.specs().count());
        if node == 0 || knows(self).is_none_or(|specs| specs == 0) {
            return Ok(());
        }
        let (month, fen) = (self.random.between(1, 3), self.random.below(100));
        let csv = format!("line_id,pay_date,amount\nF1,2026-0{month}-01,7.{fen:02}\nF2,2026-0{month}-02,1.00\n");
        let version = FORGED + self.random.below(1 << 20);
        let which = self.random.below(3);
        let change = |batch: &mut Batch| {
            batch.version = version;
            match which {
                0 => batch.add_a_fen(),
                1 => batch.totals.rows += 1,
                _ => batch.totals.digest = NOBODYS,
            }
        };
        let me = self.nodes[node].id;
        let message = forge(me, self.now, &spec(), ("sim", &csv), change).map_err(|error| error.to_string())?;
        let (id, class) = (message.attributes.id, message.class);
        self.report.faults.note(Fault::FalseTotals);
        self.tell(node, || format!("signs totals that are not those of the rows: {id}"));
        self.forged_totals.insert(id.clone());
        let kind = COLLECTED.to_owned();
        let to = Destination::Authority(AuthorityId::MINISTRY);
        self.retry(Retry { node, to, class, kind, id, payload: message.payload })
    }
}
