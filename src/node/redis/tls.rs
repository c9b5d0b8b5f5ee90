//! TLS for `rediss://` nodes: rustls, with the system's certificates or one's
//! own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::TlsConfig;

/// A connector that trusts what `config` says.
///
/// Read anew for every connection: a renewed certificate is picked up by the
/// next one.
pub(super) fn connector(config: &TlsConfig) -> io::Result<TlsConnector> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots(config)?);
    let client = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| about(key, error))?;
            builder.with_client_auth_cert(certificates(certificate)?, private)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => {
            return Err(io::Error::other(
                "[tls] needs both certificate and key, or neither",
            ));
        }
    };
    Ok(TlsConnector::from(Arc::new(
        client.map_err(io::Error::other)?,
    )))
}

fn roots(config: &TlsConfig) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let trusted = match &config.ca {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = store.add_parsable_certificates(trusted);
    if added == 0 {
        return Err(io::Error::other(
            "no certificate authority is known: name one as tls.ca",
        ));
    }
    Ok(store)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| about(path, error))
}

fn about(path: &Path, error: rustls_pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
