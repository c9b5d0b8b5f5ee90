//! The process of a server: how it starts, is stopped and is killed.

use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult};

/// The pause between two looks at a server that starts.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A redis or valkey server, or a sentinel. It is killed on drop.
#[derive(Debug)]
pub struct ServerProcess {
    program: String,
    arguments: Vec<OsString>,
    environment: Vec<(String, PathBuf)>,
    /// Where it listens; `None` for a sentinel.
    socket: Option<PathBuf>,
    log: Option<PathBuf>,
    child: Option<Child>,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum NotStarted {
    /// It ended.
    Ended(ExitStatus),
    /// It was not ready in time, with the last error.
    Late(RedisError),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(status) => write!(f, "the server ended: {status}"),
            Self::Late(error) => write!(f, "the server is not ready: {error}"),
        }
    }
}

impl ServerProcess {
    /// A server, not started yet, that keeps its data in `directory` and
    /// listens on a unix socket there.
    pub fn new(program: String, directory: &Path) -> Self {
        let socket = directory.join("redis.sock");
        let arguments = vec![
            "--port".into(),
            "0".into(),
            "--unixsocket".into(),
            socket.clone().into(),
            "--dir".into(),
            directory.into(),
        ];
        Self {
            program,
            arguments,
            environment: Vec::new(),
            socket: Some(socket),
            log: None,
            child: None,
        }
    }

    /// A sentinel, not started yet, with this configuration file.
    pub fn sentinel(program: String, configuration: &Path) -> Self {
        Self {
            program,
            arguments: vec![configuration.into(), "--sentinel".into()],
            environment: Vec::new(),
            socket: None,
            log: None,
            child: None,
        }
    }

    /// Adds these arguments, from its next start on.
    pub fn add(&mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) {
        self.arguments.extend(arguments.into_iter().map(Into::into));
    }

    /// Sets these variables, from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, PathBuf)>) {
        self.environment = environment;
    }

    /// Appends its output to this file, from its next start on.
    pub fn set_log(&mut self, log: PathBuf) {
        self.log = Some(log);
    }

    /// Starts it, this time with `more` arguments, and waits until `is_ready`, for
    /// at most `limit`.
    ///
    /// # Errors
    ///
    /// It ended, or was not ready in time.
    pub fn start(
        &mut self,
        more: &[&str],
        limit: Duration,
        is_ready: impl Fn() -> RedisResult<()>,
    ) -> Result<(), NotStarted> {
        self.kill();
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
        let output = self.log.as_ref().map_or_else(Stdio::null, |log| {
            let file = OpenOptions::new().create(true).append(true).open(log);
            file.expect("a file").into()
        });
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .args(more)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: scripts/test.sh does it");
        let child = self.child.insert(child);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                return Err(NotStarted::Ended(status));
            }
            match is_ready() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(NotStarted::Late(error)),
                Err(_) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Whether it runs now.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().expect("its status").is_none())
    }

    /// kill -9: data that is not on disk is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill the server");
            child.wait().expect("reap the server");
        }
    }

    /// SIGSTOP: it accepts bytes and answers nothing. False: it does not run.
    pub fn freeze(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| signal(child, "-STOP"))
    }

    /// SIGCONT. False: it does not run.
    pub fn thaw(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| signal(child, "-CONT"))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a child. False: the child was waited for already.
pub fn signal(child: &Child, name: &str) -> bool {
    let pid = child.id().to_string();
    let done = Command::new("kill").args([name, &pid]).status();
    done.expect("kill must be installed").success()
}

/// A TCP port of `host` that is free now; it may be taken a moment later.
pub fn free_port(host: &str) -> u16 {
    let listener = TcpListener::bind((host, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
