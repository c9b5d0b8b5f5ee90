//! Exclusion, fences, losses, hopes, waits: the claims on the workers' records.

use super::*;

fn one_after_the_other(second: Time) -> Vec<Record> {
    let [a, b] = [ask(1, 1), ask(2, 1)];
    vec![
        asked(1000, a, 0),
        granted(1002, a, 5, 1990),
        asked(1500, b, 2000),
        ended(1700, a),
        granted(second, b, 6, second + 900),
        ended(second + 100, b),
    ]
}

#[test]
fn two_leases_at_once_are_seen() {
    assert_eq!(broken(&one_after_the_other(1700)), []);
    assert_eq!(broken(&one_after_the_other(1699)), [Claim::Exclusion]);
}

#[test]
fn a_lease_that_is_kept_lasts_longer_and_one_that_is_lost_less() {
    let [a, b] = [ask(1, 1), ask(2, 1)];
    let mut records = vec![
        asked(1000, a, 0),
        granted(1002, a, 5, 1990),
        asked(1500, b, 2000),
        granted(2000, b, 6, 2900),
        ended(2100, b),
        lost(1990, a),
    ];
    assert_eq!(broken(&records), []);
    records.pop();
    records.push(kept(1900, a, 2100));
    records.push(lost(2100, a));
    assert_eq!(broken(&records), [Claim::Exclusion]);
    records.pop();
    records.push(lost(1950, a));
    assert_eq!(broken(&records), []);
}

#[test]
fn an_end_that_comes_too_late_does_not_excuse() {
    let [a, b] = [ask(1, 1), ask(2, 1)];
    let records = [
        asked(1000, a, 0),
        granted(1002, a, 5, 1990),
        asked(1500, b, 2000),
        granted(1600, b, 6, 2500),
        ended(1601, a),
        ended(1700, b),
    ];
    assert_eq!(broken(&records), [Claim::Exclusion]);
}

#[test]
fn killed_processes_hold_nothing() {
    let mut records = one_after_the_other(1600);
    records.retain(|record| record.at != 1700 * MS || record.by != 1);
    let worker = 1;
    assert_eq!(broken(&records), [Claim::Exclusion]);
    records.extend(trouble(1590, 1650, 7, Fault::Slain { worker }));
    assert_eq!(broken(&records), []);
}

#[test]
fn a_stepped_clock_is_an_excuse_for_one_node_only() {
    let mut records = one_after_the_other(1699);
    for record in &mut records {
        if let Action::Granted { replicas, .. } = &mut record.action {
            *replicas = set(1);
        }
    }
    assert_eq!(claims(&report(&records, 1)), [Claim::Exclusion]);
    let node = "a".to_owned();
    let step = |node: &str, at| {
        let node = node.to_owned();
        trouble(at, at + 1, 7, Fault::Stepped { node, millis: 800 })
    };
    assert_eq!(claims(&report(&with(&records, &step("a", 1650)), 1)), []);
    assert_eq!(
        claims(&report(&with(&records, &step("b", 1650)), 1)),
        [Claim::Exclusion],
        "another node's"
    );
    let mut late = with(&records, &step("a", 1650));
    for record in late.iter_mut().filter(|it| it.by != 0) {
        record.at += 5 * SECOND;
        if let Action::Granted { until, .. } = &mut record.action {
            *until += 5 * SECOND;
        }
    }
    assert_eq!(
        claims(&report(&late, 1)),
        [Claim::Exclusion],
        "long ago: {node}"
    );
    let three = with(&one_after_the_other(1699), &step("a", 1650));
    assert_eq!(broken(&three), [Claim::Exclusion], "of a quorum");
}

#[test]
fn fences_out_of_order_are_seen() {
    let records = |second_asked, fence| {
        let [a, b] = [ask(1, 1), ask(2, 1)];
        vec![
            asked(1000, a, 0),
            granted(1002, a, 5, 1990),
            ended(1003, a),
            asked(second_asked, b, 0),
            granted(1010, b, fence, 1990),
            ended(1011, b),
        ]
    };
    assert_eq!(broken(&records(1005, 6)), []);
    assert_eq!(broken(&records(1005, 4)), [Claim::Fences]);
    assert_eq!(broken(&records(1001, 4)), [], "neither came first");
    assert_eq!(
        broken(&records(1001, 5)),
        [Claim::Fences],
        "but they differ"
    );
}

fn runs_out(reported: Option<Time>) -> Vec<Record> {
    let a = ask(1, 1);
    let mut records = vec![asked(1000, a, 0), granted(1002, a, 5, 1990)];
    records.extend(reported.map(|at| lost(at, a)));
    records.push(by(3000, 1, Action::Moved { epoch: 1 }));
    records
}

#[test]
fn a_loss_that_is_reported_late_is_seen() {
    assert_eq!(broken(&runs_out(Some(2015))), []);
    assert_eq!(broken(&runs_out(Some(2016))), [Claim::Loss]);
    assert_eq!(broken(&runs_out(None)), [Claim::Loss]);
    assert_eq!(broken(&runs_out(Some(1500))), [], "lost before its time");
    assert_eq!(report(&runs_out(Some(2015)), 3).reported_late.max, 25 * MS);
    let a = ask(1, 1);
    assert_eq!(broken(&with(&runs_out(None), &[ended(1989, a)])), []);
    assert_eq!(broken(&with(&runs_out(None), &[ended(2010, a)])), []);
    assert_eq!(
        broken(&with(&runs_out(None), &[ended(2100, a)])),
        [Claim::Loss]
    );
}

