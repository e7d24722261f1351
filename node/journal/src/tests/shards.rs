//! Two journals of one node, each with a directory of its own: neither knows of the other, and their files never mix.

use super::{Put as _, blobs, config, read_all, record, segments};
use crate::{Blobs, Config, DirBlobs, DirDisk, Disk, Engine, Error, Log, MemoryDisk, Record, Recovery, verify};
use std::path::Path;
use std::sync::Arc;

fn shard(shard: u32) -> Config {
    Config { shard, ..config() }
}

fn open<D: Disk>(disk: D, number: u32) -> Result<(Engine<D>, Recovery), Error> {
    Engine::open(disk, blobs(), shard(number))
}

/// What a shard's journal is given: no two shards have a record in common.
fn model(shard: u32, count: u64) -> Vec<Record> {
    (1..=count).map(|number| record(u64::from(shard) * 1000 + number, 6_000)).collect()
}

/// A journal of several segments.
fn filled(number: u32) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone(), number).expect("opens");
    model(number, 12).iter().for_each(|record| {
        engine.put(std::slice::from_ref(record)).expect("appends");
    });
    engine.close(super::NOW).expect("closes");
    disk
}

/// Lays a copy of a file of one disk into another.
fn lay(from: &MemoryDisk, name: &str, to: &MemoryDisk, as_name: &str) {
    let file = from.open(name).expect("is there");
    let mut bytes = vec![0; file.length().expect("memory answers") as usize];
    file.read_at(0, &mut bytes).expect("reads");
    to.replace(as_name, &bytes).expect("writes");
    to.sync_dir().expect("syncs");
}

#[test]
fn two_shards_of_one_process_work_side_by_side() {
    let root = tempfile::tempdir().expect("a directory");
    let path = |number: u32| root.path().join(format!("shard-{number}"));
    let files = |number: u32| -> Arc<dyn Blobs> {
        Arc::new(DirBlobs::open(&path(number).join("files")).expect("a store under the journal"))
    };
    let start = |number: u32| {
        std::fs::create_dir_all(path(number)).expect("creates");
        let disk = DirDisk::open(&path(number)).expect("each has a lock of its own");
        Engine::open(disk, files(number), shard(number)).expect("opens")
    };
    let mut engines = [start(0).0, start(1).0];
    for (number, engine) in (0..).zip(&mut engines) {
        let again: &Path = &path(number);
        assert!(matches!(DirDisk::open(again).map(|_| ()), Err(Error::Locked { .. })));
        assert_eq!(engine.next_number(), 1);
    }
    let models = [model(0, 9), model(1, 14)];
    // In turns, so that each rolls and syncs between the other's commits; the one is behind the other.
    for at in 0..14 {
        for (engine, model) in engines.iter_mut().zip(&models) {
            if let Some(record) = model.get(at) {
                engine.put(std::slice::from_ref(record)).expect("appends");
            }
            if at % 3 == 0 {
                engine.sync().expect("syncs");
            }
        }
    }
    let [mut first, second] = engines;
    assert_eq!((first.next_number(), second.next_number()), (10, 15));
    second.close(super::NOW).expect("closes");
    // The one goes on while the other is down and comes back.
    first.put(&[record(10, 10)]).expect("appends");
    first.sync().expect("syncs");
    let (second, recovery) = start(1);
    assert!(recovery.clean);
    assert_eq!(read_all(&second.reader()), models[1]);
    drop(first);
    let (first, recovery) = start(0);
    assert!(!recovery.clean, "that the other was closed says nothing of this one");
    assert_eq!(recovery.quarantine, None);
    assert_eq!(read_all(&first.reader()), [models[0].clone(), vec![record(10, 10)]].concat());
}

#[test]
fn the_files_of_one_shard_opened_as_another_are_refused_untouched() {
    for (written, opened) in [(0, 1), (1, 0), (1, 2)] {
        let disk = filled(written);
        let (operations, image) = (disk.operations(), disk.fingerprint());
        let refused = open(disk.clone(), opened).map(|_| ()).expect_err("it is not ours");
        assert!(matches!(refused, Error::Shard { found, wanted } if (found, wanted) == (written, opened)));
        assert_eq!(refused.code(), "JC-1111");
        assert_eq!((disk.operations(), disk.fingerprint()), (operations, image));
        let (engine, recovery) = open(disk, written).expect("its own still opens");
        assert!(recovery.clean);
        assert_eq!(read_all(&engine.reader()), model(written, 12));
    }
}

#[test]
fn a_segment_of_another_shard_is_noticed_wherever_it_lies_and_never_merged() {
    let other = filled(1);
    let foreign = segments(&other);
    let names = segments(&filled(0));
    assert!(names.len() > 2 && foreign == names, "both have the same names");
    for name in &names {
        let disk = filled(0);
        lay(&other, name, &disk, name);
        let (operations, image) = (disk.operations(), disk.fingerprint());
        let opened = open(disk.clone(), 0);
        if *name == names[0] {
            // The first segment says whose journal it is: all of it is refused.
            assert!(matches!(opened.map(|_| ()), Err(Error::Shard { found: 1, wanted: 0 })));
        } else {
            let (engine, recovery) = opened.expect("opens for reading");
            let quarantine = recovery.quarantine.expect("a segment is lost");
            assert_eq!(quarantine.reason, "the segment belongs to another shard");
            let kept = read_all_up_to(&engine, recovery.last);
            assert_eq!(kept, model(0, 12)[..kept.len()]);
            assert!(kept.len() < 12);
        }
        assert_eq!((disk.operations(), disk.fingerprint()), (operations, image), "nothing was written");
    }
}

#[test]
fn a_segment_of_another_shard_beyond_the_newest_is_noticed_and_kept() {
    let other = filled(1);
    let foreign = segments(&other);
    let newest = foreign.last().expect("there are some");
    // A journal of one segment, beside which a higher one of the other shard was put.
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone(), 0).expect("opens");
    engine.put(&model(0, 1)).expect("appends");
    engine.close(super::NOW).expect("closes");
    lay(&other, newest, &disk, newest);
    let report = verify(&disk, &*blobs()).expect("verifies");
    let (engine, recovery) = open(disk.clone(), 0).expect("opens");
    assert!(recovery.quarantine.is_some(), "{recovery:?}, {report:?}");
    assert!(segments(&disk).contains(newest), "bytes of another journal are not ours to remove");
    assert_eq!(read_all_up_to(&engine, recovery.last), model(0, 1));
}

fn read_all_up_to<D: Disk>(engine: &Engine<D>, last: u64) -> Vec<Record> {
    let reader = engine.reader();
    let read = |number| reader.read(number).expect("up to the damage all is well");
    (1..=last).map(read).map(|stored| Record { kind: stored.kind, payload: stored.payload }).collect()
}
