//! The `tracing` events match the guide: targets, names, levels and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ringlock::{Init, MemoryNode, Router, RouterBuilder};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;

use ringlock_test_support::{RedisServer, ms, name};

/// An event, or a span with its fields at its close.
#[derive(Clone, Debug)]
struct Reported {
    target: String,
    level: Level,
    fields: BTreeMap<String, String>,
    is_span: bool,
}

impl Reported {
    fn of(metadata: &Metadata<'_>) -> Self {
        Self {
            target: metadata.target().into(),
            level: *metadata.level(),
            fields: BTreeMap::new(),
            is_span: metadata.is_span(),
        }
    }

    fn event(&self) -> Option<&str> {
        Some(self.fields.get("event")?.as_str())
    }
}

impl Visit for Reported {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields
            .insert(field.name().into(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name().into(), value.into());
    }
}

/// Records the events and spans of ringlock.
#[derive(Clone, Default)]
struct Listener {
    reported: Arc<Mutex<Vec<Reported>>>,
    /// Each with its number of handles.
    spans: Arc<Mutex<BTreeMap<u64, (Reported, usize)>>>,
    next: Arc<AtomicU64>,
    /// The entered spans, on the only thread.
    entered: Arc<Mutex<Vec<(Id, &'static Metadata<'static>)>>>,
    known: Arc<Mutex<BTreeMap<u64, &'static Metadata<'static>>>>,
}

impl Listener {
    fn of(&self, target: &str, event: &str) -> Vec<Reported> {
        let all = self.reported.lock().unwrap();
        let is_it =
            |reported: &&Reported| reported.target == target && reported.event() == Some(event);
        all.iter().filter(is_it).cloned().collect()
    }

    #[track_caller]
    fn one(&self, target: &str, event: &str) -> Reported {
        let mut found = self.of(target, event);
        assert_eq!(
            found.len(),
            1,
            "{target} {event} in {:#?}",
            self.reported.lock().unwrap()
        );
        found.remove(0)
    }

