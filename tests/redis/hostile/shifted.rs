//! Replies to other requests: one reply is dropped, duplicated, swapped or
//! added, and all that follow would fit the wrong requests.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::NodeErrorKind;
use ringlock::node::Node;
use ringlock::node::redis::{Encoding, RedisNode, RedisOptions};
use ringlock::proto::node::message::{IfMissing, Reply, Request};

use ringlock_test_support::edition::Edition;
use ringlock_test_support::fake::FakeServer;
use ringlock_test_support::node::{
    GRACE, Inbox, VIEW, acquire, adopt, ask, extend, now, release, serving,
};
use ringlock_test_support::{RedisServer, ms, seed};

fn drop_next(liar: &FakeServer) {
    let mut is_left_out = false;
    liar.lie(move |reply| {
        let is_first = !std::mem::replace(&mut is_left_out, true);
        if is_first { Vec::new() } else { reply }
    });
}

/// The reply to the first request is lost. With scripts without a mark, the
/// second, for a held key, would get the third's grant.
#[tokio::test]
async fn a_grant_is_not_taken_for_the_one_before() {
    let server = RedisServer::start();
    drop(serving(&server.url(), RedisOptions::default()).await);
    for encoding in [Encoding::Script, Encoding::Pipeline, Encoding::Command] {
        let liar = FakeServer::before(&server).await;
        let options = RedisOptions::default().encoding(encoding);
        let honest = RedisNode::new(&server.url(), options.clone()).unwrap();
        let held = format!("held by another {encoding:?}");
        ask(&honest, acquire(&held, 1), GRACE).await.unwrap();
        let node = RedisNode::new(&liar.url(), options).unwrap();
        ask(&node, Request::Status, GRACE).await.unwrap();
        drop_next(&liar);
        let lost = ask(&node, acquire("first", 2), ms(100)).await.unwrap_err();
        assert!(
            matches!(
                lost.kind(),
                NodeErrorKind::Timeout | NodeErrorKind::Protocol
            ),
            "{lost}"
        );
        let inbox = Inbox::new(2);
        node.submit(acquire(&held, 2), now() + ms(500), inbox.slot(0));
        node.submit(
            acquire(&format!("free {encoding:?}"), 2),
            now() + ms(500),
            inbox.slot(1),
        );
        let answers = inbox.all(ms(500)).await;
        let is_granted = matches!(answers[0], Ok(Reply::Granted { .. }));
        assert!(!is_granted, "{encoding:?}: {answers:?}");
        // The node works again with the next connection.
        liar.tell_the_truth();
        let again = acquire(&format!("again {encoding:?}"), 3);
        let deadline = std::time::Instant::now() + GRACE;
        while !matches!(
            ask(&node, again.clone(), ms(500)).await,
            Ok(Reply::Granted { .. })
        ) {
            assert!(std::time::Instant::now() < deadline, "it does not recover");
        }
    }
}

/// An ACCEPT whose reply is lost must not take another script's 1.
#[tokio::test]
async fn a_vote_is_not_taken_for_the_one_before() {
    use ringlock::proto::node::message::Ballot;
    let server = RedisServer::start();
    drop(serving(&server.url(), RedisOptions::default()).await);
    let liar = FakeServer::before(&server).await;
    let node = RedisNode::new(&liar.url(), RedisOptions::default()).unwrap();
    ask(&node, Request::Status, GRACE).await.unwrap();
    let ballot = |round| Ballot { round, proposer: 1 };
    let prepare = Request::Prepare {
        view: VIEW,
        ballot: ballot(9),
    };
    ask(&node, prepare, GRACE).await.unwrap();
    drop_next(&liar);
    ask(&node, Request::Status, ms(100)).await.unwrap_err();
    // Refused, because a higher ballot was promised; behind it, a request that
    // succeeds.
    let accept = Request::Accept {
        view: VIEW,
        ballot: ballot(1),
        next: VIEW,
        document: "a document".into(),
    };
    let inbox = Inbox::new(2);
    node.submit(accept, now() + ms(500), inbox.slot(0));
    node.submit(adopt(), now() + ms(500), inbox.slot(1));
    let answers = inbox.all(ms(500)).await;
    assert_ne!(answers[0], Ok(Reply::Done), "{answers:?}");
}

