//! A client's lease.

use std::sync::Arc;

use ringlock_proto::lease::Token;
use ringlock_proto::lease_record::record::LeaseRecord;
use ringlock_proto::membership::view::View;
use ringlock_proto::time::Instant;

use crate::cluster::key;
use crate::running::Running;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) token: Token,
    pub(crate) record: LeaseRecord<Arc<View>>,
    /// Whether another client could have had a quorum since the last success.
    pub(crate) has_gap: bool,
    /// The machine that finished last, and its view: it still processes late
    /// answers.
    pub(crate) tail: Option<(u8, Running, Arc<View>)>,
}

impl Lease {
    /// Whether it can be extended in `view`.
    pub(crate) fn is_extendable(&self, view: &Arc<View>, now: Instant) -> bool {
        let mut record = self.record.clone();
        record.move_to(Arc::clone(view), &key(), now);
        record.newest().established > 0
    }
}
