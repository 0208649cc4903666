//! A model that was solved for answers from tables of features, a line for each of their pictures, or makes these tables of
//! pictures itself.

use super::AnswerFormat;
use crate::data::features_table::{FeatureTable, Joined, joined};
use crate::data::table::csv_line;
use crate::data::{Manifest, Row};
use crate::error::{Error, Result, clean, option};
use crate::experiment::features::{self, Looking};
use crate::solve::model::SolvedModel;
use crate::table::text_table;
use serde_json::{Map, Value, json};
use std::path::Path;

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

/// What a model says of every picture of tables, in the order of the first.
pub struct TableAnswers {
    /// The model's file, without its folder.
    model: String,
    /// What is said of a picture: `<target>_1to9`, or `class`.
    fields: Vec<String>,
    paths: Vec<String>,
    /// By picture: ratings as float32, as of every other model, or the class.
    answers: Vec<Vec<Value>>,
}

/// # Errors
/// No table, tables that do not fit each other, and columns that are not the model's.
pub fn answer(path: &Path, model: &SolvedModel, tables: &[String]) -> Result<TableAnswers> {
    if tables.is_empty() {
        return Err(wants_tables(path, model).as_usage());
    }
    of(path, model, &tables.iter().map(|t| FeatureTable::named(t)).collect::<Result<Vec<_>>>()?)
}

/// What a model says of pictures, whose features it makes itself.
///
/// # Errors
/// A model whose tables did not say how they were made, pictures that cannot be used, and a tower that is not given.
pub fn look(path: &Path, model: &SolvedModel, looking: &Looking) -> Result<TableAnswers> {
    if model.recipes.is_empty() {
        return Err(wants_tables(path, model).as_usage());
    }
    of(path, model, &features::tables(&model.recipes, path, looking)?)
}

fn of(path: &Path, model: &SolvedModel, tables: &[(String, FeatureTable)]) -> Result<TableAnswers> {
    let first = &tables[0].1;
    let paths: Vec<String> = match first.paths.is_empty() {
        true => (1..=first.values.len() / first.columns.len()).map(|i| i.to_string()).collect(),
        false => first.paths.clone(),
    };
    let row = |path: &String| Row { path: path.clone(), ..Row::default() };
    let manifest = Manifest::new("", &[], paths.iter().map(row).collect(), vec![]);
    let Joined { columns, values } = joined(tables, &manifest)?;
    model.fits(&columns)?;
    let all: Vec<usize> = (0..paths.len()).collect();
    let answers = match model.classifies {
        true => model.classes(&values, &all).into_iter().map(|c| vec![json!(model.names[c])]).collect(),
        false => {
            let ratings = model.ratings(&values, &all);
            ratings.chunks_exact(model.names.len()).map(|y| y.iter().map(|y| json!(*y as f32)).collect()).collect()
        }
    };
    let fields = match model.classifies {
        true => vec!["class".into()],
        false => model.names.iter().map(|t| format!("{t}_1to9")).collect(),
    };
    let model = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(TableAnswers { model, fields, paths, answers })
}

impl TableAnswers {
    /// All of it, in a form.
    pub fn text(&self, format: AnswerFormat) -> String {
        let Self { model, fields, paths, answers } = self;
        let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        let object = |path: &String, answer: &Vec<Value>| {
            let pairs = fields.iter().cloned().zip(answer.iter().cloned());
            let path = [("path".to_string(), json!(path))];
            let all = path.into_iter().chain(pairs).chain([("model".into(), json!(model))]);
            Value::Object(all.collect::<Map<_, _>>())
        };
        let rows = || paths.iter().zip(answers);
        match format {
            AnswerFormat::Csv => {
                let head = ["path"].into_iter().chain(fields.iter().map(String::as_str)).chain(["model"]);
                let body = rows()
                    .map(|(p, a)| csv_line([p.clone()].into_iter().chain(a.iter().map(plain)).chain([model.clone()])));
                [csv_line(head)].into_iter().chain(body).collect()
            }
            AnswerFormat::Jsonl => rows().map(|(p, a)| format!("{}\n", object(p, a))).collect(),
            AnswerFormat::Json => format!("{:#}\n", Value::Array(rows().map(|(p, a)| object(p, a)).collect())),
            AnswerFormat::Table => {
                let head: Vec<String> = fields.iter().cloned().chain(["picture".to_string()]).collect();
                let body = rows().map(|(p, a)| a.iter().map(plain).chain([p.clone()]).map(|c| clean(&c)).collect());
                text_table(&head, &body.collect::<Vec<Vec<String>>>())
            }
        }
    }
}
