//! AffectNet in both forms it was handed out in. Every annotated face is kept, rated or not: `no-face` is a class of the
//! paper's face networks. Ratings are therefore further columns, empty where there are none, unless only rated faces are
//! asked for.

use super::records::{Record, Records, onto_nine, shown};
use super::sets::SetImport;
use super::{Import, Scale, find};
use crate::data::fields::{Dialect, delimiter_of, records};
use crate::data::manifest::TARGETS;
use crate::data::table::missing;
use crate::error::{Error, Result, option};
use crate::files;
use crate::weights::foreign::npy;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The expressions in the order of their numbers.
pub const EXPRESSIONS: [&str; 11] = [
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
    "none",
    "uncertain",
    "no-face",
];
/// What stands for no rating.
const NONE: f64 = -2.0;
const BOX: [&str; 4] = ["face_x", "face_y", "face_width", "face_height"];

/// One face.
struct Face {
    place: String,
    key: String,
    label: &'static str,
    /// On 1-9.
    ratings: [Option<f64>; 2],
    /// Left, top, width and height in pixels.
    corners: Option<[f64; 4]>,
    split: String,
}

/// Gathers faces as records.
struct Faces<'a> {
    records: Records,
    place: &'a SetImport<'a>,
}

impl<'a> Faces<'a> {
    fn new(place: &'a SetImport, file: &Path) -> Self {
        let mut names = vec!["label", "split"];
        names.extend(BOX);
        let ratings = if place.from.rated { &TARGETS[..] } else { &[] };
        names.extend(&TARGETS[ratings.len()..]);
        let [targets, extras] = [ratings, &names].map(|n| n.iter().map(|n| n.to_string()).collect());
        Self { records: Records { file: file.into(), targets, extras, ..Records::default() }, place }
    }

    fn push(&mut self, face: Face) {
        let mut row = Record { place: face.place, key: face.key, ..Record::default() };
        let corners = face.corners.map_or([const { None }; 4], |c| c.map(|v| Some(shown(v))));
        row.extras = [Some(face.label.to_string()), Some(face.split)].into_iter().chain(corners).collect();
        match (self.place.from.rated, face.ratings) {
            (true, [Some(valence), Some(arousal)]) => row.ratings = vec![valence, arousal],
            (true, _) => {
                self.records.dropped.push((format!("{} `{}`", row.place, row.key), "no valence and arousal".into()));
                return;
            }
            (false, ratings) => row.extras.extend(ratings.map(|r| r.map(shown))),
        }
        self.records.rows.push(row);
    }

    fn find(self) -> Result<Import> {
        self.records.find(self.place.search(self.place.from.root))
    }
}

/// A number on 1-9; None for -2 and for what is missing. The error says what is wrong with it.
fn rated(text: &str, (lo, hi): Scale) -> Result<Option<f64>, String> {
    match text.trim().parse::<f64>() {
        _ if missing(text) => Ok(None),
        Ok(NONE) => Ok(None),
        Ok(v) if (lo..=hi).contains(&v) => Ok(Some(onto_nine(v, (lo, hi)))),
        _ => Err(format!("`{}` is neither a number of the scale {lo}:{hi} nor -2", text.trim())),
    }
}

fn expression(text: &str) -> Result<&'static str, String> {
    let number = text.trim().parse::<usize>().ok();
    let label = number.and_then(|n| EXPRESSIONS.get(n).copied());
    label.ok_or_else(|| format!("`{}` is no expression from 0 to {}", text.trim(), EXPRESSIONS.len() - 1))
}

/// The tables of 2017: `subDirectory_filePath`, the box, 68 landmarks in one field, expression, valence, arousal. They have
/// hundreds of megabytes, most of it landmarks, and are read row by row.
pub fn tables(place: &SetImport) -> Result<Import> {
    let root = place.from.root;
    let mut files: Vec<PathBuf> = place.from.table.map(PathBuf::from).into_iter().collect();
    if files.is_empty() {
        for name in ["training.csv", "validation.csv"] {
            files.extend(find::files(root, &[name])?);
        }
    }
    let Some(first) = files.first() else { return Err(find::missing(root, &["training.csv", "validation.csv"])) };
    let mut faces = Faces::new(place, first);
    for file in &files {
        read(file, &mut faces)?;
    }
    faces.find()
}

