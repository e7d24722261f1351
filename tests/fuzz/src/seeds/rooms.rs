//! Seeds of the dictionary, of standard storage and of policies.

use super::{Seed, accepted, refused};
use crate::dictionary::{CODES, LINE, day, part};
use crate::files::story;
use crate::read::piece;
use crate::storage::{Batch, payments, summed};
use crate::world::world;
use jincai_dictionary::{Body, Release, snapshot_of_csv};
use jincai_journal::{Blobs, MemoryBlobs};
use jincai_policies::LinkPolicy;
use jincai_storage::Totals;
use jincai_types::{Date, Digest, Month, PartKey, encode};
use minicbor::Encoder;

const ROWS: &str = "line_id,pay_date,payee,amount,pieces,currency\n\
    1,2026-01-31,\"Wang, Li\",-250.00,3,CNY\n2,2026-02-01,,9999999999999999.99,-9,GBP\n3,2026-02-30,x,1,,CNY\n1,2026-01-01,x,1,,CNY\n";

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = vec![
        accepted("codes", "regions", CODES.into()),
        accepted("codes", "mark-and-quotes", "\u{feff}code,name,level,parent\r\na,\"b \"\"c\"\"\",1,\r\n".into()),
        refused("codes", "circle", "code,name,level,parent\na,A,1,b\nb,B,1,a\n".into()),
        refused("codes", "open-quote", "code,name,level,parent\na,\"A,1,\n".into()),
        accepted("rows", "payments", ROWS.into()),
        refused("rows", "no-such-column", "line_id,nothing\n1,2\n".into()),
        accepted("policy", "all", toml::to_string(&LinkPolicy::default()).expect("it can be written").into()),
        accepted("policy", "one", "retry_ms = 100\n".into()),
        refused("policy", "too-small", "retry_ms = 1\n".into()),
        accepted("spec", "travelling", encode(&payments())),
        accepted("spec", "json", serde_json::to_vec_pretty(&payments()).expect("it can be written")),
        accepted("spec", "toml", toml::to_string(&payments()).expect("it can be written").into()),
    ];
    seeds.extend(releases());
    seeds.extend(deltas());
    seeds.extend(snapshots());
    seeds.extend(rows());
    seeds.extend(collected());
    seeds.extend(transfers());
    seeds
}

fn transfers() -> Vec<Seed> {
    let place = |at: usize| u8::try_from(at).expect("a few");
    let all = story().iter().enumerate();
    let mut seeds: Vec<Seed> = all
        .map(|(at, moment)| accepted("transfer", moment.name, [&[place(at)], &moment.payload[..]].concat()))
        .collect();
    let beyond = story().iter().position(|moment| moment.name == "want-chunk").expect("it is asked for");
    let mut want = [&[place(beyond)], &story()[beyond].payload[..]].concat();
    // The last byte is the end of its one span.
    *want.last_mut().expect("it is not empty") += 1;
    seeds.push(refused("transfer", "want-beyond", want));
    seeds
}

fn releases() -> Vec<Seed> {
    let release = |body| Release {
        line: LINE.into(),
        issuer: world().ids[0],
        number: 2,
        parent: Digest([1; 32]),
        root: Digest([2; 32]),
        count: 3,
        effective_from: day(),
        note: "two codes".into(),
        reason: None,
        summary: Default::default(),
        body,
    };
    let inline = release(Body::Inline(b"delta".to_vec()));
    let parts = release(Body::Parts(vec![Digest([3; 32]), Digest([4; 32])]));
    let zero = Release { number: 0, ..inline.clone() };
    vec![
        accepted("release", "inline", encode(&(1u8, inline))),
        accepted("release", "parts", encode(&(1u8, parts))),
        refused("release", "zero", encode(&(1u8, zero))),
    ]
}

fn cbor(texts: &[(Option<u8>, &[&str])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, texts) in texts {
        let mut encoder = Encoder::new(&mut out);
        let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            encoder.array(texts.len() as u64 + u64::from(kind.is_some()))?;
            if let Some(kind) = kind {
                encoder.u8(*kind)?;
            }
            texts.iter().try_for_each(|text| encoder.str(text).map(drop))
        };
        write().expect("a Vec never refuses a write");
    }
    out
}

