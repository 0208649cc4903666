//! A folder of Grad-CAM overlays beside an answer: one page that shows them, a table that lists them.

use super::Decoded;
use crate::atomic;
use crate::data::Manifest;
use crate::device::Device;
use crate::error::{Result, option};
use crate::experiment::Events;
use crate::experiment::ensemble::Models;
use crate::experiment::events::tell;
use crate::report::folder::prepare;
use crate::report::gradcam::{self, Picture};
use crate::train::gradcam::{Explainer, Sign, Target};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What is explained of every picture, and where that goes.
pub struct Explanation {
    pub folder: PathBuf,
    /// Ratings and classes; without any the class, or all ratings where towers give none.
    pub targets: Vec<Target>,
    /// What raises the target, what lowers it, or both.
    pub signs: Vec<Sign>,
    /// The convolution to look into; the last of each tower without a name.
    pub layer: Option<String>,
    /// Manifest with the ratings of some of the pictures, for the captions.
    pub truth: Option<PathBuf>,
}

impl Explanation {
    /// Loads the model once more, with its gradients, and makes the folder.
    pub(super) fn folder(&self, models: &Models, batch: usize, device: Box<dyn Device>) -> Result<ExplainedFolder> {
        let model = models.one(&option("explain"))?;
        prepare(&self.folder)?;
        let config = model.config()?;
        let targets = if self.targets.is_empty() { Target::usual(config) } else { self.targets.clone() };
        let truth = match &self.truth {
            Some(path) => {
                ratings(&Manifest::read(path, &config.targets.iter().map(String::as_str).collect::<Vec<_>>())?)
            }
            None => HashMap::new(),
        };
        let explainer = model.explainer(&targets, self.layer.as_deref(), batch, device)?;
        let listed = csv::Writer::from_writer(vec![]);
        let (dir, model, signs) = (self.folder.clone(), model.name.clone(), self.signs.clone());
        let mut folder = ExplainedFolder { dir, model, explainer, signs, truth, seen: 0, figures: vec![], listed };
        folder.list(&COLUMNS.map(String::from));
        Ok(folder)
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
pub(super) struct ExplainedFolder {
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

impl ExplainedFolder {
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
    pub fn finish(self, events: &dyn Events) -> Result<()> {
        let table = self.listed.into_inner().expect("memory does not fail");
        let towers = self.explainer.towers.iter().map(|t| format!("{} at {}", t.name, t.layer));
        let facts = [format!("{}: {}", self.model, towers.collect::<Vec<_>>().join(", "))];
        let page = gradcam::page("Where the towers look", &facts, &self.figures)?;
        for (name, bytes) in [("explain.csv", table), ("index.html", page.into_bytes())] {
            atomic::write(self.dir.join(name), |w| w.write_all(&bytes))?;
        }
        let page = self.dir.join("index.html");
        tell!(events, "wrote the overlays of {} pictures to {}", self.figures.len(), page.display());
        Ok(())
    }
}

/// What is safe in any file name and address.
fn plain(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    text.chars().take(60).map(safe).collect()
}
