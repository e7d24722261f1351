//! A node whose journal is in quarantine: it answers reads of the state before the damage, and takes nothing.
//!
//! It has no links. What lies behind the damage was acknowledged, and is not known: whatever this node told a neighbour now
//! might contradict it.

use crate::clock;
use crate::error::Error;
use crate::input::Input;
use jincai_core::Core;
use jincai_journal::Reader;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// The core, only to be looked at.
pub(crate) struct ReadOnly {
    pub(crate) core: Core,
    pub(crate) log: Reader,
    pub(crate) progress: Arc<AtomicU64>,
}

impl ReadOnly {
    /// Answers calls until told to stop. The core refuses those that would change something.
    pub(crate) fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), Error> {
        loop {
            match inputs.blocking_recv() {
                None | Some(Input::Stop) => return Ok(()),
                Some(Input::Calls(calls)) => {
                    calls.into_iter().for_each(|call| (call.run)(&mut self.core, clock::now(), &self.log)());
                }
                Some(Input::Event(_) | Input::Watch(_) | Input::Wake) => {}
            }
            self.progress.store(clock::now(), Ordering::Relaxed);
        }
    }
}
