/*! The cells of a study on disk: `OUT/MODEL/fold-K/`, with K from 1 as in `folds.csv`, and `OUT/MODEL/fold-K.safetensors`,
the model that has not seen that fold. A cell is done when its `cell.json` is there. Who computes one holds a lock on a file in its folder; the system takes the lock away when the process ends, however it ends,
so no cell stays claimed by the dead. */

use super::plan::{Model, Plan};
use crate::atomic;
use crate::bundled;
use crate::data::manifest::Lacking;
use crate::data::table::{Table, TableOptions};
use crate::data::{Manifest, folds};
use crate::error::{Error, Result, line, option};
use crate::experiment::checkpointed::weights_of;
use crate::experiment::config::{BUNDLED, Built, Monitor, Training};
use crate::experiment::deal::FoldPlan;
use crate::experiment::events::{Events, tell};
use crate::experiment::listed::{Listed, labels};
use crate::files;
use crate::hash;
use crate::report::study::{self, Predicted, Study};
use crate::train::cell::{self, Cell};
use crate::train::checkpoint::{self, differing};
use crate::weights::WeightFile;
use serde_json::json;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use crate::train::family::PREDICTIONS;

/// Everything that decides the numbers of a cell, but for the pixels, by what people call it.
pub type Basis = BTreeMap<String, String>;

/// A plan, the pictures it is about and the folder of its results.
pub struct Grid {
    pub plan: Plan,
    pub out: PathBuf,
    pub events: Arc<dyn Events>,
    pub manifest: Manifest,
    /// Classes that models tell apart; none where all predict ratings alone.
    pub classes: Vec<String>,
    /// The class of each row, where there are classes.
    pub y: Vec<usize>,
    /// What the manifest lists and no model is trained or tested on, for people.
    pub left_out: Vec<String>,
    /// By row of the manifest; None for sets that nothing is trained on, and for what was left out.
    pub folds: Vec<Option<u32>>,
    /// Folds that have a cell: all of them, or the first where one part is set apart.
    pub k: u32,
    /// Whether groups stayed together in the folds, and a warning if they did not.
    pub kept: (String, Option<String>),
    /// Sums of weight files by path: models share them.
    sums: RefCell<HashMap<String, cell::Source>>,
}

/// What decides a training; what is as it always was leaves cells as they are.
fn training(f: &Training) -> Result<serde_json::Value> {
    let (settings, val) = (f.settings()?, f.val);
    Ok(match f.monitor {
        Monitor::Val => json!([settings, val]),
        other => json!([settings, val, format!("monitors {other:?}")]),
    })
}

/// A cell that this process alone may compute, until it drops this.
pub struct Claim {
    pub model: usize,
    pub fold: u32,
    _lock: File,
}

