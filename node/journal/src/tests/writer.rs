//! The writer's thread: order, durability, failure, closing, idle marks.

use super::{blobs, open, record, reopen};
use crate::{Config, DirDisk, Engine, Error, Journal, Log, MemoryDisk, Progress, Urgency, verify};
use std::sync::mpsc::{Receiver, sync_channel};

type Told = Receiver<Result<Progress, Error>>;

fn start<D: crate::Disk>(engine: Engine<D>) -> (Journal, Told) {
    let (send, told) = sync_channel(100_000);
    let journal =
        Journal::start(engine, Box::new(|| 5), Box::new(move |told| send.send(told).expect("the test listens")));
    (journal.expect("the thread starts"), told)
}

#[test]
fn many_threads_share_commits_and_keep_their_order() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = Config { segment_bytes: 1 << 20, ..Config::default() };
    let (engine, _) = Engine::open(DirDisk::open(directory.path()).expect("opens"), blobs(), config).expect("opens");
    let reader = engine.reader();
    let (journal, told) = start(engine);
    std::thread::scope(|scope| {
        for thread in 0..8u16 {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..200 {
                    let mut one = record(number, 500);
                    one.kind = thread;
                    journal.append(vec![one.clone(), one], Urgency::Normal).expect("submits");
                }
            });
        }
    });
    journal.close().expect("closes");
    let told: Vec<u64> = told.iter().map(|told| told.expect("no failure").durable).collect();
    assert!(told.is_sorted_by(|a, b| a < b));
    assert_eq!(told.last(), Some(&3200));
    assert!(told.len() <= 1600, "submissions shared commits at times: {}", told.len());
    let mut next = [0; 8];
    reader
        .replay(1, &mut |stored| {
            let thread = usize::from(stored.kind);
            assert_eq!(stored.payload, record(next[thread] / 2, 500).payload);
            next[thread] += 1;
            Ok(())
        })
        .expect("replays");
    assert_eq!(next, [400; 8]);
}

#[test]
fn what_was_told_durable_survives_a_power_cut_and_a_drop_is_unclean() {
    let disk = MemoryDisk::new();
    let (journal, told) = start(open(disk.clone()).0);
    (0..50).for_each(|number| journal.append(vec![record(number, 100)], Urgency::Normal).expect("submits"));
    drop(journal);
    let last = told.iter().last().expect("something was told").expect("no failure").durable;
    assert_eq!(last, 50, "a drop commits what was submitted");
    disk.crash(&mut |_| 0);
    let (found, recovery) = reopen(&disk);
    assert_eq!((found.len(), recovery.clean), (50, false));
}

#[test]
fn a_failed_sync_is_told_once_and_ends_everything() {
    let disk = MemoryDisk::new();
    let (journal, told) = start(open(disk.clone()).0);
    disk.fail_next_sync();
    journal.append(vec![record(0, 100)], Urgency::Normal).expect("submits");
    assert!(matches!(told.recv(), Ok(Err(Error::Io { .. }))));
    assert!(told.recv().is_err(), "the thread has ended");
    // The thread drops the callback before it says farewell or after; either way the journal refuses in the end.
    while journal.append(vec![record(1, 100)], Urgency::Normal).is_ok() {
        std::thread::yield_now();
    }
    assert!(matches!(journal.append(vec![record(1, 100)], Urgency::Normal), Err(Error::Ended)));
    assert!(matches!(journal.close(), Err(Error::Poisoned)));
}

#[test]
fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let disk = MemoryDisk::new();
    let (engine, _) = Engine::open(disk, blobs(), Config { cache_bytes: 0, ..Config::default() }).expect("opens");
    let reader = engine.reader();
    let (journal, _told) = start(engine);
    for number in 0..12 {
        journal.append(vec![record(number, 2 << 20), record(number, 2 << 20)], Urgency::Normal).expect("submits");
    }
    journal.close().expect("closes");
    assert_eq!(reader.end(), 24);
    assert_eq!(reader.read(24).expect("reads").payload.len(), 2 << 20);
}

#[test]
fn an_idle_journal_is_marked() {
    let disk = MemoryDisk::new();
    let (journal, told) = start(open(disk.clone()).0);
    journal.append(vec![record(0, 100)], Urgency::Normal).expect("submits");
    assert_eq!(told.recv().expect("told").expect("durable").durable, 1);
    while verify(&disk, &*blobs()).expect("verifies").commits < 2 {
        std::thread::yield_now();
    }
    journal.close().expect("closes");
    assert_eq!(verify(&disk, &*blobs()).expect("verifies").commits, 3, "one record, one mark, one closing mark");
}
