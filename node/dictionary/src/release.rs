//! Releases: the manifest that a line's issuer sends, and the messages that carry it.
//!
//! Only differences travel; the first release is the delta from the empty snapshot. A small delta stands in the manifest
//! itself, a larger one in bulk parts that the manifest's `requires` names by SHA-256 of their bytes.

use crate::compare::Summary;
use crate::delta::{PARTS, PartName, PartReader};
use crate::model::{check_id, check_text};
use crate::{Error, Operation, Step};
use jincai_crypto::sha256;
use jincai_exchange::{BULK_PART, Outgoing, Parts};
use jincai_types::{
    Attributes, AuthorityId, Date, Destination, Digest, Millis, Priority, Requirement, decode_canonical, encode, limits,
};
use minicbor::{Decode, Encode};

/// The message type of a manifest.
pub const RELEASE_KIND: &str = "jincai.dictionary.release";
/// Largest delta that stands in the manifest, in bytes.
const INLINE_BYTES: usize = 64 << 10;
/// Longest note and longest reason, in bytes.
const NOTE_BYTES: usize = 1024;
const FORMAT: u8 = 1;

/// A numbered state of a line, as the step from the one before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Release {
    /// The line, such as `national`.
    #[n(0)]
    pub line: String,
    /// Who issues the line.
    #[n(1)]
    pub issuer: AuthorityId,
    /// Its number, from 1 without gaps.
    #[n(2)]
    pub number: u64,
    /// Root of the release before; that of the empty snapshot for the first.
    #[n(3)]
    pub parent: Digest,
    /// Root of this release.
    #[n(4)]
    pub root: Digest,
    /// Codes in this release.
    #[n(5)]
    pub count: u64,
    /// From which day it is in force.
    #[cbor(n(6), with = "date_text")]
    pub effective_from: Date,
    /// What the issuer says about it; may be empty.
    #[n(7)]
    pub note: String,
    /// Why it removes much, if it does.
    #[n(8)]
    pub reason: Option<String>,
    /// How many codes differ from the release before.
    #[n(9)]
    pub summary: Summary,
    /// The delta.
    #[n(10)]
    pub body: Body,
}

