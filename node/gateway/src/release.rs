//! `jincai sim --release`: one release to every county, and what the links of each level carried of it.

use crate::clock;
use crate::country::downward;
use crate::error::Error;
use crate::output::{complain, progress, progress_done, show};
use jincai_simulation::{ReleaseOptions, ReleaseReport, release};
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// Releases once per seed and prints what travelled.
pub(crate) fn simulate((counties, codes): (usize, u64), seeds: RangeInclusive<u64>, json: bool) -> Result<(), Error> {
    if !(1..=5000).contains(&counties) || !(1..=1_000_000).contains(&codes) {
        return Err(Error::Check("--release 1 to 5000 counties and --codes 1 to 1000000 are wanted".into()));
    }
    let (mut releases, mut broken) = (Vec::new(), Vec::new());
    for seed in seeds {
        progress(&format!("seed {seed}: {codes} codes to {counties} counties"));
        let started = clock::instant();
        let report = release(&ReleaseOptions { counties, codes, seed });
        broken.extend(report.broken.iter().map(|what| json!({ "seed": seed, "what": what })));
        releases.push(shown(&report, (codes, seed), started.elapsed().as_secs_f64()));
    }
    progress_done();
    if json {
        show(&json!({ "seals": "real, from seeded randomness", "releases": releases, "broken": broken }), true);
    } else {
        releases.iter().for_each(|release| show(release, false));
        broken.iter().for_each(|what| complain(&what.to_string()));
    }
    if broken.is_empty() { Ok(()) } else { Err(Error::Check("the release did not reach everybody".into())) }
}

fn shown(report: &ReleaseReport, (codes, seed): (u64, u64), seconds: f64) -> Value {
    let [provinces, cities, counties] = report.levels;
    json!({
        "seed": seed, "codes": codes, "provinces": provinces, "cities": cities, "counties": counties,
        "root": report.root, "nodes_with_the_release": report.applied, "downward": downward(&report.downward),
        "sealed_times_counties": report.downward.sealed_bytes * counties as u64,
        "bytes_upward": report.bytes_upward, "seconds": (seconds * 10.0).round() / 10.0,
    })
}
