//! Authority cards and the directory made of them: who signs with which key, who stands below whom.
//!
//! A card binds an authority to its keys and its superior and is signed by that superior (the ministry's by itself). A
//! chain of cards from the root down to an authority proves it to anyone who pins the root's fingerprint, offline too.

use crate::sign::{Purpose, sign, signer_of, verify};
use crate::{EncryptionPublicKey, Error, PublicKeys, SigningKey, SigningPublicKey, Verified, sha256};
use jincai_types::{AuthorityId, AuthorityTree, Digest, Millis, decode_canonical, encode};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

/// Clocks of nodes may differ by this much before a card counts as not yet valid.
const CLOCK_SKEW: Millis = 10 * 60 * 1000;
/// Longest chain of cards.
const CHAIN: usize = 16;
const CARD_BYTES: usize = 4096;

/// What a superior says of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Card {
    /// Format version, 1.
    #[n(0)]
    pub version: u8,
    /// Whose card.
    #[n(1)]
    pub authority: AuthorityId,
    /// Its superior; none for the root.
    #[n(2)]
    pub superior: Option<AuthorityId>,
    /// Counts up with every new card of this authority; the larger wins.
    #[n(3)]
    pub serial: u64,
    /// Its keys.
    #[n(4)]
    pub keys: PublicKeys,
    /// Valid from, milliseconds.
    #[n(5)]
    pub not_before: Millis,
    /// Valid until, milliseconds.
    #[n(6)]
    pub not_after: Millis,
}

impl Card {
    /// The key that verifies the authority's signatures.
    #[must_use]
    pub fn signing(&self) -> SigningPublicKey {
        SigningPublicKey(*self.keys.signing)
    }

    /// The key that content keys for the authority are wrapped with.
    #[must_use]
    pub fn encryption(&self) -> EncryptionPublicKey {
        EncryptionPublicKey(*self.keys.encryption)
    }

    /// Signs the card with the superior's key (the root's with its own).
    #[must_use]
    pub fn issue(&self, superior: &SigningKey) -> Vec<u8> {
        sign(Purpose::Card, encode(self), superior)
    }
}

/// Signed cards from the root down to one authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct CardChain(#[n(0)] pub Vec<ByteVec>);

impl CardChain {
    /// This chain with one more card at its end.
    #[must_use]
    pub fn with(&self, card: Vec<u8>) -> Self {
        let mut cards = self.0.clone();
        cards.push(card.into());
        Self(cards)
    }

    /// The authority at the chain's end, unverified: good for reading a file's name, not for trust.
    pub fn last(&self) -> Result<Card, Error> {
        read_card(self.0.last().ok_or(Error::Key("an empty chain of cards"))?)
    }

    /// A moment at which all of it was valid, if it ever was: a chain in one's own journal is judged as of when it came. A
    /// superior's card may be younger than that of an inferior, because each is renewed in its own time.
    pub fn valid_at(&self) -> Result<Millis, Error> {
        let (mut from, mut until) = (0, Millis::MAX);
        for bytes in &self.0 {
            let card = read_card(bytes)?;
            (from, until) = (from.max(card.not_before), until.min(card.not_after));
        }
        // A clock that was behind may have taken it a little before its time.
        Ok(from.min(until))
    }
}

/// The authorities this node knows, each proven by a chain of cards up to one pinned root.
#[derive(Clone, Debug)]
pub struct Directory {
    root: Digest,
    cards: BTreeMap<AuthorityId, (Card, Vec<u8>)>,
    tree: AuthorityTree,
}

impl Directory {
    /// An empty directory that trusts only the root card with this fingerprint (SHA-256 of its signing key).
    #[must_use]
    pub fn new(root: Digest) -> Self {
        Self { root, cards: BTreeMap::new(), tree: AuthorityTree::default() }
    }

    /// The fingerprint that identifies a root card.
    #[must_use]
    pub fn fingerprint(card: &Card) -> Digest {
        sha256(&card.signing().0)
    }

