//! See `hostile::pages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::pages::check(input));
