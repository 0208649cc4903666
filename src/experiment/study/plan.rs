/*! `study.toml`: which models are trained on which folds, and which tables are made of them. A model is a configuration of
[`crate::experiment::config`], by its own settings over those of all. */

use super::norms::Norms;
use crate::error::{Error, Result, line};
use crate::experiment::config::{self, BUNDLED, Run};
use crate::experiment::written::{Written, fields};
use crate::files;
use crate::report::study::{By, Layout};
use crate::solve::model::Method;
use crate::solve::svm;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

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
    stratify: bool,
    #[serde(default)]
    ignore_fold_column: bool,
    #[serde(default = "yes")]
    keep_models: bool,
    #[serde(default = "one")]
    maps: u8,
    #[serde(default)]
    faces: Vec<PathBuf>,
    norms: Option<Norms>,
    #[serde(default)]
    table: Vec<Layout>,
}

fn one() -> u8 {
    1
}
fn yes() -> bool {
    true
}

/// What a `[[model]]` has beside settings.
#[derive(Deserialize)]
struct Names {
    name: String,
    title: Option<String>,
}

/// Settings of a solver, as of `fit`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Solving {
    solver: Option<Solver>,
    c: Option<f64>,
    alpha: Option<f64>,
    epsilon: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Solver {
    Linear,
    Ridge,
    Svr,
    Svc,
}

impl Solving {
    /// None where a head is trained.
    ///
    /// # Errors
    /// Settings that no model has, or that its solver does not take.
    fn method(&self) -> Result<Option<Method>> {
        let takes: &[&str] = match self.solver {
            None | Some(Solver::Linear) => &[],
            Some(Solver::Ridge) => &["alpha"],
            Some(Solver::Svr) => &["c", "epsilon"],
            Some(Solver::Svc) => &["c"],
        };
        let given = [("c", self.c), ("alpha", self.alpha), ("epsilon", self.epsilon)];
        if let Some((name, _)) = given.iter().find(|(name, v)| v.is_some() && !takes.contains(name)) {
            return Err(Error::usage(format!("`{name}` is of another solver")).fix("leave it out"));
        }
        let epsilon = self.epsilon.unwrap_or(svm::EPSILON);
        if !(0.0..=8.0).contains(&epsilon) {
            return Err(Error::usage(format!("epsilon {epsilon} is not a number from 0 to 8")));
        }
        let c = vec![self.c.unwrap_or(1.0)];
        let method = self.solver.map(|solver| match solver {
            Solver::Linear => Method::Linear,
            Solver::Ridge => Method::Ridge { alpha: self.alpha.into_iter().collect() },
            Solver::Svr => Method::Svr { c, epsilon },
            Solver::Svc => Method::Svc { c },
        });
        method.as_ref().map_or(Ok(()), Method::check)?;
        Ok(method)
    }
}

/// What is to be done. Paths are relative to the working folder, no longer to the file.
#[derive(Clone, Debug)]
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
    /// Every set (the manifest's `dataset`) is dealt evenly over the folds.
    pub stratify: bool,
    /// The folds are dealt although the manifest has a column of them.
    pub ignore_fold_column: bool,
    pub keep_models: bool,
    /// Pictures of each of the nine regions of the plane that the report shows with Grad-CAM.
    pub maps: u8,
    /// Output folders of `train-face`: their accuracies and confusion matrices go into the report.
    pub faces: Vec<PathBuf>,
    /// Ratings of words to hold the pictures' against.
    pub norms: Option<Norms>,
    pub models: Vec<Model>,
    pub tables: Vec<Layout>,
}

/// One model of the study.
#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
    /// What tables call it.
    pub title: String,
    /// Its settings as they were written, for people.
    pub settings: String,
    pub run: Run,
    /// What is solved for on features that do not change, in place of a head that is trained.
    pub method: Option<Method>,
    /// Towers that begin with those of another model of the study, trained without the same fold: tower, model. In the file
    /// `weights.TOWER = "model:NAME"`.
    pub after: Vec<(String, String)>,
}

/// What stands before the name of a model that gives a tower.
const MODEL: &str = "model:";

/// What names the column of classes, and what is said of them.
const LABEL: &str = "label";
const OF_LABEL: [&str; 3] = ["label-map", "min-count", "balance"];

