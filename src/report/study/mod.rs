/*! A study for people: the tables of Parry & Vuong 2021 for whatever was trained ([`tables`]), in every form a paper needs
([`sheet`]), and one page with all of it ([`page`]). Errors are mean squared errors on the 1 to 9 scale, averaged over folds
with the sample SD (n-1), as in the paper. */

pub mod classes;
pub mod page;
pub mod sheet;
pub mod tables;

pub use sheet::Sheet;

use crate::data::Manifest;
use crate::train::cell::Cell;
use crate::train::metrics::Dimension;
use serde::Deserialize;

/// A table that somebody asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    pub title: Option<String>,
    /// Models whose errors are shown.
    #[serde(default)]
    pub models: Vec<String>,
    #[serde(default)]
    pub by: By,
    /// Models that are held against each other, instead.
    #[serde(default)]
    pub pairs: Vec<[String; 2]>,
}

/// What a table of errors has in its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The training part, the test part, every further set; all targets beside each other (Tables 2 and 3).
    #[default]
    Sets,
    /// The targets, on the test part; models beside each other (Table 5).
    Models,
    /// The models, on the training and the test part for each target; folds beside each other, and their mean (Kim et al. 2018,
    /// Table II).
    Folds,
    /// The models; RMSE, correlation and sign agreement over all ratings, on the training, the monitored and the test part
    /// beside each other (Noguera 2018, Tables 8.1 and 8.2).
    Splits,
    /// The same for each target (Table 8.3).
    #[serde(rename = "split-targets")]
    SplitTargets,
    /// The models, whatever they learn, on the test part: error and correlations of each rating, and right answers about the
    /// classes, by a model's own output or by the nearest class mean of its ratings (Cybulski 2019).
    Goals,
}

impl Layout {
    /// Names of all models it is of, with repetitions.
    pub fn models(&self) -> impl Iterator<Item = &String> {
        self.models.iter().chain(self.pairs.iter().flatten())
    }
}

/// A model of a study and its cells, by fold; None where a cell is not done.
pub struct Model {
    pub name: String,
    pub title: String,
    /// Which of the study's targets it predicts.
    pub targets: Vec<usize>,
    pub cells: Vec<Option<Cell>>,
    /// Of the test parts, and of the further sets by the model of every fold.
    pub predictions: Vec<Predicted>,
}

/// One prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Index of the picture in the manifest.
    pub row: usize,
    /// The fold whose model this is.
    pub fold: u32,
    /// The picture is of that fold, not of a set that nothing is trained on.
    pub test: bool,
    /// One for each of the model's targets.
    pub values: Vec<f32>,
}

/// Everything that tables are made of.
pub struct Study {
    pub title: String,
    /// Ratings that models predict; none where all tell classes apart alone.
    pub targets: Vec<String>,
    /// Classes that models tell apart.
    pub classes: Vec<String>,
    /// The class of every picture, where there are classes.
    pub y: Vec<usize>,
    pub models: Vec<Model>,
    pub layouts: Vec<Layout>,
    /// All pictures with their ratings: of the folds, and of the sets that nothing is trained on.
    pub manifest: Manifest,
    /// The fold of every picture; None for a set that nothing is trained on, and for pictures that cannot be used.
    pub folds: Vec<Option<u32>>,
    /// Names of those sets.
    pub test_sets: Vec<String>,
}

impl Study {
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|m| m.name == name)
    }

    /// What a model's targets are called.
    pub fn names(&self, m: &Model) -> Vec<String> {
        m.targets.iter().map(|&t| self.targets[t].clone()).collect()
    }

    /// The ratings of a picture that a model predicts.
    pub fn truth(&self, m: &Model, row: usize) -> Vec<f32> {
        m.targets.iter().map(|&t| self.manifest.rows[row].targets[t]).collect()
    }

    /// Number of folds.
    pub fn k(&self) -> usize {
        self.models.first().map_or(0, |m| m.cells.len())
    }
}

impl Model {
    /// Where one of the study's targets stands among the model's.
    pub fn place(&self, target: usize) -> Option<usize> {
        self.targets.iter().position(|t| *t == target)
    }

    /// The measures of one of the study's targets on a set.
    pub fn rated<'a>(&self, cell: &'a Cell, set: &str, target: usize) -> Option<&'a Dimension> {
        Some(&cell.set(set)?.dimensions[self.place(target)?])
    }

    /// The cells that are done.
    pub fn done(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().flatten()
    }
}
