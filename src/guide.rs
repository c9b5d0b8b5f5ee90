//! A guide, as documentation only: choosing a mode and a ttl, waiting, fencing
//! a resource, many keys at once, lost leases, runtimes and forks, first start
//! and lost nodes, testing your own code.
//!
//! The other chapters:
//!
//! | chapter | subject |
//! |---|---|
//! | [`assumptions`] | what the guarantees need, compared with other libraries |
//! | [`configuration`] | every setting, and the features of the crate |
//! | [`servers`] | which servers, their users and passwords, TLS, sentinels |
//! | [`program`] | the commands of `ringlock`, and a command under a lock |
//! | [`membership`] | nodes join, leave and are replaced; a runbook |
//! | [`observability`] | metrics, events, alerts |
//! | [`benchmarks`] | how fast ringlock is on your machine |
//! | [`compatibility`] | what may change between versions |
//!
//! # Choosing a mode
//!
//! With `replicas = 1` a key lives on one node, and a cluster of N nodes does N
//! times the work of one. If a node is lost, its keys wait for it; the keys of
//! other nodes do not. With 3 or 5 replicas a key can be locked while most of
//! its nodes agree. An acquire costs as many requests, and waits for the second
//! or third fastest of the nodes. Most services have very many keys that
//! need one node and a few that need a quorum. Give the few a prefix:
//!
//! ```toml
//! [router]
//! replicas = 1
//! [[override]]
//! prefix = "billing/"
//! replicas = 5
//! ```
//!
//! # Choosing a ttl
//!
//! The ttl is how long a key stays locked after its holder dies. It is *not*
//! how long the work may take: [`keep_alive`](crate::Acquire::keep_alive) and
//! [`with`](crate::Router::with) extend the lease at each third of the ttl, and
//! retry until the lease is over. Choose a ttl that survives the pauses that
//! you know of (a garbage collector, a slow disk, a brief outage of a server):
//! ten seconds is a good start. The lease is valid for the ttl less 1 % and
//! 2 ms, which are reserved for clocks that drift. A ttl below 13 ms is refused.
//!
//! A node has a twentieth of the ttl to answer, at least 50 ms and at most a
//! second. With very short ttls a slow node fails sooner.
//!
//! `max_ttl` is how long the cluster waits when something may have been
//! forgotten: at a first start, when a node lost its data, when membership
//! changes. Do not set it higher than you need.
//!
//! # Waiting
//!
//! Acquires of one key by one router queue, first come, first served; only the
//! first of them asks the servers. It tries once, and then the key's servers
//! notify it when the key may have become free, whether it was released,
//! expired or was deleted by hand. Until then it sends nothing. This takes a
//! second connection to each server that some caller waits for (RESP3 client
//! tracking, Redis 6 or newer; it is closed half a minute after the last use,
//! or a little later). Where the server's user may not run `HELLO` and
//! `CLIENT TRACKING`, or a connection is lost, waiters poll, with random pauses
//! that double from 8 to 256 ms. With [`attempts`](crate::Acquire::attempts) or
//! [`retry_delay`](crate::Acquire::retry_delay) they poll as configured. All of
//! them retry when the other holder's lease ends, and every few seconds.
//!
//! Within a router a key passes straight from one waiter to the next: the new
//! holder's request follows the release on the same connection, and gets its
//! own token and fence. After 16 such hand-overs in a row
//! (`router.max_local_handoffs`) the router leaves the key for a moment (a
//! millisecond or two and two round trips) to the waiters in other processes.
//! Between processes there is no order, only this chance: make one router per
//! process, and clone it.
//!
//! # Fencing a resource
//!
//! A lock that expires cannot stop a holder that does not know it yet. The
//! resource can, if it sees the [fence](crate::Guard::fence): a number that
//! grows with every grant of the key. Keep the highest fence seen, and refuse a
//! lower one, in the same atomic step as the write:
//!
//! ```sql
//! UPDATE account SET balance = $1, fence = $2 WHERE id = $3 AND fence <= $2
//! ```
//!
//! If no row changed, a newer holder has written. Fences are below 2^63 and fit
//! a `BIGINT`. `examples/fenced_writer.rs` does it with a file.
//!
//! # Many keys in one call
//!
//! [`acquire_many`](crate::Router::acquire_many) locks keys that have nothing
//! to do with each other: each has its own result and guard, and one that is
//! busy, or whose node is down, does not delay the others. Do not use it to
//! wait for keys that you need *together*: two callers could each hold what the
//! other waits for.
//!
//! [`acquire_all`](crate::Router::acquire_all) is for those: all of the keys or
//! none, across nodes and modes. All callers take keys in the order of their
//! bytes, and wait for a key only while they hold none after it. No cycle of
//! waiters can form, in whatever order the callers name the keys. Free keys are
//! taken in one round. While a caller waits for a busy one, the leases that it
//! holds are extended. If anything fails, everything is released.
//!
//! The resulting [`GuardSet`](crate::GuardSet) is valid as long as every lease
//! in it is. Each key has its own fence, and fences of different keys do not
//! compare: let each resource check the fence of the key that guards it. Where
//! several keys guard one resource together, choose one of them for its fence,
//! permanently.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
//! # let router = ringlock::Router::in_memory(5).await?;
//! # async fn transfer(_: [Option<ringlock::Fence>; 2]) {}
//! router
//!     .acquire_all(["account/7", "account/9"])
//!     .with(async |guards| {
//!         transfer(["account/7", "account/9"].map(|key| guards.fence(key))).await;
//!     })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! One call takes 16,384 keys at most.
//!
//! # What a lost lease looks like
//!
//! [`Guard::lost`](crate::Guard::lost) resolves no later than the moment when
//! the lease may no longer be relied upon; [`Loss`](crate::Loss) gives the
//! reason. Work that cannot be fenced should stop then:
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
//! # let router = ringlock::Router::in_memory(1).await?;
//! # async fn print_labels() {}
//! router
//!     .with("printer", async |lease| {
//!         tokio::select! {
//!             () = print_labels() => {}
//!             loss = lease.lost() => eprintln!("stopping: {loss}"),
//!         }
//!     })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! [`with`](crate::Router::with) then returns the work's output inside
//! [`WithError::Lost`](crate::WithError::Lost): the work is done, and may need
//! to be checked or repeated.
//!
//! The result of a release is separate from that of the work: a release that no
//! node answers is [`Released::Unknown`](crate::Released::Unknown) and is
//! repeated in the background, so that `guard.release().await?` does not fail
//! work that was done.
//!
//! # Runtimes and forks
//!
//! A router has tasks: one for each node's connection, one that keeps leases
//! alive, one that monitors the cluster. They run on the runtime in which
//! [`connect`](crate::Router::connect) was awaited. If that runtime ends before
//! the router, every call fails at once with
//! [`Error::Closed`](crate::Error::Closed), including calls that wait, and
//! releases are left to the ttl. If it only stands still (a single-threaded
//! runtime that nothing drives), calls from another runtime fail within the
//! time that nodes have to answer.
//!
//! `fork` copies a process, its connections included. The child's copy of a
//! router is inert: calls return [`Error::Forked`](crate::Error::Forked),
//! guards are over with [`Loss::Forked`](crate::Loss::Forked), and dropping
//! either does nothing. The parent's locks stay as they are, and no byte from
//! the child gets into the parent's connections. The child creates its own
//! router on its own runtime. Random values are drawn from the kernel, so that
//! no two processes ever present the same token. A fork is detected by the C
//! library's handlers: a child that is created by the bare system call is not
//! detected.
//!
//! # First start and lost nodes
//!
//! A server that has no state grants nothing: it may have forgotten what it had
//! locked. The first router of a new cluster marks all nodes, waits until every
//! earlier lock has expired (`max_ttl` and drift), and gives them their first
//! *view*; `init = "now"` skips the wait on your promise that nothing was
//! locked. Any number of routers may start at once; one of them does it, and if
//! it dies another takes over.
//!
//! A node that comes back without its data, or as another incarnation (a
//! promoted replica, a restored snapshot), is noticed on connecting. In quorum
//! mode the others continue without it. In sharded mode its keys fail with
//! [`NoQuorum`](crate::Error::NoQuorum), which includes the reason and until
//! when: the routers readmit the node by themselves, see [membership]. When all
//! nodes lost their data, first start begins again, above the earlier fences if
//! a router was running.
//!
//! A server with `appendonly yes` and `appendfsync always` forgets nothing when
//! it restarts: configure it with `durable = true`, and it serves at once. Not
//! where a replica may take its place: a promoted replica lacks the last writes,
//! and after a restart of its own nothing shows that it was a replica.
//!
//! # Testing your own code
//!
//! [`Router::in_memory`](crate::Router::in_memory) needs no server. With
//! [`MemoryNode`](crate::MemoryNode) a test can stop, slow down, hang or wipe
//! nodes, and check how its code handles a lost lease:
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
//! use std::time::Duration;
//! use ringlock::{Loss, MemoryNode, Router};
//!
//! let node = MemoryNode::new("a");
//! let router = Router::builder().memory_node(node.clone()).connect().await?;
//! let guard = router.acquire("job").ttl(Duration::from_millis(50)).keep_alive().await?;
//! node.stop();
//! assert_eq!(guard.lost().await, Loss::Expired);
//! # Ok(()) }
//! ```

pub mod assumptions;
pub mod benchmarks;
pub mod compatibility;
pub mod configuration;
pub mod membership;
pub mod observability;
pub mod program;
pub mod servers;
