//! How fast ringlock is on your machine, and the other benchmarks.
//!
//! # Both modes, compared with peers
//!
//! ```sh
//! cargo bench --bench modes                    # everything, some minutes
//! cargo bench --bench modes -- --quick         # under a minute
//! cargo install --path benches/harness         # the same without other libraries, as `ringlock bench`
//! ringlock bench --nodes redis://a,redis://b,redis://c
//! ```
//!
//! The bench starts its own redis-servers on the loopback, or uses your nodes,
//! and compares sharded and quorum mode. It measures
//!
//! - pairs of acquire and release per second;
//! - the latency, in an open loop from the intended start;
//! - commands, bytes and processor time per pair;
//! - the hand-over of a hot key between tasks and between processes: changes of
//!   the holder per second, commands per change, how even the waits are.
//!
//! It varies nodes, tasks, keys, a hot key, hold times and delays, draws keys by
//! Zipf's law, and measures while a node dies. `--only one-node,hot` selects scenes, and `--help` lists
//! the settings.
//!
//! The same run measures the bare redis crate, the crates `rslock` and
//! `distributed-lock-redis` and the bare crate `fred` (in the cargo bench only),
//! python-redis-lock's hand-off (ported), and raw pipelines of the same commands,
//! which are the server's own ceiling. Contenders take turns in short rounds, and a
//! ratio is the median of the rounds' ratios, because the speed of a shared machine
//! changes from one second to the next. With `--foreign` the bench also measures
//! redis-py and node-redlock, each in a process of its own; `scripts/peers.sh`
//! installs them.
//!
//! The results are in `target/ringlock-bench/report.html`, with a `.json` and a
//! `.csv` next to it: the goals that were met and missed, tables and plots.
//! Every contender checks itself while it is measured. If two holders
//! overlapped, a fence went back or a release came too late, the run ends with
//! exit code 1. A missed goal is reported and is not an error.
//!
//! # The other benchmarks
//!
//! Each runs with `cargo bench --bench NAME`, and starts its own servers where
//! it needs any.
//!
//! | name | what it measures |
//! |---|---|
//! | `latency` | a single task: one uncontended lock in round trips |
//! | `held` | 100,000 leases that are kept alive: the cost of a lease and of a waiter |
//! | `overload` | ten times as many callers as the nodes can serve |
//! | `outage` | quorum mode while nodes are down, stalled or slow |
//! | `rebalancing` | what changes of membership do to clients that lock at the same time |
//! | `soak` | half an hour with ordinary faults, and how much memory remains in use |
//! | `proto` | the protocol without any node |
//!
//! In `overload`, leases that are kept alive are renewed as usual, because
//! renewals and releases go before acquires. What can be served is served. The
//! other callers get an error at the end of their wait, and a moment after the
//! flood everything is as before.
