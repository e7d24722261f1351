//! The neighbour that a system under test speaks with: the production core as a ministry, over a journal in memory, and the
//! test keys of everybody in this small world.

use super::driver::Driver;
use crate::clock;
use crate::error::Error;
use jincai_crypto::{Card, CardChain, Directory, EncryptionPublicKey, KeyRing, SeededEntropy, SystemEntropy};
use jincai_exchange::Setup;
use jincai_journal::{Blobs, MemoryBlobs, MemoryDisk};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Digest, Millis};
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY: Millis = 86_400_000;
/// The neighbour sends nothing again by itself while a case lasts, however slow the machine is: what comes twice comes because
/// the case wants it.
const RETRY: Millis = 3_600_000;
const RECEIPT: Millis = 50;

/// Who takes part. The keys come from fixed seeds: whoever knows this file knows them.
pub(super) struct World {
    /// The neighbour, and its keys.
    pub(super) ministry: AuthorityId,
    pub(super) ministry_keys: KeyRing,
    /// The system under test, and its keys.
    pub(super) province: AuthorityId,
    pub(super) province_keys: KeyRing,
    /// An authority that is not below the system under test, and keys that nobody's card names.
    pub(super) elsewhere: AuthorityId,
    pub(super) stranger: KeyRing,
    /// The cards of both, from the root.
    pub(super) ministry_cards: CardChain,
    pub(super) province_cards: CardChain,
    pub(super) root: Digest,
    pub(super) directory: Directory,
}

impl World {
    pub(super) fn new() -> Result<Self, Error> {
        let keys = |seed| KeyRing::generate(&mut SeededEntropy::new(seed));
        let (ministry, province, elsewhere) = (AuthorityId::MINISTRY, "370000000".parse()?, "450000000".parse()?);
        let (ministry_keys, province_keys, stranger) = (keys(1)?, keys(2)?, keys(9)?);
        let now = clock::now();
        let card = |authority, superior, keys: &KeyRing| -> Result<Card, Error> {
            let (not_before, not_after) = (now - DAY, now + 365 * DAY);
            Ok(Card { version: 1, authority, superior, serial: 1, keys: keys.public()?, not_before, not_after })
        };
        let root_card = card(ministry, None, &ministry_keys)?;
        let below = card(province, Some(ministry), &province_keys)?;
        let ministry_cards = CardChain::default().with(root_card.issue(&ministry_keys.signing));
        let province_cards = ministry_cards.with(below.issue(&ministry_keys.signing));
        let root = Directory::fingerprint(&root_card);
        let mut directory = Directory::new(root);
        directory.add(&province_cards, now)?;
        Ok(Self {
            ministry,
            ministry_keys,
            province,
            province_keys,
            elsewhere,
            stranger,
            ministry_cards,
            province_cards,
            root,
            directory,
        })
    }

    /// The key that content keys for the system under test are wrapped with.
    pub(super) fn province_encryption(&self) -> Result<EncryptionPublicKey, Error> {
        Ok(EncryptionPublicKey(*self.province_keys.public()?.encryption))
    }
}

/// The neighbour.
pub(super) type Neighbour = Driver<MemoryDisk>;

/// Starts the neighbour of a world.
pub(super) fn open(world: &World) -> Result<Neighbour, Error> {
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::new());
    let setup = Setup {
        authority: world.ministry,
        keys: KeyRing::from_bytes(&world.ministry_keys.to_bytes())?,
        entropy: Box::new(SystemEntropy::default()),
        directory: world.directory.clone(),
        policy: LinkPolicy { retry_ms: RETRY, receipt_ms: RECEIPT, ..LinkPolicy::default() },
        limits: BTreeMap::new(),
    };
    Driver::open(MemoryDisk::new(), blobs, setup)
}
