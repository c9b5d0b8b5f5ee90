//! A server that was suitable at connect becomes another server, or one that
//! evicts, under the open connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use ringlock::node::redis::{Encoding, RedisNode, RedisOptions};
use ringlock::proto::node::message::{Answer, Ballot, NodeErrorKind, NodeState, Reply, Request};
use ringlock::{Init, Router};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::node::{GRACE, VIEW, acquire, ask, now, release, serving};
use ringlock_test_support::{KEY, RedisServer, eventually, ms, name};

/// The longest time that a change without a push may go unnoticed, and a little
/// more.
const UNSEEN: Duration = Duration::from_millis(110);

const LONG: Duration = Duration::from_secs(60);

/// What happens to the server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Upset {
    /// A full resync from a former replica, and promotion: streamed.
    Resync,
    /// The same through a file on disk.
    ResyncFromDisk,
    /// The same into a second set of databases, which are then swapped in.
    ResyncSwapped,
    /// A partial resync from a former replica that deleted the lock, and
    /// promotion.
    PartialResync,
    /// A replica of an unreachable primary, and promotion: the data stays the
    /// same.
    RoleOnly,
    /// A policy that evicts and too little memory; then both are corrected.
    Evicted(&'static str),
}

use Upset::{Evicted, PartialResync, Resync, ResyncFromDisk, ResyncSwapped, RoleOnly};

impl Upset {
    const ALL: [Self; 8] = [
        Resync,
        ResyncFromDisk,
        ResyncSwapped,
        PartialResync,
        RoleOnly,
        Evicted("volatile-ttl"),
        Evicted("volatile-lru"),
        Evicted("allkeys-random"),
    ];

    /// Whether it is pushed ahead of every later reply, and thus always noticed
    /// in time.
    fn is_pushed(self) -> bool {
        matches!(self, Resync | ResyncFromDisk | ResyncSwapped)
    }

    fn arguments(self) -> (&'static [&'static str], &'static [&'static str]) {
        const AT_ONCE: [&str; 4] = [
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ];
        match self {
            ResyncFromDisk => (&[], &["--repl-diskless-sync", "no"]),
            ResyncSwapped => (&["--repl-diskless-load", "swapdb"], &AT_ONCE),
            _ => (&AT_ONCE, &AT_ONCE),
        }
    }
}

fn run(server: &RedisServer, command: &[&str]) {
    redis::cmd(command[0])
        .arg(&command[1..])
        .exec(&mut server.client())
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
}

fn fact(server: &RedisServer, section: &str, name: &str) -> String {
    let info: String = redis::cmd("INFO")
        .arg(section)
        .query(&mut server.client())
        .expect("INFO");
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find_map(|(fact, value)| (fact == name).then(|| value.to_owned()));
    found.unwrap_or_else(|| panic!("no {name} in {info}"))
}

/// A primary, and a replica of it.
struct Pair {
    primary: RedisServer,
    port: u16,
    replica: RedisServer,
    replica_port: u16,
}

impl Pair {
    async fn start(edition: Edition, upset: Upset) -> Self {
        let (ours, theirs) = upset.arguments();
        let (primary, port) = RedisServer::start_edition_on_tcp(edition, ours);
        let (replica, replica_port) = RedisServer::start_edition_on_tcp(edition, theirs);
        let pair = Self {
            primary,
            port,
            replica,
            replica_port,
        };
        follow(&pair.replica, pair.port).await;
        pair
    }

    /// Waits until the replica has all of the primary's data, then detaches it.
    async fn part(&self) {
        let offset = |server| fact(server, "replication", "master_repl_offset");
        eventually(LONG, "the replica has everything", || {
            offset(&self.primary) == offset(&self.replica)
        })
        .await;
        run(&self.replica, &["REPLICAOF", "NO", "ONE"]);
    }

    /// Becomes a replica of its former replica, and then a primary again.
    async fn back_and_forth(&self) {
        follow(&self.primary, self.replica_port).await;
        run(&self.primary, &["REPLICAOF", "NO", "ONE"]);
    }

