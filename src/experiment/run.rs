//! What every experiment on a manifest begins with: pictures, towers, a device, and training runs on some of the rows.

use super::checkpointed::{CheckpointedRun, fingerprint, origin, resident};
use super::config::{Built, Compute, Data as DataConfig, HeadChoice, Monitor, RIDGE_BELOW, Resident, Run, Training};
use super::events::{Events, tell};
use super::listed::Listed;
use super::{Output, heads};
use crate::atomic;
use crate::data::boxes::seen_whole;
use crate::data::features_table::joined;
use crate::data::{Alpha, LoadOptions, Manifest, Pictures, folds};
use crate::device::{Data, Device};
use crate::error::{Error, Kind, Result, line, option};
use crate::models::{Config, STATISTICS, Standardize, TowerOutput};
use crate::preprocess::{Resize, View};
use crate::ranks::{Peers, leads};
use crate::report::folder::{Claim, claim, prepare};
use crate::solve::model as solve;
use crate::train::checkpoint::{self, Card};
use crate::train::classified;
use crate::train::features::{self, Extracted};
use crate::train::fit::{self, Inputs, Said, Samples, Settings, State, Targets, Updates};
use crate::train::metrics::{Measured, Metrics};
use crate::train::network::{Method, Network, Task};
use crate::train::params::Initial;
use crate::train::ridge;
use crate::weights::WeightFile;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Splits rows by a part, groups kept together: [rest, part]. A row without a group is its own.
pub fn split(manifest: &Manifest, rows: &[usize], part: f64, seed: u64) -> Result<[Vec<usize>; 2]> {
    if part == 0.0 {
        return Ok([rows.to_vec(), vec![]]);
    }
    let groups: Vec<Option<String>> = rows.iter().map(|&i| manifest.rows[i].group.clone()).collect();
    let taken = folds::split(&groups, part, seed, groups.iter().any(Option::is_some))?;
    let pick = |which| rows.iter().zip(&taken).filter(|(_, t)| **t == which).map(|(r, _)| *r).collect();
    Ok([pick(false), pick(true)])
}

/// What a network says of some rows.
pub struct RowPredictions {
    /// [rows, targets]
    pub ratings: Vec<f32>,
    /// [rows, classes]
    pub probabilities: Vec<f32>,
}

/// Everything that is loaded before the first step.
pub struct Job {
    pub config: Config,
    pub initial: Initial,
    pub frozen: Vec<String>,
    pub settings: Settings,
    pub val: f64,
    pub monitor: Monitor,
    pub alpha: Alpha,
    pub manifest: Manifest,
    pub pictures: Pictures,
    pub extracted: Option<Extracted>,
    /// The class of each row, where classes are told apart.
    pub y: Vec<usize>,
    balance: bool,
    /// What a row of each class counts while a run trains.
    class_weight: Vec<f32>,
    choice: HeadChoice,
    /// A checkpoint of the same model whose weights every run begins with, instead of `initial`.
    pub start: Option<Arc<WeightFile>>,
    /// Further things that decide the numbers, by what people call them: a study's. They go into the checkpoint.
    pub basis: BTreeMap<String, String>,
    /// How the head of the last run came to be, where that was chosen; for people.
    pub said: Option<String>,
    resident: Resident,
    /// The time between checkpoints within an epoch.
    every: Duration,
    /// The folder of results, where no other process has business there; a study's processes share one.
    claim: Option<Claim>,
    /// How many pictures the manifest lists.
    listed: usize,
    /// The other ranks, where a run is shared.
    pub peers: Peers,
    /// Whether each rank keeps a share of what the optimiser remembers.
    pub shard: bool,
    device: Option<Box<dyn Device>>,
    pub device_name: String,
    compute: Compute,
    pub events: Arc<dyn Events>,
}

/// How long something was trained, to begin a line with; nothing of what was solved for.
pub fn trained(epochs: u32) -> String {
    if epochs > 0 { format!("{epochs} epochs, ") } else { String::new() }
}

impl Job {
    /// [`Job::load`] of a whole configuration, whose folder no other process may write to meanwhile.
    pub fn of(manifest: &Path, run: &Run, output: &Output) -> Result<Self> {
        Self::shared(manifest, run, output, &None)
    }

