//! Changing which nodes there are: how it works, and a runbook.
//!
//! # What happens
//!
//! Which nodes there are, their weights, how many replicas a key has and the
//! longest ttl make a *topology*. A topology in force is a *view*, with a
//! number, its *epoch*. Every request names the view that it goes by, and a
//! node answers only requests of exactly the view that it serves. A change
//! goes over three views:
//!
//! ```text
//!            new nodes wait        leases of before run out
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
//! no harm: who still goes by the old view needs the old replicas, who goes by
//! the new one needs the new replicas, and who goes by the joint view needs
//! both, so that of any two at least one node sees both and refuses the second.
//! A lease that is kept alive is carried over by its next extend: its entries
//! stay on the old nodes and are made on the new ones. A router finds out by
//! the first answer of another view, reads it from the node that gave it, and
//! begins anew; callers notice nothing but a few milliseconds.
//!
//! Which view follows is decided by a vote of the nodes of the old one (Paxos,
//! one decision per epoch), and nothing but what was decided is ever served.
//! So whoever carries a change out may die at any point, and several may be at
//! it: what was decided stays, and another takes it from there.
//!
//! A change takes between `max_ttl`, where no node joins and all answer, and
//! twice `max_ttl` and `view_lease`, where one joins and another is silent.
//! Nothing stands still meanwhile. The fence of a lock is led by its epoch, so
//! fences grow across every change.
//!
//! # Nodes that lost their data
//!
//! A server that restarted empty, was failed over or restored grants nothing.
//! Whichever router meets it marks it with a nonce of its own and keeps it out
//! until everything that it may have forgotten has expired; after `max_ttl`
//! and up to a second more, one router has the others vote it in again, by a
//! new epoch of the same topology. Nobody needs to do anything. In quorum mode
//! nothing is noticed; in sharded mode the keys of that node fail with
//! [`Cause::Quarantined`](crate::Cause::Quarantined), which says for how long.
//! That takes a process that runs for `max_ttl`: see below where none does.
//! It takes most nodes of the cluster to vote, so a cluster should have three
//! or more.
//!
//! Where **most** nodes lost their data, as in a rolling restart of servers
//! without disks that is faster than `max_ttl`, no vote can be had. As soon as
//! *every* member answers, nothing that anybody holds can be confirmed or
//! extended any more. A running router, or one that connects, then quarantines
//! every member, also those that kept their data; `max_ttl` after the last one
//! it starts the cluster anew, in an epoch above every one that a member has
//! served. Nobody needs to do anything; nothing can be locked meanwhile, and
//! errors say for how long ([`KeptOut`](crate::KeptOut)). A member remembers
//! since when it has been quarantined, by its own clock, so that a process that
//! takes over goes on with the wait of the one before. The least of all members
//! counts: one server's clock that steps forward shortens nothing, except in a
//! cluster of a single node.
//!
//! The cluster is not started anew where a member does not answer, nor while a
//! change of membership is under way: the nodes that it leads to may have taken
//! over. Errors and `ringlock doctor` then say which node is waited for, or that
//! it takes `ringlock force`. What nobody who answers remembers, nobody can
//! know: do not empty retired nodes and let routers connect to them that are
//! configured with no other node.
//!
//! # Runbook
//!
//! The program `ringlock` does all of this from a shell, as does
//! [`Rebalancer`](crate::Rebalancer) in code. A plan is read before anything is
//! touched; it is good for the view that it was made for, and no other.
//!
//! ## Add a node
//!
//! Start an empty server. If it has another user or password than the nodes
//! before it, add it to the routers' configuration first: views carry
//! addresses, not credentials, and a node that is not configured is spoken to
//! as the first configured user. `plan` looks into the new server, and refuses
//! one that must not hold locks.
//!
//! ```sh
//! ringlock plan add f --url redis://10.0.0.6 > plan.json
//! ringlock apply plan.json
//! ```
//!
//! Several changes make one plan, and take no longer than one:
//! `ringlock plan add f --url redis://10.0.0.6 --and remove a`.
//!
//! Add it to the configuration afterwards, in any order and at leisure: a
//! router that starts goes by what the cluster serves, and logs that its
//! configuration is behind (`router.on_mismatch = "refuse"` makes that an
//! error). It only has to find one node that knows.
//!
//! ## Replace a dead node
//!
//! ```sh
//! ringlock plan replace c --by g --url redis://10.0.0.7 > plan.json
//! ringlock apply plan.json
//! ```
//!
//! The dead node is not asked for anything. If it may still be alive behind a
//! broken network, that is no danger: clients who reach only it run out of
//! their reliance on the old view, which the change waits for. Where it is
//! switched off for certain, `--fenced c` (of `plan`) spares that part of the
//! wait. The report says which retired nodes know that they are: one that does
//! not should be emptied before it is used for anything else.
//!
//! ## Upgrade all servers, one after the other
//!
//! A server with `durable = true` may simply be restarted. Of the others,
//! restart one, and wait until `ringlock status` exits with 0 again: that is
//! when it has been let in again, after `max_ttl`, by a router that runs. (It
//! exits with 0 only where the configuration names exactly the members.) Its sharded keys wait
//! meanwhile. Where they must not, `plan remove` it, restart it, `plan add` it
//! again: nothing waits, and it takes two changes.
//!
//! ## An interrupted change
//!
//! `ringlock status` shows `joint`, what the change leads to and since which
//! epoch, and exits with 4. `ringlock resume` finishes it, `ringlock abort`
//! takes it back; either may be interrupted, too (by SIGINT it exits with 130,
//! by SIGTERM with 143). The cluster is as safe and as
//! available in the joint view as in any other, except that a key whose
//! replicas change needs both sets. Where nothing is under way, both say so and
//! exit with 0.
//!
//! An abort wins: an `apply` or `resume` that is at the change exits with 5,
//! names the view by which the change was taken back and, where that can be
//! read, the label of who did it
//! ([`RebalanceError::Aborted`](crate::rebalancer::RebalanceError::Aborted)),
//! and does not begin again. If the last view of the change is decided first,
//! the abort exits with 5 and the change is made. An `apply` that still waits
//! for its new nodes has decided nothing, so that nobody else can see it.
//! `ringlock abort --outdate-plans` stops it, too: where no change is under way
//! it decides the same topology once more, by which every plan that was made
//! before is outdated.
//!
//! ## Only short-lived processes
//!
//! Each process waits for `max_ttl` by its own clock, from the moment at which
//! it first sees that a node lost its data. Where every process ends sooner
//! (cron with `ringlock exec`), none lets the node in, and `exec` on its keys
//! exits with 3. Then let one process stay:
//!
//! ```sh
//! ringlock readmit --wait
//! ```
//!
//! It tells how long is left, lets the nodes in by a vote, and exits with 0 once
//! every member serves; with 4 where some are out, with 3 where a node that was
//! named does not answer or too few nodes vote. Without `--wait` it tells which
//! nodes are out. It does no harm to run it when none is: a line
//! `ringlock readmit --wait` in the crontab, every few minutes, keeps such a
//! cluster whole. In code it is
//! [`Rebalancer::readmit`](crate::Rebalancer::readmit).
//!
//! ## Most nodes are lost for good
//!
//! Then no vote can be had, and the cluster waits for those that do not answer. `ringlock force --abandon b --abandon c`, with
//! `--i-promise-they-never-return` and perhaps fewer `--replicas`, goes on with
//! those that are left, after `max_ttl` and `view_lease` during which
//! nothing can be locked. It tells beforehand until when that is, and how many
//! keys get another owner. **By that you promise that no abandoned node ever
//! comes back with the data that it had**: destroy it, or empty it before it
//! starts. If one comes back, two holders may have one lock.
//!
//! When all nodes answer, there is nothing to force: routers start the cluster
//! anew unattended, see above.
//!
//! It refuses, does nothing and exits with 2, in two cases. Each has a flag of
//! its own, which says what is risked:
//!
//! | it refuses while | because | the flag |
//! |---|---|---|
//! | enough nodes keep their data to vote | a plan makes the same change, and no lock stands still | `--stop-all-locks-although-a-vote-is-possible` |
//! | an abandoned node answers | clients that reach it may hold there what others lock elsewhere | `--risk-two-holders-although-abandoned-nodes-answer` |
//!
//! # What needs care
//!
//! - All routers of a cluster have one `key_prefix`: two that differ in it both
//!   hold one key. The first router notes it in the cluster's name; one that
//!   connects with another is refused with
//!   [`Error::TopologyMismatch`](crate::Error::TopologyMismatch) under
//!   `on_mismatch = "refuse"`, and otherwise reports the event
//!   `other_key_prefix`. `ringlock doctor` fails then. A cluster that was
//!   started by an earlier version has no note. The prefix is chosen once: for
//!   another, start another cluster.
//! - Another `namespace`, or another database of the same servers, is another
//!   cluster. Nothing excludes the two from each other, unless they have one
//!   `key_prefix` and the keys' nodes in common by chance. A single node
//!   that is configured with another database than the one that is served is
//!   told at connect, as other differences are.
//! - A lease with a ttl longer than a new, shorter `max_ttl` is extended by no
//!   more than that; one that is never extended runs out as it would have.
//! - A lease that nobody extends while the joint view is in force is not
//!   carried over: it stays valid until its end, which the change waits for.
//! - Zones and hosts are part of the topology: a change that breaks their rule
//!   is refused when it is planned.
//! - Passing all keys to a single node, or to few, passes the vote to them: if
//!   most of those lose their data in the very moment of the passage, nobody is
//!   left to vote, and `force` alone helps.
//! - Retired nodes may be switched off once the change has ended and its report
//!   says that they know.
