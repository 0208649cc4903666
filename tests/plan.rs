//! Order and storage of whole networks, checked by walking through the plan with a shadow of the memory. The full-size
//! networks are planned, never run.

mod common;
use common::*;
use deep_affect::device::{Device, Session};
use deep_affect::graph::{Graph, Kind, Value};
use deep_affect::launch::{Arch, Choices, Products, Simd};
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::plan::{Options, Place, Plan};
use deep_affect::train::network::{Blueprint, Method, Precision, Task};
use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

const UNGROUPED: Options = Options { group: false, fuse: false, guard: 0, products: Products::Float32 };
const FUSED: Options = Options { group: true, fuse: true, ..UNGROUPED };
const GROUPED: Options = Options { group: true, ..UNGROUPED };
const BOTH: [Architecture; 2] = [Architecture::Shared, Architecture::Split];

/// Who wrote each byte of the arena last: start -> (end, value).
#[derive(Default)]
struct Shadow(BTreeMap<usize, (usize, Value)>);

impl Shadow {
    fn write(&mut self, [from, to]: [usize; 2], v: Value) {
        self.0.retain(|&start, &mut (end, _)| end <= from || to <= start);
        self.0.insert(from, (to, v));
    }
    fn holds(&self, [from, to]: [usize; 2], v: Value) -> bool {
        self.0.get(&from) == Some(&(to, v))
    }
}

fn apart(a: [usize; 2], b: [usize; 2]) -> bool {
    a[1] <= b[0] || b[1] <= a[0]
}

/// Walks through a plan. Nodes of one step may run in any order and at once.
fn walk(g: &Graph, plan: &Plan, want: &[Value]) {
    let extent = |v: Value| match plan.place(v) {
        Place::Arena(at) => Some([at, at + g.ty(v).bytes()]),
        Place::Persistent(_) => None,
        Place::Nowhere => panic!("{v:?} is used and has no place"),
    };
    let (mut shadow, mut updated, mut done) = (Shadow::default(), HashSet::new(), HashSet::new());
    for step in plan.steps() {
        let nodes = || step.iter().map(|&i| &g.nodes()[i]);
        for n in nodes() {
            for &v in &n.ins {
                let fresh = extent(v).is_none_or(|e| shadow.holds(e, v));
                assert!(fresh, "{} of {} reads {v:?}, which is not there", n.op.name(), n.label);
                assert!(!updated.contains(&v), "{} reads {} after its update", n.op.name(), g.name(v));
                for m in nodes().filter(|m| !std::ptr::eq(*m, n)) {
                    let updates = m.op.in_place().iter().any(|a| m.ins[a.1] == v);
                    assert!(!updates, "{} is updated while {} reads it", g.name(v), n.op.name());
                }
            }
        }
        let outs: Vec<(Value, [usize; 2])> =
            nodes().flat_map(|n| &n.outs).filter_map(|&v| Some((v, extent(v)?))).collect();
        let ins: Vec<[usize; 2]> = nodes().flat_map(|n| &n.ins).filter_map(|&v| extent(v)).collect();
        for (i, &(v, e)) in outs.iter().enumerate() {
            assert!(e[1] <= plan.arena_bytes(), "{v:?} ends behind the arena");
            assert!(ins.iter().all(|x| apart(*x, e)), "{v:?} overlaps an input of its own step");
            assert!(outs[..i].iter().all(|o| apart(o.1, e)), "{v:?} overlaps another output of its step");
            shadow.write(e, v);
        }
        for n in nodes() {
            updated.extend(n.op.in_place().iter().map(|a| n.ins[a.1]));
        }
        step.iter().for_each(|i| assert!(done.insert(*i), "node {i} runs twice"));
    }
    for &v in want {
        assert!(extent(v).is_none_or(|e| shadow.holds(e, v)), "wanted {v:?} is gone at the end");
    }
    // Nothing that leads to a wanted value is left out.
    let mut needed: HashSet<Value> = want.iter().copied().collect();
    for (i, n) in g.nodes().iter().enumerate().rev() {
        let runs = n.outs.iter().any(|o| needed.contains(o));
        assert_eq!(runs, done.contains(&i), "node {i} {} of {}", n.op.name(), n.label);
        if runs {
            needed.extend(&n.ins);
        }
    }
}

fn walked(t: &Training, want: &[Value], options: Options) -> Plan {
    let (g, mut plans) = Plan::all(t.graph.clone(), &[want], options).unwrap();
    walk(&g, &plans[0], want);
    plans.remove(0)
}

#[test]
fn small_plans_keep_live_values_apart() {
    for architecture in BOTH {
        let t = training(&small(architecture, 64, 0.5), 3, false);
        let everything: Vec<Value> = t.step.iter().chain(&t.grads).copied().collect();
        for options in [UNGROUPED, GROUPED, FUSED, Options { guard: 256, ..GROUPED }] {
            for want in [&t.step, &t.eval, &everything] {
                walked(&t, want, options);
            }
        }
    }
}

