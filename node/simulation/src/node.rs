//! One simulated node: a disk that outlives it, and, while it runs, its engine and core.

use jincai_core::{Action, Core, Event, NOTE, note_id};
use jincai_crypto::{Directory, KeyRing, SeededEntropy};
use jincai_exchange::record::{self, EffectRecord, kind};
use jincai_exchange::{Frame, Opening, Payload, Setup, read_batch};
use jincai_journal::{
    Blobs, Config, Engine, MemoryBlobs, MemoryDisk, Reader, Record, Urgency, prepare_base, read_snapshot,
};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Lane, LanePosition, Millis, RecordNumber};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a running node is made of.
pub(crate) struct Running {
    pub(crate) engine: Engine<MemoryDisk>,
    pub(crate) core: Core,
    pub(crate) log: Reader,
    /// A sync is under way.
    pub(crate) syncing: bool,
}

/// What came out of driving a node.
#[derive(Default)]
pub(crate) struct Driven {
    /// Frames to send.
    pub(crate) frames: Vec<(AuthorityId, Vec<u8>)>,
    /// Records were appended that need a sync.
    pub(crate) sync: bool,
    /// Something that must not happen.
    pub(crate) broken: Option<String>,
}

pub(crate) struct Node {
    pub(crate) id: AuthorityId,
    pub(crate) disk: MemoryDisk,
    pub(crate) blobs: MemoryBlobs,
    pub(crate) keys: Vec<u8>,
    pub(crate) directory: Directory,
    pub(crate) running: Option<Running>,
    pub(crate) starts: u64,
    /// Lane positions that this node has promised to hold (unsigned or signed), over all its lives.
    pub(crate) promised: BTreeMap<Lane, LanePosition>,
    /// Offset of its wall clock, in milliseconds.
    pub(crate) skew: u64,
    /// It was set back, and has not made a record of that yet.
    restored: bool,
    /// A copy of its disk and files.
    pub(crate) backup: Option<(MemoryDisk, MemoryBlobs)>,
    /// Messages applied here: the record that says so, their lane and id.
    pub(crate) applied: Vec<(RecordNumber, Lane, String)>,
}

impl Node {
    pub(crate) fn new(id: AuthorityId, keys: &KeyRing, directory: Directory) -> Self {
        Self {
            id,
            disk: MemoryDisk::new(),
            blobs: MemoryBlobs::new(),
            keys: keys.to_bytes().to_vec(),
            directory,
            running: None,
            starts: 0,
            promised: BTreeMap::new(),
            skew: 0,
            restored: false,
            backup: None,
            applied: Vec::new(),
        }
    }

    /// The node's disk is replaced by an older copy.
    pub(crate) fn set_back_to(&mut self, (disk, blobs): (MemoryDisk, MemoryBlobs)) {
        self.disk = disk;
        self.blobs = blobs;
        self.restored = true;
        // What it promised since then, it does not know of.
        self.promised.clear();
    }

    pub(crate) fn clock(&self, now: Millis) -> Millis {
        now + self.skew
    }

    /// Opens the journal and the node over it.
    pub(crate) fn start(&mut self, now: Millis, seed: u64) -> Result<(), String> {
        self.starts += 1;
        let salt = seed ^ (self.starts << 48) ^ u64::from(self.id.as_str().as_bytes()[3]);
        let config = Config { segment_bytes: 256 << 10, cache_bytes: 64 << 10, salt, ..Config::default() };
        let blobs: Arc<dyn Blobs> = Arc::new(self.blobs.clone());
        let opened = Engine::open(self.disk.clone(), Arc::clone(&blobs), config);
        let (engine, recovery) = opened.map_err(|e| format!("{}: {e}", self.id))?;
        if let Some(quarantine) = recovery.quarantine {
            return Err(format!("{}: a power cut alone led to quarantine: {quarantine:?}", self.id));
        }
        if !recovery.covered.is_empty() {
            return Err(format!("{}: a power cut alone led to damage: {:?}", self.id, recovery.covered));
        }
        let log = engine.reader();
        self.applied.retain(|(number, ..)| *number <= recovery.last);
        let snapshot = recovery.base.as_ref().map(|base| Ok((base.through, read_snapshot(&*blobs, base)?)));
        let snapshot = snapshot.transpose().map_err(|e: jincai_journal::Error| format!("{}: {e}", self.id))?;
        let snapshot = snapshot.as_ref().map(|(through, bytes)| (*through, &bytes[..]));
        let keys = KeyRing::from_bytes(&self.keys).map_err(|e| e.to_string())?;
        let policy = LinkPolicy { retry_ms: 1_000, receipt_ms: 300, ..LinkPolicy::default() };
        let entropy = Box::new(SeededEntropy::new(salt));
        let setup = Setup { authority: self.id, keys, entropy, directory: self.directory.clone(), policy };
        let opening = if self.restored {
            Opening::Restored
        } else if recovery.clean {
            Opening::Clean
        } else {
            Opening::Unclean
        };
        let core = Core::open(setup, blobs, opening, snapshot, self.clock(now), &log)
            .map_err(|e| format!("{}: {e}", self.id))?;
        self.running = Some(Running { engine, core, log, syncing: false });
        Ok(())
    }

