//! All rooms of a node, chosen by the message's type.

use crate::inbox::{self, Inbox};
use jincai_dictionary::Dictionary;
use jincai_exchange::{Decision, Delivery, Parts, Place, REFUSAL, RefusalNote, Room, RoomError, Rooms, record};
use jincai_storage::Storage;
use jincai_types::{Millis, Requirement};

/// The rooms.
pub struct RoomSet {
    /// The data dictionary.
    pub dictionary: Dictionary,
    /// Standard storage.
    pub storage: Storage,
    /// Plain messages.
    pub inbox: Inbox,
}

impl RoomSet {
    fn rooms(&self) -> [&dyn Room; 2] {
        [&self.dictionary, &self.storage]
    }

    /// A refusal goes to the room whose message was refused, if that has a use for it; else it is shown as a message.
    fn refusal(&self, delivery: &Delivery<'_>) -> (&'static str, Decision) {
        let note: Option<RefusalNote> = record::from_body("refusal", delivery.payload).ok();
        let effect = note.and_then(|note| self.storage.refused(delivery.lane.origin, &note));
        match effect {
            Some(effect) => (self.storage.prefix(), Decision::Apply { effect, messages: Vec::new() }),
            None => (inbox::PREFIX, Decision::Apply { effect: Inbox::decide(delivery), messages: Vec::new() }),
        }
    }
}

impl Rooms for RoomSet {
    fn decide(&mut self, now: Millis, delivery: &Delivery<'_>, parts: &dyn Parts) -> Option<(&'static str, Decision)> {
        let kind = delivery.attributes.kind.as_str();
        if kind == REFUSAL {
            return Some(self.refusal(delivery));
        }
        if kind.starts_with(inbox::PREFIX) {
            return Some((inbox::PREFIX, Decision::Apply { effect: Inbox::decide(delivery), messages: Vec::new() }));
        }
        let rooms: [&mut dyn Room; 2] = [&mut self.dictionary, &mut self.storage];
        let room = rooms.into_iter().find(|room| kind.starts_with(room.prefix()))?;
        Some((room.prefix(), room.decide(now, delivery, parts)))
    }

    fn apply(&mut self, place: &Place, room: &str, effect: &[u8]) -> Result<(), RoomError> {
        if room == inbox::PREFIX {
            return self.inbox.apply(place, effect);
        }
        let rooms: [&mut dyn Room; 2] = [&mut self.dictionary, &mut self.storage];
        match rooms.into_iter().find(|r| r.prefix() == room) {
            Some(found) => found.apply(place, effect),
            None => Err(RoomError { room: "node", reason: format!("this version has no room «{room}»") }),
        }
    }

    fn meets(&self, requirement: &Requirement) -> Option<bool> {
        self.rooms().into_iter().find_map(|room| room.meets(requirement))
    }
}
