//! The core's thread: takes events and calls from one bounded queue, drives the sans-IO core, hands its records to the
//! journal's writer, and carries out what became durable.
//!
//! The durable position comes from the journal's thread through an atomic number, never through the queue, so that neither
//! thread can wait for the other.

use crate::checkpoint::Checkpoints;
use crate::clock;
use crate::error::Error;
use crate::input::{Input, Watch};
use crate::links::Links;
use crate::pulse::Pulse;
use jincai_core::{Action, Core, Event, Turn};
use jincai_exchange::Notice;
use jincai_journal::{Journal, OnProgress, Reader, Space, Urgency};
use jincai_tables::Tables;
use jincai_types::{Millis, RecordNumber};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::mpsc;

/// A turn ends after so many inputs, or so many bytes of records and messages, at the latest.
const TURN_INPUTS: usize = 512;
const TURN_BYTES: usize = 4 << 20;

/// What the journal's thread, the watch over the disk and the core's thread share.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    number: AtomicU64,
    /// The last record that the journal's base covers.
    through: AtomicU64,
    /// The journal's reserve is not whole.
    short: AtomicBool,
    /// The disk has less room than the configuration wants kept free.
    pub(crate) scarce: AtomicBool,
    failed: AtomicBool,
}

impl Durable {
    /// The journal's callback.
    pub(crate) fn callback(self: Arc<Self>, wake: mpsc::Sender<Input>) -> OnProgress {
        Box::new(move |progress| {
            match progress {
                Ok(progress) => {
                    self.short.store(progress.space != Space::Plenty, Ordering::Release);
                    self.through.store(progress.through, Ordering::Release);
                    self.number.store(progress.durable, Ordering::Release);
                }
                Err(error) => {
                    self.failed.store(true, Ordering::Release);
                    tracing::error!(code = error.code(), %error, "the journal failed; the node stops");
                }
            }
            // A full queue means that the core is awake and will look by itself.
            drop(wake.try_send(Input::Wake));
        })
    }

    fn is_full(&self) -> bool {
        self.short.load(Ordering::Acquire) || self.scarce.load(Ordering::Acquire)
    }
}

type Release = Box<dyn FnOnce() + Send>;

/// The core and everything that its thread owns.
pub(crate) struct Shell {
    pub(crate) core: Core,
    pub(crate) log: Reader,
    pub(crate) journal: Journal,
    pub(crate) durable: Arc<Durable>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) tables: Arc<Tables>,
    pub(crate) links: Links,
    pub(crate) progress: Arc<AtomicU64>,
    pub(crate) pulse: Arc<Pulse>,
    /// Answers that wait for a record to be durable.
    pub(crate) waiting: VecDeque<(RecordNumber, Release)>,
    /// Answers whose messages are not in a record yet.
    pub(crate) unsealed: Vec<Release>,
    pub(crate) watches: Vec<Watch>,
}

