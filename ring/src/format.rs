//! The formats: where a member's points lie, and where a key does.
//!
//! Each is frozen. `tests/golden` holds the results of other programs, or of independent
//! derivations.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::member::Member;

/// Points per unit of weight by default: shares then deviate by about 8 % (1/√160).
pub const DEFAULT_VNODES: u32 = 160;

/// How members and keys are placed on the ring.
///
/// In all of them a key's owner is the member of the first point at or after the key's position,
/// wrapping to the smallest, and points that fall together are ordered by the members' names,
/// bytewise.
///
/// | format | points of a member | position of a key |
/// |---|---|---|
/// | `xxh3` | XXH3-64 of `name ‖ 00 ‖ LE32(j)` | XXH3-64 |
/// | `md5` | the first 8 bytes, big-endian, of MD5 of `name:j` | likewise |
/// | `crc32` | CRC-32 of `name ‖ 00 ‖ LE32(j)`, widened by MurmurHash3's `fmix64` | likewise |
/// | `ketama` | the four little-endian words of MD5 of `name-d` | the first of them |
/// | `nginx` | CRC-32 of `host ‖ 00 ‖ port ‖ LE32(previous point)` | CRC-32 |
///
/// The first three are *native*: `j` counts from 0 to the member's weight times the ring's vnodes,
/// and no member's points depend on another's. The last two follow other programs to the byte.
/// Their 32-bit positions are shifted to the upper half of 64, which changes neither order nor
/// proportion, and their vnodes cannot be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The fastest, and the default.
    #[default]
    Xxh3,
    /// The ring of many tutorials: `md5(f"{node}:{j}")` in a sorted list, bisected for the key's
    /// hash. A fleet on such code with the same number of points maps every key the same way here.
    /// (Such code compares all 128 bits; the first 64 give the same order, except with a
    /// probability of about 2⁻⁵⁰.)
    Md5,
    /// CRC-32 with its linearity mixed out. Raw, it balances badly: at 100 members the largest
    /// share is 2.28 times the mean, against 1.17.
    Crc32,
    /// Weighted ketama as in libmemcached (`MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`) and twemproxy
    /// (`distribution: ketama`, `hash: md5`), with their rounding in single precision: a member has
    /// 4 points for each of `⌊weight / total · 40 · members⌋` digests, and so 39 instead of 40 at,
    /// say, 25 equal members. Where the name ends in the port `:11211`, only the host before it is
    /// hashed. A change of members shifts all their counts.
    Ketama,
    /// nginx's `hash … consistent`, as of `ngx_http_upstream_hash_module.c`: 160 points per unit of
    /// weight. The name is split at its port as nginx splits a server's; without one the port is
    /// empty, and a leading `unix:` is not hashed. Of points that fall together only the first is
    /// kept, by name here, by place in the configuration there; list the servers in the order of
    /// their names where that matters.
    Nginx,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [
        Self::Xxh3,
        Self::Md5,
        Self::Crc32,
        Self::Ketama,
        Self::Nginx,
    ];

    /// Its name in configurations, as [`Display`](fmt::Display) and [`FromStr`] use it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Md5 => "md5",
            Self::Crc32 => "crc32",
            Self::Ketama => "ketama",
            Self::Nginx => "nginx",
        }
    }

    /// Whether the format fixes the number of points, so that vnodes cannot be set.
    #[must_use]
    pub const fn has_fixed_vnodes(self) -> bool {
        matches!(self, Self::Ketama | Self::Nginx)
    }

    /// Where `key` lies.
    #[inline]
    pub(crate) fn position(self, key: &[u8]) -> u64 {
        match self {
            Self::Xxh3 => xxh3_64(key),
            Self::Md5 => leading_u64(md5::compute(key)),
            Self::Crc32 => fmix64(crc32fast::hash(key)),
            Self::Ketama => upper_half(ketama_words(md5::compute(key))[0]),
            Self::Nginx => upper_half(crc32fast::hash(key)),
        }
    }

    /// How many points each of `members` has, in their order.
    pub(crate) fn point_counts(self, members: &[Member], vnodes: u32) -> Vec<u64> {
        let weights = members.iter().map(|member| u64::from(member.weight()));
        match self {
            Self::Xxh3 | Self::Md5 | Self::Crc32 | Self::Nginx => {
                weights.map(|w| w * u64::from(vnodes)).collect()
            }
            Self::Ketama => {
                let total = weights.clone().sum();
                weights
                    .map(|w| 4 * ketama_digests(w, total, members.len()))
                    .collect()
            }
        }
    }

    /// Calls `emit` with each of the `count` points of the member called `name`.
    pub(crate) fn points(self, name: &str, count: u32, mut emit: impl FnMut(u64)) {
        match self {
            Self::Xxh3 => {
                let prefix = [name.as_bytes(), &[0]].concat();
                (0..count).for_each(|j| emit(xxh3_64(&[&prefix[..], &j.to_le_bytes()].concat())));
            }
            Self::Md5 => {
                (0..count).for_each(|j| emit(leading_u64(md5::compute(format!("{name}:{j}")))))
            }
            Self::Crc32 => {
                let prefix = crc32_state(&[name.as_bytes(), &[0]]);
                (0..count).for_each(|j| emit(fmix64(crc32_then(&prefix, j))));
            }
            Self::Ketama => {
                let name = name.strip_suffix(":11211").unwrap_or(name);
                for digest in 0..count / 4 {
                    let words = ketama_words(md5::compute(format!("{name}-{digest}")));
                    words.into_iter().for_each(|word| emit(upper_half(word)));
                }
            }
            Self::Nginx => {
                let (host, port) = nginx_host_and_port(name);
                let prefix = crc32_state(&[host.as_bytes(), &[0], port.as_bytes()]);
                let mut previous = 0;
                for _ in 0..count {
                    previous = crc32_then(&prefix, previous);
                    emit(upper_half(previous));
                }
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|format| format.name() == text);
        named.ok_or_else(|| ParseFormatError {
            given: text.to_owned(),
        })
    }
}

