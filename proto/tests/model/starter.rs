//! Starters: the driver around [`NewStart`].
//!
//! Each step is atomic: an observation that most members lost their data; the
//! quarantine of one member, with the last of which all report what they remember;
//! the final status check, after which the view is written. Each member may adopt
//! the written view at any time.

use std::sync::Arc;
use std::time::Duration;

use ringlock_proto::lease::EPOCH_LEAP;
use ringlock_proto::membership::new_start::{NewStart, VoteOutlook, vote_outlook};
use ringlock_proto::membership::view::{Nonces, View};
use ringlock_proto::node::message::{NodeStatus, PriorState, Reply, Request};
use ringlock_proto::time::Instant;

use crate::cluster::{home, member, name};
use crate::cow::Shared;
use crate::faults;
use crate::properties::Seen;
use crate::scenario::{Mutant, at};
use crate::world::{Explored, World};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Starter {
    /// Attempts started.
    tries: u8,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Idle,
    /// The number of members quarantined so far, and the states they were seen in.
    Stopping(NewStart, Vec<NodeStatus>, usize),
    Waiting(NewStart),
    Over(Arc<View>),
}

/// The reading of a starter's clock. It runs ahead of the nodes' by the margin of a
/// wait, even where the nodes measured a part of the wait.
fn starter_clock(tick: u8) -> Instant {
    at(tick) + Duration::from_millis(90) * u32::from(tick)
}

impl Starter {
    pub(crate) fn new() -> Self {
        Self {
            tries: 0,
            stage: Stage::Idle,
        }
    }

    /// The view that it has written.
    pub(crate) fn written(&self) -> Option<&Arc<View>> {
        match &self.stage {
            Stage::Over(view) => Some(view),
            _ => None,
        }
    }
}

/// The newest view that a node serves, or the first where none serves one.
fn newest(model: &Explored, world: &World) -> Arc<View> {
    let served = world.nodes.iter().filter_map(|table| faults::served(table));
    let newest = served.max();
    newest.map_or_else(|| Arc::clone(&model.first), |id| model.library.find(id))
}

impl Explored {
    /// Whether a starter may take a step.
    pub(crate) fn may_start(&self, world: &World, who: usize) -> bool {
        let starter = &world.starters[who];
        match &starter.stage {
            Stage::Idle => starter.tries < self.scenario.starters[who] && self.is_lost(world),
            Stage::Stopping(..) => true,
            Stage::Waiting(start) => {
                let early = self.scenario.is(Mutant::ShortNewStartWait);
                starter_clock(world.tick + u8::from(early)) >= start.due()
            }
            Stage::Over(_) => false,
        }
    }

    fn is_lost(&self, world: &World) -> bool {
        let view = newest(self, world);
        let statuses: Vec<NodeStatus> = world.nodes.iter().map(|it| faults::status(it)).collect();
        let status = |name: &str| Some(&statuses[crate::cluster::home_of(name)]);
        vote_outlook(&view, status) == VoteOutlook::StartsAnew
    }

    /// The starter's next step.
    pub(crate) fn start(&self, world: &mut World, who: usize) {
        let mut starter = (*world.starters[who]).clone();
        starter.stage = match starter.stage {
            Stage::Idle => {
                starter.tries += 1;
                let statuses: Vec<_> = world.nodes.iter().map(|it| faults::status(it)).collect();
                let tries = starter.tries;
                let nonce = |node: usize| format!("start-{who}-{tries}-{node}").into();
                let nonces = (0..statuses.len()).map(nonce).collect();
                let span = self.first.longest_ttl();
                // A router remembers the view that it has used.
                let known = world.decided.last().unwrap().id().epoch;
                let least = match self.scenario.is(Mutant::NewStartBelow) {
                    true => 1,
                    false => known + EPOCH_LEAP,
                };
                let start = NewStart::new(nonces, (span, Duration::ZERO), least);
                Stage::Stopping(start, statuses, 0)
            }
            Stage::Stopping(start, statuses, stopped) => {
                self.stop_one(world, start, statuses, stopped)
            }
            Stage::Waiting(start) => self.write(world, &start),
            over @ Stage::Over(_) => over,
        };
        world.starters[who] = Shared::new(starter);
    }

    fn stop_one(
        &self,
        world: &mut World,
        mut start: NewStart,
        statuses: Vec<NodeStatus>,
        stopped: usize,
    ) -> Stage {
        let now = at(world.tick);
        // The order is the same for all starters. The owner of the key comes
        // last: it may continue to serve while the others wait.
        let member = statuses.len() - 1 - stopped;
        let request = start.quarantine(member, &statuses[member]);
        let reply = world.nodes[member].update(|table| table.apply(now, &request));
        if reply != Reply::Done {
            self.see(Seen::Disturbed);
            return Stage::Idle;
        }
        if stopped + 1 < statuses.len() {
            return Stage::Stopping(start, statuses, stopped + 1);
        }
        let mut pasts: Vec<PriorState> = (world.nodes.iter())
            .map(
                |table| match (**table).clone().apply(now, &Request::PriorState) {
                    Reply::PriorState(past) => past,
                    other => panic!("{other:?}"),
                },
            )
            .collect();
        if self.scenario.is(Mutant::LongestQuarantineCounts) {
            let longest = pasts.iter().map(|past| past.quarantined_for).max();
            for past in &mut pasts {
                past.quarantined_for = longest.flatten();
            }
        }
        if pasts
            .iter()
            .any(|past| past.quarantined_for > Some(Duration::ZERO))
        {
            self.see(Seen::TakenOver);
        }
        if self.scenario.is(Mutant::NewStartBelow) {
            pasts.iter_mut().for_each(|past| past.epoch = 0);
        }
        start.heard(starter_clock(world.tick), &pasts);
        Stage::Waiting(start)
    }

    fn write(&self, world: &World, start: &NewStart) -> Stage {
        let statuses: Vec<_> = (world.nodes.iter())
            .map(|table| Some(faults::status(table)))
            .collect();
        if !start.is_undisturbed(&statuses) {
            self.see(Seen::Disturbed);
            return Stage::Idle;
        }
        let nonces: Nonces = (start.nonces().iter().enumerate())
            .map(|(home, nonce)| (name(home).into(), Arc::clone(nonce)))
            .collect();
        let topology = self.first.topology().clone();
        let view = Arc::new(View::stable(start.epoch(), topology, &nonces).unwrap());
        self.library.shelve(&view);
        Stage::Over(view)
    }

    /// Whether `to` would adopt what the starter has written.
    pub(crate) fn would_follow(&self, world: &World, who: usize, to: usize) -> bool {
        let written = world.starters[who].written();
        written.is_some_and(|view| {
            faults::would_adopt(&self.scenario, &faults::status(&world.nodes[to]), view, to)
        })
    }

    /// A member adopts the view that the starter has written. Two views of one epoch
    /// must not be served, so it counts as decided from now on.
    pub(crate) fn follow(&self, world: &mut World, who: usize, to: usize) {
        let Some(view) = world.starters[who].written().cloned() else {
            return;
        };
        self.decide(world, &view);
        let node = member(&view, to).unwrap();
        world.nodes[home(&view, node)]
            .update(|table| faults::adopt_as(&self.scenario, table, &view, node));
    }
}
