//! The settings of a run, and its constants.

use std::path::PathBuf;
use std::time::Duration;

/// Members of a new cluster.
pub(crate) const MEMBERS: usize = 5;

/// Servers, including those that may join.
pub(crate) const SERVERS: usize = 7;

/// The first of them write everything to disk before they answer.
pub(crate) const DURABLE: usize = 2;

pub(crate) const MAX_TTL: Duration = Duration::from_secs(3);
pub(crate) const VIEW_LEASE: Duration = Duration::from_secs(1);

/// Concurrent worker processes.
pub(crate) const WORKERS: usize = 3;

/// Tasks of each.
pub(crate) const TASKS: usize = 32;

/// The most requests per second and worker: ten minutes of them, with all their
/// records, are less than three million records.
pub(crate) const RATE: u32 = 200;

/// Keys, of which the first few get as many requests as all others.
pub(crate) const KEYS: usize = 40;
pub(crate) const HOT_KEYS: usize = 4;

/// The final part of a run, without faults, for recovery.
pub(crate) const CALM: Duration = Duration::from_secs(20);

/// Which faults there are, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    /// All kinds, at a low rate.
    Ci,
    Kills,
    Network,
    Clocks,
    Memory,
    Changes,
    All,
    /// All kinds, with one replica.
    Single,
    /// Most members are away for a while, again and again.
    Majority,
    /// All members are restarted without their data, one after the other and
    /// faster than any is let in again; then there is a quiet time.
    Rolling,
}

const PRESETS: [(&str, Preset); 10] = [
    ("ci", Preset::Ci),
    ("kills", Preset::Kills),
    ("network", Preset::Network),
    ("clocks", Preset::Clocks),
    ("memory", Preset::Memory),
    ("changes", Preset::Changes),
    ("all", Preset::All),
    ("single", Preset::Single),
    ("majority", Preset::Majority),
    ("rolling", Preset::Rolling),
];

impl Preset {
    /// Replicas of a key.
    pub(crate) fn replicas(self, seed: u64) -> usize {
        match self {
            Self::Single => 1,
            // Both modes.
            Self::Rolling if seed.is_multiple_of(2) => 1,
            // Three is the usual number.
            _ if seed.is_multiple_of(4) => 5,
            _ => 3,
        }
    }

    /// Whether the membership changes continuously.
    pub(crate) fn has_changes(self) -> bool {
        matches!(self, Self::Ci | Self::Changes | Self::All | Self::Single)
    }
}

/// The settings of this run, from the environment.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) preset: Preset,
    /// The length of the whole run.
    pub(crate) length: Duration,
    /// The directory in which the history is kept, whatever the result.
    pub(crate) out: Option<PathBuf>,
    /// Whether an existing history is judged again, without a run.
    pub(crate) is_again: bool,
}

impl Settings {
    pub(crate) fn read() -> Self {
        let reported = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let minutes = reported("TORTURE_MINUTES").map_or(1.0, |text| {
            text.parse().expect("TORTURE_MINUTES is a number")
        });
        let preset = reported("TORTURE_PRESET").unwrap_or_else(|| "ci".into());
        let named = PRESETS.iter().find(|(name, _)| *name == preset);
        let names = PRESETS.map(|(name, _)| name).join(", ");
        let settings = Self {
            seed: reported("TORTURE_SEED").map_or_else(rand::random, |text| {
                text.parse().expect("TORTURE_SEED is a number")
            }),
            preset: named
                .unwrap_or_else(|| panic!("TORTURE_PRESET is one of {names}"))
                .1,
            length: Duration::from_secs_f64(60.0 * minutes),
            out: reported("TORTURE_OUT").map(Into::into),
            is_again: reported("TORTURE_AGAIN").is_some(),
        };
        println!(
            "to repeat it: scripts/torture.sh --seed {} --minutes {minutes} --preset {preset}",
            settings.seed
        );
        settings
    }

    pub(crate) fn replicas(&self) -> usize {
        self.preset.replicas(self.seed)
    }
}

/// The name of key `index`.
pub(crate) fn key(index: usize) -> String {
    format!("k{index}")
}

/// The names of all servers.
pub(crate) fn names() -> Vec<String> {
    (0..SERVERS).map(ringlock_test_support::name).collect()
}

/// Whether the server keeps every write.
pub(crate) fn is_durable(name: &str) -> bool {
    (0..DURABLE).any(|index| ringlock_test_support::name(index) == name)
}