    /// Performs `upset`.
    async fn upset(&self, upset: Upset) {
        match upset {
            Resync | ResyncFromDisk | ResyncSwapped => self.back_and_forth().await,
            PartialResync => {
                run(&self.replica, &["DEL", &format!("ringlock:{KEY}")]);
                self.back_and_forth().await;
                assert_eq!(fact(&self.replica, "stats", "sync_partial_ok"), "1");
            }
            RoleOnly => {
                run(&self.primary, &["REPLICAOF", "127.0.0.1", "1"]);
                run(&self.primary, &["REPLICAOF", "NO", "ONE"]);
            }
            Evicted(policy) => evict(&self.primary, policy).await,
        }
    }
}

/// The token that holds the lock.
fn holder(server: &RedisServer) -> Option<String> {
    let mut get = redis::cmd("GET");
    get.arg(format!("ringlock:{KEY}"))
        .query(&mut server.client())
        .expect("GET")
}

async fn follow(server: &RedisServer, port: u16) {
    run(server, &["REPLICAOF", "127.0.0.1", &port.to_string()]);
    eventually(LONG, "the replica is in sync", || {
        fact(server, "replication", "master_link_status") == "up"
    })
    .await;
}

async fn evict(server: &RedisServer, policy: &str) {
    let before = holder(server);
    run(server, &["CONFIG", "SET", "maxmemory-policy", policy]);
    run(server, &["CONFIG", "SET", "maxmemory", "100kb"]);
    let mut client = server.client();
    eventually(LONG, "the lock is evicted", || {
        // The server evicts only on behalf of a client that writes.
        let _ = redis::cmd("SET").arg(&["filler", "x"]).exec(&mut client);
        holder(server) != before
    })
    .await;
    run(server, &["CONFIG", "SET", "maxmemory", "0"]);
    run(server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
}

/// Whether the server pushes changes of its data.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reported {
    Yes,
    Denied,
}

/// A node in each encoding, all connected.
async fn nodes(url: &str) -> Vec<Arc<RedisNode>> {
    let mut nodes = Vec::new();
    for encoding in [Encoding::Script, Encoding::Pipeline, Encoding::Command] {
        let options = RedisOptions::default().encoding(encoding);
        let node = RedisNode::new(url, options).expect("a node");
        let answer = ask(&node, Request::Status, LONG).await;
        assert!(matches!(answer, Ok(Reply::Status(_))), "{answer:?}");
        nodes.push(Arc::new(node));
    }
    nodes
}

fn is_granted(answer: &Answer) -> bool {
    matches!(answer, Ok(Reply::Granted { .. }))
}

/// Requests the lock continuously, and counts the answers.
struct Hammer {
    is_over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Hammer {
    fn on(nodes: &[Arc<RedisNode>], tag: &str) -> Self {
        let mut hammer = Self {
            is_over: Arc::default(),
            asked: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        for node in nodes {
            let (node, tag) = (Arc::clone(node), tag.to_owned());
            let (is_over, asked) = (Arc::clone(&hammer.is_over), Arc::clone(&hammer.asked));
            hammer.tasks.spawn(async move {
                for token in 1_000.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = ask(&*node, acquire(KEY, token), LONG).await;
                    assert!(!is_granted(&answer), "{tag}: {answer:?}");
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !matches!(answer, Ok(Reply::Busy(_))) {
                        // An answer may come at once: other tasks would never
                        // run.
                        tokio::time::sleep(ms(1)).await;
                    }
                }
            });
        }
        hammer
    }

    async fn end(mut self) {
        let target = self.asked.load(Ordering::Relaxed) + 20;
        eventually(LONG, "it is answered", || {
            self.tasks.try_join_next().is_some_and(|ended| {
                ended.expect("no grant");
                false
            }) || self.asked.load(Ordering::Relaxed) >= target
        })
        .await;
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no grant");
        }
    }
}

fn prepare() -> Request {
    let ballot = Ballot {
        round: 1,
        proposer: 1,
    };
    Request::Prepare { view: VIEW, ballot }
}

