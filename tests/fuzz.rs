//! Damaged weight files, for as long as you like: every parser, from the fixtures of `tests/foreign` as seeds. Whatever a file
//! holds, it is refused in one line or all its values can be read, in less than a second and without a panic.
//!
//!     FUZZ_SECONDS=30 cargo test --release --test fuzz -- --nocapture
//!
//! Prints the executions and the seed; `FUZZ_SEED` repeats a run. One second each by default.

use deep_affect::rng::{Rng, Stream};
use deep_affect::weights::foreign::{self, Archive, ArrayData, Fault, Format};
use deep_affect::weights::header;
use deep_affect::weights::strided::Strided;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

pub type Parser = fn(&[u8]) -> Result<Archive, Fault>;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn seeds(names: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    names.iter().map(|n| std::fs::read(folder.join(n)).unwrap_or_else(|e| panic!("{n}: {e}"))).collect()
}

/// Numbers on which length checks break.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, i64::MAX as u64, u64::MAX - 7, u64::MAX];

pub fn mutate(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut below = |n: usize| rng.below(n);
    let mut bytes = seeds[below(seeds.len())].clone();
    // Headers, directories and pickles are a small part of a file: most damage is done to its ends.
    for _ in 0..=below(4) {
        if bytes.is_empty() {
            break;
        }
        let n = bytes.len();
        let at = match below(4) {
            0 => below(n),
            1 => below(n.min(4096)),
            2 => below(n.min(256)),
            _ => n - 1 - below(n.min(4096)),
        };
        let run = (1 + below(64)).min(n - at);
        match below(9) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = below(256) as u8,
            2 => bytes[at..at + run].fill([0, 0xff, b'A', 0x80][below(4)]),
            3 => drop(bytes.drain(at..at + run)),
            4 => bytes.truncate(at),
            5 => {
                let copy = bytes[at..at + run].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let (edge, wide) = (EDGES[below(EDGES.len())].to_le_bytes(), [2, 4, 8][below(3)].min(n - at));
                bytes[at..at + wide].copy_from_slice(&edge[..wide]);
            }
            7 => {
                let other = &seeds[below(seeds.len())];
                let from = below(other.len());
                let part = &other[from..(from + run).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => bytes[at] = bytes[at].wrapping_add([1, 255, 16, 128][below(4)]),
        }
    }
    bytes
}

/// Every value that the archive promises.
fn read_all(archive: &Archive, bytes: &[u8]) -> Result<usize, Fault> {
    let mut elements = 0;
    for a in &archive.arrays {
        let unpacked;
        let values = match &a.place {
            ArrayData::Mapped(range) => &bytes[range.clone()],
            ArrayData::Packed(n, unpack) => {
                unpacked = unpack(bytes)?;
                assert_eq!(unpacked.len(), *n, "{}", a.name);
                &unpacked[..]
            }
            // Files beside this one are opened by whoever has its path.
            ArrayData::Beside(..) => continue,
        };
        if let Some(view) = Strided::new(values, a.dtype, &a.shape, &a.strides) {
            let mut out = vec![0.0; view.numel()];
            view.read(&mut out);
            elements += out.len();
        }
    }
    Ok(elements)
}

/// How many executions there were in so many seconds, and what is to be said of them.
pub fn fuzz((name, parse, names): &(&str, Parser, &[&str]), seconds: Duration) -> (u32, String) {
    let seeds = seeds(names);
    for s in &seeds {
        parse(s).and_then(|a| read_all(&a, s)).unwrap_or_else(|f| panic!("{name}: a seed is refused: {f:?}"));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seed = variable("FUZZ_SEED", now);
    let (start, mut runs, mut accepted, mut slowest) = (Instant::now(), 0u32, 0u32, Duration::ZERO);
    while start.elapsed() < seconds || runs == 0 {
        let bytes = mutate(&seeds, &mut Rng::new(seed, Stream::Test(0), runs));
        let one = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| parse(&bytes).and_then(|a| read_all(&a, &bytes))));
        let took = one.elapsed();
        let Ok(result) = result else { panic!("{name}: FUZZ_SEED={seed} run {runs} panicked") };
        assert!(took < Duration::from_secs(1), "{name}: FUZZ_SEED={seed} run {runs} took {took:?}");
        if let Err(f) = &result {
            let line = f.clone().error(Path::new("file")).to_string();
            assert!(!line.contains('\n') && !f.problem.is_empty(), "{name}: FUZZ_SEED={seed} run {runs}: {line}");
        }
        accepted += u32::from(result.is_ok());
        (slowest, runs) = (slowest.max(took), runs + 1);
    }
    assert!(accepted < runs, "{name}: nothing is refused");
    (runs, format!("fuzz {name}: {runs} executions, {accepted} accepted, slowest {slowest:.1?}, FUZZ_SEED={seed}"))
}

fn safetensors(bytes: &[u8]) -> Result<Archive, Fault> {
    let header = header::parse(Path::new("file"), bytes).map_err(|e| Fault::at(0, e.to_string()))?;
    let arrays = header.tensors.into_iter().map(|t| foreign::Array {
        strides: foreign::row_major(&t.shape),
        name: t.name,
        dtype: t.dtype,
        shape: t.shape,
        place: ArrayData::Mapped(t.range),
    });
    Archive { format: Format::Safetensors, arrays: arrays.collect(), notes: header.metadata, beside: Vec::new() }
        .check(bytes.len())
}

/// Whatever the bytes look like, as `weights inspect` does it.
fn anything(bytes: &[u8]) -> Result<Archive, Fault> {
    match foreign::sniff(bytes)? {
        Format::Safetensors => safetensors(bytes),
        format => foreign::read(format, bytes),
    }
}

macro_rules! targets {
    ($($name:ident: $parser:expr, [$($seed:literal),* $(,)?];)*) => {
        /// Names, parsers, seeds.
        pub const TARGETS: &[(&str, Parser, &[&str])] = &[$((stringify!($name), $parser, &[$($seed),*])),*];
        $(#[test] fn $name() {
            let target = TARGETS.iter().find(|t| t.0 == stringify!($name)).unwrap();
            println!("{}", fuzz(target, Duration::from_secs(variable("FUZZ_SECONDS", 1))).1);
        })*
    };
}

targets! {
    safetensors_header: safetensors, ["torchvision.safetensors", "timm.safetensors", "face.safetensors"];
    torch_zip: foreign::torch::read, ["torch.pth", "torch-protocol4.pth", "torch-module.pth", "torch-half.pth"];
    torch_stream: foreign::torch::read, ["torch-legacy.pth", "torch-2017.pth", "torch-face.t7"];
    keras_hdf5: foreign::keras::read, ["keras1.h5", "keras_gzip.h5", "keras.weights.h5", "keras_nested.h5", "keras_bn.weights.h5"];
    keras_zip: foreign::keras::read, ["keras.keras"];
    caffemodel: foreign::caffe::read, ["caffe.caffemodel", "caffe-v1.caffemodel"];
    onnx: foreign::onnx::read, ["tiny.onnx", "torch.onnx"];
    npz: foreign::npy::read, ["ours.npz", "torchvision-compressed.npz", "torchvision.npz"];
    sniffed: anything, ["timm.safetensors", "torch.pth", "torch-2017.pth", "keras1.h5", "caffe.caffemodel", "tiny.onnx", "ours.npz"];
}
