//! Passwords that may change while a router runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// A password that may change while a router runs. It is read again for every
/// connection, also for the next one after a server refused it.
///
/// Open connections are not affected. No connection is ever refused if the server
/// is given the new password and keeps the old one until the file is updated (`ACL
/// SETUSER ringlock >NEW`, and later `<OLD`).
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use ringlock::{NodeConfig, Password};
///
/// let mut node = NodeConfig::new("a", "redis://10.0.0.1");
/// node.username = Some("ringlock".into());
/// node.password = Some(Password::file("/run/secrets/redis"));
///
/// // Or whatever the code has that renews it:
/// let token = Arc::new(Mutex::new(String::from("the first")));
/// node.password = Some(Password::from_fn(move || {
///     Ok(token.lock().map_err(|_| "whoever renews it has panicked")?.clone())
/// }));
/// ```
#[derive(Clone)]
pub struct Password(Source);

#[derive(Clone)]
enum Source {
    #[cfg(feature = "redis")]
    Written(String),
    File(PathBuf),
    Code(Arc<Provider>),
}

type Problem = Box<dyn std::error::Error + Send + Sync>;
type Provider = dyn Fn() -> Result<String, Problem> + Send + Sync;

impl Password {
    /// The password in a file, without the trailing line end.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// The return value of `provide`. It is called within the runtime and must not
    /// block: let it return a value that other code has fetched. Its errors are
    /// shown, and must not contain secrets.
    pub fn from_fn(provide: impl Fn() -> Result<String, Problem> + Send + Sync + 'static) -> Self {
        Self(Source::Code(Arc::new(provide)))
    }

    /// A password that never changes.
    #[cfg(feature = "redis")]
    pub(crate) fn written(password: impl Into<String>) -> Self {
        Self(Source::Written(password.into()))
    }

    /// The current password, or why there is none.
    #[cfg(feature = "redis")]
    pub(crate) fn get(&self) -> Result<String, String> {
        match &self.0 {
            Source::Written(password) => Ok(password.clone()),
            Source::File(path) => read(path),
            Source::Code(provide) => {
                provide().map_err(|error| format!("there is no password: {error}"))
            }
        }
    }

    /// Where to look if a server refuses it.
    #[cfg(feature = "redis")]
    pub(crate) fn whence(&self) -> String {
        match &self.0 {
            Source::Written(_) => "user and password in the node's url".into(),
            Source::File(path) => format!("username, and the password in {}", path.display()),
            Source::Code(_) => "username, and what provides the password".into(),
        }
    }
}

#[cfg(feature = "redis")]
fn read(path: &std::path::Path) -> Result<String, String> {
    use std::io::Read;

    /// A longer text is not a password.
    const LONGEST: u64 = 64 * 1024;
    let about = |problem: &dyn fmt::Display| {
        let path = path.display();
        format!("the password_file {path} cannot be read: {problem}")
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| about(&error))?;
    let mut start = file.take(LONGEST);
    let read = start.read_to_string(&mut text);
    read.map_err(|error| about(&error))?;
    let password = text.trim_end_matches(['\r', '\n']);
    match password {
        "" => Err(about(&"it is empty")),
        _ if start.limit() == 0 => Err(about(&"it is too long")),
        _ => Ok(password.into()),
    }
}

impl<'de> Deserialize<'de> for Password {
    /// From the path of a file.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(input).map(Self::file)
    }
}

impl PartialEq for Password {
    /// Whether both have the same source, or the same text.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            #[cfg(feature = "redis")]
            (Source::Written(own), Source::Written(other)) => own == other,
            (Source::File(own), Source::File(other)) => own == other,
            (Source::Code(own), Source::Code(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    /// Shows the source, never the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Password");
        if let Source::File(path) = &self.0 {
            shown.field("file", path);
        }
        shown.finish_non_exhaustive()
    }
}

#[cfg(feature = "redis")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again_and_without_their_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let password = Password::file(&path);
        let missing = password.get().unwrap_err();
        assert!(missing.contains("password_file") && missing.contains("No such file"));
        for (text, expected) in [("one\n", "one"), ("t w o\r\n", "t w o"), (" 3", " 3")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(password.get().unwrap(), expected);
        }
        for (bytes, expected) in [
            (b"\n".to_vec(), "empty"),
            (vec![b'a'; 70_000], "too long"),
            (vec![0xff], "UTF-8"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let problem = password.get().unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let provider = Password::from_fn(|| Ok("s3cret".into()));
        let shown = format!("{provider:?}{:?}", Password::written("s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
        assert_eq!(provider.get().unwrap(), "s3cret");
    }
}
