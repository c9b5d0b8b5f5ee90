//! Connections: locking works over every way to reach a server, and no way of
//! losing a connection loses a lease, hangs a caller or grants a lock that may
//! be gone.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringlock::node::Node;
use ringlock::node::redis::{RedisNode, RedisOptions};
use ringlock::proto::lease::{Key, Token};
use ringlock::proto::node::message::{NodeState, Reply, Request};
use ringlock::{
    Cause, Error, Guard, Init, NodeConfig, NodeErrorKind, Released, Router, RouterBuilder,
};
use ringlock_test_support::fake::{Answers, FakeServer};
use ringlock_test_support::node::{GRACE, Inbox, acquire, ask, now, serving};
use ringlock_test_support::{
    ARMS, Arm, Cluster, RedisServer, TestNode, eventually, least_user, ms,
};

const LONG: Duration = Duration::from_secs(60);

/// The minimum that a router does: lock, refuse another, extend, release.
async fn locks(url: &str) {
    let builder = || Router::builder().init(Init::Now).node("a", url);
    let router = builder().connect().await.expect(url);
    let other = builder().connect().await.expect(url);
    let guard = router.try_acquire("k").await.expect(url);
    let refused = other.try_acquire("k").await.expect_err(url);
    assert!(refused.is_contention(), "{url}: {refused}");
    guard.extend().await.expect(url);
    assert_eq!(guard.release().await.expect(url), Released::InTime, "{url}");
    let next = other.try_acquire("k").await.expect(url);
    assert_eq!(next.release().await.expect(url), Released::InTime, "{url}");
}

#[tokio::test]
async fn tcp_and_unix_sockets() {
    let (server, port) = RedisServer::start_on_tcp(&[]);
    locks(&format!("redis://127.0.0.1:{port}")).await;
    locks(&format!("redis://127.0.0.1:{port}/3")).await;
    locks(&server.url()).await;
    locks(&format!("{}?db=5", server.url())).await;
    let info: String = redis::cmd("INFO")
        .arg("keyspace")
        .query(&mut server.client())
        .expect("INFO");
    for database in ["db0:", "db3:", "db5:"] {
        assert!(info.contains(database), "{database} is unused: {info}");
    }
}

/// A socket's path is the same in a url, in a view, and as other routers read
/// it there.
#[tokio::test]
async fn sockets_with_odd_names() {
    let names = [
        (&b"a%41 b?c#d.sock"[..], "a%2541 b%3Fc%23d.sock"),
        (b"${HOME}+&=.sock", "$%7BHOME}+&=.sock"),
        (b"\xff\xfe \xc3\xbc.sock", "%FF%FE \u{fc}.sock"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let urls: Vec<String> = names
        .iter()
        .map(|(_, name)| format!("unix://{}/{name}", directory.path().display()))
        .collect();
    let servers: Vec<_> = names
        .iter()
        .map(|(name, _)| {
            let server = RedisServer::start();
            let link = directory.path().join(std::ffi::OsStr::from_bytes(name));
            std::os::unix::fs::symlink(server.socket(), link).unwrap();
            server
        })
        .collect();
    let nodes = || ["a", "b", "c"].into_iter().zip(&urls);
    let builder = || Router::builder().init(Init::Now).replicas(3);
    let all = nodes().fold(builder(), |builder, (name, url)| builder.node(name, url));
    let router = all.connect().await.unwrap();
    let guard = router.acquire("k").await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
    let view: String = redis::cmd("HGET")
        .arg(&["ringlock!m", "doc"])
        .query(&mut servers[0].client())
        .unwrap();
    for url in &urls {
        assert!(view.contains(url.as_str()), "{url}: {view}");
    }
    router.shutdown().await;
    // Each of them finds the two others by the view alone.
    for (name, url) in nodes() {
        let router = builder().replicas(1).node(name, url).connect();
        let router = router.await.expect(url);
        let guard = router.acquire("k").await.expect(url);
        assert_eq!(guard.release().await.unwrap(), Released::InTime, "{url}");
        router.shutdown().await;
    }
}

#[tokio::test]
async fn the_newer_protocol_of_addresses() {
    let (_server, port) = RedisServer::start_on_ipv6(&[]);
    locks(&format!("redis://[::1]:{port}")).await;
    locks(&format!("redis://[::1]:{port}/2")).await;
    // Errors and views contain the address in its URL form.
    let node = RedisNode::new(
        &format!("redis://:pw@[::1]:{port}/2"),
        RedisOptions::default(),
    );
    assert_eq!(node.unwrap().address(), format!("redis://[::1]:{port}/2"));
    // The server does not listen on the IPv4 address.
    let elsewhere = RedisNode::new(
        &format!("redis://127.0.0.1:{port}"),
        RedisOptions::default(),
    );
    let error = ask(&elsewhere.unwrap(), Request::Status, LONG)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), NodeErrorKind::Unreachable, "{error}");
    let closed = RedisNode::new("redis://[::1]:1", RedisOptions::default()).unwrap();
    let error = ask(&closed, Request::Status, LONG).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("redis://[::1]:1: "),
        "{error}"
    );
}

