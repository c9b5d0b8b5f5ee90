#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringlock::fuzzing::run("replies", bytes));