/// A held lock is not granted again, to any caller and however often it is
/// requested, and the node finds that the server has lost its data.
async fn nobody_gains(edition: Edition, upset: Upset, reported: Reported, is_busy: bool) {
    let tag = format!("{edition:?} {upset:?} {reported:?} busy {is_busy}");
    let pair = Pair::start(edition, upset).await;
    let server = &pair.primary;
    if reported == Reported::Denied {
        run(server, &["ACL", "SETUSER", "default", "-client"]);
    }
    drop(serving(&server.url(), RedisOptions::default()).await);
    let holders = nodes(&server.url()).await;
    if upset == PartialResync {
        let answer = ask(&*holders[0], acquire(KEY, 1), LONG).await;
        assert!(is_granted(&answer), "{tag}: {answer:?}");
        pair.part().await;
    } else {
        pair.part().await;
        let answer = ask(&*holders[0], acquire(KEY, 1), LONG).await;
        assert!(is_granted(&answer), "{tag}: {answer:?}");
    }
    // The hammer's writes would rule out a partial resync.
    let hammer = is_busy.then(|| Hammer::on(&holders, &tag));
    pair.upset(upset).await;
    match hammer {
        Some(hammer) => hammer.end().await,
        None if holder(server).is_some() != (upset == RoleOnly) => panic!("{tag}: no upset"),
        None if upset.is_pushed() || reported == Reported::Denied => {}
        None => tokio::time::sleep(UNSEEN).await,
    }
    let deadline = now() + GRACE;
    for (index, node) in holders.iter().enumerate() {
        let vote = ask(&**node, prepare(), LONG).await;
        assert!(!matches!(vote, Ok(Reply::Promised(_))), "{tag}: {vote:?}");
        loop {
            let answer = ask(&**node, acquire(KEY, 2 + index as u128), LONG).await;
            assert!(!is_granted(&answer), "{tag}: {answer:?}");
            match answer {
                Ok(Reply::Stale(None)) => break,
                Err(error) => {
                    use NodeErrorKind::{LostData, Unreachable, Unsuitable};
                    let is_reported = matches!(error.kind(), LostData | Unreachable | Unsuitable);
                    assert!(is_reported, "{tag}: {error}");
                }
                other => panic!("{tag}: {other:?}"),
            }
            assert!(now() < deadline, "{tag}: it is not noticed");
            tokio::time::sleep(ms(1)).await;
        }
        let Ok(Reply::Status(status)) = ask(&**node, Request::Status, LONG).await else {
            panic!("{tag}: no status");
        };
        assert_eq!(status.standing(), NodeState::Absent, "{tag}: {status:?}");
    }
}

#[tokio::test]
async fn a_server_that_became_another_grants_nothing_to_idle_connections() {
    let each = Edition::ALL.map(async |edition| {
        for upset in Upset::ALL {
            nobody_gains(edition, upset, Reported::Yes, false).await;
        }
    });
    join_all(each).await;
}

/// Without a pause: a push is processed ahead of the next reply.
#[tokio::test]
async fn replaced_data_is_noticed_ahead_of_the_next_grant() {
    for edition in Edition::ALL {
        for upset in Upset::ALL.into_iter().filter(|upset| upset.is_pushed()) {
            nobody_gains(edition, upset, Reported::Yes, true).await;
        }
    }
}

/// Without pushes, every reply waits for a check behind it.
#[tokio::test]
async fn a_user_who_learns_nothing_gets_no_more() {
    // Most of it is waiting for resyncs.
    let each = Edition::ALL.map(async |edition| {
        for upset in Upset::ALL {
            nobody_gains(edition, upset, Reported::Denied, false).await;
            // A connection that writes rules out a partial resync.
            if upset != PartialResync {
                nobody_gains(edition, upset, Reported::Denied, true).await;
            }
        }
    });
    join_all(each).await;
}

