/*! Where the first values of parameters come from: tower files where they are given, a seeded draw elsewhere. */

use super::first_layer;
use super::stored::{Source, Stored};
use crate::data::Pictures;
use crate::data::features_table::FeatureTable;
use crate::device::{Data, Session};
use crate::error::{Error, Result, option};
use crate::graph::{Graph, Value};
use crate::hash;
use crate::models::{Config, Member, Tower};
use crate::weights::init::Rule;
use crate::weights::tower::Allow;
use crate::weights::{TowerWeights, WeightFile, init};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Sources of initial values.
#[derive(Default)]
pub struct Initial {
    /// By tower name.
    towers: BTreeMap<String, Given>,
    /// Those of [`Config::tables`], with their names.
    pub tables: Vec<(String, FeatureTable)>,
    /// Draw what no file gives; otherwise that is an error.
    pub init_missing: bool,
    /// Take no dense layers from a file: they are drawn, whatever classes the file knows.
    pub without_dense: bool,
    pub rule: Rule,
    pub seed: u64,
}

/// A tower's file, and its sum once somebody asks.
struct Given {
    weights: Arc<TowerWeights>,
    sum: OnceLock<String>,
}

impl Given {
    /// SHA-256 of the bytes that are mapped, whatever lies under the file's name by now.
    fn sha256(&self) -> &str {
        self.sum.get_or_init(|| {
            let file = &self.weights.file;
            let sum = hash::sha256(file.as_bytes());
            file.release(0..file.as_bytes().len());
            sum
        })
    }
}

impl Initial {
    pub fn new(seed: u64, init_missing: bool) -> Self {
        Self {
            towers: BTreeMap::new(),
            tables: vec![],
            init_missing,
            without_dense: false,
            rule: Rule::default(),
            seed,
        }
    }

    /// Takes a tower's weights from a file.
    pub fn tower(&mut self, name: &str, weights: TowerWeights) {
        self.towers.insert(name.into(), Given { weights: Arc::new(weights), sum: OnceLock::new() });
    }

    /// SHA-256 of the weights that each tower begins with, by tower.
    pub fn sums(&self) -> BTreeMap<String, String> {
        self.towers.iter().map(|(name, given)| (name.clone(), given.sha256().to_string())).collect()
    }

    /// Class names of the towers whose files have them.
    pub fn class_names(&self) -> BTreeMap<String, Vec<String>> {
        self.towers.iter().filter_map(|(name, given)| Some((name.clone(), given.weights.class_names()?))).collect()
    }

    /// Whether a parameter of a tower may come from its file.
    fn takes(&self, name: &str) -> bool {
        !(self.without_dense && name.starts_with("fc"))
    }

