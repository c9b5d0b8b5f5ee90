//! Errors of connections, in words.

use std::io;

use super::address::Address;
use super::refusal::ErrorReply;
use super::stream::remedy;
use crate::config::Password;
use crate::proto::wire::{NodeError, NodeErrorKind};

pub(super) fn unreachable(address: &Address, error: &io::Error) -> NodeError {
    failed(format!("cannot reach {address}: {error}"), error)
}

/// A connection that worked before does no more.
pub(super) fn broken(address: &Address, error: &io::Error) -> NodeError {
    failed(format!("the connection to {address} broke: {error}"), error)
}

pub(super) fn failed(told: String, error: &io::Error) -> NodeError {
    match remedy(error) {
        Some((kind, remedy)) => NodeError::new(kind, format!("{told}: {remedy}")),
        None => NodeError::new(NodeErrorKind::Unreachable, told),
    }
}

/// The server said what no server says.
pub(super) fn no_reply(address: &Address) -> NodeError {
    NodeError::new(
        NodeErrorKind::Protocol,
        format!("{address} sends what is no reply: is it a Redis server?"),
    )
}

/// A refused AUTH. A server that does not know the command quotes it: what it
/// says is not passed on.
pub(super) fn bad_credentials(address: &Address, error: &ErrorReply<'_>) -> NodeError {
    let whence = address.password.as_ref().map(Password::whence);
    let whence = whence.unwrap_or_else(|| "the user, who has no password here".into());
    let code = error.code;
    NodeError::new(
        NodeErrorKind::Denied,
        format!("the server refuses the credentials: check {whence} ({code})"),
    )
}
