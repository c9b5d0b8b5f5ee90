//! The connect step: who is this server, and may it hold locks?
//!
//! Nothing reconnects behind our back. Every new connection asks for the
//! server's identity before any data command, for behind the same address may
//! be another server by now, or the same one without its memory.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::config::Password;
use crate::node::redis::codec::capabilities::{Abilities, DeleteIf, Dialect};
use crate::node::redis::codec::decode::asked_status;
use crate::node::redis::codec::scripts::{Script, Scripts};
use crate::node::redis::connection::address::{Address, Place};
use crate::node::redis::connection::attempt::Attempt;
use crate::node::redis::connection::clock_monitor;
use crate::node::redis::connection::error::{
    bad_credentials, broken, failed, no_reply, unreachable,
};
use crate::node::redis::connection::stream::Stream;
use crate::node::redis::options::{Encoding, RedisOptions};
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{ErrorReply, misfit, unexpected};
use crate::node::redis::resp::parser::{MAX_REPLY, Malformed, Piece, Pieces, reply_len, take_push};
use crate::proto::escape::shown;
use crate::proto::node::message::{NodeError, NodeErrorKind, NodeStatus, Request, Standing};
use crate::proto::time::Instant;
use crate::telemetry::events;

/// The oldest server whose commands suffice.
const OLDEST: (u32, u32) = (6, 2);

/// The oldest server with `SET … NX GET`.
const OLDEST_WITH_TRANSACTION: (u32, u32) = (7, 0);

/// Mark of what is asked here: one question at a time, whose answer must be the
/// only one.
const MARK: u32 = 0;

/// Facts of one section of INFO at the most, some ten times what there are; and
/// bytes of each.
const MAX_FACTS: usize = 500;
const MAX_FACT: usize = 256;

/// A connection that has been found fit.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) dialect: Dialect,
    pub(crate) status: NodeStatus,
    /// A reading of the server's wall clock, and when it was asked for.
    pub(crate) clock: (Instant, Duration),
    /// Whether the server pushes what happens to its data.
    pub(crate) is_told: bool,
    /// When it was asked who it is.
    pub(crate) verified_at: Instant,
    /// Something was pushed since.
    pub(crate) is_doubtful: bool,
}

/// Connects to `address` and checks the server.
pub(crate) async fn connect(
    address: &Address,
    options: &RedisOptions,
    attempt: &Attempt,
) -> Result<Connection, NodeError> {
    let mut line = Line::open(address, attempt).await?;
    attempt.comes_to("it does not say what it is");
    let verified_at = clock::now();
    let (is_told, identity) = line.introduce_and_be_told().await?;
    identity.check_loaded()?;
    if matches!(address.place, Place::Service(_)) && identity.check_role().is_err() {
        return Err(NodeError::new(
            NodeErrorKind::Unreachable,
            format!("{address} is a replica now: its sentinels are yet to name another"),
        ));
    }
    identity.check()?;
    let mut dialect = Dialect {
        key_prefix: options.key_prefix.clone().into_bytes(),
        id: format!("{}!id", options.namespace).into_bytes(),
        member: format!("{}!m", options.namespace).into_bytes(),
        counters: format!("{}!c", options.namespace).into_bytes(),
        scripts: Scripts::default(),
        abilities: Abilities::default(),
        incarnation: identity.incarnation()?.into_bytes(),
        literal: options.literal,
    };
    let encoding = options.encoding.unwrap_or(Encoding::Command);
    dialect.scripts = line.load().await?;
    dialect.abilities.transaction = encoding >= Encoding::Transaction && identity.has_transaction();
    if encoding >= Encoding::Command {
        line.probe(&options.namespace, &mut dialect.abilities)
            .await?;
    }
    let clock = line.read_clock().await?;
    let mut status = line.status(&dialect).await?;
    if options.durable && status.standing() == Standing::Absent {
        line.restamp(&dialect, &status, &identity).await?;
        status = line.status(&dialect).await?;
    }
    Ok(Connection {
        is_doubtful: line.is_doubtful,
        stream: line.stream,
        dialect,
        status,
        clock,
        is_told,
        verified_at,
    })
}

