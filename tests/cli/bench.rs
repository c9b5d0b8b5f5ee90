//! `ringlock bench` becomes the program `ringlock-bench`.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::testbed::Run;

/// `ringlock` in its own folder, because the real `ringlock-bench` may be next
/// to the built one; and a folder that is all of PATH.
struct Installation {
    own: TempDir,
    path: TempDir,
}

impl Installation {
    fn new() -> Self {
        // Links need the file system of the built program.
        let folder = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (own, path) = (folder(), folder());
        let built = env!("CARGO_BIN_EXE_ringlock");
        fs::hard_link(built, own.path().join("ringlock")).unwrap();
        Self { own, path }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.own.path().join("ringlock"));
        command.args(arguments).env("PATH", self.path.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        Run {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Installs a `ringlock-bench` that prints its process and its arguments.
fn install(folder: &Path, exit_code: u8) {
    let script = format!("#!/bin/sh\necho \"$$ $*\"\nexit {exit_code}\n");
    // Another process writes it: while this one has it open for writing, a
    // concurrent test may start a child that inherits the handle, and a file
    // that is open for writing cannot be executed.
    let status = Command::new("/bin/sh")
        .args(["-c", r#"printf %s "$1" > "$2" && chmod +x "$2""#, "sh"])
        .arg(script)
        .arg(folder.join("ringlock-bench"))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn it_is_replaced_by_the_program_in_the_path() {
    let installation = Installation::new();
    install(installation.path.path(), 5);
    for (arguments, passed) in [
        (&["bench"][..], ""),
        (&["bench", "--quick", "--only", "hot"], "--quick --only hot"),
        (&["bench", "--help"], "--help"),
        (&["bench", "-h"], "-h"),
        (&["bench", "--quick", "--json"], "--quick --json"),
        (&["bench", "--json"], "--json"),
        (&["--json", "bench", "--keys", "7"], "--keys 7 --json"),
    ] {
        let mut command = installation.command(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = String::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, format!("{} {passed}\n", child.id()));
        assert_eq!(child.wait().unwrap().code(), Some(5), "{arguments:?}");
    }
}

#[test]
fn the_program_next_to_it_comes_first() {
    let installation = Installation::new();
    install(installation.path.path(), 5);
    install(installation.own.path(), 6);
    assert_eq!(installation.run(&["bench"]).code, 6);
}

#[test]
fn without_the_program_it_reports_how_to_get_it() {
    let installation = Installation::new();
    let ways = [
        "cargo install --path benches/harness",
        "cargo run -p ringlock-bench --release -- ",
    ];
    let run = installation.run(&["bench", "--quick"]);
    assert_eq!((run.code, &*run.stdout), (127, ""), "{run:?}");
    for way in ways {
        assert!(run.stderr.contains(way), "{run:?}");
    }
    for arguments in [
        ["bench", "--quick", "--json"],
        ["--json", "bench", "--quick"],
    ] {
        let run = installation.run(&arguments);
        assert_eq!((run.code, &*run.stdout), (127, ""), "{run:?}");
        assert_eq!(run.error()["exit_code"], json!(127));
        assert!(run.error()["next"].as_str().unwrap().contains(ways[0]));
    }

    let run = installation.run(&["bench", "--help"]);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    let help = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains(ways[0]), "{run:?}");
}

#[test]
fn a_program_that_is_not_executable_is_named() {
    let installation = Installation::new();
    fs::write(installation.own.path().join("ringlock-bench"), "").unwrap();
    let run = installation.run(&["bench"]);
    assert_eq!(run.code, 126, "{run:?}");
    assert!(run.stderr.contains("not executable"), "{run:?}");
}
