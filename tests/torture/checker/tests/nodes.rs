//! Continuity, orphans, minorities: the claims on the observed state of
//! servers.

use super::*;
use crate::history::Back;

/// One lease from 1002 to 1990, of which a, b and c have an entry.
fn lease() -> Vec<Record> {
    let a = ask(1, 1);
    vec![asked(1000, a, 0), granted(1002, a, 5, 1990), lost(1990, a)]
}

fn own(node: &str, at: Time) -> Record {
    look(at, node, Some(VIEW), Some((Some(ask(1, 1)), 2000 - at)))
}

#[test]
fn a_lease_without_a_quorum_of_entries_is_seen() {
    let of = |observations: &[Record]| broken(&with(&lease(), observations));
    let [a, b, c] = ["a", "b", "c"];
    assert_eq!(of(&[own(a, 1100), own(b, 1101), free(c, 1102)]), []);
    assert_eq!(
        of(&[own(a, 1100), free(b, 1101), free(c, 1102)]),
        [Claim::Continuity]
    );
    assert_eq!(
        of(&[free(b, 1101), free(c, 1102)]),
        [Claim::Continuity],
        "not all looked at"
    );
    let other = |node, at| look(at, node, Some(VIEW), Some((None, 800)));
    assert_eq!(
        of(&[own(a, 1100), other(b, 1101), other(c, 1102)]),
        [Claim::Continuity]
    );
    // A node that serves nothing grants nothing.
    let absent = look(1102, c, None, None);
    let observations = [own(a, 1100), free(b, 1101), absent];
    assert_eq!(of(&observations), []);
    assert_eq!(
        examined(&with(&lease(), &observations), Claim::Continuity),
        1
    );
    // Nodes outside the key's replica set are irrelevant.
    assert_eq!(
        of(&[own(a, 1100), own(b, 1101), free("d", 1102), free("e", 1103)]),
        []
    );
    // Too far apart.
    assert_eq!(of(&[own(a, 1100), free(b, 1101), free(c, 1165)]), []);
    // Seen repeatedly.
    let again = [own(a, 1100), free(b, 1101), own(a, 1120), free(c, 1130)];
    assert_eq!(of(&again), [Claim::Continuity]);
}

#[test]
fn the_moment_of_a_change_proves_nothing() {
    let gap = |at| [own("a", at), free("b", at + 1), free("c", at + 2)];
    let of = |records: &[Record], at| broken(&with(records, &gap(at)));
    assert_eq!(of(&lease(), 1985), [Claim::Continuity]);
    assert_eq!(of(&lease(), 1988), [], "it ends between the looks");
    assert_eq!(of(&lease(), 1001), [], "it begins between the looks");
    let released = with(&lease(), &[ended(1101, ask(1, 1))]);
    assert_eq!(of(&released, 1100), []);
    assert_eq!(of(&released, 1200), []);
    assert_eq!(of(&released, 1090), [Claim::Continuity]);
    // Extended during the round; the entries may be on other nodes.
    let mut moved = vec![kept(1989, ask(1, 1), 2900)];
    moved.extend(lease());
    moved.pop();
    moved.push(lost(2900, ask(1, 1)));
    assert_eq!(of(&moved, 1988), []);
    assert_eq!(of(&moved, 1991), [Claim::Continuity]);
}

#[test]
fn another_view_is_another_matter() {
    let serve = |node, at, view| look(at, node, Some(view), None);
    let of = |observations: &[Record]| broken(&with(&lease(), observations));
    assert_eq!(of(&[serve("b", 1100, "2:w"), serve("c", 1101, "2:w")]), []);
    assert_eq!(of(&[serve("b", 1100, VIEW), serve("c", 1101, "2:w")]), []);
    // Another call learns that the key has the same replica set.
    let there = ask(3, 1);
    let mut placed = vec![
        asked(1200, there, 0),
        refused(1201, there, Refusal::NoQuorum),
    ];
    if let Action::Refused { view, .. } = &mut placed[1].action {
        *view = "2:w".into();
    }
    placed.extend([serve("b", 1100, "2:w"), serve("c", 1101, "2:w")]);
    assert_eq!(of(&placed), [Claim::Continuity]);
}

