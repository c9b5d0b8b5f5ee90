//! Counts what clients send to a server, by MONITOR: unlike the server's own
//! statistics, it distinguishes a client's command from one that a script
//! executes.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use crate::Fault;

/// Watches one server until it is stopped.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: TcpStream,
    counting: JoinHandle<Sent>,
}

/// What clients sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    commands: BTreeMap<String, u64>,
    /// A transaction counts as one, and so does ringlock's acquire of one key.
    pub(crate) requests: u64,
    /// Clients with an open transaction.
    open: HashSet<String>,
}

impl Monitor {
    /// Begins to watch the server at `address` (`host:port`).
    pub(crate) fn start(address: &str) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address)?;
        (&stream).write_all(b"MONITOR\r\n")?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut greeting = String::new();
        lines.read_line(&mut greeting)?;
        if !greeting.starts_with("+OK") {
            return Err(format!("{address} refuses MONITOR: {}", greeting.trim()).into());
        }
        let counting = std::thread::spawn(move || {
            let mut sent = Sent::default();
            for line in lines.lines().map_while(Result::ok) {
                sent.count(&line);
            }
            sent
        });
        Ok(Self { stream, counting })
    }

    pub(crate) fn stop(self) -> Result<Sent, Fault> {
        self.stream.shutdown(Shutdown::Both)?;
        let sent = self.counting.join();
        Ok(sent.map_err(|_| "the monitor's thread ended early")?)
    }
}

impl Sent {
    fn count(&mut self, line: &str) {
        let Some((client, command)) = client_and_command(line) else {
            return;
        };
        match command.as_str() {
            // The bench itself sends it.
            "INFO" => return,
            "MULTI" => {
                self.open.insert(client.to_owned());
            }
            "EXEC" => {
                self.open.remove(client);
                self.requests += 1;
            }
            "HINCRBY" | "GET" if is_part(line) => {}
            _ if !self.open.contains(client) => self.requests += 1,
            _ => {}
        }
        *self.commands.entry(command).or_default() += 1;
    }

    /// All commands that clients sent.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.values().sum()
    }

    /// The commands that try to take a lock.
    pub(crate) fn attempts(&self) -> u64 {
        // A waiter has nothing to release: what it sends is an attempt.
        let tries = ["SET", "EVALSHA", "EVAL"];
        let counts = tries.iter().filter_map(|name| self.commands.get(*name));
        counts.sum()
    }

    /// Each command's count, as a share of `by`.
    pub(crate) fn breakdown(&self, by: f64) -> String {
        let each = self.commands.iter().map(|(name, count)| {
            let share = *count as f64 / by.max(1.0);
            format!("{name} {share:.2}")
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

/// The client and the command of a line of MONITOR; none if a script executes
/// it.
fn client_and_command(line: &str) -> Option<(&str, String)> {
    // +1700000000.123456 [0 127.0.0.1:50000] "SET" "k" …
    let (client, rest) = line.split_once('[')?.1.split_once("] \"")?;
    let command = rest.split('"').next()?;
    (!client.ends_with("lua")).then(|| (client, command.to_uppercase()))
}

/// Whether the command's key is ringlock's counters or its view, which an acquire
/// counts in and reads after its SET.
fn is_part(line: &str) -> bool {
    let key = line.split('"').nth(3);
    key.is_some_and(|key| key.ends_with("!c") || key.ends_with("!id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(lines: &[&str]) -> Sent {
        let mut sent = Sent::default();
        lines.iter().for_each(|line| sent.count(line));
        sent
    }

    #[test]
    fn commands_of_scripts_are_not_counted() {
        let sent = sent(&[
            "+OK",
            "+1700000000.1 [0 127.0.0.1:50000] \"evalsha\" \"abc\"",
            "+1700000000.1 [0 lua] \"GET\" \"k]\"",
        ]);
        assert_eq!((sent.commands(), sent.requests, sent.attempts()), (1, 1, 1));
    }

    #[test]
    fn a_transaction_is_one_request() {
        let sent = sent(&[
            "+1.1 [0 127.0.0.1:5] \"MULTI\"",
            "+1.1 [0 127.0.0.1:5] \"SET\" \"k\" \"v\"",
            "+1.1 [0 127.0.0.1:6] \"GET\" \"k\"",
            "+1.1 [0 127.0.0.1:5] \"EXEC\"",
            "+1.1 [0 127.0.0.1:5] \"GET\" \"k\"",
        ]);
        assert_eq!((sent.commands(), sent.requests, sent.attempts()), (5, 3, 1));
    }

    #[test]
    fn an_acquire_by_commands_is_one_request() {
        let sent = sent(&[
            "+1.1 [0 127.0.0.1:5] \"SET\" \"k!c\" \"v\" \"NX\" \"GET\"",
            "+1.1 [0 127.0.0.1:5] \"HINCRBY\" \"ringlock!c\" \"1/0/0\" \"1\"",
            "+1.1 [0 127.0.0.1:5] \"GET\" \"ringlock!id\"",
            "+1.1 [0 127.0.0.1:5] \"GET\" \"k\"",
        ]);
        assert_eq!((sent.commands(), sent.requests, sent.attempts()), (4, 2, 1));
    }
}
