//! Refusals of servers are reported by their meaning: the same on every
//! edition, whatever the wording. And scripts that a server no longer has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringlock::node::Node;
use ringlock::node::redis::{Encoding, RedisNode, RedisOptions};
use ringlock::proto::lease::{Key, Token, Ttl};
use ringlock::proto::node::message::{Answer, Ballot, FenceCounterId, IfMissing, Reply, Request};
use ringlock::{Init, NodeError, NodeErrorKind, Released, Router};
use ringlock_test_support::RedisServer;
use ringlock_test_support::edition::Edition;
use ringlock_test_support::node::{GRACE, Inbox, VIEW, acquire, ask, now, release, serving};

const LONG: Duration = Duration::from_secs(60);
const ENCODINGS: [Encoding; 3] = [Encoding::Script, Encoding::Pipeline, Encoding::Command];

fn extend(key: &str, token: u128) -> Request {
    Request::Extend {
        view: VIEW,
        key: Key::new(key).unwrap(),
        token: Token::new(token, None),
        ttl: Ttl::new(2 * LONG, 2 * LONG).unwrap(),
        slot: FenceCounterId::SINGLE,
        floor: 0,
        if_missing: IfMissing::Recreate,
    }
}

/// Sends commands that must succeed.
fn run(client: &mut redis::Connection, commands: &[&str]) {
    for text in commands {
        let words: Vec<&str> = text.split(' ').collect();
        let done = redis::cmd(words[0]).arg(&words[1..]).exec(client);
        done.unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

/// How a server is made to refuse, and how that ends.
enum Cause {
    Commands(&'static [&'static str], &'static [&'static str]),
    /// Its snapshots fail.
    Snapshots,
    /// A script that does not end.
    SlowScript,
}

struct Case {
    name: &'static str,
    cause: Cause,
    kind: NodeErrorKind,
    advice: &'static str,
    /// Requests that are refused: acquire, extend, release.
    refused: [bool; 3],
    ends_connection: bool,
}

const ALL: [bool; 3] = [true; 3];

