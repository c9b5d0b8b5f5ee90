//! Fences grow with every grant of a key, across tasks and processes.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use ringlock::{Fence, Init, Router};
use ringlock_test_support::{ARMS, Arm, Cluster, TestNode, name};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

const KEYS: usize = 50;
const PROCESSES: usize = 2;
const TASKS: usize = 4;
const GRANTS: usize = 10_000;

/// The environment variable that passes the servers and the replicas to a child
/// process.
const CHILD: &str = "RINGLOCK_TEST_CHILD";

/// The clock that measures leases, the same in every process.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn seed() -> u64 {
    match std::env::var("RINGLOCK_SEED") {
        Ok(seed) => seed.parse().expect("RINGLOCK_SEED is a number"),
        Err(_) => rand::random(),
    }
}

/// One lease, as its holder saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lease {
    key: usize,
    fence: u64,
    /// When the acquire was called and when it returned.
    asked: u64,
    granted: u64,
    /// When the holder stopped relying on it.
    ended: u64,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            fence,
            asked,
            granted,
            ended,
        } = self;
        write!(f, "lease {key} {fence} {asked} {granted} {ended}")
    }
}

impl FromStr for Lease {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let numbers = line.strip_prefix("lease ").ok_or("no lease")?;
        let numbers: Result<Vec<u64>, _> = numbers.split(' ').map(str::parse).collect();
        match numbers.map_err(|error| error.to_string())?[..] {
            [key, fence, asked, granted, ended] => Ok(Self {
                key: key as usize,
                fence,
                asked,
                granted,
                ended,
            }),
            _ => Err(format!("not five numbers: {line}")),
        }
    }
}

/// What is wrong with the leases of one key, if anything.
fn fault(leases: &[Lease]) -> Option<String> {
    let mut leases = leases.to_vec();
    leases.sort_by_key(|lease| lease.fence);
    leases.windows(2).find_map(|pair| {
        let [first, second] = pair else { return None };
        if first.fence == second.fence {
            return Some(format!("two of one fence: {first}; {second}"));
        }
        if second.granted < first.ended && first.granted < second.ended {
            return Some(format!("held by two at once: {first}; {second}"));
        }
        (second.granted < first.granted)
            .then(|| format!("granted later with a lower fence: {first}; {second}"))
    })
}

#[test]
fn the_check_finds_what_it_is_made_for() {
    let lease = |fence, granted, ended| Lease {
        key: 1,
        fence,
        asked: granted,
        granted,
        ended,
    };
    let fine = [lease(1, 10, 20), lease(5, 20, 30), lease(9, 31, 31)];
    assert_eq!(fault(&fine), None);
    let same = fault(&[lease(7, 10, 20), lease(7, 30, 40)]).unwrap();
    assert!(same.contains("one fence"), "{same}");
    let overlap = fault(&[lease(1, 10, 20), lease(2, 19, 30)]).unwrap();
    assert!(overlap.contains("at once"), "{overlap}");
    let inside = fault(&[lease(1, 10, 40), lease(2, 20, 30)]).unwrap();
    assert!(inside.contains("at once"), "{inside}");
    let lower = fault(&[lease(2, 10, 20), lease(1, 30, 40)]).unwrap();
    assert!(lower.contains("lower fence"), "{lower}");
    let lease = lease(3, 4, 5);
    assert_eq!(lease.to_string().parse(), Ok(lease));
}

/// A child process; it is killed on drop if the test ends first.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Runs this test binary again, as [`a_child`].
    fn start(urls: &[String], replicas: usize, seed: u64) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["fences::a_child", "--exact", "--nocapture"])
            .env(CHILD, format!("{replicas} {}", urls.join(" ")))
            .env("RINGLOCK_SEED", seed.to_string())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("this very program"))
    }

    /// Its leases, and its number of quorum grants: in total and with a second
    /// round.
    fn results(mut self) -> (Vec<Lease>, [u64; 2]) {
        let (mut leases, mut counts) = (Vec::new(), None);
        let output = BufReader::new(self.0.stdout.take().expect("a pipe"));
        for line in output.lines() {
            let line = line.unwrap();
            if let Ok(lease) = line.parse() {
                leases.push(lease);
            } else if let Some(numbers) = line.strip_prefix("counts ") {
                let (granted, raised) = numbers.split_once(' ').unwrap();
                counts = Some([granted.parse().unwrap(), raised.parse().unwrap()]);
            }
        }
        let status = self.0.wait().unwrap();
        assert!(status.success(), "the child failed: {status}");
        (leases, counts.expect("the child's counts"))
    }
}

/// Not a test by itself, but the child process of
/// [`grow_in_the_order_of_grants`]: it locks and unlocks.
#[tokio::test]
async fn a_child() {
    let Ok(reported) = std::env::var(CHILD) else {
        return;
    };
    let mut reported = reported.split(' ');
    let replicas = reported.next().unwrap().parse().unwrap();
    let builder = Router::builder().init(Init::Now).replicas(replicas);
    let nodes = reported.enumerate();
    let builder = nodes.fold(builder, |builder, (index, url)| {
        builder.node(name(index), url)
    });
    let router = builder.connect().await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (router, seed) = (router.clone(), seed().wrapping_add(task as u64));
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut leases = Vec::new();
            for _ in 0..GRANTS / (PROCESSES * TASKS) {
                let key = random.random_range(0..KEYS);
                let asked = now();
                let acquire = router.acquire(format!("orders/{key}"));
                let guard = acquire.wait(Duration::from_secs(60)).await.unwrap();
                let granted = now();
                if random.random_ratio(1, 4) {
                    tokio::task::yield_now().await;
                }
                leases.push(Lease {
                    key,
                    fence: guard.fence().get(),
                    asked,
                    granted,
                    ended: now().min(guard.valid_until().as_nanos()),
                });
                match random.random_ratio(1, 2) {
                    true => drop(guard),
                    false => drop(guard.release().await.unwrap()),
                }
            }
            leases
        });
    }
    for lease in tasks.join_all().await.concat() {
        println!("{lease}");
    }
    let stats = router.stats();
    println!("\ncounts {} {}", stats.granted, stats.write_backs);
    assert!(router.shutdown().await);
}

