//! Any table, by columns that the user names.

use super::records::Search;
use super::sheet::Sheet;
use super::{Import, Scale};
use crate::data::table::{Table, TableOptions};
use crate::error::Result;
use std::path::{Path, PathBuf};

/// How to read somebody's table.
#[derive(Clone, Debug)]
pub struct CsvOptions<'a> {
    pub table: &'a Path,
    /// The sheet of a workbook: a name, or `#n`.
    pub sheet: Option<&'a str>,
    /// The folder of the pictures; None takes the table's.
    pub root: Option<&'a Path>,
    /// The columns, by name or as `#n`.
    pub columns: Sheet<'a>,
    /// The ends of the scales that valence, arousal and dominance were rated on.
    pub scales: [Scale; 3],
    pub dataset: Option<&'a str>,
    /// Lines above the header.
    pub skip_rows: usize,
    /// Rows of the header beside the first.
    pub more_header: usize,
    pub delimiter: Option<u8>,
}

/// Reads any table of one row a picture. A column that was named and is not there is an error.
pub fn csv(opts: &CsvOptions) -> Result<Import> {
    let table = Table::read(
        opts.table,
        &TableOptions {
            delimiter: opts.delimiter,
            sheet: opts.sheet,
            skip_rows: opts.skip_rows,
            more_header: opts.more_header,
            ragged: true,
            ..TableOptions::default()
        },
    )?;
    let (columns, root) = (&opts.columns, folder(opts.table, opts.root));
    for names in columns.rated().iter().flat_map(|(_, r)| [r.sd, r.n]).chain(columns.keep.iter().map(|k| k.from)) {
        if !names.is_empty() {
            table.any(names)?;
        }
    }
    columns.read(&table, opts.scales)?.find(Search { root: &root, dataset: opts.dataset, stills: false })
}

/// The folder of the pictures: the table's unless another is named.
fn folder(table: &Path, root: Option<&Path>) -> PathBuf {
    let beside = table.parent().filter(|p| !p.as_os_str().is_empty());
    root.or(beside).unwrap_or(Path::new(".")).to_path_buf()
}
