//! The history by subject: calls, keys, workers, nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::checker::Rules;
use crate::checker::entities::{Answer, Call, Names, Trouble, Worker};
use crate::checker::spans::Spans;
use crate::history::{Action, Ask, Fault, Record, Time};

/// How long a request may take to arrive where nothing delays it; also an
/// allowance for the observer and the machine.
pub(super) const MARGIN: Time = 250 * crate::history::MS;

/// The history by subject. Nodes, keys and views are numbered.
pub(super) struct Timeline<'a> {
    pub(super) rules: &'a Rules,
    pub(super) order: Vec<&'a Record>,
    pub(super) calls: Vec<Call>,
    places: HashMap<Ask, u32>,
    /// The calls for a key, in the order in which they began.
    pub(super) by_key: Vec<Vec<u32>>,
    pub(super) keys: Names<'a>,
    pub(super) nodes: Names<'a>,
    pub(super) views: Names<'a>,
    /// Replica sets, their nodes in order of number.
    pub(super) sets: Vec<Vec<u32>>,
    /// Views with two topologies: some key has more nodes than replicas there.
    pub(super) joint: BTreeSet<u32>,
    /// Which set a view gives a key.
    pub(super) placed: HashMap<(u32, u32), u32>,
    pub(super) workers: BTreeMap<u32, Worker>,
    /// While any process stalled that was not stopped: the machine had no time
    /// for it, and perhaps none for the servers.
    pub(super) stalls: Spans,
    pub(super) troubles: Vec<Trouble<'a>>,
    /// For each node, while requests to it can be delayed in transit.
    pub(super) held: Vec<Spans>,
    /// For each node, while the time of its entries is unreliable.
    pub(super) stepped: Vec<Spans>,
    /// Asks that have records but never began.
    pub(super) strays: BTreeSet<Ask>,
    pub(super) horizon: Time,
}

/// State that is only needed while reading.
#[derive(Default)]
struct Reading<'a> {
    sets: HashMap<&'a [String], u32>,
    sorted: HashMap<Vec<u32>, u32>,
    away: BTreeMap<u32, Vec<(Time, Time)>>,
    stalls: Vec<(Time, Time)>,
    /// For each node, when it was last inspected, and the gaps.
    looked: HashMap<&'a str, Time>,
    blind: Vec<(&'a str, (Time, Time))>,
    troubles: HashMap<u64, usize>,
}

impl<'a> Timeline<'a> {
    pub(super) fn read(records: &'a [Record], rules: &'a Rules) -> Self {
        let mut order: Vec<&Record> = records.iter().collect();
        // Records of one process stay in their order.
        order.sort_by_key(|record| record.at);
        let mut timeline = Self {
            rules,
            horizon: order.last().map_or(0, |record| record.at),
            order: Vec::new(),
            calls: Vec::new(),
            places: HashMap::new(),
            by_key: Vec::new(),
            keys: Names::default(),
            nodes: Names::default(),
            views: Names::default(),
            sets: vec![Vec::new()],
            joint: BTreeSet::new(),
            placed: HashMap::new(),
            workers: BTreeMap::new(),
            stalls: Spans::default(),
            troubles: Vec::new(),
            held: Vec::new(),
            stepped: Vec::new(),
            strays: BTreeSet::new(),
        };
        for node in &rules.nodes {
            timeline.nodes.id(node);
        }
        let mut reading = Reading::default();
        for &record in &order {
            timeline.workers.entry(record.by).or_default().last = record.at;
            timeline.take(&mut reading, record);
        }
        timeline.order = order;
        timeline.finish(reading);
        timeline
    }

    pub(super) fn place(&self, ask: Ask) -> Option<usize> {
        self.places.get(&ask).map(|&place| place as usize)
    }

