//! A clean history with one change: each change must be found.

#![allow(clippy::ptr_arg, reason = "all mutations are of one type")]

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::clean::{CALM, history};
use super::*;

/// Changes a history so that it breaks the claim.
type Mutate = fn(&mut Vec<Record>, &mut StdRng);

const MUTANTS: [(&str, Claim, Mutate); 17] = [
    ("a second holder", Claim::Exclusion, second_holder),
    ("entries that are not there", Claim::Continuity, no_entries),
    ("one fence twice", Claim::Fences, same_fence),
    ("a fence that goes back", Claim::Fences, lower_fence),
    ("a loss that nobody told", Claim::Loss, unreported),
    ("a loss that was told late", Claim::Loss, reported_late),
    ("a lease that rises again", Claim::FalseHope, raised),
    ("a grant that is over", Claim::FalseHope, granted_late),
    ("an entry that stays", Claim::Orphans, orphan),
    ("a minority that grants", Claim::Minority, minority),
    ("a refusal without need", Claim::Availability, needless),
    ("a holder that is not there", Claim::Honesty, nobody),
    ("a call that comes back late", Claim::Punctuality, late),
    ("a router that goes back", Claim::ViewsRise, back),
    ("a stale write that is taken", Claim::FencedStore, stale),
    ("a key that cannot be had", Claim::Liveness, unswept),
    ("no losses at all", Claim::Worth, lossless),
];

#[test]
fn every_defect_is_found() {
    for seed in 0..4 {
        let clean = history(seed);
        for (what, claim, mutate) in MUTANTS {
            println!("seed {seed}: {what}");
            let mut records = clean.clone();
            mutate(&mut records, &mut StdRng::seed_from_u64(seed));
            let report = checker(&records, &rules(3));
            assert!(claims(&report).contains(&claim), "{what}: {report}");
        }
    }
}

/// The place of any record for which this holds.
fn any(records: &[Record], rng: &mut StdRng, is: impl Fn(&Record) -> bool) -> usize {
    let places: Vec<usize> = (0..records.len()).filter(|&it| is(&records[it])).collect();
    *places.choose(rng).expect("there is one")
}

fn ask_of(record: &Record) -> Ask {
    crate::checker::asked_by(&record.action).expect("a record of a call")
}

/// The first record of the same call for which this holds.
fn same(records: &[Record], ask: Ask, is: impl Fn(&Action) -> bool) -> Option<usize> {
    let is_of = |it: &Record| crate::checker::asked_by(&it.action) == Some(ask);
    records.iter().position(|it| is_of(it) && is(&it.action))
}

fn key_of(records: &[Record], ask: Ask) -> String {
    let place = same(records, ask, |action| {
        matches!(action, Action::Asked { .. })
    });
    match &records[place.unwrap()].action {
        Action::Asked { key, .. } => key.clone(),
        _ => unreachable!("that is how it was found"),
    }
}

fn is_grant(record: &Record) -> bool {
    matches!(record.action, Action::Granted { .. })
}

/// The end of a lease that was released at least this long after its grant.
fn held_for(records: &[Record], rng: &mut StdRng, least: Time) -> (Ask, Time, Time) {
    let ends: Vec<(Ask, Time, Time)> = records
        .iter()
        .filter_map(|record| {
            let Action::Ended { ask } = record.action else {
                return None;
            };
            let grant = same(records, ask, |action| {
                matches!(action, Action::Granted { .. })
            })?;
            let granted = records[grant].at;
            (granted + least < record.at).then_some((ask, granted, record.at))
        })
        .collect();
    *ends.choose(rng).expect("one that lasted")
}

fn second_holder(records: &mut Vec<Record>, rng: &mut StdRng) {
    let (held, _, end) = held_for(records, rng, 20 * MS);
    let key = key_of(records, held);
    let other = ask(8, 1);
    let mut asked = asked(0, other, 0);
    if let Action::Asked { key: name, .. } = &mut asked.action {
        *name = key;
    }
    let mut granted = granted(0, other, 1 << 40, 0);
    if let Action::Granted { until, .. } = &mut granted.action {
        *until = end + 100 * MS;
    }
    let mut ended = ended(0, other);
    (asked.at, granted.at, ended.at) = (end - 10 * MS, end - 5 * MS, end + MS);
    records.extend([asked, granted, ended]);
}

fn no_entries(records: &mut Vec<Record>, rng: &mut StdRng) {
    let (held, granted, end) = held_for(records, rng, 400 * MS);
    let (from, to) = (granted + 50 * MS, end - 50 * MS);
    for record in records.iter_mut().filter(|it| (from..to).contains(&it.at)) {
        if let Action::Looked { entries, .. } = &mut record.action {
            entries.retain(|(_, whose, _)| *whose != Some(held));
        }
    }
}

fn refence(records: &mut [Record], rng: &mut StdRng, change: fn(u64) -> u64) {
    let late = any(records, rng, |it| is_grant(it) && it.at > CALM);
    let key = key_of(records, ask_of(&records[late]));
    let before =
        |it: &Record| is_grant(it) && it.at < CALM - SECOND && key_of(records, ask_of(it)) == key;
    let early = any(records, rng, before);
    let Action::Granted { fence: known, .. } = records[early].action else {
        unreachable!("it is a grant");
    };
    if let Action::Granted { fence, .. } = &mut records[late].action {
        *fence = change(known);
    }
}

fn same_fence(records: &mut Vec<Record>, rng: &mut StdRng) {
    refence(records, rng, |fence| fence);
}

fn lower_fence(records: &mut Vec<Record>, rng: &mut StdRng) {
    refence(records, rng, |fence| fence - 1);
}

/// A worker that was neither paused nor slain.
fn is_steady(record: &Record) -> bool {
    matches!(record.by, 1 | 4 | 5)
}

