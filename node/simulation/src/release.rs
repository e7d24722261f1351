//! One release comes down the whole country: over every link once, whatever stands below it.
//!
//! Every node is a production [`jincai_core::Core`] over a production journal on a disk in memory, with real seals. All of
//! them are enrolled and have met before. Then the ministry releases a code set while only the provinces are connected; the
//! cities of one province come back after those of another, and so do the counties of one city after those of another. That
//! changes nothing about what a link carries, and one machine's memory holds a release of the country's full size: what a
//! county has applied and signed for is thrown away with the county.

use crate::country::{Site, authority, make_sites, superior_of};
use crate::downward::{Downward, level_of};
use crate::random::Random;
use jincai_core::Event;
use jincai_crypto::SeededEntropy;
use jincai_dictionary::{Applied, ReleaseOrder};
use jincai_exchange::LinkKind;
use jincai_journal::{MemoryBlobs, MemoryDisk};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Date, Digest, Millis};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// The country's proportions.
const PROVINCES: usize = 31;
const CITIES: usize = 330;
const COUNTIES: usize = 2850;
/// How long a sync of a disk takes, a tick, and a look at what still waits.
const SYNC: Millis = 5;
const TICK: Millis = 50;
const LOOK: Millis = 1_000;
/// After so many looks everybody has met.
const MEETING: usize = 600;
/// What has not settled within this time is broken.
const LONGEST: Millis = 3_600_000;
const LINE: &str = "national";

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseOptions {
    /// Counties: 1 to 5,000. At 2,850 they stand below 31 provinces and 330 cities.
    pub counties: usize,
    /// Codes in the release: 1 to 1,000,000.
    pub codes: u64,
    /// What everything follows from.
    pub seed: u64,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Provinces, cities, counties.
    pub levels: [usize; 3],
    /// The release's root.
    pub root: Option<Digest>,
    /// What the links carried downwards from the release on.
    pub downward: Downward,
    /// Bytes of all frames upwards meanwhile.
    pub bytes_upward: u64,
    /// Nodes below the ministry that have the release with its root.
    pub applied: usize,
    /// What went wrong.
    pub broken: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Frame {
        from: usize,
        to: usize,
        session: u64,
        bytes: Vec<u8>,
    },
    Synced(usize, u64),
    Wake(usize),
    Join(usize),
    /// It is time to look whether something still waits.
    Look,
}

struct World {
    levels: [usize; 3],
    sites: Vec<Site>,
    index: BTreeMap<AuthorityId, usize>,
    random: Random,
    now: Millis,
    heap: BinaryHeap<Reverse<(Millis, u64, Happening)>>,
    order: u64,
    wakes: Vec<Millis>,
    /// The session of each node with its superior.
    sessions: Vec<Option<u64>>,
    /// Frames and syncs under way.
    busy: usize,
    blobs: MemoryBlobs,
    applied: Arc<Applied>,
    /// Whether what travels is counted.
    counts: bool,
    report: ReleaseReport,
}

/// Runs one release to its end.
#[must_use]
pub fn release(options: &ReleaseOptions) -> ReleaseReport {
    let mut world = World::new(options);
    let outcome = world.run(options.codes.clamp(1, 1_000_000));
    world.report.broken.extend(outcome.err());
    world.report
}

impl World {
    fn new(options: &ReleaseOptions) -> Self {
        let counties = options.counties.clamp(1, 5_000);
        let provinces = (counties * PROVINCES / COUNTIES).clamp(1, PROVINCES);
        let cities = (counties * CITIES / COUNTIES).clamp(provinces, CITIES);
        let levels = [provinces, cities, counties];
        let all = 1 + provinces + cities + counties;
        let places = (0..all).map(|place| (authority(levels, place), superior_of(levels, place)));
        let sites = make_sites(places, &mut SeededEntropy::new(options.seed));
        let report = ReleaseReport { levels, downward: Downward::new(levels), ..ReleaseReport::default() };
        Self {
            levels,
            index: sites.iter().enumerate().map(|(at, site)| (site.id, at)).collect(),
            wakes: vec![Millis::MAX; all],
            sessions: vec![None; all],
            sites,
            random: Random::new(options.seed ^ 0x7e1e_a5e0),
            now: crate::world::BEGIN,
            heap: BinaryHeap::new(),
            order: 0,
            busy: 0,
            blobs: MemoryBlobs::new(),
            applied: Arc::default(),
            counts: false,
            report,
        }
    }

