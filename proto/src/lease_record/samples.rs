//! Views for the tests of this folder: four nodes, of which three are members.

use std::sync::Arc;

use crate::lease::Key;
use crate::membership::topology::Topology;
use crate::membership::view::{Nonces, View};

pub(super) const OLD: [&str; 3] = ["b", "c", "d"];
/// The members after a change, in another order.
pub(super) const NEW: [&str; 3] = ["a", "b", "c"];
pub(super) const ALL: [&str; 4] = ["a", "b", "c", "d"];

pub(super) fn topology(names: &[&str], replicas: usize) -> Topology {
    Topology {
        vnodes: 16,
        ..Topology::sample(names, replicas)
    }
}

/// One nonce each; the nodes in `anew` get a different one.
pub(super) fn nonces(names: &[&str], anew: &[&str]) -> Nonces {
    let nonce = |&name: &&str| {
        let is_new = anew.contains(&name);
        let kind = if is_new { "new" } else { "old" };
        (name.into(), format!("{kind} nonce of {name}").into())
    };
    names.iter().map(nonce).collect()
}

pub(super) fn stable_at(epoch: u32, names: &[&str], anew: &[&str]) -> Arc<View> {
    Arc::new(View::stable(epoch, topology(names, 3), &nonces(names, anew)).unwrap())
}

pub(super) fn stable_but(names: &[&str], anew: &[&str]) -> Arc<View> {
    stable_at(9, names, anew)
}

pub(super) fn stable(names: &[&str]) -> Arc<View> {
    stable_but(names, &[])
}

pub(super) fn joint_at(epoch: u32, old: &[&str], new: &[&str], anew: &[&str]) -> Arc<View> {
    let all: Vec<&str> = ALL
        .into_iter()
        .filter(|name| old.contains(name) || new.contains(name))
        .collect();
    let (from, to) = (topology(old, 3), topology(new, 3));
    Arc::new(View::joint(epoch, from, to, epoch, &nonces(&all, anew)).unwrap())
}

pub(super) fn joint_but(old: &[&str], new: &[&str], anew: &[&str]) -> Arc<View> {
    joint_at(9, old, new, anew)
}

pub(super) fn joint(old: &[&str], new: &[&str]) -> Arc<View> {
    joint_but(old, new, &[])
}

pub(super) fn key(index: usize) -> Key {
    Key::new(format!("key {index}")).unwrap()
}
