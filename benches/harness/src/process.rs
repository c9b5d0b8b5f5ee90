//! Other processes of the running program, which get their orders by lines.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Fault;

/// A process that runs the same program. Its handle kills it on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts this program once more; `prepare` sets its arguments and
    /// environment.
    pub fn start(prepare: impl FnOnce(&mut Command)) -> Result<Self, Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        prepare(&mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("no pipe to the process")?;
        let results = child.stdout.take().ok_or("no pipe from the process")?;
        Ok(Self {
            child,
            orders,
            lines: BufReader::new(results).lines(),
        })
    }

    /// Writes one line to its standard input.
    pub fn order(&mut self, order: &str) -> Result<(), Fault> {
        Ok(writeln!(self.orders, "{order}")?)
    }

    /// The next line of its standard output; blocks until there is one.
    pub fn line(&mut self) -> Result<String, Fault> {
        let line = self.lines.next();
        Ok(line.ok_or("a process ended early; its message is above")??)
    }

    /// Waits for its end; an error unless it succeeded.
    pub fn end(mut self) -> Result<(), Fault> {
        match self.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("a process failed: {status}").into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
