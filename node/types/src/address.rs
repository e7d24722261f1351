//! Addresses: an authority or a group, a fiscal year, and a business system.
//!
//! The text form is `DESTINATION[/YEAR[/SYSTEM]]`, where `*` stands for every year or every system, such as
//! `370502000/2026/budget`, `counties:370000000/2026/*` or `below:000000000/*/pay`. It is written without what need not be
//! said: no `*` at its end. The destination is the lane's; year and system travel in the message's attributes, in the
//! clear, and decide for whom at the destination it is, not which way it takes.

use crate::error::shorten;
use crate::{Attributes, AuthorityId, Destination, Error};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use std::fmt;
use std::str::FromStr;

/// The attribute that says for which fiscal year a message is; without it, for every one.
pub const YEAR_ATTRIBUTE: &str = "fiscalyear";
/// The attribute that says for which business system a message is; without it, for every one.
pub const SYSTEM_ATTRIBUTE: &str = "system";
/// Longest name of a business system, in bytes.
const SYSTEM_BYTES: usize = 32;
/// Longest text that is read as an address.
const TEXT_BYTES: usize = 80;
const EVERY: &str = "*";

/// A fiscal year: 1900 to 9999, written in four digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiscalYear(u16);

impl FiscalYear {
    /// The year, if it lies in the range.
    #[must_use]
    pub fn new(year: u16) -> Option<Self> {
        (1900..=9999).contains(&year).then_some(Self(year))
    }
}

impl fmt::Display for FiscalYear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for FiscalYear {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
        let year = text.parse().ok().filter(|_| digits).and_then(Self::new);
        year.ok_or_else(|| Error::Text { what: "a fiscal year (1900 to 9999)", text: shorten(text) })
    }
}

/// A business system's name: 1 to 32 lower-case letters, digits, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct System(String);

impl System {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for System {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        match (1..=SYSTEM_BYTES).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::Text { what: "a business system's name", text: shorten(text) }),
        }
    }
}

impl<C> Encode<C> for FiscalYear {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.u16(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for FiscalYear {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.u16()?).ok_or_else(|| decode::Error::message("a fiscal year lies between 1900 and 9999"))
    }
}

impl<C> Encode<C> for System {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for System {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(decode::Error::message)
    }
}

/// For whom at a destination a message is, or what somebody there reads: a fiscal year and a business system, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Audience {
    /// The fiscal year; `None`: every one.
    pub year: Option<FiscalYear>,
    /// The business system; `None`: every one.
    pub system: Option<System>,
}

impl Audience {
    /// What a message's attributes say.
    pub fn of(attributes: &Attributes) -> Result<Self, Error> {
        let named = |name| attributes.extensions.get(name).map(String::as_str);
        Ok(Self {
            year: named(YEAR_ATTRIBUTE).map(str::parse).transpose()?,
            system: named(SYSTEM_ATTRIBUTE).map(str::parse).transpose()?,
        })
    }

    /// Says it in a message's attributes.
    pub fn note_in(&self, attributes: &mut Attributes) {
        let named = [
            (YEAR_ATTRIBUTE, self.year.map(|year| year.to_string())),
            (SYSTEM_ATTRIBUTE, self.system.as_ref().map(System::to_string)),
        ];
        attributes.extensions.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }

    /// Whether what is for this audience is for somebody of that one too: each side may say «every».
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        same(self.year.as_ref(), other.year.as_ref()) && same(self.system.as_ref(), other.system.as_ref())
    }

    /// Reads what follows the destination in an address: `YEAR[/SYSTEM]`, or nothing.
    fn parse(rest: Option<&str>) -> Result<Self, Error> {
        let Some(rest) = rest else { return Ok(Self::default()) };
        let (year, system) = rest.split_once('/').unwrap_or((rest, EVERY));
        let year = (year != EVERY).then(|| year.parse()).transpose()?;
        let system = (system != EVERY).then(|| system.parse()).transpose()?;
        Ok(Self { year, system })
    }
}

impl fmt::Display for Audience {
    /// As it stands behind the destination, with its slash; nothing for everybody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.year, &self.system) {
            (None, None) => Ok(()),
            (Some(year), None) => write!(f, "/{year}"),
            (Some(year), Some(system)) => write!(f, "/{year}/{system}"),
            (None, Some(system)) => write!(f, "/{EVERY}/{system}"),
        }
    }
}

/// Where a message goes, and for whom there it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The authority or the group: the lane's destination.
    pub destination: Destination,
    /// For which fiscal year and business system.
    pub audience: Audience,
}

