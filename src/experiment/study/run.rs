//! Every cell of the grid that is not done, then the tables.

use super::grid::{Basis, Claim, Grid, PREDICTIONS, wait};
use super::report;
use crate::atomic;
use crate::data::folds;
use crate::error::{Error, Kind, Result, line, option};
use crate::experiment::Output;
use crate::experiment::checkpointed::weights_of;
use crate::experiment::config::Compute;
use crate::experiment::events::tell;
use crate::experiment::run::{Job, trained};
use crate::hash;
use crate::report::classes;
use crate::report::tables::{Prediction, write_predictions};
use crate::solve::model::SolvedModel as Solved;
use crate::train::cell::{self, Cell, Set};
use crate::train::classified::Classified;
use crate::train::fit::State;
use crate::train::network::Network;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How often a cell that another process computes is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// The model whose pictures, features and device are loaded.
struct Loaded {
    model: usize,
    /// That it was loaded for.
    fold: u32,
    job: Job,
    /// Fold of each row of the job's manifest, which lacks the pictures that cannot be read.
    folds: Vec<Option<u32>>,
    /// Rows of each further set.
    further: Vec<(String, Vec<usize>)>,
    basis: Basis,
    /// Fingerprint of all pictures.
    pixels: String,
}

/// What a study has found so far.
pub struct Found {
    /// The tables that were asked for, to be read in a terminal; empty where no cell is done.
    pub tables: String,
    /// Cells or models that failed, while all others were computed.
    pub failed: Option<Error>,
}

/// A study that is being computed.
pub(super) struct Work<'a> {
    pub grid: &'a Grid,
    pub output: &'a Output,
    pub compute: &'a Compute,
    /// Compute again what was made otherwise, instead of naming it.
    pub anew: bool,
    /// The cells that are computed, where not all are: they are waited for, too.
    pub only: Option<BTreeSet<(usize, u32)>>,
}

