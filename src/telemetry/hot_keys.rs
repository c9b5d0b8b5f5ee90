//! The most contended keys, in bounded memory (the space-saving sketch of
//! Metwally, Agrawal and El Abbadi, 2005).

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock;
use crate::proto::lease::Key;
use crate::proto::time::Instant;

/// Number of keys counted at a time: of `n` occasions, every key with more than an
/// `n`/128th is among them. With the longest keys they take a quarter of a
/// mebibyte.
const KEYS: usize = 128;

/// Length of a counting span; the last complete span is kept.
const SPAN: Duration = Duration::from_secs(60);

/// A key that callers of this router contended for; see
/// [`Router::hot_keys`](crate::Router::hot_keys).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HotKey {
    /// The key to lock.
    pub key: Key,
    /// How often a call found it taken: it was queued behind another call of this
    /// router, or made an attempt that other holders blocked. This is an upper
    /// bound.
    pub times: u64,
    /// By how much `times` may be too high, since the key took the place of
    /// others.
    pub excess: u64,
}

/// The occasions of the last one or two spans.
#[derive(Debug, Default)]
pub(crate) struct HotKeys(Mutex<Spans>);

#[derive(Debug, Default)]
struct Spans {
    now: Sketch,
    before: Sketch,
    ends: Instant,
}

#[derive(Debug, Default)]
struct Sketch(HashMap<Key, Tally>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    times: u64,
    excess: u64,
}

impl HotKeys {
    /// A call found `key` taken.
    pub(crate) fn note(&self, key: &Key) {
        let now = clock::now();
        let mut spans = self.0.lock();
        spans.turn(now);
        spans.now.note(key);
    }

    /// The keys, the most contended first.
    pub(crate) fn list(&self) -> Vec<HotKey> {
        let now = clock::now();
        let mut spans = self.0.lock();
        spans.turn(now);
        let mut sum = spans.before.0.clone();
        for (key, tally) in &spans.now.0 {
            let all = sum.entry(key.clone()).or_default();
            all.times += tally.times;
            all.excess += tally.excess;
        }
        drop(spans);
        let keys = sum.into_iter().map(|(key, tally)| HotKey {
            key,
            times: tally.times,
            excess: tally.excess,
        });
        let mut keys: Vec<HotKey> = keys.collect();
        keys.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.key.cmp(&b.key)));
        keys.truncate(KEYS);
        keys
    }
}

impl Spans {
    /// Starts a new span if the current one is over.
    fn turn(&mut self, now: Instant) {
        if now < self.ends {
            return;
        }
        let last = std::mem::take(&mut self.now);
        // A span that ended longer ago is dropped.
        self.before = match now < self.ends + SPAN {
            true => last,
            false => Sketch::default(),
        };
        self.ends = now + SPAN;
    }
}

impl Sketch {
    fn note(&mut self, key: &Key) {
        if let Some(tally) = self.0.get_mut(key) {
            tally.times += 1;
            return;
        }
        let mut excess = 0;
        if self.0.len() >= KEYS {
            let least = self.0.iter().min_by_key(|(_, tally)| tally.times);
            let least = least.map(|(key, tally)| (key.clone(), tally.times));
            if let Some((least, times)) = least {
                self.0.remove(&least);
                excess = times;
            }
        }
        let times = excess + 1;
        self.0.insert(key.clone(), Tally { times, excess });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: impl ToString) -> Key {
        Key::new(name.to_string()).unwrap()
    }

    #[test]
    fn hot_keys_are_found_among_very_many() {
        let mut sketch = Sketch::default();
        let mut total = 0;
        for round in 0..100 {
            for other in 0..1000 {
                sketch.note(&key(format!("{round}/{other}")));
                total += 1;
            }
            // A little more than a 128th of all.
            for _ in 0..10 {
                sketch.note(&key("hot"));
                total += 1;
            }
        }
        assert_eq!(sketch.0.len(), KEYS);
        let hot = sketch.0[&key("hot")];
        assert!(
            hot.times >= 1000 && hot.times - hot.excess <= 1000,
            "{hot:?}"
        );
        assert!(hot.excess <= total / KEYS as u64, "{hot:?}");
        let sum: u64 = sketch.0.values().map(|tally| tally.times).sum();
        assert_eq!(sum, total, "each occasion is counted once");
    }

    #[test]
    fn old_keys_are_forgotten() {
        let mut spans = Spans::default();
        let at = |span: u32| Instant::from_nanos(1) + SPAN * span;
        spans.turn(at(1));
        spans.now.note(&key("k"));
        spans.turn(at(1) + SPAN / 2);
        assert_eq!(spans.now.0.len(), 1);
        spans.turn(at(2));
        assert_eq!((spans.now.0.len(), spans.before.0.len()), (0, 1));
        spans.now.note(&key("l"));
        spans.turn(at(9));
        assert_eq!((spans.now.0.len(), spans.before.0.len()), (0, 0));
    }

    #[test]
    fn the_hottest_come_first() {
        let hot = HotKeys::default();
        for name in ["a", "b", "b", "c", "b", "c"] {
            hot.note(&key(name));
        }
        let list = hot.list();
        let reported: Vec<_> = list
            .iter()
            .map(|hot| (hot.key.to_string(), hot.times))
            .collect();
        assert_eq!(
            reported,
            [("b".into(), 3), ("c".into(), 2), ("a".into(), 1)]
        );
        assert!(list.iter().all(|hot| hot.excess == 0));
    }
}