fn deltas() -> Vec<Seed> {
    let first = cbor(&[
        (Some(0), &["A", "", "set", "", ""]),
        (Some(0), &["", "1", "one", "top", ""]),
        (Some(0), &["", "2", "two", "low", "1"]),
    ]);
    let second = cbor(&[
        (Some(1), &["REGION", "11", "Peking", "1", ""]),
        (Some(0), &["", "12", "Tianjin", "1", ""]),
        (Some(2), &["", "370502"]),
    ]);
    let unordered = cbor(&[(Some(0), &["A", "2", "two", "1", ""]), (Some(0), &["A", "1", "one", "1", ""])]);
    let mut whole = vec![part::WHOLE];
    let mut plain = Vec::new();
    let header = Encoder::new(&mut plain).array(4).and_then(|e| e.u8(1)?.str(LINE)?.u64(1)?.u64(0).map(drop));
    header.expect("a Vec never refuses a write");
    plain.extend_from_slice(&first);
    whole.extend(zstd::encode_all(plain.as_slice(), 1).expect("from memory into memory"));
    vec![
        accepted("delta", "first", [vec![0], first].concat()),
        accepted("delta", "second", [vec![part::SECOND], second].concat()),
        accepted("delta", "whole", whole),
        refused("delta", "unordered", [vec![0], unordered].concat()),
    ]
}

fn snapshots() -> Vec<Seed> {
    let blobs = MemoryBlobs::new();
    snapshot_of_csv("REGION", &mut CODES.as_bytes(), &blobs).expect("a good file");
    let blob = blobs.list().and_then(|all| blobs.open(&all[0])).expect("it is there");
    let mut written = vec![0; usize::try_from(blob.len()).expect("small")];
    blob.read_at(0, &mut written).expect("memory reads");
    let page = cbor(&[(None, &["A", "", "set", "", ""]), (None, &["", "1", "one", "top", ""])]);
    let pages = [vec![1, 1, 0, 2, 0], piece(&page)].concat();
    vec![accepted("snapshot", "written", [vec![0], written].concat()), accepted("snapshot", "pages", pages)]
}

/// Canonical rows: key, day and amount.
fn plain_rows(rows: &[(&str, i32, i64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, day, amount) in rows {
        let mut encoder = Encoder::new(&mut out);
        let row =
            encoder.array(6).and_then(|e| e.str(key)?.i32(*day)?.null()?.i64(*amount)?.i64(3)?.str("CNY").map(drop));
        row.expect("a Vec never refuses a write");
    }
    out
}

fn january(day: u8) -> i32 {
    Date::new(2026, 1, day).expect("it exists").days()
}

fn rows() -> Vec<Seed> {
    let good = plain_rows(&[("1", january(1), 250), ("2", january(2), -999_999_999_999_999_999)]);
    let compressed = zstd::encode_all(good.as_slice(), 1).expect("from memory into memory");
    vec![
        accepted("wire_rows", "two", [vec![0], good].concat()),
        accepted("wire_rows", "compressed", [vec![1], compressed].concat()),
        refused(
            "wire_rows",
            "unordered",
            [vec![0], plain_rows(&[("2", january(1), 1), ("1", january(1), 1)])].concat(),
        ),
        refused("wire_rows", "amount-too-wide", [vec![0], plain_rows(&[("1", january(1), i64::MAX)])].concat()),
        refused("wire_rows", "day-that-is-none", [vec![0], plain_rows(&[("1", i32::MAX, 1)])].concat()),
    ]
}

/// A batch as it travels, with figures that are right.
pub(super) fn batch_of_the_county() -> Vec<u8> {
    let part = PartKey { authority: world().ids[2], month: Month { year: 2026, month: 1 }, system: "pay".into() };
    let rows = plain_rows(&[("1", january(1), 250)]);
    let (spec, totals) = ("mof.payments".into(), Totals::default());
    let batch = Batch { spec, spec_version: 1, part, version: 1, totals, rows: rows.into(), parts: Vec::new() };
    summed(&encode(&batch)).expect("good rows")
}

fn collected() -> Vec<Seed> {
    let batch_of = |system: &str, rows: &[u8], month| {
        let month = Month { year: 2026, month };
        let part = PartKey { authority: world().ids[2], month, system: system.into() };
        let (spec, totals) = ("mof.payments".into(), Totals::default());
        encode(&Batch {
            spec,
            spec_version: 1,
            part,
            version: 1,
            totals,
            rows: rows.to_vec().into(),
            parts: Vec::new(),
        })
    };
    let batch = |rows: &[u8], month| batch_of("pay", rows, month);
    let rows = plain_rows(&[("1", january(1), 250), ("2", january(2), -1)]);
    let mut other = payments();
    (other.id, other.table, other.collector) = ("mof.other".into(), "other".into(), world().ids[1]);
    vec![
        accepted("collected", "spec", [vec![0], encode(&other)].concat()),
        accepted("collected", "batch", [vec![2], batch(&rows, 1)].concat()),
        refused("collected", "figures-of-nothing", [vec![1], batch(&rows, 1)].concat()),
        refused("collected", "another-month", [vec![2], batch(&rows, 2)].concat()),
        refused("collected", "system-of-two-lines", [vec![2], batch_of("pay\nroll", &rows, 1)].concat()),
        refused("collected", "no-month-and-no-rows", [vec![2], batch(&[], 13)].concat()),
    ]
}
