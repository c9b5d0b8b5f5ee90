//! TLS for `rediss://` nodes: rustls, with the system's certificates or
//! configured ones.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use crate::config::TlsConfig;
use crate::proto::node::message::NodeErrorKind;

/// A connector that trusts what `config` names.
///
/// The files are read again for every connection: a renewed certificate is
/// picked up by the next one.
pub(crate) fn connector(config: &TlsConfig) -> io::Result<TlsConnector> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let verifier = Verifier::new(config, provider)?;
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
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

/// The usual verification, and one more accepted certificate: that of an
/// authority itself, where the configuration names this authority. The usual
/// verification refuses a self-signed certificate that is marked as an
/// authority's, as `openssl req -x509` creates them.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    /// The certificates of `tls.ca`.
    named: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(config: &TlsConfig, provider: Arc<CryptoProvider>) -> io::Result<Self> {
        let named = config.ca.as_deref().map(certificates).transpose()?;
        let mut store = RootCertStore::empty();
        let trusted = named
            .clone()
            .unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
        let (added, _) = store.add_parsable_certificates(trusted);
        if added == 0 {
            return Err(io::Error::other(
                "no certificate authority is known: name one as tls.ca",
            ));
        }
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider);
        Ok(Self {
            usual: usual.build().map_err(io::Error::other)?,
            named: named.unwrap_or_default(),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .usual
            .verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match verified {
            // At this point its validity period has been checked, but its name
            // has not.
            Err(Error::InvalidCertificate(problem))
                if CertificateFault::of(&problem) == Some(CertificateFault::Authority)
                    && self.named.iter().any(|own| own == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// What is wrong with a certificate, where the library has no variant for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CertificateFault {
    /// It is the certificate of an authority itself.
    Authority,
    /// X.509 version 1 or 2.
    OldVersion,
}

impl CertificateFault {
    fn of(problem: &CertificateError) -> Option<Self> {
        let CertificateError::Other(other) = problem else {
            return None;
        };
        // Matched by name: the type belongs to a crate that the library depends
        // on.
        let name = format!("{:?}", other.0);
        let flaws = [
            ("CaUsedAsEndEntity", Self::Authority),
            ("UnsupportedCertVersion", Self::OldVersion),
        ];
        let found = flaws.into_iter().find(|(flaw, _)| name.contains(flaw));
        found.map(|(_, flaw)| flaw)
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| about(path, error))
}

/// What can be done about `error`, if it is a TLS error: as the tail of a
/// sentence about it.
pub(crate) fn remedy(error: &io::Error) -> Option<(NodeErrorKind, &'static str)> {
    use AlertDescription as Alert;
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let unfit = |remedy| Some((NodeErrorKind::Unsuitable, remedy));
    match error {
        // Any certificate expires: this is only an outage.
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Some((
            NodeErrorKind::Unreachable,
            "the server's certificate has expired: renew it, or correct this machine's clock",
        )),
        Error::InvalidCertificate(problem) => unfit(of_certificate(problem)),
        Error::InvalidMessage(_) => {
            unfit("the server speaks no TLS on that port: write redis://, or its TLS port")
        }
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
            "the server's certificate is from an untrusted authority: name that authority as tls.ca"
        }
        Problem::NotValidForName | Problem::NotValidForNameContext { .. } => {
            "the server's certificate is for another host: write one of its names in the url, or give the server a certificate of its own name"
        }
        Problem::NotValidYet | Problem::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: correct the clock of this machine, or of the machine that issued it"
        }
        other => match CertificateFault::of(other) {
            Some(CertificateFault::Authority) => {
                "the server's certificate is an authority's own: name that certificate as tls.ca, or give the server one that the authority has signed"
            }
            Some(CertificateFault::OldVersion) => {
                "the server's certificate is of X.509 version 1, which cannot name hosts: give the server one of version 3 with a subjectAltName"
            }
            None => "the server's certificate is not accepted: give it another",
        },
    }
}

fn about(path: &Path, error: rustls_pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
