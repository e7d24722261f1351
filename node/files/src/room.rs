//! The files room: which files go from here and come to here, and how far each is.
//!
//! It decides on messages and applies effects; what is to be done on the disk it says in [`crate::Job`]s, and hears of the
//! outcome in [`crate::Report`]s. Invariant: a chunk is taken only if the page that promises it is held, a page only if the
//! offer promises it, an offer only if its root does; a file is whole only once all its chunks were reported durable.

use crate::Error;
use crate::effect::Effect;
use crate::meter::Meters;
use crate::model::{
    CHUNK, ChunkMessage, END, EndMessage, FileKey, OFFER, Offer, PAGE, PageMessage, RECEIVED, ReceivedMessage, WANT,
    Want, cut, read,
};
use crate::transfer::{ReceiveState, Receiving, SendState, Sending};
use crate::tree::{chunk_digest, chunk_len, page_digest, page_len, split_digests};
use jincai_exchange::{Decision, Delivery, Outgoing, Parts, Place, Refusal, RefusalNote, Room, RoomError};
use jincai_types::{AuthorityId, Destination, Digest, Millis, RecordNumber, Requirement, decode, encode};
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};

const ROOM: &str = "files";
pub(crate) const PREFIX: &str = "jincai.file.";
const FORMAT: u8 = 1;
/// Most transfers under way from one origin to here, or from here.
pub(crate) const UNDER_WAY: usize = 512;
/// Most files from others that are known, whole ones included.
const KNOWN: usize = 100_000;
/// Most transfers that ended badly and are still shown, each way.
const SHOWN: usize = 1_000;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    format: u8,
    #[n(1)]
    sending: Vec<(FileKey, Sending)>,
    #[n(2)]
    receiving: Vec<(FileKey, Receiving)>,
    #[n(3)]
    again: Vec<FileKey>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says what is counted")]
pub struct FileCounters {
    pub chunks_sent: u64,
    pub bytes_sent: u64,
    pub chunks_received: u64,
    pub bytes_received: u64,
    /// Chunks that came and were not (any more) asked for.
    pub chunks_unasked: u64,
    /// Chunks that did not have to travel, because the store had them.
    pub chunks_known: u64,
    pub files_received: u64,
    pub files_delivered: u64,
    pub transfers_failed: u64,
}

/// The room.
pub struct Files {
    pub(crate) me: AuthorityId,
    pub(crate) sending: BTreeMap<FileKey, Sending>,
    pub(crate) receiving: BTreeMap<FileKey, Receiving>,
    /// Those of them that are not over: a node may hold a hundred thousand that are.
    open: BTreeSet<FileKey>,
    /// When those that were sent and are over were so.
    over: BTreeSet<(Millis, FileKey)>,
    /// Those whose offers were taken back: their destination may have said already that they are over.
    pub(crate) again: BTreeSet<FileKey>,
    pub(crate) counters: FileCounters,
    /// Rises with everything that may give the keeper something to do.
    pub(crate) changes: u64,
    /// Rises when something in the store may not be needed any more.
    pub(crate) releases: u64,
    /// Why transfers wait, as the keeper said last; of this run alone.
    pub(crate) waits: BTreeMap<FileKey, Error>,
    pub(crate) meters: Meters,
}

impl Files {
    /// An empty room of a node.
    #[must_use]
    pub fn new(me: AuthorityId) -> Self {
        Self {
            me,
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            open: BTreeSet::new(),
            over: BTreeSet::new(),
            again: BTreeSet::new(),
            counters: FileCounters::default(),
            changes: 1,
            releases: 1,
            waits: BTreeMap::new(),
            meters: Meters::default(),
        }
    }

    /// Files that go from here.
    pub fn sending(&self) -> impl Iterator<Item = (&FileKey, &Sending)> {
        self.sending.iter()
    }

    /// Files that come to here.
    pub fn receiving(&self) -> impl Iterator<Item = (&FileKey, &Receiving)> {
        self.receiving.iter()
    }

