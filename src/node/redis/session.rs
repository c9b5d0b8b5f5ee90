//! One connection's life: what waits is sent, and what the server says becomes
//! every request's answer.

use std::collections::VecDeque;
use std::time::Duration;

use redis::Value;
use tokio::io::{AsyncWriteExt, WriteHalf};

use super::address::Address;
use super::batch::{Kind, Section, gather};
use super::connect::{Connection, broken};
use super::decode::{self, Resolution, misfit};
use super::encode::{Dialect, Encoding};
use super::lane::{Lane, Pending, timeout};
use super::scripts::Script;
use super::stream::Stream;
use crate::clock;
use crate::node::ReplyTo;
use crate::proto::time::Instant;
use crate::proto::wire::{
    Absent, Answer, NodeError, NodeErrorKind, NodeStatus, Reply, Request, Rival, Standing,
};

/// Sections that may be in flight at once.
const MAX_IN_FLIGHT: usize = 8;

/// A connection that has owed an answer for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(3);

/// How often a server that is another incarnation is asked whether it has been
/// let in again.
const RECHECK: Duration = Duration::from_millis(500);

/// One connection's life.
pub(super) struct Session<'a> {
    lane: &'a Lane,
    address: &'a Address,
    connection: Option<Connection>,
    state: State,
}

struct State {
    dialect: Dialect,
    status: NodeStatus,
    in_flight: VecDeque<Section>,
    out: Vec<u8>,
    written: usize,
    needs_flush: bool,
    recheck_at: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(lane: &'a Lane, address: &'a Address, connection: Connection) -> Self {
        let state = State {
            dialect: connection.dialect.clone(),
            status: connection.status.clone(),
            in_flight: VecDeque::new(),
            out: Vec::new(),
            written: 0,
            needs_flush: false,
            recheck_at: clock::now() + RECHECK,
        };
        Self {
            lane,
            address,
            connection: Some(connection),
            state,
        }
    }

    /// Serves the lane until the connection breaks or the lane is closed and
    /// empty; says why it ended. Whatever is unanswered then is failed.
    pub(super) async fn serve(mut self) -> NodeError {
        let error = match self.connection.take() {
            Some(connection) => self.pump(connection).await,
            None => closed(),
        };
        for section in self.state.in_flight.drain(..) {
            section.answer_all(&Err(error.clone()));
        }
        error
    }

    async fn pump(&mut self, connection: Connection) -> NodeError {
        let Connection {
            mut replies,
            mut writer,
            ..
        } = connection;
        let timer = tokio::time::sleep(STALL_LIMIT);
        tokio::pin!(timer);
        loop {
            self.fill();
            if self.lane.is_closed() && self.state.in_flight.is_empty() && self.lane.is_empty() {
                return closed();
            }
            let has_output = self.state.has_output();
            let wants_more = self.state.in_flight.len() < MAX_IN_FLIGHT;
            let deadlines = [self.state.next_deadline(), self.lane.expires()];
            let timer_at = deadlines.into_iter().flatten().min();
            if let Some(deadline) = timer_at {
                let at = tokio::time::Instant::now() + deadline.saturating_since(clock::now());
                if timer.is_elapsed() || at < timer.deadline() {
                    timer.as_mut().reset(at);
                }
            }
            tokio::select! {
                biased;
                reply = replies.next() => {
                    // They come in packs: take what has arrived before anything
                    // else is looked at.
                    let mut next = Some(reply);
                    while let Some(reply) = next {
                        let taken = reply.map_err(|error| broken(self.address, &error));
                        if let Err(error) = taken.and_then(|value| self.take_in(value)) {
                            return error;
                        }
                        let is_due = !self.state.in_flight.is_empty();
                        next = if is_due { replies.arrived().await } else { None };
                    }
                }
                sent = self.state.send(&mut writer), if has_output => if let Err(error) = sent {
                    let message = format!("the connection to {} broke: {error}", self.address);
                    return NodeError::new(NodeErrorKind::Unreachable, message);
                },
                () = self.lane.arrived.notified(), if wants_more => {}
                () = &mut timer, if timer_at.is_some() => if self.expire() {
                    let message = format!("{} has stopped answering", self.address);
                    return NodeError::new(NodeErrorKind::Timeout, message);
                },
            }
        }
    }

    /// Encodes what waits, as far as there is room in flight.
    fn fill(&mut self) {
        while self.state.in_flight.len() < MAX_IN_FLIGHT {
            let prefers_script = self.state.dialect.encoding == Encoding::Script;
            let sections = gather(self.lane, prefers_script, |request| {
                self.state.must_wait(request)
            });
            if sections.is_empty() {
                return;
            }
            for section in sections {
                if self.state.is_absent() && section.kind.needs_view() {
                    section.answer_all(&Ok(Reply::Stale(None)));
                } else {
                    self.state.push(section);
                }
            }
        }
    }

