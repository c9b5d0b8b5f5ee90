//! The commands, one file each.

pub(crate) mod abort;
pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod force;
pub(crate) mod init;
pub(crate) mod locks;
pub(crate) mod plan;
pub(crate) mod readmit;
pub(crate) mod release;
pub(crate) mod resume;
pub(crate) mod ring;
pub(crate) mod route;
pub(crate) mod status;
