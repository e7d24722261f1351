//! Back-pressure between four nodes: a ministry, a province, and two counties of which one has no room, is away or slow.

use super::operators::{Book, Desk};
use super::{NOW, authority};
use crate::{
    Context, Error, Exchange, Frame, HeldBack, LinkKind, Obstacle, Opening, Outgoing, Output, Payload, Person, Setup,
    Target, read_batch,
};
use jincai_crypto::{Card, CardChain, Directory, KeyRing, SeededEntropy};
use jincai_journal::Log;
use jincai_policies::LinkPolicy;
use jincai_types::{Attributes, AuthorityId, Destination, Lane, LanePosition, Millis, Priority};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const MINISTRY: usize = 0;
const PROVINCE: usize = 1;
/// The county that has trouble, and its neighbour that has none.
const COUNTY: usize = 2;
const OTHER: usize = 3;
const IDS: [&str; 4] = ["000000000", "110000000", "110102000", "110101000"];
const SHARE: u64 = 8 << 10;
const TICK: Millis = 100;

struct Node {
    exchange: Exchange,
    out: Output,
    book: Book,
    desk: Desk,
}

struct Net {
    nodes: Vec<Node>,
    now: Millis,
    wire: VecDeque<(usize, usize, Vec<u8>)>,
    /// Which frames are lost.
    loses: fn(usize, usize, &Frame<'_>) -> bool,
    /// Pairs whose link is down, the inferior first.
    down: BTreeSet<(usize, usize)>,
    sent: u64,
}

fn id(of: usize) -> AuthorityId {
    authority(IDS[of])
}

fn above(of: usize) -> Option<usize> {
    [None, Some(MINISTRY), Some(PROVINCE), Some(PROVINCE)][of]
}

fn enrolled() -> (Directory, Vec<KeyRing>) {
    let mut entropy = SeededEntropy::new(7);
    let (mut chains, mut rings): (Vec<CardChain>, Vec<KeyRing>) = (Vec::new(), Vec::new());
    let mut directory = None;
    for of in 0..IDS.len() {
        let ring = KeyRing::generate(&mut entropy).expect("seeded");
        let (keys, superior) = (ring.public().expect("well-formed"), above(of));
        let (serial, not_before, not_after) = (1, 0, NOW * 2);
        let card =
            Card { version: 1, authority: id(of), superior: superior.map(id), serial, keys, not_before, not_after };
        let signed = card.issue(superior.map_or(&ring.signing, |above| &rings[above].signing));
        let chain = superior.map(|above| chains[above].clone()).unwrap_or_default().with(signed);
        let directory = directory.get_or_insert_with(|| Directory::new(Directory::fingerprint(&card)));
        directory.add(&chain, NOW).expect("a chain just made verifies");
        chains.push(chain);
        rings.push(ring);
    }
    (directory.expect("made above"), rings)
}

impl Net {
    fn new() -> Self {
        let (directory, rings) = enrolled();
        let policy = LinkPolicy { share_bytes: [SHARE; 4], receipt_ms: 300, retry_ms: 1_000, ..LinkPolicy::default() };
        let node = |(of, keys): (usize, KeyRing)| {
            let entropy = Box::new(SeededEntropy::new(of as u64));
            let (directory, policy, limits) = (directory.clone(), policy.clone(), BTreeMap::new());
            let setup = Setup { authority: id(of), keys, entropy, directory, policy, limits };
            let (book, mut desk) = (Book::default(), Desk { open: true, met: true, ..Desk::default() });
            let opened = crate::open(setup, Opening::Unclean, None, NOW, &book, &mut desk);
            let (exchange, out) = opened.expect("opens");
            Node { exchange, out, book, desk }
        };
        let nodes = rings.into_iter().enumerate().map(node).collect();
        let (wire, down) = (VecDeque::new(), BTreeSet::new());
        let mut net = Self { nodes, now: NOW, wire, loses: |_, _, _| false, down, sent: 0 };
        (PROVINCE..=OTHER).for_each(|of| net.up(of, LinkKind::Session));
        net.run(2_000);
        net
    }

