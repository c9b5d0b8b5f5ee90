//! `status --hot`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use ringlock::{Config, Router};
use serde_json::Value;

use crate::testbed::{Job, Testbed, names, until};
use ringlock_test_support::ms;

/// Two routers that take one key from each other, until this is dropped.
struct Fight {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fight {
    fn over(key: &'static str, testbed: &Testbed) -> Self {
        let config = Config::load(testbed.file()).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let grants = Arc::new(AtomicU64::new(0));
        let (ended, granted) = (Arc::clone(&is_over), Arc::clone(&grants));
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let fighter = async |label: &str| {
                let router = Router::connect(config.clone()).await.unwrap();
                while !ended.load(Ordering::Relaxed) {
                    if let Ok(guard) = router.acquire(key).label(label).wait(ms(500)).await {
                        granted.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(ms(2)).await;
                        drop(guard);
                    }
                }
                router.shutdown().await;
            };
            runtime.block_on(async { tokio::join!(fighter("web-1"), fighter("web-2")) });
        });
        until("they fight", || grants.load(Ordering::Relaxed) > 20);
        let thread = Some(thread);
        Self { is_over, thread }
    }
}

impl Drop for Fight {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

fn nodes(json: &Value) -> &Vec<Value> {
    json["hot"]["nodes"].as_array().unwrap()
}

#[test]
fn a_hot_key_and_its_node_are_found() {
    let testbed = Testbed::new(3, 1);
    testbed.init();
    let owner = testbed.run(&["route", "orders/42", "--json"]).json();
    let fight = Fight::over("orders/42", &testbed);
    let (human, json) = testbed.both(&["status", "--hot", "--for", "2s"], 0);
    drop(fight);
    for node in nodes(&json) {
        let is_owner = node["node"] == owner["owner"];
        assert_eq!(node["is_hot"], is_owner, "{json:#}");
        let share = node["share"].as_f64().unwrap();
        assert_eq!(share, if is_owner { 1.0 } else { 0.0 }, "{json:#}");
        let due = node["expected_share"].as_f64().unwrap();
        assert!((0.2..0.5).contains(&due), "{json:#}");
        assert_eq!(
            node["hottest_arc"],
            Value::Null,
            "single owners count in one place"
        );
        assert!(node["commands_per_second"].as_f64().unwrap() > 0.0);
        assert!(node["cpu"].as_f64().unwrap() >= 0.0);
    }
    let key = &json["hot"]["keys"][0];
    assert_eq!(key["key"], "orders/42", "{json:#}");
    assert!(key["changes"].as_u64().unwrap() >= 1, "{json:#}");
    assert!(
        names(&key["holders"])
            .iter()
            .all(|label| ["web-1", "web-2"].contains(label))
    );
    assert_eq!(names(&key["nodes"]), [owner["owner"].as_str().unwrap()]);
    for word in ["HOT", "orders/42", "web-", "a sample"] {
        assert!(human.contains(word), "{word}: {human}");
    }
}

#[test]
fn of_replicas_the_arc_is_reported() {
    let testbed = Testbed::new(3, 3);
    testbed.init();
    let fight = Fight::over("orders/42", &testbed);
    let (human, json) = testbed.both(&["status", "--hot", "--for", "1s"], 0);
    drop(fight);
    for node in nodes(&json) {
        assert_eq!(node["is_hot"], false, "all have the same share: {json:#}");
        let share = node["share"].as_f64().unwrap();
        assert!((0.3..0.37).contains(&share), "{json:#}");
        let arc = &node["hottest_arc"];
        assert_eq!(
            (&arc["replicas"], &arc["share"]),
            (&3.into(), &1.0.into()),
            "{json:#}"
        );
    }
    assert!(!human.contains("HOT"), "{human}");
}

#[test]
fn a_key_that_is_merely_held_is_reported_as_held() {
    let testbed = Testbed::new(3, 1);
    testbed.init();
    let (human, json) = testbed.both(&["status", "--hot", "--for", "300ms"], 0);
    assert!(human.contains("no key was seen"), "{human}");
    assert_eq!(json["hot"]["keys"], Value::Array(Vec::new()));
    assert_eq!(
        nodes(&json)[0]["share"],
        Value::Null,
        "of nothing there is no share"
    );
    assert_eq!(nodes(&json)[0]["attempts_per_second"], 0.0);
    assert_eq!(
        testbed.run(&["status", "--json"]).json()["hot"],
        Value::Null
    );

    let job = Job::start(&testbed, &["k\n"], "echo held; cat");
    assert_eq!(job.first, "held");
    let (human, json) = testbed.both(&["status", "--hot", "--for", "600ms"], 0);
    let key = &json["hot"]["keys"][0];
    assert_eq!(
        (&key["key"], &key["changes"]),
        (&"k\\n".into(), &0.into()),
        "{json:#}"
    );
    assert_eq!(key["seen"], json["hot"]["looks"]);
    assert_eq!(names(&key["holders"]).len(), 1, "{json:#}");
    assert!(human.contains("k\\n"), "{human}");
    assert_eq!(job.end(true).code, 0);
}

#[test]
fn a_node_that_is_out_is_left_out() {
    let mut testbed = Testbed::new(3, 1);
    testbed.init();
    testbed.servers[1].kill();
    let (_, json) = testbed.both(&["status", "--hot", "--for", "300ms"], 4);
    let out = &nodes(&json)[1];
    assert_eq!(
        (&out["node"], &out["attempts_per_second"]),
        (&"b".into(), &Value::Null)
    );
    assert_eq!(nodes(&json)[0]["attempts_per_second"], 0.0);
}

#[test]
fn how_long_to_look_is_bounded() {
    let testbed = Testbed::of(Vec::new(), 1);
    for arguments in [
        &["--for", "5s"][..],
        &["--hot", "--for", "1h"],
        &["--hot", "--for", "1ms"],
    ] {
        let run = testbed.run(&[&["status"], arguments].concat());
        assert_eq!(run.code, 2, "{run:?}");
    }
}
