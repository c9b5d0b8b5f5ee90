//! A server's own statistics of its work: INFO before and after a turn.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Fault;

/// A connection to one node, for queries between the turns.
pub struct Probe {
    connection: Mutex<redis::Connection>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

/// The answer to INFO.
#[derive(Clone, Debug)]
pub struct Info {
    fields: BTreeMap<String, String>,
    len: usize,
}

impl Info {
    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Self {
            fields: pairs
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            len: text.len(),
        }
    }

    /// A field that is a number; 0 if there is none.
    pub fn number(&self, field: &str) -> f64 {
        let value = self.fields.get(field);
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// How often the server has executed this command, also within scripts.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.fields.get(&format!("cmdstat_{command}"));
        stats.map_or(0, |stats| calls(stats))
    }

    /// How often the server has executed each command, but for the probe's own.
    pub(crate) fn all_calls(&self) -> BTreeMap<String, u64> {
        let fields = self.fields.iter();
        let commands = fields.filter_map(|(name, stats)| {
            let name = name.strip_prefix("cmdstat_")?;
            (name != "info").then(|| (name.to_owned(), calls(stats)))
        });
        commands.collect()
    }

    /// Seconds of processor time.
    pub fn processor_time(&self) -> f64 {
        self.number("used_cpu_user") + self.number("used_cpu_sys")
    }
}

/// The count among the statistics of a command.
fn calls(stats: &str) -> u64 {
    let mut stats = stats.split(',');
    let calls = stats.find_map(|stat| stat.strip_prefix("calls="));
    calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

/// What a server has done since it was started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    pub(crate) cpu: Duration,
    /// Every command executed, including those within scripts.
    pub(crate) commands: u64,
    pub(crate) bytes: u64,
    /// What the probe's own query adds to the next answer.
    own_bytes: u64,
}

impl Probe {
    /// Connects to the node at `url`.
    pub fn connect(url: &str) -> Result<Self, Fault> {
        let connection = redis::Client::open(url)?.get_connection()?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// Sends one command and waits for its reply.
    pub fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Fault> {
        Ok(command.query(&mut *self.connection.lock())?)
    }

    /// All sections of INFO.
    pub fn info(&self) -> Result<Info, Fault> {
        let text: String = self.query(redis::cmd("INFO").arg("all"))?;
        Ok(Info::parse(&text))
    }

    pub(crate) fn work(&self) -> Result<Work, Fault> {
        let info = self.info()?;
        let bytes = info.number("total_net_input_bytes") + info.number("total_net_output_bytes");
        Ok(Work {
            cpu: Duration::from_secs_f64(info.processor_time()),
            commands: info.all_calls().values().sum(),
            bytes: bytes as u64,
            own_bytes: info.len as u64,
        })
    }

    /// Name and version of the server program.
    pub(crate) fn version(&self) -> Result<String, Fault> {
        let info = self.info()?;
        let of = |name: &str| info.fields.get(name).cloned();
        let name = of("server_name").unwrap_or_else(|| "redis".into());
        let version = of("valkey_version").or_else(|| of("redis_version"));
        Ok(format!("{name} {}", version.unwrap_or_default()))
    }
}

impl Work {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let bytes = self.bytes - before.bytes;
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            commands: self.commands - before.commands,
            bytes: bytes.saturating_sub(before.own_bytes),
            own_bytes: 0,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.commands += other.commands;
        self.bytes += other.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_info() {
        let info = Info::parse(
            "# CPU\r\nused_cpu_sys:0.25\r\nused_cpu_user:1.5\r\n\
             # Commandstats\r\ncmdstat_evalsha:calls=7,usec=19\r\n",
        );
        assert_eq!(info.processor_time(), 1.75);
        assert_eq!((info.calls("evalsha"), info.calls("get")), (7, 0));
        assert_eq!(
            info.all_calls(),
            BTreeMap::from([("evalsha".to_owned(), 7)])
        );
        assert_eq!(info.number("uptime_in_seconds"), 0.0);
    }
}
