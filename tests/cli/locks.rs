//! `locks` and `release`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::testbed::{Job, OTHER, TOKEN, Testbed, names, until};
use ringlock_test_support::ms;
use ringlock_test_support::proxy::Proxy;

#[test]
fn locks_are_reported_with_holder_and_fence() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let (human, json) = testbed.both(&["locks"], 0);
    assert!(human.contains("nothing is locked"), "{human}");
    assert_eq!(json["locks"], Value::Array(Vec::new()));

    let job = Job::start(&testbed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let fence: u64 = job.first.parse().expect("a fence");
    testbed.set(0, "stranger", "some uuid", 60_000);
    redis::cmd("SET")
        .arg("ringlock:eternal")
        .arg(TOKEN)
        .exec(&mut testbed.servers[0].client())
        .unwrap();
    let (human, json) = testbed.both(&["locks"], 0);
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
        human.contains("forever (no expiry)") && human.contains("another program"),
        "{human}"
    );
    assert!(human.contains("release KEY --force"), "{human}");
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
    let testbed = Testbed::new(2, 1);
    testbed.init();
    let owner = |key: &str| testbed.run(&["route", key, "--json"]).json()["owner"].clone();
    let other = (0..).map(|index| format!("o/{index}"));
    let other = other
        .into_iter()
        .find(|key| owner(key) != owner("k"))
        .unwrap();
    for _ in 0..5 {
        assert_eq!(testbed.run(&["exec", &other, "--", "true"]).code, 0);
    }
    let job = Job::start(&testbed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let (_, json) = testbed.both(&["locks"], 0);
    let reported = json["locks"][0]["fence_at_most"].to_string();
    assert_eq!(reported, job.first, "the other node has counted further");
    assert_eq!(job.end(true).code, 0);
}

#[test]
fn locks_are_chosen_by_key_and_prefix_and_cut_short() {
    let testbed = Testbed::new(2, 1);
    testbed.init();
    for index in 0..50 {
        testbed.set(index % 2, format!("x/{index:02}"), TOKEN, 60_000);
    }
    for key in ["y*", "y1", "y[1]"] {
        testbed.set(0, key, TOKEN, 60_000);
    }
    testbed.set(1, b"z\xff\n", TOKEN, 60_000);
    let reported = |arguments: &[&str]| {
        let (human, json) = testbed.both(&[&["locks"], arguments].concat(), 0);
        let locks = json["locks"].as_array().unwrap().clone();
        let keys: Vec<String> = locks
            .iter()
            .map(|lock| lock["key"].as_str().unwrap().to_owned())
            .collect();
        let is_cut = json["is_cut_short"] == true;
        assert_eq!(human.contains("cut short"), is_cut, "{human}");
        (keys, is_cut)
    };
    assert_eq!(reported(&["--prefix", "x/"]).0.len(), 50);
    assert_eq!(
        reported(&["--prefix", "y*"]),
        (vec!["y*".to_owned()], false)
    );
    assert_eq!(
        reported(&["--prefix", "y["]),
        (vec!["y[1]".to_owned()], false)
    );
    assert_eq!(reported(&["--key", "y1"]), (vec!["y1".to_owned()], false));
    assert_eq!(reported(&["--key", "nothing"]), (Vec::new(), false));
    assert_eq!(
        reported(&["--prefix", "z"]),
        (vec!["z\u{fffd}\\n".to_owned()], false)
    );
    assert_eq!(reported(&["--limit", "54"]).0.len(), 54);
    let (keys, is_cut) = reported(&["--limit", "10"]);
    assert_eq!((keys.len(), is_cut), (10, true));
    let raw = testbed.run(&[
        OsStr::new("locks"),
        OsStr::new("--key"),
        OsStr::from_bytes(b"z\xff\n"),
    ]);
    assert!(raw.stdout.contains("web-1:42"), "{raw:?}");
}

