//! A password appears nowhere: not in errors, debug output, logs, panics, the
//! program's output, the holder's label, or the data on servers.

use std::fmt::{self, Write};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use ringlock::node::redis::inspect::{Credentials, Server};
use ringlock::node::redis::{RedisNode, RedisOptions};
use ringlock::{Change, Config, Error, Init, NodeConfig, Router};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use ringlock_test_support::{RedisServer, ms};

/// Needs escaping in a URL, so that the two forms differ.
const SECRET: &str = "Zx9/s3cr@t Qk7";
const ENCODED: &str = "Zx9%2Fs3cr%40t%20Qk7";
const WRONG: &str = "Yw8s3cretPv6";

/// Distinctive parts, in every form in which they may be written.
const PARTS: [&str; 6] = [SECRET, ENCODED, "Zx9", "s3cr", "Qk7", WRONG];

/// Collects all traced events and spans.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut log = self.0.lock();
        write!(log, "\nspan {}", span.metadata().name()).unwrap();
        span.record(&mut Fields(&mut log));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock();
        write!(
            log,
            "\n{} {}",
            event.metadata().level(),
            event.metadata().target()
        )
        .unwrap();
        event.record(&mut Fields(&mut log));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[track_caller]
fn is_clean(what: &str, text: &str) {
    for part in PARTS {
        assert!(!text.contains(part), "{what} has {part:?} in it: {text}");
    }
}

fn everything_on(server: &RedisServer) -> String {
    let client = redis::Client::open(format!("{}?pass={ENCODED}", server.url())).unwrap();
    let mut client = client.get_connection().unwrap();
    let mut all = String::new();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    for key in keys {
        let mut command = redis::cmd("TYPE");
        let kind: String = command.arg(&key).query(&mut client).unwrap();
        let read = if kind == "hash" { "HGETALL" } else { "GET" };
        let value: redis::Value = redis::cmd(read).arg(&key).query(&mut client).unwrap();
        write!(all, "{key} {value:?} ").unwrap();
        if let redis::Value::BulkString(bytes) = &value {
            all += &String::from_utf8_lossy(bytes);
        }
        if let redis::Value::Array(parts) = &value {
            for part in parts {
                if let redis::Value::BulkString(bytes) = part {
                    all += &String::from_utf8_lossy(bytes);
                }
            }
        }
    }
    assert!(
        all.contains("ringlock!m") && all.contains("\"nodes\""),
        "{all}"
    );
    all
}

fn locked() -> (RedisServer, u16) {
    let (server, port) = RedisServer::start_on_tcp(&["--requirepass", SECRET]);
    (server, port)
}

#[tokio::test]
async fn in_logs_errors_and_what_is_stored() {
    let log = Log::default();
    // For this thread, which runs all the tasks of the test's runtime.
    ringlock_test_support::share_callsites();
    let _guard = tracing::subscriber::set_default(log.clone());
    let servers = [locked(), locked(), locked()];
    let (unix, [first, second, third]) =
        (servers[1].0.url(), [0, 1, 2].map(|n: usize| servers[n].1));
    let urls = [
        format!("redis://:{ENCODED}@127.0.0.1:{first}"),
        format!("{unix}?pass={ENCODED}"),
        format!("redis://default:{ENCODED}@127.0.0.1:{third}"),
    ];
    let builder = || {
        let names = ["a", "b", "c"].into_iter().zip(&urls);
        let short = |config: &mut Config| {
            config.router.connect_timeout = ms(300);
            config.router.max_ttl = ms(300);
            config.router.view_lease = ms(300);
        };
        let builder = Router::builder()
            .init(Init::Now)
            .ttl(ms(300))
            .configure(short);
        names.fold(builder, |builder, (name, url)| builder.node(name, url))
    };
    is_clean("a builder", &format!("{:?}", builder()));
    let router = builder().connect().await.unwrap();
    is_clean(
        "a router",
        &format!("{router:?} {:?}", router.route("k").unwrap()),
    );
    let guard = router.acquire("k").await.unwrap();
    is_clean("a guard", &format!("{guard:?}"));
    let contended = builder()
        .connect()
        .await
        .unwrap()
        .try_acquire("k")
        .await
        .unwrap_err();
    is_clean("a label", &format!("{contended} {contended:?}"));
    guard.release().await.unwrap();

    changes(&router, &servers).await;
    failures(&unix, second).await;
    syntax_errors();
    panics(router).await;
    let log = log.0.lock();
    is_clean("the log", &log);
    assert!(
        log.contains("cannot connect"),
        "it has been captured: {log}"
    );
}

/// Makes a plan and applies it.
async fn changes(router: &Router, servers: &[(RedisServer, u16)]) {
    let (spare, port) = locked();
    let url = format!("redis://:{ENCODED}@127.0.0.1:{port}");
    let rebalancer = router.rebalancer();
    let change = Change::Add(NodeConfig::new("d", &url));
    is_clean("a change", &format!("{change:?}"));
    let plan = rebalancer.plan([change]).await.unwrap();
    is_clean("a plan", &format!("{plan} {plan:?} {}", plan.to_json()));
    let mut progress = String::new();
    let report = rebalancer
        .apply(&plan, |step| write!(progress, "{step:?}").unwrap())
        .await
        .unwrap();
    is_clean("progress", &format!("{progress} {report:?}"));
    for server in servers.iter().map(|(server, _)| server).chain([&spare]) {
        is_clean("a server", &everything_on(server));
    }
}

