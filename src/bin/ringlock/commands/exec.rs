//! `ringlock exec`: runs a command under a lock.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use ringlock::{Config, Error, Guard, Released, Router};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::cluster::NOTHING_TO_LOOK_INTO;
use crate::output::{Exit, Failure, Output, printable};

/// Runs a command while holding a lock, which is kept alive meanwhile.
///
/// The command finds the fence in RINGLOCK_FENCE and the key in RINGLOCK_KEY.
/// SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to it. If the lock is lost
/// it gets --signal and, when --grace is over, SIGKILL. At a terminal it shares
/// the terminal with this program and is signalled alone; otherwise it is
/// signalled with all the processes that it started. With --json its standard
/// output goes to the standard error, and the document tells how it ended.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The lock key.
    key: OsString,

    /// How long to wait for the lock; 0s is a single try. The default is
    /// configured as router.wait.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// How long the lock outlives this program if it dies. The default is
    /// configured as router.ttl.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,

    /// How long the lock is kept at most; then it counts as lost. The default
    /// is configured as router.max_hold.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_hold: Option<Duration>,

    /// What the command gets when the lock is lost.
    #[arg(long, default_value = "TERM", value_parser = signal_by_name)]
    signal: Signal,

    /// How long it has from then on until it is killed.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// The command and its arguments.
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Signals that may be named.
const SIGNALS: [(&str, Signal); 8] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
];

fn signal_by_name(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = SIGNALS.iter().find(|(known, _)| *known == name);
    found.map(|&(_, signal)| signal).ok_or_else(|| {
        let names = SIGNALS.map(|(name, _)| name).join(", ");
        format!("one of {names}")
    })
}

/// How the command ended.
#[derive(Serialize)]
struct Ended {
    key: String,
    fence: u64,
    /// What the command ended with; `null`: a signal killed it.
    code: Option<i32>,
    signal: Option<i32>,
    /// Why the lock was lost while it ran.
    lost: Option<String>,
    exit_code: u8,
}

pub(crate) async fn run(
    options: &Options,
    config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    if config
        .nodes
        .iter()
        .any(|node| node.url.starts_with("memory://"))
    {
        let message = format!("{NOTHING_TO_LOOK_INTO}, and a lock there excludes nobody");
        return Err(Failure::new(Exit::Failed, message).next("configure Redis or Valkey nodes"));
    }
    let mut signals = Signals::listen()?;
    let router = tokio::select! {
        router = Router::connect(config) => router?,
        signal = signals.end() => return Ok(ExitCode::from(killed_by(signal.as_raw()))),
    };
    let locked = tokio::select! {
        locked = lock(options, &router) => locked.map_err(Failure::from),
        signal = signals.end() => Ok(Err(signal)),
    };
    let guard = match locked {
        Ok(Ok(guard)) => guard,
        // What the attempts left is taken back before the process ends.
        Ok(Err(signal)) => {
            router.shutdown().await;
            return Ok(ExitCode::from(killed_by(signal.as_raw())));
        }
        Err(failure) => {
            router.shutdown().await;
            return Err(failure);
        }
    };
    let fence = guard.fence().get();
    let outcome = match Job::start(options, fence, output) {
        Ok(job) => job.finish(&guard, options, &mut signals).await,
        Err(failure) => Err(failure),
    };
    let (status, lost) = release(router, guard, outcome).await?;
    let exit_code = match (&lost, status.code()) {
        (Some(_), _) => Exit::LockLost as u8,
        (None, Some(code)) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, None) => killed_by(status.signal().unwrap_or_default()),
    };
    let ended = Ended {
        key: printable(options.key.as_bytes()),
        fence,
        code: status.code(),
        signal: status.signal(),
        lost,
        exit_code,
    };
    if output.is_json {
        output.tell(&ended, |_| String::new())?;
    }
    match &ended.lost {
        Some(lost) => {
            let message = format!(
                "the lock of {} was lost while the command ran: {lost}",
                ended.key
            );
            let next = "check what it wrote last; a resource that checks fences has refused it";
            Err(Failure::new(Exit::LockLost, message).next(next))
        }
        None => Ok(ExitCode::from(exit_code)),
    }
}

