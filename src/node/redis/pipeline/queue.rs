//! The requests that wait for a connection: those of holders go before those of
//! waiters.
//!
//! A node that is slower than its callers would keep renewals waiting behind
//! acquires until their leases lapse, and releases until they are given up. So
//! requests that prolong held leases, and those that keep the cluster together,
//! go first, and releases before acquires. Apart from that only one order
//! matters: a release never overtakes the acquire that it cleans up after.
//! While that acquire still waits, the release waits behind it.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;

use crate::node::redis::codec::request::PendingRequest;
use crate::proto::node::message::Request;
use crate::proto::time::Instant;
use crate::runtime::given_hash::GivenHash;

/// Requests that may wait in each line; one more is refused.
const MAX_LINE: usize = 65_536;

/// Requests that have not been sent yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// All requests wait in one line.
    is_literal: bool,
    /// Requests that were sent before and must be sent again in another form.
    again: VecDeque<PendingRequest>,
    /// Extends, and all requests about the node rather than a key.
    urgent: VecDeque<PendingRequest>,
    /// Releases whose acquires are not in the next line.
    releases: VecDeque<PendingRequest>,
    /// Acquires, and releases of acquires that wait there.
    ordinary: VecDeque<PendingRequest>,
    /// The tokens of these acquires, by their random bits.
    wanted: HashSet<u128, BuildHasherDefault<GivenHash>>,
    /// No request has an earlier deadline.
    expires: Instant,
}

impl Queue {
    pub(crate) fn new(is_literal: bool) -> Self {
        Self {
            is_literal,
            ..Self::default()
        }
    }

    /// Takes out all requests, the next one first.
    pub(crate) fn take_all(&mut self) -> Self {
        let empty = Self::new(self.is_literal);
        std::mem::replace(self, empty)
    }

    /// Whether `request` must be refused because too many wait already.
    pub(crate) fn is_full_for(&self, request: &Request) -> bool {
        self.line(request).len() >= MAX_LINE
    }

    fn line(&self, request: &Request) -> &VecDeque<PendingRequest> {
        match request {
            Request::Acquire { .. } => &self.ordinary,
            Request::Release { token, .. } if self.wanted.contains(&token.random()) => {
                &self.ordinary
            }
            Request::Release { .. } => &self.releases,
            _ => &self.urgent,
        }
    }

    /// Acquires that wait.
    pub(crate) fn acquires(&self) -> usize {
        self.wanted.len()
    }

    pub(crate) fn len(&self) -> usize {
        let waiting = self.again.len() + self.urgent.len();
        waiting + self.releases.len() + self.ordinary.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues a request.
    pub(crate) fn push(&mut self, pending: PendingRequest) {
        self.expect(pending.deadline);
        let line = match &pending.request {
            _ if self.is_literal => &mut self.ordinary,
            Request::Acquire { token, .. } => {
                self.wanted.insert(token.random());
                &mut self.ordinary
            }
            Request::Release { token, .. } if self.wanted.contains(&token.random()) => {
                &mut self.ordinary
            }
            Request::Release { .. } => &mut self.releases,
            _ => &mut self.urgent,
        };
        line.push_back(pending);
    }

    /// Queues requests ahead of all that wait, the first of them first.
    pub(crate) fn push_again(&mut self, requests: Vec<PendingRequest>) {
        for pending in requests.into_iter().rev() {
            self.expect(pending.deadline);
            self.again.push_front(pending);
        }
    }

    /// The next one.
    pub(crate) fn front(&self) -> Option<&PendingRequest> {
        let lines = [&self.again, &self.urgent, &self.releases, &self.ordinary];
        lines.into_iter().find_map(VecDeque::front)
    }

    /// Takes the next one.
    pub(crate) fn pop(&mut self) -> Option<PendingRequest> {
        let first = [&mut self.again, &mut self.urgent, &mut self.releases];
        let next = first.into_iter().find_map(VecDeque::pop_front);
        next.or_else(|| self.pop_ordinary())
    }

    fn pop_ordinary(&mut self) -> Option<PendingRequest> {
        let next = self.ordinary.pop_front()?;
        if let Request::Acquire { token, .. } = &next.request {
            self.wanted.remove(&token.random());
        }
        Some(next)
    }

    /// Takes the next request if it is an acquire whose answer would be too
    /// late even if it were sent now: its grant would only have to be taken
    /// back.
    pub(crate) fn pop_hopeless(&mut self, answered_at: Instant) -> Option<PendingRequest> {
        if self.len() > self.ordinary.len() {
            return None;
        }
        let front = self.ordinary.front()?;
        let is_hopeless =
            front.deadline < answered_at && matches!(front.request, Request::Acquire { .. });
        is_hopeless.then(|| self.pop_ordinary())?
    }

    /// A lower bound of the first deadline.
    pub(crate) fn expires(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.expires)
    }

    /// Takes out the requests whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<PendingRequest> {
        let mut expired = Vec::new();
        if self.is_empty() || now < self.expires {
            return expired;
        }
        let mut earliest = Instant::MAX;
        let first = [&mut self.again, &mut self.urgent, &mut self.releases];
        for line in first.into_iter().chain([&mut self.ordinary]) {
            let queued = std::mem::take(line);
            line.reserve(queued.len());
            for pending in queued {
                if pending.deadline <= now {
                    expired.push(pending);
                } else {
                    earliest = earliest.min(pending.deadline);
                    line.push_back(pending);
                }
            }
        }
        self.expires = earliest;
        for pending in &expired {
            if let Request::Acquire { token, .. } = &pending.request {
                self.wanted.remove(&token.random());
            }
        }
        expired
    }

    fn expect(&mut self, deadline: Instant) {
        self.expires = if self.is_empty() {
            deadline
        } else {
            self.expires.min(deadline)
        };
    }
}

