/*! Floor 11: the commands. One file each: its flags, what it asks of the library, what it prints. Results go to stdout,
everything else (progress, remarks, errors) to stderr. */

/// A line on stderr, as `remark!` would write it: [`output::remark`].
macro_rules! remark {
    ($($text:tt)*) => { $crate::cli::output::remark(format_args!($($text)*)) };
}

mod choices;
mod deal;
mod flags;
mod output;
mod preset;
mod progress;
mod ranges;
mod reading;
mod signals;
mod subject;
mod tower;

pub use output::{dashed, say};
pub use progress::Bar;
pub use signals::{exit_code, stopped, watch as watch_signals};

use crate::device::Device;
use crate::error::Result;
use crate::experiment::{Events, Output, config};
use crate::launch::choices::Tiles;
use clap::{Args, Parser};
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

/// Declares commands: the enum that clap parses and the dispatch, from one list.
macro_rules! commands {
    ($which:ident: $($(#[$doc:meta])* $name:ident => $module:ident),* $(,)?) => {
        $(mod $module;)*

        #[derive(clap::Subcommand)]
        pub enum $which { $($(#[$doc])* $name(Box<$module::Command>)),* }

        impl $which {
            pub fn run(self) -> crate::error::Result<()> {
                match self { $($which::$name(c) => c.run()),* }
            }
        }
    };
}

/// Declares a command that has commands of its own.
macro_rules! group {
    ($($list:tt)*) => {
        #[derive(clap::Args)]
        pub struct Command {
            #[command(subcommand)]
            action: Action,
        }

        impl Command {
            pub fn run(self) -> crate::error::Result<()> {
                self.action.run()
            }
        }

        commands! { Action: $($list)* }
    };
}

commands! { Command:
    /// Run the main job on the bundled set: train the fused network, evaluate it, leave a report.
    Demo => demo,
    /// Train the fused network on a manifest.
    Train => train,
    /// Train one model per fold and judge each on the pictures it has not seen.
    CrossValidate => cross_validate,
    /// Train, compare and report several models: a paper's tables.
    Study => study,
    /// Train one tower as a classifier of pictures.
    Pretrain => pretrain,
    /// Train a facial expression network over folds, and keep the best fold's tower.
    TrainFace => train_face,
    /// Rate pictures: a file, a folder, or stdin.
    Predict => predict,
    /// Show what one tower sees in pictures: classes and probabilities.
    Features => features,
    /// Solve for a linear model or a support vector machine on tables of features, over folds.
    Fit => fit,
    /// Measure a trained model on a manifest.
    Evaluate => evaluate,
    /// Make a manifest of a published set, or of any table and a folder of pictures.
    Import => import,
    /// Join manifests into one, and find duplicate pictures.
    Merge => merge,
    /// Convert, inspect, compare and export weight files and checkpoints.
    Weights => weights,
    /// Compare a device's results with golden files that another framework computed.
    Conform => conform,
    /// Compare the outputs or gradients of one network on two devices.
    Compare => compare,
    /// Benchmark layers, steps, inferences and the loader, and compare with an earlier run.
    Bench => bench,
    /// Measure where the time of an inference or of a training step goes.
    Profile => profile,
    /// Verify a network's gradient by finite differences of its loss, in float64.
    Gradcheck => gradcheck,
    /// Show what a network keeps in memory, when and where, before it runs.
    Plan => plan,
    /// List the GPU kernels, or compile them for another machine.
    Kernels => kernels,
    /// Show what this machine has: driver, compiler, GPUs, caches.
    Doctor => doctor,
    /// Print under which terms the program, its weights and photographs and what it links may be used.
    Licenses => licenses,
    /// Print what completes this program's commands and flags in a shell.
    Completions => completions,
    /// Print the manual page, or write one for each command.
    Man => man,
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
        self.open_tiled(None)
    }

    /// With other tiles than those that were measured on its kind.
    pub fn open_tiled(&self, tiles: Option<Tiles>) -> Result<Box<dyn Device>> {
        config::Compute::from(self.clone()).open_tiled(tiles, &*terminal())
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

/// Shows what a device does before its first step.
pub fn watch_devices() {
    static BAR: LazyLock<Bar> = LazyLock::new(Bar::new);
    crate::progress::watch(&*BAR);
}
