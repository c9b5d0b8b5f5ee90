//! The Redis node against the table that specifies every node: random requests
//! go to both, and every reply and every state must be the same.
//!
//! Two differences are intended, both within batches. They come from acquires by
//! commands, which are carried out before the view is checked, where the view was
//! the one served a moment ago. First, such an ACQUIRE takes a count although its
//! view is no longer served: gaps are harmless, and later counts are higher, never
//! lower. Where no view is served, there is no table to count in; the next view
//! discards those counts, and they are not compared. Second, it creates an entry
//! that is deleted at once. In between, the entry may block other acquires;
//! therefore only extends follow such an acquire in a batch. What follows it
//! also comes later than usual: an acquire that finds its own token raises the
//! entry afterwards. Therefore a token is not used again within a batch once it
//! is released, as no real token is. The remaining time of a rival's entry is
//! read afterwards, and is not compared within batches.
//!
//! Single commands add two differences, also within batches. Keys that could not
//! be set together have taken counts that are not granted. The value in place of
//! an entry that was not released is read afterwards: the test does not compare
//! whether it is nothing or another program's.
//!
//! `RINGLOCK_SEED` repeats a run.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use ringlock::node::Node;
use ringlock::node::redis::{Encoding, RedisNode, RedisOptions};
use ringlock::proto::lease::{COUNTER_LIMIT, Key, Token, Ttl};
use ringlock::proto::node::lock_table::LockTable;
use ringlock::proto::node::message::{
    Accepted, Answer, Ballot, FenceCounterId, IfMissing, Incarnation, NodeState, NodeStatus, Nonce,
    Reply, Request, ViewId,
};
use ringlock_test_support::edition::Edition;
use ringlock_test_support::node::{Inbox, ask, now};
use ringlock_test_support::{RedisServer, seed};

/// No request may time out: that would be a difference.
const DEADLINE: Duration = Duration::from_secs(60);

/// Ttls are multiples of this, far longer than a run.
const TTL_STEP: Duration = Duration::from_secs(1000);

/// Initially all keys are free, so that many can be set together.
const MANY_KEYS: u8 = 60;

/// The most by which the remaining ttls of the two clocks may differ.
const TOLERANCE: Duration = Duration::from_secs(100);

const KEYS: u8 = 5;

/// The next step.
#[derive(Clone, Debug)]
enum Step {
    Ask(Request),
    /// The entry of a key disappears, as if it had expired.
    Lapse(Key),
    /// The entry of a key loses its expiry; or, where there is none, another
    /// program sets one without expiry.
    Persist(Key, Token),
    /// The state has the stamp of this incarnation.
    Forge(Incarnation),
}

/// Draws steps from few values, so that they collide often.
struct Dice {
    rng: StdRng,
    keys: u8,
    ttls: u32,
    /// Whether each key has its own slot.
    slot_per_key: bool,
    /// The base from which ballots are drawn.
    round: u32,
}

