//! Every op case x every check, enumerated from `ops::ALL`: no case is written here.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(err <= tol)`: NaN must fail.

mod common;
use common::*;
use deep_affect::device::{Data, Session};
use deep_affect::graph::{Graph, Io};
use deep_affect::launch::{Products, Simd};
use deep_affect::plan::Options;
use deep_affect::rng::{Rng, Stream};
use deep_affect::shape::Type;
use std::collections::BTreeSet;

const GUARDED: Options = Options { group: false, fuse: false, guard: 4096, products: Products::Float32 };

#[test]
fn every_op_has_a_case() {
    if !all_cases() {
        return;
    }
    let listed: BTreeSet<&str> = deep_affect::ops::ALL.iter().flat_map(|f| f.ops).copied().collect();
    let covered: BTreeSet<&str> = cases().iter().map(|(_, c)| c.op.name()).collect();
    assert_eq!(listed, covered);
}

/// Central differences in float64: eps 1e-6, atol 1e-5, rtol 1e-3, as in PyTorch's gradcheck.
#[test]
fn adjoints_agree_with_central_differences() {
    let (mut checked, mut complaints) = (0, vec![]);
    for (name, case) in cases().into_iter().filter(|(_, c)| !c.diff.is_empty()) {
        let mut x = draw(&case, 11, Numbers::Reals);
        let mut g = Graph::default();
        let ins: Vec<_> = case.ins.iter().enumerate().map(|(i, t)| g.input(&format!("in{i}"), *t)).collect();
        let outs = g.push_arc(op_of(&case), &ins);
        let weights = |(i, o): (usize, &_)| -> Vec<f64> {
            let mut rng = Rng::new(5, Stream::Test(i as u32), 1);
            (0..g.ty(*o).numel()).map(|_| (rng.uniform() * 2.0 - 1.0) as f64).collect()
        };
        let probe = Probe(outs.iter().enumerate().map(weights).collect());
        let loss = g.push1(probe, &outs);
        let wrt: Vec<_> = case.diff.iter().map(|&i| ins[i]).collect();
        let grads = g.backward(loss, &wrt).unwrap();
        let want: Vec<_> = grads.iter().copied().chain([loss]).collect();
        let mut s = Session::new(g, &[&want, &[loss]], Options::default(), reference()).unwrap();
        ins.iter().zip(&x).for_each(|(v, x)| s.write(*v, Data::F64(x)).unwrap());
        s.run(0).unwrap();
        let analytic: Vec<Vec<f64>> = grads.iter().map(|d| s.read64(*d).unwrap()).collect();
        for (d, &i) in case.diff.iter().enumerate() {
            for e in 0..x[i].len() {
                let (at, eps) = (x[i][e], 1e-6);
                let mut probe = |to| {
                    x[i][e] = to;
                    s.write(ins[i], Data::F64(&x[i])).unwrap();
                    s.run(1).unwrap();
                    s.read64(loss).unwrap()[0]
                };
                let numeric = (probe(at + eps) - probe(at - eps)) / (2.0 * eps);
                x[i][e] = at;
                checked += 1;
                let err = (analytic[d][e] - numeric).abs();
                if !(err <= 1e-5 + 1e-3 * numeric.abs()) {
                    complaints.push(format!("{name}: d input {i} element {e}: {} against {numeric}", analytic[d][e]));
                }
            }
            s.write(ins[i], Data::F64(&x[i])).unwrap();
        }
        complaints.truncate(20);
    }
    report(checked, complaints);
}

/// Runs a check on every case, vector level and drawing of numbers, against the definition.
fn against_definition(numbers: Numbers, exact: bool) {
    let (mut checked, mut complaints) = (0, vec![]);
    for (name, case) in cases() {
        if exact && !matches!(case.bound, deep_affect::ops::Bound::Exact | deep_affect::ops::Bound::Dot(_)) {
            continue;
        }
        if exact && ["avgpool", "upsample"].iter().any(|n| case.op.name().starts_with(n)) {
            continue; // Means: integers do not stay integers.
        }
        let x = draw(&case, 3, numbers);
        let want = run(&case, reference(), Options::default(), &x).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bound = if exact { want.iter().map(|y| vec![0.0; y.len()]).collect() } else { bounds(&case, &x, &want) };
        for simd in Simd::available() {
            checked += 1;
            // Poisoned outputs and guard bands in the same run: an element left unwritten is NaN, an overrun an error.
            match run(&case, checked_device(simd), GUARDED, &x) {
                Ok(got) => complaints.extend(compare(&got, &want, &bound).map(|c| format!("{name} {simd:?}: {c}"))),
                Err(e) => complaints.push(format!("{name} {simd:?}: {e}")),
            }
        }
    }
    report(checked, complaints);
}

