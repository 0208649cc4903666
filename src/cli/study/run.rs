//! `study run`: every cell of the grid that is not done, then the tables.

use super::grid::{Basis, Claim, Grid, PREDICTIONS, wait};
use super::report;
use crate::atomic;
use crate::cli::job::Job;
use crate::cli::kept::weights_of;
use crate::cli::{Compute, output};
use crate::data::folds;
use crate::error::{Error, Kind, Result};
use crate::hash;
use crate::report::classes;
use crate::report::tables::{Prediction, write_predictions};
use crate::train::cell::{self, Cell, Judged, Set};
use crate::train::classified::Classified;
use clap::Args;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Args)]
pub struct Command {
    /// What is to be trained and shown: see `study init`.
    #[arg(default_value = "study.toml")]
    study: PathBuf,
    /// Folder for the results. Several processes, also of several machines, may work in one: each takes the next cell
    /// that nobody computes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Compute again what lies in the folder and was made otherwise: with other weights, settings, ratings, folds or another
    /// program. Without it that is named, and nothing is computed.
    #[arg(long)]
    anew: bool,
    #[command(flatten)]
    compute: Compute,
}

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

impl Command {
    pub fn run(self) -> Result<()> {
        let grid = Grid::open(&self.study, &self.out, self.anew)?;
        let all = grid.plan.models.len() * grid.k as usize;
        let mut failed: Vec<(usize, Option<u32>)> = vec![];
        let mut problems: Vec<String> = vec![];
        let mut fail = |failed: &mut Vec<_>, model: usize, fold: Option<u32>, e: Error| {
            let name = &grid.plan.models[model].name;
            let place = fold.map_or_else(|| format!("model {name}"), |f| format!("model {name}, fold {}", f + 1));
            remark!("{place}: {e}; the other cells go on");
            problems.push(format!("{place}: {e}"));
            failed.push((model, fold));
        };
        if let Some(warning) = &grid.kept.1 {
            remark!("warning: {warning}");
        }
        // Cells that were made otherwise must not get into the same tables.
        for (i, m) in grid.plan.models.iter().enumerate() {
            match grid.basis(m) {
                Ok(basis) if self.anew => {
                    for gone in grid.renew(m, &basis)? {
                        remark!("model {}, {gone}: computed anew", m.name);
                    }
                }
                Ok(basis) => grid.check(m, &basis)?,
                Err(e) => fail(&mut failed, i, None, e),
            }
        }
        let (mut loaded, mut first, mut spent, mut made) = (None::<Loaded>, 0, Duration::ZERO, 0u32);
        let busy = loop {
            let (claim, busy) = grid.claim(first, &failed)?;
            let Some(claim) = claim else { break busy };
            first = claim.model;
            // What begins with another model's towers begins otherwise in every fold.
            let chained = !grid.plan.models[claim.model].after.is_empty();
            let other = |l: &Loaded| l.model != claim.model || chained && l.fold != claim.fold;
            if loaded.as_ref().is_none_or(other) {
                drop(loaded.take());
                match self.load(&grid, claim.model, claim.fold) {
                    Ok(l) => loaded = Some(l),
                    Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                    Err(e) => {
                        fail(&mut failed, claim.model, None, e);
                        continue;
                    }
                }
            }
            let start = Instant::now();
            match self.compute(&grid, loaded.as_mut().expect("it was loaded"), &claim) {
                Ok(said) => {
                    (spent, made) = (spent + start.elapsed(), made + 1);
                    let done = grid.done()?;
                    let left = spent / made * (all - done) as u32;
                    remark!("cell {done} of {all}: {said}; about {} left for one process", time(left));
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
        if done > 0 {
            let written = report::write(&grid, &self.compute)?;
            output::print(&written)?;
        }
        if busy > 0 {
            remark!("{done} of {all} cells are done, {busy} are being computed by other processes");
        }
        match &problems[..] {
            [] => Ok(()),
            [first, ..] => Err(Error::job(format!("{} cells or models failed, the first is {first}", problems.len()))
                .fix("`study run` again does what is missing")),
        }
    }

    /// Loads what a model's cells have in common.
    fn load(&self, grid: &Grid, model: usize, fold: u32) -> Result<Loaded> {
        let m = &grid.plan.models[model];
        remark!("model {}", m.name);
        let basis = grid.basis(m)?;
        let mut data = m.flags.data.clone();
        let cache = data.cache.get_or_insert_with(|| grid.out.join("cache")).clone();
        std::fs::create_dir_all(&cache).map_err(|e| Error::io(&cache, "create the cache folder", e))?;
        // Pictures and features are made by one process and read by all.
        let making = wait(&cache.join("lock"), "it prepares pictures or features")?;
        let mut flags = m.flags.model.clone();
        let given = |(tower, other): &(String, String)| format!("{tower}={}", grid.checkpoint(other, fold).display());
        flags.weights.extend(m.after.iter().map(given));
        let parts = flags.model(&data.targets(), m.flags.train.seed)?;
        let choice = m.flags.model.head()?.0;
        let mut job = Job::load(&grid.plan.manifest, &grid.out, parts, choice, &m.flags.train, &data, &self.compute)?;
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
                    .fix("put the pictures back, or choose another --out"));
            }
        }
        Ok(Loaded { model, fold, job, folds, further, basis, pixels })
    }

