//! Small kernels written by hand, one table per kind of behaviour.

use super::*;

/// A module with one kernel `k` of three pointers `a`, `b`, `y` and an integer `n`, whose registers are declared.
fn module(outer: &str, body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n{outer}
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 y, .param .u32 n) {{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %d<20>;
ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [y]; ld.param.u32 %r1, [n];
mov.u32 %r2, %tid.x; mul.wide.u32 %d4, %r2, 4; mul.wide.u32 %d5, %r2, 8;
{body}
ret; }}"
    )
}

/// Operands of a run: two inputs, an output, threads and blocks.
struct Run {
    a: Vec<u32>,
    b: Vec<u32>,
    y: Vec<u32>,
    n: u32,
    block: u32,
    grid: u32,
    order: BlockOrder,
}

impl Default for Run {
    fn default() -> Run {
        Run { a: vec![0; 64], b: vec![0; 64], y: vec![0; 64], n: 0, block: 32, grid: 1, order: BlockOrder::Forward }
    }
}

impl Run {
    fn launch(&mut self, ptx: &str) -> Result<Counters, Fault> {
        let program = Program::parse(ptx).unwrap_or_else(|e| panic!("{e}"));
        let mut params: Vec<u8> = (0..3).flat_map(|i| address(i).to_le_bytes()).collect();
        params.extend(self.n.to_le_bytes());
        let mut blank = vec![1; 4 * self.y.len()];
        let mut windows = [
            Buffer {
                name: "a",
                at: 0,
                data: bytemuck::cast_slice_mut(&mut self.a),
                blank: &mut [],
                access: Rights::Read,
            },
            Buffer {
                name: "b",
                at: 0,
                data: bytemuck::cast_slice_mut(&mut self.b),
                blank: &mut [],
                access: Rights::Update,
            },
            Buffer {
                name: "y",
                at: 0,
                data: bytemuck::cast_slice_mut(&mut self.y),
                blank: &mut blank,
                access: Rights::Write,
            },
        ];
        let grid = Grid { grid: [self.grid, 1, 1], block: [self.block, 1, 1], shared_bytes: 0 };
        let options =
            RunOptions { checks: true, count: true, order: self.order, patience: 1 << 20, ..RunOptions::default() };
        launch(&program, "k", grid, &params, &mut windows, options)
    }
}

/// y = f(a, b) for one thread and 32-bit values.
fn word(instruction: &str, a: u32, b: u32, c: u32) -> u32 {
    let body = format!(
        "ld.global.u32 %r3, [%d1]; ld.global.u32 %r4, [%d2]; ld.global.u32 %r5, [%d2+4]; mov.u32 %r6, -1;
{instruction}; st.global.u32 [%d3], %r6;"
    );
    let mut run = Run { a: vec![a], b: vec![b, c], y: vec![0], block: 1, ..Run::default() };
    run.launch(&module("", &body)).unwrap_or_else(|e| panic!("{instruction}: {e}"));
    run.y[0]
}

