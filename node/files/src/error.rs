//! What can go wrong with files.

use jincai_types::{AuthorityId, Fault};

/// A failure of the files room, its keeper or its store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value that breaks its format.
    #[error("{0}")]
    Malformed(#[from] jincai_types::Error),
    /// A file that is too long.
    #[error("a file may have at most {limit} bytes")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// Something about a transfer that no node could act on.
    #[error("file transfer: {reason}")]
    Unusable {
        /// What is wrong.
        reason: String,
    },
    /// Bytes that are not those of the tree.
    #[error("file {id}: {what} is not what the file's root promises")]
    Mismatch {
        /// The transfer.
        id: String,
        /// What.
        what: String,
    },
    /// An id that names another file already.
    #[error("a file with the id «{id}» was sent before, and it was another one or went elsewhere")]
    OtherFile {
        /// The id.
        id: String,
    },
    /// No such file, or it is not whole yet.
    #[error("there is no file «{id}» here")]
    NoFile {
        /// The id.
        id: String,
    },
    /// No room in the store.
    #[error(
        "the file store has no room for {wanted} bytes more: {used} of {limit} are in use; drop files or raise files.max_bytes"
    )]
    NoRoom {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes in use.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many transfers.
    #[error("{with} has {limit} file transfers under way already; more are taken when one of them has ended")]
    TooMany {
        /// Between whom.
        with: AuthorityId,
        /// The limit.
        limit: usize,
    },
    /// The origin does not have the file any more.
    #[error("file {id}: its origin does not have it any more")]
    Gone {
        /// The transfer.
        id: String,
    },
    /// The store's copy is not the file any more.
    #[error("file {id}: the copy in the store is damaged; nothing of it is sent")]
    Damaged {
        /// The transfer.
        id: String,
    },
    /// Somebody gave the transfer up.
    #[error("file {id} was given up by {by}")]
    GivenUp {
        /// The transfer.
        id: String,
        /// By whom.
        by: AuthorityId,
    },
    /// The disk refused something.
    #[error("the file store: {0}")]
    Disk(String),
    /// It waits for something that is no matter of files.
    #[error("{text}")]
    Elsewhere {
        /// The stable code of what it waits for.
        code: &'static str,
        /// What that says.
        text: String,
    },
    /// It is not over, so that it cannot be read.
    #[error("file {id} is not whole yet: {stored} of {size} bytes are here")]
    NotWhole {
        /// The transfer.
        id: String,
        /// Bytes here.
        stored: u64,
        /// Bytes in all.
        size: u64,
    },
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(e) => e.code(),
            Self::TooLong { .. } => "JC-2001",
            Self::Unusable { .. } => "JC-2002",
            Self::Mismatch { .. } => "JC-2003",
            Self::OtherFile { .. } => "JC-2004",
            Self::NoFile { .. } => "JC-2005",
            Self::NoRoom { .. } => "JC-2006",
            Self::TooMany { .. } => "JC-2007",
            Self::Gone { .. } => "JC-2008",
            Self::Damaged { .. } => "JC-2009",
            Self::GivenUp { .. } => "JC-2010",
            Self::Disk(_) => "JC-2011",
            Self::NotWhole { .. } => "JC-2012",
            Self::Elsewhere { code, .. } => code,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed(e) => e.fault(),
            Self::NoRoom { .. } | Self::TooMany { .. } | Self::NotWhole { .. } | Self::Elsewhere { .. } => {
                Fault::Passing
            }
            Self::Damaged { .. } | Self::Disk(_) => Fault::Operator,
            _ => Fault::Peer,
        }
    }
}
