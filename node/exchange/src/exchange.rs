//! The exchange of one node: state, start, links, the clock's tick. Replaying, receiving, applying and slots stand in their
//! files.
//!
//! Nothing here does I/O. Every entry point takes a [`Context`] and stages records and sends into its output; the shell
//! appends the records and releases a send only when the record it names is durable. State may run ahead of the disk,
//! because a crash forgets both together.

use crate::chain::Chain;
use crate::credit::Grants;
use crate::delivery::Deliveries;
use crate::gaps::Wanted;
use crate::held::{Held, Key};
use crate::link::{Link, LinkKind, ToSend};
use crate::operator::Target;
use crate::outbox::Outbox;
use crate::output::{Context, Notice, Output, Payload};
use crate::pace::Pace;
use crate::press::Gate;
use crate::provenance::Provenance;
use crate::record::{self, Cause, DeadLetter, Effect, EffectRecord, Effects, Gone, Restored, kind};
use crate::restore::{CatchUp, id_digest};
use crate::slots::Slots;
use crate::trace::Traces;
use crate::{Error, Frame, Outgoing, PROTOCOL_VERSION, Place, Rooms};
use jincai_crypto::{BatchView, Directory, Entropy, KeyRing};
use jincai_journal::Log;
use jincai_policies::{LinkLimits, LinkPolicy};
use jincai_types::{
    AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Millis, Mutation, Priority, RecordNumber, Requirement,
    mutated,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// Dead letters shown to operators; older ones stay in the journal.
const DEAD_LETTERS: usize = 10_000;
/// Lanes that a relay remembers after they are drained.
const SOFT_CHAINS: usize = 10_000;

/// Counters since the start, for `status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says what is counted")]
pub struct Counters {
    pub messages_submitted: u64,
    pub messages_applied: u64,
    pub messages_refused: u64,
    pub batches_sealed: u64,
    pub batches_received: u64,
    pub batches_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub duplicates_dropped: u64,
    pub gaps_asked: u64,
    pub gaps_unserved: u64,
    pub gaps_passed_on: u64,
    pub batches_late: u64,
    pub taken_back: u64,
    pub batches_bad: u64,
    pub batches_held_off: u64,
    pub batches_not_yet: u64,
    pub forks: u64,
    pub resends: u64,
    pub receipts_sent: u64,
    pub receipts_received: u64,
    pub slots_received: u64,
}

/// What the node is and how it behaves.
pub struct Setup {
    /// The hosted authority.
    pub authority: AuthorityId,
    /// Its keys.
    pub keys: KeyRing,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
    /// Directory with at least our own chain of cards.
    pub directory: Directory,
    /// How links behave.
    pub policy: LinkPolicy,
    /// What may be sent to which neighbour; those that are not named are not limited.
    pub limits: BTreeMap<AuthorityId, LinkLimits>,
}

/// How the run before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// With a closing mark: the epoch goes on.
    Clean,
    /// In any other way: a new epoch.
    Unclean,
    /// The node was set back to an older state, from a backup: a new epoch, and its neighbours help it to catch up.
    Restored,
    /// It is not to go on: the journal is damaged, and what lies before the damage is only looked at.
    ReadOnly,
}

/// A lane that ends here.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Batches that are durable here and not completely applied.
    pub(crate) waiting: VecDeque<Held>,
    /// The last message applied or refused.
    pub(crate) applied: Key,
    /// The end of the last batch completely applied.
    pub(crate) applied_end: LanePosition,
    /// Refused messages so far.
    pub(crate) refusals: u64,
    /// What the first waiting message waits for.
    pub(crate) blocked: Option<Blocker>,
}

/// What a lane may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocker {
    /// What its first message needs.
    Missing(Requirement),
    /// That this node has caught up: until then it may not know of its own message that is spoken of.
    CatchUp,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(requirement) => requirement.fmt(f),
            Self::CatchUp => f.write_str("this node to catch up with its neighbours"),
        }
    }
}

