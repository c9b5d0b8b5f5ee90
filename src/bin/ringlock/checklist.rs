//! What was checked, the outcome, and the remedy.

use std::fmt;

use serde::Serialize;

use crate::output::{Failure, or_dash, table};

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    #[default]
    Ok,
    /// It works, but may not be intended.
    Warn,
    /// It must be fixed.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) check: &'static str,
    pub(crate) node: Option<String>,
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
    pub(crate) remedy: Option<String>,
}

/// Everything that was checked.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(crate) fn ok(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        detail: impl Into<String>,
    ) {
        self.note(check, node, Verdict::Ok, detail.into(), None);
    }

    pub(crate) fn warn(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.note(
            check,
            node,
            Verdict::Warn,
            detail.into(),
            Some(remedy.into()),
        );
    }

    pub(crate) fn fail(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.note(
            check,
            node,
            Verdict::Fail,
            detail.into(),
            Some(remedy.into()),
        );
    }

    /// The nodes could not be inspected at all.
    pub(crate) fn nodes(&mut self, failure: Failure) {
        self.fail(
            "nodes",
            None,
            failure.message,
            failure.next.unwrap_or_default(),
        );
    }

    fn note(
        &mut self,
        check: &'static str,
        node: Option<&str>,
        verdict: Verdict,
        detail: String,
        remedy: Option<String>,
    ) {
        self.verdict = self.verdict.max(verdict);
        self.checks.push(Check {
            check,
            node: node.map(Into::into),
            verdict,
            detail,
            remedy,
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = table(["", "check", "node", "found"]);
        for check in &self.checks {
            rows.add_row([
                check.verdict.word(),
                check.check,
                &or_dash(check.node.as_ref()),
                &check.detail,
            ]);
        }
        let mut text = rows.to_string();
        for check in &self.checks {
            if let Some(remedy) = &check.remedy {
                let node = check.node.as_ref();
                let node = node.map_or_else(String::new, |node| format!(" of node {node}"));
                text += &format!("\n{}{node}: {remedy}", check.check);
            }
        }
        f.write_str(&text)
    }
}
