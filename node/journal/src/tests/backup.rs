//! Backups, restores to a point in time, and repairs from a copy.

use super::base::{checkpoint, fill, open};
use super::{NOW, Put as _, choices, record, segments};
use crate::{
    BackupFile, Blobs, Disk, Engine, Error, MemoryBlobs, MemoryDisk, Point, Urgency, backup, repair, set_back, verify,
};
use std::sync::Arc;

/// Takes a backup into a disk and a store of their own.
fn take(engine: &Engine<MemoryDisk>, blobs: &MemoryBlobs) -> (MemoryDisk, MemoryBlobs, crate::BackupReport) {
    let (disk, store) = (MemoryDisk::new(), MemoryBlobs::new());
    let report = backup(&engine.reader(), blobs, &mut |file, length, read| {
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).expect("memory");
        assert_eq!(bytes.len() as u64, length);
        match file {
            BackupFile::Journal(name) => disk.create(name, length)?.write_at(0, &bytes)?,
            BackupFile::Blob(digest) => {
                let mut writer = store.create()?;
                writer.write(&bytes)?;
                assert_eq!(writer.finish()?, *digest);
            }
        }
        Ok(())
    });
    disk.list().expect("memory").iter().for_each(|name| disk.open(name).and_then(|f| f.sync()).expect("memory"));
    disk.sync_dir().expect("memory");
    (disk, store, report.expect("a backup"))
}

#[test]
fn a_backup_of_a_running_journal_restores_what_was_durable_then() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 24);
    checkpoint(&mut engine, &blobs, 20, &[3, 17]);
    fill(&mut engine, 30);
    engine.put(&[record(31, 3000)]).expect("appended, not durable");
    let (copy, store, report) = take(&engine, &blobs);
    assert_eq!((report.through, report.last, report.time), (20, 30, NOW));
    fill(&mut engine, 40);

    let done = set_back(&copy, Point::End).expect("whole");
    assert_eq!((done.last, done.time), (30, NOW));
    let (mut engine, recovery) = open(&copy, &store).expect("opens");
    assert!(recovery.restored && recovery.quarantine.is_none());
    super::base::check(&engine.reader(), 20, 30, &[3, 17]);
    // Until the owner has acted on it, every start says so.
    let (second, recovery) = open(&copy.durable_copy(), &store).expect("opens");
    assert!(recovery.restored);
    drop(second);
    engine.acknowledge_restore().expect("acknowledged");
    fill(&mut engine, 33);
    let (engine, recovery) = open(&copy.durable_copy(), &store).expect("opens");
    assert!(!recovery.restored);
    super::base::check(&engine.reader(), 20, 33, &[3, 17]);
}

#[test]
fn what_a_backup_reads_is_not_removed_meanwhile() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 24);
    let first = checkpoint(&mut engine, &blobs, 20, &[3]);
    fill(&mut engine, 30);
    let reader = engine.reader();
    let before = segments(&disk);
    let mut read = Vec::new();
    let report = backup(&reader, &blobs, &mut |file, _, _| {
        if read.is_empty() {
            checkpoint(&mut engine, &blobs, 30, &[3]);
            fill(&mut engine, 60);
        }
        read.push(file.clone());
        Ok(())
    });
    assert_eq!(report.expect("a backup").last, 30);
    assert!(first.files().iter().all(|digest| read.contains(&BackupFile::Blob(*digest))));
    assert!(before.iter().all(|name| segments(&disk).contains(name)), "pinned until the backup ended");
    engine.mark(NOW).expect("marks");
    assert!(!segments(&disk).contains(&before[0]), "and removed after it");
}

#[test]
fn a_journal_is_set_back_to_any_record_and_time() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    for number in 1..=40 {
        engine.append(NOW + number * 1000, &[record(number, 3000)], Urgency::Normal).expect("appends");
        engine.sync().expect("syncs");
        if number == 24 {
            let base = crate::prepare_base(&engine.reader(), &blobs, 20, b"20", &[3].into()).expect("prepares");
            engine.checkpoint(NOW + 24_000, base).expect("taken");
        }
    }
    for last in 24..=40 {
        for point in [Point::Record(last), Point::Time(NOW + last * 1000), Point::Time(NOW + last * 1000 + 999)] {
            let (copy, store, _) = take(&engine, &blobs);
            let done = set_back(&copy, point).expect("a point that is there");
            assert_eq!((done.last, done.time), (last, NOW + last * 1000), "{point:?}");
            let (engine, recovery) = open(&copy, &store).expect("opens");
            assert!(recovery.restored);
            super::base::check(&engine.reader(), 20, last, &[3]);
        }
    }
    let (copy, _, _) = take(&engine, &blobs);
    let image = copy.fork();
    for point in [Point::Record(23), Point::Record(41), Point::Time(NOW + 23_999)] {
        let refused = set_back(&copy, point).expect_err("no such point");
        assert!(matches!(refused, Error::NoSuchPoint { from: 24, to: 40 }), "{point:?}: {refused}");
    }
    assert_eq!(copy.list().expect("memory"), image.list().expect("memory"), "nothing was written");
}

