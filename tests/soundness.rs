//! What safe code may ask of the library and must not get: memory that is not its own. Each of these programs once ended in a
//! segmentation fault, a panic or a wrong number, and is now refused in one line. That the compiler refuses others is written
//! beside `Plan` and `Simd`. Takes a few seconds.

#![forbid(unsafe_code)]

mod common;
use common::devices::without;
use common::{cpu, graph_of, reference};
use deep_affect::device::{self, Bytes, Cpu, Data, DataMut, Device, Session};
use deep_affect::error::Result;
use deep_affect::graph::{Description, Graph, Instance, Io, Op, Value, host_launches};
use deep_affect::host;
use deep_affect::launch::{Arch, Choices, Launch, Simd};
use deep_affect::nn::{Mode, Net};
use deep_affect::ops::optim::{Form, Sgd, hyper_type};
use deep_affect::ops::{self, Case, arith, conv};
use deep_affect::plan::{Options, Place, Plan};
use deep_affect::shape::{ConvShape, DType, MOST, Type, Window};
use deep_affect::weights::header;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// Extents on which products, sums and roundings wrap.
const ABSURD: [usize; 14] = [
    0,
    1 << 31,
    (1 << 31) + 1,
    1 << 32,
    (1 << 32) + 1,
    MOST / 8,
    MOST - 1,
    MOST,
    1 << 61,
    1 << 62,
    (1 << 62) + 1,
    usize::MAX / 2,
    usize::MAX / 2 + 2,
    usize::MAX,
];

/// The devices of every machine, and the simulator where there is a compiler of kernels.
fn devices() -> Vec<Box<dyn Device>> {
    // Miri loads no libraries.
    let sim = || device::open("sim", None).map_err(|e| without("sim", &e)).ok();
    [cpu(), reference()].into_iter().chain(if cfg!(miri) { None } else { sim() }).collect()
}

