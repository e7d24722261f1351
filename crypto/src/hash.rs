//! SHA-256 and Merkle trees (RFC 9162 §2.1: leaves are hashed after a 0x00 byte, inner nodes after a 0x01 byte).

use jincai_types::Digest;
use ring::digest::{Context, SHA256, digest};

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    to_digest(digest(&SHA256, bytes))
}

fn to_digest(value: ring::digest::Digest) -> Digest {
    Digest(value.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
}

/// SHA-256 over several pieces.
#[derive(Clone)]
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Hasher {
    /// Adds bytes.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    /// Adds bytes in place.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        to_digest(self.0.finish())
    }
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Hasher::default().with(&[1]).with(&left.0).with(&right.0).finish()
}

/// The largest power of two smaller than `n` (n ≥ 2).
fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// The root over leaf hashes (each already `H(0x00 ‖ leaf)`); of none it is SHA-256 of nothing.
#[must_use]
pub fn merkle_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&merkle_root(left), &merkle_root(right))
        }
    }
}

/// The path that proves leaf `index` (RFC 9162 §2.1.3.1), nearest sibling first.
#[must_use]
pub fn inclusion_proof(leaves: &[Digest], index: usize) -> Vec<Digest> {
    if leaves.len() < 2 || index >= leaves.len() {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (inclusion_proof(left, index), merkle_root(right))
    } else {
        (inclusion_proof(right, index - left.len()), merkle_root(left))
    };
    path.push(sibling);
    path
}

/// The root that a leaf and its path lead to, or `None` if the path has the wrong length for that place.
#[must_use]
pub fn root_from_proof(leaf: Digest, index: usize, count: usize, path: &[Digest]) -> Option<Digest> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, rest) = path.split_last()?;
    let left = split(count);
    if index < left {
        root_from_proof(leaf, index, left, rest).map(|l| node(&l, sibling))
    } else {
        root_from_proof(leaf, index - left, count - left, rest).map(|r| node(sibling, &r))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_small_tree_is_provable_and_no_other() {
        for count in 1..40usize {
            let leaves: Vec<Digest> = (0..count).map(|i| sha256(&i.to_le_bytes())).collect();
            let root = merkle_root(&leaves);
            for (index, leaf) in leaves.iter().enumerate() {
                let path = inclusion_proof(&leaves, index);
                assert_eq!(root_from_proof(*leaf, index, count, &path), Some(root));
                assert_ne!(root_from_proof(sha256(b"other"), index, count, &path), Some(root));
                assert_ne!(root_from_proof(*leaf, (index + 1) % count, count, &path).filter(|_| count > 1), Some(root));
            }
        }
    }

    #[test]
    fn the_root_matches_a_published_vector() {
        // RFC 6962 test data: leaves "" and 0x00 (Certificate Transparency reference implementation).
        let leaves = [sha256(&[0]), sha256(&[0, 0])];
        let root = merkle_root(&leaves).to_string();
        assert_eq!(root, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
    }
}
