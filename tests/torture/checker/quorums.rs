//! Nothing is granted by a minority, and an outage is not reported as a busy
//! key.

use crate::checker::entities::{Answer, Call, Trouble};
use crate::checker::observations::Sights;
use crate::checker::spans::Spans;
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{Action, Fault, MS, Record, Refusal, SECOND, Time};

/// A fault takes effect at most this long after the decision.
const BITES_WITHIN: Time = 500 * MS;

/// A node may answer again up to this long before its fault is recorded as
/// mended: a killed one has to start.
const MENDS_WITHIN: Time = 2 * SECOND;

/// How long before and around a refusal the key must have been free for
/// certainty.
const FREE_FOR: Time = 2 * SECOND;

pub(super) fn checker(timeline: &Timeline<'_>, sights: &Sights, verdicts: &mut Verdicts) {
    let silent = timeline.by_node(|trouble| silence(timeline, sights, trouble));
    let is_change = |record: &&&Record| matches!(record.action, Action::Changed { .. });
    let change = timeline
        .order
        .iter()
        .find(is_change)
        .map(|record| record.at);
    for place in 0..timeline.calls.len() {
        minority(timeline, verdicts, &silent, place);
        // From then on the set of voters is not known here.
        if change.is_none_or(|change| timeline.calls[place].done < change) {
            unconfirmed(timeline, verdicts, &silent, place);
        }
    }
    honesty(timeline, sights, verdicts);
    let worst = "calls that too few nodes could have granted".to_owned();
    verdicts.worst(Claim::Minority, worst);
    let worst = "refusals that tell of a holder, where every node was looked at".to_owned();
    verdicts.worst(Claim::Honesty, worst);
}

/// When the node was certainly silent.
fn silence(
    timeline: &Timeline<'_>,
    sights: &Sights,
    trouble: &Trouble<'_>,
) -> Option<(Time, Time)> {
    if !trouble.fault.silences() {
        return None;
    }
    let from = trouble.struck + BITES_WITHIN;
    let mut to = match trouble.mended {
        Time::MAX => Time::MAX,
        mended => mended.saturating_sub(MENDS_WITHIN),
    };
    let is_deep = matches!(trouble.fault, Fault::Killed { .. } | Fault::Frozen { .. });
    if is_deep {
        // The observer bypasses the proxies, but not this fault.
        let node = timeline.nodes.find(trouble.fault.node()?)?;
        to = sights.next_look(node, from).map_or(to, |look| look.min(to));
    }
    (from < to).then_some((from, to))
}

/// Most of the key's nodes were silent all through the call.
fn minority(timeline: &Timeline<'_>, verdicts: &mut Verdicts, silent: &[Spans], place: usize) {
    let call = &timeline.calls[place];
    let set = &timeline.sets[call.set as usize];
    let is_silent = |&&node: &&u32| silent[node as usize].cover(call.asked, call.done);
    let silenced = set.iter().filter(is_silent).count();
    if set.is_empty() || set.len() - silenced >= timeline.quorum() {
        return;
    }
    verdicts.examined(Claim::Minority, 1);
    if call.is_granted() {
        let text = format!(
            "granted while {silenced} of {} nodes were silent",
            set.len()
        );
        verdicts.broken(Claim::Minority, call.done, &[place], text);
    }
}

/// Most of all nodes were silent for longer than their earlier confirmation
/// lasts.
fn unconfirmed(timeline: &Timeline<'_>, verdicts: &mut Verdicts, silent: &[Spans], place: usize) {
    let call = &timeline.calls[place];
    let since = call.asked.saturating_sub(timeline.rules.view_lease);
    let members = timeline.rules.nodes.len();
    let is_silent = |spans: &&Spans| spans.cover(since, call.done);
    let silenced = silent[..members].iter().filter(is_silent).count();
    if silenced * 2 < members || call.answer == Answer::None {
        return;
    }
    verdicts.examined(Claim::Minority, 1);
    if call.is_granted() {
        let text = format!("granted by a view that {silenced} of {members} nodes cannot confirm");
        verdicts.broken(Claim::Minority, call.done, &[place], text);
    }
}

fn honesty(timeline: &Timeline<'_>, sights: &Sights, verdicts: &mut Verdicts) {
    for (key, calls) in timeline.by_key.iter().enumerate() {
        // Until when an earlier call of the key could still have an effect.
        let mut in_play: Time = 0;
        for (index, &place) in calls.iter().enumerate() {
            let call = &timeline.calls[place as usize];
            let since = call.asked.saturating_sub(FREE_FOR);
            let next = calls.get(index + 1);
            let next = next.map_or(Time::MAX, |&next| timeline.calls[next as usize].asked);
            let is_alone = in_play < since && call.done < next;
            in_play = in_play.max(timeline.over(call));
            if call.answer != Answer::Refused(Refusal::Contended)
                || !is_all_seen(timeline, sights, call, since)
            {
                continue;
            }
            verdicts.examined(Claim::Honesty, 1);
            if is_alone && !sights.held[key].touch(since, call.done) {
                let text = format!(
                    "{:?} is told to be held, by nobody",
                    timeline.keys.name(call.key)
                );
                verdicts.broken(Claim::Honesty, call.done, &[place as usize], text);
            }
        }
    }
}

/// Whether the looks show every possible holder of the key, and no earlier
/// request could still arrive.
fn is_all_seen(timeline: &Timeline<'_>, sights: &Sights, call: &Call, since: Time) -> bool {
    timeline.sets[call.set as usize].iter().all(|&node| {
        sights.looked(node, since, call.done)
            && !timeline.held[node as usize].touch(since, call.done)
    })
}
