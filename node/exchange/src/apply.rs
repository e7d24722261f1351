//! The destination's part: waiting messages are opened and decided on in order, and each effect is staged together with
//! the place of the message that caused it. So a message is applied once, or is one dead letter, or its lane waits.

use crate::exchange::{Blocker, Exchange};
use crate::held::Held;
use crate::output::{Context, Output};
use crate::record::{self, Cause, DeadLetter, kind};
use crate::room::{Decision, Delivery, Outgoing, Parts, Refusal};
use crate::trace::TRACE;
use crate::{Error, Rooms};
use jincai_crypto::{BatchView, KeyRing, Opened, Statement, Verified, sha256};
use jincai_journal::Log;
use jincai_types::{
    Attributes, AuthorityId, Destination, Digest, Lane, Mutation, Priority, RecordNumber, Requirement, Sender, mutated,
};
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The exchange's own «room» for bulk parts.
pub(crate) const BULK: &str = "jincai.bulk.";
/// The type of a bulk part; its id is the hexadecimal SHA-256 of its payload.
pub const BULK_PART: &str = "jincai.bulk.part";
/// The types of a chunk of a file, and of a page of chunks' digests. Their source is kept by the files room of their origin, so
/// that no copy of them needs to outlive the destination's receipt.
pub const FILE_CHUNK: &str = "jincai.file.chunk";
/// See [`FILE_CHUNK`].
pub const FILE_PAGE: &str = "jincai.file.page";
/// The type of a refusal, which goes back to the origin of the refused message.
pub const REFUSAL: &str = "jincai.refusal";

/// The payload of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RefusalNote {
    /// The place of the refused message.
    #[n(0)]
    pub cause: Cause,
    /// Its id.
    #[n(1)]
    pub id: String,
    /// Its type.
    #[n(2)]
    pub kind: String,
    /// What it was about.
    #[n(3)]
    pub subject: String,
    /// Why: the stable code.
    #[n(4)]
    pub code: String,
    /// Why: a sentence.
    #[n(5)]
    pub reason: String,
}

/// A step stops applying what waits once so many bytes are staged; it goes on at the next tick. All that a step stages stands in
/// one commit, and what waited for one release may be as much as thousands of neighbours have sent in a month.
pub(crate) const APPLY_BYTES: usize = 8 << 20;

struct PartReader<'a> {
    parts: &'a BTreeMap<Digest, VecDeque<(RecordNumber, usize)>>,
    log: &'a dyn Log,
    out: &'a Output,
    reader: (AuthorityId, &'a KeyRing),
}

impl Parts for PartReader<'_> {
    fn part(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (record, index) = *self.parts.get(digest)?.front()?;
        let stored = self.out.read(self.log, record).ok()?;
        let (_, start) = record::split_batch_record(&stored.payload).ok()?;
        let view = BatchView::parse(&stored.payload[start..]).ok()?.verified_before();
        let mut opener = view.opener(self.reader.0, self.reader.1).ok()?;
        let payload = opener.open(&view, index).ok()?.payload;
        (sha256(payload) == *digest).then(|| payload.to_vec())
    }
}

/// The bulk parts that a message names.
pub(crate) fn bulk_of(attributes: &Attributes) -> Vec<Digest> {
    let bulk = |requirement: &Requirement| match requirement {
        Requirement::Bulk(digest) => Some(*digest),
        Requirement::Release { .. } | Requirement::Spec { .. } => None,
    };
    attributes.requires.iter().filter_map(bulk).collect()
}

impl Exchange {
    /// Tries lanes again whose requirement is met by now, until none moves.
    pub(crate) fn unblock(&mut self, ctx: &mut Context<'_>) -> Result<(), Error> {
        // A lane is tried once per place: a room that waits for what it says is met would otherwise spin for ever.
        let mut tried = BTreeSet::new();
        while !self.has_staged_enough(ctx) {
            let waiting = self.waiting.iter().filter_map(|lane| Some((lane, self.inbound.get(lane)?)));
            let ready = waiting.map(|(lane, inbound)| (lane, inbound.applied, &inbound.blocked)).find(
                |(lane, applied, blocked)| match blocked {
                    _ if self.is_paused(lane) || tried.contains(&(**lane, *applied)) => false,
                    Some(blocker) => self.is_over(blocker, ctx.rooms),
                    None => true,
                },
            );
            let Some((lane, applied)) = ready.map(|(lane, applied, _)| (*lane, applied)) else { return Ok(()) };
            tried.insert((lane, applied));
            self.apply_lane(lane, ctx)?;
        }
        Ok(())
    }

