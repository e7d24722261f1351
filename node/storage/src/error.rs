//! What can go wrong with specs, rows and collected batches.

use jincai_types::Fault;

/// A failure of standard storage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A collected partition whose version is here already, with other rows.
    #[error("{part}: version {offered} is offered, and version {held} is here with other rows")]
    Stale {
        /// The partition.
        part: String,
        /// The version here.
        held: u64,
        /// The version offered.
        offered: u64,
    },
    /// A value that breaks its format.
    #[error("{0}")]
    Malformed(#[from] jincai_types::Error),
    /// The journal.
    #[error("{0}")]
    Journal(#[from] jincai_journal::Error),
    /// A spec that cannot be used.
    #[error("spec {id}: {reason}")]
    Spec {
        /// The spec.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// No such spec or table at this node.
    #[error("there is no table «{name}» here: its spec has not arrived")]
    NoTable {
        /// The name asked for.
        name: String,
    },
    /// The file's shape is wrong, so that no row of it can be judged.
    #[error("line {line}: {reason}")]
    File {
        /// Where, counted from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// Some rows break the spec and the request wanted all or nothing.
    #[error("{count} of {rows} rows break the spec; nothing was written, as the request asked")]
    Rows {
        /// How many are refused.
        count: u64,
        /// How many there were.
        rows: u64,
    },
    /// A partition that outgrows what one journal record holds.
    #[error("partition {part} would have {bytes} bytes compressed; {limit} is the limit of one partition")]
    PartTooLarge {
        /// The partition.
        part: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many rows in one request.
    #[error("a request may write {limit} rows; send the file in several requests")]
    TooManyRows {
        /// The limit.
        limit: u64,
    },
    /// Rows in Arrow form that cannot be read or written.
    #[error("rows: {0}")]
    Arrow(String),
    /// Stored rows are not what their totals say.
    #[error("partition {part}: {what} is {found}, its source signed {signed}")]
    Mismatch {
        /// The partition.
        part: String,
        /// Which figure.
        what: String,
        /// What was found here.
        found: String,
        /// What the source signed.
        signed: String,
    },
    /// A collected batch that does not belong here, or not to its sender.
    #[error("batch {id}: {reason}")]
    Batch {
        /// Its id.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(e) => e.code(),
            Self::Journal(e) => e.code(),
            Self::Spec { .. } => "JC-1501",
            Self::NoTable { .. } => "JC-1502",
            Self::File { .. } => "JC-1503",
            Self::Rows { .. } => "JC-1504",
            Self::PartTooLarge { .. } => "JC-1505",
            Self::TooManyRows { .. } => "JC-1506",
            Self::Arrow(_) => "JC-1507",
            Self::Mismatch { .. } => "JC-1508",
            Self::Batch { .. } => "JC-1509",
            Self::Stale { .. } => "JC-1511",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed(e) => e.fault(),
            Self::Journal(e) => e.fault(),
            _ => Fault::Peer,
        }
    }
}
