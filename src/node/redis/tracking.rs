//! Being told by the server when a key may have become free.
//!
//! A connection of its own, in the third version of the protocol, has the
//! server track what it reads: after a GET of a held key the server pushes one
//! *invalidation* when the key is deleted, expires or is changed, whoever did
//! it. What the connection tells decides when to try, never who has the lock;
//! so nothing is asked of the server's identity here.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::RedisOptions;
use super::address::Address;
use super::attempt::Attempt;
use super::connect::Line;
use super::decode::{misfit, unexpected};
use super::encode::command;
use super::fault::{broken, no_reply, unreachable};
use super::refusal::ErrorReply;
use super::resp::{MAX_REPLY, Piece, Pieces, reply_len};
use super::stream::Stream;
use crate::clock;
use crate::events;
use crate::node::{Sight, Watch, Watchlist};
use crate::proto::lease::Key;
use crate::proto::time::Instant;
use crate::proto::wire::{NodeError, NodeErrorKind};

/// How long an answer may take, and a connection before those that watch a key
/// poll instead; it is being made on.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A connection that nobody watches anything by is closed after as long, or
/// twice as long at the most.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// How long a server that does not track for us is left alone.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);

/// How long a server is left alone to which the connection failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// Keys that may wait to be looked at; one more is not watched.
const MAX_WANTED: usize = 65_536;

/// What one server tells of its keys.
pub(super) struct Tracker {
    address: Arc<Address>,
    key_prefix: Vec<u8>,
    connect_timeout: Duration,
    watchlist: Arc<Watchlist>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Keys that the server is yet to be asked for.
    wanted: Vec<Key>,
    /// Nothing can be watched before.
    blind_until: Instant,
    /// That the server does not track has been said.
    is_refusal_told: bool,
    is_closed: bool,
}