    /// [`Job::of`], every run of which is shared with `peers`: the first rank writes. It prepares pictures and features, which the
    /// others then find.
    pub fn shared(manifest: &Path, run: &Run, output: &Output, peers: &Peers) -> Result<Self> {
        let first = leads(peers);
        let meet = || peers.as_ref().map_or(Ok(()), |p| p.barrier());
        if !first {
            meet()?;
        }
        let model = run.model.build(&run.data.targets(), run.train.seed)?;
        run.check()?;
        let listed = Listed::read(manifest, &run.data, &*output.events)?;
        let mut job = Self::load(listed, model, &run.train, &run.data, &run.compute, output)?;
        let solves = job.choice == HeadChoice::Auto || job.settings.optimizer == Updates::Ridge;
        if peers.is_some() && solves {
            return Err(Error::usage(
                "a linear head is solved for at once, not trained in steps that ranks could share",
            )
            .fix(format!("run it as one process, or name widths in {}", option("head"))));
        }
        if first {
            job.claim = Some(claim(&output.folder)?);
            meet()?;
        }
        job.peers = peers.clone();
        Ok(job)
    }

    /// Decodes the pictures, runs frozen towers. Every bad picture is listed in `bad-pictures.csv` of the output folder.
    pub fn load(
        Listed { manifest, classes, y }: Listed,
        Built { mut config, initial, frozen, head: choice }: Built,
        train: &Training,
        data: &DataConfig,
        compute: &Compute,
        output: &Output,
    ) -> Result<Self> {
        let (out, events) = (&output.folder, &*output.events);
        compute.bind_threads(events);
        let mut settings = train.settings()?;
        if choice == HeadChoice::Ridge {
            settings.optimizer = Updates::Ridge;
        }
        let features = config.towers.iter().all(|t| frozen.contains(&t.name));
        let head = option("head");
        let solves = matches!(choice, HeadChoice::Ridge | HeadChoice::Auto);
        if solves && !features {
            return Err(Error::usage(format!("{head} ridge and {head} auto are for features that do not change"))
                .fix(format!("add {} all, or name widths in {head}", option("freeze"))));
        }
        if features {
            let resident = format!("{} yes", option("resident"));
            let what = [(settings.augment.is_some(), option("augment")), (data.resident == Resident::Yes, resident)];
            if let Some((_, flag)) = what.into_iter().find(|w| w.0) {
                return Err(Error::usage(format!(
                    "{flag}: all towers are frozen, so pictures are looked at only once"
                ))
                .fix(format!("train a tower, or leave out {flag}")));
            }
        }
        config.classes = classes;
        prepare(out)?;
        let cache = data.cache.clone().unwrap_or_else(|| out.join("cache"));
        let options = LoadOptions { views: seen(&config), decode: data.decode(), cache_dir: Some(cache.clone()) };
        let listed = manifest.rows.len();
        let (manifest, pictures) = load_pictures(&manifest, &options, data.skip_bad, output)?;
        for remark in initial.remarks(&config, &pictures)? {
            tell!(events, "warning: {remark}");
        }
        if choice == HeadChoice::BySize && features && config.classes.is_empty() {
            let n = manifest.rows.len();
            let few = n < RIDGE_BELOW;
            if few {
                (config.head, config.keep, settings.optimizer) = (vec![], vec![], Updates::Ridge);
            }
            let kind = if few { "ridge" } else { "one hidden layer" };
            tell!(
                events,
                "head: {kind}, because there are {n} pictures (ridge below {RIDGE_BELOW}; {head} decides otherwise)"
            );
        }
        let y = pictures.rows().iter().filter_map(|&row| y.get(row)).copied().collect();
        let device = compute.open(events)?;
        let device_name = device.name();
        tell!(events, "device: {device_name}");
        let mut job = Self {
            class_weight: vec![1.0; config.classes.len()],
            y,
            balance: data.balance,
            config,
            initial,
            frozen,
            settings,
            val: train.val,
            monitor: train.monitor,
            alpha: data.alpha,
            manifest,
            pictures,
            extracted: None,
            choice,
            start: None,
            basis: BTreeMap::new(),
            said: None,
            resident: data.resident,
            every: train.every()?,
            claim: None,
            listed,
            peers: None,
            shard: false,
            device: Some(device),
            device_name,
            compute: compute.clone(),
            events: output.events.clone(),
        };
        if features {
            job.extract(&cache)?;
        }
        if let (Some(extracted), false) = (&mut job.extracted, job.initial.tables.is_empty()) {
            let beside = joined(&job.initial.tables, &job.manifest)?;
            extracted.members.iter_mut().for_each(|rows| features::beside(rows, &beside));
        }
        Ok(job)
    }

