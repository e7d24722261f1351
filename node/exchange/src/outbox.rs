//! Our own lanes: what callers and rooms submitted waits here until it is cut into batches and sealed, once.

use crate::held::{is_of_file, may_hold_chunks};
use crate::{Error, Outgoing};
use jincai_crypto::{Directory, Entropy, KeyRing, Recipient, SealInput, seal};
use jincai_policies::is_encrypted;
use jincai_types::{
    Attributes, AuthorityId, Destination, Epoch, Lane, LanePosition, Millis, Priority, decode, encode, limits,
};
use std::collections::BTreeMap;

/// Most bytes that may wait to be sealed.
const PENDING_BYTES: u64 = 64 << 20;
/// Room for what a message adds to its payload in a batch: attributes' frame, salt, tag, commitment.
const ITEM_OVERHEAD: usize = 128;
/// Room for the statement, signature and wrapped keys.
const BATCH_OVERHEAD: usize = 8 << 10;

#[derive(Debug, Default)]
struct OutLane {
    position: LanePosition,
    /// Where the lane ended before this node began to sign on it anew (see [`Exchange::since`](crate::Exchange)).
    before: LanePosition,
    pending: Vec<(Vec<u8>, Vec<u8>)>,
}

impl OutLane {
    /// Goes on behind what is signed now.
    fn sign(&mut self, (previous, end): (LanePosition, LanePosition), since: Epoch) {
        if self.position.epoch < since && end.epoch >= since {
            self.before = previous;
        }
        self.position = end;
    }

    fn remembered(&self, since: Epoch) -> LanePosition {
        if self.position.epoch >= since { self.before } else { self.position }
    }
}

/// A batch that was just sealed.
pub(crate) struct Sealed {
    pub(crate) lane: Lane,
    pub(crate) previous: LanePosition,
    pub(crate) end: LanePosition,
    pub(crate) bytes: Vec<u8>,
    /// It holds chunks of files to one authority and nothing else.
    pub(crate) chunks: bool,
}

/// The lanes that begin here.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    lanes: BTreeMap<Lane, OutLane>,
    pending: u64,
}

impl Outbox {
    /// Refuses messages of which one cannot be sealed and sent, so that they are taken all or not at all.
    pub(crate) fn check(&self, me: AuthorityId, directory: &Directory, messages: &[Outgoing]) -> Result<(), Error> {
        let mut pending = self.pending;
        for message in messages {
            message.attributes.check()?;
            let size = message.payload.len() as u64;
            if size > limits::PAYLOAD_BYTES as u64 {
                return Err(Error::PayloadTooLarge { size, limit: limits::PAYLOAD_BYTES as u64 });
            }
            pending += size;
            if pending > PENDING_BYTES {
                return Err(Error::Busy { bytes: self.pending });
            }
            recipients(me, directory, message.destination)?;
            let to = message.destination;
            let leads_nowhere = || directory.tree().next_hops(me, to, None).is_empty();
            if matches!(to, Destination::Authority(a) if a != me) && leads_nowhere() {
                return Err(Error::NoRoute(to));
            }
            // Its members know the cards of those above them, and could not verify what anybody else says.
            if let Some(top) = to.top().filter(|top| *top != me) {
                match directory.tree().contains(top) {
                    false => return Err(Error::NoRoute(to)),
                    true if !directory.tree().stands_below(top, me) => return Err(Error::NotAbove { to, top }),
                    true => {}
                }
            }
        }
        Ok(())
    }

    /// Takes a message that [`Self::check`] let pass.
    pub(crate) fn submit(&mut self, me: AuthorityId, message: Outgoing) {
        let attributes = encode(&message.attributes);
        let lane = Lane { origin: me, destination: message.destination, class: message.class };
        self.pending += (attributes.len() + message.payload.len()) as u64;
        self.lanes.entry(lane).or_default().pending.push((attributes, message.payload));
    }

    /// Bytes that wait to be sealed.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }

    /// Our own batch in the journal: the lane goes on behind it.
    pub(crate) fn restore(&mut self, lane: Lane, ends: (LanePosition, LanePosition), since: Epoch) {
        self.lanes.entry(lane).or_default().sign(ends, since);
    }

