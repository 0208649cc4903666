/*! A solved model of a table of features: which columns it takes, how they are standardised, and what it makes of them. Its
file is safetensors: float64 tensors, and the rest as JSON under `model` in the metadata. */

use super::linear::{self, Head, Problem};
use super::svm::{self, Kernel, Machine, Rows};
use crate::error::{Error, Result};
use crate::weights::write::{self, Entry};
use crate::weights::{Dtype, LAYOUT, WeightFile};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How a table is turned into ratings or classes, and with which settings: a model for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "solver")]
pub enum Method {
    /// Least squares.
    Linear,
    /// Ridge regression, with these penalties as scikit-learn has them, or with the ones that inner folds choose.
    Ridge { alpha: Vec<f64> },
    /// Support vector regression.
    Svr { c: Vec<f64>, epsilon: f64 },
    /// Support vector classification.
    Svc { c: Vec<f64> },
}

impl Method {
    /// Refuses settings that no model has.
    pub fn check(&self) -> Result<()> {
        match self {
            Method::Linear => Ok(()),
            Method::Ridge { alpha } => alpha.iter().try_for_each(|a| linear::check_penalty(*a)),
            Method::Svr { c, .. } | Method::Svc { c } if c.is_empty() => {
                Err(Error::usage("no C is given").fix("give one, such as 1"))
            }
            Method::Svr { c, .. } | Method::Svc { c } => c.iter().try_for_each(|c| svm::check_cost(*c)),
        }
    }

    /// The settings in short, one a model: `C 1.5`, `alpha 1000`, `alpha by inner folds`, or nothing.
    pub fn settings(&self) -> Vec<String> {
        match self {
            Method::Linear => vec![String::new()],
            Method::Ridge { alpha } if alpha.is_empty() => vec!["alpha by inner folds".into()],
            Method::Ridge { alpha } => alpha.iter().map(|a| format!("alpha {a}")).collect(),
            Method::Svr { c, .. } | Method::Svc { c } => c.iter().map(|c| format!("C {c}")).collect(),
        }
    }
}

/// What rows are known to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// `values` is [rows, targets].
    Ratings { targets: Vec<String>, values: Vec<f64> },
    /// `class` is one a row.
    Classes { classes: Vec<String>, class: Vec<usize> },
}

/// A table, what its rows are known to be, and which of them belong together.
pub struct Task<'a> {
    pub columns: &'a [String],
    /// [rows, columns]
    pub x: &'a [f32],
    pub answers: &'a Answers,
    /// How much each row counts, in linear models.
    pub weight: &'a [f64],
    pub groups: &'a [Option<String>],
    pub seed: u64,
}

/// Mean and 1 / standard deviation (divided by n) of each column; a column that does not vary is left at its scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    pub mean: Vec<f64>,
    pub inverse: Vec<f64>,
}

impl Scaler {
    /// Of some rows of [rows, width].
    ///
    /// # Errors
    /// Features that are all equal: there is nothing to learn from.
    pub fn of(x: &[f32], width: usize, rows: &[usize]) -> Result<Self> {
        let n = rows.len() as f64;
        let columns = |f: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let mut sums = vec![0.0; width];
            for &i in rows {
                let row = x[i * width..(i + 1) * width].iter().enumerate();
                row.zip(&mut sums).for_each(|((j, x), s)| *s += f(j, f64::from(*x)));
            }
            sums.into_iter().map(|s| s / n).collect()
        };
        let mean = columns(&|_, x| x);
        let variance = columns(&|j, x| (x - mean[j]) * (x - mean[j]));
        // Equal numbers may leave the rounding of their mean.
        let varies = |j: usize| rows.iter().any(|i| x[i * width + j] != x[rows[0] * width + j]);
        let inverse: Vec<f64> = (0..width).map(|j| if varies(j) { 1.0 / variance[j].sqrt() } else { 0.0 }).collect();
        if inverse.iter().all(|i| *i == 0.0) {
            return Err(Error::job(format!("the features of all {} pictures are equal", rows.len()))
                .fix("check the table, or give another one"));
        }
        let inverse = inverse.into_iter().map(|i| if i == 0.0 { 1.0 } else { i }).collect();
        Ok(Self { mean, inverse })
    }

    /// Some rows, standardised.
    fn apply(&self, x: &[f32], rows: &[usize]) -> Vec<f64> {
        let width = self.mean.len();
        let row = |i: &usize| {
            let row = x[i * width..(i + 1) * width].iter().zip(&self.mean).zip(&self.inverse);
            row.map(|((x, m), i)| (f64::from(*x) - m) * i)
        };
        rows.iter().flat_map(row).collect()
    }
}

