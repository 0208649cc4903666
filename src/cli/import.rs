//! `import`: somebody's rating table and pictures to a manifest.

use super::output;
use crate::atomic;
use crate::data::import::{self, CsvOptions, Group, Import, Target};
use crate::data::table;
use crate::error::{Error, Result};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// The Open Affective Standardized Image Set, as unpacked.
    Oasis {
        /// The folder with OASIS.csv and the pictures.
        dir: PathBuf,
        #[command(flatten)]
        out: Out,
    },
    /// Any table of one row a picture.
    Csv(Box<Csv>),
}

#[derive(Args)]
struct Out {
    /// The manifest to write. What did not match goes beside it, to NAME.unmatched.csv.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct Csv {
    /// The table: comma, tab or semicolon; columns by name, or by position as #1, #2, ...
    table: PathBuf,
    /// Column that names the picture: a path, a file name, or a file name without its ending.
    #[arg(long, value_name = "COLUMN")]
    path_col: String,
    /// Column of the mean valence.
    #[arg(long, value_name = "COLUMN", required_unless_present = "arousal_col")]
    valence_col: Option<String>,
    /// Column of the mean arousal.
    #[arg(long, value_name = "COLUMN")]
    arousal_col: Option<String>,
    /// Ends of the scale the ratings were given on; they become 1 and 9.
    #[arg(long, value_name = "LOW:HIGH", required_unless_present_all = ["valence_scale", "arousal_scale"])]
    scale: Option<String>,
    /// The same for valence alone.
    #[arg(long, value_name = "LOW:HIGH")]
    valence_scale: Option<String>,
    /// The same for arousal alone.
    #[arg(long, value_name = "LOW:HIGH")]
    arousal_scale: Option<String>,
    /// Lines above the header.
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip_rows: usize,
    /// comma, tab, semicolon or a character; found out by default.
    #[arg(long, value_name = "NAME")]
    delim: Option<String>,
    /// Column whose equal values are never separated: near-duplicates, one theme.
    #[arg(long, value_name = "COLUMN")]
    group_col: Option<String>,
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
            From::Oasis { dir, out } => out.write(&import::oasis(dir)?),
            From::Csv(csv) => csv.run(),
        }
    }
}

impl Csv {
    fn run(self) -> Result<()> {
        let target = |name: &str, column: &Option<String>, own: &Option<String>| -> Result<Option<Target>> {
            let Some(column) = column else { return Ok(None) };
            let Some(scale) = own.as_ref().or(self.scale.as_ref()) else {
                return Err(Error::usage(format!("no scale for {name}")).fix("give --scale, as in --scale 1:7"));
            };
            Ok(Some(Target { name: name.into(), column: column.clone(), scale: import::scale(scale)? }))
        };
        let valence = target("valence", &self.valence_col, &self.valence_scale)?;
        let arousal = target("arousal", &self.arousal_col, &self.arousal_scale)?;
        let options = CsvOptions {
            table: self.table,
            root: self.root,
            key: self.path_col,
            targets: valence.into_iter().chain(arousal).collect(),
            group: self.group_col.map_or(Group::None, Group::Column),
            keep: vec![],
            dataset: self.dataset,
            skip_rows: self.skip_rows,
            delimiter: self.delim.as_deref().map(table::delimiter).transpose()?,
        };
        self.out.write(&import::csv(&options)?)
    }
}

impl Out {
    fn write(&self, found: &Import) -> Result<()> {
        let list = unmatched_path(&self.out)?;
        found.manifest.write(&self.out)?;
        atomic::write(&list, |w| w.write_all(found.unmatched_csv().as_bytes()))?;
        output::print(&format!("{}wrote {} and {}\n", found.summary(), self.out.display(), list.display()))
    }
}

/// `set.csv` to `set.unmatched.csv`.
fn unmatched_path(out: &Path) -> Result<PathBuf> {
    let Some(stem) = out.file_stem().filter(|_| !out.is_dir()) else {
        return Err(Error::file(out, "is a folder, and a file is to be written there").fix("name a file in --out"));
    };
    let mut name = stem.to_os_string();
    name.push(".unmatched.csv");
    Ok(out.with_file_name(name))
}
