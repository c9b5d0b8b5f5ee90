//! One question at a time on a connection that no other code uses yet.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::config::Password;
use crate::node::redis::codec::capabilities::Dialect;
use crate::node::redis::codec::scripts::unpacked;
use crate::node::redis::connection::address::{Address, Place};
use crate::node::redis::connection::attempt::Attempt;
use crate::node::redis::connection::error::{
    bad_credentials, broken, failed, no_reply, unreachable,
};
use crate::node::redis::connection::stream::Stream;
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{ErrorReply, unexpected};
use crate::node::redis::resp::parser::{
    MAX_REPLY, Malformed, Replies, Value, reply_len, take_push,
};
use crate::proto::node::message::{NodeError, NodeErrorKind, Request};

/// A stream on which one question is asked at a time.
pub(crate) struct Exchange<'a> {
    pub(crate) stream: Stream,
    pub(super) address: &'a Address,
    has_answered: bool,
    /// The server's data was flushed or replaced since the server was asked to
    /// push that.
    pub(super) is_doubtful: bool,
}

impl<'a> Exchange<'a> {
    /// Opens a stream to `place`, where the server of `address` is, and logs in.
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
        let mut exchange = Self {
            stream,
            address,
            has_answered: false,
            is_doubtful: false,
        };
        attempt.comes_to("the server does not answer the login");
        exchange.log_in().await?;
        Ok(exchange)
    }

    /// Sends a question, and reads exactly `replies` replies.
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
            // A server that closed the connection may have sent the reason.
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
            // The rest of the push has not arrived.
            Some(b'>') => Err(NodeError::new(
                NodeErrorKind::Unreachable,
                "the server's data was flushed while it was checked: the check is repeated",
            )),
            Some(_) => Err(no_reply(self.address)),
        }
    }

    /// The connection ended. If the server sent a reason, that is the error;
    /// the reason may have arrived before anything was asked.
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
        // Read again for every connection, because it may have changed.
        let password = password.as_ref().map(Password::get).transpose();
        let password =
            password.map_err(|problem| NodeError::new(NodeErrorKind::Denied, problem))?;
        let mut greetings: Vec<Vec<&[u8]>> = Vec::new();
        match (username, &password) {
            // A user without a password is still that user, and never the
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
        let mut values = Replies::of(&answers);
        for index in 0..greetings.len() {
            match values.next() {
                Some(Value::Status(_)) => {}
                Some(Value::Error(line)) if index == 0 && has_login => {
                    let refusal = ErrorReply::of(line);
                    let other = refusal.explain_unquoted();
                    return Err(other.unwrap_or_else(|| bad_credentials(self.address, &refusal)));
                }
                other => return Err(unexpected(other, "AUTH or SELECT")),
            }
        }
        Ok(())
    }

    /// Sends a request that a script carries out. The script was loaded on this
    /// connection, and may have been flushed since. In that case the request is
    /// sent again, once, with the script's text.
    pub(crate) async fn call(
        &mut self,
        dialect: &Dialect,
        request: &Request,
        nonce_echo: u32,
    ) -> Result<Vec<u8>, NodeError> {
        let answer = self
            .ask(|out| dialect.control(request, nonce_echo, out), 1)
            .await?;
        if !ErrorReply::first(&answer).is_some_and(|error| error.is_unloaded()) {
            return Ok(answer);
        }
        let mut out = Vec::new();
        let Some(replies) = dialect.control_with_text(request, nonce_echo, &mut out) else {
            return Ok(answer);
        };
        let answer = self.ask(|sent| sent.append(&mut out), replies).await?;
        Ok(unpacked(&answer).map_or_else(|| answer.clone(), <[u8]>::to_vec))
    }
}
