//! `exec` at a terminal, under a shell with job control.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

use crate::testbed::{Testbed, until};
use ringlock_test_support::PROMPTLY;

/// Runs a program on its own terminal and forwards the bytes.
const CARRIER: &str = "import pty, sys; pty.spawn(sys.argv[1:])";

/// A shell at a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    fn open(testbed: &Testbed) -> Self {
        let mut child = Command::new("python3")
            .args([
                "-c",
                CARRIER,
                "bash",
                "--norc",
                "--noprofile",
                "--noediting",
                "-i",
            ])
            .env("RINGLOCK_CONFIG", testbed.file())
            .env("R", env!("CARGO_BIN_EXE_ringlock"))
            .env("PS1", "")
            .current_dir(testbed.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is needed");
        let mut output = child.stdout.take().unwrap();
        let (sender, shown) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let keys = child.stdin.take().unwrap();
        let mut terminal = Self {
            child,
            keys,
            shown,
            text: String::new(),
        };
        // The terminal echoes input as well: a mark is typed in another form.
        terminal.enter("PS1=; stty -echo; echo up-$((6*7))");
        terminal.expect("up-42");
        terminal
    }

    fn keys(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
        self.keys.flush().unwrap();
    }

    fn enter(&mut self, line: &str) {
        self.keys(format!("{line}\n").as_bytes());
    }

    /// Reads until `mark` appears, and discards everything up to it; returns
    /// the text before it.
    #[track_caller]
    fn expect(&mut self, mark: &str) -> String {
        let deadline = Instant::now() + PROMPTLY.max(Duration::from_secs(10));
        loop {
            if let Some(at) = self.text.find(mark) {
                let rest = self.text.split_off(at + mark.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.text += &String::from_utf8_lossy(&bytes),
                Err(error) => panic!("no {mark:?} ({error}): {:?}", self.text),
            }
        }
    }

    /// The exit code of the last command.
    #[track_caller]
    fn code(&mut self) -> i32 {
        self.enter("echo code-$?-");
        self.expect("code-");
        let code = self.expect("-");
        code.trim_end_matches('-').parse().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.keys.write_all(b"\x03\nkill -9 %1; exit\n");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.trim_end_matches('-').parse().unwrap()).unwrap()
}

#[test]
fn a_command_reads_the_terminal_whatever_its_input_is() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let mut terminal = Terminal::open(&testbed);
    for (before, after) in [
        ("echo piped |", ""),
        ("", "</dev/null"),
        ("echo piped |", "| cat"),
    ] {
        terminal.enter(&format!(
            "{before} $R exec k --ttl 20s -- sh -c 'read a; echo asks-$((1+1)); read b </dev/tty; echo got-$b-' {after}"
        ));
        terminal.expect("asks-2");
        terminal.enter("typed");
        terminal.expect("got-typed-");
        assert_eq!(terminal.code(), 0, "{before} {after}");
    }
}

#[test]
fn the_keys_of_the_terminal_reach_the_command() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let mut terminal = Terminal::open(&testbed);
    for (key, code) in [(b"\x03", 128 + 2), (b"\x1c", 128 + 3)] {
        terminal.enter("$R exec k --ttl 20s -- sh -c 'echo run-$((1+1)); exec sleep 60'");
        terminal.expect("run-2");
        terminal.keys(key);
        assert_eq!(terminal.code(), code);
        assert_eq!(testbed.get(0, "k"), None);
    }
    // If the command handles them, it goes on, and so does exec.
    terminal.enter("$R exec k --ttl 20s -- sh -c 'trap \"echo caught-\\$((1+1))\" INT; echo run-$((1+1)); until [ \"$x\" = two ]; do read x; done; exit 9'");
    terminal.expect("run-2");
    terminal.keys(b"\x03");
    terminal.expect("caught-2");
    terminal.enter("two");
    assert_eq!(terminal.code(), 9);
}

#[test]
fn a_job_is_stopped_and_goes_on() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let mut terminal = Terminal::open(&testbed);
    terminal
        .enter("$R exec k --ttl 20s -- sh -c 'echo run-$((1+1)); read x; echo got-$x-; exit 5'");
    terminal.expect("run-2");
    terminal.keys(b"\x1a");
    terminal.expect("Stopped");
    assert_eq!(
        testbed
            .run(&["exec", "k", "--ttl", "20s", "-n", "--", "true"])
            .code,
        6,
        "it is kept"
    );
    // In the background it stops when it reads.
    terminal.enter("bg; sleep 0.2; jobs; echo listed-$((1+1))");
    terminal.expect("listed-2");
    terminal.enter("fg");
    terminal.enter("typed");
    terminal.expect("got-typed-");
    assert_eq!(terminal.code(), 5);
    assert_eq!(testbed.get(0, "k"), None);
}

#[test]
fn a_job_that_was_stopped_past_its_lease_does_nothing_more() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let mut terminal = Terminal::open(&testbed);
    let file = testbed.folder.path().join("beats");
    terminal.enter(
        "$R exec k --ttl 3s --grace 60 -- sh -c 'echo run-$((1+1)); while :; do echo beat >>beats; done'",
    );
    terminal.expect("run-2");
    until("it beats", || file.exists());
    terminal.keys(b"\x1a");
    terminal.expect("Stopped");
    // The ttl is three seconds.
    let run = testbed.run(&["exec", "k", "--ttl", "3s", "-w", "40", "--", "true"]);
    assert_eq!(run.code, 0, "{run:?}");
    let before = std::fs::metadata(&file).unwrap().len();
    terminal.enter("fg");
    terminal.expect("lost");
    assert_eq!(terminal.code(), 7);
    let after = std::fs::metadata(&file).unwrap().len();
    assert_eq!(before, after, "it ran beside the next holder");
}

#[test]
fn nothing_is_left_of_a_job_whose_exec_is_killed() {
    let testbed = Testbed::new(1, 1);
    testbed.init();
    let mut terminal = Terminal::open(&testbed);
    // The child is in the process group of the shell's job. The reader at the
    // end of the line is in it as well, and is spared.
    terminal.enter(
        "$R exec k --ttl 3s -- sh -c 'sleep 60 & echo pids-$PPID-$$-$!-; wait' | while read line; do echo $line; done; echo over-$((1+1))",
    );
    terminal.expect("pids-");
    let [_, command, child] = std::array::from_fn(|_| pid(&terminal.expect("-")));
    assert!(!is_dead(command) && !is_dead(child));
    let shell = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        let line = std::fs::read(path.join("cmdline")).ok()?;
        let file = std::fs::read(path.join("environ")).ok()?;
        let own = testbed.file();
        let own = own.to_str()?.as_bytes();
        let is_exec = line.split(|byte| *byte == 0).nth(1) == Some(b"exec");
        let is_own = file.windows(own.len()).any(|part| part == own);
        (is_exec && is_own)
            .then(|| path.file_name()?.to_str()?.parse().ok())
            .flatten()
    });
    let found: Vec<i32> = shell.collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let exec = Pid::from_raw(found[0]).unwrap();
    rustix::process::kill_process(exec, rustix::process::Signal::KILL).unwrap();
    terminal.expect("over-2");
    until("they are dead", || is_dead(command) && is_dead(child));
    let run = testbed.run(&["exec", "k", "--ttl", "3s", "-w", "40", "--", "true"]);
    assert_eq!(run.code, 0, "{run:?}");
}
