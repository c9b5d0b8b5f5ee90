//! The executable specification of a node.
//!
//! The in-memory node, the simulator and the model checker *are* this table;
//! the Redis node is tested against it, reply by reply and state by state.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lease::{Key, Token, Ttl};
use crate::node::message::{
    Accepted, Ballot, CurrentHolder, FenceCounterId, IfMissing, Incarnation, NodeState, NodeStatus,
    Nonce, PriorState, Reply, Request, ViewId,
};
use crate::time::Instant;

/// Expired entries allowed before a sweep, in addition to as many as there are
/// live entries.
const SWEEP_SLACK: usize = 64;

/// The state of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockTable {
    incarnation: Incarnation,
    member: Option<Member>,
    serving: Option<ViewId>,
    counters: BTreeMap<FenceCounterId, u64>,
    entries: BTreeMap<Key, Entry>,
    sweep_at: usize,
}

/// A node's membership state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    nonce: Nonce,
    stamped: Incarnation,
    /// Start of the current quarantine, across all its nonces.
    since: Option<Instant>,
    /// The highest epoch served before the quarantine. A new start uses a higher
    /// one. ADOPT does not check it, so that a server from another cluster can join
    /// one with lower epochs.
    past: u32,
    view: Option<(ViewId, Arc<str>)>,
    /// For the view that follows, no lower ballot is accepted.
    promised: Option<Ballot>,
    accepted: Option<Accepted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    token: Token,
    /// `None`: never. No request of this crate creates such an entry.
    expires: Option<Instant>,
}

impl LockTable {
    /// An empty node of this incarnation: *absent*, it grants nothing.
    pub fn new(incarnation: impl Into<Incarnation>) -> Self {
        Self {
            incarnation: incarnation.into(),
            member: None,
            serving: None,
            counters: BTreeMap::new(),
            entries: BTreeMap::new(),
            sweep_at: SWEEP_SLACK,
        }
    }

    /// Restarts the server as `incarnation`, with its data kept.
    pub fn restart(&mut self, incarnation: impl Into<Incarnation>) {
        self.incarnation = incarnation.into();
    }

