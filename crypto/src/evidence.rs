//! Evidence: one message exported with everything that proves it, verifiable offline years later.
//!
//! It holds the origin's signed statement, the message with its inclusion proof, the chain of cards from the root to the
//! origin, and, where the exporter could read it, the message's own key: that reveals this message and no other.

use crate::batch::{BatchView, ItemKeys, ItemView, leaf, open_item};
use crate::card::{CardChain, Directory};
use crate::sign::{Purpose, verify};
use crate::{Error, KeyRing, Statement, inclusion_proof, root_from_proof};
use jincai_types::{Attributes, AuthorityId, Digest, Millis, decode, decode_canonical, encode, limits};
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

/// The exported file: CBOR, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Evidence {
    /// Format version, 1.
    #[n(0)]
    pub version: u8,
    /// Cards from the root to the origin.
    #[n(1)]
    pub cards: CardChain,
    /// The signed statement.
    #[n(2)]
    pub statement: ByteVec,
    /// Which message of the batch, from 0.
    #[n(3)]
    pub index: u32,
    /// The message's attributes.
    #[n(4)]
    pub attributes: ByteVec,
    /// The message's content as it travelled.
    #[n(5)]
    pub content: ByteVec,
    /// The commitment to salt and payload; empty if public.
    #[n(6)]
    pub commitment: ByteVec,
    /// The path from the leaf to the statement's root.
    #[n(7)]
    pub proof: Vec<Digest>,
    /// The key of this message alone, if it is encrypted and the exporter could read it.
    #[n(8)]
    pub key: Option<ByteArray<32>>,
}

/// What evidence proves.
#[derive(Clone, Debug)]
pub struct EvidenceReport {
    /// The fingerprint of the root that everything hangs on: compare it with the one you trust.
    pub root: Digest,
    /// What the origin signed.
    pub statement: Statement,
    /// The message's attributes.
    pub attributes: Attributes,
    /// The payload, if it is public or its key is part of the evidence.
    pub payload: Option<Vec<u8>>,
}

/// Exports one message of a batch. `reader` may be able to decrypt it; if not, the evidence holds ciphertext only.
pub fn export_evidence(
    batch: &[u8],
    index: usize,
    directory: &Directory,
    reader: Option<(AuthorityId, &KeyRing)>,
) -> Result<Vec<u8>, Error> {
    let view = BatchView::parse(batch)?.verify(directory)?;
    let item = view.items.get(index).ok_or(Error::Batch("there is no such message"))?;
    let origin = view.statement.lane.origin;
    let cards =
        directory.chain(origin).ok_or(Error::Card { authority: origin, reason: "its chain is not held here" })?;
    let key = match reader {
        Some((me, keys)) => view.content_key(me, keys)?.map(|key| ByteArray::from(*ItemKeys::new(&key).key(index))),
        None => None,
    };
    let evidence = Evidence {
        version: 1,
        cards,
        statement: view.statement_bytes().to_vec().into(),
        index: u32::try_from(index).map_err(|_| Error::Batch("there is no such message"))?,
        attributes: item.attributes.to_vec().into(),
        content: item.content.to_vec().into(),
        commitment: item.commitment.to_vec().into(),
        proof: inclusion_proof(&view.leaves(), index),
        key,
    };
    Ok(encode(&evidence))
}

/// Verifies evidence with nothing but its bytes. `root` is the fingerprint to trust; without one, the report names the
/// fingerprint found, and it is for the reader to compare.
pub fn verify_evidence(bytes: &[u8], root: Option<Digest>) -> Result<EvidenceReport, Error> {
    let evidence: Evidence = decode("evidence", bytes, 2 * limits::BATCH_BYTES)?;
    if evidence.version != 1 {
        return Err(Error::Suite { what: "evidence", found: u64::from(evidence.version) });
    }
    let first = CardChain(evidence.cards.0.iter().take(1).cloned().collect()).last()?;
    let root = root.unwrap_or_else(|| Directory::fingerprint(&first));
    let mut directory = Directory::new(root);
    let sealed_at = sealed_at(&evidence.statement)?;
    let (origin, _) = directory.add(&evidence.cards, sealed_at)?;
    let card = directory.card(origin).ok_or(Error::Batch("its origin's card is missing"))?;
    let payload = verify(Purpose::Statement, &evidence.statement, origin, &card.signing())?;
    let statement = Statement::from_bytes(&payload)?;
    if statement.lane.origin != origin {
        return Err(Error::Batch("the cards are those of another origin"));
    }
    let index = evidence.index as usize;
    let leaf = leaf(&evidence.attributes, &evidence.content, &evidence.commitment);
    if root_from_proof(leaf, index, statement.count(), &evidence.proof) != Some(statement.root) {
        return Err(Error::Batch("the message is not part of what the statement signs"));
    }
    let sequence = statement.first + u64::from(evidence.index);
    let payload = match &evidence.key {
        None if statement.encrypted => None,
        None => Some(evidence.content.to_vec()),
        Some(key) => {
            let place = (statement.lane, statement.epoch, sequence);
            let (attributes, content) = (&evidence.attributes[..], &evidence.content[..]);
            Some(open_item(key, place, &ItemView { attributes, content, commitment: &evidence.commitment })?)
        }
    };
    let attributes = decode_canonical("message attributes", &evidence.attributes, limits::BATCH_BYTES)?;
    Ok(EvidenceReport { root, statement, attributes, payload })
}

/// Cards are judged as of the moment the batch was sealed.
fn sealed_at(statement: &[u8]) -> Result<Millis, Error> {
    let (payload, _) = crate::sign::signer_of(Purpose::Statement, statement)?;
    Ok(Statement::from_bytes(&payload)?.sealed_at)
}
