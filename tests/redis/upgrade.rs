//! The recordings of version 0.1, frozen in `recordings/`: today's code reads
//! them, continues where 0.1 left off, and writes the same, byte by byte.
//!
//! `RINGLOCK_RECORD=1` writes the recordings again. The chapter of the guide on
//! compatibility states when that is permitted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redis::Commands;
use ringlock::node::redis::{RedisNode, RedisOptions};
use ringlock::proto::lease::{Key, Token, Ttl};
use ringlock::proto::membership::topology::{Node, Override, Topology};
use ringlock::proto::membership::view::{Nonces, View};
use ringlock::proto::node::message::{Ballot, FenceCounterId, Reply, Request, ViewId};
use ringlock::{Change, Config, Error, Fence, Format, Init, NodeConfig, OnMismatch, Plan, Router};
use ringlock_test_support::node::{GRACE, ask};
use ringlock_test_support::{RedisServer, ms};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The counter that every node had reached.
const COUNTER: u64 = 41;

/// The name of a node's own record.
const MEMBER: &str = "ringlock!m";

/// The placeholder in a recording for the mark of the server's own data set.
const INCARNATION: &str = "<incarnation>";

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/redis/upgrade/recordings");
    folder.join(name)
}

fn recorded(name: &str) -> String {
    let text =
        std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.trim_end_matches('\n').to_owned()
}

/// Asserts that what is written today is what was recorded.
#[track_caller]
fn is_as_recorded(name: &str, written: &str) {
    if std::env::var_os("RINGLOCK_RECORD").is_some() {
        std::fs::create_dir_all(file(name).parent().unwrap()).unwrap();
        std::fs::write(file(name), format!("{written}\n")).unwrap();
    }
    let before = recorded(name);
    assert!(
        before == written,
        "what is written has changed ({name}): clusters that run 0.1 have the old form, and routers of 0.1 read it. \
         guide::compatibility says what such a change demands: a new form number and code that reads both, or none.\n\
         recorded: {before}\nwritten:  {written}"
    );
}

fn node(name: &str, weight: u32, anchor: Option<&str>) -> Node {
    Node {
        name: name.into(),
        address: format!("redis://{name}.example:6379"),
        weight,
        zone: Some(format!("zone-{name}")),
        host: Some(format!("host-{name}")),
        anchor: anchor.map(Into::into),
    }
}

fn topology() -> Topology {
    Topology {
        cluster: "00112233445566778899aabbccddeeff".into(),
        nodes: vec![
            node("a", 1, None),
            node("b", 2, None),
            node("c", 1, Some("old-c")),
        ],
        format: Format::Xxh3,
        vnodes: 160,
        replicas: 1,
        overrides: vec![Override {
            prefix: "billing/".into(),
            replicas: 3,
        }],
        max_ttl_ms: 300,
        view_lease_ms: 300,
    }
}

fn nonces(names: &[&str]) -> Nonces {
    let nonce = |name: &&str| {
        (
            (*name).into(),
            format!("{:032x}", name.as_bytes()[0]).into(),
        )
    };
    names.iter().map(nonce).collect()
}

fn stable() -> View {
    View::stable(1, topology(), &nonces(&NAMES)).unwrap()
}

fn joint() -> View {
    let mut next = topology();
    next.nodes.remove(0);
    next.nodes.push(node("d", 1, Some("a")));
    next.replicas = 3;
    let names = ["a", "b", "c", "d"];
    View::joint(2, topology(), next, 2, &nonces(&names)).unwrap()
}

const BALLOT: Ballot = Ballot {
    round: 7,
    proposer: 0x0123_4567_89ab_cdef,
};

fn token() -> Token {
    Token::new(0xab, Some("web-1:42".into()))
}

fn locked() -> Key {
    Key::new("orders/2").unwrap()
}

#[test]
fn views() {
    for (name, view) in [("view-stable.json", stable()), ("view-joint.json", joint())] {
        is_as_recorded(name, view.document());
        let text = recorded(name);
        let id = ViewId {
            epoch: view.id().epoch,
            digest: xxh3_128(text.as_bytes()),
        };
        let read = View::read(id, &text).unwrap();
        assert_eq!(
            (read.topology(), read.next()),
            (view.topology(), view.next())
        );
        assert_eq!((read.nonces(), read.since()), (view.nonces(), view.since()));
    }
}

