//! What neighbours say, and what the exchange keeps of it.

use crate::Verdict;
use crate::text::canonical;
use jincai_crypto::CardChain;
use jincai_exchange::record::{
    Cause, Cleared, DeadLetter, Delivered, EffectRecord, Gone, Order, Replayed, Restored, batch_record, batch_time,
    from_body, split_batch_record, to_body,
};
use jincai_exchange::{Answer, Ask, Frame, Receipt, ReceiptList, RefusalNote, SlotValue};
use jincai_types::{Epoch, limits};
use minicbor::{Decode, Encode};
use std::fmt::Debug;

/// A link frame.
pub(crate) fn frame(bytes: &[u8]) -> Verdict {
    let Ok(frame) = Frame::from_bytes(bytes) else { return Verdict::Refused };
    assert!(bytes.len() <= limits::FRAME_BYTES);
    assert_eq!(frame.to_bytes(), bytes);
    if let Frame::Batch { hop, bytes: batch } = &frame {
        assert_eq!(Frame::batch_bytes(hop, batch), bytes, "both ways to write it agree");
    }
    Verdict::Accepted
}

/// What is signed for a neighbour.
pub(crate) fn lists(bytes: &[u8]) -> Verdict {
    let read = [canonical::<ReceiptList>(bytes), canonical::<SlotValue>(bytes), canonical::<Receipt>(bytes)];
    Verdict::of(read.contains(&true))
}

/// The bodies of journal records.
pub(crate) fn records(bytes: &[u8]) -> Verdict {
    let mut read = [
        body::<EffectRecord>(bytes),
        body::<DeadLetter>(bytes),
        body::<Cleared>(bytes),
        body::<Delivered>(bytes),
        body::<Gone>(bytes),
        body::<Restored>(bytes),
        body::<Cause>(bytes),
        body::<Epoch>(bytes),
        body::<CardChain>(bytes),
        body::<RefusalNote>(bytes),
        body::<Order>(bytes),
        body::<Replayed>(bytes),
        body::<Ask>(bytes),
        body::<Answer>(bytes),
    ]
    .contains(&true);
    if let Ok((from, start)) = split_batch_record(bytes) {
        read = true;
        assert_eq!(batch_record(from, batch_time(bytes), &bytes[start..]), bytes);
    }
    Verdict::of(read)
}

fn body<T>(bytes: &[u8]) -> bool
where
    T: for<'b> Decode<'b, ()> + Encode<()> + PartialEq + Debug,
{
    let Ok(value) = from_body::<T>("record", bytes) else { return false };
    let written = to_body(&value);
    assert_eq!(from_body::<T>("record", &written).as_ref(), Ok(&value), "what is written is read");
    true
}
