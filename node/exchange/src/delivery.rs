//! The origin's end of a lane: how far its destinations have signed for having applied it, how long copies are kept after
//! that, and what happens when a destination stays behind.
//!
//! A hop's receipt ends custody on one link; only the destination's own receipt, which comes back as a slot, says that a
//! message has arrived. Until then, and `retain_after_receipt_ms` longer, the origin keeps its copy on the shelf. Where
//! a destination stays behind, the origin says how far the lane goes (slot `end:LANE`); the destination asks its way back
//! for what it lacks, and the request travels until somebody holds it. So nothing that any node holds is lost to a hop
//! that was set back.

use crate::Receipt;
use crate::exchange::Exchange;
use crate::held::{Held, Key};
use crate::output::Context;
use crate::record::{self, Delivered, kind};
use jincai_types::{AuthorityId, Destination, Epoch, Lane, LanePosition, Millis, Mutation, mutated};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A destination is told where a lane ends if it has not signed for that after so many retry times; then ever more rarely.
const FIRST_TELL: Millis = 10;
const LAST_TELL: Millis = 3_600_000;
/// Most members of a group that are told one by one; if more stay behind, the whole group is told.
const TOLD_SINGLY: usize = 64;
/// Lanes looked at in one tick.
const LOOKED_AT: usize = 64;
/// How often the shelf is tidied, in milliseconds.
const TIDY: Millis = 60_000;
/// More than this between two times is a clock that jumped, or a machine that slept: copies do not age by it.
const TIDY_LATEST: Millis = 3_600_000;
/// A copy is kept at most this part longer than it must be.
const MARKS: u64 = 16;

/// What the origin remembers about its lanes' destinations.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// The newest receipt of each destination.
    pub(crate) receipts: BTreeMap<(Lane, AuthorityId), Delivered>,
    /// Lanes whose destinations may be behind: when to look, and how long to wait after that.
    behind: BTreeMap<Lane, (Millis, Millis)>,
    /// At which age it was first seen how much had been signed for, per lane, oldest first.
    marks: BTreeMap<Lane, VecDeque<(Millis, Key)>>,
    tidied: Millis,
    /// For how long this run has kept copies: not the clock's word, which may jump by a year.
    age: Millis,
}

impl Deliveries {
    /// The newest receipts for a lane.
    pub(crate) fn of<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = (&'a AuthorityId, &'a Delivered)> {
        let all = self.receipts.range((*lane, AuthorityId::MINISTRY)..);
        all.take_while(move |((l, _), _)| l == lane).map(|((_, who), d)| (who, d))
    }

    fn position(&self, lane: &Lane, destination: AuthorityId) -> Key {
        self.receipts.get(&(*lane, destination)).map(|d| d.receipt.position.key()).unwrap_or_default()
    }

    /// Looks at a lane at some time from now on.
    pub(crate) fn watch(&mut self, lane: Lane, after: Millis, now: Millis) {
        self.behind.entry(lane).or_insert_with(|| (now + after, after.max(1)));
    }

    /// Looks at a lane at the next tick.
    fn watch_now(&mut self, lane: Lane, pause: Millis) {
        self.behind.insert(lane, (0, pause));
    }

    /// When to look at a lane for the next time.
    pub(crate) fn next_wake(&self) -> Option<Millis> {
        self.behind.values().map(|(at, _)| *at).min()
    }

    /// The clock went back to `now`.
    pub(crate) fn rebase(&mut self, now: Millis) {
        self.behind.values_mut().for_each(|(at, pause)| *at = (*at).min(now + *pause));
        self.tidied = self.tidied.min(now);
    }
}

impl Exchange {
    /// The pause before a destination is told for the first time where a lane ends.
    pub(crate) fn first_tell(&self) -> Millis {
        self.policy.retry_ms * FIRST_TELL
    }

