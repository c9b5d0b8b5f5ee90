//! Continuing without the majority.

use ringlock::rebalancer::RebalanceError;
use ringlock::{Change, Rebalancer, Router};

use crate::rebalancing::{MAX_TTL, VIEW_LEASE, apply, builder, connect, epoch, key_of, newcomer};
use ringlock_test_support::node::{direct, quarantine_as};
use ringlock_test_support::{ARMS, Arm, Cluster, ms, name};

fn one_replica() -> [Change; 1] {
    [Change::Replicas {
        prefix: None,
        replicas: Some(1),
    }]
}

#[tokio::test]
async fn two_of_three_are_dead() {
    for arm in ARMS {
        for replicas in [1, 3] {
            let cluster = Cluster::start(arm, 3);
            let router = connect(&cluster, 3, replicas).await;
            let bystander = connect(&cluster, 3, replicas).await;
            let key = key_of(&router, "c");
            let before = router.acquire(&key).await.unwrap();
            let (fence, view) = (before.fence(), router.route("k").unwrap().view);
            before.release().await.unwrap();
            for dead in [0, 1] {
                cluster.nodes[dead].stop();
            }
            // Not even the live owner grants: most other nodes may have a newer
            // view.
            tokio::time::sleep(VIEW_LEASE).await;
            for router in [&router, &bystander] {
                let error = router.acquire(&key).wait(ms(300)).await.unwrap_err();
                println!("{arm:?} n={replicas} {error}");
            }
            let rebalancer = router.rebalancer().patience(ms(500));
            let remove = [name(0), name(1)].map(|node| Change::Remove { node });
            let planned = rebalancer
                .plan(remove.into_iter().chain(one_replica()))
                .await;
            let error = rebalancer
                .apply(&planned.unwrap(), |_| {})
                .await
                .unwrap_err();
            println!("{error}");
            let one = rebalancer.force([name(0)], one_replica(), |_| {}).await;
            let Err(RebalanceError::Blocked { nodes }) = one else {
                panic!("{one:?}");
            };
            assert_eq!(nodes.len(), 1, "{nodes:?}");
            assert_eq!(nodes[0].0, "b");
            let unknown = rebalancer.force([name(7)], [], |_| {}).await.unwrap_err();
            assert!(matches!(unknown, RebalanceError::UnknownNode { .. }));

            foresees(&rebalancer).await;
            assert_eq!(epoch(&router), view.epoch, "nothing is touched");
            let mut reported = Vec::new();
            let abandoned = [name(0), name(1)];
            let report = rebalancer
                .force(abandoned, one_replica(), |progress| {
                    reported.push(progress.remaining);
                })
                .await
                .unwrap();
            println!("{report:?}");
            assert!(report.elapsed >= MAX_TTL + VIEW_LEASE);
            assert!(reported.iter().all(Option::is_some) && !reported.is_empty());
            assert!(report.to.epoch >= view.epoch + 1024);
            assert_eq!(report.retired, [(name(0), false), (name(1), false)]);
            let works = async |router: &Router| {
                let guard = router.acquire(&key).await.unwrap();
                assert!(guard.fence() > fence);
                guard.release().await.unwrap();
            };
            works(&router).await;
            works(&bystander).await;
            // Nodes that return in their old state mislead nobody.
            for dead in [0, 1] {
                cluster.nodes[dead].start();
            }
            let late = connect(&cluster, 3, replicas).await;
            assert_eq!(late.route("k").unwrap().view, report.to);
            works(&late).await;
        }
    }
}

/// Asserts what the outlook reports about continuing with `c` alone.
async fn foresees(rebalancer: &Rebalancer) {
    let outlook = rebalancer.force_outlook([name(0), name(1)], one_replica());
    let outlook = outlook.await.unwrap();
    assert_eq!(outlook.stopped, [name(2)]);
    assert_eq!(outlook.abandoned, [name(0), name(1)]);
    assert!(outlook.wait >= MAX_TTL + VIEW_LEASE, "{outlook:?}");
}

/// A process sleeps while another one forces twice. The remaining node is then
/// quarantined: it serves nothing, and remembers an epoch that the sleeper does
/// not know.
#[test]
fn by_a_router_that_slept_through_another_force() {
    let current_thread = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (asleep, awake) = (current_thread(), current_thread());
    for arm in ARMS {
        let cluster = Cluster::start(arm, 3);
        let paused_process = asleep.block_on(connect(&cluster, 3, 1));
        let fence = awake.block_on(async {
            let router = connect(&cluster, 3, 1).await;
            (0..2).for_each(|dead| cluster.nodes[dead].stop());
            for abandoned in [vec![name(0), name(1)], Vec::new()] {
                let rebalancer = router.rebalancer().force_although_a_vote_is_possible();
                let report = rebalancer.force(abandoned, [], |_| {}).await.unwrap();
                println!("{arm:?} {report:?}");
            }
            let guard = router.acquire("k").await.unwrap();
            let fence = guard.fence();
            guard.release().await.unwrap();
            assert!(router.shutdown().await);
            // By a process that then dies.
            quarantine_as(&*direct(&cluster.nodes[2]), "of-the-dead").await;
            fence
        });
        asleep.block_on(async {
            let rebalancer = paused_process
                .rebalancer()
                .force_although_a_vote_is_possible();
            let report = rebalancer
                .force([name(0), name(1)], [], |_| {})
                .await
                .unwrap();
            println!("{arm:?} {report:?}");
            let guard = paused_process.acquire("k").await.unwrap();
            assert!(
                guard.fence() > fence,
                "{arm:?} {} after {fence}",
                guard.fence()
            );
        });
    }
}

