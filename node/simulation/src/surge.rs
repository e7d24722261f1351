//! An outage ends: thousands of senders with a week's backlog come back to one receiver at once, while today's work goes on.
//!
//! Every node is a production [`jincai_core::Core`] over a production journal on a disk in memory. The receiver works off
//! what arrives in the order of its arrival, so many bytes a second; what has arrived and not been looked at is its inbox.
//! Most senders hold seven days of collected data and have something urgent to say besides; some have no backlog and today's
//! data to send in the same class as the others' backlogs. The same world runs twice: with the credit that the receiver
//! grants, and with the grants thrown away, so that senders keep to the fixed windows of their own policy.

use crate::country::{Site, make_sites};
use crate::random::Random;
use jincai_core::Event;
use jincai_crypto::{BatchView, SeededEntropy};
use jincai_exchange::{Frame, LinkKind};
use jincai_journal::MemoryBlobs;
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Destination, Lane, Millis, Priority};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

const DAY: Millis = crate::country::DAY;
const DAYS: u64 = 7;
/// When the receiver is back.
const BACK: Millis = crate::world::BEGIN + DAYS * DAY;
/// Every so many senders one has no backlog.
const FRESH: usize = 10;
/// Bytes of a day's data, and of something urgent.
const DATA: usize = 8 << 10;
const URGENT: usize = 600;
/// Frames that the receiver looks at in a millisecond.
const FRAMES_A_MS: u64 = 50;
/// How much may be in flight to the receiver: so many milliseconds of its work.
const INTAKE_MS: u64 = 500;
/// How long a sync of a disk takes, a tick and a look at what has come.
const SYNC: Millis = 5;
const TICK: Millis = 50;
/// Senders reconnect within this time, and speak within that.
const RECONNECT: Millis = 5_000;
const SPEAK: Millis = 30_000;
/// How long everybody was connected before the outage.
const MEET: Millis = 60_000;
/// Length of one line of the curves.
const LINE: Millis = 5_000;
/// A world that takes longer is broken.
const LONGEST: Millis = 1_800_000;

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurgeOptions {
    /// Senders: 1 to 5,000.
    pub senders: usize,
    /// Bytes that the receiver works off in a millisecond, 1 to 1,000,000.
    pub bytes_a_ms: u64,
    /// What everything follows from.
    pub seed: u64,
    /// Whether senders heed what the receiver grants.
    pub credit: bool,
}

/// How long some messages took from their submission until they were applied, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// How many.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Millis,
    /// 99 of 100 took no longer.
    pub p99: Millis,
    /// The longest.
    pub max: Millis,
}

/// One line of the curves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SurgeLine {
    /// Until this many milliseconds after the receiver came back.
    pub until: Millis,
    /// Messages of backlogs applied so far.
    pub backlog: u64,
    /// The fullest the inbox was, in bytes.
    pub inbox: u64,
    /// What was urgent and was applied within the line.
    pub urgent: Delays,
    /// The same of today's data.
    pub today: Delays,
}

/// What a surge came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurgeReport {
    /// Messages of backlogs.
    pub backlog: u64,
    /// The curves.
    pub lines: Vec<SurgeLine>,
    /// All that was urgent.
    pub urgent: Delays,
    /// All of today's data.
    pub today: Delays,
    /// The fullest the inbox was, in bytes.
    pub inbox: u64,
    /// When everything was applied, in milliseconds after the receiver came back.
    pub done: Millis,
    /// Frames that the receiver looked at.
    pub frames: u64,
    /// Batches among them that it held already.
    pub again: u64,
    /// What went wrong.
    pub broken: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Frame { from: usize, to: usize, bytes: Vec<u8> },
    Synced(usize),
    Wake(usize),
    Join(usize),
    Speak(usize, Priority),
    Work,
}

