//! See `hostile::bbolt_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::bbolt_file::check(input));
