//! The command, as `exec` sees it: it runs under a supervisor.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use ringlock::Guard;
use rustix::process::{
    Pid, Signal, WaitOptions, getpgrp, kill_process, kill_process_group, test_kill_process,
    test_kill_process_group,
};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Options;
use super::program::refuse;
use super::signals::Signals;
use super::supervisor::{SUPERVISOR, this_program};
use super::wire::{Frame, hand_over, queue};
use crate::output::{Exit, Failure, Output};

/// The longest and the shortest time between two reports of how long the lease
/// is valid.
const REPORTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(1)];

/// How often to check whether a killed command is gone.
const LOOK: Duration = Duration::from_millis(10);

/// Whether there is a terminal that signals this process, whatever its standard
/// input is.
pub(super) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

/// A supervisor that runs no command yet.
pub(super) struct Supervisor {
    child: Child,
    socket: UnixStream,
    is_group: bool,
}

impl Supervisor {
    /// A terminal serves a single process group, which reads from it and gets
    /// its interrupts. A shell moves that group to the foreground and back.
    /// There the command stays in the group of this process; without a terminal
    /// it gets its own group.
    pub(super) fn spawn(
        options: &Options,
        is_group: bool,
        output: Output,
    ) -> Result<Self, Failure> {
        let (socket, other) = UnixStream::pair()?;
        let group = match is_group {
            true => 0,
            false => getpgrp().as_raw_nonzero().get(),
        };
        let grace = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
        let mut command = Command::from(this_program()?);
        command
            .arg(SUPERVISOR)
            .args(["--group", &group.to_string()])
            .args(["--signal", &options.signal.as_raw().to_string()])
            .args(["--grace", &grace.to_string(), "--"])
            .args(&options.command)
            .env("RINGLOCK_KEY", &options.key)
            .stdin(OwnedFd::from(other))
            // A signal that kills or stops the group of this process spares the
            // supervisor.
            .process_group(0);
        if output.is_json {
            command.stdout(Stdio::from(std::io::stderr()));
        }
        let child = command.spawn().map_err(|error| {
            let message = format!("the supervisor of the command cannot be started: {error}");
            Failure::new(Exit::Failed, message)
        })?;
        Ok(Self {
            child,
            socket,
            is_group,
        })
    }

    /// Runs the command, now that the lock is held.
    pub(super) fn start(mut self, guard: &Guard) -> Result<Job, Failure> {
        let fence = guard.fence().get();
        hand_over(&self.socket, Frame::Granted(fence), std::io::stdin())?;
        Frame::Until(guard.valid_until()).write(&mut self.socket)?;
        let frames = queue(&self.socket)?;
        Ok(Job {
            supervisor: self,
            frames,
            pid: None,
        })
    }
}

/// The running command.
pub(super) struct Job {
    supervisor: Supervisor,
    frames: mpsc::Receiver<Frame>,
    /// The process id of the command, once it is known.
    pid: Option<Pid>,
}

impl Job {
    /// Waits for the end of the command and passes signals on. Ends the command
    /// when the lock is lost; then also returns the reason.
    pub(super) async fn finish(
        mut self,
        guard: &Guard,
        options: &Options,
        signals: &mut Signals,
    ) -> Result<(End, Option<String>), Failure> {
        let mut lost = pin!(guard.lost());
        let mut loss = None;
        let mut lapsed = None;
        let mut report_at = Instant::now();
        let end = loop {
            tokio::select! {
                biased;
                frame = self.frames.recv() => match frame {
                    Some(Frame::Exited(code)) => break End::Code(code),
                    Some(Frame::Killed(signal)) => break End::Signal(signal),
                    Some(Frame::Unstarted(error)) => return Err(unstarted(&options.command[0], error)),
                    Some(Frame::Started(pid)) => self.pid = Pid::from_raw(pid),
                    Some(Frame::Lapsed) => {
                        lapsed = Some("it was not extended in time".to_owned());
                    }
                    Some(_) => {}
                    None => return Err(self.kill(guard).await),
                },
                reason = &mut lost, if loss.is_none() => {
                    loss = Some(reason);
                    self.report(Frame::End(options.signal.as_raw()));
                }
                signal = signals.next() => self.pass_on(signal),
                () = sleep_until(report_at), if loss.is_none() => {
                    let [longest, shortest] = REPORTS;
                    // Four reports while the lease lasts, however late it was
                    // extended.
                    let pause = (guard.remaining() / 4).clamp(shortest, longest);
                    self.report(Frame::Until(guard.valid_until()));
                    report_at = Instant::now() + pause;
                }
            }
        };
        let loss = loss.or(guard.loss()).map(|loss| loss.to_string());
        Ok((end, loss.or(lapsed)))
    }

    fn pass_on(&mut self, signal: Signal) {
        match signal {
            // In its own group the command would run on while this program is
            // stopped and lets the lease lapse.
            Signal::TSTP => {}
            // The terminal has sent these to the command as well.
            Signal::INT | Signal::QUIT if !self.supervisor.is_group => {}
            signal => self.report(Frame::Signal(signal.as_raw())),
        }
    }

    /// A supervisor that reads nothing is stopped; it acts on the last frame
    /// that it got. One that is gone is noticed by the end of the stream.
    fn report(&mut self, frame: Frame) {
        let _ = frame.write(&mut self.supervisor.socket);
    }

    /// The supervisor is gone: kills the command, and waits until it is dead or
    /// the lock is lost.
    async fn kill(mut self, guard: &Guard) -> Failure {
        // The supervisor has ended, or is about to.
        let _ = self.supervisor.child.wait().await;
        while let Some(pid) = self.pid {
            // The command may be a child of this process now.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            // On Linux the system killed it when the supervisor died.
            let (killed, found) = match self.supervisor.is_group {
                true => (
                    kill_process_group(pid, Signal::KILL),
                    test_kill_process_group(pid),
                ),
                false => (kill_process(pid, Signal::KILL), test_kill_process(pid)),
            };
            if killed.and(found).is_err() || guard.loss().is_some() {
                break;
            }
            sleep(LOOK).await;
        }
        let message = "the supervisor of the command was killed, and the command with it";
        Failure::new(Exit::Failed, message).next("check what it wrote last, and start it again")
    }
}

fn unstarted(program: &OsString, error: i32) -> Failure {
    let error = std::io::Error::from_raw_os_error(error);
    let exit = match error.kind() {
        std::io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::NotExecutable,
    };
    refuse(program, exit, &error.to_string())
}
