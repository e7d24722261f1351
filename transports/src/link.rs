//! The handle to one neighbour: a bounded queue a priority class between the gateway and the wire's driver.
//!
//! Queues never outlive a connection: going down empties them, so that nothing said to one connection reaches the next.
//! A class takes at most [`QUEUE_FRAMES`] frames and [`QUEUE_BYTES`] bytes; a full queue refuses or makes the sender
//! wait, as the sender chooses, and a full class never holds up another.

use crate::{Error, Meter, Trouble, WireBytes};
use bytes::Bytes;
use jincai_types::{AuthorityId, Priority, limits};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Most frames that wait in one class.
pub const QUEUE_FRAMES: usize = 64;
/// Most bytes that wait in one class.
pub const QUEUE_BYTES: usize = 4 << 20;

/// The handle to one neighbour. Dropping it sends what is queued, for at most two seconds, and closes the link.
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The neighbour.
    #[must_use]
    pub fn peer(&self) -> AuthorityId {
        self.shared.peer
    }

    /// Whether frames can be sent.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.shared.up.borrow()
    }

    /// What keeps the link from working, as it changes; `None` while all is well.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.shared.trouble.subscribe()
    }

    /// Bytes that the present connection has moved; `None` without one, or where the wire does not count them.
    #[must_use]
    pub fn wire_bytes(&self) -> Option<WireBytes> {
        self.shared.meter().as_ref().map(|meter| meter())
    }

    /// Queues a frame, or says why not: [`Error::Full`], [`Error::Down`], [`Error::Closed`], [`Error::FrameSize`].
    pub fn try_send(&self, class: Priority, frame: Bytes) -> Result<(), Error> {
        let generation = self.shared.state().generation;
        self.shared.push(class, &frame, generation)
    }

    /// Queues a frame once there is room for it; [`Error::Down`] if the link goes down meanwhile.
    pub async fn send(&self, class: Priority, frame: Bytes) -> Result<(), Error> {
        let generation = self.shared.state().generation;
        loop {
            let mut freed = std::pin::pin!(self.shared.room[class.index()].notified());
            // Registered before the attempt, so that room made in between is not missed.
            freed.as_mut().enable();
            match self.shared.push(class, &frame, generation) {
                Err(Error::Full { .. }) => freed.await,
                done => return done,
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer()).field("up", &self.is_up()).finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is taken.
    Down,
    /// Frames are taken.
    Up,
    /// This node closes the link: what is queued still goes out.
    Draining,
}

struct State {
    phase: Phase,
    /// Counts connections, so that who waited through a reconnect does not speak to the new one.
    generation: u64,
    queues: [VecDeque<Bytes>; 4],
    bytes: [usize; 4],
}

/// What handle and driver of one neighbour share.
pub(crate) struct Shared {
    peer: AuthorityId,
    state: Mutex<State>,
    meter: Mutex<Option<Meter>>,
    /// Something to send. One driver task waits for each class.
    ready: [Notify; 4],
    /// Room in a queue, or the end of its connection. Any number of senders wait.
    room: [Notify; 4],
    up: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    trouble: watch::Sender<Option<Trouble>>,
}

impl Shared {
    pub(crate) fn new(peer: AuthorityId) -> Arc<Self> {
        let state = State { phase: Phase::Down, generation: 0, queues: Default::default(), bytes: [0; 4] };
        Arc::new(Self {
            peer,
            state: Mutex::new(state),
            meter: Mutex::new(None),
            ready: Default::default(),
            room: Default::default(),
            up: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            trouble: watch::Sender::new(None),
        })
    }

    pub(crate) fn peer(&self) -> AuthorityId {
        self.peer
    }

    /// The guarded sections below only move values, so a poisoned lock still guards a sound state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meter(&self) -> MutexGuard<'_, Option<Meter>> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, class: Priority, frame: &Bytes, generation: u64) -> Result<(), Error> {
        let (at, peer) = (class.index(), self.peer);
        if frame.is_empty() || frame.len() > limits::FRAME_BYTES {
            return Err(Error::FrameSize { size: frame.len() as u64 });
        }
        let mut state = self.state();
        match state.phase {
            Phase::Draining => return Err(Error::Closed { peer }),
            _ if *self.stopping.borrow() => return Err(Error::Closed { peer }),
            Phase::Down => return Err(Error::Down { peer }),
            Phase::Up if state.generation != generation => return Err(Error::Down { peer }),
            Phase::Up => {}
        }
        if state.queues[at].len() >= QUEUE_FRAMES || state.bytes[at] + frame.len() > QUEUE_BYTES {
            return Err(Error::Full { peer, class });
        }
        state.bytes[at] += frame.len();
        state.queues[at].push_back(frame.clone());
        drop(state);
        self.ready[at].notify_one();
        Ok(())
    }

    /// Takes the next frames of a class, at least one and not many more bytes than `gather`; waits for them. `None` once
    /// the link drains and the queue is empty.
    pub(crate) async fn next(&self, class: Priority, gather: usize) -> Option<Vec<Bytes>> {
        let at = class.index();
        loop {
            let (frames, draining) = {
                let mut state = self.state();
                let mut frames = Vec::new();
                let mut taken = 0;
                while taken < gather {
                    let Some(frame) = state.queues[at].pop_front() else { break };
                    taken += frame.len();
                    frames.push(frame);
                }
                state.bytes[at] -= taken;
                (frames, state.phase == Phase::Draining)
            };
            if !frames.is_empty() {
                self.room[at].notify_waiters();
                return Some(frames);
            }
            if draining {
                return None;
            }
            self.ready[at].notified().await;
        }
    }

    /// A connection is there: frames are taken.
    pub(crate) fn raise(&self, meter: Option<Meter>) {
        *self.meter() = meter;
        let mut state = self.state();
        state.generation += 1;
        state.phase = Phase::Up;
        drop(state);
        self.trouble.send_replace(None);
        self.up.send_replace(true);
    }

    /// The connection is gone, and with it what was queued.
    pub(crate) fn lower(&self, why: &Error) {
        let mut state = self.state();
        state.phase = Phase::Down;
        state.queues = Default::default();
        state.bytes = [0; 4];
        drop(state);
        self.room.iter().for_each(Notify::notify_waiters);
        *self.meter() = None;
        self.note(why);
        self.up.send_replace(false);
    }

    /// Remembers what is wrong; logs it once for each change, so that a neighbour that is away for days costs one line.
    pub(crate) fn note(&self, error: &Error) {
        let trouble = Trouble::from(error);
        let fresh = self.trouble.send_if_modified(|known| {
            let fresh = known.as_ref() != Some(&trouble);
            *known = Some(trouble.clone());
            fresh
        });
        if fresh && !matches!(error, Error::Closed { .. }) {
            tracing::warn!(peer = %self.peer, code = trouble.code, error = trouble.text, "a link is in trouble");
        }
    }

    /// Nothing is wrong any more.
    pub(crate) fn clear(&self) {
        self.trouble.send_if_modified(|known| known.take().is_some());
    }

    /// This node closes the link.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until this node closes the link.
    pub(crate) async fn stopped(&self) {
        wait(&self.stopping, true).await;
    }

    /// Waits while there is a connection.
    pub(crate) async fn down(&self) {
        wait(&self.up, false).await;
    }

    /// No more frames are taken; who waits for one is told when the queue is empty.
    pub(crate) fn drain(&self) {
        self.state().phase = Phase::Draining;
        self.room.iter().for_each(Notify::notify_waiters);
        self.ready.iter().for_each(Notify::notify_one);
    }
}

