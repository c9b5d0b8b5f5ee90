//! Views, the resource, the end, and whether there was enough to judge.

use super::*;

#[test]
fn views_rise() {
    let moved = |at, worker, epoch| by(at, worker, Action::Moved { epoch });
    assert_eq!(
        broken(&[moved(1, 1, 2), moved(2, 1, 3), moved(3, 2, 1)]),
        []
    );
    assert_eq!(
        broken(&[moved(1, 1, 2), moved(2, 1, 1)]),
        [Claim::ViewsRise]
    );
    assert_eq!(
        broken(&[moved(1, 1, 2), moved(2, 1, 2)]),
        [Claim::ViewsRise]
    );
}

#[test]
fn a_stale_write_that_is_taken_is_seen() {
    let offered = |at, fence, is_taken, believed| {
        let key = "k".to_owned();
        let ask = ask(1, fence);
        let action = Action::Offered {
            ask,
            key,
            fence,
            is_taken,
            believed,
        };
        by(at, 9, action)
    };
    let good = [
        offered(1, 5, true, true),
        offered(2, 5, true, true),
        offered(3, 7, true, true),
        offered(4, 5, false, true),
        offered(5, 6, false, false),
    ];
    let report = report(&good, 3);
    assert_eq!(claims(&report), []);
    let counts = &report.counts;
    assert_eq!(
        (counts.stale, counts.stale_believed, counts.stale_refused),
        (2, 1, 2)
    );
    let bad = with(&good, &[offered(6, 6, true, true)]);
    assert_eq!(broken(&bad), [Claim::FencedStore]);
}

#[test]
fn grants_that_do_not_resume_are_seen() {
    let killed = |from, id, node: &str| {
        let node = node.to_owned();
        let back = crate::history::Back::Empty;
        trouble(from, from + 100, id, Fault::Killed { node, back })
    };
    let got = |number, at| {
        let ask = ask(1, number);
        [
            asked(at - 2, ask, 0),
            granted(at, ask, at, at + 500),
            ended(at + 50, ask),
        ]
    };
    // Requests that get no grant.
    let asks: Vec<Record> = (100..120)
        .flat_map(|number| {
            let (ask, at) = (ask(2, number), 2_200 + 10 * number);
            [
                asked(at, ask, 0),
                of(at + 1, ask, Action::Abandoned { ask }),
            ]
        })
        .collect();
    // The longest ttl is two seconds, and five more are allowed.
    let round = [&killed(1_000, 1, "a")[..], &killed(2_000, 2, "b"), &asks].concat();
    let again = killed(20_000, 3, "c");
    let early = with(
        &round,
        &[&got(1, 9_000)[..], &again, &got(2, 22_000)].concat(),
    );
    assert_eq!(broken(&early), []);
    assert_eq!(examined(&early, Claim::Resumption), 1);
    let late = with(
        &round,
        &[&got(1, 9_200)[..], &again, &got(2, 22_000)].concat(),
    );
    assert_eq!(broken(&late), [Claim::Resumption]);
    // The next fault comes too soon to judge.
    let soon = killed(9_000, 3, "c");
    let soon = with(&round, &[&soon[..], &got(1, 10_000)].concat());
    assert_eq!(examined(&soon, Claim::Resumption), 0);
    // A machine that stalled gets more time.
    let stood = with(&late, &[stalled(3_000, 4_000, 1)]);
    assert_eq!(broken(&stood), []);
}

#[test]
fn a_key_that_cannot_be_acquired_at_the_end_is_seen() {
    let a = ask(1, 1);
    let records = [asked(1000, a, 0), granted(1002, a, 5, 1990), ended(1100, a)];
    let swept = |error: Option<&str>| {
        let error = error.map(str::to_owned);
        let key = "k".to_owned();
        by(1200, 0, Action::Swept { key, error })
    };
    let calm = by(1150, 0, Action::Calm);
    let of = |more: &[Record]| claims(&checker(&with(&records, more), &rules(3)));
    assert_eq!(of(&[calm.clone(), swept(None)]), []);
    assert_eq!(of(&[calm.clone(), swept(Some("no"))]), [Claim::Liveness]);
    assert_eq!(of(&[calm]), [Claim::Liveness]);
    assert_eq!(of(&[swept(None)]), [Claim::Liveness]);
}

#[test]
fn a_long_run_without_observations_proves_nothing() {
    let a = ask(1, 1);
    let records = |end| {
        vec![
            asked(1000, a, 0),
            granted(1002, a, 5, 1990),
            ended(1100, a),
            by(end, 1, Action::Moved { epoch: 1 }),
        ]
    };
    assert_eq!(broken(&records(2000)), []);
    let report = report(&records(70_000), 3);
    assert!(claims(&report).iter().all(|&claim| claim == Claim::Worth));
    let about = |text: &str| report.violations.iter().any(|it| it.detail.contains(text));
    assert!(about("no look in") && about("Continuity had nothing"));
    assert!(!about("no grant in") && !about("Exclusion had nothing"));
    assert!(!about("Minority had"), "not every run can do that");
    assert!(report.unexamined().contains(&Claim::Continuity));
    assert!(report.to_string().contains("NOTHING EXAMINED"));
}

#[test]
fn a_torn_history_is_seen() {
    let a = ask(1, 1);
    assert_eq!(broken(&[granted(1002, a, 5, 1990)]), [Claim::Worth]);
}

#[test]
fn no_records_are_no_success() {
    let report = checker(&[], &rules(3));
    assert_eq!(claims(&report), [Claim::Liveness]);
}

#[test]
fn what_is_reported_shows_the_records_and_has_an_end() {
    let [a, b] = [ask(1, 1), ask(2, 1)];
    let mut records = vec![
        asked(1000, a, 0),
        granted(1002, a, 5, 1990),
        asked(1001, b, 0),
        granted(1003, b, 6, 1990),
        ended(1100, a),
        ended(1100, b),
    ];
    let worker = 1;
    records.extend(trouble(1050, 1060, 7, Fault::Paused { worker }));
    let reported = report(&records, 3);
    let detail = &reported.violations[0].detail;
    assert_eq!(detail.matches("Granted").count(), 2, "{detail}");
    assert_eq!(detail.matches("Ended").count(), 2, "{detail}");
    assert!(reported.to_string().contains(detail));

    let mut many = Vec::new();
    for number in 2..102 {
        let other = ask(2, number);
        many.extend([asked(1200, other, 0), granted(1210, other, number, 1990)]);
        many.push(ended(1211, other));
    }
    let reported = report(&many, 3);
    assert_eq!(claims(&reported), [Claim::Exclusion; 20]);
    assert_eq!(reported.claims[&Claim::Exclusion].violations, 99);
}