fn read(file: &Path, faces: &mut Faces) -> Result<()> {
    let io = |e| Error::io(file, "read", e);
    let mut lines = BufReader::new(files::open(file).map_err(io)?).split(b'\n').zip(1..);
    let text = |line: Vec<u8>| {
        String::from_utf8_lossy(&line).trim_end_matches('\r').trim_start_matches('\u{feff}').to_string()
    };
    let head = lines.next().map_or(Ok(Vec::new()), |l| l.0).map(text).map_err(io)?;
    let dialect = Dialect { delimiter: delimiter_of(&head), quote: b'"' };
    let row = |line: u64, text: &str| {
        let one = records(text, dialect).map(|mut all| all.pop().map_or(Vec::new(), |r| r.1));
        one.map_err(|e| Error::file(file, e.1).at(format!("line {line}")).fix("close the quote or remove it"))
    };
    let header = row(1, &head)?;
    let column = |name: &str| {
        header.iter().position(|h| h.trim().eq_ignore_ascii_case(name)).ok_or_else(|| {
            Error::file(file, format!("no column `{name}`; it has: {}", header.join(", ")))
                .fix(format!("name another with {}", option("table")))
        })
    };
    let (path, label) = (column("subDirectory_filePath")?, column("expression")?);
    let corners = [column(BOX[0])?, column(BOX[1])?, column(BOX[2])?, column(BOX[3])?];
    let ratings = [column(TARGETS[0])?, column(TARGETS[1])?];
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let split = match stem.as_str() {
        "training" => "train".to_string(),
        "validation" => "val".to_string(),
        _ => stem,
    };
    let comma = dialect.delimiter != b',';
    for (bytes, line) in lines {
        let row = row(line, &text(bytes.map_err(io)?))?;
        if row.is_empty() {
            continue;
        }
        let field = |column: usize| row.get(column).map_or("", String::as_str);
        let decimal = |column: usize| if comma { field(column).replace(',', ".") } else { field(column).into() };
        let wrong =
            |problem: String| Error::file(file, problem).at(format!("line {line}")).fix("compare it with the original");
        let value = |t: usize| rated(&decimal(ratings[t]), faces.place.scales[t]).map_err(wrong);
        // Faces that were not found have NULL, -1 or nothing here.
        let found = corners.map(|c| decimal(c).trim().parse::<f64>().ok().filter(|v| v.is_finite()));
        let face = Face {
            place: format!("{split} line {line}"),
            key: field(path).trim().into(),
            label: expression(field(label)).map_err(wrong)?,
            ratings: [value(0)?, value(1)?],
            corners: match found {
                [Some(x), Some(y), Some(w), Some(h)] if w > 0.0 && h > 0.0 => Some([x, y, w, h]),
                _ => None,
            },
            split: split.clone(),
        };
        faces.push(face);
    }
    Ok(())
}

/// The later form: `train_set` and `val_set`, each with `images/<id>.jpg` and `annotations/<id>_exp.npy`, `_val`, `_aro`.
pub fn arrays(place: &SetImport) -> Result<Import> {
    let root = place.from.root;
    let parts = [("train_set", "train"), ("val_set", "val"), ("", "")];
    let mut faces = Faces::new(place, root);
    for (folder, split) in parts {
        let annotations = root.join(folder).join("annotations");
        if !annotations.is_dir() {
            continue;
        }
        let io = |e| Error::io(&annotations, "list the folder", e);
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&annotations).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            ids.extend(name.to_str().and_then(|n| n.strip_suffix("_exp.npy")).map(String::from));
        }
        ids.sort();
        for id in ids {
            let value = |what: &str| {
                let file = annotations.join(format!("{id}_{what}.npy"));
                let bytes = files::read(&file, files::PAGE).map_err(|e| Error::io(&file, "read", e))?;
                let text = npy::scalar(&bytes).map_err(|e| Error::file(&file, e).fix("copy it from the set again"))?;
                Ok::<_, Error>((file, text))
            };
            let wrong =
                |file: PathBuf| move |problem: String| Error::file(file, problem).fix("copy it from the set again");
            let (file, text) = value("exp")?;
            let label = expression(text.trim_end_matches(".0")).map_err(wrong(file))?;
            let mut ratings = [None; 2];
            for ((rating, what), scale) in ratings.iter_mut().zip(["val", "aro"]).zip(place.scales) {
                let (file, text) = value(what)?;
                *rating = rated(&text, scale).map_err(wrong(file))?;
            }
            let key = if folder.is_empty() { format!("images/{id}") } else { format!("{folder}/images/{id}") };
            let place = key.replace("/images/", " ");
            faces.push(Face { place, key, label, ratings, corners: None, split: split.into() });
        }
    }
    if faces.records.rows.is_empty() {
        return Err(find::missing(root, &["train_set/annotations/<id>_exp.npy"]));
    }
    faces.find()
}
