//! One connection's life, on the side of the node's task: it reads the server's
//! replies, watches the clock, and writes what no caller could.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::node::redis::codec::capabilities::Dialect;
use crate::node::redis::codec::command_group::{CommandGroup, GroupKind};
use crate::node::redis::codec::request::{Completions, closed, deliver};
use crate::node::redis::connection::address::Address;
use crate::node::redis::connection::clock_monitor;
use crate::node::redis::connection::clock_monitor::{ClockMonitor, Verdict};
use crate::node::redis::connection::error::{broken, no_reply};
use crate::node::redis::connection::handshake::Connection;
use crate::node::redis::connection::stream::{Receiver, Sender};
use crate::node::redis::pipeline::completion::{Completion, Server, settle};
use crate::node::redis::pipeline::identity_check;
use crate::node::redis::pipeline::identity_check::{Checks, Count, ReplyTrust};
use crate::node::redis::pipeline::state::Pipeline;
use crate::node::redis::pipeline::writer::{Writer, is_absent};
use crate::node::redis::resp::parser::{Malformed, take_push};
use crate::proto::node::message::{NodeError, NodeErrorKind, NodeStatus};
use crate::proto::time::{Instant, outwait};
use crate::telemetry::events;

/// Spare room for each read.
const READ_SIZE: usize = 16 * 1024;

/// How often a server under another incarnation is asked whether it has been
/// let in again.
const RECHECK: Duration = Duration::from_millis(500);

/// One connection's life.
pub(crate) struct ConnectionReader<'a> {
    pipeline: &'a Pipeline,
    address: &'a Address,
    clock_monitor: &'a mut ClockMonitor,
    dialect: Arc<Dialect>,
    status: NodeStatus,
    trust: ReplyTrust,
    count: Count,
    recheck_at: Instant,
    /// Oldest first; the pipeline holds what was sent last.
    in_flight: VecDeque<CommandGroup>,
    inbox: Inbox,
    answers: Completions,
}

/// Bytes that have been read and not been settled.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    /// The replies up to here are complete, but others of their group are not.
    scanned: usize,
}

/// What comes next in the bytes that have been read.
enum Next {
    /// All replies to the oldest group, and their length in bytes.
    Replies(usize),
    /// A push; it has been taken out.
    Push,
    /// Nothing that is complete.
    More,
}

impl Inbox {
    /// Examines the bytes behind those that are settled.
    fn next(
        &mut self,
        settled: usize,
        front: Option<&mut CommandGroup>,
    ) -> Result<Next, Malformed> {
        let is_asked = front.is_some();
        let whole = match front {
            Some(group) => group.whole(&self.bytes[settled..], &mut self.scanned)?,
            None => None,
        };
        let at = settled + self.scanned;
        match whole {
            Some(len) => Ok(Next::Replies(len)),
            None if take_push(&mut self.bytes, at)? => Ok(Next::Push),
            // Part of a push may be there; nothing else is expected.
            None if is_asked || self.bytes[at..].first().is_none_or(|&kind| kind == b'>') => {
                Ok(Next::More)
            }
            None => Err(Malformed),
        }
    }
}

/// Bytes that a caller could not write, and how many of them have been written.
#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    written: usize,
    is_pending: bool,
}

