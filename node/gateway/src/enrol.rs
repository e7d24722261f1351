//! Setting a node up: keys, its card and certificates from its superior.
//!
//! `init` makes keys and a signed request; the ministry signs for itself at once. `enrol sign` at the superior turns a
//! request into a bundle; `enrol accept` takes it in. Nothing secret leaves the data directory.

use crate::clock;
use crate::config::Config;
use crate::error::{Error, read, write_private};
use jincai_crypto::{
    Card, CardChain, Directory, Entropy, KeyRing, PublicKeys, Purpose, SigningPublicKey, SystemEntropy,
};
use jincai_crypto::{issue_authority, issue_node, issue_root, sign, signer_of, verify};
use jincai_types::{AuthorityId, Digest, Millis, decode, encode, hex};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rustls_pki_types::CertificateDer;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// How long cards and certificates are valid: ten years, until renewal by itself exists.
const VALIDITY: Millis = 10 * 366 * 86_400_000;
const FILE_BYTES: usize = 1 << 20;

/// What a node asks its superior for.
#[derive(Debug, Encode, Decode)]
struct Request {
    #[n(0)]
    version: u8,
    #[n(1)]
    authority: AuthorityId,
    #[n(2)]
    keys: PublicKeys,
}

/// What a node is, as signed by its superiors.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Enrolment {
    #[n(0)]
    version: u8,
    /// Cards from the root to this node's authority.
    #[n(1)]
    pub(crate) cards: CardChain,
    /// TLS: the node's certificate, then the intermediates up to (not including) the root.
    #[n(2)]
    certificates: Vec<ByteVec>,
    /// TLS: this authority's own intermediates, nearest first, for its inferiors' chains; empty at the root.
    #[n(3)]
    intermediates: Vec<ByteVec>,
    /// TLS: the root.
    #[n(4)]
    root: ByteVec,
    /// Fingerprint of the root card.
    #[n(5)]
    pub(crate) fingerprint: Digest,
}

impl Enrolment {
    pub(crate) fn load(config: &Config) -> Result<Self, Error> {
        let path = config.file("enrolment.cbor");
        if !path.exists() {
            return Err(Error::NotEnrolled { path });
        }
        Ok(decode("enrolment", &read(&path)?, FILE_BYTES)?)
    }

    /// The directory that these cards prove.
    pub(crate) fn directory(&self) -> Result<Directory, Error> {
        let mut directory = Directory::new(self.fingerprint);
        directory.add(&self.cards, clock::now())?;
        Ok(directory)
    }

    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.certificates.iter().map(|c| CertificateDer::from(c.to_vec())).collect()
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.root.to_vec())
    }
}

/// The node's keys.
pub(crate) fn keys(config: &Config) -> Result<KeyRing, Error> {
    let path = config.file("keys.cbor");
    if !path.exists() {
        return Err(Error::NotEnrolled { path });
    }
    Ok(KeyRing::from_bytes(&read(&path)?)?)
}

/// Makes the data directory, keys, the API token and the request to the superior. The ministry needs no superior.
pub(crate) fn init(config: &Config) -> Result<(), Error> {
    let file = |source| Error::File { path: config.data.clone(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data).map_err(file)?;
    let keys_path = config.file("keys.cbor");
    if keys_path.exists() {
        return Err(Error::Exists { path: keys_path });
    }
    let mut entropy = SystemEntropy::default();
    let keys = KeyRing::generate(&mut entropy)?;
    let mut token = [0; 32];
    entropy.fill(&mut token)?;
    write_private(&config.file("token"), hex(&token).as_bytes())?;
    let request = Request { version: 1, authority: config.authority, keys: keys.public()? };
    let signed = sign(Purpose::Enrolment, encode(&request), &keys.signing);
    write_private(&config.file("enrolment.request"), &signed)?;
    if config.authority == AuthorityId::MINISTRY {
        let (from, until) = (clock::now() - 86_400_000, clock::now() + VALIDITY);
        let card = card(config.authority, None, request.keys, from, until);
        let root = issue_root(config.authority, &keys.authority, from, until)?;
        let node = issue_node((config.authority, &keys.authority), config.authority, &request.keys.tls, from, until)?;
        let enrolment = Enrolment {
            version: 1,
            cards: CardChain::default().with(card.issue(&keys.signing)),
            certificates: vec![node.to_vec().into()],
            intermediates: Vec::new(),
            root: root.to_vec().into(),
            fingerprint: Directory::fingerprint(&card),
        };
        write_private(&config.file("enrolment.cbor"), &encode(&enrolment))?;
    }
    // Last, so that a directory with keys is a complete one.
    write_private(&keys_path, &keys.to_bytes())
}

fn card(authority: AuthorityId, superior: Option<AuthorityId>, keys: PublicKeys, from: Millis, until: Millis) -> Card {
    Card { version: 1, authority, superior, serial: from, keys, not_before: from, not_after: until }
}

/// At the superior: turns an inferior's request into its enrolment.
pub(crate) fn sign_request(config: &Config, request: &Path, out: &Path) -> Result<AuthorityId, Error> {
    let bytes = read(request)?;
    let (payload, _) = signer_of(Purpose::Enrolment, &bytes)?;
    let request: Request = decode("enrolment request", &payload, FILE_BYTES)?;
    verify(Purpose::Enrolment, &bytes, request.authority, &SigningPublicKey(*request.keys.signing))?;
    let (mine, keys) = (Enrolment::load(config)?, keys(config)?);
    let (from, until) = (clock::now() - 86_400_000, clock::now() + VALIDITY);
    let issuer = (config.authority, &keys.authority);
    let card = card(request.authority, Some(config.authority), request.keys, from, until);
    let node = issue_node(issuer, request.authority, &request.keys.tls, from, until)?;
    let authority = issue_authority(issuer, request.authority, &request.keys.authority, from, until)?;
    let with = |first: CertificateDer<'_>| -> Vec<ByteVec> {
        std::iter::once(first.to_vec().into()).chain(mine.intermediates.iter().cloned()).collect()
    };
    let enrolment = Enrolment {
        version: 1,
        cards: mine.cards.with(card.issue(&keys.signing)),
        certificates: with(node),
        intermediates: with(authority),
        root: mine.root.clone(),
        fingerprint: mine.fingerprint,
    };
    // Prove it before it is handed out.
    enrolment.directory()?;
    write_private(out, &encode(&enrolment))?;
    Ok(request.authority)
}

/// At the inferior: takes in what the superior signed, if it is for this node's keys.
pub(crate) fn accept(config: &Config, bundle: &Path) -> Result<Digest, Error> {
    let enrolment: Enrolment = decode("enrolment", &read(bundle)?, FILE_BYTES)?;
    let directory = enrolment.directory()?;
    let ours = directory
        .card(config.authority)
        .is_some_and(|c| keys(config).and_then(|k| Ok(k.public()?)).is_ok_and(|k| k == c.keys));
    if !ours {
        return Err(Error::Check("the bundle is for another authority, or not for the keys of this node".into()));
    }
    write_private(&config.file("enrolment.cbor"), &encode(&enrolment))?;
    Ok(enrolment.fingerprint)
}
