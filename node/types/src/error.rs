//! What can be wrong with a value from outside, and whose fault it is.

/// Whose fault an error is: it decides who is told and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer or caller sent something wrong; sending the same again cannot help.
    Peer,
    /// The operator must change a configuration, a file or a machine.
    Operator,
    /// It may pass by itself: try again later.
    Passing,
    /// Our own bug: please report it.
    Bug,
}

/// A value from outside that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An authority id is not nine ASCII digits.
    #[error("«{text}» is no authority id: nine digits are wanted, such as 370502000")]
    AuthorityId {
        /// The text as given, shortened.
        text: String,
    },
    /// Text that is not hexadecimal of the wanted length.
    #[error("not hexadecimal, or not {wanted} bytes of it")]
    Hex {
        /// Wanted length in bytes.
        wanted: usize,
    },
    /// Bytes are not the CBOR that is wanted here.
    #[error("{what}: malformed CBOR ({reason})")]
    Cbor {
        /// What was being decoded.
        what: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// CBOR that decodes, but whose bytes are not the one canonical encoding.
    #[error("{what}: the encoding is not canonical")]
    NotCanonical {
        /// What was being decoded.
        what: &'static str,
    },
    /// Something is larger than its limit.
    #[error("{what} is {size}, more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A date that does not exist or is not written YYYY-MM-DD.
    #[error("«{text}» is no date: YYYY-MM-DD is wanted, and the day must exist")]
    Date {
        /// The text as given, shortened.
        text: String,
    },
    /// An amount that is not a plain decimal number with at most two decimals.
    #[error("«{text}» is no amount: at most 16 digits before and 2 after the decimal point are wanted")]
    Amount {
        /// The text as given, shortened.
        text: String,
    },
    /// A lane, destination or requirement in text form that cannot be read.
    #[error("«{text}» cannot be read as {what}")]
    Text {
        /// What was wanted.
        what: &'static str,
        /// The text as given, shortened.
        text: String,
    },
    /// An authority tree with a cycle, an orphan or a second parent.
    #[error("authority {authority}: {reason}")]
    Tree {
        /// The authority in question.
        authority: crate::AuthorityId,
        /// What is wrong with its place in the tree.
        reason: &'static str,
    },
}

impl Error {
    /// The stable code, documented in docs/errors.md.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::AuthorityId { .. } => "JC-1001",
            Self::Hex { .. } => "JC-1002",
            Self::Cbor { .. } => "JC-1003",
            Self::NotCanonical { .. } => "JC-1004",
            Self::TooLarge { .. } => "JC-1005",
            Self::Date { .. } => "JC-1006",
            Self::Amount { .. } => "JC-1007",
            Self::Text { .. } => "JC-1008",
            Self::Tree { .. } => "JC-1009",
        }
    }

    /// Whose fault it is: always the sender's of the value.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// At most 40 characters of a text from outside, for messages.
pub(crate) fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(40).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}
