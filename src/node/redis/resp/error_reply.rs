//! The refusals of a server: a code and a text become an error that states what
//! to do. The text is the server's, and is shown as such.
//!
//! Versions word the same refusal differently, and Redis before 7.0 hides the
//! code of an error in a script behind its own. The table [`RULES`] is
//! organized by meaning: it contains every refusal that ringlock knows once.

use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::escape::shown;
use crate::proto::node::message::{NodeError, NodeErrorKind};

/// The most bytes of a server's error that are shown.
const MAX_SHOWN: usize = 300;

/// How servers report that a command or a script ran into values that it cannot
/// work with.
const DAMAGE: [&str; 5] = [
    "WRONGTYPE",
    "not an integer",
    "would overflow",
    "attempt to perform arithmetic",
    "attempt to compare",
];

/// What a refusal is recognized by.
#[derive(Clone, Copy, Debug)]
enum Sign {
    Codes(&'static [&'static str]),
    /// Part of the text of an error without a code of its own.
    Words(&'static [&'static str]),
}

/// What happens to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionFate {
    Stays,
    /// The server is not what it was at connect, and must be verified again.
    Ends,
}

/// What a refusal means.
#[derive(Clone, Copy, Debug)]
struct Rule {
    sign: Sign,
    kind: NodeErrorKind,
    advice: &'static str,
    fate: ConnectionFate,
}

const fn rule(sign: Sign, kind: NodeErrorKind, fate: ConnectionFate, advice: &'static str) -> Rule {
    Rule {
        sign,
        kind,
        advice,
        fate,
    }
}

use ConnectionFate::{Ends, Stays};
use NodeErrorKind::{Denied, NotReady, Overloaded, Unsuitable, WrongType};
use Sign::{Codes, Words};

/// The first rule that matches counts.
const RULES: [Rule; 16] = [
    rule(
        Codes(&["WRONGTYPE"]),
        WrongType,
        Stays,
        "the key holds something that is not a lock: use another key_prefix, or delete it",
    ),
    rule(
        Codes(&["NOAUTH", "WRONGPASS"]),
        Denied,
        Ends,
        "the server refuses the credentials: check user and password in the node's url",
    ),
    rule(
        Codes(&["NOPERM"]),
        Denied,
        Stays,
        "the server's ACL denies the user a command or key that ringlock needs: allow it",
    ),
    rule(
        Words(&["user executing the script", "ACL failure in script"]),
        Denied,
        Stays,
        "the server's ACL denies the user a command or key that ringlock needs: allow it",
    ),
    rule(
        Codes(&["DENIED"]),
        Denied,
        Ends,
        "the server runs in protected mode and serves only its own machine: give it a password, or set protected-mode no",
    ),
    rule(
        Codes(&["READONLY", "MASTERDOWN", "REDIRECT"]),
        Unsuitable,
        Ends,
        "the server is a replica: name the primary",
    ),
    rule(
        Codes(&["MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT", "TRYAGAIN"]),
        Unsuitable,
        Ends,
        "the server is part of a cluster: use standalone servers",
    ),
    rule(
        Codes(&["LOADING"]),
        NotReady,
        Ends,
        "the server is still loading its data",
    ),
    rule(
        Codes(&["BUSY"]),
        NotReady,
        Stays,
        "a script or function occupies the server: wait for its end, or stop it with SCRIPT KILL or FUNCTION KILL",
    ),
    rule(
        Words(&["Script killed by user"]),
        NotReady,
        Stays,
        "the server's operator stopped a script of ringlock",
    ),
    rule(
        Codes(&["NOREPLICAS"]),
        NotReady,
        Stays,
        "too few replicas are connected for the server to accept writes: bring them back, or lower min-replicas-to-write",
    ),
    rule(
        Codes(&["MISCONF"]),
        NotReady,
        Stays,
        "the server cannot persist: see its log",
    ),
    rule(
        Codes(&["NOSCRIPT"]),
        NotReady,
        Stays,
        "the server's scripts were flushed; they are loaded again",
    ),
    rule(
        Codes(&["OOM"]),
        Overloaded,
        Stays,
        "the server is out of memory: raise its maxmemory",
    ),
    rule(
        Words(&["max number of clients"]),
        Overloaded,
        Ends,
        "the server has reached its limit of clients: raise its maxclients, or close connections",
    ),
    rule(
        Words(&["DB index", "AUTH"]),
        Denied,
        Stays,
        "the server refuses the user, the password or the database in the node's url",
    ),
];

/// An error reply: its code, and the server's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorReply<'a> {
    pub(crate) code: &'a str,
    details: &'a str,
}

