//! What a neighbour lacks of a lane: who asks is given it again from custody, from the shelf, or from what is held for others;
//! else the request travels towards the lane's origin, and what even that does not hold is named as lost for good.

use crate::exchange::Exchange;
use crate::held::{Held, Key};
use crate::output::Context;
use crate::record::{self, kind};
use jincai_crypto::{BatchView, Verified};
use jincai_types::{AuthorityId, Destination, Lane, LanePosition};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Batches given back at one request; the restored node asks again from where it is then.
pub(crate) const GIVEN_BACK: usize = 64;
/// Lanes for which a neighbour's requests are passed on; further ones take the place of its own earlier ones, which it
/// repeats if it still means them.
pub(crate) const WANTED: usize = 1000;
/// Neighbours that lack something of a lane that this hop no longer holds.
pub(crate) type Wanted = BTreeMap<Lane, BTreeMap<AuthorityId, LanePosition>>;

impl Exchange {
    /// The neighbour lacks what follows `have`: send it again from there.
    pub(crate) fn gap(&mut self, peer: AuthorityId, lane: Lane, have: LanePosition, ctx: &mut Context<'_>) {
        if lane.origin == peer {
            // It was set back. What has been handed on is missing here, and what gets lost on the way it misses.
            self.hand_out(peer, (lane, have), false, ctx);
            return;
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.lacks(lane);
        let first = link.first_held(&lane).map(Held::needs);
        let mut again = Vec::new();
        if first.is_none_or(|f| f > have.key()) {
            again.extend(self.shelf_after(&lane, have.key()).copied());
            let served = again.first().is_some_and(|held| held.needs() <= have.key());
            if !served {
                if !self.hand_out(peer, (lane, have), true, ctx) {
                    self.pass_on_gap(peer, lane, have, ctx);
                }
                return;
            }
        }
        self.counters.resends += 1;
        let Some(link) = self.links.get_mut(&peer) else { return };
        again.into_iter().for_each(|held| link.hold(lane, held, ctx.now));
        link.rewind(&lane, have.key(), ctx.now);
    }

    /// What is on the shelf of a lane behind a place.
    pub(crate) fn shelf_after(&self, lane: &Lane, have: Key) -> impl Iterator<Item = &Held> {
        let later = (Bound::Excluded(have), Bound::Unbounded);
        self.shelf.get(lane).into_iter().flat_map(move |shelf| shelf.range(later)).map(|(_, held)| held)
    }

    /// What this node has of a lane behind a place, whomever it is held for.
    fn held_after(&self, lane: &Lane, have: Key) -> BTreeMap<Key, Held> {
        let held = self.links.values().flat_map(|link| link.holdings());
        let held = held.filter(|(of, held)| *of == lane && held.end.key() > have).map(|(_, held)| *held);
        self.shelf_after(lane, have).copied().chain(held).map(|held| (held.end.key(), held)).collect()
    }

    /// Sends a neighbour what is held behind `have`, without custody: it asks again for what gets lost. Each batch names the one before
    /// it. `gapless`: only as far as each follows what came before. `false` if that is nothing.
    fn hand_out(
        &self,
        peer: AuthorityId,
        (lane, have): (Lane, LanePosition),
        gapless: bool,
        ctx: &mut Context<'_>,
    ) -> bool {
        let mut after = have;
        for held in self.held_after(&lane, have.key()).into_values().take(GIVEN_BACK) {
            if gapless && held.needs() > after.key() {
                break;
            }
            ctx.out.send(peer, lane.class, held.payload_after(after));
            after = held.end;
        }
        after != have
    }

    /// A neighbour lacks what follows `have`, and nobody here holds it: the request goes on towards the origin.
    fn pass_on_gap(&mut self, peer: AuthorityId, lane: Lane, have: LanePosition, ctx: &mut Context<'_>) {
        let way = self.directory.tree().next_hops(self.me, Destination::Authority(lane.origin), Some(peer));
        let Some(hop) = way.first().copied().filter(|_| lane.origin != self.me) else {
            if !self.knows_own_lanes(ctx.now) {
                // Neighbours may give it back yet.
                return;
            }
            let Some(to) = self.gone_after(&lane, have.key()) else { return };
            self.counters.gaps_unserved += 1;
            let text = format!("lane {lane}: {peer} lacks {}, which is not held any more", range(&have, &to));
            ctx.out.notice(true, "JC-1211", text);
            return self.issue_gone_slot(record::Gone { lane, from: have, to }, ctx);
        };
        self.want(peer, lane, have);
        self.counters.gaps_passed_on += 1;
        self.ask(hop, lane, have, ctx);
    }

    /// Remembers that a neighbour lacks what follows `have`.
    fn want(&mut self, peer: AuthorityId, lane: Lane, have: LanePosition) {
        let of_peer = |wanted: &BTreeMap<AuthorityId, LanePosition>| wanted.contains_key(&peer);
        if !self.wanted.get(&lane).is_some_and(of_peer) {
            let mut lanes = self.wanted.iter().filter(|(_, wanted)| of_peer(wanted)).map(|(lane, _)| *lane);
            let first = lanes.next().filter(|_| lanes.count() + 1 >= WANTED);
            if let Some(first) = first
                && let Some(wanted) = self.wanted.get_mut(&first)
            {
                wanted.remove(&peer);
                if wanted.is_empty() {
                    self.wanted.remove(&first);
                }
            }
        }
        self.wanted.entry(lane).or_default().insert(peer, have);
    }

    /// The origin of a lane to us says that messages which we lack are held by nobody any more: the lane goes on behind them.
    pub(crate) fn told_gone(&mut self, gone: record::Gone, ctx: &mut Context<'_>) {
        let here = self.chains.get(&gone.lane).map(crate::chain::Chain::position).unwrap_or_default();
        if gone.lane.origin == self.me || here.key() < gone.from.key() || gone.to.key() <= here.key() {
            return;
        }
        if !self.directory.tree().is_member(gone.lane.destination, self.me) {
            // A relay's place is soft: it goes on from there.
            self.chains.entry(gone.lane).or_default().raise_to(gone.to);
        } else {
            let gone = record::Gone { from: here, ..gone };
            ctx.out.record(kind::GONE, record::to_body(&gone));
            ctx.out.notice(
                true,
                "JC-1219",
                format!("lane {}: lost for good: {}", gone.lane, range(&gone.from, &gone.to)),
            );
            self.note_gone(gone);
        }
    }

    /// Passes over what was lost (now or at a replay).
    pub(crate) fn note_gone(&mut self, gone: record::Gone) {
        self.chains.entry(gone.lane).or_default().pass_over(gone.to);
        let inbound = self.inbound.entry(gone.lane).or_default();
        if inbound.waiting.is_empty() {
            inbound.applied_end = gone.to;
            self.owe_receipt(gone.lane);
        }
        self.gone.push(gone);
    }

    /// Messages to this node that were lost for good, by lane and numbers.
    #[must_use]
    pub fn gone(&self) -> &[record::Gone] {
        &self.gone
    }

    /// A neighbour has signed for a lane up to here: it does not lack what comes before.
    pub(crate) fn satisfied(&mut self, peer: AuthorityId, lane: &Lane, position: LanePosition) {
        let Some(wanted) = self.wanted.get_mut(lane) else { return };
        if let Some(have) = wanted.get_mut(&peer).filter(|have| have.key() < position.key()) {
            *have = position;
        }
        let end = self.chains.get(lane).map(crate::chain::Chain::position).unwrap_or_default();
        wanted.retain(|_, have| have.key() < end.key());
        if wanted.is_empty() {
            self.wanted.remove(lane);
        }
    }

    /// A batch that this hop knows comes again, because somebody beyond it lacks it: it is held for that neighbour again.
    pub(crate) fn serve_wanted(
        &mut self,
        view: &Verified<BatchView<'_>>,
        bytes: &[u8],
        after: LanePosition,
        ctx: &mut Context<'_>,
    ) {
        let lane = view.statement.lane;
        let end = view.end();
        let Some(wanted) = self.wanted.get(&lane) else { return };
        let askers: Vec<AuthorityId> =
            wanted.iter().filter(|(_, have)| have.key() < end.key()).map(|(peer, _)| *peer).collect();
        for peer in askers {
            let link = self.links.entry(peer).or_default();
            // What came before it here may be lost for good: then what comes before it upstream counts.
            if !link.comes_after(&lane, &end, after) {
                let record = ctx.out.record(kind::AGAIN, record::batch_record(Some(peer), ctx.now, bytes));
                link.hold(lane, Held::new(record, view, bytes.len(), after), ctx.now);
            }
        }
    }
}

/// A range of messages, for people.
fn range(from: &LanePosition, to: &LanePosition) -> String {
    format!("what follows {} of epoch {} up to {} of epoch {}", from.sequence, from.epoch, to.sequence, to.epoch)
}
