//! A node's secret keys and their public halves. Secrets are wiped when dropped and never printed.

use crate::entropy::Entropy;
use crate::wrap::{Contexts, WRAPPED};
use crate::{Error, sha256};
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use jincai_types::{Digest, decode, encode, hex};
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::fmt;
use zeroize::Zeroizing;

/// An Ed25519 verification key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SigningPublicKey(pub [u8; 32]);

impl SigningPublicKey {
    /// The key id carried in signatures: the first 8 bytes of the key's SHA-256.
    #[must_use]
    pub fn id(&self) -> [u8; 8] {
        sha256(&self.0).0[..8].try_into().expect("8 of 32 bytes")
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for SigningPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex(&self.id()))
    }
}

/// An X25519 key that content keys are wrapped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionPublicKey(pub [u8; 32]);

/// An Ed25519 signing key.
pub struct SigningKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl SigningKey {
    fn from_seed(seed: [u8; 32]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| Error::Key("not an Ed25519 seed"))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| Error::Key("not an Ed25519 key"))?;
        Ok(Self { seed: Zeroizing::new(seed), pair, public })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> SigningPublicKey {
        SigningPublicKey(self.public)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl rcgen::PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Self::sign(self, message))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.public())
    }
}

/// What an authority shows of its keys when it asks its superior for a card and certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PublicKeys {
    /// Signs statements, receipts and slots.
    #[n(0)]
    pub signing: ByteArray<32>,
    /// Content keys are wrapped for it.
    #[n(1)]
    pub encryption: ByteArray<32>,
    /// The node's TLS key (Ed25519).
    #[n(2)]
    pub tls: ByteArray<32>,
    /// Signs the TLS certificates of inferiors (Ed25519).
    #[n(3)]
    pub authority: ByteArray<32>,
}

/// The TLS key of a node in the form that rustls reads.
pub struct TlsIdentity {
    /// PKCS#8 of the Ed25519 key.
    pub key: PrivatePkcs8KeyDer<'static>,
}

/// All secret keys of one hosted authority and its node.
pub struct KeyRing {
    /// Signs statements, receipts, slots and the cards of inferiors.
    pub signing: SigningKey,
    /// Signs the TLS certificates of inferiors.
    pub authority: SigningKey,
    tls: SigningKey,
    encryption: Zeroizing<[u8; 32]>,
    contexts: Contexts,
}

#[derive(Encode, Decode)]
struct KeyFile {
    #[n(0)]
    version: u8,
    #[n(1)]
    signing: ByteArray<32>,
    #[n(2)]
    authority: ByteArray<32>,
    #[n(3)]
    tls: ByteArray<32>,
    #[n(4)]
    encryption: ByteArray<32>,
}

impl KeyRing {
    /// New keys.
    pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, Error> {
        let mut seed = || -> Result<[u8; 32], Error> {
            let mut bytes = [0; 32];
            entropy.fill(&mut bytes)?;
            Ok(bytes)
        };
        Ok(Self {
            signing: SigningKey::from_seed(seed()?)?,
            authority: SigningKey::from_seed(seed()?)?,
            tls: SigningKey::from_seed(seed()?)?,
            encryption: Zeroizing::new(seed()?),
            contexts: Contexts::default(),
        })
    }

    /// The secret bytes for the key file; keep them readable to the node's user only.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(encode(&KeyFile {
            version: 1,
            signing: (*self.signing.seed).into(),
            authority: (*self.authority.seed).into(),
            tls: (*self.tls.seed).into(),
            encryption: (*self.encryption).into(),
        }))
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let file: KeyFile = decode("key file", bytes, 4096)?;
        if file.version != 1 {
            return Err(Error::Suite { what: "key file", found: u64::from(file.version) });
        }
        Ok(Self {
            signing: SigningKey::from_seed(*file.signing)?,
            authority: SigningKey::from_seed(*file.authority)?,
            tls: SigningKey::from_seed(*file.tls)?,
            encryption: Zeroizing::new(*file.encryption),
            contexts: Contexts::default(),
        })
    }

    /// The public halves.
    pub fn public(&self) -> Result<PublicKeys, Error> {
        let secret = self.decryption()?;
        let encryption: [u8; 32] = X25519HkdfSha256::sk_to_pk(&secret).to_bytes().into();
        Ok(PublicKeys {
            signing: self.signing.public.into(),
            encryption: encryption.into(),
            tls: self.tls.public.into(),
            authority: self.authority.public.into(),
        })
    }

    /// The node's TLS key for rustls.
    #[must_use]
    pub fn tls_identity(&self) -> TlsIdentity {
        // PKCS#8 version 1 of an Ed25519 key is this fixed prefix and the seed (RFC 8410 §7).
        let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        der.extend_from_slice(&*self.tls.seed);
        TlsIdentity { key: PrivatePkcs8KeyDer::from(der) }
    }

    fn decryption(&self) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey, Error> {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&*self.encryption)
            .map_err(|_| Error::Key("not an X25519 key"))
    }

    /// Wraps a batch's content key for a reader.
    pub(crate) fn wrap(
        &self,
        reader: &EncryptionPublicKey,
        content_key: &[u8; 32],
        statement: &Digest,
        entropy: &mut dyn Entropy,
    ) -> Result<[u8; WRAPPED], Error> {
        self.contexts.wrap(reader, content_key, statement, entropy)
    }

    /// Opens what was wrapped for us.
    pub(crate) fn unwrap(&self, wrapped: &[u8; WRAPPED], statement: &Digest) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.contexts.unwrap(&self.decryption()?, wrapped, statement)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({:?})", self.signing.public())
    }
}
