//! TLS for outbound calls: one configuration for the worker, made at the first call that needs it.
//!
//! Trusts Mozilla's roots and what the host's `outbound.ca` adds. Sessions are kept for all tenants
//! (rustls bounds them to 256): a session names a server, and resuming it proves that server, whoever
//! asked first.

use super::Failure;
use insula_sandbox::outbound::CallError;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It has none.
    #[error("it holds no certificate; write PEM, with `-----BEGIN CERTIFICATE-----`")]
    Empty,
    /// It is not PEM.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// One of them is not one.
    #[error("certificate {0} cannot be read: {1}")]
    Certificate(usize, String),
}

/// Whether outbound TLS can trust what this PEM text holds.
///
/// # Errors
/// [`CaError`]: it holds no certificate, or one that cannot be read.
pub fn check_ca(pem: &str) -> Result<(), CaError> {
    let mut roots = RootCertStore::empty();
    match add(&mut roots, pem)? {
        0 => Err(CaError::Empty),
        _ => Ok(()),
    }
}

fn add(roots: &mut RootCertStore, pem: &str) -> Result<usize, CaError> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| CaError::Pem(error.to_string()))?;
        count += 1;
        roots.add(certificate).map_err(|error| CaError::Certificate(count, error.to_string()))?;
    }
    Ok(count)
}

pub(super) struct Tls {
    ca: String,
    connector: OnceLock<Result<TlsConnector, String>>,
}

impl Tls {
    pub(super) fn new(ca: String) -> Self {
        Self { ca, connector: OnceLock::new() }
    }

    fn connector(&self) -> Result<&TlsConnector, Failure> {
        let made = self.connector.get_or_init(|| {
            let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            add(&mut roots, &self.ca).map_err(|error| format!("outbound.ca: {error}"))?;
            let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok(TlsConnector::from(Arc::new(config)))
        });
        made.as_ref().map_err(|why| CallError::Internal(why.clone()).into())
    }

    /// Speaks TLS over a fresh connection to `host`.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::new(CallError::Uri, "the host cannot be named in TLS"))?;
        self.connector()?.connect(name, stream).await.map_err(|error| read(&error))
    }
}

fn read(error: &io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => Failure::new(
            CallError::TlsCertificate,
            format!(
                "the server's certificate is not trusted: {why}; a private authority's certificate goes \
                 into [outbound] ca of the host's configuration file"
            ),
        ),
        Some(error) => Failure::new(CallError::TlsProtocol, format!("TLS failed: {error}")),
        None => Failure::new(CallError::Terminated, format!("TLS broke off: {error}")),
    }
}
