//! Histories of a world in which no claim is broken, generated from a seed.
//!
//! Ninety seconds of five nodes, three to a key. Two are stalled for a while,
//! one loses its data and is let in again by the next view, one is slow, a
//! worker is paused and one is slain. Each key is generated on its own.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::history::{Back, Release};

const KEYS: usize = 6;
const END: Time = 90 * SECOND;
/// No fault occurs from here on.
pub(super) const CALM: Time = 65 * SECOND;

const STALLED: [Time; 2] = [8 * SECOND, 16 * SECOND];
const KILLED: [Time; 2] = [20 * SECOND, 28 * SECOND];
const READMITTED: Time = 34 * SECOND;
const PAUSED: [Time; 2] = [40 * SECOND, 41_500 * MS];
const SLAIN: Time = 45 * SECOND;
const SLOW: [Time; 2] = [50 * SECOND, 58 * SECOND];

/// A node's entry for a key, from when to when.
struct Entry {
    key: usize,
    ask: Ask,
    node: usize,
    from: Time,
    to: Time,
}

struct World {
    rng: StdRng,
    records: Vec<Record>,
    entries: Vec<Entry>,
    asks: BTreeMap<u32, u64>,
    fence: u64,
}

pub(super) fn history(seed: u64) -> Vec<Record> {
    let mut world = World {
        rng: StdRng::seed_from_u64(seed),
        records: Vec::new(),
        entries: Vec::new(),
        asks: BTreeMap::new(),
        fence: 0,
    };
    world.strike();
    for key in 0..KEYS {
        world.play(key);
    }
    world.look();
    world.close();
    world.records
}

fn nodes(key: usize) -> [usize; 3] {
    [key % 5, (key + 1) % 5, (key + 2) % 5]
}

fn is_within(at: Time, [from, to]: [Time; 2]) -> bool {
    (from..to).contains(&at)
}

/// Whether a node answers: b and c stall, d loses its data.
fn answers(node: usize, at: Time) -> bool {
    match node {
        1 | 2 => !is_within(at, STALLED),
        3 => !is_within(at, [KILLED[0], READMITTED]),
        _ => true,
    }
}

fn view(at: Time) -> &'static str {
    if at < READMITTED { "1:v" } else { "2:v" }
}

impl World {
    fn some(&mut self, from: Time, to: Time) -> Time {
        self.rng.random_range(from * MS..to * MS)
    }

    fn record(&mut self, at: Time, by: u32, action: Action) {
        self.records.push(Record { at, by, action });
    }

    /// A worker that is present from `at` on for a while.
    fn worker(&mut self, at: Time) -> u32 {
        let worker = self.rng.random_range(1..=4);
        match worker {
            2 if is_within(at + 2 * SECOND, [PAUSED[0], PAUSED[1] + 2 * SECOND]) => 1,
            3 if at >= SLAIN - 20 * MS => 5,
            worker => worker,
        }
    }

    fn strike(&mut self) {
        let node = |name: &str| name.to_owned();
        let back = Back::Empty;
        let faults = [
            (STALLED, Fault::Stalled { node: node("b") }),
            (STALLED, Fault::Stalled { node: node("c") }),
            (
                KILLED,
                Fault::Killed {
                    node: node("d"),
                    back,
                },
            ),
            (PAUSED, Fault::Paused { worker: 2 }),
            ([SLAIN, SLAIN + SECOND], Fault::Slain { worker: 3 }),
            (
                SLOW,
                Fault::Slow {
                    node: node("e"),
                    millis: 40,
                },
            ),
        ];
        for (id, ([from, to], fault)) in (1..).zip(faults) {
            self.record(from, 0, Action::Struck { id, fault });
            self.record(to, 0, Action::Mended { id });
        }
        for worker in 1..=4 {
            self.record(MS, worker, Action::Moved { epoch: 1 });
        }
        for worker in [1, 2, 4, 5] {
            let at = READMITTED.max(if worker == 5 { SLAIN + SECOND } else { 0 });
            self.record(at + 50 * MS, worker, Action::Moved { epoch: 2 });
        }
    }

    fn ask(&mut self, at: Time, key: usize, wait: Time) -> Ask {
        let worker = self.worker(at);
        let count = self.asks.entry(worker).or_default();
        *count += 1;
        let ask = ask(worker, *count);
        let key = format!("k{key}");
        let ttl = TTL;
        self.record(
            at,
            worker,
            Action::Asked {
                ask,
                key,
                ttl,
                wait,
            },
        );
        ask
    }