    /// Feeds an event. An error of the peer's is returned as `Ok(false)`.
    pub(crate) fn step(&mut self, now: Millis, event: Event) -> Result<bool, String> {
        let now = self.clock(now);
        let Some(running) = &mut self.running else { return Ok(false) };
        match running.core.step(now, event, &running.log) {
            Ok(()) => Ok(true),
            Err(error) if error.is_fatal() => Err(format!("{}: fatal: {error}", self.id)),
            Err(_) => Ok(false),
        }
    }

    /// Ends a group of steps: appends, and gives out what may leave.
    pub(crate) fn drive(&mut self, now: Millis) -> Driven {
        let now = self.clock(now);
        let mut driven = Driven::default();
        let Some(running) = &mut self.running else { return driven };
        let turn = match running.core.turn(now, &running.log) {
            Ok(turn) => turn,
            Err(error) => {
                driven.broken = Some(format!("{}: {error}", self.id));
                return driven;
            }
        };
        if let Some(forked) = turn.notices.iter().find(|n| n.code == "JC-1207" || n.code == "JC-1212") {
            driven.broken = Some(format!("{}: {} although nobody lies in this world", self.id, forked.text));
        }
        if !turn.records.is_empty() {
            let first = running.engine.next_number();
            self.applied.extend((first..).zip(&turn.records).filter_map(|(number, record)| applied_by(number, record)));
            if let Err(error) = append(&mut running.engine, now, &turn.records) {
                driven.broken = Some(format!("{}: append: {error}", self.id));
            }
            driven.sync = !running.syncing;
            running.syncing = true;
        }
        for action in turn.actions {
            let Action::Send(send) = action else { continue };
            let bytes = match send.what {
                Payload::Frame(bytes) => bytes,
                Payload::Batch { record, hop, .. } => match read_batch(&running.log, record) {
                    Ok(batch) => Frame::batch_bytes(&hop, &batch),
                    Err(error) => {
                        driven.broken = Some(format!("{}: a batch in custody cannot be read: {error}", self.id));
                        continue;
                    }
                },
            };
            note_promise(&mut self.promised, &bytes);
            driven.frames.push((send.peer, bytes));
        }
        driven
    }

    /// Replaces what the journal holds so far by a snapshot, if everything is durable.
    pub(crate) fn checkpoint(&mut self, now: Millis) -> Result<bool, String> {
        let now = self.clock(now);
        let Some(running) = &mut self.running else { return Ok(false) };
        if running.syncing {
            return Ok(false);
        }
        let snapshot = running.core.snapshot();
        let base = prepare_base(&running.log, &self.blobs, snapshot.through, &snapshot.state, &snapshot.live);
        let taken = base.and_then(|base| running.engine.checkpoint(now, base));
        taken.map(|()| true).map_err(|e| format!("{}: checkpoint: {e}", self.id))
    }

    /// The disk has what was appended.
    pub(crate) fn synced(&mut self, now: Millis) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.syncing = false;
        self.restored = false;
        let number: RecordNumber = running.engine.sync().map_err(|e| format!("{}: sync: {e}", self.id))?;
        self.step(now, Event::Durable(number)).map(|_| ())
    }
}

/// The plain message that a record says was applied.
fn applied_by(number: RecordNumber, record: &Record) -> Option<(RecordNumber, Lane, String)> {
    let effect: EffectRecord =
        record::from_body("effect", &record.payload).ok().filter(|_| record.kind == kind::EFFECT)?;
    let cause = effect.cause.filter(|_| effect.room == NOTE)?;
    Some((number, cause.lane, note_id(&effect.effect)?))
}

fn append(engine: &mut Engine<MemoryDisk>, now: Millis, records: &[Record]) -> Result<(), jincai_journal::Error> {
    engine.append(now, records, Urgency::Normal).map(|_| ())
}

fn note_promise(promised: &mut BTreeMap<Lane, LanePosition>, frame: &[u8]) {
    if let Ok(Frame::Durable { lane, position }) = Frame::from_bytes(frame) {
        let held = promised.entry(lane).or_default();
        if position.key() > held.key() {
            *held = position;
        }
    }
}
