/*! Floor 8: pictures that a model is made to see (Cybulski 2019). [`cppn`] makes a picture of a graph and a child of it,
[`archive`] keeps the best picture of each cell, and [`Evolution`] runs them: children of elites are judged, and each
takes its place if it is better than what is there. */

pub mod archive;
pub mod cppn;

use crate::error::{Error, Result};
use crate::host::pattern::{Colour, Coordinates, Drawing};
use crate::progress::Progress;
use crate::rng::{Rng, Stream};
use archive::{Archive, Axis, Cells, Elite, Status};
use cppn::Genome;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Pictures that are judged at once.
const TOGETHER: usize = 64;

/// Everything that decides which pictures come out, beside the models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub cells: Cells,
    pub fitness: Fitness,
    /// Side of the pictures in pixels.
    pub side: usize,
    pub colour: Colour,
    pub coordinates: Coordinates,
    /// Random genomes at the start, and children in each generation.
    pub initial: usize,
    pub children: usize,
    pub seed: u64,
}

/// How good a picture is for its cell. A class's is always its probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fitness {
    /// Minus the distance of its ratings from the middle of the cell, in points.
    Centre,
    /// Minus how far models disagree: the square root of the mean variance of their ratings, in points.
    Agreement,
}

/// What one model says of n pictures: of each all ratings, or the probabilities of all classes.
pub type Judged = Vec<Vec<f32>>;

/// Answers what each model says of the pictures of genomes.
pub type Judge<'a> = dyn FnMut(&[Genome]) -> Result<Vec<Judged>> + 'a;

/// What has been evolved; stored as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evolution {
    pub settings: Settings,
    /// Which models judge, to be compared when it goes on.
    pub models: Vec<String>,
    pub archive: Archive<Genome>,
    /// After each generation.
    pub curve: Vec<Point>,
}

/// Where a generation ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub candidates: usize,
    pub filled_cells: usize,
    pub coverage_percent: f64,
    /// Sum over filled cells of how much better than the worst possible one the elite is.
    pub qd_score: f64,
    pub new_cells: usize,
    pub better_elites: usize,
    /// Candidates with a rating beyond the grid, where no cell is.
    pub beyond: usize,
}

impl Evolution {
    pub fn new(settings: Settings, models: Vec<String>) -> Result<Self> {
        let cells = settings.cells.count();
        if cells == 0 || settings.initial == 0 || settings.children == 0 || settings.side == 0 {
            return Err(Error::usage("cells, candidates and the side of pictures must be at least 1"));
        }
        Ok(Self { archive: Archive::new(cells), settings, models, curve: vec![] })
    }

    /// Whether a state that was read can go on.
    ///
    /// # Errors
    /// Elites that do not fit the cells.
    pub fn check(&self) -> Result<()> {
        let axes = match &self.settings.cells {
            Cells::Grid(axes) => axes.len(),
            Cells::Classes(names) => names.len(),
        };
        let fits = self.archive.len() == self.settings.cells.count()
            && self.archive.filled().all(|(_, e)| e.judged.len() == axes);
        if fits { Ok(()) } else { Err(Error::usage("its elites do not fit its cells")) }
    }

    /// The next generation: children of the elites, or random genomes as long as there are none, are judged and compete.
    /// A generation that fails leaves no trace, and
    /// the same generation always draws the same numbers, so what goes on later ends as if it had never stopped.
    pub fn step(&mut self, judge: &mut Judge, progress: &dyn Progress) -> Result<()> {
        let s = &self.settings;
        let generation = self.curve.len() as u32;
        let count = if generation == 0 { s.initial } else { s.children };
        let child = |i: usize| {
            let mut rng = Rng::new(s.seed, Stream::Evolve(i as u32), generation);
            match self.archive.parent(f64::from(rng.uniform())).and_then(|cell| self.archive.get(cell)) {
                Some(parent) => parent.solution.mutated(&mut rng),
                None => Genome::random(&mut rng),
            }
        };
        let mut children: Vec<(Genome, Vec<Vec<f32>>)> = vec![];
        for from in (0..count).step_by(TOGETHER) {
            if progress.stopped() {
                return Err(Error::interrupted("stopped within a generation"));
            }
            let genomes: Vec<Genome> = (from..count.min(from + TOGETHER)).into_par_iter().map(child).collect();
            let judged = judge(&genomes)?;
            for (i, genome) in genomes.into_iter().enumerate() {
                children.push((genome, judged.iter().map(|model| model[i].clone()).collect()));
                progress.inc();
            }
        }
        let before = self.curve.last().map_or(0, |p| p.candidates);
        let mut point = Point { candidates: before + count, ..Point::default() };
        for (genome, judged) in children {
            compete(&self.settings, &mut self.archive, &genome, &judged, &mut point);
        }
        point.filled_cells = self.archive.filled().count();
        point.coverage_percent = 100.0 * self.archive.coverage();
        point.qd_score = self.archive.quality(self.settings.offset());
        self.curve.push(point);
        Ok(())
    }
}