/// The exit code of what a signal killed, as shells have it.
fn killed_by(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

async fn lock(options: &Options, router: &Router) -> Result<Result<Guard, Signal>, Error> {
    let key = options.key.as_bytes();
    let mut acquire = match options.wait {
        Some(Duration::ZERO) => router.try_acquire(key),
        Some(wait) => router.acquire(key).wait(wait),
        None => router.acquire(key),
    };
    acquire = acquire.keep_alive();
    if let Some(ttl) = options.ttl {
        acquire = acquire.ttl(ttl);
    }
    if let Some(limit) = options.max_hold {
        acquire = acquire.max_hold(limit);
    }
    acquire.await.map(Ok)
}

/// Gives the lock back, and tells of a loss that showed only now.
async fn release(
    router: Router,
    guard: Guard,
    outcome: Result<(ExitStatus, Option<String>), Failure>,
) -> Result<(ExitStatus, Option<String>), Failure> {
    let released = guard.release().await;
    router.shutdown().await;
    let (status, lost) = outcome?;
    let lost = lost.or(match released {
        Ok(Released::InTime) => None,
        Ok(Released::TooLate) => Some("it was gone before it was released".into()),
        // No loss that is known of; it expires with its ttl.
        Ok(Released::Unknown) => None,
        Err(error) => Some(format!("{error:#}")),
    });
    Ok((status, lost))
}

/// The running command.
struct Job {
    child: Child,
    pid: Pid,
    /// It leads a process group of its own.
    is_group: bool,
}

impl Job {
    fn start(options: &Options, fence: u64, output: Output) -> Result<Self, Failure> {
        let program = &options.command[0];
        // A terminal is read from, and interrupts, one group alone.
        let is_group = !std::io::stdin().is_terminal();
        let mut command = Command::new(program);
        command
            .args(&options.command[1..])
            .env("RINGLOCK_FENCE", fence.to_string())
            .env("RINGLOCK_KEY", &options.key);
        if is_group {
            command.process_group(0);
        }
        if output.is_json {
            command.stdout(Stdio::from(std::io::stderr()));
        }
        let child = command.spawn().map_err(|error| {
            let message = format!("{}: {error}", program.to_string_lossy());
            Failure::new(Exit::Failed, message).next("name a program that can be run after --")
        })?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| Failure::new(Exit::Failed, "the command has no process id"))?;
        Ok(Self {
            child,
            pid,
            is_group,
        })
    }

    /// Waits for the end of the command, passes signals on, and ends it when
    /// the lock is lost.
    async fn finish(
        mut self,
        guard: &Guard,
        options: &Options,
        signals: &mut Signals,
    ) -> Result<(ExitStatus, Option<String>), Failure> {
        let mut lost = pin!(guard.lost());
        let mut loss = None;
        let mut kill_at = None;
        let status = loop {
            let timer = sleep_until(kill_at.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                status = self.child.wait() => break status?,
                reason = &mut lost, if loss.is_none() => {
                    loss = Some(reason);
                    self.signal(options.signal);
                    kill_at = Some(Instant::now() + options.grace);
                }
                signal = signals.next() => self.pass_on(signal),
                () = timer, if kill_at.is_some() => {
                    self.signal(Signal::KILL);
                    kill_at = None;
                }
            }
        };
        let loss = loss.or(guard.loss());
        Ok((status, loss.map(|loss| loss.to_string())))
    }

    fn pass_on(&self, signal: Signal) {
        match signal {
            // In a group of its own it would run on while this program, stopped,
            // let the lease lapse.
            Signal::TSTP => {}
            // The terminal has sent these to the command as well.
            Signal::INT | Signal::QUIT if !self.is_group => {}
            signal => self.signal(signal),
        }
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still its own; that it may have
        // ended is all that can be wrong.
        let _ = match self.is_group {
            true => kill_process_group(self.pid, signal),
            false => kill_process(self.pid, signal),
        };
    }
}

/// The signals that are not to end this program without its command.
struct Signals {
    streams: Vec<(Signal, tokio::signal::unix::Signal)>,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let mut all = vec![Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
        if !std::io::stdin().is_terminal() {
            all.push(Signal::TSTP);
        }
        let mut streams = Vec::new();
        for name in all {
            streams.push((name, signal(SignalKind::from_raw(name.as_raw()))?));
        }
        Ok(Self { streams })
    }

    /// The next signal that is to end this program. Cancel safe.
    async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::TSTP => {}
                signal => return signal,
            }
        }
    }

    /// The next signal. Cancel safe.
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (name, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_by_name("term"), Ok(Signal::TERM));
        assert_eq!(signal_by_name("SIGINT"), Ok(Signal::INT));
        assert!(signal_by_name("15").unwrap_err().contains("TERM"));
    }
}
