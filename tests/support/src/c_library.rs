//! Libraries in C, for what the tests' Rust cannot do without `unsafe`.

use std::path::PathBuf;
use std::process::Command;

/// Compiles `source` into the shared library `library`.
pub(crate) fn compile_c(source: &str, library: PathBuf) -> PathBuf {
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]);
    let status = compiler.arg(&library).arg(source).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "a C compiler, `cc`, must be installed"
    );
    library
}
