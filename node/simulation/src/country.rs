//! The whole country in one thread: ministry, provinces, cities and counties, for a month of virtual time.
//!
//! Every node is a production [`jincai_core::Core`] over a production journal on a disk in memory, and its seals are real
//! (Ed25519, AES-GCM, HPKE), made from seeded randomness. Each day the ministry releases a delta of a code set that
//! every node applies; each county writes a month's rows once, which are collected on a schedule and compared on arrival;
//! links come and go, and one whole province loses power for days. One county's program signs a total that is not the
//! total of its rows: the comparison must name that partition, and no other. Here nothing else is faulty: lost, altered
//! and forged frames, full disks and restored nodes are the small worlds' work ([`crate::run_world`]).
//!
//! What nodes share, because they share a process: dictionary snapshots, which are named by their content, and the result
//! of applying one release to one base, which the first node computes and checks. A node ticks at most once a second and
//! sleeps while `Core::next_wake` says that nothing is due; a sync of its disk takes up to a second, so that what comes
//! meanwhile shares a commit; nodes take no checkpoints.

mod events;
mod forge;
mod outcome;
mod plan;
mod site;
mod work;

use crate::downward::Downward;
use crate::random::Random;
use events::{Happening, Heap};
use jincai_crypto::SeededEntropy;
use jincai_dictionary::Applied;
use jincai_exchange::Counters;
use jincai_journal::MemoryBlobs;
use jincai_types::{AuthorityId, Millis};
use plan::Plan;
pub(crate) use plan::{authority, make_sites, superior_of};
pub(crate) use site::Site;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Milliseconds of an hour and of a day.
pub(crate) const HOUR: Millis = 3_600_000;
pub(crate) const DAY: Millis = 24 * HOUR;
/// Virtual time at which the country begins: 2026-01-01.
const BEGIN: Millis = crate::world::BEGIN;

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountryOptions {
    /// Nodes: 4 to 4,000, in the country's proportions (at 3,220: 31 provinces, 330 cities, 2,858 counties).
    pub nodes: usize,
    /// Virtual days: 1 to 366.
    pub days: u64,
    /// What everything follows from.
    pub seed: u64,
}

/// What the country came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountryReport {
    /// Provinces, cities, counties.
    pub levels: [usize; 3],
    /// Releases that the ministry made.
    pub releases: u64,
    /// The fewest operations in one release after the first.
    pub operations: u64,
    /// Codes in the last release.
    pub codes: u64,
    /// Rows at the ministry that equal their source.
    pub rows: u64,
    /// Partitions at the ministry that equal their source.
    pub parts: u64,
    /// Messages applied, over all nodes.
    pub applied: u64,
    /// Batches that travelled, from hop to hop.
    pub batches: u64,
    /// Frames that travelled.
    pub frames: u64,
    /// The same by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Bytes that travelled.
    pub bytes: u64,
    /// What of it went down, by level.
    pub downward: Downward,
    /// Ticks of all nodes.
    pub ticks: u64,
    /// Times that a link broke.
    pub breaks: u64,
    /// The province without power, its nodes, and for how many hours.
    pub outage: (String, usize, u64),
    /// The partition that was to be found, and what the ministry says about it.
    pub mismatch: Option<(String, String)>,
    /// Virtual hours after the last day until nothing waited any more.
    pub settled_after: u64,
    /// A digest over everything that happened, in order.
    pub trace: u64,
    /// Broken expectations.
    pub broken: Vec<String>,
}

pub(crate) struct Country {
    pub(crate) sites: Vec<Site>,
    pub(crate) index: BTreeMap<AuthorityId, usize>,
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Millis,
    pub(crate) heap: Heap,
    pub(crate) blobs: MemoryBlobs,
    pub(crate) applied: Arc<Applied>,
    pub(crate) seed: u64,
    /// Counters of lives that ended.
    pub(crate) ended: Vec<Counters>,
    pub(crate) report: CountryReport,
}

/// Runs the country and checks it at the end.
#[must_use]
pub fn country(options: &CountryOptions) -> CountryReport {
    let mut country = Country::new(options);
    let outcome = country.run(options);
    country.report.broken.extend(outcome.err());
    country.report.trace = country.heap.trace();
    country.report
}

impl Country {
    fn new(options: &CountryOptions) -> Self {
        let mut random = Random::new(options.seed ^ 0xc0de_c0de);
        let plan = Plan::new(options.nodes.clamp(4, 4000), options.days.clamp(1, 366), &mut random);
        let sites = plan.sites(&mut SeededEntropy::new(options.seed));
        let index = sites.iter().enumerate().map(|(i, site)| (site.id, i)).collect();
        let downward = Downward::new(plan.levels);
        let report = CountryReport { levels: plan.levels, downward, ..CountryReport::default() };
        Self {
            sites,
            index,
            plan,
            random,
            now: BEGIN,
            heap: Heap::default(),
            blobs: MemoryBlobs::new(),
            applied: Arc::default(),
            seed: options.seed,
            ended: Vec::new(),
            report,
        }
    }

    fn run(&mut self, options: &CountryOptions) -> Result<(), String> {
        for site in 0..self.sites.len() {
            self.start(site)?;
        }
        self.schedule();
        let end = BEGIN + options.days.clamp(1, 366) * DAY;
        let mut asked = end;
        while let Some((at, happening)) = self.heap.pop() {
            if at >= asked {
                let waits = self.waits();
                if waits.is_empty() {
                    self.report.settled_after = (asked - end) / HOUR;
                    break;
                }
                if at > end + DAY {
                    return Err(format!("a day after the end there still waits: {}", waits.join("; ")));
                }
                asked += HOUR;
            }
            self.now = at;
            self.happen(happening)?;
        }
        self.final_checks();
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Frame { from, to, session, bytes } => self.arrive(from, to, session, bytes),
            Happening::Wake(site) => self.wake(site),
            Happening::Synced(site, life) => self.synced(site, life),
            Happening::Break(child, pause) => self.break_link(child, pause),
            Happening::Join(child) => self.join(child),
            Happening::PowerCut(province) => self.power_cut(province),
            Happening::PowerBack(province) => self.power_back(province),
            Happening::Release(day) => self.release(day),
            Happening::Spec => self.release_spec(),
            Happening::Write(county) => self.write_rows(county),
            Happening::Forge(county) => self.forge(county),
        }
    }
}
