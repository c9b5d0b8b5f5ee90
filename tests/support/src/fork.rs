//! A library that is preloaded into a program that cannot call `fork()` itself.

use std::path::{Path, PathBuf};

use crate::c_library::compile_c;

/// Compiles it into `directory`. In a program that preloads it, `getppid()`
/// forks.
pub fn compile(directory: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fork.c");
    compile_c(source, directory.join("fork.so"))
}
