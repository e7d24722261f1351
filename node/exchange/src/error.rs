//! What can go wrong in the exchange.

use jincai_types::{Fault, Lane};

/// A failure of the exchange.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that breaks its format.
    #[error("{0}")]
    Malformed(#[from] jincai_types::Error),
    /// A signature, seal or key.
    #[error("{0}")]
    Crypto(#[from] jincai_crypto::Error),
    /// The journal.
    #[error("{0}")]
    Journal(#[from] jincai_journal::Error),
    /// A room could not apply what the journal holds.
    #[error("{0}")]
    Room(#[from] crate::RoomError),
    /// A frame from somebody who is no neighbour, or not on this link.
    #[error("frame from {0}, who is no neighbour of this node")]
    NotANeighbour(jincai_types::AuthorityId),
    /// A peer that speaks another protocol version.
    #[error("the peer speaks protocol versions {low} to {high}; this node speaks {ours}")]
    Version {
        /// Lowest version of the peer.
        low: u16,
        /// Highest version of the peer.
        high: u16,
        /// Ours.
        ours: u16,
    },
    /// Nowhere to send it.
    #[error("no route leads to {0} from here")]
    NoRoute(jincai_types::Destination),
    /// A group of inferiors of somebody else's.
    #[error("{to}: only {top} and the authorities above it can send to this group")]
    NotAbove {
        /// The group.
        to: jincai_types::Destination,
        /// The authority that it is named after.
        top: jincai_types::AuthorityId,
    },
    /// Too much is waiting to be sealed.
    #[error("the outbox is full ({bytes} bytes wait): try again later")]
    Busy {
        /// Bytes that wait.
        bytes: u64,
    },
    /// What is on its way to a destination waits for some hop, and enough of it waits here.
    #[error(
        "messages to {to}: what is there already {waits}; {} bytes of it wait here, and {share} are the share: try again \
         later", waits.bytes
    )]
    HeldBack {
        /// The destination.
        to: jincai_types::AuthorityId,
        /// For whom it waits, and why.
        waits: crate::Waits,
        /// The hop's share of custody, in bytes.
        share: u64,
    },
    /// A payload that must travel as bulk parts.
    #[error("the payload has {size} bytes; more than {limit} must travel as bulk parts")]
    PayloadTooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The lane's chain has two continuations.
    #[error("lane {lane} is held: its origin signed two different batches with one number")]
    Fork {
        /// The lane.
        lane: Lane,
    },
    /// A message that no room of this node takes.
    #[error("no room of this node takes messages of type «{kind}»")]
    NoRoom {
        /// The message's type.
        kind: String,
    },
    /// A message with this id was sent before the node was set back to an older state.
    #[error("a message with the id «{id}» was sent before this node was restored from a backup, and has left it")]
    UsedId {
        /// The id.
        id: String,
    },
    /// An order that does not say who gives it, or why.
    #[error("who decides this, and why, must be said")]
    NoReason,
    /// Something that nobody holds.
    #[error("{target} is not held")]
    NotHeld {
        /// The link or lane.
        target: String,
    },
    /// There is no such dead letter (any more).
    #[error("there is no dead letter {sequence} of lane {lane} here")]
    NoLetter {
        /// The lane.
        lane: Lane,
        /// The message's number.
        sequence: u64,
    },
    /// A dead letter whose requirement is not met.
    #[error("it would wait for {missing}")]
    StillWaits {
        /// What is missing.
        missing: String,
    },
    /// A dead letter whose cause was not mended.
    #[error("it is refused again, with {code}: {reason}")]
    StillRefused {
        /// The refusal's code.
        code: &'static str,
        /// Its reason.
        reason: String,
    },
    /// A lane on which nothing waits for something missing.
    #[error("no message on lane {lane} waits for something that is missing here")]
    NothingWaits {
        /// The lane.
        lane: Lane,
    },
    /// Only messages from here to one authority can be given up.
    #[error("lane {lane} does not lead from this node to one other authority: its messages cannot be given up here")]
    NotOurs {
        /// The lane.
        lane: Lane,
    },
    /// A bulk part whose bytes are not those its name says.
    #[error("a bulk part does not have the digest that it is named by")]
    Part,
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(e) => e.code(),
            Self::Crypto(e) => e.code(),
            Self::Journal(e) => e.code(),
            Self::Room(_) => "JC-1201",
            Self::NotANeighbour(_) => "JC-1202",
            Self::Version { .. } => "JC-1203",
            Self::NoRoute(_) => "JC-1204",
            Self::NotAbove { .. } => "JC-1229",
            Self::Busy { .. } => "JC-1205",
            Self::PayloadTooLarge { .. } => "JC-1206",
            Self::Fork { .. } => "JC-1207",
            Self::NoRoom { .. } => "JC-1208",
            Self::Part => "JC-1209",
            Self::UsedId { .. } => "JC-1218",
            Self::HeldBack { .. } => "JC-1226",
            Self::NoReason => "JC-1222",
            Self::NotHeld { .. } | Self::NoLetter { .. } | Self::NothingWaits { .. } | Self::NotOurs { .. } => {
                "JC-1224"
            }
            Self::StillWaits { .. } | Self::StillRefused { .. } => "JC-1225",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Malformed(e) => e.fault(),
            Self::Crypto(e) => e.fault(),
            Self::Journal(e) => e.fault(),
            Self::Room(_) => Fault::Bug,
            Self::Busy { .. } | Self::HeldBack { .. } | Self::NoRoute(_) => Fault::Passing,
            Self::Version { .. } => Fault::Operator,
            _ => Fault::Peer,
        }
    }
}