impl Address {
    /// The address of a message on a lane to a destination.
    pub fn of(destination: Destination, attributes: &Attributes) -> Result<Self, Error> {
        Ok(Self { destination, audience: Audience::of(attributes)? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.destination, self.audience)
    }
}

/// Splits an address's text into its destination and the rest.
fn split(text: &str) -> Result<(&str, Option<&str>), Error> {
    if text.len() > TEXT_BYTES {
        let (size, limit) = (text.len() as u64, TEXT_BYTES as u64);
        return Err(Error::TooLarge { what: "an address", size, limit });
    }
    Ok(text.split_once('/').map_or((text, None), |(destination, rest)| (destination, Some(rest))))
}

impl FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (destination, rest) = split(text)?;
        Ok(Self { destination: destination.parse()?, audience: Audience::parse(rest)? })
    }
}

/// Which messages somebody reads: as an address, with `*` for every destination.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AddressPattern {
    /// Only what was sent to exactly this; `None`: to whatever reached here.
    pub destination: Option<Destination>,
    /// Who reads.
    pub reader: Audience,
}

impl AddressPattern {
    /// Whether a message with this address is for this reader.
    #[must_use]
    pub fn matches(&self, destination: Option<Destination>, audience: &Audience) -> bool {
        let there = self.destination.is_none_or(|wanted| destination == Some(wanted));
        there && self.reader.meets(audience)
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some(destination) => write!(f, "{destination}{}", self.reader),
            None => write!(f, "{EVERY}{}", self.reader),
        }
    }
}

impl FromStr for AddressPattern {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (destination, rest) = split(text)?;
        let destination = (destination != EVERY).then(|| destination.parse()).transpose()?;
        Ok(Self { destination, reader: Audience::parse(rest)? })
    }
}

/// Who sends: an authority, and its fiscal year and business system if the sender names them. It is a message's `source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The authority.
    pub authority: AuthorityId,
    /// The year and the system that the message comes from.
    pub part: Option<(FiscalYear, System)>,
}

impl Sender {
    /// A sender at an authority: `YEAR/SYSTEM`, both of them named.
    pub fn parse(authority: AuthorityId, part: Option<&str>) -> Result<Self, Error> {
        let Some(text) = part else { return Ok(Self { authority, part: None }) };
        let wrong = || Error::Text { what: "a sender's YEAR/SYSTEM", text: shorten(text) };
        let (year, system) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self { authority, part: Some((year.parse()?, system.parse()?)) })
    }
}

impl FromStr for Sender {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (authority, part) = split(text)?;
        Self::parse(authority.parse()?, part)
    }
}

impl Sender {
    /// Whom an answer is for: the business system that sent, or everybody there.
    #[must_use]
    pub fn audience(self) -> Audience {
        let (year, system) = self.part.unzip();
        Audience { year, system }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            None => write!(f, "{}", self.authority),
            Some((year, system)) => write!(f, "{}/{year}/{system}", self.authority),
        }
    }
}

