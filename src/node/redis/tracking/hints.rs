//! What a tracking connection knows about keys in addition to their watches:
//! notes of waiters, and looks that found no change.
//!
//! A note is a key of its own under the namespace: `ns!w:` and the lock's key.
//! Its writer lets it expire. It is read once and tracked from then on: the
//! server pushes its change, so a process whose keys have no other waiter asks
//! nothing. Notes are advice, like everything that a tracking connection
//! reports.
//!
//! A server that tracks more keys than it may remember forgets some, and pushes
//! an invalidation for each, as if it had changed. When the key is read again,
//! it is tracked again and another one is forgotten: without a bound each look
//! causes the next. A look is futile if it finds the same holder as the one
//! before. The look after it is delayed, longer each time.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::node::Interest;
use crate::proto::backoff::Backoff;
use crate::proto::lease::Key;
use crate::proto::time::Instant;

/// How long a note lasts unless it is written again.
pub(crate) const NOTE_LIFE: Duration = Duration::from_secs(1);

/// Notes, and keys of one kind, that are kept before old ones are purged.
const LEAST_KEPT: usize = 256;

/// Looks after a futile one that a connection makes at once …
const LOOKS_AT_ONCE: usize = 32;

/// … and the least time between two such rounds: 3,200 looks a second.
const LOOKS_APART: Duration = Duration::from_millis(10);

/// Hints about the keys of one server.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    hasher: RandomState,
    /// This process's own notes, and until when they need not be written again.
    left: HashMap<Key, Instant>,
    left_purge: usize,
    /// What was read of other processes' notes.
    notes: HashMap<Key, Note>,
    notes_purge: usize,
    /// The last look at each key that has a waiter.
    looks: HashMap<Key, KeyLook>,
    looks_purge: usize,
    /// Keys to look at again, by time; each key once.
    due: BTreeMap<(Instant, u64), Key>,
    numbers: u64,
    /// No key is read again before this time.
    rests_until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Note {
    /// The server has been asked.
    Asked,
    /// There was none, and the server pushes when one is written.
    Absent,
    /// There was one, which counts until this time.
    Present(Instant),
}

#[derive(Clone, Copy, Debug)]
struct KeyLook {
    /// A digest of the stored value.
    value: u64,
    /// Consecutive looks that found the same value as the one before.
    in_vain: u32,
    at: Instant,
    is_due: bool,
}

impl Hints {
    /// Whether a note for `key` must be written.
    pub(crate) fn leave(&mut self, key: &Key, now: Instant) -> bool {
        if self.left.get(key).is_some_and(|&until| now < until) {
            return false;
        }
        if self.left.len() >= self.left_purge {
            self.left.retain(|_, until| now < *until);
            self.left_purge = 2 * self.left.len() + LEAST_KEPT;
        }
        self.left.insert(key.clone(), now + NOTE_LIFE / 2);
        true
    }

    /// What is known of other processes' notes for `key`, and whether to ask
    /// for them.
    pub(crate) fn interest(&mut self, key: &Key, now: Instant) -> (Interest, bool) {
        match self.notes.get(key) {
            Some(Note::Absent) => return (Interest::Nobody, false),
            Some(Note::Asked) => return (Interest::Unknown, false),
            Some(Note::Present(until)) if now < *until => return (Interest::Somebody, false),
            _ => {}
        }
        if self.notes.len() >= self.notes_purge {
            // What is forgotten is asked for again when needed.
            self.notes.retain(|_, note| *note == Note::Asked);
            self.notes_purge = 2 * self.notes.len() + LEAST_KEPT;
        }
        self.notes.insert(key.clone(), Note::Asked);
        (Interest::Unknown, true)
    }

    /// The server's answer about notes for `key`.
    pub(crate) fn noted(&mut self, key: Key, is_there: Option<bool>, now: Instant) {
        match is_there {
            Some(true) => self.notes.insert(key, Note::Present(now + NOTE_LIFE / 2)),
            Some(false) => self.notes.insert(key, Note::Absent),
            None => self.notes.remove(&key),
        };
    }

    /// A note for `key` was written or has expired.
    pub(crate) fn note_changed(&mut self, key: &Key) {
        // If the server has been asked, its answer is newer than this change.
        if self.notes.get(key) != Some(&Note::Asked) {
            self.notes.remove(key);
        }
    }

    /// A look at `key` found it held; `stored` is its value.
    pub(crate) fn held(&mut self, key: &Key, stored: &[u8], now: Instant) {
        let value = self.hasher.hash_one(stored);
        let before = self.looks.get(key).filter(|look| look.value == value);
        let look = KeyLook {
            value,
            in_vain: before.map_or(0, |look| look.in_vain.saturating_add(1)),
            at: now,
            is_due: false,
        };
        self.looks.insert(key.clone(), look);
    }

    /// A look at `key` found it free.
    pub(crate) fn free(&mut self, key: &Key) {
        self.looks.remove(key);
    }

    /// The server reports that `key` has changed. Returns true where that can
    /// be believed. Otherwise the key becomes due for another look, at a time
    /// that is kept here.
    pub(crate) fn changed(&mut self, key: &Key, now: Instant) -> bool {
        let Some(look) = self.looks.get_mut(key).filter(|look| look.in_vain > 0) else {
            return true;
        };
        if !look.is_due {
            look.is_due = true;
            let bound = Backoff::CONTENTION;
            let apart = bound.wait(look.in_vain, u32::MAX) / 2
                + bound.wait(look.in_vain, rand::random()) / 2;
            self.due
                .insert(((look.at + apart).max(now), self.numbers), key.clone());
            self.numbers += 1;
        }
        false
    }

