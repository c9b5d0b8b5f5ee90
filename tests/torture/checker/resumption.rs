//! Grants resume after the last fault, whatever it was.

use crate::checker::entities::Call;
use crate::checker::report::show;
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{Action, SECOND, Time};

/// How much longer than the longest ttl it may take until something is granted
/// after the last fault: routers reconnect within two seconds, the members are
/// checked every half second, and a node that is let in again waits up to a
/// second more.
const SLACK: Time = 5 * SECOND;

/// The calls in a quiet time that are necessary to expect a grant.
const ENOUGH: usize = 10;

/// How long it may take.
pub(crate) fn bound(max_ttl: Time) -> Time {
    max_ttl + SLACK
}

pub(super) fn checker(timeline: &Timeline<'_>, verdicts: &mut Verdicts) {
    let bound = bound(timeline.rules.max_ttl);
    let calm = timeline.order.iter().find(|it| it.action == Action::Calm);
    let end = calm.map_or(timeline.horizon, |it| it.at);
    let mut granted: Vec<Time> = timeline
        .order
        .iter()
        .filter(|it| matches!(it.action, Action::Granted { .. }))
        .map(|it| it.at)
        .collect();
    granted.sort_unstable();
    let mut worst = 0;
    for (from, to) in quiet(timeline, end) {
        // Time in which the machine stalled does not count.
        let limit = from + bound + timeline.stalls.within(from, from + bound);
        let is_of_then = |call: &&Call| from <= call.asked && call.asked < limit;
        let asks = timeline.calls.iter().filter(is_of_then).count();
        if to < from + bound || asks < ENOUGH {
            continue;
        }
        let next = granted.partition_point(|&at| at < from);
        match granted.get(next) {
            Some(&at) if at <= limit.min(to) => worst = worst.max(at - from),
            // The next fault came too soon to judge.
            _ if to < limit => continue,
            _ => {
                let text = format!(
                    "nothing is granted within {} after the last fault",
                    show(limit - from)
                );
                verdicts.broken(Claim::Resumption, from, &[], text);
            }
        }
        verdicts.examined(Claim::Resumption, 1);
    }
    let reported = format!("first grant after {} at the latest", show(worst));
    verdicts.worst(Claim::Resumption, reported);
}

/// From the end of a fault to the beginning of the next, with no fault active.
fn quiet(timeline: &Timeline<'_>, end: Time) -> Vec<(Time, Time)> {
    let mut spans: Vec<(Time, Time)> = timeline
        .troubles
        .iter()
        .map(|it| (it.struck, it.mended))
        .collect();
    spans.sort_unstable();
    let mut quiet = Vec::new();
    let mut mended = None;
    for (struck, over) in spans {
        if let Some(from) = mended.filter(|&from| from < struck) {
            quiet.push((from, struck));
        }
        mended = mended.max(Some(over));
    }
    quiet.extend(mended.filter(|&from| from < end).map(|from| (from, end)));
    quiet
}
