/*! Pictures that a generator makes for ratings: trained against a frozen model ([`crate::train::generate`]), judged by models that
see what is on disk, with its folder and its checkpoint. */

use super::Output;
use super::config::Compute;
use super::events::{Training, tell};
use super::evolve::{Judge, STATE as EVOLVED};
use super::run::load_pictures;
use super::trained::Model;
use crate::data::{DecodeOptions, LoadOptions, Manifest, Pictures};
use crate::device::{Data, Session};
use crate::error::{Error, Message, Result, option};
use crate::evolve::Evolution;
use crate::evolve::archive::Cells;
use crate::files;
use crate::hash;
use crate::models::{Discriminator, Generator};
use crate::nn::{Mode, Net};
use crate::ops::adam::Adam;
use crate::preprocess::{Resize, View};
use crate::report::folder::{claim, prepare};
use crate::report::generated::{ALIKE, Cell, Elite, Generated, Measures, write};
use crate::rng::{Rng, Stream};
use crate::train::generate::{Batch, Blueprint, Design, Losses, PICTURES};
use crate::train::network::Optimizer;
use crate::train::stored::{self, Stored};
use crate::weights::init::{self, Rule};
use crate::weights::{LAYOUT, WeightFile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The generator, and what goes on where a run was stopped.
const STATE: &str = "generator.safetensors";
/// Metadata key of that file.
const HEADER: &str = "generation";
/// The time between two of them.
const EVERY: Duration = Duration::from_secs(60);
/// By what the error of the frozen model's ratings counts beside a discriminator.
const BESIDE: f64 = 0.1;
/// Adam's rate where the frozen model alone guides.
const ALONE: f64 = 1e-3;
/// The same beside a discriminator (Radford, Metz & Chintala 2016).
const OPPOSED: f64 = 2e-4;
/// The shares of the old in Adam's means (Radford, Metz & Chintala 2016).
const BETAS: (f64, f64) = (0.5, 0.999);

/// What is trained, against which model.
#[derive(Clone, Debug)]
pub struct Generate {
    /// A checkpoint that rates; None for the bundled model.
    pub model: Option<PathBuf>,
    /// A manifest of photographs with ratings: a discriminator learns to tell them from what is made.
    pub data: Option<PathBuf>,
    /// A model that rates what was made and had no say.
    pub judge: Option<PathBuf>,
    /// Folder of an evolution, to be shown beside.
    pub elites: Option<PathBuf>,
    pub steps: usize,
    pub batch: usize,
    /// Adam's rate; None for [`ALONE`], or beside a discriminator [`OPPOSED`].
    pub lr: Option<f64>,
    /// Side of the pictures in pixels: a power of two from 8 up.
    pub side: usize,
    /// Side of the square that the model sees.
    pub seen: Option<usize>,
    /// Channels of the last map before the picture.
    pub channels: usize,
    pub noise: usize,
    /// How much the distance of two pictures of a condition counts.
    pub diversity: f64,
    /// The range of the ratings that are asked for, in points.
    pub range: [f64; 2],
    /// Parts of the plane along each rating, and pictures made for each of its cells.
    pub cells: usize,
    pub samples: usize,
    pub seed: u64,
    pub resume: bool,
    pub compute: Compute,
}

/// Everything that decides the generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The guide's name, and of photographs their fingerprint.
    model: String,
    data: Option<String>,
    /// Side of the square that the model sees; None for its own.
    seen: Option<usize>,
    targets: Vec<String>,
    generator: Generator,
    noise: usize,
    batch: usize,
    lr: f64,
    diversity: f64,
    range: [f64; 2],
    seed: u64,
}

/// What a checkpoint says beside its tensors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    settings: Settings,
    /// After each step.
    curve: Vec<Losses>,
}

/// What came of it.
pub struct Ended {
    pub measures: Measures,
    /// What is to be known first, a line each.
    pub notes: Vec<Message>,
    pub steps: usize,
}

/// Photographs and their ratings [rows, targets].
struct Photographs {
    pictures: Pictures,
    ratings: Vec<f32>,
}

/// What the numbers of a step are.
struct Drawn {
    noise: Vec<f32>,
    condition: Vec<f32>,
    wanted: Vec<f32>,
    real: Vec<f32>,
}

