//! Published sets as people meet them on the command line.

use deep_affect::data::import::SETS;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    program.args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The run succeeds; what it printed.
fn good(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout).to_string()
}

/// The run fails with this code and one line that has all `parts`.
fn bad(dir: &Path, args: &[&str], code: i32, parts: &[&str]) {
    let out = run(dir, args);
    let err = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
    assert!(err.starts_with("error: ") && err.lines().count() == 1, "{args:?}: {err}");
    for part in parts {
        assert!(err.contains(part), "{args:?}: no `{part}` in {err}");
    }
}

fn put(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_list_the_help_and_the_readme_agree() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = good(here, &["import", "--help"]);
    let readme = fs::read_to_string(here.join("src/data/README.md")).unwrap();
    for set in SETS {
        assert!(help.contains(&format!("  {} ", set.name)), "{} is not in the help", set.name);
        let line = set.markdown();
        assert!(readme.contains(&line), "src/data/README.md lacks\n{line}");
        let own = good(here, &["import", set.name, "--help"]);
        assert!(own.contains("--out") && own.contains(set.holds.split(';').next().unwrap()), "{own}");
    }
}

#[test]
fn a_set_is_imported_and_what_is_left_out_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    for name in ["smid/img/b1_p1_1.jpg", "smid/img/b10_p135_4.gif", "smid/img/stray.png"] {
        put(&dir, name, "x");
    }
    let head = ",valence_mean,valence_sd,valence_n,arousal_mean,arousal_sd,arousal_n";
    put(
        &dir,
        "smid/SMID_norms.csv",
        format!("{head}\nb1_p1_1,2,0.5,30,3,1,31\nb10_p135_4,1,1,30,1,1,30\ngone,1,1,9,1,1,9\n"),
    );
    let said = good(p, &["import", "smid", "smid", "--out", "smid.csv"]);
    for part in [
        "1 pictures with ratings",
        "valence: 3.00 to 3.00",
        "1 GIF or TIFF",
        "2 rows without a picture",
        "1 pictures without a row",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let manifest = fs::read_to_string(p.join("smid.csv")).unwrap();
    assert_eq!(
        manifest,
        "path,valence,arousal,group,dataset,weight,fold,valence_sd,arousal_sd,valence_n,arousal_n\n\
         smid/img/b1_p1_1.jpg,3,5,,smid,1,,1,2,30,31\n"
    );
    let list = fs::read_to_string(p.join("smid.unmatched.csv")).unwrap();
    assert!(
        list.contains("row,line 3 `b10_p135_4`,\"b10_p135_4.gif is left out: a GIF or TIFF, as in the paper\"\n"),
        "{list}"
    );
    assert!(
        list.contains("row,line 4 `gone`,no such file\n")
            && list.contains("picture,stray.png,no usable row names it\n"),
        "{list}"
    );

    // Nothing is overwritten by what fails.
    put(&dir, "wrong.csv", "id,V,A\nb1_p1_1,2,3\nb1,1,1\nb2,1,1\n");
    bad(
        p,
        &["import", "smid", "smid", "--table", "wrong.csv", "--out", "smid.csv"],
        1,
        &["wrong.csv", "no column `valence_mean`", "id, V, A", "import csv"],
    );
    bad(p, &["import", "gaped", "smid", "--out", "smid.csv"], 1, &["smid: holds no A.txt", "--table"]);
    bad(
        p,
        &["import", "smid", "nowhere", "--out", "smid.csv"],
        1,
        &["nowhere: cannot list the folder", "check the path"],
    );
    put(&dir, "smid/SMID_norms.csv", format!("{head}\nb1_p1_1,6,0.5,30,3,1,31\n"));
    bad(
        p,
        &["import", "smid", "smid", "--out", "smid.csv"],
        1,
        &["SMID_norms.csv: line 2, column valence_mean: `6` is outside the scale 1:5"],
    );
    assert_eq!(fs::read_to_string(p.join("smid.csv")).unwrap(), manifest);
}

#[test]
fn a_workbook_by_named_columns() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    put(&dir, "Animals_001_h.jpg", "x");
    put(&dir, "Faces_002_v.jpg", "x");
    for name in ["naps.xls", "locked.xlsx"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets").join(name), p.join(name)).unwrap();
    }
    let base = ["import", "csv", "naps.xls", "--path-col", "ID", "--out", "naps.csv"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    let header = ["--skip-rows", "1", "--header-rows", "2", "--sheet", "ratings", "--scale", "1:9"];
    let columns = [
        "--valence-col",
        "All valence M",
        "--valence-sd-col",
        "All valence SD",
        "--keep",
        "label=Category",
        "--keep",
        "V/H",
    ];
    good(p, &with(&[&header[..], &columns].concat()));
    let manifest = fs::read_to_string(p.join("naps.csv")).unwrap();
    assert!(
        manifest.starts_with(
            "path,valence,group,dataset,weight,fold,valence_sd,label,V/H\nAnimals_001_h.jpg,2.57,,,1,,0.5,Animals,h\n"
        ),
        "{manifest}"
    );
    let labels = good(p, &with(&["--skip-rows", "2", "--keep", "label=Category"]));
    assert!(labels.starts_with("2 pictures, 0 groups\nlabels: Animals 1, Faces 1\n"), "{labels}");
    bad(p, &with(&["--skip-rows", "2"]), 2, &["neither a rating nor a label", "--keep label=COLUMN"]);
    bad(p, &with(&["--skip-rows", "2", "--valence-col", "M"]), 2, &["no scale for valence", "--scale"]);
    bad(
        p,
        &with(&["--skip-rows", "2", "--valence-col", "M", "--scale", "1:9"]),
        2,
        &["naps.xls: 9 columns are called `M`", "#6"],
    );
    bad(
        p,
        &with(&["--sheet", "other", "--keep", "ID"]),
        2,
        &["naps.xls: has no sheet `other`; choose one of: ratings"],
    );
    bad(
        p,
        &["import", "csv", "locked.xlsx", "--path-col", "ID", "--keep", "ID", "--out", "x.csv"],
        1,
        &["locked.xlsx: is locked by a password"],
    );
}

