//! Replies of a server as answers. A reply that does not match its request is a
//! [`Protocol`](crate::NodeErrorKind::Protocol) error: it is never believed and
//! never causes a panic.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::node::redis::codec::command_group::{CommandGroup, GroupKind};
use crate::node::redis::codec::request::PendingRequest;
use crate::node::redis::resp::error_reply::{ErrorReply, misfit, unexpected};
use crate::node::redis::resp::parser::{Replies, Value, read_text};
use crate::proto::lease::{Holder, Token};
use crate::proto::node::message::{
    Accepted, Answer, CurrentHolder, FenceCounterId, NodeError, NodeStatus, PriorState, Reply,
    Request, ViewId,
};

/// The most bytes of a nonce or an incarnation: about twice what ours have.
const MAX_STAMP: usize = 256;

/// What a reply means for one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplyAction {
    /// Its answer.
    Answer(Answer),
    /// Held by another client: ask for how long.
    AskRemaining(Holder),
    /// The key already held the request's own token: raise the remaining time.
    Raise(u64),
    /// Answered as stale, but an entry was made: delete it at once.
    Undo(Option<ViewId>),
    /// There is no entry of its own to release: ask what is stored instead.
    AskFound,
    /// Nothing was done: send it again in another form.
    Again,
}

use ReplyAction::Answer as Is;

/// The answer of a script, which follows its mark; an error has no mark.
/// `None`: it is the answer to something else.
fn marked(replies: &[u8], nonce_echo: u32) -> Option<&[u8]> {
    let mut values = Replies::of(replies);
    values.list(2)?;
    let is_ours = is_mark(values.next()?, nonce_echo);
    is_ours.then(|| values.rest())
}

fn is_mark(value: Value<'_>, nonce_echo: u32) -> bool {
    value == Value::Bulk(itoa::Buffer::new().format(nonce_echo).as_bytes())
}

/// The same error for all requests.
fn for_all(requests: &[PendingRequest], error: &NodeError) -> Vec<ReplyAction> {
    let refused = requests.iter().map(|_| Is(Err(error.clone())));
    refused.collect()
}

/// The answers to a group's requests, in their order.
///
/// # Errors
/// The replies are not to these requests: those that follow may not be to the
/// next ones either.
pub(crate) fn decode(group: &CommandGroup, replies: &[u8]) -> Result<Vec<ReplyAction>, NodeError> {
    let requests = &group.requests;
    // Separate commands are refused one by one.
    let is_whole = !matches!(
        group.kind,
        GroupKind::AcquireCommands(..)
            | GroupKind::AcquireTogether(..)
            | GroupKind::ReleaseCommands(_)
    );
    if group.is_refused
        && is_whole
        && let Some(error) = ErrorReply::first(replies)
    {
        return Ok(for_all(requests, &error.explain_state()));
    }
    let values = Replies::of(replies);
    let scripted = |read: fn(&mut Replies<'_>) -> Option<Answer>| {
        batch(
            requests,
            Replies::of(marked(replies, group.nonce_echo)?),
            read,
        )
    };
    let (what, read) = match &group.kind {
        GroupKind::AcquireCommands(view, slots) => {
            ("ACQUIRE", set(requests, *view, slots, false, values))
        }
        GroupKind::AcquireTogether(view, slots) => {
            ("ACQUIRE", set(requests, *view, slots, true, values))
        }
        GroupKind::AcquireScript(_) => ("ACQUIRE", scripted(acquired)),
        GroupKind::Extend(_) => ("EXTEND", scripted(extended)),
        GroupKind::ReleaseScript if is_mark_alone(replies, group.nonce_echo) => {
            let released = requests.iter().map(|_| Is(Ok(Reply::Released)));
            ("RELEASE", Some(released.collect()))
        }
        GroupKind::ReleaseScript => ("RELEASE", scripted(released)),
        GroupKind::ReleaseCommands(_) => ("RELEASE", deleted(requests, values)),
        GroupKind::Control
        | GroupKind::Found
        | GroupKind::Remaining(_)
        | GroupKind::Recheck
        | GroupKind::Clock
        | GroupKind::Identity { .. }
        | GroupKind::Load(_) => ("a request", None),
    };
    read.ok_or_else(|| misfit(what))
}

