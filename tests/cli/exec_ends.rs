//! `exec` that dies, or is stopped: its command ends, and never runs at the
//! same time as the next holder.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::testbed::{Job, Testbed, until};

/// The ttl of a lock that is left to expire.
const TTL: &str = "3s";

/// How long a command may outlive `exec` at most, on a busy machine.
const BOUND: Duration = Duration::from_secs(1);

/// Appends the time and its process id to `file` every few milliseconds.
fn beats(file: &Path) -> String {
    let file = file.display();
    format!("while :; do echo $$ $(date +%s%N) >>{file}; sleep 0.005; done")
}

/// From the beats: every process that wrote, and the time of the last.
fn read(file: &Path) -> (Vec<Pid>, Duration) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut pids = Vec::new();
    let mut last = 0;
    for line in text.lines() {
        let (pid, nanos) = line.split_once(' ').unwrap();
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        if !pids.contains(&pid) {
            pids.push(pid);
        }
        last = last.max(nanos.parse().unwrap());
    }
    (pids, Duration::from_nanos(last))
}

fn clock() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

/// A job in which the command and a process that it started both beat.
fn start(testbed: &Testbed, options: &[&str]) -> (Job, PathBuf) {
    let file = testbed.folder.path().join("beats");
    std::fs::remove_file(&file).ok();
    let one = beats(&file);
    let script = format!("sh -c '{one}' & echo ready; {one}");
    let job = Job::start(testbed, &[&["k", "--ttl", TTL], options].concat(), &script);
    until("both run", || file.exists() && read(&file).0.len() == 2);
    (job, file)
}

fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// The child of `exec` that is the parent of the command.
fn supervisor(job: &Job) -> Pid {
    let pid = job.child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let only: Vec<i32> = children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(only.len(), 1, "{children}");
    Pid::from_raw(only[0]).unwrap()
}

/// Runs the next holder; returns when it had the lock.
fn next_holder(testbed: &Testbed) -> Duration {
    let run = testbed.run(&["exec", "k", "--ttl", TTL, "-w", "20", "--", "date", "+%s%N"]);
    assert_eq!(run.code, 0, "{run:?}");
    Duration::from_nanos(run.stdout.trim().parse().unwrap())
}

#[test]
fn a_command_does_not_outlive_exec() {
    for (nodes, replicas) in [(1, 1), (3, 3)] {
        let testbed = Testbed::new(nodes, replicas);
        testbed.init();
        for round in 0..2 {
            let (mut job, file) = start(&testbed, &[]);
            let killed = clock();
            job.child.kill().unwrap();
            job.child.wait().unwrap();
            let granted = next_holder(&testbed);
            let (pids, last) = read(&file);
            println!(
                "round {round} of {nodes}: the last beat {:?} after the kill, the next grant {:?} after it",
                last.saturating_sub(killed),
                granted.saturating_sub(killed)
            );
            assert!(last < granted, "two at once");
            assert!(last.saturating_sub(killed) < BOUND);
            assert!(pids.iter().all(|pid| is_dead(*pid)), "{pids:?}");
        }
    }
}

#[test]
fn a_command_does_not_outlive_its_supervisor() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let (job, file) = start(&testbed, &[]);
    let killed = clock();
    kill_process(supervisor(&job), Signal::KILL).unwrap();
    let run = job.end(false);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("supervisor"), "{run:?}");
    assert_eq!(testbed.get(0, "k"), None, "it was released");
    let (pids, last) = read(&file);
    assert!(last.saturating_sub(killed) < BOUND);
    assert!(pids.iter().all(|pid| is_dead(*pid)), "{pids:?}");
}

#[test]
fn a_command_does_not_outlive_both() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let file = testbed.folder.path().join("beats");
    let mut job = Job::start(
        &testbed,
        &["k", "--ttl", TTL],
        &format!("echo ready; {}", beats(&file)),
    );
    until("it runs", || file.exists() && !read(&file).0.is_empty());
    let supervisor = supervisor(&job);
    // Neither can react to the death of the other.
    kill_process(supervisor, Signal::STOP).unwrap();
    let killed = clock();
    job.child.kill().unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    job.child.wait().unwrap();
    let granted = next_holder(&testbed);
    let (pids, last) = read(&file);
    assert!(last < granted && last.saturating_sub(killed) < BOUND);
    assert!(is_dead(pids[0]));
}

#[test]
fn a_command_does_not_outlive_the_lease_of_an_exec_that_is_stopped() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let (job, file) = start(&testbed, &["--grace", "0"]);
    job.signal(Signal::STOP);
    let granted = next_holder(&testbed);
    let (pids, last) = read(&file);
    println!(
        "the last beat {:?} before the next grant",
        granted.saturating_sub(last)
    );
    assert!(last < granted, "two at once");
    until("all are dead", || pids.iter().all(|pid| is_dead(*pid)));
    job.signal(Signal::CONT);
    let run = job.end(false);
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("lost"), "{run:?}");
}

#[test]
fn what_a_command_started_ends_with_it_when_the_lock_is_lost() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    // `timeout` creates its own process group, which the signal to the
    // command's group does not reach; the last one ignores the signal.
    let file = testbed.folder.path().join("beats");
    let one = beats(&file);
    let script =
        format!("timeout 60 sh -c '{one}' & sh -c 'trap \"\" TERM; {one}' & echo ready; wait");
    let job = Job::start(&testbed, &["k", "--ttl", TTL, "--grace", "0.2"], &script);
    until("both run", || file.exists() && read(&file).0.len() == 2);
    assert_eq!(testbed.run(&["release", "k", "--force"]).code, 0);
    assert_eq!(job.end(false).code, 7);
    let (pids, _) = read(&file);
    assert!(pids.iter().all(|pid| is_dead(*pid)), "{pids:?}");
}

#[test]
fn what_a_command_leaves_running_is_left_alone() {
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
        "sleep 60 >/dev/null 2>&1 & echo $!",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    let pid = Pid::from_raw(run.stdout.trim().parse().unwrap()).unwrap();
    assert!(!is_dead(pid));
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(testbed.get(0, "k"), None);
}
