//! What is preloaded into a server: a wall clock that can be stepped, and a
//! disk that can be full. On Linux only.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/shim.c");

/// The library, and what one server is told.
#[derive(Debug)]
pub struct Shim {
    directory: TempDir,
    step_millis: i64,
}

impl Shim {
    /// Compiles it; `None` where it cannot be had, which it says.
    pub fn new() -> Option<Self> {
        if !cfg!(target_os = "linux") {
            println!("NOT RUN: stepped clocks and full disks, which are had on Linux only");
            return None;
        }
        let shim = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            step_millis: 0,
        };
        std::fs::write(shim.told(), [0; 16]).expect("a file");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]);
        let status = compiler.arg(shim.library()).arg(SOURCE).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "a C compiler, `cc`, must be installed"
        );
        Some(shim)
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("shim.so")
    }

    fn told(&self) -> PathBuf {
        self.directory.path().join("told")
    }

    /// The variables of a server that is to have it.
    pub fn environment(&self) -> Vec<(String, PathBuf)> {
        vec![
            ("LD_PRELOAD".into(), self.library()),
            ("RINGLOCK_SHIM".into(), self.told()),
        ]
    }

    /// Steps the wall clock by so much more, or back.
    pub fn step(&mut self, millis: i64) {
        self.step_millis += millis;
        self.tell(0, self.step_millis);
    }

    /// Has every write to a file fail, or no more.
    pub fn fill_disk(&self, is_full: bool) {
        self.tell(8, is_full.into());
    }

    fn tell(&self, at: u64, number: i64) {
        let file = OpenOptions::new().write(true).open(self.told());
        file.expect("the file")
            .write_all_at(&number.to_ne_bytes(), at)
            .expect("a write");
    }
}