impl Work<'_> {
    pub fn run(&self) -> Result<Found> {
        let (grid, events) = (self.grid, &*self.output.events);
        let all = grid.plan.models.len() * grid.k as usize;
        let mut failed: Vec<(usize, Option<u32>)> = vec![];
        let mut problems: Vec<String> = vec![];
        let mut fail = |failed: &mut Vec<_>, model: usize, fold: Option<u32>, e: Error| {
            let name = &grid.plan.models[model].name;
            let place = fold.map_or_else(|| format!("model {name}"), |f| format!("model {name}, fold {}", f + 1));
            tell!(events, "{place}: {e:#}; the other cells go on");
            problems.push(format!("{place}: {e:#}"));
            failed.push((model, fold));
        };
        if let Some(warning) = &grid.kept.1 {
            tell!(events, "warning: {warning}");
        }
        grid.left_out.iter().for_each(|what| tell!(events, "{}", line(what)));
        // Cells that were made otherwise must not get into the same tables.
        for (i, m) in grid.plan.models.iter().enumerate() {
            match grid.basis(m) {
                Ok(basis) if self.anew => {
                    for gone in grid.renew(m, &basis)? {
                        tell!(events, "model {}, {gone}: computed anew", m.name);
                    }
                }
                Ok(basis) => grid.check(m, &basis)?,
                Err(e) => fail(&mut failed, i, None, e),
            }
        }
        let (mut loaded, mut first, mut spent, mut made) = (None::<Loaded>, 0, Duration::ZERO, 0u32);
        let busy = loop {
            let (claim, busy) = grid.claim(first, &failed, self.only.as_ref())?;
            let claim = match claim {
                Some(claim) => claim,
                // Whoever computes it may fail.
                None if busy > 0 && self.only.is_some() => {
                    if events.stopped() {
                        return Err(Error::interrupted("stopped while another process computed the cell"));
                    }
                    std::thread::sleep(LOOK);
                    continue;
                }
                None => break busy,
            };
            first = claim.model;
            // What begins with another model's towers begins otherwise in every fold.
            let chained = !grid.plan.models[claim.model].after.is_empty();
            let other = |l: &Loaded| l.model != claim.model || chained && l.fold != claim.fold;
            if loaded.as_ref().is_none_or(other) {
                drop(loaded.take());
                match self.load(claim.model, claim.fold) {
                    Ok(l) => loaded = Some(l),
                    Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                    Err(e) => {
                        fail(&mut failed, claim.model, None, e);
                        continue;
                    }
                }
            }
            let start = Instant::now();
            match self.compute(loaded.as_mut().expect("it was loaded"), &claim) {
                Ok(said) => {
                    (spent, made) = (spent + start.elapsed(), made + 1);
                    let done = grid.done()?;
                    let left = spent / made * (all - done) as u32;
                    tell!(events, "cell {done} of {all}: {said}; about {} left for one process", time(left));
                }
                Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                Err(e) => {
                    fail(&mut failed, claim.model, Some(claim.fold), e);
                    // The device went with the run.
                    loaded = None;
                }
            }
        };
        drop(loaded);
        let done = grid.done()?;
        // Of single cells the last one makes the tables.
        let tables = match done > 0 && (self.only.is_none() || done == all) {
            true => report::write(grid, self.compute, &self.output.command)?,
            false => String::new(),
        };
        if self.only.is_some() && done < all {
            tell!(events, "{done} of {all} cells are done");
        } else if busy > 0 {
            tell!(events, "{done} of {all} cells are done, {busy} are being computed by other processes");
        }
        match &problems[..] {
            [] => Ok(Found { tables, failed: None }),
            [first, ..] => {
                let e = Error::job(format!("{} cells or models failed, the first is {first}", problems.len()))
                    .fix("`study run` again does what is missing");
                Ok(Found { tables, failed: Some(e) })
            }
        }
    }

    /// Loads what a model's cells have in common.
    fn load(&self, model: usize, fold: u32) -> Result<Loaded> {
        let (grid, events) = (self.grid, &*self.output.events);
        let m = &grid.plan.models[model];
        tell!(events, "model {}", m.name);
        let basis = grid.basis(m)?;
        let mut data = m.run.data.clone();
        let cache = data.cache.get_or_insert_with(|| grid.out.join("cache")).clone();
        std::fs::create_dir_all(&cache).map_err(|e| Error::io(&cache, "create the cache folder", e))?;
        // Pictures and features are made by one process and read by all.
        let making = wait(&cache.join("lock"), "it prepares pictures or features", events)?;
        let mut with_others = m.run.model.clone();
        let given =
            |(tower, other): &(String, String)| (tower.clone(), grid.checkpoint(other, fold).display().to_string());
        with_others.weights.extend(m.after.iter().map(given));
        let built = with_others.build(&data.targets(), m.run.train.seed)?;
        let mut job = Job::load(grid.listed(m), built, &m.run.train, &data, self.compute, self.output)?;
        drop(making);
        for (tower, sum) in job.initial.sums().into_iter().filter(|s| !m.after.iter().any(|a| a.0 == s.0)) {
            if basis.get(&weights_of(&tower)) != Some(&format!("sha256 {sum}")) {
                return Err(Error::job(format!("the weights of {tower} were replaced while the study ran"))
                    .fix("start it again"));
            }
        }
        job.basis = basis.clone();
        let rows: HashMap<&str, usize> =
            job.manifest.rows.iter().enumerate().map(|(i, r)| (r.path.as_str(), i)).collect();
        let mine = |all: &[usize]| {
            all.iter().filter_map(|&i| rows.get(grid.manifest.rows[i].path.as_str()).copied()).collect()
        };
        let further = grid.plan.test_sets.iter().map(|s| (s.clone(), mine(&grid.further(s)))).collect();
        let mut folds = vec![None; job.manifest.rows.len()];
        for (row, fold) in grid.manifest.rows.iter().zip(&grid.folds) {
            if let Some(&i) = rows.get(row.path.as_str()) {
                folds[i] = *fold;
            }
        }
        let all: Vec<usize> = (0..job.manifest.rows.len()).collect();
        let pixels = job.fingerprint([&all, &[]]);
        for fold in 0..grid.k {
            let folder = grid.folder(m, fold);
            if Cell::read(&folder)?.is_some_and(|cell| cell.pixels != pixels) {
                return Err(Error::file(folder.join(cell::FILE), "was made with other pictures under these names")
                    .fix(format!("put the pictures back, or choose another {}", option("out"))));
            }
        }
        Ok(Loaded { model, fold, job, folds, further, basis, pixels })
    }

    /// Trains the model of a fold, or goes on with it, and leaves what tables need. Says how it went.
    fn compute(&self, l: &mut Loaded, claim: &Claim) -> Result<String> {
        let grid = self.grid;
        let start = Instant::now();
        let m = &grid.plan.models[claim.model];
        let folder = grid.folder(m, claim.fold);
        let [test, mut train, mut val] = l.parts(claim.fold)?;
        if m.method.is_some() {
            // There is nothing to monitor.
            let dealt = (0..l.folds.len()).filter(|&i| l.folds[i].is_some_and(|f| f != claim.fold));
            (train, val) = (dealt.collect(), vec![]);
        }
        let checkpoint = grid.checkpoint(&m.name, claim.fold);
        let label = format!("{} {}/{}", m.name, claim.fold + 1, grid.k);
        let resume = checkpoint.exists();
        let mut made = match &m.method {
            Some(method) => {
                let model = l.job.solved(method, &train)?;
                model.write(&checkpoint)?;
                Made::Solved(Box::new(model))
            }
            None => {
                let run = l.job.run([&train, &val], &label, Some(&checkpoint), resume);
                let (net, state, updates) = run.map_err(|e| {
                    let anew = format!("remove {} to compute the cell anew", checkpoint.display());
                    if resume && e.kind() == Kind::Job { e.fix(anew) } else { e }
                })?;
                Made::Trained(Box::new(net), Box::new(state), updates)
            }
        };
        let n = l.job.config.targets.len();
        let names: Vec<&str> = l.job.config.targets.iter().map(String::as_str).collect();
        let (mut sets, mut lines, mut told_apart, mut probabilities) = (vec![], vec![], vec![], vec![]);
        // One split has three parts that a paper tells of; folds have two.
        let monitored = if grid.plan.split.is_some() { val.clone() } else { vec![] };
        let kept = [(cell::TRAIN, train.clone()), (cell::TEST, test), (cell::MONITORED, monitored)];
        let kept = kept.map(|(name, rows)| (name.to_string(), rows));
        for (name, rows) in kept.into_iter().chain(l.further.iter().cloned()).filter(|s| !s.1.is_empty()) {
            let y = match &mut made {
                Made::Trained(net, ..) => l.job.predict(net, &rows)?,
                Made::Solved(model) => l.job.predict_solved(model, &rows),
            };
            let told = name != cell::TRAIN && name != cell::MONITORED;
            let classes = l.job.tells_classes().then(|| {
                let truth: Vec<usize> = rows.iter().map(|&i| l.job.y[i]).collect();
                told_apart.extend(if told { rows.clone() } else { vec![] });
                probabilities.extend_from_slice(if told { &y.probabilities } else { &[] });
                Classified::of(&l.job.config.classes, &truth, &y.probabilities)
            });
            let mut metrics = None;
            if l.job.rates() {
                let y = y.ratings;
                metrics = Some(l.job.measure(&rows, &y, &train)?);
                lines.extend(rows.iter().copied().zip(y.chunks_exact(n).map(<[f32]>::to_vec)).filter(|_| told));
            }
            sets.push(Set { name: name.clone(), metrics, classes });
        }
        let number = folds::number(claim.fold);
        if l.job.tells_classes() {
            let truth: Vec<usize> = told_apart.iter().map(|&i| l.job.y[i]).collect();
            let (rows, classes) = (&l.job.manifest.select(&told_apart).rows, &l.job.config.classes);
            let text = classes::predictions(rows, classes, &truth, &probabilities, Some(&vec![number; rows.len()]));
            let folder = classes::folder(&folder, l.job.rates());
            std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
            atomic::write(folder.join(PREDICTIONS), |w| w.write_all(text.as_bytes()))?;
        }
        if l.job.rates() {
            atomic::write(folder.join(PREDICTIONS), |w| {
                let all = lines.iter().map(|(i, y)| Prediction::of(&l.job.manifest.rows[*i], Some(number), y));
                write_predictions(w, &names, all).map_err(|e| std::io::Error::other(e.to_string()))
            })?;
        }
        let Set { metrics, classes, .. } = &sets[1];
        let rated = metrics.as_ref().map(|m| {
            let mse: Vec<String> = m.dimensions.iter().map(|d| format!("{} {:.3}", d.name, d.model.mse)).collect();
            format!("test MSE {}", mse.join(", "))
        });
        let told = classes.as_ref().map(|c| format!("test: {}", c.line()));
        let tested = rated.into_iter().chain(told).collect::<Vec<_>>().join("; ");
        let (epochs, history, updates) = match &mut made {
            Made::Trained(_, state, updates) => (state.epoch, std::mem::take(&mut state.history), *updates),
            Made::Solved(_) => (0, vec![], 0),
        };
        let said = format!("{}, fold {number}: {}{tested}", m.name, trained(epochs));
        let cell = Cell {
            format: Cell::format(),
            model: m.name.clone(),
            fold: folds::number(claim.fold),
            study: hash::content_hex(format!("{:?}", l.basis).as_bytes()),
            basis: l.basis.clone(),
            data: l.job.fingerprint([&train, &val]),
            pixels: l.pixels.clone(),
            device: l.job.device_name.clone(),
            made_by: format!("deep-affect {}", crate::VERSION),
            seconds: start.elapsed().as_secs_f64(),
            updates,
            weights: grid.sources(m)?,
            history,
            sets,
        };
        cell.write(&folder)?;
        atomic::forget_previous(&checkpoint)?;
        if !grid.plan.keep_models {
            std::fs::remove_file(&checkpoint).map_err(|e| Error::io(&checkpoint, "remove", e))?;
        }
        if let Made::Trained(net, ..) = made {
            l.job.recycle(*net);
        }
        Ok(said)
    }
}

/// The model of a cell.
enum Made {
    /// With the state of its run, and the updates that were made here.
    Trained(Box<Network>, Box<State>, u32),
    Solved(Box<Solved>),
}

impl Loaded {
    /// Rows of a fold, and of the others those that are trained on and those that are monitored.
    fn parts(&self, fold: u32) -> Result<[Vec<usize>; 3]> {
        let dealt = (0..self.folds.len()).filter(|&i| self.folds[i].is_some());
        let (test, rest): (Vec<usize>, Vec<usize>) = dealt.partition(|&i| self.folds[i] == Some(fold));
        if test.is_empty() || rest.is_empty() {
            return Err(
                Error::job("no picture of this fold, or none of the others, can be used").fix("see bad-pictures.csv")
            );
        }
        let [train, val] = self.job.hold_out(&rest, &test)?;
        Ok([test, train, val])
    }
}

/// `3 h 20 min`, `40 s`.
fn time(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
