//! `ringlock exec`: runs a command under a lock.

mod job;
mod program;
mod signals;
pub(crate) mod supervisor;
mod tree;
mod wire;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use job::{End, Supervisor, has_terminal};
use ringlock::{Config, Error, Guard, Init, Released, Router};
use rustix::process::Signal;
use serde::Serialize;
use signals::{Signals, killed_by, signal_by_name};

use crate::cluster::IN_MEMORY;
use crate::output::{Exit, Failure, Output, printable};

/// Runs a command while holding a lock. The lock is kept alive until the
/// command ends.
///
/// The command gets the fence in RINGLOCK_FENCE and the key in RINGLOCK_KEY.
/// The command is looked up before the lock is acquired.
///
/// SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the
/// command; those that are ignored when this program starts stay ignored. After
/// SIGTERM the command has --grace to end. If the lock is lost, the command
/// gets --signal and has --grace to end. When --grace is over, it is killed. In
/// both cases everything that it started ends with it: this program waits for
/// these processes, and kills them when --grace is over.
///
/// If this program is killed, the command and everything that it started is
/// killed at once. If this program is stopped, the command gets --signal when
/// the lease ends. A process that started its own session is spared; one that
/// runs as another user cannot be signalled. On systems other than Linux only
/// the process group of the command is known.
///
/// In a session with a terminal the command stays in the process group of this
/// program: it can use the terminal, and Ctrl-C, Ctrl-Z, fg and bg work. A job
/// that is stopped keeps its lock for the ttl. Without a terminal the command
/// leads its own process group, which gets every signal.
///
/// With --json the standard output of the command goes to the standard error,
/// and the document reports how the command ended.
///
/// Of the options of flock(1), -n, -w and -E are supported. There are no shared
/// locks (-s). Instead of -c use `-- sh -c '…'`. -o always applies: what the
/// command leaves running does not keep the lock. -F is impossible: this
/// program must stay to keep the lock alive.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The lock key.
    key: OsString,

    /// How long to wait for the lock: 5, 0.5, 100ms, 1m; 0 is a single try. The
    /// default is router.wait of the configuration.
    #[arg(short, long, visible_alias = "timeout", value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,

    /// Try once: the same as --wait 0.
    #[arg(short, long, visible_alias = "nb", conflicts_with = "wait")]
    nonblock: bool,

    /// The exit code if other clients held the key all the time.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = Exit::NotLocked as u8)]
    conflict_exit_code: u8,

    /// The exit code if the lock was lost while the command ran.
    #[arg(long, value_name = "CODE", default_value_t = Exit::LockLost as u8)]
    lost_exit_code: u8,

    /// The exit code for any other failure, such as an unreachable node.
    #[arg(long, value_name = "CODE", default_value_t = Exit::Failed as u8)]
    failed_exit_code: u8,

    /// How long the lock outlives this program if it dies. The default is
    /// router.ttl of the configuration.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,

    /// How long the lock is kept at most; after that it counts as lost. The
    /// default is router.max_hold of the configuration.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_hold: Option<Duration>,

    /// The signal that the command gets when the lock is lost.
    #[arg(long, default_value = "TERM", value_parser = signal_by_name)]
    signal: Signal,

    /// How long the command has, after that signal or after SIGTERM, until it
    /// is killed.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    grace: Duration,

    /// Initialise a new cluster as router.init of the configuration says.
    /// Without this flag a new cluster is an error.
    #[arg(long)]
    init: bool,

    /// The command and its arguments.
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A duration with its unit, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let is_plain = |char: char| char.is_ascii_digit() || char == '.';
    if text.chars().all(is_plain)
        && let Ok(seconds) = text.parse()
    {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// How the command ended.
#[derive(Serialize)]
struct Ended {
    key: String,
    fence: u64,
    /// The exit code of the command; `null` if a signal killed it.
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
    let done = attempt(options, config, output).await;
    done.map_err(|failure| match failure.exit {
        Exit::NotLocked => failure.code(options.conflict_exit_code),
        Exit::LockLost => failure.code(options.lost_exit_code),
        Exit::Failed => failure.code(options.failed_exit_code),
        _ => failure,
    })
}

async fn attempt(
    options: &Options,
    mut config: Config,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut nodes = config.nodes.iter();
    if nodes.any(|node| node.url.starts_with("memory://")) {
        let message = format!("{IN_MEMORY}, and a lock there excludes no other process");
        return Err(Failure::new(Exit::Failed, message).next("configure Redis or Valkey nodes"));
    }
    config.router.init = match (options.init, config.router.init) {
        (false, _) => Init::Never,
        (true, Init::Never) => Init::Wait,
        (true, init) => init,
    };
    program::check(&options.command[0])?;
    let is_group = !has_terminal();
    // At a terminal, Ctrl-Z stops the whole job: this program and the command.
    let stops: &[Signal] = if is_group { &[Signal::TSTP] } else { &[] };
    let mut signals = Signals::listen(stops)?;
    // What can fail without the lock runs before the lock is acquired.
    let supervisor = Supervisor::spawn(options, is_group, output)?;
    let router = tokio::select! {
        router = Router::connect(config) => router.map_err(refused)?,
        signal = signals.end() => return Ok(ExitCode::from(killed_by(signal.as_raw()))),
    };
    let locked = tokio::select! {
        locked = lock(options, &router) => locked.map_err(Failure::from),
        signal = signals.end() => Ok(Err(signal)),
    };
    let guard = match locked {
        Ok(Ok(guard)) => guard,
        // The entries that the attempts left are taken back before the process
        // ends.
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
    let outcome = match supervisor.start(&guard) {
        Ok(job) => job.finish(&guard, options, &mut signals).await,
        Err(failure) => Err(failure),
    };
    let (end, lost) = release(router, guard, outcome).await?;
    report(options, fence, end, lost, output)
}

fn refused(error: Error) -> Failure {
    match error {
        Error::Uninitialised { .. } => Failure::new(Exit::Failed, error.to_string()).next(
            "a new cluster gets its first view with `ringlock init`, or here with --init; check each node with `ringlock doctor`",
        ),
        error => error.into(),
    }
}

fn report(
    options: &Options,
    fence: u64,
    end: End,
    lost: Option<String>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let (code, signal) = match end {
        End::Code(code) => (Some(code), None),
        End::Signal(signal) => (None, Some(signal)),
    };
    let exit_code = match (&lost, end) {
        (Some(_), _) => options.lost_exit_code,
        (None, End::Code(code)) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, End::Signal(signal)) => killed_by(signal),
    };
    let ended = Ended {
        key: printable(options.key.as_bytes()),
        fence,
        code,
        signal,
        lost,
        exit_code,
    };
    if output.is_json {
        output.report(&ended, |_| String::new())?;
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

async fn lock(options: &Options, router: &Router) -> Result<Result<Guard, Signal>, Error> {
    let key = options.key.as_bytes();
    let wait = match options.nonblock {
        true => Some(Duration::ZERO),
        false => options.wait,
    };
    let mut acquire = match wait {
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

/// Releases the lock, and reports a loss that is noticed only now.
async fn release(
    router: Router,
    guard: Guard,
    outcome: Result<(End, Option<String>), Failure>,
) -> Result<(End, Option<String>), Failure> {
    let released = guard.release().await;
    router.shutdown().await;
    let (end, lost) = outcome?;
    let lost = lost.or(match released {
        Ok(Released::InTime) => None,
        Ok(Released::TooLate) => Some("the lease had ended before it was released".into()),
        // No loss is known; the lock expires with its ttl.
        Ok(Released::Unknown) => None,
        Err(error) => Some(format!("{error:#}")),
    });
    Ok((end, lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_number_is_seconds() {
        for (text, millis) in [
            ("0", 0),
            ("5", 5_000),
            ("0.5", 500),
            (".25", 250),
            ("0s", 0),
            ("100ms", 100),
            ("1m 5s", 65_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let huge = "9".repeat(30);
        for text in ["", ".", "1.2.3", "-1", "inf", "NaN", "1e3", "5x", &huge] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
