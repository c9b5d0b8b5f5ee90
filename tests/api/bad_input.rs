//! Every failure is reported in time, by a typed error that names what is wrong
//! and says what to do, without a panic and without a password.
//!
//! `RINGLOCK_SEED` repeats the random test's run.

use std::fmt::Debug;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use ringlock::node::Node;
use ringlock::node::redis::{Encoding, RedisNode, RedisOptions};
use ringlock::proto::node::message::{Ballot, IfMissing, NodeError, NodeState, Reply, Request};
use ringlock::{
    Cause, Config, ConfigError, Error, Format, Init, KeyError, MemoryNode, NodeConfig,
    NodeErrorKind, OnMismatch, Released, RingError, Router, RouterBuilder, TopologyError, TtlError,
};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::fake::{Answers, FakeServer};
use ringlock_test_support::node::{
    GRACE, Inbox, VIEW, acquire, adopt, ask, extend, now, quarantine, release, serving,
};
use ringlock_test_support::{ARMS, Arm, Cluster, RedisServer, TestNode, seed};

const SECRET: &str = "s3cret";

/// The connect timeout of routers that cannot connect.
const PATIENCE: Duration = Duration::from_millis(300);

/// Awaits a future that must complete soon.
async fn prompt<T>(what: impl IntoFuture<Output = T>) -> T {
    let in_time = tokio::time::timeout(GRACE, what.into_future()).await;
    in_time.expect("an outcome in time")
}

/// An error's text; asserts that no form of the error contains the secret.
#[track_caller]
fn reported(error: &(impl Debug + std::fmt::Display)) -> String {
    let (text, debug) = (format!("{error:#}"), format!("{error:?}"));
    assert!(!text.contains(SECRET) && !debug.contains(SECRET), "{debug}");
    text
}

/// Asserts the error's variant, and that its text contains these parts.
macro_rules! assert_reported {
    ($error:expr, $variant:pat $(if $guard:expr)?, [$($part:expr),+ $(,)?]) => {{
        let error = $error;
        let text = reported(&error);
        assert!(matches!(&error, $variant $(if $guard)?), "{error:?}");
        for part in [$($part),+] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }};
}

fn builder() -> RouterBuilder {
    let impatient = |config: &mut Config| config.router.connect_timeout = PATIENCE;
    Router::builder().init(Init::Now).configure(impatient)
}

async fn refused(builder: RouterBuilder) -> Error {
    assert!(!format!("{builder:?}").contains(SECRET));
    prompt(builder.connect())
        .await
        .expect_err("it must be refused")
}

#[tokio::test]
async fn keys() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let refused = async |key: &[u8]| prompt(router.try_acquire(key)).await.unwrap_err();
        assert_reported!(
            refused(b"").await,
            Error::Key(KeyError::Empty),
            ["empty", "name the resource to lock"]
        );
        assert_reported!(
            refused(&[b'x'; 1025]).await,
            Error::Key(KeyError::TooLong { len: 1025 }),
            ["1025", "1024", "digest"]
        );
        assert_reported!(router.route("").unwrap_err(), Error::Key(_), ["empty"]);
        drop(prompt(router.try_acquire([b'x'; 1024])).await.unwrap());

        let bare = cluster
            .builder()
            .configure(|config| config.router.key_prefix = String::new());
        let router = prompt(bare.connect()).await.unwrap();
        for key in ["ringlock!", "ringlock!m", "ringlock!\u{fc}"] {
            let refused = prompt(router.try_acquire(key)).await.unwrap_err();
            assert_reported!(
                refused,
                Error::Key(KeyError::Reserved { .. }),
                [
                    "ringlock!",
                    "reserved",
                    &key.escape_default().to_string()[..9]
                ]
            );
        }
        for key in ["ringlock", "ringloc!", "xringlock!"] {
            drop(prompt(router.try_acquire(key)).await.unwrap());
        }
    }
}