/// d is %r6, the sources are %r3, %r4, %r5.
#[test]
fn words() {
    let f = f32::to_bits;
    let nan = 0x7fff_ffff;
    #[rustfmt::skip]
    let cases: &[(&str, u32, u32, u32, u32)] = &[
        ("add.s32 %r6, %r3, %r4", 5, u32::MAX, 0, 4),
        ("sub.u32 %r6, %r3, 7", 5, 0, 0, -2i32 as u32),
        ("mul.lo.s32 %r6, %r3, %r4", 1 << 20, 1 << 20, 0, 0),
        ("mul.hi.u32 %r6, %r3, %r4", 1 << 31, 6, 0, 3),
        ("mul.hi.s32 %r6, %r3, %r4", 1 << 31, 6, 0, -3i32 as u32),
        ("mad.lo.s32 %r6, %r3, %r4, %r5", 3, 5, 7, 22),
        ("div.s32 %r6, %r3, %r4", -7i32 as u32, 2, 0, -3i32 as u32),
        ("rem.s32 %r6, %r3, %r4", -7i32 as u32, 2, 0, -1i32 as u32),
        ("min.s32 %r6, %r3, %r4", -7i32 as u32, 2, 0, -7i32 as u32),
        ("min.u32 %r6, %r3, %r4", -7i32 as u32, 2, 0, 2),
        ("abs.s32 %r6, %r3", -7i32 as u32, 0, 0, 7),
        ("shl.b32 %r6, %r3, %r4", 1, 40, 0, 0),
        ("shr.u32 %r6, %r3, %r4", 1 << 31, 32, 0, 0),
        ("shr.s32 %r6, %r3, %r4", 1 << 31, 99, 0, u32::MAX),
        ("shf.l.wrap.b32 %r6, %r3, %r4, 8", 0xff00_0000, 0x11, 0, 0x11ff),
        ("shf.r.clamp.b32 %r6, %r3, %r4, 32", 1, 2, 0, 2),
        ("prmt.b32 %r6, %r3, %r4, 0x7410", 0x3322_1100, 0x7766_5544, 0, 0x7744_1100),
        ("prmt.b32 %r6, %r3, %r4, 0x8888", 0x80, 0, 0, u32::MAX),
        ("lop3.b32 %r6, %r3, %r4, %r5, 0xE8", 0b0011, 0b0101, 0b1001, 0b0001),
        ("bfe.u32 %r6, %r3, 4, 8", 0xabcd, 0, 0, 0xbc),
        ("bfe.s32 %r6, %r3, 4, 8", 0xabcd, 0, 0, 0xffff_ffbc),
        ("bfi.b32 %r6, %r3, %r4, 4, 8", 0xff, 0, 0, 0xff0),
        ("bfind.u32 %r6, %r3", 0x800, 0, 0, 11),
        ("bfind.shiftamt.u32 %r6, %r3", 0, 0, 0, u32::MAX),
        ("clz.b32 %r6, %r3", 1, 0, 0, 31),
        ("popc.b32 %r6, %r3", 0xff, 0, 0, 8),
        ("brev.b32 %r6, %r3", 1, 0, 0, 1 << 31),
        ("setp.lt.s32 %p1, %r3, %r4; selp.u32 %r6, 1, 2, %p1", -1i32 as u32, 0, 0, 1),
        ("setp.lo.u32 %p1, %r3, %r4; selp.u32 %r6, 1, 2, %p1", -1i32 as u32, 0, 0, 2),
        ("setp.eq.u32 %p1|%p2, %r3, %r4; selp.u32 %r6, 1, 2, %p2", 1, 1, 0, 2),
        ("setp.ne.s32 %p1, %r3, 0; setp.eq.and.s32 %p2, %r4, 2, !%p1; selp.u32 %r6, 1, 0, %p2", 0, 2, 0, 1),
        ("setp.gtu.f32 %p1, %r3, %r4; selp.u32 %r6, 1, 0, %p1", f(f32::NAN), 0, 0, 1),
        ("set.ge.u32.f32 %r6, %r3, %r4", f(2.0), f(1.0), 0, u32::MAX),
        ("slct.u32.s32 %r6, %r3, %r4, %r5", 1, 2, -1i32 as u32, 2),
        ("cvt.u32.u64 %r6, 0x100000007", 0, 0, 0, 7),
        ("cvt.u16.u32 %h1, %r3; cvt.s32.s16 %r6, %h1", 0xffff, 0, 0, u32::MAX),
        ("cvt.s16.s8 %h1, %r3; cvt.s32.s16 %r6, %h1", 0x80, 0, 0, -128i32 as u32),
        ("cvt.sat.u8.s32 %r6, %r3", 300, 0, 0, 255),
        ("cvt.rni.s32.f32 %r6, %r3", f(2.5), 0, 0, 2),
        ("cvt.rzi.u32.f32 %r6, %r3", f(-3.7), 0, 0, 0),
        ("cvt.rmi.s32.f32 %r6, %r3", f(-3.2), 0, 0, -4i32 as u32),
        ("cvt.rzi.s32.f32 %r6, %r3", f(f32::NAN), 0, 0, 0),
        ("cvt.rn.f32.u32 %r6, %r3", 16_777_217, 0, 0, f(16_777_216.0)),
        ("cvt.rp.f32.u32 %r6, %r3", 16_777_217, 0, 0, f(16_777_218.0)),
        ("cvt.rn.f16.f32 %h1, %r3; cvt.f32.f16 %r6, %h1", f(1.0 + 1.0 / 2048.0), 0, 0, f(1.0)),
        ("cvt.rn.bf16x2.f32 %r6, %r3, %r4", f(1.0), f(-2.0), 0, 0x3f80_c000),
        ("cvt.rna.tf32.f32 %r6, %r3", 0x3f80_1000, 0, 0, 0x3f80_2000),
        ("add.f32 %r6, %r3, %r4", f(1.0), f(f32::EPSILON / 2.0), 0, f(1.0)),
        ("add.rp.f32 %r6, %r3, %r4", f(1.0), f(f32::EPSILON / 2.0), 0, f(1.0f32.next_up())),
        ("add.rz.f32 %r6, %r3, %r4", f(-1.0), f(1e-20), 0, f(-1.0f32.next_down())),
        ("add.ftz.f32 %r6, %r3, %r4", 1, 1, 0, 0),
        ("sub.f32 %r6, %r3, %r4", f(f32::INFINITY), f(f32::INFINITY), 0, nan),
        ("mul.sat.f32 %r6, %r3, %r4", f(3.0), f(2.0), 0, f(1.0)),
        ("fma.rn.f32 %r6, %r3, %r4, %r5", f(1.0f32.next_up()), f(1.0f32.next_up()), f(-1.0), f(1.0f32.next_up().mul_add(1.0f32.next_up(), -1.0))),
        ("fma.rm.f32 %r6, %r3, %r4, %r5", f(1.0), f(1.0), f(-1e-30), f(1.0f32.next_down())),
        ("div.rn.f32 %r6, %r3, %r4", f(1.0), f(3.0), 0, f(1.0 / 3.0)),
        ("div.rz.f32 %r6, %r3, %r4", f(2.0), f(3.0), 0, f((2.0f32 / 3.0).next_down())),
        ("sqrt.rn.f32 %r6, %r3", f(2.0), 0, 0, f(2f32.sqrt())),
        ("rcp.rn.f32 %r6, %r3", f(0.0), 0, 0, f(f32::INFINITY)),
        ("max.f32 %r6, %r3, %r4", nan, f(1.0), 0, f(1.0)),
        ("max.NaN.f32 %r6, %r3, %r4", f(1.0), nan, 0, nan),
        ("min.f32 %r6, %r3, %r4", f(0.0), f(-0.0), 0, f(-0.0)),
        ("max.f32 %r6, %r3, %r4", f(-0.0), f(0.0), 0, f(0.0)),
        ("neg.f32 %r6, %r3", f(0.0), 0, 0, f(-0.0)),
        ("copysign.f32 %r6, %r3, %r4", f(-1.0), f(5.0), 0, f(-5.0)),
        ("ex2.approx.ftz.f32 %r6, %r3", f(3.0), 0, 0, f(8.0)),
        ("lg2.approx.f32 %r6, %r3", f(8.0), 0, 0, f(3.0)),
        ("rsqrt.approx.f32 %r6, %r3", f(4.0), 0, 0, f(0.5)),
        ("fma.rn.f16x2 %r6, %r3, %r4, %r5", 0x3c00_4000, 0x4000_4000, 0x3c00_3c00, 0x4200_4500),
        ("mov.b32 {%h1, %h2}, %r3; mov.b32 %r6, {%h2, %h1}", 0x1234_5678, 0, 0, 0x5678_1234),
        ("mov.b64 %d6, {%r3, %r4}; mov.b64 {_, %r6}, %d6", 1, 2, 0, 2),
        ("mad.wide.s32 %d6, %r3, %r4, -1; cvt.u32.u64 %r6, %d6", 3, 5, 0, 14),
        ("cvt.f64.f32 %d6, %r3; sqrt.rn.f64 %d7, %d6; cvt.rn.f32.f64 %r6, %d7", f(2.0), 0, 0, f(2f64.sqrt() as f32)),
        ("add.cc.u32 %r7, %r3, %r4; addc.u32 %r6, %r5, 0", u32::MAX, 1, 7, 8),
        ("sub.cc.u32 %r7, %r3, %r4; subc.u32 %r6, %r5, 0", 0, 1, 7, 6),
        ("mad.lo.cc.u32 %r7, %r3, %r4, %r5; madc.hi.u32 %r6, %r3, %r4, 2", 1 << 31, 3, 1 << 31, 4),
        ("dp4a.s32.s32 %r6, %r3, %r4, %r5", 0xff01_01ff, 0x0101_0102, 10, 9),
    ];
    for &(text, a, b, c, want) in cases {
        let got = word(text, a, b, c);
        assert_eq!(got, want, "{text}: {got:#x} instead of {want:#x}");
    }
}

