//! What a server supports, what its user may use, and how requests to it are
//! encoded.

use crate::node::redis::codec::scripts::Scripts;

/// What requests can be encoded with on one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capabilities {
    /// `SET … NX GET`.
    pub(crate) set_nx_get: bool,
    /// `MSETEX`.
    pub(crate) together: bool,
    pub(crate) delete_if: Option<DeleteIf>,
}

impl Capabilities {
    /// Keeps only what every user of ringlock must be allowed.
    pub(crate) fn forget_commands(&mut self) {
        self.together = false;
        self.delete_if = None;
    }
}

/// The command that deletes a key if it has a certain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeleteIf {
    /// `DELIFEQ key value`: Valkey's.
    Delifeq,
    /// `DELEX key IFEQ value`: Redis's.
    Delex,
}

/// How requests to one server are encoded.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    pub(crate) key_prefix: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) member: Vec<u8>,
    pub(crate) counters: Vec<u8>,
    pub(crate) scripts: Scripts,
    pub(crate) capabilities: Capabilities,
    pub(crate) incarnation: Vec<u8>,
    /// See `RedisOptions::literal`.
    pub(crate) literal: bool,
}
