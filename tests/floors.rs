//! The floors of the crate documentation, enforced: what is outside tests uses only lower floors,
//! modules left of it on its own floor, and itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Module to (floor, place on it), from the table in `lib.rs`: there is no other list.
fn floors() -> BTreeMap<String, (u32, usize)> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let mut floors = BTreeMap::new();
    for line in lib.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Ok(floor) = cells[1].parse() else { continue };
        for (place, module) in cells[2].split_whitespace().enumerate() {
            let module = module.trim_matches(['[', ']', '`']);
            assert!(floors.insert(module.to_string(), (floor, place)).is_none(), "{module} is on two floors");
        }
    }
    let declared =
        lib.lines().filter_map(|l| l.strip_prefix("pub ").unwrap_or(l).strip_prefix("mod ")?.strip_suffix(';'));
    let (mut declared, mut listed): (Vec<_>, Vec<_>) =
        (declared.collect(), floors.keys().map(String::as_str).collect());
    declared.sort();
    listed.sort();
    assert_eq!(declared, listed, "the modules of lib.rs and its table");
    floors
}

fn files(dir: &Path, to: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, to);
        } else if path.extension().is_some_and(|e| e == "rs") {
            to.push(path);
        }
    }
    to.sort();
}

/// The text without comments and without tests, which stand behind everything else (`clippy::items_after_test_module`). Line
/// breaks stay. Strings are taken for code: a path in one would be a complaint, not a blind eye.
fn code(text: &str) -> String {
    let head = if text.starts_with("/*!") { text.find("*/").map_or(text.len(), |end| end + 2) } else { 0 };
    let (head, rest) = text.split_at(head);
    let rest = rest.split("#[cfg(test)]\nmod tests {").next().unwrap_or(rest);
    let bare = rest.lines().map(|line| line.split("//").next().unwrap_or(line));
    "\n".repeat(head.matches('\n').count()) + &bare.collect::<Vec<_>>().join("\n")
}

/// Modules named after `crate::`, with their line; braces (`use crate::{a, b::c}`) included.
fn references(code: &str) -> Vec<(usize, String)> {
    let mut found = vec![];
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') && !code[..at].ends_with('$') {
            continue;
        }
        let line = |at: usize| code[..at].matches('\n').count() + 1;
        let from = at + "crate::".len();
        let word = |at: usize| {
            let name: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            (line(at), name)
        };
        if !code[from..].starts_with('{') {
            found.push(word(from));
            continue;
        }
        let mut depth = 0;
        let mut fresh = false;
        for (i, c) in code[from..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && (c == '{' || c == ',') {
                fresh = true;
            } else if fresh && (c.is_alphabetic() || c == '_') {
                found.push(word(from + i));
                fresh = false;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Files that a `#[path = …] mod` under `#[cfg(test)]` or a `mod tests;` includes.
fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    stem == "tests" || stem.ends_with("_tests") || path.components().any(|c| c.as_os_str() == "tests")
}

#[test]
fn modules_use_what_is_below_or_left_of_them() {
    let floors = floors();
    let mut all = vec![];
    files(&source(), &mut all);
    let mut wrong = vec![];
    let mut seen = 0;
    for path in all {
        let inner = path.strip_prefix(source()).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) || is_test_file(inner) {
            continue;
        }
        let own = floors[module];
        for (line, name) in references(&code(&fs::read_to_string(&path).unwrap())) {
            let Some(&floor) = floors.get(&name) else { continue };
            seen += 1;
            if name != module && floor >= own {
                let place = format!("src/{}:{line}", inner.display());
                wrong.push(format!("{place}: `{module}` (floor {}) uses `{name}` (floor {})", own.0, floor.0));
            }
        }
    }
    assert!(seen > 200, "only {seen} references found: has the test gone blind?");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn what_counts_as_a_reference() {
    let text = "/*! crate::page\ncrate::page */
use crate::{alpha, beta::{x, y}, gamma as g};
// crate::comment
fn f() { crate::delta::f(); mycrate::no(); } // crate::remark
#[cfg(test)]
mod more;
fn last() { crate::epsilon::f() }
#[cfg(test)]
mod tests {
    use crate::omega;
}
";
    let expected = [(3, "alpha"), (3, "beta"), (3, "gamma"), (5, "delta"), (8, "epsilon")];
    assert_eq!(references(&code(text)), expected.map(|(l, n)| (l, n.to_string())));
}

/// How often each module says `unsafe`, outside of tests: for blocks, functions, types of functions and implementations. Every
/// one is a promise that a reader has to check, so none comes without another going, or without its reason here.
const UNSAFE: [(&str, usize); 10] = [
    // How much room a disk has.
    ("atomic", 1),
    // Signals.
    ("cli", 3),
    // The CUDA driver and what it is told, of tensors by a function that not every driver has (2); the functions of NCCL (25); on
    // the CPU, a value that lives in a mapping, and the operands of routines.
    ("device", 69),
    // Who this user is.
    ("files", 1),
    // Vector instructions (a comparison, a choice and a NaN that stays are three more, at each of four levels), outputs that
    // several tasks write, the sums of batch norms, whose vectors read what was measured once for all, weights in 16 bits, which
    // vectors of each level widen as they read them, and the transforms of 3x3 convolutions, whose vectors read and write what
    // a task keeps for itself.
    ("host", 172),
    // Operands as slices.
    ("launch", 6),
    // Files in the address space, and the signal of one that shrinks.
    ("mapped", 6),
    // The functions of NVRTC; on Windows, that no library comes from the current folder.
    ("nvrtc", 14),
    // Loops that are compiled a second time for wide vectors.
    ("sim", 5),
    // Pages of a mapping that are given back.
    ("weights", 1),
];

#[test]
fn unsafe_code_does_not_spread() {
    let mut all = vec![];
    files(&source(), &mut all);
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for path in all {
        let inner = path.strip_prefix(source()).unwrap();
        if is_test_file(inner) {
            continue;
        }
        let text = code(&fs::read_to_string(&path).unwrap());
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| *w == "unsafe").count();
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        *found.entry(first.trim_end_matches(".rs").into()).or_default() += words;
    }
    found.retain(|_, n| *n > 0);
    let listed: BTreeMap<String, usize> = UNSAFE.iter().map(|(m, n)| (m.to_string(), *n)).collect();
    assert_eq!(
        found, listed,
        "`unsafe` by module, found and listed: fewer is a smaller number here, more needs a reason"
    );
}
