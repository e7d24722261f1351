//! The CBOR codec of journal, wire and signatures (RFC 8949), with limits.
//!
//! Every structure has a fixed shape (definite-length arrays in field order, written by `minicbor` derives), so nesting is
//! bounded by the types. Evolution: a later format version may add fields at an array's end; signed and hashed structures
//! are refused unless their bytes are the one canonical encoding ([`decode_canonical`]).

use crate::Error;
use minicbor::{Decode, Encode};
use std::convert::Infallible;

/// Encodes a value; definite lengths and shortest integers, so equal values give equal bytes.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(&mut out, value);
    out
}

/// Appends a value's encoding: for values whose size the caller knows, and for several in one buffer.
pub fn encode_into<T: Encode<()>>(out: &mut Vec<u8>, value: &T) {
    let written: Result<(), minicbor::encode::Error<Infallible>> = minicbor::encode(value, out);
    // A Vec never refuses a write and our Encode impls raise no error of their own.
    written.expect("encoding into a Vec cannot fail");
}

/// Decodes a value that fills `bytes` exactly; `limit` bounds the input in bytes.
pub fn decode<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8], limit: usize) -> Result<T, Error> {
    if bytes.len() > limit {
        return Err(Error::TooLarge { what, size: bytes.len() as u64, limit: limit as u64 });
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|e| Error::Cbor { what, reason: e.to_string() })?;
    if decoder.position() != bytes.len() {
        return Err(Error::Cbor { what, reason: "bytes are left over".into() });
    }
    Ok(value)
}

/// As [`decode`], and refuses bytes that are not exactly what [`encode`] would write: one value, one encoding.
pub fn decode_canonical<'b, T>(what: &'static str, bytes: &'b [u8], limit: usize) -> Result<T, Error>
where
    T: Decode<'b, ()> + Encode<()>,
{
    let value: T = decode(what, bytes, limit)?;
    let mut expected = Expected(bytes);
    let same = minicbor::encode(&value, &mut expected).is_ok() && expected.0.is_empty();
    if same { Ok(value) } else { Err(Error::NotCanonical { what }) }
}

/// Takes an encoding and compares it with what is expected, so that a batch is not written out once more to be compared.
struct Expected<'b>(&'b [u8]);

/// What was written is not what was expected.
#[derive(Debug)]
struct Differs;

impl minicbor::encode::Write for Expected<'_> {
    type Error = Differs;

    fn write_all(&mut self, written: &[u8]) -> Result<(), Differs> {
        self.0 = self.0.strip_prefix(written).ok_or(Differs)?;
        Ok(())
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// Reads exactly `N` bytes of hexadecimal, either case.
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], Error> {
    let text = text.as_bytes();
    let mut out = [0u8; N];
    if text.len() != N * 2 {
        return Err(Error::Hex { wanted: N });
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(Error::Hex { wanted: N });
        let value = digit(pair[0])? * 16 + digit(pair[1])?;
        *byte = u8::try_from(value).expect("two hex digits fit a byte");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses() {
        assert_eq!(unhex::<3>(&hex(&[0, 0xab, 0xff])), Ok([0, 0xab, 0xff]));
        assert_eq!(unhex::<3>("00abf"), Err(Error::Hex { wanted: 3 }));
        assert_eq!(unhex::<3>("00abfg"), Err(Error::Hex { wanted: 3 }));
    }

    #[test]
    fn a_longer_integer_form_is_not_canonical() {
        assert_eq!(decode_canonical::<u64>("number", &[0x18, 0x05], 9), Err(Error::NotCanonical { what: "number" }));
        assert_eq!(decode_canonical::<u64>("number", &[0x05], 9), Ok(5));
        assert!(matches!(decode::<u64>("number", &[0x05, 0x05], 9), Err(Error::Cbor { .. })));
        assert!(matches!(decode::<u64>("number", &[0x05, 0x05], 1), Err(Error::TooLarge { .. })));
    }
}