    /// What a report has to say of pictures that were left out.
    pub fn left_out(&self) -> Option<String> {
        let bad = self.listed - self.manifest.rows.len();
        let note =
            || format!("{bad} of {} pictures could not be read and were left out: see bad-pictures.csv.", self.listed);
        (bad > 0).then(note)
    }

    /// Runs the frozen towers over every picture, or finds their features in the cache.
    fn extract(&mut self, cache: &Path) -> Result<()> {
        let device = self.device.take().expect("a device between runs");
        // Batches only save time: features do not depend on them.
        let (extracted, device) =
            features::cached(&self.config, &self.initial, &self.pictures, 4, device, cache, &*self.events)?;
        (self.extracted, self.device) = (Some(extracted), Some(device));
        Ok(())
    }

    fn task(&self, config: &Config) -> Task {
        match self.extracted {
            Some(_) => Task::Head { config: config.clone() },
            None => Task::EndToEnd { config: config.clone(), frozen: self.frozen.clone() },
        }
    }

    /// All rows, as the loop takes them.
    pub fn samples(&self) -> Samples<'_> {
        let inputs = match &self.extracted {
            Some(e) => Inputs::Features(e.members.clone()),
            None => Inputs::Pictures(&self.pictures),
        };
        let ratings = self.manifest.rows.iter().flat_map(|r| r.targets.clone()).collect();
        let targets = Targets { ratings, labels: self.y.iter().map(|&c| c as i32).collect() };
        Samples { inputs, targets, weight: (0..self.manifest.rows.len()).map(|i| self.counts(i)).collect() }
    }

    /// Whether ratings are predicted.
    pub fn rates(&self) -> bool {
        !self.config.targets.is_empty()
    }

    /// Whether classes are told apart, beside ratings or alone.
    pub fn tells_classes(&self) -> bool {
        !self.config.classes.is_empty()
    }

    /// What a row counts in the loss.
    fn counts(&self, i: usize) -> f32 {
        self.manifest.rows[i].weight * self.y.get(i).map_or(1.0, |&c| self.class_weight[c])
    }

    /// Lets every class count alike in a run that trains on these rows, if that was asked for.
    fn weigh(&mut self, train: &[usize]) -> Result<()> {
        let classes = self.config.classes.len();
        for c in 0..classes {
            let n = train.iter().filter(|&&i| self.y[i] == c).count();
            if n == 0 {
                let problem = format!("no picture of class `{}` is left to train on", line(&self.config.classes[c]));
                return Err(
                    Error::usage(problem).fix(format!("raise {}, or hold out fewer pictures", option("min-count")))
                );
            }
            self.class_weight[c] = if self.balance { train.len() as f32 / (classes * n) as f32 } else { 1.0 };
        }
        Ok(())
    }

    /// What the network says of some rows.
    pub fn predict(&self, net: &mut Network, rows: &[usize]) -> Result<RowPredictions> {
        let Said { ratings, scores } = fit::said(net, &self.samples(), rows)?;
        let probabilities = match self.tells_classes() {
            true => classified::softmax(&scores, self.config.classes.len()),
            false => vec![],
        };
        Ok(RowPredictions { ratings, probabilities })
    }

    /// A model that is solved for on the features of some rows.
    pub fn solved(&self, method: &solve::Method, rows: &[usize]) -> Result<solve::SolvedModel> {
        let Some((width, x)) = self.extracted.as_ref().and_then(|e| e.members.first()) else {
            return Err(Error::usage("a solver is for features that do not change").fix(format!(
                "add {} all, or a {}",
                option("freeze"),
                option("table")
            )));
        };
        let columns: Vec<String> = (1..=*width).map(|i| format!("feature {i}")).collect();
        let manifest = &self.manifest;
        let answers = if self.tells_classes() {
            solve::Answers::Classes { classes: self.config.classes.clone(), class: self.y.clone() }
        } else {
            let values = manifest.rows.iter().flat_map(|r| &r.targets).map(|t| f64::from(*t)).collect();
            solve::Answers::Ratings { targets: self.config.targets.clone(), values }
        };
        let weight: Vec<f64> = manifest.rows.iter().map(|r| r.weight.into()).collect();
        let (groups, seed) = (manifest.groups(), self.settings.seed);
        let task = solve::Task { columns: &columns, x, answers: &answers, weight: &weight, groups: &groups, seed };
        Ok(solve::solve(method, &task, rows)?.remove(0))
    }

    /// What a solved model says of some rows: ratings, or 1 for the class and 0 for the others.
    pub fn predict_solved(&self, model: &solve::SolvedModel, rows: &[usize]) -> RowPredictions {
        let x = self.extracted.as_ref().and_then(|e| e.members.first()).map_or(&[][..], |m| &m.1);
        if !self.tells_classes() {
            let ratings = model.ratings(x, rows).into_iter().map(|y| y as f32).collect();
            return RowPredictions { ratings, probabilities: vec![] };
        }
        let classes = self.config.classes.len();
        let told = model.classes(x, rows).into_iter();
        let probabilities = told.flat_map(|c| (0..classes).map(move |k| f32::from(u8::from(k == c)))).collect();
        RowPredictions { ratings: vec![], probabilities }
    }

    /// Splits rows into those that are trained on and those that are monitored: none where there is nothing to monitor.
    /// Those that are tested are monitored only where that was asked for.
    pub fn hold_out(&self, rows: &[usize], test: &[usize]) -> Result<[Vec<usize>; 2]> {
        if self.settings.optimizer == Updates::Ridge {
            return Ok([rows.to_vec(), vec![]]);
        }
        match self.monitor {
            Monitor::Val => split(&self.manifest, rows, self.val, self.settings.seed),
            Monitor::Train => Ok([rows.to_vec(), vec![]]),
            Monitor::Test if test.is_empty() => {
                Err(Error::usage(format!("{} test: nothing is set apart to be tested", option("monitor")))
                    .fix(format!("set a part apart with {} or {}", option("test"), option("fold"))))
            }
            Monitor::Test => Ok([rows.to_vec(), test.to_vec()]),
        }
    }

    /// What a report must say of a run whose best epoch was chosen by the pictures that it is tested on.
    pub fn leak(&self) -> Option<String> {
        const LEAK: &str = "The best epoch was chosen by the test pictures, which were monitored: what is measured on them is \
                            better than on new pictures.";
        (self.monitor == Monitor::Test && self.settings.optimizer != Updates::Ridge).then(|| LEAK.into())
    }

    /// Means of the targets over some rows, each by what it counts.
    pub fn means(&self, rows: &[usize]) -> Vec<f64> {
        let weight = |i: usize| self.manifest.rows[i].weight as f64;
        let all: f64 = rows.iter().map(|&i| weight(i)).sum();
        let mean = |t| rows.iter().map(|&i| weight(i) * self.manifest.rows[i].targets[t] as f64).sum::<f64>() / all;
        (0..self.config.targets.len()).map(mean).collect()
    }

    /// What a model says about some rows against their ratings, beside the mean of those that it was `trained` on.
    pub fn measure(&self, rows: &[usize], predicted: &[f32], trained: &[usize]) -> Result<Metrics> {
        let names: Vec<&str> = self.config.targets.iter().map(String::as_str).collect();
        let truth: Vec<f32> = rows.iter().flat_map(|&i| self.manifest.rows[i].targets.clone()).collect();
        let weight: Vec<f64> = rows.iter().map(|&i| self.manifest.rows[i].weight.into()).collect();
        let train_mean = &self.means(trained);
        Metrics::measure(&Measured { names: &names, truth: &truth, predicted, train_mean, weight: &weight })
    }

    /// What a resumed run must have in common with the one it continues.
    pub fn fingerprint(&self, rows: [&[usize]; 2]) -> String {
        let of = |i: usize| {
            let r = &self.manifest.rows[i];
            match self.y.get(i) {
                None => format!("{} {:?} {}", r.path, r.targets, r.weight),
                Some(&c) => {
                    let ratings = if self.rates() { format!(" {:?}", r.targets) } else { String::new() };
                    format!("{} {} {} {}{ratings}", r.path, self.config.classes[c], r.weight, self.balance)
                }
            }
        };
        fingerprint(rows, &self.pictures, of)
    }

    /// Trains on some rows, monitoring others. With `checkpoint` the run is kept there; with `resume` it goes on from
    /// there; of a finished run only the weights are read. Afterwards the network holds the best weights. Also returns
    /// the number of updates that were made here.
    pub fn run(
        &mut self,
        rows: [&[usize]; 2],
        label: &str,
        checkpoint: Option<&Path>,
        resume: bool,
    ) -> Result<(Network, State, u32)> {
        let own = heads::Candidate { config: self.config.clone(), settings: self.settings.clone() };
        if self.choice != HeadChoice::Auto {
            self.said = None;
            return self.run_as(&own, rows, label, checkpoint, resume);
        }
        let all = heads::candidates(own);
        // A run that is gone on with has made its choice.
        if let Some(path) = checkpoint.filter(|_| resume) {
            let card = |path: &Path| checkpoint::card(&*WeightFile::open(path)?);
            // Whether tensors are damaged, and which file it goes on from, is found later: both are of one run.
            let card = card(path).or_else(|e| card(&atomic::previous(path)).map_err(|_| e))?;
            let same = |c: &&heads::Candidate| self.task(&c.config) == card.task;
            let chosen = all.iter().find(same).unwrap_or(&all[0]);
            let said = format!("{}, chosen when the run began", chosen.name());
            let result = self.run_as(chosen, rows, label, checkpoint, resume)?;
            self.said = Some(said);
            return Ok(result);
        }
        let (chosen, figures) = self.choose(&all, rows[0])?;
        tell!(self.events, "head: {figures}");
        let result = self.run_as(&all[chosen], rows, label, checkpoint, false)?;
        let penalty = self.said.take().map_or(String::new(), |s| format!("; {s}"));
        self.said = Some(figures + &penalty);
        Ok(result)
    }

    /// The candidate that predicts best over inner folds of some rows, and what that was found by.
    fn choose(&mut self, all: &[heads::Candidate], rows: &[usize]) -> Result<(usize, String)> {
        let groups: Vec<Option<String>> = rows.iter().map(|&i| self.manifest.rows[i].group.clone()).collect();
        let fold = folds::up_to(heads::FOLDS, &groups, self.settings.seed)?;
        let k = fold.iter().max().map_or(0, |m| m + 1);
        let n = self.config.targets.len();
        let mut errors = vec![];
        for c in all {
            let mut predicted = vec![f32::NAN; rows.len() * n];
            for f in 0..k {
                let pick = |inside: bool| (0..rows.len()).filter(|&i| (fold[i] == f) == inside).collect::<Vec<_>>();
                let (held, rest) = (pick(true), pick(false).into_iter().map(|i| rows[i]).collect::<Vec<_>>());
                let [train, val] = split(&self.manifest, &rest, self.val, self.settings.seed)?;
                let label = format!("choosing: {} {}/{k}", c.name(), f + 1);
                let there: Vec<usize> = held.iter().map(|&i| rows[i]).collect();
                let y = match self.run_as(c, [&train, &val], &label, None, false) {
                    Ok((mut net, ..)) => {
                        let y = self.predict(&mut net, &there)?;
                        self.recycle(net);
                        y.ratings
                    }
                    // It diverged, and the device went with the run.
                    Err(e) if e.kind() == Kind::Job => {
                        tell!(self.events, "{label}: {e:#}");
                        self.device = Some(self.compute.open(&*self.events)?);
                        break;
                    }
                    Err(e) => return Err(e),
                };
                held.iter().zip(y.chunks_exact(n)).for_each(|(i, y)| predicted[i * n..(i + 1) * n].copy_from_slice(y));
            }
            let weight = |i: &usize| self.manifest.rows[*i].weight as f64;
            let truth = |i: &usize| self.manifest.rows[*i].targets.iter().map(|t| *t as f64).collect::<Vec<f64>>();
            let predicted: Vec<f64> = predicted.into_iter().map(f64::from).collect();
            let truth: Vec<f64> = rows.iter().flat_map(truth).collect();
            errors.push(heads::error(&predicted, &truth, &rows.iter().map(weight).collect::<Vec<f64>>()));
        }
        heads::pick(all, &errors, k)
    }

    /// [`Job::run`] of one of the choices.
    fn run_as(
        &mut self,
        c: &heads::Candidate,
        [train, val]: [&[usize]; 2],
        label: &str,
        checkpoint: Option<&Path>,
        resume: bool,
    ) -> Result<(Network, State, u32)> {
        self.weigh(train)?;
        let device = self.device.take().expect("a device between runs");
        let (task, s, method) = (self.task(&c.config), c.settings.clone(), c.settings.method());
        let counts = |i: &usize| self.counts(*i);
        let weighted = train.iter().any(|i| counts(i) != counts(&train[0]));
        let method = Method { weighted, sharded: self.shard, ..method };
        let kept = resident(self.resident, &self.pictures, &task, s.batch, method, &*device, &*self.events);
        let method = Method { resident: kept, ..method };
        let mut net = Network::ranked(&task, s.batch, method, device, &self.peers)?;
        let means = self.means(train);
        let solved = s.optimizer == Updates::Ridge;
        let mut state = State::new(&s, net.parts.len())?;
        // There is no epoch to run.
        state.finished = solved;
        let mut origin = origin([train, val], &self.pictures, self.initial.sums());
        origin.basis.extend(self.basis.clone());
        let card = Card {
            format: checkpoint::FORMAT.into(),
            task,
            state,
            settings: s,
            train_mean: means.clone(),
            classes: c.config.classes.clone(),
            data: self.fingerprint([train, val]),
            made_by: made_by(&self.device_name),
            alpha: self.alpha,
            tower_classes: self.initial.class_names(),
            origin,
        };
        let extra = self.extracted.as_ref().map_or(&[][..], |e| e.towers.as_slice());
        let (samples, every) = (&self.samples(), self.every);
        let (rows, events) = ([train, val], &*self.events);
        let run = CheckpointedRun { label, card, samples, rows, checkpoint, every, resume, extra, events };
        let mut penalties = vec![];
        let (state, updates) = run.execute(&mut net, |net| {
            self.begin(net, train, &means)?;
            if solved {
                penalties = self.solve(net, train)?;
            }
            Ok(())
        })?;
        self.said = solved.then(|| {
            let of = |(t, lambda): (&String, &f64)| format!("{t} {lambda}");
            let penalties: Vec<String> = self.config.targets.iter().zip(&penalties).map(of).collect();
            format!("ridge, penalties by inner folds: {}", penalties.join(", "))
        });
        Ok((net, state, updates))
    }

    /// Solves for the heads of a network of frozen features, and says the penalty of each target.
    fn solve(&self, net: &mut Network, train: &[usize]) -> Result<Vec<f64>> {
        let extracted = self.extracted.as_ref().expect("checked when the job was loaded");
        let rows: Vec<usize> = (0..train.len()).collect();
        let groups: Vec<Option<String>> = train.iter().map(|&i| self.manifest.rows[i].group.clone()).collect();
        let mut penalties = vec![f64::NAN; self.config.targets.len()];
        for (part, (width, x)) in net.parts.iter().zip(&extracted.members) {
            let mut scale = [vec![0.0; *width], vec![1.0; *width]];
            if self.config.standardize != Standardize::No {
                for (name, values) in STATISTICS.iter().zip(&mut scale) {
                    let v = net.session.graph().find(&format!("{}{name}", part.prefix)).expect("the head asked for it");
                    *values = net.session.read(v)?;
                }
            }
            let [mean, inverse] = scale;
            let seen = |i: usize| {
                let row = x[i * width..(i + 1) * width].iter().zip(&mean).zip(&inverse);
                row.map(|((x, m), s)| (*x as f64 - *m as f64) * *s as f64)
            };
            let rating = |&i: &usize| -> Vec<f64> {
                part.targets.iter().map(|&t| self.manifest.rows[i].targets[t] as f64).collect()
            };
            let problem = ridge::Problem {
                x: train.iter().flat_map(|&i| seen(i)).collect(),
                width: *width,
                y: train.iter().flat_map(rating).collect(),
                targets: part.targets.len(),
                weight: train.iter().map(|&i| self.manifest.rows[i].weight as f64).collect(),
            };
            let head = ridge::fit(&problem, &rows, &groups, self.settings.seed)?;
            part.targets.iter().zip(head.lambda).for_each(|(&t, l)| penalties[t] = l);
            for (name, values) in [("weight", head.weight), ("bias", head.bias)] {
                let v = net.session.graph().find(&format!("{}head.out.{name}", part.prefix)).expect("of every head");
                net.session.write(v, Data::F32(&values.iter().map(|x| *x as f32).collect::<Vec<f32>>()))?;
            }
        }
        Ok(penalties)
    }

    /// Writes the first weights.
    fn begin(&self, net: &mut Network, train: &[usize], means: &[f64]) -> Result<()> {
        if let Some(file) = &self.start {
            for v in net.stored() {
                let name = net.session.graph().name(v);
                file.intact(name)?;
                let t = file.tensor(name)?;
                net.session.write(v, Data::F32(&t.to_f32()?))?;
            }
            return Ok(());
        }
        if self.extracted.is_none() {
            let members = self.config.members();
            let prefixes: Vec<&str> = members.iter().map(|m| m.prefix.as_str()).collect();
            let pooled = self.config.towers.iter().any(|t| self.config.output(t) != TowerOutput::Softmax);
            self.initial.check(&net.session, &prefixes, &self.config.towers, pooled)?;
        }
        let params = net.stored();
        for part in &net.parts {
            let means: Vec<f32> = part.targets.iter().map(|&t| means[t] as f32).collect();
            self.initial.fill(&mut net.session, &params, &part.prefix, &means)?;
        }
        if self.config.standardize != Standardize::No {
            self.standardize(net, train)?;
        }
        Ok(())
    }

    /// Writes the statistics of the features over the training rows. Towers that are trained have no features yet: those
    /// of a sample of pictures, through the initial weights, stand for them.
    fn standardize(&self, net: &mut Network, train: &[usize]) -> Result<()> {
        /// Pictures that stand for all of them.
        const SAMPLE: usize = 64;
        let sampled;
        let (members, rows): (&[features::Rows], Vec<usize>) = match &self.extracted {
            Some(e) => (&e.members, train.to_vec()),
            None => {
                let rows: Vec<usize> = train.iter().copied().step_by(train.len().div_ceil(SAMPLE)).collect();
                let events = &*self.events;
                let device = self.compute.open(events)?;
                let extracted =
                    features::extract(&self.config, &self.initial, &self.pictures, &rows, 4, device, events)?;
                sampled = extracted.0;
                (&sampled, (0..rows.len()).collect())
            }
        };
        for (part, features) in self.config.members().iter().zip(members) {
            for (name, x) in STATISTICS.iter().zip(features::statistics(features, &rows, self.config.standardize)) {
                let v = net.session.graph().find(&format!("{}{name}", part.prefix)).expect("the head asked for it");
                net.session.write(v, Data::F32(&x))?;
            }
        }
        Ok(())
    }

    /// Takes the device back from a network that is done.
    pub fn recycle(&mut self, net: Network) {
        self.device = Some(net.session.into_device());
    }
}

