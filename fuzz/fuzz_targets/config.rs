//! See `hostile::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::config::check(input));