impl Dice {
    fn new(seed: u64, slot_per_key: bool) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self {
            rng,
            keys: KEYS,
            ttls: 5,
            slot_per_key,
            round: 1,
        }
    }

    fn pick<T: Clone>(&mut self, values: &[T]) -> T {
        values.choose(&mut self.rng).expect("values").clone()
    }

    fn view(&mut self) -> ViewId {
        let (epoch, digest) = (self.rng.random_range(0..5), self.rng.random_range(1..3));
        ViewId { epoch, digest }
    }

    fn token(&mut self) -> Token {
        match self.rng.random_range(0..3) {
            0 => Token::new(0, None),
            1 => Token::new(u128::MAX, Some("host-1:4711".into())),
            _ => Token::new(1, Some("ü".into())),
        }
    }

    fn nonce(&mut self) -> Nonce {
        self.pick(&["n1", "n2", "n3"]).into()
    }

    /// Rounds grow over time; otherwise hardly any ballot would be promised.
    fn ballot(&mut self) -> Ballot {
        self.round += u32::from(self.rng.random_bool(0.5));
        // Around 2^63 a server's numbers would lose the difference.
        let proposers = [0, 0xaa, 0xff, (1 << 63) - 1, 1 << 63, u64::MAX];
        Ballot {
            round: self.round + self.rng.random_range(0..3),
            proposer: self.pick(&proposers),
        }
    }

    fn slot(&mut self, key: u8) -> FenceCounterId {
        let part = if self.slot_per_key {
            u16::from(key)
        } else {
            self.rng.random_range(0..2)
        };
        FenceCounterId {
            replicas: 1,
            arc: 9,
            part,
        }
    }

    /// Mostly none or small; sometimes so near the limit that counts exceed it.
    fn floor(&mut self) -> u64 {
        match self.rng.random_range(0..100) {
            0..70 => 0,
            70..99 => self.rng.random_range(1..500),
            _ => COUNTER_LIMIT - self.rng.random_range(1..9),
        }
    }

    /// A request, usually one that fits the node's state.
    fn request(&mut self, status: &NodeStatus) -> Request {
        let key_index = self.rng.random_range(0..self.keys);
        // Bytes that would break a line-based protocol.
        let key = Key::new([b'k', b'\r', b'\n', 0, 0xfe + (key_index & 1), key_index]).unwrap();
        let view = match status.serving {
            Some(serving) if self.rng.random_bool(0.9) => serving,
            _ => self.view(),
        };
        let (token, slot, floor) = (self.token(), self.slot(key_index), self.floor());
        let ttl = ttl(self.rng.random_range(1..=self.ttls));
        match self.rng.random_range(0..100) {
            0..36 => Request::Acquire {
                view,
                key,
                token,
                ttl,
                slot,
                floor,
            },
            36..60 => Request::Extend {
                view,
                key,
                token,
                ttl,
                slot,
                floor,
                if_missing: self.pick(&[IfMissing::Recreate, IfMissing::Report]),
            },
            60..78 => Request::Release { key, token },
            78..80 => Request::Status,
            80..81 => Request::PriorState,
            81..83 => Request::Document,
            83..85 => {
                let as_it_is = self.rng.random_bool(0.5);
                let nonces = [None, Some(self.nonce())];
                let views = [None, Some(self.view())];
                let (nonce, view) = (self.pick(&nonces), self.pick(&views));
                Request::Quarantine {
                    expected_nonce: if as_it_is {
                        status.nonce.clone()
                    } else {
                        nonce
                    },
                    expected_view: if as_it_is { status.serving } else { view },
                    nonce: self.nonce(),
                }
            }
            85..94 => self.vote(view),
            94..99 => {
                let as_it_is = self.rng.random_bool(0.7);
                let nonce = self.nonce();
                let view = self.view();
                Request::Adopt {
                    view,
                    document: document(view),
                    nonce: status.nonce.clone().filter(|_| as_it_is).unwrap_or(nonce),
                }
            }
            _ => {
                let stamped = status.stamped.clone().unwrap_or_default();
                let others = ["elsewhere".into(), stamped.clone(), stamped];
                Request::Restamp {
                    expected: self.pick(&others),
                }
            }
        }
    }

    fn vote(&mut self, view: ViewId) -> Request {
        let (ballot, next) = (self.ballot(), self.view());
        if self.rng.random_bool(0.6) {
            return Request::Prepare { view, ballot };
        }
        Request::Accept {
            view,
            ballot,
            next,
            document: document(next),
        }
    }

    fn step(&mut self, status: &NodeStatus) -> Step {
        match (self.request(status), self.rng.random_range(0..1000)) {
            (Request::Acquire { key, .. } | Request::Extend { key, .. }, 0..40) => Step::Lapse(key),
            (Request::Acquire { key, token, .. } | Request::Extend { key, token, .. }, 40..80) => {
                Step::Persist(key, token)
            }
            (_, 998..) => Step::Forge("elsewhere".into()),
            (request, _) => Step::Ask(request),
        }
    }
}

fn ttl(steps: u32) -> Ttl {
    Ttl::new(TTL_STEP * steps, TTL_STEP * 100).unwrap()
}

fn document(view: ViewId) -> Arc<str> {
    format!("the document of\r\n{view}").into()
}

/// A server behind a node, and the table that it must match.
struct Pair {
    server: RedisServer,
    client: redis::Connection,
    node: RedisNode,
    table: LockTable,
    encoding: Encoding,
    requests: usize,
    /// How often each kind of reply was the right one.
    replies: BTreeMap<String, usize>,
    /// Requests and their right replies since the states were last compared.
    history: Vec<(Request, Reply)>,
    is_batched: bool,
}

