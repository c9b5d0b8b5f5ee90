//! Finds the primary of a service by asking its sentinels.
//!
//! They are asked at every connection, each a moment after the one before, and
//! the first answer counts. The server that it names is checked as every server
//! is. A server that was promoted is another incarnation: it must be let in
//! again before it grants anything.

use std::sync::atomic::Ordering;

use crate::clock;
use crate::config::node_url::Endpoint;
use crate::node::redis::connection::address::{Address, Place, Service};
use crate::node::redis::connection::attempt::{Attempt, staggered};
use crate::node::redis::connection::exchange::Exchange;
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{ErrorReply, misfit};
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::node::message::{NodeError, NodeErrorKind};

impl Service {
    /// Where the primary is now.
    ///
    /// The sentinels have half of the attempt's time: the rest is for the
    /// server.
    pub(crate) async fn primary(&self, attempt: &Attempt) -> Result<Place, NodeError> {
        attempt.comes_to("its sentinels do not answer");
        let limit = Attempt::until(attempt.half_way());
        let count = self.sentinels.len();
        let first = self.last.load(Ordering::Relaxed);
        let order = (0..count).map(|offset| (first + offset) % count);
        let limit = &limit;
        let asked = order.map(|index| async move {
            let sentinel = &self.sentinels[index];
            let answer = clock::within(Some(limit.deadline), self.ask(sentinel, limit)).await;
            let place = answer.unwrap_or_else(|| Err(late(sentinel)))?;
            Ok((index, place))
        });
        match staggered(asked.collect()).await {
            Ok((index, place)) => {
                self.last.store(index, Ordering::Relaxed);
                Ok(place)
            }
            Err(problems) => Err(self.unknown(&problems)),
        }
    }

    async fn ask(&self, sentinel: &Address, attempt: &Attempt) -> Result<Place, NodeError> {
        let mut exchange = Exchange::open_at(sentinel, &sentinel.place, attempt).await?;
        let question = [
            b"SENTINEL",
            &b"GET-MASTER-ADDR-BY-NAME"[..],
            self.name.as_bytes(),
        ];
        let answer = exchange.ask(|out| command(out, &question), 1).await?;
        let unfit = |problem: &str| {
            let message = format!("{sentinel} {problem}");
            Err(NodeError::new(NodeErrorKind::Unsuitable, message))
        };
        let mut values = Replies::of(&answer);
        match values.next() {
            Some(Value::List(2)) => {
                let mut text = || Some(String::from_utf8_lossy(values.bulk()?).into_owned());
                let (host, port) = (text(), text().and_then(|port| port.parse().ok()));
                match (host, port) {
                    (Some(host), Some(port)) => Ok(Place::at(Endpoint { host, port }, self.is_tls)),
                    _ => Err(misfit("SENTINEL")),
                }
            }
            Some(Value::Nil) => unfit(&format!(
                "knows no service {:?}: correct the url",
                self.name
            )),
            Some(Value::Error(line)) => match ErrorReply::of(line) {
                error if matches!(error.code, "NOAUTH" | "NOPERM") => {
                    let remedy = "correct sentinel_user and sentinel_password in the url";
                    let message =
                        format!("{sentinel} refuses to answer: {remedy} ({})", error.code);
                    Err(NodeError::new(NodeErrorKind::Denied, message))
                }
                error => match error.explain_unquoted() {
                    Some(error) if error.kind().is_transient() => Err(error),
                    _ => unfit("is not a sentinel: name sentinels, or write redis://"),
                },
            },
            _ => Err(misfit("SENTINEL")),
        }
    }

    /// The error when no sentinel names the primary. It is permanent only if
    /// all `problems` are; otherwise it is an outage.
    fn unknown(&self, problems: &[NodeError]) -> NodeError {
        let may_pass = |problem: &NodeError| {
            !matches!(
                problem.kind(),
                NodeErrorKind::Unsuitable | NodeErrorKind::Denied
            )
        };
        let kind = match problems {
            [first, ..] if !problems.iter().any(may_pass) => first.kind(),
            _ => NodeErrorKind::Unreachable,
        };
        let reported: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let (name, reported) = (&self.name, reported.join("; "));
        NodeError::new(
            kind,
            format!("no sentinel names the primary of {name}: {reported}"),
        )
    }
}

fn late(sentinel: &Address) -> NodeError {
    let message = format!("{sentinel} did not answer in time");
    NodeError::new(NodeErrorKind::Timeout, message)
}