    fn refuse(&mut self, at: Time, key: usize, ask: Ask, refusal: Refusal) {
        let action = Action::Refused {
            ask,
            refusal,
            view: view(at).into(),
            replicas: nodes(key).map(|node| NODES[node].to_owned()).to_vec(),
            error: "no".into(),
        };
        self.record(at, (ask >> 32) as u32, action);
    }

    /// The nodes of `key` that answer and have no entry.
    fn open(&self, key: usize, at: Time) -> Vec<usize> {
        let is_free = |node: usize| {
            let mut entries = self.entries.iter();
            !entries.any(|it| it.key == key && it.node == node && is_within(at, [it.from, it.to]))
        };
        let open = |&node: &usize| answers(node, at) && is_free(node);
        nodes(key).into_iter().filter(open).collect()
    }

    fn play(&mut self, key: usize) {
        // When the next request is made, and when the key is free.
        let (mut at, mut free_at) = (SECOND, SECOND);
        while at < END - 5 * SECOND {
            let wait = [0, 500, 1000][self.rng.random_range(0..3)] * MS;
            let ask = self.ask(at, key, wait);
            if nodes(key)
                .into_iter()
                .filter(|&node| answers(node, at))
                .count()
                < 2
            {
                let done = at + wait.max(100 * MS) + self.some(0, 40);
                self.refuse(done, key, ask, Refusal::NoQuorum);
                at = done + self.some(1, 400);
                continue;
            }
            let mut tries = at.max(free_at);
            while tries < at + wait && self.open(key, tries).len() < 2 {
                tries += 5 * MS;
            }
            let open = self.open(key, tries);
            if open.len() < 2 || tries > at + wait {
                let done = at + wait + self.some(1, 30);
                self.refuse(done, key, ask, Refusal::Contended);
                at = done + self.some(1, 100);
                continue;
            }
            let end = self.lease(key, ask, tries, &open);
            free_at = end + 3 * MS;
            // The next caller is there already, or arrives later.
            let next = match self.rng.random_range(0..3) {
                0 => end.saturating_sub(self.some(1, 300)),
                _ => end + self.some(4, 500),
            };
            at = next.max(tries + 60 * MS);
        }
    }

    /// Generates one lease; returns its end.
    fn lease(&mut self, key: usize, ask: Ask, at: Time, open: &[usize]) -> Time {
        let worker = (ask >> 32) as u32;
        let slow = if open.contains(&4) && is_within(at, SLOW) {
            40 * MS
        } else {
            0
        };
        let granted = at + slow + self.some(1, 5);
        let mut until = at + TTL - 12 * MS;
        self.fence += 1;
        let action = Action::Granted {
            ask,
            fence: self.fence,
            until,
            view: view(granted).into(),
            replicas: nodes(key).map(|node| NODES[node].to_owned()).to_vec(),
        };
        self.record(granted, worker, action);
        self.write(granted + MS, key, ask, self.fence);
        let mut expiry: BTreeMap<usize, (Time, Time)> = open
            .iter()
            .map(|&node| (node, (at + MS / 2, at + MS / 2 + TTL)))
            .collect();
        let is_kept = self.rng.random_bool(0.4);
        let hold = self.some(30, 900) * if is_kept { 4 } else { 1 };
        // One in eight sleeps through its hold.
        let mut end = match self.rng.random_range(0..8) {
            0 if !is_kept => Time::MAX,
            _ => granted + hold,
        };
        let mut renewal = granted + 333 * MS;
        while is_kept && renewal < end && renewal < until {
            let is_away =
                worker == 2 && is_within(renewal, PAUSED) || worker == 3 && renewal >= SLAIN;
            let live =
                |(&node, it): (&usize, &(Time, Time))| answers(node, renewal) && renewal < it.1;
            if !is_away && expiry.iter().filter(|&it| live(it)).count() >= 2 {
                let nodes = expiry
                    .iter_mut()
                    .filter(|(node, _)| answers(**node, renewal));
                nodes.for_each(|(_, it)| it.1 = renewal + TTL);
                until = until.max(renewal + TTL - 12 * MS);
                self.record(renewal + 2 * MS, worker, Action::Kept { ask, until });
            }
            renewal += 333 * MS;
        }
        if worker == 2 && is_within(end, PAUSED) {
            end = PAUSED[1] + MS;
        }
        let is_slain = worker == 3 && end.min(until) >= SLAIN;
        let is_released = end < until && !is_slain;
        let over = end.min(until);
        if is_released {
            self.release(over, worker, ask, key);
        } else if !is_slain {
            let reported = if worker == 2 && is_within(until, PAUSED) {
                PAUSED[1]
            } else {
                until
            };
            let reported = reported + self.some(0, 20);
            self.record(reported, worker, Action::Lost { ask });
        }
        self.leave(key, ask, expiry, is_released.then_some(over));
        over
    }

