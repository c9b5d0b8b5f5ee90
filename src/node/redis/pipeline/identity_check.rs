//! Whether a server is still the one that was connected to.
//!
//! A server may change under an open connection: a resync replaces its data, a
//! promotion starts another history, a changed policy evicts locks. Two
//! mechanisms detect this.
//!
//! **Pushes.** Under version 3 of the protocol (RESP3), with client tracking
//! on, the server pushes an invalidation of everything when its data is flushed
//! or replaced. In the stream, the push precedes every reply to what was
//! carried out afterwards. No reply behind it is believed before the server has
//! confirmed its identity again.
//!
//! **Checks.** INFO on the same connection reads the replication history,
//! evicted keys, role and policy. A primary that becomes a replica and a
//! primary again draws a new replication id, and the count of evicted keys only
//! grows: a check whose result equals that at connect vouches for every reply
//! between the two. A check goes ahead of what relies on it when the last one
//! is older than [`CHECK_EVERY`]. Where the server does not push, or answers
//! slowly, the check goes behind, and replies wait for it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::node::redis::codec::command_group::{CommandGroup, GroupKind};
use crate::node::redis::codec::encode::identity_sections;
use crate::node::redis::connection::server_info::{Identity, lost_data};
use crate::node::redis::resp::error_reply::{ErrorReply, misfit, unexpected};
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::node::message::{FenceCounterId, NodeError, Request, ViewId};
use crate::proto::time::Instant;

/// How old the last check may be when a request that relies on it is sent.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// How old it may be when a reply is believed: an unnoticed change that was not
/// pushed happened within this span before the reply.
const MAX_AGE: Duration = Duration::from_millis(100);

/// A server that takes longer to answer is checked behind each batch: a check
/// ahead of the batch would be too old when the answers arrive.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(40);

/// Compares what a server reports about itself with its incarnation when the
/// connection was made.
///
/// # Errors
/// It is another server by now, or one that must not hold locks.
pub(crate) fn verify(
    replies: &[u8],
    with_policy: bool,
    incarnation: &[u8],
) -> Result<(), NodeError> {
    let mut identity = Identity::default();
    let mut values = Replies::of(replies);
    for _ in identity_sections(with_policy) {
        match values.next() {
            Some(Value::Bulk(text)) => identity.take_in_changing(text),
            other => return Err(unexpected(other, "INFO")),
        }
    }
    let must_say = if with_policy {
        &["role", "maxmemory_policy"][..]
    } else {
        &["role"]
    };
    if must_say.iter().any(|name| identity.fact(name).is_none()) {
        return Err(misfit("INFO"));
    }
    identity.check_role()?;
    identity.check_same(incarnation)?;
    if with_policy {
        identity.check_eviction()?;
    }
    Ok(())
}

/// Decides when the sending end has the server checked.
#[derive(Debug)]
pub(crate) struct Checks {
    is_reported: bool,
    check_at: Instant,
}

/// Where a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Ahead,
    Behind { with_policy: bool },
}

impl Checks {
    /// The server was checked at `verified_at`. If `is_reported`, it pushes what
    /// happens to its data.
    pub(crate) fn new(is_reported: bool, verified_at: Instant) -> Self {
        Self {
            is_reported,
            check_at: verified_at + CHECK_EVERY,
        }
    }

    /// Which check goes with a batch that relies on the server's identity, and
    /// is `expected` to take this long.
    pub(crate) fn due(&mut self, now: Instant, expected: Duration) -> Option<Check> {
        let is_due = now >= self.check_at;
        if is_due {
            self.check_at = now + CHECK_EVERY;
        }
        if !self.is_reported || expected > MAX_ROUND_TRIP {
            return Some(Check::Behind {
                with_policy: is_due,
            });
        }
        is_due.then_some(Check::Ahead)
    }
}

/// A group that makes a check.
pub(crate) fn check(with_policy: bool, now: Instant) -> CommandGroup {
    CommandGroup::new(GroupKind::Identity { with_policy }, Vec::new(), now)
}

