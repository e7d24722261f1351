//! The authority tree: who stands above whom, and which neighbour leads to a destination.

use crate::{AuthorityId, Destination, Error, Level};
use std::collections::{BTreeMap, BTreeSet};

/// Most levels from the ministry down; a longer chain is refused.
const DEPTH: usize = 16;

/// Authorities by superior. The root has none; every other one hangs below an authority that is in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityTree {
    superior: BTreeMap<AuthorityId, Option<AuthorityId>>,
    children: BTreeMap<AuthorityId, BTreeSet<AuthorityId>>,
    /// How many authorities of each level stand below an authority, at any depth: whether a way leads to some of them is
    /// asked for every batch.
    below: BTreeMap<AuthorityId, [u32; 3]>,
}

impl AuthorityTree {
    /// Adds an authority below one that is already there, or as the root. Adding it again in its place changes nothing.
    pub fn add(&mut self, authority: AuthorityId, superior: Option<AuthorityId>) -> Result<(), Error> {
        let wrong = |reason| Err(Error::Tree { authority, reason });
        if let Some(known) = self.superior.get(&authority) {
            return if *known == superior { Ok(()) } else { wrong("stands below another superior already") };
        }
        match superior {
            Some(s) if !self.superior.contains_key(&s) => return wrong("its superior is not in the tree"),
            Some(s) if self.superiors(s).count() + 1 >= DEPTH => return wrong("more than 16 levels below the root"),
            None if !self.superior.is_empty() => return wrong("there is a root already"),
            _ => {}
        }
        self.superior.insert(authority, superior);
        if let Some(s) = superior {
            self.children.entry(s).or_default().insert(authority);
        }
        if let Some(level) = authority.level() {
            let above: Vec<AuthorityId> = self.superiors(authority).collect();
            for superior in above {
                self.below.entry(superior).or_default()[level.index()] += 1;
            }
        }
        Ok(())
    }

    /// Whether the authority is known.
    #[must_use]
    pub fn contains(&self, authority: AuthorityId) -> bool {
        self.superior.contains_key(&authority)
    }

    /// The direct superior.
    #[must_use]
    pub fn superior(&self, authority: AuthorityId) -> Option<AuthorityId> {
        self.superior.get(&authority).copied().flatten()
    }

