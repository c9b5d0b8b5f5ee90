//! A client's lease, and what it is based on in any view.

use std::sync::Arc;

use ringlock_proto::lease::{Fence, Token};
use ringlock_proto::lease_record::carry::{CarriedPlacement, LastSuccess, transfer};
use ringlock_proto::lease_record::known::Known;
use ringlock_proto::membership::view::View;
use ringlock_proto::quorum::{Placement, VoterSet};
use ringlock_proto::time::Instant;

use crate::cluster::key;
use crate::running::Running;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) token: Token,
    pub(crate) valid_until: Instant,
    pub(crate) fence: Fence,
    /// The view of its last success.
    pub(crate) view: Arc<View>,
    /// Its placement there.
    pub(crate) placement: Placement,
    /// The nodes that hold its entry there.
    pub(crate) known: Known,
    /// Whether another client could have had a quorum since the last success.
    pub(crate) has_gap: bool,
    /// The machine that finished last, and its view: it still processes late
    /// answers.
    pub(crate) tail: Option<(u8, Running, Arc<View>)>,
}

impl Lease {
    /// What it is based on in `view`.
    pub(crate) fn carried(&self, view: &View) -> CarriedPlacement {
        let basis = LastSuccess {
            view: &self.view,
            placement: self.placement,
            known: self.known,
        };
        basis.carry(view, &key())
    }

    /// Records what an operation in `view` learned of its entries.
    pub(crate) fn take_in(
        &mut self,
        view: &View,
        placement: &Placement,
        (has, lacks): (Known, VoterSet),
    ) {
        let here = |voters| transfer(view, placement, voters, &self.view, &self.placement);
        self.known = self.known.minus(here(lacks)).union(has.map(here));
    }

    /// Records a success in `view`, where these seats are known to hold its entry.
    pub(crate) fn settle_in(&mut self, view: Arc<View>, placement: Placement, holders: Known) {
        let known = self.carried(&view).known.union(holders);
        (self.view, self.placement, self.known) = (view, placement, known);
    }
}
