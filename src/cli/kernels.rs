//! `kernels`: what every GPU kernel takes of each architecture, what a network launches, and compiled kernels for a machine
//! without NVRTC.

use super::model::{ModelArg, ModelScale};
use super::ranges::{MANY, whole};
use super::reading::batch;
use super::{Compute, output, terminal};
use crate::device::tuning::TileTable;
use crate::device::{self, Cuda, trial};
use crate::error::{Error, Result};
use crate::launch::Warpgroups;
use crate::launch::choices::Tiles;
use crate::launch::estimate::Limits;
use crate::measure::Purpose;
use crate::measure::kernels::{self, Launches, Tuned, Tuning};
use crate::nvrtc::Target;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Images of a check: blocks of every variant for all multiprocessors, and some more.
const IMAGES: usize = 275;

/// Has kernels tried by this program, with another process.
pub fn try_kernels() {
    let command = |ordinal: usize| {
        let mut command = std::process::Command::new(std::env::current_exe().ok()?);
        command.args(["kernels", "check", "--device", &format!("cuda:{ordinal}")]);
        Some(command)
    };
    trial::by(trial::Try { command, limit: Duration::from_secs(120) });
}

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show registers, shared memory, spills and occupancy of every kernel.
    List {
        /// Only kernels whose name or source contains one of these: `conv_fprop`, `mma/`.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        wide: output::Wide,
        /// One JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show what a GPU would be sent, without one: every launch, its tile, how well its blocks fill a GPU.
    Launches(Box<LaunchFlags>),
    /// Measure the tiles of a network's products on a GPU and keep the fastest for it.
    Tune(Box<TuneFlags>),
    /// Compare convolutions by Hopper's own kernels with the portable ones, on a GPU. Before a program computes there in bf16 it
    /// does that by itself, once.
    Check {
        /// `cuda` or `cuda:1`.
        #[arg(long, default_value = "cuda", value_name = "NAME")]
        device: String,
    },
    /// Compile every kernel into a folder, for machines that have a GPU and no NVRTC. Its `sources` are for profilers.
    Export {
        folder: PathBuf,
        #[command(flatten)]
        targets: Targets,
    },
}

#[derive(Args)]
struct Targets {
    /// Architecture, like sm_89 or sm_90a; may be repeated. All that the kernels are made for by default.
    #[arg(long = "arch", value_name = "SM")]
    chosen: Vec<Target>,
}

impl Targets {
    fn list(&self) -> &[Target] {
        if self.chosen.is_empty() { &Target::ALL } else { &self.chosen }
    }
}

#[derive(Args)]
struct LaunchFlags {
    #[arg(long, value_enum, default_value_t = Purpose::Infer)]
    pass: Purpose,
    #[arg(long, default_value = "1", value_parser = batch, value_name = "N")]
    batch: usize,
    /// The architecture whose occupancy counts, where NVRTC can tell it.
    #[arg(long, default_value = "sm_90a", value_name = "SM")]
    arch: Target,
    /// Tiles that `kernels tune` measured, from its file, before the rule's.
    #[arg(long, value_name = "FILE")]
    tiles: Option<PathBuf>,
    /// Multiprocessors of the GPU that is to be filled: 132 are an H100's and an H200's.
    #[arg(long, default_value_t = 132, value_name = "N", value_parser = whole::<u32>(1..=100_000))]
    multiprocessors: u32,
    /// Gigabytes a second of its memory, for the estimate: 4800 an H200's, 3350 an H100's.
    #[arg(long, default_value_t = Limits::default().bandwidth as u32, value_name = "GB/S", value_parser = whole::<u32>(1..=MANY))]
    bandwidth: u32,
    /// With Hopper's own kernels, where they are faster by the estimate: for sm_90a.
    #[arg(long)]
    warpgroups: bool,
    /// Every column of the table.
    #[arg(long)]
    wide: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArg,
}

#[derive(Args)]
struct TuneFlags {
    #[arg(long, value_enum, default_value_t = Purpose::Train)]
    pass: Purpose,
    #[arg(long, default_value = "25", value_parser = batch, value_name = "N")]
    batch: usize,
    /// Measured runs of each tile after one that is not; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = whole::<u32>(1..=MANY))]
    repeat: u32,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::List { names, targets, wide, json } => {
                let all = kernels::resources(&names, targets.list())?;
                match json {
                    true => output::print_result(&all, true, |_| String::new()),
                    false => output::print_table(&kernels::table(&all), wide),
                }
            }
            Action::Launches(flags) => flags.run(),
            Action::Tune(flags) => flags.run(),
            Action::Check { device } => {
                let none = || Error::usage(format!("`{device}` is no GPU")).fix("kernels are compared on `cuda`");
                let ordinal = device::cuda_ordinal(&device).ok_or_else(none)?;
                let verdict = trial::run(|| Cuda::new(ordinal), IMAGES)?;
                output::print(&(verdict.line() + "\n"))
            }
            Action::Export { folder, targets } => {
                let files = kernels::export(&folder, targets.list())?;
                let names: Vec<_> = targets.list().iter().map(Target::to_string).collect();
                output::print(&format!(
                    "wrote {files} files for {}\non the other machine: DEEP_AFFECT_CACHE={} deep-affect …\n",
                    names.join(", "),
                    folder.display()
                ))
            }
        }
    }
}

impl LaunchFlags {
    fn run(self) -> Result<()> {
        if self.warpgroups && self.arch != Target::HOPPER {
            return Err(Error::usage(format!("{} has no kernels of its own", self.arch)).fix("leave --warpgroups out"));
        }
        let model = self.model.resolve(1, ModelScale::Full)?;
        let tiles = self.tiles.as_deref().map(TileTable::current).transpose()?;
        let launches = Launches {
            model: &model,
            purpose: self.pass,
            batch: self.batch,
            target: self.arch,
            tiles: tiles.map_or_else(Tiles::default, TileTable::tiles),
            multiprocessors: self.multiprocessors,
            bandwidth: self.bandwidth,
            warpgroups: if self.warpgroups { Warpgroups::Faster } else { Warpgroups::Nothing },
        };
        output::print_result(&launches.list()?, self.json, |list| list.text(self.wide))
    }
}

impl TuneFlags {
    fn run(self) -> Result<()> {
        let tuning = Tuning {
            model: &self.model.resolve(1, ModelScale::Full)?,
            purpose: self.pass,
            batch: self.batch,
            repeat: self.repeat,
            compute: &self.compute.into(),
            events: &*terminal(),
        };
        output::print_result(&tuning.run()?, self.json, Tuned::text)
    }
}
