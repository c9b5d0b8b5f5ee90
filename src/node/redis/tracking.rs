//! Notification by the server when a key may have become free.
//!
//! A separate connection, in version 3 of the protocol (RESP3), has the server
//! track what it reads: after a GET of a held key the server pushes one
//! *invalidation* when the key is deleted, expires or is changed, by any
//! client. What the connection reports decides when to try, never which caller
//! has the lock. So the server's identity is not checked here.
//!
//! Over the same connection a process announces that it waits, and learns
//! whether others do: see `hints`.

pub(crate) mod hints;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::clock;
use crate::node::redis::connection::address::Address;
use crate::node::redis::connection::attempt::Attempt;
use crate::node::redis::connection::error::{broken, no_reply, unreachable};
use crate::node::redis::connection::exchange::Exchange;
use crate::node::redis::connection::stream::Stream;
use crate::node::redis::options::RedisOptions;
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{ErrorReply, misfit, unexpected};
use crate::node::redis::resp::parser::{MAX_REPLY, Replies, Value, reply_len};
use crate::node::redis::tracking::hints::{Hints, NOTE_LIFE};
use crate::node::{Interest, Watch, WatchEvent, Watchers};
use crate::proto::lease::Key;
use crate::proto::node::message::{NodeError, NodeErrorKind};
use crate::proto::time::Instant;
use crate::runtime::origin::ProcessOrigin;
use crate::telemetry::events;

/// How long an answer may take, and how long connecting may take before the
/// watches of a key fall back to polling; the attempt to connect continues.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A connection without watches is closed after this long, or at most twice
/// this long.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// How long a server that does not track for us is not tried again.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);

/// How long a server is not tried again after the connection to it failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// Keys that may wait to be read; one more is not watched.
const MAX_WANTED: usize = 65_536;

/// Tracks the keys of one server.
pub(crate) struct Tracker {
    address: Arc<Address>,
    key_prefix: Vec<u8>,
    connect_timeout: Duration,
    /// The prefix of the names of notes.
    note_prefix: Vec<u8>,
    watchlist: Arc<Watchers>,
    state: Mutex<State>,
    changed: Notify,
    origin: ProcessOrigin,
}

#[derive(Default)]
struct State {
    /// What the server has not been asked yet; at most [`MAX_WANTED`].
    wanted: Vec<Ask>,
    hints: Hints,
    /// Nothing can be watched before this time.
    blind_until: Instant,
    /// It has been reported that the server does not track.
    is_refusal_reported: bool,
    is_closed: bool,
}

/// A command that is sent to the server.
#[derive(Clone, Debug)]
enum Ask {
    /// Reads a key, to learn when it is free. A key that was seen held is read
    /// again because of a change that may be none.
    Watch(Key, Again),
    /// Reads whether another process waits for a key.
    Interest(Key),
    /// Announces that a caller waits for a key.
    Note(Key),
}

type Again = bool;

impl State {
    /// Whether nothing can be asked now.
    fn is_blind(&self) -> bool {
        self.is_closed
            || self.wanted.len() >= MAX_WANTED
            || self.blind_until > Instant::default() && clock::now() < self.blind_until
    }

    fn leave_note(&mut self, key: &Key) -> bool {
        let is_due = self.hints.leave(key, clock::now());
        if is_due {
            self.wanted.push(Ask::Note(key.clone()));
        }
        is_due
    }
}

impl Tracker {
    pub(crate) fn new(address: Arc<Address>, options: &RedisOptions) -> Arc<Self> {
        Arc::new(Self {
            address,
            key_prefix: options.key_prefix.clone().into(),
            note_prefix: format!("{}!w:", options.namespace).into(),
            connect_timeout: options.connect_timeout,
            watchlist: Arc::default(),
            state: Mutex::default(),
            changed: Notify::new(),
            origin: ProcessOrigin::here(),
        })
    }

    /// See [`Node::watch`](crate::node::Node::watch).
    pub(crate) fn watch(&self, key: &Key) -> Option<Watch> {
        if self.origin.is_elsewhere() {
            return None;
        }
        let mut state = self.state.lock();
        if state.is_blind() {
            return None;
        }
        let (watch, is_first) = self.watchlist.add(key)?;
        if is_first {
            state.wanted.push(Ask::Watch(key.clone(), false));
        }
        if state.leave_note(key) || is_first {
            drop(state);
            self.changed.notify_one();
        }
        Some(watch)
    }

