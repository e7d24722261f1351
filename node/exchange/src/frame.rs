//! Link frames: what neighbours say to each other. Everything but [`Frame::Batch`] is small.
//!
//! ```text
//! frame = [ kind, … ]   CBOR, canonical, ≤ FRAME_BYTES
//!   0 hello    [ version-low, version-high, authority, epoch, heard, known, restored ]
//!   1 batch    [ hop: [ floor: position, after: position ], batch: bytes ]
//!   2 durable  [ lane, position ]            unsigned: moves the sender's window, clears no custody
//!   3 receipts [ COSE_Sign1 over a receipt list ]
//!   4 gap      [ lane, position held ]
//!   5 slot     [ COSE_Sign1 over a slot ]
//!   6 ends     [ [* [ lane, position ] ], more ]   the answer to a hello that says `restored`
//!   7 intake   [ open, [* held-back ] ]  whether the speaker has room to take batches, and what it wants held back
//!   8 offer    [ [* slot id ] ]          slots that the speaker holds and that lead the listener's way
//!   9 want     [ [* slot id ] ]          those of an offer that the speaker does not hold
//!  10 demand   [ windows, [4 × [ bytes, next, age ]] ]   what waits at the speaker by class, and what it may send
//!  11 grant    [ windows ]               bytes by class that the listener may have in flight; see credit.rs
//! windows = [4 × bytes]
//! slot id = bytes 16, the first half of the SHA-256 of the COSE_Sign1
//! held-back = [ hop: authority, class, why, at: authority, since: millis ]
//!   why = 0 the hop's disk is full, 1 it is away, 2 more than its share waits for it
//! ```
//! `floor` is the end of what the sender no longer holds for this hop, because the hop (or the destination) has receipted
//! it: a relay that has forgotten the lane takes its place from there and never receipts what it has not seen. `after` is
//! the batch that came before this one at the sender: a new epoch does not name what its origin has forgotten, but every
//! hop sends that first. Of lanes that lead through the speaker and then through a held-back `hop`, nothing of that class is
//! to be sent to the speaker; `at` is who noticed first. A node takes its neighbour for open until it says otherwise, and
//! the last intake counts alone.

use jincai_types::{
    AuthorityId, Epoch, Error, Lane, LanePosition, Millis, Priority, decode_canonical, encode, encode_into, limits,
};
use minicbor::bytes::{ByteArray, ByteSlice, ByteVec};
use minicbor::{Decode, Encode};

/// The protocol version that this node speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// A frame between neighbours. A batch stays where it was read, so that none is copied to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Frame<'b> {
    /// The first frame in each direction.
    #[n(0)]
    Hello {
        /// Lowest protocol version spoken.
        #[n(0)]
        low: u16,
        /// Highest protocol version spoken.
        #[n(1)]
        high: u16,
        /// Who speaks.
        #[n(2)]
        authority: AuthorityId,
        /// The speaker's epoch.
        #[n(3)]
        epoch: Epoch,
        /// Whether the speaker has heard the listener's hello on this link; if not, it wants one.
        #[n(4)]
        heard: bool,
        /// The newest epoch of the listener that the speaker knows.
        #[n(5)]
        known: Epoch,
        /// Whether the speaker was set back to an older state and wants to hear what the listener holds.
        #[n(6)]
        restored: bool,
    },
    /// A sealed batch.
    #[n(1)]
    Batch {
        /// See the module's head.
        #[n(0)]
        hop: HopOrder,
        /// The batch's bytes.
        #[b(1)]
        bytes: &'b ByteSlice,
    },
    /// Everything up to here is durable at the speaker.
    #[n(2)]
    Durable {
        /// The lane.
        #[n(0)]
        lane: Lane,
        /// A batch's end.
        #[n(1)]
        position: LanePosition,
    },
    /// A signed [`ReceiptList`].
    #[n(3)]
    Receipts {
        /// COSE_Sign1.
        #[n(0)]
        signed: ByteVec,
    },
    /// Something between what the speaker holds and what it was sent is missing.
    #[n(4)]
    Gap {
        /// The lane.
        #[n(0)]
        lane: Lane,
        /// The end of what the speaker holds.
        #[n(1)]
        have: LanePosition,
    },
    /// A signed [`SlotValue`].
    #[n(5)]
    Slot {
        /// COSE_Sign1.
        #[n(0)]
        signed: ByteVec,
    },
    /// What the speaker holds of lanes that begin at the listener or have it as a destination.
    #[n(6)]
    Ends {
        /// Lane and the last end held; at most [`ENDS`].
        #[n(0)]
        lanes: Vec<(Lane, LanePosition)>,
        /// Whether more frames follow.
        #[n(1)]
        more: bool,
    },
    /// Whether the speaker takes batches; a full disk takes none.
    #[n(7)]
    Intake {
        /// Whether it does.
        #[n(0)]
        open: bool,
        /// What it wants held back although it does; at most [`HELD`].
        #[n(1)]
        held: Vec<HeldBack>,
    },
    /// Slots that the speaker holds and that lead the listener's way.
    #[n(8)]
    Offer {
        /// Which; at most [`IDS`].
        #[n(0)]
        ids: Vec<SlotId>,
    },
    /// Slots of an offer that the speaker does not hold.
    #[n(9)]
    Want {
        /// Which; at most [`IDS`].
        #[n(0)]
        ids: Vec<SlotId>,
    },
    /// What waits at the speaker for want of a window.
    #[n(10)]
    Demand {
        /// The windows that it has.
        #[n(0)]
        granted: Windows,
        /// What waits, by class.
        #[n(1)]
        waiting: [Waiting; 4],
    },
    /// How much the listener may have in flight to the speaker.
    #[n(11)]
    Grant {
        /// By class.
        #[n(0)]
        windows: Windows,
    },
}