/// Whatever happens to replies, a key that is reported as held is held.
///
/// Replies to commands change places only where they belong to scripts: the
/// replies to several keys' SET have the same form, and nothing names their key.
#[tokio::test]
async fn at_random() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    for edition in Edition::ALL {
        let server = RedisServer::start_edition(edition, &["--save", ""]);
        drop(serving(&server.url(), RedisOptions::default()).await);
        let mut believed = 0;
        for round in 0..60 {
            let encodings = [Encoding::Script, Encoding::Pipeline, Encoding::Command];
            believed += twisted(&server, encodings[round % 3], round, &mut rng).await;
        }
        assert!(believed > 60, "hardly anything was granted: {believed}");
        println!("{believed} grants, all of them true");
    }
}

/// After `until` replies, one is dropped, duplicated, added or swapped with the
/// next.
fn twist(how: i32, mut until: i32) -> impl FnMut(Vec<u8>) -> Vec<u8> + Send {
    let mut held_back = None;
    move |reply| {
        until -= 1;
        if until > 0 {
            return reply;
        }
        match (how, until) {
            (0, 0) => Vec::new(),
            (1, 0) => reply.repeat(2),
            (2, 0) => [&b"*1\r\n:1\r\n"[..], &reply].concat(),
            (_, 0) => {
                held_back = Some(reply);
                Vec::new()
            }
            _ => [reply, held_back.take().unwrap_or_default()].concat(),
        }
    }
}

async fn twisted(
    server: &RedisServer,
    encoding: Encoding,
    round: usize,
    rng: &mut StdRng,
) -> usize {
    const REQUESTS: usize = 40;
    let liar = FakeServer::before(server).await;
    let options = RedisOptions::default().encoding(encoding);
    let node = RedisNode::new(&liar.url(), options).unwrap();
    ask(&node, Request::Status, GRACE).await.unwrap();
    let most = if encoding == Encoding::Script { 4 } else { 3 };
    let (how, until) = (rng.random_range(0..most), rng.random_range(0..30));
    liar.lie(twist(how, until));
    // Each key is requested with one of two tokens, and none is released: a
    // token that gets a grant must have the key in the end.
    let inbox = Inbox::new(REQUESTS);
    let mut sent = Vec::new();
    for index in 0..REQUESTS {
        let (key, token) = (
            format!("{round}/{}", rng.random_range(0..20)),
            rng.random_range(1..3),
        );
        let request = match rng.random_range(0..8) {
            0 => extend(&key, token, IfMissing::Report),
            1 => Request::Status,
            2 => release(&format!("{key}/other"), token),
            _ => acquire(&key, token),
        };
        sent.push((request.clone(), token));
        node.submit(request, now() + ms(300), inbox.slot(index));
        if rng.random_range(0..4) == 0 {
            tokio::time::sleep(ms(1)).await;
        }
    }
    let answers = inbox.all(Duration::from_millis(300)).await;
    let mut client = server.client();
    let mut found: HashMap<String, Option<String>> = HashMap::new();
    let mut believed = 0;
    for ((request, token), answer) in sent.iter().zip(answers) {
        if !matches!(
            answer,
            Ok(Reply::Granted { .. } | Reply::Kept { .. } | Reply::Made { .. })
        ) {
            continue;
        }
        let key = request.key().expect("a lock's").to_string();
        let stored = found.entry(key.clone()).or_insert_with(|| {
            redis::cmd("GET")
                .arg(format!("ringlock:{key}"))
                .query(&mut client)
                .unwrap()
        });
        let own = format!("{token:032x}");
        assert_eq!(
            stored.as_deref(),
            Some(&*own),
            "{encoding:?} {how}: {request:?}, {answer:?}"
        );
        believed += 1;
    }
    believed
}