impl Grid {
    /// Reads the manifest, and the folds or deals them. Folds that lie in `out` must be those; with `anew` they are replaced.
    pub fn open(plan: Plan, out: &Path, events: Arc<dyn Events>, anew: bool) -> Result<Self> {
        let targets = plan.targets();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let (manifest, lacking) = match plan.mixed() {
            true => Manifest::read_rated(&plan.manifest, &targets)?,
            false => (Manifest::read(&plan.manifest, &targets)?, Lacking::default()),
        };
        let mut left_out: Vec<String> = lacking.remark().into_iter().collect();
        let labels = plan.labelled().map(|data| labels(&manifest, &plan.manifest, data)).transpose()?.flatten();
        let Listed { manifest, classes, y } = match labels {
            None => Listed { manifest, classes: vec![], y: vec![] },
            Some(labels) => {
                left_out.extend(labels.left_out());
                Listed::labelled(&manifest, labels)
            }
        };
        let apart = |i: usize| manifest.rows[i].dataset.as_ref().is_some_and(|d| plan.test_sets.contains(d));
        let [further, rows]: [Vec<usize>; 2] =
            [true, false].map(|a| (0..manifest.rows.len()).filter(|&i| apart(i) == a).collect());
        for set in &plan.test_sets {
            if !further.iter().any(|&i| manifest.rows[i].dataset.as_ref() == Some(set)) {
                let mut names: Vec<&str> = manifest.rows.iter().filter_map(|r| r.dataset.as_deref()).collect();
                names.sort_unstable();
                names.dedup();
                return Err(Error::file(&plan.manifest, format!("has no pictures of the set `{set}`"))
                    .at("column dataset")
                    .fix(format!("name in `test-sets` one of: {}", names.join(", "))));
            }
        }
        let dealt = manifest.select(&rows);
        let kept = out.join("folds.csv");
        let asked = FoldPlan {
            file: plan.fold_file.clone(),
            k: plan.folds,
            ungrouped: plan.ungrouped,
            stratify: plan.stratify,
            ignore_column: plan.ignore_fold_column,
            seed: plan.models[0].run.train.seed,
        };
        let deal = match plan.split {
            Some(part) => asked.set_apart(&dealt, part)?,
            None => asked.deal(&plan.manifest, &dealt, &*events)?,
        };
        let k = if plan.split.is_some() { 1 } else { deal.k };
        for (c, class) in classes.iter().enumerate() {
            let known = |f: u32| rows.iter().zip(&deal.fold).any(|(&i, fold)| y[i] == c && *fold != f);
            if let Some(f) = (0..k).find(|f| !known(*f)) {
                let problem = format!("has no picture of class `{}` outside fold {}", line(class), folds::number(f));
                return Err(Error::file(&plan.manifest, problem + ": its model would not know the class")
                    .fix("deal other folds, raise `min-count`, or map the class to another with `label-map`"));
            }
        }
        if kept.exists() && !anew {
            let [out, anew] = ["out", "anew"].map(option);
            let remedy = format!("choose another {out}, or compute everything again: `study run {anew}`");
            let old = folds::read(&kept, &dealt).map_err(|e| e.fix(remedy.clone()))?;
            if old != deal.fold {
                let k = old.iter().max().map_or(0, |m| m + 1);
                let what = match k == deal.k {
                    true => "other pictures in each fold, by its seed, groups or file of folds".to_string(),
                    false => format!("{} folds", deal.k),
                };
                let problem = format!("has {k} folds of another deal: the study asks for {what}");
                return Err(Error::file(&kept, problem).fix(remedy));
            }
        }
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
        // Unchanged files keep their time.
        if !folds::read(&kept, &dealt).is_ok_and(|old| old == deal.fold) {
            folds::write(&kept, &dealt, &deal.fold)?;
        }
        let mut all = vec![None; manifest.rows.len()];
        rows.iter().zip(deal.fold).for_each(|(&i, f)| all[i] = Some(f));
        let (kept, out, sums) = ((deal.kept, deal.warning), out.into(), RefCell::default());
        Ok(Self { plan, out, events, folds: all, k, kept, manifest, classes, y, left_out, sums })
    }

    /// The ratings that a model predicts, by their places in the manifest.
    fn targets(&self, model: &Model) -> Vec<usize> {
        let of = |t: &String| self.manifest.targets.iter().position(|x| x == t).expect("read for all models");
        model.targets().iter().map(of).collect()
    }

    /// What a model learns of the pictures.
    pub fn listed(&self, model: &Model) -> Listed {
        let told = model.run.data.label.is_some();
        let (classes, y) = if told { (self.classes.clone(), self.y.clone()) } else { (vec![], vec![]) };
        Listed { manifest: self.manifest.rating(&self.targets(model)), classes, y }
    }

    /// Rows of a further set: without pictures that have a twin in the folds.
    pub fn further(&self, set: &str) -> Vec<usize> {
        let dealt = |i: &usize| self.folds[*i].is_some();
        let groups: HashSet<&String> =
            (0..self.folds.len()).filter(dealt).filter_map(|i| self.manifest.rows[i].group.as_ref()).collect();
        let mine = |i: &usize| {
            let row = &self.manifest.rows[*i];
            row.dataset.as_deref() == Some(set) && !row.group.as_ref().is_some_and(|g| groups.contains(g))
        };
        (0..self.folds.len()).filter(mine).collect()
    }

    /// Pictures that [`Grid::further`] leaves out.
    pub fn shared(&self) -> usize {
        let sets: HashSet<&String> = self.plan.test_sets.iter().collect();
        let named = |d: &Option<String>| d.as_ref().is_some_and(|d| sets.contains(d));
        let all = self.manifest.rows.iter().filter(|r| named(&r.dataset)).count();
        all - sets.iter().map(|s| self.further(s).len()).sum::<usize>()
    }

    pub fn folder(&self, model: &Model, fold: u32) -> PathBuf {
        self.out.join(&model.name).join(fold_name(fold))
    }

    /// The model of a cell; where an ensemble of all folds is looked for.
    pub fn checkpoint(&self, model: &str, fold: u32) -> PathBuf {
        self.out.join(model).join(format!("fold-{}.safetensors", folds::number(fold)))
    }

