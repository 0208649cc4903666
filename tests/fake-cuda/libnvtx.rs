//! A `libnvtx3interop.so.1` for `tests/cuda.rs`: writes the ranges to `$FAKE_CUDA_LOG`.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char};
use std::fs::OpenOptions;
use std::io::Write;

fn log(text: &str) -> i32 {
    let path = std::env::var("FAKE_CUDA_LOG").unwrap();
    writeln!(OpenOptions::new().append(true).create(true).open(path).unwrap(), "{text}").unwrap();
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvtxRangePushA(name: *const c_char) -> i32 {
    log(&format!("push {}", unsafe { CStr::from_ptr(name) }.to_str().unwrap()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvtxRangePop() -> i32 {
    log("pop")
}
