//! `jincai run`: opens the journal, starts the core's thread, the links and the API, and stops them in order.

use crate::backup::{self, Source};
use crate::checkpoint::Checkpoints;
use crate::clock;
use crate::config::Config;
use crate::enrol::{self, Enrolment};
use crate::error::{Error, read, write_private};
use crate::input::{Input, QUEUE, Watch};
use crate::keeper::{self, Desk, DiskStore};
use crate::links::{Links, Transports};
use crate::pulse::Pulse;
use crate::read_only::ReadOnly;
use crate::shell::{Durable, Shell, carry_out};
use jincai_console::{Call, Node, router};
use jincai_core::{Core, Event, Turn};
use jincai_crypto::{Directory, Entropy, KeyRing, SystemEntropy, sha256};
use jincai_exchange::{Opening, Setup};
use jincai_files::Depot;
use jincai_journal::{Blobs, DirBlobs, DirDisk, Engine, Journal, Reader, Recovery, Urgency, read_snapshot};
use jincai_tables::Tables;
use jincai_transports::WireBytes;
use jincai_types::Millis;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How often the disk's room is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Newest records kept in memory for sending, while there is traffic; older ones come from the disk.
const CACHE_BYTES: usize = 16 << 20;
/// Calls that may wait.
const CALLS: usize = 1024;
/// Calls that are handed to the core together; a turn ends between two such groups at the earliest.
const CALLS_AT_ONCE: usize = 64;
/// A table engine that nobody asked for so long gives its memory back.
const SQL_IDLE: Duration = Duration::from_secs(5);
/// Milliseconds of a day.
const DAY: Millis = 86_400_000;

/// A running node.
pub(crate) struct Running {
    /// The way to its core.
    pub(crate) node: Node,
    inputs: mpsc::Sender<Input>,
    core: JoinHandle<Result<(), Error>>,
    ended: watch::Receiver<bool>,
    transports: Transports,
}

/// What a start finds and decides, durably.
struct Opened {
    core: Core,
    /// `None`: the journal is in quarantine, and only read.
    engine: Option<Engine<DirDisk>>,
    log: Reader,
    blobs: Arc<dyn Blobs>,
    /// What the start itself has to do.
    first: Turn,
}

/// The file store of a configuration.
fn open_store(config: &Config) -> Result<Arc<DiskStore>, Error> {
    let limits = keeper::Limits { max_bytes: config.files.max_mib << 20, free_bytes: config.journal.free_mib << 20 };
    Ok(Arc::new(DiskStore::open(&config.file("files"), limits)?))
}

/// Opens the journal and the node over it. What the start itself decides, a new epoch above all, is durable on return, before
/// anybody hears of this node.
fn open(config: &Config, keys: KeyRing, directory: Directory) -> Result<Opened, Error> {
    let disk = DirDisk::open(&config.file("journal"))?;
    let blobs: Arc<dyn Blobs> = Arc::new(DirBlobs::open(&config.file("blobs"))?);
    let mut entropy = SystemEntropy::default();
    let settings = jincai_journal::Config {
        segment_bytes: config.journal.segment_mib << 20,
        salt: entropy.number()?,
        cache_bytes: CACHE_BYTES,
        ..jincai_journal::Config::default()
    };
    let (mut engine, recovery) = Engine::open(disk, Arc::clone(&blobs), settings)?;
    tell(&recovery);
    let log = engine.reader();
    let snapshot = match &recovery.base {
        Some(base) => Some((base.through, read_snapshot(&*blobs, base)?)),
        None => None,
    };
    let snapshot = snapshot.as_ref().map(|(through, bytes)| (*through, &bytes[..]));
    let (authority, policy) = (config.authority, config.policy.clone());
    let limits = config.link.iter().map(|link| (link.peer, link.limits.clone())).collect();
    let setup = Setup { authority, keys, entropy: Box::new(entropy), directory, policy, limits };
    let mut core = Core::open(setup, Arc::clone(&blobs), opening(&recovery), snapshot, clock::now(), &log)?;
    core.keep_files(config.files.keep_days * DAY);
    let mut first = core.turn(clock::now(), &log)?;
    if recovery.quarantine.is_some() {
        return Ok(Opened { core, engine: None, log, blobs, first });
    }
    engine.append(clock::now(), &std::mem::take(&mut first.records), Urgency::Reserve)?;
    core.step(clock::now(), Event::Durable(engine.sync()?), &log)?;
    if recovery.restored {
        engine.acknowledge_restore()?;
    }
    Ok(Opened { core, engine: Some(engine), log, blobs, first })
}

