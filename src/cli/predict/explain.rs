//! `predict --explain`: a folder of Grad-CAM overlays, one page that shows them, a table that lists them.

use super::Decoded;
use super::models::Models;
use crate::atomic;
use crate::cli::Compute;
use crate::data::Manifest;
use crate::error::Result;
use crate::report::folder::prepare;
use crate::report::gradcam::{self, Picture};
use crate::train::gradcam::{Explainer, Sign, Target};
use clap::{Args, ValueEnum};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct ExplainFlags {
    /// Folder for Grad-CAM: of each picture and tower what the tower looked at, in colour over the photograph, with
    /// index.html that shows all of them, explain.csv that lists them, and the maps themselves as .npy.
    #[arg(long, value_name = "DIR")]
    explain: Option<PathBuf>,
    /// What is explained: a rating, or `class` (the likeliest of each tower), `class:3`, `class:NAME`; repeatable. By
    /// default the class, or all ratings where towers give none.
    #[arg(long, value_name = "TARGET", requires = "explain")]
    target: Vec<Target>,
    /// What raises the target, what lowers it, or both.
    #[arg(long, value_enum, default_value = "+", requires = "explain")]
    sign: Signs,
    /// The convolution to look into, as in `conv5_3` or Keras's `block5_conv3`; by default the last of each tower.
    #[arg(long, value_name = "NAME", requires = "explain")]
    layer: Option<String>,
    /// Manifest with the ratings of some of the pictures, for the captions.
    #[arg(long, value_name = "FILE", requires = "explain")]
    truth: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Signs {
    #[value(name = "+")]
    Plus,
    #[value(name = "-")]
    Minus,
    Both,
}

impl ExplainFlags {
    /// Loads the model once more, with its gradients, and makes the folder, if that was asked for.
    pub fn sheet(&self, models: &Models, batch: usize, compute: &Compute) -> Result<Option<Sheet>> {
        let Some(dir) = &self.explain else { return Ok(None) };
        let model = models.one("--explain")?;
        prepare(dir)?;
        let config = model.config()?;
        let targets = if self.target.is_empty() { Target::usual(config) } else { self.target.clone() };
        let truth = match &self.truth {
            Some(path) => {
                ratings(&Manifest::read(path, &config.targets.iter().map(String::as_str).collect::<Vec<_>>())?)
            }
            None => HashMap::new(),
        };
        let signs = match self.sign {
            Signs::Plus => vec![Sign::Plus],
            Signs::Minus => vec![Sign::Minus],
            Signs::Both => vec![Sign::Plus, Sign::Minus],
        };
        let explainer = model.explainer(&targets, self.layer.as_deref(), batch, compute.open()?)?;
        let listed = csv::Writer::from_writer(vec![]);
        let (dir, model) = (dir.clone(), model.name.clone());
        let mut sheet = Sheet { dir, model, explainer, signs, truth, seen: 0, figures: vec![], listed };
        sheet.list(&COLUMNS.map(String::from));
        Ok(Some(sheet))
    }
}

/// Ratings by file.
fn ratings(manifest: &Manifest) -> HashMap<PathBuf, Vec<f32>> {
    let file = |i: usize| manifest.file(i).canonicalize().ok();
    let rows = manifest.rows.iter().enumerate();
    rows.filter_map(|(i, row)| Some((file(i)?, row.targets.clone()))).collect()
}

/// Of `explain.csv`, one line an overlay. A rating has a value in points, a class its number, name and probability.
const COLUMNS: [&str; 12] = [
    "path",
    "tower",
    "layer",
    "target",
    "sign",
    "class_index",
    "class",
    "predicted_1to9",
    "probability",
    "peak",
    "overlay_png",
    "map_npy",
];

/// The folder while it is written.
pub struct Sheet {
    dir: PathBuf,
    model: String,
    explainer: Explainer,
    signs: Vec<Sign>,
    truth: HashMap<PathBuf, Vec<f32>>,
    /// Inputs so far, with those that could not be used.
    seen: usize,
    figures: Vec<String>,
    listed: csv::Writer<Vec<u8>>,
}

impl Sheet {
    /// Explains the pictures of a piece, and writes their files.
    pub fn add(&mut self, piece: &Decoded) -> Result<()> {
        let first = self.seen + 1;
        self.seen += piece.inputs.len();
        let Some(pictures) = &piece.pictures else { return Ok(()) };
        let mut numbers = vec![];
        let mut known = vec![];
        for (i, (path, square)) in piece.inputs.iter().enumerate() {
            if square.is_ok() {
                let truth = Path::new(path).canonicalize().ok().and_then(|p| self.truth.get(&p).cloned());
                numbers.push(first + i);
                known.push((path.clone(), truth));
            }
        }
        let pictures = gradcam::pictures(&mut self.explainer, pictures.bytes(), &known, &self.signs)?;
        numbers.iter().zip(pictures).try_for_each(|(number, picture)| self.write(*number, &picture))
    }

    fn write(&mut self, number: usize, p: &Picture) -> Result<()> {
        let stem = Path::new(&p.name).file_stem().unwrap_or_default().to_string_lossy();
        let stem = format!("{number:04}-{}", plain(&stem));
        let save = |name: &str, bytes: &[u8]| atomic::write(self.dir.join(name), |w| w.write_all(bytes));
        let photo = format!("{stem}.png");
        save(&photo, &p.photo)?;
        let mut overlays = vec![];
        let mut lines = vec![];
        for o in &p.overlays {
            let map = &p.maps[o.map];
            let name = format!("{stem}.{}.{}.{}", plain(&o.tower), plain(&o.layer), plain(&o.target.to_string()));
            let sign = if o.sign == Sign::Plus { ["plus", "+"] } else { ["minus", "-"] };
            let (overlay, raw) = (format!("{name}.{}.png", sign[0]), format!("{name}.npy"));
            save(&overlay, &o.png)?;
            save(&raw, &gradcam::npy(map))?;
            let value = map.value.to_string();
            let (rating, probability) =
                if map.class.is_some() { (String::new(), value) } else { (value, String::new()) };
            lines.push([
                p.name.clone(),
                o.tower.clone(),
                o.layer.clone(),
                o.target.to_string(),
                sign[1].into(),
                map.class.map_or(String::new(), |c| c.to_string()),
                o.class.clone().unwrap_or_default(),
                rating,
                probability,
                o.peak.to_string(),
                overlay.clone(),
                raw,
            ]);
            overlays.push(overlay);
        }
        let address = |which: Option<usize>| which.map_or(photo.clone(), |i| overlays[i].clone());
        self.figures.push(gradcam::figure(p, Some(&address))?);
        lines.iter().for_each(|line| self.list(line));
        Ok(())
    }

    fn list(&mut self, line: &[String; COLUMNS.len()]) {
        self.listed.write_record(line).expect("memory does not fail");
    }

    /// Writes the table and the page that shows all overlays.
    pub fn finish(self) -> Result<()> {
        let table = self.listed.into_inner().expect("memory does not fail");
        let towers = self.explainer.towers.iter().map(|t| format!("{} at {}", t.name, t.layer));
        let facts = [format!("{}: {}", self.model, towers.collect::<Vec<_>>().join(", "))];
        let page = gradcam::page("Where the towers look", &facts, &self.figures)?;
        for (name, bytes) in [("explain.csv", table), ("index.html", page.into_bytes())] {
            atomic::write(self.dir.join(name), |w| w.write_all(&bytes))?;
        }
        remark!("wrote the overlays of {} pictures to {}", self.figures.len(), self.dir.join("index.html").display());
        Ok(())
    }
}

/// What is safe in any file name and address.
fn plain(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    text.chars().take(60).map(safe).collect()
}
