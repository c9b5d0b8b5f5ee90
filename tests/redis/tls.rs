//! Nodes at `rediss://`: mutual TLS on real servers, and every failure of it.
//! The certificates are made here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use ringlock::{Cause, Error, Init, NodeError, NodeErrorKind, Released, Router, RouterBuilder};
use ringlock_test_support::node::GRACE;
use ringlock_test_support::{KEY, PROMPTLY, RedisServer, eventually, name};
use tempfile::TempDir;

/// An authority, and a directory for its certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// The names in a certificate.
const LOOPBACK: &[&str] = &["localhost", "127.0.0.1"];

/// Whether a certificate is valid now.
#[derive(Clone, Copy, PartialEq)]
enum Term {
    Running,
    Over,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("authority {}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Makes `who`'s certificate and key, and overwrites earlier ones.
    fn sign(&self, who: &str, names: &[&str], term: Term) -> (PathBuf, PathBuf) {
        let names = names
            .iter()
            .copied()
            .map(Into::into)
            .collect::<Vec<String>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, who);
        if term == Term::Over {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.directory.path().join(format!("{who}{end}"));
        std::fs::write(path(".pem"), certificate.pem()).unwrap();
        std::fs::write(path(".key"), key.serialize_pem()).unwrap();
        (path(".pem"), path(".key"))
    }

    /// A server with a certificate for `names`, which requires one of its
    /// clients; and its TLS port.
    fn server(&self, names: &[&str], term: Term) -> (RedisServer, u16) {
        let (certificate, key) = self.sign("server", names, term);
        let ca = self.ca();
        let files = [
            "--tls-cert-file",
            text(&certificate),
            "--tls-key-file",
            text(&key),
            "--tls-ca-cert-file",
            text(&ca),
        ];
        RedisServer::start_on_tls(&files)
    }

    /// Makes routers trust this authority, and present a certificate from it.
    fn trusted(&self, builder: RouterBuilder) -> RouterBuilder {
        let (certificate, key) = self.sign("client", &["client"], Term::Running);
        let ca = self.ca();
        builder.configure(|config| {
            config.tls.ca = Some(ca);
            config.tls.certificate = Some(certificate);
            config.tls.key = Some(key);
        })
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn builder(host: &str, ports: &[u16]) -> RouterBuilder {
    let builder = Router::builder().init(Init::Now);
    ports
        .iter()
        .enumerate()
        .fold(builder, |builder, (at, port)| {
            builder.node(name(at), format!("rediss://{host}:{port}"))
        })
}

/// Why a router's only node cannot be used; reported in time.
async fn refused(builder: RouterBuilder) -> NodeError {
    const PATIENCE: Duration = Duration::from_millis(2_500);
    let builder = builder.configure(|config| config.router.connect_timeout = PATIENCE);
    let started = Instant::now();
    let error = match builder.connect().await {
        Err(Error::Node(at)) => match at.cause {
            Cause::Failed(error) => error,
            other => panic!("{other:?}"),
        },
        // A transient failure is retried until the timeout.
        Err(error @ Error::Unreachable { .. }) => {
            NodeError::new(NodeErrorKind::Unreachable, error.to_string())
        }
        other => panic!("{other:?}"),
    };
    let took = started.elapsed();
    assert!(took < PATIENCE + PROMPTLY, "{took:?}: {error}");
    error
}

fn assert_reported(error: &NodeError, kind: NodeErrorKind, parts: &[&str]) {
    let text = format!("{error:#}");
    let has_all = parts.iter().all(|part| text.contains(part));
    assert!(
        has_all && error.kind() == kind,
        "{:?}: {text}",
        error.kind()
    );
}

#[tokio::test]
async fn both_sides_show_their_certificates() {
    let authority = Authority::new();
    let servers: Vec<_> = (0..3)
        .map(|_| authority.server(LOOPBACK, Term::Running))
        .collect();
    let ports: Vec<u16> = servers.iter().map(|(_, port)| *port).collect();
    for (replicas, host) in [(1, "localhost"), (3, "127.0.0.1")] {
        let builder = || authority.trusted(builder(host, &ports)).replicas(replicas);
        let router = builder().connect().await.unwrap();
        let other = builder().connect().await.unwrap();
        let guard = router.acquire(KEY).await.unwrap();
        let before = other.stats().attempts;
        let waiting = other.acquire(KEY).wait(12 * PROMPTLY);
        let waiting = tokio::spawn(waiting.into_future());
        eventually(PROMPTLY, "it is told when the key is free", || {
            servers.iter().any(|(server, _)| is_tracking(server))
        })
        .await;
        guard.extend().await.unwrap();
        let fence = guard.fence();
        assert_eq!(guard.release().await.unwrap(), Released::InTime);
        let woken = tokio::time::timeout(PROMPTLY, waiting).await;
        let next = woken.expect("woken up").unwrap().unwrap();
        assert!(next.fence() > fence);
        let attempts = other.stats().attempts - before;
        assert!(attempts <= 4, "it polled: {attempts} attempts");
        drop(next);
        router.shutdown().await;
        other.shutdown().await;
        servers.iter().for_each(|(server, _)| {
            redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
        });
    }
}

fn is_tracking(server: &RedisServer) -> bool {
    let info: String = redis::cmd("INFO")
        .arg("stats")
        .query(&mut server.client())
        .unwrap();
    info.contains("tracking_total_keys:1")
}

#[tokio::test]
async fn invalid_server_certificates_are_reported() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, port) = authority.server(LOOPBACK, Term::Running);
    let error = refused(other.trusted(builder("localhost", &[port]))).await;
    let parts = ["rediss://localhost:", "UnknownIssuer", "tls.ca"];
    assert_reported(&error, NodeErrorKind::Unsuitable, &parts);

    let (_server, port) = authority.server(&["db.example"], Term::Running);
    let error = refused(authority.trusted(builder("localhost", &[port]))).await;
    let parts = ["rediss://localhost:", "db.example", "in the url"];
    assert_reported(&error, NodeErrorKind::Unsuitable, &parts);

    let (_server, port) = authority.server(LOOPBACK, Term::Over);
    let error = refused(authority.trusted(builder("localhost", &[port]))).await;
    let parts = ["rediss://localhost:", "has expired: renew it"];
    assert_reported(&error, NodeErrorKind::Unreachable, &parts);
}

#[tokio::test]
async fn invalid_client_certificates_are_reported() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, port) = authority.server(LOOPBACK, Term::Running);
    let trusting =
        |builder: RouterBuilder| builder.configure(|config| config.tls.ca = Some(authority.ca()));
    let parts = ["rediss://localhost:", "tls.certificate", "tls.key"];
    let none = refused(trusting(builder("localhost", &[port]))).await;
    assert_reported(&none, NodeErrorKind::Denied, &parts);
    let foreign = refused(trusting(other.trusted(builder("localhost", &[port])))).await;
    assert_reported(&foreign, NodeErrorKind::Denied, &parts);
    let (certificate, key) = authority.sign("late", &["client"], Term::Over);
    let expired = trusting(builder("localhost", &[port])).configure(|config| {
        config.tls.certificate = Some(certificate);
        config.tls.key = Some(key);
    });
    assert_reported(&refused(expired).await, NodeErrorKind::Denied, &parts);
}