/// Settings that exclude each other.
const EITHER: [[&str; 2]; 2] = [["network", "features"], ["decay", "plateau"]];

impl Plan {
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::text(path, files::PAGE).map_err(|e| Error::io(path, "read the study", e))?;
        let written = Written { path, text: &text, within: None };
        let mut root = written.parse()?;
        let (train, models) = (root.remove("train"), root.remove("model"));
        let names: Vec<&str> = fields::<File>().iter().copied().chain(["train", "model"]).collect();
        written.known(&root, &names)?;
        let file: File = written.read(root)?;
        let all = train.map_or(Ok(DeTable::new()), |train| written.table(train))?;
        let models: Vec<Spanned<DeValue>> = match models.map(|m| (m.span(), m.into_inner())) {
            Some((_, DeValue::Array(list))) => list.into_iter().collect(),
            Some((at, other)) => vec![Spanned::new(at, other)],
            None => vec![],
        };
        // What is said of classes may stand in [train] for the models that tell some apart.
        let own = |m: &Spanned<DeValue>| m.get_ref().as_table().is_some_and(|t| t.contains_key(LABEL));
        let (all_told, some_told) = (all.contains_key(LABEL), models.iter().any(own));
        let without: DeTable = match all_told || !some_told {
            true => all.clone(),
            false => all.clone().into_iter().filter(|(key, _)| !OF_LABEL.contains(&&**key.get_ref())).collect(),
        };
        let beside = |p: &Path| path.parent().unwrap_or(Path::new("")).join(p);
        let read = |m: Spanned<DeValue>| {
            let all = if own(&m) { &all } else { &without };
            Model::read(&written, written.table(m)?, all, &beside)
        };
        let models = models.into_iter().map(read).collect::<Result<_>>()?;
        let plan = Self {
            title: file.title.unwrap_or_else(|| "Valence and arousal".into()),
            manifest: beside(&file.manifest),
            test_sets: file.test_sets,
            folds: file.folds,
            split: file.split,
            fold_file: file.fold_file.as_deref().map(beside),
            ungrouped: file.ungrouped,
            stratify: file.stratify,
            ignore_fold_column: file.ignore_fold_column,
            keep_models: file.keep_models,
            maps: file.maps,
            faces: file.faces.iter().map(|f| beside(f)).collect(),
            norms: file.norms.map(|n| Norms { file: beside(&n.file), ..n }),
            models,
            tables: file.table,
            path: path.into(),
        };
        plan.check()?;
        Ok(plan)
    }

    /// Columns that models predict, all of them; none where classes are told apart only.
    pub fn targets(&self) -> Vec<String> {
        let mut all: Vec<String> = vec![];
        for target in self.models.iter().flat_map(Model::targets) {
            if !all.contains(&target) {
                all.push(target);
            }
        }
        all
    }

    /// How classes are found, if a model tells any apart.
    pub fn labelled(&self) -> Option<&config::Data> {
        self.models.iter().map(|m| &m.run.data).find(|d| d.label.is_some())
    }

    /// Whether models learn different things: a picture that lacks a value which one of them needs takes no part then.
    pub fn mixed(&self) -> bool {
        let learned = |m: &Model| (m.targets(), m.run.data.label.is_some());
        self.models.iter().any(|m| learned(m) != learned(&self.models[0]))
    }

    fn check(&self) -> Result<()> {
        let refuse = |place: String, what: String, fix: &str| Err(Error::file(&self.path, what).at(place).fix(fix));
        if self.models.is_empty() {
            return refuse("[[model]]".into(), "names no model".into(), "`deep-affect study init` writes an example");
        }
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
            if self.stratify {
                return refuse("stratify".into(), "is for folds, not for `split`".into(), "leave out one of them");
            }
        }
        for (i, m) in self.models.iter().enumerate() {
            let place = format!("model `{}`", line(&m.name));
            // It becomes the name of a folder.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
            if m.name.is_empty() || m.name.starts_with('.') || !m.name.chars().all(plain) {
                return refuse(place, "cannot be the name of a folder".into(), "use letters, digits, - and _");
            }
            if self.models[..i].iter().any(|o| o.name.eq_ignore_ascii_case(&m.name)) {
                return refuse(place, "comes twice".into(), "give every model a name of its own");
            }
            let told = |d: &config::Data| (d.label.clone(), d.label_map.clone(), d.min_count);
            let labelled = m.run.data.label.is_some();
            if labelled && self.labelled().is_some_and(|first| told(first) != told(&m.run.data)) {
                let fix = "give all that tell classes apart one `label`, `label-map` and `min-count`";
                return refuse(place, "tells other classes apart than another model".into(), fix);
            }
            if self.mixed() && !labelled && m.run.data.targets.is_none() {
                let what = "says neither `targets` nor `label`, and other models learn something else";
                return refuse(place, what.into(), "name what it learns");
            }
            for (_, other) in &m.after {
                if !self.models[..i].iter().any(|o| o.name == *other) {
                    let what = format!("begins with a tower of `{}`, which is no model before it", line(other));
                    return refuse(place, what, "put that model first");
                }
                if !self.keep_models {
                    return refuse(place, "begins with a model that is not kept".into(), "leave out `keep-models`");
                }
            }
            if let Some(method) = &m.method {
                if labelled && !m.targets().is_empty() {
                    let fix = "leave out `targets` or `label`, or train a head";
                    return refuse(place, "has a solver, and learns both ratings and classes".into(), fix);
                }
                if matches!(method, Method::Svc { .. }) != labelled {
                    let what = "has a solver of the other kind: svc tells classes apart, the others rate";
                    return refuse(place, what.into(), "choose another `solver`");
                }
                let model = &m.run.model;
                let tables = !model.table.is_empty() && model.features == [config::NONE];
                if !(tables || model.freeze == ["all"]) || !m.after.is_empty() {
                    let what = "has a solver for features that change";
                    return refuse(place, what.into(), "give it a `table`, or towers and `freeze = \"all\"`");
                }
            }
            if m.run.train.test > 0.0 {
                return refuse(place, "sets a test part apart".into(), "leave out `test`: the folds do that");
            }
        }
        for (i, t) in self.tables.iter().enumerate() {
            let place = format!("table {}", i + 1);
            let known = |name: &&String| !self.models.iter().any(|m| m.name == **name);
            if let Some(name) = t.models().find(known) {
                return refuse(place, format!("there is no model `{}`", line(name)), "use the names of the models");
            }
            if t.models().next().is_none() {
                return refuse(place, "is of no models".into(), "give it `models` or `pairs`");
            }
            let of: Vec<&Model> = t.models().filter_map(|n| self.models.iter().find(|m| m.name == *n)).collect();
            let tell = of.iter().all(|m| m.run.data.label.is_some());
            let without = of.iter().find(|m| m.targets().is_empty());
            let any = !t.pairs.is_empty() || t.by == By::Goals || t.by == By::Sets && tell;
            if let (Some(m), false) = (without, any) {
                let what = format!("is of ratings, and `{}` predicts none", m.name);
                return refuse(place, what, "of classes there are tables of `models` by sets, and by goals");
            }
            let apart = |[a, b]: &&[String; 2]| {
                // Models of one study that tell classes apart tell the same ones.
                let learned = |n: &String| {
                    let m = of.iter().find(|m| m.name == *n).expect("all are known");
                    (m.targets(), m.run.data.label.is_some())
                };
                let (a, b) = (learned(a), learned(b));
                !(a.0.iter().any(|t| b.0.contains(t)) || a.1 && b.1)
            };
            if let Some([a, b]) = t.pairs.iter().find(apart) {
                let what = format!("`{}` and `{}` learn nothing that is the same", line(a), line(b));
                return refuse(place, what, "compare models that do, or all of them by goals");
            }
        }
        Ok(())
    }
}

