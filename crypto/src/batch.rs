//! The sealed batch: the bytes that travel, the same on every hop and transport.
//!
//! ```text
//! batch  = [ version = 1, statement: bytes (COSE_Sign1), wraps: bytes (COSE_Sign1, or empty if public), items: [* item] ]
//! wraps  = [ version = 1, statement digest, [* [ recipient: authority, wrapped: bytes 80 ] ] ]   (wrapped: see wrap.rs)
//! item   = [ attributes: bytes (canonical CBOR map), content: bytes, commitment: bytes 32 or 0 ]
//! leaf   = SHA-256( 0x00 ‖ H(attributes) ‖ H(content) ‖ commitment )
//! ```
//! Encrypted: content = AES-256-GCM under HKDF(content key, index), nonce zero (the key is used once), associated data =
//! CBOR [lane, epoch, sequence]; plaintext = salt (16) ‖ payload; commitment = H(salt ‖ payload). Public: content = the
//! payload and the commitment is empty (the leaf then repeats H(content)). Wraps stand outside the statement, so that an
//! expanding hop may wrap again; they are signed on their own (by the origin so far), because an altered wrap would make
//! an authentic batch unreadable at its destination. The statement's digest is part of what each is wrapped under.

use crate::sign::{Purpose, sign, signer_of};
use crate::wrap::WRAPPED;
use crate::{
    Directory, EncryptionPublicKey, Entropy, Error, Hasher, KeyRing, Statement, Verified, merkle_root, sha256,
};
use jincai_types::{Attributes, AuthorityId, Digest, Epoch, Lane, LanePosition, Millis, Sequence};
use jincai_types::{decode_canonical, encode, encode_into, limits};
use minicbor::bytes::{ByteArray, ByteSlice};
use minicbor::{Decode, Encode, Encoder};
use ring::{aead, hkdf};
use std::convert::Infallible;
use zeroize::Zeroizing;

const SALT: usize = 16;
/// Bytes that AES-GCM adds.
const TAG: usize = 16;
const COMMITMENT: usize = 32;
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
    wrapped: ByteArray<WRAPPED>,
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

/// The keys of a batch's items; showing one reveals nothing of its neighbours.
pub(crate) struct ItemKeys(hkdf::Prk);

impl ItemKeys {
    /// What they all are derived from; extracting it once a batch halves what a key costs.
    pub(crate) fn new(content_key: &[u8; 32]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"").extract(content_key))
    }

    pub(crate) fn key(&self, index: usize) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let index = (index as u64).to_be_bytes();
        let info: [&[u8]; 2] = [b"jincai/item/1\0", &index];
        let okm = self.0.expand(&info, KeyLength).expect("32 bytes are within HKDF's limit");
        okm.fill(&mut *key).expect("the buffer has the length asked for");
        key
    }
}

pub(crate) fn cipher(key: &[u8; 32]) -> aead::LessSafeKey {
    aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
}

/// The associated data of a batch's items: `[lane, epoch, sequence]`, of which only the last differs between them.
struct AssociatedData(Vec<u8>);

impl AssociatedData {
    fn new(lane: Lane, epoch: Epoch) -> Self {
        let mut bytes = Vec::new();
        head(&mut bytes, |e| e.array(3)?.encode(lane)?.encode(epoch)?.ok());
        Self(bytes)
    }

    fn put(&self, out: &mut Vec<u8>, sequence: Sequence) {
        out.extend_from_slice(&self.0);
        encode_into(out, &sequence);
    }
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
    let (items, leaves) =
        if encrypted { seal_items(input, &ItemKeys::new(&content_key), entropy)? } else { write_items(input) };
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
        let wrapped = keys.wrap(&recipient.key, &content_key, &digest, entropy)?.into();
        wraps.push(Wrap { recipient: recipient.authority, wrapped });
    }
    let signed = sign(Purpose::Statement, payload, &keys.signing);
    let wraps = if encrypted {
        sign(Purpose::Wraps, encode(&Wraps { version: 1, statement: digest, wraps }), &keys.signing)
    } else {
        Vec::new()
    };
    Ok((assemble(&signed, &wraps, count, &items), statement.end(digest)))
}

/// A batch's bytes; `items` are encoded already.
fn assemble(statement: &[u8], wraps: &[u8], count: usize, items: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + statement.len() + wraps.len() + FRAMES);
    head(&mut out, |e| e.array(4)?.u8(1)?.bytes(statement)?.bytes(wraps)?.array(count as u64)?.ok());
    out.extend_from_slice(items);
    out
}

/// Room for the CBOR heads of a batch, or of an item.
const FRAMES: usize = 32;

type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// Appends CBOR that is written piece by piece.
fn head(out: &mut Vec<u8>, write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Written) {
    write(&mut Encoder::new(out)).expect("a Vec never refuses a write");
}

/// A buffer for all items of a batch.
fn room(input: &SealInput<'_>) -> Vec<u8> {
    let sizes = input.messages.iter().map(|(attributes, payload)| attributes.len() + payload.len());
    Vec::with_capacity(sizes.sum::<usize>() + input.messages.len() * (SALT + TAG + COMMITMENT + FRAMES))
}

