//! One node of the country, its links, its disk and its clock.

use super::{Country, HOUR, Happening};
use crate::downward::level_of;
use jincai_core::{Action, Core, Event};
use jincai_crypto::{Directory, KeyRing, SeededEntropy};
use jincai_exchange::{Frame, LinkKind, Notice, Opening, Payload, Setup, read_batch};
use jincai_journal::{Blobs, Config, Engine, MemoryDisk, Reader, Record, Urgency};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Millis};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node ticks at most so often.
const TICK: Millis = 1_000;
/// No tick is due.
const NEVER: Millis = Millis::MAX;

pub(crate) struct Running {
    pub(crate) engine: Engine<MemoryDisk>,
    pub(crate) core: Core,
    pub(crate) log: Reader,
    syncing: bool,
    /// Records that no commit holds yet.
    queue: Vec<Record>,
}

pub(crate) struct Site {
    pub(crate) id: AuthorityId,
    /// The place of its superior among the sites.
    pub(crate) superior: Option<usize>,
    pub(crate) disk: MemoryDisk,
    keys: Vec<u8>,
    directory: Directory,
    pub(crate) running: Option<Running>,
    /// Counts its starts.
    life: u64,
    wake: Millis,
    /// The session with its superior, if there is one.
    session: Option<u64>,
    /// When the last frame of the session arrives, up and down: they keep their order.
    arrives: [Millis; 2],
}

/// What a node does at the end of a group of steps.
pub(crate) struct Turned {
    pub(crate) notices: Vec<Notice>,
    /// Whether something is on its way to the disk since now.
    pub(crate) syncs: bool,
    /// Frames that leave now.
    pub(crate) frames: Vec<(AuthorityId, Vec<u8>)>,
}

/// Links that do not hurry: a country has a day to settle.
fn policy() -> LinkPolicy {
    LinkPolicy { retry_ms: 600_000, receipt_ms: 60_000, ..LinkPolicy::default() }
}

impl Site {
    /// A tick: when the next one is due, `pause` from now at the earliest; `None` if this one has left something to carry out.
    pub(crate) fn tick(&mut self, now: Millis, pause: Millis) -> Result<Option<Millis>, String> {
        self.step(now, Event::Tick)?;
        let running = self.running.as_ref();
        if running.is_some_and(|running| running.core.has_output()) {
            return Ok(None);
        }
        let next = running.and_then(|running| running.core.next_wake(now));
        Ok(Some(next.map_or(NEVER, |next| next.max(now + pause))))
    }

    pub(crate) fn new(id: AuthorityId, superior: Option<usize>, keys: &KeyRing, directory: Directory) -> Self {
        Self {
            id,
            superior,
            disk: MemoryDisk::new(),
            keys: keys.to_bytes().to_vec(),
            directory,
            running: None,
            life: 0,
            wake: NEVER,
            session: None,
            arrives: [0; 2],
        }
    }

