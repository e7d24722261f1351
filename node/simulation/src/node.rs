//! One simulated node: a disk that outlives it, and, while it runs, its engine and core.
//!
//! Its journal is driven as the gateway's thread drives it: while a sync is under way records gather, and the next commit
//! takes all of them; what finds no room waits in its place.

use crate::trace::signed_for;
use crate::twin::Twin;
use jincai_core::{Action, Core, Event, NOTE, note_id};
use jincai_crypto::{Directory, KeyRing, SeededEntropy};
use jincai_exchange::record::{self, Cleared, kind};
use jincai_exchange::{Frame, Opening, Payload, Setup, read_batch};
use jincai_files::{Keeper, MemoryStore};
use jincai_journal::{
    Blobs, Config, Engine, Error, MemoryBlobs, MemoryDisk, Reader, Record, Recovery, Space, Urgency, prepare_base,
    read_snapshot,
};
use jincai_policies::{LinkLimits, LinkPolicy};
use jincai_storage::PartId;
use jincai_types::{AuthorityId, Destination, Lane, LanePosition, Millis, RecordNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Windows so small that they are full at times, in bytes.
const WINDOW: u64 = 4 << 10;
/// A share of custody so small that neighbours are told to hold back at times, in bytes.
pub(crate) const SHARE: u64 = 8 << 10;

/// What a running node is made of.
pub(crate) struct Running {
    pub(crate) engine: Engine<MemoryDisk>,
    pub(crate) core: Core,
    pub(crate) log: Reader,
    /// Its tables.
    pub(crate) twin: Twin,
    /// A sync is under way.
    syncing: bool,
    /// Records that no commit holds yet.
    queue: Vec<Record>,
    urgency: Urgency,
    /// The journal's reserve is not whole, as it said after its last commit.
    short: bool,
    marked: Millis,
    pub(crate) keeper: Keeper,
    /// What the files room had let go of when the store was tidied.
    pub(crate) released: u64,
}

impl Running {
    /// Something that was staged is not durable yet, or is not known to be.
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.syncing || !self.queue.is_empty()
    }
}

/// What came out of driving a node.
#[derive(Default)]
pub(crate) struct Driven {
    /// Frames to send.
    pub(crate) frames: Vec<(AuthorityId, Vec<u8>)>,
    /// A commit was written that needs a sync.
    pub(crate) sync: bool,
    /// Its journal has failed, as it may: the node must stop.
    pub(crate) stop: bool,
    /// Custody that ended.
    pub(crate) cleared: Vec<Cleared>,
    /// Parts of tables that changed.
    pub(crate) parts: Vec<PartId>,
    /// For the trace.
    pub(crate) notices: Vec<String>,
    /// Something that must not happen.
    pub(crate) broken: Option<String>,
}

/// A disk and its files.
pub(crate) type Copy = (MemoryDisk, MemoryBlobs);

/// A batch in custody: for whom, its lane and its end.
pub(crate) type InCustody = (AuthorityId, Lane, LanePosition);

pub(crate) struct Node {
    pub(crate) id: AuthorityId,
    pub(crate) disk: MemoryDisk,
    pub(crate) blobs: MemoryBlobs,
    /// Files.
    pub(crate) store: MemoryStore,
    pub(crate) keys: Vec<u8>,
    pub(crate) directory: Directory,
    pub(crate) running: Option<Running>,
    pub(crate) starts: u64,
    /// Lane positions that this node has promised to hold (unsigned or signed), over all its lives.
    pub(crate) promised: BTreeMap<Lane, LanePosition>,
    /// Offset of its wall clock, in milliseconds.
    pub(crate) skew: i64,
    /// It was set back, and has not made a record of that yet.
    restored: bool,
    /// A copy of its disk and files.
    pub(crate) backup: Option<Copy>,
    /// Its disk before a bit of it flipped.
    pub(crate) sound: Option<Copy>,
    /// A sync of it fails.
    pub(crate) failing: bool,
    /// Its disk has no room.
    pub(crate) full: bool,
    /// What it may send to whom.
    pub(crate) limits: BTreeMap<AuthorityId, LinkLimits>,
    /// What it had in custody when it stopped, with the records that hold it.
    custody: Vec<(InCustody, RecordNumber)>,
    /// Messages applied here: the record that says so, their lane and id.
    pub(crate) applied: Vec<(RecordNumber, Lane, String)>,
}

