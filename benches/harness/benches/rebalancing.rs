//! What changes of membership do to clients that lock at the same time: real
//! servers, one process per router, and every lease checked.
//!
//! ```sh
//! cargo bench --bench rebalancing
//! cargo bench --bench rebalancing -- --max-ttl 30 --view-lease 10 --leases 600 --tasks 64
//! ```
//!
//! Two processes hold leases that are kept alive, and acquire and release
//! others, while a third adds, reweights, replaces and removes nodes, and kills
//! one that comes back empty. All processes read one clock of the machine.
//! Fails if two leases of a key overlap, a fence goes back, or a lease is lost
//! other than with its only node.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::print_stdout, reason = "it reports")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed bench stops"
)]

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use ringlock::{Change, Guard, NodeConfig, Router};
use ringlock_bench::cluster::name;
use ringlock_bench::probe::Probe;
use ringlock_bench::process::Process;
use ringlock_bench::resources::now;
use ringlock_bench::servers::Server;
use ringlock_bench::statistics::percentile;
use ringlock_bench::{arguments, cluster};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The environment variable with the orders for the other processes.
const WORKER: &str = "RINGLOCK_REBALANCING_WORKER";

const MEMBERS: usize = 5;
const WORKERS: usize = 2;

/// Enough that tasks rarely request the same key.
const KEYS: usize = 2_000;

/// How long is measured before each change.
const CALM: Duration = Duration::from_secs(3);

/// How long an acquire tries: longer than a lost node stays away.
const WAIT: Duration = Duration::from_secs(120);

/// A node that came back empty must be a member again by then.
const RETURN: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
struct Plan {
    replicas: usize,
    max_ttl: Duration,
    view_lease: Duration,
    leases: usize,
    tasks: usize,
    idle: Duration,
    calm: Duration,
}

impl Plan {
    fn of_arguments() -> Self {
        let is_bench = arguments::is_measurement();
        let number = arguments::number_or;
        let seconds = |name, bench, quick| Duration::from_secs_f64(number(name, bench, quick));
        Self {
            replicas: 1,
            max_ttl: seconds("--max-ttl", 3.0, 0.8),
            view_lease: seconds("--view-lease", 1.0, 0.4),
            leases: number("--leases", 600.0, 40.0) as usize,
            tasks: number("--tasks", 64.0, 8.0) as usize,
            idle: seconds("--idle", 20.0, 1.0),
            calm: if is_bench { CALM } else { CALM / 10 },
        }
    }

    async fn connect(&self, urls: impl IntoIterator<Item = String>) -> Router {
        let builder = cluster::builder(urls).replicas(self.replicas);
        let builder = builder.configure(|config| {
            config.router.ttl = self.max_ttl;
            config.router.max_ttl = self.max_ttl;
            config.router.view_lease = self.view_lease;
        });
        builder.connect().await.unwrap()
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    if let Ok(reported) = std::env::var(WORKER) {
        runtime.block_on(work(&reported));
        return ExitCode::SUCCESS;
    }
    let plan = Plan::of_arguments();
    let mut is_clean = true;
    for replicas in [1, 3] {
        let plan = Plan {
            replicas,
            ..plan.clone()
        };
        is_clean &= runtime.block_on(measure(&plan));
    }
    if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

// The workers.

/// One lease as its holder saw it; times in nanoseconds.
#[derive(Clone, Debug)]
struct Tenure {
    key: String,
    fence: u64,
    asked: u64,
    from: u64,
    to: u64,
    /// Whether it is held throughout.
    is_kept: bool,
    /// The key's owner, if the lease was lost before its release.
    lost_with: Option<String>,
}

impl Tenure {
    /// A lease that was requested at `asked`, was granted at `from`, and ends
    /// now or when it lapsed.
    fn of(guard: &Guard, asked: u64, from: u64) -> Self {
        Self {
            key: guard.key().to_string(),
            fence: guard.fence().get(),
            asked,
            from,
            to: now().min(guard.valid_until().as_nanos()),
            is_kept: false,
            lost_with: None,
        }
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("> lease ")?.split(' ');
        let mut word = || words.next().unwrap();
        Some(Self {
            key: word().into(),
            fence: word().parse().unwrap(),
            asked: word().parse().unwrap(),
            from: word().parse().unwrap(),
            to: word().parse().unwrap(),
            is_kept: word() == "kept",
            lost_with: Some(word().to_owned()).filter(|owner| owner != "-"),
        })
    }
}

impl fmt::Display for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            fence,
            asked,
            from,
            to,
            ..
        } = self;
        let kind = if self.is_kept { "kept" } else { "brief" };
        let lost = self.lost_with.as_deref().unwrap_or("-");
        write!(f, "> lease {key} {fence} {asked} {from} {to} {kind} {lost}")
    }
}

