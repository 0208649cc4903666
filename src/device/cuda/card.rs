//! What there is before anything is allocated: the driver, looked for once, and its GPUs.

use crate::error::{Error, Result};
use crate::launch::tensor_map::{BYTES, Swizzle, TensorMap};
use crate::nvrtc::{self, Version};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use std::sync::OnceLock;

/// Every function that is called: the bindings look them up at the first call, and panic where one is missing.
const FUNCTIONS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    ELAPSED,
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// The bindings of CUDA 13 call `cuEventElapsedTime_v2`, which drivers have from 12.8 on; all have the first one.
const ELAPSED: &str = "cuEventElapsedTime";

/// What the oldest driver must serve: NVRTC of CUDA 12 compiles the kernels, and a driver loads code of its own major version.
const OLDEST: Version = Version { major: 12, minor: 0 };

/// What to install, in sentences.
const INSTALL: &str = "install driver 525 or newer (580 for CUDA 13), or use `--device cpu`";

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its place among the GPUs that the driver shows.
    pub ordinal: usize,
    /// The maker's name for it.
    pub name: String,
    /// Ten times the compute capability.
    pub compute: u32,
    pub multiprocessors: usize,
    /// Bytes.
    pub memory: usize,
    pub(super) device: sys::CUdevice,
}

impl Card {
    /// Ten times the oldest compute capability that the kernels are made for.
    pub const OLDEST: u32 = 75;

    /// By ordinal, with the reason why it cannot be used.
    pub fn find(ordinal: usize) -> Result<Card> {
        let cards = cards()?;
        let count = cards.len();
        let card = cards.into_iter().nth(ordinal).ok_or_else(|| match count {
            0 => Error::job("the NVIDIA driver is here and shows no GPU")
                .fix("check CUDA_VISIBLE_DEVICES and `nvidia-smi`"),
            _ => Error::usage(format!("there is no cuda:{ordinal}")).fix(format!("the last one is cuda:{}", count - 1)),
        })?;
        if card.compute < Self::OLDEST {
            let [is, least] = [card.compute, Self::OLDEST].map(|c| c as f64 / 10.0);
            return Err(Error::job(format!("{} has compute capability {is:.1}, and {least:.1} is needed", card.name))
                .fix("use a GPU of the Turing generation (2018) or later, or `--device cpu`"));
        }
        Ok(card)
    }
}

/// The newest CUDA that the driver can serve.
pub fn driver() -> Result<Version> {
    static FOUND: OnceLock<Result<Version>> = OnceLock::new();
    FOUND.get_or_init(look).clone()
}

fn look() -> Result<Version> {
    nvrtc::not_in_the_current_folder();
    // SAFETY: opening the driver's library runs its initialisers, which are meant for this.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::job("there is no NVIDIA driver: libcuda is missing").fix(INSTALL));
    }
    // SAFETY: as above; it is there, which is the case in which this panics otherwise.
    let library = unsafe { sys::culib() };
    // SAFETY: only whether the functions are there is asked; they are called through the bindings.
    let absent = |name: &str| unsafe { library.get::<unsafe extern "C" fn()>(name) }.is_err();
    if let Some(name) = FUNCTIONS.iter().find(|name| absent(name)) {
        return Err(Error::job(format!("the NVIDIA driver is too old: it has no {name}")).fix(INSTALL));
    }
    result::init().map_err(failed("cuInit"))?;
    let mut version = 0;
    // SAFETY: a place for the answer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("cuDriverGetVersion"))?;
    let version = Version { major: version as u32 / 1000, minor: version as u32 % 1000 / 10 };
    if version < OLDEST {
        return Err(Error::job(format!(
            "the NVIDIA driver is too old: it serves CUDA {version}, and {OLDEST} is needed"
        ))
        .fix(INSTALL));
    }
    nvrtc::serve(version);
    Ok(version)
}

/// Milliseconds between two events.
///
/// # Safety
///
/// The driver was [looked for](driver) and found; both events are its own, on one stream, and have happened.
pub(super) unsafe fn elapsed(start: sys::CUevent, end: sys::CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    let mut milliseconds = 0.0;
    // SAFETY: the type is that of cuda.h; the driver is there, and its events by the caller's word.
    unsafe {
        let function = sys::culib().get::<Elapsed>(ELAPSED).expect("`driver` looked for it");
        function(&mut milliseconds, start, end).result()?;
    }
    Ok(milliseconds)
}

/// What the hardware reads of a tensor that begins at an address.
pub(super) fn tensor_map(map: &TensorMap, address: u64) -> Result<[u8; BYTES]> {
    use sys::{CUtensorMapDataType as Item, CUtensorMapSwizzle as Exchange};
    type Encode = unsafe extern "C" fn(
        *mut sys::CUtensorMap,
        Item,
        u32,
        u64,
        *const u64,
        *const u64,
        *const u32,
        *const u32,
        sys::CUtensorMapInterleave,
        Exchange,
        sys::CUtensorMapL2promotion,
        sys::CUtensorMapFloatOOBfill,
    ) -> sys::CUresult;
    driver()?;
    map.check(address).map_err(Error::job)?;
    let item = match map.item {
        1 => Item::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2 => Item::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        4 => Item::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        _ => Item::CU_TENSOR_MAP_DATA_TYPE_UINT64,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => Exchange::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::By32 => Exchange::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::By64 => Exchange::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::By128 => Exchange::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let window: Vec<u32> = map.window.iter().map(|n| *n as u32).collect();
    let mut bits = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: the driver is there, and the type is that of cuda.h, with an address for a pointer; each array has as many numbers
    // as the tensor has axes, the strides one less (`check`), and five steps are enough for all.
    unsafe {
        let encode = sys::culib().get::<Encode>("cuTensorMapEncodeTiled");
        let absent = |_| Error::job("the NVIDIA driver has no cuTensorMapEncodeTiled").fix(INSTALL);
        encode.map_err(absent)?(
            &mut bits,
            item,
            map.extents.len() as u32,
            address,
            map.extents.as_ptr(),
            map.strides.as_ptr(),
            window.as_ptr(),
            [1; 5].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .map_err(failed("cuTensorMapEncodeTiled"))?;
    Ok(bytemuck::cast(bits.opaque))
}

/// Every GPU that the driver shows, in its order.
pub fn cards() -> Result<Vec<Card>> {
    driver()?;
    let count = match result::device::get_count() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        other => other.map_err(failed("cuDeviceGetCount"))?,
    };
    let card = |ordinal| {
        let device = result::device::get(ordinal)?;
        // SAFETY: a device that the driver has just given.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        // SAFETY: as above.
        let memory = unsafe { result::device::total_mem(device) }?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize;
        let (ordinal, compute) = (ordinal as usize, (10 * major + minor) as u32);
        Ok(Card { ordinal, name: result::device::get_name(device)?, compute, multiprocessors, memory, device })
    };
    (0..count).map(card).collect::<Result<_, _>>().map_err(failed("asking for the GPUs"))
}

/// An error of the driver while doing something: its name and its own words.
pub(super) fn failed(doing: impl Into<String>) -> impl FnOnce(DriverError) -> Error {
    move |e| {
        let text = |t: Result<&std::ffi::CStr, DriverError>| t.map(|s| s.to_string_lossy().into_owned()).ok();
        let words = text(e.error_string()).unwrap_or_else(|| "no description".into());
        let name = text(e.error_name()).unwrap_or_else(|| format!("error {}", e.0 as u32));
        Error::job(format!("{}: {words} ({name})", doing.into()))
    }
}