    /// Trains the model of a fold, or goes on with it, and leaves what tables need. Says how it went.
    fn compute(&self, grid: &Grid, l: &mut Loaded, claim: &Claim) -> Result<String> {
        let start = Instant::now();
        let m = &grid.plan.models[claim.model];
        let folder = grid.folder(m, claim.fold);
        let [test, train, val] = l.parts(claim.fold)?;
        let checkpoint = grid.checkpoint(&m.name, claim.fold);
        let label = format!("{} {}/{}", m.name, claim.fold + 1, grid.k);
        let resume = checkpoint.exists();
        let (mut net, state, updates) = l.job.run([&train, &val], &label, Some(&checkpoint), resume).map_err(|e| {
            let anew = format!("remove {} to compute the cell anew", checkpoint.display());
            if resume && e.kind() == Kind::Job { e.fix(anew) } else { e }
        })?;
        let n = l.job.config.targets.len();
        let names: Vec<&str> = l.job.config.targets.iter().map(String::as_str).collect();
        let (mut sets, mut lines, mut told_apart, mut probabilities) = (vec![], vec![], vec![], vec![]);
        // One split has three parts that a paper tells of; folds have two.
        let monitored = if grid.plan.split.is_some() { val.clone() } else { vec![] };
        let kept = [(cell::TRAIN, train.clone()), (cell::TEST, test), (cell::MONITORED, monitored)];
        let kept = kept.map(|(name, rows)| (name.to_string(), rows));
        for (name, rows) in kept.into_iter().chain(l.further.iter().cloned()).filter(|s| !s.1.is_empty()) {
            let y = l.job.predict(&mut net, &rows)?;
            let told = name != cell::TRAIN && name != cell::MONITORED;
            let judged = if l.job.tells_classes() {
                let truth: Vec<usize> = rows.iter().map(|&i| l.job.y[i]).collect();
                told_apart.extend(if told { rows.clone() } else { vec![] });
                probabilities.extend_from_slice(if told { &y.probabilities } else { &[] });
                Judged::Classes(Classified::of(&l.job.config.classes, &truth, &y.probabilities))
            } else {
                let y = y.ratings;
                lines.extend(rows.iter().copied().zip(y.chunks_exact(n).map(<[f32]>::to_vec)).filter(|_| told));
                Judged::Metrics(l.job.measure(&rows, &y, &train)?)
            };
            sets.push(Set { judged, name: name.clone() });
        }
        let number = folds::number(claim.fold);
        if l.job.tells_classes() {
            let truth: Vec<usize> = told_apart.iter().map(|&i| l.job.y[i]).collect();
            let (rows, classes) = (&l.job.manifest.select(&told_apart).rows, &l.job.config.classes);
            let text = classes::predictions(rows, classes, &truth, &probabilities, Some(&vec![number; rows.len()]));
            atomic::write(folder.join(PREDICTIONS), |w| w.write_all(text.as_bytes()))?;
        } else {
            atomic::write(folder.join(PREDICTIONS), |w| {
                let all = lines.iter().map(|(i, y)| Prediction::of(&l.job.manifest.rows[*i], Some(number), y));
                write_predictions(w, &names, all).map_err(|e| std::io::Error::other(e.to_string()))
            })?;
        }
        let tested = match &sets[1].judged {
            Judged::Metrics(m) => {
                let mse: Vec<String> = m.dimensions.iter().map(|d| format!("{} {:.3}", d.name, d.model.mse)).collect();
                format!("test MSE {}", mse.join(", "))
            }
            Judged::Classes(c) => format!("test: {}", c.line()),
        };
        let said = format!("{}, fold {number}: {} epochs, {tested}", m.name, state.epoch);
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
            history: state.history,
            sets,
        };
        cell.write(&folder)?;
        atomic::forget_previous(&checkpoint)?;
        if !grid.plan.keep_models {
            std::fs::remove_file(&checkpoint).map_err(|e| Error::io(&checkpoint, "remove", e))?;
        }
        l.job.recycle(net);
        Ok(said)
    }
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
