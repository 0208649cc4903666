//! Every op case on the GPU path: on the simulator wherever NVRTC is, on a GPU where there is one. No case is written here.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(err <= tol)`: NaN must fail.

#[path = "../common/mod.rs"]
mod common;
mod conv;
mod fused;
mod huge;
mod mutants;
mod warpgroups;
use common::*;
use deep_affect::device::ceiling::{self, Load};
use deep_affect::device::{self, Checks, Data, Device, Gpu, Session, Simulator};
use deep_affect::graph::{Graph, Role};
use deep_affect::launch::choices::{Product, Tiles};
use deep_affect::launch::estimate::Limits;
use deep_affect::launch::gpu::Call;
use deep_affect::launch::{Arch, Choices, Code, Products};
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::{self, Bound};
use deep_affect::plan::{Options, Plan, Scheduled};
use deep_affect::shape::DType;
use deep_affect::sim::{self, BlockOrder};
use deep_affect::train::network::Precision;
use std::collections::{BTreeSet, HashMap};

/// Devices that run kernels.
const DEVICES: [&str; 2] = ["sim", "cuda"];

/// A device, and by what it multiplies float32 numbers.
#[derive(Clone, Copy, Debug)]
struct Way {
    device: &'static str,
    products: Products,
}

impl Way {
    fn open(self) -> Box<dyn Device> {
        open(self.device)
    }

    /// With one tile for all products.
    fn tiled(self, product: &Product, tile: &[i64]) -> Box<dyn Device> {
        let tiles = Tiles::from([(product.to_string(), product.named(tile))]);
        device::open_tiled(self.device, None, Checks::Poison, Some(tiles)).unwrap()
    }

    /// The options of a plan that multiplies in this way.
    fn options(self) -> Options {
        Options { products: self.products, ..Options::default() }
    }

    /// With guard bands.
    fn guarded(self) -> Options {
        Options { products: self.products, ..GUARDED }
    }

    /// On the simulator, blocks one after another in some order; a GPU has its own.
    fn in_order(self, order: BlockOrder) -> Box<dyn Device> {
        if self.device != "sim" {
            return self.open();
        }
        let options = sim::RunOptions { checks: true, order, ..sim::RunOptions::default() };
        let sim = Simulator::new(Simulator::TARGET, options).unwrap();
        Box::new(Gpu::new(sim, Checks::Poison, Tiles::default()))
    }

    /// Whether it computes a case as no other does.
    fn has(self, case: &ops::Case) -> bool {
        self.products == Products::Float32
            || launched(case, self.products).iter().any(|c| c.kernel.source.starts_with("mma/"))
                && case.ins.iter().all(|t| !t.dtype.is_half())
    }
}

/// What a case becomes.
fn launched(case: &ops::Case, products: Products) -> Vec<Call> {
    let (g, _, outs) = graph_of(case);
    let options = Options { products, ..Options::default() };
    let launches = Plan::new(&g, &outs, options).unwrap().lower(&g, Arch::Gpu(&Choices::default())).unwrap();
    let call = |s: Scheduled| match s.launch.code {
        Code::Kernel(call) => Some(call),
        // A driver's own: `tests/ranks.rs` has several ranks.
        Code::Collective(_) => None,
        _ => panic!("{} has no kernel", s.launch.name),
    };
    launches.into_iter().filter_map(call).collect()
}

const GUARDED: Options = Options { group: false, fuse: false, guard: 4096, products: Products::Float32 };

fn open(name: &str) -> Box<dyn Device> {
    device::open_with(name, None, Checks::Poison).unwrap()
}

/// Runs a check on every case on every device there is, in every way that it can be computed.
fn on_devices(what: &str, check: impl Fn(Way, &str, &ops::Case) -> Option<String> + Sync) {
    let all = cases();
    for device in DEVICES.into_iter().filter(|d| have(d)) {
        // While one is open, opening another takes hold of the GPU at once.
        let _held = open(device);
        let ways = Products::ALL.map(|products| Way { device, products });
        let all: Vec<_> = ways.iter().flat_map(|w| all.iter().filter(|c| w.has(&c.1)).map(move |c| (*w, c))).collect();
        let complaints = each(&all, |(way, (case, c))| {
            check(*way, case, c).map(|e| format!("{case} on {device}: {e} ({:?})", way.products))
        });
        println!("{what} on {device}");
        report(all.len(), complaints);
    }
}

