//! What operators may see of the exchange: links, queues, lanes, dead letters.

use crate::exchange::Exchange;
use crate::record::{self, DeadLetter};
use crate::{Error, PaceReason, Waits};
use jincai_crypto::{BatchView, sha256};
use jincai_journal::Stored;
use jincai_types::{
    Attributes, AuthorityId, Digest, Lane, LanePosition, Millis, Priority, RecordNumber, Sequence, encode,
};

/// One neighbour, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// Who.
    pub peer: AuthorityId,
    /// Whether it can be reached now.
    pub up: bool,
    /// Whether it has said that it has no room for batches.
    pub full: bool,
    /// Whether an operator holds the link.
    pub paused: bool,
    /// Classes with something to send that wait for their time: until when, and why.
    pub paced: Vec<(Priority, Millis, PaceReason)>,
    /// What waits for it, or for hops behind it, because of back-pressure.
    pub waits: Vec<Waits>,
    /// The newest epoch in which it has spoken.
    pub epoch: jincai_types::Epoch,
    /// Batches in custody for it.
    pub batches: u64,
    /// Bytes in custody for it.
    pub bytes: u64,
    /// Batches sent to it since the start, repetitions included.
    pub batches_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// When it last signed for something; 0 = never since the start.
    pub last_receipt: Millis,
    /// Lanes with something in custody: lane, batches, bytes.
    pub lanes: Vec<(Lane, usize, u64)>,
}

/// One lane that ends here, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundReport {
    /// The lane.
    pub lane: Lane,
    /// The end of the last batch completely applied.
    pub applied: LanePosition,
    /// Messages refused.
    pub refusals: u64,
    /// Batches that wait.
    pub waiting: usize,
    /// What the first of them waits for.
    pub blocked: Option<String>,
    /// Whether the lane is held because of a fork.
    pub held: bool,
    /// Whether an operator holds the lane.
    pub paused: bool,
}

/// One lane that begins here, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundReport {
    /// The lane.
    pub lane: Lane,
    /// The end of the last batch sealed.
    pub sealed: LanePosition,
    /// How far each destination has signed for having applied it: authority, position, refusals.
    pub delivered: Vec<(AuthorityId, LanePosition, u64)>,
}

/// How far a batch in custody has come on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchState {
    /// Not sent yet, since the link came up or the lane was rewound.
    Waiting,
    /// Sent.
    Sent,
    /// The neighbour has said, unsigned, that it holds it durably.
    Confirmed,
}

impl BatchState {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Confirmed => "confirmed",
        }
    }
}

/// A batch in custody, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedBatch {
    /// Its lane.
    pub lane: Lane,
    /// Its first message's number.
    pub first: Sequence,
    /// Its end.
    pub end: LanePosition,
    /// Its length.
    pub bytes: u64,
    /// The record that holds it.
    pub record: RecordNumber,
    /// When its origin sealed it.
    pub sealed_at: Millis,
    /// How far it has come.
    pub state: BatchState,
    /// What it waits for, if its lane is held back.
    pub waits: Option<Waits>,
    /// Its messages: number, and what every hop may read.
    pub messages: Vec<(Sequence, Attributes)>,
}

impl Exchange {
    /// The batches in custody for a neighbour, at most `limit`; `read` reads records.
    pub fn queue(
        &self,
        peer: AuthorityId,
        lane: Option<Lane>,
        limit: usize,
        read: &dyn Fn(RecordNumber) -> Result<Stored, jincai_journal::Error>,
    ) -> Result<Vec<QueuedBatch>, Error> {
        let link = self.links.get(&peer).ok_or(Error::NotANeighbour(peer))?;
        let wanted = link.custody().filter(|(of, _)| lane.is_none_or(|lane| lane == **of)).take(limit);
        let mut out = Vec::new();
        for (lane, held) in wanted {
            let stored = read(held.record)?;
            let (_, start) = record::split_batch_record(&stored.payload)?;
            let view = BatchView::parse(&stored.payload[start..])?.verified_before();
            let messages = (0..view.items.len()).map(|index| Ok((view.sequence(index), view.attributes(index)?)));
            out.push(QueuedBatch {
                lane: *lane,
                first: view.statement.first,
                end: held.end,
                bytes: held.bytes,
                record: held.record,
                sealed_at: view.statement.sealed_at,
                state: link.state(lane, held),
                waits: self.waits(peer, link, lane, held.bytes),
                messages: messages.collect::<Result<_, Error>>()?,
            });
        }
        Ok(out)
    }

