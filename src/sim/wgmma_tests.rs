//! Products of warpgroups, held against tables of where operands lie (`tests/golden/layouts`), and with bugs planted.

use super::isa::wgmma::Descriptor;
use super::*;
use half::{bf16, f16};
use serde_json::Value;
use std::sync::LazyLock;

static LAYOUTS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../tests/golden/layouts/layouts.json")).expect("written by its generator")
});

/// [line][place in it] of two numbers, or of one.
fn table<T: serde::de::DeserializeOwned>(path: &[&str]) -> Vec<Vec<T>> {
    let found = path.iter().fold(&*LAYOUTS, |at, name| &at[name]);
    serde_json::from_value(found.clone()).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// An operand of 64 rows and a depth of 16 as the tables have it.
struct Operand {
    across: bool,
    /// The descriptor of one that begins at address zero.
    bits: u64,
    /// Bytes of the first half of each number: [row][depth].
    bytes: Vec<Vec<usize>>,
}

impl Operand {
    fn all() -> Vec<(String, Operand)> {
        let names = ["k_major", "mn_major"].into_iter().flat_map(|m| ["none", "32B", "64B", "128B"].map(|s| (m, s)));
        names
            .map(|(major, swizzle)| {
                let name = format!("{major}.{swizzle}");
                let facts = &LAYOUTS["wgmma_operands_16bit"][&name];
                let number = |v: &Value| v.as_u64().expect("a number");
                let place = |name: &str| number(&LAYOUTS["wgmma_descriptor"][name][0]);
                let bits = number(&facts["lbo"]) >> 4 << place("leading_byte_offset >> 4")
                    | number(&facts["sbo"]) >> 4 << place("stride_byte_offset >> 4")
                    | number(&LAYOUTS["wgmma_descriptor"]["layouts"][swizzle]) << place("layout");
                let bytes = table(&["wgmma_operands_16bit", &name, "bytes_of"]);
                (name, Operand { across: major == "mn_major", bits, bytes })
            })
            .collect()
    }

    /// Numbers by row and depth, as they lie in memory.
    fn store(&self, numbers: impl Fn(usize, usize) -> u16, to: &mut [u8]) {
        for (row, bytes) in self.bytes.iter().enumerate() {
            for (k, at) in bytes.iter().enumerate() {
                to[*at..at + 2].copy_from_slice(&numbers(row, k).to_le_bytes());
            }
        }
    }
}

#[test]
fn descriptors_lead_where_the_tables_say() {
    for (name, operand) in Operand::all() {
        for start in [0, 1024, 13 << 10] {
            let descriptor = Descriptor::decode(operand.bits | start >> 4).unwrap();
            for rows in [0..64, 16..32, 48..64] {
                let pieces = descriptor.pieces(rows.clone(), operand.across).unwrap();
                for (r, row) in rows.clone().enumerate() {
                    for k in 0..16 {
                        let (piece, e) = if operand.across { (r / 8 * 16 + k, r % 8) } else { (2 * r + k / 8, k % 8) };
                        let want = start as usize + operand.bytes[row][k];
                        assert_eq!(pieces[piece] + 2 * e, want, "{name}, row {row}, depth {k}");
                    }
                }
            }
        }
    }
}

/// Bytes of each operand in shared memory; A lies at 0, B behind it.
const BYTES: usize = 8192;

/// Parts of the test's kernel, in their order; a planted bug changes one of them.
#[derive(Clone)]
struct Parts {
    threads: u32,
    /// Fetches both operands from global memory.
    fill: String,
    fence: String,
    barrier: String,
    /// Sums and, where A is in registers, those.
    registers: String,
    arrive: String,
    /// All of it, between arrive and commit.
    product: String,
    commit: String,
    /// Between commit and wait.
    meanwhile: String,
    wait: String,
    store: String,
}

impl Parts {
    fn new(a: u64, b: u64, product: &str) -> Parts {
        let fill = "ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%d8]; st.shared.v4.u32 [%d9], {%r10, %r11, %r12, %r13};
add.s64 %d8, %d8, 2048; add.s64 %d9, %d9, 2048;\n";
        let store = (0..32).map(|i| format!("st.global.f32 [%d7+{}], %f{i};\n", 4 * i));
        let zero = (0..32).map(|i| format!("mov.f32 %f{i}, 0f3F800000;\n"));
        Parts {
            threads: 128,
            fill: format!("mov.u64 %d10, {a}; mov.u64 %d11, {b};\n{}", fill.repeat(2 * BYTES / 2048)),
            fence: "fence.proxy.async.shared::cta;".into(),
            barrier: "bar.sync 0;".into(),
            registers: zero.collect(),
            arrive: "wgmma.fence.sync.aligned;".into(),
            product: product.into(),
            commit: "wgmma.commit_group.sync.aligned;".into(),
            meanwhile: String::new(),
            wait: "wgmma.wait_group.sync.aligned 0;".into(),
            store: store.collect(),
        }
    }

    fn ptx(&self) -> String {
        let Parts { fill, fence, barrier, registers, arrive, product, commit, meanwhile, wait, store, threads } = self;
        format!(
            ".version 9.0\n.target sm_90a\n.address_size 64
.visible .entry k(.param .u64 x, .param .u64 y) .maxntid {threads} {{
.reg .pred %p<9>; .reg .f32 %f<40>; .reg .b32 %r<40>; .reg .b64 %d<20>;
.shared .align 1024 .b8 s[{}]; .shared .align 8 .b8 m[8];
ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; mov.u32 %r2, %tid.x; mul.wide.u32 %d3, %r2, 16;
add.s64 %d8, %d1, %d3; mov.u64 %d4, s; add.s64 %d9, %d4, %d3;
mul.wide.u32 %d5, %r2, 128; add.s64 %d7, %d2, %d5; setp.lt.u32 %p2, %r2, 32; setp.lt.u32 %p3, %r2, 96;
{fill}\n{fence}\n{barrier}\n{registers}\nsetp.eq.u32 %p1, %r2, %r2;
{arrive}\n{product}\n{commit}\n{meanwhile}\n{wait}\n{store}\nret; }}",
            2 * BYTES
        )
    }

    /// What 128 threads hold, 32 numbers each.
    fn run(&self, shared: &[u8], order: BlockOrder) -> Result<Vec<f32>, Fault> {
        let program = Program::parse(&self.ptx()).unwrap_or_else(|e| panic!("{e}\n{}", self.ptx()));
        let params: Vec<u8> = (0..2).flat_map(|i| address(i).to_le_bytes()).collect();
        let (mut x, mut y) = (shared.to_vec(), vec![0f32; 128 * 32]);
        let ranges = [("x", &mut x[..], Rights::Read), ("y", bytemuck::cast_slice_mut(&mut y), Rights::Update)];
        let mut windows = ranges.map(|(name, data, access)| Buffer { name, at: 0, data, blank: &mut [], access });
        let grid = Grid { grid: [1; 3], block: [self.threads, 1, 1], shared_bytes: 0 };
        let options = RunOptions { checks: true, order, patience: 1 << 20, ..RunOptions::default() };
        launch(&program, "k", grid, &params, &mut windows, options)?;
        Ok(y)
    }
}

/// `wgmma` of 64 x 64 sums, its operands A and what follows the descriptor of B.
fn wgmma(ty: &str, a: &str, b: &str, rest: &str) -> String {
    let d: Vec<String> = (0..32).map(|i| format!("%f{i}")).collect();
    format!("wgmma.mma_async.sync.aligned.m64n64k16.f32.{ty}.{ty} {{{}}}, {a}, {b}, {rest};", d.join(","))
}

/// Small integers, so that every sum is exact.
fn entry(seed: usize, row: usize, k: usize) -> i32 {
    ((row * 37 + k * 101 + seed * 53 + row * k) % 17) as i32 - 8
}

fn bits(ty: &str, v: i32) -> u16 {
    if ty == "f16" { f16::from_f32(v as f32).to_bits() } else { bf16::from_f32(v as f32).to_bits() }
}

/// The sums by thread and register, where they begin with ones or zeros.
fn expected(from: f32, sign: f32) -> Vec<f32> {
    let places: Vec<Vec<[usize; 2]>> = table(&["fragments", "wgmma.m64n64.c"]);
    let sum = |[row, column]: [usize; 2]| -> i32 { (0..16).map(|k| entry(1, row, k) * entry(2, column, k)).sum() };
    places.into_iter().flatten().map(|at| from + sign * sum(at) as f32).collect()
}

/// Both operands in every layout, f16 and bf16, and A from registers.
#[test]
fn products_are_those_of_the_tables() {
    let operands = Operand::all();
    let mut shared = vec![0; 2 * BYTES];
    for (i, (a_name, a)) in operands.iter().enumerate() {
        for (j, (b_name, b)) in operands.iter().enumerate() {
            let ty = if (i + j) % 2 == 0 { "bf16" } else { "f16" };
            // Each layout of A with each of B once, and other variations along with them.
            let (adds, signs) = [("%p1", "1, 1"), ("!%p1", "1, -1"), ("%p1", "-1, 1")][(i + 2 * j) % 3];
            a.store(|row, k| bits(ty, entry(1, row, k)), &mut shared[..BYTES]);
            b.store(|row, k| bits(ty, entry(2, row, k)), &mut shared[BYTES..]);
            let rest = format!("{adds}, {signs}, {}, {}", a.across as u8, b.across as u8);
            let bits = [a.bits, b.bits | (BYTES >> 4) as u64];
            let parts = Parts::new(bits[0], bits[1], &wgmma(ty, "%d10", "%d11", &rest));
            let got = parts.run(&shared, BlockOrder::Forward).unwrap_or_else(|e| panic!("{a_name} {b_name}: {e}"));
            let want = expected(if adds == "%p1" { 1.0 } else { 0.0 }, if signs == "1, 1" { 1.0 } else { -1.0 });
            assert_eq!(got, want, "{a_name} {b_name} {ty} {adds} {signs}");
        }
    }
    let (parts, shared) = from_registers();
    assert_eq!(parts.run(&shared, BlockOrder::Reverse).unwrap_or_else(|e| panic!("{e}")), expected(1.0, 1.0));
}

/// A from registers: each thread fetches its own from where the tables say they are in A.
fn from_registers() -> (Parts, Vec<u8>) {
    let [(_, rows), (_, b)] =
        Operand::all().into_iter().take(2).collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!());
    let places: Vec<Vec<[usize; 2]>> = table(&["fragments", "wgmma.a.16bit.a"]);
    let mut shared = vec![0; 2 * BYTES];
    b.store(|row, k| bits("bf16", entry(2, row, k)), &mut shared[BYTES..]);
    for (thread, places) in places.iter().enumerate() {
        for (i, [row, k]) in places.iter().enumerate() {
            let at = 16 * thread + 2 * i;
            shared[at..at + 2].copy_from_slice(&bits("bf16", entry(1, *row, *k)).to_le_bytes());
        }
    }
    let rest = format!("%p1, 1, 1, {}", b.across as u8);
    let a = "{%r20,%r21,%r22,%r23}";
    let mut parts = Parts::new(rows.bits, b.bits | (BYTES >> 4) as u64, &wgmma("bf16", a, "%d11", &rest));
    parts.registers += &format!("add.s64 %d12, %d1, %d3; ld.global.v4.u32 {a}, [%d12];");
    (parts, shared)
}

