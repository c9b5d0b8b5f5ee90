//! Signals that end a command whose work may be taken up again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Exit;

/// SIGINT and SIGTERM, from the moment that it is made.
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

    /// Waits for either; the code to end with.
    pub(crate) async fn recv(&mut self) -> Exit {
        tokio::select! {
            _ = self.int.recv() => Exit::Interrupted,
            _ = self.term.recv() => Exit::Terminated,
        }
    }
}
