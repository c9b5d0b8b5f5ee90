//! The common parts of the processes that are killed: how they are started,
//! configured, and stopped.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringlock::{Init, NodeConfig, Router, RouterBuilder};
use serde::{Deserialize, Serialize};

use crate::history::{Action, MS};
use crate::log::{Log, now};
use crate::settings::{MAX_TTL, VIEW_LEASE, is_durable};
use crate::{changer, worker};
use ringlock_test_support::process::signal;

const REPORTED: &str = "TORTURE_PROCESS";

/// A runtime or a process that missed beats for this long has stalled.
const BEAT: Duration = Duration::from_millis(10);
const MISSED: u64 = 25 * MS;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Takes locks.
    Worker,
    /// Changes the membership.
    Changer,
}

/// The settings of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reported {
    pub(crate) role: Role,
    pub(crate) number: u32,
    pub(crate) seed: u64,
    pub(crate) replicas: usize,
    /// The directory of its history.
    pub(crate) directory: PathBuf,
    /// The directory of the sockets.
    pub(crate) sockets: PathBuf,
    /// Members, with their URLs.
    pub(crate) members: Vec<(String, String)>,
    /// All servers, with their URLs.
    pub(crate) servers: Vec<(String, String)>,
}

impl Reported {
    /// A router of the cluster, for any process.
    pub(crate) fn builder(&self) -> RouterBuilder {
        let builder = Router::builder().replicas(self.replicas).init(Init::Never);
        let builder = self.members.iter().fold(builder, |builder, (name, url)| {
            builder.node_config(node(name, url))
        });
        builder.configure(|config| {
            config.router.ttl = MAX_TTL;
            config.router.max_ttl = MAX_TTL;
            config.router.view_lease = VIEW_LEASE;
        })
    }

    /// Connects, with any number of attempts; `None`: the run is over first.
    pub(crate) async fn connect(&self, is_over: &AtomicBool) -> Option<Router> {
        while !is_over.load(Ordering::Relaxed) {
            match self.builder().connect().await {
                Ok(router) => return Some(router),
                Err(error) => println!("{}: {error}", self.number),
            }
            tokio::time::sleep(BEAT).await;
        }
        None
    }
}

/// A node as it is configured.
pub(crate) fn node(name: &str, url: &str) -> NodeConfig {
    let mut node = NodeConfig::new(name, url);
    node.durable = is_durable(name);
    node
}

/// A child process; it is killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u32,
    child: Child,
    /// It ends when this is closed.
    stdin: Option<ChildStdin>,
}

impl Process {
    pub(crate) fn start(reported: &Reported) -> Self {
        let path = reported.directory.join(format!("{}.out", reported.number));
        let out = std::fs::File::create(path).expect("a file");
        let mut child = Command::new(std::env::current_exe().expect("this very program"))
            .args(["the_process", "--exact", "--nocapture"])
            .env(
                REPORTED,
                serde_json::to_string(reported).expect("plain data"),
            )
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a handle"))
            .stderr(out)
            .spawn()
            .expect("this very program");
        Self {
            number: reported.number,
            stdin: child.stdin.take(),
            child,
        }
    }

    pub(crate) fn pause(&self) {
        signal(&self.child, "-STOP");
    }

    pub(crate) fn go_on(&self) {
        signal(&self.child, "-CONT");
    }

    pub(crate) fn slay(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs; it never ends by itself.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Asks it to stop.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Waits for it to end; false if it had to be killed, or failed.
    pub(crate) fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(BEAT),
                _ => {
                    self.slay();
                    return false;
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.slay();
    }
}

/// The whole life of such a process; does nothing in any other process.
pub(crate) fn live() {
    let Ok(reported) = std::env::var(REPORTED) else {
        return;
    };
    let reported: Reported = serde_json::from_str(&reported).expect("what it is told");
    let log = Log::create(&reported.directory, reported.number);
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    std::thread::spawn(move || {
        // Until the parent closes it, or has died.
        let _ = std::io::stdin().read(&mut [0]);
        ended.store(true, Ordering::Relaxed);
    });
    watch_over(Arc::clone(&log));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match reported.role {
        Role::Worker => runtime.block_on(worker::work(reported, log, is_over)),
        Role::Changer => runtime.block_on(changer::change(reported, log, is_over)),
    }
}

/// Records when this process stalls.
pub(crate) fn watch_over(log: Arc<Log>) {
    std::thread::spawn(move || {
        let mut heart = Heart::new(log);
        loop {
            std::thread::sleep(BEAT);
            heart.beat();
        }
    });
}

/// Detects when its process stalled.
struct Heart {
    log: Arc<Log>,
    last: u64,
}

impl Heart {
    fn new(log: Arc<Log>) -> Self {
        Self { log, last: now() }
    }

    fn beat(&mut self) {
        let (from, at) = (self.last, now());
        self.last = at;
        if at > from + MISSED {
            self.log.write_at(at, Action::Stalled { from });
        }
    }
}

/// Records when the runtime stalls, and when the router moves to another view.
pub(crate) async fn beat(log: Arc<Log>, router: Router) {
    let mut heart = Heart::new(Arc::clone(&log));
    let mut epoch = 0;
    loop {
        tokio::time::sleep(BEAT).await;
        heart.beat();
        let newest = router.view().id().epoch;
        if newest != epoch {
            epoch = newest;
            log.write(Action::Moved { epoch });
        }
    }
}

/// The sockets of a run.
pub(crate) fn url(sockets: &Path, name: &str) -> PathBuf {
    sockets.join(format!("{name}.sock"))
}
