//! Commands of one kind, sent and answered together.

use std::time::Duration;

use smallvec::SmallVec;

use crate::node::redis::codec::capabilities::{Capabilities, DeleteIf};
use crate::node::redis::codec::request::PendingRequest;
use crate::node::redis::codec::scripts::{Script, unpacked};
use crate::node::redis::resp::error_reply::ErrorReply;
use crate::node::redis::resp::parser::{MAX_REPLY, Malformed, reply_len};
use crate::proto::lease::Holder;
use crate::proto::node::message::{FenceCounterId, NodeError, Request, ViewId};
use crate::proto::time::Instant;

/// A connection that has owed an answer for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(3);

/// Commands of one kind, answered together.
#[derive(Debug)]
pub(crate) struct CommandGroup {
    pub(crate) kind: GroupKind,
    pub(crate) requests: Vec<PendingRequest>,
    /// Replies that the server still owes for it.
    pub(crate) replies_due: usize,
    /// One of them was an error.
    pub(crate) is_refused: bool,
    /// Its replies are the last of its batch.
    pub(crate) ends_batch: bool,
    /// It was sent no earlier than this.
    pub(crate) sent_at: Instant,
    /// What scripts repeat in their reply, so that no other reply passes for
    /// it: if one reply goes missing, each that follows matches a wrong
    /// request.
    pub(crate) nonce_echo: u32,
    /// Its script was sent with its text: see `script_reload`.
    pub(crate) has_text: bool,
    due: Instant,
    given_up: Instant,
}

/// How many consecutive requests count in which slot: in most groups, all in one.
pub(crate) type SlotCounts = SmallVec<[(FenceCounterId, u64); 1]>;

/// What a group asks, and thus how its reply is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GroupKind {
    /// ACQUIRE as a command for each key, where the view was read on the connection
    /// before (PROTOCOL E1).
    AcquireCommands(ViewId, SlotCounts),
    /// The same with one command that sets all keys or none.
    AcquireTogether(ViewId, SlotCounts),
    /// ACQUIRE as a script.
    AcquireScript(ViewId),
    /// EXTEND as a script.
    Extend(ViewId),
    /// RELEASE as a script.
    ReleaseScript,
    /// RELEASE as a command for each key.
    ReleaseCommands(DeleteIf),
    /// What is stored instead of the entries that such commands did not find.
    Found,
    /// The remaining time of the entries that such commands found held.
    Remaining(Vec<Holder>),
    /// A single request of another kind.
    Control,
    /// STATUS that the connection requests for itself.
    Recheck,
    /// TIME, likewise.
    Clock,
    /// INFO, likewise: whether it is still the same server and, with the
    /// policy, what it would evict.
    Identity { with_policy: bool },
    /// The loading of a script.
    Load(Script),
}

impl GroupKind {
    /// `served` is the view that was last read on the connection.
    pub(crate) fn of(
        request: &Request,
        capabilities: Capabilities,
        served: Option<ViewId>,
    ) -> Self {
        match request {
            // Commands have no form for a floor.
            Request::Acquire { view, floor: 0, .. }
                if capabilities.set_nx_get && served == Some(*view) =>
            {
                Self::AcquireCommands(*view, SlotCounts::new())
            }
            Request::Acquire { view, .. } => Self::AcquireScript(*view),
            Request::Extend { view, .. } => Self::Extend(*view),
            Request::Release { .. } => capabilities
                .delete_if
                .map_or(Self::ReleaseScript, Self::ReleaseCommands),
            _ => Self::Control,
        }
    }

    /// Whether it asks for locks.
    pub(crate) fn acquires(&self) -> bool {
        matches!(
            self,
            Self::AcquireCommands(..) | Self::AcquireTogether(..) | Self::AcquireScript(_)
        )
    }

    /// Whether it is meaningful only under a view.
    pub(crate) fn needs_view(&self) -> bool {
        self.acquires() || matches!(self, Self::Extend(_))
    }

    /// Whether an answer counts for something that another incarnation must not
    /// decide: a lock, the confirmation of a view, a vote.
    pub(crate) fn relies_on_identity(&self) -> bool {
        self.needs_view() || *self == Self::Control
    }
}

