//! Which nodes do more than their share, and which keys are contended for, as
//! observed by repeated reads of the servers for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringlock::node::redis::inspect::{Cursor, Entry, Pulse};
use ringlock::proto::membership::view::View;
use ringlock::proto::node::message::FenceCounterId;
use ringlock::{Key, ViewId};
use ringlock_ring::fraction;
use serde::Serialize;

use crate::cluster::ClusterSnapshot;
use crate::locks_view::LocksView;
use crate::output::{or_dash, printable, span, table};

/// The time from one look to the next, and how many looks there are at most.
const PACE: Duration = Duration::from_millis(250);
const MOST_LOOKS: u32 = 30;

/// How many keys are followed at most, and how many of them are reported.
const SAMPLE: usize = 500;
const REPORTED: usize = 10;

/// How many holders of each key are reported.
const LISTED_HOLDERS: usize = 3;

/// A node is hot if it has this many times its share, of at least this many
/// attempts. Fewer attempts prove nothing.
const HOT_RATIO: f64 = 1.5;
const LEAST_ATTEMPTS: u64 = 100;

#[derive(Serialize)]
pub(super) struct Hot {
    looked_for_ms: u64,
    looks: u32,
    nodes: Vec<Node>,
    /// Keys that changed holders, the most frequent first; then keys that were
    /// held at every look.
    keys: Vec<Hotkey>,
    /// How many locked keys were followed. They are a sample: a short lease is
    /// seen by chance, and of very many keys only some are followed.
    sampled_keys: usize,
}

#[derive(Default, Serialize)]
struct Node {
    node: String,
    /// Attempts at keys, granted or not; `null` if the node does not serve the
    /// view or moved to another view in between.
    attempts_per_second: Option<f64>,
    /// Its share of the attempts at all nodes.
    share: Option<f64>,
    /// The share that its place on the ring predicts; `null` while a change of
    /// membership is under way.
    expected_share: Option<f64>,
    is_hot: bool,
    commands_per_second: Option<f64>,
    /// As a share of one processor.
    cpu: Option<f64>,
    /// The part of the ring with the most attempts, if parts are counted.
    hottest_arc: Option<HottestArc>,
}

#[derive(Serialize)]
struct HottestArc {
    arc: u32,
    part: u16,
    replicas: u8,
    /// Its share of the node's attempts.
    share: f64,
}

#[derive(Serialize)]
struct Hotkey {
    key: String,
    /// How often a look found another lease than the look before.
    changes: u32,
    seen: u32,
    /// The labels of some of the holders that were seen.
    holders: Vec<String>,
    nodes: Vec<String>,
}

/// What was seen of one key.
#[derive(Default)]
struct Trace {
    last: Option<Entry>,
    changes: u32,
    seen: u32,
    holders: BTreeSet<String>,
    on: BTreeSet<usize>,
}

/// A pulse and the instant of its reading.
type TimedPulse = Option<(Instant, Pulse)>;

/// Observes the servers for `time`.
pub(super) async fn look(snapshot: &mut ClusterSnapshot<'_>, time: Duration) -> Hot {
    let names: Vec<String> = snapshot
        .server_reports
        .iter()
        .map(|s| s.node.name.clone())
        .collect();
    let view = snapshot.view.clone();
    let id = view.as_ref().map(View::id);
    // Nodes that must not hold locks are not asked.
    let _ = snapshot.leave_unfit();
    let began = Instant::now();
    let before = pulses(snapshot, id).await;
    let looks = (time.as_millis() / PACE.as_millis()) as u32;
    let looks = looks.clamp(2, MOST_LOOKS);
    let mut traces = BTreeMap::new();
    let mut cursors = vec![Cursor::default(); names.len()];
    for look in 0..looks {
        sample(snapshot, &mut cursors, &mut traces).await;
        let next = began + time * (look + 1) / looks;
        tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
    }
    let after = pulses(snapshot, id).await;
    let felt: Vec<(TimedPulse, TimedPulse)> = before.into_iter().zip(after).collect();
    Hot {
        looked_for_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        looks,
        nodes: nodes(&names, view.as_ref(), &felt),
        sampled_keys: traces.len(),
        keys: hottest(traces, looks, &names),
    }
}

async fn pulses(snapshot: &mut ClusterSnapshot<'_>, view: Option<ViewId>) -> Vec<TimedPulse> {
    let felt = snapshot.ask_all(async |server_report| {
        let seen = server_report.seen.as_mut().ok()?;
        let pulse = seen.look.pulse(view?).await.ok()?;
        Some((Instant::now(), pulse))
    });
    felt.await
}