    /// When to look next, if any key is due for another look.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let (&(at, _), _) = self.due.first_key_value()?;
        Some(at.max(self.rests_until))
    }

    /// The keys to look at now: those that are due and still have a waiter.
    pub(crate) fn looks(&mut self, now: Instant, is_watched: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        while keys.len() < LOOKS_AT_ONCE && self.next_look().is_some_and(|at| at <= now) {
            let Some((_, key)) = self.due.pop_first() else {
                break;
            };
            if is_watched(&key) {
                keys.push(key);
            } else {
                self.looks.remove(&key);
            }
        }
        if keys.len() == LOOKS_AT_ONCE {
            self.rests_until = now + LOOKS_APART;
        }
        keys
    }

    /// Forgets looks at keys without waiters, from time to time.
    pub(crate) fn purge(&mut self, is_watched: impl Fn(&Key) -> bool) {
        if self.looks.len() >= self.looks_purge {
            self.looks
                .retain(|key, look| look.is_due || is_watched(key));
            self.looks_purge = 2 * self.looks.len() + LEAST_KEPT;
        }
    }

    /// The server no longer tracks what it was asked for.
    pub(crate) fn forget(&mut self) {
        self.notes.clear();
        self.looks.clear();
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1) + Duration::from_millis(millis)
    }

    #[test]
    fn a_note_is_read_once_and_reported_from_then_on() {
        let mut hints = Hints::default();
        let k = key("k");
        assert_eq!(hints.interest(&k, at(0)), (Interest::Unknown, true));
        assert_eq!(hints.interest(&k, at(0)), (Interest::Unknown, false));
        hints.noted(k.clone(), Some(false), at(1));
        assert_eq!(hints.interest(&k, at(99_999)), (Interest::Nobody, false));
        hints.note_changed(&k);
        assert_eq!(hints.interest(&k, at(99_999)), (Interest::Unknown, true));
        // The answer is newer than the change.
        hints.note_changed(&k);
        hints.noted(k.clone(), Some(true), at(99_999));
        assert_eq!(hints.interest(&k, at(99_999)), (Interest::Somebody, false));
        assert_eq!(hints.interest(&k, at(101_000)), (Interest::Unknown, true));
        hints.noted(k.clone(), None, at(101_000));
        assert_eq!(hints.interest(&k, at(101_000)), (Interest::Unknown, true));
    }

    #[test]
    fn a_note_is_written_again_before_it_expires() {
        let mut hints = Hints::default();
        assert!(hints.leave(&key("k"), at(0)));
        assert!(!hints.leave(&key("k"), at(499)));
        assert!(hints.leave(&key("k"), at(500)));
        assert!(hints.leave(&key("other"), at(500)));
        for number in 0..10_000 {
            hints.leave(&key(&number.to_string()), at(1000 * number));
        }
        assert!(hints.left.len() <= 2 * LEAST_KEPT, "{}", hints.left.len());
    }

    #[test]
    fn a_change_is_believed_until_a_look_finds_nothing() {
        let mut hints = Hints::default();
        let k = key("k");
        assert!(hints.changed(&k, at(0)), "never looked at");
        hints.held(&k, b"one", at(0));
        assert!(hints.changed(&k, at(1)));
        hints.held(&k, b"two", at(1));
        assert!(hints.changed(&k, at(2)), "it passes from hand to hand");
        hints.held(&k, b"two", at(2));
        assert!(!hints.changed(&k, at(3)));
        assert!(!hints.changed(&k, at(3)), "it is due once");
        assert_eq!(hints.looks(at(2), |_| true), []);
        assert_eq!(hints.looks(at(10), |_| true), std::slice::from_ref(&k));
        // After a while without a change, the next change causes a look at
        // once.
        hints.held(&k, b"two", at(10));
        assert!(!hints.changed(&k, at(3000)));
        assert_eq!(hints.looks(at(3000), |_| true), std::slice::from_ref(&k));
        hints.free(&k);
        assert!(hints.changed(&k, at(3001)));
    }

    #[test]
    fn needless_looks_are_bounded_per_key_and_per_connection() {
        let mut hints = Hints::default();
        let keys: Vec<Key> = (0..1000).map(|number| key(&number.to_string())).collect();
        let mut looks = vec![0; keys.len()];
        for k in &keys {
            hints.held(k, b"one", at(0));
            hints.held(k, b"one", at(0));
            assert!(!hints.changed(k, at(0)));
        }
        for millis in 0..10_000 {
            for k in hints.looks(at(millis), |_| true) {
                looks[k.to_string().parse::<usize>().unwrap()] += 1;
                hints.held(&k, b"one", at(millis));
                assert!(!hints.changed(&k, at(millis)));
            }
        }
        let total: usize = looks.iter().sum();
        assert!(total <= 3_200 * 10 + LOOKS_AT_ONCE, "{total} looks");
        let (least, most) = (looks.iter().min(), looks.iter().max());
        // At least every 256 ms if the connection had time for all.
        assert!(least > Some(&20) && most < Some(&90), "{least:?} {most:?}");
        // Keys that no longer have a waiter are forgotten.
        for millis in 10_000..20_000 {
            assert_eq!(hints.looks(at(millis), |_| false), []);
        }
        hints.looks_purge = 0;
        hints.purge(|_| false);
        assert!(hints.looks.is_empty() && hints.due.is_empty());
    }
}
