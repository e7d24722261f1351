//! Dates of the proleptic Gregorian calendar and instants in milliseconds. No clock: callers pass the time in.

use crate::Error;
use crate::error::shorten;
use minicbor::{Decode, Decoder, Encode, decode};
use std::fmt;
use std::str::FromStr;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = u64;

/// A day that exists, between 1900-01-01 and 9999-12-31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// The day, if it exists.
    #[must_use]
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let length = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        ((1900..=9999).contains(&year) && (1..=length).contains(&day)).then_some(Self { year, month, day })
    }

    /// Its calendar month.
    #[must_use]
    pub fn month(&self) -> Month {
        Month { year: self.year, month: self.month }
    }

    /// Days since 1970-01-01 (negative before).
    #[must_use]
    pub fn days(&self) -> i32 {
        // Counted from 1 March, so that the leap day is the last of its year (Howard Hinnant, "chrono-compatible
        // low-level date algorithms").
        let shifted = i32::from(self.year) - i32::from(self.month <= 2);
        let era = shifted.div_euclid(400);
        let year_of_era = shifted.rem_euclid(400);
        let month = (i32::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + i32::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    /// The day that lies `days` after 1970-01-01, if it is in range.
    #[must_use]
    pub fn from_days(days: i32) -> Option<Self> {
        let shifted = days.checked_add(719_468)?;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = u8::try_from(day_of_year - (153 * shifted_month + 2) / 5 + 1).ok()?;
        let month = u8::try_from(if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 }).ok()?;
        let year = u16::try_from(year_of_era + era * 400 + i32::from(month <= 2)).ok()?;
        Self::new(year, month, day)
    }
}

impl FromStr for Date {
    type Err = Error;
    /// Exactly `YYYY-MM-DD`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Date { text: shorten(text) };
        let bytes = text.as_bytes();
        let shape = bytes.len() == 10
            && bytes.iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() });
        if !shape {
            return Err(wrong());
        }
        let number = |range: std::ops::Range<usize>| text[range].parse::<u16>().map_err(|_| wrong());
        let small = |n: u16| u8::try_from(n).map_err(|_| wrong());
        Self::new(number(0..4)?, small(number(5..7)?)?, small(number(8..10)?)?).ok_or_else(wrong)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A month of a year: the period of a collected partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct Month {
    /// The year.
    #[n(0)]
    pub year: u16,
    /// The month, 1–12.
    #[n(1)]
    pub month: u8,
}

impl<'b, C> Decode<'b, C> for Month {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        #[derive(Decode)]
        struct Numbers(#[n(0)] u16, #[n(1)] u8);
        let Numbers(year, month) = d.decode_with(ctx)?;
        let day = Date::new(year, month, 1).ok_or_else(|| decode::Error::message("there is no such month"))?;
        Ok(day.month())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

/// RFC 3339 in UTC, to the millisecond. It stands in every message, so the digits are written without the formatter.
#[must_use]
pub(crate) fn rfc3339(at: Millis) -> String {
    let days = i32::try_from(at / 86_400_000).unwrap_or(i32::MAX);
    let (year, month, day) = Date::from_days(days).map_or((9999, 12, 31), |d| (d.year, d.month, d.day));
    let rest = at % 86_400_000;
    let mut text = String::with_capacity(24);
    put_digits(&mut text, year.into(), 1000);
    for (mark, number) in [('-', month.into()), ('-', day.into())] {
        text.push(mark);
        put_digits(&mut text, number, 10);
    }
    for (mark, number) in [('T', rest / 3_600_000), (':', rest / 60_000 % 60), (':', rest / 1000 % 60)] {
        text.push(mark);
        put_digits(&mut text, number, 10);
    }
    text.push('.');
    put_digits(&mut text, rest % 1000, 100);
    text.push('Z');
    text
}

/// A number's digits from that of `highest`, a power of ten, down.
fn put_digits(text: &mut String, number: u64, highest: u64) {
    let mut unit = highest;
    while unit > 0 {
        let digit = u8::try_from(number / unit % 10).expect("one decimal digit fits a byte");
        text.push(char::from(b'0' + digit));
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for bad in [
            "2026-02-30",
            "2026-02-29",
            "1900-02-29",
            "20260101",
            "2026/1/1",
            "2026-1-01",
            "2026-13-01",
            "0000-01-01",
            "2026-00-10",
        ] {
            assert!(bad.parse::<Date>().is_err(), "{bad}");
        }
        assert_eq!("2024-02-29".parse::<Date>().map(|d| d.days()), Ok(19_782));
        assert_eq!("1970-01-01".parse::<Date>().map(|d| d.days()), Ok(0));
    }

    #[test]
    fn instants_print_as_rfc3339() {
        assert_eq!(rfc3339(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(86_399_999), "1970-01-01T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn days_round_trip(days in -25_567i32..2_932_896) {
            let date = Date::from_days(days).expect("in range");
            prop_assert_eq!(date.days(), days);
            prop_assert_eq!(date.to_string().parse::<Date>(), Ok(date));
        }
    }
}
