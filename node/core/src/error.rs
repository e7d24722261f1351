//! What can go wrong at a node.

use jincai_types::Fault;

/// A failure of a node: of one of its parts.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is the part's own error, documented there")]
pub enum Error {
    #[error("{0}")]
    Exchange(#[from] jincai_exchange::Error),
    #[error("{0}")]
    Dictionary(#[from] jincai_dictionary::Error),
    #[error("{0}")]
    Storage(#[from] jincai_storage::Error),
    #[error("{0}")]
    Files(#[from] jincai_files::Error),
    #[error("{0}")]
    Crypto(#[from] jincai_crypto::Error),
    /// The node was restored from a backup and has not heard yet what its neighbours know.
    #[error("this node was restored from a backup and is catching up with its neighbours; try again when it has")]
    CatchingUp,
    /// The disk is full.
    #[error(
        "there is no room on this node's disk, so that it takes nothing new; what it holds is safe: free some room"
    )]
    NoRoom,
    /// The journal is in quarantine.
    #[error(
        "this node's journal is damaged behind record {last}, so that it only answers reads, as of that record; its \
         operator mends it with «jincai journal repair» or «jincai restore --before-damage»"
    )]
    ReadOnly { last: jincai_types::RecordNumber },
    /// There is no such message on that lane here.
    #[error("there is no message {sequence} of that epoch on lane {lane} here")]
    NoMessage { lane: jincai_types::Lane, sequence: u64 },
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exchange(e) => e.code(),
            Self::Dictionary(e) => e.code(),
            Self::Storage(e) => e.code(),
            Self::Files(e) => e.code(),
            Self::Crypto(e) => e.code(),
            Self::NoMessage { .. } => "JC-1301",
            Self::CatchingUp => "JC-1304",
            Self::NoRoom => "JC-1305",
            Self::ReadOnly { .. } => "JC-1306",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Exchange(e) => e.fault(),
            Self::Dictionary(e) => e.fault(),
            Self::Storage(e) => e.fault(),
            Self::Files(e) => e.fault(),
            Self::Crypto(e) => e.fault(),
            Self::NoMessage { .. } => Fault::Peer,
            Self::CatchingUp | Self::NoRoom | Self::ReadOnly { .. } => Fault::Passing,
        }
    }

    /// Whether the node must stop: its journal or what it made of it cannot be trusted any more.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Exchange(jincai_exchange::Error::Journal(_) | jincai_exchange::Error::Room(_)))
    }
}
