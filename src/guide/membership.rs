//! Changing the set of nodes: how it works, and a runbook.
//!
//! # What happens
//!
//! The nodes, their weights, the number of replicas of a key and the longest
//! ttl make a *topology*. A topology in force is a *view*, with a number, its
//! *epoch*. Every request names the view that it is made for, and a node
//! answers only requests of exactly the view that it serves. A change passes
//! through three views:
//!
//! ```text
//!            new nodes wait        earlier leases run out
//!               max_ttl             max_ttl + view_lease
//!          ┌───────────────┐      ┌──────────────────────┐
//!   ───────┴───────────────▼──────┴──────────────────────▼─────────────
//!    epoch 7: stable        epoch 8: joint         epoch 9: stable
//!    a  b  c                a  b  c  +  a  b  d    a  b  d
//!    most of a key's        most of its old        most of its
//!    replicas               replicas, AND most     new replicas
//!                           of its new ones
//!           ▲                      │
//!           └──────── abort ───────┘  at any time, without waiting
//! ```
//!
//! Some routers learn of a view later than others. In the joint view that does
//! no harm: a router in the old view needs the old replicas, a router in the
//! new view needs the new replicas, and a router in the joint view needs both.
//! So for any two of them at least one node receives both requests and refuses
//! the second. A lease that is kept alive is carried over by its next extend:
//! its entries stay on the old nodes and are created on the new ones. A router
//! notices by the first reply from another view, reads that view from the node
//! that replied, and retries; callers notice only a delay of a few
//! milliseconds.
//!
//! The next view is decided by a vote of the nodes of the old one (Paxos, one
//! decision per epoch), and nothing but what was decided is ever served. A
//! process that carries a change out may therefore die at any point, and
//! several may work on it: what was decided stays, and another process
//! continues from there.
//!
//! A change takes between `max_ttl`, where no node joins and all answer, and
//! twice `max_ttl` and `view_lease`, where one joins and another is silent.
//! Locks stay available during the change. The epoch is in the high bits of a
//! fence, so fences grow across every change.
//!
//! # Nodes that lost their data
//!
//! A server that restarted empty, was failed over or restored grants nothing.
//! The first router that reaches it marks it with a nonce of its own and keeps
//! it out until everything that the server may have forgotten has expired.
//! After `max_ttl` and up to a second more, one router has the others vote it
//! in again, by a new epoch of the same topology. No operator needs to act. In
//! quorum mode nothing is noticed; in sharded mode the keys of that node fail
//! with [`Cause::Quarantined`](crate::Cause::Quarantined), which includes the
//! remaining time. This requires a process that runs for `max_ttl`: see below
//! where there is none. The vote requires most nodes of the cluster, so a
//! cluster should have three or more.
//!
//! Where **most** nodes lost their data, as in a rolling restart of servers
//! without disks that is faster than `max_ttl`, no vote is possible. As soon as
//! *every* member answers, no lease can be confirmed or extended. A running
//! router, or one that connects, then quarantines every member, including those
//! that kept their data. When `max_ttl` has passed since the last member was
//! quarantined, it starts the cluster again, in an epoch above every one that a
//! member has served. No operator needs to act; nothing can be locked until
//! then, and errors include the remaining time ([`KeptOut`](crate::KeptOut)). A
//! member remembers since when it has been quarantined, by its own clock, so
//! that a process that takes over continues the wait of the previous one. The
//! shortest time of all members counts: one server's clock that steps forward
//! shortens nothing, except in a cluster of a single node.
//!
//! The cluster is not started again where a member does not answer, nor while a
//! change of membership is under way: the nodes that it leads to may have taken
//! over. Errors and `ringlock doctor` then name the node that is waited for, or
//! state that `ringlock force` is required. Facts that no answering node
//! remembers are lost. Do not empty retired nodes if routers that are configured
//! with no other node may connect to them.
//!
//! # Runbook
//!
//! The [program](super::program) `ringlock` makes changes from a shell,
//! [`Rebalancer`](crate::Rebalancer) makes them in code. Nodes can be added,
//! removed, replaced, reweighted, moved and relabelled. Replicas, `max_ttl` and
//! `view_lease` change the same way. A plan can be read before anything changes:
//! what moves where, which nodes must answer, how long it takes. It is valid
//! only for the view that it was made for.
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use ringlock::{Change, NodeConfig};
//! # let router = ringlock::Router::in_memory(5).await?;
//! let rebalancer = router.rebalancer();
//! let by = NodeConfig::new("g", "redis://10.0.0.7");
//! let plan = rebalancer.plan([Change::Replace { node: "c".into(), by }]).await?;
//! println!("{plan}");
//! rebalancer.apply(&plan, |progress| println!("{progress:?}")).await?;
//! # Ok(()) }
//! ```
//!
//! ## Add a node
//!
//! Start an empty server. If it has another user or password than the existing
//! nodes, add it to the routers' configuration first: views carry addresses,
//! not credentials, and for a node that is not configured a router logs in as
//! the first configured user. `plan` inspects the new server, and refuses one
//! that must not hold locks.
//!
//! ```sh
//! ringlock plan add f --url redis://10.0.0.6 > plan.json
//! ringlock apply plan.json
//! ```
//!
//! Several changes make one plan, and take no longer than one:
//! `ringlock plan add f --url redis://10.0.0.6 --and remove a`.
//!
//! Add it to the configurations afterwards, in any order and at any time: a
//! router that starts follows what the cluster serves, and logs that its
//! configuration is behind (`router.on_mismatch = "refuse"` makes that an
//! error). It only has to reach one node that knows the view.
//!
//! ## Replace a dead node
//!
//! ```sh
//! ringlock plan replace c --by g --url redis://10.0.0.7 > plan.json
//! ringlock apply plan.json
//! ```
//!
//! The dead node is not asked for anything. If it may still be alive behind a
//! broken network, that is no danger: for clients that reach only this node,
//! the time expires for which they may rely on the old view, and the change
//! waits for that. Where the node is certainly switched off, `--fenced c` (of
//! `plan`) saves that part of the wait. The report lists which retired nodes
//! know that they are retired: empty any other one before it is used for
//! anything else.
//!
//! ## Upgrade all servers, one after the other
//!
//! A server with `durable = true` may simply be restarted. Of the others,
//! restart one, and wait until `ringlock status` exits with 0 again: by then a
//! running router has readmitted it, after `max_ttl`. (It exits with 0 only
//! where the configuration names exactly the members.) Its sharded keys wait
//! until then. Where they must not, `plan remove` it, restart it, `plan add` it
//! again: nothing waits, and it takes two changes.
//!
//! ## An interrupted change
//!
//! `ringlock status` shows `joint`, what the change leads to and since which
//! epoch, and exits with 4. `ringlock resume` finishes it, `ringlock abort`
//! takes it back; either may be interrupted, too (by SIGINT it exits with 130,
//! by SIGTERM with 143). The cluster is as safe and as available in the joint
//! view as in any other, except that a key whose replicas change needs both
//! sets. Where no change is under way, both report so and exit with 0.
//!
//! An abort wins: an `apply` or `resume` that carries out the change exits with
//! 5, names the view by which the change was taken back and, where it can be
//! read, the label of the process that aborted it
//! ([`RebalanceError::Aborted`](crate::rebalancer::RebalanceError::Aborted)),
//! and does not begin again. If the last view of the change is decided first,
//! the abort exits with 5 and the change is made. An `apply` that still waits
//! for its new nodes has decided nothing, so that no other process can see it.
//! `ringlock abort --outdate-plans` stops it, too: where no change is under way
//! it decides the same topology once more, which outdates every plan that was
//! made before.
//!
//! ## Only short-lived processes
//!
//! Each process waits for `max_ttl` by its own clock, from the moment at which
//! it first sees that a node lost its data. Where every process ends sooner
//! (cron with `ringlock exec`), none readmits the node, and `exec` on its keys
//! exits with 3. Then let one process stay:
//!
//! ```sh
//! ringlock readmit --wait
//! ```
//!
//! It prints how long is left, readmits the nodes by a vote, and exits with 0
//! once every member serves; with 4 where some are out, with 3 where a node
//! that was named does not answer or too few nodes vote. Without `--wait` it
//! lists which nodes are out. It does no harm to run it when none is: run
//! `ringlock readmit --wait` from the crontab every few minutes. In code it is
//! [`Rebalancer::readmit`](crate::Rebalancer::readmit).
//!
//! ## Most nodes are lost permanently
//!
//! Then no vote is possible, and the cluster waits for the nodes that do not
//! answer. `ringlock force --abandon b --abandon c`, with
//! `--i-promise-they-never-return` and perhaps fewer `--replicas`, continues
//! with the remaining nodes, after `max_ttl` and `view_lease` during which
//! nothing can be locked. It prints beforehand until when that is, and how many
//! keys get another owner. **With this flag you promise that no abandoned node
//! ever comes back with the data that it had**: destroy it, or empty it before
//! it starts. If one comes back, two holders may have one lock.
//!
//! When all nodes answer, there is nothing to force: routers start the cluster
//! again automatically, see above.
//!
//! It refuses, changes nothing and exits with 2, in two cases. Each has its own
//! flag, which names the risk:
//!
//! | it refuses while | because | the flag |
//! |---|---|---|
//! | enough nodes keep their data to vote | a plan makes the same change, and locks stay available | `--stop-all-locks-although-a-vote-is-possible` |
//! | an abandoned node answers | clients that reach it may hold locks there that other clients acquire elsewhere | `--risk-two-holders-although-abandoned-nodes-answer` |
//!
//! # What needs care
//!
//! - All routers of a cluster have one `key_prefix`: two that differ in it can
//!   both hold one key. The first router notes the prefix in the cluster's
//!   name; one that connects with another is refused with
//!   [`Error::TopologyMismatch`](crate::Error::TopologyMismatch) under
//!   `on_mismatch = "refuse"`, and otherwise reports the event
//!   `other_key_prefix`. `ringlock doctor` fails then. A cluster that was
//!   started by an earlier version has no note. The prefix is chosen once: for
//!   another, start another cluster.
//! - Another `namespace`, or another database of the same servers, is another
//!   cluster. Nothing excludes the two from each other, unless they have one
//!   `key_prefix` and the keys' nodes in common by chance. A single node that
//!   is configured with another database than the one that is served is
//!   reported at connect, as other differences are.
//! - A lease with a ttl longer than a new, shorter `max_ttl` is extended by no
//!   more than that; one that is never extended expires as it would have.
//! - A lease that is not extended while the joint view is in force is not
//!   carried over: it stays valid until its end, which the change waits for.
//! - Zones and hosts are part of the topology: a change that breaks their rule
//!   is refused when it is planned.
//! - Moving all keys to a single node, or to few, moves the vote to them: if
//!   most of those lose their data just when the new view takes effect, too few
//!   are left to vote, and only `force` helps.
//! - Retired nodes may be switched off once the change has ended and its report
//!   says that they know.