/// `benches/gpu.sh` gives each family a process of its own, by `FAMILY`: an illegal access ends all work of a process.
#[test]
fn families_are_listed() {
    let names: BTreeSet<&str> = ops::ALL.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), ops::ALL.len(), "two families have one name");
    names.iter().for_each(|name| println!("family {name}"));
}

#[test]
fn every_case_is_computed_by_kernels_and_every_kernel_by_a_case() {
    let mut reached = BTreeSet::new();
    for call in cases().iter().flat_map(|c| Products::ALL.into_iter().flat_map(|p| launched(&c.1, p))) {
        // `tiles_change_no_bit` launches all of them.
        let others = call.product.iter().flat_map(|p| p.candidates(&Limits::default()));
        reached.extend(others.chain([call.consts]).map(|consts| (call.kernel.entry, consts)));
    }
    let variants = |k: &'static deep_affect::launch::gpu::Kernel| k.variants.iter().map(|v| (k.entry, *v));
    if !all_cases() {
        return;
    }
    // `warpgroups` launches what a device must allow.
    let chosen = |k: &&'static deep_affect::launch::gpu::Kernel| !k.source.starts_with("sm90/");
    let dead: Vec<_> = ops::kernels().filter(chosen).flat_map(variants).filter(|k| !reached.contains(k)).collect();
    assert!(dead.is_empty(), "registered, but no case launches them: {dead:?}");
}

#[test]
fn kernels_equal_the_definition_on_integers_bit_for_bit() {
    on_devices("integers", |device, _, case| {
        if !matches!(case.bound, Bound::Exact | Bound::Dot(_))
            || ["avgpool", "upsample"].iter().any(|n| case.op.name().starts_with(n))
        {
            return None; // As on the host: means do not stay integers.
        }
        let x = draw(case, 3, Numbers::Integers);
        let want = run(case, reference(), Options::default(), &x).unwrap();
        let none: Vec<_> = want.iter().map(|y| vec![0.0; y.len()]).collect();
        run(case, device.open(), device.guarded(), &x)
            .map_or_else(|e| Some(e.to_string()), |got| compare(&got, &want, &none))
    });
}

#[test]
fn kernels_stay_within_the_derived_bound_on_reals() {
    on_devices("reals", |device, _, case| {
        let x = draw(case, 3, Numbers::Reals);
        let want = run(case, reference(), Options::default(), &x).unwrap();
        let bound = bounds_by(device.products, case, &x, &want);
        // Which of nearly equal pixels wins is not the definition's to say; integers tell whether the index is right.
        let index = case.op.name() == "conv.pooled" && device.products != Products::Float32;
        let told = if index { 1 } else { want.len() };
        run(case, device.open(), device.guarded(), &x)
            .map_or_else(|e| Some(e.to_string()), |got| compare(&got[..told], &want[..told], &bound))
    });
}

fn bits(y: &[Vec<f64>]) -> Vec<u64> {
    y.iter().flatten().map(|y| y.to_bits()).collect()
}

#[test]
fn same_bits_twice_and_in_any_order_of_blocks() {
    on_devices("twice", |device, _, case| {
        let x = draw(case, 17, Numbers::Reals);
        let once = |on| run(case, on, device.options(), &x).map(|y| bits(&y)).map_err(|e| e.to_string());
        let (first, again) = (once(device.open()), once(device.in_order(BlockOrder::Shuffled(7))));
        (first != again).then(|| "other bits".into()).or(first.err())
    });
}