    /// Answers what has run out of time; true if the connection is stuck.
    fn expire(&mut self) -> bool {
        let now = clock::now();
        let oldest = self.state.in_flight.front().map(|section| section.sent_at);
        for section in &mut self.state.in_flight {
            section.expire(now);
        }
        self.lane.expire();
        if self.state.is_absent() && now >= self.state.recheck_at {
            self.state.recheck_at = now + RECHECK;
            self.state.push(Section::new(Kind::Recheck, Vec::new()));
        }
        oldest.is_some_and(|sent_at| now >= sent_at + STALL_LIMIT)
    }

    /// Takes in one reply of the server.
    fn take_in(&mut self, value: Value) -> Result<(), NodeError> {
        let front = self.state.in_flight.front_mut();
        let section = front.ok_or_else(|| misfit("nothing at all"))?;
        section.replies_due -= 1;
        match section.kind {
            Kind::Remaining(_) => {
                section.answer_remaining(&value);
            }
            _ if section.replies_due > 0 => {
                if let Value::ServerError(error) = value {
                    section.early_error.get_or_insert(error);
                }
                return Ok(());
            }
            _ => {}
        }
        if section.replies_due > 0 {
            return Ok(());
        }
        let Some(section) = self.state.in_flight.pop_front() else {
            return Ok(());
        };
        self.settle(section, value)
    }

    /// Gives a section's requests their answers.
    fn settle(&mut self, section: Section, value: Value) -> Result<(), NodeError> {
        let fatal = fatal_error(&section, &value);
        let is_script_lost = is_code(&value, "NOSCRIPT");
        match section.kind {
            Kind::Remaining(_) => {}
            Kind::Recheck => {
                self.state.status = decode::status(value, &self.state.dialect.incarnation)?
            }
            Kind::Load(script) => {
                let loaded = self.state.dialect.scripts.loaded(script, value);
                loaded.map_err(|_| misfit("SCRIPT LOAD"))?;
            }
            Kind::Control => self.settle_control(section, value),
            _ => self.settle_batch(section, value),
        }
        if is_script_lost {
            for script in Script::ALL {
                self.state
                    .push(Section::new(Kind::Load(script), Vec::new()));
            }
        }
        fatal.map_or(Ok(()), Err)
    }

    fn settle_control(&mut self, section: Section, value: Value) {
        let incarnation = &self.state.dialect.incarnation;
        for pending in section.requests {
            let value = value.clone();
            let answer = match &pending.request {
                Request::Status => decode::status(value, incarnation).map(Reply::Status),
                Request::Document => decode::document(value),
                _ => decode::compared_and_set(value, incarnation),
            };
            if let Ok(Reply::Status(status)) = &answer {
                self.state.status = status.clone();
            }
            if answer == Ok(Reply::Done) {
                self.state.recheck_at = clock::now();
                self.state.status.stamped = Some(self.state.status.incarnation.clone());
            }
            pending.reply.send(answer);
        }
    }

    fn settle_batch(&mut self, section: Section, value: Value) {
        let resolutions = decode::decode(&section, value);
        let mut held = Vec::new();
        let mut holders = Vec::new();
        let mut again = Vec::new();
        for (pending, resolution) in section.requests.into_iter().zip(resolutions) {
            match resolution {
                Resolution::Answer(answer) => pending.reply.send(answer),
                Resolution::AskRemaining(holder) => {
                    holders.push(holder);
                    held.push(pending);
                }
                Resolution::Raise(counter) => {
                    again.extend(raise(&pending));
                    pending.reply.send(Ok(Reply::Granted { counter }));
                }
                Resolution::Undo(serving) => {
                    again.extend(undo(&pending));
                    pending.reply.send(Ok(Reply::Stale(serving)));
                }
            }
        }
        if !held.is_empty() {
            self.state
                .push(Section::new(Kind::Remaining(holders), held));
        }
        if !again.is_empty() {
            self.lane.push_back_front(again);
        }
    }
}

impl State {
    fn push(&mut self, mut section: Section) {
        self.dialect.encode(&mut section, &mut self.out);
        self.in_flight.push_back(section);
    }

