//! `exec`: a command under a lock.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::testbed::{Job, OTHER, TOKEN, TTL, Testbed, WAIT, until};
use ringlock_test_support::ms;
use serde_json::Value;

#[test]
fn exec_ends_as_its_command_does() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let run = testbed.run(&[
        "exec",
        "k",
        "--ttl",
        TTL,
        "--",
        "sh",
        "-c",
        "echo $RINGLOCK_KEY; exit 9",
    ]);
    assert_eq!((run.code, &*run.stdout), (9, "k\n"), "{run:?}");
    let run = testbed.run(&["exec", "k", "--ttl", TTL, "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(run.code, 128 + 9, "{run:?}");
    assert_eq!(testbed.get(0, "k"), None, "it was released each time");

    let script = "echo to be seen; exit 4";
    let run = testbed.run(&[
        "exec", "k", "--ttl", TTL, "--json", "--", "sh", "-c", script,
    ]);
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
    let next = testbed.run(&[
        "exec",
        "k",
        "--ttl",
        TTL,
        "--",
        "sh",
        "-c",
        "echo $RINGLOCK_FENCE",
    ]);
    let fence: u64 = next.stdout.trim().parse().unwrap();
    assert!(fence > json["fence"].as_u64().unwrap(), "{fence} {json}");
}

#[test]
fn exec_keeps_the_lock_and_others_out() {
    let testbed = Testbed::new(3, 3);
    testbed.init();
    let job = Job::start(&testbed, &["k", "--ttl", "3s"], "echo ready; cat");
    let first = testbed.get(0, "k").expect("an entry");
    let begun = Instant::now();
    let run = testbed.run(&[
        "exec", "k", "--ttl", TTL, "--wait", "0s", "--json", "--", "true",
    ]);
    assert_eq!(
        (run.code, &run.error()["exit_code"]),
        (6, &6.into()),
        "{run:?}"
    );
    // Longer than the ttl: it is kept alive.
    let run = testbed.run(&["exec", "k", "--ttl", TTL, "--wait", "4s", "--", "true"]);
    assert_eq!(run.code, 6, "{run:?}");
    assert!(
        begun.elapsed() > ms(4000) && run.stderr.contains("held by"),
        "{run:?}"
    );
    assert_eq!(testbed.get(0, "k"), Some(first));
    assert_eq!(job.end(true).code, 0);
    assert_eq!(
        testbed
            .run(&["exec", "k", "--ttl", TTL, "--wait", "0s", "--", "true"])
            .code,
        0
    );
}

#[test]
fn exec_distinguishes_an_outage_from_a_busy_lock() {
    let mut testbed = Testbed::new(1, 1);
    testbed.init();
    testbed.servers[0].kill();
    let run = testbed.run(&["exec", "k", "--wait", "200ms", "--", "true"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("next: "), "{run:?}");
}

#[test]
fn exec_passes_signals_on() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!("trap 'echo got {name}; exit 5' {name}; echo ready; {WAIT}");
        let job = Job::start(&testbed, &["k", "--ttl", TTL], &script);
        job.signal(signal);
        let run = job.end(false);
        assert_eq!((run.code, run.stdout), (5, format!("got {name}\n")));
        assert_eq!(testbed.get(0, "k"), None);
    }
    // A command without a handler ends, with its child processes.
    let job = Job::start(
        &testbed,
        &["k", "--ttl", TTL],
        "sleep 60 & echo ready; wait",
    );
    job.signal(Signal::TERM);
    assert_eq!(job.end(false).code, 128 + 15);
    // A command that ignores the signal is killed after the grace period, with
    // its child processes.
    let script = "trap '' TERM; sleep 60 & echo ready; wait; wait";
    let job = Job::start(&testbed, &["k", "--ttl", TTL, "--grace", "0.1"], script);
    job.signal(Signal::TERM);
    assert_eq!(job.end(false).code, 128 + 9);
    assert_eq!(testbed.get(0, "k"), None, "it was released");
}

