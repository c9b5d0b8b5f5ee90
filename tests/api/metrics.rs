//! The reported metrics match the guide.
//!
//! Each test has its own recorder, on its own thread, where its routers and all
//! their tasks run.

use std::collections::{BTreeMap, BTreeSet};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use ringlock::{Error, Init, Loss, MemoryNode, Router, RouterBuilder};

use ringlock_test_support::{KEY, RedisServer, is_waiting, ms, name};

/// What a recorder has recorded so far.
struct Record(PrometheusHandle);

impl Record {
    /// Every series and its value.
    fn series(&self) -> BTreeMap<String, f64> {
        let text = self.0.render();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.into(), value.parse().unwrap())
        });
        series.collect()
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        let all = self.series();
        *all.get(series)
            .unwrap_or_else(|| panic!("no {series} in {all:#?}"))
    }

    /// The names and kinds of the registered metrics.
    fn kinds(&self) -> BTreeMap<String, String> {
        let text = self.0.render();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let types = types.map(|line| line.split_once(' ').unwrap());
        types
            .map(|(name, kind)| (name.into(), kind.into()))
            .collect()
    }
}

/// Runs `scene` with a recorder.
fn recorded(scene: impl AsyncFnOnce(Record)) {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.1, 10.0])
        .unwrap();
    let recorder = recorder.build_recorder();
    let record = Record(recorder.handle());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(scene(record)));
}

