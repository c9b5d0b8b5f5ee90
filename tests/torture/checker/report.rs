//! The final report.

use std::collections::BTreeMap;
use std::fmt;

use crate::checker::availability::{Share, State};
use crate::checker::verdicts::{Claim, Tally, Violation};
use crate::checker::waits::Waits;
use crate::history::{Action, Back, Fault, MS, Refusal, Release, SECOND, Time};

/// A human-readable duration.
pub(super) fn show(time: Time) -> String {
    if time >= 10 * SECOND {
        format!("{:.1} s", time as f64 / SECOND as f64)
    } else {
        format!("{:.1} ms", time as f64 / MS as f64)
    }
}

/// A distribution of durations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) count: usize,
    pub(crate) p50: Time,
    pub(crate) p95: Time,
    pub(crate) p99: Time,
    pub(crate) max: Time,
}

impl Figures {
    pub(super) fn of(mut times: Vec<Time>) -> Self {
        times.sort_unstable();
        let count = times.len();
        // The smallest value that this percentage of durations does not exceed.
        let at = |percent: usize| {
            let place = (count * percent).div_ceil(100).saturating_sub(1);
            times.get(place).copied().unwrap_or(0)
        };
        Self {
            count,
            p50: at(50),
            p95: at(95),
            p99: at(99),
            max: at(100),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, p99, max] = [self.p50, self.p95, self.p99, self.max].map(show);
        let count = self.count;
        write!(f, "p50 {p50}, p95 {p95}, p99 {p99}, max {max} of {count}")
    }
}

/// How many there were of each kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) asked: u64,
    pub(crate) granted: u64,
    pub(crate) refused: BTreeMap<Refusal, u64>,
    pub(crate) abandoned: u64,
    pub(crate) kept: u64,
    pub(crate) extended: u64,
    pub(crate) not_extended: u64,
    pub(crate) lost: u64,
    pub(crate) released: u64,
    pub(crate) released_late: u64,
    pub(crate) release_failed: u64,
    pub(crate) observations: u64,
    pub(crate) changes: u64,
    pub(crate) changes_failed: u64,
    pub(crate) writes: u64,
    /// Writes that arrived after one with a higher fence. A resource that does
    /// not check fences accepts them all.
    pub(crate) stale: u64,
    /// Of these, those whose holder had checked, and believed in its lease.
    pub(crate) stale_believed: u64,
    pub(crate) stale_refused: u64,
    pub(crate) faults: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn take(&mut self, action: &Action) {
        match action {
            Action::Asked { .. } => self.asked += 1,
            Action::Granted { .. } => self.granted += 1,
            Action::Refused { refusal, .. } => *self.refused.entry(*refusal).or_default() += 1,
            Action::Abandoned { .. } => self.abandoned += 1,
            Action::Kept { .. } => self.kept += 1,
            Action::Extended { until: Some(_), .. } => self.extended += 1,
            Action::Extended { until: None, .. } => self.not_extended += 1,
            Action::Lost { .. } => self.lost += 1,
            Action::Released { how, .. } => match how {
                Release::InTime => self.released += 1,
                Release::TooLate => self.released_late += 1,
                Release::Failed => self.release_failed += 1,
            },
            Action::Looked { .. } => self.observations += 1,
            Action::Changed { error: None, .. } => self.changes += 1,
            Action::Changed { .. } => self.changes_failed += 1,
            Action::Offered { is_taken, .. } => {
                self.writes += 1;
                self.stale_refused += u64::from(!is_taken);
            }
            Action::Struck { fault, .. } => *self.faults.entry(kind(fault)).or_default() += 1,
            Action::Ended { .. }
            | Action::Stalled { .. }
            | Action::Moved { .. }
            | Action::Mended { .. }
            | Action::Calm
            | Action::Swept { .. } => {}
        }
    }

    /// What a run must contain.
    pub(super) fn needed(&self) -> [(&'static str, u64); 5] {
        [
            ("grant", self.granted),
            ("refusal", self.refused.values().sum()),
            ("loss", self.lost),
            ("extend", self.kept + self.extended),
            ("look", self.observations),
        ]
    }
}

