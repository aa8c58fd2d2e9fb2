//! See `hostile::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::log::check(input));
