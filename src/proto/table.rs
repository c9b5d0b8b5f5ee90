//! The executable specification of a node.
//!
//! The in-memory node, the simulator and the model checker *are* this table;
//! the Redis node is tested against it, reply by reply and state by state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lease::{Key, Token, Ttl};
use super::time::Instant;
use super::wire::{
    Absent, Incarnation, NodeStatus, Nonce, Reply, Request, Rival, Slot, Standing, ViewId,
};

/// Entries that may lie expired before they are swept out, beside as many as
/// are live.
const SWEEP_SLACK: usize = 64;

/// The state of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockTable {
    incarnation: Incarnation,
    member: Option<Member>,
    serving: Option<ViewId>,
    counters: BTreeMap<Slot, u64>,
    entries: BTreeMap<Key, Entry>,
    sweep_at: usize,
}

/// What a node knows of its stay in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    nonce: Nonce,
    stamped: Incarnation,
    view: Option<(ViewId, Arc<str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    token: Token,
    expires: Instant,
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

    /// The server starts again as `incarnation`, with the data that it has.
    pub fn restart(&mut self, incarnation: impl Into<Incarnation>) {
        self.incarnation = incarnation.into();
    }

    /// Deletes `key` behind the protocol's back.
    pub fn delete(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    /// Entries that are live at `now`, in the order of their keys.
    pub fn live(&self, now: Instant) -> impl Iterator<Item = (&Key, &Token, Instant)> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.expires > now)
            .map(|(key, entry)| (key, &entry.token, entry.expires))
    }

    /// The slots' counters that were ever used under the view that is served.
    pub fn counters(&self) -> impl Iterator<Item = (Slot, u64)> + '_ {
        self.counters.iter().map(|(&slot, &count)| (slot, count))
    }

    /// Drops what has expired. The table does so by itself, now and then.
    pub fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.expires > now);
        self.sweep_at = 2 * self.entries.len() + SWEEP_SLACK;
    }

    /// Carries out one request at `now`.
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
                absent,
            } => self.guarded(*view, |table| {
                table.extend(now, (key, token), *ttl, (*slot, *floor), *absent)
            }),
            Request::Release { key, token } => self.release(now, key, token),
            Request::Status => Reply::Status(self.status()),
            Request::Document => Reply::Document(self.document()),
            Request::Quarantine {
                expected_nonce,
                expected_view,
                nonce,
            } => self.quarantine(expected_nonce.as_ref(), *expected_view, nonce),
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
            Standing::Serving(serving) if serving == view => act(self),
            Standing::Serving(serving) => Reply::Stale(Some(serving)),
            Standing::Absent | Standing::Quarantined => Reply::Stale(None),
        }
    }

    /// Every ACQUIRE takes a count, granted or not: a batch of them then needs
    /// one increment, and gaps harm nobody.
    fn acquire(
        &mut self,
        now: Instant,
        key: &Key,
        token: &Token,
        ttl: Ttl,
        slot: Slot,
        floor: u64,
    ) -> Reply {
        let counter = self
            .counters
            .get(&slot)
            .map_or(1, |count| count + 1)
            .max(floor);
        self.counters.insert(slot, counter);
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
        (slot, floor): (Slot, u64),
        absent: Absent,
    ) -> Reply {
        let made = match (self.entry(now, key), absent) {
            (Some(entry), _) if entry.token != *token => {
                return Reply::Lost(Some(entry.rival(now)));
            }
            (None, Absent::Keep) => return Reply::Lost(None),
            (Some(entry), _) => {
                entry.raise(now, ttl);
                false
            }
            (None, Absent::Heal) => {
                self.insert(now, key, token, ttl);
                true
            }
        };
        let counter = self.counters.get(&slot).copied().unwrap_or(0).max(floor);
        self.counters.insert(slot, counter);
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

    fn status(&self) -> NodeStatus {
        NodeStatus {
            serving: self.serving,
            nonce: self.member.as_ref().map(|member| Arc::clone(&member.nonce)),
            stamped: self
                .member
                .as_ref()
                .map(|member| Arc::clone(&member.stamped)),
            incarnation: Arc::clone(&self.incarnation),
        }
    }

    fn document(&self) -> Option<Arc<str>> {
        let (_, document) = self.member.as_ref()?.view.as_ref()?;
        Some(Arc::clone(document))
    }

    fn quarantine(
        &mut self,
        expected_nonce: Option<&Nonce>,
        expected_view: Option<ViewId>,
        nonce: &Nonce,
    ) -> Reply {
        let current = self.member.as_ref().map(|member| &member.nonce);
        if current != expected_nonce || self.serving != expected_view {
            return Reply::Refused(self.status());
        }
        self.serving = None;
        self.counters.clear();
        self.member = Some(Member {
            nonce: Arc::clone(nonce),
            stamped: Arc::clone(&self.incarnation),
            view: None,
        });
        Reply::Done
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

    /// The live entry of `key`; an expired one is dropped on the way.
    fn entry(&mut self, now: Instant, key: &Key) -> Option<&mut Entry> {
        if self.entries.get(key)?.expires <= now {
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
            expires: now + ttl.get(),
        };
        self.entries.insert(key.clone(), entry);
    }
}

impl Entry {
    fn rival(&self, now: Instant) -> Rival {
        Rival {
            holder: Some(self.token.holder()),
            remaining: Some(self.expires.saturating_since(now)),
        }
    }

    /// Raises what is left to `ttl`; never lowers it, so that a late or
    /// repeated request shortens nothing.
    fn raise(&mut self, now: Instant, ttl: Ttl) {
        self.expires = self.expires.max(now + ttl.get());
    }
}
