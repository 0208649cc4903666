//! Augmentation against Keras's conventions, Philox and SciPy's resampling, written anew in `tests/golden/make_augment.py`.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(err <= tol)`: NaN must fail.

mod common;
use common::have;
use deep_affect::device::{self, Data, Session};
use deep_affect::graph::Graph;
use deep_affect::ops::augment::Augment;
use deep_affect::ops::dropout;
use deep_affect::plan::Options;
use deep_affect::shape::{DType, Type};
use deep_affect::weights::WeightFile;
use std::path::Path;

#[derive(serde::Deserialize)]
struct Case {
    ranges: Augment,
    seed: String,
    step: u32,
    rows: Vec<u32>,
}

/// The largest difference of neighbours along each axis, summed: how much a shift of one pixel can change.
fn slope(x: &[f32], side: usize) -> f32 {
    let apart = |by: usize, inside: fn(usize, usize) -> bool| {
        let pairs = (by..x.len()).filter(|i| inside(i / 3, side));
        pairs.map(|i| (x[i] - x[i - by]).abs()).fold(0.0, f32::max)
    };
    apart(3, |p, side| p % side > 0) + apart(3 * side, |p, side| p / side % side > 0)
}

#[test]
fn augmentation_is_kerass() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/augment/keras.safetensors");
    let file = WeightFile::open(path).unwrap();
    let cases: Vec<_> = file.metadata().iter().filter(|(_, v)| v.starts_with('{')).collect();
    assert_eq!(cases.len(), 8);
    for device in ["reference", "cpu", "sim", "cuda"].into_iter().filter(|d| have(d)) {
        for (name, text) in &cases {
            let case: Case = serde_json::from_str(text).unwrap();
            let tensor = |t: &str| file.tensor(&format!("{name}.{t}")).unwrap();
            let (x, want) = (tensor("x").to_f32().unwrap(), tensor("y").to_f32().unwrap());
            let (n, side) = (case.rows.len(), (x.len() / case.rows.len() / 3).isqrt());
            let mut g = Graph::default();
            let types = [Type::new(DType::U8, &[n, side, side, 3]), Type::new(DType::U32, &[n]), dropout::state_type()];
            let [pictures, rows, state] = [0, 1, 2].map(|i| g.input(&i.to_string(), types[i]));
            let y = g.push1(case.ranges, &[pictures, rows, state]);
            let mut s = Session::new(g, &[&[y]], Options::default(), device::open(device, None).unwrap()).unwrap();
            let seed: u64 = case.seed.parse().unwrap();
            let bytes: Vec<u8> = x.iter().map(|x| *x as u8).collect();
            s.write(pictures, Data::U8(&bytes)).unwrap();
            s.write(rows, Data::U32(&case.rows)).unwrap();
            s.write(state, Data::U32(&[seed as u32, (seed >> 32) as u32, case.step, 0])).unwrap();
            s.run(0).unwrap();
            let got: Vec<f32> = s.read64(y).unwrap().iter().map(|y| *y as f32).collect();
            // Positions are whole 256ths of a pixel, of maps of whole 65536ths, of sines good to 1e-6; bytes are rounded.
            let off = 1.0 / 512.0 + side as f32 * (1.0 / 65536.0 + 2e-6);
            let bound = if case.ranges == Augment::default() { 0.0 } else { 0.5 + off * slope(&x, side) };
            let err = got.iter().zip(want.iter()).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
            println!("{device} {name}: {err} of {bound}");
            assert!(
                got.iter().zip(want.iter()).all(|(g, w)| (g - w).abs() <= bound),
                "{device} {name}: {err} > {bound}"
            );
            let moved = got.iter().zip(x.iter()).filter(|(g, x)| g != x).count();
            assert!((moved > x.len() / 2) == (case.ranges != Augment::default()), "{device} {name}: {moved} moved");
        }
    }
}