/// Decides what the receiving end believes.
#[derive(Debug)]
pub(crate) struct ReplyTrust {
    is_reported: bool,
    /// When the newest check that passed was requested.
    verified_at: Instant,
    /// A push or a refusal has arrived since then.
    is_doubtful: bool,
    /// A push arrived in the middle of the replies to a check: what the check
    /// read before the push is out of date.
    is_pierced: bool,
    asked_at: Instant,
    /// Groups and their replies, in the order of arrival, that wait for a
    /// check. At most what may be in flight, and what follows from it.
    held: VecDeque<(CommandGroup, Vec<u8>)>,
}

impl ReplyTrust {
    /// See [`Checks::new`].
    pub(crate) fn new(is_reported: bool, verified_at: Instant) -> Self {
        Self {
            is_reported,
            verified_at,
            is_doubtful: false,
            is_pierced: false,
            asked_at: verified_at,
            held: VecDeque::new(),
        }
    }

    /// The server's data changed, or may have, while `front` was the next group
    /// to be answered and `read` bytes of its replies had arrived.
    pub(crate) fn doubt(&mut self, front: Option<&CommandGroup>, read: usize) {
        self.is_doubtful = true;
        self.is_pierced |= read > 0 && front.is_some_and(CommandGroup::is_check);
    }

    /// Whether the replies to this group wait for a check. Once one group
    /// waits, all later ones do: replies are settled in their order.
    pub(crate) fn must_hold(&self, group: &CommandGroup, now: Instant) -> bool {
        let is_stale = now > self.verified_at + MAX_AGE;
        !self.held.is_empty()
            || group.kind.relies_on_identity()
                && (!self.is_reported || self.is_doubtful || is_stale)
    }

    pub(crate) fn hold(&mut self, group: CommandGroup, replies: &[u8]) {
        self.held.push_back((group, replies.to_vec()));
    }

    /// A check that was requested at `asked_at` has passed.
    pub(crate) fn verified(&mut self, asked_at: Instant) {
        if !std::mem::take(&mut self.is_pierced) {
            self.is_doubtful = false;
            self.verified_at = self.verified_at.max(asked_at);
        }
    }

    /// The next of the groups that waited, if there is nothing left to wait
    /// for.
    pub(crate) fn next_believed(&mut self) -> Option<(CommandGroup, Vec<u8>)> {
        if self.is_doubtful {
            return None;
        }
        self.held.pop_front()
    }

    /// Whether to request a check, if none is in flight. Where no reply waits
    /// for it, that happens only from time to time: a server may be flushed all
    /// the time.
    pub(crate) fn wants_check(&mut self, now: Instant) -> bool {
        let wants = !self.held.is_empty() || self.is_doubtful && now >= self.asked_at + CHECK_EVERY;
        if wants {
            self.asked_at = now;
        }
        wants
    }

    /// The groups that wait for a check with their replies, the oldest first.
    pub(crate) fn waiting(&self) -> &VecDeque<(CommandGroup, Vec<u8>)> {
        &self.held
    }

    /// The groups that wait for a check.
    pub(crate) fn held(&mut self) -> impl Iterator<Item = &mut CommandGroup> {
        self.held.iter_mut().map(|(group, _)| group)
    }

    /// When the first request that waits runs out of time.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.held.iter().map(|(group, _)| group.due()).min()
    }

    pub(crate) fn into_held(self) -> impl Iterator<Item = CommandGroup> {
        self.held.into_iter().map(|(group, _)| group)
    }
}

/// The last count that a server returned for a key with a single owner, and the
/// view of that count: under one view counts only grow. Where keys have several
/// owners, a count that went back on one of them lowers no fence.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count(Option<(ViewId, u64)>);

