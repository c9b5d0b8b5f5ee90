//! A crowd in a separate process, which runs the same program.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checker::Tenure;
use super::contenders::routed::Routed;
use super::contenders::signal::SignalList;
use super::crowd::{Crowd, gather};
use super::keys::KeySpace;
use super::load::Locker;
use super::process::Process;
use crate::Fault;

/// The argument that makes a program a worker. Its task and its orders arrive
/// on the standard input, because everybody can read a command line.
pub(crate) const ARGUMENT: &str = "bench-worker";

/// The task of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) protocol: Protocol,
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) first: usize,
    pub(crate) waiters: usize,
    pub(crate) hold_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    Ringlock,
    SignalList,
}

/// One turn, by the clock that all processes share.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Order {
    begin: u64,
    end: u64,
}

/// Reads the task, then carries it out once per order, until the orders end.
pub(crate) fn run() -> Result<(), Fault> {
    let mut task = String::new();
    std::io::stdin().read_line(&mut task)?;
    let task: Task = serde_json::from_str(&task)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match task.protocol {
            Protocol::Ringlock => {
                let keys = Arc::new(KeySpace::new("hot:", 1, 0.0));
                let urls = std::slice::from_ref(&task.url);
                let routed = Routed::connect(urls, 1, &task.namespace, &keys).await?;
                serve(&routed, &task).await
            }
            Protocol::SignalList => {
                let list = SignalList::connect(&task.url, &task.namespace, task.waiters).await?;
                serve(&list, &task).await
            }
        }
    })
}

async fn serve<L: Locker>(locker: &L, task: &Task) -> Result<(), Fault> {
    let mut out = std::io::stdout();
    writeln!(out, "\"ready\"")?;
    // Between the turns there is nothing else to do: reading may block.
    for order in std::io::stdin().lock().lines() {
        let Order { begin, end } = serde_json::from_str(&order?)?;
        let crowd = Crowd {
            first: task.first,
            waiters: task.waiters,
            hold: Duration::from_micros(task.hold_us),
            begin,
            end,
        };
        let history = gather(locker, crowd).await?;
        writeln!(out, "{}", serde_json::to_string(&history)?)?;
    }
    Ok(())
}

/// A worker, as the parent sees it.
#[derive(Debug)]
pub(crate) struct Worker(Process);

impl Worker {
    pub(crate) fn start(task: &Task) -> Result<Self, Fault> {
        let mut process = Process::start(|command| {
            command.arg(ARGUMENT);
        })?;
        process.order(&serde_json::to_string(task)?)?;
        Ok(Self(process))
    }

    /// Waits until it is connected.
    pub(crate) fn ready(&mut self) -> Result<(), Fault> {
        let _: String = self.result()?;
        Ok(())
    }

    pub(crate) fn order(&mut self, begin: u64, end: u64) -> Result<(), Fault> {
        self.0.order(&serde_json::to_string(&Order { begin, end })?)
    }

    /// The leases of the turn; blocks until it is over.
    pub(crate) fn history(&mut self) -> Result<Vec<Tenure>, Fault> {
        self.result()
    }

    fn result<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Fault> {
        Ok(serde_json::from_str(&self.0.line()?)?)
    }
}
