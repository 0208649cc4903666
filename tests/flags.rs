//! Every number that a command takes has a range. Walks clap's own tree of commands, so that no new flag escapes.

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory};
use deep_affect::cli::Cli;
use std::any::TypeId;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Whatever the choice of a random stream is, it is one.
const SEEDS: [&str; 1] = ["seed"];
/// Numbers of types of their own: widths or a name, and a percentage.
const OWN: [&str; 2] = ["head", "fail-if-slower"];
/// How flags call a number that they take.
const NUMBERS: [&str; 12] = ["N", "K", "P", "M", "D", "X", "PART", "RATE", "PIXELS", "PERCENT", "WIDTHS", "MINUTES"];

/// Calls `f` with every command that does something, and the words that lead there.
fn each(command: &Command, words: &[String], f: &mut dyn FnMut(&[String], &Command)) {
    if command.get_subcommands().next().is_none() {
        f(words, command);
    }
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        each(sub, &[words, &[sub.get_name().to_string()]].concat(), f);
    }
}

fn tree() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// Flags with a value: the words of the command, and the flag.
fn flags() -> Vec<(Vec<String>, Arg)> {
    let mut all = vec![];
    each(&tree(), &["deep-affect".to_string()], &mut |words, command| {
        let own = command.get_arguments().filter(|a| a.get_long().is_some() && a.get_action().takes_values());
        all.extend(own.map(|a| (words.to_vec(), a.clone())));
    });
    all
}

fn is_number(arg: &Arg) -> bool {
    let types = [
        TypeId::of::<usize>(),
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
    ];
    types.iter().any(|t| arg.get_value_parser().type_id() == *t)
}

fn refused(words: &[String], arg: &Arg, text: &str) -> bool {
    let flag = format!("--{}={text}", arg.get_long().unwrap());
    let parsed = tree().try_get_matches_from(words.iter().chain([&flag]));
    matches!(parsed, Err(e) if e.kind() == ErrorKind::ValueValidation)
}

#[test]
fn every_number_of_every_command_has_a_range() {
    let (mut seen, mut wrong) = (0, vec![]);
    for (words, arg) in flags() {
        let called = arg.get_value_names().unwrap_or(&[]).iter().any(|n| NUMBERS.contains(&n.as_str()));
        // A text that is called a number is taken apart where it is read; what that lets through is not seen here.
        let own = OWN.contains(&arg.get_long().unwrap());
        if called && !is_number(&arg) && !own {
            wrong.push(format!("{} --{}: no number by its type", words.join(" "), arg.get_long().unwrap()));
        }
        if !is_number(&arg) && !own {
            continue;
        }
        seen += 1;
        let seed = SEEDS.contains(&arg.get_id().as_str());
        let texts = ["18446744073709551616", "1e300", "-1e300", "nan", "NaN", "inf", "-inf", "", "x"];
        let large = ["18446744073709551615", "9223372036854775807", "4294967295"];
        let bad = texts.iter().chain(large.iter().filter(|_| !seed)).find(|t| !refused(&words, &arg, t));
        wrong.extend(bad.map(|t| format!("{} --{} {t}: taken", words.join(" "), arg.get_long().unwrap())));
    }
    assert!(seen > 60, "only {seen} numbers found: has the test gone blind?");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn a_number_out_of_range_is_one_line_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for (words, arg) in flags().into_iter().filter(|(_, a)| is_number(a)) {
        // The same flag of several commands is declared once.
        if !seen.insert(arg.get_long().unwrap().to_string()) {
            continue;
        }
        let flag = format!("--{}=1e300", arg.get_long().unwrap());
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_deep-affect"));
        let out = program.args(&words[1..]).arg(&flag).current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), said.lines().count()), (Some(2), 1), "{words:?} {flag}: {said}");
        assert!(said.starts_with("error: ") && said.contains(arg.get_long().unwrap()), "{said}");
    }
}

/// Remedies name flags: those must be there. Whether the very command has them is for the tests of that command.
#[test]
fn every_flag_that_a_message_names_is_there() {
    let mut known: BTreeSet<String> = ["help", "version", "quiet"].map(String::from).into();
    each(&tree(), &[], &mut |_, command| {
        known.extend(command.get_arguments().filter_map(|a| a.get_long()).map(String::from));
    });
    // Of other programs, named in messages and comments.
    known.extend(["no-deps", "target", "release", "gpu-architecture", "std", "use-fast-math"].map(String::from));
    let (mut named, mut wrong) = (0, vec![]);
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")];
    folders.extend(
        ["weights", "data", "train", "models"].map(|f| Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(f)),
    );
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            // Tests ask for flags that are not there.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (n, line) in text.lines().enumerate().filter(|l| l.1.contains('"')) {
                for part in line.split("--").skip(1) {
                    let flag: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                    let flag = flag.trim_end_matches('-');
                    if flag.len() > 1 && path.extension().is_some_and(|e| e == "rs") {
                        named += 1;
                        if !known.contains(flag) {
                            wrong.push(format!("{}:{}: --{flag}", path.display(), n + 1));
                        }
                    }
                }
            }
        }
    }
    assert!(named > 100, "only {named} flags found: has the test gone blind?");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
