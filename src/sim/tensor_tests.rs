//! Copies of boxes of tensors: what arrives where, as operands of products, and with bugs planted.

use super::*;
use crate::launch::tensor_map::{Swizzle, TensorMap};
use half::bf16;

/// Two copies by one thread, the second one to where the first one's numbers were read; all threads wait and store what they
/// find: 8192 bytes each time. The tensor map is the third parameter.
const TWICE: &str = ".version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 x, .param .u64 y, .param .align 64 .b8 map[128]) .maxntid 128 {
.reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %d<20>; .shared .align 1024 .b8 s[9216]; .shared .align 8 .b8 m[8];
ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; mov.b64 %d3, map; cvta.param.u64 %d4, %d3;
mov.u32 %r2, %tid.x; mul.wide.u32 %d5, %r2, 64; mov.u32 %r9, 0; setp.ne.u32 %p1, %r2, 0; @%p1 bra INITIALISED;
mbarrier.init.shared::cta.b64 [m], 1;
fence.mbarrier_init.release.cluster;
INITIALISED: bar.sync 0;
NEXT: @%p1 bra STARTED;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [m], BYTES;
cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [s], [%d4, {0, -1, %r9, 0}], [m];
STARTED:
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [m], %r9; @!%p2 bra WAIT;
mov.u32 %r3, 0; mov.u64 %d6, s; add.s64 %d6, %d6, %d5; add.s64 %d7, %d2, %d5;
STORE: ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%d6]; st.global.v4.u32 [%d7], {%r4, %r5, %r6, %r7};
add.s64 %d6, %d6, 16; add.s64 %d7, %d7, 16; add.u32 %r3, %r3, 1; setp.lt.u32 %p3, %r3, 4; @%p3 bra STORE;
add.s64 %d2, %d2, 8192; add.u32 %r9, %r9, 1; setp.lt.u32 %p3, %r9, 2;
bar.sync 0;
@%p3 bra NEXT;
ret; }";

const BOX: usize = 8192;

/// Images [2, 3, 5, channels] whose numbers all differ, and the map of them: boxes of 8192 bytes, as wide as a swizzle's row.
fn images(swizzle: Swizzle) -> (Vec<u16>, TensorMap) {
    let channels = swizzle.row().unwrap_or(48) / 2;
    let [rows, columns, images] = [3, 5, 2];
    let numbers = (0..(channels * rows * columns * images) as u16).map(|i| i + 1).collect();
    let step = 2 * channels as u64;
    let map = TensorMap {
        item: 2,
        extents: [channels, columns, rows, images].map(|n| n as u64).to_vec(),
        strides: vec![step, step * columns as u64, step * (columns * rows) as u64],
        window: match swizzle {
            Swizzle::None => vec![8, 4, 8, 16],
            Swizzle::By32 => vec![16, 4, 8, 8],
            Swizzle::By64 => vec![32, 4, 8, 4],
            Swizzle::By128 => vec![64, 4, 8, 2],
        },
        swizzle,
    };
    (numbers, map)
}

fn run(ptx: &str, x: &[u16], y: &mut [u8], map: &[u8; 128], order: BlockOrder) -> Result<Counters, Fault> {
    let program = Program::parse(ptx).unwrap_or_else(|e| panic!("{e}"));
    // Parameters end with the map, which begins at a multiple of 64.
    let mut params: Vec<u8> = (0..2).flat_map(|i| address(i).to_le_bytes()).collect();
    params.resize(64, 0);
    params.extend(map);
    let mut x = x.to_vec();
    let ranges = [("x", bytemuck::cast_slice_mut(&mut x), Rights::Read), ("y", y, Rights::Update)];
    let mut windows = ranges.map(|(name, data, access)| Buffer { name, at: 0, data, blank: &mut [], access });
    let grid = Grid { grid: [1; 3], block: [128, 1, 1], shared_bytes: 0 };
    let options = RunOptions { checks: true, count: true, order, patience: 1 << 20, ..RunOptions::default() };
    launch(&program, "k", grid, &params, &mut windows, options)
}

