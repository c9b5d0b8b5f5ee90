//! Gathers what waits into as few commands as may be.

use std::collections::VecDeque;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::encode::Encoding;
use super::lane::Pending;
use crate::proto::lease::{Holder, Key};
use crate::proto::time::Instant;
use crate::proto::wire::{Request, Slot, ViewId};

/// Keys of one batch at the most: as many hold a server for about 0.1 ms, and
/// a larger batch gains nothing.
pub(super) const MAX_BATCH: usize = 64;

/// A connection that has owed an answer for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(3);

/// Commands of one kind, answered together.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) requests: Vec<Pending>,
    /// Replies of the server that are still to come for it.
    pub(super) replies_due: usize,
    /// One of them was an error.
    pub(super) is_refused: bool,
    /// With it, its batch is answered.
    pub(super) ends_batch: bool,
    due: Instant,
    given_up: Instant,
}

/// What a section asks, and thus how its reply is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ACQUIRE as a transaction; the slots' counts in the order of first use.
    AcquireTransaction(ViewId, Vec<(Slot, u64)>),
    /// ACQUIRE as a script.
    AcquireScript(ViewId),
    /// EXTEND as a script.
    Extend(ViewId),
    /// RELEASE as a script.
    Release,
    /// What is left of the entries that a transaction found held.
    Remaining(Vec<Holder>),
    /// A single request of another kind.
    Control,
    /// STATUS that the connection asks for itself.
    Recheck,
    /// The loading of a script.
    Load(super::scripts::Script),
}

impl Kind {
    fn of(request: &Request, encoding: Encoding) -> Self {
        match request {
            // A transaction has no form for a floor.
            Request::Acquire { view, floor: 0, .. } if encoding == Encoding::Transaction => {
                Self::AcquireTransaction(*view, Vec::new())
            }
            Request::Acquire { view, .. } => Self::AcquireScript(*view),
            Request::Extend { view, .. } => Self::Extend(*view),
            Request::Release { .. } => Self::Release,
            _ => Self::Control,
        }
    }

    /// Whether it means something only under a view.
    pub(super) fn needs_view(&self) -> bool {
        matches!(
            self,
            Self::AcquireTransaction(..) | Self::AcquireScript(_) | Self::Extend(_)
        )
    }
}

impl Section {
    pub(super) fn new(kind: Kind, requests: Vec<Pending>, sent_at: Instant) -> Self {
        let deadlines = requests.iter().map(|pending| pending.deadline);
        let given_up = sent_at + STALL_LIMIT;
        Self {
            due: deadlines.fold(given_up, Instant::min),
            kind,
            requests,
            replies_due: 0,
            is_refused: false,
            given_up,
            ends_batch: false,
        }
    }

    /// When its first request runs out of time, or its connection.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Answers the requests whose time is over; what the server says to them
    /// later is for nobody. True if the connection is stuck.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        if now >= self.due {
            self.due = self.given_up;
            for pending in &mut self.requests {
                if pending.deadline > now {
                    self.due = self.due.min(pending.deadline);
                } else if !pending.reply.is_nobody() {
                    pending.expire();
                }
            }
        }
        now >= self.given_up
    }
}

/// What goes out at one time.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) sections: Vec<Section>,
    /// Hashes of the keys that it acquires by transaction.
    pub(super) transactions: Vec<u64>,
}

/// The batches that are in flight, as far as others must heed them.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Hashes of the keys that each acquires by transaction, the oldest first.
    transactions: VecDeque<Vec<u64>>,
    /// How many requests each consists of.
    sizes: VecDeque<usize>,
    requests: usize,
}

impl InFlight {
    /// Batches in flight.
    pub(super) fn batches(&self) -> usize {
        self.sizes.len()
    }

    /// Requests in flight.
    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    /// A batch goes out that acquires these keys by transaction.
    pub(super) fn begin(&mut self, requests: usize, transactions: Vec<u64>) {
        self.transactions.push_back(transactions);
        self.sizes.push_back(requests);
        self.requests += requests;
    }

    /// The oldest batch is answered.
    pub(super) fn end(&mut self) {
        self.transactions.pop_front();
        self.requests -= self.sizes.pop_front().unwrap_or_default();
    }

    /// Whether a request must not be sent before what is in flight is settled.
    ///
    /// An acquire by transaction may turn out to be stale and its entry to be
    /// undone. An extend that found the entry meanwhile would be told KEPT of
    /// what is deleted then; releases and other acquires come to no harm. And
    /// what changes the view must not come between an acquire and its undoing.
    fn must_wait(&self, request: &Request, hash: Option<u64>) -> bool {
        let mut transactions = self.transactions.iter().flatten();
        match (request, hash) {
            (Request::Extend { .. }, Some(hash)) => transactions.any(|&other| other == hash),
            (Request::Acquire { .. } | Request::Release { .. }, _) => false,
            (request, _) => changes_view(request) && transactions.next().is_some(),
        }
    }
}

