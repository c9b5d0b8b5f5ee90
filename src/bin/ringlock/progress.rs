//! Reports the progress of something that takes time: a bar at a terminal,
//! lines elsewhere, nothing with `--json`.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ringlock::rebalancer::{Phase, Progress};

use crate::output::{Output, span};

/// Reports progress.
#[derive(Debug)]
pub(crate) struct ProgressReporter {
    output: Output,
    bar: Option<ProgressBar>,
    /// The last report, and how long was left when it began.
    reported: String,
    whole: Duration,
}

impl ProgressReporter {
    pub(crate) fn new(output: Output) -> Self {
        let bar = (io::stderr().is_terminal() && !output.is_json).then(bar);
        Self {
            output,
            bar,
            reported: String::new(),
            whole: Duration::ZERO,
        }
    }

    pub(crate) fn change(&mut self, progress: &Progress) {
        let phase = match &progress.phase {
            Phase::Beginning => "nodes are prepared".into(),
            Phase::Quarantine => "new nodes wait until old locks have expired".into(),
            Phase::Joint => "both replica sets agree until old leases are over".into(),
            Phase::Settling => "the next view is distributed".into(),
            phase => phase.to_string(),
        };
        let what = format!("epoch {}: {phase}", progress.view.epoch);
        self.report(&what, progress.remaining);
    }

    /// The same, for the wait for nodes that lost their data.
    pub(crate) fn readmission(&mut self, progress: &Progress) {
        match progress.phase {
            Phase::Quarantine => self.report(
                "nodes that lost their data wait until old locks have expired",
                progress.remaining,
            ),
            _ => self.change(progress),
        }
    }

    /// Reports what is going on, and how long it takes at least.
    pub(crate) fn report(&mut self, what: &str, left: Option<Duration>) {
        let is_new = what != self.reported;
        if is_new {
            self.reported = what.into();
            self.whole = left.unwrap_or_default();
        }
        let left = left.unwrap_or_default();
        // An estimate may turn out to be too short.
        self.whole = self.whole.max(left);
        match &self.bar {
            Some(bar) => {
                bar.set_length(millis(self.whole));
                bar.set_position(millis(self.whole - left));
                bar.set_message(match left.is_zero() {
                    true => what.to_owned(),
                    false => format!("{what}, {} left", span(left)),
                });
            }
            None if is_new && left.is_zero() => self.output.note(what),
            None if is_new => self.output.note(&format!("{what}, {} left", span(left))),
            None => {}
        }
    }
}

impl Drop for ProgressReporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The template is a constant; without it the bar has its default style.
    if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
