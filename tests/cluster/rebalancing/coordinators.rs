//! The coordinator of a change may die at any step, and several may run at
//! once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlock::node::Node;
use ringlock::rebalancer::{Phase, RebalanceError, Report};
use ringlock::{Change, Init, MemoryNode, NodeConfig, Plan, Router};

use crate::rebalancing::crashing_router::{Fate, Record, Spy};
use ringlock_test_support::{ms, name, seed};

/// As short as possible: there are very many changes.
const MAX_TTL: Duration = Duration::from_millis(100);

const MEMBERS: usize = 3;

/// Nodes `a` to `c`, and `d` and `e`, which may join.
struct Scene {
    nodes: Vec<MemoryNode>,
    record: Arc<Record>,
    max_ttl: Duration,
}

impl Scene {
    fn new() -> Self {
        Self::of(MAX_TTL)
    }

    fn of(max_ttl: Duration) -> Self {
        Self {
            max_ttl,
            nodes: (0..5).map(|index| MemoryNode::new(name(index))).collect(),
            record: Arc::default(),
        }
    }

    /// A router in a process with this fate.
    async fn router(&self, fate: &Arc<Fate>) -> Router {
        let crashing_router = |node: &MemoryNode| {
            let (fate, record) = (Arc::clone(fate), Arc::clone(&self.record));
            let node = node.clone();
            Arc::new(Spy { node, fate, record }) as Arc<dyn Node>
        };
        let builder = Router::builder().init(Init::Now).replicas(3);
        let nodes = self.nodes.iter().enumerate();
        let builder = nodes.fold(builder, |builder, (index, node)| {
            if index < MEMBERS {
                builder.custom_node(name(index), crashing_router(node))
            } else {
                builder.spare_node(name(index), crashing_router(node))
            }
        });
        let builder = builder.configure(|config| {
            config.router.ttl = self.max_ttl;
            config.router.max_ttl = self.max_ttl;
            config.router.view_lease = self.max_ttl;
        });
        builder.connect().await.unwrap()
    }

    /// Asserts that there was one view per epoch and that the cluster works;
    /// returns its members.
    async fn settled(&self, context: &str) -> Vec<String> {
        assert_eq!(self.record.doubles(), [], "{context}");
        let router = self.router(&Fate::immortal()).await;
        let error = router.rebalancer().resume(|_| {}).await.unwrap_err();
        let is_stable = matches!(error, RebalanceError::NothingUnderWay { .. });
        assert!(is_stable, "{context}: {error}");
        let guard = router.acquire("k").wait(ms(5_000)).await;
        guard.unwrap().release().await.unwrap();
        let nodes = router.route("k").unwrap().successors;
        let mut nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        nodes.sort();
        nodes
    }
}

fn replacement() -> Change {
    Change::Replace {
        node: "a".into(),
        by: joining("d"),
    }
}

fn joining(name: &str) -> NodeConfig {
    NodeConfig::new(name, format!("memory://{name}"))
}

/// For leases that must outlive a busy machine: dozens of cases run at once.
const LONG_TTL: Duration = Duration::from_millis(900);

/// What the process does that finds an incomplete change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heir {
    Resumes,
    Aborts,
}

/// Applies a replacement in a process that dies at step `dies_at`, and makes an
/// heir take over. False: the process ended before that step.
async fn die_at(dies_at: u64, is_done: bool, heir: Heir) -> bool {
    let context = format!("death at step {dies_at}, done: {is_done}, then {heir:?}");
    let scene = Scene::of(LONG_TTL);
    let other = scene.router(&Fate::immortal()).await;
    let guard = other.acquire("held").keep_alive().await.unwrap();
    let plan = other.rebalancer().plan([replacement()]).await.unwrap();
    // It connects before its steps are counted.
    let fate = Fate::new(dies_at, is_done);
    let doomed = scene.router(&fate).await;
    let end = {
        let rebalancer = doomed.rebalancer();
        let applied = rebalancer.apply(&plan, |_| {});
        let died = async {
            while !fate.is_dead() {
                tokio::time::sleep(ms(1)).await;
            }
        };
        tokio::select! {
            result = applied => Some(result),
            () = died => None,
        }
    };
    drop(doomed);
    if let Some(result) = end {
        result.unwrap();
        return false;
    }
    let abc = ["a", "b", "c"].map(String::from);
    let bcd = ["b", "c", "d"].map(String::from);
    let rebalancer = other.rebalancer();
    let result = match heir {
        Heir::Resumes => rebalancer.resume(|_| {}).await,
        Heir::Aborts => rebalancer.abort(|_| {}).await,
    };
    let nodes = scene_after(&scene, &other, &plan, heir, result, &context).await;
    match (heir, nodes) {
        (Heir::Resumes, nodes) => assert_eq!(nodes, bcd, "{context}"),
        // The change was complete, or had not begun far enough to be taken
        // back.
        (Heir::Aborts, nodes) => assert!([&abc[..], &bcd[..]].contains(&&nodes[..]), "{context}"),
    }
    assert_eq!(guard.loss(), None, "{context}");
    true
}

