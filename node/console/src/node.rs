//! The way from a request to the node's core thread and back.

use crate::Problem;
use jincai_core::Core;
use jincai_files::Depot;
use jincai_journal::{Log, Reader};
use jincai_tables::Tables;
use jincai_types::{Digest, Millis};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// What a call leaves behind: run it when everything the call staged is durable.
pub(crate) type Release = Box<dyn FnOnce() + Send>;

/// Runs with the core; returns what lets the caller go.
type Run = Box<dyn FnOnce(&mut Core, Millis, &dyn Log) -> Release + Send>;

/// Writes a backup of the node; the error is for the log.
pub type WriteBackup = Box<dyn Fn(&mut dyn Write) -> Result<(), String> + Send + Sync>;

/// Something to do on the core thread.
pub struct Call {
    /// What to do.
    pub run: Run,
}

/// A handle to a running node; clones share it.
#[derive(Clone)]
pub struct Node {
    calls: mpsc::Sender<Call>,
    tables: Arc<Tables>,
    log: Reader,
    depot: Arc<dyn Depot>,
    token: Digest,
    backup: Arc<WriteBackup>,
    /// Milliseconds since 1970 of the core's last tick.
    progress: Arc<AtomicU64>,
    clock: fn() -> Millis,
}

impl Node {
    /// A handle. `token` is the SHA-256 of the bearer token; `progress` is kept by the core thread.
    #[must_use]
    pub fn new(
        calls: mpsc::Sender<Call>,
        (tables, log, depot): (Arc<Tables>, Reader, Arc<dyn Depot>),
        token: Digest,
        backup: WriteBackup,
        progress: Arc<AtomicU64>,
        clock: fn() -> Millis,
    ) -> Self {
        Self { calls, tables, log, depot, token, backup: Arc::new(backup), progress, clock }
    }

    /// Runs something on the core thread. The answer comes when all that was staged by then is durable.
    pub async fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Core, Millis, &dyn Log) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (sender, receiver) = oneshot::channel();
        let run = Box::new(move |core: &mut Core, now: Millis, log: &dyn Log| -> Release {
            let answer = run(core, now, log);
            // A caller that has gone away needs no answer.
            Box::new(move || drop(sender.send(answer)))
        });
        self.calls.send(Call { run }).await.map_err(|_| Problem::stopping())?;
        receiver.await.map_err(|_| Problem::stopping())
    }

    /// The table engine.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The journal, for reading beside the core's thread.
    pub(crate) fn log(&self) -> &Reader {
        &self.log
    }

    /// The file store.
    pub(crate) fn depot(&self) -> &Arc<dyn Depot> {
        &self.depot
    }

    /// An id that no other transfer has: 128 random bits.
    pub(crate) fn new_id(&self) -> Result<String, Problem> {
        let mut bytes = [0; 16];
        let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        filled.map_err(|_| Problem::from(jincai_files::Error::Disk("the system has no random bytes".into())))?;
        Ok(jincai_types::hex(&bytes))
    }

    pub(crate) fn backup(&self) -> Arc<WriteBackup> {
        Arc::clone(&self.backup)
    }

    pub(crate) fn is_token(&self, token: &str) -> bool {
        // Digests are compared, so how long it takes says nothing about the token.
        ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref() == self.token.0
    }

    /// Milliseconds since the core last moved.
    #[must_use]
    pub fn silence(&self) -> Millis {
        (self.clock)().saturating_sub(self.progress.load(Ordering::Relaxed))
    }
}
