//! What callers and the keeper decide about files: each decision is an effect and the messages that go with it.

use crate::Error;
use crate::effect::Effect;
use crate::job::Report;
use crate::model::{
    CHUNK, ChunkMessage, END, EndMessage, FileKey, OFFER, Offer, PAGE, PageMessage, RECEIVED, ReceivedMessage, Span,
    WANT, Want, spans_of,
};
use crate::room::{Files, UNDER_WAY};
use crate::transfer::{ReceiveState, Receiving, SendState, Sending};
use crate::tree::{CHUNK_BYTES, Tree, join_digests};
use jincai_exchange::Outgoing;
use jincai_types::{Attributes, AuthorityId, Destination, Digest, Millis, Priority, encode};

/// Bytes of one transfer that may be asked for and not stored, and of all together.
const WINDOW: u64 = 48 << 20;
const WINDOW_OF_ALL: u64 = 128 << 20;
/// The least window of a transfer, in chunks.
const LEAST: u64 = 8;

/// A decision: to be journaled, and sent in the same append.
#[derive(Debug)]
pub struct Staged {
    /// The effect.
    pub effect: Vec<u8>,
    /// Messages that it sets off.
    pub messages: Vec<Outgoing>,
}

/// A file that a caller wants sent. Its content is in the store.
#[derive(Clone, Debug)]
pub struct Submission {
    /// To whom.
    pub to: AuthorityId,
    /// The transfer's id, which the caller chose.
    pub id: String,
    /// The file's name.
    pub name: String,
    /// Its media type.
    pub media: String,
    /// Its tree.
    pub tree: Tree,
}

impl Files {
    /// Offers a file to somebody; `None` if it was offered under this id already.
    pub fn submit(&self, now: Millis, submission: Submission) -> Result<Option<Staged>, Error> {
        let Submission { to, id, name, media, tree } = submission;
        let Tree { size, root, pages } = tree;
        let offer = Offer { id, name, media, size, root, pages };
        offer.check()?;
        let key = FileKey { origin: self.me, id: offer.id.clone() };
        if to == self.me {
            return Err(Error::Unusable { reason: "a file is sent to somebody else".into() });
        }
        match self.sending.get(&key) {
            Some(known) if known.to == to && known.offer == offer => return Ok(None),
            Some(_) => return Err(Error::OtherFile { id: offer.id }),
            None => {}
        }
        if self.sending.values().filter(|s| !s.is_over()).count() >= UNDER_WAY {
            return Err(Error::TooMany { with: self.me, limit: UNDER_WAY });
        }
        let id = format!("file:{key}/offer");
        let message = self.offer_message((now, to), id, &offer);
        let effect = encode(&Effect::Submitted(to, now, offer));
        Ok(Some(Staged { effect, messages: vec![message] }))
    }

    /// Whether a file may be sent under an id, before its content is taken in: `true` if it is new.
    pub fn is_new(&self, id: &str) -> bool {
        !self.sending.contains_key(&FileKey { origin: self.me, id: id.to_owned() })
    }

    /// What a report of the keeper means; `None` if it is out of date, or only says why something waits.
    pub fn report(&mut self, now: Millis, report: Report) -> Option<Staged> {
        self.note_wait(&report);
        let key = report.key().clone();
        let (effect, messages) = match report {
            Report::Sent { pages, chunks, .. } => self.answer(now, key, pages, &chunks)?,
            Report::Broken { error, .. } => {
                let sending = self.sending.get(&key).filter(|s| !s.is_over())?;
                let (code, reason) = (error.code(), error.to_string());
                let end = self.end_message((now, 0), &key, sending.to, (code, &reason));
                (Effect::SendingEnded(key, now, code.into(), reason), vec![end])
            }
            report => self.received_report(now, key, report)?,
        };
        Some(Staged { effect: encode(&effect), messages })
    }

    fn received_report(&mut self, now: Millis, key: FileKey, report: Report) -> Option<(Effect, Vec<Outgoing>)> {
        let coming = self.receiving.get(&key).filter(|coming| !coming.is_over())?;
        let effect = match report {
            Report::Begun { .. } if coming.state == ReceiveState::Offered => Effect::Begun(key, now),
            Report::Checked { page, upto, known, .. } => {
                coming.pages.get(&page).filter(|held| held.checked < upto)?;
                Effect::Checked(key, page, upto, spans_of(known))
            }
            Report::Stored { chunks, .. } => {
                let staged = |chunk: &u64| coming.asked.get(chunk).is_some_and(|asked| asked.at.is_some());
                let chunks: Vec<u64> = chunks.into_iter().filter(staged).collect();
                self.meters.moved(&key, chunks.len() as u64 * CHUNK_BYTES, now);
                (!chunks.is_empty()).then(|| Effect::Stored(key, spans_of(chunks)))?
            }
            Report::Completed { .. } => {
                let message = self.received_message((now, 0), &key, coming.offer.root);
                return Some((Effect::Completed(key, now), vec![message]));
            }
            Report::Again { .. } if coming.is_active() => Effect::Again(key),
            _ => return None,
        };
        Some((effect, Vec::new()))
    }

