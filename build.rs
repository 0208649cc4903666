//! Embeds the photographs of `src/bundled/photographs` (the table in `OUT_DIR/photographs.rs`) and the weights beside them,
//! and says which commit a release is built on.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    embed_photographs();
    embed_weights();
    embed_kernels();
    name_version();
}

/// Sets `DEEP_AFFECT_VERSION`: the package's version and, of a release that is built in a clone, the commit that it is built
/// on. Other profiles go without: every commit would compile everything again.
fn name_version() {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8(out.stdout).ok()?.trim().to_string())
    };
    let mut version = env::var("CARGO_PKG_VERSION").unwrap();
    // Within somebody else's repository the commit would be theirs.
    let own = || git(&["rev-parse", "--show-prefix"]).is_some_and(|p| p.is_empty());
    if env::var("PROFILE").is_ok_and(|p| p == "release")
        && own()
        && let (Some(log), Some(commit)) =
            (git(&["rev-parse", "--git-path", "logs/HEAD"]), git(&["rev-parse", "--short=12", "HEAD"]))
    {
        println!("cargo:rerun-if-changed={log}");
        write!(version, " ({commit})").unwrap();
    }
    println!("cargo:rustc-env=DEEP_AFFECT_VERSION={version}");
}

/// Writes `SOURCES`, every file under `kernels/` as (path, text), sorted by path.
fn embed_kernels() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("kernels");
    println!("cargo:rerun-if-changed=kernels");
    let mut all = vec![];
    let mut folders = vec![folder.clone()];
    while let Some(dir) = folders.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display()));
        for path in entries.map(|e| e.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => all.push(path),
            }
        }
    }
    let name = |p: &Path| p.strip_prefix(&folder).unwrap().to_str().expect("a path in UTF-8").to_string();
    write("kernels.rs", &table("SOURCES: &[(&str, &str)]", "include_str", all, name));
}

/// Writes `WEIGHTS`, every file of `src/bundled/weights` as (stem, bytes). The folder may be missing: the files in it are
/// made by this very program. (An aligned copy would save a small copy at start, and cost the compiler two minutes.)
fn embed_weights() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/weights");
    // The folder above: naming one that does not exist would run this at every build.
    println!("cargo:rerun-if-changed=src/bundled");
    let mut files: Vec<_> = fs::read_dir(&folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    write("weights.rs", &table("WEIGHTS: &[(&str, &[u8])]", "include_bytes", files, |p| text(p.file_stem())));
}

/// The source of a static table of files, sorted: (name, contents). Paths are told relative to the package, which may
/// have moved when the table is compiled again.
fn table(declared: &str, include: &str, mut files: Vec<PathBuf>, name: impl Fn(&Path) -> String) -> String {
    files.sort();
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let mut text = format!("pub static {declared} = &[\n");
    for path in &files {
        let inner = Path::new("/").join(path.strip_prefix(&root).expect("a file of the package"));
        let inner = inner.to_str().expect("a path in UTF-8");
        writeln!(text, "({:?}, {include}!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {inner:?}))),", name(path)).unwrap();
    }
    text + "];\n"
}

fn text(name: Option<&std::ffi::OsStr>) -> String {
    name.and_then(|n| n.to_str()).expect("a name in UTF-8").to_string()
}

fn write(name: &str, text: &str) {
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join(name);
    fs::write(&out, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", out.display()));
}

/// Writes `PHOTOGRAPHS`, every JPEG of the folder as (file name, bytes), sorted by name.
fn embed_photographs() {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/bundled/photographs");
    let files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jpg"))
        .collect();
    write("photographs.rs", &table("PHOTOGRAPHS: &[(&str, &[u8])]", "include_bytes", files, |p| text(p.file_name())));
}
