//! What is to be reached.

use serde::Serialize;

/// A figure beside what it is to be.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// Of the group of goals.
    pub(crate) number: &'static str,
    pub(crate) what: String,
    pub(crate) figure: f64,
    pub(crate) bound: Bound,
    pub(crate) note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Told for its own sake.
    None,
}

impl Goal {
    /// None where there is nothing to be met. A figure that is no number
    /// meets nothing.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.bound {
            Bound::AtLeast(least) => Some(self.figure >= least),
            Bound::AtMost(most) => Some(self.figure <= most),
            Bound::None => None,
        }
    }

    pub(crate) fn figure_text(&self) -> String {
        match self.figure.abs() {
            large if large >= 100.0 => format!("{:.0}", self.figure),
            _ => format!("{:.2}", self.figure),
        }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least:.2}"),
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
            Self::None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_meets_nothing() {
        let goal = |figure, bound| Goal {
            number: "1",
            what: String::new(),
            figure,
            bound,
            note: String::new(),
        };
        assert_eq!(goal(1.0, Bound::AtLeast(1.0)).is_met(), Some(true));
        assert_eq!(goal(1.1, Bound::AtMost(1.0)).is_met(), Some(false));
        assert_eq!(goal(f64::NAN, Bound::AtLeast(0.0)).is_met(), Some(false));
        assert_eq!(goal(f64::NAN, Bound::AtMost(9.0)).is_met(), Some(false));
        assert_eq!(goal(1.0, Bound::None).is_met(), None);
    }
}
