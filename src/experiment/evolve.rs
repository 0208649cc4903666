/*! Pictures that models are made to see: an [`Evolution`] judged by trained models, its folder and what a second model
says of it. */

use super::Output;
use super::config::Compute;
use super::events::tell;
use super::trained::Model;
use crate::atomic;
use crate::data::resize;
use crate::error::{Error, Result, option};
use crate::evolve::archive::{Axis, Cells};
use crate::evolve::cppn::Genome;
use crate::evolve::{Evolution, Fitness, Judged, Settings};
use crate::files;
use crate::host::pattern::{Colour, Coordinates, Drawing, Program};
use crate::preprocess::View;
use crate::report::evolved::{Evolved, write};
use crate::report::folder::{claim, prepare};
use crate::train::predictor::{self, CLASS, Predictor, Seen};
use rayon::prelude::*;
use std::path::PathBuf;

/// What goes on where a run was stopped.
pub(super) const STATE: &str = "evolution.json";

/// What is evolved, for whom.
#[derive(Clone, Debug)]
pub struct Evolve {
    /// Checkpoints, which judge by their mean; none for the bundled model.
    pub models: Vec<PathBuf>,
    /// `valence:16`, one or two; none for 16 parts of each of the first two ratings, or for classes.
    pub grid: Vec<String>,
    pub fitness: Fitness,
    /// A model that rates the elites and had no say.
    pub judge: Option<PathBuf>,
    pub generations: usize,
    pub initial: usize,
    pub children: usize,
    /// Side of the pictures in pixels.
    pub side: usize,
    /// Side of the square that models see.
    pub seen: Option<usize>,
    pub colour: Colour,
    pub coordinates: Coordinates,
    pub seed: u64,
    pub resume: bool,
    /// Pictures judged at once.
    pub batch: usize,
    pub compute: Compute,
}

/// What came of it.
pub struct Ended {
    pub evolution: Evolution,
    /// How far second opinions are from what the pictures were evolved for, a line each.
    pub apart: Vec<String>,
}

/// A model that judges pictures.
pub(super) struct Judge {
    pub name: String,
    pub predictor: Predictor,
    pub views: Vec<View>,
    /// The predictor draws what it rates.
    pub draws: bool,
    /// Of its ratings those of the grid, in the grid's order; None for classes.
    pub ratings: Option<Vec<usize>>,
}

impl Evolve {
    /// Evolves all generations and leaves the folder. What is done after each generation is on disk.
    pub fn run(&self, output: &Output) -> Result<Ended> {
        let (out, events) = (&output.folder, &*output.events);
        let paths = self.models.iter().map(|p| Some(p.as_path()));
        let models = if self.models.is_empty() { vec![None] } else { paths.collect() };
        let models = models.into_iter().map(Model::open).collect::<Result<Vec<_>>>()?;
        let settings = self.settings(&models[0])?;
        let mut judges =
            models.iter().map(|m| self.judge(m, &settings, self.seen, output)).collect::<Result<Vec<_>>>()?;
        let mut opinions = vec![];
        // What the model says of the same pictures on the square that it was trained on.
        let own = models[0].config()?.image;
        if judges[0].views.iter().any(|v| v.side != own) {
            let mut judge = self.judge(&models[0], &settings, Some(own), output)?;
            judge.name = format!("at {own} pixels");
            opinions.push(judge);
        }
        if let Some(path) = &self.judge {
            opinions.push(self.judge(&Model::open(Some(path))?, &settings, None, output)?);
        }
        prepare(out)?;
        let _claim = claim(out)?;
        let names: Vec<String> = judges.iter().map(|j| j.name.clone()).collect();
        let mut evolution = self.begin(settings, names, output)?;
        let left = (self.generations + 1).saturating_sub(evolution.curve.len()) * self.children;
        events.start("evolving", left as u64);
        while evolution.curve.len() <= self.generations {
            let how = evolution.settings.drawing();
            let mut of = |genomes: &[Genome]| judges.iter_mut().map(|j| j.judge_genomes(genomes, how)).collect();
            if let Err(e) = evolution.step(&mut of, events) {
                events.done();
                if !evolution.curve.is_empty() {
                    let name = out.display();
                    tell!(events, "what was evolved so far is in {name}: {} goes on from there", option("resume"));
                }
                return Err(e);
            }
            let text = serde_json::to_string(&evolution).expect("numbers and names");
            atomic::write(out.join(STATE), |w| w.write_all(text.as_bytes()))?;
        }
        events.done();
        self.leave(evolution, opinions, output)
    }

