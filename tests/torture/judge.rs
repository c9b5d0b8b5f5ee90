//! What is wrong with a history.

use std::fmt;

use crate::history::{Deed, Record, Time};

/// What held in a run.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "nothing is judged yet")]
pub(crate) struct Rules {
    pub(crate) replicas: usize,
    pub(crate) max_ttl: Time,
    pub(crate) view_lease: Time,
    pub(crate) nodes: Vec<String>,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub(crate) struct Violation(pub(crate) String);

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Violation(what) in &self.violations {
            writeln!(f, "{what}")?;
        }
        Ok(())
    }
}

pub(crate) fn judge(records: &[Record], _: &Rules) -> Report {
    let violations = records.iter().filter_map(|record| match &record.deed {
        Deed::Swept {
            key,
            error: Some(error),
        } => Some(Violation(format!("{key}: {error}"))),
        _ => None,
    });
    Report {
        violations: violations.collect(),
    }
}
