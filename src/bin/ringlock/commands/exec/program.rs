//! Looks up a command as the system does, before a lock is acquired for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::output::{Exit, Failure};

/// An error if `program` cannot be run, with the exit code that shells use:
/// 127 if there is none, 126 if it is not executable.
///
/// The answer may change before the command is started; the start reports the
/// same two codes.
pub(super) fn check(program: &OsStr) -> Result<(), Failure> {
    if program.is_empty() {
        return Err(refusal(program, Exit::NotFound));
    }
    if program.as_bytes().contains(&b'/') {
        return match fault(Path::new(program)) {
            None => Ok(()),
            Some(exit) => Err(refusal(program, exit)),
        };
    }
    // Without PATH the system uses a default path.
    let Some(path) = std::env::var_os("PATH") else {
        return Ok(());
    };
    let mut exit = Exit::NotFound;
    for folder in std::env::split_paths(&path) {
        // An empty entry is the current folder.
        let folder = match folder.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => folder,
        };
        match fault(&folder.join(program)) {
            None => return Ok(()),
            Some(Exit::NotFound) => {}
            // The search continues: a later folder may have an executable one.
            Some(found) => exit = found,
        }
    }
    Err(refusal(program, exit))
}

fn fault(path: &Path) -> Option<Exit> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Some(Exit::NotExecutable)
        }
        Err(_) => Some(Exit::NotFound),
        Ok(data) if data.is_dir() => Some(Exit::NotExecutable),
        Ok(_) => access(path, Access::EXEC_OK)
            .is_err()
            .then_some(Exit::NotExecutable),
    }
}

fn refusal(program: &OsStr, exit: Exit) -> Failure {
    let why = match exit {
        Exit::NotFound => "command not found",
        _ => "permission denied: it is a directory, or not executable",
    };
    refuse(program, exit, why)
}

/// The failure of a command that did not start.
pub(super) fn refuse(program: &OsStr, exit: Exit, why: &str) -> Failure {
    let message = format!("{}: {why}", crate::output::printable(program.as_bytes()));
    Failure::new(exit, message).next("name a program that can be run after --")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_the_system_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "no program").unwrap();
        let below = plain.join("below");
        let exit = |program: &OsStr| check(program).err().map(|failure| failure.exit);
        for (program, expected) in [
            (OsStr::new("sh"), None),
            (OsStr::new("/bin/sh"), None),
            (OsStr::new(""), Some(Exit::NotFound)),
            (OsStr::new("no-such-program-anywhere"), Some(Exit::NotFound)),
            (OsStr::new("/nowhere/program"), Some(Exit::NotFound)),
            (below.as_os_str(), Some(Exit::NotFound)),
            (plain.as_os_str(), Some(Exit::NotExecutable)),
            (folder.path().as_os_str(), Some(Exit::NotExecutable)),
        ] {
            assert_eq!(exit(program), expected, "{}", program.display());
        }
    }
}
