//! What a server reports about itself by INFO, and whether it may hold locks.

use std::collections::BTreeMap;

use crate::node::redis::connection::exchange::Exchange;
use crate::node::redis::resp::encoder::command;
use crate::node::redis::resp::error_reply::{misfit, unexpected};
use crate::node::redis::resp::parser::{Replies, Value, reply_len};
use crate::proto::escape::shown;
use crate::proto::node::message::{NodeError, NodeErrorKind};

/// The oldest server version whose commands suffice.
const OLDEST: (u32, u32) = (6, 2);

/// The oldest server version with `SET … NX GET`.
const OLDEST_WITH_SET_NX_GET: (u32, u32) = (7, 0);

/// The most facts of one section of INFO, about ten times the real number; and
/// the most bytes of each.
const MAX_FACTS: usize = 500;
const MAX_FACT: usize = 256;

/// Facts that may change while a server runs, and that decide whether it is
/// still fit.
const CHANGING: [&[u8]; 4] = [
    b"role",
    b"master_replid",
    b"evicted_keys",
    b"maxmemory_policy",
];

/// Commands that have a server push what happens to its data.
const REPORT: [&[&[u8]]; 2] = [
    &[b"HELLO", b"3"],
    &[b"CLIENT", b"TRACKING", b"ON", b"OPTIN"],
];

/// The facts that INFO returns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity(BTreeMap<String, String>);

impl Identity {
    /// Adds the facts of one section.
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

    pub(crate) fn has_set_nx_get(&self) -> bool {
        self.version() >= Some(OLDEST_WITH_SET_NX_GET)
    }

    /// Another run or another replication history may have lost entries, and so
    /// may a server that has evicted keys since.
    pub(crate) fn incarnation(&self) -> Result<String, NodeError> {
        match (self.fact("run_id"), self.history()) {
            (Some(run), Some(history)) => Ok(format!("{run}/{history}")),
            _ => Err(misfit("INFO")),
        }
    }