impl Model {
    /// The ratings that it predicts.
    pub fn targets(&self) -> Vec<String> {
        self.run.data.targets()
    }

    /// The model, by its own settings over those of all.
    fn read<'a>(
        file: &Written<'a>,
        mut own: DeTable<'a>,
        all: &DeTable<'a>,
        beside: &dyn Fn(&Path) -> PathBuf,
    ) -> Result<Self> {
        let Names { name, title } = file.part(&mut own)?;
        let file = Written { within: Some(format!("model `{}`", line(&name))), ..*file };
        let mut settings = merged(all, &own);
        let known: Vec<&str> =
            [fields::<config::Model>(), fields::<config::Training>(), fields::<config::Data>(), fields::<Solving>()]
                .concat();
        file.known(&settings, &known)?;
        // A table alone is a model.
        if settings.contains_key("table") && !["features", "network"].iter().any(|k| settings.contains_key(*k)) {
            settings.insert(
                Spanned::new(0..0, "features".into()),
                Spanned::new(0..0, DeValue::String(config::NONE.into())),
            );
        }
        let span = |settings: &DeTable, key: &str| settings.get(key).map(Spanned::span);
        for [one, other] in EITHER {
            if let (Some(at), true) = (span(&settings, one), settings.contains_key(other)) {
                return Err(file
                    .wrong(Some(at), format!("`{one}` stands beside `{other}`"))
                    .fix("leave out one of them; it may stand in [train]"));
            }
        }
        let written = settings.clone();
        let method = file.part::<Solving>(&mut settings)?.method().map_err(|e| file.wrong(None, e.to_string()))?;
        let mut run = Run {
            model: file.part(&mut settings)?,
            train: file.part(&mut settings)?,
            data: file.part(&mut settings)?,
            ..Run::default()
        };
        let place = |e: Error| {
            let at = e.about().and_then(|key| span(&written, key));
            file.wrong(at, e.to_string())
        };
        run.train.settings().map_err(place)?;
        run.model.check().map_err(place)?;
        run.check().map_err(place)?;
        // Paths hold from here.
        let mut after = vec![];
        for (tower, path) in &mut run.model.weights {
            match path.strip_prefix(MODEL) {
                Some(other) => after.push((tower.clone(), other.to_string())),
                None if path == BUNDLED => {}
                None => *path = beside(Path::new(path)).display().to_string(),
            }
        }
        run.model.weights.retain(|tower, _| !after.iter().any(|(of, _)| of == tower));
        for table in &mut run.model.table {
            let (name, file) = table.split_once('=').map_or(("", &**table), |(name, file)| (name, file));
            let file = beside(Path::new(file)).display().to_string();
            *table = if name.is_empty() { file } else { format!("{name}={file}") };
        }
        for path in [&mut run.data.label_map, &mut run.data.cache].into_iter().flatten() {
            *path = beside(path);
        }
        Ok(Self {
            title: title.unwrap_or_else(|| name.clone()),
            name,
            settings: line(&in_words(written)?),
            run,
            method,
            after,
        })
    }
}

