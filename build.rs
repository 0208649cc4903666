//! Embeds the drawings of `src/bundled/emoji` (the table in `OUT_DIR/drawings.rs`) and the weights beside them.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    embed_drawings();
    embed_weights();
}

/// Writes `WEIGHTS`, every file of `src/bundled/weights` as (stem, bytes), aligned so that tensors need no copy. The
/// folder may be missing: the files in it are made by this very program.
fn embed_weights() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/weights");
    // The folder above: naming one that does not exist would run this at every build.
    println!("cargo:rerun-if-changed=src/bundled");
    let mut files: Vec<_> = fs::read_dir(&folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    let mut table = String::new();
    if !files.is_empty() {
        table.push_str("#[repr(C, align(64))]\nstruct Aligned<T: ?Sized>(T);\n");
    }
    table.push_str("pub static WEIGHTS: &[(&str, &[u8])] = &[\n");
    for path in files {
        let (name, path) = (path.file_stem().unwrap().to_str().unwrap(), path.to_str().expect("a path in UTF-8"));
        writeln!(table, "({name:?}, {{ static A: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?})); &A.0 }}),")
            .unwrap();
    }
    table.push_str("];\n");
    write("weights.rs", &table);
}

fn write(name: &str, text: &str) {
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join(name);
    fs::write(&out, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", out.display()));
}

/// Writes `DRAWINGS`, every PNG of the folder as (file name, bytes), sorted by name.
fn embed_drawings() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/emoji");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    files.sort();
    let mut table = String::from("pub static DRAWINGS: &[(&str, &[u8])] = &[\n");
    for path in files {
        let (name, path) = (path.file_name().unwrap().to_str().unwrap(), path.to_str().expect("a path in UTF-8"));
        writeln!(table, "({name:?}, include_bytes!({path:?})),").unwrap();
    }
    table.push_str("];\n");
    write("drawings.rs", &table);
}
