//! `conform`: golden files of another framework against a device.

use super::output;
use crate::conform::{self, Status};
use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Golden files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Device that is tried.
    #[arg(long, default_value = "reference", value_name = "NAME")]
    device: String,
    /// One JSON object per tensor and line instead of a table.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let device = &self.device;
        let rows = conform::run(&self.files, device)?;
        output::print(&if self.json { conform::json_lines(&rows) } else { conform::table(&rows) })?;
        let failed: Vec<_> = rows.iter().filter(|r| r.status == Status::Fail).collect();
        let Some(first) = failed.first() else { return Ok(()) };
        Err(Error::file(&first.file, format!("{} of {} tensors are wrong on {device}", failed.len(), rows.len()))
            .at(format!("{} {} {}", first.op, first.case, first.tensor))
            .fix("do not trust this device here, and report it with what `doctor` says"))
    }
}
