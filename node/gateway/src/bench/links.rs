//! `jincai bench links`: what links cost the node that has them: a superior in a process of its own, and ever more inferiors,
//! all in this process, which send it as many messages together each time.
//!
//! Both processes share the machine, so the rate falls with every sender that writes to the disk for itself; what the
//! superior spends on a message, and holds in memory, is measured at it alone.

use super::gone;
use crate::clock;
use crate::config::Config;
use crate::demo::nodes::{DemoNode, free_tcp, free_udp, wait_for};
use crate::enrol;
use crate::error::Error;
use crate::output::{progress, progress_done, show};
use crate::run::{self, Running};
use jincai_types::{AuthorityId, Destination, Priority};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PAYLOAD: usize = 1024;
/// Messages that wait to be durable at their senders, together.
const PRODUCERS: u64 = 1024;
const MOST: u64 = 5_000;
/// A node that many start beside writes and keeps as little as it can.
const SMALL: &str = "[journal]\nsegment_mib = 1\ncheckpoint_mib = 1\n";

/// Measures for each number of links and prints one row each.
pub(crate) fn links(counts: &[u64], messages: u64, json: bool) -> Result<(), Error> {
    if counts.is_empty() || counts.iter().any(|count| !(1..=MOST).contains(count)) {
        return Err(Error::Check(format!("bench links: --links from 1 to {MOST} are wanted")));
    }
    if !(1..=100_000_000).contains(&messages) {
        return Err(Error::Check("bench links: --messages from 1 to 100000000 is wanted".into()));
    }
    let rows: Result<Vec<Value>, Error> = counts.iter().map(|count| measure(*count, messages)).collect();
    show(&json!({ "messages": messages, "payload_bytes": PAYLOAD, "links": rows? }), json);
    Ok(())
}

fn measure(count: u64, messages: u64) -> Result<Value, Error> {
    let directory = tempfile::tempdir().map_err(|source| Error::System { what: "a temporary directory", source })?;
    let (mut hub, inferiors) = prepare(directory.path(), count)?;
    hub.start()?;
    let (resident_alone, anonymous_alone) = hub.memory().unwrap_or_default();
    let runtime = run::runtime()?;
    let running = runtime.block_on(start(&inferiors, hub.authority))?;
    let (resident_idle, anonymous_idle) = hub.memory().unwrap_or_default();
    let (before, begun) = (hub.cpu().unwrap_or_default(), clock::instant());
    runtime.block_on(send(&running, hub.authority, messages))?;
    wait_for("the superior to apply everything", || {
        let applied = hub.status()?["notes"].as_u64().unwrap_or_default();
        progress(&format!("{count} links: {applied} of {messages} messages applied"));
        Ok((applied >= messages).then_some(()))
    })?;
    let (elapsed, used) = (begun.elapsed(), hub.cpu().unwrap_or_default().saturating_sub(before));
    progress_done();
    let (resident, anonymous) = hub.memory().unwrap_or_default();
    runtime.block_on(async {
        for node in running {
            node.until(std::future::ready(())).await?;
        }
        Ok::<_, Error>(())
    })?;
    hub.stop()?;
    Ok(json!({
        "links": count,
        "messages_per_second": (messages as f64 / elapsed.as_secs_f64()).round(),
        "superior_cpu_us_per_message": used.as_secs_f64() * 1e6 / messages as f64,
        "superior_resident_kib": { "no_link": resident_alone, "links_up": resident_idle, "after": resident },
        "superior_anonymous_kib": { "no_link": anonymous_alone, "links_up": anonymous_idle, "after": anonymous },
        "superior_anonymous_kib_per_link": anonymous_idle.saturating_sub(anonymous_alone) as f64 / count as f64,
    }))
}

/// A ministry with so many inferiors, enrolled.
fn prepare(directory: &Path, count: u64) -> Result<(DemoNode, Vec<Config>), Error> {
    let (http, quic) = (free_tcp()?, free_udp()?);
    let peers: Vec<AuthorityId> = (0..count).map(authority).collect::<Result<_, Error>>()?;
    let link = |peer: &AuthorityId| format!("[[link]]\npeer = \"{peer}\"\ntransport = \"quic\"\n");
    let above = format!(
        "authority = \"{}\"\ndata = \"above\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n[quic]\nlisten = \"127.0.0.1:{quic}\"\n{}",
        AuthorityId::MINISTRY,
        peers.iter().map(link).collect::<String>()
    );
    let above = write(directory, "above", &above)?;
    let hub = Config::load(&above)?;
    enrol::init(&hub)?;
    let mut inferiors = Vec::new();
    for peer in peers {
        let text = format!(
            "authority = \"{peer}\"\ndata = \"{peer}\"\n{SMALL}[http]\nlisten = \"127.0.0.1:0\"\n[quic]\nlisten = \"127.0.0.1:0\"\n\
             {}address = \"127.0.0.1:{quic}\"\n",
            link(&AuthorityId::MINISTRY)
        );
        let config = Config::load(&write(directory, peer.as_str(), &text)?)?;
        enrol::init(&config)?;
        let bundle = config.file("enrolment.bundle");
        enrol::sign_request(&hub, &config.file("enrolment.request"), &bundle)?;
        enrol::accept(&config, &bundle)?;
        inferiors.push(config);
        progress(&format!("{count} links: {} inferiors enrolled", inferiors.len()));
    }
    Ok((DemoNode::of("above", above, &hub)?, inferiors))
}

fn write(directory: &Path, name: &str, text: &str) -> Result<std::path::PathBuf, Error> {
    let path = directory.join(format!("{name}.toml"));
    std::fs::write(&path, text).map_err(|source| Error::File { path: path.clone(), source })?;
    Ok(path)
}

fn authority(number: u64) -> Result<AuthorityId, Error> {
    let id = format!("{:06}000", 110_000 + number);
    id.parse().map_err(|_| Error::Check(format!("{id} is no authority")))
}

/// Starts the inferiors and waits until each has its link.
async fn start(inferiors: &[Config], above: AuthorityId) -> Result<Vec<Running>, Error> {
    let mut running = Vec::new();
    for config in inferiors {
        let node = run::start(config).await?;
        super::relay::ready(&node, above).await?;
        running.push(node);
        progress(&format!("{} of {} links up", running.len(), inferiors.len()));
    }
    Ok(running)
}

/// Has all inferiors send as many messages together; each producer hands over its next when the last is durable there.
async fn send(running: &[Running], above: AuthorityId, messages: u64) -> Result<(), Error> {
    let next = Arc::new(AtomicU64::new(0));
    let mut producers: tokio::task::JoinSet<Result<(), Error>> = tokio::task::JoinSet::new();
    for producer in 0..PRODUCERS.max(running.len() as u64) {
        let at = usize::try_from(producer % running.len() as u64).unwrap_or_default();
        let (node, next) = (running[at].node.clone(), Arc::clone(&next));
        producers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= messages {
                    return Ok(());
                }
                let taken = node.call(move |core, now, _| {
                    let names = (format!("bench-{number}"), String::new());
                    core.submit_note(now, Destination::Authority(above), Priority::Record, names, vec![7; PAYLOAD])
                });
                taken.await.map_err(|_| gone())?.map_err(|error| Error::Check(error.to_string()))?;
            }
        });
    }
    while let Some(done) = producers.join_next().await {
        done.map_err(|_| gone())??;
    }
    Ok(())
}
