//! What operators do with what waits: hold and release links and lanes, send again, apply or drop dead letters, refuse what a
//! lane waits for, give up messages that begin here.
//!
//! Every act that changes what becomes of a message is a record that names who, when and why, so that nothing vanishes
//! but by a named person. A hold outlives restarts. Nothing here removes a batch from the middle of a chain at a hop: only
//! a lane's origin can give messages up, and its destination goes on behind them as behind any that are lost for good.

use crate::apply::BULK_PART;
use crate::exchange::Exchange;
use crate::output::{Context, Notice};
use crate::record::{self, Cause, DeadLetter, Gone, Replayed, kind};
use crate::room::{Decision, Delivery, Refusal};
use crate::{Error, Rooms};
use jincai_crypto::{BatchView, Opened};
use jincai_types::{AuthorityId, Destination, Lane, LanePosition, Millis};
use minicbor::{Decode, Encode};
use std::ops::Bound;

/// Longest name of a person, and longest reason, in bytes.
const BY_BYTES: usize = 200;
const REASON_BYTES: usize = 2_000;

/// What can be held: then nothing of it moves on from this node until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Target {
    /// No batch is sent to this neighbour.
    #[n(0)]
    Link(#[n(0)] AuthorityId),
    /// No batch of this lane is sent on or applied.
    #[n(1)]
    Lane(#[n(0)] Lane),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(peer) => write!(f, "link {peer}"),
            Self::Lane(lane) => write!(f, "lane {lane}"),
        }
    }
}

/// Who decides something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Person {
    /// The name that the caller gave, at most 200 bytes.
    #[n(0)]
    pub by: String,
    /// The reason, at most 2,000 bytes.
    #[n(1)]
    pub reason: String,
}

