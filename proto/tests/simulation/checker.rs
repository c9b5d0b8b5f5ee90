//! Checks whether a history satisfies every claim.

use std::collections::{BTreeMap, BTreeSet};

use ringlock_proto::node::message::ViewId;

use crate::history::{Action, History, SECOND, Time};

/// Time within which every change is over once no fault occurs anymore: a change in
/// progress may have to wait for two quarantines and a transition.
const SETTLED_WITHIN: Time = 60 * SECOND;

/// Time within which every key can then be acquired: the longest ttl, some holding
/// time, and the retries of a client that acquires hundreds.
const SWEPT_WITHIN: Time = 20 * SECOND;

/// A claim of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// No two leases of a key are valid at the same time.
    Exclusion,
    /// While a lease is valid, no other client could be granted the key.
    Continuity,
    /// A client relies only on a node that reported an entry and has not lost its
    /// memory since.
    Reliance,
    /// A later grant has the higher fence.
    GrantOrder,
    /// Fences of a key differ, and a request after a grant gets a higher one.
    Fences,
    /// Once another client was granted the key of a lease that was released by
    /// force, no extend of that lease that begins later succeeds.
    Ousted,
    /// Each epoch has exactly one document.
    OneDocument,
    /// A client never returns to an earlier view.
    ViewsRise,
    /// No grant or extend succeeds for a lease that is over.
    InTime,
    /// No entry blocks a key longer than its last request asked for.
    Orphans,
    /// In the end all work completes.
    Liveness,
}

/// A claim that was broken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) params: Claim,
    pub(crate) at: Time,
    pub(crate) detail: String,
}

/// One lease, as its holder sees it.
#[derive(Clone, Debug, Default)]
struct Tenure {
    key: usize,
    began: Time,
    granted: Option<(Time, u64)>,
    until: Time,
    ended: Option<Time>,
    forced: Option<Time>,
    /// When its last successful extend began.
    extended: Time,
}

impl Tenure {
    fn end(&self) -> Time {
        self.ended.map_or(self.until, |ended| ended.min(self.until))
    }
}

#[derive(Default)]
struct Checker {
    tenures: BTreeMap<u64, Tenure>,
    held: BTreeSet<(u64, usize, u64)>,
    documents: BTreeMap<u32, ViewId>,
    views: BTreeMap<usize, u32>,
    healed: Option<Time>,
    settled: Option<Time>,
    swept: BTreeMap<usize, Time>,
    violations: Vec<Violation>,
}

/// Every claim that the history violates.
pub(crate) fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker::default();
    for (at, action) in &history.records {
        checker.take(*at, action);
    }
    checker.compare_tenures();
    checker.look_at_the_end(history.keys);
    checker.violations.sort_by_key(|violation| violation.at);
    checker.violations
}

impl Checker {
    fn broken(&mut self, params: Claim, at: Time, detail: String) {
        self.violations.push(Violation { params, at, detail });
    }

    fn take(&mut self, at: Time, action: &Action) {
        match *action {
            Action::Began { lease, key } => {
                let tenure = Tenure {
                    key,
                    began: at,
                    ..Tenure::default()
                };
                self.tenures.insert(lease, tenure);
            }
            Action::Granted {
                lease,
                fence,
                until,
                is_exclusive,
            } => {
                if let Some(tenure) = self.tenures.get_mut(&lease) {
                    tenure.granted = Some((at, fence));
                }
                self.prolong(at, lease, until, at < until, is_exclusive);
            }
            Action::Extended {
                lease,
                began,
                until,
                is_exclusive,
            } => {
                let is_in_time = self.extended(at, lease, began);
                self.prolong(at, lease, until, is_in_time, is_exclusive);
            }
            Action::Exposed { lease } => {
                let tenure = self.tenures.get(&lease);
                if tenure.is_some_and(|tenure| at < tenure.end()) {
                    self.exposed(at, lease);
                }
            }
            Action::Forced { lease } => self.forced(at, lease),
            Action::Ended { lease } => {
                if let Some(tenure) = self.tenures.get_mut(&lease) {
                    tenure.ended.get_or_insert(at);
                }
            }
            Action::Held { lease, node, nonce } => {
                self.held.insert((lease, node, nonce));
            }
            Action::Relied { lease, node, nonce } => {
                if !self.held.contains(&(lease, node, nonce)) {
                    let detail = format!("lease {lease} relies on node {node}");
                    self.broken(Claim::Reliance, at, detail);
                }
            }
            Action::Decided(view) => self.decided(at, view),
            Action::Moved { client, epoch } => self.moved(at, client, epoch),
            Action::Blocked {
                node,
                until,
                landed,
            } if until > landed => {
                let detail = format!("node {node} blocks up to {until}, not {landed}");
                self.broken(Claim::Orphans, at, detail);
            }
            Action::Blocked { .. } => {}
            Action::Healed => self.healed = Some(at),
            Action::Settled => self.settled = self.settled.or(Some(at)),
            Action::Swept { key } => {
                self.swept.entry(key).or_insert(at);
            }
        }
    }

