/*! Writing weight files: safetensors, streamed tensor by tensor (nothing is gathered in memory), replaced atomically, with
checksums ([`super::sums`]).

The format allows no holes between tensors, so alignment comes from order: tensors whose size is divisible by the larger
power of two (up to 64) come first, in the caller's order otherwise. Each then begins at a multiple of the power that
divides its own size: everything the CPU device would bind without copying at 64, the small rest at least at its
element's size. */

use super::file::ALIGN;
use super::header::shape;
use super::sums::{self, CHECKSUMS};
use crate::atomic;
use crate::error::{Error, Result};
use crate::hash::Sum;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// Writes a tensor's bytes.
pub type Stream<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

/// Where a tensor's bytes come from.
pub enum Data<'a> {
    /// Little endian, row major.
    Bytes(&'a [u8]),
    /// Writes exactly the tensor's bytes.
    Stream(&'a Stream<'a>),
}

/// One tensor to be written.
pub struct Entry<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

impl<'a> Entry<'a> {
    /// A float32 tensor.
    pub fn f32(name: &str, shape: &[usize], values: &'a [f32]) -> Self {
        Self::bytes(name, Dtype::F32, shape, bytemuck::cast_slice(values))
    }

    /// A tensor of any type, its bytes little endian.
    pub fn bytes(name: &str, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self { name: name.into(), dtype, shape: shape.into(), data: Data::Bytes(bytes) }
    }

    /// A tensor that `f` writes when its turn comes.
    pub fn stream(name: &str, dtype: Dtype, shape: &[usize], f: &'a Stream<'a>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into(), data: Data::Stream(f) }
    }

    fn size(&self) -> io::Result<usize> {
        let bits = self.shape.iter().try_fold(self.dtype.bitsize(), |a, b| a.checked_mul(*b));
        match bits {
            Some(b) if b % 8 == 0 => Ok(b / 8),
            _ => Err(wrong(self, "a size that is no whole number of bytes")),
        }
    }
}