#[test]
fn what_is_ignored_at_the_start_stays_ignored() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
    ] {
        let ringlock = env!("CARGO_BIN_EXE_ringlock");
        // The command's signal to itself shows which disposition it inherited.
        let command = format!("kill -{name} $$; echo ready; cat; echo alive");
        let script =
            format!("trap '' {name}; exec {ringlock} exec k --ttl {TTL} -- sh -c '{command}'");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]);
        let job = Job::of(&testbed, shell);
        assert_eq!(job.first, "ready", "{name}");
        job.signal(signal);
        let run = job.end(true);
        assert_eq!((run.code, &*run.stdout), (0, "alive\n"), "{name}: {run:?}");
    }
    let mut nohup = std::process::Command::new("nohup");
    nohup.args([
        env!("CARGO_BIN_EXE_ringlock"),
        "exec",
        "k",
        "--ttl",
        TTL,
        "--",
    ]);
    nohup.args(["sh", "-c", "echo ready; cat; exit 4"]);
    let job = Job::of(&testbed, nohup);
    job.signal(Signal::HUP);
    assert_eq!(job.end(true).code, 4);
}

#[test]
fn exec_starts_no_cluster_unasked() {
    let testbed = Testbed::new(3, 3);
    let run = testbed.run(&["exec", "k", "--", "true"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("`ringlock init`"), "{run:?}");
    for server in &testbed.servers {
        let size: u64 = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
        assert_eq!(size, 0, "it has written");
    }
    assert_eq!(
        testbed
            .run(&["exec", "k", "--init", "--ttl", TTL, "--", "true"])
            .code,
        0
    );
    let run = testbed.run(&["exec", "k", "--ttl", TTL, "--", "true"]);
    assert_eq!(run.code, 0, "{run:?}");
}

/// Runs `exec k` with each of these arguments, and asserts its exit code.
#[track_caller]
fn check(testbed: &Testbed, cases: &[(&[&str], i32)]) {
    for (arguments, code) in cases {
        let run = testbed.run(&[&["exec", "k", "--ttl", TTL], *arguments].concat());
        assert_eq!(run.code, *code, "{arguments:?}: {run:?}");
        if code == &126 || code == &127 {
            let program = arguments.last().unwrap();
            assert!(run.stderr.contains(program), "{arguments:?}: {run:?}");
        }
    }
}

/// A file of the bed, with this text and mode.
fn file(testbed: &Testbed, name: &str, text: &str, mode: u32) -> String {
    let path = testbed.folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn exit_codes_are_those_of_the_shell() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let plain = &*file(&testbed, "plain", "", 0o644);
    let orphan = &*file(&testbed, "orphan", "#!/nowhere/interpreter\n", 0o755);
    let script = &*file(&testbed, "script", "exit 5\n", 0o755);
    let folder = testbed.folder.path().to_str().unwrap();
    let own = "test \"$*\" = \"--json -n -- x\"";
    check(
        &testbed,
        &[
            (&["--", "sh", "-c", "exit 255"], 255),
            (&["--", "sh", "-c", "kill -TERM $$"], 143),
            (&["--", "no-such-command"], 127),
            (&["--", "/nowhere/program"], 127),
            (&["--", ""], 127),
            (&["--", plain], 126),
            (&["--", folder], 126),
            // It is found, and fails only when it is started.
            (&["--", orphan], 127),
            (&["--", script], 5),
            // The following arguments belong to the command.
            (&["--", "sh", "-c", own, "sh", "--json", "-n", "--", "x"], 0),
        ],
    );
    assert_eq!(testbed.get(0, "k"), None, "it was released each time");
}

#[test]
fn options_and_exit_codes_are_those_of_flock() {
    let mut testbed = Testbed::new(1, 1);
    testbed.init();
    let plain = &*file(&testbed, "plain", "", 0o644);
    let sleep = ["--max-hold", "0.1", "--lost-exit-code", "98"];
    check(
        &testbed,
        &[
            (&["-n", "--", "true"], 0),
            (&["-w", "0.5", "--", "true"], 0),
            (&["-n", "-w", "5", "--", "true"], 2),
            (&["-E", "256", "--", "true"], 2),
            (&["true"], 2),
            (&[&sleep[..], &["--", "sleep", "60"]].concat(), 98),
        ],
    );
    testbed.set(0, "k", TOKEN, 60_000);
    check(
        &testbed,
        &[
            (&["-n", "--", "true"], 6),
            (&["--nb", "-E", "42", "--", "true"], 42),
            (&["-w", "0.1", "-E", "0", "--", "true"], 0),
            (
                &["--timeout", "0", "--conflict-exit-code", "1", "--", "true"],
                1,
            ),
            // It is looked up before the lock is requested.
            (&["-w", "600", "--", "no-such-command"], 127),
            (&["-w", "600", "--", plain], 126),
        ],
    );
    let run = testbed.run(&[
        "exec", "k", "--ttl", TTL, "-n", "-E", "42", "--json", "--", "true",
    ]);
    assert_eq!(run.error()["exit_code"], 42, "{run:?}");
    assert_eq!(testbed.get(0, "k").as_deref(), Some(TOKEN));

    testbed.servers[0].kill();
    let outage = ["-w", "0.2", "-E", "42", "--failed-exit-code", "99"];
    check(&testbed, &[(&[&outage[..], &["--", "true"]].concat(), 99)]);
}

#[test]
fn a_closed_input_is_an_empty_one() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let mut shell = std::process::Command::new("sh");
    let ringlock = env!("CARGO_BIN_EXE_ringlock");
    shell.args([
        "-c",
        &format!("exec {ringlock} exec k --ttl {TTL} -- cat <&-"),
    ]);
    shell.env("RINGLOCK_CONFIG", testbed.file());
    let output = shell.output().unwrap();
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
}