    /// A destination has signed for having applied a lane of ours.
    pub(crate) fn delivered(&mut self, issuer: AuthorityId, epoch: Epoch, receipt: Receipt, ctx: &mut Context<'_>) {
        let lane = receipt.lane;
        if lane.origin != self.me || !self.directory.tree().is_member(lane.destination, issuer) {
            return;
        }
        if let Some(restored) = self.restored_peers.get(&issuer).copied().filter(|restored| epoch < *restored) {
            // Either it was signed before the destination was set back, or that was set back twice and does not know.
            return self.issue_epoch_slot(issuer, restored, ctx);
        }
        let known = self.deliveries.receipts.get(&(lane, issuer));
        if let Some(newer) = known.map(|k| k.epoch).filter(|newer| *newer > epoch) {
            // It was set back, and has opened an epoch below the one that this node knows of: two epochs may even have
            // one number, if its clock went back. Else it is an old receipt, and its issuer knows better.
            return self.tell_epoch(issuer, newer, ctx);
        }
        if known.is_some_and(|k| (k.epoch, &k.receipt) == (epoch, &receipt)) {
            return;
        }
        let before = self.deliveries.position(&lane, issuer);
        let (lowered, raised) = (receipt.position.key() < before, receipt.position.key() > before);
        let end = self.outbox.position(&lane);
        if receipt.position.key() > end.key() {
            let text = format!(
                "lane {lane}: {issuer} has applied up to {} of epoch {}, this node remembers sending up to {} of epoch {}",
                receipt.position.sequence, receipt.position.epoch, end.sequence, end.epoch
            );
            ctx.out.notice(true, "JC-1216", text);
            // Whoever lies on the way there may hold it by now, although it did not when this node was catching up.
            let have = self.have(&lane);
            let way = self.directory.tree().next_hops(self.me, Destination::Authority(issuer), None);
            if let Some(hop) = way.first() {
                self.ask(*hop, lane, have, ctx);
            }
        }
        self.told_of_epoch(receipt.position.epoch, ctx);
        if self.is_unsent(&receipt) {
            let text = format!("lane {lane}: {issuer} signed for having applied a batch that was never sent to it");
            return ctx.out.notice(true, "JC-1212", text);
        }
        let delivered = Delivered { issuer, epoch, receipt };
        ctx.out.record(kind::DELIVERED, record::to_body(&delivered));
        self.note_delivered(delivered);
        if lowered {
            self.deliveries.watch_now(lane, self.first_tell());
        } else if raised && self.deliveries.behind.contains_key(&lane) {
            let pause = self.first_tell();
            self.deliveries.behind.insert(lane, (ctx.now + pause, pause));
        }
    }

    /// Whether a destination has signed for what this node knows that it has not sent: beyond a lane's end, or another batch
    /// than the one on the shelf. What lies beyond in an epoch before this node was set back may have been sent then. A
    /// destination that lies, or is told lies by a second node with our identity, must not make this one let go of what it
    /// still has to bring.
    fn is_unsent(&self, receipt: &Receipt) -> bool {
        let Receipt { lane, position, .. } = receipt;
        let remembers = self.catch_up.restored.is_none_or(|restored| position.epoch >= restored.epoch);
        let beyond = remembers && position.key() > self.outbox.position(lane).key();
        let held = self.shelf.get(lane).and_then(|shelf| shelf.get(&position.key()));
        (beyond && !mutated(Mutation::BelieveReceipts)) || held.is_some_and(|held| held.end.digest != position.digest)
    }

    /// Remembers a destination's receipt (now or at a replay).
    pub(crate) fn note_delivered(&mut self, delivered: Delivered) {
        self.let_go_of_chunks(&delivered.receipt);
        self.deliveries.receipts.insert((delivered.receipt.lane, delivered.issuer), delivered);
    }

    /// Chunks of files that their destination has signed for are not kept any longer: their source is, by the files room, and
    /// a destination that was set back asks for what it lacks anew. Bulk parts of other rooms on the same lane stay.
    fn let_go_of_chunks(&mut self, receipt: &Receipt) {
        if !crate::held::may_hold_chunks(&receipt.lane) {
            return;
        }
        if let Some(shelf) = self.shelf.get_mut(&receipt.lane) {
            let done = receipt.position.key();
            shelf.retain(|key, held| *key > done || !held.chunks);
        }
    }

