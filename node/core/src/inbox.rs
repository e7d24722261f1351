//! The room of plain messages (`jincai.note`) for systems that send something to somebody without more meaning, and the
//! place where refusals of our own messages arrive.
//!
//! A message whose id the same source has used before is refused, because an origin that was restored from a backup does
//! not know any more that it sent it: the newest [`KNOWN`] ids are remembered. It keeps no payload, and writes none down a
//! second time: the record that holds a message's batch does, sealed as it came.

use jincai_crypto::Hasher;
use jincai_exchange::{Decision, Delivery, Place, Refusal, RoomError};
use jincai_types::{AddressPattern, Audience, Digest, FiscalYear, Lane, Mutation, System, decode, encode, mutated};
use minicbor::bytes::{ByteArray, ByteVec};
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
/// Bytes of one of them in a snapshot: its name and its content.
const KNOWN_BYTES: usize = 48;
const FORMAT: u8 = 1;

/// A plain message that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Note {
    /// The record that holds its batch.
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
    /// Its index in the batch.
    #[n(4)]
    pub index: u64,
    /// Who says it; absent for those that came before it was kept.
    #[n(5)]
    pub source: Option<String>,
    /// For which fiscal year it is, if not for every one.
    #[n(6)]
    pub year: Option<FiscalYear>,
    /// For which business system it is, if not for every one.
    #[n(7)]
    pub system: Option<System>,
}

impl Note {
    /// For whom at this node it is.
    #[must_use]
    pub fn audience(&self) -> Audience {
        Audience { year: self.year, system: self.system.clone() }
    }
}

/// What the journal keeps of a plain message.
#[derive(Debug, Encode, Decode)]
pub(crate) struct NoteEffect {
    #[n(0)]
    pub(crate) id: String,
    #[n(1)]
    pub(crate) subject: String,
    #[n(2)]
    pub(crate) source: String,
    /// A salt of 16 bytes, and the first half of H(salt ‖ payload).
    #[n(3)]
    pub(crate) content: ByteArray<32>,
    /// The record that holds its batch, and its index there.
    #[n(4)]
    pub(crate) record: u64,
    #[n(5)]
    pub(crate) index: u64,
    #[n(6)]
    pub(crate) year: Option<FiscalYear>,
    #[n(7)]
    pub(crate) system: Option<System>,
}

/// The id in a plain message's effect.
#[must_use]
pub fn note_id(effect: &[u8]) -> Option<String> {
    decode::<NoteEffect>("note", effect, jincai_journal::RECORD_BYTES_MAX).ok().map(|note| note.id)
}

/// The first half of a digest: enough to tell ids and contents of one node apart.
type Short = [u8; 16];

/// What tells one content from another: a salt, and the first half of H(salt ‖ payload). An encrypted message brings both
/// along, checked; of a public one, which has no salt, it is made with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    salt: Short,
    digest: Short,
}

impl Content {
    fn of(delivery: &Delivery<'_>) -> Self {
        match (delivery.salt.try_into(), delivery.commitment.first_chunk()) {
            (Ok(salt), Some(digest)) => Self { salt, digest: *digest },
            _ => Self::salted([0; 16], delivery.payload),
        }
    }

    fn salted(salt: Short, payload: &[u8]) -> Self {
        Self { salt, digest: short(&Hasher::default().with(&salt).with(payload).finish()) }
    }

    fn is(&self, payload: &[u8]) -> bool {
        Self::salted(self.salt, payload) == *self
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let (salt, digest) = bytes.split_at_mut(16);
        salt.copy_from_slice(&self.salt);
        digest.copy_from_slice(&self.digest);
        bytes
    }

    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut content = Self { salt: [0; 16], digest: [0; 16] };
        let (salt, digest) = bytes.split_at(16);
        content.salt.copy_from_slice(salt);
        content.digest.copy_from_slice(digest);
        content
    }
}

