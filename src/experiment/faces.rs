//! The facial expression network of Parry & Vuong 2021 (supplement 1.3), judged over folds.

use super::Output;
use super::checkpointed::continued;
use super::classifier::{Classifier, LabelledPictures, TowerSettings, fits, weights};
use super::config::{Compute, Monitor, Training};
use super::events::{Events, tell};
use super::run::split;
use super::trained::folder;
use crate::atomic;
use crate::data::table::quoted;
use crate::data::{Manifest, Row, folds};
use crate::error::{Error, Result, line, option};
use crate::files;
use crate::models::{expression, expressions};
use crate::preprocess::Crop;
use crate::report::accuracy::{self, Accuracy};
use crate::report::confusion;
use crate::report::folder::{claim, prepare};
use crate::report::study::Sheet;
use crate::train::confusion::Confusion;
use crate::train::folds::Spread;
use crate::train::params::Initial;
use crate::train::stored::{Source, Stored};
use crate::weights::WeightFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A network of expressions and the faces that it learns.
pub struct Faces {
    /// Manifest of faces with a column of expressions, or a folder with one folder for each expression.
    pub manifest: PathBuf,
    /// 9 (happiness, sadness, fear, anger, surprise, disgust, contempt, neutral, no-face) or 5 (the first four and no-face).
    pub classes: usize,
    /// Column of expressions; rows with another one are left out.
    pub label: String,
    /// Most pictures of a class: so many are drawn of those that have more.
    pub per_class: usize,
    pub folds: u32,
    /// Deal rows out one by one although the manifest has groups.
    pub ungrouped: bool,
    /// How much around the manifest's boxes is seen too, in percent of their sides; None shows whole pictures.
    pub margin: Option<u16>,
    /// Begin with the convolutions of this tower.
    pub weights: Option<PathBuf>,
    /// Folder for resized pictures; `cache` in the output folder.
    pub cache: Option<PathBuf>,
    pub network: TowerSettings,
    pub train: Training,
    pub compute: Compute,
    pub output: Output,
}

/// What [`Faces::run`] found: the table of all networks in the folder, the best fold from 1, and its tower.
pub struct Judged {
    pub table: Sheet,
    pub best_fold: usize,
    pub tower: PathBuf,
    /// The folder of this network.
    pub folder: PathBuf,
}

/// What is kept of a fold that is done.
#[derive(Serialize, Deserialize)]
struct Fold {
    epochs: u32,
    trained_on: usize,
    train_accuracy_percent: f64,
    test_accuracy_percent: f64,
    /// The mean over classes: what the accuracy would be if the test part had as many of each.
    test_class_accuracy_percent: f64,
    /// Indices of the classes that the test pictures are taken for, in the order of the rows.
    predicted: Vec<usize>,
}

/// What is kept of a network: `results.json`.
#[derive(Serialize, Deserialize)]
struct Results {
    command: String,
    classes: Vec<String>,
    pictures_per_class: Vec<usize>,
    /// The fold whose tower was kept, from 1.
    best_fold: usize,
    train_accuracy_percent: Spread,
    test_accuracy_percent: Spread,
    /// Test pictures of all folds: a row a class, a column for what they are taken for.
    confusion: Vec<Vec<u32>>,
    folds: Vec<Fold>,
}

impl Results {
    fn accuracy(&self) -> Accuracy {
        let name = format!("{}-FER", self.classes.len());
        Accuracy { name, train: self.train_accuracy_percent, test: self.test_accuracy_percent }
    }
}

