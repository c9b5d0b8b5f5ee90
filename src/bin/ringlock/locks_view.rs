//! The holder of each key, combined from the entries on the nodes.

use futures_util::future::join_all;
use ringlock::node::redis::inspect::{Entry, Found};
use ringlock::proto::lease::COUNTER_BITS;
use ringlock::proto::membership::view::View;
use ringlock::proto::node::message::FenceCounterId;
use ringlock::proto::quorum::{Placement, Voter, VoterSet};
use ringlock::{Key, NodeError};
use ringlock_ring::NodeIndex;
use serde::Serialize;

use crate::cluster::{ClusterSnapshot, ServerReport, State};

/// A node that was not asked, and why.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Skipped {
    pub(crate) node: String,
    pub(crate) reason: String,
}

/// One lease, or another program's lock, on all nodes that have it.
#[derive(Clone, Debug)]
pub(crate) struct LockView {
    pub(crate) key: Key,
    /// The entry that lasts the longest.
    pub(crate) entry: Entry,
    /// The sightings that have it.
    pub(crate) on: Vec<usize>,
}

/// What was found under some keys, on the nodes that may hold locks.
#[derive(Debug, Default)]
pub(crate) struct LocksView {
    pub(crate) all: Vec<LockView>,
    /// Keys that hold something that is no lock, and the sightings where.
    pub(crate) no_locks: Vec<(Key, usize)>,
    pub(crate) skipped: Vec<Skipped>,
}

impl ClusterSnapshot<'_> {
    /// Asks every node about `keys`. A node that does not answer now is not
    /// asked again.
    pub(crate) async fn find(&mut self, keys: &[Key]) -> LocksView {
        let skipped = self.leave_unfit();
        let answers = self.ask_all(async |server_report| {
            let seen = server_report.seen.as_mut().ok()?;
            Some(seen.look.find(keys).await)
        });
        let answers = answers.await;
        let mut locks = LocksView {
            skipped,
            ..LocksView::default()
        };
        let mut lists = Vec::new();
        for (index, answer) in answers.into_iter().enumerate() {
            match answer {
                Some(Ok(found)) => lists.push((index, found)),
                Some(Err(error)) => locks.skipped.push(self.drop_out(index, error)),
                None => {}
            }
        }
        for (at, key) in keys.iter().enumerate() {
            let first = locks.all.len();
            for (index, found) in &lists {
                match &found[at] {
                    Found::Held(entry) => locks.add(first, key, *index, entry),
                    Found::NoLock => locks.no_locks.push((key.clone(), *index)),
                    _ => {}
                }
            }
        }
        locks
    }

    /// Removes the nodes that must not hold locks or did not answer.
    pub(crate) fn leave_unfit(&mut self) -> Vec<Skipped> {
        let states = self.states();
        let mut skipped = Vec::new();
        for (server_report, (state, reason)) in self.server_reports.iter_mut().zip(states) {
            let is_unfit = matches!(state, State::Unsuitable) || server_report.seen.is_err();
            if let (true, Some(reason)) = (is_unfit, reason) {
                let error = NodeError::new(ringlock::NodeErrorKind::Unsuitable, &*reason);
                if server_report.seen.is_ok() {
                    server_report.seen = Err(error);
                }
                let node = server_report.node.name.clone();
                skipped.push(Skipped { node, reason });
            }
        }
        skipped
    }

    /// Records that the node did not answer this time.
    pub(crate) fn drop_out(&mut self, index: usize, error: NodeError) -> Skipped {
        let server_report = &mut self.server_reports[index];
        let reason = format!("{error:#}");
        server_report.seen = Err(error);
        Skipped {
            node: server_report.node.name.clone(),
            reason,
        }
    }

    /// Asks every node at once.
    pub(crate) async fn ask_all<T>(
        &mut self,
        question: impl AsyncFn(&mut ServerReport<'_>) -> T,
    ) -> Vec<T> {
        let asked = self.server_reports.iter_mut();
        join_all(asked.map(|server_report| question(server_report))).await
    }

    /// The placement of the key in the view, and the reports of its voters.
    pub(crate) fn place(&self, key: &Key) -> Option<Place<'_>> {
        let view = self.view.as_ref()?;
        let placement = view.place(key);
        Some(Place {
            snapshot: self,
            view,
            placement,
        })
    }

    /// For each of `keys` the highest fence that can have been granted for it,
    /// where the nodes that were asked know it: the count of its slot.
    ///
    /// Call this after the locks were found. It needs a majority that still
    /// serves the view (in a joint one, of both topologies), so that no fence
    /// was granted under a newer view. It also needs enough of the key's
    /// replicas that no grant went past them.
    pub(crate) async fn fences_at_most(&mut self, keys: &[Key]) -> Vec<Option<u64>> {
        let unknown = keys.iter().map(|_| None).collect();
        let Some(view) = self.view.clone() else {
            return unknown;
        };
        let id = view.id();
        let slots: Vec<FenceCounterId> = keys.iter().map(|key| view.place(key).slot()).collect();
        let counts = self.ask_all(async |server_report| {
            let seen = server_report.seen.as_mut().ok()?;
            seen.serving().filter(|serving| *serving == id)?;
            seen.look.counters(id, &slots).await.ok()?
        });
        let counts = counts.await;
        let has_reported = |node: NodeIndex| {
            let name = &view.member(node).name;
            let mut reported = self.server_reports.iter().zip(&counts);
            reported
                .any(|(server_report, counts)| counts.is_some() && server_report.node.name == *name)
        };
        if !view.has_majority(has_reported) {
            return unknown;
        }
        let fence = |(at, key)| {
            let place = self.place(key)?;
            let knows = |index: usize| counts[index].as_ref().map(|counts| counts[at]);
            let known = place.voters(|index| knows(index).is_some());
            let counter = known
                .iter()
                .filter_map(|voter| knows(place.index(voter)?))
                .max()?;
            let is_enough = place.placement.is_blocked_by(known);
            is_enough.then_some(u64::from(id.epoch) << COUNTER_BITS | counter)
        };
        keys.iter().enumerate().map(fence).collect()
    }
}

