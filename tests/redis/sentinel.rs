//! Nodes that are found through sentinels: real sentinels, a primary and a
//! replica each, and the state of locks after the replica takes over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ringlock::{
    Cause, Error, Guard, Init, MemoryNode, NodeErrorKind, Released, Router, RouterBuilder,
};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::process::{ServerProcess, free_port};
use ringlock_test_support::{MARGIN, PROMPTLY, RedisServer, ms};
use tempfile::TempDir;

/// The name of the service.
const SERVICE: &str = "main";

/// Longer than a failover takes on a busy machine.
const FAILOVER: Duration = Duration::from_secs(40);

/// The pause between two polls of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const MAX_TTL: Duration = Duration::from_secs(3);

/// The passwords of the servers and of the sentinels.
const PASSWORD: &str = "s3cret";
const SENTINEL_PASSWORD: &str = "w4tcher";

/// A separate sentinel process; it is killed on drop.
struct Sentinel {
    _process: ServerProcess,
    port: u16,
    /// The sentinel rewrites its configuration there.
    _directory: TempDir,
}

impl Sentinel {
    /// Watches the primary at `port` of the loopback, and decides alone where
    /// `quorum` is 1.
    fn start(primary: u16, quorum: usize) -> Self {
        for _ in 0..10 {
            let port = free_port("127.0.0.1");
            if let Some(sentinel) = Self::try_start(port, primary, quorum) {
                return sentinel;
            }
        }
        panic!("no sentinel starts");
    }

    fn try_start(port: u16, primary: u16, quorum: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nrequirepass {SENTINEL_PASSWORD}\n\
             sentinel sentinel-pass {SENTINEL_PASSWORD}\n\
             sentinel monitor {SERVICE} 127.0.0.1 {primary} {quorum}\n\
             sentinel auth-pass {SERVICE} {PASSWORD}\n\
             sentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 3000\n",
            directory.path().display()
        );
        std::fs::write(&file, settings).unwrap();
        let mut process = ServerProcess::sentinel(Edition::System.program(), &file);
        let started = process.start(&[], PROMPTLY, || connect(port).map(drop));
        started.ok().map(|()| Self {
            _process: process,
            port,
            _directory: directory,
        })
    }

    fn client(&self) -> redis::Connection {
        connect(self.port).expect("a sentinel")
    }

    /// What it knows of the replicas of the service.
    fn replicas(&self) -> Vec<HashMap<String, String>> {
        let mut client = self.client();
        let mut question = redis::cmd("SENTINEL");
        question.arg("REPLICAS").arg(SERVICE);
        question.query(&mut client).unwrap()
    }
}

/// A connection to the sentinel at `port` of the loopback.
fn connect(port: u16) -> redis::RedisResult<redis::Connection> {
    let url = format!("redis://:{SENTINEL_PASSWORD}@127.0.0.1:{port}");
    redis::Client::open(url)?.get_connection()
}

/// A primary, its replica, and their sentinels.
struct Watched {
    primary: RedisServer,
    replica: RedisServer,
    sentinels: Vec<Sentinel>,
}

