//! Every number that a command takes has a range, and every path may be a pipe or a device. Walks clap's own tree of commands,
//! so that no new flag escapes.

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory};
use deep_affect::cli::Cli;
use std::any::TypeId;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Whatever the choice of a random stream is, it is one.
const SEEDS: [&str; 2] = ["seed", "random"];
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
    known.extend(
        ["no-deps", "target", "release", "gpu-architecture", "std", "use-fast-math", "sparse"].map(String::from),
    );
    let (mut named, mut wrong) = (0, vec![]);
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli")];
    folders.extend(
        ["weights", "data", "train", "models", "experiment", "device", "plan", "export"]
            .map(|f| Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(f)),
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
                // The library marks its options, and the command line gives them their dashes.
                for part in line.split("--").skip(1).chain(line.split("option(\"").skip(1)) {
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

/// Whether it takes the path of a file or a folder, also as one of several things.
fn is_path(arg: &Arg) -> bool {
    let named = |n: &clap::builder::Str| ["FILE", "DIR", "FOLDER", "PATH", "NETWORK"].iter().any(|w| n.contains(w));
    arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
        || arg.get_value_names().unwrap_or(&[]).iter().any(named)
}

/// What an argument that must be there is given where another one is looked at: what the command can begin with.
fn something(arg: &Arg, dir: &Path, run: usize) -> String {
    let file = |name: &str| dir.join(name).to_str().unwrap().to_string();
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bundled/weights/affect.safetensors");
    match arg.get_id().as_str() {
        "out" | "folder" => file(&format!("out{run}")),
        "manifest" | "manifests" | "table" => file("set.csv"),
        "study" => file("study.toml"),
        "inputs" => file("a.png"),
        "root" => file("set"),
        "runs" | "folders" => file("set"),
        _ if is_path(arg) => weights.to_str().unwrap().into(),
        _ => match arg.get_possible_values().first() {
            Some(value) => value.get_name().into(),
            None => "valence".into(),
        },
    }
}

/// A word, or a flag with it; `NAME=FILE` where the flag asks for that.
fn given(arg: &Arg, value: &str) -> Vec<String> {
    let named = arg.get_value_names().unwrap_or(&[]).iter().any(|n| n.contains("=FILE"));
    let value = if named { format!("object={value}") } else { value.into() };
    match arg.get_long() {
        Some(long) => vec![format!("--{long}={value}")],
        None => vec![value],
    }
}

/// Whoever reads a pipe that nobody writes waits for ever, and `/dev/zero` never ends: every command refuses both for every path
/// that it takes, in one line, or writes to the device what it would write to a file.
#[cfg(unix)]
#[test]
fn no_pipe_and_no_device_makes_a_command_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("set")).unwrap();
    image::RgbImage::from_pixel(40, 40, image::Rgb([200, 100, 50])).save(path("a.png")).unwrap();
    fs::copy(path("a.png"), path("b.png")).unwrap();
    fs::write(path("set.csv"), "path,valence,arousal\na.png,3,4\nb.png,5,6\n").unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_deep-affect"))
        .args(["study", "init", "--small", "study.toml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(out.status.success());
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let pipe = path("pipe").to_str().unwrap().to_string();

    let mut work = vec![];
    each(&tree(), &[], &mut |words, command| {
        for arg in command.get_arguments().filter(|a| is_path(a)) {
            // What is written to a device after minutes of measuring.
            let late = words[0] == "bench" && ["json", "svg"].contains(&arg.get_id().as_str());
            for special in [pipe.as_str(), "/dev/zero"].into_iter().filter(|s| !late || *s == pipe) {
                let mut line = words.to_vec();
                line.extend((arg.get_id() == "truth").then(|| "--explain=maps".to_string()));
                for a in command.get_opts().chain(command.get_positionals()) {
                    let this = a.get_id() == arg.get_id();
                    let values = a.get_num_args().map_or(1, |n| n.min_values().max(1));
                    // Pictures, or a manifest of them and a table to write.
                    let of_manifest = arg.get_id() == "manifest";
                    let features = words == ["features"] && a.get_id() == if of_manifest { "table" } else { "inputs" };
                    // Pictures, or what stands in their place.
                    let others = ["tables", "list", "tar"].contains(&arg.get_id().as_str());
                    let predict = words == ["predict"] && a.get_id() == "inputs" && !others;
                    let either = features || predict;
                    for i in 0..if this || either || a.is_required_set() { values } else { 0 } {
                        let other = something(a, dir.path(), work.len());
                        line.extend(given(a, if this && i == 0 { special } else { &other }));
                    }
                }
                work.push((line, special == pipe));
            }
        }
    });
    assert!(work.len() > 150, "only {} paths found: has the test gone blind?", work.len());
    let (start, queue, wrong) = (Instant::now(), Mutex::new(work.iter()), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((line, is_pipe)) = queue.lock().unwrap().next() else { return };
                    if let Some(why) = outcome(line, dir.path(), *is_pipe) {
                        wrong.lock().unwrap().push(format!("{}: {why}", line.join(" ")));
                    }
                }
            });
        }
    });
    println!("{} commands in {:.1?}", work.len(), start.elapsed());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What is wrong with how a command ended that was given a pipe or a device.
#[cfg(unix)]
fn outcome(line: &[String], dir: &Path, is_pipe: bool) -> Option<String> {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    program.args(line).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        // Far more than any takes that ends.
        if start.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            child.wait().unwrap();
            return Some("it does not end".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let errors = said.lines().filter(|l| l.starts_with("error: ")).count();
    let refused = matches!(out.status.code(), Some(1 | 2)) && errors == 1 && said.len() < 5000;
    let written = !is_pipe && out.status.success();
    let asked = said.contains("required") || said.contains("unexpected argument") || said.contains("--help");
    (asked || !(refused || written)).then(|| format!("{:?}: {said}", out.status))
}