/// The one line that a mistake is answered with.
fn line<T>(r: Result<T>) -> String {
    let text = r.err().expect("refused").to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Bytes that are aligned for numbers wherever they are allocated.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn shared(bytes: Vec<u8>) -> Bytes {
    Arc::new(bytes)
}

#[test]
fn sizes_that_wrap_are_refused() {
    for huge in [(1 << 62) + 1, usize::MAX / 2 + 2, usize::MAX, MOST / 8 + 1] {
        let dense = |n: usize, i: usize, out: usize| {
            let mut g = Graph::default();
            let x = g.input("x", Type::f32(&[n, i]));
            let y = Net::new(&mut g, Mode::Eval).dense("layer", x, out, true);
            (g, y)
        };
        for (n, i, out) in [(huge, 4, 1), (4, huge, 1), (4, 1, huge)] {
            let (g, y) = dense(n, i, out);
            let text = line(Session::new(g, &[&[y]], Options::default(), cpu()));
            assert!(text.contains("address space"), "{text}");
        }
    }
    // None of them is too large, all together are.
    let mut g = Graph::default();
    let all: Vec<Value> = (0..9).map(|i| g.input(&i.to_string(), Type::f32(&[MOST / 64]))).collect();
    assert!(line(Plan::new(&g, &all, Options::default())).contains("together"));
}

#[test]
fn elements_there_are() {
    for dims in [&[0, 4][..], &[4, 0], &[2, 0, 3, 3]] {
        let same: Vec<String> = devices()
            .into_iter()
            .map(|device| {
                let mut g = Graph::default();
                let x = g.input("x", Type::f32(dims));
                let y = g.push1(arith::Scale { by: 2.0 }, &[x]);
                line(Session::new(g, &[&[y]], Options::default(), device))
            })
            .collect();
        assert!(same[0].contains("has no elements") && same.iter().all(|s| *s == same[0]), "{same:?}");
    }
}

#[test]
fn values_of_another_graph_are_an_error() {
    let small = || {
        let mut g = Graph::default();
        let x = g.input("x", Type::f32(&[2]));
        let y = g.push1(arith::Scale { by: 2.0 }, &[x]);
        (g, x, y)
    };
    let mut large = Graph::default();
    let all: Vec<Value> = (0..9).map(|i| large.state(&i.to_string(), Type::f32(&[2]))).collect();
    let other = "is of another graph";
    // The numbers of the first and second are those of `x` and `y`; the last one's is of nothing there.
    for foreign in [all[0], all[1], all[8]] {
        let (mut g, x, _) = small();
        g.push1(arith::Add, &[x, foreign]);
        assert!(line(g.check()).contains(other));
        for [state, out] in [[foreign, x], [x, foreign]] {
            let (mut g, ..) = small();
            g.prepare(state, out);
            assert!(line(g.check()).contains(other));
        }
        let (mut g, x, y) = small();
        assert!(line(g.backward(foreign, &[x])).contains(other) && line(g.backward(y, &[foreign])).contains(other));
        assert!(line(Plan::new(&g, &[foreign], Options::default())).contains(other));
        assert!(g.needed(&[foreign]).is_empty());
        let plan = Plan::new(&g, &[y], Options::default()).unwrap();
        assert!(plan.live(y).is_some() && plan.live(foreign).is_none());
        assert!(plan.place(y) != Place::Nowhere && plan.place(foreign) == Place::Nowhere);
        assert!(line(Plan::all(g, &[&[foreign]], Options { fuse: true, ..Options::default() })).contains(other));
        for device in devices() {
            let (g, x, y) = small();
            let mut s = Session::new(g, &[&[y]], Options::default(), device).unwrap();
            s.write(x, Data::F32(&[1.0, 2.0])).unwrap();
            s.run(0).unwrap();
            assert!(line(s.write(foreign, Data::F32(&[0.0; 2]))).contains(other));
            assert!(line(s.bind(foreign, shared(vec![0; 8]), 0..8)).contains(other));
            assert!(line(s.read64(foreign)).contains(other) && line(s.read(foreign)).contains(other));
            assert!(line(s.values(foreign)).contains(other) && line(s.run(1)).contains("not loaded"));
            assert_eq!(s.read(y).unwrap(), [2.0, 4.0]);
        }
    }
    // A graph that was built alike is another one, and so are its plans; a clone has the values of its original.
    let ((g, x, y), (alike, ..)) = (small(), small());
    let plan = Plan::new(&alike, &[], Options::default()).unwrap();
    assert!(Plan::new(&g, &[y], Options::default()).unwrap().updates(&Graph::default()).is_empty());
    assert!(line(cpu().load(&g, &[plan])).contains("the plan is of another graph"));
    let mut s = Session::new(g.clone(), &[&[y]], Options::default(), cpu()).unwrap();
    s.write(x, Data::F32(&[1.0, 2.0])).unwrap();
    s.run(0).unwrap();
    assert_eq!(s.read(y).unwrap(), [2.0, 4.0]);
}

#[test]
fn what_is_bound_and_written_is_as_long_as_the_value() {
    const BYTES: usize = if cfg!(miri) { 4 << 10 } else { 16 << 20 };
    let mut g = Graph::default();
    let w = g.param("w", Type::f32(&[BYTES / 4]));
    let y = g.push1(arith::Scale { by: 2.0 }, &[w]);
    let plans = [Plan::new(&g, &[y], Options::default()).unwrap()];
    let plenty = shared(vec![0; 2 * BYTES]);
    for mut d in devices() {
        d.load(&g, &plans).unwrap();
        let takes = format!("w takes {BYTES} bytes");
        for range in [0..16, 0..0, 0..BYTES + 4, 2 * BYTES..3 * BYTES, usize::MAX - 15..usize::MAX] {
            assert!(line(d.bind(w, plenty.clone(), range.clone())).contains(&takes), "{} {range:?}", d.name());
        }
        assert!(line(d.bind(w, shared(vec![0; 16]), 0..BYTES)).contains(&takes));
        assert!(line(d.bind(y, plenty.clone(), 0..BYTES)).contains("is computed"));
        assert!(line(d.write(w, Data::F32(&[0.0; 4]))).contains("numbers, not 4"));
        assert!(line(d.write(w, Data::U8(&[0; 4]))).contains("numbers, not 4"));
        assert!(line(d.write(y, Data::F32(&vec![0.0; BYTES / 4]))).contains("is computed"));
        assert!(line(d.read(w, DataMut::F32(&mut [0.0; 4]))).contains("numbers, not 4"));
        // What fits is taken, at whatever address it lies.
        for at in [0, 1, 4] {
            d.bind(w, plenty.clone(), at..at + BYTES).unwrap();
        }
    }
    // What was bound is held: a mapping's pages do not go while a device reads them.
    let mut d = cpu();
    d.load(&g, &plans).unwrap();
    assert!(d.bind(w, Arc::new(Floats(vec![1.0; BYTES / 4])), 0..BYTES).unwrap());
    d.run(0, None).unwrap();
    let mut got = vec![0.0; BYTES / 4];
    d.read(y, DataMut::F64(&mut got)).unwrap();
    assert!(got.iter().all(|y| *y == 2.0));
}

#[test]
fn plans_are_those_of_the_graph() {
    let scaled = |n: usize| {
        let mut g = Graph::default();
        let x = g.input("x", Type::f32(&[n]));
        let y = g.push1(arith::Scale { by: 2.0 }, &[x]);
        let z = g.push1(arith::Add, &[x, y]);
        let plan = Plan::new(&g, &[z], Options::default()).unwrap();
        (g, plan, x, z)
    };
    let ((small, small_plan, x, z), (large, large_plan, ..)) = (scaled(4), scaled(4 << 20));
    for mut d in devices() {
        let other = "the plan is of another graph";
        assert!(line(d.load(&large, std::slice::from_ref(&small_plan))).contains(other));
        d.load(&small, std::slice::from_ref(&small_plan)).unwrap();
        d.write(x, Data::F32(&[1.0; 4])).unwrap();
        d.run(0, None).unwrap();
        let mut got = [0.0; 4];
        d.read(z, DataMut::F64(&mut got)).unwrap();
        assert_eq!(got, [3.0; 4]);
        // A load that fails leaves nothing that could be run.
        assert!(line(d.load(&small, std::slice::from_ref(&large_plan))).contains(other));
        for failed in [d.run(0, None), d.read(z, DataMut::F64(&mut got)), d.write(x, Data::F32(&[1.0; 4]))] {
            line(failed);
        }
        d.load(&small, std::slice::from_ref(&small_plan)).unwrap();
        d.run(0, None).unwrap();
    }
    let guarded = |guard| Plan::new(&small, &[z], Options { guard, ..Options::default() });
    assert!(guarded(256).is_ok());
    for guard in [1, 3, 255, 257, 1 << 30, usize::MAX, usize::MAX - 255] {
        assert!(line(guarded(guard)).contains("guard bands"));
    }
}

#[test]
fn storage_that_is_updated_is_taken_once() {
    let sgd = |operands: &dyn Fn([Value; 3]) -> [Value; 3]| {
        let mut g = Graph::default();
        let [w, v, dw] = ["w", "v", "dw"].map(|name| g.param(name, Type::f32(&[64])));
        let hyper = g.input("hyper", hyper_type());
        let [w, v, dw] = operands([w, v, dw]);
        let outs = g.push(Sgd { form: Form::Torch, dampening: 0.0, nesterov: false }, &[w, v, dw, hyper]);
        Session::new(g, &[&outs], Options::default(), cpu())
    };
    assert!(sgd(&|operands| operands).is_ok());
    assert!(line(sgd(&|[w, _, dw]| [w, w, dw])).contains("w is updated in place and taken a second time"));
    assert!(line(sgd(&|[w, v, _]| [w, v, v])).contains("v is updated in place and taken a second time"));
}

/// An op whose routine writes what another value holds, or takes what it is handed twice.
#[derive(Debug)]
struct Liar {
    /// Says that its input is its output.
    input_as_output: bool,
    /// Asks for so much scratch memory.
    scratch: usize,
    /// Takes its output so many times.
    takes: usize,
}

impl Op for Liar {
    fn describe(&self) -> Description {
        Description::of("liar")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(ins.to_vec())
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].copy_from_slice(ins[0]);
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let takes = self.takes;
        let mut launches = host_launches(self, io, group, self.scratch, move |h| {
            let all: Vec<&mut [f32]> = (0..takes).map(|_| h.output(0)).collect();
            all.into_iter().for_each(|y| y.fill(1.0));
        });
        if self.input_as_output {
            launches.iter_mut().for_each(|l| l.outs = l.ins.clone());
        }
        launches
    }
}

