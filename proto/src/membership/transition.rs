//! Changing which nodes there are: a coordinator's next step, from what it has
//! seen.
//!
//! A change leads from one stable view through a joint one to the next stable one.
//! In the joint view every lock needs a quorum of its old replicas and one of
//! its new ones, so that neither side can grant what the other has granted
//! (joint consensus; Diego Ongaro, “Consensus: Bridging Theory and Practice”,
//! 2014, §4.3). Only this module defines the wait before each step. A coordinator
//! keeps nothing that it cannot observe again: another may take over at any point,
//! and several may be active at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::NodeIndex;

pub use crate::membership::obstacle::Obstacle;
pub use crate::membership::requests::{adopt, adopt_under, quarantine};
use crate::membership::takeback::TransitionStop;
use crate::membership::topology::{Topology, TopologyError};
use crate::membership::view::{Nonces, View};
use crate::node::message::{NodeState, NodeStatus, Nonce, Request, ViewId};
use crate::quorum::majority;
use crate::time::{Instant, outwait};

/// A coordinator's goal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::large_enum_variant,
    reason = "a coordinator has one of them, for as long as it lives"
)]
pub enum Goal {
    /// Keep every member in place: members that lost their data are readmitted.
    Keep,
    /// Make the transition from one topology to another.
    Reach {
        /// The topology in force at the beginning.
        from: Topology,
        /// The topology at the end.
        to: Topology,
    },
    /// Take back the transition that is in progress.
    Abort,
}

/// A coordinator's next step.
#[derive(Debug)]
pub enum Move {
    /// Send these requests, then check again.
    Send(Vec<(String, Request)>),
    /// Put this view to the vote.
    Propose(Box<View>),
    /// Check again; there is nothing to do before `until`.
    Wait {
        /// When there is something to do.
        until: Instant,
        /// The reason for the wait.
        reason: Waiting,
    },
    /// These nodes block the change; check again.
    Blocked(Vec<(String, Obstacle)>),
    /// The goal is reached.
    Done,
    /// Another coordinator has given the cluster another topology.
    Superseded,
}

/// The reason for a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// Locks that a node without memory may have held must expire.
    Quarantine,
    /// Leases, and reliance on views, from before the joint view must expire.
    Leases,
}

/// What was observed of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct NodeObservation {
    /// Its last answer; `None` where it gave none.
    status: Option<NodeStatus>,
    /// The nonce of its quarantine, and since when this was observed.
    quarantined: Option<(Nonce, Instant)>,
    /// The highest epoch that it was observed to serve as a member.
    reached: u32,
}

/// A coordinator's goal and knowledge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    goal: Goal,
    view: Arc<View>,
    /// The nodes that no client can reach, by the operator's assertion.
    fenced: BTreeSet<String>,
    /// For each newcomer, the view that it was retired from and may be removed from.
    retired: BTreeMap<String, ViewId>,
    sights: BTreeMap<String, NodeObservation>,
    /// When a majority of the old nodes was first seen to know of the transition.
    known_at: Option<Instant>,
    /// When so many of them knew it that the others can grant no lock on their own.
    cut_off_at: Option<Instant>,
    /// Why the transition to the goal is not continued.
    stopped: Option<TransitionStop>,
    /// The epoch whose plans must be prevented.
    outdates: Option<u32>,
}

impl Transition {
    /// A coordinator that knows `view` to be decided, and has seen nothing else.
    pub fn new(goal: Goal, view: Arc<View>) -> Self {
        Self {
            goal,
            view,
            fenced: BTreeSet::new(),
            retired: BTreeMap::new(),
            sights: BTreeMap::new(),
            known_at: None,
            cut_off_at: None,
            stopped: None,
            outdates: None,
        }
    }

    /// Records the operator's assertion that no client can reach these nodes.
    #[must_use]
    pub fn with_fenced(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.fenced.extend(names);
        self
    }

    /// These nodes serve a view that they were retired from: they may be admitted
    /// again.
    #[must_use]
    pub fn with_retired(mut self, nodes: impl IntoIterator<Item = (String, ViewId)>) -> Self {
        self.retired.extend(nodes);
        self
    }

    /// For [`Goal::Abort`]: where no transition is in progress, the same topology
    /// is decided once more, so that no plan for the current view is started.
    #[must_use]
    pub fn with_plans_outdated(mut self) -> Self {
        self.outdates = Some(self.view.id().epoch);
        self
    }

    /// The view by which the transition to the goal was taken back. It is not
    /// started again.
    pub fn taken_back(&self) -> Option<ViewId> {
        self.stopped.and_then(TransitionStop::taken_back)
    }

    /// The newest view that this coordinator knows to be decided.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// All nodes to observe: the members, and the nodes that the goal names.
    pub fn everybody(&self) -> BTreeSet<String> {
        let newcomers = self.newcomers().into_iter();
        let members = self.view.members().map(|node| node.name.clone());
        members.chain(newcomers).collect()
    }

    /// `view` was decided, after the known one.
    pub fn moved(&mut self, view: Arc<View>) {
        if view.id().epoch <= self.view.id().epoch {
            return;
        }
        if let Goal::Reach { from, to } = &self.goal {
            let stopped = || TransitionStop::by(from, to, &self.view, &view);
            self.stopped = self.stopped.or_else(stopped);
        }
        let is_same_passage = view.next() == self.view.next() && view.since() == self.view.since();
        if !is_same_passage {
            (self.known_at, self.cut_off_at) = (None, None);
        }
        self.view = view;
    }

    /// A node answered STATUS, or gave no answer; received at `now`.
    pub fn saw(&mut self, now: Instant, name: &str, status: Option<NodeStatus>) {
        let listed = self.view.index_of(name).map(|node| self.view.nonce(node));
        let observation = self.sights.entry(name.into()).or_default();
        if let Some(status) = &status {
            match (status.standing(), &status.nonce) {
                (NodeState::Quarantined, Some(nonce)) => match &observation.quarantined {
                    Some((known, _)) if known == nonce => {}
                    _ => observation.quarantined = Some((Arc::clone(nonce), now)),
                },
                (NodeState::Serving(view), nonce) if nonce.as_ref() == listed => {
                    observation.quarantined = None;
                    observation.reached = observation.reached.max(view.epoch);
                }
                _ => observation.quarantined = None,
            }
        }
        observation.status = status;
        self.note_change(now);
    }

