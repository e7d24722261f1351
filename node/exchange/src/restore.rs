//! What happens when a node, or a neighbour, was set back to an older state; and batches that come too late.
//!
//! A restored node opens a new epoch and says so: in its hello until it has caught up, and in a slot that reaches every
//! node. Neighbours answer with the ends of what they hold of its own lanes and of lanes that lead to it ([`Frame::Ends`]);
//! it asks for what it lacks, and catches up. Its own signed messages beyond what it remembers are *taken back*: their
//! ids count as used, the rooms that sent them learn of them again ([`crate::Room::retake`]), and its chain goes on
//! behind them if it has signed nothing else there since. Every other node forgets the receipts that it had from the restored one.
//!
//! A batch of an epoch that its origin has ended before it (*late*) is authentic, but nobody may act on it: it becomes
//! dead letters at its destination, visible to people, and is signed for on its own.

use crate::exchange::Exchange;
use crate::frame::ENDS;
use crate::gaps::GIVEN_BACK;
use crate::held::{Held, Key};
use crate::output::{Context, Payload};
use crate::record::{self, Cause, DeadLetter, Kept, Restored, kind};
use crate::{Error, Frame, Refusal};
use jincai_crypto::{BatchView, Verified, sha256};
use jincai_types::{AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Millis, Priority};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// A higher number of an epoch is nobody's clock (the year 287396), and is not followed.
const EPOCH_MAX: u64 = 1 << 53;
/// Ends beyond what is here that are remembered while catching up. The answers that they came from are asked for anew.
pub(crate) const EXPECTED: usize = 100_000;
/// A restored node asks again after so many retry times.
const ASK_AGAIN: Millis = 8;
/// For so many retry times after its start a restored node does not believe that all have answered: one that remembers
/// nothing knows no neighbour yet either.
const SETTLE: Millis = 4;

/// The state of a node that was set back and has not caught up yet.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    pub(crate) restored: Option<Restored>,
    /// Neighbours that have said what they hold, and the epoch in which they were heard then: one that was set back since
    /// may hold again what it had handed on.
    answered: BTreeMap<AuthorityId, Epoch>,
    /// Ends of batches that they hold beyond what is here.
    expected: BTreeMap<(AuthorityId, Lane, Key), LanePosition>,
    asked: Millis,
    /// When this run began.
    pub(crate) since: Millis,
}

impl CatchUp {
    /// Whether the node was set back and has not caught up.
    pub(crate) fn is_under_way(&self) -> bool {
        self.restored.is_some_and(|r| !r.done)
    }

    /// Entries that only this run knows.
    pub(crate) fn remembered(&self) -> usize {
        self.answered.len() + self.expected.len()
    }

    /// A neighbour holds a batch with this end, and gives it back.
    fn expect(&mut self, peer: AuthorityId, lane: Lane, end: LanePosition) {
        if self.is_under_way() && self.expected.len() < EXPECTED {
            self.expected.insert((peer, lane, end.key()), end);
        }
    }

    /// Whether this node has not caught up, or a neighbour has not said yet what it holds in this epoch of its. It may be away
    /// for long, and is asked when it comes.
    pub(crate) fn asks(&self, peer: AuthorityId, epoch: Epoch) -> bool {
        let unanswered = || self.answered.get(&peer).is_none_or(|answered| *answered < epoch);
        self.is_under_way() || (self.restored.is_some() && unanswered())
    }
}

impl Kept {
    /// What the neighbour has signed since it was set back, it knows.
    fn concerns(&self, lane: &Lane, held: &Held) -> bool {
        lane.origin == self.neighbour && held.end.epoch < self.before
    }
}

