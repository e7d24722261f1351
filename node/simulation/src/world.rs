//! A world: nodes in three levels, a network between neighbours, a workload, faults, and the order of everything in one
//! heap of events.

use crate::check;
use crate::node::Node;
use crate::random::Random;
use jincai_core::Event;
use jincai_crypto::{Card, CardChain, Directory, KeyRing, SeededEntropy};
use jincai_dictionary::ReleaseOrder;
use jincai_exchange::LinkKind;
use jincai_storage::{Spec, SpecColumn};
use jincai_types::{AuthorityId, ColumnType, Date, Destination, Millis, Priority, RecordNumber};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds between two ticks of a node.
const TICK: Millis = 100;
/// Virtual time at which worlds begin: 2026-01-01.
const BEGIN: Millis = 1_767_225_600_000;
/// A batch frame's kind and floor, which only the transport protects; everything behind is signed.
const FLOOR_BYTES: u64 = 140;
/// How long a world may take to settle when the faults have stopped.
const SETTLE: Millis = 300_000;

/// What to simulate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Nodes in a world: 3 to 60.
    pub nodes: usize,
    /// Virtual seconds of workload and faults.
    pub seconds: u64,
    /// Whether faults are injected.
    pub faults: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 7, seconds: 40, faults: true }
    }
}

/// Faults injected, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says what is counted")]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub altered: u64,
    pub crashes: u64,
    pub crashes_after_acknowledgement: u64,
    pub link_breaks: u64,
    pub clock_jumps: u64,
    pub restores: u64,
}

impl Faults {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let network = self.lost + self.duplicated + self.reordered + self.altered + self.link_breaks;
        network + self.crashes + self.clock_jumps + self.restores
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.altered += other.altered;
        self.crashes += other.crashes;
        self.crashes_after_acknowledgement += other.crashes_after_acknowledgement;
        self.link_breaks += other.link_breaks;
        self.clock_jumps += other.clock_jumps;
        self.restores += other.restores;
    }
}

/// What a world came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages applied at their destination.
    pub applied: u64,
    /// Messages acknowledged to their submitter.
    pub acknowledged: u64,
    /// Bytes that travelled.
    pub bytes: u64,
    /// Frames that travelled.
    pub frames: u64,
    /// Snapshots that replaced what a journal held.
    pub checkpoints: u64,
    /// Faults injected.
    pub faults: Faults,
    /// A digest over everything that happened, in order: two runs of one seed must agree on it.
    pub trace: u64,
    /// Broken invariants.
    pub broken: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Frame { from: usize, to: usize, session: u64, bytes: Vec<u8> },
    Tick(usize),
    Synced(usize, u64),
    Crash(usize),
    Restore(usize),
    Start(usize),
    Break(usize, usize),
    Join(usize, usize),
    Work,
}

/// A submitted message that waits to become durable before it is acknowledged.
struct Waiting {
    node: usize,
    life: u64,
    id: String,
    after: Option<RecordNumber>,
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    index: BTreeMap<AuthorityId, usize>,
    random: Random,
    seed: u64,
    now: Millis,
    order: u64,
    heap: BTreeMap<(Millis, u64), Happening>,
    /// Sessions that are up, by (child, superior), with their number: frames of an older one are lost.
    sessions: BTreeMap<(usize, usize), u64>,
    session_count: u64,
    waiting: Vec<Waiting>,
    /// Acknowledged messages: id and destination.
    pub(crate) acknowledged: BTreeMap<String, AuthorityId>,
    /// Every message submitted: id and destination.
    pub(crate) submitted: BTreeMap<String, AuthorityId>,
    counters: BTreeMap<String, u64>,
    faulty: bool,
    rows: u64,
    /// Acknowledged messages that no disk held any more after a node was set back.
    pub(crate) lost: BTreeSet<String>,
    pub(crate) report: Report,
}

fn authority(text: &str) -> AuthorityId {
    text.parse().expect("nine digits")
}

/// Ministry, provinces below it, counties below those.
fn tree(nodes: usize) -> Vec<(AuthorityId, Option<AuthorityId>)> {
    let mut out = vec![(AuthorityId::MINISTRY, None)];
    let provinces = (nodes - 1).div_ceil(4).max(1);
    for p in 0..provinces {
        out.push((authority(&format!("{:02}0000000", p + 11)), Some(AuthorityId::MINISTRY)));
    }
    for c in 0..nodes.saturating_sub(1 + provinces) {
        let province = c % provinces + 11;
        let superior = authority(&format!("{province:02}0000000"));
        out.push((authority(&format!("{province:02}{:04}000", 100 + c)), Some(superior)));
    }
    out
}

