//! Standard storage (标准存储): collection specs come down, checked rows come in, partitions go up and are reconciled.
//!
//! Pure: rows are read through a closure, tables change by emitted effects, time is an argument. A partition is one
//! authority's rows of one month from one system. It is always written whole in one journal record, with figures over its
//! rows (count, sums, digest of the canonical rows) that its source signs and its collector computes again, so what
//! arrived is what was sent, or is refused by name.

mod effect;
mod error;
mod model;
mod room;
pub mod rows;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use model::{Part, PartId, PartState, Spec, SpecColumn, Totals, part_name};
pub use room::{ReadRows, ReconcileLine, Staged, Storage, WriteReport};
pub use rows::{Judged, RowRefusal, judge};