    /// A destination was set back: what it signed for before that says nothing any more.
    pub(crate) fn forget_receipts_of(&mut self, issuer: AuthorityId, restored: Epoch) {
        let pause = self.first_tell();
        for lane in self.our_lanes() {
            if !self.directory.tree().is_member(lane.destination, issuer) {
                continue;
            }
            let older = |d: &Delivered| d.epoch < restored && !mutated(Mutation::KeepReceiptsOfRestored);
            if self.deliveries.receipts.get(&(lane, issuer)).is_some_and(older) {
                self.deliveries.receipts.remove(&(lane, issuer));
            }
            self.deliveries.watch_now(lane, pause);
        }
    }

    /// Every lane that begins here: those that were sealed on, and those of which a batch was taken back, perhaps without
    /// what came before it.
    pub(crate) fn our_lanes(&self) -> BTreeSet<Lane> {
        let taken_back = self.shelf.keys().filter(|lane| lane.origin == self.me);
        self.outbox.positions().map(|(lane, _)| lane).chain(taken_back).copied().collect()
    }

    /// Whether every destination has signed for a lane up to a place; a group without members has.
    fn all_have(&self, lane: &Lane, end: Key) -> bool {
        let tree = self.directory.tree();
        match lane.destination {
            Destination::Authority(to) => to == self.me || self.deliveries.position(lane, to) >= end,
            Destination::Below(_) | Destination::Superiors(_) | Destination::Level(..) => tree
                .all()
                .filter(|a| *a != self.me && tree.is_member(lane.destination, *a))
                .all(|a| self.deliveries.position(lane, a) >= end),
        }
    }

    /// Our lanes of which some destination has not signed yet for having applied everything.
    #[must_use]
    pub fn undelivered(&self) -> Vec<Lane> {
        let lanes = self.deliveries.behind.keys().copied();
        lanes.filter(|lane| !self.all_have(lane, self.end_of(lane).key())).collect()
    }

    /// Where one of our lanes ends: behind what was sealed, and what was taken back and did not fit the chain any more.
    pub(crate) fn end_of(&self, lane: &Lane) -> LanePosition {
        let sealed = self.outbox.position(lane);
        self.newest_on_shelf(lane).filter(|end| end.key() > sealed.key()).unwrap_or(sealed)
    }

    /// Tells destinations that stay behind where their lanes end.
    pub(crate) fn tell_ends(&mut self, ctx: &mut Context<'_>) {
        let due = self.deliveries.behind.iter().filter(|(_, (at, _))| *at <= ctx.now);
        let due: Vec<Lane> = due.map(|(lane, _)| *lane).take(LOOKED_AT).collect();
        for lane in due.into_iter().filter(|_| !mutated(Mutation::TellNoEnds)) {
            let end = self.end_of(&lane);
            if self.all_have(&lane, end.key()) {
                self.deliveries.behind.remove(&lane);
                continue;
            }
            if let Some((at, pause)) = self.deliveries.behind.get_mut(&lane) {
                *at = ctx.now + *pause;
                *pause = (*pause * 2).min(LAST_TELL);
            }
            let singly = self.told_singly(&lane, end.key());
            self.issue_end_slots(lane, end, &singly, ctx);
        }
    }

    /// The members of a group to tell one by one: those that are behind and whose superior is not, because what a superior
    /// gets it hands on. Empty if they are too many, or the lane leads to one authority anyway. One province that is away
    /// must not make three thousand others sign again every hour.
    fn told_singly(&self, lane: &Lane, end: Key) -> Vec<AuthorityId> {
        let tree = self.directory.tree();
        let behind = |a: AuthorityId| {
            a != self.me && tree.is_member(lane.destination, a) && self.deliveries.position(lane, a) < end
        };
        if matches!(lane.destination, Destination::Authority(_)) {
            return Vec::new();
        }
        let above_is_not = |a: &AuthorityId| tree.superior(*a).is_none_or(|superior| !behind(superior));
        let first: Vec<_> = tree.all().filter(|a| behind(*a)).filter(above_is_not).take(TOLD_SINGLY + 1).collect();
        if first.len() > TOLD_SINGLY { Vec::new() } else { first }
    }

