//! `jincai bench idle`: what a node with one link costs when nothing happens: memory, processor, network.
//!
//! Two nodes run in processes of their own; what they send each other passes a line that counts it.

use super::line::Line;
use crate::clock;
use crate::demo::nodes::{prepare, wait_for};
use crate::error::Error;
use crate::output::{progress, progress_done, show};
use serde_json::json;
use std::time::Duration;

/// Measures and prints.
pub(crate) fn idle(settle: u64, seconds: u64, json: bool) -> Result<(), Error> {
    if !(1..=86_400).contains(&seconds) || settle > 86_400 {
        return Err(Error::Check("bench idle: --seconds from 1 to 86400 and --settle up to 86400 are wanted".into()));
    }
    let system = |what| move |source| Error::System { what, source };
    let temporary = tempfile::tempdir().map_err(system("a temporary directory"))?;
    let mut nodes = prepare(temporary.path())?;
    nodes.truncate(2);
    let Some(mut below) = nodes.pop() else { return Err(Error::Check("no node below".into())) };
    let Some(mut above) = nodes.pop() else { return Err(Error::Check("no node above".into())) };
    let line = Line::between(&below, None)?;
    above.start()?;
    below.start()?;
    wait_for("the link", || Ok((below.status()?["links"][0]["up"] == json!(true)).then_some(())))?;
    pass("settling", settle);
    let (processor, bytes) = (below.cpu().unwrap_or_default(), line.bytes());
    let begun = clock::instant();
    pass("measuring", seconds);
    let elapsed = begun.elapsed().as_secs_f64();
    let (processor, bytes) = (below.cpu().unwrap_or_default() - processor, line.bytes() - bytes);
    let (resident, anonymous) = below.memory().unwrap_or_default();
    below.stop()?;
    above.stop()?;
    let value = json!({
        "seconds": elapsed, "settled_seconds": settle,
        "resident_kib": resident, "anonymous_kib": anonymous,
        "cpu_percent_of_a_core": processor.as_secs_f64() / elapsed * 100.0,
        "network_bytes": bytes, "network_bytes_a_day": (bytes as f64 / elapsed * 86_400.0).round(),
    });
    show(&value, json);
    Ok(())
}

fn pass(what: &str, seconds: u64) {
    let begun = clock::instant();
    while begun.elapsed() < Duration::from_secs(seconds) {
        progress(&format!("{what}: {} of {seconds} s", begun.elapsed().as_secs()));
        std::thread::sleep(Duration::from_millis(200));
    }
    progress_done();
}
