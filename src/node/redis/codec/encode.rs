//! Requests as bytes: the Redis serialization protocol, version 2.

use crate::node::redis::codec::capabilities::{DeleteIf, Dialect};
use crate::node::redis::codec::command_group::{CommandGroup, GroupKind, SlotCounts};
use crate::node::redis::codec::request::PendingRequest;
use crate::node::redis::codec::scripts::{Script, together};
use crate::node::redis::resp::encoder::{array, bulk, bulk_number, command, number};
use crate::proto::lease::{Key, Token, Ttl};
use crate::proto::node::message::{FenceCounterId, IfMissing, Request, ViewId};

impl Dialect {
    /// Appends the commands of `group` and notes how many replies they get.
    pub(crate) fn encode(&self, group: &mut CommandGroup, out: &mut Vec<u8>) {
        match group.script().filter(|_| group.has_text) {
            Some(script) => {
                let call = |out: &mut Vec<u8>| self.encode_bare(group, out);
                group.replies_due = together(script, call, out);
            }
            None => self.encode_bare(group, out),
        }
    }

    fn encode_bare(&self, group: &mut CommandGroup, out: &mut Vec<u8>) {
        let (requests, nonce_echo) = (&group.requests, group.nonce_echo);
        group.replies_due = 1;
        match &mut group.kind {
            GroupKind::AcquireCommands(_, slots) => {
                self.set_each(requests, out);
                self.count(requests, slots, out);
                group.replies_due = requests.len() + slots.len() + 1;
            }
            GroupKind::AcquireTogether(_, slots) => {
                self.set_together(requests, out);
                self.count(requests, slots, out);
                group.replies_due = 1 + slots.len() + 1;
            }
            GroupKind::AcquireScript(view) => {
                self.leases(Script::Acquire, *view, requests, nonce_echo, out)
            }
            GroupKind::Extend(view) => {
                self.leases(Script::Extend, *view, requests, nonce_echo, out)
            }
            GroupKind::ReleaseScript => {
                self.begin(Script::Release, requests.len(), requests.len() + 1, out);
                self.keys(requests, out);
                for pending in requests {
                    if let Request::Release { token, .. } = &pending.request {
                        stored(out, token);
                    }
                }
                bulk_number(out, nonce_echo);
            }
            GroupKind::ReleaseCommands(delete_if) => {
                self.delete_each(*delete_if, requests, out);
                group.replies_due = requests.len();
            }
            GroupKind::Found => {
                self.ask_each(b"GET", requests, out);
                group.replies_due = requests.len();
            }
            GroupKind::Remaining(_) => {
                self.ask_each(b"PTTL", requests, out);
                group.replies_due = requests.len();
            }
            GroupKind::Control => {
                requests
                    .iter()
                    .for_each(|pending| self.control(&pending.request, nonce_echo, out));
            }
            GroupKind::Recheck => self.control(&Request::Status, nonce_echo, out),
            GroupKind::Clock => command(out, &[b"TIME"]),
            GroupKind::Identity { with_policy } => {
                let asked = identity_sections(*with_policy);
                asked.iter().for_each(|part| command(out, &[b"INFO", part]));
                group.replies_due = asked.len();
            }
            GroupKind::Load(script) => script.load(out),
        }
    }

    /// Encodes what ACQUIRE and EXTEND have in common as scripts.
    fn leases(
        &self,
        script: Script,
        view: ViewId,
        requests: &[PendingRequest],
        nonce_echo: u32,
        out: &mut Vec<u8>,
    ) {
        let fields = if script == Script::Acquire { 4 } else { 5 };
        self.begin(script, 2 + requests.len(), 2 + fields * requests.len(), out);
        bulk(out, &self.id);
        bulk(out, &self.counters);
        self.keys(requests, out);
        bulk(out, view.to_string().as_bytes());
        for pending in requests {
            match &pending.request {
                Request::Acquire {
                    token,
                    ttl,
                    slot,
                    floor,
                    ..
                } => {
                    lease(out, token, *ttl, *slot, *floor);
                }
                Request::Extend {
                    token,
                    ttl,
                    slot,
                    floor,
                    if_missing,
                    ..
                } => {
                    lease(out, token, *ttl, *slot, *floor);
                    bulk(
                        out,
                        if *if_missing == IfMissing::Recreate {
                            b"heal"
                        } else {
                            b"keep"
                        },
                    );
                }
                _ => {}
            }
        }
        bulk_number(out, nonce_echo);
    }