/// One word per thread: y[tid] is %r6, a[tid] is %r3.
fn threads(outer: &str, body: &str, a: &[u32]) -> Vec<u32> {
    let body = format!(
        "add.s64 %d6, %d1, %d4; ld.global.u32 %r3, [%d6];
{body}
add.s64 %d6, %d3, %d4; st.global.u32 [%d6], %r6;"
    );
    let n = a.len();
    let mut run = Run { a: a.to_vec(), y: vec![0; n], block: n as u32, ..Run::default() };
    run.launch(&module(outer, &body)).unwrap_or_else(|e| panic!("{e}"));
    run.y
}

#[test]
fn lanes_of_a_warp() {
    let a: Vec<u32> = (0..32).collect();
    let run = |body: &str| threads("", body, &a);
    let each = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<_>>();
    assert_eq!(run("shfl.sync.bfly.b32 %r6, %r3, 5, 31, -1;"), each(|l| l ^ 5));
    assert_eq!(run("shfl.sync.down.b32 %r6|%p1, %r3, 3, 31, -1;"), each(|l| if l < 29 { l + 3 } else { l }));
    assert_eq!(run("shfl.sync.up.b32 %r6, %r3, 1, 0, -1;"), each(|l| l.saturating_sub(1)));
    assert_eq!(run("shfl.sync.idx.b32 %r6, %r3, 2, 0x181f, -1;"), each(|l| l & 24 | 2));
    assert_eq!(run("setp.gt.u32 %p1, %r3, 7; vote.sync.ballot.b32 %r6, %p1, -1;"), [0xffff_ff00; 32]);
    assert_eq!(run("setp.gt.u32 %p1, %r3, 7; vote.sync.all.pred %p2, !%p1, -1; selp.u32 %r6, 1, 0, %p2;"), [0; 32]);
    assert_eq!(run("and.b32 %r4, %r3, 1; match.any.sync.b32 %r6, %r4, -1;"), each(|l| 0x5555_5555 << (l & 1)));
    assert_eq!(run("redux.sync.add.s32 %r6, %r3, -1;"), [496; 32]);
    // Two sides of a branch run apart and meet again.
    let split = "setp.lt.u32 %p1, %r3, 8; @%p1 bra LOW; activemask.b32 %r6; bra.uni BOTH; LOW: activemask.b32 %r6;
BOTH: shfl.sync.idx.b32 %r7, %r6, 0, 31, -1; add.u32 %r6, %r6, %r7;";
    assert_eq!(run(split), each(|l| if l < 8 { 0x1fe } else { 0xffff_ff00u32.wrapping_add(0xff) }));
    // Loops of different length, and a table of labels.
    let sum = "mov.u32 %r6, 0; mov.u32 %r4, 0; NEXT: setp.ge.u32 %p1, %r4, %r3; @%p1 bra END;
add.u32 %r6, %r6, %r4; add.u32 %r4, %r4, 1; bra NEXT; END: bar.warp.sync -1;";
    assert_eq!(run(sum), each(|l| (0..l).sum()));
    let table = "and.b32 %r4, %r3, 1; T: .branchtargets EVEN, ODD; brx.idx %r4, T;
EVEN: mov.u32 %r6, 7; bra END; ODD: mov.u32 %r6, 9; END:";
    assert_eq!(run(table), each(|l| 7 + 2 * (l & 1)));
    assert_eq!(run("{ .reg.b32 %r6x; mov.u32 %r6x, %laneid; mov.u32 %r6, %r6x; }"), a);
}

