//! A world: nodes in three levels, and the order of everything that happens to them in one heap of events.

use crate::check;
use crate::faults::{Fault, FaultSet, Faults};
use crate::files::Offered;
use crate::network::Network;
use crate::node::{InCustody, Node};
use crate::random::Random;
use crate::trace::Trace;
use crate::twin::Written;
use crate::workload::{Retry, Waiting};
use jincai_crypto::{Card, CardChain, Directory, KeyRing, SeededEntropy};
use jincai_types::{AuthorityId, AuthorityTree, Destination, Lane, Millis};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds between two ticks of a node.
const TICK: Millis = 100;
/// Virtual time at which worlds begin: 2026-01-01.
pub(crate) const BEGIN: Millis = 1_767_225_600_000;
/// How long a world may take to settle when the faults have stopped.
const SETTLE: Millis = 300_000;

/// Frames per node and virtual second that no world needs.
const FRAMES: u64 = 20;

/// What to simulate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Nodes in a world: 3 to 60.
    pub nodes: usize,
    /// Virtual seconds of workload and faults.
    pub seconds: u64,
    /// Which faults are injected.
    pub faults: FaultSet,
    /// Whether the report shall hold readable lines of everything that happened.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 7, seconds: 40, faults: FaultSet::all(), trace: false }
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
    /// The same, to read, if [`Options::trace`] is set: virtual seconds, node, what happened.
    pub lines: Vec<String>,
    /// Broken invariants.
    pub broken: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Frame { from: usize, to: usize, session: u64, bytes: Vec<u8> },
    Tick(usize),
    Synced(usize, u64),
    Crash(usize),
    Restore(usize),
    Start(usize),
    Room(usize),
    Break(usize, usize),
    Join(usize, usize),
    Retry(Retry),
    Work,
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) index: BTreeMap<AuthorityId, usize>,
    pub(crate) tree: AuthorityTree,
    pub(crate) random: Random,
    seed: u64,
    pub(crate) now: Millis,
    order: u64,
    heap: BTreeMap<(Millis, u64), Happening>,
    pub(crate) network: Network,
    /// More frames than this are a storm.
    pub(crate) frames_max: u64,
    pub(crate) waiting: Vec<Waiting>,
    /// Acknowledged messages: id and destination.
    pub(crate) acknowledged: BTreeMap<String, Destination>,
    /// Every message submitted: id and destination.
    pub(crate) submitted: BTreeMap<String, Destination>,
    /// Messages that were submitted again because nobody had acknowledged them.
    pub(crate) retried: BTreeSet<String>,
    pub(crate) counters: BTreeMap<String, u64>,
    /// What is injected: nothing any more once the world calms down.
    faults: FaultSet,
    pub(crate) faulty: bool,
    pub(crate) rows: u64,
    pub(crate) written: Written,
    /// Files that were offered, by id.
    pub(crate) files: BTreeMap<String, Offered>,
    /// Acknowledged messages that no disk held any more after a node was set back.
    pub(crate) lost: BTreeSet<String>,
    /// Lanes whose origin signed two continuations: held wherever both came.
    pub(crate) forked: BTreeSet<Lane>,
    /// Batches that somebody has signed for without holding them: who, and which.
    pub(crate) lied_custody: BTreeSet<InCustody>,
    /// Collected batches whose figures are not those of their rows, by their id.
    pub(crate) forged_totals: BTreeSet<String>,
    /// A node that acknowledged something just now.
    pub(crate) just_acknowledged: Option<usize>,
    pub(crate) trace: Trace,
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
    Report { trace: world.trace.digest(), lines: world.trace.into_lines(), ..world.report }
}

