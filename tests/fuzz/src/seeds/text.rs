//! Seeds of the vocabulary.

use super::{Seed, accepted, refused};
use crate::world::{NOW, world};
use jincai_types::{
    Attributes, Column, ColumnType, Digest, Epoch, FiscalYear, Lane, LanePosition, Month, PartKey, PartRecord,
    Requirement, System, TableSchema, encode,
};

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = [
        ("authority", "370502000"),
        ("date", "2028-02-29"),
        ("destination", "below:370000000"),
        ("lane", "370502000>superiors:370502000/record"),
        ("lane-to-a-level", "000000000>counties:370000000/record"),
        ("address", "counties:370000000/2026/budget"),
        ("address-of-every-year", "below:000000000/*/pay"),
        ("address-that-says-more", "cities:370000000/2026/*"),
        ("sender", "370502000/2026/pay"),
        ("release", "release:national@3"),
        ("spec", "spec:mof.payments@1"),
        ("bulk", "bulk:0707070707070707070707070707070707070707070707070707070707070707"),
        ("digest", "A7070707070707070707070707070707070707070707070707070707070707FF"),
        ("amount", "-9999999999999999.99"),
    ]
    .into_iter()
    .map(|(name, text)| accepted("text", name, text.into()))
    .collect();
    seeds.push(refused("text", "address-without-a-year", "370502000//pay".into()));
    seeds.push(refused("text", "day-that-is-none", "2027-02-29".into()));
    seeds.push(refused("text", "amount-with-exponent", "1.5E9".into()));
    seeds.push(accepted("attributes", "all", encode(&attributes())));
    seeds.push(accepted("attributes", "few", encode(&Attributes { subject: String::new(), ..bare() })));
    seeds.extend(places());
    seeds
}

fn bare() -> Attributes {
    Attributes { id: "1".into(), source: "370502000".into(), kind: "note".into(), time: NOW, ..Attributes::default() }
}

/// Attributes with everything in them.
pub(super) fn attributes() -> Attributes {
    Attributes {
        subject: "PAYMENT/2026-01".into(),
        requires: vec![
            Requirement::Release { line: "national".into(), number: 3 },
            Requirement::Spec { id: "mof.payments".into(), version: 1 },
            Requirement::Bulk(Digest([7; 32])),
        ],
        extensions: [("traceparent", "00-1"), ("fiscalyear", "2026"), ("system", "budget")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..bare()
    }
}

/// The lane from the county to the ministry.
pub(super) fn lane() -> Lane {
    "370502000>000000000/record".parse().expect("a lane")
}

/// A place in its first epoch.
pub(super) fn position(sequence: u64) -> LanePosition {
    LanePosition { epoch: Epoch { number: 1, salt: 2 }, sequence, digest: Digest([3; 32]) }
}

/// The lane from the ministry to the counties of the province.
pub(super) fn lane_to_counties() -> Lane {
    "000000000>counties:370000000/record".parse().expect("a lane")
}

fn places() -> Vec<Seed> {
    let (year, system): (FiscalYear, System) =
        ("2026".parse().expect("a year"), "budget".parse().expect("a plain name"));
    let part = PartKey { authority: world().ids[2], month: Month { year: 2026, month: 1 }, system: "pay".into() };
    let record = PartRecord { record: 9, start: 100, length: 4000, digest: Digest([4; 32]) };
    let column = Column { name: "amount".into(), kind: ColumnType::Amount, required: true, key: false };
    let schema = TableSchema { name: "payments".into(), columns: vec![column] };
    vec![
        accepted("places", "authority", encode(&world().ids[1])),
        accepted("places", "lane", encode(&lane())),
        accepted("places", "lane-to-a-level", encode(&lane_to_counties())),
        accepted("places", "audience", encode(&(Some(year), Some(system)))),
        accepted("places", "position", encode(&(lane(), position(9)))),
        accepted("places", "epoch", encode(&Epoch { number: NOW, salt: u64::MAX })),
        accepted("places", "part", encode(&part)),
        accepted("places", "part-record", encode(&record)),
        accepted("places", "schema", encode(&schema)),
        refused("places", "long-integer", vec![0x82, 0x18, 1, 2]),
    ]
}
