/*! Import once, map for ever: reads a file of another program and writes one of ours. The foreign file is mapped, each
tensor is seen in our layout ([`super::strided`]) and streamed out a few rows at a time, so that the peak of memory is the
file and a few megabytes. What is written has been looked at: every value is finite, every shape is the network's. */

use super::LAYOUT;
use super::foreign::{self, Archive, Array, ArrayData, Format, zip};
use super::header::{self, shape as show};
use super::mapping::Mapping;
use super::names::{Lineage, NamedTensor, Recognised, recognise, unwrapped};
use super::store::{Narrow, Store, What, scale_name};
use super::strided::{Axes, Strided};
use super::sums;
use super::tower::{Allow, Matched};
use super::write::{Entry, write};
use super::{declared, origin, shards};
use crate::error::{Error, Result};
use crate::preprocess::Preprocess;
use crate::progress::Progress;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

/// A file of any format, mapped, and what its tensors are called here.
pub struct Foreign {
    mapping: Mapping,
    /// The files of [`Archive::beside`].
    beside: Vec<Mapping>,
    archive: Archive,
    kind: Recognised,
    /// In the writer's order.
    sources: Vec<NamedTensor>,
    /// By the writer's name: bytes of the scales of 8-bit values ([`super::store`]).
    scales: BTreeMap<String, Range<usize>>,
}

/// What becomes of batch norm behind a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// It stays a layer of its own.
    Keep,
    /// It becomes part of the convolution: `w γ/√(σ²+ε)`, `(b-μ) γ/√(σ²+ε) + β`.
    Fold { eps: f64 },
}

/// Metadata keys that an import writes: where the weights came from.
pub const SOURCE_FORMAT: &str = "source_format";
/// SHA-256 of the whole foreign file, in hexadecimal; where values lie in files beside it, of all one behind the other.
pub const SOURCE_SHA256: &str = "source_sha256";