#[tokio::test]
async fn invalid_files_are_reported() {
    let authority = Authority::new();
    let (_server, port) = authority.server(LOOPBACK, Term::Running);
    let with = |file: PathBuf| {
        let builder = authority.trusted(builder("localhost", &[port]));
        builder.configure(|config| config.tls.ca = Some(file))
    };
    let missing = authority.directory.path().join("missing.pem");
    let error = refused(with(missing)).await;
    assert_reported(&error, NodeErrorKind::Unreachable, &["missing.pem"]);
    let empty = authority.directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let error = refused(with(empty)).await;
    assert_reported(&error, NodeErrorKind::Unreachable, &["tls.ca"]);
    let half = authority.trusted(builder("localhost", &[port]));
    let error = refused(half.configure(|config| config.tls.key = None)).await;
    assert_reported(
        &error,
        NodeErrorKind::Unreachable,
        &["both certificate and key"],
    );
}

#[tokio::test]
async fn tls_and_plain_text_do_not_mix() {
    let authority = Authority::new();
    let (_server, tls) = authority.server(LOOPBACK, Term::Running);
    let plain = Router::builder().init(Init::Now);
    let error = refused(plain.node("a", format!("redis://localhost:{tls}"))).await;
    assert!(format!("{error:#}").contains("rediss://"), "{error}");

    let (_server, port) = RedisServer::start_on_tcp(&[]);
    let error = refused(authority.trusted(builder("localhost", &[port]))).await;
    assert!(format!("{error:#}").contains("write redis://"), "{error}");
}