#[tokio::test]
async fn passwords() {
    let (server, port) = RedisServer::start_on_tcp(&["--requirepass", "s3cret"]);
    locks(&format!("redis://:s3cret@127.0.0.1:{port}")).await;
    locks(&format!("redis://default:s3cret@127.0.0.1:{port}/2")).await;
    locks(&format!("{}?pass=s3cret", server.url())).await;
}

/// A server with the guide's user, and its node URL.
fn with_least_user() -> (RedisServer, String) {
    let user = least_user("s3cret");
    let user: Vec<&str> = user.iter().map(String::as_str).collect();
    let (server, port) = RedisServer::start_on_tcp(&user);
    (server, format!("redis://ringlock:s3cret@127.0.0.1:{port}"))
}

/// The guide's user can do everything that a router does.
#[tokio::test]
async fn a_user_with_the_least_rights() {
    let (server, url) = with_least_user();
    locks(&url).await;
    locks(&format!("{url}/3")).await;
    assert_eq!(server.denied(), [""; 0]);
}

/// Every right of the guide's user is necessary.
#[tokio::test]
async fn no_user_has_fewer_rights() {
    let (server, url) = with_least_user();
    let url = format!("{url}/3");
    let connect = || {
        let builder = Router::builder().init(Init::Now).node("a", &url);
        let builder = builder.configure(|config| {
            config.router.connect_timeout = Duration::from_millis(300);
        });
        builder.connect()
    };
    // Locks with a rival, as far as the rights permit.
    let lock = || async {
        let (holder, rival) = (connect().await?, connect().await?);
        let guard = holder.try_acquire("k").await?;
        let waiting = rival.acquire("k").wait(Duration::from_millis(300));
        drop(waiting.await);
        // By commands: the first acquire on a connection may be a script.
        drop(rival.try_acquire("k").await);
        // The extend sends its script again, with its text.
        redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec(&mut server.client())
            .unwrap();
        guard.extend().await?;
        guard.release().await
    };
    let flush = || redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
    let rights = least_user("");
    for right in rights.iter().filter_map(|word| word.strip_prefix('+')) {
        flush();
        server.set_user("ringlock", &[&format!("-{right}")]);
        let outcome = lock().await;
        let denied = server.denied();
        let command = right.split('|').next().unwrap();
        assert!(
            denied
                .iter()
                .any(|object| object == right || object == command),
            "nobody needs {right}: {outcome:?}, {denied:?}"
        );
        server.set_user("ringlock", &[&format!("+{right}")]);
    }
    flush();
    assert_eq!(lock().await.unwrap(), Released::InTime);
}

/// A lease that outlasts a disturbance.
async fn lasting(router: &Router, key: &str) -> Guard {
    let longest = Duration::from_secs(30);
    router.try_acquire(key).ttl(longest).await.expect("a lease")
}

