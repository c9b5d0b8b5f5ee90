//! Inspection of a server without taking part in its locks, for operators.
//!
//! It uses a connection of its own, with one question at a time. No rule of the
//! protocol depends on what is reported here. Every server can be inspected,
//! including one that must not hold locks.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::node::redis::codec::decode;
use crate::node::redis::codec::scripts::Script;
use crate::node::redis::connection::clock_monitor;
use crate::node::redis::connection::exchange::Exchange;
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{ErrorReply, misfit, unexpected};
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::escape::shown;
use crate::proto::lease::{Holder, Key};
use crate::proto::node::message::{
    FenceCounterId, NodeError, NodeErrorKind, NodeStatus, Reply, ViewId,
};

mod facts;
mod pulse;
mod server;

pub use self::facts::Facts;
pub use self::pulse::{Cursor, Pulse};
pub use self::server::{Credentials, Server};

/// How long each answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How often the server is asked for its time. The quickest answer counts,
/// because it gives the tightest bound.
const CLOCK_READINGS: usize = 3;

/// Names that the server scans in one round: some hundred microseconds, in
/// which it serves no other client.
const SCAN_COUNT: &[u8] = b"1000";

/// The most rounds of a scan: a million names.
pub const MAX_SCAN_ROUNDS: usize = 1000;

/// Keys that are read in one question.
const KEYS_AT_ONCE: usize = 256;

/// The mark of the one script that is called here, one call at a time.
const MARK: u32 = 0;

/// Bytes of a value that are read: five times the longest token. A longer value
/// is no lock.
const LONGEST_VALUE: usize = 512;

/// An open connection to a [`Server`].
///
/// Every call may be dropped. After a call that was dropped or that failed, the
/// connection is gone, and every further call fails.
pub struct Inspector<'a> {
    server: &'a Server,
    exchange: Option<Exchange<'a>>,
}

