//! Reads replies in place in the bytes of a connection: the Redis serialization
//! protocol, without copying. Of its third version it supports only what a
//! connection with tracking receives: maps, pushes, verbatim text and the new
//! nil.
//!
//! The redis crate's parser builds a tree of owned values from every reply.
//! Here a batch of 64 grants is 130 replies of a few bytes, read in one pass.

/// The most bytes of the replies to one group: a view of a thousand nodes takes
/// a twentieth of it.
pub(crate) const MAX_REPLY: usize = 4 << 20;

/// The most items of one list; a batch has about a hundred.
const MAX_ITEMS: usize = 65_536;

/// The greatest depth of nested lists.
const MAX_DEPTH: usize = 4;

/// One value of a reply, or the head of a list whose items follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Status(&'a [u8]),
    Error(&'a [u8]),
    Int(i64),
    Bulk(&'a [u8]),
    Nil,
    List(usize),
    /// A list that was not requested.
    Push(usize),
}

/// Bytes that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads replies value by value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replies<'a>(&'a [u8]);

/// The length of the first reply in `bytes`; `None`: it is incomplete.
pub(crate) fn reply_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut values = Replies(bytes);
    // Outstanding items of the open lists, the innermost last.
    let mut due = [0_usize; MAX_DEPTH];
    let mut depth = 0;
    loop {
        match values.read()? {
            None => return Ok(None),
            Some(Value::List(items) | Value::Push(items)) if items > 0 => {
                *due.get_mut(depth).ok_or(Malformed)? = items;
                depth += 1;
            }
            Some(_) => loop {
                if depth == 0 {
                    return Ok(Some(bytes.len() - values.0.len()));
                }
                due[depth - 1] -= 1;
                if due[depth - 1] > 0 {
                    break;
                }
                depth -= 1;
            },
        }
    }
}

