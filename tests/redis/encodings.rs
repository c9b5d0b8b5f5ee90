//! The encodings of requests on a server with the newest commands, and the
//! fallbacks where these cannot be used.

use std::time::Duration;

use ringlock::node::Node;
use ringlock::node::redis::{Encoding, RedisNode, RedisOptions};
use ringlock::proto::lease::Ttl;
use ringlock::proto::node::message::{Answer, Reply, Request, ViewId};
use ringlock_test_support::RedisServer;
use ringlock_test_support::edition::Edition;
use ringlock_test_support::node::{Inbox, VIEW, acquire, ask, now, release, serving};

const LONG: Duration = Duration::from_secs(60);

/// A server with the newest commands and a node on it that uses them.
async fn newest() -> (RedisServer, RedisNode) {
    let server = RedisServer::start_edition(Edition::Valkey, &["--save", ""]);
    let node = serving(&server.url(), RedisOptions::default()).await;
    // It has read which view is served.
    ask(&node, Request::Status, LONG).await.unwrap();
    (server, node)
}

/// The number of requests that are put in flight first, so that the following
/// requests wait for the same batch: one full batch.
const AHEAD: usize = 64;

/// The answers to requests that wait for the same batch: the node reads no
/// answer to the requests in flight yet.
async fn together(node: &RedisNode, requests: impl IntoIterator<Item = Request>) -> Vec<Answer> {
    let ahead = std::iter::repeat_n(Request::Status, AHEAD);
    let requests: Vec<_> = ahead.chain(requests).collect();
    let inbox = Inbox::new(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        node.submit(request, now() + LONG, inbox.slot(index));
    }
    inbox.all(LONG).await.split_off(AHEAD)
}

fn is_granted(answer: &Answer) -> bool {
    matches!(answer, Ok(Reply::Granted { .. }))
}

fn is_busy(answer: &Answer) -> bool {
    matches!(answer, Ok(Reply::Busy(rival)) if rival.remaining > Some(LONG / 2))
}

/// The commands that the server has executed since the last call.
fn stats(server: &RedisServer) -> redis::InfoDict {
    let mut client = server.client();
    let stats = redis::cmd("INFO").arg("commandstats").query(&mut client);
    let reset = redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut client);
    reset.and(stats).unwrap()
}