    /// Opens the journal and the node over it.
    pub(crate) fn start(
        &mut self,
        now: Millis,
        salt: u64,
        (policy, blobs): (LinkPolicy, Arc<dyn Blobs>),
    ) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.id);
        let config = Config { segment_bytes: 64 << 10, cache_bytes: 16 << 10, reserve: 0, salt, ..Config::default() };
        let opened = Engine::open(self.disk.clone(), Arc::clone(&blobs), config);
        let (engine, recovery) = opened.map_err(|e| told(&e))?;
        if let Some(quarantine) = recovery.quarantine {
            return Err(format!("{}: a power cut alone led to quarantine: {quarantine:?}", self.id));
        }
        let log = engine.reader();
        let keys = KeyRing::from_bytes(&self.keys).map_err(|e| told(&e))?;
        let entropy = Box::new(SeededEntropy::new(salt));
        let (authority, directory) = (self.id, self.directory.clone());
        let setup = Setup { authority, keys, entropy, directory, policy, limits: BTreeMap::new() };
        let opening = if recovery.clean { Opening::Clean } else { Opening::Unclean };
        let core = Core::open(setup, blobs, opening, None, now, &log).map_err(|e| told(&e))?;
        self.life += 1;
        self.running = Some(Running { engine, core, log, syncing: false, queue: Vec::new() });
        Ok(())
    }

    /// Which of its lives this is.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Feeds an event. What a neighbour sends before the card came that it needs is refused, and comes again.
    pub(crate) fn step(&mut self, now: Millis, event: Event) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        match running.core.step(now, event, &running.log) {
            Err(error) if error.is_fatal() => Err(format!("{}: {error}", self.id)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Ends a group of steps: appends what no commit under way holds, and lets go of what may leave.
    pub(crate) fn turn(&mut self, now: Millis) -> Result<Turned, String> {
        let Some(running) = &mut self.running else { return Err(format!("{} is down", self.id)) };
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.id);
        let turn = running.core.turn(now, &running.log).map_err(|error| told(&error))?;
        running.queue.extend(turn.records);
        let syncs = !running.syncing && !running.queue.is_empty();
        if syncs {
            running.engine.append(now, &running.queue, Urgency::Normal).map_err(|error| told(&error))?;
            running.queue.clear();
            running.syncing = true;
        }
        let mut frames = Vec::new();
        for action in turn.actions {
            let Action::Send(send) = action else { continue };
            let bytes = match send.what {
                Payload::Frame(bytes) => bytes,
                Payload::Batch { record, hop, .. } => {
                    let batch = read_batch(&running.log, record).map_err(|error| told(&error))?;
                    Frame::batch_bytes(&hop, &batch)
                }
            };
            frames.push((send.peer, bytes));
        }
        Ok(Turned { notices: turn.notices, syncs, frames })
    }

    /// The disk has what was written.
    pub(crate) fn synced(&mut self, now: Millis) -> Result<(), String> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.syncing = false;
        let durable = running.engine.sync().map_err(|error| format!("{}: {error}", self.id))?;
        self.step(now, Event::Durable(durable))
    }
}

impl Country {
    pub(crate) fn start(&mut self, site: usize) -> Result<(), String> {
        let salt = self.seed ^ (site as u64 + 1) << 32 ^ (self.sites[site].life + 1) << 56;
        self.sites[site].start(self.now, salt, (policy(), Arc::new(self.blobs.clone())))?;
        if let Some(running) = &mut self.sites[site].running {
            running.core.share_applied(Arc::clone(&self.applied));
        }
        self.drive(site)
    }

    /// Ends a group of steps: appends, sends what may leave, and lets the clock tick once more soon.
    pub(crate) fn drive(&mut self, at: usize) -> Result<(), String> {
        let (now, soon) = (self.now, self.now + TICK);
        let site = &mut self.sites[at];
        if site.running.is_none() {
            return Ok(());
        }
        let turned = site.turn(now)?;
        for notice in turned.notices.iter().filter(|notice| notice.alarm) {
            self.report.broken.extend(outcome_of(notice, site.id, at == 0));
        }
        if turned.syncs {
            let delay = self.random.between(100, 1_000);
            self.heap.push(now + delay, Happening::Synced(at, site.life));
        }
        if site.wake > soon {
            site.wake = soon;
            self.heap.push(soon, Happening::Wake(at));
        }
        turned.frames.into_iter().for_each(|(peer, bytes)| self.send(at, peer, bytes));
        Ok(())
    }

    pub(crate) fn synced(&mut self, at: usize, life: u64) -> Result<(), String> {
        if self.sites[at].life != life || self.sites[at].running.is_none() {
            return Ok(());
        }
        self.sites[at].synced(self.now)?;
        self.drive(at)
    }

    /// A tick, and then sleep until the next one is due.
    pub(crate) fn wake(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        if self.sites[at].wake != now {
            return Ok(());
        }
        self.report.ticks += 1;
        let next = self.sites[at].tick(now, TICK)?;
        self.sites[at].wake = next.unwrap_or(NEVER);
        match next {
            None => return self.drive(at),
            Some(NEVER) => {}
            Some(next) => self.heap.push(next, Happening::Wake(at)),
        }
        Ok(())
    }

    /// The link between two neighbours, by its lower end, and the direction.
    fn link(&self, from: usize, to: usize) -> (usize, usize) {
        if self.sites[from].superior == Some(to) { (from, 0) } else { (to, 1) }
    }

