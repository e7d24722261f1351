//! The journal's records read back, at a restart: each does what it did when it was staged, and decides nothing again.

use crate::Error;
use crate::chain::Chain;
use crate::exchange::Exchange;
use crate::held::Held;
use crate::operator::Order;
use crate::output::Context;
use crate::record::{self, Cleared, EffectRecord, Replayed, kind};
use jincai_crypto::{BatchView, CardChain};
use jincai_journal::Stored;
use jincai_types::{Millis, Mutation, mutated};

impl Exchange {
    /// What a record means for the state.
    pub(crate) fn replay(&mut self, stored: &Stored, ctx: &mut Context<'_>) -> Result<(), Error> {
        let body = &stored.payload[..];
        match stored.kind {
            kind::BATCH => self.replay_batch(stored, ctx.now)?,
            kind::LATE | kind::TAKEN_BACK | kind::AGAIN => self.replay_aside(stored, ctx.now)?,
            kind::GONE => self.note_gone(record::from_body("gone", body)?),
            kind::DELIVERED => self.note_delivered(record::from_body("delivered", body)?),
            kind::RESTORED => self.catch_up.restored = Some(record::from_body("restored", body)?),
            kind::EFFECT => {
                let effect: EffectRecord<'_> = record::from_body("effect record", body)?;
                self.apply_effect(stored.number, body.len(), &effect, ctx.rooms)?;
            }
            kind::EFFECTS => {
                let (room, effects) = record::effects(stored.kind, body)?;
                for effect in effects {
                    self.apply_shared(stored.number, &room, &effect, ctx.rooms)?;
                }
            }
            kind::ORDER => {
                let order: Order = record::from_body("order", body)?;
                self.note_order(&order.act, ctx.now);
            }
            kind::REPLAYED => {
                let replayed: Replayed = record::from_body("replayed dead letter", body)?;
                self.note_replayed(stored.number, body.len(), &replayed, ctx.rooms)?;
            }
            kind::DEAD_LETTER => self.bury(record::from_body("dead letter", body)?),
            kind::CLEARED => {
                let cleared: Cleared = record::from_body("cleared custody", body)?;
                self.provenance.handed(&cleared);
                if let Some(link) = self.links.get_mut(&cleared.neighbour) {
                    for (lane, position) in &cleared.lanes {
                        link.discard(lane, *position);
                    }
                }
            }
            kind::KEPT => drop(self.keep(record::from_body("kept custody", body)?)),
            kind::EPOCH => self.epoch = record::from_body("epoch", body)?,
            kind::CARDS => {
                let chain: CardChain = record::from_body("cards", body)?;
                // They were valid when they came; what they proved then stays proven.
                self.directory.add(&chain, chain.valid_at()?)?;
                self.meet_neighbours();
                self.reroute_groups(ctx.now);
            }
            kind::FORK => {
                let view = BatchView::parse(body)?;
                self.held_lanes.insert(view.statement.lane, (view.digest, stored.number));
            }
            _ => {}
        }
        Ok(())
    }

    /// A batch of a lane's chain: of one that begins here, or taken from a neighbour.
    fn replay_batch(&mut self, stored: &Stored, now: Millis) -> Result<(), Error> {
        let body = &stored.payload[..];
        let (from, start) = record::split_batch_record(body)?;
        let view = BatchView::parse(&body[start..])?;
        let (statement, digest) = (&view.statement, view.digest);
        let lane = statement.lane;
        let after = match from {
            None => self.newest_on_shelf(&lane).unwrap_or(statement.previous),
            Some(_) => {
                let position = self.chains.get(&lane).map(Chain::position).unwrap_or_default();
                // A relay may have taken its place from a floor.
                if position.key() < statement.previous.key() { statement.previous } else { position }
            }
        };
        let held = Held::new(stored.number, &view, body.len() - start, after);
        let time = record::batch_time(body);
        self.provenance.took(lane, &held, from, time, self.policy.provenance_batches);
        if from.is_none() && !mutated(Mutation::ReuseSequences) {
            self.outbox.restore(lane, (held.previous, held.end), self.since());
        } else if from.is_some() {
            let chain = self.chains.entry(lane).or_default();
            chain.raise_to(statement.previous);
            chain.advance(statement, digest);
        }
        self.take(lane, held, from, now);
        if mutated(Mutation::ForgetRelayCustody) && from.is_some() {
            self.links.values_mut().for_each(|link| link.discard(&lane, held.end));
        }
        Ok(())
    }

    /// A batch that is no part of a lane's chain.
    fn replay_aside(&mut self, stored: &Stored, now: Millis) -> Result<(), Error> {
        let (from, start) = record::split_batch_record(&stored.payload)?;
        let view = BatchView::parse(&stored.payload[start..])?.verified_before();
        let lane = view.statement.lane;
        let held = Held::new(stored.number, &view, stored.payload.len() - start, view.statement.previous);
        match (stored.kind, from) {
            (kind::LATE, from) => self.note_late(lane, held, from),
            (kind::TAKEN_BACK, _) => self.note_taken_back(&view, held, now)?,
            (_, Some(peer)) => self.links.entry(peer).or_default().hold(lane, held, now),
            (_, None) => {}
        }
        Ok(())
    }
}
