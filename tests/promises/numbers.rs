//! Promises 1 to 7: what is computed. Samples of what other tests check whole: `ops`, `gpu`, `invariance`, `conform`.

use crate::common::{Numbers, bounds, checked, compare, draw, each, have, reference, run};
use crate::runs::{self, CHECKPOINT, folder, good, program, text, train};
use crate::{Form, Line};
use deep_affect::conform;
use deep_affect::device::{self, Checks};
use deep_affect::launch::{Products, Simd};
use deep_affect::ops::{self, Bound, Case};
use deep_affect::plan::Options;
use deep_affect::weights::WeightFile;
use std::path::Path;

/// Outputs are poisoned and have margins: an element left unwritten is no number, one written outside is an error.
const GUARDED: Options = Options { group: false, fuse: false, guard: 4096, products: Products::Float32 };

/// Of every family of ops some cases, spread over all of them.
fn sample(of_each: usize) -> Vec<Case> {
    let some = |mut all: Vec<Case>| {
        let apart = all.len().div_ceil(of_each);
        let mut i = 0;
        all.retain(|_| (i % apart == 0, i += 1).0);
        all
    };
    ops::ALL.iter().flat_map(|f| some((f.cases)())).collect()
}

fn name(case: &Case) -> String {
    format!("{} [{}]", case.op.name(), case.label)
}

/// Sums of small integers are exact in float32, so the definition's bits are asked for. Means do not stay integers.
fn exact(case: &Case) -> bool {
    let mean = ["avgpool", "upsample"].iter().any(|n| case.op.name().starts_with(n));
    matches!(case.bound, Bound::Exact | Bound::Dot(_)) && !mean
}

pub fn kernels(form: Form) -> Vec<Line> {
    let (cases, mut worst, mut outside, mut unequal) = (sample(form.of(12, 60)), 0f64, vec![], vec![]);
    let simd = Simd::detect();
    let mut integers = 0;
    for case in &cases {
        let x = draw(case, 3, Numbers::Reals);
        let want = run(case, reference(), Options::default(), &x).unwrap();
        let bound = bounds(case, &x, &want);
        match run(case, checked(simd, 2), GUARDED, &x) {
            Ok(got) => {
                outside.extend(compare(&got, &want, &bound).map(|e| format!("{}: {e}", name(case))));
                let each = got.iter().zip(&want).zip(&bound).flat_map(|((g, w), b)| g.iter().zip(w).zip(b));
                let part = each.filter(|e| *e.1 > 0.0 && e.0.0.is_finite()).map(|((g, w), b)| (g - w).abs() / b);
                worst = part.fold(worst, f64::max);
            }
            Err(e) => outside.push(format!("{}: {e}", name(case))),
        }
        if exact(case) {
            integers += 1;
            let x = draw(case, 3, Numbers::Integers);
            let want = run(case, reference(), Options::default(), &x).unwrap();
            let none: Vec<Vec<f64>> = want.iter().map(|y| vec![0.0; y.len()]).collect();
            match run(case, checked(simd, 2), GUARDED, &x) {
                Ok(got) => unequal.extend(compare(&got, &want, &none).map(|e| format!("{}: {e}", name(case)))),
                Err(e) => unequal.push(format!("{}: {e}", name(case))),
            }
        }
    }
    vec![
        Line::all(&format!("cases within their bound, {simd:?}"), cases.len(), outside),
        Line::most("the largest error", worst, 1.0, "of its bound"),
        Line::all("cases of integers bit for bit", integers, unequal),
    ]
}

/// The kernels' own PTX, with every access checked; bits against the CPU where both promise the definition's.
pub fn simulator(form: Form) -> Vec<Line> {
    if !have("sim") {
        return vec![Line::skipped("kernels on the simulator", "no simulator")];
    }
    let (mut findings, mut apart, mut compared) = (vec![], vec![], 0);
    let cases = sample(form.of(1, 6));
    let found = each(&cases, |case| {
        let x = draw(case, 3, Numbers::Reals);
        let sim = device::open_with("sim", None, Checks::Poison).unwrap();
        let got = match run(case, sim, GUARDED, &x) {
            Ok(got) => got,
            Err(e) => return Some(format!("{}: {e}", name(case))),
        };
        let want = run(case, reference(), Options::default(), &x).unwrap();
        compare(&got, &want, &bounds(case, &x, &want)).map(|e| format!("{}: {e}", name(case)))
    });
    findings.extend(found);
    let bits = |y: &[Vec<f64>]| -> Vec<u64> { y.iter().flatten().map(|y| y.to_bits()).collect() };
    for case in cases.iter().filter(|c| exact(c)) {
        let numbers = if case.bound == Bound::Exact { Numbers::Reals } else { Numbers::Integers };
        let x = draw(case, 5, numbers);
        let [sim, cpu] = ["sim", "cpu"].map(|d| {
            let device = device::open_with(d, Some(2), Checks::None).unwrap();
            run(case, device, Options::default(), &x)
        });
        compared += 1;
        let (sim, cpu) = match (sim, cpu) {
            (Ok(sim), Ok(cpu)) => (sim, cpu),
            (sim, cpu) => {
                apart.extend([sim.err(), cpu.err()].into_iter().flatten().map(|e| format!("{}: {e}", name(case))));
                continue;
            }
        };
        if bits(&sim) != bits(&cpu) {
            apart.push(name(case));
        }
    }
    vec![
        Line::all("kernels without a finding, within their bound", cases.len(), findings),
        Line::all("kernels with the CPU's bits", compared, apart),
    ]
}

