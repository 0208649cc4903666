/*! The cells of a study on disk: `OUT/MODEL/fold-K/`, with K from 0 as in `folds.csv`, and `OUT/MODEL/fold-K.safetensors`,
the model that has not seen that fold. A cell is done when its `cell.json` is there. Who computes one holds a lock on a file in its folder; the system takes the lock away when the process ends, however it ends,
so no cell stays claimed by the dead. */

use super::plan::{Model, Plan};
use crate::cli::stopped;
use crate::data::table::{Table, TableOptions};
use crate::data::{Manifest, folds};
use crate::error::{Error, Result};
use crate::hash;
use crate::report::study::{self, Predicted, Study};
use crate::train::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The predictions of a cell's model, for every picture it was not trained on.
pub const PREDICTIONS: &str = "predictions.csv";

/// A plan, the pictures it is about and the folder of its results.
pub struct Grid {
    pub plan: Plan,
    pub out: PathBuf,
    pub manifest: Manifest,
    /// By row of the manifest; None for sets that nothing is trained on, and for what was left out.
    pub folds: Vec<Option<u32>>,
    pub k: u32,
}

/// A cell that this process alone may compute, until it drops this.
pub struct Claim {
    pub model: usize,
    pub fold: u32,
    _lock: File,
}

impl Grid {
    /// Reads the manifest and deals the folds, or reads them where that has been done before.
    pub fn open(study: &Path, out: &Path) -> Result<Self> {
        let plan = Plan::read(study)?;
        let targets: Vec<&str> = plan.targets().iter().map(String::as_str).collect();
        let manifest = Manifest::read(&plan.manifest, &targets)?;
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
        let fold = match plan.fold_file.as_ref().or(kept.exists().then_some(&kept)) {
            Some(file) => folds::read(file, &dealt)?,
            None => {
                let groups = dealt.groups();
                let grouped = !plan.ungrouped && groups.iter().any(Option::is_some);
                folds::folds(&groups, plan.folds, plan.models[0].flags.train.seed, grouped)?
            }
        };
        let k = fold.iter().max().map_or(0, |m| m + 1);
        if k < 2 || (0..k).any(|f| !fold.contains(&f)) {
            let file = plan.fold_file.as_ref().unwrap_or(&kept);
            return Err(Error::file(file, format!("{k} folds, of which one is empty or everything"))
                .fix("deal the folds again"));
        }
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
        if !kept.exists() {
            folds::write(&kept, &dealt, &fold)?;
        }
        let mut all = vec![None; manifest.rows.len()];
        rows.iter().zip(fold).for_each(|(&i, f)| all[i] = Some(f));
        Ok(Self { plan, out: out.into(), folds: all, k, manifest })
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
        self.out.join(&model.name).join(format!("fold-{fold}"))
    }

    /// The model of a cell; where an ensemble of all folds is looked for.
    pub fn checkpoint(&self, model: &str, fold: u32) -> PathBuf {
        self.out.join(model).join(format!("fold-{fold}.safetensors"))
    }

    /// Names everything that decides the numbers of a model's cells, but for the pixels.
    ///
    /// # Errors
    /// A model that cannot be set up: a missing weight file.
    pub fn fingerprint(&self, model: &Model) -> Result<String> {
        let f = &model.flags;
        let (config, _, frozen) = f.model.model(&f.data.targets, f.train.seed)?;
        let settings = f.train.settings()?;
        let sizes = f.model.weights.iter().map(|w| {
            let path = w.split_once('=').map_or("", |(_, path)| path);
            std::fs::metadata(path).map(|m| m.len()).ok()
        });
        let what = (config, settings, frozen, f.train.val, f.model.init_missing, sizes.collect::<Vec<_>>());
        let mut text = serde_json::to_string(&what).expect("plain data");
        for (row, fold) in self.manifest.rows.iter().zip(&self.folds) {
            text += &format!("\n{} {:?} {} {fold:?}", row.path, row.targets, row.weight);
        }
        Ok(format!("{:032x}", hash::content(text.as_bytes())))
    }

    /// The next cell that is neither done nor being computed nor in `failed`, of the model `first` if it has one. None
    /// when there is no such cell; the number is of those that others compute.
    pub fn claim(&self, first: usize, failed: &[(usize, Option<u32>)]) -> Result<(Option<Claim>, usize)> {
        let (n, mut busy) = (self.plan.models.len(), 0);
        for model in (0..n).map(|i| (first + i) % n) {
            for fold in 0..self.k {
                if failed.iter().any(|(m, f)| *m == model && f.is_none_or(|f| f == fold)) {
                    continue;
                }
                let folder = self.folder(&self.plan.models[model], fold);
                if Cell::read(&folder)?.is_some() {
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
        Ok((None, busy))
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
                if cell.is_some() {
                    predictions.extend(self.predictions(&folder.join(PREDICTIONS), fold, &rows)?);
                }
                cells.push(cell);
            }
            models.push(study::Model { name: m.name.clone(), title: m.title.clone(), cells, predictions });
        }
        Ok(Study {
            title: self.plan.title.clone(),
            targets: self.plan.targets().to_vec(),
            models,
            layouts: self.plan.tables.clone(),
            manifest: self.manifest.clone(),
            folds: self.folds.clone(),
            test_sets: self.plan.test_sets.clone(),
        })
    }

    fn predictions(&self, path: &Path, fold: u32, rows: &HashMap<&str, usize>) -> Result<Vec<Predicted>> {
        let table = Table::read(path, &TableOptions::default())?;
        let picture = table.column("path")?;
        let columns: Vec<usize> =
            self.plan.targets().iter().map(|t| table.column(&format!("{t}_predicted"))).collect::<Result<_>>()?;
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

/// The lock on a file, which is made if need be; None where another process holds it.
fn lock(path: &Path) -> Result<Option<File>> {
    let file = File::options().create(true).append(true).open(path).map_err(|e| Error::io(path, "open", e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => {
            Err(Error::io(path, "lock", e).fix("put --out on a file system whose files can be locked"))
        }
    }
}

/// The lock on a file, waited for as long as nobody asks to stop.
pub fn wait(path: &Path, what: &str) -> Result<File> {
    let mut said = false;
    loop {
        if let Some(file) = lock(path)? {
            return Ok(file);
        }
        if !said {
            remark!("waiting for another process: {what}");
            said = true;
        }
        if stopped() {
            return Err(Error::interrupted(format!("stopped while waiting for another process: {what}")));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
