//! The queue between the callers and a connection. A caller that finds the
//! connection idle sends what waits, with no task in between.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::config::RouterConfig;
use crate::node::redis::codec::command_group::CommandGroup;
use crate::node::redis::codec::request::{
    Completions, PendingRequest, closed, deliver, forked, overloaded, unasked,
};
use crate::node::redis::pipeline::completion::Completion;
use crate::node::redis::pipeline::queue::Queue;
use crate::node::redis::pipeline::script_reload::without_released;
use crate::node::redis::pipeline::writer::Writer;
use crate::proto::node::message::{NodeError, Request};
use crate::proto::time::Instant;
use crate::runtime::origin::ProcessOrigin;
use crate::telemetry::metrics::PipelineMeter;

/// How many times at most one caller writes for others before it leaves that to
/// the node's task.
const MAX_LED: usize = 8;

/// The queue of one node, and the sending end of its connection.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    state: Mutex<State>,
    /// Wakes the node's task: something must be written or timed, or the
    /// pipeline was closed.
    attention: Notify,
    /// In milliseconds; 0: it was not set, and the default applies.
    longest_ttl: AtomicU64,
    meter: PipelineMeter,
    origin: ProcessOrigin,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// The node's task checks the clock no later than this.
    timer: Option<Instant>,
    connection: ConnectionState,
    is_closed: bool,
}

/// What happens to a new request.
#[derive(Debug, Default)]
enum ConnectionState {
    /// It waits for a connection that is being made.
    #[default]
    Connecting,
    /// It is sent.
    Up(Box<Writer>),
    /// It fails at once: the server could not be reached a moment ago.
    Down(NodeError),
}

/// What the node's task does next.
#[derive(Debug)]
pub(crate) struct TaskInput {
    /// When to check the clock, if anything waits.
    pub(crate) timer: Option<Instant>,
    /// Bytes that no caller could send at once.
    pub(crate) backlog: Option<Vec<u8>>,
    /// The pipeline is closed, and all that was queued has been sent.
    pub(crate) is_over: bool,
}

impl State {
    /// Why `request` is refused without being queued.
    fn refusal(&self, request: &Request, deadline: Instant) -> Option<NodeError> {
        let error = match &self.connection {
            _ if self.is_closed => closed(),
            ConnectionState::Down(error) => error.clone(),
            _ if self.queue.is_full_for(request) => overloaded(),
            ConnectionState::Up(writer)
                if matches!(request, Request::Acquire { .. })
                    && writer.is_in_vain(deadline, self.queue.acquires()) =>
            {
                overloaded()
            }
            ConnectionState::Connecting | ConnectionState::Up(_) => return None,
        };
        Some(error.unsent())
    }

    fn writer(&mut self) -> Option<&mut Writer> {
        match &mut self.connection {
            ConnectionState::Up(writer) => Some(writer),
            _ => None,
        }
    }
}

impl Pipeline {
    pub(crate) fn new(meter: PipelineMeter, is_literal: bool) -> Self {
        let state = State {
            queue: Queue::new(is_literal),
            ..State::default()
        };
        Self {
            meter,
            state: Mutex::new(state),
            ..Self::default()
        }
    }

    /// Queues a request, or answers at once why it cannot; sends it if the
    /// connection is free.
    pub(crate) fn submit(&self, pending: PendingRequest) {
        if self.origin.is_elsewhere() {
            return pending.reply.send(Err(forked().unsent()));
        }
        let mut state = self.state.lock();
        if let Some(error) = state.refusal(&pending.request, pending.deadline) {
            drop(state);
            return pending.reply.send(Err(error));
        }
        let deadline = pending.deadline;
        state.queue.push(pending);
        if state.timer.is_none_or(|timer| deadline < timer) {
            self.attention.notify_one();
        }
        let waiting = state.queue.len();
        match state.writer() {
            Some(writer) if writer.gathers(waiting) => {
                if !std::mem::replace(&mut writer.is_gathering, true) {
                    self.attention.notify_one();
                }
            }
            _ => self.lead(state),
        }
    }

