//! What a peer may make a node remember, whatever it says: every kind of it has a limit; and what a destination may make
//! its origin believe.

mod operators;
mod press;
mod restore;

use crate::gaps::WANTED;
use crate::link::{ASKED, OWED_EXACTLY};
use crate::{
    Context, Decision, Delivery, Exchange, Frame, LinkKind, Opening, Outgoing, Output, Parts, Payload, Place, Receipt,
    RoomError, Rooms, Setup, SlotValue, record,
};
use jincai_crypto::{
    BatchView, Card, CardChain, Directory, KeyRing, Purpose, Recipient, SealInput, SeededEntropy, seal, sign,
};
use jincai_journal::{Error, Log, Stored};
use jincai_policies::LinkPolicy;
use jincai_types::{
    Attributes, AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Millis, Priority, Requirement, encode,
};
use std::collections::BTreeMap;

const NOW: Millis = 1_800_000_000_000;
const PROVINCE: &str = "110000000";
const COUNTY: &str = "110101000";

/// No room takes anything.
struct NoRooms;

impl Rooms for NoRooms {
    fn decide(&mut self, _: Millis, _: &Delivery<'_>, _: &dyn Parts) -> Option<(&'static str, Decision)> {
        None
    }

    fn retake(&mut self, _: &Delivery<'_>, _: &dyn Parts) -> Option<(&'static str, Vec<u8>)> {
        None
    }

    fn apply(&mut self, _: &Place, _: &str, _: &[u8]) -> Result<(), RoomError> {
        Ok(())
    }

    fn meets(&self, _: &Requirement) -> Option<bool> {
        None
    }
}

/// A journal without records.
struct Empty;

impl Log for Empty {
    fn read(&self, number: u64) -> Result<Stored, Error> {
        Err(Error::NoRecord { number, last: 0 })
    }

    fn replay(&self, _: u64, _: &mut dyn FnMut(Stored) -> Result<(), Error>) -> Result<(), Error> {
        Ok(())
    }

    fn end(&self) -> u64 {
        0
    }
}

fn authority(id: &str) -> AuthorityId {
    id.parse().expect("an id")
}

/// The keys of the ministry, a province and a county, each below the one before, and everybody's cards.
fn enrolled(entropy: &mut SeededEntropy) -> (Directory, [KeyRing; 3]) {
    let mut chain = CardChain::default();
    let mut rings: Vec<KeyRing> = Vec::new();
    let mut directory = None;
    let mut superior = None;
    for id in [AuthorityId::MINISTRY, authority(PROVINCE), authority(COUNTY)] {
        let ring = KeyRing::generate(entropy).expect("seeded");
        let keys = ring.public().expect("well-formed");
        let card = Card { version: 1, authority: id, superior, serial: 1, keys, not_before: 0, not_after: NOW * 2 };
        chain = chain.with(card.issue(rings.last().map_or(&ring.signing, |above| &above.signing)));
        let directory = directory.get_or_insert_with(|| Directory::new(Directory::fingerprint(&card)));
        directory.add(&chain, NOW).expect("a chain just made verifies");
        rings.push(ring);
        superior = Some(id);
    }
    (directory.expect("made above"), rings.try_into().unwrap_or_else(|_| unreachable!("three")))
}

/// A batch of one message behind `previous`, sealed by the lane's origin for one reader.
fn sealed(
    lane: Lane,
    reader: AuthorityId,
    previous: LanePosition,
    (kind, id): (&str, &str),
) -> (Vec<u8>, LanePosition) {
    let mut entropy = SeededEntropy::new(7);
    let (directory, [ministry, province, county]) = enrolled(&mut entropy);
    let keys = match lane.origin {
        AuthorityId::MINISTRY => ministry,
        origin if origin == authority(PROVINCE) => province,
        _ => county,
    };
    let source = lane.origin.to_string();
    let attributes = Attributes { id: id.into(), source, kind: kind.into(), ..Attributes::default() };
    let card = directory.card(reader).expect("enrolled");
    let recipients = [Recipient { authority: reader, key: card.encryption() }];
    let (epoch, first) = (Epoch { number: NOW, salt: 5 }, previous.sequence + 1);
    let messages = [(encode(&attributes), b"text".to_vec())];
    let input = SealInput { lane, epoch, first, previous, messages: &messages, recipients: &recipients, now: NOW };
    let (bytes, end) = seal(&input, &keys, &mut entropy).expect("sealed");
    assert!(BatchView::parse(&bytes).is_ok());
    (bytes, end)
}

