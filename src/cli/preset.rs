//! `--preset`: whole sets of defaults for `train` and `cross-validate`. What a command line says itself always holds.

use super::flags::RunFlags;
use super::output::dashed;
use crate::error::Error;
use crate::experiment::config::{NONE, Run};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// Where the defaults of a run come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// For small sets of pictures, without any weight file: blocks 4 and 5 of the bundled VGG16, frozen, and one hidden layer of
    /// 64 with the settings of the bundled model, or ridge below 250 pictures; `train` tests on a fifth of the pictures. The
    /// default, unless --features, --network, --weights, --init-missing, --width or --face-classes describes other towers.
    Bundled,
    /// The paper's: three towers, trained end to end from three weight files.
    DeepAffect,
}

/// Flags that describe towers: with one of them a command line means the defaults that its help shows.
const TOWERS: [&str; 6] = ["features", "network", "weights", "init_missing", "width", "face_classes"];

/// The configuration of a run with the defaults of its preset.
#[derive(Clone, Debug)]
pub struct Preselected(pub Run);

impl Args for Preselected {
    fn augment_args(command: Command) -> Command {
        RunFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        RunFlags::augment_args_for_update(command)
    }
}

impl FromArgMatches for Preselected {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> std::result::Result<Self, clap::Error> {
        let said = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        let said: Vec<String> = matches.ids().filter(said).map(|id| id.to_string()).collect();
        let mut flags = RunFlags::from_arg_matches_mut(matches)?;
        let mut towers = TOWERS.iter().any(|t| said.iter().any(|s| s == t));
        if !flags.model.table.is_empty() && !towers && flags.preset.is_none() {
            // A table alone is a model.
            (flags.model.features, towers) = (vec![NONE.into()], true);
        }
        let preset = flags.preset.unwrap_or(if towers { Preset::DeepAffect } else { Preset::Bundled });
        let refused = |e: Error| clap::Error::raw(ErrorKind::ValueValidation, dashed(&e));
        let mut run = Run::try_from(flags).map_err(refused)?;
        if preset == Preset::Bundled {
            bundled(&mut run, &|id| said.iter().any(|s| s == id));
        }
        Ok(Self(run))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The settings that the bundled model was trained with, where the command line says nothing else.
fn bundled(run: &mut Run, said: &dyn Fn(&str) -> bool) {
    let preset = Run::bundled();
    macro_rules! default {
        ($($part:ident.$field:ident)*) => {
            $(if !said(stringify!($field)) { run.$part.$field = preset.$part.$field; })*
        };
    }
    default! {
        model.features model.tower_output model.freeze model.head model.keep_features model.keep
        train.optimizer train.lr train.weight_decay train.epochs train.batch train.plateau train.patience train.val train.test
    }
    if !said("weights") {
        run.model.weights = run.model.bundled_weights();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::config::{BUNDLED, Layer};
    use crate::train::fit::Updates;
    use clap::Parser;
    use std::collections::BTreeMap;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Preselected,
    }

    fn flags(line: &str) -> Run {
        Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).unwrap().flags.0
    }

    #[test]
    fn without_a_word_about_towers_it_is_the_bundled_one() {
        let f = flags("");
        assert_eq!(
            (f.model.features, f.model.weights),
            (vec!["object".to_string()], BTreeMap::from([("object".to_string(), BUNDLED.to_string())]))
        );
        assert_eq!((f.model.freeze, f.model.head), (vec!["all".to_string()], Some(vec![Layer::BySize])));
        assert_eq!((f.train.epochs, f.train.val, f.train.optimizer), (60, 0.0, Updates::AdamW));
        assert!(flags("").model.check_weights().is_ok());
    }

    #[test]
    fn what_the_line_says_holds() {
        // The value that is the default otherwise, too.
        let f = flags("--epochs 200 --head ridge --test 0 --tower-output pooled");
        assert_eq!((f.train.epochs, f.train.test, f.model.head), (200, 0.0, Some(vec![Layer::Ridge])));
        assert_eq!((f.model.tower_output, f.train.batch), (vec!["pooled".parse().unwrap()], 16));
        let f = flags("--preset bundled --features object,scene --weights scene=a --weights object=b");
        let given = [("object", "b"), ("scene", "a")].map(|(tower, file)| (tower.to_string(), file.to_string()));
        assert_eq!((f.model.weights, f.train.batch), (BTreeMap::from(given), 16));
        for line in ["--features object", "--weights face=x", "--init-missing", "--width 8", "--face-classes 9"] {
            let f = flags(line);
            assert_eq!((f.train.epochs, f.train.batch, f.train.test), (200, 25, 0.0), "{line}");
            assert!(
                f.model.freeze.is_empty() && f.model.weights.len() == usize::from(line.contains("weights")),
                "{line}"
            );
        }
    }

    #[test]
    fn the_papers_model_names_the_files_it_wants() {
        let e = flags("--preset deep-affect").model.check_weights().unwrap_err().to_string();
        for part in ["object, scene, face towers", "object=VGG16", "scene=VGG16", "face=VGG19", "preset bundled"] {
            assert!(e.contains(part), "{part}: {e}");
        }
        let e = flags("--weights face=x").model.check_weights().unwrap_err().to_string();
        assert!(e.contains("object, scene towers") && !e.contains("face"), "{e}");
        assert!(flags("--init-missing").model.check_weights().is_ok());
    }
}
