//! The bounds of a world, and which safeguard is removed from it.

use std::time::Duration;

use ringlock_proto::lease::Ttl;
use ringlock_proto::time::Instant;

use crate::cluster::Plan;
use crate::properties::{Claim, Seen};

/// Reading of every clock after this many ticks. A lease's drift allowance makes it
/// end just before a tick, at which the entries expire: there is no margin.
pub(crate) fn at(tick: u8) -> Instant {
    Instant::from_nanos(1_000_000_000_000) + span(tick)
}

pub(crate) fn span(ticks: u8) -> Duration {
    Duration::from_secs(ticks.into())
}

/// The ttl of this many ticks, limited to `max`.
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
    /// that stay open: it executes requests as if nothing had happened.
    Resync,
    /// An entry may vanish at any time: node clocks are arbitrary.
    Vanish,
    /// An operator releases client 0's lease by force. Each node is reached once,
    /// at an independent time.
    Forced,
}

/// How epoch 2 is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is no epoch 2.
    Never,
    /// Every node is lost; all are quarantined, and adopt epoch 2 after a wait.
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
    /// A decided document of the same members; each adopts it at an independent time.
    Adopt,
}

/// The goal of a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Readmit nodes that lost their data.
    Keep,
    /// Lead from one topology to another.
    Reach(Plan, Plan),
    /// Take a transition back.
    Abort,
    /// Take a transition back, or outdate its plan before it begins.
    Outdate,
}

/// A bounded world. By default clients and nodes are alike, so that orders which
/// differ by names only are explored once.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Members of the cluster.
    pub(crate) nodes: usize,
    /// Replicas of the key.
    pub(crate) replicas: usize,
    /// Nodes in addition to the members.
    pub(crate) spares: usize,
    /// Ticks of the longest ttl.
    pub(crate) max_ttl: u8,
    /// Attempts that each client may start.
    pub(crate) attempts: [u8; 2],
    /// Extends that each client may start.
    pub(crate) extends: [u8; 2],
    /// Ticks that an attempt requests.
    pub(crate) ttl: u8,
    /// Ticks that an extend may request.
    pub(crate) extend_ttls: &'static [u8],
    /// Ticks that a view counts as confirmed.
    pub(crate) view_lease: u8,
    /// The last tick.
    pub(crate) horizon: u8,
    /// Requests that arrive a second time.
    pub(crate) repeats: u8,
    /// Whether messages of one token to one node keep their order, as on a
    /// connection; one that is overtaken is lost with its connection.
    pub(crate) is_ordered: bool,
    /// Whether nodes carry out an ACQUIRE in parts, as separate commands.
    pub(crate) is_pipelined: bool,
    /// Total number of requests that are lost.
    pub(crate) drops: u8,
    /// Requests in flight at a time whose token their client no longer uses.
    /// The others arrive or are lost as soon as the client is done.
    pub(crate) late: usize,
    /// Answers in flight at a time; the others arrive at once.
    pub(crate) slow: usize,
    /// Whether a client waits for the answers to its RELEASE.
    pub(crate) awaits_release: bool,
    /// Whether attempts may be abandoned.
    pub(crate) abandons: bool,
    pub(crate) loss: Option<Loss>,
    /// Number of losses; [`Loss::Vanish`] has no bound.
    pub(crate) losses: u8,
    /// Counts that other keys of the slot have taken before.
    pub(crate) counts: [u64; 3],
    pub(crate) change: Change,
    /// The transition to this topology is in progress from the beginning.
    pub(crate) joint: Option<Plan>,
    /// The aims of each coordinator, one after the other.
    pub(crate) coordinators: &'static [&'static [Aim]],
    /// Votes that each may call.
    pub(crate) ballots: &'static [u8],
    /// Attempts of each process that starts the cluster again where most members
    /// lost their data.
    pub(crate) starters: &'static [u8],
    /// Whether the spares were quarantined long ago, as all coordinators know.
    pub(crate) is_prepared: bool,
    /// Whether votes happen at once, with all reachable nodes; if the coordinators
    /// are eager, quarantine takes no time either.
    pub(crate) is_vote_brief: bool,
    /// Whether coordinators act at once on what they see.
    pub(crate) is_eager: bool,
    /// Whether decided views are adopted, at any time.
    pub(crate) is_spread: bool,
    /// Nodes that adopt every decided view at once.
    pub(crate) prompt: &'static [usize],
    /// Nodes that the coordinators cannot reach but clients can; clients give them
    /// no views either.
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

    /// Ticks that the operator waits between quarantine and epoch 2. The model's
    /// clocks run at the same rate, so that drift needs no allowance.
    pub(crate) fn wait(&self) -> u8 {
        match self.change {
            Change::Reinitialise { wait } | Change::Force { wait } => {
                wait - u8::from(self.is(Mutant::ShortWait))
            }
            Change::Never | Change::Adopt => 0,
        }
    }

    /// Whether it matters how long a view has been served, and the votes alone do
    /// not show it.
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

