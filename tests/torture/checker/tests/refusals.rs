//! Availability and honesty: the refusals, and whether they were necessary.

use super::*;
use crate::checker::availability::State;
use crate::history::Back;

/// All five are inspected five times a second, and serve one view.
fn calm_looks() -> Vec<Record> {
    let at = |tick: Time| NODES.map(move |node| free(node, 100 + tick * 200));
    (0..100).flat_map(at).collect()
}

fn call(wait: Time, refusal: Refusal) -> Vec<Record> {
    let a = ask(1, 1);
    let call = [asked(10_000, a, wait), refused(10_000 + wait, a, refusal)];
    with(&calm_looks(), &call)
}

#[test]
fn a_call_that_could_be_granted_is_not_refused() {
    let refusal = call(500, Refusal::NoQuorum);
    assert_eq!(broken(&refusal), [Claim::Availability]);
    assert_eq!(broken(&call(500, Refusal::TooSlow)), [Claim::Availability]);
    assert_eq!(broken(&call(200, Refusal::NoQuorum)), [], "it did not wait");
    let kill = |id, node: &str, from, to| {
        let (node, back) = (node.to_owned(), Back::Whole);
        trouble(from, to, id, Fault::Killed { node, back })
    };
    let kills = |nodes: &[&str], from, to| {
        let each = (1..)
            .zip(nodes)
            .flat_map(|(id, node)| kill(id, node, from, to));
        broken(&with(&refusal, &each.collect::<Vec<_>>()))
    };
    assert_eq!(
        kills(&["b"], 9900, 10_200),
        [Claim::Availability],
        "two of three are well"
    );
    assert_eq!(kills(&["b", "c"], 9900, 10_200), []);
    assert_eq!(kills(&["b", "c"], 8000, 8500), [], "they are coming back");
    assert_eq!(
        kills(&["b", "c"], 5000, 6000),
        [Claim::Availability],
        "they came back"
    );
    assert_eq!(
        kills(&["c", "d", "e"], 9900, 10_200),
        [],
        "most can confirm no view"
    );
    assert_eq!(kills(&["d", "e"], 9900, 10_200), [Claim::Availability]);
    assert_eq!(broken(&with(&refusal, &[stalled(10_100, 10_150, 1)])), []);

    let other = ask(1, 2);
    let mut wide = refused(9100, other, Refusal::NoQuorum);
    if let Action::Refused { replicas, .. } = &mut wide.action {
        *replicas = set(4);
    }
    let joint = with(&refusal, &[asked(9000, other, 0), wide]);
    assert_eq!(broken(&joint), [Claim::Availability]);
    let both = [kill(8, "d", 9900, 10_200), kill(9, "e", 9900, 10_200)].concat();
    assert_eq!(
        broken(&with(&joint, &both)),
        [],
        "three of five confirm no joint view"
    );

    let mut other_view = refusal.clone();
    for record in &mut other_view {
        if let (9000.., Action::Looked { serves, .. }) = (record.at / MS, &mut record.action) {
            *serves = Some("2:w".into());
        }
    }
    assert_eq!(broken(&other_view), [], "the view changes");
    let mut blind = refusal;
    blind.retain(|it| !(9000..11_000).contains(&(it.at / MS)) || it.by != 0);
    assert_eq!(broken(&blind), [], "nobody looked");
}

#[test]
fn a_call_behind_one_that_waits_for_another_key_may_be_refused() {
    let behind = call(500, Refusal::Behind);
    assert_eq!(broken(&behind), [Claim::Availability], "nobody is ahead");
    let other = ask(1, 2);
    let ahead = [
        asked(9000, other, 2000),
        refused(11_000, other, Refusal::Contended),
    ];
    assert_eq!(broken(&with(&behind, &ahead)), []);
}

#[test]
fn availability_is_reported_by_state() {
    let kill = |id, node: &str, from| {
        let (node, back) = (node.to_owned(), Back::Whole);
        trouble(from, 15_000, id, Fault::Killed { node, back })
    };
    let state = |records: &[Record]| {
        let report = report(records, 3);
        assert_eq!(report.availability.len(), 1);
        report.availability.keys().next().copied().unwrap()
    };
    let refusal = call(500, Refusal::NoQuorum);
    assert_eq!(state(&refusal), State::default());
    let one = with(&refusal, &kill(1, "b", 9000));
    let two = with(&one, &kill(2, "c", 9000));
    let down = |down| State {
        down,
        ..State::default()
    };
    assert_eq!((state(&one), state(&two)), (down(1), down(2)));
    assert_eq!(
        state(&with(&two, &kill(3, "d", 9000))),
        down(2),
        "not the key's"
    );
    let node = "a".to_owned();
    let slow = trouble(9000, 15_000, 4, Fault::Slow { node, millis: 50 });
    let both = State { slow: 1, ..down(2) };
    assert_eq!(state(&with(&two, &slow)), both);
    assert_eq!(both.to_string(), "2 down, 1 slow");
    let while_it = with(&refusal, &kill(1, "b", 10_100));
    assert!(state(&while_it).is_changing);
}

#[test]
fn an_outage_is_not_reported_as_a_busy_key() {
    let refusal = call(500, Refusal::Contended);
    assert_eq!(broken(&refusal), [Claim::Honesty]);
    assert_eq!(broken(&call(500, Refusal::NoQuorum)), [Claim::Availability]);
    let held = look(10_300, "b", Some(VIEW), Some((None, 500)));
    assert_eq!(broken(&with(&refusal, &[held])), []);
    let other = ask(2, 1);
    let rival = [
        asked(9310, other, 0),
        granted(9320, other, 5, 9990),
        ended(9400, other),
    ];
    assert_eq!(
        broken(&with(&refusal, &rival)),
        [],
        "one that was too short to be seen"
    );
    let node = "b".to_owned();
    let stall = trouble(5000, 9500, 7, Fault::Stalled { node });
    assert_eq!(
        broken(&with(&refusal, &stall)),
        [],
        "something may have come late"
    );
    let mut blind = refusal;
    blind.retain(|it| !matches!(&it.action, Action::Looked { node, .. } if node == "c"));
    assert_eq!(broken(&blind), [], "not all were looked at");
    assert_eq!(examined(&blind, Claim::Honesty), 0);
}
