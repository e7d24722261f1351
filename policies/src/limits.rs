//! What may be sent to one neighbour, and when: bytes a second, in all and by class, and daily windows. A thin line, a line
//! that is paid by the byte, or one that others need by day.

use jincai_types::{Millis, Priority};
use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60_000;
const DAY_MINUTES: i64 = 24 * 60;
/// Most windows of a class.
const WINDOWS: usize = 24;

/// A daily window in local time, written `20:00-06:00`; it may pass midnight. Its end does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    from: i64,
    to: i64,
}

impl TryFrom<String> for Window {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let minute = |text: &str| -> Option<i64> {
            let (hours, minutes) = text.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
            let of_day = hours * 60 + minutes;
            ((0..=24).contains(&hours) && (0..60).contains(&minutes) && of_day <= DAY_MINUTES).then_some(of_day)
        };
        let window = text.split_once('-').and_then(|(from, to)| Some(Self { from: minute(from)?, to: minute(to)? }));
        let window = window.filter(|w| w.from != w.to && w.from < DAY_MINUTES);
        window.ok_or_else(|| format!("«{text}»: a daily window such as 20:00-06:00 is wanted"))
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        let time = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
        format!("{}-{}", time(window.from), time(window.to))
    }
}

impl Window {
    /// Minutes from a minute of the day until the window is open; 0: it is.
    fn opens_in(&self, minute: i64) -> i64 {
        let length = (self.to - self.from).rem_euclid(DAY_MINUTES);
        // 00:00-24:00 is all day long.
        let length = if length == 0 { DAY_MINUTES } else { length };
        let since = (minute - self.from).rem_euclid(DAY_MINUTES);
        if since < length { 0 } else { DAY_MINUTES - since }
    }
}

/// The limits of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassLimits {
    /// Bytes of batches a second; 0: no limit of its own.
    pub bytes_per_second: u64,
    /// When batches of the class may be sent; none: always.
    pub windows: Vec<Window>,
}

/// The limits of a link; what is not named is not limited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkLimits {
    /// Bytes of batches a second, all classes together; 0: no limit. More urgent classes go first.
    pub bytes_per_second: u64,
    /// How far local time is ahead of UTC, in minutes: windows are in local time. Default 480 (Beijing).
    pub utc_offset_minutes: i64,
    /// `control`.
    pub control: ClassLimits,
    /// `interactive`.
    pub interactive: ClassLimits,
    /// `record`.
    pub record: ClassLimits,
    /// `bulk`.
    pub bulk: ClassLimits,
}

impl Default for LinkLimits {
    fn default() -> Self {
        let class = ClassLimits::default;
        Self {
            bytes_per_second: 0,
            utc_offset_minutes: 480,
            control: class(),
            interactive: class(),
            record: class(),
            bulk: class(),
        }
    }
}

impl LinkLimits {
    /// The limits of a class.
    #[must_use]
    pub fn class(&self, class: Priority) -> &ClassLimits {
        match class {
            Priority::Control => &self.control,
            Priority::Interactive => &self.interactive,
            Priority::Record => &self.record,
            Priority::Bulk => &self.bulk,
        }
    }

    /// When batches of a class may be sent next: `now` if they may be sent now.
    #[must_use]
    pub fn opens_at(&self, class: Priority, now: Millis) -> Millis {
        let windows = &self.class(class).windows;
        let utc = i64::try_from(now / MINUTE.unsigned_abs()).unwrap_or(i64::MAX / 2);
        let minute = (utc + self.utc_offset_minutes).rem_euclid(DAY_MINUTES);
        let wait = windows.iter().map(|window| window.opens_in(minute)).min().unwrap_or(0);
        if wait == 0 {
            return now;
        }
        let minutes = utc.saturating_add(wait).unsigned_abs();
        minutes.saturating_mul(MINUTE.unsigned_abs())
    }

    /// Says what is wrong with the values, if something is.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let rates = Priority::ALL.map(|class| self.class(class).bytes_per_second);
        let thin = |rate: &u64| *rate != 0 && !(100..=1 << 40).contains(rate);
        match () {
            () if rates.iter().chain([&self.bytes_per_second]).any(thin) => {
                Some("bytes_per_second: 0 (no limit), or from 100 to 1099511627776")
            }
            () if !(-720..=840).contains(&self.utc_offset_minutes) => {
                Some("utc_offset_minutes: must lie between -720 and 840")
            }
            () if Priority::ALL.iter().any(|class| self.class(*class).windows.len() > WINDOWS) => {
                Some("windows: at most 24 of a class")
            }
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> Result<Window, String> {
        Window::try_from(text.to_owned())
    }

    /// Milliseconds of a time of day in Beijing, some day.
    fn beijing(hour: u64, minute: u64) -> Millis {
        let day = 1_800_000_000_000 / 86_400_000 * 86_400_000;
        day + (hour * 60 + minute) * 60_000 - 480 * 60_000
    }

    #[test]
    fn windows_are_read_as_written_and_odd_ones_refused() {
        for text in ["20:00-06:00", "00:00-24:00", "09:30-17:45"] {
            assert_eq!(window(text).map(String::from), Ok(text.to_owned()));
        }
        for text in [
            "",
            "20-06",
            "20:00",
            "25:00-26:00",
            "24:30-01:00",
            "10:60-11:00",
            "07:00-07:00",
            "24:00-06:00",
            "1:00-2:00",
        ] {
            assert!(window(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_night_window_passes_midnight_in_local_time() {
        let windows = vec![window("20:00-06:00").expect("a window")];
        let limits = LinkLimits { bulk: ClassLimits { bytes_per_second: 0, windows }, ..LinkLimits::default() };
        let opens = |hour, minute| limits.opens_at(Priority::Bulk, beijing(hour, minute));
        for (hour, minute) in [(20, 0), (23, 59), (0, 0), (5, 59)] {
            assert_eq!(opens(hour, minute), beijing(hour, minute), "{hour}:{minute}");
        }
        for (hour, minute) in [(6, 0), (12, 34), (19, 59)] {
            assert_eq!(opens(hour, minute), beijing(20, 0), "{hour}:{minute}");
        }
        assert_eq!(limits.opens_at(Priority::Record, beijing(12, 0)), beijing(12, 0), "only what is named is limited");
    }

    #[test]
    fn impossible_limits_are_named() {
        assert_eq!(LinkLimits::default().fault(), None);
        assert!(LinkLimits { bytes_per_second: 1, ..LinkLimits::default() }.fault().is_some());
        assert!(LinkLimits { utc_offset_minutes: 10_000, ..LinkLimits::default() }.fault().is_some());
    }
}