    /// The link of a node to its superior.
    fn up(&mut self, of: usize, kind: LinkKind) {
        let superior = above(of).expect("below somebody");
        self.down.remove(&(of, superior));
        self.with(of, |exchange, ctx| exchange.link_up(id(superior), kind, ctx));
        self.with(superior, |exchange, ctx| exchange.link_up(id(of), kind, ctx));
    }

    fn hang_up(&mut self, of: usize) {
        let superior = above(of).expect("below somebody");
        self.down.insert((of, superior));
        let now = self.now;
        self.nodes[of].exchange.link_down(id(superior), now);
        self.nodes[superior].exchange.link_down(id(of), now);
        self.wire.retain(|(from, to, _)| ![(of, superior), (superior, of)].contains(&(*from, *to)));
    }

    /// Acts; what that stages is durable at once, and what it sends is on the wire. Returns whether it did anything.
    fn with<T>(&mut self, of: usize, act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> T) -> (T, bool) {
        let node = &mut self.nodes[of];
        let mut ctx = Context { now: self.now, log: &node.book, rooms: &mut node.desk, out: &mut node.out };
        let done = act(&mut node.exchange, &mut ctx);
        let output = node.out.take();
        let stirred = !output.records.is_empty() || !output.sends.is_empty();
        node.book.0.extend(output.records);
        node.out.note_durable(node.book.end());
        for send in output.sends {
            let to = IDS.iter().position(|id| authority(id) == send.peer).expect("a neighbour");
            let bytes = match send.what {
                Payload::Frame(bytes) => bytes,
                Payload::Batch { record, hop, .. } => {
                    Frame::batch_bytes(&hop, &read_batch(&node.book, record).expect("a batch"))
                }
            };
            let lost = (self.loses)(of, to, &Frame::from_bytes(&bytes).expect("a frame"));
            if !lost && !self.down.contains(&(of, to)) && !self.down.contains(&(to, of)) {
                self.wire.push_back((of, to, bytes));
            }
        }
        (done, stirred)
    }

    fn run(&mut self, time: Millis) {
        for _ in 0..time / TICK {
            self.now += TICK;
            for (of, name) in IDS.iter().enumerate() {
                let node = &self.nodes[of];
                let sleeps = node.exchange.next_wake(self.now, &node.desk).is_none_or(|at| at > self.now);
                let (ticked, stirred) = self.with(of, Exchange::tick);
                ticked.expect("ticks");
                assert!(!(sleeps && stirred), "{name}: it would have slept through something that was due");
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, bytes)) = self.wire.pop_front() {
            self.with(to, |exchange, ctx| exchange.frame(id(from), &bytes, ctx)).0.expect("honest neighbours");
            self.with(to, Exchange::flush).0.expect("seals");
        }
    }

    /// The ministry takes a message of 1,000 bytes from a submitter, or refuses it.
    fn submit_to(&mut self, destination: Destination) -> Result<(), Error> {
        self.submit(destination, Priority::Record)
    }

    fn submit(&mut self, destination: Destination, class: Priority) -> Result<(), Error> {
        self.nodes[MINISTRY].exchange.admit(destination, class)?;
        self.sent += 1;
        let (id, source, kind) = (self.sent.to_string(), IDS[MINISTRY].into(), "a.message".into());
        let attributes = Attributes { id, source, kind, ..Attributes::default() };
        let message = Outgoing { destination, class, attributes, payload: vec![1; 1_000] };
        self.with(MINISTRY, |exchange, ctx| exchange.submit(message).and_then(|()| exchange.flush(ctx))).0?;
        self.deliver();
        Ok(())
    }

    fn full(&mut self, of: usize, full: bool) {
        self.with(of, |exchange, ctx| exchange.set_full(full, ctx));
        self.deliver();
    }