const fn case(
    name: &'static str,
    cause: Cause,
    (kind, advice): (NodeErrorKind, &'static str),
    refused: [bool; 3],
    ends_connection: bool,
) -> Case {
    Case {
        name,
        cause,
        kind,
        advice,
        refused,
        ends_connection,
    }
}

fn cases() -> Vec<Case> {
    use NodeErrorKind::{Denied, NotReady, Overloaded, Unsuitable};
    let too_few = Cause::Commands(
        &["CONFIG SET min-replicas-to-write 1"],
        &["CONFIG SET min-replicas-to-write 0"],
    );
    let full = Cause::Commands(&["CONFIG SET maxmemory 1"], &["CONFIG SET maxmemory 0"]);
    let replica = Cause::Commands(&["REPLICAOF 127.0.0.1 1"], &["REPLICAOF NO ONE"]);
    let alone = Cause::Commands(
        &[
            "CONFIG SET replica-serve-stale-data no",
            "REPLICAOF 127.0.0.1 1",
        ],
        &["REPLICAOF NO ONE"],
    );
    let denied = Cause::Commands(
        &["ACL SETUSER locker -set -mget -pttl"],
        &["ACL SETUSER locker +@all"],
    );
    let (snapshots, slow) = (Cause::Snapshots, Cause::SlowScript);
    let primary = (Unsuitable, "name the primary");
    let replicas = (NotReady, "min-replicas-to-write");
    let memory = (Overloaded, "raise its maxmemory");
    let rights = (Denied, "ACL denies");
    let (acquires, most) = ([true, false, false], [true, true, false]);
    vec![
        case("NOREPLICAS", too_few, replicas, ALL, false),
        case("OOM", full, memory, acquires, false),
        case("MISCONF", snapshots, (NotReady, "see its log"), ALL, false),
        case("BUSY", slow, (NotReady, "SCRIPT KILL"), ALL, false),
        case("NOPERM", denied, rights, most, false),
        case("READONLY", replica, primary, ALL, true),
        case("MASTERDOWN", alone, primary, ALL, true),
    ]
}

/// A server on which a user `locker` has all rights.
fn start(edition: Edition) -> (RedisServer, String) {
    let user = ["--save", "", "--user", "locker", "on", ">pw", "~*", "+@all"];
    let server = RedisServer::start_edition(edition, &user);
    let url = format!("unix://{}?user=locker&pass=pw", server.socket().display());
    (server, url)
}

/// Makes the server refuse; returns the thread of the script that keeps it
/// busy.
fn provoke(cause: &Cause, server: &RedisServer) -> Option<JoinHandle<()>> {
    let mut admin = server.client();
    match cause {
        Cause::Commands(begin, _) => run(&mut admin, begin),
        Cause::Snapshots => {
            // A snapshot cannot replace a directory.
            let path = server.socket().with_file_name("dump.rdb");
            std::fs::create_dir_all(path.join("in the way")).unwrap();
            redis::cmd("CONFIG")
                .arg(&["SET", "save", "3600 1"])
                .exec(&mut admin)
                .unwrap();
            run(&mut admin, &["BGSAVE"]);
            wait_for("the snapshot fails", || {
                let info: String = redis::cmd("INFO")
                    .arg("persistence")
                    .query(&mut admin)
                    .unwrap();
                info.contains("rdb_last_bgsave_status:err")
            });
        }
        Cause::SlowScript => {
            run(&mut admin, &["CONFIG SET lua-time-limit 5"]);
            let mut slow = server.client();
            let script = std::thread::spawn(move || {
                let endless = redis::cmd("EVAL")
                    .arg(&["while true do end", "0"])
                    .exec(&mut slow);
                assert!(endless.is_err(), "it ended");
            });
            wait_for("the script is slow", || {
                redis::cmd("PING").exec(&mut admin).is_err()
            });
            return Some(script);
        }
    }
    None
}

fn heal(cause: &Cause, server: &RedisServer, admin: &mut redis::Connection) {
    match cause {
        Cause::Commands(_, end) => run(admin, end),
        Cause::Snapshots => {
            redis::cmd("CONFIG")
                .arg(&["SET", "save", ""])
                .exec(admin)
                .unwrap();
            std::fs::remove_dir_all(server.socket().with_file_name("dump.rdb")).unwrap();
        }
        Cause::SlowScript => run(admin, &["SCRIPT KILL"]),
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + GRACE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Repeats the request until `is_it` holds for the answer.
async fn asked_until(
    node: &RedisNode,
    request: impl Fn() -> Request,
    what: &str,
    is_it: impl Fn(&Answer) -> bool,
) -> Answer {
    let deadline = Instant::now() + GRACE;
    loop {
        let answer = ask(node, request(), LONG).await;
        if is_it(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn assert_reported(at: &str, answer: Answer, case: &Case) -> NodeError {
    let error = answer.expect_err(at);
    let text = error.to_string();
    assert!(
        error.kind() == case.kind && text.contains(case.advice),
        "{at}: {error:?}"
    );
    error
}

#[tokio::test]
async fn refusals_are_reported_by_what_they_mean() {
    for edition in Edition::ALL {
        for case in cases() {
            for encoding in ENCODINGS {
                let at = format!("{edition:?} {encoding:?} {}", case.name);
                let (server, url) = start(edition);
                let node = serving(&url, RedisOptions::default().encoding(encoding)).await;
                ask(&node, acquire("held", 1), LONG).await.expect(&at);
                ask(&node, acquire("kept", 2), LONG).await.expect(&at);
                let mut admin = server.client();
                let script = provoke(&case.cause, &server);
                let requests = [acquire("free", 3), extend("held", 1), release("kept", 2)];
                for (request, is_refused) in requests.into_iter().zip(case.refused) {
                    if is_refused {
                        let error = assert_reported(&at, ask(&node, request, LONG).await, &case);
                        let is_transient =
                            !matches!(case.kind, NodeErrorKind::Denied | NodeErrorKind::Unsuitable);
                        assert_eq!(error.kind().is_transient(), is_transient, "{at}");
                    }
                }
                if case.ends_connection {
                    // A STATUS is refused only because of the requests at
                    // connect.
                    let is_out = |answer: &Answer| {
                        let is_unfit =
                            |error: &NodeError| error.kind() == NodeErrorKind::Unsuitable;
                        answer.as_ref().is_err_and(is_unfit)
                    };
                    let out = asked_until(&node, || Request::Status, &at, is_out).await;
                    println!("{at}: {}", out.unwrap_err());
                }
                heal(&case.cause, &server, &mut admin);
                // As another incarnation it grants nothing, but it answers.
                let back = asked_until(&node, || Request::Status, &at, Answer::is_ok).await;
                assert!(matches!(back, Ok(Reply::Status(_))), "{at}: {back:?}");
                if !case.ends_connection {
                    let granted = ask(&node, acquire("free", 4), LONG).await;
                    assert!(
                        matches!(granted, Ok(Reply::Granted { .. })),
                        "{at}: {granted:?}"
                    );
                    let kept = ask(&node, extend("held", 1), LONG).await;
                    assert!(matches!(kept, Ok(Reply::Kept { .. })), "{at}: {kept:?}");
                }
                if let Some(script) = script {
                    script.join().unwrap();
                }
            }
        }
    }
}

/// A server that accepts no further connections must not look like a wrong
/// password.
#[tokio::test]
async fn a_server_with_too_many_clients() {
    for edition in Edition::ALL {
        let (server, with_password) = start(edition);
        let mut admin = server.client();
        // Open connections stay open.
        run(&mut admin, &["CONFIG SET maxclients 1"]);
        let without = format!("unix://{}", server.socket().display());
        let mut nodes = Vec::new();
        for url in [with_password, without] {
            let node = RedisNode::new(&url, RedisOptions::default()).unwrap();
            let error = ask(&node, Request::Status, LONG).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("maxclients"), "{edition:?}: {text}");
            assert_eq!(error.kind(), NodeErrorKind::Overloaded, "{text}");
            nodes.push(node);
        }
        run(&mut admin, &["CONFIG SET maxclients 100"]);
        for node in &nodes {
            let back = asked_until(node, || Request::Status, "it has room", Answer::is_ok).await;
            assert!(matches!(back, Ok(Reply::Status(_))), "{back:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_still_loads_its_data() {
    for edition in Edition::ALL {
        let mut server = RedisServer::start_edition(edition, &["--rdbcompression", "no"]);
        let mut admin = server.client();
        for key in 0..10 {
            redis::cmd("SETRANGE")
                .arg(&[&format!("big{key}"), "2200000", "x"])
                .exec(&mut admin)
                .unwrap();
        }
        run(&mut admin, &["SAVE"]);
        server.kill();
        server.delay_loading();
        let url = server.url();
        let starting = tokio::task::spawn_blocking(move || {
            server.spawn();
            server
        });
        let node = RedisNode::new(&url, RedisOptions::default()).unwrap();
        let is_loading = |answer: &Answer| {
            let is_it = |error: &NodeError| error.kind() == NodeErrorKind::NotReady;
            answer.as_ref().is_err_and(is_it)
        };
        let answer = asked_until(&node, || Request::Status, "it loads", is_loading).await;
        let text = answer.unwrap_err().to_string();
        assert!(text.contains("loading its data"), "{edition:?}: {text}");
        let server = starting.await.unwrap();
        let back = asked_until(&node, || Request::Status, "it has loaded", Answer::is_ok).await;
        assert!(matches!(back, Ok(Reply::Status(_))), "{back:?}");
        drop(server);
    }
}

/// Flushes a server's scripts again and again until dropped.
struct Flusher {
    is_over: Arc<AtomicBool>,
    flushes: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Flusher {
    fn on<'a>(servers: impl IntoIterator<Item = &'a RedisServer>) -> Self {
        let (is_over, flushes) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let thread = |server: &RedisServer| {
            let (mut client, is_over) = (server.client(), Arc::clone(&is_over));
            let flushes: Arc<AtomicUsize> = Arc::clone(&flushes);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    run(&mut client, &["SCRIPT FLUSH"]);
                    flushes.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = servers.into_iter().map(thread).collect();
        Self {
            is_over,
            flushes,
            threads,
        }
    }

    fn stop(mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.flushes.load(Ordering::Relaxed)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// How often a server reported a missing script.
fn unloaded(server: &RedisServer) -> usize {
    let info: String = redis::cmd("INFO")
        .arg("errorstats")
        .query(&mut server.client())
        .unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_NOSCRIPT:count="));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

/// One round of every request; returns the results that differ from those
/// without flushes.
async fn round(node: &RedisNode, round: u32) -> Vec<String> {
    let name = |index: usize| format!("k{round}/{index}");
    let token = |index: usize| u128::from(round) << 16 | index as u128 | 1 << 60;
    let all =
        |request: &dyn Fn(usize) -> Request| -> Vec<Request> { (0..8).map(request).collect() };
    let steps = [
        all(&|index| acquire(&name(index), token(index))),
        all(&|index| extend(&name(index), token(index))),
        vec![Request::Status],
        all(&|index| release(&name(index), token(index))),
    ];
    let mut wrong = Vec::new();
    for requests in steps {
        let inbox = Inbox::new(requests.len());
        for (index, request) in requests.iter().enumerate() {
            node.submit(request.clone(), now() + LONG, inbox.slot(index));
        }
        for (request, answer) in requests.iter().zip(inbox.all(LONG).await) {
            let is_right = match request {
                Request::Acquire { .. } => matches!(answer, Ok(Reply::Granted { .. })),
                Request::Extend { .. } => matches!(answer, Ok(Reply::Kept { .. })),
                Request::Release { .. } => answer == Ok(Reply::Released),
                _ => matches!(answer, Ok(Reply::Status(_))),
            };
            if !is_right {
                wrong.push(format!("{request:?}: {answer:?}"));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_all_the_time() {
    for edition in Edition::ALL {
        for encoding in ENCODINGS {
            let (server, url) = start(edition);
            let options = || RedisOptions::default().encoding(encoding);
            let node = serving(&url, options()).await;
            let flusher = Flusher::on([&server]);
            let mut rounds = 0;
            let mut wrong = Vec::new();
            let deadline = Instant::now() + GRACE;
            // Continues until scripts were missing for certain.
            while rounds < 100 || unloaded(&server) == 0 {
                wrong.extend(round(&node, rounds).await);
                rounds += 1;
                assert!(Instant::now() < deadline, "nothing was ever flushed");
            }
            // Connecting uses scripts too.
            for _ in 0..10 {
                let late = RedisNode::new(&url, options()).unwrap();
                let status = ask(&late, Request::Status, LONG).await;
                wrong.extend(status.err().map(|error| format!("connecting: {error}")));
            }
            let (flushes, missing) = (flusher.stop(), unloaded(&server));
            println!(
                "{edition:?} {encoding:?}: {rounds} rounds, {flushes} flushes, {missing} missing"
            );
            assert!(
                wrong.is_empty(),
                "{edition:?} {encoding:?}: {} of {}: {wrong:?}",
                wrong.len(),
                25 * rounds
            );
        }
    }
}

/// One flush before each kind of request, including those of a change of
/// membership.
#[tokio::test]
async fn every_script_is_loaded_again() {
    let nonce = || "n2".into();
    let ballot = Ballot {
        round: 1,
        proposer: 1,
    };
    for edition in Edition::ALL {
        let (server, url) = start(edition);
        let options = || RedisOptions::default().encoding(Encoding::Script);
        drop(serving(&url, options()).await);
        let next = ringlock::ViewId { epoch: 2, ..VIEW };
        let stamped: String = redis::cmd("HGET")
            .arg(&["ringlock!m", "inc"])
            .query(&mut server.client())
            .unwrap();
        let requests = [
            Request::Status,
            acquire("k", 1),
            extend("k", 1),
            release("k", 1),
            Request::Prepare { view: VIEW, ballot },
            Request::Accept {
                view: VIEW,
                ballot,
                next,
                document: "the next".into(),
            },
            Request::Restamp {
                expected: stamped.into(),
            },
            Request::Adopt {
                view: next,
                document: "the next".into(),
                nonce: "n".into(),
            },
            Request::Quarantine {
                expected_nonce: Some("n".into()),
                expected_view: Some(next),
                nonce: nonce(),
            },
        ];
        for request in requests {
            let node = RedisNode::new(&url, options()).unwrap();
            // It is connected, and has loaded all scripts.
            ask(&node, Request::Document, LONG).await.unwrap();
            let before = unloaded(&server);
            run(&mut server.client(), &["SCRIPT FLUSH"]);
            let answer = ask(&node, request.clone(), LONG).await;
            let is_done = match &answer {
                Ok(Reply::Refused(_) | Reply::Preempted(_)) | Err(_) => false,
                Ok(_) => true,
            };
            assert!(is_done, "{edition:?} {request:?}: {answer:?}");
            assert!(unloaded(&server) > before, "{edition:?} {request:?}");
        }
    }
}

/// After a release, its own acquire is not sent again.
#[tokio::test]
async fn no_acquire_is_sent_again_behind_its_release() {
    for edition in Edition::ALL {
        let (server, url) = start(edition);
        let options = || RedisOptions::default().encoding(Encoding::Script);
        drop(serving(&url, options()).await);
        for (round, first) in [acquire("k", 1), extend("k", 2)].into_iter().enumerate() {
            let node = RedisNode::new(&url, options()).unwrap();
            ask(&node, Request::Document, LONG).await.unwrap();
            let mut admin = server.client();
            // RELEASE is the only script that the server has.
            run(&mut admin, &["SCRIPT FLUSH"]);
            redis::cmd("SCRIPT")
                .arg(&[
                    "LOAD",
                    include_str!("../../src/node/redis/codec/lua/release.lua"),
                ])
                .exec(&mut admin)
                .unwrap();
            let inbox = Inbox::new(2);
            node.submit(first, now() + LONG, inbox.slot(0));
            node.submit(release("k", round as u128 + 1), now() + LONG, inbox.slot(1));
            let answers = inbox.all(LONG).await;
            let error = answers[0].as_ref().unwrap_err();
            assert!(error.is_unsent(), "{edition:?}: {error:?}");
            assert_eq!(error.kind(), NodeErrorKind::NotReady, "{error}");
            assert_eq!(answers[1], Ok(Reply::Missing), "{edition:?}");
            // Once this answer is there, everything that was sent is done.
            ask(&node, Request::Status, LONG).await.unwrap();
            let left: bool = redis::cmd("EXISTS")
                .arg("ringlock:k")
                .query(&mut admin)
                .unwrap();
            assert!(!left, "{edition:?}: an entry that nobody releases");
        }
    }
}

/// Routers notice nothing: sharded and by quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_under_flushes() {
    for (replicas, nodes) in [(1, 1), (3, 3)] {
        for edition in Edition::ALL {
            let servers: Vec<_> = (0..nodes).map(|_| start(edition)).collect();
            let builder = servers.iter().enumerate();
            let builder = builder.fold(Router::builder(), |builder, (index, (_, url))| {
                builder.node(ringlock_test_support::name(index), url)
            });
            let router = builder.init(Init::Now).replicas(replicas).connect();
            let router = router.await.unwrap();
            let flusher = Flusher::on(servers.iter().map(|(server, _)| server));
            for round in 0..200 {
                let key = format!("k{}", round % 7);
                let guard = router.acquire(&key).await.unwrap();
                guard.extend().await.unwrap();
                assert_eq!(guard.release().await.unwrap(), Released::InTime);
            }
            println!("{edition:?}: {} flushes", flusher.stop());
        }
    }
}