    fn has_staged_enough(&self, ctx: &Context<'_>) -> bool {
        ctx.out.bytes() as u64 + self.pending() >= APPLY_BYTES as u64
    }

    /// Whether what a lane waited for is there.
    pub(crate) fn is_over(&self, blocker: &Blocker, rooms: &dyn Rooms) -> bool {
        match blocker {
            Blocker::Missing(requirement) => self.is_met(requirement, rooms),
            Blocker::CatchUp => !self.is_catching_up(),
        }
    }

    pub(crate) fn is_met(&self, requirement: &Requirement, rooms: &dyn Rooms) -> bool {
        match requirement {
            Requirement::Bulk(digest) => self.parts.contains_key(digest),
            // What no room here knows of can never be met; deciding will refuse the message for its meaning.
            other => rooms.meets(other).unwrap_or(true),
        }
    }

    /// Applies what waits on a lane, in order, until something it needs is missing.
    pub(crate) fn apply_lane(&mut self, lane: Lane, ctx: &mut Context<'_>) -> Result<(), Error> {
        if self.is_paused(&lane) {
            return Ok(());
        }
        while let Some(held) = self.inbound.get(&lane).and_then(|i| i.waiting.front()).copied() {
            let stored = ctx.read(held.record)?;
            let (_, start) = record::split_batch_record(&stored.payload)?;
            let view = BatchView::parse(&stored.payload[start..])?.verified_before();
            if !self.apply_batch(held, &view, ctx)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Applies a batch that was just taken. If nothing waits before it, it is as it was verified: nobody reads it anew.
    pub(crate) fn apply_arrived(
        &mut self,
        held: Held,
        view: &Verified<BatchView<'_>>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let lane = view.statement.lane;
        if self.is_paused(&lane) {
            return Ok(());
        }
        let next = self.inbound.get(&lane).and_then(|inbound| inbound.waiting.front());
        if next.is_some_and(|next| next.record == held.record) && !self.apply_batch(held, view, ctx)? {
            return Ok(());
        }
        self.apply_lane(lane, ctx)
    }

    /// How many messages of the batch at the front of its lane are applied: a crash may have come between two of them.
    pub(crate) fn applied_of(&self, statement: &Statement) -> usize {
        let applied = self.inbound.get(&statement.lane).map(|i| i.applied).unwrap_or_default();
        let within = applied.0 == statement.epoch && (statement.first..=statement.last).contains(&applied.1);
        let done = if within { applied.1 - (statement.first - 1) } else { 0 };
        assert!(done < statement.count() as u64, "a batch that waits holds something that is not applied");
        usize::try_from(done).expect("a batch holds 1,024 messages at most")
    }

    /// Applies what is not applied yet of the batch at the front of its lane; `false` if the lane must wait, be it for the next
    /// tick only.
    fn apply_batch(
        &mut self,
        held: Held,
        view: &Verified<BatchView<'_>>,
        ctx: &mut Context<'_>,
    ) -> Result<bool, Error> {
        let statement = &view.statement;
        let lane = statement.lane;
        let mut opener = view.opener(self.me, &self.keys);
        for index in self.applied_of(statement)..view.items.len() {
            if self.has_staged_enough(ctx) {
                ctx.out.end_effects();
                return Ok(false);
            }
            let index = if mutated(Mutation::ReverseMessages) { view.items.len() - 1 - index } else { index };
            let cause = Cause { lane, epoch: statement.epoch, sequence: view.sequence(index) };
            let opened = view.attributes(index).and_then(|attributes| {
                let opener = opener.as_mut().map_err(|_| jincai_crypto::Error::Decrypt)?;
                Ok((attributes, opener.open(view, index)?))
            });
            let moved = match opened {
                Ok((attributes, opened)) => {
                    self.apply_message(cause, &attributes, opened, (held.record, index), ctx)?
                }
                Err(error) => {
                    let refusal = Refusal::from(&error.into());
                    self.refuse((cause, held.record), &Attributes::default(), refusal, ctx)?;
                    true
                }
            };
            if !moved {
                ctx.out.end_effects();
                return Ok(false);
            }
        }
        ctx.out.end_effects();
        Ok(true)
    }

    /// Decides on one message; `false` if its lane must wait.
    fn apply_message(
        &mut self,
        cause: Cause,
        attributes: &Attributes,
        Opened { salt, commitment, payload }: Opened<'_>,
        place: (RecordNumber, usize),
        ctx: &mut Context<'_>,
    ) -> Result<bool, Error> {
        if let Some(missing) = attributes.requires.iter().find(|r| !self.is_met(r, ctx.rooms)) {
            return Ok(self.wait(cause.lane, Blocker::Missing(missing.clone())));
        }
        if attributes.kind == REFUSAL && self.is_catching_up() {
            return Ok(self.wait(cause.lane, Blocker::CatchUp));
        }
        if attributes.kind == BULK_PART {
            return self.take_part(cause, attributes, payload, place, ctx).map(|()| true);
        }
        if attributes.kind.starts_with(TRACE) && cause.lane.origin != self.me {
            return self.take_trace_message(cause, attributes, payload, place.0, ctx).map(|()| true);
        }
        let Cause { lane, epoch, sequence } = cause;
        let (record, index) = place;
        let delivery = Delivery { lane, epoch, sequence, attributes, payload, commitment, salt, record, index };
        if cause.lane.origin == self.me && cause.lane.destination != Destination::Authority(self.me) {
            return self.retake(cause, &delivery, ctx).map(|()| true);
        }
        let (room, effect, messages) = match self.decide(&delivery, ctx) {
            Some((room, Decision::Apply { effect, messages })) => (room, effect, messages),
            Some((_, Decision::Wait(requirement))) => return Ok(self.wait(cause.lane, Blocker::Missing(requirement))),
            Some((_, Decision::Refuse(refusal))) => {
                return self.refuse((cause, place.0), attributes, refusal, ctx).map(|()| true);
            }
            None => {
                let error = Error::NoRoom { kind: attributes.kind.clone() };
                return self.refuse((cause, place.0), attributes, Refusal::from(&error), ctx).map(|()| true);
            }
        };
        self.stage_effect(Some(cause), room, bulk_of(attributes), effect, ctx)?;
        self.counters.messages_applied += 1;
        for message in messages {
            self.submit_or_tell(message, ctx);
        }
        Ok(true)
    }

    fn take_trace_message(
        &mut self,
        cause: Cause,
        attributes: &Attributes,
        payload: &[u8],
        record: RecordNumber,
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        match self.take_trace(cause.lane.origin, attributes, payload, ctx.now) {
            Ok((effect, messages)) => {
                self.stage_effect(Some(cause), TRACE, Vec::new(), effect, ctx)?;
                messages.into_iter().for_each(|message| self.submit_or_tell(message, ctx));
                Ok(())
            }
            Err(refusal) => self.refuse((cause, record), attributes, refusal, ctx),
        }
    }

    /// The decision of the room that takes a message.
    pub(crate) fn decide(&self, delivery: &Delivery<'_>, ctx: &mut Context<'_>) -> Option<(&'static str, Decision)> {
        let parts = PartReader { parts: &self.parts, log: ctx.log, out: &*ctx.out, reader: (self.me, &self.keys) };
        ctx.rooms.decide(ctx.now, delivery, &parts)
    }

    /// A message of ours that was taken back: the room that sent it learns of it again.
    fn retake(&mut self, cause: Cause, delivery: &Delivery<'_>, ctx: &mut Context<'_>) -> Result<(), Error> {
        let effect = match cause.lane.destination {
            // A group of one level binds its members and not whoever sends to it.
            Destination::Authority(_) | Destination::Level(..) => {
                let reader = (self.me, &self.keys);
                let parts = PartReader { parts: &self.parts, log: ctx.log, out: &*ctx.out, reader };
                ctx.rooms.retake(delivery, &parts)
            }
            // What we impose on others binds us in the same way. What we know already is refused, to nobody's harm.
            Destination::Below(_) | Destination::Superiors(_) => match self.decide(delivery, ctx) {
                Some((room, Decision::Apply { effect, .. })) => Some((room, effect)),
                Some((_, Decision::Wait(_) | Decision::Refuse(_))) | None => None,
            },
        };
        let used = bulk_of(delivery.attributes);
        match effect {
            Some((room, effect)) => self.stage_effect(Some(cause), room, used, effect, ctx).map(drop),
            None => {
                // Nothing is journaled: a replay comes here again.
                self.use_parts(&used);
                self.advance(cause);
                Ok(())
            }
        }
    }

    fn wait(&mut self, lane: Lane, blocker: Blocker) -> bool {
        if let Some(inbound) = self.inbound.get_mut(&lane) {
            inbound.blocked = Some(blocker);
        }
        false
    }

    pub(crate) fn submit_or_tell(&mut self, message: Outgoing, ctx: &mut Context<'_>) {
        let what = message.attributes.kind.clone();
        if let Err(error) = self.submit(message) {
            ctx.out.notice(true, error.code(), format!("a message of type {what} could not be sent: {error}"));
        }
    }

    fn take_part(
        &mut self,
        cause: Cause,
        attributes: &Attributes,
        payload: &[u8],
        (record, index): (RecordNumber, usize),
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let digest = sha256(payload);
        if attributes.id != digest.to_string() {
            return self.refuse((cause, record), attributes, Refusal::from(&Error::Part), ctx);
        }
        let effect = record::to_body(&(digest, record, index as u64));
        self.stage_effect(Some(cause), BULK, Vec::new(), effect, ctx)?;
        self.counters.messages_applied += 1;
        Ok(())
    }

    pub(crate) fn apply_part(&mut self, effect: &[u8]) -> Result<(), Error> {
        let (digest, record, index): (Digest, RecordNumber, u64) = record::from_body("bulk part", effect)?;
        let index = usize::try_from(index).map_err(|_| Error::Part)?;
        self.parts.entry(digest).or_default().push_back((record, index));
        Ok(())
    }

    /// Bulk parts that have served a message: each came for one.
    pub(crate) fn use_parts(&mut self, used: &[Digest]) {
        for digest in used {
            if let Some(held) = self.parts.get_mut(digest) {
                held.pop_front();
                if held.is_empty() {
                    self.parts.remove(digest);
                }
            }
        }
    }

    /// Refuses a message for its meaning: a dead letter here, a note to its origin; the cursor moves.
    pub(crate) fn refuse(
        &mut self,
        (cause, record): (Cause, RecordNumber),
        attributes: &Attributes,
        refusal: Refusal,
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let letter = DeadLetter {
            cause,
            id: attributes.id.clone(),
            code: refusal.code.to_owned(),
            reason: refusal.reason.clone(),
            used: bulk_of(attributes),
            record,
            late: false,
        };
        if !mutated(Mutation::DeadLetterUnrecorded) {
            ctx.out.record(kind::DEAD_LETTER, record::to_body(&letter));
        }
        let text =
            format!("lane {}: message {} «{}» refused: {}", cause.lane, cause.sequence, letter.id, letter.reason);
        ctx.out.notice(true, refusal.code, text);
        self.bury(letter);
        self.counters.messages_refused += 1;
        self.tell_origin(cause, attributes, refusal, ctx);
        Ok(())
    }

    /// The origin of a message hears that it became a dead letter.
    pub(crate) fn tell_origin(
        &mut self,
        cause: Cause,
        attributes: &Attributes,
        refusal: Refusal,
        ctx: &mut Context<'_>,
    ) {
        // A refusal of a refusal would have no end.
        if attributes.kind != REFUSAL && cause.lane.origin != self.me {
            let note = RefusalNote {
                cause,
                id: attributes.id.clone(),
                kind: attributes.kind.clone(),
                subject: attributes.subject.clone(),
                code: refusal.code.to_owned(),
                reason: refusal.reason,
            };
            let sender: Option<Sender> = attributes.source.parse().ok();
            let mut attributes = Attributes {
                id: format!("refusal/{}/{}/{}", cause.lane, cause.epoch, cause.sequence),
                source: self.me.to_string(),
                kind: REFUSAL.to_owned(),
                time: ctx.now,
                subject: note.subject.clone(),
                ..Attributes::default()
            };
            // The business system that sent it reads it, if it is known.
            sender.map(Sender::audience).unwrap_or_default().note_in(&mut attributes);
            let destination = Destination::Authority(cause.lane.origin);
            let payload = record::to_body(&note);
            self.submit_or_tell(Outgoing { destination, class: Priority::Control, attributes, payload }, ctx);
        }
    }
}