impl Faces {
    /// Trains the networks of all folds that are not done, and makes the tables.
    pub fn run(&self) -> Result<Judged> {
        let events = &*self.output.events;
        self.compute.bind_threads(events);
        let classes = expressions(self.classes)?;
        let settings = self.train.settings()?;
        if self.train.monitor != Monitor::Val {
            let problem = format!("{}: faces are monitored on a part of what would be trained on", option("monitor"));
            return Err(
                Error::usage(problem).fix(format!("leave it out; {} 0 monitors the training loss", option("val")))
            );
        }
        if self.train.test != 0.0 {
            return Err(
                Error::usage(format!("{}: every fold is a test part already", option("test"))).fix("leave it out")
            );
        }
        if self.per_class < self.folds as usize {
            let problem = format!("{} {} cannot fill {} folds", option("per-class"), self.per_class, self.folds);
            return Err(Error::usage(problem).fix(format!("raise it, or ask for fewer {}", option("folds"))));
        }
        let name = format!("{}-FER", classes.len());
        let dir = self.output.folder.join(name.to_lowercase());
        prepare(&dir)?;
        let _claim = claim(&dir)?;
        let (manifest, y) = self.labelled(classes)?;
        let file = weights(self.weights.as_deref())?;
        let mut tower = self.network.tower("face", classes.len(), file.as_ref())?;
        let boxed = manifest.rows.iter().any(|r| r.face.is_some());
        tower.crop = self.margin.filter(|_| boxed).map(|margin| Crop { margin });
        let mut initial = Initial::new(settings.seed, file.is_none());
        if let Some(file) = file {
            fits(&tower, &file)?;
            initial.without_dense = true;
            initial.tower("face", file);
        }
        let origin = LabelledPictures {
            manifest: &manifest,
            y: &y,
            classes: classes.iter().map(|c| c.to_string()).collect(),
            tower,
            initial,
            settings,
            output: &Output { folder: dir.clone(), ..self.output.clone() },
            cache: Some(self.cache.clone().unwrap_or_else(|| self.output.folder.join("cache"))),
            every: self.train.every()?,
        };
        let mut job = Classifier::load(origin, &self.network, &self.compute)?;
        let groups = job.manifest.groups();
        let fold = folds::stratified(&job.y, &groups, self.folds, job.settings.seed, !self.ungrouped)?;
        folds::write(dir.join("folds.csv"), &job.manifest, &fold)?;
        let (mut done, mut confusions) = (vec![], vec![]);
        for f in 0..self.folds {
            let pick = |inside: bool| (0..fold.len()).filter(|&i| (fold[i] == f) == inside).collect::<Vec<_>>();
            let test = pick(true);
            let one = self.fold(&mut job, (f, &dir), &pick(false), &test)?;
            tell!(
                events,
                "fold {} of {}: {} epochs, {:.2} % right of {} trained on, {:.2} % of {} tested",
                f + 1,
                self.folds,
                one.epochs,
                one.train_accuracy_percent,
                one.trained_on,
                one.test_accuracy_percent,
                test.len()
            );
            confusions.push(job.confusion(&test, &one.predicted));
            done.push(one);
        }
        self.report(&job, (&name, &dir), &fold, done, &confusions)
    }

    /// The rows that take part, and the class of each; the rest is counted.
    fn labelled(&self, classes: &[&str]) -> Result<(Manifest, Vec<usize>)> {
        let (manifest, labels) = match self.manifest.is_dir() {
            true => class_folders(&self.manifest, &*self.output.events)?,
            false => {
                let manifest = Manifest::read(&self.manifest, &[])?;
                let labels = manifest.labels(&self.label)?;
                (manifest, labels)
            }
        };
        let class: Vec<Option<usize>> =
            labels.iter().map(|l| l.as_deref().and_then(|l| expression(classes, l))).collect();
        let mut others: BTreeMap<&str, usize> = BTreeMap::new();
        for (label, _) in labels.iter().zip(&class).filter(|(_, c)| c.is_none()) {
            *others.entry(label.as_deref().unwrap_or("no label")).or_default() += 1;
        }
        let list = |counts: &mut dyn Iterator<Item = (&str, usize)>| {
            counts.map(|(name, n)| format!("{} {n}", line(name))).collect::<Vec<_>>().join(", ")
        };
        let rows = folds::balanced(&class, self.per_class, self.train.seed);
        let y: Vec<usize> = rows.iter().filter_map(|&i| class[i]).collect();
        let size = |c: usize| y.iter().filter(|&&x| x == c).count();
        let counts = || classes.iter().enumerate().map(|(c, name)| (*name, size(c)));
        if let Some((name, n)) = counts().find(|c| c.1 < self.folds as usize) {
            let found = list(&mut counts().chain(others.iter().map(|(l, n)| (*l, *n))));
            return Err(Error::file(&self.manifest, format!("{n} pictures of {name} for {} folds", self.folds))
                .at(format!("column {}", self.label))
                .fix(format!(
                    "add some, or choose other {} or {}; there are {found}",
                    option("classes"),
                    option("folds")
                )));
        }
        let events = &*self.output.events;
        tell!(events, "{} pictures: {}", rows.len(), list(&mut counts()));
        let short = list(&mut counts().filter(|c| c.1 < self.per_class));
        if !short.is_empty() {
            tell!(events, "fewer than the {} of {}: {short}", self.per_class, option("per-class"));
        }
        if !others.is_empty() {
            tell!(events, "left out: {}", list(&mut others.into_iter()));
        }
        Ok((manifest.select(&rows), y))
    }