fn wrong(e: &Entry, why: impl std::fmt::Display) -> io::Error {
    let what = format!("tensor `{}` ({} {}): {why}", e.name, e.dtype, shape(&e.shape));
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Replaces the file `path` ([`atomic::write`]: an error leaves the old one). Errors name the file and, where one is to
/// blame, the tensor: a name that comes twice, data that do not fill the shape.
pub fn write(path: impl AsRef<Path>, metadata: &BTreeMap<String, String>, tensors: &[Entry]) -> Result<()> {
    replace(path.as_ref(), false, metadata, tensors)
}

/// The same; the file that is replaced is kept ([`atomic::write_keeping`]).
pub fn write_keeping(path: impl AsRef<Path>, metadata: &BTreeMap<String, String>, tensors: &[Entry]) -> Result<()> {
    replace(path.as_ref(), true, metadata, tensors)
}

fn replace(path: &Path, keep: bool, metadata: &BTreeMap<String, String>, tensors: &[Entry]) -> Result<()> {
    let mut metadata = metadata.clone();
    let full = tensors.iter().filter(|t| t.shape.iter().all(|n| *n > 0)).count();
    metadata.insert(CHECKSUMS.into(), sums::blank(full));
    // Programming errors are found before anything touches the disk.
    let (mut header, order) = plan(&metadata, tensors).map_err(|e| Error::io(path, "write the weights", e))?;
    let fill = |file: &mut File| {
        let mut write = || {
            if !file.metadata()?.is_file() {
                // There is no going back in a pipe: what comes out of it has no checksums.
                metadata.remove(CHECKSUMS);
                return write_to(file, &metadata, tensors);
            }
            let mut w = BufWriter::with_capacity(atomic::BUFFER, &mut *file);
            let tensors = send(&mut w, &header, &order, tensors)?;
            w.into_inner()?.seek(SeekFrom::Start(8))?;
            sums::seal(&mut header, &tensors);
            file.write_all(&header)
        };
        write().map_err(|e| Error::io(path, "write", e))
    };
    if keep { atomic::write_keeping(path, fill) } else { atomic::write_file(path, fill) }
}

/// The same without checksums, to any writer.
pub fn write_to(w: &mut dyn Write, metadata: &BTreeMap<String, String>, tensors: &[Entry]) -> io::Result<()> {
    let (header, order) = plan(metadata, tensors)?;
    send(w, &header, &order, tensors).map(drop)
}

/// Writes a header and the tensors in their order; the sum of each that has bytes.
fn send(w: &mut dyn Write, header: &[u8], order: &[usize], tensors: &[Entry]) -> io::Result<Vec<u64>> {
    w.write_all(&(header.len() as u64).to_le_bytes())?;
    w.write_all(header)?;
    let mut sums = vec![];
    for t in order.iter().map(|i| &tensors[*i]) {
        let size = t.size()?;
        let mut counted = Counted { to: w, left: size, over: false, sum: Sum::default() };
        let done = match t.data {
            Data::Bytes(b) => counted.write_all(b),
            Data::Stream(f) => f(&mut counted),
        };
        if counted.over {
            return Err(wrong(t, "more bytes than its shape holds"));
        }
        done?;
        if counted.left > 0 {
            return Err(wrong(t, format_args!("{} bytes short of its shape", counted.left)));
        }
        if size > 0 {
            sums.push(counted.sum.finish());
        }
    }
    Ok(sums)
}

/// The padded header, and the order in which the tensors follow.
fn plan(metadata: &BTreeMap<String, String>, tensors: &[Entry]) -> io::Result<(Vec<u8>, Vec<usize>)> {
    let mut seen = HashSet::new();
    let mut sizes = Vec::with_capacity(tensors.len());
    for t in tensors {
        if t.name == "__metadata__" || !seen.insert(t.name.as_str()) {
            return Err(wrong(t, "the name is taken"));
        }
        let size = t.size()?;
        if let Data::Bytes(b) = t.data
            && b.len() != size
        {
            return Err(wrong(t, format_args!("{} bytes given, its shape holds {size}", b.len())));
        }
        sizes.push(size);
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse((sizes[*i] | ALIGN).trailing_zeros()));

    let mut json = Map::new();
    if !metadata.is_empty() {
        json.insert("__metadata__".into(), json!(metadata));
    }
    let mut at = 0usize;
    for i in &order {
        let t = &tensors[*i];
        let end = at.checked_add(sizes[*i]).ok_or_else(|| wrong(t, "the file would be too large"))?;
        json.insert(
            t.name.clone(),
            json!({ "dtype": t.dtype.to_string(), "shape": t.shape, "data_offsets": [at, end] }),
        );
        at = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(json)).map_err(io::Error::other)?;
    header.resize((8 + header.len()).next_multiple_of(ALIGN) - 8, b' ');
    Ok((header, order))
}

/// Lets through as many bytes as the header promised, and sums them.
struct Counted<'a> {
    to: &'a mut dyn Write,
    left: usize,
    over: bool,
    sum: Sum,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left {
            self.over = true;
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Summed first: of a mapped file whose end is gone the system would only say "bad address".
        self.sum.update(bytes);
        self.to.write_all(bytes)?;
        self.left -= bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::WeightFile;
    use super::*;

    fn meta() -> BTreeMap<String, String> {
        BTreeMap::from([("layout".into(), "KRSC".into()), ("note".into(), "\"quoted\"\n".into())])
    }

    #[test]
    fn round_trip_and_alignment() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("w.safetensors");
        let a: Vec<f32> = (0..1728).map(|i| i as f32 * 0.5).collect();
        let b: Vec<f32> = (0..64).map(|i| -(i as f32)).collect();
        let send = |w: &mut dyn Write| b.iter().try_for_each(|x| w.write_all(&x.to_le_bytes()));
        let entries = [
            Entry::bytes("odd", Dtype::U8, &[3], b"abc"),
            Entry::f32("head.bias", &[2], &[1.0, 2.0]),
            Entry::bytes("half", Dtype::F16, &[1], &[0, 0x3c]),
            Entry::f32("conv1_1.weight", &[64, 3, 3, 3], &a),
            Entry::f32("one", &[], &[3.0]),
            Entry::stream("conv1_1.bias", Dtype::F32, &[64], &send),
            Entry::f32("none", &[0, 4], &[]),
        ];
        write(&p, &meta(), &entries).unwrap();
        let w = WeightFile::open(&p).unwrap();
        assert_eq!(w.metadata(), &meta());
        assert_eq!(w.names().len(), entries.len());
        assert_eq!(*w.tensor("conv1_1.weight").unwrap().to_f32().unwrap(), a);
        assert_eq!(*w.tensor("conv1_1.bias").unwrap().to_f32().unwrap(), b);
        assert_eq!(*w.tensor("one").unwrap().to_f32().unwrap(), [3.0]);
        assert_eq!(w.tensor("one").unwrap().shape, [0usize; 0]);
        assert_eq!(w.tensor("odd").unwrap().bytes, b"abc");
        for t in w.infos() {
            let power = (t.range.len() | ALIGN).trailing_zeros();
            assert_eq!(t.range.start % (1 << power), 0, "{}", t.name);
        }
        let at = w.aligned_f32("conv1_1.weight").unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&w.as_bytes()[at]), a);
        assert!(w.aligned_f32("head.bias").is_none_or(|r| r.start % ALIGN == 0));
        assert!(w.aligned_f32("odd").is_none() && w.aligned_f32("half").is_none() && w.aligned_f32("none").is_none());
        // The reference parser agrees.
        let bytes = std::fs::read(&p).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), entries.len());
    }

    #[test]
    fn wrong_tensors_are_named_and_the_old_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("w.safetensors");
        write(&p, &meta(), &[Entry::f32("a", &[1], &[1.0])]).unwrap();
        let old = std::fs::read(&p).unwrap();
        let short = |w: &mut dyn Write| w.write_all(&[0; 7]);
        let long = |w: &mut dyn Write| w.write_all(&[0; 9]);
        let full = |_: &mut dyn Write| Err(io::ErrorKind::StorageFull.into());
        for (entries, want) in [
            (vec![Entry::f32("a", &[1], &[1.0]), Entry::f32("a", &[1], &[1.0])], "`a` (F32 [1]): the name is taken"),
            (vec![Entry::f32("__metadata__", &[1], &[1.0])], "the name is taken"),
            (vec![Entry::f32("a", &[3], &[1.0])], "4 bytes given, its shape holds 12"),
            (vec![Entry::stream("a", Dtype::F32, &[2], &short)], "1 bytes short"),
            (vec![Entry::stream("a", Dtype::F32, &[2], &long)], "more bytes than its shape"),
            (vec![Entry::stream("a", Dtype::F32, &[usize::MAX, 2], &long)], "no whole number of bytes"),
            (vec![Entry::stream("a", Dtype::F32, &[2], &full)], "nothing was overwritten"),
        ] {
            let e = write(&p, &meta(), &entries).unwrap_err().to_string();
            assert!(e.contains(want) && e.contains("w.safetensors: "), "{e}");
            assert_eq!(std::fs::read(&p).unwrap(), old);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
