//! `evolve`: pictures that a model is made to see, one for each cell of the plane of ratings or for each class.

use super::ranges::{MANY, whole};
use super::reading::batch;
use super::{Compute, output, to};
use crate::error::Result;
use crate::evolve::Fitness;
use crate::experiment::evolve::Evolve;
use crate::host::pattern::{Colour, Coordinates};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Folder for atlas.png, archive.csv, colours.csv, curves.csv, genomes.json, report.html, and what --resume needs.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Checkpoint of `train` that judges; repeatable, and several judge by their mean. Without it the bundled model does.
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// One rating, or two, and how many parts each has: a cell for every combination. By default 16 of each of the model's
    /// first two ratings; a model of classes has a cell for each.
    #[arg(long, value_delimiter = ',', value_name = "RATING:PARTS")]
    grid: Vec<String>,
    /// How good a picture is for its cell. For a class it is its probability.
    #[arg(long, value_enum, default_value_t = Fitness::Centre, value_name = "WHAT")]
    fitness: Fitness,
    /// A second model, which had no say: it rates the best pictures, and the report shows both.
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// Generations after the random start.
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 50, value_name = "N")]
    generations: usize,
    /// Random genomes at the start.
    #[arg(long, value_parser = whole::<usize>(1..=1_000_000), default_value_t = 400, value_name = "N")]
    initial: usize,
    /// Children in each generation.
    #[arg(long, value_parser = whole::<usize>(1..=1_000_000), default_value_t = 400, value_name = "N")]
    children: usize,
    /// Side of the pictures.
    #[arg(long, value_parser = whole::<usize>(8..=1024), default_value_t = 64, value_name = "PIXELS")]
    side: usize,
    /// Side of the square that the models see: by default that of the pictures where no tower goes on to layers that read a
    /// whole map, else the model's own.
    #[arg(long, value_parser = whole::<usize>(32..=1024), value_name = "PIXELS")]
    seen: Option<usize>,
    /// What the three outputs of a genome are.
    #[arg(long, value_enum, default_value_t = Colour::Hls, value_name = "SPACE")]
    colour: Colour,
    /// What a genome reads as x and y.
    #[arg(long, value_enum, default_value_t = Coordinates::Unit, value_name = "HOW")]
    coordinates: Coordinates,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Go on with the evolution in --out; --generations may be larger than it was.
    #[arg(long)]
    resume: bool,
    /// Pictures that are judged at once; ratings do not depend on it.
    #[arg(long, value_parser = batch, default_value_t = 16, value_name = "N")]
    batch: usize,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let evolve = Evolve {
            models: self.model,
            grid: self.grid,
            fitness: self.fitness,
            judge: self.judge,
            generations: self.generations,
            initial: self.initial,
            children: self.children,
            side: self.side,
            seen: self.seen,
            colour: self.colour,
            coordinates: self.coordinates,
            seed: self.seed,
            resume: self.resume,
            batch: self.batch,
            compute: self.compute.into(),
        };
        let found = evolve.run(&to(&self.out))?;
        let last = found.evolution.curve.last().expect("a start");
        let mut text = format!(
            "{} of {} cells filled by {} candidates; QD score {:.2}\n",
            last.filled_cells,
            found.evolution.archive.len(),
            last.candidates,
            last.qd_score
        );
        found.apart.iter().for_each(|line| text += &format!("{line}\n"));
        output::print(&text)?;
        remark!("wrote atlas.png, archive.csv, curves.csv, genomes.json and report.html to {}", self.out.display());
        Ok(())
    }
}
