//! The pages people read: every command line in them is parsed by the program's own parser, and run where that takes
//! seconds, on small data; links lead somewhere; generated tables are as the program would write them.

use clap::Parser;
use deep_affect::cli::Cli;
use deep_affect::launch::gpu::Kernel;
use deep_affect::ops;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every README.md of the repository, its own first.
fn pages() -> Vec<PathBuf> {
    let (mut found, mut todo) = (vec![], vec![root().to_path_buf()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                todo.push(path);
            } else if name == "README.md" {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 8, "{found:?}");
    found
}

/// A page by its path in the repository.
fn name(page: &Path) -> String {
    page.strip_prefix(root()).unwrap().display().to_string()
}

/// Lines of the fenced blocks of one kind, with their number in the page. Lines that end in a backslash are joined.
fn fenced(text: &str, kind: &str) -> Vec<(usize, String)> {
    let (mut lines, mut inside, mut open) = (vec![], None, String::new());
    for (i, line) in text.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            inside = if inside.is_some() { None } else { Some(info.to_string()) };
            continue;
        }
        if inside.as_deref() != Some(kind) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) => open += begun,
            None => lines.push((i + 1, std::mem::take(&mut open) + line)),
        }
    }
    lines
}

/// The words of a shell command without its comment. Quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "a quote is open: {line}");
    words.extend(word);
    words
}

/// The program's own arguments, its name included, up to a pipe or a redirection; None for another program.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    let program = "deep-affect".to_string();
    let of_cargo = ["cargo", "run", "--release", "--"].iter().zip(words).all(|(a, b)| a == b) && words.len() > 4;
    // A profiler runs what stands behind its own flags.
    let profiled = words.iter().position(|w| *w == program).filter(|_| words[0] == "ncu");
    let rest = match words.first()? {
        _ if profiled.is_some() => &words[profiled.unwrap_or(0) + 1..],
        w if *w == program => &words[1..],
        _ if of_cargo => &words[4..],
        _ => return None,
    };
    let end = rest.iter().position(|w| ["|", ">", "2>", "&&"].contains(&w.as_str())).unwrap_or(rest.len());
    Some(std::iter::once(program).chain(rest[..end].iter().cloned()).collect())
}

struct Line {
    place: String,
    arguments: Vec<String>,
}

/// The program's command lines in the `sh` blocks of a page, and in its `text` blocks behind a `$`.
fn lines(page: &Path) -> Vec<Line> {
    let text = fs::read_to_string(page).unwrap();
    let mut found = vec![];
    let shown = fenced(&text, "text").into_iter().filter_map(|(i, l)| Some((i, l.strip_prefix("$ ")?.to_string())));
    for (i, line) in fenced(&text, "sh").into_iter().chain(shown) {
        let place = format!("{}:{i}", name(page));
        let words = words(&line);
        match (arguments(&words), words.first()) {
            (Some(arguments), _) => found.push(Line { place, arguments }),
            (None, Some(other)) => {
                // Tools, and scripts of ours, which are there.
                let known = ["cargo", "pip", "ncu", "nsys", "python3", "man"].contains(&other.as_str());
                assert!(known || root().join(other).is_file(), "{place}: `{other}` is no program that a page may name");
            }
            (None, None) => {}
        }
    }
    found
}

/// What is only parsed, and why. Every entry is used: one that fits no line any more is to be removed.
const PARSED: &[(&str, &str)] = &[
    (" demo", "minutes; tests/cli.rs runs it"),
    (" cuda", "needs a GPU"),
    (" sim", "minutes on the simulator; tests/cli.rs runs it small"),
    ("kernels list", "needs NVRTC and compiles everything; tests/kernels.rs does"),
    ("kernels export", "needs NVRTC and compiles everything; tests/kernels.rs does"),
    ("OASIS_FOLDER", "needs the set; tests/sets.rs imports all of them"),
    ("VGG16_FILE", "needs the published file"),
    ("vgg16-397923af.pth", "needs the published file"),
    ("vgg16_places365.caffemodel", "needs the published file"),
    ("PrivateTest_model.t7", "needs the published file"),
    ("resnet50.pth", "needs the published file"),
    ("train ratings.csv --network resnet50", "minutes; tests/any_network.rs trains smaller ones"),
    ("train-face", "minutes; tests/face.rs runs it"),
    ("tests/emoji/emoji.csv", "minutes"),
    ("faces/9-fer", "needs the published files"),
    ("scene=scene.safetensors", "needs the published files"),
    ("scene=vgg16_conv.safetensors", "needs the published files"),
    ("object=vgg16_conv.safetensors", "needs the published file"),
    ("--fail-if-slower", "fails where another process takes the cores; tests/bench.rs runs it"),
    ("study run", "needs published files; tests/study.rs runs it"),
    ("study slurm", "needs a study; tests/study.rs writes the script and runs it"),
    (" --tar ", "needs an archive; tests/predict.rs makes some"),
    ("study report", "needs a study; tests/study.rs runs it"),
];