/// One look at the keys that are followed, and at some more.
async fn sample(
    snapshot: &mut ClusterSnapshot<'_>,
    cursors: &mut [Cursor],
    traces: &mut BTreeMap<Key, Trace>,
) {
    let left = SAMPLE.saturating_sub(traces.len());
    if left > 0 {
        let most = left.div_ceil(cursors.len().max(1));
        let asked = snapshot.server_reports.iter_mut().zip(cursors);
        let samples = asked.map(async |(server_report, cursor)| {
            let seen = server_report.seen.as_mut().ok()?;
            let (keys, next) = seen.look.sample(cursor.clone(), most).await.ok()?;
            *cursor = next;
            Some(keys)
        });
        let samples = futures_util::future::join_all(samples).await;
        for key in samples.into_iter().flatten().flatten() {
            if traces.len() < SAMPLE {
                traces.entry(key).or_default();
            }
        }
    }
    let keys: Vec<Key> = traces.keys().cloned().collect();
    note(traces, &snapshot.find(&keys).await);
}

fn note(traces: &mut BTreeMap<Key, Trace>, found: &LocksView) {
    for (key, trace) in traces {
        let own = found.all.iter().filter(|holding| holding.key == *key);
        // If several clients have an entry, the one on the most nodes counts.
        let Some(holding) = own.max_by_key(|holding| holding.on.len()) else {
            continue;
        };
        let entry = &holding.entry;
        let is_new = trace
            .last
            .as_ref()
            .is_some_and(|last| !last.is_of_lease(entry));
        trace.changes += u32::from(is_new);
        trace.seen += 1;
        trace.on.extend(&holding.on);
        let holder = entry.holder();
        if let Some(label) = holder
            .label()
            .filter(|_| trace.holders.len() < LISTED_HOLDERS)
        {
            trace.holders.insert(printable(label.as_bytes()));
        }
        trace.last = Some(entry.clone());
    }
}

fn hottest(traces: BTreeMap<Key, Trace>, looks: u32, names: &[String]) -> Vec<Hotkey> {
    let is_reported = |trace: &Trace| trace.changes > 0 || trace.seen == looks;
    let mut traces: Vec<(Key, Trace)> = traces.into_iter().collect();
    traces.retain(|(_, trace)| is_reported(trace));
    traces.sort_by_key(|(_, trace)| std::cmp::Reverse((trace.changes, trace.seen)));
    let hottest = traces.into_iter().take(REPORTED);
    let keys = hottest.map(|(key, trace)| Hotkey {
        key: printable(key.as_bytes()),
        changes: trace.changes,
        seen: trace.seen,
        holders: trace.holders.into_iter().collect(),
        nodes: trace
            .on
            .into_iter()
            .map(|index| names[index].clone())
            .collect(),
    });
    keys.collect()
}

/// By how much each slot's counter on a node has grown.
type Growth = BTreeMap<FenceCounterId, u64>;

fn growth((before, after): &(TimedPulse, TimedPulse)) -> Option<Growth> {
    let before = before.as_ref()?.1.counters.as_ref()?;
    let after = after.as_ref()?.1.counters.as_ref()?;
    let grown = after.iter().map(|(slot, count)| {
        let known = before.get(slot).copied().unwrap_or_default();
        (*slot, count.saturating_sub(known))
    });
    Some(grown.filter(|(_, grown)| *grown > 0).collect())
}

fn nodes(names: &[String], view: Option<&View>, felt: &[(TimedPulse, TimedPulse)]) -> Vec<Node> {
    let grown: Vec<Option<Growth>> = felt.iter().map(growth).collect();
    let total: u64 = grown.iter().flatten().flat_map(BTreeMap::values).sum();
    let expected = view.and_then(|view| expected(names, view, &grown));
    let of_all = |count: f64| (total > 0).then(|| count / total as f64);
    let nodes = names.iter().enumerate().map(|(index, name)| {
        let attempts = grown[index]
            .as_ref()
            .map(|grown| grown.values().sum::<u64>());
        let due = expected.as_ref().map(|expected| expected[index]);
        let due = due.filter(|_| attempts.is_some());
        let is_hot = attempts.zip(due).is_some_and(|(attempts, due)| {
            attempts >= LEAST_ATTEMPTS && attempts as f64 > HOT_RATIO * due
        });
        let rate = Rate::of(&felt[index]);
        Node {
            node: name.clone(),
            attempts_per_second: rate
                .as_ref()
                .zip(attempts)
                .map(|(rate, n)| rate.per_second(n as f64)),
            share: attempts.and_then(|attempts| of_all(attempts as f64)),
            expected_share: due.and_then(of_all),
            is_hot,
            commands_per_second: rate.as_ref().and_then(Rate::commands),
            cpu: rate.as_ref().and_then(Rate::cpu),
            hottest_arc: grown[index].as_ref().and_then(hottest_arc),
        }
    });
    nodes.collect()
}

