//! The authority tree: who stands above whom, and which neighbour leads to a destination.

use crate::{AuthorityId, Destination, Error};
use std::collections::{BTreeMap, BTreeSet};

/// Most levels from the ministry down; a longer chain is refused.
const DEPTH: usize = 16;

/// Authorities by superior. The root has none; every other one hangs below an authority that is in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityTree {
    superior: BTreeMap<AuthorityId, Option<AuthorityId>>,
    children: BTreeMap<AuthorityId, BTreeSet<AuthorityId>>,
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
            Destination::Below(top) => self.superiors(authority).any(|s| s == top),
            Destination::Superiors(of) => self.superiors(of).any(|s| s == authority),
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
            Destination::Below(top) if here == top || self.superiors(here).any(|s| s == top) => {
                self.children(here).collect()
            }
            Destination::Below(top) => self.towards(here, top).into_iter().collect(),
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
            Destination::Below(top) if here == top || self.superiors(here).any(|s| s == top) => {
                self.superior(hop) == Some(here)
            }
            Destination::Below(top) => self.towards(here, top) == Some(hop),
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
        let to = |a| [Destination::Authority(a), Destination::Below(a), Destination::Superiors(a)];
        for (here, to) in tree.all().flat_map(|here| all().flat_map(to).map(move |to| (here, to))) {
            let hops = tree.next_hops(here, to, None);
            assert!(all().all(|hop| tree.leads(here, to, hop) == hops.contains(&hop)), "from {here} to {to}");
        }
        assert!(tree.is_member(Destination::Superiors(id("370502000")), AuthorityId::MINISTRY));
        assert!(!tree.is_member(Destination::Below(id("370000000")), id("370000000")));
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
