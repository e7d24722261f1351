//! What passed here: when each batch came and from whom, and whose signed receipt ended its custody. For people who ask where a
//! message is, or what became of it; nothing else depends on it.
//!
//! It goes back as far as the policy says, in time and in batches, whichever is less; a replay and a snapshot rebuild it.

use crate::held::{Held, Key};
use crate::record::Cleared;
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Lane, Millis, RecordNumber, Sequence};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Most bytes of signed receipts kept; older ones go, and what they ended is still told.
const RECEIPT_BYTES: usize = 4 << 20;

/// A neighbour has signed for a batch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Handed {
    #[n(0)]
    pub(crate) to: AuthorityId,
    #[n(1)]
    pub(crate) time: Millis,
    /// Which list of receipts, counted from the first.
    #[n(2)]
    pub(crate) list: u64,
}

/// A batch that passed here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Passage {
    #[n(0)]
    pub(crate) first: Sequence,
    #[n(1)]
    pub(crate) record: RecordNumber,
    /// `None`: it was sealed here.
    #[n(2)]
    pub(crate) from: Option<AuthorityId>,
    #[n(3)]
    pub(crate) time: Millis,
    #[n(4)]
    pub(crate) handed: Vec<Handed>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Provenance {
    passages: BTreeMap<(Lane, Key), Passage>,
    /// Oldest first.
    order: VecDeque<(Millis, Lane, Key)>,
    /// Signed receipts, the newest last, and the number of the first.
    lists: VecDeque<ByteVec>,
    first_list: u64,
    list_bytes: usize,
}

/// As a snapshot keeps it.
#[derive(Encode, Decode)]
pub(crate) struct SavedProvenance {
    #[n(0)]
    passages: Vec<(Lane, Key, Passage)>,
    #[n(1)]
    lists: Vec<ByteVec>,
    #[n(2)]
    first_list: u64,
}

impl Provenance {
    /// A batch was taken here.
    pub(crate) fn took(&mut self, lane: Lane, held: &Held, from: Option<AuthorityId>, time: Millis, most: usize) {
        let key = held.end.key();
        let passage = Passage { first: held.first(), record: held.record, from, time, handed: Vec::new() };
        if self.passages.insert((lane, key), passage).is_none() {
            self.order.push_back((time, lane, key));
        }
        while self.order.len() > most {
            self.forget_oldest();
        }
    }

    /// A neighbour's signed list ended custody.
    pub(crate) fn handed(&mut self, cleared: &Cleared) {
        let list = self.first_list + self.lists.len() as u64;
        let handed = Handed { to: cleared.neighbour, time: cleared.time, list };
        for (lane, end) in &cleared.lanes {
            let first = Key::default();
            let range = (Bound::Included((*lane, first)), Bound::Included((*lane, end.key())));
            // Backwards until one that it had signed for before: what lies before that, too.
            for (_, passage) in self.passages.range_mut(range).rev() {
                if passage.handed.iter().any(|handed| handed.to == cleared.neighbour) {
                    break;
                }
                passage.handed.push(handed.clone());
            }
        }
        self.list_bytes += cleared.signed.len();
        self.lists.push_back(cleared.signed.clone());
        while self.list_bytes > RECEIPT_BYTES {
            self.list_bytes -= self.lists.pop_front().map_or(0, |list| list.len());
            self.first_list += 1;
        }
    }

    /// Lets go of what is older than the policy wants it.
    pub(crate) fn tidy(&mut self, policy: &LinkPolicy, now: Millis) {
        let old = |order: &VecDeque<(Millis, Lane, Key)>| {
            order.front().is_some_and(|(time, ..)| now.saturating_sub(*time) > policy.provenance_ms)
        };
        while old(&self.order) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, lane, key)) = self.order.pop_front() {
            self.passages.remove(&(lane, key));
        }
    }

    /// The batch that holds a message, and its end.
    pub(crate) fn find(&self, lane: Lane, of: Key) -> Option<(Key, &Passage)> {
        let ((found, end), passage) = self.passages.range((lane, of)..).next()?;
        let inside = *found == lane && end.0 == of.0 && passage.first <= of.1;
        inside.then_some((*end, passage))
    }

    /// A signed list of receipts, if it is still kept.
    pub(crate) fn list(&self, number: u64) -> Option<&[u8]> {
        let at = usize::try_from(number.checked_sub(self.first_list)?).ok()?;
        self.lists.get(at).map(|list| &list[..])
    }

    /// The records of all batches.
    pub(crate) fn records(&self) -> impl Iterator<Item = RecordNumber> {
        self.passages.values().map(|passage| passage.record)
    }

    pub(crate) fn save(&self) -> SavedProvenance {
        let passages = self.order.iter().filter_map(|(_, lane, key)| {
            let passage = self.passages.get(&(*lane, *key))?;
            Some((*lane, *key, passage.clone()))
        });
        SavedProvenance {
            passages: passages.collect(),
            lists: self.lists.iter().cloned().collect(),
            first_list: self.first_list,
        }
    }

    pub(crate) fn load(saved: SavedProvenance) -> Self {
        let mut loaded = Self { first_list: saved.first_list, ..Self::default() };
        for (lane, key, passage) in saved.passages {
            loaded.order.push_back((passage.time, lane, key));
            loaded.passages.insert((lane, key), passage);
        }
        loaded.list_bytes = saved.lists.iter().map(|list| list.len()).sum();
        loaded.lists = saved.lists.into();
        loaded
    }
}