impl<'a> ErrorReply<'a> {
    pub(crate) fn of(line: &'a [u8]) -> Self {
        // The text ends where the bytes are no longer valid UTF-8.
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
        };
        let text = unwrapped(text);
        match text.split_once(' ') {
            Some((code, details)) if is_code(code) => Self { code, details },
            None if is_code(text) => Self {
                code: text,
                details: "",
            },
            // Redis before 7.0 has no code for an error within a script.
            _ => Self {
                code: "ERR",
                details: text,
            },
        }
    }

    /// The errors among `replies`.
    pub(crate) fn all(replies: &'a [u8]) -> impl Iterator<Item = Self> {
        let mut values = Replies::of(replies);
        std::iter::from_fn(move || values.next()).filter_map(|value| match value {
            Value::Error(line) => Some(Self::of(line)),
            _ => None,
        })
    }

    /// The first error among `replies`.
    pub(crate) fn first(replies: &'a [u8]) -> Option<Self> {
        Self::all(replies).next()
    }

    /// Whether the server must be verified again.
    pub(crate) fn is_fatal(&self) -> bool {
        self.rule().is_some_and(|rule| rule.fate == Ends)
    }

    /// Whether the key holds something that is no lock.
    pub(crate) fn is_no_lock(&self) -> bool {
        self.code == "WRONGTYPE"
    }

    /// Whether the user may not use the command.
    pub(crate) fn is_denial(&self) -> bool {
        self.code == "NOPERM"
    }

    /// Whether the server does not have the script: nothing was done.
    pub(crate) fn is_unloaded(&self) -> bool {
        self.code == "NOSCRIPT"
    }

    /// The error reply as an error of the node.
    pub(crate) fn explain(&self) -> NodeError {
        match self.rule() {
            Some(rule) => self.with(rule.kind, rule.advice),
            None => self.with(NodeErrorKind::Protocol, "the server refuses a command"),
        }
    }

    /// The same without the server's words, which may quote what it was sent,
    /// for a refusal that is about neither credentials nor the command.
    pub(crate) fn explain_unquoted(&self) -> Option<NodeError> {
        let rule = self.rule()?;
        let is_about_login = rule.kind == Denied && self.code != "DENIED";
        (!is_about_login)
            .then(|| NodeError::new(rule.kind, format!("{} ({})", rule.advice, self.code)))
    }

    fn rule(&self) -> Option<&'static Rule> {
        let has = |word: &&str| self.details.contains(word);
        RULES.iter().find(|rule| match rule.sign {
            Codes(codes) => codes.contains(&self.code),
            Words(words) => self.code == "ERR" && words.iter().any(has),
        })
    }

    /// The same where only ringlock's own keys were touched, or can be meant.
    pub(crate) fn explain_state(&self) -> NodeError {
        let is_damage = |sign: &&str| self.code == *sign || self.details.contains(sign);
        // A rule of its own is more specific; that of WRONGTYPE is about locks.
        let is_known = self.rule().is_some() && !self.is_no_lock();
        if is_known || !DAMAGE.iter().any(is_damage) {
            return self.explain();
        }
        self.with(
            NodeErrorKind::WrongType,
            "ringlock's own state on the server is damaged: delete all of it, the keys that end in !id, !m and !c, and the node is readmitted",
        )
    }

    fn with(&self, kind: NodeErrorKind, advice: &str) -> NodeError {
        let said = shown(
            format!("{} {}", self.code, self.details).trim().as_bytes(),
            MAX_SHOWN,
        );
        NodeError::new(kind, format!("{advice} ({said})"))
    }
}

/// The error itself, where the server has put its own words around it.
fn unwrapped(text: &str) -> &str {
    // "ERR Error running script (call to f_SHA): @user_script:19: @user_script: 19:
    // -READONLY You can't …", by Redis before 7.0.
    if let Some(call) = text.strip_prefix("ERR Error running script (call to ")
        && let Some((_, mut inner)) = call.split_once("): ")
    {
        while let Some((place, rest)) = inner.split_once(": ")
            && is_place(place)
        {
            inner = rest;
        }
        // "@user_script: 19:" has a space of its own.
        while let Some((line, rest)) = inner.split_once(": ")
            && line.bytes().all(|byte| byte.is_ascii_digit())
        {
            inner = rest;
        }
        return inner.strip_prefix('-').unwrap_or(inner);
    }
    let aborted = text.strip_prefix("EXECABORT Transaction discarded because of: ");
    aborted.unwrap_or(text)
}

/// `@user_script`, or `@user_script:19`.
fn is_place(text: &str) -> bool {
    let name = text.trim_start_matches('@').split(':').next();
    name == Some("user_script")
}

