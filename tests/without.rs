//! The last of the tests, without a harness that would swallow what it prints: which devices this machine does not have, and
//! how many tests left something out for that.

#[path = "common/devices.rs"]
mod devices;

use std::fs;
use std::path::Path;

fn main() {
    if std::env::args().any(|a| a == "--list") {
        return;
    }
    let folder = devices::notes();
    let mut left = vec![];
    for device in folder.iter().flat_map(|f| files(f)) {
        let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Notes of an earlier run, before the device came.
        if !devices::skipped(&name) && deep_affect::device::open(&name, None).is_ok() {
            continue;
        }
        let notes: Vec<String> = files(&device).iter().filter_map(|f| fs::read_to_string(f).ok()).collect();
        let mut tests: Vec<&str> = notes.iter().filter_map(|n| n.lines().next()).collect();
        tests.sort();
        let why = notes.first().and_then(|n| n.lines().nth(1)).unwrap_or_default();
        left.push(format!("LEFT OUT without {name}, in {} tests ({why}):\n  {}", tests.len(), tests.join("\n  ")));
    }
    println!("\n{}\n", if left.is_empty() { "nothing was left out".into() } else { left.join("\n") });
    if let Some(folder) = folder.filter(|f| f.exists()) {
        fs::remove_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}