    /// What is asked for, of this model.
    fn settings(&self, model: &Model) -> Result<Settings> {
        let (config, grid) = (model.config()?, option("grid"));
        let cells = if config.targets.is_empty() {
            if !self.grid.is_empty() {
                return Err(Error::usage(format!("{grid} is for ratings, and {} tells classes apart", model.name))
                    .fix("leave it out: every class is a cell"));
            }
            Cells::Classes(config.classes.clone())
        } else if self.grid.is_empty() {
            let axis = |rating: &String| Axis { rating: rating.clone(), bins: 16, low: 1.0, high: 9.0 };
            Cells::Grid(config.targets.iter().take(2).map(axis).collect())
        } else {
            let axes = self.grid.iter().map(|text| axis(text, &config.targets)).collect::<Result<Vec<_>>>()?;
            if axes.len() > 2 || axes.iter().any(|a| axes.iter().filter(|b| a.rating == b.rating).count() > 1) {
                return Err(Error::usage(format!("{grid} takes one rating, or two different ones")));
            }
            Cells::Grid(axes)
        };
        if self.fitness == Fitness::Agreement && (self.models.len() < 2 || config.targets.is_empty()) {
            return Err(Error::usage(format!("{} agreement is for several models of ratings", option("fitness")))
                .fix(format!("name at least two with {}", option("model"))));
        }
        let Evolve { fitness, side, colour, coordinates, initial, children, seed, .. } = *self;
        Ok(Settings { cells, fitness, side, colour, coordinates, initial, children, seed })
    }

    /// A model for these cells, which sees squares of a side: that of the pictures where it can, if none is given.
    fn judge(&self, model: &Model, settings: &Settings, side: Option<usize>, output: &Output) -> Result<Judge> {
        let config = model.config()?;
        let ratings = match &settings.cells {
            Cells::Grid(axes) => {
                let find = |a: &Axis| config.targets.iter().position(|t| *t == a.rating);
                let found: Option<Vec<usize>> = axes.iter().map(find).collect();
                let lacks = || {
                    let wanted: Vec<&str> = axes.iter().map(|a| a.rating.as_str()).collect();
                    Error::usage(format!("{} does not predict {}", model.name, wanted.join(" and ")))
                };
                Some(found.ok_or_else(lacks)?)
            }
            Cells::Classes(names) if config.classes == *names => None,
            Cells::Classes(_) => return Err(Error::usage(format!("{} tells other classes apart", model.name))),
        };
        let side = side.or((config.any_side() && self.side >= 32).then_some(self.side));
        let device = self.compute.open(&*output.events)?;
        // What is seen as it is drawn is drawn where it is seen.
        let draws = side.unwrap_or(config.image) == self.side && predictor::draws(config, self.side);
        let predictor = match draws {
            true => model.drawing(settings.drawing(), self.batch, device)?,
            false => model.sized(side, self.batch, device)?,
        };
        Ok(Judge { name: model.name.clone(), views: predictor.config.views(), predictor, draws, ratings })
    }

    /// A new evolution, or the one in the folder.
    fn begin(&self, settings: Settings, models: Vec<String>, output: &Output) -> Result<Evolution> {
        if !self.resume {
            return Evolution::new(settings, models);
        }
        let state = output.folder.join(STATE);
        let anew = || format!("leave out {} to begin anew", option("resume"));
        let bytes = files::read(&state, files::TENSORS)
            .map_err(|e| Error::io(&state, "read what was evolved", e).fix(anew()))?;
        let there: Evolution = serde_json::from_slice(&bytes)
            .map_err(|e| Error::file(&state, format!("is no evolution: {e}")).fix(anew()))?;
        if there.settings != settings || there.models != models {
            let differs = if there.settings == settings { "models" } else { "settings" };
            return Err(Error::file(&state, format!("was evolved with other {differs}"))
                .fix(format!("give the same, or {}", anew()))
                .as_usage());
        }
        there.check().map_err(|e| Error::file(&state, e.to_string()).fix(anew()))?;
        Ok(there)
    }

    /// Asks for second opinions and writes everything.
    fn leave(&self, evolution: Evolution, judges: Vec<Judge>, output: &Output) -> Result<Ended> {
        let s = &evolution.settings;
        let elites: Vec<Genome> = evolution.archive.filled().map(|(_, e)| e.solution.clone()).collect();
        let mut opinions: Vec<(String, Judged)> = vec![];
        for mut judge in judges {
            opinions.push((judge.name.clone(), judge.judge_genomes(&elites, s.drawing())?));
        }
        let unit = if matches!(s.cells, Cells::Grid(_)) { "points" } else { "of probability" };
        let apart = |(name, all): &(String, Judged)| {
            let each = evolution.archive.filled().zip(all).map(|((_, e), o)| distance(&e.judged, o));
            let far = each.sum::<f64>() / all.len() as f64;
            format!("{name}: {far:.2} {unit} away from what the pictures were evolved for, on average")
        };
        let apart: Vec<String> = opinions.iter().filter(|(_, all)| !all.is_empty()).map(apart).collect();
        let last = evolution.curve.last().ok_or_else(|| Error::job("nothing was evolved"))?;
        let mut notes: Vec<String> = apart.iter().map(|line| format!("{line}.")).collect();
        if last.filled_cells == 0 {
            notes.insert(0, "No cell is filled: every rating lies beyond 1 to 9.".into());
        }
        if self.judge.is_none() {
            notes.push(
                "These pictures are what this model takes for such ratings. Whether they say anything of what people feel, \
                 a second model that had no say can hint at."
                    .into(),
            );
        }
        let fact = |k: &str, v: String| (k.to_string(), v);
        let facts = vec![
            fact("Models", evolution.models.join(", ")),
            fact("Candidates", last.candidates.to_string()),
            fact("Generations", (evolution.curve.len() - 1).to_string()),
            fact("Coverage", format!("{:.1} %", last.coverage_percent)),
            fact("QD score", format!("{:.2}", last.qd_score)),
            fact("Beyond the cells", format!("{} candidates of the last generation", last.beyond)),
            fact("Pictures", format!("{} pixels", s.side)),
            fact("Seed", s.seed.to_string()),
        ];
        let subtitle = output.command.clone();
        write(&output.folder, &Evolved { evolution: &evolution, subtitle, notes, opinions, facts })?;
        Ok(Ended { evolution, apart })
    }
}

