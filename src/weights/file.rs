/*! A mapped weight file. Opening costs the header only; tensors are slices of the mapping ([`super::mapping`]) until
someone asks for another element type. */

use super::header::{self, Info, shape};
use super::mapping::Mapping;
use super::store::Scales;
use super::sums::{self, Sums};
use crate::error::{Error, Result};
use crate::shape::DType;
use half::{bf16, f16};
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

// The format is little endian and tensors are borrowed as they lie.
const _: () = assert!(cfg!(target_endian = "little"), "weight files are mapped: little-endian machines only");

/// Alignment at which the CPU device can bind a tensor without copying: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

/// A safetensors file, mapped read-only or part of the program, its header already validated.
pub struct WeightFile {
    mapping: Arc<Mapping>,
    tensors: Vec<Info>,
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    /// Where the file has them.
    sums: Option<Arc<Sums>>,
    /// Other files whose tensors are here under a prefix.
    beside: Vec<(String, Arc<WeightFile>)>,
}

impl WeightFile {
    /// Maps and validates `path`. Errors name the file, the tensor or byte, and the remedy.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        Self::with(Mapping::open(path.as_ref())?)
    }

    /// The same for bytes inside the program; `name` stands for the path in messages. Tensors that are not aligned are
    /// copied where they are used.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Arc<Self>> {
        Self::with(Mapping::of_static(name, bytes))
    }

    fn with(mapping: Mapping) -> Result<Arc<Self>> {
        let mut header = header::parse(mapping.path(), mapping.bytes())?;
        let sums = sums::take(mapping.path(), mapping.bytes(), &mut header)?.map(Arc::new);
        let index = header.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let (mapping, tensors, metadata) = (Arc::new(mapping), header.tensors, header.metadata);
        Ok(Arc::new(Self { mapping, tensors, index, metadata, sums, beside: vec![] }))
    }

    /// The same file with the tensors of another one under `prefix`: `object.conv1_1.weight` is its `conv1_1.weight`. They
    /// are found by name and not listed.
    pub fn joined(&self, prefix: &str, other: Arc<WeightFile>) -> Arc<Self> {
        Arc::new(Self {
            mapping: self.mapping.clone(),
            tensors: self.tensors.clone(),
            index: self.index.clone(),
            metadata: self.metadata.clone(),
            sums: self.sums.clone(),
            beside: self.beside.iter().cloned().chain([(prefix.to_string(), other)]).collect(),
        })
    }

    /// The tensors whose names begin with `prefix`, without it, under another header: a tower out of a model. Tensors of
    /// another file that were [`WeightFile::joined`] under this prefix are that file.
    pub fn scoped(&self, prefix: &str, metadata: BTreeMap<String, String>) -> Arc<Self> {
        if let Some((_, file)) = self.beside.iter().find(|b| b.0 == prefix) {
            return file.clone();
        }
        let own = |t: &Info| Some(Info { name: t.name.strip_prefix(prefix)?.into(), ..t.clone() });
        let tensors: Vec<Info> = self.tensors.iter().filter_map(own).collect();
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let (mapping, sums) = (self.mapping.clone(), self.sums.clone());
        Arc::new(Self { mapping, tensors, index, metadata, sums, beside: vec![] })
    }

    /// The file beside this one that a name belongs to, and the name there.
    fn other<'n>(&self, name: &'n str) -> Option<(&Self, &'n str)> {
        self.beside.iter().find_map(|(prefix, file)| Some((&**file, name.strip_prefix(prefix.as_str())?)))
    }

    /// As it was opened.
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// Tensor names in the order of their data.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// Name, element type, shape and place of every tensor, in the order of their data.
    pub fn infos(&self) -> &[Info] {
        &self.tensors
    }

    /// What the header says about one tensor; None if it is not there.
    pub fn info(&self, name: &str) -> Option<&Info> {
        self.own(name).or_else(|| {
            let (file, name) = self.other(name)?;
            file.info(name)
        })
    }

    /// The same of tensors of this very file, whose ranges are of [`WeightFile::as_bytes`].
    pub fn own(&self, name: &str) -> Option<&Info> {
        self.index.get(name).map(|i| &self.tensors[*i])
    }

    /// Whether the file says what its bytes are to be.
    pub fn has_sums(&self) -> bool {
        self.sums.is_some()
    }

    /// Fails if the bytes of a tensor are not those that were written. Reads the tensor. A file without checksums passes, and
    /// so do bytes of the program, which no disk holds apart from it.
    pub fn intact(&self, name: &str) -> Result<()> {
        let Some(t) = self.own(name) else {
            return self.other(name).map_or(Ok(()), |(file, name)| file.intact(name));
        };
        let Some(sums) = self.sums.as_ref().filter(|_| !self.mapping.is_static()) else { return Ok(()) };
        self.unchanged()?;
        sums.check(self.path(), self.as_bytes(), t)
    }

    /// [`WeightFile::intact`] of all tensors; no page of them stays in memory for it.
    pub fn all_intact(&self) -> Result<()> {
        for t in &self.tensors {
            self.intact(&t.name)?;
            self.release(t.range.clone());
        }
        Ok(())
    }

    /// The header's own strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The whole file. Read [`WeightFile::unchanged`] first when time has passed since it was opened.
    pub fn as_bytes(&self) -> &[u8] {
        self.mapping.bytes()
    }

    /// Fails if the file was truncated, extended or written to since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.mapping.unchanged()
    }

    /// Begins to bring tensors into memory, in this order ([`Mapping::populate`]), and then to check that they are as they
    /// were written, on a thread of its own: the caller goes on at once, and asks before anything that was made of them is
    /// handed out.
    pub fn read_ahead(self: &Arc<Self>, names: Vec<String>) -> Ahead {
        let (file, all) = (self.clone(), names.clone());
        let work = move || {
            file.mapping.populate(all.iter().filter_map(|n| Some(file.own(n)?.range.clone())));
            all.iter().try_for_each(|n| file.intact(n))
        };
        let thread = std::thread::Builder::new().name("read ahead".into()).spawn(work).ok();
        Ahead { thread, file: self.clone(), names }
    }

    /// [`Mapping::release`].
    pub fn release(&self, range: Range<usize>) {
        self.mapping.release(range);
    }

    /// One tensor, its bytes where they lie in the mapping.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let Some(t) = self.own(name) else {
            if let Some((file, name)) = self.other(name) {
                return file.tensor(name);
            }
            return Err(Error::file(self.path(), format!("no tensor `{name}`"))
                .fix("`deep-affect weights inspect` lists what the file holds"));
        };
        self.unchanged()?;
        Ok(Tensor {
            file: self.path(),
            name: &t.name,
            dtype: t.dtype,
            shape: t.shape.clone(),
            bytes: &self.as_bytes()[t.range.clone()],
            scales: t.scales.as_ref().and_then(|r| Scales::new(&self.as_bytes()[r.clone()], &t.shape)),
        })
    }

    /// Where in [`WeightFile::as_bytes`] an F32 tensor lies that needs no copy: it begins at a multiple of [`ALIGN`] in
    /// memory. None for any other tensor. The values are not looked at: see [`super::TowerWeights::bind`].
    pub fn aligned_f32(&self, name: &str) -> Option<Range<usize>> {
        let t = self.own(name)?;
        let at = self.as_bytes().as_ptr() as usize + t.range.start;
        (t.dtype == Dtype::F32 && at.is_multiple_of(ALIGN) && !t.range.is_empty()).then(|| t.range.clone())
    }

    /// The same of a tensor that is stored in 16 bits, and as what: for a device that takes it as it lies.
    pub fn aligned_half(&self, name: &str) -> Option<(DType, Range<usize>)> {
        let t = self.own(name)?;
        let at = self.as_bytes().as_ptr() as usize + t.range.start;
        let dtype = match t.dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return None,
        };
        (at.is_multiple_of(ALIGN) && !t.range.is_empty()).then(|| (dtype, t.range.clone()))
    }
}

