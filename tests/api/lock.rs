//! What a lock promises its users, on in-memory nodes and on real servers.

use ringlock_test_support::{ARMS, Cluster};

#[tokio::test]
async fn a_held_key_is_held_until_it_is_released() {
    for arm in ARMS {
        for replicas in [1, 3, 5] {
            let cluster = Cluster::start(arm, 5);
            let router = cluster.router(replicas).await;
            let other = cluster.router(replicas).await;
            let guard = router.acquire("orders/42").await.unwrap();
            let refused = other.try_acquire("orders/42").await.unwrap_err();
            assert!(refused.is_contention(), "{arm:?} n={replicas}: {refused}");
            guard.release().await.unwrap();
            let second = other.try_acquire("orders/42").await.unwrap();
            drop(second);
        }
    }
}
