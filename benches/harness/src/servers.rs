//! Servers that the bench starts: on free ports of the loopback, nothing on
//! disk, killed by their handles at the end.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Fault;

/// How long a server may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How many ports are tried: one that is free now may be taken a moment later.
const PORTS_TRIED: usize = 10;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts the first of the known programs that is installed; `None` if
    /// none is.
    pub(crate) fn start() -> Result<Option<Self>, Fault> {
        for program in ["redis-server", "valkey-server"] {
            if let Some(server) = Self::start_program(program)? {
                return Ok(Some(server));
            }
        }
        Ok(None)
    }

    fn start_program(program: &str) -> Result<Option<Self>, Fault> {
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            drop(listener);
            let directory = tempfile::tempdir()?;
            let spawned = Command::new(program)
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--save", "", "--appendonly", "no", "--io-threads", "1"])
                .arg("--dir")
                .arg(directory.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let child = match spawned {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                child => child?,
            };
            let mut server = Self {
                child,
                port,
                _directory: directory,
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

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends SIGKILL, to simulate the loss of a node.
    pub(crate) fn kill(&mut self) {
        // A process that has ended already needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
