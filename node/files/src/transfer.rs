//! One transfer, as either side knows it: what is wanted, what has come, what is stored.
//!
//! The destination's side keeps, per chunk, one bit (is it stored) and, for the few that are under way, where they lie in
//! the journal. Digests are held for the pages under way only.

use crate::model::{Offer, Span, spans_of};
use crate::tree::PAGE_CHUNKS;
use jincai_types::{AuthorityId, Digest, Epoch, Millis, RecordNumber};
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where a file that is sent from here stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SendState {
    /// Its destination has not asked for it yet.
    #[n(0)]
    Offered,
    /// Its destination asks for chunks.
    #[n(1)]
    Sending,
    /// Its destination has it.
    #[n(2)]
    Received,
    /// It is over: code and reason.
    #[n(3)]
    Ended(#[n(0)] String, #[n(1)] String),
}

/// A file that is sent from here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sending {
    /// To whom.
    #[n(0)]
    pub to: AuthorityId,
    /// What was offered.
    #[n(1)]
    pub offer: Offer,
    /// When.
    #[n(2)]
    pub submitted: Millis,
    /// Where it stands.
    #[n(3)]
    pub state: SendState,
    /// When it was over; 0: it is not.
    #[n(4)]
    pub ended: Millis,
    /// Pages that are wanted and not sent.
    #[n(5)]
    pub(crate) pages: BTreeSet<u32>,
    /// Chunks that are wanted and not sent, in the order in which they were wanted.
    #[n(6)]
    pub(crate) wanted: Vec<Span>,
    /// Chunks sent so far, repetitions included.
    #[n(7)]
    pub sent_chunks: u64,
    /// The epoch of its own in which the destination asked last. What it said in an older one, before it was set back, is no answer to
    /// what was sent since.
    #[n(8)]
    pub(crate) asked_in: Epoch,
}

/// Most spans that may be wanted and not sent.
const WANTED_SPANS: usize = 8192;

impl Sending {
    pub(crate) fn new(to: AuthorityId, submitted: Millis, offer: Offer) -> Self {
        let state = SendState::Offered;
        let (pages, wanted) = (BTreeSet::new(), Vec::new());
        Self { to, offer, submitted, state, ended: 0, pages, wanted, sent_chunks: 0, asked_in: Epoch::default() }
    }

    /// Whether it may still be asked for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, SendState::Received | SendState::Ended(..))
    }

    /// Whether what its destination said in an epoch may end it.
    pub(crate) fn hears(&self, from: AuthorityId, epoch: Epoch) -> bool {
        self.to == from && !self.is_over() && epoch >= self.asked_in
    }

    /// Whether one want more would be too many.
    pub(crate) fn is_overwhelmed(&self, more: &[Span]) -> bool {
        self.wanted.len() + more.len() > WANTED_SPANS
    }

    pub(crate) fn want(&mut self, (anew, asked_in): (bool, Epoch), pages: &[u32], chunks: &[Span]) {
        if anew {
            self.pages.clear();
            self.wanted.clear();
        }
        self.pages.extend(pages);
        self.wanted.extend(chunks);
        self.asked_in = self.asked_in.max(asked_in);
        self.state = SendState::Sending;
        self.ended = 0;
    }

    /// The chunks to send next.
    pub(crate) fn next_chunks(&self, most: usize) -> Vec<u64> {
        self.wanted.iter().flat_map(Span::chunks).take(most).collect()
    }

    /// Whether a chunk is wanted and not sent.
    pub(crate) fn wants(&self, chunk: u64) -> bool {
        self.wanted.iter().any(|span| span.chunks().contains(&chunk))
    }

    pub(crate) fn sent(&mut self, pages: &[u32], chunks: &[Span]) {
        self.pages.retain(|page| !pages.contains(page));
        for sent in chunks {
            self.sent_chunks = self.sent_chunks.saturating_add(sent.len());
            let cut = |span: &Span| {
                let before = Span { from: span.from, to: span.to.min(sent.from) };
                let behind = Span { from: span.from.max(sent.to), to: span.to };
                // Beside each other, they are the span itself.
                let parts = if sent.to <= span.from || sent.from >= span.to {
                    [Some(*span), None]
                } else {
                    [Some(before), Some(behind)]
                };
                parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>()
            };
            self.wanted = self.wanted.iter().flat_map(cut).collect();
        }
    }

    pub(crate) fn end(&mut self, state: SendState, now: Millis) {
        self.state = state;
        self.ended = now.max(1);
        self.pages.clear();
        self.wanted.clear();
    }
}

