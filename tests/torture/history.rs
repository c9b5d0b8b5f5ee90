//! What happened in a run, as the processes that took part wrote it down.
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

/// One call that asks for a lease, in the whole run. Its hexadecimal digits
/// are the holder label of what it leaves on the servers. The high half is the
/// worker process, the low half counts its calls.
pub(crate) type Ask = u64;

/// A record: when, by whom, what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Read when the deed was done; where it matters, [`Deed`] says on which
    /// side of the call.
    pub(crate) at: Time,
    /// The worker process; 0 is the one that runs the torture.
    pub(crate) by: u32,
    pub(crate) deed: Deed,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Deed {
    // Workers: how a lease was had.
    /// About to ask for a key; read before the call. `wait` zero: one attempt.
    Asked {
        ask: Ask,
        key: String,
        ttl: Time,
        wait: Time,
    },
    /// It has it, up to `until`; read after the call. `view` and `replicas`
    /// are what the router goes by then.
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
        /// The error as it reads.
        error: String,
    },
    /// The future was dropped before it was done; read after that.
    Abandoned { ask: Ask },

    // Workers: what became of it.
    /// The lease has moved to `until`, by itself.
    Kept { ask: Ask, until: Time },
    /// An extend by hand returned: with success up to `until`, or not.
    Extended { ask: Ask, until: Option<Time> },
    /// The holder was told that it is over; read when told.
    Lost { ask: Ask },
    /// The holder lets go: read before the release begins, or the drop.
    Ended { ask: Ask },
    /// The release came back.
    Released { ask: Ask, how: Release },

    // Workers: themselves.
    /// The process (or its runtime) did not run from `from` to the record's
    /// time: neither can it be blamed for what was due then.
    Stalled { from: Time },
    /// It goes by another view now.
    Moved { epoch: u32 },

    // The guarded resource.
    /// A write came in with this fence and was taken, or refused as stale.
    /// `believed`: the holder had looked, and its lease was valid still.
    Offered {
        ask: Ask,
        key: String,
        fence: u64,
        is_taken: bool,
        believed: bool,
    },

    // The one who looks into the servers, past every proxy.
    /// What node `node` served and held, read at once, between `from` and the
    /// record's time: the view's id, and of each key that is locked whose the
    /// entry is and how long it lasts; `None` is an entry of nobody here.
    Looked {
        node: String,
        from: Time,
        serves: Option<String>,
        entries: Vec<(String, Option<Ask>, Time)>,
    },

    // What is done to them. A fault begins when this is read, before it is
    // put in; it is over when `Mended` says so, read after it was taken out.
    /// Trouble `id` begins.
    Struck { id: u64, fault: Fault },
    /// Trouble `id` is over.
    Mended { id: u64 },
    /// A change of membership ended, or failed.
    Changed { what: String, error: Option<String> },
    /// From here on nothing goes wrong any more.
    Calm,
    /// After that, every change over: each key was asked for once.
    Swept { key: String, error: Option<String> },
}

/// Why there was no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// Somebody else has the key; also after a wait.
    Contended,
    /// Too few nodes could grant it or confirm the view; also after a wait.
    NoQuorum,
    /// Granted too late to be valid; also after a wait.
    TooSlow,
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

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// kill -9; it comes back with all its data, with a truncated log, or
    /// with none.
    Killed { node: String, back: Back },
    /// SIGSTOP of a server.
    Frozen { node: String },
    /// Its proxy passes nothing on, and holds what comes.
    Stalled { node: String },
    /// Its proxy has hung up and refuses connections.
    Cut { node: String },
    /// Its proxy swallows replies: requests arrive.
    Deaf { node: String },
    /// Its proxy delays everything by so many milliseconds.
    Slow { node: String, millis: u64 },
    /// FLUSHALL.
    Flushed { node: String },
    /// SCRIPT FLUSH.
    ScriptsFlushed { node: String },
    /// CLIENT KILL of all its clients.
    Disconnected { node: String },
    /// A replica that lagged behind has taken its place.
    Promoted { node: String },
    /// Its wall clock was stepped forward by so many milliseconds.
    Stepped { node: String, millis: u64 },
    /// It has no memory left for writes.
    Full { node: String },
    /// Its disk takes no writes.
    DiskFull { node: String },
    /// SIGSTOP of a worker.
    Paused { worker: u32 },
    /// kill -9 of a worker; another takes its place with another number.
    Slain { worker: u32 },
}

/// How a killed server comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Back {
    /// With everything: it wrote each command to disk.
    Whole,
    /// With what it had written by the last second, and that cut short.
    Truncated,
    /// With nothing.
    Empty,
}

impl Fault {
    /// The node that it befalls.
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
