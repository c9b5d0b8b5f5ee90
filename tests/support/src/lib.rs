//! What the tests of `ringlock` share: real servers, fake servers,
//! a proxy with a faulty network, a clock that can be stepped, and clusters that
//! look the same to a test whether they are real or in memory.

#![cfg(feature = "redis")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod c_library;
mod cluster;
pub mod edition;
pub mod fake;
pub mod fork;
pub mod node;
pub mod process;
pub mod proxy;
pub mod server;
pub mod shim;
mod users;

use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub use cluster::{ARMS, Arm, Cluster, TestNode};
pub use server::RedisServer;
pub use users::{least_user, operators_rights};

/// A key to contend for.
pub const KEY: &str = "orders/42";

/// Longer than anything may take on a busy machine.
pub const PROMPTLY: Duration = Duration::from_secs(5);

/// How late anything may be on a shared machine.
pub const MARGIN: Duration = Duration::from_secs(1);

/// Call it before a subscriber is set for one thread. `tracing` asks the
/// subscriber of the thread that first uses a callsite, as long as the process
/// has one subscriber: a thread without one then turns the callsite off for all.
pub fn share_callsites() {
    static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default()));
}

/// This many milliseconds.
pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The name of node `index`: one letter.
pub fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// Polls a future once: true if it waits.
pub async fn is_waiting<F: Future + Unpin>(future: &mut F) -> bool {
    let mut future = std::pin::Pin::new(future);
    let once = |context: &mut Context<'_>| Poll::Ready(future.as_mut().poll(context).is_pending());
    std::future::poll_fn(once).await
}

/// Polls until `condition` holds, for at most `limit`.
pub async fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "in {limit:?} it did not come about that {what}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The seed of a random test: that of the environment variable `RINGLOCK_SEED`,
/// or else a fresh one. It is printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = match std::env::var("RINGLOCK_SEED") {
        Ok(text) => text.parse().expect("RINGLOCK_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("RINGLOCK_SEED={seed}");
    seed
}
