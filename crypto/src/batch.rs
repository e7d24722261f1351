//! The sealed batch: the bytes that travel, the same on every hop and transport.
//!
//! ```text
//! batch  = [ version = 1, statement: bytes (COSE_Sign1), wraps: bytes (COSE_Sign1, or empty if public), items: [* item] ]
//! wraps  = [ version = 1, statement digest, [* [ recipient: authority, wrapped: bytes 80 ] ] ]   (HPKE: key 32, ciphertext 48)
//! item   = [ attributes: bytes (canonical CBOR map), content: bytes, commitment: bytes 32 or 0 ]
//! leaf   = SHA-256( 0x00 ‖ H(attributes) ‖ H(content) ‖ commitment )
//! ```
//! Encrypted: content = AES-256-GCM under HKDF(content key, index), nonce zero (the key is used once), associated data =
//! CBOR [lane, epoch, sequence]; plaintext = salt (16) ‖ payload; commitment = H(salt ‖ payload). Public: content = the
//! payload and the commitment is empty (the leaf then repeats H(content)). Wraps stand outside the statement, so that an
//! expanding hop may wrap again; they are signed on their own (by the origin so far), because an altered wrap would make
//! an authentic batch unreadable at its destination. HPKE's info binds them to the statement's digest.

use crate::sign::{Purpose, sign, signer_of};
use crate::{
    Directory, EncryptionPublicKey, Entropy, Error, Hasher, KeyRing, Statement, Verified, merkle_root, sha256,
};
use jincai_types::{Attributes, AuthorityId, Digest, Epoch, Lane, LanePosition, Millis, Sequence};
use jincai_types::{decode_canonical, encode, limits};
use minicbor::bytes::{ByteArray, ByteSlice};
use minicbor::{Decode, Encode};
use ring::{aead, hkdf};
use zeroize::Zeroizing;

const SALT: usize = 16;
/// Most recipients of one batch.
const WRAPS: usize = 64;

#[derive(Encode, Decode)]
struct Wire<'b> {
    #[n(0)]
    version: u8,
    #[b(1)]
    statement: &'b ByteSlice,
    #[b(2)]
    wraps: &'b ByteSlice,
    #[b(3)]
    items: Vec<WireItem<'b>>,
}

#[derive(Encode, Decode)]
struct Wraps {
    #[n(0)]
    version: u8,
    #[n(1)]
    statement: Digest,
    #[n(2)]
    wraps: Vec<Wrap>,
}

#[derive(Clone, Debug, Encode, Decode)]
struct Wrap {
    #[n(0)]
    recipient: AuthorityId,
    #[n(1)]
    wrapped: ByteArray<80>,
}

#[derive(Encode, Decode)]
struct WireItem<'b> {
    #[b(0)]
    attributes: &'b ByteSlice,
    #[b(1)]
    content: &'b ByteSlice,
    #[b(2)]
    commitment: &'b ByteSlice,
}

/// Somebody who shall be able to read a batch.
#[derive(Clone, Copy, Debug)]
pub struct Recipient {
    /// Who.
    pub authority: AuthorityId,
    /// Their encryption key.
    pub key: EncryptionPublicKey,
}

/// What is to be sealed.
#[derive(Debug)]
pub struct SealInput<'a> {
    /// The lane.
    pub lane: Lane,
    /// The origin's epoch.
    pub epoch: Epoch,
    /// Number of the first message.
    pub first: Sequence,
    /// Where the chain stands (see [`Statement::previous`]).
    pub previous: LanePosition,
    /// Attributes (canonical CBOR) and payload of each message.
    pub messages: &'a [(Vec<u8>, Vec<u8>)],
    /// Who may read; nobody named = the batch is public.
    pub recipients: &'a [Recipient],
    /// The time, by the origin's clock.
    pub now: Millis,
}

struct KeyLength;
impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// The key of one item; showing it reveals nothing of its neighbours.
pub(crate) fn item_key(content_key: &[u8; 32], index: usize) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let index = (index as u64).to_be_bytes();
    let info: [&[u8]; 2] = [b"jincai/item/1\0", &index];
    let pseudo_random = hkdf::Salt::new(hkdf::HKDF_SHA256, b"").extract(content_key);
    let okm = pseudo_random.expand(&info, KeyLength).expect("32 bytes are within HKDF's limit");
    okm.fill(&mut *key).expect("the buffer has the length asked for");
    key
}

fn cipher(key: &[u8; 32]) -> aead::LessSafeKey {
    aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
}

fn associated_data(lane: Lane, epoch: Epoch, sequence: Sequence) -> Vec<u8> {
    encode(&(lane, epoch, sequence))
}

fn wrap_info(digest: &Digest) -> Vec<u8> {
    [b"jincai/wrap/1\0".as_slice(), &digest.0].concat()
}

pub(crate) fn leaf(attributes: &[u8], content: &[u8], commitment: &[u8]) -> Digest {
    let content = sha256(content);
    let commitment = if commitment.is_empty() { &content.0 } else { commitment };
    Hasher::default().with(&[0]).with(&sha256(attributes).0).with(&content.0).with(commitment).finish()
}