impl Node {
    pub(crate) fn new(id: AuthorityId, keys: &KeyRing, directory: Directory) -> Self {
        Self {
            id,
            disk: MemoryDisk::new(),
            blobs: MemoryBlobs::new(),
            store: crate::files::empty_store(),
            keys: keys.to_bytes().to_vec(),
            directory,
            running: None,
            starts: 0,
            promised: BTreeMap::new(),
            skew: 0,
            restored: false,
            backup: None,
            sound: None,
            failing: false,
            full: false,
            limits: BTreeMap::new(),
            custody: Vec::new(),
            applied: Vec::new(),
        }
    }

    /// The node's disk is replaced by an older copy.
    pub(crate) fn set_back_to(&mut self, (disk, blobs): Copy) {
        self.disk = disk;
        self.blobs = blobs;
        self.restored = true;
        // What it promised since then, and had in custody, it does not know of.
        self.promised.clear();
        self.custody.clear();
    }

    pub(crate) fn clock(&self, now: Millis) -> Millis {
        now.saturating_add_signed(self.skew)
    }

    pub(crate) fn keys(&self) -> Result<KeyRing, String> {
        KeyRing::from_bytes(&self.keys).map_err(|e| e.to_string())
    }

    fn config(salt: u64) -> Config {
        Config { segment_bytes: 64 << 10, cache_bytes: 64 << 10, salt, ..Config::default() }
    }

    /// Opens the journal and the node over it; `false` if its disk is too full for that.
    pub(crate) fn start(&mut self, now: Millis, seed: u64) -> Result<bool, String> {
        self.starts += 1;
        let salt = seed ^ (self.starts << 48) ^ u64::from(self.id.as_str().as_bytes()[3]);
        self.mend(salt)?;
        let blobs: Arc<dyn Blobs> = Arc::new(self.blobs.clone());
        let (engine, recovery) = match Engine::open(self.disk.clone(), Arc::clone(&blobs), Self::config(salt)) {
            Ok(opened) => opened,
            Err(error) if error.is_full() && self.full => return Ok(false),
            Err(error) => return Err(format!("{}: {error}", self.id)),
        };
        if let Some(quarantine) = recovery.quarantine {
            return Err(format!("{}: a power cut alone led to quarantine: {quarantine:?}", self.id));
        }
        let log = engine.reader();
        self.applied.retain(|(number, ..)| *number <= recovery.last);
        let snapshot = recovery.base.as_ref().map(|base| Ok((base.through, read_snapshot(&*blobs, base)?)));
        let snapshot = snapshot.transpose().map_err(|e: Error| format!("{}: {e}", self.id))?;
        let snapshot = snapshot.as_ref().map(|(through, bytes)| (*through, &bytes[..]));
        let policy = LinkPolicy {
            window_bytes: [WINDOW; 4],
            share_bytes: [SHARE; 4],
            retry_ms: 1_000,
            receipt_ms: 300,
            ..LinkPolicy::default()
        };
        let entropy = Box::new(SeededEntropy::new(salt));
        let setup = Setup {
            authority: self.id,
            keys: self.keys()?,
            entropy,
            directory: self.directory.clone(),
            policy,
            limits: self.limits.clone(),
        };
        let opening = match (self.restored, recovery.clean) {
            (true, _) => Opening::Restored,
            (false, true) => Opening::Clean,
            (false, false) => Opening::Unclean,
        };
        let core = Core::open(setup, blobs, opening, snapshot, self.clock(now), &log)
            .map_err(|e| format!("{}: {e}", self.id))?;
        self.custody_kept(&core, recovery.last)?;
        let (queue, urgency, short) = (Vec::new(), Urgency::Normal, engine.space() != Space::Plenty);
        let twin = Twin::default();
        let (keeper, released) = (Keeper::default(), 0);
        let syncing = false;
        self.running =
            Some(Running { engine, core, log, twin, syncing, queue, urgency, short, marked: now, keeper, released });
        Ok(true)
    }

    /// What came from a neighbour and lies in a durable record is still held for the next hop after a restart. (Lanes of
    /// our own and of groups are held again from the shelf.)
    fn custody_kept(&mut self, core: &Core, last: RecordNumber) -> Result<(), String> {
        let held: BTreeSet<InCustody> =
            core.exchange().custody().map(|(peer, lane, end, _)| (peer, lane, end)).collect();
        let relayed = |lane: &Lane| lane.origin != self.id && matches!(lane.destination, Destination::Authority(_));
        let lost =
            self.custody.iter().find(|(batch, record)| relayed(&batch.1) && *record <= last && !held.contains(batch));
        let answer = lost.map_or(Ok(()), |((peer, lane, end), _)| {
            let number = end.sequence;
            Err(format!("{}: I1: a restart lost custody of {number} of lane {lane} for {peer}", self.id))
        });
        self.custody.clear();
        answer
    }