#[test]
fn an_op_cannot_reach_what_is_not_its_own() {
    let run = |op: Liar| {
        let mut g = Graph::default();
        let x = g.input("x", Type::f32(&[8]));
        let y = g.push1(op, &[x]);
        let mut s = Session::new(g, &[&[y]], Options::default(), cpu())?;
        let ran = catch_unwind(AssertUnwindSafe(|| s.run(0)));
        ran.unwrap_or_else(|e| Err(deep_affect::error::Error::job(e.downcast_ref::<String>().unwrap().clone())))
    };
    assert!(run(Liar { input_as_output: false, scratch: 64, takes: 1 }).is_ok());
    assert!(line(run(Liar { input_as_output: true, scratch: 0, takes: 1 })).contains("operands overlap"));
    assert!(line(run(Liar { input_as_output: false, scratch: 0, takes: 2 })).contains("taken a second time"));
}

#[test]
fn routines_check_what_they_are_handed() {
    let refused = |f: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(f)).is_err());
    let simd = Simd::detect();
    // Products that wrap to the lengths that are there.
    let huge = 1 << 62;
    refused(&|| host::dense::fprop(simd, huge, 4, 1, &[], &[0.0; 4], None, false, &mut []));
    refused(&|| host::dense::dgrad(simd, huge, 4, 4, &[], &[0.0; 16], &mut []));
    refused(&|| host::dense::wgrad(simd, huge, 4, 4, &[], &[], &mut [0.0; 16]));
    refused(&|| host::column_sums(simd, huge, 4, &[], &mut [0.0; 4], &mut []));
    // Extents that do not belong together.
    let s = ConvShape::new(&[1, 8, 8, 4], 4, Window::square(3, 1, 1), 1).unwrap();
    let wide = ConvShape { p: 80, ..s };
    let (x, w, y) = (vec![0.0; 256], vec![0.0; 144], vec![0.0; 2560]);
    let scratch = || vec![0.0; 1 << 16];
    refused(&|| host::conv::fprop(simd, &wide, &x, &w, None, false, &mut y.clone(), &mut scratch()));
    refused(&|| host::conv::dgrad(simd, &wide, &y, &w, &mut x.clone(), &mut scratch()));
    refused(&|| host::conv::wgrad(simd, &wide, &x, &y, &mut w.clone(), &mut scratch()));
    let mut g = Graph::default();
    let [x, dy] = [&[1, 8, 8, 4], &[1, 80, 8, 4]].map(|dims| g.input(&format!("{dims:?}"), Type::f32(dims)));
    g.push1(conv::Wgrad { shape: wide, bias: false }, &[x, dy]);
    assert!(line(g.check()).contains("do not fit together"));
}

