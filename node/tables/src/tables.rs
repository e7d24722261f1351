//! The tables of a node: effects in, answers out.

use crate::Error;
use crate::engine::Engine;
use crate::manifest::Manifest;
use crate::query::{Limits, QUERY_BYTES, QueryResult, Rows};
use crate::scan::ScanFault;
use jincai_journal::Log;
use jincai_types::{TableEffect, TableSchema};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A table, and how much is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// Its shape.
    pub shape: TableSchema,
    /// Its parts.
    pub parts: u64,
    /// Rows of all parts.
    pub rows: u64,
}

/// The table engine. Effects are applied in journal order by one caller; queries run beside it.
pub struct Tables {
    log: Arc<dyn Log>,
    manifest: Mutex<Manifest>,
    engine: Mutex<Option<Arc<Engine>>>,
}

impl Tables {
    /// No tables yet; the rows of their parts will be read from `log`.
    #[must_use]
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log, manifest: Mutex::default(), engine: Mutex::default() }
    }

    /// Carries an effect out, once the record that decided it can be read. Applying it again changes nothing more.
    pub fn apply(&self, effect: TableEffect) -> Result<(), Error> {
        lock(&self.manifest).apply(effect)
    }

    /// The tables, in order of name.
    #[must_use]
    pub fn status(&self) -> Vec<TableStatus> {
        let manifest = lock(&self.manifest).clone();
        let status = |table: &Arc<crate::manifest::Table>| TableStatus {
            shape: table.shape.clone(),
            parts: table.parts.len() as u64,
            rows: table.parts.values().map(|part| part.rows).sum(),
        };
        manifest.tables.values().map(status).collect()
    }

    /// Answers one query whole. To be called within a tokio runtime that has a clock.
    pub async fn sql(&self, query: &str, limits: Limits) -> Result<QueryResult, Error> {
        self.rows(query, limits).await?.gather().await
    }

    /// Answers one query row by row. It sees the tables as they are now, whatever is applied while it runs.
    pub async fn rows(&self, query: &str, limits: Limits) -> Result<Rows, Error> {
        if query.len() > QUERY_BYTES {
            return Err(Error::QueryTooLong { limit: QUERY_BYTES });
        }
        let engine = self.engine()?;
        let manifest = lock(&self.manifest).clone();
        let fault = ScanFault::default();
        let session = engine.session(&manifest, &self.log, limits.memory_bytes, &fault).map_err(|_| Error::Engine)?;
        Rows::start(engine, session, fault, query, limits).await
    }

    /// Gives the query engine's threads and memory back; the next statement makes it again. Queries that run go on.
    pub fn release(&self) {
        let engine = lock(&self.engine).take();
        drop(engine);
    }

    /// Whether the query engine is there.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        lock(&self.engine).is_some()
    }

    fn engine(&self) -> Result<Arc<Engine>, Error> {
        let mut engine = lock(&self.engine);
        match &*engine {
            Some(engine) => Ok(Arc::clone(engine)),
            None => Ok(Arc::clone(engine.insert(Arc::new(Engine::start()?)))),
        }
    }
}

/// Every change under these locks is one assignment or one map operation, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
