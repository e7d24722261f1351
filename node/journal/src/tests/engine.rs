//! Append, read, roll, limits, poison; the same on a real directory.

use super::{NOW, Put as _, blobs, config, open, read_all, record, reopen, segments};
use crate::{
    COMMIT_BYTES_MAX, Config, DirDisk, Disk, Engine, Error, Log, MemoryDisk, RECORD_BYTES_MAX, Record, verify,
};
use bytes::Bytes;

fn payload(bytes: usize) -> Record {
    Record { kind: 1, payload: Bytes::from(vec![9; bytes]) }
}

#[test]
fn records_are_read_back_from_cache_and_disk_across_segments() {
    let disk = MemoryDisk::new();
    let (mut engine, recovery) = open(disk.clone());
    assert_eq!((recovery.clean, recovery.last, recovery.quarantine), (false, 0, None));
    let reader = engine.reader();
    let mut model = Vec::new();
    for commit in 0..40u64 {
        let records: Vec<Record> =
            (0..commit % 4).map(|at| record(model.len() as u64 + at, 700 * at as usize)).collect();
        model.extend(records.iter().cloned());
        assert_eq!(engine.put(&records).expect("appends"), model.len() as u64);
        assert_eq!(read_all(&reader), model, "what is not durable can be read too");
    }
    assert!(engine.durable() < model.len() as u64);
    assert_eq!(engine.sync().expect("syncs"), model.len() as u64);
    assert_eq!((engine.durable(), engine.next_number()), (model.len() as u64, model.len() as u64 + 1));
    assert!(segments(&disk).len() > 3, "the journal has rolled");
    assert!(matches!(reader.read(0), Err(Error::NoRecord { number: 0, .. })));
    assert!(matches!(reader.read(reader.end() + 1), Err(Error::NoRecord { .. })));
    engine.close(NOW).expect("closes");
    let (found, recovery) = reopen(&disk);
    assert_eq!(found, model);
    assert!(recovery.clean);
}

#[test]
fn a_replay_starts_anywhere_and_ends_when_told() {
    let (mut engine, _) = open(MemoryDisk::new());
    for first in [0, 3, 6] {
        engine.put(&[record(first, 9), record(first + 1, 9), record(first + 2, 9)]).expect("appends");
    }
    let reader = engine.reader();
    let mut seen = Vec::new();
    let ended = reader.replay(5, &mut |stored| {
        seen.push(stored.number);
        if stored.number == 8 { Err(Error::Stopped) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(Error::Stopped)));
    assert_eq!(seen, [5, 6, 7, 8]);
    reader.replay(10, &mut |_| panic!("nothing lies behind the end")).expect("an empty replay");
}

#[test]
fn limits_are_kept_and_refusals_change_nothing() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    let refused = engine.put(&[payload(RECORD_BYTES_MAX + 1)]);
    assert!(matches!(refused, Err(Error::TooLarge { what: "a record", .. })));
    let refused = engine.put(&vec![payload(RECORD_BYTES_MAX); 32]);
    assert!(matches!(refused, Err(Error::TooLarge { what: "a commit", .. })));
    let most = vec![payload(COMMIT_BYTES_MAX / 32 - 64); 32];
    engine.put(&[payload(1)]).expect("a small one");
    assert_eq!(engine.put(&most).expect("a commit larger than a segment gets its own"), 33);
    engine.put(&[payload(2)]).expect("and another small one");
    engine.sync().expect("syncs");
    let (found, _) = reopen(&disk);
    assert_eq!(found.iter().map(|r| r.payload.len()).sum::<usize>(), 3 + 32 * (COMMIT_BYTES_MAX / 32 - 64));
}