#[test]
fn memory_of_every_kind() {
    let a: Vec<u32> = (0..64).collect();
    let outer = ".const .align 4 .u32 table[4] = {10, 20, 30, 40};
.global .align 4 .b8 bytes[8] = {1, 2, 3, 4, 255, 0, 0, 128};";
    let run = |body: &str| threads(outer, body, &a);
    let each = |f: fn(u32) -> u32| (0..64).map(f).collect::<Vec<_>>();
    type Expected = fn(u32) -> u32;
    let cases: &[(&str, Expected)] = &[
        (
            "and.b32 %r4, %r3, 3; mul.wide.u32 %d6, %r4, 4; mov.u64 %d7, table; add.s64 %d6, %d6, %d7;
ld.const.u32 %r6, [%d6];",
            |t| 10 * (t % 4 + 1),
        ),
        ("ld.global.s8 %r6, [bytes+4];", |_| u32::MAX),
        ("ld.global.v2.u16 {%h1, %h2}, [bytes+4]; cvt.u32.u16 %r6, %h2;", |_| 0x8000),
        (
            ".shared .align 4 .b8 s[256]; mov.u64 %d6, s; add.s64 %d6, %d6, %d4; st.shared.u32 [%d6], %r3;
bar.sync 0; xor.b32 %r4, %r2, 63; mul.wide.u32 %d7, %r4, 4; mov.u64 %d6, s; cvta.shared.u64 %d6, %d6;
add.s64 %d6, %d6, %d7; ld.u32 %r6, [%d6];",
            |t| t ^ 63,
        ),
        (
            ".local .align 8 .b8 depot[8]; mov.u64 %d6, depot; cvta.local.u64 %d7, %d6; st.u32 [%d7+4], %r3;
st.local.u32 [%d6], 5; ld.local.v2.u32 {%r4, %r5}, [%d6]; add.u32 %r6, %r4, %r5;",
            |t| t + 5,
        ),
        ("mov.b64 %d6, n; ld.param.u32 %r6, [%d6];", |_| 0),
    ];
    for (body, want) in cases {
        assert_eq!(run(body), each(*want), "{body}");
    }
    assert_eq!(run("setp.lt.u32 %p1, %r3, 9; bar.red.popc.u32 %r6, 0, %p1;"), [9; 64]);
    // Atomics see each other, in any order.
    let count = ".shared .align 4 .b8 s[4]; setp.eq.u32 %p1, %r2, 0; @%p1 st.shared.u32 [s], 3; bar.sync 0;
atom.shared.add.u32 %r4, [s], 2; bar.sync 0; ld.shared.u32 %r6, [s];";
    assert_eq!(run(count), [131; 64]);
    let operation = |op: &str, b: u32| {
        let body = format!("atom.global.{op} %r6, [%d2], %r3; ld.global.u32 %r6, [%d2]; st.global.u32 [%d3], %r6;");
        let body = format!("ld.global.u32 %r3, [%d1];\n{body}");
        let mut run = Run { a: vec![5], b: vec![b], y: vec![0], block: 1, ..Run::default() };
        run.launch(&module("", &body)).unwrap_or_else(|e| panic!("{op}: {e}"));
        run.y[0]
    };
    let minus = -1i32 as u32;
    for (op, b, want) in [
        ("min.s32", minus, minus),
        ("min.u32", minus, 5),
        ("max.u32", 7, 7),
        ("and.b32", 12, 4),
        ("exch.b32", 1, 5),
        ("inc.u32", 5, 0),
        ("dec.u32", 0, 5),
        ("cas.b32", 9, 9),
    ] {
        let op = if op == "cas.b32" { "cas.b32 %r6, [%d2], 8,".to_string() } else { op.to_string() };
        if op.starts_with("cas") {
            let body = format!("ld.global.u32 %r3, [%d1]; atom.global.{op} %r3; st.global.u32 [%d3], %r6;");
            let mut run = Run { a: vec![5], b: vec![b], y: vec![0], block: 1, ..Run::default() };
            run.launch(&module("", &body)).unwrap();
            assert_eq!((run.y[0], run.b[0]), (want, 9));
        } else {
            assert_eq!(operation(&op, b), want, "{op}");
        }
    }
}

