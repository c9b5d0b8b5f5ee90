//! What must hold in every state, and what must have been seen in some state.

use std::sync::atomic::Ordering;

use stateright::Property;

use crate::scenario::at;
use crate::world::{Explored, World};

/// A claim of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    /// No two leases of one key are valid at the same time.
    Exclusion,
    /// While a lease is extended, no other client could have had a quorum.
    Continuity,
    /// Fences increase in the order of the grants.
    FenceOrder,
    /// Fences are distinct, and a fence requested after a grant is higher.
    Fence,
    /// What an attempt leaves on a node is being released.
    NoOrphan,
    /// Two views of one epoch are never decided.
    OneDocument,
    /// A lease whose entries are all live is not lost to a contender, and no
    /// contender blocks its extends.
    Robbed,
    /// A transition that was taken back is not begun again by a coordinator that
    /// worked on it before, nor is its end decided.
    AbortWins,
    /// Once another client was granted the key, no extend that begins later
    /// succeeds.
    Ousted,
    /// A lease that an operator released on every node has no quorum again.
    Freed,
    /// Whatever has happened, a coordinator that reaches all nodes brings the
    /// cluster back to a stable view.
    NeverStuck,
}

impl Claim {
    pub(crate) const ALL: &'static [Self] = &[
        Self::Exclusion,
        Self::Continuity,
        Self::FenceOrder,
        Self::Fence,
        Self::NoOrphan,
    ];

    /// Where messages overtake each other, orphans are expected.
    pub(crate) const UNORDERED: &'static [Self] = &[
        Self::Exclusion,
        Self::Continuity,
        Self::FenceOrder,
        Self::Fence,
    ];

    /// For changes of membership.
    pub(crate) const CHANGE: &'static [Self] = &[
        Self::Exclusion,
        Self::Continuity,
        Self::FenceOrder,
        Self::NoOrphan,
        Self::OneDocument,
        Self::Robbed,
    ];

    /// For transitions that are taken back.
    pub(crate) const ABORT: &'static [Self] = &[
        Self::Exclusion,
        Self::Continuity,
        Self::FenceOrder,
        Self::NoOrphan,
        Self::OneDocument,
        Self::Robbed,
        Self::AbortWins,
    ];

    /// The same without clients.
    pub(crate) const ABORT_VOTES: &'static [Self] =
        &[Self::OneDocument, Self::NeverStuck, Self::AbortWins];

    /// Under an operator's forced release, which ends a lease that its holder still
    /// considers valid.
    pub(crate) const FORCED: &'static [Self] =
        &[Self::FenceOrder, Self::Fence, Self::NoOrphan, Self::Ousted];

    /// The same where a holder extends once while the operator proceeds from node to
    /// node. (The program checks again, for holders that extend more often.)
    pub(crate) const FREED: &'static [Self] = &[
        Self::FenceOrder,
        Self::Fence,
        Self::NoOrphan,
        Self::Ousted,
        Self::Freed,
    ];

    /// For coordinators only.
    pub(crate) const VOTES: &'static [Self] = &[Self::OneDocument, Self::NeverStuck];

    fn property(self) -> Property<Explored> {
        match self {
            Self::Exclusion => Property::always("S1 mutual exclusion", |_, world: &World| {
                let now = at(world.tick);
                !world.clients.iter().all(|client| {
                    client
                        .lease
                        .as_ref()
                        .is_some_and(|lease| now < lease.record.valid_until())
                })
            }),
            Self::Continuity => Property::always("S1c continuity", |_, world: &World| {
                world.broken != Some(Self::Continuity)
            }),
            Self::FenceOrder => Property::always("S2a fences in order", |_, world: &World| {
                world.broken != Some(Self::FenceOrder)
            }),
            Self::Fence => Property::always("S2b fences apart", |_, world: &World| {
                world.broken != Some(Self::Fence)
            }),
            Self::NoOrphan => Property::always("L1 no orphans", |_, world: &World| {
                world.broken != Some(Self::NoOrphan)
            }),
            Self::OneDocument => Property::always("one view per epoch", |_, world: &World| {
                world.broken != Some(Self::OneDocument)
            }),
            Self::Robbed => Property::always("L2 not robbed", |_, world: &World| {
                world.broken != Some(Self::Robbed)
            }),
            Self::AbortWins => Property::always("an abort wins", |_, world: &World| {
                world.broken != Some(Self::AbortWins)
            }),
            Self::Ousted => Property::always("S1f forced out stays out", |_, world: &World| {
                world.broken != Some(Self::Ousted)
            }),
            Self::Freed => Property::always("S1f forced out is free", |_, world: &World| {
                world.broken != Some(Self::Freed)
            }),
            Self::NeverStuck => Property::always("never stuck", |_, world: &World| {
                world.broken != Some(Self::NeverStuck)
            }),
        }
    }
}

macro_rules! sights {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// What a scenario must encounter; otherwise its bounds are too small.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Seen { $($(#[$doc])* $name,)* }

        impl Seen {
            fn property(self) -> Property<Explored> {
                match self {
                    $(Self::$name => Property::sometimes($text, |model: &Explored, _| {
                        model.has_seen(Self::$name)
                    }),)*
                }
            }
        }
    };
}

sights! {
    Granted: "granted",
    Again: "granted again",
    Contended: "contended",
    WroteBack: "fence written back",
    NoFence: "counters not brought together",
    Expired: "granted too late",
    Unconfirmed: "view not confirmed",
    Stale: "another view met",
    Extended: "extended",
    Unchanged: "extend without effect",
    Lost: "lost",
    Lapsed: "lapsed",
    Healed: "a replica healed",
    LateAcknowledged: "acknowledged after the verdict",
    Released: "released",
    ReleasedTooLate: "released too late",
    Moved: "granted in epoch 2",
    GrantedJoint: "granted in a joint view",
    GrantedLast: "granted in the last view",
    Carried: "carried over to another view",
    Readmitted: "readmitted",
    Aborted: "passage taken back",
    Stopped: "coordinator stopped by an abort",
    Outdated: "plans outdated",
    Overtaken: "coordinator overtaken",
    Preempted: "coordinator outbid",
    Forced: "another's proposal taken up",
    Disturbed: "a new start disturbed",
    TakenOver: "a wait taken over",
}

impl Explored {
    pub(crate) fn see(&self, observation: Seen) {
        self.seen
            .fetch_or(1 << observation as u32, Ordering::Relaxed);
    }

    fn has_seen(&self, observation: Seen) -> bool {
        self.seen.load(Ordering::Relaxed) & 1 << observation as u32 != 0
    }

    pub(crate) fn all_properties(&self) -> Vec<Property<Self>> {
        let claims = self.scenario.claims.iter().map(|claim| claim.property());
        let sights = self
            .scenario
            .sights
            .iter()
            .map(|observation| observation.property());
        claims.chain(sights).collect()
    }
}
