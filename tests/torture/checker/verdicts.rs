//! The findings, claim by claim.

use std::collections::BTreeMap;

use crate::history::Time;

/// The violations of one claim that are printed; more are only counted.
pub(super) const MAX_REPORTED: usize = 20;

/// The claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Claim {
    /// No two leases of a key are valid at once.
    Exclusion,
    /// While a lease is valid, no other request for its key could be granted.
    Continuity,
    /// Fences of a key differ, and a request after a grant gets a higher one.
    Fences,
    /// The holder of a lease that is over learns of it in time.
    Loss,
    /// No lease is granted or extended after its end, or beyond the requested
    /// ttl.
    FalseHope,
    /// No entry blocks a key longer than its last request asked for.
    Orphans,
    /// Nothing is granted while too few nodes can answer.
    Minority,
    /// While a quorum is well, a request is granted, or the key has another
    /// holder.
    Availability,
    /// An outage is not reported as a busy key.
    Honesty,
    /// Every call returns when its wait is over.
    Punctuality,
    /// No router returns to an earlier view.
    ViewsRise,
    /// The guarded resource accepts no stale write.
    FencedStore,
    /// Grants resume after the last fault.
    Resumption,
    /// In the end every pending operation completes.
    Liveness,
    /// The history contains enough to judge.
    Worth,
}

impl Claim {
    pub(crate) const ALL: [Self; 15] = [
        Self::Exclusion,
        Self::Continuity,
        Self::Fences,
        Self::Loss,
        Self::FalseHope,
        Self::Orphans,
        Self::Minority,
        Self::Availability,
        Self::Honesty,
        Self::Punctuality,
        Self::ViewsRise,
        Self::FencedStore,
        Self::Resumption,
        Self::Liveness,
        Self::Worth,
    ];
}

/// A claim that was broken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) claim: Claim,
    pub(crate) at: Time,
    /// What is wrong, then the records that show it, a line each.
    pub(crate) detail: String,
}

/// A violation that is not written out yet, with the calls (by their place in
/// the story) whose records show it.
pub(super) struct Finding {
    pub(super) claim: Claim,
    pub(super) at: Time,
    pub(super) text: String,
    pub(super) calls: Vec<usize>,
}

/// The result for one claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// How often it could have been broken.
    pub(crate) examined: u64,
    pub(crate) violations: u64,
    /// The worst figures, in words.
    pub(crate) worst: String,
}

#[derive(Default)]
pub(super) struct Verdicts {
    pub(super) tallies: BTreeMap<Claim, Tally>,
    pub(super) findings: Vec<Finding>,
}

impl Verdicts {
    pub(super) fn tally(&mut self, claim: Claim) -> &mut Tally {
        self.tallies.entry(claim).or_default()
    }

    pub(super) fn examined(&mut self, claim: Claim, count: u64) {
        self.tally(claim).examined += count;
    }

    pub(super) fn worst(&mut self, claim: Claim, worst: String) {
        self.tally(claim).worst = worst;
    }

    pub(super) fn broken(&mut self, claim: Claim, at: Time, calls: &[usize], text: String) {
        let tally = self.tally(claim);
        tally.violations += 1;
        if tally.violations <= MAX_REPORTED as u64 {
            self.findings.push(Finding {
                claim,
                at,
                text,
                calls: calls.to_vec(),
            });
        }
    }
}