#[test]
fn a_failed_sync_poisons_every_later_call() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    engine.put(&[record(0, 10)]).expect("appends");
    engine.sync().expect("syncs");
    engine.put(&[record(1, 10)]).expect("appends");
    disk.fail_next_sync();
    assert!(matches!(engine.sync(), Err(Error::Io { .. })));
    assert!(matches!(engine.sync(), Err(Error::Poisoned)));
    assert!(matches!(engine.put(&[record(2, 10)]), Err(Error::Poisoned)));
    assert!(matches!(engine.mark(NOW), Err(Error::Poisoned)));
    assert_eq!(engine.durable(), 1);
    assert_eq!(engine.reader().read(1).expect("reads go on").payload, record(0, 10).payload);
    assert!(matches!(engine.close(NOW), Err(Error::Poisoned)));
    // What the failed sync left in the page cache looks whole. It is copied, or lost, but not half trusted.
    let (found, _) = reopen(&disk);
    assert_eq!(found, [record(0, 10), record(1, 10)]);
    disk.crash(&mut |_| 0);
    assert_eq!(reopen(&disk).0, found, "recovery made it durable");
}

#[test]
fn a_mark_is_written_once_and_only_after_records() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    let operations = disk.operations();
    engine.mark(NOW).expect("nothing to mark");
    assert_eq!(disk.operations(), operations);
    engine.put(&[record(0, 10)]).expect("appends");
    engine.mark(NOW).expect("marks");
    assert_eq!(engine.durable(), 1, "a mark makes what precedes it durable");
    let operations = disk.operations();
    engine.mark(NOW).expect("marked already");
    assert_eq!(disk.operations(), operations);
    disk.crash(&mut |_| 0);
    assert_eq!(verify(&disk, &*blobs()).expect("verifies").commits, 2, "the mark is durable too");
}

#[test]
fn only_a_closing_mark_makes_the_next_start_clean() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    engine.put(&[record(0, 10)]).expect("appends");
    engine.mark(NOW).expect("marks");
    drop(engine);
    let (engine, recovery) = open(disk.clone());
    assert!(!recovery.clean, "an idle mark is none");
    engine.close(NOW).expect("closes");
    assert!(verify(&disk, &*blobs()).expect("verifies").clean);
    let (engine, recovery) = open(disk.clone());
    assert!(recovery.clean);
    drop(engine);
    let (mut engine, recovery) = open(disk.clone());
    assert!(!recovery.clean, "the run after the clean one did not close");
    engine.put(&[record(1, 10)]).expect("appends");
    engine.close(NOW).expect("closes");
    let (found, recovery) = reopen(&disk);
    assert!(recovery.clean);
    assert_eq!(found, [record(0, 10), record(1, 10)]);
}

#[test]
fn restarts_do_not_pile_up_files() {
    let disk = MemoryDisk::new();
    for _ in 0..10 {
        drop(open(disk.clone()));
    }
    assert_eq!(segments(&disk).len(), 1);
}

#[test]
fn a_wrong_setting_is_refused() {
    let with =
        |segment_bytes| Engine::open(MemoryDisk::new(), blobs(), Config { segment_bytes, ..config() }).map(|_| ());
    for bytes in [0, 4096, 8193, (4 << 30) + 4096] {
        assert!(matches!(with(bytes), Err(Error::SegmentBytes { .. })), "{bytes}");
    }
    with(8192).expect("the smallest");
    let disk = MemoryDisk::new();
    drop(open(disk.clone()));
    let other = Engine::open(disk, blobs(), Config { shard: 1, ..config() });
    assert!(matches!(other.map(|_| ()), Err(Error::Shard { found: 0, wanted: 1 })));
}

#[test]
fn a_real_directory_keeps_records_and_refuses_a_second_opener() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("journal");
    let disk = || DirDisk::open(&path);
    let (mut engine, _) = open(disk().expect("opens"));
    assert!(matches!(disk().map(|_| ()), Err(Error::Locked { .. })));
    let mut model = Vec::new();
    for number in 0..30 {
        model.push(record(number, number as usize * 100));
        engine.put(&model[number as usize..]).expect("appends");
    }
    engine.sync().expect("syncs");
    assert_eq!(read_all(&engine.reader()), model);
    drop(engine);
    let (engine, recovery) = open(disk().expect("the lock is gone with the engine"));
    assert_eq!((recovery.clean, recovery.last), (false, 30));
    assert_eq!(read_all(&engine.reader()), model);
    engine.close(NOW).expect("closes");
    let report = verify(&disk().expect("opens"), &*blobs()).expect("verifies");
    assert!(report.chain_whole && report.clean && report.records == 30, "{report:?}");
    let unknown = disk().expect("opens").open("missing").map(|_| ());
    assert!(matches!(unknown, Err(Error::Io { operation: "open", .. })));
}

