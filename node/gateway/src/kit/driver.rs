//! A production core over a journal on any disk, driven in one thread: what it decides is durable before anything leaves.

use crate::clock;
use crate::error::Error;
use jincai_core::{Action, Core, Event};
use jincai_crypto::{Entropy, SystemEntropy};
use jincai_exchange::{Frame, Opening, Payload, Setup, read_batch};
use jincai_journal::{Blobs, Config, Disk, Engine, Reader, Urgency};
use jincai_types::Priority;
use std::sync::Arc;

/// A frame that it sends.
pub(super) struct Outbound {
    pub(super) class: Priority,
    pub(super) bytes: Vec<u8>,
}

/// See the module's head.
pub(super) struct Driver<D: Disk> {
    core: Core,
    engine: Engine<D>,
    log: Reader,
}

impl<D: Disk> Driver<D> {
    /// Recovers the journal and opens the core over it.
    pub(super) fn open(disk: D, blobs: Arc<dyn Blobs>, setup: Setup) -> Result<Self, Error> {
        let salt = SystemEntropy::default().number()?;
        let config = Config { segment_bytes: 1 << 20, cache_bytes: 1 << 20, salt, ..Config::default() };
        let (engine, recovery) = Engine::open(disk, Arc::clone(&blobs), config)?;
        let log = engine.reader();
        let opening = if recovery.clean { Opening::Clean } else { Opening::Unclean };
        let core = Core::open(setup, blobs, opening, None, clock::now(), &log)?;
        Ok(Self { core, engine, log })
    }

    /// The core, for reports and for what callers submit.
    pub(super) fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// The journal.
    pub(super) fn log(&self) -> &Reader {
        &self.log
    }

    /// Takes an event; an error that is not fatal is a refusal.
    pub(super) fn step(&mut self, event: Event) -> Result<(), jincai_core::Error> {
        self.core.step(clock::now(), event, &self.log)
    }

    /// Makes durable what was decided, and gives out what may leave.
    pub(super) fn turn(&mut self) -> Result<Vec<Outbound>, Error> {
        let mut outbound = Vec::new();
        loop {
            let turn = self.core.turn(clock::now(), &self.log)?;
            for action in turn.actions {
                // A node of the kit has no tables that could change.
                let Action::Send(send) = action else { continue };
                let bytes = match send.what {
                    Payload::Frame(bytes) => bytes,
                    Payload::Batch { record, hop, .. } => {
                        let batch = read_batch(&self.log, record).map_err(jincai_core::Error::from)?;
                        Frame::batch_bytes(&hop, &batch)
                    }
                };
                outbound.push(Outbound { class: send.class, bytes });
            }
            if turn.records.is_empty() {
                return Ok(outbound);
            }
            self.engine.append(clock::now(), &turn.records, Urgency::Normal)?;
            let durable = self.engine.sync()?;
            self.step(Event::Durable(durable))?;
        }
    }
}
