//! What waits for a connection: who holds a lock before who wants one.
//!
//! A node that is slower than its callers would keep renewals waiting behind
//! acquires until their leases lapse. So requests that prolong what is held,
//! and those that keep the cluster together, go ahead. Only one order matters
//! beside that: a release never overtakes the acquire that it cleans up after,
//! and both wait in one line.

use std::collections::VecDeque;

use super::lane::Pending;
use crate::proto::time::Instant;
use crate::proto::wire::Request;

/// Requests that may wait in each line; one more is refused.
const MAX_LINE: usize = 65_536;

/// Requests that are yet to be sent.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Sent before, and to be sent in another form.
    again: VecDeque<Pending>,
    /// Extends, and whatever is about the node and not about a key.
    urgent: VecDeque<Pending>,
    /// Acquires and releases.
    ordinary: VecDeque<Pending>,
    /// No request has an earlier deadline.
    expires: Instant,
}

impl Queue {
    /// Whether `request` must be refused, for too many wait already.
    pub(super) fn is_full_for(&self, request: &Request) -> bool {
        let line = if is_urgent(request) {
            &self.urgent
        } else {
            &self.ordinary
        };
        line.len() >= MAX_LINE
    }

    pub(super) fn len(&self) -> usize {
        self.again.len() + self.urgent.len() + self.ordinary.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues a request.
    pub(super) fn push(&mut self, pending: Pending) {
        self.expect(pending.deadline);
        if is_urgent(&pending.request) {
            self.urgent.push_back(pending);
        } else {
            self.ordinary.push_back(pending);
        }
    }

    /// Queues requests ahead of all that wait, the first of them first.
    pub(super) fn push_again(&mut self, requests: Vec<Pending>) {
        for pending in requests.into_iter().rev() {
            self.expect(pending.deadline);
            self.again.push_front(pending);
        }
    }

    /// The next one.
    pub(super) fn front(&self) -> Option<&Pending> {
        let lines = [&self.again, &self.urgent, &self.ordinary];
        lines.into_iter().find_map(VecDeque::front)
    }

    /// Takes the next one.
    pub(super) fn pop(&mut self) -> Option<Pending> {
        let lines = [&mut self.again, &mut self.urgent, &mut self.ordinary];
        lines.into_iter().find_map(VecDeque::pop_front)
    }

    /// When the first deadline is, at the earliest.
    pub(super) fn expires(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.expires)
    }

    /// Takes out those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Pending> {
        let mut expired = Vec::new();
        if self.is_empty() || now < self.expires {
            return expired;
        }
        let mut earliest = Instant::MAX;
        for line in [&mut self.again, &mut self.urgent, &mut self.ordinary] {
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
    type Item = Pending;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<VecDeque<Pending>, 3>>;

    /// All of them, the next one first.
    fn into_iter(self) -> Self::IntoIter {
        [self.again, self.urgent, self.ordinary]
            .into_iter()
            .flatten()
    }
}

fn is_urgent(request: &Request) -> bool {
    match request {
        Request::Acquire { .. } | Request::Release { .. } => false,
        Request::Extend { .. } => true,
        about_the_node => about_the_node.key().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::ReplyTo;
    use crate::proto::lease::{Key, Token, Ttl};
    use crate::proto::wire::{Absent, Slot, ViewId};

    const VIEW: ViewId = ViewId {
        epoch: 1,
        digest: 7,
    };

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    fn pending(request: Request, millis: u64) -> Pending {
        Pending {
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
            slot: Slot::SINGLE,
            floor: 0,
        }
    }

    fn extend(key: &str) -> Request {
        Request::Extend {
            view: VIEW,
            key: Key::new(key).unwrap(),
            token: Token::new(2, None),
            ttl: ttl(),
            slot: Slot::SINGLE,
            floor: 0,
            absent: Absent::Keep,
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
    fn a_flood_of_acquires_leaves_room_for_renewals() {
        let mut queue = Queue::default();
        for _ in 0..MAX_LINE {
            queue.push(pending(acquire("a"), 9));
        }
        assert!(queue.is_full_for(&acquire("b")) && queue.is_full_for(&release("b")));
        assert!(!queue.is_full_for(&extend("b")) && !queue.is_full_for(&Request::Status));
    }

    #[test]
    fn what_is_late_is_taken_out_of_every_line() {
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