/// A right kernel, and that kernel with one thing wrong.
#[test]
fn planted_bugs_are_found() {
    use FaultKind::*;
    let operands = Operand::all();
    let k128 = &operands.iter().find(|(name, _)| name == "k_major.128B").expect("there").1;
    let mut shared = vec![0; 2 * BYTES];
    for half in shared.chunks_mut(BYTES) {
        k128.store(|row, k| bits("bf16", entry(row % 3, row, k)), half);
    }
    let base = k128.bits;
    let b_at = (BYTES >> 4) as u64;
    let product = wgmma("bf16", "%d10", "%d11", "%p1, 1, 1, 0, 0");
    let right = Parts::new(base, base | b_at, &product);
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = right.clone();
        change(&mut parts);
        parts
    };
    let a = |bits: u64| Parts::new(bits, base | b_at, &product);
    let stride = |bytes: u64| base & !(0x3fff << 32) | bytes >> 4 << 32;
    let before = |what: &str| format!("{what} {product}");
    let own = "st.shared.u32 [%d9+-16384], 0;";
    let (registers, in_registers) = from_registers();
    let registers = |change: &dyn Fn(&mut Parts)| {
        let mut parts = registers.clone();
        change(&mut parts);
        parts
    };
    let none = |part: &mut String| part.clear();
    #[rustfmt::skip]
    let cases: Vec<(&str, Parts, Option<FaultKind>)> = vec![
        ("right", right.clone(), None),
        ("right, the next depth", with(&|p| p.product = before("add.s64 %d10, %d10, 2; add.s64 %d11, %d11, 2;")), None),
        ("two groups, both waited for", with(&|p| p.meanwhile = format!("{product} {}", p.commit)), None),
        ("fenced by the reader", with(&|p| (p.fence, p.barrier) = ("bar.sync 0;".into(), "fence.proxy.async; bar.sync 0;".into())), None),
        ("stored without a fence", with(&|p| none(&mut p.fence)), Some(Async)),
        ("a fence before the stores", with(&|p| (p.fence, p.fill) = (String::new(), format!("{} {}", p.fence, p.fill))), Some(Async)),
        ("a fence by one warp", with(&|p| p.fence = format!("@%p2 {}", p.fence)), Some(Async)),
        ("a fence of another kind", with(&|p| p.fence = "fence.acq_rel.gpu;".into()), Some(Async)),
        ("stored again after the fence", with(&|p| p.fence += own), Some(Async)),
        ("no barrier", with(&|p| none(&mut p.barrier)), Some(Race)),
        ("nothing stored", with(&|p| p.fill = p.fill.replace("st.shared", "@!%p1 st.shared").replacen("mov.u64", "setp.eq.u32 %p1, %r2, %r2; mov.u64", 1)), Some(Unwritten)),
        ("no wgmma.fence", with(&|p| none(&mut p.arrive)), Some(Async)),
        ("a sum written after wgmma.fence", with(&|p| p.arrive += "mov.f32 %f7, 0f00000000;"), Some(Async)),
        ("not committed", with(&|p| none(&mut p.commit)), Some(Async)),
        ("committed too early", with(&|p| (p.product, p.commit) = (format!("{} {product}", p.commit), String::new())), Some(Async)),
        ("not waited for", with(&|p| none(&mut p.wait)), Some(Async)),
        ("waited for one group too few", with(&|p| p.wait = "wgmma.wait_group.sync.aligned 1;".into()), Some(Async)),
        ("a sum read too early", with(&|p| p.meanwhile = "add.f32 %f33, %f5, %f5;".into()), Some(Async)),
        ("a sum written too early", with(&|p| p.meanwhile = "mov.f32 %f31, 0f00000000;".into()), Some(Async)),
        ("ends without waiting", with(&|p| (none(&mut p.wait), none(&mut p.store)).0), Some(Async)),
        ("A in registers", registers(&|_| ()), None),
        ("A in registers written too early", registers(&|p| p.meanwhile = "mov.u32 %r22, 0;".into()), Some(Async)),
        ("A in registers written after wgmma.fence", registers(&|p| p.arrive += "add.u32 %r20, %r20, 0;"), Some(Async)),
        ("stored before the wait", with(&|p| p.meanwhile = own.into()), Some(Race)),
        ("stored behind a barrier before the wait", with(&|p| p.meanwhile = format!("bar.sync 0; {own}")), Some(Race)),
        ("stored behind the wait and no barrier", with(&|p| p.wait += own), Some(Race)),
        ("stored behind the wait and a barrier", with(&|p| p.wait += &format!("bar.sync 0; {own}")), None),
        ("B past the end", with(&|p| p.product = before("add.s64 %d11, %d11, 64;")), Some(OutOfBounds)),
        ("a stride past the end", a(stride(4096)), Some(OutOfBounds)),
        ("a start in the next variable", a(base | (2 * BYTES as u64) >> 4), Some(OutOfBounds)),
        ("a start in nothing", a(base | 0x3f80), Some(OutOfBounds)),
        ("a row into the atom", a(base | 128 >> 4), Some(Misaligned)),
        ("past the end of a row", a(base | 112 >> 4), Some(Misaligned)),
        ("a stride of half an atom", a(stride(512)), Some(Misaligned)),
        ("a base offset", a(base | 1 << 49), Some(Misaligned)),
        ("three warps", with(&|p| p.product = format!("@%p3 bra GO; bra END; GO: {product} END:")), Some(Divergence)),
        ("half a warp", with(&|p| p.product = format!("and.b32 %r5, %r2, 16; setp.eq.u32 %p4, %r5, 0; @%p4 bra END; {product} END:")), Some(Divergence)),
        ("under a condition", with(&|p| p.product = format!("and.b32 %r5, %r2, 16; setp.eq.u32 %p4, %r5, 0; @%p4 {product}")), Some(Divergence)),
        ("other operands in one warp", with(&|p| p.product = before("@%p2 add.s64 %d10, %d10, 64;")), Some(Divergence)),
        ("other operands in one lane", with(&|p| p.product = before("setp.eq.u32 %p4, %r2, 9; @%p4 add.s64 %d10, %d10, 64;")), Some(Divergence)),
        ("lanes that add and lanes that do not", with(&|p| p.product = before("setp.eq.u32 %p1, %r2, 9;")), Some(Divergence)),
        ("half a warpgroup", with(&|p| p.threads = 64), Some(Divergence)),
        ("registers handed on", with(&|p| p.barrier += "setmaxnreg.dec.sync.aligned.u32 40; setmaxnreg.inc.sync.aligned.u32 248;"), None),
        ("more registers than there are", with(&|p| p.barrier += "setmaxnreg.inc.sync.aligned.u32 256;"), Some(Endless)),
        ("fewer registers by inc", with(&|p| p.barrier += "setmaxnreg.inc.sync.aligned.u32 40;"), Some(Launch)),
        ("registers of three warps", with(&|p| p.barrier += "@!%p3 bra L; setmaxnreg.dec.sync.aligned.u32 40; L:"), Some(Divergence)),
    ];
    for (label, parts, want) in cases {
        let shared = if parts.product.contains("%r20") { &in_registers } else { &shared };
        for order in [BlockOrder::Forward, BlockOrder::Reverse, BlockOrder::Shuffled(3)] {
            let found = parts.run(shared, order).err();
            let kind = found.as_ref().map(|f| f.kind);
            // A race may show as a read of what is not written yet.
            let same = kind == want || want == Some(Race) && kind == Some(Unwritten);
            assert!(same, "{label}, {order:?}: {want:?} expected, {found:?} found");
        }
    }
}
