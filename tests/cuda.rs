//! The CUDA driver's host code against a library that imitates the driver (`tests/fake-cuda`), in a process of its own:
//! what is asked for, in which order, and what is said when something fails. What kernels compute is not its subject.

use deep_affect::device::{self, Checks, Data, Session};
use deep_affect::error::Result;
use deep_affect::graph::Graph;
use deep_affect::nvrtc;
use deep_affect::ops::arith::Add;
use deep_affect::plan::Options;
use deep_affect::shape::Type;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// More than one staging buffer, and no multiple of anything.
const N: usize = 3 << 20 | 1;

/// What the other process does: c = a + b, three runs and one that is measured.
#[test]
fn inside() {
    if env::var_os("FAKE_CUDA_LOG").is_some()
        && let Err(e) = add()
    {
        println!("exit code {}: {e}", e.exit_code());
    }
}

fn add() -> Result<()> {
    let mut g = Graph::default();
    let [a, b] = ["a", "b"].map(|name| g.input(name, Type::f32(&[N])));
    g.set_label("sum");
    let c = g.push1(Add, &[a, b]);
    let device = device::open_with("cuda", None, Checks::None)?;
    println!("{}", device.name());
    let mut s = Session::new(g, &[&[c]], Options::default(), device)?;
    for run in 0..3 {
        let x: Vec<f32> = (0..N).map(|i| (i % 1000 + run) as f32).collect();
        s.write(a, Data::F32(&x))?;
        s.write(b, Data::F32(&vec![0.5; N]))?;
        s.run(0)?;
        let y = s.read(c)?;
        assert!(x.iter().zip(&y).all(|(x, y)| x + 0.5 == *y));
    }
    s.profile(0, &mut |p| println!("{} took {} s", p.name, p.seconds))?;
    println!("done");
    Ok(())
}

