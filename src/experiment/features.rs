//! What one tower sees in pictures: its outputs for each, with its likeliest classes; and tables of a manifest's pictures, of a
//! tower's outputs or of what needs no network.

mod described;
mod recipe;

pub use described::PictureDescription;
pub use recipe::{Looking, tables};

use super::config::Compute;
use super::events::{Events, tell};
use super::trained::{self, Reading};
use crate::data::boxes::seen_whole;
use crate::data::features_table::{FeatureTable, content};
use crate::data::{LoadOptions, Manifest, Pictures, Source};
use crate::error::{Error, Result, clean, option, path_text};
use crate::models::{Architecture, Config, Tower, TowerOutput};
use crate::train::features::extract;
use crate::train::params::Initial;
use crate::train::predictor::largest;
use crate::weights::TowerWeights;
use recipe::Recipe;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A tower and how it looks at pictures.
pub struct Features<'a> {
    /// A file of an imported or pretrained tower.
    pub tower: &'a Path,
    pub output: TowerOutput,
    /// Weights drawn at random by this seed (Glorot uniform) instead of those of the file.
    pub random: Option<u64>,
    /// Side in pixels of the square that is made of a picture; the tower's own without a number.
    pub side: Option<usize>,
    /// Pictures computed at once: costs memory, changes no number.
    pub batch: usize,
    pub reading: &'a Reading,
    pub compute: &'a Compute,
    pub events: &'a dyn Events,
}

/// What a tower sees.
pub struct TowerView {
    files: Vec<PathBuf>,
    /// Of `files`, those that could be read.
    rows: Vec<usize>,
    bad: Vec<Error>,
    output: TowerOutput,
    columns: Vec<String>,
    classes: Option<Vec<String>>,
    /// [rows, columns]
    values: Vec<f32>,
    /// Side in pixels of the squares.
    side: usize,
}

impl Features<'_> {
    /// Looks at pictures and at those in folders, in the order they are named and sorted inside folders.
    ///
    /// # Errors
    /// A folder without pictures, and those of [`Features::see`].
    pub fn of_pictures(&self, paths: &[PathBuf]) -> Result<TowerView> {
        self.see(|| list(paths, self.events))
    }

    /// Looks at the pictures of a manifest, as the rows of a table that will be `file`; pictures that cannot be read have none.
    ///
    /// # Errors
    /// A manifest that cannot be read, and those of [`Features::see`].
    pub fn of_manifest(&self, manifest: &Path, file: &Path) -> Result<(FeatureTable, TowerView)> {
        let mut paths = vec![];
        let view = self.see(|| {
            let manifest = Manifest::read(manifest, &[])?;
            paths = manifest.rows.iter().map(|r| r.path.clone()).collect();
            Ok((0..manifest.rows.len()).map(|i| manifest.file(i)).collect())
        })?;
        let table = FeatureTable {
            paths: view.rows.iter().map(|&r| paths[r].clone()).collect(),
            contents: view.rows.iter().map(|&r| content(&view.files[r]).unwrap_or_default()).collect(),
            recipe: Recipe::tower(self, view.side)?.map(|r| r.json()),
            ..view.table(file)
        };
        Ok((table, view))
    }

    /// # Errors
    /// Those of [`Features::usable`], and pictures of which none can be used.
    fn see(&self, files: impl FnOnce() -> Result<Vec<PathBuf>>) -> Result<TowerView> {
        let view = self.usable(files)?;
        match (view.pictures(), view.bad.first()) {
            (0, Some(first)) => {
                let total = view.bad.len();
                Err(Error::job(format!("none of {total} pictures can be used, the first because: {first:#}")))
            }
            _ => Ok(view),
        }
    }

    /// # Errors
    /// A file that is no tower, an output that it has not, and a device without room for it.
    fn usable(&self, files: impl FnOnce() -> Result<Vec<PathBuf>>) -> Result<TowerView> {
        let events = self.events;
        let weights = TowerWeights::open(self.tower)?;
        let Some(mut tower) = Tower::described(&weights)? else {
            return Err(Error::file(self.tower, "does not say what tower it is")
                .fix("make it with `deep-affect weights import` or `deep-affect pretrain`"));
        };
        let classes = weights.file.info(&format!("{}.weight", tower.top()));
        if self.output == TowerOutput::Softmax && classes.is_none() {
            return Err(Error::file(self.tower, "has no dense layers, and so no classes")
                .fix(format!("add {} pooled, or import a file with its classifier", option("output"))));
        }
        let classes = weights.class_names();
        let name = tower.name.clone();
        let side = self.side.or(weights.image()?).or(tower.image).unwrap_or(tower.base.network().image);
        tower.image = None;
        let mut config = Config::published(Architecture::Shared, &["object".to_string()], 5)?;
        (config.towers, config.tower_output, config.image) = (vec![tower], self.output, side);
        config.check_sides()?;
        config.check_outputs()?;
        let files = files()?;
        let options = LoadOptions { views: config.views(), decode: self.reading.decode(), cache_dir: None };
        let boxes = self.reading.boxes(&options.views)?.unwrap_or_default();
        let sources: Vec<Source> = files.iter().map(|f| boxes.source(f.clone())).collect();
        if let Some(remark) = seen_whole(&sources, &options.views) {
            tell!(events, "{remark}");
        }
        let loaded = Pictures::load(&sources, &options, events)?;
        let bad: Vec<Error> = loaded.bad.iter().map(|b| Error::file(&b.path, &b.reason)).collect();
        if loaded.usable() == 0 {
            let columns = columns(&config.towers[0], self.output, classes.as_deref());
            return Ok(TowerView {
                files,
                rows: vec![],
                bad,
                output: self.output,
                columns,
                classes,
                values: vec![],
                side,
            });
        }
        let pictures = loaded.accept(true)?;
        let mut initial = Initial::new(self.random.unwrap_or(0), self.random.is_some());
        if self.random.is_none() {
            initial.tower(&name, weights);
        }
        for remark in initial.remarks(&config, &pictures)? {
            tell!(events, "warning: {remark}");
        }
        let all: Vec<usize> = (0..pictures.len()).collect();
        let batch = self.batch.min(all.len()).max(1);
        let (mut members, _) = extract(&config, &initial, &pictures, &all, batch, self.compute.open(events)?, events)?;
        let columns = columns(&config.towers[0], self.output, classes.as_deref());
        let (rows, values) = (pictures.rows().to_vec(), members.remove(0).1);
        Ok(TowerView { files, rows, bad, output: self.output, columns, classes, values, side })
    }
}

