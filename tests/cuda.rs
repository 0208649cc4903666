//! The CUDA driver's host code against a library that imitates the driver (`tests/fake-cuda`), in a process of its own:
//! what is asked for, in which order, and what is said when something fails. What kernels compute is not its subject.

mod common;

use common::devices;
use deep_affect::cli::Bar;
use deep_affect::device::{self, Checks, Cuda, Data, Device, Gpu, Session, Simulator, trial};
use deep_affect::error::Result;
use deep_affect::graph::Graph;
use deep_affect::launch::choices::Tiles;
use deep_affect::launch::tensor_map::{Swizzle, TensorMap};
use deep_affect::launch::{Code, Exchange};
use deep_affect::nvrtc::Target;
use deep_affect::ops::arith::Add;
use deep_affect::ops::collective::{AllGather, AllReduce, ReduceScatter};
use deep_affect::ops::conv::{Dgrad, Fprop, FusedBackward};
use deep_affect::plan::Options;
use deep_affect::ranks::Communicator;
use deep_affect::shape::{ConvShape, DType, Type, Window};
use deep_affect::sim::{self, Buffer, Grid, Program, Rights};
use deep_affect::train::network::Precision;
use deep_affect::{nvrtc, progress};
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString, c_char};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use std::{env, fs, slice};

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

/// The same, by what a network's training and inference leave, all of whose kernels the simulator runs.
#[test]
fn inside_with_all_kernels() {
    if env::var_os("FAKE_CUDA_LOG").is_none() {
        return;
    }
    imitate();
    for precision in [Precision::Float32, Precision::Bf16] {
        let [replayed, single] =
            [true, false].map(|r| common::steps(device::open("cuda", None).unwrap(), precision, r));
        assert!(replayed == single, "{precision:?}: a replay has other bits");
    }
}

/// Lets the imitation's kernels be run by the simulator.
fn imitate() {
    // SAFETY: the imitation, whose initialisers do nothing; `Execute` and `Encode` are declared alike there. It stays loaded.
    unsafe {
        let library = libloading::Library::new("libcuda.so").unwrap();
        library.get::<unsafe extern "C" fn(Execute, Encode)>("imitate").unwrap()(execute, encode);
        std::mem::forget(library);
    }
}

/// On Hopper products of warpgroups find the tensors that the driver was told of, and have the bits that the simulator gives them.
#[test]
fn inside_on_hopper() {
    if env::var_os("FAKE_CUDA_LOG").is_none() {
        return;
    }
    imitate();
    let run = |device: Box<dyn Device>| -> Result<Vec<f32>> {
        let mut g = Graph::default();
        let of = |dims: &[usize]| Type::new(DType::BF16, dims);
        let [x, w] = [("x", of(&[1, 5, 9, 64])), ("w", of(&[64, 3, 3, 64]))].map(|(name, t)| g.state(name, t));
        let window = Window::square(3, 1, 1);
        let conv = Fprop { filters: 64, window, groups: 1, bias: false, relu: true };
        let y = g.push1(conv, &[x, w]);
        let shape = ConvShape::new(&[1, 5, 9, 64], 64, window, 1)?;
        let dx = g.push1(Dgrad { shape, fused: FusedBackward::Relu }, &[y, w, x]);
        let mut s = Session::new(g, &[&[y, dx]], Options::default(), device)?;
        for (v, n) in [(x, 5 * 9 * 64), (w, 64 * 9 * 64)] {
            s.write(v, Data::F32(&(0..n).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.4).collect::<Vec<_>>()))?;
        }
        s.run(0)?;
        Ok([s.read(y)?, s.read(dx)?].concat())
    };
    let gpu = || Ok(Box::new(Gpu::new(Cuda::new(0)?, Checks::None, Tiles::default()).with_warpgroups()));
    match gpu().and_then(|gpu| run(gpu)) {
        Ok(got) => {
            let sim = Simulator::new(Target::HOPPER, sim::RunOptions::default()).unwrap();
            let want = run(Box::new(Gpu::new(sim, Checks::None, Tiles::default()).with_warpgroups())).unwrap();
            assert!(got == want && got.iter().any(|x| *x > 1.0), "other bits");
            println!("done");
        }
        Err(e) => println!("exit code {}: {e}", e.exit_code()),
    }
}

