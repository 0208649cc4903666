//! `plan`: what a network keeps in memory, when and where, and what a training step on several GPUs might cost. Nothing is
//! allocated for it.

use super::model::{ModelArg, ModelScale};
use super::ranges::{MANY, number, whole};
use super::reading::batch;
use super::{Compute, output};
use crate::atomic;
use crate::error::{Error, Result};
use crate::launch::links::Links;
use crate::measure::Purpose;
use crate::measure::memory::{MemoryPlan, plan};
use crate::measure::scaling::{Scaling, ScalingPlan};
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
    gpus: GpusFlags,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Args)]
struct GpusFlags {
    /// Predict a training step on so many H100 SXM instead, each with a batch of --batch: how long gradients take between them,
    /// how much of that is hidden, what fits. By models of launches and links; nothing is measured.
    #[arg(long, value_parser = whole::<u32>(1..=MANY), value_name = "N", conflicts_with_all = ["out", "device"])]
    gpus: Option<u32>,
    /// GPUs of a node, which NVLink joins.
    #[arg(long, default_value_t = Links::default().node as u32, value_parser = whole::<u32>(1..=MANY), value_name = "N", requires = "gpus")]
    gpus_per_node: u32,
    /// Gigabytes a second that a ring of GPUs gets out of NVLink: NCCL 370 of an H100's 450.
    #[arg(long, default_value_t = Links::default().nvlink, value_parser = number::<f64>(1e-3, 1e6), value_name = "GB/S", requires = "gpus")]
    nvlink: f64,
    /// Gigabytes a second that it gets out of the network card of each GPU: 46 of InfiniBand's 50 at 400 Gb/s.
    #[arg(long, default_value_t = Links::default().network, value_parser = number::<f64>(1e-3, 1e6), value_name = "GB/S", requires = "gpus")]
    network: f64,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let model = self.model.resolve(1, ModelScale::Full)?;
        if let Some(gpus) = self.gpus.gpus {
            if self.pass != Purpose::Train {
                return Err(Error::usage("--gpus is about a training step: nothing goes between GPUs that answer")
                    .fix("add --pass train"));
            }
            let GpusFlags { gpus_per_node, nvlink, network, .. } = self.gpus;
            let links = Links { node: gpus_per_node as usize, nvlink, network };
            let scaling = Scaling { model: &model, batch: self.batch, gpus: gpus as usize, links };
            return output::print_result(&scaling.plan()?, self.json, ScalingPlan::text);
        }
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