/// Takes up to [`MAX_BATCH`] requests from the front of `queue`, sorted into
/// sections.
///
/// Sorting changes their order, so that they must not touch each other: no two
/// are for one key, and one that changes what the node serves goes alone. What
/// must wait for batches in flight, and all behind it, stays.
pub(super) fn gather(
    queue: &mut VecDeque<Pending>,
    encoding: Encoding,
    in_flight: &InFlight,
    now: Instant,
) -> Batch {
    let mut batch = Batch::default();
    let mut keys = KeySet::new();
    for taken in 0..MAX_BATCH {
        let Some(front) = queue.front() else { break };
        let request = &front.request;
        let hash = request.key().map(hash);
        let is_alone = changes_view(request);
        let fits = hash.is_none_or(|hash| keys.insert(hash)) && (taken == 0 || !is_alone);
        if !fits || in_flight.must_wait(request, hash) {
            break;
        }
        if let Some(pending) = queue.pop_front() {
            let room = (1 + queue.len()).min(MAX_BATCH - taken);
            batch.add(pending, encoding, hash, now, room);
        }
        if is_alone {
            break;
        }
    }
    batch
}

impl Batch {
    fn add(
        &mut self,
        pending: Pending,
        encoding: Encoding,
        hash: Option<u64>,
        now: Instant,
        room: usize,
    ) {
        let kind = Kind::of(&pending.request, encoding);
        if let (Kind::AcquireTransaction(..), Some(hash)) = (&kind, hash) {
            self.transactions.push(hash);
        }
        let mut sections = self.sections.iter_mut();
        match sections.find(|section| section.kind == kind && kind != Kind::Control) {
            Some(section) => {
                section.due = section.due.min(pending.deadline);
                section.requests.push(pending);
            }
            None => {
                let mut requests = Vec::with_capacity(room);
                requests.push(pending);
                self.sections.push(Section::new(kind, requests, now));
            }
        }
    }
}

fn changes_view(request: &Request) -> bool {
    matches!(
        request,
        Request::Quarantine { .. } | Request::Adopt { .. } | Request::Restamp { .. }
    )
}

fn hash(key: &Key) -> u64 {
    xxh3_64(key.as_bytes())
}

/// The keys of a batch by their hashes. Two keys of one hash pass for the same:
/// the second then goes with the next batch, which does no harm.
struct KeySet([u64; Self::PLACES]);

impl KeySet {
    /// Twice as many as there are keys, so that a free one is near.
    const PLACES: usize = 2 * MAX_BATCH;

    /// No hash, as far as the set goes.
    const FREE: u64 = 0;

    fn new() -> Self {
        Self([Self::FREE; Self::PLACES])
    }

    /// False if it is there already.
    fn insert(&mut self, hash: u64) -> bool {
        let hash = hash.max(Self::FREE + 1);
        let mut place = hash as usize % Self::PLACES;
        loop {
            match self.0[place] {
                Self::FREE => {
                    self.0[place] = hash;
                    return true;
                }
                other if other == hash => return false,
                _ => place = (place + 1) % Self::PLACES,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ReplyTo;
    use crate::proto::lease::Token;

    fn release(key: &str) -> Pending {
        let request = Request::Release {
            key: Key::new(key).unwrap(),
            token: Token::new(1, None),
        };
        pending(request)
    }

    fn pending(request: Request) -> Pending {
        Pending {
            request,
            deadline: Instant::default(),
            reply: ReplyTo::nobody(),
        }
    }

    fn taken(queue: &mut VecDeque<Pending>) -> usize {
        let batch = gather(
            queue,
            Encoding::Transaction,
            &InFlight::default(),
            Instant::default(),
        );
        batch
            .sections
            .iter()
            .map(|section| section.requests.len())
            .sum()
    }

    #[test]
    fn a_key_is_in_a_batch_once() {
        let mut queue: VecDeque<Pending> = ["a", "b", "a", "c"].map(release).into();
        assert_eq!(taken(&mut queue), 2);
        assert_eq!(taken(&mut queue), 2);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_batch_has_its_limit() {
        let mut queue: VecDeque<Pending> = (0..100).map(|i| release(&format!("k{i}"))).collect();
        assert_eq!(taken(&mut queue), MAX_BATCH);
        assert_eq!(taken(&mut queue), 100 - MAX_BATCH);
    }

    #[test]
    fn what_changes_the_view_goes_alone() {
        let restamp = || {
            pending(Request::Restamp {
                expected: "run".into(),
            })
        };
        let mut queue: VecDeque<Pending> =
            [release("a"), restamp(), restamp(), release("b")].into();
        for _ in 0..4 {
            assert_eq!(taken(&mut queue), 1);
        }
    }
}