/// What is made of standardised columns.
#[derive(Clone, Debug, PartialEq)]
enum Function {
    Line(Head),
    Machine(Machine),
}

impl Function {
    /// Without what other settings are kept with.
    fn compact(&self) -> Self {
        match self {
            Function::Line(head) => Function::Line(head.clone()),
            Function::Machine(machine) => Function::Machine(machine.compact()),
        }
    }
}

/// A solved model.
#[derive(Clone, Debug, PartialEq)]
pub struct SolvedModel {
    pub columns: Vec<String>,
    /// In short, as [`Method::settings`] has it.
    pub setting: String,
    /// Names of the ratings, or of the classes.
    pub names: Vec<String>,
    /// Whether it says classes, by votes of their pairs.
    pub classifies: bool,
    /// Mean of each rating that it learned from: the baseline of every evaluation. None of classes, nor in older files.
    pub train_mean: Vec<f64>,
    pub scaler: Scaler,
    /// How its columns are made of a picture: of each table the name and the recipe. None where a table did not say.
    pub recipes: Vec<(String, Value)>,
    function: Function,
}

/// What a file says beside its tensors.
#[derive(Serialize, Deserialize)]
struct Described {
    columns: Vec<String>,
    setting: String,
    names: Vec<String>,
    classifies: bool,
    #[serde(default)]
    train_mean: Vec<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipes: Vec<(String, Value)>,
    /// Of a support vector machine; none of a linear model.
    gamma: Option<f64>,
}

/// The metadata's key.
const MODEL: &str = "model";

/// Models of some rows of a task, one for each setting of the method; columns are standardised by these rows.
///
/// # Errors
/// What the method refuses, features that are all equal, ratings for a classifier or classes for the others.
pub fn solve(method: &Method, task: &Task, rows: &[usize]) -> Result<Vec<SolvedModel>> {
    method.check()?;
    let width = task.columns.len();
    let scaler = Scaler::of(task.x, width, rows)?;
    let x = scaler.apply(task.x, rows);
    let (names, functions): (_, Vec<Function>) = match (method, task.answers) {
        (Method::Svc { c }, Answers::Classes { classes, class }) => {
            let class: Vec<usize> = rows.iter().map(|&i| class[i]).collect();
            let kernel = Kernel::Rbf { gamma: svm::gamma_scale(&x, width)? };
            let machines = Rows::new(x, width, kernel).classify(&class, classes.len(), c, svm::TOLERANCE)?;
            (classes, machines.into_iter().map(Function::Machine).collect())
        }
        (Method::Svr { c, epsilon }, Answers::Ratings { targets, values }) => {
            let n = targets.len();
            let of = |t: usize| rows.iter().map(move |&i| values[i * n + t]).collect();
            let y: Vec<Vec<f64>> = (0..n).map(of).collect();
            let kernel = Kernel::Rbf { gamma: svm::gamma_scale(&x, width)? };
            let machines = Rows::new(x, width, kernel).regress(&y, c, *epsilon, svm::TOLERANCE)?;
            (targets, machines.into_iter().map(Function::Machine).collect())
        }
        (Method::Linear | Method::Ridge { .. }, Answers::Ratings { targets, values }) => {
            let n = targets.len();
            let y = rows.iter().flat_map(|&i| &values[i * n..(i + 1) * n]).copied().collect();
            let weight = rows.iter().map(|&i| task.weight[i]).collect();
            let p = Problem { x, width, y, targets: n, weight };
            let all: Vec<usize> = (0..rows.len()).collect();
            let heads = match method {
                Method::Ridge { alpha } if alpha.is_empty() => {
                    let groups: Vec<_> = rows.iter().map(|&i| task.groups[i].clone()).collect();
                    vec![linear::fit(&p, &all, &groups, task.seed)?]
                }
                Method::Ridge { alpha } => {
                    alpha.iter().map(|a| linear::ridge(&p, &all, *a)).collect::<Result<Vec<_>>>()?
                }
                _ => vec![linear::least_squares(&p, &all)?],
            };
            (targets, heads.into_iter().map(Function::Line).collect())
        }
        _ => return Err(Error::usage("classes are for the solver svc, ratings for the others")),
    };
    let total: f64 = rows.iter().map(|&i| task.weight[i]).sum();
    let train_mean: Vec<f64> = match task.answers {
        Answers::Ratings { targets, values } => {
            let n = targets.len();
            let sum = |t: usize| rows.iter().map(|&i| task.weight[i] * values[i * n + t]).sum::<f64>();
            (0..n).map(|t| sum(t) / total).collect()
        }
        Answers::Classes { .. } => vec![],
    };
    let model = |(setting, function)| SolvedModel {
        columns: task.columns.to_vec(),
        setting,
        names: names.clone(),
        classifies: matches!(method, Method::Svc { .. }),
        train_mean: train_mean.clone(),
        scaler: scaler.clone(),
        recipes: vec![],
        function,
    };
    Ok(method.settings().into_iter().zip(functions).map(model).collect())
}

