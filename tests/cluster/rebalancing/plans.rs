//! Plans: their contents, and which ones are refused.

use std::sync::Arc;
use std::time::Duration;

use ringlock::rebalancer::RebalanceError;
use ringlock::{Change, Init, MemoryNode, NodeConfig, Plan, Router};

use crate::rebalancing::{VIEW_LEASE, apply, builder, connect, newcomer};
use ringlock_test_support::{ARMS, Arm, Cluster, TestNode, ms, name};

fn reweight(node: &str, weight: u32) -> Change {
    let node = node.into();
    Change::Reweight { node, weight }
}

async fn refusal(router: &Router, changes: impl IntoIterator<Item = Change>) -> RebalanceError {
    let plan = router.rebalancer().plan(changes).await;
    let error = plan.expect_err("the plan must be refused");
    println!("{error}");
    error
}

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let cluster = Cluster::start(Arm::Memory, 4);
    let router = connect(&cluster, 3, 3).await;
    for change in [
        reweight("x", 2),
        Change::Remove { node: "x".into() },
        Change::Replace {
            node: "x".into(),
            by: newcomer(&cluster, 3),
        },
    ] {
        let error = refusal(&router, [change]).await;
        assert!(matches!(&error, RebalanceError::UnknownNode { name } if name == "x"));
    }
    let taken = Change::Add(newcomer(&cluster, 1));
    let error = refusal(&router, [taken]).await;
    assert!(matches!(&error, RebalanceError::NameTaken { name } if name == "b"));
    for nothing in [
        vec![],
        vec![reweight("a", 1)],
        vec![Change::MaxTtl(crate::rebalancing::MAX_TTL)],
    ] {
        let error = refusal(&router, nothing).await;
        assert!(matches!(error, RebalanceError::NothingToDo));
    }
    let replicas = |replicas| Change::Replicas {
        prefix: None,
        replicas: Some(replicas),
    };
    let too_few = Change::Remove { node: "a".into() };
    for change in [
        replicas(2),
        replicas(5),
        reweight("a", 0),
        too_few,
        Change::MaxTtl(ms(99)),
        Change::ViewLease(Duration::from_secs(90_000)),
    ] {
        let error = refusal(&router, [change]).await;
        assert!(matches!(error, RebalanceError::Cluster(_)));
    }
    let view = router.route("k").unwrap().view;
    assert_eq!(view.epoch, 1, "nothing was touched");
}

#[tokio::test]
async fn nodes_that_cannot_join() {
    for arm in ARMS {
        let cluster = Cluster::start(arm, 4);
        let foreign = Cluster::start(arm, 1);
        // In the state of another cluster's node, under the name that it would
        // have here.
        let (node, stranger) = match &foreign.nodes[0] {
            TestNode::Memory(_) => {
                let memory = MemoryNode::new("stranger");
                let config = NodeConfig::new("stranger", "memory://stranger");
                (Some(memory), config)
            }
            TestNode::Redis(server) => (None, NodeConfig::new("stranger", server.url())),
        };
        let other = Router::builder().init(Init::Now);
        let other = match &node {
            Some(memory) => other.memory_node(memory.clone()),
            None => other.node_config(stranger.clone()),
        };
        let other = other.connect().await.unwrap();
        let mut own = builder(&cluster, 3);
        if let Some(memory) = &node {
            own = own.spare_node("stranger", Arc::new(memory.clone()));
        }
        if let TestNode::Memory(memory) = &cluster.nodes[0] {
            own = own.spare_node("twin", Arc::new(memory.clone()));
        }
        for twin in ["one", "two"] {
            if let TestNode::Memory(memory) = &cluster.nodes[3] {
                own = own.spare_node(twin, Arc::new(memory.clone()));
            }
        }
        let router = own.connect().await.unwrap();
        let refused = async |changes: Vec<Change>, reason: &str| {
            let error = refusal(&router, changes).await;
            assert!(matches!(error, RebalanceError::Newcomer { .. }), "{error}");
            assert!(format!("{error:#}").contains(reason), "{arm:?} {error}");
        };
        refused(vec![Change::Add(stranger)], "another cluster").await;
        drop(other);
        let named = |index: usize, name: &str| NodeConfig::new(name, newcomer(&cluster, index).url);
        refused(vec![Change::Add(named(0, "twin"))], "same server as a").await;
        let twins = [named(3, "one"), named(3, "two")].map(Change::Add);
        refused(twins.into(), "same server as one").await;
        if arm == Arm::Redis {
            let nowhere = NodeConfig::new("nowhere", "unix:///nowhere/redis.sock");
            refused(vec![Change::Add(nowhere)], "nowhere").await;
            let elsewhere = Change::Move {
                node: "a".into(),
                url: newcomer(&cluster, 3).url,
            };
            refused(vec![elsewhere], "replace the node").await;
        } else {
            cluster.nodes[3].stop();
            refused(vec![Change::Add(newcomer(&cluster, 3))], "stopped").await;
        }
    }
}