    /// Deletes `key` outside the protocol.
    pub fn delete(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    /// Removes the expiry of the entry under `key` outside the protocol, as PERSIST
    /// does; or creates an entry without one, as another client's SET without PX
    /// does.
    pub fn persist(&mut self, now: Instant, key: &Key, token: &Token) {
        match self.entry(now, key) {
            Some(entry) => entry.expires = None,
            None => {
                let entry = Entry {
                    token: token.clone(),
                    expires: None,
                };
                self.entries.insert(key.clone(), entry);
            }
        }
    }

    /// The first part of an ACQUIRE that a server carries out in parts: makes the
    /// entry if `key` is free. Returns whether it did.
    pub fn set_if_free(&mut self, now: Instant, key: &Key, token: &Token, ttl: Ttl) -> bool {
        let is_free = self.entry(now, key).is_none();
        if is_free {
            self.insert(now, key, token, ttl);
        }
        is_free
    }

    /// Takes a count of `slot`, at least `floor`: the second part.
    pub fn count(&mut self, slot: FenceCounterId, floor: u64) -> u64 {
        let last = self.counters.get(&slot).copied().unwrap_or(0);
        let counter = (last + 1).max(floor);
        self.counters.insert(slot, counter);
        counter
    }

    /// Whether `key` is held at `now`.
    pub fn is_held(&self, key: &Key, now: Instant) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.is_live(now))
    }

    /// Entries that are live at `now`, ordered by key, each with its expiry if it
    /// has one.
    pub fn live(&self, now: Instant) -> impl Iterator<Item = (&Key, &Token, Option<Instant>)> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.is_live(now))
            .map(|(key, entry)| (key, &entry.token, entry.expires))
    }

    /// The counters of the slots that were used under the served view.
    pub fn counters(&self) -> impl Iterator<Item = (FenceCounterId, u64)> + '_ {
        self.counters.iter().map(|(&slot, &count)| (slot, count))
    }

    /// Drops expired entries. The table also does so by itself from time to time.
    pub fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.is_live(now));
        self.sweep_at = 2 * self.entries.len() + SWEEP_SLACK;
    }

    /// Executes one request at `now`.
    pub fn apply(&mut self, now: Instant, request: &Request) -> Reply {
        match request {
            Request::Acquire {
                view,
                key,
                token,
                ttl,
                slot,
                floor,
            } => self.guarded(*view, |table| {
                table.acquire(now, key, token, *ttl, *slot, *floor)
            }),
            Request::Extend {
                view,
                key,
                token,
                ttl,
                slot,
                floor,
                if_missing,
            } => self.guarded(*view, |table| {
                table.extend(now, (key, token), *ttl, (*slot, *floor), *if_missing)
            }),
            Request::Release { key, token } => self.release(now, key, token),
            Request::Status => Reply::Status(self.status()),
            Request::Document => Reply::Document(self.document()),
            Request::PriorState => Reply::PriorState(self.past(now)),
            Request::Quarantine {
                expected_nonce,
                expected_view,
                nonce,
            } => self.quarantine(now, expected_nonce.as_ref(), *expected_view, nonce),
            Request::Prepare { view, ballot } => self.prepare(*view, *ballot),
            Request::Accept {
                view,
                ballot,
                next,
                document,
            } => self.accept(*view, *ballot, *next, document),
            Request::Adopt {
                view,
                document,
                nonce,
            } => self.adopt(*view, document, nonce),
            Request::Restamp { expected } => self.restamp(expected),
        }
    }

    fn guarded(&mut self, view: ViewId, act: impl FnOnce(&mut Self) -> Reply) -> Reply {
        match self.status().standing() {
            NodeState::Serving(serving) if serving == view => act(self),
            NodeState::Serving(serving) => Reply::Stale(Some(serving)),
            NodeState::Absent | NodeState::Quarantined => Reply::Stale(None),
        }
    }

    /// Every ACQUIRE takes a count, granted or not: a batch then needs one
    /// increment, and gaps are harmless.
    fn acquire(
        &mut self,
        now: Instant,
        key: &Key,
        token: &Token,
        ttl: Ttl,
        slot: FenceCounterId,
        floor: u64,
    ) -> Reply {
        let counter = self.count(slot, floor);
        match self.entry(now, key) {
            Some(entry) if entry.token != *token => Reply::Busy(entry.rival(now)),
            Some(entry) => {
                entry.raise(now, ttl);
                Reply::Granted { counter }
            }
            None => {
                self.insert(now, key, token, ttl);
                Reply::Granted { counter }
            }
        }
    }

    fn extend(
        &mut self,
        now: Instant,
        (key, token): (&Key, &Token),
        ttl: Ttl,
        (slot, floor): (FenceCounterId, u64),
        if_missing: IfMissing,
    ) -> Reply {
        let made = match (self.entry(now, key), if_missing) {
            (Some(entry), _) if entry.token != *token => {
                return Reply::Lost(Some(entry.rival(now)));
            }
            (None, IfMissing::Report) => return Reply::Lost(None),
            (Some(entry), _) => {
                entry.raise(now, ttl);
                false
            }
            (None, IfMissing::Recreate) => {
                self.insert(now, key, token, ttl);
                true
            }
        };
        let count = self.counters.get(&slot).copied().unwrap_or(0);
        let counter = count.max(floor);
        if counter > count {
            self.counters.insert(slot, counter);
        }
        if made {
            Reply::Made { counter }
        } else {
            Reply::Kept { counter }
        }
    }

    fn release(&mut self, now: Instant, key: &Key, token: &Token) -> Reply {
        match self.entry(now, key) {
            None => Reply::Missing,
            Some(entry) if entry.token != *token => Reply::Foreign,
            Some(_) => {
                self.entries.remove(key);
                Reply::Released
            }
        }
    }

    fn status(&self) -> Box<NodeStatus> {
        Box::new(NodeStatus {
            serving: self.serving,
            nonce: self.member.as_ref().map(|member| Arc::clone(&member.nonce)),
            stamped: self
                .member
                .as_ref()
                .map(|member| Arc::clone(&member.stamped)),
            incarnation: Arc::clone(&self.incarnation),
        })
    }

    fn document(&self) -> Option<Arc<str>> {
        let (_, document) = self.member.as_ref()?.view.as_ref()?;
        Some(Arc::clone(document))
    }

    fn past(&self, now: Instant) -> PriorState {
        let since = match self.status().standing() {
            NodeState::Quarantined => self.member.as_ref().and_then(|member| member.since),
            NodeState::Absent | NodeState::Serving(_) => None,
        };
        PriorState {
            epoch: self.member.as_ref().map_or(0, Member::epoch),
            quarantined_for: since.map(|since| now.saturating_since(since)),
        }
    }

    /// A node already in quarantine keeps its start time: a process that takes over
    /// from another initialiser need not wait again.
    fn quarantine(
        &mut self,
        now: Instant,
        expected_nonce: Option<&Nonce>,
        expected_view: Option<ViewId>,
        nonce: &Nonce,
    ) -> Reply {
        let current = self.member.as_ref().map(|member| &member.nonce);
        if current != expected_nonce || self.serving != expected_view {
            return Reply::Refused(self.status());
        }
        let before = match self.status().standing() {
            NodeState::Quarantined => self.member.as_ref().and_then(|member| member.since),
            NodeState::Absent | NodeState::Serving(_) => None,
        };
        self.serving = None;
        self.counters.clear();
        self.member = Some(Member {
            since: Some(before.unwrap_or(now)),
            past: self.member.as_ref().map_or(0, Member::epoch),
            nonce: Arc::clone(nonce),
            stamped: Arc::clone(&self.incarnation),
            view: None,
            promised: None,
            accepted: None,
        });
        Reply::Done
    }

    fn prepare(&mut self, view: ViewId, ballot: Ballot) -> Reply {
        self.vote(view, ballot, |member| {
            Reply::Promised(member.accepted.clone().map(Box::new))
        })
    }

    fn accept(&mut self, view: ViewId, ballot: Ballot, next: ViewId, document: &Arc<str>) -> Reply {
        self.vote(view, ballot, |member| {
            member.accepted = Some(Accepted {
                ballot,
                view: next,
                document: Arc::clone(document),
            });
            Reply::Done
        })
    }

    /// Also promises `ballot`, unless a higher one was promised before.
    fn vote(
        &mut self,
        view: ViewId,
        ballot: Ballot,
        act: impl FnOnce(&mut Member) -> Reply,
    ) -> Reply {
        let serves = self.status().standing() == NodeState::Serving(view);
        match &mut self.member {
            Some(member) if serves => match member.promised {
                Some(promised) if promised > ballot => Reply::Preempted(promised),
                _ => {
                    member.promised = Some(ballot);
                    act(member)
                }
            },
            _ => Reply::Refused(self.status()),
        }
    }

    fn adopt(&mut self, view: ViewId, document: &Arc<str>, nonce: &Nonce) -> Reply {
        let incarnation = &self.incarnation;
        match &mut self.member {
            Some(member) if member.nonce == *nonce && member.stamped == *incarnation => {
                if member
                    .view
                    .as_ref()
                    .is_none_or(|(own, _)| own.epoch < view.epoch)
                {
                    member.view = Some((view, Arc::clone(document)));
                    member.since = None;
                    member.promised = None;
                    member.accepted = None;
                    self.serving = Some(view);
                    self.counters.clear();
                }
                Reply::Done
            }
            _ => Reply::Refused(self.status()),
        }
    }

    fn restamp(&mut self, expected: &Incarnation) -> Reply {
        match &mut self.member {
            Some(member) if member.stamped == *expected => {
                member.stamped = Arc::clone(&self.incarnation);
                Reply::Done
            }
            _ => Reply::Refused(self.status()),
        }
    }

    /// The live entry of `key`; drops an expired one.
    fn entry(&mut self, now: Instant, key: &Key) -> Option<&mut Entry> {
        if !self.entries.get(key)?.is_live(now) {
            self.entries.remove(key);
        }
        self.entries.get_mut(key)
    }

    fn insert(&mut self, now: Instant, key: &Key, token: &Token, ttl: Ttl) {
        if self.entries.len() >= self.sweep_at {
            self.sweep(now);
        }
        let entry = Entry {
            token: token.clone(),
            expires: Some(now + ttl.get()),
        };
        self.entries.insert(key.clone(), entry);
    }
}