    fn run(&mut self, codes: u64) -> Result<(), String> {
        let [provinces, cities, counties] = self.levels;
        self.meet()?;
        self.counts = true;
        self.release(codes)?;
        let all_provinces: Vec<usize> = (1..=provinces).collect();
        self.settle(&[&[0][..], &all_provinces].concat())?;
        self.note_applied(&all_provinces);
        for province in all_provinces {
            let all_cities = self.below(province, 1 + provinces..1 + provinces + cities);
            self.join_all(&all_cities);
            self.settle(&[&[0, province][..], &all_cities].concat())?;
            self.note_applied(&all_cities);
            for city in &all_cities {
                let all_counties = self.below(*city, 1 + provinces + cities..1 + provinces + cities + counties);
                self.join_all(&all_counties);
                self.settle(&[&[0, province, *city][..], &all_counties].concat())?;
                self.note_applied(&all_counties);
                self.end_all(&all_counties)?;
            }
            self.end_all(&all_cities)?;
        }
        let ministry = self.sites[0].running.as_ref().ok_or("the ministry is down")?;
        self.report.downward.note_sealed(&ministry.log)
    }

    fn below(&self, superior: usize, among: std::ops::Range<usize>) -> Vec<usize> {
        among.filter(|place| self.sites[*place].superior == Some(superior)).collect()
    }

    /// Everybody is connected, and knows the cards of those below; then only the provinces are.
    fn meet(&mut self) -> Result<(), String> {
        let all: Vec<usize> = (0..self.sites.len()).collect();
        for site in &all {
            // Nothing gets lost here, and what stays away does so on purpose.
            let policy = LinkPolicy { retry_ms: 600_000, ..LinkPolicy::default() };
            self.sites[*site].start(self.now, 1 + *site as u64, (policy, Arc::new(self.blobs.clone())))?;
            if let Some(running) = &mut self.sites[*site].running {
                running.core.share_applied(Arc::clone(&self.applied));
            }
            self.drive(*site)?;
        }
        self.join_all(&all[1..]);
        // A card that comes before that of its superior is offered again.
        let mut looks = 0;
        while self.cards() != Some(all.len()) {
            looks += 1;
            if looks > MEETING {
                return Err(format!("the ministry knows {:?} of {} cards", self.cards(), all.len()));
            }
            self.settle(&all)?;
        }
        all.into_iter().skip(1 + self.levels[0]).try_for_each(|site| self.hang_up(site))
    }

    /// How many cards the ministry knows.
    fn cards(&self) -> Option<usize> {
        self.sites[0].running.as_ref().map(|running| running.core.exchange().directory().tree().all().count())
    }

    /// The ministry makes a code set of so many codes its first release.
    fn release(&mut self, codes: u64) -> Result<(), String> {
        let (now, csv) = (self.now, self.codes(codes));
        let running = self.sites[0].running.as_mut().ok_or("the ministry is down")?;
        let told = |error: jincai_core::Error| format!("the release: {error}");
        running.core.import(now, &running.log, (LINE, "DIVISION", "divisions"), &mut csv.as_bytes()).map_err(told)?;
        let effective_from = Date::new(2026, 1, 1).ok_or("a date that exists")?;
        let order = ReleaseOrder { line: LINE, effective_from, note: "", reason: None };
        let release = running.core.release(now, &running.log, order).map_err(told)?;
        self.report.root = Some(release.root);
        self.drive(0)
    }

    /// Codes as long as those of villages, with names whose characters are drawn.
    fn codes(&mut self, codes: u64) -> String {
        const KINDS: [&str; 3] = ["村民委员会", "社区居委会", "居委会"];
        let mut csv = String::from("code,name,level,parent\n");
        for code in 0..codes {
            let mut name: String = (0..self.random.between(2, 3)).map(|_| self.character()).collect();
            name += KINDS[usize::try_from(self.random.below(3)).unwrap_or(0)];
            csv += &format!("{:012},{name},5,\n", 110_101_001_001 + code * 7);
        }
        csv
    }

    fn character(&mut self) -> char {
        // A few hundred make up most names: small numbers are drawn more often.
        let (one, other) = (self.random.below(900), self.random.below(900));
        u32::try_from(one.min(other)).ok().and_then(|at| char::from_u32(0x4e00 + 9 * at)).unwrap_or('一')
    }

    /// Whoever has the ministry's release, with its root.
    fn note_applied(&mut self, sites: &[usize]) {
        for site in sites {
            let running = self.sites[*site].running.as_ref();
            let root =
                running.and_then(|r| r.core.rooms().dictionary.releases(LINE).last().map(|release| release.root));
            if root.is_some() && root == self.report.root {
                self.report.applied += 1;
            } else {
                self.report.broken.push(format!("I4: {} has not the release, or another root", self.sites[*site].id));
            }
        }
    }

