//! A file between two production cores over a line that loses frames, with kills of either side at any step.
//!
//! Journals and stores lose in a crash what was not synced. Whatever happens: a file is visible only with exactly its bytes, and
//! once the faults stop, every file that was accepted becomes visible at its destination.

use jincai_core::{Action, Core, Event};
use jincai_crypto::{Card, CardChain, Directory, KeyRing, SeededEntropy};
use jincai_exchange::{Frame, LinkKind, Opening, Payload, Setup, read_batch, read_message};
use jincai_files::tree::{CHUNK_BYTES, Tree};
use jincai_files::{Error, Keeper, MemoryStore, Mood, ReceiveState, SendState, Submission};
use jincai_journal::{Blobs, Config, Engine, MemoryBlobs, MemoryDisk, Reader, Urgency, prepare_base, read_snapshot};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Millis};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const NOW: Millis = 1_800_000_000_000;
const IDS: [&str; 2] = ["000000000", "370000000"];

struct Running {
    engine: Engine<MemoryDisk>,
    core: Core,
    log: Reader,
    keeper: Keeper,
}

struct Node {
    id: AuthorityId,
    keys: Vec<u8>,
    directory: Directory,
    disk: MemoryDisk,
    blobs: MemoryBlobs,
    store: MemoryStore,
    starts: u64,
    running: Option<Running>,
}

struct Line {
    nodes: [Node; 2],
    frames: [VecDeque<Vec<u8>>; 2],
    now: Millis,
    checkpoints: u64,
}

fn nodes(limit: u64) -> [Node; 2] {
    let mut entropy = SeededEntropy::new(7);
    let ids: [AuthorityId; 2] = IDS.map(|id| id.parse().expect("an id"));
    let keys = ids.map(|_| KeyRing::generate(&mut entropy).expect("keys"));
    let card = |at: usize| Card {
        version: 1,
        authority: ids[at],
        superior: (at > 0).then_some(ids[0]),
        serial: 1,
        keys: keys[at].public().expect("good keys"),
        not_before: 0,
        not_after: NOW * 2,
    };
    let root = CardChain::default().with(card(0).issue(&keys[0].signing));
    let below = root.clone().with(card(1).issue(&keys[0].signing));
    let mut directory = Directory::new(Directory::fingerprint(&card(0)));
    directory.add(&root, NOW).expect("verifies");
    directory.add(&below, NOW).expect("verifies");
    [0, 1].map(|at| Node {
        id: ids[at],
        keys: keys[at].to_bytes().to_vec(),
        directory: directory.clone(),
        disk: MemoryDisk::new(),
        blobs: MemoryBlobs::new(),
        store: MemoryStore::new(limit),
        starts: 0,
        running: None,
    })
}

impl Node {
    fn start(&mut self, now: Millis) {
        self.starts += 1;
        let blobs: Arc<dyn Blobs> = Arc::new(self.blobs.clone());
        let config = Config { segment_bytes: 4 << 20, salt: self.starts, ..Config::default() };
        let (mut engine, recovery) = Engine::open(self.disk.clone(), Arc::clone(&blobs), config).expect("opens");
        assert!(recovery.quarantine.is_none(), "a crash alone led to quarantine");
        let log = engine.reader();
        let snapshot = recovery.base.as_ref().map(|base| (base.through, read_snapshot(&*blobs, base).expect("reads")));
        let snapshot = snapshot.as_ref().map(|(through, bytes)| (*through, &bytes[..]));
        let policy = LinkPolicy { retry_ms: 1_000, receipt_ms: 100, ..LinkPolicy::default() };
        let setup = Setup {
            authority: self.id,
            keys: KeyRing::from_bytes(&self.keys).expect("keys"),
            entropy: Box::new(SeededEntropy::new(self.starts)),
            directory: self.directory.clone(),
            policy,
            limits: BTreeMap::new(),
        };
        let opening = if recovery.clean { Opening::Clean } else { Opening::Unclean };
        let mut core = Core::open(setup, blobs, opening, snapshot, now, &log).expect("opens");
        let first = core.turn(now, &log).expect("a turn");
        engine.append(now, &first.records, Urgency::Reserve).expect("appends");
        let durable = engine.sync().expect("syncs");
        core.step(now, Event::Durable(durable), &log).expect("steps");
        self.running = Some(Running { engine, core, log, keeper: Keeper::default() });
    }

