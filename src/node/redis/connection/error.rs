//! Error messages of connections.

use std::io;

use crate::config::Password;
use crate::node::redis::connection::address::Address;
use crate::node::redis::connection::stream::remedy;
use crate::node::redis::resp::error_reply::ErrorReply;
use crate::proto::node::message::{NodeError, NodeErrorKind};

pub(crate) fn unreachable(address: &Address, error: &io::Error) -> NodeError {
    failed(format!("cannot reach {address}: {error}"), error)
}

/// A connection that worked before has broken.
pub(crate) fn broken(address: &Address, error: &io::Error) -> NodeError {
    failed(format!("the connection to {address} broke: {error}"), error)
}

pub(crate) fn failed(reported: String, error: &io::Error) -> NodeError {
    match remedy(error) {
        Some((kind, remedy)) => NodeError::new(kind, format!("{reported}: {remedy}")),
        None => NodeError::new(NodeErrorKind::Unreachable, reported),
    }
}

/// The server sent bytes that are no reply.
pub(crate) fn no_reply(address: &Address) -> NodeError {
    NodeError::new(
        NodeErrorKind::Protocol,
        format!("{address} sends invalid replies: is it a Redis server?"),
    )
}

/// A refused AUTH. A server that does not know the command quotes it, so the
/// server's text is not passed on.
pub(crate) fn bad_credentials(address: &Address, error: &ErrorReply<'_>) -> NodeError {
    let whence = address.password.as_ref().map(Password::whence);
    let whence =
        whence.unwrap_or_else(|| "the user, which has no password in the configuration".into());
    let code = error.code;
    NodeError::new(
        NodeErrorKind::Denied,
        format!("the server refuses the credentials: check {whence} ({code})"),
    )
}
