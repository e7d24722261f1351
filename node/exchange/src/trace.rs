//! Where a message is, and what became of it: at this node, and asked of every node on its way.
//!
//! Whoever looks for a message sends each hop a control message (`jincai.trace.ask`) with its place; the hop answers from its
//! [provenance](crate::provenance) with its own word and the signed receipts that ended its custody, which the asker
//! verifies. Only those whose message it is are answered: its origin, its destinations, and whoever stands above one.

use crate::chain::Chain;
use crate::exchange::Exchange;
use crate::held::Key;
use crate::output::Context;
use crate::record::{self, Cause};
use crate::room::{Outgoing, Refusal};
use crate::slots::receipt_name;
use crate::{Error, Receipt, ReceiptList, SlotValue};
use jincai_crypto::{BatchView, Purpose};
use jincai_journal::Log;
use jincai_types::{
    Address, Attributes, AuthorityId, Destination, Lane, Millis, Priority, RecordNumber, decode_canonical, limits,
};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};

/// Prefix of the types of these messages.
pub(crate) const TRACE: &str = "jincai.trace.";
const ASK: &str = "jincai.trace.ask";
const ANSWER: &str = "jincai.trace.answer";
/// Searches remembered; older ones are forgotten.
const TRACES: usize = 64;
/// Most hops on a way.
const HOPS: usize = 32;

/// A neighbour to which a hop handed the message on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandedOn {
    /// To whom.
    #[n(0)]
    pub to: AuthorityId,
    /// When it had signed for it; milliseconds since 1970 by the hop's clock. `None`: it is still in custody for it.
    #[n(1)]
    pub time: Option<Millis>,
    /// What ended custody, if it is still kept: a signed list of receipts, or an end-to-end receipt (COSE_Sign1).
    #[n(2)]
    pub receipt: Option<ByteVec>,
}

/// What a message has come to at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum MessageState {
    /// This node knows nothing of it (any more).
    #[n(0)]
    Unknown,
    /// It passed here, or is held here for others.
    #[n(1)]
    Passed,
    /// It is for this node, and waits.
    #[n(2)]
    Waiting,
    /// It was applied here.
    #[n(3)]
    Applied,
    /// It is a dead letter here.
    #[n(4)]
    Refused,
    /// This node does not tell the asker.
    #[n(5)]
    NotYours,
}

impl MessageState {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Passed => "passed",
            Self::Waiting => "waiting",
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::NotYours => "not told",
        }
    }
}

/// A node's word on a message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HopReport {
    /// Who speaks.
    #[n(0)]
    pub authority: AuthorityId,
    /// What it has come to there.
    #[n(1)]
    pub state: MessageState,
    /// The journal record that holds its batch.
    #[n(2)]
    pub record: Option<RecordNumber>,
    /// From whom it came; `None` where it begins or is not known.
    #[n(3)]
    pub from: Option<AuthorityId>,
    /// When it came, or was sealed; milliseconds since 1970 by that node's clock.
    #[n(4)]
    pub time: Option<Millis>,
    /// To whom it was handed on.
    #[n(5)]
    pub handed: Vec<HandedOn>,
    /// Why it waits, or was refused.
    #[n(6)]
    pub reason: Option<String>,
}

impl HopReport {
    fn empty(authority: AuthorityId, state: MessageState) -> Self {
        Self { authority, state, record: None, from: None, time: None, handed: Vec::new(), reason: None }
    }
}

/// The payload of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// The ask's id.
    #[n(0)]
    pub ask: String,
    /// What is known.
    #[n(1)]
    pub report: HopReport,
}

/// A message that was found by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place.
    pub place: Cause,
    /// Where it goes, and for whom there it is.
    pub address: Address,
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The message that is looked for.
    pub found: Found,
    /// Every node on its way, from its origin to its destination; those that cannot be asked say why.
    pub way: Vec<(AuthorityId, Option<String>)>,
    /// What was answered so far.
    pub answers: BTreeMap<AuthorityId, HopReport>,
}

/// Searches by their name, the oldest first.
pub(crate) type Traces = Vec<(String, Trace)>;

/// The places of messages with an id, in the order of the records; at most `most`. Records that a snapshot has replaced
/// meanwhile are passed over. It may take seconds, and needs no exchange.
#[must_use]
pub fn find_messages(log: &dyn Log, records: &[RecordNumber], id: &str, most: usize) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mentions = |bytes: &[u8]| bytes.windows(id.len().max(1)).any(|window| window == id.as_bytes());
    for number in records {
        if found.len() >= most {
            break;
        }
        let Ok(stored) = log.read(*number) else { continue };
        let Ok((_, start)) = record::split_batch_record(&stored.payload) else { continue };
        let Some(Ok(view)) = stored.payload.get(start..).map(BatchView::parse) else { continue };
        let view = view.verified_before();
        for index in (0..view.items.len()).filter(|index| mentions(view.items[*index].attributes)) {
            let (lane, epoch, sequence) = (view.statement.lane, view.statement.epoch, view.sequence(index));
            let place = Cause { lane, epoch, sequence };
            let Some(attributes) = view.attributes(index).ok().filter(|attributes| attributes.id == id) else {
                continue;
            };
            let Ok(address) = Address::of(lane.destination, &attributes) else { continue };
            if found.iter().all(|known| known.place != place) {
                found.push(Found { place, address });
            }
        }
    }
    found
}