/// Where a release's delta is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Body {
    /// Here, as the one part.
    #[n(0)]
    Inline(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// In bulk parts with these digests, in order.
    #[n(1)]
    Parts(#[n(0)] Vec<Digest>),
}

/// A date as text in CBOR.
pub(crate) mod date_text {
    use jincai_types::Date;
    use minicbor::{Decoder, Encoder, decode::Error as DecodeError, encode::Error as EncodeError, encode::Write};

    pub(crate) fn encode<C, W: Write>(date: &Date, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.str(&date.to_string())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Date, DecodeError> {
        d.str()?.parse().map_err(DecodeError::message)
    }
}

impl Release {
    /// Reads a manifest's payload.
    pub fn read(payload: &[u8]) -> Result<Self, Error> {
        let (format, release): (u8, Self) =
            decode_canonical("release", payload, limits::PAYLOAD_BYTES).map_err(Error::Manifest)?;
        if format != FORMAT {
            return Err(Error::Field { what: "release", reason: "its format is not 1" });
        }
        release.check()?;
        Ok(release)
    }

    /// The step that its delta makes.
    #[must_use]
    pub fn step(&self) -> Step {
        Step { base: self.parent, root: self.root, count: self.count }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check_id("line", &self.line)?;
        if !self.note.is_empty() {
            check_text("note", &self.note, NOTE_BYTES)?;
        }
        if let Some(reason) = &self.reason {
            check_text("reason", reason, NOTE_BYTES)?;
        }
        if self.number == 0 {
            return Err(Error::Field { what: "release", reason: "its number is 0" });
        }
        match &self.body {
            Body::Inline(part) if part.len() > INLINE_BYTES => {
                Err(Error::TooLarge { what: "bytes of a delta in the manifest", limit: INLINE_BYTES as u64 })
            }
            Body::Parts(parts) if parts.len() > PARTS => {
                Err(Error::TooLarge { what: "parts of a release", limit: PARTS as u64 })
            }
            Body::Inline(_) | Body::Parts(_) => Ok(()),
        }
    }

    /// The digests of its bulk parts.
    #[must_use]
    pub fn parts(&self) -> &[Digest] {
        match &self.body {
            Body::Inline(_) => &[],
            Body::Parts(parts) => parts,
        }
    }

    /// Its operations, one part in memory at a time.
    pub(crate) fn operations<'a>(
        &'a self,
        parts: &'a dyn Parts,
    ) -> impl Iterator<Item = Result<Operation, Error>> + use<'a> {
        let sources = match &self.body {
            Body::Inline(_) => 1,
            Body::Parts(digests) => digests.len(),
        };
        let readers = (0..sources).map(move |index| {
            let name = PartName { line: &self.line, number: self.number, index };
            PartReader::new(self.part(index, parts)?, name)
        });
        readers.flat_map(|reader| {
            let (reader, error) = match reader {
                Ok(reader) => (Some(reader), None),
                Err(error) => (None, Some(Err(error))),
            };
            reader.into_iter().flatten().chain(error)
        })
    }

    fn part(&self, index: usize, parts: &dyn Parts) -> Result<Vec<u8>, Error> {
        match &self.body {
            Body::Inline(part) => Ok(part.clone()),
            Body::Parts(digests) => {
                let digest = digests[index];
                let part = parts.part(&digest).ok_or(Error::Delta { reason: "a part is missing" })?;
                if sha256(&part) == digest {
                    Ok(part)
                } else {
                    Err(Error::Delta { reason: "a part is not the one named" })
                }
            }
        }
    }

    /// What must hold where it is applied.
    fn requirements(&self) -> Vec<Requirement> {
        let parts = self.parts().iter().copied().map(Requirement::Bulk);
        let before = self.number - 1;
        let follows = (before > 0).then(|| Requirement::Release { line: self.line.clone(), number: before });
        follows.into_iter().chain(parts).collect()
    }
}

/// Turns a delta's parts into a release's body and the payloads of bulk messages.
pub(crate) fn body_of(mut parts: Vec<Vec<u8>>) -> (Body, Vec<(Digest, Vec<u8>)>) {
    if parts.len() == 1 && parts[0].len() <= INLINE_BYTES {
        return (Body::Inline(parts.swap_remove(0)), Vec::new());
    }
    let payloads: Vec<(Digest, Vec<u8>)> = parts.into_iter().map(|part| (sha256(&part), part)).collect();
    (Body::Parts(payloads.iter().map(|(digest, _)| *digest).collect()), payloads)
}

/// The messages that carry a release to everybody below its issuer: the parts, then the manifest.
pub(crate) fn messages(release: &Release, parts: Vec<(Digest, Vec<u8>)>, now: Millis) -> Vec<Outgoing> {
    let subject = format!("{}@{}", release.line, release.number);
    let attributes = |id: String, kind: &str, requires: Vec<Requirement>| Attributes {
        id,
        source: release.issuer.to_string(),
        kind: kind.into(),
        time: now,
        subject: subject.clone(),
        requires,
        extensions: Default::default(),
    };
    let outgoing = |class: Priority, attributes: Attributes, payload: Vec<u8>| Outgoing {
        destination: Destination::Below(release.issuer),
        class,
        attributes,
        payload,
    };
    let mut messages: Vec<Outgoing> = parts
        .into_iter()
        .map(|(digest, part)| outgoing(Priority::Bulk, attributes(digest.to_string(), BULK_PART, Vec::new()), part))
        .collect();
    let manifest = attributes(format!("release:{subject}"), RELEASE_KIND, release.requirements());
    messages.push(outgoing(Priority::Record, manifest, encode(&(FORMAT, release))));
    messages
}