/// See the module's head.
pub struct Exchange {
    pub(crate) me: AuthorityId,
    pub(crate) keys: KeyRing,
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) directory: Directory,
    pub(crate) policy: LinkPolicy,
    pub(crate) limits: BTreeMap<AuthorityId, LinkLimits>,
    pub(crate) epoch: Epoch,
    pub(crate) outbox: Outbox,
    pub(crate) links: BTreeMap<AuthorityId, Link>,
    pub(crate) chains: BTreeMap<Lane, Chain>,
    pub(crate) inbound: BTreeMap<Lane, Inbound>,
    /// Those of them on which something waits: a collector has thousands, and looks at them at every frame.
    pub(crate) waiting: BTreeSet<Lane>,
    /// Lanes from others whose end-to-end receipts are out of date.
    pub(crate) receipts_due: BTreeSet<Lane>,
    /// Batches of our own lanes and of group lanes, for whoever asks again or joins late.
    pub(crate) shelf: BTreeMap<Lane, BTreeMap<Key, Held>>,
    /// Bulk parts that no message has used yet: every arrival serves one message.
    pub(crate) parts: BTreeMap<Digest, VecDeque<(RecordNumber, usize)>>,
    pub(crate) slots: Slots,
    /// Lanes that are held because of a fork: the second batch's digest, and the record that keeps it.
    pub(crate) held_lanes: BTreeMap<Lane, (Digest, RecordNumber)>,
    /// Links and lanes that an operator holds.
    pub(crate) paused: BTreeSet<Target>,
    pub(crate) dead_letters: VecDeque<DeadLetter>,
    pub(crate) deliveries: Deliveries,
    pub(crate) catch_up: CatchUp,
    /// Ids of our own messages that were taken back.
    pub(crate) used_ids: BTreeSet<Digest>,
    pub(crate) wanted: Wanted,
    /// Nodes that were set back, and the epochs that they opened then.
    pub(crate) restored_peers: BTreeMap<AuthorityId, Epoch>,
    /// What neighbours may send.
    pub(crate) grants: Grants,
    /// The newest epochs that authorities were told of.
    pub(crate) said_epochs: BTreeMap<AuthorityId, Epoch>,
    /// Messages to us that were lost for good.
    pub(crate) gone: Vec<Gone>,
    pub(crate) provenance: Provenance,
    /// Searches for messages, and how many there were in this run.
    pub(crate) traces: Traces,
    pub(crate) traced: u64,
    /// The number of the last slot issued that no record numbers.
    pub(crate) said_number: u64,
    /// Somebody else knows the epoch that we are in.
    pub(crate) accepted: bool,
    /// A second node runs with our identity.
    pub(crate) twin: bool,
    /// There is no room to take anything.
    pub(crate) full: bool,
    /// When it was last looked at what waits for whom.
    pub(crate) pressed_at: Millis,
    pub(crate) counters: Counters,
    pub(crate) last_tick: Millis,
}

impl Exchange {
    /// Rebuilds the exchange and its rooms from the journal, or from a snapshot ([`Exchange::save`]) of the state after some
    /// record and what the journal holds behind it; the rooms are as the snapshot left them already. Unless the run before
    /// ended cleanly, a new epoch is staged.
    pub fn open(
        setup: Setup,
        opening: Opening,
        snapshot: Option<(RecordNumber, &[u8])>,
        ctx: &mut Context<'_>,
    ) -> Result<Self, Error> {
        let mut exchange = match snapshot {
            Some((_, snapshot)) => Self::restore(setup, snapshot, ctx.now)?,
            None => Self::empty(setup, ctx.now),
        };
        let mut failed = None;
        let log = ctx.log;
        log.replay(snapshot.map_or(1, |(through, _)| through + 1), &mut |stored| {
            if failed.is_none() {
                failed = exchange.replay(&stored, ctx).err();
            }
            Ok(())
        })?;
        match failed {
            Some(error) => Err(error),
            None => exchange.begin(opening, ctx).map(|()| exchange),
        }
    }