impl Generate {
    /// Trains, makes pictures for the plane of ratings, lets models rate them and leaves the folder.
    ///
    /// # Errors
    /// A model without ratings, sides and ranges that nothing can be made for, files that cannot be read, or a stop.
    pub fn run(&self, output: &Output) -> Result<Ended> {
        let (out, events) = (&output.folder, &*output.events);
        let model = Model::open(self.model.as_deref())?;
        let config = model.config()?;
        self.check(&model)?;
        let evolution = self.evolution(&config.targets)?;
        let judge = self.judge.as_deref().map(|path| Model::open(Some(path))).transpose()?;
        prepare(out)?;
        let _claim = claim(out)?;
        let photographs = self.photographs(&config.targets, output)?;
        let seen = self.seen.or((config.any_side() && self.side >= 32).then_some(self.side));
        let shown = seen.map_or_else(|| Ok(config.clone()), |side| config.sized(side))?;
        let settings = Settings {
            model: model.name.clone(),
            data: photographs.as_ref().map(Photographs::fingerprint),
            seen,
            targets: config.targets.clone(),
            generator: Generator::of(self.side, self.channels),
            noise: self.noise,
            batch: self.batch,
            lr: self.rate(),
            diversity: self.diversity,
            range: self.range,
            seed: self.seed,
        };
        let adam = Adam { beta1: BETAS.0, beta2: BETAS.1, ..Adam::default() };
        let design = Design {
            generator: settings.generator.clone(),
            discriminator: photographs.as_ref().map(|_| Discriminator::facing(&settings.generator)),
            noise: self.noise,
            conditions: config.targets.len(),
            batch: self.batch,
            guide: if photographs.is_some() { BESIDE } else { 1.0 },
            diversity: self.diversity,
            optimizer: Optimizer::Adam(adam),
        };
        let blueprint = Blueprint::new(&design, &mut |g, pictures| {
            Ok(shown.rate_made(&mut Net::new(g, Mode::Eval).unfolded(), pictures))
        })?;
        let device = self.compute.open(events)?;
        let mut session = blueprint.session(device.spec().options, device)?;
        model.bind(&mut session, &blueprint.frozen())?;
        let mut state = State { settings, curve: vec![] };
        self.begin(&mut session, &blueprint, &mut state, out)?;
        let left = self.steps.saturating_sub(state.curve.len());
        events.start("training the generator", left as u64);
        let trained = self.train(&mut session, &blueprint, &adam, photographs.as_ref(), &mut state, output);
        events.done();
        trained?;
        let cells = self.made(&mut session, &blueprint, &config.targets)?;
        drop(session);
        let elites = evolution.map_or_else(Vec::new, |(e, places)| self.evolved(&e, &places, &cells));
        self.leave(&model, judge.as_ref(), cells, elites, &state, output)
    }

    /// Adam's rate.
    fn rate(&self) -> f64 {
        self.lr.unwrap_or(if self.data.is_some() { OPPOSED } else { ALONE })
    }

    /// Refuses what cannot be made.
    fn check(&self, model: &Model) -> Result<()> {
        let config = model.config()?;
        config.check_seen()?;
        if config.targets.is_empty() {
            return Err(Error::usage(format!(
                "{} tells classes apart, and a generator is asked for ratings",
                model.name
            ))
            .fix("name a model of ratings; `evolve` makes pictures for classes"));
        }
        if !self.side.is_power_of_two() || self.side < 8 {
            return Err(Error::usage(format!("{} {} is not a power of two from 8 up", option("side"), self.side))
                .fix("choose 32, 64 or 128"));
        }
        if self.diversity != 0.0 && !self.batch.is_multiple_of(2) {
            let (batch, diversity) = (option("batch"), option("diversity"));
            return Err(Error::usage(format!("{diversity} compares pairs, and {batch} {} is odd", self.batch))
                .fix(format!("take an even {batch}")));
        }
        let [low, high] = self.range;
        if !(1.0 <= low && low < high && high <= 9.0) {
            return Err(Error::usage(format!("{} {low},{high} is no range within 1 to 9", option("range")))
                .fix("name the lower end first, as in 2,8"));
        }
        Ok(())
    }

    /// Decodes the photographs of a discriminator.
    fn photographs(&self, targets: &[String], output: &Output) -> Result<Option<Photographs>> {
        let Some(path) = &self.data else { return Ok(None) };
        let names: Vec<&str> = targets.iter().map(String::as_str).collect();
        let manifest = Manifest::read(path, &names)?;
        let view = View { side: self.side, resize: Resize::SquashBilinear, grey: false, crop: None };
        let options = LoadOptions { views: vec![view], decode: DecodeOptions::default(), cache_dir: None };
        let (manifest, pictures) = load_pictures(&manifest, &options, false, output)?;
        let ratings = manifest.rows.iter().flat_map(|r| r.targets.iter().copied()).collect();
        Ok(Some(Photographs { pictures, ratings }))
    }

