//! Whether a history satisfies every claim, and how much it tested.
//!
//! Pure: records in, a report out. The judgement of a claim tolerates a slow
//! machine, and any order in which two processes record simultaneous events;
//! each allowance is a constant with its reason.
//!
//! * `spans`, `entities`, `timeline`: the history by subject
//! * `exclusion`, `leases`, `quorums`, `waits`, `closing`: claims on the
//!   workers' records
//! * `observations`, `continuity`, `orphans`: claims on the observed state of servers
//! * `availability`: which requests are granted under which faults
//! * `resumption`: that grants resume after the last fault
//! * `verdicts`, `report`: the findings, and their output

mod availability;
mod closing;
mod continuity;
mod entities;
mod exclusion;
mod leases;
mod observations;
mod orphans;
mod quorums;
mod report;
mod resumption;
mod spans;
#[cfg(test)]
mod tests;
mod timeline;
mod verdicts;
mod waits;

use std::collections::HashMap;

pub(crate) use crate::checker::report::Report;
pub(crate) use crate::checker::resumption::bound as resumption_bound;
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::Verdicts;
pub(crate) use crate::checker::verdicts::{Claim, Violation};
use crate::history::{Action, Record, Time};

/// The most records of one call that are printed with a violation.
const MAX_RECORDS: usize = 40;

/// The settings of the run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// How many nodes hold a key.
    pub(crate) replicas: usize,
    pub(crate) max_ttl: Time,
    pub(crate) view_lease: Time,
    /// Those at the start.
    pub(crate) nodes: Vec<String>,
}

/// Judges a history. The records of one process must be in order; those of
/// several processes need not be.
pub(crate) fn checker(records: &[Record], rules: &Rules) -> Report {
    let timeline = Timeline::read(records, rules);
    let mut verdicts = Verdicts::default();
    let sights = observations::checker(&timeline, &mut verdicts);
    exclusion::checker(&timeline, &mut verdicts);
    let reported_late = leases::checker(&timeline, &mut verdicts);
    quorums::checker(&timeline, &sights, &mut verdicts);
    let availability = availability::checker(&timeline, &sights, &mut verdicts);
    let waits = waits::checker(&timeline, &mut verdicts);
    resumption::checker(&timeline, &mut verdicts);
    let counts = closing::checker(&timeline, &mut verdicts);
    let start = timeline.order.first().map_or(0, |record| record.at);
    Report {
        lasted: timeline.horizon - start,
        counts,
        availability,
        waits,
        reported_late,
        violations: violations(&timeline, &verdicts),
        claims: verdicts.tallies,
    }
}

/// The findings, each with the records of the calls that it is about and with
/// the faults of that time.
fn violations(timeline: &Timeline<'_>, verdicts: &Verdicts) -> Vec<Violation> {
    let reported = verdicts.findings.iter().flat_map(|finding| &finding.calls);
    let mut of_call: HashMap<usize, Vec<&Record>> = reported.map(|&it| (it, Vec::new())).collect();
    for &record in &timeline.order {
        let place = asked_by(&record.action).and_then(|ask| timeline.place(ask));
        if let Some(records) = place.and_then(|place| of_call.get_mut(&place)) {
            records.push(record);
        }
    }
    let write = |finding: &verdicts::Finding| {
        let mut lines = vec![finding.text.clone()];
        for call in &finding.calls {
            let records = of_call.get(call).into_iter().flatten().take(MAX_RECORDS);
            lines.extend(records.map(|record| format!("  {record:?}")));
        }
        let from = finding
            .calls
            .iter()
            .map(|&call| timeline.calls[call].asked)
            .min();
        let from = from.unwrap_or(finding.at);
        let is_of_then = |it: &&entities::Trouble<'_>| it.struck <= finding.at && from <= it.mended;
        let troubles = timeline.troubles.iter().filter(is_of_then);
        lines.extend(
            troubles.map(|it| format!("  {:?} from {} to {}", it.fault, it.struck, it.mended)),
        );
        Violation {
            claim: finding.claim,
            at: finding.at,
            detail: lines.join("\n"),
        }
    };
    let mut violations: Vec<Violation> = verdicts.findings.iter().map(write).collect();
    violations.sort_by_key(|violation| violation.at);
    violations
}

/// The call that a record is about.
fn asked_by(action: &Action) -> Option<crate::history::Ask> {
    match action {
        Action::Asked { ask, .. }
        | Action::Granted { ask, .. }
        | Action::Refused { ask, .. }
        | Action::Abandoned { ask }
        | Action::Kept { ask, .. }
        | Action::Extended { ask, .. }
        | Action::Lost { ask }
        | Action::Ended { ask }
        | Action::Released { ask, .. }
        | Action::Offered { ask, .. } => Some(*ask),
        _ => None,
    }
}
