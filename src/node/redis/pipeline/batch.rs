//! Gathers waiting requests into as few commands as possible.

use std::collections::VecDeque;

use smallvec::{SmallVec, smallvec};
use xxhash_rust::xxh3::xxh3_64;

use crate::node::redis::codec::capabilities::Capabilities;
use crate::node::redis::codec::command_group::{CommandGroup, GroupKind, SlotCounts};
use crate::node::redis::codec::request::{Completions, PendingRequest};
use crate::node::redis::pipeline::queue::Queue;
use crate::proto::lease::Key;
use crate::proto::node::message::{Answer, IfMissing, NodeError, Request, ViewId};
use crate::proto::time::Instant;

/// The most keys of one batch: this many occupy a server for about 0.1 ms, and
/// a larger batch gains nothing.
pub(crate) const MAX_BATCH: usize = 64;

/// What is sent at one time.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Most have one kind, or two.
    pub(crate) groups: SmallVec<[CommandGroup; 2]>,
    pub(crate) set_keys: SetKeys,
}

/// The keys that a batch acquires by commands: until these are answered, it is not
/// known whether their entries stay.
#[derive(Debug, Default)]
pub(crate) struct SetKeys {
    keys: KeySet,
    /// The keys are set together, and may all have to be sent again.
    are_together: bool,
}

/// Whether setting keys together is worth a try: where one of them is held, the
/// try fails and costs all of them another round trip.
#[derive(Debug, Default)]
pub(crate) struct JoinBackoff {
    /// Tries to skip after each try: none while all tries succeed.
    pause: u32,
    /// How many of these have yet to be skipped.
    left: u32,
}

impl JoinBackoff {
    /// The requests that are sent again are the first to be skipped.
    const MIN_PAUSE: u32 = 2;

    /// At this rate the cost of trying is negligible.
    const MAX_PAUSE: u32 = 128;

    fn allows_a_try(&mut self) -> bool {
        let is_over = self.left == 0;
        self.left = if is_over { self.pause } else { self.left - 1 };
        is_over
    }

    /// Records whether a try succeeded.
    pub(crate) fn learn(&mut self, was_good: bool) {
        if was_good {
            self.pause /= 2;
            self.left = 0;
        } else {
            self.pause = (2 * self.pause).clamp(Self::MIN_PAUSE, Self::MAX_PAUSE);
            self.left = self.pause;
        }
    }
}

/// The batches in flight, as far as later requests depend on them.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// For each batch: the keys it sets, its number of requests, and when it
    /// was sent; the oldest first.
    batches: VecDeque<(SetKeys, usize, Instant)>,
    requests: usize,
}

impl InFlight {
    /// Batches in flight.
    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Requests in flight.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    /// A batch of `requests` requests is sent, which sets these keys.
    pub(crate) fn begin(&mut self, requests: usize, set_keys: SetKeys, now: Instant) {
        self.batches.push_back((set_keys, requests, now));
        self.requests += requests;
    }

    /// The oldest batch is answered. Returns its size, and when it was sent.
    pub(crate) fn end(&mut self) -> Option<(usize, Instant)> {
        let (_, requests, sent_at) = self.batches.pop_front()?;
        self.requests -= requests;
        Some((requests, sent_at))
    }

    /// Whether a request must not be sent before what is in flight is settled.
    ///
    /// An acquire by commands may turn out to be stale, and its entry is
    /// then undone. An extend that found the entry before that would be
    /// answered KEPT for an entry that is deleted afterwards. Releases and
    /// other acquires are not affected. A request that changes the view must
    /// not come between an acquire and its undoing. But an acquire that may
    /// have to be sent again must not be overtaken by any request for its key,
    /// least of all by the release that cleans up after it.
    fn must_wait(&self, request: &Request, hash: Option<u64>) -> bool {
        let mut batches = self.batches.iter().map(|(set_keys, ..)| set_keys);
        match (request, hash) {
            (Request::Extend { .. }, Some(hash)) => batches.any(|batch| batch.keys.has(hash)),
            (_, Some(hash)) => batches.any(|batch| batch.are_together && batch.keys.has(hash)),
            (request, None) => changes_view(request) && batches.any(|batch| !batch.keys.is_empty()),
        }
    }
}

