//! The keeper of the file store: carries out what the files room says is to be done, off the core's thread, and reports.
//!
//! One task for what comes and one for what goes. They hold no state that matters: after a kill the room says again what there
//! is to do.

mod store;

pub(crate) use store::{DiskStore, Limits};

use jincai_console::Node;
use jincai_core::Core;
use jincai_crypto::KeyRing;
use jincai_exchange::read_message;
use jincai_files::{Error, FileKey, Job, Keeper, Mood, Report};
use jincai_journal::{Log, Reader};
use jincai_types::{AuthorityId, Millis, RecordNumber};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Chunks that are fewer than a sync is worth are stored after so long.
const EAGER: Duration = Duration::from_millis(200);
/// What waits for something of this node is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// Answers to wants that the core has and that are not durable yet, at most.
const UNDER_WAY: usize = 2;

/// What the keeper works with; clones share it.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) node: Node,
    pub(crate) store: Arc<DiskStore>,
    pub(crate) log: Reader,
    pub(crate) reader: (AuthorityId, Arc<KeyRing>),
}

/// Tells the keeper at the end of a turn that there may be something to do.
pub(crate) fn watcher(tell: watch::Sender<u64>) -> crate::input::Watch {
    Box::new(move |core| {
        let changes = core.rooms().files.changes();
        tell.send_if_modified(|known| std::mem::replace(known, changes) != changes);
    })
}

/// What there is to do for files that come, and how long to wait for more of it.
struct Todo {
    jobs: Vec<Job>,
    releases: u64,
    staged: bool,
    patience: Duration,
}

impl Todo {
    fn of(core: &Core, mood: Mood) -> Self {
        let files = &core.rooms().files;
        let staged = files.has_staged();
        let patience = match (staged, files.is_waiting()) {
            (true, _) => EAGER,
            (false, true) => RETRY,
            (false, false) => Duration::MAX,
        };
        Self { jobs: core.receiving_jobs(mood), releases: files.releases(), staged, patience }
    }
}

impl Desk {
    /// Starts both tasks; they end with the core.
    pub(crate) fn start(self, changes: watch::Receiver<u64>) {
        tokio::spawn(self.clone().receive(changes.clone()));
        tokio::spawn(self.send(changes));
    }

    fn payload(&self, record: RecordNumber, index: u64) -> Result<Vec<u8>, Error> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let read = read_message(&self.log, (record, index), (self.reader.0, &self.reader.1));
        read.map_err(|error| Error::Elsewhere { code: error.code(), text: error.to_string() })
    }

    /// Does a job on a thread where it may take as long as the disk takes.
    async fn work(&self, mut keeper: Keeper, job: Job) -> Option<(Keeper, Report)> {
        let desk = self.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let report = keeper.work(job, &*desk.store, &|record, index| desk.payload(record, index));
            (keeper, report)
        });
        worked.await.ok()
    }

    /// What comes: one job after the other. Whatever a job is about was durable before it was told of.
    async fn receive(self, mut changes: watch::Receiver<u64>) {
        let (mut keeper, mut released, mut mood) = (Keeper::default(), 0, Mood::default());
        loop {
            changes.borrow_and_update();
            let Some(todo) = self.core(move |core| Todo::of(core, mood)).await else { return };
            let idle = todo.jobs.is_empty();
            for job in todo.jobs {
                let Some((back, report)) = self.work(keeper, job).await else { return };
                keeper = back;
                // The next jobs are told of when it is durable.
                drop(self.report(report).await);
            }
            if todo.releases != released && !self.tidy().await {
                return;
            }
            released = todo.releases;
            mood = Mood::default();
            if idle {
                match tokio::time::timeout(todo.patience, changes.changed()).await {
                    Ok(Ok(())) => {}
                    // Nobody tells any more: the core has ended, or only answers reads.
                    Ok(Err(_)) => return,
                    Err(_) => mood = Mood { eager: todo.staged, retry: true },
                }
            }
        }
    }

    /// Removes from the store what nobody needs any more; `false` if the core has ended.
    async fn tidy(&self) -> bool {
        let mark = self.store.mark();
        let roots = self.core(|core| (!core.is_read_only()).then(|| core.rooms().files.roots())).await;
        if let Some(Some(roots)) = &roots {
            let (store, roots) = (Arc::clone(&self.store), roots.clone());
            // A store that cannot be tidied now is tidied the next time.
            drop(tokio::task::spawn_blocking(move || store.keep(&roots, mark)).await);
        }
        roots.is_some()
    }

    /// What goes: pages and chunks are read while those before them are on their way into the journal.
    async fn send(self, mut changes: watch::Receiver<u64>) {
        let (mut mood, mut after, mut keeper) = (Mood::default(), None, Keeper::default());
        let mut under_way: VecDeque<JoinHandle<bool>> = VecDeque::new();
        loop {
            changes.borrow_and_update();
            let from: Option<FileKey> = after.take();
            let (answer, jobs) = oneshot::channel();
            // Wants that are not durable yet may be answered: the answer stands behind them in the journal.
            let node = self.node.clone();
            tokio::spawn(async move {
                let look = move |core: &mut Core, _: Millis, _: &dyn Log| {
                    drop(answer.send(core.sending_jobs(from.as_ref(), mood)))
                };
                // An error means that the core has ended, which the missing answer says.
                node.call(look).await.is_ok()
            });
            let Ok(jobs) = jobs.await else { return };
            if jobs.is_empty() {
                let patience = self.core(|core| core.rooms().files.has_wanted().then_some(RETRY)).await;
                let Some(patience) = patience else { return };
                match tokio::time::timeout(patience.unwrap_or(Duration::MAX), changes.changed()).await {
                    Ok(Ok(())) => mood = Mood::default(),
                    Ok(Err(_)) => return,
                    Err(_) => mood = Mood { eager: false, retry: true },
                }
                continue;
            }
            mood = Mood::default();
            for job in jobs {
                after = Some(job.key().clone());
                let Some((back, report)) = self.work(keeper, job).await else { return };
                keeper = back;
                if under_way.len() >= UNDER_WAY
                    && let Some(oldest) = under_way.pop_front()
                    && !oldest.await.unwrap_or(false)
                {
                    return;
                }
                under_way.push_back(self.report(report).await);
            }
        }
    }

    /// Hands a report over; returns once the core has taken it, with what ends when it is durable.
    async fn report(&self, report: Report) -> JoinHandle<bool> {
        let (taken, has_taken) = oneshot::channel();
        let node = self.node.clone();
        let durable = tokio::spawn(async move {
            let reported = node.call(move |core, now, log| {
                let done = core.file_report(now, log, report);
                // Whoever waited for this may have gone.
                let _gone = taken.send(()).is_err();
                done
            });
            match reported.await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(code = error.code(), %error, "a report about a file was refused");
                    true
                }
                Err(_) => false,
            }
        });
        // An error means that the core has ended, which the task says.
        drop(has_taken.await);
        durable
    }

    async fn core<T: Send + 'static>(&self, look: impl FnOnce(&Core) -> T + Send + 'static) -> Option<T> {
        self.node.call(move |core, _, _| look(core)).await.ok()
    }
}
