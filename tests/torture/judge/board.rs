//! What was found, claim by claim.

use std::collections::BTreeMap;

use crate::history::Time;

/// Violations of one claim that are told; more are only counted.
pub(super) const MAX_TOLD: usize = 20;

/// What is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Claim {
    /// No two leases of a key are valid at once.
    Exclusion,
    /// While a lease is valid, nobody else could be granted the key.
    Continuity,
    /// Fences of a key differ, and who asks after a grant gets a higher one.
    Fences,
    /// Whoever holds a lease that is over is told in time.
    Loss,
    /// Nothing is granted or extended that is over, or beyond what was asked.
    FalseHope,
    /// No entry blocks a key longer than its last request asked for.
    Orphans,
    /// Nothing is granted while too few nodes can answer.
    Minority,
    /// With a quorum well, whoever asks gets it, or somebody else has it.
    Availability,
    /// An outage is not told as a busy key.
    Honesty,
    /// Every call comes back when its wait is over.
    Punctuality,
    /// No router goes back to an earlier view.
    ViewsRise,
    /// The guarded resource takes no stale write.
    Register,
    /// Grants resume when nothing is wrong any more.
    Resumption,
    /// In the end everything gets done.
    Liveness,
    /// The history tells of what there was to see.
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
        Self::Register,
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

/// One that is still to be written down, with the calls (by their place in
/// the story) whose records show it.
pub(super) struct Finding {
    pub(super) claim: Claim,
    pub(super) at: Time,
    pub(super) text: String,
    pub(super) calls: Vec<usize>,
}

/// What became of one claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// How often it could have been broken.
    pub(crate) examined: u64,
    pub(crate) violations: u64,
    /// The worst figures, in words.
    pub(crate) worst: String,
}

#[derive(Default)]
pub(super) struct Board {
    pub(super) tallies: BTreeMap<Claim, Tally>,
    pub(super) findings: Vec<Finding>,
}

impl Board {
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
        if tally.violations <= MAX_TOLD as u64 {
            self.findings.push(Finding {
                claim,
                at,
                text,
                calls: calls.to_vec(),
            });
        }
    }
}