#[test]
fn boxes_arrive_swizzled_and_filled_with_zeros() {
    for swizzle in Swizzle::ALL {
        let (x, map) = images(swizzle);
        let [c, w, h, n] = [0, 1, 2, 3].map(|axis| map.extents[axis] as i64);
        let mut y = vec![0; 2 * BOX];
        assert_eq!(map.bytes(), BOX);
        let bits = tensor_map(&map, address(0)).unwrap();
        let counters = run(&TWICE.replace("BYTES", "8192"), &x, &mut y, &bits, BlockOrder::Forward)
            .unwrap_or_else(|e| panic!("{e}"));
        let mut read = 0;
        for (time, y) in y.chunks(BOX).enumerate() {
            for i in 0..BOX / 2 {
                let mut rest = i as i64;
                let corner = [0, -1, time as i64, 0];
                let at: Vec<i64> = (0..4)
                    .map(|axis| {
                        let window = map.window[axis] as i64;
                        let k = corner[axis] + rest % window;
                        rest /= window;
                        k
                    })
                    .collect();
                let inside = (0..4).all(|axis| (0..map.extents[axis] as i64).contains(&at[axis]));
                let want = if inside { x[(((at[3] * h + at[2]) * w + at[1]) * c + at[0]) as usize] } else { 0 };
                let place = swizzle.place(2 * i);
                let got = u16::from_le_bytes([y[place], y[place + 1]]);
                assert_eq!(got, want, "{swizzle:?}, copy {time}, {at:?}");
                read += 2 * inside as u64;
            }
        }
        assert!(n == 2 && read > 0);
        assert_eq!(counters.read_bytes, read, "{swizzle:?}");
    }
}

#[test]
fn planted_bugs_are_found() {
    use FaultKind::*;
    let (x, map) = images(Swizzle::By128);
    let right = TWICE.replace("BYTES", "8192");
    let copy = "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [s], [%d4, {0, -1, %r9, 0}], [m];";
    let wait = "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [m], %r9; @!%p2 bra WAIT;";
    let fence = "fence.mbarrier_init.release.cluster;";
    let end = "bar.sync 0;\n@%p3 bra NEXT;";
    let other = format!("xor.b32 %r10, %r9, 1; {}", wait.replace("[m], %r9", "[m], %r10"));
    let twice = format!("{copy} {copy}");
    let cases: Vec<(&str, &str, &str, Option<FaultKind>)> = vec![
        ("right", "ret;", "ret;", None),
        ("right, another fence", fence, "fence.proxy.async;", None),
        ("not waited for", wait, "", Some(Async)),
        ("waited for the other parity", wait, &other, Some(Async)),
        ("one parity for ever", "[m], %r9;", "[m], 0;", Some(Async)),
        (
            "waited for by one warp",
            wait,
            "setp.ge.u32 %p4, %r2, 32; @%p4 bra GO; WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [m], %r9; @!%p2 bra WAIT; GO:",
            Some(Race),
        ),
        ("too few bytes expected", "[m], 8192", "[m], 8176", Some(Async)),
        ("bytes that never arrive", "[m], 8192", "[m], 8208", Some(Endless)),
        ("no bytes expected", ".expect_tx.shared::cta.b64 _, [m], 8192", ".shared::cta.b64 _, [m]", Some(Async)),
        ("no copy", copy, "", Some(Endless)),
        ("an mbarrier that copies do not know", fence, "", Some(Async)),
        (
            "a fence of another thread",
            fence,
            "INITIALISED: setp.eq.u32 %p4, %r2, 64; @%p4 fence.mbarrier_init.release.cluster;",
            Some(Async),
        ),
        (
            "an mbarrier that was not initialised",
            "[%d4, {0, -1, %r9, 0}], [m]",
            "[%d4, {0, -1, %r9, 0}], [s+64]",
            Some(Async),
        ),
        ("no barrier before the next copy", end, "@%p3 bra NEXT;", Some(Race)),
        ("two copies to one place", copy, &twice, Some(Async)),
        (
            "ends with a copy on its way",
            "ret;",
            "@%p1 bra END; mbarrier.expect_tx.shared::cta.b64 [m], 8192; COPY END: ret;",
            Some(Async),
        ),
        ("one that ends its mbarrier", "STARTED:", "@!%p1 mbarrier.inval.shared::cta.b64 [m]; STARTED:", Some(Async)),
        ("to half an atom", "bytes [s],", "bytes [s+512],", Some(Misaligned)),
        ("past the end", "bytes [s],", "bytes [s+2048],", Some(OutOfBounds)),
        (
            "another rank",
            "4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [s], [%d4, {0, -1, %r9, 0}]",
            "3d.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%d4, {0, -1, %r9}]",
            Some(Async),
        ),
        ("a tensor map from memory", "cvta.param.u64 %d4, %d3;", "mov.u64 %d4, %d1;", Some(Async)),
        (
            "a tensor map from beside it",
            "cvta.param.u64 %d4, %d3;",
            "cvta.param.u64 %d4, %d3; sub.s64 %d4, %d4, 64;",
            Some(Async),
        ),
    ];
    for (label, from, to, want) in cases {
        let (ptx, to) = (&right, to.replace("COPY", copy));
        assert!(ptx.contains(from), "{label}");
        // The label moves along.
        let ptx = ptx.replacen(from, &to, 1);
        let ptx = if to.starts_with("INITIALISED:") { ptx.replacen("\nINITIALISED: bar", "\nbar", 1) } else { ptx };
        for order in [BlockOrder::Forward, BlockOrder::Reverse, BlockOrder::Shuffled(3)] {
            let bits = tensor_map(&map, address(0)).unwrap();
            let found = run(&ptx, &x, &mut vec![0; 2 * BOX], &bits, order).err();
            let kind = found.as_ref().map(|f| f.kind);
            // What is read too early may be on its way, not even that, or there by luck: it depends on the order of warps.
            let early = |kind| matches!(kind, Some(Async | Race | Unwritten));
            let same = kind == want || early(kind) && early(want);
            assert!(same, "{label}, {order:?}: {want:?} expected, {found:?} found");
        }
    }
    // A tensor that is larger than its operand, and one behind it.
    for wrong in [TensorMap { extents: vec![64, 5, 4, 2], ..map.clone() }, map.clone()] {
        let address = address(0) + if wrong == map { 3 * 128 } else { 0 };
        let bits = tensor_map(&wrong, address).unwrap();
        let found = run(&right, &x, &mut vec![0; 2 * BOX], &bits, BlockOrder::Forward).unwrap_err();
        assert_eq!(found.kind, OutOfBounds, "{found}");
    }
}