impl Exchange {
    /// Whether this node was set back to an older state and has not heard yet from its neighbours what it lacks: until
    /// then it does not know which releases and messages of its own are out in the world.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.catch_up.is_under_way()
    }

    /// Stops waiting for neighbours, when all is here or an operator decides so, and tells them: they keep nothing for this
    /// node any more.
    pub fn stop_catching_up(&mut self, ctx: &mut Context<'_>) {
        let Some(restored) = self.catch_up.restored.as_mut().filter(|restored| !restored.done) else { return };
        restored.done = true;
        ctx.out.record(kind::RESTORED, record::to_body(restored));
        self.greet_all(ctx);
    }

    /// Somebody knows of an epoch of ours. If it is above the one we are in, we go above it; unless this epoch was known
    /// to others already: then somebody else runs with our identity.
    pub(crate) fn told_of_epoch(&mut self, known: Epoch, ctx: &mut Context<'_>) {
        if known <= self.epoch {
            return;
        }
        // A node that was set back may hear late from somebody who remembers more.
        let set_back = self.catch_up.restored.is_some_and(|restored| restored.epoch == self.epoch);
        if (self.accepted && !set_back) || known.number >= EPOCH_MAX {
            return self.note_twin(known, ctx);
        }
        // The salt keeps two clones apart even here.
        let Ok(salt) = self.entropy.number() else { return };
        self.epoch = Epoch { number: known.number + 1, salt };
        ctx.out.record(kind::EPOCH, record::to_body(&self.epoch));
        self.accepted = true;
        if let Some(restored) = self.catch_up.restored.as_mut() {
            // What was signed in any epoch up to here was signed before this node was set back, or is said again.
            restored.epoch = self.epoch;
            let restored = *restored;
            ctx.out.record(kind::RESTORED, record::to_body(&restored));
            self.issue_restored_slot(ctx);
        }
        self.greet_all(ctx);
    }

    fn note_twin(&mut self, epoch: Epoch, ctx: &mut Context<'_>) {
        if !self.twin {
            let text = format!(
                "something was signed for this node in epoch {epoch} that is not of this node: a second one runs"
            );
            ctx.out.notice(true, "JC-1213", text);
        }
        self.twin = true;
    }

    /// The newest epoch of an authority that this node knows of.
    pub(crate) fn known_epoch(&self, of: AuthorityId) -> Epoch {
        let said = self.links.get(&of).map(|l| l.epoch).unwrap_or_default();
        let lanes = self.chains.iter().filter(|(lane, _)| lane.origin == of);
        let signed = lanes.map(|(_, chain)| chain.position().epoch).fold(said, Epoch::max);
        signed.max(self.slots.newest_epoch(of))
    }

    /// A neighbour has said in which epoch it speaks.
    pub(crate) fn heard_epoch(&mut self, peer: AuthorityId, epoch: Epoch, ctx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if epoch < link.epoch && epoch.number < EPOCH_MAX {
            let text = format!(
                "{peer} speaks in epoch {epoch}, and was heard in {} before: was it set back, or are there two of it?",
                link.epoch
            );
            ctx.out.notice(true, "JC-1214", text);
        }
        if epoch.number < EPOCH_MAX {
            link.epoch = link.epoch.max(epoch);
        }
    }

    /// A neighbour was set back: it hears what this node holds of its lanes, and of lanes that lead to it.
    pub(crate) fn say_ends(&mut self, peer: AuthorityId, ctx: &mut Context<'_>) {
        let before = self.links.get(&peer).map(|link| link.epoch).unwrap_or_default();
        let keeps = Kept { neighbour: peer, before };
        if self.keep(keeps) {
            ctx.out.record(kind::KEPT, record::to_body(&keeps));
        }
        let concerns = |lane: &Lane, held: &Held| match lane.origin == peer {
            true => keeps.concerns(lane, held),
            false => self.directory.tree().holds_for(lane.destination, peer),
        };
        let mut ends: BTreeMap<(Lane, Key), (LanePosition, LanePosition)> = BTreeMap::new();
        let custody = self.links.values().flat_map(|l| l.holdings());
        let shelves = self.shelf.iter().flat_map(|(lane, shelf)| shelf.values().map(move |held| (lane, held)));
        for (lane, held) in custody.chain(shelves).filter(|(lane, held)| concerns(lane, held)) {
            ends.insert((*lane, held.end.key()), (held.previous, held.end));
        }
        // What follows directly on a lane of others stands for what comes before it; of its own, what it has signed since it
        // was set back does not follow what it signed before, and must not hide that.
        let followed: BTreeSet<(Lane, Key)> =
            ends.iter().map(|((lane, _), (previous, _))| (*lane, previous.key())).collect();
        let last = ends.into_iter().filter(|(at, _)| !followed.contains(at));
        let ends: Vec<(Lane, LanePosition)> = last.map(|((lane, _), (_, end))| (lane, end)).collect();
        let mut chunks = ends.chunks(ENDS).peekable();
        loop {
            let lanes = chunks.next().unwrap_or_default().to_vec();
            let more = chunks.peek().is_some();
            let frame = Frame::Ends { lanes, more };
            ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
            if !more {
                return;
            }
        }
    }

    /// A neighbour that was set back may lose what it is given back, and ask again only when custody of that has ended (now or at
    /// a replay); whether there is more of it than before.
    pub(crate) fn keep(&mut self, keeps: Kept) -> bool {
        let custody = self.links.values().flat_map(|link| link.custody());
        let own = custody.filter(|(lane, held)| keeps.concerns(lane, held)).map(|(lane, held)| (*lane, *held));
        let own: Vec<(Lane, Held)> = own.collect();
        self.links.get_mut(&keeps.neighbour).is_some_and(|link| link.keep(own))
    }

    /// What a neighbour holds: whatever lies beyond what is here is asked for.
    pub(crate) fn ends(
        &mut self,
        peer: AuthorityId,
        lanes: Vec<(Lane, LanePosition)>,
        more: bool,
        ctx: &mut Context<'_>,
    ) {
        if self.catch_up.restored.is_none() || lanes.len() > ENDS {
            return;
        }
        for (lane, end) in lanes {
            // Of an origin without a card nothing could be verified.
            let known = self.directory.tree().contains(lane.origin);
            if known && self.concerns_us(&lane) && !self.is_here(&lane, &end) {
                self.catch_up.expect(peer, lane, end);
                let have = self.have(&lane);
                self.ask(peer, lane, have, ctx);
            }
        }
        if let Some(link) = self.links.get(&peer).filter(|_| !more) {
            self.catch_up.answered.insert(peer, link.epoch);
        }
    }

    /// The batch with these numbers on the shelf.
    fn shelved(&self, lane: &Lane, end: &LanePosition) -> Option<&Held> {
        self.shelf.get(lane)?.get(&end.key())
    }

    /// Whether a batch with these numbers is on the shelf.
    fn on_shelf(&self, lane: &Lane, end: &LanePosition) -> bool {
        self.shelved(lane, end).is_some()
    }

    /// Whether this very batch is on the shelf.
    fn is_shelved(&self, lane: &Lane, end: &LanePosition) -> bool {
        self.shelved(lane, end).is_some_and(|held| held.end == *end)
    }

    /// A neighbour need not keep a batch of ours for us any more, if it is here.
    fn keep_no_more(&mut self, peer: AuthorityId, lane: Lane, end: &LanePosition) {
        let known = self.is_shelved(&lane, end);
        if let Some(link) = self.links.get_mut(&peer).filter(|_| known) {
            link.owe_exactly(lane, *end);
        }
    }

    /// A batch of ours was given back after another one: if that got lost, all are asked for again.
    fn miss(&mut self, peer: AuthorityId, lane: Lane, after: LanePosition, ctx: &mut Context<'_>) {
        let have = self.have(&lane);
        if self.on_shelf(&lane, &after) || after.key() <= have.key() {
            return;
        }
        self.catch_up.expect(peer, lane, after);
        self.ask(peer, lane, have, ctx);
    }

    fn concerns_us(&self, lane: &Lane) -> bool {
        lane.origin == self.me || self.directory.tree().holds_for(lane.destination, self.me)
    }

    /// The epoch from which on what this node has signed says nothing of what it may have signed before: this run's, or the
    /// first one since it was set back, until it has caught up.
    pub(crate) fn since(&self) -> Epoch {
        self.catch_up.restored.filter(|restored| !restored.done).map_or(self.epoch, |restored| restored.first)
    }

    /// How far a lane is here: of others' lanes what is held, of our own what was sealed before [`Self::since`]. (Below the
    /// batches since then something older may be missing.)
    pub(crate) fn have(&self, lane: &Lane) -> LanePosition {
        if lane.origin == self.me {
            return self.outbox.remembered(lane, self.since());
        }
        self.chains.get(lane).map(crate::chain::Chain::position).unwrap_or_default()
    }

    /// Whether a lane is known here up to a batch's end. Of our own lanes to one authority, a batch that was taken back is
    /// known by itself, because neighbours give back only what they have not handed on yet. (Of a group's lane each neighbour may
    /// hold others: what it said that it holds is expected until it has given it back itself.) A lane that is held because of a
    /// fork does not go on, and is not waited for.
    fn is_here(&self, lane: &Lane, end: &LanePosition) -> bool {
        let alone = matches!(lane.destination, Destination::Authority(_)) && lane.origin == self.me;
        end.key() <= self.have(lane).key() || (alone && self.on_shelf(lane, end)) || self.held_lanes.contains_key(lane)
    }

    /// Whether one of our own lanes cannot go on with a hole in it: what bound us as well (releases, specs) was made on top of what
    /// came before, and whoever goes on without would make another one of the same number. Then a person decides.
    fn must_be_whole(&self, lane: &Lane) -> bool {
        let binds = matches!(lane.destination, Destination::Below(_) | Destination::Superiors(_));
        binds && self.outbox.position(lane) == self.have(lane)
    }

    /// Whether everything of this node's own lanes that neighbours hold is here. Two nodes that were set back together wait for
    /// each other's lanes: whoever knows all of its own may say what of them is lost.
    pub(crate) fn knows_own_lanes(&self, now: Millis) -> bool {
        let open = |((_, lane, _), end): (&(AuthorityId, Lane, Key), &LanePosition)| {
            lane.origin == self.me && !self.is_here(lane, end)
        };
        !self.is_catching_up() || (self.all_answered(now) && !self.catch_up.expected.iter().any(open))
    }

    /// Whether every neighbour has said what it holds.
    fn all_answered(&self, now: Millis) -> bool {
        now >= self.settled_at() && self.links.keys().all(|peer| self.catch_up.answered.contains_key(peer))
    }

    /// From when on the neighbours that are known are taken for all.
    fn settled_at(&self) -> Millis {
        self.catch_up.since + self.policy.retry_ms * SETTLE
    }

    /// Looks whether the node has caught up, and asks again if that takes long.
    pub(crate) fn catch_up(&mut self, ctx: &mut Context<'_>) {
        if !self.catch_up.is_under_way() {
            return;
        }
        let expected = std::mem::take(&mut self.catch_up.expected);
        let open = expected.into_iter().filter(|((_, lane, _), end)| !self.is_here(lane, end));
        self.catch_up.expected = open.collect();
        // What the rooms have to do then needs room on the disk.
        if self.all_answered(ctx.now) && self.catch_up.expected.is_empty() && !self.is_full() {
            self.stop_catching_up(ctx);
            ctx.out.notice(false, "JC-1215", "this node was set back and has caught up with its neighbours".into());
        } else if ctx.now < self.catch_up.asked || ctx.now >= self.catch_up.asked + self.policy.retry_ms * ASK_AGAIN {
            self.catch_up.asked = ctx.now;
            // Answers say anew what is held now.
            self.catch_up.expected.clear();
            self.catch_up.answered.clear();
            self.greet_all(ctx);
        }
    }

    fn greet_all(&mut self, ctx: &mut Context<'_>) {
        let up = self.links.iter().filter(|(_, l)| l.up.is_some()).map(|(peer, _)| *peer);
        up.collect::<Vec<_>>().into_iter().for_each(|peer| self.say_hello(peer, ctx));
    }

    /// When the next tick would look at that; see [`Exchange::next_wake`].
    pub(crate) fn next_catch_up(&self, now: Millis) -> Option<Millis> {
        if !self.catch_up.is_under_way() {
            return None;
        }
        let answered = self.all_answered(now.max(self.settled_at()));
        let here = self.catch_up.expected.iter().all(|((_, lane, _), end)| self.is_here(lane, end));
        let again = self.catch_up.asked + self.policy.retry_ms * ASK_AGAIN;
        if now < self.catch_up.asked {
            return Some(now);
        }
        Some(if answered && here && !self.is_full() { again.min(self.settled_at()).max(now) } else { again })
    }

    /// Another node says that it was set back, in the epoch that it opened then.
    pub(crate) fn peer_restored(&mut self, issuer: AuthorityId, epoch: Epoch) {
        let known = self.restored_peers.entry(issuer).or_default();
        *known = epoch.max(*known);
        self.forget_receipts_of(issuer, epoch);
        // As origin it wants to know how far its lanes were applied.
        let lanes: Vec<Lane> = self.inbound.keys().filter(|lane| lane.origin == issuer).copied().collect();
        lanes.into_iter().for_each(|lane| self.owe_receipt(lane));
    }

    /// A neighbour gives back a batch of our own. What this node still knows is dropped.
    pub(crate) fn take_back(
        &mut self,
        peer: AuthorityId,
        view: &Verified<BatchView<'_>>,
        (bytes, after): (&[u8], LanePosition),
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let lane = view.statement.lane;
        let end = view.end();
        self.told_of_epoch(view.statement.epoch, ctx);
        if view.statement.epoch >= self.epoch {
            if !self.is_shelved(&lane, &end) {
                self.note_twin(view.statement.epoch, ctx);
            }
            return Ok(());
        }
        self.miss(peer, lane, after, ctx);
        let expected = (peer, lane, end.key());
        if self.catch_up.expected.get(&expected) == Some(&end) && !self.must_be_whole(&lane) {
            // It names those before it that this neighbour still holds.
            self.catch_up.expected.remove(&expected);
        }
        if self.on_shelf(&lane, &end) || self.is_here(&lane, &end) {
            self.counters.duplicates_dropped += 1;
            self.keep_no_more(peer, lane, &end);
            return Ok(());
        }
        let record = ctx.out.record(kind::TAKEN_BACK, record::batch_record(Some(peer), ctx.now, bytes));
        let held = Held::new(record, view, bytes.len(), view.statement.previous);
        self.note_taken_back(view, held, ctx.now)?;
        self.keep_no_more(peer, lane, &end);
        self.counters.taken_back += view.items.len() as u64;
        let text = format!(
            "lane {lane}: messages {} to {} of epoch {} were sent before this node was set back; their ids count as used",
            view.statement.first, view.statement.last, view.statement.epoch
        );
        ctx.out.notice(true, "JC-1217", text);
        let shelf = self.shelf.get(&lane).map_or(0, BTreeMap::len);
        if shelf.is_multiple_of(GIVEN_BACK) {
            // Perhaps that was one answer's last: on from here.
            self.ask(peer, lane, end, ctx);
        }
        self.unblock(ctx)
    }

    /// Remembers a batch of ours that was taken back (now or at a replay).
    pub(crate) fn note_taken_back(
        &mut self,
        view: &Verified<BatchView<'_>>,
        mut held: Held,
        now: Millis,
    ) -> Result<(), Error> {
        let lane = view.statement.lane;
        for index in 0..view.items.len() {
            self.used_ids.insert(id_digest(&view.attributes(index)?.id));
        }
        let (shelf, key) = (self.shelf.entry(lane).or_default(), held.end.key());
        // The first batch of an epoch may name less before itself than is here, or comes back later: who lacks both takes both.
        if let Some((_, before)) = shelf.range(..key).next_back().filter(|(before, _)| **before > held.after.key()) {
            held.after = before.end;
        }
        let behind = shelf.range_mut((Bound::Excluded(key), Bound::Unbounded)).next();
        if let Some((_, next)) = behind.filter(|(_, next)| next.after.key() < key) {
            next.after = held.end;
        }
        shelf.insert(key, held);
        self.adopt(lane);
        let first_tell = self.first_tell();
        self.deliveries.watch(lane, first_tell, now);
        // Members of a group behind other neighbours may lack it, and whoever gave it back may lose it.
        for hop in self.directory.tree().next_hops(self.me, lane.destination, None) {
            self.links.entry(hop).or_default().hold(lane, held, now);
        }
        // What the messages did here when they were sent is done again, in their order as far as they have come.
        let inbound = self.inbound.entry(lane).or_default();
        let at = inbound.waiting.partition_point(|other| other.end.key() < held.end.key());
        // Chunks leave the shelf once their destination has signed; somebody may give them back after that again.
        let again = inbound.applied == held.end.key() || inbound.waiting.get(at).is_some_and(|w| w.end == held.end);
        if !again {
            inbound.waiting.insert(at, held);
            inbound.blocked = None;
            self.waiting.insert(lane);
        }
        Ok(())
    }

    /// Goes on behind batches that were taken back, in whichever order they came.
    fn adopt(&mut self, lane: Lane) {
        loop {
            let position = self.outbox.position(&lane);
            let older = |held: &&Held| held.end.epoch < self.epoch;
            let next = self.shelf_after(&lane, position.key()).take_while(older).find(|held| held.previous == position);
            let Some(end) = next.map(|held| held.end) else { return };
            self.outbox.adopt(lane, end, self.since());
        }
    }

    /// A batch that its origin no longer counts to the lane.
    pub(crate) fn late(
        &mut self,
        peer: AuthorityId,
        view: &Verified<BatchView<'_>>,
        (bytes, after): (&[u8], LanePosition),
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let lane = view.statement.lane;
        let end = view.end();
        if let Some(link) = self.links.get_mut(&peer) {
            link.owe_exactly(lane, end);
        }
        if self.chains.get(&lane).is_some_and(|chain| chain.is_late(&end)) {
            self.counters.duplicates_dropped += 1;
            // Late it may be here only, where later ones came first; whoever asked for it may lack just this.
            self.serve_wanted(view, bytes, after, ctx);
            return Ok(());
        }
        self.counters.batches_late += 1;
        let record = ctx.out.record(kind::LATE, record::batch_record(Some(peer), ctx.now, bytes));
        let held = Held::new(record, view, bytes.len(), view.statement.previous);
        self.note_late(lane, held, Some(peer));
        if !self.directory.tree().is_member(lane.destination, self.me) {
            return Ok(());
        }
        let text = format!(
            "lane {lane}: messages {} to {} of epoch {} come after their origin ended that epoch; they are dead letters",
            view.statement.first, view.statement.last, view.statement.epoch
        );
        ctx.out.notice(true, "JC-1210", text);
        for index in 0..view.items.len() {
            let cause = Cause { lane, epoch: view.statement.epoch, sequence: view.sequence(index) };
            let attributes = view.attributes(index).unwrap_or_default();
            let refusal = Refusal { code: "JC-1210", reason: "its origin ended this epoch before it".into() };
            let (id, code, reason) = (attributes.id.clone(), refusal.code.to_owned(), refusal.reason.clone());
            let letter = DeadLetter { cause, id, code, reason, used: Vec::new(), record, late: true };
            ctx.out.record(kind::DEAD_LETTER, record::to_body(&letter));
            self.bury(letter);
            self.tell_origin(cause, &attributes, refusal, ctx);
        }
        Ok(())
    }

    /// Remembers a late batch, and takes it into custody for whoever lies beyond (now or at a replay).
    pub(crate) fn note_late(&mut self, lane: Lane, held: Held, from: Option<AuthorityId>) {
        self.chains.entry(lane).or_default().note_late(held.end);
        for hop in self.hops(&lane, from) {
            self.links.entry(hop).or_default().hold_late(lane, held);
        }
    }
}

/// What stands for an id among those that are used.
pub(crate) fn id_digest(id: &str) -> Digest {
    sha256(id.as_bytes())
}
