//! Training steps whose ops are fused where a GPU has kernels for it, beside steps of ops that run one by one.

use super::{DEVICES, common::*};
use deep_affect::device::gpu::OPTIONS;
use deep_affect::device::{self, Data, Session};
use deep_affect::launch::Products;
use deep_affect::models::Architecture;
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::plan::Options;
use deep_affect::train::network::{Blueprint, EVAL, Method, Precision, TRAIN, Task};
use deep_affect::train::params::Initial;
use std::collections::BTreeSet;

const APART: Options = Options { group: false, fuse: false, guard: 0, products: Products::Float32 };
const BATCH: usize = 3;

/// The fused model with dropout in the head and in a tower, and a tower that is not trained. Some widths go to tensor cores,
/// some do not; 0.8 and 1 / 0.8 are not exact.
fn blueprint(architecture: Architecture, precision: Precision) -> Blueprint {
    let mut config = small(architecture, 32, 0.5);
    for t in &mut config.towers {
        (t.dense, t.classes) = (vec![16, 8], 7);
    }
    (config.towers[1].keep, config.towers[1].l2) = (0.5, 2e-4);
    config.towers[0].classes = 8;
    (config.head, config.keep) = (vec![16, 24, 9], vec![0.5, 0.8, 0.5]);
    let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
    let task = Task::EndToEnd { config, frozen: vec!["face".into()] };
    Blueprint::new(&task, BATCH, Method { precision, ..sgd.into() }).unwrap()
}

/// Losses, weights and velocities of two steps and the outputs that follow, as bits, and the names of the ops of a step and of
/// an inference.
fn trained(
    architecture: Architecture,
    precision: Precision,
    device: &str,
    options: Options,
) -> (Vec<u64>, [BTreeSet<&'static str>; 2]) {
    let b = blueprint(architecture, precision);
    let want: Vec<_> = b.want.iter().map(Vec::as_slice).collect();
    let mut s = Session::new(b.graph.clone(), &want, options, device::open(device, None).unwrap()).unwrap();
    let stored: Vec<_> = b.graph.stored().collect();
    Initial::new(5, true).fill(&mut s, &stored, "", &[]).unwrap();
    let pixels = b.graph.ty(b.x[0]).numel();
    s.write(b.x[0], Data::U8(&(0..pixels).map(|i| (i * i / 7 % 251) as u8).collect::<Vec<_>>())).unwrap();
    // The last row is padding.
    s.write(b.weight, Data::F32(&[1.0, 0.5, 0.0])).unwrap();
    let mut bits = vec![];
    for step in 0..2 {
        s.write(b.state, Data::U32(&[7, 0, step, 0])).unwrap();
        for part in &b.parts {
            let ratings: Vec<f32> = (0..BATCH * part.targets.len()).map(|i| 1.0 + i as f32).collect();
            s.write(part.terms[0].y, Data::F32(&ratings)).unwrap();
            s.write(part.hyper, Data::F32(&[0.01, 0.9, 0.0, (step == 0) as u8 as f32])).unwrap();
            part.scaling.into_iter().for_each(|scaling| s.write(scaling.scale, Data::F32(&[64.0])).unwrap());
        }
        s.run(TRAIN).unwrap();
        let all = b.parts.iter().flat_map(|p| [p.loss].into_iter().chain(p.learned()).chain(p.memory()));
        bits.extend(all.flat_map(|v| s.read64(v).unwrap()).map(f64::to_bits));
    }
    s.run(EVAL).unwrap();
    bits.extend(b.parts.iter().flat_map(|p| s.read64(p.terms[0].output).unwrap()).map(f64::to_bits));
    assert!(bits.iter().all(|b| f64::from_bits(*b).is_finite()));
    let names =
        |plan: usize| s.plans()[plan].steps().iter().flatten().map(|&i| s.graph().nodes()[i].op.name()).collect();
    (bits, [TRAIN, EVAL].map(names))
}

#[test]
fn what_is_fused_trains_and_infers_bit_for_bit_as_what_is_not() {
    for name in DEVICES.into_iter().filter(|d| have(d)) {
        for (architecture, precision) in [
            (Architecture::Shared, Precision::Float32),
            (Architecture::Shared, Precision::Fp16),
            (Architecture::Split, Precision::Float32),
            (Architecture::Split, Precision::Bf16),
        ] {
            let (want, [apart, _]) = trained(architecture, precision, name, APART);
            let (got, [fused, inferred]) = trained(architecture, precision, name, OPTIONS);
            let differ = want.iter().zip(&got).filter(|(w, g)| w != g).count();
            assert!(differ == 0 && want.len() == got.len(), "{architecture:?} {precision:?} on {name}: {differ}");
            let gone: Vec<_> = apart.difference(&fused).copied().collect();
            println!("{architecture:?} {precision:?} on {name}: {} numbers, gone are {gone:?}", want.len());
            let parts =
                ["dropout", "dropout.mask", "softmax", "softmax.grad", "concat", "slice", "mse", "mse.grad", "l2"];
            assert!(parts.iter().all(|op| gone.contains(op)), "{gone:?}");
            // Whoever writes a number stores it as its reader takes it, where there is one reader.
            assert!(["cast", "image.normalize", "softmax"].iter().all(|op| !inferred.contains(op)), "{inferred:?}");
            let mixed = precision != Precision::Float32;
            assert!(inferred.contains("image.inputs") && inferred.contains("dense.mixed") == mixed, "{inferred:?}");
            // Where gradients are scaled, they are looked at first, and with the penalty's.
            for op in ["l2.grad", "dense.wgrad"] {
                assert_eq!(gone.contains(&op), precision != Precision::Fp16, "{op} of {gone:?}");
            }
        }
    }
}