    /// The entries on the servers.
    fn leave(
        &mut self,
        key: usize,
        ask: Ask,
        expiry: BTreeMap<usize, (Time, Time)>,
        released: Option<Time>,
    ) {
        for (node, (from, mut to)) in expiry {
            if let Some(at) = released.filter(|&at| answers(node, at)) {
                to = to.min(at + 2 * MS);
            }
            if node == 3 && from < KILLED[0] {
                to = to.min(KILLED[0]);
            }
            self.entries.push(Entry {
                key,
                ask,
                node,
                from,
                to,
            });
        }
    }

    fn release(&mut self, at: Time, worker: u32, ask: Ask, key: usize) {
        self.record(at, worker, Action::Ended { ask });
        let how = Release::InTime;
        self.record(at + 3 * MS, worker, Action::Released { ask, how });
        // A holder that died too long ago to be remembered writes once more,
        // stale.
        if self.fence > 100 && self.rng.random_bool(0.05) {
            self.write(at + MS, key, ask, 1);
        }
        if self.rng.random_bool(0.3) {
            // Another call tries while it is held, and another one gives up.
            let before = at.saturating_sub(6 * MS);
            let other = self.ask(before, key, 0);
            if self.rng.random_bool(0.5) {
                self.refuse(before + 2 * MS, key, other, Refusal::Contended);
            } else {
                let by = (other >> 32) as u32;
                self.record(before + 2 * MS, by, Action::Abandoned { ask: other });
            }
        }
    }

    fn write(&mut self, at: Time, key: usize, ask: Ask, fence: u64) {
        let action = Action::Offered {
            ask,
            key: format!("k{key}"),
            fence,
            is_taken: fence > 1 || self.fence == 1,
            believed: fence > 1,
        };
        self.record(at, 9, action);
    }

    fn look(&mut self) {
        let mut ticks: Vec<Time> = Vec::new();
        while ticks.last().is_none_or(|&last| last < END) {
            let pause = self.some(30, 50);
            ticks.push(ticks.last().map_or(pause, |last| last + pause));
        }
        self.entries.sort_by_key(|entry| entry.from);
        for tick in ticks {
            for (node, name) in NODES.iter().enumerate() {
                let from = tick + node as Time * MS;
                if node == 3 && is_within(from + MS, [KILLED[0], KILLED[1] + MS]) {
                    continue;
                }
                let is_lost = node == 3 && is_within(from, [KILLED[0], READMITTED]);
                let first = self
                    .entries
                    .partition_point(|it| it.from + 6 * SECOND < from);
                let there = |it: &&Entry| it.node == node && is_within(from, [it.from, it.to]);
                let nearby = self.entries[first..]
                    .iter()
                    .take_while(|it| it.from <= from);
                let entry = |it: &Entry| {
                    // Extended just now, for at most a ttl.
                    let left = (it.to - from).min(TTL);
                    (format!("k{}", it.key), Some(it.ask), left)
                };
                let action = Action::Looked {
                    node: (*name).to_owned(),
                    from,
                    serves: (!is_lost).then(|| view(from).to_owned()),
                    entries: nearby.filter(there).map(entry).collect(),
                };
                self.record(from + MS / 2, 0, action);
            }
        }
    }

    fn close(&mut self) {
        self.record(END, 0, Action::Calm);
        for key in 0..KEYS {
            let key = format!("k{key}");
            self.record(END + SECOND, 0, Action::Swept { key, error: None });
        }
    }
}

#[test]
fn a_clean_history_breaks_no_claim_and_puts_each_to_the_test() {
    for seed in 0..30 {
        println!("seed {seed}");
        let records = history(seed);
        let report = checker(&records, &rules(3));
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!(report.unexamined(), [], "{report}");
        if seed == 0 {
            println!("{} records\n{report}", records.len());
        }
    }
}
