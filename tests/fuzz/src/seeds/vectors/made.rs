//! The vectors of each file: good ones by the project's encoders, bad ones by one change of a good one each.

use super::super::crypto::{draft, public_lane, statement};
use super::super::exchange::{receipt, receipts, slot};
use super::super::text::{attributes, lane, position};
use super::Vector;
use crate::crypto::signed_batch;
use crate::world::{NOW, card, keys_of, world};
use jincai_crypto::{
    BatchView, Card, CardChain, EncryptionPublicKey, KeyRing, Purpose, Recipient, SealInput, SeededEntropy, Statement,
    export_evidence, seal, sign,
};
use jincai_exchange::record::Gone;
use jincai_exchange::{Frame, HeldBack, HopOrder, Obstacle, SlotValue, Waiting};
use jincai_types::{Attributes, AuthorityId, Destination, Epoch, Lane, LanePosition, Requirement, encode};

const EPOCH: Epoch = Epoch { number: 1, salt: 2 };
const MALFORMED: &str = "JC-1003";
const NOT_CANONICAL: &str = "JC-1004";
const COSE: &str = "JC-1051";
const SIGNATURE: &str = "JC-1052";
const UNKNOWN_KEY: &str = "JC-1053";
const SUITE: &str = "JC-1054";
const BATCH: &str = "JC-1055";
const DECRYPT: &str = "JC-1056";
const NOT_FOR_US: &str = "JC-1057";
const CARD: &str = "JC-1059";

/// Lanes to groups of each level.
const LEVELS: [&str; 3] =
    ["000000000>provinces:000000000/record", "000000000>cities:370000000/control", "370000000>counties:370500000/bulk"];

fn good(name: &'static str, bytes: Vec<u8>) -> Vector {
    Vector { name, bytes, refusal: None }
}

fn bad(name: &'static str, refusal: &'static str, bytes: Vec<u8>) -> Vector {
    Vector { name, bytes, refusal: Some(refusal) }
}

pub(super) fn vectors(file: &str) -> Vec<Vector> {
    match file {
        "frames" => frames(),
        "attributes" => all_attributes(),
        "statements" => statements(),
        "batches" => batches(),
        "receipts" => receipt_lists(),
        "slots" => slots(),
        "cards" => cards(),
        "evidence" => evidence(),
        other => panic!("there is no file of vectors «{other}»"),
    }
}

/// One bit of a byte is another; a negative place counts from the end.
fn flipped(bytes: &[u8], at: isize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = if at < 0 { bytes.len().checked_add_signed(at) } else { usize::try_from(at).ok() };
    bytes[at.expect("a place in it")] ^= 1;
    bytes
}

/// The bytes without the last one.
fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 1].to_vec()
}

/// With one more.
fn longer(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0]].concat()
}

/// One part of it replaced by another of its length.
fn replaced(bytes: &[u8], part: &[u8], other: &[u8]) -> Vec<u8> {
    let at = bytes.windows(part.len()).position(|window| window == part).expect("a part of it");
    [&bytes[..at], other, &bytes[at + part.len()..]].concat()
}

