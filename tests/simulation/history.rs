//! What happened in a run, as true time has it.

use ringlock::proto::node::message::ViewId;

/// True time: nanoseconds since the run began.
pub(crate) type Time = u64;

/// One millisecond.
pub(crate) const MS: Time = 1_000_000;

/// One second.
pub(crate) const SECOND: Time = 1_000 * MS;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Deed {
    /// A client asks for a lease on a key.
    Began { lease: u64, key: usize },
    /// It has it, up to `until` by its own clock.
    Granted {
        lease: u64,
        fence: u64,
        until: Time,
        /// Whether nobody else could have been granted the key right then.
        is_exclusive: bool,
    },
    /// It has it for longer.
    Extended {
        lease: u64,
        /// When the extend began.
        began: Time,
        until: Time,
        is_exclusive: bool,
    },
    /// While it is valid, somebody else could be granted the key.
    Exposed { lease: u64 },
    /// An operator begins to release it by force, node by node.
    Forced { lease: u64 },
    /// Its holder lets go of it.
    Ended { lease: u64 },
    /// A node tells that it has the entry of a lease.
    Held { lease: u64, node: usize, nonce: u64 },
    /// A client takes a node for one that has it.
    Relied { lease: u64, node: usize, nonce: u64 },
    /// A view is served, or its proposer knows that it follows.
    Decided(ViewId),
    /// A client goes by a view.
    Moved { client: usize, epoch: u32 },
    /// A node turns somebody away up to `until`, for an entry that was last
    /// asked for up to `landed`; both by the node's clock.
    Blocked {
        node: usize,
        until: Time,
        landed: Time,
    },
    /// Nothing goes wrong any more.
    Healed,
    /// Every change is over, and every member serves the last view.
    Settled,
    /// A key was acquired after that.
    Swept { key: usize },
}

/// All that happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// When, and what.
    pub(crate) records: Vec<(Time, Deed)>,
    /// How many keys there are.
    pub(crate) keys: usize,
}

impl History {
    pub(crate) fn note(&mut self, at: Time, deed: Deed) {
        self.records.push((at, deed));
    }
}