impl<'a> Replies<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next value of replies that are known to be whole.
    pub(crate) fn next(&mut self) -> Option<Value<'a>> {
        self.read().ok().flatten()
    }

    /// A list of exactly `len` items begins here.
    pub(crate) fn list(&mut self, len: usize) -> Option<()> {
        (self.next()? == Value::List(len)).then_some(())
    }

    pub(crate) fn int(&mut self) -> Option<i64> {
        match self.next()? {
            Value::Int(int) => Some(int),
            _ => None,
        }
    }

    pub(crate) fn bulk(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Value::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The next value; `None`: it is incomplete.
    fn read(&mut self) -> Result<Option<Value<'a>>, Malformed> {
        let Some((&kind, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let Some(end) = rest.iter().position(|&byte| byte == b'\r') else {
            return Ok(None);
        };
        let line = &rest[..end];
        let rest = match &rest[end..] {
            [b'\r', b'\n', rest @ ..] => rest,
            [_] => return Ok(None),
            _ => return Err(Malformed),
        };
        let value = match kind {
            b'+' => Value::Status(line),
            b'-' => Value::Error(line),
            b':' => Value::Int(number(line)?),
            b'$' | b'=' => match length(line, MAX_REPLY)? {
                None => Value::Nil,
                Some(len) => {
                    if rest.len() < len + 2 {
                        return Ok(None);
                    }
                    let (bytes, rest) = rest.split_at(len);
                    self.0 = rest.strip_prefix(b"\r\n").ok_or(Malformed)?;
                    let text = match kind {
                        // Verbatim text names its format first, as in `txt:`.
                        b'=' => bytes.get(4..).ok_or(Malformed)?,
                        _ => bytes,
                    };
                    return Ok(Some(Value::Bulk(text)));
                }
            },
            b'*' => length(line, MAX_ITEMS)?.map_or(Value::Nil, Value::List),
            b'>' => Value::Push(length(line, MAX_ITEMS)?.ok_or(Malformed)?),
            // Each item is a key and a value.
            b'%' => Value::List(2 * length(line, MAX_ITEMS)?.ok_or(Malformed)?),
            b'_' => Value::Nil,
            _ => return Err(Malformed),
        };
        self.0 = rest;
        Ok(Some(value))
    }
}

/// A number of so many digits fits.
const SAFE_DIGITS: usize = 18;

fn number(line: &[u8]) -> Result<i64, Malformed> {
    let (digits, sign) = match line {
        [b'-', digits @ ..] => (digits, -1),
        digits => (digits, 1),
    };
    if digits.is_empty() {
        return Err(Malformed);
    }
    let digit = |digit: u8| match digit.wrapping_sub(b'0') {
        digit @ 0..=9 => Ok(i64::from(digit)),
        _ => Err(Malformed),
    };
    if digits.len() <= SAFE_DIGITS {
        let number = digits
            .iter()
            .try_fold(0, |number, &next| Ok(10 * number + digit(next)?));
        return number.map(|number| sign * number);
    }
    digits.iter().try_fold(0_i64, |number, &next| {
        let number = number.checked_mul(10).ok_or(Malformed)?;
        number.checked_add(sign * digit(next)?).ok_or(Malformed)
    })
}

/// A length up to `max`; `None`: there is nothing.
fn length(line: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
    match number(line)? {
        -1 => Ok(None),
        len => match usize::try_from(len) {
            Ok(len) if len <= max => Ok(Some(len)),
            _ => Err(Malformed),
        },
    }
}

pub(crate) fn read_text<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Takes a push out of `bytes` if one begins at `at` and is complete. Whatever
/// its content, only a flush of the data can have caused it: no key is tracked.
pub(crate) fn take_push(bytes: &mut Vec<u8>, at: usize) -> Result<bool, Malformed> {
    if bytes.get(at) != Some(&b'>') {
        return Ok(false);
    }
    match reply_len(&bytes[at..])? {
        Some(len) => {
            bytes.drain(at..at + len);
            Ok(true)
        }
        None if bytes.len() - at > MAX_REPLY => Err(Malformed),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: &[u8] = b"*4\r\n$-1\r\n$3\r\nabc\r\n:17\r\n-ERR no\r\n";

    #[test]
    fn a_reply_is_read_piece_by_piece() {
        let mut values = Replies::of(EXEC);
        assert_eq!(values.list(4), Some(()));
        assert_eq!(values.next(), Some(Value::Nil));
        assert_eq!(values.bulk(), Some(&b"abc"[..]));
        assert_eq!(values.int(), Some(17));
        assert_eq!(values.next(), Some(Value::Error(b"ERR no")));
        assert_eq!(values.next(), None);
    }

    #[test]
    fn a_reply_is_whole_at_its_last_byte_only() {
        let bytes = [EXEC, b"+OK\r\n"].concat();
        for len in 0..EXEC.len() {
            assert_eq!(reply_len(&bytes[..len]), Ok(None), "{len} bytes");
        }
        for len in EXEC.len()..=bytes.len() {
            assert_eq!(reply_len(&bytes[..len]), Ok(Some(EXEC.len())));
        }
    }

    #[test]
    fn maps_and_pushes_are_lists() {
        let bytes = b"%2\r\n+a\r\n:1\r\n+b\r\n_\r\n";
        assert_eq!(reply_len(bytes), Ok(Some(bytes.len())));
        let bytes = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
        assert_eq!(reply_len(bytes), Ok(Some(bytes.len())));
        assert_eq!(Replies::of(bytes).next(), Some(Value::Push(2)));
    }

    #[test]
    fn verbatim_text_is_text_without_its_format() {
        let bytes = b"=8\r\ntxt:a:1\n\r\n";
        assert_eq!(reply_len(bytes), Ok(Some(bytes.len())));
        assert_eq!(Replies::of(bytes).bulk(), Some(&b"a:1\n"[..]));
        assert_eq!(reply_len(b"=3\r\ntxt\r\n"), Err(Malformed));
    }

    #[test]
    fn nested_and_empty_lists_count() {
        let bytes = b"*3\r\n*0\r\n*-1\r\n*2\r\n:1\r\n*1\r\n+x\r\n";
        assert_eq!(reply_len(bytes), Ok(Some(bytes.len())));
    }

    #[test]
    fn lists_nest_so_deep_and_no_deeper() {
        let nested = |depth| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
        assert!(reply_len(&nested(MAX_DEPTH)).unwrap().is_some());
        assert_eq!(reply_len(&nested(MAX_DEPTH + 1)), Err(Malformed));
    }

    #[test]
    fn numbers_have_their_limits() {
        let read = |text: &str| Replies::of(text.as_bytes()).int();
        assert_eq!(read(":-9223372036854775808\r\n"), Some(i64::MIN));
        assert_eq!(read(":9223372036854775807\r\n"), Some(i64::MAX));
        for text in [
            ":\r\n",
            ":-\r\n",
            ":1a\r\n",
            ":+1\r\n",
            ":9223372036854775808\r\n",
        ] {
            assert_eq!(reply_len(text.as_bytes()), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "?\r\n",
            "+a\rb",
            "$-2\r\n",
            "$1\r\nab\r\n",
            "$99999999\r\n",
            "*65537\r\n",
        ] {
            assert_eq!(reply_len(text.as_bytes()), Err(Malformed), "{text:?}");
        }
    }
}