/// A case of an op with other extents: of each input some are replaced.
fn changed(case: &Case, with: &[(usize, usize, usize)]) -> Case {
    let mut ins = case.ins.clone();
    for &(input, axis, extent) in with {
        let i = input % ins.len().max(1);
        let Some(t) = ins.get_mut(i) else { continue };
        let mut dims = t.dims().to_vec();
        let axis = axis % dims.len().max(1);
        if let Some(d) = dims.get_mut(axis) {
            *d = extent;
        }
        *t = Type::new(t.dtype, &dims);
    }
    Case { label: case.label.clone(), op: case.op.clone(), ins, draws: vec![], diff: vec![], bound: case.bound }
}

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..6, proptest::sample::select(ABSURD.to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 16 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the extents of an op's operands are, it is refused or planned and lowered, and what is small is run.
    #[test]
    fn absurd_shapes_are_refused_or_right(
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec((0usize..8, 0usize..4, extent()), 1..5),
        repeat in any::<Option<(u8, u8)>>(),
    ) {
        thread_local! { static CASES: Vec<Case> = ops::ALL.iter().flat_map(|f| (f.cases)()).collect(); }
        let case = CASES.with(|cases| changed(&cases[at.index(cases.len())], &with));
        let (g, outs) = match repeat.filter(|_| !case.ins.is_empty()) {
            None => {
                let (g, _, outs) = graph_of(&case);
                (g, outs)
            }
            // One value in two places.
            Some((a, b)) => {
                let mut g = Graph::default();
                let mut ins: Vec<Value> =
                    case.ins.iter().enumerate().map(|(i, t)| g.state(&format!("in{i}"), *t)).collect();
                let n = ins.len();
                ins[a as usize % n] = ins[b as usize % n];
                let outs = g.push_arc(case.op.clone(), &ins);
                (g, outs)
            }
        };
        if let Ok(plan) = Plan::new(&g, &outs, Options::default()) {
            let (mut d, plans) = (Cpu::new(None).unwrap(), [plan]);
            let _ = plans[0].lower(&g, Arch::Gpu(&Choices::default()));
            // What a machine cannot hold a session refuses by this.
            let needed = d.demand(&g, &plans).unwrap().total();
            if needed < 1 << 20 {
                d.load(&g, &plans).unwrap();
                d.run(0, None).unwrap();
            }
        }
    }

    /// Windows and convolutions of any numbers: refused, or every extent can be counted.
    #[test]
    fn absurd_windows_are_refused_or_right(n in prop::collection::vec(extent(), 16)) {
        let window = Window {
            size: [n[0], n[1]],
            stride: [n[2], n[3]],
            pad: [n[4], n[5], n[6], n[7]],
            dilation: [n[8], n[9]],
            ceil: n[10] % 2 == 0,
        };
        let x = [n[11], n[12], n[13], n[14]];
        let _ = Window::same(n[0], n[2], &x).out([n[12], n[13]]);
        if let Ok(s) = ConvShape::new(&x, n[15], window, n[10]) {
            for dims in [[s.n, s.h, s.w, s.c], [s.n, s.p, s.q, s.k]] {
                prop_assert!(dims.iter().map(|d| *d as u128).product::<u128>() <= MOST as u128);
            }
            prop_assert!(s.check().is_ok());
        }
    }

    /// Headers of weight files with any extents and offsets.
    #[test]
    fn absurd_headers_are_refused_or_right(
        dims in prop::collection::vec(extent(), 0..6),
        offsets in (extent(), extent()),
        length in prop_oneof![Just(None), extent().prop_map(Some)],
        dtype in prop::sample::select(vec!["F32", "F16", "BF16", "U8", "I64", "F4", "x"]),
    ) {
        let text = format!(r#"{{"w":{{"dtype":"{dtype}","shape":{dims:?},"data_offsets":[{},{}]}}}}"#, offsets.0, offsets.1);
        let mut bytes = (length.unwrap_or(text.len()) as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend([0; 64]);
        if let Ok(header) = header::parse(Path::new("absurd.safetensors"), &bytes) {
            for t in &header.tensors {
                prop_assert!(t.range.start <= t.range.end && t.range.end <= bytes.len(), "{text}");
            }
        }
    }
}

/// The types that ops without inputs are made with are checked like all others.
#[test]
fn absurd_attributes_are_refused() {
    for n in ABSURD {
        for dtype in [DType::F32, DType::U8] {
            let mut g = Graph::default();
            let y = g.push1(arith::Fill { value: 0.0, ty: Type::new(dtype, &[n, 1 << 45]) }, &[]);
            line(Session::new(g, &[&[y]], Options::default(), cpu()));
        }
    }
}
