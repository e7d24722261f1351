//! A message's attributes: CloudEvents 1.0 context attributes as one canonical CBOR map of text to text.
//!
//! Keys stand in the order of RFC 8949 §4.2.1 (shorter first, then bytewise). Attributes stay readable to every hop, so
//! nothing secret belongs in them. Source: CloudEvents 1.0.2 (CNCF) for names and their meaning.

use crate::error::shorten;
use crate::{Digest, Error, Millis, address, calendar, limits};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A condition that must hold at the destination before the message is applied; until then its lane waits, visibly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// Dictionary line at this release or later.
    Release {
        /// The line's name.
        line: String,
        /// The release number.
        number: u64,
    },
    /// A collection spec at this version or later.
    Spec {
        /// The spec's id.
        id: String,
        /// Its version.
        version: u64,
    },
    /// The bulk part with this digest of its plaintext.
    Bulk(Digest),
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { line, number } => write!(f, "release:{line}@{number}"),
            Self::Spec { id, version } => write!(f, "spec:{id}@{version}"),
            Self::Bulk(digest) => write!(f, "bulk:{digest}"),
        }
    }
}

impl FromStr for Requirement {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Text { what: "a requirement", text: shorten(text) };
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        if kind == "bulk" {
            return Ok(Self::Bulk(rest.parse()?));
        }
        let (name, number) = rest.rsplit_once('@').ok_or_else(wrong)?;
        let parsed: u64 = number.parse().map_err(|_| wrong())?;
        let plain = !name.is_empty() && !name.contains(char::is_whitespace) && parsed.to_string() == number;
        match kind {
            "release" if plain => Ok(Self::Release { line: name.into(), number: parsed }),
            "spec" if plain => Ok(Self::Spec { id: name.into(), version: parsed }),
            _ => Err(wrong()),
        }
    }
}

/// What every hop may read of a message.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attributes {
    /// The business id: unique per source for ever; across a restore, exactly-once rests on it.
    pub id: String,
    /// Who says it: `authority` or `authority/fiscal-year/system`.
    pub source: String,
    /// What it is, such as `jincai.dictionary.release`; the destination's room is chosen by it.
    pub kind: String,
    /// When it was submitted.
    pub time: Millis,
    /// What it is about, such as a partition; may be empty.
    pub subject: String,
    /// What must hold before it is applied.
    pub requires: Vec<Requirement>,
    /// Further CloudEvents extension attributes (lower-case letters and digits). `fiscalyear` and `system` say for whom at
    /// the destination it is ([`crate::Audience`]).
    pub extensions: BTreeMap<String, String>,
}

const RESERVED: [&str; 7] = ["id", "source", "type", "time", "subject", "requires", "specversion"];

impl Attributes {
    /// Refuses what would not survive the wire: empty or overlong fields, odd names, control characters.
    pub fn check(&self) -> Result<(), Error> {
        if self.id.is_empty() || self.source.is_empty() || self.kind.is_empty() {
            return wrong("attributes: id, source and type must not be empty", &self.id);
        }
        let fields = [&self.id, &self.source, &self.kind, &self.subject];
        for value in fields.into_iter().chain(self.extensions.values()) {
            check_value(value, limits::ATTRIBUTE_BYTES)?;
        }
        for name in self.extensions.keys() {
            let plain =
                (1..=20).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if !plain || RESERVED.contains(&name.as_str()) {
                return wrong("an extension attribute's name", name);
            }
        }
        if self.requires.len() > limits::REQUIREMENTS || self.extensions.len() > limits::ATTRIBUTES - RESERVED.len() {
            return wrong("attributes within their limits", &self.id);
        }
        address::check(self)?;
        if self.requires.is_empty() { Ok(()) } else { check_value(&self.required(), limits::REQUIREMENTS * 80) }
    }

    /// The attribute `requires`.
    fn required(&self) -> String {
        let list: Vec<String> = self.requires.iter().map(ToString::to_string).collect();
        list.join(" ")
    }

    /// Names and values in the order of their encoding: for text below 24 bytes RFC 8949's bytewise order of encoded keys is
    /// that of (length, name).
    fn pairs(&self) -> Vec<(&str, Cow<'_, str>)> {
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(RESERVED.len() + self.extensions.len());
        pairs.push(("id", Cow::Borrowed(&self.id)));
        pairs.push(("time", Cow::Owned(calendar::rfc3339(self.time))));
        pairs.push(("type", Cow::Borrowed(&self.kind)));
        pairs.push(("source", Cow::Borrowed(&self.source)));
        if !self.subject.is_empty() {
            pairs.push(("subject", Cow::Borrowed(&self.subject)));
        }
        if !self.requires.is_empty() {
            pairs.push(("requires", Cow::Owned(self.required())));
        }
        pairs.push(("specversion", Cow::Borrowed("1.0")));
        if !self.extensions.is_empty() {
            pairs.extend(self.extensions.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str()))));
            pairs.sort_unstable_by_key(|(name, _)| (name.len(), *name));
        }
        pairs
    }
}

