//! Files in a world: what the keepers do between ticks, what their stores lose, and what must have become of each file.
//!
//! A file that was acknowledged is whole and right at its destination in the end, and its origin knows. If an end of the transfer
//! was set back meanwhile (its store stays as it is, or is lost with the machine: backups do not hold it), the transfer may
//! also be over at either end, with a reason; it never hangs, and what is called whole is there.

use crate::node::Node;
use crate::workload::Retry;
use crate::world::World;
use jincai_crypto::KeyRing;
use jincai_exchange::read_message;
use jincai_files::{Error, FileKey, MemoryStore, Mood, ReceiveState, SendState, Submission};
use jincai_types::{AuthorityId, Destination, Digest, Lane, Millis, Priority};

/// The kind of work that sends a file; no message has it.
pub(crate) const FILE: &str = "a file";
/// Room in a store.
const STORE_BYTES: u64 = 64 << 20;
/// One more than a chunk holds, now and then.
const TWO_CHUNKS: usize = (512 << 10) + 9;

/// A file that was offered.
pub(crate) struct Offered {
    from: usize,
    to: AuthorityId,
    root: Digest,
    pub(crate) acknowledged: bool,
    /// Origin or destination was set back since.
    set_back: bool,
}

pub(crate) fn empty_store() -> MemoryStore {
    MemoryStore::new(STORE_BYTES)
}

impl Node {
    /// The keeper does what there is to do. What comes is told of only when all that was staged is durable, and so is what may
    /// be removed. `true` if there was something.
    pub(crate) fn keep(&mut self, now: Millis) -> Result<bool, String> {
        let (clock, id) = (self.clock(now), self.id);
        let Some(running) = &mut self.running else { return Ok(false) };
        let mood = Mood { eager: true, retry: true };
        let durable = !running.waits_for_disk();
        let files = &running.core.rooms().files;
        if durable && files.releases() != running.released {
            running.released = files.releases();
            self.store.keep(&files.roots());
        }
        let mut jobs = if durable { running.core.receiving_jobs(mood) } else { Vec::new() };
        jobs.extend(running.core.sending_jobs(None, mood));
        if jobs.is_empty() {
            return Ok(false);
        }
        let keys = KeyRing::from_bytes(&self.keys).map_err(|error| error.to_string())?;
        for job in jobs {
            let payload = |record, index: u64| {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                let read = read_message(&running.log, (record, index), (id, &keys));
                read.map_err(|error| Error::Disk(error.to_string()))
            };
            let report = running.keeper.work(job, &self.store, &payload);
            running.core.file_report(clock, &running.log, report).map_err(|error| format!("{id}: {error}"))?;
        }
        Ok(true)
    }
}

impl World {
    /// A file for somebody else, most of them small.
    pub(crate) fn send_file(&mut self, node: usize) {
        let to = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
        if to == node {
            return;
        }
        let large = self.random.chance(40);
        let length = if large { TWO_CHUNKS } else { usize::try_from(self.random.below(3_000)).unwrap_or(0) };
        let id = format!("file-{}", self.files.len());
        let (first, to) = (self.random.below(251), Destination::Authority(self.nodes[to].id));
        let payload = (first..).take(length).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
        self.submit(Retry { node, to, class: Priority::Record, kind: FILE.into(), id, payload });
    }

    /// The content lies in the store before the file is offered; `true` if the offer was taken.
    pub(crate) fn offer_file(&mut self, file: &Retry) -> bool {
        let clock = self.nodes[file.node].clock(self.now);
        let Destination::Authority(to) = file.to else { return false };
        let Node { store, running: Some(running), .. } = &mut self.nodes[file.node] else { return false };
        let Ok(tree) = store.take(&file.payload) else { return false };
        let root = tree.root;
        let submission = Submission { to, id: file.id.clone(), name: "a".into(), media: String::new(), tree };
        let log = running.log.clone();
        let taken = running.core.submit_file(clock, &log, submission).is_ok();
        if taken {
            let offered = Offered { from: file.node, to, root, acknowledged: false, set_back: false };
            self.files.entry(file.id.clone()).or_insert(offered);
        }
        taken
    }

    /// A node was set back: its store is lost as well, or as it was.
    pub(crate) fn set_files_back(&mut self, node: usize) {
        let id = self.nodes[node].id;
        if self.random.chance(500) {
            self.nodes[node].store = empty_store();
            self.tell(node, || "has lost its files".into());
        }
        for file in self.files.values_mut().filter(|file| file.from == node || file.to == id) {
            file.set_back = true;
        }
    }

    /// Files of which something is still to happen, for people.
    pub(crate) fn files_under_way(&self) -> Vec<String> {
        let mut out = Vec::new();
        for node in &self.nodes {
            let Some(files) = node.running.as_ref().map(|running| &running.core.rooms().files) else { continue };
            let sending = files.sending().filter(|(_, sending)| !sending.is_over());
            let sending = sending.map(|(key, sending)| (key, sending.to, format!("{:?}", sending.state)));
            let receiving = files.receiving().filter(|(_, coming)| !coming.is_over());
            let receiving = receiving.map(|(key, coming)| (key, node.id, format!("{:?}", coming.state)));
            for (key, to, state) in sending.chain(receiving).filter(|(key, to, _)| !self.is_cut_off(key.origin, *to)) {
                out.push(format!("{}: file {key} to {to} is {state} ({:?})", node.id, files.waits(key)));
            }
        }
        out
    }

    /// Whether a lane between two authorities is held because of a fork: a file may hang on it, until an operator acts.
    fn is_cut_off(&self, one: AuthorityId, other: AuthorityId) -> bool {
        let leads = |lane: &Lane, from, to| lane.origin == from && lane.destination == Destination::Authority(to);
        self.forked.iter().any(|lane| leads(lane, one, other) || leads(lane, other, one))
    }

    /// Whether each file has become what it must.
    pub(crate) fn files_arrived(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (id, file) in &self.files {
            let (origin, destination) = (&self.nodes[file.from], &self.nodes[self.index[&file.to]]);
            let key = FileKey { origin: origin.id, id: id.clone() };
            let (Some(sender), Some(receiver)) = (&origin.running, &destination.running) else { continue };
            let coming = receiver.core.rooms().files.coming(&key).map(|coming| coming.state.clone());
            let sent = sender.core.rooms().files.sent(id).map(|(_, sending)| sending.state.clone());
            let whole = coming == Some(ReceiveState::Whole);
            if whole && !destination.store.holds(&file.root) {
                out.push(format!("I1: file {key} is called whole at {}, and is not there", file.to));
            }
            let excused = file.set_back || !file.acknowledged || self.is_cut_off(origin.id, file.to);
            let arrived = whole && sent == Some(SendState::Received);
            if !(excused || arrived) {
                out.push(format!("I1: file {key} was acknowledged and is {coming:?} at {}, {sent:?} here", file.to));
            }
        }
        out
    }
}
