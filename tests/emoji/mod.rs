//! Drawings of emoji with the sentiment of the tweets they are used in, and three tiny towers trained on them: data for tests
//! and for the examples of `pretrain` and `train-face` (README.md beside this file).

use std::fs;
use std::path::{Path, PathBuf};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emoji")
}

/// Copies the set into a folder; its manifest.
#[allow(dead_code, reason = "not every test that has towers has drawings")]
pub fn unpack(to: &Path) -> PathBuf {
    fs::create_dir_all(to.join("emoji")).unwrap();
    for file in fs::read_dir(here().join("emoji")).unwrap().map(|f| f.unwrap().path()) {
        fs::copy(&file, to.join("emoji").join(file.file_name().unwrap())).unwrap();
    }
    fs::copy(here().join("emoji.csv"), to.join("emoji.csv")).unwrap();
    to.join("emoji.csv")
}

/// Weight files of `pretrain`, by the tower's name.
#[allow(dead_code, reason = "not every test that has drawings has towers")]
pub fn towers() -> [(&'static str, Vec<u8>); 3] {
    ["object", "scene", "face"]
        .map(|name| (name, fs::read(here().join(format!("weights/{name}.safetensors"))).unwrap()))
}