/// The same scenario, as a router sees it.
#[tokio::test]
async fn a_lease_outlives_its_server_and_its_fence_is_not_given_again() {
    for replicas in [1, 3] {
        let mut pairs = Vec::new();
        for _ in 0..replicas {
            pairs.push(Pair::start(Edition::System, Resync).await);
        }
        let router = || {
            let nodes = pairs.iter().enumerate();
            let builder = nodes.fold(Router::builder(), |builder, (index, pair)| {
                builder.node(name(index), pair.primary.url())
            });
            let builder = builder.init(Init::Now).replicas(replicas);
            builder.configure(|config| {
                config.router.ttl = ms(4_000);
                config.router.max_ttl = ms(4_000);
            })
        };
        for pair in &pairs {
            pair.part().await;
        }
        let (holder, rival) = (router().connect().await, router().connect().await);
        let (holder, rival) = (holder.unwrap(), rival.unwrap());
        let guard = holder.try_acquire(KEY).await.unwrap();
        let refused = rival.try_acquire(KEY).await.unwrap_err();
        assert!(refused.is_contention(), "{refused}");
        // Most of them, where there are several.
        for pair in pairs.iter().skip(replicas / 3) {
            pair.back_and_forth().await;
        }
        while guard.remaining() > Duration::ZERO {
            let granted = rival.try_acquire(KEY).await;
            let is_over = guard.remaining() == Duration::ZERO;
            assert!(granted.is_err() || is_over, "a second holder");
            tokio::time::sleep(ms(5)).await;
        }
        if replicas == 1 {
            // The node is let in again by itself; of three, most are lost.
            let second = rival.acquire(KEY).wait(LONG).await.unwrap();
            assert!(second.fence() > guard.fence(), "an equal fence");
        }
    }
}

/// A change that is undone is harmless, and events elsewhere on the server have
/// no effect.
#[tokio::test]
async fn a_server_that_stays_itself_goes_on() {
    for edition in Edition::ALL {
        for reported in [Reported::Yes, Reported::Denied] {
            let (server, _) = RedisServer::start_edition_on_tcp(edition, &[]);
            if reported == Reported::Denied {
                run(&server, &["ACL", "SETUSER", "default", "-client"]);
            }
            drop(serving(&server.url(), RedisOptions::default()).await);
            let nodes = nodes(&server.url()).await;
            let holder = &nodes[0];
            assert!(is_granted(&ask(&**holder, acquire(KEY, 1), LONG).await));
            let url = format!("{}?db=9", server.url());
            let mut elsewhere = redis::Client::open(url).unwrap().get_connection().unwrap();
            for round in 0..40 {
                let tag = format!("{edition:?} {reported:?} {round}");
                redis::cmd("FLUSHDB").exec(&mut elsewhere).expect("FLUSHDB");
                if round % 8 == 0 {
                    run(&server, &["CONFIG", "RESETSTAT"]);
                    if edition == Edition::Redis62 {
                        run(&server, &["DEBUG", "RELOAD"]);
                    }
                }
                for node in &nodes {
                    let answer = ask(&**node, acquire(KEY, 2), LONG).await;
                    assert!(matches!(answer, Ok(Reply::Busy(_))), "{tag}: {answer:?}");
                    let answer = ask(&**node, acquire("other", 3), LONG).await;
                    assert!(is_granted(&answer), "{tag}: {answer:?}");
                    let answer = ask(&**node, release("other", 3), LONG).await;
                    assert_eq!(answer, Ok(Reply::Released), "{tag}");
                }
            }
        }
    }
}

/// While a server is not permitted to hold locks, its error states why.
#[tokio::test]
async fn a_policy_or_role_that_changes_is_reported_with_what_to_do() {
    for edition in Edition::ALL {
        let (server, _) = RedisServer::start_edition_on_tcp(edition, &[]);
        drop(serving(&server.url(), RedisOptions::default()).await);
        for node in nodes(&server.url()).await {
            assert!(is_granted(&ask(&*node, acquire("a", 1), LONG).await));
            for policy in ["volatile-ttl", "allkeys-lru"] {
                run(&server, &["CONFIG", "SET", "maxmemory-policy", policy]);
                tokio::time::sleep(UNSEEN).await;
                let error = ask(&*node, acquire("b", 1), LONG).await.unwrap_err();
                assert_eq!(error.kind(), NodeErrorKind::Unsuitable, "{error}");
                let text = error.to_string();
                assert!(
                    text.contains(policy) && text.contains("noeviction"),
                    "{text}"
                );
                run(
                    &server,
                    &["CONFIG", "SET", "maxmemory-policy", "noeviction"],
                );
                // Nothing was evicted.
                granted_again(&node, "b").await;
            }
            run(&server, &["REPLICAOF", "127.0.0.1", "1"]);
            tokio::time::sleep(UNSEEN).await;
            let error = ask(&*node, acquire("c", 1), LONG).await.unwrap_err();
            assert_eq!(error.kind(), NodeErrorKind::Unsuitable, "{error}");
            assert!(error.to_string().contains("replica"), "{error}");
            run(&server, &["REPLICAOF", "NO", "ONE"]);
            run(&server, &["FLUSHALL"]);
            drop(node);
            drop(serving(&server.url(), RedisOptions::default()).await);
        }
    }
}

