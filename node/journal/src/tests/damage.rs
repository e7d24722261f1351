//! Damage below the durable mark: flipped bits, lost, swapped, copied and rolled-back files. Never a lost or altered record.

use super::{NOW, Put as _, blobs, config, open, record, reopen, segments};
use crate::format::{HEAD, HEAD_BYTES};
use crate::{Disk, Engine, Error, Log, MemoryDisk, Record, verify};

/// A log of several segments that ends with a mark, after a restart in its middle.
fn log(records: u64) -> (MemoryDisk, Vec<Record>) {
    let disk = MemoryDisk::new();
    let model: Vec<Record> = (0..records).map(|number| record(number, 900 * (number as usize % 4))).collect();
    let (mut engine, _) = open(disk.clone());
    for (at, one) in model.iter().enumerate() {
        if at as u64 == records / 2 {
            engine.put(std::slice::from_ref(one)).expect("appends");
            engine = open(disk.clone()).0;
            continue;
        }
        engine.put(std::slice::from_ref(one)).expect("appends");
        engine.sync().expect("syncs");
    }
    engine.mark(NOW).expect("marks");
    (disk, model)
}

/// Opens a damaged disk: everything is there, or it is quarantined with a readable beginning and refuses to be written.
fn check(disk: &MemoryDisk, model: &[Record], what: &str) -> bool {
    let before = disk.operations();
    let (found, recovery) = reopen(disk);
    if recovery.quarantine.is_none() {
        assert_eq!(found, model, "{what}");
        return false;
    }
    assert_eq!(found, model[..found.len()], "{what}");
    assert_eq!(disk.operations(), before, "{what}: nothing is written in quarantine");
    let (mut engine, _) = open(disk.clone());
    assert!(matches!(engine.put(&[record(0, 1)]), Err(Error::Quarantined(_))), "{what}");
    assert!(matches!(engine.sync(), Err(Error::Quarantined(_))), "{what}");
    assert!(matches!(engine.reader().read(found.len() as u64 + 1), Err(Error::Quarantined(_))), "{what}");
    let report = verify(disk, &*blobs()).expect("verifies");
    assert_eq!(recovery.quarantine, report.damage.first().cloned(), "{what}");
    assert!(!report.chain_whole);
    true
}

#[test]
fn a_bit_flipped_at_any_offset_loses_and_alters_nothing() {
    let (disk, _) = log(8);
    let mut files: Vec<(String, u64)> = vec![(HEAD.into(), HEAD_BYTES as u64)];
    for name in segments(&disk) {
        let length = disk.open(&name).and_then(|file| file.length()).expect("answers");
        files.push((name, length));
    }
    assert_eq!(files.len(), 3);
    let mut quarantined = 0;
    for (name, length) in &files {
        for offset in 0..*length {
            let (disk, model) = log(8);
            disk.flip_bit(name, offset * 8 + offset % 8).expect("flips");
            quarantined += u64::from(check(&disk, &model, &format!("{name} at {offset}")));
        }
    }
    assert!(quarantined > 2000, "headers, entries and payloads are covered: {quarantined}");
}

/// Damages a log of many segments, and wants quarantine.
fn quarantines(what: &str, damage: impl Fn(&MemoryDisk, &[String])) {
    let (disk, model) = log(60);
    damage(&disk, &segments(&disk));
    assert!(check(&disk, &model, what), "{what}");
}

fn contents(disk: &MemoryDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).expect("opens");
    let mut bytes = vec![0; file.length().expect("answers") as usize];
    file.read_at(0, &mut bytes).expect("reads");
    bytes
}

#[test]
fn lost_swapped_and_copied_files_are_found_out() {
    assert!(segments(&log(60).0).len() > 5);
    for at in 0..5 {
        quarantines("a lost segment", |disk, names| disk.remove(&names[at]).expect("removes"));
    }
    quarantines("the newest lost", |disk, names| disk.remove(&names[names.len() - 1]).expect("removes"));
    quarantines("all lost", |disk, names| names.iter().for_each(|name| disk.remove(name).expect("removes")));
    quarantines("a copy of another segment", |disk, names| {
        let other = contents(disk, &names[1]);
        disk.replace(&names[2], &other).expect("replaces");
    });
    quarantines("two segments swapped", |disk, names| {
        let (one, two) = (contents(disk, &names[1]), contents(disk, &names[2]));
        disk.replace(&names[1], &two).expect("replaces");
        disk.replace(&names[2], &one).expect("replaces");
    });
    quarantines("a segment of another journal", |disk, names| {
        // It has the same numbers and the same salt; only its records are others.
        let other = MemoryDisk::new();
        let (mut engine, _) = open(other.clone());
        for number in 0..40 {
            engine.put(&[record(number + 1, 900 * (number as usize % 4))]).expect("appends");
        }
        let foreign = contents(&other, &segments(&other)[2]);
        disk.replace(&names[2], &foreign).expect("replaces");
    });
    quarantines("a commit of another journal", |disk, names| {
        let other = MemoryDisk::new();
        let (mut engine, _) = open(other.clone());
        engine.put(&[Record { kind: 9, payload: record(9, 9).payload }]).expect("appends");
        // Same place, same salt, same position, same number of records: only the chain tells.
        let foreign = contents(&other, &segments(&other)[0]);
        disk.open(&names[0]).and_then(|file| file.write_at(4096, &foreign[4096..8192])).expect("writes");
    });
    quarantines("an old segment cut short", |disk, names| {
        disk.open(&names[1]).and_then(|file| file.truncate(2 * 4096)).expect("truncates");
    });
    quarantines("the newest cut short below its mark", |disk, names| {
        let newest = &names[names.len() - 1];
        disk.open(newest).and_then(|file| file.write_at(4096, &[0; 4096])).expect("writes");
    });
}

