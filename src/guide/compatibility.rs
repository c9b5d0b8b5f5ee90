//! What versions of ringlock have in common: what is frozen, what may change
//! when, how a cluster is upgraded while it runs.
//!
//! # What is frozen
//!
//! Routers of different versions work on the same servers at the same time, and
//! resources keep fences for ever. So these do not change within a major
//! version, nor do they from 0.1 to the first 1.0:
//!
//! | what | its form |
//! |---|---|
//! | a lock | the token as a string with an expiry, under `key_prefix` and the key: 32 hex digits, and behind a space the holder's label |
//! | a fence | `epoch << 44 \| counter`, below 2^63, compared as a number |
//! | `NAMESPACE!id` | the id of the view that is served, `epoch:digest`, 32 hex digits of XXH3-128 of the document |
//! | `NAMESPACE!m` | a hash: `nonce`, `inc`, `epoch`, `doc`, and of votes `promised`, `ballot`, `next`, `next_doc`; after 0.1 also `past`, the highest epoch before the present nonce, and `since`, when quarantine began in milliseconds of the server's clock. 0.1 passes over these two, and where they are missing nothing is known; `inc` is the server's `run_id/master_replid`, and `/evicted_keys` behind it where that is not 0 |
//! | `NAMESPACE!c` | a hash: a counter for each slot, `replicas/arc/part` |
//! | `NAMESPACE!w:KEY` | `1` with a PX of a second: somebody waits for the key. Advice, which no grant depends on |
//! | a ballot | ten digits, a point, twenty digits: compared as text |
//! | which slot and which nodes a key has in a view | each ring format for ever, as its golden vectors have it |
//!
//! What 0.1 writes is kept byte by byte in `tests/redis/upgrade/recordings`, with
//! tests that it is read, gone on with, and written the same.
//!
//! # What has a number
//!
//! The view document begins with `"ringlock": 1` and a plan file with
//! `"ringlock_plan": 1`, the numbers of their forms. Whoever changes what either
//! has in it gives it a new number. A reader looks at the number first, and
//! reads the forms that it knows and no other: a field that it does not know
//! could change what a lock means.
//!
//! A version that brings a new form of the view document
//! - reads the old one, and goes on writing it until an operator asks for what
//!   only the new one can say;
//! - is at least a minor version (before 1.0: a 0.x), and its changelog says so.
//!
//! A router that meets a view in a form that it does not know stays with the
//! view that it has. Nodes that serve the newer one grant it nothing; calls fail
//! with [`TopologyError::Form`](crate::TopologyError::Form), which names both
//! numbers, inside [`Error::Config`](crate::Error::Config). Its leases run out
//! or can be released; it changes nothing on the nodes. One that starts is
//! refused with the same error. A plan is read by the version that made it, or
//! made anew.
//!
//! # What may change
//!
//! | what | when |
//! |---|---|
//! | the commands and scripts that a router sends | any version: each router loads its own scripts, under their own names. What they do to what is stored is frozen as above. Their bytes are recorded so that no change goes unnoticed |
//! | the configuration file | settings are added in any minor version; one is taken away or means something else in a major one only. A setting that a version does not know is refused, so that configurations are upgraded after programs |
//! | what the program prints with `--json` | fields are added in any minor version. Its exit codes are frozen within a major one. Tables and messages are for people, and may change at any time |
//! | errors, their variants and kinds | added in any version: they are `non_exhaustive` |
//! | the module [`proto`](crate::proto), and what is hidden from the documentation | any version |
//! | names and levels of log events | any minor version |
//!
//! The rest of the public interface follows [semantic
//! versioning](https://semver.org/), with 0.x in the place of a major version
//! before 1.0. The oldest Rust that compiles it is in `Cargo.toml`; a newer one
//! is asked for in a minor version only, and never one younger than six months.
//! The oldest servers are Redis 6.2 and every Valkey; support ends in a major
//! version only.
//!
//! The cluster's name is drawn at its first start. A stroke and the
//! escaped `key_prefix` stand behind it (of a long one its beginning and a
//! digest). Every version compares names as a whole and no more, so that this is
//! no new form; a name without a stroke says nothing of the prefix.
//!
//! # A rolling upgrade
//!
//! Within one form nothing is to be heeded: replace the processes one by one, in
//! any order; old and new ones exclude each other, and fences go on growing.
//!
//! Where the changelog tells of a new form: first replace every process, then
//! finish or abort any change of membership, and only then use what needs the
//! new form. Until that moment the old version can be put back. After it, old
//! processes that were forgotten come to no harm and do none: they are told to
//! upgrade.
//!
//! # Changing something
//!
//! A test of `tests/upgrade` or a golden vector that fails says that what is
//! written has changed. Either that was a mistake, or it needs a new form, code
//! that reads both, a new recording beside the old one, and an entry in the
//! changelog. `RINGLOCK_RECORD=1 cargo test --test redis upgrade` and the same with
//! `--lib recorded` write recordings anew: before a first release, and never
//! over those of a version that is out; but for `requests/`, which follow the
//! code.
