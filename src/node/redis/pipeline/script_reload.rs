//! Scripts that a server has no more: `SCRIPT FLUSH`, by whoever may.
//!
//! `NOSCRIPT` says that nothing was done, so the requests are sent again. Loading
//! the scripts first is not enough, for they may be flushed again in between:
//! for a while every script goes out together with its text, as
//! `MULTI · SCRIPT LOAD · EVALSHA · EXEC`, which nothing can come between. A
//! request is thus sent again once.
//!
//! Requests of one token keep their order. Let a RELEASE be in flight behind an
//! ACQUIRE that found no script. It may have been carried out, by a command or
//! because another client loaded its script; the ACQUIRE, sent again, would
//! leave an entry behind that nobody releases. So it is not sent again: its
//! answer is that nothing was done.

use std::time::Duration;

use crate::clock;
use crate::node::redis::codec::command_group::{Kind, Section};
use crate::node::redis::codec::request::{Answers, Pending};
use crate::node::redis::pipeline::state::Settlement;
use crate::proto::node::message::{NodeError, NodeErrorKind, Request};
use crate::proto::time::Instant;

/// How long scripts go out with their text after one was missing.
const WARINESS: Duration = Duration::from_secs(1);

/// Whether a server may have lost its scripts.
#[derive(Debug, Default)]
pub(crate) struct Caution {
    until: Option<Instant>,
}

impl Caution {
    /// A script was missing. True: that is news, and all are to be loaded.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let is_news = !self.is_on(now);
        self.until = Some(now + WARINESS);
        is_news
    }

    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

impl Section {
    /// Has its requests sent again; `later` is what went out after it.
    pub(crate) fn send_again<'a>(
        self,
        later: impl Iterator<Item = &'a Self> + Clone,
        settlement: &mut Settlement,
        answers: &mut Answers,
    ) {
        settlement.is_unloaded = true;
        if self.kind == Kind::Recheck {
            let again = Self::new(Kind::Recheck, Vec::new(), clock::now());
            settlement.follow_ups.push(again);
        }
        for pending in self.requests {
            // Nobody waits for the entry that it would make.
            let is_idle = pending.reply.is_nobody() && makes_entries(&pending.request);
            if is_released(&pending.request, later.clone()) {
                answers.push((pending.reply, Err(overtaken())));
            } else if !is_idle {
                settlement.again.push(pending);
            }
        }
    }
}

/// Takes out of `again` what has been released since it was sent.
pub(crate) fn without_released<'a>(
    again: Vec<Pending>,
    later: impl Iterator<Item = &'a Section> + Clone,
    answers: &mut Answers,
) -> Vec<Pending> {
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

fn makes_entries(request: &Request) -> bool {
    matches!(request, Request::Acquire { .. } | Request::Extend { .. })
}

/// Whether one of the sections `later` releases the entry of `request`.
fn is_released<'a>(request: &Request, later: impl Iterator<Item = &'a Section>) -> bool {
    let (Request::Acquire { key, token, .. } | Request::Extend { key, token, .. }) = request else {
        return false;
    };
    let own = Request::Release {
        key: key.clone(),
        token: token.clone(),
    };
    let mut requests = later.flat_map(|section| &section.requests);
    requests.any(|pending| pending.request == own)
}

fn overtaken() -> NodeError {
    let message = "the server's scripts were flushed, and the lock was released before it could be asked for again";
    NodeError::new(NodeErrorKind::NotReady, message).unsent()
}