/// A picture like no other seed's.
fn picture(seed: u32) -> image::RgbImage {
    let block = |x: u32, y: u32| {
        let mut h = (x / 8 * 31 + y / 8 * 17 + 1).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        h = (h ^ h >> 15).wrapping_mul(0x2c1b_3c6d);
        (h >> 24) as u8 / 2 + 40
    };
    image::RgbImage::from_fn(48, 48, |x, y| image::Rgb([block(x, y), block(x, y), block(x, y)]))
}

#[test]
fn sets_are_merged_and_what_they_share_is_kept_together() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    fs::create_dir_all(p.join("a")).unwrap();
    fs::create_dir_all(p.join("b")).unwrap();
    for seed in 0..4 {
        picture(seed).save(p.join(format!("a/{seed}.png"))).unwrap();
    }
    picture(9).save(p.join("b/9.png")).unwrap();
    fs::copy(p.join("a/1.png"), p.join("b/copy.png")).unwrap();
    image::imageops::resize(&picture(2), 96, 96, image::imageops::Triangle).save(p.join("b/large.jpg")).unwrap();
    put(&dir, "b/broken.png", "no picture");
    put(
        &dir,
        "a/oasis.csv",
        "path,valence,arousal,group,dataset\n0.png,1,2,x,oasis\n1.png,2,3,x,oasis\n2.png,3,4,,oasis\n3.png,4,5,,oasis\n",
    );
    put(
        &dir,
        "b.csv",
        "path,valence,arousal,group\nb/9.png,9,1,\nb/copy.png,8,1,y\nb/large.jpg,7,1,\nb/broken.png,6,1,\n",
    );
    let out = run(p, &["merge", "a/oasis.csv", "b.csv", "--out", "all.csv", "--table", "sets.tex"]);
    let (said, noted) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{noted}");
    for part in ["oasis         4       2    1:7", "all           8", "1 pairs of equal files, 1 of similar pictures"] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    assert!(
        noted.contains("1 pictures cannot be read and were not compared, the first: ")
            && noted.contains("broken.png: "),
        "{noted}"
    );
    let manifest = fs::read_to_string(p.join("all.csv")).unwrap();
    for line in [
        "a/0.png,1,2,oasis/x,oasis,1,",
        "a/1.png,2,3,oasis/x,oasis,1,",
        "b/copy.png,8,1,oasis/x,b,1,",
        "a/2.png,3,4,similar-1,oasis,1,",
        "b/large.jpg,7,1,similar-1,b,1,",
        "a/3.png,4,5,,oasis,1,",
    ] {
        assert!(manifest.lines().any(|l| l == line), "no `{line}` in\n{manifest}");
    }
    let list = fs::read_to_string(p.join("all.duplicates.csv")).unwrap();
    let pairs: Vec<Vec<&str>> = list.lines().map(|l| l.split(',').collect()).collect();
    assert_eq!(pairs[0], ["path_a", "path_b", "kind", "distance_bits"]);
    assert!(
        pairs[1][0].ends_with("a/1.png") && pairs[1][1].ends_with("b/copy.png") && pairs[1][2..] == ["exact", "0"],
        "{list}"
    );
    assert!(
        pairs[2][0].ends_with("a/2.png") && pairs[2][1].ends_with("b/large.jpg") && pairs[2][2] == "similar",
        "{list}"
    );
    assert_eq!(pairs.len(), 3);
    assert!(fs::read_to_string(p.join("sets.tex")).unwrap().contains("\\begin{tabular}"));

    bad(
        p,
        &["merge", "b.csv", "b.csv", "--out", "x.csv"],
        1,
        &["b.csv: line 2: names a picture that b.csv, line 2 names already"],
    );
    bad(
        p,
        &["merge", "b.csv", "--out", "x.csv", "--table", "x.doc"],
        2,
        &["x.doc: ends in none of .md, .csv and .tex"],
    );
    bad(p, &["merge", "none.csv", "--out", "x.csv"], 1, &["none.csv", "check the path"]);
    bad(p, &["merge", "b.csv", "--out", "b"], 1, &["b: is a folder"]);
    assert!(!p.join("x.csv").exists());
    good(p, &["merge", "b.csv", "--out", "x.csv", "--unchecked", "--targets", ""]);
    assert!(!p.join("x.duplicates.csv").exists());
}
