//! What operators decide: it takes effect, survives a restart, is recorded with a name, and is done once.

use super::{COUNTY, NOW, PROVINCE, authority, enrolled, sealed};
use crate::apply::APPLY_BYTES;
use crate::record::{Cause, kind};
use crate::room::{Decision, Delivery, Outgoing, Parts, Refusal, RoomError};
use crate::{
    Context, Error, Exchange, Frame, HopOrder, LinkKind, Opening, Output, PaceReason, Person, Place, Rooms, Setup,
    Target,
};
use jincai_crypto::SeededEntropy;
use jincai_journal::{Log, Record, Stored};
use jincai_policies::{ClassLimits, LinkLimits, LinkPolicy};
use jincai_types::{
    Attributes, AuthorityId, Destination, Lane, LanePosition, Millis, Priority, RecordNumber, Requirement,
};
use std::collections::BTreeMap;

/// A room that takes messages while it is open, and knows releases while they are `met`.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) open: bool,
    pub(super) met: bool,
    pub(super) applied: Vec<String>,
    /// By how much an effect is larger than it need be.
    pub(super) padding: usize,
}

impl Rooms for Desk {
    fn decide(&mut self, _: Millis, delivery: &Delivery<'_>, _: &dyn Parts) -> Option<(&'static str, Decision)> {
        let mut effect = delivery.attributes.id.clone().into_bytes();
        effect.resize(effect.len() + self.padding, 0);
        let decision = match self.open {
            true => Decision::Apply { effect, messages: Vec::new() },
            false => Decision::Refuse(Refusal { code: "JC-9999", reason: "the desk is closed".into() }),
        };
        Some(("desk", decision))
    }

    fn retake(&mut self, _: &Delivery<'_>, _: &dyn Parts) -> Option<(&'static str, Vec<u8>)> {
        None
    }

    fn apply(&mut self, _: &Place, _: &str, effect: &[u8]) -> Result<(), RoomError> {
        self.applied.push(String::from_utf8_lossy(effect).trim_end_matches('\0').into());
        Ok(())
    }

    fn meets(&self, _: &Requirement) -> Option<bool> {
        Some(self.met)
    }
}

/// A journal in memory.
#[derive(Default)]
pub(super) struct Book(pub(super) Vec<Record>);

impl Log for Book {
    fn read(&self, number: RecordNumber) -> Result<Stored, jincai_journal::Error> {
        let last = self.0.len() as u64;
        let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let record = at.and_then(|at| self.0.get(at)).ok_or(jincai_journal::Error::NoRecord { number, last })?;
        Ok(Stored { number, kind: record.kind, payload: record.payload.clone() })
    }

    fn replay(
        &self,
        from: RecordNumber,
        each: &mut dyn FnMut(Stored) -> Result<(), jincai_journal::Error>,
    ) -> Result<(), jincai_journal::Error> {
        (from..=self.end()).try_for_each(|number| each(self.read(number)?))
    }

    fn end(&self) -> RecordNumber {
        self.0.len() as u64
    }
}

/// The province, with the ministry above it.
pub(super) struct Node {
    pub(super) exchange: Exchange,
    out: Output,
    book: Book,
    pub(super) desk: Desk,
    pub(super) now: Millis,
}

fn open(book: &Book, desk: &mut Desk, opening: Opening) -> (Exchange, Output) {
    let mut entropy = SeededEntropy::new(7);
    let (directory, [_, keys, _]) = enrolled(&mut entropy);
    let (authority, policy) = (authority(PROVINCE), LinkPolicy::default());
    let setup = Setup { authority, keys, entropy: Box::new(entropy), directory, policy, limits: BTreeMap::new() };
    crate::open(setup, opening, None, NOW, book, desk).expect("opens")
}

impl Node {
    fn new() -> Self {
        Self::opened(Opening::Unclean)
    }

    /// One without a record so far.
    pub(super) fn opened(opening: Opening) -> Self {
        let (book, mut desk) = (Book::default(), Desk::default());
        let (exchange, out) = open(&book, &mut desk, opening);
        let mut node = Self { exchange, out, book, desk, now: NOW };
        node.with(|_, _| ());
        node
    }