impl Shell {
    /// Runs until told to stop, or until the node must stop.
    pub(crate) fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), Error> {
        let mut stop = false;
        while !stop {
            let Some(first) = inputs.blocking_recv() else { break };
            let tick = matches!(first, Input::Event(Event::Tick));
            if !tick {
                self.pulse.stir();
            }
            stop = self.take(first)?;
            let quiet = tick && inputs.is_empty() && !self.core.has_output() && self.waiting.is_empty();
            for _ in 0..TURN_INPUTS {
                if stop || self.core.unwritten_bytes() > TURN_BYTES {
                    break;
                }
                match inputs.try_recv() {
                    Ok(input) => stop = self.take(input)?,
                    Err(_) => break,
                }
            }
            self.end_turn()?;
            if quiet {
                // What comes from now on stirs it again.
                let now = clock::now();
                self.pulse.rest_until(self.core.next_wake(now).unwrap_or(Millis::MAX));
            }
        }
        self.finish()
    }

    fn take(&mut self, input: Input) -> Result<bool, Error> {
        let now = clock::now();
        self.progress.store(now, Ordering::Relaxed);
        match input {
            Input::Event(event) => self.step(event)?,
            Input::Calls(calls) => {
                for call in calls {
                    let release = (call.run)(&mut self.core, now, &self.log);
                    if self.core.has_unsealed() {
                        self.unsealed.push(release);
                    } else {
                        self.waiting.push_back((self.core.staged(), release));
                    }
                    if self.core.unwritten_bytes() > TURN_BYTES {
                        self.end_turn()?;
                    }
                }
            }
            Input::Watch(watch) => self.watches.push(watch),
            Input::Wake => {}
            Input::Stop => return Ok(true),
        }
        Ok(false)
    }

    fn step(&mut self, event: Event) -> Result<(), Error> {
        match self.core.step(clock::now(), event, &self.log) {
            Ok(()) => Ok(()),
            Err(error) if error.is_fatal() => Err(Error::Stopped(error.to_string())),
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "an event was refused");
                Ok(())
            }
        }
    }

    fn end_turn(&mut self) -> Result<(), Error> {
        if self.durable.failed.load(Ordering::Acquire) {
            return Err(Error::Stopped("the journal cannot be written; see the log".into()));
        }
        let durable = self.durable.number.load(Ordering::Acquire);
        if durable > self.core.durable() {
            self.step(Event::Durable(durable))?;
        }
        let full = self.durable.is_full();
        if full && !self.core.exchange().is_full() {
            // What was taken before is owed an answer: the reserve is there for it too.
            self.journal.append(Vec::new(), Urgency::Reserve)?;
        }
        self.core.set_full(full, clock::now(), &self.log);
        let mut turn = self.core.turn(clock::now(), &self.log)?;
        let records = std::mem::take(&mut turn.records);
        if !records.is_empty() {
            self.checkpoints.grew(&records);
            // A full node takes nothing new, so that whatever it still writes drains it.
            self.journal.append(records, if full { Urgency::Reserve } else { Urgency::Normal })?;
        }
        let through = self.durable.through.load(Ordering::Acquire);
        self.checkpoints.go_on(&self.core, (&self.log, &self.journal), through)?;
        if !self.core.has_unsealed() {
            let staged = self.core.staged();
            self.waiting.extend(self.unsealed.drain(..).map(|release| (staged, release)));
        }
        carry_out(turn, &self.tables, &self.links);
        let durable = self.core.durable();
        while self.waiting.front().is_some_and(|(after, _)| *after <= durable) {
            if let Some((_, release)) = self.waiting.pop_front() {
                release();
            }
        }
        self.watches.iter_mut().for_each(|watch| watch(&self.core));
        Ok(())
    }

    /// Appends what is left, syncs, and writes the closing mark; answers that waited for it go out.
    fn finish(mut self) -> Result<(), Error> {
        self.end_turn()?;
        while self.core.has_unsealed() {
            // Messages gather while a commit is in flight; the next turn after it seals them.
            std::thread::yield_now();
            self.end_turn()?;
        }
        self.checkpoints.end(&self.log);
        self.journal.close()?;
        self.waiting.into_iter().for_each(|(_, release)| release());
        Ok(())
    }
}

/// Logs the notices of a turn and carries its actions out.
pub(crate) fn carry_out(turn: Turn, tables: &Tables, links: &Links) {
    turn.notices.iter().for_each(tell);
    for action in turn.actions {
        match action {
            Action::Send(send) => links.send(send),
            Action::Table(effect) => {
                if let Err(error) = tables.apply(effect) {
                    tracing::error!(code = error.code(), %error, "a table could not be changed");
                }
            }
        }
    }
}

fn tell(notice: &Notice) {
    if notice.alarm {
        tracing::error!(code = notice.code, "{}", notice.text);
    } else {
        tracing::info!(code = notice.code, "{}", notice.text);
    }
}
