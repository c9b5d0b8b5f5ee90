//! What a server has done so far, and a sample of what is locked on it. Callers
//! read both twice and compare.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Inspector, page, text, unexpected_of};
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::parser::{Replies, Value};
use crate::proto::lease::Key;
use crate::proto::node::message::{FenceCounterId, NodeError, ViewId};

/// Fence counters that are read at most: a megabyte. A view has a few thousand,
/// except while a change of membership is in progress.
const MOST_COUNTERS: i64 = 30_000;

/// Rounds of one sample, in which the server scans twenty thousand names.
const SAMPLE_ROUNDS: usize = 20;

/// A server's activity up to now.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Pulse {
    /// The fence counters under the requested view, which count every attempt
    /// at a key, granted or not; `None`: another view is served, or none, or
    /// there are too many counters.
    pub counters: Option<BTreeMap<FenceCounterId, u64>>,
    /// Commands that the server has carried out since it started.
    pub commands: Option<u64>,
    /// Seconds of processor time that it has used since then.
    pub cpu_seconds: Option<f64>,
}

/// Where the next sample continues.
#[derive(Clone, Debug)]
pub struct Cursor(Vec<u8>);

impl Default for Cursor {
    fn default() -> Self {
        Self(b"0".to_vec())
    }
}

impl Inspector<'_> {
    /// Reads the server's activity; the counters are those under `view`.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn pulse(&mut self, view: ViewId) -> Result<Pulse, NodeError> {
        let (id, counters) = (self.server.state("id"), self.server.state("c"));
        let answer = self
            .ask(|out| command(out, &[b"HLEN", &counters]), 1)
            .await?;
        let len = Replies::of(&answer).int();
        let are_few = len.ok_or_else(|| unexpected_of(&answer, "HLEN"))? <= MOST_COUNTERS;
        let write = |out: &mut Vec<u8>| {
            command(out, &[b"INFO", b"stats"]);
            command(out, &[b"INFO", b"cpu"]);
            if are_few {
                command(out, &[b"HGETALL", &counters]);
            }
            // As in `counters`, the served view is read after the counters.
            command(out, &[b"GET", &id]);
        };
        let answers = self.ask(write, 3 + usize::from(are_few)).await?;
        let read = || {
            let mut values = Replies::of(&answers);
            let (stats, cpu) = (text(&mut values)??, text(&mut values)??);
            let counters = match are_few {
                true => Some(counted(&mut values)?),
                false => None,
            };
            let is_served = text(&mut values)?.as_deref() == Some(&*view.to_string());
            let (user, system) = (fact(&cpu, "used_cpu_user"), fact(&cpu, "used_cpu_sys"));
            Some(Pulse {
                counters: counters.filter(|_| is_served),
                commands: fact(&stats, "total_commands_processed"),
                cpu_seconds: user
                    .zip(system)
                    .map(|(user, system): (f64, f64)| user + system),
            })
        };
        read().ok_or_else(|| unexpected_of(&answers, "INFO, HGETALL and GET"))
    }

    /// About `most` of the keys that are locked, from where the last sample
    /// ended. The server is asked in a few rounds.
    ///
    /// # Errors
    /// As [`facts`](Self::facts).
    ///
    /// # Cancel safety
    /// A dropped call changes nothing on the server.
    pub async fn sample(
        &mut self,
        from: Cursor,
        most: usize,
    ) -> Result<(Vec<Key>, Cursor), NodeError> {
        let pattern = self.pattern(b"");
        let (mut keys, mut cursor) = (Vec::new(), from.0);
        for _ in 0..SAMPLE_ROUNDS {
            let answer = self.page(&cursor, &pattern).await?;
            let (next, names) = page(&answer).ok_or_else(|| unexpected_of(&answer, "SCAN"))?;
            keys.extend(names.into_iter().filter_map(|name| self.server.key(name)));
            cursor = next.to_vec();
            if keys.len() >= most || cursor == b"0" {
                break;
            }
        }
        Ok((keys, Cursor(cursor)))
    }
}

/// The value of a field of INFO.
fn fact<T: FromStr>(info: &str, name: &str) -> Option<T> {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(known, _)| *known == name);
    values.next()?.1.trim().parse().ok()
}

/// The fields of the counters, and their values.
fn counted(values: &mut Replies<'_>) -> Option<BTreeMap<FenceCounterId, u64>> {
    let Value::List(len) = values.next()? else {
        return None;
    };
    let mut counters = BTreeMap::new();
    for _ in 0..len / 2 {
        let (slot, count) = (text(values)??, text(values)??);
        counters.insert(slot_of(&slot)?, count.parse().ok()?);
    }
    Some(counters)
}

fn slot_of(text: &str) -> Option<FenceCounterId> {
    let mut parts = text.split('/');
    let slot = FenceCounterId {
        replicas: parts.next()?.parse().ok()?,
        arc: parts.next()?.parse().ok()?,
        part: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_as_they_are_written() {
        let slot = FenceCounterId {
            replicas: 3,
            arc: 70_000,
            part: 4,
        };
        assert_eq!(slot_of(&slot.to_string()), Some(slot));
        for text in ["", "1/0", "1/0/0/0", "x/0/0", "300/0/0"] {
            assert_eq!(slot_of(text), None, "{text}");
        }
    }

    #[test]
    fn facts_are_found_by_their_whole_name() {
        let info = "# CPU\r\nused_cpu_user_children:9\r\nused_cpu_user:1.5\r\n";
        assert_eq!(fact(info, "used_cpu_user"), Some(1.5));
        assert_eq!(fact::<f64>(info, "used_cpu_sys"), None);
    }
}