fn full(architecture: Architecture, n: usize) -> Training {
    let features = ["object", "scene", "face"].map(String::from);
    training(&Config::published(architecture, &features, 9).unwrap(), n, false)
}

#[test]
fn full_size_plans_keep_live_values_apart() {
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    for architecture in BOTH {
        let t = full(architecture, 25);
        for options in [UNGROUPED, GROUPED, FUSED] {
            for (name, want) in [("train", &t.step), ("eval", &t.eval)] {
                let start = Instant::now();
                let (g, plans) = Plan::all(t.graph.clone(), &[want], options).unwrap();
                let (seconds, plan) = (start.elapsed().as_secs_f64(), &plans[0]);
                walk(&g, plan, want);
                println!(
                    "{architecture:?} {name} batch 25 group {} fuse {}: {} nodes in {} steps planned in {:.1} ms, arena \
                     {:.0} MiB of {:.0} MiB without reuse",
                    options.group,
                    options.fuse,
                    plan.steps().iter().map(Vec::len).sum::<usize>(),
                    plan.steps().len(),
                    1e3 * seconds,
                    mib(plan.arena_bytes()),
                    mib(plan.naive_bytes())
                );
                assert!(plan.arena_bytes() <= plan.naive_bytes());
            }
        }
    }
}

/// What a laptop needs to rate one picture, besides the weights.
#[test]
fn evaluation_of_one_picture_fits_in_200_megabytes() {
    for architecture in BOTH {
        let t = full(architecture, 1);
        let plan = walked(&t, &t.eval, UNGROUPED);
        println!("{architecture:?}: {:.1} MB", plan.arena_bytes() as f64 / 1e6);
        assert!(plan.arena_bytes() < 200_000_000);
    }
}

/// Equal towers share steps when grouped; otherwise every node is a step of its own.
#[test]
fn grouping_joins_equal_towers() {
    let t = training(&small(Architecture::Split, 64, 0.5), 2, false);
    let [one, many] = [UNGROUPED, GROUPED].map(|o| Plan::new(&t.graph, &t.step, o).unwrap().steps().to_vec());
    assert!(one.iter().all(|s| s.len() == 1));
    assert_eq!(one.len(), many.iter().map(Vec::len).sum::<usize>());
    assert!(many.len() * 2 <= one.len(), "{} steps of {} nodes", many.len(), one.len());
}

/// Loss of each of several training steps and all weights at the end, as bits.
fn trained(t: &Training, options: Options, device: Box<dyn Device>) -> Vec<u64> {
    let mut s = Session::new(t.graph.clone(), &[&t.step, &t.eval], options, device).unwrap();
    t.fill(&mut s, 3, 1.0);
    let mut bits = vec![];
    // Without the sign of a zero: `ops::dropout::Grad` says why.
    let mut keep = |s: &Session, v: Value| bits.extend(s.read64(v).unwrap().iter().map(|x| (x + 0.0).to_bits()));
    for step in 0..4 {
        t.settings(&mut s, 0.01, 0.9, step);
        s.run(0).unwrap();
        keep(&s, t.total);
        // An evaluation between two steps uses the same arena and must not disturb them.
        s.run(1).unwrap();
        t.eval.iter().for_each(|v| keep(&s, *v));
    }
    let weights = t.graph.of_kind(Kind::Param).chain(t.graph.of_kind(Kind::State));
    weights.for_each(|v| keep(&s, v));
    assert!(bits.iter().all(|b| f64::from_bits(*b).is_finite()));
    bits
}

#[test]
fn however_it_is_planned_training_gives_the_same_bits() {
    for architecture in BOTH {
        let t = training(&small(architecture, 64, 0.5), 2, false);
        for device in [reference, cpu] {
            let one = trained(&t, UNGROUPED, device());
            for options in [GROUPED, FUSED] {
                assert!(one == trained(&t, options, device()), "{architecture:?} on {}, {options:?}", device().name());
            }
            // No storage is shared here at all: what sharing does to results.
            let guarded = Options { guard: 4096, ..UNGROUPED };
            assert!(one == trained(&t, guarded, device()), "{architecture:?} on {}, guarded", device().name());
        }
    }
}

/// Poisoned outputs and guard bands on every vector level: no write out of bounds, nothing left unwritten.
#[test]
fn guarded_training_is_clean() {
    let t = training(&small(Architecture::Shared, 32, 0.5), 3, false);
    for simd in Simd::available() {
        for group in [false, true] {
            let plain = trained(&t, Options { group, ..UNGROUPED }, checked(simd, 2));
            assert!(plain == trained(&t, Options { group, guard: 4096, ..UNGROUPED }, checked(simd, 2)), "{simd:?}");
        }
    }
}

