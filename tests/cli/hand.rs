//! An operator's interventions while something else runs: taking a change back,
//! forcing, letting nodes in again.

use std::time::{Duration, Instant};

use ringlock::{Config, Router};
use rustix::process::Signal;

use crate::membership::{JOINT, SHORT, states};
use crate::testbed::{Testbed, names};

/// A passage that lasts for five seconds: long enough to take it back on a busy
/// machine.
const UNHURRIED: &str = "max_ttl = \"4s\"\nview_lease = \"1s\"";

/// What an apply prints while its new nodes are in quarantine.
const PREPARING: &str = "new nodes wait";

impl Testbed {
    /// Servers of which the first `members` are a cluster with slow changes.
    fn unhurried(servers: usize, members: usize) -> Self {
        let testbed = Self::new(servers, 1);
        testbed.configure(&testbed.urls()[..members], 1, UNHURRIED);
        let run = testbed.run(&["init", "--now"]);
        assert_eq!(run.code, 0, "{run:?}");
        testbed
    }

    /// A key that node `owner` owns.
    fn key_of(&self, owner: &str) -> String {
        let route = |key: &String| {
            let run = self.run(&["route", key, "--json"]);
            run.json()["owner"] == owner
        };
        (0..100).map(|key| format!("k{key}")).find(route).unwrap()
    }
}

#[test]
fn an_abort_stops_an_apply_that_runs() {
    for way in ["apply", "resume"] {
        let testbed = Testbed::unhurried(3, 3);
        let file = testbed.plan(&["reweight", "a", "3"]);
        let running = match way {
            "apply" => testbed.begin(&["apply", &file], JOINT),
            _ => {
                let run = testbed.interrupt(&["apply", &file], JOINT);
                assert_eq!(run.code, 130, "{run:?}");
                testbed.begin(&["resume"], JOINT)
            }
        };
        let run = testbed.run(&["abort", "--json"]);
        assert_eq!(run.code, 0, "{run:?}");
        let view = run.json()["to"].as_str().unwrap().to_owned();
        let stopped = running.end();
        assert_eq!(stopped.code, 5, "{stopped:?}");
        for reported in ["taken back by", &*view, "make a new plan"] {
            assert!(stopped.stderr.contains(reported), "{reported}: {stopped:?}");
        }
        assert_eq!(testbed.epoch(), 3, "joint and back, no more");
        let json = testbed.run(&["status", "--json"]).json();
        assert_eq!(json["view"], view, "{json}");
        assert_eq!(json["is_degraded"], false, "{json}");
        // The plan was made for a view that is no longer in force.
        assert_eq!(testbed.run(&["apply", &file]).code, 5);
    }
}

#[test]
fn a_change_that_is_only_prepared_is_stopped_too() {
    let testbed = Testbed::unhurried(4, 3);
    let file = testbed.plan(&["add", "d", "--url", &testbed.servers[3].url()]);
    let running = testbed.begin(&["apply", &file], PREPARING);
    for command in ["abort", "resume"] {
        let run = testbed.run(&[command]);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stdout.contains("no change is under way"), "{run:?}");
    }
    assert_eq!(testbed.epoch(), 1);
    let run = testbed.run(&["abort", "--outdate-plans"]);
    assert_eq!(run.code, 0, "{run:?}");
    let stopped = running.end();
    assert_eq!(stopped.code, 5, "{stopped:?}");
    assert!(stopped.stderr.contains("taken back"), "{stopped:?}");
    assert_eq!(testbed.epoch(), 2);
    assert_eq!(testbed.run(&["status"]).code, 0);
}

/// SIGTERM leaves a change in the same state as SIGINT.
#[test]
fn a_terminated_change_says_how_to_continue() {
    let testbed = Testbed::unhurried(3, 3);
    let file = testbed.plan(&["reweight", "a", "3"]);
    let run = testbed.signal(&["apply", &file], JOINT, Signal::TERM);
    assert_eq!(run.code, 143, "{run:?}");
    for way in ["ringlock resume", "ringlock abort"] {
        assert!(run.stderr.contains(way), "{run:?}");
    }
    assert_eq!(testbed.run(&["abort"]).code, 0);
    let fresh = Testbed::new(1, 1);
    let run = fresh.signal(&["init"], "have expired", Signal::TERM);
    assert_eq!(run.code, 143, "{run:?}");
}

