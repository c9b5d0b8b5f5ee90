//! A library that is preloaded into a server: a wall clock that can be stepped,
//! and a disk that can be full. On Linux only.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::c_library::compile_c;

/// Compiles it into `directory`; `None` where it is not supported, with a note
/// on stdout.
pub fn compile(directory: &Path) -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        println!("NOT RUN: stepped clocks and full disks, which are had on Linux only");
        return None;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/shim.c");
    Some(compile_c(source, directory.join("shim.so")))
}

/// The settings of one server's shim.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    reported: PathBuf,
    step_millis: i64,
}

impl Shim {
    /// With the compiled `library`, and a separate settings file for each server.
    pub fn new(library: PathBuf, reported: PathBuf) -> Self {
        std::fs::write(&reported, [0; 16]).expect("a file");
        Self {
            library,
            reported,
            step_millis: 0,
        }
    }

    /// The environment of a server that uses it.
    pub fn environment(&self) -> Vec<(String, PathBuf)> {
        vec![
            ("LD_PRELOAD".into(), self.library.clone()),
            ("RINGLOCK_SHIM".into(), self.reported.clone()),
        ]
    }

    /// Steps the wall clock by this much further, or back.
    pub fn step(&mut self, millis: i64) {
        self.step_millis += millis;
        self.report(0, self.step_millis);
    }

    /// Makes every write to a file fail, or stops that.
    pub fn fill_disk(&self, is_full: bool) {
        self.report(8, is_full.into());
    }

    fn report(&self, at: u64, number: i64) {
        let file = OpenOptions::new().write(true).open(&self.reported);
        file.expect("the file")
            .write_all_at(&number.to_ne_bytes(), at)
            .expect("a write");
    }
}
