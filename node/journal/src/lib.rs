//! The journal: the durable log that holds a node's truth, and the immutable files that its records name by digest.
//!
//! [`Engine`] appends commits to pre-allocated segment files and recovers them; [`Journal`] is the thread that lets many
//! callers share one `fdatasync`; a [`Reader`] reads records by number; [`Blobs`] keeps immutable files. [`MemoryDisk`] is
//! the disk's faulty twin: it loses power, tears writes and flips bits on demand.
//!
//! Invariants: a record is *durable* only after the `fdatasync` that covers it returned; durable records are never
//! dropped or altered silently (damage below the highest durable mark is [quarantined](Quarantine), not cut); a failed
//! write or sync poisons the engine, and nothing is retried. It refuses to know what records mean.

mod backup;
mod base;
mod blobs;
mod carry;
mod disk;
mod engine;
mod error;
mod format;
mod index;
mod memory;
mod reader;
mod recovery;
mod repair;
mod reserve;
mod scan;
mod segment;
mod set_back;
mod survey;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use backup::{BackupFile, BackupReport, Point, SetBack, TakeFile, backup, set_back};
pub use base::{Base, prepare_base, read_snapshot};
pub use blobs::{Blob, BlobWriter, Blobs, DirBlobs, MemoryBlobs};
pub use carry::write_carried;
pub use disk::{DirDisk, Disk, DiskFile};
pub use engine::{Config, Engine, Urgency};
pub use error::Error;
pub use format::{COMMIT_BYTES_MAX, RECORD_BYTES_MAX, Record, Stored};
pub use memory::MemoryDisk;
pub use reader::{Log, Reader};
pub use recovery::Recovery;
pub use repair::{Repaired, repair};
pub use reserve::Space;
pub use survey::{Cut, Quarantine};
pub use verify::{VerifyReport, verify};
pub use writer::{Clock, Journal, OnProgress, Progress};
