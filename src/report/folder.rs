/*! What every run leaves: a folder with `predictions.csv` for statistics programs, `report.html` for people and
`metrics.json` for scripts. Each file is replaced whole, the metrics last: where they are, the rest is too. */

use super::tables::{Prediction, write_predictions};
use super::{Epoch, Point, Report, extremes, html, placed, png};
use crate::atomic;
use crate::data::{Manifest, Pictures};
use crate::error::{Error, Result, option};
use crate::files;
use crate::train::folds::FoldMetrics;
use crate::train::metrics::{DimensionMetrics, Measured, Metrics};
use image::codecs::jpeg::JpegEncoder;
use image::{RgbImage, imageops};
use serde_json::{Map, Value, json};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Longest side of a thumbnail, in pixels.
pub const THUMBNAIL: u32 = 96;

/// The files of the folder, in the order they are written.
pub const FILES: [&str; 3] = ["predictions.csv", "report.html", "metrics.json"];

/// What every evaluation tells of, of ratings and of classes.
#[derive(Clone)]
pub struct About<'a> {
    pub title: String,
    /// As the user gave it: goes into the report and the metrics.
    pub command: String,
    pub device: String,
    /// Further lines of the run card: name and value.
    pub facts: Vec<(String, String)>,
    /// What must be read first: licences, warnings.
    pub notes: Vec<String>,
    /// Empty for an evaluation without training.
    pub history: &'a [Epoch],
    /// The rows that were predicted; its targets are the ones that are measured.
    pub manifest: &'a Manifest,
    /// The fold whose model made the prediction, one a row.
    pub folds: Option<&'a [u32]>,
    /// How many of the pictures the model was trained on, and how many were monitored; None if it does not say.
    pub seen: Option<[usize; 2]>,
}

impl About<'_> {
    /// Below the title of a page.
    pub(super) fn subtitle(&self, pictures: usize) -> String {
        format!("{pictures} pictures · {} · {}", self.device, self.command)
    }

    /// All lines of the run card.
    pub(super) fn card(&self) -> Vec<(String, String)> {
        let own = [("Command", &self.command), ("Device", &self.device)].map(|(k, v)| (k.to_string(), v.clone()));
        own.into_iter().chain(self.facts.iter().cloned()).collect()
    }
}

/// A finished evaluation of ratings.
pub struct Outcome<'a> {
    pub about: About<'a>,
    /// The squares, and which of them belongs to each row; None when there is one a row, in order.
    pub pictures: &'a Pictures,
    pub squares: Option<&'a [usize]>,
    /// [rows, targets].
    pub predicted: &'a [f32],
    /// Mean of each target over the training rows: the baseline. One a target; of several folds one for each rating, the
    /// mean of what that fold's model was trained on.
    pub train_mean: &'a [f64],
    /// Of a cross-validation: its measures fold by fold. They come before those of all pictures at once.
    pub over_folds: Option<&'a FoldMetrics>,
}

/// Creates the folder and tries to write in it: to be asked before a long job, not after it.
pub fn prepare(dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    if dir.exists() && !dir.is_dir() {
        return Err(Error::file(dir, "is a file, and a folder is to be written there").fix("name a folder"));
    }
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create the folder", e))?;
    atomic::probe(dir).map_err(|e| Error::io(dir, "write in the folder", e))?;
    // A folder that stands where a file must go would be found only at the end.
    match FILES.iter().map(|f| dir.join(f)).find(|f| f.is_dir()) {
        Some(f) => Err(Error::file(f, "is a folder, and a file is to be written there").fix("choose another folder")),
        None => Ok(()),
    }
}

/// A folder of results that no other process writes to: the system's lock on it, given back when this is dropped or the
/// process ends, however it does. Where folders cannot be locked (Windows, some network file systems) it holds nobody off.
#[derive(Debug)]
pub struct Claim {
    _lock: Option<File>,
    /// The file that was made to be locked.
    made: Option<PathBuf>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked still: who opens it later makes another.
        self.made.iter().for_each(|made| drop(std::fs::remove_file(made)));
    }
}