impl Watched {
    fn start(sentinels: usize) -> Self {
        let own = [
            "--requirepass",
            PASSWORD,
            "--masterauth",
            PASSWORD,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let (primary, port) = RedisServer::start_on_tcp(&own);
        let of_primary = ["--replicaof", "127.0.0.1", &port.to_string()].map(str::to_owned);
        let arguments: Vec<&str> = own
            .into_iter()
            .chain(of_primary.iter().map(String::as_str))
            .collect();
        let (replica, _) = RedisServer::start_on_tcp(&arguments);
        wait_until("the replica is in sync", PROMPTLY, || {
            fact(&replica, "master_link_status").as_deref() == Some("up")
        });
        let quorum = sentinels / 2 + 1;
        let sentinels: Vec<_> = (0..sentinels)
            .map(|_| Sentinel::start(port, quorum))
            .collect();
        for sentinel in &sentinels {
            // A sentinel that does not know the others and the replica yet
            // decides nothing.
            wait_until("a sentinel knows the replica", FAILOVER, || {
                let is_fit = |replica: &HashMap<String, String>| {
                    replica["flags"] == "slave" && replica["master-link-status"] == "ok"
                };
                sentinel.replicas().iter().any(is_fit)
            });
        }
        let others = sentinels.len() - 1;
        for sentinel in &sentinels {
            wait_until("the sentinels know each other", FAILOVER, || {
                let mut question = redis::cmd("SENTINEL");
                question.arg("SENTINELS").arg(SERVICE);
                let known: Vec<redis::Value> = question.query(&mut sentinel.client()).unwrap();
                known.len() == others
            });
        }
        Self {
            primary,
            replica,
            sentinels,
        }
    }

    fn url(&self) -> String {
        self.url_of(SERVICE)
    }

    fn url_of(&self, service: &str) -> String {
        let hosts: Vec<String> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
            .collect();
        let hosts = hosts.join(",");
        format!(
            "redis+sentinel://:{PASSWORD}@{hosts}/{service}?sentinel_password={SENTINEL_PASSWORD}"
        )
    }
}

fn admin(server: &RedisServer) -> redis::Connection {
    let url = format!("{}?pass={PASSWORD}", server.url());
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

/// A line of INFO; `None` also where the server hangs up, as it does on all
/// clients when its role changes.
fn fact(server: &RedisServer, name: &str) -> Option<String> {
    let url = format!("{}?pass={PASSWORD}", server.url());
    let mut client = redis::Client::open(url).unwrap().get_connection().ok()?;
    let info: String = redis::cmd("INFO").query(&mut client).ok()?;
    let mut facts = info.lines().filter_map(|line| line.split_once(':'));
    facts
        .find(|(fact, _)| *fact == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "in {limit:?}, not: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn builder() -> RouterBuilder {
    Router::builder()
        .init(Init::Now)
        .ttl(MAX_TTL)
        .configure(|config| {
            config.router.max_ttl = MAX_TTL;
            config.router.view_lease = ms(1_000);
        })
}

/// A key that node `a` owns.
fn key_of_a(router: &Router) -> String {
    (0..)
        .map(|number| format!("key-{number}"))
        .find(|key| *router.route(key).unwrap().owner == *"a")
        .unwrap()
}

/// Tries until it is granted.
async fn granted(router: &Router, key: &str) -> Guard {
    let deadline = Instant::now() + FAILOVER;
    loop {
        match router.try_acquire(key).await {
            Ok(guard) => return guard,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Kills the primary under a lease that the replica then does not know, and
/// asserts that no other caller gets the lock while the lease could last.
async fn fails_over(mut watched: Watched, builder: impl Fn() -> RouterBuilder) {
    let router = builder().connect().await.unwrap();
    let other = builder().connect().await.unwrap();
    let key = key_of_a(&router);
    let first = router.acquire(&key).await.unwrap();
    let before = first.fence();
    assert_eq!(first.release().await.unwrap(), Released::InTime);
    wait_until("the replica has the state", PROMPTLY, || {
        let exists = redis::cmd("EXISTS")
            .arg("ringlock!id")
            .query(&mut admin(&watched.replica));
        exists.unwrap()
    });
    let held = router.acquire(&key).await.unwrap();
    let last = held.fence();
    assert!(last > before);
    watched.primary.kill();
    let killed_at = Instant::now();
    wait_until("the replica is promoted", FAILOVER, || {
        fact(&watched.replica, "role").as_deref() == Some("master")
    });
    let promoted = killed_at.elapsed();
    // As if the entry had not been replicated.
    redis::cmd("DEL")
        .arg(format!("ringlock:{key}"))
        .exec(&mut admin(&watched.replica))
        .unwrap();
    let next = granted(&other, &key).await;
    let took = killed_at.elapsed();
    println!("promoted after {promoted:?}, let in after {took:?}");
    assert!(took >= promoted + MAX_TTL, "it may have known of a lease");
    assert!(held.loss().is_some(), "two hold it");
    assert!(next.fence() > last, "{:?} after {last:?}", next.fence());
    // The routers follow by themselves, including tracking.
    let waiting = tokio::spawn(router.acquire(&key).wait(12 * PROMPTLY).into_future());
    wait_until("somebody is told when it is free", PROMPTLY, || {
        fact(&watched.replica, "tracking_total_keys").as_deref() == Some("1")
    });
    let fence = next.fence();
    assert_eq!(next.release().await.unwrap(), Released::InTime);
    let woken = tokio::time::timeout(PROMPTLY, waiting).await;
    let woken = woken.expect("woken up").unwrap().unwrap();
    assert!(woken.fence() > fence);
    assert_eq!(woken.release().await.unwrap(), Released::InTime);
    // A router that starts now finds it too, and debug output does not show the
    // password.
    let late = builder().connect().await.unwrap();
    let guard = late.acquire(&key).await.unwrap();
    assert!(guard.fence() > fence);
    assert!(!format!("{late:?}{guard:?}").contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_that_fails_over() {
    let watched = Watched::start(3);
    let url = watched.url();
    fails_over(watched, || builder().node("a", &url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_nodes_fails_over() {
    let watched = Watched::start(1);
    let url = watched.url();
    let others = ["b", "c"].map(MemoryNode::new);
    fails_over(watched, || {
        let nodes = others.iter().cloned();
        nodes.fold(builder().node("a", &url), RouterBuilder::memory_node)
    })
    .await;
}

/// A failover on an operator's request: the old primary continues as a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_on_request() {
    let watched = Watched::start(1);
    let others = ["b", "c"].map(MemoryNode::new);
    let nodes = others.iter().cloned();
    let router = nodes
        .fold(
            builder().node("a", watched.url()),
            RouterBuilder::memory_node,
        )
        .connect()
        .await
        .unwrap();
    let key = key_of_a(&router);
    let before = router.acquire(&key).await.unwrap();
    let fence = before.fence();
    assert_eq!(before.release().await.unwrap(), Released::InTime);
    redis::cmd("SENTINEL")
        .arg(&["FAILOVER", SERVICE])
        .exec(&mut watched.sentinels[0].client())
        .unwrap();
    wait_until("the primary is a replica", FAILOVER, || {
        fact(&watched.primary, "role").as_deref() == Some("slave")
    });
    let next = granted(&router, &key).await;
    assert!(next.fence() > fence);
    assert!(next.fence().epoch() > fence.epoch(), "let in by a vote");
    assert_eq!(next.release().await.unwrap(), Released::InTime);
}

/// Why a router cannot connect; the error must arrive in time, without a
/// password.
async fn refused(url: &str) -> Error {
    const PATIENCE: Duration = Duration::from_millis(1_500);
    let builder = builder().node("a", url);
    let builder = builder.configure(|config| config.router.connect_timeout = PATIENCE);
    let connecting = tokio::time::timeout(PATIENCE + PROMPTLY + MARGIN, builder.connect());
    let error = connecting.await.expect("in time").unwrap_err();
    let text = format!("{error:#}");
    assert!(
        !text.contains(PASSWORD) && !text.contains(SENTINEL_PASSWORD),
        "{text}"
    );
    error
}

fn kind(error: &Error) -> Option<NodeErrorKind> {
    match error {
        Error::Node(at) => match &at.cause {
            Cause::Failed(error) => Some(error.kind()),
            _ => None,
        },
        _ => None,
    }
}

#[tokio::test]
async fn what_is_wrong_is_reported() {
    let mut watched = Watched::start(1);
    let reported = |error: &Error, parts: &[&str]| {
        let text = format!("{error:#}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let error = refused(&watched.url_of("nobody")).await;
    assert_eq!(kind(&error), Some(NodeErrorKind::Unsuitable));
    reported(&error, &["knows no service \"nobody\"", "correct the url"]);

    let url = watched.url();
    let (bare, _) = url.split_once('?').unwrap();
    let error = refused(bare).await;
    assert_eq!(kind(&error), Some(NodeErrorKind::Denied));
    reported(&error, &["sentinel_password"]);

    let error = refused(&url.replace(SENTINEL_PASSWORD, "wrong")).await;
    assert_eq!(kind(&error), Some(NodeErrorKind::Denied));

    let plain = format!(
        "redis://:{SENTINEL_PASSWORD}@127.0.0.1:{}",
        watched.sentinels[0].port
    );
    let error = refused(&plain).await;
    assert_eq!(kind(&error), Some(NodeErrorKind::Unsuitable));
    reported(&error, &["redis+sentinel://"]);

    let (_server, port) = RedisServer::start_on_tcp(&[]);
    let error = refused(&format!("redis+sentinel://127.0.0.1:{port}/main")).await;
    assert_eq!(kind(&error), Some(NodeErrorKind::Unsuitable));
    reported(&error, &["is not a sentinel", "redis://"]);

    // The second of two sentinels knows the service.
    let live = url.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:");
    let twice = builder().node("a", &url).node("b", &live).connect().await;
    let error = twice.unwrap_err();
    assert!(matches!(error, Error::SameServer { .. }), "{error}");
    let router = builder().node("a", &live).connect().await.unwrap();
    router.acquire("k").await.unwrap().release().await.unwrap();

    watched.sentinels.clear();
    let error = refused(&url).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    reported(
        &error,
        &["no sentinel names the primary of main", "cannot reach"],
    );
}