/// Seals messages into a batch; returns its bytes and its end on the lane. The caller bounds the total size.
pub fn seal(
    input: &SealInput<'_>,
    keys: &KeyRing,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, LanePosition), Error> {
    let count = input.messages.len();
    if count == 0 || count > limits::BATCH_MESSAGES {
        return Err(Error::Batch("1 to 1,024 messages are wanted"));
    }
    let encrypted = !input.recipients.is_empty();
    let mut content_key = Zeroizing::new([0; 32]);
    if encrypted {
        entropy.fill(&mut *content_key)?;
    }
    let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(count);
    for (index, (_, payload)) in input.messages.iter().enumerate() {
        let sequence = input.first + index as u64;
        sealed.push(if encrypted {
            seal_item(&content_key, index, payload, &associated_data(input.lane, input.epoch, sequence), entropy)?
        } else {
            (payload.clone(), Vec::new())
        });
    }
    let attributes = input.messages.iter().map(|(a, _)| a);
    let leaves: Vec<Digest> = attributes.clone().zip(&sealed).map(|(a, (c, m))| leaf(a, c, m)).collect();
    let statement = Statement {
        version: crate::STATEMENT_VERSION,
        suite: crate::SUITE_INTL,
        lane: input.lane,
        epoch: input.epoch,
        first: input.first,
        last: input.first + count as u64 - 1,
        previous: input.previous,
        root: merkle_root(&leaves),
        encrypted,
        sealed_at: input.now,
    };
    let payload = statement.to_bytes();
    let digest = Statement::digest(&payload);
    let mut wraps = Vec::with_capacity(input.recipients.len());
    for recipient in input.recipients {
        let wrapped = recipient.key.wrap(&content_key, &wrap_info(&digest), entropy)?.into();
        wraps.push(Wrap { recipient: recipient.authority, wrapped });
    }
    let signed = sign(Purpose::Statement, payload, &keys.signing);
    let wraps = if encrypted {
        sign(Purpose::Wraps, encode(&Wraps { version: 1, statement: digest, wraps }), &keys.signing)
    } else {
        Vec::new()
    };
    let items = attributes
        .zip(&sealed)
        .map(|(a, (c, m))| WireItem {
            attributes: a.as_slice().into(),
            content: c.as_slice().into(),
            commitment: m.as_slice().into(),
        })
        .collect();
    let wire = Wire { version: 1, statement: signed.as_slice().into(), wraps: wraps.as_slice().into(), items };
    Ok((encode(&wire), statement.end(digest)))
}

fn seal_item(
    content_key: &[u8; 32],
    index: usize,
    payload: &[u8],
    associated: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut buffer = Vec::with_capacity(SALT + payload.len() + aead::AES_256_GCM.tag_len());
    buffer.resize(SALT, 0);
    entropy.fill(&mut buffer)?;
    buffer.extend_from_slice(payload);
    let commitment = sha256(&buffer).0.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    cipher(&item_key(content_key, index))
        .seal_in_place_append_tag(nonce, aead::Aad::from(associated), &mut buffer)
        .map_err(|_| Error::Batch("a payload is too large to encrypt"))?;
    Ok((buffer, commitment))
}

/// Decrypts one item with its own key and checks the commitment; returns (salt, payload).
pub fn open_item(
    key: &[u8; 32],
    lane: Lane,
    epoch: Epoch,
    sequence: Sequence,
    content: &[u8],
    commitment: &[u8],
) -> Result<OpenItem, Error> {
    let mut buffer = content.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    let associated = associated_data(lane, epoch, sequence);
    let plain =
        cipher(key).open_in_place(nonce, aead::Aad::from(associated), &mut buffer).map_err(|_| Error::Decrypt)?;
    if plain.len() < SALT || sha256(plain).0 != commitment {
        return Err(Error::Decrypt);
    }
    let length = plain.len();
    buffer.truncate(length);
    Ok(OpenItem { payload: buffer.split_off(SALT), salt: buffer })
}

/// A decrypted item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenItem {
    /// The salt that blinds the commitment; empty for public items.
    pub salt: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// One message of a batch as every hop sees it.
#[derive(Clone, Debug)]
pub struct ItemView<'b> {
    /// Its attributes' bytes.
    pub attributes: &'b [u8],
    /// Ciphertext, or the payload of a public batch.
    pub content: &'b [u8],
    /// H(salt ‖ payload), empty in a public batch.
    pub commitment: &'b [u8],
}

/// A batch whose shape has been read; see [`BatchView::verify`].
#[derive(Debug)]
pub struct BatchView<'b> {
    /// What its origin says of it.
    pub statement: Statement,
    /// The statement's digest.
    pub digest: Digest,
    /// Its messages.
    pub items: Vec<ItemView<'b>>,
    statement_cose: &'b [u8],
    wraps_cose: &'b [u8],
    wraps: Vec<Wrap>,
}

