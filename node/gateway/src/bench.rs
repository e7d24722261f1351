//! `jincai bench`: what this machine can do, through the code that production runs.

mod idle;
mod links;
mod queue;
mod relay;

pub(crate) use idle::idle;
pub(crate) use links::links;
pub(crate) use queue::queue;
pub(crate) use relay::{Load, relay};