/// How many of the attempts each node should have had, by the ring. Attempts at
/// keys with one owner count by the share of keys that the node owns, attempts
/// at keys with more replicas by the share that it is a replica of. Nodes whose
/// counters are unknown are left out.
fn expected(names: &[String], view: &View, grown: &[Option<Growth>]) -> Option<Vec<f64>> {
    if view.next().is_some() {
        return None;
    }
    let mut totals: BTreeMap<u8, u64> = BTreeMap::new();
    for (slot, count) in grown.iter().flatten().flatten() {
        *totals.entry(slot.replicas).or_default() += count;
    }
    let mut expected = vec![0.0; names.len()];
    for (replicas, total) in totals {
        let loads = view
            .ring()
            .replica_sets(usize::from(replicas))
            .ok()?
            .loads();
        let load = |index: usize| {
            let member = view.index_of(&names[index])?;
            grown[index].as_ref().map(|_| fraction(loads[member.get()]))
        };
        let sum: f64 = (0..names.len()).filter_map(load).sum();
        for (index, expected) in expected.iter_mut().enumerate() {
            *expected += total as f64 * load(index).unwrap_or_default() / sum;
        }
    }
    Some(expected)
}

fn hottest_arc(grown: &Growth) -> Option<HottestArc> {
    let total: u64 = grown.values().sum();
    let counted = grown.iter().filter(|(slot, _)| slot.replicas > 1);
    let (slot, most) = counted.max_by_key(|(_, count)| **count)?;
    Some(HottestArc {
        arc: slot.arc,
        part: slot.part,
        replicas: slot.replicas,
        share: *most as f64 / total as f64,
    })
}

/// The change of a node between two pulses.
struct Rate<'a> {
    before: &'a Pulse,
    after: &'a Pulse,
    seconds: f64,
}

impl<'a> Rate<'a> {
    fn of((before, after): &'a (TimedPulse, TimedPulse)) -> Option<Self> {
        let ((begun, before), (ended, after)) = (before.as_ref()?, after.as_ref()?);
        let seconds = ended.duration_since(*begun).as_secs_f64();
        (seconds > 0.0).then_some(Self {
            before,
            after,
            seconds,
        })
    }

    fn per_second(&self, count: f64) -> f64 {
        count / self.seconds
    }

    fn commands(&self) -> Option<f64> {
        let grown = self.after.commands?.checked_sub(self.before.commands?)?;
        Some(self.per_second(grown as f64))
    }

    fn cpu(&self) -> Option<f64> {
        Some(self.per_second(self.after.cpu_seconds? - self.before.cpu_seconds?))
    }
}

pub(super) fn human(hot: &Hot) -> String {
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let rate = |rate: f64| format!("{rate:.0}/s");
    let heads = [
        "node",
        "attempts",
        "share",
        "by the ring",
        "",
        "commands",
        "cpu",
        "hottest arc",
    ];
    let mut rows = table(heads);
    for node in &hot.nodes {
        let arc = node.hottest_arc.as_ref();
        rows.add_row([
            node.node.clone(),
            or_dash(node.attempts_per_second.map(rate)),
            or_dash(node.share.map(percent)),
            or_dash(node.expected_share.map(percent)),
            if node.is_hot {
                "HOT".into()
            } else {
                String::new()
            },
            or_dash(node.commands_per_second.map(rate)),
            or_dash(node.cpu.map(percent)),
            or_dash(arc.map(|arc| format!("{}.{}: {}", arc.arc, arc.part, percent(arc.share)))),
        ]);
    }
    let time = span(Duration::from_millis(hot.looked_for_ms));
    let mut text = format!("\n\nobserved for {time}, {} looks\n{rows}", hot.looks);
    if hot.keys.is_empty() {
        text += "\nno key was seen to change hands, or to be held all the time";
    } else {
        let mut rows = table(["key", "changed hands", "seen held", "holders", "on"]);
        for key in &hot.keys {
            rows.add_row([
                key.key.clone(),
                key.changes.to_string(),
                format!("{} of {}", key.seen, hot.looks),
                key.holders.join(", "),
                key.nodes.join(", "),
            ]);
        }
        text += &format!("\n{rows}");
    }
    text + &format!(
        "\na sample: {} locked keys were followed; a router reports its own with hot_keys()",
        hot.sampled_keys
    )
}
