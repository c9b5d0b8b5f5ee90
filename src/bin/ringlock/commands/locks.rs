//! `ringlock locks`: which keys are locked, by which holder, and for how long.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use ringlock::{Config, Key};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterSnapshot};
use crate::locks_view::{EntryCount, LockView, LocksView, Skipped};
use crate::output::{Exit, Failure, Output, or_dash, printable, span, table};

/// Lists which keys are locked, by which holder, and for how long at most.
///
/// Without --key every node is scanned, in a bounded number of steps. A list
/// that may be incomplete is marked as such.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only this key.
    #[arg(long, conflicts_with_all = ["prefix", "limit"])]
    key: Option<OsString>,

    /// Only keys that begin with this.
    #[arg(long)]
    prefix: Option<OsString>,

    /// At most this many keys.
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Serialize)]
struct Locks {
    locks: Vec<Lock>,
    /// Keys that were asked for and hold something that is no lock.
    no_locks: Vec<NoLock>,
    /// Some nodes have, or may have, more keys than are listed.
    is_cut_short: bool,
    #[serde(rename = "unasked")]
    skipped: Vec<Skipped>,
    view: Option<String>,
}

/// An entry in the place of a lock: no acquire of the key succeeds.
#[derive(Serialize)]
struct NoLock {
    key: String,
    on: String,
}

/// One lease of one key.
#[derive(Serialize)]
pub(crate) struct Lock {
    pub(crate) key: String,
    /// The holder's label, if it has one.
    pub(crate) holder: Option<String>,
    /// Whether another program holds the lock.
    pub(crate) is_foreign: bool,
    /// `null` if it never expires by itself.
    pub(crate) remaining_ms: Option<u64>,
    /// The nodes that have it.
    pub(crate) on: Vec<String>,
    /// The nodes that should have it, according to the view.
    pub(crate) replicas: Option<Vec<String>>,
    /// How many of these nodes have it.
    pub(crate) on_replicas: Option<usize>,
    /// The same by groups: one or, while a change is under way, two, each of
    /// which must have a quorum.
    pub(crate) votes: Option<Vec<EntryCount>>,
    /// Whether that is enough for a lease.
    pub(crate) is_quorum: Option<bool>,
    /// No fence above this one was granted for the key so far.
    pub(crate) fence_at_most: Option<u64>,
}

pub(crate) async fn run(
    options: &Options,
    config: &Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let cluster = Cluster::new(config)?;
    let mut snapshot = cluster.snapshot().await?;
    snapshot.check_any()?;
    snapshot.leave_retired();
    let (keys, is_cut_short, mut skipped) = match &options.key {
        Some(key) => {
            let key = Key::new(key.as_bytes()).map_err(ringlock::Error::from)?;
            (vec![key], false, Vec::new())
        }
        None => scan(&mut snapshot, options).await,
    };
    let found = snapshot.find(&keys).await;
    let locks = describe(&mut snapshot, &found).await;
    for missing in found.skipped {
        if !skipped.iter().any(|known| known.node == missing.node) {
            skipped.push(missing);
        }
    }
    let no_locks = found.no_locks.iter().map(|(key, index)| NoLock {
        key: printable(key.as_bytes()),
        on: snapshot.server_reports[*index].node.name.clone(),
    });
    let locks = Locks {
        locks,
        no_locks: no_locks.collect(),
        is_cut_short,
        skipped,
        view: snapshot.view.as_ref().map(|view| view.id().to_string()),
    };
    output.report(&locks, human)?;
    Ok(match locks.skipped.is_empty() {
        true => ExitCode::SUCCESS,
        false => Exit::Degraded.into(),
    })
}

/// What to do about an entry in the place of a lock.
pub(crate) const NO_LOCK: &str =
    "another program's data; delete it by hand, with DEL, or use another key_prefix";

/// The keys to list, whether there may be more, and the nodes that were not
/// asked.
async fn scan(
    snapshot: &mut ClusterSnapshot<'_>,
    options: &Options,
) -> (Vec<Key>, bool, Vec<Skipped>) {
    let mut skipped = snapshot.leave_unfit();
    let prefix = options
        .prefix
        .as_deref()
        .map_or(&[][..], OsStrExt::as_bytes);
    let limit = options.limit as usize;
    let scans = snapshot.ask_all(async |server_report| {
        let seen = server_report.seen.as_mut().ok()?;
        Some(seen.look.scan(prefix, limit).await)
    });
    let scans = scans.await;
    let mut keys = BTreeSet::new();
    let mut is_cut = false;
    for (index, scan) in scans.into_iter().enumerate() {
        match scan {
            Some(Ok(scan)) => {
                keys.extend(scan.keys);
                is_cut |= scan.is_cut;
            }
            Some(Err(error)) => skipped.push(snapshot.drop_out(index, error)),
            None => {}
        }
    }
    is_cut |= keys.len() > limit;
    (keys.into_iter().take(limit).collect(), is_cut, skipped)
}