    /// The process dies: what was not synced is gone, in the journal and in the store.
    fn crash(&mut self) {
        self.running = None;
        self.disk.crash(&mut |_| 0);
        self.store.crash();
    }

    fn step(&mut self, now: Millis, event: Event) {
        let Some(running) = &mut self.running else { return };
        match running.core.step(now, event, &running.log) {
            Err(error) if error.is_fatal() => panic!("{}: {error}", self.id),
            // What a peer says out of date is refused.
            Err(_) | Ok(()) => {}
        }
    }

    /// Ends a turn; with `sync` what it staged is durable, and what waited for that leaves.
    fn drive(&mut self, now: Millis, sync: bool) -> Vec<Vec<u8>> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let mut out = Vec::new();
        for round in 0..2 {
            let turn = running.core.turn(now, &running.log).expect("a turn");
            if !turn.records.is_empty() {
                running.engine.append(now, &turn.records, Urgency::Normal).expect("appends");
            }
            for action in turn.actions {
                let Action::Send(send) = action else { continue };
                out.push(match send.what {
                    Payload::Frame(bytes) => bytes,
                    Payload::Batch { record, hop, .. } => {
                        Frame::batch_bytes(&hop, &read_batch(&running.log, record).expect("in custody"))
                    }
                });
            }
            if !sync || round == 1 {
                break;
            }
            let durable = running.engine.sync().expect("syncs");
            running.core.step(now, Event::Durable(durable), &running.log).expect("steps");
        }
        out
    }

    /// The keeper does what there is to do, as its tasks would: what comes is told of only when it is durable.
    fn keep(&mut self, now: Millis, most: usize) {
        let Some(running) = &mut self.running else { return };
        let mood = Mood { eager: true, retry: true };
        let durable = running.core.durable() == running.core.staged();
        let mut jobs = if durable { running.core.receiving_jobs(mood) } else { Vec::new() };
        jobs.extend(running.core.sending_jobs(None, mood));
        let keys = KeyRing::from_bytes(&self.keys).expect("keys");
        for job in jobs.into_iter().take(most) {
            let payload = |record, index: u64| {
                let index = usize::try_from(index).expect("small");
                let read = read_message(&running.log, (record, index), (self.id, &keys));
                read.map_err(|e| Error::Disk(e.to_string()))
            };
            let report = running.keeper.work(job, &self.store, &payload);
            running.core.file_report(now, &running.log, report).expect("a report");
        }
        self.store.keep(&running.core.rooms().files.roots());
    }

    /// A snapshot replaces what the journal holds, if everything is durable.
    fn checkpoint(&mut self, now: Millis) -> bool {
        let Some(running) = &mut self.running else { return false };
        let snapshot = running.core.snapshot();
        if running.core.durable() < snapshot.through || running.core.has_output() {
            return false;
        }
        let base = prepare_base(&running.log, &self.blobs, snapshot.through, &snapshot.state, &snapshot.live);
        running.engine.checkpoint(now, base.expect("prepared")).expect("taken");
        true
    }
}

impl Line {
    fn new(limit: u64) -> Self {
        let mut nodes = nodes(limit);
        nodes.iter_mut().for_each(|node| node.start(NOW));
        let mut line = Self { nodes, frames: Default::default(), now: NOW, checkpoints: 0 };
        line.connect();
        line
    }

    /// Both ends hear that the connection is new; what was under way is lost.
    fn connect(&mut self) {
        self.frames.iter_mut().for_each(VecDeque::clear);
        for at in 0..2 {
            let peer = self.nodes[1 - at].id;
            self.nodes[at].step(self.now, Event::LinkDown(peer));
            self.nodes[at].step(self.now, Event::LinkUp(peer, LinkKind::Session));
        }
    }

    fn drive(&mut self, at: usize, sync: bool) {
        let frames = self.nodes[at].drive(self.now, sync);
        self.frames[1 - at].extend(frames);
    }