    fn note_wait(&mut self, report: &Report) {
        match report {
            Report::Waits { key, error } => {
                // A transfer that ended meanwhile waits for nothing.
                let coming = self.receiving.get(key).is_some_and(|coming| !coming.is_over());
                if coming || self.sending.get(key).is_some_and(|sending| !sending.is_over()) {
                    self.waits.insert(key.clone(), error.clone());
                }
            }
            other => drop(self.waits.remove(other.key())),
        }
    }

    /// Pages and chunks that the keeper has read, as far as they are wanted still.
    fn answer(
        &mut self,
        now: Millis,
        key: FileKey,
        pages: Vec<(u32, Vec<Digest>)>,
        chunks: &[(u64, Vec<u8>)],
    ) -> Option<(Effect, Vec<Outgoing>)> {
        let sending = self.sending.get(&key).filter(|s| s.state == SendState::Sending)?;
        let to = sending.to;
        let pages: Vec<_> = pages.into_iter().filter(|(page, _)| sending.pages.contains(page)).collect();
        let chunks: Vec<_> = chunks.iter().filter(|(chunk, _)| sending.wants(*chunk)).collect();
        let mut messages = Vec::new();
        for (page, digests) in &pages {
            let payload = PageMessage { id: key.id.clone(), page: *page, digests: join_digests(digests).into() };
            let id = format!("file:{key}/page/{page}/{now}");
            messages.push(self.message((now, to), Priority::Bulk, (PAGE, id, &key), encode(&payload)));
        }
        for (chunk, bytes) in &chunks {
            let payload = ChunkMessage { id: key.id.clone(), chunk: *chunk, bytes: bytes.as_slice().into() };
            let id = format!("file:{key}/chunk/{chunk}/{now}");
            messages.push(self.message((now, to), Priority::Bulk, (CHUNK, id, &key), encode(&payload)));
        }
        if messages.is_empty() {
            return None;
        }
        let bytes = chunks.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.counters.chunks_sent += chunks.len() as u64;
        self.counters.bytes_sent += bytes;
        self.meters.moved(&key, bytes, now);
        let spans = spans_of(chunks.iter().map(|(chunk, _)| *chunk));
        Some((Effect::Sent(key, pages.iter().map(|(page, _)| *page).collect(), spans), messages))
    }

    /// Chunks of each transfer that may be asked for and not stored.
    fn window(&self) -> u64 {
        let active = self.open().filter(|(_, coming)| coming.is_active()).count() as u64;
        ((WINDOW_OF_ALL / active.max(1)).min(WINDOW) / CHUNK_BYTES).max(LEAST)
    }

    /// Whether there is something to ask for.
    #[must_use]
    pub fn has_wants(&self) -> bool {
        let (each, mut active) = (self.window(), self.open().filter(|(_, coming)| coming.is_active()));
        active.any(|(key, coming)| {
            let (pages, chunks) = coming.next_wanted(each);
            !(self.waits.contains_key(key) || pages.is_empty() && chunks.is_empty())
        })
    }

    /// What to ask for now, transfer by transfer.
    #[must_use]
    pub fn next_wants(&self, now: Millis) -> Vec<(FileKey, Staged)> {
        let each = self.window();
        let mut staged = Vec::new();
        for (key, coming) in self.open().filter(|(_, coming)| coming.is_active()) {
            let (pages, chunks) = coming.next_wanted(each);
            if pages.is_empty() && chunks.is_empty() {
                continue;
            }
            let want = Want { id: key.id.clone(), anew: coming.fresh, pages: pages.clone(), chunks: chunks.clone() };
            let first = chunks.first().map_or_else(String::new, |span: &Span| span.from.to_string());
            let id = format!("file:{key}/want/{first}/{now}");
            let message = self.message((now, key.origin), Priority::Control, (WANT, id, key), encode(&want));
            let effect = encode(&Effect::Asked(key.clone(), pages, chunks));
            staged.push((key.clone(), Staged { effect, messages: vec![message] }));
        }
        staged
    }

    fn offer_message(&self, at: (Millis, AuthorityId), id: String, offer: &Offer) -> Outgoing {
        let key = FileKey { origin: self.me, id: offer.id.clone() };
        self.message(at, Priority::Record, (OFFER, id, &key), encode(offer))
    }

