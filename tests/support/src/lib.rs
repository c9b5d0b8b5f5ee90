//! Shared parts of the integration tests: real servers, and clusters that look
//! the same to a test whether they are real or in memory.

#![cfg(feature = "redis")]
#![allow(missing_docs, reason = "for tests only")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

pub mod edition;
pub mod fake;
pub mod node;
pub mod proxy;
pub mod shim;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ringlock::{Init, MemoryNode, Router, RouterBuilder};
use tempfile::TempDir;

use crate::edition::Edition;

/// A key to contend for.
pub const KEY: &str = "orders/42";

/// Longer than anything may take on a busy machine.
pub const PROMPTLY: Duration = Duration::from_secs(5);

/// How late anything may be on a shared machine.
pub const MARGIN: Duration = Duration::from_secs(1);

/// Call it before a subscriber is set for one thread. `tracing` asks the
/// subscriber of the thread that first uses a callsite, as long as the process
/// has one subscriber: a thread without one then turns the callsite off for all.
pub fn share_callsites() {
    static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default()));
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A separate server, on a unix socket in its own directory: the system's
/// redis-server, or the program in the environment variable
/// `RINGLOCK_REDIS_SERVER`. It is killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    program: String,
    child: Option<Child>,
    directory: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    /// Whether routers log in as the user with the least rights.
    has_least_user: bool,
}

/// The password of the user with the least rights.
const LEAST_PASSWORD: &str = "least";

/// The password of the default user.
const DEFAULT_PASSWORD: &str = "default";

/// The user with the least rights, as in the guide; as arguments of a server.
pub fn least_user(password: &str) -> Vec<String> {
    let rules = guides_rules().remove(0);
    let words = rules.into_iter();
    let words = words.map(|word| word.replace("PASSWORD", password));
    std::iter::once("--user".into()).chain(words).collect()
}

/// The rights that the guide adds for operators.
pub fn operators_rights() -> Vec<String> {
    guides_rules().remove(1).split_off(1)
}

/// The lines of the guide for copying, from the name on.
fn guides_rules() -> Vec<Vec<String>> {
    let guide = include_str!("../../../src/guide/servers.rs");
    let lines = guide.lines();
    lines
        .filter_map(|line| line.strip_prefix("//! ACL SETUSER "))
        .map(|rules| rules.split(' ').map(Into::into).collect())
        .collect()
}

