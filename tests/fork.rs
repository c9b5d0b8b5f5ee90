//! A process that forks: the child's random numbers are its own, and the
//! handles from its parent remain its parent's.
//!
//! Each scene runs in a process with a single thread, because only the thread
//! that forks continues in the child: this program starts itself for each
//! scene, with the library of `ringlock_test_support::fork` preloaded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where it fails, and tells which scenes it played"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::Command;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use ringlock::rebalancer::RebalanceError;
use ringlock::{
    Acquiring, Change, Error, Guard, GuardSet, Init, Loss, Released, Router, WithError,
};
use ringlock_test_support::RedisServer;
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Longer than a call takes that does not wait.
const AT_ONCE: Duration = Duration::from_secs(5);

type Scene = fn(&Stage);

const SCENES: [(&str, Scene); 3] = [
    (
        "no_two_processes_draw_one_token",
        no_two_processes_draw_one_token,
    ),
    (
        "a_child_leaves_its_parents_locks_alone",
        leaves_alone_on_one_thread,
    ),
    (
        "a_child_of_many_threads_leaves_them_alone",
        leaves_alone_on_many_threads,
    ),
];

/// The environment of a scene.
struct Stage {
    url: String,
    directory: PathBuf,
}

fn main() {
    if let Ok(name) = std::env::var("RINGLOCK_FORK_SCENE") {
        let stage = Stage {
            url: std::env::var("RINGLOCK_FORK_URL").unwrap(),
            directory: std::env::var("RINGLOCK_FORK_DIRECTORY").unwrap().into(),
        };
        let scene = SCENES.iter().find(|(scene, _)| *scene == name);
        return scene.expect("a scene of this name").1(&stage);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        SCENES.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if !cfg!(target_os = "linux") {
        return println!("NOT RUN: the shim that forks is made for Linux");
    }
    let directory = tempfile::tempdir().unwrap();
    let shim = ringlock_test_support::fork::compile(directory.path());
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, _) in SCENES {
        if filter.is_none_or(|filter| name.contains(&**filter)) {
            play(name, &shim);
            println!("test {name} ... ok");
        }
    }
}

