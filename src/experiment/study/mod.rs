//! What a paper says about several models at once: each trained on every fold, and tables of them all.

mod compare;
mod grid;
mod norms;
mod plan;
mod report;
mod run;
mod slurm;

pub use compare::Comparison;
pub use plan::{Model, Plan};
pub use run::Found;

use super::Output;
use super::config::Compute;
use super::events::{Events, tell};
use crate::error::{Error, Result};
use grid::Grid;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The study of Parry & Vuong 2021, as a file to be edited.
pub const PARRY: &str = include_str!("example.toml");

/// The study of Noguera 2018.
pub const NOGUERA: &str = include_str!("noguera.toml");

/// The study of Kim et al. 2018.
pub const KIM: &str = include_str!("kim.toml");

/// The study of Rapolu et al.
pub const RAPOLU: &str = include_str!("rapolu.toml");

/// The study that Cybulski 2019 plans.
pub const CYBULSKI: &str = include_str!("cybulski.toml");

/// Three heads on the bundled tower.
pub const SMALL: &str = include_str!("small.toml");

/// Models that are trained on the folds of one manifest, and the folder of their results. Several processes, also of several
/// machines, may work in one folder: each takes the next cell that nobody computes.
pub struct Study {
    pub plan: Plan,
    pub output: Output,
    pub compute: Compute,
}

impl Study {
    /// Reads a `study.toml`; its results go to a folder.
    ///
    /// # Errors
    /// A file that cannot be read, or a setting that it cannot have, with its line.
    pub fn open(path: impl AsRef<Path>, folder: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { plan: Plan::read(path.as_ref())?, output: Output::silent(folder), compute: Compute::default() })
    }

    /// Lets somebody hear how the work goes.
    pub fn telling(mut self, events: Arc<dyn Events>) -> Self {
        self.output.events = events;
        self
    }

    fn grid(&self, anew: bool) -> Result<Grid> {
        Grid::open(self.plan.clone(), &self.output.folder, self.output.events.clone(), anew)
    }

    /// Trains every model on every fold, as far as that is not done, and makes the tables. `anew` computes again what lies in
    /// the folder and was made otherwise.
    ///
    /// # Errors
    /// Without `anew`, cells in the folder that were made otherwise.
    pub fn run(&self, anew: bool) -> Result<Found> {
        let (grid, output, compute) = (&self.grid(anew)?, &self.output, &self.compute);
        run::Work { grid, output, compute, anew, only: None }.run()
    }

    /// Computes one cell, if it is not done, and what it begins with: of models in the order of the file and their folds, counted
    /// from 1. The last one that is done makes the tables.
    ///
    /// # Errors
    /// Those of [`Study::run`], and a number that no cell has.
    pub fn cell(&self, number: usize) -> Result<Found> {
        let grid = &self.grid(false)?;
        let only = Some(grid.numbered(number)?);
        run::Work { grid, output: &self.output, compute: &self.compute, anew: false, only }.run()
    }

    /// A script that Slurm runs once for each cell. Deals the folds, so that a study that cannot be begun is told before it is
    /// submitted.
    ///
    /// # Errors
    /// Those of a manifest or of folds that do not fit.
    pub fn slurm(&self) -> Result<String> {
        let grid = self.grid(false)?;
        Ok(slurm::script(&self.plan, grid.k, &self.output.folder))
    }

    /// Makes the tables of what is done.
    ///
    /// # Errors
    /// A folder without a cell that is done, or with cells that were made otherwise.
    pub fn report(&self) -> Result<String> {
        let grid = self.grid(false)?;
        if grid.done()? == 0 {
            return Err(Error::file(&self.output.folder, "holds no cell that is done").fix("`study run` computes them"));
        }
        for m in &grid.plan.models {
            match grid.basis(m) {
                Ok(basis) => grid.check(m, &basis)?,
                Err(e) => tell!(
                    self.output.events,
                    "model {}: cannot be compared with what its cells were made of: {e:#}",
                    m.name
                ),
            }
        }
        report::write(&grid, &self.compute, &self.output.command)
    }
}
