//! `jincai bench queue`: small messages to a neighbour that is away; a restart with all of them queued; their delivery.
//!
//! The node with the queue runs in this process, so that its memory can be read; the neighbour in another one.

use super::gone;
use crate::clock;
use crate::config::Config;
use crate::demo::nodes::{DemoNode, prepare};
use crate::error::Error;
use crate::output::{progress, progress_done, show};
use crate::run::{self, Running};
use jincai_types::{AuthorityId, Destination, Lane, Priority};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

const PAYLOAD: usize = 100;
/// Messages of one call: what one client hands over in one request.
const BURST: u64 = 500;
/// How long the delivery may take.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// Clients at once.
const CLIENTS: u64 = 8;

/// Measures and prints.
pub(crate) fn queue(messages: u64, directory: Option<&Path>, json: bool) -> Result<(), Error> {
    if !(1..=100_000_000).contains(&messages) {
        return Err(Error::Check("bench queue: --messages from 1 to 100000000 is wanted".into()));
    }
    let system = |source| Error::System { what: "a temporary directory", source };
    let temporary = tempfile::tempdir_in(directory.unwrap_or(&std::env::temp_dir())).map_err(system)?;
    let mut nodes = prepare(temporary.path())?;
    nodes.truncate(2);
    let Some(mut province) = nodes.pop() else { return Err(Error::Check("no node to send to".into())) };
    let Some(ministry) = nodes.pop() else { return Err(Error::Check("no node to send from".into())) };
    let mut config = Config::load(&ministry.file)?;
    // All of it is to wait here.
    config.policy.share_bytes = [1 << 40; 4];
    let to = province.authority;
    // A runtime each: what the node leaves behind when it stops ends with it.
    let filled = run::runtime()?.block_on(fill(&config, &mut province, messages))?;
    let custody = size(&config.file("journal"))? + size(&config.file("blobs"))?;
    let runtime = run::runtime()?;
    let begun = clock::instant();
    let (running, queued, restart) = runtime.block_on(async {
        let running = run::start(&config).await?;
        let queued = sealed(&running, to).await?;
        Ok::<_, Error>((running, queued, begun.elapsed()))
    })?;
    if queued != messages {
        return Err(Error::Check(format!("{queued} of {messages} messages are there after the restart")));
    }
    let peak = peak_mib()?;
    let begun = clock::instant();
    province.start()?;
    let mut arrived = 0;
    while arrived < messages && begun.elapsed() < PATIENCE {
        std::thread::park_timeout(Duration::from_millis(200));
        arrived = province.status()?["notes"].as_u64().unwrap_or_default();
        progress(&format!("{arrived} of {messages} messages applied at the neighbour"));
    }
    progress_done();
    let delivery = begun.elapsed();
    let stopped = runtime.block_on(running.until(std::future::ready(())));
    province.stop()?;
    stopped?;
    let value = json!({
        "messages": messages, "payload_bytes": PAYLOAD,
        "queued_seconds": filled.as_secs_f64(), "queued_per_second": (messages as f64 / filled.as_secs_f64()).round(),
        "disk_bytes_with_queue": custody, "restart_seconds": restart.as_secs_f64(),
        "delivery_seconds": delivery.as_secs_f64(), "applied_at_neighbour": arrived,
        "peak_memory_mib_queue_and_restart": peak, "peak_memory_mib": peak_mib()?,
    });
    show(&value, json);
    if arrived == messages { Ok(()) } else { Err(Error::Check(format!("{arrived} messages were applied"))) }
}

/// Queues everything while the neighbour is away, and stops the node; returns how long the queueing took.
async fn fill(config: &Config, province: &mut DemoNode, messages: u64) -> Result<Duration, Error> {
    let to = province.authority;
    let running = run::start(config).await?;
    // Once, so that the nodes know each other.
    province.start()?;
    let met = move |core: &mut jincai_core::Core| core.exchange().directory().card(to).is_some();
    while !running.node.call(move |core, _, _| met(core)).await.map_err(|_| gone())? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    province.stop()?;
    let begun = clock::instant();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let node = running.node.clone();
        clients.spawn(async move {
            let mut next = client;
            // Every client has numbers of its own: client, client + CLIENTS, …
            while next < messages {
                let burst = (0..BURST).map(|at| next + at * CLIENTS).take_while(|n| *n < messages);
                let burst: Vec<u64> = burst.collect();
                let taken = node
                    .call(move |core, now, _| {
                        let send = |number: &&u64| {
                            let names = (format!("queue-{number}"), String::new());
                            let to = Destination::Authority(to);
                            core.submit_note(now, to, Priority::Record, names, vec![7; PAYLOAD]).is_ok()
                        };
                        burst.iter().take_while(send).count() as u64
                    })
                    .await
                    .map_err(|_| gone())?;
                next += taken * CLIENTS;
                if taken == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) =
        tokio::time::timeout(Duration::from_millis(500), clients.join_next()).await.unwrap_or_else(|_| Some(Ok(Ok(()))))
    {
        done.map_err(|_| gone())??;
        progress(&format!("{} of {messages} messages queued", sealed(&running, to).await?));
    }
    progress_done();
    let elapsed = begun.elapsed();
    running.until(std::future::ready(())).await?;
    Ok(elapsed)
}

/// How many messages the node's lane has.
async fn sealed(running: &Running, to: AuthorityId) -> Result<u64, Error> {
    let count = move |core: &mut jincai_core::Core| {
        let lane = Lane {
            origin: core.exchange().authority(),
            destination: Destination::Authority(to),
            class: Priority::Record,
        };
        let lanes = core.exchange().outbound();
        lanes.iter().find(|report| report.lane == lane).map_or(0, |report| report.sealed.sequence)
    };
    running.node.call(move |core, _, _| count(core)).await.map_err(|_| gone())
}

/// Bytes of the files in a directory.
fn size(path: &Path) -> Result<u64, Error> {
    let file = |source| Error::File { path: path.to_owned(), source };
    let entries = std::fs::read_dir(path).map_err(file)?;
    entries.map(|entry| entry.and_then(|e| e.metadata()).map(|m| m.len()).map_err(file)).sum()
}

/// The most memory that this process ever held (`VmHWM`), in MiB.
fn peak_mib() -> Result<u64, Error> {
    let text = String::from_utf8_lossy(&crate::error::read(Path::new("/proc/self/status"))?).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.map(|kib| kib >> 10).ok_or_else(|| Error::Check("the system does not say how much memory was used".into()))
}