/// A province between the ministry and a county, whose keys a bad neighbour has.
struct Node {
    exchange: Exchange,
    out: Output,
    now: Millis,
    county: KeyRing,
}

impl Node {
    fn new(opening: Opening) -> Self {
        let mut entropy = SeededEntropy::new(7);
        let (directory, [_, keys, county]) = enrolled(&mut entropy);
        let (entropy, policy) = (Box::new(entropy), LinkPolicy::default());
        let setup = Setup { authority: authority(PROVINCE), keys, entropy, directory, policy, limits: BTreeMap::new() };
        let (exchange, out) = crate::open(setup, opening, None, NOW, &Empty, &mut NoRooms).expect("opens");
        let mut node = Self { exchange, out, now: NOW, county };
        for peer in [AuthorityId::MINISTRY, authority(COUNTY)] {
            node.with(|exchange, ctx| exchange.link_up(peer, LinkKind::Session, ctx));
            let epoch = Epoch { number: NOW, salt: 3 };
            let known = Epoch::default();
            let hello = Frame::Hello { low: 1, high: 1, authority: peer, epoch, heard: true, known, restored: false };
            node.hear(peer, &hello).expect("is taken");
        }
        node
    }

    /// The frames, but for batches, that it sends a neighbour when this happens.
    fn says(&mut self, peer: AuthorityId, act: impl FnOnce(&mut Exchange, &mut Context<'_>)) -> Vec<Vec<u8>> {
        let mut ctx = Context { now: self.now, log: &Empty, rooms: &mut NoRooms, out: &mut self.out };
        act(&mut self.exchange, &mut ctx);
        let sends = std::mem::take(&mut self.out.sends).into_iter().filter(|send| send.peer == peer);
        let frames = sends.filter_map(|send| match send.what {
            Payload::Frame(bytes) => Some(bytes),
            Payload::Batch { .. } => None,
        });
        frames.collect()
    }

    fn ticks(&mut self, peer: AuthorityId) -> Vec<Vec<u8>> {
        self.says(peer, |exchange, ctx| exchange.tick(ctx).expect("ticks"))
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> T) -> T {
        let mut ctx = Context { now: self.now, log: &Empty, rooms: &mut NoRooms, out: &mut self.out };
        let done = act(&mut self.exchange, &mut ctx);
        // What leaves is the shell's to bound.
        self.out.sends.clear();
        done
    }

    fn hear(&mut self, peer: AuthorityId, frame: &Frame) -> Result<(), crate::Error> {
        self.with(|exchange, ctx| exchange.frame(peer, &frame.to_bytes(), ctx))
    }

    /// The county says this; nothing is staged by it, and no cursor moves.
    fn flooded(&mut self, frame: &Frame) -> bool {
        let (records, cursors) = (self.out.records.len(), self.exchange.cursors());
        let taken = self.hear(authority(COUNTY), frame).is_ok();
        assert_eq!((self.out.records.len(), self.exchange.cursors()), (records, cursors));
        taken
    }

    fn slot(&self, name: String, number: u64, bytes: usize) -> Frame<'static> {
        self.slot_to(AuthorityId::MINISTRY, name, number, vec![1; bytes])
    }

    fn slot_to(&self, to: AuthorityId, name: String, number: u64, value: Vec<u8>) -> Frame<'static> {
        let epoch = Epoch { number: NOW, salt: 3 };
        let (issuer, to) = (authority(COUNTY), Some(Destination::Authority(to)));
        let value = SlotValue { version: 1, issuer, epoch, name, number, to, value: value.into() };
        Frame::Slot { signed: sign(Purpose::Slot, record::to_body(&value), &self.county.signing).into() }
    }

    /// Sends the county a message; the lane and its end.
    fn sends(&mut self) -> (Lane, LanePosition) {
        let (destination, class) = (Destination::Authority(authority(COUNTY)), Priority::Record);
        self.with(|exchange, ctx| {
            let (id, source, kind) = ("1".into(), PROVINCE.into(), "a.message".into());
            let attributes = Attributes { id, source, kind, ..Attributes::default() };
            let message = Outgoing { destination, class, attributes, payload: vec![1] };
            exchange.submit(message).and_then(|()| exchange.flush(ctx)).expect("is sealed");
        });
        let lane = Lane { origin: authority(PROVINCE), destination, class };
        (lane, self.exchange.outbox.position(&lane))
    }

    /// The county signs for having applied a lane up to here.
    fn signs_for(&mut self, lane: Lane, position: LanePosition, number: u64) {
        let value = record::to_body(&Receipt { lane, position, refusals: 0 });
        let slot = self.slot_to(authority(PROVINCE), format!("receipt:{lane}"), number, value);
        self.hear(authority(COUNTY), &slot).expect("it is signed well");
    }
}