    /// Files that come to here and are not over.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&FileKey, &Receiving)> {
        self.open.iter().filter_map(|key| self.receiving.get_key_value(key))
    }

    /// The file that was sent from here whose transfer has been over for longest, and since when.
    pub(crate) fn longest_over(&self) -> Option<&(Millis, FileKey)> {
        self.over.first()
    }

    /// Keeps the indexes true to what has become of a transfer.
    fn index(&mut self, key: &FileKey) {
        let _changed = match self.receiving.get(key).is_some_and(|coming| !coming.is_over()) {
            true => self.open.insert(key.clone()),
            false => self.open.remove(key),
        };
        if key.origin == self.me {
            self.over.retain(|(_, over)| over != key);
            let sending = self.sending.get(key);
            if let Some(over) = sending.filter(|sending| sending.is_over()) {
                self.over.insert((over.ended, key.clone()));
            }
            if sending.is_none_or(Sending::is_over) {
                self.again.remove(key);
            }
        }
    }

    /// A file that was sent from here.
    #[must_use]
    pub fn sent(&self, id: &str) -> Option<(&FileKey, &Sending)> {
        self.sending.get_key_value(&FileKey { origin: self.me, id: id.to_owned() })
    }

    /// A file that came to here, or is coming.
    #[must_use]
    pub fn coming(&self, key: &FileKey) -> Option<&Receiving> {
        self.receiving.get(key)
    }

    /// Why a transfer waits, if it does for something of this node.
    #[must_use]
    pub fn waits(&self, key: &FileKey) -> Option<&Error> {
        self.waits.get(key)
    }

    /// Every transfer that waits for something of this node.
    pub fn waiting(&self) -> impl Iterator<Item = (&FileKey, &Error)> {
        self.waits.iter()
    }

    /// Bytes a second that a transfer has made lately.
    #[must_use]
    pub fn rate(&self, key: &FileKey, now: Millis) -> u64 {
        self.meters.rate(key, now)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &FileCounters {
        &self.counters
    }

    /// Rises with everything that may give the keeper something to do.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Rises when something in the store may not be needed any more.
    #[must_use]
    pub fn releases(&self) -> u64 {
        self.releases
    }

    /// The roots of everything that the store must keep, whole or in part.
    #[must_use]
    pub fn roots(&self) -> BTreeSet<Digest> {
        let sending = self.sending.values().filter(|s| !matches!(s.state, SendState::Ended(..)));
        let receiving = self.receiving.values().filter(|r| !matches!(r.state, ReceiveState::Ended(..)));
        sending.map(|s| s.offer.root).chain(receiving.map(|r| r.offer.root)).collect()
    }

    fn offered(&self, now: Millis, delivery: &Delivery<'_>) -> Result<Effect, Error> {
        let offer: Offer = read("file offer", delivery.payload)?;
        offer.check()?;
        if delivery.lane.destination != Destination::Authority(self.me) {
            return Err(Error::Unusable { reason: "a file goes to one authority".into() });
        }
        let origin = delivery.lane.origin;
        let key = FileKey { origin, id: offer.id.clone() };
        match self.receiving.get(&key) {
            // An origin that was set back may offer again what it has offered.
            Some(known) if known.offer == offer => return Ok(Effect::Nothing),
            Some(_) => return Err(Error::OtherFile { id: offer.id }),
            None => {}
        }
        let first = FileKey { origin, id: String::new() };
        let of_origin = self.open.range(first..).take_while(|key| key.origin == origin).count();
        let limits = [(of_origin, UNDER_WAY), (self.receiving.len(), KNOWN)];
        if let Some((_, limit)) = limits.into_iter().find(|(count, limit)| count >= limit) {
            return Err(Error::TooMany { with: origin, limit });
        }
        Ok(Effect::Offered(origin, now, offer))
    }

    fn wanted(&self, delivery: &Delivery<'_>) -> Result<Effect, Error> {
        let want: Want = read("file want", delivery.payload)?;
        let key = FileKey { origin: self.me, id: want.id.clone() };
        let gone = || Error::Gone { id: want.id.clone() };
        let sending = self.sending.get(&key).filter(|s| s.to == delivery.lane.origin).ok_or_else(gone)?;
        if matches!(sending.state, SendState::Ended(..)) {
            return Err(gone());
        }
        want.check(sending.offer.size)?;
        if !want.anew && sending.is_overwhelmed(&want.chunks) {
            return Err(Error::Unusable { reason: "more is wanted at a time than a destination needs".into() });
        }
        Ok(Effect::Wanted(key, want.anew, want.pages, want.chunks, delivery.epoch))
    }

    fn page(&mut self, delivery: &Delivery<'_>) -> Result<Effect, Error> {
        let PageMessage { id, page, digests } = read("file page", delivery.payload)?;
        let key = FileKey { origin: delivery.lane.origin, id };
        let asked = self.receiving.get(&key).filter(|coming| coming.asked_pages.contains(&page));
        let Some(coming) = asked else { return Ok(Effect::Nothing) };
        let promised = usize::try_from(page).ok().and_then(|at| coming.offer.pages.get(at));
        let chunks = split_digests(&digests).filter(|chunks| chunks.len() as u64 == page_len(coming.offer.size, page));
        match chunks {
            Some(chunks) if promised == Some(&page_digest(&chunks)) => Ok(Effect::Page(key, page, digests)),
            _ => Err(Error::Mismatch { id: key.id, what: format!("page {page}") }),
        }
    }

    fn chunk(&mut self, delivery: &Delivery<'_>) -> Result<Effect, Error> {
        let ChunkMessage { id, chunk, bytes } = read("file chunk", delivery.payload)?;
        let key = FileKey { origin: delivery.lane.origin, id };
        let asked = self.receiving.get(&key).filter(|c| c.asked.get(&chunk).is_some_and(|asked| asked.at.is_none()));
        let Some(coming) = asked else {
            self.counters.chunks_unasked += 1;
            return Ok(Effect::Nothing);
        };
        let length = bytes.len() as u64 == chunk_len(coming.offer.size, chunk);
        let digest = coming.promised(chunk);
        if !length || digest != Some(chunk_digest(bytes)) {
            return Err(Error::Mismatch { id: key.id, what: format!("chunk {chunk}") });
        }
        self.counters.chunks_received += 1;
        self.counters.bytes_received += bytes.len() as u64;
        Ok(Effect::Chunk(key, chunk, delivery.record, delivery.index as u64))
    }

    /// Somebody who offers or sends what is over here was set back, or has heard of a want after that word: it hears the word
    /// again, and ends.
    fn tells_again(&self, now: Millis, delivery: &Delivery<'_>) -> Option<Outgoing> {
        let origin = delivery.lane.origin;
        let key = FileKey { origin, id: delivery.attributes.subject.clone() };
        let coming = self.receiving.get(&key)?;
        let at = (now, delivery.sequence);
        match &coming.state {
            ReceiveState::Whole => Some(self.received_message(at, &key, coming.offer.root)),
            ReceiveState::Ended(code, reason) => Some(self.end_message(at, &key, origin, (code, reason))),
            ReceiveState::Offered | ReceiveState::Receiving => None,
        }
    }

    fn received(&self, now: Millis, delivery: &Delivery<'_>) -> Result<Effect, Error> {
        let ReceivedMessage { id, root } = read("file receipt", delivery.payload)?;
        let key = FileKey { origin: self.me, id };
        let theirs = |s: &&Sending| s.hears(delivery.lane.origin, delivery.epoch) && s.offer.root == root;
        Ok(match self.sending.get(&key).filter(theirs) {
            Some(_) => Effect::Received(key, now),
            None => Effect::Nothing,
        })
    }

    fn ended(&self, now: Millis, delivery: &Delivery<'_>) -> Result<Effect, Error> {
        let EndMessage { key, code, reason } = read("end of a file transfer", delivery.payload)?;
        let from = delivery.lane.origin;
        let (code, reason) = cut((&code, &reason));
        if key.origin == self.me {
            let open = self.sending.get(&key).is_some_and(|s| s.hears(from, delivery.epoch));
            return Ok(if open { Effect::SendingEnded(key, now, code, reason) } else { Effect::Nothing });
        }
        if key.origin != from {
            return Err(Error::Unusable { reason: "only the two ends of a transfer end it".into() });
        }
        let open = self.receiving.get(&key).is_some_and(|r| !r.is_over());
        Ok(if open { Effect::ReceivingEnded(key, now, code, reason) } else { Effect::Nothing })
    }

    /// A message about a file was refused by its destination: what that means here, if it is about a transfer under way, and
    /// what the other side must hear.
    #[must_use]
    pub fn refused(&self, now: Millis, from: AuthorityId, note: &RefusalNote) -> Option<(Vec<u8>, Vec<Outgoing>)> {
        let (code, reason) = cut((&note.code, &note.reason));
        let id = note.subject.clone();
        match note.kind.as_str() {
            OFFER | PAGE | CHUNK => {
                let key = FileKey { origin: self.me, id };
                self.sending.get(&key).filter(|s| s.to == from && !s.is_over())?;
                let end = self.end_message((now, 0), &key, from, (&code, &reason));
                let messages = if note.kind == OFFER { Vec::new() } else { vec![end] };
                Some((encode(&Effect::SendingEnded(key, now, code, reason)), messages))
            }
            WANT => {
                let key = FileKey { origin: from, id };
                self.receiving.get(&key).filter(|r| !r.is_over())?;
                // It may have been set back when it refused, and know of the file again.
                let end = self.end_message((now, 0), &key, from, (&code, &reason));
                Some((encode(&Effect::ReceivingEnded(key, now, code, reason)), vec![end]))
            }
            _ => None,
        }
    }

    fn change_sending(&mut self, effect: Effect) {
        match effect {
            Effect::Submitted(to, time, offer) => drop(self.offer(to, time, offer)),
            Effect::Retaken(to, time, offer) => {
                let key = self.offer(to, time, offer);
                self.again.insert(key);
            }
            Effect::Reoffered(key) => drop(self.again.remove(&key)),
            Effect::Wanted(key, anew, pages, chunks, asked_in) => {
                if let Some(sending) = self.sending.get_mut(&key) {
                    let was_over = sending.is_over();
                    sending.want((anew, asked_in), &pages, &chunks);
                    if was_over {
                        self.index(&key);
                    }
                }
            }
            Effect::Sent(key, pages, chunks) => {
                if let Some(sending) = self.sending.get_mut(&key) {
                    sending.sent(&pages, &chunks);
                }
            }
            Effect::Received(key, time) => {
                self.end_sending(&key, SendState::Received, time);
                self.counters.files_delivered += 1;
            }
            Effect::SendingEnded(key, time, code, reason) => {
                self.end_sending(&key, SendState::Ended(code, reason), time);
                self.counters.transfers_failed += 1;
            }
            _ => {}
        }
    }

    fn offer(&mut self, to: AuthorityId, time: Millis, offer: Offer) -> FileKey {
        let key = FileKey { origin: self.me, id: offer.id.clone() };
        self.sending.insert(key.clone(), Sending::new(to, time, offer));
        key
    }

    fn end_sending(&mut self, key: &FileKey, state: SendState, time: Millis) {
        self.releases += 1;
        self.waits.remove(key);
        self.meters.forget(key);
        if let Some(sending) = self.sending.get_mut(key) {
            sending.end(state, time);
        }
        self.index(key);
        let bad = |s: &&Sending| matches!(s.state, SendState::Ended(..));
        if self.sending.values().filter(bad).count() > SHOWN {
            let oldest = self.sending.iter().filter(|(_, s)| bad(s)).min_by_key(|(_, s)| s.ended);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.sending.remove(&key);
                self.index(&key);
            }
        }
    }

    fn change_receiving(&mut self, effect: Effect) -> Result<(), RoomError> {
        if let Effect::Offered(origin, time, offer) = effect {
            let key = FileKey { origin, id: offer.id.clone() };
            self.receiving.insert(key.clone(), Receiving::new(time, offer));
            self.index(&key);
            return Ok(());
        }
        let Some(key) = effect.receiving_key().cloned() else { return Ok(()) };
        let Some(coming) = self.receiving.get_mut(&key) else { return Ok(()) };
        match effect {
            Effect::Begun(_, time) => coming.begin(time),
            Effect::Page(_, page, digests) => {
                let wrong = || RoomError { room: ROOM, reason: "a page that holds no digests".into() };
                coming.note_page(page, split_digests(&digests).ok_or_else(wrong)?);
            }
            Effect::Chunk(_, chunk, record, index) => coming.note_chunk(chunk, (record, index)),
            Effect::Checked(_, page, upto, known) => {
                let before = coming.known_chunks;
                coming.note_checked(page, upto, &known);
                self.counters.chunks_known += coming.known_chunks - before;
            }
            Effect::Asked(_, pages, chunks) => coming.note_asked(&pages, &chunks),
            Effect::Stored(_, chunks) => coming.note_stored(&chunks),
            Effect::Again(_) => {
                coming.again();
                self.index(&key);
            }
            Effect::Completed(_, time) => {
                coming.end(ReceiveState::Whole, time);
                self.counters.files_received += 1;
                self.end_receiving(&key);
                self.index(&key);
            }
            Effect::ReceivingEnded(_, time, code, reason) => {
                coming.end(ReceiveState::Ended(code, reason), time);
                self.counters.transfers_failed += 1;
                self.end_receiving(&key);
                self.index(&key);
            }
            _ => {}
        }
        Ok(())
    }

    fn end_receiving(&mut self, key: &FileKey) {
        self.releases += 1;
        self.waits.remove(key);
        self.meters.forget(key);
        let bad = |r: &&Receiving| matches!(r.state, ReceiveState::Ended(..));
        if self.receiving.values().filter(bad).count() > SHOWN {
            let oldest = self.receiving.iter().filter(|(_, r)| bad(r)).min_by_key(|(_, r)| r.ended);
            oldest.map(|(key, _)| key.clone()).into_iter().for_each(|key| drop(self.receiving.remove(&key)));
        }
    }
}

