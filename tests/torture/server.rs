//! A real server, and its faults.

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, RedisResult, cmd};

use crate::proxy::Target;
use ringlock_test_support::shim::Shim;

/// A start, or the copying of a few keys, takes no longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its own directory; each server that replaces it has one below it.
    root: PathBuf,
    generation: u32,
    child: Option<Child>,
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
            root,
            generation: 0,
            child: None,
            is_durable,
            shim,
            target,
        };
        server.wipe();
        server.spawn();
        server.target.set(server.socket());
        server
    }

    fn directory(&self, generation: u32) -> PathBuf {
        self.root.join(generation.to_string())
    }

    fn socket_of(&self, generation: u32) -> PathBuf {
        self.directory(generation).join("redis.sock")
    }

    fn socket(&self) -> PathBuf {
        self.socket_of(self.generation)
    }

    fn launch(&self, generation: u32, arguments: &[&str]) -> Child {
        let program = std::env::var("RINGLOCK_REDIS_SERVER");
        let program = program.unwrap_or_else(|_| "redis-server".into());
        let directory = self.directory(generation);
        fs::create_dir_all(&directory).expect("a directory");
        let _ = fs::remove_file(self.socket_of(generation));
        let mut options = OpenOptions::new();
        let log = options
            .create(true)
            .append(true)
            .open(directory.join("redis.log"));
        let log = log.expect("a file");
        let mut command = Command::new(program);
        if let Some(shim) = &self.shim {
            command.envs(shim.environment());
        }
        let fsync = if self.is_durable {
            "always"
        } else {
            "everysec"
        };
        let child = command
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", fsync])
            .args(["--auto-aof-rewrite-percentage", "0"])
            .args(["--repl-diskless-sync-delay", "0", "--unixsocket"])
            .arg(self.socket_of(generation))
            .arg("--dir")
            .arg(directory)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn();
        child.expect("redis-server must be installed: scripts/test.sh does it")
    }

    /// Waits until a server answers; false if it ended instead.
    fn await_start(&self, generation: u32, child: &mut Child) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if child.try_wait().expect("its status").is_some() {
                return false;
            }
            let is_there = UnixStream::connect(self.socket_of(generation)).is_ok();
            // Before it has loaded its data it answers, but not this command.
            let get = || {
                cmd("GET")
                    .arg("nothing")
                    .exec(&mut connect(&self.socket_of(generation))?)
            };
            if is_there && get().is_ok() {
                return true;
            }
            assert!(Instant::now() < deadline, "{:?} does not start", self.root);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it again in the same place, if it does not run. It starts without
    /// data that it cannot load.
    pub(crate) fn spawn(&mut self) {
        if self.is_running() {
            return;
        }
        for _ in 0..2 {
            let mut child = self.launch(self.generation, &[]);
            let is_up = self.await_start(self.generation, &mut child);
            self.child = Some(child);
            if is_up {
                return;
            }
            println!("{:?} does not start with what it has on disk", self.root);
            self.wipe();
        }
        panic!("{:?} does not start", self.root);
    }

    fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().expect("its status").is_none())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill redis-server");
            child.wait().expect("reap redis-server");
        }
    }

    /// Removes its data, while it does not run.
    pub(crate) fn wipe(&mut self) {
        let directory = self.directory(self.generation);
        let _ = fs::remove_dir_all(directory.join("appendonlydir"));
    }

    /// Truncates its log by these bytes, while it does not run.
    pub(crate) fn truncate(&mut self, bytes: u64) {
        let directory = self.directory(self.generation).join("appendonlydir");
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
        signal(self.child.as_ref(), "-STOP");
    }

    pub(crate) fn thaw(&self) {
        signal(self.child.as_ref(), "-CONT");
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
        let port = free_port();
        self.order(cmd("CONFIG").arg("SET").arg("port").arg(port))?;
        let next = self.generation + 1;
        let replica_of = format!("127.0.0.1 {port}");
        let mut child = Reaped(Some(self.launch(next, &["--replicaof", &replica_of])));
        let has_started = child.0.as_mut().map(|child| self.await_start(next, child));
        let mut replica = connect(&self.socket_of(next))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info: String = cmd("INFO").arg("replication").query(&mut replica)?;
            if info.contains("master_link_status:up") {
                break;
            }
            if has_started != Some(true) || Instant::now() >= deadline {
                return Err(std::io::Error::other("the replica found no primary").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        struck();
        cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut replica)?;
        std::thread::sleep(lag);
        self.target.set(self.socket_of(next));
        self.kill();
        self.generation = next;
        self.child = child.0.take();
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A child that is killed unless it is taken out.
struct Reaped(Option<Child>);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection past every proxy.
pub(crate) fn connect(socket: &std::path::Path) -> RedisResult<Connection> {
    let client = redis::Client::open(format!("unix://{}", socket.display()))?;
    let connection = client.get_connection()?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Sends a signal to a child that has not been waited for yet.
pub(crate) fn signal(child: Option<&Child>, name: &str) {
    let Some(child) = child else { return };
    let pid = child.id().to_string();
    let done = Command::new("kill").args([name, &pid]).status();
    assert!(done.is_ok(), "kill {name}");
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