impl IntoIterator for Queue {
    type Item = PendingRequest;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<VecDeque<PendingRequest>, 4>>;

    /// All requests, the next one first.
    fn into_iter(self) -> Self::IntoIter {
        [self.again, self.urgent, self.releases, self.ordinary]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::ReplyTo;
    use crate::proto::lease::{Key, Token, Ttl};
    use crate::proto::node::message::{FenceCounterId, IfMissing, ViewId};

    const VIEW: ViewId = ViewId {
        epoch: 1,
        digest: 7,
    };

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    fn pending(request: Request, millis: u64) -> PendingRequest {
        PendingRequest {
            request,
            deadline: at(millis),
            reply: ReplyTo::nobody(),
        }
    }

    fn ttl() -> Ttl {
        Ttl::new(Duration::from_secs(1), Duration::from_secs(1)).unwrap()
    }

    fn acquire(key: &str) -> Request {
        Request::Acquire {
            view: VIEW,
            key: Key::new(key).unwrap(),
            token: Token::new(1, None),
            ttl: ttl(),
            slot: FenceCounterId::SINGLE,
            floor: 0,
        }
    }

    fn extend(key: &str) -> Request {
        Request::Extend {
            view: VIEW,
            key: Key::new(key).unwrap(),
            token: Token::new(2, None),
            ttl: ttl(),
            slot: FenceCounterId::SINGLE,
            floor: 0,
            if_missing: IfMissing::Report,
        }
    }

    fn release(key: &str) -> Request {
        Request::Release {
            key: Key::new(key).unwrap(),
            token: Token::new(1, None),
        }
    }

    #[test]
    fn renewals_and_votes_go_first_and_a_release_behind_its_acquire() {
        let mut queue = Queue::default();
        for request in [acquire("a"), release("a"), extend("b"), Request::Status] {
            queue.push(pending(request, 9));
        }
        queue.push_again(vec![pending(acquire("c"), 9), pending(release("c"), 9)]);
        let order = [
            acquire("c"),
            release("c"),
            extend("b"),
            Request::Status,
            acquire("a"),
            release("a"),
        ];
        assert_eq!(queue.len(), order.len());
        for expected in order {
            assert_eq!(queue.front().map(|front| &front.request), Some(&expected));
            assert_eq!(queue.pop().map(|next| next.request), Some(expected));
        }
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn a_release_goes_before_all_acquires_but_its_own() {
        let mut queue = Queue::default();
        let other = Request::Release {
            key: Key::new("b").unwrap(),
            token: Token::new(7, None),
        };
        for request in [acquire("a"), release("a"), other.clone()] {
            queue.push(pending(request, 9));
        }
        for expected in [other, acquire("a"), release("a")] {
            assert_eq!(queue.pop().map(|next| next.request), Some(expected));
        }
        // A release does not wait for an acquire that was taken out.
        queue.push(pending(acquire("a"), 5));
        assert_eq!(queue.expire(at(5)).len(), 1);
        queue.push(pending(acquire("c"), 9));
        queue.push(pending(release("a"), 9));
        assert!(matches!(
            queue.front().map(|next| &next.request),
            Some(Request::Acquire { .. })
        ));
    }

    #[test]
    fn a_flood_of_acquires_leaves_room_for_renewals() {
        let mut queue = Queue::default();
        for _ in 0..MAX_LINE {
            queue.push(pending(acquire("a"), 9));
        }
        assert!(queue.is_full_for(&acquire("b")) && queue.is_full_for(&release("b")));
        assert!(!queue.is_full_for(&extend("b")) && !queue.is_full_for(&Request::Status));
    }

    #[test]
    fn acquires_that_cannot_be_answered_in_time_are_not_sent() {
        let mut queue = Queue::default();
        for (request, deadline) in [(acquire("a"), 5), (release("b"), 5), (acquire("c"), 5)] {
            queue.push(pending(request, deadline));
        }
        assert!(queue.pop_hopeless(at(5)).is_none());
        let hopeless = queue.pop_hopeless(at(6)).map(|pending| pending.request);
        assert_eq!(hopeless, Some(acquire("a")));
        assert!(queue.pop_hopeless(at(6)).is_none(), "a release is sent");
        queue.pop();
        queue.push(pending(extend("d"), 5));
        assert!(queue.pop_hopeless(at(6)).is_none(), "a renewal goes first");
    }

    #[test]
    fn late_requests_leave_every_queue() {
        let mut queue = Queue::default();
        assert_eq!(queue.expires(), None);
        for (request, deadline) in [(acquire("a"), 5), (acquire("b"), 9), (extend("c"), 5)] {
            queue.push(pending(request, deadline));
        }
        queue.push_again(vec![pending(release("d"), 7)]);
        assert_eq!(queue.expires(), Some(at(5)));
        assert!(queue.expire(at(4)).is_empty());
        assert_eq!(queue.expire(at(5)).len(), 2);
        assert_eq!((queue.len(), queue.expires()), (2, Some(at(7))));
        let left: Vec<_> = queue.into_iter().map(|pending| pending.request).collect();
        assert_eq!(left, [release("d"), acquire("b")]);
    }
}