    /// Whether it was extended in time.
    fn extended(&mut self, at: Time, lease: u64, began: Time) -> bool {
        self.tenures.get_mut(&lease).is_some_and(|tenure| {
            tenure.extended = tenure.extended.max(began);
            at < tenure.end()
        })
    }

    fn forced(&mut self, at: Time, lease: u64) {
        if let Some(tenure) = self.tenures.get_mut(&lease) {
            tenure.forced.get_or_insert(at);
        }
    }

    fn prolong(&mut self, at: Time, lease: u64, until: Time, is_in_time: bool, is_exclusive: bool) {
        if !is_in_time {
            let detail = format!("lease {lease} is over");
            self.broken(Claim::InTime, at, detail);
        }
        if !is_exclusive {
            self.exposed(at, lease);
        }
        if let Some(tenure) = self.tenures.get_mut(&lease) {
            tenure.until = tenure.until.max(until);
        }
    }

    fn moved(&mut self, at: Time, client: usize, epoch: u32) {
        let known = self.views.insert(client, epoch);
        if known.is_some_and(|known| known >= epoch) {
            let detail = format!("client {client} goes from {known:?} to {epoch}");
            self.broken(Claim::ViewsRise, at, detail);
        }
    }

    fn exposed(&mut self, at: Time, lease: u64) {
        let tenure = self.tenures.get(&lease);
        if tenure.is_some_and(|tenure| tenure.forced.is_some()) {
            // This exposure is intended.
            return;
        }
        let detail = format!("somebody else could have lease {lease}'s key");
        self.broken(Claim::Continuity, at, detail);
    }

    fn decided(&mut self, at: Time, view: ViewId) {
        let known = *self.documents.entry(view.epoch).or_insert(view);
        if known != view {
            let detail = format!("{known} and {view}");
            self.broken(Claim::OneDocument, at, detail);
        }
    }

    fn compare_tenures(&mut self) {
        let mut by_key: BTreeMap<usize, Vec<(Time, u64, u64, &Tenure)>> = BTreeMap::new();
        for (&lease, tenure) in &self.tenures {
            if let Some((at, fence)) = tenure.granted {
                let list = by_key.entry(tenure.key).or_default();
                list.push((at, fence, lease, tenure));
            }
        }
        let mut violations = Vec::new();
        for (key, mut list) in by_key {
            list.sort_unstable_by_key(|&(at, _, lease, _)| (at, lease));
            let mut broken = |params, at, a: u64, b: u64| {
                let detail = format!("leases {a} and {b} of key {key}");
                violations.push(Violation { params, at, detail });
            };
            for (index, &(at, fence, lease, tenure)) in list.iter().enumerate() {
                for &(before, lower, other, rival) in &list[..index] {
                    if rival.forced.is_none() {
                        if at < rival.end() {
                            broken(Claim::Exclusion, at, other, lease);
                        }
                    } else if at < rival.extended {
                        broken(Claim::Ousted, at, other, lease);
                    }
                    if fence == lower || fence < lower && tenure.began > before {
                        broken(Claim::Fences, at, other, lease);
                    } else if fence < lower {
                        broken(Claim::GrantOrder, at, other, lease);
                    }
                }
            }
        }
        self.violations.extend(violations);
    }

