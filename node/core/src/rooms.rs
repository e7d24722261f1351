//! All rooms of a node, chosen by the message's type.

use crate::inbox::{self, Inbox};
use jincai_dictionary::Dictionary;
use jincai_exchange::{Decision, Delivery, Parts, Place, REFUSAL, RefusalNote, Room, RoomError, Rooms, record};
use jincai_files::Files;
use jincai_storage::Storage;
use jincai_types::{Millis, RecordNumber, Requirement};
use minicbor::bytes::ByteVec;

/// The rooms.
pub struct RoomSet {
    /// The data dictionary.
    pub dictionary: Dictionary,
    /// Standard storage.
    pub storage: Storage,
    /// Bulk files.
    pub files: Files,
    /// Plain messages.
    pub inbox: Inbox,
}

impl RoomSet {
    fn rooms(&self) -> [&dyn Room; 3] {
        [&self.dictionary, &self.storage, &self.files]
    }

    fn rooms_mut(&mut self) -> [&mut dyn Room; 3] {
        [&mut self.dictionary, &mut self.storage, &mut self.files]
    }

    /// Every room's state: prefix and bytes.
    pub(crate) fn save(&self) -> Vec<(String, ByteVec)> {
        let mut out = vec![(inbox::PREFIX.to_owned(), ByteVec::from(self.inbox.save()))];
        out.extend(self.rooms().iter().map(|room| (room.prefix().to_owned(), ByteVec::from(room.save()))));
        out
    }

    /// Takes back what [`Self::save`] gave; the rooms are empty before.
    pub(crate) fn load(&mut self, saved: &[(String, ByteVec)]) -> Result<(), RoomError> {
        for (prefix, bytes) in saved {
            if prefix == inbox::PREFIX {
                self.inbox.load(bytes)?;
                continue;
            }
            self.room_mut(prefix)?.load(bytes)?;
        }
        Ok(())
    }

    /// The records that some room still reads by their number.
    pub(crate) fn live(&self, each: &mut dyn FnMut(RecordNumber)) {
        self.inbox.live(each);
        self.rooms().iter().for_each(|room| room.live(each));
    }

    fn room_mut(&mut self, prefix: &str) -> Result<&mut dyn Room, RoomError> {
        let found = self.rooms_mut().into_iter().find(|room| room.prefix() == prefix);
        found.ok_or_else(|| RoomError { room: "node", reason: format!("this version has no room «{prefix}»") })
    }

    /// A refusal goes to the room whose message was refused, if that has a use for it; else it is shown as a message.
    fn refusal(&self, now: Millis, delivery: &Delivery<'_>) -> (&'static str, Decision) {
        let note: Option<RefusalNote> = record::from_body("refusal", delivery.payload).ok();
        let from = delivery.lane.origin;
        let of_file = note.as_ref().and_then(|note| self.files.refused(now, from, note));
        if let Some((effect, messages)) = of_file {
            return (self.files.prefix(), Decision::Apply { effect, messages });
        }
        let effect = note.and_then(|note| self.storage.refused(from, &note));
        match effect {
            Some(effect) => (self.storage.prefix(), Decision::Apply { effect, messages: Vec::new() }),
            None => (inbox::PREFIX, self.inbox.decide(delivery)),
        }
    }
}

impl Rooms for RoomSet {
    fn decide(&mut self, now: Millis, delivery: &Delivery<'_>, parts: &dyn Parts) -> Option<(&'static str, Decision)> {
        let kind = delivery.attributes.kind.as_str();
        if kind == REFUSAL {
            return Some(self.refusal(now, delivery));
        }
        if kind.starts_with(inbox::PREFIX) {
            return Some((inbox::PREFIX, self.inbox.decide(delivery)));
        }
        let room = self.rooms_mut().into_iter().find(|room| kind.starts_with(room.prefix()))?;
        Some((room.prefix(), room.decide(now, delivery, parts)))
    }

    fn retake(&mut self, delivery: &Delivery<'_>, parts: &dyn Parts) -> Option<(&'static str, Vec<u8>)> {
        let room = self.rooms_mut().into_iter().find(|room| delivery.attributes.kind.starts_with(room.prefix()))?;
        room.retake(delivery, parts).map(|effect| (room.prefix(), effect))
    }

    fn apply(&mut self, place: &Place, room: &str, effect: &[u8]) -> Result<(), RoomError> {
        if room == inbox::PREFIX {
            return self.inbox.apply(place, effect);
        }
        self.room_mut(room)?.apply(place, effect)
    }

    fn meets(&self, requirement: &Requirement) -> Option<bool> {
        self.rooms().into_iter().find_map(|room| room.meets(requirement))
    }
}