/// Waits for a grant of the reconnected node, and releases it.
async fn granted_again(node: &RedisNode, key: &str) {
    let deadline = now() + GRACE;
    loop {
        match ask(node, acquire(key, 1), LONG).await {
            Ok(Reply::Granted { .. }) => break,
            answer => assert!(now() < deadline, "{answer:?}"),
        }
        tokio::time::sleep(ms(1)).await;
    }
    let answer = ask(node, release(key, 1), LONG).await;
    assert_eq!(answer, Ok(Reply::Released));
}

/// An operator's statement that a server keeps its data does not cover a resync
/// or evicted keys.
#[tokio::test]
async fn durable_servers_are_no_exception() {
    for upset in [Resync, RoleOnly, Evicted("volatile-ttl")] {
        let pair = Pair::start(Edition::System, upset).await;
        let server = &pair.primary;
        run(server, &["CONFIG", "SET", "appendonly", "yes"]);
        run(server, &["CONFIG", "SET", "appendfsync", "always"]);
        let durable = || RedisOptions::default().durable(true);
        drop(serving(&server.url(), durable()).await);
        pair.part().await;
        let node = RedisNode::new(&server.url(), durable()).unwrap();
        assert!(is_granted(&ask(&node, acquire(KEY, 1), LONG).await));
        pair.upset(upset).await;
        tokio::time::sleep(UNSEEN).await;
        let deadline = now() + GRACE;
        loop {
            let answer = ask(&node, acquire(KEY, 2), LONG).await;
            assert!(!is_granted(&answer), "{upset:?}: {answer:?}");
            if answer == Ok(Reply::Stale(None)) {
                break;
            }
            assert!(now() < deadline, "{upset:?}: {answer:?}");
            tokio::time::sleep(ms(1)).await;
        }
    }
}

/// How often a command was called.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let reported = fact(server, "commandstats", &format!("cmdstat_{command}"));
    let calls = reported
        .strip_prefix("calls=")
        .and_then(|reported| reported.split(',').next());
    calls
        .and_then(|calls| calls.parse().ok())
        .expect("a number")
}

/// A check is three commands. With pushes there is at most one every 50 ms;
/// without, two commands, or three, follow each batch.
#[tokio::test]
async fn what_checks_cost() {
    for reported in [Reported::Yes, Reported::Denied] {
        let server = RedisServer::start();
        if reported == Reported::Denied {
            run(&server, &["ACL", "SETUSER", "default", "-client"]);
        }
        let node = serving(&server.url(), RedisOptions::default()).await;
        let (mut pairs, before) = (0, calls(&server, "info"));
        let begun = std::time::Instant::now();
        while begun.elapsed() < ms(600) {
            assert!(is_granted(&ask(&node, acquire("k", 1), LONG).await));
            let answer = ask(&node, release("k", 1), LONG).await;
            assert_eq!(answer, Ok(Reply::Released));
            pairs += 1;
        }
        // Without the INFO of this count.
        let checks = calls(&server, "info") - before - 1;
        let spans = begun.elapsed().as_millis() as u64 / 50 + 1;
        println!(
            "{reported:?}: {pairs} pairs, {checks} INFO in {:?}",
            begun.elapsed()
        );
        match reported {
            Reported::Yes => assert!((1..=3 * spans).contains(&checks), "{checks} in {spans}"),
            Reported::Denied => assert!(
                (2 * pairs..=2 * pairs + spans).contains(&checks),
                "{checks} for {pairs} pairs"
            ),
        }
    }
}