/// Values that servers, resources and other versions compare as text or as a
/// number.
#[test]
fn values() {
    let view = stable();
    let place = |key: &str| {
        let placement = view.place(&Key::new(key).unwrap());
        let nodes = placement.nodes().iter();
        let names: Vec<_> = nodes.map(|&node| view.member(node).name.clone()).collect();
        json!({ "slot": placement.slot().to_string(), "nodes": names })
    };
    let keys = ["orders/1", "orders/2", "billing/1", "\u{fc}"];
    let places: BTreeMap<&str, Value> = keys.iter().map(|&key| (key, place(key))).collect();
    let fence = Fence::new(3, COUNTER).unwrap();
    let written = json!({
        "token": token().to_string(),
        "token without label": Token::new(1, None).to_string(),
        "fence of epoch 3, counter 41": fence.get(),
        "view": view.id().to_string(),
        "ballot": BALLOT.to_string(),
        "slot": FenceCounterId { replicas: 3, arc: 5, part: 2 }.to_string(),
        "places": places,
    });
    is_as_recorded(
        "values.json",
        &serde_json::to_string_pretty(&written).unwrap(),
    );
    let recorded: Value = serde_json::from_str(&recorded("values.json")).unwrap();
    assert_eq!(fence.get(), 3 << 44 | 41);
    let text = |name: &str| recorded[name].as_str().unwrap().to_owned();
    assert_eq!(text("view").parse(), Ok(view.id()));
    assert_eq!(text("ballot").parse(), Ok(BALLOT));
    let holder = ringlock::Holder::of_stored(text("token").as_bytes());
    assert_eq!(holder.label(), Some("web-1:42"));
}

#[test]
fn configuration() {
    let config: Config = recorded("config-everything.toml").parse().unwrap();
    config.check().unwrap();
    let router = &config.router;
    assert_eq!((router.replicas, router.max_local_handoffs), (3, 4));
    assert_eq!(router.ttl, Duration::from_secs(5));
    assert_eq!(router.max_ttl, Duration::from_secs(20));
    assert_eq!(router.view_lease, ms(1500));
    assert_eq!(router.wait, Duration::from_secs(60));
    assert_eq!(router.max_hold, Duration::from_secs(1800));
    assert_eq!(router.connect_timeout, ms(250));
    assert_eq!(
        (&*router.key_prefix, &*router.namespace),
        ("locks:", "locks")
    );
    assert_eq!(
        (router.init, router.on_mismatch),
        (Init::Never, OnMismatch::Refuse)
    );
    assert_eq!(router.label.as_deref(), Some("web-1"));
    assert_eq!((config.ring.format, config.ring.vnodes), (Format::Md5, 40));
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let a = &config.nodes[0];
    assert_eq!((a.weight, a.durable, &*a.url), (2, true, "${REDIS_A}"));
    assert_eq!(
        (a.zone.as_deref(), a.host.as_deref()),
        (Some("eu-1"), Some("rack7"))
    );
    assert_eq!(a.anchor.as_deref(), Some("old-a"));
    assert_eq!(
        (&*config.overrides[0].prefix, config.overrides[0].replicas),
        ("cheap/", 1)
    );
    assert_eq!(config.tls.ca.as_deref(), Some("ca.pem".as_ref()));
}

fn incarnation(server: &RedisServer) -> String {
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut server.client()).unwrap();
    let fact = |name: &str| info.get::<String>(name).unwrap();
    format!("{}/{}", fact("run_id"), fact("master_replid"))
}

/// Everything on a server except the values specific to that server.
fn dump(server: &RedisServer) -> Value {
    let mut client = server.client();
    let own = incarnation(server);
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    keys.sort();
    let value = |key: &String| {
        let kind: String = redis::cmd("TYPE").arg(key).query(&mut client).unwrap();
        let value = match &*kind {
            "hash" => {
                let mut fields: BTreeMap<String, String> = client.hgetall(key).unwrap();
                // A clock reading that was added after 0.1, which ignores it.
                let since = fields.remove("since");
                assert_eq!(
                    since.is_some(),
                    key == MEMBER && !fields.contains_key("epoch")
                );
                json!(fields)
            }
            _ => json!(client.get::<_, String>(key).unwrap()),
        };
        (key.clone(), value)
    };
    let all: BTreeMap<String, Value> = keys.iter().map(value).collect();
    let text = serde_json::to_string(&all)
        .unwrap()
        .replace(&own, INCARNATION);
    serde_json::from_str(&text).unwrap()
}

/// Writes a recorded state to a server.
fn rebuild(server: &RedisServer, state: &Value) {
    let mut client = server.client();
    let own = incarnation(server);
    for (key, value) in state.as_object().unwrap() {
        match value {
            Value::String(text) if key.starts_with("ringlock:") => {
                let () = client.pset_ex(key, text, 60_000).unwrap();
            }
            Value::String(text) => client.set(key, text).unwrap(),
            fields => {
                for (field, value) in fields.as_object().unwrap() {
                    let value = value.as_str().unwrap().replace(INCARNATION, &own);
                    let () = client.hset(key, field, value).unwrap();
                }
            }
        }
    }
}