impl Member {
    /// The highest epoch that the node has served.
    fn epoch(&self) -> u32 {
        let served = self.view.as_ref().map_or(0, |(view, _)| view.epoch);
        served.max(self.past)
    }
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }

    fn rival(&self, now: Instant) -> CurrentHolder {
        let left = |expires: Instant| expires.saturating_since(now);
        CurrentHolder::new(self.token.holder(), self.expires.map(left))
    }

    /// Raises the remaining life to `ttl`; never lowers it, so that a late or
    /// repeated request shortens nothing. The one exception: an entry that has lost
    /// its expiry gets one again, since it would otherwise outlive its holder forever.
    fn raise(&mut self, now: Instant, ttl: Ttl) {
        let end = now + ttl.get();
        self.expires = Some(self.expires.map_or(end, |expires| expires.max(end)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const VIEW: ViewId = ViewId {
        epoch: 5,
        digest: 55,
    };
    const TTL: u64 = 10;

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    fn ttl(secs: u64) -> Ttl {
        let most = Duration::from_secs(3600);
        Ttl::new(Duration::from_secs(secs), most).unwrap()
    }

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    fn token(of: u128) -> Token {
        Token::new(of, None)
    }

    fn quarantine(table: &mut LockTable, nonce: &str) -> Reply {
        let NodeStatus {
            nonce: expected_nonce,
            serving: expected_view,
            ..
        } = *table.status();
        table.apply(
            at(0),
            &Request::Quarantine {
                expected_nonce,
                expected_view,
                nonce: nonce.into(),
            },
        )
    }

    fn adopt(table: &mut LockTable, view: ViewId, nonce: &str) -> Reply {
        table.apply(
            at(0),
            &Request::Adopt {
                view,
                document: format!("document of {view}").into(),
                nonce: nonce.into(),
            },
        )
    }

    /// A node that serves [`VIEW`] under the nonce `n`, incarnation `run-1`.
    fn serving() -> LockTable {
        let mut table = LockTable::new("run-1");
        assert_eq!(quarantine(&mut table, "n"), Reply::Done);
        assert_eq!(adopt(&mut table, VIEW, "n"), Reply::Done);
        table
    }

    fn acquire(table: &mut LockTable, now: u64, of: u128, secs: u64) -> Reply {
        acquire_from(table, now, of, secs, 0)
    }

    fn acquire_from(table: &mut LockTable, now: u64, of: u128, secs: u64, floor: u64) -> Reply {
        table.apply(
            at(now),
            &Request::Acquire {
                view: VIEW,
                key: key(),
                token: token(of),
                ttl: ttl(secs),
                slot: FenceCounterId::SINGLE,
                floor,
            },
        )
    }

    fn extend(
        table: &mut LockTable,
        now: u64,
        of: u128,
        secs: u64,
        if_missing: IfMissing,
    ) -> Reply {
        extend_from(table, now, (of, secs), if_missing, 0)
    }

    fn extend_from(
        table: &mut LockTable,
        now: u64,
        (of, secs): (u128, u64),
        if_missing: IfMissing,
        floor: u64,
    ) -> Reply {
        table.apply(
            at(now),
            &Request::Extend {
                view: VIEW,
                key: key(),
                token: token(of),
                ttl: ttl(secs),
                slot: FenceCounterId::SINGLE,
                floor,
                if_missing,
            },
        )
    }

    fn release(table: &mut LockTable, now: u64, of: u128) -> Reply {
        let (key, token) = (key(), token(of));
        table.apply(at(now), &Request::Release { key, token })
    }

    fn held(table: &LockTable, now: u64) -> Vec<(Token, Instant)> {
        let live = table.live(at(now));
        live.map(|(_, token, end)| (token.clone(), end.unwrap()))
            .collect()
    }

    #[test]
    fn a_key_has_one_holder_until_it_expires() {
        let mut table = serving();
        assert_eq!(
            acquire(&mut table, 0, 1, TTL),
            Reply::Granted { counter: 1 }
        );
        let busy = acquire(&mut table, 4, 2, TTL);
        let Reply::Busy(rival) = busy else {
            panic!("{busy:?}")
        };
        assert_eq!(rival.remaining, Some(Duration::from_secs(6)));
        // The refused one took a count as well: a batch needs a single increment.
        assert_eq!(
            acquire(&mut table, TTL, 2, TTL),
            Reply::Granted { counter: 3 }
        );
    }

    #[test]
    fn every_acquire_takes_a_count_and_none_below_the_floor() {
        let mut table = serving();
        assert_eq!(
            acquire_from(&mut table, 0, 1, TTL, 7),
            Reply::Granted { counter: 7 }
        );
        assert_eq!(
            acquire(&mut table, 0, 1, TTL),
            Reply::Granted { counter: 8 }
        );
        assert!(matches!(acquire(&mut table, 0, 2, TTL), Reply::Busy(_)));
        let counters: Vec<_> = table.counters().collect();
        assert_eq!(counters, [(FenceCounterId::SINGLE, 9)]);
    }

    #[test]
    fn no_operation_shortens_an_own_entry() {
        let mut table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        let entry = vec![(token(1), at(TTL))];
        let _ = acquire(&mut table, 1, 1, 2);
        assert_eq!(held(&table, 1), entry);
        for if_missing in [IfMissing::Report, IfMissing::Recreate] {
            let kept = extend(&mut table, 1, 1, 2, if_missing);
            assert!(matches!(kept, Reply::Kept { .. }));
            assert_eq!(held(&table, 1), entry);
        }
        let _ = extend(&mut table, 1, 1, TTL, IfMissing::Report);
        assert_eq!(held(&table, 1), [(token(1), at(TTL + 1))]);
    }

    #[test]
    fn an_own_entry_without_expiry_gets_one_again() {
        type Ask = fn(&mut LockTable, u64) -> Reply;
        let asks: [Ask; 3] = [
            |table, now| acquire(table, now, 1, 2),
            |table, now| extend(table, now, 1, 2, IfMissing::Report),
            |table, now| extend(table, now, 1, 2, IfMissing::Recreate),
        ];
        for ask in asks {
            let mut table = serving();
            let _ = acquire(&mut table, 0, 1, TTL);
            table.persist(at(0), &key(), &token(1));
            assert!(table.is_held(&key(), at(100 * TTL)));
            let reply = ask(&mut table, 1);
            assert!(matches!(reply, Reply::Granted { .. } | Reply::Kept { .. }));
            // The one case in which a holder's own entry is shortened.
            assert_eq!(held(&table, 1), [(token(1), at(3))]);
        }
        let mut table = serving();
        table.persist(at(0), &key(), &token(1));
        assert_eq!(release(&mut table, 9, 1), Reply::Released);
    }

    #[test]
    fn another_holders_entry_without_expiry_is_reported_and_left_alone() {
        let mut table = serving();
        table.persist(at(0), &key(), &token(2));
        for reply in [
            acquire(&mut table, 1, 1, TTL),
            extend(&mut table, 1, 1, TTL, IfMissing::Recreate),
        ] {
            let (Reply::Busy(rival) | Reply::Lost(Some(rival))) = reply else {
                panic!("{reply:?}")
            };
            assert_eq!(rival.remaining, None);
            assert!(rival.holder.unwrap().never_expires());
        }
        table.sweep(at(100 * TTL));
        assert!(table.is_held(&key(), at(100 * TTL)));
        assert_eq!(release(&mut table, 1, 1), Reply::Foreign);
    }

    #[test]
    fn an_extend_finds_its_entry_or_heals_it_or_has_lost_it() {
        let mut table = serving();
        let lost = extend(&mut table, 0, 1, TTL, IfMissing::Report);
        assert_eq!(lost, Reply::Lost(None));
        assert!(held(&table, 0).is_empty());
        let made = extend_from(&mut table, 0, (1, TTL), IfMissing::Recreate, 4);
        assert_eq!(made, Reply::Made { counter: 4 });
        let kept = extend_from(&mut table, 0, (1, TTL), IfMissing::Report, 2);
        assert_eq!(kept, Reply::Kept { counter: 4 });
        for if_missing in [IfMissing::Report, IfMissing::Recreate] {
            let lost = extend_from(&mut table, 1, (2, TTL), if_missing, 99);
            assert!(matches!(lost, Reply::Lost(Some(_))));
        }
        // A request that does not own the entry raises no counter either.
        let counters: Vec<_> = table.counters().collect();
        assert_eq!(counters, [(FenceCounterId::SINGLE, 4)]);
        assert_eq!(held(&table, 0), [(token(1), at(TTL))]);
    }

    #[test]
    fn a_release_looks_at_the_token_alone() {
        let mut table = serving();
        assert_eq!(release(&mut table, 0, 1), Reply::Missing);
        let _ = acquire(&mut table, 0, 1, TTL);
        assert_eq!(release(&mut table, 0, 2), Reply::Foreign);
        assert_eq!(held(&table, 0).len(), 1);
        // A release works whatever view the node serves, and when it serves none.
        table.restart("run-2");
        assert_eq!(acquire(&mut table, 0, 1, TTL), Reply::Stale(None));
        assert_eq!(release(&mut table, 0, 1), Reply::Released);
        table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        let _ = quarantine(&mut table, "n2");
        assert_eq!(release(&mut table, TTL, 1), Reply::Missing);
    }

    #[test]
    fn another_view_learns_what_is_served_and_nothing_is_done() {
        let mut table = serving();
        let next = ViewId {
            epoch: 6,
            digest: 66,
        };
        assert_eq!(adopt(&mut table, next, "n"), Reply::Done);
        let before = table.clone();
        let stale = Reply::Stale(Some(next));
        assert_eq!(acquire(&mut table, 0, 1, TTL), stale);
        for if_missing in [IfMissing::Report, IfMissing::Recreate] {
            assert_eq!(extend(&mut table, 0, 1, TTL, if_missing), stale);
        }
        assert_eq!(table, before);
    }

    #[test]
    fn an_absent_or_quarantined_node_grants_nothing() {
        let mut table = LockTable::new("run-1");
        assert_eq!(acquire(&mut table, 0, 1, TTL), Reply::Stale(None));
        let _ = quarantine(&mut table, "n");
        assert_eq!(acquire(&mut table, 0, 1, TTL), Reply::Stale(None));
        let healed = extend(&mut table, 0, 1, TTL, IfMissing::Recreate);
        assert_eq!(healed, Reply::Stale(None));
        assert!(held(&table, 0).is_empty());
    }

    #[test]
    fn a_restart_grants_nothing_until_it_is_stamped_again() {
        let mut table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        table.restart("run-2");
        assert_eq!(acquire(&mut table, 0, 1, TTL), Reply::Stale(None));
        let restamp = |expected: &str| Request::Restamp {
            expected: expected.into(),
        };
        assert!(matches!(
            table.apply(at(0), &restamp("run-0")),
            Reply::Refused(_)
        ));
        assert_eq!(table.apply(at(0), &restamp("run-1")), Reply::Done);
        assert_eq!(
            acquire(&mut table, 0, 1, TTL),
            Reply::Granted { counter: 2 }
        );
    }

    #[test]
    fn adopting_needs_the_nonce_and_the_incarnation() {
        let mut table = LockTable::new("run-1");
        assert!(matches!(adopt(&mut table, VIEW, "n"), Reply::Refused(_)));
        let _ = quarantine(&mut table, "n");
        assert!(matches!(adopt(&mut table, VIEW, "m"), Reply::Refused(_)));
        table.restart("run-2");
        assert!(matches!(adopt(&mut table, VIEW, "n"), Reply::Refused(_)));
        assert_eq!(table.status().standing(), NodeState::Absent);
        // A second loss replaces the nonce: a request sent for the first is too late.
        let _ = quarantine(&mut table, "n2");
        assert!(matches!(adopt(&mut table, VIEW, "n"), Reply::Refused(_)));
        assert_eq!(adopt(&mut table, VIEW, "n2"), Reply::Done);
        assert_eq!(table.status().standing(), NodeState::Serving(VIEW));
    }

    #[test]
    fn epochs_jump_up_and_never_down() {
        let mut table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        let far = ViewId {
            epoch: 2000,
            digest: 1,
        };
        let twin = ViewId {
            epoch: 2000,
            digest: 2,
        };
        assert_eq!(adopt(&mut table, far, "n"), Reply::Done);
        assert_eq!(table.status().serving, Some(far));
        // The counters restart, since the epoch leads the fence; entries stay.
        assert_eq!(table.counters().count(), 0);
        assert_eq!(held(&table, 0).len(), 1);
        for older in [VIEW, twin, far] {
            assert_eq!(adopt(&mut table, older, "n"), Reply::Done);
            assert_eq!(table.status().serving, Some(far));
        }
        let document = table.apply(at(0), &Request::Document);
        assert_eq!(
            document,
            Reply::Document(Some(format!("document of {far}").into()))
        );
    }

    #[test]
    fn quarantine_is_a_compare_and_set() {
        let mut table = serving();
        let quarantine = |nonce: Option<&str>, view| Request::Quarantine {
            expected_nonce: nonce.map(Into::into),
            expected_view: view,
            nonce: "mine".into(),
        };
        let before = table.clone();
        for request in [
            quarantine(None, None),
            quarantine(Some("n"), None),
            quarantine(None, Some(VIEW)),
            quarantine(Some("m"), Some(VIEW)),
        ] {
            assert!(matches!(table.apply(at(0), &request), Reply::Refused(_)));
            assert_eq!(table, before);
        }
        let request = quarantine(Some("n"), Some(VIEW));
        assert_eq!(table.apply(at(0), &request), Reply::Done);
        assert_eq!(table.status().standing(), NodeState::Quarantined);
        assert_eq!(
            table.apply(at(0), &Request::Document),
            Reply::Document(None)
        );
        // Of two requests based on the same state, the second is refused.
        assert!(matches!(table.apply(at(0), &request), Reply::Refused(_)));
    }

    fn past(table: &mut LockTable, now: u64) -> (u32, Option<u64>) {
        let Reply::PriorState(past) = table.apply(at(now), &Request::PriorState) else {
            panic!("PAST is answered by a past");
        };
        (past.epoch, past.quarantined_for.map(|span| span.as_secs()))
    }

    fn quarantine_at(table: &mut LockTable, now: u64, nonce: &str) {
        let status = table.status();
        let request = Request::Quarantine {
            expected_nonce: status.nonce,
            expected_view: status.serving,
            nonce: nonce.into(),
        };
        assert_eq!(table.apply(at(now), &request), Reply::Done);
    }

    #[test]
    fn quarantine_remembers_since_when_and_the_highest_epoch() {
        let mut table = LockTable::new("run-1");
        assert_eq!(past(&mut table, 9), (0, None));
        quarantine_at(&mut table, 10, "a");
        assert_eq!(past(&mut table, 12), (0, Some(2)));
        // A process that takes over continues the same quarantine time.
        quarantine_at(&mut table, 15, "b");
        assert_eq!(past(&mut table, 16), (0, Some(6)));
        // A clock that was set back gives no information.
        assert_eq!(past(&mut table, 3), (0, Some(0)));
        assert_eq!(adopt(&mut table, VIEW, "b"), Reply::Done);
        assert_eq!(past(&mut table, 20), (5, None));
        // The node has served in between.
        quarantine_at(&mut table, 30, "c");
        assert_eq!(past(&mut table, 31), (5, Some(1)));
        let lower = ViewId {
            epoch: 3,
            digest: 3,
        };
        assert_eq!(adopt(&mut table, lower, "c"), Reply::Done);
        assert_eq!(table.status().serving, Some(lower));
        assert_eq!(past(&mut table, 40), (5, None));
        quarantine_at(&mut table, 50, "d");
        table.restart("run-2");
        // A quarantine of another incarnation does not count.
        assert_eq!(past(&mut table, 60), (5, None));
        quarantine_at(&mut table, 70, "e");
        assert_eq!(past(&mut table, 71), (5, Some(1)));
    }

    #[test]
    fn quarantine_keeps_the_entries() {
        let mut table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        let _ = quarantine(&mut table, "n2");
        assert_eq!(held(&table, 0), [(token(1), at(TTL))]);
    }

    #[test]
    fn sweeping_drops_only_what_has_expired() {
        let mut table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        let before = table.clone();
        table.sweep(at(TTL - 1));
        assert_eq!(table.entries, before.entries);
        table.sweep(at(TTL));
        assert!(table.entries.is_empty());
        assert_eq!(table.counters, before.counters);
    }

    #[test]
    fn a_table_of_short_entries_does_not_grow() {
        let mut table = serving();
        for now in 0..1000 {
            let request = Request::Acquire {
                view: VIEW,
                key: Key::new(format!("k{now}")).unwrap(),
                token: token(1),
                ttl: ttl(1),
                slot: FenceCounterId::SINGLE,
                floor: 0,
            };
            let _ = table.apply(at(now), &request);
        }
        assert!(table.entries.len() <= SWEEP_SLACK + 2);
    }

    #[test]
    fn slots_count_apart() {
        let mut table = serving();
        let _ = acquire(&mut table, 0, 1, TTL);
        let other = FenceCounterId {
            replicas: 3,
            arc: 1,
            part: 0,
        };
        let request = Request::Acquire {
            view: VIEW,
            key: Key::new("other").unwrap(),
            token: token(2),
            ttl: ttl(TTL),
            slot: other,
            floor: 0,
        };
        let granted = table.apply(at(0), &request);
        assert_eq!(granted, Reply::Granted { counter: 1 });
    }

    const NEXT: ViewId = ViewId {
        epoch: 6,
        digest: 66,
    };

    fn ballot(round: u32) -> Ballot {
        Ballot { round, proposer: 9 }
    }

    fn prepare(table: &mut LockTable, round: u32) -> Reply {
        let ballot = ballot(round);
        table.apply(at(0), &Request::Prepare { view: VIEW, ballot })
    }

    fn accept(table: &mut LockTable, round: u32, document: &str) -> Reply {
        table.apply(
            at(0),
            &Request::Accept {
                view: VIEW,
                ballot: ballot(round),
                next: NEXT,
                document: document.into(),
            },
        )
    }

    fn accepted(round: u32, document: &str) -> Option<Accepted> {
        Some(Accepted {
            ballot: ballot(round),
            view: NEXT,
            document: document.into(),
        })
    }

    #[test]
    fn a_promise_keeps_lower_ballots_out_and_reports_what_was_accepted() {
        let mut table = serving();
        assert_eq!(prepare(&mut table, 2), Reply::Promised(None));
        assert_eq!(prepare(&mut table, 1), Reply::Preempted(ballot(2)));
        assert_eq!(accept(&mut table, 1, "a"), Reply::Preempted(ballot(2)));
        assert_eq!(prepare(&mut table, 2), Reply::Promised(None));
        assert_eq!(accept(&mut table, 2, "a"), Reply::Done);
        assert_eq!(
            prepare(&mut table, 3),
            Reply::Promised(accepted(2, "a").map(Box::new))
        );
        // An ACCEPT is also a promise.
        assert_eq!(accept(&mut table, 5, "b"), Reply::Done);
        assert_eq!(prepare(&mut table, 4), Reply::Preempted(ballot(5)));
        assert_eq!(
            prepare(&mut table, 5),
            Reply::Promised(accepted(5, "b").map(Box::new))
        );
    }

    #[test]
    fn a_vote_is_only_for_what_follows_the_view_that_is_served() {
        let mut table = serving();
        let _ = accept(&mut table, 7, "a");
        assert_eq!(adopt(&mut table, NEXT, "n"), Reply::Done);
        assert!(matches!(prepare(&mut table, 8), Reply::Refused(_)));
        assert!(matches!(accept(&mut table, 8, "b"), Reply::Refused(_)));
        // The next decision starts without promises.
        let request = Request::Prepare {
            view: NEXT,
            ballot: ballot(1),
        };
        assert_eq!(table.apply(at(0), &request), Reply::Promised(None));
    }

    #[test]
    fn a_node_that_may_have_lost_its_promises_has_no_vote() {
        let mut table = serving();
        table.restart("run-2");
        assert!(matches!(prepare(&mut table, 1), Reply::Refused(_)));
        let mut table = serving();
        let _ = quarantine(&mut table, "n2");
        assert!(matches!(accept(&mut table, 1, "a"), Reply::Refused(_)));
    }
}
