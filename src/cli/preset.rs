//! `--preset`: whole sets of defaults for `train` and `cross-validate`. What a command line says itself always holds.

use super::flags::{Layer, RunFlags};
use crate::error::{Error, Result};
use crate::train::fit::Updates;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// Where the defaults of a run come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// For small sets of pictures, without any weight file: blocks 4 and 5 of the bundled VGG16, frozen, and one hidden layer of
    /// 64 with the settings of the bundled model; `train` tests on a fifth of the pictures. The default, unless --features,
    /// --network, --weights, --init-missing, --width or --face-classes describes other towers.
    Bundled,
    /// The paper's: three towers, trained end to end from three weight files.
    DeepAffect,
}

/// Flags that describe towers: with one of them a command line means the defaults that its help shows.
const TOWERS: [&str; 6] = ["features", "network", "weights", "init_missing", "width", "face_classes"];

/// What `--weights TOWER=` calls the convolutions inside the program.
pub const BUNDLED: &str = "bundled-tower";

/// [`RunFlags`] with the defaults of their preset.
#[derive(Clone, Debug)]
pub struct Preselected(pub RunFlags);

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
        let towers = TOWERS.iter().any(|t| said.iter().any(|s| s == t));
        let preset = flags.preset.unwrap_or(if towers { Preset::DeepAffect } else { Preset::Bundled });
        if preset == Preset::Bundled {
            bundled(&mut flags, &|id| said.iter().any(|s| s == id));
        }
        Ok(Self(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// The settings that the bundled model was trained with (`src/bundled/affect.md`), where the command line says nothing else.
fn bundled(flags: &mut RunFlags, said: &dyn Fn(&str) -> bool) {
    macro_rules! default {
        ($($part:ident.$field:ident = $value:expr;)*) => {
            $(if !said(stringify!($field)) { flags.$part.$field = $value; })*
        };
    }
    default! {
        model.features = vec!["object".into()];
        model.tower_output = vec!["block4+block5".parse().expect("blocks of a VGG16")];
        model.freeze = vec!["all".into()];
        model.head = Some(vec![Layer::Width(64)]);
        model.keep_features = 0.5;
        model.keep = 0.5;
        train.optimizer = Updates::AdamW;
        train.lr = 1e-3;
        train.weight_decay = 0.03;
        train.epochs = 60;
        train.batch = 16;
        train.plateau = 0;
        train.patience = 0;
        train.val = 0.0;
        train.test = 0.2;
    }
    if !said("weights") {
        flags.model.weights = flags.model.features().iter().map(|tower| format!("{tower}={BUNDLED}")).collect();
    }
}

impl RunFlags {
    /// Refuses a run before anything is decoded if a tower has no weights.
    pub fn check_weights(&self) -> Result<()> {
        let model = &self.model;
        let given = |tower: &str| model.weights.iter().any(|w| w.split_once('=').is_some_and(|(t, _)| t == tower));
        let towers = model.towers();
        let missing: Vec<&str> = towers.iter().map(String::as_str).filter(|t| !given(t)).collect();
        if missing.is_empty() || model.init_missing {
            return Ok(());
        }
        let what = |tower: &&str| match *tower {
            "object" => "object=VGG16 trained on ImageNet".into(),
            "scene" => "scene=VGG16 trained on Places365".into(),
            "face" => "face=VGG19 trained on expressions".into(),
            other => format!("{other}=FILE"),
        };
        let files: Vec<String> = missing.iter().map(|t| format!("--weights {}", what(t))).collect();
        let s = if missing.len() == 1 { "" } else { "s" };
        Err(Error::usage(format!("no weights for the {} tower{s}", missing.join(", "))).fix(format!(
            "give {} (`weights import` makes such files), --init-missing to draw them at random, or --preset bundled, which \
             needs no file",
            files.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Preselected,
    }

    fn flags(line: &str) -> RunFlags {
        Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).unwrap().flags.0
    }

    #[test]
    fn without_a_word_about_towers_it_is_the_bundled_one() {
        let f = flags("");
        assert_eq!(
            (f.model.features, f.model.weights),
            (vec!["object".to_string()], vec![format!("object={BUNDLED}")])
        );
        assert_eq!((f.model.freeze, f.model.head), (vec!["all".to_string()], Some(vec![Layer::Width(64)])));
        assert_eq!((f.train.epochs, f.train.val, f.train.optimizer), (60, 0.0, Updates::AdamW));
        assert!(flags("").check_weights().is_ok());
    }

    #[test]
    fn what_the_line_says_holds() {
        // The value that is the default otherwise, too.
        let f = flags("--epochs 200 --head ridge --test 0 --tower-output pooled");
        assert_eq!((f.train.epochs, f.train.test, f.model.head), (200, 0.0, Some(vec![Layer::Ridge])));
        assert_eq!((f.model.tower_output, f.train.batch), (vec!["pooled".parse().unwrap()], 16));
        let f = flags("--preset bundled --features object,scene --weights scene=a --weights object=b");
        assert_eq!((f.model.weights, f.train.batch), (vec!["scene=a".to_string(), "object=b".into()], 16));
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
        let e = flags("--preset deep-affect").check_weights().unwrap_err().to_string();
        for part in ["object, scene, face towers", "object=VGG16", "scene=VGG16", "face=VGG19", "--preset bundled"] {
            assert!(e.contains(part), "{part}: {e}");
        }
        let e = flags("--weights face=x").check_weights().unwrap_err().to_string();
        assert!(e.contains("object, scene towers") && !e.contains("face"), "{e}");
        assert!(flags("--init-missing").check_weights().is_ok());
    }
}