    /// First weights, or those of the run in the folder.
    fn begin(&self, session: &mut Session, b: &Blueprint, state: &mut State, out: &Path) -> Result<()> {
        if !self.resume {
            for v in b.kept() {
                let (name, dims) = (b.graph.name(v), b.graph.dims(v));
                // What an optimiser remembers begins as nothing.
                let zero = !b.graph.stored().any(|s| s == v);
                let first = match zero {
                    true => vec![0.0; dims.iter().product()],
                    false => init::draw(name, dims, self.seed, Rule::He)?,
                };
                session.write(v, Data::F32(&first))?;
            }
            return Ok(());
        }
        let path = out.join(STATE);
        let anew = || format!("leave out {} to begin anew", option("resume"));
        let file = WeightFile::open(&path).map_err(|e| e.fix(anew()))?;
        file.all_intact()?;
        let text = file.metadata().get(HEADER).ok_or_else(|| Error::file(&path, "is no generator").fix(anew()))?;
        let there: State =
            serde_json::from_str(text).map_err(|e| Error::file(&path, format!("is no generator: {e}")).fix(anew()))?;
        if there.settings != state.settings {
            return Err(Error::file(&path, "was trained with other settings, or another model")
                .fix(format!("give the same, or {}", anew()))
                .as_usage());
        }
        for v in b.kept() {
            let t = file.tensor(b.graph.name(v))?;
            if t.shape != b.graph.dims(v) {
                return Err(Error::file(&path, format!("`{}` has another shape", b.graph.name(v))).fix(anew()));
            }
            session.write(v, Data::F32(&t.to_f32()?))?;
        }
        state.curve = there.curve;
        Ok(())
    }

    fn save(&self, session: &Session, b: &Blueprint, state: &State, out: &Path) -> Result<()> {
        let tensors: Vec<Stored> = b.kept().into_iter().map(|v| Stored::of(session, v)).collect();
        let text = serde_json::to_string(state).expect("numbers and names");
        let metadata = BTreeMap::from([(HEADER.to_string(), text), (LAYOUT.to_string(), "KRSC".to_string())]);
        stored::write(&out.join(STATE), &metadata, &tensors)
    }

    /// The steps that are left. What was done is on disk, however it ends but for a failure.
    fn train(
        &self,
        session: &mut Session,
        b: &Blueprint,
        adam: &Adam,
        photographs: Option<&Photographs>,
        state: &mut State,
        output: &Output,
    ) -> Result<()> {
        let events = &*output.events;
        let _training = Training::begin(events);
        let mut saved = Instant::now();
        while state.curve.len() < self.steps {
            let step = state.curve.len() as u32;
            let drawn = self.draw(step, state.settings.targets.len(), photographs);
            let batch = Batch {
                noise: Data::F32(&drawn.noise),
                condition: Data::F32(&drawn.condition),
                wanted: Data::F32(&drawn.wanted),
                real: Data::F32(&drawn.real),
            };
            let losses = b.step(session, &batch, adam.hyper(self.rate(), 0.0, step + 1))?;
            if !losses.guide.is_finite() {
                return Err(Error::job(format!("the error is {} in step {}", losses.guide, step + 1))
                    .fix(format!("lower {}", option("lr"))));
            }
            state.curve.push(losses);
            events.message(&format!("squared error {:.3}", losses.guide));
            events.inc();
            let asked = events.stopped() || events.save_wanted();
            if asked || saved.elapsed() >= EVERY {
                events.saving();
                self.save(session, b, state, &output.folder)?;
                saved = Instant::now();
            }
            if events.stopped() {
                let name = output.folder.display();
                tell!(events, "what was trained so far is in {name}: {} goes on from there", option("resume"));
                return Err(Error::interrupted(format!("stopped after step {}", state.curve.len())));
            }
        }
        self.save(session, b, state, &output.folder)
    }

