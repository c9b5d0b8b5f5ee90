//! Reloads scripts that a server no longer has, after a `SCRIPT FLUSH` by any
//! client.
//!
//! `NOSCRIPT` means that nothing was done, so the requests are sent again.
//! Loading the scripts first is not enough, because they may be flushed again
//! in between: for a while every script goes out together with its text, as
//! `MULTI · SCRIPT LOAD · EVALSHA · EXEC`, which no other command can
//! interrupt. So a request is sent again only once.
//!
//! Requests of one token keep their order. Suppose that a RELEASE is in flight
//! behind an ACQUIRE that found no script. The RELEASE may have been carried
//! out, by a command or because another client loaded its script. The ACQUIRE,
//! sent again, would leave an entry that no request releases. So it is not sent
//! again: its answer is that nothing was done.

use std::time::Duration;

use crate::node::redis::codec::command_group::CommandGroup;
use crate::node::redis::codec::request::{Completions, PendingRequest};
use crate::proto::node::message::{NodeError, NodeErrorKind, Request};
use crate::proto::time::Instant;

/// How long scripts go out with their text after one was missing.
const RELOAD_PERIOD: Duration = Duration::from_secs(1);

/// Whether a server may have lost its scripts.
#[derive(Debug, Default)]
pub(crate) struct ReloadPeriod {
    until: Option<Instant>,
}

impl ReloadPeriod {
    /// A script was missing. Returns true if that is news; all scripts must
    /// then be loaded.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let is_news = !self.is_on(now);
        self.until = Some(now + RELOAD_PERIOD);
        is_news
    }

    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Removes from `again` the requests whose entries have been released since
/// they were sent.
pub(crate) fn without_released<'a>(
    again: Vec<PendingRequest>,
    later: impl Iterator<Item = &'a CommandGroup> + Clone,
    answers: &mut Completions,
) -> Vec<PendingRequest> {
    let (released, rest) = again
        .into_iter()
        .partition::<Vec<_>, _>(|pending| is_released(&pending.request, later.clone()));
    answers.extend(
        released
            .into_iter()
            .map(|pending| (pending.reply, Err(overtaken()))),
    );
    rest
}

pub(crate) fn makes_entries(request: &Request) -> bool {
    matches!(request, Request::Acquire { .. } | Request::Extend { .. })
}

/// Whether one of the groups `later` releases the entry of `request`.
pub(crate) fn is_released<'a>(
    request: &Request,
    later: impl Iterator<Item = &'a CommandGroup>,
) -> bool {
    let (Request::Acquire { key, token, .. } | Request::Extend { key, token, .. }) = request else {
        return false;
    };
    let own = Request::Release {
        key: key.clone(),
        token: token.clone(),
    };
    let mut requests = later.flat_map(|group| &group.requests);
    requests.any(|pending| pending.request == own)
}

pub(crate) fn overtaken() -> NodeError {
    let message = "the server's scripts were flushed, and the lock was released before it could be requested again";
    NodeError::new(NodeErrorKind::NotReady, message).unsent()
}