/// The text is not the name of a [`Format`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown ring format {given:?}: use xxh3, md5, crc32, ketama or nginx")]
pub struct ParseFormatError {
    given: String,
}

/// How many digests ketama makes for a member. Every step is in single precision, and in the order
/// of libmemcached's `update_continuum`: it decides between 39 and 40. (The 1e-10 that is added
/// there at the end is lost in the rounding wherever the result is not 0 anyway.)
fn ketama_digests(weight: u64, total: u64, members: usize) -> u64 {
    let share = weight as f32 / total as f32;
    (share * 160.0 / 4.0 * members as f32).floor() as u64
}

/// Splits a name as nginx splits `server`: at the last colon, if nothing but digits follows it.
fn nginx_host_and_port(name: &str) -> (&str, &str) {
    if let Some((scheme, path)) = name.split_at_checked(5)
        && scheme.eq_ignore_ascii_case("unix:")
    {
        return (path, "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}

/// A 32-bit position among 64-bit ones.
fn upper_half(position: u32) -> u64 {
    u64::from(position) << 32
}

fn leading_u64(digest: md5::Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn ketama_words(digest: md5::Digest) -> [u32; 4] {
    let bytes = digest.0;
    [0, 4, 8, 12].map(|i| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]))
}

fn crc32_state(parts: &[&[u8]]) -> crc32fast::Hasher {
    let mut state = crc32fast::Hasher::new();
    parts.iter().for_each(|part| state.update(part));
    state
}

/// The CRC-32 of what `state` has seen and then `word`, little-endian.
fn crc32_then(state: &crc32fast::Hasher, word: u32) -> u32 {
    let mut state = state.clone();
    state.update(&word.to_le_bytes());
    state.finalize()
}

/// The finaliser of MurmurHash3 for 64 bits: a bijection that spreads every bit over all of them.
fn fmix64(crc: u32) -> u64 {
    let mut k = u64::from(crc);
    k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}