/// Extends until it succeeds: requests in flight may fail, the lease may not.
async fn extends_again(guard: &Guard) {
    let deadline = Instant::now() + GRACE;
    loop {
        match guard.extend().await {
            Ok(()) => return,
            Err(error @ Error::NoQuorum { .. }) => {
                assert!(Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Takes and releases few keys continuously, and asserts that no two callers
/// hold one at once and that fences grow.
struct Traffic {
    is_over: Arc<AtomicBool>,
    granted: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Traffic {
    fn start(routers: &[Router]) -> Self {
        let mut traffic = Self {
            is_over: Arc::default(),
            granted: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        let keys: HashMap<String, Arc<(AtomicBool, AtomicU64)>> = (0..8)
            .map(|key| (format!("busy/{key}"), Arc::default()))
            .collect();
        for router in routers {
            for (key, state) in &keys {
                let (router, key, state) = (router.clone(), key.clone(), Arc::clone(state));
                let (is_over, granted) =
                    (Arc::clone(&traffic.is_over), Arc::clone(&traffic.granted));
                traffic.tasks.spawn(async move {
                    while !is_over.load(Ordering::Relaxed) {
                        let guard = match router.acquire(&key).await {
                            Ok(guard) => guard,
                            Err(error) if error.is_transient() => continue,
                            Err(error) => panic!("{error}"),
                        };
                        let (is_held, last) = &*state;
                        assert!(!is_held.swap(true, Ordering::SeqCst), "{key} is held twice");
                        let fence = guard.fence().get();
                        let before = last.swap(fence, Ordering::SeqCst);
                        assert!(before < fence, "{key}: fence {fence} after {before}");
                        tokio::task::yield_now().await;
                        assert!(guard.loss().is_none(), "{key} is lost");
                        is_held.store(false, Ordering::SeqCst);
                        granted.fetch_add(1, Ordering::Relaxed);
                        drop(guard);
                    }
                });
            }
        }
        traffic
    }

    /// Waits for this many further grants.
    async fn goes_on(&self, grants: usize) {
        let target = self.granted.load(Ordering::Relaxed) + grants;
        eventually(LONG, "grants go on", || {
            self.granted.load(Ordering::Relaxed) >= target
        })
        .await;
    }

    async fn stop(mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("traffic");
        }
        self.granted.load(Ordering::Relaxed)
    }
}

/// Runs `command` on every server in the middle of traffic, again and again; no
/// valid lease may be lost.
async fn disturb(command: &[&str]) {
    for replicas in [1, 3] {
        let cluster = Cluster::start(Arm::Redis, 3);
        let router = cluster.router(replicas).await;
        let other = cluster.router(replicas).await;
        let keys: Vec<String> = (0..6).map(|key| format!("held/{key}")).collect();
        let mut guards = Vec::new();
        for key in &keys {
            guards.push(lasting(&router, key).await);
        }
        let traffic = Traffic::start(&[router.clone(), other.clone()]);
        let mut disturbed = 0;
        for _ in 0..20 {
            traffic.goes_on(50).await;
            for node in &cluster.nodes {
                let TestNode::Redis(server) = node else {
                    unreachable!("the arm is Redis");
                };
                let reply: redis::Value = redis::cmd(command[0])
                    .arg(&command[1..])
                    .query(&mut server.client())
                    .expect("a reply");
                disturbed += usize::from(reply != redis::Value::Int(0));
            }
            for guard in &guards {
                extends_again(guard).await;
            }
        }
        for key in &keys {
            let refused = other.try_acquire(key).await.expect_err("it is held");
            assert!(refused.is_contention(), "{refused}");
        }
        let granted = traffic.stop().await;
        println!("n={replicas}: {granted} grants, {disturbed} disturbances");
        assert!(disturbed >= 30, "only {disturbed} had an effect");
        for guard in guards {
            assert_eq!(guard.release().await.expect("an answer"), Released::InTime);
        }
    }
}

#[tokio::test]
async fn killed_connections_lose_no_lease() {
    disturb(&["CLIENT", "KILL", "TYPE", "normal"]).await;
}

#[tokio::test]
async fn flushed_scripts_lose_no_lease() {
    disturb(&["SCRIPT", "FLUSH"]).await;
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// The node's status, once it is connected again.
async fn status(node: &RedisNode) -> ringlock::proto::node::message::NodeStatus {
    let deadline = Instant::now() + GRACE;
    loop {
        match ask(node, Request::Status, LONG).await {
            Ok(Reply::Status(status)) => return *status,
            answer => assert!(Instant::now() < deadline, "{answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_once_through_disconnects() {
    const ROUNDS: usize = 20;
    const REQUESTS: usize = 1_000;
    let server = RedisServer::start();
    let node = serving(&server.url(), RedisOptions::default()).await;
    let mut client = server.client();
    let (mut answered, mut broken) = (0, 0);
    for round in 0..ROUNDS {
        // The connection of the last round is gone: there must be a new one.
        status(&node).await;
        let inbox = Inbox::new(REQUESTS);
        for index in 0..REQUESTS {
            let request = acquire(&format!("{round}/{index}"), 1);
            node.submit(request, now() + LONG, inbox.slot(index));
            if index == REQUESTS / 2 {
                let killed: usize = redis::cmd("CLIENT")
                    .arg(&["KILL", "TYPE", "normal"])
                    .query(&mut client)
                    .expect("CLIENT KILL");
                assert_eq!(killed, 1, "the node has one connection");
            }
        }
        for answer in inbox.all(LONG).await {
            match answer {
                Ok(Reply::Granted { .. }) => answered += 1,
                Err(error) if error.kind() == NodeErrorKind::Unreachable => broken += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    println!("{answered} granted, {broken} broken off");
    assert_eq!(answered + broken, ROUNDS * REQUESTS);
    assert!(answered > 0);
}

#[tokio::test]
async fn a_frozen_server_fails_requests_at_their_deadlines() {
    let server = RedisServer::start();
    let node = serving(&server.url(), RedisOptions::default()).await;
    server.freeze();
    // One more than may be in flight, one by one since all are for one key;
    // behind them requests with less time.
    const PATIENT: usize = 9;
    let patient = Inbox::new(PATIENT);
    let hasty = Inbox::new(100);
    for index in 0..PATIENT {
        let request = acquire("k", index as u128);
        node.submit(request, now() + LONG, patient.slot(index));
    }
    let brief = Duration::from_millis(100);
    for index in 0..100 {
        let request = acquire(&format!("{index}"), 1);
        node.submit(request, now() + brief, hasty.slot(index));
    }
    for answer in hasty.all(brief).await {
        assert_eq!(answer.unwrap_err().kind(), NodeErrorKind::Timeout);
    }
    assert_eq!(patient.missing(), PATIENT, "the patient ones wait");
    server.thaw();
    let granted = |answer: &_| matches!(answer, Ok(Reply::Granted { .. }));
    assert_eq!(
        patient
            .all(LONG)
            .await
            .iter()
            .filter(|a| granted(a))
            .count(),
        1
    );
    let late = ask(&node, acquire("99", 2), LONG).await;
    assert!(
        granted(&late),
        "what had timed out in the queue was never sent: {late:?}"
    );
}

/// This process, not the server, was not running in the time of the attempt.
#[tokio::test]
async fn an_attempt_that_ended_in_a_stall_is_made_again_at_once() {
    let server = RedisServer::start();
    drop(serving(&server.url(), RedisOptions::default()).await);
    let fake = FakeServer::before(&server).await;
    fake.answer(Answers::Nothing);
    let mut options = RedisOptions::default();
    // An attempt has two seconds.
    options.connect_timeout = ms(1_000);
    let node = RedisNode::new(&fake.url(), options).unwrap();
    ask(&node, Request::Status, ms(100)).await.unwrap_err();
    fake.answer(Answers::Truth);
    // Nothing else runs on this runtime, the node's task included.
    std::thread::sleep(ms(2_800));
    let answer = ask(&node, acquire("k", 1), GRACE).await;
    assert_eq!(answer, Ok(Reply::Granted { counter: 1 }));
}

#[tokio::test]
async fn a_router_recovers_from_a_frozen_server() {
    let cluster = Cluster::start(Arm::Redis, 1);
    let router = cluster.router(1).await;
    let guard = lasting(&router, "held").await;
    cluster.nodes[0].stop();
    let failed = tokio::time::timeout(GRACE, router.try_acquire("k").into_future()).await;
    let error = failed.expect("it ends by its deadline").unwrap_err();
    let Error::NoQuorum { causes, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(&*causes[0].node, "a");
    assert!(matches!(&causes[0].cause, Cause::Failed(e) if e.kind() == NodeErrorKind::Timeout));
    assert!(!error.is_contention() && error.is_transient());
    cluster.nodes[0].start();
    extends_again(&guard).await;
    router.acquire("k").await.unwrap().release().await.unwrap();
    // Also after an outage so long that the connection was given up.
    cluster.nodes[0].stop();
    let is_unreachable = async {
        loop {
            let Err(Error::NoQuorum { causes, .. }) = router.try_acquire("k").await else {
                panic!("a frozen server grants nothing");
            };
            if matches!(&causes[0].cause, Cause::Failed(e) if e.kind() == NodeErrorKind::Unreachable)
            {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, is_unreachable)
        .await
        .expect("given up");
    cluster.nodes[0].start();
    extends_again(&guard).await;
    router.acquire("k").await.unwrap().release().await.unwrap();
    guard.release().await.unwrap();
}

const APPEND_ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn durable(server: &RedisServer) -> RouterBuilder {
    let mut node = NodeConfig::new("a", server.url());
    node.durable = true;
    Router::builder().init(Init::Now).node_config(node)
}

fn nonce(server: &RedisServer) -> String {
    redis::cmd("HGET")
        .arg(&["ringlock!m", "nonce"])
        .query(&mut server.client())
        .expect("a nonce")
}

#[tokio::test]
async fn a_durable_server_keeps_its_leases_through_a_restart() {
    let mut server = RedisServer::start_with(&APPEND_ALWAYS);
    let router = durable(&server).connect().await.unwrap();
    let other = durable(&server).connect().await.unwrap();
    let (guard, before) = (lasting(&router, "k").await, nonce(&server));
    let view = router.route("k").unwrap().view;
    server.kill();
    let error = other.try_acquire("k").await.unwrap_err();
    let Error::NoQuorum { causes, .. } = &error else {
        panic!("an outage is no contention: {error:?}");
    };
    assert!(matches!(&causes[0].cause, Cause::Failed(e) if e.kind() == NodeErrorKind::Unreachable));
    server.spawn();
    extends_again(&guard).await;
    // The other router must reconnect first.
    let deadline = Instant::now() + GRACE;
    loop {
        let refused = other.try_acquire("k").await.expect_err("it is held");
        if refused.is_contention() {
            break;
        }
        assert!(Instant::now() < deadline, "{refused}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(guard.release().await.unwrap(), Released::InTime);
    let next = other.acquire("k").await.unwrap();
    assert_eq!(next.release().await.unwrap(), Released::InTime);
    assert_eq!(
        (nonce(&server), router.route("k").unwrap().view),
        (before, view)
    );
}

/// If a node is not known to be durable, or its durability cannot be trusted, a
/// restart of its server counts as a loss of its data, whatever the server
/// still has.
async fn grants_nothing(node: &RedisNode, server: &RedisServer) {
    assert_eq!(status(node).await.standing(), NodeState::Absent);
    let stored: Option<String> = redis::cmd("GET")
        .arg("ringlock!id")
        .query(&mut server.client())
        .expect("GET");
    assert!(stored.is_some(), "the server has its data");
    assert_eq!(
        ask(node, acquire("new", 2), LONG).await,
        Ok(Reply::Stale(None))
    );
    let release = Request::Release {
        key: key("k"),
        token: Token::new(1, None),
    };
    assert_eq!(ask(node, release, LONG).await, Ok(Reply::Released));
}

#[tokio::test]
async fn a_restart_with_data_counts_as_a_loss_unless_durable() {
    let mut server = RedisServer::start_with(&APPEND_ALWAYS);
    let node = serving(&server.url(), RedisOptions::default()).await;
    let granted = ask(&node, acquire("k", 1), LONG).await;
    assert_eq!(granted, Ok(Reply::Granted { counter: 1 }));
    server.restart();
    grants_nothing(&node, &server).await;
}

#[tokio::test]
async fn a_snapshot_is_not_durable_whatever_the_operator_says() {
    let mut server = RedisServer::start_with(&["--save", "3600 1", "--appendonly", "no"]);
    let options = RedisOptions::default().durable(true);
    let node = serving(&server.url(), options).await;
    let granted = ask(&node, acquire("k", 1), LONG).await;
    assert_eq!(granted, Ok(Reply::Granted { counter: 1 }));
    redis::cmd("SAVE").exec(&mut server.client()).expect("SAVE");
    server.restart();
    grants_nothing(&node, &server).await;
}

#[tokio::test]
async fn a_promoted_replica_is_not_durable_whatever_the_operator_says() {
    let at_once = [&APPEND_ALWAYS[..], &["--repl-diskless-sync-delay", "0"]].concat();
    let (primary, port) = RedisServer::start_on_tcp(&at_once);
    let node = serving(&primary.url(), RedisOptions::default().durable(true)).await;
    let granted = ask(&node, acquire("k", 1), LONG).await;
    assert_eq!(granted, Ok(Reply::Granted { counter: 1 }));
    let (replica, _) = RedisServer::start_on_tcp(&APPEND_ALWAYS);
    let mut client = replica.client();
    let primary_at = ["127.0.0.1".to_owned(), port.to_string()];
    redis::cmd("REPLICAOF")
        .arg(&primary_at)
        .exec(&mut client)
        .expect("REPLICAOF");
    eventually(LONG, "the replica has the data", || {
        let copied: Option<String> = redis::cmd("GET")
            .arg("ringlock:k")
            .query(&mut client)
            .unwrap_or_default();
        copied.is_some()
    })
    .await;
    drop(primary);
    redis::cmd("REPLICAOF")
        .arg(&["NO", "ONE"])
        .exec(&mut client)
        .expect("REPLICAOF");
    let promoted = RedisNode::new(&replica.url(), RedisOptions::default().durable(true)).unwrap();
    grants_nothing(&promoted, &replica).await;
}

/// The refusal of a node that serves no view, once it is connected again.
async fn refused_without_view(router: &Router, key: &str) -> Error {
    let deadline = Instant::now() + GRACE;
    loop {
        let error = router
            .try_acquire(key)
            .await
            .expect_err("it grants nothing");
        let Error::NoQuorum { causes, .. } = &error else {
            panic!("{error:?}");
        };
        match &causes[0].cause {
            Cause::NoView | Cause::Quarantined { .. } => return error,
            Cause::Failed(_) => assert!(Instant::now() < deadline, "{error}"),
            other => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_server_that_comes_back_empty_grants_nothing() {
    for arm in ARMS {
        let mut cluster = Cluster::start(arm, 3);
        let router = cluster.router(1).await;
        let keys: Vec<String> = (0..30).map(|key| format!("orders/{key}")).collect();
        let lost = router.route(&keys[0]).unwrap().owner;
        cluster.owner(&router, &keys[0]).wipe();
        for key in &keys {
            let owner = router.route(key).unwrap().owner;
            if owner != lost {
                router.acquire(key).await.unwrap().release().await.unwrap();
                continue;
            }
            let error = refused_without_view(&router, key).await;
            let reported = format!("{error:#}");
            let is_named = reported.contains(&format!("{lost}: "));
            assert!(
                is_named && reported.contains("lost its data"),
                "{arm:?}: {reported}"
            );
            // At first that the node is not quarantined yet, then how long the
            // quarantine lasts.
            let advice = ["ringlock status", "readmitted"];
            let is_advised = advice.iter().any(|part| reported.contains(part));
            assert!(is_advised, "says what to do: {reported}");
            assert!(cluster.nodes.iter().all(|node| node.locked().is_empty()));
        }
    }
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_instead_of_growing() {
    const REQUESTS: usize = 70_000;
    let server = RedisServer::start();
    let node = serving(&server.url(), RedisOptions::default()).await;
    server.freeze();
    let inbox = Inbox::new(REQUESTS);
    for index in 0..REQUESTS {
        node.submit(acquire("k", 1), now() + LONG, inbox.slot(index));
        if index % 1000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let refused = REQUESTS - inbox.missing();
    assert!(refused > 0, "all are queued");
    server.thaw();
    // Queued requests are carried out before the node ends.
    node.close();
    let mut counts = HashMap::new();
    for answer in inbox.all(LONG).await {
        let kind = answer.map(|_| ()).map_err(|error| error.kind());
        *counts.entry(kind).or_insert(0) += 1;
    }
    println!("{counts:?}");
    assert_eq!(counts[&Err(NodeErrorKind::Overloaded)], refused);
    assert_eq!(counts[&Ok(())], REQUESTS - refused);
}
