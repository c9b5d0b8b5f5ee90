//! No two leases of a key are valid at once, and their fences are in order.

use crate::checker::entities::Call;
use crate::checker::report::show;
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{Fault, Time};

pub(super) fn checker(timeline: &Timeline<'_>, verdicts: &mut Verdicts) {
    let mut overlaps = Overlaps::default();
    for calls in &timeline.by_key {
        let granted = |&&place: &&u32| timeline.calls[place as usize].is_granted();
        let mut grants: Vec<usize> = calls
            .iter()
            .filter(granted)
            .map(|&it| it as usize)
            .collect();
        grants.sort_by_key(|&place| timeline.calls[place].done);
        overlaps.look(timeline, verdicts, &grants);
        fences(timeline, verdicts, &grants);
    }
    let worst = match (overlaps.longest, overlaps.excused) {
        (0, 0) => "never".to_owned(),
        (longest, 0) => format!("for {}", show(longest)),
        (longest, excused) => {
            format!(
                "for {}; {excused} by a stepped clock: fences still order",
                show(longest)
            )
        }
    };
    verdicts.worst(Claim::Exclusion, worst);
}

#[derive(Default)]
struct Overlaps {
    longest: Time,
    excused: u64,
}

impl Overlaps {
    fn look(&mut self, timeline: &Timeline<'_>, verdicts: &mut Verdicts, grants: &[usize]) {
        // Of the earlier leases, the one that ends last.
        let mut rival: Option<usize> = None;
        for &place in grants {
            let call = &timeline.calls[place];
            verdicts.examined(Claim::Exclusion, 1);
            let end = rival.map_or(0, |rival| timeline.calls[rival].end());
            let overlap = end.min(call.end()).saturating_sub(call.done);
            if let (Some(rival), 1..) = (rival, overlap) {
                let is_stepped = is_stepped(timeline, call);
                if is_stepped && timeline.rules.replicas == 1 {
                    self.excused += 1;
                } else {
                    self.longest = self.longest.max(overlap);
                    let key = timeline.keys.name(call.key);
                    let why = match is_stepped {
                        true => "; the clock of one of its nodes was stepped",
                        false => "",
                    };
                    let text = format!("two leases of {key:?} at once for {}{why}", show(overlap));
                    verdicts.broken(Claim::Exclusion, call.done, &[rival, place], text);
                }
            }
            if rival.is_none() || call.end() > end {
                rival = Some(place);
            }
        }
    }
}

/// Whether a node of its key recently had its clock stepped: if it is the only
/// node, only the fence is promised then.
fn is_stepped(timeline: &Timeline<'_>, call: &Call) -> bool {
    let since = call.done.saturating_sub(timeline.rules.max_ttl);
    let is_on = |node: Option<&str>| {
        let set = &timeline.sets[call.set as usize];
        node.and_then(|node| timeline.nodes.find(node))
            .is_some_and(|node| set.contains(&node))
    };
    timeline.troubles.iter().any(|trouble| {
        matches!(trouble.fault, Fault::Stepped { .. })
            && is_on(trouble.fault.node())
            && trouble.struck <= call.done
            && since <= trouble.mended
    })
}

/// `grants` of one key, in order.
fn fences(timeline: &Timeline<'_>, verdicts: &mut Verdicts, grants: &[usize]) {
    let call = |place: usize| &timeline.calls[place];
    let key = |place: usize| timeline.keys.name(call(place).key);
    let mut sorted = grants.to_vec();
    sorted.sort_by_key(|&place| call(place).fence);
    for pair in sorted.windows(2) {
        if call(pair[0]).fence == call(pair[1]).fence {
            let text = format!("two leases of {:?} with one fence", key(pair[0]));
            let at = call(pair[0]).done.max(call(pair[1]).done);
            verdicts.broken(Claim::Fences, at, pair, text);
        }
    }
    // Up to each grant, the one with the highest fence.
    let mut highest: Vec<usize> = Vec::with_capacity(grants.len());
    for &place in grants {
        let before = highest.last().copied().unwrap_or(place);
        let is_higher = call(place).fence >= call(before).fence;
        highest.push(if is_higher { place } else { before });
    }
    for &place in grants {
        verdicts.examined(Claim::Fences, 1);
        let before = grants.partition_point(|&it| call(it).done < call(place).asked);
        let Some(&rival) = before.checked_sub(1).and_then(|last| highest.get(last)) else {
            continue;
        };
        if call(place).fence < call(rival).fence {
            let text = format!("of {:?}, who asked later has the lower fence", key(place));
            verdicts.broken(Claim::Fences, call(place).done, &[rival, place], text);
        }
    }
}
