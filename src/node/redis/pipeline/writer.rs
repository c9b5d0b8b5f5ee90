//! The sending end of a connection: which batches are sent when, and which side
//! writes them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock;
use crate::node::redis::codec::capabilities::{Capabilities, Dialect};
use crate::node::redis::codec::command_group::{CommandGroup, GroupKind};
use crate::node::redis::codec::request::{Completions, unsent_in_time};
use crate::node::redis::codec::scripts::Script;
use crate::node::redis::connection::clock_monitor::{ClockHold, READ_EVERY};
use crate::node::redis::connection::stream::Socket;
use crate::node::redis::pipeline::batch::{Batch, InFlight, JoinBackoff, MAX_BATCH, gather};
use crate::node::redis::pipeline::congestion::Window;
use crate::node::redis::pipeline::identity_check::{Check, Checks};
use crate::node::redis::pipeline::queue::Queue;
use crate::node::redis::pipeline::{identity_check, script_reload};
use crate::proto::node::message::{NodeState, NodeStatus, Reply, ViewId};
use crate::proto::time::Instant;
use crate::telemetry::handles::Spread;

/// How many times as long as expected an answer may take: a grant that comes
/// too late costs the server twice, because it must be taken back.
const ANSWER_TIME_MARGIN: u32 = 2;

/// Where batches are this large, on average, callers leave them to the node's task,
/// which sends them once the tasks that are ready have added to them. Smaller ones
/// are sent at once: callers that are few wait for each other's answers, and a task
/// in between costs each batch a wake-up, which is the larger part of its cost.
const LEAST_GATHERED: f32 = MAX_BATCH as f32 / 2.0;

/// How much one batch changes the average size.
const SIZE_SMOOTHING: f32 = 1.0 / 8.0;

/// The usual size of a request, in bytes.
const COMMAND_SIZE: usize = 160;

/// The sending end of one connection.
#[derive(Debug)]
pub(crate) struct Writer {
    dialect: Arc<Dialect>,
    /// The dialect's abilities, without those that have been denied since.
    pub(crate) capabilities: Capabilities,
    pub(crate) join_backoff: JoinBackoff,
    pub(crate) status: NodeStatus,
    /// The view that the server was last seen to serve, on this connection. Ids
    /// never come back: where the id behind an acquire is the same, it was served
    /// all through it (PROTOCOL E1).
    pub(crate) served: Option<ViewId>,
    /// Set while the server grants nothing because its clock was stepped.
    pub(crate) clock_hold: Option<ClockHold>,
    /// When its clock must be read before anything else is asked.
    read_clock_at: Instant,
    checks: Checks,
    window: Window,
    in_flight: InFlight,
    /// Requests in a batch, on average of late.
    usual_size: f32,
    /// The node's task is about to send what waits.
    pub(crate) is_gathering: bool,
    /// What the node's task has not taken over yet, in the order of the bytes.
    pub(crate) sent: VecDeque<CommandGroup>,
    socket: Option<Arc<Socket>>,
    out: Vec<u8>,
    turn: WriteTurn,
    /// The mark of the last group.
    nonce_echo: u32,
    unloaded: script_reload::ReloadPeriod,
}

/// Which side writes what is in `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteTurn {
    /// The first that tries.
    Free,
    /// A caller is writing.
    Caller,
    /// The node's task must write, because a caller could not.
    Awaited,
    /// The node's task is writing.
    Task,
}

impl Writer {
    /// A connection through `socket`; without one, only the node's task writes.
    pub(crate) fn new(
        dialect: Arc<Dialect>,
        status: NodeStatus,
        checks: Checks,
        socket: Option<Arc<Socket>>,
    ) -> Self {
        Self {
            capabilities: dialect.capabilities,
            join_backoff: JoinBackoff::default(),
            dialect,
            served: status.serving,
            status,
            clock_hold: None,
            read_clock_at: clock::now() + READ_EVERY,
            checks,
            window: Window::default(),
            in_flight: InFlight::default(),
            usual_size: 0.0,
            is_gathering: false,
            sent: VecDeque::new(),
            socket,
            out: Vec::new(),
            turn: WriteTurn::Free,
            nonce_echo: 0,
            unloaded: script_reload::ReloadPeriod::default(),
        }
    }