    /// A node that knows nothing but its own chain of cards.
    pub(crate) fn empty(setup: Setup, now: Millis) -> Self {
        let mut exchange = Self {
            me: setup.authority,
            keys: setup.keys,
            entropy: setup.entropy,
            directory: setup.directory,
            policy: setup.policy,
            limits: setup.limits,
            epoch: Epoch::default(),
            outbox: Outbox::default(),
            links: BTreeMap::new(),
            chains: BTreeMap::new(),
            inbound: BTreeMap::new(),
            waiting: BTreeSet::new(),
            receipts_due: BTreeSet::new(),
            shelf: BTreeMap::new(),
            parts: BTreeMap::new(),
            slots: Slots::default(),
            held_lanes: BTreeMap::new(),
            paused: BTreeSet::new(),
            dead_letters: VecDeque::new(),
            deliveries: Deliveries::default(),
            catch_up: CatchUp::default(),
            used_ids: BTreeSet::new(),
            wanted: Wanted::new(),
            restored_peers: BTreeMap::new(),
            grants: Grants::default(),
            said_epochs: BTreeMap::new(),
            gone: Vec::new(),
            provenance: Provenance::default(),
            traces: Traces::new(),
            traced: 0,
            said_number: 0,
            accepted: false,
            twin: false,
            full: false,
            pressed_at: now,
            counters: Counters::default(),
            last_tick: now,
        };
        exchange.meet_neighbours();
        exchange
    }

    /// Begins a run, after everything before it was rebuilt.
    fn begin(&mut self, opening: Opening, ctx: &mut Context<'_>) -> Result<(), Error> {
        if opening == Opening::ReadOnly {
            return Ok(());
        }
        self.catch_up.since = ctx.now;
        let kept = opening == Opening::Restored && mutated(Mutation::KeepEpochAfterRestore);
        if (opening != Opening::Clean && !kept) || self.epoch == Epoch::default() {
            let number = ctx.now.max(self.epoch.number + 1);
            self.epoch = Epoch { number, salt: self.entropy.number()? };
        }
        // In a kept epoch too: slots are numbered by records, and what this run says comes behind what the last one said.
        ctx.out.record(kind::EPOCH, record::to_body(&self.epoch));
        if opening == Opening::Restored {
            let restored = Restored { epoch: self.epoch, done: false, first: self.epoch };
            self.catch_up.restored = Some(restored);
            ctx.out.record(kind::RESTORED, record::to_body(&restored));
        } else if let Some(restored) = self.catch_up.restored.as_mut().filter(|restored| !restored.done) {
            // It crashed before it had caught up: it still does not know which epochs it was in.
            restored.epoch = self.epoch;
            ctx.out.record(kind::RESTORED, record::to_body(restored));
        }
        self.issue_card_slot();
        self.issue_restored_slot(ctx);
        let first_tell = self.first_tell();
        for lane in self.our_lanes() {
            self.deliveries.watch(lane, first_tell, ctx.now);
        }
        self.unblock(ctx)
    }

    /// Superior and inferiors are neighbours; a link exists from the moment the neighbour is known.
    pub(crate) fn meet_neighbours(&mut self) {
        let tree = self.directory.tree();
        let neighbours: Vec<_> = tree.superior(self.me).into_iter().chain(tree.children(self.me)).collect();
        for neighbour in neighbours {
            self.links.entry(neighbour).or_default();
        }
    }

    /// Where a lane goes on from here. Never to its origin, which has it: a batch that came a wrong way would be held for
    /// a receipt that nobody signs.
    pub(crate) fn hops(&self, lane: &Lane, from: Option<AuthorityId>) -> Vec<AuthorityId> {
        let mut hops = self.directory.tree().next_hops(self.me, lane.destination, from);
        hops.retain(|hop| *hop != lane.origin);
        hops
    }

