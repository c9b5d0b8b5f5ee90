//! TLS for `rediss://` nodes: rustls, with the system's certificates or one's
//! own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
};

use crate::config::TlsConfig;
use crate::proto::wire::NodeErrorKind;

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

/// What can be done about `error`, if it is one of TLS: as the tail of a
/// sentence about it.
pub(super) fn remedy(error: &io::Error) -> Option<(NodeErrorKind, &'static str)> {
    use AlertDescription as Alert;
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let unfit = |remedy| Some((NodeErrorKind::Unsuitable, remedy));
    match error {
        // Time does that to any: it is no more than an outage.
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Some((
            NodeErrorKind::Unreachable,
            "the server's certificate has expired: renew it, or set this machine's clock",
        )),
        Error::InvalidCertificate(problem) => unfit(of_certificate(problem)),
        Error::InvalidMessage(_) => unfit(
            "the server speaks no TLS on that port: write redis://, or the port that it has for TLS",
        ),
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => Some((
            NodeErrorKind::Denied,
            "the server wants a client's certificate that it trusts: name one as tls.certificate, and tls.key",
        )),
        _ => None,
    }
}

fn of_certificate(problem: &CertificateError) -> &'static str {
    use CertificateError as Problem;
    match problem {
        Problem::UnknownIssuer | Problem::BadSignature => {
            "the server's certificate is from an authority that is not trusted here: name that as tls.ca"
        }
        Problem::NotValidForName | Problem::NotValidForNameContext { .. } => {
            "the server's certificate is for another host: write one of its names in the url, or give the server its own"
        }
        Problem::NotValidYet | Problem::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: set the clock of this machine, or of who made it"
        }
        _ => "the server's certificate will not do: give it another",
    }
}

fn about(path: &Path, error: rustls_pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