    /// Sends what waits, batch by batch, as long as the connection is free for
    /// it. The lock is released while bytes are written, so that other callers
    /// can queue requests.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let mut answers = Completions::new();
        let mut led = 0;
        loop {
            if led == MAX_LED {
                self.attention.notify_one();
                break;
            }
            led += 1;
            let State {
                connection, queue, ..
            } = &mut *state;
            let ConnectionState::Up(writer) = connection else {
                break;
            };
            writer.fill(queue, &mut answers, &self.meter.batch);
            let Some(socket) = writer.socket_for_output() else {
                if writer.has_backlog() {
                    self.attention.notify_one();
                }
                break;
            };
            let bytes = writer.begin_sending();
            let sent = MutexGuard::unlocked(&mut state, || socket.try_write(&bytes));
            // The connection may have been given up while the lock was
            // released.
            let writer = state.writer().filter(|writer| writer.is_on(&socket));
            let Some(writer) = writer else { break };
            writer.end_sending(bytes, sent.unwrap_or_else(give_up));
        }
        self.meter.queue.set(state.queue.len() as u32);
        drop(state);
        deliver(&mut answers);
    }

    /// No lock lasts longer from now on. The limit never decreases, because
    /// longer locks from before may still exist.
    pub(crate) fn set_longest_ttl(&self, ttl: Duration) {
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.longest_ttl.fetch_max(millis, Ordering::Relaxed);
    }

    pub(crate) fn longest_ttl(&self) -> Duration {
        match self.longest_ttl.load(Ordering::Relaxed) {
            0 => RouterConfig::default().max_ttl,
            millis => Duration::from_millis(millis),
        }
    }

    /// Continues what callers have left to the node's task.
    pub(crate) async fn resume(&self) {
        let is_gathering = |writer: &mut Writer| writer.is_gathering;
        if self.state.lock().writer().is_some_and(is_gathering) {
            // The tasks that are ready to run may each add a request.
            tokio::task::yield_now().await;
        }
        let mut state = self.state.lock();
        if let Some(writer) = state.writer() {
            writer.is_gathering = false;
        }
        self.lead(state);
    }

    /// Continues with a new connection.
    pub(crate) fn connected(&self, writer: Writer) {
        let mut state = self.state.lock();
        state.connection = ConnectionState::Up(Box::new(writer));
        self.meter.connected.set(1);
        self.lead(state);
    }

    /// The connection is gone: what was sent on it is returned, and new
    /// requests wait for the next one.
    pub(crate) fn disconnected(&self) -> VecDeque<CommandGroup> {
        let connection = std::mem::take(&mut self.state.lock().connection);
        self.meter.connected.set(0);
        match connection {
            ConnectionState::Up(writer) => writer.sent,
            _ => VecDeque::new(),
        }
    }

    /// A connection that had passed the checks has broken.
    pub(crate) fn lost(&self) {
        self.meter.lost.add_one();
    }

    /// Fails what waits, and new requests until there is a connection.
    pub(crate) fn fail(&self, error: &NodeError) {
        let mut state = self.state.lock();
        let failed = state.queue.take_all();
        state.connection = ConnectionState::Down(error.clone());
        self.meter.queue.set(0);
        drop(state);
        for pending in failed {
            pending.reply.send(Err(error.clone().unsent()));
        }
    }

    /// Refuses new requests from now on; what is queued is still sent.
    pub(crate) fn close(&self) {
        if self.origin.is_elsewhere() {
            return;
        }
        self.state.lock().is_closed = true;
        self.attention.notify_one();
    }

    /// The node's task has ended, perhaps with its runtime: nothing else reads
    /// answers or enforces deadlines. Waiting and later requests fail.
    pub(crate) fn end(&self) {
        self.state.lock().is_closed = true;
        let cut_off = self.disconnected();
        self.fail(&closed());
        for group in cut_off {
            group.fail(&closed());
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Wakes the node's task when there is something for it to do.
    pub(crate) async fn attention(&self) {
        self.attention.notified().await;
    }

    /// What the node's task must do. The task takes over what has been sent;
    /// `due` is another time at which it must check the clock.
    pub(crate) fn task_input(
        &self,
        in_flight: &mut VecDeque<CommandGroup>,
        due: Option<Instant>,
    ) -> TaskInput {
        let mut state = self.state.lock();
        let backlog = state.writer().and_then(|writer| {
            in_flight.append(&mut writer.sent);
            writer.take_backlog()
        });
        let is_idle = state.queue.is_empty() && in_flight.is_empty();
        let queued = state.queue.expires();
        let sent = in_flight.iter().map(CommandGroup::due).min();
        // A timer that is early is kept: otherwise an idle pipeline would set
        // one with every request.
        let times = [queued, sent, due, state.timer];
        state.timer = times.into_iter().flatten().min();
        TaskInput {
            timer: state.timer,
            is_over: state.is_closed && is_idle && backlog.is_none(),
            backlog,
        }
    }

    /// The timer has fired: answers what has waited past its deadline.
    pub(crate) fn expire(&self, now: Instant) {
        let mut state = self.state.lock();
        state.timer = None;
        let expired = state.queue.expire(now);
        self.meter.queue.set(state.queue.len() as u32);
        drop(state);
        for pending in expired {
            pending.reply.send(Err(unasked()));
        }
    }

    /// The node's task takes over what has been sent.
    pub(crate) fn collect_sent(&self, in_flight: &mut VecDeque<CommandGroup>) {
        if let Some(writer) = self.state.lock().writer() {
            in_flight.append(&mut writer.sent);
        }
    }

    /// The backlog has been written.
    pub(crate) fn backlog_sent(&self) {
        let mut state = self.state.lock();
        if let Some(writer) = state.writer() {
            writer.end_backlog();
        }
        self.lead(state);
    }

    /// Batches are answered: sends what follows from them, then what waits.
    pub(crate) fn settled(&self, completion: Completion) {
        let mut state = self.state.lock();
        let (mut again, mut answers) = (completion.again, Completions::new());
        if completion.is_unloaded
            && let Some(writer) = state.writer()
        {
            again = without_released(again, writer.sent.iter(), &mut answers);
            writer.reload();
        }
        state.queue.push_again(again);
        if let Some(writer) = state.writer() {
            if let Some(served) = completion.served {
                writer.served = served;
            }
            if let Some(status) = completion.status {
                writer.status = status;
            }
            writer.clock_hold = completion.clock_hold.or(writer.clock_hold);
            if completion.is_denied {
                writer.capabilities.forget_commands();
            }
            if let Some(was_good) = completion.joined {
                writer.join_backoff.learn(was_good);
            }
            for group in completion.follow_ups {
                writer.push(group);
            }
            if completion.batches > 0 {
                writer.end_batches(completion.batches);
            }
        }
        self.lead(state);
        deliver(&mut answers);
    }
}

/// Nothing could be written. The node's task finds out whether the socket is
/// full or broken when it writes.
fn give_up(_: io::Error) -> usize {
    0
}
