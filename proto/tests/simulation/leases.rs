//! A client's leases, and what their users and the keeper do with them.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use ringlock_proto::backoff::Backoff;
use ringlock_proto::lease::{Fence, Token, Ttl};
use ringlock_proto::lease_record::record::LeaseRecord;
use ringlock_proto::lease_record::renewal::RenewalSchedule;
use ringlock_proto::operation::acquire::{AcquireParams, Attempt, Denied, DenyReason, Grant};
use ringlock_proto::operation::extend::{Extend, ExtendOutcome};
use ringlock_proto::operation::machine::Refusal;
use ringlock_proto::operation::release::Release;
use ringlock_proto::quorum::Placement;
use ringlock_proto::time::Instant;
use ringlock_ring::NodeIndex;

use crate::client::{Alarm, Client, Ending, Plan, ViewNodes};
use crate::core::{Core, Task};
use crate::history::Action;
use crate::node_requests::Owed;
use crate::operations::Running;
use crate::server::number;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Asking,
    Held,
    Over,
}

/// One lease, from before its attempt until after its release.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) plan: Plan,
    token: Token,
    pub(crate) ttl: Ttl,
    pub(crate) record: LeaseRecord<Arc<ViewNodes>>,
    pub(crate) state: State,
    renewals: Option<RenewalSchedule>,
}

