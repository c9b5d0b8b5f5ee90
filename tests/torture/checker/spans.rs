//! Spans of time.

use crate::history::Time;

/// Spans in order, with gaps between them; both ends belong to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Spans(Vec<(Time, Time)>);

impl FromIterator<(Time, Time)> for Spans {
    fn from_iter<I: IntoIterator<Item = (Time, Time)>>(spans: I) -> Self {
        let mut sorted: Vec<(Time, Time)> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<(Time, Time)> = Vec::new();
        for (from, to) in sorted {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }
}

impl Spans {
    fn touching(&self, from: Time, to: Time) -> &[(Time, Time)] {
        let first = self.0.partition_point(|span| span.1 < from);
        let rest = &self.0[first..];
        &rest[..rest.partition_point(|span| span.0 <= to)]
    }

    /// Whether any moment from `from` to `to` is in them.
    pub(super) fn touch(&self, from: Time, to: Time) -> bool {
        !self.touching(from, to).is_empty()
    }

    /// Whether every moment from `from` to `to` is in them.
    pub(super) fn cover(&self, from: Time, to: Time) -> bool {
        let touching = self.touching(from, to);
        touching.iter().any(|span| span.0 <= from && to <= span.1)
    }

    /// How much of the time from `from` to `to` is in them.
    pub(super) fn within(&self, from: Time, to: Time) -> Time {
        let part = |span: &(Time, Time)| span.1.min(to).saturating_sub(span.0.max(from));
        self.touching(from, to).iter().map(part).sum()
    }

    /// The end of the last span that has any moment between the two; `from`
    /// where there is none.
    pub(super) fn end(&self, from: Time, to: Time) -> Time {
        let last = self.touching(from, to).last();
        last.map_or(from, |span| span.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_meet_are_one() {
        let spans: Spans = [(30, 40), (10, 20), (20, 25), (12, 15)]
            .into_iter()
            .collect();
        assert_eq!(spans.0, [(10, 25), (30, 40)]);
        assert!(spans.touch(25, 29) && !spans.touch(26, 29) && spans.touch(0, 99));
        assert!(spans.cover(10, 25) && spans.cover(12, 24) && !spans.cover(25, 30));
        assert_eq!(spans.within(20, 35), 10);
        assert_eq!(spans.within(26, 29), 0);
        assert_eq!(
            [spans.end(8, 9), spans.end(9, 10), spans.end(40, 50)],
            [8, 25, 40]
        );
    }
}