impl Tracker {
    pub(super) fn new(address: Arc<Address>, options: &RedisOptions) -> Arc<Self> {
        Arc::new(Self {
            address,
            key_prefix: options.key_prefix.clone().into(),
            connect_timeout: options.connect_timeout,
            watchlist: Arc::default(),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// See [`Node::watch`](crate::node::Node::watch).
    pub(super) fn watch(&self, key: &Key) -> Option<Watch> {
        let mut state = self.state.lock();
        if state.is_closed
            || state.wanted.len() >= MAX_WANTED
            || state.blind_until > Instant::default() && clock::now() < state.blind_until
        {
            return None;
        }
        let (watch, is_first) = self.watchlist.add(key)?;
        if is_first {
            state.wanted.push(key.clone());
            drop(state);
            self.changed.notify_one();
        }
        Some(watch)
    }

    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Connects when something is to be watched, again and again, until closed.
    pub(super) async fn run(self: Arc<Self>) {
        while self.is_wanted().await {
            let ended = match self.connect().await {
                Ok(session) => {
                    self.state.lock().is_refusal_told = false;
                    session.listen().await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                self.go_blind(&error);
            }
        }
        self.watchlist.tell_all(Sight::Lost);
    }

    /// Connects. Where that takes long, those that watch a key are told that it
    /// is not in sight, again and again.
    async fn connect(&self) -> Result<Session<'_>, NodeError> {
        let attempt = Attempt::begin(self.connect_timeout);
        let connecting = Session::open(self, &attempt);
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

    /// Waits for something to watch; false: closed.
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
        state.wanted.clear();
        let is_news = !is_failure && !state.is_refusal_told;
        state.is_refusal_told |= is_news;
        drop(state);
        if is_news {
            events::untracked(&self.address, error);
        } else {
            events::tracking_lost(&self.address, error);
        }
        self.watchlist.tell_all(Sight::Lost);
    }

    fn late(&self) -> NodeError {
        let message = format!("{} did not answer in time", self.address);
        NodeError::new(NodeErrorKind::Timeout, message)
    }

    /// The key that goes by `name` on the server, if it can be one of ours.
    fn key(&self, name: &[u8]) -> Option<Key> {
        let bytes = name.strip_prefix(&*self.key_prefix)?;
        Key::new(bytes).ok()
    }
}

/// One tracking connection.
struct Session<'a> {
    tracker: &'a Tracker,
    stream: Stream,
    /// What has been read and not been taken in.
    read: Vec<u8>,
    /// Keys that the server has been asked for, and when.
    asked: VecDeque<(Key, Instant)>,
    idle_at: Instant,
}

impl<'a> Session<'a> {
    async fn open(tracker: &'a Tracker, attempt: &Attempt) -> Result<Self, NodeError> {
        let mut line = Line::open(&tracker.address, attempt).await?;
        attempt.comes_to("it does not say whether it tracks keys");
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"HELLO", b"3"]);
            command(out, &[b"CLIENT", b"TRACKING", b"ON"]);
        };
        let answers = line.ask(write, 2).await?;
        if let Some(error) = ErrorReply::first(&answers) {
            return Err(error.explain());
        }
        Ok(Self {
            tracker,
            stream: line.stream,
            read: Vec::new(),
            asked: VecDeque::new(),
            idle_at: clock::now() + IDLE_LIMIT,
        })
    }

    /// Watches until nobody does any more; an error: until it could not.
    async fn listen(mut self) -> Result<(), NodeError> {
        loop {
            self.ask().await?;
            let stalled_at = self.asked.front().map(|&(_, at)| at + ANSWER_LIMIT);
            let timer = clock::sleep_until(stalled_at.unwrap_or(self.idle_at));
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

    /// Looks at the keys that are to be watched.
    async fn ask(&mut self) -> Result<(), NodeError> {
        let wanted = std::mem::take(&mut self.tracker.state.lock().wanted);
        if wanted.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        let mut out = Vec::new();
        for key in wanted {
            if self.tracker.watchlist.contains(&key) {
                let name = [&self.tracker.key_prefix, key.as_bytes()].concat();
                command(&mut out, &[b"GET", &name]);
                self.asked.push_back((key, now));
            }
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

    /// Takes in every reply that is there in full.
    fn take_in(&mut self) -> Result<(), NodeError> {
        let read = std::mem::take(&mut self.read);
        let mut rest = &*read;
        loop {
            match reply_len(rest) {
                Ok(Some(len)) => {
                    let (reply, behind) = rest.split_at(len);
                    self.heed(Pieces::of(reply))?;
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

    fn heed(&mut self, mut reply: Pieces<'_>) -> Result<(), NodeError> {
        let first = reply.next();
        if let Some(Piece::Push(_)) = first {
            if reply.bulk() == Some(b"invalidate") {
                self.invalidate(reply);
            }
            return Ok(());
        }
        let (key, _) = self.asked.pop_front().ok_or_else(|| misfit("nothing"))?;
        let watchlist = &self.tracker.watchlist;
        match first {
            Some(Piece::Nil) => watchlist.tell(&key, Sight::Free),
            // From here on its end is pushed.
            Some(Piece::Bulk(_)) => {}
            Some(Piece::Error(line)) if ErrorReply::of(line).is_no_lock() => {
                watchlist.tell(&key, Sight::Lost);
            }
            other => return Err(unexpected(other, "GET")),
        }
        Ok(())
    }

    /// The server no longer tracks these keys: what is to be watched further
    /// must be read anew. None named: all were flushed.
    fn invalidate(&self, mut names: Pieces<'_>) {
        let watchlist = &self.tracker.watchlist;
        match names.next() {
            Some(Piece::List(_)) => std::iter::from_fn(|| names.bulk())
                .filter_map(|name| self.tracker.key(name))
                .for_each(|key| watchlist.tell(&key, Sight::Changed)),
            _ => watchlist.tell_all(Sight::Changed),
        }
    }
}
