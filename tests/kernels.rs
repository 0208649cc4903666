//! What holds for every registered kernel.

#[path = "common/devices.rs"]
mod devices;

use deep_affect::nvrtc::{self, Cache, Compiled, Target, Unit};
use deep_affect::ops;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// `BLESS=1` writes the file instead.
#[test]
fn args_cuh_is_what_the_crate_declares() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/args.cuh");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, ops::args()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, ops::args(), "run `BLESS=1 cargo test --test kernels` and look at the difference");
}

/// Whether there is something to compile with.
fn possible() -> bool {
    nvrtc::available().map_err(|e| devices::without("sim", &e)).is_ok()
}

type Made = (Unit, Target, deep_affect::error::Result<Arc<Compiled>>);

/// Architectures for which units are compiled: each unit for the last one of those that take the same way through its text.
const WHOLE: [Target; 3] = [Target::new(75), Target::new(80), Target::HOPPER];

/// The numbers that a source, with all that it includes, compares the architecture with.
fn bounds(source: &str) -> BTreeSet<u32> {
    let number = |rest: &str| {
        let rest = rest.trim_start().strip_prefix(">=").or(rest.trim_start().strip_prefix('<'));
        let digits = rest.unwrap_or_else(|| panic!("{source}: neither < nor >=")).trim_start();
        digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse::<u32>().unwrap() / 10
    };
    nvrtc::whole(source).unwrap().split("__CUDA_ARCH__").skip(1).map(number).collect()
}

/// Which way an architecture takes.
fn way(bounds: &BTreeSet<u32>, target: Target) -> usize {
    bounds.iter().filter(|b| **b <= target.compute).count()
}

/// One of [`WHOLE`] for each way through a unit's text that some architecture takes.
fn each_way(unit: &Unit, bounds: &BTreeSet<u32>) -> Vec<Target> {
    let runs = |t: &Target| unit.runs_on(*t);
    let ways: BTreeMap<usize, Target> = WHOLE.into_iter().filter(runs).map(|t| (way(bounds, t), t)).collect();
    ways.into_values().collect()
}

/// Registers by which the same kernel differs between architectures, and more: 29 is the most that was found (sm_80, sm_90a and
/// sm_120 compared).
const APART: u32 = 32;

/// Whether another architecture could run out of what is enough here: of a thread 128 registers where two blocks share a
/// multiprocessor, and 255 anyway.
fn near(c: &Compiled) -> bool {
    let near = |registers: u32| [128, 255].iter().any(|most| (most - APART..=*most).contains(&registers));
    c.resources.iter().any(|r| near(r.registers) || r.spill_stores + r.spill_loads > 0)
}

/// Compiled units, for other tests and for the next run: an entry is named by all that its code depends on.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled"));

/// Every unit for [`each_way`], and for all other architectures where it is [`near`] its limit, compiled once for all tests.
static COMPILED: LazyLock<Vec<Made>> = LazyLock::new(|| {
    let units: BTreeSet<Unit> = ops::kernels().flat_map(|k| k.variants.iter().map(move |v| Unit::of(k, v))).collect();
    let cache = Cache::within(&*FOLDER);
    // Of kernels as they were.
    if cache.entries() > 2 * WHOLE.len() * units.len() {
        std::fs::remove_dir_all(&*FOLDER).unwrap();
    }
    let start = Instant::now();
    let make = |(unit, target): (&Unit, Target)| {
        let made = nvrtc::compile_all(std::slice::from_ref(unit), target, &cache);
        (unit.clone(), target, made.map(|mut all| all.remove(0)))
    };
    let all = |work: Vec<(&Unit, Target)>| work.into_par_iter().with_max_len(1).map(make).collect::<Vec<Made>>();
    let bounds: BTreeMap<&str, BTreeSet<u32>> = units.iter().map(|u| (u.source, bounds(u.source))).collect();
    let whole = |u: &Unit| each_way(u, &bounds[u.source]);
    let mut made = all(units.iter().flat_map(|u| whole(u).into_iter().map(move |t| (u, t))).collect());
    let close: BTreeSet<&Unit> = made.iter().filter(|m| m.2.as_ref().is_ok_and(|c| near(c))).map(|m| &m.0).collect();
    let others = units.iter().filter(|u| close.contains(u)).flat_map(|u| {
        let known = whole(u);
        Target::ALL.into_iter().filter(move |t| !known.contains(t) && u.runs_on(*t)).map(move |t| (u, t))
    });
    let others = others.collect();
    made.extend(all(others));
    println!("{} units compiled or found in {:.1} s", made.len(), start.elapsed().as_secs_f64());
    made
});