    /// The numbers of a step, always the same ones. With photographs the conditions are their ratings.
    fn draw(&self, step: u32, targets: usize, photographs: Option<&Photographs>) -> Drawn {
        let mut rng = Rng::new(self.seed, Stream::Generate, step);
        let noise = normal(&mut rng, self.batch * self.noise);
        let (mut wanted, mut real): (Vec<f32>, Vec<f32>) = (vec![], vec![]);
        let [low, high] = self.range.map(|v| v as f32);
        for row in 0..self.batch {
            // The second of a pair has the condition of the first.
            let second = self.diversity != 0.0 && row % 2 == 1;
            match photographs {
                Some(p) => {
                    let i = rng.below(p.pictures.len());
                    let own =
                        if second { wanted[(row - 1) * targets..].to_vec() } else { p.rated(i, targets).to_vec() };
                    wanted.extend(own);
                    let shown = if second { real[real.len() - real.len() / row..].to_vec() } else { p.floats(i) };
                    real.extend(shown);
                }
                None if second => wanted.extend_from_within((row - 1) * targets..),
                None => wanted.extend((0..targets).map(|_| low + (high - low) * rng.uniform())),
            }
        }
        Drawn { noise, condition: scaled(&wanted), wanted, real }
    }

    /// Pictures for the middle of every cell.
    fn made(&self, session: &mut Session, b: &Blueprint, targets: &[String]) -> Result<Vec<Cell>> {
        let [low, high] = self.range;
        let middle = |i: usize| low + (i as f64 + 0.5) * (high - low) / self.cells as f64;
        let parts = self.parts(targets);
        let wanted = |cell: usize| {
            let place = [cell / parts[1], cell % parts[1]];
            (0..targets.len()).map(|t| place.get(t).map_or((low + high) / 2.0, |i| middle(*i))).collect::<Vec<f64>>()
        };
        let mut cells: Vec<Cell> =
            (0..parts[0] * parts[1]).map(|i| Cell { wanted: wanted(i), pictures: vec![], rated: vec![] }).collect();
        // Every cell has the same noises: what differs from cell to cell is the condition's.
        let noises = normal(&mut Rng::new(self.seed, Stream::Generate, u32::MAX), self.samples * self.noise);
        let rows: Vec<(usize, usize)> =
            (0..cells.len()).flat_map(|cell| (0..self.samples).map(move |sample| (cell, sample))).collect();
        for some in rows.chunks(self.batch) {
            let (mut noise, mut wanted): (Vec<f32>, Vec<f32>) = (vec![], vec![]);
            for i in 0..self.batch {
                let (cell, sample) = some[i.min(some.len() - 1)];
                noise.extend(&noises[sample * self.noise..][..self.noise]);
                wanted.extend(cells[cell].wanted.iter().map(|w| *w as f32));
            }
            session.write(b.noise, Data::F32(&noise))?;
            session.write(b.condition, Data::F32(&scaled(&wanted)))?;
            session.run(PICTURES)?;
            let pictures = session.read(b.pictures)?;
            let size = self.side * self.side * 3;
            for ((cell, _), picture) in some.iter().zip(pictures.chunks_exact(size)) {
                let bytes = picture.iter().map(|y| ((y + 1.0) * 127.5).round() as u8).collect();
                cells[*cell].pictures.push(bytes);
            }
        }
        Ok(cells)
    }

    /// Parts of the plane along its two ratings.
    fn parts(&self, targets: &[String]) -> [usize; 2] {
        [self.cells, if targets.len() > 1 { self.cells } else { 1 }]
    }

    /// A model that rates what `targets` names, on squares of a side; `whole`: bilinear squares of the whole picture, as the guide
    /// sees it in training, in place of its own rule.
    fn rater(
        &self,
        model: &Model,
        name: String,
        side: Option<usize>,
        targets: &[String],
        whole: bool,
        output: &Output,
    ) -> Result<Judge> {
        let own = model.targets()?;
        let which: Option<Vec<usize>> = targets.iter().map(|t| own.iter().position(|o| o == t)).collect();
        let lacks = || Error::usage(format!("{} does not predict {}", model.name, targets.join(" and ")));
        let predictor = model.sized(side, self.batch, self.compute.open(&*output.events)?)?;
        let mut views = predictor.config.views();
        if whole {
            views.iter_mut().for_each(|v| v.resize = Resize::SquashOpencv);
        }
        Ok(Judge { name, views, predictor, draws: false, ratings: Some(which.ok_or_else(lacks)?) })
    }

