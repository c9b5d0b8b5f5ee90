//! The connect step: which server is this, and may it hold locks?
//!
//! No connection is re-established implicitly. Every new connection asks for
//! the server's identity before any data command, because another server may
//! now have the same address, or the same server without its memory.

use std::time::Duration;

use crate::clock;
use crate::node::redis::codec::capabilities::{Capabilities, DeleteIf, Dialect};
use crate::node::redis::codec::decode::asked_status;
use crate::node::redis::codec::scripts::{Script, Scripts};
use crate::node::redis::connection::address::{Address, Place};
use crate::node::redis::connection::attempt::Attempt;
use crate::node::redis::connection::clock_monitor;
use crate::node::redis::connection::exchange::Exchange;
use crate::node::redis::connection::server_info::Identity;
use crate::node::redis::connection::stream::Stream;
use crate::node::redis::options::{Encoding, RedisOptions};
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{ErrorReply, unexpected};
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::node::message::{NodeError, NodeErrorKind, NodeState, NodeStatus, Request};
use crate::proto::time::Instant;
use crate::telemetry::events;

/// The mark of the questions that are asked here: one at a time, whose answer
/// must be the only one.
const MARK: u32 = 0;

/// A connection that has passed the checks.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) dialect: Dialect,
    pub(crate) status: NodeStatus,
    /// A reading of the server's wall clock, and when it was requested.
    pub(crate) clock: (Instant, Duration),
    /// Whether the server pushes what happens to its data.
    pub(crate) is_reported: bool,
    /// When the server was asked for its identity.
    pub(crate) verified_at: Instant,
    /// A push has arrived since then.
    pub(crate) is_doubtful: bool,
}

/// Connects to `address` and checks the server.
pub(crate) async fn connect(
    address: &Address,
    options: &RedisOptions,
    attempt: &Attempt,
) -> Result<Connection, NodeError> {
    let mut exchange = Exchange::open(address, attempt).await?;
    attempt.comes_to("the server does not identify itself");
    let verified_at = clock::now();
    let (is_reported, identity) = exchange.introduce_and_read_reply().await?;
    identity.check_loaded()?;
    if matches!(address.place, Place::Service(_)) && identity.check_role().is_err() {
        return Err(NodeError::new(
            NodeErrorKind::Unreachable,
            format!("{address} is a replica now: its sentinels have not named another primary yet"),
        ));
    }
    identity.check()?;
    let mut dialect = Dialect {
        key_prefix: options.key_prefix.clone().into_bytes(),
        id: format!("{}!id", options.namespace).into_bytes(),
        member: format!("{}!m", options.namespace).into_bytes(),
        counters: format!("{}!c", options.namespace).into_bytes(),
        scripts: Scripts::default(),
        capabilities: Capabilities::default(),
        incarnation: identity.incarnation()?.into_bytes(),
        literal: options.literal,
    };
    let encoding = options.encoding.unwrap_or(Encoding::Command);
    dialect.scripts = exchange.load().await?;
    dialect.capabilities.set_nx_get = encoding >= Encoding::Pipeline && identity.has_set_nx_get();
    if encoding >= Encoding::Command {
        exchange
            .probe(&options.namespace, &mut dialect.capabilities)
            .await?;
    }
    let clock = exchange.read_clock().await?;
    let mut status = exchange.status(&dialect).await?;
    if options.durable && status.standing() == NodeState::Absent {
        exchange.restamp(&dialect, &status, &identity).await?;
        status = exchange.status(&dialect).await?;
    }
    Ok(Connection {
        is_doubtful: exchange.is_doubtful,
        stream: exchange.stream,
        dialect,
        status,
        clock,
        is_reported,
        verified_at,
    })
}

impl<'a> Exchange<'a> {
    /// Opens a stream to `address` and logs in.
    pub(crate) async fn open(address: &'a Address, attempt: &Attempt) -> Result<Self, NodeError> {
        match &address.place {
            Place::Service(service) => {
                let primary = service.primary(attempt).await?;
                Self::open_at(address, &primary, attempt).await
            }
            place => Self::open_at(address, place, attempt).await,
        }
    }

    /// Has the server load every script.
    pub(crate) async fn load(&mut self) -> Result<Scripts, NodeError> {
        let load = |out: &mut Vec<u8>| Script::ALL.iter().for_each(|script| script.load(out));
        let answers = self.ask(load, Script::ALL.len()).await?;
        let mut values = Replies::of(&answers);
        let mut scripts = Scripts::default();
        for script in Script::ALL {
            match values.next() {
                Some(Value::Bulk(sha)) => scripts.loaded(script, sha),
                other => return Err(unexpected(other, "SCRIPT LOAD")),
            }
        }
        Ok(scripts)
    }

    /// Tries the commands that not every server has. They have no effect,
    /// because the key never exists. COMMAND INFO does not reflect a user's
    /// rights; this does.
    async fn probe(
        &mut self,
        namespace: &str,
        capabilities: &mut Capabilities,
    ) -> Result<(), NodeError> {
        let key = format!("{namespace}!probe").into_bytes();
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"MSETEX", b"1", &key, b"", b"XX"]);
            command(out, &[b"DELIFEQ", &key, b""]);
            command(out, &[b"DELEX", &key, b"IFEQ", b""]);
        };
        let answers = self.ask(write, 3).await?;
        let mut values = Replies::of(&answers);
        let mut can = || match values.next() {
            Some(Value::Int(_)) => Ok(true),
            // Other errors are temporary, such as a full memory.
            Some(Value::Error(line)) => Ok(!matches!(ErrorReply::of(line).code, "ERR" | "NOPERM")),
            other => Err(unexpected(other, "an optional command")),
        };
        capabilities.together = can()?;
        capabilities.delete_if = match (can()?, can()?) {
            (true, _) => Some(DeleteIf::Delifeq),
            (_, true) => Some(DeleteIf::Delex),
            _ => None,
        };
        Ok(())
    }

    /// Asks for the server's wall clock. Returns the earliest time at which it
    /// was read, and what it showed.
    async fn read_clock(&mut self) -> Result<(Instant, Duration), NodeError> {
        let sent_at = clock::now();
        let answer = self.ask(|out| command(out, &[b"TIME"]), 1).await?;
        Ok((sent_at, clock_monitor::time(&answer)?))
    }

    async fn status(&mut self, dialect: &Dialect) -> Result<NodeStatus, NodeError> {
        let answer = self.call(dialect, &Request::Status, MARK).await?;
        asked_status(&answer, MARK, &dialect.incarnation)
    }

    /// Relies on the operator's assurance that a restart lost nothing.
    async fn restamp(
        &mut self,
        dialect: &Dialect,
        status: &NodeStatus,
        identity: &Identity,
    ) -> Result<(), NodeError> {
        let Some(expected) = status.stamped.clone() else {
            return Ok(());
        };
        if let Err(reason) = identity.check_durable() {
            events::not_durable(self.address, reason);
            return Ok(());
        }
        let restamp = Request::Restamp { expected };
        self.call(dialect, &restamp, MARK).await?;
        Ok(())
    }
}