/// Builds a world, runs it, checks it.
#[must_use]
pub fn run_world(options: &Options, seed: u64) -> Report {
    let mut world = World::new(options, seed);
    if let Err(broken) = world.run(options) {
        world.report.broken.push(broken);
    }
    world.report
}

impl World {
    fn new(options: &Options, seed: u64) -> Self {
        let mut entropy = SeededEntropy::new(seed);
        let mut chains: BTreeMap<AuthorityId, (CardChain, KeyRing)> = BTreeMap::new();
        let mut nodes = Vec::new();
        let mut root = None;
        for (id, superior) in tree(options.nodes.clamp(3, 60)) {
            let keys = KeyRing::generate(&mut entropy).expect("seeded randomness does not fail");
            let keys_on_card = keys.public().expect("keys just made are well-formed");
            let card = Card {
                version: 1,
                authority: id,
                superior,
                serial: 1,
                keys: keys_on_card,
                not_before: 0,
                not_after: BEGIN * 2,
            };
            let above = superior.map(|s| &chains[&s]);
            let signed = card.issue(above.map_or(&keys.signing, |(_, k)| &k.signing));
            let chain = above.map(|(chain, _)| chain.clone()).unwrap_or_default().with(signed);
            let root = *root.get_or_insert_with(|| Directory::fingerprint(&card));
            let mut directory = Directory::new(root);
            directory.add(&chain, BEGIN).expect("a chain just made verifies");
            nodes.push(Node::new(id, &keys, directory));
            chains.insert(id, (chain, keys));
        }
        let index = nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
        Self {
            nodes,
            index,
            random: Random::new(seed ^ 0x5151_5151),
            seed,
            now: BEGIN,
            order: 0,
            heap: BTreeMap::new(),
            sessions: BTreeMap::new(),
            session_count: 0,
            waiting: Vec::new(),
            acknowledged: BTreeMap::new(),
            submitted: BTreeMap::new(),
            counters: BTreeMap::new(),
            faulty: options.faults,
            rows: 0,
            lost: BTreeSet::new(),
            report: Report::default(),
        }
    }

    fn at(&mut self, delay: Millis, happening: Happening) {
        self.order += 1;
        self.heap.insert((self.now + delay, self.order), happening);
    }

    fn superior_index(&self, node: usize) -> Option<usize> {
        let card = self.nodes[node].directory.card(self.nodes[node].id)?;
        self.index.get(&card.superior?).copied()
    }

