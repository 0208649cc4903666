/*! `study.toml`: which models are trained on which folds, and which tables are made of them. Settings of a model are the
flags of `train` without their dashes, parsed by the same rules: there is one list of them, and one set of messages. */

use crate::cli::flags::{DataFlags, ModelFlags, TrainFlags};
use crate::cli::preset::BUNDLED;
use crate::error::{Error, Result};
use crate::files;
use crate::report::study::{By, Layout};
use clap::{Args, FromArgMatches};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    title: Option<String>,
    manifest: PathBuf,
    #[serde(default)]
    test_sets: Vec<String>,
    folds: Option<u32>,
    split: Option<f64>,
    fold_file: Option<PathBuf>,
    #[serde(default)]
    ungrouped: bool,
    #[serde(default)]
    ignore_fold_column: bool,
    #[serde(default = "yes")]
    keep_models: bool,
    #[serde(default = "one")]
    maps: u8,
    #[serde(default)]
    faces: Vec<PathBuf>,
    #[serde(default)]
    train: Table,
    model: Vec<Entry>,
    #[serde(default)]
    table: Vec<Layout>,
}

fn one() -> u8 {
    1
}
fn yes() -> bool {
    true
}

/// One `[[model]]`.
#[derive(Deserialize)]
struct Entry {
    name: String,
    title: Option<String>,
    #[serde(flatten)]
    flags: Table,
}

/// What is to be done. Paths are relative to the working folder, no longer to the file.
pub struct Plan {
    pub path: PathBuf,
    pub title: String,
    pub manifest: PathBuf,
    /// Sets (the manifest's `dataset`) that no model is trained on: every fold's model is tested on them too.
    pub test_sets: Vec<String>,
    /// Number of folds; five, or those of the manifest's column, where it names none.
    pub folds: Option<u32>,
    /// Instead of folds: the part of the pictures that every model is tested on, and trained without.
    pub split: Option<f64>,
    pub fold_file: Option<PathBuf>,
    /// Rows are dealt one by one although the manifest has groups.
    pub ungrouped: bool,
    /// The folds are dealt although the manifest has a column of them.
    pub ignore_fold_column: bool,
    pub keep_models: bool,
    /// Pictures of each of the nine regions of the plane that the report shows with Grad-CAM.
    pub maps: u8,
    /// Output folders of `train-face`: their accuracies and confusion matrices go into the report.
    pub faces: Vec<PathBuf>,
    pub models: Vec<Model>,
    pub tables: Vec<Layout>,
}

/// One model of the study.
pub struct Model {
    pub name: String,
    /// What tables call it.
    pub title: String,
    /// Its settings as they were written, for people.
    pub settings: String,
    pub flags: Flags,
    /// Towers that begin with those of another model of the study, trained without the same fold: tower, model. In the file
    /// `weights.TOWER = "model:NAME"`.
    pub after: Vec<(String, String)>,
}

/// Flags whose value is a path, besides `weights`: in the file relative to it.
const PATHS: [&str; 2] = ["label-map", "cache"];

/// What stands before the name of a model that gives a tower.
const MODEL: &str = "model:";

/// The flags of `train` that make a model what it is.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub train: TrainFlags,
    #[command(flatten)]
    pub data: DataFlags,
}

