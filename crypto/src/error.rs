//! What can fail when something is signed, sealed, verified or opened.

use jincai_types::{AuthorityId, Fault};

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that are not what they claim to be.
    #[error("{0}")]
    Malformed(#[from] jincai_types::Error),
    /// COSE bytes that cannot be read.
    #[error("{what}: malformed COSE_Sign1 ({reason})")]
    Cose {
        /// What was being read.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A signature that does not verify.
    #[error("{what}: the signature of {signer} does not verify")]
    Signature {
        /// What was signed.
        what: &'static str,
        /// Who should have signed it.
        signer: String,
    },
    /// Nobody we know holds that key: its card may still be under way.
    #[error("{what}: the signing key {key} of {authority} is not known here")]
    UnknownKey {
        /// What was signed.
        what: &'static str,
        /// Whose key.
        authority: AuthorityId,
        /// Its id, hexadecimal.
        key: String,
    },
    /// A suite or version that this node does not allow.
    #[error("{what}: suite or version {found} is not allowed here")]
    Suite {
        /// What was being read.
        what: &'static str,
        /// What it said.
        found: u64,
    },
    /// A batch whose parts contradict its statement.
    #[error("batch: {0}")]
    Batch(&'static str),
    /// A payload that does not decrypt.
    #[error("the payload does not decrypt: wrong key, or altered on the way")]
    Decrypt,
    /// The batch was not encrypted for us.
    #[error("the batch holds no content key for {0}")]
    NotForUs(AuthorityId),
    /// The authority's encryption key is not known, so nothing can be sealed for it.
    #[error("no encryption key of {0} is known here: its card has not arrived")]
    NoRecipientKey(AuthorityId),
    /// A card outside its validity, or that breaks the chain.
    #[error("card of {authority}: {reason}")]
    Card {
        /// Whose card.
        authority: AuthorityId,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key file or key that cannot be used.
    #[error("key: {0}")]
    Key(&'static str),
    /// A certificate that cannot be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Entropy,
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(e) => e.code(),
            Self::Cose { .. } => "JC-1051",
            Self::Signature { .. } => "JC-1052",
            Self::UnknownKey { .. } => "JC-1053",
            Self::Suite { .. } => "JC-1054",
            Self::Batch(_) => "JC-1055",
            Self::Decrypt => "JC-1056",
            Self::NotForUs(_) => "JC-1057",
            Self::NoRecipientKey(_) => "JC-1058",
            Self::Card { .. } => "JC-1059",
            Self::Key(_) => "JC-1060",
            Self::Certificate(_) => "JC-1061",
            Self::Entropy => "JC-1062",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::UnknownKey { .. } | Self::NoRecipientKey(_) => Fault::Passing,
            Self::Key(_) | Self::Certificate(_) | Self::Entropy => Fault::Operator,
            _ => Fault::Peer,
        }
    }
}