#[test]
fn exec_that_is_interrupted_while_it_waits_leaves_nothing() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    testbed.set(0, "k", TOKEN, 60_000);
    let mut command = testbed.command(&["exec", "k", "--wait", "1m", "--", "true"]);
    let mut child = command.spawn().unwrap();
    let mut client = testbed.servers[0].client();
    // It has tried, and watches the key.
    until("it waits", || {
        let info: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        info.contains("flags=t")
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    assert_eq!(testbed.get(0, "k").as_deref(), Some(TOKEN));
}

#[test]
fn exec_ends_its_command_when_the_lock_is_lost() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let script = format!("trap 'echo got USR1; exit 0' USR1; echo ready; {WAIT}");
    let job = Job::start(&testbed, &["k", "--ttl", TTL, "--signal", "USR1"], &script);
    assert_eq!(testbed.run(&["release", "k", "--force"]).code, 0);
    let run = job.end(false);
    assert_eq!((run.code, &*run.stdout), (7, "got USR1\n"), "{run:?}");
    assert!(run.stderr.contains("lost"), "{run:?}");

    // A command that does not end by itself is killed.
    let job = Job::start(
        &testbed,
        &["k", "--ttl", TTL, "--grace", "50ms"],
        "trap '' TERM; echo ready; cat",
    );
    assert_eq!(testbed.run(&["release", "k", "--force"]).code, 0);
    assert_eq!(job.end(false).code, 7);

    let run = testbed.run(&[
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
fn exec_reports_a_loss_that_shows_only_at_the_end() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let job = Job::start(&testbed, &["k", "--ttl", "30s"], "echo ready; cat");
    // Long before the next extend.
    testbed.set(0, "k", OTHER, 60_000);
    assert_eq!(job.end(true).code, 7);
    assert_eq!(testbed.get(0, "k").as_deref(), Some(OTHER));
}
