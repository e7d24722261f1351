//! Power cuts: at every byte of the tail, at every operation of recovery, and of ordinary work.

use super::{NOW, Put as _, blobs, choices, config, open, record, reopen, segments};
use crate::{Disk, Engine, Error, MemoryDisk, Record, verify};

/// Three durable records in two commits, then two commits that are not durable; the length of what is durable in the file.
fn small_log() -> (MemoryDisk, Vec<Record>, u64) {
    let disk = MemoryDisk::new();
    let (mut engine, _) = open(disk.clone());
    let model: Vec<Record> = (0..6).map(|number| record(number, 60 + 700 * (number as usize % 3))).collect();
    engine.put(&model[..2]).expect("appends");
    engine.put(&model[2..3]).expect("appends");
    engine.sync().expect("syncs");
    engine.put(&model[3..5]).expect("appends");
    engine.put(&model[5..]).expect("appends");
    (disk, model, 3 * 4096)
}

#[test]
fn a_tail_cut_at_every_byte_keeps_what_is_durable_and_whole_commits() {
    let mut lengths = [0; 7];
    for cut in 0..2 * 4096 + 1 {
        let (disk, model, durable) = small_log();
        let file = disk.open(&segments(&disk)[0]).expect("opens");
        file.write_at(durable + cut, &vec![0; 2 * 4096 - cut as usize]).expect("writes");
        file.sync().expect("syncs");
        let (found, recovery) = reopen(&disk);
        assert_eq!(recovery.quarantine, None, "cut at {cut}");
        assert!(found.len() >= 3 && found == model[..found.len()], "cut at {cut}");
        assert_eq!(recovery.cut.bytes == 0, cut % 4096 == 0 || found.len() as u64 == 5 + cut / 4096, "cut at {cut}");
        lengths[found.len()] += 1;
    }
    assert!(lengths[3] > 0 && lengths[4] == 0 && lengths[5] > 0 && lengths[6] > 0, "{lengths:?}");
}

#[test]
fn a_tail_cut_off_the_file_is_a_cut_too() {
    for cut in (0..2 * 4096).step_by(97) {
        let (disk, model, durable) = small_log();
        disk.open(&segments(&disk)[0]).and_then(|file| file.truncate(durable + cut)).expect("truncates");
        let (found, recovery) = reopen(&disk);
        assert_eq!(recovery.quarantine, None, "cut at {cut}");
        assert_eq!(found, model[..if cut < 4096 { 3 } else { 5 }], "cut at {cut}");
    }
}

#[test]
fn power_cuts_in_recovery_lose_nothing() {
    for seed in 0..12 {
        // The tail that the first cut left whole must still be there after any number of cuts during recovery.
        let left = {
            let (disk, ..) = small_log();
            disk.crash(&mut choices(seed));
            verify(&disk, &*blobs()).expect("verifies").last
        };
        // Recovery takes fewer than 16 operations; it is stopped after each, twice, by a kill or a power cut.
        for (first, second, killed) in (0..256).flat_map(|n| [(n / 16, n % 16, false), (n / 16, n % 16, true)]) {
            let (disk, model, _) = small_log();
            disk.crash(&mut choices(seed));
            disk.stop_after(first);
            let _stopped = Engine::open(disk.clone(), blobs(), config()).is_err();
            if !killed {
                disk.crash(&mut choices(seed + first));
            }
            disk.stop_after(second);
            let again = Engine::open(disk.clone(), blobs(), config()).map(|_| ());
            assert!(again.is_ok() || matches!(again, Err(Error::Io { .. })));
            disk.crash(&mut choices(seed + second));
            let (found, recovery) = reopen(&disk);
            let what = format!("seed {seed}, stopped after {first} and {second}, killed: {killed}");
            assert_eq!((recovery.quarantine, recovery.last), (None, left), "{what}");
            assert_eq!(found, model[..found.len()], "{what}");
        }
    }
}

#[test]
fn power_cuts_at_every_operation_of_work_keep_what_was_durable() {
    for stop in 0..120 {
        let disk = MemoryDisk::new();
        disk.stop_after(stop);
        let durable = work(&disk);
        disk.crash(&mut choices(stop));
        let (found, recovery) = reopen(&disk);
        assert_eq!(recovery.quarantine, None, "stopped after {stop} operations");
        assert!(found.len() as u64 >= durable, "stopped after {stop} operations");
        let expected: Vec<Record> = (0..found.len() as u64).map(|number| record(number, 5000)).collect();
        assert_eq!(found, expected);
    }
}

/// Appends, syncs, marks and rolls until the power is off; returns what was durable.
fn work(disk: &MemoryDisk) -> u64 {
    let Ok((mut engine, _)) = Engine::open(disk.clone(), blobs(), config()) else { return 0 };
    for number in 0..40 {
        let done = engine.put(&[record(number, 5000)]).and_then(|_| match number % 3 {
            0 => Ok(()),
            1 => engine.sync().map(|_| ()),
            _ => engine.mark(NOW),
        });
        if done.is_err() {
            break;
        }
    }
    engine.durable()
}

#[test]
fn what_a_killed_process_left_in_the_page_cache_is_made_durable_before_it_is_told() {
    let (disk, model, _) = small_log();
    // No crash: the unsynced commits are still visible, as after a SIGKILL.
    assert_eq!(reopen(&disk).0, model);
    disk.crash(&mut |_| 0);
    let (found, recovery) = reopen(&disk);
    assert_eq!(found, model);
    assert_eq!(recovery.quarantine, None);
}

#[test]
fn a_whole_commit_behind_a_torn_one_is_cut() {
    let (disk, model, durable) = small_log();
    disk.flip_bit(&segments(&disk)[0], (durable + 300) * 8).expect("flips");
    let (found, recovery) = reopen(&disk);
    assert_eq!(found, model[..3]);
    assert_eq!((recovery.cut.commits, recovery.cut.bytes), (2, 2 * 4096));
}

#[test]
fn a_commit_inside_the_payload_of_a_torn_one_is_not_taken_for_it() {
    let (disk, model, durable) = small_log();
    let name = &segments(&disk)[0];
    let file = disk.open(name).expect("opens");
    // What the next commit would have been, in the same segment of the same run, one block further on.
    let mut commit = vec![0; 4096];
    file.read_at(durable, &mut commit).expect("reads");
    let (disk, ..) = small_log();
    let file = disk.open(name).expect("opens");
    file.write_at(durable, &[9; 4096]).expect("writes");
    file.write_at(durable + 4096, &commit).expect("writes");
    let (found, recovery) = reopen(&disk);
    assert_eq!(found, model[..3]);
    assert_eq!((recovery.quarantine, recovery.cut.bytes), (None, 2 * 4096));
}
