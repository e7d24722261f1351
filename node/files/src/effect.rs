//! What the files room writes into the journal.

use crate::model::{FileKey, Offer, Span};
use jincai_types::{AuthorityId, Epoch, Millis, RecordNumber};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// An effect on the files room. Payloads of chunks stay in the records that hold their batches.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Effect {
    /// A file is offered to somebody.
    #[n(0)]
    Submitted(#[n(0)] AuthorityId, #[n(1)] Millis, #[n(2)] Offer),
    /// Its destination asks for pages and chunks, in this epoch of its own.
    #[n(1)]
    Wanted(#[n(0)] FileKey, #[n(1)] bool, #[n(2)] Vec<u32>, #[n(3)] Vec<Span>, #[n(4)] Epoch),
    /// They were handed to the exchange.
    #[n(2)]
    Sent(#[n(0)] FileKey, #[n(1)] Vec<u32>, #[n(2)] Vec<Span>),
    /// Its destination has it.
    #[n(3)]
    Received(#[n(0)] FileKey, #[n(1)] Millis),
    /// Sending is over before that: code and reason.
    #[n(4)]
    SendingEnded(#[n(0)] FileKey, #[n(1)] Millis, #[n(2)] String, #[n(3)] String),
    /// Somebody offers a file.
    #[n(5)]
    Offered(#[n(0)] AuthorityId, #[n(1)] Millis, #[n(2)] Offer),
    /// There is room for it, and it is being received.
    #[n(6)]
    Begun(#[n(0)] FileKey, #[n(1)] Millis),
    /// A page of it, checked: the digests of its chunks, back to back.
    #[n(7)]
    Page(#[n(0)] FileKey, #[n(1)] u32, #[n(2)] ByteVec),
    /// A chunk of it, checked: which one, the record that holds its batch, its index there.
    #[n(8)]
    Chunk(#[n(0)] FileKey, #[n(1)] u64, #[n(2)] RecordNumber, #[n(3)] u64),
    /// A page was held against what the store has, up to so many of its chunks; these were there.
    #[n(9)]
    Checked(#[n(0)] FileKey, #[n(1)] u32, #[n(2)] u64, #[n(3)] Vec<Span>),
    /// Pages and chunks were asked for.
    #[n(10)]
    Asked(#[n(0)] FileKey, #[n(1)] Vec<u32>, #[n(2)] Vec<Span>),
    /// Chunks are in the store, durably.
    #[n(11)]
    Stored(#[n(0)] FileKey, #[n(1)] Vec<Span>),
    /// The file is whole, and can be seen.
    #[n(12)]
    Completed(#[n(0)] FileKey, #[n(1)] Millis),
    /// Receiving it begins anew, with whatever of it the store turns out to have.
    #[n(13)]
    Again(#[n(0)] FileKey),
    /// Receiving it is over before it was whole: code and reason.
    #[n(14)]
    ReceivingEnded(#[n(0)] FileKey, #[n(1)] Millis, #[n(2)] String, #[n(3)] String),
    /// What came says nothing new.
    #[n(15)]
    Nothing,
    /// A transfer that is over is forgotten: whether it was sent from here.
    #[n(16)]
    Forgotten(#[n(0)] FileKey, #[n(1)] bool),
    /// A neighbour gave an offer back, which a restore had made this node forget: it is to be offered again.
    #[n(17)]
    Retaken(#[n(0)] AuthorityId, #[n(1)] Millis, #[n(2)] Offer),
    /// A file was offered again.
    #[n(18)]
    Reoffered(#[n(0)] FileKey),
}
