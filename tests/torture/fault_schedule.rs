//! The faults of a run, drawn before it begins.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt, SeedableRng};

use crate::checker::resumption_bound;
use crate::history::{Back, Fault, Time};
use crate::settings::{
    CALM, MAX_TTL, MEMBERS, Preset, SERVERS, Settings, VIEW_LEASE, WORKERS, is_durable,
};

/// The shortest time in which a node that lost its data is let in again.
pub(crate) const RECOVERY: Duration = Duration::from_secs(5);

/// One fault of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Since the workers began.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    /// How long it lasts.
    pub(crate) span: Duration,
    /// Randomness for every other choice.
    pub(crate) chance: u64,
    /// Whether it is one of several that together silence a majority.
    pub(crate) is_crowd: bool,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, span) = (self.at.as_millis(), self.span.as_millis());
        write!(f, "{at:>7} ms, for {span:>4} ms: {:?}", self.fault)
    }
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    Freeze,
    Stall,
    Cut,
    Deaf,
    Slow,
    Flush,
    Scripts,
    Disconnect,
    Promote,
    Step,
    Fill,
    FillDisk,
    Pause,
    Slay,
}

const ALL: [Kind; 15] = [
    Kind::Kill,
    Kind::Freeze,
    Kind::Stall,
    Kind::Cut,
    Kind::Deaf,
    Kind::Slow,
    Kind::Flush,
    Kind::Scripts,
    Kind::Disconnect,
    Kind::Promote,
    Kind::Step,
    Kind::Fill,
    Kind::FillDisk,
    Kind::Pause,
    Kind::Slay,
];

/// The kinds that require a shim.
const SHIMMED: [Kind; 2] = [Kind::Step, Kind::FillDisk];

fn kinds(preset: Preset) -> &'static [Kind] {
    match preset {
        Preset::Ci | Preset::All | Preset::Single => &ALL,
        Preset::Kills => &[
            Kind::Kill,
            Kind::Kill,
            Kind::Kill,
            Kind::Freeze,
            Kind::Flush,
            Kind::Promote,
            Kind::Pause,
            Kind::Slay,
        ],
        Preset::Network => &[
            Kind::Freeze,
            Kind::Stall,
            Kind::Cut,
            Kind::Deaf,
            Kind::Slow,
            Kind::Disconnect,
        ],
        Preset::Clocks => &[Kind::Step, Kind::Step, Kind::Pause, Kind::Freeze],
        Preset::Memory => &[
            Kind::Fill,
            Kind::FillDisk,
            Kind::Flush,
            Kind::Scripts,
            Kind::Kill,
        ],
        Preset::Changes => &[Kind::Kill, Kind::Slay, Kind::Stall, Kind::Cut, Kind::Pause],
        Preset::Rolling => &[Kind::Kill],
        Preset::Majority => &[Kind::Stall, Kind::Cut, Kind::Freeze, Kind::Deaf],
    }
}

/// The whole plan of a run.
pub(crate) fn plan(settings: &Settings, has_shim: bool) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(settings.seed);
    let end = settings.length.saturating_sub(CALM);
    let kinds = kinds(settings.preset).iter().copied();
    let kinds: Vec<_> = kinds
        .filter(|kind| has_shim || !SHIMMED.contains(kind))
        .collect();
    if settings.preset == Preset::Majority {
        return crowds(&kinds, end, &mut random);
    }
    if settings.preset == Preset::Rolling {
        return rounds(end, &mut random);
    }
    let gap = if settings.preset == Preset::Ci {
        1_500
    } else {
        900
    };
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = Duration::from_secs(1);
    // A stepped clock diverges from the others; only one at a time.
    let mut steps_from = Duration::ZERO;
    while at < end {
        let kind = kinds[random.random_range(0..kinds.len())];
        if kind != Kind::Step || at >= steps_from {
            let one = draw(kind, at, &mut random);
            if kind == Kind::Step {
                steps_from = at + one.span + RECOVERY;
            }
            planned.push(one);
        }
        at += Duration::from_millis(random.random_range(gap / 3..gap * 2));
    }
    planned
}