impl Exchange {
    /// This node's word on a message.
    #[must_use]
    pub fn hop_report(&self, place: &Cause) -> HopReport {
        let key: Key = (place.epoch, place.sequence);
        let lane = place.lane;
        let mut report = HopReport::empty(self.me, MessageState::Unknown);
        if let Some((_, passage)) = self.provenance.find(lane, key) {
            report.state = MessageState::Passed;
            (report.record, report.from, report.time) = (Some(passage.record), passage.from, Some(passage.time));
            let handed = |handed: &crate::provenance::Handed| HandedOn {
                to: handed.to,
                time: Some(handed.time),
                receipt: self.provenance.list(handed.list).map(|list| list.to_vec().into()),
            };
            report.handed = passage.handed.iter().map(handed).collect();
        }
        for (peer, link) in &self.links {
            if let Some(held) = link.holding(&lane, key) {
                report.state = MessageState::Passed;
                report.record = report.record.or(Some(held.record));
                report.handed.retain(|handed| handed.to != *peer);
                report.handed.push(HandedOn { to: *peer, time: None, receipt: None });
            }
        }
        self.report_end(place, &mut report);
        report
    }

    /// What became of it where its lane ends.
    fn report_end(&self, place: &Cause, report: &mut HopReport) {
        let Some(inbound) = self.inbound.get(&place.lane) else { return };
        let key: Key = (place.epoch, place.sequence);
        let held = self.chains.get(&place.lane).map(Chain::position).unwrap_or_default();
        if let Some(letter) = self.dead_letters.iter().find(|letter| letter.cause == *place) {
            report.state = MessageState::Refused;
            report.reason = Some(format!("{} {}", letter.code, letter.reason));
        } else if key <= inbound.applied {
            report.state = MessageState::Applied;
        } else if key <= held.key() || place.lane.origin == self.me {
            report.state = MessageState::Waiting;
            report.reason = inbound.blocked.as_ref().map(|blocker| format!("waits for {blocker}"));
        }
    }

    /// The records of batches in which a message may be found by its id, the newest first.
    #[must_use]
    pub fn traceable(&self) -> Vec<RecordNumber> {
        let mut records: BTreeSet<RecordNumber> = self.provenance.records().collect();
        records.extend(self.shelf.values().flat_map(|shelf| shelf.values()).map(|held| held.record));
        records.extend(self.links.values().flat_map(|link| link.custody()).map(|(_, held)| held.record));
        records.extend(self.dead_letters.iter().map(|letter| letter.record));
        records.into_iter().rev().collect()
    }

    /// The nodes on a message's way to one of its destinations.
    fn way(&self, lane: &Lane, to: AuthorityId) -> Vec<AuthorityId> {
        let tree = self.directory.tree();
        let mut way = vec![lane.origin];
        while let Some(last) = way.last().copied().filter(|last| *last != to && way.len() < HOPS) {
            let Some(next) = tree.next_hops(last, Destination::Authority(to), None).first().copied() else { break };
            way.push(next);
        }
        way
    }

    /// Asks every node on a message's way what became of it. `to`: which member of a group. Returns the search's name.
    pub fn trace(&mut self, found: Found, to: Option<AuthorityId>, ctx: &mut Context<'_>) -> Result<String, Error> {
        let place = found.place;
        let to = match (place.lane.destination, to) {
            (Destination::Authority(to), None) => to,
            (destination, Some(to)) if self.directory.tree().is_member(destination, to) => to,
            (destination, _) => return Err(Error::NoRoute(destination)),
        };
        self.traced += 1;
        let name = format!("trace/{}/{}/{}", self.me, self.epoch, self.traced);
        let mut trace = Trace { found, way: Vec::new(), answers: BTreeMap::new() };
        for hop in self.way(&place.lane, to) {
            let asked = match hop == self.me {
                true => {
                    trace.answers.insert(hop, self.hop_report(&place));
                    Ok(())
                }
                false => self.ask_hop(hop, &name, place, ctx.now),
            };
            trace.way.push((hop, asked.err().map(|error| error.to_string())));
        }
        if self.traces.len() == TRACES {
            self.traces.remove(0);
        }
        self.traces.push((name.clone(), trace));
        Ok(name)
    }