    /// Everything that decides the numbers of a model's cells, but for the pixels.
    ///
    /// # Errors
    /// A model that cannot be set up: a missing weight file.
    pub fn basis(&self, model: &Model) -> Result<Basis> {
        let f = &model.run;
        let Built { config, frozen, .. } = f.model.build(&f.data.targets(), f.train.seed)?;
        let short = |text: String| hash::content_hex(text.as_bytes());
        let json = |what: serde_json::Value| short(what.to_string());
        let mut basis = Basis::from([
            ("program".into(), crate::VERSION.into()),
            (
                "settings of the model".into(),
                json(json!([config, frozen, f.model.init_missing, format!("{:?}", f.model.head()?)])),
            ),
            ("settings of the training".into(), json(training(&f.train)?)),
            ("reading of pictures".into(), format!("ignore-exif {}, alpha {:?}", f.data.ignore_exif, f.data.alpha)),
        ]);
        let (mut ratings, mut folds) = (String::new(), String::new());
        let learned = self.manifest.rating(&self.targets(model));
        for (row, fold) in learned.rows.iter().zip(&self.folds) {
            let face = row.face.map(|a| [a.x, a.y, a.width, a.height]);
            ratings += &format!("{:?}\n", (&row.path, &row.targets, row.weight, &row.group, &row.dataset, face));
            folds += &format!("{fold:?}\n");
        }
        basis.extend([("ratings or groups".into(), short(ratings)), ("folds".into(), short(folds))]);
        if let Some(label) = &f.data.label {
            let names = self.manifest.labels(label)?;
            basis.insert("classes".into(), json(json!([self.classes, names, f.data.balance])));
        }
        if let Some(method) = &model.method {
            basis.insert("solver".into(), json(json!(method)));
        }
        for w in self.sources(model)? {
            basis.insert(weights_of(&w.tower), format!("sha256 {}", w.sha256));
        }
        for (tower, name) in &model.after {
            let other = self.plan.models.iter().find(|m| m.name == *name).expect("checked when the plan was read");
            basis.insert(weights_of(tower), format!("model {}", short(format!("{:?}", self.basis(other)?))));
        }
        Ok(basis)
    }

    /// The weight files of a model, as others can check them.
    pub fn sources(&self, model: &Model) -> Result<Vec<cell::Source>> {
        let mut sums = self.sums.borrow_mut();
        let mut one = |(tower, path): (&String, &String)| {
            let source = match sums.get(path) {
                Some(known) => known.clone(),
                None => sums.entry(path.into()).or_insert(source(path)?).clone(),
            };
            Ok(cell::Source { tower: tower.into(), ..source })
        };
        model.run.model.weights.iter().map(&mut one).collect()
    }

    /// What is not as the model would be made now: by fold its name in messages and what differs. Cells that are done, and
    /// runs that were begun.
    fn others(&self, model: &Model, basis: &Basis) -> Result<Vec<(PathBuf, Vec<String>)>> {
        let mut all = vec![];
        for fold in 0..self.k {
            let (folder, checkpoint) = (self.folder(model, fold), self.checkpoint(&model.name, fold));
            let (path, old) = match Cell::read(&folder)? {
                Some(cell) => (folder.join(cell::FILE), Some(cell.basis)),
                None if checkpoint.exists() => {
                    let begun = begun(&checkpoint);
                    (checkpoint, begun)
                }
                None => (folder, None),
            };
            let what = old.map_or(vec![], |old| differing(&old, basis));
            if !what.is_empty() {
                all.push((path, what));
            }
        }
        Ok(all)
    }

    /// Refuses what was made otherwise than the model would be made now: it must not get into the same tables.
    pub fn check(&self, model: &Model, basis: &Basis) -> Result<()> {
        let Some((path, what)) = self.others(model, basis)?.into_iter().next() else { return Ok(()) };
        Err(Error::file(path, format!("was made with other {}", what.join(", "))).fix(format!(
            "choose another {}, or compute it again: `study run {}`",
            option("out"),
            option("anew")
        )))
    }

