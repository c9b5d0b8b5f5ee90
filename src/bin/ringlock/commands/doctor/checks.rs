//! The checks, from those of the configuration to those of all servers
//! together.

use std::time::Duration;

use ringlock::node::redis::inspect::Server;
use ringlock::proto::membership::new_start::{VoteOutlook, vote_outlook};
use ringlock::{Config, Init, NodeErrorKind};

use crate::checklist::Report;
use crate::cluster::{ClusterSnapshot, Seen, ServerReport, State, ViewState};

/// How far a server's clock may be off. Leases need clocks that run at the same
/// rate, not clocks that agree. But a clock that is far off is likely to be
/// corrected in one step, and a step forward ends leases too early.
const CLOCK_LIMIT: Duration = Duration::from_millis(100);

/// The labels that keep replicas apart.
pub(super) fn labels(config: &Config, report: &mut Report) {
    let replicas = config.overrides.iter().map(|exception| exception.replicas);
    if replicas.chain([config.router.replicas]).all(|n| n <= 1) {
        return;
    }
    let with_zone = config.nodes.iter().filter(|node| node.zone.is_some());
    if !matches!(with_zone.count(), n if n == 0 || n == config.nodes.len()) {
        let detail = "some nodes have a zone and some have none";
        report.warn("zones", None, detail, "give every node a zone, or none");
    }
    let machines: Vec<Option<String>> = config.nodes.iter().map(|n| machine(config, n)).collect();
    for (index, node) in config.nodes.iter().enumerate() {
        let mut earlier = config.nodes[..index].iter().zip(&machines);
        let twin = earlier.find(|(other, machine)| {
            let is_apart = node.host.is_some() && node.host == other.host;
            machine.is_some() && **machine == machines[index] && !is_apart
        });
        if let Some((other, _)) = twin {
            let detail = format!("it is on one machine with node {}", other.name);
            let remedy = "move it, or give both the same host, so that no key has replicas on both";
            report.warn("hosts", Some(&node.name), detail, remedy);
        }
    }
}

/// What identifies the machine of a node.
fn machine(config: &Config, node: &ringlock::NodeConfig) -> Option<String> {
    let server = Server::from_config(config, node).ok()??;
    let address = server.address();
    let (scheme, place) = address.split_once("://")?;
    let place = place.split('/').next().unwrap_or_default();
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    Some(match scheme {
        "unix" => String::new(),
        _ => host.to_owned(),
    })
}

/// Checks every server by itself.
pub(crate) async fn servers(snapshot: &mut ClusterSnapshot<'_>, report: &mut Report) {
    for server_report in &mut snapshot.server_reports {
        if !is_reached(server_report, report) {
            continue;
        }
        let name = &*server_report.node.name;
        let Ok(seen) = &mut server_report.seen else {
            continue;
        };
        identity(name, seen, report);
        clock(name, seen, report);
        if server_report.node.durable {
            durable(name, seen, report).await;
        }
        match seen.look.load_scripts().await {
            Ok(()) => report.ok("scripts", Some(name), "they can be loaded"),
            Err(error) => {
                let remedy = "let the user run EVALSHA and SCRIPT LOAD";
                report.fail("scripts", Some(name), error.to_string(), remedy);
            }
        }
        match seen.look.try_writes().await {
            // The check of its role reports this.
            Err(error) if error.kind() == NodeErrorKind::Unsuitable => {}
            Ok(()) => report.ok("writes", Some(name), "the server takes ringlock's writes"),
            Err(error) => {
                let remedy = "let the server accept writes, and allow the user the commands that the guide lists under servers";
                report.fail("writes", Some(name), error.to_string(), remedy);
            }
        }
        match server_report.node.server.check_tracking().await {
            Ok(()) => report.ok(
                "tracking",
                Some(name),
                "the server reports when keys change",
            ),
            Err(error) => {
                let detail = format!("waiting callers poll: {error}");
                let remedy = "let the user run HELLO and CLIENT TRACKING";
                report.warn("tracking", Some(name), detail, remedy);
            }
        }
    }
}