    /// What follows the entries: the counts, which must be taken after them, and
    /// the view served, which must be read after both (PROTOCOL E1).
    fn count(&self, requests: &[PendingRequest], slots: &mut SlotCounts, out: &mut Vec<u8>) {
        for pending in requests {
            let Request::Acquire { slot, .. } = &pending.request else {
                continue;
            };
            match slots.last_mut() {
                Some((last, count)) if last == slot => *count += 1,
                _ => slots.push((*slot, 1)),
            }
        }
        for &(slot, count) in slots.iter() {
            array(out, 4);
            bulk(out, b"HINCRBY");
            bulk(out, &self.counters);
            bulk_slot(out, slot);
            bulk_number(out, count);
        }
        command(out, &[b"GET", &self.id]);
    }

    fn set_each(&self, requests: &[PendingRequest], out: &mut Vec<u8>) {
        for pending in requests {
            let Request::Acquire {
                key, token, ttl, ..
            } = &pending.request
            else {
                continue;
            };
            // Written once for each key: SET key token NX GET PX ttl.
            out.extend_from_slice(b"*7\r\n$3\r\nSET\r\n");
            self.key(key, out);
            stored(out, token);
            out.extend_from_slice(b"$2\r\nNX\r\n$3\r\nGET\r\n$2\r\nPX\r\n");
            bulk_number(out, ttl.as_millis());
        }
    }

    /// All keys get the first one's ttl.
    fn set_together(&self, requests: &[PendingRequest], out: &mut Vec<u8>) {
        array(out, 2 + 2 * requests.len() + 3);
        bulk(out, b"MSETEX");
        bulk_number(out, requests.len());
        let mut shared = None;
        for pending in requests {
            if let Request::Acquire {
                key, token, ttl, ..
            } = &pending.request
            {
                self.key(key, out);
                stored(out, token);
                shared = shared.or(Some(*ttl));
            }
        }
        bulk(out, b"NX");
        bulk(out, b"PX");
        bulk_number(out, shared.map_or(0, Ttl::as_millis));
    }

    fn delete_each(&self, delete_if: DeleteIf, requests: &[PendingRequest], out: &mut Vec<u8>) {
        for pending in requests {
            let Request::Release { key, token } = &pending.request else {
                continue;
            };
            match delete_if {
                DeleteIf::Delifeq => {
                    array(out, 3);
                    bulk(out, b"DELIFEQ");
                    self.key(key, out);
                }
                DeleteIf::Delex => {
                    array(out, 4);
                    bulk(out, b"DELEX");
                    self.key(key, out);
                    bulk(out, b"IFEQ");
                }
            }
            stored(out, token);
        }
    }

    fn ask_each(&self, question: &[u8], requests: &[PendingRequest], out: &mut Vec<u8>) {
        for key in requests.iter().filter_map(|pending| pending.request.key()) {
            array(out, 2);
            bulk(out, question);
            self.key(key, out);
        }
    }

    pub(crate) fn control(&self, request: &Request, nonce_echo: u32, out: &mut Vec<u8>) {
        let incarnation = &self.incarnation;
        let (id, member, counters) = (&self.id, &self.member, &self.counters);
        let mut call = |script, keys: &[&[u8]], arguments: &[&[u8]]| {
            self.call(script, keys, arguments, nonce_echo, out);
        };
        match request {
            Request::Status => call(Script::Status, &[id, member], &[]),
            Request::Document => command(out, &[b"HGET", member, b"doc"]),
            Request::PriorState => call(Script::PriorState, &[id, member], &[incarnation]),
            Request::Quarantine {
                expected_nonce,
                expected_view,
                nonce,
            } => {
                let view = expected_view
                    .map(|view| view.to_string())
                    .unwrap_or_default();
                let expected = expected_nonce.clone().unwrap_or_default();
                let arguments = [
                    expected.as_bytes(),
                    view.as_bytes(),
                    nonce.as_bytes(),
                    incarnation,
                ];
                call(Script::Quarantine, &[id, member, counters], &arguments);
            }
            Request::Prepare { view, ballot } => {
                let (view, ballot) = (view.to_string(), ballot.to_string());
                let arguments = [view.as_bytes(), ballot.as_bytes(), incarnation];
                call(Script::Prepare, &[id, member], &arguments);
            }
            Request::Accept {
                view,
                ballot,
                next,
                document,
            } => {
                let (view, ballot) = (view.to_string(), ballot.to_string());
                let next = next.to_string();
                let arguments = [
                    view.as_bytes(),
                    ballot.as_bytes(),
                    next.as_bytes(),
                    document.as_bytes(),
                    incarnation,
                ];
                call(Script::Accept, &[id, member], &arguments);
            }
            Request::Adopt {
                view,
                document,
                nonce,
            } => {
                let (epoch, view) = (view.epoch.to_string(), view.to_string());
                let arguments = [
                    epoch.as_bytes(),
                    view.as_bytes(),
                    document.as_bytes(),
                    nonce.as_bytes(),
                    incarnation,
                ];
                call(Script::Adopt, &[id, member, counters], &arguments);
            }
            Request::Restamp { expected } => {
                let arguments = [expected.as_bytes(), incarnation];
                call(Script::Restamp, &[id, member], &arguments);
            }
            // These have groups of their own.
            Request::Acquire { .. } | Request::Extend { .. } | Request::Release { .. } => {}
        }
    }