    /// Removes what [`Grid::check`] would refuse, files that cannot be read, and folds that the study does not have. Says what.
    pub fn renew(&self, model: &Model, basis: &Basis) -> Result<Vec<String>> {
        let dir = self.out.join(&model.name);
        let mut gone = vec![];
        for fold in self.present(&dir)? {
            let (folder, checkpoint) = (dir.join(format!("fold-{fold}")), dir.join(format!("fold-{fold}.safetensors")));
            let ours = (1..=self.k).contains(&fold);
            std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
            let _lock = wait(&folder.join("lock"), "it computes a cell that is to be made anew", &*self.events)?;
            let what = match Cell::read(&folder) {
                _ if !ours => Some("the study has no such fold".to_string()),
                Err(_) => Some("its file cannot be read".into()),
                Ok(Some(cell)) => named(differing(&cell.basis, basis)),
                Ok(None) if checkpoint.exists() => begun(&checkpoint).and_then(|b| named(differing(&b, basis))),
                Ok(None) => None,
            };
            let Some(what) = what else { continue };
            // The cell's file first: without it nothing else counts.
            let before = atomic::previous(&checkpoint);
            for path in [folder.join(cell::FILE), folder.join(PREDICTIONS), before, checkpoint] {
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, "remove", e)),
                    _ => {}
                }
            }
            if !ours {
                std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, "remove", e))?;
            }
            gone.push(format!("fold {fold}: {what}"));
        }
        Ok(gone)
    }

    /// Numbers of the folds that a model's folder has something of.
    fn present(&self, dir: &Path) -> Result<BTreeSet<u32>> {
        let io = |e| Error::io(dir, "read the folder", e);
        if !dir.exists() {
            return Ok(BTreeSet::new());
        }
        let number = |name: &str| name.strip_prefix("fold-")?.trim_end_matches(".safetensors").parse::<u32>().ok();
        let mut all = BTreeSet::new();
        for entry in std::fs::read_dir(dir).map_err(io)? {
            all.extend(entry.map_err(io)?.file_name().to_str().and_then(number));
        }
        Ok(all)
    }

    /// Models and folds from 0 that `number` and what it begins with are computed in: of cells counted from 1, model by model as
    /// in the file and fold by fold.
    ///
    /// # Errors
    /// A number that no cell has.
    pub fn numbered(&self, number: usize) -> Result<BTreeSet<(usize, u32)>> {
        let (k, n) = (self.k as usize, self.plan.models.len());
        if !(1..=n * k).contains(&number) {
            let problem = format!("there is no cell {number}: {n} models of {k} folds are cells 1 to {}", n * k);
            return Err(Error::file(&self.plan.path, problem).as_usage());
        }
        let (mut wanted, fold) = (BTreeSet::from([(number - 1) / k]), ((number - 1) % k) as u32);
        // A model that begins with another may be begun with.
        for _ in 0..n {
            let after: Vec<&String> = wanted.iter().flat_map(|m| &self.plan.models[*m].after).map(|a| &a.1).collect();
            wanted.extend((0..n).filter(|&m| after.contains(&&self.plan.models[m].name)).collect::<Vec<_>>());
        }
        Ok(wanted.into_iter().map(|model| (model, fold)).collect())
    }

    /// The next cell that is neither done nor being computed nor in `failed`, of the model `first` if it has one, and of `only`
    /// where there are such. None when there is no such cell; the number is of those that others compute.
    pub fn claim(
        &self,
        first: usize,
        failed: &[(usize, Option<u32>)],
        only: Option<&BTreeSet<(usize, u32)>>,
    ) -> Result<(Option<Claim>, usize)> {
        let (n, mut busy, mut waiting) = (self.plan.models.len(), 0, 0);
        for model in (0..n).map(|i| (first + i) % n) {
            for fold in 0..self.k {
                if failed.iter().any(|(m, f)| *m == model && f.is_none_or(|f| f == fold))
                    || only.is_some_and(|only| !only.contains(&(model, fold)))
                {
                    continue;
                }
                let folder = self.folder(&self.plan.models[model], fold);
                if Cell::read(&folder)?.is_some() {
                    continue;
                }
                // What it begins with must be there; whoever computes that is not waited for here.
                let open = |other: &str| Ok(Cell::read(&self.out.join(other).join(fold_name(fold)))?.is_none());
                let others = self.plan.models[model].after.iter().map(|a| open(&a.1)).collect::<Result<Vec<bool>>>()?;
                if others.contains(&true) {
                    waiting += 1;
                    continue;
                }
                std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
                match lock(&folder.join("lock"))? {
                    // Somebody may have finished it between the two looks.
                    Some(_) if Cell::read(&folder)?.is_some() => {}
                    Some(lock) => return Ok((Some(Claim { model, fold, _lock: lock }), busy)),
                    None => busy += 1,
                }
            }
        }
        Ok((None, if busy > 0 { busy + waiting } else { 0 }))
    }

    /// Cells that are done, all of them.
    pub fn done(&self) -> Result<usize> {
        let all = self.plan.models.iter().flat_map(|m| (0..self.k).map(move |f| self.folder(m, f)));
        all.map(|folder| Ok(usize::from(Cell::read(&folder)?.is_some()))).sum()
    }

    /// Everything that tables are made of.
    pub fn study(&self) -> Result<Study> {
        let rows: HashMap<&str, usize> =
            self.manifest.rows.iter().enumerate().map(|(i, r)| (r.path.as_str(), i)).collect();
        let mut models = vec![];
        for m in &self.plan.models {
            let (mut cells, mut predictions) = (vec![], vec![]);
            for fold in 0..self.k {
                let folder = self.folder(m, fold);
                let cell = Cell::read(&folder)?;
                if cell.is_some() && !m.targets().is_empty() {
                    predictions.extend(self.predictions(m, &folder.join(PREDICTIONS), fold, &rows)?);
                }
                cells.push(cell);
            }
            let targets = self.targets(m);
            models.push(study::Model { name: m.name.clone(), title: m.title.clone(), targets, cells, predictions });
        }
        Ok(Study {
            title: self.plan.title.clone(),
            targets: self.plan.targets(),
            classes: self.classes.clone(),
            y: self.y.clone(),
            models,
            layouts: self.plan.tables.clone(),
            manifest: self.manifest.clone(),
            folds: self.folds.clone(),
            test_sets: self.plan.test_sets.clone(),
        })
    }

    fn predictions(
        &self,
        model: &Model,
        path: &Path,
        fold: u32,
        rows: &HashMap<&str, usize>,
    ) -> Result<Vec<Predicted>> {
        let table = Table::read(path, &TableOptions::default())?;
        let picture = table.column("path")?;
        let columns: Vec<usize> =
            model.targets().iter().map(|t| table.column(&format!("{t}_predicted"))).collect::<Result<_>>()?;
        let one = |(line, fields): &(u64, Vec<String>)| {
            let wrong = |why: &str| {
                Error::file(path, why).at(format!("line {line}")).fix("remove this folder to compute the cell again")
            };
            let row = *rows.get(fields[picture].as_str()).ok_or_else(|| wrong("is of no picture of the manifest"))?;
            let value =
                |c: &usize| table.number(&fields[*c]).map(|v| v as f32).ok_or_else(|| wrong("lacks a prediction"));
            let values = columns.iter().map(value).collect::<Result<_>>()?;
            Ok(Predicted { row, fold, test: self.folds[row] == Some(fold), values })
        };
        table.rows.iter().map(one).collect()
    }
}