    /// Takes a batch that is (being made) durable: into custody for the next hops, and to be applied if it is for us.
    pub(crate) fn take(&mut self, lane: Lane, held: Held, from: Option<AuthorityId>, now: Millis) {
        for hop in self.hops(&lane, from) {
            self.links.entry(hop).or_default().hold(lane, held, now);
        }
        if lane.origin == self.me || !matches!(lane.destination, Destination::Authority(_)) {
            self.shelf.entry(lane).or_default().insert(held.end.key(), held);
        }
        let for_us = self.directory.tree().is_member(lane.destination, self.me);
        if for_us && (from.is_some() || lane.destination == Destination::Authority(self.me)) {
            self.inbound.entry(lane).or_default().waiting.push_back(held);
            self.waiting.insert(lane);
        }
    }

    /// A neighbour that joined late gets the group lanes from their beginning.
    pub(crate) fn reroute_groups(&mut self, now: Millis) {
        for (lane, batches) in &self.shelf {
            if matches!(lane.destination, Destination::Authority(_)) {
                continue;
            }
            let came_from_there = self.directory.tree().next_hops(self.me, Destination::Authority(lane.origin), None);
            for hop in self.directory.tree().next_hops(self.me, lane.destination, None) {
                let link = self.links.entry(hop).or_default();
                if !link.knows(lane) && !came_from_there.contains(&hop) {
                    batches.values().for_each(|held| link.hold(*lane, *held, now));
                }
            }
        }
    }

    /// Takes a message from a caller or a room; it is sealed at the next [`Self::flush`].
    pub fn submit(&mut self, message: Outgoing) -> Result<(), Error> {
        self.check(std::slice::from_ref(&message))?;
        self.outbox.submit(self.me, message);
        self.counters.messages_submitted += 1;
        Ok(())
    }

    fn check(&self, messages: &[Outgoing]) -> Result<(), Error> {
        let used = |m: &&Outgoing| !self.used_ids.is_empty() && self.used_ids.contains(&id_digest(&m.attributes.id));
        match messages.iter().find(used) {
            Some(message) => Err(Error::UsedId { id: message.attributes.id.clone() }),
            None => self.outbox.check(self.me, &self.directory, messages),
        }
    }

