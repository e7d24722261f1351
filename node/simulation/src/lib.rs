//! Deterministic simulation: small worlds of nodes in one thread, from one seed, running the very `core` and journal that
//! production runs, with virtual time, network and disks; and the whole country for a month ([`country`]).
//!
//! Seals are real (Ed25519, AES-GCM, HPKE), made from seeded randomness. A world runs a workload under faults, then the
//! faults stop, it settles, and the invariants I1–I5, I7 and I8 of the fault catalogue are checked; some are checked as it
//! goes. A broken invariant names its seed; the same seed repeats the same world to the byte.

mod check;
mod country;
mod downward;
mod faults;
mod files;
mod forge;
mod inject;
mod liar;
mod network;
mod node;
mod pressure;
mod random;
mod release;
mod signed_lies;
mod surge;
mod trace;
mod twin;
mod wakes;
mod workload;
mod world;

pub use country::{CountryOptions, CountryReport, country};
pub use downward::{Downward, LevelTraffic};
pub use faults::{Fault, FaultSet, Faults, UnknownFault};
pub use pressure::load;
pub use release::{ReleaseOptions, ReleaseReport, release};
pub use surge::{Delays, SurgeLine, SurgeOptions, SurgeReport, surge};
pub use world::{Options, Report, run_world};

/// Lines of the trace that a broken invariant is shown with.
const LAST_LINES: usize = 200;

/// What many worlds came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Worlds run.
    pub worlds: u64,
    /// Messages applied in all of them.
    pub applied: u64,
    /// Bytes that travelled.
    pub bytes: u64,
    /// Faults injected, by kind.
    pub faults: Faults,
    /// Broken invariants.
    pub broken: Vec<Broken>,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The world's seed.
    pub seed: u64,
    /// What broke.
    pub what: String,
    /// The last that happened before.
    pub lines: Vec<String>,
}

impl Summary {
    /// Adds what other worlds came to.
    pub fn add(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.applied += other.applied;
        self.bytes += other.bytes;
        self.faults.add(&other.faults);
        self.broken.extend(other.broken);
        self.broken.sort_by_key(|broken| broken.seed);
    }
}

/// Runs one world per seed, in order; `progress` hears of each. Worlds share nothing, so that callers may run several at once.
pub fn run(options: &Options, seeds: impl IntoIterator<Item = u64>, mut progress: impl FnMut(u64, &Report)) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let report = run_world(options, seed);
        summary.worlds += 1;
        summary.applied += report.applied;
        summary.bytes += report.bytes;
        summary.faults.add(&report.faults);
        summary.broken.extend(explain(options, seed, &report));
        progress(seed, &report);
    }
    summary
}

/// A world in which something broke is run a second time, with its eyes open: what goes well pays for no trace.
fn explain(options: &Options, seed: u64, report: &Report) -> Vec<Broken> {
    if report.broken.is_empty() {
        return Vec::new();
    }
    let mut lines = run_world(&Options { trace: true, ..options.clone() }, seed).lines;
    let last = lines.split_off(lines.len().saturating_sub(LAST_LINES));
    let broken = |what: &String| Broken { seed, what: what.clone(), lines: last.clone() };
    report.broken.iter().map(broken).collect()
}

/// The command that repeats a world.
#[must_use]
pub fn command(options: &Options, seed: u64) -> String {
    let (nodes, faults) = (options.nodes, &options.faults);
    format!("jincai sim --nodes {nodes} --seeds {seed}..{seed} --faults {faults} --trace")
}
