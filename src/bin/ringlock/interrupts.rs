//! Signals that end a command whose work can be continued later.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Exit;

/// SIGINT and SIGTERM, from the moment of its creation.
#[derive(Debug)]
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for either; returns the code to end with.
    pub(crate) async fn recv(&mut self) -> Exit {
        tokio::select! {
            _ = self.int.recv() => Exit::Interrupted,
            _ = self.term.recv() => Exit::Terminated,
        }
    }
}
