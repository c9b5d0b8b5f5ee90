//! Requests as commands, and replies as answers.

pub(crate) mod capabilities;
pub(crate) mod command_group;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod request;
pub(crate) mod scripts;
