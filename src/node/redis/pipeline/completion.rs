//! What the replies to a group mean for its requests, and what must be sent
//! because of them.

use std::collections::VecDeque;

use crate::clock;
use crate::node::ReplyTo;
use crate::node::redis::codec::capabilities::Dialect;
use crate::node::redis::codec::command_group::{CommandGroup, GroupKind};
use crate::node::redis::codec::decode;
use crate::node::redis::codec::decode::ReplyAction;
use crate::node::redis::codec::request::{Completions, PendingRequest};
use crate::node::redis::connection::clock_monitor::ClockHold;
use crate::node::redis::pipeline::identity_check;
use crate::node::redis::pipeline::identity_check::Count;
use crate::node::redis::pipeline::script_reload::{is_released, makes_entries, overtaken};
use crate::node::redis::resp::error_reply::{ErrorReply, misfit};
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::node::message::{
    CurrentHolder, IfMissing, Incarnation, NodeError, NodeErrorKind, NodeStatus, Reply, Request,
    ViewId,
};

/// What the replies of the server lead to, in addition to answers.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    /// Batches that are answered in full.
    pub(crate) batches: usize,
    /// Requests that are queued ahead of all others.
    pub(crate) again: Vec<PendingRequest>,
    /// Questions that are sent at once.
    pub(crate) follow_ups: Vec<CommandGroup>,
    /// What the server serves now.
    pub(crate) status: Option<NodeStatus>,
    /// The view that the last reply that names one shows to be served, or none.
    pub(crate) served: Option<Option<ViewId>>,
    /// Whether the last try to set keys together succeeded.
    pub(crate) joined: Option<bool>,
    /// The server's clock was stepped.
    pub(crate) clock_hold: Option<ClockHold>,
    /// The last count that the server returned.
    pub(crate) count: Count,
    /// The user may not use commands for which other forms exist.
    pub(crate) is_denied: bool,
    /// The server has lost its scripts.
    pub(crate) is_unloaded: bool,
}

/// What is known of the server that replies.
pub(crate) struct Server<'a> {
    pub(crate) dialect: &'a Dialect,
    pub(crate) status: &'a NodeStatus,
    pub(crate) clock_hold: Option<ClockHold>,
    /// What it was sent after the group that it replies to, and has answered:
    /// these replies wait for a check.
    pub(crate) held: &'a VecDeque<(CommandGroup, Vec<u8>)>,
    /// What it was sent after that, and has not answered.
    pub(crate) in_flight: &'a VecDeque<CommandGroup>,
}

impl<'a> Server<'a> {
    /// What it was sent after the group that it replies to.
    fn later(&self) -> impl Iterator<Item = &'a CommandGroup> + Clone {
        let held = self.held.iter().map(|(group, _)| group);
        held.chain(self.in_flight)
    }
}

/// Answers the requests of a group.
///
/// # Errors
/// The server must be verified again: the connection is of no further use.
pub(crate) fn settle(
    mut group: CommandGroup,
    replies: &[u8],
    server: &Server<'_>,
    completion: &mut Completion,
    answers: &mut Completions,
) -> Result<(), NodeError> {
    let dialect = server.dialect;
    completion.batches += usize::from(group.ends_batch);
    let replies = group.unpack(replies);
    if group.is_unloaded(replies) {
        group.send_again(server.later(), completion, answers);
        return Ok(());
    }
    let is_optional = matches!(
        group.kind,
        GroupKind::AcquireTogether(..) | GroupKind::ReleaseCommands(_)
    );
    // Refusals that concern single keys do not affect the connection.
    let refusal = if group.is_refused {
        ErrorReply::all(replies).find(|error| !error.is_no_lock())
    } else {
        None
    };
    // A reply that does not match its request may belong to another one. After
    // a mismatch, nothing that follows is believed.
    let fits = match group.kind {
        GroupKind::Remaining(_) => remaining(group, replies, answers),
        GroupKind::Found => not_released(group, replies, answers),
        GroupKind::Recheck => {
            let status = decode::asked_status(replies, group.nonce_echo, &dialect.incarnation)?;
            completion.served = Some(status.serving);
            completion.status = Some(status);
            Ok(())
        }
        GroupKind::Identity { with_policy } => {
            identity_check::verify(replies, with_policy, &dialect.incarnation)
        }
        GroupKind::Load(script) => {
            if Replies::of(replies).bulk() != Some(dialect.scripts.sha(script)) {
                return Err(misfit("SCRIPT LOAD"));
            }
            Ok(())
        }
        GroupKind::Control => control(group, replies, server, completion, answers),
        _ => batch(group, replies, server, completion, answers),
    };
    fits?;
    match refusal {
        Some(refusal) if refusal.is_denial() => {
            completion.is_denied |= is_optional;
            Ok(())
        }
        Some(refusal) if refusal.is_fatal() => Err(refusal.explain()),
        _ => Ok(()),
    }
}

