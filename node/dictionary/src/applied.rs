//! What releases have given in this process: for many nodes in one process, so that the first computes and checks a step
//! and the others take its result. A node of its own has no use for it, and is given none.
//!
//! A result is named by everything it follows from: the base's root, and the digest of the manifest, which holds the
//! delta or names its parts by digest, the reason for a shrinkage, and the root that was reproduced.

use crate::Written;
use jincai_crypto::sha256;
use jincai_types::Digest;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Most results kept: as many releases as may be on their way at once.
const RESULTS: usize = 1024;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Applied(Mutex<BTreeMap<(Digest, Digest), Written>>);

impl Applied {
    /// The result of a manifest on a base: as it was found before, or as `compute` finds it.
    pub(crate) fn get_or<E>(
        &self,
        base: Digest,
        manifest: &[u8],
        compute: impl FnOnce() -> Result<Written, E>,
    ) -> Result<Written, E> {
        let key = (base, sha256(manifest));
        // Every change is one insertion or a clearance, so a poisoned lock still guards a whole map.
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*known);
        }
        let written = compute()?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == RESULTS {
            known.clear();
        }
        known.insert(key, written);
        Ok(written)
    }
}
