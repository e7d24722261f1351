//! The driver of mailboxes: one task a neighbour that puts frames and looks for entries now and then.
//!
//! An entry is removed once its frame was handed over; custody does not depend on it, because only signed receipts end
//! custody. An entry that holds no whole frame may still be being copied: it gets [`GRACE`] looks without a change, and
//! is then set aside. A mailbox that fails is down, and is tried again for ever with growing waits.

use crate::backoff::{Backoff, STEADY};
use crate::link::Shared;
use crate::session::DRAIN;
use crate::{Error, Events, Link, LinkEvent, Mailbox, Shape, parcel};
use jincai_crypto::sha256;
use jincai_types::{AuthorityId, Digest, Priority};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Looks at an unreadable entry, all finding the same bytes, before it is set aside.
const GRACE: u32 = 5;

/// Starts the driver of one neighbour's mailbox on the current tokio runtime; the link ends with the handle.
#[must_use]
pub fn mailbox_link<M: Mailbox>(peer: AuthorityId, mailbox: M, poll: Duration, events: Events) -> Link {
    let shared = Shared::new(peer);
    tokio::spawn(keep(Arc::clone(&shared), mailbox, poll, events));
    Link::new(shared)
}

async fn keep<M: Mailbox>(shared: Arc<Shared>, mailbox: M, poll: Duration, events: Events) {
    let mut backoff = Backoff::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stopped() => return,
            usable = mailbox.list() => match usable {
                Ok(_) => {
                    if !up_and_down(&shared, &mailbox, poll, &events, &mut backoff).await {
                        return;
                    }
                }
                Err(error) => shared.note(&error),
            },
        }
        tokio::select! {
            () = shared.stopped() => return,
            () = sleep(backoff.next()) => {}
        }
    }
}

/// One span of being up, and the two events around it; false once nobody listens or this node closes the link.
async fn up_and_down<M: Mailbox>(
    shared: &Shared,
    mailbox: &M,
    poll: Duration,
    events: &Events,
    backoff: &mut Backoff,
) -> bool {
    let peer = shared.peer();
    shared.raise(None);
    if events.send(LinkEvent::Up { peer, kind: Shape::Mailbox }).await.is_err() {
        return false;
    }
    let why = run(shared, mailbox, poll, events, backoff).await;
    shared.lower(&why);
    let heard = events.send(LinkEvent::Down { peer, reason: why.sentence() }).await.is_ok();
    heard && !matches!(why, Error::Closed { .. })
}

/// Moves frames until the mailbox fails or the link is closed; returns why.
async fn run<M: Mailbox>(
    shared: &Shared,
    mailbox: &M,
    poll: Duration,
    events: &Events,
    backoff: &mut Backoff,
) -> Error {
    let closed = Error::Closed { peer: shared.peer() };
    let write = |class| put_class(shared, mailbox, poll, class);
    let [control, interactive, record, bulk] = Priority::ALL.map(write);
    let mut putting = std::pin::pin!(async { tokio::try_join!(control, interactive, record, bulk) });
    let mut fetching = std::pin::pin!(fetch(shared.peer(), mailbox, poll, events));
    let mut steady = std::pin::pin!(sleep(STEADY));
    let mut lasted = false;
    loop {
        tokio::select! {
            () = shared.stopped() => {
                shared.drain();
                return timeout(DRAIN, putting).await.ok().and_then(Result::err).unwrap_or(closed);
            }
            done = &mut putting => return done.err().unwrap_or(closed),
            error = &mut fetching => return error,
            () = &mut steady, if !lasted => {
                lasted = true;
                backoff.reset();
            }
        }
    }
}

/// Puts one class's frames, until the link drains. A full mailbox is waited for: the queue fills up behind it, and the
/// sender sees that.
async fn put_class<M: Mailbox>(shared: &Shared, mailbox: &M, poll: Duration, class: Priority) -> Result<(), Error> {
    while let Some(frames) = shared.next(class, 1).await {
        for frame in frames {
            let entry = parcel::pack(&frame);
            loop {
                match mailbox.put(class, entry.clone()).await {
                    Ok(()) => break shared.clear(),
                    Err(error @ Error::MailboxFull { .. }) => shared.note(&error),
                    Err(error) => return Err(error),
                }
                sleep(poll).await;
            }
        }
    }
    Ok(())
}

/// An entry that could not be read: the digest of what was found and how often.
type Unreadable = BTreeMap<String, (Digest, u32)>;

/// Looks for entries for ever; returns what went wrong.
async fn fetch<M: Mailbox>(peer: AuthorityId, mailbox: &M, poll: Duration, events: &Events) -> Error {
    let mut unreadable = Unreadable::new();
    let mut ticks = interval(poll.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = look(peer, mailbox, events, &mut unreadable).await {
            return error;
        }
    }
}

async fn look<M: Mailbox>(
    peer: AuthorityId,
    mailbox: &M,
    events: &Events,
    unreadable: &mut Unreadable,
) -> Result<(), Error> {
    let names = mailbox.list().await?;
    // What has vanished needs no memory; so there is never more of it than one listing holds.
    unreadable.retain(|name, _| names.contains(name));
    for name in names {
        let (digest, read) = match mailbox.get(&name).await {
            Ok(None) => continue,
            Ok(Some(entry)) => (sha256(&entry), parcel::unpack(entry)),
            Err(error @ Error::Parcel(_)) => (Digest::ZERO, Err(error)),
            Err(error) => return Err(error),
        };
        match read {
            Ok(bytes) => {
                if events.send(LinkEvent::Frame { peer, bytes }).await.is_err() {
                    return Err(Error::Closed { peer });
                }
                mailbox.remove(&name).await?;
            }
            Err(error) => {
                let seen = unreadable.entry(name.clone()).or_insert((digest, 0));
                *seen = (digest, if seen.0 == digest { seen.1 + 1 } else { 1 });
                if seen.1 >= GRACE {
                    tracing::warn!(%peer, name, %error, "an unreadable mailbox entry is set aside");
                    mailbox.set_aside(&name).await?;
                }
            }
        }
    }
    Ok(())
}