/// Every tile that could compute a case computes the same.
#[test]
fn tiles_change_no_bit() {
    on_devices("tiles", |device, _, case| {
        let (g, _, outs) = graph_of(case);
        let limits = device.open().spec().gpu.expect("it runs kernels").limits;
        let plan = Plan::new(&g, &outs, device.options()).unwrap();
        let launches = device.open().launches(&g, &plan).unwrap();
        let product = launches.iter().find_map(|s| match &s.launch.code {
            Code::Kernel(call) => Some((call.product.clone()?, call.consts)),
            _ => None,
        });
        let (product, chosen) = product?;
        let x = draw(case, 3, Numbers::Reals);
        let with = |tile: &[i64]| {
            run(case, device.tiled(&product, tile), device.guarded(), &x).map(|y| bits(&y)).map_err(|e| e.to_string())
        };
        let want = with(chosen);
        let others = product.candidates(&limits).into_iter().filter(|tile| *tile != chosen);
        let differs = others.filter(|tile| with(tile) != want).map(|tile| format!("{tile:?} has other bits, or fails"));
        want.as_ref().err().cloned().or(differs.reduce(|all, one| format!("{all}, {one}")))
    });
}

/// Equal ops share launches: three instances on different data, together (from the last block to the first) and apart. Cases that
/// differ in [`deep_affect::graph::Description::stream`] alone are instances of one group.
#[test]
fn grouped_equals_ungrouped_bit_for_bit() {
    let key = |c: &ops::Case| format!("{:?} {:?}", c.op, c.ins);
    let mut alike: HashMap<String, Vec<_>> = HashMap::new();
    cases().into_iter().for_each(|(_, c)| alike.entry(key(&c)).or_default().push(c.op));
    on_devices("grouped", |device, _, case| {
        if case.op.describe().role == Role::Collective {
            return None; // Buckets have numbers: no two are equal.
        }
        let alike = &alike[&key(case)];
        let once = |group| {
            let mut g = Graph::default();
            let (mut ins, mut outs) = (vec![], vec![]);
            for instance in 0..3 {
                let own: Vec<_> =
                    case.ins.iter().enumerate().map(|(i, t)| g.state(&format!("{instance}.{i}"), *t)).collect();
                outs.extend(g.push_arc(alike[instance % alike.len()].clone(), &own));
                ins.push(own);
            }
            let on = if group { device.in_order(BlockOrder::Reverse) } else { device.open() };
            let mut s = Session::new(g, &[&outs], Options { group, ..device.options() }, on)?;
            for (instance, own) in ins.iter().enumerate() {
                for (v, x) in own.iter().zip(draw(case, 20 + instance as u64, Numbers::Reals)) {
                    s.write(*v, Data::F64(&x))?;
                }
            }
            s.run(0)?;
            let launches = s.device().launches(s.graph(), &s.plans()[0])?.len();
            Ok::<_, deep_affect::error::Error>((
                launches,
                outs.iter().map(|v| s.read64(*v)).collect::<Result<Vec<_>, _>>()?,
            ))
        };
        match (once(true), once(false)) {
            (Ok((together, a)), Ok((apart, b))) if together < apart && bits(&a) == bits(&b) => None,
            (Ok((together, _)), Ok((apart, _))) => Some(format!("{together} and {apart} launches, or other bits")),
            (Err(e), _) | (_, Err(e)) => Some(e.to_string()),
        }
    });
}

/// NaN must come out where NaN goes in: a kernel that hides one hides a broken training run.
#[test]
fn nan_goes_through_pooling_and_activations() {
    let activations = ops::activation::FAMILY.ops;
    on_devices("NaN", |device, _, case| {
        let name = case.op.name();
        let through =
            ["maxpool", "conv.pooled"].contains(&name) || activations.contains(&name) && !name.ends_with(".grad");
        if !through {
            return None;
        }
        let mut x = draw(case, 3, Numbers::Reals);
        x[0][5] = f64::NAN;
        let want = run(case, reference(), Options::default(), &x).unwrap();
        let got = run(case, device.open(), device.options(), &x).map_err(|e| e.to_string());
        let nan = |y: &[Vec<f64>]| y.iter().flatten().map(|y| y.is_nan()).collect::<Vec<_>>();
        match got {
            Ok(got) if nan(&got) == nan(&want) => None,
            Ok(_) => Some("NaN in other places".into()),
            Err(e) => Some(e),
        }
    });
}

