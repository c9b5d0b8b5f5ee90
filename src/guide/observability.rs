//! Monitoring: the metrics, the events, alerts, and where to look when one
//! fires. Names, labels, fields and levels are part of the crate's public
//! contract: they change as its types do.
//!
//! # Metrics
//!
//! With the feature `metrics`, routers report to the recorder of the crate
//! `metrics`. Install it *before* the router connects: handles are registered
//! once, at that time, and kept; an operation costs a few atomic additions and
//! no allocation. `cargo run --features metrics --example prometheus` starts a
//! complete service with a page for Prometheus. Without the feature
//! [`Router::stats`](crate::Router::stats) has the most important counts.
//!
//! Counters count since the process began, times are in seconds, everything
//! else is a number of things. No label has a lock key as its value: there may
//! be millions. `node` is the node's name in the view. The figures of all
//! routers of a process add up; if it has routers of several clusters, give
//! their nodes different names.
//!
//! | name | kind | labels | what it is |
//! |---|---|---|---|
//! | `ringlock_acquires_total` | counter | `outcome`: `granted`, `contended`, `timed_out`, `no_quorum`, `refused`, `abandoned` | calls that ended: `acquire`, `try_acquire`, `acquire_all`, and each key of `acquire_many` |
//! | `ringlock_acquire_wait_seconds` | histogram |  | from a call to its grant, of calls that were granted |
//! | `ringlock_attempts_total` | counter | `outcome`: `granted`, `contended`, `failed` | attempts of these calls at the nodes, by what the nodes said |
//! | `ringlock_write_backs_total` | counter |  | grants whose fence took a second round |
//! | `ringlock_waiting` | gauge |  | calls that wait: behind others of the process, or for another holder |
//! | `ringlock_held` | gauge |  | leases that are held |
//! | `ringlock_hold_seconds` | histogram |  | from a grant to the end of its lease, whatever ended it |
//! | `ringlock_lost_total` | counter | `reason`: `expired`, `taken_over`, `gone`, `max_hold` | leases that ended while they were held |
//! | `ringlock_extends_total` | counter | `outcome`: `extended`, `unchanged`, `lost` | extends, by hand and by keep-alive |
//! | `ringlock_releases_total` | counter | `outcome`: `in_time`, `too_late` | leases given back, by whether they still held by the holder's own clock |
//! | `ringlock_gone_total` | counter |  | releases in time that found too many entries gone: deleted by hand, or a clock that jumped |
//! | `ringlock_releases_given_up_total` | counter |  | releases that did not reach their node before the entry's ttl ran out |
//! | `ringlock_epoch` | gauge |  | epoch of the view that the router uses |
//! | `ringlock_view_joint` | gauge |  | 1 while a change of membership is under way |
//! | `ringlock_node_state` | gauge | `node`; `state`: `serving`, `behind`, `quarantined`, `absent`, `silent` | 1 for the state that the router last saw the node in, 0 for the others |
//! | `ringlock_node_requests_total` | counter | `node`; `request`: `acquire`, `extend`, `release` | requests about locks that were handed to the node |
//! | `ringlock_node_errors_total` | counter | `node`; `kind`: `unreachable`, `timeout`, `overloaded`, `denied`, `unsuitable`, `lost_data`, `wrong_type`, `protocol`, `closed`, `clock_stepped`, `not_ready` | those of them that got no answer |
//! | `ringlock_node_round_trip_seconds` | histogram | `node` | from handing a request to the node to its answer, time in its queue included |
//! | `ringlock_node_connected` | gauge | `node` | 1 while there is a connection to the server, and it may hold locks |
//! | `ringlock_node_connections_lost_total` | counter | `node` | connections to the server that broke |
//! | `ringlock_batch_size` | histogram | `node` | requests that went to the server together |
//! | `ringlock_queue` | gauge | `node` | requests that wait to be sent to the server |
//!
//! A lease that has expired counts as held until its guard is used or dropped.
//! The state of a node is recorded whenever the router reads it, at least every
//! half `view_lease`; whether it is connected is recorded at once. The last
//! four metrics exist for Redis and Valkey servers only. A router's requests
//! about membership are not counted among the requests.
//!
//! `dashboards/ringlock.json` shows all of them in Grafana: health, traffic,
//! latency, leases, batching.
//!
//! # Alerts
//!
//! | when | what it means |
//! |---|---|
//! | `increase(ringlock_lost_total{reason!="max_hold"}[5m]) > 0` | work went on without its lock; the fence protects what checks it |
//! | `increase(ringlock_gone_total[5m]) > 0` | locks vanish from servers: somebody deletes them, or a clock jumps |
//! | `rate(ringlock_acquires_total{outcome="no_quorum"}[5m]) > 0` | keys cannot be locked because too few nodes answer |
//! | `max_over_time(ringlock_node_state{state="serving"}[2m]) == 0` | a node has been out for two minutes; run `ringlock status` |
//! | `min_over_time(ringlock_view_joint[1h]) == 1` | a change of membership hangs: `ringlock resume` or `abort` |
//! | `max by (node) (ringlock_queue) > 1000` | a server is slower than its callers |
//!
//! Contention is not a fault: `outcome="timed_out"` means that calls waited
//! behind other holders until their wait was over.
//! [`Router::hot_keys`](crate::Router::hot_keys) lists the keys for one
//! process.
//!
//! # Hot keys and hot nodes
//!
//! `ringlock status --hot` reads the servers repeatedly for some seconds
//! (`--for` sets how long) and reports
//!
//! - for each node the attempts per second, by how much its fence counters have
//!   grown (they count every attempt, granted or not; a write-back may raise
//!   them by more), next to what its place on the ring predicts; a node with
//!   1.5 times as many is marked. For keys with several replicas also the part
//!   of the ring with the most attempts: a single hot key shows there;
//! - for up to 500 locked keys, a sample, which of them changed holders between
//!   two reads, how often, and between which holders.
//!
//! No change of membership helps against a hot key, which only moves: split it,
//! hold it for less long, or let fewer callers request it. A node with more
//! than its share and no hot key has too much weight.
//!
//! # Events
//!
//! Events and spans go to the crate `tracing`. An event's field `event` has its
//! name; its message is for people, and may change. At INFO there are no events
//! while nothing happens to nodes or views. WARN means that an operator should
//! check; ERROR means that the fault does not go away by itself. Keys are
//! escaped, and so are texts of servers; tokens and passwords never appear.
//!
//! | target | event | level | fields | when |
//! |---|---|---|---|---|
//! | `ringlock::acquire` | `refused` | DEBUG | `key`, `error` | an attempt failed; its call may continue |
//! | `ringlock::lease` | `granted` | DEBUG | `key`, `fence`, `ttl_ms` | a lease begins |
//! | `ringlock::lease` | `extend_failed` | DEBUG | `key`, `refused` | an extend failed; the lease stays valid as long as before |
//! | `ringlock::lease` | `lost` | WARN | `key`, `fence`, `reason` | a lease ended while it was held |
//! | `ringlock::lease` | `released` | DEBUG | `key`, `fence` | its holder gives a lease back |
//! | `ringlock::lease` | `released_too_late` | WARN | `key`, `fence` | the nodes no longer had a lease that should have lasted |
//! | `ringlock::lease` | `release_unanswered` | DEBUG | `key`, `fence`, `causes` | too few nodes answered a release: it is repeated |
//! | `ringlock::lease` | `release_given_up` | DEBUG | `key` | a release did not get through; the entry's ttl frees the key |
//! | `ringlock::node` | `connected` | INFO | `node`, `address` | a server was reached and may hold locks |
//! | `ringlock::node` | `lost` | WARN | `node`, `address`, `error` | a connection broke |
//! | `ringlock::node` | `unreachable` | WARN | `node`, `address`, `error` | a server cannot be reached; repetitions are `still_out` |
//! | `ringlock::node` | `unsuitable` | WARN | `node`, `address`, `error` | a server refuses the user, or must not hold locks; repetitions are `still_out` |
//! | `ringlock::node` | `still_out` | DEBUG | `node`, `address`, `error` | the same again |
//! | `ringlock::node` | `not_durable` | WARN | `address`, `reason` | `durable = true` is configured and cannot be true |
//! | `ringlock::node` | `clock_stepped` | WARN | `address`, `step`, `bench` | a server's wall clock was stepped forward; it is asked for no lock for as long as `bench` |
//! | `ringlock::node` | `clock_stepped_back` | WARN | `address`, `step` | it was stepped back: what is locked there lasts longer |
//! | `ringlock::node` | `untracked` | WARN | `address`, `error` | the server does not notify waiters; reported once |
//! | `ringlock::node` | `tracking_lost` | DEBUG | `address`, `error` | the connection for notifications broke |
//! | `ringlock::node` | `behind` | DEBUG | `node`, `view` | a node is sent the view |
//! | `ringlock::node` | `quarantined` | WARN | `node` | a node lost its data and is quarantined |
//! | `ringlock::node` | `readmitted` | INFO | `view` | nodes are readmitted |
//! | `ringlock::node` | `not_readmitted` | ERROR | `voted`, `needed` | too few nodes can vote |
//! | `ringlock::node` | `unreadable` | WARN | `node`, `error` | a node serves something that is not a view |
//! | `ringlock::view` | `moved` | INFO | `from`, `to`, `joint` | the router uses a new view |
//! | `ringlock::view` | `first_start_waits` | INFO | `wait_ms` | a first start, or a new one, waits |
//! | `ringlock::view` | `first_start` | INFO | `view`, `adopted`, `nodes` | a new cluster has its first view |
//! | `ringlock::view` | `first_start_failed` | ERROR | `error` | a cluster that lost everything has no view yet |
//! | `ringlock::view` | `majority_lost` | ERROR | `view` | most nodes lost their data and all answer: the cluster is started again |
//! | `ringlock::view` | `mismatch` | WARN | `view`, `differences` | the configuration is not what is served |
//! | `ringlock::view` | `other_key_prefix` | ERROR | `view`, `served`, `own` | the cluster's first router has another `key_prefix`: routers with the one and with the other do not exclude each other |
//! | `ringlock::view` | `foreign` | WARN | `view` | a node belongs to another cluster |
//! | `ringlock::view` | `forced` | WARN | `abandoned` | an operator abandons nodes |
//!
//! A call of [`acquire`](crate::Router::acquire), or of a related method, has
//! the span `acquire` with target `ringlock::acquire` at DEBUG, and the fields
//! `keys` (how many), `key` (of one), `mode` (`sharded` or `quorum`),
//! `attempts`, `outcome` (as the metric has it) and `fence`; the last three
//! when they are known. A disabled span or event costs the check of a number.