    /// Acts, and appends what that stages; returns the frames that leave.
    pub(super) fn with<T>(&mut self, act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> T) -> (T, usize) {
        let mut ctx = Context { now: self.now, log: &self.book, rooms: &mut self.desk, out: &mut self.out };
        let done = act(&mut self.exchange, &mut ctx);
        let output = self.out.take();
        self.book.0.extend(output.records);
        self.out.note_durable(self.book.end());
        let batches = output.sends.iter().filter(|send| matches!(send.what, crate::Payload::Batch { .. })).count();
        (done, batches)
    }

    /// As after a restart: the same journal, and a room that knows nothing yet.
    pub(super) fn restart(&mut self) {
        let (open_now, met) = (self.desk.open, self.desk.met);
        self.desk = Desk { open: open_now, met, ..Desk::default() };
        (self.exchange, self.out) = open(&self.book, &mut self.desk, Opening::Clean);
        self.with(|_, _| ());
    }

    fn send(&mut self, to: AuthorityId, id: &str, requires: Vec<Requirement>) -> usize {
        let attributes = Attributes {
            id: id.into(),
            source: PROVINCE.into(),
            kind: "desk".into(),
            requires,
            ..Attributes::default()
        };
        let (destination, class) = (Destination::Authority(to), Priority::Record);
        let message = Outgoing { destination, class, attributes, payload: b"text".to_vec() };
        let sent = self.with(|exchange, ctx| exchange.submit(message).and_then(|()| exchange.flush(ctx)));
        sent.0.expect("is taken");
        sent.1
    }

    fn link(&mut self) {
        let ministry = AuthorityId::MINISTRY;
        self.with(|exchange, ctx| exchange.link_up(ministry, LinkKind::Mailbox, ctx));
    }
}

fn person() -> Person {
    Person { by: "Li".into(), reason: "as the audit wants".into() }
}

fn lane(to: AuthorityId) -> Lane {
    Lane { origin: authority(PROVINCE), destination: Destination::Authority(to), class: Priority::Record }
}

fn first_letter(node: &Node) -> Cause {
    node.exchange.dead_letters().next().expect("a dead letter").cause
}

#[test]
fn a_dead_letter_is_applied_once_when_its_cause_is_mended() {
    let mut node = Node::new();
    node.send(authority(PROVINCE), "m1", Vec::new());
    let cause = first_letter(&node);
    let refused = node.with(|exchange, ctx| exchange.replay_letter(cause, person(), ctx)).0;
    assert!(matches!(refused, Err(Error::StillRefused { code: "JC-9999", .. })), "{refused:?}");
    node.desk.open = true;
    let nameless = Person { by: " ".into(), reason: "x".into() };
    let refused = node.with(|exchange, ctx| exchange.replay_letter(cause, nameless, ctx)).0;
    assert!(matches!(refused, Err(Error::NoReason)), "{refused:?}");
    let cursors = node.exchange.cursors();
    node.with(|exchange, ctx| exchange.replay_letter(cause, person(), ctx)).0.expect("is taken now");
    assert_eq!((&node.desk.applied[..], node.exchange.dead_letters().count()), (&["m1".to_owned()][..], 0));
    assert_eq!(node.exchange.cursors(), cursors, "it comes out of its order");
    assert_eq!(node.book.0.last().map(|record| record.kind), Some(kind::REPLAYED));
    let again = node.with(|exchange, ctx| exchange.replay_letter(cause, person(), ctx)).0;
    assert!(matches!(again, Err(Error::NoLetter { .. })), "{again:?}");
    node.restart();
    assert_eq!((&node.desk.applied[..], node.exchange.dead_letters().count()), (&["m1".to_owned()][..], 0));
    node.send(authority(PROVINCE), "m2", Vec::new());
    assert_eq!(node.desk.applied, ["m1", "m2"]);
}

