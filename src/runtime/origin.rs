//! Which process made something: a forked child has a copy of all that its
//! parent had, connections and locked mutexes among it.

/// The process that something was made in.
///
/// It is told by a fork handler of the C library, so that a look costs a load
/// and the process number does not matter: a child may have its parent's in a
/// namespace of its own. A child made by the bare system call, past the C
/// library, is not told apart.
#[derive(Clone, Debug)]
pub(crate) struct Origin(Mark);

#[derive(Clone, Debug)]
enum Mark {
    Handler(forkguard::atfork::Guard),
    /// Where the C library takes no handler: the process number.
    Number(u32),
}

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        Self(match forkguard::atfork::Guard::try_new() {
            Ok(handler) => Mark::Handler(handler),
            Err(_) => Mark::Number(std::process::id()),
        })
    }

    /// Whether this process was forked from the one that it was made in, and
    /// has but a copy of it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        match &self.0 {
            Mark::Handler(handler) => handler.clone().detected_fork(),
            Mark::Number(number) => std::process::id() != *number,
        }
    }
}

impl Default for Origin {
    fn default() -> Self {
        Self::here()
    }
}
