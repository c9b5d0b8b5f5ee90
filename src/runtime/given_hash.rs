//! A hasher for keys that bring their own hash.

use std::hash::Hasher;

/// Returns the number that the key writes: a hash that was computed before, or
/// random bits. It has no secret: keys that others choose need a seeded hash.
#[derive(Default)]
pub(crate) struct GivenHash(u64);

impl Hasher for GivenHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write_u128(&mut self, random: u128) {
        self.0 = (random >> 64) as u64 ^ random as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|&byte| self.0 = self.0 << 8 ^ u64::from(byte));
    }
}
