//! Compatibility between versions of ringlock: what is frozen, what may change
//! when, and how to upgrade a running cluster.
//!
//! # What is frozen
//!
//! Routers of different versions work on the same servers at the same time, and
//! resources keep fences permanently. The following therefore does not change
//! within a major version, nor from 0.1 to the first 1.0:
//!
//! | what | its form |
//! |---|---|
//! | a lock | the token as a string with an expiry, under `key_prefix` and the key: 32 hex digits, then a space and the holder's label |
//! | a fence | `epoch << 44 \| counter`, below 2^63, compared as a number |
//! | `NAMESPACE!id` | the id of the view that is served, `epoch:digest`, 32 hex digits of XXH3-128 of the document |
//! | `NAMESPACE!m` | a hash: `nonce`, `inc`, `epoch`, `doc`, and for votes `promised`, `ballot`, `next`, `next_doc`; after 0.1 also `past`, the highest epoch before the present nonce, and `since`, when quarantine began in milliseconds of the server's clock. 0.1 ignores these two, and where they are missing nothing is known; `inc` is the server's `run_id/master_replid`, followed by `/evicted_keys` where that is not 0 |
//! | `NAMESPACE!c` | a hash: a counter for each slot, `replicas/arc/part` |
//! | `NAMESPACE!w:KEY` | `1` with a PX of a second: a client waits for the key. Advisory: no grant depends on it |
//! | a ballot | ten digits, a point, twenty digits: compared as text |
//! | which slot and which nodes a key has in a view | each ring format is frozen permanently, as its golden vectors record |
//!
//! What 0.1 writes is kept byte by byte in `tests/redis/upgrade/recordings`.
//! Tests check that it is read, continued and written the same.
//!
//! # What has a number
//!
//! The view document begins with `"ringlock": 1` and a plan file with
//! `"ringlock_plan": 1`, the numbers of their forms. A change of the content of
//! either needs a new number. A reader checks the number first, and reads only
//! the forms that it knows: a field that it does not know could change what a
//! lock means.
//!
//! A version that brings a new form of the view document
//! - reads the old one, and continues to write it until an operator asks for
//!   something that only the new one can express;
//! - is at least a minor version (before 1.0: a 0.x), and its changelog lists
//!   the new form.
//!
//! A router that meets a view in a form that it does not know keeps its present
//! view. Nodes that serve the newer one grant it nothing; calls fail with
//! [`TopologyError::Form`](crate::TopologyError::Form), which names both
//! numbers, inside [`Error::Config`](crate::Error::Config). Its leases expire
//! or can be released; it changes nothing on the nodes. A router that starts is
//! refused with the same error. A plan is read by the version that made it, or
//! has to be made again.
//!
//! # What may change
//!
//! | what | when |
//! |---|---|
//! | the commands and scripts that a router sends | any version: each router loads its own scripts, under their own names. What they do to stored data is frozen as above. Their bytes are recorded so that no change goes unnoticed |
//! | the configuration file | settings are added in any minor version; one is removed or changes its meaning in a major one only. A setting that a version does not know is refused, so upgrade programs before configurations |
//! | what the program prints with `--json` | fields are added in any minor version. Its exit codes are frozen within a major one. Tables and messages are for people, and may change at any time |
//! | errors, their variants and kinds | added in any version: they are `non_exhaustive` |
//! | the module [`proto`](crate::proto), and what is hidden from the documentation | any version |
//! | names and levels of log events | any minor version |
//!
//! The rest of the public interface follows [semantic
//! versioning](https://semver.org/), with 0.x in the place of a major version
//! before 1.0. The minimum Rust version is in `Cargo.toml`; it is raised in a
//! minor version only, and never to a Rust release younger than six months. The
//! oldest servers are Redis 6.2 and every Valkey; support ends in a major
//! version only.
//!
//! The cluster's name is drawn at its first start. It is followed by a slash
//! and the escaped `key_prefix` (of a long one its beginning and a digest).
//! Every version only compares names as a whole, so that this is no new form; a
//! name without a slash contains no information about the prefix.
//!
//! # A rolling upgrade
//!
//! Within one form no precaution is necessary: replace the processes one by
//! one, in any order; old and new ones exclude each other, and fences continue
//! to grow.
//!
//! Where the changelog lists a new form: first replace every process, then
//! finish or abort any change of membership, and only then use what needs the
//! new form. Until that moment a downgrade is possible. After it, old processes
//! that were forgotten are safe and do no damage: their error asks for an
//! upgrade.
//!
//! # Changing what is written
//!
//! A test of `tests/redis/upgrade` or a golden vector that fails means that what is
//! written has changed. Either that was a mistake, or it needs a new form, code
//! that reads both, a new recording next to the old one, and an entry in the
//! changelog. `RINGLOCK_RECORD=1 cargo test --test redis upgrade` and the same
//! with `--lib recorded` write the recordings again: before a first release,
//! and never over those of a released version, except for `requests/`, which
//! follow the code.
