//! `weights merge`: one model of those of a cross-validation.

use crate::cli::command_line;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::files;
use crate::train::merge::merge;
use crate::weights::ABOUT;
use crate::weights::store::Store;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Folders of `cross-validate --freeze all --keep-models` over the same pictures: of one run, or of several with other
    /// seeds and the same --fold-file.
    #[arg(required = true, value_name = "DIRS")]
    runs: Vec<PathBuf>,
    /// The model to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How the heads are stored; towers stay as they are.
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    store: Store,
    /// Text that goes into the header and is shown by `weights inspect`: what the model was trained on, its licence.
    #[arg(long, value_name = "FILE")]
    about: Option<PathBuf>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let mut notes = BTreeMap::from([("made_by".to_string(), command_line())]);
        if let Some(path) = &self.about {
            let text = files::text(path, files::PAGE).map_err(|e| Error::io(path, "read", e))?;
            notes.insert(ABOUT.into(), text);
        }
        let m = merge(&self.runs, &self.out, self.store, &notes)?;
        let towers = match &m.bundled[..] {
            [] => String::new(),
            all => format!("; {} from the program", all.join(", ")),
        };
        output::print(&m.metrics.table())?;
        remark!(
            "wrote {}: {} heads{towers}. Above, pooled over folds: each of {} pictures as the heads that did not see it rate it; a \
             pooled correlation is biased downwards",
            self.out.display(),
            m.heads,
            m.pictures
        );
        Ok(())
    }
}