impl SolvedModel {
    fn values(&self, x: &[f32], rows: &[usize]) -> Vec<f64> {
        let x = self.scaler.apply(x, rows);
        match &self.function {
            Function::Line(head) => head.predict(&x),
            Function::Machine(machine) => machine.values(&x),
        }
    }

    /// Ratings [rows, targets] of some rows of a table [.., columns].
    pub fn ratings(&self, x: &[f32], rows: &[usize]) -> Vec<f64> {
        self.values(x, rows)
    }

    /// The class of each of some rows of a table [.., columns]: of most votes.
    pub fn classes(&self, x: &[f32], rows: &[usize]) -> Vec<usize> {
        let k = self.names.len();
        let values = self.values(x, rows);
        values.chunks_exact(k * (k - 1) / 2).map(|v| svm::elected(&svm::votes(v, k))).collect()
    }

    /// Refuses a table with other columns.
    pub fn fits(&self, columns: &[String]) -> Result<()> {
        match self.columns.iter().zip(columns).position(|(a, b)| a != b) {
            Some(i) => Err(format!("column {} is `{}`, not `{}`", i + 1, columns[i], self.columns[i])),
            None if self.columns.len() != columns.len() => {
                Err(format!("{} columns, not {}", columns.len(), self.columns.len()))
            }
            None => Ok(()),
        }
        .map_err(|what| Error::usage(format!("the table has {what}")).fix("give the tables that the model was made of"))
    }

