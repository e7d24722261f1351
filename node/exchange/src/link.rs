//! One neighbour: what is in custody for it, what is in flight, what we owe it.
//!
//! Custody of a batch ends with the neighbour's *signed* receipt and with nothing else; an unsigned «durable» only moves
//! the window. Whatever is in doubt after a reconnect is sent again: the other end tells duplicates by their digest.

use crate::credit::Credit;
use crate::frame::Waiting;
use crate::held::{Held, Key};
use crate::pace::Pace;
use crate::press::{Gate, Press};
use crate::{BatchState, Frame, HopOrder, PaceReason, Target};
use jincai_policies::LinkPolicy;
use jincai_types::{
    Destination, Epoch, Lane, LanePosition, Millis, Mutation, Priority, RecordNumber, Sequence, mutated,
};
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};

/// Pause before slots are offered a second time, in milliseconds; it grows fourfold each time.
const FIRST_OFFER: Millis = 4_000;
/// A peer that seems to have no room is asked after so many retry times whether that is still so.
const KNOCK: Millis = 4;
/// A lane was sent again so often in vain that it is not the link that it waits for.
const STUCK: u32 = 3;
/// Most lanes of which it is remembered what was asked for; asking again is all that forgetting costs.
pub(crate) const ASKED: usize = 10_000;
/// Most single batches to sign for; further ones come again.
pub(crate) const OWED_EXACTLY: usize = 10_000;
/// Most lanes of a class that are looked at to say what waits.
const LOOKED_AT: usize = 64;
/// Longest pause between two offers. A link that stays up has offered everything nine times by then, and what is asked
/// for in other ways too (a receipt, by its origin) does not wait for this one.
const LAST_OFFER: Millis = 86_400_000;

/// How a neighbour is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A live connection with frames both ways.
    Session,
    /// Files or queue entries that somebody fetches some time.
    Mailbox,
}

/// What one lane has in custody for this neighbour.
#[derive(Clone, Debug, Default)]
struct Queue {
    held: BTreeMap<Key, Held>,
    /// Bytes of all of them.
    bytes: u64,
    /// The end of the last batch sent since the link came up or was rewound.
    sent: Key,
    /// The end of the last batch that the neighbour said is durable.
    confirmed: Key,
    progress: Millis,
    patience: u32,
}

impl Queue {
    fn unsent(&self) -> Option<&Held> {
        self.held.range((std::ops::Bound::Excluded(self.sent), std::ops::Bound::Unbounded)).next().map(|(_, h)| h)
    }

    /// What the neighbour must hold before it takes a batch: what came before it at this hop, and whatever is in custody
    /// before it now, because a receipt for this batch ends custody of that too.
    fn comes_after(&self, held: &Held) -> LanePosition {
        let before = self.held.range(..held.end.key()).next_back().map(|(_, before)| before.end);
        before.filter(|before| before.key() > held.after.key()).unwrap_or(held.after)
    }

    fn bytes_between(&self, low: Key, high: Key) -> u64 {
        if low >= high {
            return 0;
        }
        let range = (std::ops::Bound::Excluded(low), std::ops::Bound::Included(high));
        self.held.range(range).map(|(_, h)| h.bytes).sum()
    }
}

/// In which way slots are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// By name: whoever lacks one says so.
    Names,
    /// Outright.
    Slots,
}

/// A link as a snapshot keeps it.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct SavedLink {
    #[n(0)]
    queues: Vec<(Lane, Vec<Held>)>,
    #[n(1)]
    late: Vec<(Lane, Held)>,
    #[n(2)]
    epoch: Epoch,
    #[n(3)]
    kept: Vec<(Lane, Held)>,
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToSend {
    pub(crate) class: Priority,
    pub(crate) record: RecordNumber,
    pub(crate) hop: HopOrder,
    pub(crate) bytes: u64,
}

