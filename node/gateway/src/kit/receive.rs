//! Cases of receiving.

use super::bench::{Bench, Said, Sealed};
use super::sut::entry;
use super::{Failure, Judged, wrong};
use crate::clock;
use crate::error::Error;
use jincai_core::NOTE;
use jincai_crypto::{BatchView, ItemView, KeyRing, Recipient, SealInput, SystemEntropy, seal};
use jincai_exchange::{Frame, Outgoing};
use jincai_types::{Attributes, Destination, Epoch, Lane, LanePosition, Level, Priority, Requirement, encode, limits};

const TEXT: &str = "paid 12.50";

pub(super) fn hello(bench: &mut Bench) -> Judged {
    let (authority, epoch) = (bench.world.ministry, bench.core().exchange().epoch());
    let (known, restored) = (Epoch::default(), false);
    let asks = Frame::Hello { low: 1, high: 1, authority, epoch, heard: false, known, restored };
    bench.barrier()?;
    let from = bench.said.len();
    bench.put_frame(asks.to_bytes())?;
    let wanted = bench.world.province.to_string();
    bench.wait("its hello", |bench| {
        let hello = bench.said.iter().skip(from).find_map(|said| match said {
            Said::Hello(greeting) => Some(greeting),
            _ => None,
        });
        match hello {
            Some(hello) if hello.authority != wanted => wrong(format!("it calls itself {}", hello.authority)),
            Some(hello) if !(hello.versions.0..=hello.versions.1).contains(&1) => {
                wrong(format!("it speaks versions {} to {}", hello.versions.0, hello.versions.1))
            }
            found => Ok(found.map(|_| ())),
        }
    })
}

pub(super) fn batch(bench: &mut Bench) -> Judged {
    let first = bench.record(&[("one", TEXT), ("two", ""), ("three", "第三条")])?;
    bench.receipt(&first)?;
    let second = bench.record(&[("four", TEXT)])?;
    bench.receipt(&second)?;
    bench.all_applied()
}

pub(super) fn group(bench: &mut Bench) -> Judged {
    let ministry = bench.world.ministry;
    let groups =
        [(Destination::Below(ministry), "to-all"), (Destination::Level(ministry, Level::Province), "to-provinces")];
    for (to, id) in groups {
        let sealed = bench.seal(to, Priority::Record, &[(id, TEXT)])?;
        bench.receipt(&sealed)?;
    }
    bench.all_applied()
}

pub(super) fn applied_receipt(bench: &mut Bench) -> Judged {
    let sealed = bench.record(&[("one", TEXT), ("two", TEXT)])?;
    let name = format!("receipt:{}", sealed.lane);
    let to = Some(Destination::Authority(bench.world.ministry));
    bench.wait(&format!("its slot «{name}»"), |bench| {
        let issuer = bench.world.province;
        for said in &bench.said {
            let Said::Slot(slot, Some(receipt)) = said else { continue };
            if slot.name == name {
                let names = (slot.version, slot.issuer, slot.to, receipt.lane, receipt.refusals);
                return match names == (1, issuer, to, sealed.lane, 0) {
                    true => Ok((receipt.position == sealed.end).then_some(())),
                    false => wrong(format!("its slot «{name}» has another version, issuer, addressee, lane or count")),
                };
            }
        }
        Ok(None)
    })?;
    bench.all_applied()
}

pub(super) fn duplicate(bench: &mut Bench) -> Judged {
    let first = bench.record(&[("one", TEXT)])?;
    bench.receipt(&first)?;
    let second = bench.record(&[("two", TEXT)])?;
    bench.receipt(&second)?;
    // Whatever else it says of these has been said then.
    bench.barrier()?;
    let from = bench.said.len();
    bench.put_batch(&second)?;
    bench.put_batch(&second)?;
    bench.receipt_since(from, &second)?;
    bench.put_batch(&first)?;
    bench.barrier()?;
    bench.all_applied()
}

pub(super) fn gap(bench: &mut Bench) -> Judged {
    bench.gates.out = false;
    let first = bench.record(&[("one", TEXT)])?;
    let second = bench.record(&[("two", TEXT)])?;
    bench.put_batch(&second)?;
    let lane = first.lane;
    bench.wait("it to ask for what is missing", |bench| {
        let asked = bench
            .said
            .iter()
            .any(|said| matches!(said, Said::Gap(of, have) if *of == lane && *have == LanePosition::START));
        Ok(asked.then_some(()))
    })?;
    if bench.signed_since(0, &second) {
        return wrong("it signs for a batch before it has what comes before that");
    }
    bench.gates.out = true;
    bench.put_batch(&first)?;
    bench.put_batch(&second)?;
    bench.receipt(&second)?;
    bench.all_applied()
}

/// A good batch with one byte in the middle of a part of it changed; a part that is empty cannot be.
fn altered_copy(sealed: &Sealed, part: &[u8]) -> Option<Sealed> {
    let mut other = part.to_vec();
    *other.get_mut(part.len() / 2)? ^= 1;
    replaced(sealed, part, &other)
}

