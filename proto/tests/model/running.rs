//! The machines of the three operations as one type.

use ringlock_proto::node::message::Request;
use ringlock_proto::operation::acquire::{Attempt, Denied, Grant};
use ringlock_proto::operation::extend::{Extend, ExtendOutcome};
use ringlock_proto::operation::machine::{Effects, Event, Machine, Step};
use ringlock_proto::operation::release::{Release, ReleaseOutcome};
use ringlock_proto::quorum::{Placement, Voter};
use ringlock_proto::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Running {
    Attempt(Attempt),
    Extend(Extend),
    Release(Release),
}

pub(crate) enum Outcome {
    Attempt(Result<Grant, Denied>),
    Extend(ExtendOutcome),
    Release(ReleaseOutcome),
}

fn wrapped<O>(effects: Effects<O>, wrap: impl FnOnce(O) -> Outcome) -> Effects<Outcome> {
    Effects {
        send: effects.send,
        probe: effects.probe,
        release: effects.release,
        acknowledged: effects.acknowledged,
        vouching: effects.vouching,
        disowned: effects.disowned,
        outcome: effects.outcome.map(wrap),
    }
}

impl Running {
    pub(crate) fn on(
        &mut self,
        now: Instant,
        confirmed_at: Instant,
        event: Event,
    ) -> Effects<Outcome> {
        match self {
            Self::Attempt(machine) => {
                wrapped(machine.on(now, confirmed_at, event), Outcome::Attempt)
            }
            Self::Extend(machine) => wrapped(machine.on(now, confirmed_at, event), Outcome::Extend),
            Self::Release(machine) => {
                wrapped(machine.on(now, confirmed_at, event), Outcome::Release)
            }
        }
    }

    pub(crate) fn request(&self, step: Step, to: Voter) -> Request {
        match self {
            Self::Attempt(machine) => machine.request(step, to),
            Self::Extend(machine) => machine.request(step, to),
            Self::Release(machine) => machine.request(step, to),
        }
    }

    pub(crate) fn placement(&self) -> Placement {
        match self {
            Self::Attempt(machine) => *machine.placement(),
            Self::Extend(machine) => *machine.placement(),
            Self::Release(machine) => *machine.placement(),
        }
    }
}
