//! The process between `exec` and its command: it ends the command when `exec`
//! dies or lets the lease lapse.
//!
//! `exec` may be killed with SIGKILL or be stopped; it cannot act then. The
//! supervisor is its child, holds one end of a socket pair, and is the parent
//! of the command. The end of the stream means that `exec` is gone.
//!
//! The supervisor itself may be killed. `exec` then kills the command. If both
//! are killed at once, Linux kills the command by its parent-death signal. A
//! process requests that signal for itself, and the request outlives an `exec`
//! call. The command is therefore started through this program once more
//! ([`become_command`]).

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use ringlock::proto::time::Instant;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, kill_process_group,
    test_kill_process_group,
};
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::signals::Signals;
use super::tree::descendants;
use super::wire::{Frame, hand_over, own_end, queue, take_over};

/// The hidden command that runs a supervisor.
pub(crate) const SUPERVISOR: &str = "exec-supervisor";

/// The hidden command that becomes the command.
pub(crate) const COMMAND: &str = "exec-command";

/// The clock that leases are measured by: the same as in the library.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// How often to check for processes that must end.
const LOOK: Duration = Duration::from_millis(10);

/// How long to go on killing: a process may be stuck in the kernel.
const KILLING: Duration = Duration::from_secs(5);

/// How often to let the runtime read what has been sent: each read takes more
/// than `exec` sends in a ttl.
const CATCH_UP: usize = 8;

/// The longest sleep before the clock is read again: timers of the runtime
/// stand still while the machine is suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The process group of the command; 0 for its own.
    #[arg(long)]
    group: i32,

    /// The signal that the command gets when the lease lapses.
    #[arg(long)]
    signal: i32,

    /// How many milliseconds the command has from then on.
    #[arg(long)]
    grace: u64,

    #[arg(last = true, required = true, num_args = 1..)]
    command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct CommandOptions {
    /// The process that must still be the parent.
    #[arg(long)]
    parent: i32,

    #[arg(last = true, required = true, num_args = 1..)]
    command: Vec<OsString>,
}

/// A command that starts this same program again, even if its file was replaced
/// since.
pub(super) fn this_program() -> std::io::Result<Command> {
    let mut command = match cfg!(target_os = "linux") {
        true => Command::new("/proc/self/exe"),
        false => Command::new(std::env::current_exe()?),
    };
    command.arg0("ringlock");
    Ok(command)
}

/// Turns this process into the command.
///
/// On Linux it is killed when its parent, the supervisor, dies. A parent that
/// died before the request took effect is noticed by its process id.
pub(crate) fn become_command(options: &CommandOptions) -> std::io::Result<ExitCode> {
    let mut socket = own_end()?;
    // If the system refuses this, only the supervisor ends the command.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    let Some((Frame::Granted(fence), stdin)) = take_over(&socket)? else {
        return Ok(ExitCode::FAILURE);
    };
    if parent != Some(options.parent) {
        return Ok(ExitCode::FAILURE);
    }
    let mut command = Command::new(&options.command[0]);
    command
        .args(&options.command[1..])
        .env("RINGLOCK_FENCE", fence.to_string())
        .stdin(stdin);
    // Returns only if the command could not be run; otherwise the socket
    // closes.
    let error = command.exec();
    Frame::Unstarted(error.raw_os_error().unwrap_or_default()).write(&mut socket)?;
    Ok(ExitCode::FAILURE)
}

/// Runs and supervises one command.
pub(crate) fn run(options: &Options) -> std::io::Result<ExitCode> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(supervise(options))
}

