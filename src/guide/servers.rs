//! The servers: which will do, as which user they are spoken to, and what
//! that user must be allowed.
//!
//! # Which servers
//!
//! Redis 6.2 or newer, or Valkey: standalone primaries with `maxmemory-policy
//! noeviction`. Every connection asks for that first, and a server that will
//! not do is refused with what to change. `ringlock doctor` asks all of them
//! at once.
//!
//! # The user
//!
//! Give ringlock a user of its own, with no more rights than it needs. On
//! every server, and in its ACL file or configuration, so that it is still
//! there after a restart:
//!
//! ```text
//! ACL SETUSER ringlock on >PASSWORD resetkeys ~ringlock:* ~ringlock!* resetchannels -@all +select +info +script|load +evalsha +multi +exec +client|tracking +get +mget +set +del +pttl +pexpire +hget +hmget +hset +hdel +hincrby +time
//! ```
//!
//! Routers then have `redis://ringlock:PASSWORD@host` for a url. What the
//! commands are for:
//!
//! | commands | for what | without them |
//! |---|---|---|
//! | `info` | on every new connection, and every 50 ms while locks are asked for: which server it is, and whether it may hold locks | nothing works |
//! | `script\|load`, `evalsha` | the scripts, which extend, release and change membership | nothing works |
//! | `get` `mget` `set` `del` `pttl` `pexpire` | the locks: a script runs with the rights of who calls it | nothing works |
//! | `hget` `hmget` `hset` `hdel` `hincrby` | the view that is served, and the fence counters | nothing works |
//! | `time` | whether the server's clock was stepped | nothing works |
//! | `multi` `exec` | acquires, on servers from 7.0 on; scripts, for a second after somebody flushed them | nothing works there; what is asked in that second fails |
//! | `client\|tracking` | being told when a key may be free, and when the server's data was replaced | whoever waits polls; every batch of locks has an `info` behind it, about 10 µs of the server's time |
//! | `select` | a url with a database, `/3` | such a url is refused |
//!
//! `AUTH` and `HELLO` need no right. Nothing is published or subscribed to.
//!
//! Newer servers have commands that cost them less; they know no others by
//! name, so these come in a line of their own. What the user may not use is
//! not used:
//!
//! | servers | |
//! |---|---|
//! | Valkey 9.0 | `ACL SETUSER ringlock +delifeq` |
//! | Valkey 9.1 | `ACL SETUSER ringlock +delifeq +msetex` |
//! | Redis 8.4 | `ACL SETUSER ringlock +delex +msetex` |
//!
//! The patterns go by the configuration. `~ringlock:*` are the locks, by
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
//! it. A user that may not touch a key is told so when it is first asked for:
//! [`NodeErrorKind::Denied`](crate::NodeErrorKind::Denied).
//!
//! ## What operators need more
//!
//! The routers do without. The program's `status`, `doctor` and `locks` look at
//! the server's clock and size and at single entries, `release --force` runs
//! a script by its text, and `doctor` reads one setting of nodes that are
//! `durable`. `doctor` also tries ringlock's writes, on the keys
//! `NAMESPACE!try!id`, `!try!m` and `!try!c`, and deletes these. Give it to the
//! same user, or to another with the same patterns and commands as above:
//!
//! ```text
//! ACL SETUSER ringlock +time +dbsize +scan +getrange +eval +config|get
//! ```
//!
//! | commands | for what |
//! |---|---|
//! | `time` `dbsize` | `status`, `doctor` |
//! | `scan` `getrange` | `locks` |
//! | `eval` `getrange` | `release --force` |
//! | `config\|get` | `doctor`, of durable nodes; without it, it warns |
//!
//! # Waiting
//!
//! A router that waits for a key has one more connection to each of its nodes,
//! in the third version of the protocol. By it the server tells when the key has
//! changed (client tracking), and the router lets others know that it waits: it
//! sets `ringlock!w:KEY` for a second, at most twice a second. A router that has
//! had a key `hand_overs` times in a row reads that note, once; from then on the
//! server tells it of a change. If somebody waits, the router leaves the key
//! alone for a few round trips, longer each time that nobody takes it. If nobody
//! does, there is no pause, and no command either.
//!
//! What remains: clients other than ringlock, and older routers, leave no notes.
//! Where no notes can be read, for want of `client|tracking`, the router pauses
//! after 16, 32, … up to 1,024 grants in a row.
//!
//! A server that tracks more keys than its `tracking-table-max-keys` (a million
//! by default) says of some that they have changed although they have not. A
//! router then looks at a key at most every 8, 16, … up to 256 ms, and at 3,200
//! keys a second by one connection: a release is noticed as much later.
//!
//! # Taking a lock by force
//!
//! `ringlock release KEY --force` deletes the entries of whoever holds the key,
//! on every node, and looks again until it finds none. What is forced out stays
//! out:
//!
//! * The key is free at once: the next client that asks is granted it, under a
//!   higher fence.
//! * The holder goes on believing in its lease until it next extends it: with
//!   keep-alive within a third of its ttl (10 s of the usual 30 s), without by
//!   [`valid_until`](crate::Guard::valid_until) at the latest. Until then only
//!   resources that check the fence are safe from it.
//! * That extend finds the entry gone on a majority. The lease is lost at once,
//!   and what is left of it is released. No extend makes an entry anew before a
//!   majority has kept its own, so that the holder cannot get the key back, nor
//!   a lease that another client has come and gone under.
//!
//! An entry deleted by hand, with `DEL`, on a majority of the key's nodes has the
//! same effect; on fewer, the holder makes it anew.
//!
//! An entry *without an expiry* (`PERSIST`, or another program's `SET` without
//! `PX`) never ends by itself. Its holder's next extend gives it one again.
//! Anybody else's is told as such by the error of an acquire and by
//! `ringlock locks`, and stays until `release KEY --force` deletes it. A key that
//! holds something other than a string is no lock: `release` leaves it alone;
//! delete it with `DEL`.
//!
//! # A server that changes while connections are open
//!
//! What is asked of a server at connect must hold for every reply on that
//! connection. These changes end the connection; the server is looked at anew:
//!
//! | change | how it is seen | what calls are told | what to do |
//! |---|---|---|---|
//! | the server becomes a replica | a refused write, or a check | [`Unsuitable`](crate::NodeErrorKind::Unsuitable) | name the primary |
//! | it was a replica for a moment and is a primary again: `master_replid` differs | its data was replaced: a push. A partial resync, or none: a check | [`LostData`](crate::NodeErrorKind::LostData) | nothing: it is let in again after `max_ttl` |
//! | a server without replicas gets its first one, or has had none for `repl-backlog-ttl`: `master_replid` differs as well | a check | `LostData` | attach replicas before the first start; `repl-backlog-ttl 0` |
//! | it has evicted keys: `evicted_keys` differs | a check | `LostData` | keep `maxmemory-policy noeviction`; it is let in again after `max_ttl` |
//! | its `maxmemory-policy` is another | a check | `Unsuitable` | set it to `noeviction` |
//! | `FLUSHDB`, `FLUSHALL` or `DEBUG RELOAD` of whatever database | a push | nothing, if the server is the same; without ringlock's state it grants nothing | |
//!
//! A *push* stands in the stream of replies ahead of everything that the server
//! carried out afterwards, also when the connection was idle. No reply behind it
//! counts before the server has said again who it is. A *check* is an `INFO` on
//! the same connection. It goes ahead of a lock, a renewal or a vote when the
//! last one is older than 50 ms, so ahead of the first after a pause; behind it
//! where the server takes longer than 40 ms to answer. A reply that comes when
//! the last check is older than 100 ms waits for another.
//!
//! What remains: a change that is not pushed can go unseen for 100 ms at the
//! most, and for a lock to be given away it takes all of this within that
//! time, between two checks: a held lock is evicted, or is deleted by way of a
//! partial resync; no request of this connection is refused meanwhile; and the
//! same key is asked for. Where the user may not use `client|tracking`, every
//! reply waits for a check behind it, and nothing goes unseen. Assumed not to
//! happen: `CONFIG RESETSTAT` after an eviction and before anybody has looked,
//! `DEBUG RELOAD NOSAVE`, `SWAPDB` of ringlock's database.
//!
//! Statistics that were reset on a server that had evicted keys before count as
//! another incarnation too: it is let in again after `max_ttl`.
//!
//! # Passwords that change
//!
//! A password in the url stays as it is while a router runs. One in a file is
//! read anew at every connection:
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
//! [`Password::from_fn`](crate::Password::from_fn) for whatever else renews it.
//! Connections that are open stay open when a password changes. One that is cut
//! off logs in with what the file has then; where the server refuses that, the
//! node is out of reach until server and file agree, and the file is read again
//! at every try, every two seconds at the least. Leases are kept meanwhile as
//! through any other outage. To have none, let the server know both for a
//! while:
//!
//! ```text
//! ACL SETUSER ringlock >NEW      on every server
//!                                then change the file
//! ACL SETUSER ringlock <OLD      when the routers have had time to read it
//! ```
//!
//! A member that the configuration does not name is spoken to as the first
//! configured one that has a user, in its url or by a file.
//!
//! # Addresses
//!
//! | url | |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]` | TCP; an IPv6 address in brackets, `redis://[::1]:6379` |
//! | `rediss://…` | the same by TLS |
//! | `unix:///path[?user=…&pass=…&db=…]` | a unix socket |
//! | `redis+sentinel://…`, `rediss+sentinel://…` | wherever the primary is, see below |
//! | `memory://` | a node within the process |
//!
//! `valkey`, `valkeys`, `redis+unix` and `valkey+unix` stand for the same, as
//! with other clients; messages and views have the schemes of the table.
//!
//! In a url `%40` stands for an `@` in a password, `%2F` for a `/`, and so on,
//! and in the path of a socket `%25` for a `%`, `%3F` for a `?`, `%23` for a
//! `#`. `redis://bob@host` logs in as `bob` with an empty password, as `nopass`
//! users do, and never as the default user. A query field that ringlock does
//! not know is refused: it may be a password under another name. So is
//! `#insecure`.
//!
//! A host's addresses are tried one after the other, each a quarter of a second
//! after the one before or once that has failed (RFC 8305): one that does not
//! answer holds nothing up. An attempt to connect, with lookup, handshake,
//! login and all questions, has nine tenths of `connect_timeout`, and at least
//! two seconds; no step of it has a limit of its own.
//!
//! # When a server refuses
//!
//! | the server says | kind | |
//! |---|---|---|
//! | `LOADING`, `BUSY`, `NOREPLICAS`, `MISCONF` | [`NotReady`](crate::NodeErrorKind::NotReady) | passes by itself, or with the server's trouble |
//! | `OOM`, too many clients | [`Overloaded`](crate::NodeErrorKind::Overloaded) | likewise |
//! | `READONLY`, `MASTERDOWN`; `MOVED`, `CLUSTERDOWN` and others of clusters | [`Unsuitable`](crate::NodeErrorKind::Unsuitable) | the connection ends, and the server is verified anew |
//! | `NOAUTH`, `WRONGPASS`, `NOPERM`, `DENIED` | [`Denied`](crate::NodeErrorKind::Denied) | credentials or rights are to be changed |
//!
//! Versions have different words for these, above all within scripts; ringlock
//! goes by what is meant. `NOSCRIPT` is not told at all: after a `SCRIPT FLUSH`
//! the scripts are loaded, and what was asked is asked again.
//!
//! # TLS
//!
//! By the feature `tls`. Without settings the system's authorities are trusted.
//!
//! ```toml
//! [tls]
//! ca = "/etc/redis/ca.pem"              # instead of the system's
//! certificate = "/etc/redis/client.pem" # where servers ask for one
//! key = "/etc/redis/client.key"
//! ```
//!
//! The server's certificate must be for the host as the url has it, name or
//! IP address. One that is its own authority, as `openssl req -x509` makes it,
//! is accepted where `ca` names that very certificate; one of X.509 version 1
//! cannot say for which hosts it is, and is refused. The files are read anew at every connection: a renewed
//! certificate is shown by the next one, and no router needs to be restarted.
//!
//! # Sentinels
//!
//! ```text
//! redis+sentinel://[user:password@]host[:26379],host…/service[/db][?sentinel_user=…&sentinel_password=…]
//! ```
//!
//! User and password are the servers'; sentinels that want a login have it in
//! the query. At every connection the sentinels are asked for the primary of
//! the service, each a quarter of a second after the one before, beginning with
//! the one that answered last; the first answer counts. Together they have half
//! of the attempt's time. The server that they name is checked as every server
//! is. One that turns out to be a replica has its sentinels asked again.
//! `rediss+sentinel://` speaks TLS to both.
//!
//! **A failover is a loss of data**, for a replica may lag: the promoted server
//! grants nothing, and is let in again unattended after `max_ttl` (see
//! [membership](super::membership)). So sentinels do not spare the keys of a
//! sharded node the wait, they only spare somebody to restart the server. Where
//! keys must not wait, use three nodes and `replicas = 3`: plain servers will
//! do for that, with nothing to fail over.
//!
//! Sentinels cannot keep an old primary from going on for clients that still
//! reach it. Where there are three nodes or more that is no danger: the others
//! have voted the promoted server in, and whoever sees them goes by that. A
//! cluster of a *single* node has no others. Have its servers refuse writes once
//! their replica is gone, before the sentinels promote it:
//!
//! ```text
//! min-replicas-to-write 1
//! min-replicas-max-lag 5        # no more than down-after-milliseconds
//! ```
//!
//! and do not leave `init = "now"` in a configuration that routers start with:
//! it is your word that nothing was locked.