impl Settings {
    /// How pictures are drawn.
    pub fn drawing(&self) -> Drawing {
        Drawing { side: self.side, coordinates: self.coordinates, colour: self.colour }
    }

    /// What is added to a fitness, so that a filled cell never counts less than an empty one.
    pub fn offset(&self) -> f64 {
        match (&self.cells, self.fitness) {
            (Cells::Classes(_), _) => 0.0,
            (Cells::Grid(axes), Fitness::Centre) => {
                axes.iter().map(|a| ((a.high - a.low) / a.bins as f64 / 2.0).powi(2)).sum::<f64>().sqrt()
            }
            (Cells::Grid(axes), Fitness::Agreement) => axes.iter().map(|a| a.high - a.low).fold(0.0, f64::max),
        }
    }

    /// Of the ratings by each model the cell of their mean, and how good they are there; None beyond the grid.
    fn place(&self, axes: &[Axis], ratings: &[Vec<f32>]) -> Option<(usize, f64)> {
        let n = ratings.len() as f64;
        let mean: Vec<f64> =
            (0..axes.len()).map(|k| ratings.iter().map(|r| f64::from(r[k])).sum::<f64>() / n).collect();
        if !axes.iter().zip(&mean).all(|(a, v)| (a.low..=a.high).contains(v)) {
            return None;
        }
        let cell = Cells::of(axes, &mean);
        let square = |f: &dyn Fn(usize) -> f64| (0..axes.len()).map(f).sum::<f64>();
        let far = match self.fitness {
            Fitness::Centre => {
                let bins = Cells::bins(axes, cell);
                square(&|k| (mean[k] - axes[k].centre(bins[k])).powi(2))
            }
            Fitness::Agreement => {
                let of = |k: usize| ratings.iter().map(|r| (f64::from(r[k]) - mean[k]).powi(2)).sum::<f64>() / n;
                square(&of) / axes.len() as f64
            }
        };
        Some((cell, -far.sqrt()))
    }
}