/// Bytes that may be in flight in each class.
pub type Windows = [u64; 4];

/// What waits in one class at a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Waiting {
    /// Bytes in flight and waiting.
    #[n(0)]
    pub bytes: u64,
    /// Bytes of the largest batch that comes next on a lane.
    #[n(1)]
    pub next: u64,
    /// How long ago the youngest of these was sealed, in milliseconds by the sender's clock.
    #[n(2)]
    pub age: u64,
}

/// Names one value of a slot: the first half of the SHA-256 of its signed form. Two that differ have different names,
/// unless their one issuer has searched for them long.
pub type SlotId = ByteArray<16>;

/// Most slots in one [`Frame::Offer`] or [`Frame::Want`].
pub(crate) const IDS: usize = 1000;

/// Where a batch stands at the hop that sends it; see the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HopOrder {
    /// The end of what the sender no longer holds for this hop.
    #[n(0)]
    pub floor: LanePosition,
    /// The end of the batch that came before this one at the sender.
    #[n(1)]
    pub after: LanePosition,
}

/// Why nothing more is wanted for a hop. Of several reasons the first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Obstacle {
    /// It has said that its disk is full.
    #[n(0)]
    Full,
    /// More than its share waits for it, and it cannot be reached.
    #[n(1)]
    Away,
    /// More than its share waits for it.
    #[n(2)]
    Share,
}

/// Lanes of one class to single authorities that lead through a hop, and that are held back because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeldBack {
    /// The hop.
    #[n(0)]
    pub hop: AuthorityId,
    /// The class.
    #[n(1)]
    pub class: Priority,
    /// Why.
    #[n(2)]
    pub why: Obstacle,
    /// Who noticed first: the hop's neighbour.
    #[n(3)]
    pub at: AuthorityId,
    /// Since when, by the clock of `at`.
    #[n(4)]
    pub since: Millis,
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hop, at, .. } = self;
        match self.why {
            Obstacle::Full => write!(f, "{hop}: its disk is full"),
            Obstacle::Away => write!(f, "{hop}: it is away, and more than its share waits at {at}"),
            Obstacle::Share => write!(f, "{hop}: more than its share waits at {at}"),
        }
    }
}

/// Most entries in one [`Frame::Intake`].
pub(crate) const HELD: usize = 1000;

/// Most lanes in one [`Frame::Ends`].
pub(crate) const ENDS: usize = 1000;

impl<'b> Frame<'b> {
    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a frame.
    pub fn from_bytes(bytes: &'b [u8]) -> Result<Self, Error> {
        decode_canonical("link frame", bytes, limits::FRAME_BYTES)
    }

