//! The room of plain messages (`jincai.note`) for systems that send something to somebody without more meaning, and the
//! place where refusals of our own messages arrive.

use jincai_exchange::{Delivery, Place, RoomError};
use jincai_types::{Lane, decode, encode};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::VecDeque;

/// The type of plain messages.
pub const NOTE: &str = "jincai.note";
/// The room's prefix; refusals have one of their own and end here too.
pub(crate) const PREFIX: &str = "jincai.note";
/// Messages shown; older ones stay in the journal.
const SHOWN: usize = 1_000;

/// A plain message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The record that holds it.
    pub record: u64,
    /// Its lane.
    pub lane: Option<Lane>,
    /// Its id.
    pub id: String,
    /// What it is about.
    pub subject: String,
}

/// What the journal keeps of a plain message.
#[derive(Debug, Encode, Decode)]
pub(crate) struct NoteEffect {
    #[n(0)]
    pub(crate) id: String,
    #[n(1)]
    pub(crate) subject: String,
    #[n(2)]
    pub(crate) payload: ByteVec,
}

/// The id in a plain message's effect.
#[must_use]
pub fn note_id(effect: &[u8]) -> Option<String> {
    decode::<NoteEffect>("note", effect, jincai_journal::RECORD_BYTES_MAX).ok().map(|note| note.id)
}

/// Plain messages, newest last.
#[derive(Debug, Default)]
pub struct Inbox {
    count: u64,
    shown: VecDeque<Note>,
}

impl Inbox {
    /// How many arrived in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The newest thousand, oldest first.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        self.shown.iter()
    }

    pub(crate) fn decide(delivery: &Delivery<'_>) -> Vec<u8> {
        let (id, subject) = (delivery.attributes.id.clone(), delivery.attributes.subject.clone());
        encode(&NoteEffect { id, subject, payload: delivery.payload.to_vec().into() })
    }

    pub(crate) fn apply(&mut self, place: &Place, effect: &[u8]) -> Result<(), RoomError> {
        let effect: NoteEffect = decode("note", effect, jincai_journal::RECORD_BYTES_MAX)
            .map_err(|e| RoomError { room: PREFIX, reason: e.to_string() })?;
        self.count += 1;
        if self.shown.len() == SHOWN {
            self.shown.pop_front();
        }
        self.shown.push_back(Note { record: place.number, lane: place.cause, id: effect.id, subject: effect.subject });
        Ok(())
    }
}