    fn note_change(&mut self, now: Instant) {
        let since = self.view.since();
        let is_reached = |node: NodeIndex| {
            let name = &self.view.member(node).name;
            let observation = self.sights.get(name);
            observation.is_some_and(|observation| observation.reached >= since)
        };
        let deciders = self.view.deciders();
        let needed = majority(deciders.len());
        if self.known_at.is_none() && deciders.filter(|&node| is_reached(node)).count() >= needed {
            self.known_at = Some(now);
        }
        let is_fenced = |node: NodeIndex| self.fenced.contains(&self.view.member(node).name);
        if self.cut_off_at.is_none()
            && self.known_at.is_some()
            && self
                .view
                .is_cut_off(|node| is_reached(node) || is_fenced(node))
        {
            self.cut_off_at = Some(now);
        }
    }

    /// Members that lost their data, and when each has been excluded long enough.
    pub fn returning(&self) -> impl Iterator<Item = (&str, Instant)> {
        let wait = outwait(self.longest_ttl());
        let due = move |node: NodeIndex| {
            let name = &self.view.member(node).name;
            let (nonce, since) = self.sights.get(name)?.quarantined.as_ref()?;
            (nonce != self.view.nonce(node)).then(|| (name.as_str(), *since + wait))
        };
        let members = (0..self.view.len()).map(|node| NodeIndex::new(node as u16));
        members.filter_map(due)
    }

    /// The step to take at `now`. `fresh` gives a nonce that was never used.
    ///
    /// # Errors
    /// [`TopologyError`]: the resulting topology contradicts itself.
    pub fn next(
        &self,
        now: Instant,
        mut fresh: impl FnMut() -> Nonce,
    ) -> Result<Move, TopologyError> {
        if !self.is_on_track() {
            return Ok(Move::Superseded);
        }
        let requests = self.requests(&mut fresh);
        if !requests.is_empty() {
            return Ok(Move::Send(requests));
        }
        let waits = self.forgetful();
        let wait = outwait(self.longest_ttl());
        let is_over = |since: Instant| since + wait <= now;
        let ready: Nonces = waits
            .iter()
            .filter(|(_, (_, since))| is_over(*since))
            .map(|(name, (nonce, _))| (name.clone(), Arc::clone(nonce)))
            .collect();
        if !ready.is_empty() {
            return self.readmit(ready).map(propose);
        }
        let step = match &self.goal {
            Goal::Keep => Ok(Move::Done),
            Goal::Abort
                if self.view.next().is_some() || self.outdates == Some(self.view.id().epoch) =>
            {
                self.stable(self.view.topology()).map(propose)
            }
            Goal::Abort => Ok(self.spread()),
            Goal::Reach { to, .. } => match self.view.next() {
                Some(next) if next == to => self.complete(now, to),
                _ if self.view.topology() == to => Ok(self.spread()),
                _ => self.begin(now, to),
            },
        }?;
        let soonest = waits.values().map(|(_, since)| *since + wait).min();
        Ok(match (soonest, step) {
            (Some(until), Move::Done | Move::Blocked(_)) => Move::Wait {
                until,
                reason: Waiting::Quarantine,
            },
            (Some(soonest), Move::Wait { until, reason }) => Move::Wait {
                until: until.min(soonest),
                reason,
            },
            (_, step) => step,
        })
    }

    /// Whether the goal may have led to the view.
    fn is_on_track(&self) -> bool {
        let Goal::Reach { from, to } = &self.goal else {
            return true;
        };
        if self.stopped.is_some() {
            return false;
        }
        let (current, next) = (self.view.topology(), self.view.next());
        current == to || next == Some(to) || (current == from && next.is_none())
    }

    /// Nodes that are in the goal but not in the view.
    fn newcomers(&self) -> Vec<String> {
        let Goal::Reach { to, .. } = &self.goal else {
            return Vec::new();
        };
        let names = to.nodes.iter().map(|node| &node.name);
        names
            .filter(|name| self.view.index_of(name).is_none())
            .cloned()
            .collect()
    }

    /// The longest ttl that any lock of the past or the near future may have.
    fn longest_ttl(&self) -> Duration {
        let view = self.view.longest_ttl();
        match &self.goal {
            Goal::Reach { to, .. } => view.max(to.max_ttl()),
            Goal::Keep | Goal::Abort => view,
        }
    }

    /// Requests that give the view to members that are behind, and quarantine nodes
    /// without memory.
    fn requests(&self, fresh: &mut impl FnMut() -> Nonce) -> Vec<(String, Request)> {
        let mut requests = Vec::new();
        for name in self.everybody() {
            let Some(status) = self.status(&name) else {
                continue;
            };
            let member = self.view.index_of(&name);
            let is_listed =
                member.is_some_and(|node| Some(self.view.nonce(node)) == status.nonce.as_ref());
            let request = match status.standing() {
                NodeState::Absent => Some(quarantine(status, fresh())),
                NodeState::Serving(view) if !is_listed => {
                    let is_retired = self.retired.get(&name) == Some(&view);
                    (member.is_none() && is_retired).then(|| quarantine(status, fresh()))
                }
                NodeState::Serving(view) if view.epoch >= self.view.id().epoch => None,
                NodeState::Serving(_) => member.map(|node| adopt(&self.view, node)),
                NodeState::Quarantined => member
                    .filter(|_| is_listed)
                    .map(|node| adopt(&self.view, node)),
            };
            requests.extend(request.map(|request| (name, request)));
        }
        requests
    }

    fn status(&self, name: &str) -> Option<&NodeStatus> {
        self.sights.get(name)?.status.as_ref()
    }