    /// If a bit of the disk has flipped: either the journal says so, and the sound copy takes its place, or nothing is
    /// different but for what it says.
    fn mend(&mut self, salt: u64) -> Result<(), String> {
        let Some((disk, blobs)) = self.sound.take() else { return Ok(()) };
        let sound = Self::content((disk.durable_copy(), blobs.copy()), salt)?;
        match Self::content((self.disk.durable_copy(), self.blobs.copy()), salt) {
            Ok((_, recovery)) if recovery.quarantine.is_some() || recovery.cut != sound.1.cut => {}
            Ok((records, _)) if records == sound.0 => return Ok(()),
            Ok(_) => {
                return Err(format!("{}: a flipped bit changed what the journal holds, and nobody was told", self.id));
            }
            Err(_) => {}
        }
        (self.disk, self.blobs) = (disk, blobs);
        Ok(())
    }

    /// Everything that a journal on a disk holds behind its base.
    fn content((disk, blobs): Copy, salt: u64) -> Result<(Vec<(RecordNumber, bytes::Bytes)>, Recovery), String> {
        let blobs: Arc<dyn Blobs> = Arc::new(blobs);
        let (engine, recovery) =
            Engine::open(disk, Arc::clone(&blobs), Self::config(salt)).map_err(|e| e.to_string())?;
        let mut records = Vec::new();
        if let Some(base) = &recovery.base {
            records.push((base.through, read_snapshot(&*blobs, base).map_err(|e| e.to_string())?.into()));
        }
        let from = recovery.base.as_ref().map_or(1, |base| base.through + 1);
        let log: &dyn jincai_journal::Log = &engine.reader();
        let read = log.replay(from, &mut |stored| {
            records.push((stored.number, stored.payload));
            Ok(())
        });
        read.map(|()| (records, recovery)).map_err(|e| e.to_string())
    }

    /// The process ends, in whatever way.
    pub(crate) fn end(&mut self) -> bool {
        let Some(running) = self.running.take() else { return false };
        let custody = running.core.exchange().custody();
        self.custody = custody.map(|(peer, lane, end, record)| ((peer, lane, end), record)).collect();
        true
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
        let full = running.short;
        running.core.set_full(full, now, &running.log);
        let turn = match running.core.turn(now, &running.log) {
            Ok(turn) => turn,
            Err(error) => {
                driven.broken = Some(format!("{}: {error}", self.id));
                return driven;
            }
        };
        driven.notices = turn.notices.iter().map(|n| format!("{} {}", n.code, n.text)).collect();
        if !turn.records.is_empty() {
            let first = running.core.staged() + 1 - turn.records.len() as u64;
            self.applied.extend((first..).zip(&turn.records).flat_map(|(number, record)| applied_by(number, record)));
            let cleared = turn.records.iter().filter(|record| record.kind == kind::CLEARED);
            driven.cleared.extend(cleared.filter_map(|record| record::from_body("cleared", &record.payload).ok()));
            running.queue.extend(turn.records);
            running.urgency = running.urgency.max(if full { Urgency::Reserve } else { Urgency::Normal });
        }
        if !running.syncing {
            self.commit(now, &mut driven);
        }
        self.carry_out(turn.actions, &mut driven);
        driven
    }

    /// Writes what is queued as one commit, unless there is no room for it: then it waits in its place.
    fn commit(&mut self, now: Millis, driven: &mut Driven) {
        let Some(running) = self.running.as_mut().filter(|running| !running.queue.is_empty()) else { return };
        match running.engine.append(now, &running.queue, running.urgency) {
            Ok(_) => {
                running.queue.clear();
                running.urgency = Urgency::Normal;
                running.syncing = true;
                driven.sync = true;
            }
            Err(Error::Full) => running.short = true,
            Err(error) => self.failed("append", &error, driven),
        }
    }