fn count(stats: &redis::InfoDict, command: &str) -> usize {
    let stats: Option<String> = stats.get(&format!("cmdstat_{command}"));
    let calls = stats
        .as_deref()
        .and_then(|stats| stats.split(['=', ',']).nth(1));
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// How many of them were `command`.
fn calls(server: &RedisServer, command: &str) -> usize {
    count(&stats(server), command)
}

fn keys(server: &RedisServer) -> Vec<String> {
    let mut keys: Vec<String> = redis::cmd("KEYS")
        .arg("ringlock:*")
        .query(&mut server.client())
        .unwrap();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_release_by_command_reports_what_is_there() {
    let (server, node) = newest().await;
    ask(&node, acquire("mine", 1), LONG).await.unwrap();
    ask(&node, acquire("theirs", 2), LONG).await.unwrap();
    redis::cmd("RPUSH")
        .arg(&["ringlock:list", "no lock"])
        .exec(&mut server.client())
        .unwrap();
    calls(&server, "delifeq");
    let names = ["mine", "theirs", "list", "nothing"];
    let expected = [
        Reply::Released,
        Reply::Foreign,
        Reply::Missing,
        Reply::Missing,
    ];
    let answers = together(&node, names.map(|name| release(name, 1))).await;
    assert_eq!(answers, expected.map(Ok));
    assert_eq!(calls(&server, "delifeq"), 4);
    assert_eq!(keys(&server), ["ringlock:list", "ringlock:theirs"]);
}

#[tokio::test]
async fn free_keys_are_set_together() {
    let (server, node) = newest().await;
    calls(&server, "msetex");
    let names: Vec<_> = (0..64).map(|key| format!("k{key}")).collect();
    let answers = together(&node, names.iter().map(|name| acquire(name, 1))).await;
    for (count, answer) in (1..).zip(answers) {
        assert_eq!(answer, Ok(Reply::Granted { counter: count }));
    }
    assert_eq!(keys(&server).len(), 64);
    let left: i64 = redis::cmd("PTTL")
        .arg("ringlock:k63")
        .query(&mut server.client())
        .unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    assert_eq!(calls(&server, "msetex"), 1);
}

#[tokio::test]
async fn one_held_key_keeps_no_other_from_being_set() {
    let (server, node) = newest().await;
    ask(&node, acquire("held", 1), LONG).await.unwrap();
    calls(&server, "msetex");
    let names = ["a", "held", "b", "c"];
    let answers = together(&node, names.map(|name| acquire(name, 2))).await;
    let granted: Vec<_> = answers.iter().map(is_granted).collect();
    assert_eq!(granted, [true, false, true, true], "{answers:?}");
    assert!(is_busy(&answers[1]), "{answers:?}");
    assert_eq!(calls(&server, "msetex"), 1);
    // After that it is skipped once, and then tried again.
    for (round, tries) in [("d", 0), ("e", 1), ("f", 1)] {
        let names = [format!("{round}1"), format!("{round}2")];
        let answers = together(&node, names.map(|name| acquire(&name, 2))).await;
        assert!(answers.iter().all(is_granted), "{round}: {answers:?}");
        assert_eq!(calls(&server, "msetex"), tries, "{round}");
    }
}

#[tokio::test]
async fn an_own_entry_is_found_again() {
    let (_server, node) = newest().await;
    ask(&node, acquire("a", 1), LONG).await.unwrap();
    let answers = together(&node, ["a", "b"].map(|name| acquire(name, 1))).await;
    assert!(answers.iter().all(is_granted), "{answers:?}");
}

#[tokio::test]
async fn keys_of_different_ttls_are_set_one_by_one() {
    let (server, node) = newest().await;
    calls(&server, "msetex");
    let mut longer = acquire("longer", 1);
    if let Request::Acquire { ttl, .. } = &mut longer {
        *ttl = Ttl::new(2 * LONG, 2 * LONG).unwrap();
    }
    let answers = together(&node, [acquire("a", 1), longer]).await;
    assert!(answers.iter().all(is_granted), "{answers:?}");
    assert_eq!(calls(&server, "msetex"), 0);
    let left: i64 = redis::cmd("PTTL")
        .arg("ringlock:longer")
        .query(&mut server.client())
        .unwrap();
    assert!(left > 60_000, "{left}");
}

#[tokio::test]
async fn counters_of_quorums_waste_no_count() {
    let (server, node) = newest().await;
    calls(&server, "msetex");
    let of_quorum = |name| {
        let mut request = acquire(name, 1);
        if let Request::Acquire { slot, .. } = &mut request {
            slot.replicas = 3;
        }
        request
    };
    let answers = together(&node, ["a", "b"].map(of_quorum)).await;
    assert!(answers.iter().all(is_granted), "{answers:?}");
    assert_eq!(calls(&server, "msetex"), 0);
}

#[tokio::test]
async fn a_key_is_granted_once_however_often_it_is_asked_for() {
    let (server, node) = newest().await;
    calls(&server, "msetex");
    let wanted = [("a", 1), ("b", 1), ("b", 2), ("c", 2), ("b", 3), ("d", 3)];
    let answers = together(&node, wanted.map(|(name, token)| acquire(name, token))).await;
    let granted: Vec<_> = answers.iter().map(is_granted).collect();
    assert_eq!(
        granted,
        [true, true, false, true, false, true],
        "{answers:?}"
    );
    assert!(calls(&server, "msetex") > 0);
}

#[tokio::test]
async fn no_release_overtakes_an_acquire_that_is_sent_again() {
    let (server, node) = newest().await;
    ask(&node, acquire("held", 1), LONG).await.unwrap();
    let requests = [
        acquire("a", 2),
        acquire("held", 2),
        release("a", 2),
        acquire("a", 3),
    ];
    let answers = together(&node, requests).await;
    assert!(
        is_granted(&answers[0]) && is_busy(&answers[1]),
        "{answers:?}"
    );
    assert_eq!(answers[2], Ok(Reply::Released));
    assert!(is_granted(&answers[3]), "{answers:?}");
    ask(&node, release("a", 3), LONG).await.unwrap();
    assert_eq!(keys(&server), ["ringlock:held"]);
}

/// The view changes behind the back of the connection, which has read it before.
#[tokio::test]
async fn entries_made_under_another_view_are_released() {
    let (server, node) = newest().await;
    let other = ViewId { epoch: 2, ..VIEW };
    let serve = |view: ViewId| {
        redis::cmd("SET")
            .arg(&["ringlock!id", &view.to_string()])
            .exec(&mut server.client())
            .unwrap();
    };
    let stale = Ok(Reply::Stale(Some(other)));
    for _ in 0..2 {
        // Once the answer is there, everything that the node undoes is undone.
        ask(&node, Request::Status, LONG).await.unwrap();
        serve(other);
        calls(&server, "hincrby");
        assert_eq!(ask(&node, acquire("a", 1), LONG).await, stale);
        assert_eq!(calls(&server, "hincrby"), 1);
        ask(&node, Request::Status, LONG).await.unwrap();
        assert_eq!(keys(&server), [""; 0]);
        // It has read the other view: it makes no entry under this one.
        assert_eq!(ask(&node, acquire("a", 1), LONG).await, stale);
        assert_eq!(calls(&server, "hincrby"), 0);
        serve(VIEW);
    }
    // Where the key is held, no entry is created at all.
    ask(&node, acquire("b", 1), LONG).await.unwrap();
    ask(&node, acquire("c", 1), LONG).await.unwrap();
    serve(other);
    assert_eq!(ask(&node, acquire("b", 2), LONG).await, stale);
    assert_eq!(keys(&server), ["ringlock:b", "ringlock:c"]);
}

/// A connection that has not read the view asks for it by script, which checks it
/// ahead of the entries.
#[tokio::test]
async fn the_first_acquire_under_a_view_is_a_script() {
    let (server, node) = newest().await;
    let other = ViewId { epoch: 2, ..VIEW };
    let under = |name, view| {
        let mut request = acquire(name, 1);
        if let Request::Acquire { view: own, .. } = &mut request {
            *own = view;
        }
        request
    };
    redis::cmd("SET")
        .arg(&["ringlock!id", &other.to_string()])
        .exec(&mut server.client())
        .unwrap();
    for (name, is_scripted) in [("a", true), ("b", false)] {
        calls(&server, "evalsha");
        let answer = ask(&node, under(name, other), LONG).await.unwrap();
        assert!(matches!(answer, Reply::Granted { .. }), "{answer:?}");
        assert_eq!(calls(&server, "evalsha") == 1, is_scripted, "{name}");
    }
}

/// Every form of acquire and release on one connection.
async fn works(server: &RedisServer, node: &RedisNode) {
    let names = ["a", "b", "c"];
    let answers = together(node, names.map(|name| acquire(name, 1))).await;
    assert!(answers.iter().all(is_granted), "{answers:?}");
    let answers = together(node, names.map(|name| release(name, 1))).await;
    assert_eq!(answers, vec![Ok(Reply::Released); 3]);
    assert_eq!(ask(node, release("a", 1), LONG).await, Ok(Reply::Missing));
    let held = keys(server);
    assert!(held.iter().all(|key| key == "ringlock:first"), "{held:?}");
}

#[tokio::test]
async fn commands_that_the_user_may_not_use_are_done_without() {
    let (server, node) = newest().await;
    drop(node);
    let rights = |rights: &str| {
        redis::cmd("ACL")
            .arg(&["SETUSER", "default", rights])
            .exec(&mut server.client())
            .unwrap();
    };
    for denied in ["-msetex", "-delifeq"] {
        rights("+@all");
        let node = RedisNode::new(&server.url(), RedisOptions::default()).unwrap();
        works(&server, &node).await;
        rights(denied);
        stats(&server);
        // The node finds out by a refusal.
        works(&server, &node).await;
        let stats = stats(&server);
        // Two releases, and the STATUS requests.
        assert_eq!(count(&stats, "evalsha"), 2 + 2 * AHEAD, "{denied}");
        assert_eq!(count(&stats, "delifeq"), 0, "{denied}");
        let later = RedisNode::new(&server.url(), RedisOptions::default()).unwrap();
        works(&server, &later).await;
    }
}

#[tokio::test]
async fn an_encoding_is_a_limit() {
    let server = RedisServer::start_edition(Edition::Valkey, &["--save", ""]);
    drop(serving(&server.url(), RedisOptions::default()).await);
    for (encoding, used) in [
        (Encoding::Script, [true, false, false, false]),
        (Encoding::Pipeline, [true, true, false, false]),
        (Encoding::Command, [true, true, true, true]),
    ] {
        let options = RedisOptions::default().encoding(encoding);
        let node = RedisNode::new(&server.url(), options).unwrap();
        ask(&node, acquire("first", 1), LONG).await.unwrap();
        stats(&server);
        works(&server, &node).await;
        ask(&node, release("first", 1), LONG).await.unwrap();
        let stats = stats(&server);
        let commands = ["evalsha", "hincrby", "msetex", "delifeq"];
        let found = commands.map(|command| count(&stats, command) > 0);
        assert_eq!(found, used, "{encoding:?}");
    }
}