/// Kernels ask for the architecture by comparing it with a number: between two of these there is one of [`WHOLE`].
#[test]
fn every_way_through_the_kernels_is_compiled() {
    let units: BTreeSet<Unit> = ops::kernels().flat_map(|k| k.variants.iter().map(move |v| Unit::of(k, v))).collect();
    let mut most = 0;
    for unit in &units {
        let bounds = bounds(unit.source);
        let taken = |targets: &[Target]| targets.iter().map(|t| way(&bounds, *t)).collect::<BTreeSet<_>>();
        let runs: Vec<Target> = Target::ALL.into_iter().filter(|t| unit.runs_on(*t)).collect();
        assert_eq!(taken(&each_way(unit, &bounds)), taken(&runs), "{unit}: {bounds:?}");
        most = most.max(bounds.len());
    }
    assert!(most > 0, "no unit asks for the architecture");
}

/// Without spills, without a remark of compiler or assembler (the C75xx on lost performance are among them), and with
/// every kernel that the crate says is there.
#[test]
fn every_kernel_compiles_without_spills() {
    if !possible() {
        return;
    }
    let mut entries: BTreeMap<Unit, BTreeSet<&str>> = BTreeMap::new();
    for kernel in ops::kernels() {
        for consts in kernel.variants {
            entries.entry(Unit::of(kernel, consts)).or_default().insert(kernel.entry);
        }
    }
    let check = |(unit, target, made): &Made| {
        let c = match made {
            Ok(c) => c,
            Err(e) => return vec![e.to_string()],
        };
        let found: BTreeSet<&str> = c.resources.iter().map(|r| r.entry.as_str()).collect();
        let strangers = found.symmetric_difference(&entries[unit]).map(|e| format!("`{e}` is only here or only there"));
        let spilled = c.resources.iter().filter(|r| r.spill_stores + r.spill_loads > 0);
        let spilled = spilled.map(|r| format!("{} spills {} bytes", r.entry, r.spill_stores));
        let complaints = strangers.chain(spilled).chain(c.warnings.iter().cloned());
        complaints.map(|text| format!("{unit} for {target}: {text}")).collect()
    };
    let complaints: Vec<String> = COMPILED.iter().flat_map(check).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The disassembler: where the tests' NVRTC is, beside another one as the Python packages lay it, or on the path.
fn nvdisasm() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nvrtc/nvidia/cu13/bin/nvdisasm");
    let beside = std::env::var_os("DEEP_AFFECT_NVRTC").map(|lib| Path::new(&lib).join("../bin/nvdisasm"));
    let found = beside.into_iter().chain([own]).find(|p| p.exists()).unwrap_or_else(|| "nvdisasm".into());
    let asked = Command::new(&found).arg("--version").output();
    asked.map_err(|e| devices::without("nvdisasm", &e)).ok().map(|_| found)
}