/// A neighbour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) up: Option<LinkKind>,
    /// A session's peer has said hello in a version that we speak.
    pub(crate) greeted: bool,
    /// The peer speaks no version of ours: nothing is taken from it or sent to it.
    pub(crate) refused: bool,
    /// The peer has no room for batches.
    pub(crate) full: bool,
    /// Since when.
    pub(crate) full_since: Millis,
    /// When it last came up or went down.
    pub(crate) changed: Millis,
    /// An operator holds the link: no batch is sent.
    pub(crate) paused: bool,
    /// How fast it is sent to.
    pub(crate) pace: Pace,
    /// When the peer, which seems to have no room (for something), was last asked whether that is still so.
    knocked: Millis,
    /// When slots are offered again, and how long after that.
    offer: (Millis, Millis),
    /// How many of the slots offered last the neighbour may still want.
    pub(crate) offered: usize,
    /// What is held back on the way that leads through it.
    pub(crate) press: Press,
    queues: BTreeMap<Lane, Queue>,
    /// Bytes in custody on lanes to single authorities, by class.
    waiting: [u64; 4],
    /// What the peer lets us have in flight.
    pub(crate) credit: Credit,
    ready: [BTreeSet<Lane>; 4],
    served: [Option<Lane>; 4],
    in_flight: [u64; 4],
    /// Lanes whose receipts we have not signed yet.
    pub(crate) owed: BTreeMap<Lane, LanePosition>,
    /// Single batches to sign for: those that are no part of a lane's chain any more.
    pub(crate) owed_exactly: BTreeSet<(Lane, LanePosition)>,
    /// Batches that came late, in custody until the neighbour has signed for exactly them; and when to send them (again).
    late: BTreeMap<(Lane, Key), (Held, Millis)>,
    /// Batches of its own that the neighbour, which was set back, may ask back: kept until it has signed for each of them, or
    /// has caught up.
    kept: BTreeMap<(Lane, Key), Held>,
    /// The newest epoch in which the neighbour has spoken.
    pub(crate) epoch: Epoch,
    pub(crate) receipts_sent: Millis,
    pub(crate) last_batch: Millis,
    asked: BTreeMap<Lane, (LanePosition, Millis)>,
    /// Lanes of which the neighbour lacks something: they go on, whatever is held back, until nothing of them waits here.
    lacking: BTreeSet<Lane>,
    /// When the neighbour last signed for something.
    pub(crate) last_receipt: Millis,
    /// Batches sent to it since the start, repetitions included, and their bytes.
    pub(crate) sent: (u64, u64),
}

impl Link {
    /// Takes a batch into custody for this neighbour.
    pub(crate) fn hold(&mut self, lane: Lane, held: Held, now: Millis) {
        let queue = self.queues.entry(lane).or_default();
        if queue.held.is_empty() {
            queue.progress = now;
        }
        // What was lost upstream and comes again is older than what was sent already: start over from there.
        if held.end.key() <= queue.sent {
            let low = queue.confirmed.max(held.previous.key());
            self.in_flight[lane.class.index()] -= queue.bytes_between(low, queue.sent);
            queue.sent = held.previous.key();
            queue.confirmed = queue.confirmed.min(queue.sent);
        }
        let replaced = queue.held.insert(held.end.key(), held).map_or(0, |before| before.bytes);
        queue.bytes = queue.bytes + held.bytes - replaced;
        if matches!(lane.destination, Destination::Authority(_)) {
            let waiting = &mut self.waiting[lane.class.index()];
            *waiting = *waiting + held.bytes - replaced;
        }
        self.ready[lane.class.index()].insert(lane);
    }

    /// Takes a batch into custody that is no part of its lane's chain any more.
    pub(crate) fn hold_late(&mut self, lane: Lane, held: Held) {
        self.late.insert((lane, held.end.key()), (held, 0));
    }

    /// Keeps batches of the neighbour's own for it; whether that is more than before.
    pub(crate) fn keep(&mut self, own: Vec<(Lane, Held)>) -> bool {
        let before = self.kept.len();
        self.kept.extend(own.into_iter().map(|(lane, held)| ((lane, held.end.key()), held)));
        self.kept.len() > before
    }

    /// The neighbour has caught up and asks for nothing more.
    pub(crate) fn keep_nothing(&mut self) {
        self.kept.clear();
    }

