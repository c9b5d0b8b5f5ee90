//! The process that made an object. A forked child has a copy of everything that
//! its parent had, including connections and locked mutexes.

/// The process in which an object was made.
///
/// A fork handler of the C library detects a fork, so a check costs one load.
/// Comparing process numbers is not enough: a child may have its parent's number in
/// a new namespace. A child made by the raw system call, without the C library, is
/// not detected.
#[derive(Clone, Debug)]
pub(crate) struct ProcessOrigin(Mark);

#[derive(Clone, Debug)]
enum Mark {
    Handler(forkguard::atfork::Guard),
    /// Used if the C library accepts no handler: the process number.
    Number(u32),
}

impl ProcessOrigin {
    /// This process.
    pub(crate) fn here() -> Self {
        Self(match forkguard::atfork::Guard::try_new() {
            Ok(handler) => Mark::Handler(handler),
            Err(_) => Mark::Number(std::process::id()),
        })
    }

    /// Whether this process was forked from the one that made the object, and only
    /// has a copy of it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        match &self.0 {
            Mark::Handler(handler) => handler.clone().detected_fork(),
            Mark::Number(number) => std::process::id() != *number,
        }
    }
}

impl Default for ProcessOrigin {
    fn default() -> Self {
        Self::here()
    }
}
