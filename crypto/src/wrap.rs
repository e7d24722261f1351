//! Content keys wrapped for their readers with HPKE (RFC 9180, base mode).
//!
//! An encapsulation costs two multiplications on the curve at the sender and one at the reader, more than all else that
//! sealing a small batch does. So one serves many batches: each batch's content key is sealed under a key of its own that is
//! exported from the HPKE context (RFC 9180 §5.3) under the batch's statement digest. Whoever learns one of these keys
//! learns nothing of the others; whoever could read a sender's memory could read its content keys anyway.
//!
//! ```text
//! wrapped = encapsulated key (32) ‖ AES-256-GCM of the content key (48), key = Export("jincai/wrap/1" ‖ 0x00 ‖ statement
//!           digest, 32), nonce zero (the key is used once), no associated data; the context's info is "jincai/wraps/1"
//! ```

use crate::batch::cipher;
use crate::entropy::Fetched;
use crate::{EncryptionPublicKey, Entropy, Error};
use hpke::aead::{AeadCtxR, AeadCtxS, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender_with_rng};
use jincai_types::Digest;
use ring::aead::{Aad, Nonce};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

type Curve = X25519HkdfSha256;
type Sender = AeadCtxS<AesGcm256, HkdfSha256, Curve>;
type Reader = AeadCtxR<AesGcm256, HkdfSha256, Curve>;

/// What contexts are made for.
const INFO: &[u8] = b"jincai/wraps/1";
/// Batches that share an encapsulation.
const USES: u32 = 1000;
/// Contexts kept for either purpose; one that is missing is made anew.
const KEPT: usize = 64;
/// Bytes of a wrapped key, and of the encapsulated key at its front.
pub(crate) const WRAPPED: usize = 80;
const ENCAPSULATED: usize = 32;

/// The HPKE contexts of one node.
#[derive(Default)]
pub(crate) struct Contexts(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    senders: BTreeMap<[u8; 32], Sending>,
    /// By encapsulated key, the newest last.
    readers: VecDeque<([u8; ENCAPSULATED], Reader)>,
}

struct Sending {
    encapsulated: [u8; ENCAPSULATED],
    context: Sender,
    left: u32,
}

impl Contexts {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Contexts are made before they are put in, so that a poisoned lock still guards whole ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps a batch's content key for one reader.
    pub(crate) fn wrap(
        &self,
        reader: &EncryptionPublicKey,
        content_key: &[u8; 32],
        statement: &Digest,
        entropy: &mut dyn Entropy,
    ) -> Result<[u8; WRAPPED], Error> {
        let mut kept = self.lock();
        if kept.senders.get(&reader.0).is_none_or(|sending| sending.left == 0) {
            let sending = encapsulate(reader, entropy)?;
            if kept.senders.len() >= KEPT {
                kept.senders.pop_first();
            }
            kept.senders.insert(reader.0, sending);
        }
        let sending = kept.senders.get_mut(&reader.0).ok_or(Error::Key("an HPKE context is missing"))?;
        sending.left -= 1;
        let key = exported(|info, out| sending.context.export(info, out), statement)?;
        let mut wrapped = [0; WRAPPED];
        let (encapsulated, sealed) = wrapped.split_at_mut(ENCAPSULATED);
        encapsulated.copy_from_slice(&sending.encapsulated);
        let (plain, tag) = sealed.split_at_mut(content_key.len());
        plain.copy_from_slice(content_key);
        let made = cipher(&key).seal_in_place_separate_tag(nonce(), Aad::empty(), plain);
        tag.copy_from_slice(made.map_err(|_| Error::Key("a content key cannot be wrapped"))?.as_ref());
        Ok(wrapped)
    }

    /// Opens what was wrapped for the owner of `secret`.
    pub(crate) fn unwrap(
        &self,
        secret: &<Curve as Kem>::PrivateKey,
        wrapped: &[u8; WRAPPED],
        statement: &Digest,
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        let (encapsulated, sealed) = wrapped.split_first_chunk::<ENCAPSULATED>().ok_or(Error::Decrypt)?;
        let mut kept = self.lock();
        let known = kept.readers.iter().rposition(|(of, _)| of == encapsulated);
        let at = match known {
            Some(at) => at,
            None => {
                let public = <Curve as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| Error::Decrypt)?;
                let context = setup_receiver(&OpModeR::Base, secret, &public, INFO).map_err(|_| Error::Decrypt)?;
                if kept.readers.len() >= KEPT {
                    kept.readers.pop_front();
                }
                kept.readers.push_back((*encapsulated, context));
                kept.readers.len() - 1
            }
        };
        let (_, context) = kept.readers.get(at).ok_or(Error::Decrypt)?;
        let key = exported(|info, out| context.export(info, out), statement)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let plain = cipher(&key).open_in_place(nonce(), Aad::empty(), &mut buffer).map_err(|_| Error::Decrypt)?;
        let content_key = <[u8; 32]>::try_from(&*plain).map_err(|_| Error::Decrypt)?;
        Ok(Zeroizing::new(content_key))
    }
}