    /// Bytes that wait to be sealed.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.outbox.pending()
    }

    /// The last batch of a lane of ours, one that was taken back and does not fit the chain any more included.
    pub(crate) fn newest_on_shelf(&self, lane: &Lane) -> Option<LanePosition> {
        self.shelf.get(lane)?.values().next_back().map(|held| held.end)
    }

    /// Seals what was submitted. The shell calls it once per drained queue of events, so that messages that arrive
    /// together share a batch, a signature and a commit.
    pub fn flush(&mut self, ctx: &mut Context<'_>) -> Result<(), Error> {
        let (parties, epochs) = ((self.me, &self.directory), (self.epoch, self.since()));
        let sealed = self.outbox.seal(parties, epochs, &self.keys, self.entropy.as_mut(), ctx.now)?;
        for batch in sealed {
            let record = ctx.out.record(kind::BATCH, record::batch_record(None, ctx.now, &batch.bytes));
            let (previous, bytes) = (batch.previous, batch.bytes.len() as u64);
            let after = self.newest_on_shelf(&batch.lane).unwrap_or(previous);
            let (end, chunks) = (batch.end, batch.chunks);
            let held = Held { record, previous, end, bytes, after, sealed_at: ctx.now, chunks };
            self.counters.batches_sealed += 1;
            self.provenance.took(batch.lane, &held, None, ctx.now, self.policy.provenance_batches);
            self.take(batch.lane, held, None, ctx.now);
            self.deliveries.watch(batch.lane, self.policy.retry_ms * 10, ctx.now);
            if batch.lane.destination == Destination::Authority(self.me) {
                // A message to ourselves takes the same way, without a hop.
                self.apply_lane(batch.lane, ctx)?;
            }
        }
        self.poll_links(ctx);
        Ok(())
    }

    /// Applies a local command's effect and submits what it sets off, in one append.
    pub fn command(
        &mut self,
        room: &str,
        effect: Vec<u8>,
        messages: Vec<Outgoing>,
        ctx: &mut Context<'_>,
    ) -> Result<RecordNumber, Error> {
        self.check(&messages)?;
        let number = self.stage_effect(None, room, Vec::new(), effect, ctx)?;
        for message in messages {
            self.outbox.submit(self.me, message);
            self.counters.messages_submitted += 1;
        }
        self.unblock(ctx)?;
        Ok(number)
    }

    /// A neighbour can be reached now. Who it is was proven by the transport's certificates; an inferior whose card has
    /// not arrived yet brings it over this very link.
    pub fn link_up(&mut self, peer: AuthorityId, up: LinkKind, ctx: &mut Context<'_>) {
        let limits = self.limits.get(&peer).cloned().unwrap_or_default();
        let link = self.links.entry(peer).or_default();
        link.pace = Pace::new(limits, ctx.now);
        link.paused = self.paused.contains(&Target::Link(peer));
        link.reset(Some(up), ctx.now);
        self.grant_first(peer, up, ctx);
        self.say_hello(peer, ctx);
    }

    /// Opens or closes the node for batches, and tells the neighbours. What is thrown away meanwhile stays in their custody.
    pub fn set_full(&mut self, full: bool, ctx: &mut Context<'_>) {
        if self.full == full {
            return;
        }
        self.full = full;
        let text = if full {
            "there is no room on the disk: nothing new is taken until there is"
        } else {
            "there is room on the disk again"
        };
        ctx.out.notices.push(Notice { code: "JC-1220", text: text.to_owned(), alarm: full });
        let up: Vec<AuthorityId> = self.links.iter().filter(|(_, l)| l.up.is_some()).map(|(peer, _)| *peer).collect();
        up.into_iter().for_each(|peer| self.say_intake(peer, ctx));
    }

    /// Whether the node is closed for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Says hello, and asks the peer for its own as long as that has not come.
    pub(crate) fn say_hello(&mut self, peer: AuthorityId, ctx: &mut Context<'_>) {
        let heard = self.links.get(&peer).is_some_and(|l| l.greeted);
        self.say_hello_as(peer, heard, ctx);
    }

    /// Says hello; a peer that was not `heard` answers with its own.
    fn say_hello_as(&mut self, peer: AuthorityId, heard: bool, ctx: &mut Context<'_>) {
        let spoken_in = self.links.get(&peer).map(|link| link.epoch).unwrap_or_default();
        let hello = Frame::Hello {
            low: PROTOCOL_VERSION,
            high: PROTOCOL_VERSION,
            authority: self.me,
            epoch: self.epoch,
            heard,
            known: self.known_epoch(peer),
            restored: self.catch_up.asks(peer, spoken_in),
        };
        ctx.out.send(peer, Priority::Control, Payload::Frame(hello.to_bytes()));
    }

    /// A neighbour cannot be reached any more.
    pub fn link_down(&mut self, peer: AuthorityId, now: Millis) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.reset(None, now);
        }
        self.grant_no_more(peer);
    }

    /// Time passes: receipts are signed, what got stuck is sent again. Call it every 50 ms or so.
    pub fn tick(&mut self, ctx: &mut Context<'_>) -> Result<(), Error> {
        if ctx.now < self.last_tick {
            // The clock went back: nobody waits for a time that will not come again for a day or a year.
            self.links.values_mut().for_each(|link| link.rebase(ctx.now));
            self.deliveries.rebase(ctx.now);
            self.catch_up.since = self.catch_up.since.min(ctx.now);
            self.pressed_at = self.pressed_at.min(ctx.now);
        }
        self.last_tick = ctx.now;
        self.share_out(ctx);
        // Before the lists, which need not say again what these say.
        self.issue_receipt_slots(ctx);
        let peers: Vec<AuthorityId> = self.links.keys().copied().collect();
        for peer in peers {
            self.sign_receipts(peer, ctx);
            let due = self.links.get_mut(&peer).and_then(|l| l.offers(ctx.now));
            if let Some(offer) = due {
                self.offer_slots(peer, offer, ctx);
            }
            if self.links.get_mut(&peer).is_some_and(|l| l.knocks(&self.policy, ctx.now)) {
                self.say_hello_as(peer, false, ctx);
            }
            if due.is_some() && self.links.get(&peer).is_some_and(|l| !l.greeted) {
                self.say_hello(peer, ctx);
            }
            if let Some(link) = self.links.get_mut(&peer)
                && link.up.is_some()
                && !link.full
            {
                self.counters.resends += link.retry(&self.policy, ctx.now);
            }
        }
        self.press(ctx);
        self.tell_ends(ctx);
        self.catch_up(ctx);
        self.tidy_shelf(ctx.now);
        // A room that met a fault of this machine, such as a full disk, is asked again.
        self.unblock(ctx)?;
        if self.chains.len() > SOFT_CHAINS {
            let (links, inbound) = (&self.links, &self.inbound);
            self.chains.retain(|lane, _| inbound.contains_key(lane) || links.values().any(|l| l.holds(lane)));
        }
        self.poll_links(ctx);
        Ok(())
    }

    /// Sends what windows allow.
    pub(crate) fn poll_links(&mut self, ctx: &mut Context<'_>) {
        for (peer, link) in &mut self.links {
            let gate = Gate { peer: *peer, tree: self.directory.tree(), paused: &self.paused };
            while let Some(ToSend { class, record, hop, bytes }) = link.next(&self.policy, gate, ctx.now) {
                self.counters.batches_sent += 1;
                self.counters.bytes_sent += bytes;
                link.sent = (link.sent.0 + 1, link.sent.1 + bytes);
                ctx.out.send(*peer, class, Payload::Batch { record, hop, bytes });
            }
            for (lane, held) in link.late_due(self.policy.retry_ms * 4, ctx.now) {
                ctx.out.send(*peer, lane.class, held.payload());
            }
            if let Some(demand) = link.demand(&self.policy, ctx.now) {
                ctx.out.send(*peer, Priority::Control, Payload::Frame(demand.to_bytes()));
            }
        }
    }

    pub(crate) fn bury(&mut self, letter: DeadLetter) {
        self.use_parts(&letter.used);
        if !letter.late {
            self.advance(letter.cause);
        }
        if let Some(inbound) = self.inbound.get_mut(&letter.cause.lane) {
            inbound.refusals += 1;
        }
        if self.dead_letters.len() == DEAD_LETTERS {
            self.dead_letters.pop_front();
        }
        self.dead_letters.push_back(letter);
    }

    /// The cursor of a lane moves past a message that was applied or refused.
    pub(crate) fn advance(&mut self, cause: Cause) {
        let Some(inbound) = self.inbound.get_mut(&cause.lane) else { return };
        inbound.applied = (cause.epoch, cause.sequence);
        inbound.blocked = None;
        if inbound.waiting.front().is_some_and(|held| held.end.key() == inbound.applied)
            && let Some(done) = inbound.waiting.pop_front()
        {
            inbound.applied_end = done.end;
            if inbound.waiting.is_empty() {
                self.waiting.remove(&cause.lane);
            }
            self.owe_receipt(cause.lane);
        }
    }

    /// The origin of a lane shall hear anew how far it is applied here.
    pub(crate) fn owe_receipt(&mut self, lane: Lane) {
        if lane.origin != self.me {
            self.receipts_due.insert(lane);
        }
    }

    /// Stages an effect and applies it.
    pub(crate) fn stage_effect(
        &mut self,
        cause: Option<Cause>,
        room: &str,
        used: Vec<Digest>,
        effect: Vec<u8>,
        ctx: &mut Context<'_>,
    ) -> Result<RecordNumber, Error> {
        if let Some(message) = cause
            && used.is_empty()
            && ![crate::apply::BULK, crate::trace::TRACE].contains(&room)
            && Effects::shares(&effect)
            && !mutated(Mutation::EffectWithoutCause)
        {
            let (number, offset) = ctx.out.effect(message, room, &effect);
            self.apply_shared(number, room, &Effect { cause, offset, bytes: &effect }, ctx.rooms)?;
            return Ok(number);
        }
        let record = EffectRecord { cause, room, used, effect: effect.as_slice().into() };
        let body = match mutated(Mutation::EffectWithoutCause) {
            true => record::to_body(&EffectRecord { cause: None, ..record.clone() }),
            false => record::to_body(&record),
        };
        let length = body.len();
        let number = ctx.out.record(kind::EFFECT, body);
        self.apply_effect(number, length, &record, ctx.rooms)?;
        Ok(number)
    }

    pub(crate) fn apply_shared(
        &mut self,
        number: RecordNumber,
        room: &str,
        effect: &Effect<'_>,
        rooms: &mut dyn Rooms,
    ) -> Result<(), Error> {
        let place = Place { number, offset: effect.offset, cause: effect.cause.map(|c| c.lane) };
        rooms.apply(&place, room, effect.bytes)?;
        effect.cause.into_iter().for_each(|cause| self.advance(cause));
        Ok(())
    }

    pub(crate) fn apply_effect(
        &mut self,
        number: RecordNumber,
        length: usize,
        record: &EffectRecord<'_>,
        rooms: &mut dyn Rooms,
    ) -> Result<(), Error> {
        if record.room == crate::apply::BULK {
            self.apply_part(record.effect)?;
        } else if record.room == crate::trace::TRACE {
            self.note_trace(record.effect)?;
        } else {
            // The effect is the record's last field, so it ends where the record ends.
            let offset = length - record.effect.len();
            let place = Place { number, offset, cause: record.cause.map(|c| c.lane) };
            rooms.apply(&place, record.room, record.effect)?;
        }
        self.use_parts(&record.used);
        if let Some(cause) = record.cause {
            self.advance(cause);
        }
        Ok(())
    }

    /// The hosted authority.
    #[must_use]
    pub fn authority(&self) -> AuthorityId {
        self.me
    }

    /// This run's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The authorities that are known.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The node's keys.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// The batch in a record, for sending it.
