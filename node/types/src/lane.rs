//! Lanes: one direction from an origin authority to a destination, per priority class.

use crate::error::shorten;
use crate::{AuthorityId, Digest, Epoch, Error, Level, Sequence};
use minicbor::{Decode, Encode};
use std::fmt;
use std::str::FromStr;

/// Priority class; smaller is more urgent. A class of its own is a lane of its own, so bulk never stands before control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Priority {
    /// Refusals, decisions, small protocol matters.
    #[n(0)]
    Control,
    /// Somebody waits for it.
    #[n(1)]
    Interactive,
    /// Records: releases' manifests, specs, collected batches.
    #[n(2)]
    Record,
    /// Parts of large payloads.
    #[n(3)]
    Bulk,
}

impl Priority {
    /// All classes, most urgent first.
    pub const ALL: [Self; 4] = [Self::Control, Self::Interactive, Self::Record, Self::Bulk];

    /// 0 (control) … 3 (bulk).
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Interactive => 1,
            Self::Record => 2,
            Self::Bulk => 3,
        }
    }

    /// The name used in text forms and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["control", "interactive", "record", "bulk"][self.index()]
    }
}

/// Where a lane ends: one authority, or a group that is expanded at the hops that know its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Destination {
    /// One authority.
    #[n(0)]
    Authority(#[n(0)] AuthorityId),
    /// Every authority below this one, at any depth, itself not included.
    #[n(1)]
    Below(#[n(0)] AuthorityId),
    /// Every authority above this one, up to the ministry, itself not included.
    #[n(2)]
    Superiors(#[n(0)] AuthorityId),
    /// Every authority of a level below this one, at any depth, itself not included.
    #[n(3)]
    Level(#[n(0)] AuthorityId, #[n(1)] Level),
}

impl Destination {
    /// The one authority where it ends; `None` for a group.
    #[must_use]
    pub fn single(self) -> Option<AuthorityId> {
        match self {
            Self::Authority(authority) => Some(authority),
            Self::Below(_) | Self::Superiors(_) | Self::Level(..) => None,
        }
    }

    /// The authority that all of a group of inferiors stand below.
    #[must_use]
    pub fn top(self) -> Option<AuthorityId> {
        match self {
            Self::Below(top) | Self::Level(top, _) => Some(top),
            Self::Authority(_) | Self::Superiors(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(a) => write!(f, "{a}"),
            Self::Below(a) => write!(f, "below:{a}"),
            Self::Superiors(a) => write!(f, "superiors:{a}"),
            Self::Level(a, level) => write!(f, "{}:{a}", level.group()),
        }
    }
}

impl FromStr for Destination {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None => Ok(Self::Authority(text.parse()?)),
            Some(("below", a)) => Ok(Self::Below(a.parse()?)),
            Some(("superiors", a)) => Ok(Self::Superiors(a.parse()?)),
            Some((group, a)) => match Level::ALL.into_iter().find(|level| level.group() == group) {
                Some(level) => Ok(Self::Level(a.parse()?, level)),
                None => Err(Error::Text { what: "a destination", text: shorten(text) }),
            },
        }
    }
}

/// A lane: order, numbering and the chain of statements belong to it, and to nothing wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Lane {
    /// The authority whose messages these are; it signs their statements.
    #[n(0)]
    pub origin: AuthorityId,
    /// Where they go.
    #[n(1)]
    pub destination: Destination,
    /// Their priority class.
    #[n(2)]
    pub class: Priority,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{}/{}", self.origin, self.destination, self.class.name())
    }
}

impl FromStr for Lane {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Text { what: "a lane", text: shorten(text) };
        let (origin, rest) = text.split_once('>').ok_or_else(wrong)?;
        let (destination, class) = rest.rsplit_once('/').ok_or_else(wrong)?;
        let class = Priority::ALL.into_iter().find(|p| p.name() == class).ok_or_else(wrong)?;
        Ok(Self { origin: origin.parse()?, destination: destination.parse()?, class })
    }
}

/// A place on a lane: the end of a batch, named by epoch, last sequence and the digest of its statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub struct LanePosition {
    /// The origin's epoch.
    #[n(0)]
    pub epoch: Epoch,
    /// The last sequence of the batch; 0 before the first.
    #[n(1)]
    pub sequence: Sequence,
    /// The digest of the batch's statement; [`Digest::ZERO`] before the first.
    #[n(2)]
    pub digest: Digest,
}

impl LanePosition {
    /// The start of every lane.
    pub const START: Self = Self { epoch: Epoch { number: 0, salt: 0 }, sequence: 0, digest: Digest::ZERO };

    /// Epoch and sequence, by which positions of one lane are ordered.
    #[must_use]
    pub fn key(&self) -> (Epoch, Sequence) {
        (self.epoch, self.sequence)
    }

    /// The number of the message that follows in an epoch: each begins anew with 1.
    #[must_use]
    pub fn next_in(&self, epoch: Epoch) -> Sequence {
        if self.epoch == epoch { self.sequence + 1 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode_canonical, encode};

    #[test]
    fn lanes_read_back_as_text_and_as_cbor() {
        for text in [
            "370502000>000000000/record",
            "000000000>below:000000000/bulk",
            "370502000>superiors:370502000/control",
            "000000000>provinces:000000000/record",
            "000000000>cities:370000000/record",
            "370000000>counties:370500000/interactive",
        ] {
            let lane: Lane = text.parse().expect(text);
            assert_eq!(lane.to_string(), text);
            assert_eq!(decode_canonical::<Lane>("lane", &encode(&lane), 100), Ok(lane));
        }
        for bad in ["", "370502000", "370502000>x:370502000/record", "370502000>000000000/urgent"] {
            assert!(bad.parse::<Lane>().is_err(), "{bad}");
        }
        // The ministry and townships are no level that a group can be of.
        for level in [0, 4] {
            let (head, of) = (&b"\x83\x69000000000\x82\x03\x82"[..], &b"\x69370000000"[..]);
            let bytes = [head, of, &[level, 2]].concat();
            assert!(decode_canonical::<Lane>("lane", &bytes, 100).is_err(), "{level}");
        }
    }
}
