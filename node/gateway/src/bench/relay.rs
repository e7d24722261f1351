//! `jincai bench relay`: durable, signed, encrypted messages from this process's node to a node in another process over
//! QUIC on loopback, through the code that production runs.
//!
//! Producers submit 1 KiB messages and wait until each is durable here. A message counts as relayed when the other node
//! says that it is durable there; its latency runs from the submission to that.

use crate::clock;
use crate::demo::nodes::{prepare, wait_for};
use crate::error::Error;
use crate::output::{progress, progress_done, show};
use crate::{config::Config, run};
use jincai_types::{Destination, Lane, Priority};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Producers that submit and wait at once.
const PRODUCERS: u64 = 1024;
const PAYLOAD: usize = 1024;
/// How long the whole measurement may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Measures and prints.
pub(crate) fn relay(transport: &str, messages: u64, json: bool) -> Result<(), Error> {
    if transport != "quic" {
        return Err(Error::Check("bench relay: --transport quic is what this version measures".into()));
    }
    if !(PRODUCERS..=10_000_000).contains(&messages) {
        return Err(Error::Check(format!("bench relay: --messages from {PRODUCERS} to 10000000 is wanted")));
    }
    let directory = tempfile::tempdir().map_err(|source| Error::System { what: "a temporary directory", source })?;
    let mut nodes = prepare(directory.path())?;
    nodes.truncate(2);
    let Some(mut province) = nodes.pop() else { return Err(Error::Check("no node to relay to".into())) };
    let Some(ministry) = nodes.pop() else { return Err(Error::Check("no node to relay from".into())) };
    province.start()?;
    let config = Config::load(&ministry.file)?;
    let runtime = run::runtime()?;
    let measured = runtime.block_on(async {
        let measured = tokio::time::timeout(PATIENCE, measure(&config, province.authority, messages)).await;
        measured.unwrap_or_else(|_| Err(Error::Check(format!("not relayed within {} s", PATIENCE.as_secs()))))
    });
    let applied = wait_for("the other node to apply everything", || {
        let status = province.status()?;
        Ok(status["notes"].as_u64().filter(|n| *n >= messages))
    });
    province.stop()?;
    let (elapsed, mut latencies) = measured?;
    applied?;
    latencies.sort_unstable();
    let at = |share: f64| {
        let rank = (latencies.len() as f64 * share) as usize;
        latencies.get(rank.min(latencies.len().saturating_sub(1))).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    };
    let rate = messages as f64 / elapsed.as_secs_f64();
    let value = json!({
        "jincai": rate.round(), "unit": "messages/s", "transport": transport, "messages": messages, "payload_bytes": PAYLOAD,
        "producers": PRODUCERS, "seconds": elapsed.as_secs_f64(), "p50_ms": at(0.5), "p99_ms": at(0.99),
        "durable": "fdatasync at both ends", "signed": "Ed25519 per batch", "encrypted": "AES-256-GCM per message",
    });
    show(&value, json);
    Ok(())
}

/// Drives the node in this process; returns the time from the first submission until the last message was durable at the
/// other node, and every message's latency.
async fn measure(
    config: &Config,
    to: jincai_types::AuthorityId,
    messages: u64,
) -> Result<(Duration, Vec<Duration>), Error> {
    let running = run::start(config).await?;
    let node = running.node.clone();
    let lane = Lane { origin: config.authority, destination: Destination::Authority(to), class: Priority::Record };
    let ready = move |core: &mut jincai_core::Core| {
        let exchange = core.exchange();
        exchange.directory().card(to).is_some() && exchange.links().iter().any(|l| l.peer == to && l.up)
    };
    while !node.call(move |core, _, _| ready(core)).await.map_err(|_| Error::Stopped("the core is gone".into()))? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let begun = clock::instant();
    let next = Arc::new(AtomicU64::new(0));
    let (times, mut submitted) = tokio::sync::mpsc::channel::<Instant>(65_536);
    for _ in 0..PRODUCERS {
        tokio::spawn(produce(node.clone(), to, Arc::clone(&next), messages, times.clone()));
    }
    drop(times);
    let mut starts = Vec::new();
    let mut latencies: Vec<Duration> = Vec::new();
    while (latencies.len() as u64) < messages {
        let confirmed = node.call(move |core, _, _| core.exchange().confirmed(to, &lane)).await;
        let confirmed = confirmed.map_err(|_| Error::Stopped("the core is gone".into()))?;
        let now = clock::instant();
        while let Ok(start) = submitted.try_recv() {
            starts.push(start);
        }
        let done = usize::try_from(confirmed).unwrap_or(usize::MAX).min(starts.len());
        latencies.extend(starts[latencies.len().min(done)..done].iter().map(|start| now.duration_since(*start)));
        progress(&format!("{} of {messages} messages durable at the other node", latencies.len()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    progress_done();
    let elapsed = begun.elapsed();
    running.until(std::future::ready(())).await?;
    Ok((elapsed, latencies))
}

async fn produce(
    node: jincai_console::Node,
    to: jincai_types::AuthorityId,
    next: Arc<AtomicU64>,
    messages: u64,
    times: tokio::sync::mpsc::Sender<Instant>,
) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= messages {
            return;
        }
        let times = times.clone();
        let start = clock::instant();
        let submitted = node
            .call(move |core, now, _| {
                let names = (format!("bench-{number}"), String::new());
                let taken =
                    core.submit_note(now, Destination::Authority(to), Priority::Record, names, vec![7; PAYLOAD]);
                // In the order in which the core numbers them.
                taken.is_ok() && times.try_send(start).is_ok()
            })
            .await;
        if !submitted.unwrap_or(false) {
            return;
        }
    }
}
