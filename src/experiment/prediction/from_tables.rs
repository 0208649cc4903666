//! A model that was solved for answers from tables of features, a line for each of their pictures, or makes these tables of
//! pictures itself.

use super::inputs::Input;
use super::{AnswerFormat, Inputs, Shard, failed_too, unusable};
use crate::data::features_table::{FeatureTable, Joined, joined};
use crate::data::table::csv_line;
use crate::data::{Boxes, Manifest, Row, Source};
use crate::error::{Error, Result, clean, option, path_text};
use crate::experiment::Events;
use crate::experiment::config::Compute;
use crate::experiment::features::{self, Looking};
use crate::solve::model::SolvedModel;
use crate::table::text_table;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a model of `fit` needs, where no table was given.
pub fn wants_tables(path: &Path, model: &SolvedModel) -> Error {
    let (columns, n) = (&model.columns, model.columns.len());
    // Columns of `features TOWER --output` say what it was: block4.17.
    let mut outputs: Vec<&str> = vec![];
    for (output, number) in columns.iter().filter_map(|c| c.rsplit_once('.')) {
        if number.parse::<u32>().is_ok() && !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    let of_a_tower = |o: &&str| *o == "pooled" || o.strip_prefix("block").is_some_and(|n| n.parse::<u8>().is_ok());
    let output = match !outputs.is_empty() && outputs.iter().all(of_a_tower) {
        true => format!(" {} {}", option("output"), outputs.join("+")),
        false => String::new(),
    };
    let which = match &columns[..] {
        [only] => format!("the column `{}`", clean(only)),
        all => format!("the {n} columns `{}` to `{}`", clean(&all[0]), clean(&all[n - 1])),
    };
    let (manifest, table) = (option("manifest"), option("table"));
    Error::file(path, format!("is a model of `fit`: it answers from {which} of a table, not from pictures")).fix(format!(
        "make the table with the tower and square that `fit` had, `deep-affect features TOWER{output} {manifest} CSV {table} \
         FILE`, and give it as {table} FILE"
    ))
}

/// What a model says of every picture of tables, in the order of the first; or of pictures, in their own.
pub struct TableAnswers {
    /// The model's file, without its folder.
    model: String,
    /// What is said of a picture: `<target>_1to9`, or `class`.
    fields: Vec<String>,
    paths: Vec<String>,
    /// By picture: ratings as float32, as of every other model, or the class; or why there are none.
    answers: Vec<Result<Vec<Value>, String>>,
}

/// Pictures that a model of `fit` is to look at.
pub struct Looked<'a> {
    pub inputs: &'a Inputs,
    pub shard: Option<Shard>,
    /// Files of the towers that its tables were made with.
    pub towers: &'a [PathBuf],
    pub batch: usize,
    pub compute: &'a Compute,
    pub events: &'a Arc<dyn Events>,
}

/// # Errors
/// No table, tables that do not fit each other, and columns that are not the model's.
pub fn answer(path: &Path, model: &SolvedModel, tables: &[String]) -> Result<TableAnswers> {
    if tables.is_empty() {
        return Err(wants_tables(path, model).as_usage());
    }
    let tables = tables.iter().map(|t| FeatureTable::named(t)).collect::<Result<Vec<_>>>()?;
    let first = &tables[0].1;
    let paths: Vec<String> = match first.paths.is_empty() {
        true => (1..=first.values.len() / first.columns.len()).map(|i| i.to_string()).collect(),
        false => first.paths.clone(),
    };
    let answers = rows(model, &tables, &paths)?.into_iter().map(Ok).collect();
    Ok(TableAnswers::new(path, model, paths, answers))
}

/// What a model says of pictures, whose features it makes itself; of those that cannot be used, why.
///
/// # Errors
/// A model whose tables did not say how they were made, a tower that is not given, and pictures that are no files.
pub fn look(path: &Path, model: &SolvedModel, looked: &Looked) -> Result<TableAnswers> {
    if model.recipes.is_empty() {
        return Err(wants_tables(path, model).as_usage());
    }
    let Looked { inputs, shard, towers, batch, compute, events } = *looked;
    if inputs.live() || matches!(inputs, Inputs::Archives(_)) {
        return Err(Error::file(
            path,
            "is a model of `fit`: it looks at all pictures before it answers, and at files alone",
        )
        .fix("name files, folders, or a list in a file")
        .as_usage());
    }
    let (mut names, mut why, mut files, mut known) = (vec![], HashMap::new(), vec![], HashSet::new());
    for input in inputs.open(shard, Boxes::default(), events)?.0 {
        let input = input?;
        names.push(input.name());
        match input {
            Input::Picture(Source::File(file)) => files.extend(known.insert(file.clone()).then_some(file)),
            Input::Bad(path, reason) => drop(why.insert(path, reason)),
            other => drop(why.insert(other.name(), "a model of `fit` looks at files alone; name one".into())),
        }
    }
    let mut said = HashMap::new();
    if !files.is_empty() {
        let looking = Looking { pictures: &files, towers, batch, compute, events: &**events };
        let (tables, bad) = features::tables(&model.recipes, path, &looking)?;
        why.extend(bad.iter().map(|e| (e.path().unwrap_or_default().to_string(), e.problem())));
        // Those that all tables have.
        let good = files.iter().map(|f| path_text(f)).filter(|f| !why.contains_key(f)).collect::<Vec<String>>();
        if !good.is_empty() {
            let rows = rows(model, &tables, &good)?;
            said.extend(good.into_iter().zip(rows));
        }
    }
    let one = |name: &String| said.get(name).cloned().ok_or_else(|| why.get(name).cloned().unwrap_or_default());
    let answers = names.iter().map(one).collect();
    Ok(TableAnswers::new(path, model, names, answers))
}