/// A batch with one part of it, where it first stands, replaced by another of its length.
fn replaced(sealed: &Sealed, part: &[u8], other: &[u8]) -> Option<Sealed> {
    let at = sealed.bytes.windows(part.len()).position(|window| window == part)?;
    let mut bytes = sealed.bytes.clone();
    bytes.get_mut(at..at + other.len())?.copy_from_slice(other);
    Some(Sealed { bytes, ..sealed.clone() })
}

/// Only what production code refuses may be held against somebody who takes it.
fn refused_by_us(bench: &Bench, copy: &Sealed) -> bool {
    BatchView::parse(&copy.bytes).and_then(|view| view.verify(&bench.world.directory)).is_err()
}

/// Sends bad copies of a batch that it has not had yet; then the good one must be taken as if they had never come.
fn bad_copies(bench: &mut Bench, good: &Sealed, copies: Vec<Sealed>, ids: &[&str]) -> Judged {
    for copy in copies.iter().filter(|copy| refused_by_us(bench, copy)) {
        bench.put_frame(copy.frame())?;
    }
    bench.barrier()?;
    if bench.sut.applied()?.iter().any(|line| ids.contains(&line.id.as_str())) {
        return wrong("it applies what is not as its origin signed it");
    }
    bench.put_batch(good)?;
    bench.receipt(good)?;
    bench.all_applied()
}

pub(super) fn altered(bench: &mut Bench) -> Judged {
    bench.gates.out = false;
    let good = bench.record(&[("one", TEXT), ("two", TEXT)])?;
    let copies = altered_copies(bench, &good)?;
    bad_copies(bench, &good, copies, &["one", "two"])
}

/// Here no encryption stands between: what is signed is all that tells.
pub(super) fn altered_group(bench: &mut Bench) -> Judged {
    bench.gates.out = false;
    let to = Destination::Below(bench.world.ministry);
    let good = bench.seal(to, Priority::Record, &[("three", TEXT), ("four", TEXT)])?;
    let copies = altered_copies(bench, &good)?;
    bad_copies(bench, &good, copies, &["three", "four"])
}

/// Copies of which one message is another: by its source, which everybody can read, its content, its commitment.
fn altered_copies(bench: &Bench, good: &Sealed) -> Result<Vec<Sealed>, Failure> {
    let source = bench.world.ministry.to_string();
    let view = BatchView::parse(&good.bytes)?;
    let changed = |item: &ItemView<'_>| {
        let at = item.attributes.windows(source.len()).position(|window| window == source.as_bytes());
        let attributes = at.and_then(|at| {
            let mut other = item.attributes.to_vec();
            other.get_mut(at).into_iter().for_each(|digit| *digit ^= 1);
            replaced(good, item.attributes, &other)
        });
        let parts = [item.content, item.commitment].into_iter().filter_map(|part| altered_copy(good, part));
        attributes.into_iter().chain(parts).collect::<Vec<_>>()
    };
    Ok(view.items.iter().flat_map(changed).collect())
}

pub(super) fn forged(bench: &mut Bench) -> Judged {
    bench.gates.out = false;
    let good = bench.record(&[("one", TEXT)])?;
    let view = BatchView::parse(&good.bytes)?;
    // The signature ends the statement's COSE_Sign1, and that of the wrapped keys ends theirs, before the list of items.
    let statement = view.statement_bytes();
    let signature = statement.get(statement.len().saturating_sub(64)..).unwrap_or_default();
    let mut copies: Vec<Sealed> = altered_copy(&good, signature).into_iter().collect();
    let wraps_end = view
        .items
        .first()
        .and_then(|item| good.bytes.windows(item.attributes.len()).position(|window| window == item.attributes));
    if let Some(end) = wraps_end {
        // Some bytes of CBOR stand between: the last of the signature is well before them.
        let mut bytes = good.bytes.clone();
        bytes.get_mut(end.saturating_sub(24)).into_iter().for_each(|byte| *byte ^= 1);
        copies.push(Sealed { bytes, ..good.clone() });
    }
    let stranger = forge(bench, &bench.world.stranger, (good.lane, LanePosition::START), "forged")?;
    copies.push(stranger);
    bad_copies(bench, &good, copies, &["one", "forged"])
}

/// A batch that the neighbour's core has not made, behind a place on a lane.
fn forge(bench: &Bench, by: &KeyRing, place: (Lane, LanePosition), id: &str) -> Result<Sealed, Failure> {
    let (lane, previous) = place;
    let epoch = if previous == LanePosition::START { Epoch { number: 1, salt: 1 } } else { previous.epoch };
    let (source, now) = (lane.origin.to_string(), clock::now());
    let attributes = Attributes { id: id.into(), source, kind: NOTE.into(), time: now, ..Attributes::default() };
    let messages = [(encode(&attributes), TEXT.as_bytes().to_vec())];
    // It can be opened whatever its lane says: that must not be a reason to take it.
    let key = bench.world.province_encryption()?;
    let recipients = [bench.world.elsewhere, bench.world.province].map(|authority| Recipient { authority, key });
    let first = previous.next_in(epoch);
    let input = SealInput { lane, epoch, first, previous, messages: &messages, recipients: &recipients, now };
    let (bytes, end) = seal(&input, by, &mut SystemEntropy::default())?;
    Ok(Sealed { lane, end, bytes })
}