#[tokio::test]
async fn ttls() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 1);
        let router = cluster.router(1).await;
        let refused = async |millis| {
            let ttl = Duration::from_millis(millis);
            prompt(router.try_acquire("k").ttl(ttl)).await.unwrap_err()
        };
        for millis in [0, 1, 12] {
            let ttl = format!("{millis}ms").replace("0ms", "0ns");
            assert_reported!(
                refused(millis).await,
                Error::Ttl(TtlError::TooShort { .. }),
                [&*ttl, "too short", "13ms"]
            );
        }
        for millis in [30_001, u64::MAX] {
            assert_reported!(
                refused(millis).await,
                Error::Ttl(TtlError::TooLong { .. }),
                ["max_ttl = 30s", "shorten it"]
            );
        }
        let guard = prompt(router.try_acquire("k")).await.unwrap();
        let (valid_until, hour) = (guard.valid_until(), Duration::from_secs(3600));
        for ttl in [Duration::ZERO, hour, Duration::MAX] {
            let refused = prompt(guard.extend_to(ttl)).await.unwrap_err();
            assert_reported!(refused, Error::Ttl(_), ["ttl"]);
        }
        assert_eq!((guard.valid_until(), guard.loss()), (valid_until, None));
        let attempted = builder().memory_node(MemoryNode::new("a")).ttl(hour);
        assert_reported!(
            prompt(attempted.connect()).await.unwrap_err(),
            Error::Config(ConfigError::Ttl(TtlError::TooLong { .. })),
            ["router.ttl", "max_ttl"]
        );
    }
}

fn memory(nodes: usize) -> RouterBuilder {
    let nodes = (0..nodes).map(|index| MemoryNode::new(ringlock_test_support::name(index)));
    nodes.fold(builder(), RouterBuilder::memory_node)
}

#[tokio::test]
async fn topologies() {
    use Error::Config as Refused;
    use TopologyError::{EvenReplicas, Ring, TooManyReplicas};
    assert_reported!(
        refused(memory(0)).await,
        Refused(ConfigError::Setting {
            setting: "node",
            ..
        }),
        ["at least one", "[[node]]"]
    );
    assert_reported!(
        refused(memory(2).node("a", "memory://other")).await,
        Refused(ConfigError::Topology(Ring(RingError::DuplicateName { .. }))),
        ["\"a\"", "a different name"]
    );
    for (replicas, advice) in [(0, "use 1"), (2, "use 1"), (4, "use 3")] {
        assert_reported!(
            refused(memory(5).replicas(replicas)).await,
            Refused(ConfigError::Topology(EvenReplicas { .. })),
            [&*format!("replicas = {replicas}"), "odd", advice]
        );
    }
    assert_reported!(
        refused(memory(3).override_replicas("billing/", 2)).await,
        Refused(ConfigError::Topology(EvenReplicas { .. })),
        ["replicas = 2"]
    );
    assert_reported!(
        refused(memory(15).replicas(11)).await,
        Refused(ConfigError::Topology(TooManyReplicas { replicas: 11 })),
        ["replicas = 11", "use 3 or 5"]
    );
    assert_reported!(
        refused(memory(3).replicas(5)).await,
        Refused(ConfigError::Topology(Ring(
            RingError::NotEnoughMembers { .. }
        ))),
        ["5 replicas", "has 3", "add members or lower replicas"]
    );
    let labelled = |host: &'static str, zone: &'static str| {
        move |index: usize| {
            let name = ringlock_test_support::name(index);
            let mut node = NodeConfig::new(&name, format!("memory://{name}"));
            node.host = Some(host.replace('#', &(index / 2).to_string()));
            node.zone = (!zone.is_empty()).then(|| zone.replace('#', &(index / 2).to_string()));
            node
        }
    };
    let with = |node: &dyn Fn(usize) -> NodeConfig, nodes: usize| {
        (0..nodes)
            .map(node)
            .fold(builder().replicas(3), RouterBuilder::node_config)
    };
    assert_reported!(
        refused(with(&labelled("h#", ""), 4)).await,
        Refused(ConfigError::Topology(Ring(
            RingError::NotEnoughHosts { .. }
        ))),
        ["3 replicas", "are on 2", "another host"]
    );
    let two_zones = |index| {
        let mut node = labelled("h#", "z#")(index);
        node.host = None;
        node
    };
    assert_reported!(
        refused(with(&two_zones, 4)).await,
        Refused(ConfigError::Topology(Ring(RingError::ZoneRule { .. }))),
        ["of 3 replicas", "one zone", "another zone"]
    );
}