    /// Writes the model, whole or not at all.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let (width, function) = (self.columns.len(), self.function.compact());
        let mut tensors =
            vec![doubles("mean", &[width], &self.scaler.mean), doubles("inverse", &[width], &self.scaler.inverse)];
        let gamma = match &function {
            Function::Line(head) => {
                let n = head.bias.len();
                tensors.push(doubles("weight", &[n, width], &head.weight));
                tensors.push(doubles("bias", &[n], &head.bias));
                tensors.push(doubles("alpha", &[n], &head.lambda));
                None
            }
            Function::Machine(m) => {
                tensors.push(doubles("support", &[m.len(), width], &m.support));
                tensors.push(doubles("coef", &[m.bias.len(), m.len()], &m.coef));
                tensors.push(doubles("bias", &[m.bias.len()], &m.bias));
                match m.kernel {
                    Kernel::Rbf { gamma } => Some(gamma),
                    Kernel::Linear => Some(0.0),
                }
            }
        };
        let (columns, setting, names) = (self.columns.clone(), self.setting.clone(), self.names.clone());
        let (classifies, train_mean, recipes) = (self.classifies, self.train_mean.clone(), self.recipes.clone());
        let described = Described { columns, setting, names, classifies, train_mean, recipes, gamma };
        let described = serde_json::to_string(&described).expect("plain data");
        let metadata = BTreeMap::from([(LAYOUT.to_string(), "KRSC".to_string()), (MODEL.to_string(), described)]);
        write::write(path, &metadata, &tensors)
    }

    /// Reads a file of [`SolvedModel::write`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = WeightFile::open(path)?;
        let wrong = |problem: &str| Error::file(path, problem).fix("name a file that `deep-affect fit` wrote");
        let text = file.metadata().get(MODEL).ok_or_else(|| wrong("is no model of a table of features"))?;
        let d: Described = serde_json::from_str(text).map_err(|e| wrong(&format!("damaged description: {e}")))?;
        let get = |name: &str, shape: &[usize]| -> Result<Vec<f64>> {
            file.intact(name)?;
            let t = file.tensor(name)?;
            if t.dtype != Dtype::F64 || t.shape != shape {
                return Err(wrong(&format!("`{name}` is {} {:?}, not F64 {shape:?}", t.dtype, t.shape)));
            }
            t.to_f64()
        };
        let (width, k) = (d.columns.len(), d.names.len());
        let functions = if d.classifies { k * k.saturating_sub(1) / 2 } else { k };
        if width == 0 || functions == 0 || (d.classifies && d.gamma.is_none()) {
            return Err(wrong("describes no model"));
        }
        let scaler = Scaler { mean: get("mean", &[width])?, inverse: get("inverse", &[width])? };
        let bias = get("bias", &[functions])?;
        let function = match d.gamma {
            None => {
                let (weight, lambda) = (get("weight", &[k, width])?, get("alpha", &[k])?);
                Function::Line(Head { weight, bias, lambda })
            }
            Some(gamma) => {
                let kernel = if gamma > 0.0 { Kernel::Rbf { gamma } } else { Kernel::Linear };
                let n = file.info("support").and_then(|i| i.shape.first().copied()).unwrap_or(0);
                let (support, coef) = (get("support", &[n, width])?, get("coef", &[functions, n])?);
                Function::Machine(Machine { kernel, width, support: Arc::new(support), coef, bias })
            }
        };
        let Described { columns, setting, names, classifies, train_mean, recipes, .. } = d;
        Ok(Self { columns, setting, names, classifies, train_mean, scaler, recipes, function })
    }
}

/// The model of a file of [`SolvedModel::write`]; None of a file of another kind.
pub fn of_file(path: &Path) -> Result<Option<SolvedModel>> {
    let file = WeightFile::open(path)?;
    let ours = file.metadata().get(MODEL).is_some_and(|t| serde_json::from_str::<Described>(t).is_ok());
    if ours { SolvedModel::read(path).map(Some) } else { Ok(None) }
}