impl CommandGroup {
    pub(crate) fn new(kind: GroupKind, requests: Vec<PendingRequest>, sent_at: Instant) -> Self {
        let deadlines = requests.iter().map(|pending| pending.deadline);
        let given_up = sent_at + STALL_LIMIT;
        Self {
            due: deadlines.fold(given_up, Instant::min),
            kind,
            requests,
            replies_due: 0,
            is_refused: false,
            given_up,
            sent_at,
            ends_batch: false,
            nonce_echo: 0,
            has_text: false,
        }
    }

    /// Adds a request that is asked in the same way.
    pub(crate) fn push(&mut self, pending: PendingRequest) {
        self.due = self.due.min(pending.deadline);
        self.requests.push(pending);
    }

    /// Whether it asks if the server is still the same.
    pub(crate) fn is_check(&self) -> bool {
        matches!(self.kind, GroupKind::Identity { .. })
    }

    /// When its first request runs out of time, or its connection.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Answers the requests whose deadline has passed; later replies to them
    /// are discarded. True if the connection is stuck.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        if now >= self.due {
            self.due = self.given_up;
            for pending in &mut self.requests {
                if pending.deadline > now {
                    self.due = self.due.min(pending.deadline);
                } else if !pending.reply.is_nobody() {
                    pending.expire();
                }
            }
        }
        now >= self.given_up
    }

    /// Whether one command can set all its keys: it carries a single ttl. Where
    /// several nodes count, each must count alike: counts that one of them uses
    /// up without a grant would cost as many grants a second round.
    pub(crate) fn can_be_joined(&self) -> bool {
        let lone = |pending: &PendingRequest| match pending.request {
            Request::Acquire { ttl, slot, .. } if slot.replicas == 1 => Some(ttl),
            _ => None,
        };
        let mut ttls = self.requests.iter().map(lone);
        let first = ttls.next().flatten();
        self.requests.len() > 1 && first.is_some() && ttls.all(|ttl| ttl == first)
    }

    /// The script that it calls.
    pub(crate) fn script(&self) -> Option<Script> {
        match &self.kind {
            GroupKind::AcquireScript(_) => Some(Script::Acquire),
            GroupKind::Extend(_) => Some(Script::Extend),
            GroupKind::ReleaseScript => Some(Script::Release),
            GroupKind::Recheck => Some(Script::Status),
            GroupKind::Control => Script::of(&self.requests.first()?.request),
            _ => None,
        }
    }

    /// The script's own reply, where it was sent with its text.
    pub(crate) fn unpack<'a>(&mut self, replies: &'a [u8]) -> &'a [u8] {
        if self.has_text
            && let Some(reply) = unpacked(replies)
        {
            self.is_refused |= reply.first() == Some(&b'-');
            return reply;
        }
        replies
    }

    /// Whether it was refused because the server does not have its script.
    pub(crate) fn is_unloaded(&self, replies: &[u8]) -> bool {
        self.is_refused
            && self.script().is_some()
            && ErrorReply::first(replies).is_some_and(|error| error.is_unloaded())
    }

    /// The length of its replies at the beginning of `bytes`; `None`: they are
    /// incomplete. What has been scanned is not scanned again.
    pub(crate) fn whole(
        &mut self,
        bytes: &[u8],
        scanned: &mut usize,
    ) -> Result<Option<usize>, Malformed> {
        while self.replies_due > 0 {
            // A push is no reply to it.
            if bytes.get(*scanned) == Some(&b'>') {
                return Ok(None);
            }
            match reply_len(&bytes[*scanned..])? {
                Some(len) => {
                    self.is_refused |= bytes[*scanned] == b'-';
                    *scanned += len;
                    self.replies_due -= 1;
                }
                None if bytes.len() > MAX_REPLY => return Err(Malformed),
                None => return Ok(None),
            }
        }
        Ok(Some(std::mem::take(scanned)))
    }

    /// Answers all its requests that have no answer: the connection broke.
    pub(crate) fn fail(self, error: &NodeError) {
        for pending in self.requests {
            pending.reply.send(Err(error.clone()));
        }
    }
}
