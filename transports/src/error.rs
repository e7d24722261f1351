//! What can go wrong with a link, and whose fault it is.

use jincai_types::{AuthorityId, Fault, Priority, limits};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame that is empty or longer than a frame may be.
    #[error("a frame of {size} bytes: 1 to {} are wanted", limits::FRAME_BYTES)]
    FrameSize {
        /// Its size in bytes.
        size: u64,
    },
    /// Nothing can be sent now, because the neighbour is not connected.
    #[error("the link to {peer} is down")]
    Down {
        /// The neighbour.
        peer: AuthorityId,
    },
    /// The neighbour takes frames more slowly than they are sent.
    #[error("the {} queue of the link to {peer} is full", class.name())]
    Full {
        /// The neighbour.
        peer: AuthorityId,
        /// The class whose queue is full.
        class: Priority,
    },
    /// This node has closed the link.
    #[error("this node has closed the link to {peer}")]
    Closed {
        /// The neighbour.
        peer: AuthorityId,
    },
    /// The configuration names no such neighbour.
    #[error("{peer} is no neighbour of this node")]
    NotANeighbour {
        /// Who was asked for.
        peer: AuthorityId,
    },
    /// A neighbour has one link, and somebody holds it already.
    #[error("the link to {peer} is in use already")]
    InUse {
        /// The neighbour.
        peer: AuthorityId,
    },
    /// Our own certificate, key or root.
    #[error("the node's certificate, key or root certificate cannot be used: {0}")]
    Identity(#[source] rustls::Error),
    /// The socket.
    #[error("UDP address {address} cannot be used: {source}")]
    Bind {
        /// The address to listen on.
        address: SocketAddr,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The neighbour's address leads nowhere.
    #[error("the address {address} cannot be resolved: {source}")]
    Resolve {
        /// The address as configured.
        address: String,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// We do not accept who the peer says it is.
    #[error("the peer is refused: {reason}")]
    PeerRefused {
        /// Why.
        reason: String,
    },
    /// The peer does not accept who we are.
    #[error("the peer refuses this node: {reason}")]
    RefusedByPeer {
        /// Why.
        reason: String,
    },
    /// The connection ended or never came to be.
    #[error("the connection is lost: {reason}")]
    Lost {
        /// Why.
        reason: String,
    },
    /// The peer breaks the rules of the wire.
    #[error("the peer breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The peer has connected anew, so that the older connection is of no use.
    #[error("a newer connection of the same neighbour has replaced this one")]
    Replaced,
    /// A directory or file of a mailbox.
    #[error("{} cannot be used: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// An entry of a mailbox that does not hold a whole frame.
    #[error("a mailbox entry holds no whole frame: {0}")]
    Parcel(&'static str),
    /// Nobody fetches what lies in the mailbox.
    #[error("the mailbox is full: {limit} frames wait to be fetched")]
    MailboxFull {
        /// Most frames that may wait.
        limit: usize,
    },
    /// One directory for both directions would give us our own frames back.
    #[error("{} cannot be both the outgoing and the incoming directory", path.display())]
    SameFolder {
        /// The directory.
        path: PathBuf,
    },
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::FrameSize { .. } => "JC-1701",
            Self::Down { .. } => "JC-1702",
            Self::Full { .. } => "JC-1703",
            Self::Closed { .. } => "JC-1704",
            Self::NotANeighbour { .. } => "JC-1705",
            Self::InUse { .. } => "JC-1706",
            Self::Identity(_) => "JC-1707",
            Self::Bind { .. } => "JC-1708",
            Self::Resolve { .. } => "JC-1709",
            Self::PeerRefused { .. } => "JC-1710",
            Self::RefusedByPeer { .. } => "JC-1711",
            Self::Lost { .. } => "JC-1712",
            Self::Protocol(_) => "JC-1713",
            Self::Replaced => "JC-1714",
            Self::Folder { .. } => "JC-1715",
            Self::Parcel(_) => "JC-1716",
            Self::MailboxFull { .. } => "JC-1717",
            Self::SameFolder { .. } => "JC-1718",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::FrameSize { .. } | Self::PeerRefused { .. } | Self::Protocol(_) | Self::Parcel(_) => Fault::Peer,
            Self::Down { .. }
            | Self::Full { .. }
            | Self::Closed { .. }
            | Self::Resolve { .. }
            | Self::Lost { .. }
            | Self::Replaced
            | Self::MailboxFull { .. } => Fault::Passing,
            Self::NotANeighbour { .. }
            | Self::Identity(_)
            | Self::Bind { .. }
            | Self::RefusedByPeer { .. }
            | Self::Folder { .. }
            | Self::SameFolder { .. } => Fault::Operator,
            Self::InUse { .. } => Fault::Bug,
        }
    }

    /// The error and its causes in one sentence, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }
}

/// What keeps a link from working, or did so last; for people and for `link test`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The error's stable code.
    pub code: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// One sentence.
    pub text: String,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        Self { code: error.code(), fault: error.fault(), text: error.sentence() }
    }
}