#[test]
fn a_dropped_dead_letter_is_gone_after_a_restart_too() {
    let mut node = Node::new();
    node.send(authority(PROVINCE), "m1", Vec::new());
    let cause = first_letter(&node);
    node.with(|exchange, ctx| exchange.drop_letter(cause, person(), ctx)).0.expect("dropped");
    assert_eq!(node.exchange.dead_letters().count(), 0);
    node.restart();
    assert_eq!(node.exchange.dead_letters().count(), 0);
}

#[test]
fn what_a_lane_waits_with_is_refused_by_name_and_the_lane_goes_on() {
    let mut node = Node::new();
    node.desk.open = true;
    let here = lane(authority(PROVINCE));
    let nothing = node.with(|exchange, ctx| exchange.refuse_waiting(here, person(), ctx)).0;
    assert!(matches!(nothing, Err(Error::NothingWaits { .. })), "{nothing:?}");
    node.send(authority(PROVINCE), "m1", vec![Requirement::Release { line: "national".into(), number: 9 }]);
    node.send(authority(PROVINCE), "m2", Vec::new());
    assert!(node.desk.applied.is_empty(), "both wait");
    node.with(|exchange, ctx| exchange.refuse_waiting(here, person(), ctx)).0.expect("refused");
    assert_eq!(node.desk.applied, ["m2"]);
    node.restart();
    assert_eq!(node.desk.applied, ["m2"]);
    let letter = node.exchange.dead_letters().next().expect("a dead letter").clone();
    assert_eq!((letter.id.as_str(), letter.code.as_str()), ("m1", "JC-1223"));
    assert!(letter.reason.contains("Li") && letter.reason.contains("as the audit wants"), "{}", letter.reason);
}

#[test]
fn a_held_link_sends_nothing_until_it_is_released() {
    let (ministry, mut node) = (AuthorityId::MINISTRY, Node::new());
    node.link();
    assert_eq!(node.send(ministry, "m1", Vec::new()), 1);
    let unknown = Target::Link(authority("990000000"));
    let refused = node.with(|exchange, ctx| exchange.hold(unknown, person(), ctx)).0;
    assert!(matches!(refused, Err(Error::NotANeighbour(_))), "{refused:?}");
    for target in [Target::Link(ministry), Target::Lane(lane(ministry))] {
        node.with(|exchange, ctx| exchange.hold(target, person(), ctx)).0.expect("held");
        assert_eq!(node.send(ministry, &format!("held by {target}"), Vec::new()), 0);
        node.restart();
        node.link();
        assert_eq!(node.with(|exchange, ctx| exchange.tick(ctx)).1, 0, "{target} is held after a restart too");
        let (released, batches) = node.with(|exchange, ctx| exchange.release(target, person(), ctx));
        released.expect("released");
        assert!(batches > 0, "what waited goes at once");
        let again = node.with(|exchange, ctx| exchange.release(target, person(), ctx)).0;
        assert!(matches!(again, Err(Error::NotHeld { .. })), "{again:?}");
    }
}

/// A neighbour whose card has not come exists from the moment its link is up only: the hold was there before it.
#[test]
fn a_hold_counts_for_a_neighbour_that_is_met_after_a_restart() {
    let (ministry, mut node) = (AuthorityId::MINISTRY, Node::new());
    node.link();
    node.with(|exchange, ctx| exchange.hold(Target::Link(ministry), person(), ctx)).0.expect("held");
    node.restart();
    node.exchange.links.clear();
    node.link();
    assert_eq!(node.send(ministry, "m1", Vec::new()), 0);
    assert!(node.exchange.links().iter().any(|link| link.peer == ministry && link.paused));
}

#[test]
fn a_held_lane_is_not_applied_until_it_is_released() {
    let mut node = Node::new();
    node.desk.open = true;
    let target = Target::Lane(lane(authority(PROVINCE)));
    node.with(|exchange, ctx| exchange.hold(target, person(), ctx)).0.expect("held");
    node.send(authority(PROVINCE), "m1", Vec::new());
    node.restart();
    assert!(node.desk.applied.is_empty());
    // It once kept the node awake for as long as it was held.
    let woken = node.with(|exchange, ctx| exchange.tick(ctx).map(|()| exchange.next_wake(ctx.now, ctx.rooms))).0;
    assert!(woken.expect("ticks").is_none_or(|at| at > node.now), "nothing is to be done");
    node.with(|exchange, ctx| exchange.release(target, person(), ctx)).0.expect("released");
    assert_eq!(node.desk.applied, ["m1"]);
}

