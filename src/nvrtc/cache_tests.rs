use super::*;
use crate::nvrtc::tests::{UNIT, kernel, present};
use std::fs;

fn add() -> Vec<Unit> {
    vec![Unit { source: "arith.cu", defines: vec![("THREADS", 256)] }]
}

fn example() -> Compiled {
    let resources = vec![Resources { entry: "k".into(), registers: 8, ..Resources::default() }];
    Compiled { cubin: vec![1, 2, 3], ptx: ".version 9.0".into(), resources, warnings: vec!["one\ntwo".into()] }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir.join("kernels")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn no_changed_bit_is_believed() {
    let bytes = encode(&example());
    assert_eq!(decode(&bytes), Some(example()));
    for i in 0..bytes.len() {
        let mut other = bytes.clone();
        other[i] ^= 1;
        assert_eq!(decode(&other), None, "byte {i}");
        assert_eq!(decode(&bytes[..i]), None, "length {i}");
    }
    // Lengths that lead outside, under a checksum that holds.
    let mut wild = [&[0; 3][..], &u64::MAX.to_le_bytes().repeat(3)].concat();
    wild.extend(checksum(&wild).to_le_bytes());
    assert_eq!(decode(&wild), None);
}

#[test]
fn everything_that_matters_is_in_the_key() {
    let name = |unit: &Unit, source: &KernelText, target: Target| Key::new(unit, source, target).prefix();
    let (unit, source, target) = (UNIT, kernel("#define TWO 2"), Target::new(80));
    let base = name(&unit, &source, target);
    assert!(base.starts_with("a-sm_80-"));
    assert_eq!(base, name(&unit, &kernel("#define TWO 2"), target));
    let defined = |defines| Unit { defines, ..UNIT };
    let others = [
        name(&unit, &kernel("#define TWO 3"), target),
        name(&defined(vec![("A", 1)]), &source, target),
        name(&defined(vec![("A", 11)]), &source, target),
        name(&defined(vec![("A", 1), ("B", 1)]), &source, target),
        name(&Unit { source: "b.cu", ..UNIT }, &source, target),
        name(&unit, &source, Target::new(86)),
        name(&unit, &source, Target { compute: 80, specific: true }),
    ];
    let mut all: Vec<_> = others.iter().chain([&base]).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), others.len() + 1);
}

#[test]
fn the_newest_entry_serves_where_there_is_no_compiler() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::within(dir.path());
    let key = Key::new(&UNIT, &kernel(""), Target::new(80));
    assert_eq!(cache.read(&key, None), None);
    let versions = [(12, 9), (13, 10), (13, 9)].map(|(major, minor)| Version { major, minor });
    for version in versions {
        cache.write(&key, version, &Compiled { ptx: version.to_string(), ..example() });
    }
    assert_eq!(cache.read(&key, None).unwrap().ptx, "13.10");
    assert_eq!(cache.read(&key, Some(versions[0])).unwrap().ptx, "12.9");
    assert_eq!(cache.read(&key, Some(Version { major: 14, minor: 0 })), None);
    assert_eq!(cache.read(&Key::new(&UNIT, &kernel(" "), Target::new(80)), None), None);
}

#[test]
fn damage_is_compiled_again() {
    if !present() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::within(dir.path());
    let get = || compile_all(&add(), Target::new(80), &cache).unwrap();
    let fresh = get();
    assert_eq!(fresh, compile_all(&add(), Target::new(80), &Cache::default()).unwrap());
    let path = &entries(dir.path())[0];
    let good = fs::read(path).unwrap();
    assert_eq!(decode(&good).unwrap(), *fresh[0]);
    for bad in [vec![], good[..good.len() / 2].to_vec(), vec![0; 100]] {
        fs::write(path, bad).unwrap();
        assert_eq!(get(), fresh);
        assert_eq!(fs::read(path).unwrap(), good);
    }
    assert_eq!(entries(dir.path()).len(), 1, "no temporary file is left");
}

#[test]
fn what_is_there_is_not_compiled_again() {
    if !present() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::within(dir.path());
    compile_all(&add(), Target::new(80), &cache).unwrap();
    let path = &entries(dir.path())[0];
    fs::write(path, encode(&example())).unwrap();
    assert_eq!(*compile_all(&add(), Target::new(80), &cache).unwrap()[0], example());
}

#[test]
fn one_folder_serves_many_at_once() {
    if !present() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|s| {
        let all: Vec<_> = (0..8)
            .map(|_| s.spawn(|| compile_all(&add(), Target::new(75), &Cache::within(dir.path())).unwrap()))
            .collect();
        let all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(all.iter().all(|c| *c == all[0]));
    });
    assert_eq!(entries(dir.path()).len(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_done_without() {
    if !present() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let cache = Cache::within(&file);
    assert_eq!(compile_all(&add(), Target::new(80), &cache).unwrap().len(), 1);
    assert!(cache.is_unwritable());
}

/// An entry with a good checksum, in a folder where others may have put it.
#[cfg(unix)]
#[test]
fn entries_that_strangers_can_have_written_are_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::within(dir.path());
    let (key, version) = (Key::new(&UNIT, &kernel(""), Target::new(80)), Version { major: 13, minor: 0 });
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let put = || cache.write(&key, version, &example());
    let found = || cache.read(&key, Some(version)).is_some();
    put();
    let (folder, entry) = (cache.folder().unwrap(), entries(dir.path())[0].clone());
    assert!(found() && cache.entries() == 1);
    assert_eq!([folder, &entry].map(|p| fs::metadata(p).unwrap().permissions().mode() & 0o022), [0, 0]);
    for open in [0o777, 0o775, 0o1777] {
        mode(folder, open);
        assert!(!found() && cache.entries() == 0, "{open:o}");
        fs::remove_file(&entry).unwrap();
        put();
        assert!(!entry.exists(), "nothing is kept where nothing is believed");
        mode(folder, 0o755);
        put();
        assert!(found());
    }
    mode(dir.path(), 0o777);
    assert!(!found() && cache.beside("tiles").unwrap().distrusted().is_some());
    mode(dir.path(), 0o700);
    for open in [0o666, 0o664] {
        mode(&entry, open);
        assert!(!found() && !entry.exists(), "{open:o}: it goes, and is made again");
        put();
        assert!(found());
    }
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&entry, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &entry).unwrap();
    assert!(!found() && elsewhere.exists());
}
