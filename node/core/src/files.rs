//! Files at a node: what the keeper of its store is to do, and what follows from what it has done.

use crate::{Core, Error};
use jincai_exchange::Room;
use jincai_files::{FileKey, Job, Mood, Report, Staged, Submission};
use jincai_journal::Log;
use jincai_types::{AuthorityId, Destination, Millis, Priority};

impl Core {
    /// Sets for how long delivered files are kept here.
    pub fn keep_files(&mut self, keep: Millis) {
        self.keep_files = keep;
    }

    /// Refuses what could not be sent there now anyway.
    pub fn check_file_destination(&self, to: AuthorityId) -> Result<(), Error> {
        self.check_open()?;
        Ok(self.exchange.admit(Destination::Authority(to), Priority::Record)?)
    }

    /// Offers a file, whose content is in the store, to somebody; `false` if that was done before under this id.
    pub fn submit_file(&mut self, now: Millis, log: &dyn Log, submission: Submission) -> Result<bool, Error> {
        self.check_open()?;
        let to = submission.to;
        let Some(staged) = self.rooms.files.submit(now, submission)? else { return Ok(false) };
        self.exchange.admit(Destination::Authority(to), Priority::Record)?;
        self.stage_file(now, log, staged)?;
        Ok(true)
    }

    /// Gives a transfer up, or forgets one that is over.
    pub fn give_up_file(&mut self, now: Millis, log: &dyn Log, key: &FileKey) -> Result<(), Error> {
        self.check_open()?;
        let staged = self.rooms.files.give_up(now, key)?;
        self.stage_file(now, log, staged)
    }

    /// What there is to do for files that come to here. All of it is durable by the time at which a caller gets its answer.
    #[must_use]
    pub fn receiving_jobs(&self, mood: Mood) -> Vec<Job> {
        if self.read_only {
            return Vec::new();
        }
        let mut jobs = self.rooms.files.receiving_jobs(mood);
        let (full, behind) = (self.exchange.is_full(), self.exchange.is_catching_up());
        // A full node drains itself, and begins nothing.
        jobs.retain(|job| !(full || behind) || matches!(job, Job::Write { .. } | Job::Finish { .. }));
        jobs
    }

    /// What there is to do for files that go from here.
    #[must_use]
    pub fn sending_jobs(&self, after: Option<&FileKey>, mood: Mood) -> Vec<Job> {
        if self.read_only || self.exchange.is_full() || self.exchange.is_catching_up() {
            return Vec::new();
        }
        let may = |to| self.exchange.admit(Destination::Authority(to), Priority::Bulk).is_ok();
        self.rooms.files.sending_jobs(after, mood, &may)
    }

    /// The keeper has done something. What cannot be sent now is wanted still, and tried again.
    pub fn file_report(&mut self, now: Millis, log: &dyn Log, report: Report) -> Result<(), Error> {
        self.check_whole()?;
        let key = report.key().clone();
        if let Some(staged) = self.rooms.files.report(now, report) {
            self.stage_or_wait(now, log, (&key, staged))?;
        }
        self.drive_files(now, log, false)
    }

    /// Asks for what there is room for, and forgets what was kept for long enough. `behind`: this node was catching up after
    /// a restore before this step.
    pub(crate) fn drive_files(&mut self, now: Millis, log: &dyn Log, behind: bool) -> Result<(), Error> {
        if self.check_open().is_err() {
            return Ok(());
        }
        if behind {
            for (key, staged) in self.rooms.files.after_restore(now) {
                self.stage_or_wait(now, log, (&key, staged))?;
            }
        }
        for (key, staged) in self.rooms.files.retaken(now) {
            self.stage_or_wait(now, log, (&key, staged))?;
        }
        for (key, staged) in self.rooms.files.next_wants(now) {
            self.stage_or_wait(now, log, (&key, staged))?;
        }
        while let Some(staged) = self.rooms.files.next_expired(now, self.keep_files) {
            self.stage_file(now, log, staged)?;
        }
        Ok(())
    }

    pub(crate) fn next_file_wake(&self, now: Millis) -> Option<Millis> {
        if self.check_open().is_err() {
            return None;
        }
        let wants = (self.rooms.files.has_wants() || self.rooms.files.has_retaken()).then_some(now);
        wants.into_iter().chain(self.rooms.files.next_expiry(self.keep_files)).min()
    }

    /// What the exchange does not take now (a destination without a card, too much that waits) is for later.
    fn stage_or_wait(&mut self, now: Millis, log: &dyn Log, (key, staged): (&FileKey, Staged)) -> Result<(), Error> {
        match self.stage_file(now, log, staged) {
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                let (code, text) = (error.code(), error.to_string());
                let error = jincai_files::Error::Elsewhere { code, text };
                drop(self.rooms.files.report(now, Report::Waits { key: key.clone(), error }));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn stage_file(&mut self, now: Millis, log: &dyn Log, staged: Staged) -> Result<(), Error> {
        let room = self.rooms.files.prefix();
        self.command(now, log, room, staged.effect, staged.messages)
    }
}