    fn call(
        &self,
        script: Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        nonce_echo: u32,
        out: &mut Vec<u8>,
    ) {
        self.begin(script, keys.len(), arguments.len() + 1, out);
        keys.iter()
            .chain(arguments)
            .for_each(|part| bulk(out, part));
        bulk_number(out, nonce_echo);
    }

    fn begin(&self, script: Script, keys: usize, arguments: usize, out: &mut Vec<u8>) {
        array(out, 3 + keys + arguments);
        bulk(out, b"EVALSHA");
        bulk(out, self.scripts.sha(script));
        bulk_number(out, keys);
    }

    fn keys(&self, requests: &[PendingRequest], out: &mut Vec<u8>) {
        requests
            .iter()
            .filter_map(|pending| pending.request.key())
            .for_each(|key| self.key(key, out));
    }

    fn key(&self, key: &Key, out: &mut Vec<u8>) {
        number(out, b'$', self.key_prefix.len() + key.as_bytes().len());
        out.extend_from_slice(&self.key_prefix);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn lease(out: &mut Vec<u8>, token: &Token, ttl: Ttl, slot: FenceCounterId, floor: u64) {
    stored(out, token);
    bulk_number(out, ttl.as_millis());
    bulk_slot(out, slot);
    bulk_number(out, floor);
}

/// Appends `slot` as it is displayed.
fn bulk_slot(out: &mut Vec<u8>, slot: FenceCounterId) {
    let mut buffers = [itoa::Buffer::new(); 3];
    let [replicas, arc, part] = &mut buffers;
    let replicas = replicas.format(slot.replicas);
    let (arc, part) = (arc.format(slot.arc), part.format(slot.part));
    number(out, b'$', replicas.len() + arc.len() + part.len() + 2);
    for text in [replicas, "/", arc, "/", part, "\r\n"] {
        out.extend_from_slice(text.as_bytes());
    }
}

fn stored(out: &mut Vec<u8>, token: &Token) {
    number(out, b'$', token.stored_len());
    token.append_stored(out);
    out.extend_from_slice(b"\r\n");
}

impl Dialect {
    /// Appends `request` together with the text of its script; `None`: it has
    /// none.
    pub(crate) fn control_with_text(
        &self,
        request: &Request,
        nonce_echo: u32,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let script = Script::of(request)?;
        Some(together(
            script,
            |out| self.control(request, nonce_echo, out),
            out,
        ))
    }
}

const IDENTITY_SECTIONS: [&[u8]; 3] = [b"replication", b"stats", b"memory"];

/// The sections of INFO that a check reads.
pub(crate) fn identity_sections(with_policy: bool) -> &'static [&'static [u8]] {
    if with_policy {
        &IDENTITY_SECTIONS
    } else {
        &IDENTITY_SECTIONS[..2]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RouterConfig;
    use crate::node::ReplyTo;
    use crate::node::redis::fuzzing::groups::{dialect, group};

    /// Groups by their number in `groups`. The group that loads a script is
    /// left out: its content is the script.
    const NAMES: [(u8, &str); 19] = [
        (0, "acquire-by-commands"),
        (1, "acquire-together"),
        (2, "acquire-by-script"),
        (3, "extend"),
        (4, "release-by-script"),
        (5, "release-by-delifeq"),
        (6, "release-by-delex"),
        (7, "found"),
        (8, "remaining"),
        (9, "recheck"),
        (11, "status"),
        (12, "document"),
        (13, "quarantine"),
        (14, "prepare"),
        (15, "accept"),
        (16, "adopt"),
        (17, "restamp"),
        (18, "past"),
        (19, "identity"),
    ];

    #[test]
    fn requests_are_as_they_were_recorded() {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/upgrade/recordings/requests");
        let keys = ["orders/1", "a\r\n\0b"].map(|key| Key::new(key).unwrap());
        for (kind, name) in NAMES {
            let mut group = group(kind, &keys, &mut ReplyTo::nobody);
            group.nonce_echo = 4_294_967_295;
            let mut written = Vec::new();
            dialect(&RouterConfig::default()).encode(&mut group, &mut written);
            let file = folder.join(format!("{name}.resp"));
            if std::env::var_os("RINGLOCK_RECORD").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&file, &written).unwrap();
            }
            let recorded = std::fs::read(&file).unwrap();
            assert!(
                recorded == written,
                "{name}: what servers are sent has changed; guide::compatibility says what that demands.\n\
                 recorded: {}\nwritten:  {}",
                recorded.escape_ascii(),
                written.escape_ascii()
            );
        }
    }
}
