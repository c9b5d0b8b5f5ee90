//! `ringlock release`: takes a lock from its holder.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use ringlock::node::redis::inspect::Entry;
use ringlock::proto::node::message::Reply;
use ringlock::{Config, Key, NodeError};
use serde::Serialize;

use super::locks::{self, Lock};
use crate::cluster::{Cluster, ClusterSnapshot};
use crate::locks_view::{LockView, Skipped};
use crate::output::{Exit, Failure, Output, or_dash, printable, table};

/// Takes a lock from its holder.
///
/// The holder relies on its lease until it next tries to extend it: within a
/// third of its ttl if it is kept alive, otherwise at most until the ttl ends.
/// Until then only resources that check its fence are safe from it. It then
/// learns that its entry is gone and cannot recreate it: a lease that is taken
/// by force stays lost. A lease that was granted after this command inspected
/// the nodes is left alone.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The lock key.
    key: OsString,

    /// Take the lock. Without this flag a held key is an error.
    #[arg(long)]
    force: bool,
}

/// How often the key is inspected again. Each time but the last, a holder must
/// have extended its lease between the requests to two nodes.
const MOST_LOOKS: u32 = 5;

#[derive(Serialize)]
struct Released {
    key: String,
    /// The locks that were held.
    held: Vec<Lock>,
    nodes: Vec<Node>,
    /// Whether the lock is gone from enough nodes to free the key.
    is_released: bool,
}

#[derive(Serialize)]
struct Node {
    node: String,
    outcome: Outcome,
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// Deleted.
    Released,
    /// It had no entry.
    Free,
    /// Its entry expired or was released in between.
    Gone,
    /// Another client acquired the key in between and still holds it.
    Newer,
    /// It holds something that is no lock, which is left alone.
    #[serde(rename = "no lock")]
    NoLock,
    /// It could not be asked, or it refused.
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Free => "free",
            Self::Gone => "gone",
            Self::Newer => "newer",
            Self::NoLock => "no lock",
            Self::Failed => "failed",
        }
    }
}

pub(crate) async fn run(
    options: &Options,
    config: &Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let key = Key::new(options.key.as_bytes()).map_err(ringlock::Error::from)?;
    let cluster = Cluster::new(config)?;
    let mut snapshot = cluster.snapshot().await?;
    snapshot.check_any()?;
    snapshot.leave_retired();
    let found = snapshot.find(std::slice::from_ref(&key)).await;
    let entries = entries(&snapshot, &found.all);
    let held = locks::describe(&mut snapshot, &found).await;
    if !options.force && !held.is_empty() {
        return Err(refusal(&key, &held));
    }
    let mut nodes = take(&mut snapshot, &key, &entries, &found.skipped).await;
    for &(_, index) in &found.no_locks {
        nodes[index].outcome = Outcome::NoLock;
        nodes[index].reason = Some(locks::NO_LOCK.into());
    }
    let is_held_again = take_again(&mut snapshot, &key, &found.all).await;
    let is_done = |index: usize| {
        let is_in_the_way = matches!(nodes[index].outcome, Outcome::Failed | Outcome::NoLock);
        !is_in_the_way && !is_held_again.contains(&index)
    };
    let is_released = match snapshot.place(&key) {
        Some(place) => place.placement.has_quorum(place.voters(is_done)),
        None => (0..nodes.len()).all(is_done),
    };
    let released = Released {
        key: printable(key.as_bytes()),
        held,
        nodes,
        is_released,
    };
    output.report(&released, human)?;
    if is_released {
        return Ok(ExitCode::SUCCESS);
    }
    if !is_held_again.is_empty() {
        let message = format!("{}: its holder recreates it each time", released.key);
        return Err(Failure::new(Exit::Failed, message).next("try again, or stop the holder"));
    }
    if !found.no_locks.is_empty() {
        let message = format!(
            "{} holds something other than a lock on so many nodes that it cannot be locked",
            released.key
        );
        return Err(Failure::new(Exit::Failed, message).next(locks::NO_LOCK));
    }
    let message = format!("{}: too few of its nodes could be asked", released.key);
    Err(Failure::new(Exit::Failed, message)
        .next("try again once they answer; the entries there expire with their ttl"))
}