/// Flags that make a command small enough to be run here, by the words that it begins with.
const SMALL: &[(&str, &str)] = &[
    ("train", "--width 64 --image 32 --epochs 1 --head 8 --init-missing --preprocess unit"),
    ("cross-validate", "--width 64 --image 32 --epochs 1 --head 8 --init-missing --folds 2"),
    ("pretrain", "--width 64 --image 32 --epochs 1 --dense 8 --min-count 2"),
    ("bench conv", "--width 64 --image 32 --batch 1 --rounds 1"),
    ("bench step", "--width 64 --image 32 --batch 1 --rounds 1"),
    ("bench load", "--image 32 --rounds 1"),
    ("evolve", "--generations 0 --initial 8 --children 8"),
    ("generate", "--steps 1 --cells 1 --samples 1 --batch 2 --side 32 --channels 4"),
    ("profile", "--width 64 --image 32 --batch 1"),
];

/// Flags that describe towers. A command without them takes the bundled one and runs as it is printed.
const TOWERS: [&str; 5] = ["--features", "--weights", "--init-missing", "--width", "--preset"];

/// The command as it is run: small where it would take long.
fn quick(arguments: Vec<String>) -> Vec<String> {
    let trains = ["train", "cross-validate"].contains(&arguments[1].as_str());
    let named = arguments.iter().any(|a| TOWERS.contains(&a.as_str()));
    if trains && !named { arguments } else { small(arguments) }
}

/// The command with flags set, whether they were there or not.
fn small(mut arguments: Vec<String>) -> Vec<String> {
    let line = arguments[1..].join(" ");
    let Some((_, flags)) = SMALL.iter().find(|(begin, _)| line.starts_with(begin)) else { return arguments };
    for flag in flags.split("--").skip(1) {
        let mut parts = flag.split_whitespace();
        let (flag, value) = (format!("--{}", parts.next().unwrap()), parts.next());
        let at = arguments.iter().position(|a| *a == flag).unwrap_or_else(|| {
            arguments.push(flag);
            arguments.extend(value.map(|_| String::new()));
            arguments.len() - 1 - usize::from(value.is_some())
        });
        if let Some(value) = value {
            arguments[at + 1] = value.into();
        }
    }
    arguments
}

fn deep_affect(dir: &Path, arguments: &[String]) -> Result<(), String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    // A cache of its own: nothing outside of the folder is written.
    program.args(arguments).current_dir(dir).env("DEEP_AFFECT_CACHE", dir.join("kernels-cache")).stdin(Stdio::null());
    let out = program.output().unwrap();
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// A folder with what the pages call by name: pictures, ratings, a trained model, models of a cross-validation.
/// (Everything is synthetic: 24 pictures of 48x40 a table.)
fn sandbox(dir: &Path) {
    for (table, folder, blue) in [("ratings.csv", "photos", 6), ("oasis.csv", "images", 3)] {
        fs::create_dir_all(dir.join(folder)).unwrap();
        let mut ratings = String::from("path,valence,arousal,category,group\n");
        for i in 0..24u8 {
            let pixel = |x, y| image::Rgb([10 * i, (5 * x) as u8, (blue * y) as u8]);
            image::RgbImage::from_fn(48, 40, pixel).save(dir.join(format!("{folder}/{i}.png"))).unwrap();
            let (category, third) = (["beach", "war"][usize::from(i % 2)], f32::from(i) / 3.0);
            writeln!(ratings, "{folder}/{i}.png,{:.2},{:.2},{category},{}", 1.0 + third, 9.0 - third, i / 2).unwrap();
        }
        fs::write(dir.join(table), &ratings).unwrap();
    }
    fs::write(dir.join("list.txt"), "photos/1.png\nphotos/2.png\n").unwrap();
    for folder in ["src", "tests", "benches"] {
        std::os::unix::fs::symlink(root().join(folder), dir.join(folder)).unwrap();
    }
    let run = |line: &str| deep_affect(dir, &small(words(line))[1..]).unwrap();
    run("deep-affect train ratings.csv --out run");
    for cv in ["cv", "cv2", "cv3"] {
        run(&format!("deep-affect cross-validate oasis.csv --keep-models --out {cv}"));
    }
    run("deep-affect pretrain ratings.csv --label category --tower object --out object.safetensors");
}

