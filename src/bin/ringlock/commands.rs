//! The commands, one file each.

pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod locks;
pub(crate) mod release;
pub(crate) mod ring;
pub(crate) mod route;
pub(crate) mod status;
