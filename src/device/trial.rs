/*! Whether products of warpgroups (`kernels/sm90`) may be trusted on a GPU: they may once they have agreed there with the portable
kernels, in a process of its own, because a kernel that hangs or breaks its process must not take another one with it. The verdict is
kept in `trials` of the cache folder, for a kind of GPU, a driver, a compiler and these kernels; with others it is asked for again. */

use super::cuda::Cuda;
use super::gpu::Driver;
use super::tuning::file;
use super::{Checks, Data, Gpu, Session, cuda};
use crate::atomic;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::launch::choices::{Product, Tiles};
use crate::launch::{Arch, Choices, Code, Products, Warpgroups};
use crate::nvrtc::{self, Cache, Target};
use crate::ops::conv::{Dgrad, Fprop, FusedBackward};
use crate::plan::{Options, Plan};
use crate::progress;
use crate::rng::{Rng, Stream};
use crate::shape::{ConvShape, DType, Type, Window};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How another process tries the kernels, which calls [`run`] and prints [`Verdict::line`].
#[derive(Clone, Copy)]
pub struct Try {
    /// By the ordinal of the GPU; None where that process cannot be started.
    pub command: fn(usize) -> Option<Command>,
    /// What it may take, compiling included.
    pub limit: Duration,
}

static TRY: OnceLock<Try> = OnceLock::new();

/// Lets devices of this process have kernels tried. Without this they believe what other processes have kept. The first call
/// counts.
pub fn by(how: Try) {
    let _ = TRY.set(how);
}

/// What a trial found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Why the kernels are not used; None where they agreed.
    refused: Option<String>,
}

const AGREED: &str = "agreed";
const REFUSED: &str = "refused: ";

impl Verdict {
    /// As the process that tries says it.
    pub fn line(&self) -> String {
        self.refused.as_ref().map_or(AGREED.into(), |why| format!("{REFUSED}{why}"))
    }
    fn parse(text: &str) -> Option<Self> {
        let one = |line: &str| match line.strip_prefix(REFUSED) {
            Some(why) => Some(Self { refused: Some(why.into()) }),
            None => (line == AGREED).then_some(Self { refused: None }),
        };
        text.lines().find_map(one)
    }
}

/// A verdict, and what it is about.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// [`super::GpuSpec::model`].
    device: String,
    /// CUDA of the driver, and of the compiler or `exported`.
    driver: String,
    compiler: String,
    /// Names their sources.
    kernels: String,
    program: String,
    verdict: Verdict,
}

impl Record {
    fn new(device: &str, verdict: Verdict) -> Result<Self> {
        Ok(Self {
            device: device.into(),
            driver: cuda::driver()?.to_string(),
            compiler: nvrtc::available().map_or("exported".into(), |v| v.to_string()),
            kernels: nvrtc::fingerprint("sm90/conv.cu")?,
            program: env!("CARGO_PKG_VERSION").into(),
            verdict,
        })
    }

    /// What is kept about the same: of anything else, and of a damaged file, nothing.
    fn kept(self) -> Option<Verdict> {
        let bytes = Cache::open().beside("trials")?.bytes(&file(&self.device))?;
        let kept: Self = serde_json::from_slice(&bytes).ok()?;
        let verdict = kept.verdict.clone();
        (Self { verdict: verdict.clone(), ..self } == kept).then_some(verdict)
    }

    fn keep(&self) -> Result<()> {
        let Some(cache) = Cache::open().beside("trials") else { return Ok(()) };
        cache.make()?;
        let Some(folder) = cache.folder() else { return Ok(()) };
        let json = serde_json::to_string_pretty(self).expect("plain data") + "\n";
        atomic::write_own(folder.join(file(&self.device)), |w| w.write_all(json.as_bytes()))
    }
}

/// Whether products of warpgroups may be used on a GPU of this model; a remark where they may not.
pub(super) fn trusted(ordinal: usize, model: &str) -> bool {
    static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("no panic while it is held");
    *known.entry(model.into()).or_insert_with(|| {
        let said = |why: &str| {
            progress::watcher().note(&format!("convolutions by the portable kernels: Hopper's own {why}"));
            false
        };
        match verdict(ordinal, model) {
            Ok(Some(Verdict { refused: None })) => true,
            Ok(Some(Verdict { refused: Some(why) })) => said(&format!("were tried and are not used: {why}")),
            Ok(None) => said("were not tried on this GPU yet: `deep-affect` does that before it computes in bf16"),
            Err(e) => said(&format!("were not tried: {e}")),
        }
    })
}

fn verdict(ordinal: usize, model: &str) -> Result<Option<Verdict>> {
    let record = |verdict| Record::new(model, verdict);
    if let Some(kept) = record(Verdict { refused: None })?.kept() {
        return Ok(Some(kept));
    }
    let Some(how) = TRY.get() else { return Ok(None) };
    let Some(command) = (how.command)(ordinal) else { return Ok(None) };
    let found = tried(command, how.limit)?;
    if let Err(e) = record(found.clone())?.keep() {
        progress::watcher().note(&format!("kernels are tried again next time: {e}"));
    }
    Ok(Some(found))
}