fn play(name: &str, shim: &Path) {
    let server = RedisServer::start();
    let directory = tempfile::tempdir().unwrap();
    let mut player = Command::new(std::env::current_exe().unwrap())
        .env("LD_PRELOAD", shim)
        .env("RINGLOCK_FORK_SCENE", name)
        .env("RINGLOCK_FORK_URL", server.url())
        .env("RINGLOCK_FORK_DIRECTORY", directory.path())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + 2 * LIMIT;
    let status = loop {
        if let Some(status) = player.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            player.kill().unwrap();
            panic!("{name} hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{name}: {status}");
}

/// Forks. The child runs its part and ends; the parent gets its process number.
fn fork(child: impl FnOnce()) -> Pid {
    let before = std::process::id();
    match std::os::unix::process::parent_id() {
        0 => {
            assert_ne!(std::process::id(), before, "it is not preloaded");
            child();
            std::process::exit(0);
        }
        number => Pid::from_raw(number.cast_signed()).unwrap(),
    }
}

/// Waits for the end of a child, which must succeed.
fn assert_done(child: Pid) {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG).unwrap() {
            assert_eq!(status.exit_status(), Some(0), "{status:?}");
            return;
        }
        if Instant::now() > deadline {
            rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
            panic!("the child hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(stage: &Stage) -> Router {
    let builder = Router::builder().node("a", &stage.url).init(Init::Now);
    let labelled = builder.configure(|config| config.router.label = Some("job".into()));
    labelled.connect().await.unwrap()
}

/// Two workers, and a worker of each: one label, and generators that were one
/// before the fork.
fn no_two_processes_draw_one_token(stage: &Stage) {
    let runtime = runtime();
    runtime.block_on(async {
        let router = connect(stage).await;
        router
            .acquire("warm")
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
    });
    let file = |name: &str| stage.directory.join(name);
    let is_there = |name: &str| file(name).exists();
    let work = |name: &str| {
        let runtime = self::runtime();
        runtime.block_on(async {
            let router = connect(stage).await;
            let outcome = router.try_acquire("k").await;
            let reported = match &outcome {
                Ok(_) => "granted",
                Err(error) if error.is_contention() => "held",
                Err(error) => panic!("{name}: {error}"),
            };
            std::fs::write(file(name), reported).unwrap();
            // It holds the key until all have tried.
            let deadline = Instant::now() + LIMIT;
            while !is_there("done") {
                assert!(Instant::now() < deadline, "{name} is left alone");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    };
    let reported = |name: &str| {
        let deadline = Instant::now() + LIMIT;
        while !is_there(name) {
            assert!(Instant::now() < deadline, "{name} says nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        // The file is written in one piece; before that it is empty.
        loop {
            let text = std::fs::read_to_string(file(name)).unwrap();
            if !text.is_empty() {
                return text;
            }
        }
    };
    let names = [
        "worker 1",
        "worker of worker 1",
        "worker 2",
        "worker of worker 2",
    ];
    let children = [0, 2].map(|index| {
        let child = fork(|| {
            let grandchild = fork(|| {
                reported(names[index]);
                work(names[index + 1]);
            });
            work(names[index]);
            assert_done(grandchild);
        });
        reported(names[index + 1]);
        child
    });
    let outcomes = names.map(reported);
    std::fs::write(file("done"), "").unwrap();
    children.into_iter().for_each(assert_done);
    let granted = outcomes.iter().filter(|outcome| *outcome == "granted");
    assert_eq!(granted.count(), 1, "{outcomes:?}");
}

fn leaves_alone_on_one_thread(stage: &Stage) {
    leaves_alone(stage, runtime(), true);
}

fn leaves_alone_on_many_threads(stage: &Stage) {
    let many = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    leaves_alone(stage, many.unwrap(), false);
}

/// The values of the keys that the parent holds.
fn stored(client: &mut redis::Connection) -> Vec<Option<String>> {
    let names = ["kept", "plain", "x", "y"].map(|key| format!("ringlock:{key}"));
    redis::cmd("MGET").arg(&names[..]).query(client).unwrap()
}

/// The ids of the server's connections.
fn connections(client: &mut redis::Connection) -> BTreeSet<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(client).unwrap();
    let ids = list.lines().filter_map(|line| line.split(' ').next());
    ids.map(Into::into).collect()
}

/// A router that the child creates works, and respects the parent's locks.
async fn works_by_itself(stage: &Stage) {
    let router = connect(stage).await;
    let own = router.try_acquire("own").await.unwrap();
    assert_eq!(own.release().await.unwrap(), Released::InTime);
    let held = router.try_acquire("kept").await.unwrap_err();
    assert!(held.is_contention(), "{held}");
}

/// The parent continues unchanged once its child is gone.
async fn goes_on(
    router: &Router,
    kept: Guard,
    plain: Guard,
    set: GuardSet,
    waiting: Pin<&mut Acquiring<Guard>>,
) {
    assert_eq!((kept.loss(), set.loss(), plain.loss()), (None, None, None));
    kept.extend().await.unwrap();
    set.extend().await.unwrap();
    let next = router.try_acquire("next").await.unwrap();
    assert_eq!(next.release().await.unwrap(), Released::InTime);
    assert_eq!(plain.release().await.unwrap(), Released::InTime);
    let waited = waiting.await.unwrap();
    assert_eq!(waited.release().await.unwrap(), Released::InTime);
    assert_eq!(set.release().await.unwrap(), Released::InTime);
    assert_eq!(kept.release().await.unwrap(), Released::InTime);
}

/// A child uses and drops everything that it has of its parent's router, and
/// the parent notices nothing. The child also drops the runtime if
/// `drops_runtime`: a runtime with many threads would wait for them.
fn leaves_alone(stage: &Stage, runtime: Runtime, drops_runtime: bool) {
    let mut client = redis::Client::open(&*stage.url)
        .unwrap()
        .get_connection()
        .unwrap();
    let router = runtime.block_on(connect(stage));
    let ttl = Duration::from_secs(30);
    let (kept, plain, set) = runtime.block_on(async {
        let kept = router.acquire("kept").ttl(ttl).keep_alive().await.unwrap();
        let plain = router.acquire("plain").ttl(ttl).await.unwrap();
        (
            kept,
            plain,
            router.acquire_all(["x", "y"]).ttl(ttl).await.unwrap(),
        )
    });
    let waiting = router.acquire("plain").wait(LIMIT).into_future();
    let mut waiting = pin!(waiting);
    let mut lost = pin!(kept.lost());
    runtime.block_on(async {
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(lost.as_mut().poll(&mut context).is_pending());
    });
    let (tokens, before) = (stored(&mut client), connections(&mut client));
    assert!(tokens.iter().all(Option::is_some), "{tokens:?}");

    // The child drops its copies; the parent keeps its own: the memory is a
    // copy.
    let child = {
        let before = std::process::id();
        match std::os::unix::process::parent_id() {
            0 => {
                assert_ne!(std::process::id(), before, "it is not preloaded");
                let own = self::runtime();
                let calls = async {
                    assert_eq!(lost.as_mut().await, Loss::Forked);
                    assert!(matches!(waiting.as_mut().await, Err(Error::Forked)));
                    every_call_is_refused(&router, &kept).await;
                };
                runtime_runs(&own, calls);
                runtime_runs(&runtime, every_call_is_refused(&router, &kept));
                let released = plain.release();
                assert!(matches!(runtime_runs(&own, released), Err(Error::Forked)));
                drop((set, kept));
                assert!(!runtime_runs(&own, router.clone().shutdown()));
                drop(router);
                match drops_runtime {
                    true => drop(runtime),
                    false => std::mem::forget(runtime),
                }
                runtime_runs(&own, works_by_itself(stage));
                std::process::exit(0);
            }
            number => Pid::from_raw(number.cast_signed()).unwrap(),
        }
    };
    assert_done(child);

    assert_eq!(stored(&mut client), tokens, "the locks are still there");
    assert!(
        before.is_subset(&connections(&mut client)),
        "no connection broke"
    );
    runtime_runs(&runtime, goes_on(&router, kept, plain, set, waiting));
    let left = connections(&mut client);
    assert!(
        before.is_subset(&left),
        "no connection broke: {before:?}, {left:?}"
    );
}

/// Runs `calls`, which must not take long.
fn runtime_runs<T>(runtime: &Runtime, calls: impl Future<Output = T>) -> T {
    runtime.block_on(async { timeout(AT_ONCE, calls).await.expect("it hangs") })
}

/// Checks the calls of a router and a guard that the process has from its
/// parent.
async fn every_call_is_refused(router: &Router, guard: &Guard) {
    let is_forked =
        |error: Option<Error>| assert!(matches!(error, Some(Error::Forked)), "{error:?}");
    assert!(router.is_closed());
    is_forked(router.try_acquire("z").await.err());
    is_forked(router.acquire("z").wait(LIMIT).await.err());
    is_forked(router.acquire("plain").wait(LIMIT).await.err());
    is_forked(router.acquire_all(["z", "x"]).await.err());
    for (_, outcome) in router.acquire_many(["z", "x"]).await {
        is_forked(outcome.err());
    }
    let scoped = router.with("z", async |_| panic!("it runs")).await;
    let scoped: Result<(), WithError<()>> = scoped;
    is_forked(scoped.err().map(Error::from));
    is_forked(router.route("z").err());
    let change = Change::Remove { node: "a".into() };
    let planned = router.rebalancer().plan([change]).await;
    assert!(matches!(
        planned,
        Err(RebalanceError::Cluster(Error::Forked))
    ));
    let resumed = router.rebalancer().resume(|_| ()).await;
    assert!(matches!(
        resumed,
        Err(RebalanceError::Cluster(Error::Forked))
    ));
    assert!(!router.drained().await);
    is_forked(guard.extend().await.err());
    assert_eq!(guard.loss(), Some(Loss::Forked));
    assert_eq!(guard.lost().await, Loss::Forked);
    assert_eq!(guard.remaining(), Duration::ZERO);
}