impl TowerView {
    /// How many pictures could be looked at.
    pub fn pictures(&self) -> usize {
        self.rows.len()
    }

    /// The same as a table, which will be `file`.
    fn table(&self, file: &Path) -> FeatureTable {
        FeatureTable {
            file: file.into(),
            columns: self.columns.clone(),
            paths: self.rows.iter().map(|&r| path_text(&self.files[r])).collect(),
            contents: vec![],
            values: self.values.clone(),
            recipe: None,
        }
    }

    /// What is seen in picture `i` of them: the largest outputs for people, or all as a line of JSON.
    pub fn answer(&self, i: usize, top: usize, as_json: bool) -> String {
        let width = self.values.len() / self.rows.len();
        let (path, values) = (path_text(&self.files[self.rows[i]]), &self.values[i * width..(i + 1) * width]);
        let name = |i: usize| self.classes.as_ref().and_then(|n| n.get(i).cloned());
        let best = largest(values, top);
        if as_json {
            let top = best.iter().map(|&i| json!({ "index": i, "class": name(i), "value": values[i] }));
            let line = json!({
                "path": path,
                "output": self.output,
                "top": top.collect::<Vec<_>>(),
                "values": values,
            });
            return format!("{line}\n");
        }
        let mut text = format!("{}\n", clean(&path));
        for i in best {
            let class = name(i).unwrap_or_else(|| format!("output {i}"));
            text += &format!("  {:>8.4}  {}\n", values[i], clean(&class));
        }
        text
    }

    /// # Errors
    /// Pictures that cannot be used, if there are any.
    pub fn complete(&self) -> Result<()> {
        match &self.bad[..] {
            [] => Ok(()),
            [one] => Err(one.clone()),
            [first, ..] => Err(Error::job(format!(
                "{} of {} pictures cannot be used, the first is {first}",
                self.bad.len(),
                self.files.len()
            ))),
        }
    }
}

/// Names of a tower's outputs: `block4.17`, counted from 1, or a class with its number.
fn columns(tower: &Tower, output: TowerOutput, classes: Option<&[String]>) -> Vec<String> {
    let part = |name: &str| -> Vec<String> {
        let width = name.parse().map_or(0, |part| tower.features(part));
        let one = |i: usize| match classes.filter(|_| output == TowerOutput::Softmax).and_then(|c| c.get(i)) {
            Some(class) => format!("{}.{class}", i + 1),
            None => format!("{name}.{}", i + 1),
        };
        (0..width).map(one).collect()
    };
    output.to_string().split('+').flat_map(part).collect()
}

/// The pictures, in the order they were named and sorted inside folders.
fn list(paths: &[PathBuf], events: &dyn Events) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = trained::folder(path, events)?;
        if found.is_empty() {
            return Err(Error::file(path, "no pictures in this folder").fix("name another"));
        }
        files.extend(found.into_iter().map(|f| path.join(f)));
    }
    Ok(files)
}
