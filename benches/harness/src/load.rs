//! Puts a locker under load, in a closed or an open loop, and records the
//! results.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::checker::{Checker, Faults};
use super::keys::{KeySpace, Lane};
use crate::Fault;

/// Something that acquires and releases locks.
pub trait Locker: Clone + Send + Sync + 'static {
    /// A lock that is held.
    type Lease: Send;

    /// Locks the key with this number for the task with this number.
    fn acquire(
        &self,
        task: usize,
        key: usize,
    ) -> impl Future<Output = Result<Self::Lease, Fault>> + Send;

    /// The fencing token, if the locker has one.
    fn fence(_: &Self::Lease) -> Option<u64> {
        None
    }

    /// Releases a lock.
    fn release(
        &self,
        lease: Self::Lease,
    ) -> impl Future<Output = Result<ReleaseOutcome, Fault>> + Send;
}

/// The result of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The lock was held until its release.
    InTime,
    /// The lock had lapsed, or another client held it.
    Late,
    /// The contender's release does not report whether it was in time.
    Untold,
}

/// The load of one turn.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The number of concurrent tasks.
    pub tasks: usize,
    /// How long each lock is held.
    pub hold: Duration,
    /// Not counted.
    pub warm_up: Duration,
    /// How long is counted, after the warm-up.
    pub span: Duration,
    /// When each task begins its next pair.
    pub pace: Pace,
}

/// When a task begins its next pair of acquire and release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as the previous one is over.
    Closed,
    /// On a schedule of this many per second, whatever the outcome of earlier
    /// pairs. The latency of a late pair counts from its intended start.
    Open(f64),
}

/// One finished pair.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was over, from the start of the turn.
    pub done: Duration,
    /// How long the acquire took, from its (intended) start.
    pub acquire: Duration,
}

/// The results of one turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// The pairs that succeeded.
    pub samples: Vec<Sample>,
    /// The number of pairs that succeeded before all tasks were under way; their
    /// times are not recorded.
    pub prepared: u64,
    /// The number of pairs that failed.
    pub failures: u64,
    /// Describes the first of them.
    pub first_failure: Option<String>,
    /// What another process used, if the turn was carried out by one.
    pub processor_time: Option<Duration>,
    warm_up: Duration,
    span: Duration,
}

impl Turn {
    /// The results of a turn under `load` before its first pair.
    pub fn new(load: &Load) -> Self {
        Self {
            warm_up: load.warm_up,
            span: load.span,
            ..Self::default()
        }
    }

    /// Pairs per second that finished between the warm-up and the end.
    pub fn pairs_per_second(&self) -> f64 {
        let counted = self.warm_up..self.warm_up + self.span;
        let samples = self.samples.iter();
        let done = samples.filter(|sample| counted.contains(&sample.done));
        done.count() as f64 / self.span.as_secs_f64()
    }

    /// The number of all pairs that succeeded.
    pub fn pairs(&self) -> u64 {
        self.prepared + self.samples.len() as u64
    }

    /// How long the acquires took after the warm-up. Those that finished after
    /// the end count too: they began before it, and are the slowest of all.
    pub fn latencies(&self) -> impl Iterator<Item = Duration> {
        let after = |sample: &&Sample| sample.done >= self.warm_up;
        let samples = self.samples.iter().filter(after);
        samples.map(|sample| sample.acquire)
    }

    fn add(&mut self, log: Turn) {
        self.samples.extend(log.samples);
        self.prepared += log.prepared;
        self.failures += log.failures;
        self.first_failure = self.first_failure.take().or(log.first_failure);
    }

    fn fail(&mut self, fault: &Fault) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| fault.to_string());
    }
}

/// A future of a method of [`Contender`].
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that takes turns.
pub trait Contender: Send + Sync {
    /// Runs one turn under `load`.
    fn turn<'a>(&'a self, load: &'a Load) -> Boxed<'a, Result<Turn, Fault>>;

    /// What must never happen and did, so far.
    fn faults(&self) -> Faults;

    /// How many grants each node made; `owners` has the owner of each key.
    fn grants(&self, _owners: &[u8]) -> Vec<u64> {
        Vec::new()
    }
}

/// A locker whose results are checked.
#[derive(Debug)]
pub struct Checked<L> {
    locker: L,
    keys: Arc<KeySpace>,
    checker: Arc<Checker>,
}

impl<L: Locker> Checked<L> {
    /// Checks the locks that `locker` grants for `keys`.
    pub fn new(locker: L, keys: Arc<KeySpace>) -> Self {
        let checker = Arc::new(Checker::new(keys.len()));
        Self {
            locker,
            keys,
            checker,
        }
    }

