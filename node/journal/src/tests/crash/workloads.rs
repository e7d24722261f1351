//! Small real workloads, recorded: what a journal does in its life, each piece short enough to be cut everywhere.

use super::{Config, Disk, Engine, Found, Judge, Known, Log, MemoryBlobs, MemoryDisk, NOW, Point, Record, Recorder};
use super::{Urgency, Work, every_cut, holds, look, numbered, repair, set_back};
use crate::{Error, prepare_base};
use jincai_types::RecordNumber;
use std::sync::Arc;

/// A journal at work, whose recorder knows what its user knows.
struct Worker {
    recorder: Recorder,
    engine: Engine<Recorder>,
}

impl Worker {
    fn open(recorder: &Recorder, config: &Config) -> Self {
        let blobs = Arc::new(recorder.clone());
        let (engine, recovery) = Engine::open(recorder.clone(), blobs, config.clone()).expect("the journal opens");
        recorder.know(|known| {
            (known.durable, known.given) = (recovery.last, recovery.last);
            known.may_be_clean = false;
        });
        Self { recorder: recorder.clone(), engine }
    }

    /// Gives records up to this number, each its own commit, which are not durable then.
    fn give(&mut self, last: RecordNumber) {
        self.give_as(last, Urgency::Normal).expect("there is room");
    }

    fn give_as(&mut self, last: RecordNumber, urgency: Urgency) -> Result<(), Error> {
        for number in self.engine.next_number()..=last {
            self.recorder.know(|known| known.given = number);
            self.engine.append(NOW, &[numbered(number)], urgency)?;
            self.learn();
        }
        Ok(())
    }

    fn sync(&mut self) {
        self.engine.sync().expect("syncs");
        self.learn();
    }

    fn mark(&mut self) {
        self.engine.mark(NOW).expect("marks");
        self.learn();
    }

    fn checkpoint(&mut self, through: RecordNumber, live: &[RecordNumber]) {
        let live = live.iter().copied().collect();
        let base = prepare_base(&self.engine.reader(), &self.recorder, through, &through.to_le_bytes(), &live);
        self.recorder.know(|known| known.basing = through);
        self.engine.checkpoint(NOW, base.expect("prepares")).expect("taken");
        self.recorder.know(|known| known.based = through);
        self.learn();
    }

    fn close(self) {
        self.recorder.know(|known| known.may_be_clean = true);
        let last = self.engine.next_number() - 1;
        self.engine.close(NOW).expect("closes");
        self.recorder.know(|known| (known.durable, known.is_clean) = (last, true));
    }

    fn learn(&self) {
        let durable = self.engine.durable();
        self.recorder.know(|known| known.durable = durable);
    }
}

/// A header and three blocks a segment.
fn small() -> Config {
    Config { segment_bytes: 16 << 10, cache_bytes: 1 << 10, reserve: 0, shard: 0, salt: 7 }
}

fn roomy() -> Config {
    Config { segment_bytes: 32 << 10, ..small() }
}

fn empty() -> Recorder {
    Recorder::new(MemoryDisk::new(), MemoryBlobs::new())
}

pub(super) fn all() -> Vec<Work> {
    type Run = fn(&Config) -> Recorder;
    let works: [(&'static str, Config, Run, Judge); 11] = [
        ("begin", roomy(), begin, Judge::Holds),
        ("append and sync", roomy(), append, Judge::Holds),
        ("roll and mark", small(), roll, Judge::Holds),
        ("close and open", small(), close, Judge::Holds),
        ("open with a tail", roomy(), tail, Judge::Holds),
        ("open with a torn tail", roomy(), torn_tail, Judge::Holds),
        ("open after a kill", roomy(), killed, Judge::Holds),
        ("checkpoints", small(), checkpoints, Judge::Holds),
        ("a full disk", Config { reserve: 2, ..small() }, full_disk, Judge::Holds),
        ("set back", small(), setting_back, Judge::SetBack),
        ("repair", small(), repairing, Judge::Repaired),
    ];
    works.map(|(name, config, work, judge)| Work { name, recorder: work(&config), config, judge }).into()
}

fn begin(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(2);
    recorder
}

fn append(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(2);
    worker.sync();
    worker.give(5);
    recorder
}

fn roll(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(2);
    worker.mark();
    worker.give(6);
    worker.mark();
    recorder
}

fn close(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(2);
    worker.close();
    recorder.know(|known| known.is_clean = false);
    let mut worker = Worker::open(&recorder, config);
    worker.give(3);
    worker.close();
    recorder
}

/// Two durable records, and two that a power cut happened to leave.
fn tail(config: &Config) -> Recorder {
    let recorder = left(config, 4);
    recorder.disk.crash(&mut |_| 1);
    go_on(recorder, config, 4)
}

/// As above, but the last of them is torn.
fn torn_tail(config: &Config) -> Recorder {
    let recorder = left(config, 4);
    // Two blocks of the third record survive; of the fourth one's the first sector does.
    let mut choices = [1, 1, 2, 1].into_iter();
    recorder.disk.crash(&mut |_| choices.next().unwrap_or(0));
    recorder.know(|known| known.given = 3);
    let mut worker = Worker::open(&recorder, config);
    worker.give(5);
    worker.sync();
    recorder
}

/// The process ended, without a power cut: what it wrote is in the page cache.
fn killed(config: &Config) -> Recorder {
    let recorder = left(config, 3);
    recorder.know(|known| known.durable = 2);
    go_on(recorder, config, 3)
}

fn left(config: &Config, last: RecordNumber) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(2);
    worker.sync();
    worker.give(last);
    Recorder::new(recorder.disk, recorder.blobs)
}

