//! Who there is, and when what happens: everything that follows from the options and the seed before anything runs.

use super::site::Site;
use super::{BEGIN, Country, DAY, HOUR, Happening};
use crate::random::Random;
use jincai_crypto::{Card, CardChain, Directory, Entropy, KeyRing};
use jincai_types::{AuthorityId, Millis};

/// The country's proportions.
const ALL: usize = 3220;
const PROVINCES: usize = 31;
const CITIES: usize = 330;
/// How long the outage takes, if there is time for it.
const OUTAGE: Millis = 3 * DAY;

/// See the module's head.
pub(crate) struct Plan {
    /// Provinces, cities, counties.
    pub(crate) levels: [usize; 3],
    /// How long everything takes, in milliseconds.
    pub(crate) length: Millis,
    /// Between two collections.
    pub(crate) every: Millis,
    /// The province that loses power, by its place among the sites; when, and for how long.
    pub(crate) outage: (usize, Millis, Millis),
    /// The county whose program signs a wrong total.
    pub(crate) forger: usize,
}

impl Plan {
    pub(crate) fn new(nodes: usize, days: u64, random: &mut Random) -> Self {
        // Even a small country has provinces that keep their power.
        let provinces = (nodes * PROVINCES / ALL).max(if nodes < 40 { 1 } else { 3 });
        let cities = (nodes * CITIES / ALL).max(provinces);
        let levels = [provinces, cities, nodes - 1 - provinces - cities];
        let length = days * DAY;
        let (starts, lasts) = (length / 3, OUTAGE.min(length / 4));
        let dark = 1 + below(random, provinces);
        let counties = 1 + provinces + cities;
        // In a country of one province the forger sits there too.
        let tries: Vec<usize> = (0..50).map(|_| counties + below(random, levels[2])).collect();
        let lit = |county: &&usize| province_of(levels, **county) != dark;
        let forger = tries.iter().find(lit).copied().unwrap_or(tries[0]);
        Self { levels, length, every: DAY.min(length / 8), outage: (dark, BEGIN + starts, lasts), forger }
    }

    /// The places of the counties among the sites.
    pub(crate) fn counties(&self) -> std::ops::Range<usize> {
        let first = 1 + self.levels[0] + self.levels[1];
        first..first + self.levels[2]
    }

    /// Whether a site belongs to the province that loses power.
    pub(crate) fn is_dark(&self, site: usize) -> bool {
        site > 0 && province_of(self.levels, site) == self.outage.0
    }

    /// Every node of the country.
    pub(crate) fn sites(&self, entropy: &mut dyn Entropy) -> Vec<Site> {
        let all = 1 + self.levels.iter().sum::<usize>();
        make_sites((0..all).map(|place| (authority(self.levels, place), superior_of(self.levels, place))), entropy)
    }
}

/// Nodes with their keys and their own chains of cards, each with the place of its superior, which comes before it.
pub(crate) fn make_sites(
    all: impl Iterator<Item = (AuthorityId, Option<usize>)>,
    entropy: &mut dyn Entropy,
) -> Vec<Site> {
    let mut made: Vec<(AuthorityId, CardChain, KeyRing)> = Vec::new();
    let mut sites = Vec::new();
    let mut root = None;
    for (authority, superior) in all {
        let above = superior.map(|s| &made[s]);
        let keys = KeyRing::generate(entropy).expect("seeded randomness does not fail");
        let card = Card {
            version: 1,
            authority,
            superior: above.map(|(id, ..)| *id),
            serial: 1,
            keys: keys.public().expect("keys just made are well-formed"),
            not_before: 0,
            not_after: BEGIN * 2,
        };
        let signed = card.issue(above.map_or(&keys.signing, |(_, _, keys)| &keys.signing));
        let chain = above.map(|(_, chain, _)| chain.clone()).unwrap_or_default().with(signed);
        let mut directory = Directory::new(*root.get_or_insert_with(|| Directory::fingerprint(&card)));
        directory.add(&chain, BEGIN).expect("a chain just made verifies");
        sites.push(Site::new(card.authority, superior, &keys, directory));
        made.push((card.authority, chain, keys));
    }
    sites
}

fn below(random: &mut Random, n: usize) -> usize {
    usize::try_from(random.below(n as u64)).unwrap_or(0)
}

/// The place of the superior of a place.
pub(crate) fn superior_of([provinces, cities, _]: [usize; 3], place: usize) -> Option<usize> {
    match place {
        0 => None,
        p if p <= provinces => Some(0),
        c if c <= provinces + cities => Some(1 + (c - 1 - provinces) % provinces),
        c => Some(1 + provinces + (c - 1 - provinces - cities) % cities),
    }
}

fn province_of(levels: [usize; 3], place: usize) -> usize {
    let mut at = place;
    while at > levels[0] {
        at = superior_of(levels, at).unwrap_or(0);
    }
    at
}

/// Two digits each for province, city and county.
pub(crate) fn authority(levels: [usize; 3], place: usize) -> AuthorityId {
    let [provinces, cities, _] = levels;
    let text = match place {
        0 => return AuthorityId::MINISTRY,
        p if p <= provinces => format!("{:02}0000000", p + 10),
        c if c <= provinces + cities => {
            let (province, city) = ((c - 1 - provinces) % provinces, (c - 1 - provinces) / provinces);
            format!("{:02}{:02}00000", province + 11, city + 1)
        }
        c => {
            let (city, county) = ((c - 1 - provinces - cities) % cities, (c - 1 - provinces - cities) / cities);
            format!("{:02}{:02}{:02}000", city % provinces + 11, city / provinces + 1, county + 1)
        }
    };
    text.parse().expect("nine digits")
}

impl Country {
    /// Everything that is known to happen.
    pub(crate) fn schedule(&mut self) {
        let length = self.plan.length;
        for site in 1..self.sites.len() {
            let first = self.random.between(1_000, 30_000);
            self.heap.push(BEGIN + first, Happening::Join(site));
        }
        for day in 0..length / DAY {
            self.heap.push(BEGIN + day * DAY + 10 * 60_000, Happening::Release(day));
        }
        self.heap.push(BEGIN + 20 * 60_000, Happening::Spec);
        for county in self.plan.counties() {
            let at = BEGIN + self.random.between(length / 20, length * 7 / 10);
            self.heap.push(at, Happening::Write(county));
        }
        self.heap.push(BEGIN + length / 2, Happening::Forge(self.plan.forger));
        let (province, from, lasts) = self.plan.outage;
        self.heap.push(from, Happening::PowerCut(province));
        self.heap.push(from + lasts, Happening::PowerBack(province));
        // Links break until a fifth of the time is left.
        let longest = (6 * HOUR).min(length / 16);
        for site in 1..self.sites.len() {
            for _ in 0..self.random.between(1, 4) {
                let at = BEGIN + self.random.between(length / 20, length * 8 / 10);
                let pause = self.random.between(60_000, longest);
                self.heap.push(at, Happening::Break(site, pause));
            }
        }
    }
}