/// A stream on which one question is asked at a time.
pub(crate) struct Line<'a> {
    pub(crate) stream: Stream,
    address: &'a Address,
    has_answered: bool,
    /// Its data was flushed or replaced since it was to push that.
    is_doubtful: bool,
}

impl<'a> Line<'a> {
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

    /// The same where it is known which server that is.
    pub(crate) async fn open_at(
        address: &'a Address,
        place: &Place,
        attempt: &Attempt,
    ) -> Result<Self, NodeError> {
        let stream = Stream::open(place, &address.tls, attempt).await;
        let stream = stream.map_err(|error| match &address.place {
            Place::Service(_) => failed(
                format!("cannot reach {address} at {place}: {error}"),
                &error,
            ),
            _ => unreachable(address, &error),
        })?;
        let mut line = Self {
            stream,
            address,
            has_answered: false,
            is_doubtful: false,
        };
        attempt.comes_to("it does not answer the login");
        line.log_in().await?;
        Ok(line)
    }

    /// Asks, and reads exactly `replies` replies.
    pub(crate) async fn ask(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        replies: usize,
    ) -> Result<Vec<u8>, NodeError> {
        let mut out = Vec::new();
        write(&mut out);
        let sent = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        let mut answers = Vec::new();
        if let Err(error) = sent.await {
            // A server that hung up may have said why.
            let _ = self.stream.read_buf(&mut answers).await;
            return Err(self.hung_up(&answers, &error));
        }
        let (mut whole, mut scanned) = (0, 0);
        while whole < replies {
            if take_push(&mut answers, scanned).map_err(|_| no_reply(self.address))? {
                self.is_doubtful = true;
                continue;
            }
            match reply_len(&answers[scanned..]) {
                Ok(Some(len)) => {
                    whole += 1;
                    scanned += len;
                }
                Ok(None) if answers.len() <= MAX_REPLY => {
                    match self.stream.read_buf(&mut answers).await {
                        Ok(1..) => self.has_answered = true,
                        Ok(0) => {
                            let error = io::ErrorKind::UnexpectedEof.into();
                            return Err(self.hung_up(&answers, &error));
                        }
                        Err(error) => return Err(self.hung_up(&answers, &error)),
                    }
                }
                Ok(None) | Err(Malformed) => return Err(no_reply(self.address)),
            }
        }
        while take_push(&mut answers, scanned).map_err(|_| no_reply(self.address))? {
            self.is_doubtful = true;
        }
        match answers.get(scanned) {
            None => Ok(answers),
            // The rest of it is yet to come.
            Some(b'>') => Err(NodeError::new(
                NodeErrorKind::Unreachable,
                "the server's data was flushed while it was looked at: it is looked at anew",
            )),
            Some(_) => Err(no_reply(self.address)),
        }
    }

    /// The connection ended. Where the server said why, that is the error: it
    /// may have been said before anything was asked.
    fn hung_up(&self, answers: &[u8], error: &io::Error) -> NodeError {
        let reason = ErrorReply::first(answers).and_then(|reason| reason.explain_unquoted());
        reason.unwrap_or_else(|| self.broken(error))
    }

    fn broken(&self, error: &io::Error) -> NodeError {
        let error = broken(self.address, error);
        match self.address.place {
            Place::Tcp { .. } if !self.has_answered => {
                let hint = "before it answered: if it speaks TLS on that port, write rediss://";
                NodeError::new(error.kind(), format!("{error}, {hint}"))
            }
            _ => error,
        }
    }

