//! `import`: somebody's ratings or labels and their pictures to a manifest.

use super::output;
use super::ranges::{MANY, whole};
use crate::atomic;
use crate::data::import::sheet::{Group, Keep, Rated, Sheet};
use crate::data::import::{self, CsvOptions, Import, SETS, Scale, Set, Unpacked};
use crate::data::table;
use crate::error::{Error, Result};
use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    from: Source,
}

/// A command for every set of the list, and one for all other tables.
enum Source {
    Set(&'static Set, Published),
    Csv(Box<Csv>),
}

impl Subcommand for Source {
    fn augment_subcommands(cmd: clap::Command) -> clap::Command {
        let of = |set: &Set| {
            let rated = if set.scale.is_empty() { "labels".into() } else { format!("rated {}", set.scale) };
            let long = format!("{}: {rated}.\n\nROOT holds: {}", set.what, set.holds);
            Published::augment_args(clap::Command::new(set.name)).about(set.what).long_about(long)
        };
        let csv = Csv::augment_args(clap::Command::new("csv"))
            .about("Any table of one row a picture: text, Excel, OpenDocument");
        cmd.subcommands(SETS.iter().map(of)).subcommand(csv).subcommand_required(true)
    }
    fn augment_subcommands_for_update(cmd: clap::Command) -> clap::Command {
        Self::augment_subcommands(cmd)
    }
    fn has_subcommand(name: &str) -> bool {
        name == "csv" || import::sets::set(name).is_some()
    }
}

impl FromArgMatches for Source {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, rest) = matches.subcommand().ok_or_else(missing)?;
        match import::sets::set(name) {
            Some(set) => Ok(Source::Set(set, Published::from_arg_matches(rest)?)),
            None => Ok(Source::Csv(Box::new(Csv::from_arg_matches(rest)?))),
        }
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Args)]
struct Out {
    /// The manifest to write. What did not match goes beside it, to NAME.unmatched.csv.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct Published {
    /// The folder that the set was unpacked into.
    root: PathBuf,
    /// The set's table, if it lies elsewhere or has another name.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// The sheet of a workbook: its name, or #1, #2, ...; the first by default.
    #[arg(long, value_name = "NAME")]
    sheet: Option<String>,
    /// Leave out pictures without both ratings, where a set has such (AffectNet).
    #[arg(long)]
    rated: bool,
    #[command(flatten)]
    out: Out,
}

#[derive(Args)]
struct Csv {
    /// The table: comma, tab or semicolon, .xls, .xlsx or .ods; columns by name, or by position as #1, #2, ...
    table: PathBuf,
    /// Column that names the picture: a path, a file name, or a file name without its ending.
    #[arg(long, value_name = "COLUMN")]
    path_col: String,
    /// Column of the mean valence.
    #[arg(long, value_name = "COLUMN")]
    valence_col: Option<String>,
    /// Column of the mean arousal.
    #[arg(long, value_name = "COLUMN")]
    arousal_col: Option<String>,
    /// Column of the mean dominance; `train --targets valence,arousal,dominance` then predicts all three.
    #[arg(long, value_name = "COLUMN")]
    dominance_col: Option<String>,
    /// Columns of the raters' standard deviations and of their numbers.
    #[arg(long, value_name = "COLUMN", requires = "valence_col")]
    valence_sd_col: Option<String>,
    #[arg(long, value_name = "COLUMN", requires = "valence_col")]
    valence_n_col: Option<String>,
    #[arg(long, value_name = "COLUMN", requires = "arousal_col")]
    arousal_sd_col: Option<String>,
    #[arg(long, value_name = "COLUMN", requires = "arousal_col")]
    arousal_n_col: Option<String>,
    #[arg(long, value_name = "COLUMN", requires = "dominance_col")]
    dominance_sd_col: Option<String>,
    #[arg(long, value_name = "COLUMN", requires = "dominance_col")]
    dominance_n_col: Option<String>,
    /// Ends of the scale the ratings were given on; they become 1 and 9.
    #[arg(long, value_name = "LOW:HIGH")]
    scale: Option<String>,
    /// The same for valence alone.
    #[arg(long, value_name = "LOW:HIGH")]
    valence_scale: Option<String>,
    /// The same for arousal alone.
    #[arg(long, value_name = "LOW:HIGH")]
    arousal_scale: Option<String>,
    /// The same for dominance alone.
    #[arg(long, value_name = "LOW:HIGH")]
    dominance_scale: Option<String>,
    /// The sheet of a workbook: its name, or #1, #2, ...; the first by default.
    #[arg(long, value_name = "NAME")]
    sheet: Option<String>,
    /// Lines above the header.
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 0, value_name = "N")]
    skip_rows: usize,
    /// Rows of the header; the names of a column are joined, as in `Valence M` for an M under Valence.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    header_rows: u8,
    /// comma, tab, semicolon or a character; found out by default.
    #[arg(long, value_name = "NAME")]
    delim: Option<String>,
    /// Column whose equal values are never separated: near-duplicates, one theme.
    #[arg(long, value_name = "COLUMN")]
    group_col: Option<String>,
    /// A further column to keep, under its name or under another; repeatable: `--keep label=Emotion`.
    #[arg(long, value_name = "[NAME=]COLUMN")]
    keep: Vec<String>,
    /// Folder of the pictures; the table's by default.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Name of the set, kept in the manifest.
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    #[command(flatten)]
    out: Out,
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self.from {
            Source::Csv(csv) => csv.run(),
            Source::Set(set, p) => {
                let (table, sheet) = (p.table.as_deref(), p.sheet.as_deref());
                p.out.write(&set.import(Unpacked { root: &p.root, table, sheet, rated: p.rated })?)
            }
        }
    }
}