/// Each body does one thing wrong; the shared variables are `s` and `t` of 256 bytes.
#[test]
fn faults() {
    use FaultKind::*;
    let own = "add.s64 %d6, %d1, %d4; ld.global.u32 %r3, [%d6]; mov.u64 %d7, s; add.s64 %d8, %d7, %d4;";
    let put = "st.shared.u32 [%d8], %r3;";
    let get = "xor.b32 %r4, %r2, 33; mul.wide.u32 %d9, %r4, 4; add.s64 %d9, %d7, %d9; ld.shared.u32 %r5, [%d9];";
    let copy = "cvt.u32.u64 %r7, %d8; cp.async.ca.shared.global [%r7], [%d6], 4; cp.async.commit_group;";
    // Each block writes b[1 + block], counts itself in b[0], and the last one reads what the first one wrote.
    let last = |fence: &str| {
        format!(
            "setp.ne.u32 %p1, %r2, 0; @%p1 ret; mov.u32 %r3, %ctaid.x; mul.wide.u32 %d6, %r3, 4; add.s64 %d6, %d2, %d6;
st.global.u32 [%d6+4], 9; {fence} atom.global.add.u32 %r4, [%d2], 1; setp.eq.u32 %p2, %r4, 0; @%p2 ret;
ld.global.u32 %r5, [%d2+4]; ld.global.u32 %r5, [%d2+8];"
        )
    };
    let fine = format!("{own} {put} bar.sync 0; {get} bar.sync 0; st.shared.u32 [%d8], 1;");
    #[rustfmt::skip]
    let cases: Vec<(&str, String, Option<FaultKind>)> = vec![
        ("right", fine, None),
        ("past the end", "ld.global.u32 %r3, [%d1+256];".into(), Some(OutOfBounds)),
        ("before the start", "ld.global.u32 %r3, [%d2+-4];".into(), Some(OutOfBounds)),
        ("one lane past the end", "add.s64 %d6, %d3, %d4; st.global.u32 [%d6+4], 1;".into(), Some(OutOfBounds)),
        ("null", "mov.u64 %d6, 0; ld.global.u32 %r3, [%d6];".into(), Some(OutOfBounds)),
        ("from one shared array into the next", format!("{own} st.shared.u32 [%d8+4], 1;"), Some(OutOfBounds)),
        ("parameters", "ld.param.u32 %r3, [n+4];".into(), Some(OutOfBounds)),
        ("misaligned", "ld.global.v2.u32 {%r3, %r4}, [%d1+4];".into(), Some(Misaligned)),
        ("write to an input", "st.global.u32 [%d1], 1;".into(), Some(ReadOnly)),
        ("unwritten output", "ld.global.u32 %r3, [%d3];".into(), Some(Unwritten)),
        ("unwritten shared", "ld.shared.u32 %r3, [s];".into(), Some(Unwritten)),
        ("unwritten local", ".local .b8 l[4]; ld.local.u8 %r3, [l];".into(), Some(Unwritten)),
        ("no barrier before reading", format!("{own} st.shared.u32 [%d8], 0; st.shared.u32 [s+128], 1; {get}"), Some(Race)),
        ("no barrier before writing", format!("{own} {put} bar.sync 0; {get} {put} st.shared.u32 [%d8], 1;"), Some(Race)),
        ("two write one word", format!("{own} st.shared.u32 [s], %r2;"), Some(Race)),
        ("two write one byte", format!("{own} cvt.u16.u32 %h1, %r2; st.shared.u8 [s], %h1;"), Some(Race)),
        ("neighbouring bytes", "cvt.u16.u32 %h1, %r2; mov.u64 %d7, s; cvt.u64.u32 %d8, %r2; add.s64 %d8, %d7, %d8; st.shared.u8 [%d8], %h1;".into(), None),
        ("all write the same", format!("{own} st.shared.u32 [s], 7;"), None),
        ("warp without its barrier", format!("{own} {put} xor.b32 %r4, %r2, 1; mul.wide.u32 %d9, %r4, 4; add.s64 %d9, %d7, %d9; ld.shared.u32 %r5, [%d9];"), Some(Race)),
        ("warp with its barrier", format!("{own} {put} bar.warp.sync -1; xor.b32 %r4, %r2, 1; mul.wide.u32 %d9, %r4, 4; add.s64 %d9, %d7, %d9; ld.shared.u32 %r5, [%d9];"), None),
        ("blocks write one word", "mov.u32 %r3, %ctaid.x; add.s64 %d6, %d2, %d4; st.global.u32 [%d6], %r3;".into(), Some(Race)),
        ("blocks read what others write", "mov.u32 %r3, %ctaid.x; mul.wide.u32 %d6, %r3, 4; add.s64 %d6, %d2, %d6; setp.eq.u32 %p1, %r2, 0; @%p1 st.global.u32 [%d6], 9; ld.global.u32 %r4, [%d2];".into(), Some(Race)),
        ("atomics between blocks", "atom.global.add.u32 %r3, [%d2], 1;".into(), None),
        ("an atomic and a store", "setp.eq.u32 %p1, %r2, 40; @%p1 st.global.u32 [%d2], 3; atom.global.add.u32 %r3, [%d2], 1;".into(), Some(Race)),
        ("the last block reads what others wrote and fenced", last("membar.gl;"), None),
        ("the last block reads what others wrote", last(""), Some(Race)),
        ("half a warp at a barrier", "setp.lt.u32 %p1, %r2, 16; @%p1 bra L; bar.sync 0; L:".into(), Some(Barrier)),
        ("barrier under a predicate", "setp.lt.u32 %p1, %r2, 16; @%p1 bar.sync 0;".into(), Some(Barrier)),
        ("one warp at a barrier", "setp.lt.u32 %p1, %r2, 32; @%p1 bra L; bar.sync 0; L: bar.sync 1;".into(), Some(Barrier)),
        ("a warp has ended", "setp.lt.u32 %p1, %r2, 32; @%p1 ret; bar.sync 0;".into(), Some(Barrier)),
        ("too few threads", "setp.lt.u32 %p1, %r2, 32; @%p1 bra L; bar.sync 3, 64; L:".into(), Some(Barrier)),
        ("shuffle in half a warp", "setp.lt.u32 %p1, %r2, 16; @%p1 bra L; shfl.sync.idx.b32 %r3, %r2, 0, 31, -1; L:".into(), Some(Divergence)),
        ("not a member", "shfl.sync.idx.b32 %r3, %r2, 0, 31, 1;".into(), Some(Divergence)),
        ("copy not waited for", format!("{own} {copy} ld.shared.u32 %r3, [%d8];"), Some(Async)),
        ("one group too few", format!("{own} {copy} cp.async.wait_group 1; ld.shared.u32 %r3, [%d8];"), Some(Async)),
        ("copy waited for", format!("{own} {copy} cp.async.wait_group 0; ld.shared.u32 %r3, [%d8];"), None),
        ("copy without a barrier", format!("{own} {copy} cp.async.wait_all; {get}"), Some(Race)),
        ("mbarrier from nowhere", "mov.u64 %d6, s; mbarrier.arrive.shared.b64 %d7, [%d6];".into(), Some(Async)),
        ("mbarrier too few arrive", "mbarrier.init.shared.b64 [s], 65; bar.sync 0; mbarrier.arrive.shared.b64 %d7, [s]; L: mbarrier.test_wait.shared.b64 %p1, [s], %d7; @!%p1 bra L;".into(), Some(Endless)),
        ("for ever", "L: bra L;".into(), Some(Endless)),
        ("trap", "trap;".into(), Some(Trap)),
    ];
    let outer = ".shared .align 8 .b8 s[256]; .shared .align 8 .b8 t[256];";
    for (label, body, want) in cases {
        for order in [BlockOrder::Forward, BlockOrder::Reverse, BlockOrder::Shuffled(3)] {
            let mut run = Run { block: 64, grid: 2, order, ..Run::default() };
            let found = run.launch(&module(outer, &body)).err();
            let kind = found.as_ref().map(|f| f.kind);
            // A race may show as a read of what is not written yet.
            let same = kind == want || want == Some(Race) && kind == Some(Unwritten);
            assert!(same, "{label}, {order:?}: {want:?} expected, {found:?} found");
        }
    }
}

