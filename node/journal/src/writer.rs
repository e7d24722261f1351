//! The thread of group commit: many callers append, one thread writes and syncs for all of them.
//!
//! While one commit is being synced, submissions gather in a bounded queue, and the next commit takes all of them: under
//! load the cost of a sync is shared, without load nobody waits. A submission is never split between commits, and
//! submissions keep their order. The first failure ends the thread; nothing is retried.
//!
//! A full disk is no failure: what was submitted waits for room, in its place, so that nobody's numbers change. It goes on
//! once there is room, or something that may use the reserve has been submitted behind it.

use crate::format::{HEADER_BYTES, commit_bytes};
use crate::{Base, Disk, Engine, Error, Record, Space, Urgency};
use jincai_types::{Millis, RecordNumber};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Submissions share a commit up to so many bytes; a larger one has its own.
const SHARED_BYTES: usize = 16 << 20;
/// Most bytes of submissions that wait for the thread; a caller that comes when they are there waits too.
const QUEUE_BYTES: usize = SHARED_BYTES;
/// Most submissions that wait.
const QUEUE_SUBMISSIONS: usize = 4096;
/// After this long without a submission a mark is written.
const IDLE: Duration = Duration::from_secs(1);

/// How far the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every record up to this number is durable.
    pub durable: RecordNumber,
    /// The last record that the newest base covers; 0 without one. A checkpoint that finds no room leaves it as it is.
    pub through: RecordNumber,
    /// How much room is left. What may not use the reserve should not be submitted unless there is plenty.
    pub space: Space,
}

/// What is told after every commit and whenever there is something new: the progress, or why the journal has stopped.
pub type OnProgress = Box<dyn FnMut(Result<Progress, Error>) + Send>;

/// The wall clock, in milliseconds since 1970. It may jump.
pub type Clock = Box<dyn FnMut() -> Millis + Send>;

/// A journal that many threads append to. Dropped without [`Journal::close`], it writes what was submitted and leaves no
/// closing mark, so that the next start is an unclean one.
pub struct Journal {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Journal {
    /// Starts the thread. `on_progress` is called on it after every commit, and once with the error that ends it.
    pub fn start<D: Disk>(engine: Engine<D>, clock: Clock, on_progress: OnProgress) -> Result<Self, Error> {
        let queue = Arc::new(Queue::default());
        let waiting = (Vec::new(), Urgency::Normal);
        let writer = Writer { engine, queue: queue.clone(), clock, on_progress, waiting, told: None };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run())
            .map_err(Error::io("start the thread of", "the journal"))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Submits records, which go into one commit; waits while the queue is full. They are numbered in the order of
    /// submission, and durable once `on_progress` was told a number at or beyond theirs. What the urgency of a submission
    /// permits is permitted to those before it too.
    pub fn append(&self, records: Vec<Record>, urgency: Urgency) -> Result<(), Error> {
        let bytes = commit_bytes(&records)? - HEADER_BYTES;
        self.submit(Submission::Records(records, urgency), bytes)
    }

    /// Submits a base, which takes effect behind everything that was submitted before it and takes no number.
    pub fn checkpoint(&self, base: Base) -> Result<(), Error> {
        self.submit(Submission::Checkpoint(base), 0)
    }

