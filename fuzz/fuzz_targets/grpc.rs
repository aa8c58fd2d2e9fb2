//! See `hostile::grpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::grpc::check(input));
