//! Which requests are granted under which faults, and that every request that
//! could be granted is.

use std::collections::BTreeMap;
use std::fmt;

use crate::checker::entities::{Answer, Call};
use crate::checker::observations::Sights;
use crate::checker::report::{Figures, show};
use crate::checker::spans::Spans;
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{Fault, MS, Refusal, Time};

/// A request with a shorter wait may be refused by chance.
const LEAST_WAIT: Time = 300 * MS;

/// A call made its last attempt within this time before its end; a refusal is
/// not judged if the machine stalled then.
const LAST_ATTEMPT: Time = 300 * MS;

/// The state of a key's nodes, all through a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    /// Some fault began or ended during the call.
    pub(crate) is_changing: bool,
    /// Killed, or their proxy refuses connections.
    pub(crate) down: u8,
    /// Frozen, or requests or replies do not arrive.
    pub(crate) stalled: u8,
    pub(crate) slow: u8,
    /// Anything else.
    pub(crate) odd: u8,
    /// The fault is over, but they are not back yet.
    pub(crate) recovering: u8,
}

/// The outcomes of the calls in one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    pub(crate) granted: u64,
    pub(crate) contended: u64,
    pub(crate) refused: u64,
    /// Of those that are not contended and had no concurrent request.
    pub(crate) alone: u64,
    pub(crate) alone_granted: u64,
    /// How long their grants took.
    pub(crate) times: Vec<Time>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_changing {
            return f.write_str("while it changed");
        }
        let kinds = [
            (self.down, "down"),
            (self.stalled, "stalled"),
            (self.slow, "slow"),
            (self.odd, "odd"),
            (self.recovering, "recovering"),
        ];
        let some = kinds.iter().filter(|(count, _)| *count > 0);
        let words: Vec<String> = some
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        match words.is_empty() {
            true => f.write_str("all well"),
            false => f.write_str(&words.join(", ")),
        }
    }
}

impl Share {
    /// Time to grant, of requests without concurrent ones.
    pub(crate) fn figures(&self) -> Figures {
        Figures::of(self.times.clone())
    }
}

/// For each node, when it had which kind of fault.
struct Wrong {
    down: Vec<Spans>,
    stalled: Vec<Spans>,
    slow: Vec<Spans>,
    odd: Vec<Spans>,
}

impl Wrong {
    fn new(timeline: &Timeline<'_>) -> Self {
        let kind = |is: fn(&Fault) -> bool| {
            timeline.by_node(|it| is(it.fault).then_some((it.struck, it.mended)))
        };
        fn is_down(fault: &Fault) -> bool {
            matches!(fault, Fault::Killed { .. } | Fault::Cut { .. })
        }
        fn is_slow(fault: &Fault) -> bool {
            matches!(fault, Fault::Slow { .. })
        }
        Self {
            down: kind(is_down),
            stalled: kind(|fault| fault.silences() && !is_down(fault)),
            slow: kind(is_slow),
            odd: kind(|fault| !fault.silences() && !is_slow(fault)),
        }
    }

    fn state(&self, timeline: &Timeline<'_>, sights: &Sights, call: &Call) -> State {
        let mut state = State::default();
        for &node in &timeline.sets[call.set as usize] {
            let node = node as usize;
            // The gravest fault that lasts throughout determines the node's
            // state.
            let kinds = [
                (&self.down, &mut state.down),
                (&self.stalled, &mut state.stalled),
                (&self.slow, &mut state.slow),
                (&self.odd, &mut state.odd),
            ];
            let mut is_known = false;
            for (spans, count) in kinds {
                if !is_known && spans[node].cover(call.asked, call.done) {
                    *count += 1;
                    is_known = true;
                } else if !is_known && spans[node].touch(call.asked, call.done) {
                    state.is_changing = true;
                }
            }
            if !is_known && sights.unwell[node].touch(call.asked, call.done) {
                state.recovering += 1;
            }
        }
        if state.is_changing {
            return State {
                is_changing: true,
                ..State::default()
            };
        }
        state
    }
}