impl<'a> ConnectionReader<'a> {
    /// Serves the pipeline until the connection breaks or the pipeline is
    /// closed and empty. Returns why it ended, and the last known status of the
    /// server. Requests that are unanswered then fail.
    pub(crate) async fn serve(
        pipeline: &'a Pipeline,
        address: &'a Address,
        clock_monitor: &'a mut ClockMonitor,
        connection: Connection,
    ) -> (NodeError, NodeStatus) {
        let Connection {
            stream,
            dialect,
            status,
            clock: (asked_at, time),
            is_reported,
            verified_at,
            is_doubtful,
        } = connection;
        let (receiver, sender) = stream.into_ends();
        let dialect = Arc::new(dialect);
        let checks = Checks::new(is_reported, verified_at);
        let mut writer = Writer::new(
            Arc::clone(&dialect),
            status.clone(),
            checks,
            sender.socket(),
        );
        let mut reader = Self {
            pipeline,
            address,
            clock_monitor,
            dialect,
            status,
            trust: ReplyTrust::new(is_reported, verified_at),
            count: Count::default(),
            recheck_at: clock::now() + RECHECK,
            in_flight: VecDeque::new(),
            inbox: Inbox::default(),
            answers: Completions::new(),
        };
        if is_doubtful {
            reader.trust.doubt(None, 0);
        }
        reader.clock_monitor.belongs_to(&reader.dialect.incarnation);
        reader.read_clock(asked_at, time);
        writer.clock_hold = reader.clock_monitor.hold();
        pipeline.connected(writer);
        let error = reader.pump(receiver, sender).await;
        reader.in_flight.extend(pipeline.disconnected());
        for group in reader.trust.into_held().chain(reader.in_flight) {
            group.fail(&error);
        }
        (error, reader.status)
    }

    async fn pump(&mut self, mut receiver: Receiver, mut sender: Sender) -> NodeError {
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        let mut timer_at = None;
        let mut backlog = Backlog::default();
        loop {
            let recheck = is_absent(&self.status).then_some(self.recheck_at);
            let due = [recheck, self.trust.due()].into_iter().flatten().min();
            let input = self.pipeline.task_input(&mut self.in_flight, due);
            if let Some(bytes) = input.backlog {
                backlog = Backlog::of(bytes);
            }
            if input.is_over && !backlog.is_pending {
                return closed();
            }
            if timer_at != input.timer {
                timer_at = input.timer;
                if let Some(at) = timer_at {
                    let left = at.saturating_since(clock::now());
                    timer.as_mut().reset(tokio::time::Instant::now() + left);
                }
            }
            // While replies keep arriving, the timer is never polled.
            let is_late = timer_at.is_some_and(|at| clock::now() >= at);
            self.inbox.bytes.reserve(READ_SIZE);
            tokio::select! {
                biased;
                read = receiver.read(&mut self.inbox.bytes), if !is_late => {
                    let taken = match read {
                        Ok(0) => Err(self.broken(&io::ErrorKind::UnexpectedEof.into())),
                        Ok(_) => self.take_in(),
                        Err(error) => Err(self.broken(&error)),
                    };
                    if let Err(error) = taken {
                        return error;
                    }
                }
                written = backlog.write(&mut sender), if backlog.is_pending => match written {
                    Ok(()) if backlog.is_pending => {}
                    Ok(()) => self.pipeline.backlog_sent(),
                    Err(error) => return self.broken(&error),
                },
                () = self.pipeline.attention() => self.pipeline.resume().await,
                () = async { if !is_late { timer.as_mut().await } }, if timer_at.is_some() => {
                    timer_at = None;
                    if self.expire() {
                        let message = format!("{} has stopped answering", self.address);
                        return NodeError::new(NodeErrorKind::Timeout, message);
                    }
                }
            }
        }
    }

    /// Answers requests that have run out of time; true if the connection is
    /// stuck.
    fn expire(&mut self) -> bool {
        let now = clock::now();
        self.pipeline.expire(now);
        self.pipeline.collect_sent(&mut self.in_flight);
        let mut is_stuck = false;
        for group in self.trust.held().chain(&mut self.in_flight) {
            is_stuck |= group.expire(now);
        }
        if is_absent(&self.status) && now >= self.recheck_at {
            self.recheck_at = now + RECHECK;
            let recheck = CommandGroup::new(GroupKind::Recheck, Vec::new(), now);
            self.pipeline.settled(Completion {
                follow_ups: vec![recheck],
                ..Completion::default()
            });
        }
        is_stuck
    }

