//! The configuration file, and the features of the crate.
//!
//! # The file
//!
//! [`Config::load`](crate::Config::load) reads a TOML file, usually named
//! `ringlock.toml`. Only the nodes are required, each with a name and a url.
//! The values below are the defaults, except for the names, the urls and the
//! `[[override]]`. A setting that is commented out is absent by default. Unknown
//! keys are refused, with the line.
//!
//! ```toml
//! [router]
//! replicas = 1                 # 1: sharded; 3, 5: quorum
//! ttl = "10s"                  # of a lease that names none
//! max_ttl = "30s"              # a change of membership, and a first start, wait it out
//! view_lease = "10s"           # how long a router relies on what a majority confirmed
//! wait = "10s"                 # how long an acquire tries
//! max_hold = "1h"              # how long a lease is kept alive at most
//! max_local_handoffs = 16      # grants of a key in a row to one process while others wait for it
//! # node_timeout = "500ms"     # how long a node may take to answer; by default 5 % of the ttl, from 50ms to 1s
//! connect_timeout = "5s"
//! key_prefix = "ringlock:"     # "" shares keys with other Redlock clients
//! namespace = "ringlock"       # ringlock's own state: ringlock!id, ringlock!m, ringlock!c, ringlock!w:…
//! init = "wait"                # a new cluster: "wait" out max_ttl, "now" if nothing was locked, "never"
//! on_mismatch = "follow"       # where the cluster serves another topology than this: "follow" it, or "refuse"
//! # label = "host:pid"         # the holder as other clients see it
//!
//! [ring]
//! format = "xxh3"              # md5, crc32, ketama, nginx: as other programs place keys
//! vnodes = 160                 # points per unit of weight
//!
//! [[node]]                     # its name is its identity; the address may change
//! name = "a"
//! url = "${REDIS_A}"           # redis://, rediss://, redis+sentinel://, unix://, memory://; ${NAME}: an environment variable
//! # username = "ringlock"      # with
//! # password_file = "/run/…"   # instead of a password in the url: read again at every connection
//! weight = 1
//! # zone = "eu-1"              # most replicas of a key are outside any one zone
//! # host = "rack7"             # no two replicas of a key share a host
//! # anchor = "z"               # the node whose place on the ring it has, because it replaced that node
//! durable = false              # true: the server keeps every write through a restart
//!
//! [[override]]
//! prefix = "billing/"
//! replicas = 3                 # needs three nodes
//! ```
//!
//! The chapter [servers](super::servers) has the full form of a url, passwords
//! that change, and the section `[tls]`. In code the same settings are the
//! fields of [`Config`](crate::Config).
//!
//! # Keys shared with other clients
//!
//! A key is also a lock for every other client that uses
//! `SET key token NX PX ttl` and compare-and-delete. With `key_prefix = ""`
//! they and ringlock exclude each other, key by key.
//!
//! # Features of the crate
//!
//! | feature | |
//! |---|---|
//! | `redis` (default) | nodes that are Redis or Valkey servers; without it, only nodes in memory |
//! | `tls` | `rediss://` nodes, by rustls |
//! | `metrics` | reports to the crate `metrics`, see [observability](super::observability) |
//! | `cli` | the [program](super::program) `ringlock` |
