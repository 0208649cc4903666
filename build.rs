//! Embeds the drawings of `src/bundled/emoji` (the table in `OUT_DIR/drawings.rs`) and, if there is one, the toy model.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    embed_drawings();
    embed_toy();
}

/// Writes `TOY`, the bytes of `src/bundled/toy.safetensors` or None, aligned so that tensors need no copy.
fn embed_toy() {
    let path = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/toy.safetensors");
    // The folder: naming a file that does not exist would run this at every build.
    println!("cargo:rerun-if-changed=src/bundled");
    let table = if path.is_file() {
        format!(
            "#[repr(C, align(64))]\nstruct Aligned<T: ?Sized>(T);\n\
            static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?}));\n\
            static TOY: Option<&[u8]> = Some(&ALIGNED.0);\n"
        )
    } else {
        "static TOY: Option<&[u8]> = None;\n".to_string()
    };
    write("toy.rs", &table);
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
