//! A `libcuda.so` for `tests/cuda.rs` with the functions of CUDA 12.0 and no later ones: memory, events, streams, capture and
//! graphs on the host. What kernels do and what a tensor map is are told by `imitate`, which the simulator gives; without it there
//! is one kernel, `add`, and others do nothing. It checks what a driver would be harmed by, and writes what it is asked for to `$FAKE_CUDA_LOG`, a
//! line each. `FAKE_CUDA_COMPUTE`, `FAKE_CUDA_FREE` and `FAKE_CUDA_VERSION` make another GPU and driver of it; it refuses the
//! function `FAKE_CUDA_REFUSE` and images that begin with a letter of `FAKE_CUDA_REFUSE_IMAGES` (E: a cubin, /: PTX); the
//! launch after `FAKE_CUDA_FAIL` others fails.
// Some bodies need neither `unsafe` nor `mut`.
#![allow(non_snake_case, unused_unsafe, unused_mut, clippy::missing_safety_doc)]

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Mutex;

type Ptr = *mut c_void;

/// A kernel of a loaded module.
#[derive(Clone)]
struct Function {
    entry: CString,
    /// The module's image, if that is PTX.
    ptx: Option<CString>,
}

/// One launch: blocks, threads, bytes of shared memory, parameters.
type Launch = (Function, [u32; 3], u32, u32, Vec<u8>);

/// What a kernel does to memory: PTX, entry, blocks, threads, bytes of shared memory, parameters and their bytes, where the
/// kernel finds the memory, the memory and its bytes. 0, or an error.
type Execute = extern "C" fn(
    *const c_char, *const c_char, *const [u32; 3], u32, u32, *const u8, usize, u64, *mut u8, usize
) -> i32;

/// What kernels find of a tensor: bytes of a number, axes, address, extents, strides, the box's extents, which swizzle, and where
/// 128 bytes go. 0, or an error.
type Encode = extern "C" fn(usize, u32, u64, *const u64, *const u64, *const u32, u32, *mut u8) -> i32;

struct State {
    execute: Option<Execute>,
    encode: Option<Encode>,
    /// Allocations by address.
    memory: BTreeMap<u64, Vec<u8>>,
    /// Launches since the capture began.
    capture: Option<Vec<Launch>>,
    launches: usize,
    /// Of the last launch.
    blocks: u32,
    /// Streams and events that were made.
    handles: usize,
    /// CUDA_ERROR_ILLEGAL_ADDRESS, and every call fails from then on.
    broken: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    execute: None, encode: None, memory: BTreeMap::new(), capture: None, launches: 0, blocks: 0, handles: 0, broken: false
});

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |v| v.parse().unwrap())
}

fn log(text: &str) {
    let path = env::var("FAKE_CUDA_LOG").unwrap();
    writeln!(OpenOptions::new().append(true).create(true).open(path).unwrap(), "{text}").unwrap();
}

impl State {
    /// The bytes at an address: 1, CUDA_ERROR_INVALID_VALUE, if they are not in one allocation.
    fn at(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], i32> {
        let (start, memory) = self.memory.range_mut(..=address).next_back().ok_or(1)?;
        let at = (address - start) as usize;
        memory.get_mut(at..at + bytes).ok_or(1)
    }

    fn execute(&mut self, (Function { entry, ptx }, grid, threads, shared, params): &Launch) -> Result<(), i32> {
        self.launches += 1;
        if self.launches as u64 > number("FAKE_CUDA_FAIL", u64::MAX) {
            self.broken = true;
            return Err(700);
        }
        if let (Some(execute), Some(ptx)) = (self.execute, ptx) {
            let (address, memory) = self.memory.first_key_value().expect("the arena");
            let (at, bytes) = (memory.as_ptr().cast_mut(), memory.len());
            return match execute(
                ptx.as_ptr(), entry.as_ptr(), grid, *threads, *shared, params.as_ptr(), params.len(), *address, at, bytes
            ) {
                0 => Ok(()),
                code => Err(code),
            };
        }
        let adds = entry.to_bytes() == b"add";
        self.blocks = if adds { 0 } else { grid.iter().product() };
        if !adds {
            return Ok(());
        }
        let word = |i: usize| u64::from_le_bytes(params[8 * i..8 * i + 8].try_into().unwrap());
        // Four instances of three addresses, and a count.
        assert_eq!(params.len(), 4 * 3 * 8 + 4);
        let n = u32::from_le_bytes(params[96..].try_into().unwrap()) as usize;
        assert!((grid[0] * threads) as usize * 4 >= n && grid[1] == 1);
        for instance in 0..grid[2] as usize {
            let [a, b] = [0, 1].map(|i| self.at(word(3 * instance + i), 4 * n).map(|x| x.to_vec()));
            let (a, b, y) = (a?, b?, self.at(word(3 * instance + 2), 4 * n)?);
            let float = |x: &[u8], i: usize| f32::from_le_bytes(x[4 * i..4 * i + 4].try_into().unwrap());
            for i in 0..n {
                y[4 * i..4 * i + 4].copy_from_slice(&(float(&a, i) + float(&b, i)).to_le_bytes());
            }
        }
        Ok(())
    }
}