struct Surge {
    sites: Vec<Site>,
    index: BTreeMap<AuthorityId, usize>,
    random: Random,
    now: Millis,
    heap: BinaryHeap<Reverse<(Millis, u64, Happening)>>,
    order: u64,
    wakes: Vec<Millis>,
    /// When each is connected again; nothing can arrive before that.
    joins: Vec<Millis>,
    bytes_a_ms: u64,
    credit: bool,
    /// What has arrived at the receiver: from whom, and the frame.
    inbox: VecDeque<(usize, Vec<u8>)>,
    inbox_bytes: u64,
    works: bool,
    /// What the receiver may still do in this millisecond, in thousandths of it.
    strength: i64,
    /// When what is to be measured was submitted, by sender and class.
    spoken: BTreeMap<(usize, Priority), Millis>,
    delays: BTreeMap<Priority, Vec<Millis>>,
    all: BTreeMap<Priority, Vec<Millis>>,
    line: SurgeLine,
    expected: u64,
    applied: u64,
    report: SurgeReport,
}

fn delays(of: Option<Vec<Millis>>) -> Delays {
    let mut of = of.unwrap_or_default();
    of.sort_unstable();
    let at = |per_cent: usize| of.get((of.len() * per_cent / 100).min(of.len().saturating_sub(1))).copied();
    let last = of.last().copied().unwrap_or_default();
    Delays { count: of.len() as u64, p50: at(50).unwrap_or_default(), p99: at(99).unwrap_or_default(), max: last }
}

/// Runs a surge to its end.
#[must_use]
pub fn surge(options: &SurgeOptions) -> SurgeReport {
    let mut surge = Surge::new(options);
    if let Err(broken) = surge.run() {
        surge.report.broken.push(broken);
    }
    surge.report.done = surge.now - BACK.min(surge.now);
    surge.report.urgent = delays(surge.all.remove(&Priority::Interactive));
    surge.report.today = delays(surge.all.remove(&Priority::Record));
    if let Some(running) = &surge.sites[0].running {
        surge.report.again = running.core.exchange().counters().duplicates_dropped;
    }
    surge.report
}

impl Surge {
    fn new(options: &SurgeOptions) -> Self {
        let senders = options.senders.clamp(1, 5_000);
        let county = |n: usize| format!("{:06}000", 110_000 + n).parse().expect("nine digits");
        let ids = (0..=senders).map(|n| if n == 0 { (AuthorityId::MINISTRY, None) } else { (county(n), Some(0)) });
        let sites = make_sites(ids, &mut SeededEntropy::new(options.seed));
        Self {
            index: sites.iter().enumerate().map(|(at, site)| (site.id, at)).collect(),
            wakes: vec![Millis::MAX; sites.len()],
            joins: vec![0; sites.len()],
            sites,
            random: Random::new(options.seed ^ 0x5u64.rotate_right(8)),
            now: crate::world::BEGIN,
            heap: BinaryHeap::new(),
            order: 0,
            bytes_a_ms: options.bytes_a_ms.clamp(1, 1_000_000),
            credit: options.credit,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            works: false,
            strength: 0,
            spoken: BTreeMap::new(),
            delays: BTreeMap::new(),
            all: BTreeMap::new(),
            line: SurgeLine { until: LINE, ..SurgeLine::default() },
            expected: 0,
            applied: 0,
            report: SurgeReport::default(),
        }
    }