/// Claims a folder that is there. Files of two runs in one folder would each be whole, and together belong to neither.
///
/// # Errors
/// Another process has claimed it.
pub fn claim(dir: impl AsRef<Path>) -> Result<Claim> {
    let Ok(folder) = File::open(&dir) else { return Ok(Claim { _lock: None, made: None }) };
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(dir, "another process writes its results there")
            .fix(format!("wait for it, or name another folder in {}", option("out")))),
        locked => Ok(Claim { _lock: locked.is_ok().then_some(folder), made: None }),
    }
}

/// Claims one file of a folder that other runs may write to, by a lock on `<file>.lock`.
///
/// # Errors
/// Another process has claimed it, or the folder cannot be written in.
pub fn claim_file(path: impl AsRef<Path>) -> Result<Claim> {
    let mut made = path.as_ref().as_os_str().to_owned();
    made.push(".lock");
    let made = PathBuf::from(made);
    let file = files::to_lock(&made).map_err(|e| Error::io(&made, "open", e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(path, "another process writes it")
            .fix(format!("wait for it, or name another file in {}", option("out")))),
        locked => Ok(Claim { _lock: locked.is_ok().then_some(file), made: Some(made) }),
    }
}

/// Measures the predictions and writes the three files of [`FILES`].
///
/// # Errors
/// Sizes that do not fit, a prediction that is not finite, or a file that cannot be written.
pub fn write_folder(dir: impl AsRef<Path>, o: &Outcome) -> Result<Metrics> {
    let dir = dir.as_ref();
    let metrics = metrics(o)?;
    let page = html(&report(o, &metrics)?)?;
    let mut table = vec![];
    predictions(o, &mut table)?;
    let json = metrics_json(o, &metrics);
    prepare(dir)?;
    for (name, bytes) in FILES.iter().zip([table, page.into_bytes(), json.into_bytes()]) {
        atomic::write(dir.join(name), |w| w.write_all(&bytes))?;
    }
    Ok(metrics)
}

/// The measures alone.
pub fn metrics(o: &Outcome) -> Result<Metrics> {
    let (rows, targets) = (o.about.manifest.rows.len(), o.about.manifest.targets.len());
    let folds = o.about.folds.map_or(rows, <[u32]>::len);
    let squares = o.squares.map_or(o.pictures.len(), <[usize]>::len);
    if squares != rows || o.predicted.len() != rows * targets || folds != rows {
        return Err(Error::job(format!(
            "{} pictures, {} predictions and {folds} folds do not fit {rows} rows of {targets} ratings",
            squares,
            o.predicted.len()
        )));
    }
    let truth: Vec<f32> = o.about.manifest.rows.iter().flat_map(|r| r.targets.iter().copied()).collect();
    let names: Vec<&str> = o.about.manifest.targets.iter().map(String::as_str).collect();
    let (predicted, train_mean) = (o.predicted, o.train_mean);
    Metrics::measure(&Measured {
        names: &names,
        truth: &truth,
        predicted,
        train_mean,
        weight: &weights(o.about.manifest),
    })
}

/// How much each picture counts.
fn weights(m: &Manifest) -> Vec<f64> {
    m.rows.iter().map(|r| r.weight.into()).collect()
}

fn predictions(o: &Outcome, to: &mut Vec<u8>) -> Result<()> {
    let targets: Vec<&str> = o.about.manifest.targets.iter().map(String::as_str).collect();
    let rows = o.about.manifest.rows.iter().zip(o.predicted.chunks_exact(targets.len())).enumerate();
    write_predictions(
        to,
        &targets,
        rows.map(|(i, (row, predicted))| Prediction::of(row, o.about.folds.map(|f| f[i]), predicted)),
    )
}