    pub(crate) fn is_on(&self, socket: &Arc<Socket>) -> bool {
        self.socket
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, socket))
    }

    /// Encodes what waits in `queue`, as far as it may be sent now.
    pub(crate) fn fill(&mut self, queue: &mut Queue, answers: &mut Completions, sizes: &Spread) {
        while self.turn == WriteTurn::Free && self.may_send(queue.len()) {
            let now = clock::now();
            self.drop_hopeless(queue, now, answers);
            let mut batch = gather(queue, self.capabilities, self.served, &self.in_flight, now);
            if batch.groups.is_empty() {
                return;
            }
            if is_absent(&self.status) {
                batch.turn_away(GroupKind::needs_view, &Ok(Reply::Stale(None)), answers);
            }
            if let Some(refusal) = self.clock_hold.and_then(|hold| hold.refusal(now)) {
                batch.make_none(refusal, answers);
            }
            if now >= self.read_clock_at {
                self.read_clock_at = now + READ_EVERY;
                self.push(CommandGroup::new(GroupKind::Clock, Vec::new(), now));
            }
            let check = self.check(&batch, now);
            if check == Some(Check::Ahead) {
                self.push(identity_check::check(true, now));
            }
            if self.capabilities.together {
                batch.join(&mut self.join_backoff);
            }
            if let Some(last) = batch.groups.last_mut() {
                last.ends_batch = true;
                let requests = batch.groups.iter().map(|group| group.requests.len());
                let size = requests.sum();
                sizes.note(size as u32);
                self.in_flight.begin(size, batch.set_keys, now);
            }
            for group in batch.groups {
                self.push(group);
            }
            if let Some(Check::Behind { with_policy }) = check {
                self.push(identity_check::check(with_policy, now));
            }
        }
    }

    /// Which check of the server's identity goes with a batch.
    fn check(&mut self, batch: &Batch, now: Instant) -> Option<Check> {
        let mut groups = batch.groups.iter();
        if !groups.any(|group| group.kind.relies_on_identity()) {
            return None;
        }
        self.checks.due(now, self.window.expected())
    }

    /// An idle connection sends at once. Otherwise a batch gathers until it is
    /// full, or as large as what is in flight: with few callers, one half is in
    /// flight while the other gathers.
    fn may_send(&self, waiting: usize) -> bool {
        let enough = self.in_flight.requests().clamp(1, MAX_BATCH);
        waiting >= enough && self.window.has_room(self.in_flight.batches())
    }

    /// Where more requests wait than one batch takes: answers acquires whose
    /// deadline would pass before the server's answer. A server that owes no
    /// answer is always sent requests, which shows how quick it is now.
    fn drop_hopeless(&self, queue: &mut Queue, now: Instant, answers: &mut Completions) {
        if self.in_flight.batches() == 0 || queue.acquires() <= MAX_BATCH {
            return;
        }
        let answered_at = now + ANSWER_TIME_MARGIN * self.window.expected();
        while let Some(hopeless) = queue.pop_hopeless(answered_at) {
            answers.push((hopeless.reply, Err(unsent_in_time())));
        }
    }

    /// Whether what waits is left to the node's task. If `waiting` requests are a
    /// full batch, it is sent at once.
    pub(crate) fn gathers(&self, waiting: usize) -> bool {
        self.usual_size >= LEAST_GATHERED && waiting < MAX_BATCH
    }

    /// Whether an acquire with this deadline would be answered too late, behind
    /// those that wait already.
    pub(crate) fn is_in_vain(&self, deadline: Instant, acquires: usize) -> bool {
        acquires > MAX_BATCH
            && clock::now() + ANSWER_TIME_MARGIN * self.window.wait_behind(acquires) > deadline
    }

    /// This many batches are answered.
    pub(crate) fn end_batches(&mut self, batches: usize) {
        let now = clock::now();
        for _ in 0..batches {
            if let Some((requests, sent_at)) = self.in_flight.end() {
                self.usual_size += (requests as f32 - self.usual_size) * SIZE_SMOOTHING;
                self.window.answered(requests, sent_at, now);
            }
        }
    }

    /// Encodes a group, after what has been encoded before.
    pub(crate) fn push(&mut self, mut group: CommandGroup) {
        self.out.reserve(group.requests.len() * COMMAND_SIZE);
        self.nonce_echo = self.nonce_echo.wrapping_add(1);
        group.nonce_echo = self.nonce_echo;
        let is_scripted = group.script().is_some();
        group.has_text = is_scripted && self.unloaded.is_on(group.sent_at);
        self.dialect.encode(&mut group, &mut self.out);
        self.sent.push_back(group);
    }

    /// The server has lost its scripts: for a while each goes out with its text.
    pub(crate) fn reload(&mut self) {
        let now = clock::now();
        if self.unloaded.begin(now) {
            for script in Script::ALL {
                self.push(CommandGroup::new(GroupKind::Load(script), Vec::new(), now));
            }
        }
    }

    /// The socket that a caller may write the output to, if there is output and
    /// the caller may write.
    pub(crate) fn socket_for_output(&mut self) -> Option<Arc<Socket>> {
        if self.out.is_empty() || self.turn != WriteTurn::Free {
            return None;
        }
        if self.socket.is_none() {
            self.turn = WriteTurn::Awaited;
        }
        self.socket.clone()
    }

    /// A caller takes the output, to write it.
    pub(crate) fn begin_sending(&mut self) -> Vec<u8> {
        self.turn = WriteTurn::Caller;
        std::mem::take(&mut self.out)
    }

    /// The caller has written the first `written` of `bytes`.
    pub(crate) fn end_sending(&mut self, mut bytes: Vec<u8>, written: usize) {
        let is_done = written == bytes.len();
        bytes.drain(..written);
        bytes.append(&mut self.out);
        self.out = bytes;
        self.turn = if is_done {
            WriteTurn::Free
        } else {
            WriteTurn::Awaited
        };
    }

    /// Whether there is output that the node's task must write.
    pub(crate) fn has_backlog(&self) -> bool {
        self.turn == WriteTurn::Awaited && !self.out.is_empty()
    }

    /// The node's task takes that output.
    pub(crate) fn take_backlog(&mut self) -> Option<Vec<u8>> {
        self.has_backlog().then(|| {
            self.turn = WriteTurn::Task;
            std::mem::take(&mut self.out)
        })
    }

    /// The node's task has written it.
    pub(crate) fn end_backlog(&mut self) {
        self.turn = WriteTurn::Free;
    }
}

/// The state on the server is another incarnation's: it grants nothing.
pub(crate) fn is_absent(status: &NodeStatus) -> bool {
    status.nonce.is_some() && status.standing() == NodeState::Absent
}
