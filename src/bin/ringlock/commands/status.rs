//! `ringlock status`: what each node is and serves.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ringlock::Config;
use ringlock::proto::membership::topology::Topology;
use ringlock::proto::membership::view::View;
use serde::Serialize;

use crate::cluster::{Cluster, Seen, State, ViewState};
use crate::output::{Exit, Failure, Output, or_dash, table};

mod hot;

/// How long the search for hot keys and nodes may take.
const SHORTEST_LOOK: Duration = Duration::from_millis(200);
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Prints the state of each node and what it serves.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Observe the servers for a moment: which nodes do more than their share,
    /// and which keys are contended for. The keys are a sample; each server
    /// answers up to some thousand quick requests a second for it.
    #[arg(long)]
    hot: bool,

    /// How long to observe, from 200ms to 1m.
    #[arg(long = "for", requires = "hot", default_value = "3s", value_name = "DURATION", value_parser = time_to_look)]
    time: Duration,
}

fn time_to_look(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (SHORTEST_LOOK..=LONGEST_LOOK).contains(&time) {
        true => Ok(time),
        false => Err("look for 200ms to 1m".into()),
    }
}

#[derive(Serialize)]
struct Status {
    /// The newest view that is served; `null` if there is none.
    view: Option<String>,
    epoch: Option<u32>,
    /// What is known of that view.
    knowledge: ViewState,
    is_degraded: bool,
    nodes: Vec<Node>,
    /// Members of the view that the configuration does not name.
    unconfigured: Vec<String>,
    /// The change that is under way; `null` if the view is stable.
    joint: Option<Joint>,
    /// What `--hot` found.
    #[serde(skip_serializing_if = "Option::is_none")]
    hot: Option<hot::Hot>,
}

/// An unfinished change of membership.
#[derive(Serialize)]
struct Joint {
    /// The first epoch of the change.
    since: u32,
    joining: Vec<String>,
    leaving: Vec<String>,
    /// Everything that it changes, one sentence each.
    changes: Vec<String>,
}

impl Joint {
    fn of(view: &View) -> Option<Self> {
        let (from, to) = (view.topology(), view.next()?);
        let only_in = |one: &Topology, other: &Topology| {
            let has = |name: &str| other.nodes.iter().any(|node| node.name == name);
            let names = one.nodes.iter().map(|node| node.name.clone());
            names.filter(|name| !has(name)).collect()
        };
        Some(Self {
            since: view.since(),
            joining: only_in(to, from),
            leaving: only_in(from, to),
            changes: from.changes_to(to),
        })
    }
}

#[derive(Serialize)]
struct Node {
    node: String,
    address: String,
    state: State,
    reason: Option<String>,
    #[serde(flatten)]
    facts: Option<Facts>,
}

/// What a server that was reached reported.
#[derive(Serialize)]
struct Facts {
    serving: Option<String>,
    role: Option<String>,
    family: &'static str,
    version: String,
    maxmemory_policy: Option<String>,
    /// By how much its clock is ahead of this machine's, to within half of the
    /// round trip.
    clock_ahead_ms: f64,
    round_trip_ms: f64,
    dbsize: u64,
    used_memory_bytes: Option<u64>,
}

pub(crate) async fn run(
    options: &Options,
    config: &Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let cluster = Cluster::new(config)?;
    let mut snapshot = cluster.snapshot().await?;
    let server_reports = snapshot.server_reports.iter().zip(snapshot.states());
    let nodes = server_reports.map(|(server_report, (state, reason))| Node {
        node: server_report.node.name.clone(),
        address: server_report.node.server.address(),
        state,
        reason,
        facts: server_report.seen.as_ref().ok().map(facts),
    });
    let nodes: Vec<Node> = nodes.collect();
    let unconfigured = snapshot.unconfigured();
    let joint = snapshot.view.as_ref().and_then(Joint::of);
    let view = snapshot.view.as_ref().map(|view| view.id());
    let hot = match options.hot {
        true => Some(hot::look(&mut snapshot, options.time).await),
        false => None,
    };
    let status = Status {
        view: view.map(|view| view.to_string()),
        epoch: view.map(|view| view.epoch),
        knowledge: snapshot.knowledge(),
        is_degraded: nodes.iter().any(|node| node.state != State::Serving)
            || !unconfigured.is_empty()
            || joint.is_some(),
        nodes,
        unconfigured,
        joint,
        hot,
    };
    output.report(&status, human)?;
    Ok(match status.is_degraded {
        true => Exit::Degraded.into(),
        false => ExitCode::SUCCESS,
    })
}

