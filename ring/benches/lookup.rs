//! How long it takes to find a key's owner, and its five replicas, next to the crates of the field.
//!
//! `cargo bench -p ringlock-ring` first prints the ratios to `pingora-ketama`: all contenders take
//! turns within each round, so that what slows the machine slows them all, and a ratio is the
//! median of the rounds' own. Then criterion measures each alone. Before any of it every
//! contender's answers are checked: against a naive twin, and where two crates follow one
//! convention, against each other. (`cargo test --benches` does just that, and one short round.)

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench: it prints, and it fails loudly"
)]

#[path = "../tests/naive/mod.rs"]
mod naive;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use hashring::HashRing;
use naive::NaiveRing;
use pingora_ketama::{Bucket, Continuum};
use ringlock_ring::{Format, Member, NodeIndex, ReplicaSets, Ring};

const FLEETS: [u16; 3] = [10, 100, 1000];
const REPLICAS: usize = 5;
const ROUNDS: usize = 15;
const SECOND: Duration = Duration::from_secs(1);

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench")
        && !std::env::args().any(|arg| arg == "--test" || arg == "--list");
    let mut criterion = Criterion::default().configure_from_args();
    let (keys, rounds) = if measuring {
        (1 << 16, ROUNDS)
    } else {
        (1 << 10, 1)
    };
    let keys: Vec<_> = (0..keys)
        .map(|i| format!("lock:orders:{:08x}", i * 2_654_435_761u64))
        .collect();
    for nodes in FLEETS {
        let rings = Rings::new(nodes);
        rings.check(&keys);
        for (question, contenders) in [("owner", rings.owner()), ("5 replicas", rings.replicas())] {
            print_ratios(
                &format!("{question}, {nodes} nodes"),
                &contenders,
                &keys,
                rounds,
            );
            let mut group = criterion.benchmark_group(format!("{question}/{nodes}"));
            group.throughput(Throughput::Elements(keys.len() as u64));
            group
                .sample_size(10)
                .warm_up_time(SECOND / 2)
                .measurement_time(SECOND);
            for Contender { name, look_up_all } in &contenders {
                group.bench_function(*name, |bencher| bencher.iter(|| look_up_all(&keys)));
            }
            group.finish();
        }
    }
    criterion.final_summary();
}

/// One fleet of equal nodes with 160 points each, in every crate.
struct Rings {
    members: Vec<Member>,
    xxh3: ReplicaSets,
    nginx: ReplicaSets,
    ketama: ReplicaSets,
    pingora: Continuum,
    ketama_crate: ketama::Ring,
    hashring: HashRing<(u16, u32)>,
}

struct Contender<'r> {
    name: &'static str,
    look_up_all: LookUpAll<'r>,
}

type LookUpAll<'r> = Box<dyn Fn(&[String]) + 'r>;

fn contender<'r, T>(name: &'static str, look_up: impl Fn(&[u8]) -> T + 'r) -> Contender<'r> {
    let look_up_all = move |keys: &[String]| {
        for key in keys {
            black_box(look_up(key.as_bytes()));
        }
    };
    Contender {
        name,
        look_up_all: Box::new(look_up_all),
    }
}

impl Rings {
    fn new(nodes: u16) -> Self {
        // Where two points fall together, pingora keeps either. Take a network where none do, so
        // that it and nginx's format must agree on every key.
        let distinct = |nginx: &ReplicaSets| nginx.ring().segments() == 160 * usize::from(nodes);
        let fleets = (0..=255).map(|network| fleet(network, nodes));
        let mut rings = fleets.map(|members| (replica_sets(Format::Nginx, &members), members));
        let (nginx, members) = rings.find(|(nginx, _)| distinct(nginx)).unwrap();

        let buckets = members.iter().map(|member| Bucket::new(address(member), 1));
        let mut hashring = HashRing::new();
        hashring.batch_add(
            (0..nodes)
                .flat_map(|node| (0..160).map(move |j| (node, j)))
                .collect(),
        );
        Self {
            xxh3: replica_sets(Format::Xxh3, &members),
            nginx,
            ketama: replica_sets(Format::Ketama, &members),
            pingora: Continuum::new(&buckets.collect::<Vec<_>>()),
            ketama_crate: ketama::Ring::build(
                &members.iter().map(Member::name).collect::<Vec<_>>(),
            ),
            hashring,
            members,
        }
    }