/// Refuses attributes that name no fiscal year or no business system where they should.
pub(crate) fn check(attributes: &Attributes) -> Result<(), Error> {
    if attributes.extensions.is_empty() { Ok(()) } else { Audience::of(attributes).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, decode_canonical, encode};
    use proptest::prelude::*;

    #[test]
    fn addresses_are_written_without_what_need_not_be_said() {
        for (text, written) in [
            ("370502000", "370502000"),
            ("370502000/2026/budget", "370502000/2026/budget"),
            ("counties:370000000/2026/*", "counties:370000000/2026"),
            ("counties:370000000/2026", "counties:370000000/2026"),
            ("below:000000000/*/pay", "below:000000000/*/pay"),
            ("superiors:370502000/*/*", "superiors:370502000"),
            ("provinces:000000000/*", "provinces:000000000"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "*",
            "37050200",
            "370502000/",
            "370502000//pay",
            "370502000/26/pay",
            "370502000/02026/pay",
            "370502000/1899",
            "370502000/2026/",
            "370502000/2026/Pay",
            "370502000/2026/pay/x",
            "370502000/2026/**",
            "370502000/+026/pay",
            "towns:370502000",
            "counties:",
            "counties:*",
            "370502000 /2026/pay",
            "370502000/2026/预算",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        let long = format!("370502000/2026/{}", "a".repeat(33));
        assert_eq!(long.parse::<Address>().map_err(|e| e.code()), Err("JC-1008"));
        let endless = format!("370502000/2026/{}", "a".repeat(1 << 20));
        assert_eq!(endless.parse::<Address>().map_err(|e| e.code()), Err("JC-1005"));
        for bad in ["", "2026", "*/pay", "2026/*", "2026/pay/x", "/pay"] {
            assert!(Sender::parse(AuthorityId::MINISTRY, Some(bad)).is_err(), "{bad}");
        }
        let sender = Sender::parse(AuthorityId::MINISTRY, Some("2026/pay")).expect("a sender");
        assert_eq!(sender.to_string(), "000000000/2026/pay");
        assert_eq!("000000000/2026/pay".parse(), Ok(sender.clone()));
        assert_eq!(sender.audience().to_string(), "/2026/pay");
    }

    #[test]
    fn attributes_name_a_year_and_a_system_or_are_refused() {
        let bare = Attributes { id: "1".into(), source: "x".into(), kind: "y".into(), ..Attributes::default() };
        let with = |name: &str, value: &str| Attributes {
            extensions: [(name.to_owned(), value.to_owned())].into(),
            ..bare.clone()
        };
        for (name, value) in
            [("fiscalyear", "*"), ("fiscalyear", "26"), ("system", "*"), ("system", ""), ("system", "A")]
        {
            let attributes = with(name, value);
            assert!(attributes.check().is_err(), "{name} {value}");
            assert!(decode_canonical::<Attributes>("attributes", &encode(&attributes), 4096).is_err());
        }
        assert!(with("fiscalyear", "2026").check().is_ok() && with("system", "pay").check().is_ok());
    }

    fn year() -> impl Strategy<Value = FiscalYear> {
        (1900u16..=9999).prop_map(|year| FiscalYear::new(year).expect("in range"))
    }

    fn audience() -> impl Strategy<Value = Audience> {
        let system = "[a-z0-9_-]{1,32}".prop_map(|name| name.parse().expect("a plain name"));
        (prop::option::of(year()), prop::option::of(system)).prop_map(|(year, system)| Audience { year, system })
    }

    fn destination() -> impl Strategy<Value = Destination> {
        let authority = "[0-9]{9}".prop_map(|id| id.parse::<AuthorityId>().expect("nine digits"));
        (authority, 0usize..6).prop_map(|(of, kind)| match kind {
            0 => Destination::Authority(of),
            1 => Destination::Below(of),
            2 => Destination::Superiors(of),
            level => Destination::Level(of, Level::ALL[level - 3]),
        })
    }

    proptest! {
        /// One address, one text; one audience, one pair of attributes.
        #[test]
        fn addresses_read_back_as_they_were_written(destination in destination(), audience in audience()) {
            let address = Address { destination, audience };
            let text = address.to_string();
            prop_assert_eq!(text.parse::<Address>(), Ok(address.clone()));
            prop_assert!(text.len() <= TEXT_BYTES && !text.ends_with("/*"));
            let mut attributes =
                Attributes { id: "1".into(), source: "x".into(), kind: "y".into(), ..Attributes::default() };
            address.audience.note_in(&mut attributes);
            prop_assert!(attributes.check().is_ok());
            prop_assert_eq!(Address::of(destination, &attributes), Ok(address.clone()));
            let pattern: AddressPattern = text.parse().expect("an address is a pattern");
            prop_assert!(pattern.matches(Some(destination), &address.audience));
            let all = AddressPattern { destination: None, ..pattern };
            prop_assert_eq!(all.to_string().parse::<AddressPattern>(), Ok(all));
        }

        /// What is read is what would be written, or more than need be said.
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-z:*/]{0,40}|[0-9]{9}(/[0-9*]{1,4}(/[a-z*]{1,3})?)?") {
            if let Ok(address) = text.parse::<Address>() {
                let written = address.to_string();
                let said = text.strip_suffix("/*").unwrap_or(&text);
                prop_assert_eq!(said.strip_suffix("/*").unwrap_or(said), written);
            }
        }

        /// Meeting is mutual; everybody meets everybody; who is named in full meets only what is for him or for all.
        #[test]
        fn audiences_meet_where_neither_names_another(one in audience(), other in audience()) {
            prop_assert!(one.meets(&one) && one.meets(&Audience::default()));
            prop_assert_eq!(one.meets(&other), other.meets(&one));
            let years = one.year.is_none() || other.year.is_none() || one.year == other.year;
            let systems = one.system.is_none() || other.system.is_none() || one.system == other.system;
            prop_assert_eq!(one.meets(&other), years && systems);
        }
    }
}