fn facts(seen: &Seen<'_>) -> Facts {
    let facts = &seen.facts;
    Facts {
        serving: seen.serving().map(|view| view.to_string()),
        role: facts.info("role").map(Into::into),
        family: facts.family(),
        version: facts.version().into(),
        maxmemory_policy: facts.info("maxmemory_policy").map(Into::into),
        clock_ahead_ms: facts.clock_ahead_us() as f64 / 1e3,
        round_trip_ms: facts.round_trip().as_secs_f64() * 1e3,
        dbsize: facts.dbsize(),
        used_memory_bytes: facts.info("used_memory").and_then(|n| n.parse().ok()),
    }
}

fn human(status: &Status) -> String {
    let mut rows = table([
        "node",
        "state",
        "address",
        "role",
        "version",
        "maxmemory-policy",
        "clock ahead",
        "round trip",
        "dbsize",
        "memory",
    ]);
    for node in &status.nodes {
        let facts = node.facts.as_ref();
        rows.add_row([
            node.node.clone(),
            node.state.word().into(),
            node.address.clone(),
            or_dash(facts.and_then(|facts| facts.role.as_ref())),
            or_dash(facts.map(|facts| format!("{} {}", facts.family, facts.version))),
            or_dash(facts.and_then(|facts| facts.maxmemory_policy.as_ref())),
            or_dash(facts.map(|facts| format!("{:.1} ms", facts.clock_ahead_ms))),
            or_dash(facts.map(|facts| format!("{:.2} ms", facts.round_trip_ms))),
            or_dash(facts.map(|facts| facts.dbsize)),
            or_dash(
                facts
                    .and_then(|facts| facts.used_memory_bytes)
                    .map(mebibytes),
            ),
        ]);
    }
    let mut text = match &status.view {
        Some(view) => {
            let word = if status.joint.is_some() {
                "joint"
            } else {
                "stable"
            };
            format!("view {view}, {word}\n{rows}")
        }
        None => format!("{}\n{rows}", without_view(&status.knowledge)),
    };
    if let Some(joint) = &status.joint {
        text += &format!(
            "\na change is under way since epoch {}: {}\n`ringlock resume` finishes it, `ringlock abort` takes it back",
            joint.since,
            joint.changes.join("; ")
        );
    }
    for node in &status.nodes {
        if let Some(reason) = &node.reason {
            text += &format!("\nnode {} is {}: {reason}", node.node, node.state.word());
        }
    }
    for name in &status.unconfigured {
        text += &format!("\nnode {name} is in the view but not in the configuration: add it");
    }
    text + &status.hot.as_ref().map_or_else(String::new, hot::human)
}

/// Why no view is shown.
fn without_view(knowledge: &ViewState) -> String {
    match knowledge {
        ViewState::Unreadable { views } => format!(
            "view {} is served, but this program cannot read its form, or its servers must not hold locks: see `ringlock doctor`",
            views.join(", ")
        ),
        ViewState::Unknown { silent } => format!(
            "no view is known: {} could not be asked, and no other node serves one",
            silent.join(", ")
        ),
        ViewState::Served | ViewState::None => {
            "no view is served: `ringlock init` or the first router that connects puts one in force"
                .into()
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
