//! How long calls take, and how long a key is idle between two holders.

use crate::checker::entities::Answer;
use crate::checker::report::{Figures, show};
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{MS, SECOND, Time};

/// How late a call may return, in time during which its worker ran.
const LATE: Time = 100 * MS;

/// How long after its record a call has begun, in time during which its worker ran.
const BEGUN: Time = 10 * MS;

/// The longest time of a single attempt: the longest wait for a node.
const ATTEMPT: Time = SECOND;

/// The reported durations.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// How long after the end of their wait refusals came.
    pub(crate) late: Figures,
    /// From a holder's release to the next grant.
    pub(crate) released: Figures,
    /// From the end of a lease that expired, or whose holder died.
    pub(crate) lapsed: Figures,
}

pub(super) fn checker(timeline: &Timeline<'_>, verdicts: &mut Verdicts) -> Waits {
    let mut late = Vec::new();
    for (place, call) in timeline.calls.iter().enumerate() {
        let (done, is_slain) = match call.answer {
            Answer::Abandoned => continue,
            Answer::None => (timeline.horizon, call.slain.is_some()),
            _ => (call.done, false),
        };
        if is_slain {
            continue;
        }
        let patience = if call.wait == 0 { ATTEMPT } else { call.wait };
        // A pause right after the record may have held the call itself back.
        let worker = timeline.workers.get(&call.by);
        let begun = worker.map_or(call.asked, |worker| {
            worker.away.end(call.asked, call.asked + BEGUN)
        });
        let over = timeline.running(call.by, begun.saturating_add(patience), done);
        let is_answered = call.answer != Answer::None;
        if is_answered {
            verdicts.examined(Claim::Punctuality, 1);
        }
        if is_answered && call.wait > 0 && over > 0 {
            late.push(over);
        }
        if over > LATE {
            let what = if is_answered {
                "came back"
            } else {
                "did not come back for"
            };
            let text = format!("{what} {} after its wait", show(over));
            verdicts.broken(Claim::Punctuality, call.asked, &[place], text);
        }
    }
    let late = Figures::of(late);
    verdicts.worst(Claim::Punctuality, format!("back after the wait by {late}"));
    let (released, lapsed) = hand_offs(timeline);
    Waits {
        late,
        released,
        lapsed,
    }
}

/// From the end of a lease to the grant of a call that had been waiting.
fn hand_offs(timeline: &Timeline<'_>) -> (Figures, Figures) {
    let (mut released, mut lapsed) = (Vec::new(), Vec::new());
    for calls in &timeline.by_key {
        let calls = calls.iter().map(|&place| &timeline.calls[place as usize]);
        let mut grants: Vec<_> = calls.filter(|call| call.is_granted()).collect();
        grants.sort_by_key(|call| call.done);
        for pair in grants.windows(2) {
            let end = pair[0].end();
            if pair[1].asked >= end || pair[1].done < end {
                continue;
            }
            let idle = pair[1].done - end;
            match pair[0].ended == Some(end) {
                true => released.push(idle),
                false => lapsed.push(idle),
            }
        }
    }
    (Figures::of(released), Figures::of(lapsed))
}