    /// See [`Node::want`](crate::node::Node::want).
    pub(crate) fn want(&self, key: &Key) {
        let mut state = self.state.lock();
        if !state.is_blind() && state.leave_note(key) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// See [`Node::interest`](crate::node::Node::interest).
    pub(crate) fn interest(&self, key: &Key) -> Interest {
        let mut state = self.state.lock();
        if state.is_blind() {
            return Interest::Unknown;
        }
        let (interest, is_to_be_asked) = state.hints.interest(key, clock::now());
        if is_to_be_asked {
            state.wanted.push(Ask::Interest(key.clone()));
            drop(state);
            self.changed.notify_one();
        }
        interest
    }

    pub(crate) fn close(&self) {
        if self.origin.is_elsewhere() {
            return;
        }
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// The task has ended, perhaps with its runtime: no watch can be notified
    /// from now on.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.wanted.clear();
        drop(state);
        self.watchlist.notify_all(WatchEvent::Lost);
    }

    /// Connects when there is a command to send, again after each connection,
    /// until closed.
    pub(crate) async fn run(self: Arc<Self>) {
        while self.is_wanted().await {
            let ended = match self.connect().await {
                Ok(session) => {
                    self.state.lock().is_refusal_reported = false;
                    session.listen().await
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => self.state.lock().hints.forget(),
                Err(error) => self.go_blind(&error),
            }
        }
    }

    /// Connects. While that takes long, the watches are resolved as lost, again
    /// and again.
    async fn connect(&self) -> Result<TrackingConnection<'_>, NodeError> {
        let attempt = Attempt::begin(self.connect_timeout);
        let connecting = TrackingConnection::open(self, &attempt);
        tokio::pin!(connecting);
        loop {
            let now = clock::now();
            let patience = (now + ANSWER_LIMIT).min(attempt.deadline);
            let is_last = patience == attempt.deadline;
            match clock::within(Some(patience), &mut connecting).await {
                Some(connected) => return connected,
                None if is_last || self.state.lock().is_closed => {
                    return Err(attempt.late(&self.address));
                }
                None => self.go_blind(&attempt.late(&self.address)),
            }
        }
    }

    /// Waits for a command to send; false: closed.
    async fn is_wanted(&self) -> bool {
        loop {
            {
                let state = self.state.lock();
                if state.is_closed || !state.wanted.is_empty() {
                    return !state.is_closed;
                }
            }
            self.changed.notified().await;
        }
    }

    fn go_blind(&self, error: &NodeError) {
        let is_failure = error.kind().is_transient() || error.kind() == NodeErrorKind::Closed;
        let pause = if is_failure {
            FAILURE_PAUSE
        } else {
            REFUSAL_PAUSE
        };
        let mut state = self.state.lock();
        state.blind_until = clock::now() + pause;
        // The queued commands are dropped, and earlier answers no longer hold.
        state.wanted.clear();
        state.hints.forget();
        let is_news = !is_failure && !state.is_refusal_reported;
        state.is_refusal_reported |= is_news;
        drop(state);
        if is_news {
            events::untracked(&self.address, error);
        } else {
            events::tracking_lost(&self.address, error);
        }
        self.watchlist.notify_all(WatchEvent::Lost);
    }

    fn late(&self) -> NodeError {
        let message = format!("{} did not answer in time", self.address);
        NodeError::new(NodeErrorKind::Timeout, message)
    }

    /// Handles a change of `name`, the name of a note or a key on the server.
    fn invalidate(&self, name: &[u8], now: Instant) {
        let key = |prefix: &[u8]| Key::new(name.strip_prefix(prefix)?).ok();
        let hints = |change: &dyn Fn(&mut Hints) -> bool| change(&mut self.state.lock().hints);
        if let Some(key) = key(&self.note_prefix) {
            hints(&|hints| {
                hints.note_changed(&key);
                true
            });
        } else if let Some(key) = key(&self.key_prefix)
            && hints(&|hints| hints.changed(&key, now))
        {
            self.watchlist.notify(&key, WatchEvent::Changed);
        }
    }
}

/// One tracking connection.
struct TrackingConnection<'a> {
    tracker: &'a Tracker,
    stream: Stream,
    /// What has been read and not been processed.
    read: Vec<u8>,
    /// The commands in flight, and when each was sent.
    asked: VecDeque<(Ask, Instant)>,
    idle_at: Instant,
}

