/*! Floor 12: the commands. One file each: its flags, what it asks of the library, what it prints. Results go to stdout,
everything else (progress, remarks, errors) to stderr. */

/// A line on stderr, as `remark!` would write it: [`output::remark`].
macro_rules! remark {
    ($($text:tt)*) => { $crate::cli::output::remark(format_args!($($text)*)) };
}

mod bench;
mod choices;
mod compare;
mod completions;
mod conform;
mod cross_validate;
mod deal;
mod demo;
mod doctor;
mod evaluate;
mod evolve;
mod features;
mod fit;
mod flags;
mod generate;
mod gradcheck;
mod import;
mod kernels;
mod licenses;
mod man;
mod merge;
mod model;
mod output;
mod plan;
mod predict;
mod preset;
mod pretrain;
mod profile;
mod progress;
mod ranges;
mod reading;
mod signals;
mod study;
mod tower;
mod train;
mod train_face;
mod weights;

pub use output::{dashed, say};
pub use progress::Bar;
pub use signals::{exit_code, stopped, watch as watch_signals};

use crate::device::Device;
use crate::error::Result;
use crate::experiment::{Events, Output, config};
use clap::{Args, Parser, Subcommand};
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// Valence and arousal of photographs: train, evaluate, predict.
#[derive(Parser)]
#[command(version = crate::VERSION, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say nothing on stderr but errors: no progress, no remarks.
    #[arg(long, short, global = true, display_order = 999)]
    quiet: bool,
}

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        if self.quiet {
            output::hush();
        }
        self.command.run()
    }
}

/// The commands, in the order of the help.
#[derive(Subcommand)]
pub enum Command {
    /// Run the main job on the bundled set: train the fused network, evaluate it, leave a report.
    Demo(Box<demo::Command>),
    /// Train the fused network on a manifest.
    Train(Box<train::Command>),
    /// Train one model per fold and judge each on the pictures it has not seen.
    CrossValidate(Box<cross_validate::Command>),
    /// Train, compare and report several models: a paper's tables.
    Study(Box<study::Command>),
    /// Train one tower as a classifier of pictures.
    Pretrain(Box<pretrain::Command>),
    /// Train a facial expression network over folds, and keep the best fold's tower.
    TrainFace(Box<train_face::Command>),
    /// Rate pictures: a file, a folder, or stdin.
    Predict(Box<predict::Command>),
    /// Show what one tower sees in pictures: classes and probabilities.
    Features(Box<features::Command>),
    /// Solve for a linear model or a support vector machine on tables of features, over folds.
    Fit(Box<fit::Command>),
    /// Evolve pictures that a model is made to see: one for each cell of the plane of ratings, or for each class.
    Evolve(Box<evolve::Command>),
    /// Train a generator of pictures that a model rates as asked.
    Generate(Box<generate::Command>),
    /// Measure a trained model on a manifest.
    Evaluate(Box<evaluate::Command>),
    /// Make a manifest of a published set, or of any table and a folder of pictures.
    Import(Box<import::Command>),
    /// Join manifests into one, and find duplicate pictures.
    Merge(Box<merge::Command>),
    /// Convert, inspect, compare and export weight files and checkpoints.
    Weights(Box<weights::Command>),
    /// Compare a device's results with golden files that another framework computed.
    Conform(Box<conform::Command>),
    /// Compare the outputs or gradients of one network on two devices.
    Compare(Box<compare::Command>),
    /// Benchmark layers, steps, inferences and the loader, and compare with an earlier run.
    Bench(Box<bench::Command>),
    /// Measure where the time of an inference or of a training step goes.
    Profile(Box<profile::Command>),
    /// Verify a network's gradient by finite differences of its loss, in float64.
    Gradcheck(Box<gradcheck::Command>),
    /// Show what a network keeps in memory, when and where, before it runs.
    Plan(Box<plan::Command>),
    /// List the GPU kernels, or compile them for another machine.
    Kernels(Box<kernels::Command>),
    /// Show what this machine has: driver, compiler, GPUs, caches.
    Doctor(Box<doctor::Command>),
    /// Print under which terms the program, its weights and photographs and what it links may be used.
    Licenses(Box<licenses::Command>),
    /// Print what completes this program's commands and flags in a shell.
    Completions(Box<completions::Command>),
    /// Print the manual page, or write one for each command.
    Man(Box<man::Command>),
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Demo(c) => c.run(),
            Self::Train(c) => c.run(),
            Self::CrossValidate(c) => c.run(),
            Self::Study(c) => c.run(),
            Self::Pretrain(c) => c.run(),
            Self::TrainFace(c) => c.run(),
            Self::Predict(c) => c.run(),
            Self::Features(c) => c.run(),
            Self::Fit(c) => c.run(),
            Self::Evolve(c) => c.run(),
            Self::Generate(c) => c.run(),
            Self::Evaluate(c) => c.run(),
            Self::Import(c) => c.run(),
            Self::Merge(c) => c.run(),
            Self::Weights(c) => c.run(),
            Self::Conform(c) => c.run(),
            Self::Compare(c) => c.run(),
            Self::Bench(c) => c.run(),
            Self::Profile(c) => c.run(),
            Self::Gradcheck(c) => c.run(),
            Self::Plan(c) => c.run(),
            Self::Kernels(c) => c.run(),
            Self::Doctor(c) => c.run(),
            Self::Licenses(c) => c.run(),
            Self::Completions(c) => c.run(),
            Self::Man(c) => c.run(),
        }
    }
}

/// Where to compute.
#[derive(Args, Clone, Debug)]
pub struct Compute {
    /// Device: auto (a GPU if there is one), cpu, cuda or cuda:N, sim (a GPU in software, for tests: very slow), or
    /// reference (the float64 definition: slow).
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub device: String,
    /// Threads that compute and that decode; all cores by default.
    #[arg(long, value_parser = reading::threads, value_name = "N")]
    pub threads: Option<usize>,
    /// Look for NaN and infinity after every op, and stop at the first one: slower.
    #[arg(long)]
    pub check_finite: bool,
}

impl Compute {
    /// Lets whatever is parallel beside the device, such as decoding, keep to `--threads`. To be called before it begins.
    pub fn bind_threads(&self) {
        config::Compute::from(self.clone()).bind_threads(&*terminal());
    }

    pub fn open(&self) -> Result<Box<dyn Device>> {
        config::Compute::from(self.clone()).open(&*terminal())
    }
}

impl From<Compute> for config::Compute {
    fn from(Compute { device, threads, check_finite }: Compute) -> Self {
        Self { device, threads, check_finite }
    }
}

/// Shows on stderr how a library's work goes, and passes on what signals ask for.
fn terminal() -> Arc<dyn Events> {
    Arc::new(Bar::new())
}

/// Where an experiment leaves what it finds.
fn to(folder: &Path) -> Output {
    Output { folder: folder.into(), command: command_line(), events: terminal() }
}

/// The command as the user gave it, for reports.
fn command_line() -> String {
    std::env::args().skip(1).fold("deep-affect".into(), |line, word| format!("{line} {word}"))
}

/// Shows what a device does before its first step, and lets it have its own kernels tried.
pub fn watch_devices() {
    static BAR: LazyLock<Bar> = LazyLock::new(Bar::new);
    crate::progress::watch(&*BAR);
    kernels::try_kernels();
}
