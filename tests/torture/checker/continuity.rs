//! While a lease is valid, no other request for its key could be granted.
//!
//! Seen from outside: of the key's nodes, those that serve the view and do not
//! have the lease's entry are never a quorum. A node that was not seen, or
//! whose clock was stepped, does not count.

use crate::checker::entities::Call;
use crate::checker::observations::{Observation, Whose};
use crate::checker::timeline::Timeline;
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{Back, Fault, MS, Time};

/// Looks within this time form one round.
const ROUND: Time = 60 * MS;

pub(super) struct Rounds {
    /// The newest look of each node.
    newest: Vec<Option<Observation>>,
    /// Nodes that were inspected since the last round was judged.
    fresh: Vec<bool>,
    /// Granted leases in the order of their grants, and how many have begun.
    grants: Vec<u32>,
    begun: usize,
    /// Those that have begun and may be valid.
    valid: Vec<u32>,
    /// For each node, the epoch that it served last, and the epoch up to which
    /// it is doubted: with its earlier data, it serves nothing.
    served: Vec<Option<u32>>,
    doubted: Vec<Option<u32>>,
    rounds: u64,
    /// The smallest number of nodes that kept another request from being
    /// granted.
    closest: Option<usize>,
}

impl Rounds {
    pub(super) fn new(timeline: &Timeline<'_>) -> Self {
        let granted = (0..timeline.calls.len()).filter(|&place| timeline.calls[place].is_granted());
        let mut grants: Vec<u32> = granted.map(|place| place as u32).collect();
        grants.sort_by_key(|&place| timeline.calls[place as usize].done);
        let nodes = timeline.nodes.len();
        Self {
            newest: (0..nodes).map(|_| None).collect(),
            fresh: vec![false; nodes],
            grants,
            begun: 0,
            valid: Vec::new(),
            served: vec![None; nodes],
            doubted: vec![None; nodes],
            rounds: 0,
            closest: None,
        }
    }

    /// A node that comes back with less data than it had still has the view's
    /// id, but routers detect that it is a different incarnation: it serves
    /// nothing until a newer view lets it in.
    pub(super) fn struck(&mut self, timeline: &Timeline<'_>, fault: &Fault) {
        let truncated = Back::Truncated;
        let is_less = matches!(fault, Fault::Promoted { .. })
            || matches!(fault, Fault::Killed { back, .. } if *back == truncated);
        let node = fault.node().and_then(|node| timeline.nodes.find(node));
        if let (Some(node), true) = (node, is_less) {
            self.doubted[node as usize] = self.served[node as usize];
        }
    }

    pub(super) fn take(
        &mut self,
        timeline: &Timeline<'_>,
        verdicts: &mut Verdicts,
        mut look: Observation,
    ) {
        let node = look.node as usize;
        if let Some(epoch) = look
            .serves
            .and_then(|view| epoch(timeline.views.name(view)))
        {
            if self.doubted[node].is_some_and(|doubted| epoch <= doubted) {
                look.serves = None;
            } else {
                self.served[node] = Some(epoch);
            }
        }
        let is_long = |it: &Observation| it.from + ROUND < look.at;
        let mut fresh = self.fresh.iter().zip(&self.newest).filter(|(is, _)| **is);
        let is_over = self.fresh[node] || fresh.any(|(_, it)| it.as_ref().is_some_and(is_long));
        if is_over {
            self.checker(timeline, verdicts);
            self.fresh.fill(false);
        }
        self.fresh[node] = true;
        self.newest[node] = Some(look);
    }

    pub(super) fn end(&mut self, timeline: &Timeline<'_>, verdicts: &mut Verdicts) {
        self.checker(timeline, verdicts);
        let closest = self.closest.map_or_else(String::new, |closest| {
            format!(", at least {closest} short of another grant")
        });
        let worst = format!("{} rounds of looks{closest}", self.rounds);
        verdicts.worst(Claim::Continuity, worst);
    }

