//! The parts of a lease: the key, the token that proves it, the fence.

mod fence;
mod into_key;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use self::fence::{COUNTER_BITS, COUNTER_LIMIT, EPOCH_LIMIT, Fence, FenceError};
pub use self::into_key::IntoKey;
use super::time::drift;
use crate::escape::shown;
use crate::hex;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// The longest holder label, in bytes.
pub const MAX_LABEL_BYTES: usize = 64;

/// The longest label as displayed, in bytes: every byte of it may be escaped.
const MAX_SHOWN_LABEL: usize = 8 * MAX_LABEL_BYTES;

/// How far above every known epoch a view without a vote starts: above every
/// epoch that nodes which cannot be asked may have decided.
pub const EPOCH_LEAP: u32 = 1024;

/// Name of a thing to lock: 1 to 1,024 bytes of any value.
#[derive(Clone)]
pub struct Key(KeyBytes);

/// The longest key that needs no allocation: with its length and the tag it fills
/// four words.
const MAX_INLINE_KEY: usize = 30;

#[derive(Clone)]
enum KeyBytes {
    Inline {
        len: u8,
        bytes: [u8; MAX_INLINE_KEY],
    },
    Shared(Arc<[u8]>),
}

/// Why bytes are not a valid [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No bytes at all.
    #[error("a lock key must not be empty: name the resource to lock")]
    Empty,
    /// More than [`MAX_KEY_BYTES`].
    #[error("a lock key of {len} bytes is too long: at most {MAX_KEY_BYTES}; lock a digest of it")]
    TooLong {
        /// Length of the key that was refused, in bytes.
        len: usize,
    },
    /// The key is in the namespace that ringlock reserves for its own state.
    #[error(
        "the lock key {key:?} is reserved: keys that begin with {reserved:?} would name ringlock's own state"
    )]
    Reserved {
        /// The key that was refused.
        key: String,
        /// The prefix reserved for ringlock.
        reserved: String,
    },
}

impl Key {
    /// Checks and copies `bytes`.
    ///
    /// # Errors
    /// [`KeyError::Empty`] and [`KeyError::TooLong`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let bytes = bytes.as_ref();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            len if len > MAX_KEY_BYTES => Err(KeyError::TooLong { len }),
            len if len <= MAX_INLINE_KEY => {
                let mut inline = [0; MAX_INLINE_KEY];
                inline[..len].copy_from_slice(bytes);
                Ok(Self(KeyBytes::Inline {
                    len: len as u8,
                    bytes: inline,
                }))
            }
            _ => Ok(Self(KeyBytes::Shared(bytes.into()))),
        }
    }

    /// The key that `id` is displayed as.
    ///
    /// # Errors
    /// The errors of [`Key::new`].
    pub fn display(id: impl fmt::Display) -> Result<Self, KeyError> {
        Self::new(id.to_string())
    }

    /// The key's bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            KeyBytes::Inline { len, bytes } => &bytes[..usize::from(*len)],
            KeyBytes::Shared(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)
    }
}

/// As it is displayed: bytes that are not printable ASCII are escaped.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Length of the random part of a stored token: 128 bits in hex.
const RANDOM_LEN: usize = hex::DIGITS;

/// Identifies an entry's maker: 128 random bits, fresh for every attempt, and the
/// holder's label if it gave one.
///
/// It is shared by the requests of its lease: a copy of the label in each would
/// have all leases of a process write to the label's reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(Arc<TokenParts>);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct TokenParts {
    random: u128,
    label: Option<Arc<str>>,
}

impl Hash for Token {
    /// The random bits alone tell a token from all others.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0.random);
    }
}

impl Token {
    /// The random bits, which tell the token from all others.
    pub fn random(&self) -> u128 {
        self.0.random
    }