fn doubles<'a>(name: &str, shape: &[usize], values: &'a [f64]) -> Entry<'a> {
    Entry::bytes(name, Dtype::F64, shape, bytemuck::cast_slice(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    /// 30 rows of 4 columns, the last of which does not vary; classes and ratings by the first.
    fn data() -> (Vec<String>, Vec<f32>, [Answers; 2]) {
        let mut rng = Rng::new(5, Stream::Test(1), 0);
        let x: Vec<f32> = (0..30).flat_map(|_| [rng.uniform(), 100.0 * rng.uniform(), rng.uniform(), 7.0]).collect();
        let first: Vec<f64> = x.iter().step_by(4).map(|x| f64::from(*x)).collect();
        let ratings = Answers::Ratings {
            targets: vec!["valence".into(), "arousal".into()],
            values: first.iter().flat_map(|x| [1.0 + 8.0 * x, 9.0 - 8.0 * x]).collect(),
        };
        let classes = Answers::Classes {
            classes: ["low", "middle", "high"].map(String::from).into(),
            class: first.iter().map(|x| (3.0 * x) as usize).collect(),
        };
        (["a", "b", "c", "d"].map(String::from).into(), x, [ratings, classes])
    }

    #[test]
    fn models_come_back_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let (columns, x, [ratings, classes]) = data();
        let (weight, groups) = (vec![1.0; 30], vec![None; 30]);
        let task = |answers| Task { columns: &columns, x: &x, answers, weight: &weight, groups: &groups, seed: 1 };
        let (train, test): (Vec<usize>, Vec<usize>) = (0..30).partition(|i| i % 5 != 0);
        for (method, models) in [
            (Method::Ridge { alpha: vec![1e-6, 10.0] }, 2),
            (Method::Ridge { alpha: vec![] }, 1),
            (Method::Svr { c: vec![1.0, 100.0], epsilon: 0.1 }, 2),
            (Method::Svc { c: vec![0.5, 100.0] }, 2),
        ] {
            let classifies = matches!(method, Method::Svc { .. });
            let all = solve(&method, &task(if classifies { &classes } else { &ratings }), &train).unwrap();
            assert_eq!((all.len(), all[0].classifies), (models, classifies));
            for (i, model) in all.iter().enumerate() {
                let path = dir.path().join("m.safetensors");
                model.write(&path).unwrap();
                let compact = SolvedModel { function: model.function.compact(), ..model.clone() };
                assert_eq!(SolvedModel::read(&path).unwrap(), compact, "{method:?}");
                model.fits(&columns).unwrap();
                // The setting that adapts most knows what it has not seen.
                let adapts =
                    matches!((&method, i), (Method::Ridge { .. }, 0) | (Method::Svr { .. } | Method::Svc { .. }, 1));
                match &classes {
                    Answers::Classes { class, .. } if classifies && adapts => {
                        let got = model.classes(&x, &test);
                        let right = test.iter().zip(&got).filter(|(i, got)| class[**i] == **got).count();
                        assert!(right >= 5, "{right} of 6");
                    }
                    _ if !adapts => {}
                    _ => {
                        let got = model.ratings(&x, &test);
                        let worst = test.iter().zip(got.chunks(2)).map(|(&i, got)| {
                            let first = f64::from(x[4 * i]);
                            (got[0] - 1.0 - 8.0 * first).abs().max((got[1] - 9.0 + 8.0 * first).abs())
                        });
                        assert!(worst.fold(0.0, f64::max) < 1.0, "{method:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_solved_is_said_in_one_line() {
        let (columns, mut x, [ratings, classes]) = data();
        let (weight, groups) = (vec![1.0; 30], vec![None; 30]);
        let all: Vec<usize> = (0..30).collect();
        let complaint = |method: Method, answers: &Answers, x: &[f32]| {
            let task = Task { columns: &columns, x, answers, weight: &weight, groups: &groups, seed: 1 };
            solve(&method, &task, &all).unwrap_err().to_string()
        };
        let svc = |c: f64| Method::Svc { c: vec![c] };
        assert!(complaint(svc(0.0), &classes, &x).contains("C is 0, and must be above 0"));
        assert!(complaint(Method::Svc { c: vec![] }, &classes, &x).contains("no C"));
        assert!(complaint(svc(1.0), &ratings, &x).contains("classes are for the solver svc"));
        assert!(complaint(Method::Ridge { alpha: vec![-1.0] }, &ratings, &x).contains("the penalty -1"));
        // A column that does not vary depends on the constant.
        assert!(complaint(Method::Linear, &ratings, &x).contains("1 of 4 columns depend on the others"));
        x.fill(0.1);
        assert!(complaint(svc(1.0), &classes, &x).contains("the features of all 30 pictures are equal"));
    }

    #[test]
    fn other_tables_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (columns, x, [_, classes]) = data();
        let task =
            Task { columns: &columns, x: &x, answers: &classes, weight: &[1.0; 30], groups: &vec![None; 30], seed: 1 };
        let model = solve(&Method::Svc { c: vec![1.0] }, &task, &(0..30).collect::<Vec<_>>()).unwrap().remove(0);
        let mut other = columns.clone();
        other[2] = "z".into();
        assert!(model.fits(&other).unwrap_err().to_string().contains("column 3 is `z`, not `c`"));
        assert!(model.fits(&columns[..3]).unwrap_err().to_string().contains("3 columns, not 4"));
        let path = dir.path().join("w.safetensors");
        write::write(&path, &BTreeMap::new(), &[Entry::f32("w", &[1], &[1.0])]).unwrap();
        assert!(SolvedModel::read(&path).unwrap_err().to_string().contains("is no model of a table"));
    }
}
