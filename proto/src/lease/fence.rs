//! The number that orders the holders of a key.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bits of a fence that count within one epoch.
pub const COUNTER_BITS: u32 = 44;

/// The first counter that is refused. Lua numbers are doubles, exact to 2^53.
pub const COUNTER_LIMIT: u64 = 1 << COUNTER_BITS;

/// The first epoch that is refused, so that a fence fits 63 bits and thus the
/// signed 64-bit columns of databases.
pub const EPOCH_LIMIT: u32 = 1 << (63 - COUNTER_BITS);

/// A number that grows with every grant of a key: the guarded resource keeps
/// the highest that it has seen and refuses any lower one.
///
/// `epoch << 44 | counter`; compare it as a number. See Martin Kleppmann, “How
/// to do distributed locking” (2016), for why a lock needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(NonZeroU64);

impl Fence {
    /// Joins the two parts; `None` where one of them is beyond its limit, or both
    /// are zero.
    pub fn new(epoch: u32, counter: u64) -> Option<Self> {
        let is_in_bounds = epoch < EPOCH_LIMIT && counter < COUNTER_LIMIT;
        let number = NonZeroU64::new(u64::from(epoch) << COUNTER_BITS | counter);
        number.filter(|_| is_in_bounds).map(Self)
    }

    /// The fence as the number to hand to the resource; below 2^63.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The epoch of the view that granted it.
    pub const fn epoch(self) -> u32 {
        (self.get() >> COUNTER_BITS) as u32
    }

    /// The count within that epoch.
    pub const fn counter(self) -> u64 {
        self.get() & (COUNTER_LIMIT - 1)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Fence> for u64 {
    fn from(fence: Fence) -> Self {
        fence.get()
    }
}

impl From<Fence> for i64 {
    fn from(fence: Fence) -> Self {
        fence.get().cast_signed()
    }
}

/// The number is not a fence: 1 to 2^63 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fence: a fence is a number from 1 to 9223372036854775807")]
pub struct FenceError;

impl TryFrom<u64> for Fence {
    type Error = FenceError;

    fn try_from(number: u64) -> Result<Self, FenceError> {
        let is_in_bounds = i64::try_from(number).is_ok();
        let number = NonZeroU64::new(number).filter(|_| is_in_bounds);
        number.map(Self).ok_or(FenceError)
    }
}

impl TryFrom<i64> for Fence {
    type Error = FenceError;

    fn try_from(number: i64) -> Result<Self, FenceError> {
        u64::try_from(number).map_err(|_| FenceError)?.try_into()
    }
}

impl FromStr for Fence {
    type Err = FenceError;

    /// Reads the decimal digits that [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, FenceError> {
        let number: u64 = text.parse().map_err(|_| FenceError)?;
        let fence = Self::try_from(number)?;
        // One spelling: a store that compares texts must not see two.
        (fence.to_string() == text)
            .then_some(fence)
            .ok_or(FenceError)
    }
}

/// As a number.
impl Serialize for Fence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

/// From a number.
impl<'de> Deserialize<'de> for Fence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        number.try_into().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_order_by_epoch_and_then_counter() {
        let late = Fence::new(1, COUNTER_LIMIT - 1).unwrap();
        let next = Fence::new(2, 0).unwrap();
        assert!(late < next);
        assert_eq!((next.epoch(), next.counter()), (2, 0));
        assert_eq!((late.epoch(), late.counter()), (1, COUNTER_LIMIT - 1));
        assert!(
            Fence::new(EPOCH_LIMIT - 1, COUNTER_LIMIT - 1)
                .unwrap()
                .get()
                < 1 << 63
        );
        assert_eq!(Fence::new(0, 0), None);
        assert_eq!(Fence::new(EPOCH_LIMIT, 0), None);
        assert_eq!(Fence::new(0, COUNTER_LIMIT), None);
    }

    #[test]
    fn a_fence_survives_every_form_that_it_takes() {
        for number in [1, 1 << COUNTER_BITS, (1 << 63) - 1] {
            let fence = Fence::try_from(number).unwrap();
            assert_eq!(u64::from(fence), number);
            assert_eq!(Fence::try_from(i64::from(fence)), Ok(fence));
            assert_eq!(fence.to_string().parse(), Ok(fence));
            let json = serde_json::to_string(&fence).unwrap();
            assert_eq!(json, number.to_string());
            assert_eq!(serde_json::from_str::<Fence>(&json).unwrap(), fence);
        }
    }

    #[test]
    fn what_is_no_fence_is_refused_in_every_form() {
        for number in [0, 1 << 63, u64::MAX] {
            assert_eq!(Fence::try_from(number), Err(FenceError), "{number}");
            assert_eq!(number.to_string().parse::<Fence>(), Err(FenceError));
            assert!(serde_json::from_str::<Fence>(&number.to_string()).is_err());
        }
        for number in [0, -1, i64::MIN] {
            assert_eq!(Fence::try_from(number), Err(FenceError), "{number}");
        }
        for text in ["", "+1", "01", " 1", "1 ", "0x1", "1.0", "-1"] {
            assert_eq!(text.parse::<Fence>(), Err(FenceError), "{text:?}");
        }
    }
}
