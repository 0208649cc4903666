//! A study as a researcher runs it, in miniature: every table from one command, whatever happens in between.

#![cfg(unix)]

use approx::assert_abs_diff_eq as close;
use deep_affect::weights::LAYOUT;
use deep_affect::weights::write::{Entry, write};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Three models of a thousandth of the size on three folds, and a set that none is trained on.
const STUDY: &str = r#"
title = "A small study"
manifest = "set.csv"
test-sets = ["far"]
folds = 3

[train]
image = 32
width = 32
head = [12, 6]
epochs = 3
batch = 4
val = 0.2
lr = 0.01
init-missing = true
skip-bad = true
features = ["object", "scene"]

[[model]]
name = "shared"
title = "Shared Model"

[[model]]
name = "split"
title = "Split Model"
architecture = "split"

[[model]]
name = "object"
title = "Object"
features = ["object"]
tower-output = "pooled"
freeze = "all"

[[table]]
title = "Errors"
models = ["shared", "split"]

[[table]]
pairs = [["shared", "split"], ["shared", "object"]]

[[table]]
models = ["object", "shared"]
by = "models"
"#;

/// A folder with `study.toml`, `set.csv` and 30 pictures, six of them of the set `far`.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("pictures")).unwrap();
    let mut table = String::from("path,valence,arousal,group,dataset,category,valence_sd,valence_n\n");
    for i in 0..30u32 {
        let path = format!("pictures/{i}.png");
        let pixel = |x: u32, y: u32| image::Rgb([(8 * i) as u8, (x * 5) as u8, (y * (i + 1)) as u8]);
        image::RgbImage::from_fn(40 + i, 30, pixel).save(dir.path().join(&path)).unwrap();
        let (set, kind) = (if i < 24 { "near" } else { "far" }, ["sea", "sky"][i as usize % 2]);
        // The last of the far set has a twin among the near.
        let group = if i == 29 { 0 } else { i / 2 };
        let valence = 1.0 + (i % 9) as f32;
        table.push_str(&format!("{path},{valence},{},g{group},{set},{kind},1.5,9\n", 8.5 - 0.25 * i as f32));
    }
    fs::write(dir.path().join("set.csv"), table).unwrap();
    fs::write(dir.path().join("study.toml"), STUDY).unwrap();
    dir
}

