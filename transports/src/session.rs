//! The driver of sessions: one task a neighbour that owns the order of its events.
//!
//! Connections come in from the wire one after the other; a newer one replaces the older, which may be half-open. The
//! driver reports up, moves frames both ways, and reports down only when no reader of that connection is left, so that
//! no frame of an old connection follows its end.

use crate::link::Shared;
use crate::wire::{GATHER_BYTES, read_frame, write_frames};
use crate::{Error, Events, Link, LinkEvent, Session, Shape};
use bytes::BytesMut;
use jincai_types::{AuthorityId, Priority};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a link that this node closes may go on sending what is queued.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// Starts the driver of one neighbour on the current tokio runtime. The wire hands over each connection that it has
/// verified to be the neighbour's; the link ends with the handle.
#[must_use]
pub fn session_link<S: Session>(peer: AuthorityId, arrivals: mpsc::Receiver<S>, events: Events) -> Link {
    let shared = Shared::new(peer);
    tokio::spawn(keep(Arc::clone(&shared), arrivals, events));
    Link::new(shared)
}

/// Runs one connection after the other until the link is closed or nobody listens to its events.
pub(crate) async fn keep<S: Session>(shared: Arc<Shared>, mut arrivals: mpsc::Receiver<S>, events: Events) {
    let peer = shared.peer();
    let mut next = None;
    loop {
        let session = match next.take() {
            Some(session) => session,
            None => tokio::select! {
                () = shared.stopped() => return,
                session = arrivals.recv() => match session {
                    Some(session) => session,
                    None => return,
                },
            },
        };
        shared.raise(session.meter());
        if events.send(LinkEvent::Up { peer, kind: Shape::Session }).await.is_err() {
            return session.close(&Error::Closed { peer });
        }
        let why = run(&session, &shared, &mut arrivals, &mut next, &events).await;
        session.close(&why);
        shared.lower(&why);
        if events.send(LinkEvent::Down { peer, reason: why.sentence() }).await.is_err() {
            return;
        }
    }
}

/// Moves frames until the connection ends, is replaced or is closed; returns why.
async fn run<S: Session>(
    session: &S,
    shared: &Shared,
    arrivals: &mut mpsc::Receiver<S>,
    next: &mut Option<S>,
    events: &Events,
) -> Error {
    let mut readers = JoinSet::new();
    let why = {
        let closed = Error::Closed { peer: shared.peer() };
        let mut moving = std::pin::pin!(move_frames(session, shared, &mut readers, events));
        tokio::select! {
            biased;
            newer = arrivals.recv() => match newer {
                Some(newer) => {
                    *next = Some(newer);
                    Error::Replaced
                }
                None => closed,
            },
            () = shared.stopped() => {
                shared.drain();
                // What is not out by then is lost, as it may be: the exchange holds it until it is receipted.
                timeout(DRAIN, moving).await.ok().and_then(Result::err).unwrap_or(closed)
            }
            done = &mut moving => done.err().unwrap_or(closed),
        }
    };
    readers.shutdown().await;
    why
}

/// Ends with an error when the connection does, and without one when the link has drained.
async fn move_frames<S: Session>(
    session: &S,
    shared: &Shared,
    readers: &mut JoinSet<Result<(), Error>>,
    events: &Events,
) -> Result<(), Error> {
    let write = |class| write_class(session, shared, class);
    let [control, interactive, record, bulk] = Priority::ALL.map(write);
    tokio::select! {
        biased;
        // First, because it knows the reason why all the others fail.
        why = session.closed() => Err(why),
        error = read_streams(session, shared.peer(), readers, events) => Err(error),
        done = async { tokio::try_join!(control, interactive, record, bulk) } => match done {
            Ok(_) => Ok(()),
            Err(error) => Err(cause(session, error).await),
        },
    }
}

/// A stream that failed because its connection ended says less than the connection does.
async fn cause<S: Session>(session: &S, error: Error) -> Error {
    tokio::select! {
        biased;
        why = session.closed() => why,
        () = std::future::ready(()) => error,
    }
}

/// Writes one class's frames, until the link drains. The stream is opened when there is something to say.
async fn write_class<S: Session>(session: &S, shared: &Shared, class: Priority) -> Result<(), Error> {
    let mut buffer = BytesMut::new();
    let mut writer = None;
    while let Some(frames) = shared.next(class, GATHER_BYTES).await {
        if writer.is_none() {
            writer = Some(session.open(class).await?);
        }
        if let Some(writer) = &mut writer {
            write_frames(writer, frames, &mut buffer).await?;
        }
    }
    match writer {
        Some(writer) => session.finish(writer).await,
        None => Ok(()),
    }
}

/// Reads every stream that the neighbour opens, each in a task of its own; returns the first error.
async fn read_streams<S: Session>(
    session: &S,
    peer: AuthorityId,
    readers: &mut JoinSet<Result<(), Error>>,
    events: &Events,
) -> Error {
    loop {
        tokio::select! {
            stream = session.accept() => match stream {
                Ok(stream) => {
                    readers.spawn(read_stream(stream, peer, events.clone()));
                }
                Err(error) => return cause(session, error).await,
            },
            Some(ended) = readers.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return cause(session, error).await,
                Err(panic) => return Error::Lost { reason: panic.to_string() },
            },
        }
    }
}

/// Reads one stream to its end. While the events' channel is full nothing is read: that is the back-pressure.
async fn read_stream<R: tokio::io::AsyncRead + Unpin>(
    stream: R,
    peer: AuthorityId,
    events: Events,
) -> Result<(), Error> {
    let mut stream = BufReader::with_capacity(GATHER_BYTES, stream);
    while let Some(bytes) = read_frame(&mut stream).await? {
        if events.send(LinkEvent::Frame { peer, bytes }).await.is_err() {
            return Err(Error::Closed { peer });
        }
    }
    Ok(())
}
