#![no_main]
#![allow(dead_code)]

#[path = "../../tests/support/inputs.rs"]
mod inputs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    inputs::multipart(bytes);
});
