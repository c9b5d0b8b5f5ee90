//! A server's own statistics of its work: INFO before and after a turn.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Fault;

/// A connection to one node, for queries between the turns.
pub(crate) struct Probe {
    connection: Mutex<redis::Connection>,
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
    pub(crate) fn connect(url: &str) -> Result<Self, Fault> {
        let connection = redis::Client::open(url)?.get_connection()?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    pub(crate) fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Fault> {
        Ok(command.query(&mut *self.connection.lock())?)
    }

    pub(crate) fn info(&self) -> Result<BTreeMap<String, String>, Fault> {
        let text: String = self.query(redis::cmd("INFO").arg("all"))?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .chain([("own bytes".to_owned(), text.len().to_string())])
            .collect())
    }

    pub(crate) fn work(&self) -> Result<Work, Fault> {
        let info = self.info()?;
        let number = |name: &str| -> f64 {
            info.get(name)
                .and_then(|value| value.parse().ok())
                .unwrap_or_default()
        };
        let calls = |stats: &str| -> u64 {
            let calls = stats
                .split(',')
                .find_map(|stat| stat.strip_prefix("calls="));
            calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
        };
        let commands = info
            .iter()
            .filter(|(name, _)| name.starts_with("cmdstat_") && *name != "cmdstat_info");
        Ok(Work {
            cpu: Duration::from_secs_f64(number("used_cpu_user") + number("used_cpu_sys")),
            commands: commands.map(|(_, stats)| calls(stats)).sum(),
            bytes: (number("total_net_input_bytes") + number("total_net_output_bytes")) as u64,
            own_bytes: number("own bytes") as u64,
        })
    }

    /// Name and version of the server program.
    pub(crate) fn version(&self) -> Result<String, Fault> {
        let info = self.info()?;
        let of = |name: &str| info.get(name).cloned();
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