    /// Lets models rate what was made, and writes everything.
    fn leave(
        &self,
        model: &Model,
        judge: Option<&Model>,
        mut cells: Vec<Cell>,
        mut elites: Vec<(usize, Elite)>,
        state: &State,
        output: &Output,
    ) -> Result<Ended> {
        let (config, seen) = (model.config()?, state.settings.seen);
        let targets = &config.targets[..];
        let mut models = vec![];
        let mut rate = |mut judge: Judge| -> Result<()> {
            // All at once: a batch takes as long for one picture as for as many as it holds.
            let all: Vec<Vec<u8>> = cells.iter().flat_map(|c| c.pictures.iter().cloned()).collect();
            let mut said = judge.judge(&all, self.side)?.into_iter();
            cells.iter_mut().for_each(|c| c.rated.push(said.by_ref().take(c.pictures.len()).collect()));
            for some in elites.chunk_by_mut(|(_, a), (_, b)| a.side == b.side) {
                let all: Vec<Vec<u8>> = some.iter().map(|(_, e)| e.picture.clone()).collect();
                let said = judge.judge(&all, some[0].1.side)?;
                some.iter_mut().zip(said).for_each(|((_, e), said)| e.rated.push(said));
            }
            models.push(judge.name);
            Ok(())
        };
        rate(self.rater(model, model.name.clone(), seen, targets, true, output)?)?;
        if seen.is_some_and(|side| side != config.image) {
            let name = format!("{} at {} pixels", model.name, config.image);
            rate(self.rater(model, name, None, targets, false, output)?)?;
        }
        if let Some(judge) = judge {
            // Two files of one name are told apart.
            let name = if judge.name == model.name { format!("judge {}", judge.name) } else { judge.name.clone() };
            rate(self.rater(judge, name, None, targets, false, output)?)?;
        }
        let steps = state.curve.len();
        let fact = |k: &str, v: String| (k.to_string(), v);
        let mut facts = vec![
            fact("Guide", model.name.clone()),
            fact("Steps", format!("{steps} of {} pictures, Adam at {}", self.batch, self.rate())),
            fact("Pictures", format!("{} pixels, {} for each of {} cells", self.side, self.samples, cells.len())),
            fact("Diversity", self.diversity.to_string()),
            fact("Seed", self.seed.to_string()),
        ];
        if let Some(data) = &self.data {
            facts.push(fact("Photographs", data.file_name().unwrap_or_default().to_string_lossy().into_owned()));
        }
        let mut generated = Generated {
            cells,
            parts: self.parts(targets),
            side: self.side,
            targets,
            range: self.range,
            models,
            curve: &state.curve,
            elites,
            subtitle: output.command.clone(),
            notes: vec![],
            facts,
        };
        let measures = generated.measures();
        let notes: Vec<Message> = self.notes(&measures, judge.is_some()).into_iter().map(Message::new).collect();
        generated.notes = notes.iter().map(Message::dashed).collect();
        write(&output.folder, &generated)?;
        Ok(Ended { measures, notes, steps })
    }

    /// What a reader must know, the most important first.
    fn notes(&self, m: &Measures, judged: bool) -> Vec<String> {
        let errors = &m.squared_error_points2;
        let constant = format!("one picture for all cells would come to {:.2} at best", m.constant_picture_points2);
        let (name, error) = if judged { &errors[errors.len() - 1] } else { &errors[0] };
        let mut notes = vec![match judged {
            true => format!(
                "{name}, which had no say, rates the pictures {error:.2} points² from what was asked for; {constant}."
            ),
            false => format!(
                "The pictures are {error:.2} points² from what was asked for, by {name}, the model that guided; {constant}. Whether \
                 they say anything of what people feel, a second model that had no say can hint at: {}.",
                option("judge")
            ),
        }];
        if judged {
            notes.push(format!("By {}, the model that guided, they are {:.2} points² away.", errors[0].0, errors[0].1));
        }
        let diversity = option("diversity");
        let remedy = match self.diversity {
            0.0 => format!("{diversity} 0.1 rewards pictures that differ"),
            d => format!("a {diversity} above {d} rewards pictures that differ more"),
        };
        if m.between_cells_levels < ALIKE {
            notes.push(format!(
                "The generator has collapsed: pictures of different cells differ by {:.1} of 255 levels. Take more {}; {remedy}.",
                m.between_cells_levels,
                option("steps")
            ));
        } else if self.samples > 1 && m.within_cells_levels < ALIKE {
            notes.push(format!(
                "Noise changes next to nothing: two pictures of a cell differ by {:.1} of 255 levels, and {remedy}.",
                m.within_cells_levels
            ));
        }
        notes
    }