    /// This node was set back. Whatever is being received begins anew, and what was received is looked for, since its store may
    /// have been lost with the machine. What is being sent is offered again: its destination says if it is over there, which it
    /// may have said to a node that did not know of the file any more.
    #[must_use]
    pub fn after_restore(&self, now: Millis) -> Vec<(FileKey, Staged)> {
        let begun = |coming: &Receiving| coming.is_active() || coming.state == ReceiveState::Whole;
        let receiving = self.receiving.iter().filter(|(_, coming)| begun(coming));
        let again = receiving.map(|(key, _)| {
            (key.clone(), Staged { effect: encode(&Effect::Again(key.clone())), messages: Vec::new() })
        });
        let open = self.sending.iter().filter(|(_, sending)| !sending.is_over());
        again.chain(open.map(|(key, sending)| self.offered_again(now, key, sending))).collect()
    }

    /// What was given back when this node had caught up already, offered again for the same reason.
    #[must_use]
    pub fn retaken(&self, now: Millis) -> Vec<(FileKey, Staged)> {
        let known = self.again.iter().filter_map(|key| self.sending.get_key_value(key));
        known.map(|(key, sending)| self.offered_again(now, key, sending)).collect()
    }

    /// Whether there is something of that.
    #[must_use]
    pub fn has_retaken(&self) -> bool {
        self.again.iter().any(|key| !self.waits.contains_key(key))
    }

    fn offered_again(&self, now: Millis, key: &FileKey, sending: &Sending) -> (FileKey, Staged) {
        let id = format!("file:{key}/offer/{now}");
        let messages = vec![self.offer_message((now, sending.to), id, &sending.offer)];
        (key.clone(), Staged { effect: encode(&Effect::Reoffered(key.clone())), messages })
    }

    /// Gives a transfer up that is under way, or forgets one that is over.
    pub fn give_up(&self, now: Millis, key: &FileKey) -> Result<Staged, Error> {
        let error = Error::GivenUp { id: key.id.clone(), by: self.me };
        let (code, reason) = (error.code(), error.to_string());
        let (over, other) = match (self.sending.get(key), self.receiving.get(key)) {
            (Some(sending), _) => (sending.is_over(), sending.to),
            (None, Some(coming)) => (coming.is_over(), key.origin),
            (None, None) => return Err(Error::NoFile { id: key.id.clone() }),
        };
        let sent = key.origin == self.me;
        let (key, messages) = match over {
            true => (key.clone(), Vec::new()),
            false => (key.clone(), vec![self.end_message((now, 0), key, other, (code, &reason))]),
        };
        let effect = match (over, sent) {
            (true, sent) => Effect::Forgotten(key, sent),
            (false, true) => Effect::SendingEnded(key, now, code.into(), reason),
            (false, false) => Effect::ReceivingEnded(key, now, code.into(), reason),
        };
        Ok(Staged { effect: encode(&effect), messages })
    }

    /// The next delivered file that was kept for long enough.
    #[must_use]
    pub fn next_expired(&self, now: Millis, keep: Millis) -> Option<Staged> {
        let (_, key) = self.longest_over().filter(|(ended, _)| now.saturating_sub(*ended) >= keep)?;
        Some(Staged { effect: encode(&Effect::Forgotten(key.clone(), true)), messages: Vec::new() })
    }

    /// When [`Self::next_expired`] gives something for the next time.
    #[must_use]
    pub fn next_expiry(&self, keep: Millis) -> Option<Millis> {
        self.longest_over().map(|(ended, _)| ended.saturating_add(keep))
    }

    /// The word that a file is whole here; `nonce` tells two of one moment apart.
    pub(crate) fn received_message(&self, (now, nonce): (Millis, u64), key: &FileKey, root: Digest) -> Outgoing {
        let payload = encode(&ReceivedMessage { id: key.id.clone(), root });
        let id = format!("file:{key}/received/{now}/{nonce}");
        self.message((now, key.origin), Priority::Record, (RECEIVED, id, key), payload)
    }

    /// The word that a transfer is over; see [`Self::received_message`].
    pub(crate) fn end_message(
        &self,
        (now, nonce): (Millis, u64),
        key: &FileKey,
        to: AuthorityId,
        (code, reason): (&str, &str),
    ) -> Outgoing {
        let payload = encode(&EndMessage { key: key.clone(), code: code.to_owned(), reason: reason.to_owned() });
        // In the class of the offer, so that it comes behind that.
        self.message((now, to), Priority::Record, (END, format!("file:{key}/end/{now}/{nonce}"), key), payload)
    }

    fn message(
        &self,
        (now, to): (Millis, AuthorityId),
        class: Priority,
        (kind, id, key): (&str, String, &FileKey),
        payload: Vec<u8>,
    ) -> Outgoing {
        let attributes = Attributes {
            id,
            source: self.me.to_string(),
            kind: kind.to_owned(),
            time: now,
            subject: key.id.clone(),
            ..Attributes::default()
        };
        Outgoing { destination: Destination::Authority(to), class, attributes, payload }
    }
}
