//! The exchange as a snapshot keeps it, and the records that must outlive the segments before a snapshot.
//!
//! A snapshot holds what a replay of every record up to it would rebuild, and nothing that only this run knows: no window,
//! no timer, no link that is up. Batches are named by their records; [`Exchange::live`] says which those are.

use crate::chain::Chain;
use crate::delivery::Deliveries;
use crate::exchange::{Exchange, Inbound};
use crate::held::{Held, Key};
use crate::link::{Link, SavedLink};
use crate::outbox::Outbox;
use crate::provenance::{Provenance, SavedProvenance};
use crate::record::{DeadLetter, Delivered, Gone, Restored};
use crate::{Error, Setup, Target};
use jincai_crypto::CardChain;
use jincai_types::{
    AuthorityId, Digest, Epoch, Lane, LanePosition, Millis, Mutation, RecordNumber, decode, encode, mutated,
};
use minicbor::{Decode, Encode};
use std::collections::BTreeSet;

const FORMAT: u8 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    format: u8,
    #[n(1)]
    epoch: Epoch,
    #[n(2)]
    restored: Option<Restored>,
    #[n(3)]
    cards: Vec<CardChain>,
    #[n(4)]
    outbox: Vec<(Lane, LanePosition, LanePosition)>,
    #[n(5)]
    links: Vec<(AuthorityId, SavedLink)>,
    #[n(6)]
    chains: Vec<(Lane, Chain)>,
    #[n(7)]
    inbound: Vec<(Lane, SavedInbound)>,
    #[n(8)]
    shelf: Vec<(Lane, Vec<Held>)>,
    #[n(9)]
    parts: Vec<(Digest, Vec<(RecordNumber, u64)>)>,
    #[n(10)]
    forks: Vec<(Lane, Digest, RecordNumber)>,
    #[n(11)]
    dead_letters: Vec<DeadLetter>,
    #[n(12)]
    delivered: Vec<Delivered>,
    #[n(13)]
    used_ids: Vec<Digest>,
    #[n(14)]
    gone: Vec<Gone>,
    #[n(15)]
    paused: Vec<Target>,
    #[n(16)]
    provenance: SavedProvenance,
}

#[derive(Encode, Decode)]
struct SavedInbound {
    #[n(0)]
    waiting: Vec<Held>,
    #[n(1)]
    applied: Key,
    #[n(2)]
    applied_end: LanePosition,
    #[n(3)]
    refusals: u64,
}

