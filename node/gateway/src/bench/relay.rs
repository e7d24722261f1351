//! `jincai bench relay`: durable, signed, encrypted messages from this process's node to a node in another process over
//! QUIC on loopback, through the code that production runs.
//!
//! A message of 1 KiB counts as relayed when the other node has said that it is durable there; its latency runs from its
//! submission to that, or under a fixed rate from the time at which it was due, so that a node that falls behind does not
//! look fast. Processor time is that of both processes, kernel included, from the first submission to the last message.

use super::{gone, percentile};
use crate::clock;
use crate::demo::nodes::{DemoNode, cpu, prepare, wait_for};
use crate::error::Error;
use crate::output::{progress, progress_done, show};
use crate::run::Running;
use crate::{config::Config, run};
use jincai_core::Core;
use jincai_transports::WireBytes;
use jincai_types::{AuthorityId, Destination, Lane, Priority};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// Producers that submit and wait at once, unless a load says otherwise.
const PRODUCERS: u64 = 1024;
const PAYLOAD: usize = 1024;
/// How long the whole measurement may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// How messages are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Each producer hands over the next message when the last is durable here.
    Producers,
    /// Each producer hands over the next message when the last is durable at the other node.
    InFlight(u64),
    /// So many messages a second, at times fixed beforehand.
    Rate(u64),
}

impl Load {
    /// The load that the command line asks for.
    pub(crate) fn new(rate: Option<u64>, in_flight: Option<u64>) -> Self {
        match (rate, in_flight) {
            (Some(rate), _) => Self::Rate(rate),
            (None, Some(in_flight)) => Self::InFlight(in_flight),
            (None, None) => Self::Producers,
        }
    }

    fn producers(self) -> u64 {
        match self {
            Self::InFlight(producers) => producers,
            Self::Producers | Self::Rate(_) => PRODUCERS,
        }
    }

    fn check(self) -> Result<(), Error> {
        let (Self::InFlight(number) | Self::Rate(number)) = self else { return Ok(()) };
        if (1..=1_000_000).contains(&number) {
            return Ok(());
        }
        Err(Error::Check("bench relay: --rate and --in-flight lie between 1 and 1000000".into()))
    }
}

/// Measures and prints.
pub(crate) fn relay(transport: &str, messages: u64, load: Load, json: bool) -> Result<(), Error> {
    if transport != "quic" {
        return Err(Error::Check("bench relay: --transport quic is what this version measures".into()));
    }
    load.check()?;
    if !(1..=100_000_000).contains(&messages) {
        return Err(Error::Check("bench relay: --messages from 1 to 100000000 is wanted".into()));
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
        let measured = tokio::time::timeout(PATIENCE, measure(&config, &province, messages, load)).await;
        measured.unwrap_or_else(|_| Err(Error::Check(format!("not relayed within {} s", PATIENCE.as_secs()))))
    });
    let applied = wait_for("the other node to apply everything", || {
        let status = province.status()?;
        Ok(status["notes"].as_u64().filter(|n| *n >= messages))
    });
    province.stop()?;
    let measured = measured?;
    applied?;
    print(transport, messages, load, measured, json);
    Ok(())
}

fn print(transport: &str, messages: u64, load: Load, mut measured: Measured, json: bool) {
    measured.latencies.sort_unstable();
    let latencies = &measured.latencies;
    let at = |share| percentile(latencies, share);
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / messages as f64;
    let (origin, destination) = measured.cpu;
    let value = json!({
        "jincai": (messages as f64 / measured.elapsed.as_secs_f64()).round(), "unit": "messages/s",
        "transport": transport, "messages": messages, "payload_bytes": PAYLOAD,
        "load": match load { Load::Producers => "producers", Load::InFlight(_) => "in flight", Load::Rate(_) => "rate" },
        "producers": load.producers(), "rate": match load { Load::Rate(rate) => Some(rate), _ => None },
        "seconds": measured.elapsed.as_secs_f64(),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
        "cpu_us_per_message": each(origin + destination),
        "cpu_us_per_message_origin": each(origin), "cpu_us_per_message_destination": each(destination),
        "wire_bytes_sent": measured.wire.sent, "wire_bytes_received": measured.wire.received,
        "durable": "fdatasync at both ends", "signed": "Ed25519 per batch", "encrypted": "AES-256-GCM per message",
    });
    show(&value, json);
}

/// What was measured.
struct Measured {
    /// From the first submission until the last message was durable at the other node.
    elapsed: Duration,
    latencies: Vec<Duration>,
    /// Of this process and of the other one.
    cpu: (Duration, Duration),
    wire: WireBytes,
}