/// A worker process: holds its leases and lets its tasks run until the order to
/// rest, and then reports everything that it held.
async fn work(reported: &str) {
    let words: Vec<&str> = reported.split(' ').collect();
    let number = |index: usize| words[index].parse::<usize>().unwrap();
    let plan = Plan {
        replicas: number(1),
        max_ttl: Duration::from_millis(number(2) as u64),
        view_lease: Duration::from_millis(number(3) as u64),
        leases: number(4),
        tasks: number(5),
        idle: Duration::ZERO,
        calm: Duration::ZERO,
    };
    let router = plan
        .connect(words[6..].iter().map(ToString::to_string))
        .await;
    let (rest, resting) = watch::channel(false);
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for lease in 0..plan.leases {
        let key = format!("kept-{}-{lease}", number(0));
        tasks.spawn(keep(
            router.clone(),
            key,
            resting.clone(),
            Arc::clone(&ready),
        ));
    }
    let _ = ready.acquire_many(plan.leases as u32).await.unwrap();
    for _ in 0..plan.tasks {
        tasks.spawn(bustle(router.clone(), resting.clone()));
    }
    println!("> ready");
    order("rest").await;
    rest.send_replace(true);
    let mut failures = 0;
    for (tenures, failed) in tasks.join_all().await {
        tenures.iter().for_each(|tenure| println!("{tenure}"));
        failures += failed;
    }
    println!("> failures {failures}");
    // The router stays idle until the last order.
    order("end").await;
    assert!(router.shutdown().await);
}

async fn order(expected: &str) {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    let line = line.await.unwrap().and_then(Result::ok);
    // The parent process is gone.
    let line = line.unwrap_or_else(|| std::process::exit(1));
    assert_eq!(line, expected);
}

type Tally = (Vec<Tenure>, usize);

/// Holds `key` until the order to rest; acquires it again where it was lost.
async fn keep(
    router: Router,
    key: String,
    mut resting: watch::Receiver<bool>,
    ready: Arc<tokio::sync::Semaphore>,
) -> Tally {
    let mut tenures = Vec::new();
    let mut failures = 0;
    while !*resting.borrow_and_update() {
        let asked = now();
        let Ok(guard) = router.acquire(&key).wait(WAIT).keep_alive().await else {
            failures += 1;
            continue;
        };
        let from = now();
        if tenures.is_empty() {
            ready.add_permits(1);
        }
        let loss = tokio::select! {
            loss = guard.lost() => Some(loss),
            _ = resting.changed() => guard.loss(),
        };
        let owner = || router.route(&key).unwrap().owner.to_string();
        tenures.push(Tenure {
            is_kept: true,
            lost_with: loss.map(|_| owner()),
            ..Tenure::of(&guard, asked, from)
        });
        let _ = guard.release().await;
    }
    (tenures, failures)
}

/// Acquires and releases random keys.
async fn bustle(router: Router, resting: watch::Receiver<bool>) -> Tally {
    let mut tenures = Vec::new();
    let mut failures = 0;
    while !*resting.borrow() {
        let (key, pause, hold) = {
            let mut random = rand::rng();
            let millis = |random: &mut rand::rngs::ThreadRng, most| {
                Duration::from_millis(random.random_range(0..most))
            };
            let key = format!("brief-{}", random.random_range(0..KEYS));
            (key, millis(&mut random, 40), millis(&mut random, 8))
        };
        let asked = now();
        match router.acquire(&key).wait(WAIT).await {
            Ok(guard) => {
                let from = now();
                tokio::time::sleep(hold).await;
                tenures.push(Tenure::of(&guard, asked, from));
                let _ = guard.release().await;
            }
            Err(_) => failures += 1,
        }
        tokio::time::sleep(pause).await;
    }
    (tenures, failures)
}

/// A worker, as the first process sees it.
struct Worker(Process);

impl Worker {
    fn start(plan: &Plan, index: usize, urls: &[String]) -> Self {
        let reported = [
            index,
            plan.replicas,
            plan.max_ttl.as_millis() as usize,
            plan.view_lease.as_millis() as usize,
            plan.leases / WORKERS,
            plan.tasks / WORKERS,
        ];
        let reported = reported
            .iter()
            .map(ToString::to_string)
            .chain(urls.to_vec());
        let process = Process::start(|command| {
            command.env(WORKER, reported.collect::<Vec<_>>().join(" "));
        });
        Self(process.expect("this very program"))
    }

    fn line(&mut self) -> String {
        self.0.line().expect("the worker lives")
    }