/// Plain messages, newest last.
#[derive(Debug, Default)]
pub struct Inbox {
    count: u64,
    shown: VecDeque<Note>,
    /// Source and id, and the content that came under them.
    known: BTreeMap<Short, Content>,
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

    /// The same for one reader, each with its number among all that ever arrived, from 1: only what came after a number.
    pub fn read(&self, pattern: &AddressPattern, after: u64) -> impl Iterator<Item = (u64, &Note)> {
        let first = self.count - self.shown.len() as u64 + 1;
        let numbered = (first..).zip(&self.shown).filter(move |(number, _)| *number > after);
        numbered.filter(|(_, note)| pattern.matches(note.lane.map(|lane| lane.destination), &note.audience()))
    }

    pub(crate) fn decide(&self, delivery: &Delivery<'_>) -> Decision {
        let attributes = delivery.attributes;
        match self.known.get(&name(&attributes.source, &attributes.id)) {
            _ if mutated(Mutation::ForgetKnownIds) => {
                Decision::Apply { effect: effect(delivery), messages: Vec::new() }
            }
            Some(held) if held.is(delivery.payload) => Decision::Refuse(Refusal {
                code: "JC-1302",
                reason: "a message with this id has come before, with the same content".into(),
            }),
            Some(_) => Decision::Refuse(Refusal {
                code: "JC-1303",
                reason: "a message with this id has come before, with another content".into(),
            }),
            None => Decision::Apply { effect: effect(delivery), messages: Vec::new() },
        }
    }

    pub(crate) fn apply(&mut self, place: &Place, effect: &[u8]) -> Result<(), RoomError> {
        let effect: NoteEffect = decode("note", effect, jincai_journal::RECORD_BYTES_MAX)
            .map_err(|e| RoomError { room: PREFIX, reason: e.to_string() })?;
        self.count += 1;
        self.know(name(&effect.source, &effect.id), Content::from_bytes(&effect.content));
        if self.shown.len() == SHOWN {
            self.shown.pop_front();
        }
        let NoteEffect { id, subject, source, record, index, year, system, .. } = effect;
        let lane = place.cause;
        self.shown.push_back(Note { record, index, lane, id, subject, source: Some(source), year, system });
        Ok(())
    }

    fn know(&mut self, name: Short, content: Content) {
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
        let mut known = Vec::with_capacity(self.order.len() * KNOWN_BYTES);
        for (name, content) in self.order.iter().filter_map(|name| Some((name, self.known.get(name)?))) {
            known.extend_from_slice(name);
            known.extend_from_slice(&content.to_bytes());
        }
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
        for bytes in known.as_chunks::<KNOWN_BYTES>().0 {
            if let Some((name, content)) = bytes.split_first_chunk()
                && let Some(content) = content.first_chunk()
            {
                self.know(*name, Content::from_bytes(content));
            }
        }
        Ok(())
    }

    /// As [`jincai_exchange::Room::live`].
    pub(crate) fn live(&self, each: &mut dyn FnMut(u64)) {
        self.shown.iter().for_each(|note| each(note.record));
    }
}

/// The effect of a message that is only kept.
fn effect(delivery: &Delivery<'_>) -> Vec<u8> {
    // What it says was checked when its batch was read.
    let Audience { year, system } = Audience::of(delivery.attributes).unwrap_or_default();
    encode(&NoteEffect {
        id: delivery.attributes.id.clone(),
        subject: delivery.attributes.subject.clone(),
        source: delivery.attributes.source.clone(),
        content: Content::of(delivery).to_bytes().into(),
        record: delivery.record,
        index: delivery.index as u64,
        year,
        system,
    })
}

fn name(source: &str, id: &str) -> Short {
    short(&Hasher::default().with(source.as_bytes()).with(b"\n").with(id.as_bytes()).finish())
}

fn short(digest: &Digest) -> Short {
    let mut out = [0; 16];
    out.copy_from_slice(&digest.0[..16]);
    out
}