    async fn log_in(&mut self) -> Result<(), NodeError> {
        let Address {
            username,
            password,
            database,
            ..
        } = self.address;
        let database = database.to_string();
        // Anew for every connection: it may have changed.
        let password = password.as_ref().map(Password::get).transpose();
        let password =
            password.map_err(|problem| NodeError::new(NodeErrorKind::Denied, problem))?;
        let mut greetings: Vec<Vec<&[u8]>> = Vec::new();
        match (username, &password) {
            // A user without a password is one all the same, and never the
            // default user.
            (Some(user), password) => {
                let password = password.as_deref().unwrap_or_default();
                greetings.push(vec![b"AUTH", user.as_bytes(), password.as_bytes()]);
            }
            (None, Some(password)) => greetings.push(vec![b"AUTH", password.as_bytes()]),
            (None, None) => {}
        }
        let has_login = !greetings.is_empty();
        if database != "0" {
            greetings.push(vec![b"SELECT", database.as_bytes()]);
        }
        let write =
            |out: &mut Vec<u8>| greetings.iter().for_each(|greeting| command(out, greeting));
        let answers = self.ask(write, greetings.len()).await?;
        let mut pieces = Pieces::of(&answers);
        for index in 0..greetings.len() {
            match pieces.next() {
                Some(Piece::Status(_)) => {}
                Some(Piece::Error(line)) if index == 0 && has_login => {
                    let refusal = ErrorReply::of(line);
                    let other = refusal.explain_unquoted();
                    return Err(other.unwrap_or_else(|| bad_credentials(self.address, &refusal)));
                }
                other => return Err(unexpected(other, "AUTH or SELECT")),
            }
        }
        Ok(())
    }

    /// Has the server load every script.
    pub(crate) async fn load(&mut self) -> Result<Scripts, NodeError> {
        let load = |out: &mut Vec<u8>| Script::ALL.iter().for_each(|script| script.load(out));
        let answers = self.ask(load, Script::ALL.len()).await?;
        let mut pieces = Pieces::of(&answers);
        let mut scripts = Scripts::default();
        for script in Script::ALL {
            match pieces.next() {
                Some(Piece::Bulk(sha)) => scripts.loaded(script, sha),
                other => return Err(unexpected(other, "SCRIPT LOAD")),
            }
        }
        Ok(scripts)
    }

    /// Tries the commands that not every server has. They do nothing: the key
    /// is never there. COMMAND INFO knows of no user's rights; this does.
    async fn probe(&mut self, namespace: &str, abilities: &mut Abilities) -> Result<(), NodeError> {
        let key = format!("{namespace}!probe").into_bytes();
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"MSETEX", b"1", &key, b"", b"XX"]);
            command(out, &[b"DELIFEQ", &key, b""]);
            command(out, &[b"DELEX", &key, b"IFEQ", b""]);
        };
        let answers = self.ask(write, 3).await?;
        let mut pieces = Pieces::of(&answers);
        let mut can = || match pieces.next() {
            Some(Piece::Int(_)) => Ok(true),
            // Others pass, such as that the memory is full.
            Some(Piece::Error(line)) => Ok(!matches!(ErrorReply::of(line).code, "ERR" | "NOPERM")),
            other => Err(unexpected(other, "a command that it may have")),
        };
        abilities.together = can()?;
        abilities.delete_if = match (can()?, can()?) {
            (true, _) => Some(DeleteIf::Delifeq),
            (_, true) => Some(DeleteIf::Delex),
            _ => None,
        };
        Ok(())
    }

    /// Asks for the server's wall clock: when that was, at the earliest, and
    /// what it showed.
    async fn read_clock(&mut self) -> Result<(Instant, Duration), NodeError> {
        let sent_at = clock::now();
        let answer = self.ask(|out| command(out, &[b"TIME"]), 1).await?;
        Ok((sent_at, clock_monitor::time(&answer)?))
    }

    async fn status(&mut self, dialect: &Dialect) -> Result<NodeStatus, NodeError> {
        let answer = self.call(dialect, &Request::Status, MARK).await?;
        asked_status(&answer, MARK, &dialect.incarnation)
    }

    /// Takes the operator's word that a restart lost nothing.
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