    fn order(&mut self, order: &str) {
        self.0.order(order).unwrap();
    }

    /// All leases that it held, and how many of its acquires failed.
    fn history(&mut self, history: &mut Vec<Tenure>) -> usize {
        loop {
            let line = self.line();
            if let Some(failures) = line.strip_prefix("> failures ") {
                return failures.parse().unwrap();
            }
            history.extend(Tenure::read(&line));
        }
    }
}

// The first process.

/// One change, the time when it was made, and what it moves.
struct Step {
    name: &'static str,
    begun: u64,
    over: u64,
    /// The keys that move, relative to the minimum, and the share of replica
    /// sets that change.
    moves: Option<(f64, f64)>,
    /// The node that lost everything.
    dead: Option<String>,
}

/// Servers for the members and for the nodes that join.
struct Servers(Vec<Server>);

impl Servers {
    fn urls(&self) -> Vec<String> {
        self.0[..MEMBERS].iter().map(Server::socket_url).collect()
    }

    fn joining(&self, index: usize) -> NodeConfig {
        NodeConfig::new(name(index), self.0[index].socket_url())
    }

    /// The number of commands that all have carried out.
    fn commands(probes: &[Probe]) -> u64 {
        let of = |probe: &Probe| probe.info().unwrap().number("total_commands_processed");
        probes.iter().map(of).sum::<f64>() as u64
    }
}

async fn measure(plan: &Plan) -> bool {
    let mut servers = Servers(Server::start_all(MEMBERS + 2).unwrap());
    let urls = servers.urls();
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|index| Worker::start(plan, index, &urls))
        .collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), "> ready");
    }
    let mut steps = Vec::new();
    for (name, change) in changes(&servers) {
        tokio::time::sleep(plan.calm).await;
        steps.push(make(plan, &urls, name, change).await);
    }
    tokio::time::sleep(plan.calm).await;
    steps.push(lose(plan, &urls, &mut servers, 3).await);
    tokio::time::sleep(plan.calm.max(plan.max_ttl)).await;
    let end = now();

    let (mut history, mut failures) = (Vec::new(), 0);
    for worker in &mut workers {
        worker.order("rest");
        failures += worker.history(&mut history);
    }
    tokio::time::sleep(plan.calm).await;
    let probe = |server: &Server| Probe::connect(&server.socket_url()).unwrap();
    let probes: Vec<Probe> = servers.0.iter().map(probe).collect();
    let before = Servers::commands(&probes);
    tokio::time::sleep(plan.idle).await;
    // Each reading counts itself in the next.
    let idle = Servers::commands(&probes) - before - probes.len() as u64;
    let idle = idle as f64 / plan.idle.as_secs_f64() / WORKERS as f64;
    workers.iter_mut().for_each(|worker| worker.order("end"));
    for worker in workers {
        worker.0.end().unwrap();
    }
    report(plan, &steps, &mut history, end, failures, idle)
}