    fn failed(&self, what: &str, error: &Error, driven: &mut Driven) {
        if self.failing {
            driven.stop = true;
        } else {
            driven.broken = Some(format!("{}: {what}: {error}", self.id));
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>, driven: &mut Driven) {
        let Some(running) = &mut self.running else { return };
        for action in actions {
            let send = match action {
                Action::Send(send) => send,
                Action::Table(effect) => {
                    match running.twin.apply(effect, &running.log) {
                        Ok(changed) => driven.parts.extend(changed),
                        Err(broken) => driven.broken = Some(format!("{}: {broken}", self.id)),
                    }
                    continue;
                }
            };
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
            note_promise(&mut self.promised, self.id, &bytes);
            driven.frames.push((send.peer, bytes));
        }
    }

    /// Replaces what the journal holds so far by a snapshot, if everything is durable.
    pub(crate) fn checkpoint(&mut self, now: Millis) -> Result<bool, String> {
        let now = self.clock(now);
        let Some(running) = &mut self.running else { return Ok(false) };
        if running.waits_for_disk() {
            return Ok(false);
        }
        let snapshot = running.core.snapshot();
        let base = prepare_base(&running.log, &self.blobs, snapshot.through, &snapshot.state, &snapshot.live);
        match base.and_then(|base| running.engine.checkpoint(now, base)) {
            Ok(()) => {
                running.twin.readable(&running.log).map(|()| true).map_err(|broken| format!("{}: {broken}", self.id))
            }
            Err(error) if self.failing || (self.full && error.is_full()) => Ok(false),
            Err(error) => Err(format!("{}: checkpoint: {error}", self.id)),
        }
    }

    /// What the journal's thread does when nothing comes: the idle mark, and filling the reserve.
    pub(crate) fn idle(&mut self, now: Millis) -> Driven {
        let mut driven = Driven::default();
        let clock = self.clock(now);
        let Some(running) = &mut self.running else { return driven };
        if running.syncing || now < running.marked + 1_000 {
            return driven;
        }
        running.marked = now;
        if !running.queue.is_empty() {
            self.commit(clock, &mut driven);
            return driven;
        }
        match running.engine.mark(clock) {
            Ok(()) => running.short = running.engine.space() != Space::Plenty,
            Err(error) => self.failed("mark", &error, &mut driven),
        }
        driven
    }

    /// The disk has what was committed; `false` if it failed and the node must stop.
    pub(crate) fn synced(&mut self, now: Millis) -> Result<bool, String> {
        let Some(running) = &mut self.running else { return Ok(true) };
        running.syncing = false;
        match running.engine.sync() {
            Ok(number) => {
                running.short = running.engine.space() != Space::Plenty || !running.queue.is_empty() && running.short;
                self.restored = false;
                self.step(now, Event::Durable(number)).map(|_| true)
            }
            Err(_) if self.failing => Ok(false),
            Err(error) => Err(format!("{}: sync: {error}", self.id)),
        }
    }

    /// Stops in order, as the gateway does: what is left is appended, and the closing mark is written. What it has to send
    /// is lost with its connections.
    pub(crate) fn stop(&mut self, now: Millis) -> Result<bool, String> {
        loop {
            let driven = self.drive(now);
            if let Some(broken) = driven.broken {
                return Err(broken);
            }
            let Some(running) = &self.running else { return Ok(false) };
            let more = running.syncing || running.core.has_unsealed();
            if driven.stop || (!running.queue.is_empty() && !running.syncing) || !self.synced(now)? {
                return Ok(false);
            }
            if !more {
                break;
            }
        }
        let clock = self.clock(now);
        let Some(running) = self.running.take() else { return Ok(false) };
        let custody = running.core.exchange().custody();
        self.custody = custody.map(|(peer, lane, end, record)| ((peer, lane, end), record)).collect();
        match running.engine.close(clock) {
            Ok(()) => Ok(true),
            Err(error) if self.failing || (self.full && error.is_full()) => Ok(true),
            Err(error) => Err(format!("{}: close: {error}", self.id)),
        }
    }
}

/// The plain messages that a record says were applied.
fn applied_by(number: RecordNumber, record: &Record) -> Vec<(RecordNumber, Lane, String)> {
    let (room, effects) = record::effects(record.kind, &record.payload).unwrap_or_default();
    let of_notes = effects.into_iter().filter(|_| room == NOTE);
    of_notes.filter_map(|effect| Some((number, effect.cause?.lane, note_id(effect.bytes)?))).collect()
}

/// What leaves may promise something: unsigned, or signed.
fn note_promise(promised: &mut BTreeMap<Lane, LanePosition>, me: AuthorityId, frame: &[u8]) {
    let said = match (frame.get(1), Frame::from_bytes(frame)) {
        (Some(2), Ok(Frame::Durable { lane, position })) => vec![(lane, position)],
        _ => signed_for(frame, me),
    };
    for (lane, position) in said {
        let held = promised.entry(lane).or_default();
        if position.key() > held.key() {
            *held = position;
        }
    }
}