fn frames() -> Vec<Vector> {
    let (lane, position, authority, world) = (lane(), position(9), world().ids[2], world());
    let hop = HopOrder { floor: LanePosition::START, after: LanePosition::START };
    let batch = sealed(2, public_lane(), (EPOCH, LanePosition::START), &[("1", b"one")], &[]);
    let hello = Frame::Hello { low: 1, high: 1, authority, epoch: EPOCH, heard: true, known: EPOCH, restored: false };
    let asks = Frame::Hello {
        low: 1,
        high: 2,
        authority,
        epoch: EPOCH,
        heard: false,
        known: Epoch::default(),
        restored: true,
    };
    let signed_receipts = world.sign(2, Purpose::Receipts, &encode(&receipts()));
    let signed_slot = world.sign(2, Purpose::Slot, &encode(&slot()));
    let (class, at) = (lane.class, AuthorityId::MINISTRY);
    let held = HeldBack { hop: authority, class, why: Obstacle::Full, at, since: 60_000 };
    let frames = [
        ("hello", hello.clone()),
        ("hello-that-asks", asks),
        ("batch", Frame::Batch { hop, bytes: batch.as_slice().into() }),
        ("durable", Frame::Durable { lane, position }),
        ("receipts", Frame::Receipts { signed: signed_receipts.into() }),
        ("gap", Frame::Gap { lane, have: position }),
        ("gap-from-the-start", Frame::Gap { lane: public_lane(), have: LanePosition::START }),
        ("slot", Frame::Slot { signed: signed_slot.into() }),
        ("ends", Frame::Ends { lanes: vec![(lane, position), (public_lane(), position)], more: true }),
        (
            "ends-of-groups-of-a-level",
            Frame::Ends { lanes: LEVELS.map(|lane| (lane.parse().expect("a lane"), position)).to_vec(), more: false },
        ),
        ("ends-of-nothing", Frame::Ends { lanes: Vec::new(), more: false }),
        ("intake", Frame::Intake { open: false, held: Vec::new() }),
        ("intake-held-back", Frame::Intake { open: true, held: vec![held] }),
        ("offer", Frame::Offer { ids: vec![[1; 16].into(), [2; 16].into()] }),
        ("want", Frame::Want { ids: vec![[3; 16].into()] }),
        (
            "demand",
            Frame::Demand {
                granted: [1 << 20; 4],
                waiting: [Waiting { bytes: 9 << 20, next: 1 << 20, age: 60_000 }; 4],
            },
        ),
        ("grant", Frame::Grant { windows: [1 << 20, 2 << 20, 4 << 20, 2 << 10] }),
    ];
    let intake = Frame::Intake { open: true, held: Vec::new() }.to_bytes();
    let of_cities = Frame::Gap { lane: LEVELS[1].parse().expect("a lane"), have: position }.to_bytes();
    let bad = [
        bad("unknown-kind", MALFORMED, vec![0x82, 0x17, 0x80]),
        bad("a-level-that-no-group-is-of", MALFORMED, replaced(&of_cities, b"\x69370000000\x02", b"\x69370000000\x04")),
        bad("no-cbor", MALFORMED, b"?".to_vec()),
        bad("no-fields", MALFORMED, vec![0x81, 0x07]),
        bad("cut-short", MALFORMED, cut(&hello.to_bytes())),
        bad("something-behind", MALFORMED, longer(&hello.to_bytes())),
        bad("a-long-number", NOT_CANONICAL, replaced(&intake, &[0x82, 0x07], &[0x82, 0x18, 0x07])),
        bad("an-indefinite-length", MALFORMED, vec![0x9f, 0x07, 0x81, 0xf5, 0xff]),
        bad("one-field-more", NOT_CANONICAL, vec![0x82, 0x0b, 0x82, 0x84, 0, 0, 0, 0, 0xf5]),
    ];
    frames.into_iter().map(|(name, frame)| good(name, frame.to_bytes())).chain(bad).collect()
}

fn all_attributes() -> Vec<Vector> {
    let all = encode(&attributes());
    let few = Attributes { subject: String::new(), requires: Vec::new(), extensions: [].into(), ..attributes() };
    let few_bytes = encode(&few);
    let swapped = replaced(&few_bytes, b"\x62id\x611", b"").into_iter().chain(*b"\x62id\x611").collect();
    vec![
        good("all", all.clone()),
        good("few", few_bytes.clone()),
        good("no-ascii", encode(&Attributes { subject: "决算/2026".into(), ..few.clone() })),
        bad("keys-in-another-order", NOT_CANONICAL, swapped),
        bad("another-specversion", MALFORMED, replaced(&few_bytes, b"\x631.0", b"\x631.1")),
        bad("a-fiscal-year-that-is-none", MALFORMED, replaced(&all, b"\x642026", b"\x640026")),
        bad("a-system-with-capital-letters", MALFORMED, replaced(&all, b"\x66budget", b"\x66Budget")),
        bad("a-condition-of-no-kind", MALFORMED, replaced(&all, b"release:", b"reloose:")),
        bad("cut-short", MALFORMED, cut(&few_bytes)),
    ]
}

