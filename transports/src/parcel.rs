//! How a frame lies in a mailbox: with its length and digest, so that a half-copied entry is told from a whole one.
//!
//! ```text
//! entry = "JCP1" | length u32 big-endian | SHA-256 of the frame | frame (1 … FRAME_BYTES)
//! ```
//! Tools that copy directories show files before they are complete, cut them off, or fill them with zeros first. The
//! digest guards against accidents only; who wants to forge a frame can compute it. It refuses nothing that is whole.

use crate::Error;
use bytes::{BufMut, Bytes, BytesMut};
use jincai_crypto::sha256;
use jincai_types::limits;

const MAGIC: &[u8; 4] = b"JCP1";
const HEAD: usize = 4 + 4 + 32;

/// Longest entry, in bytes.
pub(crate) const ENTRY_BYTES: usize = HEAD + limits::FRAME_BYTES;

/// The entry of a frame (whose size was checked when it was queued).
pub(crate) fn pack(frame: &[u8]) -> Bytes {
    let length = u32::try_from(frame.len()).expect("a queued frame is at most FRAME_BYTES long");
    let mut entry = BytesMut::with_capacity(HEAD + frame.len());
    entry.put_slice(MAGIC);
    entry.put_u32(length);
    entry.put_slice(&sha256(frame).0);
    entry.put_slice(frame);
    entry.freeze()
}

/// The frame of an entry.
pub(crate) fn unpack(mut entry: Vec<u8>) -> Result<Vec<u8>, Error> {
    let Some((head, frame)) = entry.split_first_chunk::<HEAD>() else {
        return Err(Error::Parcel("it ends within its head"));
    };
    let (magic, rest) = head.split_at(MAGIC.len());
    let (length, digest) = rest.split_at(4);
    if magic != MAGIC {
        return Err(Error::Parcel("it does not begin with JCP1"));
    }
    let length = length.iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
    if length == 0 || length > limits::FRAME_BYTES {
        return Err(Error::Parcel("its frame is empty or too long"));
    }
    if frame.len() != length {
        return Err(Error::Parcel("it is shorter or longer than it says"));
    }
    if digest != sha256(frame).0 {
        return Err(Error::Parcel("its digest does not match"));
    }
    entry.drain(..HEAD);
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_frame_fits_and_nothing_is_no_frame() {
        let frame = vec![7; limits::FRAME_BYTES];
        let entry = pack(&frame);
        assert_eq!(entry.len(), ENTRY_BYTES);
        assert_eq!(unpack(entry.to_vec()).expect("whole"), frame);
        assert!(unpack(pack(&[]).to_vec()).is_err());
        assert!(unpack(pack(&vec![7; limits::FRAME_BYTES + 1]).to_vec()).is_err());
    }

    proptest! {
        #[test]
        fn frames_round_trip(frame in prop::collection::vec(any::<u8>(), 1..300)) {
            prop_assert_eq!(unpack(pack(&frame).to_vec()).expect("whole"), frame);
        }

        #[test]
        fn a_cut_or_altered_entry_is_refused(
            frame in prop::collection::vec(any::<u8>(), 1..300),
            at in any::<prop::sample::Index>(),
        ) {
            let entry = pack(&frame).to_vec();
            prop_assert!(unpack(entry[..at.index(entry.len())].to_vec()).is_err());
            let mut altered = entry.clone();
            altered[at.index(entry.len())] ^= 1;
            prop_assert!(unpack(altered).is_err());
            let mut longer = entry;
            longer.push(0);
            prop_assert!(unpack(longer).is_err());
        }

        #[test]
        fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(unpack(bytes).is_err());
        }
    }
}
