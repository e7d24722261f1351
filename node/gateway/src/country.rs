//! `jincai sim` at the size of a country: what it prints, and how long it took.

use crate::clock;
use crate::error::Error;
use crate::output::{complain, progress, progress_done, show};
use jincai_simulation::{CountryOptions, CountryReport, Downward, LevelTraffic, country};
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// Simulates a country per seed and prints each.
pub(crate) fn simulate((nodes, days): (usize, u64), seeds: RangeInclusive<u64>, json: bool) -> Result<(), Error> {
    if !(4..=4000).contains(&nodes) || !(1..=366).contains(&days) {
        return Err(Error::Check("--nodes 4 to 4000 and --days 1 to 366 are wanted for a country".into()));
    }
    let (mut countries, mut broken) = (Vec::new(), Vec::new());
    let (mut applied, mut bytes) = (0, 0);
    for seed in seeds {
        progress(&format!("seed {seed}: {nodes} nodes, {days} days"));
        let started = clock::instant();
        let report = country(&CountryOptions { nodes, days, seed });
        applied += report.applied;
        bytes += report.bytes;
        broken.extend(report.broken.iter().map(|what| json!({ "seed": seed, "what": what })));
        countries.push(shown(&report, (nodes, days, seed), started.elapsed().as_secs_f64()));
    }
    progress_done();
    let value = json!({
        "worlds": countries.len(), "messages_applied": applied, "bytes": bytes,
        "seals": "real, from seeded randomness",
        "shared": "dictionary snapshots by content; a release applied to one base is computed once",
        "countries": countries, "broken": broken,
    });
    show(&value, json);
    let mut seeds: Vec<u64> = broken.iter().filter_map(|b| b["seed"].as_u64()).collect();
    seeds.dedup();
    for seed in seeds {
        complain(&format!("repeat with: jincai sim --nodes {nodes} --days {days} --seeds {seed}..{seed}"));
    }
    if !broken.is_empty() || applied == 0 {
        return Err(Error::Check("an expectation broke, or nothing was applied".into()));
    }
    Ok(())
}

/// What the links of each level carried downwards.
pub(crate) fn downward(report: &Downward) -> Value {
    let per_link = |bytes: u64, links: u64| bytes / links.max(1);
    let level = |name: &str, level: &LevelTraffic| {
        let once = report.sealed_bytes * level.links;
        let more = 100.0 * (level.release_bytes as f64 - once as f64) / (once.max(1) as f64);
        json!({
            "links": name, "count": level.links, "release_frames": level.release_frames,
            "release_bytes": level.release_bytes, "release_bytes_per_link": per_link(level.release_bytes, level.links),
            "sealed_times_links": once, "more_%": (more * 100.0).round() / 100.0,
            "frames": level.frames, "bytes": level.bytes, "bytes_per_link": per_link(level.bytes, level.links),
        })
    };
    let names = ["ministry to provinces", "provinces to cities", "cities to counties"];
    let levels: Vec<Value> = names.iter().zip(&report.levels).map(|(name, traffic)| level(name, traffic)).collect();
    json!({ "sealed_batches": report.sealed_batches, "sealed_bytes": report.sealed_bytes, "levels": levels })
}

fn shown(report: &CountryReport, (nodes, days, seed): (usize, u64, u64), seconds: f64) -> Value {
    let [provinces, cities, counties] = report.levels;
    let (province, without_power, hours) = &report.outage;
    let mismatch = report.mismatch.as_ref().map(|(part, why)| format!("{part}: {why}"));
    json!({
        "seed": seed, "nodes": nodes, "days": days,
        "provinces": provinces, "cities": cities, "counties": counties,
        "releases": report.releases, "operations_a_day": report.operations, "codes": report.codes,
        "rows": report.rows, "partitions_equal": report.parts, "mismatch_found": mismatch,
        "messages_applied": report.applied, "batches": report.batches,
        "frames": report.frames, "frames_by_kind": report.kinds, "bytes": report.bytes,
        "downward": downward(&report.downward),
        "outage": format!("province {province}, {without_power} nodes, {hours} hours"),
        "link_breaks": report.breaks, "hours_to_settle": report.settled_after,
        "trace": format!("{:016x}", report.trace), "seconds": (seconds * 10.0).round() / 10.0,
    })
}