fn encapsulate(reader: &EncryptionPublicKey, entropy: &mut dyn Entropy) -> Result<Sending, Error> {
    let public =
        <Curve as Kem>::PublicKey::from_bytes(&reader.0).map_err(|_| Error::Key("not an X25519 public key"))?;
    let mut random = Fetched::new(entropy)?;
    let made = setup_sender_with_rng::<AesGcm256, HkdfSha256, Curve>(&OpModeS::Base, &public, INFO, &mut random);
    let (encapsulated, context) = made.map_err(|_| Error::Key("HPKE refuses this public key"))?;
    Ok(Sending { encapsulated: encapsulated.to_bytes().into(), context, left: USES })
}

/// The key that wraps the content key of one batch.
fn exported(
    export: impl FnOnce(&[u8], &mut [u8]) -> Result<(), HpkeError>,
    statement: &Digest,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0; 32]);
    let info = [b"jincai/wrap/1\0".as_slice(), &statement.0].concat();
    export(&info, &mut *key).map_err(|_| Error::Key("HPKE exports no key"))?;
    Ok(key)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyRing, SeededEntropy};

    fn keys(seed: u64) -> KeyRing {
        KeyRing::generate(&mut SeededEntropy::new(seed)).expect("keys")
    }

    #[test]
    fn one_encapsulation_serves_many_batches_and_each_has_a_key_of_its_own() {
        let (sender, reader, stranger) = (Contexts::default(), keys(1), keys(2));
        let public = reader.public().expect("keys").encryption;
        let public = EncryptionPublicKey(*public);
        let mut entropy = SeededEntropy::new(3);
        let mut encapsulated = std::collections::BTreeSet::new();
        let mut sealed = std::collections::BTreeSet::new();
        for number in 0..USES + 2 {
            let digest = crate::sha256(&number.to_le_bytes());
            let wrapped = sender.wrap(&public, &[7; 32], &digest, &mut entropy).expect("wraps");
            assert_eq!(*reader.unwrap(&wrapped, &digest).expect("opens"), [7; 32]);
            encapsulated.insert(wrapped[..ENCAPSULATED].to_vec());
            sealed.insert(wrapped[ENCAPSULATED..].to_vec());
            if number % 100 == 0 {
                assert!(reader.unwrap(&wrapped, &Digest::ZERO).is_err(), "it belongs to one statement");
                assert!(stranger.unwrap(&wrapped, &digest).is_err());
                let mut altered = wrapped;
                altered[(number / 100) as usize * 7] ^= 1;
                assert!(reader.unwrap(&altered, &digest).is_err());
            }
        }
        assert_eq!((encapsulated.len(), sealed.len()), (2, USES as usize + 2));
    }

    #[test]
    fn what_was_forgotten_is_made_anew() {
        let (sender, mut entropy) = (Contexts::default(), SeededEntropy::new(3));
        let readers: Vec<KeyRing> = (10..10 + 2 * KEPT as u64).map(keys).collect();
        let digest = crate::sha256(b"statement");
        let wrap = |reader: &KeyRing, entropy: &mut SeededEntropy| {
            let public = EncryptionPublicKey(*reader.public().expect("keys").encryption);
            sender.wrap(&public, &[7; 32], &digest, entropy).expect("wraps")
        };
        let first: Vec<[u8; WRAPPED]> = readers.iter().map(|reader| wrap(reader, &mut entropy)).collect();
        assert!(sender.lock().senders.len() <= KEPT);
        let reader = &readers[0];
        for _ in 0..2 * KEPT {
            let other = Contexts::default();
            let public = EncryptionPublicKey(*reader.public().expect("keys").encryption);
            let wrapped = other.wrap(&public, &[8; 32], &digest, &mut entropy).expect("wraps");
            assert_eq!(*reader.unwrap(&wrapped, &digest).expect("opens"), [8; 32]);
        }
        assert_eq!(*reader.unwrap(&first[0], &digest).expect("still opens"), [7; 32]);
    }
}
