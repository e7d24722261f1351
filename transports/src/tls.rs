//! Mutual TLS 1.3 between neighbours: both ends show a certificate that leads to the one root.
//!
//! Refused: older versions, 0-RTT data, resumed sessions (a certificate is checked at each connection, so that one that
//! has expired since lets nobody in), a peer without a certificate, and any other protocol than `jincai/1`.

use crate::Error;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// The application protocol.
const ALPN: &[u8] = b"jincai/1";

/// Who this node is, and whose word it takes for who others are.
pub(crate) struct Credentials {
    /// The node's certificate, then the intermediate ones up to the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) root: CertificateDer<'static>,
}

impl Credentials {
    fn parts(&self) -> Result<(Arc<CryptoProvider>, Arc<RootCertStore>), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).map_err(Error::Identity)?;
        Ok((Arc::new(rustls::crypto::ring::default_provider()), Arc::new(roots)))
    }

    /// For connections from neighbours.
    pub(crate) fn server(&self) -> Result<ServerConfig, Error> {
        let (provider, roots) = self.parts()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|e| Error::Identity(rustls::Error::General(e.to_string())))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .and_then(|b| {
                b.with_client_cert_verifier(verifier).with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(Error::Identity)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For connections to neighbours.
    pub(crate) fn client(&self) -> Result<ClientConfig, Error> {
        let (provider, roots) = self.parts()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .and_then(|b| {
                b.with_root_certificates(roots).with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(Error::Identity)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
