//! See `hostile::schema`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::schema::check(input));