    fn submit(&self, submission: Submission, bytes: usize) -> Result<(), Error> {
        let mut state = self.queue.lock();
        while state.phase == Phase::Open && state.is_full(bytes) {
            state = self.queue.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.phase != Phase::Open {
            return Err(Error::Ended);
        }
        state.bytes += bytes;
        state.submissions.push_back((submission, bytes));
        self.queue.work.notify_one();
        Ok(())
    }

    /// Commits what was submitted, writes the closing mark and ends the thread.
    pub fn close(mut self) -> Result<(), Error> {
        self.end(Phase::Closing)
    }

    fn end(&mut self, phase: Phase) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let mut state = self.queue.lock();
        if state.phase == Phase::Open {
            state.phase = phase;
        }
        drop(state);
        self.queue.work.notify_one();
        thread.join().unwrap_or(Err(Error::Ended))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // A failure was told to `on_progress` when it happened; a drop has nobody else to tell.
        let _told = self.end(Phase::Leaving).is_ok();
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Commit what was submitted, then close the engine.
    Closing,
    /// Commit what was submitted, then leave without a closing mark.
    Leaving,
    /// The thread is gone.
    Ended,
}

enum Submission {
    Records(Vec<Record>, Urgency),
    Checkpoint(Base),
}

impl Submission {
    /// A checkpoint frees room, so it is urgent.
    fn urgency(&self) -> Urgency {
        match self {
            Self::Records(_, urgency) => *urgency,
            Self::Checkpoint(_) => Urgency::Reserve,
        }
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    /// Something was submitted, or the phase changed.
    work: Condvar,
    /// The thread took submissions, or is gone.
    room: Condvar,
}

#[derive(Default)]
struct QueueState {
    submissions: VecDeque<(Submission, usize)>,
    bytes: usize,
    phase: Phase,
}

impl QueueState {
    /// Whether a submission of `bytes` bytes must wait; an empty queue takes any.
    fn is_full(&self, bytes: usize) -> bool {
        let full = self.bytes + bytes > QUEUE_BYTES || self.submissions.len() >= QUEUE_SUBMISSIONS;
        full && !self.submissions.is_empty()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Every change under the lock is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread finds to do.
enum Work {
    Commit,
    Checkpoint(Base),
    Idle,
    End(Phase),
}

struct Writer<D: Disk> {
    engine: Engine<D>,
    queue: Arc<Queue>,
    clock: Clock,
    on_progress: OnProgress,
    /// The commit that is to be written next; it stays here as long as there is no room for it.
    waiting: (Vec<Record>, Urgency),
    told: Option<Progress>,
}

/// Tells waiting callers that the thread is gone, however it went.
struct Farewell(Arc<Queue>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.phase = Phase::Ended;
        state.submissions.clear();
        drop(state);
        self.0.room.notify_all();
    }
}

impl<D: Disk> Writer<D> {
    fn run(mut self) -> Result<(), Error> {
        let _farewell = Farewell(self.queue.clone());
        loop {
            let work = self.wait();
            let now = (self.clock)();
            let done = match work {
                Work::Commit => self.commit(now),
                Work::Checkpoint(base) => self.checkpoint(now, base),
                Work::Idle => self.engine.mark(now),
                Work::End(Phase::Closing) => return self.engine.close(now),
                Work::End(_) => return Ok(()),
            };
            if let Err(error) = done.and_then(|()| self.tell()) {
                (self.on_progress)(Err(error));
                return Err(Error::Poisoned);
            }
        }
    }

    fn commit(&mut self, now: Millis) -> Result<(), Error> {
        match self.engine.append(now, &self.waiting.0, self.waiting.1) {
            Ok(_) => self.waiting = (Vec::new(), Urgency::Normal),
            // Whoever ends the thread wants to know what became of this; everybody else can wait for room.
            Err(Error::Full) if self.queue.lock().phase == Phase::Open => {}
            Err(error) => return Err(error),
        }
        self.engine.sync().map(|_| ())
    }

    fn checkpoint(&mut self, now: Millis, base: Base) -> Result<(), Error> {
        match self.engine.checkpoint(now, base) {
            // Nothing was written: the base before stays, and its owner sees that this one was not taken.
            Err(Error::Full | Error::BlobDamaged { .. }) => Ok(()),
            done => done,
        }
    }

    fn tell(&mut self) -> Result<(), Error> {
        let through = self.engine.reader().base().map_or(0, |base| base.through);
        let space = if self.waiting.0.is_empty() { self.engine.space() } else { self.engine.space().max(Space::Low) };
        let progress = Progress { durable: self.engine.durable(), through, space };
        if self.told.replace(progress) != Some(progress) {
            (self.on_progress)(Ok(progress));
        }
        Ok(())
    }

    /// Waits for submissions and takes as many as one commit holds.
    fn wait(&mut self) -> Work {
        let stuck = !self.waiting.0.is_empty();
        let urgent = self.waiting.1 == Urgency::Reserve;
        let nothing = |state: &mut QueueState| {
            let mut queued = state.submissions.iter().map(|(submission, _)| submission.urgency());
            let news = if stuck { !urgent && queued.any(|u| u == Urgency::Reserve) } else { queued.next().is_some() };
            !news && state.phase == Phase::Open
        };
        let waited = self.queue.work.wait_timeout_while(self.queue.lock(), IDLE, nothing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if stuck {
            let urgencies = state.submissions.iter().map(|(submission, _)| submission.urgency());
            let urgency = urgencies.max().unwrap_or(Urgency::Normal);
            self.waiting.1 = if state.phase == Phase::Open { self.waiting.1.max(urgency) } else { Urgency::Reserve };
            return Work::Commit;
        }
        if let Some((Submission::Checkpoint(base), _)) =
            state.submissions.pop_front_if(|(submission, _)| matches!(submission, Submission::Checkpoint(_)))
        {
            return Work::Checkpoint(base);
        }
        if state.submissions.is_empty() {
            return if state.phase == Phase::Open { Work::Idle } else { Work::End(state.phase) };
        }
        let mut bytes = HEADER_BYTES;
        let fits = |bytes: usize, (submission, size): &(Submission, usize)| {
            matches!(submission, Submission::Records(..)) && (bytes == HEADER_BYTES || bytes + size <= SHARED_BYTES)
        };
        while let Some((Submission::Records(records, urgency), size)) =
            state.submissions.pop_front_if(|s| fits(bytes, s))
        {
            bytes += size;
            state.bytes -= size;
            self.waiting.0.extend(records);
            self.waiting.1 = self.waiting.1.max(urgency);
        }
        drop(state);
        self.queue.room.notify_all();
        Work::Commit
    }
}