#[test]
fn every_command_line_is_parsed_and_run_where_that_is_quick() {
    let (mut run, mut parsed, mut used) = (vec![], vec![], vec![0; PARSED.len()]);
    let mut wrong = String::new();
    let dir = tempfile::tempdir().unwrap();
    sandbox(dir.path());
    for page in pages() {
        for Line { place, arguments } in lines(&page) {
            let line = arguments.join(" ");
            if let Err(e) = Cli::try_parse_from(&arguments) {
                writeln!(wrong, "{place}: {line}\n{e}").unwrap();
                continue;
            }
            for word in arguments.iter().filter(|w| ["src/", "tests/", "benches/"].iter().any(|d| w.starts_with(d))) {
                assert!(root().join(word).exists(), "{place}: there is no {word}");
            }
            if let Some(i) = PARSED.iter().position(|(what, _)| line.contains(what)) {
                used[i] += 1;
                parsed.push(format!("{place}: {line}  ({})", PARSED[i].1));
                continue;
            }
            match deep_affect(dir.path(), &quick(arguments)[1..]) {
                Ok(()) => run.push(format!("{place}: {line}")),
                Err(e) => writeln!(wrong, "{place}: {line}\n{e}").unwrap(),
            }
        }
    }
    println!("{} command lines run:\n  {}", run.len(), run.join("\n  "));
    println!("{} command lines parsed only:\n  {}", parsed.len(), parsed.join("\n  "));
    assert!(wrong.is_empty(), "command lines of the pages that do not work:\n{wrong}");
    for ((what, _), n) in PARSED.iter().zip(used) {
        assert!(n > 0, "no page has a command line with `{what}`");
    }
    assert!(run.len() >= 15, "{} run", run.len());
}

/// Commands in the running text, in backticks: whole ones and beginnings of some.
#[test]
fn commands_in_sentences_exist() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        for span in prose.split('`').skip(1).step_by(2) {
            let Some(rest) = span.strip_prefix("deep-affect ") else { continue };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let mut command = <Cli as clap::CommandFactory>::command();
            for word in &words {
                let known = command.find_subcommand(word).cloned();
                match known {
                    Some(sub) => command = sub,
                    None if command.has_subcommands() => panic!("{}: no command `{word}` in `{span}`", name(&page)),
                    None => break,
                }
            }
            for flag in words.iter().filter(|w| w.starts_with("--")) {
                let flag = flag.trim_start_matches("--").split('=').next().unwrap();
                let known = command.get_arguments().any(|a| a.get_long() == Some(flag));
                assert!(known, "{}: `{span}` has no flag --{flag}", name(&page));
            }
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked} found");
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.trim().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').map_or((target, None), |(f, h)| (f, Some(h)));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target} leads nowhere", name(&page));
            if let Some(heading) = heading {
                let there = fs::read_to_string(&path).unwrap();
                let known = there.lines().filter(|l| l.starts_with('#')).map(|l| anchor(l.trim_start_matches('#')));
                assert!(known.collect::<Vec<_>>().contains(&heading.to_string()), "{}: no {target}", name(&page));
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked} found");
}

#[test]
fn the_first_page_is_short() {
    let words = fs::read_to_string(root().join("README.md")).unwrap().split_whitespace().count();
    assert!(words <= 1400, "README.md has {words} words: move what is for some readers to a page of its own");
}

/// Tiles of a kernel, or the constants it is compiled for.
fn choices(kernel: &Kernel) -> String {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut add = |name, value: String| {
        let list = values.entry(name).or_default();
        if !list.contains(&value) {
            list.push(value);
        }
    };
    for consts in kernel.variants {
        let value = |name| kernel.constant(consts, name);
        if let (Some(m), Some(n)) = (value("BM"), value("BN")) {
            add("", format!("{m} x {n}"));
        }
        for (name, value) in kernel.consts.iter().zip(*consts).filter(|(n, _)| !["BM", "BN"].contains(n)) {
            add(name, value.to_string());
        }
    }
    values.iter().map(|(name, v)| format!("{name} {}", v.join(", ")).trim().to_string()).collect::<Vec<_>>().join("; ")
}

#[test]
fn the_map_of_the_kernels_is_complete() {
    let mut rows: Vec<String> = ops::kernels()
        .map(|k| {
            format!("| `{}` | [{source}]({source}) | {} | {} |\n", k.entry, k.threads, choices(k), source = k.source)
        })
        .collect();
    rows.sort();
    let table = format!("| kernel | source | threads | tiles; constants |\n|---|---|---|---|\n{}", rows.concat());
    let path = root().join("kernels/README.md");
    let page = fs::read_to_string(&path).unwrap();
    let begin = page.find("| kernel | source |").unwrap_or(page.len());
    let end = page[begin..].find("\n\n").map_or(page.len(), |n| begin + n + 1);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{}{table}{}", &page[..begin], &page[end..])).unwrap();
        return;
    }
    assert!(
        page[begin..end] == table,
        "kernels/README.md: write its map again with `BLESS=1 cargo test --test pages map`"
    );
}