#[test]
fn what_recovery_copied_counts_as_durable() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    let model = [record(0, 100), record(1, 100)];
    engine.put(&model).expect("appends");
    drop(open(disk.clone()));
    assert_eq!(segments(&disk).len(), 1);
    disk.open(&segments(&disk)[0]).and_then(|file| file.truncate(4096)).expect("truncates");
    assert!(check(&disk, &model, "the copy is lost, and nothing follows it"));
}

#[test]
fn without_head_the_segments_speak_for_themselves() {
    let (disk, model) = log(60);
    disk.remove(HEAD).expect("removes");
    assert!(!check(&disk, &model, "HEAD removed"));
    let (disk, model) = log(60);
    disk.replace(HEAD, b"nonsense").expect("replaces");
    assert!(!check(&disk, &model, "HEAD overwritten"));
    let (disk, _) = log(60);
    disk.remove(HEAD).expect("removes");
    disk.flip_bit(&segments(&disk)[0], 100).expect("flips");
    assert!(reopen(&disk).1.quarantine.is_some(), "a journal without HEAD and header is no new journal");
}

#[test]
fn verify_lists_every_damage_and_goes_on() {
    let (disk, _) = log(60);
    let whole = verify(&disk, &*blobs()).expect("verifies");
    assert!(whole.chain_whole && whole.damage.is_empty() && whole.records == 60, "{whole:?}");
    assert_eq!(whole.bytes, whole.commits * 4096);
    let names = segments(&disk);
    disk.flip_bit(&names[1], (4096 + 130) * 8).expect("flips");
    disk.flip_bit(&names[3], (2 * 4096 + 60) * 8).expect("flips");
    let report = verify(&disk, &*blobs()).expect("verifies");
    let found: Vec<u64> = report.damage.iter().map(|damage| damage.segment).collect();
    assert_eq!(found, [2, 4]);
    assert_eq!(report.records, 58, "what lies behind damage is counted");
}

#[test]
fn a_record_damaged_while_the_journal_is_open_is_an_error() {
    let disk = MemoryDisk::new();
    let (mut engine, _) =
        Engine::open(disk.clone(), blobs(), crate::Config { cache_bytes: 0, ..config() }).expect("opens");
    engine.put(&[record(0, 100), record(1, 100)]).expect("appends");
    let reader = engine.reader();
    let name = &segments(&disk)[0];
    for byte in 4096 + 128 + 24..4096 + 128 + 48 {
        disk.flip_bit(name, byte * 8 + 3).expect("flips");
        // Two bytes of the entry are reserved, but its checksum covers them too.
        assert!(reader.read(2).is_err(), "byte {byte}");
        assert!(reader.read(1).is_ok(), "byte {byte}");
        assert!(reader.replay(1, &mut |_| Ok(())).is_err(), "byte {byte}");
        disk.flip_bit(name, byte * 8 + 3).expect("flips back");
    }
    disk.flip_bit(name, (4096 + 128 + 48 + 100) * 8).expect("flips");
    assert!(matches!(reader.read(2), Err(Error::Damaged { number: 2, .. })));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (disk, _) = log(8);
    let name = &segments(&disk)[0];
    let mut bytes = contents(&disk, name);
    bytes[12] = 2;
    let crc = crc32c::crc32c(&bytes[12..128]).to_le_bytes();
    bytes[8..12].copy_from_slice(&crc);
    disk.replace(name, &bytes).expect("replaces");
    let operations = disk.operations();
    let refused = Engine::open(disk.clone(), blobs(), config()).map(|_| ());
    assert!(matches!(refused, Err(Error::Version { segment: 1, version: 2, known: 1 })));
    assert_eq!(disk.operations(), operations);
}

#[test]
fn a_payload_that_holds_a_commit_is_not_taken_for_one() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    engine.put(&[record(0, 100)]).expect("appends");
    let copy = contents(&disk, &segments(&disk)[0]);
    // The copy's blocks lie at block boundaries of the payload, and the payload at one of the file.
    let mut payload = vec![0; 4096 - 128 - 24];
    payload.extend(&copy[..3 * 4096]);
    let model = [record(0, 100), Record { kind: 3, payload: payload.into() }];
    engine.put(&model[1..]).expect("appends");
    engine.mark(NOW).expect("marks");
    // With the header in front of it damaged, every block of the payload is looked at.
    disk.flip_bit(&segments(&disk)[0], (2 * 4096 + 50) * 8).expect("flips");
    assert!(check(&disk, &model, "an embedded commit"));
}
