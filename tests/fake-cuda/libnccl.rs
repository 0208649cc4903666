//! A `libnccl.so.2` for `tests/cuda.rs`: one of two ranks, whose other one gives zeros. It writes what it is asked for to
//! `$FAKE_CUDA_LOG`. `FAKE_NCCL_VERSION` is its version; sums fail with `FAKE_NCCL_FAIL`.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::env;
use std::ffi::{c_char, c_void};
use std::fs::OpenOptions;
use std::io::Write;

type Ptr = *mut c_void;

#[repr(C)]
pub struct Id([u8; 128]);

fn log(text: &str) -> i32 {
    let path = env::var("FAKE_CUDA_LOG").unwrap();
    writeln!(OpenOptions::new().append(true).create(true).open(path).unwrap(), "{text}").unwrap();
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut i32) -> i32 {
    unsafe { *version = env::var("FAKE_NCCL_VERSION").map_or(22703, |v| v.parse().unwrap()) }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(code: i32) -> *const c_char {
    assert_eq!(code, 2);
    c"unhandled system error".as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut Id) -> i32 {
    unsafe { (*id).0 = [5; 128] }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut Ptr, ranks: i32, id: Id, rank: i32) -> i32 {
    assert!(id.0 == [5; 128]);
    unsafe { *comm = 9 as Ptr }
    log(&format!("rank {rank} of {ranks}"))
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommAbort(comm: Ptr) -> i32 {
    assert_eq!(comm as usize, 9);
    log("abort")
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> i32 {
    log("group")
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> i32 {
    log("end of group")
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAllReduce(from: Ptr, to: Ptr, n: usize, of: i32, by: i32, comm: Ptr, stream: Ptr) -> i32 {
    // In place, float32, summed.
    assert!(from == to && of == 7 && by == 0 && comm as usize == 9);
    log(&format!("sum of {n} on {}", stream as usize));
    if env::var_os("FAKE_NCCL_FAIL").is_some() { 2 } else { 0 }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclReduce(
    from: Ptr,
    to: Ptr,
    n: usize,
    of: i32,
    by: i32,
    root: i32,
    comm: Ptr,
    stream: Ptr,
) -> i32 {
    assert!(from == to && of == 7 && by == 0 && comm as usize == 9);
    log(&format!("sum of {n} at {} for {root} on {}", from as usize, stream as usize));
    if env::var_os("FAKE_NCCL_FAIL").is_some() { 2 } else { 0 }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclBroadcast(from: Ptr, to: Ptr, n: usize, of: i32, root: i32, comm: Ptr, stream: Ptr) -> i32 {
    assert!(from == to && of == 7 && comm as usize == 9);
    log(&format!("{n} at {} from {root} on {}", from as usize, stream as usize));
    0
}
