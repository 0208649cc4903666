/*! What a run that tells classes apart leaves: `predictions.csv`, `confusion.csv` and `confusion.svg`, `report.html` and
`metrics.json`. Each file is replaced whole, the metrics last: where they are, the rest is too. */

use super::folder::{About, prepare};
use super::{STYLE, Serde, confusion, render, training};
use crate::atomic;
use crate::data::Row;
use crate::error::{Error, Result};
use crate::table::number;
use crate::train::classified::Classified;
use crate::train::confusion::likeliest;
use crate::train::folds::Spread;
use minijinja::context;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A finished evaluation of classes.
pub struct ClassOutcome<'a> {
    pub about: About<'a>,
    pub classes: &'a [String],
    /// The class of each row.
    pub truth: &'a [usize],
    /// [rows, classes].
    pub probabilities: &'a [f32],
    /// Of a cross-validation: the measures of each fold.
    pub over_folds: &'a [Classified],
}

/// Where the files go: `classes` in the folder where that has those of ratings.
pub fn folder(out: &Path, rated: bool) -> PathBuf {
    if rated { out.join("classes") } else { out.into() }
}

/// A measure of [`Classified`].
type Measure = (&'static str, &'static str, usize, fn(&Classified) -> f64);

/// Key, name, decimals, value.
const MEASURES: [Measure; 5] = [
    ("accuracy_percent", "Accuracy, %", 1, |c| c.accuracy_percent),
    ("class_accuracy_percent", "Mean over classes, %", 1, |c| c.class_accuracy_percent),
    ("majority_percent", "The most frequent class, %", 1, |c| c.majority_percent),
    ("log_loss_nats", "Log loss, nats", 3, |c| c.log_loss_nats),
    ("calibration_error_percent", "Calibration error, %", 1, |c| c.calibration_error_percent),
];

/// Mean and sample SD of a measure over folds.
fn over(folds: &[Classified], of: fn(&Classified) -> f64) -> Spread {
    Spread::of(&folds.iter().map(|c| Some(of(c))).collect::<Vec<_>>())
}

/// The measures alone.
///
/// # Errors
/// Sizes that do not fit, or a probability that is not finite.
pub fn measure(o: &ClassOutcome) -> Result<Classified> {
    let rows = o.about.manifest.rows.len();
    if o.truth.len() != rows || o.probabilities.len() != rows * o.classes.len() || rows == 0 {
        return Err(Error::job(format!("{} probabilities do not fit {rows} pictures", o.probabilities.len())));
    }
    if let Some(i) = o.probabilities.iter().position(|p| !p.is_finite()) {
        let path = &o.about.manifest.rows[i / o.classes.len()].path;
        return Err(Error::file(path, "the model gives no finite probability").fix("train it again"));
    }
    Ok(Classified::of(o.classes, o.truth, o.probabilities))
}

/// Measures the probabilities and writes the files.
///
/// # Errors
/// Those of [`measure`], or a file that cannot be written.
pub fn write(dir: &Path, o: &ClassOutcome) -> Result<Classified> {
    let c = measure(o)?;
    let picture = confusion::svg(&c.confusion, &format!("{:.1} % of {} right", c.accuracy_percent, c.n_pictures));
    let page = html(o, &c, &picture)?;
    prepare(dir)?;
    for (name, text) in [
        ("predictions.csv", predictions(&o.about.manifest.rows, o.classes, o.truth, o.probabilities, o.about.folds)),
        ("confusion.csv", c.confusion.csv()),
        ("confusion.svg", picture),
        ("report.html", page),
        ("metrics.json", metrics(o, &c)),
    ] {
        atomic::write(dir.join(name), |w| w.write_all(text.as_bytes()))?;
    }
    Ok(c)
}

/// `path,dataset,group,fold,class,predicted` of rows whose classes and probabilities are known, then `p_NAME` for each class.
pub fn predictions(
    rows: &[Row],
    classes: &[String],
    truth: &[usize],
    probabilities: &[f32],
    folds: Option<&[u32]>,
) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    let fixed = ["path", "dataset", "group", "fold", "class", "predicted"].map(String::from);
    let header: Vec<String> = fixed.into_iter().chain(classes.iter().map(|c| format!("p_{c}"))).collect();
    let memory = "memory does not fail";
    csv.write_record(&header).expect(memory);
    let rows = rows.iter().zip(truth).zip(probabilities.chunks_exact(classes.len()));
    for (i, ((row, &truth), p)) in rows.enumerate() {
        let Row { path, dataset, group, .. } = row;
        let text = |x: &Option<String>| x.clone().unwrap_or_default();
        let fold = folds.map_or(String::new(), |f| f[i].to_string());
        let taken = &classes[likeliest(p)];
        let cells = [path.clone(), text(dataset), text(group), fold, classes[truth].clone(), taken.clone()];
        csv.write_record(cells.into_iter().chain(p.iter().map(f32::to_string))).expect(memory);
    }
    String::from_utf8(csv.into_inner().expect(memory)).expect("text in, text out")
}