    /// Trains and judges a fold, or finds it done.
    fn fold(&self, job: &mut Classifier, (f, dir): (u32, &Path), rest: &[usize], test: &[usize]) -> Result<Fold> {
        let [train, val] = split(&job.manifest, rest, self.train.val, job.settings.seed)?;
        let (kept, result) = (checkpoint(dir, f as usize), dir.join(format!("fold{}.json", f + 1)));
        if kept.exists() && continued(&kept, &job.card([&train, &val])?, &*job.events)?.1.state.finished {
            let text = files::text(&result, files::PAGE).unwrap_or_default();
            // A result that is not there, or not whole, is computed again from the weights.
            let done = serde_json::from_str(&text).ok();
            let fits =
                |one: &Fold| one.predicted.len() == test.len() && one.predicted.iter().all(|&c| c < job.classes.len());
            if let Some(one) = done.filter(fits) {
                return Ok(one);
            }
        }
        let label = format!("fold {} of {}", f + 1, self.folds);
        let (mut net, state) = job.run([&train, &val], &label, &kept, kept.exists())?;
        let (trained, predicted) = (job.predict(&mut net, &train)?, job.predict(&mut net, test)?);
        job.recycle(net);
        let confusion = job.confusion(test, &predicted);
        let right = |c: Option<f64>| c.ok_or_else(|| Error::job(format!("fold {} has no pictures", f + 1)));
        let one = Fold {
            epochs: state.epoch,
            trained_on: train.len(),
            train_accuracy_percent: right(job.confusion(&train, &trained).accuracy())?,
            test_accuracy_percent: right(confusion.accuracy())?,
            test_class_accuracy_percent: right(confusion.class_accuracy())?,
            predicted,
        };
        put(&result, &json(&one))?;
        atomic::forget_previous(&kept)?;
        Ok(one)
    }

    /// Writes what the folds gave, and the tables of every network in the output folder.
    fn report(
        &self,
        job: &Classifier,
        (name, dir): (&str, &Path),
        fold: &[u32],
        done: Vec<Fold>,
        confusions: &[Confusion],
    ) -> Result<Judged> {
        // Of equal ones the first.
        let better = |a: usize, b: usize| done[b].test_accuracy_percent > done[a].test_accuracy_percent;
        let best = (1..done.len()).fold(0, |a, b| if better(a, b) { b } else { a });
        let mut all = Confusion::of(&job.classes, []);
        for (i, c) in confusions.iter().enumerate() {
            all.add(c);
            draw(dir, &format!("confusion-fold{}", i + 1), c, &format!("{name}, fold {}", i + 1))?;
        }
        draw(dir, "confusion", &all, &format!("{name}, all folds"))?;
        let mut next = vec![0; done.len()];
        let mut text = String::from("path,fold,class,predicted\n");
        for (i, row) in job.manifest.rows.iter().enumerate() {
            let f = fold[i] as usize;
            let taken = &job.classes[done[f].predicted[next[f]]];
            next[f] += 1;
            let (number, class) = (folds::number(fold[i]), &job.classes[job.y[i]]);
            text.push_str(&format!("{},{number},{class},{taken}\n", quoted(&row.path)));
        }
        put(&dir.join("predictions.csv"), &text)?;
        let file = WeightFile::open(checkpoint(dir, best))?;
        file.all_intact()?;
        let tower = dir.join("face.safetensors");
        let stored = file.infos().iter().map(|t| {
            let source = Source::File(file.clone(), t.name.clone());
            Stored { name: t.name.clone(), shape: t.shape.clone(), source }
        });
        job.save(&tower, stored)?;
        let over = |of: fn(&Fold) -> f64| Spread::of(&done.iter().map(|f| Some(of(f))).collect::<Vec<_>>());
        let results = Results {
            command: self.output.command.clone(),
            classes: job.classes.clone(),
            pictures_per_class: all.rows().map(|row| row.iter().sum::<u32>() as usize).collect(),
            best_fold: best + 1,
            train_accuracy_percent: over(|f| f.train_accuracy_percent),
            test_accuracy_percent: over(|f| f.test_accuracy_percent),
            confusion: all.rows().map(<[u32]>::to_vec).collect(),
            folds: done,
        };
        // Last of this folder: where it is, the rest is too.
        put(&dir.join("results.json"), &json(&results))?;
        let table = accuracy::sheet(&networks(&self.output.folder)?.iter().map(Results::accuracy).collect::<Vec<_>>());
        put(&self.output.folder.join("accuracy.md"), &table.markdown())?;
        put(&self.output.folder.join("accuracy.csv"), &String::from_utf8_lossy(&table.csv()))?;
        put(&self.output.folder.join("accuracy.tex"), &table.latex())?;
        Ok(Judged { table, best_fold: best + 1, tower, folder: dir.into() })
    }
}

