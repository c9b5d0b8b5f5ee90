//! `exec`: a command under a lock.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, Job, OTHER, TOKEN, WAIT, until};
use crate::common::ms;
use serde_json::Value;

#[test]
fn exec_ends_as_its_command_does() {
    let bed = Bed::new(1, 1);
    let run = bed.run(&["exec", "k", "--", "sh", "-c", "echo $RINGLOCK_KEY; exit 9"]);
    assert_eq!((run.code, &*run.stdout), (9, "k\n"), "{run:?}");
    let run = bed.run(&["exec", "k", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(run.code, 128 + 9, "{run:?}");
    let run = bed.run(&["exec", "k", "--", "/nowhere/program"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("/nowhere/program"), "{run:?}");
    assert_eq!(bed.get(0, "k"), None, "it was released each time");

    let script = "echo to be seen; exit 4";
    let run = bed.run(&["exec", "k", "--json", "--", "sh", "-c", script]);
    let json = run.json();
    assert_eq!(
        (run.code, &json["code"], &json["exit_code"]),
        (4, &4.into(), &4.into())
    );
    assert_eq!(
        (&json["lost"], &json["signal"]),
        (&Value::Null, &Value::Null)
    );
    assert!(run.stderr.contains("to be seen"), "{run:?}");
    let next = bed.run(&["exec", "k", "--", "sh", "-c", "echo $RINGLOCK_FENCE"]);
    let fence: u64 = next.stdout.trim().parse().unwrap();
    assert!(fence > json["fence"].as_u64().unwrap(), "{fence} {json}");
}

#[test]
fn exec_keeps_the_lock_and_others_out() {
    let bed = Bed::new(3, 3);
    let job = Job::start(&bed, &["k"], "echo ready; cat");
    let first = bed.get(0, "k").expect("an entry");
    let begun = Instant::now();
    let run = bed.run(&["exec", "k", "--wait", "0s", "--json", "--", "true"]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (6, &6.into()),
        "{run:?}"
    );
    // Longer than the ttl: it is kept alive.
    let run = bed.run(&["exec", "k", "--wait", "1500ms", "--", "true"]);
    assert_eq!(run.code, 6, "{run:?}");
    assert!(
        begun.elapsed() > ms(1500) && run.stderr.contains("held by"),
        "{run:?}"
    );
    assert_eq!(bed.get(0, "k"), Some(first));
    assert_eq!(job.end(true).code, 0);
    assert_eq!(
        bed.run(&["exec", "k", "--wait", "0s", "--", "true"]).code,
        0
    );
}

#[test]
fn exec_tells_an_outage_apart_from_a_busy_lock() {
    let mut bed = Bed::new(1, 1);
    bed.init();
    bed.servers[0].kill();
    let run = bed.run(&["exec", "k", "--wait", "200ms", "--", "true"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("next: "), "{run:?}");
}

#[test]
fn exec_passes_signals_on() {
    let bed = Bed::new(1, 1);
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
    ] {
        let script = format!("trap 'echo got {name}; exit 5' {name}; echo ready; {WAIT}");
        let job = Job::start(&bed, &["k"], &script);
        job.signal(signal);
        let run = job.end(false);
        assert_eq!((run.code, run.stdout), (5, format!("got {name}\n")));
        assert_eq!(bed.get(0, "k"), None);
    }
    // A command that takes no care of it, and what it started.
    let job = Job::start(&bed, &["k"], "sleep 60 & echo ready; wait");
    job.signal(Signal::TERM);
    assert_eq!(job.end(false).code, 128 + 15);
}

#[test]
fn exec_that_is_interrupted_while_it_waits_leaves_nothing() {
    let bed = Bed::new(1, 1);
    bed.init();
    bed.set(0, "k", TOKEN, 60_000);
    let mut command = bed.command(&["exec", "k", "--wait", "1m", "--", "true"]);
    let mut child = command.spawn().unwrap();
    let mut client = bed.servers[0].client();
    // It watches the key: it has tried, and waits.
    until("it waits", || {
        let info: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        info.contains("flags=t")
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    assert_eq!(bed.get(0, "k").as_deref(), Some(TOKEN));
}

#[test]
fn exec_ends_its_command_when_the_lock_is_lost() {
    let bed = Bed::new(1, 1);
    let script = format!("trap 'echo got USR1; exit 0' USR1; echo ready; {WAIT}");
    let job = Job::start(&bed, &["k", "--signal", "USR1"], &script);
    assert_eq!(bed.run(&["release", "k", "--force"]).code, 0);
    let run = job.end(false);
    assert_eq!((run.code, &*run.stdout), (7, "got USR1\n"), "{run:?}");
    assert!(run.stderr.contains("lost"), "{run:?}");

    // One that does not end by itself is killed.
    let job = Job::start(
        &bed,
        &["k", "--grace", "50ms"],
        "trap '' TERM; echo ready; cat",
    );
    assert_eq!(bed.run(&["release", "k", "--force"]).code, 0);
    assert_eq!(job.end(false).code, 7);

    let run = bed.run(&[
        "exec",
        "k",
        "--max-hold",
        "100ms",
        "--json",
        "--",
        "sleep",
        "60",
    ]);
    let json = run.json();
    assert_eq!(
        (run.code, &json["signal"], &json["exit_code"]),
        (7, &15.into(), &7.into())
    );
    assert!(
        json["lost"].as_str().unwrap().contains("max_hold"),
        "{json}"
    );
    assert_eq!(run.error()["exit_code"], 7);
}

#[test]
fn exec_tells_a_loss_that_shows_only_at_the_end() {
    let bed = Bed::new(1, 1);
    let job = Job::start(&bed, &["k", "--ttl", "30s"], "echo ready; cat");
    // Long before it is next extended.
    bed.set(0, "k", OTHER, 60_000);
    assert_eq!(job.end(true).code, 7);
    assert_eq!(bed.get(0, "k").as_deref(), Some(OTHER));
}
