/*! MAP-Elites (Mouret & Clune 2015): of all candidates the best of each cell is kept. Cells are squares of the plane of ratings,
or classes. */

use serde::{Deserialize, Serialize};

/// A rating's range in equal parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    pub rating: String,
    pub bins: usize,
    pub low: f64,
    pub high: f64,
}

impl Axis {
    fn bin(&self, v: f64) -> usize {
        // A cast keeps what lies below the range at 0, and NaN.
        (((v - self.low) / (self.high - self.low) * self.bins as f64).floor() as usize).min(self.bins - 1)
    }

    /// The middle of a part.
    pub fn centre(&self, bin: usize) -> f64 {
        self.low + (bin as f64 + 0.5) * (self.high - self.low) / self.bins as f64
    }
}

/// What the cells are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cells {
    /// Row by row: the last axis changes fastest.
    Grid(Vec<Axis>),
    /// One for each class.
    Classes(Vec<String>),
}

impl Cells {
    pub fn count(&self) -> usize {
        match self {
            Cells::Grid(axes) => axes.iter().map(|a| a.bins).product(),
            Cells::Classes(names) => names.len(),
        }
    }

    /// The cell of ratings; of a grid.
    pub fn of(axes: &[Axis], ratings: &[f64]) -> usize {
        axes.iter().zip(ratings).fold(0, |cell, (a, v)| cell * a.bins + a.bin(*v))
    }

    /// Parts of a cell, an axis each; of a grid.
    pub fn bins(axes: &[Axis], mut cell: usize) -> Vec<usize> {
        let mut bins: Vec<usize> = axes
            .iter()
            .rev()
            .map(|a| {
                let bin = cell % a.bins;
                cell /= a.bins;
                bin
            })
            .collect();
        bins.reverse();
        bins
    }
}

/// The best candidate of a cell so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Elite<S> {
    pub solution: S,
    pub fitness: f64,
    /// What it was judged by: ratings, or probabilities of all classes.
    pub judged: Vec<f32>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Refused,
    /// Better than what was there.
    Better,
    /// The first of its cell.
    New,
}

/// The elites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Archive<S> {
    cells: Vec<Option<Elite<S>>>,
}

impl<S> Archive<S> {
    pub fn new(cells: usize) -> Self {
        Self { cells: (0..cells).map(|_| None).collect() }
    }

    /// An empty cell takes a candidate, a filled one only a better one. A fitness that is not a number is refused.
    pub fn add(&mut self, cell: usize, candidate: Elite<S>) -> Status {
        let status = match &self.cells[cell] {
            _ if candidate.fitness.is_nan() => return Status::Refused,
            None => Status::New,
            Some(there) if candidate.fitness > there.fitness => Status::Better,
            Some(_) => return Status::Refused,
        };
        self.cells[cell] = Some(candidate);
        status
    }

    /// Filled cells, in their order.
    pub fn filled(&self) -> impl Iterator<Item = (usize, &Elite<S>)> {
        self.cells.iter().enumerate().filter_map(|(i, c)| Some((i, c.as_ref()?)))
    }

    /// The cell of a parent, if one is filled: each of these is as likely; `u` is uniform in [0, 1).
    pub fn parent(&self, u: f64) -> Option<usize> {
        let filled: Vec<usize> = self.filled().map(|(i, _)| i).collect();
        filled.get((u * filled.len() as f64) as usize).copied()
    }

    pub fn get(&self, cell: usize) -> Option<&Elite<S>> {
        self.cells.get(cell)?.as_ref()
    }

    /// Cells, filled or not.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.filled().next().is_none()
    }

    /// Share of cells that are filled.
    pub fn coverage(&self) -> f64 {
        self.filled().count() as f64 / self.cells.len() as f64
    }

    /// Sum over filled cells of fitness + offset: it never falls where no fitness is below minus the offset.
    pub fn quality(&self, offset: f64) -> f64 {
        self.filled().map(|(_, e)| e.fitness + offset).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(bins: [usize; 2]) -> Vec<Axis> {
        let axis = |(rating, bins): (&str, usize)| Axis { rating: rating.into(), bins, low: 1.0, high: 9.0 };
        ["valence", "arousal"].into_iter().zip(bins).map(axis).collect()
    }

    #[test]
    fn cells_of_the_plane() {
        let a = axes([4, 8]);
        assert_eq!(Cells::Grid(a.clone()).count(), 32);
        for (ratings, cell) in [([1.0, 1.0], 0), ([1.0, 2.0], 1), ([3.0, 1.0], 8), ([9.0, 9.0], 31), ([-5.0, 99.0], 7)]
        {
            assert_eq!(Cells::of(&a, &ratings), cell, "{ratings:?}");
        }
        assert_eq!(Cells::of(&a, &[f64::NAN, 1.0]), 0);
        for cell in 0..32 {
            let centre: Vec<f64> = a.iter().zip(Cells::bins(&a, cell)).map(|(a, b)| a.centre(b)).collect();
            assert_eq!(Cells::of(&a, &centre), cell);
        }
    }

    #[test]
    fn only_better_ones_replace() {
        let mut archive = Archive::new(3);
        assert_eq!(archive.parent(0.5), None);
        let one = |fitness| Elite { solution: (), fitness, judged: vec![] };
        let tries = [(1.0, Status::New), (1.0, Status::Refused), (0.5, Status::Refused), (f64::NAN, Status::Refused)];
        for (fitness, status) in tries.into_iter().chain([(2.0, Status::Better)]) {
            assert_eq!(archive.add(1, one(fitness)), status, "{fitness}");
        }
        assert_eq!(archive.add(0, one(f64::NAN)), Status::Refused);
        assert_eq!((archive.parent(0.99), archive.quality(20.0)), (Some(1), 22.0));
        assert_eq!(archive.coverage(), 1.0 / 3.0);
    }
}