/// `valence:16`.
fn axis(text: &str, targets: &[String]) -> Result<Axis> {
    let grid = option("grid");
    let wrong = || {
        Error::usage(format!("{grid} {text}: not a rating and a number of parts from 1 to 256"))
            .fix(format!("write {}:16", targets[0]))
    };
    let (rating, bins) = text.split_once(':').ok_or_else(wrong)?;
    let bins = bins.parse().ok().filter(|b| (1..=256).contains(b)).ok_or_else(wrong)?;
    if !targets.iter().any(|t| t == rating) {
        return Err(Error::usage(format!("{grid} {text}: the model predicts {}", targets.join(", "))));
    }
    Ok(Axis { rating: rating.into(), bins, low: 1.0, high: 9.0 })
}

/// Euclidean.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

impl Judge {
    /// What it says of the pictures of genomes.
    fn judge_genomes(&mut self, genomes: &[Genome], how: Drawing) -> Result<Judged> {
        if self.draws {
            let programs: Vec<Program> = genomes.par_iter().map(Genome::program).collect();
            let seen = self.predictor.see_programs(&programs)?;
            return Ok(self.judged(&seen));
        }
        let pictures: Vec<Vec<u8>> = genomes.par_iter().map(|g| g.picture(how)).collect();
        self.judge(&pictures, how.side)
    }

    /// What it says of u8 RGB pictures [side, side, 3].
    pub fn judge(&mut self, pictures: &[Vec<u8>], side: usize) -> Result<Judged> {
        let record: usize = self.views.iter().map(View::bytes).sum();
        let mut squares = vec![0; record * pictures.len()];
        for (picture, mut room) in pictures.iter().zip(squares.chunks_exact_mut(record)) {
            for view in &self.views {
                let (square, rest) = room.split_at_mut(view.bytes());
                resize::view(picture, side as u32, side as u32, view, square)?;
                room = rest;
            }
        }
        let seen = self.predictor.see(&squares)?;
        Ok(self.judged(&seen))
    }

    /// What was seen, picture by picture.
    fn judged(&self, seen: &Seen) -> Judged {
        let rows = |all: &[f32], width: usize| all.chunks_exact(width).map(<[f32]>::to_vec).collect::<Judged>();
        match &self.ratings {
            Some(which) => {
                let all = rows(&seen.ratings, self.predictor.config.targets.len());
                all.iter().map(|r| which.iter().map(|k| r[*k]).collect()).collect()
            }
            None => {
                let at = self.predictor.classes.iter().position(|c| c.tower == CLASS).expect("a model of classes");
                rows(&seen.classes[at], self.predictor.classes[at].count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    /// A picture that is drawn where it is rated gets the ratings that its bytes get.
    #[test]
    fn where_a_picture_is_drawn_changes_no_rating() {
        let Ok(model) = Model::open(None) else {
            return println!("SKIPPED: this program was built without a model");
        };
        let how = Drawing { side: 32, coordinates: Coordinates::Unit, colour: Colour::Hls };
        let device = || crate::device::open("cpu", None).unwrap();
        let mut drawn = model.drawing(how, 3, device()).unwrap();
        let mut shown = model.sized(Some(32), 4, device()).unwrap();
        let mut rng = Rng::new(2, Stream::Test(0), 0);
        let genomes: Vec<Genome> = (0..5).map(|_| Genome::random(&mut rng).mutated(&mut rng)).collect();
        let programs: Vec<Program> = genomes.iter().map(Genome::program).collect();
        let bytes: Vec<u8> = genomes.iter().flat_map(|g| g.picture(how)).collect();
        let ratings = drawn.see_programs(&programs).unwrap().ratings;
        assert_eq!(ratings, shown.predict(&bytes).unwrap());
        assert!(ratings.len() == 10 && ratings[..2] != ratings[2..4], "{ratings:?}");
    }
}