impl Effect {
    /// The file that comes to this node which the effect is about.
    fn receiving_key(&self) -> Option<&FileKey> {
        match self {
            Self::Begun(key, ..)
            | Self::Page(key, ..)
            | Self::Chunk(key, ..)
            | Self::Checked(key, ..)
            | Self::Asked(key, ..)
            | Self::Stored(key, ..)
            | Self::Again(key)
            | Self::Completed(key, ..)
            | Self::ReceivingEnded(key, ..) => Some(key),
            _ => None,
        }
    }
}

impl Receiving {
    /// The digest that a held page promises for a chunk.
    fn promised(&self, chunk: u64) -> Option<Digest> {
        let page = u32::try_from(chunk / crate::tree::PAGE_CHUNKS).ok()?;
        let at = usize::try_from(chunk % crate::tree::PAGE_CHUNKS).ok()?;
        self.pages.get(&page)?.digests.get(at).copied()
    }
}

impl Room for Files {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn decide(&mut self, now: Millis, delivery: &Delivery<'_>, _: &dyn Parts) -> Decision {
        let decided = match delivery.attributes.kind.as_str() {
            OFFER => self.offered(now, delivery),
            WANT => self.wanted(delivery),
            PAGE => self.page(delivery),
            CHUNK => self.chunk(delivery),
            RECEIVED => self.received(now, delivery),
            END => self.ended(now, delivery),
            other => Err(Error::Unusable { reason: format!("a message of type {other} is not known") }),
        };
        match decided {
            Ok(effect) => {
                let of_content = [OFFER, PAGE, CHUNK].contains(&delivery.attributes.kind.as_str());
                let told = if of_content && effect == Effect::Nothing { self.tells_again(now, delivery) } else { None };
                Decision::Apply { effect: encode(&effect), messages: told.into_iter().collect() }
            }
            Err(error) => Decision::Refuse(Refusal { code: error.code(), reason: error.to_string() }),
        }
    }

