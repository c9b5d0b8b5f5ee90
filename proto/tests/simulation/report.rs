//! Counts of operations and of injected faults.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// A kind of fault that was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Delay,
    Loss,
    Late,
    Repeat,
    Break,
    Partition,
    OneWay,
    Force,
    Wipe,
    OldData,
    Restart,
    NodePause,
    ClientPause,
    ClientDeath,
    CoordinatorDeath,
}

/// Counts over one run or many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    pub(crate) requests: u64,
    pub(crate) attempts: u64,
    pub(crate) granted: u64,
    pub(crate) contended: u64,
    pub(crate) extends: u64,
    pub(crate) extended: u64,
    pub(crate) carried: u64,
    pub(crate) lost: u64,
    pub(crate) releases: u64,
    pub(crate) moves: u64,
    pub(crate) decisions: u64,
    pub(crate) joint: u64,
    pub(crate) readmitted: u64,
    pub(crate) finished: u64,
    pub(crate) superseded: u64,
    pub(crate) aborted: u64,
    faults: BTreeMap<Fault, u64>,
}

impl Tally {
    pub(crate) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Operations that clients began.
    pub(crate) fn operations(&self) -> u64 {
        self.attempts + self.extends + self.releases
    }
}

impl AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            runs,
            requests,
            attempts,
            granted,
            contended,
            extends,
            extended,
            carried,
            lost,
            releases,
            moves,
            decisions,
            joint,
            readmitted,
            finished,
            superseded,
            aborted,
            faults,
        } = other;
        for (sum, more) in [
            (&mut self.runs, runs),
            (&mut self.requests, requests),
            (&mut self.attempts, attempts),
            (&mut self.granted, granted),
            (&mut self.contended, contended),
            (&mut self.extends, extends),
            (&mut self.extended, extended),
            (&mut self.carried, carried),
            (&mut self.lost, lost),
            (&mut self.releases, releases),
            (&mut self.moves, moves),
            (&mut self.decisions, decisions),
            (&mut self.joint, joint),
            (&mut self.readmitted, readmitted),
            (&mut self.finished, finished),
            (&mut self.superseded, superseded),
            (&mut self.aborted, aborted),
        ] {
            *sum += more;
        }
        for (&fault, more) in faults {
            *self.faults.entry(fault).or_default() += more;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seeds       {}", self.runs)?;
        writeln!(
            f,
            "operations  {} ({} requests): {} attempts, {} granted, {} contended; \
             {} extends, {} extended, {} of them in a later view; {} lost; {} releases",
            self.operations(),
            self.requests,
            self.attempts,
            self.granted,
            self.contended,
            self.extends,
            self.extended,
            self.carried,
            self.lost,
            self.releases
        )?;
        writeln!(
            f,
            "changes     {} finished, {} taken back, {} superseded; {} views decided, {} joint, \
             {} nodes let in again; clients moved {} times",
            self.finished,
            self.aborted,
            self.superseded,
            self.decisions,
            self.joint,
            self.readmitted,
            self.moves
        )?;
        write!(f, "faults     ")?;
        for (fault, count) in &self.faults {
            write!(f, " {fault:?} {count}")?;
        }
        Ok(())
    }
}
