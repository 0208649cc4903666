/*! Networks whose safetensors come in several files: `model.safetensors.index.json` says which file has which tensor
(`{"metadata": {..}, "weight_map": {"features.0.weight": "model-00001-of-00002.safetensors", ..}}`, as huggingface_hub
writes it). The files lie beside it. */

use super::foreign::{self, Archive, Array, ArrayData, Format, row_major};
use super::header;
use super::mapping::Mapping;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Longest index: that of the largest networks is 10 MB long.
const MAX_INDEX: usize = 32 << 20;
/// Most files beside one.
const MAX_FILES: usize = 512;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors that an index lists, and the files that they lie in, in the order of [`Archive::beside`].
pub fn read(path: &Path, bytes: &[u8]) -> Result<(Archive, Vec<Mapping>)> {
    let wrong = |why: String| {
        Error::file(path, format!("is JSON, but no index of a safetensors file in shards: {why}"))
            .fix("name a weight file, or the .safetensors.index.json beside its shards")
    };
    if bytes.len() > MAX_INDEX {
        return Err(wrong(format!("{} MiB long", bytes.len() >> 20)));
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
    let mut names: Vec<String> = index.weight_map.values().cloned().collect();
    names.sort_unstable();
    names.dedup();
    let files = beside(path, &names)?;
    let mut arrays = Vec::new();
    for (i, (file, shard)) in files.iter().zip(&names).enumerate() {
        if !matches!(foreign::sniff(file.bytes()), Ok(Format::Safetensors)) {
            return Err(Error::file(file.path(), "is a shard, and not of safetensors")
                .fix("load the network where it was made and save it as one file"));
        }
        for t in header::parse(file.path(), file.bytes())?.tensors {
            if index.weight_map.get(&t.name) == Some(shard) {
                let strides = row_major(&t.shape);
                arrays.push(Array {
                    name: t.name,
                    dtype: t.dtype,
                    strides,
                    shape: t.shape,
                    place: ArrayData::Beside(i, t.range),
                });
            }
        }
    }
    if arrays.len() != index.weight_map.len() {
        let there = |name: &&String| arrays.iter().all(|a| a.name != **name);
        let missing = index.weight_map.keys().find(there).map_or("", |n| n);
        return Err(Error::file(path, "is not in the shard that the index says")
            .at(format!("tensor `{missing}`"))
            .fix("fetch the index and its shards from one place"));
    }
    let archive = Archive { format: Format::Shards, arrays, notes: BTreeMap::new(), beside: names };
    Ok((archive.check(bytes.len()).map_err(|f| f.error(path))?, files))
}

/// Maps the files of these names in the folder of `path`. A name with a folder in it is refused: a file of strangers says
/// nothing about other folders.
pub fn beside(path: &Path, names: &[String]) -> Result<Vec<Mapping>> {
    if names.len() > MAX_FILES {
        return Err(Error::file(path, format!("{} files beside it, at most {MAX_FILES} are supported", names.len()))
            .fix("save the network as one file"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let one = |name: &String| {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || name.contains('\\') {
            return Err(Error::file(path, format!("has values in `{name}`, which is not beside it"))
                .fix("save the network as one file"));
        }
        let file = folder.join(name);
        if !file.exists() {
            return Err(
                Error::file(path, format!("has values in `{name}`, which is missing")).fix("put it beside this file")
            );
        }
        Mapping::open(&file)
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::import::Foreign;
    use super::super::write::{Entry, write_to};
    use super::*;
    use std::path::PathBuf;

    fn put(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn shard(name: &str, value: f32) -> Vec<u8> {
        let mut out = Vec::new();
        write_to(&mut out, &BTreeMap::new(), &[Entry::f32(name, &[2], &[value; 2])]).unwrap();
        out
    }

    #[test]
    fn shards_are_one_file() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir, "1.safetensors", &shard("features.0.bias", 1.0));
        put(&dir, "2.safetensors", &shard("features.2.bias", 2.0));
        let index =
            |map: &str| put(&dir, "index.json", format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#).as_bytes());
        let both = r#""features.0.bias":"1.safetensors","features.2.bias":"2.safetensors""#;
        let file = Foreign::open(index(both)).unwrap();
        assert_eq!((file.format(), file.arrays().len()), (Format::Shards, 2));
        for (name, value) in [("features.0.bias", 1.0), ("features.2.bias", 2.0)] {
            assert_eq!(file.parameter(name, super::super::import::Norm::Keep).unwrap(), [value; 2]);
        }
        for (map, problem) in [
            (both.replace("2.safetensors", "1.safetensors"), "tensor `features.2.bias`: is not in the shard"),
            (both.replace("2.safetensors", "3.safetensors"), "`3.safetensors`, which is missing; put it beside"),
            (both.replace("2.safetensors", "../2.safetensors"), "which is not beside it"),
            (both.replace("2.safetensors", "/etc/hostname"), "which is not beside it"),
            (both.replace("2.safetensors", "index.json"), "is a shard, and not of safetensors"),
            ("1".into(), "no index of a safetensors file"),
        ] {
            let e = Foreign::open(index(&map)).err().unwrap().to_string();
            assert!(e.contains(problem) && !e.contains('\n'), "{e}");
        }
        let other = put(&dir, "config.json", b"{\"model_type\": \"vgg\"}");
        assert!(Foreign::open(other).err().unwrap().to_string().contains("missing field `weight_map`"));
    }
}