    fn apply(&mut self, _: &Place, effect: &[u8]) -> Result<(), RoomError> {
        let limit = jincai_journal::RECORD_BYTES_MAX;
        let wrong = |e: jincai_types::Error| RoomError { room: ROOM, reason: e.to_string() };
        let effect: Effect = decode("effect on files", effect, limit).map_err(wrong)?;
        self.changes += 1;
        match &effect {
            Effect::Nothing => return Ok(()),
            Effect::Forgotten(key, sent) => {
                self.releases += 1;
                self.waits.remove(key);
                match sent {
                    true => drop(self.sending.remove(key)),
                    false => drop(self.receiving.remove(key)),
                }
                self.index(key);
                return Ok(());
            }
            _ => {}
        }
        match effect.receiving_key().is_some() || matches!(effect, Effect::Offered(..)) {
            true => self.change_receiving(effect),
            false => {
                self.change_sending(effect);
                Ok(())
            }
        }
    }

    fn meets(&self, _: &Requirement) -> Option<bool> {
        None
    }

    /// An offer of ours that a restore had made this node forget stands again.
    fn retake(&mut self, delivery: &Delivery<'_>, _: &dyn Parts) -> Option<Vec<u8>> {
        let Destination::Authority(to) = delivery.lane.destination else { return None };
        let offer: Offer = read("file offer", delivery.payload).ok().filter(|_| delivery.attributes.kind == OFFER)?;
        let known = self.sending.contains_key(&FileKey { origin: self.me, id: offer.id.clone() });
        (!known && offer.check().is_ok()).then(|| encode(&Effect::Retaken(to, delivery.attributes.time, offer)))
    }

