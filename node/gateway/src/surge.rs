//! `jincai sim --surge`: the end of an outage, with granted credit and with fixed windows, side by side.

use crate::error::Error;
use crate::output::{complain, progress, progress_done, show};
use jincai_simulation::{Delays, SurgeLine, SurgeOptions, SurgeReport, surge};
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// What the receiver works off: 8 MB a second.
const BYTES_A_MS: u64 = 8_000;

/// Runs the same surge twice per seed and prints both.
pub(crate) fn simulate(senders: usize, seeds: RangeInclusive<u64>, json: bool) -> Result<(), Error> {
    if !(1..=5000).contains(&senders) {
        return Err(Error::Check("--surge 1 to 5000 senders are wanted".into()));
    }
    let (mut surges, mut broken) = (Vec::new(), Vec::new());
    for seed in seeds {
        let run = |credit| {
            progress(&format!("seed {seed}: {senders} senders, credit granted: {credit}"));
            surge(&SurgeOptions { senders, bytes_a_ms: BYTES_A_MS, seed, credit })
        };
        let (granted, fixed) = (run(true), run(false));
        let said = |report: &SurgeReport| report.broken.clone();
        broken.extend(said(&granted).into_iter().map(|what| json!({ "seed": seed, "what": what })));
        surges.push((seed, granted, fixed));
    }
    progress_done();
    let value = json!({
        "senders": senders,
        "surges": surges.iter().map(|(seed, granted, fixed)| json!({
            "seed": seed, "granted": whole(granted), "fixed": whole(fixed), "curves": curves(granted, fixed),
        })).collect::<Vec<Value>>(),
        "broken": broken,
    });
    if json {
        show(&value, true);
    } else {
        for (seed, granted, fixed) in &surges {
            show(&json!({ "seed": seed, "granted": whole(granted), "fixed": whole(fixed) }), false);
            show(&json!(curves(granted, fixed)), false);
        }
        broken.iter().for_each(|what| complain(&what.to_string()));
    }
    if broken.is_empty() { Ok(()) } else { Err(Error::Check("not everything was applied".into())) }
}

fn whole(report: &SurgeReport) -> Value {
    json!({
        "backlog_messages": report.backlog,
        "urgent": of(&report.urgent), "today": of(&report.today),
        "inbox_peak_bytes": report.inbox, "all_applied_ms": report.done,
        "frames": report.frames, "batches_again": report.again, "broken": report.broken,
    })
}

fn of(delays: &Delays) -> Value {
    json!({ "count": delays.count, "p50_ms": delays.p50, "p99_ms": delays.p99, "max_ms": delays.max })
}

/// One line per span of time: how much of the backlog was applied, how full the inbox was, how long what matters today took.
fn curves(granted: &SurgeReport, fixed: &SurgeReport) -> Vec<Value> {
    let lines = granted.lines.len().max(fixed.lines.len());
    let line = |report: &SurgeReport, at: usize| report.lines.get(at).copied().unwrap_or_default();
    let delay = |delays: &Delays| (delays.count > 0).then_some(delays.p99);
    let backlog = |report: &SurgeReport, line: &SurgeLine, at: usize| match at < report.lines.len() {
        true => line.backlog * 100 / report.backlog.max(1),
        false => 100,
    };
    let row = |at: usize| {
        let (g, f) = (line(granted, at), line(fixed, at));
        json!({
            "until_s": g.until.max(f.until) / 1000,
            "granted_backlog_%": backlog(granted, &g, at), "fixed_backlog_%": backlog(fixed, &f, at),
            "granted_inbox_mb": megabytes(g.inbox), "fixed_inbox_mb": megabytes(f.inbox),
            "granted_urgent_p99_ms": delay(&g.urgent), "fixed_urgent_p99_ms": delay(&f.urgent),
            "granted_today_p99_ms": delay(&g.today), "fixed_today_p99_ms": delay(&f.today),
        })
    };
    (0..lines).map(row).collect()
}

fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e5).round() / 10.0
}
