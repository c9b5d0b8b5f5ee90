//! The keys of a bench, and how tasks draw them.

use rand::RngExt;

/// A number of keys of one form, built once: drawing one allocates nothing.
#[derive(Debug)]
pub struct KeySpace {
    text: String,
    width: usize,
    hot_share: f64,
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
        let key = |index| format!("{prefix}{index:08}");
        Self {
            width: key(0).len(),
            text: (0..len.max(1)).map(key).collect(),
            hot_share,
        }
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
        if self.hot_share > 0.0 && random.random_bool(self.hot_share) {
            return 0;
        }
        match self.len() / lane.of {
            0 => random.random_range(0..self.len()),
            own => lane.index + lane.of * random.random_range(0..own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_share_no_key_but_the_hot_one() {
        let keys = KeySpace::new("k", 100, 0.0);
        for index in 0..7 {
            let key = keys.draw(Lane { index, of: 7 });
            assert_eq!(key % 7, index);
            assert_eq!(keys.get(key), format!("k{key:08}"));
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
