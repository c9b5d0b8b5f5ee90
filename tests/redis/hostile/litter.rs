//! Foreign data in the database: under ringlock's own names, and under those of
//! locks.

use std::process::Command;

use redis::Commands;
use ringlock::{Cause, Error, Init, NodeErrorKind, Router, RouterBuilder};

use ringlock_test_support::{RedisServer, ms};

fn builder(server: &RedisServer) -> RouterBuilder {
    Router::builder()
        .init(Init::Now)
        .configure(|config| config.router.connect_timeout = ms(500))
        .node("a", server.url())
}

fn run(server: &RedisServer, command: &[&str]) {
    redis::cmd(command[0])
        .arg(&command[1..])
        .exec(&mut server.client())
        .unwrap();
}

/// The error's text, which must be short and escaped; the error is not
/// contention.
#[track_caller]
fn reported(error: &Error) -> String {
    let text = format!("{error:#}");
    assert!(!error.is_contention(), "{text}");
    assert!(
        text.len() < 2_000 && !text.contains(char::is_control),
        "{text:?}"
    );
    text
}

/// A foreign value replaces ringlock's own state, while it runs.
#[tokio::test]
async fn at_ringlocks_own_names() {
    let litter: [(&str, &[&str]); 8] = [
        ("ringlock!m", &["SET", "ringlock!m", "a text"]),
        ("ringlock!m", &["RPUSH", "ringlock!m", "a list"]),
        ("ringlock!id", &["RPUSH", "ringlock!id", "a list"]),
        ("ringlock!id", &["HSET", "ringlock!id", "a", "hash"]),
        ("ringlock!id", &["SET", "ringlock!id", "\x1b[31mno id"]),
        ("ringlock!c", &["SET", "ringlock!c", "a text"]),
        ("ringlock!c", &["HSET", "ringlock!c", "1/0/0", "a word"]),
        (
            "ringlock!c",
            &["HSET", "ringlock!c", "1/0/0", "17592186044416"],
        ),
    ];
    for (name, command) in litter {
        let server = RedisServer::start();
        let router = builder(&server).connect().await.unwrap();
        let fence = router.acquire("k").await.unwrap().fence();
        router.acquire("k").await.unwrap().release().await.unwrap();
        run(&server, &["DEL", name]);
        run(&server, command);
        for _ in 0..3 {
            match router.try_acquire("k").await {
                // A view is served even if the other fields are gone; that
                // would cost another read.
                Ok(guard) if name == "ringlock!m" => assert!(guard.fence() > fence),
                Ok(guard) => panic!("{command:?}: {guard:?}"),
                Err(error) => drop(reported(&error)),
            }
        }
        // A new connection reports it too.
        match builder(&server).connect().await {
            Ok(router) => match router.try_acquire("k").await {
                Ok(guard) => panic!("{command:?}: {guard:?}"),
                Err(error) => drop(reported(&error)),
            },
            Err(error) => drop(reported(&error)),
        }
    }
}

#[tokio::test]
async fn damaged_state_is_reported_as_such() {
    for (name, command) in [
        ("ringlock!c", ["SET", "ringlock!c", "a text"]),
        ("ringlock!id", ["RPUSH", "ringlock!id", "a list"]),
    ] {
        let server = RedisServer::start();
        let router = builder(&server).connect().await.unwrap();
        let before = router.acquire("k").await.unwrap().fence();
        run(&server, &["DEL", name]);
        run(&server, &command);
        let error = router.try_acquire("k").await.unwrap_err();
        let text = reported(&error);
        assert!(
            text.contains("ringlock's own state") && text.contains("delete all of it"),
            "{text}"
        );
        let Error::NoQuorum { causes, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(
            matches!(&causes[0].cause, Cause::Failed(e) if e.kind() == NodeErrorKind::WrongType),
            "{error:?}"
        );
        drop(router);
        // The remedy in the error's text: no epoch decreases through it.
        run(&server, &["DEL", "ringlock!id", "ringlock!m", "ringlock!c"]);
        let router = builder(&server)
            .configure(|config| config.router.max_ttl = ms(200))
            .ttl(ms(200))
            .connect()
            .await
            .unwrap();
        let after = router.acquire("k").await.unwrap().fence();
        assert!(after.epoch() >= before.epoch());
    }
}

/// Counters beyond the range of fences are refused, not cut.
#[tokio::test]
async fn counters_without_room() {
    let server = RedisServer::start();
    let router = builder(&server).connect().await.unwrap();
    router.acquire("k").await.unwrap().release().await.unwrap();
    for count in ["17592186044415", "9007199254740993", "9223372036854775806"] {
        run(&server, &["HSET", "ringlock!c", "1/0/0", count]);
        let error = router.try_acquire("k").await.unwrap_err();
        reported(&error);
    }
    run(&server, &["HSET", "ringlock!c", "1/0/0", "17592186044413"]);
    // For a connection that saw the higher counter, a lower one is a loss of
    // data.
    let router = builder(&server).connect().await.unwrap();
    let last = router.acquire("k").await.unwrap();
    assert_eq!(last.fence().counter(), (1 << 44) - 2);
}

/// Values of other programs under a lock's name.
#[tokio::test]
async fn at_a_locks_name() {
    let server = RedisServer::start();
    let router = builder(&server).connect().await.unwrap();
    let long = "x\x1b[31m\u{202e}".repeat(20_000);
    let title = format!("{} \x1b]0;gone\x07\r\n\u{9b}", "0".repeat(32));
    let pages = format!("{} {}", "0".repeat(32), "\u{1b}".repeat(5_000));
    let names = [
        ("long", &*long),
        ("title", &title),
        ("pages", &pages),
        ("empty", ""),
    ];
    let mut client = server.client();
    for (key, value) in names {
        let () = client.set(format!("ringlock:{key}"), value).unwrap();
        let error = router.try_acquire(key).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.is_contention(), "{text}");
        assert!(text.len() < 3_000, "{} bytes", text.len());
        let is_unfit = |char: char| char.is_control() || matches!(char, '\u{202e}' | '\u{9b}');
        assert!(!text.contains(is_unfit), "{text:?}");
    }
    for (key, command) in [("list", "RPUSH"), ("set", "SADD")] {
        redis::cmd(command)
            .arg(format!("ringlock:{key}"))
            .arg("x")
            .exec(&mut client)
            .unwrap();
        let error = router.try_acquire(key).await.unwrap_err();
        assert!(reported(&error).contains("not a lock"), "{error}");
    }
    shown_by_the_program(&server);
}

fn shown_by_the_program(server: &RedisServer) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringlock.toml");
    let node = format!("[[node]]\nname = \"a\"\nurl = \"{}\"\n", server.url());
    std::fs::write(&file, node).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringlock"))
            .env("RINGLOCK_CONFIG", &file)
            .args(arguments)
            .output()
            .unwrap();
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8(shown).unwrap();
        let is_unfit = |char: char| {
            matches!(
                char,
                '\u{1b}' | '\u{7}' | '\r' | '\u{9b}' | '\u{202e}' | '\0'
            )
        };
        assert!(!shown.contains(is_unfit), "{arguments:?}: {shown:?}");
        assert!(shown.len() < 40_000, "{arguments:?}: {} bytes", shown.len());
        shown
    };
    assert!(run(&["locks"]).contains("title"));
    for arguments in [
        &["locks", "--json"][..],
        &["locks", "--key", "title"],
        &["status"],
        &["doctor"],
        &["status", "--json"],
        &["release", "title", "--force"],
        &["exec", "pages", "--", "true"],
    ] {
        run(arguments);
    }
}