    fn take(&mut self, reading: &mut Reading<'a>, record: &'a Record) {
        let at = record.at;
        match &record.action {
            Action::Asked {
                ask,
                key,
                ttl,
                wait,
            } => self.asked(record, *ask, key, (*ttl, *wait)),
            Action::Granted {
                ask,
                fence,
                until,
                view,
                replicas,
            } => {
                let (fence, until) = (*fence, *until);
                if let Some(call) = self.answered(*ask, at, Answer::Granted) {
                    (call.fence, call.until, call.last_until) = (fence, until, until);
                    self.went_by(reading, *ask, view, replicas);
                }
            }
            Action::Refused {
                ask,
                refusal,
                view,
                replicas,
                ..
            } => {
                if self.answered(*ask, at, Answer::Refused(*refusal)).is_some() {
                    self.went_by(reading, *ask, view, replicas);
                }
            }
            Action::Abandoned { ask } => {
                self.answered(*ask, at, Answer::Abandoned);
            }
            Action::Kept { ask, until } => self.moved(*ask, at, Some(*until)),
            Action::Extended { ask, until } => self.moved(*ask, at, *until),
            Action::Lost { ask } => {
                if let Some(call) = self.call(*ask) {
                    call.lost.get_or_insert(at);
                }
            }
            Action::Ended { ask } => {
                if let Some(call) = self.call(*ask) {
                    call.ended.get_or_insert(at);
                }
            }
            Action::Stalled { from } => {
                let away = reading.away.entry(record.by).or_default();
                away.push((*from, at));
                reading.stalls.push((*from, at));
            }
            Action::Looked { node, .. } => {
                // A node that does not answer the observer delays other requests
                // as well, whatever the reason.
                let last = reading.looked.insert(node, at).unwrap_or(at);
                if at > last + MARGIN {
                    reading.blind.push((node, (last, at)));
                }
                self.named(&record.action);
            }
            action => self.befell(reading, at, action),
        }
    }

    /// Faults of nodes and workers, and keys that are named.
    fn befell(&mut self, reading: &mut Reading<'a>, at: Time, action: &'a Action) {
        match action {
            Action::Struck { id, fault } => self.struck(reading, at, *id, fault),
            Action::Mended { id } => {
                if let Some(&place) = reading.troubles.get(id) {
                    self.troubles[place].mended = at;
                }
            }
            Action::Swept { key, .. } => {
                self.key(key);
            }
            _ => {}
        }
    }

    fn key(&mut self, key: &'a str) -> u32 {
        let id = self.keys.id(key);
        if self.by_key.len() < self.keys.len() {
            self.by_key.push(Vec::new());
        }
        id
    }

    fn asked(&mut self, record: &Record, ask: Ask, key: &'a str, (ttl, wait): (Time, Time)) {
        let key = self.key(key);
        let place = self.calls.len() as u32;
        self.places.insert(ask, place);
        self.by_key[key as usize].push(place);
        self.calls.push(Call {
            ask,
            by: record.by,
            key,
            asked: record.at,
            ttl,
            wait,
            answer: Answer::None,
            done: Time::MAX,
            fence: 0,
            until: 0,
            view: 0,
            set: 0,
            last_until: 0,
            moves: Vec::new(),
            ended: None,
            lost: None,
            slain: None,
        });
    }

    fn call(&mut self, ask: Ask) -> Option<&mut Call> {
        let Some(place) = self.place(ask) else {
            self.strays.insert(ask);
            return None;
        };
        self.calls.get_mut(place)
    }

    fn answered(&mut self, ask: Ask, at: Time, answer: Answer) -> Option<&mut Call> {
        let call = self.call(ask)?;
        (call.answer, call.done) = (answer, at);
        Some(call)
    }

    fn went_by(&mut self, reading: &mut Reading<'a>, ask: Ask, view: &'a str, set: &'a [String]) {
        let view = self.views.id(view);
        if set.len() > self.rules.replicas {
            self.joint.insert(view);
        }
        let known = reading.sets.get(set).copied();
        let set = known.unwrap_or_else(|| {
            let mut sorted: Vec<u32> = set.iter().map(|node| self.nodes.id(node)).collect();
            sorted.sort_unstable();
            let id = *reading.sorted.entry(sorted.clone()).or_insert_with(|| {
                self.sets.push(sorted);
                (self.sets.len() - 1) as u32
            });
            reading.sets.insert(set, id);
            id
        });
        if let Some(call) = self.call(ask) {
            (call.view, call.set) = (view, set);
            let key = call.key;
            self.placed.insert((key, view), set);
        }
    }

    fn moved(&mut self, ask: Ask, at: Time, until: Option<Time>) {
        if let (Some(call), Some(until)) = (self.call(ask), until) {
            call.moves.push((at, until));
            call.last_until = call.last_until.max(until);
        }
    }

    fn named(&mut self, action: &'a Action) {
        let Action::Looked {
            node,
            serves,
            entries,
            ..
        } = action
        else {
            return;
        };
        self.nodes.id(node);
        if let Some(view) = serves {
            self.views.id(view);
        }
        for (key, ..) in entries {
            self.key(key);
        }
    }

