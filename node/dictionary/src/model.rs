//! The model: entries of code sets, keyed by (set, code), and the rules that every text in them keeps.
//!
//! A line of an issuer holds code sets. The set itself is an entry too, with an empty code: it carries the set's name and
//! sorts before the set's codes. Order is bytewise by set, then by code, everywhere.

use crate::Error;
use serde::Serialize;

/// Limits on what an entry and a snapshot may hold.
pub mod limits {
    /// Longest code, and longest parent code, in bytes.
    pub const CODE_BYTES: usize = 64;
    /// Longest name of a code or of a set, in bytes of UTF-8.
    pub const NAME_BYTES: usize = 512;
    /// Longest id of a code set or of a line, in bytes.
    pub const SET_BYTES: usize = 64;
    /// Longest level, in bytes.
    pub const LEVEL_BYTES: usize = 32;
    /// Most entries in one snapshot, or rows in one CSV file.
    pub const ENTRIES: u64 = 8 << 20;
}

/// A code of a code set, or (with an empty `code`) the code set itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// The code set.
    pub set: String,
    /// The code; empty for the set itself.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Its level, such as `provinces` or `3`; empty for the set itself.
    pub level: String,
    /// The code above it in the same set; empty at the top.
    pub parent: String,
}

impl Entry {
    /// Whether this is the code set itself rather than one of its codes.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.code.is_empty()
    }

    pub(crate) fn borrowed(&self) -> EntryRef<'_> {
        EntryRef { set: &self.set, code: &self.code, name: &self.name, level: &self.level, parent: &self.parent }
    }

    pub(crate) fn key(&self) -> Key<'_> {
        (&self.set, &self.code)
    }
}

/// (set, code): what an entry is found by; compared bytewise.
pub(crate) type Key<'a> = (&'a str, &'a str);

/// An [`Entry`] that lies in somebody else's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    pub(crate) set: &'a str,
    pub(crate) code: &'a str,
    pub(crate) name: &'a str,
    pub(crate) level: &'a str,
    pub(crate) parent: &'a str,
}

impl<'a> EntryRef<'a> {
    pub(crate) fn key(&self) -> Key<'a> {
        (self.set, self.code)
    }

    pub(crate) fn to_entry(self) -> Entry {
        Entry {
            set: self.set.into(),
            code: self.code.into(),
            name: self.name.into(),
            level: self.level.into(),
            parent: self.parent.into(),
        }
    }

    /// Refuses an entry that no import could have made.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_id("set", self.set)?;
        check_name(self.name)?;
        if self.code.is_empty() {
            let bare = self.level.is_empty() && self.parent.is_empty();
            return if bare { Ok(()) } else { wrong("set", "a code set has no level and no parent") };
        }
        check_code("code", self.code)?;
        check_level(self.level)?;
        if self.parent.is_empty() { Ok(()) } else { check_code("parent", self.parent) }
    }
}

fn wrong<T>(what: &'static str, reason: &'static str) -> Result<T, Error> {
    Err(Error::Field { what, reason })
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The rule for ids of sets and lines: 1–64 of `A-Z a-z 0-9 _ . -`.
pub(crate) fn check_id(what: &'static str, text: &str) -> Result<(), Error> {
    if (1..=limits::SET_BYTES).contains(&text.len()) && is_plain(text) {
        return Ok(());
    }
    wrong(what, "1 to 64 letters, digits, dots, hyphens or underscores are wanted")
}

/// The rule for levels: 1–32 of `A-Z a-z 0-9 _ . -`.
pub(crate) fn check_level(text: &str) -> Result<(), Error> {
    if (1..=limits::LEVEL_BYTES).contains(&text.len()) && is_plain(text) {
        return Ok(());
    }
    wrong("level", "1 to 32 letters, digits, dots, hyphens or underscores are wanted")
}

/// The rule for names: not empty, at most 512 bytes, nothing invisible.
pub(crate) fn check_name(text: &str) -> Result<(), Error> {
    check_text("name", text, limits::NAME_BYTES)
}

/// The rule for codes: not empty, at most 64 bytes, nothing invisible, no white space.
pub(crate) fn check_code(what: &'static str, text: &str) -> Result<(), Error> {
    check_text(what, text, limits::CODE_BYTES)?;
    if text.contains(char::is_whitespace) { wrong(what, "it contains white space") } else { Ok(()) }
}

/// Not empty, at most `limit` bytes, nothing invisible.
pub(crate) fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    if text.is_empty() {
        return wrong(what, "it is empty");
    }
    if text.len() > limit {
        return wrong(what, "it is too long");
    }
    if text.contains(is_invisible) { wrong(what, "it contains a control or invisible character") } else { Ok(()) }
}

/// Control characters and those that change how a text looks without being seen: two codes that print alike are one trap.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}