/// What is under way, in the order in which the core numbers it.
#[derive(Default)]
struct Flight {
    under_way: VecDeque<(Instant, oneshot::Sender<()>)>,
    latencies: Vec<Duration>,
}

/// What the producers share.
struct Shared {
    node: jincai_console::Node,
    to: AuthorityId,
    load: Load,
    messages: u64,
    begun: Instant,
    next: AtomicU64,
    flight: Arc<Mutex<Flight>>,
}

fn lock(flight: &Mutex<Flight>) -> MutexGuard<'_, Flight> {
    // Nothing panics between two changes that belong together.
    flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drives the node in this process.
async fn measure(config: &Config, other: &DemoNode, messages: u64, load: Load) -> Result<Measured, Error> {
    let running = run::start(config).await?;
    let to = other.authority;
    ready(&running, to).await?;
    let lane = Lane { origin: config.authority, destination: Destination::Authority(to), class: Priority::Record };
    let (flight, done) = (Arc::new(Mutex::new(Flight::default())), Arc::new(Notify::new()));
    running.watch(watcher((to, lane), messages, Arc::clone(&flight), Arc::clone(&done))).await;
    let used = || Some((cpu(std::process::id())?, other.cpu()?));
    let (before, wire, begun) = (used(), running.wire_bytes(), clock::instant());
    let (node, next) = (running.node.clone(), AtomicU64::new(0));
    let shared = Arc::new(Shared { node, to, load, messages, begun, next, flight: Arc::clone(&flight) });
    for _ in 0..load.producers().min(messages) {
        tokio::spawn(produce(Arc::clone(&shared)));
    }
    loop {
        tokio::select! {
            () = done.notified() => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let relayed = lock(&flight).latencies.len();
                progress(&format!("{relayed} of {messages} messages durable at the other node"));
            }
        }
    }
    progress_done();
    let elapsed = begun.elapsed();
    let (after, now) = (used(), running.wire_bytes());
    let wire = WireBytes { sent: now.sent - wire.sent, received: now.received - wire.received };
    running.until(std::future::ready(())).await?;
    let unknown = || Error::Check("the system does not say how much processor time was used".into());
    let ((here, there), (later_here, later_there)) = before.zip(after).ok_or_else(unknown)?;
    let latencies = std::mem::take(&mut lock(&flight).latencies);
    Ok(Measured { elapsed, latencies, cpu: (later_here - here, later_there - there), wire })
}

/// Waits until the nodes know each other.
pub(super) async fn ready(running: &Running, to: AuthorityId) -> Result<(), Error> {
    let met = move |core: &mut Core| {
        let exchange = core.exchange();
        exchange.directory().card(to).is_some() && exchange.links().iter().any(|l| l.peer == to && l.up)
    };
    while !running.node.call(move |core, _, _| met(core)).await.map_err(|_| gone())? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Looks at the end of each turn how far the other node is, tells the producers, and whoever waits for the last message.
fn watcher(
    (to, lane): (AuthorityId, Lane),
    messages: u64,
    flight: Arc<Mutex<Flight>>,
    done: Arc<Notify>,
) -> crate::input::Watch {
    let mut known = 0;
    Box::new(move |core| {
        let confirmed = core.exchange().confirmed(to, &lane).min(messages);
        if confirmed == known {
            return;
        }
        let now = clock::instant();
        let mut flight = lock(&flight);
        while known < confirmed {
            let Some((start, producer)) = flight.under_way.pop_front() else { return };
            flight.latencies.push(now.saturating_duration_since(start));
            known += 1;
            // A producer that has nothing more to wait for is gone.
            let _gone = producer.send(()).is_err();
        }
        if known == messages {
            done.notify_one();
        }
    })
}

async fn produce(shared: Arc<Shared>) {
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.messages {
            return;
        }
        let start = match shared.load {
            Load::Producers | Load::InFlight(_) => clock::instant(),
            Load::Rate(rate) => {
                let due = shared.begun + Duration::from_secs_f64(number as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
                due
            }
        };
        let (to, flight) = (Destination::Authority(shared.to), Arc::clone(&shared.flight));
        let (arrived, arrival) = oneshot::channel();
        let submitted = shared
            .node
            .call(move |core, now, _| {
                let names = (format!("bench-{number}"), String::new());
                let taken = core.submit_note(now, to, Priority::Record, names, vec![7; PAYLOAD]).is_ok();
                if taken {
                    // In the order in which the core numbers them.
                    lock(&flight).under_way.push_back((start, arrived));
                }
                taken
            })
            .await;
        let waits = matches!(shared.load, Load::InFlight(_));
        if !submitted.unwrap_or(false) || (waits && arrival.await.is_err()) {
            return;
        }
    }
}