async fn supervise(options: &Options) -> std::io::Result<ExitCode> {
    // A signal that is sent to every process of a service also reaches `exec`,
    // which passes it on: the supervisor must survive it.
    let _handled = Signals::listen(&[])?;
    let mut child_signal = signal(SignalKind::child())?;
    let mut socket = own_end()?;
    let Some((Frame::Granted(fence), stdin)) = take_over(&socket)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Some(Frame::Until(until)) = Frame::read(&mut socket) else {
        return Ok(ExitCode::SUCCESS);
    };
    // Processes that the command leaves behind become children of the
    // supervisor and stay in its tree.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(getpid()));
    let (pid, report) = match start(options, fence, stdin) {
        Ok(started) => started,
        Err(error) => {
            Frame::Unstarted(error.raw_os_error().unwrap_or_default()).write(&mut socket)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    Frame::Started(pid.as_raw_nonzero().get()).write(&mut socket)?;
    let mut orders = queue(&socket)?;
    let mut report = queue(&report)?;
    let mut charge = SupervisedCommand {
        pid,
        is_group: options.group == 0,
        signal: Signal::from_named_raw(options.signal).unwrap_or(Signal::TERM),
        grace: Duration::from_millis(options.grace),
        until,
        kill_at: None,
        lapsed: false,
    };
    let status = loop {
        tokio::select! {
            biased;
            _ = child_signal.recv() => if let Some(status) = charge.reap() {
                break status;
            },
            order = orders.recv() => match order {
                Some(order) => charge.obey(order),
                None => {
                    charge.kill();
                    charge.end_rest(&mut orders).await;
                    return Ok(ExitCode::SUCCESS);
                }
            },
            () = sleep_until(charge.until), if charge.kill_at.is_none() => {
                charge.lapse(&mut orders).await;
            }
            () = sleep_until(charge.kill_at.unwrap_or(Instant::MAX)) => charge.kill(),
        }
    };
    charge.end_rest(&mut orders).await;
    // The stream is closed: the process that could write to it became the
    // command or has ended.
    if let Some(unstarted) = report.recv().await {
        unstarted.write(&mut socket)?;
        return Ok(ExitCode::SUCCESS);
    }
    if charge.lapsed {
        Frame::Lapsed.write(&mut socket)?;
    }
    let end = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Frame::Exited(code),
        (None, signal) => Frame::Killed(signal.unwrap_or_default()),
    };
    end.write(&mut socket)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the command. The socket reports why it could not be run; otherwise
/// the stream ends without a frame.
fn start(options: &Options, fence: u64, stdin: OwnedFd) -> std::io::Result<(Pid, UnixStream)> {
    let (own, other) = UnixStream::pair()?;
    let mut command = this_program()?;
    command
        .arg(COMMAND)
        .args(["--parent", &getpid().as_raw_nonzero().to_string(), "--"])
        .args(&options.command)
        .stdin(OwnedFd::from(other))
        .process_group(options.group);
    let mut child = command.spawn()?;
    // Otherwise the stream would not end with the process.
    drop(command);
    if let Err(error) = hand_over(&own, Frame::Granted(fence), stdin) {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    Ok((Pid::from_child(&child), own))
}

/// The command, and what the supervisor knows about it.
struct SupervisedCommand {
    pid: Pid,
    /// Whether it leads its own process group.
    is_group: bool,
    signal: Signal,
    grace: Duration,
    /// Until when the lease is valid, as far as is known.
    until: Instant,
    /// When it and everything that it started is killed; set once it was asked
    /// to end.
    kill_at: Option<Instant>,
    lapsed: bool,
}

impl SupervisedCommand {
    /// Reaps the processes that ended; returns the status of the command if it
    /// did.
    fn reap(&self) -> Option<WaitStatus> {
        let mut status = None;
        while let Ok(Some((pid, ended))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                status = Some(ended);
            }
        }
        status
    }

    fn obey(&mut self, order: Frame) {
        match order {
            Frame::Until(until) => self.until = until,
            Frame::Signal(number) => match Signal::from_named_raw(number) {
                Some(Signal::TERM) => self.end(Signal::TERM),
                Some(signal) => self.pass_on(signal),
                None => {}
            },
            // It was asked to end already.
            Frame::End(_) if self.lapsed => {}
            Frame::End(number) => {
                self.end(Signal::from_named_raw(number).unwrap_or(self.signal));
            }
            _ => {}
        }
    }

    /// Reads what `exec` has sent by now: on a busy machine this process may
    /// have stood still, and the lease may have been extended. One yield lets
    /// the runtime read the socket, another one lets the queue fill.
    async fn catch_up(&mut self, orders: &mut mpsc::Receiver<Frame>) {
        for _ in 0..CATCH_UP {
            tokio::task::yield_now().await;
            while let Ok(order) = orders.try_recv() {
                self.obey(order);
            }
        }
    }

    /// The lease is over, as far as is known.
    async fn lapse(&mut self, orders: &mut mpsc::Receiver<Frame>) {
        self.catch_up(orders).await;
        if now() >= self.until && self.kill_at.is_none() {
            self.lapsed = true;
            self.end(self.signal);
        }
    }

    /// Asks the command and what it started to end. A stopped process acts on
    /// the signal before anything else when it is continued.
    fn end(&mut self, signal: Signal) {
        self.pass_on(signal);
        for process in descendants(getpid()) {
            let is_reported = match self.is_group {
                true => process.group == Some(self.pid),
                false => process.pid == self.pid,
            };
            if !is_reported {
                let _ = kill_process(process.pid, signal);
            }
        }
        self.kill_at.get_or_insert(now() + self.grace);
    }

    /// Signals the command, with its group if it leads one. A signal that finds
    /// no process comes too late.
    fn pass_on(&self, signal: Signal) {
        let _ = match self.is_group {
            true => kill_process_group(self.pid, signal),
            false => kill_process(self.pid, signal),
        };
    }

    /// Kills everything once, and again soon: processes may have been started
    /// during the scan.
    fn kill(&mut self) {
        self.pass_on(Signal::KILL);
        self.kill_rest();
        self.kill_at = Some(now() + LOOK);
    }

    /// Kills what the command started. The command may have been reaped; the
    /// number of its group is not reused while a member lives.
    fn kill_rest(&self) {
        if !cfg!(target_os = "linux") && self.is_group {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        for process in descendants(getpid()) {
            let _ = kill_process(process.pid, Signal::KILL);
        }
    }

    /// If the command was asked to end: waits until nothing is left of what it
    /// started, and kills the rest when the grace is over. [`KILLING`] bounds
    /// the wait.
    async fn end_rest(&mut self, orders: &mut mpsc::Receiver<Frame>) {
        let Some(mut kill_at) = self.kill_at else {
            return;
        };
        let mut is_alone = false;
        loop {
            if now() >= kill_at {
                self.kill_rest();
            }
            self.reap();
            if !self.has_rest() || now() >= kill_at + KILLING {
                return;
            }
            tokio::select! {
                order = orders.recv(), if !is_alone => if order.is_none() {
                    // `exec` is gone, and the lock with it.
                    is_alone = true;
                    kill_at = kill_at.min(now());
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn has_rest(&self) -> bool {
        match cfg!(target_os = "linux") {
            true => !descendants(getpid()).is_empty(),
            false => self.is_group && test_kill_process_group(self.pid).is_ok(),
        }
    }
}

fn now() -> Instant {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(CLOCK);
    Instant::from_nanos(tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned())
}

async fn sleep_until(deadline: Instant) {
    loop {
        let left = deadline.saturating_since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_that_was_sent_in_time_counts_however_late_it_is_read() {
        let (socket, mut exec) = UnixStream::pair().unwrap();
        let later = now() + Duration::from_secs(60);
        for seconds in 1..=60 {
            let until = now() + Duration::from_secs(seconds);
            Frame::Until(until).write(&mut exec).unwrap();
        }
        Frame::Until(later).write(&mut exec).unwrap();
        let mut charge = SupervisedCommand {
            pid: getpid(),
            is_group: false,
            signal: Signal::TERM,
            grace: Duration::ZERO,
            until: now(),
            kill_at: None,
            lapsed: false,
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let mut orders = queue(&socket).unwrap();
            charge.catch_up(&mut orders).await;
        });
        assert_eq!(charge.until, later);
    }
}