    fn checker(&mut self, timeline: &Timeline<'_>, verdicts: &mut Verdicts) {
        let seen = self.newest.iter().flatten();
        let Some(to) = seen.clone().map(|look| look.at).max() else {
            return;
        };
        let is_recent = |look: &&Observation| to <= look.from + ROUND;
        let observations: Vec<Option<&Observation>> = self
            .newest
            .iter()
            .map(|look| look.as_ref().filter(is_recent))
            .collect();
        let from = observations.iter().flatten().map(|look| look.from).min();
        let from = from.unwrap_or(to);
        self.rounds += 1;
        while let Some(&place) = self.grants.get(self.begun) {
            if timeline.calls[place as usize].done >= from {
                break;
            }
            self.valid.push(place);
            self.begun += 1;
        }
        let ends = |place: u32| timeline.calls[place as usize].end();
        self.valid.retain(|&place| ends(place) > from);
        for &place in &self.valid {
            let call = &timeline.calls[place as usize];
            // The validity that was known when the round began must outlast it:
            // a lease that is extended during the round may move to other
            // nodes.
            if ends(place) <= to || call.until_at(from) <= to {
                continue;
            }
            let Some(room) = look_at(timeline, verdicts, call, place, &observations) else {
                continue;
            };
            self.closest = Some(self.closest.map_or(room, |closest| closest.min(room)));
        }
    }
}

/// The number at the start of a view's id.
fn epoch(view: &str) -> Option<u32> {
    view.split(':').next()?.parse().ok()
}

/// How many more nodes would have to be free for another request for the
/// lease's key to be granted. None where the looks cannot show it.
fn look_at(
    timeline: &Timeline<'_>,
    verdicts: &mut Verdicts,
    call: &Call,
    place: u32,
    observations: &[Option<&Observation>],
) -> Option<usize> {
    let set = &timeline.sets[call.set as usize];
    if set.len() != timeline.rules.replicas {
        return None;
    }
    let seen = || set.iter().filter_map(|&node| observations[node as usize]);
    let serving = || seen().filter(|look| look.serves.is_some());
    let view = serving().next()?.serves?;
    let is_one = serving().all(|look| look.serves == Some(view));
    let is_placed_alike =
        view == call.view || timeline.placed.get(&(call.key, view)) == Some(&call.set);
    if !is_one || !is_placed_alike || serving().count() < timeline.quorum() {
        return None;
    }
    verdicts.examined(Claim::Continuity, 1);
    let is_free = |look: &&Observation| {
        let is_own = look
            .entry(call.key)
            .is_some_and(|(whose, _)| whose == Whose::Of(place));
        !is_own && !timeline.stepped[look.node as usize].touch(look.from, look.at)
    };
    let free: Vec<&Observation> = serving().filter(is_free).collect();
    if free.len() >= timeline.quorum() {
        let at = free.iter().map(|look| look.at).max()?;
        let seen: Vec<String> = seen()
            .map(|look| report(timeline, look, call.key))
            .collect();
        let text = format!(
            "somebody else could be granted {:?}: {}",
            timeline.keys.name(call.key),
            seen.join("; "),
        );
        verdicts.broken(Claim::Continuity, at, &[place as usize], text);
    }
    Some(timeline.quorum().saturating_sub(free.len()))
}

fn report(timeline: &Timeline<'_>, look: &Observation, key: u32) -> String {
    let node = timeline.nodes.name(look.node);
    let serves = look.serves.map(|view| timeline.views.name(view));
    let entry = look.entry(key).map(|(whose, remaining)| {
        let whose = match whose {
            Whose::Of(place) => format!("{:x}", timeline.calls[place as usize].ask),
            Whose::Stray(ask) => format!("{ask:x}"),
            Whose::Nobodys => "another".to_owned(),
        };
        (whose, remaining)
    });
    let (from, at) = (look.from, look.at);
    format!("{node} looked at from {from} to {at} serves {serves:?}, holds {entry:?}")
}
