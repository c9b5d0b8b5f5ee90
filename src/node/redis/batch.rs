//! Gathers what waits into as few commands as may be.

use std::collections::HashSet;

use super::lane::{Lane, Pending};
use crate::proto::lease::{Holder, Key};
use crate::proto::time::Instant;
use crate::proto::wire::{Request, Slot, ViewId};

/// Keys of one batch at the most: as many hold a server for about 0.1 ms, and
/// a larger batch gains nothing.
const MAX_BATCH: usize = 64;

/// Commands of one kind, answered together.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) requests: Vec<Pending>,
    /// Replies of the server that are still to come for it.
    pub(super) replies_due: usize,
    /// An error among the replies before the last.
    pub(super) early_error: Option<redis::ServerError>,
    pub(super) sent_at: Instant,
}

/// What a section asks, and thus how its reply is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ACQUIRE as a transaction; the slots' counts in the order of first use.
    AcquireTransaction(ViewId, Vec<(Slot, u64)>),
    /// ACQUIRE as a script.
    AcquireScript(ViewId),
    /// EXTEND as a script.
    Extend(ViewId),
    /// RELEASE as a script.
    Release,
    /// What is left of the entries that a transaction found held.
    Remaining(Vec<Holder>),
    /// A single request of another kind.
    Control,
    /// STATUS that the connection asks for itself.
    Recheck,
    /// The loading of a script.
    Load(super::scripts::Script),
}

impl Section {
    pub(super) fn new(kind: Kind, requests: Vec<Pending>) -> Self {
        let sent_at = crate::clock::now();
        Self {
            kind,
            requests,
            replies_due: 0,
            early_error: None,
            sent_at,
        }
    }
}

/// Takes up to [`MAX_BATCH`] requests out of `lane`, sorted into sections.
///
/// Sorting changes their order, so that they must not touch each other: no two
/// are for one key, and one that changes what the node serves goes alone. What
/// `must_wait` for sections that are in flight, and all behind it, stays.
pub(super) fn gather(
    lane: &Lane,
    prefers_script: bool,
    must_wait: impl Fn(&Request) -> bool,
) -> Vec<Section> {
    let mut keys: HashSet<Key> = HashSet::new();
    let mut first: Option<Key> = None;
    let mut taken = 0;
    let mut room = MAX_BATCH;
    let requests = lane.take_while(|Pending { request, .. }| {
        let is_distinct = match (request.key(), &first) {
            (Some(key), None) => {
                first = Some(key.clone());
                true
            }
            (Some(key), Some(first)) => key != first && keys.insert(key.clone()),
            (None, _) => {
                if !matches!(request, Request::Status | Request::Document) {
                    room = 1;
                }
                true
            }
        };
        taken += 1;
        is_distinct && taken <= room && !must_wait(request)
    });
    let mut sections: Vec<Section> = Vec::new();
    for pending in requests {
        let kind = kind_of(&pending, prefers_script);
        let is_shared = kind != Kind::Control;
        let open = sections
            .iter_mut()
            .find(|section| is_shared && section.kind == kind);
        match open {
            Some(section) => section.requests.push(pending),
            None => sections.push(Section::new(kind, vec![pending])),
        }
    }
    sections
}

fn kind_of(pending: &Pending, prefers_script: bool) -> Kind {
    match &pending.request {
        // A transaction has no form for a floor.
        Request::Acquire { view, floor, .. } if prefers_script || *floor > 0 => {
            Kind::AcquireScript(*view)
        }
        Request::Acquire { view, .. } => Kind::AcquireTransaction(*view, Vec::new()),
        Request::Extend { view, .. } => Kind::Extend(*view),
        Request::Release { .. } => Kind::Release,
        _ => Kind::Control,
    }
}
