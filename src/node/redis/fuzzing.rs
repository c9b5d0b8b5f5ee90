//! Checks of what a server may be sent and may reply, for arbitrary bytes.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a target panics where it finds something"
)]

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use self::groups::{control, dialect, group};
use super::inspect;
use crate::config::RouterConfig;
use crate::node::redis::codec::command_group::CommandGroup;
use crate::node::redis::codec::decode;
use crate::node::redis::codec::request::deliver;
use crate::node::redis::connection::server_info::Identity;
use crate::node::redis::pipeline::completion::{Completion, Server, settle};
use crate::node::redis::resp::error_reply::{ErrorReply, misfit};
use crate::node::redis::resp::parser::{
    MAX_REPLY, Malformed, Replies, Value, reply_len, take_push,
};
use crate::node::{ReplyTo, Sink};
use crate::proto::lease::{Holder, Key};
use crate::proto::node::message::{Answer, Ballot, NodeStatus, ViewId};

pub(crate) mod groups;

/// Input bytes that control a run, taken from the front.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte; 0 past the end.
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self
            .0
            .split_first()
            .map_or((0, self.0), |(&first, rest)| (first, rest));
        self.0 = rest;
        first
    }

    /// From 1 to `most` bytes, as the first byte determines; fewer at the end.
    pub(crate) fn some(&mut self, most: usize) -> &'a [u8] {
        let len = 1 + usize::from(self.byte()) % most;
        let (some, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        some
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Longer than any message of ours, including what it quotes.
const LONGEST_MESSAGE: usize = 2048;

/// Records the answer to each request.
#[derive(Default)]
struct Notes(Mutex<Vec<(u32, Answer)>>);

impl Sink for Notes {
    fn accept(self: Arc<Self>, ticket: u32, answer: Answer) {
        self.0.lock().push((ticket, answer));
    }
}

/// The answers to groups in flight when the server sends these pieces. What is
/// unanswered after that fails, as when the server closes the connection.
fn outcome<'a>(kinds: &[u8], said: impl Iterator<Item = &'a [u8]>) -> Vec<(u32, Answer)> {
    let notes = Arc::new(Notes::default());
    let dialect = dialect(&RouterConfig::default());
    let status = NodeStatus {
        incarnation: "run-1/replid-1".into(),
        ..NodeStatus::default()
    };
    let keys = ["a", "b"].map(|key| Key::new(key).expect("a key"));
    let mut tickets = 0..;
    let mut sink = || {
        ReplyTo::new(
            Arc::clone(&notes) as Arc<dyn Sink>,
            tickets.next().unwrap_or(0),
        )
    };
    let mut in_flight = VecDeque::new();
    for (nonce_echo, &kind) in kinds.iter().enumerate() {
        let count = 1 + usize::from(kind >> 7);
        let mut group = group(kind & 127, &keys[..count], &mut sink);
        group.nonce_echo = nonce_echo as u32 + 1;
        dialect.encode(&mut group, &mut Vec::new());
        in_flight.push_back(group);
    }
    let (mut inbox, mut scanned) = (Vec::new(), 0);
    let mut fault = None;
    for piece in said {
        inbox.extend_from_slice(piece);
        while fault.is_none() {
            let Some(front): Option<&mut CommandGroup> = in_flight.front_mut() else {
                break;
            };
            let whole = match front.whole(&inbox, &mut scanned) {
                Ok(None) => match take_push(&mut inbox, scanned) {
                    Ok(true) => continue,
                    pushed => pushed.map(|_| None),
                },
                whole => whole,
            };
            let len = match whole {
                Ok(Some(len)) => len,
                Ok(None) => break,
                Err(Malformed) => {
                    fault = Some(misfit("anything"));
                    break;
                }
            };
            assert!(len <= inbox.len(), "it read beyond what was there");
            let Some(group) = in_flight.pop_front() else {
                break;
            };
            let (mut completion, mut answers) = (Completion::default(), Vec::new());
            let server = Server {
                dialect: &dialect,
                status: &status,
                clock_hold: None,
                held: &VecDeque::new(),
                in_flight: &in_flight,
            };
            let replies = &inbox[..len];
            let settled = settle(group, replies, &server, &mut completion, &mut answers);
            fault = settled.err();
            deliver(&mut answers);
            inbox.drain(..len);
        }
    }
    let fault = fault.unwrap_or_else(|| misfit("silence"));
    in_flight.into_iter().for_each(|group| group.fail(&fault));
    std::mem::take(&mut *notes.0.lock())
}

