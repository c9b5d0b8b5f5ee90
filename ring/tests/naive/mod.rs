//! The ring once more, in the simplest form: the answers that the fast one must give.

use std::collections::BTreeSet;

use ringlock_ring::{Format, Member};

/// A ring as a sorted list of points, searched from the start.
pub(crate) struct NaiveRing<'m> {
    pub(crate) points: Vec<(u64, &'m Member)>,
}

impl<'m> NaiveRing<'m> {
    /// The points of a native format, from its formula.
    pub(crate) fn new(format: Format, vnodes: u32, members: &'m [Member]) -> Self {
        let mut points = Vec::new();
        for member in members {
            for j in 0..vnodes * member.weight() {
                points.push((point(format, member.name(), j), member));
            }
        }
        points.sort_by_key(|(position, member)| (*position, member.name()));
        Self { points }
    }

    /// All members in the order of their nearest points clockwise from `position`.
    pub(crate) fn walk(&self, position: u64) -> impl Iterator<Item = &'m Member> {
        let first = self.points.partition_point(|(point, _)| *point < position);
        let (before, from) = self.points.split_at(first);
        let mut met = BTreeSet::new();
        let clockwise = from.iter().chain(before).map(|(_, member)| *member);
        clockwise.filter(move |member| met.insert(member.name()))
    }
}

fn point(format: Format, name: &str, j: u32) -> u64 {
    let bytes = [name.as_bytes(), &[0], &j.to_le_bytes()].concat();
    match format {
        Format::Xxh3 => xxhash_rust::xxh3::xxh3_64(&bytes),
        Format::Md5 => {
            let digest = format!("{:x}", md5::compute(format!("{name}:{j}")));
            u64::from_str_radix(&digest[..16], 16).unwrap()
        }
        Format::Crc32 => {
            let mut k = u64::from(crc32fast::hash(&bytes));
            k ^= k >> 33;
            k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
            k ^= k >> 33;
            k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            k ^ (k >> 33)
        }
        other => {
            panic!("{other} is not native: tests/golden.rs holds it against the program it follows")
        }
    }
}