    /// The origin says where one of its lanes ends: ask for what is missing, or say again what was applied.
    pub(crate) fn told_end(&mut self, lane: Lane, end: LanePosition, ctx: &mut Context<'_>) {
        if !self.directory.tree().is_member(lane.destination, self.me) || self.held_lanes.contains_key(&lane) {
            return;
        }
        let have = self.chains.get(&lane).map(crate::chain::Chain::position).unwrap_or_default();
        if have.key() < end.key() {
            let way = self.directory.tree().next_hops(self.me, Destination::Authority(lane.origin), None);
            if let Some(hop) = way.first() {
                self.ask(*hop, lane, have, ctx);
            }
        } else if self.inbound.contains_key(&lane) {
            self.owe_receipt(lane);
        }
    }

    /// Lets go of copies that were signed for long enough ago. What went to a group stays: authorities that join need it.
    pub(crate) fn tidy_shelf(&mut self, now: Millis) {
        let passed = now.saturating_sub(self.deliveries.tidied);
        if passed < TIDY {
            return;
        }
        self.deliveries.tidied = now;
        self.provenance.tidy(&self.policy, now);
        self.deliveries.age += passed.min(TIDY_LATEST);
        let now = self.deliveries.age;
        let retain = self.policy.retain_after_receipt_ms;
        let mut drained = Vec::new();
        for (lane, held) in &mut self.shelf {
            let Destination::Authority(to) = lane.destination else { continue };
            let done = if to == self.me {
                self.inbound.get(lane).map(|i| i.applied_end.key()).unwrap_or_default()
            } else {
                self.deliveries.position(lane, to)
            };
            let marks = self.deliveries.marks.entry(*lane).or_default();
            let newest = marks.back().copied().unwrap_or_default();
            if done > newest.1 && now >= newest.0 + retain / MARKS {
                marks.push_back((now, done));
            }
            while let Some((_, (epoch, sequence))) = marks.pop_front_if(|(at, _)| now >= *at + retain) {
                *held = held.split_off(&(epoch, sequence.saturating_add(1)));
            }
            if held.is_empty() {
                drained.push(*lane);
            }
        }
        for lane in drained {
            self.shelf.remove(&lane);
            self.deliveries.marks.remove(&lane);
        }
    }

    /// When copies must be looked at so that they age and go as if every minute were seen.
    pub(crate) fn next_tidying(&self) -> Option<Millis> {
        let deliveries = &self.deliveries;
        let next = self.shelf.keys().filter_map(|lane| self.next_age(lane)).min()?;
        // Longer than that at once does not count as age.
        Some(deliveries.tidied + next.saturating_sub(deliveries.age).clamp(TIDY, TIDY_LATEST))
    }

    /// The age at which a lane's copies are marked, or let go, for the next time.
    fn next_age(&self, lane: &Lane) -> Option<Millis> {
        let retain = self.policy.retain_after_receipt_ms;
        let done = self.signed_up_to(lane)?;
        let marks = self.deliveries.marks.get(lane);
        let newest = marks.and_then(VecDeque::back).copied().unwrap_or_default();
        let marked = (done > newest.1).then_some(newest.0 + retain / MARKS);
        let gone = marks.and_then(VecDeque::front).map(|(at, _)| *at + retain);
        marked.into_iter().chain(gone).min()
    }

    /// How far the one destination of a lane has signed for having applied it.
    fn signed_up_to(&self, lane: &Lane) -> Option<Key> {
        let Destination::Authority(to) = lane.destination else { return None };
        let own = || self.inbound.get(lane).map(|i| i.applied_end.key()).unwrap_or_default();
        Some(if to == self.me { own() } else { self.deliveries.position(lane, to) })
    }

    /// The end of what follows a place of one of our lanes and is on the shelf no more: nobody can give it back.
    pub(crate) fn gone_after(&self, lane: &Lane, have: Key) -> Option<LanePosition> {
        let until = self.shelf_after(lane, have).next().map_or_else(|| self.end_of(lane), Held::follows);
        (have < until.key()).then_some(until)
    }
}
