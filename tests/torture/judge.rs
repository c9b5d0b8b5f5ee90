//! Whether a history satisfies every claim, and how much it tested.
//!
//! Pure: records in, a report out. The judgement of a claim tolerates a slow
//! machine, and any order in which two processes record simultaneous events;
//! each allowance is a constant with its reason.
//!
//! * `spans`, `cast`, `story`: the history by subject
//! * `exclusion`, `leases`, `quorums`, `waits`, `closing`: claims on the
//!   workers' records
//! * `looks`, `continuity`, `orphans`: claims on the observed state of servers
//! * `availability`: which requests are granted under which faults
//! * `resumption`: that grants resume after the last fault
//! * `board`, `report`: the findings, and their output

mod availability;
mod board;
mod cast;
mod closing;
mod continuity;
mod exclusion;
mod leases;
mod looks;
mod orphans;
mod quorums;
mod report;
mod resumption;
mod spans;
mod story;
#[cfg(test)]
mod tests;
mod waits;

use std::collections::HashMap;

use crate::history::{Deed, Record, Time};
use crate::judge::board::Board;
pub(crate) use crate::judge::board::{Claim, Violation};
pub(crate) use crate::judge::report::Report;
pub(crate) use crate::judge::resumption::bound as resumption_bound;
use crate::judge::story::Story;

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
pub(crate) fn judge(records: &[Record], rules: &Rules) -> Report {
    let story = Story::read(records, rules);
    let mut board = Board::default();
    let sights = looks::judge(&story, &mut board);
    exclusion::judge(&story, &mut board);
    let told_late = leases::judge(&story, &mut board);
    quorums::judge(&story, &sights, &mut board);
    let availability = availability::judge(&story, &sights, &mut board);
    let waits = waits::judge(&story, &mut board);
    resumption::judge(&story, &mut board);
    let counts = closing::judge(&story, &mut board);
    let start = story.order.first().map_or(0, |record| record.at);
    Report {
        lasted: story.horizon - start,
        counts,
        availability,
        waits,
        told_late,
        violations: violations(&story, &board),
        claims: board.tallies,
    }
}

/// The findings, each with the records of the calls that it is about and with
/// the faults of that time.
fn violations(story: &Story<'_>, board: &Board) -> Vec<Violation> {
    let told = board.findings.iter().flat_map(|finding| &finding.calls);
    let mut of_call: HashMap<usize, Vec<&Record>> = told.map(|&it| (it, Vec::new())).collect();
    for &record in &story.order {
        let place = asked_by(&record.deed).and_then(|ask| story.place(ask));
        if let Some(records) = place.and_then(|place| of_call.get_mut(&place)) {
            records.push(record);
        }
    }
    let write = |finding: &board::Finding| {
        let mut lines = vec![finding.text.clone()];
        for call in &finding.calls {
            let records = of_call.get(call).into_iter().flatten().take(MAX_RECORDS);
            lines.extend(records.map(|record| format!("  {record:?}")));
        }
        let from = finding
            .calls
            .iter()
            .map(|&call| story.calls[call].asked)
            .min();
        let from = from.unwrap_or(finding.at);
        let is_of_then = |it: &&cast::Trouble<'_>| it.struck <= finding.at && from <= it.mended;
        let troubles = story.troubles.iter().filter(is_of_then);
        lines.extend(
            troubles.map(|it| format!("  {:?} from {} to {}", it.fault, it.struck, it.mended)),
        );
        Violation {
            claim: finding.claim,
            at: finding.at,
            detail: lines.join("\n"),
        }
    };
    let mut violations: Vec<Violation> = board.findings.iter().map(write).collect();
    violations.sort_by_key(|violation| violation.at);
    violations
}

/// The call that a record is about.
fn asked_by(deed: &Deed) -> Option<crate::history::Ask> {
    match deed {
        Deed::Asked { ask, .. }
        | Deed::Granted { ask, .. }
        | Deed::Refused { ask, .. }
        | Deed::Abandoned { ask }
        | Deed::Kept { ask, .. }
        | Deed::Extended { ask, .. }
        | Deed::Lost { ask }
        | Deed::Ended { ask }
        | Deed::Released { ask, .. }
        | Deed::Offered { ask, .. } => Some(*ask),
        _ => None,
    }
}