/// Three of five members are away at once, so that no vote is possible.
fn crowds(kinds: &[Kind], end: Duration, random: &mut StdRng) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut at = Duration::from_secs(2);
    while at < end {
        let span = Duration::from_millis(random.random_range(1_500..5_000));
        for node in index::sample(random, MEMBERS, MEMBERS / 2 + 1) {
            let kind = kinds[random.random_range(0..kinds.len())];
            let fault = fault(kind, ringlock_test_support::name(node), random);
            planned.push(Planned {
                at: at + Duration::from_millis(random.random_range(0..200)),
                fault,
                span,
                chance: random.random(),
                is_crowd: true,
            });
        }
        at += span + Duration::from_millis(random.random_range(3_000..6_000));
    }
    planned.sort_by_key(|one| one.at);
    planned
}

/// Every member loses its data in turn, all within the longest ttl, in a random
/// order; then nothing happens for so long that grants must have resumed.
fn rounds(end: Duration, random: &mut StdRng) -> Vec<Planned> {
    let quiet = Duration::from_nanos(resumption_bound(MAX_TTL.as_nanos() as Time));
    let mut planned = Vec::new();
    let mut at = Duration::from_secs(2);
    while at < end {
        for node in index::sample(random, MEMBERS, MEMBERS) {
            let span = Duration::from_millis(random.random_range(50..300));
            planned.push(Planned {
                at,
                fault: Fault::Killed {
                    node: ringlock_test_support::name(node),
                    back: Back::Empty,
                },
                span,
                chance: random.random(),
                is_crowd: true,
            });
            at += span + Duration::from_millis(random.random_range(50..250));
        }
        at += quiet + Duration::from_millis(random.random_range(1_500..3_000));
    }
    planned
}

fn draw(kind: Kind, at: Duration, random: &mut StdRng) -> Planned {
    let node = ringlock_test_support::name(random.random_range(0..SERVERS));
    let span = match kind {
        Kind::Step => MAX_TTL + VIEW_LEASE,
        Kind::Kill => Duration::from_millis(random.random_range(0..1_500)),
        Kind::Pause => Duration::from_millis(random.random_range(100..5_000)),
        _ => Duration::from_millis(random.random_range(50..3_000)),
    };
    Planned {
        at,
        fault: fault(kind, node, random),
        span,
        chance: random.random(),
        is_crowd: false,
    }
}

fn fault(kind: Kind, node: String, random: &mut StdRng) -> Fault {
    // One more than the workers: the last one is the changer.
    let worker = random.random_range(0..=WORKERS as u32);
    match kind {
        Kind::Kill => {
            let back = [Back::Whole, Back::Truncated, Back::Empty];
            let back = back[random.random_range(0..back.len())];
            Fault::Killed { node, back }
        }
        Kind::Freeze => Fault::Frozen { node },
        Kind::Stall => Fault::Stalled { node },
        Kind::Cut => Fault::Cut { node },
        Kind::Deaf => Fault::Deaf { node },
        Kind::Slow => {
            let millis = random.random_range(5..400);
            Fault::Slow { node, millis }
        }
        Kind::Flush => Fault::Flushed { node },
        Kind::Scripts => Fault::ScriptsFlushed { node },
        Kind::Disconnect => Fault::Disconnected { node },
        // An operator promises that no replica takes a durable server's place.
        Kind::Promote if is_durable(&node) => Fault::Killed {
            node,
            back: Back::Whole,
        },
        Kind::Promote => Fault::Promoted { node },
        Kind::Step => {
            let millis = random.random_range(100..6_000);
            Fault::Stepped { node, millis }
        }
        Kind::Fill => Fault::Full { node },
        Kind::FillDisk => Fault::DiskFull { node },
        Kind::Pause => Fault::Paused { worker },
        Kind::Slay => Fault::Slain { worker },
    }
}