impl Plan {
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::text(path, files::PAGE).map_err(|e| Error::io(path, "read the study", e))?;
        let file: File = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
            Error::file(path, e.message()).at(format!("line {line}")).fix("`deep-affect study init` writes an example")
        })?;
        let beside = |p: &Path| path.parent().unwrap_or(Path::new("")).join(p);
        let models = file.model.into_iter().map(|m| m.resolve(path, &file.train, &beside)).collect::<Result<_>>()?;
        let plan = Self {
            title: file.title.unwrap_or_else(|| "Valence and arousal".into()),
            manifest: beside(&file.manifest),
            test_sets: file.test_sets,
            folds: file.folds,
            split: file.split,
            fold_file: file.fold_file.as_deref().map(beside),
            ungrouped: file.ungrouped,
            ignore_fold_column: file.ignore_fold_column,
            keep_models: file.keep_models,
            maps: file.maps,
            faces: file.faces.iter().map(|f| beside(f)).collect(),
            models,
            tables: file.table,
            path: path.into(),
        };
        plan.check()?;
        Ok(plan)
    }

    /// Columns that every model predicts; none where classes are told apart.
    pub fn targets(&self) -> Vec<String> {
        self.models[0].flags.data.targets()
    }

    fn check(&self) -> Result<()> {
        let refuse = |place: String, what: String, fix: &str| Err(Error::file(&self.path, what).at(place).fix(fix));
        let Some(first) = self.models.first() else {
            return refuse("[[model]]".into(), "names no model".into(), "`deep-affect study init` writes an example");
        };
        if let Some(part) = self.split {
            if !(part > 0.0 && part < 1.0) {
                return refuse(
                    "split".into(),
                    format!("{part} is not a part between 0 and 1"),
                    "write for example 0.1",
                );
            }
            if self.folds.is_some() || self.fold_file.is_some() {
                return refuse(
                    "split".into(),
                    "stands beside folds".into(),
                    "leave out `split`, or `folds` and `fold-file`",
                );
            }
        }
        for (i, m) in self.models.iter().enumerate() {
            let place = format!("model `{}`", clean(&m.name));
            // It becomes the name of a folder.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
            if m.name.is_empty() || m.name.starts_with('.') || !m.name.chars().all(plain) {
                return refuse(place, "cannot be the name of a folder".into(), "use letters, digits, - and _");
            }
            if self.models[..i].iter().any(|o| o.name.eq_ignore_ascii_case(&m.name)) {
                return refuse(place, "comes twice".into(), "give every model a name of its own");
            }
            if m.flags.data.targets.is_some() && m.flags.data.label.is_some() {
                let fix = "leave out `targets` or `label`; `train` and `cross-validate` take both";
                return refuse(place, "predicts ratings and tells classes apart".into(), fix);
            }
            if m.flags.data.targets() != first.flags.data.targets() {
                return refuse(place, "predicts other targets than the first".into(), "set `targets` in [train]");
            }
            let told = |f: &Flags| (f.data.label.clone(), f.data.label_map.clone(), f.data.min_count);
            if told(&m.flags) != told(&first.flags) {
                return refuse(place, "tells other classes apart than the first".into(), "set `label` in [train]");
            }
            for (_, other) in &m.after {
                if !self.models[..i].iter().any(|o| o.name == *other) {
                    let what = format!("begins with a tower of `{}`, which is no model before it", clean(other));
                    return refuse(place, what, "put that model first");
                }
                if !self.keep_models {
                    return refuse(place, "begins with a model that is not kept".into(), "leave out `keep-models`");
                }
            }
            if m.flags.train.test > 0.0 {
                return refuse(place, "sets a test part apart".into(), "leave out `test`: the folds do that");
            }
        }
        for (i, t) in self.tables.iter().enumerate() {
            let place = format!("table {}", i + 1);
            let known = |name: &&String| !self.models.iter().any(|m| m.name == **name);
            if let Some(name) = t.models().find(known) {
                return refuse(place, format!("there is no model `{}`", clean(name)), "use the names of the models");
            }
            if t.models().next().is_none() {
                return refuse(place, "is of no models".into(), "give it `models` or `pairs`");
            }
            if first.flags.data.label.is_some() && (t.models.is_empty() || t.by != By::Sets) {
                return refuse(place, "is of ratings".into(), "of classes there are tables of `models` by sets");
            }
        }
        Ok(())
    }
}

fn clean(text: &str) -> String {
    crate::cli::output::clean(text)
}