/// Folder of a cell.
fn fold_name(fold: u32) -> String {
    format!("fold-{}", folds::number(fold))
}

/// What a run that was begun rests on, by its last checkpoint or the one before; None where neither can be read, which
/// whoever goes on with it will say.
fn begun(checkpoint: &Path) -> Option<Basis> {
    let basis = |path: &Path| checkpoint::card(&*WeightFile::open(path)?).map(|card| card.origin.basis);
    basis(checkpoint).or_else(|_| basis(&atomic::previous(checkpoint))).ok()
}

/// Names of what differs; None if nothing does.
fn named(what: Vec<String>) -> Option<String> {
    (!what.is_empty()).then(|| format!("other {}", what.join(", ")))
}

/// A weight file, or the tower of the program, as others can check it.
fn source(path: &str) -> Result<cell::Source> {
    let inside = bundled::tower().filter(|_| path == BUNDLED && !Path::new(path).exists());
    let (bytes, sha256) = match inside {
        Some(bytes) => (bytes.len() as u64, hash::sha256(bytes)),
        None => hash::of_file(Path::new(path))?,
    };
    let file = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(cell::Source { tower: String::new(), file, bytes, sha256 })
}

/// The lock on a file, which is made if need be; None where another process holds it.
fn lock(path: &Path) -> Result<Option<File>> {
    let file = files::to_lock(path).map_err(|e| Error::io(path, "open", e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => {
            Err(Error::io(path, "lock", e)
                .fix(format!("put {} on a file system whose files can be locked", option("out"))))
        }
    }
}

/// The lock on a file, waited for as long as nobody asks to stop.
pub fn wait(path: &Path, what: &str, events: &dyn Events) -> Result<File> {
    let mut said = false;
    loop {
        if let Some(file) = lock(path)? {
            return Ok(file);
        }
        if !said {
            tell!(events, "waiting for another process: {what}");
            said = true;
        }
        if events.stopped() {
            return Err(Error::interrupted(format!("stopped while waiting for another process: {what}")));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
