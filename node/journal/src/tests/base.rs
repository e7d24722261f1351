//! Bases: what they replace is gone, what they cover is found, what they need and lack is noticed.

use super::{NOW, Put as _, choices, config, record, segments};
use crate::{
    Base, Blobs, Config, Disk, Engine, Error, Log, MemoryBlobs, MemoryDisk, Record, Recovery, prepare_base,
    read_snapshot, verify,
};
use jincai_types::{Digest, RecordNumber};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn open(disk: &MemoryDisk, blobs: &MemoryBlobs) -> Result<(Engine<MemoryDisk>, Recovery), Error> {
    Engine::open(disk.clone(), Arc::new(blobs.clone()), config())
}

/// Appends records up to this number, each its own commit, and syncs.
pub(super) fn fill(engine: &mut Engine<MemoryDisk>, last: RecordNumber) {
    for number in engine.next_number()..=last {
        engine.put(&[record(number, 3000)]).expect("appends");
    }
    engine.sync().expect("syncs");
}

/// Takes a checkpoint whose snapshot says how far it goes.
pub(super) fn checkpoint(
    engine: &mut Engine<MemoryDisk>,
    blobs: &MemoryBlobs,
    through: RecordNumber,
    live: &[RecordNumber],
) -> Base {
    let live: BTreeSet<_> = live.iter().copied().collect();
    let base = prepare_base(&engine.reader(), blobs, through, &through.to_le_bytes(), &live).expect("prepares");
    engine.checkpoint(NOW, base.clone()).expect("takes the checkpoint");
    base
}

/// Everything behind the base and all live records are there and as they were.
pub(super) fn check(log: &dyn Log, through: RecordNumber, last: RecordNumber, live: &[RecordNumber]) {
    assert_eq!(log.end(), last);
    let mut next = through + 1;
    log.replay(1, &mut |stored| {
        assert_eq!((stored.number, &stored.payload), (next, &record(next, 3000).payload));
        next += 1;
        Ok(())
    })
    .expect("replays");
    assert_eq!(next, last + 1);
    for number in (through + 1..=last).chain(live.iter().copied()) {
        let Record { kind, payload } = record(number, 3000);
        let stored = log.read(number).expect("a record that is needed");
        assert_eq!((stored.number, stored.kind, stored.payload), (number, kind, payload));
    }
}

/// A journal of several segments whose base covers 20 of its 30 records, and has 3 and 17 carried.
fn with_base() -> (MemoryDisk, MemoryBlobs, Base) {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 24);
    let base = checkpoint(&mut engine, &blobs, 20, &[3, 17]);
    fill(&mut engine, 30);
    engine.mark(NOW).expect("marks");
    (disk, blobs, base)
}

#[test]
fn a_checkpoint_replaces_segments_and_keeps_what_is_needed() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!(recovery.base, None);
    fill(&mut engine, 24);
    assert_eq!(segments(&disk).len(), 4, "seven records a segment");
    let base = checkpoint(&mut engine, &blobs, 20, &[3, 17]);
    assert_eq!(engine.next_number(), 25, "a base takes no number");
    assert_eq!(segments(&disk), ["0000000000000003.segment", "0000000000000004.segment", "0000000000000005.segment"]);
    fill(&mut engine, 30);
    let reader = engine.reader();
    check(&reader, 20, 30, &[3, 17]);
    assert!(matches!(reader.read(4), Err(Error::NoRecord { number: 4, last: 30 })));
    assert_eq!(reader.base().as_ref(), Some(&base));
    drop(engine);
    let report = verify(&disk, &blobs).expect("verifies");
    assert!(report.chain_whole && report.covered.is_empty() && report.damage.is_empty(), "{report:?}");
    assert_eq!((report.base.as_ref(), report.carried, report.files), (Some(&base), 2, 2));
    let (engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!((recovery.base.as_ref(), recovery.last), (Some(&base), 30));
    assert_eq!((recovery.quarantine, recovery.covered), (None, vec![]));
    assert_eq!(read_snapshot(&blobs, &base).expect("whole"), 20u64.to_le_bytes());
    check(&engine.reader(), 20, 30, &[3, 17]);
}

