//! Servers whose wall clock steps: entries there end before their time, and no
//! other client may gain a lock through it.

use std::time::Duration;

use ringlock::{Cause, Error, Init, NodeErrorKind, Router};
use ringlock_test_support::node::now;
use ringlock_test_support::shim::{self, Shim};
use ringlock_test_support::{KEY, PROMPTLY, RedisServer, ms, name};
use tempfile::TempDir;

/// Long enough for a busy machine, and short enough that tests can wait for it.
const MAX_TTL: Duration = Duration::from_secs(3);

/// A server whose clock can be stepped.
struct Clockwork {
    server: RedisServer,
    shim: Shim,
    _directory: TempDir,
}

impl Clockwork {
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let library = shim::compile(directory.path())?;
        let shim = Shim::new(library, directory.path().join("told"));
        Some(Self {
            server: RedisServer::start_in(shim.environment()),
            shim,
            _directory: directory,
        })
    }
}

async fn router(servers: &[Clockwork], replicas: usize) -> Router {
    let builder = Router::builder().init(Init::Now).replicas(replicas);
    let builder = servers
        .iter()
        .enumerate()
        .fold(builder, |builder, (index, clockwork)| {
            builder.node(name(index), clockwork.server.url())
        });
    let builder = builder.configure(|config| {
        config.router.ttl = MAX_TTL;
        config.router.max_ttl = MAX_TTL;
    });
    builder.connect().await.expect("a router")
}

/// The number of nodes that refuse because of their clock.
fn stepped(error: &Error) -> usize {
    let causes = match error {
        Error::NoQuorum { causes, .. } => causes,
        Error::TimedOut { last, .. } => return stepped(last),
        _ => return 0,
    };
    let is_stepped = |cause: &Cause| match cause {
        Cause::Failed(error) => error.kind() == NodeErrorKind::ClockStepped,
        _ => false,
    };
    causes
        .iter()
        .filter(|cause| is_stepped(&cause.cause))
        .count()
}

/// Tries other keys until `nodes` nodes are benched.
async fn until_benched(router: &Router, nodes: usize) -> Error {
    let deadline = now() + PROMPTLY;
    for attempt in 0_u32.. {
        let key = format!("other-{attempt}");
        match router.try_acquire(&key).await {
            Err(error) if stepped(&error) == nodes => return error,
            Err(error) => assert_ne!(stepped(&error), 0, "{error}"),
            Ok(guard) => drop(guard.release().await),
        }
        assert!(now() < deadline, "the step was not noticed");
    }
    unreachable!("attempts without end")
}

#[tokio::test]
async fn a_step_forward_gives_no_lock_away() {
    let Some(clockwork) = Clockwork::start() else {
        return;
    };
    let mut servers = [clockwork];
    let holder = router(&servers, 1).await;
    let rival = router(&servers, 1).await;
    let guard = holder.acquire(KEY).await.unwrap();
    let refused = rival.try_acquire(KEY).await.unwrap_err();
    assert!(refused.is_contention(), "{refused}");

    // The lock has expired by the server's clock, and not by its holder's.
    servers[0].shim.step(60_000);
    let error = until_benched(&rival, 1).await;
    let text = format!("{error:#}");
    assert!(text.contains("stepped forward by"), "{text}");
    assert!(guard.remaining() > Duration::ZERO, "too slow a machine");
    let refused = rival.try_acquire(KEY).await.unwrap_err();
    assert_eq!(stepped(&refused), 1, "{refused}");

    let second = rival.acquire(KEY).wait(MAX_TTL * 2).await.unwrap();
    assert!(now() > guard.valid_until());
    assert!(second.fence() > guard.fence());
}

#[tokio::test]
async fn one_step_of_three_goes_unfelt_and_two_stop_all() {
    let servers: Option<Vec<_>> = (0..3).map(|_| Clockwork::start()).collect();
    let Some(mut servers) = servers else { return };
    let router = router(&servers, 3).await;

    let held = router.acquire(KEY).await.unwrap();
    servers[0].shim.step(60_000);
    // Longer than the greatest age of a clock reading.
    let deadline = now() + ms(1_500);
    while now() < deadline {
        let other = router.acquire("other").await.unwrap();
        other.release().await.unwrap();
    }
    servers[1].shim.step(60_000);
    until_benched(&router, 2).await;
    // One of its three entries is left, and none is created again: every extend
    // fails.
    while held.loss().is_none() {
        assert!(held.extend().await.is_err());
    }

    let other = router.acquire("other").wait(MAX_TTL * 2).await.unwrap();
    other.release().await.unwrap();
}

#[tokio::test]
async fn a_step_back_keeps_nobody_out() {
    let Some(clockwork) = Clockwork::start() else {
        return;
    };
    let mut servers = [clockwork];
    let router = router(&servers, 1).await;
    servers[0].shim.step(-60_000);
    let deadline = now() + ms(1_500);
    while now() < deadline {
        let guard = router.acquire(KEY).await.unwrap();
        guard.release().await.unwrap();
    }
}
