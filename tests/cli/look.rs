//! The command line itself, and the read-only commands.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::testbed::{Job, Testbed, names, until};
use ringlock_test_support::RedisServer;

#[test]
fn a_wrong_command_line_or_configuration_is_usage() {
    let testbed = Testbed::new(1, 1);
    for arguments in [
        &["lokcs"][..],
        &["route"],
        &["exec", "k"],
        &["locks", "--limit", "0"],
    ] {
        let run = testbed.run(arguments);
        assert_eq!((run.code, &*run.stdout), (2, ""), "{run:?}");
        assert!(run.stderr.contains("Usage") || run.stderr.contains("--help"));
        let run = testbed.run(&[&["--json"], arguments].concat());
        assert_eq!(
            (run.code, &run.error()["exit_code"]),
            (2, &2.into()),
            "{run:?}"
        );
    }
    for key in ["", &"x".repeat(1025)] {
        let run = testbed.run(&["release", key]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains("lock key"), "{run:?}");
    }
    let run = testbed.run(&["exec", "k", "--init", "--ttl", "1h", "--", "true"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("max_ttl"), "{run:?}");

    let run = testbed.run(&["status", "--config", "/nowhere/ringlock.toml", "--json"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.error()["next"].as_str().unwrap().contains("--config"));
    std::fs::write(testbed.file(), "[router]\nreplica = 3\n").unwrap();
    let run = testbed.run(&["status"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("line 2"), "{run:?}");
}

#[test]
fn the_help_has_the_exit_codes() {
    let testbed = Testbed::of(Vec::new(), 1);
    let run = testbed.run(&["--help"]);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    for code in (0..=7).chain([126, 127, 130]) {
        assert!(run.stdout.contains(&format!("\n  {code}  ")), "{code}");
    }
    for command in [
        "init", "plan", "apply", "resume", "abort", "force", "route", "ring", "locks", "release",
        "exec", "status", "doctor", "bench",
    ] {
        assert!(run.stdout.contains(&format!("\n  {command} ")), "{command}");
        assert_eq!(testbed.run(&[command, "--help"]).code, 0);
    }
}

#[test]
fn nodes_in_memory_are_not_looked_into() {
    let testbed = Testbed::of(Vec::new(), 1);
    testbed.configure(&["memory://".into()], 1, "");
    for arguments in [
        &["status"][..],
        &["locks"],
        &["release", "k"],
        &["exec", "k", "--", "true"],
    ] {
        let run = testbed.run(arguments);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(
            run.stderr.contains("no other process can inspect it"),
            "{run:?}"
        );
    }
    assert_eq!(testbed.run(&["route", "k"]).code, 0);
    assert_eq!(testbed.run(&["ring"]).code, 0);
    assert_eq!(testbed.run(&["doctor"]).code, 4);
}

#[test]
fn route_reports_where_a_key_lives_and_starts_nothing() {
    let testbed = Testbed::new(3, 3);
    let run = testbed.run(&["route", "k", "--json"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (3, &3.into()),
        "{run:?}"
    );
    for server in &testbed.servers {
        let size: u64 = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
        assert_eq!(size, 0, "a look has written");
    }
    testbed.init();
    let (human, json) = testbed.both(&["route", "orders/42"], 0);
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
fn ring_reports_the_shares_and_draws_them() {
    let testbed = Testbed::new(3, 3);
    let (_, json) = testbed.both(&["ring"], 0);
    assert_eq!(
        (&json["source"], &json["view"]),
        (&"configured".into(), &Value::Null)
    );
    testbed.init();
    let plot = testbed.folder.path().join("ring.svg");
    let (human, json) = testbed.both(&["ring", "--plot", plot.to_str().unwrap()], 0);
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
    let reported = json["owner_max_over_mean"].as_f64().unwrap();
    assert!(
        (largest.fold(0.0, f64::max) - reported).abs() < 1e-9,
        "{json}"
    );

    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<path") && svg.contains(">a "));
    let run = testbed.run(&["ring", "--plot", "/nowhere/ring.svg"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("/nowhere/ring.svg"), "{run:?}");
}

#[test]
fn status_reports_each_nodes_state() {
    let mut testbed = Testbed::new(3, 3);
    let (human, json) = testbed.both(&["status"], 4);
    assert!(human.contains("no view is served"), "{human}");
    assert_eq!(
        (&json["view"], &json["nodes"][0]["state"]),
        (&Value::Null, &"absent".into())
    );
    testbed.init();
    let (human, json) = testbed.both(&["status"], 0);
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
    testbed.servers[0].restart();
    testbed.servers[1].kill();
    let (human, json) = testbed.both(&["status"], 4);
    let states = ["absent", "unreachable", "serving"];
    for (node, state) in json["nodes"].as_array().unwrap().iter().zip(states) {
        assert_eq!(node["state"], state, "{json}");
        assert_eq!(node["reason"].is_string(), state != "serving");
    }
    assert!(human.contains("node b is unreachable: "), "{human}");
}

#[test]
fn status_reports_when_a_node_is_back() {
    let mut testbed = Testbed::new(3, 3);
    testbed.init();
    testbed.servers[0].restart();
    // Its router marks the node, and lets it in again after max_ttl.
    let job = Job::start(&testbed, &["k"], "echo ready; cat");
    until("the node is marked", || {
        let json = testbed.run(&["status", "--json"]).json();
        json["nodes"][0]["state"] == "quarantined"
    });
    let (human, _) = testbed.both(&["status"], 4);
    assert!(
        human.contains("it is readmitted in 31.") && human.contains("at most"),
        "{human}"
    );
    assert_eq!(job.end(true).code, 0);
}

#[test]
fn status_reports_members_that_are_not_configured() {
    let testbed = Testbed::new(2, 1);
    testbed.init();
    testbed.configure(&testbed.urls()[..1], 1, "");
    let (human, json) = testbed.both(&["status"], 4);
    assert_eq!(names(&json["unconfigured"]), ["b"]);
    assert!(human.contains("node b is in the view but not"), "{human}");
}

/// The checks with this verdict, with their nodes.
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
    let testbed = Testbed::new(2, 1);
    let (human, json) = testbed.both(&["doctor"], 0);
    assert_eq!(
        found(&json, "warn"),
        [("view", None)],
        "none is served yet: {human}"
    );
    testbed.init();
    let (human, json) = testbed.both(&["doctor"], 0);
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
        "writes",
        "tracking",
        "own server",
        "family",
        "view",
        "topology",
    ] {
        assert!(ok.contains(&check), "{check}: {human}");
    }
}

/// A server that can be read may still refuse writes; the attempt leaves
/// nothing behind.
#[test]
fn doctor_tries_a_write() {
    let start = |arguments: &[&str]| RedisServer::start_with(arguments);
    let servers = vec![start(&[]), start(&["--min-replicas-to-write", "1"])];
    let testbed = Testbed::of(servers, 1);
    let (human, json) = testbed.both(&["doctor"], 4);
    let failed = found(&json, "fail");
    assert!(failed.contains(&("writes", Some("b"))), "{human}");
    assert!(human.contains("NOREPLICAS"), "{human}");
    assert!(
        found(&json, "ok").contains(&("writes", Some("a"))),
        "{human}"
    );
    for server in &testbed.servers {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query(&mut server.client())
            .unwrap();
        assert_eq!(keys, [""; 0]);
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
    let mut testbed = Testbed::of(servers, 1);
    let mut urls = testbed.urls();
    urls[2] = format!("{}?pass=wr0ng", urls[2]);
    urls.push(urls[4].clone());
    testbed.configure(&urls, 1, "");
    testbed.servers[3].kill();
    let (human, json) = testbed.both(&["doctor"], 4);
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
    let (_, json) = testbed.both(&["status"], 4);
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
    let testbed = Testbed::new(3, 1);
    testbed.init();
    testbed.configure(&testbed.urls()[..2], 1, "max_ttl = \"20s\"");
    let (human, json) = testbed.both(&["doctor"], 4);
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
        testbed.configure(&testbed.urls(), replicas, more);
        let (human, json) = testbed.both(&["doctor"], 4);
        assert!(found(&json, "fail").contains(&(check, None)), "{human}");
    }
    std::fs::write(testbed.file(), "nonsense").unwrap();
    let (_, json) = testbed.both(&["doctor"], 4);
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
    let testbed = Testbed::of(servers, 1);
    let mut text = std::fs::read_to_string(testbed.file()).unwrap();
    text = text.replace("[[node]]", "[[node]]\ndurable = true");
    std::fs::write(testbed.file(), text).unwrap();
    let (human, json) = testbed.both(&["doctor"], 4);
    let expected = [("durable", Some("a")), ("durable", Some("b"))];
    assert_eq!(found(&json, "fail"), expected, "{human}");
    assert!(
        found(&json, "ok").contains(&("durable", Some("c"))),
        "{human}"
    );
}

#[test]
fn a_silent_server_delays_no_command() {
    let testbed = Testbed::new(3, 3);
    testbed.init();
    testbed.servers[1].freeze();
    let begun = Instant::now();
    let (_, json) = testbed.both(&["status"], 4);
    assert_eq!(json["nodes"][1]["state"], "unreachable", "{json}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    testbed.servers[1].thaw();
}
