//! Deterministic simulation: small worlds of nodes in one thread, from one seed, running the very `core` and journal that
//! production runs, with virtual time, network and disks.
//!
//! Seals are real (Ed25519, AES-GCM, HPKE), made from seeded randomness. A world runs a workload under faults, then the
//! faults stop, it settles, and the invariants I1–I5 and I7 of the fault catalogue are checked; some are checked as it
//! goes. A broken invariant names its seed; the same seed repeats the same world to the byte.

mod check;
mod node;
mod random;
mod world;

pub use world::{Faults, Options, Report, run_world};

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
    /// Broken invariants: seed and what broke.
    pub broken: Vec<(u64, String)>,
}

/// Runs one world per seed; `progress` hears of each.
pub fn run(options: &Options, seeds: impl IntoIterator<Item = u64>, mut progress: impl FnMut(u64, &Report)) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let report = run_world(options, seed);
        summary.worlds += 1;
        summary.applied += report.applied;
        summary.bytes += report.bytes;
        summary.faults.add(&report.faults);
        summary.broken.extend(report.broken.iter().map(|b| (seed, b.clone())));
        progress(seed, &report);
    }
    summary
}
