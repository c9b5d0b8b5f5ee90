//! The bounds of a world, and what is taken out of it.

use std::time::Duration;

use ringlock::proto::lease::Ttl;
use ringlock::proto::time::Instant;

use crate::cluster::Plan;
use crate::properties::{Claim, Seen};

/// Reading of every clock after so many ticks. A lease's drift allowance makes
/// it end just before a tick, at which the entries expire: nothing to spare.
pub(crate) fn at(tick: u8) -> Instant {
    Instant::from_nanos(1_000_000_000_000) + span(tick)
}

pub(crate) fn span(ticks: u8) -> Duration {
    Duration::from_secs(ticks.into())
}

/// As many ticks as are allowed.
pub(crate) fn ttl(ticks: u8, max: Duration) -> Ttl {
    Ttl::new(span(ticks).min(max), max).unwrap()
}

/// How nodes lose entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Everything is gone: the node is absent.
    Wipe,
    /// Another incarnation, with or without its entries.
    Restart,
    /// Another incarnation with an older copy of its state, under connections
    /// that stay open: it carries out what it is asked as if nothing were.
    Resync,
    /// An entry may vanish at any time: node clocks are arbitrary.
    Vanish,
    /// An operator releases client 0's lease by force. Each node is reached at
    /// its own time, and once.
    Forced,
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

/// What a coordinator is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// To let in again what lost its data.
    Keep,
    /// To lead from one topology to another.
    Reach(Plan, Plan),
    /// To take a passage back.
    Abort,
    /// To take a passage back, or to outdate its plan before it begins.
    Outdate,
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
    /// Nodes beside the members.
    pub(crate) spares: usize,
    /// Ticks of the longest ttl.
    pub(crate) max_ttl: u8,
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
    /// The passage to this topology is under way from the beginning.
    pub(crate) joint: Option<Plan>,
    /// What each coordinator aims at, one after the other.
    pub(crate) coordinators: &'static [&'static [Aim]],
    /// Votes that they may call.
    pub(crate) ballots: &'static [u8],
    /// Tries of each who starts the cluster anew where most members lost their
    /// data.
    pub(crate) starters: &'static [u8],
    /// Whether the spares were quarantined long ago, as all coordinators know.
    pub(crate) is_prepared: bool,
    /// Whether votes are held at once, all nodes in reach taking part; if the
    /// coordinators are eager, quarantine takes no time either.
    pub(crate) is_vote_brief: bool,
    /// Whether coordinators act on what they see at once.
    pub(crate) is_eager: bool,
    /// Whether what is decided is adopted, at any time.
    pub(crate) is_spread: bool,
    /// Nodes that adopt whatever is decided at once.
    pub(crate) prompt: &'static [usize],
    /// Nodes out of the coordinators' reach, though not of the clients'; nor do
    /// these bring them news.
    pub(crate) hidden: &'static [usize],
    /// Nodes that may be lost.
    pub(crate) losable: &'static [usize],
    pub(crate) claims: &'static [Claim],
    pub(crate) sights: &'static [Seen],
    pub(crate) mutant: Option<Mutant>,
}

impl Scenario {
    /// The topology of epoch 1.
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            nodes: (0, self.nodes),
            replicas: self.replicas,
            max_ttl: self.max_ttl,
            view_lease: self.view_lease,
        }
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

    /// Whether it matters, and takes more than the votes to know, how long a
    /// view has stood.
    pub(crate) fn is_standing_tracked(&self) -> bool {
        self.extends != [0, 0] && self.nodes != self.replicas
    }

    /// Whether nodes differ only by name.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.counts == [0; 3]
            && self.nodes == self.replicas
            && self.coordinators.is_empty()
            && self.starters.is_empty()
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
    /// Two clients draw the same tokens, as two children of one fork do whose
    /// generator was copied.
    ForkedTokens,
    /// Two proposers draw the same ballots.
    ForkedBallots,
    /// A RELEASE may overtake the ACQUIRE that it undoes.
    ReleaseOvertakes,
    /// Quarantine ends one tick early.
    ShortWait,
    /// A node that lost its entries serves on.
    StampSurvives,
    /// A node's identity is verified when a connection is made, and never again.
    IdentityOnce,
    /// A GRANTED that arrives twice counts as two nodes'.
    DoubleVote,
    /// The new topology stands alone at once.
    NoJointPhase,
    /// A grant in a joint view needs a majority of all its nodes.
    GroupsCountedTogether,
    /// A joint view ends without a wait.
    NoPassageWait,
    /// It ends one tick early.
    ShortPassageWait,
    /// Its end does not wait for those who rely on the view before it.
    NoViewLeaseWait,
    /// Its end waits for the shorter ttl of both topologies.
    ShorterTtlWaited,
    /// It grants the longer ttl of both topologies.
    LongerTtlGranted,
    /// What lost its data is let in again without a wait.
    NoQuarantineWait,
    /// It is let in one tick early.
    ShortQuarantineWait,
    /// What lost its data is initialised as before.
    NoQuarantine,
    /// A node adopts a view whatever nonce that lists for it.
    NonceUnchecked,
    /// Each proposer takes its own proposal for decided.
    CompareAndSet,
    /// A vote begins with its second phase.
    NoPrepare,
    /// A node accepts under a lower ballot than it has promised.
    PromiseIgnored,
    /// A promise does not tell what was accepted.
    AcceptedIgnored,
    /// In a joint view it suffices to make an entry anew.
    MadeVouches,
    /// A coordinator goes on although its passage was taken back.
    AbortIgnored,
    /// It does where it did not see the passage that was taken back.
    UnseenAbortIgnored,
    /// An attempt in a joint view asks the new group first.
    NewGroupFirst,
    /// A cluster is started anew one tick early.
    ShortNewStartWait,
    /// The longest time in quarantine counts for all members.
    LongestQuarantineCounts,
    /// A new start takes no heed of the epochs before.
    NewStartBelow,
    /// Where most members lost their data, nothing is done.
    NoNewStart,
    /// An extend makes the entry wherever it is absent, whoever else has it.
    HealsAtOnce,
    /// An entry vouches as soon as it is seen.
    SeenVouches,
}
