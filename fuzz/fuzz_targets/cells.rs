//! See `hostile::cells`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::cells::check(input));
