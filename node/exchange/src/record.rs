//! The journal records of the exchange: kinds and bodies. Kinds 1–99 belong to it; numbers are never reused.

use crate::Receipt;
pub use crate::operator::{Act, Order};
use jincai_types::{
    AuthorityId, Digest, Epoch, Error, Lane, LanePosition, Millis, RecordNumber, Sequence, decode, encode, encode_into,
};
use minicbor::bytes::{ByteSlice, ByteVec};
use minicbor::{Decode, Decoder, Encode};

/// Record kinds.
pub mod kind {
    /// A sealed batch: [`super::batch_record`].
    pub const BATCH: u16 = 1;
    /// One effect on a room: of a local command, of a large message, or of one that used bulk parts:
    /// [`super::EffectRecord`].
    pub const EFFECT: u16 = 2;
    /// A message refused for its meaning: [`super::DeadLetter`].
    pub const DEAD_LETTER: u16 = 3;
    /// Custody that a neighbour's signed receipts have ended: [`super::Cleared`].
    pub const CLEARED: u16 = 4;
    /// A new epoch: [`jincai_types::Epoch`].
    pub const EPOCH: u16 = 5;
    /// A verified chain of cards: [`jincai_crypto::CardChain`].
    pub const CARDS: u16 = 6;
    /// A batch that contradicts one we hold, kept as evidence: the batch's bytes.
    pub const FORK: u16 = 7;
    /// This node was set back to an older state: [`super::Restored`].
    pub const RESTORED: u16 = 8;
    /// A batch of an epoch that its origin has ended before it: as [`BATCH`]. It is no part of the lane's chain.
    pub const LATE: u16 = 9;
    /// How far a destination has signed for having applied a lane of ours: [`super::Delivered`].
    pub const DELIVERED: u16 = 10;
    /// A batch of our own that we had forgotten and a neighbour gave back: as [`BATCH`].
    pub const TAKEN_BACK: u16 = 11;
    /// A batch held again for a neighbour that lost it: as [`BATCH`], naming that neighbour.
    pub const AGAIN: u16 = 12;
    /// Messages of a lane to us that nobody holds any more, as its origin has signed: [`super::Gone`].
    pub const GONE: u16 = 13;
    /// What an operator decided: who, when, why, what.
    pub const ORDER: u16 = 14;
    /// A dead letter that was applied after all: [`super::Replayed`].
    pub const REPLAYED: u16 = 15;
    /// The effects of consecutive messages of one batch on one room: [`super::EffectsHead`] and what follows it.
    pub const EFFECTS: u16 = 16;
    /// Batches in custody are kept for the neighbour that they are of: [`super::Kept`].
    pub const KEPT: u16 = 17;
}

const LIMIT: usize = jincai_journal::RECORD_BYTES_MAX;

/// Bytes before the neighbour in a batch record.
const TIMED: usize = 9;

/// A batch record: one byte 0 (ours) or 1, when it was taken (milliseconds since 1970, 8 bytes big-endian), after a 1 the nine
/// digits of the neighbour it came from, then the batch's bytes.
#[must_use]
pub fn batch_record(from: Option<AuthorityId>, time: Millis, batch: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(TIMED + 9 + batch.len());
    out.push(u8::from(from.is_some()));
    out.extend_from_slice(&time.to_be_bytes());
    if let Some(neighbour) = from {
        out.extend_from_slice(neighbour.as_str().as_bytes());
    }
    out.extend_from_slice(batch);
    out
}

/// Reads a batch record: whom it came from, and where the batch's bytes begin.
pub fn split_batch_record(payload: &[u8]) -> Result<(Option<AuthorityId>, usize), Error> {
    let wrong = || Error::Cbor { what: "batch record", reason: "it does not begin as one".into() };
    match payload.first() {
        Some(0) if payload.len() >= TIMED => Ok((None, TIMED)),
        Some(1) => {
            let digits = payload.get(TIMED..TIMED + 9).ok_or_else(wrong)?;
            let text = std::str::from_utf8(digits).map_err(|_| wrong())?;
            Ok((Some(text.parse()?), TIMED + 9))
        }
        _ => Err(wrong()),
    }
}

/// When the batch of a record was taken; 0 if the record is none.
#[must_use]
pub fn batch_time(payload: &[u8]) -> Millis {
    payload.get(1..TIMED).and_then(|bytes| bytes.try_into().ok()).map_or(0, Millis::from_be_bytes)
}

/// Which message brought something about: with its effect in one record, so that it is applied exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Cause {
    /// The lane.
    #[n(0)]
    pub lane: Lane,
    /// The origin's epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// The message's number.
    #[n(2)]
    pub sequence: Sequence,
}

/// A room's effect.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EffectRecord<'b> {
    /// The message that decided it; none for a local command.
    #[n(0)]
    pub cause: Option<Cause>,
    /// The room's prefix.
    #[b(1)]
    pub room: &'b str,
    /// The bulk parts that the message named in `requires`: each has served one message.
    #[n(2)]
    pub used: Vec<Digest>,
    /// The room's own bytes.
    #[b(3)]
    pub effect: &'b ByteSlice,
}

