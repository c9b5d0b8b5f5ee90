//! The history of a run, as recorded by the processes that took part.
//!
//! All of them run on one machine and read one clock (the one that runs during
//! suspend), so that their records can be put in one order.

use serde::{Deserialize, Serialize};

/// A reading of that clock, in nanoseconds.
pub(crate) type Time = u64;

/// One millisecond.
pub(crate) const MS: Time = 1_000_000;

/// One second.
pub(crate) const SECOND: Time = 1_000 * MS;

/// One call that requests a lease, in the whole run. Its hexadecimal digits are
/// the holder label of its entries on the servers. The high half is the worker
/// process, the low half counts its calls.
pub(crate) type Ask = u64;

/// A record: when, by which process, what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Read when the deed was done; where it matters, [`Action`] states on which
    /// side of the call.
    pub(crate) at: Time,
    /// The worker process; 0 is the one that runs the torture.
    pub(crate) by: u32,
    pub(crate) action: Action,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Action {
    // Workers: the outcome of a request.
    /// About to request a key; read before the call. `wait` zero: one attempt.
    Asked {
        ask: Ask,
        key: String,
        ttl: Time,
        wait: Time,
    },
    /// It holds the lease, up to `until`; read after the call. `view` and
    /// `replicas` are those that the router uses then.
    Granted {
        ask: Ask,
        fence: u64,
        until: Time,
        view: String,
        replicas: Vec<String>,
    },
    /// It does not get it; read after the call.
    Refused {
        ask: Ask,
        refusal: Refusal,
        view: String,
        replicas: Vec<String>,
        /// The text of the error.
        error: String,
    },
    /// The future was dropped before it was done; read after the drop.
    Abandoned { ask: Ask },

    // Workers: the course of the lease.
    /// The lease has moved to `until`, by itself.
    Kept { ask: Ask, until: Time },
    /// An extend by hand returned: with success up to `until`, or not.
    Extended { ask: Ask, until: Option<Time> },
    /// The holder learnt that it is over; read at that moment.
    Lost { ask: Ask },
    /// The holder lets go: read before the release begins, or the drop.
    Ended { ask: Ask },
    /// The release returned.
    Released { ask: Ask, how: Release },

    // Workers: themselves.
    /// The process (or its runtime) did not run from `from` to the record's
    /// time: it is not responsible for anything that was due then.
    Stalled { from: Time },
    /// It uses another view now.
    Moved { epoch: u32 },

    // The guarded resource.
    /// A write with this fence arrived and was taken, or refused as stale.
    /// `believed`: the holder had checked, and its lease was still valid.
    Offered {
        ask: Ask,
        key: String,
        fence: u64,
        is_taken: bool,
        believed: bool,
    },

    // The observer, which reads the servers past every proxy.
    /// The state of node `node`, read in one step, between `from` and the
    /// record's time: the view's id, and for each locked key the owner of the
    /// entry and its remaining time; `None` is a foreign entry.
    Looked {
        node: String,
        from: Time,
        serves: Option<String>,
        entries: Vec<(String, Option<Ask>, Time)>,
    },

    // The faults. `Struck` is read before the fault is injected, and `Mended`
    // after it is removed.
    /// Fault `id` begins.
    Struck { id: u64, fault: Fault },
    /// Fault `id` is over.
    Mended { id: u64 },
    /// A change of membership ended, or failed.
    Changed { what: String, error: Option<String> },
    /// No fault occurs from here on.
    Calm,
    /// After that, when every change is over: each key was requested once.
    Swept { key: String, error: Option<String> },
}

/// Why there was no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// Another holder has the key; also after a wait.
    Contended,
    /// Too few nodes could grant it or confirm the view; also after a wait.
    NoQuorum,
    /// Granted too late to be valid; also after a wait.
    TooSlow,
    /// A call ahead of it in its process's queue waits for another key as well.
    Behind,
    /// Anything else.
    Other,
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Release {
    InTime,
    TooLate,
    Failed,
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// kill -9; the server comes back with all its data, with a truncated log,
    /// or with none.
    Killed { node: String, back: Back },
    /// SIGSTOP of a server.
    Frozen { node: String },
    /// Its proxy forwards nothing, and holds what arrives.
    Stalled { node: String },
    /// Its proxy has hung up and refuses connections.
    Cut { node: String },
    /// Its proxy drops replies: requests arrive.
    Deaf { node: String },
    /// Its proxy delays everything by this many milliseconds.
    Slow { node: String, millis: u64 },
    /// FLUSHALL.
    Flushed { node: String },
    /// SCRIPT FLUSH.
    ScriptsFlushed { node: String },
    /// CLIENT KILL of all its clients.
    Disconnected { node: String },
    /// A replica that lagged behind has replaced it.
    Promoted { node: String },
    /// Its wall clock was stepped forward by this many milliseconds.
    Stepped { node: String, millis: u64 },
    /// It has no memory left for writes.
    Full { node: String },
    /// Its disk accepts no writes.
    DiskFull { node: String },
    /// SIGSTOP of a worker.
    Paused { worker: u32 },
    /// kill -9 of a worker; another replaces it with another number.
    Slain { worker: u32 },
}

/// How a killed server comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Back {
    /// With everything: it wrote each command to disk.
    Whole,
    /// With the data of its last write to disk, truncated.
    Truncated,
    /// With nothing.
    Empty,
}

impl Fault {
    /// The node that it concerns.
    pub(crate) fn node(&self) -> Option<&str> {
        match self {
            Self::Killed { node, .. }
            | Self::Frozen { node }
            | Self::Stalled { node }
            | Self::Cut { node }
            | Self::Deaf { node }
            | Self::Slow { node, .. }
            | Self::Flushed { node }
            | Self::ScriptsFlushed { node }
            | Self::Disconnected { node }
            | Self::Promoted { node }
            | Self::Stepped { node, .. }
            | Self::Full { node }
            | Self::DiskFull { node } => Some(node),
            Self::Paused { .. } | Self::Slain { .. } => None,
        }
    }

    /// Whether the node cannot answer while it lasts.
    pub(crate) fn silences(&self) -> bool {
        matches!(
            self,
            Self::Killed { .. }
                | Self::Frozen { .. }
                | Self::Stalled { .. }
                | Self::Cut { .. }
                | Self::Deaf { .. }
        )
    }
}