    /// The evolution whose elites stand beside what is made, and which of its ratings the targets are.
    fn evolution(&self, targets: &[String]) -> Result<Option<(Evolution, Vec<usize>)>> {
        let Some(dir) = &self.elites else { return Ok(None) };
        let path = dir.join(EVOLVED);
        let fix = || format!("name the folder of an `evolve` with {}", option("elites"));
        let bytes = files::read(&path, files::TENSORS).map_err(|e| Error::io(&path, "read", e).fix(fix()))?;
        let e: Evolution = serde_json::from_slice(&bytes)
            .map_err(|e| Error::file(&path, format!("is no evolution: {e}")).fix(fix()))?;
        e.check().map_err(|e| Error::file(&path, e.to_string()))?;
        let plane = &targets[..targets.len().min(2)];
        let places: Option<Vec<usize>> = match &e.settings.cells {
            Cells::Grid(axes) => plane.iter().map(|t| axes.iter().position(|a| a.rating == *t)).collect(),
            Cells::Classes(_) => None,
        };
        let Some(places) = places else {
            return Err(Error::file(&path, format!("has no elites for {}", plane.join(" and "))).fix(fix()).as_usage());
        };
        Ok(Some((e, places)))
    }

    /// Of an evolution's elites, for each cell, the one whose ratings are nearest to its middle, among those within it.
    fn evolved(&self, e: &Evolution, places: &[usize], cells: &[Cell]) -> Vec<(usize, Elite)> {
        let half = (self.range[1] - self.range[0]) / self.cells as f64 / 2.0;
        let mut found = vec![];
        for (i, cell) in cells.iter().enumerate() {
            let off = |judged: &[f32], k: usize| (f64::from(judged[places[k]]) - cell.wanted[k]).abs();
            let inside = e.archive.filled().filter(|(_, x)| (0..places.len()).all(|k| off(&x.judged, k) <= half));
            let far = |judged: &[f32]| (0..places.len()).map(|k| off(judged, k).powi(2)).sum::<f64>();
            if let Some((_, x)) = inside.min_by(|a, b| far(&a.1.judged).total_cmp(&far(&b.1.judged))) {
                let picture = x.solution.picture(e.settings.drawing());
                found.push((i, Elite { picture, side: e.settings.side, rated: vec![] }));
            }
        }
        found
    }
}

impl Photographs {
    fn rated(&self, i: usize, targets: usize) -> &[f32] {
        &self.ratings[i * targets..][..targets]
    }

    /// A photograph in [-1, 1].
    fn floats(&self, i: usize) -> Vec<f32> {
        self.pictures.image(i).iter().map(|b| f32::from(*b) / 127.5 - 1.0).collect()
    }

    fn fingerprint(&self) -> String {
        let mut sums: Vec<u64> = (0..self.pictures.len()).map(|i| hash::checksum(self.pictures.image(i))).collect();
        sums.push(hash::checksum(bytemuck::cast_slice(&self.ratings)));
        format!("{:016x}", hash::combined(&sums))
    }
}

/// Ratings of 1 to 9 as a generator reads them: -1 to 1.
fn scaled(ratings: &[f32]) -> Vec<f32> {
    ratings.iter().map(|r| (r - 5.0) / 4.0).collect()
}

/// Numbers of the standard normal distribution, two from two uniform ones (Box & Muller 1958).
fn normal(rng: &mut Rng, n: usize) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(n + 1);
    while numbers.len() < n {
        // 1 - u is never zero.
        let radius = (-2.0 * (1.0 - f64::from(rng.uniform())).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(rng.uniform());
        numbers.extend([radius * angle.cos(), radius * angle.sin()].map(|x| x as f32));
    }
    numbers.truncate(n);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal() {
        let x = normal(&mut Rng::new(3, Stream::Generate, 0), 20_001);
        assert_eq!(x.len(), 20_001);
        let moment = |k: i32| x.iter().map(|x| f64::from(*x).powi(k)).sum::<f64>() / x.len() as f64;
        // Four standard errors: of the moments of a normal variable the variances are 1, 2 and 96.
        for (k, want, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0f64)] {
            assert!((moment(k) - want).abs() < 4.0 * (variance / x.len() as f64).sqrt(), "{k}: {}", moment(k));
        }
    }
}