/// What the ceilings are measured with, at a size that a simulator can do; how fast it says it is means nothing.
#[test]
fn ceilings_are_measured_on_any_device() {
    for name in DEVICES.into_iter().filter(|d| have(d)) {
        let load = Load { chains: 3000, turns: 20, rows: 64, row: 512, tiles: 20, products: 3, rounds: 2 };
        let c = ceiling::measure(&mut *open(name), load, &[DType::F16, DType::BF16]).unwrap();
        assert!(
            [c.gflops, c.f16.unwrap(), c.bf16.unwrap(), c.read, c.triad].iter().all(|r| r.is_finite() && *r > 0.0),
            "{name}: {c:?}"
        );
    }
    assert!(!have("sim") || device::open("sim", None).unwrap().ceilings().unwrap().is_none());
    assert_eq!(Load::GPU.within(None).rows, Load::GPU.rows);
    assert!(Load::GPU.within(Some(1 << 29)).bytes() <= 1 << 29);
}

/// A recorded step computes what its launches do, one by one, on the numbers that lie there when it is replayed. The simulator
/// records nothing: `tests/cuda.rs` asks it behind an imitation of the driver.
#[test]
fn replays_have_the_bits_of_single_launches() {
    if !have("cuda") {
        return;
    }
    for precision in [Precision::Float32, Precision::Bf16] {
        let [replayed, single] = [true, false].map(|r| steps(device::open("cuda", None).unwrap(), precision, r));
        let differs = replayed.iter().zip(&single).position(|(r, s)| r != s);
        assert!(differs.is_none(), "{precision:?}: other bits in run {differs:?} of a step and an inference");
    }
}

#[test]
fn a_training_step_is_as_good_as_the_cpus() {
    as_good_as_the_cpus(&small(Architecture::Shared, 16, 0.5));
}

/// The end of a block with two readers: pooling is not fused into the convolution there, and its two gradients are added.
#[test]
fn a_step_through_two_blocks_side_by_side_is_as_good_as_the_cpus() {
    let (tower_output, keep_features) = ("block4+block5".parse().unwrap(), 0.7);
    as_good_as_the_cpus(&Config { tower_output, keep_features, ..small(Architecture::Shared, 16, 0.5) });
}

/// One training step of the whole network, dropout and weight decay included, planned as for a GPU: as near to the float64
/// definition as the CPU path is, up to a factor that covers another order of sums.
fn as_good_as_the_cpus(config: &Config) {
    let ways = |device| [Products::Float32, Products::Tf32x3].map(|products| Way { device, products });
    for way in DEVICES.into_iter().filter(|d| have(d)).flat_map(ways) {
        let step = |device: Box<dyn Device>| {
            let t = training(config, 2, false);
            let options = device.options(way.products);
            let mut s = Session::new(t.graph.clone(), &[&t.step, &t.eval], options, device).unwrap();
            t.fill(&mut s, 3, 1.0);
            t.settings(&mut s, 0.01, 0.9, 0);
            s.run(0).unwrap();
            let mut all: Vec<_> = t.step.iter().map(|v| s.read64(*v).unwrap()).collect();
            s.run(1).unwrap();
            all.extend(t.eval.iter().map(|v| s.read64(*v).unwrap()));
            all
        };
        let (want, cpu, got) = (step(reference()), step(cpu()), step(way.open()));
        let worst = |y: &[f64], w: &[f64]| {
            y.iter().zip(w).fold(0.0, |m: f64, (y, w)| {
                let e = (y - w).abs();
                if e <= m || m.is_nan() { m } else { e }
            })
        };
        for (i, ((w, c), g)) in want.iter().zip(&cpu).zip(&got).enumerate() {
            let largest = w.iter().fold(0f64, |m, w| m.max(w.abs()));
            let (theirs, own) = (worst(c, w), worst(g, w));
            assert!(own <= 4.0 * theirs + 1e-6 * largest, "{way:?}: tensor {i}: {own:e} where the CPU has {theirs:e}");
        }
    }
}