impl Foreign {
    /// Maps `path` and takes it apart, whatever its name ends in.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(Mapping::open(path.as_ref())?)
    }

    /// The same for bytes inside the program; `name` stands for the path in messages.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::new(Mapping::of_static(name, bytes))
    }

    fn new(mapping: Mapping) -> Result<Self> {
        let (path, bytes) = (mapping.path(), mapping.bytes());
        let mut scales = BTreeMap::new();
        let (mut archive, beside) = match foreign::sniff(bytes) {
            Ok(Format::Safetensors) => {
                let mut header = header::parse(path, bytes)?;
                if let Some(sums) = sums::take(path, bytes, &mut header)? {
                    header.tensors.iter().try_for_each(|t| sums.check(path, bytes, t))?;
                }
                (of_safetensors(header, &mut scales), Vec::new())
            }
            Ok(Format::Shards) => shards::read(path, bytes)?,
            Ok(format) => {
                let archive = foreign::read(format, bytes).map_err(|f| f.error(path))?;
                let beside = shards::beside(path, &archive.beside)?;
                (archive, beside)
            }
            Err(fault) => return Err(fault.error(path)),
        };
        for a in &archive.arrays {
            if let ArrayData::Beside(i, r) = &a.place
                && r.end > beside[*i].bytes().len()
            {
                let problem =
                    format!("needs bytes {}..{}, the file ends at {}", r.start, r.end, beside[*i].bytes().len());
                return Err(Error::file(beside[*i].path(), problem)
                    .at(format!("tensor `{}`", a.name))
                    .fix(format!("put the file that belongs to {} there", path.display())));
            }
        }
        let listed: Vec<(&str, &[usize])> = archive.arrays.iter().map(|a| (&a.name[..], &a.shape[..])).collect();
        if recognise(&listed, &archive.notes).0.lineage != Lineage::Ours
            && let Some((names, said)) = unwrapped(&listed, &archive.notes)
        {
            archive.arrays.iter_mut().zip(names).for_each(|(a, name)| {
                if let Some(own) = scales.remove(&a.name) {
                    scales.insert(name.clone(), own);
                }
                a.name = name;
            });
            archive.notes.insert("prefix".into(), said);
        }
        let listed: Vec<(&str, &[usize])> = archive.arrays.iter().map(|a| (&a.name[..], &a.shape[..])).collect();
        let (kind, sources) = recognise(&listed, &archive.notes);
        Ok(Self { mapping, beside, archive, kind, sources, scales })
    }

    /// This file and those beside it.
    fn files(&self) -> impl Iterator<Item = &Mapping> {
        std::iter::once(&self.mapping).chain(&self.beside)
    }

    /// Fails if one of its files was changed since it was opened.
    fn unchanged(&self) -> Result<()> {
        self.files().try_for_each(Mapping::unchanged)
    }

    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// Length of the file in bytes, with those beside it.
    pub fn len(&self) -> usize {
        self.files().map(|f| f.bytes().len()).sum()
    }

    /// Never: an empty file is not opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn format(&self) -> Format {
        self.archive.format
    }

    pub fn kind(&self) -> &Recognised {
        &self.kind
    }

    /// What the file says about itself.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.archive.notes
    }

    /// Every array as the writer named it, and under our name.
    pub fn arrays(&self) -> impl ExactSizeIterator<Item = (&Array, &NamedTensor)> {
        self.archive.arrays.iter().zip(&self.sources)
    }

    /// Shape of a parameter of ours, in our layout.
    pub fn shape(&self, ours: &str) -> Option<&[usize]> {
        self.sources.iter().find(|s| s.ours == ours).map(|s| &s.shape[..])
    }

    /// How its pictures were prepared: what it states, else what its lineage implies, else None. Caffe's numbers go round
    /// under torchvision's names: the first filters tell ([`origin`]).
    pub fn preprocess(&self) -> Result<Option<Preprocess>> {
        let implied = declared::preprocessing(self.path(), &self.archive.notes, &self.kind)?;
        let torch = matches!(self.kind.lineage, Lineage::Torchvision | Lineage::Timm);
        if !torch || declared::any(&self.archive.notes) {
            return Ok(implied);
        }
        let filters = match self.shape(origin::LAYER) {
            Some(_) => self.values(origin::LAYER)?,
            None => return Ok(implied),
        };
        // A VGG whose dense layers are counted as AlexNet's was converted from Caffe; unless its filters say so, who knows.
        let converted = self.kind.network.is_some() && self.sources.iter().any(|s| s.theirs == "classifier.1.weight");
        match origin::of(&filters) {
            origin::Origin::Other if converted => Ok(None),
            origin::Origin::Caffe => Preprocess::preset("caffe").map(Some),
            origin::Origin::Unclear => Ok(None),
            origin::Origin::Other => Ok(implied),
        }
    }

    /// Calls `f` with an array in our layout; packed ones are unpacked for as long as that takes.
    pub fn view<T>(&self, array: &Array, axes: &Axes, f: impl FnOnce(Strided) -> T) -> Result<T> {
        self.unchanged()?;
        let refuse = |problem: String| {
            Err(Error::file(self.path(), problem).at(format!("tensor `{}`", array.name)).fix("save it as float32"))
        };
        let bytes = self.bytes(array)?;
        let scales = self.scales.get(&array.name).map(|r| &self.mapping.bytes()[r.clone()]);
        let Some(view) = Strided::scaled(&bytes, array.dtype, &array.shape, &array.strides, scales) else {
            let types = "F32, F16, BF16, F64 and I8 with scales are";
            return refuse(format!("{} values are no weights: {types}", array.dtype));
        };
        match view.by(axes) {
            Some(view) => Ok(f(view)),
            None => refuse(format!("its shape {} is no layer's", show(&array.shape))),
        }
    }

    /// How many scales an array of 8-bit values has.
    pub fn scales_of(&self, array: &Array) -> Option<usize> {
        self.scales.get(&array.name).map(|r| r.len() / 4)
    }

    fn bytes(&self, array: &Array) -> Result<Cow<'_, [u8]>> {
        let all = self.mapping.bytes();
        match &array.place {
            ArrayData::Mapped(r) => Ok(Cow::Borrowed(&all[r.clone()])),
            ArrayData::Beside(i, r) => Ok(Cow::Borrowed(&self.beside[*i].bytes()[r.clone()])),
            ArrayData::Packed(n, unpack) => match unpack(all).map_err(|f| f.error(self.path()))? {
                b if b.len() == *n => Ok(Cow::Owned(b)),
                b => Err(Error::file(self.path(), format!("{} bytes unpacked, {n} announced", b.len()))
                    .at(format!("tensor `{}`", array.name))
                    .fix("fetch it anew, or save it without compression")),
            },
        }
    }

    fn find(&self, ours: &str) -> Result<(&Array, &NamedTensor)> {
        self.arrays().find(|a| a.1.ours == ours).ok_or_else(|| {
            Error::file(self.path(), format!("no tensor for parameter `{ours}`"))
                .fix("`deep-affect weights inspect` lists what the file holds")
        })
    }

    /// All values of a small parameter as [`Foreign::write`] writes them.
    pub fn parameter(&self, ours: &str, norm: Norm) -> Result<Vec<f32>> {
        let scales = self.scales(norm)?;
        let mut out = vec![];
        match ours.strip_suffix(".bias").and_then(|l| scales.get(l)) {
            Some(folded) => return Ok(folded.bias.clone()),
            None => self.stream(ours, &scales, &mut out)?.map_err(|e| Error::io(self.path(), "read the weights", e))?,
        }
        Ok(bytemuck::pod_collect_to_vec(&out))
    }

    /// All values of a small parameter as the file has them.
    fn values(&self, ours: &str) -> Result<Vec<f32>> {
        let (array, source) = self.find(ours)?;
        let values = self.view(array, &source.axes, |v| {
            let mut out = vec![0.0; v.numel()];
            v.read(&mut out);
            out
        })?;
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(not_finite(self.path(), array)),
        }
    }

    /// Fails unless the file gives exactly what a network wants: `wanted` are our names and shapes. The dense layers may
    /// all be missing (a file without its classifier); counters that nothing computes with may be there.
    pub fn check(&self, wanted: &[(String, Vec<usize>)], norm: Norm) -> Result<()> {
        if let Some(trouble) = &self.kind.trouble {
            return Err(Error::file(self.path(), trouble));
        }
        let used = self.sources.iter().filter(|s| {
            let folded = matches!(norm, Norm::Fold { .. }) && s.ours.starts_with("norm");
            !folded && !s.ours.ends_with(".num_batches_tracked")
        });
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for s in used.clone() {
            if let Some(first) = seen.insert(&s.ours, &s.theirs) {
                let problem = format!("`{first}` and `{}` are both {}", s.theirs, s.ours);
                return Err(Error::file(self.path(), problem).fix("remove one of them"));
            }
        }
        let have = used.map(|s| (s.ours.clone(), s.shape.clone()));
        let dense = |name: &str| name.starts_with("fc");
        let top = self.sources.iter().any(|s| dense(&s.ours));
        let wanted: Vec<_> = wanted.iter().filter(|w| top || !dense(&w.0)).cloned().collect();
        Matched::new(self.path(), &self.kind, have, &wanted).require(Allow::default())
    }

    /// Writes `out`: the wanted parameters in our layout as `store` has them, `metadata` and where it all came from. Call
    /// [`Foreign::check`] first. The sums of a zip archive's entries are checked here, once. Returns [`SOURCE_SHA256`].
    pub fn write(
        &self,
        out: &Path,
        wanted: &[(String, Vec<usize>)],
        norm: Norm,
        store: Store,
        metadata: &BTreeMap<String, String>,
        progress: &dyn Progress,
    ) -> Result<String> {
        let wanted: Vec<_> = wanted.iter().filter(|w| self.shape(&w.0).is_some() || self.folded(&w.0, norm)).collect();
        // Before the sum reads every page.
        self.unchanged()?;
        progress.start("import", wanted.len() as u64 + 1);
        zip::verify(self.mapping.bytes()).map_err(|f| f.error(self.path()))?;
        let mut digest = Sha256::new();
        self.files().for_each(|f| digest.update(f.bytes()));
        let digest: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
        progress.inc();
        // The writer knows only input and output errors: what is wrong with the foreign file waits here.
        let blame: RefCell<Option<Error>> = RefCell::default();
        let scales = self.scales(norm)?;
        let stream = |(name, shape): &(String, Vec<usize>), what: What| {
            let (name, shape, blame, scales) = (name.clone(), shape.clone(), &blame, &scales);
            move |w: &mut dyn io::Write| -> io::Result<()> {
                let told = |e: Error| {
                    *blame.borrow_mut() = Some(e);
                    io::Error::other("the foreign file is to blame")
                };
                let mut w = Narrow::new(w, store.dtype(&shape), what, &shape);
                match name.strip_suffix(".bias").and_then(|l| scales.get(l)) {
                    Some(folded) => w.write_all(bytemuck::cast_slice(&folded.bias))?,
                    None => self.stream(&name, scales, &mut w).map_err(&told)??,
                }
                if what == What::Values {
                    progress.inc();
                }
                w.flush()
            }
        };
        let streams: Vec<_> = wanted.iter().map(|w| stream(w, What::Values)).collect();
        let narrow: Vec<_> = wanted.iter().filter(|w| store.dtype(&w.1) == Dtype::I8).collect();
        let scale_streams: Vec<_> = narrow.iter().map(|w| stream(w, What::Scales)).collect();
        let values = wanted.iter().zip(&streams).map(|(w, s)| Entry::stream(&w.0, store.dtype(&w.1), &w.1, s));
        let filters = narrow.iter().zip(&scale_streams);
        let filters = filters.map(|(w, s)| Entry::stream(&scale_name(&w.0), Dtype::F32, &w.1[..1], s));
        let entries: Vec<Entry> = values.chain(filters).collect();
        let mut metadata = metadata.clone();
        metadata.insert(LAYOUT.into(), "KRSC".into());
        metadata.insert(SOURCE_FORMAT.into(), self.format().name().into());
        metadata.insert(SOURCE_SHA256.into(), digest.clone());
        let written = write(out, &metadata, &entries);
        progress.done();
        drop(entries);
        drop(streams);
        drop(scale_streams);
        match blame.into_inner() {
            Some(e) => Err(e),
            None => written.map(|()| digest),
        }
    }

    /// A bias that only folding makes.
    fn folded(&self, name: &str, norm: Norm) -> bool {
        let norm_of = name.strip_prefix("conv").and_then(|l| l.strip_suffix(".bias")).map(|l| format!("norm{l}.bias"));
        matches!(norm, Norm::Fold { .. }) && norm_of.is_some_and(|n| self.shape(&n).is_some())
    }

    /// One tensor. The outer error is the foreign file's.
    fn stream(&self, name: &str, scales: &BTreeMap<String, Folded>, w: &mut dyn io::Write) -> Result<io::Result<()>> {
        let (array, source) = self.find(name)?;
        let scale = name.strip_suffix(".weight").and_then(|l| scales.get(l));
        let mut finite = true;
        let written = self.view(array, &source.axes, |view| {
            view.write(w, |first, block| {
                if let Some(folded) = scale {
                    let row = source.shape[1..].iter().product::<usize>().max(1);
                    for (row, s) in block.chunks_mut(row).zip(&folded.scale[first..]) {
                        row.iter_mut().for_each(|x| *x = (f64::from(*x) * s) as f32);
                    }
                }
                finite &= block.iter().fold(true, |ok, x| ok & x.is_finite());
                if finite { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
            })
        })?;
        if finite { Ok(written) } else { Err(not_finite(self.path(), array)) }
    }

    /// By convolution: what folding its batch norm does to each filter.
    fn scales(&self, norm: Norm) -> Result<BTreeMap<String, Folded>> {
        let mut all = BTreeMap::new();
        let Norm::Fold { eps } = norm else { return Ok(all) };
        for s in &self.sources {
            let Some(layer) = s.ours.strip_prefix("norm").and_then(|n| n.strip_suffix(".running_var")) else {
                continue;
            };
            let [var, mean, gamma, beta] = ["running_var", "running_mean", "weight", "bias"]
                .map(|part| self.values(&format!("norm{layer}.{part}")));
            let (var, mean, gamma, beta) = (var?, mean?, gamma?, beta?);
            let conv = format!("conv{layer}");
            let bias = match self.shape(&format!("{conv}.bias")) {
                Some(_) => self.values(&format!("{conv}.bias"))?,
                None => vec![0.0; var.len()],
            };
            let filters = self.shape(&format!("{conv}.weight")).and_then(|s| s.first().copied());
            if [mean.len(), gamma.len(), beta.len(), bias.len()].iter().any(|n| *n != var.len())
                || filters != Some(var.len())
            {
                return Err(Error::file(
                    self.path(),
                    format!("the batch norm behind `{conv}` has not one value a filter"),
                )
                .at(format!("tensor `{}`", s.theirs))
                .fix("give the file of the same network"));
            }
            let scale: Vec<f64> =
                var.iter().zip(&gamma).map(|(v, g)| f64::from(*g) / (f64::from(*v) + eps).sqrt()).collect();
            let bias = (0..var.len()).map(|k| {
                let shifted = f64::from(bias[k]) - f64::from(mean[k]);
                (shifted * scale[k] + f64::from(beta[k])) as f32
            });
            let bias: Vec<f32> = bias.collect();
            if !scale.iter().all(|s| s.is_finite()) || !bias.iter().all(|b| b.is_finite()) {
                return Err(Error::file(self.path(), format!("folding the batch norm behind `{conv}` overflows"))
                    .at(format!("tensor `{}`", s.theirs))
                    .fix("its variance is not positive: give a file that was trained to the end"));
            }
            all.insert(conv, Folded { scale, bias });
        }
        Ok(all)
    }
}

/// A convolution's filters are multiplied by `scale` and get `bias`.
struct Folded {
    scale: Vec<f64>,
    bias: Vec<f32>,
}

fn not_finite(path: &Path, array: &Array) -> Error {
    Error::file(path, "has NaN or infinite values")
        .at(format!("tensor `{}`", array.name))
        .fix("use a file whose weights were trained to the end; some distributions fill the classifier with NaN")
}

fn of_safetensors(header: header::Header, scales: &mut BTreeMap<String, Range<usize>>) -> Archive {
    scales.extend(header.tensors.iter().filter_map(|t| Some((t.name.clone(), t.scales.clone()?))));
    let array = |t: header::Info| Array {
        strides: foreign::row_major(&t.shape),
        name: t.name,
        dtype: t.dtype,
        shape: t.shape,
        place: ArrayData::Mapped(t.range),
    };
    Archive {
        format: Format::Safetensors,
        arrays: header.tensors.into_iter().map(array).collect(),
        notes: header.metadata,
        beside: Vec::new(),
    }
}