fn control(
    group: CommandGroup,
    replies: &[u8],
    server: &Server<'_>,
    completion: &mut Completion,
    answers: &mut Completions,
) -> Result<(), NodeError> {
    let (status, is_literal) = (server.status, server.dialect.literal);
    let incarnation = status.incarnation.as_bytes();
    let mut fits = Ok(());
    for pending in group.requests {
        let answer = decode::control(&pending.request, replies, group.nonce_echo, incarnation);
        let answer = answer.and_then(|answer| match &answer {
            Ok(Reply::Status(now) | Reply::Refused(now))
                if !is_literal && is_another(now, status) =>
            {
                Err(another_server())
            }
            _ => Ok(answer),
        });
        let answer = answer.unwrap_or_else(|error| {
            fits = Err(error.clone());
            Err(error)
        });
        if let Ok(Reply::Status(status) | Reply::Refused(status)) = &answer {
            completion.served = Some(status.serving);
            completion.status = Some((**status).clone());
        }
        let stamps = matches!(
            pending.request,
            Request::Quarantine { .. } | Request::Adopt { .. } | Request::Restamp { .. }
        );
        if stamps && answer == Ok(Reply::Done) {
            // Which view is served now, the next answer shows.
            completion.served = Some(None);
            // The request stamps the state with the server's current
            // incarnation.
            completion.status = Some(NodeStatus {
                stamped: Some(status.incarnation.clone()),
                ..status.clone()
            });
        }
        answers.push((pending.reply, answer));
    }
    fits
}

/// Whether the status `now` cannot be that of the server that was connected to:
/// it was let in again, but under another incarnation, and a server's
/// incarnation does not change while a connection lasts. If another server's
/// state were taken for this one's, that state would be wiped, as that of a
/// server that lost its data.
fn is_another(now: &NodeStatus, before: &NodeStatus) -> bool {
    let is_own = |stamped: &Incarnation| *stamped == before.incarnation;
    before.stamped.as_ref().is_some_and(is_own)
        && now.nonce != before.nonce
        && !now.stamped.as_ref().is_none_or(is_own)
}

fn another_server() -> NodeError {
    NodeError::new(
        NodeErrorKind::Unreachable,
        "another server answers, or the server has changed its identity: it is checked again",
    )
}

fn batch(
    group: CommandGroup,
    replies: &[u8],
    server: &Server<'_>,
    completion: &mut Completion,
    answers: &mut Completions,
) -> Result<(), NodeError> {
    let refusal = server
        .clock_hold
        .and_then(|hold| hold.refusal(clock::now()));
    let decoded = decode::decode(&group, replies).and_then(|actions| {
        if !server.dialect.literal {
            count(&group, &actions, &mut completion.count)?;
        }
        Ok(actions)
    });
    let actions = match decoded {
        Ok(actions) => actions,
        Err(error) => {
            let replies = group.requests.into_iter().map(|pending| pending.reply);
            answers.extend(replies.map(|reply| (reply, Err(error.clone()))));
            return Err(error);
        }
    };
    completion.served = served(&group.kind, &actions).or(completion.served);
    let are_together = matches!(group.kind, GroupKind::AcquireTogether(..));
    if are_together {
        completion.joined = Some(!actions.contains(&ReplyAction::Again));
    }
    let mut absent = Vec::new();
    let mut held = Vec::new();
    let mut holders = Vec::new();
    for (pending, action) in group.requests.into_iter().zip(actions) {
        match action {
            ReplyAction::Answer(answer) => {
                // The request was sent before the clock step was known. The
                // entry is removed with the attempt, or stays with its lease.
                let answer = match (&answer, &refusal) {
                    (Ok(Reply::Granted { .. }), Some(refusal)) => Err(refusal.clone()),
                    (Ok(Reply::Made { .. }), Some(_)) => Ok(Reply::Lost(None)),
                    _ => answer,
                };
                answers.push((pending.reply, answer));
            }
            ReplyAction::AskRemaining(holder) => {
                holders.push(holder);
                held.push(pending);
            }
            ReplyAction::Raise(counter) => {
                completion.again.extend(raise(&pending));
                let granted = Ok(Reply::Granted { counter });
                let answer = refusal.clone().map_or(granted, Err);
                answers.push((pending.reply, answer));
            }
            ReplyAction::Undo(serving) => {
                completion.again.extend(undo(&pending));
                answers.push((pending.reply, Ok(Reply::Stale(serving))));
            }
            ReplyAction::AskFound => absent.push(pending),
            // Its caller has already received a timeout.
            ReplyAction::Again if are_together && pending.reply.is_nobody() => {}
            ReplyAction::Again => completion.again.push(pending),
        }
    }
    if !absent.is_empty() {
        let question = CommandGroup::new(GroupKind::Found, absent, clock::now());
        completion.follow_ups.push(question);
    }
    if !held.is_empty() {
        let question = CommandGroup::new(GroupKind::Remaining(holders), held, clock::now());
        completion.follow_ups.push(question);
    }
    Ok(())
}