impl Inspector<'_> {
    /// What the server reports about itself.
    ///
    /// # Errors
    /// [`NodeError`]: the server gave no answer, or not to this user.
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn facts(&mut self) -> Result<Facts, NodeError> {
        let identity = self
            .with(async |exchange| exchange.introduce().await)
            .await?;
        let (mut round_trip, mut clock_ahead_us) = (Duration::MAX, 0);
        for _ in 0..CLOCK_READINGS {
            let (before, sent_at) = (clock::wall(), clock::now());
            let answer = self.ask(|out| command(out, &[b"TIME"]), 1).await?;
            let took = clock::now().saturating_since(sent_at);
            if took < round_trip {
                let server = clock_monitor::time(&answer)?;
                round_trip = took;
                clock_ahead_us = micros(server) - micros(before + took / 2);
            }
        }
        let answer = self.ask(|out| command(out, &[b"DBSIZE"]), 1).await?;
        let size = Replies::of(&answer).int();
        Ok(Facts {
            identity,
            round_trip,
            clock_ahead_us,
            dbsize: size.ok_or_else(|| unexpected_of(&answer, "DBSIZE"))?,
        })
    }

    /// The status of the node, and the document of the view that it serves.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn status(
        &mut self,
        facts: &Facts,
    ) -> Result<(NodeStatus, Option<Arc<str>>), NodeError> {
        let (id, member) = (self.server.state("id"), self.server.state("m"));
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"GET", &id]);
            command(out, &[b"HMGET", &member, b"nonce", b"inc", b"doc"]);
        };
        let answers = self.ask(write, 2).await?;
        let read = || {
            let mut values = Replies::of(&answers);
            let serving = text(&mut values)?;
            values.list(3)?;
            let status = NodeStatus {
                serving: serving.map(|id| id.parse()).transpose().ok()?,
                nonce: text(&mut values)?,
                stamped: text(&mut values)?,
                incarnation: facts.incarnation().ok()?,
            };
            Some((status, text(&mut values)?))
        };
        read().ok_or_else(|| unexpected_of(&answers, "GET and HMGET"))
    }

    /// Up to `most` locked keys that begin with `prefix`.
    ///
    /// The server is asked in at most [`MAX_SCAN_ROUNDS`] rounds. Keys that are
    /// created or deleted during the scan may be seen or not.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn scan(&mut self, prefix: &[u8], most: usize) -> Result<Scan, NodeError> {
        let pattern = self.pattern(prefix);
        let mut keys = BTreeSet::new();
        let mut cursor = b"0".to_vec();
        for _ in 0..MAX_SCAN_ROUNDS {
            let answer = self.page(&cursor, &pattern).await?;
            let (next, names) = page(&answer).ok_or_else(|| unexpected_of(&answer, "SCAN"))?;
            keys.extend(names.into_iter().filter_map(|name| self.server.key(name)));
            if keys.len() > most || next == b"0" {
                let is_cut = keys.len() > most;
                let keys = keys.into_iter().take(most).collect();
                return Ok(Scan { keys, is_cut });
            }
            cursor = next.to_vec();
        }
        let keys = keys.into_iter().collect();
        Ok(Scan { keys, is_cut: true })
    }

    /// The pattern of the names of keys that begin with `prefix`.
    fn pattern(&self, prefix: &[u8]) -> Vec<u8> {
        [&escaped(self.server.key_prefix()), &*escaped(prefix), b"*"].concat()
    }

    /// One round of a scan.
    async fn page(&mut self, cursor: &[u8], pattern: &[u8]) -> Result<Vec<u8>, NodeError> {
        let mut write = vec![&b"SCAN"[..], cursor, b"MATCH", pattern];
        write.extend([&b"COUNT"[..], SCAN_COUNT, b"TYPE", b"string"]);
        self.ask(|out| command(out, &write), 1).await
    }

    /// What is stored under each of `keys`, in their order.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn find(&mut self, keys: &[Key]) -> Result<Vec<Found>, NodeError> {
        let mut all = Vec::new();
        let last = (LONGEST_VALUE - 1).to_string();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let names: Vec<Vec<u8>> = keys.iter().map(|key| self.server.name(key)).collect();
            let write = |out: &mut Vec<u8>| {
                for name in &names {
                    command(out, &[b"GETRANGE", name, b"0", last.as_bytes()]);
                    command(out, &[b"PTTL", name]);
                }
            };
            let answers = self.ask(write, 2 * keys.len()).await?;
            let mut values = Replies::of(&answers);
            for name in &names {
                let found = found(&mut values);
                let found = found.ok_or_else(|| unexpected_of(&answers, "GETRANGE and PTTL"))?;
                all.push(match self.server.is_state(name) {
                    true => Found::State,
                    false => found,
                });
            }
        }
        Ok(all)
    }

    /// The fence counters of `slots` under `view`, in their order; 0 where
    /// nothing was granted yet. `None`: another view, or none, is served.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn counters(
        &mut self,
        view: ViewId,
        slots: &[FenceCounterId],
    ) -> Result<Option<Vec<u64>>, NodeError> {
        let (id, counters) = (self.server.state("id"), self.server.state("c"));
        let mut all = Vec::new();
        for slots in slots.chunks(KEYS_AT_ONCE) {
            let fields: Vec<String> = slots.iter().map(ToString::to_string).collect();
            let mut read = vec![&b"HMGET"[..], &counters];
            read.extend(fields.iter().map(String::as_bytes));
            // The order matters: views only move up, so a view that is still
            // served was served when the counters were read.
            let write = |out: &mut Vec<u8>| {
                command(out, &read);
                command(out, &[b"GET", &id]);
            };
            let answers = self.ask(write, 2).await?;
            let read = counts(&answers, slots.len());
            let (counts, serving) = read.ok_or_else(|| unexpected_of(&answers, "HMGET and GET"))?;
            if serving.as_deref() != Some(&*view.to_string()) {
                return Ok(None);
            }
            all.extend(counts);
        }
        Ok(Some(all))
    }

    /// RELEASE of `key` in the name of the holder that was found: a newer lease
    /// is left alone.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call may or may not release.
    pub async fn release(&mut self, key: &Key, found: &Entry) -> Result<Reply, NodeError> {
        let (name, script) = (self.server.name(key), Script::Release.source());
        if self.server.is_state(&name) {
            let message = format!("{key} names ringlock's own state, not a lock");
            return Err(NodeError::new(NodeErrorKind::WrongType, message));
        }
        let mark = MARK.to_string();
        let write = [
            b"EVAL",
            script.as_bytes(),
            b"1",
            &name,
            &*found.value,
            mark.as_bytes(),
        ];
        let answer = self.ask(|out| command(out, &write), 1).await?;
        let released = decode::release(&answer, MARK);
        released.unwrap_or_else(|| Err(unexpected_of(&answer, "RELEASE")))
    }

    /// Has the server load ringlock's scripts, as every router does.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call may or may not load.
    pub async fn load_scripts(&mut self) -> Result<(), NodeError> {
        self.with(async |exchange| exchange.load().await)
            .await
            .map(|_| ())
    }

    /// Has the server carry out ringlock's own writes, on names in ringlock's
    /// namespace that nothing else uses, and deletes them again.
    ///
    /// # Errors
    /// As [`facts`](Self::facts); also where the server takes no writes, or
    /// none from this user.
    ///
    /// # Cancel safety
    /// A dropped call may leave three small keys, `NAMESPACE!try!id` and so on,
    /// which the next one deletes.
    pub async fn try_writes(&mut self) -> Result<(), NodeError> {
        let names = ["try!id", "try!m", "try!c"].map(|name| self.server.state(name));
        let scripts = self.with(async |exchange| exchange.load().await).await?;
        let write = |out: &mut Vec<u8>| {
            let [id, member, counters] = &names;
            let script = |script| [b"EVALSHA", scripts.sha(script), b"3", id, member, counters];
            command(out, &[b"DEL", id, member, counters]);
            let mark = MARK.to_string();
            let mark = mark.as_bytes();
            let quarantine: [&[u8]; 5] = [b"", b"", b"try", b"try", mark];
            command(
                out,
                &[&script(Script::Quarantine)[..], &quarantine].concat(),
            );
            let adopt: [&[u8]; 6] = [b"1", b"try", b"try", b"try", b"try", mark];
            command(out, &[&script(Script::Adopt)[..], &adopt].concat());
            command(out, &[b"DEL", id, member, counters]);
        };
        let answers = self.ask(write, 4).await?;
        match ErrorReply::first(&answers) {
            Some(error) => Err(error.explain()),
            None => Ok(()),
        }
    }

    /// A setting of the server; `None`: the server has none of that name.
    ///
    /// # Errors
    /// As [`facts`](Self::facts); many servers let few users read settings.
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, NodeError> {
        let write = |out: &mut Vec<u8>| command(out, &[b"CONFIG", b"GET", name.as_bytes()]);
        let answer = self.ask(write, 1).await?;
        let mut values = Replies::of(&answer);
        match values.next() {
            Some(Value::List(0)) => Ok(None),
            Some(Value::List(2)) => {
                let value = values.bulk().and_then(|_| values.bulk());
                let value = value.ok_or_else(|| misfit("CONFIG GET"))?;
                Ok(Some(shown(value, LONGEST_VALUE)))
            }
            other => Err(unexpected(other, "CONFIG GET")),
        }
    }

    async fn ask(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        replies: usize,
    ) -> Result<Vec<u8>, NodeError> {
        self.with(async |exchange| exchange.ask(write, replies).await)
            .await
    }

    /// Asks on the connection, and keeps it if the answer arrived.
    async fn with<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut Exchange<'_>) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let closed = || NodeError::new(NodeErrorKind::Closed, "the connection is gone");
        let mut exchange = self.exchange.take().ok_or_else(closed)?;
        let deadline = clock::now() + ANSWER_LIMIT;
        let answer = clock::within(Some(deadline), question(&mut exchange)).await;
        let answer = answer.unwrap_or_else(|| Err(self.server.late()))?;
        self.exchange = Some(exchange);
        Ok(answer)
    }
}

