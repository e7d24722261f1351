//! Seeds of a node's life: steps as [`crate::node`] reads them.

use super::crypto::{draft, public_lane, statement};
use super::exchange::{receipts, slot};
use super::text::{attributes, lane, position};
use super::{Seed, accepted, refused};
use crate::node::{LANES, step};
use crate::read::piece;
use crate::world::world;
use jincai_crypto::{Card, Statement};
use jincai_exchange::record::Gone;
use jincai_exchange::{Frame, HeldBack, Obstacle, SlotValue};
use jincai_types::{Attributes, Epoch, LanePosition, Priority, encode};

const COUNTY: u8 = 1;
const MINISTRY: u8 = 0;
/// Who signs a slot: the place of the county in the world.
const SIGNED_BY_COUNTY: u8 = 2;

fn step(kind: u8, peer: u8, content: &[u8]) -> Vec<u8> {
    [vec![kind, peer], piece(content)].concat()
}

fn slot_step(value: &SlotValue) -> Vec<u8> {
    step(step::SLOT, COUNTY, &[vec![SIGNED_BY_COUNTY], encode(value)].concat())
}

/// A public batch of the county: so many notes from a number on.
fn notes(first: u64, count: u64, previous: LanePosition) -> Vec<u8> {
    let note = Attributes { kind: "jincai.note".into(), requires: Vec::new(), ..attributes() };
    let notes: Vec<_> = (first..first + count)
        .map(|number| (encode(&Attributes { id: number.to_string(), ..note.clone() }), b"text".to_vec()))
        .collect();
    draft(&Statement { lane: public_lane(), ..statement(first, first + count - 1, previous) }, &notes)
}

/// Where the lane stands after this draft of [`notes`].
fn end_of(draft: &[u8]) -> LanePosition {
    let signed = crate::crypto::signed_batch(world(), 2, draft).expect("a good draft");
    jincai_crypto::BatchView::parse(&signed).expect("a good batch").end()
}

pub(super) fn seeds() -> Vec<Seed> {
    let hello = |epoch: Epoch, known: Epoch, restored| {
        let authority = world().ids[2];
        step(
            step::RAW,
            COUNTY,
            &Frame::Hello { low: 1, high: 1, authority, epoch, heard: false, known, restored }.to_bytes(),
        )
    };
    let epoch = Epoch { number: 1, salt: 2 };
    let raw = |frame: Frame<'_>| step(step::RAW, COUNTY, &frame.to_bytes());
    let first = notes(1, 2, LanePosition::START);
    let second = notes(3, 1, end_of(&first));
    let other = notes(3, 2, end_of(&first));
    let batch = |draft: &[u8]| step(step::BATCH, COUNTY, draft);
    let tick = step(step::TIME, 0, &2_000u32.to_le_bytes());
    let restart = |content: &[u8]| step(step::RESTART, 0, content);
    let life = [
        hello(epoch, epoch, false),
        batch(&first),
        tick.clone(),
        batch(&first),
        batch(&second),
        restart(&[1]),
        batch(&second),
        step(step::RECEIPTS, COUNTY, &encode(&receipts())),
        slot_step(&slot()),
        tick.clone(),
    ];
    let full = [step(step::FULL, 0, &[1]), batch(&first), step(step::FULL, 0, &[]), batch(&first)];
    let gap = [batch(&second), raw(Frame::Gap { lane: lane(), have: position(3) }), tick.clone(), batch(&first)];
    let set_back = [batch(&first), restart(&[0]), raw(Frame::Ends { lanes: vec![(lane(), position(3))], more: false })];
    let links = [
        step(step::DOWN, COUNTY, &[]),
        step(step::UP, COUNTY, &[1]),
        raw(Frame::Intake { open: false, held: Vec::new() }),
    ];
    // The county names itself, and the ministry, to which it does not lead.
    let (class, why) = (Priority::Record, Obstacle::Share);
    let at = world().ids[2];
    let held = [at, world().ids[0]].map(|hop| HeldBack { hop, class, why, at, since: 9 });
    let pressed = [raw(Frame::Intake { open: true, held: held.to_vec() }), tick.clone(), batch(&first), tick.clone()];
    let node = |name, steps: &[Vec<u8>]| accepted("node", name, steps.concat());
    vec![
        node("life", &life),
        node("full", &full),
        node("pressed", &pressed),
        node("gap", &gap),
        node("fork", &[batch(&first), batch(&second), batch(&other), restart(&[])]),
        node("set-back", &set_back),
        node("links", &links),
        node("gone", &[batch(&first), slot_step(&gone(end_of(&first), end_of(&second))), batch(&second)]),
        node(
            "gone-to-the-last-number",
            &[batch(&first), slot_step(&gone(end_of(&first), position(u64::MAX))), batch(&second)],
        ),
        node(
            "duplicate-behind-the-last-number",
            &[batch(&first), slot_step(&gone(end_of(&first), position(u64::MAX))), batch(&first)],
        ),
        node("epochs", &[hello(epoch, Epoch { number: u64::MAX, salt: 0 }, true), tick]),
        node(
            "card-of-a-younger-superior",
            &[step(step::SLOT, MINISTRY, &[vec![SIGNED_BY_COUNTY], encode(&cards())].concat())],
        ),
        node("rooms", &rooms()),
        refused("node", "no-frame", step(step::RAW, MINISTRY, b"?")),
    ]
}