/// Takes up to [`MAX_BATCH`] requests from the front of `queue`, sorted into
/// groups.
///
/// Sorting changes their order, so they must be independent: no two are for one
/// key, and one that changes what the node serves goes alone. A request that
/// must wait for batches in flight stays, with all behind it.
pub(crate) fn gather(
    queue: &mut Queue,
    capabilities: Capabilities,
    served: Option<ViewId>,
    in_flight: &InFlight,
    now: Instant,
) -> Batch {
    let mut batch = Batch::default();
    let mut keys = KeySet::with_room(queue.len().min(MAX_BATCH));
    for taken in 0..MAX_BATCH {
        let Some(front) = queue.front() else { break };
        let request = &front.request;
        let hash = request.key().map(hash);
        let is_alone = changes_view(request);
        let fits = hash.is_none_or(|hash| keys.insert(hash)) && (taken == 0 || !is_alone);
        if !fits || in_flight.must_wait(request, hash) {
            break;
        }
        if let Some(pending) = queue.pop() {
            let room = (1 + queue.len()).min(MAX_BATCH - taken);
            let kind = GroupKind::of(&pending.request, capabilities, served);
            batch.add(pending, kind, hash, now, room);
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
        pending: PendingRequest,
        kind: GroupKind,
        hash: Option<u64>,
        now: Instant,
        room: usize,
    ) {
        if let (GroupKind::AcquireCommands(..), Some(hash)) = (&kind, hash) {
            let keys = &mut self.set_keys.keys;
            if keys.is_empty() {
                *keys = KeySet::with_room(room);
            }
            keys.insert(hash);
        }
        let mut groups = self.groups.iter_mut();
        match groups.find(|group| group.kind == kind && kind != GroupKind::Control) {
            Some(group) => group.push(pending),
            None => {
                let mut requests = Vec::with_capacity(room);
                requests.push(pending);
                self.groups.push(CommandGroup::new(kind, requests, now));
            }
        }
    }

    /// Prevents the batch from making entries: acquires are answered with
    /// `refusal`, and extends keep what is there.
    pub(crate) fn make_none(&mut self, refusal: NodeError, answers: &mut Completions) {
        self.turn_away(GroupKind::acquires, &Err(refusal), answers);
        let requests = self.groups.iter_mut().flat_map(|group| &mut group.requests);
        for pending in requests {
            if let Request::Extend { if_missing, .. } = &mut pending.request {
                *if_missing = IfMissing::Report;
            }
        }
    }

    /// Answers the groups that must not be sent, and removes them.
    pub(crate) fn turn_away(
        &mut self,
        is_void: impl Fn(&GroupKind) -> bool,
        answer: &Answer,
        answers: &mut Completions,
    ) {
        self.groups.retain_mut(|group| {
            let is_void = is_void(&group.kind);
            if is_void {
                let requests = group.requests.drain(..);
                answers.extend(requests.map(|pending| (pending.reply, answer.clone())));
            }
            !is_void
        });
    }

    /// Has acquires set their keys together, where that is possible and worth a
    /// try.
    pub(crate) fn join(&mut self, join_backoff: &mut JoinBackoff) {
        for group in &mut self.groups {
            if let GroupKind::AcquireCommands(view, _) = group.kind
                && group.can_be_joined()
                && join_backoff.allows_a_try()
            {
                group.kind = GroupKind::AcquireTogether(view, SlotCounts::new());
                self.set_keys.are_together = true;
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
    xxh3_64(key.as_bytes()).max(KeySet::FREE + 1)
}

/// The keys of a batch by their hashes. Two keys with the same hash count as
/// the same key: the second then goes with a later batch, which does no harm.
#[derive(Debug, Default)]
struct KeySet(SmallVec<[u64; KeySet::INLINE]>);

impl KeySet {
    /// The places of a few keys need no allocation.
    const INLINE: usize = 8;

    /// Marks a place without a hash: no key has this one.
    const FREE: u64 = 0;

    /// Room for this many keys. There are at least twice as many places, so that
    /// a free one is near, and a power of two of them.
    fn with_room(keys: usize) -> Self {
        Self(smallvec![Self::FREE; (2 * keys).next_power_of_two()])
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, hash: u64) -> bool {
        !self.is_empty() && self.0[self.place(hash)] != Self::FREE
    }

    /// Returns false if the hash is there already.
    fn insert(&mut self, hash: u64) -> bool {
        let place = self.place(hash);
        std::mem::replace(&mut self.0[place], hash) == Self::FREE
    }

    /// The place of `hash`, or the free place for it.
    fn place(&self, hash: u64) -> usize {
        let mask = self.0.len() - 1;
        let mut place = hash as usize & mask;
        while self.0[place] != Self::FREE && self.0[place] != hash {
            place = (place + 1) & mask;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ReplyTo;
    use crate::proto::lease::Token;

    fn release(key: &str) -> PendingRequest {
        let request = Request::Release {
            key: Key::new(key).unwrap(),
            token: Token::new(1, None),
        };
        pending(request)
    }

    fn pending(request: Request) -> PendingRequest {
        PendingRequest {
            request,
            deadline: Instant::default(),
            reply: ReplyTo::nobody(),
        }
    }

    fn queued(requests: impl IntoIterator<Item = PendingRequest>) -> Queue {
        let mut queue = Queue::default();
        requests.into_iter().for_each(|pending| queue.push(pending));
        queue
    }

    fn taken(queue: &mut Queue) -> usize {
        let batch = gather(
            queue,
            Capabilities::default(),
            None,
            &InFlight::default(),
            Instant::default(),
        );
        batch.groups.iter().map(|group| group.requests.len()).sum()
    }

    #[test]
    fn a_key_is_in_a_batch_once() {
        let mut queue = queued(["a", "b", "a", "c"].map(release));
        assert_eq!(taken(&mut queue), 2);
        assert_eq!(taken(&mut queue), 2);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_batch_has_its_limit() {
        let mut queue = queued((0..100).map(|i| release(&format!("k{i}"))));
        assert_eq!(taken(&mut queue), MAX_BATCH);
        assert_eq!(taken(&mut queue), 100 - MAX_BATCH);
    }

    #[test]
    fn setting_together_is_tried_more_and_more_seldom() {
        let mut join_backoff = JoinBackoff::default();
        let skipped = |join_backoff: &mut JoinBackoff| {
            let tries = std::iter::repeat_with(|| join_backoff.allows_a_try());
            tries.take_while(|is_allowed| !is_allowed).count()
        };
        for pause in [0, 2, 4, 8, 16, 32, 64, 128, 128] {
            assert_eq!(skipped(&mut join_backoff), pause);
            join_backoff.learn(false);
        }
        assert_eq!(skipped(&mut join_backoff), 128);
        // There is no other try until the outcome is known.
        assert_eq!(skipped(&mut join_backoff), 128);
        for _ in 0..8 {
            join_backoff.learn(true);
            assert!(join_backoff.allows_a_try());
        }
        assert!(join_backoff.allows_a_try());
    }

    #[test]
    fn what_changes_the_view_goes_alone() {
        let restamp = || {
            pending(Request::Restamp {
                expected: "run".into(),
            })
        };
        let restamps = || [restamp(), restamp()];
        let mut queue = queued(restamps());
        for _ in 0..2 {
            assert_eq!(taken(&mut queue), 1);
        }
        // The same holds while other requests wait.
        let mut queue = queued(restamps().into_iter().chain([release("a"), release("b")]));
        for expected in [1, 1, 2] {
            assert_eq!(taken(&mut queue), expected);
        }
    }
}
