//! The error of scoped work whose lock failed.

use std::fmt;

use crate::error::{Error, Loss};
use crate::proto::lease::Key;

/// Why [`Router::with`](crate::Router::with) failed: before the work, or although
/// it was done.
///
/// `?` turns it into an [`Error`], without the output; or into a boxed error, if
/// the output is `'static`, and `Send` and `Sync` where the box requires it.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), ringlock::Error> {
/// # let router = ringlock::Router::in_memory(5).await?;
/// use ringlock::WithError;
///
/// match router.with("report", async |_| 6 * 7).await {
///     Ok(output) => println!("{output}, under the lock to the end"),
///     Err(WithError::Lost { output, reason, .. }) => {
///         println!("{output}, but others may have worked too: {reason}");
///     }
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(()) }
/// ```
#[non_exhaustive]
pub enum WithError<T> {
    /// The lock was not granted. The work has not run.
    NotRun(Error),
    /// The work ran to its end, but the lease was over before that: another client
    /// may have held the key during the work.
    Lost {
        /// The output of the work.
        output: T,
        /// The locked key.
        key: Key,
        /// Why the lease was over.
        reason: Loss,
    },
}

impl<T> WithError<T> {
    /// The output of the work, if it ran.
    pub fn into_output(self) -> Option<T> {
        match self {
            Self::NotRun(_) => None,
            Self::Lost { output, .. } => Some(output),
        }
    }

    /// Converts the output with `change`.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> WithError<U> {
        match self {
            Self::NotRun(error) => WithError::NotRun(error),
            Self::Lost {
                output,
                key,
                reason,
            } => WithError::Lost {
                output: change(output),
                key,
                reason,
            },
        }
    }
}

impl<T> From<WithError<T>> for Error {
    /// Drops the output.
    fn from(error: WithError<T>) -> Self {
        match error {
            WithError::NotRun(error) => error,
            WithError::Lost { key, reason, .. } => Self::Lost { key, reason },
        }
    }
}

impl<T> fmt::Display for WithError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) => error.fmt(f),
            Self::Lost { key, reason, .. } => write!(
                f,
                "the work under {key} is done, but its lease was over before: {reason}"
            ),
        }
    }
}

impl<T> fmt::Debug for WithError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) => f.debug_tuple("NotRun").field(error).finish(),
            Self::Lost { key, reason, .. } => f
                .debug_struct("Lost")
                .field("key", key)
                .field("reason", reason)
                .finish_non_exhaustive(),
        }
    }
}

impl<T> std::error::Error for WithError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // `NotRun` displays as the inner error itself.
            Self::NotRun(error) => error.source(),
            Self::Lost { .. } => None,
        }
    }
}