#[test]
fn without_a_copy_a_damaged_journal_is_set_back_to_before_the_hole() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 30);
    engine.close(NOW).expect("closes");
    let names = segments(&disk);
    // The third commit of the third segment: records 1 to 7 lie in the first.
    disk.flip_bit(&names[2], (4096 * 3 + 500) * 8).expect("flips");
    assert!(matches!(set_back(&disk, Point::End), Err(Error::Quarantined(_))));
    assert!(matches!(set_back(&disk, Point::Record(30)), Err(Error::Quarantined(_))));
    let done = set_back(&disk, Point::BeforeDamage).expect("there is something before it");
    let (engine, recovery) = open(&disk, &blobs).expect("opens");
    assert_eq!((recovery.restored, recovery.quarantine), (true, None));
    super::base::check(&engine.reader(), 0, done.last, &[]);
    assert!((14..21).contains(&done.last), "{}", done.last);
}

/// Damages of every kind, and whether the journal is whole afterwards.
#[test]
fn a_copy_repairs_flipped_lost_and_missing_parts() {
    for seed in 0..300 {
        let mut choose = choices(seed);
        let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
        let (mut engine, _) = open(&disk, &blobs).expect("opens");
        fill(&mut engine, 24);
        let base = checkpoint(&mut engine, &blobs, 20, &[3, 17]);
        fill(&mut engine, 34);
        let (copy, store, _) = take(&engine, &blobs);
        fill(&mut engine, 40);
        engine.close(NOW).expect("closes");
        let copied = segments(&copy);
        for _ in 0..=choose(3) {
            let name = &copied[choose(copied.len())];
            match choose(4) {
                0 if Some(name) != copied.last() => {
                    // It may be gone already. The last one has grown since, so that no copy has all of it.
                    drop(disk.remove(name));
                    disk.sync_dir().expect("memory");
                }
                1 => {
                    let files: Vec<_> = base.files().into_iter().collect();
                    blobs.remove(&files[choose(files.len())]).expect("memory");
                }
                2 => {
                    let files: Vec<_> = base.files().into_iter().collect();
                    let digest = files[choose(files.len())];
                    if let Ok(blob) = blobs.open(&digest) {
                        blobs.flip_bit(&digest, choose(blob.len() as usize * 8) as u64);
                    }
                }
                _ => {
                    let length = copy.open(name).and_then(|f| f.length()).expect("memory");
                    if let Ok(file) = disk.open(name) {
                        let within = length.min(file.length().expect("memory"));
                        disk.flip_bit(name, choose(within as usize * 8) as u64).expect("flips");
                    }
                }
            }
        }
        let target: Arc<dyn Disk> = Arc::new(disk.clone());
        repair((&target, &blobs), (&copy, &store)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let report = verify(&disk, &blobs).expect("answers");
        assert!(report.chain_whole && report.covered.is_empty() && report.damaged_files.is_empty(), "seed {seed}");
        let (engine, recovery) = open(&disk, &blobs).expect("opens");
        assert_eq!((recovery.quarantine, recovery.clean), (None, true), "seed {seed}");
        super::base::check(&engine.reader(), 20, 40, &[3, 17]);
    }
}

#[test]
fn a_copy_that_does_not_reach_the_hole_changes_nothing() {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let (mut engine, _) = open(&disk, &blobs).expect("opens");
    fill(&mut engine, 10);
    let (copy, store, _) = take(&engine, &blobs);
    fill(&mut engine, 30);
    engine.close(NOW).expect("closes");
    let names = segments(&disk);
    disk.flip_bit(&names[2], (4096 * 3 + 500) * 8).expect("flips");
    let before = verify(&disk, &blobs).expect("answers");
    let target: Arc<dyn Disk> = Arc::new(disk.clone());
    let refused = repair((&target, &blobs), (&copy, &store));
    assert!(matches!(refused, Err(Error::RepairIncomplete(_))), "{refused:?}");
    assert_eq!(verify(&disk, &blobs).expect("answers"), before);
}