/// What stands before the effects of consecutive messages: the place of the first of them, from which the others count on.
/// Each effect follows as a byte string, up to the record's end (a CBOR sequence, RFC 8742): where an effect begins is known
/// before the next one is decided on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EffectsHead {
    /// The message that brought about the first effect.
    #[n(0)]
    pub first: Cause,
    /// The room's prefix.
    #[n(1)]
    pub room: String,
}

/// Largest effect that shares a record with others, and the size at which a record takes no more.
const SHARED_EFFECT: usize = 16 << 10;
const SHARED_RECORD: usize = 256 << 10;

/// A record of [`kind::EFFECTS`] in the making.
#[derive(Debug)]
pub(crate) struct Effects {
    head: EffectsHead,
    count: u64,
    body: Vec<u8>,
}

impl Effects {
    /// Whether an effect may share a record with others.
    pub(crate) fn shares(effect: &[u8]) -> bool {
        effect.len() <= SHARED_EFFECT
    }

    pub(crate) fn new(first: Cause, room: &str) -> Self {
        let head = EffectsHead { first, room: room.to_owned() };
        let body = encode(&head);
        Self { head, count: 0, body }
    }

    /// Whether the effect of this message follows those that it has.
    pub(crate) fn takes(&self, cause: &Cause, room: &str) -> bool {
        let EffectsHead { first, room: ours } = &self.head;
        let next = first.sequence.checked_add(self.count);
        (first.lane, first.epoch, next) == (cause.lane, cause.epoch, Some(cause.sequence))
            && ours == room
            && self.body.len() < SHARED_RECORD
    }

    /// Adds an effect; returns where its bytes begin in the record.
    pub(crate) fn push(&mut self, effect: &[u8]) -> usize {
        self.count += 1;
        encode_into(&mut self.body, &<&ByteSlice>::from(effect));
        self.body.len() - effect.len()
    }

    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body
    }
}

/// One effect as it stands in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect<'b> {
    /// The message that decided it; none for a local command.
    pub cause: Option<Cause>,
    /// Where its bytes begin in the record.
    pub offset: usize,
    /// The room's own bytes.
    pub bytes: &'b [u8],
}

/// The room and the effects of a record of [`kind::EFFECTS`] or [`kind::EFFECT`], in order; none of a record of another kind.
pub fn effects(kind: u16, body: &[u8]) -> Result<(String, Vec<Effect<'_>>), Error> {
    match kind {
        kind::EFFECT => {
            let record: EffectRecord<'_> = from_body("effect record", body)?;
            // The effect is the record's last field, so it ends where the record ends; a node writes nothing behind it.
            let offset = body.len() - record.effect.len();
            if !std::ptr::eq(body[offset..].as_ptr(), record.effect.as_ptr()) {
                return Err(Error::Cbor { what: "effect record", reason: "something stands behind its effect".into() });
            }
            Ok((record.room.to_owned(), vec![Effect { cause: record.cause, offset, bytes: record.effect }]))
        }
        kind::EFFECTS => shared_effects(body),
        _ => Ok(Default::default()),
    }
}

fn shared_effects(body: &[u8]) -> Result<(String, Vec<Effect<'_>>), Error> {
    let wrong = |reason: String| Error::Cbor { what: "effects", reason };
    let mut decoder = Decoder::new(body);
    let head: EffectsHead = decoder.decode().map_err(|e| wrong(e.to_string()))?;
    let mut effects = Vec::new();
    while decoder.position() < body.len() {
        let bytes = decoder.bytes().map_err(|e| wrong(e.to_string()))?;
        let sequence = head.first.sequence.checked_add(effects.len() as u64);
        let sequence = sequence.ok_or_else(|| wrong("its numbers end before its effects".into()))?;
        let cause = Some(Cause { sequence, ..head.first });
        effects.push(Effect { cause, offset: decoder.position() - bytes.len(), bytes });
    }
    Ok((head.room, effects))
}

/// A refused message. Its bytes stay in the batch record that its place names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeadLetter {
    /// Its place.
    #[n(0)]
    pub cause: Cause,
    /// Its id, as far as it could be read.
    #[n(1)]
    pub id: String,
    /// Why: the stable code.
    #[n(2)]
    pub code: String,
    /// Why: a sentence.
    #[n(3)]
    pub reason: String,
    /// The bulk parts that it named in `requires`.
    #[n(4)]
    pub used: Vec<Digest>,
    /// The record that holds its batch.
    #[n(5)]
    pub record: RecordNumber,
    /// Whether it came late, so that no cursor moves.
    #[n(6)]
    pub late: bool,
}

/// The effect of a message that had been refused and was applied later, out of its lane's order, by somebody's decision.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Replayed {
    /// Who decided it, and why.
    #[n(0)]
    pub person: crate::Person,
    /// When.
    #[n(1)]
    pub time: u64,
    /// The message.
    #[n(2)]
    pub cause: Cause,
    /// The room's prefix.
    #[n(3)]
    pub room: String,
    /// The bulk parts that the message named in `requires`.
    #[n(4)]
    pub used: Vec<Digest>,
    /// The room's own bytes.
    #[n(5)]
    pub effect: ByteVec,
}