/// Starts a node.
pub(crate) async fn start(config: &Config) -> Result<Running, Error> {
    backup::check_placed(config)?;
    let enrolment = Enrolment::load(config)?;
    let keys = enrol::keys(config)?;
    let token = sha256(String::from_utf8_lossy(&read(&config.file("token"))?).trim().as_bytes());
    let tls = keys.tls_identity();
    let store = open_store(config)?;
    let (readable, readers) = (Arc::new(enrol::keys(config)?), config.authority);
    let Opened { core, engine, log, blobs, first } = open(config, keys, enrolment.directory()?)?;
    let (inputs, receiver) = mpsc::channel(QUEUE);
    let tables = Arc::new(Tables::new(Arc::new(log.clone())));
    let source =
        Source { authority: config.authority, data: config.data.clone(), log: log.clone(), blobs: Arc::clone(&blobs) };
    let reader = log.clone();
    let progress = Arc::new(AtomicU64::new(clock::now()));
    let pulse = Arc::new(Pulse::default());
    let (end, ended) = watch::channel(false);
    let (told, changes) = watch::channel(0);
    let (transports, core) = match engine {
        Some(engine) => {
            let durable = Arc::new(Durable::default());
            let journal = Journal::start(engine, Box::new(clock::now), Arc::clone(&durable).callback(inputs.clone()))?;
            let (transports, links) = Links::start(config, &enrolment, tls, log.clone(), inputs.clone()).await?;
            carry_out(first, &tables, &links);
            let checkpoints = Checkpoints::new(blobs, &config.file("journal"), config.journal.checkpoint_mib << 20)?;
            tokio::spawn(watch_room(config.file("journal"), config.journal.free_mib << 20, Arc::clone(&durable)));
            let shell = Shell {
                core,
                log,
                journal,
                durable,
                checkpoints,
                tables: Arc::clone(&tables),
                links,
                progress: Arc::clone(&progress),
                pulse: Arc::clone(&pulse),
                waiting: VecDeque::new(),
                unsealed: Vec::new(),
                watches: vec![keeper::watcher(told)],
            };
            (transports, spawn_core(end, move || shell.run(receiver))?)
        }
        None => {
            carry_out(first, &tables, &Links::none());
            pulse.rest_until(Millis::MAX);
            let read_only = ReadOnly { core, log, progress: Arc::clone(&progress) };
            (Transports::none(), spawn_core(end, move || read_only.run(receiver))?)
        }
    };
    tokio::spawn({
        let inputs = inputs.clone();
        async move { pulse.beat(inputs).await }
    });
    tokio::spawn(release_idle(Arc::clone(&tables)));
    let (calls, queue) = mpsc::channel(CALLS);
    tokio::spawn(forward(queue, inputs.clone()));
    let write_backup = Box::new(move |out: &mut dyn Write| source.write(out).map_err(|error| error.to_string()));
    let depot: Arc<dyn Depot> = Arc::clone(&store) as _;
    let desk_log = reader.clone();
    let node = Node::new(calls, (tables, reader, depot), token, write_backup, progress, clock::now);
    Desk { node: node.clone(), store, log: desk_log, reader: (readers, readable) }.start(changes);
    let bind = |source| Error::System { what: "http.listen", source };
    let listener = TcpListener::bind(config.http.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let api = node.clone();
    tokio::spawn(async move { axum::serve(listener, router(api)).await });
    write_private(&config.file("address"), address.to_string().as_bytes())?;
    tracing::info!(authority = %config.authority, %address, "the node runs");
    Ok(Running { node, inputs, core, ended, transports })
}

/// Starts the core's thread. However it ends, a panic included, that is told: a node without a core must not linger.
fn spawn_core(
    end: watch::Sender<bool>,
    run: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    let spawned = std::thread::Builder::new().name("core".into()).spawn(move || {
        let _end = Ended(end);
        run()
    });
    spawned.map_err(|source| Error::System { what: "the core's thread", source })
}

/// Says what was found in the journal.
fn tell(recovery: &Recovery) {
    let through = recovery.base.as_ref().map(|base| base.through);
    tracing::info!(last = recovery.last, clean = recovery.clean, cut = ?recovery.cut, through, "the journal is open");
    if let Some(quarantine) = &recovery.quarantine {
        tracing::error!(
            code = "JC-1104",
            last = recovery.last,
            "the journal is damaged: {quarantine}; reads are answered as of the record before, nothing is taken or sent; \
             mend it with «jincai journal repair» or «jincai restore --before-damage»"
        );
    }
    for damage in &recovery.covered {
        tracing::error!(
            code = "JC-1104",
            "damage that a snapshot covers: {damage}; mend it with «jincai journal repair»"
        );
    }
}

fn opening(recovery: &Recovery) -> Opening {
    match (&recovery.quarantine, recovery.restored, recovery.clean) {
        (Some(_), ..) => Opening::ReadOnly,
        (None, true, _) => Opening::Restored,
        (None, false, true) => Opening::Clean,
        (None, false, false) => Opening::Unclean,
    }
}

/// Says when it is dropped that the core has ended.
struct Ended(watch::Sender<bool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl Running {
    /// Calls `watch` on the core's thread at the end of each turn from now on.
    pub(crate) async fn watch(&self, watch: Watch) {
        // A closed queue means that the core has ended: there is nothing more to see.
        drop(self.inputs.send(Input::Watch(watch)).await);
    }

    /// Bytes that the present connections have moved.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        self.transports.wire_bytes()
    }

    /// Waits until the node stops by itself, which is always an error, or until `stop` says so.
    pub(crate) async fn until(mut self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = stop => {}
            _ = self.ended.wait_for(|ended| *ended) => {}
        }
        tracing::info!("stopping: what was accepted is being made durable");
        // A closed queue means that the core has ended already.
        drop(self.inputs.send(Input::Stop).await);
        let core = self.core;
        let joined = tokio::task::spawn_blocking(move || core.join()).await;
        self.transports.close().await;
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(Error::Stopped("the core panicked; see the log".into())),
        }
    }
}

/// Looks how much room the disk has. A look that fails, or hangs, changes nothing.
async fn watch_room(path: std::path::PathBuf, free: u64, durable: Arc<Durable>) {
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let path = path.clone();
        let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path)).await;
        if let Ok(Ok(found)) = looked {
            let scarce = found.f_bavail.saturating_mul(found.f_frsize) < free;
            durable.scarce.store(scarce, Ordering::Release);
        }
    }
}

async fn release_idle(tables: Arc<Tables>) {
    let mut interval = tokio::time::interval(SQL_IDLE);
    loop {
        interval.tick().await;
        tables.release();
    }
}

async fn forward(mut calls: mpsc::Receiver<Call>, inputs: mpsc::Sender<Input>) {
    let mut some = Vec::new();
    while calls.recv_many(&mut some, CALLS_AT_ONCE).await > 0 {
        if inputs.send(Input::Calls(std::mem::take(&mut some))).await.is_err() {
            return;
        }
    }
}

/// The runtime of the transports and the API; the core has a thread of its own.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(2).enable_all().build();
    built.map_err(|source| Error::System { what: "the runtime", source })
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(config: &Config) -> Result<(), Error> {
    let system = |source| Error::System { what: "signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let node = start(config).await?;
    node.until(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}