    /// All neighbours.
    #[must_use]
    pub fn links(&self) -> Vec<LinkReport> {
        let report = |(peer, link): (&AuthorityId, &crate::link::Link)| {
            let (batches, bytes) = link.backlog();
            let lanes = link.lanes().filter(|(_, n, _)| *n > 0).map(|(lane, n, b)| (*lane, n, b)).collect();
            LinkReport {
                peer: *peer,
                up: link.up.is_some() && link.greeted,
                full: link.full,
                paused: link.paused,
                paced: link.paced(self.last_tick),
                waits: self.all_waits(*peer, link),
                epoch: link.epoch,
                batches,
                bytes,
                batches_sent: link.sent.0,
                bytes_sent: link.sent.1,
                last_receipt: link.last_receipt,
                lanes,
            }
        };
        self.links.iter().map(report).collect()
    }

    /// Up to which message of one of our lanes a neighbour has said that it holds it durably.
    #[must_use]
    pub fn confirmed(&self, peer: AuthorityId, lane: &Lane) -> u64 {
        let confirmed = self.links.get(&peer).and_then(|link| link.confirmed(lane));
        // Nothing in custody: whatever was sealed has been signed for.
        confirmed.unwrap_or_else(|| self.outbox.position(lane).sequence)
    }

    /// How far a lane is held here; one of our own: is known here.
    #[must_use]
    pub fn held_up_to(&self, lane: &Lane) -> LanePosition {
        if lane.origin == self.me {
            return self.end_of(lane);
        }
        self.chains.get(lane).map(crate::chain::Chain::position).unwrap_or_default()
    }

    /// Entries that no record in the journal accounts for: what neighbours have asked for and been asked, lanes passing
    /// through, slots, epochs that were told. It has a limit whatever they say.
    #[must_use]
    pub fn remembered(&self) -> usize {
        let links: usize = self.links.values().map(crate::link::Link::remembered).sum();
        let wanted: usize = self.wanted.values().map(std::collections::BTreeMap::len).sum();
        let said = self.said_epochs.len() + self.restored_peers.len() + self.grants.remembered();
        links + wanted + said + self.chains.len() + self.slots.count() + self.catch_up.remembered()
    }

    /// A digest of every cursor: what is held, applied, sealed and signed for. What is refused moves none; without a record
    /// only an authentic slot does.
    #[must_use]
    pub fn cursors(&self) -> Digest {
        // A lane at whose start nothing was taken is no cursor.
        let chains = self.chains.iter().map(|(l, c)| (l, c.position())).filter(|(_, at)| *at != LanePosition::START);
        let chains: Vec<(&Lane, LanePosition)> = chains.collect();
        let inbound: Vec<_> = self.inbound.iter().map(|(l, i)| (l, i.applied, i.applied_end, i.refusals)).collect();
        let outbox: Vec<_> = self.outbox.positions().collect();
        let signed: Vec<_> = self.deliveries.receipts.iter().map(|(of, d)| (of, d.receipt.position)).collect();
        let held: Vec<&Lane> = self.held_lanes.keys().collect();
        sha256(&encode(&(chains, inbound, outbox, signed, held)))
    }

    /// Everything that is in custody: for whom, of which lane, its end, and the record that holds it.
    pub fn custody(&self) -> impl Iterator<Item = (AuthorityId, Lane, LanePosition, RecordNumber)> {
        let of = |(peer, link): (&AuthorityId, &crate::link::Link)| {
            let peer = *peer;
            let held = link.custody().map(move |(lane, held)| (peer, *lane, held.end, held.record));
            held.collect::<Vec<_>>()
        };
        self.links.iter().flat_map(of)
    }

    /// Lanes that end here.
    #[must_use]
    pub fn inbound(&self) -> Vec<InboundReport> {
        let report = |(lane, inbound): (&Lane, &crate::exchange::Inbound)| InboundReport {
            lane: *lane,
            applied: inbound.applied_end,
            refusals: inbound.refusals,
            waiting: inbound.waiting.len(),
            blocked: inbound.blocked.as_ref().map(ToString::to_string),
            held: self.held_lanes.contains_key(lane),
            paused: self.is_paused(lane),
        };
        self.inbound.iter().map(report).collect()
    }

    /// Lanes that begin here.
    #[must_use]
    pub fn outbound(&self) -> Vec<OutboundReport> {
        let report = |(lane, sealed): (&Lane, &LanePosition)| OutboundReport {
            lane: *lane,
            sealed: *sealed,
            delivered: self
                .deliveries
                .of(lane)
                .map(|(who, d)| (*who, d.receipt.position, d.receipt.refusals))
                .collect(),
        };
        self.outbox.positions().map(report).collect()
    }

    /// Refused messages, oldest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.dead_letters.iter()
    }

    /// Where the batch that ends at or after a message of one of our lanes lies, for exporting evidence: the record and
    /// the message's index in the batch.
    #[must_use]
    pub fn find(&self, lane: &Lane, epoch: jincai_types::Epoch, sequence: u64) -> Option<(RecordNumber, usize)> {
        let (_, held) = self.shelf.get(lane)?.range((epoch, sequence)..).next()?;
        let index = held.contains((epoch, sequence)).then(|| sequence - held.first())?;
        Some((held.record, usize::try_from(index).ok()?))
    }
}
