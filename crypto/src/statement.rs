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
        let previous = &statement.previous;
        // Whatever follows must have a number too: nobody who counts on from here may overflow.
        let countable = statement.last < Sequence::MAX && previous.sequence < Sequence::MAX;
        if statement.first == 0 || !countable || count.is_none_or(|c| c > limits::BATCH_MESSAGES as u64) {
            return Err(Error::Batch("its first and last numbers cannot be"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_nothing_can_follow_are_refused() {
        let previous = LanePosition { epoch: Epoch { number: 1, salt: 1 }, sequence: 8, digest: Digest([1; 32]) };
        let good = Statement {
            version: STATEMENT_VERSION,
            suite: SUITE_INTL,
            lane: "370502000>000000000/record".parse().expect("lane"),
            epoch: previous.epoch,
            first: 9,
            last: 9,
            previous,
            root: Digest::ZERO,
            encrypted: false,
            sealed_at: 0,
        };
        let read = |statement: &Statement| Statement::from_bytes(&statement.to_bytes()).is_ok();
        assert!(read(&good));
        for sequence in [Sequence::MAX - 1, Sequence::MAX] {
            let previous = LanePosition { sequence, ..previous };
            assert!(!read(&Statement { first: Sequence::MAX, last: Sequence::MAX, previous, ..good.clone() }));
        }
        let previous = LanePosition { epoch: Epoch::default(), sequence: Sequence::MAX, ..previous };
        assert!(!read(&Statement { first: 1, last: 1, previous, ..good }));
    }
}
