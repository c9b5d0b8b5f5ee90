//! The entries that a call leaves behind block its key no longer than it asked
//! for, counted from the arrival of its last request.

use std::collections::HashSet;

use crate::checker::entities::Call;
use crate::checker::observations::{Observation, Whose};
use crate::checker::report::show;
use crate::checker::timeline::{MARGIN, Timeline};
use crate::checker::verdicts::{Claim, Verdicts};
use crate::history::{MS, Time};

/// Servers count in milliseconds.
const ROUNDING: Time = 2 * MS;

#[derive(Default)]
pub(super) struct Orphans {
    /// Seen more than a moment after the end, on a node.
    seen: HashSet<(u32, u32)>,
    /// Reported already.
    reported: HashSet<(u32, u32)>,
    longest: Time,
    beyond_landing: Time,
    unknown: u64,
}

impl Orphans {
    pub(super) fn take(
        &mut self,
        timeline: &Timeline<'_>,
        verdicts: &mut Verdicts,
        look: &Observation,
    ) {
        if timeline.stepped[look.node as usize].touch(look.from, look.at) {
            return;
        }
        for &(key, whose, remaining) in &look.entries {
            match whose {
                Whose::Nobodys => {}
                Whose::Of(place) => self.entry(timeline, verdicts, look, (place, remaining)),
                Whose::Stray(ask) => {
                    // A slain worker may have died before it recorded the call.
                    let worker = timeline.workers.get(&((ask >> 32) as u32));
                    self.unknown += 1;
                    if worker.is_none_or(|worker| worker.slain.is_none()) {
                        let key = timeline.keys.name(key);
                        let text = format!("{key:?} is locked by {ask:x}, who never asked");
                        verdicts.broken(Claim::Orphans, look.at, &[], text);
                    }
                }
            }
        }
    }

    fn entry(
        &mut self,
        timeline: &Timeline<'_>,
        verdicts: &mut Verdicts,
        look: &Observation,
        (place, remaining): (u32, Time),
    ) {
        verdicts.examined(Claim::Orphans, 1);
        let call = &timeline.calls[place as usize];
        let node = timeline.nodes.name(look.node);
        if remaining > call.ttl + ROUNDING && self.reported.insert((place, look.node)) {
            let text = format!("an entry on {node} lasts {} more", show(remaining));
            verdicts.broken(Claim::Orphans, look.at, &[place as usize], text);
        }
        let over = timeline.over(call);
        let age = look.from.saturating_sub(over);
        if age <= MARGIN {
            return;
        }
        self.seen.insert((place, look.node));
        self.longest = self.longest.max(age);
        let landed = landing(timeline, call, look.node, over);
        let since = look.from.saturating_sub(landed);
        self.beyond_landing = self.beyond_landing.max(since);
        if since > call.ttl + MARGIN && self.reported.insert((place, look.node)) {
            let text = format!(
                "an entry on {node} is there {} after its call was over, {} after anything \
                 of it could arrive",
                show(age),
                show(since),
            );
            verdicts.broken(Claim::Orphans, look.at, &[place as usize], text);
        }
    }

    pub(super) fn end(&self, verdicts: &mut Verdicts) {
        let worst = format!(
            "{} orphans, keys blocked {} at most, {} after arrival; {} sightings of what the slain \
             did not write down",
            self.seen.len(),
            show(self.longest),
            show(self.beyond_landing),
            self.unknown,
        );
        verdicts.worst(Claim::Orphans, worst);
    }
}

/// The latest arrival at `node` of the last request of a call that was over at
/// `over`.
fn landing(timeline: &Timeline<'_>, call: &Call, node: u32, over: Time) -> Time {
    let worker = timeline.workers.get(&call.by);
    let sent = worker.map_or(over, |worker| worker.away.end(over, over));
    // Requests in flight when the fault begins are delayed as well.
    timeline.held[node as usize].end(sent, sent.saturating_add(MARGIN))
}
