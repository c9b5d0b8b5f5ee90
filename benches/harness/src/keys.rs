//! The keys of a bench, and how tasks draw them.

use rand::{Rng, RngExt};

/// Digits of a key's number.
const DIGITS: usize = 8;

/// A number of keys of one form, built once: drawing one allocates nothing.
#[derive(Debug)]
pub struct KeySpace {
    text: String,
    width: usize,
    hot_share: f64,
    zipf: Option<Zipf>,
}

/// Zipf's law: key `k`, counted from 1, has a weight of `k` to the power of minus
/// the exponent. Drawn exactly, by rejection from a curve above the weights, so that
/// a million keys need no table.
#[derive(Clone, Copy, Debug)]
struct Zipf {
    exponent: f64,
    /// The area below the curve.
    area: f64,
}

/// The place of a task among all tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) index: usize,
    pub(crate) of: usize,
}

impl KeySpace {
    /// `len` keys that begin with `prefix`. The first of them is hot: it is
    /// drawn with the probability `hot_share`.
    pub fn new(prefix: &str, len: usize, hot_share: f64) -> Self {
        let key = |index| format!("{prefix}{index:0DIGITS$}");
        Self {
            width: key(0).len(),
            text: (0..len.max(1)).map(key).collect(),
            hot_share,
            zipf: None,
        }
    }

    /// The same keys, drawn by Zipf's law: all lanes draw from all keys. The
    /// exponent is positive and not 1.
    pub(crate) fn skewed(self, exponent: f64) -> Self {
        let zipf = Some(Zipf::new(self.len(), exponent));
        Self { zipf, ..self }
    }

    /// What every key begins with.
    pub(crate) fn prefix(&self) -> &str {
        &self.text[..self.width - DIGITS]
    }

    /// The number of keys; at least one.
    pub(crate) fn len(&self) -> usize {
        self.text.len() / self.width
    }

    /// The name of the key with this number.
    pub fn get(&self, index: usize) -> &str {
        &self.text[index * self.width..][..self.width]
    }

    /// Draws a key for `lane`. Each lane draws from its own keys, so that only
    /// the hot key is contended for, unless there are fewer keys than lanes.
    pub(crate) fn draw(&self, lane: Lane) -> usize {
        let mut random = rand::rng();
        if let Some(zipf) = self.zipf {
            return zipf.draw(&mut random, self.len());
        }
        if self.hot_share > 0.0 && random.random_bool(self.hot_share) {
            return 0;
        }
        match self.len() / lane.of {
            0 => random.random_range(0..self.len()),
            own => lane.index + lane.of * random.random_range(0..own),
        }
    }
}

impl Zipf {
    fn new(len: usize, exponent: f64) -> Self {
        let area = ((len as f64).powf(1.0 - exponent) - exponent) / (1.0 - exponent);
        Self { exponent, area }
    }

    /// The number of a key, from 0.
    fn draw(self, random: &mut impl Rng, len: usize) -> usize {
        let Self { exponent, area } = self;
        loop {
            // The curve is 1 up to 1, and then x to the power of minus the exponent.
            let below = random.random_range(0.0..area);
            let x = match below <= 1.0 {
                true => below,
                false => (below * (1.0 - exponent) + exponent).powf((1.0 - exponent).recip()),
            };
            let rank = (x + 1.0).floor();
            let curve = if x <= 1.0 { 1.0 } else { x.powf(-exponent) };
            if random.random_range(0.0..1.0) * curve < rank.powf(-exponent) && rank <= len as f64 {
                return rank as usize - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewed_keys_follow_the_law() {
        const LEN: usize = 1000;
        const DRAWS: u32 = 200_000;
        let keys = KeySpace::new("k", LEN, 0.0).skewed(0.99);
        let mut counts = [0_u32; LEN];
        for _ in 0..DRAWS {
            counts[keys.draw(Lane { index: 0, of: 1 })] += 1;
        }
        let weight = |rank: usize| (rank as f64).powf(-0.99);
        let all: f64 = (1..=LEN).map(weight).sum();
        // Of the first, the second, the first ten and the second half.
        for ranks in [1..=1, 2..=2, 1..=10, LEN / 2 + 1..=LEN] {
            let expected = ranks.clone().map(weight).sum::<f64>() / all;
            let drawn = counts[ranks.start() - 1..*ranks.end()].iter().sum::<u32>();
            let drawn = f64::from(drawn) / f64::from(DRAWS);
            // More than five standard deviations of the least likely of them.
            let error = (drawn - expected).abs();
            assert!(error < 0.006, "{ranks:?}: {drawn} of {expected}");
        }
    }

    #[test]
    fn lanes_share_no_key_but_the_hot_one() {
        let keys = KeySpace::new("k", 100, 0.0);
        for index in 0..7 {
            let key = keys.draw(Lane { index, of: 7 });
            assert_eq!(key % 7, index);
            assert_eq!(keys.get(key), format!("{}{key:08}", keys.prefix()));
        }
        let hot = KeySpace::new("k", 100, 1.0);
        assert_eq!(hot.draw(Lane { index: 3, of: 7 }), 0);
    }

    #[test]
    fn few_keys_serve_many_lanes() {
        let keys = KeySpace::new("k", 3, 0.0);
        assert!((0..100).all(|index| keys.draw(Lane { index, of: 100 }) < 3));
    }
}
