//! How the program reports its results: for people or as JSON, with an exit
//! code for scripts.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use ringlock::{Cause, ConfigError, Error};
use serde::Serialize;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Well = 0,
    CheckFailed = 1,
    Usage = 2,
    Failed = 3,
    Degraded = 4,
    Outdated = 5,
    NotLocked = 6,
    LockLost = 7,
    NotExecutable = 126,
    NotFound = 127,
    Interrupted = 130,
    Terminated = 143,
}

/// Every exit code and what it means.
pub(crate) const EXITS: [(Exit, &str); 12] = [
    (Exit::Well, "all is well"),
    (
        Exit::CheckFailed,
        "bench: holders overlapped, a fence decreased, or a release was late",
    ),
    (
        Exit::Usage,
        "the command line, the configuration or the key is wrong; force: refused, nothing was done",
    ),
    (
        Exit::Failed,
        "the command failed: a node cannot be reached, a file cannot be written",
    ),
    (
        Exit::Degraded,
        "status, doctor: a problem was found, or a change is under way; readmit: nodes are out; locks: some nodes were left out",
    ),
    (
        Exit::Outdated,
        "apply, resume, abort, force: another change was decided first, or it was aborted; make a new plan",
    ),
    (
        Exit::NotLocked,
        "exec: other clients held the key all the time; the command was not run",
    ),
    (
        Exit::LockLost,
        "exec: the lock was lost while the command ran",
    ),
    (
        Exit::NotExecutable,
        "exec: the command is not executable; it was not run; bench: the same of ringlock-bench",
    ),
    (
        Exit::NotFound,
        "exec: the command does not exist; it was not run; bench: ringlock-bench is not installed",
    ),
    (
        Exit::Interrupted,
        "init, apply, resume, abort, force, readmit: interrupted by SIGINT; what was done stays",
    ),
    (Exit::Terminated, "the same, by SIGTERM"),
];

/// The exit codes, as `--help` lists them.
pub(crate) fn exit_codes() -> String {
    let mut text = String::from("Exit codes:");
    for (exit, meaning) in EXITS {
        let _ = write!(text, "\n  {}  {meaning}", exit as u8);
    }
    text + "\nexec otherwise ends with the command's own code, or with 128 + signal if one killed it. Its options --conflict-exit-code, --lost-exit-code and --failed-exit-code replace 6, 7 and 3 where the command itself uses those."
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what was asked.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// What to do next, if the message does not include it.
    pub(crate) next: Option<String>,
    /// An exit code that replaces the usual one.
    pub(crate) code: Option<u8>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            next: None,
            code: None,
        }
    }

    /// Ends with this exit code.
    pub(crate) fn code(self, code: u8) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    pub(crate) fn next(self, next: impl Into<String>) -> Self {
        Self {
            next: Some(next.into()),
            ..self
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::new(Exit::Usage, format!("{error:#}"));
        match error {
            ConfigError::File { .. } => {
                failure.next("name the file with --config, or in RINGLOCK_CONFIG")
            }
            _ => failure.next("correct the configuration; the guide shows every setting"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Key(_) | Error::Ttl(_) => Exit::Usage,
            Error::Config(error) => return error.clone().into(),
            error if error.is_contention() => Exit::NotLocked,
            _ => Exit::Failed,
        };
        let failure = Self::new(exit, format!("{error:#}"));
        match &error {
            Error::Key(_) | Error::Ttl(_) => failure,
            error if error.is_contention() => failure
                .next("wait longer with --wait, or see who holds it with `ringlock locks --key`"),
            error if lacks_data(error) => failure.next(
                "a process that runs for max_ttl readmits such a node; if none does, use `ringlock readmit --wait`",
            ),
            _ => failure.next("check each node with `ringlock doctor`"),
        }
    }
}

/// Whether a node that lost its data blocks the call.
fn lacks_data(error: &Error) -> bool {
    let causes = match error {
        Error::NoQuorum { causes, .. } | Error::Unconfirmed { causes, .. } => causes,
        Error::TimedOut { last, .. } => return lacks_data(last),
        _ => return false,
    };
    let mut causes = causes.iter().map(|cause| &cause.cause);
    causes.any(|cause| matches!(cause, Cause::NoView | Cause::Quarantined { .. }))
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

/// Where results go, and in what form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) is_json: bool,
}

#[derive(Serialize)]
struct ErrorReport<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
    exit_code: u8,
}

impl Output {
    /// Reports a result: as one JSON document, or as the text that `human`
    /// returns.
    pub(crate) fn report<T: Serialize>(
        self,
        result: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = match self.is_json {
            true => serde_json::to_string_pretty(result)
                .map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))?,
            false => human(result),
        };
        self.print_text(&text)
    }

    /// Prints a result that is a text already.
    pub(crate) fn print_text(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
            // The reader closed the pipe: it has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            reported => Ok(reported?),
        }
    }

    /// Prints a note for people on the standard error, in addition to the
    /// result.
    pub(crate) fn note(self, text: &str) {
        if !self.is_json {
            // There is nowhere left to report this failure.
            let _ = writeln!(io::stderr(), "{}", text.trim_end());
        }
    }

    /// Reports on the standard error why something could not be done.
    pub(crate) fn fail(self, failure: &Failure) -> ExitCode {
        let Failure {
            exit,
            message,
            next,
            code,
        } = failure;
        let exit_code = code.unwrap_or(*exit as u8);
        let reported = ErrorReport {
            error: message,
            next: next.as_deref(),
            exit_code,
        };
        let text = match serde_json::to_string(&reported) {
            Ok(json) if self.is_json => json,
            _ => {
                let next = next.iter().map(|next| format!("\n  next: {next}"));
                format!("error: {message}{}", next.collect::<String>())
            }
        };
        // There is nowhere left to report this failure.
        let _ = writeln!(io::stderr(), "{text}");
        exit_code.into()
    }
}

/// A table with these column heads.
pub(crate) fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(heads);
    table
}

/// A text that is safe for a terminal, whatever bytes it came from: invalid
/// UTF-8 is replaced, control characters are escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for char in String::from_utf8_lossy(bytes).chars() {
        match char.is_control() {
            true => text.extend(char.escape_default()),
            false => text.push(char),
        }
    }
    text
}

/// A span in readable form, to the millisecond.
pub(crate) fn span(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    format!("{:?}", Duration::from_millis(millis))
}

/// The value, or a dash if there is none.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code_once() {
        let help = exit_codes();
        for (index, (exit, meaning)) in EXITS.into_iter().enumerate() {
            let code = exit as usize;
            assert!(code == index || code > 125, "{exit:?}");
            assert!(help.contains(&format!("\n  {code}  {meaning}")), "{help}");
        }
    }

    #[test]
    fn no_key_can_drive_a_terminal() {
        assert_eq!(printable(b"a\x1b[2J\n\xff"), "a\\u{1b}[2J\\n\u{fffd}");
        assert_eq!(printable("schl\u{fc}ssel".as_bytes()), "schl\u{fc}ssel");
    }
}