impl Person {
    fn check(&self) -> Result<(), Error> {
        let too_long = |what, size: usize, limit: usize| {
            let (size, limit) = (size as u64, limit as u64);
            Err(Error::from(jincai_types::Error::TooLarge { what, size, limit }))
        };
        if self.by.trim().is_empty() || self.reason.trim().is_empty() {
            return Err(Error::NoReason);
        }
        match (self.by.len(), self.reason.len()) {
            (by, _) if by > BY_BYTES => too_long("a person's name", by, BY_BYTES),
            (_, reason) if reason > REASON_BYTES => too_long("a reason", reason, REASON_BYTES),
            _ => Ok(()),
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Act {
    /// A link or lane is held.
    #[n(0)]
    Hold(#[n(0)] Target),
    /// It is released.
    #[n(1)]
    Release(#[n(0)] Target),
    /// A dead letter is dropped.
    #[n(2)]
    DropLetter(#[n(0)] Cause),
    /// Messages of a lane that begins here are given up.
    #[n(3)]
    GiveUp(#[n(0)] Gone),
    /// The message that a lane waited with was refused; its dead letter stands behind this record.
    #[n(4)]
    RefuseWaiting(#[n(0)] Cause),
}

/// An operator's decision, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Order {
    /// Who, and why.
    #[n(0)]
    pub person: Person,
    /// When.
    #[n(1)]
    pub time: Millis,
    /// What.
    #[n(2)]
    pub act: Act,
}

impl Exchange {
    /// Holds a link or a lane.
    pub fn hold(&mut self, target: Target, person: Person, ctx: &mut Context<'_>) -> Result<(), Error> {
        self.check_target(&target)?;
        if self.paused.contains(&target) {
            return Ok(());
        }
        self.order(Act::Hold(target), person, format!("{target} is held"), ctx)
    }

    /// Releases a link or a lane; also a lane that is held after a fork, which goes on with the batch that came first. Its
    /// other branch stays in the journal.
    pub fn release(&mut self, target: Target, person: Person, ctx: &mut Context<'_>) -> Result<(), Error> {
        let forked = matches!(&target, Target::Lane(lane) if self.held_lanes.contains_key(lane));
        if !forked && !self.paused.contains(&target) {
            return Err(Error::NotHeld { target: target.to_string() });
        }
        self.order(Act::Release(target), person, format!("{target} is released"), ctx)?;
        self.unblock(ctx)?;
        self.poll_links(ctx);
        Ok(())
    }

    /// Sends what is in custody for a neighbour again, of one lane or of all, without waiting for the retry time. Safe to do
    /// twice: the neighbour drops what it has.
    pub fn retry(&mut self, peer: AuthorityId, lane: Option<Lane>, ctx: &mut Context<'_>) -> Result<usize, Error> {
        let link = self.links.get_mut(&peer).ok_or(Error::NotANeighbour(peer))?;
        let count = link.retry_now(lane, ctx.now);
        self.counters.resends += count as u64;
        self.poll_links(ctx);
        Ok(count)
    }

    /// Decides anew on a dead letter, whose cause was mended: if its room now takes it, it is applied out of its order, and
    /// recorded as such. A second time there is no such dead letter.
    pub fn replay_letter(&mut self, cause: Cause, person: Person, ctx: &mut Context<'_>) -> Result<(), Error> {
        person.check()?;
        let letter = self.letter(&cause)?.clone();
        let stored = ctx.read(letter.record)?;
        let (_, start) = record::split_batch_record(&stored.payload)?;
        let view = BatchView::parse(&stored.payload[start..])?.verified_before();
        let index = usize::try_from(cause.sequence - view.statement.first).map_err(|_| Error::Part)?;
        let attributes = view.attributes(index)?;
        let mut opener = view.opener(self.me, &self.keys)?;
        let Opened { salt, commitment, payload } = opener.open(&view, index)?;
        if attributes.kind == BULK_PART {
            return Err(Error::Part);
        }
        if let Some(missing) = attributes.requires.iter().find(|r| !self.is_met(r, ctx.rooms)) {
            return Err(Error::StillWaits { missing: missing.to_string() });
        }
        let delivery = Delivery {
            lane: cause.lane,
            epoch: cause.epoch,
            sequence: cause.sequence,
            attributes: &attributes,
            payload,
            commitment,
            salt,
            record: letter.record,
            index,
        };
        let (room, effect, messages) = match self.decide(&delivery, ctx) {
            Some((room, Decision::Apply { effect, messages })) => (room, effect, messages),
            Some((_, Decision::Wait(missing))) => return Err(Error::StillWaits { missing: missing.to_string() }),
            Some((_, Decision::Refuse(Refusal { code, reason }))) => return Err(Error::StillRefused { code, reason }),
            None => return Err(Error::NoRoom { kind: attributes.kind.clone() }),
        };
        let used = crate::apply::bulk_of(&attributes);
        let replayed = Replayed { person, time: ctx.now, cause, room: room.to_owned(), used, effect: effect.into() };
        let body = record::to_body(&replayed);
        let length = body.len();
        let number = ctx.out.record(kind::REPLAYED, body);
        self.note_replayed(number, length, &replayed, ctx.rooms)?;
        self.counters.messages_applied += 1;
        let text = format!("lane {}: message {} «{}» was applied after all", cause.lane, cause.sequence, letter.id);
        ctx.out.notices.push(Notice { code: "JC-1221", text, alarm: false });
        for message in messages {
            self.submit_or_tell(message, ctx);
        }
        self.unblock(ctx)
    }

    /// A dead letter that was applied after all (now or at a replay).
    pub(crate) fn note_replayed(
        &mut self,
        number: jincai_types::RecordNumber,
        length: usize,
        replayed: &Replayed,
        rooms: &mut dyn Rooms,
    ) -> Result<(), Error> {
        let offset = length - replayed.effect.len();
        let place = crate::Place { number, offset, cause: Some(replayed.cause.lane) };
        rooms.apply(&place, &replayed.room, &replayed.effect)?;
        self.use_parts(&replayed.used);
        self.dead_letters.retain(|letter| letter.cause != replayed.cause);
        Ok(())
    }

    /// Drops a dead letter. Its batch stays where it is in the journal.
    pub fn drop_letter(&mut self, cause: Cause, person: Person, ctx: &mut Context<'_>) -> Result<(), Error> {
        let id = self.letter(&cause)?.id.clone();
        let text = format!("lane {}: dead letter {} «{id}» is dropped", cause.lane, cause.sequence);
        self.order(Act::DropLetter(cause), person, text, ctx)
    }

    fn letter(&self, cause: &Cause) -> Result<&DeadLetter, Error> {
        let found = self.dead_letters.iter().find(|letter| letter.cause == *cause);
        found.ok_or(Error::NoLetter { lane: cause.lane, sequence: cause.sequence })
    }

    /// Refuses the message that a lane to this node waits with: it becomes a dead letter, its origin is told, the lane goes on.
    pub fn refuse_waiting(&mut self, lane: Lane, person: Person, ctx: &mut Context<'_>) -> Result<Cause, Error> {
        let waiting = self.inbound.get(&lane).filter(|inbound| inbound.blocked.is_some());
        let held = waiting.and_then(|inbound| inbound.waiting.front()).copied();
        let held = held.ok_or(Error::NothingWaits { lane })?;
        let stored = ctx.read(held.record)?;
        let (_, start) = record::split_batch_record(&stored.payload)?;
        let view = BatchView::parse(&stored.payload[start..])?.verified_before();
        let index = self.applied_of(&view.statement);
        let cause = Cause { lane, epoch: view.statement.epoch, sequence: view.sequence(index) };
        let attributes = view.attributes(index)?;
        let reason = format!("refused by {}: {}", person.by, person.reason);
        let text = format!("lane {lane}: the message that it waited with is refused");
        self.order(Act::RefuseWaiting(cause), person, text, ctx)?;
        self.refuse((cause, held.record), &attributes, Refusal { code: "JC-1223", reason }, ctx)?;
        self.apply_lane(lane, ctx)?;
        self.unblock(ctx)?;
        Ok(cause)
    }

    /// Gives up what a lane that begins here holds up to a message, as far as its destination has not signed for it. What has
    /// left the node may arrive nevertheless. Returns what is given up, or `None` if all of it has arrived.
    pub fn give_up(
        &mut self,
        lane: Lane,
        through: u64,
        person: Person,
        ctx: &mut Context<'_>,
    ) -> Result<Option<(LanePosition, LanePosition)>, Error> {
        let Destination::Authority(to) = lane.destination else { return Err(Error::NotOurs { lane }) };
        if lane.origin != self.me || to == self.me {
            return Err(Error::NotOurs { lane });
        }
        let delivered = self.deliveries.of(&lane).find(|(who, _)| **who == to);
        let from = delivered.map(|(_, d)| d.receipt.position).unwrap_or_default();
        let low_and_high = (Bound::Excluded(from.key()), Bound::Included((self.epoch, through)));
        let last = self.shelf.get(&lane).filter(|_| from.key() < (self.epoch, through));
        let last = last.and_then(|shelf| shelf.range(low_and_high).next_back()).map(|(_, held)| held);
        let Some(to) = last.map(|held| held.end) else { return Ok(None) };
        let text = format!("lane {lane}: messages up to {} are given up", to.sequence);
        let gone = Gone { lane, from, to };
        self.order(Act::GiveUp(gone), person, text, ctx)?;
        self.issue_gone_slot(gone, ctx);
        Ok(Some((from, to)))
    }

    /// Whether an operator holds a lane.
    pub(crate) fn is_paused(&self, lane: &Lane) -> bool {
        self.paused.contains(&Target::Lane(*lane))
    }

    /// What is held by an operator.
    pub fn paused(&self) -> impl Iterator<Item = &Target> {
        self.paused.iter()
    }

    fn check_target(&self, target: &Target) -> Result<(), Error> {
        match target {
            Target::Link(peer) if !self.links.contains_key(peer) => Err(Error::NotANeighbour(*peer)),
            Target::Link(_) | Target::Lane(_) => Ok(()),
        }
    }

    fn order(&mut self, act: Act, person: Person, text: String, ctx: &mut Context<'_>) -> Result<(), Error> {
        person.check()?;
        let text = format!("{text} by {}: {}", person.by, person.reason);
        let order = Order { person, time: ctx.now, act };
        ctx.out.record(kind::ORDER, record::to_body(&order));
        ctx.out.notices.push(Notice { code: "JC-1221", text, alarm: false });
        self.note_order(&order.act, ctx.now);
        Ok(())
    }

    /// Does what was decided (now or at a replay).
    pub(crate) fn note_order(&mut self, act: &Act, now: Millis) {
        match act {
            Act::Hold(target) => {
                self.paused.insert(*target);
                self.pause_links();
            }
            Act::Release(target) => {
                self.paused.remove(target);
                if let Target::Lane(lane) = target {
                    self.held_lanes.remove(lane);
                    self.links.values_mut().for_each(|link| link.resume(lane));
                }
                self.pause_links();
            }
            Act::DropLetter(cause) => self.dead_letters.retain(|letter| letter.cause != *cause),
            Act::GiveUp(Gone { lane, to, .. }) => {
                self.links.values_mut().for_each(|link| link.discard(lane, *to));
                if let Some(shelf) = self.shelf.get_mut(lane) {
                    let (epoch, sequence) = to.key();
                    *shelf = shelf.split_off(&(epoch, sequence.saturating_add(1)));
                }
                let pause = self.first_tell();
                self.deliveries.watch(*lane, pause, now);
            }
            Act::RefuseWaiting(_) => {}
        }
    }

    /// Tells every link whether it is held.
    pub(crate) fn pause_links(&mut self) {
        for (peer, link) in &mut self.links {
            link.paused = self.paused.contains(&Target::Link(*peer));
        }
    }
}
