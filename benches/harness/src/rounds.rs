//! Contenders take turns in short rounds: a shared machine changes its speed
//! from one second to the next, and only figures that are measured side by side
//! are comparable. Every ratio is the median of the rounds' ratios.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde::Serialize;

use super::checker::Faults;
use super::load::{Contender, Load, Turn};
use super::probe::{Probe, Work};
use super::resources::processor_time;
use super::statistics::median;
use crate::Fault;

/// How long one contender's turn is, and how many turns it gets.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) span: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) rounds: usize,
}

/// One contender under one load, and the results of its rounds.
pub(crate) struct Entry {
    pub(crate) about: About,
    pub(crate) load: Load,
    pub(crate) contender: Arc<dyn Contender>,
    /// The servers that it uses.
    pub(crate) probes: Vec<Arc<Probe>>,
    rounds: Vec<Round>,
    acquire: Histogram<u64>,
    first_failure: Option<String>,
}

/// What is measured, in words and numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct About {
    pub(crate) scene: &'static str,
    pub(crate) contender: String,
    pub(crate) nodes: usize,
    /// Zero where replicas do not apply.
    pub(crate) replicas: usize,
}

/// One turn, reduced to what is compared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) pairs_per_s: f64,
    pub(crate) acquire_p50_us: f64,
    pub(crate) acquire_p99_us: f64,
    commands_per_pair: Option<f64>,
    bytes_per_pair: Option<f64>,
    client_us_per_pair: f64,
    server_us_per_pair: Option<f64>,
    failures: u64,
}

/// The medians of an entry's rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    #[serde(flatten)]
    pub(crate) about: About,
    pub(crate) tasks: usize,
    pub(crate) load: String,
    pub(crate) pairs_per_s: f64,
    pub(crate) acquire_p50_us: f64,
    pub(crate) acquire_p99_us: f64,
    pub(crate) acquire_p999_us: f64,
    pub(crate) commands_per_pair: Option<f64>,
    pub(crate) bytes_per_pair: Option<f64>,
    pub(crate) client_us_per_pair: f64,
    pub(crate) server_us_per_pair: Option<f64>,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
    /// Microseconds, and the share of acquires that took at most as long.
    pub(crate) cdf: Vec<(f64, f64)>,
    pub(crate) rounds: Vec<Round>,
}

impl Entry {
    pub(crate) fn new(
        about: About,
        load: Load,
        contender: Arc<dyn Contender>,
        probes: &[Arc<Probe>],
    ) -> Result<Self, Fault> {
        Ok(Self {
            about,
            load,
            contender,
            probes: probes.to_vec(),
            rounds: Vec::new(),
            acquire: Histogram::new(3)?,
            first_failure: None,
        })
    }

    fn work(&self) -> Result<Work, Fault> {
        let mut all = Work::default();
        for probe in &self.probes {
            all.add(&probe.work()?);
        }
        Ok(all)
    }

    async fn turn(&mut self) -> Result<(), Fault> {
        let before = self.work()?;
        let cpu = processor_time();
        let mut turn = self.contender.turn(&self.load).await?;
        let cpu = processor_time().saturating_sub(cpu);
        let cpu = turn.processor_time.unwrap_or(cpu);
        let work = self.work()?.since(&before);
        let is_served = !self.probes.is_empty();
        self.first_failure = self.first_failure.take().or(turn.first_failure.take());
        self.rounds
            .push(Round::of(&turn, cpu, is_served.then_some(work))?);
        for latency in turn.latencies() {
            self.acquire.record(nanos(latency))?;
        }
        Ok(())
    }

    pub(crate) fn series(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }

    pub(crate) fn throughput(&self) -> Vec<f64> {
        self.series(|round| round.pairs_per_s)
    }

    pub(crate) fn measurement(&self) -> Measurement {
        let of = |of: fn(&Round) -> f64| median(&self.series(of));
        let maybe = |of: fn(&Round) -> Option<f64>| {
            let known: Vec<f64> = self.rounds.iter().filter_map(of).collect();
            (!known.is_empty()).then(|| median(&known))
        };
        let quantile = |q| self.acquire.value_at_quantile(q) as f64 / 1e3;
        let cdf = self.acquire.iter_quantiles(4).map(|step| {
            let micros = step.value_iterated_to() as f64 / 1e3;
            (micros, step.quantile_iterated_to())
        });
        Measurement {
            about: self.about.clone(),
            tasks: self.load.tasks,
            load: self.load.to_string(),
            pairs_per_s: of(|round| round.pairs_per_s),
            acquire_p50_us: quantile(0.5),
            acquire_p99_us: quantile(0.99),
            acquire_p999_us: quantile(0.999),
            commands_per_pair: maybe(|round| round.commands_per_pair),
            bytes_per_pair: maybe(|round| round.bytes_per_pair),
            client_us_per_pair: of(|round| round.client_us_per_pair),
            server_us_per_pair: maybe(|round| round.server_us_per_pair),
            failures: self.rounds.iter().map(|round| round.failures).sum(),
            first_failure: self.first_failure.clone(),
            cdf: cdf.take_while(|(_, share)| *share < 0.9999).collect(),
            rounds: self.rounds.clone(),
        }
    }
}

impl Round {
    fn of(turn: &Turn, cpu: Duration, work: Option<Work>) -> Result<Self, Fault> {
        let mut acquire = Histogram::<u64>::new(3)?;
        for latency in turn.latencies() {
            acquire.record(nanos(latency))?;
        }
        let all = (turn.pairs() as f64).max(1.0);
        let per_pair = |time: Duration| time.as_secs_f64() * 1e6 / all;
        Ok(Self {
            pairs_per_s: turn.pairs_per_second(),
            acquire_p50_us: acquire.value_at_quantile(0.5) as f64 / 1e3,
            acquire_p99_us: acquire.value_at_quantile(0.99) as f64 / 1e3,
            commands_per_pair: work.as_ref().map(|work| work.commands as f64 / all),
            bytes_per_pair: work.as_ref().map(|work| work.bytes as f64 / all),
            client_us_per_pair: per_pair(cpu),
            server_us_per_pair: work.map(|work| per_pair(work.cpu)),
            failures: turn.failures,
        })
    }
}

/// Lets all entries take their turns, in reverse order every other round, and
/// adds up their faults.
pub(crate) async fn compete(
    plan: &Plan,
    entries: &mut [Entry],
    progress: &ProgressBar,
) -> Result<Faults, Fault> {
    for round in 0..plan.rounds {
        let mut order: Vec<&mut Entry> = entries.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for entry in order {
            let About {
                scene, contender, ..
            } = &entry.about;
            progress.set_message(format!("{scene}: {contender}, {} tasks", entry.load.tasks));
            let name = format!("{scene}, {contender}");
            entry
                .turn()
                .await
                .map_err(|fault| format!("{name}: {fault}"))?;
            progress.inc(1);
        }
    }
    let mut faults = Faults::default();
    let mut seen: Vec<&Arc<dyn Contender>> = Vec::new();
    for contender in entries.iter().map(|entry| &entry.contender) {
        if !seen.iter().any(|known| Arc::ptr_eq(known, contender)) {
            faults.add(&contender.faults());
            seen.push(contender);
        }
    }
    Ok(faults)
}

/// The entry with the highest median throughput.
pub(crate) fn best<'e>(entries: impl Iterator<Item = &'e Entry>) -> Option<&'e Entry> {
    entries.max_by(|a, b| median(&a.throughput()).total_cmp(&median(&b.throughput())))
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