#[test]
fn force_refuses_what_needs_none() {
    let mut testbed = Testbed::short(3, 3, 3);
    let force = ["force", "--i-promise-they-never-return", "--replicas", "1"];
    let vote = "--stop-all-locks-although-a-vote-is-possible";
    let answers = "--risk-two-holders-although-abandoned-nodes-answer";
    let c = [&force[..], &["--abandon", "c"]].concat();
    let run = testbed.run(&[&c[..], &[vote]].concat());
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains(answers), "{run:?}");
    let run = testbed.run(&[&c[..], &[answers]].concat());
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains(vote), "{run:?}");
    testbed.servers[2].kill();
    let run = testbed.run(&[&c[..], &["--json"]].concat());
    assert_eq!(run.code, 2, "{run:?}");
    let error = run.error();
    assert_eq!(error["exit_code"], 2, "{error}");
    assert!(error["next"].as_str().unwrap().contains(vote), "{error}");
    assert_eq!(testbed.epoch(), 1, "nothing was done");
    assert_eq!(testbed.run(&["exec", "k", "--", "true"]).code, 0);
    // With this option it succeeds.
    let run = testbed.run(&[&c[..], &[vote]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stderr.contains("no key can be locked before"),
        "{run:?}"
    );
    assert!(testbed.epoch() > 1024);
}

/// No process runs for long: each `exec` starts the wait over, and says which
/// command does not.
#[test]
fn a_node_is_readmitted_where_nothing_runs_for_long() {
    let mut testbed = Testbed::short(3, 3, 1);
    let key = testbed.key_of("b");
    let (human, _) = testbed.both(&["readmit"], 0);
    assert!(human.contains("every node serves"), "{human}");
    testbed.servers[1].restart();
    let exec = ["exec", "--wait", "0s", &*key, "--", "true"];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let run = testbed.run(&exec);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.contains("ringlock readmit --wait"), "{run:?}");
    }
    let (human, json) = testbed.both(&["readmit"], 4);
    assert_eq!(json["out"][0]["node"], "b", "{human}");
    for command in ["status", "doctor"] {
        let (human, _) = testbed.both(&[command], 4);
        assert!(human.contains("ringlock readmit --wait"), "{human}");
    }
    assert_eq!(
        testbed.run(&["readmit", "a"]).code,
        0,
        "that one is not out"
    );
    let run = testbed.interrupt(&["readmit", "--wait"], "lost their data");
    assert_eq!(run.code, 130, "{run:?}");
    let run = testbed.run(&["readmit", "--wait", "b"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("left"), "it tells how long: {run:?}");
    assert!(run.stdout.contains("node b is readmitted"), "{run:?}");
    assert_eq!(testbed.run(&exec).code, 0);
    assert_eq!(testbed.run(&["status"]).code, 0);

    assert_eq!(testbed.run(&["readmit", "x"]).code, 2);
    testbed.servers[1].kill();
    let run = testbed.run(&["readmit", "b", "--wait", "--patience", "100ms"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("b does not answer"), "{run:?}");
}

#[test]
fn no_view_is_said_only_where_none_is_served() {
    let mut testbed = Testbed::short(2, 2, 1);
    testbed.configure(&testbed.urls()[..1], 1, SHORT);
    testbed.servers[0].kill();
    let (human, json) = testbed.both(&["status"], 4);
    assert!(
        human.contains("no view is known: a could not be asked"),
        "{human}"
    );
    assert!(!human.contains("ringlock init"), "{human}");
    assert_eq!(names(&json["knowledge"]["silent"]), ["a"]);
    let fresh = Testbed::new(1, 1);
    let (human, json) = fresh.both(&["status"], 4);
    assert!(human.contains("no view is served"), "{human}");
    assert_eq!(json["knowledge"]["view"], "none");
    assert_eq!(states(&json), [("a", "absent")]);
}

/// Two routers whose keys have different names both hold one key: the second
/// gets an error about it.
#[tokio::test]
async fn another_key_prefix_is_noticed() {
    let testbed = Testbed::short(2, 2, 1);
    let with = |more: &str| {
        testbed.configure(&testbed.urls(), 1, &format!("{SHORT}\n{more}"));
        std::fs::read_to_string(testbed.file())
            .unwrap()
            .parse::<Config>()
            .unwrap()
    };
    let other = "key_prefix = \"other:\"";
    let refusing = with(&format!("{other}\non_mismatch = \"refuse\""));
    let error = Router::connect(refusing).await.unwrap_err();
    let reported = "router.key_prefix is \"ringlock:\" as served and \"other:\" as configured";
    assert!(error.to_string().contains(reported), "{error}");
    let first = Router::connect(with("on_mismatch = \"refuse\""))
        .await
        .unwrap();
    let second = Router::connect(with(other)).await.unwrap();
    let (human, _) = testbed.both(&["doctor"], 4);
    assert!(human.contains("router.key_prefix"), "{human}");
    let run = testbed.run(&["init"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("router.key_prefix"), "{run:?}");
    // The reason for the check.
    let one = first.acquire("k").await.unwrap();
    let two = second.try_acquire("k").await.unwrap();
    assert_eq!((one.loss(), two.loss()), (None, None), "both hold it");
}