    /// Whether the operator's assurance of durability can be true: only a
    /// restart keeps every write, and only with an append-only file.
    ///
    /// A replica that is promoted lacks the last writes. Once it has restarted, it no
    /// longer reports that it was one; so a server that has replicas is refused too.
    pub(crate) fn check_durable(&self) -> Result<(), &'static str> {
        let earlier_history = self.fact("master_replid2").unwrap_or_default();
        let replicas = self.fact("connected_slaves").unwrap_or("0");
        if self.fact("aof_enabled") != Some("1") {
            Err("it keeps no append-only file")
        } else if self.fact("evicted_keys").is_some_and(|keys| keys != "0") {
            Err("it has evicted keys")
        } else if earlier_history.bytes().any(|digit| digit != b'0') {
            Err("it was a replica")
        } else if replicas != "0" {
            Err("it has replicas, and a promoted one would lack the last writes")
        } else {
            Ok(())
        }
    }

    /// While a server loads its data, INFO does not show whether it is durable:
    /// it seems to keep no append-only file.
    pub(crate) fn check_loaded(&self) -> Result<(), NodeError> {
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
        // Redis's name of the field, and Valkey's.
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

impl Identity {
    /// Adds the facts that may change while the server runs.
    pub(crate) fn take_in_changing(&mut self, section: &[u8]) {
        let is_wanted = |line: &&[u8]| {
            let mut names = CHANGING.iter();
            names.any(|name| {
                line.strip_prefix(*name)
                    .is_some_and(|rest| rest.starts_with(b":"))
            })
        };
        let lines = section.split(|&byte| byte == b'\n').filter(is_wanted);
        lines.for_each(|line| self.take_in(line));
    }

    /// The part of the incarnation that can change while the server runs. A
    /// server that reports no evictions has had none.
    pub(crate) fn history(&self) -> Option<String> {
        let history = self.fact("master_replid")?;
        Some(match self.fact("evicted_keys") {
            None | Some("0") => history.to_owned(),
            Some(evicted) => format!("{history}/{evicted}"),
        })
    }

    /// Whether it is still the same incarnation.
    pub(crate) fn check_same(&self, incarnation: &[u8]) -> Result<(), NodeError> {
        let now = self.history().ok_or_else(|| misfit("INFO"))?;
        let before = incarnation.iter().position(|&byte| byte == b'/');
        let before = before.map_or(incarnation, |slash| &incarnation[slash + 1..]);
        if before == now.as_bytes() {
            return Ok(());
        }
        let replid = |history: &[u8]| history.split(|&byte| byte == b'/').next().map(Vec::from);
        Err(if replid(before) == replid(now.as_bytes()) {
            lost_data(
                "the server has evicted keys, possibly locks: keep maxmemory-policy at noeviction",
            )
        } else {
            lost_data("the server was a replica in the meantime, or got its first replica")
        })
    }
}

impl Exchange<'_> {
    /// Asks for the server's identity.
    pub(crate) async fn introduce(&mut self) -> Result<Identity, NodeError> {
        let (_, identity) = self.ask_identity(&[]).await?;
        Ok(identity)
    }

    /// Has the server push on this connection when its data is flushed or
    /// replaced, and asks for its identity. The order ensures that later
    /// changes are pushed. False where the server does not push, or not for
    /// this user. No key is tracked for that, so tracking costs the server
    /// nothing.
    pub(crate) async fn introduce_and_read_reply(&mut self) -> Result<(bool, Identity), NodeError> {
        let (reported, identity) = self.ask_identity(&REPORT).await?;
        let rest = reply_len(&reported)
            .ok()
            .flatten()
            .map(|len| &reported[len..]);
        let second = rest.and_then(|rest| Replies::of(rest).next());
        let is_reported = matches!(
            (Replies::of(&reported).next(), second),
            (Some(Value::List(_)), Some(Value::Status(_)))
        );
        Ok((is_reported, identity))
    }

    /// Sends `ahead` and then asks for the server's identity; returns the
    /// replies to `ahead` as well.
    async fn ask_identity(&mut self, ahead: &[&[&[u8]]]) -> Result<(Vec<u8>, Identity), NodeError> {
        const SECTIONS: [&[u8]; 5] = [
            b"server",
            b"replication",
            b"stats",
            b"memory",
            b"persistence",
        ];
        let write = |out: &mut Vec<u8>| {
            ahead.iter().for_each(|parts| command(out, parts));
            SECTIONS
                .iter()
                .for_each(|section| command(out, &[b"INFO", section]));
        };
        let mut answers = self.ask(write, ahead.len() + SECTIONS.len()).await?;
        let mut len = 0;
        for _ in ahead {
            let next = reply_len(&answers[len..]);
            len += next.ok().flatten().ok_or_else(|| misfit("HELLO"))?;
        }
        let mut identity = Identity::default();
        let mut values = Replies::of(&answers[len..]);
        for _ in SECTIONS {
            match values.next() {
                Some(Value::Bulk(text)) => identity.take_in(text),
                other => return Err(unexpected(other, "INFO")),
            }
        }
        answers.truncate(len);
        Ok((answers, identity))
    }
}

fn unsuitable(advice: String) -> Result<(), NodeError> {
    Err(NodeError::new(NodeErrorKind::Unsuitable, advice))
}

/// The error of a server whose data was replaced, or may have been.
pub(crate) fn lost_data(what_happened: &str) -> NodeError {
    NodeError::new(
        NodeErrorKind::LostData,
        format!("{what_happened}: it grants nothing until it is readmitted, after max_ttl"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_server_with_an_append_only_file_is_durable() {
        const NONE: &str = "0000000000000000000000000000000000000000";
        let sound = [
            ("aof_enabled", "1"),
            ("evicted_keys", "0"),
            ("master_replid2", NONE),
            ("connected_slaves", "0"),
        ];
        let with = |name: &str, value: &str| {
            let mut identity = Identity::default();
            for (fact, sound) in sound {
                let value = if fact == name { value } else { sound };
                identity.take_in(format!("{fact}:{value}\r\n").as_bytes());
            }
            identity.check_durable()
        };
        assert_eq!(with("", ""), Ok(()));
        let was_replica = NONE.replacen('0', "a", 1);
        for (fact, value, reason) in [
            ("aof_enabled", "0", "append-only"),
            ("evicted_keys", "3", "evicted"),
            ("master_replid2", &was_replica, "was a replica"),
            ("connected_slaves", "1", "has replicas"),
        ] {
            let refused = with(fact, value).unwrap_err();
            assert!(refused.contains(reason), "{fact}: {refused}");
        }
    }
}