    /// Settles every group whose replies have all arrived. What follows from
    /// them is sent before the callers are woken: the server and the callers
    /// then work at the same time.
    fn take_in(&mut self) -> Result<(), NodeError> {
        self.pipeline.collect_sent(&mut self.in_flight);
        let now = clock::now();
        // The allocation is reused.
        let mut answers = std::mem::take(&mut self.answers);
        let mut completion = Completion {
            count: self.count,
            ..Completion::default()
        };
        let mut settled = 0;
        let outcome = loop {
            match self.inbox.next(settled, self.in_flight.front_mut()) {
                Ok(Next::More) => break Ok(()),
                Ok(Next::Push) => self.trust.doubt(self.in_flight.front(), self.inbox.scanned),
                Err(Malformed) => break Err(no_reply(self.address)),
                Ok(Next::Replies(len)) => {
                    let replies = settled..settled + len;
                    settled += len;
                    let outcome = self.settle_front(replies, now, &mut completion, &mut answers);
                    if outcome.is_err() {
                        break outcome;
                    }
                }
            }
        };
        self.inbox.bytes.drain(..settled);
        self.count = completion.count;
        if let Some(status) = &completion.status {
            self.status = status.clone();
        }
        if self.trust.wants_check(now) && !self.in_flight.iter().any(CommandGroup::is_check) {
            // The check goes ahead of what follows from replies that wait for
            // it.
            completion
                .follow_ups
                .insert(0, identity_check::check(true, now));
        }
        completion.clock_hold = self.clock_monitor.hold();
        self.pipeline.settled(completion);
        deliver(&mut answers);
        self.answers = answers;
        outcome
    }

    /// Settles the oldest group, whose `replies` are at that range of the
    /// inbox, or holds it until the server has confirmed its identity.
    fn settle_front(
        &mut self,
        replies: Range<usize>,
        now: Instant,
        completion: &mut Completion,
        answers: &mut Completions,
    ) -> Result<(), NodeError> {
        let Some(group) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let replies = &self.inbox.bytes[replies];
        if group.kind == GroupKind::Clock {
            let time = clock_monitor::time(replies)?;
            self.read_clock(group.sent_at, time);
            return Ok(());
        }
        if group.is_refused && identity_check::is_upset(replies) {
            self.trust.doubt(None, 0);
        }
        if group.is_check() {
            let asked_at = group.sent_at;
            settle(group, replies, &self.server(), completion, answers)?;
            self.trust.verified(asked_at);
            while let Some((group, replies)) = self.trust.next_believed() {
                settle(group, &replies, &self.server(), completion, answers)?;
            }
            return Ok(());
        }
        if self.trust.must_hold(&group, now) {
            self.trust.hold(group, replies);
            return Ok(());
        }
        settle(group, replies, &self.server(), completion, answers)
    }

    /// What is known of the server when it replies to a group that is settled
    /// now. What waits for a check was sent after that group, and so was what
    /// is in flight.
    fn server(&self) -> Server<'_> {
        Server {
            dialect: &self.dialect,
            status: &self.status,
            clock_hold: self.clock_monitor.hold(),
            held: self.trust.waiting(),
            in_flight: &self.in_flight,
        }
    }

    /// Compares the server's clock, as requested at `asked_at`, with this
    /// process's own.
    fn read_clock(&mut self, asked_at: Instant, time: Duration) {
        let longest_ttl = self.pipeline.longest_ttl();
        let node = self.address;
        match self
            .clock_monitor
            .read(asked_at, clock::now(), time, longest_ttl)
        {
            Verdict::Steady => {}
            Verdict::Ahead(step) => {
                events::clock_stepped(node, step, outwait(longest_ttl));
            }
            Verdict::Back(step) => events::clock_stepped_back(node, step),
        }
    }

    fn broken(&self, error: &io::Error) -> NodeError {
        broken(self.address, error)
    }
}

impl Backlog {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            written: 0,
            is_pending: true,
        }
    }

    /// Writes once, or flushes. Cancel safe.
    async fn write(&mut self, sender: &mut Sender) -> io::Result<()> {
        if self.written < self.bytes.len() {
            self.written += sender.write(&self.bytes[self.written..]).await?;
        } else {
            sender.flush().await?;
            self.is_pending = false;
        }
        Ok(())
    }
}