/// Where the run of a fold is kept, counted from 0 here and from 1 in names.
fn checkpoint(dir: &Path, fold: usize) -> PathBuf {
    dir.join(format!("fold{}.safetensors", fold + 1))
}

/// The networks whose results are in the output folder, in the order of the paper's table.
fn networks(out: &Path) -> Result<Vec<Results>> {
    let mut all = vec![];
    for name in ["9-FER", "5-FER"] {
        let path = out.join(name.to_lowercase()).join("results.json");
        if !path.exists() {
            continue;
        }
        let text = files::text(&path, files::PAGE).map_err(|e| Error::io(&path, "read", e))?;
        let remedy = "remove it and train that network again";
        let wrong = |why: &str| Error::file(&path, format!("cannot be read: {why}")).fix(remedy);
        let r: Results = serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
        let n = r.classes.len();
        if r.confusion.len() != n || r.confusion.iter().any(|row| row.len() != n) {
            return Err(wrong("its confusion matrix does not fit its classes"));
        }
        all.push(r);
    }
    Ok(all)
}

/// Table S1 and Figure S1 of the networks in some output folders, as HTML.
pub fn html(folders: &[PathBuf]) -> Result<String> {
    let mut all = vec![];
    for out in folders {
        let found = networks(out)?;
        if found.is_empty() {
            return Err(Error::file(out, "holds no results of `train-face`")
                .fix(format!("name its {} folder, when it is done", option("out"))));
        }
        all.extend(found);
    }
    let table = accuracy::sheet(&all.iter().map(Results::accuracy).collect::<Vec<_>>()).html();
    let picture = |r: &Results| {
        let c = Confusion { classes: r.classes.clone(), counts: r.confusion.concat() };
        confusion::svg(&c, &confusion::titled(&c, &format!("{}, all folds", r.accuracy().name)))
    };
    Ok(table + &all.iter().map(picture).collect::<String>())
}

fn draw(dir: &Path, stem: &str, c: &Confusion, title: &str) -> Result<()> {
    put(&dir.join(format!("{stem}.csv")), &c.csv())?;
    put(&dir.join(format!("{stem}.svg")), &confusion::svg(c, &confusion::titled(c, title)))
}

fn put(path: &Path, text: &str) -> Result<()> {
    atomic::write(path, |w| w.write_all(text.as_bytes()))
}

fn json(x: &impl Serialize) -> String {
    serde_json::to_string_pretty(x).expect("plain data") + "\n"
}

/// A folder of folders: each picture has the name of the folder below the root that it is in.
fn class_folders(root: &Path, events: &dyn Events) -> Result<(Manifest, Vec<Option<String>>)> {
    let (mut rows, mut labels) = (vec![], vec![]);
    for path in folder(root, events)? {
        let Some(name) = path.to_str() else {
            return Err(Error::file(root.join(&path), "its name is not Unicode").fix("rename it"));
        };
        labels.push(path.parent().and_then(|p| p.iter().next()).map(|p| p.to_string_lossy().into_owned()));
        rows.push(Row { path: name.into(), ..Row::default() });
    }
    Ok((Manifest::new(root, &[], rows, vec![]), labels))
}
