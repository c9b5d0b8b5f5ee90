//! Changing which nodes there are: what a coordinator does next, from what it
//! has seen.
//!
//! A change goes from one stable view over a joint one to the next stable one.
//! In the joint view every lock needs a quorum of its old replicas and one of
//! its new ones, so that neither side can grant what the other has granted
//! (joint consensus; Diego Ongaro, “Consensus: Bridging Theory and Practice”,
//! 2014, §4.3). What must have been waited for at each passage, this module
//! alone says. A coordinator keeps nothing that it cannot see anew: another
//! may take over at any point, or several be at it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringlock_ring::NodeIndex;

use super::quorum::majority;
use super::time::{Instant, outwait};
use super::topology::{Topology, TopologyError};
use super::view::{Nonces, View};
use super::wire::{NodeStatus, Nonce, Request, Standing, ViewId};

/// What a coordinator wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// Every member back in its place: what lost its data is let in again.
    Keep,
    /// The passage from one topology to another.
    Reach {
        /// What is in force at the beginning.
        from: Topology,
        /// What is to be in force.
        to: Topology,
    },
    /// The passage that is under way taken back.
    Abort,
}

/// What a coordinator is to do now.
#[derive(Debug)]
pub enum Move {
    /// Send these requests, then look again.
    Tell(Vec<(String, Request)>),
    /// Put this view to the vote.
    Propose(Box<View>),
    /// Look again; there is nothing to do before `until`.
    Wait {
        /// When there is.
        until: Instant,
        /// What is waited for.
        reason: Waiting,
    },
    /// These nodes stand in the way; look again.
    Blocked(Vec<(String, Obstacle)>),
    /// The goal is reached.
    Done,
    /// Somebody else has taken the cluster elsewhere.
    Superseded,
}

/// What time is waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// Locks that a node without memory may have held run out.
    Quarantine,
    /// Leases, and reliance on views, from before the joint view run out.
    Leases,
}

/// Why a node is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// It does not answer.
    Silent,
    /// It serves another cluster, or this one's past.
    Foreign(ViewId),
    /// It has not yet heard of the view.
    Behind,
}

/// What was seen of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Sight {
    /// Its last answer; `None` where it gave none.
    status: Option<NodeStatus>,
    /// The nonce that it is quarantined under, and since when it is seen so.
    quarantined: Option<(Nonce, Instant)>,
    /// The highest epoch that it was seen to serve as a member.
    reached: u32,
}

/// A coordinator's goal and knowledge.
#[derive(Clone, Debug)]
pub struct Transition {
    goal: Goal,
    view: Arc<View>,
    /// The operator's word: no client reaches these any more.
    fenced: BTreeSet<String>,
    /// Views that newcomers may be taken out of: they were retired from them.
    retired: BTreeMap<String, ViewId>,
    sights: BTreeMap<String, Sight>,
    /// When most of the old nodes were first seen to know of the passage.
    known_at: Option<Instant>,
    /// When so many of them were that no others can grant a lock on their own.
    cut_off_at: Option<Instant>,
}

impl Transition {
    /// A coordinator that knows `view` to be decided, and has seen nothing.
    pub fn new(goal: Goal, view: Arc<View>) -> Self {
        Self {
            goal,
            view,
            fenced: BTreeSet::new(),
            retired: BTreeMap::new(),
            sights: BTreeMap::new(),
            known_at: None,
            cut_off_at: None,
        }
    }

    /// Takes the operator's word that no client reaches these nodes any more.
    #[must_use]
    pub fn with_fenced(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.fenced.extend(names);
        self
    }

    /// These nodes serve a view that they were retired from: they may be taken
    /// in anew.
    #[must_use]
    pub fn with_retired(mut self, nodes: impl IntoIterator<Item = (String, ViewId)>) -> Self {
        self.retired.extend(nodes);
        self
    }

    /// The newest view that it knows to be decided.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Everybody to look at: the members, and whom the goal names.
    pub fn everybody(&self) -> BTreeSet<String> {
        let newcomers = self.newcomers().into_iter();
        let members = self.view.members().map(|node| node.name.clone());
        members.chain(newcomers).collect()
    }

    /// `view` was decided, after the one known.
    pub fn moved(&mut self, view: Arc<View>) {
        if view.id().epoch <= self.view.id().epoch {
            return;
        }
        let is_same_passage = view.next() == self.view.next() && view.since() == self.view.since();
        if !is_same_passage {
            (self.known_at, self.cut_off_at) = (None, None);
        }
        self.view = view;
    }

    /// A node answered STATUS, or gave no answer; heard at `now`.
    pub fn saw(&mut self, now: Instant, name: &str, status: Option<NodeStatus>) {
        let listed = self.view.index_of(name).map(|node| self.view.nonce(node));
        let sight = self.sights.entry(name.into()).or_default();
        if let Some(status) = &status {
            match (status.standing(), &status.nonce) {
                (Standing::Quarantined, Some(nonce)) => match &sight.quarantined {
                    Some((known, _)) if known == nonce => {}
                    _ => sight.quarantined = Some((Arc::clone(nonce), now)),
                },
                (Standing::Serving(view), nonce) if nonce.as_ref() == listed => {
                    sight.quarantined = None;
                    sight.reached = sight.reached.max(view.epoch);
                }
                _ => sight.quarantined = None,
            }
        }
        sight.status = status;
        self.note_passage(now);
    }