/// Replies: the meaning of a server's bytes does not depend on how they are
/// cut. Every request is answered at most once, and error messages are short.
pub(crate) fn replies(bytes: &mut Bytes<'_>) {
    let kinds = bytes.some(8);
    let cut = usize::from(bytes.byte()) + 1;
    let said = bytes.rest();
    assert!(
        reply_len(said).is_ok_and(|len| len.is_none_or(|len| len <= said.len()))
            || reply_len(said).is_err()
    );
    let whole = outcome(kinds, std::iter::once(said));
    let pieces = outcome(kinds, said.chunks(cut));
    assert_eq!(whole, pieces, "what it means hangs on where it is cut");
    let mut tickets: Vec<u32> = whole.iter().map(|(ticket, _)| *ticket).collect();
    tickets.sort_unstable();
    tickets
        .windows(2)
        .for_each(|pair| assert_ne!(pair[0], pair[1], "answered twice"));
    for (_, answer) in &whole {
        if let Err(error) = answer {
            is_fit_to_show(&error.to_string());
        }
    }
}

/// Asserts that `message` is harmless on a terminal and in a log.
#[track_caller]
fn is_fit_to_show(message: &str) {
    assert!(message.len() < LONGEST_MESSAGE, "{} bytes", message.len());
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

/// What a server reports about itself, by INFO and to `Inspector`.
pub(crate) fn facts(bytes: &mut Bytes<'_>) {
    let said = bytes.rest();
    let mut identity = Identity::default();
    identity.take_in(said);
    identity.take_in(said);
    let checks = [
        identity.check(),
        identity.check_version(),
        identity.check_mode(),
        identity.check_role(),
        identity.check_eviction(),
        identity.incarnation().map(drop),
    ];
    checks
        .into_iter()
        .filter_map(Result::err)
        .for_each(|error| is_fit_to_show(&error.to_string()));
    let _ = identity.check_durable();
    for name in [
        "run_id",
        "redis_version",
        "valkey_version",
        "maxmemory_policy",
    ] {
        identity.fact(name).into_iter().for_each(is_fit_to_show);
    }
    // As `Exchange` passes it on: whole replies.
    let mut whole = 0;
    while let Ok(Some(len @ 1..)) = reply_len(&said[whole..]) {
        whole += len;
    }
    inspect::fuzz(&said[..whole]);
}

/// Values that are stored on a server: numbers, ids, ballots, tokens, errors.
pub(crate) fn stored(bytes: &mut Bytes<'_>) {
    let value = bytes.rest();
    let holder = Holder::of_stored(value);
    is_fit_to_show(&holder.to_string());
    is_fit_to_show(holder.label().unwrap_or_default());
    is_fit_to_show(&ErrorReply::of(value).explain().to_string());
    is_fit_to_show(&ErrorReply::of(value).explain_state().to_string());
    let Ok(text) = std::str::from_utf8(value) else {
        return;
    };
    if let Ok(view) = text.parse::<ViewId>() {
        assert_eq!(view.to_string(), text);
    }
    if let Ok(ballot) = text.parse::<Ballot>() {
        assert_eq!(ballot.to_string(), text);
    }
    // In the places where the fields of hashes are returned.
    let bulk = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
    for parts in 1..=4 {
        let reply = [
            format!("*2\r\n$1\r\n1\r\n*{parts}\r\n").into_bytes(),
            bulk.repeat(parts),
        ]
        .concat();
        for which in 11..=17 {
            let _ = decode::control(&control(which), &reply, 1, b"run-1");
        }
    }
    if bulk.len() < MAX_REPLY {
        assert_eq!(reply_len(&bulk), Ok(Some(bulk.len())));
    }
}

/// Lock keys: every key that a router accepts names, on the server, that key
/// and none of ringlock's own names; and what is sent can be read back.
pub(crate) fn keys(bytes: &mut Bytes<'_>) {
    let prefixes = ["ringlock:", "", "ringlock", "r", "ringlock!", "other!m"];
    let namespaces = ["ringlock", "r", "other"];
    let config = RouterConfig {
        key_prefix: prefixes[usize::from(bytes.byte()) % prefixes.len()].into(),
        namespace: namespaces[usize::from(bytes.byte()) % namespaces.len()].into(),
        ..RouterConfig::default()
    };
    let own = format!("{}!", config.namespace);
    if config.key_prefix.starts_with(&own) {
        return;
    }
    let kind = bytes.byte();
    let (reserved, rest) = (config.reserved_keys(), bytes.rest());
    let is_allowed = |key: &Key| {
        reserved
            .as_ref()
            .is_none_or(|reserved| !key.as_bytes().starts_with(reserved.as_bytes()))
    };
    let parts = rest.split(|&byte| byte == 0xfe).take(4);
    let keys: Vec<Key> = parts
        .filter_map(|key| Key::new(key).ok())
        .filter(is_allowed)
        .collect();
    if keys.is_empty() {
        return;
    }
    let dialect = dialect(&config);
    let mut group = group(kind % 9, &keys, &mut ReplyTo::nobody);
    let mut out = Vec::new();
    dialect.encode(&mut group, &mut out);
    let names: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| [config.key_prefix.as_bytes(), key.as_bytes()].concat())
        .collect();
    for name in &names {
        assert!(!name.starts_with(own.as_bytes()), "{}", name.escape_ascii());
    }
    let commands = commands(&out);
    for name in &names {
        let naming = commands.iter().flatten().filter(|part| part == &name);
        assert!(naming.count() >= 1, "{}", name.escape_ascii());
    }
    // No other names are used except ringlock's own.
    for command in &commands {
        for name in keys_of(command) {
            let is_own = [&dialect.id, &dialect.member, &dialect.counters].contains(&name);
            assert!(is_own || names.contains(name), "{}", name.escape_ascii());
        }
    }
}