impl fmt::Debug for Inspector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inspector").field(self.server).finish()
    }
}

/// The result of a scan of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scan {
    /// The keys, sorted.
    pub keys: Vec<Key>,
    /// Whether there may be more.
    pub is_cut: bool,
}

/// What is stored under a key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Found {
    /// Nothing.
    Free,
    /// An entry.
    Held(Entry),
    /// Something that is no lock.
    NoLock,
    /// Ringlock's own state.
    State,
}

/// An entry of a holder, as one node has it.
#[derive(Clone)]
pub struct Entry {
    value: Vec<u8>,
    remaining: Option<Duration>,
}

impl Entry {
    /// The holder of the entry.
    pub fn holder(&self) -> Holder {
        Holder::of_stored(&self.value)
    }

    /// How long the entry lasts unless it is extended; `None`: it never
    /// expires, which no router of ours creates.
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining
    }

    /// Whether both are entries of one lease.
    pub fn is_of_lease(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl fmt::Debug for Entry {
    /// Shows no token: knowing the token is enough to release the lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("holder", &self.holder())
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

/// Escapes `text` so that a pattern matches it literally.
fn escaped(text: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::new();
    for &byte in text {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern
}

fn unexpected_of(answers: &[u8], what: &str) -> NodeError {
    ErrorReply::first(answers).map_or_else(|| misfit(what), |error| error.explain())
}

/// A text; the inner `None` is nil.
fn text(values: &mut Replies<'_>) -> Option<Option<Arc<str>>> {
    match values.next()? {
        Value::Nil => Some(None),
        Value::Bulk(bytes) => std::str::from_utf8(bytes)
            .ok()
            .map(|text| Some(text.into())),
        _ => None,
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The next cursor, and the names.
fn page(answer: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut values = Replies::of(answer);
    values.list(2)?;
    let cursor = values.bulk()?;
    let Value::List(len) = values.next()? else {
        return None;
    };
    let names = (0..len).map(|_| values.bulk()).collect::<Option<_>>()?;
    Some((cursor, names))
}

/// The `len` counters, and the view that is served.
fn counts(answers: &[u8], len: usize) -> Option<(Vec<u64>, Option<Arc<str>>)> {
    let mut values = Replies::of(answers);
    values.list(len)?;
    let counter = |_| text(&mut values)?.map_or(Some(0), |count| count.parse().ok());
    let counts = (0..len).map(counter).collect::<Option<_>>()?;
    Some((counts, text(&mut values)?))
}

/// Reads whole replies as if each were the answer to each question.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(replies: &[u8]) {
    let _ = (
        clock_monitor::time(replies),
        page(replies),
        counts(replies, 2),
    );
    let mut values = Replies::of(replies);
    while let Some(found) = found(&mut values) {
        let _ = format!("{found:?}");
    }
    let _ = unexpected_of(replies, "a question");
}

fn found(values: &mut Replies<'_>) -> Option<Found> {
    let value = values.next()?;
    let left = values.int()?;
    match value {
        Value::Error(line) if ErrorReply::of(line).is_no_lock() => Some(Found::NoLock),
        Value::Bulk(_) if left == -2 => Some(Found::Free),
        Value::Bulk(value) if value.len() >= LONGEST_VALUE => Some(Found::NoLock),
        Value::Bulk(value) => Some(Found::Held(Entry {
            value: value.to_vec(),
            remaining: u64::try_from(left).ok().map(Duration::from_millis),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_literal() {
        assert_eq!(escaped(b"a*b?[c]\\"), b"a\\*b\\?\\[c\\]\\\\");
    }

    #[test]
    fn tokens_are_not_shown() {
        let entry = Entry {
            value: b"s3cret".to_vec(),
            remaining: None,
        };
        let shown = format!("{entry:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn answers_that_do_not_fit_are_none() {
        assert!(page(b"*2\r\n$1\r\n0\r\n*1\r\n:1\r\n").is_none());
        let mut values = Replies::of(b"$1\r\nx\r\n$1\r\ny\r\n");
        assert!(found(&mut values).is_none());
    }
}
