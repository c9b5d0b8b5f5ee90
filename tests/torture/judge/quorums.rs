//! Nothing is granted by a minority, and an outage is not reported as a busy
//! key.

use crate::history::{Deed, Fault, MS, Record, Refusal, SECOND, Time};
use crate::judge::board::{Board, Claim};
use crate::judge::cast::{Answer, Call, Trouble};
use crate::judge::looks::Sights;
use crate::judge::spans::Spans;
use crate::judge::story::Story;

/// A fault takes effect at most this long after the decision.
const BITES_WITHIN: Time = 500 * MS;

/// A node may answer again up to this long before its fault is recorded as
/// mended: a killed one has to start.
const MENDS_WITHIN: Time = 2 * SECOND;

/// How long before and around a refusal the key must have been free for
/// certainty.
const FREE_FOR: Time = 2 * SECOND;

pub(super) fn judge(story: &Story<'_>, sights: &Sights, board: &mut Board) {
    let silent = story.by_node(|trouble| silence(story, sights, trouble));
    let is_change = |record: &&&Record| matches!(record.deed, Deed::Changed { .. });
    let change = story.order.iter().find(is_change).map(|record| record.at);
    for place in 0..story.calls.len() {
        minority(story, board, &silent, place);
        // From then on the set of voters is not known here.
        if change.is_none_or(|change| story.calls[place].done < change) {
            unconfirmed(story, board, &silent, place);
        }
    }
    honesty(story, sights, board);
    let worst = "calls that too few nodes could have granted".to_owned();
    board.worst(Claim::Minority, worst);
    let worst = "refusals that tell of a holder, where every node was looked at".to_owned();
    board.worst(Claim::Honesty, worst);
}

/// When the node was certainly silent.
fn silence(story: &Story<'_>, sights: &Sights, trouble: &Trouble<'_>) -> Option<(Time, Time)> {
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
        // The looker bypasses the proxies, but not this fault.
        let node = story.nodes.find(trouble.fault.node()?)?;
        to = sights.next_look(node, from).map_or(to, |look| look.min(to));
    }
    (from < to).then_some((from, to))
}

/// Most of the key's nodes were silent all through the call.
fn minority(story: &Story<'_>, board: &mut Board, silent: &[Spans], place: usize) {
    let call = &story.calls[place];
    let set = &story.sets[call.set as usize];
    let is_silent = |&&node: &&u32| silent[node as usize].cover(call.asked, call.done);
    let silenced = set.iter().filter(is_silent).count();
    if set.is_empty() || set.len() - silenced >= story.quorum() {
        return;
    }
    board.examined(Claim::Minority, 1);
    if call.is_granted() {
        let text = format!(
            "granted while {silenced} of {} nodes were silent",
            set.len()
        );
        board.broken(Claim::Minority, call.done, &[place], text);
    }
}

/// Most of all nodes were silent for longer than their earlier confirmation
/// lasts.
fn unconfirmed(story: &Story<'_>, board: &mut Board, silent: &[Spans], place: usize) {
    let call = &story.calls[place];
    let since = call.asked.saturating_sub(story.rules.view_lease);
    let members = story.rules.nodes.len();
    let is_silent = |spans: &&Spans| spans.cover(since, call.done);
    let silenced = silent[..members].iter().filter(is_silent).count();
    if silenced * 2 < members || call.answer == Answer::None {
        return;
    }
    board.examined(Claim::Minority, 1);
    if call.is_granted() {
        let text = format!("granted by a view that {silenced} of {members} nodes cannot confirm");
        board.broken(Claim::Minority, call.done, &[place], text);
    }
}

fn honesty(story: &Story<'_>, sights: &Sights, board: &mut Board) {
    for (key, calls) in story.by_key.iter().enumerate() {
        // Until when an earlier call of the key could still have an effect.
        let mut in_play: Time = 0;
        for (index, &place) in calls.iter().enumerate() {
            let call = &story.calls[place as usize];
            let since = call.asked.saturating_sub(FREE_FOR);
            let next = calls.get(index + 1);
            let next = next.map_or(Time::MAX, |&next| story.calls[next as usize].asked);
            let is_alone = in_play < since && call.done < next;
            in_play = in_play.max(story.over(call));
            if call.answer != Answer::Refused(Refusal::Contended)
                || !is_all_seen(story, sights, call, since)
            {
                continue;
            }
            board.examined(Claim::Honesty, 1);
            if is_alone && !sights.held[key].touch(since, call.done) {
                let text = format!(
                    "{:?} is told to be held, by nobody",
                    story.keys.name(call.key)
                );
                board.broken(Claim::Honesty, call.done, &[place as usize], text);
            }
        }
    }
}

/// Whether the looks show every possible holder of the key, and no earlier
/// request could still arrive.
fn is_all_seen(story: &Story<'_>, sights: &Sights, call: &Call, since: Time) -> bool {
    story.sets[call.set as usize].iter().all(|&node| {
        sights.looked(node, since, call.done) && !story.held[node as usize].touch(since, call.done)
    })
}