fn is_reached(server_report: &ServerReport<'_>, report: &mut Report) -> bool {
    let name = Some(&*server_report.node.name);
    let address = server_report.node.server.address();
    let Err(error) = &server_report.seen else {
        report.ok("reachable", name, address);
        report.ok("credentials", name, "accepted");
        return true;
    };
    match error.kind() {
        NodeErrorKind::Denied => {
            report.ok("reachable", name, address);
            let remedy = "correct the node's user and password, or the ACL of the user";
            report.fail("credentials", name, error.to_string(), remedy);
        }
        NodeErrorKind::NotReady | NodeErrorKind::Overloaded => {
            let remedy = "do what the server's error asks for, or wait until the condition ends";
            report.fail("reachable", name, error.to_string(), remedy);
        }
        _ => {
            let remedy = "start the server, or correct the node's url";
            report.fail("reachable", name, error.to_string(), remedy);
        }
    }
    false
}

/// The rules for servers that may hold locks.
fn identity(name: &str, seen: &Seen<'_>, report: &mut Report) {
    let facts = &seen.facts;
    for (check, outcome) in facts.checks() {
        let found = match check {
            "version" => format!("{} {}", facts.family(), facts.version()),
            "mode" => "standalone".into(),
            "role" => "primary".into(),
            _ => "noeviction".into(),
        };
        let remedy = match check {
            "version" => "install a newer server",
            "mode" => "name a standalone server in the node's url",
            "role" => "name the primary in the node's url",
            _ => {
                "CONFIG SET maxmemory-policy noeviction, and the same in the server's configuration"
            }
        };
        match outcome {
            Ok(()) => report.ok(check, Some(name), found),
            Err(error) => report.fail(check, Some(name), error.to_string(), remedy),
        }
    }
}

fn clock(name: &str, seen: &Seen<'_>, report: &mut Report) {
    let ahead = seen.facts.clock_ahead_us();
    let margin = seen.facts.round_trip() / 2;
    let detail = format!("{:.1} ms ahead of this machine", ahead as f64 / 1e3);
    if Duration::from_micros(ahead.unsigned_abs()) > CLOCK_LIMIT + margin {
        let remedy = "keep the clocks of all machines with NTP, slewing instead of stepping";
        report.warn("clock", Some(name), detail, remedy);
    } else {
        report.ok("clock", Some(name), detail);
    }
}

/// Checks whether the operator's claim that it loses nothing can be true.
async fn durable(name: &str, seen: &mut Seen<'_>, report: &mut Report) {
    let remedy = "set appendonly yes and appendfsync always, or leave durable out";
    if let Err(reason) = seen.facts.check_durable() {
        report.fail("durable", Some(name), reason, remedy);
        return;
    }
    match seen.look.setting("appendfsync").await {
        Ok(Some(value)) if value == "always" => {
            report.ok("durable", Some(name), "appendfsync is always");
        }
        Ok(value) => {
            let value = value.unwrap_or_else(|| "unknown".into());
            let detail = format!("appendfsync is {value}: a crash loses writes");
            report.fail("durable", Some(name), detail, remedy);
        }
        Err(error) => {
            let detail = format!("appendfsync cannot be read: {error}");
            let remedy = "check on the server that appendfsync is always";
            report.warn("durable", Some(name), detail, remedy);
        }
    }
}

/// Checks what concerns all servers together.
pub(super) fn together(config: &Config, snapshot: &ClusterSnapshot<'_>, report: &mut Report) {
    let mut is_double = false;
    for (index, server_report) in snapshot.server_reports.iter().enumerate() {
        if let Some(twin) = snapshot.twin(index) {
            is_double = true;
            let detail = format!("it is the same server as node {}", twin.node.name);
            let remedy = "give each node its own server: one server would vote twice";
            report.fail("own server", Some(&server_report.node.name), detail, remedy);
        }
    }
    if !is_double {
        report.ok("own server", None, "no server has two names");
    }
    families(snapshot, report);
    views(config, snapshot, report);
    let Some(view) = &snapshot.view else { return };
    let topologies = [Some(view.topology()), view.next()];
    let differences = topologies.into_iter().flatten();
    let mut differences: Vec<_> = differences.map(|one| config.differences(one)).collect();
    differences.sort_by_key(Vec::len);
    let differences = &differences[0];
    for difference in differences {
        let remedy = "configure all routers alike, or change what is served with `ringlock plan`";
        report.fail("topology", None, difference, remedy);
    }
    if differences.is_empty() {
        report.ok("topology", None, "configured as served");
    }
}