pub(super) fn checker(
    timeline: &Timeline<'_>,
    sights: &Sights,
    verdicts: &mut Verdicts,
) -> BTreeMap<State, Share> {
    let wrong = Wrong::new(timeline);
    let mut shares: BTreeMap<State, Share> = BTreeMap::new();
    let mut slowest = 0;
    for calls in &timeline.by_key {
        let mut in_play: Time = 0;
        for (index, &place) in calls.iter().enumerate() {
            let call = &timeline.calls[place as usize];
            let next = calls.get(index + 1);
            let next = next.map_or(Time::MAX, |&next| timeline.calls[next as usize].asked);
            let is_alone = in_play < call.asked && call.done < next;
            in_play = in_play.max(timeline.over(call));
            if matches!(call.answer, Answer::None | Answer::Abandoned) {
                continue;
            }
            // A joint view has more nodes, and more than one quorum.
            if timeline.sets[call.set as usize].len() != timeline.rules.replicas {
                continue;
            }
            let state = wrong.state(timeline, sights, call);
            count(shares.entry(state).or_default(), call, is_alone);
            if is_well(timeline, sights, call) {
                verdicts.examined(Claim::Availability, 1);
                refused(timeline, verdicts, place as usize, is_alone);
                if is_alone && call.is_granted() {
                    slowest = slowest.max(call.done - call.asked);
                }
            }
        }
    }
    let worst = format!(
        "granted within {} to who was alone and most nodes were well",
        show(slowest)
    );
    verdicts.worst(Claim::Availability, worst);
    shares
}

fn count(share: &mut Share, call: &Call, is_alone: bool) {
    match call.answer {
        Answer::Granted => share.granted += 1,
        Answer::Refused(Refusal::Contended | Refusal::Behind) => share.contended += 1,
        _ => share.refused += 1,
    }
    if is_alone && call.answer != Answer::Refused(Refusal::Contended) {
        share.alone += 1;
        if call.is_granted() {
            share.alone_granted += 1;
            share.times.push(call.done - call.asked);
        }
    }
}

/// Whether nothing but other requests could have kept the call from being
/// granted: all through the call, a quorum of its nodes and as many of all nodes as
/// confirm a view were well, and so was its worker.
fn is_well(timeline: &Timeline<'_>, sights: &Sights, call: &Call) -> bool {
    let is_well = |node: &usize| !sights.unwell[*node].touch(call.asked, call.done);
    let set = &timeline.sets[call.set as usize];
    let well = set
        .iter()
        .filter(|&&node| is_well(&(node as usize)))
        .count();
    let nodes = timeline.nodes.len();
    let all_well = (0..nodes).filter(is_well).count();
    // Both topologies of a joint view confirm it, and each lacks one of its nodes.
    let confirming = nodes / 2 + 1 + usize::from(timeline.joint.contains(&call.view));
    let last_attempt = call.done.saturating_sub(LAST_ATTEMPT);
    call.wait >= LEAST_WAIT
        && !timeline.stalls.touch(last_attempt, call.done)
        && well >= timeline.quorum()
        && all_well >= confirming
        && !timeline.was_away(call.by, call.asked, call.done)
        && !sights.changing.touch(call.asked, call.done)
}

fn refused(timeline: &Timeline<'_>, verdicts: &mut Verdicts, place: usize, is_alone: bool) {
    let call = &timeline.calls[place];
    if let Answer::Refused(refusal) = call.answer
        && refusal != Refusal::Contended
        // A call for a set keeps the turns of all its keys while one has no quorum.
        && (refusal != Refusal::Behind || is_alone)
    {
        let key = timeline.keys.name(call.key);
        let beside = match is_alone {
            true => "and nobody else asked",
            false => "and others asked as well",
        };
        let text = format!("{key:?} refused ({refusal:?}): most of its nodes were well, {beside}");
        verdicts.broken(Claim::Availability, call.done, &[place], text);
    }
}
