//! The servers that tests run on, by version.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A kind of server. If it is missing, the test fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// The system's redis-server, or the program in `RINGLOCK_REDIS_SERVER`.
    System,
    /// Redis 6.2, the oldest supported version, or the program in
    /// `RINGLOCK_REDIS_62_SERVER`.
    Redis62,
    /// Valkey 9, with the newest commands, or the program in
    /// `RINGLOCK_VALKEY_SERVER`.
    Valkey,
}

impl Edition {
    /// All of them: for tests in which the server's wording matters.
    pub const ALL: [Self; 3] = [Self::System, Self::Redis62, Self::Valkey];

    /// The server's program. Where the system's packages have none, this
    /// installs it below `target/`: see `scripts/server.sh`.
    pub fn program(self) -> String {
        let (variable, package) = match self {
            Self::System => ("RINGLOCK_REDIS_SERVER", None),
            Self::Redis62 => ("RINGLOCK_REDIS_62_SERVER", Some("redis-6.2")),
            Self::Valkey => ("RINGLOCK_VALKEY_SERVER", Some("valkey")),
        };
        match (std::env::var(variable), package) {
            (Ok(program), _) if !program.is_empty() => program,
            (_, None) => "redis-server".into(),
            (_, Some(package)) => install(package),
        }
    }
}

fn install(package: &str) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/server.sh");
    let output = Command::new(script)
        .arg(package)
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/server.sh runs");
    assert!(output.status.success(), "{package}: {}", output.status);
    let path = String::from_utf8(output.stdout).expect("a path");
    path.trim_end().to_owned()
}