#[test]
fn locks_of_a_quorum_are_counted_by_token() {
    let mut testbed = Testbed::new(3, 3);
    testbed.init();
    let job = Job::start(&testbed, &["k"], "echo $RINGLOCK_FENCE; cat");
    let fence: u64 = job.first.parse().expect("a fence");
    for (node, token) in [(0, TOKEN), (1, OTHER), (2, TOKEN)] {
        testbed.set(node, "split", token, 60_000);
    }
    let (human, json) = testbed.both(&["locks"], 0);
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

    // One node is not enough to determine fences.
    testbed.servers[0].kill();
    let (human, json) = testbed.both(&["locks", "--key", "split"], 4);
    assert_eq!(json["unasked"][0]["node"], "a");
    assert!(human.contains("node a is left out"), "{human}");
    assert!(
        json["locks"][0]["fence_at_most"].is_u64(),
        "two of three know: {json}"
    );
    testbed.servers[1].kill();
    let (_, json) = testbed.both(&["locks", "--key", "split"], 4);
    assert_eq!(json["locks"][0]["fence_at_most"], Value::Null, "{json}");
    testbed.servers[2].kill();
    let run = testbed.run(&["locks"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("doctor"), "{run:?}");
}

#[test]
fn release_wants_to_be_forced() {
    let testbed = Testbed::new(3, 3);
    testbed.init();
    for node in 0..3 {
        testbed.set(node, "k", if node == 1 { OTHER } else { TOKEN }, 60_000);
    }
    let run = testbed.run(&["release", "k"]);
    assert_eq!(run.code, 2, "{run:?}");
    for part in ["web-1:42", "web-2:43", "fence", "--force"] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    assert!(testbed.get(0, "k").is_some());

    let run = testbed.run(&["release", "k", "--force", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    assert_eq!(json["is_released"], true);
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!(node["outcome"], "released", "{json}");
    }
    assert_eq!((0..3).find_map(|node| testbed.get(node, "k")), None);
    let (human, json) = testbed.both(&["release", "k", "--force"], 0);
    assert!(human.contains("was not held"), "{human}");
    assert_eq!(json["nodes"][0]["outcome"], "free");
}

#[test]
fn release_leaves_a_newer_lease_alone() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    testbed.set(0, "k", TOKEN, 60_000);
    let proxy = Proxy::start(testbed.servers[0].socket(), ms(150));
    testbed.configure(&[proxy.url()], 1, "");
    let mut client = testbed.servers[0].client();
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .exec(&mut client)
        .unwrap();
    let mut command = testbed.command(&["release", "k", "--force", "--json"]);
    let running = command.spawn().unwrap();
    // The reply to its read is still in flight.
    until("the entry was read", || {
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut client)
            .unwrap();
        info.contains("cmdstat_getrange:")
    });
    testbed.set(0, "k", OTHER, 60_000);
    let output = running.wait_with_output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["held"][0]["holder"], "web-1:42", "{json}");
    assert_eq!(json["nodes"][0]["outcome"], "newer", "{json}");
    assert_eq!(testbed.get(0, "k").as_deref(), Some(OTHER));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn release_reports_when_too_few_nodes_were_reached() {
    let mut testbed = Testbed::new(3, 3);
    testbed.init();
    for node in 0..3 {
        testbed.set(node, "k", TOKEN, 60_000);
    }
    testbed.servers[0].kill();
    let run = testbed.run(&["release", "k", "--force", "--json"]);
    assert_eq!(run.code, 0, "two of three are a quorum: {run:?}");
    assert_eq!(run.json()["nodes"][0]["outcome"], "failed");
    testbed.servers[1].kill();
    let run = testbed.run(&["release", "k", "--force", "--json"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (3, &3.into()),
        "{run:?}"
    );
    assert_eq!(run.json()["is_released"], false);
}

#[test]
fn release_spares_the_clusters_own_state() {
    let testbed = Testbed::new(1, 1);
    testbed.configure(&testbed.urls(), 1, "key_prefix = \"\"");
    testbed.init();
    let run = testbed.run(&["release", "ringlock!id", "--force"]);
    let mut get = redis::cmd("GET");
    let id: Option<String> = get
        .arg("ringlock!id")
        .query(&mut testbed.servers[0].client())
        .unwrap();
    assert!(id.is_some(), "{run:?}");
    let (_, json) = testbed.both(&["locks"], 0);
    assert_eq!(
        json["locks"],
        Value::Array(Vec::new()),
        "no state is told as a lock"
    );
}

#[test]
fn foreign_data_is_reported_and_left_alone() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    redis::cmd("RPUSH")
        .arg("ringlock:k")
        .arg("x")
        .exec(&mut testbed.servers[0].client())
        .unwrap();
    let (human, json) = testbed.both(&["locks", "--key", "k"], 0);
    assert!(human.contains("k on a is not a lock"), "{human}");
    assert_eq!(json["no_locks"][0]["on"], "a", "{json}");
    let run = testbed.run(&["release", "k", "--force"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stdout.contains("no lock"), "{run:?}");
    assert!(run.stderr.contains("DEL"), "{run:?}");
    let kind: String = redis::cmd("TYPE")
        .arg("ringlock:k")
        .query(&mut testbed.servers[0].client())
        .unwrap();
    assert_eq!(kind, "list");
}

#[test]
fn an_entry_without_expiry_can_be_released() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    for value in [TOKEN, "a stranger's"] {
        redis::cmd("SET")
            .arg("ringlock:k")
            .arg(value)
            .exec(&mut testbed.servers[0].client())
            .unwrap();
        let run = testbed.run(&["release", "k"]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains("forever (no expiry)"), "{run:?}");
        let run = testbed.run(&["release", "k", "--force"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(testbed.get(0, "k"), None);
    }
}

/// The holder's lease is kept alive continuously, and must not return.
#[test]
fn what_is_released_by_force_stays_free() {
    let testbed = Testbed::new(3, 3);
    testbed.init();
    let job = Job::start(&testbed, &["k"], "echo held; cat");
    let run = testbed.run(&["release", "k", "--force"]);
    assert_eq!(run.code, 0, "{run:?}");
    let begun = std::time::Instant::now();
    // Another holder takes the key and releases it.
    assert_eq!(testbed.run(&["exec", "k", "--", "true"]).code, 0);
    let run = job.end(false);
    println!("the holder has ended after {:?}", begun.elapsed());
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("lost"), "{run:?}");
    assert_eq!((0..3).find_map(|node| testbed.get(node, "k")), None);
}
