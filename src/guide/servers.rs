//! The servers: which ones are suitable, as which user routers log in, and what
//! that user must be allowed to do.
//!
//! # Which servers
//!
//! Redis 6.2 or newer, or Valkey: standalone primaries with
//! `maxmemory-policy noeviction`. Every connection checks this first, and an
//! unsuitable server is refused with what to change. `ringlock doctor` checks
//! all of them at once.
//!
//! # The user
//!
//! Give ringlock its own user, with no further rights than it needs. Do so on
//! every server, and in its ACL file or configuration, so that the user still
//! exists after a restart:
//!
//! ```text
//! ACL SETUSER ringlock on >PASSWORD resetkeys ~ringlock:* ~ringlock!* resetchannels -@all +select +info +script|load +evalsha +multi +exec +client|tracking +get +mget +set +del +pttl +pexpire +hget +hmget +hset +hdel +hincrby +time
//! ```
//!
//! Routers then use the url `redis://ringlock:PASSWORD@host`. The purpose of
//! each command:
//!
//! | commands | purpose | without them |
//! |---|---|---|
//! | `info` | on every new connection, and every 50 ms while locks are asked for: which server it is, and whether it may hold locks | nothing works |
//! | `script\|load`, `evalsha` | the scripts, which extend, release and change membership | nothing works |
//! | `get` `mget` `set` `del` `pttl` `pexpire` | the locks: a script runs with the rights of its caller | nothing works |
//! | `hget` `hmget` `hset` `hdel` `hincrby` | the view that is served, and the fence counters | nothing works |
//! | `time` | whether the server's clock was stepped | nothing works |
//! | `multi` `exec` | acquires, on servers from 7.0 on; scripts, for a second after they were flushed | nothing works there; requests in that second fail |
//! | `client\|tracking` | notifications that a key may be free, or that the server's data was replaced | waiters poll; every batch of locks is followed by an `info`, about 10 µs of the server's time |
//! | `select` | a url with a database, `/3` | such a url is refused |
//!
//! `AUTH` and `HELLO` need no right. Nothing is published or subscribed to.
//!
//! Newer servers have cheaper commands. A server rejects names of commands that
//! it does not have, so these need separate lines. A command that the user may
//! not run is not used:
//!
//! | servers | |
//! |---|---|
//! | Valkey 9.0 | `ACL SETUSER ringlock +delifeq` |
//! | Valkey 9.1 | `ACL SETUSER ringlock +delifeq +msetex` |
//! | Redis 8.4 | `ACL SETUSER ringlock +delex +msetex` |
//!
//! The patterns follow the configuration. `~ringlock:*` are the locks, by
//! `key_prefix`; `~ringlock!*` is ringlock's own state, by `namespace`, always
//! with the `!`:
//!
//! | configured | patterns |
//! |---|---|
//! | `key_prefix = "ringlock:"`, `namespace = "ringlock"` (the defaults) | `~ringlock:* ~ringlock!*` |
//! | `key_prefix = "lock/"`, `namespace = "shop"` | `~lock/* ~shop!*` |
//! | `key_prefix = ""`, to share keys with other Redlock clients | `~ringlock!*` and a pattern for the keys, such as `~orders/*`; `~*` allows all |
//!
//! A pattern is a glob: write a `*`, `?` or `[` in a prefix with a `\` before
//! it. A user that may not access a key gets an error at the first request for
//! it: [`NodeErrorKind::Denied`](crate::NodeErrorKind::Denied).
//!
//! ## Additional rights for operators
//!
//! The routers do not need these. The program's `status`, `doctor` and `locks`
//! read the server's clock and size and single entries, `release --force` runs
//! a script by its text, and `doctor` reads one setting of nodes that are
//! `durable`. `doctor` also tries ringlock's writes, on the keys
//! `NAMESPACE!try!id`, `!try!m` and `!try!c`, and deletes these. Give the
//! rights to the same user, or to another with the same patterns and commands
//! as above:
//!
//! ```text
//! ACL SETUSER ringlock +time +dbsize +scan +getrange +eval +config|get
//! ```
//!
//! | commands | purpose |
//! |---|---|
//! | `time` `dbsize` | `status`, `doctor` |
//! | `scan` `getrange` | `locks` |
//! | `eval` `getrange` | `release --force` |
//! | `config\|get` | `doctor`, for durable nodes; without it, `doctor` warns |
//!
//! # Waiting
//!
//! A router that waits for a key has one additional connection to each of its
//! nodes, in version 3 of the protocol. On it the server notifies the router
//! when the key has changed (client tracking), and the router announces that it
//! waits: it sets `ringlock!w:KEY` for a second, at most twice a second. A
//! router that has had a key `max_local_handoffs` times in a row reads that note
//! once; from then on the server notifies it of a change. If another router
//! waits, this router leaves the key alone for a few round trips, longer each
//! time that no other router takes it. If none waits, there is no pause, and no
//! command either.
//!
//! A limit remains: clients other than ringlock, and older routers, leave no
//! notes. Where no notes can be read, because `client|tracking` is not allowed,
//! the router pauses after 16, 32, … up to 1,024 grants in a row.
//!
//! A server that tracks more keys than its `tracking-table-max-keys` (a million
//! by default) reports some keys as changed although they have not. A router
//! then checks a key at most every 8, 16, … up to 256 ms, and at most 3,200
//! keys a second per connection: a release is noticed later by as much.
//!
//! # Taking a lock by force
//!
//! `ringlock release KEY --force` deletes the entries of the key's holder on
//! every node, and checks again until it finds none. A lease that is taken by
//! force stays lost:
//!
//! * The key is free at once: the next client that asks is granted it, under a
//!   higher fence.
//! * The holder relies on its lease until it next extends it: with keep-alive
//!   within a third of its ttl (10 s of the usual 30 s), without it no later
//!   than [`valid_until`](crate::Guard::valid_until). Until then only resources
//!   that check the fence are safe from it.
//! * That extend finds the entry gone on a majority. The lease is lost at once,
//!   and what is left of it is released. No extend recreates an entry before a
//!   majority has kept its own. The holder therefore cannot get the key back,
//!   nor can a lease under which another client has acquired and released the
//!   key.
//!
//! An entry deleted by hand, with `DEL`, on a majority of the key's nodes has
//! the same effect; on fewer, the holder recreates it.
//!
//! An entry *without an expiry* (`PERSIST`, or another program's `SET` without
//! `PX`) never ends by itself. Its holder's next extend gives it an expiry
//! again. For any other entry, the error of an acquire and `ringlock locks`
//! report that it has none; it stays until `release KEY --force` deletes it. A
//! key that holds something other than a string is no lock: `release` leaves it
//! alone; delete it with `DEL`.
//!
//! # A server that changes while connections are open
//!
//! What is required of a server at connect must hold for every reply on that
//! connection. These changes end the connection; the server is then verified
//! again:
//!
//! | change | how it is detected | the error of a call | what to do |
//! |---|---|---|---|
//! | the server becomes a replica | a refused write, or a check | [`Unsuitable`](crate::NodeErrorKind::Unsuitable) | name the primary |
//! | it was a replica for a moment and is a primary again: `master_replid` differs | its data was replaced: a push. A partial resync, or none: a check | [`LostData`](crate::NodeErrorKind::LostData) | nothing: it is readmitted after `max_ttl` |
//! | a server without replicas gets its first one, or has had none for `repl-backlog-ttl`: `master_replid` differs as well | a check | `LostData` | attach replicas before the first start; `repl-backlog-ttl 0` |
//! | it has evicted keys: `evicted_keys` differs | a check | `LostData` | keep `maxmemory-policy noeviction`; it is readmitted after `max_ttl` |
//! | its `maxmemory-policy` is another | a check | `Unsuitable` | set it to `noeviction` |
//! | `FLUSHDB`, `FLUSHALL` or `DEBUG RELOAD` of any database | a push | none, if the server is the same; without ringlock's state it grants nothing | |
//!
//! A *push* arrives in the stream of replies ahead of the reply to every
//! command that the server carried out afterwards, also when the connection was
//! idle. No reply behind it counts before the server has identified itself
//! again. A *check* is an `INFO` on the same connection. It is sent ahead of a
//! lock, a renewal or a vote when the last check is older than 50 ms, so ahead
//! of the first request after a pause. It is sent behind the request where the
//! server takes longer than 40 ms to answer. A reply that arrives when the last
//! check is older than 100 ms waits for another check.
//!
//! A limit remains: a change that is not pushed can go undetected for at most
//! 100 ms. For a lock to be granted twice, all of this must happen within that
//! time, between two checks: a held lock is evicted, or is deleted by a partial
//! resync; no request of this connection is refused; and the same key is
//! requested. Where the user may not use `client|tracking`, every reply waits
//! for a check behind it, and nothing goes undetected. Assumed not to happen:
//! `CONFIG RESETSTAT` after an eviction that no check has seen yet,
//! `DEBUG RELOAD NOSAVE`, `SWAPDB` of ringlock's database.
//!
//! Statistics that were reset on a server that had evicted keys before count as
//! another incarnation too: the server is readmitted after `max_ttl`.
//!
//! # Passwords that change
//!
//! A password in the url stays as it is while a router runs. A password in a
//! file is read again at every connection:
//!
//! ```toml
//! [[node]]
//! name = "a"
//! url = "redis://10.0.0.1"
//! username = "ringlock"
//! password_file = "/run/secrets/redis"
//! ```
//!
//! In code that is [`Password::file`](crate::Password::file), or
//! [`Password::from_fn`](crate::Password::from_fn) for any other source. Open
//! connections stay open when a password changes. A connection that is lost
//! logs in again with the file's present password. Where the server refuses
//! that, the node is unreachable until server and file agree; the file is read
//! again at every try, at least two seconds apart. Leases are kept as through
//! any other outage. To avoid an outage, let the server accept both passwords
//! for a while:
//!
//! ```text
//! ACL SETUSER ringlock >NEW      on every server
//!                                then change the file
//! ACL SETUSER ringlock <OLD      when the routers have had time to read it
//! ```
//!
//! For a member that the configuration does not name, a router logs in as the
//! first configured user, from a url or a file.
//!
//! # Addresses
//!
//! | url | |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]` | TCP; an IPv6 address in brackets, `redis://[::1]:6379` |
//! | `rediss://…` | the same over TLS |
//! | `unix:///path[?user=…&pass=…&db=…]` | a unix socket |
//! | `redis+sentinel://…`, `rediss+sentinel://…` | the current primary, see below |
//! | `memory://` | a node within the process |
//!
//! `valkey`, `valkeys`, `redis+unix` and `valkey+unix` mean the same as with
//! other clients; messages and views have the schemes of the table.
//!
//! In a url `%40` stands for an `@` in a password, `%2F` for a `/`, and so on,
//! and in the path of a socket `%25` for a `%`, `%3F` for a `?`, `%23` for a
//! `#`. `redis://bob@host` logs in as `bob` with an empty password, as `nopass`
//! users do, and never as the default user. A query field that ringlock does
//! not know is refused: it may be a password under another name. So is
//! `#insecure`.
//!
//! A host's addresses are tried one after the other. Each attempt begins a
//! quarter of a second after the previous one, or as soon as that has failed
//! (RFC 8305): an address that does not answer delays nothing. An attempt to
//! connect, with lookup, handshake, login and all checks, has nine tenths of
//! `connect_timeout`, and at least two seconds; no step of it has its own
//! limit.
//!
//! # When a server refuses
//!
//! | the server's error | kind | |
//! |---|---|---|
//! | `LOADING`, `BUSY`, `NOREPLICAS`, `MISCONF` | [`NotReady`](crate::NodeErrorKind::NotReady) | passes by itself, or when the server's problem is solved |
//! | `OOM`, too many clients | [`Overloaded`](crate::NodeErrorKind::Overloaded) | likewise |
//! | `READONLY`, `MASTERDOWN`; `MOVED`, `CLUSTERDOWN` and others of clusters | [`Unsuitable`](crate::NodeErrorKind::Unsuitable) | the connection ends, and the server is verified again |
//! | `NOAUTH`, `WRONGPASS`, `NOPERM`, `DENIED` | [`Denied`](crate::NodeErrorKind::Denied) | change the credentials or rights |
//!
//! Server versions word these differently, above all within scripts; ringlock
//! classifies them by meaning. `NOSCRIPT` is never reported: after a
//! `SCRIPT FLUSH` the scripts are loaded, and the request is repeated.
//!
//! # TLS
//!
//! Requires the feature `tls`. Without settings the system's authorities are
//! trusted.
//!
//! ```toml
//! [tls]
//! ca = "/etc/redis/ca.pem"              # instead of the system's
//! certificate = "/etc/redis/client.pem" # where servers ask for one
//! key = "/etc/redis/client.key"
//! ```
//!
//! The server's certificate must be for the host as the url has it, name or IP
//! address. A self-signed certificate, as `openssl req -x509` makes it, is
//! accepted where `ca` names that very certificate. One of X.509 version 1 is
//! refused, because it cannot state for which hosts it is. The files are read
//! again at every connection: the next connection uses a renewed certificate,
//! and no router needs a restart.
//!
//! # Sentinels
//!
//! ```text
//! redis+sentinel://[user:password@]host[:26379],host…/service[/db][?sentinel_user=…&sentinel_password=…]
//! ```
//!
//! User and password are the servers'; sentinels that require a login have it
//! in the query. At every connection the sentinels are asked for the primary of
//! the service, each a quarter of a second after the previous one, beginning
//! with the one that answered last; the first answer counts. Together they have
//! half of the attempt's time. The server that they name is checked as every
//! server is. If it is a replica, its sentinels are asked again.
//! `rediss+sentinel://` uses TLS for both.
//!
//! **A failover is a loss of data**, because a replica may lag: the promoted
//! server grants nothing, and is readmitted automatically after `max_ttl` (see
//! [membership](super::membership)). So sentinels do not spare the keys of a
//! sharded node the wait; they only replace the manual restart of the server.
//! Where keys must not wait, use three nodes and `replicas = 3`: plain servers
//! are enough for that, without failover.
//!
//! Sentinels cannot stop an old primary from serving clients that still reach
//! it. Where there are three nodes or more that is no danger: the others have
//! voted the promoted server in, and a client that reaches them follows that
//! decision. A cluster of a *single* node has no others. Configure its servers
//! to refuse writes once their replica is gone, before the sentinels promote
//! it:
//!
//! ```text
//! min-replicas-to-write 1
//! min-replicas-max-lag 5        # no more than down-after-milliseconds
//! ```
//!
//! and do not leave `init = "now"` in a configuration that routers start with:
//! it is your promise that nothing was locked.
