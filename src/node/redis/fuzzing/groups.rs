//! A group of each kind, and the requests in it.

use std::time::Duration;

use crate::config::RouterConfig;
use crate::node::ReplyTo;
use crate::node::redis::codec::capabilities::{Capabilities, DeleteIf, Dialect};
use crate::node::redis::codec::command_group::{CommandGroup, GroupKind, SlotCounts};
use crate::node::redis::codec::request::PendingRequest;
use crate::node::redis::codec::scripts::{Script, Scripts};
use crate::proto::lease::{Holder, Key, Token, Ttl};
use crate::proto::node::message::{Ballot, FenceCounterId, IfMissing, Request, ViewId};
use crate::proto::time::Instant;

const VIEW: ViewId = ViewId {
    epoch: 1,
    digest: 7,
};

pub(crate) fn dialect(config: &RouterConfig) -> Dialect {
    let mut scripts = Scripts::default();
    for script in Script::ALL {
        scripts.loaded(script, &[b'a' + script as u8; 40]);
    }
    Dialect {
        key_prefix: config.key_prefix.clone().into_bytes(),
        id: format!("{}!id", config.namespace).into_bytes(),
        member: format!("{}!m", config.namespace).into_bytes(),
        counters: format!("{}!c", config.namespace).into_bytes(),
        scripts,
        capabilities: Capabilities::default(),
        incarnation: b"run-1/replid-1".to_vec(),
        literal: false,
    }
}

/// The group with this number, for these keys.
pub(crate) fn group(kind: u8, keys: &[Key], sink: &mut impl FnMut() -> ReplyTo) -> CommandGroup {
    let token = |index: usize| Token::new(index as u128 + 1, Some("me:1".into()));
    let second = Duration::from_secs(1);
    let ttl = Ttl::new(second, second).expect("it is long enough");
    let slot = |index: usize| match index % 2 {
        0 => FenceCounterId::SINGLE,
        _ => FenceCounterId {
            replicas: 3,
            arc: 5,
            part: 2,
        },
    };
    let acquire = |index: usize, key: &Key| Request::Acquire {
        view: VIEW,
        key: key.clone(),
        token: token(index),
        ttl,
        slot: slot(index),
        floor: 0,
    };
    let extend = |index: usize, key: &Key| Request::Extend {
        view: VIEW,
        key: key.clone(),
        token: token(index),
        ttl,
        slot: slot(index),
        floor: 9,
        if_missing: if index == 0 {
            IfMissing::Recreate
        } else {
            IfMissing::Report
        },
    };
    let release = |index: usize, key: &Key| Request::Release {
        key: key.clone(),
        token: token(index),
    };
    let all = |request: &dyn Fn(usize, &Key) -> Request| -> Vec<Request> {
        let keys = keys.iter().enumerate();
        keys.map(|(index, key)| request(index, key)).collect()
    };
    let holders = || keys.iter().map(|_| Holder::default()).collect();
    let (kind, requests) = match kind % 20 {
        0 => (
            GroupKind::AcquireCommands(VIEW, SlotCounts::new()),
            all(&acquire),
        ),
        1 => (
            GroupKind::AcquireTogether(VIEW, SlotCounts::new()),
            all(&acquire),
        ),
        2 => (GroupKind::AcquireScript(VIEW), all(&acquire)),
        3 => (GroupKind::Extend(VIEW), all(&extend)),
        4 => (GroupKind::ReleaseScript, all(&release)),
        5 => (GroupKind::ReleaseCommands(DeleteIf::Delifeq), all(&release)),
        6 => (GroupKind::ReleaseCommands(DeleteIf::Delex), all(&release)),
        7 => (GroupKind::Found, all(&release)),
        8 => (GroupKind::Remaining(holders()), all(&acquire)),
        9 => (GroupKind::Recheck, Vec::new()),
        10 => (GroupKind::Load(Script::Acquire), Vec::new()),
        19 => (GroupKind::Identity { with_policy: true }, Vec::new()),
        other => (GroupKind::Control, vec![control(other)]),
    };
    let pending = |request| PendingRequest {
        request,
        deadline: Instant::default(),
        reply: sink(),
    };
    let requests = requests.into_iter().map(pending).collect();
    CommandGroup::new(kind, requests, Instant::default())
}

pub(crate) fn control(which: u8) -> Request {
    let ballot = Ballot {
        round: 1,
        proposer: 2,
    };
    match which {
        11 => Request::Status,
        12 => Request::Document,
        13 => Request::Quarantine {
            expected_nonce: None,
            expected_view: Some(VIEW),
            nonce: "n".into(),
        },
        14 => Request::Prepare { view: VIEW, ballot },
        15 => Request::Accept {
            view: VIEW,
            ballot,
            next: VIEW,
            document: "{}".into(),
        },
        16 => Request::Adopt {
            view: VIEW,
            document: "{}".into(),
            nonce: "n".into(),
        },
        18 => Request::PriorState,
        _ => Request::Restamp {
            expected: "run-0".into(),
        },
    }
}
