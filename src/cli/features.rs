//! `features`: what one tower sees in pictures, its likeliest classes for people and all its outputs for programs; and tables of
//! a manifest's pictures, of a tower's outputs or of what needs no network.

mod described;

use super::output::{self, clean};
use super::ranges::{MANY, whole};
use super::reading::{self, Reading, batch};
use super::{Bar, Compute};
use crate::data::boxes::seen_whole;
use crate::data::features_table::{FeatureTable, content};
use crate::data::{LoadOptions, Manifest, Pictures, Source};
use crate::error::{Error, Result, path_text};
use crate::models::{Architecture, Config, Tower, TowerOutput};
use crate::train::features::extract;
use crate::train::params::Initial;
use crate::train::predictor::largest;
use crate::weights::TowerWeights;
use clap::Args;
use described::Described;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// A tower: a file of `weights import` or of `pretrain`. With --kind, --areas or --tower a manifest of pictures (see
    /// `import`), for --table.
    #[arg(value_name = "TOWER_OR_MANIFEST")]
    subject: PathBuf,
    /// Pictures and folders (searched through, in sorted order).
    #[arg(value_name = "FILES")]
    inputs: Vec<PathBuf>,
    /// The pictures of a manifest instead, for --table.
    #[arg(long, value_name = "CSV")]
    manifest: Option<PathBuf>,
    /// The tower, where a manifest comes first.
    #[arg(long, value_name = "FILE", conflicts_with = "manifest")]
    tower: Option<PathBuf>,
    /// Where the outputs go as a table of features, a row a picture, which `fit` and `train` take: safetensors, or a CSV file
    /// by its ending.
    #[arg(long, visible_alias = "out", value_name = "FILE")]
    table: Option<PathBuf>,
    #[command(flatten)]
    described: Described,
    /// What comes out: softmax (class probabilities), pooled (the last convolution averaged over the picture), block1 to
    /// block5 (the same of a block), or several side by side, as in block4+block5.
    #[arg(long, default_value_t = TowerOutput::Softmax, value_name = "OUTPUT")]
    output: TowerOutput,
    /// Weights drawn at random by this seed (Glorot uniform) instead of those of the file: what such a network sees that has
    /// learned nothing.
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    /// How many classes to show.
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 5, value_name = "N")]
    top: usize,
    /// One JSON object a picture, with every output.
    #[arg(long)]
    json: bool,
    /// Side in pixels of the square that is made of a picture; the tower's own by default.
    #[arg(long, value_parser = whole::<usize>(32..=4096), value_name = "PIXELS")]
    image: Option<usize>,
    /// Pictures computed at once: costs memory, changes no number.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(mut self) -> Result<()> {
        if self.described.asked() {
            return self.describe();
        }
        if let Some(tower) = self.tower.take() {
            self.manifest = Some(std::mem::replace(&mut self.subject, tower));
        }
        match (&self.manifest, &self.table, self.inputs.is_empty()) {
            (None, None, false) | (Some(_), Some(_), true) => {}
            (None, None, true) => return Err(Error::usage("no pictures are named").fix("name files or folders")),
            _ => {
                return Err(Error::usage("--manifest and --table go together, and without other pictures")
                    .fix("give both, or name pictures alone"));
            }
        }
        self.compute.bind_threads();
        let weights = TowerWeights::open(&self.subject)?;
        let Some(mut tower) = Tower::described(&weights)? else {
            return Err(Error::file(&self.subject, "does not say what tower it is")
                .fix("make it with `deep-affect weights import` or `deep-affect pretrain`"));
        };
        let classes = weights.file.info(&format!("{}.weight", tower.top()));
        if self.output == TowerOutput::Softmax && classes.is_none() {
            return Err(Error::file(&self.subject, "has no dense layers, and so no classes")
                .fix("add --output pooled, or import a file with its classifier"));
        }
        let names = weights.class_names();
        let name = tower.name.clone();
        let side = self.image.or(weights.image()?).or(tower.image).unwrap_or(tower.base.network().image);
        tower.image = None;
        let mut config = Config::published(Architecture::Shared, &["object".to_string()], 5)?;
        (config.towers, config.tower_output, config.image) = (vec![tower], self.output, side);
        config.check_sides()?;
        config.check_outputs()?;
        let manifest = self.manifest.as_ref().map(|m| Manifest::read(m, &[])).transpose()?;
        let files = match &manifest {
            Some(m) => (0..m.rows.len()).map(|i| m.file(i)).collect(),
            None => list(&self.inputs)?,
        };
        let options = LoadOptions { views: config.views(), decode: self.reading.decode(), cache_dir: None };
        let boxes = self.reading.boxes(&options.views)?.unwrap_or_default();
        let sources: Vec<Source> = files.iter().map(|f| boxes.source(f.clone())).collect();
        if let Some(remark) = seen_whole(&sources, &options.views) {
            remark!("{remark}");
        }
        let bar = Bar::new();
        let loaded = Pictures::load(&sources, &options, &bar)?;
        let bad: Vec<Error> = loaded.bad.iter().map(|b| Error::file(&b.path, &b.reason)).collect();
        let pictures = loaded.accept(true)?;
        let mut initial = Initial::new(self.random.unwrap_or(0), self.random.is_some());
        if self.random.is_none() {
            initial.tower(&name, weights);
        }
        for remark in initial.remarks(&config, &pictures)? {
            remark!("warning: {remark}");
        }
        let all: Vec<usize> = (0..pictures.len()).collect();
        let batch = self.batch.min(all.len()).max(1);
        let (members, _) = extract(&config, &initial, &pictures, &all, batch, self.compute.open()?, &bar)?;
        let (width, values) = &members[0];
        if let (Some(manifest), Some(table)) = (&manifest, &self.table) {
            let columns = columns(&config.towers[0], self.output, names.as_deref());
            let rows = pictures.rows();
            let made = FeatureTable {
                file: table.clone(),
                columns,
                paths: rows.iter().map(|&r| manifest.rows[r].path.clone()).collect(),
                contents: rows.iter().map(|&r| content(&files[r]).unwrap_or_default()).collect(),
                values: values.clone(),
            };
            self.write(&made, table)?;
        }
        for (row, values) in pictures.rows().iter().zip(values.chunks_exact(*width)).filter(|_| manifest.is_none()) {
            output::print(&self.answer(&files[*row], values, names.as_deref()))?;
        }
        match &bad[..] {
            [] => Ok(()),
            [one] => Err(one.clone()),
            [first, ..] => Err(Error::job(format!(
                "{} of {} pictures cannot be used, the first is {first}",
                bad.len(),
                files.len()
            ))),
        }
    }

    /// A table without a network.
    fn describe(&self) -> Result<()> {
        let (manifest, Some(table), true, None) =
            (self.manifest.as_ref().unwrap_or(&self.subject), &self.table, self.inputs.is_empty(), &self.tower)
        else {
            return Err(Error::usage(
                "--kind and --areas make a table of the pictures of a manifest, and of nothing else",
            )
            .fix("give one manifest and --out FILE, and join tables of towers by naming both to `fit`"));
        };
        self.compute.bind_threads();
        let manifest = Manifest::read(manifest, &[])?;
        let made = self.described.table(&manifest, &self.reading.decode(), table, &Bar::new())?;
        self.write(&made, table)
    }

    fn write(&self, made: &FeatureTable, table: &Path) -> Result<()> {
        made.write(table)?;
        let beside = table.with_extension("csv");
        if self.described.csv() && beside != table {
            made.write(&beside)?;
        }
        let (columns, pictures) = (made.columns.len(), made.paths.len());
        remark!("wrote {columns} features of {pictures} pictures to {}", table.display());
        Ok(())
    }

    fn answer(&self, path: &Path, values: &[f32], names: Option<&[String]>) -> String {
        let name = |i: usize| names.and_then(|n| n.get(i).cloned());
        let best = largest(values, self.top);
        if self.json {
            let top = best.iter().map(|&i| json!({ "index": i, "class": name(i), "value": values[i] }));
            let line = json!({
                "path": path_text(path),
                "output": self.output,
                "top": top.collect::<Vec<_>>(),
                "values": values,
            });
            return format!("{line}\n");
        }
        let mut text = format!("{}\n", clean(&path_text(path)));
        for i in best {
            let class = name(i).unwrap_or_else(|| format!("output {i}"));
            text += &format!("  {:>8.4}  {}\n", values[i], clean(&class));
        }
        text
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
fn list(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = reading::folder(path)?;
        if found.is_empty() {
            return Err(Error::file(path, "no pictures in this folder").fix("name another"));
        }
        files.extend(found.into_iter().map(|f| path.join(f)));
    }
    Ok(files)
}