/// Puts a judged candidate where it belongs.
fn compete(s: &Settings, archive: &mut Archive<Genome>, genome: &Genome, judged: &[Vec<f32>], point: &mut Point) {
    let mean = |k: usize| judged.iter().map(|r| r[k]).sum::<f32>() / judged.len() as f32;
    let mean: Vec<f32> = (0..judged[0].len()).map(mean).collect();
    let mut add = |cell: usize, fitness: f64| {
        let candidate = Elite { solution: genome.clone(), fitness, judged: mean.clone() };
        match archive.add(cell, candidate) {
            Status::New => point.new_cells += 1,
            Status::Better => point.better_elites += 1,
            Status::Refused => (),
        }
    };
    match &s.cells {
        Cells::Grid(axes) => match s.place(axes, judged) {
            Some((cell, fitness)) => add(cell, fitness),
            None => point.beyond += 1,
        },
        // Every candidate competes for every class.
        Cells::Classes(names) => (0..names.len()).for_each(|class| add(class, f64::from(mean[class]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cells: Cells, fitness: Fitness) -> Settings {
        let (colour, coordinates) = (Colour::Rgb, Coordinates::Unit);
        Settings { cells, fitness, side: 8, colour, coordinates, initial: 30, children: 70, seed: 5 }
    }

    fn grid(bins: usize) -> Cells {
        let axis = |rating: &str| Axis { rating: rating.into(), bins, low: 1.0, high: 9.0 };
        Cells::Grid(vec![axis("valence"), axis("arousal")])
    }

    /// Mean red and green on the scale of ratings; two models differ by the blue.
    fn judge(genomes: &[Genome]) -> Result<Vec<Judged>> {
        let how = settings(grid(1), Fitness::Centre).drawing();
        let pictures: Vec<Vec<u8>> = genomes.iter().map(|g| g.picture(how)).collect();
        let mean = |p: &[u8], c: usize| {
            let (pixels, _) = p.as_chunks::<3>();
            1.0 + 8.0 * pixels.iter().map(|p| f32::from(p[c]) / 255.0).sum::<f32>() / pixels.len() as f32
        };
        let rated = |p: &[u8], sign: f32| [0, 1].map(|c| mean(p, c) + sign * mean(p, 2) / 9.0).to_vec();
        Ok([1.0, -1.0].map(|sign| pictures.iter().map(|p| rated(p, sign)).collect()).into())
    }

    #[test]
    fn coverage_and_quality_never_fall_and_a_resumed_run_is_the_same() {
        for fitness in [Fitness::Centre, Fitness::Agreement] {
            let mut whole = Evolution::new(settings(grid(6), fitness), vec![]).unwrap();
            (0..6).for_each(|_| whole.step(&mut judge, &()).unwrap());
            for pair in whole.curve.windows(2) {
                assert!(pair[1].filled_cells >= pair[0].filled_cells && pair[1].qd_score >= pair[0].qd_score);
            }
            assert!(whole.curve[5].filled_cells > whole.curve[0].filled_cells);
            assert_eq!(whole.curve[5].candidates, 30 + 5 * 70);

            let mut part = Evolution::new(settings(grid(6), fitness), vec![]).unwrap();
            (0..3).for_each(|_| part.step(&mut judge, &()).unwrap());
            part.step(&mut |_| Err(Error::job("stopped")), &()).unwrap_err();
            let mut part: Evolution = serde_json::from_str(&serde_json::to_string(&part).unwrap()).unwrap();
            (0..3).for_each(|_| part.step(&mut judge, &()).unwrap());
            assert_eq!((part.archive, part.curve), (whole.archive, whole.curve));
        }
    }

    #[test]
    fn a_rating_beyond_the_scale_has_no_cell() {
        let s = settings(grid(4), Fitness::Centre);
        let Cells::Grid(axes) = &s.cells else { unreachable!() };
        assert_eq!(s.place(axes, &[vec![2.0, 2.0]]), Some((0, 0.0)));
        assert_eq!(s.place(axes, &[vec![9.0, 1.0]]), Some((12, -(2f64.sqrt()))));
        assert_eq!(s.offset(), 2f64.sqrt());
        for ratings in [[9.5, 5.0], [0.5, 5.0], [f32::NAN, 5.0]] {
            assert_eq!(s.place(axes, &[ratings.to_vec()]), None);
        }
        let s = settings(grid(4), Fitness::Agreement);
        // Apart by 1 in valence, by 0 in arousal: variances .25 and 0.
        assert_eq!(s.place(axes, &[vec![2.0, 2.0], vec![3.0, 2.0]]), Some((0, -(0.125f64.sqrt()))));
    }

    #[test]
    fn every_candidate_competes_for_every_class() {
        let cells = Cells::Classes(["awe", "fear"].map(String::from).to_vec());
        let mut e = Evolution::new(settings(cells, Fitness::Centre), vec![]).unwrap();
        e.step(&mut |p| Ok(vec![(0..p.len()).map(|i| vec![i as f32 / 30.0, 1.0 - i as f32 / 30.0]).collect()]), &())
            .unwrap();
        let kept: Vec<f64> = e.archive.filled().map(|(_, elite)| elite.fitness).collect();
        assert_eq!(kept, [f64::from(29.0f32 / 30.0), 1.0]);
        assert_eq!((e.curve[0].new_cells, e.curve[0].better_elites), (2, 29));
    }
}