impl Entry {
    /// The model, by its own settings over those of all.
    fn resolve(self, path: &Path, all: &Table, beside: &dyn Fn(&Path) -> PathBuf) -> Result<Model> {
        let refuse = |what: String| Error::file(path, what).at(format!("model `{}`", clean(&self.name)));
        let mut settings = all.clone();
        for (key, value) in &self.flags {
            match (settings.get_mut(key), value) {
                // `weights.face = …` of a model leaves those of its other towers.
                (Some(Value::Table(old)), Value::Table(new)) => old.extend(new.clone()),
                _ => drop(settings.insert(key.clone(), value.clone())),
            }
        }
        // What is said of towers that a model does not have may stand in [train] for those that do.
        // A model of one network has no other towers, whatever the others have.
        if self.flags.contains_key("network") && !self.flags.contains_key("features") {
            settings.remove("features");
        }
        if self.flags.contains_key("features") && !self.flags.contains_key("network") {
            settings.remove("network");
        }
        let network = settings.get("network").map(|n| vec![n.clone()]);
        if let Some(features) = network.or_else(|| settings.get("features").and_then(Value::as_array).cloned()) {
            let has =
                |tower: &str| features.iter().any(|f| f.as_str().and_then(|f| f.split(':').next()) == Some(tower));
            for key in ["weights", "tower-image", "tower-keep", "scale"] {
                let own = |tower: &str| self.flags.get(key)?.get(tower);
                if let Some(Value::Table(towers)) = settings.get_mut(key) {
                    towers.retain(|tower, _| has(tower) || own(tower).is_some());
                }
            }
        }
        // As they were written, and with paths that hold from here.
        let (mut written, mut words, mut after) = (vec![], vec![], vec![]);
        let from_here = |text: &str| beside(Path::new(text)).display().to_string();
        for (key, value) in &settings {
            let no = |what: &str, value: &Value| refuse(format!("`{what}` cannot have the value {value:?}"));
            let mut flag = |text: String, meant: Option<String>| {
                written.push(format!("--{key}={text}"));
                words.extend(meant.map(|meant| format!("--{key}={meant}")));
            };
            match value {
                Value::Boolean(false) => {}
                Value::Boolean(true) => {
                    written.push(format!("--{key}"));
                    words.push(format!("--{key}"));
                }
                Value::Table(list) => {
                    for (sub, value) in list {
                        let text = scalar(value).ok_or_else(|| no(&format!("{key}.{sub}"), value))?;
                        if let Some(other) = text.strip_prefix(MODEL).filter(|_| key == "weights") {
                            flag(format!("{sub}={text}"), None);
                            after.push((sub.clone(), other.to_string()));
                            continue;
                        }
                        let file = key == "weights" && text != BUNDLED;
                        let meant = if file { from_here(&text) } else { text.clone() };
                        flag(format!("{sub}={text}"), Some(format!("{sub}={meant}")));
                    }
                }
                Value::Array(list) => {
                    for value in list {
                        let text = scalar(value).ok_or_else(|| no(key, value))?;
                        flag(text.clone(), Some(text));
                    }
                }
                value => {
                    let text = scalar(value).ok_or_else(|| no(key, value))?;
                    let meant = if PATHS.contains(&key.as_str()) { from_here(&text) } else { text.clone() };
                    flag(text, Some(meant));
                }
            }
        }
        let command = Flags::augment_args(clap::Command::new("study").no_binary_name(true).disable_help_flag(true));
        let flags = command.try_get_matches_from(&words).and_then(|m| Flags::from_arg_matches(&m)).map_err(|e| {
            let text = e.to_string();
            let line = text.lines().next().unwrap_or_default();
            refuse(clean(line.strip_prefix("error: ").unwrap_or(line)))
                .fix("settings are the flags of `deep-affect train`")
        })?;
        let title = self.title.unwrap_or_else(|| self.name.clone());
        Ok(Model { title, name: self.name, settings: clean(&written.join(" ")), flags, after })
    }
}