#[test]
fn a_node_with_earlier_data_is_not_trusted() {
    let serve = |node, at, view| look(at, node, Some(view), None);
    let before = ["a", "b", "c"].map(|node| serve(node, 900, VIEW));
    let gap = [own("a", 1500), free("b", 1501), free("c", 1502)];
    let all = with(&with(&lease(), &before), &gap);
    let node = "c".to_owned();
    let killed = |back| {
        let node = node.clone();
        trouble(1050, 1200, 7, Fault::Killed { node, back })
    };
    assert_eq!(
        broken(&with(&all, &killed(Back::Whole))),
        [Claim::Continuity]
    );
    let truncated = with(&all, &killed(Back::Truncated));
    assert_eq!(broken(&truncated), []);
    let promoted = trouble(1050, 1200, 7, Fault::Promoted { node: node.clone() });
    assert_eq!(broken(&with(&all, &promoted)), []);
    // Once it is let in again it counts.
    let again = [serve("c", 1600, "2:w"), serve("b", 1601, "2:w")];
    let mut placed = vec![
        asked(1200, ask(3, 1), 0),
        refused(1201, ask(3, 1), Refusal::NoQuorum),
    ];
    if let Action::Refused { view, .. } = &mut placed[1].action {
        *view = "2:w".into();
    }
    assert_eq!(
        broken(&with(&with(&truncated, &again), &placed)),
        [Claim::Continuity]
    );
}

#[test]
fn a_stepped_node_is_not_counted() {
    let gap = [own("a", 1100), free("b", 1101), free("c", 1102)];
    let node = "c".to_owned();
    let step = trouble(1050, 1051, 7, Fault::Stepped { node, millis: 5000 });
    assert_eq!(broken(&with(&with(&lease(), &gap), &step)), []);
}

fn released() -> Vec<Record> {
    let a = ask(1, 1);
    vec![asked(1000, a, 0), granted(1002, a, 5, 1990), ended(1100, a)]
}

#[test]
fn an_orphan_that_outlives_its_ttl_is_seen() {
    let seen = |at| look(at, "a", Some(VIEW), Some((Some(ask(1, 1)), 10)));
    let of = |records: &[Record], at| broken(&with(records, &[seen(at)]));
    assert_eq!(of(&released(), 2350), []);
    assert_eq!(of(&released(), 2351), [Claim::Orphans]);
    let text = report(&with(&released(), &[seen(2350)]), 3).to_string();
    assert!(
        text.contains("1 orphans, keys blocked 1249.5 ms at most"),
        "{text}"
    );
    // Requests in flight are delayed.
    let stall = |node: &str, from, to| {
        let node = node.to_owned();
        with(&released(), &trouble(from, to, 7, Fault::Stalled { node }))
    };
    assert_eq!(of(&stall("a", 1050, 3000), 4500), []);
    assert_eq!(of(&stall("a", 1050, 3000), 4501), [Claim::Orphans]);
    assert_eq!(of(&stall("b", 1050, 3000), 2351), [Claim::Orphans]);
    assert_eq!(
        of(&stall("a", 2050, 3000), 2351),
        [Claim::Orphans],
        "it had arrived"
    );
    // A node that does not answer for an unknown reason delays them too.
    let blind = |to| {
        let after = (to..3400).step_by(200).map(|at| free("a", at));
        let observations: Vec<Record> = [free("a", 1050)].into_iter().chain(after).collect();
        with(&released(), &observations)
    };
    assert_eq!(of(&blind(2000), 3500), []);
    assert_eq!(of(&blind(2000), 3501), [Claim::Orphans]);
    assert_eq!(
        of(&blind(1300), 2351),
        [Claim::Orphans],
        "it always answered"
    );
    let pause = trouble(1099, 2000, 7, Fault::Paused { worker: 1 });
    assert_eq!(of(&with(&released(), &pause), 3250), []);
    assert_eq!(of(&with(&released(), &pause), 3251), [Claim::Orphans]);
}

#[test]
fn every_kind_of_end_is_one() {
    let a = ask(1, 1);
    let seen = [look(4000, "a", Some(VIEW), Some((Some(a), 10)))];
    let of = |records: &[Record]| broken(&with(records, &seen));
    let refusal = refused(1100, a, Refusal::NoQuorum);
    assert_eq!(of(&[asked(1000, a, 0), refusal]), [Claim::Orphans]);
    let abandoned = || of_ask(1100);
    assert_eq!(of(&[asked(1000, a, 0), abandoned()]), [Claim::Orphans]);
    assert_eq!(of(&lease()), [Claim::Orphans]);
    let slain = trouble(1050, 1060, 7, Fault::Slain { worker: 1 });
    assert_eq!(of(&with(&lease()[..2], &slain)), [Claim::Orphans]);
    assert_eq!(of(&with(&[asked(1000, a, 0)], &slain)), [Claim::Orphans]);
    let kept = [kept(1900, a, 2880), ended(2870, a)];
    assert_eq!(of(&with(&lease()[..2], &kept)), []);

    let nobody = [look(4000, "a", Some(VIEW), Some((Some(ask(1, 9)), 10)))];
    let moved = by(1000, 1, Action::Moved { epoch: 1 });
    let moved = [moved];
    assert_eq!(broken(&with(&moved, &nobody)), [Claim::Orphans]);
    assert_eq!(
        broken(&with(&with(&moved, &nobody), &slain)),
        [],
        "it could not say so"
    );
}

