//! The bounds of a world, and what is taken out of it.

use std::time::Duration;

use ringlock::proto::lease::Ttl;
use ringlock::proto::quorum::Placement;
use ringlock::proto::time::Instant;
use ringlock::proto::wire::{Slot, ViewId};
use ringlock_ring::NodeIndex;

use crate::properties::{Claim, Seen};

/// Reading of every clock after so many ticks. A lease's drift allowance makes
/// it end just before a tick, at which the entries expire: nothing to spare.
pub(crate) fn at(tick: u8) -> Instant {
    Instant::from_nanos(1_000_000_000_000) + span(tick)
}

pub(crate) fn span(ticks: u8) -> Duration {
    Duration::from_secs(ticks.into())
}

pub(crate) fn ttl(ticks: u8) -> Ttl {
    Ttl::new(span(ticks), span(u8::MAX)).unwrap()
}

pub(crate) fn node(index: usize) -> NodeIndex {
    NodeIndex::new(u16::try_from(index).unwrap())
}

pub(crate) fn view(epoch: u32) -> ViewId {
    let digest = 0xd1_6e57 + u128::from(epoch);
    ViewId { epoch, digest }
}

/// How nodes lose entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Everything is gone: the node is absent.
    Wipe,
    /// Another incarnation, with or without its entries.
    Restart,
    /// An entry may vanish at any time: node clocks are arbitrary.
    Vanish,
}

/// How epoch 2 comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It does not.
    Never,
    /// Every node is lost; they are quarantined, and adopt after a wait.
    Reinitialise {
        /// Ticks of the wait.
        wait: u8,
    },
    /// Node 0, the owner of the key, is cut off from the operator. The others
    /// are quarantined and adopt, after a wait, a view in which node 1 owns it.
    Force {
        /// Ticks of the wait.
        wait: u8,
    },
    /// A decided document of the same members; each adopts it at its own time.
    Adopt,
}

/// A world within bounds. Clients and nodes are alike unless said otherwise,
/// so that orders which differ by names alone are explored once.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Members of the cluster.
    pub(crate) nodes: usize,
    /// Replicas of the key.
    pub(crate) replicas: usize,
    /// Attempts that each client may begin.
    pub(crate) attempts: [u8; 2],
    /// Extends that each client may begin.
    pub(crate) extends: [u8; 2],
    /// Ticks that an attempt asks for.
    pub(crate) ttl: u8,
    /// Ticks that an extend may ask for.
    pub(crate) extend_ttls: &'static [u8],
    /// Ticks that a view counts as confirmed.
    pub(crate) view_lease: u8,
    /// The last tick.
    pub(crate) horizon: u8,
    /// Requests that arrive a second time.
    pub(crate) repeats: u8,
    /// Whether letters of one token to one node keep their order, as on a
    /// connection; one that is overtaken is lost with its connection.
    pub(crate) is_ordered: bool,
    /// Requests that are lost, in all.
    pub(crate) drops: u8,
    /// Requests that stay on their way at a time although their client is done
    /// with the token. The others arrive or are lost as soon as it is.
    pub(crate) late: usize,
    /// Answers that are on their way at a time; the others come at once.
    pub(crate) slow: usize,
    /// Whether a client waits for the answers to its RELEASE.
    pub(crate) awaits_release: bool,
    /// Whether attempts may be abandoned.
    pub(crate) abandons: bool,
    pub(crate) loss: Option<Loss>,
    /// How many losses; [`Loss::Vanish`] has no bound.
    pub(crate) losses: u8,
    /// Counts that other keys of the slot have taken before.
    pub(crate) counts: [u64; 3],
    pub(crate) change: Change,
    pub(crate) claims: &'static [Claim],
    pub(crate) sights: &'static [Seen],
    pub(crate) mutant: Option<Mutant>,
}

impl Scenario {
    pub(crate) fn placement(&self, epoch: u32) -> Placement {
        let first = match self.change {
            Change::Force { .. } if epoch > 1 => 1,
            _ => 0,
        };
        let group: Vec<_> = (first..first + self.replicas).map(node).collect();
        Placement::stable(Slot::SINGLE, &group)
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Ticks that the operator waits between quarantine and epoch 2. Clocks of
    /// the model run alike, so that drift needs no allowance.
    pub(crate) fn wait(&self) -> u8 {
        match self.change {
            Change::Reinitialise { wait } | Change::Force { wait } => {
                wait - u8::from(self.is(Mutant::ShortWait))
            }
            Change::Never | Change::Adopt => 0,
        }
    }

    /// Whether nodes differ only by name.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.counts == [0; 3] && self.nodes == self.replicas
    }
}

/// A safeguard that is taken out. The world tampers with what passes between
/// the machines and the table; neither has a hook for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nodes serve requests of any view.
    NoViewCheck,
    /// Answers of a newer view count in the same tally as those of the old.
    MixedViews,
    /// A view counts as confirmed for ever.
    NoConfirmation,
    /// The write-back is answered and never delivered.
    NoWriteBack,
    /// The write-back raises the counter whoever holds the entry.
    WriteBackAnyToken,
    /// Fences compare by their counters.
    NoEpochInFence,
    /// An extend goes by a later end than the lease's.
    ExtendAfterLapse,
    /// An extend sets the entry's life, be it lower.
    ExtendShortens,
    /// One token for all attempts of a client.
    TokenPerClient,
    /// A RELEASE may overtake the ACQUIRE that it undoes.
    ReleaseOvertakes,
    /// Quarantine ends one tick early.
    ShortWait,
    /// A node that lost its entries serves on.
    StampSurvives,
    /// A GRANTED that arrives twice counts as two nodes'.
    DoubleVote,
}
