//! Replies of a server as answers. Whatever does not fit what was asked is a
//! [`Protocol`](NodeErrorKind::Protocol) error: never believed, never a panic.

use std::sync::Arc;
use std::time::Duration;

use redis::{ServerError, Value};

use super::batch::{Kind, Section};
use super::lane::Pending;
use crate::proto::lease::{Holder, Token};
use crate::proto::wire::{
    Answer, NodeError, NodeErrorKind, NodeStatus, Reply, Request, Rival, Slot, ViewId,
};

/// What a reply means for one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Its answer.
    Answer(Answer),
    /// Held by somebody: ask for how long.
    AskRemaining(Holder),
    /// The key held the request's own token already: raise what is left of it.
    Raise(u64),
    /// Answered as stale, but an entry was made: delete it at once.
    Undo(Option<ViewId>),
}

use Resolution::Answer as Is;

/// The answer was not in the form that the request has one in.
pub(super) fn misfit(what: &str) -> NodeError {
    NodeError::new(
        NodeErrorKind::Protocol,
        format!("the server's reply to {what} is not one that it may give"),
    )
}

/// A server's error reply as an error of the node.
pub(super) fn refusal(error: &ServerError) -> NodeError {
    let (code, details) = (error.code(), error.details().unwrap_or_default());
    // Within a script the refusal has no code of its own.
    let is_forbidden =
        details.contains("user executing the script") || details.contains("ACL failure in script");
    let (kind, advice) = match code {
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
    };
    NodeError::new(kind, format!("{advice} ({code} {details})"))
}

/// The answers to a section's requests, in their order.
pub(super) fn decode(section: &Section, value: Value) -> Vec<Resolution> {
    let requests = &section.requests;
    let all = |error: NodeError| {
        requests
            .iter()
            .map(|_| Is(Err(error.clone())))
            .collect::<Vec<_>>()
    };
    if let Value::ServerError(error) = &value {
        return all(refusal(section.early_error.as_ref().unwrap_or(error)));
    }
    match &section.kind {
        Kind::AcquireTransaction(view, slots) => {
            transaction(requests, *view, slots, value).unwrap_or_else(|| all(misfit("ACQUIRE")))
        }
        Kind::AcquireScript(_) => batch(requests, value, |_, item| match item {
            Value::Int(count) => Some(Ok(Reply::Granted {
                counter: u64::try_from(count).ok()?,
            })),
            Value::Array(pair) => {
                let [left, holder] = <[Value; 2]>::try_from(pair).ok()?;
                Some(Ok(Reply::Busy(rival(left, holder)?)))
            }
            other => wrong_type(&other),
        })
        .unwrap_or_else(|| all(misfit("ACQUIRE"))),
        Kind::Extend(_) => batch(requests, value, |_, item| extended(item))
            .unwrap_or_else(|| all(misfit("EXTEND"))),
        Kind::Release => batch(requests, value, |_, item| match item {
            Value::Int(1) => Some(Ok(Reply::Released)),
            Value::Int(0) => Some(Ok(Reply::Missing)),
            Value::Int(-1) => Some(Ok(Reply::Foreign)),
            _ => None,
        })
        .unwrap_or_else(|| all(misfit("RELEASE"))),
        Kind::Control | Kind::Remaining(_) | Kind::Recheck | Kind::Load(_) => {
            all(misfit("a request"))
        }
    }
}

/// One reply per request, or one text: the view that is served instead.
fn batch(
    requests: &[Pending],
    value: Value,
    read: impl Fn(&Pending, Value) -> Option<Answer>,
) -> Option<Vec<Resolution>> {
    match value {
        Value::Array(items) if items.len() == requests.len() => requests
            .iter()
            .zip(items)
            .map(|(pending, item)| read(pending, item).map(Is))
            .collect(),
        Value::BulkString(serving) => {
            let serving = served(&serving)?;
            Some(
                requests
                    .iter()
                    .map(|_| Is(Ok(Reply::Stale(serving))))
                    .collect(),
            )
        }
        _ => None,
    }
}

/// The reply of EXEC: what each SET found, each slot's count, the view served.
fn transaction(
    requests: &[Pending],
    view: ViewId,
    slots: &[(Slot, u64)],
    value: Value,
) -> Option<Vec<Resolution>> {
    let Value::Array(mut items) = value else {
        return None;
    };
    if items.len() != requests.len() + slots.len() + 1 {
        return None;
    }
    let serving = match items.pop()? {
        Value::BulkString(id) => served(&id)?,
        Value::Nil => None,
        _ => return None,
    };
    let mut counts = Vec::with_capacity(slots.len());
    for (item, (slot, taken)) in items.drain(requests.len()..).zip(slots) {
        let Value::Int(count) = item else { return None };
        counts.push((*slot, u64::try_from(count).ok()?.checked_sub(*taken)?));
    }
    requests
        .iter()
        .zip(items)
        .map(|(pending, found)| {
            let Request::Acquire { token, slot, .. } = &pending.request else {
                return None;
            };
            let (_, count) = counts.iter_mut().find(|(known, _)| known == slot)?;
            *count += 1;
            resolve(token, *count, serving == Some(view), serving, found)
        })
        .collect()
}

