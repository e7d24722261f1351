//! The thread of group commit: many callers append, one thread writes and syncs for all of them.
//!
//! While one commit is being synced, submissions gather in a bounded queue, and the next commit takes all of them: under
//! load the cost of a sync is shared, without load nobody waits. A submission is never split between commits, and
//! submissions keep their order. The first failure ends the thread; nothing is retried.

use crate::format::{COMMIT_BYTES_MAX, HEADER_BYTES, commit_bytes};
use crate::{Disk, Engine, Error, Record};
use jincai_types::RecordNumber;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most bytes of submissions that wait for the thread; a caller that comes when they are there waits too.
const QUEUE_BYTES: usize = COMMIT_BYTES_MAX;
/// Most submissions that wait.
const QUEUE_SUBMISSIONS: usize = 4096;
/// After this long without a submission a mark is written.
const IDLE: Duration = Duration::from_secs(1);

/// What is told after every commit: the last durable record, or why the journal has stopped.
type OnDurable = Box<dyn FnMut(Result<RecordNumber, Error>) + Send>;

/// A journal that many threads append to. Dropped without [`Journal::close`], it writes what was submitted and leaves no
/// closing mark, so that the next start is an unclean one.
pub struct Journal {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Journal {
    /// Starts the thread. `on_durable` is called on it after every commit, and once with the error that ends it.
    pub fn start<D: Disk>(engine: Engine<D>, on_durable: OnDurable) -> Result<Self, Error> {
        let queue = Arc::new(Queue::default());
        let writer = Writer { engine, queue: queue.clone(), on_durable };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run())
            .map_err(Error::io("start the thread of", "the journal"))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Submits records, which go into one commit; waits while the queue is full. They are numbered in the order of
    /// submission, and durable once `on_durable` was told a number at or beyond theirs.
    pub fn append(&self, records: Vec<Record>) -> Result<(), Error> {
        let bytes = commit_bytes(&records)? - HEADER_BYTES;
        let mut state = self.queue.lock();
        while state.phase == Phase::Open && state.is_full(bytes) {
            state = self.queue.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.phase != Phase::Open {
            return Err(Error::Ended);
        }
        state.bytes += bytes;
        state.submissions.push_back((records, bytes));
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
        // A failure was told to `on_durable` when it happened; a drop has nobody else to tell.
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
    submissions: VecDeque<(Vec<Record>, usize)>,
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
    Commit(Vec<Record>),
    Idle,
    End(Phase),
}

struct Writer<D: Disk> {
    engine: Engine<D>,
    queue: Arc<Queue>,
    on_durable: OnDurable,
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
            let done = match self.wait() {
                Work::Commit(records) => self.commit(&records),
                Work::Idle => self.engine.mark(),
                Work::End(Phase::Closing) => return self.engine.close(),
                Work::End(_) => return Ok(()),
            };
            if let Err(error) = done {
                (self.on_durable)(Err(error));
                return Err(Error::Poisoned);
            }
        }
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), Error> {
        self.engine.append(records)?;
        let durable = self.engine.sync()?;
        (self.on_durable)(Ok(durable));
        Ok(())
    }

    /// Waits for submissions and takes as many as one commit holds.
    fn wait(&self) -> Work {
        let nothing = |state: &mut QueueState| state.submissions.is_empty() && state.phase == Phase::Open;
        let waited = self.queue.work.wait_timeout_while(self.queue.lock(), IDLE, nothing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.submissions.is_empty() {
            return if state.phase == Phase::Open { Work::Idle } else { Work::End(state.phase) };
        }
        let (mut bytes, mut commit) = (HEADER_BYTES, Vec::new());
        while let Some((records, size)) = state.submissions.pop_front_if(|(_, size)| bytes + *size <= COMMIT_BYTES_MAX)
        {
            bytes += size;
            state.bytes -= size;
            commit.extend(records);
        }
        drop(state);
        self.queue.room.notify_all();
        Work::Commit(commit)
    }
}
