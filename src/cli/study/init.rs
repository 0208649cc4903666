//! `study init`: a study as a file to be edited, a paper's or a small one.

use crate::atomic;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::experiment::study::{CYBULSKI, KIM, NOGUERA, PARRY, RAPOLU, SMALL};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// The file to write.
    #[arg(default_value = "study.toml")]
    file: PathBuf,
    /// A small study instead of a paper's: heads on the bundled VGG16, for one manifest and without a weight file.
    #[arg(long, conflicts_with = "paper")]
    small: bool,
    /// Whose study.
    #[arg(long, value_enum, default_value_t = Paper::Parry, value_name = "PAPER")]
    paper: Paper,
}

/// A paper whose study there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Paper {
    /// Parry & Vuong 2021, Deep Affect: objects, scenes and faces, eight models over five folds.
    Parry,
    /// Noguera 2018, Emosepar beside VGG16, Inception v3 and Xception from random weights, one split.
    Noguera,
    /// Kim et al. 2018, Building Emotional Machines: dense networks on tables of features, beside AlexNet, VGG19, least squares
    /// and support vector regression, over five folds.
    Kim,
    /// Rapolu et al.: ResNet101 and DenseNet201 on eight emotions, alone and joined, and on sets never trained on.
    Rapolu,
    /// Cybulski 2019: four networks, each trained for a category, for valence and arousal, and for dominance too, over five folds.
    Cybulski,
}

impl Command {
    pub fn run(self) -> Result<()> {
        if self.file.exists() {
            return Err(Error::file(&self.file, "is there already").fix("remove it, or name another file").as_usage());
        }
        let text = match (self.small, self.paper) {
            (true, _) => SMALL,
            (false, Paper::Parry) => PARRY,
            (false, Paper::Noguera) => NOGUERA,
            (false, Paper::Kim) => KIM,
            (false, Paper::Rapolu) => RAPOLU,
            (false, Paper::Cybulski) => CYBULSKI,
        };
        atomic::write(&self.file, |w| w.write_all(text.as_bytes()))?;
        output::print(&format!(
            "wrote {file}: edit its paths, then `deep-affect study run {file} --out DIR`\n",
            file = self.file.display()
        ))
    }
}