    /// The bytes of a batch frame, in memory of the right size at once.
    #[must_use]
    pub fn batch_bytes(hop: &HopOrder, batch: &'b [u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(batch.len() + BATCH_HEAD);
        encode_into(&mut out, &Frame::Batch { hop: *hop, bytes: batch.into() });
        out
    }
}

/// Room for what stands before the batch in its frame.
const BATCH_HEAD: usize = 256;

/// One lane of a receipt list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Receipt {
    /// The lane.
    #[n(0)]
    pub lane: Lane,
    /// The end of the last batch that is durable at the issuer.
    #[n(1)]
    pub position: LanePosition,
    /// How many messages up to there were refused (by the destination; 0 from a relay).
    #[n(2)]
    pub refusals: u64,
}

/// Lane positions that a hop signs for its neighbour; they clear the neighbour's custody.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptList {
    /// Format version, 1.
    #[n(0)]
    pub version: u8,
    /// Who signs.
    #[n(1)]
    pub issuer: AuthorityId,
    /// The signer's epoch; only a newer one may lower a position.
    #[n(2)]
    pub epoch: Epoch,
    /// For whom.
    #[n(3)]
    pub neighbour: AuthorityId,
    /// The positions.
    #[n(4)]
    pub receipts: Vec<Receipt>,
}

/// Most receipts in one list.
pub(crate) const RECEIPTS: usize = 1000;

/// A signed value of which only the latest counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SlotValue {
    /// Format version, 1.
    #[n(0)]
    pub version: u8,
    /// Who says it.
    #[n(1)]
    pub issuer: AuthorityId,
    /// The issuer's epoch.
    #[n(2)]
    pub epoch: Epoch,
    /// Its name; at most 200 bytes.
    #[n(3)]
    pub name: String,
    /// Counts up within the epoch.
    #[n(4)]
    pub number: u64,
    /// Whom it concerns; hops pass it on in that direction. Absent: every node.
    #[n(5)]
    pub to: Option<jincai_types::Destination>,
    /// The value; at most 16 KiB.
    #[n(6)]
    pub value: ByteVec,
}

/// Longest slot, in bytes of its signed form.
pub(crate) const SLOT_BYTES: usize = 20 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame<'static>> {
        let lane: Lane = "370502000>000000000/record".parse().expect("lane");
        let epoch = Epoch { number: 3, salt: 4 };
        let position = LanePosition { epoch, sequence: 9, digest: jincai_types::Digest([7; 32]) };
        vec![
            Frame::Hello {
                low: 1,
                high: 1,
                authority: lane.origin,
                epoch,
                heard: false,
                known: Epoch::default(),
                restored: true,
            },
            Frame::Batch { hop: HopOrder { floor: position, after: position }, bytes: [1, 2, 3].as_slice().into() },
            Frame::Durable { lane, position },
            Frame::Receipts { signed: vec![4].into() },
            Frame::Gap { lane, have: LanePosition::START },
            Frame::Slot { signed: vec![].into() },
            Frame::Ends { lanes: vec![(lane, position)], more: false },
            Frame::Intake {
                open: false,
                held: vec![HeldBack {
                    hop: lane.origin,
                    class: lane.class,
                    why: Obstacle::Away,
                    at: AuthorityId::MINISTRY,
                    since: 5,
                }],
            },
            Frame::Offer { ids: vec![[1; 16].into(), [2; 16].into()] },
            Frame::Want { ids: vec![[3; 16].into()] },
            Frame::Demand {
                granted: [1, 2, 3, 4],
                waiting: [0, 1, 2, 3].map(|n| Waiting { bytes: n << 40, next: n, age: n << 20 }),
            },
            Frame::Grant { windows: [1 << 20, 2, 3, 4] },
        ]
    }

    #[test]
    fn frames_round_trip() {
        for frame in frames() {
            assert_eq!(Frame::from_bytes(&frame.to_bytes()), Ok(frame));
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _seen = Frame::from_bytes(&bytes).is_ok();
        }

        #[test]
        fn altered_frames_never_read_as_the_same(which in 0usize..12, bit in any::<prop::sample::Index>()) {
            let frame = frames().remove(which);
            let mut bytes = frame.to_bytes();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(Frame::from_bytes(&bytes), Ok(frame));
        }
    }
}