#[tokio::test]
async fn renewed_certificates_are_picked_up() {
    let authority = Authority::new();
    let (server, port) = authority.server(LOOPBACK, Term::Running);
    let router = authority.trusted(builder("localhost", &[port]));
    let router = router.connect().await.unwrap();
    let guard = router
        .acquire(KEY)
        .ttl(Duration::from_secs(30))
        .await
        .unwrap();
    let cut = || {
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal"])
            .exec(&mut server.client())
            .unwrap();
    };
    // A certificate that the server refuses takes effect with the next
    // connection, and so does its replacement.
    authority.sign("client", &["client"], Term::Over);
    cut();
    let deadline = Instant::now() + GRACE;
    loop {
        let error = guard.extend().await.expect_err("it has a bad certificate");
        if format!("{error:#}").contains("tls.certificate") {
            break;
        }
        assert!(Instant::now() < deadline, "{error}");
    }
    authority.sign("client", &["client"], Term::Running);
    let deadline = Instant::now() + GRACE;
    while let Err(error) = guard.extend().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
}

/// A self-signed certificate that is its own authority, as `openssl req -x509`
/// makes them: valid where it is the configured one, and only for its hosts.
#[tokio::test]
async fn a_certificate_that_is_its_own_authority() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| directory.path().join(name);
    let make = |name: &str, hosts: &[&str], term: Term| {
        let hosts: Vec<String> = hosts.iter().copied().map(Into::into).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        if term == Term::Over {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    };
    let start = |name: &str| {
        let (certificate, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        start_with(&certificate, &key)
    };
    let trusting = |ca: PathBuf, port: u16| {
        let builder = builder("localhost", &[port]);
        builder.configure(|config| config.tls.ca = Some(ca))
    };
    make("good", LOOPBACK, Term::Running);
    let (_server, port) = start("good");
    let router = trusting(path("good.pem"), port).connect().await.unwrap();
    let guard = router.acquire(KEY).await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
    router.shutdown().await;

    let error = refused(trusting(authority.ca(), port)).await;
    assert_reported(
        &error,
        NodeErrorKind::Unsuitable,
        &["authority's own", "tls.ca"],
    );

    make("elsewhere", &["db.example"], Term::Running);
    let (_server, port) = start("elsewhere");
    let error = refused(trusting(path("elsewhere.pem"), port)).await;
    assert_reported(
        &error,
        NodeErrorKind::Unsuitable,
        &["db.example", "in the url"],
    );

    make("late", LOOPBACK, Term::Over);
    let (_server, port) = start("late");
    let error = refused(trusting(path("late.pem"), port)).await;
    assert_reported(&error, NodeErrorKind::Unreachable, &["has expired"]);
}

/// Made by `openssl x509 -req` without extensions, for a hundred years.
#[tokio::test]
async fn a_certificate_of_the_first_version() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/tls");
    let (certificate, key) = (
        directory.join("version-1.pem"),
        directory.join("version-1.key"),
    );
    let (_server, port) = start_with(&certificate, &key);
    let builder = builder("localhost", &[port]);
    let error = refused(builder.configure(|config| config.tls.ca = Some(certificate))).await;
    let parts = ["X.509 version 1", "subjectAltName"];
    assert_reported(&error, NodeErrorKind::Unsuitable, &parts);
}

/// A server with this certificate that requires none of its clients.
fn start_with(certificate: &Path, key: &Path) -> (RedisServer, u16) {
    let files = [
        "--tls-cert-file",
        text(certificate),
        "--tls-key-file",
        text(key),
        "--tls-auth-clients",
        "no",
    ];
    RedisServer::start_on_tls(&files)
}
