//! The task of one node: it connects and reconnects, and has each connection
//! serve the pipeline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::node::redis::connection::address::Address;
use crate::node::redis::connection::attempt::{self, Attempt};
use crate::node::redis::connection::clock_monitor::ClockMonitor;
use crate::node::redis::connection::handshake::{Connection, connect};
use crate::node::redis::options::RedisOptions;
use crate::node::redis::pipeline::reader::ConnectionReader;
use crate::node::redis::pipeline::state::Pipeline;
use crate::proto::backoff::Backoff;
use crate::proto::node::message::{NodeError, NodeErrorKind, NodeStatus};
use crate::telemetry::events;

/// How long requests wait for an attempt to connect, at least and at most. Then
/// they fail with the step that the attempt has reached, and the attempt goes
/// on.
const LEAST_PATIENCE: Duration = Duration::from_millis(900);
const MOST_PATIENCE: Duration = Duration::from_secs(2);

/// An attempt that ends this much later than it should shows that this process did
/// not run, and says nothing about the server. A busy machine is not as late.
const STALL: Duration = Duration::from_millis(500);

/// The task's own state.
pub(crate) struct ConnectionTask {
    name: Box<str>,
    address: Arc<Address>,
    options: RedisOptions,
    pipeline: Arc<Pipeline>,
    clock_monitor: ClockMonitor,
}

impl ConnectionTask {
    pub(crate) fn new(
        name: &str,
        address: Arc<Address>,
        options: RedisOptions,
        pipeline: Arc<Pipeline>,
    ) -> Self {
        Self {
            name: name.into(),
            address,
            options,
            pipeline,
            clock_monitor: ClockMonitor::default(),
        }
    }

    /// Runs until the pipeline is closed and everything in it is answered.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        let mut reported = None;
        let mut known = None;
        loop {
            let connected = match self.connect().await {
                Ok(connection) => recognise(connection, known.as_ref()),
                Err(error) => Err(error),
            };
            let error = match connected {
                Ok(connection) => {
                    failures = 0;
                    reported = None;
                    events::connected(&self.name, &self.address);
                    let (error, status) = ConnectionReader::serve(
                        &self.pipeline,
                        &self.address,
                        &mut self.clock_monitor,
                        connection,
                    )
                    .await;
                    known = Some(status);
                    if error.kind() != NodeErrorKind::Closed {
                        self.pipeline.lost();
                        events::connection_lost(&self.name, &self.address, &error);
                    }
                    error
                }
                Err(error) => {
                    failures += 1;
                    self.report(&error, reported.replace(error.kind()));
                    self.pipeline.fail(&error);
                    let wait = Backoff::RECONNECT.wait(failures, rand::random());
                    self.pause(wait).await;
                    error
                }
            };
            if self.pipeline.is_closed() {
                return self.pipeline.fail(&error);
            }
        }
    }

    /// Reports why there is no connection. The same kind of error is reported
    /// prominently only once.
    fn report(&self, error: &NodeError, reported: Option<NodeErrorKind>) {
        let (name, address) = (&self.name, &self.address);
        match error.kind() {
            kind if reported == Some(kind) => events::still_out(name, address, error),
            NodeErrorKind::Denied | NodeErrorKind::Unsuitable => {
                events::unsuitable(name, address, error);
            }
            _ => events::unreachable(name, address, error),
        }
    }

    async fn pause(&self, wait: Duration) {
        let until = clock::now() + wait;
        while !self.pipeline.is_closed() && clock::now() < until {
            clock::within(Some(until), self.pipeline.attention()).await;
        }
    }

    /// Connects.
    async fn connect(&self) -> Result<Connection, NodeError> {
        loop {
            // Each further round follows a stall of this process.
            if let Some(connected) = self.attempt().await {
                return connected;
            }
        }
    }

    /// One attempt to connect. Waiting requests still expire at their deadlines.
    /// `None`: this process did not run in the time of the attempt.
    async fn attempt(&self) -> Option<Result<Connection, NodeError>> {
        let attempt = Attempt::begin(self.options.connect_timeout);
        let patience = self.options.connect_timeout / 2;
        let patience = patience.clamp(LEAST_PATIENCE, MOST_PATIENCE);
        let mut report_at = Some(clock::now() + patience);
        let connecting =
            attempt::backed_if_silent(attempt::limit(self.options.connect_timeout), || {
                connect(&self.address, &self.options, &attempt)
            });
        let connecting = clock::within(Some(attempt.deadline), connecting);
        tokio::pin!(connecting);
        loop {
            let timer = self
                .pipeline
                .task_input(&mut VecDeque::new(), report_at)
                .timer;
            tokio::select! {
                biased;
                connected = &mut connecting => {
                    return match connected {
                        Some(connected) => Some(connected),
                        None if clock::now() > attempt.deadline + STALL => None,
                        None => Some(Err(attempt.late(&self.address))),
                    };
                }
                _ = clock::within(timer, self.pipeline.attention()) => {
                    let now = clock::now();
                    self.pipeline.expire(now);
                    if report_at.is_some_and(|at| now >= at) {
                        report_at = None;
                        self.pipeline.fail(&attempt.late(&self.address));
                    }
                }
            }
        }
    }
}

/// Refuses a server that serves the same view as the one before but is another
/// member: addresses are reassigned, and proxies redirected. It would grant
/// what the node itself may have granted to other clients.
fn recognise(connection: Connection, known: Option<&NodeStatus>) -> Result<Connection, NodeError> {
    let status = &connection.status;
    let is_other = known.is_some_and(|known| {
        known.serving.is_some() && known.serving == status.serving && known.nonce != status.nonce
    });
    if is_other {
        return Err(NodeError::another_member());
    }
    Ok(connection)
}
