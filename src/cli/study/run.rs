//! `study run`: every cell of the grid that is not done, then the tables.

use super::grid::{Claim, Grid, PREDICTIONS, wait};
use super::report;
use crate::atomic;
use crate::bundled;
use crate::cli::job::Job;
use crate::cli::preset::BUNDLED;
use crate::cli::{Compute, output};
use crate::error::{Error, Kind, Result};
use crate::report::tables::{Prediction, write_predictions};
use crate::train::cell::{self, Cell, Set};
use crate::train::fit;
use crate::train::metrics::Metrics;
use clap::Args;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
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
    #[command(flatten)]
    compute: Compute,
}

/// The model whose pictures, features and device are loaded.
struct Loaded {
    model: usize,
    job: Job,
    /// Fold of each row of the job's manifest, which lacks the pictures that cannot be read.
    folds: Vec<Option<u32>>,
    /// Rows of each further set.
    further: Vec<(String, Vec<usize>)>,
    fingerprint: String,
    weights: Vec<cell::Source>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let grid = Grid::open(&self.study, &self.out)?;
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
        // Cells that were made otherwise must not get into the same tables.
        for (i, m) in grid.plan.models.iter().enumerate() {
            match grid.fingerprint(m) {
                Ok(fingerprint) => grid.matches(i, &fingerprint)?,
                Err(e) => fail(&mut failed, i, None, e),
            }
        }
        let (mut loaded, mut first, mut spent, mut made) = (None::<Loaded>, 0, Duration::ZERO, 0u32);
        let busy = loop {
            let (claim, busy) = grid.claim(first, &failed)?;
            let Some(claim) = claim else { break busy };
            first = claim.model;
            if loaded.as_ref().is_none_or(|l| l.model != claim.model) {
                drop(loaded.take());
                match self.load(&grid, claim.model) {
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
    fn load(&self, grid: &Grid, model: usize) -> Result<Loaded> {
        let m = &grid.plan.models[model];
        remark!("model {}", m.name);
        let fingerprint = grid.fingerprint(m)?;
        let mut data = m.flags.data.clone();
        let cache = data.cache.get_or_insert_with(|| grid.out.join("cache")).clone();
        std::fs::create_dir_all(&cache).map_err(|e| Error::io(&cache, "create the cache folder", e))?;
        // Pictures and features are made by one process and read by all.
        let making = wait(&cache.join("lock"), "it prepares pictures or features")?;
        let parts = m.flags.model.model(&data.targets, m.flags.train.seed)?;
        let choice = m.flags.model.head()?.0;
        let job = Job::load(&grid.plan.manifest, &grid.out, parts, choice, &m.flags.train, &data, &self.compute)?;
        drop(making);
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
        let weights = m.flags.model.weights.iter().map(|w| source(w)).collect::<Result<_>>()?;
        Ok(Loaded { model, job, folds, further, fingerprint, weights })
    }

    /// Trains the model of a fold, or goes on with it, and leaves what tables need. Says how it went.
    fn compute(&self, grid: &Grid, l: &mut Loaded, claim: &Claim) -> Result<String> {
        let start = Instant::now();
        let m = &grid.plan.models[claim.model];
        let folder = grid.folder(m, claim.fold);
        let dealt: Vec<usize> = (0..l.folds.len()).filter(|&i| l.folds[i].is_some()).collect();
        let [test, rest]: [Vec<usize>; 2] =
            [true, false].map(|t| dealt.iter().copied().filter(|&i| (l.folds[i] == Some(claim.fold)) == t).collect());
        if test.is_empty() || rest.is_empty() {
            return Err(
                Error::job("no picture of this fold, or none of the others, can be used").fix("see bad-pictures.csv")
            );
        }
        let [train, val] = l.job.hold_out(&rest)?;
        let checkpoint = grid.checkpoint(&m.name, claim.fold);
        let label = format!("{} {}/{}", m.name, claim.fold + 1, grid.k);
        let resume = checkpoint.exists();
        let (mut net, state, updates) = l.job.run([&train, &val], &label, Some(&checkpoint), resume).map_err(|e| {
            let anew = format!("remove {} to compute the cell anew", checkpoint.display());
            if resume && e.kind() == Kind::Job { e.fix(anew) } else { e }
        })?;
        let samples = l.job.samples();
        let n = l.job.config.targets.len();
        let names: Vec<&str> = l.job.config.targets.iter().map(String::as_str).collect();
        let means = l.job.means(&train);
        let (mut sets, mut lines) = (vec![], vec![]);
        let kept = [(cell::TRAIN.to_string(), train.clone()), (cell::TEST.to_string(), test)];
        for (name, rows) in kept.into_iter().chain(l.further.iter().cloned()).filter(|s| !s.1.is_empty()) {
            let y = fit::predict(&mut net, &samples, &rows)?;
            let truth: Vec<f32> = rows.iter().flat_map(|&i| l.job.manifest.rows[i].targets.clone()).collect();
            sets.push(Set { metrics: Metrics::of(&names, &truth, &y, &means)?, name: name.clone() });
            if name != cell::TRAIN {
                lines.extend(rows.into_iter().zip(y.chunks_exact(n).map(<[f32]>::to_vec)));
            }
        }
        atomic::write(folder.join(PREDICTIONS), |w| {
            let all = lines.iter().map(|(i, y)| Prediction::of(&l.job.manifest.rows[*i], Some(claim.fold), y));
            write_predictions(w, &names, all).map_err(|e| std::io::Error::other(e.to_string()))
        })?;
        let tested = &sets[1].metrics;
        let mse: Vec<String> = tested.dimensions.iter().map(|d| format!("{} {:.3}", d.name, d.model.mse)).collect();
        let said = format!("{}, fold {}: {} epochs, test MSE {}", m.name, claim.fold + 1, state.epoch, mse.join(", "));
        let cell = Cell {
            format: Cell::format(),
            model: m.name.clone(),
            fold: claim.fold,
            study: l.fingerprint.clone(),
            data: l.job.fingerprint([&train, &val]),
            device: l.job.device_name.clone(),
            made_by: format!("deep-affect {}", crate::VERSION),
            seconds: start.elapsed().as_secs_f64(),
            updates,
            weights: l.weights.clone(),
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

impl Grid {
    /// Refuses done cells of a model that were made otherwise than it would be made now.
    fn matches(&self, model: usize, fingerprint: &str) -> Result<()> {
        let m = &self.plan.models[model];
        for fold in 0..self.k {
            let folder = self.folder(m, fold);
            if Cell::read(&folder)?.is_some_and(|c| c.study != fingerprint) {
                return Err(Error::file(folder.join(cell::FILE), "was made with other settings, ratings or folds")
                    .fix(format!(
                        "remove {} to compute the model again, or choose another --out",
                        self.out.join(&m.name).display()
                    )));
            }
        }
        Ok(())
    }
}

/// A weight file of `TOWER=FILE`, as others can check it.
fn source(spec: &str) -> Result<cell::Source> {
    let (tower, path) = spec.split_once('=').unwrap_or(("", spec));
    let inside = bundled::tower().filter(|_| path == BUNDLED && !Path::new(path).exists());
    let (bytes, sha256) = match inside {
        Some(bytes) => sum_of(Path::new(path), bytes)?,
        None => sum(Path::new(path))?,
    };
    let file = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(cell::Source { tower: tower.into(), file, bytes, sha256 })
}

/// Length and SHA-256 of a file.
pub fn sum(path: &Path) -> Result<(u64, String)> {
    sum_of(path, std::fs::File::open(path).map_err(|e| Error::io(path, "read", e))?)
}

/// The same of what is read from `file`.
fn sum_of(path: &Path, mut file: impl Read) -> Result<(u64, String)> {
    let io = |e| Error::io(path, "read", e);
    let (mut sum, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).map_err(io)? {
            0 => break,
            n => {
                sum.update(&piece[..n]);
                bytes += n as u64;
            }
        }
    }
    Ok((bytes, sum.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

/// `3 h 20 min`, `40 s`.
fn time(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