fn go_on(recorder: Recorder, config: &Config, last: RecordNumber) -> Recorder {
    recorder.know(|known| known.given = last);
    let mut worker = Worker::open(&recorder, config);
    worker.give(last + 1);
    worker.sync();
    worker.close();
    recorder
}

fn checkpoints(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(7);
    worker.sync();
    worker.checkpoint(5, &[2]);
    worker.give(9);
    worker.sync();
    worker.checkpoint(9, &[2, 8]);
    worker.give(11);
    recorder
}

fn full_disk(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    let length = |name: &String| recorder.disk.open(name).and_then(|file| file.length()).expect("memory answers");
    let used: u64 = recorder.disk.list().expect("lists").iter().map(|name| length(name).next_multiple_of(4096)).sum();
    recorder.disk.limit(Some(used + 4096));
    let refused = worker.give_as(20, Urgency::Normal).expect_err("it is full");
    assert!(matches!(refused, Error::Full), "{refused}");
    worker.sync();
    let next = worker.engine.next_number();
    worker.give_as(next + 2, Urgency::Reserve).expect("the reserve is there for that");
    worker.sync();
    drop(worker);
    let mut worker = Worker::open(&recorder, config);
    recorder.disk.limit(None);
    worker.engine.mark(NOW + 5_000).expect("marks");
    let next = worker.engine.next_number();
    worker.give(next);
    recorder
}

/// Seven records in three segments, all durable.
fn filled(config: &Config) -> Recorder {
    let recorder = empty();
    let mut worker = Worker::open(&recorder, config);
    worker.give(7);
    worker.mark();
    drop(worker);
    recorder.disk.crash(&mut |_| 0);
    let recorder = Recorder::new(recorder.disk, recorder.blobs);
    recorder.know(|known| (known.durable, known.given) = (7, 7));
    recorder
}

const KEPT: RecordNumber = 3;

fn setting_back(config: &Config) -> Recorder {
    let recorder = filled(config);
    set_back(&recorder, Point::Record(KEPT)).expect("the point is there");
    recorder
}

/// A journal that was being set back when the power was cut holds everything, or says that it was set back or is damaged;
/// and is set back once more.
pub(super) fn set_back_again(config: &Config, disk: &MemoryDisk, blobs: &MemoryBlobs, known: &Known) {
    let again = disk.fork();
    let (engine, recovery) = super::open(config, disk, blobs);
    if recovery.quarantine.is_none() {
        drop(engine);
        let (_, recovery, found) = look(config, disk, blobs);
        assert!(found.last == known.given || (recovery.restored && found.last >= KEPT), "{found:?}");
    }
    let done = set_back(&again, Point::Record(KEPT)).expect("once more");
    assert_eq!(done.last, KEPT);
    let (_, recovery, found) = look(config, &again, blobs);
    assert!(recovery.restored);
    assert_eq!(found, Found { through: 0, last: KEPT });
}

/// What a repair takes the lost bytes from.
fn sound(config: &Config) -> MemoryDisk {
    filled(config).disk
}

fn repairing(config: &Config) -> Recorder {
    let recorder = filled(config);
    let names = recorder.disk.list().expect("lists");
    let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".segment")).collect();
    recorder.disk.flip_bit(segments[0], (4096 + 300) * 8).expect("flips");
    recorder.disk.flip_bit(segments[1], 9).expect("flips");
    let disk: Arc<dyn Disk> = Arc::new(recorder.clone());
    repair((&disk, &recorder), (&sound(config), &MemoryBlobs::new())).expect("the copy is whole");
    recorder
}

/// A journal that was being repaired says that it is damaged or holds everything; and is repaired once more.
pub(super) fn repaired_again(config: &Config, disk: &MemoryDisk, blobs: &MemoryBlobs, known: &Known) {
    let again = disk.fork();
    let (engine, recovery) = super::open(config, disk, blobs);
    assert!(recovery.quarantine.is_some() || recovery.last == known.given, "{recovery:?}");
    let reader = engine.reader();
    let read = |number| reader.read(number).expect("up to the damage all is well");
    (1..=recovery.last).for_each(|number| assert_eq!(read(number).payload, numbered(number).payload));
    // Whether it was opened in between does not matter.
    for disk in [again, disk.clone()] {
        let repaired: Arc<dyn Disk> = Arc::new(disk.clone());
        repair((&repaired, blobs), (&sound(config), &MemoryBlobs::new())).expect("once more");
        holds(config, &disk, blobs, known);
    }
}

/// Of the states that are searched at all, some must be of each kind.
#[test]
fn the_search_reaches_the_states_that_matter() {
    let recorder = append(&roomy());
    let (mut lengths, mut torn) = (std::collections::BTreeSet::new(), 0);
    let moments = recorder.moments();
    let end = moments.last().expect("there is an end");
    every_cut(&end.disk, &super::tears(false), usize::MAX, &mut |state| {
        let (_, recovery, found) = look(&roomy(), &state, &end.blobs);
        lengths.insert(found.last);
        torn += usize::from(recovery.cut.bytes > 0);
    });
    assert_eq!(lengths, [2, 3, 4, 5].into());
    assert!(torn > 10, "{torn}");
    let Record { payload, .. } = numbered(3);
    assert!(payload.len() > 4096, "a commit of several blocks is torn between them too");
}