fn of_ask(at: Time) -> Record {
    let ask = ask(1, 1);
    of(at, ask, Action::Abandoned { ask })
}

#[test]
fn an_entry_that_lasts_too_long_is_seen() {
    let of = |left, node: &str| {
        let seen = look(1100, "a", Some(VIEW), Some((Some(ask(1, 1)), left)));
        let node = node.to_owned();
        let step = trouble(1000, 1001, 7, Fault::Stepped { node, millis: 900 });
        broken(&with(&with(&lease(), &[seen]), &step))
    };
    assert_eq!(of(1000, "b"), []);
    assert_eq!(of(1900, "b"), [Claim::Orphans]);
    assert_eq!(of(1900, "a"), []);
}

#[test]
fn a_minority_does_not_grant() {
    let a = ask(1, 1);
    let silence = |id, node: &str, from, to| {
        let node = node.to_owned();
        trouble(from, to, id, Fault::Stalled { node })
    };
    let grant = [asked(3000, a, 0), granted(3010, a, 5, 3990), ended(3100, a)];
    let refusal = [asked(3000, a, 0), refused(3010, a, Refusal::NoQuorum)];
    let both = |from, to| [silence(1, "b", from, to), silence(2, "c", from, to)].concat();
    assert_eq!(broken(&with(&grant, &both(1000, 9000))), [Claim::Minority]);
    assert_eq!(broken(&with(&refusal, &both(1000, 9000))), []);
    assert_eq!(
        examined(&with(&refusal, &both(1000, 9000)), Claim::Minority),
        1
    );
    assert_eq!(
        broken(&with(&grant, &both(2800, 9000))),
        [],
        "it just begins"
    );
    assert_eq!(
        broken(&with(&grant, &both(1000, 4000))),
        [],
        "it is about to end"
    );
    assert_eq!(broken(&with(&grant, &silence(1, "b", 1000, 9000))), []);
    let elsewhere = [silence(1, "d", 1000, 9000), silence(2, "c", 1000, 9000)].concat();
    assert_eq!(broken(&with(&grant, &elsewhere)), []);
    let killed = |id, node: &str| {
        let (node, back) = (node.to_owned(), Back::Empty);
        trouble(1000, 9000, id, Fault::Killed { node, back })
    };
    let both = [killed(1, "a"), killed(2, "b")].concat();
    assert_eq!(broken(&with(&grant, &both)), [Claim::Minority]);
}

#[test]
fn a_killed_node_that_is_looked_at_is_there() {
    let a = ask(1, 1);
    let killed = |id, node: &str| {
        let (node, back) = (node.to_owned(), Back::Whole);
        trouble(1000, 9000, id, Fault::Killed { node, back })
    };
    let grant = [asked(3000, a, 0), granted(3010, a, 5, 3990), ended(3100, a)];
    let both = with(&grant, &[killed(1, "a"), killed(2, "b")].concat());
    let seen = |at| [look(at, "a", Some(VIEW), None)];
    assert_eq!(broken(&with(&both, &seen(2990))), []);
    assert_eq!(broken(&with(&both, &seen(3011))), [Claim::Minority]);
    assert_eq!(
        broken(&with(&both, &seen(1400))),
        [Claim::Minority],
        "as it died"
    );
}

#[test]
fn a_view_that_nobody_could_confirm_grants_nothing() {
    let a = ask(1, 1);
    let silence = |id, node: &str, from| {
        let node = node.to_owned();
        trouble(from, 9000, id, Fault::Stalled { node })
    };
    let grant = [asked(3000, a, 0), granted(3010, a, 5, 3990), ended(3100, a)];
    let of = |from| {
        let three = (1..)
            .zip(["c", "d", "e"])
            .flat_map(|(id, it)| silence(id, it, from));
        with(&grant, &three.collect::<Vec<_>>())
    };
    assert_eq!(broken(&of(1400)), [Claim::Minority]);
    assert_eq!(broken(&of(1600)), [], "the view was confirmed a second ago");
    let (what, error) = ("add f".to_owned(), None);
    let changed = by(1200, 0, Action::Changed { what, error });
    assert_eq!(
        broken(&with(&of(1400), &[changed])),
        [],
        "there may be others"
    );
    let two = with(
        &grant,
        &[silence(1, "d", 1400), silence(2, "e", 1400)].concat(),
    );
    assert_eq!(broken(&two), []);
}