impl World {
    pub(crate) fn new(options: &Options, seed: u64) -> Self {
        let mut entropy = SeededEntropy::new(seed);
        let mut chains: BTreeMap<AuthorityId, (CardChain, KeyRing)> = BTreeMap::new();
        let mut nodes = Vec::new();
        let (mut root, mut tree_of_all) = (None, AuthorityTree::default());
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
            tree_of_all.add(id, superior).expect("everybody's superior comes first");
            chains.insert(id, (chain, keys));
        }
        let index = nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
        Self {
            nodes,
            index,
            tree: tree_of_all,
            random: Random::new(seed ^ 0x5151_5151),
            seed,
            now: BEGIN,
            order: 0,
            heap: BTreeMap::new(),
            network: Network::default(),
            frames_max: FRAMES * options.nodes as u64 * (options.seconds + SETTLE / 1000),
            waiting: Vec::new(),
            acknowledged: BTreeMap::new(),
            submitted: BTreeMap::new(),
            retried: BTreeSet::new(),
            counters: BTreeMap::new(),
            faults: options.faults.clone(),
            faulty: !options.faults.is_empty(),
            rows: 0,
            written: Written::default(),
            files: BTreeMap::new(),
            lost: BTreeSet::new(),
            forked: BTreeSet::new(),
            lied_custody: BTreeSet::new(),
            forged_totals: BTreeSet::new(),
            just_acknowledged: None,
            trace: Trace::new(options.trace),
            report: Report::default(),
        }
    }

    pub(crate) fn at(&mut self, delay: Millis, happening: Happening) {
        self.order += 1;
        self.heap.insert((self.now + delay, self.order), happening);
    }

    /// Whether a fault happens now, so many times in a thousand; if so it is counted.
    pub(crate) fn strikes(&mut self, fault: Fault, per_mille: u64) -> bool {
        let strikes = self.may_strike(fault, per_mille);
        if strikes {
            self.report.faults.note(fault);
        }
        strikes
    }

    /// As [`Self::strikes`], for a fault that may turn out to be impossible here: the caller counts it.
    pub(crate) fn may_strike(&mut self, fault: Fault, per_mille: u64) -> bool {
        self.faults.has(fault) && self.random.chance(per_mille)
    }

    pub(crate) fn tell(&mut self, node: usize, text: impl FnOnce() -> String) {
        let id = self.nodes[node].id;
        self.trace.line(self.now - BEGIN, || format!("{id} {}", text()));
    }

    pub(crate) fn superior_index(&self, node: usize) -> Option<usize> {
        let card = self.nodes[node].directory.card(self.nodes[node].id)?;
        self.index.get(&card.superior?).copied()
    }

    /// All nodes start.
    pub(crate) fn begin(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.start(node)?;
            let first = self.random.below(TICK);
            self.at(first, Happening::Tick(node));
        }
        Ok(())
    }

    /// Everything happens that is to happen in so many milliseconds.
    pub(crate) fn pass(&mut self, time: Millis) -> Result<(), String> {
        let end = self.now + time;
        while let Some(next) = self.heap.first_entry().filter(|next| next.key().0 <= end) {
            self.now = next.key().0;
            let happening = next.remove();
            self.happen(happening)?;
        }
        self.now = end;
        Ok(())
    }

    fn run(&mut self, options: &Options) -> Result<(), String> {
        self.begin()?;
        self.at(500, Happening::Work);
        let end = BEGIN + options.seconds * 1000;
        let mut calm = false;
        while let Some(((at, order), happening)) = self.heap.pop_first() {
            self.now = at;
            self.trace.mix(at ^ order.rotate_left(32));
            if at > end && !calm {
                calm = true;
                self.faulty = false;
                self.faults = FaultSet::none();
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

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Tick(node) => {
                self.at(TICK, Happening::Tick(node));
                self.nodes[node].tick(self.now)?;
                self.drive(node)?;
                if self.nodes[node].keep(self.now)? {
                    self.drive(node)?;
                }
                let driven = self.nodes[node].idle(self.now);
                self.take_driven(node, driven)?;
                if self.faulty {
                    self.tick_faults(node)?;
                }
            }
            Happening::Synced(node, life) if self.nodes[node].starts == life => {
                if self.nodes[node].synced(self.now)? {
                    self.tell(node, || "synced".into());
                    self.drive(node)?;
                } else {
                    self.crash(node)?;
                }
            }
            Happening::Synced(..) => {}
            Happening::Frame { from, to, session, bytes } => self.arrive(from, to, session, bytes)?,
            Happening::Crash(node) => self.crash(node)?,
            Happening::Restore(node) => self.restore(node)?,
            Happening::Start(node) => {
                if self.nodes[node].running.is_none() {
                    self.start(node)?;
                }
            }
            Happening::Room(node) => self.make_room(node),
            Happening::Break(child, superior) => self.break_link(child, superior)?,
            Happening::Join(child, superior) => self.join(child, superior)?,
            Happening::Retry(retry) => self.retry(retry)?,
            Happening::Work => {
                if self.working() {
                    let pause = self.random.between(50, 600);
                    self.at(pause, Happening::Work);
                    self.work()?;
                }
            }
        }
        // The aimed crash: right after somebody was told.
        if let Some(node) = self.just_acknowledged.take()
            && self.strikes(Fault::CrashAfterAcknowledgement, 30)
        {
            self.crash(node)?;
        }
        Ok(())
    }

    /// Work goes on as long as faults do, or, in a world without faults, for a fixed number of messages.
    fn working(&self) -> bool {
        self.faulty || self.submitted.len() < 60
    }

    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        let seed = self.seed;
        if !self.nodes[node].start(self.now, seed)? {
            self.tell(node, || "has no room to start".into());
            self.at(1_000, Happening::Start(node));
            return Ok(());
        }
        self.tell(node, || "starts".into());
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

    /// Appends and sends what a node has to, and schedules its sync.
    pub(crate) fn drive(&mut self, node: usize) -> Result<(), String> {
        let driven = self.nodes[node].drive(self.now);
        self.take_driven(node, driven)?;
        self.settle_numbers(node);
        if self.acknowledge(node) {
            self.just_acknowledged = Some(node);
        }
        Ok(())
    }

    fn take_driven(&mut self, node: usize, driven: crate::node::Driven) -> Result<(), String> {
        for notice in &driven.notices {
            self.tell(node, || notice.clone());
        }
        if let Some(broken) = driven.broken {
            return Err(broken);
        }
        check::no_false_alarm(self, node, &driven.notices)?;
        check::custody_went_over(self, node, &driven.cleared)?;
        self.tables_are_whole(node, &driven.parts)?;
        if driven.stop {
            return self.crash(node);
        }
        if driven.sync {
            let slow = if self.strikes(Fault::SlowDisk, 5) { 2_000 } else { 3 };
            let delay = self.random.between(slow / 2, slow);
            let life = self.nodes[node].starts;
            self.at(delay.max(1), Happening::Synced(node, life));
        }
        for (peer, bytes) in driven.frames {
            self.send(node, peer, bytes);
        }
        Ok(())
    }
}