#[test]
fn a_fault_says_where() {
    let ptx = module(".file 1 \"relu.cu\"", ".loc 1 42 7\nadd.s64 %d6, %d2, %d4;\nst.global.u32 [%d6+8], 1;");
    let mut run = Run { block: 40, b: vec![0; 40], grid: 2, ..Run::default() };
    let text = run.launch(&ptx).unwrap_err().to_string();
    let place = "k at relu.cu:42, block (0,0,0) thread (38,0,0)";
    assert_eq!(text, format!("{place}: out of bounds: 4 bytes at offset 160 of `b`, which has 160"));
    for (line, says) in [
        ("frob.u32 %r3, %r4;", "PTX line 9: frob.u32: the simulator does not know this instruction"),
        ("add.s32.frob %r3, %r4, 1;", "add.s32.frob: the simulator does not know this instruction"),
        ("add.s32 %r3, %r99, 1;", "`%r99` is not a value of type S32"),
        ("bra NOWHERE;", "label NOWHERE is not defined"),
        ("add.s32 %r3, %r4;", "2 operands instead of 3"),
    ] {
        let e = Program::parse(&module("", line)).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
}

#[test]
fn copies_fill_with_zeros_and_matrices_multiply() {
    let mut a: Vec<u32> = (0..64).collect();
    let copy = "mov.u64 %d7, s; add.s64 %d8, %d7, %d4; cvt.u32.u64 %r7, %d8; setp.lt.u32 %p1, %r2, 8;
selp.u32 %r8, 4, 0, %p1; add.s64 %d6, %d1, %d4; cp.async.ca.shared.global [%r7], [%d6], 4, %r8;
cp.async.wait_all; ld.shared.u32 %r6, [%d8];";
    let got = threads(".shared .align 16 .b8 s[1024];", copy, &a[..32]);
    assert_eq!(got, (0..32).map(|l| if l < 8 { l } else { 0 }).collect::<Vec<_>>());

    // A is 16x16 with A[r][c] = r + c in bf16, row by row in shared memory; B = A's upper half, transposed on the way.
    let bf = |x: u32| half::bf16::from_f32(x as f32).to_bits() as u32;
    a = (0..128).map(|i| bf(i / 8 + 2 * (i % 8)) | bf(i / 8 + 2 * (i % 8) + 1) << 16).collect();
    let body = "mul.wide.u32 %d6, %r2, 16; add.s64 %d7, %d1, %d6; mov.u64 %d8, s; add.s64 %d8, %d8, %d6;
ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%d7]; st.shared.v4.u32 [%d8], {%r3, %r4, %r5, %r6}; bar.sync 0;
and.b32 %r3, %r2, 15; shr.u32 %r4, %r2, 4; shl.b32 %r3, %r3, 5; shl.b32 %r4, %r4, 4; add.u32 %r3, %r3, %r4;
mov.u32 %r5, s; add.u32 %r5, %r5, %r3;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r5];
ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r10, %r11}, [%r5]; mov.u32 %r12, 0;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r13, %r14, %r15, %r16}, {%r6, %r7, %r8, %r9}, {%r10, %r11},
{%r12, %r12, %r12, %r12}; mul.wide.u32 %d6, %r2, 16; add.s64 %d6, %d3, %d6;
st.global.v4.u32 [%d6], {%r13, %r14, %r15, %r16};";
    let mut run = Run { a, y: vec![0; 128], ..Run::default() };
    let counters = run.launch(&module(".shared .align 16 .b8 s[512];", body)).unwrap_or_else(|e| panic!("{e}"));
    for (i, got) in run.y.iter().enumerate() {
        let (lane, v) = (i / 4, i % 4);
        let (row, column) = (lane / 4 + 8 * (v / 2), 2 * (lane % 4) + v % 2);
        let want: usize = (0..16).map(|k| (row + k) * (k + column)).sum();
        assert_eq!(f32::from_bits(*got), want as f32, "row {row}, column {column}");
    }
    assert_eq!((counters.mma, counters.flops), (1, 2 * 16 * 8 * 16));
}