/// Commands as a server parses them.
fn commands(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut values = Replies::of(bytes);
    let mut commands = Vec::new();
    while let Some(value) = values.next() {
        let Value::List(len) = value else {
            panic!("a command is a list: {value:?}")
        };
        let parts = (0..len).map(|_| values.bulk().expect("a part").to_vec());
        commands.push(parts.collect());
    }
    assert_eq!(values.rest(), b"", "the last command is whole");
    commands
}

/// The parts of a command that a server takes for keys.
fn keys_of(command: &[Vec<u8>]) -> &[Vec<u8>] {
    let count = |at: usize| -> usize {
        let text = std::str::from_utf8(&command[at]).expect("a number");
        text.parse().expect("a number")
    };
    match command[0].as_slice() {
        b"MULTI" | b"EXEC" => &[],
        b"EVALSHA" => &command[3..3 + count(2)],
        // Keys and values alternate.
        b"MSETEX" => &command[2..3],
        _ => &command[1..2],
    }
}

/// Node URLs: a password is never shown.
pub(crate) fn urls(bytes: &mut Bytes<'_>) {
    const SECRET: &str = "pa55W0Rdpa55";
    let text = String::from_utf8_lossy(bytes.rest()).into_owned();
    // Only if it does not begin where a host or a scheme is written.
    let is_secret = |text: &str| {
        let before = text.split(SECRET).next().unwrap_or_default();
        text.contains(SECRET) && before.contains(':')
    };
    let url = match crate::config::substitute(&text, |name| (name == "PW").then(|| SECRET.into())) {
        Ok(url) => url,
        Err(problem) => {
            // The name of a variable is no secret.
            let is_name = problem.contains("names the environment variable");
            assert!(
                is_name || !is_secret(&text) || !problem.contains(SECRET),
                "{problem}"
            );
            is_fit_to_show(&problem);
            return;
        }
    };
    match crate::node::redis::connection::address::Address::parse(
        &url,
        &crate::config::TlsConfig::default(),
    ) {
        Ok(address) => {
            let is_kept = address
                .password
                .as_ref()
                .and_then(|password| password.get().ok())
                .is_some_and(|password| password.contains(SECRET));
            let shown = address.to_string();
            let times = url.matches(SECRET).count();
            assert!(
                !(is_kept && times == 1 && shown.contains(SECRET)),
                "{shown}"
            );
            prints_what_it_parsed(&url);
        }
        Err(problem) => {
            assert!(!is_secret(&url) || !problem.contains(SECRET), "{problem}");
            is_fit_to_show(&problem);
        }
    }
}

/// A URL that can be parsed is printed as one that parses to the same.
fn prints_what_it_parsed(url: &str) {
    use crate::config::node_url::NodeUrl;

    let parsed = NodeUrl::parse(url).expect("an address was made of it");
    let whole = NodeUrl::parse(&parsed.with_logins()).expect("what was printed");
    assert!(whole == parsed, "{whole} of {parsed}");
    let shown = NodeUrl::parse(&parsed.to_string()).expect("what is shown");
    assert_eq!(shown.to_string(), parsed.to_string());
}
