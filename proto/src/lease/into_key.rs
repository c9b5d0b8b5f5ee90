//! What names a thing to lock.

use std::borrow::Cow;
use std::sync::Arc;

use crate::lease::{Key, KeyError};

/// What an acquire takes as its key: text, bytes, a [`Key`], or an integer, which
/// is the key of its decimal digits. [`Key::display`] makes a key of anything else
/// that can be displayed.
///
/// ```
/// # use ringlock_proto::lease::{IntoKey, Key};
/// assert_eq!(42_u64.into_key(), "42".into_key());
/// assert_eq!(vec![0xff].into_key(), Key::new([0xff]));
/// assert_eq!(String::from("orders/42").into_key(), "orders/42".into_key());
/// ```
pub trait IntoKey {
    /// The key, or why it cannot be one.
    ///
    /// # Errors
    /// The errors of [`Key::new`].
    fn into_key(self) -> Result<Key, KeyError>;
}

impl IntoKey for Key {
    fn into_key(self) -> Result<Key, KeyError> {
        Ok(self)
    }
}

impl<T: AsRef<[u8]> + ?Sized> IntoKey for &T {
    fn into_key(self) -> Result<Key, KeyError> {
        Key::new(self)
    }
}

impl<const N: usize> IntoKey for [u8; N] {
    fn into_key(self) -> Result<Key, KeyError> {
        Key::new(self)
    }
}

macro_rules! of_bytes {
    ($($owned:ty),*) => {
        $(impl IntoKey for $owned {
            fn into_key(self) -> Result<Key, KeyError> {
                let bytes: &[u8] = (*self).as_ref();
                Key::new(bytes)
            }
        })*
    };
}

of_bytes!(
    String,
    Vec<u8>,
    Box<str>,
    Box<[u8]>,
    Arc<str>,
    Arc<[u8]>,
    Cow<'_, str>,
    Cow<'_, [u8]>
);

macro_rules! of_digits {
    ($($integer:ty),*) => {
        $(impl IntoKey for $integer {
            fn into_key(self) -> Result<Key, KeyError> {
                Key::display(self)
            }
        })*
    };
}

of_digits!(
    u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_key_in_every_form() {
        let name = "orders/42";
        let key = Key::new(name).unwrap();
        let forms = [
            name.into_key(),
            (&name).into_key(),
            name.as_bytes().into_key(),
            name.to_owned().into_key(),
            (&name.to_owned()).into_key(),
            name.as_bytes().to_vec().into_key(),
            (*b"orders/42").into_key(),
            b"orders/42".into_key(),
            Box::<str>::from(name).into_key(),
            Box::<[u8]>::from(name.as_bytes()).into_key(),
            Arc::<str>::from(name).into_key(),
            Arc::<[u8]>::from(name.as_bytes()).into_key(),
            Cow::Borrowed(name).into_key(),
            Cow::Borrowed(name.as_bytes()).into_key(),
            (&key).into_key(),
            key.clone().into_key(),
            Key::display(format_args!("orders/{}", 42)),
        ];
        for form in forms {
            assert_eq!(form.as_ref(), Ok(&key));
        }
    }

    #[test]
    fn an_integer_is_its_digits() {
        assert_eq!(7_u8.into_key(), Key::new("7"));
        assert_eq!(i64::MIN.into_key(), Key::new("-9223372036854775808"));
        assert_eq!(u128::MAX.into_key(), Key::new(u128::MAX.to_string()));
    }

    #[test]
    fn what_is_no_key_is_refused_in_every_form() {
        assert_eq!("".into_key(), Err(KeyError::Empty));
        assert_eq!(String::new().into_key(), Err(KeyError::Empty));
        assert_eq!([0; 0].into_key(), Err(KeyError::Empty));
        let long = vec![7; 1025];
        assert_eq!(long.into_key(), Err(KeyError::TooLong { len: 1025 }));
        assert_eq!(Key::display(""), Err(KeyError::Empty));
    }
}