fn program(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    c.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

fn study(dir: &Path, out: &str) -> Output {
    program(dir, &["study", "run", "--out", out, "--device", "cpu", "--threads", "1"]).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn good(out: Output) -> String {
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout).to_string()
}

/// The last line on stderr of a run that failed.
fn bad(out: &Output) -> &str {
    let err = text(&out.stderr);
    assert!(!out.status.success() && !err.contains("panicked"), "{err}");
    err.lines().last().filter(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{err}"))
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tables of a study, which do not depend on who computed what when.
fn tables(out: &Path) -> Vec<String> {
    ["tables.md", "tables.tex", "results.csv", "tests.csv", "shared/predictions.csv", "split/predictions-far.csv"]
        .map(|f| read(out.join(f)))
        .into()
}

#[test]
fn one_command_makes_every_table_and_two_processes_make_the_same() {
    let dir = folder();
    let p = dir.path();
    let said = good(study(p, "one"));
    assert!(said.contains("Errors\n") && said.contains("Shared Model vs Object"), "{said}");
    let one = p.join("one");
    let markdown = read(one.join("tables.md"));
    for part in [
        "| FAR |",
        "| near | 24 |",
        "| All in folds | 24 |",
        "| Object, M | Object, SD | Shared Model, M |",
        "**Split Model: error of each fold**",
        "**Test error by category**",
        "Pictures of the folds: 8, 8, 8.",
        // SD 1.5, 9 raters: 2.25 (1 + 1/9) and 2.25 / 9.
        "| One more rater | 2.500 | - | 24 | - | - | - |",
        "| Noise of the mean ratings | 0.250 | - | 24 | - | - | - |",
        "variance by 1/3 + 0.500, the second being n_test / n_train",
    ] {
        assert!(markdown.contains(part), "no `{part}` in {markdown}");
    }
    // Three models, three folds, three sets, two targets, fourteen measures.
    assert_eq!(read(one.join("results.csv")).lines().count(), 1 + 3 * 3 * 3 * 2 * 14);
    assert_eq!(read(one.join("tests.csv")).lines().count(), 1 + 4);
    assert_eq!(read(one.join("shared/predictions.csv")).lines().count(), 1 + 24);
    // Five of six: the sixth has a twin that is trained on.
    assert_eq!(read(one.join("split/predictions-far.csv")).lines().count(), 1 + 3 * 5);
    let page = read(one.join("report.html"));
    assert!(page.matches("data:image/png").count() >= 6 && page.contains("1 pictures of far are left out"), "{page}");
    assert!(page.contains("Where the towers look") && page.matches("<img").count() > 20, "{page}");
    assert!(!page.contains("href=") && !page.contains("src=\"http") && !page.contains("<script"));
    // What `study compare` finds is what the study's own table says.
    let compared = good(program(&one, &["study", "compare", "shared", "split", "--json"]).output().unwrap());
    let compared: serde_json::Value = serde_json::from_str(&compared).unwrap();
    let t: f64 = read(one.join("tests.csv")).lines().nth(1).unwrap().split(',').nth(6).unwrap().parse().unwrap();
    close!(compared["comparisons"][0]["test"]["t"].as_f64().unwrap(), t, epsilon = 1e-4);

    // Nothing is left to be done, and the report can be made again.
    let again = study(p, "one");
    assert!(again.status.success() && !text(&again.stderr).contains("cell "), "{}", text(&again.stderr));
    let before = tables(&one);
    good(program(p, &["study", "report", "--out", "one"]).output().unwrap());
    assert_eq!(tables(&one), before);

    // Two at a time, and a cell that is lost afterwards.
    let others: Vec<_> = (0..2)
        .map(|_| program(p, &["study", "run", "--out", "two", "--device", "cpu", "--threads", "1"]).spawn().unwrap())
        .collect();
    others.into_iter().for_each(|c| drop(good(c.wait_with_output().unwrap())));
    // Two tasks of an array compute what is missing, and one finds its cell done.
    let script = good(program(p, &["study", "slurm", "--out", "two"]).output().unwrap());
    assert!(script.contains("\n#SBATCH --array=1-9\n"), "{script}");
    fs::write(p.join("study.sbatch"), &script).unwrap();
    ["split/fold-1", "object/fold-3"].iter().for_each(|cell| fs::remove_dir_all(p.join("two").join(cell)).unwrap());
    let task = |id: &str| {
        let mut task = Command::new("bash");
        let bin = Path::new(env!("CARGO_BIN_EXE_deep-affect")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        task.args(["study.sbatch", "--device", "cpu", "--threads", "1"]).current_dir(p).env("PATH", path);
        task.env("SLURM_ARRAY_TASK_ID", id).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ended: Vec<Output> = ["1", "4", "9"].map(task).map(|t| t.wait_with_output().unwrap()).into();
    let cells: Vec<usize> = ended.iter().map(|out| text(&out.stderr).matches("\ncell ").count()).collect();
    assert_eq!((cells, done(&p.join("two"))), (vec![0, 1, 1], 9), "{ended:?}");
    ended.into_iter().for_each(|out| drop(good(out)));
    assert_eq!(tables(&p.join("two")), before);
    fs::remove_dir_all(p.join("two/split/fold-2")).unwrap();
    let again = study(p, "two");
    assert_eq!(text(&again.stderr).matches("\ncell ").count(), 1, "{}", text(&again.stderr));
    assert_eq!(tables(&p.join("two")), before);

    // Stopped, then killed, in the middle of a cell.
    for (signal, cells) in [("TERM", 2), ("KILL", 4)] {
        let child =
            program(p, &["study", "run", "--out", "three", "--device", "cpu", "--threads", "1"]).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(120);
        while done(&p.join("three")) < cells && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        let out = child.wait_with_output().unwrap();
        let expected = if signal == "TERM" { Some(143) } else { None };
        assert_eq!(out.status.code(), expected, "{}", text(&out.stderr));
    }
    assert!(done(&p.join("three")) < 9);
    good(study(p, "three"));
    assert_eq!(tables(&p.join("three")), before);
}

/// What the script does with signals: its program and Slurm's are stand-ins here.
#[test]
fn a_task_whose_time_is_over_is_queued_again() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder();
    let p = dir.path();
    good(program(p, &["study", "slurm", "--out", "an 'odd' folder", "--script", "s.sh"]).output().unwrap());
    fs::create_dir(p.join("bin")).unwrap();
    let cell = "#!/bin/bash\nprintf '%s\\n' \"$@\" > args\ntrap 'sleep 0.1; exit 143' TERM\ntouch ready\n\
                while [ ! -e over ]; do sleep 0.01; done\nexit 7\n";
    for (name, text) in [("deep-affect", cell), ("scontrol", "#!/bin/bash\necho \"$@\"\n")] {
        fs::write(p.join("bin").join(name), text).unwrap();
        fs::set_permissions(p.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (signal, code, said) in [("USR1", 0, "requeue 40_2\n"), ("TERM", 143, ""), ("", 7, "")] {
        let path = format!("{}:{}", p.join("bin").display(), std::env::var("PATH").unwrap());
        let mut task = Command::new("bash");
        task.args(["s.sh", "--device", "cpu"]).current_dir(p).env("PATH", path).stdout(Stdio::piped());
        let task = task.env("SLURM_ARRAY_JOB_ID", "40").env("SLURM_ARRAY_TASK_ID", "2").spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !p.join("ready").exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        match signal {
            "" => fs::write(p.join("over"), "").unwrap(),
            signal => {
                let sent = Command::new("kill").args([&format!("-{signal}"), &task.id().to_string()]).status();
                assert!(sent.unwrap().success());
            }
        }
        let out = task.wait_with_output().unwrap();
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(code), said), "{signal}");
        fs::remove_file(p.join("ready")).unwrap();
    }
    let args = "study\nrun\nstudy.toml\n--out\nan 'odd' folder\n--cell\n2\n--device\ncpu\n";
    assert_eq!(read(p.join("args")), args);
    let none = program(p, &["study", "run", "--out", "x", "--cell", "10"]).output().unwrap();
    assert_eq!(bad(&none), "error: study.toml: there is no cell 10: 3 models of 3 folds are cells 1 to 9");
}

/// Cells that are done.
fn done(out: &Path) -> usize {
    let cell = |model: &str| (1..=3).filter(|f| out.join(format!("{model}/fold-{f}/cell.json")).exists()).count();
    ["shared", "split", "object"].into_iter().map(cell).sum()
}

#[test]
fn what_is_wrong_with_one_model_or_picture_leaves_the_others() {
    let dir = folder();
    let p = dir.path();
    fs::write(p.join("pictures/3.png"), b"not a picture").unwrap();
    let broken =
        STUDY.replace("features = [\"object\"]", "features = [\"object\"]\nweights.object = \"none.safetensors\"");
    fs::write(p.join("study.toml"), broken).unwrap();
    let out = study(p, "run");
    let line = bad(&out);
    assert_eq!(out.status.code(), Some(1));
    for part in ["model object", "none.safetensors", "check the path", "does what is missing"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(text(&out.stderr).contains("cell 6 of 9"), "{}", text(&out.stderr));
    let markdown = read(p.join("run/tables.md"));
    assert!(markdown.contains("Not complete: Object: 0 of 3 folds."), "{markdown}");
    assert!(read(p.join("run/bad-pictures.csv")).contains("3.png"));
    assert!(read(p.join("run/report.html")).contains("Not complete: 6 of 9 cells are done."));

    // Mended, it goes on where it was, and what was changed since is not mixed with it.
    fs::write(p.join("study.toml"), STUDY).unwrap();
    good(study(p, "run"));
    assert!(!read(p.join("run/tables.md")).contains("Not complete"));
    fs::write(p.join("study.toml"), STUDY.replace("lr = 0.01", "lr = 0.02")).unwrap();
    let out = study(p, "run");
    let line = bad(&out);
    assert!(
        line.contains("fold-1/cell.json: was made with other settings of the training") && line.contains("--anew"),
        "{line}"
    );
    // Ratings too.
    fs::write(p.join("study.toml"), STUDY).unwrap();
    let ratings = read(p.join("set.csv")).replacen(",8.5,", ",8,", 1);
    fs::write(p.join("set.csv"), ratings).unwrap();
    assert!(bad(&study(p, "run")).contains("was made with other ratings or groups"));
}

/// A tower's file whose first filters repeat after `every` numbers, always of the same length and time.
fn filters(path: &Path, every: usize) {
    let values: Vec<f32> = (0..54).map(|i| 0.01 * (i % every) as f32).collect();
    let metadata = BTreeMap::from([(LAYOUT.to_string(), "KRSC".to_string())]);
    write(path, &metadata, &[Entry::f32("conv1_1.weight", &[2, 3, 3, 3], &values)]).unwrap();
    fs::File::options().append(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

/// Results of other inputs are named and refused, or made anew on request: never mixed.
#[test]
fn what_was_made_of_other_inputs_is_named() {
    let dir = folder();
    let p = dir.path();
    filters(&p.join("tower.safetensors"), 5);
    let plan = format!(
        "manifest = \"set.csv\"\ntest-sets = [\"far\"]\nfolds = 3\n{}\npreprocess = \"torch\"\n{}",
        &STUDY[STUDY.find("[train]").unwrap()..STUDY.find("\n[[model]]").unwrap()],
        "[[model]]\nname = \"object\"\nfeatures = [\"object\"]\ntower-output = \"pooled\"\nfreeze = \"all\"\n\
         weights.object = \"tower.safetensors\"\n"
    );
    let put = |text: &str| fs::write(p.join("study.toml"), text).unwrap();
    let refused = |part: &str| {
        let out = study(p, "run");
        let line = bad(&out);
        assert!(line.contains(part) && line.contains("`study run --anew`"), "no `{part}` in {line}");
        // Tables of old results and new ratings are not made either.
        let report = program(p, &["study", "report", "--out", "run"]).output().unwrap();
        assert!(bad(&report).contains(part), "{}", bad(&report));
    };
    let anew = || {
        let args = ["study", "run", "--out", "run", "--device", "cpu", "--threads", "1", "--anew"];
        let out = program(p, &args).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr).to_string()
    };
    put(&plan);
    good(study(p, "run"));
    let first = read(p.join("run/object/predictions.csv"));
    assert!(!anew().contains("anew"), "nothing differs");

    // Weights of the same length and time: of the frozen tower's features too, which lie in the cache.
    filters(&p.join("tower.safetensors"), 7);
    refused("was made with other weights of object");
    let said = anew();
    assert_eq!(said.matches("other weights of object: computed anew").count(), 3, "{said}");
    let second = read(p.join("run/object/predictions.csv"));
    assert_ne!(first, second);
    filters(&p.join("tower.safetensors"), 5);
    anew();
    assert_eq!(read(p.join("run/object/predictions.csv")), first);

    put(&plan.replace("freeze = \"all\"", "freeze = \"all\"\nignore-exif = true"));
    refused("was made with other reading of pictures");
    put(&plan.replace("folds = 3", "folds = 2"));
    refused("run/folds.csv: has 3 folds of another deal: the study asks for 2 folds");
    assert!(anew().contains("fold 3: the study has no such fold"));
    assert_eq!(read(p.join("run/object/predictions.csv")).lines().count(), 1 + 24);
    assert!(!p.join("run/object/fold-3").exists() && !p.join("run/object/fold-3.safetensors").exists());
    put(&plan.replace("folds = 3", "folds = 2\nungrouped = true"));
    refused("the study asks for other pictures in each fold");
    // Groups that are parted are said to be, in everything that is read.
    let said = anew();
    assert!(said.contains("groups have pictures in more than one fold"), "{said}");
    for file in ["tables.md", "report.html"] {
        assert!(read(p.join("run").join(file)).contains("groups have pictures in more than one fold"), "{file}");
    }

    // Another picture under the name of one that was used, found as soon as pictures are read.
    fs::copy(p.join("pictures/1.png"), p.join("pictures/2.png")).unwrap();
    fs::remove_dir_all(p.join("run/object/fold-2")).unwrap();
    assert!(bad(&study(p, "run")).contains("fold-1/cell.json: was made with other pictures"));
}

#[test]
fn folds_that_cannot_be_are_refused() {
    let dir = folder();
    let p = dir.path();
    let with = |plan: String, part: &str| {
        fs::write(p.join("study.toml"), plan).unwrap();
        let out = study(p, "run");
        let line = bad(&out).to_string();
        assert!(line.contains(part), "no `{part}` in {line}");
    };
    with(STUDY.replace("folds = 3", "folds = 13"), "12 groups cannot fill 13 folds");
    with(
        STUDY.replace("[\"far\"]", "[\"naps\"]"),
        "no pictures of the set `naps`; name in `test-sets` one of: far, near",
    );
    with(STUDY.replace("folds = 3", "folds = 3\nstratify = true"), "names fewer than two sets");
    fs::write(p.join("folds.csv"), "path,fold\npictures/0.png,0\npictures/77.png,1\n").unwrap();
    let file = STUDY.replace("folds = 3", "folds = 3\nfold-file = 'folds.csv'");
    with(file.clone(), "folds.csv: line 3, column path: `pictures/77.png` is not in the manifest");
    fs::write(p.join("folds.csv"), "path,fold\npictures/0.png,0\n").unwrap();
    with(file, "no fold for `pictures/1.png`");
    // Three pictures.
    let three: String = read(p.join("set.csv")).lines().take(4).map(|l| format!("{l}\n")).collect();
    fs::write(p.join("set.csv"), three).unwrap();
    with(STUDY.replace("test-sets = [\"far\"]\n", ""), "2 groups cannot fill 3 folds");
}

#[test]
fn ratings_that_are_all_equal_have_no_correlation() {
    let dir = folder();
    let p = dir.path();
    let equal: String = read(p.join("set.csv"))
        .lines()
        .enumerate()
        .map(|(i, l)| {
            let mut fields: Vec<&str> = l.split(',').collect();
            if i > 0 {
                (fields[1], fields[2]) = ("5", "4");
            }
            fields.join(",") + "\n"
        })
        .collect();
    fs::write(p.join("set.csv"), equal).unwrap();
    let small = STUDY.replace("epochs = 3", "epochs = 1");
    fs::write(p.join("study.toml"), &small[..small.find("[[model]]\nname = \"split\"").unwrap()]).unwrap();
    good(study(p, "run"));
    let measures = read(p.join("run/tables/measures.csv"));
    let (header, row) = measures.split_once('\n').unwrap();
    let at = header.split(',').position(|h| h == "Pearson r").unwrap();
    assert_eq!(row.lines().next().unwrap().split(',').nth(at), Some(""), "{measures}");
    assert!(header.ends_with("SD true,\"Beyond 1 to 9, %\""), "{measures}");
    assert!(row.lines().next().unwrap().ends_with(",0.000 (0.000),0.00 (0.00)"), "{measures}");
    // The training mean makes no error, and nothing beats that.
    for file in ["tables.md", "report.html"] {
        assert!(read(p.join("run").join(file)).contains("No model beats the training mean: "), "{file}");
    }
}

#[test]
fn the_example_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let out = program(dir.path(), &["study", "init"]).output().unwrap();
    assert!(good(out).contains("study.toml"));
    let again = program(dir.path(), &["study", "init"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(bad(&again).contains("is there already"));
    // Its pictures are not there, which is said before anything is computed.
    let out = study(dir.path(), "run");
    assert!(bad(&out).contains("all.csv"), "{}", bad(&out));
}