    fn look_at_the_end(&mut self, keys: usize) {
        let Some(healed) = self.healed else { return };
        let Some(settled) = self
            .settled
            .filter(|&settled| settled <= healed + SETTLED_WITHIN)
        else {
            let detail = "not every change is over".to_owned();
            return self.broken(Claim::Liveness, healed, detail);
        };
        let is_late = |key: &usize| {
            let swept = self.swept.get(key);
            swept.is_none_or(|&swept| swept > settled + SWEPT_WITHIN)
        };
        let late: Vec<usize> = (0..keys).filter(is_late).collect();
        if !late.is_empty() {
            let detail = format!("keys {late:?} cannot be acquired");
            self.broken(Claim::Liveness, settled, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(deeds: &[(Time, Action)]) -> Vec<Claim> {
        let history = History {
            records: deeds.to_vec(),
            keys: 2,
        };
        let broken = check(&history).into_iter();
        broken.map(|violation| violation.params).collect()
    }

    fn began(lease: u64, key: usize) -> Action {
        Action::Began { lease, key }
    }

    fn granted(lease: u64, fence: u64, until: Time) -> Action {
        Action::Granted {
            lease,
            fence,
            until,
            is_exclusive: true,
        }
    }

    fn extended(lease: u64, until: Time) -> Action {
        Action::Extended {
            lease,
            began: until - 12,
            until,
            is_exclusive: true,
        }
    }

    #[test]
    fn one_holder_after_the_other_is_fine() {
        let deeds = [
            (0, began(1, 0)),
            (1, granted(1, 5, 10)),
            (2, began(2, 0)),
            (8, extended(1, 20)),
            (15, Action::Ended { lease: 1 }),
            (15, granted(2, 6, 30)),
            (16, began(3, 1)),
            (17, granted(3, 1, 30)),
            (30, began(4, 0)),
            (31, granted(4, 7, 40)),
        ];
        assert_eq!(claims(&deeds), []);
    }

    #[test]
    fn two_holders_at_once_are_seen() {
        let mut deeds = vec![
            (0, began(1, 0)),
            (1, granted(1, 5, 10)),
            (2, began(2, 0)),
            (9, granted(2, 6, 30)),
        ];
        assert_eq!(claims(&deeds), [Claim::Exclusion]);
        // Extended before the other grant, held beyond it.
        deeds[3] = (12, granted(2, 6, 30));
        assert_eq!(claims(&deeds), []);
        deeds.insert(3, (9, extended(1, 20)));
        assert_eq!(claims(&deeds), [Claim::Exclusion]);
    }

    #[test]
    fn a_lease_that_is_forced_out_may_overlap_and_must_not_come_back() {
        let extended = |began| Action::Extended {
            lease: 1,
            began,
            until: 30,
            is_exclusive: false,
        };
        let mut deeds = vec![
            (0, began(1, 0)),
            (1, granted(1, 5, 20)),
            (2, Action::Forced { lease: 1 }),
            (3, began(2, 0)),
            (5, granted(2, 6, 30)),
            (6, Action::Ended { lease: 2 }),
        ];
        assert_eq!(claims(&deeds), []);
        // Begun before the other client was granted the key, and after.
        deeds.push((7, extended(4)));
        assert_eq!(claims(&deeds), []);
        deeds.push((9, extended(6)));
        assert_eq!(claims(&deeds), [Claim::Ousted]);
    }

    #[test]
    fn a_release_that_comes_too_late_does_not_excuse() {
        let deeds = [
            (0, began(1, 0)),
            (1, granted(1, 5, 20)),
            (2, began(2, 0)),
            (9, granted(2, 6, 30)),
            (10, Action::Ended { lease: 1 }),
        ];
        assert_eq!(claims(&deeds), [Claim::Exclusion]);
    }

    #[test]
    fn fences_out_of_order_are_seen() {
        let history = |began_at, fence| {
            vec![
                (0, began(1, 0)),
                (began_at, began(2, 0)),
                (3, granted(1, 5, 4)),
                (5, granted(2, fence, 30)),
            ]
        };
        assert_eq!(claims(&history(1, 6)), []);
        assert_eq!(claims(&history(1, 4)), [Claim::GrantOrder]);
        assert_eq!(claims(&history(4, 4)), [Claim::Fences]);
        assert_eq!(claims(&history(1, 5)), [Claim::Fences]);
    }

    #[test]
    fn what_is_over_is_not_granted_or_extended() {
        let late = [(0, began(1, 0)), (11, granted(1, 5, 10))];
        assert_eq!(claims(&late), [Claim::InTime]);
        let mut deeds = vec![
            (0, began(1, 0)),
            (1, granted(1, 5, 10)),
            (10, extended(1, 20)),
        ];
        assert_eq!(claims(&deeds), [Claim::InTime]);
        deeds[2].0 = 9;
        assert_eq!(claims(&deeds), []);
        deeds.insert(2, (8, Action::Ended { lease: 1 }));
        assert_eq!(claims(&deeds), [Claim::InTime]);
    }

    #[test]
    fn a_gap_is_seen() {
        let gap = Action::Extended {
            lease: 1,
            began: 7,
            until: 20,
            is_exclusive: false,
        };
        let deeds = [(0, began(1, 0)), (1, granted(1, 5, 10)), (8, gap)];
        assert_eq!(claims(&deeds), [Claim::Continuity]);

        let exposed = |at| (at, Action::Exposed { lease: 1 });
        let deeds = [(0, began(1, 0)), (1, granted(1, 5, 10)), exposed(9)];
        assert_eq!(claims(&deeds), [Claim::Continuity]);
        let deeds = [(0, began(1, 0)), (1, granted(1, 5, 10)), exposed(10)];
        assert_eq!(claims(&deeds), []);
    }

    #[test]
    fn a_node_of_another_memory_is_not_relied_upon() {
        let (lease, node) = (1, 0);
        let held = Action::Held {
            lease,
            node,
            nonce: 1,
        };
        let relied = |nonce| Action::Relied { lease, node, nonce };
        assert_eq!(claims(&[(0, held.clone()), (1, relied(1))]), []);
        let broken = [(0, held), (1, relied(2))];
        assert_eq!(claims(&broken), [Claim::Reliance]);
    }

    #[test]
    fn views_are_one_per_number_and_rise() {
        let view = |epoch, digest| Action::Decided(ViewId { epoch, digest });
        assert_eq!(claims(&[(0, view(1, 1)), (1, view(2, 2))]), []);
        let two = [(0, view(1, 1)), (1, view(1, 2))];
        assert_eq!(claims(&two), [Claim::OneDocument]);
        let moved = |epoch| Action::Moved { client: 0, epoch };
        assert_eq!(claims(&[(0, moved(2)), (1, moved(5))]), []);
        assert_eq!(claims(&[(0, moved(2)), (1, moved(1))]), [Claim::ViewsRise]);
    }

    #[test]
    fn an_orphan_that_outlives_its_ttl_is_seen() {
        let blocked = |until| Action::Blocked {
            node: 0,
            until,
            landed: 7,
        };
        assert_eq!(claims(&[(0, blocked(7))]), []);
        assert_eq!(claims(&[(0, blocked(8))]), [Claim::Orphans]);
    }

    #[test]
    fn what_never_ends_is_seen() {
        let swept = |key| Action::Swept { key };
        let settled = SETTLED_WITHIN;
        let mut deeds = vec![
            (0, Action::Healed),
            (settled, Action::Settled),
            (settled, swept(0)),
            (settled + SWEPT_WITHIN, swept(1)),
        ];
        assert_eq!(claims(&deeds), []);
        deeds[3].0 += 1;
        assert_eq!(claims(&deeds), [Claim::Liveness]);
        deeds.pop();
        assert_eq!(claims(&deeds), [Claim::Liveness]);
        deeds[1].0 += 1;
        assert_eq!(claims(&deeds), [Claim::Liveness]);
    }
}
