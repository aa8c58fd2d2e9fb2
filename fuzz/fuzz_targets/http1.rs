//! See `hostile::http1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::http1::check(input));
