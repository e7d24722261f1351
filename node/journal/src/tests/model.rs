//! Random histories against a vector: what was synced is there, in order; what was not is there up to some point.

use super::{NOW, Put as _, blobs, choices, open, read_all, record};
use crate::{Engine, MemoryDisk, Record, Recovery};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Append(Vec<usize>),
    Sync,
    Mark,
    FailSync,
    Crash(u64),
    /// The power goes off after so many operations, at work or in recovery.
    PowerLasts(u64, u64),
    Kill,
    Close,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec(prop_oneof![0usize..200, 0usize..9000], 1..4).prop_map(Action::Append),
        3 => Just(Action::Sync),
        1 => Just(Action::Mark),
        1 => Just(Action::FailSync),
        1 => any::<u64>().prop_map(Action::Crash),
        1 => (0u64..20, any::<u64>()).prop_map(|(lasts, seed)| Action::PowerLasts(lasts, seed)),
        1 => Just(Action::Kill),
        1 => Just(Action::Close),
    ]
}

/// The journal and what it should hold.
struct Pair {
    disk: MemoryDisk,
    engine: Option<Engine<MemoryDisk>>,
    appended: Vec<Record>,
    durable: usize,
    /// The seed of the crash that ends the time for which the power lasts.
    seed: Option<u64>,
    closed: bool,
}

impl Pair {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let engine = Some(open(disk.clone()).0);
        Self { disk, engine, appended: Vec::new(), durable: 0, seed: None, closed: false }
    }

    fn run(&mut self, action: Action) {
        let Some(engine) = &mut self.engine else { return self.restart() };
        let done = match action {
            Action::Append(sizes) => {
                let first = self.appended.len() as u64;
                let records: Vec<Record> =
                    sizes.iter().enumerate().map(|(at, size)| record(first + at as u64, *size)).collect();
                // A failed append may be found after a restart, or not: as any that was not synced.
                let appended = engine.put(&records);
                self.appended.extend(records);
                appended.map(|number| assert_eq!(number, self.appended.len() as u64))
            }
            Action::Sync => engine.sync().map(|number| assert_eq!(number, self.appended.len() as u64)),
            Action::Mark => engine.mark(NOW),
            Action::FailSync => {
                self.disk.fail_next_sync();
                Ok(())
            }
            Action::Crash(seed) => {
                self.durable = engine.durable() as usize;
                self.engine = None;
                self.disk.crash(&mut choices(seed));
                return self.restart();
            }
            Action::PowerLasts(lasts, seed) => {
                self.disk.stop_after(lasts);
                self.seed = Some(seed);
                Ok(())
            }
            Action::Kill => {
                self.durable = engine.durable() as usize;
                self.engine = None;
                return self.restart();
            }
            Action::Close => {
                self.durable = engine.durable() as usize;
                self.closed = self.engine.take().is_some_and(|engine| engine.close(NOW).is_ok());
                if self.closed {
                    self.durable = self.appended.len();
                }
                return self.restart();
            }
        };
        self.durable = engine.durable() as usize;
        assert!(self.durable <= self.appended.len());
        if done.is_err() {
            self.engine = None;
        }
    }

    fn restart(&mut self) {
        let Ok((engine, recovery)) = Engine::open(self.disk.clone(), blobs(), super::config()) else {
            // The power failed during recovery, or a sync did: cut it, and everything must still be there.
            self.closed = false;
            self.disk.crash(&mut choices(self.seed.take().unwrap_or(1)));
            return self.restart();
        };
        self.check(&engine, &recovery);
        self.engine = Some(engine);
    }

    fn check(&mut self, engine: &Engine<MemoryDisk>, recovery: &Recovery) {
        assert_eq!(recovery.quarantine, None);
        let found = read_all(&engine.reader());
        assert_eq!(recovery.last, found.len() as u64);
        assert!(found.len() >= self.durable, "{} durable, {} found", self.durable, found.len());
        assert_eq!(found, self.appended[..found.len()]);
        assert!(!self.closed || recovery.clean, "a closed journal is clean");
        assert!(self.closed || !recovery.clean || found.len() == self.appended.len(), "only that");
        self.closed = false;
        self.appended.truncate(found.len());
        self.durable = found.len();
        assert_eq!(engine.durable(), recovery.last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_synced_record_survives_any_history(actions in prop::collection::vec(action(), 1..60)) {
        let mut pair = Pair::new();
        for action in actions {
            pair.run(action);
        }
        pair.run(Action::Crash(7));
    }
}
