//! What can go wrong with tables and statements, and whose fault it is.

use jincai_types::{Fault, RecordNumber};

/// A table effect or a statement that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such table.
    #[error("there is no table «{table}»")]
    UnknownTable {
        /// The table's name.
        table: String,
    },
    /// A table's shape breaks the rules.
    #[error("table «{table}»: {reason}")]
    Schema {
        /// The table's name.
        table: String,
        /// What is wrong with its shape.
        reason: &'static str,
    },
    /// A statement that is not one plain query.
    #[error("only one SELECT statement is answered; nothing is changed, set, explained, read or written from here")]
    NotAQuery,
    /// A query that is wrong or whose evaluation failed, such as an unknown column or a division by zero.
    #[error("{reason}")]
    Query {
        /// What is wrong with it.
        reason: String,
    },
    /// A query's text is too long.
    #[error("the query is longer than {limit} bytes")]
    QueryTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A query did not end in time; waiting for its turn counts.
    #[error("the query did not end within {milliseconds} ms and was stopped")]
    TimeOut {
        /// The limit in milliseconds.
        milliseconds: u128,
    },
    /// A query needs more memory than it may have.
    #[error("the query needs more than {bytes} bytes of memory and was stopped")]
    Memory {
        /// The limit in bytes.
        bytes: usize,
    },
    /// A result has too many rows.
    #[error("the result has more than {limit} rows; narrow the query or add LIMIT")]
    TooManyRows {
        /// The limit.
        limit: usize,
    },
    /// A record does not hold the rows that a part says it holds.
    #[error("table «{table}», part {part}: record {record} does not hold its rows: {reason}")]
    Damaged {
        /// The table.
        table: String,
        /// The part, as authority, month and system.
        part: String,
        /// The journal record.
        record: RecordNumber,
        /// What does not fit.
        reason: String,
    },
    /// The journal cannot be read.
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] jincai_journal::Error),
    /// The query engine's threads cannot be started.
    #[error("the query engine cannot be started: {0}")]
    Start(#[source] std::io::Error),
    /// The query engine failed in a way that it should not; the node goes on.
    #[error("the query engine failed; please report the statement")]
    Engine,
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownTable { .. } => "JC-1601",
            Self::Schema { .. } => "JC-1602",
            Self::NotAQuery => "JC-1603",
            Self::Query { .. } => "JC-1604",
            Self::QueryTooLong { .. } => "JC-1605",
            Self::TimeOut { .. } => "JC-1606",
            Self::Memory { .. } => "JC-1607",
            Self::TooManyRows { .. } => "JC-1608",
            Self::Damaged { .. } => "JC-1609",
            Self::Journal(_) => "JC-1610",
            Self::Start(_) => "JC-1611",
            Self::Engine => "JC-1612",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Damaged { .. } => Fault::Operator,
            Self::Journal(source) => source.fault(),
            Self::Start(_) => Fault::Passing,
            Self::Engine => Fault::Bug,
            Self::UnknownTable { .. }
            | Self::Schema { .. }
            | Self::NotAQuery
            | Self::Query { .. }
            | Self::QueryTooLong { .. }
            | Self::TimeOut { .. }
            | Self::Memory { .. }
            | Self::TooManyRows { .. } => Fault::Peer,
        }
    }
}
