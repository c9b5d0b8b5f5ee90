//! The events of a run, in true time.

use ringlock_proto::node::message::ViewId;

/// True time: nanoseconds since the run began.
pub(crate) type Time = u64;

/// One millisecond.
pub(crate) const MS: Time = 1_000_000;

/// One second.
pub(crate) const SECOND: Time = 1_000 * MS;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// A client requests a lease on a key.
    Began { lease: u64, key: usize },
    /// It has the lease, up to `until` by its own clock.
    Granted {
        lease: u64,
        fence: u64,
        until: Time,
        /// Whether no other client could have been granted the key at that moment.
        is_exclusive: bool,
    },
    /// It has the lease for longer.
    Extended {
        lease: u64,
        /// When the extend began.
        began: Time,
        until: Time,
        is_exclusive: bool,
    },
    /// While it is valid, another client could be granted the key.
    Exposed { lease: u64 },
    /// An operator begins to release it by force, node by node.
    Forced { lease: u64 },
    /// Its holder releases it.
    Ended { lease: u64 },
    /// A node reports that it has the entry of a lease.
    Held { lease: u64, node: usize, nonce: u64 },
    /// A client assumes that a node has the entry.
    Relied { lease: u64, node: usize, nonce: u64 },
    /// A view is served, or its proposer knows that it follows.
    Decided(ViewId),
    /// A client uses a view.
    Moved { client: usize, epoch: u32 },
    /// A node refuses a client up to `until`, because of an entry that was last
    /// requested up to `landed`; both by the node's clock.
    Blocked {
        node: usize,
        until: Time,
        landed: Time,
    },
    /// From now on no fault occurs.
    Healed,
    /// Every change is over, and every member serves the last view.
    Settled,
    /// A key was acquired after that.
    Swept { key: usize },
}

/// All events, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Time and event.
    pub(crate) records: Vec<(Time, Action)>,
    /// Number of keys.
    pub(crate) keys: usize,
}

impl History {
    pub(crate) fn note(&mut self, at: Time, action: Action) {
        self.records.push((at, action));
    }
}