    fn at(&mut self, when: Millis, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse((when, self.order, what)));
    }

    fn run(&mut self) -> Result<(), String> {
        self.meet()?;
        self.prepare()?;
        while self.applied < self.expected {
            let Some((when, what)) = self.next() else { return Err("nothing happens any more".into()) };
            if when > BACK + LONGEST {
                return Err(format!("{} of {} messages were applied in half an hour", self.applied, self.expected));
            }
            while when >= BACK + self.line.until {
                self.end_line();
            }
            self.happen(when, what)?;
        }
        self.end_line();
        Ok(())
    }

    fn next(&mut self) -> Option<(Millis, Happening)> {
        self.heap.pop().map(|Reverse((when, _, what))| (when, what))
    }

    fn happen(&mut self, when: Millis, what: Happening) -> Result<(), String> {
        self.now = when;
        match what {
            Happening::Frame { from, to: 0, bytes } => {
                self.inbox_bytes += bytes.len() as u64;
                self.line.inbox = self.line.inbox.max(self.inbox_bytes);
                self.inbox.push_back((from, bytes));
                if !std::mem::replace(&mut self.works, true) {
                    self.at(when, Happening::Work);
                }
                Ok(())
            }
            Happening::Frame { from, to, bytes } => self.hear(from, to, bytes),
            Happening::Synced(site) => {
                self.sites[site].synced(when)?;
                self.drive(site)
            }
            Happening::Wake(site) => self.wake(site),
            Happening::Join(site) => self.join(site),
            Happening::Speak(site, class) => self.speak(site, class),
            Happening::Work => self.work(),
        }
    }

    /// Before the outage everybody was connected, and knows the others' cards.
    fn meet(&mut self) -> Result<(), String> {
        let blobs = Arc::new(MemoryBlobs::new());
        for site in 0..self.sites.len() {
            let policy = LinkPolicy { intake_bytes: self.bytes_a_ms * INTAKE_MS, ..LinkPolicy::default() };
            self.sites[site].start(self.now, 1 + site as u64, (policy, blobs.clone()))?;
            if site > 0 {
                let joins = self.now + self.random.below(RECONNECT);
                self.at(joins, Happening::Join(site));
            }
        }
        while let Some((when, what)) = self.next().filter(|(when, _)| *when < crate::world::BEGIN + MEET) {
            self.happen(when, what)?;
        }
        for site in 1..self.sites.len() {
            for (at, peer) in [(site, 0), (0, site)] {
                let peer = self.sites[peer].id;
                self.sites[at].step(self.now, Event::LinkDown(peer))?;
            }
        }
        self.heap.clear();
        self.inbox.clear();
        (self.inbox_bytes, self.works) = (0, false);
        self.wakes.fill(Millis::MAX);
        self.line = SurgeLine { until: LINE, ..SurgeLine::default() };
        self.report = SurgeReport::default();
        Ok(())
    }

    /// A week passes at the senders.
    fn prepare(&mut self) -> Result<(), String> {
        for site in 0..self.sites.len() {
            for day in 0..DAYS {
                self.now = crate::world::BEGIN + day * DAY + MEET;
                if site > 0 && !site.is_multiple_of(FRESH) {
                    self.submit(site, Priority::Record, &format!("day {day}"), DATA)?;
                    self.report.backlog += 1;
                }
                // Whatever is written is durable before the next day.
                while self.sites[site].turn(self.now)?.syncs {
                    self.sites[site].synced(self.now)?;
                }
            }
        }
        self.expected = self.report.backlog;
        self.now = BACK;
        for site in 1..self.sites.len() {
            self.joins[site] = BACK + self.random.below(RECONNECT);
            self.at(self.joins[site], Happening::Join(site));
            let mut says = vec![Priority::Interactive];
            says.extend(site.is_multiple_of(FRESH).then_some(Priority::Record));
            for class in says {
                let speaks = BACK + self.random.below(SPEAK);
                self.at(speaks, Happening::Speak(site, class));
                self.expected += 1;
            }
        }
        Ok(())
    }

    fn submit(&mut self, site: usize, class: Priority, subject: &str, size: usize) -> Result<(), String> {
        let id = format!("{}/{subject}/{}", self.sites[site].id, class.name());
        let mut payload = vec![0; size];
        payload.iter_mut().for_each(|byte| *byte = self.random.next().to_le_bytes()[0]);
        let Some(running) = &mut self.sites[site].running else { return Ok(()) };
        let to = Destination::Authority(AuthorityId::MINISTRY);
        let submitted = running.core.submit_note(self.now, to, class, (id, subject.into()), payload);
        submitted.map_err(|error| error.to_string())
    }

    fn speak(&mut self, site: usize, class: Priority) -> Result<(), String> {
        let size = if class == Priority::Record { DATA } else { URGENT };
        self.submit(site, class, "today", size)?;
        self.spoken.insert((site, class), self.now.max(self.joins[site]));
        self.drive(site)
    }

    fn join(&mut self, site: usize) -> Result<(), String> {
        for (at, peer) in [(site, 0), (0, site)] {
            let peer = self.sites[peer].id;
            self.sites[at].step(self.now, Event::LinkUp(peer, LinkKind::Session))?;
            self.drive(at)?;
        }
        Ok(())
    }

    fn hear(&mut self, from: usize, to: usize, bytes: Vec<u8>) -> Result<(), String> {
        let peer = self.sites[from].id;
        self.sites[to].step(self.now, Event::Frame(peer, bytes))?;
        self.drive(to)
    }

    /// The receiver looks at what has arrived for as long as its strength of this millisecond reaches.
    fn work(&mut self) -> Result<(), String> {
        self.strength = self.strength.min(0) + 1000;
        while self.strength > 0 {
            let Some((from, bytes)) = self.inbox.pop_front() else {
                self.works = false;
                return Ok(());
            };
            self.inbox_bytes -= bytes.len() as u64;
            let cost = bytes.len() as u64 * 1000 / self.bytes_a_ms + 1000 / FRAMES_A_MS;
            self.strength -= i64::try_from(cost).unwrap_or(i64::MAX);
            self.report.frames += 1;
            let lane = lane_of(&bytes);
            let before = self.applied_at_receiver();
            self.hear(from, 0, bytes)?;
            let applied = self.applied_at_receiver() - before;
            self.count(from, lane, applied);
        }
        self.at(self.now + 1, Happening::Work);
        Ok(())
    }

    fn applied_at_receiver(&self) -> u64 {
        self.sites[0].running.as_ref().map_or(0, |running| running.core.exchange().counters().messages_applied)
    }

    fn count(&mut self, from: usize, lane: Option<Lane>, applied: u64) {
        let Some(lane) = lane.filter(|_| applied > 0) else { return };
        self.applied += applied;
        match self.spoken.remove(&(from, lane.class)) {
            Some(spoken) => {
                // It is answered for once the disk has it.
                let delay = self.now + SYNC - spoken;
                self.delays.entry(lane.class).or_default().push(delay);
                self.all.entry(lane.class).or_default().push(delay);
            }
            None => self.line.backlog += applied,
        }
    }

    fn end_line(&mut self) {
        self.line.urgent = delays(self.delays.remove(&Priority::Interactive));
        self.line.today = delays(self.delays.remove(&Priority::Record));
        self.report.inbox = self.report.inbox.max(self.line.inbox);
        self.report.lines.push(self.line);
        let (until, backlog) = (self.line.until + LINE, self.line.backlog);
        self.line = SurgeLine { until, backlog, inbox: self.inbox_bytes, ..SurgeLine::default() };
    }

    fn drive(&mut self, at: usize) -> Result<(), String> {
        let turned = self.sites[at].turn(self.now)?;
        if turned.syncs {
            self.at(self.now + SYNC, Happening::Synced(at));
        }
        self.wake_at(at, self.now + TICK);
        for (peer, bytes) in turned.frames {
            let Some(to) = self.index.get(&peer).copied() else { continue };
            if !self.credit && matches!(Frame::from_bytes(&bytes), Ok(Frame::Grant { .. })) {
                continue;
            }
            // Frames of a session keep their order; each link has its own distance.
            let delay = 10 + (at.max(to) as u64 * 7) % 30;
            self.at(self.now + delay, Happening::Frame { from: at, to, bytes });
        }
        Ok(())
    }

    fn wake_at(&mut self, at: usize, when: Millis) {
        if self.wakes[at] > when {
            self.wakes[at] = when;
            self.at(when, Happening::Wake(at));
        }
    }

    fn wake(&mut self, at: usize) -> Result<(), String> {
        if self.wakes[at] != self.now {
            return Ok(());
        }
        self.wakes[at] = Millis::MAX;
        match self.sites[at].tick(self.now, TICK)? {
            None => self.drive(at),
            Some(next) => {
                self.wake_at(at, next);
                Ok(())
            }
        }
    }
}

fn lane_of(frame: &[u8]) -> Option<Lane> {
    let Ok(Frame::Batch { bytes, .. }) = Frame::from_bytes(frame) else { return None };
    BatchView::parse(bytes).ok().map(|view| view.statement.lane)
}