/// A model's own settings over those of all.
fn merged<'a>(all: &DeTable<'a>, own: &DeTable<'a>) -> DeTable<'a> {
    let mut settings = all.clone();
    for (key, value) in own.clone() {
        match (settings.remove(key.get_ref().as_ref()).map(Spanned::into_inner), value.get_ref()) {
            // `weights.face = …` of a model leaves those of its other towers.
            (Some(DeValue::Table(mut both)), DeValue::Table(new)) => {
                both.extend(new.clone());
                settings.insert(key, Spanned::new(value.span(), DeValue::Table(both)));
            }
            _ => drop(settings.insert(key, value)),
        }
    }
    // An empty list says nothing.
    let said = |value: &DeValue| !matches!(value, DeValue::Array(list) if list.is_empty());
    let mut settings: DeTable = settings.into_iter().filter(|(_, value)| said(value.get_ref())).collect();
    // What is said of towers that a model does not have may stand in [train] for those that do.
    // A model of one network has no other towers, whatever the others have.
    if own.contains_key("network") && !own.contains_key("features") {
        settings.remove("features");
    }
    if own.contains_key("features") && !own.contains_key("network") {
        settings.remove("network");
    }
    let names = |value: &DeValue| match value {
        DeValue::Array(list) => list.iter().filter_map(|v| v.get_ref().as_str().map(String::from)).collect(),
        value => value.as_str().map(String::from).into_iter().collect::<Vec<_>>(),
    };
    let towers = ["network", "features"].into_iter().find_map(|key| settings.get(key)).map(|v| names(v.get_ref()));
    if let Some(features) = towers.filter(|t| !t.is_empty()) {
        let has = |tower: &str| features.iter().flat_map(|f| f.split(',')).any(|f| f.split(':').next() == Some(tower));
        for key in ["weights", "tower-image", "tower-keep", "scale"] {
            let said = |tower: &str| matches!(own.get(key).map(Spanned::get_ref), Some(DeValue::Table(t)) if t.contains_key(tower));
            if let Some(DeValue::Table(towers)) = settings.get_mut(key).map(Spanned::get_mut) {
                let all = std::mem::take(towers).into_iter();
                *towers = all.filter(|(tower, _)| has(tower.get_ref()) || said(tower.get_ref())).collect();
            }
        }
    }
    settings
}

