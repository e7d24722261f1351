//! Seeds of what neighbours say, and of what the exchange keeps of it.

use super::crypto::{public_lane, sealed};
use super::text::{attributes, lane, position};
use super::{Seed, accepted, refused};
use crate::world::world;
use jincai_exchange::record::{
    Cause, Cleared, DeadLetter, Delivered, EffectRecord, EffectsHead, Gone, Kept, Restored, batch_record, to_body,
};
use jincai_exchange::{Frame, HeldBack, HopOrder, Obstacle, Receipt, ReceiptList, SlotValue, Waiting};
use jincai_types::{AuthorityId, Destination, Digest, Epoch, encode};

const EPOCH: Epoch = Epoch { number: 1, salt: 2 };

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = frames();
    seeds.push(accepted("lists", "receipts", encode(&receipts())));
    seeds.push(accepted("lists", "receipt", encode(&receipt())));
    seeds.push(accepted("lists", "slot", encode(&slot())));
    seeds.extend(records());
    seeds
}

/// What the county has signed for.
pub(super) fn receipt() -> Receipt {
    Receipt { lane: lane(), position: position(9), refusals: 1 }
}

pub(super) fn receipts() -> ReceiptList {
    let [_, neighbour, issuer] = world().ids;
    ReceiptList { version: 1, issuer, epoch: EPOCH, neighbour, receipts: vec![receipt()] }
}

pub(super) fn slot() -> SlotValue {
    let [ministry, _, issuer] = world().ids;
    SlotValue {
        version: 1,
        issuer,
        epoch: EPOCH,
        name: format!("end:{}", lane()),
        number: 3,
        to: Some(Destination::Authority(ministry)),
        value: encode(&(lane(), position(9))).into(),
    }
}

fn frames() -> Vec<Seed> {
    let (lane, position, authority) = (lane(), position(9), world().ids[2]);
    let hop = HopOrder::default();
    let batch = sealed(public_lane(), &[(encode(&attributes()), b"one".to_vec())], 8);
    let hello = Frame::Hello { low: 1, high: 1, authority, epoch: EPOCH, heard: true, known: EPOCH, restored: false };
    let (class, at) = (lane.class, AuthorityId::MINISTRY);
    let held = HeldBack { hop: authority, class, why: Obstacle::Away, at, since: 9 };
    let frames = [
        ("hello", hello),
        ("batch", Frame::Batch { hop, bytes: batch.as_slice().into() }),
        ("durable", Frame::Durable { lane, position }),
        ("receipts", Frame::Receipts { signed: vec![1].into() }),
        ("gap", Frame::Gap { lane, have: position }),
        ("slot", Frame::Slot { signed: vec![2].into() }),
        ("ends", Frame::Ends { lanes: vec![(lane, position)], more: true }),
        ("intake", Frame::Intake { open: true, held: vec![held] }),
        ("offer", Frame::Offer { ids: vec![[1; 16].into(), [2; 16].into()] }),
        ("want", Frame::Want { ids: vec![[3; 16].into()] }),
        ("demand", Frame::Demand { granted: [5; 4], waiting: [Waiting { bytes: 9, next: 4, age: 7 }; 4] }),
        ("grant", Frame::Grant { windows: [1 << 20; 4] }),
    ];
    let frames = frames.into_iter().map(|(name, frame)| accepted("frame", name, frame.to_bytes()));
    frames.chain([refused("frame", "unknown-kind", vec![0x82, 0x17, 0x80])]).collect()
}

fn records() -> Vec<Seed> {
    let [_, neighbour, county] = world().ids;
    let cause = Cause { lane: lane(), epoch: EPOCH, sequence: 9 };
    let used = vec![Digest([6; 32])];
    let effect = EffectRecord {
        cause: Some(cause),
        room: "jincai.storage.",
        used: used.clone(),
        effect: b"effect".as_slice().into(),
    };
    let text = String::from;
    let letter =
        DeadLetter { cause, id: text("1"), code: text("JC-1501"), reason: text("why"), used, record: 4, late: false };
    let cleared = Cleared { neighbour, lanes: vec![(lane(), position(9))], time: 7, signed: b"signed".to_vec().into() };
    let gone = Gone { lane: lane(), from: position(9), to: position(12) };
    let records = [
        ("effect", to_body(&effect)),
        (
            "effects",
            [to_body(&EffectsHead { first: cause, room: "jincai.note".into() }), b"\x43one\x43two".to_vec()].concat(),
        ),
        ("dead-letter", to_body(&letter)),
        ("cleared", to_body(&cleared)),
        ("delivered", to_body(&Delivered { issuer: county, epoch: EPOCH, receipt: receipt() })),
        ("gone", to_body(&gone)),
        ("restored", to_body(&Restored { epoch: EPOCH, done: true, first: EPOCH })),
        ("kept", to_body(&Kept { neighbour, before: EPOCH })),
        ("epoch", to_body(&EPOCH)),
        ("cards", to_body(&world().chain)),
        ("own-batch", batch_record(None, 7, b"batch")),
        ("batch-of-a-neighbour", batch_record(Some(neighbour), 7, b"batch")),
    ];
    records.into_iter().map(|(name, body)| accepted("records", name, body)).collect()
}