/// Whether a whole run uses the least rights: `RINGLOCK_TEST_USER=least`.
fn is_least() -> bool {
    match std::env::var("RINGLOCK_TEST_USER").as_deref() {
        Err(_) | Ok("") => false,
        Ok("least") => true,
        Ok(other) => panic!("RINGLOCK_TEST_USER is {other:?}, and may be \"least\""),
    }
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server with these arguments in addition to socket and
    /// directory.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_program(program(), arguments)
    }

    /// Starts a server of this edition with these arguments in addition to
    /// socket and directory.
    pub fn start_edition(edition: Edition, arguments: &[&str]) -> Self {
        Self::start_program(edition.program(), arguments)
    }

    /// The same, listening on a TCP port of the loopback as well.
    pub fn start_edition_on_tcp(edition: Edition, arguments: &[&str]) -> (Self, u16) {
        Self::start_on(edition.program(), "127.0.0.1", "--port", arguments)
    }

    fn start_program(program: String, arguments: &[&str]) -> Self {
        let mut server = Self::unstarted();
        server.program = program;
        server.take(arguments);
        server.spawn();
        server
    }

    /// Starts a server that keeps nothing on disk, with these variables set.
    pub fn start_in(environment: Vec<(String, PathBuf)>) -> Self {
        let mut server = Self::unstarted();
        server.take(&["--save", "", "--appendonly", "no"]);
        server.environment = environment;
        server.spawn();
        server
    }

    /// Sets these arguments, and those of the routers' user.
    fn take(&mut self, arguments: &[&str]) {
        if is_least() {
            self.has_least_user = true;
            self.arguments = least_user(LEAST_PASSWORD);
            let default = ["--requirepass", DEFAULT_PASSWORD].map(Into::into);
            self.arguments.extend(default);
        }
        self.arguments
            .extend(arguments.iter().copied().map(Into::into));
    }

    fn unstarted() -> Self {
        Self {
            program: program(),
            child: None,
            directory: tempfile::tempdir().expect("a temporary directory"),
            arguments: Vec::new(),
            environment: Vec::new(),
            has_least_user: false,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The node URL.
    pub fn url(&self) -> String {
        self.url_as("ringlock", LEAST_PASSWORD)
    }

    /// The URL of the user with all rights.
    pub fn admin_url(&self) -> String {
        self.url_as("default", DEFAULT_PASSWORD)
    }

    fn url_as(&self, user: &str, password: &str) -> String {
        let url = format!("unix://{}", self.socket().display());
        match self.has_least_user {
            true => format!("{url}?user={user}&pass={password}"),
            false => url,
        }
    }

    /// Starts a server that listens on a TCP port of the loopback as well;
    /// returns the port.
    pub fn start_on_tcp(arguments: &[&str]) -> (Self, u16) {
        Self::start_on(program(), "127.0.0.1", "--port", arguments)
    }

    /// The same on the loopback of IPv6.
    pub fn start_on_ipv6(arguments: &[&str]) -> (Self, u16) {
        Self::start_on(program(), "::1", "--port", arguments)
    }

    /// The same with a port for TLS.
    pub fn start_on_tls(arguments: &[&str]) -> (Self, u16) {
        Self::start_on(program(), "127.0.0.1", "--tls-port", arguments)
    }

    fn start_on(program: String, host: &str, kind: &str, arguments: &[&str]) -> (Self, u16) {
        // A caller that asks for a port writes the url itself, including the
        // user.
        let mut server = Self::unstarted();
        server.program = program;
        // A port that is free now may be taken a moment later.
        for _ in 0..10 {
            let listener = std::net::TcpListener::bind((host, 0)).expect("a free port");
            let port = listener.local_addr().expect("its address").port();
            drop(listener);
            let (number, save) = (port.to_string(), ["--save", ""]);
            let own = [kind, &number, "--bind", host];
            let all = own.iter().chain(&save).chain(arguments);
            server.arguments = all.copied().map(Into::into).collect();
            match server.try_spawn() {
                Ok(()) => return (server, port),
                Err(error) => println!("port {port}: {error}"),
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts the server again in the same directory, after [`Self::kill`].
    pub fn spawn(&mut self) {
        self.try_spawn().unwrap_or_else(|error| panic!("{error}"));
    }

    fn try_spawn(&mut self) -> Result<(), String> {
        let _ = std::fs::remove_file(self.socket());
        let child = Command::new(&self.program)
            .args(["--port", "0", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: scripts/test.sh does it");
        let child = self.child.insert(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                return Err(format!("redis-server ended: {status}"));
            }
            // A refused login is an answer too.
            let url = format!("unix://{}/redis.sock", self.directory.path().display());
            let client = redis::Client::open(url).expect("a client");
            let ping = |mut connection| redis::cmd("PING").exec(&mut connection);
            match client.get_connection().and_then(ping) {
                Ok(()) => return Ok(()),
                Err(error) if error.to_string().contains("NOAUTH") => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("redis-server: {error}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Makes it take 0.2 s to load each key at its next start.
    pub fn delay_loading(&mut self) {
        let delay = ["--key-load-delay", "200000"];
        self.arguments.extend(delay.map(Into::into));
    }

    /// kill -9: data that is not on disk is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill redis-server");
            child.wait().expect("reap redis-server");
        }
    }

    /// Kills it and starts it again; without persistence it comes back empty.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("a running server").id();
        let done = Command::new("kill").args([name, &pid.to_string()]).status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "kill {name} {pid}"
        );
    }

    /// SIGSTOP: it accepts bytes and answers nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// The commands that users were denied since the last call. Commands that
    /// every connection tries, and that are optional, do not count.
    pub fn denied(&self) -> Vec<String> {
        let mut client = self.client();
        let entries: Vec<std::collections::HashMap<String, redis::Value>> = redis::cmd("ACL")
            .arg("LOG")
            .query(&mut client)
            .expect("ACL LOG");
        let reset = redis::cmd("ACL").arg("LOG").arg("RESET").exec(&mut client);
        reset.expect("ACL LOG RESET");
        let object = |entry: &std::collections::HashMap<String, redis::Value>| {
            redis::FromRedisValue::from_redis_value(entry["object"].clone()).expect("its object")
        };
        let mut denied: Vec<String> = entries.iter().map(object).collect();
        denied.retain(|object| !["msetex", "delifeq", "delex"].contains(&&**object));
        denied
    }

    /// Changes a user's rules by these.
    pub fn set_user(&self, name: &str, rules: &[&str]) {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(name).arg(rules);
        command.exec(&mut self.client()).expect("ACL SETUSER");
    }

    /// A plain client's connection.
    pub fn client(&self) -> redis::Connection {
        let client = redis::Client::open(self.admin_url()).expect("a client");
        client.get_connection().expect("a connection")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One node of a cluster under test.
#[derive(Debug)]
pub enum TestNode {
    Memory(MemoryNode),
    Redis(RedisServer),
}

impl TestNode {
    /// Makes it unreachable or unresponsive; its data stays.
    pub fn stop(&self) {
        match self {
            Self::Memory(node) => node.stop(),
            Self::Redis(server) => server.freeze(),
        }
    }

    /// Undoes [`Self::stop`].
    pub fn start(&self) {
        match self {
            Self::Memory(node) => node.start(),
            Self::Redis(server) => server.thaw(),
        }
    }

    /// Restarts it with no data.
    pub fn wipe(&mut self) {
        match self {
            Self::Memory(node) => node.wipe(),
            Self::Redis(server) => server.restart(),
        }
    }

    /// The keys that are locked on it now, without ringlock's own state.
    pub fn locked(&self) -> Vec<String> {
        match self {
            Self::Memory(node) => node
                .locked()
                .into_iter()
                .map(|(key, _)| key.to_string())
                .collect(),
            Self::Redis(server) => {
                let keys: Vec<String> = redis::cmd("KEYS")
                    .arg("ringlock:*")
                    .query(&mut server.client())
                    .expect("KEYS");
                keys.iter()
                    .map(|key| key["ringlock:".len()..].to_owned())
                    .collect()
            }
        }
    }
}

/// Which arm of a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    Memory,
    Redis,
}

/// Both arms.
pub const ARMS: [Arm; 2] = [Arm::Memory, Arm::Redis];

/// Nodes `a`, `b`, … for routers to connect to.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<TestNode>,
}

impl Cluster {
    pub fn start(arm: Arm, nodes: usize) -> Self {
        let node = |index| match arm {
            Arm::Memory => TestNode::Memory(MemoryNode::new(name(index))),
            Arm::Redis => TestNode::Redis(RedisServer::start()),
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
        }
    }

    /// A builder with the cluster's nodes, which initialises them at once.
    pub fn builder(&self) -> RouterBuilder {
        self.builder_of(self.nodes.len())
    }

    /// A builder with the first nodes of the cluster.
    pub fn builder_of(&self, members: usize) -> RouterBuilder {
        let builder = Router::builder().init(Init::Now);
        self.nodes
            .iter()
            .take(members)
            .enumerate()
            .fold(builder, |builder, (index, node)| match node {
                TestNode::Memory(memory) => builder.memory_node(memory.clone()),
                TestNode::Redis(server) => builder.node(name(index), server.url()),
            })
    }

    /// A router with this many replicas per key.
    pub async fn router(&self, replicas: usize) -> Router {
        self.builder()
            .replicas(replicas)
            .connect()
            .await
            .expect("a router")
    }

    /// The node that owns `key`.
    pub fn owner(&mut self, router: &Router, key: &str) -> &mut TestNode {
        let owner = router.route(key).expect("a route").owner;
        let index = usize::from(owner.as_bytes()[0] - b'a');
        &mut self.nodes[index]
    }
}

fn program() -> String {
    Edition::System.program()
}

/// The name of node `index`: one letter.
pub fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// Polls until `condition` holds, for at most `limit`.
pub async fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "in {limit:?} it did not come about that {what}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The seed of a random test: that of the environment variable `RINGLOCK_SEED`,
/// or else a fresh one. It is printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = match std::env::var("RINGLOCK_SEED") {
        Ok(text) => text.parse().expect("RINGLOCK_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("RINGLOCK_SEED={seed}");
    seed
}