    fn deliver(&mut self, to: usize, count: usize) {
        let from = self.nodes[1 - to].id;
        for _ in 0..count {
            let Some(frame) = self.frames[to].pop_front() else { return };
            self.nodes[to].step(self.now, Event::Frame(from, frame));
        }
    }

    /// Whatever number comes is something that happens.
    fn happen(&mut self, what: u8) {
        let at = usize::from(what & 1);
        self.now += 20;
        match what >> 1 {
            // Without some quiet hardly a file would come far enough to be broken.
            0..=11 => self.calm(),
            12..=29 => self.deliver(at, 3),
            30..=49 => self.drive(at, true),
            50..=59 => self.drive(at, false),
            60..=79 => self.nodes[at].keep(self.now, 1),
            80..=89 => {
                self.now += 500;
                self.nodes[at].step(self.now, Event::Tick);
            }
            90..=99 => drop(self.frames[at].pop_front()),
            100..=105 => self.connect(),
            106..=113 => self.checkpoints += u64::from(self.nodes[at].checkpoint(self.now)),
            _ => {
                self.nodes[at].crash();
                self.nodes[at].start(self.now);
                self.connect();
            }
        }
    }

    fn calm(&mut self) {
        self.now += 120;
        for at in 0..2 {
            self.deliver(at, usize::MAX);
            self.nodes[at].step(self.now, Event::Tick);
            self.nodes[at].keep(self.now, usize::MAX);
            self.drive(at, true);
        }
    }

    /// Runs without faults until something is so.
    fn settle(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        self.connect();
        for _ in 0..3_000 {
            if done(self) {
                return;
            }
            self.calm();
        }
        let files = |node: &Node| {
            let files = &node.running.as_ref().expect("it runs").core.rooms().files;
            let coming: Vec<_> =
                files.receiving().map(|(key, r)| (key.clone(), r.state.clone(), r.stored_chunks)).collect();
            let going: Vec<_> = files.sending().map(|(key, s)| (key.clone(), s.state.clone(), s.sent_chunks)).collect();
            format!("{coming:?} {going:?} {:?}", files.waiting().collect::<Vec<_>>())
        };
        panic!("{what} did not come: {} | {}", files(&self.nodes[0]), files(&self.nodes[1]));
    }

    fn submit(&mut self, at: usize, id: &str, bytes: &[u8]) -> Tree {
        let node = &mut self.nodes[at];
        let tree = node.store.take(bytes).expect("room");
        let to = IDS[1 - at].parse().expect("an id");
        let (media, name) = (String::new(), format!("{id}.bin"));
        let submission = Submission { to, id: id.into(), name, media, tree: tree.clone() };
        let running = node.running.as_mut().expect("it runs");
        assert!(running.core.submit_file(self.now, &running.log, submission).expect("accepted"));
        self.drive(at, true);
        tree
    }

    fn counters(&self, at: usize) -> jincai_files::FileCounters {
        *self.nodes[at].running.as_ref().expect("it runs").core.rooms().files.counters()
    }

    fn is_delivered(&self, at: usize, id: &str) -> bool {
        let files = &self.nodes[at].running.as_ref().expect("it runs").core.rooms().files;
        files.sent(id).is_some_and(|(_, sending)| sending.state == SendState::Received)
    }
}

