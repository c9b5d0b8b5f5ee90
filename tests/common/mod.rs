//! The crate `ringlock_test_support`, for the benches that include this file.

pub(crate) use ringlock_test_support::*;