    fn save(&self) -> Vec<u8> {
        let sending = self.sending.iter().map(|(key, s)| (key.clone(), s.clone())).collect();
        let receiving = self.receiving.iter().map(|(key, r)| (key.clone(), r.clone())).collect();
        encode(&Saved { format: FORMAT, sending, receiving, again: self.again.iter().cloned().collect() })
    }

    fn load(&mut self, saved: &[u8]) -> Result<(), RoomError> {
        let wrong = |reason: String| RoomError { room: ROOM, reason };
        let saved: Saved = decode("snapshot of the files", saved, saved.len()).map_err(|e| wrong(e.to_string()))?;
        if saved.format != FORMAT {
            return Err(wrong(format!("a snapshot's format is {}, not {FORMAT}", saved.format)));
        }
        self.sending = saved.sending.into_iter().collect();
        self.receiving = saved.receiving.into_iter().collect();
        self.again = saved.again.into_iter().collect();
        self.open = self.receiving.iter().filter(|(_, r)| !r.is_over()).map(|(key, _)| key.clone()).collect();
        let over = self.sending.iter().filter(|(_, sending)| sending.is_over());
        self.over = over.map(|(key, sending)| (sending.ended, key.clone())).collect();
        Ok(())
    }

    fn live(&self, each: &mut dyn FnMut(RecordNumber)) {
        let staged = self.open().flat_map(|(_, coming)| coming.staged());
        staged.for_each(|(_, record, _)| each(record));
    }
}
