//! Why a coordinator does not continue its transition: it was taken back.

use crate::membership::topology::Topology;
use crate::membership::view::View;
use crate::node::message::ViewId;

/// Why a transition is not continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TransitionStop {
    /// It was taken back, or its plan outdated, as this view shows.
    TakenBack(ViewId),
    /// It may have been taken back, by a view that was not seen.
    Unseen,
}

impl TransitionStop {
    /// Whether `newer` shows that the transition from one topology to another was
    /// taken back since the `known` view, or that it may have been. A transition
    /// that began and was taken back between two observations leaves no trace but
    /// two epochs. A single epoch is the return of a node under a new nonce, or it
    /// outdates plans; the latter changes no nonce, and neither does a transition
    /// that was taken back.
    pub(crate) fn by(from: &Topology, to: &Topology, known: &View, newer: &View) -> Option<Self> {
        if known.topology() != from || newer.topology() != from || from == to {
            return None;
        }
        let taken_back = Some(Self::TakenBack(newer.id()));
        match (known.next(), newer.next()) {
            (Some(next), None) if next == to => taken_back,
            (Some(next), Some(other)) if next == to && other == to => {
                taken_back.filter(|_| newer.since() != known.since())
            }
            (None, None) if newer.nonces() == known.nonces() => taken_back,
            (None, None) if newer.id().epoch - known.id().epoch > 1 => Some(Self::Unseen),
            _ => None,
        }
    }

    /// The view that proves it.
    pub(crate) fn taken_back(self) -> Option<ViewId> {
        match self {
            Self::TakenBack(view) => Some(view),
            Self::Unseen => None,
        }
    }
}