async fn wait(state: &watch::Sender<bool>, wanted: bool) {
    // The sender is borrowed from `Shared`, so the channel cannot close while somebody waits.
    if state.subscribe().wait_for(|now| *now == wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn link() -> Link {
        Link::new(Shared::new(AuthorityId::MINISTRY))
    }

    fn frame(size: usize) -> Bytes {
        vec![1; size].into()
    }

    #[test]
    fn a_link_that_is_down_or_closed_takes_nothing() {
        let link = link();
        assert!(matches!(link.try_send(Priority::Control, frame(1)), Err(Error::Down { .. })));
        link.shared.raise(None);
        assert!(link.try_send(Priority::Control, frame(1)).is_ok());
        link.shared.stop();
        assert!(matches!(link.try_send(Priority::Control, frame(1)), Err(Error::Closed { .. })));
    }

    #[test]
    fn a_class_is_bounded_by_frames_and_by_bytes_and_fills_alone() {
        let link = link();
        link.shared.raise(None);
        for _ in 0..QUEUE_FRAMES {
            link.try_send(Priority::Control, frame(1)).expect("room");
        }
        assert!(matches!(link.try_send(Priority::Control, frame(1)), Err(Error::Full { .. })));
        for _ in 0..4 {
            link.try_send(Priority::Bulk, frame(1 << 20)).expect("room");
        }
        assert!(matches!(link.try_send(Priority::Bulk, frame(1)), Err(Error::Full { .. })));
        assert!(link.try_send(Priority::Record, frame(1)).is_ok());
        for size in [0, limits::FRAME_BYTES + 1] {
            assert!(matches!(link.try_send(Priority::Record, frame(size)), Err(Error::FrameSize { .. })));
        }
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_or_hears_that_the_link_went_down() {
        let link = link();
        link.shared.raise(None);
        let fill = || {
            while link.try_send(Priority::Record, frame(1)).is_ok() {}
        };
        fill();
        let limit = Duration::from_secs(10);
        let (sent, taken) = timeout(limit, async {
            tokio::join!(link.send(Priority::Record, frame(2)), link.shared.next(Priority::Record, 9))
        })
        .await
        .expect("room is made");
        assert!(sent.is_ok());
        assert_eq!(taken.map(|frames| frames.len()), Some(9));

        fill();
        let reconnect = async {
            link.shared.lower(&Error::Replaced);
            link.shared.raise(None);
        };
        let (sent, ()) = timeout(limit, async { tokio::join!(link.send(Priority::Record, frame(2)), reconnect) })
            .await
            .expect("it is told");
        assert!(matches!(sent, Err(Error::Down { .. })), "{sent:?}");
        assert!(
            timeout(limit, async { link.shared.state().queues.iter().all(VecDeque::is_empty) }).await.expect("now")
        );
    }

    #[tokio::test]
    async fn draining_gives_out_the_rest_and_then_the_end() {
        let link = link();
        link.shared.raise(None);
        link.try_send(Priority::Bulk, frame(3)).expect("room");
        link.shared.drain();
        assert_eq!(link.shared.next(Priority::Bulk, 100).await, Some(vec![frame(3)]));
        assert_eq!(link.shared.next(Priority::Bulk, 100).await, None);
        assert_eq!(link.shared.next(Priority::Control, 100).await, None);
    }
}
