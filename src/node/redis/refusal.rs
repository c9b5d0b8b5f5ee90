//! What a server says where it refuses: a code and a text, made an error that
//! says what to do. The text is the server's, and shown as such.

use super::resp::{Piece, Pieces};
use crate::proto::shown::shown;
use crate::proto::wire::{NodeError, NodeErrorKind};

/// Bytes that are shown of what a server says in an error.
const MAX_SHOWN: usize = 300;

/// How servers say that a command or a script ran into values that it cannot
/// work with; some put the code of an error in a script behind their own.
const DAMAGE: [&str; 5] = [
    "WRONGTYPE",
    "not an integer",
    "would overflow",
    "attempt to perform arithmetic",
    "attempt to compare",
];

/// An error reply: its code, and what the server has to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorReply<'a> {
    pub(super) code: &'a str,
    details: &'a str,
}

impl<'a> ErrorReply<'a> {
    pub(super) fn of(line: &'a [u8]) -> Self {
        // Beyond what is not text there is nothing to be told.
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
        };
        let (code, details) = text.split_once(' ').unwrap_or((text, ""));
        Self { code, details }
    }

    /// Those of `replies` that are errors.
    pub(super) fn all(replies: &'a [u8]) -> impl Iterator<Item = Self> {
        let mut pieces = Pieces::of(replies);
        std::iter::from_fn(move || pieces.next()).filter_map(|piece| match piece {
            Piece::Error(line) => Some(Self::of(line)),
            _ => None,
        })
    }

    /// The first of `replies` that is an error.
    pub(super) fn first(replies: &'a [u8]) -> Option<Self> {
        Self::all(replies).next()
    }

    /// Whether the server must be looked at anew.
    pub(super) fn is_fatal(&self) -> bool {
        matches!(self.code, "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH")
    }

    /// Whether the key holds something that is no lock.
    pub(super) fn is_no_lock(&self) -> bool {
        self.code == "WRONGTYPE"
    }

    /// Whether the user may not use the command.
    pub(super) fn is_denial(&self) -> bool {
        self.code == "NOPERM"
    }

    /// The error reply as an error of the node.
    pub(super) fn explain(&self) -> NodeError {
        let (kind, advice) = explain(self.code, self.details);
        self.with(kind, advice)
    }

    /// The same where no key was touched, or none can be meant, but ringlock's
    /// own.
    pub(super) fn explain_state(&self) -> NodeError {
        let is_damage = |sign: &&str| self.code == *sign || self.details.contains(sign);
        if self.is_denial() || !DAMAGE.iter().any(is_damage) {
            return self.explain();
        }
        self.with(
            NodeErrorKind::WrongType,
            "ringlock's own state on the server is not what ringlock writes: delete all of it, the keys that end in !id, !m and !c, and the node is let in anew",
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

fn explain(code: &str, details: &str) -> (NodeErrorKind, &'static str) {
    // Within a script the refusal has no code of its own.
    let is_forbidden =
        details.contains("user executing the script") || details.contains("ACL failure in script");
    match code {
        "WRONGTYPE" => (
            NodeErrorKind::WrongType,
            "the key holds something that is no lock: use another key_prefix, or delete it",
        ),
        "NOAUTH" | "WRONGPASS" => (
            NodeErrorKind::Denied,
            "the server refuses the credentials: check user and password in the node's url",
        ),
        _ if code == "NOPERM" || is_forbidden => (
            NodeErrorKind::Denied,
            "the server's ACL forbids the user a command or key that ringlock needs",
        ),
        "READONLY" => (
            NodeErrorKind::Unsuitable,
            "the server is a replica: name the primary",
        ),
        "LOADING" => (
            NodeErrorKind::Unreachable,
            "the server is still loading its data",
        ),
        "MOVED" | "CLUSTERDOWN" | "CROSSSLOT" => (
            NodeErrorKind::Unsuitable,
            "the server is part of a cluster: use standalone servers",
        ),
        "OOM" => (
            NodeErrorKind::Overloaded,
            "the server is out of memory: raise its maxmemory",
        ),
        "MISCONF" => (
            NodeErrorKind::Overloaded,
            "the server cannot persist: see its log",
        ),
        "NOSCRIPT" => (
            NodeErrorKind::Unreachable,
            "the server's scripts were flushed; they are loaded again",
        ),
        _ if details.contains("AUTH") || details.contains("DB index") => {
            (NodeErrorKind::Denied, "the server refuses the node's url")
        }
        _ => (NodeErrorKind::Protocol, "the server refuses a command"),
    }
}