/// The items of a public batch, encoded, and their leaves.
fn write_items(input: &SealInput<'_>) -> (Vec<u8>, Vec<Digest>) {
    let mut out = room(input);
    let leaves = input.messages.iter().map(|(attributes, payload)| {
        head(&mut out, |e| e.array(3)?.bytes(attributes)?.bytes(payload)?.bytes(&[])?.ok());
        leaf(attributes, payload, &[])
    });
    let leaves = leaves.collect();
    (out, leaves)
}

/// The items of an encrypted batch, encoded, and their leaves. Each payload is copied once, to where it is encrypted and
/// from where it is journaled.
fn seal_items(
    input: &SealInput<'_>,
    keys: &ItemKeys,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, Vec<Digest>), Error> {
    let mut out = room(input);
    let mut leaves = Vec::with_capacity(input.messages.len());
    // All at once: a call of the system for each salt costs more than its message's encryption.
    let mut salts = Zeroizing::new(vec![0; input.messages.len() * SALT]);
    entropy.fill(&mut salts)?;
    let (data, mut associated) = (AssociatedData::new(input.lane, input.epoch), Vec::new());
    for (index, ((attributes, payload), salt)) in input.messages.iter().zip(salts.chunks_exact(SALT)).enumerate() {
        associated.clear();
        data.put(&mut associated, input.first + index as u64);
        let plain = SALT + payload.len();
        head(&mut out, |e| e.array(3)?.bytes(attributes)?.bytes_len((plain + TAG) as u64)?.ok());
        let start = out.len();
        out.extend_from_slice(salt);
        out.extend_from_slice(payload);
        let commitment = sha256(&out[start..]).0;
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        let tag = cipher(&keys.key(index))
            .seal_in_place_separate_tag(nonce, aead::Aad::from(&associated), &mut out[start..])
            .map_err(|_| Error::Batch("a payload is too large to encrypt"))?;
        out.extend_from_slice(tag.as_ref());
        leaves.push(leaf(attributes, &out[start..], &commitment));
        head(&mut out, |e| e.bytes(&commitment)?.ok());
    }
    Ok((out, leaves))
}

/// A message that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// What blinds the commitment; empty for public messages.
    pub salt: &'a [u8],
    /// H(salt ‖ payload), which its origin signed and this node has checked; empty for public messages.
    pub commitment: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// Decrypts one item of evidence with its own key and checks the commitment; returns the payload.
pub(crate) fn open_item(
    key: &[u8; 32],
    (lane, epoch, sequence): (Lane, Epoch, Sequence),
    item: &ItemView<'_>,
) -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::new();
    decrypt(key, (&AssociatedData::new(lane, epoch), sequence), item, &mut buffer).map(|opened| opened.payload.to_vec())
}

/// Decrypts one item with its own key and checks the commitment. What is opened lies in `buffer`.
fn decrypt<'a>(
    key: &[u8; 32],
    (data, sequence): (&AssociatedData, Sequence),
    item: &ItemView<'a>,
    buffer: &'a mut Vec<u8>,
) -> Result<Opened<'a>, Error> {
    buffer.clear();
    data.put(buffer, sequence);
    let associated = buffer.len();
    buffer.extend_from_slice(item.content);
    let (associated, sealed) = buffer.split_at_mut(associated);
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    let plain = cipher(key).open_in_place(nonce, aead::Aad::from(associated), sealed).map_err(|_| Error::Decrypt)?;
    if sha256(plain).0 != item.commitment {
        return Err(Error::Decrypt);
    }
    let (salt, payload) = plain.split_at_checked(SALT).ok_or(Error::Decrypt)?;
    Ok(Opened { salt, commitment: item.commitment, payload })
}

/// Opens the messages of one batch. The memory for one of them serves all.
pub struct Opener {
    /// `None` for a public batch.
    keys: Option<(ItemKeys, AssociatedData)>,
    buffer: Vec<u8>,
}

impl Opener {
    /// The message at `index` of the batch that this was made for.
    pub fn open<'a>(&'a mut self, batch: &BatchView<'a>, index: usize) -> Result<Opened<'a>, Error> {
        let item = batch.items.get(index).ok_or(Error::Batch("there is no such message"))?;
        match &self.keys {
            None if batch.statement.encrypted => Err(Error::Decrypt),
            None => Ok(Opened { salt: &[], commitment: &[], payload: item.content }),
            Some((keys, data)) => decrypt(&keys.key(index), (data, batch.sequence(index)), item, &mut self.buffer),
        }
    }
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
        let wanted = if self.statement.encrypted { COMMITMENT } else { 0 };
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
    pub(crate) fn content_key(&self, me: AuthorityId, keys: &KeyRing) -> Result<Option<Zeroizing<[u8; 32]>>, Error> {
        if !self.statement.encrypted {
            return Ok(None);
        }
        let wrap = self.wraps.iter().find(|wrap| wrap.recipient == me).ok_or(Error::NotForUs(me))?;
        keys.unwrap(&wrap.wrapped, &self.digest).map(Some)
    }

    /// What opens the messages, if they are public or encrypted for `me`.
    pub fn opener(&self, me: AuthorityId, keys: &KeyRing) -> Result<Opener, Error> {
        let data = || AssociatedData::new(self.statement.lane, self.statement.epoch);
        let keys = self.content_key(me, keys)?.map(|key| (ItemKeys::new(&key), data()));
        Ok(Opener { keys, buffer: Vec::new() })
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
