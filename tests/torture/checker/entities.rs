//! The subjects of a history.

use std::collections::HashMap;

use crate::checker::spans::Spans;
use crate::history::{Ask, Fault, Refusal, Time};

/// Names as numbers.
#[derive(Default)]
pub(super) struct Names<'a> {
    ids: HashMap<&'a str, u32>,
    names: Vec<&'a str>,
}

impl<'a> Names<'a> {
    pub(super) fn id(&mut self, name: &'a str) -> u32 {
        *self.ids.entry(name).or_insert_with(|| {
            self.names.push(name);
            (self.names.len() - 1) as u32
        })
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(super) fn name(&self, id: u32) -> &'a str {
        self.names[id as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    None,
    Granted,
    Refused(Refusal),
    Abandoned,
}

/// One call that requests a lease, and the lease.
pub(super) struct Call {
    pub(super) ask: Ask,
    pub(super) by: u32,
    pub(super) key: u32,
    pub(super) asked: Time,
    pub(super) ttl: Time,
    pub(super) wait: Time,
    pub(super) answer: Answer,
    /// When the answer came.
    pub(super) done: Time,
    pub(super) fence: u64,
    /// As granted.
    pub(super) until: Time,
    pub(super) view: u32,
    /// Among [`Timeline::sets`].
    pub(super) set: u32,
    /// As last extended.
    pub(super) last_until: Time,
    /// When it was seen to be extended, and up to when.
    pub(super) moves: Vec<(Time, Time)>,
    pub(super) ended: Option<Time>,
    pub(super) lost: Option<Time>,
    /// When its worker was slain.
    pub(super) slain: Option<Time>,
}

impl Call {
    /// Up to when it was valid according to its holder's knowledge at `at`.
    pub(super) fn until_at(&self, at: Time) -> Time {
        let known = self.moves.partition_point(|&(moved, _)| moved <= at);
        let last = self.moves[..known].last();
        last.map_or(self.until, |&(_, until)| until.max(self.until))
    }

    /// When the belief in it ended. A slain holder has no belief: it cannot do
    /// the work that the lease protects.
    pub(super) fn end(&self) -> Time {
        let ends = [self.ended, self.lost, self.slain].into_iter().flatten();
        ends.fold(self.last_until, Time::min)
    }

    pub(super) fn is_granted(&self) -> bool {
        self.answer == Answer::Granted
    }
}

/// A worker process.
#[derive(Default)]
pub(super) struct Worker {
    /// When it did not run.
    pub(super) away: Spans,
    pub(super) slain: Option<Time>,
    /// Its last record.
    pub(super) last: Time,
}

/// A fault of a node or a worker.
pub(super) struct Trouble<'a> {
    pub(super) fault: &'a Fault,
    pub(super) struck: Time,
    pub(super) mended: Time,
}
