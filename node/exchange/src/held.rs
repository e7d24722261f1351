//! A batch that lies in the journal, as it is remembered: in custody, on the shelf, waiting.

use crate::{FILE_CHUNK, FILE_PAGE, HopOrder, Payload};
use jincai_crypto::BatchView;
use jincai_types::{Destination, Epoch, Lane, LanePosition, Millis, Priority, RecordNumber, Sequence};
use minicbor::{Decode, Encode};

/// Order of batches within a lane.
pub(crate) type Key = (Epoch, Sequence);

/// A batch that lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Held {
    #[n(0)]
    pub(crate) record: RecordNumber,
    #[n(1)]
    pub(crate) previous: LanePosition,
    #[n(2)]
    pub(crate) end: LanePosition,
    #[n(3)]
    pub(crate) bytes: u64,
    /// The end of the batch that came before it on the lane at this hop.
    #[n(4)]
    pub(crate) after: LanePosition,
    /// When its origin sealed it, by the origin's clock.
    #[n(5)]
    pub(crate) sealed_at: Millis,
    /// It holds chunks of files to one authority and nothing else.
    #[cbor(n(6), default)]
    pub(crate) chunks: bool,
}

impl Held {
    /// A batch as it stands in a record.
    pub(crate) fn new(record: RecordNumber, view: &BatchView<'_>, bytes: usize, after: LanePosition) -> Self {
        let (previous, end) = (view.statement.previous, view.end());
        let (bytes, sealed_at, chunks) = (bytes as u64, view.statement.sealed_at, holds_chunks(view));
        Self { record, previous, end, bytes, after, sealed_at, chunks }
    }

    /// Its first message's number.
    pub(crate) fn first(&self) -> Sequence {
        self.previous.next_in(self.end.epoch)
    }

    /// Whether a message is in it.
    pub(crate) fn contains(&self, (epoch, sequence): Key) -> bool {
        self.end.epoch == epoch && (self.first()..=self.end.sequence).contains(&sequence)
    }

    /// What a neighbour must hold to take it: what came before it at this hop, and never less than what its origin signed
    /// as that. A neighbour's word that less came before it is not believed.
    pub(crate) fn needs(&self) -> Key {
        self.follows().key()
    }

    /// The end of what a neighbour must hold to take it.
    pub(crate) fn follows(&self) -> LanePosition {
        if self.after.key() > self.previous.key() { self.after } else { self.previous }
    }

    /// To send it on its own, without regard to what else is held.
    pub(crate) fn payload(&self) -> Payload {
        self.payload_after(LanePosition::START)
    }

    /// To send it on its own, after another one of those that are given back.
    pub(crate) fn payload_after(&self, after: LanePosition) -> Payload {
        let hop = HopOrder { floor: self.previous, after };
        Payload::Batch { record: self.record, hop, bytes: self.bytes }
    }
}

/// Whether a batch holds chunks of files to one authority and nothing else; such batches have few messages.
fn holds_chunks(view: &BatchView<'_>) -> bool {
    let is_chunk = |index| view.attributes(index).is_ok_and(|attributes| is_of_file(&attributes.kind));
    may_hold_chunks(&view.statement.lane) && (0..view.items.len()).all(is_chunk)
}

/// Whether chunks of files may travel on a lane.
pub(crate) fn may_hold_chunks(lane: &Lane) -> bool {
    lane.class == Priority::Bulk && matches!(lane.destination, Destination::Authority(_))
}

/// Whether a message holds a piece of a file that its origin keeps.
pub(crate) fn is_of_file(kind: &str) -> bool {
    [FILE_CHUNK, FILE_PAGE].contains(&kind)
}