/// The parts of the version that matter: the family and the major version.
pub(crate) fn family(seen: &Seen<'_>) -> String {
    let major = seen.facts.version().split('.').next().unwrap_or_default();
    format!("{} {major}", seen.facts.family())
}

fn families(snapshot: &ClusterSnapshot<'_>, report: &mut Report) {
    let seen = snapshot
        .server_reports
        .iter()
        .filter_map(|s| s.seen.as_ref().ok());
    let mut families: Vec<String> = seen.map(family).collect();
    families.sort_unstable();
    families.dedup();
    let detail = families.join(", ");
    match families.len() {
        0 => {}
        1 => report.ok("family", None, detail),
        _ => report.warn(
            "family",
            None,
            detail,
            "run the same version on all servers: the oldest one limits which features are used",
        ),
    }
}

/// Checks whether all servers serve one view.
fn views(config: &Config, snapshot: &ClusterSnapshot<'_>, report: &mut Report) {
    let Some(view) = &snapshot.view else {
        let is_any_reached = snapshot.server_reports.iter().any(|s| s.seen.is_ok());
        match snapshot.knowledge() {
            ViewState::Unreadable { views } => {
                let detail = format!("view {} is served, but cannot be used", views.join(", "));
                let remedy = "upgrade this program, or repair the servers that serve it";
                return report.fail("view", None, detail, remedy);
            }
            ViewState::Unknown { silent } if is_any_reached => {
                let detail = format!("none is known: {} could not be asked", silent.join(", "));
                return report.warn("view", None, detail, "make every node reachable");
            }
            _ => {}
        }
        match config.router.init {
            _ if !is_any_reached => {}
            Init::Never => report.fail(
                "view",
                None,
                "none is served, and init = \"never\"",
                "`ringlock init`, with --now if nothing was locked",
            ),
            Init::Wait | Init::Now => report.warn(
                "view",
                None,
                "none is served yet",
                "`ringlock init` or the first router that connects puts one in force",
            ),
        }
        return;
    };
    if view.next().is_some() {
        let detail = format!("a change is under way since epoch {}", view.since());
        let remedy = "finish it with `ringlock resume`, or take it back with `ringlock abort`";
        report.warn("view", None, detail, remedy);
    }
    let remedy = match vote_outlook(view, |name| snapshot.status(name)) {
        VoteOutlook::Votes => {
            "leave a router running, or run `ringlock readmit --wait`: either readmits it once most others serve"
        }
        VoteOutlook::StartsAnew => {
            "most nodes lost their data: leave a router with init = \"wait\" running: it starts the cluster again after max_ttl"
        }
        VoteOutlook::Awaits(_) => {
            "most nodes lost their data: bring the others back, and a running router starts the cluster again; if they never return, use `ringlock force`"
        }
        VoteOutlook::NeedsForce(_) => {
            "most nodes lost their data, and the cluster may still run elsewhere: if it does not, use `ringlock force`"
        }
    };
    for (server_report, (state, reason)) in snapshot.server_reports.iter().zip(snapshot.states()) {
        let (name, reason) = (Some(&*server_report.node.name), reason.unwrap_or_default());
        match state {
            State::Serving => report.ok("view", name, view.id().to_string()),
            State::Behind => report.warn("view", name, reason, "connect any router"),
            State::Quarantined | State::Absent => report.fail("view", name, reason, remedy),
            State::Retired => report.warn("view", name, reason, "remove it from the configuration"),
            // Another check has reported it.
            State::Unreachable | State::Denied | State::Unsuitable => {}
        }
    }
}
