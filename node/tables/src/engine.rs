//! The query engine: its own threads and its own function list, made at the first statement and dropped when idle.
//!
//! It has threads of its own so that a query never stands before a message: the node's other work runs elsewhere. It knows
//! no file formats, no table functions and no object stores, so a statement cannot name anything outside the node.

use crate::Error;
use crate::exact::ExactSums;
use crate::manifest::Manifest;
use crate::part::BATCH_ROWS;
use crate::scan::{ScanFault, TableScan};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::common::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream, SessionStateDefaults};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use jincai_journal::Log;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

/// Threads, and partitions of a query.
const THREADS: usize = 2;
/// Queries that run at a time; further ones wait within their time limit.
const QUERIES: usize = 4;
const CATALOG: &str = "jincai";
const SCHEMA: &str = "public";
/// A function left out because one call of it can fill the memory before any limit is asked.
const REPEAT: &str = "repeat";

/// Threads, functions and planner rules; shared by the queries that run.
pub(crate) struct Engine {
    runtime: Option<Runtime>,
    state: SessionState,
    pub(crate) turns: Arc<Semaphore>,
}

impl Engine {
    pub(crate) fn start() -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(1)
            .thread_name("tables")
            .build()
            .map_err(Error::Start)?;
        let config = SessionConfig::new()
            .with_target_partitions(THREADS)
            .with_batch_size(BATCH_ROWS)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, SCHEMA);
        let mut functions = SessionStateDefaults::default_scalar_functions();
        functions.retain(|function| function.name() != REPEAT);
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(functions)
            .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .build();
        state.register_function_rewrite(Arc::new(ExactSums)).map_err(|_| Error::Engine)?;
        Ok(Self { runtime: Some(runtime), state, turns: Arc::new(Semaphore::new(QUERIES)) })
    }

    /// Where to run queries.
    pub(crate) fn handle(&self) -> Handle {
        self.runtime.as_ref().expect("the runtime is taken only when the engine is dropped").handle().clone()
    }

    /// What a query needs of the engine: functions and rules, a memory limit, the tables as they are now.
    pub(crate) fn session(
        &self,
        manifest: &Manifest,
        log: &Arc<dyn Log>,
        memory_bytes: usize,
        fault: &ScanFault,
    ) -> Result<SessionState, DataFusionError> {
        let tables = MemorySchemaProvider::new();
        for (name, table) in &manifest.tables {
            let scan =
                TableScan { log: Arc::clone(log), table: Arc::clone(table), partitions: THREADS, fault: fault.clone() };
            tables.register_table(name.clone(), Arc::new(scan))?;
        }
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(SCHEMA, Arc::new(tables))?;
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.into(), Arc::new(catalog));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory_bytes)))
            // Rows of the treasury do not go to temporary files: a query fits its memory or fails.
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()?;
        let state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(Arc::new(catalogs))
            .with_runtime_env(runtime);
        Ok(state.build())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads is not allowed here: we may be within another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Parses, plans and starts a query; refuses every statement that is not one.
pub(crate) async fn start(state: &SessionState, query: &str) -> Result<SendableRecordBatchStream, StartError> {
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(query, &dialect)?;
    let is_query = matches!(&statement, Statement::Statement(inner) if matches!(**inner, ast::Statement::Query(_)));
    if !is_query {
        return Err(StartError::NotAQuery);
    }
    let plan = state.statement_to_plan(statement).await?;
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    let plan = state.create_physical_plan(&plan).await?;
    Ok(execute_stream(plan, state.task_ctx())?)
}

/// Why a query did not start.
pub(crate) enum StartError {
    NotAQuery,
    Engine(DataFusionError),
}

impl From<DataFusionError> for StartError {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(error)
    }
}
