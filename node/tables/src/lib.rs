//! The table engine behind standard storage: it carries out [`TableEffect`](jincai_types::TableEffect)s and answers SQL.
//!
//! Row bytes stay in the journal, as Arrow IPC streams within records; the manifest of live parts is a projection of the
//! effects and is rebuilt by replaying them. A query reads the parts it needs one by one, checks each record against its
//! digest, and sees every part whole, old or new. Beside its own columns a table has `_authority`, `_month` (`YYYY-MM`),
//! `_system` and `_version`.
//!
//! It refuses every statement but one query, and has no way to name anything outside the node. Time, memory and rows of a
//! query are limited; what a single function call allocates is not counted.

mod engine;
mod error;
mod exact;
mod manifest;
mod part;
mod prune;
mod query;
mod scan;
mod tables;

pub use error::Error;
pub use query::{Limits, QueryResult, ResultColumn, Row, Rows, ValueKind};
pub use tables::{TableStatus, Tables};