/// The members of the cluster in the end.
async fn scene_after(
    scene: &Scene,
    other: &Router,
    plan: &Plan,
    heir: Heir,
    result: Result<Report, RebalanceError>,
    context: &str,
) -> Vec<String> {
    match result {
        // The last view was about to be decided: that cannot be taken back.
        Err(RebalanceError::Superseded { .. }) if heir == Heir::Aborts => {}
        Ok(report) if heir == Heir::Aborts => {
            let nodes = scene.settled(context).await;
            assert_eq!(nodes, ["a", "b", "c"], "{context}: {report:?}");
        }
        Ok(_) => {}
        // Either the joint view was not decided yet, or the last one was
        // already.
        Err(RebalanceError::NothingUnderWay { view }) if view == plan.parent => {
            let again = other.rebalancer().apply(plan, |_| {}).await;
            again.unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        Err(RebalanceError::NothingUnderWay { .. }) => {}
        Err(error) => panic!("{context}: {error}"),
    }
    scene.settled(context).await
}

#[tokio::test]
async fn a_coordinator_dies_at_every_step() {
    let mut steps = 0;
    // A change has about thirty steps.
    for batch in 0..10 {
        let cases = (1..=10).flat_map(|step| {
            let at = batch * 10 + step;
            let deaths = [
                (false, Heir::Resumes),
                (true, Heir::Resumes),
                (false, Heir::Aborts),
                (true, Heir::Aborts),
            ];
            deaths.map(|(is_done, heir)| die_at(at, is_done, heir))
        });
        let died = join_all(cases).await;
        steps += died.iter().filter(|died| **died).count();
        if died.iter().all(|died| !died) {
            break;
        }
    }
    println!("{steps} deaths");
    assert!(steps >= 60, "a replacement takes more steps: {steps}");
}

#[tokio::test]
async fn a_dropped_change_can_be_taken_back() {
    let scene = Scene::new();
    let router = scene.router(&Fate::immortal()).await;
    let rebalancer = router.rebalancer();
    for phase in [Phase::Quarantine, Phase::Joint] {
        let plan = rebalancer.plan([replacement()]).await.unwrap();
        let (reached, seen) = tokio::sync::oneshot::channel();
        let mut reached = Some(reached);
        let applied = rebalancer.apply(&plan, |progress| {
            if progress.phase == phase && progress.remaining.is_some() {
                reached.take().map(|reached| reached.send(()));
            }
        });
        tokio::select! {
            result = applied => panic!("{phase:?} was not seen: {result:?}"),
            seen = seen => seen.unwrap(),
        }
        let taken_back = rebalancer.abort(|_| {}).await;
        match phase {
            Phase::Joint => assert_eq!(taken_back.unwrap().retired, [("d".into(), true)]),
            _ => assert!(taken_back.is_err(), "nothing was under way"),
        }
        assert_eq!(scene.settled("aborted").await, ["a", "b", "c"]);
    }
    // A change that was taken back can be made again.
    crate::rebalancing::apply(&router, [replacement()]).await;
    assert_eq!(scene.settled("applied").await, ["b", "c", "d"]);
}

/// Long enough for another router to take a change back on a busy machine.
const UNHURRIED: Duration = Duration::from_secs(3);

/// Takes a change back in that phase. Returns the error of the change, the
/// report of the abort, and the cluster's highest epoch.
async fn take_back(phase: Phase, begins: Begins, by: TakesBack) -> (RebalanceError, Report, u32) {
    let scene = Scene::of(UNHURRIED);
    let context = format!("{phase:?} {begins:?} {by:?}");
    let routers = [
        scene.router(&Fate::immortal()).await,
        scene.router(&Fate::immortal()).await,
    ];
    let rebalancer = routers[0].rebalancer();
    let plan = rebalancer.plan([replacement()]).await.unwrap();
    if begins == Begins::Resume {
        // The coordinator that began it dies in the joint view.
        let (joint, seen) = tokio::sync::oneshot::channel();
        let mut joint = Some(joint);
        let applied = rebalancer.apply(&plan, |progress| {
            if progress.phase == Phase::Joint {
                joint.take().map(|joint| joint.send(()));
            }
        });
        tokio::select! {
            result = applied => panic!("{context}: {result:?}"),
            seen = seen => seen.unwrap(),
        }
    }
    let (reached, seen) = tokio::sync::oneshot::channel();
    let mut reached = Some(reached);
    let watch = |progress: &ringlock::rebalancer::Progress| {
        if progress.phase == phase && progress.remaining.is_some() {
            reached.take().map(|reached| reached.send(()));
        }
    };
    let changed = async {
        match begins {
            Begins::Apply => rebalancer.apply(&plan, watch).await,
            Begins::Resume => rebalancer.resume(watch).await,
        }
    };
    let taken_back = async {
        seen.await.unwrap();
        let other = routers[1].rebalancer();
        match by {
            TakesBack::Abort => other.abort(|_| {}).await,
            TakesBack::OutdatePlans => other.outdate_plans(|_| {}).await,
            TakesBack::Two => {
                let third = scene.router(&Fate::immortal()).await;
                let third = third.rebalancer();
                let (one, two) = tokio::join!(other.abort(|_| {}), third.abort(|_| {}));
                match two {
                    // The second abort ran after the first was complete.
                    Ok(_) | Err(RebalanceError::NothingUnderWay { .. }) => one,
                    Err(error) => panic!("{context}: {error}"),
                }
            }
        }
    };
    let (changed, taken_back) = tokio::join!(changed, taken_back);
    let report = taken_back.unwrap_or_else(|error| panic!("{context}: {error}"));
    let error = changed.expect_err(&context);
    assert_eq!(scene.settled(&context).await, ["a", "b", "c"], "{context}");
    (error, report, scene.record.highest())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Begins {
    Apply,
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TakesBack {
    Abort,
    OutdatePlans,
    Two,
}

#[tokio::test]
async fn an_abort_wins_over_a_running_change() {
    use Begins::{Apply, Resume};
    use TakesBack::{Abort, OutdatePlans, Two};
    let cases = [
        (Phase::Joint, Apply, Abort, 3),
        (Phase::Joint, Resume, Abort, 3),
        (Phase::Joint, Apply, Two, 3),
        (Phase::Joint, Apply, OutdatePlans, 3),
        // Nothing is decided yet: no router has seen the waiting node's view.
        (Phase::Quarantine, Apply, OutdatePlans, 2),
    ];
    let cases = cases.iter().cycle().take(20);
    let cases = cases.map(|(phase, begins, by, epochs)| async move {
        let context = format!("{phase:?} {begins:?} {by:?}");
        let (error, report, highest) = take_back(phase.clone(), *begins, *by).await;
        let RebalanceError::Aborted { view, by } = &error else {
            panic!("{context}: {error}");
        };
        assert_eq!(*view, report.to, "{context}");
        assert_eq!(highest, *epochs, "it was not begun again: {context}");
        let own = format!(":{}", std::process::id());
        let is_reported = by.as_ref().is_some_and(|label| label.ends_with(&own));
        assert!(is_reported, "{context}: {error}");
    });
    join_all(cases).await;
}

/// The process that aborts dies at each of its steps: its decisions hold, and
/// otherwise the change goes on.
#[tokio::test]
async fn an_aborting_coordinator_dies_at_every_step() {
    let deaths = (1..12).flat_map(|step| [(step, false), (step, true)]);
    let ends = join_all(deaths.map(|(step, is_done)| abort_dies_at(step, is_done))).await;
    let aborted = ends.iter().filter(|is_aborted| **is_aborted).count();
    println!("{aborted} of {} aborted", ends.len());
    assert!(aborted >= 4, "it hardly ever lived to abort");
}

/// Returns whether the change was taken back.
async fn abort_dies_at(step: u64, is_done: bool) -> bool {
    let context = format!("death at step {step}, done: {is_done}");
    let scene = Scene::of(UNHURRIED);
    let router = scene.router(&Fate::immortal()).await;
    let rebalancer = router.rebalancer();
    let plan = rebalancer.plan([replacement()]).await.unwrap();
    let (joint, seen) = tokio::sync::oneshot::channel();
    let mut joint = Some(joint);
    let applied = rebalancer.apply(&plan, |progress| {
        if progress.phase == Phase::Joint && progress.remaining.is_some() {
            joint.take().map(|joint| joint.send(()));
        }
    });
    let taken_back = async {
        seen.await.unwrap();
        let fate = Fate::new(step, is_done);
        let doomed = scene.router(&fate).await;
        let doomed = doomed.rebalancer();
        let dies = async {
            while !fate.is_dead() {
                tokio::time::sleep(ms(1)).await;
            }
        };
        tokio::select! {
            // The result of the change shows the outcome.
            _ = doomed.abort(|_| {}) => {}
            () = dies => {}
        }
    };
    let (applied, ()) = tokio::join!(applied, taken_back);
    let nodes = scene.settled(&context).await;
    match applied {
        Ok(_) => assert_eq!(nodes, ["b", "c", "d"], "{context}"),
        Err(RebalanceError::Aborted { .. }) => {
            assert_eq!(nodes, ["a", "b", "c"], "{context}");
            return true;
        }
        Err(error) => panic!("{context}: {error}"),
    }
    false
}

/// Two routers apply plans at about the same time.
async fn race(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let scene = Scene::new();
    let routers = [
        scene.router(&Fate::immortal()).await,
        scene.router(&Fate::immortal()).await,
    ];
    let is_same = random.random_ratio(1, 3);
    let first = [Change::Add(joining("d")), replacement()][random.random_range(0..2)].clone();
    let second = match random.random_range(0..3) {
        _ if is_same => first.clone(),
        0 => Change::Add(joining("e")),
        1 => Change::Replace {
            node: "b".into(),
            by: joining("d"),
        },
        _ => Change::Reweight {
            node: "c".into(),
            weight: 2,
        },
    };
    let plans = [
        routers[0].rebalancer().plan([first]).await.unwrap(),
        routers[1].rebalancer().plan([second]).await.unwrap(),
    ];
    let applied = routers.iter().zip(&plans).map(|(router, plan)| {
        let pause = ms(random.random_range(0..30));
        async move {
            tokio::time::sleep(pause).await;
            router.rebalancer().apply(plan, |_| {}).await
        }
    });
    let results = tokio::time::timeout(ms(60_000), join_all(applied)).await;
    let context = format!("RINGLOCK_SEED={seed} {plans:?}");
    let results = results.unwrap_or_else(|_| panic!("stuck: {context}"));
    let made = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(made, if is_same { 2 } else { 1 }, "{results:?} {context}");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        let is_reported = matches!(
            error,
            RebalanceError::Superseded { .. } | RebalanceError::Outdated { .. }
        );
        assert!(is_reported, "{error} {context}");
    }
    let winner = results.iter().position(Result::is_ok).unwrap();
    let mut wanted: Vec<String> = plans[winner]
        .to
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    wanted.sort();
    assert_eq!(scene.settled(&context).await, wanted, "{context}");
    assert_eq!(
        scene.record.highest(),
        3,
        "joint and stable, no more: {context}"
    );
}

#[tokio::test]
async fn two_coordinators() {
    let seed = seed();
    let races = stream::iter(0..200).map(|index| race(seed.wrapping_add(index)));
    races.buffer_unordered(20).collect::<()>().await;
}
