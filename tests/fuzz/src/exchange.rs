//! What neighbours say, and what the exchange keeps of it.

use crate::Verdict;
use crate::text::canonical;
use jincai_crypto::CardChain;
use jincai_exchange::record::{
    Cause, Cleared, DeadLetter, Delivered, EffectRecord, Gone, Kept, Order, Replayed, Restored, batch_record,
    batch_time, effects, from_body, kind, split_batch_record, to_body,
};
use jincai_exchange::{Answer, Frame, Receipt, ReceiptList, RefusalNote, SlotValue};
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
        effect(bytes),
        effects_of(kind::EFFECT, bytes),
        effects_of(kind::EFFECTS, bytes),
        body::<DeadLetter>(bytes),
        body::<Cleared>(bytes),
        body::<Delivered>(bytes),
        body::<Gone>(bytes),
        body::<Restored>(bytes),
        body::<Kept>(bytes),
        body::<Cause>(bytes),
        body::<Epoch>(bytes),
        body::<CardChain>(bytes),
        body::<RefusalNote>(bytes),
        body::<Order>(bytes),
        body::<Replayed>(bytes),
        body::<Answer>(bytes),
    ]
    .contains(&true);
    if let Ok((from, start)) = split_batch_record(bytes) {
        read = true;
        assert_eq!(batch_record(from, batch_time(bytes), &bytes[start..]), bytes);
    }
    Verdict::of(read)
}

fn effect(bytes: &[u8]) -> bool {
    let Ok(value) = from_body::<EffectRecord<'_>>("record", bytes) else { return false };
    let written = to_body(&value);
    assert_eq!(from_body::<EffectRecord<'_>>("record", &written).as_ref(), Ok(&value), "what is written is read");
    true
}

/// Each effect lies where it says, behind the one before it.
fn effects_of(kind: u16, bytes: &[u8]) -> bool {
    let Ok((_, effects)) = effects(kind, bytes) else { return false };
    let mut end = 0;
    for effect in effects {
        assert!(effect.offset >= end, "effects do not overlap");
        end = effect.offset + effect.bytes.len();
        assert_eq!(&bytes[effect.offset..end], effect.bytes);
    }
    true
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