fn wrong(what: &'static str, text: &str) -> Result<(), Error> {
    Err(Error::Text { what, text: shorten(text) })
}

fn check_value(value: &str, limit: usize) -> Result<(), Error> {
    if value.len() > limit {
        return Err(Error::TooLarge { what: "a message attribute", size: value.len() as u64, limit: limit as u64 });
    }
    // Almost every value is plain ASCII, which is told without a look at characters.
    let plain = value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
    if plain || !value.contains(char::is_control) {
        Ok(())
    } else {
        wrong("an attribute without control characters", value)
    }
}

impl<C> Encode<C> for Attributes {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let pairs = self.pairs();
        e.map(pairs.len() as u64)?;
        for (name, value) in &pairs {
            e.str(name)?.str(value)?;
        }
        e.ok()
    }
}

impl<'b, C> Decode<'b, C> for Attributes {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let count = d.map()?.ok_or_else(|| decode::Error::message("indefinite lengths are refused"))?;
        if count > limits::ATTRIBUTES as u64 {
            return Err(decode::Error::message("too many attributes"));
        }
        let mut out = Self::default();
        let mut version = "";
        for _ in 0..count {
            let (name, value) = (d.str()?, d.str()?);
            match name {
                "id" => out.id = value.into(),
                "source" => out.source = value.into(),
                "type" => out.kind = value.into(),
                "subject" => out.subject = value.into(),
                "specversion" => version = value,
                "time" => out.time = parse_time(value).ok_or_else(|| decode::Error::message("malformed time"))?,
                "requires" => {
                    let list: Result<Vec<_>, Error> = value.split(' ').map(str::parse).collect();
                    out.requires = list.map_err(decode::Error::message)?;
                }
                _ => {
                    out.extensions.insert(name.into(), value.into());
                }
            }
        }
        if version != "1.0" {
            return Err(decode::Error::message("specversion is not 1.0"));
        }
        out.check().map_err(decode::Error::message)?;
        Ok(out)
    }
}

/// Reads exactly the form that [`calendar::rfc3339`] writes.
fn parse_time(text: &str) -> Option<Millis> {
    let (date, time) = text.split_once('T')?;
    let date: calendar::Date = date.parse().ok()?;
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<u64>().ok();
    let days = u64::try_from(date.days()).ok()?;
    let at =
        days * 86_400_000 + number(0..2)? * 3_600_000 + number(3..5)? * 60_000 + number(6..8)? * 1000 + number(9..12)?;
    (calendar::rfc3339(at) == text).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode_canonical, encode};
    use proptest::prelude::*;

    fn sample() -> Attributes {
        Attributes {
            id: "370502000-2026-000001".into(),
            source: "370502000/2026/pay".into(),
            kind: "jincai.storage.batch".into(),
            time: 1_790_000_000_123,
            subject: "PAYMENT/2026-01".into(),
            requires: vec![
                Requirement::Release { line: "national".into(), number: 3 },
                Requirement::Spec { id: "mof.pay".into(), version: 1 },
                Requirement::Bulk(Digest([7; 32])),
            ],
            extensions: BTreeMap::from([("traceparent".to_owned(), "00-1".to_owned())]),
        }
    }

    #[test]
    fn attributes_round_trip_and_bad_ones_are_refused() {
        let bytes = encode(&sample());
        assert_eq!(decode_canonical::<Attributes>("attributes", &bytes, 4096), Ok(sample()));
        let bad = |change: &dyn Fn(&mut Attributes)| {
            let mut attributes = sample();
            change(&mut attributes);
            assert!(decode_canonical::<Attributes>("attributes", &encode(&attributes), 1 << 20).is_err());
        };
        bad(&|a| a.id.clear());
        bad(&|a| a.kind = "x".repeat(2000));
        bad(&|a| a.subject = "a\u{0}b".into());
        bad(&|a| {
            a.extensions.insert("Upper".into(), "x".into());
        });
        bad(&|a| {
            a.extensions.insert("specversion".into(), "2.0".into());
        });
    }

    #[test]
    fn the_keys_stand_in_canonical_order() {
        let bytes = encode(&Attributes {
            extensions: ["a", "zz", "aa", "tag", "requirez", "specversio", "specversios"]
                .map(|name| (name.to_owned(), "x".to_owned()))
                .into(),
            ..sample()
        });
        let mut decoder = Decoder::new(&bytes);
        let count = decoder.map().expect("a map").expect("definite");
        let keys: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let key = encode(&decoder.str().expect("a key"));
                decoder.str().expect("a value");
                key
            })
            .collect();
        assert_eq!(keys.len(), 14);
        assert!(keys.is_sorted_by(|a, b| a < b), "bytewise order of the encoded keys");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _seen = decode_canonical::<Attributes>("attributes", &bytes, 4096).is_ok();
        }
        #[test]
        fn a_flipped_bit_never_decodes_to_the_same(bit in 0usize..64 * 8) {
            let mut bytes = encode(&sample());
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(decode_canonical::<Attributes>("attributes", &bytes, 4096), Ok(sample()));
        }
    }
}