/// Settings as a command line would have them, for people.
fn in_words(settings: DeTable) -> Result<String> {
    let value = Spanned::new(0..0, DeValue::Table(settings));
    let settings = toml::Table::deserialize(ValueDeserializer::from(value)).map_err(|e| Error::job(e.message()))?;
    let mut words = vec![];
    for (key, value) in settings {
        match value {
            Value::Boolean(false) => {}
            Value::Boolean(true) => words.push(format!("--{key}")),
            Value::Table(list) => {
                words.extend(list.iter().filter_map(|(of, v)| Some(format!("--{key}={of}={}", scalar(v)?))));
            }
            Value::Array(list) => words.extend(list.iter().filter_map(|v| Some(format!("--{key}={}", scalar(v)?)))),
            value => words.extend(scalar(&value).map(|text| format!("--{key}={text}"))),
        }
    }
    Ok(words.join(" "))
}

/// What stands behind an `=`.
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
    use crate::models::{Architecture, Standardize};

    fn read(text: &str) -> Result<Plan> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("study.toml"), text).unwrap();
        Plan::read(&dir.path().join("study.toml"))
    }

    #[test]
    fn the_example_is_the_papers_grid() {
        let plan = read(super::super::PARRY).unwrap();
        assert_eq!((plan.models.len(), plan.folds, plan.tables.len()), (8, Some(5), 5));
        let find = |name: &str| &plan.models.iter().find(|m| m.name == name).unwrap().run;
        let split = find("split-9");
        assert_eq!(split.model.face_classes, 9);
        assert!(split.model.weights["face"].ends_with("face9.safetensors"));
        assert_eq!(split.model.weights.len(), 3);
        assert_eq!(find("object").model.weights.len(), 1);
        assert_eq!((find("object").train.lr, find("object").train.batch), (4e-4, 25));
        assert_eq!(plan.tables.iter().flat_map(Layout::models).count(), 2 + 2 + 8 + 5 + 8);
    }

    #[test]
    fn the_small_example_needs_no_file_but_the_manifest() {
        let plan = read(super::super::SMALL).unwrap();
        assert_eq!((plan.models.len(), plan.folds, plan.tables.len()), (3, Some(5), 2));
        for m in &plan.models {
            let f = &m.run;
            assert_eq!((&*f.model.weights["object"], &f.model.freeze[..]), (BUNDLED, &["all".into()][..]));
            assert_eq!((f.train.lr, f.train.val, f.train.epochs), (1e-3, 0.0, 60), "{}", m.name);
        }
    }

    #[test]
    fn nogueras_example_is_the_thesis() {
        let plan = read(super::super::NOGUERA).unwrap();
        assert_eq!((plan.models.len(), plan.split, plan.tables.len()), (5, Some(0.1), 3));
        let find = |name: &str| &plan.models.iter().find(|m| m.name == name).unwrap().run;
        for (name, side, width, output) in [
            ("emosepar", 150, 512, "penultimate"),
            ("vgg16", 150, 512, "pooled"),
            ("inception-v3", 150, 2048, "pooled"),
            ("xception", 150, 2048, "penultimate"),
        ] {
            let f = find(name);
            let config::Built { config, frozen, .. } = f.model.build(&f.data.targets(), 1).unwrap();
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
    fn kims_example_is_the_paper() {
        let plan = read(super::super::KIM).unwrap();
        assert_eq!((plan.models.len(), plan.folds, plan.tables.len()), (14, Some(5), 4));
        let model = |name: &str| plan.models.iter().find(|m| m.name == name).unwrap();
        let find = |name: &str| &model(name).run;
        let all = find("all-vgg16");
        assert_eq!((all.model.table.len(), all.model.architecture), (3, Architecture::Split));
        assert_eq!((&all.model.features[..], all.train.batch, all.train.lr), (&["none".into()][..], 1000, 1e-4));
        assert_eq!(all.model.head().unwrap().1, [3000, 1000, 500]);
        assert!(all.model.table[0].starts_with("low=") && all.model.table[0].ends_with("low.safetensors"));
        assert_eq!(find("low").model.head().unwrap().1, [900, 300, 150]);
        let (frozen, trained) = (find("alexnet-frozen"), find("alexnet-trained"));
        assert!(frozen.model.table.is_empty() && !frozen.model.freeze.is_empty() && trained.model.freeze.is_empty());
        assert_eq!((frozen.train.lr, frozen.train.batch), (5e-5, 50));
        assert!(matches!(model("svr").method, Some(Method::Svr { epsilon: 0.1, .. })));
        assert_eq!((&model("linear").method, &model("low").method), (&Some(Method::Linear), &None));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("study.toml");
        let file = "manifest = 'set.csv'\n[train]\nlabel = 'mood'\nlabel-map = 'map.csv'\ncache = '/cache'\n\
                    [[model]]\nname = 'a'\nweights.object = 'vgg16.safetensors'\n";
        std::fs::write(&path, file).unwrap();
        let plan = Plan::read(&path).unwrap();
        let Run { model, data, .. } = &plan.models[0].run;
        assert_eq!(plan.manifest, dir.path().join("set.csv"));
        assert_eq!(data.label_map, Some(dir.path().join("map.csv")));
        assert_eq!(data.cache.as_deref(), Some(Path::new("/cache")));
        assert_eq!(model.weights["object"], dir.path().join("vgg16.safetensors").display().to_string());
    }

    #[test]
    fn rapolus_example_joins_what_it_fine_tunes() {
        let plan = read(super::super::RAPOLU).unwrap();
        assert_eq!((plan.models.len(), plan.split, plan.test_sets.len()), (11, Some(0.15), 3));
        assert!(plan.targets().is_empty());
        let find = |name: &str| plan.models.iter().find(|m| m.name == name).unwrap();
        let alone = find("densenet201");
        assert!(alone.after.is_empty() && alone.run.model.weights.len() == 1);
        let (joined, f) = (find("alpha-0.25"), &find("alpha-0.25").run);
        assert_eq!(joined.after.len(), 2);
        assert!(f.model.weights.keys().eq(["objects"]), "{:?}", f.model.weights);
        assert_eq!((f.model.scale.len(), f.train.batch, f.train.momentum), (3, 64, 0.0));
        assert!(find("beta-0.75").settings.contains("--scale=objects=0.75"), "{}", find("beta-0.75").settings);
    }

    #[test]
    fn cybulskis_example_trains_every_trunk_three_times() {
        let plan = read(super::super::CYBULSKI).unwrap();
        assert_eq!((plan.models.len(), plan.folds, plan.tables.len()), (13, Some(5), 3));
        assert!(plan.mixed() && plan.labelled().is_some());
        assert_eq!(plan.targets(), ["valence", "arousal", "dominance"]);
        for trunk in ["alexnet", "vgg16", "resnet50", "inception-v3"] {
            let of = |goal: &str| plan.models.iter().find(|m| m.name == format!("{trunk}-{goal}")).unwrap();
            let [category, va, vad] = ["category", "va", "vad"].map(of);
            assert_eq!((category.targets().len(), category.run.data.label.as_deref()), (0, Some("category")));
            assert_eq!((va.targets().len(), &va.run.data.label), (2, &None));
            assert_eq!((vad.targets().len(), &vad.run.data.label), (3, &None));
            // But for what they learn they are alike.
            assert!(category.run.model == va.run.model && va.run.model == vad.run.model);
            assert!(category.run.train == va.run.train && va.run.train == vad.run.train);
        }
        let together = plan.models.last().unwrap();
        assert_eq!((together.targets().len(), together.run.data.label.as_deref()), (3, Some("category")));
    }

    /// What [train] says of classes is for the models that tell some apart.
    #[test]
    fn settings_of_classes_may_stand_for_some_models() {
        let models = "[[model]]\nname = 'a'\nlabel = 'x'\n[[model]]\nname = 'b'\ntargets = 'y'\n";
        let plan =
            read(&format!("manifest = 'm.csv'\n[train]\nlabel-map = 'map.csv'\nbalance = true\n{models}")).unwrap();
        let of = |i: usize| &plan.models[i].run.data;
        assert!(of(0).label_map.is_some() && of(0).balance && of(1).label_map.is_none() && !of(1).balance);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "manifest = 'm.csv'\n";
        let both = format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\n[[model]]\nname = 'b'\ntargets = 'y'\n");
        for (text, problem) in [
            ("model = []\n".to_string(), "missing field `manifest`"),
            (format!("{head}model = []\n"), "names no model"),
            (format!("{head}colour = 1\nmodel = []\n"), "line 2: unknown setting `colour`; there are title"),
            (format!("{head}[[model]]\nname = 'a/b'\n"), "model `a/b`: cannot be the name of a folder"),
            (format!("{head}[[model]]\nname = 'a'\n[[model]]\nname = 'A'\n"), "model `A`: comes twice"),
            (
                format!("{head}[[model]]\nname = 'a'\nepoch = 3\n"),
                "line 4, model `a`: unknown setting `epoch`; did you mean `epochs`?",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\nepochs = 'x'\n"),
                "line 4, model `a`: invalid type: string \"x\", expected u32",
            ),
            (format!("{head}[[model]]\nname = 'a'\ntest = 0.5\n"), "sets a test part apart"),
            (format!("{head}[[model]]\nname = 'a'\nsolver = 'svr'\n"), "has a solver for features that change"),
            (format!("{head}[[model]]\nname = 'a'\ntable = 't'\nsolver = 'svc'\n"), "svc tells classes apart"),
            (format!("{head}[[model]]\nname = 'a'\ntable = 't'\nsolver = 'svr'\nc = 0\n"), "must be above 0"),
            (
                format!("{head}[[model]]\nname = 'a'\ntable = 't'\nsolver = 'linear'\nc = 1\n"),
                "`c` is of another solver",
            ),
            (
                format!("{head}[train]\nlr = -1\n[[model]]\nname = 'a'\n"),
                "line 3, model `a`: lr -1 is not a number above 0",
            ),
            (
                format!("{head}[train]\nweights.object = ''\n[[model]]\nname = 'a'\ntower-image.object = 'x'\n"),
                "line 6, model `a`: `object=x`: write TOWER=PIXELS",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\ntargets = 'y'\narchitecture = 'split'\n"),
                "model `a`: architecture split: ratings and classes share one network",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\ntable = 't'\nsolver = 'svc'\nlabel = 'x'\ntargets = 'y'\n"),
                "model `a`: has a solver, and learns both",
            ),
            (format!("{head}[train]\nlabel-map = 'map.csv'\n[[model]]\nname = 'a'\n"), "is for the names of label"),
            (format!("{head}split = 0.1\nstratify = true\n[[model]]\nname = 'a'\n"), "stratify: is for folds"),
            (format!("{head}split = 1.0\n[[model]]\nname = 'a'\n"), "split: 1 is not a part between 0 and 1"),
            (format!("{head}split = 0.1\nfolds = 3\n[[model]]\nname = 'a'\n"), "split: stands beside folds"),
            (
                format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\n[[model]]\nname = 'b'\n"),
                "model `b`: says neither `targets` nor `label`, and other models learn something else; name",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\n[[model]]\nname = 'b'\nlabel = 'y'\n"),
                "model `b`: tells other classes apart",
            ),
            (
                format!("{both}[[table]]\npairs = [['a', 'b']]\n"),
                "table 1: `a` and `b` learn nothing that is the same; compare",
            ),
            (format!("{both}[[table]]\nmodels = ['b', 'a']\n"), "table 1: is of ratings, and `a` predicts none"),
            (
                format!("{both}[[model]]\nname = 'c'\ntargets = 'z'\n[[table]]\npairs = [['b', 'c']]\n"),
                "table 1: `b` and `c` learn nothing that is the same",
            ),
            (
                format!("{head}[[model]]\nname = 'a'\nlabel = 'x'\n[[table]]\nmodels = ['a']\nby = 'models'\n"),
                "table 1: is of ratings, and `a` predicts none; of classes",
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