/// A router must not leave behind a node that it does not know.
#[tokio::test]
async fn by_a_router_that_is_behind() {
    let cluster = Cluster::start(Arm::Memory, 4);
    let drowsy = || {
        builder(&cluster, 3).configure(|config| {
            config.router.view_lease = ms(20_000);
        })
    };
    let behind = drowsy().connect().await.unwrap();
    let other = drowsy().connect().await.unwrap();
    apply(&other, [Change::Add(newcomer(&cluster, 3))]).await;
    let view = other.route("k").unwrap().view;
    assert_eq!(behind.route("k").unwrap().view.epoch, 1);
    let (began, mut begun) = tokio::sync::mpsc::channel(1);
    let rebalancer = behind.rebalancer();
    let rebalancer = rebalancer
        .force_although_a_vote_is_possible()
        .force_although_abandoned_nodes_answer();
    let forced = rebalancer.force([name(0)], [], |progress| {
        let _ = began.try_send(progress.view);
    });
    tokio::select! {
        result = forced => panic!("{result:?}"),
        begun = begun.recv() => assert_eq!(begun, Some(view)),
    }
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plight {
    Well,
    Stopped,
    Emptied,
}

/// It refuses where a vote is possible, and where an abandoned node answers;
/// each refusal has its own override.
#[tokio::test]
async fn it_refuses_what_needs_no_force() {
    use Plight::{Emptied, Stopped, Well};
    for arm in ARMS {
        for (plights, abandoned, refusal) in [
            ([Well, Well, Well], vec![2], "answers"),
            // A dead node is outvoted; one without its data no longer votes.
            ([Well, Well, Stopped], vec![2], "vote"),
            ([Well, Well, Emptied], vec![2], "answers"),
            // No vote is possible, but clients may lock on an abandoned node.
            ([Well, Stopped, Stopped], vec![0, 1], "answers"),
            ([Well, Emptied, Emptied], vec![1, 2], "answers"),
        ] {
            let context = format!("{arm:?} {plights:?} {abandoned:?}");
            let mut cluster = Cluster::start(arm, 3);
            let router = connect(&cluster, 3, 3).await;
            let view = router.route("k").unwrap().view;
            for (node, plight) in cluster.nodes.iter_mut().zip(plights) {
                match plight {
                    Well => {}
                    Stopped => node.stop(),
                    Emptied => node.wipe(),
                }
            }
            let names: Vec<String> = abandoned.iter().map(|&node| name(node)).collect();
            let words = |vote: bool, answering: bool| {
                let mut rebalancer = router.rebalancer();
                if vote {
                    rebalancer = rebalancer.force_although_a_vote_is_possible();
                }
                if answering {
                    rebalancer = rebalancer.force_although_abandoned_nodes_answer();
                }
                rebalancer
            };
            let others_word = (refusal == "answers", refusal == "vote");
            for (vote, answering) in [(false, false), others_word] {
                let rebalancer = words(vote, answering);
                let outlook = rebalancer.force_outlook(names.clone(), one_replica());
                let outlook = outlook.await.unwrap_err().to_string();
                let forced = rebalancer.force(names.clone(), one_replica(), |_| {});
                let error = forced.await.unwrap_err();
                assert_eq!(outlook, error.to_string());
                let is_reported = match &error {
                    RebalanceError::VotePossible { voters, needed } => {
                        refusal == "vote" && (*voters, *needed) == (2, 2)
                    }
                    RebalanceError::StillAnswering { nodes } => {
                        refusal == "answers" && nodes.iter().all(|node| names.contains(node))
                    }
                    _ => false,
                };
                assert!(is_reported, "{context}: {error}");
            }
            if plights == [Well; 3] {
                // With one override the other refusal appears; nothing is
                // changed.
                let forced = words(false, true);
                let forced = forced.force(names, one_replica(), |_| {}).await;
                let error = forced.unwrap_err();
                let is_reported = matches!(error, RebalanceError::VotePossible { voters: 3, .. });
                assert!(is_reported, "{context}: {error}");
                assert_eq!(router.route("k").unwrap().view, view, "{context}");
                let guard = router.acquire("k").await.unwrap();
                guard.release().await.unwrap();
            }
        }
    }
}
