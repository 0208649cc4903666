//! Convolutions by products of warpgroups, on the simulator as Hopper. `CASES=warpgroups …` runs those whose name begins so.

use super::{GUARDED, bits};
use crate::common::*;
use deep_affect::device::{Checks, Data, Device, Gpu, Session, Simulator};
use deep_affect::graph::Graph;
use deep_affect::launch::choices::{Product, Tiles};
use deep_affect::launch::gpu::Call;
use deep_affect::launch::{Arch, Choices, Code, Warpgroups};
use deep_affect::nvrtc::Target;
use deep_affect::ops::conv::{Dgrad, Fprop, FusedBackward, Transposed};
use deep_affect::ops::{self, Bound, Case};
use deep_affect::plan::{Options, Plan};
use deep_affect::shape::{ConvShape, DType, Type, Window};
use deep_affect::sim::{BlockOrder, RunOptions};
use std::collections::BTreeSet;

/// A convolution, and how many filters (of dgrad: channels) a block has.
struct Tiled {
    name: String,
    case: Case,
    width: i64,
}

/// fprop of images by so many filters of some taps; dgrad the other way round, with as many channels.
fn pair(x: [usize; 4], k: usize, taps: usize, width: i64) -> [Tiled; 2] {
    let (window, of) = (Window::square(taps, 1, taps / 2), |dims: &[usize]| Type::new(DType::BF16, dims));
    let ([n, h, w, c], depth) = (x, taps * taps * x[3]);
    let named = |op: &str, case| Tiled { name: format!("warpgroups {op} {x:?} {k}"), case, width };
    let fprop = Fprop { filters: k, window, groups: 1, bias: true, relu: true };
    let ins = [of(&x), of(&[k, taps, taps, c]), Type::f32(&[k])];
    let shape = ConvShape::new(&[n, h, w, k], c, window, 1).unwrap();
    let dgrad = Dgrad { shape, fused: FusedBackward::Relu };
    let back = [of(&x), of(&[c, taps, taps, k]), of(&[n, h, w, k])];
    [
        named("fprop", Case::new("", fprop, &ins, &[], Bound::Dot(depth + 1))),
        named("dgrad", Case::new("", dgrad, &back, &[], Bound::Dot(depth))),
    ]
}

/// Sides that no box divides, an odd number of boxes, several images in a block, filters that no block divides, more and fewer
/// steps than stages; nothing before or behind the sums.
fn all() -> Vec<Tiled> {
    let shapes = [
        pair([1, 9, 11, 64], 64, 3, 64),
        pair([1, 8, 8, 128], 192, 1, 128),
        pair([3, 5, 7, 64], 320, 3, 256),
        pair([1, 20, 3, 192], 128, 1, 64),
    ];
    let (window, x) = (Window::square(3, 1, 0), Type::new(DType::BF16, &[1, 6, 9, 64]));
    let w = Type::new(DType::BF16, &[64, 3, 3, 64]);
    let fprop = Fprop { filters: 64, window, groups: 1, bias: false, relu: false };
    let plain = Case::new("", fprop, &[x, w], &[], Bound::Dot(9 * 64));
    let back = Transposed { channels: 64, window, output_pad: [0; 2], groups: 1, bias: true, relu: true };
    let back = Case::new("", back, &[x, w, Type::f32(&[64])], &[], Bound::Dot(9 * 64 + 1));
    let others = [("plain", plain), ("transposed", back)].map(|(name, case)| Tiled {
        name: format!("warpgroups {name}"),
        case,
        width: 64,
    });
    let begin = std::env::var("CASES").unwrap_or_default();
    shapes.into_iter().flatten().chain(others).filter(|t| t.name.starts_with(&begin)).collect()
}

impl Tiled {
    /// What its launch computes.
    fn product(&self) -> Product {
        let (g, _, outs) = graph_of(&self.case);
        let choices = Choices { warpgroups: Warpgroups::Everything, ..Choices::default() };
        let launches = Plan::new(&g, &outs, Options::default()).unwrap().lower(&g, Arch::Gpu(&choices)).unwrap();
        match &launches[..] {
            [one] => match &one.launch.code {
                Code::Kernel(Call { product: Some(p), .. }) if p.kernel.entry == "conv_gemm_sm90" => p.clone(),
                _ => panic!("{}: another kernel", self.name),
            },
            _ => panic!("{}: {} launches", self.name, launches.len()),
        }
    }

    fn variant(&self, product: &Product) -> &'static [i64] {
        let of = |v: &&&[i64]| v[0] == self.width;
        product.candidates(&Choices::default().limits).iter().find(of).expect("a width of the table")
    }

    /// Hopper, with blocks as wide as asked for.
    fn device(&self, order: BlockOrder) -> Box<dyn Device> {
        let product = self.product();
        let tiles = Tiles::from([(product.to_string(), product.named(self.variant(&product)))]);
        hopper(order, tiles)
    }
}

