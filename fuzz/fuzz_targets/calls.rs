//! See `hostile::calls`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::calls::check(input));