    /// Verifies a chain and adds what it proves; returns the authority at its end and whether anything was new.
    /// Nothing is added unless the whole chain verifies.
    pub fn add(&mut self, chain: &CardChain, now: Millis) -> Result<(AuthorityId, bool), Error> {
        if chain.0.is_empty() || chain.0.len() > CHAIN {
            return Err(Error::Key("a chain of 1 to 16 cards is wanted"));
        }
        let mut cards: Vec<(Card, Vec<u8>)> = Vec::new();
        for bytes in &chain.0 {
            let above = cards.last().map(|(card, _)| card);
            let card = verify_card(bytes, above, self.root, now)?;
            cards.push((card.into_inner(), bytes.to_vec()));
        }
        let last = cards.last().expect("the chain is not empty").0.authority;
        let mut new = false;
        for (card, bytes) in cards {
            new |= self.insert(card, bytes)?;
        }
        Ok((last, new))
    }

    fn insert(&mut self, card: Card, bytes: Vec<u8>) -> Result<bool, Error> {
        if let Some((known, known_bytes)) = self.cards.get(&card.authority) {
            if known.serial > card.serial || *known_bytes == bytes {
                return Ok(false);
            }
            if known.serial == card.serial {
                return Err(Error::Card { authority: card.authority, reason: "two different cards have one serial" });
            }
        }
        self.tree.add(card.authority, card.superior)?;
        self.cards.insert(card.authority, (card, bytes));
        Ok(true)
    }

    /// An authority's card.
    #[must_use]
    pub fn card(&self, authority: AuthorityId) -> Option<&Card> {
        self.cards.get(&authority).map(|(card, _)| card)
    }

    /// The signed chain that proves an authority.
    #[must_use]
    pub fn chain(&self, authority: AuthorityId) -> Option<CardChain> {
        let mut cards = Vec::new();
        let mut at = Some(authority);
        while let Some(here) = at {
            let (card, bytes) = self.cards.get(&here)?;
            cards.push(bytes.clone().into());
            at = card.superior;
        }
        cards.reverse();
        Some(CardChain(cards))
    }

    /// Who stands above whom.
    #[must_use]
    pub fn tree(&self) -> &AuthorityTree {
        &self.tree
    }

    /// Verifies something signed by `signer`, with the key on its card.
    pub fn verify(&self, purpose: Purpose, bytes: &[u8], signer: AuthorityId) -> Result<Verified<Vec<u8>>, Error> {
        let Some(card) = self.card(signer) else {
            let (_, key) = signer_of(purpose, bytes)?;
            return Err(Error::UnknownKey { what: "signature", authority: signer, key: jincai_types::hex(&key) });
        };
        verify(purpose, bytes, signer, &card.signing())
    }
}

/// What a card says; nothing is verified yet.
fn read_card(bytes: &[u8]) -> Result<Card, Error> {
    let (payload, _) = signer_of(Purpose::Card, bytes)?;
    Ok(decode_canonical("card", &payload, CARD_BYTES)?)
}

fn verify_card(bytes: &[u8], above: Option<&Card>, root: Digest, now: Millis) -> Result<Verified<Card>, Error> {
    let claimed = read_card(bytes)?;
    let authority = claimed.authority;
    let wrong = |reason| Err(Error::Card { authority, reason });
    if claimed.version != 1 {
        return Err(Error::Suite { what: "card", found: u64::from(claimed.version) });
    }
    match above {
        None if claimed.superior.is_some() => return wrong("the first card of a chain must be the root's"),
        None if Directory::fingerprint(&claimed) != root => return wrong("its root is not the one pinned here"),
        Some(a) if claimed.superior != Some(a.authority) => return wrong("it is not signed by its superior"),
        _ => {}
    }
    let signer = above.unwrap_or(&claimed);
    verify(Purpose::Card, bytes, signer.authority, &signer.signing())?;
    // The time may be one that a statement claims.
    if now.saturating_add(CLOCK_SKEW) < claimed.not_before || now > claimed.not_after {
        return wrong("it is outside its validity; check this machine's clock, or renew the card");
    }
    Ok(Verified::new(claimed))
}