fn statements() -> Vec<Vector> {
    let first = statement(1, 1, LanePosition::START);
    let newer = Statement { epoch: Epoch { number: 2, salt: 1 }, ..statement(1, 4, position(9)) };
    let bytes = |statement: Statement| statement.to_bytes();
    vec![
        good("first", first.to_bytes()),
        good("next", bytes(statement(10, 12, position(9)))),
        good("first-of-a-new-epoch", newer.to_bytes()),
        good("encrypted", bytes(Statement { encrypted: true, ..first.clone() })),
        bad("behind-a-gap", BATCH, bytes(statement(11, 12, position(9)))),
        bad("new-epoch-that-does-not-begin-at-1", BATCH, bytes(Statement { first: 2, ..newer.clone() })),
        bad("older-epoch-than-before", BATCH, bytes(Statement { epoch: Epoch::default(), ..newer })),
        bad("last-before-first", BATCH, bytes(Statement { first: 2, last: 1, ..first.clone() })),
        bad("too-many", BATCH, bytes(Statement { last: 1025, ..first.clone() })),
        bad("another-version", SUITE, bytes(Statement { version: 2, ..first.clone() })),
        bad("another-suite", SUITE, bytes(Statement { suite: 2, ..first.clone() })),
        bad("something-behind", MALFORMED, longer(&first.to_bytes())),
    ]
}

fn note(id: &str) -> Vec<u8> {
    encode(&Attributes {
        id: id.into(),
        kind: "jincai.note".into(),
        subject: "PAYMENT".into(),
        requires: vec![Requirement::Spec { id: "mof.payments".into(), version: 1 }],
        ..Attributes { extensions: [].into(), ..attributes() }
    })
}

/// A batch signed by the authority at this place and encrypted for these, if there are any.
fn sealed(
    by: usize,
    lane: Lane,
    (epoch, previous): (Epoch, LanePosition),
    messages: &[(&str, &[u8])],
    readers: &[usize],
) -> Vec<u8> {
    let keys = KeyRing::from_bytes(&world().keys[by].to_bytes()).expect("a key file");
    sealed_with(&keys, lane, (epoch, previous), messages, readers)
}

fn sealed_with(
    keys: &KeyRing,
    lane: Lane,
    (epoch, previous): (Epoch, LanePosition),
    messages: &[(&str, &[u8])],
    readers: &[usize],
) -> Vec<u8> {
    let world = world();
    let recipients = readers.iter().map(|at| {
        let key = EncryptionPublicKey(*world.keys[*at].public().expect("good keys").encryption);
        Recipient { authority: world.ids[*at], key }
    });
    let recipients: Vec<Recipient> = recipients.collect();
    let messages: Vec<_> = messages.iter().map(|(id, payload)| (note(id), payload.to_vec())).collect();
    let first = previous.next_in(epoch);
    let input = SealInput { lane, epoch, first, previous, messages: &messages, recipients: &recipients, now: NOW };
    seal(&input, keys, &mut SeededEntropy::new(11)).expect("it can be sealed").0
}