    fn run(&mut self, options: &Options) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.start(node)?;
            let first = self.random.below(TICK);
            self.at(first, Happening::Tick(node));
        }
        self.at(500, Happening::Work);
        let end = BEGIN + options.seconds * 1000;
        let mut calm = false;
        while let Some(((at, order), happening)) = self.heap.pop_first() {
            self.now = at;
            self.trace(at ^ order.rotate_left(32));
            if at > end && !calm {
                calm = true;
                self.faulty = false;
                self.heal()?;
            }
            if at > end + SETTLE {
                return Err(format!(
                    "not settled {} s after the faults stopped: {}",
                    SETTLE / 1000,
                    check::unsettled(self)
                ));
            }
            self.happen(happening)?;
            // Asked on ticks only, and not before everything had time to be noticed.
            if calm && at > end + 5_000 && at % 7 == 0 && check::is_settled(self) {
                break;
            }
        }
        check::final_checks(self);
        Ok(())
    }

    fn trace(&mut self, value: u64) {
        self.report.trace = (self.report.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    fn heal(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_none() {
                self.start(node)?;
            }
        }
        for node in 0..self.nodes.len() {
            if let Some(superior) = self.superior_index(node) {
                self.join(node, superior)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Tick(node) => {
                self.at(TICK, Happening::Tick(node));
                self.nodes[node].step(self.now, Event::Tick)?;
                self.drive(node)?;
                if self.faulty {
                    self.tick_faults(node)?;
                }
            }
            Happening::Synced(node, life) if self.nodes[node].starts == life => {
                self.nodes[node].synced(self.now)?;
                let acknowledged = self.acknowledge(node);
                self.drive(node)?;
                // The aimed crash: right after somebody was told.
                if acknowledged && self.faulty && self.random.chance(30) {
                    self.report.faults.crashes_after_acknowledgement += 1;
                    self.crash(node)?;
                }
            }
            Happening::Synced(..) => {}
            Happening::Frame { from, to, session, bytes } => self.frame(from, to, session, bytes)?,
            Happening::Crash(node) => self.crash(node)?,
            Happening::Restore(node) => self.restore(node)?,
            Happening::Start(node) => {
                if self.nodes[node].running.is_none() {
                    self.start(node)?;
                }
            }
            Happening::Break(child, superior) => {
                if self.sessions.remove(&(child, superior)).is_some() {
                    let (a, b) = (self.nodes[child].id, self.nodes[superior].id);
                    self.nodes[child].step(self.now, Event::LinkDown(b))?;
                    self.nodes[superior].step(self.now, Event::LinkDown(a))?;
                    let back = self.random.between(200, 8_000);
                    self.at(back, Happening::Join(child, superior));
                }
            }
            Happening::Join(child, superior) => self.join(child, superior)?,
            Happening::Work => {
                if self.working() {
                    let pause = self.random.between(50, 600);
                    self.at(pause, Happening::Work);
                    self.work()?;
                }
            }
        }
        Ok(())
    }

    /// Work goes on as long as faults do, or, in a world without faults, for a fixed number of messages.
    fn working(&self) -> bool {
        self.faulty || self.submitted.len() < 60
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let seed = self.seed;
        self.nodes[node].start(self.now, seed)?;
        check::promises_kept(&self.nodes[node])?;
        self.drive(node)?;
        let neighbours: Vec<(usize, usize)> = (0..self.nodes.len())
            .filter_map(|n| self.superior_index(n).map(|s| (n, s)))
            .filter(|(n, s)| *n == node || *s == node)
            .collect();
        for (child, superior) in neighbours {
            self.at(50, Happening::Join(child, superior));
        }
        Ok(())
    }

    fn crash(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].running.take().is_none() {
            return Ok(());
        }
        self.report.faults.crashes += 1;
        let random = &mut self.random;
        self.nodes[node].disk.crash(&mut |n| usize::try_from(random.below(n as u64)).unwrap_or(0));
        self.waiting.retain(|w| w.node != node);
        let broken: Vec<(usize, usize)> =
            self.sessions.keys().filter(|(a, b)| *a == node || *b == node).copied().collect();
        for pair in broken {
            self.sessions.remove(&pair);
            let other = if pair.0 == node { pair.1 } else { pair.0 };
            let id = self.nodes[node].id;
            self.nodes[other].step(self.now, Event::LinkDown(id))?;
        }
        let down = self.random.between(100, 5_000);
        self.at(down, Happening::Start(node));
        Ok(())
    }

    fn join(&mut self, child: usize, superior: usize) -> Result<(), String> {
        let up = self.nodes[child].running.is_some() && self.nodes[superior].running.is_some();
        if !up || self.sessions.contains_key(&(child, superior)) {
            return Ok(());
        }
        self.session_count += 1;
        self.sessions.insert((child, superior), self.session_count);
        let (a, b) = (self.nodes[child].id, self.nodes[superior].id);
        self.nodes[child].step(self.now, Event::LinkUp(b, LinkKind::Session))?;
        self.nodes[superior].step(self.now, Event::LinkUp(a, LinkKind::Session))?;
        self.drive(child)?;
        self.drive(superior)
    }

    fn session(&self, a: usize, b: usize) -> Option<u64> {
        self.sessions.get(&(a, b)).or_else(|| self.sessions.get(&(b, a))).copied()
    }

    fn frame(&mut self, from: usize, to: usize, session: u64, mut bytes: Vec<u8>) -> Result<(), String> {
        if self.session(from, to) != Some(session) {
            return Ok(());
        }
        let peer = self.nodes[from].id;
        if self.faulty && self.random.chance(5) {
            // I5: an altered copy arrives first; it may change nothing that counts.
            self.report.faults.altered += 1;
            let mut altered = bytes.clone();
            let bit = self.random.between(FLOOR_BYTES * 8, altered.len().max(FLOOR_BYTES as usize + 1) as u64 * 8);
            if let Some(byte) = altered.get_mut(usize::try_from(bit / 8).unwrap_or(0)) {
                *byte ^= 1 << (bit % 8);
            }
            self.altered(to, peer, altered)?;
        }
        self.report.frames += 1;
        self.report.bytes += bytes.len() as u64;
        let bytes = std::mem::take(&mut bytes);
        self.nodes[to].step(self.now, Event::Frame(peer, bytes))?;
        self.drive(to)
    }

    /// Only what is signed can be told from its altered copy: hello, durable and gap frames are protected by the
    /// transport's own integrity and are left out here. A copy whose altered bit means nothing may be taken for the
    /// original; anything else must change nothing, or the checks at the end will tell.
    fn altered(&mut self, to: usize, peer: AuthorityId, bytes: Vec<u8>) -> Result<(), String> {
        if matches!(bytes.get(1), Some(1 | 3 | 5)) {
            self.nodes[to].step(self.now, Event::Frame(peer, bytes))?;
            self.drive(to)?;
        }
        Ok(())
    }

    /// Appends and sends what a node has to, and schedules its sync.
    fn drive(&mut self, node: usize) -> Result<(), String> {
        let driven = self.nodes[node].drive(self.now);
        if let Some(broken) = driven.broken {
            return Err(broken);
        }
        self.settle_numbers(node);
        if driven.sync {
            let slow = if self.random.chance(10) { 2_000 } else { 3 };
            let delay = self.random.between(1, slow);
            let life = self.nodes[node].starts;
            self.at(delay, Happening::Synced(node, life));
        }
        for (peer, bytes) in driven.frames {
            self.send(node, peer, bytes);
        }
        Ok(())
    }

    fn send(&mut self, from: usize, peer: AuthorityId, bytes: Vec<u8>) {
        let Some(to) = self.index.get(&peer).copied() else { return };
        let Some(session) = self.session(from, to) else { return };
        let mut delay = self.random.between(1, 40);
        if self.faulty {
            if self.random.chance(20) {
                self.report.faults.lost += 1;
                return;
            }
            if self.random.chance(30) {
                self.report.faults.reordered += 1;
                delay += self.random.between(40, 2_000);
            }
            if self.random.chance(15) {
                self.report.faults.duplicated += 1;
                let later = self.random.between(1, 3_000);
                self.at(later, Happening::Frame { from, to, session, bytes: bytes.clone() });
            }
        }
        self.at(delay, Happening::Frame { from, to, session, bytes });
    }

    /// Sets a node back to the copy of its disk that was taken some time ago. What no disk of the world holds any more may
    /// be lost; everything else must still arrive.
    fn restore(&mut self, node: usize) -> Result<(), String> {
        // What is held is read from running nodes only.
        if self.nodes.iter().any(|n| n.running.is_none()) {
            return Ok(());
        }
        let Some(backup) = self.nodes[node].backup.take() else { return Ok(()) };
        self.crash(node)?;
        self.nodes[node].set_back_to(backup);
        self.report.faults.restores += 1;
        self.start(node)?;
        let held = check::held_ids(self);
        self.lost.extend(self.acknowledged.keys().filter(|id| !held.contains(*id)).cloned());
        Ok(())
    }

    fn tick_faults(&mut self, node: usize) -> Result<(), String> {
        if self.random.chance(10) && self.nodes[node].checkpoint(self.now)? {
            self.report.checkpoints += 1;
        }
        if self.nodes[node].backup.is_some() {
            if self.random.chance(5) {
                self.at(0, Happening::Restore(node));
            }
        } else if self.random.chance(5) && self.nodes[node].running.is_some() {
            let n = &mut self.nodes[node];
            n.backup = Some((n.disk.durable_copy(), n.blobs.copy()));
        }
        if self.random.chance(4) {
            self.at(0, Happening::Crash(node));
        }
        if let Some(superior) = self.superior_index(node)
            && self.random.chance(8)
        {
            self.report.faults.link_breaks += 1;
            self.at(0, Happening::Break(node, superior));
        }
        if self.random.chance(2) {
            self.report.faults.clock_jumps += 1;
            // A day or a year ahead, or back to true time.
            self.nodes[node].skew =
                [0, 86_400_000, 366 * 86_400_000][usize::try_from(self.random.below(3)).unwrap_or(0)];
        }
        Ok(())
    }

    /// Submitters of what was sealed in this turn learn which record to wait for.
    fn settle_numbers(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        if running.core.has_unsealed() {
            return;
        }
        let staged = running.core.staged();
        for waiting in self.waiting.iter_mut().filter(|w| w.node == node && w.after.is_none()) {
            waiting.after = Some(staged);
        }
    }

    fn acknowledge(&mut self, node: usize) -> bool {
        let life = self.nodes[node].starts;
        let durable = self.nodes[node].running.as_ref().map_or(0, |r| r.core.durable());
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| w.node == node && w.life == life && w.after.is_some_and(|a| a <= durable));
        self.waiting = rest;
        let any = !done.is_empty();
        for waiting in done {
            let to = self.submitted[&waiting.id];
            self.acknowledged.insert(waiting.id, to);
            self.report.acknowledged += 1;
        }
        any
    }

    fn work(&mut self) -> Result<(), String> {
        let node = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
        if self.nodes[node].running.is_none() {
            return Ok(());
        }
        match self.random.below(10) {
            0 if node == 0 || self.random.chance(300) => self.release_codes(),
            1 => self.release_spec(),
            2 | 3 => self.write_rows(node),
            _ => self.submit_notes(node),
        }
        self.drive(node)?;
        if node != 0 { self.drive(0) } else { Ok(()) }
    }

    fn submit_notes(&mut self, node: usize) {
        let now = self.now;
        let to = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
        let class = Priority::ALL[usize::try_from(self.random.below(4)).unwrap_or(0)];
        let count = self.random.between(1, 4);
        for _ in 0..count {
            let (from, to) = (&self.nodes[node], self.nodes[to].id);
            let lane = format!("{}>{to}/{}", from.id, class.name());
            let (life, clock) = (from.starts, from.clock(now));
            let counter = self.counters.entry(lane.clone()).or_default();
            *counter += 1;
            let id = format!("{lane}#{counter:06}");
            let payload = id.repeat(usize::try_from(self.random.between(1, 30)).unwrap_or(1)).into_bytes();
            let Some(running) = &mut self.nodes[node].running else { return };
            let names = (id.clone(), String::new());
            if running.core.submit_note(clock, Destination::Authority(to), class, names, payload).is_ok() {
                self.submitted.insert(id.clone(), to);
                self.waiting.push(Waiting { node, life, id, after: None });
            }
        }
    }

    fn release_codes(&mut self) {
        let clock = self.nodes[0].clock(self.now);
        let count = self.random.between(20, 60);
        let mut codes: BTreeSet<u64> = (0..count).collect();
        codes.remove(&self.random.below(count));
        let salt = self.random.below(1000);
        let mut csv = String::from("code,name,level,parent\n");
        for code in codes {
            csv += &format!("{code:03},name {},1,\n", if code % 7 == 0 { code + salt } else { code });
        }
        let Some(running) = &mut self.nodes[0].running else { return };
        let log = running.log.clone();
        let names = ("national", "UNIT", "units");
        if running.core.import(clock, &log, names, &mut csv.as_bytes()).is_err() {
            return;
        }
        let Some(effective_from) = Date::new(2026, 1, 1) else { return };
        let order = ReleaseOrder { line: "national", effective_from, note: "", reason: None };
        // Nothing to release is no fault: the draft may equal the release before.
        let _released = running.core.release(clock, &log, order).is_ok();
    }

    fn release_spec(&mut self) {
        let clock = self.nodes[0].clock(self.now);
        let Some(running) = &mut self.nodes[0].running else { return };
        if running.core.rooms().storage.specs().next().is_some() {
            return;
        }
        let column = |name: &str, kind, key| SpecColumn {
            name: name.into(),
            kind,
            required: true,
            key,
            code_set: None,
            title: String::new(),
        };
        let spec = Spec {
            id: "pay".into(),
            version: 1,
            title: "payments".into(),
            table: "pay".into(),
            columns: vec![
                column("line_id", ColumnType::Text, true),
                column("pay_date", ColumnType::Date, false),
                column("amount", ColumnType::Amount, false),
            ],
            month_of: "pay_date".into(),
            totals: vec!["amount".into()],
            collector: AuthorityId::MINISTRY,
            every_seconds: 3,
            line: "national".into(),
            release: 1,
        };
        let log = running.log.clone();
        let _known_or_new = running.core.release_spec(clock, &log, spec).is_ok();
    }

    fn write_rows(&mut self, node: usize) {
        let clock = self.nodes[node].clock(self.now);
        let mut csv = String::from("line_id,pay_date,amount\n");
        for _ in 0..self.random.between(1, 5) {
            self.rows += 1;
            let key = self.random.below(40);
            csv += &format!("L{key},2026-0{}-01,{}.{:02}\n", key % 3 + 1, self.rows, self.random.below(100));
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        let log = running.log.clone();
        // Without the spec there is no table yet; a doubled key in one request is refused: both leave nothing behind.
        let _written = running.core.write_rows(clock, &log, ("pay", "sim"), &mut csv.as_bytes(), true).is_ok();
    }
}
