//! What benchmarks share.

/// CPU time of all threads of this process, in seconds.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub fn cpu_seconds() -> Option<f64> {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, at: *mut [i64; 2]) -> i32;
    }
    const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
    let mut at = [0; 2];
    // SAFETY: a timespec is two 64-bit numbers on these targets.
    unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mut at) };
    Some(at[0] as f64 + at[1] as f64 * 1e-9)
}

/// CPU time of all threads of this process, in seconds.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub fn cpu_seconds() -> Option<f64> {
    None
}