/// A lane from the ministry to one of ever new groups.
fn lane(number: u64) -> Lane {
    let group = authority(&format!("{:09}", 120_000_000 + number));
    Lane { origin: AuthorityId::MINISTRY, destination: Destination::Below(group), class: Priority::Record }
}

fn position(sequence: u64) -> LanePosition {
    LanePosition { epoch: Epoch { number: NOW, salt: 9 }, sequence, digest: Digest([7; 32]) }
}

#[test]
fn requests_for_ever_new_lanes_are_remembered_up_to_a_limit() {
    let mut node = Node::new(Opening::Unclean);
    let before = node.exchange.remembered();
    for number in 0..2 * WANTED as u64 {
        node.flooded(&Frame::Gap { lane: lane(number), have: position(number) });
    }
    let wanted = || node.exchange.wanted.values().filter(|w| w.contains_key(&authority(COUNTY))).count();
    assert_eq!(wanted(), WANTED);
    // The neighbour's newest request is among them: it takes only its own room.
    assert!(node.exchange.wanted.contains_key(&lane(2 * WANTED as u64 - 1)));
    assert!(node.exchange.remembered() <= before + WANTED + ASKED);
    for number in 0..ASKED as u64 + 10 {
        node.with(|exchange, ctx| exchange.ask(AuthorityId::MINISTRY, lane(number), position(1), ctx));
    }
    assert!(node.exchange.remembered() <= before + WANTED + ASKED);
}

#[test]
fn ends_of_ever_new_lanes_are_remembered_only_while_they_matter() {
    for (opening, remembers) in [(Opening::Unclean, false), (Opening::Restored, true)] {
        let mut node = Node::new(opening);
        let before = node.exchange.remembered();
        let to = Destination::Authority(authority(PROVINCE));
        let ends = |origin: &dyn Fn(u64) -> AuthorityId| {
            let lane = |n| Lane { origin: origin(n), destination: to, class: Priority::Record };
            Frame::Ends { lanes: (0..500).map(|n| (lane(n), position(9))).collect(), more: true }
        };
        // Of origins without a card nothing is believed.
        node.flooded(&ends(&|n| authority(&format!("{:09}", 130_000_000 + n))));
        assert_eq!(node.exchange.remembered(), before);
        node.flooded(&ends(&|_| AuthorityId::MINISTRY));
        assert_eq!(node.exchange.remembered() > before, remembers);
        node.with(|exchange, ctx| exchange.stop_catching_up(ctx));
        let caught_up = node.exchange.remembered();
        node.flooded(&ends(&|_| authority(COUNTY)));
        assert!(node.exchange.remembered() <= caught_up + 1, "what was asked for, and no end");
    }
}

#[test]
fn slots_with_ever_new_names_take_no_more_than_their_issuers_room() {
    let mut node = Node::new(Opening::Unclean);
    let (large, mut taken) = (16 << 10, 0);
    while node.flooded(&node.slot(format!("new/{taken}"), 1, large)) {
        taken += 1;
    }
    assert!((1_000..=2_048).contains(&taken), "32 MiB of slots: {taken}");
    // A newer value of one that is there has its room, and others have theirs.
    assert!(node.flooded(&node.slot("new/3".to_owned(), 2, large)));
    assert!(!node.flooded(&node.slot("one/more".to_owned(), 1, large)));
    assert!(node.flooded(&node.slot("new/3".to_owned(), 3, 10)), "what shrinks makes room");
    assert!(node.flooded(&node.slot("one/more".to_owned(), 1, 10)));
    let before = node.exchange.remembered();
    node.with(|exchange, ctx| exchange.tell_epoch(authority(COUNTY), Epoch { number: NOW + 1, salt: 1 }, ctx));
    assert_eq!(node.exchange.remembered(), before + 2, "our own slot is kept, and that it was said");
}