pub fn gradients(form: Form) -> Vec<Line> {
    let dir = tempfile::tempdir().unwrap();
    let mut complaints = vec![];
    let mut tensors = 0;
    let elements = form.of("1", "4");
    let some = ["vgg11", "resnet18", "mobilenet_v1"];
    let networks: Vec<&str> =
        deep_affect::models::ALL.iter().map(|n| n.name).filter(|n| form == Form::Full || some.contains(n)).collect();
    let fused = ["--features", "object"];
    let args = networks.iter().map(|n| vec![*n]).chain([fused.to_vec()]);
    for args in args {
        let all = [&["gradcheck", "--elements", elements, "--json"], &args[..]].concat();
        let out = program(dir.path(), &all).output().unwrap();
        match serde_json::from_slice::<serde_json::Value>(&out.stdout) {
            Ok(g) => {
                tensors += g["results"].as_array().map_or(0, Vec::len);
                let wrong = g["wrong"].as_u64().unwrap_or(1);
                complaints.extend((0..wrong).map(|_| format!("{args:?}: a gradient is wrong")));
            }
            Err(e) => complaints.push(format!("{args:?}: {e} {}", text(&out.stderr))),
        }
    }
    vec![Line::all("tensors against central differences", tensors, complaints)]
}

/// What a picture is rated does not depend on threads, batches, its place or the run.
pub fn bits(_: Form) -> Vec<Line> {
    let dir = folder();
    let p = dir.path();
    good(p, &train("3", &[]));
    let rate = |threads: &str, batch: &str, pictures: &[&str]| -> Vec<String> {
        let args = ["predict", "--model", CHECKPOINT, "--threads", threads, "--batch", batch, "--format", "csv"];
        let mut lines: Vec<String> = good(p, &[&args[..], pictures].concat()).lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let truth = rate("1", "1", &["pictures"]);
    assert_eq!(truth.len(), 25);
    let backwards: Vec<String> = (0..24).rev().map(|i| format!("pictures/{i}.png")).collect();
    let backwards: Vec<&str> = backwards.iter().map(String::as_str).collect();
    let (mut tried, mut complaints) = (0, vec![]);
    for threads in ["1", "2"] {
        for batch in ["1", "2", "7", "32"] {
            for pictures in [&["pictures"][..], &backwards] {
                tried += 1;
                if rate(threads, batch, pictures) != truth {
                    complaints.push(format!("{threads} threads, batch {batch}"));
                }
            }
        }
    }
    // The card names the device and its threads; the rest is bytes of tensors, and predictions.
    let first = [tensors(p), runs::results(p)[1].clone()];
    let mut trained = vec![];
    for threads in ["1", "2", "4"] {
        let args: Vec<&str> = train("3", &[]);
        let at = args.iter().position(|a| *a == "--threads").unwrap();
        good(p, &[&args[..at + 1], &[threads], &args[at + 2..]].concat());
        if [tensors(p), runs::results(p)[1].clone()] != first {
            trained.push(format!("{threads} threads"));
        }
    }
    vec![
        Line::all("ways to rate the same pictures", tried, complaints),
        Line::all("ways to train the same model", 3, trained),
    ]
}

/// Every byte of the tensors of a checkpoint.
fn tensors(dir: &Path) -> Vec<u8> {
    let file = WeightFile::open(dir.join(CHECKPOINT)).unwrap();
    file.infos().iter().flat_map(|t| file.as_bytes()[t.range.clone()].to_vec()).collect()
}

/// Single ops, and in full the whole network in miniature, against PyTorch's: weights, gradients, three steps, the losses of ten.
pub fn parity(form: Form) -> Vec<Line> {
    let golden = |name: &&str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.safetensors"));
    let files: Vec<_> =
        form.of(&["linear", "maxpool2d", "softmax", "mse", "sgd"][..], &["tiny_fused"]).iter().map(golden).collect();
    let rows = conform::run(&files, "cpu").unwrap();
    let failed: Vec<String> =
        rows.iter().filter(|r| r.status != conform::Status::Pass).map(|r| format!("{r:?}")).collect();
    let losses: Vec<f64> = rows.iter().filter(|r| r.tensor.contains("loss")).filter_map(|r| r.max_error).collect();
    assert!(!losses.is_empty(), "no tensor of losses");
    let largest = losses.iter().copied().fold(0.0, f64::max);
    vec![
        Line::all("tensors that PyTorch computed", rows.len(), failed),
        Line::most("its losses, relative, are off by", 1e6 * largest, 10.0, "millionths"),
    ]
}