    fn struck(&mut self, reading: &mut Reading<'a>, at: Time, id: u64, fault: &'a Fault) {
        if let Some(node) = fault.node() {
            self.nodes.id(node);
        }
        let is_momentary = matches!(
            fault,
            Fault::Flushed { .. } | Fault::ScriptsFlushed { .. } | Fault::Disconnected { .. }
        );
        reading.troubles.insert(id, self.troubles.len());
        self.troubles.push(Trouble {
            fault,
            struck: at,
            mended: if is_momentary { at } else { Time::MAX },
        });
    }

    fn finish(&mut self, mut reading: Reading<'a>) {
        for trouble in &self.troubles {
            match trouble.fault {
                Fault::Paused { worker } => {
                    let away = reading.away.entry(*worker).or_default();
                    away.push((trouble.struck, trouble.mended));
                }
                Fault::Slain { worker } => {
                    let worker = self.workers.entry(*worker).or_default();
                    worker.slain = Some(trouble.struck);
                }
                _ => {}
            }
        }
        self.stalls = reading.stalls.into_iter().collect();
        for (by, away) in reading.away {
            self.workers.entry(by).or_default().away = away.into_iter().collect();
        }
        for call in &mut self.calls {
            call.slain = self.workers.get(&call.by).and_then(|worker| worker.slain);
        }
        let max_ttl = self.rules.max_ttl;
        let blind = reading.blind.iter().map(|&(node, span)| (Some(node), span));
        let holding = self.troubles.iter().filter(|trouble| {
            trouble.fault.silences() || matches!(trouble.fault, Fault::Slow { .. })
        });
        let holding = holding.map(|it| (it.fault.node(), (it.struck, it.mended)));
        let late =
            |(node, (from, to)): (_, (Time, Time))| (node, (from, to.saturating_add(MARGIN)));
        self.held = self.spread(blind.chain(holding).map(late));
        self.stepped = self.by_node(|trouble| {
            let Fault::Stepped { millis, .. } = trouble.fault else {
                return None;
            };
            // When the clock is corrected, entries from before last longer.
            let after = max_ttl + millis * crate::history::MS;
            Some((trouble.struck, trouble.mended.saturating_add(after)))
        });
    }

    /// The spans that `span` returns for each node's troubles.
    pub(super) fn by_node(
        &self,
        span: impl Fn(&Trouble<'_>) -> Option<(Time, Time)>,
    ) -> Vec<Spans> {
        let of = |trouble: &Trouble<'a>| Some((trouble.fault.node(), span(trouble)?));
        self.spread(self.troubles.iter().filter_map(of))
    }

    fn spread<'b>(
        &self,
        spans: impl Iterator<Item = (Option<&'b str>, (Time, Time))>,
    ) -> Vec<Spans> {
        let mut spread = vec![Vec::new(); self.nodes.len()];
        for (node, span) in spans {
            if let Some(node) = node.and_then(|node| self.nodes.find(node)) {
                spread[node as usize].push(span);
            }
        }
        spread.into_iter().map(Spans::from_iter).collect()
    }

    /// How long the worker ran from `from` to `to`.
    pub(super) fn running(&self, by: u32, from: Time, to: Time) -> Time {
        let away = self.workers.get(&by).map_or(0, |w| w.away.within(from, to));
        to.saturating_sub(from).saturating_sub(away)
    }

    /// Whether the worker did not run at some moment from `from` to `to`.
    pub(super) fn was_away(&self, by: u32, from: Time, to: Time) -> bool {
        let worker = self.workers.get(&by);
        worker.is_some_and(|worker| worker.away.touch(from, to))
    }

    /// When a call was over: it sends no further requests.
    pub(super) fn over(&self, call: &Call) -> Time {
        // It may have been active after the decision to slay it.
        let worker = self.workers.get(&call.by);
        let slain = call
            .slain
            .map(|slain| worker.map_or(slain, |w| w.last.max(slain)));
        match call.answer {
            Answer::None => slain.unwrap_or(Time::MAX),
            Answer::Granted => {
                let ends = [call.ended, call.lost, slain].into_iter().flatten();
                ends.fold(call.last_until, Time::min)
            }
            Answer::Refused(_) | Answer::Abandoned => call.done,
        }
    }

    /// How many of a full replica set must agree.
    pub(super) fn quorum(&self) -> usize {
        self.rules.replicas / 2 + 1
    }
}
