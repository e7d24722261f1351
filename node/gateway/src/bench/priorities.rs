//! `jincai bench priorities`: how long a control message takes on a narrow line, with nothing else under way and beside a file
//! that fills it.
//!
//! The sender runs in this process, the receiver in another one, the line of [`super::line`] between them. A message's time runs
//! from its submission here until this node hears that it is durable there: one way of the line and back.

use super::bulk::write_random;
use super::line::{Line, Shape};
use super::{gone, percentile};
use crate::clock;
use crate::config::Config;
use crate::demo::nodes::prepare;
use crate::error::Error;
use crate::file;
use crate::output::{progress, progress_done, show};
use crate::run::{self, Running};
use jincai_core::Core;
use jincai_journal::Log;
use jincai_types::{AuthorityId, Destination, Lane, Priority};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Between two control messages.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the file flows before the second measurement.
const FILL: Duration = Duration::from_secs(8);

/// Measures and prints.
pub(crate) fn priorities((mbits, rtt): (u64, u64), messages: u64, bytes: u64, json: bool) -> Result<(), Error> {
    let wide = (1..=10_000).contains(&mbits) && rtt <= 10_000;
    if !(wide && (1..=100_000).contains(&messages) && (1..=1 << 40).contains(&bytes)) {
        let wanted = "bench priorities: --mbits from 1 to 10000, --rtt up to 10000, --messages from 1 to 100000, --bytes from 1 \
                      to 1099511627776";
        return Err(Error::Check(wanted.into()));
    }
    let directory = tempfile::tempdir().map_err(|source| Error::System { what: "a temporary directory", source })?;
    let mut nodes = prepare(directory.path())?;
    nodes.truncate(2);
    let Some(mut below) = nodes.pop() else { return Err(Error::Check("no node to send to".into())) };
    let Some(above) = nodes.pop() else { return Err(Error::Check("no node to send from".into())) };
    let delay = Duration::from_millis(rtt) / 2;
    let shape = Shape { rate: mbits * 1_000_000, delay, buffer: Duration::from_millis(200), longest: 1_500 };
    let line = Line::between(&below, Some(shape))?;
    below.start()?;
    let config = Config::load(&above.file)?;
    let path = directory.path().join("file");
    write_random(&path, bytes, 1)?;
    let to = below.authority.to_string();
    let file = move || file::send(&above.client, &path, &to, (None, None)).map(drop);
    let measured = run::runtime()?.block_on(measure(&config, below.authority, messages, (&line, file)))?;
    below.stop()?;
    let (mut alone, mut beside, carried) = measured;
    alone.sort_unstable();
    beside.sort_unstable();
    let (p50, loaded) = (percentile(&alone, 0.5), percentile(&beside, 0.5));
    let value = json!({
        "mbits": mbits, "rtt_ms": rtt, "queue_ms": shape.buffer.as_millis(), "messages": messages, "file_bytes": bytes,
        "alone_p50_ms": p50, "alone_p99_ms": percentile(&alone, 0.99),
        "beside_file_p50_ms": loaded, "beside_file_p99_ms": percentile(&beside, 0.99), "p50_ratio": loaded / p50,
        "line_mbits_beside_file": carried,
    });
    show(&value, json);
    Ok(())
}

type Latencies = (Vec<Duration>, Vec<Duration>, f64);

async fn measure(
    config: &Config,
    to: AuthorityId,
    messages: u64,
    (line, file): (&Line, impl FnOnce() -> Result<(), Error> + Send + 'static),
) -> Result<Latencies, Error> {
    let running = run::start(config).await?;
    super::relay::ready(&running, to).await?;
    let control = Control::watch(&running, config.authority, to).await;
    let alone = control.send(&running, messages, "with nothing beside").await?;
    tokio::task::spawn_blocking(file).await.map_err(|_| gone())??;
    tokio::time::sleep(FILL).await;
    let (bytes, begun) = (line.bytes(), clock::instant());
    let beside = control.send(&running, messages, "beside the file").await?;
    let carried = (line.bytes() - bytes) as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e6;
    if !under_way(&running).await? {
        return Err(Error::Check("bench priorities: the file was there too soon; give it more --bytes".into()));
    }
    running.until(std::future::ready(())).await?;
    Ok((alone, beside, carried))
}

/// Whether the file is whole at the node in this process and not yet at the other one.
async fn under_way(running: &Running) -> Result<bool, Error> {
    let look = |core: &mut Core, _, _: &dyn Log| core.rooms().files.sending().any(|(_, sending)| !sending.is_over());
    running.node.call(look).await.map_err(|_| gone())
}

/// What waits for a control message to be durable there.
type Waiting = Arc<Mutex<Option<(u64, oneshot::Sender<()>)>>>;

/// Sends control messages, one at a time.
struct Control {
    to: AuthorityId,
    lane: Lane,
    waiting: Waiting,
}

impl Control {
    async fn watch(running: &Running, from: AuthorityId, to: AuthorityId) -> Self {
        let lane = Lane { origin: from, destination: Destination::Authority(to), class: Priority::Control };
        let waiting = Waiting::default();
        let watched = Arc::clone(&waiting);
        let look = move |core: &Core| {
            let confirmed = core.exchange().confirmed(to, &lane);
            let mut waiting = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, heard)) = waiting.take_if(|(wanted, _)| *wanted <= confirmed) {
                // Whoever waited for it may have given up.
                let _gone: Result<(), ()> = heard.send(());
            }
        };
        running.watch(Box::new(look)).await;
        Self { to, lane, waiting }
    }

    async fn send(&self, running: &Running, messages: u64, what: &str) -> Result<Vec<Duration>, Error> {
        let mut latencies = Vec::new();
        for number in 0..messages {
            progress(&format!("{number} of {messages} control messages {what}"));
            let (heard, hears) = oneshot::channel();
            let (to, lane, waiting, begun) = (self.to, self.lane, Arc::clone(&self.waiting), clock::instant());
            let taken = running.node.call(move |core, now, _| {
                let sealed =
                    core.exchange().outbound().iter().find(|o| o.lane == lane).map_or(0, |o| o.sealed.sequence);
                *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some((sealed + 1, heard));
                let names = (format!("control-{}", sealed + 1), String::new());
                core.submit_note(now, Destination::Authority(to), Priority::Control, names, vec![7; 200])
            });
            taken.await.map_err(|_| gone())?.map_err(|error| Error::Check(error.to_string()))?;
            hears.await.map_err(|_| gone())?;
            latencies.push(begun.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        progress_done();
        Ok(latencies)
    }
}