/// Names of the ops that a plan runs.
fn ops_of(g: &Graph, plan: &Plan) -> Vec<&'static str> {
    plan.steps().iter().flatten().map(|&i| g.nodes()[i].op.name()).collect()
}

/// Of VGG16 nothing is left to be done between convolutions, and no image at full resolution is kept for a pooling. No mask
/// of dropout is kept, either.
#[test]
fn fusion_leaves_no_mask_and_no_pooling_between_convolutions() {
    // A batch whose images need more memory than the gradients of weights, of which more are there at once.
    let t = full(Architecture::Split, 25);
    let want = [&t.step[..], &t.eval];
    let (g, plans) = Plan::all(t.graph.clone(), &want, FUSED).unwrap();
    let count = |plan: usize, name: &str| ops_of(&g, &plans[plan]).into_iter().filter(|n| *n == name).count();
    let (towers, pools) = (6, 5);
    for plan in 0..2 {
        assert_eq!([count(plan, "maxpool"), count(plan, "conv.pooled")], [0, towers * pools], "{plan}");
    }
    // The last pooling's gradient comes from a dense layer, which does not spread it.
    assert_eq!(["maxpool.grad", "bias.grad", "unpool"].map(|n| count(0, n)), [0, 0, towers]);
    let ends = ["softmax", "softmax.grad", "concat", "slice", "mse", "mse.grad"];
    assert_eq!(ends.map(|n| count(0, n)), [0; 6]);
    assert_eq!(["softmax.concat", "softmax.concat.grad", "mse.both"].map(|n| count(0, n)), [2; 3]);
    assert_eq!(["softmax", "concat", "softmax.concat"].map(|n| count(1, n)), [0, 0, 2]);
    // Of each member's head and scene tower.
    let dropouts = ["dropout.mask", "dropout", "dropout.grad", "relu.grad", "dense.dropped"];
    assert_eq!(dropouts.map(|n| count(0, n)), [0, 0, 0, 0, 2 * (3 + 2)]);
    let (_, apart) = Plan::all(t.graph.clone(), &want, GROUPED).unwrap();
    assert!(plans[0].arena_bytes() < apart[0].arena_bytes());
}

/// Launches and MiB of arena of the published network on a GPU, a training step at batch 25 and an inference of one
/// picture: what small things cost is the launch.
#[test]
fn few_launches_and_little_memory() {
    let features = ["object", "scene", "face"].map(String::from);
    let config = Config::published(Architecture::Shared, &features, 9).unwrap();
    let task = Task::EndToEnd { config, frozen: vec![] };
    let method = |precision| Method { precision, ..Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 }.into() };
    for (precision, training, mib, inference) in [(Precision::Float32, 130, 3040, 31), (Precision::Bf16, 150, 1612, 44)]
    {
        let fused = Options { products: precision.products(), ..FUSED };
        let planned = |g: Graph, want: &[&[Value]]| {
            let (g, plans) = Plan::all(g, want, fused).unwrap();
            (
                plans[0].lower(&g, Arch::Gpu(&Choices::default())).unwrap().len(),
                plans[0].arena_bytes().div_ceil(1 << 20),
            )
        };
        let b = Blueprint::new(&task, 25, method(precision)).unwrap();
        let (launches, arena) = planned(b.graph, &[&b.want[0]]);
        println!("{precision:?}: a training step is {launches} launches in {arena} MiB");
        assert!(launches <= training && arena <= mib);
        let (g, _, outputs) = task.evaluation(1, precision).unwrap();
        let (launches, _) = planned(g, &[&outputs]);
        println!("{precision:?}: an inference is {launches} launches");
        assert!(launches <= inference);
    }
}

/// What is fused away can be asked for, and is there at the end.
#[test]
fn wanted_values_are_never_fused_away() {
    let t = training(&small(Architecture::Shared, 16, 0.5), 2, false);
    let plan = |want: &[Value], options| Plan::all(t.graph.clone(), &[want], options).unwrap();
    let [apart, fused] = [GROUPED, FUSED].map(|o| plan(&t.step, o).1.remove(0));
    let values = t.graph.nodes().iter().flat_map(|n| n.outs.iter().copied());
    let hidden: Vec<Value> = values.filter(|v| apart.live(*v).is_some() && fused.live(*v).is_none()).collect();
    assert!(hidden.len() > 20, "{} values are not stored", hidden.len());
    for v in hidden {
        let want: Vec<Value> = t.step.iter().copied().chain([v]).collect();
        let (g, plans) = plan(&want, FUSED);
        walk(&g, &plans[0], &want);
    }
}
