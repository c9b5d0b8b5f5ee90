//! Records the life of a lease, from the request to the release.

use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ringlock::{Error, Guard, GuardSet, Key, Loss, Released, Router};
use tokio::time::Instant;

use crate::fenced_store;
use crate::history::{Action, Ask, Refusal, Release};
use crate::log::Log;
use crate::process::Reported;
use crate::settings::RATE;

/// How often a held lease is inspected.
const GLANCE: Duration = Duration::from_millis(15);

/// How a lease is used.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// How long it is held.
    pub(crate) hold: Duration,
    /// How often it is extended by hand in that time.
    pub(crate) extends: u32,
    /// Whether its holder writes once more at the end of the hold.
    pub(crate) writes_late: bool,
    /// Whether it is dropped instead of released.
    pub(crate) is_dropped: bool,
}

/// The state that a worker's tasks share.
pub(crate) struct Recorder {
    pub(crate) router: Router,
    log: Arc<Log>,
    register: PathBuf,
    number: u32,
    asks: AtomicU32,
    /// When the next request may be made.
    next: Mutex<Instant>,
    is_over: Arc<AtomicBool>,
}

impl Recorder {
    pub(crate) fn new(
        reported: &Reported,
        router: Router,
        log: Arc<Log>,
        is_over: Arc<AtomicBool>,
    ) -> Self {
        Self {
            router,
            log,
            register: fenced_store::socket(&reported.sockets),
            number: reported.number,
            asks: AtomicU32::new(1),
            next: Mutex::new(Instant::now()),
            is_over,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until another request may be made.
    pub(crate) async fn turn(&self) {
        let at = {
            let mut next = self.next.lock();
            let at = (*next).max(Instant::now());
            *next = at + Duration::from_secs(1) / RATE;
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// Records that keys are about to be requested; returns the first ask, from
    /// which the others are counted.
    pub(crate) fn asked(&self, keys: &[String], ttl: Duration, wait: Duration) -> Ask {
        let count = self.asks.fetch_add(keys.len() as u32, Ordering::Relaxed);
        let first = Ask::from(self.number) << 32 | Ask::from(count);
        for (ask, key) in (first..).zip(keys) {
            self.log.write(Action::Asked {
                ask,
                key: key.clone(),
                ttl: ttl.as_nanos() as u64,
                wait: wait.as_nanos() as u64,
            });
        }
        first
    }

    fn standing(&self, key: &[u8]) -> (String, Vec<String>) {
        let route = self.router.route(key).expect("a key");
        let replicas = route.replicas.iter().map(ToString::to_string).collect();
        (route.view.to_string(), replicas)
    }

    fn granted_to(&self, ask: Ask, key: &Key, fence: u64, until: u64) {
        let (view, replicas) = self.standing(key.as_bytes());
        self.log.write(Action::Granted {
            ask,
            fence,
            until,
            view,
            replicas,
        });
    }

    pub(crate) fn granted(&self, ask: Ask, guard: &Guard) {
        let (fence, until) = (guard.fence().get(), guard.valid_until().as_nanos());
        self.granted_to(ask, guard.key(), fence, until);
    }

    pub(crate) fn refused(&self, ask: Ask, key: &str, error: &Error) {
        let (view, replicas) = self.standing(key.as_bytes());
        let is_its_own = culprit(error).is_none_or(|culprit| culprit == key);
        self.log.write(Action::Refused {
            ask,
            refusal: if is_its_own {
                refusal(error)
            } else {
                Refusal::Behind
            },
            view,
            replicas,
            error: format!("{error:#}"),
        });
    }

    pub(crate) fn abandoned(&self, ask: Ask) {
        self.log.write(Action::Abandoned { ask });
    }

    pub(crate) fn ended(&self, ask: Ask) {
        self.log.write(Action::Ended { ask });
    }

    /// Holds a granted lease, and releases it.
    pub(crate) async fn tend(&self, ask: Ask, guard: Guard, manner: &Manner) {
        self.granted(ask, &guard);
        self.hold(ask, &guard, manner).await;
        self.ended(ask);
        if manner.is_dropped {
            return drop(guard);
        }
        let how = release(guard.release().await);
        self.log.write(Action::Released { ask, how });
    }

    /// Writes, holds it, and writes again; records what happens to the lease.
    pub(crate) async fn hold(&self, ask: Ask, guard: &Guard, manner: &Manner) {
        let mut eye = Eye::new(self, ask, guard);
        eye.during(self.offer(ask, guard)).await;
        let share = manner.hold / (manner.extends + 1);
        for extends in (0..=manner.extends).rev() {
            eye.during(tokio::time::sleep(share)).await;
            if extends > 0 {
                let extended = eye.during(guard.extend()).await;
                let until = extended.ok().map(|()| guard.valid_until().as_nanos());
                self.log.write(Action::Extended { ask, until });
            }
        }
        if manner.writes_late {
            eye.during(self.offer(ask, guard)).await;
        }
    }

    async fn offer(&self, ask: Ask, guard: &Guard) {
        let (key, fence) = (guard.key().to_string(), guard.fence().get());
        let believed = !guard.remaining().is_zero();
        // If nothing accepts the write, the run is over.
        let _ = fenced_store::offer(&self.register, ask, &key, fence, believed).await;
    }

    /// Holds a whole set, and releases it. Its leases count as valid as long as
    /// the set is.
    pub(crate) async fn tend_all(
        &self,
        first: Ask,
        keys: &[String],
        set: GuardSet,
        manner: &Manner,
    ) {
        let asks = || (first..).zip(keys);
        for ((ask, _), (key, fence)) in asks().zip(set.fences()) {
            let until = set.valid_until().as_nanos();
            self.granted_to(ask, key, fence.get(), until);
        }
        let lost = tokio::time::timeout(manner.hold, set.lost()).await;
        if let Ok((key, _)) = &lost {
            let of_key = |(_, other): &(Ask, &String)| other.as_bytes() == key.as_bytes();
            let (ask, _) = asks().find(of_key).expect("a key of the set");
            self.log.write(Action::Lost { ask });
        }
        asks().for_each(|(ask, _)| self.ended(ask));
        if manner.is_dropped {
            return drop(set);
        }
        let how = release(set.release().await);
        // A set has one result, which does not say which lease it is about.
        if keys.len() == 1 || how == Release::InTime {
            asks().for_each(|(ask, _)| self.log.write(Action::Released { ask, how }));
        }
    }
}

/// Observes a lease, whatever its holder does at the same time.
struct Eye<'a> {
    recorder: &'a Recorder,
    ask: Ask,
    guard: &'a Guard,
    until: ringlock::Instant,
    lost: Pin<Box<dyn Future<Output = Loss> + Send>>,
    is_lost: bool,
}

impl<'a> Eye<'a> {
    fn new(recorder: &'a Recorder, ask: Ask, guard: &'a Guard) -> Self {
        Self {
            recorder,
            ask,
            guard,
            until: guard.valid_until(),
            lost: Box::pin(guard.lost()),
            is_lost: false,
        }
    }

    /// Awaits the future, and records what happens to the lease until then.
    async fn during<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            let (is_reported, output) = tokio::select! {
                biased;
                _ = &mut self.lost, if !self.is_lost => (true, None),
                output = &mut future => (false, Some(output)),
                () = tokio::time::sleep(GLANCE) => (false, None),
            };
            self.glance(is_reported);
            if let Some(output) = output {
                return output;
            }
        }
    }

    fn glance(&mut self, is_reported: bool) {
        let ask = self.ask;
        // Recorded before the loss: the lease may have moved unnoticed until
        // then.
        let moved = self.guard.valid_until();
        if moved > self.until {
            self.until = moved;
            let until = moved.as_nanos();
            self.recorder.log.write(Action::Kept { ask, until });
        }
        if is_reported {
            self.is_lost = true;
            self.recorder.log.write(Action::Lost { ask });
        }
    }
}

fn release(result: Result<Released, Error>) -> Release {
    match result {
        Ok(Released::InTime) => Release::InTime,
        Ok(Released::TooLate) => Release::TooLate,
        Ok(Released::Unknown) | Err(_) => Release::Failed,
    }
}

/// The key that an error names.
pub(crate) fn culprit(error: &Error) -> Option<String> {
    match error {
        Error::TimedOut { last, .. } => culprit(last),
        Error::Contended { key, .. }
        | Error::NoQuorum { key, .. }
        | Error::Unconfirmed { key, .. }
        | Error::TooSlow { key, .. }
        | Error::Lost { key, .. } => Some(key.to_string()),
        _ => None,
    }
}

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::TimedOut { last, .. } => refusal(last),
        Error::Contended { .. } => Refusal::Contended,
        Error::NoQuorum { .. } | Error::Unconfirmed { .. } => Refusal::NoQuorum,
        Error::TooSlow { .. } => Refusal::TooSlow,
        _ => Refusal::Other,
    }
}
