//! A real server, and its faults.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, RedisResult, cmd};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::process::{NotStarted, ServerProcess, free_port};
use ringlock_test_support::proxy::Target;
use ringlock_test_support::server;
use ringlock_test_support::shim::Shim;

/// A start, or the copying of a few keys, takes no longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its own directory; each server that replaces it has one below it.
    root: PathBuf,
    generation: u32,
    process: ServerProcess,
    is_durable: bool,
    pub(crate) shim: Option<Shim>,
    target: Target,
}

impl Server {
    /// Starts a server that writes to disk, immediately if it is durable;
    /// `target` is set to its socket.
    pub(crate) fn start(
        root: PathBuf,
        is_durable: bool,
        shim: Option<Shim>,
        target: Target,
    ) -> Self {
        let mut server = Self {
            process: process(&directory(&root, 0), is_durable, shim.as_ref()),
            root,
            generation: 0,
            is_durable,
            shim,
            target,
        };
        server.wipe();
        server.spawn();
        server.target.set(server.socket());
        server
    }

    fn socket(&self) -> PathBuf {
        socket(&directory(&self.root, self.generation))
    }

    /// Starts it again in the same place, if it does not run. It starts without
    /// data that it cannot load.
    pub(crate) fn spawn(&mut self) {
        if self.process.is_running() {
            return;
        }
        for _ in 0..2 {
            let socket = self.socket();
            match self.process.start(&[], PATIENCE, || is_ready(&socket)) {
                Ok(()) => return,
                Err(error @ NotStarted::Late(_)) => panic!("{:?}: {error}", self.root),
                Err(NotStarted::Ended(_)) => {
                    println!("{:?} does not start with what it has on disk", self.root);
                    self.wipe();
                }
            }
        }
        panic!("{:?} does not start", self.root);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Removes its data, while it does not run.
    pub(crate) fn wipe(&mut self) {
        let directory = directory(&self.root, self.generation);
        let _ = fs::remove_dir_all(directory.join("appendonlydir"));
    }

    /// Truncates its log by these bytes, while it does not run.
    pub(crate) fn truncate(&mut self, bytes: u64) {
        let directory = directory(&self.root, self.generation).join("appendonlydir");
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().ends_with(".incr.aof") {
                let file = File::options().write(true).open(path).expect("the log");
                let length = file.metadata().expect("its length").len();
                file.set_len(length.saturating_sub(bytes)).expect("shorter");
            }
        }
    }

    pub(crate) fn freeze(&self) {
        self.process.freeze();
    }

    pub(crate) fn thaw(&self) {
        self.process.thaw();
    }

    /// Sends a command to the server; its reply is ignored, an unreachable
    /// server is an error.
    pub(crate) fn order(&self, order: &Cmd) -> RedisResult<()> {
        order.exec(&mut connect(&self.socket())?)
    }

    /// Another server, with this one's data of up to `lag` ago, replaces it. It
    /// is a replica that was detached that much earlier, which is equivalent to
    /// a link that delays everything. An error: nothing was done.
    pub(crate) fn promote(&mut self, lag: Duration, struck: impl FnOnce()) -> RedisResult<()> {
        let port = free_port("127.0.0.1");
        self.order(cmd("CONFIG").arg("SET").arg("port").arg(port))?;
        let next = directory(&self.root, self.generation + 1);
        let mut process = process(&next, self.is_durable, self.shim.as_ref());
        let replica_of = ["--replicaof", &format!("127.0.0.1 {port}")];
        let socket = socket(&next);
        let has_started = match process.start(&replica_of, PATIENCE, || is_ready(&socket)) {
            Ok(()) => true,
            Err(NotStarted::Ended(_)) => false,
            Err(error @ NotStarted::Late(_)) => panic!("{next:?}: {error}"),
        };
        let mut replica = connect(&socket)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info: String = cmd("INFO").arg("replication").query(&mut replica)?;
            if info.contains("master_link_status:up") {
                break;
            }
            if !has_started || Instant::now() >= deadline {
                return Err(std::io::Error::other("the replica found no primary").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        struck();
        cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut replica)?;
        std::thread::sleep(lag);
        self.target.set(socket);
        self.kill();
        self.generation += 1;
        self.process = process;
        Ok(())
    }
}

/// The directory of one generation.
fn directory(root: &Path, generation: u32) -> PathBuf {
    root.join(generation.to_string())
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("redis.sock")
}

/// A server, not started yet, that writes to disk.
fn process(directory: &Path, is_durable: bool, shim: Option<&Shim>) -> ServerProcess {
    fs::create_dir_all(directory).expect("a directory");
    let mut process = ServerProcess::new(Edition::System.program(), directory);
    process.set_log(directory.join("redis.log"));
    if let Some(shim) = shim {
        process.set_environment(shim.environment());
    }
    let fsync = if is_durable { "always" } else { "everysec" };
    process.add(["--save", "", "--appendonly", "yes", "--appendfsync", fsync]);
    process.add(["--auto-aof-rewrite-percentage", "0"]);
    process.add(["--repl-diskless-sync-delay", "0"]);
    process
}

/// Whether a server answers. Before it has loaded its data it answers, but not
/// this command.
fn is_ready(socket: &Path) -> RedisResult<()> {
    cmd("GET").arg("nothing").exec(&mut connect(socket)?)
}

/// A connection past every proxy.
pub(crate) fn connect(socket: &Path) -> RedisResult<Connection> {
    let connection = server::connect(socket)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}
