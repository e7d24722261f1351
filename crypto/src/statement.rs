//! The statement of a batch: what its origin signs. Statements of a lane form a hash chain.

use crate::{Error, Hasher};
use jincai_types::{Digest, Epoch, Lane, LanePosition, Millis, Sequence, decode_canonical, encode, limits};
use minicbor::{Decode, Encode};

/// The statement format's version.
pub const STATEMENT_VERSION: u8 = 1;
/// The international suite: Ed25519, SHA-256, AES-256-GCM, HKDF-SHA-256, HPKE with X25519.
pub const SUITE_INTL: u8 = 1;

/// What an origin says of one batch. A CBOR array in this order; refused unless canonical.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Statement {
    /// [`STATEMENT_VERSION`].
    #[n(0)]
    pub version: u8,
    /// [`SUITE_INTL`].
    #[n(1)]
    pub suite: u8,
    /// The lane; its origin signs.
    #[n(2)]
    pub lane: Lane,
    /// The origin's epoch.
    #[n(3)]
    pub epoch: Epoch,
    /// Number of the first message.
    #[n(4)]
    pub first: Sequence,
    /// Number of the last message.
    #[n(5)]
    pub last: Sequence,
    /// Where the chain stood before: within an epoch (this epoch, first − 1, digest); for an epoch's first statement the
    /// end of the lane in the epoch before, as its origin remembers it.
    #[n(6)]
    pub previous: LanePosition,
    /// Merkle root over the messages' leaves.
    #[n(7)]
    pub root: Digest,
    /// Whether payloads are encrypted.
    #[n(8)]
    pub encrypted: bool,
    /// When it was sealed, by the origin's clock.
    #[n(9)]
    pub sealed_at: Millis,
}

impl Statement {
    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads signed bytes and refuses numbers that cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let statement: Self = decode_canonical("statement", bytes, 1024)?;
        if statement.version != STATEMENT_VERSION {
            return Err(Error::Suite { what: "statement", found: u64::from(statement.version) });
        }
        if statement.suite != SUITE_INTL {
            return Err(Error::Suite { what: "statement", found: u64::from(statement.suite) });
        }
        let count = statement.last.checked_sub(statement.first).map(|d| d.saturating_add(1));
        if statement.first == 0 || count.is_none_or(|c| c > limits::BATCH_MESSAGES as u64) {
            return Err(Error::Batch("its first and last numbers cannot be"));
        }
        let previous = &statement.previous;
        let chained = if previous.epoch == statement.epoch {
            previous.sequence + 1 == statement.first
        } else {
            previous.epoch < statement.epoch && statement.first == 1
        };
        if !chained {
            return Err(Error::Batch("its numbers do not continue from the statement before"));
        }
        Ok(statement)
    }

    /// The digest that names the batch and stands in the next statement. It covers the payload, not the signature, so
    /// that an origin may re-sign with a renewed key.
    #[must_use]
    pub fn digest(payload: &[u8]) -> Digest {
        Hasher::default().with(b"jincai/statement/1\0").with(payload).finish()
    }

    /// The end of this batch on its lane, given the digest of the statement.
    #[must_use]
    pub fn end(&self, digest: Digest) -> LanePosition {
        LanePosition { epoch: self.epoch, sequence: self.last, digest }
    }

    /// How many messages it holds.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.last - self.first + 1).expect("bounded by BATCH_MESSAGES")
    }
}