/// What INFO tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity(BTreeMap<String, String>);

impl Identity {
    /// Adds what one section says.
    pub(crate) fn take_in(&mut self, section: &[u8]) {
        let lines = section.split(|&byte| byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        });
        let facts = lines.map(|(name, value)| (shown(name, MAX_FACT), shown(value, MAX_FACT)));
        self.0.extend(facts.take(MAX_FACTS));
    }

    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.fact("redis_version")?.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }

    fn has_transaction(&self) -> bool {
        self.version() >= Some(OLDEST_WITH_TRANSACTION)
    }

    /// Another run or another replication history may have lost entries, and so
    /// may a server that has evicted keys since.
    pub(crate) fn incarnation(&self) -> Result<String, NodeError> {
        match (self.fact("run_id"), self.history()) {
            (Some(run), Some(history)) => Ok(format!("{run}/{history}")),
            _ => Err(misfit("INFO")),
        }
    }

    /// Whether the operator's word that it is durable can be true: a restart
    /// alone keeps every write, and with an append-only file alone.
    pub(crate) fn check_durable(&self) -> Result<(), &'static str> {
        let earlier_history = self.fact("master_replid2").unwrap_or_default();
        if self.fact("aof_enabled") != Some("1") {
            Err("it keeps no append-only file")
        } else if self.fact("evicted_keys").is_some_and(|keys| keys != "0") {
            Err("it has evicted keys")
        } else if earlier_history.bytes().any(|digit| digit != b'0') {
            Err("it was a replica")
        } else {
            Ok(())
        }
    }

    /// While a server reads its data, it does not say whether it is durable:
    /// it seems to keep no append-only file.
    fn check_loaded(&self) -> Result<(), NodeError> {
        match self.fact("loading") {
            Some("1") => Err(NodeError::new(
                NodeErrorKind::NotReady,
                "the server is still loading its data",
            )),
            _ => Ok(()),
        }
    }

    /// Whether this server may hold locks.
    pub(crate) fn check(&self) -> Result<(), NodeError> {
        self.check_version()?;
        self.check_mode()?;
        self.check_role()?;
        self.check_eviction()
    }

    pub(crate) fn check_version(&self) -> Result<(), NodeError> {
        match self.version() {
            None => Err(misfit("INFO")),
            Some(version) if version < OLDEST => unsuitable(format!(
                "the server's version is {}.{}; ringlock needs Redis {}.{} or newer",
                version.0, version.1, OLDEST.0, OLDEST.1
            )),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn check_mode(&self) -> Result<(), NodeError> {
        // Redis's name for it, and Valkey's.
        match self.fact("redis_mode").or(self.fact("server_mode")) {
            Some("standalone") => Ok(()),
            mode => {
                let mode = mode.unwrap_or("unknown");
                let advice = match mode {
                    "sentinel" => {
                        "write redis+sentinel://host:port/service for the server that it watches"
                    }
                    _ => "ringlock spreads keys itself: use standalone servers",
                };
                unsuitable(format!("the server runs in {mode} mode; {advice}"))
            }
        }
    }

    pub(crate) fn check_role(&self) -> Result<(), NodeError> {
        match self.fact("role") {
            Some("master") => Ok(()),
            _ => unsuitable("the server is a replica: name the primary".into()),
        }
    }

    pub(crate) fn check_eviction(&self) -> Result<(), NodeError> {
        match self.fact("maxmemory_policy") {
            Some("noeviction") => Ok(()),
            policy => {
                let policy = policy.unwrap_or("unknown");
                unsuitable(format!(
                    "maxmemory-policy is {policy}, which may evict locks: set it to noeviction"
                ))
            }
        }
    }
}

fn unsuitable(advice: String) -> Result<(), NodeError> {
    Err(NodeError::new(NodeErrorKind::Unsuitable, advice))
}