#[test]
fn configuration_files() {
    let parse = |text: &str| text.parse::<Config>().unwrap_err();
    let node = "[[node]]\nname = \"a\"\n";
    assert_reported!(
        parse(&format!(
            "{node}url = \"redis://:{SECRET}@h\"\nwieght = 2\n"
        )),
        ConfigError::Syntax { line: 4, .. },
        ["line 4", "`wieght`", "`weight`"]
    );
    assert_reported!(
        parse("[router]\nreplicas = 3\n\n[rooter]\n"),
        ConfigError::Syntax { line: 4, .. },
        ["line 4", "`rooter`"]
    );
    for (value, line) in [("\"ten\"", 3), ("\"10\"", 3), ("10", 3), ("\"-1s\"", 3)] {
        let text = format!("[router]\nwait = \"1s\"\nttl = {value}\n");
        assert_reported!(
            parse(&text),
            ConfigError::Syntax { line: at, .. } if *at == line,
            ["line 3", value.trim_matches('"')]
        );
    }
    assert_reported!(
        parse("[ring]\nvnodes = 160\nformat = \"sha1\"\n"),
        ConfigError::Syntax { line: 3, .. },
        ["line 3", "\"sha1\"", "xxh3"]
    );
    assert_reported!(
        parse("[router\n"),
        ConfigError::Syntax { line: 1, .. },
        ["line 1"]
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringlock.toml");
    let place = path.display().to_string();
    assert_reported!(
        Config::load(&path).unwrap_err(),
        ConfigError::File { .. },
        [&*place]
    );
    std::fs::write(&path, "[router]\nttl = \"soon\"\n").unwrap();
    assert_reported!(
        Config::load(&path).unwrap_err(),
        ConfigError::Syntax { path: Some(at), line: 2, .. } if *at == path,
        [&*place, "line 2", "\"soon\"", "\"10s\""]
    );
}

#[tokio::test]
async fn settings_and_urls() {
    let connect = async |url: &str| refused(builder().node("main", url)).await;
    assert_reported!(
        connect(&format!("redis://:{SECRET}@${{RINGLOCK_NOT_SET}}")).await,
        Error::Config(ConfigError::Url { .. }),
        ["node main", "RINGLOCK_NOT_SET", "not set"]
    );
    let unknown = format!("http://:{SECRET}@h");
    let portless = format!("redis://:{SECRET}@h:port");
    for url in ["localhost:6379", &unknown, &portless, ""] {
        assert_reported!(
            connect(url).await,
            Error::Config(ConfigError::Url { .. }),
            ["node main", "redis://"]
        );
    }
    assert_reported!(
        connect(&format!("redis://:{SECRET}@${{BRACE")).await,
        Error::Config(ConfigError::Url { .. }),
        ["node main", "${NAME}"]
    );
    let namespace = |config: &mut Config| config.router.namespace = "a b".into();
    assert_reported!(
        refused(memory(1).configure(namespace)).await,
        Error::Config(ConfigError::Setting {
            setting: "router.namespace",
            ..
        }),
        ["\"a b\"", "must be a word"]
    );
}

#[tokio::test]
async fn one_server_under_two_names() {
    let (server, port) = RedisServer::start_on_tcp(&[]);
    let tcp = format!("redis://127.0.0.1:{port}");
    let unix = server.url();
    let pairs = [
        (tcp.clone(), unix.clone()),
        (tcp.clone(), format!("redis://localhost:{port}")),
        (tcp.clone(), format!("{tcp}/1")),
        (unix.clone(), format!("{unix}?db=1")),
    ];
    for (first, second) in pairs {
        assert_reported!(
            refused(builder().node("left", &first).node("right", &second)).await,
            Error::SameServer { first, second } if &**first == "left" && &**second == "right",
            ["left and right", "one server", "its own server"]
        );
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_reached() {
    let server = RedisServer::start();
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = FakeServer::answering(Answers::Nothing).await;
    let stopped = MemoryNode::new("b");
    stopped.stop();
    let unreachable = [
        (
            builder().node("b", "unix:///nowhere/redis.sock"),
            "unix:///nowhere/redis.sock",
        ),
        (
            builder().node("b", format!("redis://u:{SECRET}@{gone}/4")),
            "cannot reach",
        ),
        (builder().node("b", silent.url()), "no answer"),
        (builder().memory_node(stopped), "stopped"),
    ];
    for (builder, why) in unreachable {
        assert_reported!(
            refused(builder.node("a", server.url())).await,
            Error::Unreachable { answered: 1, .. },
            ["b: ", "a first start needs all of them", why]
        );
    }
}

/// A running cluster does not need the minority.
#[tokio::test]
async fn a_running_cluster_with_a_node_that_cannot_be_reached() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        drop(cluster.router(3).await);
        cluster.nodes[1].stop();
        let router = prompt(cluster.builder().replicas(3).connect())
            .await
            .unwrap();
        let guard = prompt(router.acquire("k")).await.unwrap();
        assert_eq!(prompt(guard.release()).await.unwrap(), Released::InTime);
        cluster.nodes[2].stop();
        let short = router.try_acquire("k").ttl(Duration::from_secs(1));
        let error = prompt(short).await.unwrap_err();
        assert!(!error.is_contention(), "{error}");
        assert_reported!(
            error,
            Error::NoQuorum { .. },
            ["k: no quorum of 2", "b: ", "c: "]
        );
    }
}

#[tokio::test]
async fn credentials() {
    let password = ["--requirepass", "other"];
    let (locked, locked_port) = RedisServer::start_on_tcp(&password);
    let (_open, open_port) = RedisServer::start_on_tcp(&[]);
    let at = |user: &str, port| format!("redis://{user}@127.0.0.1:{port}");
    let secret = format!(":{SECRET}");
    let wrong = [
        at(&secret, locked_port),
        at(&format!("nobody{secret}"), locked_port),
        format!("redis://127.0.0.1:{locked_port}"),
        locked.url(),
        at(&secret, open_port),
        format!("redis://127.0.0.1:{open_port}/9999"),
    ];
    for url in wrong {
        assert_reported!(
            refused(builder().node("main", &url)).await,
            Error::Node(at) if is_failed(&at.cause, NodeErrorKind::Denied),
            ["node main", "url"]
        );
    }
}

fn is_failed(cause: &Cause, kind: NodeErrorKind) -> bool {
    matches!(cause, Cause::Failed(error) if error.kind() == kind)
}

/// A server may quote an unknown command in its error, including the password.
#[tokio::test]
async fn a_server_that_quotes_the_password() {
    let (_server, port) = RedisServer::start_on_tcp(&["--rename-command", "AUTH", ""]);
    for user in ["", "someone"] {
        let url = format!("redis://{user}:{SECRET}@127.0.0.1:{port}");
        assert_reported!(
            refused(builder().node("main", &url)).await,
            Error::Node(at) if is_failed(&at.cause, NodeErrorKind::Denied),
            ["node main", "url"]
        );
    }
    let echo = format!("-ERR no AUTH for {SECRET}\r\n").into_bytes();
    let fake = FakeServer::answering(Answers::Bytes(echo)).await;
    let url = fake
        .url()
        .replace("redis://", &format!("redis://:{SECRET}@"));
    let node = RedisNode::new(&url, RedisOptions::default()).unwrap();
    assert!(!format!("{node:?} {}", node.address()).contains(SECRET));
    reported(&ask(&node, Request::Status, PATIENCE).await.unwrap_err());
}

/// The error of the first request that the user may not make: an acquire by script,
/// as a connection begins, one by commands, or a script that the server has lost.
async fn denied_within(router: &Router, server: &RedisServer) -> Error {
    if let Err(error) = prompt(router.try_acquire("k")).await {
        return error;
    }
    let guard = match prompt(router.try_acquire("another")).await {
        Ok(guard) => guard,
        Err(error) => return error,
    };
    redis::cmd("SCRIPT")
        .arg("FLUSH")
        .exec(&mut server.client())
        .unwrap();
    prompt(guard.extend()).await.unwrap_err()
}

/// Each user lacks something: a command at connect, a command within a script,
/// or a key.
#[tokio::test]
async fn rights() {
    let users = [
        ["~*", "+@all", "-info"],
        ["~*", "+@all", "-script"],
        ["~*", "+@all", "-evalsha"],
        ["~*", "+@all", "-hincrby"],
        ["~ringlock:*", "+@all", "-keys"],
        ["~ringlock!*", "+@all", "-keys"],
        ["~*", "+@all", "-set"],
        ["~*", "+@all", "-multi"],
    ];
    for rights in users {
        let mut arguments = vec!["--user", "locker", "on", ">s3cret"];
        arguments.extend(rights);
        let (server, port) = RedisServer::start_on_tcp(&arguments);
        // The view must exist: a first start would fail for other reasons.
        drop(
            builder()
                .node("main", server.url())
                .connect()
                .await
                .unwrap(),
        );
        let url = format!("redis://locker:{SECRET}@127.0.0.1:{port}");
        let error = match prompt(builder().node("main", url).connect()).await {
            Ok(router) => denied_within(&router, &server).await,
            Err(error) => error,
        };
        let is_denied = match &error {
            Error::Node(at) => is_failed(&at.cause, NodeErrorKind::Denied),
            Error::NoQuorum { causes, .. } => is_failed(&causes[0].cause, NodeErrorKind::Denied),
            _ => false,
        };
        assert!(is_denied && !error.is_contention(), "{rights:?}: {error:?}");
        let text = reported(&error);
        assert!(
            text.contains("main") && text.contains("the server's ACL denies"),
            "{rights:?}: {text}"
        );
    }
}

/// Scripts run with the rights of their caller.
#[tokio::test]
async fn rights_within_scripts() {
    let rights = [
        "--user", "locker", "on", ">s3cret", "~*", "+@all", "-set", "-mget", "-pttl",
    ];
    let (server, port) = RedisServer::start_on_tcp(&rights);
    let all_rights = serving(&server.url(), RedisOptions::default()).await;
    let taken = ask(&all_rights, acquire("k", 1), GRACE).await;
    assert_eq!(taken, Ok(Reply::Granted { counter: 1 }));
    let url = format!("redis://locker:{SECRET}@127.0.0.1:{port}");
    for encoding in [Encoding::Script, Encoding::Pipeline] {
        let node = RedisNode::new(&url, RedisOptions::default().encoding(encoding)).unwrap();
        for request in [
            acquire("free", 1),
            extend("k", 1, IfMissing::Recreate),
            release("k", 1),
        ] {
            assert_reported!(
                ask(&node, request, GRACE).await.unwrap_err(),
                error if error.kind() == NodeErrorKind::Denied,
                ["the server's ACL denies"]
            );
        }
    }
}

#[tokio::test]
async fn something_else_at_the_lock_key() {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Redis, 3);
        let router = cluster.router(replicas).await;
        let on_all = |command: &[&str]| {
            for node in &cluster.nodes {
                let TestNode::Redis(server) = node else {
                    unreachable!("the arm is Redis");
                };
                redis::cmd(command[0])
                    .arg(&command[1..])
                    .exec(&mut server.client())
                    .unwrap();
            }
        };
        on_all(&["RPUSH", "ringlock:k", "not a lock"]);
        let error = prompt(router.try_acquire("k")).await.unwrap_err();
        assert!(!error.is_contention(), "{error}");
        assert_reported!(
            error,
            Error::NoQuorum { causes, .. }
                if causes.iter().all(|at| is_failed(&at.cause, NodeErrorKind::WrongType)),
            ["k: no quorum of", ": the key holds something that is not a lock", "key_prefix", "delete it"]
        );
        on_all(&["DEL", "ringlock:k"]);
        let guard = prompt(router.try_acquire("k")).await.unwrap();
        on_all(&["DEL", "ringlock:k"]);
        on_all(&["RPUSH", "ringlock:k", "not a lock"]);
        assert_reported!(
            prompt(guard.extend()).await.unwrap_err(),
            Error::NoQuorum { causes, .. }
                if causes.iter().all(|at| is_failed(&at.cause, NodeErrorKind::WrongType)),
            ["not a lock", "key_prefix", "delete it"]
        );
        assert_eq!(prompt(guard.release()).await.unwrap(), Released::TooLate);
        on_all(&["RPUSHX", "ringlock:k", "still there"]);
    }
}

