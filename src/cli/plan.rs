//! `plan`: what a network keeps in memory, when and where. Nothing is allocated for it.

use super::model::{ModelArg, ModelScale};
use super::reading::batch;
use super::{Compute, output};
use crate::atomic;
use crate::error::{Error, Result};
use crate::measure::Purpose;
use crate::measure::memory::{MemoryPlan, plan};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Purpose::Infer)]
    pass: Purpose,
    #[arg(long, default_value = "1", value_parser = batch, value_name = "N")]
    batch: usize,
    /// Also draw it: an .svg file, or a folder for `MODEL-PASS-batchN.svg`.
    #[arg(long, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let model = self.model.resolve(1, ModelScale::Full)?;
        let planned = plan(&model, self.pass, self.batch, &*self.compute.open()?)?;
        if let Some(out) = &self.out {
            let path = file(out, &planned.memory)?;
            atomic::write(&path, |w| w.write_all(planned.picture().as_bytes()))?;
            remark!("wrote {}", path.display());
        }
        output::print_result(&planned.memory, self.json, MemoryPlan::text)
    }
}

/// Where the picture goes.
fn file(out: &Path, plan: &MemoryPlan) -> Result<PathBuf> {
    if out.extension().is_some_and(|e| e == "svg") {
        return Ok(out.to_path_buf());
    }
    if out.is_file() {
        return Err(Error::file(out, "is a file of another kind").fix("name an .svg file or a folder"));
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
    Ok(out.join(plan.file_name()))
}