/// The view that was served when the group was carried out, if its answers show it.
fn served(kind: &GroupKind, actions: &[ReplyAction]) -> Option<Option<ViewId>> {
    let (GroupKind::AcquireCommands(view, _)
    | GroupKind::AcquireTogether(view, _)
    | GroupKind::AcquireScript(view)
    | GroupKind::Extend(view)) = kind
    else {
        return None;
    };
    actions.iter().find_map(|action| match action {
        ReplyAction::Answer(Ok(Reply::Stale(serving))) | ReplyAction::Undo(serving) => {
            Some(*serving)
        }
        ReplyAction::Answer(Ok(_)) | ReplyAction::AskRemaining(_) | ReplyAction::Raise(_) => {
            Some(Some(*view))
        }
        ReplyAction::Answer(Err(_)) | ReplyAction::AskFound | ReplyAction::Again => None,
    })
}

/// Checks and records the counts of the grants.
///
/// # Errors
/// A count went back: no reply of the group is believed.
fn count(
    group: &CommandGroup,
    actions: &[ReplyAction],
    count: &mut Count,
) -> Result<(), NodeError> {
    for (pending, action) in group.requests.iter().zip(actions) {
        match action {
            ReplyAction::Answer(Ok(Reply::Granted { counter })) | ReplyAction::Raise(counter) => {
                count.grow(&pending.request, *counter)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The answers to PTTL, one for each request.
fn remaining(
    group: CommandGroup,
    replies: &[u8],
    answers: &mut Completions,
) -> Result<(), NodeError> {
    let GroupKind::Remaining(holders) = group.kind else {
        return Ok(());
    };
    let mut values = Replies::of(replies);
    let mut fits = Ok(());
    for (pending, holder) in group.requests.into_iter().zip(holders) {
        let answer = match values.next() {
            Some(Value::Int(left)) => Ok(Reply::Busy(CurrentHolder::new(
                holder,
                decode::remaining(left),
            ))),
            Some(Value::Error(line)) => Err(ErrorReply::of(line).explain()),
            _ => {
                fits = Err(misfit("PTTL"));
                Err(misfit("PTTL"))
            }
        };
        answers.push((pending.reply, answer));
    }
    fits
}

/// The answers to GET, one for each release that found no entry of its own.
///
/// What is there now may be newer than the release. That only shows which
/// client came later: the entry was gone, and its token is not used again.
fn not_released(
    group: CommandGroup,
    replies: &[u8],
    answers: &mut Completions,
) -> Result<(), NodeError> {
    let mut values = Replies::of(replies);
    let mut fits = Ok(());
    for pending in group.requests {
        let found = values.next();
        if !matches!(found, Some(Value::Nil | Value::Bulk(_) | Value::Error(_))) {
            fits = Err(misfit("GET"));
        }
        let answer = match &pending.request {
            Request::Release { token, .. } => decode::not_released(token, found),
            _ => Err(misfit("GET")),
        };
        answers.push((pending.reply, answer));
    }
    fits
}

/// The release of an entry that was made under a view that is not served.
fn undo(pending: &PendingRequest) -> Option<PendingRequest> {
    let Request::Acquire { key, token, .. } = &pending.request else {
        return None;
    };
    let (key, token) = (key.clone(), token.clone());
    Some(follow_up(pending, Request::Release { key, token }))
}

/// Raises an entry that an acquire found to be already its own. The request
/// makes no entry, because a release may be in flight.
fn raise(pending: &PendingRequest) -> Option<PendingRequest> {
    let Request::Acquire {
        view,
        key,
        token,
        ttl,
        slot,
        ..
    } = pending.request.clone()
    else {
        return None;
    };
    let request = Request::Extend {
        view,
        key,
        token,
        ttl,
        slot,
        floor: 0,
        if_missing: IfMissing::Report,
    };
    Some(follow_up(pending, request))
}

/// A request that the node itself sends after another.
fn follow_up(pending: &PendingRequest, request: Request) -> PendingRequest {
    PendingRequest {
        request,
        deadline: pending.deadline,
        reply: ReplyTo::nobody(),
    }
}

impl CommandGroup {
    /// Has its requests sent again; `later` is what was sent after it.
    fn send_again<'a>(
        self,
        later: impl Iterator<Item = &'a Self> + Clone,
        completion: &mut Completion,
        answers: &mut Completions,
    ) {
        completion.is_unloaded = true;
        if self.kind == GroupKind::Recheck {
            let again = Self::new(GroupKind::Recheck, Vec::new(), clock::now());
            completion.follow_ups.push(again);
        }
        for pending in self.requests {
            // No caller waits for the entry that it would make.
            let is_idle = pending.reply.is_nobody() && makes_entries(&pending.request);
            if is_released(&pending.request, later.clone()) {
                answers.push((pending.reply, Err(overtaken())));
            } else if !is_idle {
                completion.again.push(pending);
            }
        }
    }
}