fn changes(servers: &Servers) -> [(&'static str, Change); 4] {
    let node = name;
    [
        ("add", Change::Add(servers.joining(5))),
        (
            "reweight",
            Change::Reweight {
                node: node(0),
                weight: 2,
            },
        ),
        (
            "replace",
            Change::Replace {
                node: node(1),
                by: servers.joining(6),
            },
        ),
        ("remove", Change::Remove { node: node(2) }),
    ]
}

/// Makes a change as a separate program would.
async fn make(plan: &Plan, urls: &[String], name: &'static str, change: Change) -> Step {
    let router = plan.connect(urls.to_vec()).await;
    let rebalancer = router.rebalancer();
    let planned = rebalancer.plan([change]).await.unwrap();
    let begun = now();
    let report = rebalancer.apply(&planned, |_| {}).await.unwrap();
    assert!(report.retired.iter().all(|(_, knows)| *knows));
    let moves = &planned.moves[0];
    Step {
        name,
        begun,
        over: now(),
        moves: Some((moves.owners / moves.owners_minimum, moves.sets)),
        dead: None,
    }
}

/// Kills a server, restarts it empty, and waits until it is a member.
async fn lose(plan: &Plan, urls: &[String], servers: &mut Servers, index: usize) -> Step {
    let router = plan.connect(urls.to_vec()).await;
    let epoch = || router.route("k").unwrap().view.epoch;
    let before = epoch();
    let begun = now();
    servers.0[index].restart().unwrap();
    let deadline = Instant::now() + RETURN;
    while epoch() <= before {
        assert!(Instant::now() < deadline, "the node is still out");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Step {
        name: "kill -9",
        begun,
        over: now(),
        moves: None,
        dead: Some(name(index)),
    }
}

/// Pairs of leases that overlap, and pairs whose fences are in the wrong order.
fn faults(history: &mut [Tenure]) -> (Vec<u64>, Vec<u64>) {
    history.sort_by(|a, b| a.key.cmp(&b.key).then(a.from.cmp(&b.from)));
    let (mut overlaps, mut reversals) = (Vec::new(), Vec::new());
    for pair in history.windows(2).filter(|pair| pair[0].key == pair[1].key) {
        if pair[1].from < pair[0].to {
            println!("OVERLAP: {} then {}", pair[0], pair[1]);
            overlaps.push(pair[1].from);
        }
        if pair[1].fence <= pair[0].fence {
            println!("REVERSAL: {} then {}", pair[0], pair[1]);
            reversals.push(pair[1].from);
        }
    }
    (overlaps, reversals)
}

/// The median and the 99th percentile, in milliseconds, of how long acquires
/// took that were granted in this time.
fn latencies(history: &[Tenure], from: u64, to: u64) -> (f64, f64) {
    let brief = history.iter().filter(|lease| !lease.is_kept);
    let granted = brief.filter(|lease| (from..to).contains(&lease.from));
    let mut took: Vec<u64> = granted.map(|lease| lease.from - lease.asked).collect();
    let mut millis = |share| match took.is_empty() {
        true => f64::NAN,
        false => percentile(&mut took, share) as f64 / 1e6,
    };
    (millis(0.5), millis(0.99))
}

fn report(
    plan: &Plan,
    steps: &[Step],
    history: &mut [Tenure],
    end: u64,
    failures: usize,
    idle: f64,
) -> bool {
    let (overlaps, reversals) = faults(history);
    let kept = history.iter().filter(|lease| lease.is_kept);
    let lost: Vec<&Tenure> = kept.filter(|lease| lease.lost_with.is_some()).collect();
    println!(
        "\nreplicas = {}: {} leases kept alive and {} tasks in {WORKERS} processes, {MEMBERS} servers, max_ttl {:?}, view_lease {:?}\n",
        plan.replicas, plan.leases, plan.tasks, plan.max_ttl, plan.view_lease
    );
    println!(
        "{:<9} {:>8} {:>9} {:>5} {:>7} {:>15} {:>15} {:>7} {:>8} {:>7} {:>7}",
        "",
        "overlaps",
        "reversals",
        "lost",
        "unduly",
        "p50 ms",
        "p99 ms",
        "took",
        "/max_ttl",
        "moved",
        "joint"
    );
    let mut undue = 0;
    for (index, step) in steps.iter().enumerate() {
        // The effects of a change may appear some time after it.
        let next = steps.get(index + 1).map_or(end, |next| next.begun);
        let is_of = |at: u64| (step.begun..next).contains(&at);
        let count = |times: &[u64]| times.iter().filter(|at| is_of(**at)).count();
        let its: Vec<_> = lost.iter().filter(|lease| is_of(lease.to)).collect();
        // With a single owner, a lease is lost with that owner.
        let is_due = |lease: &&&&Tenure| plan.replicas == 1 && lease.lost_with == step.dead;
        let unduly = its.len() - its.iter().filter(is_due).count();
        undue += unduly;
        let calm = plan.calm.as_nanos() as u64;
        let (p50_before, p99_before) = latencies(history, step.begun - calm, step.begun);
        let (p50, p99) = latencies(history, step.begun, step.over);
        let took = (step.over - step.begun) as f64 / 1e9;
        let (moved, joint) = step
            .moves
            .map_or((String::from("-"), String::from("-")), |(moved, joint)| {
                (format!("{moved:.3}"), format!("{:.1} %", joint * 100.0))
            });
        println!(
            "{:<9} {:>8} {:>9} {:>5} {:>7} {p50_before:>6.2} > {p50:>6.2} {p99_before:>6.1} > {p99:>6.1} {took:>5.2} s {:>8.2} {moved:>7} {joint:>7}",
            step.name,
            count(&overlaps),
            count(&reversals),
            its.len(),
            unduly,
            took / plan.max_ttl.as_secs_f64(),
        );
    }
    let total = history.len();
    println!(
        "\nin all: {total} leases, {} overlaps, {} reversals, {} lost, {undue} unduly, {failures} acquires failed",
        overlaps.len(),
        reversals.len(),
        lost.len(),
    );
    println!("commands per second and idle router, all servers together: {idle:.1}");
    let early = lost
        .iter()
        .filter(|lease| lease.to < steps[0].begun)
        .count();
    overlaps.is_empty() && reversals.is_empty() && undue + early == 0 && failures == 0
}
