//! `doctor`: what this machine offers, found or missing, in a few lines to paste into a bug report.

use super::output;
use crate::bundled;
use crate::device::tuning::TileTable;
use crate::device::{self, cuda};
use crate::error::Result;
use crate::nvrtc::{self, Cache};
use clap::Args;

#[derive(Args)]
pub struct Command {}

impl Command {
    pub fn run(self) -> Result<()> {
        let mut out = format!(
            "deep-affect {} for {} {}\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        let mut line = |name: &str, found: Result<String>| {
            let found = found.unwrap_or_else(|e| format!("missing: {e}"));
            out += &format!("{name:<20}{found}\n");
        };
        line("NVIDIA driver", cuda::driver().map(|version| format!("found, for CUDA up to {version}")));
        for card in cuda::cards().unwrap_or_default() {
            // Found by itself, so that a GPU that cannot be used says why.
            let name = format!("GPU {}", card.ordinal);
            line(&name, cuda::Card::find(card.ordinal).map(|card| describe(&card)));
        }
        line("NVRTC", nvrtc::available().map(|version| format!("found, version {version}{}", pair(version))));
        let cache = Cache::open();
        line(
            "compiled kernels",
            Ok(match (cache.folder(), cache.distrusted()) {
                (_, Some(why)) => format!("not used: {why}"),
                (Some(folder), None) => {
                    format!("{} in {}, which nobody else can write", cache.entries(), folder.display())
                }
                (None, None) => "not kept: there is no home folder; set DEEP_AFFECT_CACHE".into(),
            }),
        );
        for name in device::NAMES.split(", ") {
            let device = device::open(name, None);
            line(&format!("--device {name}"), device.as_ref().map(|d| d.name()).map_err(Clone::clone));
            let gpu = device.ok().filter(|_| name != "auto").and_then(|d| d.spec().gpu);
            if let Some(gpu) = gpu.filter(|gpu| gpu.has_clock) {
                line("  tiles", tiles(&gpu.model));
            }
        }
        let bytes = bundled::model().into_iter().chain(bundled::tower()).map(<[u8]>::len).sum::<usize>();
        let size = format!("{} KiB, weights of VGG16 under CC BY 4.0 (`deep-affect licenses`)", bytes >> 10);
        line("bundled model", Ok(if bytes > 0 { size } else { "none in this build".into() }));
        line("bundled pictures", Ok(bundled::photographs()?.len().to_string()));
        output::print(&out)
    }
}

/// Whether what it compiles and the driver fit.
fn pair(nvrtc: nvrtc::Version) -> String {
    match cuda::driver() {
        Ok(driver) if nvrtc::fits(nvrtc, driver) => {
            format!("; fits the driver, which takes NVRTC 12.0 to {}.x", driver.major)
        }
        Ok(driver) => format!("; too new for the driver: {}", nvrtc::mismatch(nvrtc, driver)),
        Err(_) => String::new(),
    }
}

/// What was measured on a device.
fn tiles(model: &str) -> Result<String> {
    Ok(match TileTable::of(model)? {
        Some(table) => format!("{} products measured", table.products.len()),
        None => "by the rule; `deep-affect kernels tune` measures".into(),
    })
}

fn describe(card: &cuda::Card) -> String {
    let (major, minor) = (card.compute / 10, card.compute % 10);
    format!("{}, compute capability {major}.{minor}, {} MiB", card.name, card.memory >> 20)
}