/// Tensors that are being read and checked ([`WeightFile::read_ahead`]).
pub struct Ahead {
    thread: Option<JoinHandle<Result<()>>>,
    file: Arc<WeightFile>,
    names: Vec<String>,
}

impl Ahead {
    /// Waits for the end; fails if a tensor is damaged.
    pub fn done(self) -> Result<()> {
        match self.thread.map(JoinHandle::join) {
            Some(Ok(found)) => found,
            // There was no thread to be had.
            _ => self.names.iter().try_for_each(|n| self.file.intact(n)),
        }
    }
}

/// One tensor of a [`WeightFile`].
#[derive(Clone)]
pub struct Tensor<'a> {
    file: &'a Path,
    pub name: &'a str,
    pub dtype: Dtype,
    /// Outermost first, in the file's own layout.
    pub shape: Vec<usize>,
    /// Little endian, row major.
    pub bytes: &'a [u8],
    /// By which 8-bit values are to be multiplied.
    scales: Option<Scales<'a>>,
}

/// Elements converted at a time when nothing is to be kept.
const CHUNK: usize = 16 * 1024;

impl<'a> Tensor<'a> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        // Checked against the bytes when the file was opened.
        self.shape.iter().product()
    }

    /// Consecutive values of it, as a tensor of one axis. The element type must have whole bytes.
    pub fn part(&self, values: Range<usize>) -> Self {
        let size = self.dtype.bitsize() / 8;
        Tensor {
            shape: vec![values.len()],
            bytes: &self.bytes[values.start * size..values.end * size],
            scales: self.scales.map(|s| s.from(values.start)),
            ..*self
        }
    }

    /// F32 as it lies (a copy if it is not aligned to 4 bytes); F16, BF16, F64 and 8 bits with scales
    /// ([`super::store`]) converted, rounding to nearest. Any other element type is refused: integers are not weights.
    pub fn to_f32(&self) -> Result<Cow<'a, [f32]>> {
        if self.dtype == Dtype::F32
            && let Ok(s) = bytemuck::try_cast_slice(self.bytes)
        {
            return Ok(Cow::Borrowed(s));
        }
        if let Some(scales) = &self.scales {
            let mut out = vec![0.0; self.numel()];
            scales.widen(self.bytes, &mut out);
            return Ok(Cow::Owned(out));
        }
        if !matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
            return Err(self.refuse("weights must be F32, F16, BF16, F64 or I8 with scales"));
        }
        let mut out = Vec::with_capacity(self.numel());
        match self.dtype {
            Dtype::F16 => out.extend(self.words::<2>().map(|b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => out.extend(self.words::<2>().map(|b| bf16::from_le_bytes(b).to_f32())),
            Dtype::F64 => out.extend(self.words::<8>().map(|b| f64::from_le_bytes(b) as f32)),
            _ => out.extend(self.words::<4>().map(f32::from_le_bytes)),
        }
        Ok(Cow::Owned(out))
    }

    /// Every value as float64, 8 bits with scales as the float32 that they stand for, integers and booleans included (64-bit integers beyond 2^53 rounded).
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        let mut out = Vec::with_capacity(self.numel());
        self.for_chunks(|c| out.extend_from_slice(c))?;
        Ok(out)
    }

    /// Calls `f` with consecutive pieces of the values as float64, so that a large tensor need not fit twice.
    pub fn for_chunks(&self, mut f: impl FnMut(&[f64])) -> Result<()> {
        let step = self.dtype.bitsize() / 8;
        if step == 0 {
            return Err(self.refuse("this element type is not supported"));
        }
        let (n, mut values) = (self.numel(), Vec::with_capacity(CHUNK));
        for first in (0..n).step_by(CHUNK) {
            values.clear();
            let t = self.part(first..n.min(first + CHUNK));
            if self.scales.is_some() {
                f(&t.to_f32()?.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
                continue;
            }
            match self.dtype {
                Dtype::F64 => values.extend(t.words().map(f64::from_le_bytes)),
                Dtype::F32 => values.extend(t.words().map(|b| f32::from_le_bytes(b) as f64)),
                Dtype::F16 => values.extend(t.words().map(|b| f16::from_le_bytes(b).to_f64())),
                Dtype::BF16 => values.extend(t.words().map(|b| bf16::from_le_bytes(b).to_f64())),
                Dtype::I64 => values.extend(t.words().map(|b| i64::from_le_bytes(b) as f64)),
                Dtype::U64 => values.extend(t.words().map(|b| u64::from_le_bytes(b) as f64)),
                Dtype::I32 => values.extend(t.words().map(|b| i32::from_le_bytes(b) as f64)),
                Dtype::U32 => values.extend(t.words().map(|b| u32::from_le_bytes(b) as f64)),
                Dtype::I16 => values.extend(t.words().map(|b| i16::from_le_bytes(b) as f64)),
                Dtype::U16 => values.extend(t.words().map(|b| u16::from_le_bytes(b) as f64)),
                Dtype::I8 => values.extend(t.bytes.iter().map(|b| *b as i8 as f64)),
                Dtype::U8 => values.extend(t.bytes.iter().map(|b| *b as f64)),
                Dtype::BOOL => values.extend(t.bytes.iter().map(|b| (*b != 0) as u8 as f64)),
                _ => return Err(self.refuse("this element type is not supported")),
            }
            f(&values);
        }
        Ok(())
    }

    fn words<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> + use<'a, N> {
        self.bytes.as_chunks::<N>().0.iter().copied()
    }

    fn refuse(&self, why: &str) -> Error {
        Error::file(self.file, format!("{} {}: {why}", self.dtype, shape(&self.shape)))
            .at(format!("tensor `{}`", self.name))
            .fix("convert it to F32")
    }
}