    /// Members that are quarantined under another nonce than the listed one, and
    /// since when this was observed.
    fn forgetful(&self) -> BTreeMap<String, (Nonce, Instant)> {
        let entry = |node: NodeIndex| {
            let name = &self.view.member(node).name;
            let observation = self.sights.get(name)?;
            observation.status.as_ref()?;
            let (nonce, since) = observation.quarantined.clone()?;
            (nonce != *self.view.nonce(node)).then(|| (name.clone(), (nonce, since)))
        };
        let members = (0..self.view.len()).map(|node| NodeIndex::new(node as u16));
        members.filter_map(entry).collect()
    }

    /// The same topologies, with these members under new nonces.
    fn readmit(&self, ready: Nonces) -> Result<View, TopologyError> {
        let mut nonces = self.view.nonces();
        nonces.extend(ready);
        let (epoch, current) = (self.view.id().epoch + 1, self.view.topology().clone());
        match self.view.next() {
            Some(next) => View::joint(epoch, current, next.clone(), self.view.since(), &nonces),
            None => View::stable(epoch, current, &nonces),
        }
    }

    fn stable(&self, topology: &Topology) -> Result<View, TopologyError> {
        let mut nonces = self.view.nonces();
        nonces.retain(|name, _| topology.nodes.iter().any(|node| node.name == *name));
        View::stable(self.view.id().epoch + 1, topology.clone(), &nonces)
    }

    /// The joint view, once every newcomer has been quarantined long enough.
    fn begin(&self, now: Instant, to: &Topology) -> Result<Move, TopologyError> {
        let mut nonces = self.view.nonces();
        let mut obstacles = Vec::new();
        let mut latest = None;
        for name in self.newcomers() {
            let observation = self.sights.get(&name).cloned().unwrap_or_default();
            match (
                observation.status.map(|status| status.standing()),
                observation.quarantined,
            ) {
                (Some(NodeState::Quarantined), Some((nonce, since))) => {
                    latest = latest.max(Some(since));
                    nonces.insert(name, nonce);
                }
                (Some(NodeState::Serving(view)), _) => {
                    obstacles.push((name, Obstacle::Foreign(view)));
                }
                _ => obstacles.push((name, Obstacle::Silent)),
            }
        }
        if !obstacles.is_empty() {
            return Ok(Move::Blocked(obstacles));
        }
        let until = latest.map(|since| since + outwait(self.longest_ttl()));
        if let Some(until) = until.filter(|&until| now < until) {
            let reason = Waiting::Quarantine;
            return Ok(Move::Wait { until, reason });
        }
        let epoch = self.view.id().epoch + 1;
        let from = self.view.topology().clone();
        View::joint(epoch, from, to.clone(), epoch, &nonces).map(propose)
    }

    /// The new topology only, once nothing from before the joint view is left and
    /// every newcomer serves the joint view.
    fn complete(&self, now: Instant, to: &Topology) -> Result<Move, TopologyError> {
        let old = self.view.deciders().len();
        let newcomers = (old..self.view.len()).map(|node| NodeIndex::new(node as u16));
        let mut obstacles = self.obstacles(newcomers, self.view.since());
        if self.known_at.is_none() {
            obstacles.extend(self.obstacles(self.view.deciders(), self.view.since()));
        }
        if !obstacles.is_empty() {
            return Ok(Move::Blocked(obstacles));
        }
        let ttl = self.view.longest_ttl();
        let lease = self.view.longest_view_lease();
        let after = |at: Option<Instant>, span| at.map_or(Instant::MAX, |at| at + outwait(span));
        let until = after(self.known_at, ttl + lease).min(after(self.cut_off_at, ttl));
        if now < until {
            let reason = Waiting::Leases;
            return Ok(Move::Wait { until, reason });
        }
        // From then on the new nodes decide: a majority of them must be able to.
        let heirs = to.nodes.iter();
        let heirs = heirs.filter_map(|node| self.view.index_of(&node.name));
        let unable = self.obstacles(heirs, self.view.since());
        if unable.len() > to.nodes.len() - majority(to.nodes.len()) {
            return Ok(Move::Blocked(unable));
        }
        self.stable(to).map(propose)
    }

    /// Members that do not serve the view, each with the reason.
    pub fn out(&self) -> Vec<(String, Obstacle)> {
        let members = (0..self.view.len()).map(|node| NodeIndex::new(node as u16));
        self.obstacles(members, self.view.id().epoch)
    }

    /// Whether a majority serves the view, and every node that answers does.
    fn spread(&self) -> Move {
        let obstacles = self.out();
        let is_behind = |(_, obstacle): &(String, Obstacle)| *obstacle != Obstacle::Silent;
        let serves = self.view.len() - obstacles.len();
        if obstacles.iter().any(is_behind) || serves < majority(self.view.len()) {
            Move::Blocked(obstacles)
        } else {
            Move::Done
        }
    }

    /// Which of these members do not serve `epoch` or a later one.
    fn obstacles(
        &self,
        members: impl Iterator<Item = NodeIndex>,
        epoch: u32,
    ) -> Vec<(String, Obstacle)> {
        let obstacle = |node: NodeIndex| {
            let name = &self.view.member(node).name;
            let obstacle = match self.status(name) {
                None => Obstacle::Silent,
                Some(status) => match status.standing() {
                    NodeState::Serving(view)
                        if status.nonce.as_ref() != Some(self.view.nonce(node)) =>
                    {
                        Obstacle::Foreign(view)
                    }
                    NodeState::Serving(view) if view.epoch >= epoch => return None,
                    _ => Obstacle::Behind,
                },
            };
            Some((name.clone(), obstacle))
        };
        members.filter_map(obstacle).collect()
    }
}

