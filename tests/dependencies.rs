//! What the program is made of beside its own code: how many crates, under which licences, and that THIRD-PARTY-NOTICES
//! names them. Two calls of cargo, which need no network; some tenths of a second.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Most crates of the default tree, this one included: what `cargo tree -e normal,build --prefix none | sed 's/ (\*)//' |
/// sort -u` lists, on the machine that builds.
const MOST: usize = 91;
/// The platform that the notices are for, where packages are built.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    let out = cargo.current_dir(root()).args(arguments).args(["--offline", "--locked"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Names and versions.
fn tree(arguments: &[&str]) -> BTreeSet<(String, String)> {
    let text = cargo(&[&["tree", "--prefix", "none"], arguments].concat());
    let crate_of = |line: &str| {
        let mut words = line.split(' ').map(String::from);
        (words.next().unwrap(), words.next().unwrap().trim_start_matches('v').into())
    };
    text.lines().filter(|l| !l.is_empty()).map(crate_of).collect()
}

/// What cargo knows of each package of the lock file that it has here.
fn packages() -> BTreeMap<(String, String), Value> {
    let text = cargo(&["metadata", "--format-version", "1", "--filter-platform", PLATFORM]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let text = |p: &Value, key: &str| p[key].as_str().unwrap_or_default().to_string();
    let packages = all["packages"].as_array().unwrap().iter();
    packages.map(|p| ((text(p, "name"), text(p, "version")), p.clone())).collect()
}

/// The licences of deny.toml, the one place where they are listed.
fn allowed() -> BTreeSet<String> {
    let deny: toml::Table = toml::from_str(&fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();
    let list = deny["licenses"]["allow"].as_array().unwrap();
    list.iter().map(|l| l.as_str().unwrap().to_string()).collect()
}

/// Whether an SPDX expression can be met: one side of every OR, both of every AND. `/` is an old way to write OR.
fn met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    met && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed);
        *at += 1;
        return met && words.get(*at - 1) == Some(&")");
    }
    if words.get(*at) != Some(&"WITH") {
        return allowed.contains(word);
    }
    *at += 2;
    words.get(*at - 1).is_some_and(|exception| allowed.contains(&format!("{word} WITH {exception}")))
}

#[test]
fn expressions_of_licences() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
    for good in
        ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception AND MIT"]
    {
        assert!(met(good, &allowed), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND BSD", "Apache-2.0", "MIT WITH x", "(MIT", "MIT ISC"]
    {
        assert!(!met(bad, &allowed), "{bad}");
    }
}

#[test]
fn the_tree_stays_small() {
    let crates = tree(&["-e", "normal,build"]);
    println!("crates {} of {MOST}", crates.len());
    let names: Vec<&str> = crates.iter().map(|c| c.0.as_str()).collect();
    assert!(crates.len() <= MOST, "{} crates, at most {MOST}: {}", crates.len(), names.join(" "));
}

#[test]
fn every_licence_is_allowed() {
    let (allowed, packages) = (allowed(), packages());
    for key in tree(&["-e", "normal,build,dev", "--target", PLATFORM]).iter().filter(|c| c.0 != "deep-affect") {
        let licence = packages[key]["license"].as_str().unwrap_or_default();
        assert!(met(licence, &allowed), "{} {}: `{licence}` is not in deny.toml", key.0, key.1);
    }
}

/// Files of a package that state a licence; where it may be had under the MIT licence, those alone.
fn texts(package: &Value) -> Vec<String> {
    let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let begins = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT", "UNLICENSE"];
    let mut files: Vec<String> =
        names.filter(|n| begins.iter().any(|b| n.to_uppercase().starts_with(b)) && folder.join(n).is_file()).collect();
    files.sort();
    if files.iter().any(|f| f.to_uppercase().contains("MIT")) {
        files.retain(|f| f.to_uppercase().contains("MIT"));
    }
    let text = |file: &String| {
        let text = String::from_utf8_lossy(&fs::read(folder.join(file)).unwrap()).replace("\r\n", "\n");
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n").trim_matches('\n').to_string()
    };
    files.iter().map(text).collect()
}

/// The crates that are linked, then every text once with those that it belongs to.
fn notices() -> String {
    let packages = packages();
    let mut linked = tree(&["-e", "normal,no-proc-macro", "--target", PLATFORM]);
    linked.retain(|c| c.0 != "deep-affect");
    let mut out = format!(
        "Third-party notices of deep-affect\n\n\
         What the program links beside its own code, on {PLATFORM}: Rust's standard library (MIT OR Apache-2.0,\n\
         https://github.com/rust-lang/rust) and these crates. Their texts follow, each once. Where a crate offers a choice that\n\
         includes the MIT licence, that one was taken. The data that the program holds are not in this list: src/bundled/NOTICE,\n\
         src/bundled/weights/NOTICE and src/bundled/classes/NOTICE say whose they are.\n\n"
    );
    let mut shared: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for (name, version) in &linked {
        let package = &packages[&(name.clone(), version.clone())];
        let [licence, home] = ["license", "repository"].map(|key| package[key].as_str().unwrap_or_default());
        // The repository; some name a folder within it.
        let home = home.split("/tree/").next().unwrap_or_default();
        let crate_of = format!("{name} {version}");
        out += format!("   {crate_of:<28} {licence:<50} {home}").trim_end();
        out += "\n";
        let texts = texts(package);
        assert!(!texts.is_empty(), "{crate_of} has no text of its licence: add one by hand");
        for text in texts {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            shared.entry(words).or_insert((text, vec![])).1.push(crate_of.clone());
        }
    }
    let mut texts: Vec<_> = shared.into_values().collect();
    texts.sort_by(|a, b| a.1.cmp(&b.1));
    for (text, crates) in texts {
        out += &format!("\n\n{}\n{}\n{0}\n\n{text}\n", "=".repeat(80), crates.join(", "));
    }
    out
}

/// `NOTICES=write cargo test --test dependencies` writes the file.
#[test]
fn the_notices_name_every_linked_crate() {
    let file = root().join("THIRD-PARTY-NOTICES");
    let made = notices();
    if std::env::var_os("NOTICES").is_some_and(|v| v == "write") {
        fs::write(&file, &made).unwrap();
    }
    let said = fs::read_to_string(&file).unwrap_or_default();
    let line = said.lines().zip(made.lines()).find(|(a, b)| a != b);
    assert!(
        said == made,
        "THIRD-PARTY-NOTICES is not up to date: {line:?}; NOTICES=write cargo test --test dependencies"
    );
}

/// The package says what its data are under, and has all these files.
#[test]
fn the_package_has_its_licences() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let licence = manifest["package"]["license"].as_str().unwrap();
    let python: toml::Table = toml::from_str(&fs::read_to_string(root().join("pyproject.toml")).unwrap()).unwrap();
    assert_eq!(python["project"]["license"]["text"].as_str(), Some(licence));
    for (part, file) in [
        ("MIT", "LICENSE-MIT"),
        ("Apache-2.0", "LICENSE-APACHE"),
        ("CC-BY-4.0", "src/bundled/weights/NOTICE"),
        ("CC0-1.0", "src/bundled/NOTICE"),
        ("BSD-3-Clause", "src/bundled/classes/NOTICE"),
    ] {
        assert!(licence.contains(part) && root().join(file).is_file(), "{part} {file}");
    }
    let packed = cargo(&["package", "--list", "--allow-dirty"]);
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-NOTICES", "deny.toml", "src/bundled/weights/NOTICE"] {
        assert!(packed.lines().any(|l| l == file), "{file} is not in the package");
    }
}