fn unsuitable(error: &Error) -> bool {
    matches!(error, Error::Node(at) if is_failed(&at.cause, NodeErrorKind::Unsuitable))
}

#[tokio::test]
async fn servers_that_must_not_hold_locks() {
    let (_primary, port) = RedisServer::start_on_tcp(&[]);
    let port = port.to_string();
    let evicting = |policy| {
        let arguments = ["--maxmemory-policy", policy];
        RedisServer::start_on_tcp(&arguments).0
    };
    let cases = [
        (
            RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]),
            ["is a replica", "name the primary"],
        ),
        (
            evicting("allkeys-lru"),
            ["allkeys-lru", "set it to noeviction"],
        ),
        (
            evicting("volatile-ttl"),
            ["volatile-ttl", "set it to noeviction"],
        ),
        (
            RedisServer::start_on_tcp(&["--cluster-enabled", "yes"]).0,
            ["cluster mode", "use standalone servers"],
        ),
    ];
    for (server, parts) in cases {
        assert_reported!(
            refused(builder().node("main", server.url())).await,
            error if unsuitable(error),
            ["node main", parts[0], parts[1]]
        );
    }
}

/// The replies that the node waits for first: to HELLO, CLIENT TRACKING and
/// five sections of INFO.
const ASKED: usize = 7;