/// As in the router: 5 % of the ttl, within bounds.
pub(crate) fn node_timeout(ttl: Ttl) -> Duration {
    (ttl.get() / 20).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

impl Client {
    pub(crate) fn attempt(&mut self, core: &mut Core, mut plan: Plan) {
        let Some(view_nodes) = self.view_nodes.clone() else {
            let at = core.local(self.host) + Backoff::CONTENTION.cap;
            return core.wake(self.host, at, Alarm::Retry(plan));
        };
        core.tally.attempts += 1;
        plan.attempts += 1;
        let max_ttl = view_nodes.view.max_ttl();
        let ttl = Ttl::new(plan.ttl.min(max_ttl), max_ttl).unwrap();
        let id = core.fresh();
        let token = Token::new(id.into(), None);
        let key = core.keys[plan.key].clone();
        let placement = view_nodes.view.place(&key);
        let t0 = core.local(self.host);
        let params = AcquireParams {
            view: view_nodes.view.id(),
            view_lease: view_nodes.view.view_lease(),
            key,
            token: token.clone(),
            ttl,
            placement,
            t0,
        };
        let lease = Lease {
            plan,
            token,
            ttl,
            record: LeaseRecord::new(Arc::clone(&view_nodes), placement),
            state: State::Asking,
            renewals: None,
        };
        self.leases.insert(id, lease);
        let key = plan.key;
        core.note(Action::Began { lease: id, key });
        let attempt = Running::Attempt(Box::new(Attempt::new(params)));
        self.begin(core, id, view_nodes, attempt);
    }

    pub(crate) fn granted(&mut self, core: &mut Core, id: u64, grant: &Grant) {
        core.tally.granted += 1;
        let now = core.local(self.host);
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.state = State::Held;
        let record = &mut lease.record;
        record.granted(grant.fence, grant.valid_until, grant.known);
        let is_exclusive = core.is_exclusive(id, &core.keys[lease.plan.key]);
        let until = core.hosts[self.host].clock.when(grant.valid_until);
        core.note(Action::Granted {
            lease: id,
            fence: grant.fence.get(),
            until,
            is_exclusive,
        });
        let base = lease.record.base();
        let owner = base.at.server(base.placement.nodes()[0]);
        core.tasks.push(Task::Granted(owner));
        let plan = lease.plan;
        if plan.keeps_alive {
            let interval = lease.ttl.get() / 3;
            let renewals = RenewalSchedule::new(interval, now, core.random.random());
            lease.renewals = Some(renewals);
            core.wake(self.host, renewals.next(), Alarm::Tend(id));
        }
        if plan.fidgets {
            core.wake(self.host, now + plan.hold / 3, Alarm::Fidget(id));
        }
        core.wake(self.host, grant.valid_until, Alarm::Lapse(id));
        if self.sweep.is_some() {
            core.swept += 1;
            core.note(Action::Swept { key: plan.key });
            return self.finish(core, id);
        }
        core.wake(self.host, now + plan.hold, Alarm::Finish(id));
    }

    pub(crate) fn denied(&mut self, core: &mut Core, id: u64, denied: &Denied) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.state = State::Over;
        let plan = lease.plan;
        let rivals = denied
            .refusals
            .iter()
            .filter_map(|(_, refusal)| match refusal {
                Refusal::Busy(Some(rival)) => rival.remaining,
                _ => None,
            });
        let remaining = rivals.max();
        core.tally.contended += u64::from(remaining.is_some());
        if denied.reason == DenyReason::Unconfirmed || remaining.is_none() {
            self.doubt();
        }
        if plan.attempts >= plan.most_attempts || core.is_healed && self.sweep.is_none() {
            return self.rest(core, 400);
        }
        let random = core.random.random();
        let wait = match remaining {
            // As if it were notified of the end.
            Some(left) => left
                .max(Duration::from_millis(1))
                .min(Backoff::SPLIT.wait(plan.attempts, random)),
            None => Backoff::CONTENTION.wait(plan.attempts, random),
        };
        let at = core.local(self.host) + wait;
        core.wake(self.host, at, Alarm::Retry(plan));
    }

    /// Starts an extend to `ttl`.
    fn extend(&mut self, core: &mut Core, id: u64, ttl: Duration) {
        let now = core.local(self.host);
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let record = &mut lease.record;
        if now >= record.valid_until() {
            return;
        }
        let key = &core.keys[lease.plan.key];
        if let Some(newest) = self.view_nodes.clone() {
            record.move_to(newest, key, now);
        }
        let position = record.newest();
        let view_nodes = Arc::clone(&position.at);
        let max_ttl = view_nodes.view.max_ttl();
        let ttl = Ttl::new(ttl.min(max_ttl), max_ttl).unwrap();
        let Some(params) = record.extend_params(key, &lease.token, ttl, now) else {
            return;
        };
        core.tally.extends += 1;
        for voter in position.known.seen.iter() {
            let node = position.placement.node(voter);
            core.note(Action::Relied {
                lease: id,
                node: view_nodes.server(node),
                nonce: number(view_nodes.view.nonce(node)),
            });
        }
        let extend = Running::Extend(Box::new(Extend::new(params)));
        self.begin(core, id, view_nodes, extend);
    }

    pub(crate) fn renewed(
        &mut self,
        core: &mut Core,
        id: u64,
        view_nodes: &Arc<ViewNodes>,
        (placement, t0): (Placement, Instant),
        extension: &ExtendOutcome,
    ) {
        let now = core.local(self.host);
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        if lease.state != State::Held {
            return;
        }
        match extension {
            ExtendOutcome::Extended(until) => {
                core.tally.extended += 1;
                let record = &mut lease.record;
                let granted = record.fence().map(Fence::epoch);
                core.tally.carried += u64::from(granted != Some(view_nodes.view.id().epoch));
                record.extended(view_nodes, &placement, *until, now);
                let until = record.valid_until();
                if let Some(renewals) = &mut lease.renewals {
                    renewals.extended(
                        now,
                        lease.ttl.get() / 3,
                        view_nodes.view.max_ttl(),
                        core.random.random(),
                    );
                }
                let is_exclusive = core.is_exclusive(id, &core.keys[lease.plan.key]);
                let clock = &core.hosts[self.host].clock;
                let (began, until) = (clock.when(t0), clock.when(until));
                core.note(Action::Extended {
                    lease: id,
                    began,
                    until,
                    is_exclusive,
                });
            }
            ExtendOutcome::Unchanged { refusals, .. } => {
                if let Some(renewals) = &mut lease.renewals {
                    renewals.failed(refusals);
                }
                self.doubt();
            }
            ExtendOutcome::Lost { .. } => {
                core.tally.lost += 1;
                self.end(core, id);
            }
        }
    }

    /// A random held lease, its key and its token.
    pub(crate) fn any_held(&self) -> Option<(u64, usize, Token)> {
        let mut held = self.leases.iter();
        let (id, lease) = held.find(|(_, lease)| lease.state == State::Held)?;
        Some((*id, lease.plan.key, lease.token.clone()))
    }

    fn is_held(&self, id: u64) -> bool {
        self.leases.get(&id).map(|lease| lease.state) == Some(State::Held)
    }

    pub(crate) fn tend(&mut self, core: &mut Core, id: u64) {
        let now = core.local(self.host);
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let Some(renewals) = &mut lease.renewals else {
            return;
        };
        if lease.state != State::Held || !lease.plan.keeps_alive {
            return;
        }
        let ttl = lease.ttl.get();
        let is_due = renewals.take_due(now, now + node_timeout(lease.ttl));
        let next = renewals.next();
        if is_due {
            self.extend(core, id, ttl);
        }
        let next = next.min(now + ttl / 3).max(now + Duration::from_millis(1));
        core.wake(self.host, next, Alarm::Tend(id));
    }

    pub(crate) fn fidget(&mut self, core: &mut Core, id: u64) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        if lease.state != State::Held || !lease.plan.fidgets {
            return;
        }
        let most = lease.record.newest().at.view.max_ttl().as_millis() as u64;
        let (least, most_pause) = if self.is_eager { (most, 60) } else { (60, 400) };
        let ttl = Duration::from_millis(core.between(least, most));
        self.extend(core, id, ttl);
        let pause = Duration::from_millis(core.between(5, most_pause));
        let at = core.local(self.host) + pause;
        core.wake(self.host, at, Alarm::Fidget(id));
    }

    /// The user has finished with a lease.
    pub(crate) fn finish(&mut self, core: &mut Core, id: u64) {
        if !self.is_held(id) {
            return;
        }
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        match lease.plan.ending {
            Ending::Lapse => {
                lease.plan.keeps_alive = false;
                lease.plan.fidgets = false;
            }
            Ending::Drop => self.end(core, id),
            Ending::Release => {
                let key = core.keys[lease.plan.key].clone();
                let base = lease.record.base();
                let (view_nodes, placement) = (Arc::clone(&base.at), base.placement);
                lease.state = State::Over;
                core.tally.releases += 1;
                core.note(Action::Ended { lease: id });
                let now = core.local(self.host);
                let here = servers(placement.nodes().iter().map(|&node| (&view_nodes, node)));
                let elsewhere = servers(lease.record.entries(now)) & !here;
                let release = Release::new(key, lease.token.clone(), placement, now);
                let release = Running::Release(Box::new(release));
                self.begin(core, id, view_nodes, release);
                self.release_from(core, id, elsewhere);
                self.rest(core, 300);
            }
        }
    }

    pub(crate) fn lapse(&mut self, core: &mut Core, id: u64) {
        let now = core.local(self.host);
        if !self.is_held(id) {
            return;
        }
        let until = self.leases[&id].record.valid_until();
        if now >= until {
            return self.end(core, id);
        }
        core.wake(self.host, until, Alarm::Lapse(id));
    }

    /// The lease is over: every node that may have an entry gets a RELEASE.
    fn end(&mut self, core: &mut Core, id: u64) {
        let now = core.local(self.host);
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.state = State::Over;
        let sent = servers(lease.record.entries(now));
        core.note(Action::Ended { lease: id });
        self.release_from(core, id, sent);
        if !self.operations.values().any(|other| other.lease == id) {
            self.leases.remove(&id);
        }
        self.rest(core, 300);
    }

    fn release_from(&mut self, core: &mut Core, id: u64, nodes: u32) {
        for node in 0..core.servers.len() {
            if nodes & 1 << node != 0 {
                self.release_at(core, id, node);
            }
        }
    }

    pub(crate) fn release_at(&mut self, core: &mut Core, id: u64, node: usize) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        let owed = Owed {
            node,
            key: core.keys[lease.plan.key].clone(),
            token: lease.token.clone(),
            until: core.local(self.host) + lease.record.newest().at.view.longest_ttl(),
            tries: 0,
            is_out: false,
        };
        self.owe(core, owed);
    }
}

/// The servers behind these nodes, as a bit mask.
fn servers<'v>(nodes: impl Iterator<Item = (&'v Arc<ViewNodes>, NodeIndex)>) -> u32 {
    nodes.fold(0, |all, (view_nodes, node)| {
        all | 1 << view_nodes.server(node)
    })
}
