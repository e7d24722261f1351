//! Fixed-size identifiers: authorities, digests, epochs, record numbers.

use crate::error::shorten;
use crate::{Error, hex, unhex};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use std::fmt;
use std::str::FromStr;

/// A fiscal authority: the 9-character fiscal division code (six-digit division + three). The ministry is `000000000`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId([u8; 9]);

impl AuthorityId {
    /// The ministry.
    pub const MINISTRY: Self = Self(*b"000000000");

    /// The nine digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an authority id is ASCII digits by construction")
    }

    /// The level of its division, which its digits say, wherever it stands in the tree: two of the province, two of the city,
    /// two of the county, three of what lies below. `None` for the ministry, and below a county.
    #[must_use]
    pub fn level(self) -> Option<Level> {
        let named = |digits: &[u8]| digits.iter().any(|digit| *digit != b'0');
        let (division, below) = self.0.split_at(6);
        match (named(below), named(&division[4..]), named(&division[2..4]), named(&division[..2])) {
            (true, ..) => None,
            (_, true, ..) => Some(Level::County),
            (_, _, true, _) => Some(Level::City),
            (.., true) => Some(Level::Province),
            _ => None,
        }
    }
}

/// The level of a division, below the ministry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Level {
    /// `PP0000000`
    #[n(1)]
    Province,
    /// `PPCC00000`
    #[n(2)]
    City,
    /// `PPCCXX000`
    #[n(3)]
    County,
}

impl Level {
    /// All levels, from above.
    pub const ALL: [Self; 3] = [Self::Province, Self::City, Self::County];

    /// 0 (province) … 2 (county).
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Province => 0,
            Self::City => 1,
            Self::County => 2,
        }
    }

    /// What a group of this level is called in text forms.
    #[must_use]
    pub fn group(self) -> &'static str {
        ["provinces", "cities", "counties"][self.index()]
    }
}

impl FromStr for AuthorityId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match <[u8; 9]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_digit) => Ok(Self(bytes)),
            _ => Err(Error::AuthorityId { text: shorten(text) }),
        }
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<C> Encode<C> for AuthorityId {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(self.as_str())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for AuthorityId {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(decode::Error::message)
    }
}

impl serde::Serialize for AuthorityId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for AuthorityId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A 32-byte digest. What was hashed, and with which domain separation, is said where it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest that stands before the first link of a chain.
    pub const ZERO: Self = Self([0; 32]);

    /// The first eight hexadecimal digits, for people; never for comparison.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl<C> Encode<C> for Digest {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Digest {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let bytes = d.bytes()?;
        bytes.try_into().map(Self).map_err(|_| decode::Error::message("a digest is 32 bytes"))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One run of an issuer between unclean starts; ordered by number, then by salt, so that two clones never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Epoch {
    /// max(last + 1, wall clock in milliseconds) when it was opened.
    #[n(0)]
    pub number: u64,
    /// 64 random bits.
    #[n(1)]
    pub salt: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.number, self.salt)
    }
}

/// A message's number on its lane within an epoch, from 1.
pub type Sequence = u64;

/// A record's number in its journal, from 1. «Durable to N» means every record up to N is on disk.
pub type RecordNumber = u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_ids_are_nine_digits() {
        for bad in ["", "37050200", "3705020000", "37050200a", "３７０５０２０００", "370502\u{0}00"] {
            assert!(bad.parse::<AuthorityId>().is_err(), "{bad}");
        }
        assert_eq!("370502000".parse::<AuthorityId>().map(|a| a.to_string()), Ok("370502000".into()));
    }

    #[test]
    fn the_digits_say_the_level() {
        for (id, level) in [
            ("000000000", None),
            ("370000000", Some(Level::Province)),
            ("370500000", Some(Level::City)),
            ("370502000", Some(Level::County)),
            // A county that its province governs itself, and one of a municipality.
            ("419001000", Some(Level::County)),
            ("110101000", Some(Level::County)),
            ("370502001", None),
            ("370000001", None),
        ] {
            assert_eq!(id.parse::<AuthorityId>().expect("an id").level(), level, "{id}");
        }
    }
}
