//! Money is an integer of fen (分, a hundredth of the currency unit) in an `i64`; sums are `i128`. Never a float.

use crate::Error;
use crate::error::shorten;

/// Reads `[-]digits[.d[d]]` as fen. No grouping, exponent, plus sign, spaces or brackets; at most 16 digits before the
/// point, so every accepted amount fits decimal(18,2). `-0` reads as 0.
pub fn parse_fen(text: &str) -> Result<i64, Error> {
    let wrong = || Error::Amount { text: shorten(text) };
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let ok = |part: &str, longest| (1..=longest).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !ok(whole, 16) || !ok(decimals, 2) {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let cents: i64 = decimals.parse().map_err(|_| wrong())?;
    let fen = whole * 100 + if decimals.len() == 1 { cents * 10 } else { cents };
    Ok(if negative { -fen } else { fen })
}

/// Writes fen as a decimal number with two decimals.
#[must_use]
pub fn format_fen(fen: i128) -> String {
    let sign = if fen < 0 { "-" } else { "" };
    let fen = fen.unsigned_abs();
    format!("{sign}{}.{:02}", fen / 100, fen % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_exact_or_refused() {
        for (text, fen) in
            [("0", 0), ("-0", 0), ("1.5", 150), ("-250.00", -25_000), ("9999999999999999.99", 999_999_999_999_999_999)]
        {
            assert_eq!(parse_fen(text), Ok(fen), "{text}");
        }
        for bad in [
            "",
            "-",
            ".5",
            "1.",
            "1.234",
            "1e9",
            "1.5E+9",
            "NaN",
            "+1",
            "1,000",
            "(250.00)",
            " 1",
            "99999999999999999",
            "１",
        ] {
            assert!(parse_fen(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_round_trips(fen in -999_999_999_999_999_999_i64..=999_999_999_999_999_999) {
            prop_assert_eq!(parse_fen(&format_fen(i128::from(fen))), Ok(fen));
        }
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _seen = parse_fen(&text).is_ok();
        }
    }
}
