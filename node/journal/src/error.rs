//! What can go wrong with the journal or the immutable files, and who must act.

use crate::Quarantine;
use jincai_types::{Digest, Fault, RecordNumber};
use std::io;

/// A journal operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("cannot {operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        file: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process has this data directory open.
    #[error("{directory} is in use by another process")]
    Locked {
        /// The directory.
        directory: String,
    },
    /// An earlier write or sync failed: what is on disk is unknown until the journal is opened again.
    #[error("the journal stopped when an earlier write failed; it must be opened again")]
    Poisoned,
    /// The journal is damaged below its durable mark: it can be read up to the damage and not be written.
    #[error("the journal is damaged and read-only: {0}")]
    Quarantined(Quarantine),
    /// A record, or the records of one commit, are larger than their limit.
    #[error("{what} is {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// There is no record of this number.
    #[error("there is no record {number}; the last is {last}")]
    NoRecord {
        /// The number asked for.
        number: RecordNumber,
        /// The last number.
        last: RecordNumber,
    },
    /// A record that was whole when the journal was opened does not match its checksum now.
    #[error("record {number} in segment {segment} does not match its checksum")]
    Damaged {
        /// The record.
        number: RecordNumber,
        /// The segment that holds it.
        segment: u64,
    },
    /// There is no immutable file of this digest.
    #[error("there is no file {digest}")]
    NoBlob {
        /// The digest asked for.
        digest: Digest,
    },
    /// A read beyond the end of an immutable file.
    #[error("{length} bytes at {offset} lie beyond the end of the file")]
    BlobRange {
        /// Where the read starts.
        offset: u64,
        /// How many bytes were wanted.
        length: u64,
    },
    /// A setting is outside its range.
    #[error("segment_bytes is {bytes}: a multiple of 4,096 between 8,192 and 4,294,967,296 is wanted")]
    SegmentBytes {
        /// The setting.
        bytes: u64,
    },
    /// The journal on this disk belongs to another shard than the configured one.
    #[error("this is the journal of shard {found}, not of shard {wanted}")]
    Shard {
        /// The shard of the files.
        found: u32,
        /// The configured shard.
        wanted: u32,
    },
    /// The journal was written by a newer version of this program.
    #[error("segment {segment} has format version {version}; this program knows versions up to {known}")]
    Version {
        /// The segment.
        segment: u64,
        /// Its format version.
        version: u16,
        /// The newest version that this program reads.
        known: u16,
    },
    /// There is no room for a new segment; nothing was written.
    #[error("there is no room on the disk for another segment of the journal")]
    Full,
    /// A file that the newest base names is missing or damaged, so that what it replaced cannot be read.
    #[error("the file {digest}, which the journal's newest base names, {reason}; repair it from a backup")]
    BlobDamaged {
        /// The file.
        digest: Digest,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A base that the journal cannot take; nothing was written.
    #[error("a base up to record {through} is refused: {reason}")]
    BaseRefused {
        /// The last record that it replaces.
        through: RecordNumber,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A backup is not whole.
    #[error("the backup is not whole: {file} {reason}")]
    BackupDamaged {
        /// The file within the backup.
        file: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A restore wants a directory of its own.
    #[error("{directory} is not empty: a restore fills a new directory only")]
    NotEmpty {
        /// The directory.
        directory: String,
    },
    /// The wanted point in time lies outside of what the backup holds.
    #[error("the backup holds no such point: it can be restored from record {from} to record {to}")]
    NoSuchPoint {
        /// The earliest last record.
        from: RecordNumber,
        /// The latest.
        to: RecordNumber,
    },
    /// The other copy does not hold what is missing, so that nothing was written.
    #[error("the copy does not fill what is missing: {0}")]
    RepairIncomplete(Quarantine),
    /// The writer's thread has ended, so that nothing can be appended.
    #[error("the journal's writer has ended")]
    Ended,
    /// The caller of a replay ended it early.
    #[error("the replay was ended by its caller")]
    Stopped,
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "JC-1101",
            Self::Locked { .. } => "JC-1102",
            Self::Poisoned => "JC-1103",
            Self::Quarantined(_) => "JC-1104",
            Self::TooLarge { .. } => "JC-1105",
            Self::NoRecord { .. } => "JC-1106",
            Self::Damaged { .. } => "JC-1107",
            Self::NoBlob { .. } => "JC-1108",
            Self::BlobRange { .. } => "JC-1109",
            Self::SegmentBytes { .. } => "JC-1110",
            Self::Shard { .. } => "JC-1111",
            Self::Version { .. } => "JC-1112",
            Self::Ended => "JC-1113",
            Self::Stopped => "JC-1114",
            Self::Full => "JC-1115",
            Self::BlobDamaged { .. } => "JC-1116",
            Self::BaseRefused { .. } => "JC-1117",
            Self::BackupDamaged { .. } => "JC-1118",
            Self::NotEmpty { .. } => "JC-1119",
            Self::NoSuchPoint { .. } => "JC-1120",
            Self::RepairIncomplete(_) => "JC-1121",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. }
            | Self::Locked { .. }
            | Self::Poisoned
            | Self::Quarantined(_)
            | Self::Damaged { .. }
            | Self::SegmentBytes { .. }
            | Self::Shard { .. }
            | Self::Version { .. }
            | Self::Full
            | Self::BlobDamaged { .. }
            | Self::BackupDamaged { .. }
            | Self::NotEmpty { .. }
            | Self::NoSuchPoint { .. }
            | Self::RepairIncomplete(_) => Fault::Operator,
            Self::BaseRefused { .. } => Fault::Bug,
            Self::TooLarge { .. } | Self::NoRecord { .. } | Self::NoBlob { .. } | Self::BlobRange { .. } => Fault::Peer,
            Self::Ended | Self::Stopped => Fault::Passing,
        }
    }

    /// Whether the system refused for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Full => true,
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }

    /// Names the operation and the file that a system error belongs to.
    pub(crate) fn io(operation: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { operation, file, source }
    }
}