/// Failures with passwords that are wrong or in the wrong place.
async fn failures(unix: &str, second: u16) {
    let bad = [
        format!("redis://:{WRONG}@127.0.0.1:{second}"),
        format!("redis://nobody:{WRONG}@127.0.0.1:{second}"),
        format!("redis://:{ENCODED}@127.0.0.1:1"),
        format!("redis://:{ENCODED}@127.0.0.1:port"),
        format!("redis://:{ENCODED}@"),
        format!("rediss://:{ENCODED}@h#x"),
        format!("http://:{ENCODED}@h"),
        format!("{ENCODED}://h"),
        format!(":{ENCODED}@h"),
        format!("redis://:{ENCODED}@h/${{NOT_SET_ANYWHERE}}"),
        format!("redis://:${{{WRONG} {ENCODED}@h}}"),
        format!("redis://:${{{ENCODED}@h"),
        format!("{unix}?pass={WRONG}"),
        format!("unix:///nowhere?pass={ENCODED}"),
    ];
    for url in bad {
        let node = NodeConfig::new("x", &url);
        is_clean("a node's configuration", &format!("{node:?}"));
        let patience = |config: &mut Config| config.router.connect_timeout = ms(100);
        let error = Router::builder()
            .configure(patience)
            .node_config(node)
            .connect()
            .await;
        let error = error.expect_err(&url);
        is_clean("an error", &format!("{error} {error:?}"));
        if let Ok(node) = RedisNode::new(&url, RedisOptions::default()) {
            is_clean("a node", &format!("{node:?}"));
        }
        let shown = match Server::new(&url, &RedisOptions::default()) {
            Ok(server) => match server.open().await {
                Ok(look) => format!("{server:?} {look:?}"),
                Err(error) => format!("{server:?} {error} {error:?}"),
            },
            Err(error) => error,
        };
        is_clean("a look", &shown);
        is_clean("credentials", &format!("{:?}", Credentials::of_url(&url)));
    }
}

/// A file with a syntax error in the line of the password.
fn syntax_errors() {
    let syntax = format!("[[node]]\nname = \"a\"\nurl = \"redis://:{SECRET}@h\" x\n");
    for text in [
        syntax.clone(),
        syntax.replace("\" x", ""),
        syntax.replace("url = \"", "url = "),
        syntax.replace("name", "naem"),
        format!("[[node]]\nname = \"a\"\nurl = [\"redis://:{SECRET}@h\"]\n"),
        format!("[[node]]\nname = \"a\"\nurl = {{ \"redis://:{SECRET}@h\" = 1 }}\n"),
    ] {
        if let Err(error) = text.parse::<Config>() {
            is_clean("a syntax error", &format!("{error} {error:?}"));
        }
    }
}

/// The same when a task that uses them panics.
async fn panics(router: Router) {
    let panicked = tokio::spawn(async move {
        let guard = router.acquire("k").await?;
        std::panic::panic_any(format!("{guard:?} {router:?}"));
        #[allow(unreachable_code, reason = "it names the error's type")]
        Ok::<(), Error>(())
    });
    let panic = panicked.await.unwrap_err().into_panic();
    is_clean("a panic", panic.downcast_ref::<String>().unwrap());
}

/// Everything that the program prints, with the configuration's URLs from the
/// file and from the environment.
#[test]
fn in_what_the_program_prints() {
    let (server, port) = locked();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.toml");
    let run = |url: &str, arguments: &[&str]| {
        let text = format!(
            "[router]\ninit = \"now\"\nconnect_timeout = \"300ms\"\nttl = \"300ms\"\nmax_ttl = \"300ms\"\n\
             view_lease = \"300ms\"\n[[node]]\nname = \"a\"\nurl = \"{url}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ringlock"))
            .arg("--config")
            .arg(&file)
            .args(arguments)
            .env("THE_URL", format!("redis://:{ENCODED}@127.0.0.1:{port}"))
            .env("THE_WORD", ENCODED)
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8(shown).unwrap();
        is_clean(&format!("{arguments:?}"), &shown);
        shown
    };
    let urls = [
        "${THE_URL}".to_owned(),
        format!("redis://:${{THE_WORD}}@127.0.0.1:{port}"),
        format!("{}?pass={ENCODED}", server.url()),
        format!("redis://:{WRONG}@127.0.0.1:{port}"),
        format!("redis://:{ENCODED}@127.0.0.1:1"),
        format!("redis://:{ENCODED}@127.0.0.1:x"),
        format!("redis://:${{{WRONG}-}}@h"),
    ];
    let added = format!("redis://:{ENCODED}@127.0.0.1:1");
    for url in &urls {
        for arguments in [
            &["exec", "k", "--init", "--", "true"][..],
            &["status"],
            &["status", "--json"],
            &["doctor"],
            &["doctor", "--json"],
            &["locks", "--json"],
            &["route", "k", "--json"],
            &["ring"],
            &["plan", "add", "b", "--url", &added],
            &["plan", "--json", "add", "b", "--url", &added],
            &["init"],
            &["resume"],
            &["abort"],
            &["release", "k", "--force"],
        ] {
            run(url, arguments);
        }
    }
    assert!(run("${THE_URL}", &["status"]).contains("serving"));
}