    /// Every authority above, nearest first.
    pub fn superiors(&self, authority: AuthorityId) -> impl Iterator<Item = AuthorityId> + '_ {
        std::iter::successors(self.superior(authority), |a| self.superior(*a))
    }

    /// The direct inferiors, in order.
    pub fn children(&self, authority: AuthorityId) -> impl Iterator<Item = AuthorityId> + '_ {
        self.children.get(&authority).into_iter().flatten().copied()
    }

    /// All authorities, in order.
    pub fn all(&self) -> impl Iterator<Item = AuthorityId> + '_ {
        self.superior.keys().copied()
    }

    /// Whether messages to `destination` are for `authority` itself (too).
    #[must_use]
    pub fn is_member(&self, destination: Destination, authority: AuthorityId) -> bool {
        match destination {
            Destination::Authority(a) => a == authority,
            Destination::Below(top) => self.stands_below(authority, top),
            Destination::Superiors(of) => self.superiors(of).any(|s| s == authority),
            Destination::Level(top, level) => authority.level() == Some(level) && self.stands_below(authority, top),
        }
    }

    /// Whether an authority stands below another one, at any depth.
    #[must_use]
    pub fn stands_below(&self, authority: AuthorityId, top: AuthorityId) -> bool {
        self.superiors(authority).any(|s| s == top)
    }

    /// Whether a node holds the lanes to a destination for others or for itself: a member, and whoever stands between the
    /// authority that a group is named after and a member, that one included. What such a node is set back to lack, it
    /// asks for.
    #[must_use]
    pub fn holds_for(&self, destination: Destination, authority: AuthorityId) -> bool {
        let within = |top| authority == top || self.stands_below(authority, top);
        let between = match destination {
            Destination::Authority(_) | Destination::Superiors(_) => false,
            Destination::Below(top) => within(top) && self.children(authority).next().is_some(),
            Destination::Level(top, level) => within(top) && self.has_below(authority, level),
        };
        between || self.is_member(destination, authority)
    }

    fn has_below(&self, authority: AuthorityId, level: Level) -> bool {
        self.below.get(&authority).is_some_and(|below| below[level.index()] > 0)
    }

    /// Whether some of a group of inferiors stand at an authority or below it.
    fn has_some(&self, destination: Destination, authority: AuthorityId) -> bool {
        match destination {
            Destination::Level(_, level) => authority.level() == Some(level) || self.has_below(authority, level),
            Destination::Authority(_) | Destination::Below(_) | Destination::Superiors(_) => true,
        }
    }

    /// The next hops from `here` to `destination`: up to the common superior, then down. A group goes to every neighbour
    /// that has members beyond it, but never back to the neighbour it came `from`.
    #[must_use]
    pub fn next_hops(
        &self,
        here: AuthorityId,
        destination: Destination,
        from: Option<AuthorityId>,
    ) -> Vec<AuthorityId> {
        let mut hops = match destination {
            Destination::Authority(a) | Destination::Superiors(a) if !self.contains(a) => Vec::new(),
            Destination::Authority(a) => self.towards(here, a).into_iter().collect(),
            // A group of superiors travels up from the authority it is named after.
            Destination::Superiors(_) => self.superior(here).into_iter().collect(),
            Destination::Below(top) | Destination::Level(top, _) if here == top || self.stands_below(here, top) => {
                self.children(here).filter(|child| self.has_some(destination, *child)).collect()
            }
            Destination::Below(top) | Destination::Level(top, _) => self.towards(here, top).into_iter().collect(),
        };
        hops.retain(|hop| Some(*hop) != from);
        hops
    }

    /// Whether `hop` is among the [`Self::next_hops`] from `here` to `destination`, without making a list of them.
    #[must_use]
    pub fn leads(&self, here: AuthorityId, destination: Destination, hop: AuthorityId) -> bool {
        match destination {
            Destination::Authority(a) => self.towards(here, a) == Some(hop),
            Destination::Superiors(a) => self.contains(a) && self.superior(here) == Some(hop),
            Destination::Below(top) | Destination::Level(top, _) if here == top || self.stands_below(here, top) => {
                self.superior(hop) == Some(here) && self.has_some(destination, hop)
            }
            Destination::Below(top) | Destination::Level(top, _) => self.towards(here, top) == Some(hop),
        }
    }

    /// Every authority on the way from one to another: not the first, but the last.
    pub fn way(&self, from: AuthorityId, to: AuthorityId) -> impl Iterator<Item = AuthorityId> + '_ {
        std::iter::successors(self.towards(from, to), move |at| self.towards(*at, to))
    }

    /// The neighbour of `here` on the way to `there`.
    fn towards(&self, here: AuthorityId, there: AuthorityId) -> Option<AuthorityId> {
        if here == there || !self.contains(there) {
            return None;
        }
        std::iter::once(there)
            .chain(self.superiors(there))
            .find(|a| self.superior(*a) == Some(here))
            .or_else(|| self.superior(here))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> AuthorityId {
        text.parse().expect("test id")
    }

    fn tree() -> AuthorityTree {
        let mut tree = AuthorityTree::default();
        for (a, s) in [
            ("000000000", None),
            ("370000000", Some("000000000")),
            ("110000000", Some("000000000")),
            ("370502000", Some("370000000")),
            ("370522000", Some("370000000")),
        ] {
            tree.add(id(a), s.map(id)).expect("a well-formed tree");
        }
        tree
    }

    #[test]
    fn routes_go_up_to_the_common_superior_and_down() {
        let tree = tree();
        let hops = |here: &str, to: &str, from: Option<&str>| {
            let hops = tree.next_hops(id(here), to.parse().expect("destination"), from.map(id));
            hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(hops("370502000", "000000000", None), "370000000");
        assert_eq!(hops("370502000", "110000000", None), "370000000");
        assert_eq!(hops("370000000", "110000000", Some("370502000")), "000000000");
        assert_eq!(hops("000000000", "370522000", None), "370000000");
        assert_eq!(hops("000000000", "below:000000000", None), "110000000 370000000");
        assert_eq!(hops("370000000", "below:000000000", Some("000000000")), "370502000 370522000");
        assert_eq!(hops("370502000", "superiors:370502000", None), "370000000");
        assert_eq!(hops("370502000", "999999999", None), "");
        let way =
            |from: &str, to: &str| tree.way(id(from), id(to)).map(|a| a.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(way("370502000", "110000000"), "370000000 000000000 110000000");
        assert_eq!((way("110000000", "110000000"), way("110000000", "999999999")), (String::new(), String::new()));
        let all = || tree.all().chain([id("999999999")]);
        let to = |a| {
            let levels = Level::ALL.map(|level| Destination::Level(a, level));
            [Destination::Authority(a), Destination::Below(a), Destination::Superiors(a)].into_iter().chain(levels)
        };
        for (here, to) in tree.all().flat_map(|here| all().flat_map(to).map(move |to| (here, to))) {
            let hops = tree.next_hops(here, to, None);
            assert!(all().all(|hop| tree.leads(here, to, hop) == hops.contains(&hop)), "from {here} to {to}");
        }
        assert!(tree.is_member(Destination::Superiors(id("370502000")), AuthorityId::MINISTRY));
        assert!(!tree.is_member(Destination::Below(id("370000000")), id("370000000")));
    }

    /// A country with a city that has no counties, a county that a province governs itself, and a township.
    fn country() -> AuthorityTree {
        let mut tree = tree();
        for (a, s) in [
            ("110101000", "110000000"),
            ("370100000", "370000000"),
            ("370600000", "370000000"),
            ("370602000", "370600000"),
            ("370613000", "370600000"),
            ("370613001", "370613000"),
        ] {
            tree.add(id(a), Some(id(s))).expect("a well-formed tree");
        }
        tree
    }

    #[test]
    fn a_group_of_a_level_goes_only_where_some_of_them_stand() {
        let tree = country();
        let hops = |here: &str, to: &str, from: Option<&str>| {
            let hops = tree.next_hops(id(here), to.parse().expect("destination"), from.map(id));
            hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(hops("000000000", "counties:000000000", None), "110000000 370000000");
        assert_eq!(hops("000000000", "counties:370000000", None), "370000000");
        assert_eq!(hops("370000000", "counties:370000000", Some("000000000")), "370502000 370522000 370600000");
        assert_eq!(hops("370600000", "counties:370000000", Some("370000000")), "370602000 370613000");
        assert_eq!(hops("370600000", "counties:370600000", None), "370602000 370613000");
        assert_eq!(
            (hops("370100000", "counties:370000000", None), hops("370613000", "counties:000000000", None)),
            <_>::default()
        );
        assert_eq!(hops("000000000", "cities:000000000", None), "370000000");
        assert_eq!(hops("370000000", "cities:000000000", None), "370100000 370600000");
        assert_eq!(hops("000000000", "provinces:000000000", None), "110000000 370000000");
        assert_eq!(hops("370000000", "provinces:000000000", None), "");
        assert_eq!(hops("000000000", "counties:999999999", None), "");
        let members = |to: &str| {
            let to = to.parse().expect("destination");
            tree.all().filter(|a| tree.is_member(to, *a)).map(|a| a.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(members("counties:370000000"), "370502000 370522000 370602000 370613000");
        assert_eq!(members("counties:370613000"), "", "itself is not included, nor a township");
        assert_eq!(members("cities:000000000"), "370100000 370600000");
        assert_eq!(members("provinces:000000000"), "110000000 370000000");
        let holders = |to: &str| {
            let to = to.parse().expect("destination");
            tree.all().filter(|a| tree.holds_for(to, *a)).map(|a| a.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(holders("counties:370600000"), "370600000 370602000 370613000");
        assert_eq!(holders("cities:000000000"), "000000000 370000000 370100000 370600000");
        assert_eq!(holders("below:370600000"), "370600000 370602000 370613000 370613001");
    }

    proptest! {
        /// Whatever the tree, a message to a group that starts at or above its top comes to every member exactly once, passes
        /// nobody twice, and nobody who has no member below him.
        #[test]
        fn every_member_of_a_group_is_reached_once(
            places in prop::collection::vec((0usize..40, 0u32..100, 0u32..4, 0u32..4), 1..40), top in 0usize..41, level in 0usize..4,
        ) {
            let mut tree = AuthorityTree::default();
            tree.add(AuthorityId::MINISTRY, None).expect("the root");
            let mut known = vec![AuthorityId::MINISTRY];
            for (superior, province, city, county) in places {
                let authority = id(&format!("{province:02}{city:02}{county:02}000"));
                if tree.add(authority, Some(known[superior % known.len()])).is_ok() && !known.contains(&authority) {
                    known.push(authority);
                }
            }
            let top = known[top % known.len()];
            let to = Level::ALL.get(level).map_or(Destination::Below(top), |level| Destination::Level(top, *level));
            let (mut reached, mut at) = (BTreeMap::new(), vec![(AuthorityId::MINISTRY, None)]);
            while let Some((here, from)) = at.pop() {
                *reached.entry(here).or_insert(0) += 1;
                at.extend(tree.next_hops(here, to, from).into_iter().map(|hop| (hop, Some(here))));
            }
            prop_assert!(reached.values().all(|times| *times == 1));
            for authority in tree.all().filter(|a| tree.is_member(to, *a)) {
                prop_assert!(reached.contains_key(&authority), "{} of {}", authority, to);
            }
            let some = |a: AuthorityId| tree.all().any(|m| tree.is_member(to, m) && (m == a || tree.stands_below(m, a)));
            for relay in reached.keys().filter(|a| tree.stands_below(**a, top)) {
                prop_assert!(some(*relay), "{} is passed for nothing on the way to {}", relay, to);
            }
        }
    }

    #[test]
    fn orphans_second_superiors_and_second_roots_are_refused() {
        let mut tree = tree();
        assert!(tree.add(id("440100000"), Some(id("440000000"))).is_err());
        assert!(tree.add(id("370502000"), Some(id("110000000"))).is_err());
        assert!(tree.add(id("999999999"), None).is_err());
        assert!(tree.add(id("370502000"), Some(id("370000000"))).is_ok());
    }
}