#[test]
fn a_newer_base_replaces_the_older_and_its_files() {
    let (disk, blobs, first) = with_base();
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    let second = checkpoint(&mut engine, &blobs, 30, &[3, 17, 29]);
    assert_eq!(second.carried[0], first.carried[0], "all of the older carry file is live");
    assert_eq!(blobs.list().expect("lists").into_iter().collect::<BTreeSet<_>>(), second.files());
    assert_eq!(segments(&disk).len(), 1, "the base's own");
    check(&engine.reader(), 30, 30, &[3, 17, 29]);
    let third = checkpoint(&mut engine, &blobs, 30, &[17]);
    assert_eq!(third.carried, [first.carried[0]], "half of it is still live");
    let fourth = checkpoint(&mut engine, &blobs, 30, &[]);
    assert_eq!(fourth.carried, [] as [Digest; 0]);
    drop(engine);
    for _ in 0..3 {
        let (engine, recovery) = open(&disk, &blobs).expect("restarts at rest keep the base's segment");
        assert_eq!((recovery.base.as_ref(), recovery.quarantine), (Some(&fourth), None));
        check(&engine.reader(), 30, 30, &[]);
    }
}

#[test]
fn carry_files_with_little_left_are_written_again() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 24);
    let many: Vec<u64> = (1..=20).collect();
    let first = checkpoint(&mut engine, &blobs, 20, &many);
    let second = checkpoint(&mut engine, &blobs, 20, &many[10..]);
    assert_eq!(second.carried, first.carried);
    let third = checkpoint(&mut engine, &blobs, 20, &many[11..]);
    assert_ne!(third.carried, first.carried);
    check(&engine.reader(), 20, 24, &many[11..]);
    assert!(engine.reader().read(11).is_err());
    // One file a checkpoint does not add up to any number of files.
    for through in 25..=60 {
        fill(&mut engine, through);
        let live: Vec<u64> = (25..=through).collect();
        let base = checkpoint(&mut engine, &blobs, through, &live);
        assert!(base.carried.len() <= 16, "{}", base.carried.len());
        check(&engine.reader(), through, through, &live);
    }
}

#[test]
fn a_base_that_does_not_fit_is_refused_and_nothing_is_written() {
    let (disk, blobs, base) = with_base();
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    let operations = disk.operations();
    for through in [31, 19] {
        let refused = engine.checkpoint(NOW, Base { through, ..base.clone() });
        assert!(matches!(refused, Err(Error::BaseRefused { .. })), "{through}");
    }
    let refused = engine.checkpoint(NOW, Base { carried: vec![base.carried[0]; 17], ..base.clone() });
    assert!(matches!(refused, Err(Error::BaseRefused { .. })));
    let missing = Digest([5; 32]);
    for base in [Base { snapshot: missing, ..base.clone() }, Base { carried: vec![missing], ..base.clone() }] {
        assert!(matches!(engine.checkpoint(NOW, base), Err(Error::BlobDamaged { digest, .. }) if digest == missing));
    }
    assert_eq!(disk.operations(), operations);
    engine.checkpoint(NOW, base).expect("the same again is fine");
}

#[test]
fn missing_and_damaged_files_of_the_base_are_named_and_nothing_is_written() {
    let (_, _, base) = with_base();
    for digest in base.files() {
        let (disk, blobs, _) = with_base();
        let operations = disk.operations();
        let damages = |blobs: &MemoryBlobs| {
            let failed = open(&disk, blobs).map(|_| ());
            assert!(matches!(failed, Err(Error::BlobDamaged { digest: named, .. }) if named == digest), "{failed:?}");
            assert_eq!(verify(&disk, blobs).expect("verifies").damaged_files, [digest]);
        };
        let blob = blobs.open(&digest).expect("opens");
        let length = blob.len();
        for bit in [0, length * 8 - 1, (length - 8) * 8] {
            blobs.flip_bit(&digest, bit);
            damages(&blobs);
            blobs.flip_bit(&digest, bit);
        }
        blobs.remove(&digest).expect("removes");
        damages(&blobs);
        assert_eq!(disk.operations(), operations);
    }
}

#[test]
fn a_bit_flipped_anywhere_in_a_carry_file_is_noticed() {
    let (disk, blobs, base) = with_base();
    let digest = base.carried[0];
    let length = blobs.open(&digest).expect("opens").len();
    for byte in 0..length {
        blobs.flip_bit(&digest, byte * 8 + byte % 8);
        if let Ok((engine, _)) = open(&disk, &blobs) {
            let reader = engine.reader();
            let both = [3, 17].map(|number| reader.read(number).map(|stored| stored.payload));
            let altered =
                both.iter().zip([3, 17]).any(|(read, n)| read.as_ref().is_ok_and(|r| *r != record(n, 3000).payload));
            assert!(!altered, "byte {byte}");
            // Record 17 is in a segment too, and read from there.
            let reserved = (8..16).contains(&byte) || (3036..6056).contains(&byte);
            assert!(reserved || both.iter().any(Result::is_err), "byte {byte}");
        }
        blobs.flip_bit(&digest, byte * 8 + byte % 8);
    }
}