#[test]
fn functions_are_expanded() {
    let outer = ".func (.param .b32 result) twice_or_one(.param .b32 x);
.func (.param .b32 result) twice_or_one(.param .b32 x) {
.reg .pred %p<2>; .reg .b32 %r<3>; ld.param.u32 %r1, [x]; st.param.b32 [result], 1; setp.gt.u32 %p1, %r1, 9;
@%p1 bra END; { add.u32 %r2, %r1, %r1; st.param.b32 [result+0], %r2; ret; } END: ret; }";
    let call = "{ .param .b32 p0; st.param.b32 [p0+0], %r3; .param .b32 r0; call.uni (r0), twice_or_one, (p0);
ld.param.b32 %r6, [r0+0]; }";
    let a: Vec<u32> = (0..32).collect();
    let want: Vec<u32> = (0..32).map(|t| if t > 9 { 1 } else { 2 * t }).collect();
    assert_eq!(threads(outer, call, &a), want);
}

#[test]
fn barriers_in_memory_order_what_arrived() {
    // Warp 0 fills, warp 1 waits for all 32 arrivals, or for copies that arrive by themselves, and reads.
    let all = |arrive: &str, count: u32| {
        format!(
            "mov.u64 %d7, s; setp.eq.u32 %p1, %r2, 0; @%p1 mbarrier.init.shared::cta.b64 [m], {count}; bar.sync 0;
setp.ge.u32 %p1, %r2, 32; @%p1 bra READ; add.s64 %d8, %d7, %d4; cvt.u32.u64 %r7, %d8; add.s64 %d6, %d1, %d4;
{arrive} mov.u32 %r6, 0; bra END;
READ: mbarrier.try_wait.parity.shared::cta.b64 %p2, [m], 0; @!%p2 bra READ;
sub.u32 %r4, %r2, 32; mul.wide.u32 %d9, %r4, 4; add.s64 %d9, %d7, %d9; ld.shared.u32 %r6, [%d9]; END:"
        )
    };
    let outer = ".shared .align 8 .b8 m[8]; .shared .align 8 .b8 s[128];";
    let a: Vec<u32> = (0..64).map(|t| t + 100).collect();
    let want: Vec<u32> = (0..64).map(|t| if t < 32 { 0 } else { t + 68 }).collect();
    let put = "st.shared.u32 [%d8], %r3; mbarrier.arrive.shared::cta.b64 %d9, [m];";
    assert_eq!(threads(outer, &all(put, 32), &a), want);
    let copy = "cp.async.ca.shared.global [%r7], [%d6], 4; cp.async.mbarrier.arrive.noinc.shared.b64 [m];";
    assert_eq!(threads(outer, &all(copy, 32), &a), want);
}

#[test]
fn every_order_visits_everything_once() {
    for order in [BlockOrder::Forward, BlockOrder::Reverse, BlockOrder::Shuffled(1), BlockOrder::Shuffled(u64::MAX)] {
        for n in [1, 2, 6, 97] {
            let mut seen: Vec<u64> = (0..n).map(|i| run::place(order, i, n, 5)).collect();
            seen.sort();
            assert!(seen.into_iter().eq(0..n), "{order:?}, {n}");
        }
    }
}