/// Makes the imitation in a folder; what a loader looks through then.
fn imitation(dir: &Path, compile: &[&str]) -> OsString {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    for (library, source) in [("libcuda.so", "libcuda.rs"), ("libnvtx3interop.so.1", "libnvtx.rs")] {
        let made = Command::new(&rustc)
            .args(["--edition=2024", "--crate-type=cdylib", "-Copt-level=2", "-o"])
            .args([dir.join(library), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-cuda").join(source)])
            .args(compile)
            .status();
        assert!(made.unwrap().success());
    }
    let old = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    env::join_paths([dir.to_path_buf()].into_iter().chain(env::split_paths(&old))).unwrap()
}

/// Runs [`inside`] with the imitation and these variables: what it printed, and what the driver was asked for.
fn with(variables: &[(&str, &str)], compile: &[&str]) -> (String, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = (imitation(dir.path(), compile), dir.path().join("log"));
    let out = Command::new(env::current_exe().unwrap())
        .args(["inside", "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", path)
        .env("FAKE_CUDA_LOG", &log)
        .env("DEEP_AFFECT_CACHE", dir.path())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    (text, fs::read_to_string(log).unwrap_or_default().lines().map(String::from).collect())
}

/// Whether there is something to compile with, and a system whose loader takes the imitation.
fn possible() -> bool {
    let found = nvrtc::available();
    if let Err(e) = &found {
        assert!(env::var_os("REQUIRE_NVRTC").is_none(), "{e}");
        println!("SKIPPED: {e}");
    }
    found.is_ok() && cfg!(target_os = "linux")
}

#[test]
fn a_plan_runs_is_recorded_and_replayed() {
    if !possible() {
        return;
    }
    let (text, log) = with(&[], &[]);
    assert!(text.contains("cuda:0 (Fake GPU, sm_86)") && text.contains("add took 0.002 s\ndone"), "{text}");
    let count = |name: &str| log.iter().filter(|l| *l == name).count();
    // The first run, the recording, the measured one.
    assert_eq!(count("cuLaunchKernel"), 3);
    assert_eq!([count("cuStreamBeginCapture_v2"), count("cuGraphLaunch")], [1, 2]);
    assert_eq!([count("push add of sum"), count("pop")], [2, 2]);
    // What is taken is given back.
    let pairs = [
        ("cuMemAlloc_v2", "cuMemFree_v2"),
        ("cuMemHostAlloc", "cuMemFreeHost"),
        ("cuModuleLoadData", "cuModuleUnload"),
        ("cuEventCreate", "cuEventDestroy_v2"),
        ("cuStreamCreate", "cuStreamDestroy_v2"),
        ("cuGraphInstantiateWithFlags", "cuGraphExecDestroy"),
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
    ];
    for (take, give) in pairs {
        assert!(count(take) > 0 && count(take) == count(give), "{take} {}, {give} {}", count(take), count(give));
    }
    assert_eq!(count("cuMemAlloc_v2"), 1);
    assert!(log.contains(&"image \"\\u{7f}ELF\"".into()), "a cubin is loaded");
    // Two inputs in two pieces each, three times; only reading and the end wait.
    assert_eq!([count("cuMemcpyHtoDAsync_v2"), count("cuMemcpyDtoHAsync_v2")], [12, 3]);

    let (text, log) = with(&[("DEEP_AFFECT_GRAPHS", "0")], &[]);
    assert!(text.contains("done"), "{text}");
    assert_eq!(log.iter().filter(|l| *l == "cuLaunchKernel").count(), 4);
    // A profiler sees each by the name of its layer.
    let ranges: Vec<_> = log.windows(3).filter(|l| l[0] == "push add of sum" && l[2] == "pop").collect();
    assert!(ranges.len() == 4 && ranges.iter().all(|l| l[1] == "cuLaunchKernel"), "{log:?}");
    assert!(!log.contains(&"cuGraphLaunch".into()));
}

#[test]
fn a_newer_gpu_is_given_ptx() {
    if possible() {
        let (text, log) = with(&[("FAKE_CUDA_COMPUTE", "130")], &[]);
        assert!(text.contains("sm_130") && text.contains("done"), "{text}");
        assert!(log.contains(&"image \"//\\n/\"".into()), "{log:?}");
    }
}

#[test]
fn what_is_said_when_it_does_not_work() {
    if !possible() {
        return;
    }
    let said = |variables: &[(&str, &str)]| with(variables, &[]).0;
    let old = said(&[("FAKE_CUDA_COMPUTE", "61")]);
    assert!(old.contains("exit code 1: Fake GPU has compute capability 6.1, and 7.5 is needed"), "{old}");
    let full = said(&[("FAKE_CUDA_FREE", "1000000")]);
    assert!(full.contains("exit code 1: 37 MiB of memory are needed"), "{full}");
    let broken = said(&[("FAKE_CUDA_FAIL", "0")]);
    assert!(broken.contains("exit code 1: add of sum: an illegal memory access (CUDA_ERROR_OF_A_TEST)"), "{broken}");
    let replayed = said(&[("FAKE_CUDA_FAIL", "1")]);
    assert!(replayed.contains("exit code 1: replaying a plan: an illegal memory access"), "{replayed}");
    let lacking = with(&[], &["--cfg", "no_graphs"]).0;
    assert!(lacking.contains("the NVIDIA driver is too old: it has no cuGraphLaunch"), "{lacking}");
}

/// `kernels tune` on an imitation that takes a millisecond for a thousand blocks: the largest tiles win.
#[test]
fn the_fastest_tiles_are_kept_for_a_gpu() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = imitation(dir.path(), &[]);
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_deep-affect"))
            .args(["kernels"])
            .args(args)
            .args(["vgg16", "--width", "8", "--image", "64", "--batch", "40", "--precision", "bf16", "--pass", "infer"])
            .env("LD_LIBRARY_PATH", &path)
            .env("FAKE_CUDA_LOG", dir.path().join("log"))
            .env("DEEP_AFFECT_CACHE", dir.path())
            .output()
            .unwrap();
        let [said, remarks] = [out.stdout, out.stderr].map(|t| String::from_utf8(t).unwrap());
        (out.status.code(), said, remarks)
    };
    let tune = ["tune", "--device", "cuda", "--repeat", "1"];
    let (code, said, remarks) = run(&[&tune[..], &["--json"]].concat());
    assert_eq!(code, Some(0), "{remarks}");
    let r: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(r["device"], "Fake GPU, sm_86");
    assert!(r["kept_us"].as_f64() < r["rule_us"].as_f64(), "{r:#}");
    let products = r["products"].as_array().unwrap();
    let [with_filters, dense] =
        ["conv_fprop_mma VEC=8 STORAGE=2 TERMS=1 m=163840 n=8 ", "dense_fprop_mma VEC=8 STORAGE=2 TERMS=1 m=40 "]
            .map(|key| products.iter().find(|p| p["product"].as_str().unwrap().starts_with(key)).unwrap());
    // Of tiles with as many blocks the rule's, of others the one with the fewest.
    assert!(with_filters["tile"]["BM"] == 128 && dense["tile"]["BN"] == 256, "{r:#}");
    let file = r["file"].as_str().unwrap();
    assert!(file.ends_with("fake-gpu--sm-86.json"), "{file}");

    let launches = ["launches", "--arch", "sm_86", "--json", "--tiles", file];
    let measured = |said: &str| {
        serde_json::from_str::<serde_json::Value>(said).unwrap()["launches"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|l| l["tile_by"] == "measured")
            .count()
    };
    assert!(measured(&run(&launches).1) >= products.len());
    let (code, said, _) = run(&tune);
    assert!(code == Some(0) && said.contains("ms with the tiles that are kept in"), "{said}");

    // Of other kernels it is not used, and damaged it is said so.
    let text = fs::read_to_string(file).unwrap();
    let at = text.find("\"kernels\": \"").unwrap() + 12;
    fs::write(file, format!("{}x{}", &text[..at], &text[at + 1..])).unwrap();
    let (code, said, _) = run(&launches);
    assert!(code == Some(1) && said.is_empty());
    fs::write(file, &text[1..]).unwrap();
    let (code, said, remarks) = run(&tune);
    assert!(code == Some(1) && said.is_empty() && remarks.contains("not a table of tiles"), "{remarks}");
    let (code, _, remarks) = run(&["tune", "--device", "cpu"]);
    assert!(code == Some(2) && remarks.contains("tiles are measured on a GPU"), "{remarks}");
}
