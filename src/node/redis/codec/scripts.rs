//! The scripts, and the names under which a server knows them.

use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::node::message::Request;

/// A script that every connection loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Acquire,
    Extend,
    Release,
    Status,
    Quarantine,
    Prepare,
    Accept,
    Adopt,
    Restamp,
    PriorState,
}

impl Script {
    pub(crate) const ALL: [Self; 10] = [
        Self::Acquire,
        Self::Extend,
        Self::Release,
        Self::Status,
        Self::Quarantine,
        Self::Prepare,
        Self::Accept,
        Self::Adopt,
        Self::Restamp,
        Self::PriorState,
    ];

    /// The script that carries out `request`; `None`: a command does.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::Acquire { .. } => Self::Acquire,
            Request::Extend { .. } => Self::Extend,
            Request::Release { .. } => Self::Release,
            Request::Status => Self::Status,
            Request::PriorState => Self::PriorState,
            Request::Quarantine { .. } => Self::Quarantine,
            Request::Prepare { .. } => Self::Prepare,
            Request::Accept { .. } => Self::Accept,
            Request::Adopt { .. } => Self::Adopt,
            Request::Restamp { .. } => Self::Restamp,
            Request::Document => return None,
        })
    }

    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::Acquire => include_str!("lua/acquire.lua"),
            Self::Extend => include_str!("lua/extend.lua"),
            Self::Release => include_str!("lua/release.lua"),
            Self::Status => include_str!("lua/status.lua"),
            Self::PriorState => include_str!("lua/past.lua"),
            Self::Quarantine => include_str!("lua/quarantine.lua"),
            Self::Prepare => include_str!("lua/prepare.lua"),
            Self::Accept => include_str!("lua/accept.lua"),
            Self::Adopt => include_str!("lua/adopt.lua"),
            Self::Restamp => include_str!("lua/restamp.lua"),
        }
    }

    /// Appends the command that loads it.
    pub(crate) fn load(self, out: &mut Vec<u8>) {
        command(out, &[b"SCRIPT", b"LOAD", self.source().as_bytes()]);
    }
}

/// The SHA-1 of each script, as the server returned it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripts([Vec<u8>; Script::ALL.len()]);

impl Scripts {
    /// The server loaded `script` under this name.
    pub(crate) fn loaded(&mut self, script: Script, sha: &[u8]) {
        self.0[script as usize] = sha.to_vec();
    }

    pub(crate) fn sha(&self, script: Script) -> &[u8] {
        &self.0[script as usize]
    }
}

/// The number of replies to a script with its text: MULTI, two QUEUED, EXEC.
const REPLIES: usize = 4;

/// Appends the loading of `script` and what `call` appends, as one transaction.
pub(crate) fn together(
    script: Script,
    call: impl FnOnce(&mut Vec<u8>),
    out: &mut Vec<u8>,
) -> usize {
    command(out, &[b"MULTI"]);
    script.load(out);
    call(out);
    command(out, &[b"EXEC"]);
    REPLIES
}

/// The reply of the script within the replies to a script with its text;
/// `None`: these are other replies.
pub(crate) fn unpacked(replies: &[u8]) -> Option<&[u8]> {
    let mut values = Replies::of(replies);
    for _ in 1..REPLIES {
        let Value::Status(_) = values.next()? else {
            return None;
        };
    }
    values.list(2)?;
    values.bulk()?;
    Some(values.rest())
}
