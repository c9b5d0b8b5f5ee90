//! Another server answers suddenly, or after a reconnect: of another cluster,
//! or another member of the same one.

use std::time::{Duration, Instant};

use ringlock::{Cause, Error, Init, Router, RouterBuilder};

use ringlock_test_support::fake::FakeServer;
use ringlock_test_support::node::GRACE;
use ringlock_test_support::{RedisServer, ms};

fn builder() -> RouterBuilder {
    Router::builder()
        .init(Init::Now)
        .configure(|config| config.router.connect_timeout = ms(500))
}

async fn cluster(servers: &[RedisServer]) -> Router {
    let names = ["a", "b", "c"];
    let nodes = names.iter().zip(servers);
    let builder = nodes.fold(builder(), |builder, (name, server)| {
        builder.node(*name, server.url())
    });
    builder.connect().await.unwrap()
}

fn servers() -> Vec<RedisServer> {
    (0..3).map(|_| RedisServer::start()).collect()
}

/// A router that reaches its node `a` through the liar.
async fn behind(liar: &FakeServer, servers: &[RedisServer]) -> Router {
    builder()
        .node("a", liar.url())
        .node("b", servers[1].url())
        .node("c", servers[2].url())
        .connect()
        .await
        .unwrap()
}

fn key_of(router: &Router, owner: &str, tag: &str) -> String {
    let mut keys = (0..).map(|index| format!("{tag}/{index}"));
    keys.find(|key| &*router.route(key).unwrap().owner == owner)
        .unwrap()
}

#[tokio::test]
async fn a_server_of_another_cluster_grants_nothing() {
    for is_sudden in [true, false] {
        let (ours, theirs) = (servers(), servers());
        let straight = cluster(&ours).await;
        let strangers = cluster(&theirs).await;
        let liar = FakeServer::before(&ours[0]).await;
        let router = behind(&liar, &ours).await;
        let key = key_of(&router, "a", "k");
        let view = router.route(&key).unwrap().view;
        let held = straight
            .try_acquire(&key)
            .ttl(Duration::from_secs(30))
            .await
            .unwrap();
        liar.lead_to(&theirs[0], is_sudden);
        for _ in 0..5 {
            let error = router.try_acquire(&key).await.unwrap_err();
            assert!(!matches!(error, Error::Closed), "{error}");
            tokio::time::sleep(ms(10)).await;
        }
        assert_eq!(
            router.route(&key).unwrap().view,
            view,
            "it stays with its own"
        );
        // Neither cluster is harmed.
        assert!(held.loss().is_none());
        held.extend().await.unwrap();
        strangers
            .acquire("s")
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
        held.release().await.unwrap();
    }
}

/// The other member serves the same view, so that only its nonce differs.
#[tokio::test]
async fn another_member_grants_nothing_after_a_reconnect() {
    let ours = servers();
    let straight = cluster(&ours).await;
    let liar = FakeServer::before(&ours[0]).await;
    let router = behind(&liar, &ours).await;
    let key = key_of(&router, "a", "k");
    let held = straight
        .try_acquire(&key)
        .ttl(Duration::from_secs(30))
        .await
        .unwrap();
    liar.lead_to(&ours[1], false);
    let deadline = Instant::now() + GRACE;
    loop {
        let error = router
            .try_acquire(&key)
            .await
            .expect_err("it is held on the true one");
        if error
            .to_string()
            .contains("another node of the cluster answers")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(ms(1)).await;
    }
    // Neither of the two is quarantined for it.
    let other = key_of(&router, "b", "k");
    straight
        .acquire(&other)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    held.extend().await.unwrap();
    // Once the route is correct again, the node is usable again.
    liar.lead_to(&ours[0], false);
    let deadline = Instant::now() + GRACE;
    loop {
        match router.try_acquire(&key).await {
            Err(error) if error.is_contention() => break,
            Err(Error::NoQuorum { causes, .. }) => {
                assert!(
                    matches!(causes[0].cause, Cause::Failed(_) | Cause::NoView),
                    "{causes:?}"
                );
                assert!(Instant::now() < deadline, "{causes:?}");
            }
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(ms(1)).await;
    }
    held.release().await.unwrap();
    router.acquire(&key).await.unwrap().release().await.unwrap();
}

/// From the start, while the true owner of the name cannot be reached.
#[tokio::test]
async fn another_member_is_refused_at_the_first_connect() {
    let ours = servers();
    drop(cluster(&ours).await);
    let liar = FakeServer::before(&ours[1]).await;
    let nowhere = "redis://127.0.0.1:1";
    let error = builder()
        .node("a", liar.url())
        .node("b", nowhere)
        .node("c", ours[2].url())
        .connect()
        .await
        .expect_err("it is b");
    let text = format!("{error:#}");
    assert!(
        text.contains("node a cannot be used: another node of the cluster"),
        "{text}"
    );
}