    fn owner(&self) -> Vec<Contender<'_>> {
        let [xxh3, nginx, ketama] = [&self.xxh3, &self.nginx, &self.ketama].map(ReplicaSets::ring);
        vec![
            contender("pingora-ketama", |key| self.pingora.node(key)),
            contender("ringlock xxh3", |key| xxh3.owner(key)),
            contender("ringlock nginx", |key| nginx.owner(key)),
            contender("ringlock ketama", |key| ketama.owner(key)),
            contender("ketama", |key| self.ketama_crate.route(key)),
            contender("hashring", |key| self.hashring.get(&key).copied()),
        ]
    }

    fn replicas(&self) -> Vec<Contender<'_>> {
        vec![
            contender("pingora-ketama", |key| pingora_replicas(&self.pingora, key)),
            contender("ringlock xxh3", |key| replicas(&self.xxh3, key)),
            contender("ringlock nginx", |key| replicas(&self.nginx, key)),
        ]
    }

    /// Every answer to every key, once.
    fn check(&self, keys: &[String]) {
        let twin = NaiveRing::new(Format::Xxh3, 160, &self.members);
        let address = |index: NodeIndex| address(&self.members[index.get()]);
        // libmemcached makes 39 digests instead of 40 of some numbers of nodes; the crate does not
        // follow it there.
        let same_ketama = self.ketama.ring().segments() == self.ketama_crate.point_count();
        for key in keys.iter().map(String::as_bytes) {
            let walk = twin
                .walk(self.xxh3.ring().position(key))
                .take(REPLICAS)
                .map(Member::name);
            let set = self.xxh3.of(key);
            assert!(walk.eq(set.iter().map(|index| self.members[index.get()].name())));
            assert_eq!(self.xxh3.ring().owner(key), set[0]);

            let pingora = pingora_replicas(&self.pingora, key).map(|address| *address.unwrap());
            assert_eq!(replicas(&self.nginx, key).map(address), pingora);
            assert_eq!(
                Some(address(self.nginx.ring().owner(key))),
                self.pingora.node(key)
            );

            let owner = self.ketama.ring().owner(key).get();
            assert!(!same_ketama || owner == self.ketama_crate.route(key));
        }
    }
}

/// So many addresses of one network, in the order of names: an index means the same node in all
/// crates.
fn fleet(network: u8, nodes: u16) -> Vec<Member> {
    let address = |i| format!("10.{network}.{}.{}:6379", i / 250, i % 250);
    let mut members: Vec<_> = (0..nodes).map(|i| Member::new(address(i))).collect();
    members.sort();
    members
}

fn replica_sets(format: Format, members: &[Member]) -> ReplicaSets {
    let ring = Ring::builder()
        .format(format)
        .members(members.iter().cloned())
        .build()
        .unwrap();
    ring.replica_sets(REPLICAS).unwrap()
}

fn address(member: &Member) -> SocketAddr {
    member.name().parse().unwrap()
}

/// A copy, so that the set is read and not only pointed at.
fn replicas(sets: &ReplicaSets, key: &[u8]) -> [NodeIndex; REPLICAS] {
    sets.of(key).try_into().unwrap()
}

/// The first distinct addresses from pingora's iterator, distinguished in the fastest way: each
/// node's has one place.
fn pingora_replicas<'r>(ring: &'r Continuum, key: &[u8]) -> [Option<&'r SocketAddr>; REPLICAS] {
    let mut set = [None::<&SocketAddr>; REPLICAS];
    let mut found = 0;
    for address in ring.node_iter(key) {
        if !set[..found]
            .iter()
            .flatten()
            .any(|met| std::ptr::eq(*met, address))
        {
            set[found] = Some(address);
            found += 1;
            if found == REPLICAS {
                break;
            }
        }
    }
    set
}

/// Prints each contender's median time, and how many times as long the first one takes.
///
/// A turn is two passes over the keys: one that finds the caches as the others left them, and one
/// that has them to itself.
fn print_ratios(title: &str, contenders: &[Contender<'_>], keys: &[String], rounds: usize) {
    let mut cold = vec![Vec::new(); contenders.len()];
    let mut warm = cold.clone();
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let contender = (round + turn) % contenders.len();
            for times in [&mut cold, &mut warm] {
                let start = Instant::now();
                (contenders[contender].look_up_all)(black_box(keys));
                times[contender].push(start.elapsed().as_secs_f64() * 1e9 / keys.len() as f64);
            }
        }
    }
    let title = format!("{title}, {rounds} rounds");
    println!("\n{title:<34}warm caches                  cold caches");
    for (contender, Contender { name, .. }) in contenders.iter().enumerate() {
        print!("  {name:<16}");
        for times in [&warm, &cold] {
            let (first, own) = (&times[0], &times[contender]);
            let ratio = median(first.iter().zip(own).map(|(first, own)| first / own));
            print!(
                "   {:>7.1} ns  {ratio:>5.2} x as fast",
                median(own.iter().copied())
            );
        }
        println!();
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values = Vec::from_iter(values);
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
