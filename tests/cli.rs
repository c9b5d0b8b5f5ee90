//! The program as its users run it: the built binary on real servers, its
//! documents, tables and exit codes.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and tells how far it came"
)]

mod common;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::proxy::Proxy;
use common::{PROMPTLY, RedisServer, ms, name};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const TOKEN: &str = "000000000000000000000000000000ab web-1:42";
const OTHER: &str = "000000000000000000000000000000cd web-2:43";

/// The end of a script that waits for a signal: traps are heeded between the
/// sleeps, whenever the signal comes. Ten seconds and more.
const WAIT: &str = "for i in $(seq 1000); do sleep 0.01; done";

/// Servers, and a configuration that names them `a`, `b`, ….
struct Bed {
    servers: Vec<RedisServer>,
    folder: TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error document.
    #[track_caller]
    fn error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Bed {
    fn new(nodes: usize, replicas: usize) -> Self {
        let servers = (0..nodes).map(|_| RedisServer::start()).collect();
        Self::of(servers, replicas)
    }

    fn of(servers: Vec<RedisServer>, replicas: usize) -> Self {
        let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
        let bed = Self {
            servers,
            folder: tempfile::tempdir().unwrap(),
        };
        bed.configure(&urls, replicas, "");
        bed
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ringlock.toml")
    }

    /// Writes the configuration; `more` stands at the end of `[router]`.
    fn configure(&self, urls: &[String], replicas: usize, more: &str) {
        let mut text = format!(
            "[router]\nreplicas = {replicas}\ninit = \"now\"\nttl = \"1s\"\n\
             connect_timeout = \"1s\"\n{more}\n"
        );
        for (index, url) in urls.iter().enumerate() {
            text += &format!("[[node]]\nname = \"{}\"\nurl = \"{url}\"\n", name(index));
        }
        std::fs::write(self.file(), text).unwrap();
    }

    fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringlock"));
        command
            .env("RINGLOCK_CONFIG", self.file())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        let output = self.command(arguments).output().unwrap();
        Run {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it as it is, with `--json`, and sees both end alike; tells the
    /// table and the document.
    #[track_caller]
    fn both(&self, arguments: &[&str], code: i32) -> (String, Value) {
        let human = self.run(arguments);
        let json = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((human.code, json.code), (code, code), "{human:?} {json:?}");
        (human.stdout, json.json())
    }

    /// Has the nodes initialised.
    fn init(&self) {
        let run = self.run(&["exec", "init", "--", "true"]);
        assert_eq!(run.code, 0, "{run:?}");
    }

    fn set(&self, node: usize, key: impl AsRef<[u8]>, token: &str, millis: u64) {
        let key = [b"ringlock:", key.as_ref()].concat();
        let mut set = redis::cmd("SET");
        set.arg(key).arg(token).arg("PX").arg(millis);
        set.exec(&mut self.servers[node].client()).unwrap();
    }

    fn get(&self, node: usize, key: &str) -> Option<String> {
        let mut get = redis::cmd("GET");
        get.arg(format!("ringlock:{key}"));
        get.query(&mut self.servers[node].client()).unwrap()
    }
}

/// A command under way in `ringlock exec`, whose first line has been read.
struct Job {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    first: String,
}

impl Job {
    /// `script` must write a line once it runs.
    fn start(bed: &Bed, options: &[&str], script: &str) -> Self {
        let arguments = [&["exec"], options, &["--", "sh", "-c", script]].concat();
        let mut child = bed
            .command(&arguments)
            .stdin(Stdio::piped())
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

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; a command that reads its input is told to end first
    /// if `is_told`.
    fn end(mut self, is_told: bool) -> Run {
        let stdin = self.child.stdin.take();
        if is_told {
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
        // One that has ended already is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for `condition` to hold, looking again and again.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PROMPTLY;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "it did not come about that {what}"
        );
        std::thread::sleep(ms(1));
    }
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn a_wrong_command_line_or_configuration_is_usage() {
    let bed = Bed::new(1, 1);
    for arguments in [
        &["lokcs"][..],
        &["route"],
        &["exec", "k"],
        &["locks", "--limit", "0"],
    ] {
        let run = bed.run(arguments);
        assert_eq!((run.code, &*run.stdout), (2, ""), "{run:?}");
        assert!(run.stderr.contains("Usage") || run.stderr.contains("--help"));
        let run = bed.run(&[&["--json"], arguments].concat());
        assert_eq!(
            (run.code, &run.error()["exit_code"]),
            (2, &2.into()),
            "{run:?}"
        );
    }
    for key in ["", &"x".repeat(1025)] {
        let run = bed.run(&["release", key]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains("lock key"), "{run:?}");
    }
    let run = bed.run(&["exec", "k", "--ttl", "1h", "--", "true"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("max_ttl"), "{run:?}");

    let run = bed.run(&["status", "--config", "/nowhere/ringlock.toml", "--json"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.error()["next"].as_str().unwrap().contains("--config"));
    std::fs::write(bed.file(), "[router]\nreplica = 3\n").unwrap();
    let run = bed.run(&["status"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("line 2"), "{run:?}");
}

#[test]
fn the_help_has_the_exit_codes() {
    let bed = Bed::of(Vec::new(), 1);
    let run = bed.run(&["--help"]);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    for code in 0..=7 {
        assert!(run.stdout.contains(&format!("\n  {code}  ")), "{code}");
    }
    for command in [
        "route", "ring", "locks", "release", "exec", "status", "doctor", "bench",
    ] {
        assert!(run.stdout.contains(&format!("\n  {command} ")), "{command}");
        assert_eq!(bed.run(&[command, "--help"]).code, 0);
    }
}

#[test]
fn nodes_in_memory_are_not_looked_into() {
    let bed = Bed::of(Vec::new(), 1);
    bed.configure(&["memory://".into()], 1, "");
    for arguments in [
        &["status"][..],
        &["locks"],
        &["release", "k"],
        &["exec", "k", "--", "true"],
    ] {
        let run = bed.run(arguments);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.contains("nothing to look into"), "{run:?}");
    }
    assert_eq!(bed.run(&["route", "k"]).code, 0);
    assert_eq!(bed.run(&["ring"]).code, 0);
    assert_eq!(bed.run(&["doctor"]).code, 4);
}

#[test]
fn route_tells_where_a_key_lives_and_starts_nothing() {
    let bed = Bed::new(3, 3);
    let run = bed.run(&["route", "k", "--json"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (3, &3.into()),
        "{run:?}"
    );
    for server in &bed.servers {
        let size: u64 = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
        assert_eq!(size, 0, "a look has written");
    }
    bed.init();
    let (human, json) = bed.both(&["route", "orders/42"], 0);
    assert!(
        human.contains("orders/42") && human.contains("2 of 3"),
        "{human}"
    );
    assert_eq!((&json["quorum"], &json["epoch"]), (&2.into(), &1.into()));
    assert_eq!(names(&json["replicas"])[0], json["owner"]);
    let mut successors = names(&json["successors"]);
    successors.sort_unstable();
    assert_eq!(successors, ["a", "b", "c"]);
    assert!(json["view"].as_str().unwrap().starts_with("1:"));
}

#[test]
fn ring_tells_the_shares_and_draws_them() {
    let bed = Bed::new(3, 3);
    let (_, json) = bed.both(&["ring"], 0);
    assert_eq!(
        (&json["source"], &json["view"]),
        (&"configured".into(), &Value::Null)
    );
    bed.init();
    let plot = bed.folder.path().join("ring.svg");
    let (human, json) = bed.both(&["ring", "--plot", plot.to_str().unwrap()], 0);
    assert!(human.contains("480 points"), "{human}");
    assert_eq!(
        (&json["source"], &json["points"]),
        (&"served".into(), &480.into())
    );
    let nodes = json["nodes"].as_array().unwrap();
    let owned: f64 = nodes
        .iter()
        .map(|node| node["owner"].as_f64().unwrap())
        .sum();
    assert!((owned - 1.0).abs() < 1e-9, "{owned}");
    assert!(
        nodes
            .iter()
            .all(|node| node["replica"]["3"].as_f64().unwrap() > 0.999)
    );
    let largest = nodes
        .iter()
        .map(|node| node["owner"].as_f64().unwrap() * 3.0);
    let told = json["owner_max_over_mean"].as_f64().unwrap();
    assert!((largest.fold(0.0, f64::max) - told).abs() < 1e-9, "{json}");

    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<path") && svg.contains(">a "));
    let run = bed.run(&["ring", "--plot", "/nowhere/ring.svg"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("/nowhere/ring.svg"), "{run:?}");
}

#[test]
fn locks_are_told_with_holder_and_fence() {
    let bed = Bed::new(1, 1);
    bed.init();
    let (human, json) = bed.both(&["locks"], 0);
    assert!(human.contains("nothing is locked"), "{human}");
    assert_eq!(json["locks"], Value::Array(Vec::new()));

    let job = Job::start(&bed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let fence: u64 = job.first.parse().expect("a fence");
    bed.set(0, "stranger", "some uuid", 60_000);
    redis::cmd("SET")
        .arg("ringlock:eternal")
        .arg(TOKEN)
        .exec(&mut bed.servers[0].client())
        .unwrap();
    let (human, json) = bed.both(&["locks"], 0);
    let locks = json["locks"].as_array().unwrap();
    let keys: Vec<&str> = locks
        .iter()
        .map(|lock| lock["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["eternal", "k", "stranger"]);
    assert_eq!(locks[0]["remaining_ms"], Value::Null);
    assert_eq!(locks[0]["holder"], "web-1:42");
    let k = &locks[1];
    assert_eq!(
        (&k["is_foreign"], &k["is_quorum"]),
        (&false.into(), &true.into())
    );
    assert!(k["remaining_ms"].as_u64().unwrap() <= 1000, "{k}");
    assert_eq!(
        k["fence_at_most"].as_u64(),
        Some(fence),
        "nothing else was granted"
    );
    let stranger = &locks[2];
    assert_eq!(
        (&stranger["is_foreign"], &stranger["holder"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(
        stranger["fence_at_most"],
        Value::Null,
        "other programs count no fences"
    );
    assert!(
        human.contains("for ever") && human.contains("another program"),
        "{human}"
    );
    for document in [human, json.to_string()] {
        assert!(
            !document.contains(&TOKEN[..32]),
            "a token is a key to the lock: {document}"
        );
    }
    assert_eq!(job.end(true).code, 0);
}

#[test]
fn the_highest_fence_of_a_key_is_its_own_nodes() {
    let bed = Bed::new(2, 1);
    bed.init();
    let owner = |key: &str| bed.run(&["route", key, "--json"]).json()["owner"].clone();
    let other = (0..).map(|index| format!("o/{index}"));
    let other = other
        .into_iter()
        .find(|key| owner(key) != owner("k"))
        .unwrap();
    for _ in 0..5 {
        assert_eq!(bed.run(&["exec", &other, "--", "true"]).code, 0);
    }
    let job = Job::start(&bed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let (_, json) = bed.both(&["locks"], 0);
    let told = json["locks"][0]["fence_at_most"].to_string();
    assert_eq!(told, job.first, "the other node has counted further");
    assert_eq!(job.end(true).code, 0);
}

#[test]
fn locks_are_chosen_by_key_and_prefix_and_cut_short() {
    let bed = Bed::new(2, 1);
    bed.init();
    for index in 0..50 {
        bed.set(index % 2, format!("x/{index:02}"), TOKEN, 60_000);
    }
    for key in ["y*", "y1", "y[1]"] {
        bed.set(0, key, TOKEN, 60_000);
    }
    bed.set(1, b"z\xff\n", TOKEN, 60_000);
    let told = |arguments: &[&str]| {
        let (human, json) = bed.both(&[&["locks"], arguments].concat(), 0);
        let locks = json["locks"].as_array().unwrap().clone();
        let keys: Vec<String> = locks
            .iter()
            .map(|lock| lock["key"].as_str().unwrap().to_owned())
            .collect();
        let is_cut = json["is_cut_short"] == true;
        assert_eq!(human.contains("cut short"), is_cut, "{human}");
        (keys, is_cut)
    };
    assert_eq!(told(&["--prefix", "x/"]).0.len(), 50);
    assert_eq!(told(&["--prefix", "y*"]), (vec!["y*".to_owned()], false));
    assert_eq!(told(&["--prefix", "y["]), (vec!["y[1]".to_owned()], false));
    assert_eq!(told(&["--key", "y1"]), (vec!["y1".to_owned()], false));
    assert_eq!(told(&["--key", "nothing"]), (Vec::new(), false));
    assert_eq!(
        told(&["--prefix", "z"]),
        (vec!["z\u{fffd}\\n".to_owned()], false)
    );
    assert_eq!(told(&["--limit", "54"]).0.len(), 54);
    let (keys, is_cut) = told(&["--limit", "10"]);
    assert_eq!((keys.len(), is_cut), (10, true));
    let raw = bed.run(&[
        OsStr::new("locks"),
        OsStr::new("--key"),
        OsStr::from_bytes(b"z\xff\n"),
    ]);
    assert!(raw.stdout.contains("web-1:42"), "{raw:?}");
}

#[test]
fn locks_of_a_quorum_are_counted_by_token() {
    let mut bed = Bed::new(3, 3);
    bed.init();
    let job = Job::start(&bed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let fence: u64 = job.first.parse().expect("a fence");
    for (node, token) in [(0, TOKEN), (1, OTHER), (2, TOKEN)] {
        bed.set(node, "split", token, 60_000);
    }
    let (human, json) = bed.both(&["locks"], 0);
    let locks = json["locks"].as_array().unwrap();
    assert_eq!(locks.len(), 3, "{json}");
    assert!(
        locks[0]["fence_at_most"].as_u64().unwrap() >= fence,
        "{json}"
    );
    assert_eq!(locks[0]["on_replicas"], 3);
    let votes = |lock: &Value| (lock["on_replicas"].as_u64(), lock["is_quorum"].as_bool());
    let of = |holder: &str| locks.iter().find(|lock| lock["holder"] == holder).unwrap();
    assert_eq!(votes(of("web-1:42")), (Some(2), Some(true)));
    assert_eq!(names(&of("web-1:42")["on"]), ["a", "c"]);
    assert_eq!(votes(of("web-2:43")), (Some(1), Some(false)));
    assert!(human.contains("1 of 3: NO quorum"), "{human}");
    assert_eq!(job.end(true).code, 0);

    // One node's word about fences is not enough.
    bed.servers[0].kill();
    let (human, json) = bed.both(&["locks", "--key", "split"], 4);
    assert_eq!(json["unasked"][0]["node"], "a");
    assert!(human.contains("node a is left out"), "{human}");
    assert!(
        json["locks"][0]["fence_at_most"].is_u64(),
        "two of three know: {json}"
    );
    bed.servers[1].kill();
    let (_, json) = bed.both(&["locks", "--key", "split"], 4);
    assert_eq!(json["locks"][0]["fence_at_most"], Value::Null, "{json}");
    bed.servers[2].kill();
    let run = bed.run(&["locks"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("doctor"), "{run:?}");
}

#[test]
fn release_wants_to_be_forced() {
    let bed = Bed::new(3, 3);
    bed.init();
    for node in 0..3 {
        bed.set(node, "k", if node == 1 { OTHER } else { TOKEN }, 60_000);
    }
    let run = bed.run(&["release", "k"]);
    assert_eq!(run.code, 2, "{run:?}");
    for part in ["web-1:42", "web-2:43", "fence", "--force"] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    assert!(bed.get(0, "k").is_some());

    let run = bed.run(&["release", "k", "--force", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    assert_eq!(json["is_released"], true);
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!(node["outcome"], "released", "{json}");
    }
    assert_eq!((0..3).find_map(|node| bed.get(node, "k")), None);
    let (human, json) = bed.both(&["release", "k", "--force"], 0);
    assert!(human.contains("was not held"), "{human}");
    assert_eq!(json["nodes"][0]["outcome"], "free");
}

#[test]
fn release_leaves_a_newer_lease_alone() {
    let bed = Bed::new(1, 1);
    bed.init();
    bed.set(0, "k", TOKEN, 60_000);
    let proxy = Proxy::start(bed.servers[0].socket(), ms(150));
    bed.configure(&[proxy.url()], 1, "");
    let mut client = bed.servers[0].client();
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .exec(&mut client)
        .unwrap();
    let mut command = bed.command(&["release", "k", "--force", "--json"]);
    let running = command.spawn().unwrap();
    // What it read is still on its way to it.
    until("the entry was read", || {
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut client)
            .unwrap();
        info.contains("cmdstat_getrange:")
    });
    bed.set(0, "k", OTHER, 60_000);
    let output = running.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["held"][0]["holder"], "web-1:42", "{json}");
    assert_eq!(json["nodes"][0]["outcome"], "newer", "{json}");
    assert_eq!(bed.get(0, "k").as_deref(), Some(OTHER));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn release_tells_when_too_few_nodes_were_reached() {
    let mut bed = Bed::new(3, 3);
    bed.init();
    for node in 0..3 {
        bed.set(node, "k", TOKEN, 60_000);
    }
    bed.servers[0].kill();
    let run = bed.run(&["release", "k", "--force", "--json"]);
    assert_eq!(run.code, 0, "two of three are a quorum: {run:?}");
    assert_eq!(run.json()["nodes"][0]["outcome"], "failed");
    bed.servers[1].kill();
    let run = bed.run(&["release", "k", "--force", "--json"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (3, &3.into()),
        "{run:?}"
    );
    assert_eq!(run.json()["is_released"], false);
}

#[test]
fn release_spares_the_clusters_own_state() {
    let bed = Bed::new(1, 1);
    bed.configure(&bed.urls(), 1, "key_prefix = \"\"");
    bed.init();
    let run = bed.run(&["release", "ringlock!id", "--force"]);
    let mut get = redis::cmd("GET");
    let id: Option<String> = get
        .arg("ringlock!id")
        .query(&mut bed.servers[0].client())
        .unwrap();
    assert!(id.is_some(), "{run:?}");
    let (_, json) = bed.both(&["locks"], 0);
    assert_eq!(
        json["locks"],
        Value::Array(Vec::new()),
        "no state is told as a lock"
    );
}

#[test]
fn exec_ends_as_its_command_does() {
    let bed = Bed::new(1, 1);
    let run = bed.run(&["exec", "k", "--", "sh", "-c", "echo $RINGLOCK_KEY; exit 9"]);
    assert_eq!((run.code, &*run.stdout), (9, "k\n"), "{run:?}");
    let run = bed.run(&["exec", "k", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(run.code, 128 + 9, "{run:?}");
    let run = bed.run(&["exec", "k", "--", "/nowhere/program"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("/nowhere/program"), "{run:?}");
    assert_eq!(bed.get(0, "k"), None, "it was released each time");

    let script = "echo to be seen; exit 4";
    let run = bed.run(&["exec", "k", "--json", "--", "sh", "-c", script]);
    let json = run.json();
    assert_eq!(
        (run.code, &json["code"], &json["exit_code"]),
        (4, &4.into(), &4.into())
    );
    assert_eq!(
        (&json["lost"], &json["signal"]),
        (&Value::Null, &Value::Null)
    );
    assert!(run.stderr.contains("to be seen"), "{run:?}");
    let next = bed.run(&["exec", "k", "--", "sh", "-c", "echo $RINGLOCK_FENCE"]);
    let fence: u64 = next.stdout.trim().parse().unwrap();
    assert!(fence > json["fence"].as_u64().unwrap(), "{fence} {json}");
}

#[test]
fn exec_keeps_the_lock_and_others_out() {
    let bed = Bed::new(3, 3);
    let job = Job::start(&bed, &["k"], "echo ready; cat");
    let first = bed.get(0, "k").expect("an entry");
    let begun = Instant::now();
    let run = bed.run(&["exec", "k", "--wait", "0s", "--json", "--", "true"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (6, &6.into()),
        "{run:?}"
    );
    // Longer than the ttl: it is kept alive.
    let run = bed.run(&["exec", "k", "--wait", "1500ms", "--", "true"]);
    assert_eq!(run.code, 6, "{run:?}");
    assert!(
        begun.elapsed() > ms(1500) && run.stderr.contains("held by"),
        "{run:?}"
    );
    assert_eq!(bed.get(0, "k"), Some(first));
    assert_eq!(job.end(true).code, 0);
    assert_eq!(
        bed.run(&["exec", "k", "--wait", "0s", "--", "true"]).code,
        0
    );
}

#[test]
fn exec_tells_an_outage_apart_from_a_busy_lock() {
    let mut bed = Bed::new(1, 1);
    bed.init();
    bed.servers[0].kill();
    let run = bed.run(&["exec", "k", "--wait", "200ms", "--", "true"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("next: "), "{run:?}");
}

#[test]
fn exec_passes_signals_on() {
    let bed = Bed::new(1, 1);
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
    ] {
        let script = format!("trap 'echo got {name}; exit 5' {name}; echo ready; {WAIT}");
        let job = Job::start(&bed, &["k"], &script);
        job.signal(signal);
        let run = job.end(false);
        assert_eq!((run.code, run.stdout), (5, format!("got {name}\n")));
        assert_eq!(bed.get(0, "k"), None);
    }
    // A command that takes no care of it, and what it started.
    let job = Job::start(&bed, &["k"], "sleep 60 & echo ready; wait");
    job.signal(Signal::TERM);
    assert_eq!(job.end(false).code, 128 + 15);
}

#[test]
fn exec_that_is_interrupted_while_it_waits_leaves_nothing() {
    let bed = Bed::new(1, 1);
    bed.init();
    bed.set(0, "k", TOKEN, 60_000);
    let mut command = bed.command(&["exec", "k", "--wait", "1m", "--", "true"]);
    let mut child = command.spawn().unwrap();
    let mut client = bed.servers[0].client();
    // It watches the key: it has tried, and waits.
    until("it waits", || {
        let info: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        info.contains("flags=t")
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    assert_eq!(bed.get(0, "k").as_deref(), Some(TOKEN));
}

#[test]
fn exec_ends_its_command_when_the_lock_is_lost() {
    let bed = Bed::new(1, 1);
    let script = format!("trap 'echo got USR1; exit 0' USR1; echo ready; {WAIT}");
    let job = Job::start(&bed, &["k", "--signal", "USR1"], &script);
    assert_eq!(bed.run(&["release", "k", "--force"]).code, 0);
    let run = job.end(false);
    assert_eq!((run.code, &*run.stdout), (7, "got USR1\n"), "{run:?}");
    assert!(run.stderr.contains("lost"), "{run:?}");

    // One that does not end by itself is killed.
    let job = Job::start(
        &bed,
        &["k", "--grace", "50ms"],
        "trap '' TERM; echo ready; cat",
    );
    assert_eq!(bed.run(&["release", "k", "--force"]).code, 0);
    assert_eq!(job.end(false).code, 7);

    let run = bed.run(&[
        "exec",
        "k",
        "--max-hold",
        "100ms",
        "--json",
        "--",
        "sleep",
        "60",
    ]);
    let json = run.json();
    assert_eq!(
        (run.code, &json["signal"], &json["exit_code"]),
        (7, &15.into(), &7.into())
    );
    assert!(
        json["lost"].as_str().unwrap().contains("max_hold"),
        "{json}"
    );
    assert_eq!(run.error()["exit_code"], 7);
}

#[test]
fn exec_tells_a_loss_that_shows_only_at_the_end() {
    let bed = Bed::new(1, 1);
    let job = Job::start(&bed, &["k", "--ttl", "30s"], "echo ready; cat");
    // Long before it is next extended.
    bed.set(0, "k", OTHER, 60_000);
    assert_eq!(job.end(true).code, 7);
    assert_eq!(bed.get(0, "k").as_deref(), Some(OTHER));
}

#[test]
fn status_tells_each_nodes_state() {
    let mut bed = Bed::new(3, 3);
    let (human, json) = bed.both(&["status"], 4);
    assert!(human.contains("no view is served"), "{human}");
    assert_eq!(
        (&json["view"], &json["nodes"][0]["state"]),
        (&Value::Null, &"absent".into())
    );
    bed.init();
    let (human, json) = bed.both(&["status"], 0);
    assert!(
        human.contains("serving") && human.contains("noeviction"),
        "{human}"
    );
    assert_eq!(
        (&json["epoch"], &json["is_degraded"]),
        (&1.into(), &false.into())
    );
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!(
            (&node["state"], &node["role"]),
            (&"serving".into(), &"master".into())
        );
        assert_eq!(node["serving"], json["view"]);
        assert!(node["address"].as_str().unwrap().starts_with("unix://"));
        assert!(
            node["clock_ahead_ms"].as_f64().unwrap().abs() < 50.0,
            "{node}"
        );
        assert!(node["round_trip_ms"].as_f64().unwrap() > 0.0);
        assert!(node["used_memory_bytes"].as_u64().unwrap() > 0);
        assert_eq!(node["dbsize"], 3, "id, member and counters");
    }
    bed.servers[0].restart();
    bed.servers[1].kill();
    let (human, json) = bed.both(&["status"], 4);
    let states = ["absent", "unreachable", "serving"];
    for (node, state) in json["nodes"].as_array().unwrap().iter().zip(states) {
        assert_eq!(node["state"], state, "{json}");
        assert_eq!(node["reason"].is_string(), state != "serving");
    }
    assert!(human.contains("node b is unreachable: "), "{human}");
}

#[test]
fn status_tells_members_that_are_not_configured() {
    let bed = Bed::new(2, 1);
    bed.init();
    bed.configure(&bed.urls()[..1], 1, "");
    let (human, json) = bed.both(&["status"], 4);
    assert_eq!(names(&json["unconfigured"]), ["b"]);
    assert!(human.contains("node b is in the view and not"), "{human}");
}

/// The checks that came out so, with their nodes.
fn found<'a>(json: &'a Value, verdict: &str) -> Vec<(&'a str, Option<&'a str>)> {
    let checks = json["checks"].as_array().unwrap().iter();
    let found = checks.filter(|check| check["verdict"] == verdict);
    found
        .map(|check| {
            assert_eq!(check["remedy"].is_null(), verdict == "ok", "{check}");
            (check["check"].as_str().unwrap(), check["node"].as_str())
        })
        .collect()
}

#[test]
fn doctor_finds_nothing_where_all_is_well() {
    let bed = Bed::new(2, 1);
    let (human, json) = bed.both(&["doctor"], 0);
    assert_eq!(
        found(&json, "warn"),
        [("view", None)],
        "none is served yet: {human}"
    );
    bed.init();
    let (human, json) = bed.both(&["doctor"], 0);
    assert_eq!(json["verdict"], "ok", "{human}");
    let ok: Vec<&str> = found(&json, "ok")
        .into_iter()
        .map(|(check, _)| check)
        .collect();
    for check in [
        "configuration",
        "ttl",
        "replicas",
        "reachable",
        "credentials",
        "version",
        "mode",
        "role",
        "maxmemory-policy",
        "clock",
        "scripts",
        "tracking",
        "own server",
        "family",
        "view",
        "topology",
    ] {
        assert!(ok.contains(&check), "{check}: {human}");
    }
}

#[test]
fn doctor_finds_servers_that_must_not_hold_locks() {
    let start =
        |arguments: &[&str]| RedisServer::start_with(&[&["--save", ""], arguments].concat());
    let servers = vec![
        start(&["--maxmemory-policy", "allkeys-lru"]),
        start(&["--replicaof", "127.0.0.1", "1"]),
        start(&["--requirepass", "right"]),
        start(&[]),
        start(&[]),
    ];
    let mut bed = Bed::of(servers, 1);
    let mut urls = bed.urls();
    urls[2] = format!("{}?pass=wr0ng", urls[2]);
    urls.push(urls[4].clone());
    bed.configure(&urls, 1, "");
    bed.servers[3].kill();
    let (human, json) = bed.both(&["doctor"], 4);
    let expected = [
        ("maxmemory-policy", Some("a")),
        ("role", Some("b")),
        ("credentials", Some("c")),
        ("reachable", Some("d")),
        ("own server", Some("f")),
    ];
    assert_eq!(found(&json, "fail"), expected, "{human}");
    assert!(
        human.contains("CONFIG SET maxmemory-policy noeviction"),
        "{human}"
    );
    assert!(!human.contains("wr0ng") && !json.to_string().contains("wr0ng"));
    let (_, json) = bed.both(&["status"], 4);
    let states: Vec<&str> = json["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["state"].as_str().unwrap())
        .collect();
    let expected = [
        "unsuitable",
        "unsuitable",
        "denied",
        "unreachable",
        "absent",
        "unsuitable",
    ];
    assert_eq!(states, expected);
}

#[test]
fn doctor_finds_what_configuration_and_cluster_do_not_share() {
    let bed = Bed::new(3, 1);
    bed.init();
    bed.configure(&bed.urls()[..2], 1, "max_ttl = \"20s\"");
    let (human, json) = bed.both(&["doctor"], 4);
    assert_eq!(
        found(&json, "fail"),
        [("topology", None), ("topology", None)],
        "{human}"
    );
    assert!(
        human.contains("router.max_ttl is 30s as served and 20s as configured"),
        "{human}"
    );
    assert!(
        human.contains("node c is served and not configured"),
        "{human}"
    );

    for (more, replicas, check) in [("max_ttl = \"500ms\"", 1, "ttl"), ("", 2, "replicas")] {
        bed.configure(&bed.urls(), replicas, more);
        let (human, json) = bed.both(&["doctor"], 4);
        assert!(found(&json, "fail").contains(&(check, None)), "{human}");
    }
    std::fs::write(bed.file(), "nonsense").unwrap();
    let (_, json) = bed.both(&["doctor"], 4);
    assert_eq!(found(&json, "fail"), [("configuration", None)]);
}

#[test]
fn doctor_does_not_take_durability_on_trust() {
    let append = ["--save", "", "--appendonly", "yes", "--appendfsync"];
    let servers = vec![
        RedisServer::start(),
        RedisServer::start_with(&[&append[..], &["everysec"]].concat()),
        RedisServer::start_with(&[&append[..], &["always"]].concat()),
    ];
    let bed = Bed::of(servers, 1);
    let mut text = std::fs::read_to_string(bed.file()).unwrap();
    text = text.replace("[[node]]", "[[node]]\ndurable = true");
    std::fs::write(bed.file(), text).unwrap();
    let (human, json) = bed.both(&["doctor"], 4);
    let expected = [("durable", Some("a")), ("durable", Some("b"))];
    assert_eq!(found(&json, "fail"), expected, "{human}");
    assert!(
        found(&json, "ok").contains(&("durable", Some("c"))),
        "{human}"
    );
}

#[test]
fn a_silent_server_holds_nobody_up() {
    let bed = Bed::new(3, 3);
    bed.init();
    bed.servers[1].freeze();
    let begun = Instant::now();
    let (_, json) = bed.both(&["status"], 4);
    assert_eq!(json["nodes"][1]["state"], "unreachable", "{json}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    bed.servers[1].thaw();
}