/// Where a file that comes to this node stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ReceiveState {
    /// It waits for its turn, or for room.
    #[n(0)]
    Offered,
    /// It is being received.
    #[n(1)]
    Receiving,
    /// It is whole and can be read.
    #[n(2)]
    Whole,
    /// It is over: code and reason.
    #[n(3)]
    Ended(#[n(0)] String, #[n(1)] String),
}

/// A page whose chunks are under way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct HeldPage {
    #[cbor(n(0), with = "shared")]
    pub(crate) digests: Arc<Vec<Digest>>,
    /// So many of its chunks were held against what the store has.
    #[n(1)]
    pub(crate) checked: u64,
}

/// Digests that jobs share, as a snapshot keeps them.
mod shared {
    use super::{Arc, Digest};
    use minicbor::decode::{Decoder, Error as Unreadable};
    use minicbor::encode::{Encoder, Error as Unwritable, Write};

    pub(super) fn encode<C, W: Write>(
        digests: &Arc<Vec<Digest>>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), Unwritable<W::Error>> {
        e.encode_with(&**digests, ctx)?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Arc<Vec<Digest>>, Unreadable> {
        d.decode_with(ctx).map(Arc::new)
    }
}

/// A chunk that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Asked {
    /// The record that holds it, and its index there, once it has come.
    #[n(0)]
    pub(crate) at: Option<(RecordNumber, u64)>,
}

/// A file that comes to this node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Receiving {
    /// What was offered.
    #[n(0)]
    pub offer: Offer,
    /// When.
    #[n(1)]
    pub offered: Millis,
    /// Where it stands.
    #[n(2)]
    pub state: ReceiveState,
    /// When it was whole, or over; 0: it is neither.
    #[n(3)]
    pub ended: Millis,
    /// A bit a chunk: whether it is in the store.
    #[n(4)]
    stored: Vec<u64>,
    /// How many are.
    #[n(5)]
    pub stored_chunks: u64,
    /// How many of them the store had before.
    #[n(6)]
    pub known_chunks: u64,
    #[n(7)]
    pub(crate) pages: BTreeMap<u32, HeldPage>,
    #[n(8)]
    pub(crate) asked_pages: BTreeSet<u32>,
    /// Chunks that are asked for and not stored.
    #[n(9)]
    pub(crate) asked: BTreeMap<u64, Asked>,
    /// The first chunk that has not been considered yet.
    #[n(10)]
    pub(crate) frontier: u64,
    /// Nothing was asked for since it has begun (anew).
    #[n(11)]
    pub(crate) fresh: bool,
    /// When it began.
    #[n(12)]
    pub begun: Millis,
}

