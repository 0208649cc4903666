//! Embeds the drawings of `src/bundled/emoji` (the table in `OUT_DIR/drawings.rs`) and the weights beside them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    embed_drawings();
    embed_weights();
}

/// Writes `WEIGHTS`, every file of `src/bundled/weights` as (stem, bytes). The folder may be missing: the files in it are
/// made by this very program. (An aligned copy would save a small copy at start, and cost the compiler two minutes.)
fn embed_weights() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/weights");
    // The folder above: naming one that does not exist would run this at every build.
    println!("cargo:rerun-if-changed=src/bundled");
    let mut files: Vec<_> = fs::read_dir(&folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    write("weights.rs", &table("WEIGHTS", files, |p| p.file_stem().unwrap().to_str().unwrap()));
}

/// The source of a static table of files: (name, bytes), sorted.
fn table(table: &str, mut files: Vec<PathBuf>, name: impl Fn(&Path) -> &str) -> String {
    files.sort();
    let mut text = format!("pub static {table}: &[(&str, &[u8])] = &[\n");
    for path in &files {
        writeln!(text, "({:?}, include_bytes!({:?})),", name(path), path.to_str().expect("a path in UTF-8")).unwrap();
    }
    text + "];\n"
}

fn write(name: &str, text: &str) {
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join(name);
    fs::write(&out, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", out.display()));
}

/// Writes `DRAWINGS`, every PNG of the folder as (file name, bytes), sorted by name.
fn embed_drawings() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/emoji");
    let files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    write("drawings.rs", &table("DRAWINGS", files, |p| p.file_name().unwrap().to_str().unwrap()));
}
