//! The seam between the exchange and the rooms (dictionary, standard storage, …) that hold a node's state.
//!
//! A room decides on a verified message and returns an *effect*: bytes of its own that go into the journal together with
//! (lane, epoch, sequence) in one record, and that [`Room::apply`] turns into state, now and at every replay. So a message
//! is applied exactly once by construction, and what a replay sees never depends on the version that decided.

use jincai_types::{
    Attributes, Destination, Digest, Epoch, Lane, Millis, Priority, RecordNumber, Requirement, Sequence,
};

/// A verified message as a room sees it.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its lane; `lane.origin` signed it.
    pub lane: Lane,
    /// The origin's epoch.
    pub epoch: Epoch,
    /// Its number.
    pub sequence: Sequence,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Its payload, decrypted.
    pub payload: &'a [u8],
    /// H(salt ‖ payload), which its origin signed: tells the payload from others at no cost. Both are empty for public ones.
    pub commitment: &'a [u8],
    /// See `commitment`.
    pub salt: &'a [u8],
    /// The record that holds its batch; as long as a room names it as live, it can be read there again.
    pub record: RecordNumber,
    /// Its index in that batch.
    pub index: usize,
}

/// Access to bulk parts that have arrived; a message only sees the parts that it names in `requires`.
pub trait Parts {
    /// The plaintext of a part, or `None` if it is not held (any more).
    fn part(&self, digest: &Digest) -> Option<Vec<u8>>;
}

/// A room's answer to a message.
#[derive(Debug)]
pub enum Decision {
    /// Apply it: this effect goes into the journal.
    Apply {
        /// The room's own bytes for [`Room::apply`].
        effect: Vec<u8>,
        /// Messages this sets off, sealed in the same commit.
        messages: Vec<Outgoing>,
    },
    /// Not yet: something it needs is missing; the lane waits.
    Wait(Requirement),
    /// Refused for its meaning: a dead letter here, a refusal to the origin.
    Refuse(Refusal),
}

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code, JC-####.
    pub code: &'static str,
    /// One sentence for people.
    pub reason: String,
}

impl From<&crate::Error> for Refusal {
    fn from(error: &crate::Error) -> Self {
        Self { code: error.code(), reason: error.to_string() }
    }
}

/// A message that a room or a caller wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub destination: Destination,
    /// In which class.
    pub class: Priority,
    /// Its attributes; the exchange fills in nothing.
    pub attributes: Attributes,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Where an effect lies in the journal, and what brought it about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The record that holds it.
    pub number: RecordNumber,
    /// Where the effect's bytes begin in the record's payload.
    pub offset: usize,
    /// The lane whose message decided it; none for a local command.
    pub cause: Option<Lane>,
}

/// A place that holds state and is changed by messages.
pub trait Room {
    /// Attribute types that start with this belong to the room, such as `jincai.dictionary.`.
    fn prefix(&self) -> &'static str;

    /// Decides on a message. Must be a function of the room's state and the arguments alone.
    fn decide(&mut self, now: Millis, delivery: &Delivery<'_>, parts: &dyn Parts) -> Decision;

    /// Applies an effect that [`Room::decide`] or one of the room's own commands returned. An error is our bug or a
    /// damaged disk: the node stops.
    fn apply(&mut self, place: &Place, effect: &[u8]) -> Result<(), RoomError>;

    /// Whether a requirement is met; `None` if it is not this room's to know.
    fn meets(&self, requirement: &Requirement) -> Option<bool>;

    /// A message that this node itself sent and had forgotten, because it was set back: the effect that makes the room know
    /// again what it then did, if there is one.
    fn retake(&mut self, _delivery: &Delivery<'_>, _parts: &dyn Parts) -> Option<Vec<u8>> {
        None
    }

    /// The room's state as a snapshot keeps it.
    fn save(&self) -> Vec<u8>;

    /// Takes back what [`Room::save`] gave; the room is empty before.
    fn load(&mut self, saved: &[u8]) -> Result<(), RoomError>;

    /// Names the records that the room still reads by their number.
    fn live(&self, each: &mut dyn FnMut(RecordNumber));
}

/// An effect that cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("{room}: an effect in the journal cannot be applied: {reason}")]
pub struct RoomError {
    /// Which room.
    pub room: &'static str,
    /// Why.
    pub reason: String,
}

/// All rooms of a node, as the exchange sees them.
pub trait Rooms {
    /// The decision of the room that takes this message, and the room's prefix; `None` if no room does.
    fn decide(&mut self, now: Millis, delivery: &Delivery<'_>, parts: &dyn Parts) -> Option<(&'static str, Decision)>;

    /// See [`Room::retake`]; the room's prefix and its effect.
    fn retake(&mut self, delivery: &Delivery<'_>, parts: &dyn Parts) -> Option<(&'static str, Vec<u8>)>;

    /// See [`Room::apply`]; `room` is the room's prefix.
    fn apply(&mut self, place: &Place, room: &str, effect: &[u8]) -> Result<(), RoomError>;

    /// Whether a requirement is met; `None` if no room knows of such.
    fn meets(&self, requirement: &Requirement) -> Option<bool>;
}
