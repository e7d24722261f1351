//! `jincai bench`: what this machine can do, through the code that production runs.

mod bulk;
mod idle;
mod line;
mod links;
mod priorities;
mod queue;
mod relay;

use crate::error::Error;
pub(crate) use bulk::bulk;
pub(crate) use idle::idle;
pub(crate) use links::links;
pub(crate) use priorities::priorities;
pub(crate) use queue::queue;
pub(crate) use relay::{Load, relay};
use std::time::Duration;

/// The node in this process has ended.
fn gone() -> Error {
    Error::Stopped("the core is gone".into())
}

/// The latency in milliseconds that this share of them does not exceed; they are sorted.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}