#[cfg(test)]
mod tests {
    use super::super::write::{Entry, write, write_to};
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn small() -> Vec<u8> {
        let meta = BTreeMap::from([("layout".into(), "KRSC".into()), ("who".into(), "a test".into())]);
        let a: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let mut v = Vec::new();
        let entries = [
            Entry::f32("conv1_1.weight", &[2, 4, 4, 1], &a),
            Entry::f32("conv1_1.bias", &[2], &[0.5, -0.5]),
            Entry::bytes("flag", Dtype::U8, &[3], b"abc"),
        ];
        write_to(&mut v, &meta, &entries).unwrap();
        v
    }

    fn open(bytes: &[u8]) -> Result<Arc<WeightFile>> {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(bytes).unwrap();
        WeightFile::open(f.path())
    }

    #[test]
    fn every_truncation_is_one_line_and_extension_too() {
        let good = small();
        assert!(open(&good).is_ok());
        for n in 0..good.len() {
            let e = open(&good[..n]).err().unwrap().to_string();
            assert!(!e.contains('\n') && e.contains("; "), "{n}: {e}");
        }
        let longer = [&good[..], b"x"].concat();
        assert!(open(&longer).err().unwrap().to_string().contains("trailing bytes"));
    }

    #[test]
    fn a_file_changed_under_us_is_an_error_not_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("w.safetensors");
        let big = vec![1.0f32; 1 << 18];
        write(&p, &BTreeMap::new(), &[Entry::f32("a", &[1 << 18], &big)]).unwrap();
        let w = WeightFile::open(&p).unwrap();
        // Replacing by rename leaves the mapping as it was.
        write(&p, &BTreeMap::new(), &[Entry::f32("a", &[1], &[2.0])]).unwrap();
        assert_eq!(w.tensor("a").unwrap().to_f32().unwrap()[(1 << 18) - 1], 1.0);
        // Truncating does not, and is noticed before a page is touched.
        let w = WeightFile::open(&p).unwrap();
        std::fs::OpenOptions::new().write(true).open(&p).unwrap().set_len(10).unwrap();
        let e = w.tensor("a").err().unwrap().to_string();
        assert!(e.contains("changed while it was being read"), "{e}");
        // Nor does reading ahead end the process at a page that is gone.
        write(&p, &BTreeMap::new(), &[Entry::f32("a", &[1 << 18], &big)]).unwrap();
        let w = WeightFile::open(&p).unwrap();
        std::fs::OpenOptions::new().write(true).open(&p).unwrap().set_len(10).unwrap();
        let e = w.read_ahead(vec!["a".into()]).done().unwrap_err().to_string();
        assert!(e.contains("changed while it was being read"), "{e}");
    }

    #[test]
    fn bytes_of_the_program_wherever_they_lie() {
        for shift in 0..4 {
            let bytes: &'static [u8] = [&vec![0; shift][..], &small()].concat().leak();
            let w = WeightFile::from_static("the toy", &bytes[shift..]).unwrap();
            assert_eq!(w.tensor("conv1_1.weight").unwrap().to_f32().unwrap()[31], 31.0);
            let e = WeightFile::from_static("the toy", &bytes[shift..100]).err().unwrap().to_string();
            assert!(e.starts_with("the toy: "), "{e}");
        }
    }

    #[test]
    fn other_element_types_convert() {
        let h: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let b: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        let d: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let i: Vec<u8> = [7i64, -2].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut v = Vec::new();
        let entries = [
            Entry::bytes("h", Dtype::F16, &[2], &h),
            Entry::bytes("b", Dtype::BF16, &[2], &b),
            Entry::bytes("d", Dtype::F64, &[2], &d),
            Entry::bytes("i", Dtype::I64, &[2], &i),
            Entry::bytes("e", Dtype::F8_E4M3, &[2], b"ab"),
            Entry::bytes("t", Dtype::BOOL, &[2], &[1, 0]),
        ];
        write_to(&mut v, &BTreeMap::new(), &entries).unwrap();
        let w = open(&v).unwrap();
        for n in ["h", "b", "d"] {
            assert_eq!(*w.tensor(n).unwrap().to_f32().unwrap(), [1.5, -2.0]);
            assert_eq!(w.tensor(n).unwrap().to_f64().unwrap(), [1.5, -2.0]);
        }
        assert_eq!(w.tensor("i").unwrap().to_f64().unwrap(), [7.0, -2.0]);
        assert_eq!(w.tensor("t").unwrap().to_f64().unwrap(), [1.0, 0.0]);
        let e = w.tensor("i").unwrap().to_f32().unwrap_err().to_string();
        assert!(e.contains("tensor `i`: I64 [2]"), "{e}");
        assert!(w.tensor("e").unwrap().to_f64().is_err());
        assert!(w.tensor("nothing").is_err());
    }

    #[test]
    fn folders_and_missing_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let say = |p: &Path| WeightFile::open(p).err().unwrap().to_string();
        assert!(say(dir.path()).contains("it is a folder"));
        assert!(say(&dir.path().join("none")).contains("check the path"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

        /// Whatever is done to the bytes, the file is refused in one line or everything in it can be read.
        #[test]
        fn mutations_never_panic(cut in 0usize..800, edits in prop::collection::vec((0usize..800, any::<u8>()), 0..6)) {
            let mut v = small();
            for (at, byte) in edits {
                let n = v.len();
                v[at % n] = byte;
            }
            if cut % 3 == 0 {
                v.truncate(cut);
            }
            match open(&v) {
                Err(e) => prop_assert!(!e.to_string().contains('\n')),
                Ok(w) => for n in w.names() {
                    let t = w.tensor(n).unwrap();
                    let _ = (t.to_f32(), t.to_f64(), w.aligned_f32(n));
                },
            }
        }
    }
}
