//! A process that stalls through a whole change.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use ringlock::{Change, Error, Guard, Init, Router};

use crate::rebalancing::{apply, connect, newcomer};
use ringlock_test_support::node::now;
use ringlock_test_support::process::signal;
use ringlock_test_support::{Arm, Cluster, TestNode, ms, name};

const CHILD: &str = "RINGLOCK_SLEEPER";

/// A child process; it is killed on drop.
struct Sleeper {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Sleeper {
    fn start(urls: &[String], replicas: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "rebalancing::paused_process::the_sleeper",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, format!("{replicas} {}", urls.join(" ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this very program");
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            orders,
            answers,
        }
    }

    fn signal(&self, name: &str) {
        assert!(signal(&self.child, name), "kill {name}");
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// The next line that it writes.
    fn hear(&mut self) -> String {
        loop {
            let line = self.answers.next().expect("the child lives").unwrap();
            if let Some(said) = line.strip_prefix("> ") {
                println!("{said}");
                return said.into();
            }
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outcome(result: Result<(), Error>) -> String {
    result.map_or_else(|error| format!("no: {error}"), |()| "yes".into())
}

/// Not a test by itself, but the process of [`sleeps_through_a_change`]:
/// follows orders, and reports each result and its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sleeper() {
    let Ok(reported) = std::env::var(CHILD) else {
        return;
    };
    let mut reported = reported.split(' ');
    let replicas = reported.next().unwrap().parse().unwrap();
    let builder = Router::builder().init(Init::Now).replicas(replicas);
    let builder = reported.enumerate().fold(builder, |builder, (index, url)| {
        builder.node(name(index), url)
    });
    let builder = builder.configure(|config| {
        config.router.ttl = crate::rebalancing::MAX_TTL;
        config.router.max_ttl = crate::rebalancing::MAX_TTL;
        config.router.view_lease = crate::rebalancing::VIEW_LEASE;
    });
    let router = builder.connect().await.unwrap();
    let mut guard: Option<Guard> = None;
    let mut orders = std::io::stdin().lines();
    println!("\n> ready");
    while let Some(Ok(order)) = orders.next() {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("hold", key) => {
                let acquired = router.acquire(key).keep_alive().await;
                guard = Some(acquired.unwrap());
                println!("> held");
            }
            ("bustle", key) => {
                println!("> bustling");
                bustle(&router, guard.as_ref().unwrap(), key).await;
            }
            ("lock", key) => {
                let acquired = router.acquire(key).wait(ms(5_000)).await;
                let view = router.route(key).unwrap().view;
                let result = outcome(acquired.map(drop));
                println!("> {result} {view}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Locks a free key and extends the held lease, again and again, until that
/// lease is lost; then reports every grant after a long pause.
async fn bustle(router: &Router, guard: &Guard, key: &str) {
    let mut belated = Vec::new();
    let mut before = now();
    loop {
        let (free, extended) = tokio::join!(router.try_acquire(key), guard.extend());
        let after = now();
        let has_slept = after > before + Duration::from_secs(1);
        before = after;
        if has_slept {
            // A call that was in flight when the process fell asleep.
            if let Ok(free) = &free
                && !free.remaining().is_zero()
            {
                belated.push("a lock of before");
            }
            if extended.is_ok() && !guard.remaining().is_zero() {
                belated.push("an extend of before");
            }
        }
        if let Some(loss) = guard.loss() {
            let asleep = if belated.is_empty() {
                "nothing".into()
            } else {
                belated.join(", ")
            };
            println!("> lost: {loss}; belated: {asleep}");
            return;
        }
        assert!(!has_slept, "the lease outlived its sleep");
    }
}

async fn sleeps_through_a_change(replicas: usize) {
    let cluster = Cluster::start(Arm::Redis, 5);
    let url = |node: &TestNode| match node {
        TestNode::Redis(server) => server.url(),
        TestNode::Memory(_) => unreachable!("the arm is Redis"),
    };
    let urls: Vec<String> = cluster.nodes[..3].iter().map(url).collect();
    let router = connect(&cluster, 3, replicas).await;
    let mut paused_process = Sleeper::start(&urls, replicas);
    assert_eq!(paused_process.hear(), "ready");
    paused_process.order("hold held");
    assert_eq!(paused_process.hear(), "held");
    let busy = router.try_acquire("held").await.unwrap_err();
    assert!(busy.is_contention(), "{busy}");
    paused_process.order("bustle free");
    assert_eq!(paused_process.hear(), "bustling");
    tokio::time::sleep(ms(200)).await;
    paused_process.signal("-STOP");
    // All nodes but one are replaced.
    let replaced = |node: usize| Change::Replace {
        node: name(node),
        by: newcomer(&cluster, node + 3),
    };
    apply(&router, [replaced(0), replaced(1)]).await;
    // Other routers hold both keys, under the next view.
    let mut others = Vec::new();
    for key in ["held", "free"] {
        let acquire = router.acquire(key).wait(ms(5_000)).keep_alive();
        others.push(acquire.await.unwrap());
    }
    paused_process.signal("-CONT");
    assert_eq!(
        paused_process.hear(),
        "lost: its validity ran out before it was extended; belated: nothing"
    );
    for guard in others {
        assert_eq!(guard.loss(), None);
        guard.extend().await.unwrap();
        guard.release().await.unwrap();
    }
    let view = router.route("k").unwrap().view;
    for key in ["held", "free", "another"] {
        paused_process.order(&format!("lock {key}"));
        assert_eq!(paused_process.hear(), format!("yes {view}"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleeps_through_a_change_sharded() {
    sleeps_through_a_change(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleeps_through_a_change_of_quorums() {
    sleeps_through_a_change(3).await;
}