impl Csv {
    fn run(self) -> Result<()> {
        let means = [&self.valence_col, &self.arousal_col, &self.dominance_col];
        if means.iter().all(|c| c.is_none()) && self.keep.is_empty() {
            return Err(Error::usage("neither a rating nor a label is asked for")
                .fix("name a column with --valence-col, --arousal-col, --dominance-col or --keep label=COLUMN"));
        }
        let scale = |name: &str, column: &Option<String>, own: &Option<String>| -> Result<Scale> {
            match (column, own.as_ref().or(self.scale.as_ref())) {
                (_, Some(scale)) => import::scale(scale),
                (None, None) => Ok((1.0, 9.0)),
                (Some(_), None) => {
                    Err(Error::usage(format!("no scale for {name}")).fix("give --scale, as in --scale 1:7"))
                }
            }
        };
        let scales = [
            scale("valence", &self.valence_col, &self.valence_scale)?,
            scale("arousal", &self.arousal_col, &self.arousal_scale)?,
            scale("dominance", &self.dominance_col, &self.dominance_scale)?,
        ];
        let names = [
            [&self.valence_col, &self.valence_sd_col, &self.valence_n_col],
            [&self.arousal_col, &self.arousal_sd_col, &self.arousal_n_col],
            [&self.dominance_col, &self.dominance_sd_col, &self.dominance_n_col],
        ]
        .map(|of| of.map(|c| c.as_deref()));
        let [valence, arousal, dominance] =
            names.each_ref().map(|[mean, sd, n]| Rated { mean: mean.as_slice(), sd: sd.as_slice(), n: n.as_slice() });
        let keep: Vec<(&str, [&str; 1])> = self
            .keep
            .iter()
            .map(|k| k.split_once('=').map_or((k.as_str(), [k.as_str()]), |(name, column)| (name, [column])))
            .collect();
        let keep: Vec<Keep> = keep.iter().map(|(name, column)| Keep::new(name, column)).collect();
        let key = [self.path_col.as_str()];
        let columns = Sheet {
            valence,
            arousal,
            dominance,
            group: self.group_col.as_deref().map_or(Group::None, Group::Column),
            keep: &keep,
            ..Sheet::key(&key)
        };
        let found = import::csv(&CsvOptions {
            table: &self.table,
            sheet: self.sheet.as_deref(),
            root: self.root.as_deref(),
            columns,
            scales,
            dataset: self.dataset.as_deref(),
            skip_rows: self.skip_rows,
            more_header: usize::from(self.header_rows) - 1,
            delimiter: self.delim.as_deref().map(table::delimiter).transpose()?,
        })?;
        self.out.write(&found)
    }
}

impl Out {
    fn write(&self, found: &Import) -> Result<()> {
        let list = output::beside(&self.out, "unmatched")?;
        found.manifest.write(&self.out)?;
        atomic::write(&list, |w| w.write_all(found.unmatched_csv().as_bytes()))?;
        output::print(&format!("{}wrote {} and {}\n", found.summary(), self.out.display(), list.display()))
    }
}