async fn done(node: &RedisNode, request: Request) {
    assert_eq!(ask(node, request, GRACE).await, Ok(Reply::Done));
}

async fn initialised(server: &RedisServer, name: &str) -> RedisNode {
    let node = RedisNode::new(&server.url(), RedisOptions::default()).unwrap();
    let (view, nonces) = (stable(), nonces(&NAMES));
    let quarantine = Request::Quarantine {
        expected_nonce: None,
        expected_view: None,
        nonce: nonces[name].clone(),
    };
    done(&node, quarantine).await;
    // The last one still waits to be let in.
    if name != "c" {
        let adopt = Request::Adopt {
            view: view.id(),
            document: view.document().clone(),
            nonce: nonces[name].clone(),
        };
        done(&node, adopt).await;
        counted(&node, "before", FenceCounterId::SINGLE, COUNTER).await;
    }
    node
}

/// Takes a key with this count, and releases it.
async fn counted(node: &RedisNode, key: &str, slot: FenceCounterId, counter: u64) {
    let key = Key::new(key).unwrap();
    taken(node, &key, slot, counter).await;
    let release = Request::Release {
        key,
        token: token(),
    };
    assert_eq!(ask(node, release, GRACE).await, Ok(Reply::Released));
}

async fn taken(node: &RedisNode, key: &Key, slot: FenceCounterId, counter: u64) {
    let minute = Duration::from_secs(60);
    let acquire = Request::Acquire {
        view: stable().id(),
        key: key.clone(),
        token: token(),
        ttl: Ttl::new(minute, minute).unwrap(),
        slot,
        floor: counter,
    };
    assert_eq!(
        ask(node, acquire, GRACE).await,
        Ok(Reply::Granted { counter })
    );
}

/// The state on servers: three that form a cluster, and one that voted.
#[tokio::test]
async fn state() {
    let view = stable();
    let owner = view.place(&locked()).nodes()[0];
    let owner = view.member(owner).name.clone();
    assert_ne!(owner, "c", "the recorded lock is on a node that serves");
    let mut all = BTreeMap::new();
    for name in NAMES {
        let server = RedisServer::start();
        let node = initialised(&server, name).await;
        if name == owner {
            taken(&node, &locked(), FenceCounterId::SINGLE, COUNTER + 1).await;
        }
        all.insert(name, dump(&server));
    }
    let server = RedisServer::start();
    let voter = initialised(&server, "a").await;
    let slot = FenceCounterId {
        replicas: 3,
        arc: 5,
        part: 2,
    };
    counted(&voter, "billing/1", slot, (1 << 44) - 1).await;
    let prepare = Request::Prepare {
        view: view.id(),
        ballot: BALLOT,
    };
    assert_eq!(ask(&voter, prepare, GRACE).await, Ok(Reply::Promised(None)));
    let accept = Request::Accept {
        view: view.id(),
        ballot: BALLOT,
        next: joint().id(),
        document: joint().document().clone(),
    };
    done(&voter, accept).await;
    all.insert("voter", dump(&server));
    is_as_recorded("state.json", &serde_json::to_string_pretty(&all).unwrap());
}

/// The servers of a cluster as 0.1 left it.
fn rebuilt() -> Vec<RedisServer> {
    let state: Value = serde_json::from_str(&recorded("state.json")).unwrap();
    let server = |name: &&str| {
        let server = RedisServer::start();
        rebuild(&server, &state[*name]);
        server
    };
    NAMES.iter().map(server).collect()
}

async fn connect(servers: &[RedisServer]) -> Result<Router, Error> {
    let builder = Router::builder()
        .init(Init::Never)
        .ttl(ms(300))
        .configure(|config| {
            config.router.max_ttl = ms(300);
            config.router.connect_timeout = ms(500);
        });
    let nodes = NAMES.iter().zip(servers);
    let builder = nodes.fold(builder, |builder, (name, server)| {
        builder.node(*name, server.url())
    });
    builder.connect().await
}

#[tokio::test]
async fn a_vote_is_remembered() {
    let state: Value = serde_json::from_str(&recorded("state.json")).unwrap();
    let server = RedisServer::start();
    rebuild(&server, &state["voter"]);
    let node = RedisNode::new(&server.url(), RedisOptions::default()).unwrap();
    let view = stable().id();
    let lower = Ballot { round: 6, ..BALLOT };
    let outbid = ask(
        &node,
        Request::Prepare {
            view,
            ballot: lower,
        },
        GRACE,
    )
    .await;
    assert_eq!(outbid, Ok(Reply::Preempted(BALLOT)));
    let higher = Ballot { round: 8, ..BALLOT };
    let promised = ask(
        &node,
        Request::Prepare {
            view,
            ballot: higher,
        },
        GRACE,
    )
    .await;
    let Ok(Reply::Promised(Some(accepted))) = promised else {
        panic!("{promised:?}")
    };
    assert_eq!((accepted.ballot, accepted.view), (BALLOT, joint().id()));
    assert_eq!(*accepted.document, **joint().document());
}

