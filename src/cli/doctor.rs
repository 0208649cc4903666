//! `doctor`: what this machine offers, in a few lines to paste into a bug report.

use super::output;
use crate::bundled;
use crate::device;
use crate::error::Result;
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
        for name in device::NAMES.split(", ") {
            let found = device::open(name, None).map_or_else(|e| format!("not available: {e}"), |d| d.name());
            out += &format!("--device {name:<10} {found}\n");
        }
        let toy = match bundled::toy_model() {
            Some(bytes) => format!("{} KiB", bytes.len() >> 10),
            None => "none in this build".into(),
        };
        out += &format!("bundled model       {toy}\n");
        out += &format!("bundled pictures    {}\n", bundled::emoji()?.len());
        output::print(&out)
    }
}