#[test]
fn a_file_that_was_prepared_is_used_and_nothing_is_left_of_others() {
    const NEXT: &str = "NEXT.new";
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join(NEXT), b"of a run before").expect("writes");
    let disk = DirDisk::open(directory.path()).expect("opens");
    let is_there = || directory.path().join(NEXT).exists();
    assert!(!is_there());
    disk.prepare(8192);
    disk.prepare(8192);
    disk.create("other", 4096).expect("one of another length");
    let file = disk.create("one", 8192).expect("the one that was prepared");
    assert!(!is_there() && disk.list().expect("lists").contains(&"one".to_owned()));
    let mut bytes = [1; 8192];
    file.read_at(0, &mut bytes).expect("reads");
    assert_eq!((file.length().expect("has a length"), bytes), (8192, [0; 8192]));
    disk.prepare(8192);
    disk.unprepare();
    assert!(!is_there());
    disk.prepare(8192);
    disk.create("one", 8192).map(|_| ()).expect_err("the name is taken, whatever was prepared");
    disk.prepare(8192);
    drop(disk);
    assert!(!is_there());
}

#[test]
fn blocks_and_pieces_of_them_are_written_alike() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = DirDisk::open(directory.path()).expect("opens");
    let file = disk.create("file", 4 * 4096).expect("creates");
    let memory = vec![7; 3 * 4096];
    let aligned = memory.as_ptr().align_offset(4096);
    let mut model = vec![0; 4 * 4096];
    for (offset, from, length) in [(4096, aligned, 4096), (4096, aligned + 1, 4096), (8192, aligned, 100), (5, 0, 9)] {
        let mut bytes = memory[from..from + length].to_vec();
        file.write_at(offset as u64, &memory[from..from + length]).expect("writes");
        model[offset..offset + length].copy_from_slice(&bytes);
        file.read_at(offset as u64, &mut bytes).expect("reads");
        assert_eq!(bytes, &memory[from..from + length]);
    }
    file.sync().expect("syncs");
    let mut read = vec![0; 4 * 4096];
    disk.open("file").and_then(|file| file.read_at(0, &mut read)).expect("reads");
    assert_eq!(read, model);
}

#[test]
fn a_segment_that_leaves_no_room_for_head_is_taken_back() {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    let length = |name: &String| disk.open(name).and_then(|file| file.length()).expect("memory answers");
    let used: u64 = disk.list().expect("lists").iter().map(|name| length(name).next_multiple_of(4096)).sum();
    disk.limit(Some(used + config().segment_bytes));
    let before = segments(&disk);
    let mut model = Vec::new();
    let refused = loop {
        let next = record(model.len() as u64, 9_000);
        match engine.put(std::slice::from_ref(&next)) {
            Ok(_) => model.push(next),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full), "{refused}");
    assert_eq!(segments(&disk), before);
    disk.limit(None);
    model.push(record(99, 9));
    engine.append(NOW + 10_000, &model[model.len() - 1..], crate::Urgency::Normal).expect("there is room again");
    engine.sync().expect("syncs");
    assert_eq!(reopen(&disk).0, model);
}

#[test]
fn what_is_urgent_finds_room_as_soon_as_there_is_some() {
    let disk = MemoryDisk::new();
    let config = Config { segment_bytes: 64 << 10, ..config() };
    let (mut engine, _) = Engine::open(disk.clone(), blobs(), config).expect("opens");
    disk.limit(Some(0));
    let mut model: Vec<Record> = Vec::new();
    let mut give = |engine: &mut Engine<MemoryDisk>| {
        let next = record(model.len() as u64, 9_000);
        let given = engine.append(NOW, std::slice::from_ref(&next), crate::Urgency::Reserve);
        model.extend(given.is_ok().then_some(next));
        given
    };
    let refused = loop {
        if let Err(error) = give(&mut engine) {
            break error;
        }
    };
    assert!(matches!(refused, Error::Full), "{refused}");
    disk.limit(None);
    give(&mut engine).expect("that there was no room a moment ago does not matter");
    engine.sync().expect("syncs");
    assert_eq!(reopen(&disk).0, model);
}