/// Declares the functions of the library: their bodies give 0 or an error, which is what C is told.
macro_rules! functions {
    ($($(#[$meta:meta])* $name:ident($state:ident $(, $arg:ident: $type:ty)*) $body:block)*) => {
        $($(#[$meta])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> i32 {
            let $state = &mut *STATE.lock().unwrap();
            log(stringify!($name));
            if $state.broken && !stringify!($name).starts_with("cuGetError") {
                return 700;
            }
            if env::var("FAKE_CUDA_REFUSE").is_ok_and(|name| name == stringify!($name)) {
                // CUDA_ERROR_NOT_SUPPORTED, which ends a capture.
                $state.capture = None;
                return 801;
            }
            let mut body = || -> Result<(), i32> {
                unsafe { $body }
                Ok(())
            };
            body().err().unwrap_or(0)
        })*
    };
}

functions! {
    cuInit(_s, _flags: u32) {}
    cuDriverGetVersion(_s, version: *mut i32) { *version = number("FAKE_CUDA_VERSION", 13000) as i32 }
    cuGetErrorName(_s, _code: i32, name: *mut *const c_char) { *name = c"CUDA_ERROR_OF_A_TEST".as_ptr() }
    cuGetErrorString(_s, _code: i32, text: *mut *const c_char) { *text = c"an illegal memory access".as_ptr() }
    cuDeviceGetCount(_s, count: *mut i32) { *count = 1 }
    cuDeviceGet(_s, device: *mut i32, ordinal: i32) { assert_eq!(ordinal, 0); *device = 7 }
    cuDeviceGetName(_s, name: *mut c_char, size: i32, device: i32) {
        assert!(device == 7 && size > 9);
        name.cast::<[u8; 9]>().write(*b"Fake GPU\0")
    }
    cuDeviceTotalMem_v2(_s, bytes: *mut usize, _device: i32) { *bytes = 8 << 30 }
    cuDeviceGetAttribute(_s, value: *mut i32, attribute: i32, _device: i32) {
        let compute = number("FAKE_CUDA_COMPUTE", 86) as i32;
        *value = match attribute { 16 => 84, 75 => compute / 10, 76 => compute % 10, _ => return Err(1) }
    }
    cuDevicePrimaryCtxRetain(_s, context: *mut Ptr, _device: i32) { *context = 1 as Ptr }
    cuDevicePrimaryCtxRelease_v2(s, _device: i32) { assert!(s.memory.is_empty(), "an allocation was lost") }
    cuCtxSetCurrent(_s, context: Ptr) { assert_eq!(context as usize, 1) }
    cuMemGetInfo_v2(_s, free: *mut usize, total: *mut usize) {
        (*free, *total) = (number("FAKE_CUDA_FREE", 4 << 30) as usize, 8 << 30)
    }
    cuMemAlloc_v2(s, address: *mut u64, bytes: usize) {
        *address = s.memory.last_key_value().map_or(1 << 40, |(a, m)| (a + m.len() as u64).next_multiple_of(256) + 4096);
        s.memory.insert(*address, vec![0xA5; bytes]);
    }
    cuMemFree_v2(s, address: u64) { drop(s.memory.remove(&address).unwrap()) }
    cuMemHostAlloc(_s, at: *mut Ptr, bytes: usize, _flags: u32) {
        *at = Vec::leak(vec![0_u64; bytes / 8]).as_mut_ptr().cast()
    }
    // The few buffers of a test end with its process.
    cuMemFreeHost(_s, _at: Ptr) {}
    cuMemsetD8Async(s, address: u64, value: u8, bytes: usize, _stream: Ptr) { s.at(address, bytes)?.fill(value) }
    cuMemcpyHtoDAsync_v2(s, to: u64, from: *const u8, bytes: usize, _stream: Ptr) {
        s.at(to, bytes)?.copy_from_slice(std::slice::from_raw_parts(from, bytes))
    }
    cuMemcpyDtoHAsync_v2(s, to: *mut u8, from: u64, bytes: usize, _stream: Ptr) {
        std::slice::from_raw_parts_mut(to, bytes).copy_from_slice(s.at(from, bytes)?)
    }
    // The first stream is 2.
    cuStreamCreate(s, stream: *mut Ptr, _flags: u32) { *stream = (2 + s.handles) as Ptr; s.handles += 1 }
    cuStreamDestroy_v2(_s, _stream: Ptr) {}
    cuStreamQuery(_s, _stream: Ptr) {}
    cuStreamWaitEvent(_s, stream: Ptr, event: Ptr, _flags: u32) {
        log(&format!("{} waits for {}", stream as usize, event as usize))
    }
    cuStreamSynchronize(s, stream: Ptr) { assert!(!stream.is_null() && s.capture.is_none()) }
    cuStreamBeginCapture_v2(s, stream: Ptr, _mode: u32) { assert!(!stream.is_null()); s.capture = Some(vec![]) }
    cuStreamEndCapture(s, _stream: Ptr, graph: *mut Ptr) {
        *graph = Box::into_raw(Box::new(s.capture.take().unwrap())).cast()
    }
    cuGraphInstantiateWithFlags(_s, exec: *mut Ptr, graph: Ptr, _flags: u64) {
        *exec = Box::into_raw(Box::new((*graph.cast::<Vec<Launch>>()).clone())).cast()
    }
    cuGraphDestroy(_s, graph: Ptr) { drop(Box::from_raw(graph.cast::<Vec<Launch>>())) }
    cuGraphExecDestroy(_s, exec: Ptr) { drop(Box::from_raw(exec.cast::<Vec<Launch>>())) }
    #[cfg(not(no_graphs))]
    cuGraphLaunch(s, exec: Ptr, _stream: Ptr) {
        for launch in &*exec.cast::<Vec<Launch>>() {
            s.execute(launch)?;
        }
    }
    cuEventCreate(s, event: *mut Ptr, _flags: u32) { *event = (2 + s.handles) as Ptr; s.handles += 1 }
    cuEventDestroy_v2(_s, _event: Ptr) {}
    cuEventRecord(_s, event: Ptr, stream: Ptr) { log(&format!("{} after {}", event as usize, stream as usize)) }
    cuEventSynchronize(_s, _event: Ptr) {}
    cuEventElapsedTime(s, milliseconds: *mut f32, _start: Ptr, _end: Ptr) {
        // Other kernels than `add`: the fewer the blocks, the faster.
        *milliseconds = if s.blocks == 0 { 2.0 } else { s.blocks as f32 / 1000.0 }
    }
    cuModuleLoadData(_s, module: *mut Ptr, image: *const [u8; 4]) {
        log(&format!("image {:?}", String::from_utf8_lossy(&*image)));
        let cubin = *image == *b"\x7fELF";
        let refused = env::var("FAKE_CUDA_REFUSE_IMAGES").unwrap_or_default();
        if refused.contains(if cubin { 'E' } else { '/' }) {
            // CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            return Err(if cubin { 209 } else { 222 });
        }
        let ptx = (!cubin).then(|| CStr::from_ptr(image.cast()).to_owned());
        *module = Box::into_raw(Box::new(ptx)).cast()
    }
    cuModuleUnload(_s, module: Ptr) { drop(Box::from_raw(module.cast::<Option<CString>>())) }
    cuModuleGetFunction(_s, function: *mut Ptr, module: Ptr, name: *const c_char) {
        let ptx = (*module.cast::<Option<CString>>()).clone();
        *function = Box::into_raw(Box::new(Function { entry: CStr::from_ptr(name).to_owned(), ptx })).cast()
    }
    cuFuncSetAttribute(_s, _function: Ptr, attribute: u32, value: i32) {
        assert!(attribute == 8 && value > 48 << 10)
    }
    #[cfg(not(no_tensor_maps))]
    cuTensorMapEncodeTiled(
        s, map: *mut u8, item: u32, axes: u32, address: u64, extents: *const u64, strides: *const u64, window: *const u32,
        steps: *const u32, interleave: u32, swizzle: u32, promotion: u32, fill: u32
    ) {
        assert!(map as usize % 64 == 0 && std::slice::from_raw_parts(steps, axes as usize).iter().all(|n| *n == 1));
        assert!([interleave, fill] == [0, 0] && promotion <= 3);
        // UINT8, UINT16, UINT32, UINT64 of CUtensorMapDataType go before others.
        let bytes = [1, 2, 4, 0, 8][item as usize];
        match s.encode.ok_or(801)?(bytes, axes, address, extents, strides, window, swizzle, map) {
            0 => {}
            code => return Err(code),
        }
    }
    cuLaunchKernel(
        s, function: Ptr, x: u32, y: u32, z: u32, threads: u32, threads_y: u32, threads_z: u32, shared: u32, stream: Ptr,
        params: Ptr, extra: *const [usize; 5]
    ) {
        assert!([threads_y, threads_z] == [1, 1] && shared <= 227 << 10 && !stream.is_null() && params.is_null());
        let [1, params, 2, size, 0] = *extra else { return Err(1) };
        let params = std::slice::from_raw_parts(params as *const u8, *(size as *const usize)).to_vec();
        let launch = ((*function.cast::<Function>()).clone(), [x, y, z], threads, shared, params);
        match &mut s.capture {
            Some(launches) => launches.push(launch),
            None => s.execute(&launch)?,
        }
    }
}

/// Takes what kernels do and find from here on.
#[unsafe(no_mangle)]
pub extern "C" fn imitate(execute: Execute, encode: Encode) {
    let state = &mut *STATE.lock().unwrap();
    (state.execute, state.encode) = (Some(execute), Some(encode));
}
