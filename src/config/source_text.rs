//! The text of an error's source, in the same line as the error's own.

use std::fmt;

/// Appends the text of `source` if the error is formatted with `{:#}`.
pub(crate) fn append_source(f: &mut fmt::Formatter<'_>, source: &dyn fmt::Display) -> fmt::Result {
    if f.alternate() {
        write!(f, ": {source:#}")?;
    }
    Ok(())
}