    async fn run(&self, load: &Load) -> Result<Turn, Fault> {
        let schedule = Arc::new(Schedule::new(load));
        let mut tasks = JoinSet::new();
        for index in 0..load.tasks {
            let visitor = Visitor {
                locker: self.locker.clone(),
                keys: Arc::clone(&self.keys),
                checker: Arc::clone(&self.checker),
                schedule: Arc::clone(&schedule),
                lane: Lane {
                    index,
                    of: load.tasks,
                },
                hold: load.hold,
            };
            tasks.spawn(visitor.run());
        }
        if let Pace::Open(_) = load.pace {
            // On its own thread: the runtime's timer counts whole milliseconds.
            let schedule = Arc::clone(&schedule);
            std::thread::spawn(move || schedule.announce());
        }
        let mut turn = Turn::new(load);
        while let Some(log) = tasks.join_next().await {
            turn.add(log?);
        }
        Ok(turn)
    }
}

impl<L: Locker> Contender for Checked<L> {
    fn turn<'a>(&'a self, load: &'a Load) -> Boxed<'a, Result<Turn, Fault>> {
        Box::pin(self.run(load))
    }

    fn faults(&self) -> Faults {
        self.checker.faults()
    }

    fn grants(&self, owners: &[u8]) -> Vec<u64> {
        self.checker.grants(owners)
    }
}

/// How long a turn waits for all of its tasks to finish a first pair. A contender
/// that starves some of them is measured all the same.
const LONGEST_PREPARATION: Duration = Duration::from_secs(2);

/// When the pairs of a turn begin.
#[derive(Debug)]
struct Schedule {
    /// When the recorded part of the turn begins: in a closed loop, when each task
    /// has finished a first pair. A runtime under load polls tasks that are new
    /// more rarely than those that are under way.
    begin: OnceLock<Instant>,
    /// How long that part lasts.
    length: Duration,
    /// When it begins at the latest.
    latest: Instant,
    /// The tasks that have not finished a first pair.
    unprepared: AtomicUsize,
    pace: Pace,
    /// The pairs of an open loop that are due and not yet begun.
    due: Semaphore,
    next: AtomicUsize,
}

