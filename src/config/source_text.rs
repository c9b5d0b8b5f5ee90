//! Appending the text of an error's source to the line of the error itself.

use std::fmt;

/// Appends the text of `source` if the error is formatted with `{:#}`.
pub(crate) fn append_source(f: &mut fmt::Formatter<'_>, source: &dyn fmt::Display) -> fmt::Result {
    if f.alternate() {
        write!(f, ": {source:#}")?;
    }
    Ok(())
}