impl Exchange {
    /// What [`Exchange::restore`] rebuilds the exchange from.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let tree = self.directory.tree();
        let leaves = tree.all().filter(|a| tree.children(*a).next().is_none());
        let inbound = |(lane, i): (&Lane, &Inbound)| {
            let waiting = i.waiting.iter().copied().collect();
            let saved = SavedInbound { waiting, applied: i.applied, applied_end: i.applied_end, refusals: i.refusals };
            (*lane, saved)
        };
        let parts = self
            .parts
            .iter()
            .map(|(digest, held)| (*digest, held.iter().map(|(record, index)| (*record, *index as u64)).collect()));
        encode(&Saved {
            format: FORMAT,
            epoch: self.epoch,
            restored: self.catch_up.restored,
            cards: leaves.filter_map(|a| self.directory.chain(a)).collect(),
            outbox: self.outbox.save(),
            links: self.links.iter().map(|(peer, link)| (*peer, link.save())).collect(),
            chains: self
                .chains
                .iter()
                .filter(|_| !mutated(Mutation::SnapshotLosesCursor))
                .map(|(lane, chain)| (*lane, chain.clone()))
                .collect(),
            inbound: self.inbound.iter().map(inbound).collect(),
            shelf: self.shelf.iter().map(|(lane, held)| (*lane, held.values().copied().collect())).collect(),
            parts: parts.collect(),
            forks: self.held_lanes.iter().map(|(lane, (digest, record))| (*lane, *digest, *record)).collect(),
            dead_letters: self.dead_letters.iter().cloned().collect(),
            delivered: self.deliveries.receipts.values().cloned().collect(),
            used_ids: self.used_ids.iter().copied().collect(),
            gone: self.gone.clone(),
            paused: self.paused.iter().copied().collect(),
            provenance: self.provenance.save(),
        })
    }

    /// An exchange as a snapshot kept it; nothing of what came after.
    pub(crate) fn restore(setup: Setup, snapshot: &[u8], now: Millis) -> Result<Self, Error> {
        // The journal has checked the digest of these bytes: their size is what this node once wrote.
        let saved: Saved = decode("snapshot of the exchange", snapshot, snapshot.len())?;
        if saved.format != FORMAT {
            let reason = format!("its format is {}, not {FORMAT}", saved.format);
            return Err(jincai_types::Error::Cbor { what: "snapshot of the exchange", reason }.into());
        }
        let mut exchange = Self::empty(setup, now);
        exchange.epoch = saved.epoch;
        exchange.catch_up.restored = saved.restored;
        for chain in &saved.cards {
            // They were valid when they came; what they proved then stays proven.
            exchange.directory.add(chain, chain.valid_at()?)?;
        }
        exchange.meet_neighbours();
        exchange.outbox = Outbox::load(saved.outbox);
        exchange.links.extend(saved.links.into_iter().map(|(peer, link)| (peer, Link::load(link, now))));
        exchange.chains = saved.chains.into_iter().collect();
        exchange.inbound = saved.inbound.into_iter().map(|(lane, i)| (lane, i.load())).collect();
        let waiting = exchange.inbound.iter().filter(|(_, inbound)| !inbound.waiting.is_empty());
        exchange.waiting = waiting.map(|(lane, _)| *lane).collect();
        // Said again: whoever needed it may not have heard it.
        let others = exchange.inbound.keys().filter(|lane| lane.origin != exchange.me);
        exchange.receipts_due = others.copied().collect();
        let by_key = |batches: Vec<Held>| batches.into_iter().map(|held| (held.end.key(), held)).collect();
        exchange.shelf = saved.shelf.into_iter().map(|(lane, batches)| (lane, by_key(batches))).collect();
        for (digest, held) in saved.parts {
            let held = held.into_iter().map(|(record, index)| (record, usize::try_from(index).unwrap_or(usize::MAX)));
            exchange.parts.insert(digest, held.collect());
        }
        exchange.held_lanes = saved.forks.into_iter().map(|(lane, digest, record)| (lane, (digest, record))).collect();
        exchange.dead_letters = saved.dead_letters.into();
        let Deliveries { receipts, .. } = &mut exchange.deliveries;
        receipts.extend(saved.delivered.into_iter().map(|d| ((d.receipt.lane, d.issuer), d)));
        exchange.used_ids = saved.used_ids.into_iter().collect();
        exchange.gone = saved.gone;
        exchange.paused = saved.paused.into_iter().collect();
        exchange.pause_links();
        exchange.provenance = Provenance::load(saved.provenance);
        Ok(exchange)
    }

    /// The records that are still needed by their number: batches in custody, on the shelf, waiting, or late; bulk parts that
    /// no message has used; batches of dead letters that are shown; evidence of forks.
    #[must_use]
    pub fn live(&self) -> BTreeSet<RecordNumber> {
        let custody = self.links.values().flat_map(|l| l.holdings()).map(|(_, held)| held.record);
        let custody = custody.filter(|_| !mutated(Mutation::ForgetCarried));
        let shelf = self.shelf.values().flat_map(|s| s.values()).map(|held| held.record);
        let waiting = self.inbound.values().flat_map(|i| &i.waiting).map(|held| held.record);
        let parts = self.parts.values().flatten().map(|(record, _)| *record);
        let letters = self.dead_letters.iter().map(|letter| letter.record);
        let forks = self.held_lanes.values().map(|(_, record)| *record);
        custody.chain(shelf).chain(waiting).chain(parts).chain(letters).chain(forks).collect()
    }
}

impl SavedInbound {
    fn load(self) -> Inbound {
        Inbound {
            waiting: self.waiting.into(),
            applied: self.applied,
            applied_end: self.applied_end,
            refusals: self.refusals,
            blocked: None,
        }
    }
}
