//! Why connections end, in words that people understand, and the codes that say it on the wire.
//!
//! ```text
//! application close codes: 0 bye · 1 broken protocol · 2 refused · 3 replaced by a newer connection · 4 busy
//! ```
//! A peer's own words are shortened and stripped of control characters before they reach a log.

use crate::Error;
use quinn::{ConnectionError, VarInt};

/// Longest text of a peer that is shown, in characters.
const WORDS: usize = 200;

/// Why this node ends a connection.
#[derive(Clone, Copy)]
pub(crate) enum Close {
    Bye,
    Broken,
    Refused,
    Replaced,
    Busy,
}

impl Close {
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Bye => 0,
            Self::Broken => 1,
            Self::Refused => 2,
            Self::Replaced => 3,
            Self::Busy => 4,
        })
    }
}

impl From<&Error> for Close {
    fn from(error: &Error) -> Self {
        match error {
            Error::FrameSize { .. } | Error::Protocol(_) => Self::Broken,
            Error::PeerRefused { .. } => Self::Refused,
            Error::Replaced => Self::Replaced,
            _ => Self::Bye,
        }
    }
}

/// What the end of a connection means.
pub(crate) fn explain(error: &ConnectionError) -> Error {
    match error {
        ConnectionError::TransportError(ours) => match alert(u64::from(ours.code)) {
            Some(meaning) => Error::PeerRefused { reason: format!("{meaning} ({})", plain(ours.reason.as_bytes())) },
            None => Error::Lost { reason: plain(ours.to_string().as_bytes()) },
        },
        ConnectionError::ConnectionClosed(theirs) => match alert(u64::from(theirs.error_code)) {
            Some(meaning) => Error::RefusedByPeer { reason: format!("{meaning} ({})", plain(&theirs.reason)) },
            None => Error::Lost { reason: plain(theirs.to_string().as_bytes()) },
        },
        ConnectionError::ApplicationClosed(theirs) if theirs.error_code == Close::Refused.code() => {
            Error::RefusedByPeer { reason: plain(&theirs.reason) }
        }
        ConnectionError::ApplicationClosed(theirs) if theirs.error_code == Close::Replaced.code() => Error::Replaced,
        ConnectionError::ApplicationClosed(theirs) => {
            Error::Lost { reason: format!("the peer closed it: {}", plain(&theirs.reason)) }
        }
        ConnectionError::VersionMismatch => Error::PeerRefused { reason: "it speaks no QUIC version 1".into() },
        ConnectionError::Reset => Error::Lost { reason: "the peer has restarted".into() },
        ConnectionError::TimedOut => Error::Lost { reason: "the peer does not answer".into() },
        ConnectionError::LocallyClosed => Error::Lost { reason: "this node closed it".into() },
        ConnectionError::CidsExhausted => Error::Lost { reason: "no connection ids are left".into() },
    }
}

/// What a TLS alert, carried in a QUIC error code (RFC 9001 §4.8), says about the other end; `None` for other codes.
fn alert(code: u64) -> Option<&'static str> {
    Some(match code.checked_sub(0x100)? {
        42 => "the certificate is malformed or was issued for another name",
        44 => "the certificate is revoked",
        45 => "the certificate has expired or is not valid yet",
        48 => "the certificate leads to another root",
        43 | 46 => "the certificate is not acceptable",
        51 => "a signature does not verify, so that the certificate leads to another root",
        70 => "TLS 1.3 is wanted",
        116 => "no certificate is shown",
        120 => "the protocol jincai/1 is wanted",
        0..=255 => "the TLS handshake failed",
        _ => return None,
    })
}

/// Text of a peer as it may be shown.
fn plain(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_peer_are_short_and_on_one_line() {
        let shown = plain("a\nb\u{1b}[31m\u{ff}".repeat(100).as_bytes());
        assert_eq!(shown.chars().count(), WORDS);
        assert!(!shown.contains(char::is_control));
        assert_eq!(plain(&[0xff, b'a']), "\u{fffd}a");
    }

    #[test]
    fn only_tls_alerts_speak_of_certificates() {
        assert!(alert(0x100 + 45).is_some_and(|text| text.contains("expired")));
        for code in [0, 1, 0xff, 0x200, u64::MAX] {
            assert_eq!(alert(code), None, "{code}");
        }
    }
}
