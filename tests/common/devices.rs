//! What this machine cannot test. The simulator is no such thing: every machine can have NVRTC, so a test that misses it fails
//! and says how to install it. A GPU is: a test without one leaves a note of what it left out, and `tests/without.rs` counts
//! the notes in the last lines of `cargo test`.
#![allow(dead_code)] // Each test binary uses its part.

use std::fmt::Display;
use std::path::PathBuf;
use std::{env, fs, thread};

/// Installs NVRTC and the disassembler where the tests look for them.
pub const INSTALL: &str =
    "python3 -m pip install --no-deps --target target/nvrtc 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-nvdisasm==13.2.*'";

/// A folder for each device, with a file for each test that did without it; None where cargo does not run the tests.
pub fn notes() -> Option<PathBuf> {
    env::var_os("CARGO")?;
    // target/release/deps/gpu-0123456789abcdef
    Some(env::current_exe().ok()?.ancestors().nth(3)?.join("tmp/left-out"))
}

/// Whether `SKIP_DEVICES` (names, separated by commas) has a device: it is left out even where it is.
pub fn skipped(device: &str) -> bool {
    named("SKIP_DEVICES", device)
}

fn named(variable: &str, device: &str) -> bool {
    env::var(variable).unwrap_or_default().split(',').any(|d| d == device)
}

/// Called by a test that does without `device`. Fails if `REQUIRE_DEVICES` has it, and for the simulator unless
/// `SKIP_DEVICES` has it.
pub fn without(device: &str, why: &dyn Display) {
    assert!(!named("REQUIRE_DEVICES", device), "{device} is required: {why}");
    assert!(
        device != "sim" || skipped(device),
        "{why}\n\ninstall it for the tests:\n\n    {INSTALL}\n\nor leave them out: SKIP_DEVICES=sim\n"
    );
    println!("SKIPPED on {device}: {why}");
    let Some(folder) = notes().map(|n| n.join(device)) else { return };
    let program = env::current_exe().unwrap_or_default();
    let program = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let test = format!(
        "{}: {}",
        program.rsplit_once('-').map_or(&*program, |p| p.0),
        thread::current().name().unwrap_or("main")
    );
    // The name of a test has `::`, which not every system takes in the name of a file.
    let written = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join(test.replace(':', "_")), format!("{test}\n{why}")));
    written.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
}