impl Count {
    /// Records the count that a granted `request` got.
    ///
    /// # Errors
    /// The count is not higher than the one before: the counter was lost, and
    /// perhaps locks with it.
    pub(crate) fn grow(&mut self, request: &Request, counter: u64) -> Result<(), NodeError> {
        let &Request::Acquire { view, slot, .. } = request else {
            return Ok(());
        };
        if slot != FenceCounterId::SINGLE {
            return Ok(());
        }
        match self.0.replace((view, counter)) {
            Some((before, last)) if before == view && counter <= last => Err(lost_data(
                "the server has lost its fence counter, and possibly locks: keep maxmemory-policy at noeviction",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether one of the errors in `replies` may mean that the server has changed,
/// for example that it is, or briefly was, a replica.
pub(crate) fn is_upset(replies: &[u8]) -> bool {
    ErrorReply::all(replies)
        .any(|error| !error.is_no_lock() && !error.is_denial() && error.code != "NOSCRIPT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ReplyTo;
    use crate::node::redis::fuzzing::groups::group;
    use crate::proto::lease::{Key, Token, Ttl};
    use crate::proto::node::message::NodeErrorKind;

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    /// Two or three sections of INFO.
    fn info(facts: &[&str]) -> Vec<u8> {
        let bulk = |text: &&str| format!("${}\r\n{text}\r\n", text.len());
        facts.iter().map(bulk).collect::<String>().into_bytes()
    }

    #[test]
    fn what_a_check_reports() {
        const ROLE: &str = "# Replication\r\nrole:master\r\nmaster_replid:b\r\n";
        const NONE: &str = "evicted_keys:0\r\n";
        const KEEPS: &str = "maxmemory_policy:noeviction\r\n";
        let reported = |facts: &[&str], known: &str| {
            let outcome = verify(&info(facts), facts.len() == 3, known.as_bytes());
            outcome.map_err(|error| error.kind())
        };
        assert_eq!(reported(&[ROLE, NONE, KEEPS], "a/b"), Ok(()));
        assert_eq!(reported(&[ROLE, NONE], "a/b"), Ok(()));
        // A server that reports no evictions; one that had some before.
        assert_eq!(reported(&[ROLE, ""], "a/b"), Ok(()));
        assert_eq!(reported(&[ROLE, "evicted_keys:7\r\n"], "a/b/7"), Ok(()));
        let lost = Err(NodeErrorKind::LostData);
        assert_eq!(reported(&[ROLE, NONE], "a/c"), lost);
        assert_eq!(reported(&[ROLE, NONE], "a/bb"), lost);
        assert_eq!(reported(&[ROLE, "evicted_keys:7\r\n"], "a/b"), lost);
        assert_eq!(reported(&[ROLE, "evicted_keys:8\r\n"], "a/b/7"), lost);
        // The statistics were reset.
        assert_eq!(reported(&[ROLE, NONE], "a/b/7"), lost);
        let replica = "role:slave\r\nmaster_replid:b\r\n";
        let unsuitable = Err(NodeErrorKind::Unsuitable);
        assert_eq!(reported(&[replica, NONE], "a/b"), unsuitable);
        let evicts = "maxmemory_policy:volatile-ttl\r\n";
        assert_eq!(reported(&[ROLE, NONE, evicts], "a/b"), unsuitable);
        let misfit = Err(NodeErrorKind::Protocol);
        assert_eq!(reported(&["role:master\r\n", NONE], "a/b"), misfit);
        let refused = verify(b"-NOPERM no\r\n", false, b"a/b").unwrap_err();
        assert_eq!(refused.kind(), NodeErrorKind::Denied);
    }

    #[test]
    fn checks_go_ahead_sometimes_and_behind_without_pushes() {
        let quick = Duration::from_millis(1);
        let behind = |with_policy| Some(Check::Behind { with_policy });
        let mut reported = Checks::new(true, at(0));
        assert_eq!(reported.due(at(49), quick), None);
        assert_eq!(reported.due(at(50), quick), Some(Check::Ahead));
        assert_eq!(reported.due(at(99), quick), None);
        // The first after a pause.
        assert_eq!(reported.due(at(5_000), quick), Some(Check::Ahead));
        assert_eq!(
            reported.due(at(5_001), MAX_ROUND_TRIP + quick),
            behind(false)
        );
        let mut unreported = Checks::new(false, at(0));
        assert_eq!(unreported.due(at(1), quick), behind(false));
        assert_eq!(unreported.due(at(50), quick), behind(true));
        assert_eq!(unreported.due(at(51), quick), behind(false));
    }

    fn of_kind(kind: u8) -> CommandGroup {
        let keys = [Key::new("a").unwrap()];
        group(kind, &keys, &mut ReplyTo::nobody)
    }

    /// Groups by their number: an extend, a release, STATUS, a check.
    const EXTEND: u8 = 3;
    const RELEASE: u8 = 4;
    const STATUS: u8 = 11;
    const CHECK: u8 = 19;

    #[test]
    fn replies_wait_for_a_check_in_their_order() {
        let mut trust = ReplyTrust::new(true, at(0));
        let holds = |trust: &ReplyTrust, kind, millis| trust.must_hold(&of_kind(kind), at(millis));
        for kind in [EXTEND, RELEASE, STATUS] {
            assert!(!holds(&trust, kind, 100), "{kind}");
            assert_eq!(holds(&trust, kind, 101), kind != RELEASE, "{kind}");
        }
        trust.doubt(Some(&of_kind(EXTEND)), 0);
        assert!(holds(&trust, EXTEND, 1) && !holds(&trust, RELEASE, 1));
        trust.hold(of_kind(EXTEND), b"first");
        assert!(holds(&trust, RELEASE, 1), "it does not overtake");
        trust.hold(of_kind(RELEASE), b"second");
        assert!(trust.wants_check(at(1)) && trust.next_believed().is_none());
        trust.verified(at(1));
        let released: Vec<_> = std::iter::from_fn(|| trust.next_believed())
            .map(|(_, replies)| replies)
            .collect();
        assert_eq!(released, [&b"first"[..], b"second"]);
        assert!(!holds(&trust, EXTEND, 101) && holds(&trust, EXTEND, 102));
        assert!(!trust.wants_check(at(1_000)));
    }

    #[test]
    fn a_push_during_a_check_voids_it() {
        let mut trust = ReplyTrust::new(true, at(0));
        trust.doubt(Some(&of_kind(CHECK)), 9);
        trust.verified(at(1));
        assert!(trust.must_hold(&of_kind(EXTEND), at(1)));
        trust.verified(at(2));
        assert!(!trust.must_hold(&of_kind(EXTEND), at(2)));
        // A push ahead of all its replies does not void it.
        trust.doubt(Some(&of_kind(CHECK)), 0);
        trust.verified(at(3));
        assert!(!trust.must_hold(&of_kind(EXTEND), at(3)));
    }

    #[test]
    fn a_server_that_is_flushed_all_the_time_is_checked_now_and_then() {
        let mut trust = ReplyTrust::new(true, at(0));
        let mut checks = 0;
        for millis in 0..1_000 {
            trust.doubt(None, 0);
            checks += u32::from(trust.wants_check(at(millis)));
        }
        assert_eq!(checks, 19);
    }

    #[test]
    fn counts_grow_under_one_view() {
        let request = |epoch, slot| {
            let second = Duration::from_secs(1);
            Request::Acquire {
                view: ViewId { epoch, digest: 1 },
                key: Key::new("a").unwrap(),
                token: Token::new(1, None),
                ttl: Ttl::new(second, second).unwrap(),
                slot,
                floor: 0,
            }
        };
        let shared = FenceCounterId {
            replicas: 3,
            ..FenceCounterId::SINGLE
        };
        let mut count = Count::default();
        let mut grow = |epoch, slot, counter| count.grow(&request(epoch, slot), counter).is_ok();
        assert!(grow(1, FenceCounterId::SINGLE, 5) && grow(1, FenceCounterId::SINGLE, 6));
        assert!(grow(1, shared, 1), "it has a counter of its own");
        assert!(grow(2, FenceCounterId::SINGLE, 1), "it starts anew");
        assert!(!grow(2, FenceCounterId::SINGLE, 1), "an equal one");
        assert!(!grow(2, FenceCounterId::SINGLE, 0));
    }
}