fn kind(fault: &Fault) -> String {
    match fault {
        Fault::Killed {
            back: Back::Whole, ..
        } => "killed, back whole".to_owned(),
        Fault::Killed {
            back: Back::Truncated,
            ..
        } => "killed, back truncated".to_owned(),
        Fault::Killed {
            back: Back::Empty, ..
        } => "killed, back empty".to_owned(),
        other => {
            let text = format!("{other:?}");
            let end = text.find(' ').unwrap_or(text.len());
            text[..end].to_lowercase()
        }
    }
}

/// The judgement.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lasted: Time,
    pub(crate) counts: Counts,
    pub(crate) claims: BTreeMap<Claim, Tally>,
    pub(crate) availability: BTreeMap<State, Share>,
    pub(crate) waits: Waits,
    /// How late the loss of a lease was reported.
    pub(crate) reported_late: Figures,
    /// In order of time; at most the first twenty of each claim.
    pub(crate) violations: Vec<Violation>,
}

impl Report {
    /// Claims that were never examined.
    pub(crate) fn unexamined(&self) -> Vec<Claim> {
        let is_idle = |claim: &Claim| self.claims.get(claim).is_none_or(|it| it.examined == 0);
        Claim::ALL.into_iter().filter(is_idle).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations(f)?;
        self.shares(f)?;
        writeln!(
            f,
            "\n{:<14}{:>10}{:>8}  worst",
            "claim", "examined", "broken"
        )?;
        for claim in Claim::ALL {
            let tally = self.claims.get(&claim).cloned().unwrap_or_default();
            let (examined, broken) = (tally.examined, tally.violations);
            let name = format!("{claim:?}");
            let idle = if examined == 0 {
                "NOTHING EXAMINED; "
            } else {
                ""
            };
            writeln!(
                f,
                "{name:<14}{examined:>10}{broken:>8}  {idle}{}",
                tally.worst
            )?;
        }
        for Violation { claim, at, detail } in &self.violations {
            writeln!(f, "\n{claim:?} at {at}: {detail}")?;
        }
        Ok(())
    }
}

impl Report {
    fn operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let refused: u64 = counts.refused.values().sum();
        writeln!(
            f,
            "{} asked for: {} granted, {refused} refused {:?}, {} abandoned; in {}",
            counts.asked,
            counts.granted,
            counts.refused,
            counts.abandoned,
            show(self.lasted),
        )?;
        writeln!(
            f,
            "{} times kept alive, {} extended, {} not extended; {} lost; {} released in time, {} \
             too late, {} failed",
            counts.kept,
            counts.extended,
            counts.not_extended,
            counts.lost,
            counts.released,
            counts.released_late,
            counts.release_failed,
        )?;
        writeln!(
            f,
            "{} writes offered, {} of them stale; {} refused; without fences {} would have been \
             taken, {} of them from holders that had looked",
            counts.writes, counts.stale, counts.stale_refused, counts.stale, counts.stale_believed,
        )?;
        let (done, failed) = (counts.changes, counts.changes_failed);
        writeln!(
            f,
            "{} looks; {done} changes done, {failed} failed",
            counts.observations
        )?;
        let faults: Vec<String> = counts
            .faults
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        writeln!(f, "faults: {}", faults.join("; "))?;
        writeln!(f, "handed on after a release: {}", self.waits.released)?;
        writeln!(
            f,
            "handed on after an end of another kind: {}",
            self.waits.lapsed
        )?;
        writeln!(f, "back after the wait, by: {}", self.waits.late)?;
        writeln!(f, "losses told late, by: {}", self.reported_late)
    }

    fn shares(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<34}{:>9}{:>10}{:>9}{:>9}{:>9}{:>11}{:>11}",
            "a key's nodes", "granted", "contended", "refused", "alone", "granted", "p50", "p99",
        )?;
        for (state, share) in &self.availability {
            let percent = share.alone_granted as f64 * 100.0 / share.alone.max(1) as f64;
            let figures = share.figures();
            writeln!(
                f,
                "{:<34}{:>9}{:>10}{:>9}{:>9}{:>8.2}%{:>11}{:>11}",
                state.to_string(),
                share.granted,
                share.contended,
                share.refused,
                share.alone,
                percent,
                show(figures.p50),
                show(figures.p99),
            )?;
        }
        Ok(())
    }
}