/// What a process does that tries kernels for [`inside_trusting`].
#[test]
fn inside_the_trial() {
    if env::var_os("FAKE_CUDA_LOG").is_none() {
        return;
    }
    imitate();
    match trial::run(|| Cuda::new(0), 3) {
        Ok(verdict) => println!("\n{}", verdict.line()),
        Err(e) => {
            eprintln!("error: {e}");
            std::process::exit(1);
        }
    }
}

/// By which kernel a convolution is computed on Hopper, where kernels are tried in a process of the kind `$TRIAL`.
#[test]
fn inside_trusting() {
    if env::var_os("FAKE_CUDA_LOG").is_none() {
        return;
    }
    imitate();
    progress::watch(Box::leak(Box::new(Bar::new())));
    let kind = env::var("TRIAL").unwrap();
    let command = match &*kind {
        "whole" => |_| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["inside_the_trial", "--exact", "--nocapture"]);
            Some(command)
        },
        "hangs" => |_| sh("exec sleep 60"),
        "breaks" => |_| sh("kill -SEGV $$"),
        "is stopped" => |_| sh("kill -9 $$"),
        "fails" => |_| sh("echo 'error: no GPU is free' >&2; exit 1"),
        _ => |_| None,
    };
    trial::by(trial::Try { command, limit: Duration::from_millis(if kind == "hangs" { 200 } else { 500_000 }) });
    let mut g = Graph::default();
    let dtype = if kind == "float32" { DType::F32 } else { DType::BF16 };
    let [x, w] = [("x", [1, 8, 8, 64]), ("w", [256, 1, 1, 64])].map(|(name, d)| g.input(name, Type::new(dtype, &d)));
    let window = Window::square(1, 1, 0);
    let y = g.push1(Fprop { filters: 256, window, groups: 1, bias: false, relu: false }, &[x, w]);
    // The second device knows what the first one was told.
    for _ in 0..2 {
        let device = device::open("cuda", None).unwrap();
        let mut s = Session::new(g.clone(), &[&[y]], Options::default(), device).unwrap();
        s.write(x, Data::F32(&[0.5; 64 * 64])).unwrap();
        s.write(w, Data::F32(&[0.25; 256 * 64])).unwrap();
        s.run(0).unwrap();
        assert_eq!(s.read(y).unwrap(), [8.0; 64 * 256]);
        let launches = s.device().launches(s.graph(), &s.plans()[0]).unwrap();
        let Code::Kernel(call) = &launches[0].launch.code else { panic!("a kernel") };
        println!("\nby {}", call.kernel.entry);
    }
}

fn sh(script: &str) -> Option<Command> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Some(command)
}

type Encode = extern "C" fn(usize, u32, u64, *const u64, *const u64, *const u32, u32, *mut u8) -> i32;

/// A tensor map of the imitation as the simulator has it.
extern "C" fn encode(
    item: usize,
    axes: u32,
    address: u64,
    extents: *const u64,
    strides: *const u64,
    window: *const u32,
    swizzle: u32,
    to: *mut u8,
) -> i32 {
    let axes = axes as usize;
    // SAFETY: arrays of so many numbers, of the strides one less, and room for 128 bytes, by the imitation's caller.
    let (extents, strides, window, to) = unsafe {
        let [extents, strides] = [(extents, axes), (strides, axes - 1)].map(|(at, n)| slice::from_raw_parts(at, n));
        (extents, strides, slice::from_raw_parts(window, axes), slice::from_raw_parts_mut(to, 128))
    };
    let map = TensorMap {
        item,
        extents: extents.to_vec(),
        strides: strides.to_vec(),
        window: window.iter().map(|n| *n as u64).collect(),
        swizzle: Swizzle::ALL[swizzle as usize],
    };
    match sim::tensor_map(&map, address) {
        Ok(bytes) => {
            to.copy_from_slice(&bytes);
            0
        }
        Err(_) => 1, // CUDA_ERROR_INVALID_VALUE
    }
}