#[test]
fn a_stopped_process_cannot_be_reported() {
    let late = runs_out(Some(2200));
    assert_eq!(broken(&with(&late, &[stalled(1980, 2150, 1)])), []);
    assert_eq!(
        broken(&with(&late, &[stalled(1980, 2149, 1)])),
        [Claim::Loss]
    );
    assert_eq!(
        broken(&with(&late, &[stalled(1980, 2180, 2)])),
        [Claim::Loss]
    );
    let pause = |to| trouble(1980, to, 7, Fault::Paused { worker: 1 });
    assert_eq!(broken(&with(&late, &pause(2150))), []);
    assert_eq!(broken(&with(&late, &pause(2149))), [Claim::Loss]);
    let mut slain = runs_out(None);
    slain.pop();
    let slay = |at| trouble(at, at + 500, 7, Fault::Slain { worker: 1 });
    assert_eq!(broken(&with(&slain, &slay(2005))), []);
    let later = [by(2300, 1, Action::Moved { epoch: 1 })];
    let late = with(&with(&slain, &later), &slay(2400));
    assert_eq!(broken(&late), [Claim::Loss], "it lived, and wrote on");
}

#[test]
fn what_is_over_is_not_granted() {
    let a = ask(1, 1);
    let records = |until| {
        vec![
            asked(1000, a, 0),
            granted(1300, a, 5, until),
            ended(1301, a),
        ]
    };
    assert_eq!(broken(&records(1990)), []);
    assert_eq!(broken(&records(1280)), [Claim::FalseHope]);
    assert_eq!(
        broken(&records(2301)),
        [Claim::FalseHope],
        "for longer than asked"
    );
    let stall = [stalled(1270, 1299, 1)];
    assert_eq!(broken(&with(&records(1280), &stall)), []);
}

#[test]
fn what_is_over_is_not_prolonged() {
    let a = ask(1, 1);
    let records = |at| {
        vec![
            asked(1000, a, 0),
            granted(1002, a, 5, 1990),
            kept(at, a, at + 980),
            ended(at + 100, a),
        ]
    };
    assert_eq!(broken(&records(1989)), []);
    assert_eq!(broken(&records(2015)), [], "written down a moment later");
    assert_eq!(broken(&records(2016)), [Claim::FalseHope]);
    assert_eq!(broken(&with(&records(2016), &[stalled(2000, 2010, 1)])), []);
    // The holder learns that its time is up, and then the lease goes on.
    assert_eq!(
        broken(&with(&records(2003), &[lost(1995, a)])),
        [Claim::FalseHope]
    );
    // Most nodes report another holder.
    assert_eq!(
        broken(&with(&records(1950), &[lost(1900, a)])),
        [Claim::FalseHope]
    );
    assert_eq!(
        broken(&with(&records(1910), &[lost(1900, a)])),
        [],
        "both at once"
    );
    // It happened before, and is recorded later.
    let before = [kept(2003, a, 1999), lost(1999, a), ended(2100, a)];
    let mut records = records(1900);
    records.truncate(2);
    assert_eq!(broken(&with(&records, &before)), []);
    let records = |at| {
        let mut records = with(&records, &[kept(at, a, at + 980)]);
        records.push(ended(at + 100, a));
        records
    };
    let extended = |at, until| {
        let until = Some(until * MS);
        [of(at, a, Action::Extended { ask: a, until })]
    };
    assert_eq!(broken(&with(&records(1900), &extended(1500, 2400))), []);
    assert_eq!(
        broken(&with(&records(1900), &extended(1500, 3501))),
        [Claim::FalseHope]
    );
}

#[test]
fn a_call_that_comes_back_late_is_seen() {
    let a = ask(1, 1);
    let records = |wait, done| {
        vec![
            asked(1000, a, wait),
            refused(done, a, Refusal::NoQuorum),
            by(9000, 1, Action::Moved { epoch: 1 }),
        ]
    };
    assert_eq!(broken(&records(500, 1600)), []);
    assert_eq!(broken(&records(500, 1601)), [Claim::Punctuality]);
    assert_eq!(broken(&records(0, 2100)), []);
    assert_eq!(broken(&records(0, 2101)), [Claim::Punctuality]);
    let stall = [stalled(1400, 1501, 1), stalled(1500, 1502, 1)];
    assert_eq!(broken(&with(&records(500, 1602), &stall)), []);
    let worker = 1;
    let pause = trouble(1400, 3000, 7, Fault::Paused { worker });
    assert_eq!(broken(&with(&records(500, 3050), &pause)), []);
    let before_it_began = trouble(1005, 3000, 7, Fault::Paused { worker });
    for (done, expected) in [(3600, &[][..]), (3601, &[Claim::Punctuality])] {
        assert_eq!(
            broken(&with(&records(500, done), &before_it_began)),
            expected
        );
    }

    let mut never = records(500, 1600);
    never.remove(1);
    assert_eq!(broken(&never), [Claim::Punctuality]);
    let abandoned = of(1500, a, Action::Abandoned { ask: a });
    assert_eq!(broken(&with(&never, &[abandoned])), []);
    never.pop();
    let slain = trouble(1400, 3000, 7, Fault::Slain { worker });
    assert_eq!(broken(&with(&never, &slain)), []);
}

#[test]
fn a_key_is_handed_on() {
    let report = report(&one_after_the_other(1712), 3);
    assert_eq!(
        (report.waits.released.count, report.waits.released.max),
        (1, 12 * MS)
    );
    assert_eq!(report.waits.lapsed.count, 0);
}