#[test]
fn damage_that_the_base_covers_is_an_alarm_and_not_quarantine() {
    let (disk, blobs, base) = with_base();
    let name = &segments(&disk)[0];
    // The first segment that is left holds records 15 to 21: damage to 16 is covered, damage to 21 is not.
    disk.flip_bit(name, (2 * 4096 + 200) * 8).expect("flips");
    let report = verify(&disk, &blobs).expect("verifies");
    assert_eq!((report.covered.len(), report.damage.len(), report.chain_whole), (1, 0, true));
    let (mut engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!((recovery.quarantine, recovery.covered.len(), recovery.base), (None, 1, Some(base)));
    check(&engine.reader(), 20, 30, &[3, 17]);
    fill(&mut engine, 33);
    drop(engine);
    let (engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!((recovery.covered.len(), recovery.clean), (1, false), "the alarm stays as long as the damage");
    check(&engine.reader(), 20, 33, &[3, 17]);
}

#[test]
fn damage_behind_the_base_is_quarantine_at_the_damage_or_the_snapshot() {
    // Record 21 lies before the base's own commit and 27 behind it.
    for (segment, block, last) in [(0, 7, 20), (2, 5, 26)] {
        let (disk, blobs, base) = with_base();
        disk.flip_bit(&segments(&disk)[segment], (block * 4096 + 200) * 8).expect("flips");
        let operations = disk.operations();
        let (mut engine, recovery) = open(&disk, &blobs).expect("opens");
        assert!(recovery.quarantine.is_some() && recovery.covered.is_empty());
        assert_eq!((recovery.last, recovery.base.as_ref()), (last, Some(&base)));
        check(&engine.reader(), 20, last, &[3, 17]);
        assert!(matches!(engine.reader().read(last + 1), Err(Error::Quarantined(_))));
        assert!(matches!(engine.checkpoint(NOW, base), Err(Error::Quarantined(_))));
        assert_eq!(disk.operations(), operations);
    }
}

#[test]
fn a_block_that_cannot_be_read_is_damage() {
    let count = segments(&with_base().0).len();
    for (segment, block) in (0..count).flat_map(|segment| (0..8).map(move |block| (segment, block))) {
        let (disk, blobs, _) = with_base();
        disk.make_unreadable(&segments(&disk)[segment], block).expect("is there");
        let (engine, recovery) = open(&disk, &blobs).expect("opens");
        let reader = engine.reader();
        let covered = segment == 0 && (1..=6).contains(&block);
        // Behind the last record there is only the mark that says so, and zeros.
        let unwritten = (segment == 1 && block > 3) || (segment == 3 && block > 1);
        match (covered, unwritten) {
            (true, _) => assert!(recovery.quarantine.is_none() && recovery.covered.len() == 1, "{segment} {block}"),
            (_, true) => assert!(recovery.quarantine.is_none(), "{segment} {block}"),
            _ => assert!(recovery.quarantine.is_some(), "{segment} {block}"),
        }
        let through = recovery.base.map_or(0, |base| base.through);
        check(&reader, through, recovery.last, &[]);
    }
}

#[test]
fn lost_segments_are_noticed_unless_nothing_needs_them() {
    for lost in 0..3 {
        let (disk, blobs, _) = with_base();
        disk.remove(&segments(&disk)[lost]).expect("removes");
        let (engine, recovery) = open(&disk, &blobs).expect("opens");
        assert!(recovery.quarantine.is_some(), "{lost}");
        let through = recovery.base.map_or(0, |base| base.through);
        check(&engine.reader(), through, recovery.last, &[]);
    }
    // Of a journal whose base covers the whole of its first segment that segment is not missed.
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 24);
    let forked = disk.fork();
    let base = prepare_base(&engine.reader(), &blobs, 20, b"state", &BTreeSet::new()).expect("prepares");
    disk.stop_after(u64::MAX);
    engine.checkpoint(NOW, base).expect("takes the checkpoint");
    let name = &segments(&forked)[1];
    let (from, mut bytes) = (forked.open(name).expect("opens"), vec![0; 32 << 10]);
    from.read_at(0, &mut bytes).expect("reads");
    disk.replace(name, &bytes).expect("brings back the second of the segments that were removed, without the first");
    let (engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!((recovery.quarantine, recovery.covered), (None, vec![]));
    check(&engine.reader(), 20, 24, &[]);
    assert_eq!(segments(&disk).first(), Some(&"0000000000000003.segment".to_owned()));
}

#[test]
fn a_power_cut_at_every_operation_of_a_checkpoint_leaves_the_old_base_or_the_new() {
    let mut seen = [0; 2];
    for (stop, seed) in (0..24).flat_map(|stop| (0..40).map(move |seed| (stop, seed))) {
        let (disk, blobs, first) = with_base();
        let (mut engine, _) = open(&disk, &blobs).expect("opens");
        fill(&mut engine, 40);
        let live = BTreeSet::from([3, 38]);
        let second = prepare_base(&engine.reader(), &blobs, 39, b"newer", &live).expect("prepares");
        disk.stop_after(stop);
        let done = engine.checkpoint(NOW, second.clone()).is_ok();
        drop(engine);
        disk.crash(&mut choices(seed * 100 + stop));
        let (engine, recovery) = open(&disk, &blobs).expect("the files of the base that counts are there");
        assert_eq!((recovery.quarantine, recovery.covered), (None, vec![]));
        let is_new = recovery.base.as_ref() == Some(&second);
        assert!(is_new || (!done && recovery.base == Some(first)), "stopped after {stop}, seed {seed}");
        seen[usize::from(is_new)] += 1;
        let reader = engine.reader();
        let (through, live) = if is_new { (39, [3, 38]) } else { (20, [3, 17]) };
        check(&reader, through, 40, &live);
        if is_new {
            assert_eq!(blobs.list().expect("lists").into_iter().collect::<BTreeSet<_>>(), second.files(), "no leak");
        }
    }
    assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
}

#[test]
fn a_flipped_bit_in_a_base_is_damage_and_not_silence() {
    let (disk, ..) = with_base();
    let name = segments(&disk)[2].clone();
    for byte in (0..4096 + 128 + 80).chain(2 * 4096..2 * 4096 + 128) {
        let (disk, blobs, base) = with_base();
        disk.flip_bit(&name, byte * 8 + byte % 8).expect("flips");
        let (engine, recovery) = open(&disk, &blobs).expect("opens");
        if recovery.quarantine.is_none() {
            assert_eq!(recovery.base, Some(base), "byte {byte}");
            check(&engine.reader(), 20, 30, &[3, 17]);
        } else {
            check(&engine.reader(), recovery.base.map_or(0, |base| base.through), recovery.last, &[]);
        }
        let in_header = (4096..4096 + 128).contains(&byte);
        assert!(!in_header || disk.operations() > 0);
    }
}

#[test]
fn a_replay_and_a_read_go_on_while_segments_are_removed() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let config = Config { cache_bytes: 0, ..config() };
    let (mut engine, _) = Engine::open(disk, Arc::new(blobs.clone()), config).expect("opens");
    fill(&mut engine, 40);
    let reader = engine.reader();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            for _ in 0..200 {
                for number in [5, 12, 33, 40] {
                    assert_eq!(reader.read(number).expect("it is live").payload, record(number, 3000).payload);
                }
            }
        });
        for through in [10, 20, 30, 39] {
            checkpoint(&mut engine, &blobs, through, &[5, 12, 33]);
        }
        reading.join().expect("reads");
    });
}

#[test]
fn what_was_prepared_and_never_handed_over_is_removed_at_the_next_start() {
    let (disk, blobs, base) = with_base();
    let mut other = blobs.create().expect("begins");
    other.write(b"JCCARRY").and_then(|()| other.write(&[0; 99])).expect("writes");
    let other = other.finish().expect("a file of somebody else's");
    let (engine, _) = open(&disk, &blobs).expect("opens");
    let live = (21..=26).collect();
    let prepared = prepare_base(&engine.reader(), &blobs, 26, b"state", &live).expect("prepares");
    let orphans: BTreeSet<Digest> = prepared.carried.iter().copied().filter(|d| !base.carried.contains(d)).collect();
    assert!(!orphans.is_empty());
    // As after a kill: the engine is gone, and its owner has not removed them.
    drop(engine);
    let (engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!(recovery.base, Some(base.clone()));
    let left: BTreeSet<Digest> = blobs.list().expect("lists").into_iter().collect();
    assert!(left.is_disjoint(&orphans) && left.is_superset(&base.files()) && left.contains(&other));
    check(&engine.reader(), 20, 30, &[3, 17]);
}
