//! `fit`: linear models and support vector machines on tables of features, judged over folds and then solved for all pictures.

use super::deal::FoldFlags;
use super::ranges::number;
use super::{Compute, output, reading, to};
use crate::data::manifest::TARGETS;
use crate::error::{Error, Result};
use crate::experiment::fit::Fit;
use crate::solve::model::Method;
use crate::solve::svm;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings or labels (see `import`).
    manifest: PathBuf,
    /// Features of its pictures (see `features --table`): safetensors, a CSV file with a column path, or .npy with a row for
    /// each of the manifest's. Several are laid side by side; NAME= before a file begins the names of its columns.
    #[arg(long = "table", required = true, value_name = "FILE")]
    tables: Vec<String>,
    /// Least squares, ridge regression, or a support vector machine: svr for ratings, svc for classes. Columns are
    /// standardised by the pictures that are learned from.
    #[arg(long, value_enum)]
    solver: Solver,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Cost of an error, of support vector machines: one model for each.
    #[arg(long, value_delimiter = ',', value_parser = number::<f64>(0.0, 1e9), default_value = "1", value_name = "X")]
    c: Vec<f64>,
    /// Penalties of ridge regression as scikit-learn has them, one model for each; by default inner folds choose one for each
    /// rating.
    #[arg(long, value_delimiter = ',', value_parser = number::<f64>(0.0, 1e9), value_name = "X")]
    alpha: Vec<f64>,
    /// Errors of a rating up to this cost nothing, in svr.
    #[arg(long, value_parser = number::<f64>(0.0, 8.0), default_value_t = svm::EPSILON, value_name = "X")]
    epsilon: f64,
    /// Each layer of a network alone: columns that share what stands before their last dot, as block3.17 does with block3.1.
    /// How much each knows of a rating goes into layers.csv and layers-RATING.svg; tables of several networks, named trained=
    /// and random=, beside each other.
    #[arg(long)]
    layers: bool,
    /// Columns of ratings to predict.
    #[arg(long, value_delimiter = ',', default_values_t = TARGETS.map(String::from), value_name = "COLUMNS")]
    targets: Vec<String>,
    /// Column of classes, for svc; pictures where it is empty are left out.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    #[command(flatten)]
    deal: FoldFlags,
    /// Of the folds that are dealt.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Threads that compute; all cores by default.
    #[arg(long, value_parser = reading::threads, value_name = "N")]
    threads: Option<usize>,
}

/// Which method of [`crate::solve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Solver {
    Linear,
    Ridge,
    Svr,
    Svc,
}

impl Command {
    pub fn run(self) -> Result<()> {
        Compute { device: "cpu".into(), threads: self.threads, check_finite: false }.bind_threads();
        if (self.solver == Solver::Svc) != self.label.is_some() {
            return Err(Error::usage("--label is for --solver svc, and svc needs it")
                .fix("name the column of classes in --label, or take svr for ratings"));
        }
        let fit = Fit {
            manifest: self.manifest,
            tables: self.tables,
            method: match self.solver {
                Solver::Linear => Method::Linear,
                Solver::Ridge => Method::Ridge { alpha: self.alpha },
                Solver::Svr => Method::Svr { c: self.c, epsilon: self.epsilon },
                Solver::Svc => Method::Svc { c: self.c },
            },
            targets: self.targets,
            label: self.label,
            layers: self.layers,
            deal: self.deal.asked(self.seed),
        };
        output::print(&fit.run(&to(&self.out))?.text())
    }
}
