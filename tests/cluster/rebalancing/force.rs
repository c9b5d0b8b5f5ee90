//! Going on without the majority.

use ringlock::rebalancer::RebalanceError;
use ringlock::{Change, Rebalancer, Router};

use crate::common::{ARMS, Arm, Cluster, ms, name};
use crate::rebalancing::{MAX_TTL, VIEW_LEASE, apply, builder, connect, epoch, key_of, newcomer};

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
            // Not even by the owner that is alive: most others may know better.
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
            let mut told = Vec::new();
            let abandoned = [name(0), name(1)];
            let report = rebalancer
                .force(abandoned, one_replica(), |progress| {
                    told.push(progress.remaining);
                })
                .await
                .unwrap();
            println!("{report:?}");
            assert!(report.elapsed >= MAX_TTL + VIEW_LEASE);
            assert!(told.iter().all(Option::is_some) && !told.is_empty());
            assert!(report.to.epoch >= view.epoch + 1024);
            assert_eq!(report.retired, [(name(0), false), (name(1), false)]);
            let works = async |router: &Router| {
                let guard = router.acquire(&key).await.unwrap();
                assert!(guard.fence() > fence);
                guard.release().await.unwrap();
            };
            works(&router).await;
            works(&bystander).await;
            // Nobody is misled by those that come back as they were.
            for dead in [0, 1] {
                cluster.nodes[dead].start();
            }
            let late = connect(&cluster, 3, replicas).await;
            assert_eq!(late.route("k").unwrap().view, report.to);
            works(&late).await;
        }
    }
}

/// What it would be to go on with `c` alone.
async fn foresees(rebalancer: &Rebalancer) {
    let outlook = rebalancer.force_outlook([name(0), name(1)], one_replica());
    let outlook = outlook.await.unwrap();
    assert_eq!(outlook.stopped, [name(2)]);
    assert_eq!(outlook.abandoned, [name(0), name(1)]);
    assert!(outlook.wait >= MAX_TTL + VIEW_LEASE, "{outlook:?}");
}

/// What a router does not know of, it must not leave behind.
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

/// What has befallen a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plight {
    Well,
    Stopped,
    Emptied,
}

/// It refuses where a vote can be had, and where a node that is to be abandoned
/// answers; each takes a word of its own.
#[tokio::test]
async fn it_refuses_what_needs_no_force() {
    use Plight::{Emptied, Stopped, Well};
    for arm in ARMS {
        for (plights, abandoned, refusal) in [
            ([Well, Well, Well], vec![2], "answers"),
            // A dead one is outvoted; one without its data votes no more.
            ([Well, Well, Stopped], vec![2], "vote"),
            ([Well, Well, Emptied], vec![2], "answers"),
            // No vote can be had, but clients may lock on an abandoned one.
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
                let is_told = match &error {
                    RebalanceError::VotePossible { voters, needed } => {
                        refusal == "vote" && (*voters, *needed) == (2, 2)
                    }
                    RebalanceError::StillAnswering { nodes } => {
                        refusal == "answers" && nodes.iter().all(|node| names.contains(node))
                    }
                    _ => false,
                };
                assert!(is_told, "{context}: {error}");
            }
            if plights == [Well; 3] {
                // By the one word the other refusal shows; nothing is touched.
                let forced = words(false, true);
                let forced = forced.force(names, one_replica(), |_| {}).await;
                let error = forced.unwrap_err();
                let is_told = matches!(error, RebalanceError::VotePossible { voters: 3, .. });
                assert!(is_told, "{context}: {error}");
                assert_eq!(router.route("k").unwrap().view, view, "{context}");
                let guard = router.acquire("k").await.unwrap();
                guard.release().await.unwrap();
            }
        }
    }
}