/// A and B, 64 rows of 64 numbers each, copied as they lie and multiplied by descriptors of the same swizzle.
#[test]
fn products_of_what_was_copied() {
    let d: Vec<String> = (0..32).map(|i| format!("%f{i}")).collect();
    let steps = (0..4).map(|k| {
        format!(
            "add.s64 %d8, %d6, {0}; add.s64 %d9, %d7, {0};
wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{1}}}, %d8, %d9, %p{2}, 1, 1, 0, 0;\n",
            2 * k,
            d.join(","),
            if k == 0 { 4 } else { 5 }
        )
    });
    let store = (0..32).map(|i| format!("st.global.f32 [%d11+{}], %f{i};\n", 4 * i));
    // 1024 bytes from one group of eight rows to the next, and swizzle by 128.
    let descriptor = 64u64 << 32 | 1 << 62;
    let ptx = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64
.visible .entry k(.param .u64 x, .param .u64 y, .param .align 64 .b8 map[128]) .maxntid 128 {{
.reg .pred %p<9>; .reg .f32 %f<33>; .reg .b32 %r<20>; .reg .b64 %d<20>;
.shared .align 1024 .b8 s[16384]; .shared .align 8 .b8 m[8];
ld.param.u64 %d2, [y]; mov.b64 %d3, map; cvta.param.u64 %d4, %d3; mov.u32 %r2, %tid.x; mul.wide.u32 %d5, %r2, 128;
add.s64 %d11, %d2, %d5; setp.ne.u32 %p1, %r2, 0; @%p1 bra STARTED;
mbarrier.init.shared::cta.b64 [m], 1; fence.mbarrier_init.release.cluster;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [m], 16384;
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [s], [%d4, {{0, 0}}], [m];
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [s+8192], [%d4, {{0, 64}}], [m];
STARTED: bar.sync 0; WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [m], 0; @!%p2 bra WAIT;
mov.u64 %d6, {descriptor}; add.s64 %d7, %d6, 512; setp.eq.u32 %p5, %r2, %r2; setp.ne.u32 %p4, %r2, %r2;
wgmma.fence.sync.aligned;
{}wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
{}ret; }}",
        steps.collect::<String>(),
        store.collect::<String>()
    );
    let number = |row: usize, k: usize| ((row * 37 + k * 101 + row * k) % 17) as i32 - 8;
    let x: Vec<u16> = (0..128 * 64).map(|i| bf16::from_f32(number(i / 64, i % 64) as f32).to_bits()).collect();
    let map = TensorMap {
        item: 2,
        extents: vec![64, 128],
        strides: vec![128],
        window: vec![64, 64],
        swizzle: Swizzle::By128,
    };
    let mut y = vec![0f32; 64 * 64];
    let bits = tensor_map(&map, address(0)).unwrap();
    run(&ptx, &x, bytemuck::cast_slice_mut(&mut y), &bits, BlockOrder::Forward).unwrap_or_else(|e| panic!("{e}"));
    for (i, got) in y.iter().enumerate() {
        let (thread, v) = (i / 32, i % 32);
        let (row, column) = (thread / 32 * 16 + thread % 32 / 4 + v / 2 % 2 * 8, v / 4 * 8 + thread % 4 * 2 + v % 2);
        let want: i32 = (0..64).map(|k| number(row, k) * number(64 + column, k)).sum();
        assert_eq!(*got, want as f32, "row {row}, column {column}");
    }
}