/// The content of `metrics.json`.
pub fn metrics(o: &ClassOutcome, c: &Classified) -> String {
    let mut value = serde_json::to_value(c).expect("numbers and names");
    let folds = MEASURES.iter().map(|(key, _, _, of)| {
        let Spread { mean, sd } = over(o.over_folds, *of);
        (key.to_string(), json!({ "mean": mean, "sd": sd }))
    });
    let about = json!({
        "format": "deep-affect-classes-1",
        "program": concat!("deep-affect ", env!("CARGO_PKG_VERSION")),
        "title": o.about.title,
        "command": o.about.command,
        "device": o.about.device,
        "n_trained_on": o.about.seen.map(|s| s[0]),
        "n_monitored": o.about.seen.map(|s| s[1]),
        "n_folds": o.over_folds.len(),
        "over_folds": if o.over_folds.is_empty() { None } else { Some(folds.collect::<serde_json::Map<_, _>>()) },
        "notes": o.about.notes,
    });
    let (Some(all), serde_json::Value::Object(about)) = (value.as_object_mut(), about) else {
        unreachable!("both are objects")
    };
    let mut whole = about;
    whole.append(all);
    format!("{:#}\n", serde_json::Value::Object(whole))
}

fn html(o: &ClassOutcome, c: &Classified, picture: &str) -> Result<String> {
    let folds = o.over_folds.len();
    let measures: Vec<[String; 2]> = MEASURES
        .iter()
        .map(|(_, name, decimals, of)| {
            let pooled = number(Some(of(c)), *decimals);
            let Spread { mean, sd } = over(o.over_folds, *of);
            let value =
                if folds > 0 { format!("{} ({})", number(mean, *decimals), number(sd, *decimals)) } else { pooled };
            [name.to_string(), value]
        })
        .collect();
    let classes: Vec<[String; 4]> = c
        .classes
        .iter()
        .map(|of| {
            let part = |x: Option<f64>| number(x, 1);
            [of.class.clone(), of.n_pictures.to_string(), part(of.recall_percent), part(of.precision_percent)]
        })
        .collect();
    let calibration: Vec<[String; 3]> = c
        .calibration
        .iter()
        .map(|b| {
            let sure = number(Some(100.0 * b.mean_probability), 1);
            [sure, number(Some(b.right_percent), 1), b.n_pictures.to_string()]
        })
        .collect();
    let page = context! {
        style => STYLE,
        title => o.about.title.as_str(),
        subtitle => o.about.subtitle(c.n_pictures),
        notes => Serde(&o.about.notes),
        n => c.n_pictures,
        folds,
        measures => Serde(measures),
        classes => Serde(classes),
        calibration => Serde(calibration),
        confusion => picture,
        training => training(o.about.history),
        facts => Serde(o.about.card()),
        version => env!("CARGO_PKG_VERSION"),
    };
    render(include_str!("classes.html"), page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Manifest;
    use crate::report::Epoch;

    #[test]
    fn the_five_files() {
        let dir = tempfile::tempdir().unwrap();
        let row = |path: &str| Row { path: path.into(), ..Row::default() };
        let manifest = Manifest::new(dir.path(), &[], vec![row("a.png"), row("<b>.png"), row("c,d.png")], vec![]);
        let classes = ["calm & quiet", "fear"].map(String::from);
        let fold = Classified::of(&classes, &[0, 1], &[0.9, 0.1, 0.4, 0.6]);
        let about = About {
            title: "Telling <two> apart".into(),
            command: "deep-affect train".into(),
            device: "cpu".into(),
            facts: vec![],
            notes: vec!["A note.".into()],
            history: &[Epoch { epoch: 1, train_loss: 0.7, val_loss: Some(0.8), lr: 1e-3, outputs: vec![] }],
            manifest: &manifest,
            folds: Some(&[1, 2, 2]),
            seen: Some([0, 0]),
        };
        let mut outcome = ClassOutcome {
            about,
            classes: &classes,
            truth: &[0, 1, 1],
            probabilities: &[0.75, 0.25, 0.5, 0.5, 0.125, 0.875],
            over_folds: &[fold.clone(), fold],
        };
        let c = write(dir.path(), &outcome).unwrap();
        assert_eq!((c.n_pictures, c.confusion.counts.clone()), (3, vec![1, 0, 1, 1]));
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            text("predictions.csv"),
            "path,dataset,group,fold,class,predicted,p_calm & quiet,p_fear\na.png,,,1,calm & quiet,calm & quiet,0.75,0.25\n\
             <b>.png,,,2,fear,calm & quiet,0.5,0.5\n\"c,d.png\",,,2,fear,fear,0.125,0.875\n"
        );
        let metrics: serde_json::Value = serde_json::from_str(&text("metrics.json")).unwrap();
        assert_eq!(
            (&metrics["over_folds"]["accuracy_percent"]["mean"], &metrics["n_folds"]),
            (&json!(100.0), &json!(2))
        );
        assert_eq!(metrics["classes"][1]["recall_percent"], json!(50.0));
        let page = text("report.html");
        assert!(page.contains("Telling &lt;two&gt; apart") && page.contains("calm &amp; quiet"), "{page}");
        assert!(page.contains("<svg") && !page.contains("&lt;svg"));
        outcome.probabilities = &[0.75, 0.25, f32::NAN, 0.5, 0.125, 0.875];
        let e = write(dir.path(), &outcome).unwrap_err().to_string();
        assert!(e.contains("no finite probability"), "{e}");
    }
}
