//! Three authorities in a row with the keys of fixed seeds: whoever must have signed something here has.

use jincai_crypto::{Card, CardChain, Directory, KeyRing, Purpose, SeededEntropy, sign};
use jincai_exchange::{Delivery, Parts};
use jincai_types::{Attributes, AuthorityId, Digest, Epoch, Lane, Millis};
use std::sync::LazyLock;

/// The time in every target.
pub(crate) const NOW: Millis = 1_790_000_000_000;
const YEAR: Millis = 365 * 86_400_000;

/// The authorities, from the top.
pub(crate) struct World {
    pub(crate) ids: [AuthorityId; 3],
    pub(crate) keys: [KeyRing; 3],
    pub(crate) chain: CardChain,
    pub(crate) root: Digest,
    pub(crate) directory: Directory,
}

/// Made once: signing is most of what a target costs.
pub(crate) fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(make);
    &WORLD
}

fn make() -> World {
    let ids = ["000000000", "370000000", "370502000"].map(|text| text.parse().expect("nine digits"));
    let keys = [1, 2, 3].map(keys_of);
    let cards = [0, 1, 2].map(|at| card(&ids, &keys, at));
    let chain = CardChain(cards.iter().zip([0, 0, 1]).map(|(card, by)| card.issue(&keys[by].signing).into()).collect());
    let root = Directory::fingerprint(&cards[0]);
    let mut directory = Directory::new(root);
    directory.add(&chain, NOW).expect("the chain verifies");
    World { ids, keys, chain, root, directory }
}

/// The keys of a seed.
pub(crate) fn keys_of(seed: u64) -> KeyRing {
    KeyRing::generate(&mut SeededEntropy::new(seed)).expect("a seed gives keys")
}

/// The card of the authority at this place.
pub(crate) fn card(ids: &[AuthorityId; 3], keys: &[KeyRing; 3], at: usize) -> Card {
    Card {
        version: 1,
        authority: ids[at],
        superior: at.checked_sub(1).map(|above| ids[above]),
        serial: 1,
        keys: keys[at].public().expect("its keys are good"),
        not_before: NOW - YEAR,
        not_after: NOW + YEAR,
    }
}

impl World {
    /// A signature of the authority at this place, counted round.
    pub(crate) fn sign(&self, by: usize, purpose: Purpose, payload: &[u8]) -> Vec<u8> {
        sign(purpose, payload.to_vec(), &self.keys[by % self.keys.len()].signing)
    }
}

/// No bulk part has arrived.
pub(crate) struct NoParts;

impl Parts for NoParts {
    fn part(&self, _: &Digest) -> Option<Vec<u8>> {
        None
    }
}

/// The first message of a lane, as it comes to a room.
pub(crate) fn delivery<'a>(lane: Lane, attributes: &'a Attributes, payload: &'a [u8]) -> Delivery<'a> {
    Delivery {
        lane,
        epoch: Epoch::default(),
        sequence: 1,
        attributes,
        payload,
        commitment: &[],
        salt: &[],
        record: 1,
        index: 0,
    }
}
