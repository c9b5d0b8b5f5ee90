//! The goals of the bench.

use serde::Serialize;

use crate::statistics::median;

/// A figure and its bound.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// The number of its group of goals.
    pub(crate) number: &'static str,
    pub(crate) what: String,
    /// The median of the rounds' figures.
    pub(crate) figure: f64,
    pub(crate) rounds: Vec<f64>,
    pub(crate) bound: Bound,
    pub(crate) note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Reported without a bound.
    None,
}

impl Goal {
    /// A goal of group `number` for the median of `rounds`.
    pub(crate) fn new(
        number: &'static str,
        what: impl Into<String>,
        rounds: Vec<f64>,
        bound: Bound,
        note: impl Into<String>,
    ) -> Self {
        Self {
            number,
            what: what.into(),
            figure: median(&rounds),
            rounds,
            bound,
            note: note.into(),
        }
    }

    /// `None` if there is no bound. NaN meets no bound.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.bound {
            Bound::AtLeast(least) => Some(self.figure >= least),
            Bound::AtMost(most) => Some(self.figure <= most),
            Bound::None => None,
        }
    }

    pub(crate) fn figure_text(&self) -> String {
        text(self.figure)
    }

    /// The lowest and the highest round.
    pub(crate) fn range_text(&self) -> String {
        let rounds = || self.rounds.iter().copied();
        match self.rounds.len() {
            0 | 1 => String::new(),
            _ => format!(
                "{} - {}",
                text(rounds().fold(f64::INFINITY, f64::min)),
                text(rounds().fold(f64::NEG_INFINITY, f64::max))
            ),
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

fn text(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        _ => format!("{figure:.2}"),
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
        let goal = |figure, bound| Goal::new("1", "", vec![figure], bound, "");
        assert_eq!(goal(1.0, Bound::AtLeast(1.0)).is_met(), Some(true));
        assert_eq!(goal(1.1, Bound::AtMost(1.0)).is_met(), Some(false));
        assert_eq!(goal(f64::NAN, Bound::AtLeast(0.0)).is_met(), Some(false));
        assert_eq!(goal(f64::NAN, Bound::AtMost(9.0)).is_met(), Some(false));
        assert_eq!(goal(1.0, Bound::None).is_met(), None);
    }

    #[test]
    fn the_figure_is_the_median_of_the_rounds() {
        let goal = Goal::new("1", "", vec![0.5, 300.0, 1.25], Bound::None, "");
        assert_eq!(goal.figure_text(), "1.25");
        assert_eq!(goal.range_text(), "0.50 - 300");
    }
}