/// What the assembler made of the products on tensor cores: their instructions for the right operands, matrix loads and
/// asynchronous copies where the architecture has them, and no local memory. Opcodes and their modifiers as nvdisasm names them.
#[test]
fn products_on_tensor_cores_are_their_code() {
    let (true, Some(nvdisasm)) = (possible(), nvdisasm()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let chosen = |m: &&Made| {
        let products = ["mma/", "sm90/"].iter().any(|folder| m.0.source.starts_with(folder));
        products && (m.1.specific || [75, 80, 120].contains(&m.1.compute))
    };
    let work: Vec<&Made> = COMPILED.iter().filter(chosen).collect();
    let check = |(i, (unit, target, made)): (usize, &&Made)| -> Vec<String> {
        let Ok(made) = made else { return vec![] }; // The test above says so.
        let path = dir.path().join(i.to_string());
        std::fs::write(&path, &made.cubin).unwrap();
        let out = Command::new(&nvdisasm).arg("-c").arg(&path).output().unwrap();
        let [text, said] = texts(out);
        let opcodes: BTreeSet<&str> = text.split([' ', '.', ';', '\t', '\n']).collect();
        let gathers = unit.defines.contains(&("VEC", 1));
        let staged = unit.defines.iter().any(|d| d.0 == "STAGES");
        let wanted: &[&str] = match target.compute {
            _ if unit.source.starts_with("sm90/") => &["HGMMA", "UTMALDG", "USETMAXREG"],
            _ if !staged => &["HMMA"],
            75 => &["HMMA", "LDSM"],
            _ if gathers => &["HMMA", "LDSM"],
            _ => &["HMMA", "LDSM", "LDGSTS"],
        };
        let has = |constant| unit.defines.contains(&constant);
        let tf32 = has(("STORAGE", 0));
        // Where both operands lie across the depth, float32 is read word by word.
        let wanted = wanted.iter().filter(|o| !(tf32 && unit.source == "mma/wgrad.cu" && **o == "LDSM"));
        let wanted: Vec<_> =
            wanted.chain(tf32.then_some(&"TF32")).chain(has(("STORAGE", 2)).then_some(&"BF16")).collect();
        let missing = wanted.into_iter().filter(|o| !opcodes.contains(*o)).map(|o| format!("no {o} {said}"));
        let local = ["LDL", "STL"].iter().filter(|o| opcodes.contains(*o)).map(|o| format!("{o}: local memory"));
        missing.chain(local).map(|text| format!("{unit} for {target}: {text}")).collect()
    };
    let complaints: Vec<String> = work.par_iter().enumerate().with_max_len(1).flat_map_iter(check).collect();
    println!("{} disassembled", work.len());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// `deep-affect kernels …` with a cache folder and, where `compiler` is false, without NVRTC.
fn kernels(cache: &Path, compiler: bool, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    command.arg("kernels").args(args).env("DEEP_AFFECT_CACHE", cache);
    if !compiler {
        command.env("DEEP_AFFECT_NVRTC", cache);
    }
    command
}

fn texts(out: Output) -> [String; 2] {
    [out.stdout, out.stderr].map(|t| String::from_utf8(t).unwrap())
}

#[test]
fn an_exported_folder_serves_a_machine_without_a_compiler() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (folder, empty) = (dir.path().join("exported"), dir.path().join("empty"));
    // Most of it was compiled for the test above.
    let (target, entries) = (Target::HOPPER, folder.join("kernels"));
    std::fs::create_dir_all(&entries).unwrap();
    let known: BTreeSet<&Unit> = COMPILED.iter().filter(|m| m.1 == target).map(|m| &m.0).collect();
    for entry in std::fs::read_dir(FOLDER.join("kernels")).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if name.contains("-sm_90a-") && !name.starts_with("activation") {
            std::fs::copy(entry.path(), entries.join(name)).unwrap();
        }
    }
    let compiled = Cache::within(&folder).entries();
    let out = kernels(&empty, true, &["export", folder.to_str().unwrap(), "--arch", "sm_90a"]).output().unwrap();
    assert!(out.status.success(), "{:?}", texts(out));
    let exported = Cache::within(&folder).entries();
    assert!(compiled < exported && exported >= known.len(), "{compiled}, then {exported}, of {}", known.len());

    let list =
        |cache: &Path, compiler| kernels(cache, compiler, &["list", "--arch", "sm_90a", "--json"]).output().unwrap();
    let start = Instant::now();
    let out = list(&folder, false);
    println!("everything from the cache in {:.3} s", start.elapsed().as_secs_f64());
    assert!(out.status.success(), "{:?}", texts(out));
    let [json, said] = texts(out);
    assert_eq!(said, "");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let all = ops::kernels().flat_map(|k| k.variants.iter().map(move |v| Unit::of(k, v)));
    assert_eq!(rows.len(), all.filter(|unit| unit.runs_on(target)).count());
    assert!(rows.iter().all(|r| r["registers"].as_u64() > Some(0) && r["occupancy"].as_f64() > Some(0.0)));

    let out = list(&empty, false);
    assert_eq!(out.status.code(), Some(1));
    let [_, said] = texts(out);
    assert!(said.starts_with("error: NVRTC") && said.contains("pip install") && said.lines().count() == 1, "{said}");

    // A damaged entry is said once and made again.
    let own = |entry: &PathBuf| entry.file_name().unwrap().to_str().unwrap().starts_with("activation");
    let entry = std::fs::read_dir(&entries).unwrap().map(|e| e.unwrap().path()).find(own).unwrap();
    let good = std::fs::read(&entry).unwrap();
    std::fs::write(&entry, &good[1..]).unwrap();
    let [again, said] = texts(list(&folder, true));
    assert_eq!(again, json);
    assert!(said.starts_with("note: ") && said.contains("damaged") && said.lines().count() == 1, "{said}");
    let [again, said] = texts(list(&folder, true));
    assert_eq!((again, said, std::fs::read(&entry).unwrap()), (json, String::new(), good));
}