/// Inspects the key again and takes the entries of the same leases, until there
/// are none; at most [`MOST_LOOKS`] times. Returns the sightings that still
/// have an entry.
///
/// The nodes are reached one after the other. A holder that extends its lease
/// during this finds its entry on a majority, and recreates it on the node that
/// was reached first.
async fn take_again(
    snapshot: &mut ClusterSnapshot<'_>,
    key: &Key,
    taken: &[LockView],
) -> Vec<usize> {
    let is_taken = |holding: &LockView| {
        let mut taken = taken.iter();
        taken.any(|known| known.entry.is_of_lease(&holding.entry))
    };
    for look in 1.. {
        let mut again = snapshot.find(std::slice::from_ref(key)).await.all;
        again.retain(is_taken);
        if again.is_empty() || look > MOST_LOOKS {
            return again.into_iter().flat_map(|holding| holding.on).collect();
        }
        let entries = entries(snapshot, &again);
        let _ = take(snapshot, key, &entries, &[]).await;
    }
    Vec::new()
}

/// The entry to take, for each server report.
fn entries(snapshot: &ClusterSnapshot<'_>, held: &[LockView]) -> Vec<Option<Entry>> {
    let of = |index: usize| {
        let holding = held.iter().find(|holding| holding.on.contains(&index))?;
        Some(holding.entry.clone())
    };
    (0..snapshot.server_reports.len()).map(of).collect()
}

async fn take(
    snapshot: &mut ClusterSnapshot<'_>,
    key: &Key,
    entries: &[Option<Entry>],
    skipped: &[Skipped],
) -> Vec<Node> {
    let names: Vec<String> = snapshot
        .server_reports
        .iter()
        .map(|server_report| server_report.node.name.clone())
        .collect();
    let answers = snapshot.ask_all(async |server_report| {
        let index = names
            .iter()
            .position(|name| *name == server_report.node.name)?;
        let seen = server_report.seen.as_mut().ok()?;
        Some(match &entries[index] {
            Some(entry) => seen.look.release(key, entry).await.map(Some),
            None => Ok(None),
        })
    });
    let answers = answers.await.into_iter();
    let nodes = names.iter().zip(answers).map(|(name, answer)| {
        let (outcome, reason) = outcome(answer);
        let known = skipped.iter().find(|skipped| skipped.node == *name);
        Node {
            node: name.clone(),
            outcome,
            reason: reason.or(known.map(|skipped| skipped.reason.clone())),
        }
    });
    nodes.collect()
}

fn outcome(answer: Option<Result<Option<Reply>, NodeError>>) -> (Outcome, Option<String>) {
    match answer {
        Some(Ok(Some(Reply::Released))) => (Outcome::Released, None),
        Some(Ok(Some(Reply::Foreign))) => {
            let reason = "another client acquired it in the meantime; its lease is left alone";
            (Outcome::Newer, Some(reason.into()))
        }
        Some(Ok(Some(_))) => (Outcome::Gone, None),
        Some(Ok(None)) => (Outcome::Free, None),
        Some(Err(error)) => (Outcome::Failed, Some(error.to_string())),
        None => (Outcome::Failed, None),
    }
}

fn refusal(key: &Key, held: &[Lock]) -> Failure {
    let holders = held.iter().map(|lock| {
        let (who, on) = (lock.who(), lock.on.join(", "));
        format!("by {who} on {on} for up to {}", lock.how_long())
    });
    let fence = held.iter().find_map(|lock| lock.fence_at_most);
    let fence = fence.map_or_else(String::new, |fence| format!(" (at most {fence})"));
    let message = format!(
        "{} is held {}. The holder keeps relying on its lease, and its writes are refused \
         only by resources that check its fence{fence}",
        printable(key.as_bytes()),
        holders.collect::<Vec<_>>().join(", and ")
    );
    Failure::new(Exit::Usage, message)
        .next("stop the holder, or take the lock from it with --force")
}

fn human(released: &Released) -> String {
    let mut rows = table(["node", "outcome", "reason"]);
    for Node {
        node,
        outcome,
        reason,
    } in &released.nodes
    {
        rows.add_row([node, outcome.word(), &or_dash(reason.as_ref())]);
    }
    match released.held.is_empty() {
        true => format!("{} was not held\n{rows}", released.key),
        false => format!("{}\n{rows}", locks::rows(&released.held)),
    }
}