fn is_loss(record: &Record) -> bool {
    matches!(record.action, Action::Lost { .. }) && is_steady(record)
}

fn unreported(records: &mut Vec<Record>, rng: &mut StdRng) {
    let place = any(records, rng, is_loss);
    records.remove(place);
}

fn reported_late(records: &mut Vec<Record>, rng: &mut StdRng) {
    let place = any(records, rng, is_loss);
    records[place].at += rng.random_range(25..500) * MS;
}

fn raised(records: &mut Vec<Record>, rng: &mut StdRng) {
    let loss = records[any(records, rng, is_loss)].clone();
    let ask = ask_of(&loss);
    let until = loss.at + 500 * MS;
    records.push(Record {
        at: loss.at + rng.random_range(1..200) * MS,
        by: loss.by,
        action: Action::Kept { ask, until },
    });
}

fn granted_late(records: &mut Vec<Record>, rng: &mut StdRng) {
    let place = any(records, rng, |it| is_grant(it) && is_steady(it));
    let at = records[place].at;
    if let Action::Granted { until, .. } = &mut records[place].action {
        *until = at - 11 * MS;
    }
}

fn orphan(records: &mut Vec<Record>, rng: &mut StdRng) {
    let is_early = |it: &Record| it.at < CALM - 20 * SECOND;
    let is_over = |it: &Record| matches!(it.action, Action::Ended { .. } | Action::Refused { .. });
    let ask = ask_of(&records[any(records, rng, |it| is_early(it) && is_over(it))]);
    let key = key_of(records, ask);
    let is_look = |it: &Record| it.at > CALM && matches!(it.action, Action::Looked { .. });
    let place = any(records, rng, is_look);
    if let Action::Looked { entries, .. } = &mut records[place].action {
        entries.retain(|(other, ..)| *other != key);
        entries.push((key, Some(ask), MS));
    }
}

fn minority(records: &mut Vec<Record>, rng: &mut StdRng) {
    let times = 9 * SECOND..13 * SECOND;
    let is_outage = |it: &Record| match &it.action {
        Action::Refused { refusal, .. } => *refusal == Refusal::NoQuorum && times.contains(&it.at),
        _ => false,
    };
    let place = any(records, rng, |it| {
        let asked = same(records, it_ask(it), |action| {
            matches!(action, Action::Asked { .. })
        });
        is_outage(it) && asked.is_some_and(|asked| times.contains(&records[asked].at))
    });
    let at = records[place].at;
    if let Action::Refused {
        ask,
        view,
        replicas,
        ..
    } = records[place].action.clone()
    {
        records[place].action = Action::Granted {
            ask,
            fence: 1 << 40,
            until: at + 100 * MS,
            view,
            replicas,
        };
    }
}

/// The ask of any record; zero if it has none.
fn it_ask(record: &Record) -> Ask {
    crate::checker::asked_by(&record.action).unwrap_or(0)
}

fn needless(records: &mut Vec<Record>, rng: &mut StdRng) {
    let waited = |it: &Record| {
        let asked = same(records, it_ask(it), |action| {
            matches!(action, Action::Asked { .. })
        });
        asked.is_some_and(|asked| match records[asked].action {
            Action::Asked { wait, .. } => wait > 300 * MS && records[asked].at > CALM,
            _ => false,
        })
    };
    let is_calm = |it: &Record| is_grant(it) && it.at > CALM;
    let place = any(records, rng, |it| is_calm(it) && waited(it));
    let granted = records[place].clone();
    let ask = ask_of(&granted);
    records.retain(|it| it_ask(it) != ask || matches!(it.action, Action::Asked { .. }));
    if let Action::Granted { view, replicas, .. } = granted.action {
        let refusal = Refusal::TooSlow;
        let error = String::new();
        records.push(Record {
            at: granted.at,
            by: granted.by,
            action: Action::Refused {
                ask,
                refusal,
                view,
                replicas,
                error,
            },
        });
    }
}

fn nobody(records: &mut Vec<Record>, rng: &mut StdRng) {
    let at = rng.random_range(70_000..80_000);
    let other = ask(8, 1);
    let mut asked = asked(at, other, 0);
    if let Action::Asked { key, .. } = &mut asked.action {
        *key = "quiet".into();
    }
    records.extend([asked, refused(at + 3, other, Refusal::Contended)]);
}

fn late(records: &mut Vec<Record>, rng: &mut StdRng) {
    let is_refusal = |it: &Record| matches!(it.action, Action::Refused { .. }) && is_steady(it);
    let place = any(records, rng, is_refusal);
    records[place].at += 2200 * MS;
}

fn back(records: &mut Vec<Record>, rng: &mut StdRng) {
    let is_later = |it: &Record| matches!(it.action, Action::Moved { epoch: 2 });
    let later = records[any(records, rng, is_later)].clone();
    records.push(Record {
        at: later.at + SECOND,
        by: later.by,
        action: Action::Moved { epoch: 1 },
    });
}

fn stale(records: &mut Vec<Record>, rng: &mut StdRng) {
    let is_refused = |it: &Record| {
        matches!(
            it.action,
            Action::Offered {
                is_taken: false,
                ..
            }
        )
    };
    let place = any(records, rng, is_refused);
    if let Action::Offered { is_taken, .. } = &mut records[place].action {
        *is_taken = true;
    }
}

fn unswept(records: &mut Vec<Record>, rng: &mut StdRng) {
    let place = any(records, rng, |it| matches!(it.action, Action::Swept { .. }));
    records.remove(place);
}

fn lossless(records: &mut Vec<Record>, _: &mut StdRng) {
    records.retain(|it| !matches!(it.action, Action::Lost { .. }));
}