impl Pair {
    fn new(edition: Edition, encoding: Encoding, server: RedisServer) -> Self {
        let mut options = RedisOptions::default();
        options.encoding = Some(encoding);
        options.literal = true;
        let node = RedisNode::new(&server.url(), options).expect("a node");
        let mut client = server.client();
        let table = LockTable::new(incarnation(&mut client));
        Self {
            server,
            client,
            node,
            table,
            // This edition supports no other.
            encoding: match edition {
                Edition::Redis62 => Encoding::Script,
                Edition::System | Edition::Valkey => encoding,
            },
            requests: 0,
            replies: BTreeMap::new(),
            history: Vec::new(),
            is_batched: false,
        }
    }

    fn status(&mut self) -> NodeStatus {
        match self.table.apply(now(), &Request::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Applies a request to the table; returns its number for
    /// [`Self::compare`].
    fn expect(&mut self, request: Request) -> usize {
        self.requests += 1;
        let reply = self.table.apply(now(), &request);
        let text = format!("{reply:?}");
        let kind = match &reply {
            Reply::Promised(Some(_)) => "Promised(Some",
            _ => text.split(['(', ' ']).next().unwrap_or_default(),
        };
        *self.replies.entry(kind.to_owned()).or_default() += 1;
        self.history.push((request, reply));
        self.history.len() - 1
    }

    /// Whether it is an acquire under a view that the node does not serve.
    fn is_stale(&mut self, request: &Request) -> bool {
        let standing = self.status().standing();
        matches!(request, Request::Acquire { view, .. } if standing != NodeState::Serving(*view))
    }

    /// The token that holds `key`.
    fn holder(&self, key: &Key) -> Option<&Token> {
        let mut live = self.table.live(now());
        live.find_map(|(locked, token, _)| (locked == key).then_some(token))
    }

    /// The key and the token of an acquire that finds its own entry.
    fn repeats(&self, request: &Request) -> Option<(Key, Token)> {
        let Request::Acquire { key, token, .. } = request else {
            return None;
        };
        (self.holder(key) == Some(token)).then(|| (key.clone(), token.clone()))
    }

    /// Whether it creates an entry again that a repeated acquire may still
    /// raise.
    fn revives(&self, request: &Request, repeated: &HashSet<(Key, Token)>) -> bool {
        match request {
            Request::Acquire { key, token, .. } | Request::Extend { key, token, .. } => {
                self.holder(key).is_none() && repeated.contains(&(key.clone(), token.clone()))
            }
            _ => false,
        }
    }

    /// Takes a count from the table, and all below `floor`.
    fn take_count(&mut self, serving: ViewId, slot: FenceCounterId, floor: u64) {
        let scratch = Key::new("scratch").unwrap();
        let burn = Request::Acquire {
            view: serving,
            key: scratch.clone(),
            token: Token::new(7, None),
            ttl: ttl(1),
            slot,
            floor,
        };
        let _ = self.table.apply(now(), &burn);
        self.table.delete(&scratch);
    }

    /// Takes from the table the counts that were wasted: on keys that could not be
    /// set together, and on views that are no longer served. Only a slot in which
    /// the batch asked for a count may be ahead, also of a table that has none.
    fn take_gaps(&mut self, found: &BTreeMap<String, u64>) {
        let NodeState::Serving(serving) = self.status().standing() else {
            return;
        };
        let counts: BTreeMap<_, _> = self.table.counters().collect();
        let asked = self
            .history
            .iter()
            .filter_map(|(request, _)| match request {
                Request::Acquire { slot, .. } => Some(*slot),
                _ => None,
            });
        let ahead: BTreeMap<_, _> = asked
            .filter_map(|slot| {
                let count = counts.get(&slot).copied().unwrap_or(0);
                let found = *found.get(&slot.to_string())?;
                (found > count).then_some((slot, (count, found)))
            })
            .collect();
        for (slot, (count, found)) in ahead {
            assert!(self.is_batched && self.sends_commands());
            assert!(found - count < 1000, "{slot}: {count}, {found}");
            self.take_count(serving, slot, found);
        }
    }

    /// The releases of all held keys.
    fn releases(&self) -> Vec<Request> {
        let release = |(key, token, _): (&Key, &Token, _)| Request::Release {
            key: key.clone(),
            token: token.clone(),
        };
        self.table.live(now()).map(release).collect()
    }

    fn sends_commands(&self) -> bool {
        self.encoding >= Encoding::Pipeline
    }

    #[track_caller]
    fn compare(&self, number: usize, got: &Answer) {
        let expected = Ok(self.history[number].1.clone());
        let (expected_left, mut expected) = without_remaining(expected);
        let (left, mut got) = without_remaining(got.clone());
        if self.is_batched && self.sends_commands() {
            without_gaps(&mut expected, &mut got);
        }
        if self.is_batched && self.encoding == Encoding::Command {
            without_later_reads(&expected, &mut got);
        }
        let are_near = match (expected_left, left) {
            // The remaining time is read afterwards, when the next request may
            // already have changed it.
            _ if self.is_batched && self.sends_commands() => true,
            (Some(expected), Some(left)) => expected.abs_diff(left) < TOLERANCE,
            (expected, left) => expected == left,
        };
        assert!(
            got == expected && are_near,
            "the node answers {got:?} ({left:?} left), the table {expected:?} ({expected_left:?} left)\n{}",
            self.story(number)
        );
    }

    /// Request `number` and the requests that led to it.
    fn story(&self, number: usize) -> String {
        let (last, _) = &self.history[number];
        let matters = |(request, _): &&(Request, Reply)| {
            request.key().is_none() || last.key().is_none() || request.key() == last.key()
        };
        let reported = self.history[..=number].iter().filter(matters);
        let lines: Vec<_> = reported
            .map(|(asked, reply)| format!("{asked:?}: {reply:?}"))
            .collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Sends one request to both, and compares the answers.
    async fn check(&mut self, request: Request) {
        let number = self.expect(request.clone());
        let got = ask(&self.node, request, DEADLINE).await;
        self.compare(number, &got);
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Ask(request) => self.check(request).await,
            Step::Lapse(key) => {
                // Once this answer is there, everything that the node undoes is
                // undone.
                self.check(Request::Status).await;
                self.table.delete(&key);
                let _: u64 = redis::cmd("DEL")
                    .arg(stored_key(&key))
                    .query(&mut self.client)
                    .expect("DEL");
            }
            Step::Persist(key, token) => {
                self.check(Request::Status).await;
                self.table.persist(now(), &key, &token);
                let name = stored_key(&key);
                let is_there: bool = redis::cmd("EXISTS")
                    .arg(&name)
                    .query(&mut self.client)
                    .expect("EXISTS");
                let mut command = redis::cmd(if is_there { "PERSIST" } else { "SET" });
                command.arg(&name);
                if !is_there {
                    command.arg(&*token.stored());
                }
                command.exec(&mut self.client).expect("PERSIST or SET");
            }
            Step::Forge(stamp) => {
                self.forge(&stamp);
                // A connection reads the stamp when it is opened, and on a
                // STATUS.
                self.check(Request::Status).await;
            }
        }
    }

    /// Stamps the state with another incarnation, if there is a state.
    fn forge(&mut self, stamp: &Incarnation) {
        let NodeStatus {
            stamped: Some(expected),
            incarnation,
            ..
        } = self.status()
        else {
            return;
        };
        self.table.restart(Arc::clone(stamp));
        let done = self.table.apply(now(), &Request::Restamp { expected });
        assert_eq!(done, Reply::Done);
        self.table.restart(incarnation);
        let _: u64 = redis::cmd("HSET")
            .arg(&["ringlock!m", "inc", stamp])
            .query(&mut self.client)
            .expect("HSET");
    }

    /// Restamps the state where it has another incarnation's stamp.
    async fn settle(&mut self) {
        if let Some(expected) = self.status().stamped {
            self.check(Request::Restamp { expected }).await;
        }
    }

    /// Reads the whole state back from the server.
    async fn compare_states(&mut self) {
        self.check(Request::Status).await;
        let mut found = Image::of_server(&mut self.client);
        self.take_gaps(&found.counters);
        let expected = Image::of_table(&mut self.table);
        let is_serving = matches!(self.status().standing(), NodeState::Serving(_));
        if self.sends_commands() && !is_serving {
            found.counters.clone_from(&expected.counters);
        }
        let lives = expected.entries.iter().zip(&found.entries);
        for ((key, (_, expected)), (_, (_, found))) in lives {
            let are_near = match (expected, found) {
                (Some(expected), Some(found)) => expected.abs_diff(*found) < TOLERANCE,
                (expected, found) => expected == found,
            };
            assert!(are_near, "ttl of {key:?}: {expected:?}, {found:?}");
        }
        let story = self.story(self.history.len() - 1);
        assert_eq!(found.bare(), expected.bare(), "after\n{story}");
        self.history.clear();
    }

    /// Restarts the server with its data; the node finds out by itself.
    async fn restart(&mut self) {
        self.server.restart();
        self.client = self.server.client();
        self.table.restart(incarnation(&mut self.client));
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = ask(&self.node, Request::Status, DEADLINE).await {
            assert!(Instant::now() < deadline, "not reconnected: {error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// An answer and, separately, its remaining ttl.
fn without_remaining(mut answer: Answer) -> (Option<Duration>, Answer) {
    let remaining = match &mut answer {
        Ok(Reply::Busy(rival) | Reply::Lost(Some(rival))) => rival.remaining.take(),
        Ok(Reply::PriorState(past)) => past.quarantined_for.take(),
        _ => None,
    };
    (remaining, answer)
}

/// Equalizes the intended differences of commands within batches.
fn without_gaps(expected: &mut Answer, got: &mut Answer) {
    use Reply::{Granted, Kept, Made};
    if let (Ok(Granted { counter: least }), Ok(Granted { counter }))
    | (Ok(Made { counter: least }), Ok(Made { counter }))
    | (Ok(Kept { counter: least }), Ok(Kept { counter })) = (expected, got)
    {
        *least = *counter.max(least);
    }
}

fn without_later_reads(expected: &Answer, got: &mut Answer) {
    use Reply::{Foreign, Missing};
    if let (Ok(expected @ (Missing | Foreign)), Ok(got @ (Missing | Foreign))) = (expected, got) {
        *got = expected.clone();
    }
}

fn incarnation(client: &mut redis::Connection) -> Incarnation {
    let info: redis::InfoDict = redis::cmd("INFO").query(client).expect("INFO");
    let fact = |name: &str| info.get::<String>(name).expect("a fact");
    format!("{}/{}", fact("run_id"), fact("master_replid")).into()
}

fn stored_key(key: &Key) -> Vec<u8> {
    [b"ringlock:", key.as_bytes()].concat()
}

/// The state of a node, in the form in which a server stores it.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    id: Option<String>,
    member: BTreeMap<String, String>,
    counters: BTreeMap<String, u64>,
    /// The tokens and their remaining time; `None`: no expiry.
    entries: BTreeMap<Vec<u8>, (String, Option<Duration>)>,
}

impl Image {
    fn of_table(table: &mut LockTable) -> Self {
        let Reply::Status(status) = table.apply(now(), &Request::Status) else {
            unreachable!("STATUS is answered by a status");
        };
        let Reply::Document(document) = table.apply(now(), &Request::Document) else {
            unreachable!("DOCUMENT is answered by a document");
        };
        let mut member = BTreeMap::new();
        let mut note = |name: &str, value: Option<&str>| {
            member.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        };
        note("nonce", status.nonce.as_deref());
        note("inc", status.stamped.as_deref());
        note("doc", document.as_deref());
        let view = document.as_deref().and_then(|text| text.lines().nth(1));
        note("epoch", view.and_then(|view| view.split(':').next()));
        let (highest, since) = past(table, &status);
        note("highest", highest.as_deref());
        note("since", since);
        let (promised, accepted) = votes(table, &status);
        note(
            "promised",
            promised.map(|ballot| ballot.to_string()).as_deref(),
        );
        if let Some(accepted) = accepted {
            note("ballot", Some(&accepted.ballot.to_string()));
            note("next", Some(&accepted.view.to_string()));
            note("next_doc", Some(&accepted.document));
        }
        let entry = |(key, token, expires): (&Key, &Token, Option<ringlock::Instant>)| {
            let left = expires.map(|expires| expires.saturating_since(now()));
            (stored_key(key), (token.to_string(), left))
        };
        Self {
            id: status.serving.map(|view| view.to_string()),
            member,
            counters: table
                .counters()
                .map(|(slot, count)| (slot.to_string(), count))
                .collect(),
            entries: table.live(now()).map(entry).collect(),
        }
    }

    fn of_server(client: &mut redis::Connection) -> Self {
        let mut get = |command: &str, key: &[u8]| {
            redis::cmd(command)
                .arg(key)
                .query::<redis::Value>(client)
                .expect("a reply")
        };
        fn read<T: redis::FromRedisValue>(value: redis::Value) -> T {
            redis::from_redis_value(value).expect("a fitting value")
        }
        let mut names: Vec<Vec<u8>> = read(get("KEYS", b"*"));
        names.retain(|name| !name.starts_with(b"ringlock!"));
        let entry = |name: Vec<u8>| {
            let left: i64 = read(get("PTTL", &name));
            let left = u64::try_from(left).ok().map(Duration::from_millis);
            let holder = read(get("GET", &name));
            (name, (holder, left))
        };
        let entries = names.into_iter().map(entry).collect();
        let mut member: BTreeMap<String, String> = read(get("HGETALL", b"ringlock!m"));
        // A reading of the server's clock.
        member.entry("since".into()).and_modify(String::clear);
        let epochs = [member.remove("past"), member.get("epoch").cloned()];
        let epochs = epochs.into_iter().flatten();
        let highest = epochs.map(|epoch| epoch.parse().expect("a number")).max();
        let highest = highest.filter(|&highest: &u32| highest > 0);
        member.extend(highest.map(|highest| ("highest".into(), highest.to_string())));
        Self {
            id: read(get("GET", b"ringlock!id")),
            member,
            counters: read(get("HGETALL", b"ringlock!c")),
            entries,
        }
    }

    /// Without the remaining times of the entries, which are compared by the
    /// clock.
    fn bare(mut self) -> Self {
        for (_, left) in self.entries.values_mut() {
            *left = left.map(|_| Duration::ZERO);
        }
        self
    }
}

/// The highest epoch that the table remembers, if any, and whether it remembers
/// the start of its quarantine, whatever incarnation stamped it.
fn past(table: &LockTable, status: &NodeStatus) -> (Option<String>, Option<&'static str>) {
    let mut table = table.clone();
    if let Some(stamped) = &status.stamped {
        table.restart(Arc::clone(stamped));
    }
    let Reply::PriorState(past) = table.apply(now(), &Request::PriorState) else {
        unreachable!("PAST is answered by a past");
    };
    let highest = (past.epoch > 0).then(|| past.epoch.to_string());
    (highest, past.quarantined_for.map(|_| ""))
}

/// The table's promise and accepted value, as it reports them to other
/// proposers: it outbids the lowest ballot with its promise, and reports the
/// accepted value to the highest.
fn votes(table: &LockTable, status: &NodeStatus) -> (Option<Ballot>, Option<Accepted>) {
    let (Some(view), Some(stamped)) = (status.serving, &status.stamped) else {
        return (None, None);
    };
    let ask = |round, proposer| {
        let mut table = table.clone();
        table.restart(Arc::clone(stamped));
        let ballot = Ballot { round, proposer };
        table.apply(now(), &Request::Prepare { view, ballot })
    };
    let promised = match ask(0, 0) {
        Reply::Preempted(promised) => Some(promised),
        _ => None,
    };
    match ask(u32::MAX, u64::MAX) {
        Reply::Promised(accepted) => (promised, accepted.map(|accepted| *accepted)),
        other => panic!("{other:?}"),
    }
}

/// Prints the counts, and asserts that the run has seen every kind of reply.
fn report(what: &str, pair: &Pair, started: Instant) {
    let Pair {
        encoding,
        requests,
        replies,
        ..
    } = pair;
    let took = started.elapsed();
    println!("{what}, {encoding:?}: {requests} requests, 0 differences, {took:.1?} {replies:?}");
    let kinds = [
        "Granted",
        "Busy",
        "Kept",
        "Made",
        "Lost",
        "Released",
        "Missing",
        "Foreign",
        "Stale",
        "Status",
        "Document",
        "PriorState",
        "Done",
        "Refused",
    ];
    let votes = ["Promised", "Promised(Some", "Preempted"];
    let often = kinds.map(|kind| (kind, requests / 500));
    let at_times = votes.map(|kind| (kind, requests / 2000));
    for (kind, least) in often.into_iter().chain(at_times) {
        let count = replies.get(kind).copied().unwrap_or(0);
        assert!(count >= least, "only {count} times {kind}");
    }
}

/// How often the server received a command.
fn calls(pair: &mut Pair, command: &str) -> usize {
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut pair.client)
        .expect("INFO");
    let stats: Option<String> = info.get(&format!("cmdstat_{command}"));
    let stats = stats.unwrap_or_default();
    let calls = stats
        .strip_prefix("calls=")
        .and_then(|stats| stats.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

const FORGETFUL: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// One request at a time, on slots that keys share.
async fn one_by_one(edition: Edition, encoding: Encoding) {
    let server = RedisServer::start_edition(edition, &FORGETFUL);
    let (started, seed) = (Instant::now(), seed());
    let mut dice = Dice::new(seed, false);
    let mut pair = Pair::new(edition, encoding, server);
    while pair.requests < 25_000 {
        let step = dice.step(&pair.status());
        pair.take(step).await;
        if pair.requests.is_multiple_of(50) {
            pair.compare_states().await;
        }
    }
    pair.compare_states().await;
    report("one by one", &pair, started);
    if edition == Edition::Valkey && encoding == Encoding::Command {
        assert!(calls(&mut pair, "delifeq") > pair.requests / 10);
    }
}

/// Many concurrent requests, which the node batches freely. It may change the
/// order of requests for different keys: each key has its own slot, so that no
/// key affects another's counts.
async fn in_batches(edition: Edition, encoding: Encoding) {
    let server = RedisServer::start_edition(edition, &FORGETFUL);
    let (started, seed) = (Instant::now(), seed());
    let mut dice = Dice::new(seed, true);
    let mut pair = Pair::new(edition, encoding, server);
    pair.is_batched = true;
    let is_late = pair.sends_commands();
    while pair.requests < 60_000 {
        let mut requests = Vec::new();
        let mut is_tainted = false;
        let mut repeated = HashSet::new();
        if encoding == Encoding::Command {
            // Where most keys are held, setting them together is soon given up.
            let is_easy = pair.requests < 30_000;
            dice.keys = if is_easy { MANY_KEYS } else { KEYS };
            dice.ttls = dice.pick(&[1, 5]);
        }
        if dice.keys == MANY_KEYS {
            requests = pair.releases();
            requests.iter().for_each(|request| {
                pair.expect(request.clone());
            });
        }
        let most = if dice.keys == MANY_KEYS { 30 } else { 400 };
        for _ in 0..dice.rng.random_range(1..most) {
            let request = dice.request(&pair.status());
            let taints = is_late && pair.is_stale(&request);
            let is_extend = matches!(request, Request::Extend { .. });
            // Few requests taint the batch; otherwise most would be extends.
            if (is_tainted && !is_extend)
                || (taints && dice.rng.random_range(0..50) > 0)
                || pair.revives(&request, &repeated)
            {
                continue;
            }
            is_tainted |= taints;
            if is_late {
                repeated.extend(pair.repeats(&request));
            }
            pair.expect(request.clone());
            requests.push(request);
        }
        let inbox = Inbox::new(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            pair.node
                .submit(request, now() + DEADLINE, inbox.slot(index));
        }
        let answers = inbox.all(DEADLINE).await;
        let numbered = answers.iter().enumerate();
        numbered.for_each(|(number, got)| pair.compare(number, got));
        pair.compare_states().await;
    }
    report("in batches", &pair, started);
    if edition == Edition::Valkey && encoding == Encoding::Command {
        let together = calls(&mut pair, "msetex");
        println!("keys were set together {together} times");
        assert!(together > 100);
    }
}

/// A server that restarts with its data, as another incarnation.
async fn with_restarts(edition: Edition, encoding: Encoding) {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let server = RedisServer::start_edition(edition, &durable);
    let (started, seed) = (Instant::now(), seed());
    let mut dice = Dice::new(seed, false);
    let mut pair = Pair::new(edition, encoding, server);
    for _ in 0..4 {
        for _ in 0..300 {
            let step = dice.step(&pair.status());
            pair.take(step).await;
        }
        pair.compare_states().await;
        pair.restart().await;
        pair.compare_states().await;
        for _ in 0..50 {
            let step = dice.step(&pair.status());
            pair.take(step).await;
        }
        pair.settle().await;
    }
    report("with restarts", &pair, started);
}

/// The node itself records, in its own clock, when its quarantine began: a
/// router that takes over keeps the time, and a node that was let in starts
/// again.
#[tokio::test]
async fn a_takeover_keeps_the_time_in_quarantine() {
    for edition in Edition::ALL {
        let server = RedisServer::start_edition(edition, &FORGETFUL);
        let node = RedisNode::new(&server.url(), RedisOptions::default()).expect("a node");
        let mut client = server.client();
        let quarantine = async |from: Option<&str>, serving, to: &str| {
            let request = Request::Quarantine {
                expected_nonce: from.map(Into::into),
                expected_view: serving,
                nonce: to.into(),
            };
            assert_eq!(ask(&node, request, DEADLINE).await, Ok(Reply::Done));
        };
        let span = async || match ask(&node, Request::PriorState, DEADLINE).await {
            Ok(Reply::PriorState(past)) => (past.epoch, past.quarantined_for),
            other => panic!("{edition:?}: {other:?}"),
        };
        let mut since = |new: Option<u64>| -> Option<u64> {
            let set = |new| {
                redis::cmd("HSET")
                    .arg("ringlock!m")
                    .arg("since")
                    .arg(new)
                    .take()
            };
            if let Some(new) = new {
                let _: u64 = set(new).query(&mut client).expect("HSET");
            }
            redis::cmd("HGET")
                .arg("ringlock!m")
                .arg("since")
                .query(&mut client)
                .expect("HGET")
        };
        assert_eq!(span().await, (0, None));
        quarantine(None, None, "n1").await;
        assert!(span().await.1.expect("a span") < DEADLINE);
        since(Some(1_000));
        quarantine(Some("n1"), None, "n2").await;
        assert_eq!(since(None), Some(1_000));
        assert!(span().await.1.expect("a span") > DEADLINE);
        let view = ViewId {
            epoch: 7,
            digest: 1,
        };
        let adopt = Request::Adopt {
            view,
            document: document(view),
            nonce: "n2".into(),
        };
        assert_eq!(ask(&node, adopt, DEADLINE).await, Ok(Reply::Done));
        assert_eq!((since(None), span().await), (None, (7, None)));
        // A leftover of a version that does not know the field: it does not
        // count.
        since(Some(1_000));
        assert_eq!(span().await, (7, None));
        quarantine(Some("n2"), Some(view), "n3").await;
        let (epoch, in_quarantine) = span().await;
        assert!(in_quarantine.expect("a span") < DEADLINE);
        assert_eq!(epoch, 7);
        // Nor does another incarnation's record.
        since(Some(1_000));
        let _: u64 = redis::cmd("HSET")
            .arg("ringlock!m")
            .arg("inc")
            .arg("elsewhere")
            .query(&mut client)
            .expect("HSET");
        assert_eq!(span().await, (7, None));
    }
}

macro_rules! on {
    ($on:ident, $module:ident: $($name:ident)*) => {
        mod $module {
            $(mod $name {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn by_script() {
                    crate::differential::$name(crate::differential::Edition::$on, crate::differential::Encoding::Script).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn by_pipeline() {
                    crate::differential::$name(crate::differential::Edition::$on, crate::differential::Encoding::Pipeline).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn by_command() {
                    crate::differential::$name(crate::differential::Edition::$on, crate::differential::Encoding::Command).await;
                }
            })*
        }
    };
}

on!(System, on_system: one_by_one in_batches with_restarts);
on!(Valkey, on_valkey: one_by_one in_batches with_restarts);

/// It has no `SET … NX GET`: every encoding falls back to scripts there.
mod on_redis_62 {
    use crate::differential::{Edition, Encoding};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_by_one() {
        crate::differential::one_by_one(Edition::Redis62, Encoding::Command).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn in_batches() {
        crate::differential::in_batches(Edition::Redis62, Encoding::Command).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_restarts() {
        crate::differential::with_restarts(Edition::Redis62, Encoding::Command).await;
    }
}