fn gone(from: LanePosition, to: LanePosition) -> SlotValue {
    let gone = Gone { lane: public_lane(), from, to };
    SlotValue {
        name: format!("gone:{}", gone.lane),
        to: Some(gone.lane.destination),
        value: encode(&gone).into(),
        ..slot()
    }
}

/// The county's own cards, of which its superior's was renewed after its own was made.
fn cards() -> SlotValue {
    use crate::world::{NOW, card};
    let world = world();
    let of = |at: usize| card(&world.ids, &world.keys, at);
    let renewed = Card { serial: 2, not_before: NOW, ..of(1) };
    let county = Card { serial: 2, ..of(2) };
    let keys = &world.keys;
    let chain = jincai_crypto::CardChain(world.chain.0[..1].to_vec());
    let chain = chain.with(renewed.issue(&keys[0].signing)).with(county.issue(&keys[1].signing));
    SlotValue { name: "card".into(), number: 2, value: encode(&chain).into(), ..slot() }
}

/// A message of a neighbour on the lane of this choice.
fn message(peer: u8, lane: u8, kind: &str, id: &str, payload: &[u8]) -> Vec<u8> {
    let attributes = Attributes { id: id.into(), kind: kind.into(), requires: Vec::new(), ..attributes() };
    step(step::MESSAGE, peer, &[vec![lane], piece(&encode(&attributes)), payload.to_vec()].concat())
}

/// Something for every room: to the province itself, to everybody below the ministry, to those above the county.
fn rooms() -> Vec<Vec<u8>> {
    const RECORD: u8 = 2 * LANES;
    // The number of the last one says, of the levels, counties.
    let (own, below, superiors, counties) = (RECORD, RECORD + 2, RECORD + 3, RECORD + 4);
    let mut spec = crate::storage::payments();
    spec.collector = world().ids[1];
    vec![
        message(MINISTRY, below, "jincai.storage.spec", "spec", &encode(&spec)),
        message(MINISTRY, below, "jincai.dictionary.release", "release", b"no manifest"),
        message(COUNTY, own, "jincai.note", "1", b"text"),
        message(COUNTY, own, "jincai.storage.batch", "2", &super::rooms::batch_of_the_county()),
        message(COUNTY, own, "jincai.storage.batch", "3", &super::rooms::batch_of_the_county()),
        message(COUNTY, superiors, "jincai.note", "4", b"text"),
        message(COUNTY, RECORD + 1, "jincai.note", "5", b"for the ministry"),
        message(MINISTRY, counties, "jincai.note", "7", b"for the county"),
        step(step::RESTART, 0, &[1]),
        message(COUNTY, own, "nothing.known", "6", b""),
    ]
}
