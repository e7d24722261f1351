//! Every state that a power cut may legally leave, at every operation of small real workloads: recovery finds all that was
//! durable, nothing else than what was given, in order, and calls none of it damage; and what it found stays found.

mod cut;
mod recorder;
mod workloads;

use super::{NOW, choices, record};
use crate::{Config, Disk, Engine, Log, MemoryBlobs, MemoryDisk, Point, Record, Recovery, Urgency, repair, set_back};
use cut::{every_cut, tears};
use jincai_types::RecordNumber;
use recorder::{Known, Moment, Recorder};
use std::collections::HashSet;
use std::sync::Arc;

/// Ways to cut one moment that are tried in every check.
const MOST: usize = 50_000;
/// In every check, one state in so many is cut again at every operation of its recovery.
const SAMPLE: u64 = 10;

/// How far the search goes.
struct Depth {
    most: usize,
    sample: u64,
    all_tears: bool,
}

const SHALLOW: Depth = Depth { most: MOST, sample: SAMPLE, all_tears: false };
const DEEP: Depth = Depth { most: 2_000_000, sample: 40, all_tears: true };

/// A workload and how its journal is configured.
struct Work {
    name: &'static str,
    config: Config,
    recorder: Recorder,
    judge: Judge,
}

/// How a state is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// Nothing but power cuts happened: the journal opens and holds what it must.
    Holds,
    SetBack,
    Repaired,
}

/// What was counted.
#[derive(Default)]
struct Tally {
    moments: usize,
    capped: usize,
    states: usize,
    again: usize,
}

/// What a journal was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    through: RecordNumber,
    last: RecordNumber,
}

/// The record of this number; some are of one block, some of two.
fn numbered(number: RecordNumber) -> Record {
    record(number, if number.is_multiple_of(3) { 5_000 } else { 3_000 })
}

fn open(config: &Config, disk: &MemoryDisk, blobs: &MemoryBlobs) -> (Engine<MemoryDisk>, Recovery) {
    let opened = Engine::open(disk.clone(), Arc::new(blobs.clone()), config.clone());
    opened.unwrap_or_else(|error| {
        // A disk that is full to the last block may refuse; then it refuses only until there is room.
        assert!(error.is_full(), "{error}: {error:?}");
        disk.limit(None);
        Engine::open(disk.clone(), Arc::new(blobs.clone()), config.clone()).expect("there is room now")
    })
}

/// Opens the journal and checks that each record in it is what it was when it was given.
fn look(config: &Config, disk: &MemoryDisk, blobs: &MemoryBlobs) -> (Engine<MemoryDisk>, Recovery, Found) {
    let (engine, recovery) = open(config, disk, blobs);
    assert_eq!((&recovery.quarantine, recovery.covered.len()), (&None, 0), "a power cut is no damage");
    let through = recovery.base.as_ref().map_or(0, |base| base.through);
    let mut next = through + 1;
    let reader = engine.reader();
    reader
        .replay(1, &mut |stored| {
            let Record { kind, payload } = numbered(next);
            assert_eq!((stored.number, stored.kind, &stored.payload), (next, kind, &payload));
            next += 1;
            Ok(())
        })
        .expect("replays");
    assert_eq!(next, recovery.last + 1);
    let found = Found { through, last: recovery.last };
    (engine, recovery, found)
}

/// The journal holds what it must, holds it after another power cut, and goes on from there.
fn holds(config: &Config, disk: &MemoryDisk, blobs: &MemoryBlobs, known: &Known) -> Found {
    let (engine, recovery, found) = look(config, disk, blobs);
    assert!((known.durable..=known.given).contains(&found.last), "{found:?}");
    assert!([known.based, known.basing].contains(&found.through), "{found:?}");
    assert!(!recovery.clean || (known.may_be_clean && found.last == known.given), "{found:?} is called clean");
    assert!(recovery.clean || !known.is_clean, "{found:?} is not called clean");
    drop(engine);
    disk.crash(&mut |_| 0);
    let (mut engine, recovery, again) = look(config, disk, blobs);
    assert_eq!((again, recovery.cut.bytes), (found, 0), "a second recovery changes nothing");
    disk.limit(None);
    engine.append(NOW + 10_000, &[numbered(found.last + 1)], Urgency::Normal).expect("goes on");
    engine.sync().expect("syncs");
    drop(engine);
    disk.crash(&mut |_| 0);
    assert_eq!(look(config, disk, blobs).2, Found { last: found.last + 1, ..found });
    found
}

/// Cuts the power at every operation of a state's recovery: what it found without that, it still finds.
fn cut_recovery(config: &Config, (disk, blobs): (&MemoryDisk, &MemoryBlobs), found: Found, seed: u64) -> usize {
    for stop in 0.. {
        let (cut, store) = (disk.fork(), blobs.copy());
        cut.stop_after(stop);
        let done = Engine::open(cut.clone(), Arc::new(store.clone()), config.clone()).is_ok();
        cut.crash(&mut choices(seed.wrapping_add(stop)));
        assert_eq!(look(config, &cut, &store).2, found, "recovery was cut after {stop} operations");
        if done {
            return usize::try_from(stop).expect("few") + 1;
        }
    }
    0
}

fn search(work: &Work, depth: &Depth) -> Tally {
    let mut tally = Tally::default();
    let mut seen = HashSet::new();
    let tears = tears(depth.all_tears);
    for Moment { next, disk, blobs, known } in work.recorder.moments() {
        tally.moments += 1;
        let all = every_cut(&disk, &tears, depth.most, &mut |state| {
            let fingerprint = state.fingerprint();
            let files = crate::Blobs::list(&blobs).expect("memory").len();
            if !seen.insert((fingerprint, known, files)) {
                return;
            }
            tally.states += 1;
            let (untouched, store) = (state.fork(), blobs.copy());
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match work.judge {
                Judge::SetBack => workloads::set_back_again(&work.config, &state, &store, &known),
                Judge::Repaired => workloads::repaired_again(&work.config, &state, &store, &known),
                Judge::Holds => {
                    let found = holds(&work.config, &state, &store, &known);
                    if fingerprint.is_multiple_of(depth.sample) {
                        tally.again += cut_recovery(&work.config, (&untouched, &blobs), found, fingerprint);
                    }
                }
            }));
            assert!(judged.is_ok(), "{}: the power was cut before «{next}», with {known:?} known", work.name);
        });
        tally.capped += usize::from(!all);
    }
    tally
}

fn check(depth: &Depth) {
    let mut sum = Tally::default();
    for work in workloads::all() {
        let tally = search(&work, depth);
        let Tally { moments, capped, states, again } = tally;
        println!("{}: {moments} moments ({capped} capped), {states} states, {again} cuts in recovery", work.name);
        assert!(capped * 20 <= moments, "{}: too many moments are not searched to their end", work.name);
        sum.moments += moments;
        sum.capped += capped;
        sum.states += states;
        sum.again += again;
    }
    let Tally { moments, capped, states, again } = sum;
    println!("all: {moments} moments ({capped} capped), {states} states, {again} cuts in recovery");
    assert!(states > 4_000, "so few states prove little");
}

#[test]
fn every_legal_state_after_a_power_cut_recovers() {
    check(&SHALLOW);
}

/// As above, without its limits: minutes. Part of `make soak`.
#[test]
#[ignore = "takes minutes; make soak runs it"]
fn every_legal_state_after_a_power_cut_recovers_in_depth() {
    check(&DEEP);
}
