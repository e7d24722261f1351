//! X.509 certificates for TLS: a root at the ministry, an intermediate per superior, one certificate per node.
//!
//! A node's certificate names its authority as a DNS name (`370502000.jincai.internal`), because that is what TLS
//! libraries compare. Who may be an authority at all is said by cards, not by these.

use crate::{Error, SigningKey};
use jincai_types::{AuthorityId, Millis};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, ServerName};
use std::time::Duration;

/// The name that stands in an authority's certificate.
fn dns_name(authority: AuthorityId) -> String {
    format!("{authority}.jincai.internal")
}

/// The name to expect when connecting to an authority's node.
#[must_use]
pub fn server_name(authority: AuthorityId) -> ServerName<'static> {
    ServerName::try_from(dns_name(authority)).expect("nine digits and a fixed suffix are a DNS name")
}

/// Which of the `candidates` a peer's certificate (verified by TLS already) belongs to.
pub fn peer_authority(
    certificate: &CertificateDer<'_>,
    candidates: impl IntoIterator<Item = AuthorityId>,
) -> Result<AuthorityId, Error> {
    let end_entity = webpki::EndEntityCert::try_from(certificate).map_err(|e| Error::Certificate(e.to_string()))?;
    candidates
        .into_iter()
        .find(|a| end_entity.verify_is_valid_for_subject_name(&server_name(*a)).is_ok())
        .ok_or_else(|| Error::Certificate("it names no neighbour of this node".into()))
}

struct PublicKey<'a>(&'a [u8; 32]);

impl rcgen::PublicKeyData for PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

fn wrong(error: &rcgen::Error) -> Error {
    Error::Certificate(error.to_string())
}

fn parameters(names: Vec<String>, common: String, from: Millis, until: Millis) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::new(names).map_err(|e| wrong(&e))?;
    parameters.distinguished_name.push(DnType::OrganizationName, "jincai");
    parameters.distinguished_name.push(DnType::CommonName, common);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + Duration::from_millis(from);
    parameters.not_after = epoch + Duration::from_millis(until);
    Ok(parameters)
}

fn authority_parameters(authority: AuthorityId, from: Millis, until: Millis) -> Result<CertificateParams, Error> {
    let mut parameters = parameters(Vec::new(), format!("jincai authority {authority}"), from, until)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

/// The ministry's self-signed root certificate.
pub fn issue_root(
    authority: AuthorityId,
    key: &SigningKey,
    from: Millis,
    until: Millis,
) -> Result<CertificateDer<'static>, Error> {
    let certificate = authority_parameters(authority, from, until)?.self_signed(key).map_err(|e| wrong(&e))?;
    Ok(certificate.der().clone())
}

/// An inferior's intermediate certificate, with which it issues its own inferiors' certificates.
pub fn issue_authority(
    issuer: (AuthorityId, &SigningKey),
    authority: AuthorityId,
    public_key: &[u8; 32],
    from: Millis,
    until: Millis,
) -> Result<CertificateDer<'static>, Error> {
    issue(issuer, &authority_parameters(authority, from, until)?, public_key)
}

/// A node's certificate, for both ends of mutual TLS.
pub fn issue_node(
    issuer: (AuthorityId, &SigningKey),
    authority: AuthorityId,
    public_key: &[u8; 32],
    from: Millis,
    until: Millis,
) -> Result<CertificateDer<'static>, Error> {
    let mut parameters = parameters(vec![dns_name(authority)], format!("jincai node {authority}"), from, until)?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(issuer, &parameters, public_key)
}

fn issue(
    issuer: (AuthorityId, &SigningKey),
    parameters: &CertificateParams,
    public_key: &[u8; 32],
) -> Result<CertificateDer<'static>, Error> {
    // Only the issuer's name and key id enter the certificate; both follow from the authority and its key.
    let issuer_parameters = authority_parameters(issuer.0, 0, 0)?;
    let issuer = Issuer::from_params(&issuer_parameters, issuer.1);
    let certificate = parameters.signed_by(&PublicKey(public_key), &issuer).map_err(|e| wrong(&e))?;
    Ok(certificate.der().clone())
}
