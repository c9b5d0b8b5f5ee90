//! `plan`: what is planned, and what is not.

use serde_json::Value;

use crate::membership::{SHORT, states};
use crate::testbed::Testbed;
use ringlock_test_support::RedisServer;

/// Views have no credentials: the program logs in to a member that is not
/// configured as the first configured user.
#[test]
fn members_that_are_not_configured_are_logged_in_to() {
    let servers = [0; 2].map(|_| RedisServer::start_on_tcp(&["--requirepass", "s3cret"]));
    let url = |user: &str, node: usize| format!("redis://{user}127.0.0.1:{}", servers[node].1);
    let testbed = Testbed::of(Vec::new(), 1);
    testbed.configure(&[url(":s3cret@", 0)], 1, SHORT);
    assert_eq!(testbed.run(&["init", "--now"]).code, 0);
    let file = testbed.plan(&["add", "b", "--url", &url("", 1)]);
    let plan = std::fs::read_to_string(&file).unwrap();
    assert!(
        plan.contains("redis://127.0.0.1") && !plan.contains("s3cret"),
        "{plan}"
    );
    assert_eq!(testbed.run(&["apply", &file]).code, 0);
    let (human, json) = testbed.both(&["status"], 4);
    assert_eq!(
        states(&json),
        [("a", "serving"), ("b", "serving")],
        "{human}"
    );
    assert_eq!(testbed.run(&["locks"]).code, 0);
    assert_eq!(testbed.run(&["exec", "k", "--", "true"]).code, 0);
}

#[test]
fn several_changes_make_one_plan() {
    let testbed = Testbed::short(4, 3, 3);
    let d = testbed.servers[3].url();
    let file = testbed.plan(&["add", "d", "--url", &d]);
    let add: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let line = [
        "plan",
        "add",
        "d",
        "--url",
        &d,
        "--zone",
        "z",
        "--json",
        "--and",
        "remove",
        "a",
        "--and",
        "reweight",
        "b",
        "3",
        "--and",
        "relabel",
        "c",
        "--host",
        "h",
        "--and",
        "replicas",
        "--prefix",
        "x/",
        "1",
        "--and",
        "max-ttl",
        "2s",
        "--and",
        "view-lease",
        "400ms",
    ];
    let run = testbed.run(&line);
    assert_eq!(run.code, 0, "{run:?}");
    let plan = run.json();
    assert_eq!(plan["parent"], add["parent"]);
    let nodes = plan["to"]["nodes"].as_array().unwrap();
    let reported: Vec<_> = nodes
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    assert_eq!(reported, ["b", "c", "d"]);
    assert_eq!(
        (&nodes[0]["weight"], &nodes[1]["host"]),
        (&3.into(), &"h".into())
    );
    assert_eq!(nodes[2]["zone"], "z");
    assert_eq!(plan["to"]["overrides"][0]["replicas"], 1);
    assert_eq!(
        (&plan["to"]["max_ttl_ms"], &plan["to"]["view_lease_ms"]),
        (&2000.into(), &400.into())
    );
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let testbed = Testbed::short(3, 3, 3);
    for (arguments, code) in [
        (&["remove", "x"][..], 2),
        (&["remove", "c", "--fenced", "x"], 2),
        (&["remove", "c", "--and", "nonsense"], 2),
        (&["remove", "c"], 2),
        (&["replicas", "2"], 2),
        (&["replicas", "--none"], 2),
        (&["replicas", "3"], 3),
        (&["relabel", "c"], 2),
        (&["max-ttl", "0s"], 2),
        (&["view-lease", "25h"], 2),
    ] {
        let run = testbed.run(&[&["plan"], arguments].concat());
        assert_eq!(
            (run.code, &*run.stdout),
            (code, ""),
            "{arguments:?} {run:?}"
        );
    }
}

#[test]
fn an_outdated_plan_is_refused() {
    let testbed = Testbed::short(3, 3, 1);
    let old = testbed.plan(&["reweight", "a", "2"]);
    let text = std::fs::read_to_string(&old).unwrap();
    let new = testbed.plan(&["reweight", "a", "3"]);
    assert_eq!(testbed.run(&["apply", &new]).code, 0);
    std::fs::write(&old, text).unwrap();
    let run = testbed.run(&["apply", &old, "--json"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (5, &5.into()),
        "{run:?}"
    );
    assert!(run.error()["next"].as_str().unwrap().contains("plan"));
    std::fs::write(&old, "{}").unwrap();
    assert_eq!(testbed.run(&["apply", &old]).code, 2);
    assert_eq!(testbed.run(&["apply", "/nowhere/plan.json"]).code, 2);
}

#[test]
fn unfit_servers_are_not_planned_with() {
    let lru = RedisServer::start_with(&["--save", "", "--maxmemory-policy", "allkeys-lru"]);
    let testbed = Testbed::short(2, 2, 1);
    let other = Testbed::short(1, 1, 1);
    let full = RedisServer::start();
    let mut client = full.client();
    redis::cmd("SET")
        .arg("x")
        .arg("y")
        .exec(&mut client)
        .unwrap();
    let nowhere = "unix:///nowhere/redis.sock".to_owned();
    for (url, reported) in [
        (lru.url(), "noeviction"),
        (testbed.servers[0].url(), "same server as node a"),
        (other.servers[0].url(), "another cluster"),
        (nowhere, "reachable"),
    ] {
        let run = testbed.run(&["plan", "add", "d", "--url", &url]);
        assert_eq!((run.code, &*run.stdout), (3, ""), "{reported}: {run:?}");
        assert!(run.stderr.contains(reported), "{reported}: {run:?}");
    }
    let run = testbed.run(&["plan", "add", "d", "--url", &full.url()]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stderr.contains("it holds 1 keys of something else"),
        "{run:?}"
    );
    let run = testbed.run(&["plan", "move", "a", "--url", &full.url()]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("another server"), "{run:?}");
    assert_eq!(testbed.epoch(), 1);
}
