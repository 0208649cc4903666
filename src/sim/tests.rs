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
    order: Order,
}

impl Default for Run {
    fn default() -> Run {
        Run { a: vec![0; 64], b: vec![0; 64], y: vec![0; 64], n: 0, block: 32, grid: 1, order: Order::Forward }
    }
}

impl Run {
    fn launch(&mut self, ptx: &str) -> Result<Counters, Fault> {
        let program = Program::parse(ptx).unwrap_or_else(|e| panic!("{e}"));
        let mut params: Vec<u8> = (0..3).flat_map(|i| address(i).to_le_bytes()).collect();
        params.extend(self.n.to_le_bytes());
        let mut written = vec![0; 4 * self.y.len()];
        let mut windows = [
            Window { name: "a", data: bytemuck::cast_slice_mut(&mut self.a), written: &mut [], access: Access::Read },
            Window { name: "b", data: bytemuck::cast_slice_mut(&mut self.b), written: &mut [], access: Access::Update },
            Window {
                name: "y",
                data: bytemuck::cast_slice_mut(&mut self.y),
                written: &mut written,
                access: Access::Write,
            },
        ];
        let grid = Grid { grid: [self.grid, 1, 1], block: [self.block, 1, 1], shared_bytes: 0 };
        let options = Options { checks: true, count: true, order: self.order };
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
        ("dp4a.s32.s32 %r6, %r3, %r4, %r5", 0xff01_01ff, 0x0101_0102, 10, 9),
    ];
    for &(text, a, b, c, want) in cases {
        let got = word(text, a, b, c);
        assert_eq!(got, want, "{text}: {got:#x} instead of {want:#x}");
    }
}