/// What another process says; one that hangs or is broken is a refusal, one that could not begin is an error.
fn tried(mut command: Command, limit: Duration) -> Result<Verdict> {
    let wrong = |e: std::io::Error| Error::job(format!("cannot start a process: {e}"));
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(wrong)?;
    let refused = |why: String| Ok(Verdict { refused: Some(why) });
    let Some(status) = ended(&mut child, limit).map_err(wrong)? else {
        return refused(format!("they did not end within {} s", limit.as_secs_f64()));
    };
    let [mut said, mut error] = [String::new(), String::new()];
    let read = |from: Option<&mut dyn Read>, to: &mut String| from.map(|f| f.read_to_string(to));
    let _ = (
        read(child.stdout.as_mut().map(|o| o as _), &mut said),
        read(child.stderr.as_mut().map(|e| e as _), &mut error),
    );
    match (Verdict::parse(&said), status.code()) {
        (Some(verdict), _) => Ok(verdict),
        (None, None) if !stopped(status) => refused(format!("they broke their process ({status})")),
        (None, None) => Err(Error::job(format!("their process was ended ({status})"))),
        (None, Some(_)) => {
            let last = error.lines().last().unwrap_or_default();
            Err(Error::job(last.strip_prefix("error: ").unwrap_or(last)))
        }
    }
}

/// Whether somebody else ended a process: by SIGHUP, SIGINT, SIGKILL or SIGTERM.
fn stopped(status: ExitStatus) -> bool {
    #[cfg(unix)]
    let by = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let by = status.code();
    by.is_some_and(|by| [1, 2, 9, 15].contains(&by))
}

/// How a process ended; one that does not within the limit is ended, and None.
fn ended(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    const LOOK: Duration = Duration::from_millis(10);
    let until = |limit: Duration, child: &mut Child| -> std::io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            match child.try_wait()? {
                None if Instant::now() < end => thread::sleep(LOOK),
                status => return Ok(status),
            }
        }
    };
    let status = until(limit, child)?;
    if status.is_none() {
        child.kill()?;
        // A driver may keep it for a while; nobody waits for that.
        until(Duration::from_secs(5), child)?;
    }
    Ok(status)
}

/// The widths of blocks, which are those of the kernel.
const WIDTHS: [usize; 3] = [64, 128, 256];

/// Convolutions of every variant: fprop with bias and ReLU, dgrad with the mask of a ReLU. Sides that no box divides, more steps
/// than stages.
struct Convolutions {
    g: Graph,
    ins: Vec<Value>,
    outs: Vec<Value>,
}

const CHANNELS: usize = 64;
/// Products that are summed for a result.
const DEPTH: usize = 9 * CHANNELS;

impl Convolutions {
    fn new(images: usize) -> Result<Self> {
        let (window, [h, w]) = (Window::square(3, 1, 1), [5, 7]);
        let of = |dims: &[usize]| Type::new(DType::BF16, dims);
        let mut g = Graph::default();
        let x = g.state("x", of(&[images, h, w, CHANNELS]));
        let (mut ins, mut outs) = (vec![x], vec![]);
        for n in WIDTHS {
            let mut state = |name: &str, t: Type| {
                ins.push(g.state(&format!("{name}{n}"), t));
                *ins.last().expect("pushed")
            };
            let filters = state("w", of(&[n, 3, 3, CHANNELS]));
            let back = state("v", of(&[CHANNELS, 3, 3, n]));
            let (bias, mask) = (state("b", Type::f32(&[n])), state("m", of(&[images, h, w, n])));
            let fprop = Fprop { filters: n, window, groups: 1, bias: true, relu: true };
            outs.push(g.push1(fprop, &[x, filters, bias]));
            let shape = ConvShape::new(&[images, h, w, n], CHANNELS, window, 1)?;
            outs.push(g.push1(Dgrad { shape, fused: FusedBackward::Relu }, &[x, back, mask]));
        }
        Ok(Self { g, ins, outs })
    }

    /// Blocks as wide as there are filters.
    fn tiles(&self) -> Result<Tiles> {
        let choices = Choices { warpgroups: Warpgroups::Everything, ..Choices::default() };
        let plan = Plan::new(&self.g, &self.outs, OPTIONS)?;
        let product = |code: Code| match code {
            Code::Kernel(call) => call.product,
            _ => None,
        };
        let wide = |p: Product| {
            let candidates = p.candidates(&choices.limits);
            let tile = candidates.into_iter().find(|v| p.kernel.constant(v, "BN") == Some(p.extents[1] as i64))?;
            Some((p.to_string(), p.named(tile)))
        };
        let launches = plan.lower(&self.g, Arch::Gpu(&choices))?;
        let tiles: Tiles = launches.into_iter().filter_map(|s| product(s.launch.code)).filter_map(wide).collect();
        assert_eq!(tiles.len(), 2 * WIDTHS.len(), "a width for each of them");
        Ok(tiles)
    }
}