type Execute =
    extern "C" fn(*const c_char, *const c_char, &[u32; 3], u32, u32, *const u8, usize, u64, *mut u8, usize) -> i32;

/// Runs a launch of the imitation on its memory: one allocation, at the address that the simulator gives the first window.
extern "C" fn execute(
    ptx: *const c_char,
    entry: *const c_char,
    grid: &[u32; 3],
    threads: u32,
    shared_bytes: u32,
    params: *const u8,
    param_bytes: usize,
    address: u64,
    memory: *mut u8,
    bytes: usize,
) -> i32 {
    static PROGRAMS: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);
    assert_eq!(address, sim::address(0));
    // SAFETY: texts that end with zero, and slices, of the imitation; nothing else touches its memory meanwhile.
    let (ptx, entry, params, data) = unsafe {
        let [ptx, entry] = [ptx, entry].map(|text| CStr::from_ptr(text).to_str().unwrap());
        (ptx, entry, slice::from_raw_parts(params, param_bytes), slice::from_raw_parts_mut(memory, bytes))
    };
    let program =
        PROGRAMS.lock().unwrap().entry(ptx.into()).or_insert_with(|| Arc::new(Program::parse(ptx).unwrap())).clone();
    let grid = Grid { grid: *grid, block: [threads, 1, 1], shared_bytes };
    let arena = Buffer { name: "the arena", at: 0, data, blank: &mut [], access: Rights::Update };
    match sim::launch(&program, entry, grid, params, &mut [arena], sim::RunOptions::default()) {
        Ok(_) => 0,
        Err(fault) => {
            println!("{fault}");
            719 // CUDA_ERROR_LAUNCH_FAILED
        }
    }
}