fn resolve(
    token: &Token,
    counter: u64,
    is_served: bool,
    serving: Option<ViewId>,
    found: Value,
) -> Option<Resolution> {
    Some(match found {
        Value::Nil if is_served => Is(Ok(Reply::Granted { counter })),
        Value::Nil => Resolution::Undo(serving),
        Value::BulkString(_) | Value::ServerError(_) if !is_served => Is(Ok(Reply::Stale(serving))),
        Value::BulkString(holder) if holder == token.to_string().into_bytes() => {
            Resolution::Raise(counter)
        }
        Value::BulkString(holder) => Resolution::AskRemaining(Holder::of_stored(&holder)),
        Value::ServerError(error) => Is(Err(refusal(&error))),
        _ => return None,
    })
}

fn extended(item: Value) -> Option<Answer> {
    let Value::Array(mut parts) = item else {
        return wrong_type(&item);
    };
    let word = match parts.first()? {
        Value::BulkString(word) => word.clone(),
        _ => return None,
    };
    let rest = parts.split_off(1);
    match (&*word, <[Value; 1]>::try_from(rest)) {
        (b"kept", Ok([Value::Int(count)])) => Some(Ok(Reply::Kept {
            counter: u64::try_from(count).ok()?,
        })),
        (b"made", Ok([Value::Int(count)])) => Some(Ok(Reply::Made {
            counter: u64::try_from(count).ok()?,
        })),
        (b"lost", Err(rest)) if rest.is_empty() => Some(Ok(Reply::Lost(None))),
        (b"lost", Err(rest)) => {
            let [left, holder] = <[Value; 2]>::try_from(rest).ok()?;
            Some(Ok(Reply::Lost(Some(rival(left, holder)?))))
        }
        _ => None,
    }
}

fn rival(left: Value, holder: Value) -> Option<Rival> {
    let Value::BulkString(holder) = holder else {
        return None;
    };
    Some(Rival {
        holder: Some(Holder::of_stored(&holder)),
        remaining: remaining(&left)?,
    })
}

/// What PTTL says: −1 never expires, −2 is gone already.
pub(super) fn remaining(left: &Value) -> Option<Option<Duration>> {
    match left {
        Value::Int(-1) => Some(None),
        Value::Int(left) => Some(Some(Duration::from_millis(
            u64::try_from(*left).unwrap_or(0),
        ))),
        _ => None,
    }
}

fn wrong_type(item: &Value) -> Option<Answer> {
    let is_wrong_type = matches!(item, Value::BulkString(word) if word == b"WRONGTYPE");
    is_wrong_type.then(|| {
        let advice =
            "the key holds something that is no lock: use another key_prefix, or delete it";
        Err(NodeError::new(NodeErrorKind::WrongType, advice))
    })
}

/// A view id that a server told; empty for none. The outer `None`: no id.
fn served(text: &[u8]) -> Option<Option<ViewId>> {
    if text.is_empty() {
        return Some(None);
    }
    std::str::from_utf8(text).ok()?.parse().ok().map(Some)
}

/// The reply of STATUS.
pub(super) fn status(value: Value, incarnation: &[u8]) -> Result<NodeStatus, NodeError> {
    if let Value::ServerError(error) = &value {
        return Err(refusal(error));
    }
    let text = |value: Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok().map(Arc::<str>::from),
        _ => None,
    };
    let read = || {
        let Value::Array(parts) = value else {
            return None;
        };
        let [serving, nonce, stamped] = <[Value; 3]>::try_from(parts).ok()?;
        let some = |text: Arc<str>| (!text.is_empty()).then_some(text);
        Some(NodeStatus {
            serving: served(text(serving)?.as_bytes())?,
            nonce: some(text(nonce)?),
            stamped: some(text(stamped)?),
            incarnation: String::from_utf8_lossy(incarnation).into(),
        })
    };
    read().ok_or_else(|| misfit("STATUS"))
}

/// The reply of QUARANTINE, ADOPT and RESTAMP.
pub(super) fn compared_and_set(value: Value, incarnation: &[u8]) -> Answer {
    match value {
        Value::Int(1) => Ok(Reply::Done),
        other => status(other, incarnation).map(Reply::Refused),
    }
}

/// The reply of DOCUMENT.
pub(super) fn document(value: Value) -> Answer {
    match value {
        Value::ServerError(error) => Err(refusal(&error)),
        Value::Nil => Ok(Reply::Document(None)),
        Value::BulkString(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Reply::Document(Some(text.into()))),
            Err(_) => Err(misfit("DOCUMENT")),
        },
        _ => Err(misfit("DOCUMENT")),
    }
}
