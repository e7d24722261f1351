//! What the room writes into the journal: the CBOR array [1, effect].

use super::{Draft, HeldRelease};
use crate::Release;
use jincai_types::{AuthorityId, Digest, decode, encode, limits};
use minicbor::{Decode, Encode};

pub(super) const FORMAT: u8 = 1;

/// A change of the room's state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Effect {
    /// A line's draft becomes this.
    #[n(0)]
    Draft {
        #[n(0)]
        line: String,
        #[n(1)]
        draft: Draft,
    },
    /// A line gets its next release.
    #[n(1)]
    Released {
        #[n(0)]
        line: String,
        #[n(1)]
        issuer: AuthorityId,
        #[n(2)]
        release: HeldRelease,
    },
    /// A line's draft is given up.
    #[n(2)]
    Discarded {
        #[n(0)]
        line: String,
    },
}

impl Effect {
    /// The effect of a release whose snapshot lies in `blob`.
    pub(super) fn released(release: &Release, blob: Digest) -> Self {
        Self::Released {
            line: release.line.clone(),
            issuer: release.issuer,
            release: HeldRelease {
                number: release.number,
                root: release.root,
                count: release.count,
                blob,
                effective_from: release.effective_from,
                note: release.note.clone(),
                reason: release.reason.clone(),
                summary: release.summary,
            },
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        encode(&(FORMAT, self))
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let decoded = decode::<(u8, Self)>("dictionary effect", bytes, limits::PAYLOAD_BYTES);
        match decoded.map_err(|error| error.to_string())? {
            (FORMAT, effect) => Ok(effect),
            (format, _) => Err(format!("its format is {format}, not 1")),
        }
    }
}