/// Bytes that differ from chunk to chunk, with a chunk of zeros among them.
fn content(chunks: u64, seed: u8) -> Vec<u8> {
    let size = usize::try_from(chunks * CHUNK_BYTES).expect("small") - 1234;
    let mut bytes: Vec<u8> =
        (0..size).map(|n| u8::try_from((n / 4096 * 37 + n) % 256).expect("a byte") ^ seed).collect();
    if let Some(zeros) = bytes.get_mut(524_288..1_048_576) {
        zeros.fill(0);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_breaks_a_file_is_whole_or_not_visible(happenings in prop::collection::vec(any::<u8>(), 0..250)) {
        let mut line = Line::new(64 << 20);
        let files = [(0, "down", content(5, 1)), (1, "up", content(3, 2))];
        let roots: Vec<_> = files.iter().map(|(at, id, bytes)| line.submit(*at, id, bytes).root).collect();
        for what in happenings {
            line.happen(what);
            for ((at, _, bytes), root) in files.iter().zip(&roots) {
                let visible = line.nodes[1 - at].store.whole(root);
                prop_assert!(visible.is_none_or(|visible| visible == *bytes), "a file is visible that is not whole");
            }
        }
        line.settle("both files", |line| files.iter().all(|(at, id, _)| line.is_delivered(*at, id)));
        for ((at, id, bytes), root) in files.iter().zip(&roots) {
            prop_assert_eq!(line.nodes[1 - at].store.whole(root), Some(bytes.clone()));
            let running = line.nodes[1 - at].running.as_ref().expect("it runs");
            let key = jincai_files::FileKey { origin: line.nodes[*at].id, id: (*id).into() };
            prop_assert_eq!(&running.core.rooms().files.coming(&key).expect("known").state, &ReceiveState::Whole);
        }
    }
}

#[test]
fn only_what_the_destination_lacks_travels_and_nothing_stays_in_the_journals() {
    let mut line = Line::new(64 << 20);
    let first = content(6, 1);
    let root = line.submit(0, "1", &first).root;
    line.settle("the first file", |line| line.is_delivered(0, "1"));
    assert_eq!(line.nodes[1].store.whole(&root).as_deref(), Some(&first[..]));
    assert_eq!((line.counters(0).chunks_sent, line.counters(1).chunks_known), (5, 1), "zeros do not travel");
    let mut second = first.clone();
    second[CHUNK_BYTES as usize * 3 + 5] ^= 1;
    line.submit(0, "2", &second);
    line.settle("the second file", |line| line.is_delivered(0, "2"));
    assert_eq!((line.counters(0).chunks_sent, line.counters(1).chunks_known), (6, 6), "one chunk differs");
    line.submit(0, "3", &second);
    line.settle("the same again", |line| line.is_delivered(0, "3"));
    assert_eq!(line.counters(0).chunks_sent, 6);
    // Receipts have come by now, or come in a moment.
    for at in 0..2 {
        line.settle("nothing to be live", |line| {
            let running = line.nodes[at].running.as_ref().expect("it runs");
            let live = running.core.snapshot().live;
            live.iter().all(|number| read_batch(&running.log, *number).is_ok_and(|batch| batch.len() < 64 << 10))
        });
    }
}

#[test]
fn a_copy_that_a_disk_has_changed_is_not_sent_and_that_is_told() {
    let mut line = Line::new(64 << 20);
    let root = line.submit(0, "1", &content(4, 1)).root;
    line.nodes[0].store.spoil(&root, CHUNK_BYTES as usize * 2 + 7);
    line.settle("both to know", |line| {
        let of = |at: usize| &line.nodes[at].running.as_ref().expect("it runs").core.rooms().files;
        let key = jincai_files::FileKey { origin: line.nodes[0].id, id: "1".into() };
        let sent =
            of(0).sent("1").is_some_and(|(_, s)| matches!(&s.state, SendState::Ended(code, _) if code == "JC-2009"));
        let coming = of(1).coming(&key);
        sent && coming.is_some_and(|r| matches!(&r.state, ReceiveState::Ended(code, _) if code == "JC-2009"))
    });
    assert_eq!(line.nodes[1].store.whole(&root), None);
}

#[test]
fn a_file_without_room_waits_and_goes_on_when_there_is() {
    let mut line = Line::new(64 << 20);
    line.nodes[1].store.set_limit(1 << 20);
    line.submit(0, "large", &content(5, 1));
    line.submit(0, "small", &content(1, 2));
    line.settle("the small one, which there is room for", |line| line.is_delivered(0, "small"));
    let waits = |line: &Line| {
        let files = &line.nodes[1].running.as_ref().expect("it runs").core.rooms().files;
        files.waiting().map(|(key, error)| (key.id.clone(), error.code())).collect::<Vec<_>>()
    };
    assert_eq!(waits(&line), [("large".to_owned(), "JC-2006")]);
    line.nodes[1].store.set_limit(64 << 20);
    line.settle("the large one", |line| line.is_delivered(0, "large"));
    assert_eq!(waits(&line), []);
}
