//! One task of a worker: its random requests.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::index;
use ringlock::Acquire;
use tokio::task::JoinSet;

use crate::history::Ask;
use crate::observer::label;
use crate::recorder::{Manner, Recorder, culprit};
use crate::settings::{HOT_KEYS, KEYS, MAX_TTL, key};

/// The shortest ttl.
const LEAST_TTL: u64 = 300;

/// Keys of a call for many: as many as a label has room for.
const MANY: usize = 4;

pub(crate) struct LeaseHandle {
    recorder: Arc<Recorder>,
    random: StdRng,
}

impl LeaseHandle {
    pub(crate) fn new(recorder: Arc<Recorder>, random: StdRng) -> Self {
        Self { recorder, random }
    }

    pub(crate) async fn run(mut self) {
        while !self.recorder.is_over() {
            self.recorder.turn().await;
            self.once().await;
        }
    }

    async fn once(&mut self) {
        let ttl = self.millis(LEAST_TTL..MAX_TTL.as_millis() as u64 + 1);
        let most = if self.random.random_bool(0.3) {
            4_000
        } else {
            400
        };
        let wait = self.millis(0..most);
        let key = self.key();
        let mut manner = self.brief();
        let acquire = self.recorder.router.acquire(&key).ttl(ttl).wait(wait);
        match self.random.random_range(0..100) {
            0..36 => self.take(&key, ttl, wait, acquire, manner).await,
            36..52 => {
                let acquire = self.recorder.router.try_acquire(&key).ttl(ttl);
                self.take(&key, ttl, Duration::ZERO, acquire, manner).await;
            }
            52..62 => {
                manner.hold = ttl.mul_f64(self.random.random_range(0.5..2.5));
                manner.writes_late = true;
                self.take(&key, ttl, wait, acquire.keep_alive(), manner)
                    .await;
            }
            62..68 => {
                manner.extends = self.random.random_range(1..4);
                manner.hold = ttl.mul_f64(self.random.random_range(0.3..1.5));
                self.take(&key, ttl, wait, acquire, manner).await;
            }
            68..78 => self.abandon(&key, ttl, wait, acquire, manner).await,
            78..84 => self.with(&key, ttl, wait, acquire, manner).await,
            84..88 => self.many(ttl, wait, manner).await,
            88..92 => self.all(ttl, wait, manner).await,
            92..95 => {
                manner.hold = ttl.mul_f64(1.5);
                let limit = ttl.mul_f64(self.random.random_range(0.3..1.2));
                let acquire = acquire.keep_alive().max_hold(limit);
                self.take(&key, ttl, wait, acquire, manner).await;
            }
            // The holder sleeps past its lease, and writes then.
            _ => {
                let ttl = self.millis(LEAST_TTL..800);
                manner.hold = ttl.mul_f64(self.random.random_range(1.0..3.0));
                manner.writes_late = true;
                self.take(&key, ttl, wait, acquire.ttl(ttl), manner).await;
            }
        }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    fn key(&mut self) -> String {
        let keys = if self.random.random_bool(0.4) {
            HOT_KEYS
        } else {
            KEYS
        };
        key(self.random.random_range(0..keys))
    }

    /// Distinct keys, in the order of a set.
    fn keys(&mut self) -> Vec<String> {
        let many = self.random.random_range(1..=MANY);
        let mut keys: Vec<_> = index::sample(&mut self.random, KEYS, many)
            .into_iter()
            .map(key)
            .collect();
        keys.sort();
        keys
    }

    fn brief(&mut self) -> Manner {
        let most = if self.random.random_bool(0.9) {
            20
        } else {
            250
        };
        Manner {
            hold: self.millis(0..most),
            extends: 0,
            writes_late: self.random.random_bool(0.2),
            is_dropped: self.random.random_bool(0.25),
        }
    }

    async fn take(
        &self,
        key: &str,
        ttl: Duration,
        wait: Duration,
        acquire: Acquire,
        manner: Manner,
    ) {
        let ask = self.recorder.asked(&[key.into()], ttl, wait);
        match acquire.label(&format!("{ask:x}")).await {
            Ok(guard) => self.recorder.tend(ask, guard, &manner).await,
            Err(error) => self.recorder.refused(ask, key, &error),
        }
    }

    /// Drops the future at a random point: after some time, or after some
    /// polls.
    async fn abandon(
        &mut self,
        key: &str,
        ttl: Duration,
        wait: Duration,
        acquire: Acquire,
        manner: Manner,
    ) {
        let limit = self.millis(0..60);
        let mut polls = match self.random.random_range(0..12) {
            few @ 1..6 => few,
            _ => u32::MAX,
        };
        let ask = self.recorder.asked(&[key.into()], ttl, wait);
        let acquired = {
            let acquire = acquire.label(&format!("{ask:x}"));
            let mut acquire = pin!(acquire.into_future());
            let polled = poll_fn(|context| {
                if polls == 0 {
                    return Poll::Ready(None);
                }
                polls -= 1;
                acquire.as_mut().poll(context).map(Some)
            });
            tokio::time::timeout(limit, polled).await.ok().flatten()
        };
        match acquired {
            Some(Ok(guard)) => self.recorder.tend(ask, guard, &manner).await,
            Some(Err(error)) => self.recorder.refused(ask, key, &error),
            None => self.recorder.abandoned(ask),
        }
    }

    async fn with(
        &self,
        key: &str,
        ttl: Duration,
        wait: Duration,
        acquire: Acquire,
        manner: Manner,
    ) {
        let recorder = &self.recorder;
        let ask = recorder.asked(&[key.into()], ttl, wait);
        let mut has_run = false;
        let acquire = acquire.label(&format!("{ask:x}"));
        let result = acquire
            .with(async |guard| {
                has_run = true;
                recorder.granted(ask, guard);
                recorder.hold(ask, guard, &manner).await;
                recorder.ended(ask);
            })
            .await;
        if let (Err(error), false) = (result, has_run) {
            recorder.refused(ask, key, &error.into());
        }
    }

    /// Many keys, each on its own.
    async fn many(&mut self, ttl: Duration, wait: Duration, manner: Manner) {
        let keys = self.keys();
        let recorder = &self.recorder;
        let first = recorder.asked(&keys, ttl, wait);
        let acquire = recorder
            .router
            .acquire_many(keys.clone())
            .ttl(ttl)
            .wait(wait);
        let mut outcomes = acquire.label(&label(first, &keys)).outcomes();
        let mut tending = JoinSet::new();
        while let Some((key, result)) = outcomes.next().await {
            let ask = ask_of(first, &keys, &key);
            match result {
                Ok(guard) => {
                    let (recorder, manner) = (Arc::clone(recorder), manner.clone());
                    tending.spawn(async move { recorder.tend(ask, guard, &manner).await });
                }
                Err(error) => recorder.refused(ask, &key, &error),
            }
        }
        tending.join_all().await;
    }

    /// All of them, or none.
    async fn all(&mut self, ttl: Duration, wait: Duration, mut manner: Manner) {
        // Such a call holds keys while it waits for others.
        let ttl = ttl.max(Duration::from_millis(1_000));
        manner.hold = manner.hold.min(Duration::from_millis(50));
        let keys = self.keys();
        let recorder = &self.recorder;
        let first = recorder.asked(&keys, ttl, wait);
        let acquire = recorder.router.acquire_all(&keys).ttl(ttl).wait(wait);
        match acquire.label(&label(first, &keys)).await {
            Ok(set) => recorder.tend_all(first, &keys, set, &manner).await,
            Err(error) => {
                // The error concerns one key; the other requests are abandoned.
                let culprit = culprit(&error);
                for (ask, key) in (first..).zip(&keys) {
                    if culprit.as_ref() == Some(key) {
                        recorder.refused(ask, key, &error);
                    } else {
                        recorder.abandoned(ask);
                    }
                }
            }
        }
    }
}

fn ask_of(first: Ask, keys: &[String], key: &str) -> Ask {
    let index = keys.iter().position(|one| one == key);
    first + index.expect("a key of the call") as Ask
}