fn checked_device(simd: Simd) -> Box<dyn deep_affect::device::Device> {
    checked(simd, 2)
}

#[test]
fn routines_equal_the_definition_on_integers_bit_for_bit() {
    against_definition(Numbers::Integers, true);
}

#[test]
fn routines_stay_within_the_derived_bound_on_reals() {
    against_definition(Numbers::Reals, false);
}

/// Single elements have the bits that they have among all others.
#[test]
fn parts_of_the_definition_are_the_definition() {
    let (mut ops, mut complaints) = (BTreeSet::new(), vec![]);
    for (name, case) in cases() {
        let x = draw(&case, 3, Numbers::Reals);
        // Storage rounds, the definition does not.
        let stored = |(x, t): (&Vec<f64>, &Type)| x.iter().map(|x| t.dtype.round(*x) as f32).collect();
        let single: Vec<Vec<f32>> = x.iter().zip(&case.ins).map(stored).collect();
        let (g, ins, outs) = graph_of(&case);
        let [ins, outs] = [ins, outs].map(|v| v.iter().map(|v| g.ty(*v)).collect::<Vec<_>>());
        let io = Io { ins: &ins, outs: &outs };
        let at: Vec<usize> = (0..outs[0].numel()).step_by(7).collect();
        let Some(got) = case.op.eval_at(&io, &single.iter().map(Vec::as_slice).collect::<Vec<_>>(), &at) else {
            continue;
        };
        ops.insert(case.op.name());
        let want = &run(&case, reference(), Options::default(), &x).unwrap()[0];
        let stored = got.iter().map(|y| outs[0].dtype.round(*y));
        let differs = at.iter().zip(stored).find(|(i, y)| want[**i].to_bits() != y.to_bits());
        complaints.extend(differs.map(|(i, y)| format!("{name}: element {i}: {y} instead of {}", want[*i])));
    }
    let expected =
        ["conv.dgrad", "conv.fprop", "conv.pooled", "conv.wgrad", "dense.dgrad", "dense.fprop", "dense.wgrad"];
    assert!(!all_cases() || expected.iter().all(|o| ops.contains(o)), "{ops:?}");
    report(ops.len(), complaints);
}

#[test]
fn every_op_has_a_fast_routine() {
    use deep_affect::launch::{Arch, Code};
    use deep_affect::plan::Plan;
    let mut slow = BTreeSet::new();
    for (_, case) in cases() {
        let (g, _, outs) = graph_of(&case);
        let launches = Plan::new(&g, &outs, Options::default()).unwrap().lower(&g, Arch::Host(Simd::PORTABLE)).unwrap();
        slow.extend(launches.iter().filter(|s| matches!(s.launch.code, Code::Definition(_))).map(|s| s.launch.name));
    }
    assert!(slow.is_empty(), "run by their definition on the host: {slow:?}");
}

#[test]
fn same_bits_twice_and_on_one_two_and_four_threads() {
    let (mut checked_n, mut complaints) = (0, vec![]);
    for (name, case) in cases() {
        let x = draw(&case, 17, Numbers::Reals);
        let once = |threads| run(&case, checked(Simd::detect(), threads), Options::default(), &x).unwrap();
        let first = once(1);
        for threads in [1, 2, 4] {
            checked_n += 1;
            let bits = |y: &[Vec<f64>]| y.iter().flatten().map(|y| y.to_bits()).collect::<Vec<_>>();
            if bits(&first) != bits(&once(threads)) {
                complaints.push(format!("{name}: {threads} threads"));
            }
        }
    }
    report(checked_n, complaints);
}

/// NaN must come out where NaN goes in: a routine that hides one hides a broken training run.
#[test]
fn nan_goes_through_pooling_and_activations() {
    let activations = deep_affect::ops::activation::FAMILY.ops;
    let through =
        |op: &str| ["maxpool", "conv.pooled"].contains(&op) || activations.contains(&op) && !op.ends_with(".grad");
    for (name, case) in cases().into_iter().filter(|(_, c)| through(c.op.name())) {
        let mut x = draw(&case, 3, Numbers::Reals);
        x[0][5] = f64::NAN;
        for device in [reference(), cpu()] {
            let y = run(&case, device, Options::default(), &x).unwrap();
            assert!(y[0].iter().any(|y| y.is_nan()), "{name}");
        }
    }
}
