//! A server that lies: the router does not believe it, the other nodes work as
//! before, and once it is truthful again it is used again.

use std::time::{Duration, Instant};

use ringlock::{Cause, Error, Init, NodeErrorKind, Released, Router};

use ringlock_test_support::fake::FakeServer;
use ringlock_test_support::node::GRACE;
use ringlock_test_support::{RedisServer, ms};

/// Three nodes, the first of which may lie, and a router with one replica for
/// each key.
struct Testbed {
    liar: FakeServer,
    router: Router,
    _servers: Vec<RedisServer>,
}

impl Testbed {
    async fn new() -> Self {
        let servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect();
        let liar = FakeServer::before(&servers[0]).await;
        let router = Router::builder()
            .init(Init::Now)
            .configure(|config| config.router.connect_timeout = ms(500))
            .node("a", liar.url())
            .node("b", servers[1].url())
            .node("c", servers[2].url())
            .connect()
            .await
            .unwrap();
        Self {
            liar,
            router,
            _servers: servers,
        }
    }

    /// A key that the liar owns, and one that another node owns.
    fn keys(&self, tag: &str) -> (String, String) {
        let of = |is_liars: bool| {
            let mut keys = (0..).map(|index| format!("{tag}/{index}"));
            let is_wanted =
                |key: &String| (&*self.router.route(key).unwrap().owner == "a") == is_liars;
            keys.find(is_wanted).unwrap()
        };
        (of(true), of(false))
    }

    /// The error that results from the liar's replies.
    async fn refused(&self, tag: &str) -> String {
        let (liars, others) = self.keys(tag);
        let error = self
            .router
            .try_acquire(&liars)
            .ttl(Duration::from_secs(2))
            .await
            .expect_err("a lie is not believed");
        let text = format!("{error:#}");
        let Error::NoQuorum { causes, .. } = &error else {
            panic!("{tag}: {error:?}");
        };
        let Cause::Failed(cause) = &causes[0].cause else {
            panic!("{tag}: {error:?}");
        };
        use NodeErrorKind::{Protocol, Timeout, Unreachable, WrongType};
        assert!(
            matches!(cause.kind(), Protocol | Timeout | Unreachable | WrongType),
            "{tag}: {error:?}"
        );
        assert!(text.len() < 2_000, "{tag}: {} bytes", text.len());
        assert!(!text.contains(char::is_control), "{tag}: {text:?}");
        // The other nodes are not affected.
        let guard = self.router.acquire(&others).await.unwrap();
        assert_eq!(guard.release().await.unwrap(), Released::InTime, "{tag}");
        text
    }

    async fn recovers(&self, tag: &str) {
        self.liar.tell_the_truth();
        let (liars, _) = self.keys(tag);
        let deadline = Instant::now() + GRACE;
        let guard = loop {
            match self.router.try_acquire(&liars).await {
                Ok(guard) => break guard,
                Err(error) => assert!(Instant::now() < deadline, "{tag}: {error}"),
            }
            // An attempt that fails at once would never let other tasks run.
            tokio::time::sleep(ms(1)).await;
        };
        assert_eq!(guard.release().await.unwrap(), Released::InTime, "{tag}");
    }
}

#[tokio::test]
async fn it_is_disconnected_and_taken_back() {
    let testbed = Testbed::new().await;
    let half: &[u8] = b"*2\r\n$1\r\n1\r\n*1\r\n:";
    let surplus = b"+OK\r\n".repeat(40);
    let deep = b"*1\r\n".repeat(10_000);
    let endless = vec![b'x'; 5 << 20];
    let lies: [(&str, &[u8], bool); 14] = [
        ("garbage", b"\x00\xff\xfe nonsense\r\n", false),
        ("half and silence", half, false),
        ("half and hang-up", half, true),
        ("hang-up", b"", true),
        ("a huge text", b"$4000000000\r\nx", false),
        ("a large text that does not come", b"$4000000\r\nx", false),
        ("a huge list", b"*2000000000\r\n:1\r\n", false),
        ("no end of a line", &endless, false),
        ("lists in lists", &deep, false),
        ("more than asked", &surplus, false),
        (
            "a push",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
            false,
        ),
        ("a map", b"%1\r\n$1\r\na\r\n:1\r\n", false),
        ("a nil", b"$-1\r\n", false),
        (
            "a grant of nothing",
            b"*2\r\n$1\r\n0\r\n*1\r\n:99\r\n",
            false,
        ),
    ];
    for (tag, said, is_last) in lies {
        testbed.liar.say(said, is_last);
        testbed.refused(tag).await;
        testbed.recovers(tag).await;
    }
}

/// The text of a server's error is escaped and cut, so that it is harmless.
#[tokio::test]
async fn its_errors_are_shown_escaped_and_cut() {
    let testbed = Testbed::new().await;
    let long = format!("-ERR {}\r\n", "long ".repeat(100_000));
    let bidi = "-ERR \u{202e}turned\u{2066} \u{9b}31m\r\n";
    let errors: [(&str, &[u8], &str); 6] = [
        ("colours", b"-ERR \x1b[31mred\x1b[0m\r\n", "\\u{1b}[31mred"),
        (
            "a title",
            b"-ERR \x1b]0;gone\x07\r\n",
            "\\u{1b}]0;gone\\u{7}",
        ),
        (
            "lines",
            b"-ERR one\n2026-01-01 INFO all is well\r\n",
            "one\\n2026",
        ),
        ("no text", b"-ERR \xff\xfe\r\n", "refuses a command"),
        ("direction", bidi.as_bytes(), "\\u{202e}turned"),
        ("length", long.as_bytes(), "long long"),
    ];
    for (tag, said, shown) in errors {
        testbed.liar.say(said, false);
        let text = testbed.refused(tag).await;
        assert!(text.contains(shown), "{tag}: {text}");
        assert!(!text.contains(['\u{202e}', '\u{2066}', '\u{1b}']), "{text}");
        testbed.recovers(tag).await;
    }
}

/// A node that lies from the start prevents nobody from locking.
#[tokio::test]
async fn a_quorum_does_without_it() {
    let servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect();
    let liar = FakeServer::before(&servers[0]).await;
    let builder = || {
        Router::builder()
            .init(Init::Now)
            .replicas(3)
            .node("a", liar.url())
            .node("b", servers[1].url())
            .node("c", servers[2].url())
    };
    let router = builder().connect().await.unwrap();
    let mut fence = 0;
    for said in [
        &b"-ERR \x1b[31m\r\n"[..],
        b":1\r\n",
        b"*0\r\n",
        b">0\r\n",
        b"$-1\r\n",
        b"?\r\n",
    ] {
        liar.say(said, false);
        for router in [router.clone(), builder().connect().await.unwrap()] {
            let guard = router.acquire("k").await.unwrap();
            assert!(guard.fence().get() > fence, "fences go on growing");
            fence = guard.fence().get();
            guard.release().await.unwrap();
        }
    }
}