fn report(o: &Outcome, metrics: &Metrics) -> Result<Report> {
    let predicted = o.predicted.chunks_exact(o.about.manifest.targets.len());
    let point = |(row, pred): (&crate::data::Row, &[f32])| Point {
        id: row.path.rsplit('/').next().unwrap_or(&row.path).into(),
        path: row.path.clone(),
        truth: row.targets.clone(),
        pred: pred.into(),
        thumbnail: None,
    };
    let mut points: Vec<Point> = o.about.manifest.rows.iter().zip(predicted).map(point).collect();
    let (best, worst) = extremes(&points);
    let (square, side) =
        (|i: usize| o.pictures.square(o.squares.map_or(i, |s| s[i]), 0), o.pictures.views()[0].side as u32);
    for i in best.into_iter().chain(worst) {
        points[i].thumbnail = Some(thumbnail(square(i), side)?);
    }
    let placed = placed(&points).into_iter().map(|i| Ok((i, stamp(square(i), side)?))).collect::<Result<Vec<_>>>()?;
    Ok(Report {
        title: o.about.title.clone(),
        subtitle: o.about.subtitle(metrics.n),
        facts: o.about.card(),
        history: o.about.history.to_vec(),
        targets: o.about.manifest.targets.clone(),
        points,
        placed,
        metrics: metrics.clone(),
        over_folds: o.over_folds.cloned(),
        train_mean: if o.over_folds.is_some() { o.train_mean.into() } else { vec![] },
        weight: weights(o.about.manifest),
        notes: notes(o, metrics),
    })
}

/// What must be read first; that predictions lie beyond the scale before everything else.
fn notes(o: &Outcome, m: &Metrics) -> Vec<String> {
    m.beyond().into_iter().chain(o.about.notes.iter().cloned()).collect()
}

/// A square as a small PNG file.
pub fn thumbnail(square: &[u8], size: u32) -> Result<Vec<u8>> {
    let full = RgbImage::from_raw(size, size, square.to_vec())
        .ok_or_else(|| Error::job("cannot make a thumbnail: not a square"))?;
    let small = if size > THUMBNAIL { imageops::thumbnail(&full, THUMBNAIL, THUMBNAIL) } else { full };
    png(small.into_raw(), [size.min(THUMBNAIL) as usize; 2])
}

/// A square as a JPEG file of a few kilobytes.
fn stamp(square: &[u8], size: u32) -> Result<Vec<u8>> {
    const SIDE: u32 = 72;
    let full = RgbImage::from_raw(size, size, square.to_vec()).ok_or_else(|| Error::job("not a square"))?;
    let small = imageops::thumbnail(&full, size.min(SIDE), size.min(SIDE));
    let mut file = vec![];
    let made = JpegEncoder::new_with_quality(&mut file, 80).encode_image(&small);
    made.map_err(|e| Error::job(format!("cannot make a JPEG: {e}")))?;
    Ok(file)
}

/// The measures with their units: `points` are points of the 1 to 9 scale, `points2` their squares, the others have none.
fn measures(m: &DimensionMetrics) -> Map<String, Value> {
    let key = |key: &str| match key {
        "mse" => "mse_points2".into(),
        "rmse" | "mae" | "bias" | "sd_predicted" | "sd_true" => format!("{key}_points"),
        _ => key.to_string(),
    };
    m.fields().iter().map(|f| (key(f.key), json!(f.value))).collect()
}

