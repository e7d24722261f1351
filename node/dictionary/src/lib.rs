//! The dictionary: code sets that an issuer governs and every node below holds in the same state, provably.
//!
//! A line's codes lie in immutable [`Snapshot`]s whose root depends on the entries alone. The issuer imports CSV files into
//! a draft and releases it; a [`Release`] carries the operations from one root to the next, and a node that applies it
//! writes a snapshot only if that reproduces the root. The [`Dictionary`] room decides on releases that arrive.
//!
//! Pure: no clock, file, socket or random source; bytes are kept by the journal's blobs. Everything from outside (CSV,
//! manifests, parts) is refused with a typed [`Error`] unless it keeps the model's rules and [`limits`].

mod applied;
mod apply;
mod compare;
mod csv;
mod delta;
mod error;
mod import;
mod model;
mod page;
mod release;
mod room;
mod shrink;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;

pub use applied::Applied;
pub use apply::{Step, apply};
pub use compare::{Comparison, Difference, Differences, Move, Summary, compare, differences};
pub use delta::{Operation, PART_BYTES, PARTS};
pub use error::Error;
pub use import::{ImportReport, import, snapshot_of_csv};
pub use model::{Entry, limits};
pub use release::{Body, RELEASE_KIND, Release};
pub use room::{Dictionary, Draft, HeldRelease, LineStatus, Obstacle, ReleaseOrder, Staged};
pub use snapshot::{Snapshot, Written};
