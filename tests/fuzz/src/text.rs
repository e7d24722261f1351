//! The vocabulary in text and in CBOR.

use crate::Verdict;
use jincai_types::{
    Address, AddressPattern, Attributes, Audience, AuthorityId, Date, Destination, Digest, Epoch, FiscalYear, Lane,
    LanePosition, Month, PartKey, PartRecord, Requirement, Sender, System, TableSchema, decode, decode_canonical,
    encode, format_fen, hex, limits, parse_fen, unhex,
};
use minicbor::{Decode, Encode};
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// Ids, dates, lanes, conditions and amounts: what is read, is written as it was read.
pub(crate) fn text(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let mut read = [
        written_alike::<AuthorityId>(text),
        written_alike::<Date>(text),
        written_alike::<Destination>(text),
        written_alike::<Lane>(text),
    ]
    .contains(&true);
    read |= written_alike::<FiscalYear>(text);
    // What need not be said is left out.
    if let Ok(address) = text.parse::<Address>() {
        read = true;
        let (written, pattern) =
            (address.to_string(), text.parse::<AddressPattern>().expect("every address is a pattern"));
        assert_eq!(written.parse().as_ref(), Ok(&address));
        assert!(written.len() <= text.len() && pattern.matches(Some(address.destination), &address.audience));
    }
    if let Ok(sender) = text.parse::<Sender>() {
        assert_eq!(sender.to_string(), text);
    }
    // Digests may be written in capital letters.
    read |= written_alike::<Digest>(&text.to_ascii_lowercase());
    if let Ok(requirement) = text.parse::<Requirement>() {
        read = true;
        assert_eq!(requirement.to_string().parse(), Ok(requirement));
    }
    if let Ok(date) = text.parse::<Date>() {
        assert_eq!(Date::from_days(date.days()), Some(date));
    }
    if let Ok(fen) = parse_fen(text) {
        read = true;
        assert!(fen.unsigned_abs() < 10u64.pow(18), "it fits decimal(18,2)");
        assert_eq!(parse_fen(&format_fen(i128::from(fen))), Ok(fen));
    }
    if let Ok(found) = unhex::<16>(text) {
        assert_eq!(hex(&found), text.to_ascii_lowercase());
    }
    Verdict::of(read)
}

fn written_alike<T: FromStr + Display>(text: &str) -> bool {
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string(), text);
            true
        }
        Err(_) => false,
    }
}

/// A message's attributes: one value, one encoding, within their limits.
pub(crate) fn attributes(bytes: &[u8]) -> Verdict {
    let Ok(attributes) = decode_canonical::<Attributes>("attributes", bytes, limits::BATCH_BYTES) else {
        return Verdict::Refused;
    };
    assert_eq!(encode(&attributes), bytes);
    assert!(attributes.check().is_ok(), "what is read keeps the limits");
    assert!(attributes.requires.len() <= limits::REQUIREMENTS && attributes.extensions.len() <= limits::ATTRIBUTES);
    assert!(Audience::of(&attributes).is_ok(), "its year and system can be read");
    for requirement in &attributes.requires {
        assert_eq!(requirement.to_string().parse().as_ref(), Ok(requirement));
    }
    Verdict::Accepted
}

/// The small values that stand in records, receipts and effects.
pub(crate) fn places(bytes: &[u8]) -> Verdict {
    let read = [
        canonical::<AuthorityId>(bytes),
        canonical::<Lane>(bytes),
        canonical::<(Lane, LanePosition)>(bytes),
        canonical::<Epoch>(bytes),
        canonical::<Month>(bytes),
        canonical::<PartKey>(bytes),
        canonical::<PartRecord>(bytes),
        canonical::<TableSchema>(bytes),
        canonical::<(Option<FiscalYear>, Option<System>)>(bytes),
    ];
    Verdict::of(read.contains(&true))
}

/// Reads a value in both ways; says whether the bytes are its one encoding.
pub(crate) fn canonical<T>(bytes: &[u8]) -> bool
where
    T: for<'b> Decode<'b, ()> + Encode<()> + PartialEq + Debug,
{
    let Ok(value) = decode::<T>("value", bytes, limits::BATCH_BYTES) else {
        assert!(decode_canonical::<T>("value", bytes, limits::BATCH_BYTES).is_err(), "only what decodes is canonical");
        return false;
    };
    let written = encode(&value);
    assert_eq!(decode_canonical::<T>("value", &written, usize::MAX).as_ref(), Ok(&value), "what is written is read");
    let canonical = decode_canonical::<T>("value", bytes, limits::BATCH_BYTES).is_ok();
    assert_eq!(canonical, written == bytes);
    canonical
}
