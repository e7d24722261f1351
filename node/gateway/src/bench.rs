//! `jincai bench`: what this machine can do, through the code that production runs.

mod bulk;
mod idle;
mod queue;
mod relay;

pub(crate) use bulk::bulk;
pub(crate) use idle::idle;
pub(crate) use queue::queue;
pub(crate) use relay::{Load, relay};
