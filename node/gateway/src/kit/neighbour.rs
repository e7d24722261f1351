//! The neighbour that a system under test speaks with: the production core as a ministry, over a journal in memory, and the
//! test keys of everybody in this small world.

use crate::clock;
use crate::error::Error;
use jincai_core::{Action, Core, Event};
use jincai_crypto::{Card, CardChain, Directory, EncryptionPublicKey, KeyRing, SeededEntropy, SystemEntropy};
use jincai_exchange::{Frame, Opening, Payload, Setup, read_batch};
use jincai_journal::{Blobs, Config, Engine, MemoryBlobs, MemoryDisk, Reader, Urgency};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Digest, Millis, Priority};
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY: Millis = 86_400_000;
/// The neighbour sends again what is not signed for after four times as long, because its link is a mailbox: later than any
/// start of a program takes, so that nothing comes twice unless a case wants it.
const RETRY: Millis = 1_000;
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

/// A frame that the neighbour sends.
pub(super) struct Outbound {
    pub(super) class: Priority,
    pub(super) bytes: Vec<u8>,
}

/// The production core, and what it runs on.
pub(super) struct Neighbour {
    core: Core,
    engine: Engine<MemoryDisk>,
    log: Reader,
}

impl Neighbour {
    pub(super) fn open(world: &World) -> Result<Self, Error> {
        let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::new());
        let config = Config { segment_bytes: 1 << 20, cache_bytes: 1 << 20, ..Config::default() };
        let (engine, _) = Engine::open(MemoryDisk::new(), Arc::clone(&blobs), config)?;
        let log = engine.reader();
        let setup = Setup {
            authority: world.ministry,
            keys: KeyRing::from_bytes(&world.ministry_keys.to_bytes())?,
            entropy: Box::new(SystemEntropy::default()),
            directory: world.directory.clone(),
            policy: LinkPolicy { retry_ms: RETRY, receipt_ms: RECEIPT, ..LinkPolicy::default() },
            limits: BTreeMap::new(),
        };
        let core = Core::open(setup, blobs, Opening::Clean, None, clock::now(), &log)?;
        Ok(Self { core, engine, log })
    }

    /// The core, for reports and for what callers submit.
    pub(super) fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Takes an event; an error is the neighbour's refusal.
    pub(super) fn step(&mut self, event: Event) -> Result<(), jincai_core::Error> {
        self.core.step(clock::now(), event, &self.log)
    }

    /// Makes durable what was decided, and gives out what may leave.
    pub(super) fn turn(&mut self) -> Result<Vec<Outbound>, Error> {
        let mut outbound = Vec::new();
        loop {
            let turn = self.core.turn(clock::now(), &self.log)?;
            for action in turn.actions {
                // A ministry without tables has none to change.
                let Action::Send(send) = action else { continue };
                let bytes = match send.what {
                    Payload::Frame(bytes) => bytes,
                    Payload::Batch { record, hop, .. } => {
                        let batch = read_batch(&self.log, record).map_err(jincai_core::Error::from)?;
                        Frame::batch_bytes(&hop, &batch)
                    }
                };
                outbound.push(Outbound { class: send.class, bytes });
            }
            if turn.records.is_empty() {
                return Ok(outbound);
            }
            self.engine.append(clock::now(), &turn.records, Urgency::Normal)?;
            let durable = self.engine.sync()?;
            self.step(Event::Durable(durable))?;
        }
    }
}