#[test]
fn frames_that_nobody_signed_are_remembered_by_nothing() {
    let mut node = Node::new(Opening::Unclean);
    let before = node.exchange.remembered();
    let county = authority(COUNTY);
    for number in 0..2_000_u64 {
        let known = Epoch::default();
        let epoch = Epoch { number, salt: number };
        let hello =
            Frame::Hello { low: 1, high: 1, authority: county, epoch, heard: false, known, restored: number % 2 == 0 };
        assert!(node.flooded(&hello));
        node.flooded(&Frame::Durable { lane: lane(number), position: position(number) });
        node.flooded(&Frame::Intake { open: number % 2 == 0, held: Vec::new() });
        let mut frame = node.slot(format!("forged/{number}"), 1, 100);
        if let Frame::Slot { signed } = &mut frame {
            let last = signed.len() - 1;
            signed[last] ^= 1;
        }
        assert!(!node.flooded(&frame));
        let bytes = vec![number as u8; 300];
        let (hop, bytes) = (crate::HopOrder::default(), bytes.as_slice().into());
        assert!(!node.flooded(&Frame::Batch { hop, bytes }));
        assert!(!node.flooded(&Frame::Receipts { signed: vec![number as u8; 300].into() }));
    }
    assert_eq!(node.exchange.remembered(), before);
}

/// A destination once signed twice for every batch, and its neighbour verified both.
#[test]
fn what_a_neighbour_has_applied_it_need_not_sign_for_again() {
    let mut node = Node::new(Opening::Unclean);
    let (lane, end) = node.sends();
    let value = || record::to_body(&Receipt { lane, position: end, refusals: 0 });
    let slot = node.slot_to(authority(PROVINCE), format!("receipt:{lane}"), 1, value());
    // On another way it may have lain anywhere for long.
    node.hear(AuthorityId::MINISTRY, &slot).expect("it is signed well");
    assert_eq!(node.exchange.custody().count(), 1);
    let slot = node.slot_to(authority(PROVINCE), format!("receipt:{lane}"), 2, value());
    node.hear(authority(COUNTY), &slot).expect("it is signed well");
    assert_eq!(node.exchange.custody().count(), 0);
    // It is told to whoever asks what became of the message, as a list would be.
    let place = record::Cause { lane, epoch: end.epoch, sequence: end.sequence };
    let handed = node.exchange.hop_report(&place).handed;
    assert!(handed.iter().any(|handed| node.exchange.is_receipt_of(handed, &place)), "{handed:?}");
    let later = record::Cause { sequence: end.sequence + 1, ..place };
    assert!(!handed.iter().any(|handed| node.exchange.is_receipt_of(handed, &later)));
    let link = node.exchange.links.get_mut(&authority(COUNTY)).expect("a neighbour");
    link.owed = [(lane, end)].into();
    link.owes_no_more(&lane, LanePosition { sequence: end.sequence - 1, ..end });
    assert_eq!(link.owed.len(), 1, "what waits is held and not applied");
    link.owes_no_more(&lane, end);
    assert!(link.owed.is_empty());
}

/// Every slot was once sent again at every offer, although the neighbour had it: nine tenths of a country's frames.
#[test]
fn slots_are_offered_by_name_and_sent_to_whoever_lacks_them() {
    let (ministry, county) = (AuthorityId::MINISTRY, authority(COUNTY));
    let mut node = Node::new(Opening::Unclean);
    let slot = node.slot("new".to_owned(), 1, 10);
    node.hear(county, &slot).expect("it is signed well");
    let said = node.ticks(ministry);
    let said: Vec<Frame<'_>> = said.iter().map(|bytes| Frame::from_bytes(bytes).expect("a frame")).collect();
    let ids = match &said[..] {
        [.., Frame::Offer { ids }] => ids,
        other => panic!("an offer and no slot is wanted: {other:?}"),
    };
    assert!(!said.iter().any(|frame| matches!(frame, Frame::Slot { .. })), "{said:?}");
    assert_eq!(ids.len(), 2, "the county's, and the node's own card");
    // Whoever has them says nothing, whoever lacks some names them, and gets no more than it was offered.
    let strange = crate::SlotId::from([9; 16]);
    assert!(node.says(county, |exchange, ctx| exchange.slots_offered(county, ids.clone(), ctx)).is_empty());
    let wants = node.says(county, |exchange, ctx| exchange.slots_offered(county, vec![ids[0], strange], ctx));
    assert_eq!(wants, [Frame::Want { ids: vec![strange] }.to_bytes()]);
    let mut want =
        |ids: &[crate::SlotId]| node.says(ministry, |exchange, ctx| exchange.slots_wanted(ministry, ids, ctx)).len();
    assert_eq!((want(&[strange]), want(ids), want(ids)), (0, 2, 0));
    // Nor what does not lead its way, such as what came from it.
    node.exchange.links.get_mut(&county).expect("a neighbour").offered = 9;
    assert!(node.says(county, |exchange, ctx| exchange.slots_wanted(county, ids, ctx)).is_empty());
}

