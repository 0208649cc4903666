//! The whole network: its gradient against central differences, and whether it learns.

mod common;
use common::*;
use deep_affect::device::{Data, Session};
use deep_affect::models::{Architecture, Config};
use deep_affect::plan::Options;
use deep_affect::rng::{Rng, Stream};

/// Elements looked at in tensors that have 40 or more.
const SAMPLE: usize = 12;

/// Central differences in float64: eps 1e-6, atol 1e-5, rtol 1e-3. An element whose two one-sided differences disagree
/// sits on a kink (a ReLU or a maximum flips within the step) and is skipped, which may happen to one in ten.
fn gradients(config: &Config) {
    let t = training(config, 2, true);
    let want: Vec<_> = t.grads.iter().copied().chain([t.total]).collect();
    let mut s = Session::new(t.graph.clone(), &[&want, &[t.total]], Options::default(), reference()).unwrap();
    // Targets far away make the gradients large against atol.
    t.fill(&mut s, 1, 100.0);
    s.run(0).unwrap();
    let loss = s.read64(t.total).unwrap()[0];
    let analytic: Vec<Vec<f64>> = t.grads.iter().map(|d| s.read64(*d).unwrap()).collect();
    let (mut checked, mut skipped, mut large, mut complaints) = (0, 0, 0, vec![]);
    for (i, (&w, d)) in t.params.iter().zip(&analytic).enumerate() {
        let mut x = s.read64(w).unwrap();
        let mut elements: Vec<usize> = (0..x.len()).collect();
        if x.len() >= 40 {
            Rng::new(2, Stream::Test(i as u32), 0).shuffle(&mut elements);
            elements.truncate(SAMPLE);
        }
        for e in elements {
            let (at, eps) = (x[e], 1e-6);
            let mut probe = |to| {
                x[e] = to;
                s.write(w, Data::F64(&x)).unwrap();
                s.run(1).unwrap();
                s.read64(t.total).unwrap()[0]
            };
            let (up, down) = (probe(at + eps), probe(at - eps));
            x[e] = at;
            checked += 1;
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 + 1e-3 * b.abs();
            let numeric = (up - down) / (2.0 * eps);
            if close(d[e], numeric) {
                large += (numeric.abs() > 1e-2) as usize;
            } else if !close((up - loss) / eps, (loss - down) / eps) {
                skipped += 1;
            } else {
                complaints.push(format!("{} element {e}: {} against {numeric}", t.graph.name(w), d[e]));
            }
        }
        s.write(w, Data::F64(&x)).unwrap();
    }
    println!(
        "{:?}, {}: {} tensors, {checked} elements, {large} large, {skipped} on a kink",
        config.architecture,
        config.tower_output,
        t.params.len()
    );
    report(checked, complaints);
    assert!(skipped * 10 <= checked, "{skipped} of {checked} on a kink");
    assert!(large * 2 >= checked, "only {large} of {checked} gradients are large enough to say anything");
}

#[test]
fn gradient_of_the_shared_network() {
    gradients(&small(Architecture::Shared, 64, 0.75));
}

#[test]
fn gradient_of_the_split_network() {
    gradients(&small(Architecture::Split, 64, 0.75));
}

/// The fourth block's end has two readers: its mean, and the fifth block.
#[test]
fn gradient_through_two_blocks_side_by_side() {
    let tower_output = "block4+block5".parse().unwrap();
    gradients(&Config { tower_output, ..small(Architecture::Shared, 64, 0.75) });
}

/// A network that cannot memorise eight pictures has a bug somewhere.
#[test]
fn learns_eight_pictures_by_heart() {
    let mut c = small(Architecture::Shared, 16, 1.0);
    for tower in &mut c.towers {
        (tower.dense, tower.classes) = (vec![32], 24);
    }
    c.head = vec![64, 32];
    let t = training(&c, 8, true);
    let mut s = Session::new(t.graph.clone(), &[&t.step], Options::default(), cpu()).unwrap();
    t.fill(&mut s, 4, 1.0);
    let mut losses = vec![];
    for step in 0..200 {
        t.settings(&mut s, 0.03, 0.9, step);
        s.run(0).unwrap();
        losses.push(s.read(t.total).unwrap()[0]);
    }
    let (first, last) = (losses[0], losses[199]);
    for (i, l) in losses.iter().enumerate().step_by(20) {
        println!("{i:4} {l:.3e}");
    }
    println!("{first} -> {last}");
    assert!(last < 1e-3 * first, "loss {first} -> {last}");
}
