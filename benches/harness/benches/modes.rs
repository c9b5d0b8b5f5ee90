//! Sharded and quorum mode, compared with each other and with peers.
//!
//! ```sh
//! cargo bench --bench modes               # every goal; some minutes
//! cargo bench --bench modes -- --quick    # under a minute
//! cargo bench --bench modes -- --help
//! ```
//!
//! The program `ringlock-bench` runs the same without the crates `rslock`,
//! `distributed-lock-redis` and `fred`.
//! Without `--bench`, as in `cargo test --benches`, every scene runs once and
//! briefly.

#[path = "modes/distributed_lock.rs"]
mod distributed_lock_peer;
#[path = "modes/fred.rs"]
mod fred_peer;
#[path = "modes/rslock.rs"]
mod rslock_peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    ringlock_bench::run_bench(&[
        rslock_peer::PEER,
        distributed_lock_peer::PEER,
        fred_peer::PEER,
    ])
}