/// The content of `metrics.json`.
pub fn metrics_json(o: &Outcome, m: &Metrics) -> String {
    let target = |d: &crate::train::metrics::Dimension| {
        let value = json!({
            "train_mean_points": d.train_mean,
            "skill": d.skill(),
            "model": measures(&d.model),
            "baseline": measures(&d.baseline),
        });
        (d.name.clone(), value)
    };
    let value = json!({
        "format": "deep-affect-metrics-1",
        "program": concat!("deep-affect ", env!("CARGO_PKG_VERSION")),
        "title": o.about.title,
        "command": o.about.command,
        "device": o.about.device,
        "scale": "1 to 9",
        "n_pictures": m.n,
        "n_trained_on": o.about.seen.map(|s| s[0]),
        "n_monitored": o.about.seen.map(|s| s[1]),
        "weighted": o.about.manifest.rows.iter().any(|r| r.weight != o.about.manifest.rows[0].weight),
        "over_folds": o.over_folds,
        "pooled_over_folds": o.over_folds.is_some(),
        "mse_mean_points2": m.mse_mean,
        "cc_flat": m.cc_flat,
        "targets": m.dimensions.iter().map(target).collect::<Map<_, _>>(),
        "notes": notes(o, m),
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DecodeOptions, LoadOptions, Row};
    use crate::preprocess::{Resize, View};

    #[test]
    fn the_three_files() {
        let dir = tempfile::tempdir().unwrap();
        let png = thumbnail(&[200; 100 * 100 * 3], 100).unwrap();
        let items: Vec<(&str, &[u8])> = ["a", "b", "c"].iter().map(|n| (*n, &png[..])).collect();
        let view = View { side: 100, resize: Resize::SquashNearest, grey: false, crop: None };
        let opts = LoadOptions { views: vec![view], decode: DecodeOptions::default(), cache_dir: None };
        let pictures = Pictures::from_bytes(&items, &opts, &()).unwrap().accept(false).unwrap();
        let row = |i: usize| Row { path: format!("x/{i}.png"), targets: vec![i as f32 + 1.0, 5.0], ..Row::default() };
        let manifest = Manifest::new(dir.path(), &["valence", "arousal"], (0..3).map(row).collect(), vec![]);
        let about = About {
            title: "a test".into(),
            command: "deep-affect test".into(),
            device: "cpu".into(),
            facts: vec![],
            notes: vec![],
            history: &[],
            manifest: &manifest,
            folds: Some(&[0, 1, 2]),
            seen: Some([2, 1]),
        };
        let mut o = Outcome {
            about,
            pictures: &pictures,
            squares: None,
            predicted: &[1.5, 5.0, 2.0, 5.5, 3.0, 5.0],
            train_mean: &[2.5, 5.0],
            over_folds: None,
        };
        let out = dir.path().join("run/deep");
        let m = write_folder(&out, &o).unwrap();
        assert_eq!((m.n, m.dimensions[0].model.mse), (3, 0.25 / 3.0));
        let text = |f: &str| std::fs::read_to_string(out.join(f)).unwrap();
        assert!(text("predictions.csv").contains("x/1.png,,,1,2,2,0,5,5.5,0.5\n"));
        assert_eq!(text("report.html").matches("data:image/png").count(), 3);
        let json: Value = serde_json::from_str(&text("metrics.json")).unwrap();
        assert_eq!(json["targets"]["valence"]["model"]["mse_points2"], json!(0.25 / 3.0));
        assert_eq!(json["targets"]["arousal"]["baseline"]["mae_points"], json!(0.0));
        assert_eq!(
            (&json["n_pictures"], &json["n_trained_on"], &json["n_monitored"]),
            (&json!(3), &json!(2), &json!(1))
        );
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);

        o.about.folds = Some(&[0]);
        assert!(write_folder(&out, &o).is_err());
        std::fs::remove_file(out.join("metrics.json")).unwrap();
        std::fs::create_dir(out.join("metrics.json")).unwrap();
        let e = prepare(&out).unwrap_err().to_string();
        assert!(e.contains("metrics.json") && e.contains("choose another folder"), "{e}");
        assert!(prepare(out.join("predictions.csv")).is_err());
    }

    #[test]
    fn a_file_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        let claim = claim_file(&one).unwrap();
        let e = claim_file(&one).unwrap_err().to_string();
        assert!(e.contains("one") && e.contains("another process writes it"), "{e}");
        claim_file(&other).unwrap();
        drop(claim);
        claim_file(&one).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
