//! The contract between the gateway, the two link drivers and the wires.
//!
//! A wire is either a [`Session`] (a live connection: ordered byte streams both ways) or a [`Mailbox`] (entries that are
//! put, listed, fetched and removed). Each shape has one driver; a wire implements its trait and nothing else. Wires never
//! look into frames, never keep them for a later connection and never wait without a bound on what they hold.

use crate::Error;
use bytes::Bytes;
use jincai_types::{AuthorityId, Priority};
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};

/// How a neighbour is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A live connection with frames both ways.
    Session,
    /// Entries that somebody fetches some time.
    Mailbox,
}

/// What a link driver reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Frames can be sent from now on. What was queued before is gone.
    Up {
        /// The neighbour.
        peer: AuthorityId,
        /// How it is reached.
        kind: Shape,
    },
    /// No frames can be sent until the next [`LinkEvent::Up`]; whatever was not receipted may be lost.
    Down {
        /// The neighbour.
        peer: AuthorityId,
        /// One sentence.
        reason: String,
    },
    /// A whole frame, 1 to [`jincai_types::limits::FRAME_BYTES`] bytes, as the neighbour sent it (or as whoever carries
    /// it made it: verify before use).
    Frame {
        /// The neighbour.
        peer: AuthorityId,
        /// The frame.
        bytes: Vec<u8>,
    },
}

/// Where drivers report to. A full channel is back-pressure: nothing is read from the neighbours until there is room.
pub type Events = tokio::sync::mpsc::Sender<LinkEvent>;

/// One live connection to one neighbour, whose identity the wire has verified already.
///
/// The driver opens at most one writer a priority class. Each stream keeps its order; there is none between streams.
pub trait Session: Send + Sync + 'static {
    /// An ordered stream of bytes to the neighbour.
    type Writer: AsyncWrite + Send + Unpin;
    /// An ordered stream of bytes from the neighbour.
    type Reader: AsyncRead + Send + Unpin + 'static;

    /// Opens the stream of a class.
    fn open(&self, class: Priority) -> impl Future<Output = Result<Self::Writer, Error>> + Send;
    /// Ends a stream and waits until the neighbour's machine has all of it.
    fn finish(&self, writer: Self::Writer) -> impl Future<Output = Result<(), Error>> + Send;
    /// Waits for the next stream that the neighbour opens. The wire bounds how many may be open at once.
    fn accept(&self) -> impl Future<Output = Result<Self::Reader, Error>> + Send;
    /// Waits until the connection has ended, for whatever reason, and tells it.
    fn closed(&self) -> impl Future<Output = Error> + Send;
    /// Ends the connection and tells the neighbour why. Does not wait.
    fn close(&self, why: &Error);
    /// What tells how many bytes the connection has moved, on wires that count them.
    fn meter(&self) -> Option<Meter> {
        None
    }
}

/// Bytes that a connection has put on the wire and taken from it, whatever they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

/// See [`Session::meter`].
pub type Meter = Box<dyn Fn() -> WireBytes + Send>;

/// Both directions of a mailbox shared with one neighbour. Entries are visible whole or not at all.
///
/// No call relies on locks, on the order of a listing, or on being the only reader.
pub trait Mailbox: Send + Sync + 'static {
    /// Adds an entry, most urgent class first in the neighbour's listing. [`Error::MailboxFull`] means: again later.
    fn put(&self, class: Priority, entry: Bytes) -> impl Future<Output = Result<(), Error>> + Send;
    /// Names of entries to fetch, a bounded number of them, most urgent first. Fails if either direction is not usable.
    fn list(&self) -> impl Future<Output = Result<Vec<String>, Error>> + Send;
    /// An entry, or `None` if it is gone. [`Error::Parcel`] if it is larger than an entry may be.
    fn get(&self, name: &str) -> impl Future<Output = Result<Option<Vec<u8>>, Error>> + Send;
    /// Removes an entry; one that is gone already is no error.
    fn remove(&self, name: &str) -> impl Future<Output = Result<(), Error>> + Send;
    /// Puts an entry that cannot be read where people can look at it; a bounded number is kept.
    fn set_aside(&self, name: &str) -> impl Future<Output = Result<(), Error>> + Send;
}