    fn spans(&self) -> Vec<Reported> {
        let all = self.reported.lock().unwrap();
        all.iter()
            .filter(|reported| reported.is_span)
            .cloned()
            .collect()
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ringlock")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut reported = Reported::of(attributes.metadata());
        attributes.record(&mut reported);
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.spans.lock().unwrap().insert(id, (reported, 1));
        self.known.lock().unwrap().insert(id, attributes.metadata());
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        if let Some((reported, _)) = self.spans.lock().unwrap().get_mut(&span.into_u64()) {
            values.record(reported);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut reported = Reported::of(event.metadata());
        event.record(&mut reported);
        self.reported.lock().unwrap().push(reported);
    }

    fn enter(&self, id: &Id) {
        let metadata = self.known.lock().unwrap()[&id.into_u64()];
        self.entered.lock().unwrap().push((id.clone(), metadata));
    }

    fn exit(&self, _: &Id) {
        self.entered.lock().unwrap().pop();
    }

    fn current_span(&self) -> Current {
        match self.entered.lock().unwrap().last() {
            Some((id, metadata)) => Current::new(id.clone(), metadata),
            None => Current::none(),
        }
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some((_, handles)) = self.spans.lock().unwrap().get_mut(&id.into_u64()) {
            *handles += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = self.spans.lock().unwrap();
        let Some((_, handles)) = spans.get_mut(&id.into_u64()) else {
            return false;
        };
        *handles -= 1;
        if *handles > 0 {
            return false;
        }
        let (reported, _) = spans.remove(&id.into_u64()).unwrap();
        self.reported.lock().unwrap().push(reported);
        true
    }
}

/// Runs `scene` on this thread alone with a listener, then compares all
/// recorded events with the guide.
fn reported(scene: impl AsyncFnOnce(&Listener)) -> Listener {
    let listener = Listener::default();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    ringlock_test_support::share_callsites();
    tracing::subscriber::with_default(listener.clone(), || runtime.block_on(scene(&listener)));
    drop(runtime);
    let documented = documented();
    for reported in listener
        .reported
        .lock()
        .unwrap()
        .iter()
        .filter(|reported| !reported.is_span)
    {
        let event = reported
            .event()
            .unwrap_or_else(|| panic!("no name: {reported:?}"));
        let row = documented.get(&(reported.target.clone(), event.into()));
        let (level, fields) = row.unwrap_or_else(|| panic!("not documented: {reported:?}"));
        assert_eq!(reported.level.as_str(), level, "{reported:?}");
        let own = reported
            .fields
            .keys()
            .filter(|field| !["event", "message"].contains(&field.as_str()));
        // An event leaves out the fields that have no value.
        let own: BTreeSet<String> = own.cloned().collect();
        assert!(
            own.is_subset(fields),
            "{reported:?} has other fields than {fields:?}"
        );
        let missing: Vec<_> = fields
            .difference(&own)
            .filter(|field| *field != "fence")
            .collect();
        assert!(missing.is_empty(), "{reported:?} lacks {missing:?}");
    }
    listener
}

/// The guide's table: level and fields by target and event.
fn documented() -> BTreeMap<(String, String), (String, BTreeSet<String>)> {
    let chapter = include_str!("../../src/guide/observability.rs");
    let rows = chapter
        .lines()
        .filter(|line| line.starts_with("//! | `ringlock::"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let bare = |cell: &str| cell.trim_matches('`').to_owned();
        let fields = cells[4].split('`').skip(1).step_by(2).map(Into::into);
        (
            (bare(cells[1]), bare(cells[2])),
            (cells[3].into(), fields.collect()),
        )
    });
    rows.collect()
}

fn in_memory(nodes: &[MemoryNode], replicas: usize) -> RouterBuilder {
    let builder = Router::builder().replicas(replicas).ttl(ms(500));
    nodes
        .iter()
        .cloned()
        .fold(builder, RouterBuilder::memory_node)
}

/// A key that would forge a line of a log.
const SLY: &[u8] = b"orders/\x1b[2J\n42";
const SLY_SHOWN: &str = "orders/\\x1b[2J\\n42";

#[test]
fn a_lease_is_reported_from_its_grant_to_its_end() {
    let listener = reported(async |_| {
        let node = MemoryNode::new("a");
        let router = in_memory(std::slice::from_ref(&node), 1)
            .connect()
            .await
            .unwrap();
        let guard = router.acquire(SLY).await.unwrap();
        router.try_acquire(SLY).await.unwrap_err();
        guard.release().await.unwrap();

        let guard = router.acquire("gone").await.unwrap();
        node.delete(guard.key());
        guard.release().await.unwrap();

        let guard = router.acquire("lost").ttl(ms(60)).await.unwrap();
        node.stop();
        guard.extend().await.unwrap_err();
        guard.lost().await;
        drop(guard);
        drop(tokio::time::timeout(ms(200), router.acquire("late").into_future()).await);
    });
    let lease = "ringlock::lease";
    let granted = &listener.of(lease, "granted")[0];
    assert_eq!(granted.fields["key"], SLY_SHOWN);
    assert_eq!(granted.fields["ttl_ms"], "500");
    assert_eq!(listener.of(lease, "released").len(), 3);
    assert_eq!(
        listener.one(lease, "released_too_late").fields["key"],
        "gone"
    );
    let lost = listener.one(lease, "lost");
    assert_eq!(lost.fields["key"], "lost");
    assert_eq!(
        lost.fields["reason"],
        "its validity ran out before it was extended"
    );
    assert_eq!(listener.of(lease, "extend_failed").len(), 1);
    assert!(!listener.of("ringlock::acquire", "refused").is_empty());

    let spans = listener.spans();
    assert!(spans.iter().all(|span| span.target == "ringlock::acquire"));
    assert!(spans.iter().all(|span| span.level == Level::DEBUG));
    let outcomes: Vec<&str> = spans.iter().map(|span| &*span.fields["outcome"]).collect();
    assert_eq!(
        outcomes,
        ["granted", "contended", "granted", "granted", "abandoned"]
    );
    let first = &spans[0].fields;
    assert_eq!((&*first["key"], &*first["mode"]), (SLY_SHOWN, "sharded"));
    assert_eq!(
        (&*first["attempts"], &first["fence"]),
        ("1", &granted.fields["fence"])
    );
}

#[test]
fn nothing_is_reported_at_info_while_nothing_happens() {
    let listener = reported(async |listener| {
        let nodes: Vec<MemoryNode> = (0..3).map(|index| MemoryNode::new(name(index))).collect();
        let router = in_memory(&nodes, 3).connect().await.unwrap();
        listener.reported.lock().unwrap().clear();
        for _ in 0..100 {
            router
                .acquire("k")
                .keep_alive()
                .await
                .unwrap()
                .release()
                .await
                .unwrap();
        }
        router
            .acquire_all(["k", "l"])
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
        router.shutdown().await;
    });
    let all = listener.reported.lock().unwrap();
    assert!(all.len() > 100);
    let loud: Vec<_> = all
        .iter()
        .filter(|reported| reported.level <= Level::INFO)
        .collect();
    assert!(loud.is_empty(), "{loud:?}");
    let spans = all.iter().filter(|reported| reported.is_span);
    let many = spans.filter(|span| span.fields["keys"] == "2").count();
    assert_eq!(many, 1);
}

#[test]
fn a_server_is_reported_from_its_connection_to_its_loss() {
    let listener = reported(async |listener| {
        let mut server = RedisServer::start();
        let router = Router::builder()
            .node("a", server.url())
            .init(Init::Now)
            .ttl(ms(500));
        let router = router.connect().await.unwrap();
        server.kill();
        let reported = async {
            while listener.of("ringlock::node", "still_out").is_empty() {
                tokio::time::sleep(ms(5)).await;
            }
        };
        tokio::time::timeout(ringlock_test_support::PROMPTLY, reported)
            .await
            .unwrap();
        drop(router);
    });
    let node = "ringlock::node";
    assert_eq!(listener.one(node, "connected").fields["node"], "a");
    assert_eq!(listener.one(node, "lost").fields["node"], "a");
    assert_eq!(listener.one(node, "unreachable").fields["node"], "a");
    assert_eq!(
        listener.one("ringlock::view", "first_start").fields["nodes"],
        "1"
    );
}

#[test]
fn a_server_that_cannot_be_used_is_reported_once() {
    let listener = reported(async |_| {
        let server = RedisServer::start_with(&["--requirepass", "s3cret"]);
        let url = server.url();
        let wrong = format!("{url}?pass=wr0ng");
        let router = Router::builder().node("a", wrong).init(Init::Now);
        let short = |config: &mut ringlock::Config| config.router.connect_timeout = ms(500);
        router.configure(short).connect().await.unwrap_err();
    });
    let reported = listener.one("ringlock::node", "unsuitable");
    assert!(
        reported.fields["error"].contains("credentials"),
        "{reported:?}"
    );
    let all = format!("{:?}", listener.reported.lock().unwrap());
    assert!(!all.contains("wr0ng") && !all.contains("s3cret"), "{all}");
}

#[test]
fn a_node_that_lost_its_data_is_reported_until_it_is_back() {
    let listener = reported(async |_| {
        let nodes: Vec<MemoryNode> = (0..3).map(|index| MemoryNode::new(name(index))).collect();
        let short = |config: &mut ringlock::Config| {
            config.router.max_ttl = ms(500);
            config.router.view_lease = ms(200);
        };
        let router = in_memory(&nodes, 3)
            .configure(short)
            .connect()
            .await
            .unwrap();
        nodes[1].wipe();
        let back = async {
            while router.view().id().epoch < 2 {
                tokio::time::sleep(ms(5)).await;
            }
        };
        tokio::time::timeout(ringlock_test_support::PROMPTLY, back)
            .await
            .unwrap();
        router.shutdown().await;
    });
    assert_eq!(
        listener.one("ringlock::node", "quarantined").fields["node"],
        "b"
    );
    assert_eq!(listener.of("ringlock::node", "readmitted").len(), 1);
    let moved = listener.one("ringlock::view", "moved");
    assert!(moved.fields["to"].starts_with("2:"), "{moved:?}");
    assert_eq!(moved.fields["joint"], "false");
}
