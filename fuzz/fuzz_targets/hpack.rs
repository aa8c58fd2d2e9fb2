//! See `hostile::hpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::hpack::check(input));
