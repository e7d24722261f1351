//! Tests through the public doors, on the disk's faulty twin and on a real directory.

mod backup;
mod base;
mod blobs;
mod crash;
mod damage;
mod engine;
mod format;
mod model;
mod power;
mod shards;
mod writer;

use crate::{Blobs, Config, Disk, Engine, Error, Log, MemoryBlobs, MemoryDisk, Record, Recovery, Stored, Urgency};
use bytes::Bytes;
use std::sync::Arc;

/// The wall clock of tests that do not care.
const NOW: u64 = 1_800_000_000_000;

/// Appends as most callers do.
trait Put {
    fn put(&mut self, records: &[Record]) -> Result<u64, Error>;
}

impl<D: Disk> Put for Engine<D> {
    fn put(&mut self, records: &[Record]) -> Result<u64, Error> {
        self.append(NOW, records, Urgency::Normal)
    }
}

/// A store of files that nobody names.
fn blobs() -> Arc<dyn Blobs> {
    Arc::new(MemoryBlobs::new())
}

/// A journal with small segments.
fn config() -> Config {
    Config { segment_bytes: 32 << 10, cache_bytes: 1 << 10, reserve: 0, shard: 0, salt: 7 }
}

fn open<D: Disk>(disk: D) -> (Engine<D>, Recovery) {
    Engine::open(disk, blobs(), config()).expect("the journal opens")
}

/// A record whose content says which it is.
fn record(number: u64, bytes: usize) -> Record {
    let payload: Vec<u8> = (0..bytes as u64).map(|at| (number * 31 + at * 7 + 1) as u8).collect();
    Record { kind: (number % 5) as u16, payload: Bytes::from(payload) }
}

/// All records, read by number and by replay, which must agree.
fn read_all(log: &dyn Log) -> Vec<Record> {
    let mut replayed = Vec::new();
    log.replay(1, &mut |stored| {
        replayed.push(stored);
        Ok(())
    })
    .expect("every record up to the end can be replayed");
    let read: Vec<Stored> = (1..=log.end()).map(|number| log.read(number).expect("and read")).collect();
    assert_eq!(replayed, read);
    let numbered = read.iter().zip(1..).all(|(stored, number)| stored.number == number);
    assert!(numbered, "records are numbered from 1");
    read.into_iter().map(|stored| Record { kind: stored.kind, payload: stored.payload }).collect()
}

/// Opens the disk and returns what it holds.
fn reopen(disk: &MemoryDisk) -> (Vec<Record>, Recovery) {
    let (engine, recovery) = open(disk.clone());
    (read_all(&engine.reader()), recovery)
}

/// Choices for a crash, from a seed.
fn choices(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    }
}

fn segments(disk: &MemoryDisk) -> Vec<String> {
    let names = disk.list().expect("memory answers");
    names.into_iter().filter(|name| name.ends_with(".segment")).collect()
}