fn propose(view: View) -> Move {
    Move::Propose(Box::new(view))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::message::Incarnation;

    const TTL: Duration = Duration::from_secs(30);
    const LEASE: Duration = Duration::from_secs(10);
    const NANO: Duration = Duration::from_nanos(1);

    const OLD: [&str; 3] = ["a", "b", "c"];
    /// The members after a change: `a` leaves, `d` joins.
    const NEW: [&str; 3] = ["b", "c", "d"];

    fn secs(secs: u64) -> Instant {
        Instant::default() + Duration::from_secs(secs)
    }

    fn topology(names: &[&str]) -> Topology {
        Topology {
            max_ttl_ms: TTL.as_millis() as u64,
            view_lease_ms: LEASE.as_millis() as u64,
            vnodes: 16,
            ..Topology::sample(names, 1)
        }
    }

    /// The default nonce of a member in the tests.
    fn nonce(name: &str) -> Nonce {
        format!("nonce of {name}").into()
    }

    fn nonces(names: &[&str]) -> Nonces {
        names
            .iter()
            .map(|&name| (name.into(), nonce(name)))
            .collect()
    }

    fn stable(epoch: u32, names: &[&str]) -> View {
        View::stable(epoch, topology(names), &nonces(names)).unwrap()
    }

    fn joint(epoch: u32, old: &[&str], new: &[&str], since: u32) -> View {
        let all: Vec<&str> = old.iter().chain(new).copied().collect();
        let (from, to) = (topology(old), topology(new));
        View::joint(epoch, from, to, since, &nonces(&all)).unwrap()
    }

    fn reach(from: &[&str], to: &[&str]) -> Goal {
        Goal::Reach {
            from: topology(from),
            to: topology(to),
        }
    }

    fn absent() -> NodeStatus {
        NodeStatus {
            incarnation: "run-1".into(),
            ..NodeStatus::default()
        }
    }

    fn quarantined(nonce: &str) -> NodeStatus {
        let incarnation: Incarnation = "run-1".into();
        NodeStatus {
            serving: None,
            nonce: Some(nonce.into()),
            stamped: Some(Arc::clone(&incarnation)),
            incarnation,
        }
    }

    fn serving(nonce: &str, view: ViewId) -> NodeStatus {
        NodeStatus {
            serving: Some(view),
            ..quarantined(nonce)
        }
    }

    fn view_id(epoch: u32) -> ViewId {
        ViewId { epoch, digest: 7 }
    }

    /// A coordinator whose inputs and outputs a test controls.
    struct Script {
        coordinator: Transition,
        now: Instant,
    }

    impl Script {
        fn of(goal: Goal, view: View) -> Self {
            Self::with(Transition::new(goal, Arc::new(view)))
        }

        fn with(coordinator: Transition) -> Self {
            let now = secs(1000);
            Self { coordinator, now }
        }

        fn sees(&mut self, name: &str, status: NodeStatus) {
            self.coordinator.saw(self.now, name, Some(status));
        }

        fn misses(&mut self, name: &str) {
            self.coordinator.saw(self.now, name, None);
        }

        /// The node serves this epoch under the nonce that the view lists.
        fn serves(&mut self, name: &str, epoch: u32) {
            let view = self.coordinator.view();
            let view_id = match view.id() {
                own if own.epoch == epoch => own,
                _ => view_id(epoch),
            };
            let node = view.index_of(name).expect("a member");
            let status = serving(view.nonce(node), view_id);
            self.sees(name, status);
        }

        /// These nodes serve the view.
        fn serve(&mut self, names: &[&str]) {
            let epoch = self.coordinator.view().id().epoch;
            names.iter().for_each(|name| self.serves(name, epoch));
        }

        fn moves_to(&mut self, view: View) {
            self.coordinator.moved(Arc::new(view));
        }

        fn next(&self) -> Move {
            let mut drawn = 0;
            let fresh = || {
                drawn += 1;
                format!("fresh {drawn}").into()
            };
            self.coordinator.next(self.now, fresh).unwrap()
        }

        #[track_caller]
        fn reports(&self) -> Vec<(String, Request)> {
            match self.next() {
                Move::Send(requests) => requests,
                other => panic!("{other:?}"),
            }
        }

        #[track_caller]
        fn proposes(&self) -> View {
            match self.next() {
                Move::Propose(view) => *view,
                other => panic!("{other:?}"),
            }
        }

        #[track_caller]
        fn is_blocked_by(&self, obstacles: &[(&str, Obstacle)]) {
            let obstacles = obstacles.iter().map(|&(name, why)| (name.into(), why));
            match self.next() {
                Move::Blocked(found) => assert_eq!(found, obstacles.collect::<Vec<_>>()),
                other => panic!("{other:?}"),
            }
        }

        #[track_caller]
        fn is_done(&self) {
            assert!(matches!(self.next(), Move::Done), "{:?}", self.next());
        }

        #[track_caller]
        fn is_superseded(&self) {
            assert!(matches!(self.next(), Move::Superseded), "{:?}", self.next());
        }

        /// Nothing may be done before `span` has passed since `since`; then it has.
        #[track_caller]
        fn waits(&mut self, since: Instant, span: Duration, expected: Waiting) {
            let end = since + outwait(span);
            assert!(self.now < end);
            for now in [self.now, end - NANO] {
                self.now = now;
                match self.next() {
                    Move::Wait { until, reason } => assert_eq!((until, reason), (end, expected)),
                    other => panic!("{other:?}"),
                }
            }
            self.now = end;
        }
    }

    #[track_caller]
    fn assert_same(proposed: &View, expected: &View) {
        assert_eq!(proposed.document(), expected.document());
    }

    /// The usual nonces, except these.
    fn nonces_but(names: &[&str], others: &[(&str, &str)]) -> Nonces {
        let mut nonces = nonces(names);
        nonces.extend(
            others
                .iter()
                .map(|&(name, nonce)| (name.into(), nonce.into())),
        );
        nonces
    }

    fn quarantine_of(nonce: Option<&str>, view: Option<ViewId>, fresh: &str) -> Request {
        Request::Quarantine {
            expected_nonce: nonce.map(Into::into),
            expected_view: view,
            nonce: fresh.into(),
        }
    }

    /// The requests that give the view to these members.
    fn adoptions(view: &View, names: &[&str]) -> Vec<(String, Request)> {
        let request = |&name: &&str| {
            let node = view.index_of(name).expect("a member");
            (name.into(), adopt(view, node))
        };
        names.iter().map(request).collect()
    }

    #[test]
    fn the_nodes_are_the_members_and_those_of_the_goal() {
        let everybody = |goal, view| {
            let everybody = Transition::new(goal, Arc::new(view)).everybody();
            everybody.into_iter().collect::<String>()
        };
        assert_eq!(everybody(Goal::Keep, stable(4, &OLD)), "abc");
        assert_eq!(everybody(reach(&OLD, &NEW), stable(4, &OLD)), "abcd");
        assert_eq!(everybody(Goal::Abort, joint(5, &OLD, &NEW, 5)), "abcd");
    }

    #[test]
    fn a_node_without_state_is_quarantined() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        script.serve(&["a"]);
        script.sees("b", absent());
        // Stamped by another incarnation: its entries may be lost.
        let status = serving("nonce of c", view_id(4));
        script.sees(
            "c",
            NodeStatus {
                incarnation: "run-2".into(),
                ..status
            },
        );
        let expected = [
            ("b".into(), quarantine_of(None, None, "fresh 1")),
            (
                "c".into(),
                quarantine_of(Some("nonce of c"), Some(view_id(4)), "fresh 2"),
            ),
        ];
        assert_eq!(script.reports(), expected);
    }

    #[test]
    fn a_node_that_is_behind_receives_the_view() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        script.sees("a", quarantined("nonce of a"));
        script.serves("b", 3);
        script.serves("c", 5);
        let expected = adoptions(script.coordinator.view(), &["a", "b"]);
        assert_eq!(script.reports(), expected);
        script.serve(&["a", "b"]);
        script.is_done();
    }

    #[test]
    fn another_clusters_member_learns_nothing() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        script.serve(&["a", "b"]);
        script.sees("c", serving("another nonce", view_id(3)));
        script.is_done();
    }

    #[test]
    fn a_member_is_readmitted_under_its_new_nonce_after_max_ttl() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        script.serve(&["a", "c"]);
        script.sees("b", quarantined("x"));
        script.waits(script.now, TTL, Waiting::Quarantine);
        let nonces = nonces_but(&OLD, &[("b", "x")]);
        let next = View::stable(5, topology(&OLD), &nonces).unwrap();
        assert_same(&script.proposes(), &next);
        script.moves_to(next.clone());
        assert_eq!(script.reports(), adoptions(&next, &OLD));
        script.serve(&OLD);
        script.is_done();
    }

    #[test]
    fn each_member_is_waited_for_by_itself() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        let first = script.now;
        script.sees("b", quarantined("x"));
        script.now = first + Duration::from_secs(5);
        let second = script.now;
        script.sees("c", quarantined("y"));
        script.waits(first, TTL, Waiting::Quarantine);
        let nonces = nonces_but(&OLD, &[("b", "x")]);
        let next = View::stable(5, topology(&OLD), &nonces).unwrap();
        assert_same(&script.proposes(), &next);
        script.moves_to(next);
        script.serve(&["b"]);
        script.waits(second, TTL, Waiting::Quarantine);
        let nonces = nonces_but(&OLD, &[("b", "x"), ("c", "y")]);
        let last = View::stable(6, topology(&OLD), &nonces).unwrap();
        assert_same(&script.proposes(), &last);
    }

    #[test]
    fn a_second_loss_restarts_the_wait() {
        // Another coordinator may have quarantined it, unobserved.
        for (is_seen, nonce) in [(true, "y"), (false, "y"), (true, "x")] {
            let mut script = Script::of(Goal::Keep, stable(4, &OLD));
            script.sees("b", quarantined("x"));
            script.now = script.now + TTL;
            if is_seen {
                script.sees("b", absent());
                let request = ("b".into(), quarantine_of(None, None, "fresh 1"));
                assert_eq!(script.reports(), [request]);
            }
            script.sees("b", quarantined(nonce));
            script.waits(script.now, TTL, Waiting::Quarantine);
            let nonces = nonces_but(&OLD, &[("b", nonce)]);
            let next = View::stable(5, topology(&OLD), &nonces).unwrap();
            assert_same(&script.proposes(), &next);
        }
    }

    #[test]
    fn a_node_that_falls_silent_in_quarantine_is_readmitted_once_it_answers() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        let since = script.now;
        script.sees("b", quarantined("x"));
        script.misses("b");
        script.is_done();
        script.now = since + outwait(TTL) - NANO;
        script.sees("b", quarantined("x"));
        script.waits(since, TTL, Waiting::Quarantine);
        script.misses("b");
        script.is_done();
        script.sees("b", quarantined("x"));
        let _ = script.proposes();
    }

    #[test]
    fn a_readmission_continues_the_change() {
        let mut script = Script::of(Goal::Keep, joint(5, &OLD, &NEW, 4));
        script.serve(&["a", "c", "d"]);
        script.sees("b", quarantined("x"));
        script.waits(script.now, TTL, Waiting::Quarantine);
        let nonces = nonces_but(&["a", "b", "c", "d"], &[("b", "x")]);
        let next = View::joint(6, topology(&OLD), topology(&NEW), 4, &nonces).unwrap();
        assert_same(&script.proposes(), &next);
        // It is no goal of this coordinator to end the joint view.
        script.moves_to(next);
        script.serve(&["a", "b", "c", "d"]);
        script.is_done();
    }

    #[test]
    fn a_newcomer_is_quarantined_for_max_ttl_before_the_joint_view() {
        let mut script = Script::of(reach(&OLD, &NEW), stable(4, &OLD));
        script.serve(&OLD);
        script.sees("d", absent());
        let request = ("d".into(), quarantine_of(None, None, "fresh 1"));
        assert_eq!(script.reports(), [request]);
        script.sees("d", quarantined("fresh 1"));
        script.waits(script.now, TTL, Waiting::Quarantine);
        let nonces = nonces_but(&OLD, &[("d", "fresh 1")]);
        let next = View::joint(5, topology(&OLD), topology(&NEW), 5, &nonces).unwrap();
        assert_same(&script.proposes(), &next);
    }

    #[test]
    fn the_last_newcomer_counts() {
        let to = ["b", "c", "d", "e"];
        for (first, last) in [("d", "e"), ("e", "d")] {
            let mut script = Script::of(reach(&OLD, &to), stable(4, &OLD));
            script.sees(first, quarantined(&nonce(first)));
            script.now = script.now + Duration::from_secs(7);
            script.sees(last, quarantined("x"));
            script.now = script.now + Duration::from_secs(7);
            // It loses its memory once more.
            script.sees(last, quarantined(&nonce(last)));
            script.waits(script.now, TTL, Waiting::Quarantine);
            assert_same(&script.proposes(), &joint(5, &OLD, &to, 5));
        }
    }

    #[test]
    fn a_change_without_new_nodes_begins_at_once() {
        let script = Script::of(reach(&OLD, &["b", "c"]), stable(4, &OLD));
        assert_same(&script.proposes(), &joint(5, &OLD, &["b", "c"], 5));
    }

    #[test]
    fn a_silent_or_foreign_newcomer_blocks_the_change() {
        let to = ["c", "d", "e"];
        let mut script = Script::of(reach(&OLD, &to), stable(4, &OLD));
        script.is_blocked_by(&[("d", Obstacle::Silent), ("e", Obstacle::Silent)]);
        script.sees("d", serving("x", view_id(9)));
        script.sees("e", quarantined("nonce of e"));
        script.now = script.now + outwait(TTL);
        script.is_blocked_by(&[("d", Obstacle::Foreign(view_id(9)))]);
        script.sees("d", quarantined("nonce of d"));
        script.now = script.now + outwait(TTL);
        script.misses("d");
        script.is_blocked_by(&[("d", Obstacle::Silent)]);
        script.sees("d", quarantined("nonce of d"));
        assert_same(&script.proposes(), &joint(5, &OLD, &to, 5));
    }

    #[test]
    fn a_retired_node_is_admitted_again() {
        let coordinator = Transition::new(reach(&OLD, &NEW), Arc::new(stable(4, &OLD)))
            .with_retired([("d".into(), view_id(3)), ("b".into(), view_id(3))]);
        let mut script = Script::with(coordinator);
        script.sees("d", serving("old", view_id(2)));
        script.is_blocked_by(&[("d", Obstacle::Foreign(view_id(2)))]);
        // A member may not be removed from the view that it serves.
        script.sees("b", serving("old", view_id(3)));
        script.sees("d", serving("old", view_id(3)));
        let request = quarantine_of(Some("old"), Some(view_id(3)), "fresh 1");
        assert_eq!(script.reports(), [("d".into(), request)]);
        script.sees("d", quarantined("nonce of d"));
        script.waits(script.now, TTL, Waiting::Quarantine);
        assert_same(&script.proposes(), &joint(5, &OLD, &NEW, 5));
    }

    #[test]
    fn a_members_quarantine_does_not_hold_up_a_change() {
        let mut script = Script::of(reach(&OLD, &NEW), stable(4, &OLD));
        let since = script.now;
        script.sees("d", quarantined("nonce of d"));
        script.now = since + TTL;
        script.sees("b", quarantined("x"));
        script.waits(since, TTL, Waiting::Quarantine);
        assert_same(&script.proposes(), &joint(5, &OLD, &NEW, 5));
        // Nor does the change delay the member's return.
        let mut script = Script::of(reach(&OLD, &NEW), stable(4, &OLD));
        let since = script.now;
        script.sees("b", quarantined("x"));
        script.now = since + Duration::from_secs(5);
        script.sees("d", quarantined("nonce of d"));
        script.waits(since, TTL, Waiting::Quarantine);
        let next = View::stable(5, topology(&OLD), &nonces_but(&OLD, &[("b", "x")])).unwrap();
        assert_same(&script.proposes(), &next);
    }

    #[test]
    fn the_longer_ttl_of_both_topologies_is_waited_for() {
        let longer = 2 * TTL;
        let with = |names: &[&str], ttl: Duration| {
            let mut topology = topology(names);
            topology.max_ttl_ms = ttl.as_millis() as u64;
            topology
        };
        for (old, new) in [(TTL, longer), (longer, TTL)] {
            let (from, to) = (with(&OLD, old), with(&NEW, new));
            let goal = Goal::Reach {
                from: from.clone(),
                to: to.clone(),
            };
            let view = View::stable(4, from.clone(), &nonces(&OLD)).unwrap();
            for name in ["b", "d"] {
                let mut script = Script::of(goal.clone(), view.clone());
                script.sees("d", quarantined("nonce of d"));
                script.sees(name, quarantined("x"));
                script.waits(script.now, longer, Waiting::Quarantine);
                let _ = script.proposes();
            }
            let nonces = nonces(&["a", "b", "c", "d"]);
            let view = View::joint(5, from, to, 5, &nonces).unwrap();
            let mut script = Script::of(goal, view);
            script.serve(&["a", "b", "d"]);
            script.waits(script.now, longer + LEASE, Waiting::Leases);
            let _ = script.proposes();
        }
    }

    #[test]
    fn the_joint_view_ends_when_what_most_have_left_behind_has_run_out() {
        let mut script = Script::of(reach(&OLD, &NEW), joint(5, &OLD, &NEW, 5));
        script.serve(&["a", "d"]);
        script.now = script.now + 10 * TTL;
        script.is_blocked_by(&[("b", Obstacle::Silent), ("c", Obstacle::Silent)]);
        let since = script.now;
        script.serve(&["b"]);
        // Once known, it stays known.
        script.misses("a");
        script.misses("b");
        script.waits(since, TTL + LEASE, Waiting::Leases);
        // The nodes that decide from then on must be available to do so.
        script.is_blocked_by(&[("b", Obstacle::Silent), ("c", Obstacle::Silent)]);
        script.serve(&["b"]);
        assert_same(&script.proposes(), &stable(6, &NEW));
    }

    #[test]
    fn newcomers_are_no_part_of_the_old_majority() {
        let to = ["c", "d", "e"];
        let mut script = Script::of(reach(&OLD, &to), joint(5, &OLD, &to, 5));
        script.serve(&["c", "d", "e"]);
        script.is_blocked_by(&[("a", Obstacle::Silent), ("b", Obstacle::Silent)]);
    }

    #[test]
    fn without_view_lease_where_every_old_owner_is_reached() {
        let mut script = Script::of(reach(&OLD, &NEW), joint(5, &OLD, &NEW, 5));
        script.serve(&["a", "b", "d"]);
        script.now = script.now + Duration::from_secs(4);
        script.serve(&["c"]);
        script.waits(script.now, TTL, Waiting::Leases);
        assert_same(&script.proposes(), &stable(6, &NEW));

        // The node is too late to be of use.
        let mut script = Script::of(reach(&OLD, &NEW), joint(5, &OLD, &NEW, 5));
        let since = script.now;
        script.serve(&["a", "b", "d"]);
        script.now = since + TTL;
        script.serve(&["c"]);
        script.waits(since, TTL + LEASE, Waiting::Leases);
        assert_same(&script.proposes(), &stable(6, &NEW));
    }

    #[test]
    fn without_view_lease_where_the_unreached_cannot_agree_on_any_key() {
        let (old, new) = (["a", "b", "c", "d", "e"], ["a", "b", "c", "d"]);
        let of_three = |names: &[&str]| Topology {
            replicas: 3,
            ..topology(names)
        };
        let (from, to) = (of_three(&old), of_three(&new));
        let view = View::joint(5, from.clone(), to.clone(), 5, &nonces(&old)).unwrap();
        let mut script = Script::of(Goal::Reach { from, to }, view);
        script.serve(&["a", "b", "c"]);
        script.now = script.now + Duration::from_secs(4);
        script.serve(&["e"]);
        script.waits(script.now, TTL, Waiting::Leases);
        let _ = script.proposes();
    }

    #[test]
    fn fenced_nodes_need_not_be_reached() {
        let fenced = |names: &[&str]| {
            let view = Arc::new(joint(5, &OLD, &NEW, 5));
            let names = names.iter().map(|&name| name.into());
            Script::with(Transition::new(reach(&OLD, &NEW), view).with_fenced(names))
        };
        let mut script = fenced(&["c"]);
        script.serve(&["a", "b", "d"]);
        script.waits(script.now, TTL, Waiting::Leases);
        assert_same(&script.proposes(), &stable(6, &NEW));
        // The operator's assertion alone does not make a majority.
        let mut script = fenced(&["b", "c"]);
        script.serve(&["a", "d"]);
        script.is_blocked_by(&[("b", Obstacle::Silent), ("c", Obstacle::Silent)]);
        script.now = script.now + TTL;
        script.serve(&["b"]);
        script.waits(script.now, TTL, Waiting::Leases);
    }

    #[test]
    fn another_clusters_member_does_not_know_the_change() {
        let mut script = Script::of(reach(&OLD, &NEW), joint(5, &OLD, &NEW, 5));
        script.serve(&["a", "d"]);
        let foreign = view_id(9);
        script.sees("b", serving("another nonce", foreign));
        script.is_blocked_by(&[("b", Obstacle::Foreign(foreign)), ("c", Obstacle::Silent)]);
    }

    #[test]
    fn the_joint_view_does_not_end_before_every_newcomer_serves_it() {
        let mut script = Script::of(reach(&OLD, &NEW), joint(5, &OLD, &NEW, 5));
        script.serve(&OLD);
        script.now = script.now + 10 * TTL;
        script.is_blocked_by(&[("d", Obstacle::Silent)]);
        script.sees("d", serving("another nonce", view_id(9)));
        script.is_blocked_by(&[("d", Obstacle::Foreign(view_id(9)))]);
        script.sees("d", quarantined("nonce of d"));
        assert_eq!(
            script.reports(),
            adoptions(script.coordinator.view(), &["d"])
        );
        script.serve(&["d"]);
        assert_same(&script.proposes(), &stable(6, &NEW));
    }

    #[test]
    fn another_coordinator_takes_over_and_counts_from_its_own_observation() {
        let view = joint(7, &OLD, &NEW, 5);
        let mut script = Script::of(reach(&OLD, &NEW), view.clone());
        script.is_blocked_by(&[
            ("d", Obstacle::Silent),
            ("a", Obstacle::Silent),
            ("b", Obstacle::Silent),
            ("c", Obstacle::Silent),
        ]);
        script.serve(&["c", "d"]);
        // `a` does not know of the transition, `b` knows only of its beginning.
        script.serves("a", 4);
        script.now = script.now + 10 * TTL;
        let since = script.now;
        script.serves("b", 5);
        assert_eq!(script.reports(), adoptions(&view, &["a", "b"]));
        script.misses("a");
        script.now = script.now + Duration::from_secs(1);
        script.serve(&["b"]);
        script.waits(since, TTL + LEASE, Waiting::Leases);
        assert_same(&script.proposes(), &stable(8, &NEW));
    }

    #[test]
    fn a_newcomer_that_is_lost_in_the_joint_phase_is_admitted_again() {
        let mut script = Script::of(reach(&OLD, &NEW), joint(5, &OLD, &NEW, 5));
        script.serve(&["a", "b", "c", "d"]);
        script.now = script.now + Duration::from_secs(1);
        script.sees("d", absent());
        let request = ("d".into(), quarantine_of(None, None, "fresh 1"));
        assert_eq!(script.reports(), [request]);
        script.sees("d", quarantined("x"));
        script.waits(script.now, TTL, Waiting::Quarantine);
        let nonces = nonces_but(&["a", "b", "c", "d"], &[("d", "x")]);
        let next = View::joint(6, topology(&OLD), topology(&NEW), 5, &nonces).unwrap();
        assert_same(&script.proposes(), &next);
        script.moves_to(next.clone());
        assert_eq!(script.reports(), adoptions(&next, &["a", "b", "c", "d"]));
        script.serve(&["a", "b", "c", "d"]);
        // It is the same transition: the time waited in between counts.
        let nonces = nonces_but(&NEW, &[("d", "x")]);
        let last = View::stable(7, topology(&NEW), &nonces).unwrap();
        assert_same(&script.proposes(), &last);
    }

    /// Each row: the first view that a coordinator knew, the views after it, and
    /// whether it then knows that its transition was taken back.
    #[test]
    fn an_aborted_change_is_not_started_again() {
        let back = |epoch| stable(epoch, &OLD);
        let again = |epoch| joint(epoch, &OLD, &NEW, epoch);
        let returned = |epoch: u32, nonce: &str| {
            let nonces = nonces_but(&OLD, &[("b", nonce)]);
            View::stable(epoch, topology(&OLD), &nonces).unwrap()
        };
        let passage = |since: u32| joint(5, &OLD, &NEW, since);
        for (known, views, is_known) in [
            // During the transition: by the very next view, by a later one, and where
            // another transition to the same end has begun since.
            (passage(5), vec![back(6)], true),
            (passage(4), vec![returned(7, "x")], true),
            (passage(5), vec![back(6), again(7)], true),
            (passage(5), vec![again(7)], true),
            // Before it began: another coordinator began it, or its plan was outdated.
            (back(4), vec![back(6)], true),
            (back(4), vec![back(5)], true),
            (back(4), vec![returned(5, "x"), returned(6, "x")], true),
            (back(4), vec![back(6), again(7)], true),
            // The return of a node may hide it.
            (back(4), vec![returned(6, "x")], false),
        ] {
            let mut script = Script::of(reach(&OLD, &NEW), known);
            script.sees("d", quarantined(&nonce("d")));
            script.serve(&OLD);
            let by = views.iter().map(View::id);
            let by: Vec<ViewId> = by.collect();
            views.into_iter().for_each(|view| script.moves_to(view));
            script.now = script.now + 10 * TTL;
            script.is_superseded();
            let found = script.coordinator.taken_back();
            assert_eq!(found.is_some(), is_known, "{by:?}");
            assert!(found.is_none_or(|found| by.contains(&found)), "{by:?}");
        }
    }

    #[test]
    fn a_continued_change_is_not_taken_for_an_aborted_one() {
        let returned = |epoch: u32, nonce: &str| {
            let nonces = nonces_but(&OLD, &[("b", nonce)]);
            View::stable(epoch, topology(&OLD), &nonces).unwrap()
        };
        let views = [
            returned(5, "x"),
            returned(6, "y"),
            joint(8, &OLD, &NEW, 8),
            joint(10, &OLD, &NEW, 8),
            stable(11, &NEW),
        ];
        let mut script = Script::of(reach(&OLD, &NEW), stable(4, &OLD));
        for view in views {
            script.moves_to(view);
            assert!(!matches!(script.next(), Move::Superseded));
            assert_eq!(script.coordinator.taken_back(), None);
        }
        script.serve(&NEW);
        script.is_done();
        // Goals to which this does not matter.
        for goal in [Goal::Keep, Goal::Abort] {
            let mut script = Script::of(goal, joint(5, &OLD, &NEW, 5));
            script.moves_to(stable(6, &OLD));
            script.serve(&OLD);
            script.is_done();
        }
    }

    #[test]
    fn a_view_that_is_not_later_changes_nothing() {
        let mut script = Script::of(Goal::Keep, stable(4, &OLD));
        script.moves_to(stable(3, &NEW));
        script.moves_to(stable(4, &NEW));
        assert_same(script.coordinator.view(), &stable(4, &OLD));
    }

    #[test]
    fn a_change_is_taken_back_without_waiting() {
        let mut script = Script::of(Goal::Abort, joint(5, &OLD, &NEW, 5));
        assert_same(&script.proposes(), &stable(6, &OLD));
        script.moves_to(stable(6, &OLD));
        script.serve(&["a"]);
        script.is_blocked_by(&[("b", Obstacle::Silent), ("c", Obstacle::Silent)]);
        script.serve(&["b"]);
        script.is_done();
    }

    #[test]
    fn plans_are_outdated_by_the_same_topology_once_more() {
        let outdating = |view: View| {
            Script::with(Transition::new(Goal::Abort, Arc::new(view)).with_plans_outdated())
        };
        let mut script = outdating(stable(4, &OLD));
        assert_same(&script.proposes(), &stable(5, &OLD));
        script.moves_to(stable(5, &OLD));
        script.serve(&OLD);
        script.is_done();
        // A transition that was decided first is taken back.
        let mut script = outdating(stable(4, &OLD));
        script.moves_to(joint(5, &OLD, &NEW, 5));
        assert_same(&script.proposes(), &stable(6, &OLD));
        script.moves_to(stable(6, &OLD));
        script.serve(&OLD);
        script.is_done();
    }

    #[test]
    fn a_change_is_finished_when_most_serve_and_all_that_answer() {
        let mut script = Script::of(reach(&OLD, &NEW), stable(6, &NEW));
        script.is_blocked_by(&[
            ("b", Obstacle::Silent),
            ("c", Obstacle::Silent),
            ("d", Obstacle::Silent),
        ]);
        script.serve(&["b", "c"]);
        script.is_done();
        script.serves("d", 5);
        assert_eq!(
            script.reports(),
            adoptions(script.coordinator.view(), &["d"])
        );
        script.sees("d", serving("another nonce", view_id(9)));
        script.is_blocked_by(&[("d", Obstacle::Foreign(view_id(9)))]);
        script.sees("d", quarantined("x"));
        script.waits(script.now, TTL, Waiting::Quarantine);
        let _ = script.proposes();
    }

    #[test]
    fn a_change_is_superseded_by_another_topology() {
        let other = ["a", "b", "e"];
        for view in [
            stable(7, &other),
            joint(7, &OLD, &other, 7),
            joint(7, &other, &OLD, 7),
        ] {
            let mut script = Script::of(reach(&OLD, &NEW), stable(4, &OLD));
            script.moves_to(view);
            script.sees("a", absent());
            script.is_superseded();
        }
        // What follows the goal is not this coordinator's concern.
        for view in [stable(7, &NEW), joint(7, &NEW, &other, 7)] {
            let mut script = Script::of(reach(&OLD, &NEW), stable(4, &OLD));
            script.moves_to(view);
            script.serve(&NEW);
            script.is_done();
        }
    }

    #[test]
    fn a_goal_that_contradicts_itself_is_an_error() {
        let to = Topology {
            replicas: 2,
            ..topology(&["b", "c"])
        };
        let from = topology(&OLD);
        let goal = Goal::Reach { from, to };
        let coordinator = Transition::new(goal, Arc::new(stable(4, &OLD)));
        let next = coordinator.next(secs(0), || "x".into());
        assert!(matches!(
            next,
            Err(TopologyError::EvenReplicas { replicas: 2 })
        ));
    }
}