/// One reply per request, or one text: the view that is served instead.
fn batch(
    requests: &[PendingRequest],
    mut values: Replies<'_>,
    read: fn(&mut Replies<'_>) -> Option<Answer>,
) -> Option<Vec<ReplyAction>> {
    match values.next()? {
        Value::List(len) if len == requests.len() => {
            requests.iter().map(|_| read(&mut values).map(Is)).collect()
        }
        Value::Bulk(serving) => {
            let serving = served(serving)?;
            let stale = requests.iter().map(|_| Is(Ok(Reply::Stale(serving))));
            Some(stale.collect())
        }
        _ => None,
    }
}

/// The replies of separate commands: what each SET found, or whether all keys could
/// be set; each slot's count; the view served. The last decides what the others
/// mean.
fn set(
    requests: &[PendingRequest],
    view: ViewId,
    slots: &[(FenceCounterId, u64)],
    are_together: bool,
    mut values: Replies<'_>,
) -> Option<Vec<ReplyAction>> {
    let found = values;
    let sets = if are_together { 1 } else { requests.len() };
    for _ in 0..sets {
        values.next()?;
    }
    // The count before each slot's requests, and their number.
    let mut counts: SmallVec<[(u64, u64); 1]> = SmallVec::new();
    for (_, taken) in slots {
        let last = match values.next()? {
            Value::Int(last) => u64::try_from(last).ok()?,
            Value::Error(line) => return Some(damaged(requests, line)),
            _ => return None,
        };
        counts.push((last.checked_sub(*taken)?, last));
    }
    let serving = match values.next()? {
        Value::Bulk(id) if view.is(id) => Some(view),
        Value::Bulk(id) => served(id)?,
        Value::Nil => None,
        Value::Error(line) => return Some(damaged(requests, line)),
        _ => return None,
    };
    let is_served = serving == Some(view);
    let mut values = found;
    let together = if are_together {
        Some(values.next()?)
    } else {
        None
    };
    requests
        .iter()
        .zip(
            counts
                .into_iter()
                .flat_map(|(before, last)| before + 1..=last),
        )
        .map(|(pending, counter)| {
            let Request::Acquire { token, .. } = &pending.request else {
                return None;
            };
            let found = match together {
                None => values.next()?,
                // As if each SET had found nothing.
                Some(Value::Int(1)) => Value::Nil,
                Some(Value::Int(0)) if is_served => return Some(ReplyAction::Again),
                Some(Value::Int(0)) => return Some(Is(Ok(Reply::Stale(serving)))),
                Some(Value::Error(line)) if ErrorReply::of(line).is_denial() => {
                    return Some(ReplyAction::Again);
                }
                Some(error @ Value::Error(_)) => error,
                Some(_) => return None,
            };
            resolve(token, counter, is_served, serving, found)
        })
        .collect()
}

/// A command on ringlock's own state failed.
fn damaged(requests: &[PendingRequest], line: &[u8]) -> Vec<ReplyAction> {
    for_all(requests, &ErrorReply::of(line).explain_state())
}

fn resolve(
    token: &Token,
    counter: u64,
    is_served: bool,
    serving: Option<ViewId>,
    found: Value<'_>,
) -> Option<ReplyAction> {
    Some(match found {
        Value::Nil if is_served => Is(Ok(Reply::Granted { counter })),
        Value::Nil => ReplyAction::Undo(serving),
        Value::Bulk(_) | Value::Error(_) if !is_served => Is(Ok(Reply::Stale(serving))),
        Value::Bulk(holder) if *holder == *token.stored() => ReplyAction::Raise(counter),
        Value::Bulk(holder) => ReplyAction::AskRemaining(Holder::of_stored(holder)),
        Value::Error(line) => Is(Err(ErrorReply::of(line).explain())),
        _ => return None,
    })
}

fn acquired(values: &mut Replies<'_>) -> Option<Answer> {
    match values.next()? {
        Value::Int(count) => Some(Ok(Reply::Granted {
            counter: u64::try_from(count).ok()?,
        })),
        Value::List(2) => Some(Ok(Reply::Busy(rival(values)?))),
        other => wrong_type(other),
    }
}

fn extended(values: &mut Replies<'_>) -> Option<Answer> {
    let parts = match values.next()? {
        Value::List(parts) => parts,
        other => return wrong_type(other),
    };
    let counter = |values: &mut Replies<'_>| u64::try_from(values.int()?).ok();
    let reply = match (values.bulk()?, parts) {
        (b"kept", 2) => Reply::Kept {
            counter: counter(values)?,
        },
        (b"made", 2) => Reply::Made {
            counter: counter(values)?,
        },
        (b"lost", 1) => Reply::Lost(None),
        (b"lost", 3) => Reply::Lost(Some(rival(values)?)),
        _ => return None,
    };
    Some(Ok(reply))
}

/// Whether each key of a RELEASE held its request's token, and is deleted.
fn is_mark_alone(replies: &[u8], nonce_echo: u32) -> bool {
    let value = Replies::of(replies).next();
    value.is_some_and(|value| is_mark(value, nonce_echo))
}

/// The answer to a RELEASE of one key by script; `None`: it is the answer to
/// something else.
pub(crate) fn release(replies: &[u8], nonce_echo: u32) -> Option<Answer> {
    if is_mark_alone(replies, nonce_echo) {
        return Some(Ok(Reply::Released));
    }
    let mut values = Replies::of(marked(replies, nonce_echo)?);
    values.list(1)?;
    released(&mut values)
}

fn released(values: &mut Replies<'_>) -> Option<Answer> {
    match values.int()? {
        1 => Some(Ok(Reply::Released)),
        0 => Some(Ok(Reply::Missing)),
        -1 => Some(Ok(Reply::Foreign)),
        _ => None,
    }
}

/// The replies of commands that each delete one key if it holds the request's
/// token.
fn deleted(requests: &[PendingRequest], mut values: Replies<'_>) -> Option<Vec<ReplyAction>> {
    let read = |pending: &PendingRequest| {
        Some(match values.next()? {
            Value::Int(1) => Is(Ok(Reply::Released)),
            Value::Int(0) if pending.reply.is_nobody() => Is(Ok(Reply::Missing)),
            Value::Int(0) => ReplyAction::AskFound,
            Value::Error(line) => match ErrorReply::of(line) {
                error if error.is_denial() => ReplyAction::Again,
                error if error.is_no_lock() => Is(Ok(Reply::Missing)),
                error => Is(Err(error.explain())),
            },
            _ => return None,
        })
    };
    requests.iter().map(read).collect()
}

/// The answer to a release that found no entry of its own, by a GET that
/// followed. An entry with the request's own token was made by a later request.
pub(crate) fn not_released(token: &Token, found: Option<Value<'_>>) -> Answer {
    match found {
        Some(Value::Nil) => Ok(Reply::Missing),
        Some(Value::Bulk(holder)) if *holder == *token.stored() => Ok(Reply::Missing),
        Some(Value::Bulk(_)) => Ok(Reply::Foreign),
        Some(Value::Error(line)) if ErrorReply::of(line).is_no_lock() => Ok(Reply::Missing),
        other => Err(unexpected(other, "GET")),
    }
}

fn rival(values: &mut Replies<'_>) -> Option<CurrentHolder> {
    let left = remaining(values.int()?);
    Some(CurrentHolder::new(Holder::of_stored(values.bulk()?), left))
}

/// The reply of PTTL: −1 never expires, −2 is already gone.
pub(crate) fn remaining(left: i64) -> Option<Duration> {
    (left != -1).then(|| Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

fn wrong_type(value: Value<'_>) -> Option<Answer> {
    (value == Value::Bulk(b"WRONGTYPE")).then(|| Err(ErrorReply::of(b"WRONGTYPE").explain()))
}

/// A view id in a reply; empty for none. The outer `None`: it is no id.
fn served(text: &[u8]) -> Option<Option<ViewId>> {
    if text.is_empty() {
        return Some(None);
    }
    read_text(text).map(Some)
}

/// The answer to a request that is in a group by itself.
///
/// # Errors
/// As [`decode`].
pub(crate) fn control(
    request: &Request,
    replies: &[u8],
    nonce_echo: u32,
    incarnation: &[u8],
) -> Result<Answer, NodeError> {
    if let Some(Value::Error(line)) = Replies::of(replies).next() {
        return Ok(Err(ErrorReply::of(line).explain_state()));
    }
    if *request == Request::Document {
        return document(replies).map(Ok);
    }
    let reply = marked(replies, nonce_echo).ok_or_else(|| misfit("a request"))?;
    let answer = match request {
        Request::Status => status(reply, incarnation).map(Reply::Status),
        Request::PriorState => past(reply)
            .map(Reply::PriorState)
            .ok_or_else(|| misfit("PAST")),
        Request::Prepare { .. } => prepared(reply, incarnation),
        Request::Accept { .. } => accepted(reply, incarnation),
        _ => compared_and_set(reply, incarnation),
    };
    answer.map(Ok)
}

/// The answer to STATUS.
pub(crate) fn asked_status(
    replies: &[u8],
    nonce_echo: u32,
    incarnation: &[u8],
) -> Result<NodeStatus, NodeError> {
    match control(&Request::Status, replies, nonce_echo, incarnation)?? {
        Reply::Status(status) => Ok(*status),
        _ => Err(misfit("STATUS")),
    }
}

/// The reply of STATUS.
fn status(reply: &[u8], incarnation: &[u8]) -> Result<Box<NodeStatus>, NodeError> {
    let read = || {
        let mut values = Replies::of(reply);
        values.list(3)?;
        let serving = served(values.bulk()?)?;
        let mut text = || {
            let text = std::str::from_utf8(values.bulk()?).ok()?;
            if text.len() > MAX_STAMP {
                return None;
            }
            Some((!text.is_empty()).then(|| Arc::<str>::from(text)))
        };
        Some(Box::new(NodeStatus {
            serving,
            nonce: text()?,
            stamped: text()?,
            incarnation: String::from_utf8_lossy(incarnation).into(),
        }))
    };
    read().ok_or_else(|| misfit("STATUS"))
}

/// The reply of PAST.
fn past(reply: &[u8]) -> Option<PriorState> {
    let mut values = Replies::of(reply);
    values.list(2)?;
    let (Value::Int(epoch), Value::Int(millis)) = (values.next()?, values.next()?) else {
        return None;
    };
    Some(PriorState {
        epoch: u32::try_from(epoch).ok()?,
        quarantined_for: match millis {
            -1 => None,
            millis => Some(Duration::from_millis(u64::try_from(millis).ok()?)),
        },
    })
}

/// The reply of QUARANTINE, ADOPT and RESTAMP.
fn compared_and_set(reply: &[u8], incarnation: &[u8]) -> Answer {
    match Replies::of(reply).next() {
        Some(Value::Int(1)) => Ok(Reply::Done),
        _ => status(reply, incarnation).map(Reply::Refused),
    }
}

/// The reply of PREPARE.
fn prepared(reply: &[u8], incarnation: &[u8]) -> Answer {
    match Replies::of(reply).next() {
        Some(Value::List(4)) => promised(reply)
            .map(|accepted| Reply::Promised(accepted.map(Box::new)))
            .ok_or_else(|| misfit("PREPARE")),
        Some(Value::Bulk(ballot)) => outbid(ballot, "PREPARE"),
        _ => status(reply, incarnation).map(Reply::Refused),
    }
}

/// The reply of ACCEPT.
fn accepted(reply: &[u8], incarnation: &[u8]) -> Answer {
    match Replies::of(reply).next() {
        Some(Value::Bulk(ballot)) => outbid(ballot, "ACCEPT"),
        _ => compared_and_set(reply, incarnation),
    }
}

fn outbid(ballot: &[u8], what: &str) -> Answer {
    let ballot = read_text(ballot).ok_or_else(|| misfit(what))?;
    Ok(Reply::Preempted(ballot))
}

/// What a node reports that it has accepted. The outer `None`: the reply is
/// malformed.
fn promised(reply: &[u8]) -> Option<Option<Accepted>> {
    let mut values = Replies::of(reply);
    values.list(4)?;
    let (ballot, view, document) = (values.bulk()?, values.bulk()?, values.bulk()?);
    if values.bulk()? != b"accepted" {
        return None;
    }
    if ballot.is_empty() && view.is_empty() && document.is_empty() {
        return Some(None);
    }
    Some(Some(Accepted {
        ballot: read_text(ballot)?,
        view: read_text(view)?,
        document: std::str::from_utf8(document).ok()?.into(),
    }))
}

/// The reply of DOCUMENT.
fn document(reply: &[u8]) -> Answer {
    match Replies::of(reply).next() {
        Some(Value::Nil) => Ok(Reply::Document(None)),
        Some(Value::Bulk(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Reply::Document(Some(text.into()))),
            Err(_) => Err(misfit("DOCUMENT")),
        },
        _ => Err(misfit("DOCUMENT")),
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::node::ReplyTo;
    use crate::node::redis::codec::capabilities::DeleteIf;
    use crate::proto::lease::{Key, Ttl};
    use crate::proto::node::message::{Ballot, NodeErrorKind};
    use crate::proto::time::Instant;

    const VIEW: ViewId = ViewId {
        epoch: 1,
        digest: 7,
    };

    fn decoded(
        kind: GroupKind,
        request: impl Fn(Key) -> Request,
        replies: &str,
    ) -> Vec<ReplyAction> {
        let requests = ["a", "b"].map(|name| PendingRequest {
            request: request(Key::new(name).unwrap()),
            deadline: Instant::default(),
            reply: ReplyTo::nobody(),
        });
        let group = CommandGroup::new(kind, requests.into(), Instant::default());
        let refused = |error| for_all(&group.requests, &error);
        decode(&group, replies.as_bytes()).unwrap_or_else(refused)
    }

    /// Two keys set together, and the replies to that.
    fn set_together(replies: &str) -> Vec<ReplyAction> {
        let ttl = Ttl::new(Duration::from_secs(1), Duration::from_secs(1)).unwrap();
        let request = |key| Request::Acquire {
            view: VIEW,
            key,
            token: Token::new(1, None),
            ttl,
            slot: FenceCounterId::SINGLE,
            floor: 0,
        };
        let kind = GroupKind::AcquireTogether(VIEW, smallvec![(FenceCounterId::SINGLE, 2)]);
        decoded(kind, request, replies)
    }

    fn deleted(replies: &str) -> Vec<ReplyAction> {
        let request = |key| Request::Release {
            key,
            token: Token::new(1, None),
        };
        let kind = GroupKind::ReleaseCommands(DeleteIf::Delifeq);
        decoded(kind, request, replies)
    }

    fn are_misfits(actions: &[ReplyAction]) -> bool {
        let is_misfit = |action: &ReplyAction| matches!(action, Is(Err(error)) if error.kind() == NodeErrorKind::Protocol);
        actions.len() == 2 && actions.iter().all(is_misfit)
    }

    #[test]
    fn keys_set_together_share_their_fate() {
        let serving = format!("$34\r\n{VIEW}\r\n");
        let replies = |set: &str, id: &str| set_together(&format!("{set}:9\r\n{id}"));
        let counts = [8, 9].map(|counter| Is(Ok(Reply::Granted { counter })));
        assert_eq!(replies(":1\r\n", &serving), counts);
        let again = || ReplyAction::Again;
        assert_eq!(replies(":0\r\n", &serving), [again(), again()]);
        let undo = || ReplyAction::Undo(None);
        assert_eq!(replies(":1\r\n", "$-1\r\n"), [undo(), undo()]);
        let stale = || Is(Ok(Reply::Stale(None)));
        assert_eq!(replies(":0\r\n", "$-1\r\n"), [stale(), stale()]);
    }

    #[test]
    fn replies_to_keys_set_together_that_do_not_fit() {
        for replies in [
            ":2\r\n:9\r\n",
            ":-1\r\n:9\r\n",
            "$-1\r\n:9\r\n",
            "+OK\r\n:9\r\n",
            // A lower count than the requests took.
            ":1\r\n:1\r\n",
            ":0\r\n$1\r\nx\r\n",
            // A reply is missing, or there is one too many.
            ":1\r\n",
            ":1\r\n:1\r\n:9\r\n",
            "*-1\r\n",
        ] {
            let actions = set_together(&format!("{replies}$34\r\n{VIEW}\r\n"));
            assert!(are_misfits(&actions), "{replies:?}: {actions:?}");
        }
        // A refusal of the user is no refusal of the keys.
        let denied = format!("-NOPERM not you\r\n:9\r\n$34\r\n{VIEW}\r\n");
        let again = || ReplyAction::Again;
        assert_eq!(set_together(&denied), [again(), again()]);
    }

    /// Whatever precedes it: without the counts nothing is granted.
    #[test]
    fn what_was_not_counted_is_not_granted() {
        for error in ["OOM used memory", "WRONGTYPE no hash", "NOPERM not you"] {
            let replies = format!(":1\r\n-{error}\r\n$34\r\n{VIEW}\r\n");
            let is_error = |action: &ReplyAction| matches!(action, Is(Err(_)));
            assert!(set_together(&replies).iter().all(is_error), "{error}");
        }
    }

    #[test]
    fn a_release_of_what_is_there_is_answered_by_its_mark() {
        let replies = |replies: &str| {
            let token = Token::new(1, None);
            let request = |key| Request::Release {
                key,
                token: token.clone(),
            };
            decoded(GroupKind::ReleaseScript, request, replies)
        };
        let [all, some] = ["$1\r\n0\r\n", "*2\r\n$1\r\n0\r\n*2\r\n:1\r\n:-1\r\n"];
        let released = || Is(Ok(Reply::Released));
        assert_eq!(replies(all), [released(), released()]);
        assert_eq!(replies(some), [released(), Is(Ok(Reply::Foreign))]);
        for misfit in ["$1\r\n1\r\n", ":0\r\n", "$-1\r\n", "*1\r\n$1\r\n0\r\n"] {
            assert!(are_misfits(&replies(misfit)), "{misfit:?}");
        }
    }

    #[test]
    fn deleting_commands_are_answered_one_by_one() {
        // No caller waits for these, so the node does not ask what is stored
        // instead.
        let missing = || Is(Ok(Reply::Missing));
        let answers = deleted(":1\r\n-WRONGTYPE no string\r\n");
        assert_eq!(answers, [Is(Ok(Reply::Released)), missing()]);
        let answers = deleted("-NOPERM not you\r\n:0\r\n");
        assert_eq!(answers, [ReplyAction::Again, missing()]);
        assert!(matches!(
            &deleted("-READONLY replica\r\n:1\r\n")[..],
            [Is(Err(error)), Is(Ok(Reply::Released))] if error.kind() == NodeErrorKind::Unsuitable
        ));
        for replies in [
            ":2\r\n:1\r\n",
            "+OK\r\n:1\r\n",
            ":1\r\n*1\r\n:1\r\n",
            "$-1\r\n:0\r\n",
        ] {
            let actions = deleted(replies);
            assert!(are_misfits(&actions), "{replies:?}: {actions:?}");
        }
    }

    #[test]
    fn what_was_found_instead() {
        let (token, other) = (Token::new(1, None), Token::new(2, None));
        let found = |value| not_released(&token, value);
        assert_eq!(found(Some(Value::Nil)), Ok(Reply::Missing));
        // A later request made it: when the release arrived, nothing was there.
        let (stored, others) = (token.stored(), other.stored());
        let own = Value::Bulk(&stored);
        assert_eq!(found(Some(own)), Ok(Reply::Missing));
        let foreign = Value::Bulk(&others);
        assert_eq!(found(Some(foreign)), Ok(Reply::Foreign));
        let list = Value::Error(b"WRONGTYPE no string");
        assert_eq!(found(Some(list)), Ok(Reply::Missing));
        for misfit in [None, Some(Value::Int(1)), Some(Value::List(0))] {
            assert_eq!(found(misfit).unwrap_err().kind(), NodeErrorKind::Protocol);
        }
    }

    fn bulks(texts: &[&str]) -> String {
        let bulk = |text: &&str| format!("${}\r\n{text}\r\n", text.len());
        texts.iter().map(bulk).collect()
    }

    fn list(texts: &[&str]) -> String {
        format!("*{}\r\n{}", texts.len(), bulks(texts))
    }

    fn after_prepare(reply: &str) -> Answer {
        prepared(reply.as_bytes(), b"run-1")
    }

    fn after_accept(reply: &str) -> Answer {
        accepted(reply.as_bytes(), b"run-1")
    }

    const BALLOT: Ballot = Ballot {
        round: 2,
        proposer: 9,
    };

    #[test]
    fn a_promise_reports_what_was_accepted() {
        let (ballot, view) = (BALLOT.to_string(), VIEW.to_string());
        let before = Accepted {
            ballot: BALLOT,
            view: VIEW,
            document: "a\r\nb".into(),
        };
        let nothing = list(&["", "", "", "accepted"]);
        assert_eq!(after_prepare(&nothing), Ok(Reply::Promised(None)));
        let something = list(&[&ballot, &view, "a\r\nb", "accepted"]);
        assert_eq!(
            after_prepare(&something),
            Ok(Reply::Promised(Some(Box::new(before))))
        );
        assert_eq!(after_accept(":1\r\n"), Ok(Reply::Done));
    }

    #[test]
    fn both_votes_are_refused_alike() {
        let refused = Ok(Reply::Refused(Box::new(NodeStatus {
            serving: Some(VIEW),
            nonce: Some("n".into()),
            stamped: None,
            incarnation: "run-1".into(),
        })));
        let (outbid, status) = (bulks(&[&BALLOT.to_string()]), VIEW.to_string());
        let status = list(&[&status, "n", ""]);
        for answered in [after_prepare, after_accept] {
            assert_eq!(answered(&outbid), Ok(Reply::Preempted(BALLOT)));
            assert_eq!(answered(&status), refused);
        }
    }

    #[test]
    fn votes_that_do_not_fit() {
        let (ballot, view) = (BALLOT.to_string(), VIEW.to_string());
        let (ballot, view) = (ballot.as_str(), view.as_str());
        let of_neither = [
            String::new(),
            "$-1\r\n".into(),
            "*-1\r\n".into(),
            "*0\r\n".into(),
            ":0\r\n".into(),
            ":2\r\n".into(),
            "+OK\r\n".into(),
            // No ballots.
            bulks(&[""]),
            bulks(&["2.9"]),
            bulks(&[&format!("{ballot}0")]),
            bulks(&[view]),
            // A different number of parts, or different parts.
            list(&[ballot, view, "document"]),
            list(&[ballot, view, "document", "accepted", ""]),
            list(&[ballot, view, "document", ""]),
            list(&["2.9", view, "document", "accepted"]),
            list(&[ballot, "1:7", "document", "accepted"]),
            list(&["", view, "document", "accepted"]),
            list(&[ballot, "", "document", "accepted"]),
            list(&["", "", "document", "accepted"]),
            "*4\r\n$-1\r\n$-1\r\n$-1\r\n$8\r\naccepted\r\n".into(),
            "*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n".into(),
            "*4\r\n*0\r\n*0\r\n*0\r\n*0\r\n".into(),
        ];
        // Valid answers to the other request.
        let of_accept = [":1\r\n".into()];
        let of_prepare = [list(&["", "", "", "accepted"])];
        let to_prepare = of_neither.iter().chain(&of_accept);
        let to_accept = of_neither.iter().chain(&of_prepare);
        let answers = to_prepare
            .map(|reply| (reply, after_prepare(reply)))
            .chain(to_accept.map(|reply| (reply, after_accept(reply))));
        for (reply, answer) in answers {
            let kind = answer.as_ref().map_err(NodeError::kind);
            assert_eq!(kind, Err(NodeErrorKind::Protocol), "{reply:?}: {answer:?}");
        }
    }

    #[test]
    fn a_document_that_is_no_text_was_not_accepted() {
        let (ballot, view) = (BALLOT.to_string(), VIEW.to_string());
        let reply = list(&[&ballot, &view, "?", "accepted"]).into_bytes();
        let reply: Vec<u8> = reply
            .into_iter()
            .map(|byte| if byte == b'?' { 0xff } else { byte })
            .collect();
        let error = prepared(&reply, b"run-1").unwrap_err();
        assert_eq!(error.kind(), NodeErrorKind::Protocol);
    }
}
