//! Checkpoints: now and then a snapshot of the node's state replaces the journal's oldest segments, so that disk and restart
//! time depend on what the node holds, not on what it has ever seen.
//!
//! The core's thread takes the snapshot; once everything that it covers is durable, a thread of its own writes its files;
//! then the journal's thread makes it the base. Nothing waits for any of this.

use crate::error::Error;
use jincai_core::{Core, Snapshot};
use jincai_journal::{Base, Blobs, Journal, Reader, Record, prepare_base};
use jincai_types::RecordNumber;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What a record costs in the journal besides its payload, in bytes.
const RECORD_BYTES: u64 = 28;
/// When room is short, a checkpoint comes after so many bytes.
const SHORT_BYTES: u64 = 1 << 20;

/// Where the next checkpoint stands.
pub(crate) struct Checkpoints {
    blobs: Arc<dyn Blobs>,
    /// A checkpoint comes after so many bytes of records.
    every: u64,
    grown: u64,
    phase: Phase,
}

enum Phase {
    Idle,
    /// Until what the snapshot covers is durable.
    Taken(Snapshot),
    Writing(JoinHandle<Result<Base, jincai_journal::Error>>),
    /// Until the journal has passed this record: then it has taken the base, or had no room for it.
    Submitted(Base, RecordNumber),
}

impl Checkpoints {
    /// At a start the segments in the journal's directory hold what no snapshot has replaced yet, and one is new and empty.
    pub(crate) fn new(blobs: Arc<dyn Blobs>, journal: &Path, every: u64) -> Result<Self, Error> {
        let wrong = |source| Error::File { path: journal.to_owned(), source };
        let (mut grown, mut newest) = (0, 0);
        for entry in std::fs::read_dir(journal).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            if entry.path().extension().is_some_and(|extension| extension == "segment") {
                let length = entry.metadata().map_err(wrong)?.len();
                (grown, newest) = (grown + length, length.max(newest));
            }
        }
        Ok(Self { blobs, every, grown: grown - newest, phase: Phase::Idle })
    }

    /// Records were handed to the journal.
    pub(crate) fn grew(&mut self, records: &[Record]) {
        self.grown += records.iter().map(|record| record.payload.len() as u64 + RECORD_BYTES).sum::<u64>();
    }

    /// Goes on, at the end of a turn. `through` is the last record that the journal's base covers.
    pub(crate) fn go_on(
        &mut self,
        core: &Core,
        (log, journal): (&Reader, &Journal),
        through: RecordNumber,
    ) -> Result<(), Error> {
        let wanted = if core.exchange().is_full() { self.every.min(SHORT_BYTES) } else { self.every };
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle if self.grown >= wanted => {
                self.grown = 0;
                Phase::Taken(core.snapshot())
            }
            Phase::Taken(snapshot) if snapshot.through <= core.durable() => self.write(snapshot, log.clone())?,
            Phase::Writing(thread) if thread.is_finished() => match thread.join() {
                Ok(Ok(base)) => {
                    journal.checkpoint(base.clone())?;
                    // What was handed over before it lies before it in the journal too.
                    Phase::Submitted(base, core.staged())
                }
                Ok(Err(error)) => {
                    tracing::error!(code = error.code(), %error, "a snapshot could not be written; the journal keeps its segments");
                    Phase::Idle
                }
                Err(_) => return Err(Error::Stopped("the thread of a checkpoint panicked; see the log".into())),
            },
            Phase::Submitted(base, _) if through >= base.through => {
                tracing::info!(through = base.through, "a snapshot has replaced the journal up to there");
                Phase::Idle
            }
            Phase::Submitted(base, after) if core.durable() > after => {
                tracing::warn!(through = base.through, "the journal has not taken a snapshot; the next one follows");
                self.discard(&base, log);
                Phase::Idle
            }
            phase => phase,
        };
        Ok(())
    }

    fn write(&self, snapshot: Snapshot, log: Reader) -> Result<Phase, Error> {
        let blobs = Arc::clone(&self.blobs);
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
            let Snapshot { through, state, live, .. } = snapshot;
            prepare_base(&log, &*blobs, through, &state, &live)
        });
        thread.map(Phase::Writing).map_err(|source| Error::System { what: "the thread of a checkpoint", source })
    }

    /// Waits until nothing of it reads or writes any more. A base that is not handed over is forgotten with the run.
    pub(crate) fn end(&mut self, log: &Reader) {
        if let Phase::Writing(thread) = std::mem::replace(&mut self.phase, Phase::Idle)
            && let Ok(Ok(base)) = thread.join()
        {
            self.discard(&base, log);
        }
    }

    /// Removes the files of a base that the journal had no room for, but for those that the base before names too.
    fn discard(&self, base: &Base, log: &Reader) {
        let kept = log.base().map(|base| base.files()).unwrap_or_default();
        for file in base.files().difference(&kept) {
            if let Err(error) = self.blobs.remove(file) {
                tracing::warn!(code = error.code(), %error, "a file that nothing needs could not be removed");
            }
        }
    }
}
