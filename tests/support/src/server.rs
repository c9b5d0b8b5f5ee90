//! Servers with a directory of their own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{Connection, FromRedisValue, RedisResult, Value, cmd};
use tempfile::TempDir;

use crate::edition::Edition;
use crate::process::{NotStarted, ServerProcess, free_port};
use crate::users::{DEFAULT_PASSWORD, LEAST_PASSWORD, is_least, least_user};

/// A start takes no longer on a busy machine.
const START: Duration = Duration::from_secs(10);

/// A separate server, on a unix socket in its own directory: the system's
/// redis-server, or the program in the environment variable
/// `RINGLOCK_REDIS_SERVER`. It is killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    process: ServerProcess,
    directory: TempDir,
    /// Whether routers log in as the user with the least rights.
    has_least_user: bool,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_in(Vec::new())
    }

    /// Starts a server with these arguments in addition to socket and
    /// directory.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_edition(Edition::System, arguments)
    }

    /// Starts a server of this edition with these arguments in addition to
    /// socket and directory.
    pub fn start_edition(edition: Edition, arguments: &[&str]) -> Self {
        let mut server = Self::unstarted(edition);
        server.take(arguments);
        server.spawn();
        server
    }

    /// Starts a server that keeps nothing on disk, with these variables set.
    pub fn start_in(environment: Vec<(String, PathBuf)>) -> Self {
        let mut server = Self::unstarted(Edition::System);
        server.take(&["--save", "", "--appendonly", "no"]);
        server.process.set_environment(environment);
        server.spawn();
        server
    }

    /// Starts a server that listens on a TCP port of the loopback as well;
    /// returns the port.
    pub fn start_on_tcp(arguments: &[&str]) -> (Self, u16) {
        Self::start_edition_on_tcp(Edition::System, arguments)
    }

    /// The same with a server of this edition.
    pub fn start_edition_on_tcp(edition: Edition, arguments: &[&str]) -> (Self, u16) {
        Self::start_on(edition, "127.0.0.1", "--port", arguments)
    }

    /// The same on the loopback of IPv6.
    pub fn start_on_ipv6(arguments: &[&str]) -> (Self, u16) {
        Self::start_on(Edition::System, "::1", "--port", arguments)
    }

    /// The same with a port for TLS.
    pub fn start_on_tls(arguments: &[&str]) -> (Self, u16) {
        Self::start_on(Edition::System, "127.0.0.1", "--tls-port", arguments)
    }

    fn start_on(edition: Edition, host: &str, kind: &str, arguments: &[&str]) -> (Self, u16) {
        // A port that is free now may be taken a moment later.
        for _ in 0..10 {
            let port = free_port(host);
            // A caller that asks for a port writes the url itself, including
            // the user.
            let mut server = Self::unstarted(edition);
            let number = port.to_string();
            let own = [kind, &number, "--bind", host, "--save", ""];
            server.process.add(own.iter().chain(arguments));
            match server.try_spawn() {
                Ok(()) => return (server, port),
                Err(error) => println!("port {port}: {error}"),
            }
        }
        panic!("redis-server does not start");
    }

    fn unstarted(edition: Edition) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self {
            process: ServerProcess::new(edition.program(), directory.path()),
            directory,
            has_least_user: false,
        }
    }

    /// Adds these arguments, and those of the routers' user.
    fn take(&mut self, arguments: &[&str]) {
        if is_least() {
            self.has_least_user = true;
            self.process.add(least_user(LEAST_PASSWORD));
            self.process.add(["--requirepass", DEFAULT_PASSWORD]);
        }
        self.process.add(arguments);
    }

    /// Where it listens.
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
        let url = url_of(&self.socket());
        match self.has_least_user {
            true => format!("{url}?user={user}&pass={password}"),
            false => url,
        }
    }

    /// Starts the server again in the same directory, after [`Self::kill`].
    pub fn spawn(&mut self) {
        self.try_spawn().unwrap_or_else(|error| panic!("{error}"));
    }

    fn try_spawn(&mut self) -> Result<(), NotStarted> {
        let socket = self.socket();
        let ping = || {
            let answer = connect(&socket).and_then(|mut client| cmd("PING").exec(&mut client));
            match answer {
                // A refused login is an answer too.
                Err(error) if error.to_string().contains("NOAUTH") => Ok(()),
                answer => answer,
            }
        };
        self.process.start(&[], START, ping)
    }

    /// Makes it take 0.2 s to load each key at its next start.
    pub fn delay_loading(&mut self) {
        self.process.add(["--key-load-delay", "200000"]);
    }

    /// kill -9: data that is not on disk is lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it and starts it again; without persistence it comes back empty.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// SIGSTOP: it accepts bytes and answers nothing.
    pub fn freeze(&self) {
        assert!(self.process.freeze(), "a running server");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        assert!(self.process.thaw(), "a running server");
    }

    /// The commands that users were denied since the last call. Commands that
    /// every connection tries, and that are optional, do not count.
    pub fn denied(&self) -> Vec<String> {
        let mut client = self.client();
        let log = cmd("ACL").arg("LOG").query(&mut client);
        let entries: Vec<HashMap<String, Value>> = log.expect("ACL LOG");
        let reset = cmd("ACL").arg("LOG").arg("RESET").exec(&mut client);
        reset.expect("ACL LOG RESET");
        let object = |entry: &HashMap<String, Value>| {
            FromRedisValue::from_redis_value(entry["object"].clone()).expect("its object")
        };
        let mut denied: Vec<String> = entries.iter().map(object).collect();
        denied.retain(|object| !["msetex", "delifeq", "delex"].contains(&&**object));
        denied
    }

    /// Changes a user's rules by these.
    pub fn set_user(&self, name: &str, rules: &[&str]) {
        let mut command = cmd("ACL");
        command.arg("SETUSER").arg(name).arg(rules);
        command.exec(&mut self.client()).expect("ACL SETUSER");
    }

    /// A plain client's connection.
    pub fn client(&self) -> Connection {
        let client = redis::Client::open(self.admin_url()).expect("a client");
        client.get_connection().expect("a connection")
    }
}

/// The URL of a server or proxy on this unix socket.
pub fn url_of(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// A plain client's connection to the server on this unix socket.
///
/// # Errors
///
/// The server cannot be reached.
pub fn connect(socket: &Path) -> RedisResult<Connection> {
    redis::Client::open(url_of(socket))?.get_connection()
}