fn hopper(order: BlockOrder, tiles: Tiles) -> Box<dyn Device> {
    let options = RunOptions { checks: true, order, ..RunOptions::default() };
    let sim = Simulator::new(Target::HOPPER, options).unwrap();
    Box::new(Gpu::new(sim, Checks::Poison, tiles).with_warpgroups())
}

fn on_all(check: impl Fn(&Tiled) -> Option<String> + Sync) {
    if have("sim") {
        let all = all();
        report(all.len(), each(&all, |t| check(t).map(|e| format!("{} on sim: {e}", t.name))));
    }
}

#[test]
fn every_variant_of_the_product_of_warpgroups_is_launched() {
    if all_cases() {
        let kernel = ops::kernels().find(|k| k.entry == "conv_gemm_sm90").unwrap();
        let launched: BTreeSet<&[i64]> = all().iter().map(|t| t.variant(&t.product())).collect();
        assert_eq!(launched, kernel.variants.iter().copied().collect());
    }
}

#[test]
fn products_of_warpgroups_equal_the_definition_on_integers_and_stay_within_the_bound_on_reals() {
    on_all(|t| {
        let compared = |numbers: Numbers| {
            let x = draw(&t.case, 3, numbers);
            let want = run(&t.case, reference(), Options::default(), &x).unwrap();
            let bound = match numbers {
                Numbers::Integers => want.iter().map(|y| vec![0.0; y.len()]).collect(),
                Numbers::Reals => bounds(&t.case, &x, &want),
            };
            let got = run(&t.case, t.device(BlockOrder::Forward), GUARDED, &x);
            got.map_or_else(|e| Some(e.to_string()), |got| compare(&got, &want, &bound))
        };
        compared(Numbers::Integers).or_else(|| compared(Numbers::Reals))
    });
}

/// In any order of blocks; for each image alone, in one launch for two instances, and in blocks of another width.
#[test]
fn products_of_warpgroups_have_the_same_bits_whatever_is_computed_beside_them() {
    on_all(|t| {
        let case = &t.case;
        let x = draw(case, 17, Numbers::Reals);
        let once =
            |order| run(case, t.device(order), Options::default(), &x).map(|y| bits(&y)).map_err(|e| e.to_string());
        let first = match once(BlockOrder::Reverse) {
            Ok(first) => first,
            Err(e) => return Some(e),
        };
        if once(BlockOrder::Shuffled(7)).as_ref() != Ok(&first) {
            return Some("other bits in another order of blocks".into());
        }
        let images = case.ins[0].dims()[0];
        let result = first.len() / images;
        let mut g = Graph::default();
        let (mut ins, mut outs) = (vec![], vec![]);
        // What has one image where the case has several: x, and a mask.
        let own = |t: &Type| match t.dims() {
            [n, rest @ ..] if *n == images && rest.len() == 3 => Type::new(t.dtype, &[&[1], rest].concat()),
            _ => *t,
        };
        for i in 0..2 {
            let types = case.ins.iter().enumerate().map(|(j, t)| g.state(&format!("{i}.{j}"), own(t)));
            let values: Vec<_> = types.collect();
            outs.extend(g.push_arc(alone(case), &values));
            ins.push(values);
        }
        let options = Options { group: true, ..Options::default() };
        let device = hopper(BlockOrder::Forward, Tiles::default());
        let mut s = Session::new(g, &[&outs], options, device).unwrap();
        for (i, values) in ins.iter().enumerate() {
            for ((v, x), t) in values.iter().zip(&x).zip(&case.ins) {
                let n = own(t).numel();
                s.write(*v, Data::F64(&x[if n < x.len() { i * n } else { 0 }..][..n])).unwrap();
            }
        }
        s.run(0).unwrap();
        let launches = s.device().launches(s.graph(), &s.plans()[0]).unwrap().len();
        let same = |(i, v): (usize, &_)| {
            let image = if i < images { i } else { 0 };
            bits(&[s.read64(*v).unwrap()]) == first[image * result..][..result]
        };
        let right = launches == 1 && outs.iter().enumerate().all(same);
        (!right).then(|| format!("{launches} launches, or other bits of an image alone"))
    });
}

/// The op of a case for one image.
fn alone(case: &Case) -> std::sync::Arc<dyn deep_affect::graph::Op> {
    let op: &dyn std::any::Any = &*case.op;
    match op.downcast_ref::<Dgrad>() {
        Some(dgrad) => std::sync::Arc::new(Dgrad { shape: ConvShape { n: 1, ..dgrad.shape }, ..*dgrad }),
        None => case.op.clone(),
    }
}