    /// What is kept so.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&Lane, &Held)> {
        self.kept.iter().map(|((lane, _), held)| (lane, held))
    }

    /// The late batches that are to be sent now; each comes again after `pause`.
    pub(crate) fn late_due(&mut self, pause: Millis, now: Millis) -> Vec<(Lane, Held)> {
        if !self.takes_batches() {
            return Vec::new();
        }
        let due = self.late.iter_mut().filter(|(_, (_, at))| *at <= now || *at > now + pause);
        due.map(|((lane, _), (held, at))| {
            *at = now + pause;
            (*lane, *held)
        })
        .collect()
    }

    /// Says anew after which batch one in custody comes; `false` if it is not in custody.
    pub(crate) fn comes_after(&mut self, lane: &Lane, end: &LanePosition, after: LanePosition) -> bool {
        let held = self.queues.get_mut(lane).and_then(|q| q.held.get_mut(&end.key()));
        let Some(held) = held.filter(|held| held.end == *end) else { return false };
        if after.key() < held.after.key() {
            held.after = after;
        }
        true
    }

    /// Everything in custody: lane and batch.
    pub(crate) fn custody(&self) -> impl Iterator<Item = (&Lane, &Held)> {
        let queued = self.queues.iter().flat_map(|(lane, q)| q.held.values().map(move |h| (lane, h)));
        let late = self.late.iter().map(|((lane, _), (held, _))| (lane, held));
        queued.chain(late)
    }

    /// Everything of which the record must stay readable: what is in custody, and what is kept.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (&Lane, &Held)> {
        self.custody().chain(self.kept())
    }

    /// How far a batch in custody has come.
    pub(crate) fn state(&self, lane: &Lane, held: &Held) -> BatchState {
        let Some(queue) = self.queues.get(lane) else { return BatchState::Waiting };
        match held.end.key() {
            end if end <= queue.confirmed => BatchState::Confirmed,
            end if end <= queue.sent => BatchState::Sent,
            _ => BatchState::Waiting,
        }
    }

    /// Classes with something to send that wait for their time.
    pub(crate) fn paced(&self, now: Millis) -> Vec<(Priority, Millis, PaceReason)> {
        let ready = Priority::ALL.into_iter().filter(|class| !self.ready[class.index()].is_empty());
        ready.filter_map(|class| self.pace.waits(class, now).map(|(at, why)| (class, at, why))).collect()
    }

    /// What a snapshot keeps of the link: custody, late custody, and lanes that ever had something for the neighbour.
    pub(crate) fn save(&self) -> SavedLink {
        SavedLink {
            queues: self.queues.iter().map(|(lane, q)| (*lane, q.held.values().copied().collect())).collect(),
            late: self.late.iter().map(|((lane, _), (held, _))| (*lane, *held)).collect(),
            epoch: self.epoch,
            kept: self.kept.iter().map(|((lane, _), held)| (*lane, *held)).collect(),
        }
    }

    /// Takes back what [`Self::save`] gave.
    pub(crate) fn load(saved: SavedLink, now: Millis) -> Self {
        let mut link = Self { epoch: saved.epoch, ..Self::default() };
        for (lane, batches) in saved.queues {
            link.queues.entry(lane).or_default();
            batches.into_iter().for_each(|held| link.hold(lane, held, now));
        }
        saved.late.into_iter().for_each(|(lane, held)| link.hold_late(lane, held));
        link.keep(saved.kept);
        link
    }

    /// The batch with a message that is in custody for this neighbour.
    pub(crate) fn holding(&self, lane: &Lane, of: Key) -> Option<&Held> {
        let (_, held) = self.queues.get(lane)?.held.range(of..).next()?;
        held.contains(of).then_some(held)
    }

    /// Whether anything of the lane is in custody for this neighbour.
    pub(crate) fn holds(&self, lane: &Lane) -> bool {
        self.queues.get(lane).is_some_and(|q| !q.held.is_empty())
    }

    /// Whether a lane ever had something for this neighbour.
    pub(crate) fn knows(&self, lane: &Lane) -> bool {
        self.queues.contains_key(lane)
    }

    /// The last number that the neighbour confirmed, if anything of the lane is in custody.
    pub(crate) fn confirmed(&self, lane: &Lane) -> Option<Sequence> {
        let queue = self.queues.get(lane)?;
        let first = queue.held.values().next()?;
        Some(queue.confirmed.max(first.previous.key()).1)
    }

    /// Bytes in custody that the neighbour has confirmed and not signed for yet.
    pub(crate) fn confirmed_bytes(&self, lane: &Lane) -> u64 {
        self.queues.get(lane).map_or(0, |queue| queue.bytes_between(Key::default(), queue.confirmed))
    }

    /// Batches and bytes in custody.
    pub(crate) fn backlog(&self) -> (u64, u64) {
        self.custody().fold((0, 0), |(count, bytes), (_, h)| (count + 1, bytes + h.bytes))
    }

    /// Batches in custody per lane, for people.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (&Lane, usize, u64)> {
        self.queues.iter().map(|(lane, q)| (lane, q.held.len(), q.bytes))
    }

    /// Bytes in custody on lanes of a class to single authorities.
    pub(crate) fn waiting(&self, class: Priority) -> u64 {
        self.waiting[class.index()]
    }

    /// The link came up or went down: nothing is in flight any more.
    pub(crate) fn reset(&mut self, up: Option<LinkKind>, now: Millis) {
        self.up = up;
        self.changed = now;
        self.press.reset();
        self.greeted = up == Some(LinkKind::Mailbox);
        self.refused = false;
        self.full = false;
        self.offer = (now, FIRST_OFFER);
        self.offered = 0;
        self.credit = Credit::default();
        self.in_flight = [0; 4];
        self.asked.clear();
        self.lacking.clear();
        self.late.values_mut().for_each(|(_, at)| *at = 0);
        for (lane, queue) in &mut self.queues {
            queue.sent = Key::default();
            queue.confirmed = Key::default();
            queue.progress = now;
            if !queue.held.is_empty() {
                self.ready[lane.class.index()].insert(*lane);
            }
        }
    }

    fn takes_batches(&self) -> bool {
        self.up.is_some() && self.greeted && !self.refused && !self.full && !self.paused
    }

    /// A lane that was held goes on.
    pub(crate) fn resume(&mut self, lane: &Lane) {
        if self.holds(lane) {
            self.ready[lane.class.index()].insert(*lane);
        }
    }

    /// The neighbour lacks something of a lane, for itself or for a hop behind it that waits for nothing else.
    pub(crate) fn lacks(&mut self, lane: Lane) {
        if self.lacking.len() >= ASKED {
            self.lacking.clear();
        }
        self.lacking.insert(lane);
        self.resume(&lane);
    }

    /// Whether a lane waits for something else than the neighbour's disk or line, so that it must not keep others back: for an
    /// operator, for what the neighbour lacks, or, sent again and again in vain while the neighbour signs for others, for
    /// something further on.
    pub(crate) fn is_stuck(&self, lane: &Lane, paused: &BTreeSet<Target>, policy: &LinkPolicy, now: Millis) -> bool {
        let in_vain = self.queues.get(lane).is_some_and(|queue| queue.patience >= STUCK);
        let signs = now.saturating_sub(self.last_receipt) < policy.retry_ms << STUCK;
        paused.contains(&Target::Lane(*lane)) || self.lacking.contains(lane) || (in_vain && signs)
    }

    /// Every lane that is not held any more goes on.
    pub(crate) fn resume_all(&mut self) {
        for (lane, _) in self.queues.iter().filter(|(_, q)| !q.held.is_empty()) {
            self.ready[lane.class.index()].insert(*lane);
        }
    }

    /// Sends a lane, or all, again from what is in custody first, and patiently anew. Returns how many lanes.
    pub(crate) fn retry_now(&mut self, only: Option<Lane>, now: Millis) -> usize {
        let lanes: Vec<Lane> = self.queues.iter().filter(|(_, q)| !q.held.is_empty()).map(|(lane, _)| *lane).collect();
        let lanes: Vec<Lane> = lanes.into_iter().filter(|lane| only.is_none_or(|only| only == *lane)).collect();
        for lane in &lanes {
            self.rewind(lane, Key::default(), now);
            if let Some(queue) = self.queues.get_mut(lane) {
                queue.patience = 0;
            }
        }
        self.late.iter_mut().filter(|((lane, _), _)| only.is_none_or(|o| o == *lane)).for_each(|(_, (_, at))| *at = 0);
        lanes.len()
    }

    /// The peer says whether it has room. What it threw away while it had none is sent again.
    pub(crate) fn set_full(&mut self, full: bool, now: Millis) {
        if self.full && !full {
            let lanes: Vec<Lane> = self.queues.keys().copied().collect();
            lanes.iter().for_each(|lane| self.rewind(lane, Key::default(), now));
            self.late.values_mut().for_each(|(_, at)| *at = 0);
        }
        if full && !self.full {
            self.full_since = now;
        }
        self.full = full;
    }

    /// The next batch to send, most urgent class first, lanes of a class in turn, within the class's window.
    pub(crate) fn next(&mut self, policy: &LinkPolicy, gate: Gate<'_>, now: Millis) -> Option<ToSend> {
        if !self.takes_batches() {
            return None;
        }
        for class in Priority::ALL {
            let at = class.index();
            if self.ready[at].is_empty() || self.pace.waits(class, now).is_some() {
                continue;
            }
            let after = self.served[at].map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let turn =
                self.ready[at].range((after, std::ops::Bound::Unbounded)).next().or_else(|| self.ready[at].first());
            let Some(lane) = turn.copied() else { continue };
            let Some(queue) = self.queues.get_mut(&lane) else { continue };
            let lacking = self.lacking.contains(&lane);
            let unsent = queue.unsent().filter(|_| gate.is_open(&lane, &self.press, lacking));
            let Some(held) = unsent.copied() else {
                // It comes back with its next batch, or when it is released.
                self.ready[at].remove(&lane);
                return self.next(policy, gate, now);
            };
            if !self.credit.fits(class, self.in_flight[at], held.bytes, policy) {
                continue;
            }
            let floor = queue.held.values().next().map_or(held.previous, |first| first.previous);
            if queue.sent <= queue.confirmed {
                queue.progress = now;
            }
            queue.sent = held.end.key();
            self.in_flight[at] += held.bytes;
            self.pace.spend(class, held.bytes, now);
            self.served[at] = Some(lane);
            let hop = HopOrder { floor, after: queue.comes_after(&held) };
            return Some(ToSend { class, record: held.record, hop, bytes: held.bytes });
        }
        None
    }

    /// The neighbour says (unsigned) that it holds the lane durably up to here.
    pub(crate) fn confirm(&mut self, lane: &Lane, position: LanePosition, now: Millis) {
        let Some(queue) = self.queues.get_mut(lane) else { return };
        let key = position.key().min(queue.sent);
        if key > queue.confirmed {
            let low = queue.confirmed;
            self.in_flight[lane.class.index()] -= queue.bytes_between(low, key);
            queue.confirmed = key;
            queue.progress = now;
            queue.patience = 0;
        }
    }

    /// The neighbour signed for the lane up to here; returns whether custody of something ended. `Err` if what it signed
    /// is not what we sent.
    pub(crate) fn clear(&mut self, lane: &Lane, position: LanePosition, now: Millis) -> Result<bool, ()> {
        if let Some((held, _)) = self.late.get(&(*lane, position.key())) {
            if held.end.digest != position.digest {
                return Err(());
            }
            self.discard(lane, position);
            return Ok(true);
        }
        if self.kept.get(&(*lane, position.key())).is_some_and(|held| held.end == position) {
            self.kept.remove(&(*lane, position.key()));
            return Ok(false);
        }
        let Some(queue) = self.queues.get(lane) else { return Ok(false) };
        let first = queue.held.values().next();
        if first.is_none_or(|h| h.end.key() > position.key()) {
            return Ok(false);
        }
        match queue.held.get(&position.key()) {
            Some(held) if held.end.digest == position.digest => {}
            Some(_) => return Err(()),
            // It holds what we do not (we restarted, or hold only what it once lost): that says nothing of ours.
            None => return Ok(false),
        }
        self.confirm(lane, position, now);
        self.discard(lane, position);
        self.last_receipt = now;
        Ok(true)
    }

    /// Lets go of everything up to a position (a signed receipt, now or in the journal).
    pub(crate) fn discard(&mut self, lane: &Lane, position: LanePosition) {
        if self.late.remove(&(*lane, position.key())).is_some() {
            return;
        }
        let Some(queue) = self.queues.get_mut(lane) else { return };
        // Whatever of it was in flight is no longer.
        let flying = queue.bytes_between(queue.confirmed, queue.sent.min(position.key()));
        self.in_flight[lane.class.index()] -= flying;
        queue.confirmed = queue.confirmed.max(queue.sent.min(position.key()));
        let (epoch, sequence) = position.key();
        let rest = queue.held.split_off(&(epoch, sequence.saturating_add(1)));
        let gone: u64 = std::mem::replace(&mut queue.held, rest).values().map(|held| held.bytes).sum();
        queue.bytes -= gone;
        if matches!(lane.destination, Destination::Authority(_)) {
            self.waiting[lane.class.index()] -= gone;
        }
        if queue.held.is_empty() {
            self.lacking.remove(lane);
        }
        if queue.held.is_empty() && matches!(lane.destination, Destination::Authority(_)) {
            // A drained lane between two authorities costs a hop nothing; the next batch tells where it continues.
            self.queues.remove(lane);
            self.ready[lane.class.index()].remove(lane);
        }
    }

    /// Sends again from a position on; the caller has put whatever lies behind it into custody.
    pub(crate) fn rewind(&mut self, lane: &Lane, to: Key, now: Millis) {
        let Some(queue) = self.queues.get_mut(lane) else { return };
        if to < queue.sent {
            if !mutated(Mutation::LoseCredit) {
                self.in_flight[lane.class.index()] -= queue.bytes_between(queue.confirmed.max(to), queue.sent);
            }
            queue.sent = to;
            queue.confirmed = queue.confirmed.min(to);
            queue.progress = now;
            self.ready[lane.class.index()].insert(*lane);
        }
    }

    /// The earliest batch in custody of a lane.
    pub(crate) fn first_held(&self, lane: &Lane) -> Option<&Held> {
        self.queues.get(lane)?.held.values().next()
    }

    /// Rewinds lanes that made no progress for too long; the wait doubles each time. Returns how many.
    pub(crate) fn retry(&mut self, policy: &LinkPolicy, now: Millis) -> u64 {
        let stuck: Vec<Lane> = self
            .queues
            .iter()
            .filter(|(_, q)| !q.held.is_empty() && q.sent > Key::default())
            .filter(|(_, q)| now.saturating_sub(q.progress) >= self.patience_of(q, policy))
            // What was sent has arrived, and the rest waits for its time or for a window.
            .filter(|(lane, q)| {
                let may_go =
                    |held: &Held| self.pace.waits(lane.class, now).is_none() && self.fits(lane.class, held, policy);
                q.sent > q.confirmed || q.unsent().is_none_or(may_go)
            })
            .map(|(lane, _)| *lane)
            .collect();
        for lane in &stuck {
            self.rewind(lane, Key::default(), now);
            if let Some(queue) = self.queues.get_mut(lane) {
                queue.patience += 1;
                queue.progress = now;
            }
        }
        stuck.len() as u64
    }

    /// When the next tick would do something for this neighbour; see [`crate::Exchange::next_wake`].
    pub(crate) fn next_wake(&self, policy: &LinkPolicy, now: Millis) -> Option<Millis> {
        self.up?;
        if self.can_send(policy, now) {
            return Some(now);
        }
        let mut next = self.offer.0;
        next = self.credit.next_demand(self.waits(), self.flies()).into_iter().fold(next, Millis::min);
        let paced = Priority::ALL.into_iter().filter(|class| !self.ready[class.index()].is_empty());
        next = paced.filter_map(|class| self.pace.waits(class, now)).map(|(at, _)| at).fold(next, Millis::min);
        if !self.owed.is_empty() || !self.owed_exactly.is_empty() {
            let (due, idle) = (self.receipts_sent + policy.receipt_ms, self.last_batch + policy.receipt_ms / 5);
            next = next.min(due).min(idle);
        }
        if self.full || self.press.is_told() {
            next = next.min(if now < self.knocked { now } else { self.knocked + policy.retry_ms * KNOCK });
        }
        if self.full {
            return Some(next);
        }
        let stuck = self.queues.values().filter(|q| !q.held.is_empty() && q.sent > Key::default());
        let retries = stuck.map(|q| q.progress + self.patience_of(q, policy));
        let late = self.late.values().map(|(_, at)| *at).filter(|_| self.takes_batches());
        Some(retries.chain(late).fold(next, Millis::min))
    }

    /// Whether [`Self::next`] would give something.
    fn can_send(&self, policy: &LinkPolicy, now: Millis) -> bool {
        let waits = |lane: &Lane| self.queues.get(lane)?.unsent().filter(|held| self.fits(lane.class, held, policy));
        let may_go = |class: &Priority| self.pace.waits(*class, now).is_none();
        let mut classes = Priority::ALL.into_iter().filter(may_go);
        self.takes_batches() && classes.any(|c| self.ready[c.index()].iter().any(|lane| waits(lane).is_some()))
    }

    /// Whether a batch has room in the window of its class.
    fn fits(&self, class: Priority, held: &Held, policy: &LinkPolicy) -> bool {
        self.credit.fits(class, self.in_flight[class.index()], held.bytes, policy)
    }

    /// Whether something waits that could be sent if it fitted a window.
    fn waits(&self) -> bool {
        let unsent = |lane: &Lane| self.queues.get(lane).is_some_and(|queue| queue.unsent().is_some());
        self.takes_batches() && self.ready.iter().any(|lanes| lanes.iter().take(LOOKED_AT).any(unsent))
    }

    /// Whether something was sent that the peer has not said it holds.
    fn flies(&self) -> bool {
        self.in_flight.iter().any(|bytes| *bytes > 0)
    }

    /// What the peer is to hear about what waits here for want of a window; see [`crate::credit`].
    pub(crate) fn demand(&mut self, policy: &LinkPolicy, now: Millis) -> Option<Frame<'static>> {
        // Nothing is said before it is time to, and this is asked after every event.
        self.credit.granted?;
        let (waits, flies) = (self.waits(), self.flies());
        let mut credit = std::mem::take(&mut self.credit);
        let demand = credit.demand(waits, flies, now, || Priority::ALL.map(|class| self.demand_of(class, policy, now)));
        self.credit = credit;
        demand
    }

    fn demand_of(&self, class: Priority, policy: &LinkPolicy, now: Millis) -> Waiting {
        let (mut waiting, mut youngest) = (Waiting::default(), None);
        for queue in self.ready[class.index()].iter().take(LOOKED_AT).filter_map(|lane| self.queues.get(lane)) {
            let unsent = (std::ops::Bound::Excluded(queue.sent), std::ops::Bound::Unbounded);
            for (at, (_, held)) in queue.held.range(unsent).enumerate() {
                if at == 0 {
                    waiting.next = waiting.next.max(held.bytes);
                    youngest = youngest.max(Some(held.sealed_at));
                }
                waiting.bytes += held.bytes;
                if waiting.bytes > policy.window(class) {
                    break;
                }
            }
        }
        waiting.bytes += self.in_flight[class.index()];
        waiting.age = youngest.map_or(0, |sealed_at| now.saturating_sub(sealed_at));
        waiting
    }

    /// How long a lane may make no progress before it is sent again.
    fn patience_of(&self, queue: &Queue, policy: &LinkPolicy) -> Millis {
        let factor = if self.up == Some(LinkKind::Mailbox) { 4 } else { 1 };
        (policy.retry_ms * factor) << queue.patience.min(5)
    }

    /// The clock went back to `now`: what lies in the future is brought back to it.
    pub(crate) fn rebase(&mut self, now: Millis) {
        self.queues.values_mut().for_each(|queue| queue.progress = queue.progress.min(now));
        self.receipts_sent = self.receipts_sent.min(now);
        self.credit.rebase(now);
        self.last_batch = self.last_batch.min(now);
        self.offer.0 = self.offer.0.min(now + self.offer.1);
        self.asked.clear();
    }

    /// Whether slots are to be offered now: at link-up, then ever more rarely, because a transport may lose them.
    pub(crate) fn offers(&mut self, now: Millis) -> Option<Offer> {
        let (at, pause) = self.offer;
        let up = self.up.filter(|_| now >= at)?;
        self.offer = (now + pause, (pause * 4).min(LAST_OFFER));
        Some(if up == LinkKind::Mailbox && pause == FIRST_OFFER { Offer::Slots } else { Offer::Names })
    }

    /// Something that is said once was sent: offers begin anew, because it may get lost.
    pub(crate) fn offer_soon(&mut self, now: Millis) {
        self.offer = (now + FIRST_OFFER, FIRST_OFFER);
    }

    /// Whether to ask a peer that seems to have no room, or wants something held back, whether that is still so: its word
    /// that it has room again may be lost.
    pub(crate) fn knocks(&mut self, policy: &LinkPolicy, now: Millis) -> bool {
        let waited = now < self.knocked || now - self.knocked >= policy.retry_ms * KNOCK;
        if self.up.is_none() || !(self.full || self.press.is_told()) || !waited {
            return false;
        }
        self.knocked = now;
        true
    }

    /// The neighbour shall hear that exactly this batch is durable here.
    pub(crate) fn owe_exactly(&mut self, lane: Lane, end: LanePosition) {
        if self.owed_exactly.len() < OWED_EXACTLY {
            self.owed_exactly.insert((lane, end));
        }
    }

    /// The neighbour has been told, signed, that a lane is held up to here.
    pub(crate) fn owes_no_more(&mut self, lane: &Lane, position: LanePosition) {
        if self.owed.get(lane).is_some_and(|owed| owed.key() <= position.key()) {
            self.owed.remove(lane);
        }
    }

    /// Entries that only this run knows.
    pub(crate) fn remembered(&self) -> usize {
        self.owed.len() + self.owed_exactly.len() + self.asked.len() + self.lacking.len() + self.press.remembered()
    }

    /// Whether to ask (again) for what is missing after `have`: once per position and half a retry time.
    pub(crate) fn may_ask(&mut self, lane: Lane, have: LanePosition, policy: &LinkPolicy, now: Millis) -> bool {
        let asked = self.asked.get(&lane);
        let again = asked.is_none_or(|(at, when)| *at != have || now.saturating_sub(*when) >= policy.retry_ms / 2);
        if again {
            if self.asked.len() >= ASKED {
                self.asked.clear();
            }
            self.asked.insert(lane, (have, now));
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jincai_types::{AuthorityId, AuthorityTree, Digest};

    #[test]
    fn a_new_epoch_that_comes_again_still_comes_after_what_is_in_custody_before_it() {
        let lane: Lane = "100000000>110102000/control".parse().expect("lane");
        let end = |number: u64, sequence| LanePosition {
            epoch: Epoch { number, salt: 7 },
            sequence,
            digest: Digest([u8::try_from(number + sequence).expect("small"); 32]),
        };
        let held =
            |previous, end, after| Held { record: 1, previous, end, bytes: 100, after, sealed_at: 0, chunks: false };
        // The origin was set back to before the lane began, so its new epoch claims that nothing came before.
        let (forgotten, renewed) = (end(1, 2), end(2, 1));
        let mut link = Link { up: Some(LinkKind::Mailbox), greeted: true, ..Link::default() };
        link.hold(lane, held(end(1, 1), forgotten, end(1, 1)), 0);
        link.hold(lane, held(LanePosition::START, renewed, forgotten), 0);
        assert!(link.comes_after(&lane, &renewed, LanePosition::START), "it is in custody");
        let (policy, paused, tree) = (LinkPolicy::default(), BTreeSet::new(), AuthorityTree::default());
        let gate = Gate { peer: AuthorityId::MINISTRY, tree: &tree, paused: &paused };
        let mut next = || link.next(&policy, gate, 0).map(|sent| sent.hop.after);
        assert_eq!((next(), next(), next()), (Some(end(1, 1)), Some(forgotten), None));
    }
}