fn batches() -> Vec<Vector> {
    let start = (EPOCH, LanePosition::START);
    let encrypted = sealed(2, lane(), start, &[("1", b"paid 12.50"), ("2", b"")], &[0, 2]);
    let view = BatchView::parse(&encrypted).expect("a batch");
    let end = view.end();
    let next = sealed(2, lane(), (EPOCH, end), &[("3", "第三条".as_bytes())], &[0, 2]);
    let newer = sealed(2, lane(), (Epoch { number: 5, salt: 6 }, end), &[("4", b"new epoch")], &[0, 2]);
    let public = sealed(2, public_lane(), start, &[("1", b"one"), ("2", b"two"), ("3", b"three")], &[]);
    let stranger = sealed_with(&keys_of(9), lane(), start, &[("1", b"forged")], &[0]);
    let of_province = sealed(1, lane(), start, &[("1", b"forged")], &[0]);
    let unread = sealed(2, lane(), start, &[("1", b"not for the ministry")], &[2]);
    let mut vectors = vec![
        good("encrypted", encrypted.clone()),
        good("next", next),
        good("first-of-a-new-epoch", newer),
        good("public", public.clone()),
    ];
    let (content, commitment) = (view.items[0].content, view.items[0].commitment);
    let signed = view.statement_bytes();
    let other = sign(Purpose::Slot, view.statement.to_bytes(), &world().keys[2].signing);
    let wrapped = BatchView::parse(&unread).expect("a batch").items[0].attributes;
    let wraps_signature = unread.windows(wrapped.len()).position(|window| window == wrapped).expect("its items") - 40;
    let two = Statement { lane: public_lane(), ..statement(1, 2, LanePosition::START) };
    let signed_draft = |statement: &Statement, count: usize| {
        let messages: Vec<_> = (0..count).map(|at| (note(&at.to_string()), b"x".to_vec())).collect();
        signed_batch(world(), 2, &draft(statement, &messages)).expect("a draft")
    };
    vectors.extend([
        bad("altered-content", BATCH, replaced(&encrypted, content, &flipped(content, 3))),
        bad("altered-commitment", BATCH, replaced(&encrypted, commitment, &flipped(commitment, 0))),
        bad("altered-attributes", BATCH, replaced(&encrypted, b"PAYMENT", b"PAYMEND")),
        bad("altered-public-content", BATCH, replaced(&public, b"three", b"threw")),
        bad("altered-signature", SIGNATURE, replaced(&encrypted, signed, &flipped(signed, -1))),
        bad("altered-wraps-signature", SIGNATURE, flipped(&unread, isize::try_from(wraps_signature).expect("small"))),
        bad("signed-for-another-purpose", COSE, with_statement(&encrypted, signed, &other)),
        bad("signed-by-nobody-known", UNKNOWN_KEY, stranger),
        bad("signed-by-a-relay", UNKNOWN_KEY, of_province),
        bad("not-for-the-reader", NOT_FOR_US, unread),
        bad("fewer-messages-than-stated", BATCH, signed_draft(&two, 1)),
        bad("encrypted-without-keys", BATCH, signed_draft(&Statement { encrypted: true, ..two.clone() }, 2)),
        bad("behind-a-gap", BATCH, signed_draft(&Statement { first: 2, last: 3, ..two.clone() }, 2)),
        bad("another-suite", SUITE, signed_draft(&Statement { suite: 2, ..two }, 2)),
        bad("cut-short", MALFORMED, cut(&public)),
        bad("something-behind", MALFORMED, longer(&public)),
    ]);
    vectors
}

/// A batch with another statement, whose length may differ.
fn with_statement(batch: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let head = |bytes: &[u8]| encode(&minicbor::bytes::ByteVec::from(bytes.to_vec()));
    replaced(batch, &head(old), &head(new))
}

fn receipt_lists() -> Vec<Vector> {
    let (world, list) = (world(), encode(&receipts()));
    let signed = world.sign(2, Purpose::Receipts, &list);
    let more = jincai_exchange::ReceiptList {
        receipts: vec![receipt(), jincai_exchange::Receipt { lane: public_lane(), refusals: 0, ..receipt() }],
        ..receipts()
    };
    vec![
        good("one", signed.clone()),
        good("two", world.sign(2, Purpose::Receipts, &encode(&more))),
        bad("altered-signature", SIGNATURE, flipped(&signed, -1)),
        bad("signed-by-somebody-else", UNKNOWN_KEY, world.sign(1, Purpose::Receipts, &list)),
        bad("signed-for-another-purpose", COSE, world.sign(2, Purpose::Slot, &list)),
        bad("something-behind-in-what-is-signed", MALFORMED, world.sign(2, Purpose::Receipts, &longer(&list))),
        bad("cut-short", COSE, cut(&signed)),
    ]
}

