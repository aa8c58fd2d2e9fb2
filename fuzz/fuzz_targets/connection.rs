//! See `hostile::connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::connection::check(input));
