/*! The header of a safetensors file, validated completely before any tensor is visible. The rules are those of the
`safetensors` crate (offsets without holes or overlap, sizes against shapes without overflow, the last tensor ends the
file); added here are the refusal of duplicate names, which its parser lets through, and errors that name the tensor. */

use super::foreign::NOT_WEIGHTS;
use super::store::scale_name;
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Largest header accepted, the format's own limit.
pub const MAX_HEADER: u64 = 100_000_000;
/// Most extents a tensor may have. The format sets no limit; a million extents of 1 are an attack, not a tensor.
pub const MAX_RANK: usize = 16;
/// Most tensors, and most bytes of their names: a network of a thousand has some 40 KB.
const MAX_TENSORS: usize = 1 << 16;
const MAX_NAMES: usize = 4 << 20;

/// One tensor: where it lies and what it is.
#[derive(Clone, Debug)]
pub struct Info {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost first, as the file states them.
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub range: Range<usize>,
    /// Of 8-bit values: bytes of the float32 scale of each filter ([`super::store`]).
    pub scales: Option<Range<usize>>,
}

/// All tensors in the order of their data, and the metadata.
pub struct Header {
    pub tensors: Vec<Info>,
    pub metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of `bytes`, a whole file; touches no byte behind the header.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    let Some((head, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::file(path, format!("only {} bytes long, not a safetensors file", bytes.len()))
            .fix("it may be a failed download: fetch it again"));
    };
    let len = u64::from_le_bytes(*head);
    if rest.first() != Some(&b'{') || !(2..=MAX_HEADER).contains(&len) {
        return Err(not_safetensors(path, bytes, len));
    }
    let Some(json) = rest.get(..len as usize) else {
        return Err(Error::file(path, format!("truncated: a header of {len} bytes, the file ends at {}", bytes.len()))
            .at("byte 0")
            .fix("fetch it again"));
    };
    let raw: Raw = serde_json::from_slice(json).map_err(|e| {
        // Line breaks are legal in JSON; the column alone then says too little, and the line is added.
        let place = match e.line() {
            0 | 1 => format!("byte {}", 7 + e.column()),
            n => format!("header line {n}, column {}", e.column()),
        };
        let text = e.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |t| t.0);
        Error::file(path, format!("bad header: {text}")).at(place).fix("write the file again")
    })?;
    if let Some((name, t)) = raw.tensors.iter().find(|(_, t)| t.shape.len() > MAX_RANK) {
        let problem = format!("{} extents, at most {MAX_RANK} are supported", t.shape.len());
        return Err(Error::file(path, problem).at(format!("tensor `{name}`")).fix("write the file again"));
    }
    // A zero extent hides an overflow of the others, which would then strike whoever multiplies in another order.
    let fits = |t: &TensorInfo| t.shape.iter().try_fold(8usize, |a, b| a.checked_mul((*b).max(1))).is_some();
    if let Some((name, t)) = raw.tensors.iter().find(|(_, t)| !fits(t)) {
        return Err(Error::file(path, format!("{} {} is too large", t.dtype, shape(&t.shape)))
            .at(format!("tensor `{name}`"))
            .fix("write the file again"));
    }
    if let Err(e) = SafeTensors::read_metadata(bytes) {
        return Err(explain(path, bytes.len(), 8 + len as usize, e, &raw));
    }
    let start = 8 + len as usize;
    let mut tensors: Vec<Info> = raw
        .tensors
        .into_iter()
        .map(|(name, t)| {
            let range = start + t.data_offsets.0..start + t.data_offsets.1;
            Info { name, dtype: t.dtype, shape: t.shape, range, scales: None }
        })
        .collect();
    tensors.sort_by(|a, b| (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name)));
    let tensors = with_scales(path, tensors)?;
    Ok(Header { tensors, metadata: raw.metadata })
}

/// Gives 8-bit tensors the scales that lie beside them, which then are no tensors of their own.
fn with_scales(path: &Path, tensors: Vec<Info>) -> Result<Vec<Info>> {
    let narrow: HashMap<String, usize> = tensors
        .iter()
        .filter(|t| t.dtype == Dtype::I8 && t.shape.len() >= 2)
        .map(|t| (scale_name(&t.name), t.shape[0]))
        .collect();
    let (scales, mut tensors): (Vec<Info>, Vec<Info>) = tensors.into_iter().partition(|t| narrow.contains_key(&t.name));
    let mut found = HashMap::new();
    for s in scales {
        let filters = narrow[&s.name];
        if s.dtype != Dtype::F32 || s.shape != [filters] {
            let problem = format!("{} {} instead of F32 [{filters}], one scale a filter", s.dtype, shape(&s.shape));
            return Err(Error::file(path, problem).at(format!("tensor `{}`", s.name)).fix("write the file again"));
        }
        found.insert(s.name, s.range);
    }
    if !found.is_empty() {
        tensors.iter_mut().filter(|t| t.dtype == Dtype::I8).for_each(|t| t.scales = found.remove(&scale_name(&t.name)));
    }
    Ok(tensors)
}