/// The locks that were found, as they are reported.
pub(crate) async fn describe(snapshot: &mut ClusterSnapshot<'_>, found: &LocksView) -> Vec<Lock> {
    let held: Vec<Key> = found.all.iter().map(|h| h.key.clone()).collect();
    let fences = snapshot.fences_at_most(&held).await;
    let locks = found.all.iter().zip(fences);
    let locks = locks.map(|(holding, fence)| lock(snapshot, holding, fence));
    locks.collect()
}

fn lock(snapshot: &ClusterSnapshot<'_>, holding: &LockView, fence: Option<u64>) -> Lock {
    let holder = holding.entry.holder();
    let place = snapshot.place(&holding.key);
    let voters = place
        .as_ref()
        .map(|place| place.voters(|index| holding.on.contains(&index)));
    let remaining = holding.entry.remaining();
    Lock {
        key: printable(holding.key.as_bytes()),
        holder: holder.label().map(Into::into),
        is_foreign: holder.is_foreign(),
        remaining_ms: remaining.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        on: holding
            .on
            .iter()
            .map(|&index| snapshot.server_reports[index].node.name.clone())
            .collect(),
        replicas: place.as_ref().map(|place| place.names()),
        on_replicas: voters.map(|voters| voters.len()),
        votes: voters
            .zip(place.as_ref())
            .map(|(voters, place)| place.votes(voters)),
        is_quorum: voters
            .zip(place.as_ref())
            .map(|(voters, place)| place.placement.has_quorum(voters)),
        // Other programs count no fences.
        fence_at_most: fence.filter(|_| !holder.is_foreign()),
    }
}

impl Lock {
    /// The holder, in words.
    pub(crate) fn who(&self) -> String {
        match (&self.holder, self.is_foreign) {
            (Some(label), _) => printable(label.as_bytes()),
            (None, true) => "(another program)".into(),
            (None, false) => "(no label)".into(),
        }
    }

    /// How long it lasts, in words.
    pub(crate) fn how_long(&self) -> String {
        self.remaining_ms.map_or_else(
            || "forever (no expiry)".into(),
            |ms| span(std::time::Duration::from_millis(ms)),
        )
    }

    fn votes(&self) -> String {
        let one = |votes: &EntryCount| {
            let quorum = if votes.is_quorum {
                "quorum"
            } else {
                "NO quorum"
            };
            format!("{} of {}: {quorum}", votes.on, votes.of)
        };
        match self.votes.as_deref() {
            Some([votes]) => one(votes),
            Some([old, new]) => format!("old {}, new {}", one(old), one(new)),
            _ => "-".into(),
        }
    }
}

/// Leases as a table.
pub(crate) fn rows(locks: &[Lock]) -> String {
    let heads = [
        "key",
        "holder",
        "remaining",
        "on",
        "replicas",
        "fence at most",
    ];
    let mut table = table(heads);
    for lock in locks {
        table.add_row([
            lock.key.clone(),
            lock.who(),
            lock.how_long(),
            lock.on.join(", "),
            lock.votes(),
            or_dash(lock.fence_at_most),
        ]);
    }
    table.to_string()
}

fn human(locks: &Locks) -> String {
    let mut text = match locks.locks.is_empty() {
        true => "nothing is locked".into(),
        false => rows(&locks.locks),
    };
    if locks.locks.iter().any(|lock| lock.remaining_ms.is_none()) {
        text += "\na lock without expiry stays until its holder extends or releases it, or until it is \
                 deleted by hand: ringlock release KEY --force";
    }
    for NoLock { key, on } in &locks.no_locks {
        text += &format!("\n{key} on {on} is not a lock: {NO_LOCK}");
    }
    if locks.is_cut_short {
        text += "\ncut short: there may be more; name a --prefix, or raise --limit";
    }
    for Skipped { node, reason } in &locks.skipped {
        text += &format!("\nnode {node} is left out: {reason}");
    }
    text
}
