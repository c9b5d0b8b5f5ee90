//! What is preloaded into the servers: a wall clock that can be stepped, and a
//! disk that can be full. On Linux only.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/shim.c");

/// Compiles it into `directory`; `None` where there is none, which it says.
pub(crate) fn compile(directory: &Path) -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        println!("NOT RUN: stepped clocks and full disks, which are had on Linux only");
        return None;
    }
    let library = directory.join("shim.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]);
    let status = compiler.arg(&library).arg(SOURCE).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "a C compiler, `cc`, must be installed"
    );
    Some(library)
}

/// What one server is told.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
    told: PathBuf,
    step_millis: i64,
}

impl Shim {
    pub(crate) fn new(library: PathBuf, told: PathBuf) -> Self {
        std::fs::write(&told, [0; 16]).expect("a file");
        Self {
            library,
            told,
            step_millis: 0,
        }
    }

    pub(crate) fn preload(&self, server: &mut Command) {
        server.env("LD_PRELOAD", &self.library);
        server.env("TORTURE_SHIM", &self.told);
    }

    /// Steps the wall clock forward once more.
    pub(crate) fn step(&mut self, millis: u64) {
        self.step_millis += i64::try_from(millis).expect("a short step");
        self.tell(0, self.step_millis);
    }

    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.tell(8, is_full.into());
    }

    fn tell(&self, at: u64, number: i64) {
        let file = OpenOptions::new().write(true).open(&self.told);
        let file = file.expect("the file");
        file.write_all_at(&number.to_ne_bytes(), at)
            .expect("a write");
    }
}
