//! See `hostile::import`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::import::check(input));
