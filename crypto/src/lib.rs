//! Signing, sealing, opening, and who may sign: the only place that makes a [`Verified`] value.
//!
//! One suite so far, `intl`: Ed25519, AES-256-GCM, SHA-256 and HKDF from ring, HPKE (RFC 9180, X25519) from the `hpke`
//! crate. Pure but for ring: randomness comes in through [`Entropy`], time as an argument, so a simulation seals from a
//! seed with the very code that production runs. There is no unsigned mode.

mod batch;
mod card;
mod entropy;
mod error;
mod evidence;
mod hash;
mod keys;
mod sign;
mod statement;
mod tls;
mod verified;
mod wrap;

pub use batch::{BatchView, ItemView, Opened, Opener, Recipient, SealInput, seal};
pub use card::{Card, CardChain, Directory};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use error::Error;
pub use evidence::{Evidence, EvidenceReport, export_evidence, verify_evidence};
pub use hash::{Hasher, inclusion_proof, merkle_root, root_from_proof, sha256};
pub use keys::{EncryptionPublicKey, KeyRing, PublicKeys, SigningKey, SigningPublicKey, TlsIdentity};
pub use sign::{Purpose, sign, signer_of, verify};
pub use statement::{STATEMENT_VERSION, SUITE_INTL, Statement};
pub use tls::{issue_authority, issue_node, issue_root, peer_authority, server_name};
pub use verified::Verified;