#[tokio::test]
async fn a_router_goes_on_where_0_1_left_off() {
    let servers = rebuilt();
    let router = connect(&servers).await.unwrap();
    assert_eq!(router.route("k").unwrap().view, stable().id());
    // The holder of a lock still holds it.
    let held = router.try_acquire(locked().as_bytes()).await.unwrap_err();
    assert!(
        held.is_contention() && held.to_string().contains("web-1:42"),
        "{held}"
    );
    for key in (0..40).map(|key| format!("k{key}")) {
        let guard = router.acquire(&key).await.unwrap();
        let owner = &*router.route(&key).unwrap().owner;
        assert_eq!(guard.fence().epoch(), 1);
        // c was only waiting to be let in: it had counted nothing.
        assert!(
            owner == "c" || guard.fence().counter() > COUNTER,
            "{owner}: {guard:?}"
        );
        guard.release().await.unwrap();
    }
    router
        .acquire("billing/7")
        .await
        .unwrap()
        .release()
        .await
        .unwrap();

    let rebalancer = router.rebalancer();
    let reweight = Change::Reweight {
        node: "a".into(),
        weight: 3,
    };
    let plan = rebalancer.plan([reweight]).await.unwrap();
    is_as_recorded("plan.json", &plan.to_json());
    assert_eq!(Plan::from_json(&recorded("plan.json")).unwrap(), plan);

    let before = router.acquire("k").await.unwrap();
    let last = before.fence();
    before.release().await.unwrap();
    let joining = RedisServer::start();
    let change = Change::Add(NodeConfig::new("d", joining.url()));
    let plan = rebalancer.plan([change]).await.unwrap();
    rebalancer.apply(&plan, |_| {}).await.unwrap();
    let guard = router.acquire("k").await.unwrap();
    assert!(guard.fence() > last && guard.fence().epoch() > 1);
    guard.release().await.unwrap();
}

/// Puts a view of a later version on all nodes.
fn upgrade(servers: &[RedisServer]) -> ViewId {
    let document = stable()
        .document()
        .replacen("\"epoch\":1", "\"epoch\":2", 1);
    let document = document.replacen(
        "{\"ringlock\":1",
        "{\"shards\":{\"a\":[1]},\"ringlock\":2",
        1,
    );
    let id = ViewId {
        epoch: 2,
        digest: xxh3_128(document.as_bytes()),
    };
    for server in servers {
        let mut client = server.client();
        let () = client.hset("ringlock!m", "doc", &document).unwrap();
        let () = client.hset("ringlock!m", "epoch", 2).unwrap();
        let () = client.set("ringlock!id", id.to_string()).unwrap();
    }
    id
}

#[tokio::test]
async fn a_view_of_a_later_version_is_reported_by_its_form() {
    let servers = rebuilt();
    let router = connect(&servers).await.unwrap();
    let guard = router.acquire("held").await.unwrap();
    upgrade(&servers);
    // A running router keeps its view, grants nothing under it, and reports
    // why.
    let deadline = Instant::now() + GRACE;
    loop {
        let error = router
            .try_acquire("k")
            .await
            .expect_err("the nodes serve another view");
        assert!(!error.is_contention(), "{error}");
        if format!("{error:#}").contains("form 2") {
            assert!(format!("{error:#}").contains("upgrade"), "{error}");
            break;
        }
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(ms(1)).await;
    }
    assert_eq!(router.route("k").unwrap().view, stable().id());
    guard
        .extend()
        .await
        .expect_err("it cannot be extended by an old view");
    guard.release().await.unwrap();
    // The servers are unchanged.
    for server in &servers {
        let served: String = server.client().get("ringlock!id").unwrap();
        assert!(served.starts_with("2:"), "{served}");
    }
    // A router that starts now fails at once.
    let error = connect(&servers)
        .await
        .expect_err("it cannot read the view");
    let text = format!("{error:#}");
    assert!(text.contains("form 2") && text.contains("form 1"), "{text}");
}

#[test]
fn a_plan_of_a_later_version_is_reported_by_its_form() {
    let text =
        recorded("plan.json").replacen("\"ringlock_plan\": 1", "\"ringlock_plan\": 2, \"x\": 1", 1);
    let error = Plan::from_json(&text).unwrap_err().to_string();
    assert!(
        error.contains("form 2") && error.contains("make a new plan"),
        "{error}"
    );
}
