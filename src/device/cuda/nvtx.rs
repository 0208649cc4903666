//! Names of layers for a profiler (NVTX): ranges around launches, which Nsight Systems shows above the kernels. Without the
//! library, or without a profiler, they are nothing.

use libloading::Library;
use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// NVTX 3's functions as a library (`nvidia-nvtx` on PyPI, CUDA 13), and those of older toolkits.
const NAMES: [&str; 2] = ["libnvtx3interop.so.1", "libnvToolsExt.so.1"];

struct Functions {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
}

fn functions() -> Option<&'static Functions> {
    static FOUND: OnceLock<Option<Functions>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref()
}

fn find() -> Option<Functions> {
    // SAFETY: opening NVTX loads the profiler's part, if the profiler asks for it; it is meant for this.
    let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok())?;
    // SAFETY: the signatures of nvToolsExt.h.
    let functions = unsafe {
        Functions { push: *library.get(b"nvtxRangePushA\0").ok()?, pop: *library.get(b"nvtxRangePop\0").ok()? }
    };
    // Its functions are called until the process ends.
    std::mem::forget(library);
    Some(functions)
}

/// A range of this thread, from here to where it is dropped; it stays on its thread.
pub struct Range(Option<&'static Functions>, PhantomData<*const ()>);

impl Range {
    pub fn new(name: &CStr) -> Self {
        let found = functions();
        if let Some(f) = found {
            // SAFETY: a C string, which is copied.
            unsafe { (f.push)(name.as_ptr()) };
        }
        Self(found, PhantomData)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(f) = self.0 {
            // SAFETY: this thread pushed one.
            unsafe { (f.pop)() };
        }
    }
}
