//! Signatures: COSE_Sign1 (RFC 9052) with Ed25519, the key's id and the purpose in the protected header.

use crate::{Error, SigningKey, SigningPublicKey, Verified};
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, iana};
use jincai_types::{AuthorityId, hex, limits};

/// What a signature is for; a signature made for one purpose never passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The statement of a batch.
    Statement,
    /// The wrapped keys of a batch.
    Wraps,
    /// An authority's card, by its superior.
    Card,
    /// A list of lane positions for a neighbour.
    Receipts,
    /// A latest-wins value.
    Slot,
    /// A request for a card and certificates.
    Enrolment,
}

impl Purpose {
    /// The media type that stands in the protected header.
    fn content_type(self) -> &'static str {
        match self {
            Self::Statement => "application/vnd.jincai.statement+cbor",
            Self::Wraps => "application/vnd.jincai.wraps+cbor",
            Self::Card => "application/vnd.jincai.card+cbor",
            Self::Receipts => "application/vnd.jincai.receipts+cbor",
            Self::Slot => "application/vnd.jincai.slot+cbor",
            Self::Enrolment => "application/vnd.jincai.enrolment+cbor",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Wraps => "wrapped keys",
            Self::Card => "card",
            Self::Receipts => "receipts",
            Self::Slot => "slot",
            Self::Enrolment => "enrolment request",
        }
    }
}

/// Signs a payload.
#[must_use]
pub fn sign(purpose: Purpose, payload: Vec<u8>, key: &SigningKey) -> Vec<u8> {
    let header = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .key_id(key.public().id().to_vec())
        .content_type(purpose.content_type().to_owned())
        .build();
    CoseSign1Builder::new()
        .protected(header)
        .payload(payload)
        .create_signature(&[], |bytes| key.sign(bytes))
        .build()
        .to_vec()
        .expect("a COSE_Sign1 made of bytes and short text encodes")
}

fn parse(purpose: Purpose, bytes: &[u8]) -> Result<CoseSign1, Error> {
    let what = purpose.what();
    if bytes.len() > limits::BATCH_BYTES {
        let (size, limit) = (bytes.len() as u64, limits::BATCH_BYTES as u64);
        return Err(jincai_types::Error::TooLarge { what, size, limit }.into());
    }
    let cose = CoseSign1::from_slice(bytes).map_err(|e| Error::Cose { what, reason: e.to_string() })?;
    let header = &cose.protected.header;
    let algorithm = Some(coset::RegisteredLabelWithPrivate::Assigned(iana::Algorithm::EdDSA));
    let content_type = Some(coset::ContentType::Text(purpose.content_type().to_owned()));
    let fitting = header.alg == algorithm && header.content_type == content_type && header.crit.is_empty();
    if !fitting {
        return Err(Error::Cose { what, reason: "another algorithm or purpose than is wanted here".into() });
    }
    Ok(cose)
}

/// The payload and the id of the key that claims to have signed it. Nothing is verified yet: use it only to find the key.
pub fn signer_of(purpose: Purpose, bytes: &[u8]) -> Result<(Vec<u8>, [u8; 8]), Error> {
    let cose = parse(purpose, bytes)?;
    let what = purpose.what();
    let key = cose.protected.header.key_id.as_slice().try_into();
    let key = key.map_err(|_| Error::Cose { what, reason: "the key id is not 8 bytes".into() })?;
    let payload = cose.payload.ok_or_else(|| Error::Cose { what, reason: "there is no payload".into() })?;
    Ok((payload, key))
}

/// Verifies a signature of `signer`, whose key this is, and returns the payload.
pub fn verify(
    purpose: Purpose,
    bytes: &[u8],
    signer: AuthorityId,
    key: &SigningPublicKey,
) -> Result<Verified<Vec<u8>>, Error> {
    let what = purpose.what();
    let cose = parse(purpose, bytes)?;
    if cose.protected.header.key_id != key.id() {
        return Err(Error::UnknownKey { what, authority: signer, key: hex(&cose.protected.header.key_id) });
    }
    if cose.payload.is_none() {
        return Err(Error::Cose { what, reason: "there is no payload".into() });
    }
    let good = cose
        .verify_signature(&[], |signature, message| if key.verifies(message, signature) { Ok(()) } else { Err(()) });
    good.map_err(|()| Error::Signature { what, signer: signer.to_string() })?;
    Ok(Verified::new(cose.payload.unwrap_or_default()))
}
