//! What can go wrong with a dictionary, and whose fault it is.

use jincai_types::{AuthorityId, Digest, Fault};

/// A dictionary operation that did not happen; nothing is left half done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A row of a CSV file that cannot be imported.
    #[error("line {line}: {reason}")]
    Row {
        /// The line of the file, from 1 (the header).
        line: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A name, code, level or note that breaks the rules of the model.
    #[error("{what}: {reason}")]
    Field {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A snapshot's bytes are not what was written.
    #[error("the snapshot is damaged: {reason}")]
    Damaged {
        /// What does not fit.
        reason: &'static str,
    },
    /// A delta's bytes cannot be read.
    #[error("the delta is malformed: {reason}")]
    Delta {
        /// What does not fit.
        reason: &'static str,
    },
    /// An operation does not fit the snapshot it is applied to.
    #[error("code «{code}» of set «{set}»: {reason}")]
    Operation {
        /// The code set.
        set: String,
        /// The code; empty for the set itself.
        code: String,
        /// Why it does not fit.
        reason: &'static str,
    },
    /// A release names another base than the one that is held.
    #[error("the release starts from root {named}, but {held} is held")]
    WrongBase {
        /// The base the release names.
        named: Digest,
        /// The root that is held.
        held: Digest,
    },
    /// Applying a release gave something else than it promises.
    #[error("the release promises root {promised} with {promised_count} codes, but gives {made} with {made_count}")]
    WrongResult {
        /// The root it names.
        promised: Digest,
        /// The number of codes it names.
        promised_count: u64,
        /// The root that applying it gives.
        made: Digest,
        /// The number of codes that applying it gives.
        made_count: u64,
    },
    /// Somebody else issues the line.
    #[error("line «{line}» is issued by {issuer}, not by {authority}")]
    NotIssuer {
        /// The line.
        line: String,
        /// Its issuer.
        issuer: AuthorityId,
        /// Who tried.
        authority: AuthorityId,
    },
    /// There is no draft, or the draft equals the last release.
    #[error("line «{line}» has no changes to release")]
    NothingToRelease {
        /// The line.
        line: String,
    },
    /// A release would remove much of a code set, or all of it, without saying why.
    #[error("the release removes {removed} of the {held} codes of set «{set}»; such a release must state a reason")]
    Shrinks {
        /// The code set.
        set: String,
        /// How many codes it held.
        held: u64,
        /// How many would go.
        removed: u64,
    },
    /// The line or its release is not known here.
    #[error("line «{line}» has no release {number} here")]
    UnknownRelease {
        /// The line.
        line: String,
        /// The release; 0 stands for any.
        number: u64,
    },
    /// The release is held already, with the same root.
    #[error("release {number} of line «{line}» is held already")]
    AlreadyHeld {
        /// The line.
        line: String,
        /// The release.
        number: u64,
    },
    /// Another release of this number is held.
    #[error("release {number} of line «{line}» is held with root {held}; this one has {named}")]
    Conflict {
        /// The line.
        line: String,
        /// The release.
        number: u64,
        /// The root that is held.
        held: Digest,
        /// The root that came.
        named: Digest,
    },
    /// Something is larger than its limit.
    #[error("{what}: more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A message of a kind this room does not know.
    #[error("a message of type «{kind}» is unknown here")]
    UnknownKind {
        /// The message's type.
        kind: String,
    },
    /// A release's manifest that cannot be read.
    #[error("the release cannot be read: {0}")]
    Manifest(#[source] jincai_types::Error),
    /// A blob cannot be read or written.
    #[error("the blob store failed: {0}")]
    Blobs(#[from] jincai_journal::Error),
    /// The CSV file cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(#[source] std::io::Error),
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Row { .. } => "JC-1401",
            Self::Field { .. } => "JC-1402",
            Self::Damaged { .. } => "JC-1403",
            Self::Delta { .. } => "JC-1404",
            Self::Operation { .. } => "JC-1405",
            Self::WrongBase { .. } => "JC-1406",
            Self::WrongResult { .. } => "JC-1407",
            Self::NotIssuer { .. } => "JC-1408",
            Self::NothingToRelease { .. } => "JC-1409",
            Self::Shrinks { .. } => "JC-1410",
            Self::UnknownRelease { .. } => "JC-1411",
            Self::AlreadyHeld { .. } => "JC-1412",
            Self::Conflict { .. } => "JC-1413",
            Self::TooLarge { .. } => "JC-1414",
            Self::UnknownKind { .. } => "JC-1415",
            Self::Manifest(_) => "JC-1416",
            Self::Blobs(_) => "JC-1417",
            Self::Read(_) => "JC-1418",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            // Blobs are this node's own: one that is missing or cannot be read is never the peer's fault.
            Self::Blobs(source) if source.fault() == Fault::Passing => Fault::Passing,
            Self::Damaged { .. } | Self::Read(_) | Self::Blobs(_) => Fault::Operator,
            Self::Row { .. }
            | Self::Field { .. }
            | Self::Delta { .. }
            | Self::Operation { .. }
            | Self::WrongBase { .. }
            | Self::WrongResult { .. }
            | Self::NotIssuer { .. }
            | Self::NothingToRelease { .. }
            | Self::Shrinks { .. }
            | Self::UnknownRelease { .. }
            | Self::AlreadyHeld { .. }
            | Self::Conflict { .. }
            | Self::TooLarge { .. }
            | Self::UnknownKind { .. }
            | Self::Manifest(_) => Fault::Peer,
        }
    }
}