#[tokio::test]
async fn a_server_that_is_too_old() {
    let info = "redis_version:6.0.16\r\nredis_mode:standalone\r\nrole:master\r\n\
                run_id:0123\r\nmaster_replid:4567\r\nmaxmemory_policy:noeviction\r\n";
    let reply = format!("${}\r\n{info}\r\n", info.len()).repeat(ASKED);
    let fake = FakeServer::answering(Answers::Bytes(reply.into_bytes())).await;
    assert_reported!(
        refused(builder().node("main", fake.url())).await,
        error if unsuitable(error),
        ["node main", "6.0", "6.2 or newer"]
    );
}

/// The server was a primary when the node connected.
#[tokio::test]
async fn a_primary_that_is_demoted() {
    let server = RedisServer::start();
    let node = serving(&server.url(), RedisOptions::default()).await;
    let mut client = server.client();
    let taken = ask(&node, acquire("k", 1), GRACE).await;
    assert_eq!(taken, Ok(Reply::Granted { counter: 1 }));
    let mut replicaof = |arguments: [&str; 2]| {
        redis::cmd("REPLICAOF")
            .arg(&arguments)
            .exec(&mut client)
            .unwrap();
    };
    replicaof(["127.0.0.1", "1"]);
    assert_reported!(
        ask(&node, acquire("k2", 1), GRACE).await.unwrap_err(),
        error if error.kind() == NodeErrorKind::Unsuitable,
        ["is a replica", "name the primary"]
    );
    replicaof(["NO", "ONE"]);
    // Its replication history is a different one now: its entries may be gone.
    let status = loop {
        match ask(&node, Request::Status, GRACE).await {
            Ok(Reply::Status(status)) => break status,
            Err(error) => assert_eq!(error.kind(), NodeErrorKind::Unsuitable, "{error}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status.standing(), NodeState::Absent);
    assert_eq!(
        ask(&node, acquire("k2", 1), GRACE).await,
        Ok(Reply::Stale(None))
    );
}

const BALLOT: Ballot = Ballot {
    round: 1,
    proposer: 1,
};

fn prepare() -> Request {
    Request::Prepare {
        view: VIEW,
        ballot: BALLOT,
    }
}

fn accept() -> Request {
    Request::Accept {
        view: VIEW,
        ballot: BALLOT,
        next: VIEW,
        document: "a document".into(),
    }
}

/// No task of the node itself has died: that would be reported as a shutdown.
#[track_caller]
fn assert_alive(error: &NodeError) {
    assert_ne!(error.kind(), NodeErrorKind::Closed, "{error}");
}

/// The server does not speak Redis at all, from the first byte on.
#[tokio::test]
async fn servers_that_are_not_redis() {
    use NodeErrorKind::{Protocol, Timeout, Unreachable};
    let bytes = |bytes: &[u8]| Answers::Bytes(bytes.to_vec());
    let last = |bytes: &[u8]| Answers::Last(bytes.to_vec());
    let cases = [
        (bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Protocol),
        (bytes(b"\xff\x00\xfe\r\n"), Protocol),
        (bytes(&b":1\r\n".repeat(ASKED)), Protocol),
        (bytes(&b"$-1\r\n".repeat(ASKED)), Protocol),
        (bytes(&b"$2\r\nhi\r\n".repeat(ASKED)), Protocol),
        (bytes(&b"*1\r\n".repeat(10_000)), Protocol),
        (bytes(&b"$-99\r\n".repeat(4)), Protocol),
        (bytes(b":99999999999999999999999\r\n"), Protocol),
        (bytes(b"$9223372036854775807\r\nx"), Protocol),
        (bytes(b"*1000000000\r\n"), Protocol),
        (bytes(b"$1000000000\r\nx"), Protocol),
        (bytes(b"$100\r\nredis_ver"), Timeout),
        (bytes(b""), Timeout),
        (last(b"$100\r\nredis_ver"), Unreachable),
        (last(b"*3\r\n:1\r\n"), Unreachable),
        (last(b""), Unreachable),
    ];
    for (answers, kind) in cases {
        let fake = FakeServer::answering(answers.clone()).await;
        let node = RedisNode::new(&fake.url(), RedisOptions::default()).unwrap();
        let error = ask(&node, Request::Status, PATIENCE).await.unwrap_err();
        assert_alive(&error);
        assert_eq!(error.kind(), kind, "{error}");
        assert_reported!(
            refused(builder().node("main", fake.url())).await,
            Error::Unreachable { answered: 0, .. },
            ["no node", "main: "]
        );
    }
}

/// The server answers well at connect, and then with replies that do not fit
/// the request.
#[tokio::test]
async fn replies_that_do_not_fit() {
    let server = RedisServer::start();
    let fake = FakeServer::before(&server).await;
    let misfits: [&[u8]; 16] = [
        b"+OK\r\n",
        b"+PONG\r\n",
        b":-7\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"$0\r\n\r\n",
        b"$5\r\nstale\r\n",
        b"*1\r\n*0\r\n",
        b"*1\r\n$4\r\nkept\r\n",
        b"*3\r\n:1\r\n:2\r\n:3\r\n",
        b"*4\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n$8\r\naccepted\r\n",
        b"*4\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n",
        b"-ERR nonsense\r\n",
        b"-WEIRD\r\n",
        b"\x01\x02\r\n",
    ];
    for encoding in [Encoding::Script, Encoding::Pipeline] {
        for misfit in misfits {
            for request in [
                acquire("k", 1),
                extend("k", 1, IfMissing::Recreate),
                Request::Status,
                quarantine(),
                adopt(),
                prepare(),
                accept(),
            ] {
                fake.answer(Answers::Truth);
                let options = RedisOptions::default().encoding(encoding);
                let node = RedisNode::new(&fake.url(), options).unwrap();
                let status = ask(&node, Request::Status, GRACE).await;
                assert!(matches!(status, Ok(Reply::Status(_))), "{status:?}");
                // Six of them cover the several replies of a transaction.
                fake.answer(Answers::Last(misfit.repeat(6)));
                match ask(&node, request.clone(), GRACE).await {
                    Err(error) => assert_alive(&error),
                    // This one fits: an empty text is no view.
                    Ok(Reply::Stale(None)) if misfit == b"$0\r\n\r\n" => {}
                    other => panic!("{request:?}, {}: {other:?}", misfit.escape_ascii()),
                }
            }
        }
    }
}

/// Well-formed random nonsense: every request gets one answer, in time.
#[tokio::test]
async fn random_replies() {
    let mut rng = StdRng::seed_from_u64(seed());
    for edition in Edition::ALL {
        let server = RedisServer::start_edition(edition, &["--save", ""]);
        answers_nonsense(&server, &mut rng).await;
    }
}

async fn answers_nonsense(server: &RedisServer, rng: &mut StdRng) {
    const REQUESTS: usize = 40;
    let brief = Duration::from_millis(100);
    let fake = FakeServer::before(server).await;
    let mut answered = [0, 0];
    for _ in 0..60 {
        fake.answer(Answers::Truth);
        let node = RedisNode::new(&fake.url(), RedisOptions::default()).unwrap();
        ask(&node, Request::Status, GRACE).await.unwrap();
        let mut nonsense = Vec::new();
        (0..rng.random_range(1..60)).for_each(|_| value(rng, 0, &mut nonsense));
        nonsense.truncate(rng.random_range(1..=nonsense.len()));
        let answers = if rng.random() {
            Answers::Last
        } else {
            Answers::Bytes
        };
        fake.answer(answers(nonsense));
        let inbox = Inbox::new(REQUESTS);
        for index in 0..REQUESTS {
            let key = rng.random_range(0..9).to_string();
            let requests = [
                acquire(&key, 1),
                extend(&key, 1, IfMissing::Recreate),
                release(&key, 1),
                Request::Status,
                adopt(),
                prepare(),
                accept(),
            ];
            let request = requests.choose(rng).unwrap().clone();
            node.submit(request, now() + brief, inbox.slot(index));
        }
        for answer in inbox.all(brief).await {
            answered[usize::from(answer.is_err())] += 1;
            if let Err(error) = answer {
                assert_alive(&error);
            }
        }
    }
    println!("{answered:?} answers and errors");
    assert!(answered[1] > REQUESTS);
}

fn value(rng: &mut StdRng, depth: usize, out: &mut Vec<u8>) {
    let ballot = BALLOT.to_string();
    let words: [&[u8]; 8] = [
        b"kept",
        b"made",
        b"lost",
        b"WRONGTYPE",
        b"1:00000000000000000000000000000007",
        b"accepted",
        ballot.as_bytes(),
        b"",
    ];
    match rng.random_range(0..if depth < 3 { 9 } else { 6 }) {
        0 => out.extend(b"+OK\r\n"),
        1 => out.extend(b"+QUEUED\r\n"),
        2 => out.extend(format!(":{}\r\n", rng.random_range(-3..9)).bytes()),
        3 => out.extend(b"$-1\r\n"),
        4 => {
            let word = words.choose(rng).unwrap();
            out.extend(format!("${}\r\n", word.len()).bytes());
            out.extend_from_slice(word);
            out.extend(b"\r\n");
        }
        5 => {
            let codes = [
                "ERR",
                "NOSCRIPT",
                "EXECABORT",
                "WRONGTYPE",
                "OOM",
                "NOPERM",
                "BUSY",
                "",
            ];
            out.extend(format!("-{} why\r\n", codes.choose(rng).unwrap()).bytes());
        }
        _ => {
            let len = rng.random_range(0..6);
            out.extend(format!("*{len}\r\n").bytes());
            (0..len).for_each(|_| value(rng, depth + 1, out));
        }
    }
}

#[tokio::test]
async fn routers_that_are_configured_differently() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        drop(cluster.router(1).await);
        let spare = MemoryNode::new("d");
        let longer = Duration::from_secs(60);
        let refuse = |config: &mut Config| config.router.on_mismatch = OnMismatch::Refuse;
        let other = || cluster.builder().configure(refuse);
        let cases = [
            (
                other().replicas(3),
                "router.replicas is 1 as served and 3 as configured",
            ),
            (
                other().memory_node(spare),
                "node d is configured and not served",
            ),
            (
                other().configure(|config| config.router.max_ttl = longer),
                "router.max_ttl is 30s as served and 60s as configured",
            ),
            (
                other().configure(|config| config.router.view_lease = longer),
                "router.view_lease is 10s as served and 60s as configured",
            ),
            (
                other().configure(|config| config.ring.format = Format::Md5),
                "ring.format is xxh3 as served and md5 as configured",
            ),
            (
                other().configure(|config| config.ring.vnodes = 10),
                "ring.vnodes is 160 as served and 10 as configured",
            ),
            (
                other().configure(|config| config.nodes[2].weight = 2),
                "the weight of node c is 1 as served and 2 as configured",
            ),
            (
                other().override_replicas("billing/", 3).replicas(3),
                "router.replicas is 1 as served and 3 as configured; the override of prefix \"billing/\" is none",
            ),
        ];
        for (builder, difference) in cases {
            assert_reported!(
                refused(builder).await,
                Error::TopologyMismatch { .. },
                [difference, "all routers alike"]
            );
        }
        prompt(cluster.router(1)).await;
    }
}
