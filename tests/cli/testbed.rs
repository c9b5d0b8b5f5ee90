//! Shared parts of the program's tests: servers with a configuration, and runs
//! of the built binary.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use ringlock_test_support::{PROMPTLY, RedisServer, ms, name};

pub(crate) const TOKEN: &str = "000000000000000000000000000000ab web-1:42";
pub(crate) const OTHER: &str = "000000000000000000000000000000cd web-2:43";

/// The end of a script that waits for a signal: the shell runs traps between
/// the sleeps, whenever the signal arrives. It lasts at least ten seconds.
pub(crate) const WAIT: &str = "for i in $(seq 1000); do sleep 0.01; done";

/// The ttl of a lock that must not be lost on a busy machine.
pub(crate) const TTL: &str = "20s";

/// Servers, and a configuration that names them `a`, `b`, ….
pub(crate) struct Testbed {
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) folder: TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error document.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Testbed {
    pub(crate) fn new(nodes: usize, replicas: usize) -> Self {
        let servers = (0..nodes).map(|_| RedisServer::start()).collect();
        Self::of(servers, replicas)
    }

    pub(crate) fn of(servers: Vec<RedisServer>, replicas: usize) -> Self {
        let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
        let testbed = Self {
            servers,
            folder: tempfile::tempdir().unwrap(),
        };
        testbed.configure(&urls, replicas, "");
        testbed
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ringlock.toml")
    }

    /// Writes the configuration; `more` is appended to `[router]`.
    pub(crate) fn configure(&self, urls: &[String], replicas: usize, more: &str) {
        let mut text = format!(
            "[router]\nreplicas = {replicas}\ninit = \"now\"\nttl = \"1s\"\n\
             connect_timeout = \"1s\"\n{more}\n"
        );
        for (index, url) in urls.iter().enumerate() {
            text += &format!("[[node]]\nname = \"{}\"\nurl = \"{url}\"\n", name(index));
        }
        std::fs::write(self.file(), text).unwrap();
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringlock"));
        command
            .env("RINGLOCK_CONFIG", self.file())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        let output = self.command(arguments).output().unwrap();
        Run {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it without and with `--json`, and asserts that both end with the
    /// same code; returns the table and the document.
    #[track_caller]
    pub(crate) fn both(&self, arguments: &[&str], code: i32) -> (String, Value) {
        let human = self.run(arguments);
        let json = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((human.code, json.code), (code, code), "{human:?} {json:?}");
        (human.stdout, json.json())
    }

    /// Initialises the nodes.
    pub(crate) fn init(&self) {
        let run = self.run(&["exec", "--init", "--ttl", TTL, "init", "--", "true"]);
        assert_eq!(run.code, 0, "{run:?}");
    }

    pub(crate) fn set(&self, node: usize, key: impl AsRef<[u8]>, token: &str, millis: u64) {
        let key = [b"ringlock:", key.as_ref()].concat();
        let mut set = redis::cmd("SET");
        set.arg(key).arg(token).arg("PX").arg(millis);
        set.exec(&mut self.servers[node].client()).unwrap();
    }

    pub(crate) fn get(&self, node: usize, key: &str) -> Option<String> {
        let mut get = redis::cmd("GET");
        get.arg(format!("ringlock:{key}"));
        get.query(&mut self.servers[node].client()).unwrap()
    }
}

/// A running command in `ringlock exec`, whose first line has been read.
pub(crate) struct Job {
    pub(crate) child: Child,
    pub(crate) lines: BufReader<std::process::ChildStdout>,
    pub(crate) first: String,
}

impl Job {
    /// `script` must write a line once it runs.
    pub(crate) fn start(testbed: &Testbed, options: &[&str], script: &str) -> Self {
        let arguments = [&["exec"], options, &["--", "sh", "-c", script]].concat();
        Self::of(testbed, testbed.command(&arguments))
    }

    /// `command` must become `ringlock exec`, and its command must write a
    /// line.
    pub(crate) fn of(testbed: &Testbed, mut command: Command) -> Self {
        let mut child = command
            .env("RINGLOCK_CONFIG", testbed.file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        Self {
            child,
            lines,
            first: first.trim().into(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; closes its input first if `is_reported`, for a command
    /// that reads it.
    pub(crate) fn end(mut self, is_reported: bool) -> Run {
        let stdin = self.child.stdin.take();
        if is_reported {
            drop(stdin);
        }
        let mut run = Run {
            code: self.child.wait().unwrap().code().expect("an exit code"),
            stdout: String::new(),
            stderr: String::new(),
        };
        self.lines.read_to_string(&mut run.stdout).unwrap();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut run.stderr).unwrap();
        run
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PROMPTLY;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "it did not come about that {what}"
        );
        std::thread::sleep(ms(1));
    }
}

pub(crate) fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter().map(|name| name.as_str().unwrap()).collect()
}