#[test]
fn a_mailbox_is_offered_the_slots_themselves_first() {
    let mut node = Node::new(Opening::Unclean);
    let ministry = AuthorityId::MINISTRY;
    node.with(|exchange, ctx| exchange.link_up(ministry, LinkKind::Mailbox, ctx));
    let first = node.ticks(ministry);
    node.now += 4_000;
    let second = node.ticks(ministry);
    let kinds = [first, second].map(|said| said.iter().map(|frame| frame[1]).collect::<Vec<_>>());
    assert_eq!(kinds, [[5], [8]], "a slot, and then an offer");
}

/// The origin once took messages that it had not even sent yet for delivered, and did not look after them any more.
#[test]
fn nobody_has_applied_what_was_never_sent() {
    let mut node = Node::new(Opening::Unclean);
    let (lane, end) = node.sends();
    let lies = [
        LanePosition { sequence: end.sequence + 1, ..end },
        LanePosition { epoch: Epoch { number: end.epoch.number, salt: u64::MAX }, ..end },
        LanePosition { digest: Digest([7; 32]), ..end },
    ];
    for (number, lie) in (1..).zip(lies) {
        node.exchange.accepted = true;
        node.signs_for(lane, lie, number);
        assert_eq!(node.exchange.undelivered(), [lane], "{lie:?}");
    }
    node.signs_for(lane, end, 9);
    assert!(node.exchange.undelivered().is_empty());
}

#[test]
fn single_batches_to_sign_for_have_a_limit() {
    let mut node = Node::new(Opening::Unclean);
    let link = node.exchange.links.get_mut(&authority(COUNTY)).expect("a neighbour");
    for number in 0..2 * OWED_EXACTLY as u64 {
        link.owe_exactly(lane(1), position(number));
    }
    assert_eq!(link.owed_exactly.len(), OWED_EXACTLY);
}

/// What is said once gets lost at times. It was said at the next offer only, which could be a day away, and an origin that had
/// not heard of its destination's restore did not send again what that had forgotten.
#[test]
fn a_restore_is_told_at_once_and_offered_again_soon() {
    let mut node = Node::new(Opening::Restored);
    let ministry = AuthorityId::MINISTRY;
    for _ in 0..6 {
        node.ticks(ministry);
        node.now += 4_000_000;
    }
    let offers = |frames: &[Vec<u8>]| frames.iter().any(|f| matches!(Frame::from_bytes(f), Ok(Frame::Offer { .. })));
    assert!(!offers(&node.ticks(ministry)), "offers have grown rare");
    let told = node.says(ministry, |exchange, ctx| exchange.issue_restored_slot(ctx));
    assert_eq!(told.len(), 1);
    assert!(matches!(Frame::from_bytes(&told[0]), Ok(Frame::Slot { .. })), "{told:?}");
    node.now += 4_000;
    assert!(offers(&node.ticks(ministry)));
}

/// A province sends to groups below itself; who stands below others does not know its card, and who it is below sends itself.
#[test]
fn only_whoever_stands_above_a_group_sends_to_it() {
    let mut node = Node::new(Opening::Unclean);
    for (to, code) in [
        ("counties:110000000", None),
        ("below:110101000", None),
        ("counties:000000000", Some("JC-1229")),
        ("below:000000000", Some("JC-1229")),
        ("counties:120000000", Some("JC-1204")),
        ("superiors:110000000", None),
    ] {
        let (id, source, kind) = (to.to_owned(), PROVINCE.into(), "a.message".into());
        let attributes = Attributes { id, source, kind, ..Attributes::default() };
        let (destination, class) = (to.parse().expect("a destination"), Priority::Record);
        let message = Outgoing { destination, class, attributes, payload: vec![1] };
        let submitted = node.with(|exchange, _| exchange.submit(message));
        assert_eq!(submitted.err().map(|error| error.code()), code, "{to}");
    }
}