impl Receiving {
    pub(crate) fn new(offered: Millis, offer: Offer) -> Self {
        Self {
            offer,
            offered,
            state: ReceiveState::Offered,
            ended: 0,
            stored: Vec::new(),
            stored_chunks: 0,
            known_chunks: 0,
            pages: BTreeMap::new(),
            asked_pages: BTreeSet::new(),
            asked: BTreeMap::new(),
            frontier: 0,
            fresh: true,
            begun: 0,
        }
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, ReceiveState::Whole | ReceiveState::Ended(..))
    }

    /// Whether chunks of it may come.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == ReceiveState::Receiving
    }

    pub(crate) fn is_stored(&self, chunk: u64) -> bool {
        let word = usize::try_from(chunk / 64).ok().and_then(|at| self.stored.get(at));
        word.is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// Bytes of it in the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        if self.state == ReceiveState::Whole {
            return self.offer.size;
        }
        // The last chunk may be shorter.
        self.stored_chunks.saturating_mul(crate::tree::CHUNK_BYTES).min(self.offer.size)
    }

    pub(crate) fn begin(&mut self, now: Millis) {
        let words = usize::try_from(self.offer.chunks().div_ceil(64)).unwrap_or(usize::MAX);
        self.reset();
        self.stored = vec![0; words];
        self.state = ReceiveState::Receiving;
        self.begun = now;
    }

    fn reset(&mut self) {
        self.stored = Vec::new();
        (self.stored_chunks, self.known_chunks, self.frontier, self.fresh) = (0, 0, 0, true);
        self.pages.clear();
        self.asked_pages.clear();
        self.asked.clear();
    }

    /// It begins anew.
    pub(crate) fn again(&mut self) {
        self.reset();
        self.state = ReceiveState::Offered;
        self.ended = 0;
    }

    pub(crate) fn end(&mut self, state: ReceiveState, now: Millis) {
        self.reset();
        self.state = state;
        self.ended = now.max(1);
    }

    pub(crate) fn note_page(&mut self, page: u32, digests: Vec<Digest>) {
        self.asked_pages.remove(&page);
        self.pages.insert(page, HeldPage { digests: Arc::new(digests), checked: 0 });
    }

    pub(crate) fn note_checked(&mut self, page: u32, upto: u64, known: &[Span]) {
        if let Some(held) = self.pages.get_mut(&page) {
            held.checked = held.checked.max(upto);
        }
        let before = self.stored_chunks;
        known.iter().flat_map(Span::chunks).for_each(|chunk| self.store(chunk));
        self.known_chunks += self.stored_chunks - before;
        self.forget_pages();
    }

    pub(crate) fn note_asked(&mut self, pages: &[u32], chunks: &[Span]) {
        self.fresh = false;
        self.asked_pages.extend(pages);
        for chunk in chunks.iter().flat_map(Span::chunks) {
            self.asked.insert(chunk, Asked { at: None });
            self.frontier = self.frontier.max(chunk + 1);
        }
    }

    pub(crate) fn note_chunk(&mut self, chunk: u64, at: (RecordNumber, u64)) {
        if let Some(asked) = self.asked.get_mut(&chunk) {
            asked.at = Some(at);
        }
    }

    pub(crate) fn note_stored(&mut self, chunks: &[Span]) {
        for chunk in chunks.iter().flat_map(Span::chunks) {
            self.asked.remove(&chunk);
            self.store(chunk);
        }
        self.forget_pages();
    }

    fn store(&mut self, chunk: u64) {
        let word = usize::try_from(chunk / 64).ok().and_then(|at| self.stored.get_mut(at));
        let Some(word) = word.filter(|word| **word >> (chunk % 64) & 1 == 0) else { return };
        *word |= 1 << (chunk % 64);
        self.stored_chunks += 1;
    }

    /// Pages of which nothing is under way any more.
    fn forget_pages(&mut self) {
        while self.frontier < self.offer.chunks() && self.is_stored(self.frontier) {
            self.frontier += 1;
        }
        let (frontier, asked) = (self.frontier, &self.asked);
        self.pages.retain(|page, _| {
            let first = u64::from(*page) * PAGE_CHUNKS;
            frontier < first + PAGE_CHUNKS || asked.range(first..first + PAGE_CHUNKS).next().is_some()
        });
        if self.stored_chunks == self.offer.chunks() {
            self.pages.clear();
        }
    }

    /// The page that the frontier lies in.
    fn page_at(&self) -> u32 {
        u32::try_from(self.frontier / PAGE_CHUNKS).unwrap_or(u32::MAX)
    }

    /// What to ask for next, so that at most `most` chunks are under way: pages and chunks.
    pub(crate) fn next_wanted(&self, most: u64) -> (Vec<u32>, Vec<Span>) {
        let chunks = self.offer.chunks();
        let under_way = self.asked.len() as u64;
        // Half a window at a time: a want for each chunk would cost a message each.
        if !self.is_active() || under_way > most / 2 {
            return Default::default();
        }
        let mut wanted = Vec::new();
        let mut at = self.frontier;
        while at < chunks && under_way + (wanted.len() as u64) < most {
            let page = u32::try_from(at / PAGE_CHUNKS).unwrap_or(u32::MAX);
            let Some(held) = self.pages.get(&page).filter(|held| at % PAGE_CHUNKS < held.checked) else { break };
            // What was checked and found is stored; its page ends where it was checked to.
            let end = (u64::from(page) * PAGE_CHUNKS + held.checked).min(chunks);
            while at < end && under_way + (wanted.len() as u64) < most {
                if !self.is_stored(at) {
                    wanted.push(at);
                }
                at += 1;
            }
        }
        (self.next_pages(), spans_of(wanted))
    }

    /// The page of the frontier, and the one behind it once half of that is done: nothing shall wait for a page.
    fn next_pages(&self) -> Vec<u32> {
        let page = self.page_at();
        let early = if self.frontier % PAGE_CHUNKS >= PAGE_CHUNKS / 2 { page.saturating_add(1) } else { page };
        let lacks = |page: &u32| {
            let first = u64::from(*page) * PAGE_CHUNKS;
            self.frontier < self.offer.chunks()
                && first < self.offer.chunks()
                && !self.pages.contains_key(page)
                && !self.asked_pages.contains(page)
        };
        (page..=early).filter(lacks).collect()
    }

    /// Chunks that have come and are not stored.
    pub(crate) fn staged(&self) -> impl Iterator<Item = (u64, RecordNumber, u64)> {
        self.asked.iter().filter_map(|(chunk, asked)| asked.at.map(|(record, index)| (*chunk, record, index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{CHUNK_BYTES, root};
    use proptest::prelude::*;

    fn offer(chunks: u64) -> Offer {
        let pages = vec![Digest::ZERO; usize::try_from(chunks.div_ceil(PAGE_CHUNKS)).expect("few")];
        let size = chunks * CHUNK_BYTES;
        Offer { id: "1".into(), name: "a".into(), media: String::new(), size, root: root(size, &pages), pages }
    }

    #[test]
    fn pages_are_asked_for_before_they_are_needed_and_forgotten_after() {
        let mut coming = Receiving::new(1, offer(PAGE_CHUNKS + 10));
        coming.begin(1);
        assert_eq!(coming.next_wanted(128), (vec![0], vec![]));
        coming.note_asked(&[0], &[]);
        assert_eq!(coming.next_wanted(128), (vec![], vec![]), "nothing is asked for twice");
        coming.note_page(0, vec![Digest::ZERO; 4096]);
        assert_eq!(coming.next_wanted(128), (vec![], vec![]), "not before the store was asked");
        coming.note_checked(0, 3000, &[Span { from: 2, to: 2900 }]);
        assert_eq!(coming.next_wanted(128).1, spans_of([0, 1].into_iter().chain(2900..3000)));
        coming.note_asked(&[], &spans_of([0, 1].into_iter().chain(2900..2950)));
        coming.note_stored(&spans_of([0, 1].into_iter().chain(2900..2950)));
        assert_eq!(coming.next_wanted(128).0, [1], "half of the page is done");
        coming.note_asked(&[1], &[]);
        coming.note_page(1, vec![Digest::ZERO; 10]);
        coming.note_checked(0, 4096, &[]);
        coming.note_checked(1, 10, &[]);
        let rest = spans_of(2950..PAGE_CHUNKS);
        coming.note_asked(&[], &rest);
        coming.note_stored(&rest);
        assert_eq!(coming.pages.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(coming.next_wanted(128).1, spans_of(PAGE_CHUNKS..PAGE_CHUNKS + 10));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_wanted_no_more(
            wants in prop::collection::vec((0u64..60, 1u64..20), 1..6),
            sent in prop::collection::vec((0u64..60, 1u64..20), 0..6),
        ) {
            let mut going = Sending::new(AuthorityId::MINISTRY, 1, offer(100));
            let span = |(from, length): &(u64, u64)| Span { from: *from, to: from + length };
            let mut model = BTreeSet::new();
            for want in &wants {
                // The destination asks for nothing twice.
                let new: Vec<Span> = spans_of(span(want).chunks().filter(|c| !model.contains(c)));
                model.extend(new.iter().flat_map(Span::chunks));
                going.want((false, Epoch::default()), &[], &new);
            }
            for done in &sent {
                going.sent(&[], &[span(done)]);
                model.retain(|chunk| !span(done).chunks().contains(chunk));
            }
            prop_assert_eq!(going.next_chunks(1000).into_iter().collect::<BTreeSet<_>>(), model.clone());
            prop_assert!((0..100).all(|chunk| going.wants(chunk) == model.contains(&chunk)));
        }

        #[test]
        fn every_chunk_is_asked_for_once_and_no_more_than_a_window_at_a_time(
            chunks in 1u64..300,
            known in prop::collection::btree_set(0u64..300, 0..100),
            window in 1u64..50,
        ) {
            let mut coming = Receiving::new(1, offer(chunks));
            coming.begin(1);
            coming.note_asked(&[0], &[]);
            coming.note_page(0, vec![Digest::ZERO; usize::try_from(chunks).expect("few")]);
            let known: Vec<u64> = known.into_iter().filter(|chunk| *chunk < chunks).collect();
            coming.note_checked(0, chunks, &spans_of(known.iter().copied()));
            let mut asked = Vec::new();
            loop {
                let (pages, wanted) = coming.next_wanted(window);
                prop_assert!(pages.is_empty());
                if wanted.is_empty() { break; }
                coming.note_asked(&[], &wanted);
                prop_assert!(coming.asked.len() as u64 <= window);
                asked.extend(wanted.iter().flat_map(Span::chunks));
                coming.note_stored(&wanted);
            }
            asked.extend(known);
            asked.sort_unstable();
            prop_assert_eq!(asked, (0..chunks).collect::<Vec<_>>());
            prop_assert_eq!(coming.stored_chunks, chunks);
        }
    }
}
