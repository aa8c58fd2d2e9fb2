//! See `hostile::requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::requests::check(input));
