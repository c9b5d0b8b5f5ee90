//! Servers that a bench starts: on free ports of the loopback and on unix
//! sockets, nothing on disk, killed by their handles at the end.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Fault;

/// How long a server may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How many ports are tried: one that is free now may be taken a moment later.
const PORTS_TRIED: usize = 10;

/// A server, which runs unless it was killed.
#[derive(Debug)]
pub struct Server {
    program: String,
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts the program in the environment variable `RINGLOCK_REDIS_SERVER`,
    /// or else the first of the known programs that is installed; `None` if
    /// none is.
    pub fn start() -> Result<Option<Self>, Fault> {
        if let Ok(program) = std::env::var("RINGLOCK_REDIS_SERVER") {
            return Self::start_program(&program);
        }
        for program in ["redis-server", "valkey-server"] {
            if let Some(server) = Self::start_program(program)? {
                return Ok(Some(server));
            }
        }
        Ok(None)
    }

    /// Starts this many servers; an error if none is installed.
    pub fn start_all(count: usize) -> Result<Vec<Self>, Fault> {
        let server = |_| Self::start()?.ok_or_else(|| "redis-server must be installed".into());
        (0..count).map(server).collect()
    }

    fn start_program(program: &str) -> Result<Option<Self>, Fault> {
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            drop(listener);
            let directory = tempfile::tempdir()?;
            let child = match spawn(program, port, &directory) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                child => child?,
            };
            let mut server = Self {
                program: program.to_owned(),
                child,
                port,
                directory,
            };
            match server.await_answer() {
                Ok(()) => return Ok(Some(server)),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(|| format!("{program} does not start").into()))
    }

    fn await_answer(&mut self) -> Result<(), Fault> {
        let deadline = Instant::now() + START_LIMIT;
        let client = redis::Client::open(self.url())?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the server ended at once: {status}").into());
            }
            let ping = |mut connection| redis::cmd("PING").exec(&mut connection);
            match client.get_connection().and_then(ping) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The node URL, over TCP.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The path of its unix socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// The node URL, over its unix socket.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A plain client's connection.
    pub fn client(&self) -> Result<redis::Connection, Fault> {
        Ok(redis::Client::open(self.socket_url())?.get_connection()?)
    }

    /// Sends SIGKILL, to simulate the loss of a node.
    pub fn kill(&mut self) {
        // A process that has ended already needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it and starts it again at the same address, with no data.
    pub fn restart(&mut self) -> Result<(), Fault> {
        self.kill();
        self.child = spawn(&self.program, self.port, &self.directory)?;
        self.await_answer()
    }

    /// SIGSTOP: it accepts bytes and answers nothing.
    pub fn freeze(&self) -> Result<(), Fault> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<(), Fault> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &str, port: u16, directory: &tempfile::TempDir) -> std::io::Result<Child> {
    Command::new(program)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--io-threads", "1"])
        .arg("--unixsocket")
        .arg(socket(directory))
        .arg("--dir")
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn socket(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("redis.sock")
}