fn add() -> Result<()> {
    progress::watch(Box::leak(Box::new(Bar::new())));
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

/// A communicator whose other rank says what this one says, but for its NCCL.
struct Two;

impl Communicator for Two {
    fn rank(&self) -> usize {
        0
    }
    fn ranks(&self) -> usize {
        2
    }
    fn at(&self, _: u64) {}
    fn exchange(&self, _: Exchange, _: u32, _: &mut [&mut [f32]]) -> Result<()> {
        unreachable!("NCCL does")
    }
    fn exchange64(&self, _: Exchange, _: u32, _: &mut [&mut [f64]]) -> Result<()> {
        unreachable!("NCCL does")
    }
    fn collect(&self, _: &[u8]) -> Result<Vec<Vec<u8>>> {
        unreachable!("no checkpoint is written")
    }
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let other = env::var("OTHER_NCCL").map_or(own.to_vec(), |v| format!("[[\"NCCL\",\"{v}\"]]").into_bytes());
        Ok(vec![own.to_vec(), other])
    }
    fn broadcast(&self, _: usize, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
    fn alive(&self) -> Result<()> {
        Ok(())
    }
    fn leave(&self, _: &str) {}
}

/// What the other process does with another rank: x = a + b is summed while y = a + a is computed, then z = x + y.
#[test]
fn inside_of_two_ranks() {
    let run = || -> Result<()> {
        let mut g = Graph::default();
        let [a, b] = ["a", "b"].map(|name| g.input(name, Type::f32(&[8])));
        let x = g.push1(Add, &[a, b]);
        let x = g.push1(AllReduce { bucket: 0, ranks: 2, values: 1 }, &[x]);
        let y = g.push1(Add, &[a, a]);
        let z = g.push1(Add, &[x, y]);
        let mut device = device::open_with("cuda", None, Checks::None)?;
        device.connect(Arc::new(Two))?;
        let mut s = Session::new(g, &[&[z]], Options::default(), device)?;
        for run in 0..3 {
            s.write(a, Data::F32(&[run as f32; 8]))?;
            s.write(b, Data::F32(&[0.5; 8]))?;
            s.run(0)?;
            assert_eq!(s.read(z)?, [3.0 * run as f32 + 0.5; 8]);
        }
        println!("done");
        Ok(())
    };
    if env::var_os("FAKE_CUDA_LOG").is_some()
        && let Err(e) = run()
    {
        println!("exit code {}: {e}", e.exit_code());
    }
}

/// The same with shares of sums: of 400 numbers, the first 192 of x for this rank, the others of x and all of y for the other;
/// what is computed of them is handed round.
#[test]
fn inside_of_two_ranks_with_shares() {
    let run = || -> Result<()> {
        let mut g = Graph::default();
        let x = [300, 100].map(|n| g.input(&format!("{n}"), Type::f32(&[n])));
        let twice = x.map(|x| g.push1(Add, &[x, x]));
        let own = g.push(ReduceScatter { bucket: 0, ranks: 2, values: 2 }, &twice);
        let more: Vec<_> = own.iter().zip(x).map(|(own, x)| g.push1(Add, &[*own, x])).collect();
        let z = g.push(AllGather { bucket: 0, ranks: 2, values: 2 }, &more);
        let mut device = device::open_with("cuda", None, Checks::None)?;
        device.connect(Arc::new(Two))?;
        let mut s = Session::new(g, &[&z], Options::default(), device)?;
        for run in 0..3 {
            s.write(x[0], Data::F32(&[run as f32; 300]))?;
            s.run(0)?;
            assert_eq!(s.read(z[0])?, [3.0 * run as f32; 300]);
        }
        println!("done");
        Ok(())
    };
    if env::var_os("FAKE_CUDA_LOG").is_some()
        && let Err(e) = run()
    {
        println!("exit code {}: {e}", e.exit_code());
    }
}

/// Makes a library in a folder.
fn compile(dir: &Path, library: &str, source: &str, flags: &[&str]) {
    let made = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "--crate-type=cdylib", "-Copt-level=2", "-o"])
        .args([dir.join(library), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-cuda").join(source)])
        .args(flags)
        .status();
    assert!(made.unwrap().success());
}

/// Makes the imitation in a folder; what a loader looks through then.
fn imitation(dir: &Path, flags: &[&str]) -> OsString {
    compile(dir, "libcuda.so", "libcuda.rs", flags);
    compile(dir, "libnvtx3interop.so.1", "libnvtx.rs", flags);
    let old = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    env::join_paths([dir.to_path_buf()].into_iter().chain(env::split_paths(&old))).unwrap()
}

/// A program that finds the imitation under `path`, whose log is in `dir`.
fn beside(program: impl AsRef<OsStr>, dir: &Path, path: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", path).env("FAKE_CUDA_LOG", dir.join("log")).env("DEEP_AFFECT_CACHE", dir);
    command
}

/// Runs [`inside`] with the imitation and these variables: what it printed, and what the driver was asked for.
fn with(variables: &[(&str, &str)], compile: &[&str]) -> (String, Vec<String>) {
    within("inside", variables, compile)
}

/// The same of another test.
fn within(test: &str, variables: &[(&str, &str)], compile: &[&str]) -> (String, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = imitation(dir.path(), compile);
    ran(test, variables, dir.path(), &path)
}

/// The same with an imitation in a folder, which a loader finds under `path`.
fn ran(test: &str, variables: &[(&str, &str)], dir: &Path, path: &OsStr) -> (String, Vec<String>) {
    let log = dir.join("log");
    let _ = fs::remove_file(&log);
    let out = beside(env::current_exe().unwrap(), dir, path)
        .args([test, "--exact", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert!(out.status.success(), "{text}");
    (text, fs::read_to_string(log).unwrap_or_default().lines().map(String::from).collect())
}

/// Whether there is something to compile with, and a system whose loader takes the imitation.
fn possible() -> bool {
    nvrtc::available().map_err(|e| devices::without("sim", &e)).is_ok() && cfg!(target_os = "linux")
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

/// One of two ranks. Costs two seconds.
#[test]
fn a_sum_over_ranks_goes_on_beside_what_does_not_need_it() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = imitation(dir.path(), &[]);
    let said = |variables: &[(&str, &str)]| ran("inside_of_two_ranks", variables, dir.path(), &path);
    let (none, _) = said(&[]);
    assert!(none.contains("exit code 1: GPUs of several ranks need NCCL: libnccl.so.2: cannot open"), "{none}");
    assert!(none.contains("pip install nvidia-nccl-cu13") && none.contains("DEEP_AFFECT_NCCL"), "{none}");
    let (missing, _) = said(&[("OTHER_NCCL", "2.27.3")]);
    assert!(missing.contains("NCCL is missing on rank 0 and 2.27.3 on rank 1"), "{missing}");

    let nccl = tempfile::tempdir().unwrap();
    compile(nccl.path(), "libnccl.so.2", "libnccl.rs", &[]);
    let here = ("DEEP_AFFECT_NCCL", nccl.path().to_str().unwrap());
    let (old, _) = said(&[here, ("FAKE_NCCL_VERSION", "21005")]);
    assert!(old.contains("it is version 2.10.5, and 2.16.0 is the oldest that will do"), "{old}");
    let (other, _) = said(&[here, ("OTHER_NCCL", "2.18.1")]);
    assert!(other.contains("NCCL is 2.27.3 on rank 0 and 2.18.1 on rank 1"), "{other}");
    let (fails, _) = said(&[here, ("FAKE_NCCL_FAIL", "1")]);
    assert!(fails.contains("summing over ranks: NCCL 2.27.3 says: unhandled system error"), "{fails}");

    let (text, log) = said(&[here]);
    assert!(text.contains("done"), "{text}");
    let count = |what: &str| log.iter().filter(|l| l.starts_with(what)).count();
    assert_eq!([count("rank 0 of 2"), count("abort"), count("cuGraphLaunch")], [1, 1, 2]);
    // The first run: x, its sum on the second stream, y, the wait, z. And again when it is recorded.
    let order = [
        "cuLaunchKernel",
        " after 2",
        " waits for ",
        "group",
        "sum of 8 on ",
        "end of group",
        " after ",
        "cuLaunchKernel",
    ];
    let order = order.into_iter().chain(["2 waits for ", "cuLaunchKernel"]);
    let mut lines = log.iter().skip_while(|l| *l != "cuLaunchKernel");
    for run in ["sent", "recorded"] {
        for what in order.clone() {
            assert!(lines.by_ref().any(|l| l.contains(what)), "{run}: no `{what}` in {log:#?}");
        }
    }
    let waits: Vec<&String> = log.iter().filter(|l| l.contains(" waits for ")).collect();
    let [begun, done, ..] = waits[..] else { panic!("{waits:?}") };
    // The second stream waits for x, the first one for the sum.
    assert!(!begun.starts_with("2 ") && done.starts_with("2 ") && waits.len() == 4, "{waits:?}");
    let (stream, _) = begun.split_once(' ').unwrap();
    assert_eq!(log.iter().filter(|l| **l == format!("sum of 8 on {stream}")).count(), 2);
    for (take, give) in [("cuEventCreate", "cuEventDestroy_v2"), ("cuStreamCreate", "cuStreamDestroy_v2")] {
        assert_eq!(count(take), count(give), "{take}");
    }

    // Each piece goes to the rank in whose share it is, and from there to all, as one operation; the same when it is recorded.
    let (text, log) = ran("inside_of_two_ranks_with_shares", &[here], dir.path(), &path);
    assert!(text.contains("done"), "{text}");
    let groups: Vec<&[String]> = log.split(|l| l == "group").skip(1).collect();
    assert_eq!(groups.len(), 4, "{log:#?}");
    let said = |group: &[String]| -> Vec<(String, u64)> {
        let until = group.iter().take_while(|l| *l != "end of group");
        let parts = until.map(|l| {
            let (before, rest) = l.split_once(" at ").unwrap();
            let (at, rest) = rest.split_once(' ').unwrap();
            let (after, _) = rest.split_once(" on ").unwrap();
            (format!("{before} {after}"), at.parse().unwrap())
        });
        parts.collect()
    };
    let names = |group: &[String]| said(group).into_iter().map(|p| p.0).collect::<Vec<_>>();
    for run in [&groups[..2], &groups[2..]] {
        assert_eq!(names(run[0]), ["sum of 192 for 0", "sum of 108 for 1", "sum of 100 for 1"]);
        assert_eq!(names(run[1]), ["192 from 0", "108 from 1", "100 from 1"]);
        for group in run {
            let at = said(group);
            assert_eq!(at[1].1 - at[0].1, 4 * 192);
        }
    }
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
fn replays_have_the_bits_of_single_launches() {
    if possible() {
        // The simulator takes PTX.
        let architecture = [("FAKE_CUDA_COMPUTE", "80"), ("FAKE_CUDA_REFUSE_IMAGES", "E")];
        let (_, log) = within("inside_with_all_kernels", &architecture, &[]);
        // In both precisions three replays of the step and three of the inference.
        let replays = log.iter().filter(|l| *l == "cuGraphLaunch").count();
        assert!(replays >= 2 * 2 * 3, "{replays} replays");
    }
}

/// An imitation of Hopper that the simulator can compute for.
const HOPPER: [(&str, &str); 2] = [("FAKE_CUDA_COMPUTE", "90"), ("FAKE_CUDA_REFUSE_IMAGES", "E")];

/// What [`inside_trusting`] says with an imitation in a folder: the kernel, and the note where there is one.
fn trusting(trial: &str, more: &[(&str, &str)], dir: &Path, path: &OsStr) -> (String, Option<String>) {
    let (text, _) = ran("inside_trusting", &[&HOPPER[..], &[("TRIAL", trial)], more].concat(), dir, path);
    let all = |begin: &str| text.lines().filter_map(|l| Some(l.strip_prefix(begin)?.to_string())).collect::<Vec<_>>();
    let (by, mut notes) = (all("by "), all("note: "));
    assert!(by.len() == 2 && by[0] == by[1] && notes.len() <= 1, "{text}");
    (by[0].clone(), notes.pop())
}

/// Hopper's own kernels compute where they were tried and agreed with the portable ones, once for a machine.
#[test]
fn kernels_of_hopper_are_tried_before_they_are_used() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = imitation(dir.path(), &[]);
    let with = |trial: &str| trusting(trial, &[], dir.path(), &path);
    let portable = |trial: &str, why: &str| {
        let (by, note) = with(trial);
        let note = note.unwrap_or_default();
        assert!(
            by == "conv_fprop_mma" && note.starts_with("convolutions by the portable kernels: Hopper's own "),
            "{by}"
        );
        assert!(note.ends_with(why), "{note}");
    };
    // Nobody tries: neither is anything kept.
    portable("none", "were not tried on this GPU yet: `deep-affect` does that before it computes in bf16");
    portable("fails", "were not tried: no GPU is free");
    portable("is stopped", "were not tried: their process was ended (signal: 9 (SIGKILL))");
    assert_eq!(with("float32"), ("conv_fprop".into(), None));
    let kept = dir.path().join("trials/fake-gpu--sm-90a.json");
    assert!(!kept.exists());
    for (trial, why) in [("hangs", "they did not end within 0.2 s"), ("breaks", "they broke their process (signal: 11")]
    {
        let (by, note) = with(trial);
        let note = note.unwrap();
        assert!(
            by == "conv_fprop_mma" && note.contains(" were tried and are not used: ") && note.contains(why),
            "{note}"
        );
        // It is not tried again, and said again.
        assert_eq!(with("none"), (by, Some(note)));
        fs::remove_file(&kept).unwrap();
    }
    let agreed = ("conv_gemm_sm90".to_string(), None);
    assert_eq!([with("whole"), with("none")], [agreed.clone(), agreed]);
    // By another driver or program it says nothing, and neither does a damaged one.
    let text = fs::read_to_string(&kept).unwrap();
    for (from, to) in [("\"driver\": \"", "\"driver\": \"1"), ("\"program\": \"", "\"program\": \"1"), ("{", "")] {
        fs::write(&kept, text.replacen(from, to, 1)).unwrap();
        portable("none", "before it computes in bf16");
    }
    fs::remove_file(&kept).unwrap();

    // The program's own process, here on an imitation whose kernels do nothing.
    let mut check = beside(env!("CARGO_BIN_EXE_deep-affect"), dir.path(), &path);
    let out = check.args(["kernels", "check", "--device", "cuda:0"]).envs(HOPPER).output().unwrap();
    let said = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    assert!(out.status.code() == Some(1) && said == "error: the portable kernels compute nothing\n", "{said}");
    let mut check = beside(env!("CARGO_BIN_EXE_deep-affect"), dir.path(), &path);
    let out = check.args(["kernels", "check"]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(2) && said.contains("(Fake GPU, sm_86) has no kernels of its own"), "{said}");

    // A kernel that multiplies every tap by the first one's filters.
    let wrong = dir.path().join("wrong");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    assert!(Command::new("cp").args(["-r".as_ref(), root.as_os_str(), wrong.as_os_str()]).status().unwrap().success());
    let source = wrong.join("sm90/conv.cu");
    let text = fs::read_to_string(&source).unwrap();
    assert_eq!(text.matches("c, tap, filter);").count(), 1);
    fs::write(&source, text.replace("c, tap, filter);", "c, 0, filter);")).unwrap();
    let (by, note) = trusting("whole", &[("DEEP_AFFECT_KERNELS", wrong.to_str().unwrap())], dir.path(), &path);
    let note = note.unwrap();
    assert!(by == "conv_fprop_mma" && note.contains("are not used: fprop by 64 filters has "), "{note}");
    assert!(note.ends_with(" of integers"), "{note}");

    // A driver of before tensor maps.
    let old = dir.path().join("old");
    fs::create_dir(&old).unwrap();
    let (by, note) = trusting("whole", &[], dir.path(), &imitation(&old, &["--cfg", "no_tensor_maps"]));
    let note = note.unwrap();
    assert!(
        by == "conv_fprop_mma" && note.contains("not used: the NVIDIA driver has no cuTensorMapEncodeTiled"),
        "{note}"
    );
}

#[test]
fn tensors_are_told_to_a_driver_that_can_be() {
    if possible() {
        let (text, log) = within("inside_on_hopper", &HOPPER, &[]);
        assert!(text.contains("\ndone"), "{text}");
        // Images and filters of each of four instances in a launch, of which there is one.
        assert_eq!(log.iter().filter(|l| *l == "cuTensorMapEncodeTiled").count(), 4, "{log:?}");
        let refuses = [&HOPPER[..], &[("FAKE_CUDA_REFUSE", "cuTensorMapEncodeTiled")]].concat();
        let (text, _) = within("inside_on_hopper", &refuses, &[]);
        assert!(text.contains("exit code 1: cuTensorMapEncodeTiled: "), "{text}");
    }
}

#[test]
fn a_recording_that_fails_is_told_once_and_done_without() {
    if !possible() {
        return;
    }
    for function in ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"] {
        let (text, log) = with(&[("FAKE_CUDA_REFUSE", function)], &[]);
        assert!(text.contains("\ndone"), "{function}: {text}");
        assert_eq!(
            text.matches("note: launches are sent one by one: recording a plan as a graph: ").count(),
            1,
            "{text}"
        );
        assert_eq!(log.iter().filter(|l| *l == function).count(), 1, "{function} is tried once");
        assert!(!log.contains(&"cuGraphLaunch".into()));
    }
}

#[test]
fn a_driver_of_cuda_12_serves_or_says_what_would() {
    if !possible() {
        return;
    }
    let said = |version, images| with(&[("FAKE_CUDA_VERSION", version), ("FAKE_CUDA_REFUSE_IMAGES", images)], &[]).0;
    assert!(said("12000", "").contains("\ndone"));
    // Code that it is too old for, and PTX that it is not.
    assert!(said("12040", "E").contains("\ndone"));
    let neither = said("12040", "E/");
    let own = nvrtc::available().unwrap();
    let pair =
        format!("this driver serves CUDA 12.4 and the code is of NVRTC {own}: `pip install 'nvidia-cuda-nvrtc-cu12");
    assert!(neither.contains("exit code 1: translating arith.cu") && neither.contains(&pair), "{neither}");
    let old = said("11080", "");
    assert!(old.contains("the NVIDIA driver is too old: it serves CUDA 11.8, and 12.0 is needed"), "{old}");
}

#[test]
fn doctor_says_whether_driver_and_compiler_fit() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = imitation(dir.path(), &[]);
    let own = nvrtc::available().unwrap();
    for (version, fits) in [(13000, true), (12000, own.major == 12)] {
        let mut doctor = beside(env!("CARGO_BIN_EXE_deep-affect"), dir.path(), &path);
        let out = doctor.arg("doctor").env("FAKE_CUDA_VERSION", version.to_string()).output().unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        let verdict = if fits { "; fits the driver" } else { "; too new for the driver" };
        assert!(said.contains(&format!("found, version {own}{verdict}")), "{said}");
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
        let out = beside(env!("CARGO_BIN_EXE_deep-affect"), dir.path(), &path)
            .args(["kernels"])
            .args(args)
            .args(["vgg16", "--width", "8", "--image", "64", "--batch", "40", "--precision", "bf16", "--pass", "infer"])
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
    assert!(with_filters["tile"]["BM"] == 256 && dense["tile"]["BN"] == 256, "{r:#}");
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

/// `benches/gpu.sh` from its first line to its last, with stand-ins for the card's tools and for the test programs.
#[test]
fn the_script_for_a_gpu_runs_here() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [fails_once, tests, out] = ["once", "tests", "out"].map(|name| dir.path().join(name));
    fs::create_dir(&fails_once).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::os::unix::fs::symlink(root.join("tests/fake-cuda/tool"), &tests).unwrap();
    let run = |what: &str| {
        let output = Command::new(root.join("benches/gpu.sh"))
            .arg(what)
            .env("SMOKE", "1")
            .env("BINARY", env!("CARGO_BIN_EXE_deep-affect"))
            .env("TESTS", &tests)
            .env("PRECISION_TESTS", &tests)
            .env("FAILS_ONCE", &fails_once)
            .env("DEEP_AFFECT_CACHE", dir.path())
            .env("OUT", &out)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = run("check");
    // A family that fails beside others runs alone, and is not forgotten.
    assert!(
        said.contains("values, ")
            && said.contains("2 passed, 1 failed")
            && said.contains("FAILED     pool; alone: passed"),
        "{said}"
    );
    let parts = [
        "golden files",
        "graph replay, training step",
        "graph replay, inference",
        "inference at 5 against 2 at a time",
    ];
    assert!(parts.iter().all(|part| said.contains(&format!("passed     {part}"))), "{said}");
    // The counters have the names of layers, wherever in the step they begin.
    let counted: Vec<&str> = said.lines().filter(|l| l.contains("barrier 1.5")).collect();
    assert!(counted.len() == 8 && counted.iter().all(|l| !l.starts_with('?')), "{said}");
    assert!(said.trim_end().lines().last().unwrap().starts_with("parts that failed: 1;") && code == Some(1), "{said}");

    let (code, said) = run("speed");
    assert_eq!(code, Some(0), "{said}");
    let last = said.trim_end().lines().last().unwrap();
    assert!(last.starts_with('|') && said.contains("clocks, MHz: lowest 1980") && said.len() < 12_000, "{said}");
    let mut left: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["check.tar.gz", "check.txt", "speed.tar.gz", "speed.txt"]);
    let (code, said) = run("fly");
    assert!(code == Some(2) && said.contains("usage: benches/gpu.sh pack|check|speed"), "{said}");
}