/// For people, in the header of a checkpoint.
pub fn made_by(device: &str) -> String {
    format!("deep-affect {} on {device}", env!("CARGO_PKG_VERSION"))
}

/// What of a picture is loaded: what the towers see, or else enough for a report.
fn seen(config: &Config) -> Vec<View> {
    /// Side in pixels of the pictures in a report.
    const SHOWN: usize = 64;
    let views = config.views();
    let shown = || View { side: SHOWN, resize: Resize::SquashBilinear, grey: false, crop: None };
    if views.is_empty() { vec![shown()] } else { views }
}

/// Decodes what a manifest lists; bad pictures are written to `bad-pictures.csv` and, if allowed, left out.
pub fn load_pictures(
    manifest: &Manifest,
    options: &LoadOptions,
    skip_bad: bool,
    Output { folder, events, .. }: &Output,
) -> Result<(Manifest, Pictures)> {
    let sources = manifest.sources();
    if let Some(remark) = seen_whole(&sources, &options.views) {
        tell!(events, "{remark}");
    }
    let loaded = Pictures::load(&sources, options, &**events)?;
    if let Some(note) = &loaded.rebuilt {
        tell!(events, "{note}");
    }
    if !loaded.bad.is_empty() {
        let path = folder.join("bad-pictures.csv");
        let mut csv = csv::Writer::from_writer(vec![]);
        let rows = loaded.bad.iter().map(|b| [b.path.as_str(), b.reason.as_str()]);
        for row in [["path", "reason"]].into_iter().chain(rows) {
            csv.write_record(row).expect("memory does not fail");
        }
        let text = csv.into_inner().expect("memory does not fail");
        crate::atomic::write(&path, |w| w.write_all(&text))?;
        tell!(events, "{} pictures cannot be used: see {}", loaded.bad.len(), path.display());
    }
    let pictures = loaded.accept(skip_bad)?;
    Ok((manifest.select(pictures.rows()), pictures))
}