    /// Submits to the county until that is refused; the refusal.
    fn until_refused(&mut self) -> Error {
        for _ in 0..200 {
            if let Err(error) = self.submit_to(Destination::Authority(id(COUNTY))) {
                return error;
            }
            self.run(TICK);
        }
        panic!("nothing was refused: {:?}", self.waits(MINISTRY));
    }

    fn waits(&self, of: usize) -> Vec<String> {
        let links = self.nodes[of].exchange.links();
        links.iter().flat_map(|link| link.waits.iter().map(ToString::to_string)).collect()
    }

    fn applied(&self, of: usize) -> usize {
        self.nodes[of].desk.applied.len()
    }

    fn custody(&self, of: usize, peer: usize) -> u64 {
        let links = self.nodes[of].exchange.links();
        links.iter().find(|link| link.peer == id(peer)).map_or(0, |link| link.bytes)
    }

    fn settled(&self) -> bool {
        (0..IDS.len())
            .all(|of| self.waits(of).is_empty() && self.nodes[of].exchange.links().iter().all(|link| link.batches == 0))
    }
}

fn person() -> Person {
    Person { by: "Li".into(), reason: "a test".into() }
}

#[test]
fn a_full_county_is_named_at_every_hop_and_its_neighbour_goes_on() {
    let mut net = Net::new();
    net.full(COUNTY, true);
    let refused = net.until_refused();
    let Error::HeldBack { to, waits, share } = &refused else { panic!("{refused}") };
    assert_eq!((*to, waits.held.hop, waits.held.why), (id(COUNTY), id(COUNTY), Obstacle::Full));
    assert_eq!((waits.held.at, waits.said_by, *share), (id(PROVINCE), Some(id(PROVINCE)), SHARE));
    assert_eq!(refused.code(), "JC-1226");
    assert_eq!(net.waits(MINISTRY), ["waits for 110102000: its disk is full, said by 110000000"]);
    assert_eq!(net.waits(PROVINCE), ["waits for 110102000: its disk is full, said by 110102000"]);
    assert!(net.custody(PROVINCE, COUNTY) <= SHARE, "the origin keeps it: {}", net.custody(PROVINCE, COUNTY));
    let accepted = net.sent;
    for _ in 0..30 {
        net.submit_to(Destination::Authority(id(OTHER))).expect("others go on");
    }
    assert_eq!(net.applied(OTHER), 30, "without waiting for anybody");
    assert_eq!(net.applied(COUNTY), 0);
    net.submit(Destination::Authority(id(COUNTY)), Priority::Control).expect("each class has its own share");
    net.full(COUNTY, false);
    net.run(10_000);
    assert_eq!(net.applied(COUNTY) as u64, accepted + 1, "everything arrives once there is room");
    assert!(net.settled(), "{:?} {:?}", net.waits(MINISTRY), net.waits(PROVINCE));
    net.submit_to(Destination::Authority(id(COUNTY))).expect("it is taken again");
}

#[test]
fn group_lanes_are_never_held_back() {
    let mut net = Net::new();
    net.full(COUNTY, true);
    net.until_refused();
    for _ in 0..30 {
        net.submit_to(Destination::Below(id(MINISTRY))).expect("groups are not held back");
    }
    assert_eq!((net.applied(PROVINCE), net.applied(OTHER), net.applied(COUNTY)), (30, 30, 0));
    net.full(COUNTY, false);
    net.run(10_000);
    assert_eq!(net.applied(COUNTY) as u64, net.sent);
}

#[test]
fn what_waits_for_a_county_that_is_away_or_held_is_told_beyond_its_share_only() {
    let mut net = Net::new();
    let hold = Target::Link(id(COUNTY));
    net.with(PROVINCE, |exchange, ctx| exchange.hold(hold, person(), ctx)).0.expect("is held");
    let few = SHARE / 2 / 2_000;
    for _ in 0..few {
        net.submit_to(Destination::Authority(id(COUNTY))).expect("its share is not used up");
    }
    net.run(2_000);
    assert!(net.waits(MINISTRY).is_empty(), "{:?}", net.waits(MINISTRY));
    let refused = net.until_refused().to_string();
    let reason = "waits for 110102000: more than its share waits at 110000000";
    assert!(refused.contains(&format!("{reason}, said by 110000000")), "{refused}");
    assert_eq!(net.waits(PROVINCE), [reason]);
    net.hang_up(COUNTY);
    net.run(2_000);
    let reason = "waits for 110102000: it is away, and more than its share waits at 110000000";
    assert_eq!(net.waits(PROVINCE), [reason]);
    assert_eq!(net.waits(MINISTRY), [format!("{reason}, said by 110000000")]);
    net.up(COUNTY, LinkKind::Session);
    net.with(PROVINCE, |exchange, ctx| exchange.release(hold, person(), ctx)).0.expect("is released");
    net.run(10_000);
    assert_eq!(net.applied(COUNTY) as u64, net.sent);
    assert!(net.settled(), "{:?} {:?}", net.waits(MINISTRY), net.waits(PROVINCE));
}

#[test]
fn lost_words_are_said_again() {
    let mut net = Net::new();
    net.full(COUNTY, true);
    net.loses = |from, _, frame| from == PROVINCE && matches!(frame, Frame::Intake { .. });
    net.submit_to(Destination::Authority(id(COUNTY))).expect("nobody has heard");
    net.run(3_000);
    assert!(net.waits(MINISTRY).is_empty());
    net.loses = |_, _, _| false;
    net.submit_to(Destination::Authority(id(COUNTY))).expect("nobody has heard");
    assert_eq!(net.waits(MINISTRY).len(), 1, "said again to whoever goes on sending");
    net.loses = |from, _, frame| from == PROVINCE && matches!(frame, Frame::Intake { .. });
    net.full(COUNTY, false);
    net.run(3_000);
    assert_eq!(net.waits(MINISTRY).len(), 1, "nobody has heard that there is room");
    net.loses = |_, _, _| false;
    net.run(6_000);
    assert!(net.settled(), "it asks: {:?}", net.waits(MINISTRY));
}

/// Two hops once waited for each other: what a relay had could not be taken without what its origin held back.
#[test]
fn what_somebody_lacks_is_sent_although_it_is_held_back() {
    let mut net = Net::new();
    net.full(COUNTY, true);
    net.until_refused();
    net.run(10_000);
    assert!(net.custody(MINISTRY, PROVINCE) > 0);
    let lane = Lane { origin: id(MINISTRY), destination: Destination::Authority(id(COUNTY)), class: Priority::Record };
    let gap = Frame::Gap { lane, have: LanePosition::START }.to_bytes();
    net.with(MINISTRY, |exchange, ctx| exchange.frame(id(PROVINCE), &gap, ctx)).0.expect("is taken");
    net.run(3_000);
    assert_eq!(net.custody(MINISTRY, PROVINCE), 0, "all of it has gone");
    net.submit_to(Destination::Authority(id(COUNTY))).expect("nothing waits here");
    net.run(3_000);
    assert!(net.custody(MINISTRY, PROVINCE) > 0, "what comes later is held back again");
}

/// A lane that an operator holds waits for the operator: others go on.
#[test]
fn a_lane_that_waits_for_an_operator_keeps_no_other_back() {
    let mut net = Net::new();
    let lane = Lane { origin: id(MINISTRY), destination: Destination::Authority(id(COUNTY)), class: Priority::Record };
    net.with(PROVINCE, |exchange, ctx| exchange.hold(Target::Lane(lane), person(), ctx)).0.expect("is held");
    for _ in 0..3 * SHARE / 1_000 {
        net.submit_to(lane.destination).expect("it is no fault of the county's");
        net.run(TICK);
    }
    net.run(3_000);
    assert!(net.custody(PROVINCE, COUNTY) > SHARE);
    assert!(net.waits(MINISTRY).is_empty() && net.waits(PROVINCE).is_empty(), "{:?}", net.waits(PROVINCE));
}

#[test]
fn a_restarted_neighbour_has_to_say_it_again() {
    let mut net = Net::new();
    net.full(COUNTY, true);
    net.until_refused();
    net.hang_up(PROVINCE);
    net.run(1_000);
    let away = "waits for 110000000: it is away, and more than its share waits at 000000000";
    assert_eq!(net.waits(MINISTRY), [away]);
    net.up(PROVINCE, LinkKind::Session);
    net.run(2_000);
    assert_eq!(net.waits(MINISTRY), ["waits for 110102000: its disk is full, said by 110000000"]);
    net.submit_to(Destination::Authority(id(OTHER))).expect("others go on");
}

#[test]
fn a_liar_holds_back_only_what_leads_through_it_and_is_remembered_up_to_a_limit() {
    let mut net = Net::new();
    let held = |hop| HeldBack { hop, class: Priority::Record, why: Obstacle::Full, at: id(COUNTY), since: 1 };
    let strangers = (0..5_000).map(|n| authority(&format!("{:09}", 200_000_000 + n)));
    let lie: Vec<HeldBack> = strangers.chain((0..IDS.len()).map(id)).map(held).collect();
    let before = net.nodes[PROVINCE].exchange.remembered();
    for liar in [COUNTY, MINISTRY] {
        let frame = Frame::Intake { open: true, held: lie.clone() }.to_bytes();
        net.with(PROVINCE, |exchange, ctx| exchange.frame(id(liar), &frame, ctx)).0.expect("is taken");
    }
    assert_eq!(net.nodes[PROVINCE].exchange.remembered(), before + 2, "each has said it of itself");
    net.submit_to(Destination::Authority(id(OTHER))).expect("is taken");
    assert_eq!(net.applied(OTHER), 1);
    net.run(6_000);
    assert_eq!(net.waits(PROVINCE), Vec::<String>::new(), "they are asked, and take it back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever fills up, goes away, or is lost: once all is well again everything that was taken arrives, once and in
    /// order, and nothing is held back any more.
    #[test]
    fn nothing_that_was_taken_is_lost_or_held_for_ever(
        steps in prop::collection::vec((0_u8..8, 0_u64..20), 1..60),
    ) {
        let mut net = Net::new();
        let mut taken: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (what, much) in steps {
            match what {
                0 => net.full(COUNTY, true),
                1 => net.full(COUNTY, false),
                2 => net.full(PROVINCE, much % 2 == 0),
                3 => net.hang_up(COUNTY + (much % 2) as usize),
                4 => net.up(COUNTY + (much % 2) as usize, LinkKind::Session),
                5 => net.loses = if much % 2 == 0 { |_, _, frame| matches!(frame, Frame::Intake { .. }) } else { |_, _, _| false },
                6 => net.run(much * 200),
                _ => for n in 0..much {
                    let to = COUNTY + (n % 2) as usize;
                    if net.submit_to(Destination::Authority(id(to))).is_ok() {
                        taken.entry(to).or_default().push(net.sent.to_string());
                    }
                },
            }
        }
        net.loses = |_, _, _| false;
        (PROVINCE..=OTHER).for_each(|of| net.full(of, false));
        for of in [COUNTY, OTHER] {
            net.hang_up(of);
            net.up(of, LinkKind::Session);
        }
        net.run(120_000);
        prop_assert!(net.settled(), "{:?} {:?}", net.waits(MINISTRY), net.waits(PROVINCE));
        for to in [COUNTY, OTHER] {
            prop_assert_eq!(&net.nodes[to].desk.applied, &taken.remove(&to).unwrap_or_default());
        }
    }
}