/// The rows of the guide's table: name, kind, labels.
fn documented() -> Vec<(String, String, String)> {
    let chapter = include_str!("../../src/guide/observability.rs");
    let rows = chapter
        .lines()
        .filter(|line| line.starts_with("//! | `ringlock_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (
            cells[1].trim_matches('`').into(),
            cells[2].into(),
            cells[3].into(),
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

fn nodes(count: usize) -> Vec<MemoryNode> {
    (0..count)
        .map(|index| MemoryNode::new(name(index)))
        .collect()
}

#[test]
fn what_is_registered_is_what_is_documented() {
    recorded(async |record| {
        let server = RedisServer::start();
        let router = Router::builder().node("a", server.url()).init(Init::Now);
        let router = router.connect().await.unwrap();
        router.acquire(KEY).await.unwrap().release().await.unwrap();
        // The keys of labels, by metric.
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for series in record.series().into_keys() {
            let (name, rest) = series.split_once('{').unwrap_or((&series, ""));
            let is_part = |suffix: &str| name.strip_suffix(suffix);
            let name = is_part("_bucket")
                .or(is_part("_sum"))
                .or(is_part("_count"))
                .unwrap_or(name);
            let pairs = rest
                .trim_end_matches('}')
                .split(',')
                .filter(|pair| !pair.is_empty());
            let own = labels.entry(name.into()).or_default();
            own.extend(
                pairs
                    .filter(|pair| !pair.starts_with("le="))
                    .map(Into::into),
            );
        }
        let kinds = record.kinds();
        let documented = documented();
        assert!(documented.len() > 20, "{documented:?}");
        let names: BTreeSet<&String> = documented.iter().map(|(name, ..)| name).collect();
        assert_eq!(kinds.keys().collect::<BTreeSet<_>>(), names);
        for (name, kind, cell) in &documented {
            assert_eq!(&kinds[name], kind, "{name}");
            let mut expected = BTreeSet::new();
            for label in cell
                .split(';')
                .map(str::trim)
                .filter(|label| !label.is_empty())
            {
                let mut words = label.split('`').skip(1).step_by(2);
                let label = words.next().unwrap();
                match label {
                    "node" => drop(expected.insert("node=\"a\"".to_owned())),
                    _ => expected.extend(words.map(|value| format!("{label}=\"{value}\""))),
                }
            }
            assert_eq!(labels[name], expected, "{name}");
        }
    });
}

#[test]
fn calls_count_by_how_they_end() {
    recorded(async |record| {
        let nodes = nodes(3);
        let router = in_memory(&nodes, 3).connect().await.unwrap();
        let ended =
            |outcome| record.value(&format!("ringlock_acquires_total{{outcome=\"{outcome}\"}}"));
        let guard = router.acquire(KEY).await.unwrap();
        assert_eq!(ended("granted"), 1.0);
        assert_eq!(record.value("ringlock_acquire_wait_seconds_count"), 1.0);
        assert_eq!(
            (router.stats().held, record.value("ringlock_held")),
            (1, 1.0)
        );

        assert!(matches!(
            router.try_acquire(KEY).await,
            Err(Error::Contended { .. })
        ));
        assert_eq!(ended("contended"), 1.0);
        let waited = router.acquire(KEY).wait(ms(20)).await;
        assert!(waited.is_err_and(|error| error.is_contention()));
        assert_eq!(ended("timed_out"), 1.0);
        {
            let waiting = tokio::time::timeout(ms(20), router.acquire(KEY).into_future());
            tokio::pin!(waiting);
            assert!(is_waiting(&mut waiting).await);
            assert_eq!(
                (router.stats().waiting, record.value("ringlock_waiting")),
                (1, 1.0)
            );
            assert!(waiting.await.is_err());
        }
        assert_eq!(ended("abandoned"), 1.0);
        assert_eq!(
            (router.stats().waiting, record.value("ringlock_waiting")),
            (0, 0.0)
        );
        assert!(router.acquire("").await.is_err());
        assert!(router.acquire_all([""; 0]).await.is_err());
        assert_eq!(ended("refused"), 2.0);

        guard.release().await.unwrap();
        assert_eq!(
            (router.stats().held, record.value("ringlock_held")),
            (0, 0.0)
        );
        assert_eq!(record.value("ringlock_hold_seconds_count"), 1.0);
        assert_eq!(
            record.value("ringlock_releases_total{outcome=\"in_time\"}"),
            1.0
        );

        nodes[0].stop();
        nodes[1].stop();
        let waited = router.acquire(KEY).wait(ms(20)).await;
        assert!(waited.is_err_and(|error| !error.is_contention()));
        assert_eq!(ended("no_quorum"), 1.0);
        let failed = "ringlock_node_errors_total{node=\"a\",kind=\"unreachable\"}";
        assert!(record.value(failed) >= 1.0);
        assert_eq!(ended("granted"), 1.0);
    });
}

#[test]
fn leases_count_by_how_they_end() {
    recorded(async |record| {
        let nodes = nodes(1);
        let router = in_memory(&nodes, 1).connect().await.unwrap();
        let lost = |reason| record.value(&format!("ringlock_lost_total{{reason=\"{reason}\"}}"));

        let guard = router.acquire(KEY).await.unwrap();
        guard.extend().await.unwrap();
        assert_eq!(
            record.value("ringlock_extends_total{outcome=\"extended\"}"),
            1.0
        );
        nodes[0].delete(guard.key());
        // The node that owns the key no longer has the entry, and no other
        // holder has one.
        guard.extend().await.unwrap_err();
        assert_eq!((lost("gone"), lost("taken_over")), (1.0, 0.0));
        assert_eq!(
            record.value("ringlock_extends_total{outcome=\"lost\"}"),
            1.0
        );
        drop(guard);
        assert_eq!(
            record.value("ringlock_releases_total{outcome=\"too_late\"}"),
            1.0
        );

        let guard = router.acquire(KEY).ttl(ms(50)).await.unwrap();
        assert_eq!(guard.lost().await, Loss::Expired);
        assert_eq!(lost("expired"), 1.0);
        drop(guard);
        let guard = router
            .acquire(KEY)
            .max_hold(ms(20))
            .keep_alive()
            .await
            .unwrap();
        assert_eq!(guard.lost().await, Loss::MaxHold);
        assert_eq!(lost("max_hold"), 1.0);
        drop(guard);

        let guard = router.acquire(KEY).await.unwrap();
        nodes[0].delete(guard.key());
        guard.release().await.unwrap();
        assert_eq!(record.value("ringlock_gone_total"), 1.0);
        assert_eq!(record.value("ringlock_held"), 0.0);
        assert_eq!(router.stats().lost, 3);
    });
}

#[test]
fn nodes_and_views_are_seen() {
    recorded(async |record| {
        let nodes = nodes(3);
        let short = |config: &mut ringlock::Config| config.router.view_lease = ms(200);
        let router = in_memory(&nodes, 1)
            .configure(short)
            .connect()
            .await
            .unwrap();
        assert_eq!(record.value("ringlock_epoch"), 1.0);
        assert_eq!(record.value("ringlock_view_joint"), 0.0);
        let state = |node: &str, state: &str| {
            let series = format!("ringlock_node_state{{node=\"{node}\",state=\"{state}\"}}");
            record.value(&series)
        };
        let until = async |node, is: &str| {
            let seen = async {
                while state(node, is) != 1.0 {
                    tokio::time::sleep(ms(5)).await;
                }
            };
            tokio::time::timeout(ringlock_test_support::PROMPTLY, seen)
                .await
                .expect(is);
        };
        until("a", "serving").await;
        nodes[0].stop();
        until("a", "silent").await;
        assert_eq!(state("a", "serving"), 0.0);
        nodes[0].start();
        until("a", "serving").await;
        nodes[1].wipe();
        until("b", "quarantined").await;
        assert_eq!(state("b", "serving"), 0.0);
        drop(router);
    });
}

#[test]
fn a_server_has_its_batches_and_connections_counted() {
    recorded(async |record| {
        let mut server = RedisServer::start();
        let router = Router::builder()
            .node("a", server.url())
            .init(Init::Now)
            .ttl(ms(500));
        let router = router.connect().await.unwrap();
        let keys: Vec<String> = (0..100).map(|index| format!("k{index}")).collect();
        let guards = router.acquire_all(&keys).await.unwrap();
        guards.release().await.unwrap();
        let asked = |request| {
            let series =
                format!("ringlock_node_requests_total{{node=\"a\",request=\"{request}\"}}");
            record.value(&series)
        };
        assert_eq!((asked("acquire"), asked("release")), (100.0, 100.0));
        let of_a = |name: &str| record.value(&format!("{name}{{node=\"a\"}}"));
        assert!(of_a("ringlock_node_round_trip_seconds_count") >= 200.0);
        let (batches, requests) = (
            of_a("ringlock_batch_size_count"),
            of_a("ringlock_batch_size_sum"),
        );
        assert!(
            requests >= 200.0 && batches < requests,
            "{batches} {requests}"
        );
        assert_eq!(of_a("ringlock_queue"), 0.0);
        assert_eq!(of_a("ringlock_node_connected"), 1.0);

        server.kill();
        let reported = async {
            while of_a("ringlock_node_connections_lost_total") < 1.0 {
                tokio::time::sleep(ms(5)).await;
            }
        };
        tokio::time::timeout(ringlock_test_support::PROMPTLY, reported)
            .await
            .unwrap();
        assert_eq!(of_a("ringlock_node_connected"), 0.0);
    });
}