    /// A token of these random bits; they must come from a generator that is
    /// unpredictable. A label of more than [`MAX_LABEL_BYTES`] is cut off there.
    pub fn new(random: u128, label: Option<Arc<str>>) -> Self {
        let label = label.filter(|label| !label.is_empty()).and_then(|label| {
            if label.len() <= MAX_LABEL_BYTES {
                return Some(label);
            }
            // A cut inside a character yields no label, which is safe: an overlong
            // label is a mistake of the caller.
            label.get(..MAX_LABEL_BYTES).map(Into::into)
        });
        Self(Arc::new(TokenParts { random, label }))
    }

    /// Appends the value that is stored under the key: the random bits in hex and,
    /// after a space, the label.
    pub fn append_stored(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&hex::digits(self.0.random));
        if let Some(label) = &self.0.label {
            out.push(b' ');
            out.extend_from_slice(label.as_bytes());
        }
    }

    /// The length of that value.
    #[inline]
    pub fn stored_len(&self) -> usize {
        let label = self.0.label.as_ref().map_or(0, |label| 1 + label.len());
        RANDOM_LEN + label
    }

    /// That value.
    pub fn stored(&self) -> Vec<u8> {
        let mut stored = Vec::with_capacity(self.stored_len());
        self.append_stored(&mut stored);
        stored
    }

    /// The holder that other clients read from this token.
    pub fn holder(&self) -> Holder {
        Holder::of_stored(&self.stored())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Hex digits are valid UTF-8, and so is the label.
        f.write_str(std::str::from_utf8(&self.stored()).unwrap_or_default())
    }
}

impl fmt::Debug for Token {
    /// Shows the label only: the random part is enough to release the lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.0.label.as_deref().unwrap_or("unlabelled");
        write!(f, "Token({label:?})")
    }
}

/// The holder of a key, as far as the stored value identifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    label: Option<Arc<str>>,
    foreign: bool,
    endless: bool,
}

impl Holder {
    /// Reads the holder from the value found under a key.
    pub fn of_stored(value: &[u8]) -> Self {
        let (head, tail) = value.split_at(value.len().min(RANDOM_LEN));
        let is_ours = head.len() == RANDOM_LEN
            && head.iter().all(u8::is_ascii_hexdigit)
            && tail.first().is_none_or(|&byte| byte == b' ');
        let label = if is_ours {
            tail.get(1..).unwrap_or_default()
        } else {
            &[][..]
        };
        let label = &label[..label.len().min(MAX_LABEL_BYTES)];
        Self {
            label: (!label.is_empty()).then(|| shown(label, MAX_SHOWN_LABEL).into()),
            foreign: !is_ours,
            endless: false,
        }
    }

    /// The holder's label for itself, `host:pid` by convention; characters that are
    /// unsafe to display are escaped.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The same holder, for an entry that has no expiry.
    pub(crate) fn for_ever(self) -> Self {
        Self {
            endless: true,
            ..self
        }
    }

    /// Whether its entry was found without an expiry, which no holder of this crate
    /// creates: the cause is another program's `SET` without `PX`, or a `PERSIST`.
    /// The entry stays until its holder extends or releases it, or an operator
    /// deletes it: `ringlock release KEY --force`.
    pub fn never_expires(&self) -> bool {
        self.endless
    }

    /// Whether the value is not in the format that ringlock writes: another kind of
    /// client holds the key.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.label, self.foreign) {
            (Some(label), _) => f.write_str(label),
            (None, true) => f.write_str("a client other than ringlock"),
            (None, false) => f.write_str("an unnamed holder"),
        }
    }
}

/// Minimum that must remain of a ttl after drift is subtracted: with less, a
/// lease would be over before its caller could use it.
const LEAST_VALIDITY: Duration = Duration::from_millis(10);

/// How long an entry lives on the server without being extended, in whole
/// milliseconds: at least its own drift and 10 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