pub(super) fn destination(bench: &mut Bench) -> Judged {
    let lane = Lane {
        origin: bench.world.ministry,
        destination: Destination::Authority(bench.world.elsewhere),
        class: Priority::Record,
    };
    let stray = forge(bench, &bench.world.ministry_keys, (lane, LanePosition::START), "stray")?;
    bench.put_frame(stray.frame())?;
    bench.barrier()?;
    let good = bench.record(&[("one", TEXT)])?;
    bench.receipt(&good)?;
    bench.all_applied()
}

pub(super) fn fork(bench: &mut Bench) -> Judged {
    let first = bench.record(&[("one", TEXT)])?;
    bench.receipt(&first)?;
    let second = bench.record(&[("two", TEXT)])?;
    bench.receipt(&second)?;
    let other = forge(bench, &bench.world.ministry_keys, (first.lane, first.end), "another-two")?;
    bench.put_frame(other.frame())?;
    bench.gates.out = false;
    let third = bench.record(&[("three", TEXT)])?;
    bench.not_expected(&["three"]);
    bench.put_batch(&third)?;
    bench.barrier()?;
    if bench.signed_since(0, &third) {
        return wrong("it goes on with a lane whose origin has signed two batches for one place");
    }
    bench.all_applied()
}

pub(super) fn requires(bench: &mut Bench) -> Judged {
    let lane = bench.record(&[("before", TEXT)])?.lane;
    let attributes = Attributes {
        id: "waits".into(),
        source: bench.world.ministry.to_string(),
        kind: NOTE.into(),
        time: clock::now(),
        requires: vec![Requirement::Release { line: "national".into(), number: 99 }],
        ..Attributes::default()
    };
    let (destination, class, payload) = (lane.destination, lane.class, TEXT.as_bytes().to_vec());
    bench.core().submit(Outgoing { destination, class, attributes, payload })?;
    let waits = bench.sealed_now(lane)?;
    let behind = bench.record(&[("behind", TEXT)])?;
    bench.not_expected(&["behind"]);
    bench.receipt(&waits)?;
    bench.receipt(&behind)?;
    bench.barrier()?;
    bench.all_applied()
}

pub(super) fn partial(bench: &mut Bench) -> Judged {
    // The neighbour's own first look clears away what an earlier run left half-written: that must be over.
    bench.barrier()?;
    bench.gates.out = false;
    let good = bench.record(&[("one", TEXT)])?;
    let whole = entry(&good.frame());
    let name = |counter: u32| format!("2-{counter:016x}-00000000000000aa.frame");
    let half = whole.get(..whole.len() / 2).unwrap_or_default();
    let zeros = [half, &vec![0; whole.len() - half.len()][..]].concat();
    let part = format!(".{}.part", name(1));
    bench.sut.put(&part, &whole)?;
    bench.sut.put("notes.txt", &whole)?;
    bench.sut.put("2-1-2.frame", &whole)?;
    bench.sut.put(&name(2), half)?;
    bench.sut.put(&name(3), &zeros)?;
    bench.sut.put(&name(4), &[])?;
    bench.barrier()?;
    if !bench.sut.path("to-sut").join(&part).exists() {
        return wrong("it removes a file that is still being written");
    }
    if bench.sut.applied()?.iter().any(|line| line.id == "one") {
        return wrong("it reads a file that is not whole, or whose name says that it is no frame");
    }
    // Now it is whole.
    bench.let_through(&good);
    let (from, to) = (bench.sut.path("to-sut").join(&part), bench.sut.path("to-sut").join(name(1)));
    std::fs::rename(&from, &to).map_err(|source| Error::File { path: to, source })?;
    bench.receipt(&good)?;
    bench.all_applied()
}

pub(super) fn unknown_frame(bench: &mut Bench) -> Judged {
    // A kind beyond the last, no CBOR, another shape, a number that is not written as short as can be.
    for frame in [&[0x82, 0x17, 0x80][..], b"no frame", &[0x80], &[0x82, 0x18, 0x07, 0x81, 0xf5]] {
        bench.put_frame(frame.to_vec())?;
    }
    bench.sut.put("0-0000000000000001-00000000000000bb.frame", &entry(&vec![7; limits::FRAME_BYTES + 1]))?;
    bench.sut.put("0-0000000000000002-00000000000000bb.frame", b"JCP1\xff\xff\xff\xff")?;
    bench.barrier()?;
    let good = bench.record(&[("one", TEXT)])?;
    bench.receipt(&good)?;
    bench.all_applied()
}