    /// The file that gives a parameter of a member, named without the member's prefix, and its name there.
    fn given<'a>(&self, own: &'a str) -> Option<(&Arc<TowerWeights>, &'a str)> {
        let (tower, rest) = own.split_once('.')?;
        let file = &self.towers.get(tower)?.weights;
        (self.takes(rest) && file.file.info(rest).is_some()).then_some((file, rest))
    }

    /// A member's weights of one tower as [`Initial::fill`] sets them, to be written: they stay where they are.
    pub fn stored(&self, g: &Graph, member: &Member, tower: &Tower) -> Vec<Stored<'static>> {
        let scope = format!("{}{}.", member.prefix, tower.name);
        let one = |v: Value| {
            let (name, shape) = (g.name(v).to_string(), g.dims(v).to_vec());
            let source = match self.given(name.strip_prefix(&member.prefix)?) {
                _ if !name.starts_with(&scope) => return None,
                Some((w, rest)) => Source::Tower(w.clone(), rest.into()),
                None => Source::Drawn { name: name.clone(), seed: self.seed, rule: self.rule },
            };
            Some(Stored { name, shape, source })
        };
        g.stored().filter_map(one).collect()
    }

    /// Gives the pages of a tower's file back: it was copied, or has done its work.
    pub fn release(&self, tower: &Tower) {
        if let Some(Given { weights: w, .. }) = self.towers.get(&tower.name) {
            w.file.release(0..w.file.as_bytes().len());
        }
    }

    /// Names where the values of a member's tower in `g` come from: what a cache of its results must depend on. A file is
    /// named by its content, which one inside the program has too; a draw, of what no file gives, by the member too: those
    /// of a split model are drawn apart.
    pub fn source(&self, g: &Graph, member: &Member, tower: &Tower) -> String {
        let scope = format!("{}{}.", member.prefix, tower.name);
        let file = self.towers.get(&tower.name);
        let has = |n: &str| self.takes(n) && file.is_some_and(|f| f.weights.file.info(n).is_some());
        let given = |v: Value| g.name(v).strip_prefix(&scope).is_some_and(has);
        let mut source = String::new();
        if let Some(file) = file {
            source += &format!("sha256 {} ", file.sha256());
        }
        if !g.stored().all(given) {
            source += &format!("seed {} {:?} {}", self.seed, self.rule, member.prefix);
        }
        source
    }

    /// Compares every file with what the network wants; one message names everything missing, extra or mis-shaped.
    /// Dense layers that a pooled tower does not use may be extra.
    pub fn check(&self, session: &Session, prefixes: &[&str], towers: &[Tower], allow_extra: bool) -> Result<()> {
        let g = session.graph();
        for t in towers {
            let scope = format!("{}{}.", prefixes[0], t.name);
            let wanted: Vec<(String, Vec<usize>)> = g
                .stored()
                .filter_map(|v| Some((g.name(v).strip_prefix(&scope)?.to_string(), g.dims(v).to_vec())))
                .filter(|w| self.takes(&w.0))
                .collect();
            match self.towers.get(&t.name) {
                Some(Given { weights: w, .. }) => {
                    w.match_to(&wanted).require(Allow { missing: self.init_missing, extra: allow_extra })?
                }
                None if wanted.is_empty() || self.init_missing => {}
                None => {
                    return Err(Error::usage(format!("no weights for the {} tower", t.name)).fix(format!(
                        "give {} {}=FILE, or {} to draw them at random",
                        option("weights"),
                        t.name,
                        option("init-missing")
                    )));
                }
            }
        }
        Ok(())
    }

    /// What looks wrong about these pictures, for towers whose files say what they expect ([`first_layer`]).
    pub fn remarks(&self, config: &Config, pictures: &Pictures) -> Result<Vec<String>> {
        /// Pictures that stand for all of them.
        const SAMPLE: usize = 16;
        let views = config.views();
        let mut remarks = vec![];
        for t in &config.towers {
            let Some(Given { weights, .. }) = self.towers.get(&t.name) else { continue };
            let (view, step) = (config.view(t), pictures.len().div_ceil(SAMPLE).max(1));
            let which = views.iter().position(|v| *v == view).expect("a view of the model");
            let squares = (0..pictures.len()).step_by(step).map(|i| pictures.square(i, which));
            if let Some(what) = first_layer::check(weights, &t.preprocess, squares, view.side)? {
                remarks.push(format!("tower {}: {what}", t.name));
            }
        }
        Ok(remarks)
    }

    /// Writes the first values of weights and statistics into a session. Mapped files are bound without a copy where nothing updates
    /// the value. `means` are the training means of the member's targets: the last layer begins there, so that nothing
    /// has to be unlearned first.
    pub fn fill(&self, session: &mut Session, params: &[Value], prefix: &str, means: &[f32]) -> Result<()> {
        for &v in params {
            let name = session.graph().name(v).to_string();
            let Some(own) = name.strip_prefix(prefix) else { continue };
            let shape = session.graph().dims(v).to_vec();
            match self.given(own) {
                Some((w, rest)) => match w.bind(rest)? {
                    Some(range) => bind(session, v, &w.file, range)?,
                    None => session.write(v, Data::F32(&w.load(rest)?))?,
                },
                _ if own == "head.out.bias" && means.len() == shape[0] => session.write(v, Data::F32(means))?,
                // The whole name chooses the stream: members of a split model are drawn apart.
                _ => session.write(v, Data::F32(&init::draw(&name, &shape, self.seed, self.rule)?))?,
            }
        }
        Ok(())
    }
}

/// Sets a value from a mapped file, whose pages are given back if the device has copied them.
pub fn bind(session: &mut Session, v: Value, file: &Arc<WeightFile>, range: Range<usize>) -> Result<()> {
    if !session.bind(v, Arc::new(MappedFile(file.clone())), range.clone())? {
        file.release(range);
    }
    Ok(())
}

/// Keeps a mapping alive for the device that reads it.
pub struct MappedFile(pub Arc<WeightFile>);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