proptest::proptest! {
    /// A damaged text is an error, or another program; it never panics.
    #[test]
    fn damaged_texts(cuts in proptest::collection::vec((0usize..2000, 0usize..40, 0usize..14), 1..4)) {
        const PATCHES: [&str; 14] = [
            "", "{", "}", ";", "[", "%r1", "0", "-1", ".b64", ".shared", "999999999999999", "\"", "@", "\u{fc}",
        ];
        let body = "{ .reg .b32 %x<3>; L: mov.u32 %x1, 0x10; setp.lt.and.s32 %p1|%p2, %x1, 3, !%p3; @!%p1 bra L; }
ld.global.v2.f32 {%r3, %r4}, [%d1+-8]; .local .align 8 .b8 d[16]; st.local.u32 [d+4], %r3; bar.sync 0;";
        let mut text = module(".const .align 4 .b8 t[4] = {1, 2, -3, 4}; .extern .shared .b8 e[];", body);
        for (at, n, patch) in cuts {
            let at = at % text.len();
            let to = (at + n).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(to) {
                text.replace_range(at..to, PATCHES[patch]);
            }
        }
        let _ = Program::parse(&text);
    }
}

/// A launch of a kernel that does nothing, of its first block.
fn nothing(grid: [u32; 3], block: [u32; 3], shared_bytes: u32) -> Result<Counters, Fault> {
    let program = Program::parse(&module(".shared .align 8 .b8 s[1024];", "")).unwrap();
    let options = RunOptions { only: Some(&[0]), ..RunOptions::default() };
    launch(&program, "k", Grid { grid, block, shared_bytes }, &[0; 28], &mut [], options)
}

#[test]
fn what_hardware_refuses_is_refused() {
    const MOST: u32 = i32::MAX as u32;
    // sm_80 gives a block 163 KiB.
    let dynamic = (163 << 10) - 1024;
    for (grid, block, shared) in
        [([MOST, 65535, 65535], [1, 1, 1], 0), ([1, 1, 1], [32, 32, 1], 0), ([1, 1, 1], [1, 1, 1], dynamic)]
    {
        assert!(nothing(grid, block, shared).is_ok(), "{grid:?} {block:?} {shared}");
    }
    for (grid, block, shared, problem) in [
        ([MOST + 1, 1, 1], [1, 1, 1], 0, "2147483648 blocks along x, and a grid has 2147483647 at most"),
        ([1, 65536, 1], [1, 1, 1], 0, "65536 blocks along y, and a grid has 65535 at most"),
        ([1, 1, 65536], [1, 1, 1], 0, "65536 blocks along z, and a grid has 65535 at most"),
        ([1, 1, 1], [32, 33, 1], 0, "blocks [32, 33, 1] of 1056 threads, and a block has 1024 at most"),
        ([1, 1, 1], [1, 1, 1], dynamic + 1, "166913 bytes of shared memory, and a block has 166912 at most on sm_80"),
    ] {
        let fault = nothing(grid, block, shared).unwrap_err();
        assert_eq!((fault.kind, fault.to_string()), (FaultKind::Launch, format!("k: {problem}")));
    }
}

/// An operand that begins where an arena has it: aligned no better than there, and nothing before it.
#[test]
fn operands_begin_where_the_arena_has_them() {
    let at = |at: usize, body: &str| {
        let (program, mut y) = (Program::parse(&module("", body)).unwrap(), [0u8; 64]);
        let params: Vec<u8> =
            [address(0) + at as u64, 0, 0].into_iter().flat_map(u64::to_le_bytes).chain([0; 4]).collect();
        let window = Buffer { name: "y", at, data: &mut y, blank: &mut [], access: Rights::Update };
        let grid = Grid { grid: [1; 3], block: [1; 3], shared_bytes: 0 };
        launch(&program, "k", grid, &params, &mut [window], RunOptions::default()).map_err(|f| f.to_string())
    };
    let vector = "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%d1];";
    assert!(at(256, vector).is_ok());
    let misaligned = at(256 + 4, vector).unwrap_err();
    assert!(misaligned.ends_with("misaligned access at offset 0 of `y`: not a multiple of 16 bytes"), "{misaligned}");
    let before = at(256, "ld.global.u32 %r3, [%d1+-4];").unwrap_err();
    assert!(before.ends_with("out of bounds: 4 bytes at offset -4 of `y`, which has 64"), "{before}");
}

#[test]
fn counters_count() {
    let mut run = Run { block: 32, ..Run::default() };
    let body = "add.s64 %d6, %d1, %d5; ld.global.u32 %r3, [%d6]; mov.u64 %d7, s; add.s64 %d7, %d7, %d5;
st.shared.u32 [%d7], %r3; add.s64 %d6, %d3, %d4; st.global.u32 [%d6], %r3;";
    let c = run.launch(&module(".shared .align 8 .b8 s[256];", body)).unwrap();
    assert_eq!((c.global_requests, c.sectors, c.read_bytes, c.write_bytes), (2, 8 + 4, 128, 128));
    // A stride of two words makes two lanes share each bank.
    assert_eq!((c.shared_requests, c.shared_wavefronts), (1, 2));
}