/// Names the usual other files that people hold, because "invalid header" helps nobody.
fn not_safetensors(path: &Path, bytes: &[u8], len: u64) -> Error {
    let importable: [(&[u8], &str); 3] = [
        (b"PK\x03\x04", "a zip archive (a PyTorch .pth or a Keras .keras file)"),
        (b"\x80\x02\x8a\x0a", "a PyTorch .pth file of the old kind"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
    ];
    let of = |known: &[(&[u8], &'static str)]| known.iter().find(|k| bytes.starts_with(k.0)).map(|k| k.1);
    let weights = of(&importable).map(|what| (what, "make one of it with `deep-affect weights import`"));
    let other = || of(&NOT_WEIGHTS).map(|what| (what, "fetch the real file"));
    match weights.or_else(other) {
        Some((what, remedy)) => {
            Error::file(path, format!("not a safetensors file but {what}")).at("byte 0").fix(remedy)
        }
        None => Error::file(path, format!("not a safetensors file (header length {len}, at most {MAX_HEADER})"))
            .at("byte 0")
            .fix("fetch it again"),
    }
}

/// The crate's verdict in words that name the tensor.
fn explain(path: &Path, file: usize, start: usize, e: SafeTensorError, raw: &Raw) -> Error {
    use SafeTensorError as E;
    let stated = |t: &TensorInfo| {
        let bits = t.shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b))?.checked_mul(t.dtype.bitsize())?;
        (bits % 8 == 0).then_some(bits / 8)
    };
    let span = |t: &TensorInfo| t.data_offsets.1.checked_sub(t.data_offsets.0);
    let (place, problem) = match e {
        E::InvalidOffset(name) => {
            let at = raw.tensors.iter().find(|t| t.0 == name).map_or((0, 0), |t| t.1.data_offsets);
            (Some(name), format!("bytes {}..{} leave a hole, overlap another tensor or run backwards", at.0, at.1))
        }
        E::TensorInvalidInfo | E::ValidationOverflow | E::MisalignedSlice => {
            let bad = raw.tensors.iter().find(|(_, t)| stated(t).is_none() || stated(t) != span(t));
            let (name, t) = bad.map_or((None, None), |b| (Some(b.0.clone()), Some(&b.1)));
            let problem = t.map_or(String::from("a size that overflows"), |t| {
                let size = stated(t).map_or("more bytes than there are".into(), |n| format!("{n} bytes"));
                format!(
                    "{} {} would be {size}, the header reserves {:?}",
                    t.dtype,
                    shape(&t.shape),
                    span(t).unwrap_or(0)
                )
            });
            (name, problem)
        }
        E::MetadataIncompleteBuffer => {
            let last = raw.tensors.iter().max_by_key(|t| t.1.data_offsets.1);
            let end = last.map_or(start, |t| start.saturating_add(t.1.data_offsets.1));
            // The first tensor that is not whole tells how much of the file arrived.
            let cut = raw.tensors.iter().filter(|t| start.saturating_add(t.1.data_offsets.1) > file);
            let cut = cut.min_by_key(|t| t.1.data_offsets).map(|t| t.0.clone());
            let how = if end > file { "truncated" } else { "trailing bytes" };
            (cut, format!("{how}: the header describes {end} bytes, the file has {file}"))
        }
        other => (None, format!("bad header: {other}")),
    };
    let e = Error::file(path, problem).fix("fetch or write the file again");
    match place {
        Some(name) => e.at(format!("tensor `{name}`")),
        None => e,
    }
}

/// `[64,3,3,3]`
pub fn shape(dims: &[usize]) -> String {
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    format!("[{}]", dims.join(","))
}

/// The JSON as it stands, duplicates refused.
struct Raw {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
                let mut raw = Raw { tensors: Vec::new(), metadata: BTreeMap::new() };
                let (mut seen, mut names) = (HashSet::new(), 0);
                while let Some(name) = map.next_key::<String>()? {
                    names += name.len();
                    if seen.len() > MAX_TENSORS || names > MAX_NAMES {
                        let most = format!("more than {MAX_TENSORS} tensors, or {MAX_NAMES} bytes of names");
                        return Err(A::Error::custom(most));
                    }
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    if name == "__metadata__" {
                        raw.metadata = map.next_value::<Option<Strings>>()?.map_or(BTreeMap::new(), |s| s.0);
                    } else {
                        raw.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(raw)
            }
        }
        d.deserialize_map(V)
    }
}