impl<'b> BatchView<'b> {
    /// Reads a batch's shape without trusting it: good for finding its lane and for bytes of one's own journal.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Error> {
        let wire: Wire<'b> = decode_canonical("batch", bytes, limits::BATCH_BYTES)?;
        if wire.version != 1 {
            return Err(Error::Suite { what: "batch", found: u64::from(wire.version) });
        }
        let statement_cose: &'b [u8] = wire.statement;
        let (payload, _) = signer_of(Purpose::Statement, statement_cose)?;
        let statement = Statement::from_bytes(&payload)?;
        if wire.items.len() != statement.count() {
            return Err(Error::Batch("it does not hold as many messages as its statement says"));
        }
        let digest = Statement::digest(&payload);
        let wraps = read_wraps(wire.wraps, digest)?;
        if wraps.len() > WRAPS || statement.encrypted == wraps.is_empty() {
            return Err(Error::Batch("its wrapped keys do not fit its statement"));
        }
        let item =
            |i: WireItem<'b>| ItemView { attributes: i.attributes, content: i.content, commitment: i.commitment };
        Ok(Self {
            digest,
            statement,
            items: wire.items.into_iter().map(item).collect(),
            statement_cose,
            wraps_cose: wire.wraps,
            wraps,
        })
    }

    /// Checks the origin's signature and that the messages are those it signed.
    pub fn verify(self, directory: &Directory) -> Result<Verified<Self>, Error> {
        let origin = self.statement.lane.origin;
        directory.verify(Purpose::Statement, self.statement_cose, origin)?;
        if self.statement.encrypted {
            directory.verify(Purpose::Wraps, self.wraps_cose, origin)?;
        }
        let wanted = if self.statement.encrypted { 32 } else { 0 };
        if self.items.iter().any(|i| i.commitment.len() != wanted) {
            return Err(Error::Batch("a commitment has the wrong length"));
        }
        if merkle_root(&self.leaves()) != self.statement.root {
            return Err(Error::Batch("its messages are not those that its statement signs"));
        }
        Ok(Verified::new(self))
    }

    /// For a batch that this node verified before it went into its own journal, whose checksums and hash chain keep it as
    /// it was. Never for bytes that came any other way.
    #[must_use]
    pub fn verified_before(self) -> Verified<Self> {
        Verified::new(self)
    }

    pub(crate) fn leaves(&self) -> Vec<Digest> {
        self.items.iter().map(|i| leaf(i.attributes, i.content, i.commitment)).collect()
    }

    /// The signed statement's bytes.
    #[must_use]
    pub fn statement_bytes(&self) -> &'b [u8] {
        self.statement_cose
    }

    /// The batch's end on its lane.
    #[must_use]
    pub fn end(&self) -> LanePosition {
        self.statement.end(self.digest)
    }

    /// The number of the message at `index`.
    #[must_use]
    pub fn sequence(&self, index: usize) -> Sequence {
        self.statement.first + index as u64
    }

    /// The attributes of the message at `index`.
    pub fn attributes(&self, index: usize) -> Result<Attributes, Error> {
        let item = self.items.get(index).ok_or(Error::Batch("there is no such message"))?;
        Ok(decode_canonical("message attributes", item.attributes, limits::BATCH_BYTES)?)
    }

    /// The content key, if the batch was encrypted for `me`; `None` for a public batch.
    pub fn content_key(&self, me: AuthorityId, keys: &KeyRing) -> Result<Option<Zeroizing<[u8; 32]>>, Error> {
        if !self.statement.encrypted {
            return Ok(None);
        }
        let wrap = self.wraps.iter().find(|wrap| wrap.recipient == me).ok_or(Error::NotForUs(me))?;
        keys.unwrap(&wrap.wrapped, &wrap_info(&self.digest)).map(Some)
    }

    /// The payload at `index`, decrypted with the batch's content key where it has one.
    pub fn open(&self, index: usize, content_key: Option<&[u8; 32]>) -> Result<OpenItem, Error> {
        let item = self.items.get(index).ok_or(Error::Batch("there is no such message"))?;
        let statement = &self.statement;
        match content_key {
            None if statement.encrypted => Err(Error::Decrypt),
            None => Ok(OpenItem { salt: Vec::new(), payload: item.content.to_vec() }),
            Some(key) => {
                let key = item_key(key, index);
                let sequence = self.sequence(index);
                open_item(&key, statement.lane, statement.epoch, sequence, item.content, item.commitment)
            }
        }
    }
}

/// Reads the wrapped keys of a statement; nothing is verified yet.
fn read_wraps(signed: &[u8], statement: Digest) -> Result<Vec<Wrap>, Error> {
    if signed.is_empty() {
        return Ok(Vec::new());
    }
    let (payload, _) = signer_of(Purpose::Wraps, signed)?;
    let wraps: Wraps = decode_canonical("wrapped keys", &payload, 16 << 10)?;
    if wraps.version != 1 || wraps.statement != statement {
        return Err(Error::Batch("its wrapped keys belong to another statement"));
    }
    Ok(wraps.wraps)
}
