//! Certificates: those that listeners show and the authorities to trust.
//!
//! One cryptographic provider (ring) for the whole process, installed first.

use std::{path::Path, sync::Arc};

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;

/// Why a certificate can't be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file can't be read or holds no PEM of the wanted kind.
    #[error("can't read {what} from {path}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: String,
        /// What was found instead.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("no certificate in {0}")]
    NoCertificate(String),
    /// Key and certificate don't belong together, or are of an unknown kind.
    #[error("certificate {path} can't be used")]
    Unusable {
        /// The certificate's file.
        path: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Makes ring the provider of everything in this process.
pub fn install_provider() {
    // Fails only when one is installed already, which then is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a listener shows: a PEM chain and its key; HTTP/2 and HTTP/1.1.
pub fn server_config(certificate: &Path, private_key: &Path) -> Result<RustlsConfig, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: private_key.display().to_string(),
        source,
    })?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Unusable { path: certificate.display().to_string(), source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

/// All certificates of a PEM file; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { what: "certificates", path: path.display().to_string(), source };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(path.display().to_string()));
    }
    Ok(chain)
}

/// The authorities that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR`
/// name others) and those of `extra`. A system without any is no error: a
/// server of a closed network may need none but its own.
pub fn authorities(extra: &[impl AsRef<Path>]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "a certificate authority of the system can't be read");
    }
    let mut all = system.certs;
    for path in extra {
        all.extend(certificates(path.as_ref())?);
    }
    Ok(all)
}