/// What stands behind a flag's `=`.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Integer(i) => Some(i.to_string()),
        Value::Float(f) => Some(f.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Standardize;

    fn read(text: &str) -> Result<Plan> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("study.toml"), text).unwrap();
        Plan::read(&dir.path().join("study.toml"))
    }

    #[test]
    fn the_example_is_the_papers_grid() {
        let plan = read(super::super::init::EXAMPLE).unwrap();
        assert_eq!((plan.models.len(), plan.folds, plan.tables.len()), (8, Some(5), 5));
        let find = |name: &str| &plan.models.iter().find(|m| m.name == name).unwrap().flags;
        let split = find("split-9");
        assert_eq!(split.model.face_classes, 9);
        assert!(split.model.weights.iter().any(|w| w.starts_with("face=") && w.ends_with("face9.safetensors")));
        assert_eq!(split.model.weights.len(), 3);
        assert_eq!(find("object").model.weights.len(), 1);
        assert_eq!((find("object").train.lr, find("object").train.batch), (4e-4, 25));
        assert_eq!(plan.tables.iter().flat_map(Layout::models).count(), 2 + 2 + 8 + 5 + 8);
    }

    #[test]
    fn the_small_example_needs_no_file_but_the_manifest() {
        let plan = read(super::super::init::SMALL).unwrap();
        assert_eq!((plan.models.len(), plan.folds, plan.tables.len()), (3, Some(5), 2));
        for m in &plan.models {
            let f = &m.flags;
            assert_eq!(
                (&f.model.weights[..], &f.model.freeze[..]),
                (&["object=bundled-tower".into()][..], &["all".into()][..])
            );
            assert_eq!((f.train.lr, f.train.val, f.train.epochs), (1e-3, 0.0, 60), "{}", m.name);
        }
    }

    #[test]
    fn nogueras_example_is_the_thesis() {
        let plan = read(super::super::init::NOGUERA).unwrap();
        assert_eq!((plan.models.len(), plan.split, plan.tables.len()), (5, Some(0.1), 3));
        let find = |name: &str| &plan.models.iter().find(|m| m.name == name).unwrap().flags;
        for (name, side, width, output) in [
            ("emosepar", 150, 512, "penultimate"),
            ("vgg16", 150, 512, "pooled"),
            ("inception-v3", 150, 2048, "pooled"),
            ("xception", 150, 2048, "penultimate"),
        ] {
            let f = find(name);
            let (config, _, frozen) = f.model.model(&f.data.targets(), 1).unwrap();
            assert_eq!((config.image, config.features(), config.towers[0].preprocess.name()), (side, width, "noguera"));
            assert_eq!(
                (config.output(&config.towers[0]).to_string().as_str(), config.head.len()),
                (output, 0),
                "{name}"
            );
            assert!(frozen.is_empty() && config.standardize == Standardize::No && f.train.nesterov, "{name}");
            assert_eq!((f.train.lr, f.train.batch, f.train.val), (1e-5, 64, 0.25));
        }
        assert!(find("emosepar-augmented").train.augment.is_some());
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("study.toml");
        let file = "manifest = 'set.csv'\n[train]\nlabel = 'mood'\nlabel-map = 'map.csv'\ncache = '/cache'\n\
                    [[model]]\nname = 'a'\nweights.object = 'vgg16.safetensors'\n";
        std::fs::write(&path, file).unwrap();
        let plan = Plan::read(&path).unwrap();
        let Flags { model, data, .. } = &plan.models[0].flags;
        assert_eq!(plan.manifest, dir.path().join("set.csv"));
        assert_eq!(data.label_map, Some(dir.path().join("map.csv")));
        assert_eq!(data.cache.as_deref(), Some(Path::new("/cache")));
        assert_eq!(model.weights, [format!("object={}", dir.path().join("vgg16.safetensors").display())]);
    }

    #[test]
    fn rapolus_example_joins_what_it_fine_tunes() {
        let plan = read(super::super::init::RAPOLU).unwrap();
        assert_eq!((plan.models.len(), plan.split, plan.test_sets.len()), (11, Some(0.15), 3));
        assert!(plan.targets().is_empty());
        let find = |name: &str| plan.models.iter().find(|m| m.name == name).unwrap();
        let alone = find("densenet201");
        assert!(alone.after.is_empty() && alone.flags.model.weights.len() == 1);
        let (joined, f) = (find("alpha-0.25"), &find("alpha-0.25").flags);
        assert_eq!(joined.after.len(), 2);
        assert!(f.model.weights.len() == 1 && f.model.weights[0].starts_with("objects="), "{:?}", f.model.weights);
        assert_eq!((f.model.scale.len(), f.train.batch, f.train.momentum), (3, 64, 0.0));
        assert!(find("beta-0.75").settings.contains("--scale=objects=0.75"), "{}", find("beta-0.75").settings);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "manifest = 'm.csv'\n";
        for (text, problem) in [
            ("model = []\n".to_string(), "missing field `manifest`"),
            (format!("{head}model = []\n"), "names no model"),
            (format!("{head}colour = 1\nmodel = []\n"), "line 2: unknown field `colour`"),
            (format!("{head}[[model]]\nname = 'a/b'\n"), "model `a/b`: cannot be the name of a folder"),
            (format!("{head}[[model]]\nname = 'a'\n[[model]]\nname = 'A'\n"), "model `A`: comes twice"),
            (format!("{head}[[model]]\nname = 'a'\nepoch = 3\n"), "model `a`: unexpected argument '--epoch' found"),
            (format!("{head}[[model]]\nname = 'a'\nepochs = 'x'\n"), "invalid value 'x' for '--epochs <N>'"),
            (format!("{head}[[model]]\nname = 'a'\ntest = 0.5\n"), "sets a test part apart"),
            (format!("{head}split = 1.0\n[[model]]\nname = 'a'\n"), "split: 1 is not a part between 0 and 1"),
            (format!("{head}split = 0.1\nfolds = 3\n[[model]]\nname = 'a'\n"), "split: stands beside folds"),
            (
                format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\n[[model]]\nname = 'b'\n"),
                "model `b`: tells other classes apart",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\n[[table]]\npairs = [['a', 'a']]\n"),
                "table 1: is of ratings",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\nweights.object = 'model:b'\n[[model]]\nname = 'b'\n"),
                "model `a`: begins with a tower of `b`, which is no model before it",
            ),
            (format!("{head}[[model]]\nname = 'a'\nnetwork = 'vgg99'\n"), "there is no network `vgg99`"),
            (format!("{head}[[model]]\nname = 'a'\n[[table]]\nmodels = ['b']\n"), "table 1: there is no model `b`"),
            (format!("{head}[[model]]\nname = 'a'\n[[table]]\ntitle = 'b'\n"), "table 1: is of no models"),
        ] {
            let e = read(&text).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains(problem) && e.lines().count() == 1, "{e}");
        }
    }
}