/// This node was set back to an older state, and whether its neighbours have helped it to catch up since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Restored {
    /// The newest epoch that was opened since; what was signed in an older one says nothing of what is here.
    #[n(0)]
    pub epoch: Epoch,
    /// Whether it has caught up with its neighbours.
    #[n(1)]
    pub done: bool,
    /// The epoch that was opened then: every start until it has caught up opens another one.
    #[n(2)]
    pub first: Epoch,
}

/// A neighbour was set back: what is in custody here of its own, from before an epoch, is kept for it when custody ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Kept {
    /// The neighbour.
    #[n(0)]
    pub neighbour: AuthorityId,
    /// The epoch in which it has said so.
    #[n(1)]
    pub before: Epoch,
}

/// Messages that were lost for good: a lane goes on behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Gone {
    /// The lane.
    #[n(0)]
    pub lane: Lane,
    /// The last batch before them.
    #[n(1)]
    pub from: LanePosition,
    /// The last of them.
    #[n(2)]
    pub to: LanePosition,
}

/// A destination's receipt for a lane of ours, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Delivered {
    /// The destination.
    #[n(0)]
    pub issuer: AuthorityId,
    /// Its epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// What it signed for.
    #[n(2)]
    pub receipt: Receipt,
}

/// Custody that has ended on one link.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Cleared {
    /// The neighbour that signed for it.
    #[n(0)]
    pub neighbour: AuthorityId,
    /// Up to where, per lane.
    #[n(1)]
    pub lanes: Vec<(Lane, LanePosition)>,
    /// When.
    #[n(2)]
    pub time: Millis,
    /// The list of receipts, or the end-to-end receipt, that says so (COSE_Sign1).
    #[n(3)]
    pub signed: ByteVec,
}

/// Encodes a record body.
pub fn to_body<T: Encode<()>>(value: &T) -> Vec<u8> {
    encode(value)
}

/// Reads a record body of our own journal.
pub fn from_body<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<T, Error> {
    decode(what, bytes, LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(sequence: Sequence) -> Cause {
        Cause { lane: "370502000>000000000/record".parse().expect("lane"), epoch: Epoch::default(), sequence }
    }

    #[test]
    fn effects_of_consecutive_messages_share_a_record() {
        let mut open = Effects::new(cause(7), "room");
        let written = [b"one".as_slice(), b"", &[9; 300]];
        let offsets: Vec<usize> = written.iter().map(|effect| open.push(effect)).collect();
        assert!(open.takes(&cause(10), "room"));
        assert!(!open.takes(&cause(9), "room") && !open.takes(&cause(11), "room"), "not the next message");
        assert!(!open.takes(&cause(10), "other"));
        assert!(!open.takes(&Cause { epoch: Epoch { number: 1, salt: 0 }, ..cause(10) }, "room"));
        let body = open.into_body();
        let (room, read) = effects(kind::EFFECTS, &body).expect("reads");
        assert_eq!(room, "room");
        for (at, effect) in read.iter().enumerate() {
            assert_eq!((effect.cause, effect.bytes), (Some(cause(7 + at as u64)), written[at]));
            assert_eq!(effect.offset, offsets[at]);
            assert_eq!(&body[effect.offset..effect.offset + effect.bytes.len()], written[at]);
        }
        assert_eq!(read.len(), 3);
        assert!(effects(kind::EFFECTS, &body[..body.len() - 1]).is_err(), "a cut record is refused");
    }

    #[test]
    fn what_stands_behind_an_effect_is_not_taken_for_a_part_of_it() {
        for effect in [b"".as_slice(), b"one"] {
            let record = EffectRecord { cause: Some(cause(7)), room: "room", used: Vec::new(), effect: effect.into() };
            let body = to_body(&record);
            let (_, read) = effects(kind::EFFECT, &body).expect("reads");
            assert_eq!((read[0].offset, read[0].bytes), (body.len() - effect.len(), effect));
            // As an array of no stated length, with its end behind the effect.
            let longer = [&[0x9f], &body[1..], &[0xff]].concat();
            assert!(effects(kind::EFFECT, &longer).is_err());
        }
    }

    #[test]
    fn a_record_of_effects_ends_where_numbers_or_room_end() {
        let mut last = Effects::new(cause(Sequence::MAX), "room");
        last.push(b"one");
        assert!(!last.takes(&cause(Sequence::MAX), "room"));
        last.push(b"two");
        assert!(effects(kind::EFFECTS, &last.into_body()).is_err());
        let mut full = Effects::new(cause(1), "room");
        let mut next = 1;
        while full.takes(&cause(next), "room") {
            full.push(&[0; SHARED_EFFECT]);
            next += 1;
        }
        assert!(full.into_body().len() < SHARED_RECORD + SHARED_EFFECT + 64);
        assert!(!Effects::shares(&[0; SHARED_EFFECT + 1]));
    }
}