/// A removed safeguard. The world alters what passes between the machines and the
/// table; neither has a hook for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nodes serve requests of any view.
    NoViewCheck,
    /// Answers of a newer view count in the same tally as those of the old.
    MixedViews,
    /// A view counts as confirmed forever.
    NoConfirmation,
    /// The write-back is answered but never delivered.
    NoWriteBack,
    /// The write-back raises the counter regardless of the entry's holder.
    WriteBackAnyToken,
    /// Fences compare by their counters.
    NoEpochInFence,
    /// An extend assumes a later end than the lease's.
    ExtendAfterLapse,
    /// An extend sets the entry's life, even to a shorter one.
    ExtendShortens,
    /// One token for all attempts of a client.
    TokenPerClient,
    /// Two clients draw the same tokens, as two children of one fork do if their
    /// generator was copied.
    ForkedTokens,
    /// Two proposers draw the same ballots.
    ForkedBallots,
    /// A RELEASE may overtake the ACQUIRE that it undoes.
    ReleaseOvertakes,
    /// Quarantine ends one tick early.
    ShortWait,
    /// A node that lost its entries continues to serve.
    StampSurvives,
    /// A node's identity is verified when a connection is made, and never again.
    IdentityOnce,
    /// A GRANTED that arrives twice counts as the answers of two nodes.
    DoubleVote,
    /// The new topology is in force at once, without the old one.
    NoJointPhase,
    /// A grant in a joint view needs a majority of all its nodes.
    GroupsCountedTogether,
    /// A joint view ends without a wait.
    NoPassageWait,
    /// It ends one tick early.
    ShortPassageWait,
    /// Its end does not wait for clients that rely on the view before it.
    NoViewLeaseWait,
    /// Its end waits for the shorter ttl of both topologies.
    ShorterTtlWaited,
    /// It grants the longer ttl of both topologies.
    LongerTtlGranted,
    /// A node that lost its data is readmitted without a wait.
    NoQuarantineWait,
    /// It is readmitted one tick early.
    ShortQuarantineWait,
    /// A node that lost its data is initialised as before.
    NoQuarantine,
    /// A node adopts a view whatever nonce the view lists for it.
    NonceUnchecked,
    /// Each proposer considers its own proposal decided.
    CompareAndSet,
    /// A vote begins with its second phase.
    NoPrepare,
    /// A node accepts under a lower ballot than it has promised.
    PromiseIgnored,
    /// A promise does not report what was accepted.
    AcceptedIgnored,
    /// In a joint view it suffices to create an entry again.
    MadeVouches,
    /// A coordinator continues although its transition was taken back.
    AbortIgnored,
    /// It continues where it did not see the transition that was taken back.
    UnseenAbortIgnored,
    /// An attempt in a joint view asks the new group first.
    NewGroupFirst,
    /// A cluster is started again one tick early.
    ShortNewStartWait,
    /// The longest time in quarantine counts for all members.
    LongestQuarantineCounts,
    /// A new start ignores the epochs before it.
    NewStartBelow,
    /// Where most members lost their data, nothing is done.
    NoNewStart,
    /// An extend creates the entry wherever it is absent, whatever other nodes hold.
    HealsAtOnce,
    /// An entry vouches as soon as it is seen.
    SeenVouches,
    /// An ACQUIRE in parts is sent before the node was seen to serve its view.
    NoReadAhead,
    /// It is granted whatever the node serves behind it.
    NoReadBehind,
    /// It takes its count before it makes its entry.
    CountBeforeSet,
}