/// What a model says of pictures of tables.
fn rows(model: &SolvedModel, tables: &[(String, FeatureTable)], paths: &[String]) -> Result<Vec<Vec<Value>>> {
    let row = |path: &String| Row { path: path.clone(), ..Row::default() };
    let manifest = Manifest::new("", &[], paths.iter().map(row).collect(), vec![]);
    let Joined { columns, values } = joined(tables, &manifest)?;
    model.fits(&columns)?;
    let all: Vec<usize> = (0..paths.len()).collect();
    Ok(match model.classifies {
        true => model.classes(&values, &all).into_iter().map(|c| vec![json!(model.names[c])]).collect(),
        false => {
            let ratings = model.ratings(&values, &all);
            ratings.chunks_exact(model.names.len()).map(|y| y.iter().map(|y| json!(*y as f32)).collect()).collect()
        }
    })
}

impl TableAnswers {
    fn new(file: &Path, model: &SolvedModel, paths: Vec<String>, answers: Vec<Result<Vec<Value>, String>>) -> Self {
        let fields = match model.classifies {
            true => vec!["class".into()],
            false => model.names.iter().map(|t| format!("{t}_1to9")).collect(),
        };
        let model = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { model, fields, paths, answers }
    }

    /// # Errors
    /// Pictures that cannot be used, if there are any.
    pub fn complete(&self) -> Result<()> {
        let mut failed = None;
        for (path, answer) in self.paths.iter().zip(&self.answers) {
            if let Err(why) = answer {
                failed_too(&mut failed, Error::file(path, why));
            }
        }
        unusable(self.paths.len(), failed)
    }

    /// All of it, in a form.
    pub fn text(&self, format: AnswerFormat) -> String {
        let Self { model, fields, paths, answers } = self;
        let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        let values = |answer: &Result<Vec<Value>, String>| answer.clone().unwrap_or(vec![Value::Null; fields.len()]);
        let object = |(path, answer): (&String, &Result<Vec<Value>, String>)| {
            let pairs = fields.iter().cloned().zip(values(answer));
            let path = [("path".to_string(), json!(path))];
            let end = [("error".to_string(), json!(answer.as_ref().err())), ("model".to_string(), json!(model))];
            Value::Object(path.into_iter().chain(pairs).chain(end).collect::<Map<_, _>>())
        };
        let rows = || paths.iter().zip(answers);
        let cells = |answer: &Result<Vec<Value>, String>| -> Vec<String> {
            values(answer).iter().map(|v| if v.is_null() { String::new() } else { plain(v) }).collect()
        };
        match format {
            AnswerFormat::Csv => {
                let head = ["path"].into_iter().chain(fields.iter().map(String::as_str)).chain(["error", "model"]);
                let body = rows().map(|(p, a)| {
                    let end = [a.as_ref().err().cloned().unwrap_or_default(), model.clone()];
                    csv_line([p.clone()].into_iter().chain(cells(a)).chain(end))
                });
                [csv_line(head)].into_iter().chain(body).collect()
            }
            AnswerFormat::Jsonl => rows().map(|r| format!("{}\n", object(r))).collect(),
            AnswerFormat::Json => format!("{:#}\n", Value::Array(rows().map(object).collect())),
            AnswerFormat::Table => {
                let head: Vec<String> = fields.iter().cloned().chain(["picture".to_string()]).collect();
                let body = rows().map(|(p, a)| {
                    let why = a.as_ref().err().map_or(String::new(), |why| format!("  ({why})"));
                    cells(a).into_iter().chain([p.clone() + &why]).map(|c| clean(&c)).collect()
                });
                text_table(&head, &body.collect::<Vec<Vec<String>>>())
            }
        }
    }
}
