//! The signals that `exec` passes on.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// The signals that options may name.
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

/// The signals that this program passes on, so that they do not end it without
/// its command.
pub(super) const FORWARDED: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

pub(super) fn signal_by_name(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = SIGNALS.iter().find(|(known, _)| *known == name);
    found.map(|&(_, signal)| signal).ok_or_else(|| {
        let names = SIGNALS.map(|(name, _)| name).join(", ");
        format!("one of {names}")
    })
}

/// The exit code for a process that a signal killed, as shells define it.
pub(super) fn killed_by(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Handlers for signals. Unlike an ignored signal, a handler is not inherited
/// by a command.
pub(super) struct Signals {
    streams: Vec<(Signal, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Listens to [`FORWARDED`] and to `more`, except for the signals that were
    /// ignored when this program started: those stay ignored, here and in the
    /// command, as `nohup` requires.
    pub(super) fn listen(more: &[Signal]) -> std::io::Result<Self> {
        let ignored = Ignored::read();
        let mut streams = Vec::new();
        for name in FORWARDED.iter().chain(more) {
            if !ignored.has(*name) {
                streams.push((*name, signal(SignalKind::from_raw(name.as_raw()))?));
            }
        }
        Ok(Self { streams })
    }

    /// The next signal that ends this program. Cancel safe.
    pub(super) async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::TSTP => {}
                signal => return signal,
            }
        }
    }

    /// The next signal. Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
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

/// Which signals this program ignores: bit n - 1 is signal n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ignored(u64);

impl Ignored {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::of_status(&status).unwrap_or_else(Self::by_shell)
    }

    /// As Linux reports it.
    fn of_status(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        u64::from_str_radix(line?.trim(), 16).ok().map(Self)
    }

    /// As a shell finds out: it inherits the ignored signals and cannot trap
    /// them.
    fn by_shell() -> Self {
        let names = FORWARDED.map(|signal| signal.as_raw().to_string());
        let script = format!(
            "for s in {}; do trap \"echo $s\" $s; kill -$s $$; done",
            names.join(" ")
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        shell.stdin(Stdio::null()).stderr(Stdio::null());
        let Ok(output) = shell.output() else {
            return Self(0);
        };
        let reported = String::from_utf8_lossy(&output.stdout);
        let trapped: Vec<i32> = reported
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        let ignored = FORWARDED
            .iter()
            .filter(|signal| !trapped.contains(&signal.as_raw()));
        Self(ignored.fold(0, |mask, signal| mask | bit(*signal)))
    }

    fn has(self, signal: Signal) -> bool {
        self.0 & bit(signal) != 0
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
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

    #[test]
    fn what_is_ignored_is_read_from_the_status() {
        let ignored = Ignored::of_status("SigBlk:\t0\nSigIgn:\t0000000000001001\n").unwrap();
        assert!(ignored.has(Signal::HUP) && !ignored.has(Signal::INT));
        assert_eq!(Ignored::of_status("SigIgn: x"), None);
        assert_eq!(Ignored::of_status(""), None);
    }

    #[test]
    fn a_shell_reports_the_same_as_the_system() {
        let (read, reported) = (Ignored::read(), Ignored::by_shell());
        for signal in FORWARDED {
            assert_eq!(read.has(signal), reported.has(signal), "{signal:?}");
        }
    }
}