    fn note_passage(&mut self, now: Instant) {
        let since = self.view.since();
        let is_reached = |node: NodeIndex| {
            let name = &self.view.member(node).name;
            let sight = self.sights.get(name);
            sight.is_some_and(|sight| sight.reached >= since)
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

    /// Members that lost their data, and when they have been kept out long
    /// enough.
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

    /// What to do at `now`. `fresh` gives a nonce that was never used.
    ///
    /// # Errors
    /// [`TopologyError`]: what the goal leads to contradicts itself.
    pub fn next(
        &self,
        now: Instant,
        mut fresh: impl FnMut() -> Nonce,
    ) -> Result<Move, TopologyError> {
        if !self.is_on_track() {
            return Ok(Move::Superseded);
        }
        let letters = self.letters(&mut fresh);
        if !letters.is_empty() {
            return Ok(Move::Tell(letters));
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
            Goal::Abort if self.view.next().is_some() => {
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

    /// Whether the view is one that the goal may have led to.
    fn is_on_track(&self) -> bool {
        let Goal::Reach { from, to } = &self.goal else {
            return true;
        };
        let (current, next) = (self.view.topology(), self.view.next());
        current == to || next == Some(to) || (current == from && next.is_none())
    }

    /// Nodes that the goal names and the view does not.
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

    /// The view for members that are behind; quarantine for nodes without
    /// memory.
    fn letters(&self, fresh: &mut impl FnMut() -> Nonce) -> Vec<(String, Request)> {
        let mut letters = Vec::new();
        for name in self.everybody() {
            let Some(status) = self.status(&name) else {
                continue;
            };
            let member = self.view.index_of(&name);
            let is_listed =
                member.is_some_and(|node| Some(self.view.nonce(node)) == status.nonce.as_ref());
            let request = match status.standing() {
                Standing::Absent => Some(quarantine(status, fresh())),
                Standing::Serving(view) if !is_listed => {
                    let is_retired = self.retired.get(&name) == Some(&view);
                    (member.is_none() && is_retired).then(|| quarantine(status, fresh()))
                }
                Standing::Serving(view) if view.epoch >= self.view.id().epoch => None,
                Standing::Serving(_) => member.map(|node| adopt(&self.view, node)),
                Standing::Quarantined => member
                    .filter(|_| is_listed)
                    .map(|node| adopt(&self.view, node)),
            };
            letters.extend(request.map(|request| (name, request)));
        }
        letters
    }

    fn status(&self, name: &str) -> Option<&NodeStatus> {
        self.sights.get(name)?.status.as_ref()
    }

    /// Members that are quarantined under another nonce than they are listed
    /// with, and since when they are seen so.
    fn forgetful(&self) -> BTreeMap<String, (Nonce, Instant)> {
        let entry = |node: NodeIndex| {
            let name = &self.view.member(node).name;
            let sight = self.sights.get(name)?;
            sight.status.as_ref()?;
            let (nonce, since) = sight.quarantined.clone()?;
            (nonce != *self.view.nonce(node)).then(|| (name.clone(), (nonce, since)))
        };
        let members = (0..self.view.len()).map(|node| NodeIndex::new(node as u16));
        members.filter_map(entry).collect()
    }

    /// The same topologies, these members under new nonces.
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
            let sight = self.sights.get(&name).cloned().unwrap_or_default();
            match (
                sight.status.map(|status| status.standing()),
                sight.quarantined,
            ) {
                (Some(Standing::Quarantined), Some((nonce, since))) => {
                    latest = latest.max(Some(since));
                    nonces.insert(name, nonce);
                }
                (Some(Standing::Serving(view)), _) => {
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

    /// The new topology alone, once nothing from before the joint view is left
    /// and every newcomer serves that.
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
        self.stable(to).map(propose)
    }

    /// Whether most nodes serve the view, and all that answer.
    fn spread(&self) -> Move {
        let members = (0..self.view.len()).map(|node| NodeIndex::new(node as u16));
        let obstacles = self.obstacles(members, self.view.id().epoch);
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
                    Standing::Serving(view)
                        if status.nonce.as_ref() != Some(self.view.nonce(node)) =>
                    {
                        Obstacle::Foreign(view)
                    }
                    Standing::Serving(view) if view.epoch >= epoch => return None,
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

/// Has a node stop serving what `status` says, and take `nonce`.
pub fn quarantine(status: &NodeStatus, nonce: Nonce) -> Request {
    Request::Quarantine {
        expected_nonce: status.nonce.clone(),
        expected_view: status.serving,
        nonce,
    }
}

/// Has `node` serve the view.
pub fn adopt(view: &View, node: NodeIndex) -> Request {
    Request::Adopt {
        view: view.id(),
        document: Arc::clone(view.document()),
        nonce: Arc::clone(view.nonce(node)),
    }
}
