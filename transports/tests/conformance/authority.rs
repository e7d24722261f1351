//! Certificates for tests and measurements: a root at the ministry, two nodes below it, and what is wrong with others.

use jincai_crypto::{KeyRing, SeededEntropy, issue_authority, issue_node, issue_root};
use jincai_transports::QuicConfig;
use jincai_types::{AuthorityId, Millis};
use rustls_pki_types::CertificateDer;

/// Long after this was written, in milliseconds.
pub(crate) const FAR_FUTURE: Millis = 4_000_000_000_000;

/// A ministry that issues certificates.
pub(crate) struct Ministry {
    keys: KeyRing,
    pub(crate) root: CertificateDer<'static>,
}

impl Ministry {
    /// A ministry of its own for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        let keys = KeyRing::generate(&mut SeededEntropy::new(seed)).expect("keys");
        let root = issue_root(AuthorityId::MINISTRY, &keys.authority, 0, FAR_FUTURE).expect("root");
        Self { keys, root }
    }

    /// What the node of an authority needs; its certificate is valid between two instants.
    pub(crate) fn node(
        &self,
        authority: AuthorityId,
        neighbours: &[AuthorityId],
        from: Millis,
        until: Millis,
    ) -> QuicConfig {
        let seed = authority.as_str().parse::<u64>().expect("digits") + 1;
        let ring = KeyRing::generate(&mut SeededEntropy::new(seed)).expect("keys");
        let public = ring.public().expect("public keys");
        let issuer = (AuthorityId::MINISTRY, &self.keys.authority);
        // Through an intermediate of the authority itself, so that a chain of two is what all tests use.
        let middle = issue_authority(issuer, authority, &public.authority, 0, FAR_FUTURE).expect("intermediate");
        let leaf = issue_node((authority, &ring.authority), authority, &public.tls, from, until).expect("node");
        QuicConfig {
            listen: None,
            chain: vec![leaf, middle],
            key: ring.tls_identity().key.into(),
            root: self.root.clone(),
            neighbours: neighbours.to_vec(),
            keep_alive: std::time::Duration::from_secs(5),
            secret: [seed as u8; 32],
        }
    }
}