impl<'a> TrackingConnection<'a> {
    async fn open(tracker: &'a Tracker, attempt: &Attempt) -> Result<Self, NodeError> {
        let mut exchange = Exchange::open(&tracker.address, attempt).await?;
        attempt.comes_to("it does not report whether it tracks keys");
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"HELLO", b"3"]);
            command(out, &[b"CLIENT", b"TRACKING", b"ON"]);
        };
        let answers = exchange.ask(write, 2).await?;
        if let Some(error) = ErrorReply::first(&answers) {
            return Err(error.explain());
        }
        Ok(Self {
            tracker,
            stream: exchange.stream,
            read: Vec::new(),
            asked: VecDeque::new(),
            idle_at: clock::now() + IDLE_LIMIT,
        })
    }

    /// Serves the watches until none is left or the tracker is closed. Fails
    /// when the connection does.
    async fn listen(mut self) -> Result<(), NodeError> {
        loop {
            self.ask().await?;
            let stalled_at = self.asked.front().map(|&(_, at)| at + ANSWER_LIMIT);
            let next_look = self.tracker.state.lock().hints.next_look();
            let ends_at = stalled_at.unwrap_or(self.idle_at);
            let timer = clock::sleep_until(next_look.map_or(ends_at, |at| at.min(ends_at)));
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.read) => {
                    let address = &self.tracker.address;
                    if read.map_err(|error| broken(address, &error))? == 0 {
                        return Err(broken(address, &io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.take_in()?;
                }
                () = self.tracker.changed.notified() => {}
                () = timer => {
                    let now = clock::now();
                    if now < ends_at {
                        continue;
                    }
                    if stalled_at.is_some() {
                        return Err(self.tracker.late());
                    }
                    if self.tracker.watchlist.is_empty() {
                        return Ok(());
                    }
                    self.idle_at = clock::now() + IDLE_LIMIT;
                }
            }
            if self.tracker.state.lock().is_closed {
                return Ok(());
            }
        }
    }

    /// Sends the queued commands.
    async fn ask(&mut self) -> Result<(), NodeError> {
        let now = clock::now();
        let watchlist = &self.tracker.watchlist;
        let is_watched = |key: &Key| watchlist.contains(key);
        let wanted = {
            let mut state = self.tracker.state.lock();
            let looks = state.hints.looks(now, is_watched);
            let again = looks.into_iter().map(|key| Ask::Watch(key, true));
            let mut wanted = std::mem::take(&mut state.wanted);
            wanted.extend(again);
            state.hints.purge(is_watched);
            wanted
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        let life = NOTE_LIFE.as_millis().to_string();
        for ask in wanted {
            let name = |prefix: &[u8], key: &Key| [prefix, key.as_bytes()].concat();
            match &ask {
                Ask::Watch(key, _) if !is_watched(key) => continue,
                Ask::Watch(key, _) => {
                    command(&mut out, &[b"GET", &name(&self.tracker.key_prefix, key)]);
                }
                Ask::Interest(key) => {
                    command(&mut out, &[b"GET", &name(&self.tracker.note_prefix, key)]);
                }
                Ask::Note(key) => {
                    let name = name(&self.tracker.note_prefix, key);
                    command(&mut out, &[b"SET", &name, b"1", b"PX", life.as_bytes()]);
                }
            }
            self.asked.push_back((ask, now));
        }
        self.idle_at = now + IDLE_LIMIT;
        let sent = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        match clock::within(Some(now + ANSWER_LIMIT), sent).await {
            Some(sent) => sent.map_err(|error| unreachable(&self.tracker.address, &error)),
            None => Err(self.tracker.late()),
        }
    }

    /// Processes every reply that has arrived in full.
    fn take_in(&mut self) -> Result<(), NodeError> {
        let read = std::mem::take(&mut self.read);
        let mut rest = &*read;
        loop {
            match reply_len(rest) {
                Ok(Some(len)) => {
                    let (reply, behind) = rest.split_at(len);
                    self.heed(Replies::of(reply))?;
                    rest = behind;
                }
                Ok(None) if rest.len() <= MAX_REPLY => {
                    self.read.extend_from_slice(rest);
                    return Ok(());
                }
                _ => return Err(no_reply(&self.tracker.address)),
            }
        }
    }

    fn heed(&mut self, mut reply: Replies<'_>) -> Result<(), NodeError> {
        let first = reply.next();
        if let Some(Value::Push(_)) = first {
            if reply.bulk() == Some(b"invalidate") {
                self.invalidate(reply);
            }
            return Ok(());
        }
        let (ask, _) = self.asked.pop_front().ok_or_else(|| misfit("nothing"))?;
        let (watchlist, state) = (&self.tracker.watchlist, &self.tracker.state);
        match (ask, first) {
            (Ask::Watch(key, is_again), Some(Value::Nil)) => {
                state.lock().hints.free(&key);
                let event = if is_again {
                    WatchEvent::Changed
                } else {
                    WatchEvent::Free
                };
                watchlist.notify(&key, event);
            }
            // From here on the server pushes the end of the entry.
            (Ask::Watch(key, _), Some(Value::Bulk(stored))) => {
                state.lock().hints.held(&key, stored, clock::now());
            }
            (Ask::Watch(key, _), Some(Value::Error(line))) if ErrorReply::of(line).is_no_lock() => {
                watchlist.notify(&key, WatchEvent::Lost);
            }
            // A user without permission for notes announces nothing and learns
            // nothing.
            (Ask::Note(_), Some(Value::Status(_) | Value::Error(_))) => {}
            (Ask::Interest(key), Some(reply @ (Value::Nil | Value::Bulk(_) | Value::Error(_)))) => {
                let is_there = match reply {
                    Value::Nil => Some(false),
                    Value::Bulk(_) => Some(true),
                    _ => None,
                };
                state.lock().hints.noted(key, is_there, clock::now());
            }
            (Ask::Note(_), other) => return Err(unexpected(other, "SET")),
            (_, other) => return Err(unexpected(other, "GET")),
        }
        Ok(())
    }

    /// The server no longer tracks these keys: a key that is still watched must
    /// be read again. No name means that all keys were flushed.
    fn invalidate(&self, mut names: Replies<'_>) {
        let now = clock::now();
        match names.next() {
            Some(Value::List(_)) => std::iter::from_fn(|| names.bulk())
                .for_each(|name| self.tracker.invalidate(name, now)),
            _ => {
                self.tracker.state.lock().hints.forget();
                self.tracker.watchlist.notify_all(WatchEvent::Changed);
            }
        }
    }
}