#[tokio::test]
async fn an_outdated_plan_is_refused() {
    let cluster = Cluster::start(Arm::Memory, 4);
    let router = connect(&cluster, 3, 1).await;
    let rebalancer = router.rebalancer();
    let plan = rebalancer.plan([reweight("a", 2)]).await.unwrap();
    apply(&router, [Change::Add(newcomer(&cluster, 3))]).await;
    let view = router.route("k").unwrap().view;
    let error = rebalancer.apply(&plan, |_| {}).await.unwrap_err();
    let RebalanceError::Outdated { planned, current } = error else {
        panic!("{error}");
    };
    assert_eq!((planned.epoch, current), (1, view));
    assert_eq!(router.route("k").unwrap().view, view, "nothing was done");
}

#[tokio::test]
async fn one_change_at_a_time() {
    let cluster = Cluster::start(Arm::Memory, 3);
    let router = connect(&cluster, 3, 3).await;
    let other = connect(&cluster, 3, 3).await;
    let rebalancer = router.rebalancer();
    let error = rebalancer.resume(|_| {}).await.unwrap_err();
    assert!(matches!(error, RebalanceError::NothingUnderWay { .. }));
    let error = rebalancer.abort(|_| {}).await.unwrap_err();
    assert!(matches!(error, RebalanceError::NothingUnderWay { .. }));
    let plan = rebalancer.plan([reweight("a", 2)]).await.unwrap();
    let applied = rebalancer.apply(&plan, |_| {});
    let early = tokio::time::timeout(VIEW_LEASE, applied).await;
    assert!(early.is_err(), "it takes a max_ttl");
    let error = refusal(&other, [reweight("b", 2)]).await;
    assert!(matches!(error, RebalanceError::UnderWay { view } if view.epoch == 2));
    // The plan that is being applied may still be applied, from any router.
    let report = other.rebalancer().apply(&plan, |_| {}).await.unwrap();
    assert_eq!((report.from.epoch, report.to.epoch), (2, 3));
}

#[tokio::test]
async fn a_plan_as_text() {
    let cluster = Cluster::start(Arm::Memory, 7);
    let router = connect(&cluster, 5, 3).await;
    let rebalancer = router.rebalancer();
    for change in [
        Change::Add(newcomer(&cluster, 5)),
        Change::Remove { node: name(1) },
        Change::Replace {
            node: name(2),
            by: newcomer(&cluster, 6),
        },
        reweight("d", 7),
        Change::MaxTtl(ms(700)),
        Change::Replicas {
            prefix: Some("p/".into()),
            replicas: Some(5),
        },
    ] {
        let plan = rebalancer.plan([change]).await.unwrap();
        let plan = plan.fenced(["b".to_owned()]);
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    }
    let plan = rebalancer.plan([reweight("d", 7)]).await.unwrap();
    let text = plan.to_json();
    for (from, to) in [
        ("\"ringlock_plan\": 1", "\"ringlock_plan\": 2"),
        ("\"ringlock_plan\"", "\"plan\""),
        ("\"moves\": [", "\"extra\": 1, \"moves\": ["),
        ("\"parent\": \"1:", "\"parent\": \"x:"),
        ("\"weight\": 7", "\"weight\": 8"),
        ("\"weight\": 7", "\"weight\": 0"),
        ("\"sets\": 0.", "\"sets\": 0.1"),
        ("\"max_ttl_ms\": 600", "\"max_ttl_ms\": 0"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        let error = Plan::from_json(&text.replace(from, to)).unwrap_err();
        println!("{error}");
        assert!(matches!(error, RebalanceError::Unreadable { .. }), "{to}");
    }
    // Errors that only the cluster can detect.
    let other = text.replace("\"parent\": \"1:", "\"parent\": \"2:");
    let other = Plan::from_json(&other).unwrap();
    let error = rebalancer.apply(&other, |_| {}).await.unwrap_err();
    assert!(matches!(error, RebalanceError::Outdated { .. }), "{error}");
    rebalancer.apply(&plan, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_plan_reports_what_it_moves() {
    let cluster = Cluster::start(Arm::Memory, 6);
    let router = connect(&cluster, 5, 1).await;
    let rebalancer = router.rebalancer();
    let plan = rebalancer.plan([Change::Add(newcomer(&cluster, 5))]).await;
    let plan = plan.unwrap();
    let [all] = plan.moves.as_slice() else {
        panic!("{plan:?}");
    };
    assert!((0.10..0.25).contains(&all.owners), "{all:?}");
    assert!(all.owners < 1.001 * all.owners_minimum + 0.05, "{all:?}");
    assert!(all.by_owner.iter().all(|(_, to, _)| to == "f"), "{all:?}");
    let before: Vec<_> = (0..300)
        .map(|key| router.route(format!("{key}")).unwrap().owner)
        .collect();
    let moved = (0..300).map(|key| {
        plan.route(&ringlock::Key::new(format!("{key}")).unwrap())
            .unwrap()
    });
    let moved: Vec<_> = moved.collect();
    rebalancer.apply(&plan, |_| {}).await.unwrap();
    for (key, (before, moved)) in before.iter().zip(&moved).enumerate() {
        let after = router.route(format!("{key}")).unwrap().owner;
        let reported = moved
            .as_ref()
            .map(|(old, new)| (old[0].as_str(), new[0].as_str()));
        let truth = (*before != after).then_some((&**before, &*after));
        assert_eq!(reported, truth, "{key}");
    }
}