/// Each by itself, with guard bands: what is written beside a result is found.
const OPTIONS: Options = Options { group: false, fuse: false, guard: 4096, products: Products::Float32 };

/// Numbers by which kernels are compared.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    /// Sums of their products are exact.
    Integers,
    Reals,
    /// Of those reals.
    Magnitudes,
}

fn write(s: &mut Session, ins: &[Value], numbers: Numbers) -> Result<()> {
    for (i, v) in ins.iter().enumerate() {
        let mut rng = Rng::new(1, Stream::Test(i as u32), 0);
        let mut one = || match numbers {
            Numbers::Integers => rng.below(7) as f32 - 3.0,
            Numbers::Reals => 2.0 * rng.uniform() - 1.0,
            Numbers::Magnitudes => (2.0 * rng.uniform() - 1.0).abs(),
        };
        let x: Vec<f32> = (0..s.graph().ty(*v).numel()).map(|_| one()).collect();
        s.write(*v, Data::F32(&x))?;
    }
    Ok(())
}

/// Compares products of warpgroups with the portable kernels on a GPU, for so many images: bit for bit on integers, within what both
/// promise on reals, twice with the same bits.
///
/// # Errors
/// Where the portable kernels do not run: then there is no verdict.
pub fn run(open: impl Fn() -> Result<Cuda>, images: usize) -> Result<Verdict> {
    let gpu = open()?;
    if gpu.target() != Target::HOPPER {
        let text = format!("{} has no kernels of its own to compare", gpu.name());
        return Err(Error::usage(text).fix("use a GPU of the Hopper generation (compute capability 9.0)"));
    }
    let c = Convolutions::new(images)?;
    let session = |gpu: Gpu<Cuda>| Session::new(c.g.clone(), &[&c.outs], OPTIONS, Box::new(gpu));
    let results = |s: &mut Session, numbers| -> Result<Vec<Vec<f32>>> {
        write(s, &c.ins, numbers)?;
        s.run(0)?;
        c.outs.iter().map(|y| s.read(*y)).collect()
    };
    let [whole, reals, sums] = {
        let mut portable = session(Gpu::new(gpu, Checks::Poison, Tiles::default()))?;
        let mut of = |numbers| results(&mut portable, numbers);
        [of(Numbers::Integers)?, of(Numbers::Reals)?, of(Numbers::Magnitudes)?]
    };
    if whole.iter().any(|y| y.iter().all(|y| *y == 0.0 || y.is_nan())) {
        return Err(Error::job("the portable kernels compute nothing"));
    }
    let own = || -> Result<Option<String>> {
        let mut own = session(Gpu::new(open()?, Checks::Poison, c.tiles()?).with_warpgroups())?;
        let exact = |_: f64, _: f64| 0.0;
        // Both are within (K+2) 2^-24 sum|a||b| of the exact number, which is then rounded to 8 bits, as that sum was here.
        let bound = |sum: f64, y: f64| {
            let both = 2.0 * (DEPTH + 3) as f64 * 2f64.powi(-24) * sum * (1.0 + 2f64.powi(-7));
            both + 2f64.powi((y + both).log2().floor() as i32 - 7)
        };
        if let Some(why) = differ(&results(&mut own, Numbers::Integers)?, &whole, &whole, exact) {
            return Ok(Some(format!("{why} of integers")));
        }
        let first = results(&mut own, Numbers::Reals)?;
        if let Some(why) = differ(&first, &reals, &sums, bound) {
            return Ok(Some(why));
        }
        let again = results(&mut own, Numbers::Reals)?;
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|y| y.to_bits()).collect::<Vec<_>>();
        Ok((bits(&first) != bits(&again)).then(|| "two runs have different bits".into()))
    };
    Ok(Verdict { refused: own().unwrap_or_else(|e| Some(e.to_string())) })
}

/// The first result that is farther from the other kernel's than the bound, of a sum of magnitudes and of a result's own, allows.
fn differ(got: &[Vec<f32>], want: &[Vec<f32>], sums: &[Vec<f32>], bound: impl Fn(f64, f64) -> f64) -> Option<String> {
    for (i, ((got, want), sums)) in got.iter().zip(want).zip(sums).enumerate() {
        for (at, ((y, w), sum)) in got.iter().zip(want).zip(sums).enumerate() {
            let (y, w) = (*y as f64, *w as f64);
            // So that NaN differs.
            let within = (y - w).abs() <= bound(*sum as f64, y.abs().max(w.abs()));
            if !within {
                let name = if i % 2 == 0 { "fprop" } else { "dgrad" };
                return Some(format!("{name} by {} filters has {y} where {w} is right, element {at}", WIDTHS[i / 2]));
            }
        }
    }
    None
}