impl LocksView {
    /// Records that `index` has this entry too; the key's other locks begin
    /// at `first`.
    fn add(&mut self, first: usize, key: &Key, index: usize, entry: &Entry) {
        let known = self.all[first..].iter_mut();
        match known.into_iter().find(|h| h.entry.is_of_lease(entry)) {
            Some(holding) => {
                holding.on.push(index);
                if lasts(entry) > lasts(&holding.entry) {
                    holding.entry = entry.clone();
                }
            }
            None => self.all.push(LockView {
                key: key.clone(),
                entry: entry.clone(),
                on: vec![index],
            }),
        }
    }
}

fn lasts(entry: &Entry) -> std::time::Duration {
    entry.remaining().unwrap_or(std::time::Duration::MAX)
}

/// How many replicas of one group have an entry.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct EntryCount {
    pub(crate) on: usize,
    pub(crate) of: usize,
    pub(crate) is_quorum: bool,
}

/// The placement of a key, in terms of a snapshot.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    snapshot: &'a ClusterSnapshot<'a>,
    view: &'a View,
    pub(crate) placement: Placement,
}

impl Place<'_> {
    /// The voters whose nodes reported and are wanted.
    pub(crate) fn voters(&self, is_wanted: impl Fn(usize) -> bool) -> VoterSet {
        let voters = self.placement.voters().iter();
        voters
            .filter(|&voter| self.index(voter).is_some_and(&is_wanted))
            .collect()
    }

    /// The report of the node of `voter`.
    fn index(&self, voter: Voter) -> Option<usize> {
        let name = &self.view.member(self.placement.node(voter)).name;
        let mut server_reports = self.snapshot.server_reports.iter();
        server_reports.position(|server_report| server_report.node.name == *name)
    }

    /// The names of the key's nodes, the owner first.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.placement.nodes().iter();
        names
            .map(|&node| self.view.member(node).name.clone())
            .collect()
    }

    /// How many of each group's nodes are among these voters: one group or, while
    /// a change is under way, the old and the new.
    pub(crate) fn votes(&self, voters: VoterSet) -> Vec<EntryCount> {
        let groups = self.placement.groups();
        let votes = groups.map(|group| EntryCount {
            on: voters.intersection(group).len(),
            of: group.len(),
            is_quorum: voters.has_majority_of(group),
        });
        votes.collect()
    }
}