fn slots() -> Vec<Vector> {
    let world = world();
    let signed = |slot: &SlotValue| world.sign(2, Purpose::Slot, &encode(slot));
    let lane = lane();
    let gone = Gone { lane, from: position(9), to: position(12) };
    let named = |name: String, value: Vec<u8>, to| SlotValue { name, value: value.into(), to, ..slot() };
    let ministry = Some(Destination::Authority(world.ids[0]));
    let to_county: Lane = "000000000>370502000/record".parse().expect("a lane");
    let applied = jincai_exchange::Receipt { lane: to_county, refusals: 0, ..receipt() };
    let superiors = Some(Destination::Superiors(world.ids[2]));
    let end = slot();
    vec![
        good("card", signed(&named("card".into(), encode(&world.chain), superiors))),
        good("receipt", signed(&named(format!("receipt:{to_county}"), encode(&applied), ministry))),
        good("end", signed(&end)),
        good(
            "end-for-one-member",
            signed(&named(format!("end:{lane}@{}", world.ids[0]), end.value.to_vec(), ministry)),
        ),
        good("gone", signed(&named(format!("gone:{lane}"), encode(&gone), ministry))),
        good("restored", signed(&named("restored".into(), encode(&EPOCH), None))),
        good("epoch", signed(&named(format!("epoch:{}", world.ids[1]), encode(&EPOCH), ministry))),
        bad("altered-signature", SIGNATURE, flipped(&signed(&end), -1)),
        bad("signed-by-somebody-else", UNKNOWN_KEY, world.sign(1, Purpose::Slot, &encode(&end))),
        bad("signed-for-another-purpose", COSE, world.sign(2, Purpose::Receipts, &encode(&end))),
        bad("something-behind-in-what-is-signed", MALFORMED, world.sign(2, Purpose::Slot, &longer(&encode(&end)))),
    ]
}

fn cards() -> Vec<Vector> {
    let world = world();
    let of = |at: usize| card(&world.ids, &world.keys, at);
    let chain = |cards: &[(usize, Card)]| {
        let issued = cards.iter().map(|(by, card)| card.issue(&world.keys[*by].signing).into());
        encode(&CardChain(issued.collect()))
    };
    let mut altered = world.chain.clone();
    let last = altered.0.pop().expect("a card");
    altered.0.push(flipped(&last, -1).into());
    vec![
        good("county", encode(&world.chain)),
        good("root", chain(&[(0, of(0))])),
        bad("no-root", CARD, encode(&CardChain(world.chain.0[1..].to_vec()))),
        bad("another-root", CARD, chain(&[(1, Card { superior: None, ..of(1) })])),
        bad("a-level-left-out", CARD, chain(&[(0, of(0)), (1, of(2))])),
        bad("not-valid-yet", CARD, chain(&[(0, of(0)), (0, Card { not_before: NOW + 3_600_000, ..of(1) })])),
        bad("not-valid-any-more", CARD, chain(&[(0, of(0)), (0, Card { not_after: NOW - 1, ..of(1) })])),
        bad("signed-by-itself", UNKNOWN_KEY, chain(&[(0, of(0)), (1, of(1))])),
        bad("another-version", SUITE, chain(&[(0, Card { version: 2, ..of(0) })])),
        bad("altered-signature", SIGNATURE, encode(&altered)),
    ]
}

fn evidence() -> Vec<Vector> {
    let world = world();
    let messages: [(&str, &[u8]); 3] = [("1", b"one"), ("2", b"paid 12.50"), ("3", b"three")];
    let encrypted = sealed(2, lane(), (EPOCH, LanePosition::START), &messages, &[0, 2]);
    let public = sealed(2, public_lane(), (EPOCH, LanePosition::START), &messages, &[]);
    let exported = |batch: &[u8], reader| export_evidence(batch, 1, &world.directory, reader).expect("evidence");
    let read = exported(&encrypted, Some((world.ids[0], &world.keys[0])));
    let of_public = exported(&public, None);
    vec![
        good("read", read.clone()),
        good("unread", exported(&encrypted, None)),
        good("public", of_public.clone()),
        bad("another-message", BATCH, replaced(&of_public, b"paid 12.50", b"paid 92.50")),
        bad("another-key", DECRYPT, flipped(&read, -1)),
        bad("cut-short", MALFORMED, cut(&read)),
    ]
}