/// Why a duration is not a valid [`Ttl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TtlError {
    /// Too little would remain of it after drift.
    #[error(
        "a ttl of {ttl:?} is too short: drift alone takes {drift:?} of it and 10ms must remain; give at least 13ms"
    )]
    TooShort {
        /// The ttl that was refused.
        ttl: Duration,
        /// The clock drift allowed for over that ttl.
        drift: Duration,
    },
    /// Above the time that the cluster waits at a change.
    #[error(
        "a ttl of {ttl:?} is above max_ttl = {max:?}: shorten it and extend the lease, or raise max_ttl for the whole cluster"
    )]
    TooLong {
        /// The ttl that was refused.
        ttl: Duration,
        /// The cluster's max_ttl.
        max: Duration,
    },
}

impl Ttl {
    /// Checks `ttl` against its drift and the cluster's `max`; fractions of a
    /// millisecond are truncated.
    ///
    /// # Errors
    /// [`TtlError::TooShort`] and [`TtlError::TooLong`].
    pub fn new(ttl: Duration, max: Duration) -> Result<Self, TtlError> {
        let drift = drift(ttl);
        if ttl < drift + LEAST_VALIDITY {
            return Err(TtlError::TooShort { ttl, drift });
        }
        match u32::try_from(ttl.as_millis()) {
            Ok(millis) if ttl <= max => Ok(Self(millis)),
            _ => Err(TtlError::TooLong { ttl, max }),
        }
    }

    /// The ttl, capped at `max` where the cluster's limit has become shorter.
    #[must_use]
    pub fn at_most(self, max: Duration) -> Self {
        let max = u32::try_from(max.as_millis()).unwrap_or(u32::MAX);
        Self(self.0.min(max))
    }

    /// The ttl in milliseconds.
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// The ttl as a span of time.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_token_names_its_holder() {
        let token = Token::new(0xab, Some("web-3:4711".into()));
        let stored = token.stored();
        assert_eq!(&*stored, b"000000000000000000000000000000ab web-3:4711");
        assert_eq!(token.to_string().as_bytes(), &*stored);
        let holder = token.holder();
        assert_eq!(
            (holder.label(), holder.is_foreign()),
            (Some("web-3:4711"), false)
        );
    }

    #[test]
    fn other_values_are_foreign() {
        for value in [
            &b""[..],
            b"x",
            b"00000000-0000-0000-0000-0000000000ab",
            b"zz\xff",
        ] {
            assert!(Holder::of_stored(value).is_foreign(), "{value:?}");
        }
        assert!(!Holder::of_stored(&[b'f'; 32]).is_foreign());
    }

    #[test]
    fn a_token_hides_its_secret_in_debug_output() {
        let shown = format!("{:?}", Token::new(0xdead_beef, Some("me".into())));
        assert_eq!(shown, "Token(\"me\")");
    }

    #[test]
    fn ttl_bounds() {
        let max = Duration::from_secs(30);
        assert!(matches!(
            Ttl::new(Duration::ZERO, max),
            Err(TtlError::TooShort { .. })
        ));
        assert!(matches!(
            Ttl::new(Duration::from_millis(12), max),
            Err(TtlError::TooShort { .. })
        ));
        assert!(Ttl::new(Duration::from_millis(13), max).is_ok());
        assert!(Ttl::new(max, max).is_ok());
        let over = max + Duration::from_nanos(1);
        assert!(matches!(Ttl::new(over, max), Err(TtlError::TooLong { .. })));
        assert!(matches!(
            Ttl::new(Duration::MAX, Duration::MAX),
            Err(TtlError::TooLong { .. })
        ));
    }

    #[test]
    fn key_bounds() {
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert!(Key::new([7; MAX_KEY_BYTES]).is_ok());
        assert_eq!(Key::new([7; 1025]), Err(KeyError::TooLong { len: 1025 }));
        assert_eq!(Key::new(b"a\x00\xff").unwrap().to_string(), "a\\x00\\xff");
    }
}