    fn send(&mut self, from: usize, peer: AuthorityId, bytes: Vec<u8>) {
        let Some(to) = self.index.get(&peer).copied() else { return };
        let (child, way) = self.link(from, to);
        let Some(session) = self.sites[child].session else { return };
        let delay = self.random.between(5, 80);
        let arrives = &mut self.sites[child].arrives[way];
        *arrives = (*arrives).max(self.now + delay);
        self.heap.push(*arrives, Happening::Frame { from, to, session, bytes });
    }

    pub(crate) fn arrive(&mut self, from: usize, to: usize, session: u64, bytes: Vec<u8>) -> Result<(), String> {
        let (child, _) = self.link(from, to);
        if self.sites[child].session != Some(session) {
            return Ok(());
        }
        self.report.frames += 1;
        self.report.bytes += bytes.len() as u64;
        if self.sites[to].superior == Some(from) {
            self.report.downward.count(level_of(self.plan.levels, to), &bytes);
        }
        *self.report.kinds.entry(kind_of(&bytes)).or_default() += 1;
        let peer = self.sites[from].id;
        self.sites[to].step(self.now, Event::Frame(peer, bytes))?;
        self.drive(to)
    }

    pub(crate) fn join(&mut self, child: usize) -> Result<(), String> {
        let Some(superior) = self.sites[child].superior else { return Ok(()) };
        let both = [child, superior];
        if self.sites[child].session.is_some() || both.iter().any(|site| self.sites[*site].running.is_none()) {
            return Ok(());
        }
        self.sites[child].session = Some(self.now);
        for (site, peer) in [(child, superior), (superior, child)] {
            let peer = self.sites[peer].id;
            self.sites[site].step(self.now, Event::LinkUp(peer, LinkKind::Session))?;
            self.drive(site)?;
        }
        Ok(())
    }

    pub(crate) fn break_link(&mut self, child: usize, pause: Millis) -> Result<(), String> {
        let Some(superior) = self.sites[child].superior else { return Ok(()) };
        if self.sites[child].session.take().is_none() {
            return Ok(());
        }
        self.report.breaks += 1;
        for (site, peer) in [(child, superior), (superior, child)] {
            let peer = self.sites[peer].id;
            self.sites[site].step(self.now, Event::LinkDown(peer))?;
            self.drive(site)?;
        }
        self.heap.push(self.now + pause, Happening::Join(child));
        Ok(())
    }

    /// A whole province loses power, without a warning.
    pub(crate) fn power_cut(&mut self, province: usize) -> Result<(), String> {
        let dark: Vec<usize> = (1..self.sites.len()).filter(|site| self.plan.is_dark(*site)).collect();
        for site in &dark {
            let ended = self.sites[*site].running.take();
            self.ended.extend(ended.map(|running| running.core.exchange().counters().clone()));
            self.sites[*site].session = None;
            self.sites[*site].wake = NEVER;
            let random = &mut self.random;
            let mut choose = |n: usize| usize::try_from(random.below(n as u64)).unwrap_or(0);
            self.sites[*site].disk.crash(&mut choose);
        }
        let id = self.sites[province].id;
        self.report.outage = (id.to_string(), dark.len(), self.plan.outage.2 / HOUR);
        self.sites[0].step(self.now, Event::LinkDown(id))?;
        self.drive(0)
    }

    pub(crate) fn power_back(&mut self, _province: usize) -> Result<(), String> {
        let dark: Vec<usize> = (1..self.sites.len()).filter(|site| self.plan.is_dark(*site)).collect();
        for site in dark {
            self.start(site)?;
            let delay = self.random.between(10_000, 600_000);
            self.heap.push(self.now + delay, Happening::Join(site));
        }
        Ok(())
    }
}

/// An alarm that nothing here explains. That the ministry refuses the wrong batch is what it is for.
fn outcome_of(notice: &Notice, id: AuthorityId, ministry: bool) -> Option<String> {
    let wanted = ministry && notice.text.contains(super::forge::SYSTEM);
    (!wanted).then(|| format!("{id}: {} {}", notice.code, notice.text))
}

fn kind_of(frame: &[u8]) -> &'static str {
    const KINDS: [&str; 12] =
        ["hello", "batch", "durable", "receipts", "gap", "slot", "ends", "intake", "offer", "want", "demand", "grant"];
    frame.get(1).and_then(|kind| KINDS.get(usize::from(*kind))).unwrap_or(&"other")
}
