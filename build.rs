//! Embeds the drawings of `src/bundled/emoji`: the table in `OUT_DIR/drawings.rs`.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    embed_drawings();
}

/// Writes `DRAWINGS`, every PNG of the folder as (file name, bytes), sorted by name.
fn embed_drawings() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/emoji");
    println!("cargo:rerun-if-changed=src/bundled/emoji");
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
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join("drawings.rs");
    fs::write(&out, table).unwrap_or_else(|e| panic!("cannot write {}: {e}", out.display()));
}
