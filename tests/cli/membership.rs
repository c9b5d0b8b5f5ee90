//! Changes of membership, as in the runbook.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::testbed::{Job, Run, TOKEN, Testbed, names, until};

/// Settings with which a change takes little more than a second.
pub(crate) const SHORT: &str = "max_ttl = \"1s\"\nview_lease = \"300ms\"";

/// The first line of an apply once the joint view is in force.
pub(crate) const JOINT: &str = "both replica sets agree";

impl Testbed {
    /// Servers of which the first `members` are a cluster.
    pub(crate) fn short(servers: usize, members: usize, replicas: usize) -> Self {
        let testbed = Self::new(servers, replicas);
        testbed.configure(&testbed.urls()[..members], replicas, SHORT);
        let run = testbed.run(&["init", "--now"]);
        assert_eq!(run.code, 0, "{run:?}");
        testbed
    }

    /// A shell that has the program under its name.
    fn shell(&self, script: &str) -> Run {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_ringlock"));
        let path = std::env::var("PATH").unwrap_or_default();
        let output = std::process::Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.folder.path())
            .env(
                "PATH",
                format!("{}:{path}", program.parent().unwrap().display()),
            )
            .output()
            .unwrap();
        Run {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Makes a plan, and returns its file.
    #[track_caller]
    pub(crate) fn plan(&self, change: &[&str]) -> String {
        let file = self.folder.path().join("plan.json");
        let file = file.to_str().unwrap().to_owned();
        let run = self.run(&[&["plan"], change, &["--out", &file]].concat());
        assert_eq!((run.code, &*run.stdout), (0, ""), "{run:?}");
        file
    }

    /// Starts `command` and interrupts it once it has printed `what`.
    #[track_caller]
    pub(crate) fn interrupt(&self, command: &[&str], what: &str) -> Run {
        self.signal(command, what, Signal::INT)
    }

    /// The same with any signal.
    #[track_caller]
    pub(crate) fn signal(&self, command: &[&str], what: &str, signal: Signal) -> Run {
        let running = self.begin(command, what);
        kill_process(Pid::from_child(&running.child), signal).unwrap();
        running.end()
    }

    /// Starts `command`, and waits until it has printed `what`.
    #[track_caller]
    pub(crate) fn begin(&self, command: &[&str], what: &str) -> Running {
        let mut child = self.command(command).stdin(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        let mut running = Running {
            child,
            lines,
            stderr: String::new(),
        };
        while !running.stderr.contains(what) {
            let read = running.lines.read_line(&mut running.stderr).unwrap();
            assert_ne!(read, 0, "{}", running.stderr);
        }
        running
    }

    pub(crate) fn epoch(&self) -> u64 {
        let run = self.run(&["status", "--json"]);
        run.json()["epoch"].as_u64().expect("a view")
    }
}

/// A running command. It is killed if the test ends first.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStderr>,
    stderr: String,
}

impl Running {
    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        self.lines.read_to_string(&mut self.stderr).unwrap();
        Run {
            code: self.child.wait().unwrap().code().expect("an exit code"),
            stdout: String::new(),
            stderr: std::mem::take(&mut self.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn states(json: &Value) -> Vec<(&str, &str)> {
    let nodes = json["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            (
                node["node"].as_str().unwrap(),
                node["state"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_cluster_is_initialised_once() {
    let testbed = Testbed::new(2, 1);
    testbed.configure(&testbed.urls(), 1, SHORT);
    let begun = Instant::now();
    let run = testbed.run(&["init"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waits");
    assert!(run.stderr.contains("have expired"), "{run:?}");
    assert_eq!(testbed.run(&["status"]).code, 0);

    // A second run succeeds and reports that.
    let (human, json) = testbed.both(&["init", "--now"], 0);
    assert!(human.contains("already initialised"), "{human}");
    assert_eq!(json["epoch"], 1);
    testbed.configure(&testbed.urls()[..1], 1, SHORT);
    let run = testbed.run(&["init"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("node b is served and not configured"));
    assert!(run.stderr.contains("ringlock plan"), "{run:?}");
}

#[test]
fn a_first_start_may_be_interrupted() {
    let testbed = Testbed::new(1, 1);
    let run = testbed.interrupt(&["init"], "have expired");
    assert_eq!(run.code, 130, "{run:?}");
    assert!(run.stderr.contains("no view yet"), "{run:?}");
    assert_eq!(testbed.run(&["init", "--now"]).code, 0);
}

#[test]
fn a_cluster_is_not_initialised_without_all_nodes() {
    let mut testbed = Testbed::new(2, 1);
    testbed.configure(&testbed.urls(), 1, SHORT);
    testbed.servers[1].kill();
    let begun = Instant::now();
    for command in [
        &["init", "--now"][..],
        &["plan", "remove", "b"],
        &["resume"],
    ] {
        let run = testbed.run(command);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.contains("next: "), "{run:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{begun:?}");
}

#[test]
fn a_node_joins_and_a_dead_one_is_replaced() {
    let mut testbed = Testbed::short(5, 3, 3);
    let job = Job::start(&testbed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let (d, e) = (testbed.servers[3].url(), testbed.servers[4].url());
    let run = testbed.shell(&format!("ringlock plan add d --url {d} > plan.json"));
    assert_eq!((run.code, &*run.stdout), (0, ""), "{run:?}");
    for reported in [
        "joining    d",
        "held locks  ",
        "of 1 scanned",
        "it holds nothing",
    ] {
        assert!(run.stderr.contains(reported), "{reported}: {}", run.stderr);
    }
    let run = testbed.shell("ringlock apply plan.json");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains(JOINT), "{run:?}");
    assert!(run.stdout.contains("is in force"), "{run:?}");
    let (human, json) = testbed.both(&["status"], 4);
    assert_eq!(names(&json["unconfigured"]), ["d"]);
    assert_eq!(states(&json)[3], ("d", "serving"), "{human}");
    testbed.configure(&testbed.urls()[..4], 3, SHORT);
    assert_eq!(testbed.run(&["status"]).code, 0);

    testbed.servers[2].kill();
    assert_eq!(testbed.run(&["status"]).code, 4);
    let script = format!("ringlock plan replace c --by g --url {e} --fenced c --json > plan.json");
    let run = testbed.shell(&script);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    let run = testbed.shell("cat plan.json | ringlock apply - --json");
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    let retired = &run.json()["retired"];
    assert_eq!(retired[0]["node"], "c");
    assert_eq!(retired[0]["may_be_switched_off"], false, "it was not there");
    assert_eq!(job.end(true).code, 0, "the lease was carried over");

    // It comes back empty, and is not a member.
    testbed.servers[2].spawn();
    let (human, json) = testbed.both(&["status"], 4);
    assert_eq!(states(&json)[2], ("c", "retired"), "{human}");
    assert_eq!(testbed.run(&["locks"]).code, 0);
    let (human, _) = testbed.both(&["doctor"], 4);
    assert!(
        human.contains("node g is served and not configured"),
        "{human}"
    );
}

#[test]
fn an_interrupted_change_is_resumed_or_aborted() {
    let testbed = Testbed::short(4, 3, 3);
    let d = testbed.servers[3].url();
    for (command, has_d) in [("abort", false), ("resume", true)] {
        let add = ["add", "d", "--url", &d];
        let reported = testbed.run(&[&["plan"], &add[..]].concat()).stderr;
        assert_eq!(
            reported.contains("it has left a cluster"),
            has_d,
            "{reported}"
        );
        let file = testbed.plan(&add);
        let run = testbed.interrupt(&["apply", &file], JOINT);
        assert_eq!(run.code, 130, "{run:?}");
        for way in ["resume", "abort"] {
            assert!(run.stderr.contains(way), "{run:?}");
        }
        let (human, json) = testbed.both(&["status"], 4);
        assert!(human.contains("a change is under way") && human.contains("node d joins"));
        assert_eq!(names(&json["joint"]["joining"]), ["d"]);
        assert_eq!(json["joint"]["since"], json["epoch"]);
        assert_eq!(states(&json)[3], ("d", "serving"), "{human}");
        votes_are_counted_by_group(&testbed);
        let run = testbed.run(&["plan", "remove", "a"]);
        assert_eq!(run.code, 3, "{run:?}");

        let run = testbed.run(&[command, "--json"]);
        assert_eq!(run.code, 0, "{run:?}");
        let retired = run.json()["retired"].as_array().unwrap().len();
        assert_eq!(retired, usize::from(!has_d), "{run:?}");
        let json = testbed.run(&["status", "--json"]).json();
        assert_eq!(json["joint"], Value::Null);
        let members: Vec<_> = states(&json)
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(members.contains(&"d".into()), has_d, "{json}");
        let (human, json) = testbed.both(&[command], 0);
        assert!(human.contains("no change is under way"), "{human}");
        assert_eq!(json["from"], json["to"]);
    }
}

/// The nodes `a`, `b`, `c` are in force and `d` joins them; three replicas.
fn votes_are_counted_by_group(testbed: &Testbed) {
    for key in 0..40 {
        for node in 0..1 + key % 3 {
            testbed.set(node, format!("g/{key}"), TOKEN, 60_000);
        }
    }
    let (human, json) = testbed.both(&["locks", "--prefix", "g/"], 0);
    let mut seen = std::collections::BTreeSet::new();
    for lock in json["locks"].as_array().unwrap() {
        let votes = lock["votes"].as_array().unwrap();
        let is_each = votes.iter().all(|votes| votes["is_quorum"] == true);
        assert_eq!(lock["is_quorum"], is_each, "{lock}");
        assert_eq!(
            votes[0]["on"].as_u64().unwrap(),
            names(&lock["on"]).len() as u64
        );
        assert!(lock["fence_at_most"].is_u64(), "{lock}");
        let quorums: Vec<bool> = votes
            .iter()
            .map(|votes| votes["is_quorum"] == true)
            .collect();
        seen.insert(quorums);
    }
    // Two of the old replicas are not always two of the new ones.
    for quorums in [&[true][..], &[true, true], &[true, false], &[false, false]] {
        assert!(seen.contains(quorums), "{quorums:?}: {human}");
    }
    assert!(
        human.contains("old 2 of 3: quorum, new 1 of 3: NO quorum"),
        "{human}"
    );
    for key in 0..40 {
        assert_eq!(
            testbed
                .run(&["release", &format!("g/{key}"), "--force"])
                .code,
            0
        );
    }
}

#[test]
fn a_blocking_node_is_reported() {
    let mut testbed = Testbed::short(4, 3, 1);
    let file = testbed.plan(&["add", "d", "--url", &testbed.servers[3].url()]);
    testbed.servers[3].kill();
    let run = testbed.run(&["apply", &file, "--patience", "100ms"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("d does not answer"), "{run:?}");
    assert!(run.stderr.contains("next: "), "{run:?}");
}

#[test]
fn most_nodes_are_abandoned_only_on_a_promise() {
    let mut testbed = Testbed::short(3, 3, 3);
    testbed.servers[1].kill();
    testbed.servers[2].kill();
    let force = [
        "force",
        "--abandon",
        "b",
        "--abandon",
        "c",
        "--replicas",
        "1",
    ];
    let run = testbed.run(&force);
    assert_eq!(run.code, 2, "{run:?}");
    for reported in ["b, c", "two clients", "--i-promise-they-never-return"] {
        assert!(run.stderr.contains(reported), "{reported}: {run:?}");
    }
    assert_eq!(testbed.epoch(), 1);
    let run = testbed.run(&[&force[..], &["--i-promise-they-never-return"]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    for reported in [
        "no key can be locked before 2",
        "max_ttl and view_lease",
        "replicas 3 -> 1",
    ] {
        assert!(run.stderr.contains(reported), "{reported}: {run:?}");
    }
    assert!(testbed.epoch() > 1);
    testbed.configure(&testbed.urls()[..1], 1, SHORT);
    assert_eq!(testbed.run(&["status"]).code, 0);
    assert_eq!(testbed.run(&["exec", "k", "--", "true"]).code, 0);
}

#[test]
fn a_node_that_leaves_knows_it() {
    let testbed = Testbed::short(3, 3, 1);
    let file = testbed.plan(&["remove", "c"]);
    let run = testbed.run(&["apply", &file]);
    assert_eq!(run.code, 0, "{run:?}");
    let reported = "node c has left and knows it: it may be switched off";
    assert!(run.stdout.contains(reported), "{run:?}");
    let (human, json) = testbed.both(&["status"], 4);
    assert_eq!(states(&json)[2], ("c", "retired"), "{human}");
    assert!(human.contains("it may be switched off"), "{human}");
    testbed.configure(&testbed.urls()[..2], 1, SHORT);
    assert_eq!(testbed.run(&["status"]).code, 0);
}

/// The upgrade of the runbook: restart one, and wait for the status.
#[test]
fn a_restarted_node_is_back_when_the_status_says_so() {
    let mut testbed = Testbed::short(3, 3, 3);
    let job = Job::start(&testbed, &["k"], "echo ready; cat");
    testbed.servers[1].restart();
    assert_eq!(testbed.run(&["status"]).code, 4);
    until("it is readmitted", || testbed.run(&["status"]).code == 0);
    assert!(testbed.epoch() > 1);
    assert_eq!(job.end(true).code, 0, "the lease is kept meanwhile");
}