/// What the tiles of a network become on a GPU, where there is neither one nor a compiler, and with one.
#[test]
fn launches_are_counted_without_a_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["launches", "vgg16", "--image", "32", "--width", "8", "--batch", "2", "--precision", "bf16"];
    let launches = |compiler, rest: &[&str]| {
        let cache = if compiler { FOLDER.as_path() } else { dir.path() };
        let out = kernels(cache, compiler, &[&args[..], rest].concat()).output().unwrap();
        let ok = out.status.success();
        let [said, error] = texts(out);
        assert!(ok, "{error}");
        said
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let r = json(&launches(false, &["--pass", "train", "--json"]));
    assert_eq!((&r["precision"], &r["batch"], &r["multiprocessors"]), (&"bf16".into(), &2.into(), &132.into()));
    let rows = r["launches"].as_array().unwrap();
    let of = |kernel: &str| rows.iter().filter(|row| row["kernel"] == kernel).collect::<Vec<_>>();
    // Equal layers share a launch where they can.
    let layers = |kernel: &str| of(kernel).iter().map(|row| row["instances"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(["conv_fprop_mma", "conv_dgrad_mma", "conv_wgrad_mma"].map(layers), [13, 12, 13]);
    assert!(rows.iter().all(|row| row["blocks"].as_u64() > Some(0) && row["fills"].is_null()));
    assert!(
        of("conv_fprop_mma").iter().all(|row| row["constants"]["STORAGE"] == 2 && row["gflop"].as_f64() > Some(0.0))
    );
    // An estimate for each launch, and all of them together.
    let ms = |rows: &[serde_json::Value]| rows.iter().map(|row| row["ms"].as_f64().unwrap()).collect::<Vec<_>>();
    let [each, shares] = [rows, r["by_bound"].as_array().unwrap()].map(|rows| ms(rows));
    let total = r["ms"].as_f64().unwrap();
    assert!(each.iter().all(|ms| *ms > 0.0) && rows.iter().all(|row| row["bound"].is_string()));
    assert!([each, shares].iter().all(|ms| (ms.iter().sum::<f64>() - total).abs() <= 1e-9), "{r:#}");
    // Layers of 256 filters by Hopper's own kernels.
    let whole = ["launches", "vgg16", "--image", "64", "--batch", "2", "--precision", "bf16", "--warpgroups", "--json"];
    let [own, error] = texts(kernels(dir.path(), false, &whole).output().unwrap());
    assert_eq!(error, "");
    let own = json(&own)["launches"].as_array().unwrap().clone();
    let own: Vec<_> = own.iter().filter(|row| row["kernel"] == "conv_gemm_sm90").collect();
    assert!(!own.is_empty() && own.iter().all(|row| row["ms"].as_f64() > Some(0.0)), "{own:#?}");
    let slow = json(&launches(false, &["--pass", "train", "--json", "--bandwidth", "1"]));
    assert!(slow["ms"].as_f64() > Some(10.0 * total), "{slow:#}");
    let table = launches(false, &[]);
    assert!(table.contains("NVRTC is missing") && table.contains("Estimated, not timed"), "{table}");
    assert!(table.lines().take_while(|l| !l.is_empty()).all(|l| l.chars().count() <= 120), "{table}");
    let wide = launches(false, &["--wide"]);
    assert!(!table.contains("FLOP/B") && wide.contains("FLOP/B"), "{wide}");
    if possible() {
        LazyLock::force(&COMPILED);
        let r = json(&launches(true, &["--json"]));
        let fills = |row: &serde_json::Value| row["fills"].as_f64() > Some(0.0) && row["blocks_resident"].is_u64();
        assert!(r["launches"].as_array().unwrap().iter().all(fills), "{r:#}");
        assert!(launches(true, &["--arch", "sm_80"]).contains("SMs of sm_80 take at once"));
    }
}

/// An entry of the cache is code. What a stranger can have put there is not run, and what lies in the current folder is
/// nobody's choice.
#[cfg(unix)]
#[test]
fn no_code_comes_from_strangers_or_the_current_folder() {
    use std::os::unix::fs::PermissionsExt;
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [home, here] = ["home", "here"].map(|name| dir.path().join(name));
    [&home, &here].iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let list = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
        command.args(["kernels", "list", "adam", "--arch", "sm_80", "--json"]).current_dir(&here);
        command.env("XDG_CACHE_HOME", &home).env_remove("DEEP_AFFECT_CACHE").envs(variables.iter().copied());
        texts(command.output().unwrap())
    };
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder.join("kernels")).unwrap().map(|e| e.unwrap().path()).collect()
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // One that says something else, under a checksum that holds.
    let [honest, said] = list(&[("DEEP_AFFECT_CACHE", &here)]);
    assert_eq!((said.as_str(), mode(&here.join("kernels"))), ("", 0o700));
    for entry in entries(&here) {
        let mut bytes = std::fs::read(&entry).unwrap();
        let (key, end) = (b"\"registers\":", bytes.len() - 8);
        let at = bytes.windows(key.len()).rposition(|w| w == key).unwrap() + key.len();
        bytes[at] = if bytes[at] == b'9' { b'8' } else { b'9' };
        let sum = deep_affect::hash::checksum(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&entry, bytes).unwrap();
    }
    let [lie, said] = list(&[("DEEP_AFFECT_CACHE", &here)]);
    assert!(lie != honest && said.is_empty(), "the user's own folder is believed: {said}");

    assert_eq!(list(&[("DEEP_AFFECT_CACHE", Path::new("")), ("DEEP_AFFECT_KERNELS", Path::new(""))])[0], honest);
    assert!(!entries(&home.join("deep-affect")).is_empty() && mode(&home.join("deep-affect")) == 0o700);
    let [answer, said] = list(&[("DEEP_AFFECT_CACHE", Path::new("."))]);
    assert_eq!(answer, honest);
    assert!(said.starts_with("note: DEEP_AFFECT_CACHE=. is not used") && said.lines().count() == 1, "{said}");
    std::fs::set_permissions(here.join("kernels"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let [answer, said] = list(&[("DEEP_AFFECT_CACHE", &here)]);
    assert_eq!(answer, honest);
    assert!(said.contains("here/kernels: others can write it; `chmod go-w`") && said.lines().count() == 1, "{said}");
    for variable in ["DEEP_AFFECT_NVRTC", "DEEP_AFFECT_KERNELS"] {
        let [answer, said] = list(&[(variable, Path::new("nvrtc")), ("XDG_CACHE_HOME", &here)]);
        let wanted = format!("error: {variable}=nvrtc is not used: it is a relative path; write it out from /\n");
        assert_eq!((answer, said), (String::new(), wanted));
    }
}
