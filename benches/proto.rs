//! What the protocol costs without any I/O: an attempt from its start to the
//! grant, a node's acquire and release, and the placement of a key. Every
//! round checks its own result.
//!
//! ```sh
//! cargo bench --bench proto
//! ```

#![allow(missing_docs, reason = "a program")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringlock::Format;
use ringlock::proto::lease::{Key, Token, Ttl};
use ringlock::proto::membership::topology::{Node, Topology};
use ringlock::proto::membership::view::View;
use ringlock::proto::node::lock_table::LockTable;
use ringlock::proto::node::message::{Nonce, Reply, Request};
use ringlock::proto::operation::acquire::{AcquireParams, Attempt};
use ringlock::proto::operation::machine::{Event, Machine, Step};
use ringlock::proto::time::Instant;
use ringlock_ring::NodeIndex;

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
const TTL: Duration = Duration::from_secs(10);

/// Enough that the tables hold more than one key, few enough for a cache.
const KEYS: usize = 1024;

fn view(nodes: usize, replicas: usize) -> View {
    let node = |index| Node {
        name: format!("node-{index}"),
        address: String::new(),
        weight: 1,
        zone: None,
        host: None,
        anchor: None,
    };
    let topology = Topology {
        cluster: String::new(),
        nodes: (0..nodes).map(node).collect(),
        format: Format::Xxh3,
        vnodes: 160,
        replicas,
        overrides: Vec::new(),
        max_ttl_ms: 30_000,
        view_lease_ms: 10_000,
    };
    let nonces = (0..nodes).map(|index| (format!("node-{index}"), nonce(index)));
    View::stable(1, topology, &nonces.collect()).unwrap()
}

fn nonce(index: usize) -> Nonce {
    format!("nonce-{index}").into()
}

/// Nodes that serve `view`.
fn tables(view: &View) -> Vec<LockTable> {
    let serving = |index| {
        let mut table = LockTable::new("incarnation");
        let nonce = nonce(index);
        let quarantine = Request::Quarantine {
            expected_nonce: None,
            expected_view: None,
            nonce: nonce.clone(),
        };
        assert_eq!(table.apply(NOW, &quarantine), Reply::Done);
        let adopt = Request::Adopt {
            view: view.id(),
            document: view.document().clone(),
            nonce,
        };
        assert_eq!(table.apply(NOW, &adopt), Reply::Done);
        table
    };
    (0..view.len()).map(serving).collect()
}

fn keys() -> Vec<Key> {
    let key = |index| Key::new(format!("lock:{index:08}")).unwrap();
    (0..KEYS).map(key).collect()
}

fn params(view: &View, key: &Key, serial: u128) -> AcquireParams {
    AcquireParams {
        view: view.id(),
        view_lease: TTL,
        key: key.clone(),
        token: Token::new(serial, None),
        ttl: Ttl::new(TTL, TTL).unwrap(),
        placement: view.place(key),
        t0: NOW,
    }
}

/// Starts an attempt and feeds it `answer` of every node in turn; it must be
/// granted, at this count.
fn grant(
    params: AcquireParams,
    counter: u64,
    mut answer: impl FnMut(NodeIndex, &Request) -> Reply,
) {
    let mut attempt = Attempt::new(params);
    let probes = Vec::new();
    let effects = attempt.on(NOW, NOW, Event::Start { probes });
    assert!(effects.send.is_some());
    let placement = *attempt.placement();
    let Some(owner) = placement.voters().take_first() else {
        return;
    };
    let request = attempt.request(Step::Main, owner);
    let mut outcome = None;
    for &from in placement.nodes() {
        let event = Event::Answered {
            from,
            step: Step::Main,
            answer: Ok(answer(from, &request)),
        };
        let effects = attempt.on(NOW, NOW, event);
        outcome = outcome.or(effects.outcome);
    }
    let grant = outcome.expect("an outcome").expect("a grant");
    assert_eq!(grant.fence.counter(), counter);
}

fn attempts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attempt, start to grant");
    for replicas in [1, 5] {
        let view = view(5, replicas);
        let key = Key::new("orders/42").unwrap();
        let mut serial = 0;
        group.bench_function(format!("{replicas} replicas, answers given"), |bencher| {
            bencher.iter(|| {
                serial += 1;
                let params = params(&view, black_box(&key), serial);
                grant(params, 7, |_, _| Reply::Granted { counter: 7 });
            });
        });
    }
    group.finish();
}

/// The whole protocol of a lock against nodes in memory.
fn pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("acquire and release at nodes in memory");
    for replicas in [1, 5] {
        let view = view(replicas, replicas);
        let mut tables = tables(&view);
        let key = Key::new("orders/42").unwrap();
        let mut serial = 0;
        group.bench_function(format!("{replicas} replicas"), |bencher| {
            bencher.iter(|| {
                serial += 1;
                let params = params(&view, &key, u128::from(serial));
                let release = Request::Release {
                    key: key.clone(),
                    token: params.token.clone(),
                };
                grant(params, serial, |node, request| {
                    tables[node.get()].apply(NOW, request)
                });
                for table in &mut tables {
                    assert_eq!(table.apply(NOW, &release), Reply::Released);
                }
            });
        });
    }
    group.finish();
}

fn table(criterion: &mut Criterion) {
    let view = view(1, 1);
    let mut table = tables(&view).remove(0);
    let requests: Vec<(Request, Request)> = keys()
        .iter()
        .enumerate()
        .map(|(serial, key)| {
            let params = params(&view, key, serial as u128);
            let release = Request::Release {
                key: key.clone(),
                token: params.token.clone(),
            };
            let owner = params.placement.voters().take_first().unwrap();
            (Attempt::new(params).request(Step::Main, owner), release)
        })
        .collect();
    let (mut next, mut counter) = (0, 0);
    criterion.bench_function("table, acquire and release", |bencher| {
        bencher.iter(|| {
            let (acquire, release) = &requests[next % KEYS];
            next += 1;
            counter += 1;
            let granted = table.apply(NOW, black_box(acquire));
            assert_eq!(granted, Reply::Granted { counter });
            assert_eq!(table.apply(NOW, black_box(release)), Reply::Released);
        });
    });
    assert_eq!(table.live(NOW).count(), 0);
}

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    let keys = keys();
    for (nodes, replicas) in [(5, 1), (5, 5), (100, 1), (100, 5)] {
        let view = view(nodes, replicas);
        let owners: Vec<NodeIndex> = keys
            .iter()
            .map(|key| view.ring().owner(key.as_bytes()))
            .collect();
        let mut next = 0;
        group.bench_function(format!("{nodes} nodes, {replicas} replicas"), |bencher| {
            bencher.iter(|| {
                let index = next % KEYS;
                next += 1;
                let placement = view.place(black_box(&keys[index]));
                assert_eq!(placement.nodes()[0], owners[index]);
                assert_eq!(placement.nodes().len(), replicas);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, attempts, pairs, table, placement);
criterion_main!(benches);
