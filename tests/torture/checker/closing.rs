//! Views rise, stale writes are refused, everything ends well, and the history
//! has enough to judge.

use std::collections::BTreeMap;

use crate::checker::report::Counts;
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{Action, Ask, SECOND, Time};

/// A run that is longer must have given every claim something to examine.
const LONG: Time = 60 * SECOND;

/// In a run of this length some call is made while most nodes are well.
const ENOUGH_TO_BE_WELL: Time = 180 * SECOND;

/// The resource: for each key, the highest accepted fence, and its ask.
#[derive(Default)]
struct Resource<'a>(BTreeMap<&'a str, (u64, Ask)>);

impl<'a> Resource<'a> {
    /// Whether a write with `fence` is stale; returns the ask that overtook it.
    fn write(&mut self, key: &'a str, fence: u64, ask: Ask) -> Option<Ask> {
        let highest = self.0.entry(key).or_insert((fence, ask));
        if fence < highest.0 {
            return Some(highest.1);
        }
        *highest = (fence, ask);
        None
    }
}

pub(super) fn checker(timeline: &Timeline<'_>, verdicts: &mut Verdicts) -> Counts {
    let mut counts = Counts::default();
    let mut resource = Resource::default();
    let mut views: BTreeMap<u32, u32> = BTreeMap::new();
    let mut calm = None;
    let mut swept: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for record in &timeline.order {
        let at = record.at;
        counts.take(&record.action);
        match &record.action {
            Action::Moved { epoch } => {
                verdicts.examined(Claim::ViewsRise, 1);
                if let Some(known) = views.insert(record.by, *epoch).filter(|it| it >= epoch) {
                    let by = record.by;
                    let text = format!("worker {by} goes from epoch {known} to {epoch}");
                    verdicts.broken(Claim::ViewsRise, at, &[], text);
                }
            }
            Action::Offered {
                ask,
                key,
                fence,
                is_taken,
                believed,
            } => {
                verdicts.examined(Claim::FencedStore, 1);
                let overtaken = resource.write(key, *fence, *ask);
                if overtaken.is_some() {
                    counts.stale += 1;
                    counts.stale_believed += u64::from(*believed);
                }
                if let (Some(by), true) = (overtaken, is_taken) {
                    let calls: Vec<usize> = [by, *ask]
                        .iter()
                        .filter_map(|&ask| timeline.place(ask))
                        .collect();
                    let text = format!("a stale write of {key:?} with fence {fence} was taken");
                    verdicts.broken(Claim::FencedStore, at, &calls, text);
                }
            }
            Action::Calm => calm = Some(at),
            Action::Swept { key, error } => {
                swept.insert(key, error.as_deref());
            }
            _ => {}
        }
    }
    verdicts.worst(Claim::FencedStore, format!("{} stale writes", counts.stale));
    liveness(timeline, verdicts, calm, &swept);
    worth(timeline, verdicts, &counts);
    counts
}

fn liveness(
    timeline: &Timeline<'_>,
    verdicts: &mut Verdicts,
    calm: Option<Time>,
    swept: &BTreeMap<&str, Option<&str>>,
) {
    let Some(calm) = calm else {
        let text = "it never became calm".to_owned();
        return verdicts.broken(Claim::Liveness, timeline.horizon, &[], text);
    };
    for (key, calls) in timeline.by_key.iter().enumerate() {
        if calls.is_empty() {
            continue;
        }
        let name = timeline.keys.name(key as u32);
        verdicts.examined(Claim::Liveness, 1);
        let text = match swept.get(name) {
            Some(None) => continue,
            Some(Some(error)) => format!("{name:?} cannot be had in the end: {error}"),
            None => format!("{name:?} was not asked for in the end"),
        };
        verdicts.broken(Claim::Liveness, calm, &[], text);
    }
}

fn worth(timeline: &Timeline<'_>, verdicts: &mut Verdicts, counts: &Counts) {
    let claim = Claim::Worth;
    if !timeline.strays.is_empty() {
        let text = format!("records of calls that nobody made: {:x?}", timeline.strays);
        verdicts.broken(claim, timeline.horizon, &[], text);
    }
    verdicts.examined(claim, timeline.order.len() as u64);
    let start = timeline.order.first().map_or(0, |record| record.at);
    if timeline.horizon - start < LONG {
        return;
    }
    for (what, count) in counts.needed() {
        if count == 0 {
            let text = format!("no {what} in the whole run");
            verdicts.broken(claim, timeline.horizon, &[], text);
        }
    }
    // Most runs have no time in which most nodes are silent, and in a short run
    // most nodes may never be well at once.
    let is_short = timeline.horizon - start < ENOUGH_TO_BE_WELL;
    let needed = Claim::ALL
        .into_iter()
        // Most presets have some fault at any time.
        .filter(|&it| it != Claim::Resumption)
        .filter(|&it| it != Claim::Minority && !(is_short && it == Claim::Availability));
    for bitten in needed {
        if verdicts.tally(bitten).examined == 0 {
            let text = format!("{bitten:?} had nothing to examine");
            verdicts.broken(claim, timeline.horizon, &[], text);
        }
    }
}