/// Whether a word is the code of an error.
fn is_code(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The reply is not in a form that is valid for the request.
pub(crate) fn misfit(what: &str) -> NodeError {
    NodeError::new(
        NodeErrorKind::Protocol,
        format!("the server's reply to {what} violates the protocol"),
    )
}

/// The error in a reply that is not the expected one.
pub(crate) fn unexpected(reply: Option<Value<'_>>, what: &str) -> NodeError {
    match reply {
        Some(Value::Error(line)) => ErrorReply::of(line).explain(),
        _ => misfit(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each version replies to a script: Redis 6.2, Redis 7.0, Valkey 9;
    /// and to a transaction and a command.
    fn script(old: &str, code: &str, text: &str) -> [String; 5] {
        let call = "ERR Error running script (call to f_b6062ce5): @user_script:19: ";
        let place = if old.is_empty() {
            "@user_script: 19: -"
        } else {
            "@user_script: 19: "
        };
        let inner = if old.is_empty() {
            format!("{code} {text}")
        } else {
            old.into()
        };
        [
            format!("{call}{place}{inner}"),
            format!("{code} {text}. script: b6062ce5, on @user_script:19."),
            format!("{code} {text}. script: on @user_script:19."),
            format!("EXECABORT Transaction discarded because of: {code} {text}"),
            format!("{code} {text}"),
        ]
    }

    /// Texts, their kind, whether the connection ends, and a part of the advice.
    fn cases() -> Vec<([String; 5], NodeErrorKind, bool, &'static str)> {
        vec![
            (
                script(
                    "",
                    "READONLY",
                    "You can't write against a read only replica",
                ),
                Unsuitable,
                true,
                "name the primary",
            ),
            (
                script("", "NOREPLICAS", "Not enough good replicas to write"),
                NotReady,
                false,
                "min-replicas-to-write",
            ),
            (
                script("", "MISCONF", "Redis is configured to save RDB snapshots"),
                NotReady,
                false,
                "its log",
            ),
            (
                script(
                    "",
                    "OOM",
                    "command not allowed when used memory > 'maxmemory'",
                ),
                Overloaded,
                false,
                "maxmemory",
            ),
            (
                script("", "BUSY", "Valkey is busy running a script"),
                NotReady,
                false,
                "SCRIPT KILL",
            ),
            (
                script("", "LOADING", "Redis is loading the dataset in memory"),
                NotReady,
                true,
                "loading",
            ),
            (
                script(
                    "The user executing the script can't run this command or subcommand",
                    "ERR",
                    "ACL failure in script: User u has no permissions to run the 'set' command",
                ),
                Denied,
                false,
                "ACL",
            ),
        ]
    }

    #[test]
    fn one_refusal_in_the_words_of_each_edition() {
        for (texts, kind, is_fatal, advice) in cases() {
            for text in texts {
                let reply = ErrorReply::of(text.as_bytes());
                let error = reply.explain();
                assert_eq!((error.kind(), reply.is_fatal()), (kind, is_fatal), "{text}");
                assert!(error.to_string().contains(advice), "{text}: {error}");
                assert_eq!(reply.explain_state().kind(), kind, "{text}");
            }
        }
    }

    #[test]
    fn damage_is_distinguished_from_locks_that_are_none() {
        for text in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR Error running script (call to f_49): @user_script:1: WRONGTYPE Operation against a key",
            "ERR Error running script (call to f_49): @user_script:1: user_script:1: attempt to compare nil with number",
            "ERR hash value is not an integer",
        ] {
            let reply = ErrorReply::of(text.as_bytes());
            let state = reply.explain_state();
            assert_eq!(state.kind(), WrongType, "{text}");
            assert!(
                state.to_string().contains("ringlock's own state"),
                "{state}"
            );
        }
        assert!(
            ErrorReply::of(b"ERR Error running script (call to f_49): @user_script:1: WRONGTYPE x")
                .is_no_lock()
        );
    }

    #[test]
    fn what_has_no_rule_is_shown_and_nothing_panics() {
        for text in [
            "",
            "-",
            "ERR",
            "ERR Error running script (call to ",
            "EXECABORT",
            "e",
            "ERR Error running script (call to f): ",
        ] {
            let error = ErrorReply::of(text.as_bytes()).explain();
            assert_eq!(error.kind(), NodeErrorKind::Protocol, "{text:?}: {error}");
        }
    }

    #[test]
    fn what_may_quote_a_password_is_not_passed_on() {
        let unquoted = |text: &str| ErrorReply::of(text.as_bytes()).explain_unquoted();
        for text in [
            "WRONGPASS s3cret",
            "ERR unknown command 'AUTH', with args beginning with: 's3cret'",
            "ERR AUTH s3cret",
        ] {
            assert_eq!(unquoted(text), None, "{text}");
        }
        let full = unquoted("ERR max number of clients reached s3cret").unwrap();
        assert_eq!(full.kind(), Overloaded);
        assert!(!full.to_string().contains("s3cret"), "{full}");
        let protected = unquoted("DENIED Redis is running in protected mode").unwrap();
        assert!(protected.to_string().contains("protected-mode"));
    }
}