/// String to string, duplicates refused.
struct Strings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Strings, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((k, v)) = map.next_entry::<String, String>()? {
                    if all.insert(k.clone(), v).is_some() {
                        return Err(A::Error::custom(format!("metadata `{k}` is there twice")));
                    }
                }
                Ok(Strings(all))
            }
        }
        d.deserialize_map(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `header` and `data` zero bytes.
    fn bytes(header: &str, data: usize) -> Vec<u8> {
        let mut v = (header.len() as u64).to_le_bytes().to_vec();
        v.extend_from_slice(header.as_bytes());
        v.resize(v.len() + data, 0);
        v
    }

    fn refusal(header: &str, data: usize) -> String {
        parse(Path::new("t.safetensors"), &bytes(header, data)).err().expect(header).to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        assert!(parse(Path::new("t"), &bytes(&format!("{{{a}}}"), 8)).is_ok());
        for (header, data, want) in [
            (format!("{{{a},{a}}}"), 8, "`a` is there twice"),
            (format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{a}}}"#), 8, "metadata `k` is there twice"),
            (format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{a}}}"#), 8, "`__metadata__` is there twice"),
            (format!(r#"{{"__metadata__":{{"k":1}},{a}}}"#), 8, "byte 29: bad header: invalid type"),
            (format!("{{{a}}}"), 7, "tensor `a`: truncated: the header describes 70 bytes, the file has 69"),
            (format!("{{{a}}}"), 9, "trailing bytes"),
            (a.replace("[2]", "[3]").replace("\"a\"", "{\"a\"") + "}", 8, "tensor `a`: F32 [3] would be 12 bytes"),
            (format!("{{{}}}", a.replace("[0,8]", "[4,12]")), 12, "tensor `a`: bytes 4..12 leave a hole"),
            (format!("{{{}}}", a.replace("[0,8]", "[8,0]")), 8, "tensor `a`: bytes 8..0"),
            (
                format!("{{{}}}", a.replace("[2]", "[4294967296,4294967296,2]")),
                8,
                "tensor `a`: F32 [4294967296,4294967296,2] is too large",
            ),
            (format!("{{{}}}", a.replace("[2]", "[0,4294967296,4294967296]")), 8, "is too large"),
            (format!("{{{}}}", a.replace("[2]", &format!("[2{}]", ",1".repeat(99)))), 8, "100 extents"),
            (format!("{{{}}}", a.replace("F32", "F33")), 8, "unknown variant"),
            (format!("{{{}}}", a.replace("[2]", "[-2]")), 8, "invalid value"),
            (format!(" {{{a}}}"), 8, "not a safetensors file"),
            ("[]".into(), 0, "not a safetensors file"),
        ] {
            let e = refusal(&header, data);
            assert!(e.contains(want) && e.starts_with("t.safetensors: ") && !e.contains('\n'), "{header}\n{e}");
        }
    }

    #[test]
    fn names_without_end_are_refused() {
        let one = |name: String| format!(r#""{name}":{{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#);
        let many: Vec<String> = (0..MAX_TENSORS + 2).map(|i| one(i.to_string())).collect();
        assert!(refusal(&format!("{{{}}}", many.join(",")), 4).contains("more than 65536 tensors"));
        let e = refusal(&format!("{{{}}}", one("n".repeat(MAX_NAMES + 1))), 4);
        assert!(e.contains("4194304 bytes of names") && e.len() < 400, "{e:.400}");
    }

    #[test]
    fn other_files_are_recognised() {
        let say = |b: &[u8]| parse(Path::new("w"), b).err().unwrap().to_string();
        assert!(say(b"PK\x03\x04............").contains("zip archive"));
        assert!(say(b"\x89HDF\r\n\x1a\n........").contains("HDF5"));
        assert!(say(b"version https://git-lfs.github.com/spec/v1").contains("Git LFS"));
        assert!(say(b"<!DOCTYPE html>").contains("web page"));
        assert!(say(b"").contains("0 bytes"));
        assert!(say(b"\xff\xff\xff\xff\xff\xff\xff\xff{}").contains("not a safetensors file"));
    }
}