    fn ask_hop(&mut self, hop: AuthorityId, name: &str, place: Cause, now: Millis) -> Result<(), Error> {
        let attributes = Attributes {
            id: format!("{name}/{hop}"),
            source: self.me.to_string(),
            kind: ASK.to_owned(),
            time: now,
            ..Attributes::default()
        };
        let destination = Destination::Authority(hop);
        self.submit(Outgoing { destination, class: Priority::Control, attributes, payload: record::to_body(&place) })
    }

    /// A search by its name.
    #[must_use]
    pub fn traced(&self, name: &str) -> Option<&Trace> {
        self.traces.iter().find(|(known, _)| known == name).map(|(_, trace)| trace)
    }

    /// Whether the receipt in a hop's report was signed by whom the hop says it handed the message to, for this message or
    /// what lies behind it.
    #[must_use]
    pub fn is_receipt_of(&self, handed: &HandedOn, place: &Cause) -> bool {
        let Some(signed) = &handed.receipt else { return false };
        let covers = |r: &Receipt| r.lane == place.lane && r.position.key() >= (place.epoch, place.sequence);
        if let Ok(payload) = self.directory.verify(Purpose::Slot, signed, handed.to) {
            let slot: Option<SlotValue> = decode_canonical("slot", &payload, limits::FRAME_BYTES).ok();
            let of_lane = slot.filter(|slot| slot.issuer == handed.to && slot.name == receipt_name(&place.lane));
            let receipt = of_lane.map(|slot| decode_canonical("receipt", &slot.value, limits::FRAME_BYTES));
            return receipt.is_some_and(|receipt| receipt.is_ok_and(|receipt| covers(&receipt)));
        }
        let Ok(payload) = self.directory.verify(Purpose::Receipts, signed, handed.to) else { return false };
        let list: Result<ReceiptList, _> = decode_canonical("receipt list", &payload, limits::FRAME_BYTES);
        list.is_ok_and(|list| list.issuer == handed.to && list.receipts.iter().any(covers))
    }

    /// An ask or an answer that has arrived: what is to be recorded of it, and sent.
    pub(crate) fn take_trace(
        &self,
        asker: AuthorityId,
        attributes: &Attributes,
        payload: &[u8],
        now: Millis,
    ) -> Result<(Vec<u8>, Vec<Outgoing>), Refusal> {
        let wrong = |error: jincai_types::Error| Refusal::from(&Error::from(error));
        if attributes.kind == ANSWER {
            let answer: Answer = decode_canonical("trace answer", payload, limits::PAYLOAD_BYTES).map_err(wrong)?;
            // It is an answer about its sender, whatever it says.
            let report = HopReport { authority: asker, ..answer.report };
            return Ok((record::to_body(&Answer { ask: answer.ask, report }), Vec::new()));
        }
        if attributes.kind != ASK {
            return Err(Refusal::from(&Error::NoRoom { kind: attributes.kind.clone() }));
        }
        let place: Cause = decode_canonical("trace ask", payload, limits::PAYLOAD_BYTES).map_err(wrong)?;
        let report = match self.concerns(asker, &place.lane) {
            true => self.hop_report(&place),
            false => HopReport::empty(self.me, MessageState::NotYours),
        };
        let answer = Answer { ask: attributes.id.clone(), report };
        let attributes = Attributes {
            id: format!("answer/{}/{}", self.me, attributes.id),
            source: self.me.to_string(),
            kind: ANSWER.to_owned(),
            time: now,
            ..Attributes::default()
        };
        let destination = Destination::Authority(asker);
        let payload = record::to_body(&answer);
        Ok((Vec::new(), vec![Outgoing { destination, class: Priority::Control, attributes, payload }]))
    }

    /// Whether a lane begins or ends at an authority, or at one below it.
    fn concerns(&self, asker: AuthorityId, lane: &Lane) -> bool {
        let tree = self.directory.tree();
        let at_or_below = |of: AuthorityId| of == asker || tree.superiors(of).any(|superior| superior == asker);
        let ends_there = match lane.destination {
            Destination::Authority(to) => at_or_below(to),
            Destination::Below(_) | Destination::Superiors(_) | Destination::Level(..) => {
                tree.is_member(lane.destination, asker)
            }
        };
        at_or_below(lane.origin) || ends_there
    }

    /// Notes an answer (now or at a replay, when nobody waits for it any more).
    pub(crate) fn note_trace(&mut self, effect: &[u8]) -> Result<(), Error> {
        if effect.is_empty() {
            return Ok(());
        }
        let Answer { ask, report } = record::from_body("trace answer", effect)?;
        let asked = |name: &str| {
            ask.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) == Some(report.authority.as_str())
        };
        if let Some((_, trace)) = self.traces.iter_mut().find(|(name, _)| asked(name)) {
            trace.answers.insert(report.authority, report);
        }
        Ok(())
    }
}
