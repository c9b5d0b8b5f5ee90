//! The program `ringlock`: its commands, and a command under a lock.
//!
//! # Commands
//!
//! `cargo install ringlock --features cli` installs the program. It reads the
//! file named by `--config` or `RINGLOCK_CONFIG`, otherwise `ringlock.toml` in
//! the current folder.
//!
//! | `ringlock …` | |
//! |---|---|
//! | `init [--now]` | gives a new cluster its first view; reports if the cluster already has it |
//! | `plan add NAME --url URL`, `plan remove`, `plan replace`, … | what a change of membership moves, which nodes must answer, how long it takes; the plan as JSON |
//! | `apply PLAN`, `resume`, `abort` | makes the change, completes it, takes it back; each may be interrupted, and an abort stops the process that carries the change out |
//! | `force --abandon NODE` | continues without nodes that are lost permanently, on your promise that they never return |
//! | `readmit [--wait] [NODE …]` | readmits nodes that lost their data, where no process runs for `max_ttl` |
//! | `status [--hot]` | what each node is and serves, and what change is under way; exit code 4 if something is wrong. With `--hot`: nodes with more than their share, and a sample of the keys that are contended for |
//! | `doctor` | every check of configuration and servers, each failure with its remedy |
//! | `route KEY` | owner, replicas, quorum and successors of a key |
//! | `ring [--plot ring.svg]` | each node's share of the keys, and a drawing of the ring |
//! | `locks [--key K] [--prefix P]` | the locks that are held, by which holder, for how long, on how many replicas |
//! | `release KEY --force` | takes a lock from its holder, which cannot get it back; never takes a newer lock than the one it found |
//! | `exec KEY -- command …` | runs a command under a lock |
//! | `bench` | compares both modes, see [benchmarks](super::benchmarks) |
//!
//! All take `--json`. `--help` lists the exit codes for scripts. The chapter
//! [membership](super::membership) has a runbook for `plan` to `readmit`.
//!
//! # A command under a lock
//!
//! `ringlock exec KEY -- command …` holds a lock while a command runs:
//!
//! ```sh
//! ringlock exec backup -n -E 0 -- pg_dump -f /backup/db.sql db   # cron: skip it if another host does it
//! ringlock exec deploy -w 300 -- sh -c 'build && upload'
//! ```
//!
//! `exec` keeps the lock alive until the command ends. The options `-n`, `-w`
//! and `-E` are those of `flock`. `exec` does not initialise a new cluster,
//! unless `--init` is given.
//!
//! | exit code | meaning | another code |
//! |---|---|---|
//! | the command's own | the command ended | |
//! | 128 + n | signal n killed the command | |
//! | 127, 126 | there is no such command; it is not executable. Both are detected before the lock is acquired | |
//! | 6 | other clients held the key | `--conflict-exit-code` (`-E`) |
//! | 7 | the lock was lost while the command ran | `--lost-exit-code` |
//! | 3 | another failure | `--failed-exit-code` |
//!
//! Choose another code where the command itself uses one of the last three.
//!
//! The lock and the command end together:
//!
//! | What happens | What the command gets |
//! |---|---|
//! | the lock is lost (taken by force, an outage longer than the ttl, `--max-hold`) | `--signal` (TERM); after `--grace` (10 s) KILL |
//! | `exec` gets TERM | TERM; after `--grace` KILL; the lock is held until then |
//! | `exec` gets INT, HUP, QUIT, USR1 or USR2 | the same signal |
//! | `exec` is killed with KILL, or by the system because memory runs out | KILL at once; the lock expires with its ttl |
//! | `exec` is stopped (Ctrl-Z, STOP) | `--signal` when the lease ends; after `--grace` KILL |
//! | the supervisor is killed | KILL at once; then the lock is released |
//!
//! In the first two cases everything that the command started gets the signal
//! too. `exec` waits until all of it has ended, and kills what is left after
//! `--grace`. When the command ends by itself, what it leaves running continues
//! without the lock. Signals that are ignored when `exec` starts stay ignored
//! (`nohup`).
//!
//! For this there is a small process between `exec` and the command, the
//! supervisor (`exec-supervisor` in the list of processes). It ends the command
//! when `exec` is gone or the lease lapses. If both are killed at the same
//! instant, Linux kills the command by its parent-death signal, but not what
//! the command started; other systems kill neither. A process that started its
//! own session, as daemons do, does not count as part of the command. One that
//! runs as another user (`sudo`) cannot be signalled. On systems other than
//! Linux only the process group of the command is known.
//!
//! In a session with a terminal the command stays in the process group of
//! `exec`: it can read the terminal, even if its input is a pipe, and Ctrl-C,
//! Ctrl-Z, `fg` and `bg` work. A stopped job keeps its lock for the ttl. When
//! it continues, it receives the signal for the loss before it does anything
//! else. Without a terminal the command leads its own process group.
//!
//! With `--grace` above zero the command may still run after the lock was lost:
//! it has the fence, in `RINGLOCK_FENCE`, for the resource that it writes to.
//! `--signal KILL` leaves it no time.