    /// Runs until nothing is under way and nothing is in custody at any of these.
    fn settle(&mut self, sites: &[usize]) -> Result<(), String> {
        let until = self.now + LONGEST;
        self.at(self.now + LOOK, Happening::Look);
        while let Some(Reverse((when, _, what))) = self.heap.pop() {
            self.now = when;
            if what != Happening::Look {
                self.happen(what)?;
                continue;
            }
            match sites.iter().find(|site| self.holds_something(**site)) {
                None if self.busy == 0 => return Ok(()),
                Some(site) if when > until => {
                    return Err(format!("{} still holds something after an hour", self.sites[*site].id));
                }
                _ if when > until => return Err("frames still travel after an hour".into()),
                _ => self.at(when + LOOK, Happening::Look),
            }
        }
        Err("nothing happens any more".into())
    }

    /// Whether a node has something in custody for a neighbour that is connected.
    fn holds_something(&self, site: usize) -> bool {
        let Some(running) = &self.sites[site].running else { return false };
        let exchange = running.core.exchange();
        let mut peers = exchange.custody().filter_map(|(peer, ..)| self.index.get(&peer).copied());
        peers.any(|peer| self.sessions[self.child_of(site, peer)].is_some())
    }

    /// The lower end of the link between two nodes.
    fn child_of(&self, one: usize, other: usize) -> usize {
        if self.sites[other].superior == Some(one) { other } else { one }
    }

    fn at(&mut self, when: Millis, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse((when, self.order, what)));
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Frame { from, to, session, bytes } => self.arrive((from, to), session, bytes),
            Happening::Synced(site, life) => {
                self.busy -= 1;
                if self.sites[site].life() != life || self.sites[site].running.is_none() {
                    return Ok(());
                }
                self.sites[site].synced(self.now)?;
                self.drive(site)
            }
            Happening::Wake(site) => self.wake(site),
            Happening::Join(site) => self.join(site),
            Happening::Look => Ok(()),
        }
    }

    fn join_all(&mut self, sites: &[usize]) {
        for site in sites {
            let delay = self.random.between(10, 5_000);
            self.busy += 1;
            self.at(self.now + delay, Happening::Join(*site));
        }
    }

    fn join(&mut self, site: usize) -> Result<(), String> {
        self.busy -= 1;
        let Some(superior) = self.sites[site].superior else { return Ok(()) };
        self.sessions[site] = Some(self.order);
        for (at, peer) in [(site, superior), (superior, site)] {
            let peer = self.sites[peer].id;
            self.sites[at].step(self.now, Event::LinkUp(peer, LinkKind::Session))?;
            self.drive(at)?;
        }
        Ok(())
    }

    fn hang_up(&mut self, site: usize) -> Result<(), String> {
        let Some(superior) = self.sites[site].superior.filter(|_| self.sessions[site].take().is_some()) else {
            return Ok(());
        };
        for (at, peer) in [(site, superior), (superior, site)] {
            let peer = self.sites[peer].id;
            self.sites[at].step(self.now, Event::LinkDown(peer))?;
            self.drive(at)?;
        }
        Ok(())
    }

    /// Nodes that are done go, with all they hold.
    fn end_all(&mut self, sites: &[usize]) -> Result<(), String> {
        for site in sites {
            self.hang_up(*site)?;
            self.sites[*site].running = None;
            self.sites[*site].disk = MemoryDisk::new();
            self.wakes[*site] = Millis::MAX;
        }
        Ok(())
    }

    fn arrive(&mut self, (from, to): (usize, usize), session: u64, bytes: Vec<u8>) -> Result<(), String> {
        self.busy -= 1;
        let down = self.sites[to].superior == Some(from);
        let child = if down { to } else { from };
        if self.sessions[child] != Some(session) {
            return Ok(());
        }
        if self.counts && down {
            self.report.downward.count(level_of(self.levels, child), &bytes);
        } else if self.counts {
            self.report.bytes_upward += bytes.len() as u64;
        }
        let peer = self.sites[from].id;
        self.sites[to].step(self.now, Event::Frame(peer, bytes))?;
        self.drive(to)
    }

    fn drive(&mut self, at: usize) -> Result<(), String> {
        if self.sites[at].running.is_none() {
            return Ok(());
        }
        let turned = self.sites[at].turn(self.now)?;
        let alarms = turned.notices.iter().filter(|notice| notice.alarm);
        self.report
            .broken
            .extend(alarms.map(|notice| format!("{}: {} {}", self.sites[at].id, notice.code, notice.text)));
        if turned.syncs {
            self.busy += 1;
            self.at(self.now + SYNC, Happening::Synced(at, self.sites[at].life()));
        }
        self.wake_at(at, self.now + TICK);
        for (peer, bytes) in turned.frames {
            let Some(to) = self.index.get(&peer).copied() else { continue };
            let child = self.child_of(at, to);
            let Some(session) = self.sessions[child] else { continue };
            // Frames of a session keep their order; each link has its own distance.
            let delay = 10 + (child as u64 * 7) % 30;
            self.busy += 1;
            self.at(self.now + delay, Happening::Frame { from: at, to, session, bytes });
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