impl Schedule {
    fn new(load: &Load) -> Self {
        let now = Instant::now();
        Self {
            begin: match load.pace {
                Pace::Closed => OnceLock::new(),
                Pace::Open(_) => OnceLock::from(now),
            },
            length: load.warm_up + load.span,
            latest: now + LONGEST_PREPARATION,
            unprepared: AtomicUsize::new(load.tasks),
            pace: load.pace,
            due: Semaphore::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// A task has finished its first pair, or failed to.
    fn prepared(&self) {
        if self.unprepared.fetch_sub(1, Relaxed) == 1 {
            self.begin.get_or_init(Instant::now);
        }
    }

    /// When the recorded part began, if it has by `now`.
    fn begin(&self, now: Instant) -> Option<Instant> {
        if now >= self.latest {
            self.begin.get_or_init(|| now);
        }
        self.begin.get().copied()
    }

    /// The intended start of the next pair; `None` when the turn is over.
    async fn next(&self, now: Instant) -> Option<Instant> {
        let begin = self.begin(now);
        let is_in_time = |start| begin.is_none_or(|begin| start < begin + self.length);
        let Pace::Open(rate) = self.pace else {
            return is_in_time(now).then_some(now);
        };
        self.due.acquire().await.ok()?.forget();
        let index = self.next.fetch_add(1, Relaxed);
        let intended = begin? + Duration::from_secs_f64(index as f64 / rate);
        // Every pair that fell due in time is carried out, however late.
        is_in_time(intended).then_some(intended)
    }

    /// Announces each pair of an open loop when it is due.
    fn announce(&self) {
        let (Pace::Open(rate), Some(begin)) = (self.pace, self.begin.get()) else {
            return;
        };
        let mut announced = 0;
        loop {
            let elapsed = begin.elapsed().min(self.length);
            // The first one is due at once.
            let due = (elapsed.as_secs_f64() * rate) as usize + 1;
            self.due.add_permits(due - announced);
            announced = due;
            if elapsed == self.length {
                // Wakes the tasks that still wait, so that they see the end.
                self.due.add_permits(Semaphore::MAX_PERMITS / 2);
                return;
            }
            let next = Duration::from_secs_f64(announced as f64 / rate);
            let pause = next.saturating_sub(begin.elapsed());
            std::thread::sleep(pause.clamp(Duration::from_micros(50), Duration::from_millis(50)));
        }
    }
}

/// One task of a turn.
struct Visitor<L> {
    locker: L,
    keys: Arc<KeySpace>,
    checker: Arc<Checker>,
    schedule: Arc<Schedule>,
    lane: Lane,
    hold: Duration,
}

impl<L: Locker> Visitor<L> {
    async fn run(self) -> Turn {
        let mut log = Turn::default();
        let mut now = Instant::now();
        let mut is_first = true;
        while let Some(start) = self.schedule.next(now).await {
            let paired = self.pair(start).await;
            if std::mem::take(&mut is_first) {
                self.schedule.prepared();
            }
            match paired {
                Ok(acquire) => {
                    now = Instant::now();
                    match self.schedule.begin(now) {
                        // Even if it began before: who waits longest is the last to
                        // be left out.
                        Some(begin) => {
                            let done = now.saturating_duration_since(begin);
                            log.samples.push(Sample { done, acquire });
                        }
                        None => log.prepared += 1,
                    }
                }
                Err(fault) => {
                    log.fail(&fault);
                    // A lost node refuses at once: the pause prevents a storm
                    // of retries.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    now = Instant::now();
                }
            }
        }
        log
    }

    async fn pair(&self, start: Instant) -> Result<Duration, Fault> {
        let key = self.keys.draw(self.lane);
        let holder = self.lane.index as u64 + 1;
        let lease = self.locker.acquire(self.lane.index, key).await?;
        let acquired = start.elapsed();
        self.checker.enter(key, holder, L::fence(&lease));
        hold(self.hold).await;
        self.checker.leave(key, holder);
        if self.locker.release(lease).await? == ReleaseOutcome::Late {
            self.checker.late(key);
        }
        Ok(acquired)
    }
}

/// How late the runtime's timer may be.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// Holds a lock for exactly `time`: a sleep of one millisecond would take two.
/// The last part is spent yielding, so that other tasks run.
pub(crate) async fn hold(time: Duration) {
    if time.is_zero() {
        return;
    }
    let begin = Instant::now();
    if time > TIMER_SLACK {
        tokio::time::sleep(time - TIMER_SLACK).await;
    }
    while begin.elapsed() < time {
        tokio::task::yield_now().await;
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pace {
            Pace::Closed => f.write_str("closed")?,
            Pace::Open(rate) => write!(f, "open {rate:.0}/s")?,
        }
        if !self.hold.is_zero() {
            write!(f, " hold {}", humantime::format_duration(self.hold))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Grants every acquire.
    #[derive(Clone)]
    struct Careless {
        /// Added to the fence at each grant.
        step: i64,
        fence: Arc<AtomicU64>,
        farewell: ReleaseOutcome,
    }

    impl Locker for Careless {
        type Lease = u64;

        async fn acquire(&self, _: usize, _: usize) -> Result<u64, Fault> {
            Ok(self.fence.fetch_add(self.step.cast_unsigned(), Relaxed))
        }

        fn fence(lease: &u64) -> Option<u64> {
            Some(*lease)
        }

        async fn release(&self, _: u64) -> Result<ReleaseOutcome, Fault> {
            tokio::task::yield_now().await;
            Ok(self.farewell)
        }
    }

    fn play(tasks: usize, step: i64, farewell: ReleaseOutcome, pace: Pace) -> (Turn, Faults) {
        let locker = Careless {
            step,
            fence: Arc::new(AtomicU64::new(1 << 32)),
            farewell,
        };
        let checked = Checked::new(locker, Arc::new(KeySpace::new("k", 1, 0.0)));
        let load = Load {
            tasks,
            hold: Duration::from_micros(50),
            warm_up: Duration::ZERO,
            span: Duration::from_millis(10),
            pace,
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let turn = runtime.block_on(checked.turn(&load)).unwrap();
        (turn, checked.faults())
    }

    #[test]
    fn an_honest_locker_is_clean() {
        let (turn, faults) = play(1, 1, ReleaseOutcome::InTime, Pace::Closed);
        assert!(turn.pairs_per_second() > 0.0);
        assert!(faults.is_clean(), "{faults:?}");
    }

    #[test]
    fn two_holders_at_once_are_seen() {
        let (_, faults) = play(2, 1, ReleaseOutcome::InTime, Pace::Closed);
        assert!(faults.overlaps > 0);
    }

    #[test]
    fn fences_that_go_back_are_seen() {
        let (_, faults) = play(1, -1, ReleaseOutcome::InTime, Pace::Closed);
        assert!(faults.reversals > 0 && faults.overlaps == 0);
    }

    #[test]
    fn late_releases_are_seen() {
        let (_, faults) = play(1, 1, ReleaseOutcome::Late, Pace::Closed);
        assert!(faults.late_releases > 0);
    }

    #[test]
    fn an_open_loop_carries_out_what_was_due() {
        // 20 pairs fall due within 10 ms, and each takes one task 50 us.
        let (turn, faults) = play(1, 1, ReleaseOutcome::InTime, Pace::Open(2000.0));
        assert_eq!((turn.samples.len(), turn.failures), (20, 0));
        assert!(faults.is_clean(), "{faults:?}");
    }
}
