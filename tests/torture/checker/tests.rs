//! For every claim, a history that breaks it, and a corrected one.

mod clean;
mod closing;
mod leases;
mod mutants;
mod nodes;
mod refusals;

use std::collections::BTreeSet;

use crate::checker::{Claim, Report, Rules, checker};
use crate::history::{Action, Ask, Fault, MS, Record, Refusal, SECOND, Time};

const TTL: Time = SECOND;
const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
const VIEW: &str = "1:v";

fn rules(replicas: usize) -> Rules {
    Rules {
        replicas,
        max_ttl: 2 * SECOND,
        view_lease: SECOND,
        nodes: NODES.map(str::to_owned).to_vec(),
    }
}

/// Records of a small world: three nodes of five hold each key, times are in
/// milliseconds.
fn by(at: Time, by: u32, action: Action) -> Record {
    let at = at * MS;
    Record { at, by, action }
}

fn ask(worker: u32, number: u64) -> Ask {
    u64::from(worker) << 32 | number
}

fn of(at: Time, ask: Ask, action: Action) -> Record {
    by(at, (ask >> 32) as u32, action)
}

fn asked(at: Time, ask: Ask, wait: Time) -> Record {
    let action = Action::Asked {
        ask,
        key: "k".into(),
        ttl: TTL,
        wait: wait * MS,
    };
    of(at, ask, action)
}

fn set(replicas: usize) -> Vec<String> {
    NODES[..replicas].iter().map(ToString::to_string).collect()
}

fn granted(at: Time, ask: Ask, fence: u64, until: Time) -> Record {
    let action = Action::Granted {
        ask,
        fence,
        until: until * MS,
        view: VIEW.into(),
        replicas: set(3),
    };
    of(at, ask, action)
}

fn refused(at: Time, ask: Ask, refusal: Refusal) -> Record {
    let action = Action::Refused {
        ask,
        refusal,
        view: VIEW.into(),
        replicas: set(3),
        error: "no".into(),
    };
    of(at, ask, action)
}

fn kept(at: Time, ask: Ask, until: Time) -> Record {
    let until = until * MS;
    of(at, ask, Action::Kept { ask, until })
}

fn lost(at: Time, ask: Ask) -> Record {
    of(at, ask, Action::Lost { ask })
}

fn ended(at: Time, ask: Ask) -> Record {
    of(at, ask, Action::Ended { ask })
}

fn stalled(from: Time, to: Time, worker: u32) -> Record {
    by(to, worker, Action::Stalled { from: from * MS })
}

/// A look at one node that has one key's entry.
fn look(at: Time, node: &str, serves: Option<&str>, entry: Option<(Option<Ask>, Time)>) -> Record {
    let entry = entry.map(|(whose, left)| ("k".to_owned(), whose, left * MS));
    let action = Action::Looked {
        node: node.into(),
        from: at * MS - MS / 2,
        serves: serves.map(str::to_owned),
        entries: entry.into_iter().collect(),
    };
    by(at, 0, action)
}

/// A look that finds nothing.
fn free(node: &str, at: Time) -> Record {
    look(at, node, Some(VIEW), None)
}

fn trouble(from: Time, to: Time, id: u64, fault: Fault) -> [Record; 2] {
    [
        by(from, 0, Action::Struck { id, fault }),
        by(to, 0, Action::Mended { id }),
    ]
}

/// A good end for the records so far.
fn rest(records: &[Record]) -> Vec<Record> {
    let end = records.iter().map(|it| it.at).max().unwrap_or(0) / MS + 1;
    let keys: BTreeSet<&String> = records
        .iter()
        .filter_map(|record| match &record.action {
            Action::Asked { key, .. } => Some(key),
            _ => None,
        })
        .collect();
    let swept = |key: &String| {
        let key = key.clone();
        by(end + 1, 0, Action::Swept { key, error: None })
    };
    let calm = by(end, 0, Action::Calm);
    [calm]
        .into_iter()
        .chain(keys.into_iter().map(swept))
        .collect()
}

fn report(records: &[Record], replicas: usize) -> Report {
    let mut all = records.to_vec();
    all.extend(rest(records));
    checker(&all, &rules(replicas))
}

fn broken(records: &[Record]) -> Vec<Claim> {
    claims(&report(records, 3))
}

fn claims(report: &Report) -> Vec<Claim> {
    report.violations.iter().map(|it| it.claim).collect()
}

fn examined(records: &[Record], claim: Claim) -> u64 {
    report(records, 3)
        .claims
        .get(&claim)
        .map_or(0, |it| it.examined)
}

/// The records with others appended.
fn with(records: &[Record], more: &[Record]) -> Vec<Record> {
    [records, more].concat()
}