    /// Whether a request must not be sent before what is in flight is settled.
    ///
    /// An acquire by transaction may turn out to be stale and its entry to be
    /// undone. An extend that found the entry meanwhile would be told KEPT of
    /// what is deleted then; releases and other acquires come to no harm. And
    /// what changes the view must not come between an acquire and its undoing.
    fn must_wait(&self, request: &Request) -> bool {
        let mut transactions = self
            .in_flight
            .iter()
            .filter(|section| matches!(section.kind, Kind::AcquireTransaction(..)));
        match request {
            Request::Extend { key, .. } => transactions
                .flat_map(|section| &section.requests)
                .any(|pending| pending.request.key() == Some(key)),
            Request::Quarantine { .. } | Request::Adopt { .. } | Request::Restamp { .. } => {
                transactions.next().is_some()
            }
            _ => false,
        }
    }

    fn has_output(&self) -> bool {
        self.written < self.out.len() || self.needs_flush
    }

    /// Writes once, or flushes. Cancel safe.
    async fn send(&mut self, writer: &mut WriteHalf<Stream>) -> std::io::Result<()> {
        if self.written < self.out.len() {
            self.written += writer.write(&self.out[self.written..]).await?;
            self.needs_flush = true;
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            writer.flush().await?;
            self.needs_flush = false;
        }
        Ok(())
    }

    /// The state on the server is another incarnation's: it grants nothing.
    fn is_absent(&self) -> bool {
        self.status.nonce.is_some() && self.status.standing() == Standing::Absent
    }

    /// When the clock is to be looked at next.
    fn next_deadline(&self) -> Option<Instant> {
        let recheck = self.is_absent().then_some(self.recheck_at);
        let answers = self.in_flight.iter().map(Section::wake_at).min();
        recheck.into_iter().chain(answers).min()
    }
}

impl Section {
    fn answer_all(self, answer: &Answer) {
        for pending in self.requests {
            pending.reply.send(answer.clone());
        }
    }

    /// When its first request runs out of time, or the connection counts as
    /// stuck.
    fn wake_at(&self) -> Instant {
        let waiting = self
            .requests
            .iter()
            .filter(|pending| !pending.is_expired())
            .map(|pending| pending.deadline);
        waiting.fold(self.sent_at + STALL_LIMIT, Instant::min)
    }

    /// Answers the requests whose time is over. What the server says to them
    /// later is for nobody.
    fn expire(&mut self, now: Instant) {
        for pending in &mut self.requests {
            if pending.deadline <= now && !pending.is_expired() {
                pending.expire();
            }
        }
    }

    /// Answers the request that the next PTTL is about.
    fn answer_remaining(&mut self, value: &Value) {
        let Kind::Remaining(holders) = &mut self.kind else {
            return;
        };
        if holders.is_empty() || self.requests.is_empty() {
            return;
        }
        let (holder, pending) = (holders.remove(0), self.requests.remove(0));
        let answer: Answer = match decode::remaining(value) {
            Some(remaining) => Ok(Reply::Busy(Rival {
                holder: Some(holder),
                remaining,
            })),
            None => Err(misfit("PTTL")),
        };
        pending.reply.send(answer);
    }
}

impl Kind {
    /// Whether it means something only under a view.
    fn needs_view(&self) -> bool {
        matches!(
            self,
            Self::AcquireTransaction(..) | Self::AcquireScript(_) | Self::Extend(_)
        )
    }
}

impl Pending {
    /// Answers that time is up, and lets nothing further be answered.
    fn expire(&mut self) {
        std::mem::replace(&mut self.reply, ReplyTo::nobody()).send(Err(timeout()));
    }

    fn is_expired(&self) -> bool {
        self.reply.is_nobody()
    }
}

/// The release of an entry that was made under a view that is not served.
fn undo(pending: &Pending) -> Option<Pending> {
    let Request::Acquire { key, token, .. } = &pending.request else {
        return None;
    };
    let (key, token) = (key.clone(), token.clone());
    Some(follow_up(pending, Request::Release { key, token }))
}

/// Raises an entry that an acquire found to be its own already. It makes none:
/// a release may be on its way.
fn raise(pending: &Pending) -> Option<Pending> {
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
        absent: Absent::Keep,
    };
    Some(follow_up(pending, request))
}

/// What the node itself sends after a request.
fn follow_up(pending: &Pending, request: Request) -> Pending {
    Pending {
        request,
        deadline: pending.deadline,
        reply: ReplyTo::nobody(),
    }
}

/// An error after which the server must be looked at anew.
fn fatal_error(section: &Section, value: &Value) -> Option<NodeError> {
    let Value::ServerError(error) = value else {
        return None;
    };
    let error = section.early_error.as_ref().unwrap_or(error);
    matches!(
        error.code(),
        "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH"
    )
    .then(|| decode::refusal(error))
}

fn is_code(value: &Value, code: &str) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == code)
}

fn closed() -> NodeError {
    NodeError::new(NodeErrorKind::Closed, "the router has shut down")
}
