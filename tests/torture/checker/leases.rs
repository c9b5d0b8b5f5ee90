//! A lease's holder knows its duration: never longer than it is valid, and it
//! learns of the end in time.

use crate::checker::entities::Call;
use crate::checker::report::{Figures, show};
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{MS, Time};

/// How late a loss may be reported, in time during which the worker ran.
const LATE: Time = 25 * MS;

/// The same after a pause of the worker: all that fell due in it is handled at once.
const LATE_AFTER_PAUSE: Time = 2 * LATE;

/// Between the library's reading of the clock and the worker's own.
const READING: Time = 10 * MS;

/// Lost leases, as their holders learnt of it.
#[derive(Default)]
struct News {
    /// How late each was reported.
    late: Vec<Time>,
    /// Reported before the lease was over.
    early: u64,
}

pub(super) fn checker(timeline: &Timeline<'_>, verdicts: &mut Verdicts) -> Figures {
    let mut news = News::default();
    let mut latest = 0;
    for place in 0..timeline.calls.len() {
        if timeline.calls[place].is_granted() {
            news.look(timeline, verdicts, place);
            latest = latest.max(hopes(timeline, verdicts, place));
        }
    }
    let late = Figures::of(news.late);
    let early = news.early;
    verdicts.worst(
        Claim::Loss,
        format!("told late by {late}; {early} told before the end"),
    );
    let worst = format!("prolonged up to {} after the end was due", show(latest));
    verdicts.worst(Claim::FalseHope, worst);
    late
}

impl News {
    fn look(&mut self, timeline: &Timeline<'_>, verdicts: &mut Verdicts, place: usize) {
        let call = &timeline.calls[place];
        let until = call.last_until;
        let running = |to: Time| timeline.running(call.by, until, to);
        if call.lost.is_some_and(|lost| lost < until) {
            verdicts.examined(Claim::Loss, 1);
            self.early += 1;
            return;
        }
        if call.ended.is_some_and(|ended| ended < until) {
            return;
        }
        // A holder that let go within the time no longer needed the report, and
        // a dead one could not receive it.
        let last = match (call.ended, call.slain) {
            (Some(ended), _) => ended,
            (None, Some(_)) => timeline
                .workers
                .get(&call.by)
                .map_or(0, |worker| worker.last),
            (None, None) => timeline.horizon,
        };
        let told = call.lost.unwrap_or(last);
        let late = running(told);
        let was_away = timeline.was_away(call.by, until, told);
        if call.lost.is_some() {
            verdicts.examined(Claim::Loss, 1);
            self.late.push(late);
        }
        if late > if was_away { LATE_AFTER_PAUSE } else { LATE } {
            let text = match call.lost {
                Some(_) => format!("told {} after the lease was over", show(late)),
                None => format!("not told for {} that the lease is over", show(late)),
            };
            verdicts.broken(Claim::Loss, until, &[place], text);
        }
    }
}

/// The most by which the lease was extended too late.
fn hopes(timeline: &Timeline<'_>, verdicts: &mut Verdicts, place: usize) -> Time {
    let call = &timeline.calls[place];
    let mut broken = |at, text| verdicts.broken(Claim::FalseHope, at, &[place], text);
    if call.until <= call.done && timeline.running(call.by, call.until, call.done) > READING
        || call.until <= call.asked
    {
        broken(call.done, "granted when it was over".to_owned());
    }
    if call.until > call.done.saturating_add(call.ttl) {
        broken(call.done, "granted for longer than was asked".to_owned());
    }
    let mut latest = 0;
    let mut until = call.until;
    for &(at, next) in &call.moves {
        if next > at.saturating_add(timeline.rules.max_ttl) {
            broken(at, "prolonged beyond the longest ttl".to_owned());
        }
        let late = timeline.running(call.by, until, at);
        latest = latest.max(late);
        if late > LATE {
            broken(at, format!("prolonged {} after it was over", show(late)));
        } else if next > at && is_raised(call, at, until) {
            broken(
                at,
                "prolonged after its holder was told that it is lost".to_owned(),
            );
        }
        until = until.max(next);
    }
    verdicts.examined(Claim::FalseHope, 1 + call.moves.len() as u64);
    latest
}

/// Whether it was extended at `at` although it was lost. (A lease that was
/// extended to a moment in the past was extended before.) The report of a loss
/// and an extension may be recorded in another order than they happened, unless
/// the loss was the end of the lease's time.
fn is_raised(call: &Call, at: Time, until: Time) -> bool {
    call.lost
        .is_some_and(|lost| lost < at && (lost >= until || lost + LATE < at))
}