fn grow_in_the_order_of_grants(replicas: usize) {
    let seed = seed();
    println!("RINGLOCK_SEED={seed} n={replicas}");
    let cluster = Cluster::start(Arm::Redis, 5);
    let urls: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| match node {
            TestNode::Redis(server) => server.url(),
            TestNode::Memory(_) => unreachable!("servers are started"),
        })
        .collect();
    let processes: Vec<Process> = (0..PROCESSES)
        .map(|number| Process::start(&urls, replicas, seed.wrapping_add(number as u64 * 1_000)))
        .collect();
    // Each pipe has its own reader, so that no child waits for a reader.
    let readers = processes.into_iter();
    let readers: Vec<_> = readers
        .map(|process| std::thread::spawn(|| process.results()))
        .collect();
    let mut of_key: HashMap<usize, Vec<Lease>> = HashMap::new();
    let mut total = [0, 0];
    let mut overlapping_asks = 0;
    for reader in readers {
        let (leases, counts) = reader.join().expect("a child's results");
        total = [total[0] + counts[0], total[1] + counts[1]];
        for lease in leases {
            of_key.entry(lease.key).or_default().push(lease);
        }
    }
    let granted: usize = of_key.values().map(Vec::len).sum();
    assert_eq!((granted, of_key.len()), (GRANTS, KEYS));
    for leases in of_key.values_mut() {
        assert_eq!(fault(leases), None, "seed {seed}");
        leases.sort_by_key(|lease| lease.granted);
        let pairs = leases.windows(2);
        overlapping_asks += pairs.filter(|pair| pair[1].asked < pair[0].ended).count();
    }
    let share = 100.0 * total[1] as f64 / total[0] as f64;
    println!(
        "n={replicas}: {granted} grants, {overlapping_asks} of them asked for while held; \
         {} second rounds, {share:.2} % of grants",
        total[1]
    );
    assert!(overlapping_asks > 50, "the processes hardly met");
    if replicas == 1 {
        assert_eq!(total[1], 0, "a single owner needs no second round");
    }
}

#[test]
fn fences_of_single_owners_grow_in_the_order_of_grants() {
    grow_in_the_order_of_grants(1);
}

#[test]
fn fences_of_quorums_grow_in_the_order_of_grants() {
    grow_in_the_order_of_grants(5);
}

/// Another majority makes every grant, and failed attempts drive the nodes'
/// counters apart: the next fence is higher all the same.
#[tokio::test]
async fn fences_grow_whichever_majority_grants() {
    let seed = seed();
    println!("RINGLOCK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for replicas in [3, 5] {
        let cluster = Cluster::start(Arm::Memory, replicas);
        let router = cluster.router(replicas).await;
        let mut order: Vec<usize> = (0..replicas).collect();
        let mut highest = None;
        for _ in 0..500 {
            order.shuffle(&mut random);
            let too_many = &order[..replicas / 2 + 1];
            too_many.iter().for_each(|&node| cluster.nodes[node].stop());
            for _ in 0..random.random_range(0..3) {
                router.try_acquire("orders/1").await.unwrap_err();
            }
            let few_enough = &order[..random.random_range(0..=replicas / 2)];
            cluster.nodes.iter().for_each(TestNode::start);
            few_enough
                .iter()
                .for_each(|&node| cluster.nodes[node].stop());
            let guard = router.try_acquire("orders/1").await.unwrap();
            let fence = guard.fence();
            assert!(
                Some(fence) > highest,
                "{fence} after {highest:?}, seed {seed}"
            );
            highest = Some(fence);
            guard.release().await.unwrap();
            cluster.nodes.iter().for_each(TestNode::start);
        }
        let stats = router.stats();
        println!(
            "n={replicas}: {} of 500 took a second round",
            stats.write_backs
        );
        assert!(stats.write_backs > 50);
    }
}

/// The resource behind a lock: it keeps the highest fence that it has seen, and
/// refuses any lower one.
#[derive(Default)]
struct Account {
    balance: u64,
    highest: Option<Fence>,
}

impl Account {
    fn write(&mut self, fence: Fence, balance: u64) -> Result<(), Fence> {
        match self.highest {
            Some(highest) if fence < highest => Err(highest),
            _ => {
                self.highest = Some(fence);
                self.balance = balance;
                Ok(())
            }
        }
    }
}

#[tokio::test]
async fn a_guarded_resource_refuses_a_stale_fence() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let mut account = Account::default();
            let acquire = router.acquire("account/7").ttl(Duration::from_millis(100));
            let slow = acquire.await.unwrap();
            account.write(slow.fence(), 1).unwrap();
            // The first holder stalls for longer than its lease, without
            // noticing.
            let next = other.acquire("account/7").await.unwrap();
            account.write(next.fence(), 2).unwrap();
            let refused = account.write(slow.fence(), 3);
            assert_eq!(refused, Err(next.fence()), "{arm:?} n={replicas}");
            assert_eq!(account.balance, 2);
            account.write(next.fence(), 4).unwrap();
        }
    }
}