    /// Goes on behind a batch that was taken back and follows the lane's end.
    pub(crate) fn adopt(&mut self, lane: Lane, end: LanePosition, since: Epoch) {
        let state = self.lanes.entry(lane).or_default();
        if state.remembered(since) == state.position {
            state.before = end;
        }
        state.position = end;
    }

    /// Where a lane ended before this node began to sign on it anew, as far as it remembers.
    pub(crate) fn remembered(&self, lane: &Lane, since: Epoch) -> LanePosition {
        self.lanes.get(lane).map_or(LanePosition::START, |state| state.remembered(since))
    }

    /// What a snapshot keeps: each lane's end, and its end before this node began to sign on it anew.
    pub(crate) fn save(&self) -> Vec<(Lane, LanePosition, LanePosition)> {
        self.lanes.iter().map(|(lane, l)| (*lane, l.position, l.before)).collect()
    }

    /// Takes back what [`Self::save`] gave.
    pub(crate) fn load(saved: Vec<(Lane, LanePosition, LanePosition)>) -> Self {
        let lanes =
            saved.into_iter().map(|(lane, position, before)| (lane, OutLane { position, before, pending: Vec::new() }));
        Self { lanes: lanes.collect(), pending: 0 }
    }

    /// The end of a lane that begins here.
    pub(crate) fn position(&self, lane: &Lane) -> LanePosition {
        self.lanes.get(lane).map(|l| l.position).unwrap_or_default()
    }

    /// The end of every lane that begins here.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (&Lane, &LanePosition)> {
        self.lanes.iter().map(|(lane, l)| (lane, &l.position))
    }

    /// Cuts and seals everything that waits, most urgent classes first.
    pub(crate) fn seal(
        &mut self,
        (me, directory): (AuthorityId, &Directory),
        (epoch, since): (Epoch, Epoch),
        keys: &KeyRing,
        entropy: &mut dyn Entropy,
        now: Millis,
    ) -> Result<Vec<Sealed>, Error> {
        let mut out = Vec::new();
        if self.pending == 0 {
            return Ok(out);
        }
        for class in Priority::ALL {
            let lanes = self.lanes.iter_mut().filter(|(lane, l)| lane.class == class && !l.pending.is_empty());
            for (lane, state) in lanes {
                let recipients = recipients(me, directory, lane.destination)?;
                let mut rest = std::mem::take(&mut state.pending);
                while !rest.is_empty() {
                    let later = rest.split_off(cut(&rest));
                    let previous = state.position;
                    let first = previous.next_in(epoch);
                    let input = SealInput {
                        lane: *lane,
                        epoch,
                        first,
                        previous,
                        messages: &rest,
                        recipients: &recipients,
                        now,
                    };
                    let (bytes, end) = seal(&input, keys, entropy)?;
                    state.sign((previous, end), since);
                    let chunks = may_hold_chunks(lane) && rest.iter().all(|(attributes, _)| is_chunk(attributes));
                    out.push(Sealed { lane: *lane, previous, end, bytes, chunks });
                    rest = later;
                }
            }
        }
        self.pending = 0;
        Ok(out)
    }
}

fn is_chunk(attributes: &[u8]) -> bool {
    decode::<Attributes>("attributes", attributes, limits::BATCH_BYTES).is_ok_and(|a| is_of_file(&a.kind))
}

/// How many of the waiting messages fit one batch (at least one).
fn cut(messages: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let mut bytes = BATCH_OVERHEAD;
    let fitting = messages.iter().take(limits::BATCH_MESSAGES).take_while(|(attributes, payload)| {
        bytes += attributes.len() + payload.len() + ITEM_OVERHEAD;
        bytes <= limits::BATCH_BYTES
    });
    fitting.count().max(1)
}

/// Who can read a batch: its destination, and its origin, whose own copy stays readable to it.
fn recipients(me: AuthorityId, directory: &Directory, destination: Destination) -> Result<Vec<Recipient>, Error> {
    let Destination::Authority(to) = destination else { return Ok(Vec::new()) };
    if !is_encrypted(destination) {
        return Ok(Vec::new());
    }
    let recipient = |authority| -> Result<Recipient, Error> {
        let card = directory.card(authority).ok_or(jincai_crypto::Error::NoRecipientKey(authority))?;
        Ok(Recipient { authority, key: card.encryption() })
    };
    if to == me { Ok(vec![recipient(to)?]) } else { Ok(vec![recipient(to)?, recipient(me)?]) }
}