#[test]
fn messages_that_are_given_up_leave_custody_and_the_lane_goes_on() {
    let (ministry, mut node) = (AuthorityId::MINISTRY, Node::new());
    let up = lane(ministry);
    let own = node.with(|exchange, ctx| exchange.give_up(lane(authority(PROVINCE)), 9, person(), ctx)).0;
    assert!(matches!(own, Err(Error::NotOurs { .. })), "{own:?}");
    for id in ["m1", "m2", "m3"] {
        node.send(ministry, id, Vec::new());
    }
    let given_up = node.with(|exchange, ctx| exchange.give_up(up, 2, person(), ctx)).0.expect("given up");
    assert_eq!(given_up.map(|(from, to)| (from.sequence, to.sequence)), Some((0, 2)));
    let held = |node: &Node| {
        let queue = node.exchange.queue(ministry, None, 10, &|record| node.book.read(record)).expect("a neighbour");
        queue.into_iter().map(|batch| batch.messages[0].1.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(held(&node), ["m3"]);
    node.restart();
    assert_eq!(held(&node), ["m3"]);
    assert_eq!(node.exchange.gone_after(&up, (Default::default(), 0)).map(|to| to.sequence), Some(2));
    let again = node.with(|exchange, ctx| exchange.give_up(up, 2, person(), ctx)).0.expect("nothing is left");
    assert_eq!(again, None);
}

/// The county's batch of one message behind `previous`, as a frame.
fn batch(previous: LanePosition, id: &str) -> (Vec<u8>, LanePosition) {
    let to = authority(PROVINCE);
    let lane = Lane { origin: authority(COUNTY), destination: Destination::Authority(to), class: Priority::Record };
    let (bytes, end) = sealed(lane, to, previous, ("desk", id));
    (Frame::batch_bytes(&HopOrder { floor: previous, after: previous }, &bytes), end)
}

#[test]
fn a_forked_lane_goes_on_with_its_first_branch_when_it_is_released() {
    let mut node = Node::new();
    node.desk.open = true;
    let county = authority(COUNTY);
    let hear = |node: &mut Node, frame: &[u8]| node.with(|exchange, ctx| exchange.frame(county, frame, ctx)).0;
    let (first, end) = batch(LanePosition::START, "m1");
    let (other, _) = batch(LanePosition::START, "forged");
    let (next, _) = batch(end, "m2");
    hear(&mut node, &first).expect("is taken");
    assert!(matches!(hear(&mut node, &other), Err(Error::Fork { .. })));
    assert!(matches!(hear(&mut node, &next), Err(Error::Fork { .. })), "the lane is held");
    node.restart();
    assert!(matches!(hear(&mut node, &next), Err(Error::Fork { .. })), "after a restart too");
    let lane =
        Lane { origin: county, destination: Destination::Authority(authority(PROVINCE)), class: Priority::Record };
    node.with(|exchange, ctx| exchange.release(Target::Lane(lane), person(), ctx)).0.expect("released");
    node.restart();
    hear(&mut node, &next).expect("the branch that came first goes on");
    assert_eq!(node.desk.applied, ["m1", "m2"]);
    assert!(matches!(hear(&mut node, &other), Err(Error::Fork { .. })), "the other one is a fork as before");
}

/// What waits is applied in steps: all of it in one commit once was more than the journal takes, and stopped the node again after
/// every restart.
#[test]
fn however_much_waits_a_step_stages_no_more_than_a_commit_takes() {
    let mut node = Node::new();
    (node.desk.open, node.desk.padding) = (true, 1 << 20);
    let target = Target::Lane(lane(authority(PROVINCE)));
    node.with(|exchange, ctx| exchange.hold(target, person(), ctx)).0.expect("held");
    for number in 10..50 {
        node.send(authority(PROVINCE), &format!("m{number}"), Vec::new());
    }
    let mut staged = |act: &mut dyn FnMut(&mut Exchange, &mut Context<'_>)| {
        let before = node.book.0.len();
        node.with(|exchange, ctx| act(exchange, ctx));
        let bytes: usize = node.book.0[before..].iter().map(|record| record.payload.len()).sum();
        (bytes, node.desk.applied.len(), node.exchange.next_wake(node.now, &node.desk) == Some(node.now))
    };
    let mut steps = vec![staged(&mut |exchange, ctx| exchange.release(target, person(), ctx).expect("goes on"))];
    while steps.last().is_some_and(|(_, applied, _)| *applied < 40) {
        assert!(steps.last().is_some_and(|(.., at_once)| *at_once), "the rest is due: {steps:?}");
        steps.push(staged(&mut |exchange, ctx| exchange.tick(ctx).expect("ticks")));
    }
    assert!(steps.iter().all(|(bytes, ..)| *bytes <= APPLY_BYTES + (2 << 20)), "{steps:?}");
    assert!(node.desk.applied.is_sorted());
}

/// A link of 2,000 bytes a second for records, and files at night only: urgent messages do not wait, the others come at their
/// pace, and nothing is sent a second time while it waits for its time.
#[test]
fn a_limited_link_is_sent_to_at_its_pace() {
    let (ministry, mut node) = (AuthorityId::MINISTRY, Node::new());
    let windows = vec!["20:00-06:00".to_owned().try_into().expect("a window")];
    let limits = LinkLimits {
        record: ClassLimits { bytes_per_second: 2_000, windows: Vec::new() },
        bulk: ClassLimits { bytes_per_second: 0, windows },
        ..LinkLimits::default()
    };
    let opens = limits.opens_at(Priority::Bulk, NOW);
    assert!(opens > NOW, "the test's day is a day");
    node.exchange.limits.insert(ministry, limits);
    node.link();
    let mut sent: usize = (0..20).map(|number| node.send(ministry, &format!("m{number}"), Vec::new())).sum();
    let held = node.exchange.links().into_iter().find(|link| link.peer == ministry).expect("a neighbour");
    let bytes = held.bytes / held.batches;
    let in_a_second = (2_000 / bytes) as usize;
    assert!((1..=in_a_second + 1).contains(&sent), "{sent} batches of {bytes} bytes at once");
    for (class, expected) in [(Priority::Control, 1), (Priority::Bulk, 0)] {
        let attributes = Attributes {
            id: class.name().into(),
            source: PROVINCE.into(),
            kind: "desk".into(),
            ..Attributes::default()
        };
        let destination = Destination::Authority(ministry);
        let message = Outgoing { destination, class, attributes, payload: b"text".to_vec() };
        let out = node.with(|exchange, ctx| exchange.submit(message).and_then(|()| exchange.flush(ctx))).1;
        assert_eq!(out, expected, "{}", class.name());
    }
    let held = node.exchange.links().into_iter().find(|link| link.peer == ministry).expect("a neighbour");
    let paced: Vec<_> = held.paced.iter().map(|(class, _, why)| (*class, *why)).collect();
    assert_eq!(paced, [(Priority::Record, PaceReason::Rate), (Priority::Bulk, PaceReason::Window)]);
    let mut seconds = 0;
    while sent < 20 {
        node.now += 1_000;
        seconds += 1;
        let now = node.with(|exchange, ctx| exchange.tick(ctx)).1;
        assert!(now <= in_a_second + 1, "{now} batches of {bytes} bytes in a second");
        sent += now;
    }
    assert_eq!(sent, 20, "each once, in {seconds} s");
    assert!(seconds >= 20 / (in_a_second + 1) - 1, "{seconds} s");
    node.now = opens;
    assert!(node.with(|exchange, ctx| exchange.tick(ctx)).1 > 0, "the night has come");
}
