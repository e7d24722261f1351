//! The room of plain messages (`jincai.note`) for systems that send something to somebody without more meaning, and the
//! place where refusals of our own messages arrive.
//!
//! A message whose id the same source has used before is refused, because an origin that was restored from a backup does
//! not know any more that it sent it: the newest [`KNOWN`] ids are remembered. It keeps no payload; records do.

use jincai_crypto::sha256;
use jincai_exchange::{Decision, Delivery, Place, Refusal, RoomError};
use jincai_types::{Digest, Lane, Mutation, decode, encode, mutated};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, VecDeque};

/// The type of plain messages.
pub const NOTE: &str = "jincai.note";
/// The room's prefix; refusals have one of their own and end here too.
pub(crate) const PREFIX: &str = "jincai.note";
/// Messages shown; older ones stay in the journal.
const SHOWN: usize = 1_000;
/// Ids remembered.
pub const KNOWN: usize = 1 << 18;
const FORMAT: u8 = 1;

/// A plain message that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Note {
    /// The record that holds it.
    #[n(0)]
    pub record: u64,
    /// Its lane.
    #[n(1)]
    pub lane: Option<Lane>,
    /// Its id.
    #[n(2)]
    pub id: String,
    /// What it is about.
    #[n(3)]
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
    #[n(3)]
    pub(crate) source: String,
}

/// The id in a plain message's effect.
#[must_use]
pub fn note_id(effect: &[u8]) -> Option<String> {
    decode::<NoteEffect>("note", effect, jincai_journal::RECORD_BYTES_MAX).ok().map(|note| note.id)
}

/// The first half of a digest: enough to tell ids and contents of one node apart.
type Short = [u8; 16];

/// Plain messages, newest last.
#[derive(Debug, Default)]
pub struct Inbox {
    count: u64,
    shown: VecDeque<Note>,
    /// Source and id, and the content that came under them.
    known: BTreeMap<Short, Short>,
    order: VecDeque<Short>,
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

    pub(crate) fn decide(&self, delivery: &Delivery<'_>) -> Decision {
        let attributes = delivery.attributes;
        let content = short(&sha256(delivery.payload));
        match self.known.get(&name(&attributes.source, &attributes.id)) {
            _ if mutated(Mutation::ForgetKnownIds) => {
                Decision::Apply { effect: Self::effect(delivery), messages: Vec::new() }
            }
            Some(held) if *held == content => Decision::Refuse(Refusal {
                code: "JC-1302",
                reason: "a message with this id has come before, with the same content".into(),
            }),
            Some(_) => Decision::Refuse(Refusal {
                code: "JC-1303",
                reason: "a message with this id has come before, with another content".into(),
            }),
            None => Decision::Apply { effect: Self::effect(delivery), messages: Vec::new() },
        }
    }

    /// The effect of a message that is only kept.
    pub(crate) fn effect(delivery: &Delivery<'_>) -> Vec<u8> {
        encode(&NoteEffect {
            id: delivery.attributes.id.clone(),
            subject: delivery.attributes.subject.clone(),
            payload: delivery.payload.to_vec().into(),
            source: delivery.attributes.source.clone(),
        })
    }

    pub(crate) fn apply(&mut self, place: &Place, effect: &[u8]) -> Result<(), RoomError> {
        let effect: NoteEffect = decode("note", effect, jincai_journal::RECORD_BYTES_MAX)
            .map_err(|e| RoomError { room: PREFIX, reason: e.to_string() })?;
        self.count += 1;
        self.know(name(&effect.source, &effect.id), short(&sha256(&effect.payload)));
        if self.shown.len() == SHOWN {
            self.shown.pop_front();
        }
        self.shown.push_back(Note { record: place.number, lane: place.cause, id: effect.id, subject: effect.subject });
        Ok(())
    }

    fn know(&mut self, name: Short, content: Short) {
        if self.known.insert(name, content).is_some() {
            return;
        }
        self.order.push_back(name);
        if self.order.len() > KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// As [`jincai_exchange::Room::save`].
    pub(crate) fn save(&self) -> Vec<u8> {
        let known: Vec<u8> = self
            .order
            .iter()
            .flat_map(|name| self.known.get(name).into_iter().flat_map(|content| name.iter().chain(content)))
            .copied()
            .collect();
        let shown: Vec<&Note> = self.shown.iter().collect();
        encode(&(FORMAT, self.count, shown, ByteVec::from(known)))
    }

    /// As [`jincai_exchange::Room::load`].
    pub(crate) fn load(&mut self, saved: &[u8]) -> Result<(), RoomError> {
        let wrong = |reason: String| RoomError { room: PREFIX, reason };
        let (format, count, shown, known): (u8, u64, Vec<Note>, ByteVec) =
            decode("snapshot of the messages", saved, saved.len()).map_err(|e| wrong(e.to_string()))?;
        if format != FORMAT {
            return Err(wrong(format!("a snapshot's format is {format}, not {FORMAT}")));
        }
        self.count = count;
        self.shown = shown.into();
        let (pairs, _) = known.as_chunks::<16>();
        for pair in pairs.as_chunks::<2>().0 {
            self.know(pair[0], pair[1]);
        }
        Ok(())
    }

    /// As [`jincai_exchange::Room::live`].
    pub(crate) fn live(&self, each: &mut dyn FnMut(u64)) {
        self.shown.iter().for_each(|note| each(note.record));
    }
}

fn name(source: &str, id: &str) -> Short {
    short(&sha256(format!("{source}\n{id}").as_bytes()))
}

fn short(digest: &Digest) -> Short {
    let mut out = [0; 16];
    out.copy_from_slice(&digest.0[..16]);
    out
}