pub fn read_batch(log: &dyn Log, number: RecordNumber) -> Result<bytes::Bytes, Error> {
    let stored = log.read(number)?;
    let (_, start) = record::split_batch_record(&stored.payload)?;
    Ok(stored.payload.slice(start..))
}

/// The payload of a message that was verified when its batch was taken, from the record that holds that.
pub fn read_message(
    log: &dyn Log,
    (number, index): (RecordNumber, usize),
    (reader, keys): (AuthorityId, &KeyRing),
) -> Result<Vec<u8>, Error> {
    let batch = read_batch(log, number)?;
    let view = BatchView::parse(&batch)?.verified_before();
    let mut opener = view.opener(reader, keys)?;
    Ok(opener.open(&view, index)?.payload.to_vec())
}

/// Opens the exchange on an output of its own; see [`Exchange::open`].
pub fn open(
    setup: Setup,
    opening: Opening,
    snapshot: Option<(RecordNumber, &[u8])>,
    now: Millis,
    log: &dyn Log,
    rooms: &mut dyn Rooms,
) -> Result<(Exchange, Output), Error> {
    let mut out = Output::new(log.end() + 1);
    let exchange = Exchange::open(setup, opening, snapshot, &mut Context { now, log, rooms, out: &mut out })?;
    Ok((exchange, out))
}
