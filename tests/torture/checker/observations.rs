//! The observer's observations: processed look by look, and kept for other
//! claims.

use crate::checker::continuity::Rounds;
use crate::checker::orphans::Orphans;
use crate::checker::spans::Spans;
use crate::checker::timeline::{MARGIN, Timeline};
use crate::checker::verdicts::Verdicts;
use crate::history::{Action, Ask, MS, Record, SECOND, Time};

/// Looks further apart than this do not show what happened in between.
const LOOK_GAP: Time = MARGIN;

/// How long before most nodes are seen to serve another view some may already
/// do so.
const CHANGE: Time = SECOND;

/// Sightings of a key's entries closer together than this are one.
const SIGHT_GAP: Time = 500 * MS;

/// How long a router may take to reconnect: its pauses grow to two seconds.
pub(super) const RECONNECT: Time = 3 * SECOND;

/// The owner of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Nobodys,
    Stray(Ask),
    /// By the call's place.
    Of(u32),
}

/// One look into one node.
pub(super) struct Observation {
    pub(super) node: u32,
    pub(super) from: Time,
    pub(super) at: Time,
    pub(super) serves: Option<u32>,
    /// Key, owner, remaining time; in order of key.
    pub(super) entries: Vec<(u32, Whose, Time)>,
}

impl Observation {
    fn read(timeline: &Timeline<'_>, record: &Record) -> Option<Self> {
        let Action::Looked {
            node,
            from,
            serves,
            entries,
        } = &record.action
        else {
            return None;
        };
        let whose = |ask: Option<Ask>| match ask {
            None => Whose::Nobodys,
            Some(ask) => {
                let place = timeline.place(ask);
                place.map_or(Whose::Stray(ask), |place| Whose::Of(place as u32))
            }
        };
        let entry = |(key, ask, remaining): &(String, Option<Ask>, Time)| {
            Some((timeline.keys.find(key)?, whose(*ask), *remaining))
        };
        let mut entries: Vec<(u32, Whose, Time)> = entries.iter().filter_map(entry).collect();
        entries.sort_unstable_by_key(|&(key, ..)| key);
        Some(Self {
            node: timeline.nodes.find(node)?,
            from: *from,
            at: record.at,
            serves: serves.as_deref().and_then(|view| timeline.views.find(view)),
            entries,
        })
    }

    pub(super) fn entry(&self, key: u32) -> Option<(Whose, Time)> {
        let place = self.entries.binary_search_by_key(&key, |&(key, ..)| key);
        place
            .ok()
            .map(|place| (self.entries[place].1, self.entries[place].2))
    }
}

/// Time spans derived from the looks.
pub(super) struct Sights {
    /// For each key, while an entry was seen on any node.
    pub(super) held: Vec<Spans>,
    /// For each node, when it was inspected.
    pub(super) looked: Vec<Vec<Time>>,
    /// For each node, while it may not answer as most nodes do.
    pub(super) unwell: Vec<Spans>,
    /// Around each moment at which most nodes switched to another view.
    pub(super) changing: Spans,
}

/// Judges every look by itself and together with its neighbours.
pub(super) fn checker(timeline: &Timeline<'_>, verdicts: &mut Verdicts) -> Sights {
    let mut rounds = Rounds::new(timeline);
    let mut orphans = Orphans::default();
    let mut gathering = Gathering::new(timeline);
    for record in &timeline.order {
        if let Action::Struck { fault, .. } = &record.action {
            rounds.struck(timeline, fault);
        }
        let Some(look) = Observation::read(timeline, record) else {
            continue;
        };
        orphans.take(timeline, verdicts, &look);
        gathering.take(&look);
        rounds.take(timeline, verdicts, look);
    }
    rounds.end(timeline, verdicts);
    orphans.end(verdicts);
    gathering.end(timeline)
}

/// Sights under construction.
struct Gathering {
    held: Vec<Vec<(Time, Time)>>,
    looked: Vec<Vec<Time>>,
    serves: Vec<Option<u32>>,
    prevailing: Option<u32>,
    /// When a node was seen to serve the prevailing view.
    good: Vec<Vec<Time>>,
    changes: Vec<Time>,
}

impl Gathering {
    fn new(timeline: &Timeline<'_>) -> Self {
        let nodes = timeline.nodes.len();
        Self {
            held: vec![Vec::new(); timeline.keys.len()],
            looked: vec![Vec::new(); nodes],
            serves: vec![None; nodes],
            prevailing: None,
            good: vec![Vec::new(); nodes],
            changes: Vec::new(),
        }
    }

    fn take(&mut self, look: &Observation) {
        let node = look.node as usize;
        self.looked[node].push(look.at);
        for &(key, ..) in &look.entries {
            let held = &mut self.held[key as usize];
            match held.last_mut() {
                Some(last) if look.from <= last.1 + SIGHT_GAP => last.1 = look.at,
                _ => held.push((look.from, look.at)),
            }
        }
        if self.serves[node] != look.serves {
            self.serves[node] = look.serves;
            let prevailing = self.most_served();
            if prevailing != self.prevailing {
                self.prevailing = prevailing;
                self.changes.push(look.at);
            }
        }
        if look.serves.is_some() && look.serves == self.prevailing {
            self.good[node].push(look.at);
        }
    }

    /// The view that most serving nodes serve; on a tie, the known one stays.
    fn most_served(&self) -> Option<u32> {
        let count = |view| self.serves.iter().filter(|&&it| it == view).count();
        let known = self.prevailing;
        let served = self.serves.iter().copied().filter(Option::is_some);
        served.max_by_key(|&view| (count(view), view == known))?
    }

    fn end(self, timeline: &Timeline<'_>) -> Sights {
        let mut unwell: Vec<Vec<(Time, Time)>> = Vec::new();
        for good in &self.good {
            let mut last = 0;
            let mut spans = Vec::new();
            for &at in good {
                if last == 0 || at > last + LOOK_GAP {
                    spans.push((last, at + RECONNECT));
                }
                last = at;
            }
            spans.push((last, Time::MAX));
            unwell.push(spans);
        }
        for trouble in &timeline.troubles {
            let Some(node) = trouble
                .fault
                .node()
                .and_then(|node| timeline.nodes.find(node))
            else {
                continue;
            };
            let good = &self.good[node as usize];
            let next = good.get(good.partition_point(|&at| at < trouble.mended));
            let well = next.map_or(Time::MAX, |&at| at + RECONNECT);
            unwell[node as usize].push((trouble.struck, well));
        }
        let changing = |&at: &Time| (at.saturating_sub(CHANGE), at + RECONNECT);
        Sights {
            held: self.held.into_iter().map(Spans::from_iter).collect(),
            looked: self.looked,
            unwell: unwell.into_iter().map(Spans::from_iter).collect(),
            changing: self.changes.iter().map(changing).collect(),
        }
    }
}

impl Sights {
    /// The first time from `from` on that `node` was inspected.
    pub(super) fn next_look(&self, node: u32, from: Time) -> Option<Time> {
        let looked = &self.looked[node as usize];
        looked.get(looked.partition_point(|&at| at < from)).copied()
    }

    /// Whether `node` was inspected between the two.
    pub(super) fn looked(&self, node: u32, from: Time, to: Time) -> bool {
        self.next_look(node, from).is_some_and(|at| at <= to)
    }
}
