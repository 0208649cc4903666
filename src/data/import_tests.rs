//! Small folders with the quirks of the real ones.

use super::*;

fn folder(files: &[&str], table: &[u8]) -> (tempfile::TempDir, CsvOptions) {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    std::fs::write(dir.path().join("t.csv"), table).unwrap();
    let target = |name: &str| Target { name: name.into(), column: name.into(), scale: (1.0, 7.0) };
    let opts = CsvOptions {
        table: dir.path().join("t.csv"),
        root: None,
        key: "id".into(),
        targets: TARGETS.map(target).into(),
        group: Group::None,
        keep: vec![],
        dataset: None,
        skip_rows: 0,
        delimiter: None,
    };
    (dir, opts)
}

#[test]
fn scales_are_mapped_by_their_ends() {
    let (_dir, mut opts) = folder(&["a.jpg", "b.jpg"], b"id,valence,arousal\na,1,4\nb,7,2.5\n");
    let rows = csv(&opts).unwrap().manifest.rows;
    assert_eq!((&rows[0].targets[..], &rows[1].targets[..]), (&[1.0, 5.0][..], &[9.0, 3.0][..]));
    opts.targets[1].scale = (-4.0, 4.0);
    assert_eq!(csv(&opts).unwrap().manifest.rows[0].targets[1], 9.0);
    opts.targets[1].scale = (1.0, 3.0);
    let e = csv(&opts).unwrap_err().to_string();
    assert!(
        e.ends_with(
            "t.csv: line 2, column arousal: `4` is outside the scale 1:3; declare the scale the ratings were given on"
        ),
        "{e}"
    );
    assert_eq!((scale("1:7").unwrap(), scale(" -3 : 3 ").unwrap()), ((1.0, 7.0), (-3.0, 3.0)));
    for text in ["7", "7:1", "1:1", "a:b", "1:inf", ""] {
        assert!(scale(text).is_err(), "{text}");
    }
}

#[test]
fn everything_unmatched_is_listed() {
    let table = b"about\nthe data\nid;valence;arousal;kind\nA 1;2;3;x\nnone;2;3;x\nb.bmp;4,5;3;y\na 1.jpg;2;2;x\nc;NA;3;x\n;1;1;z\n";
    let (_dir, mut opts) = folder(&["pics/A 1 .JPG", "pics/b.png", "pics/c.gif", "pics/d.jpg", "e.heic"], table);
    opts.skip_rows = 2;
    opts.group = Group::Column("kind".into());
    opts.keep = vec![("Kind".into(), "what".into())];
    let import = csv(&opts).unwrap();
    let paths: Vec<_> = import.manifest.rows.iter().map(|r| (r.path.as_str(), r.group.as_deref())).collect();
    assert_eq!(paths, [("pics/A 1 .JPG", Some("x")), ("pics/b.png", Some("y"))]);
    assert_eq!(import.manifest.rows[1].targets[0], 4.5_f32 / 6.0 * 8.0 - 8.0 / 6.0 + 1.0);
    assert_eq!(import.manifest.labels("what").unwrap(), [Some("x".to_string()), Some("y".to_string())]);
    let rows: Vec<_> = import.unmatched_rows.iter().map(|(row, why)| format!("{row}: {why}")).collect();
    assert_eq!(
        rows,
        [
            "line 5 `none`: no such file",
            "line 7 `a 1.jpg`: pics/A 1 .JPG already has the ratings of line 4",
            "line 8 `c`: no rating in column valence",
            "line 9 ``: no picture is named",
        ]
    );
    assert_eq!(import.unmatched_files.len(), 3);
    let report = import.summary() + &import.unmatched_csv();
    for part in
        ["2 pictures with ratings, 2 groups", "4 rows without", "3 pictures without", "e.heic", "another ending"]
    {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn wrong_requests_are_one_line() {
    let (dir, opts) = folder(&["a.jpg"], b"id,valence,arousal\na,one,2\n");
    let fails = |opts: CsvOptions, part: &str| {
        let e = csv(&opts).unwrap_err().to_string();
        assert!(e.contains(part) && !e.contains('\n'), "{e}");
    };
    fails(opts.clone(), "line 2, column valence: `one` is not a number");
    fails(CsvOptions { key: "name".into(), ..opts.clone() }, "no column `name`; choose one of: id, valence, arousal");
    fails(CsvOptions { table: dir.path().join("none.csv"), ..opts.clone() }, "none.csv: cannot read");
    fails(CsvOptions { table: dir.path().into(), ..opts.clone() }, "is a folder");
    fails(CsvOptions { root: Some(dir.path().join("a.jpg")), ..opts.clone() }, "is not a folder");
    fails(CsvOptions { skip_rows: 9, ..opts.clone() }, "nothing is left");
    std::fs::write(&opts.table, b"id,valence,arousal\nz,1,2\n").unwrap();
    fails(opts.clone(), "none of 1 rows can be used, the first: line 2 `z`: no such file");
    std::fs::write(&opts.table, b"PK\x03\x04....").unwrap();
    fails(opts, "Save As");
}

#[test]
fn oasis_as_it_is_unpacked() {
    let table = b",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N\r\
        I1,Acorns 1,Object,Pixabay,4,1,100,2.5,1,100\rI2,Crosswalk 1 ,Scene,x,1,1,9,7,1,9\rI3,War 2 ,Scene,x,1,1,9,7,1,9\r";
    let names = ["Acorns 1.jpg", "Crosswalk 1 .jpg", "War 2.JPG", "Left 1.jpg"];
    for inner in ["", "OASIS_database_2016/"] {
        let files = names.map(|n| format!("{inner}images/{n}"));
        let (dir, _) = folder(&files.each_ref().map(String::as_str), b"");
        std::fs::write(dir.path().join(inner).join("OASIS.csv"), table).unwrap();
        let import = oasis(dir.path()).unwrap();
        assert_eq!(import.manifest.groups(), ["Acorns", "Crosswalk", "War"].map(|g| Some(g.to_string())));
        assert_eq!(import.manifest.rows[0].targets, [5.0, 3.0]);
        assert_eq!(import.manifest.labels("id").unwrap()[2].as_deref(), Some("I3"));
        assert_eq!((import.unmatched_rows.len(), import.unmatched_files.len()), (0, 1));
        for i in 0..3 {
            assert!(import.manifest.file(i).is_file());
        }
        let out = dir.path().join("manifest.csv");
        import.manifest.write(&out).unwrap();
        let back = Manifest::read(&out, &TARGETS).unwrap();
        assert!((0..3).all(|i| back.file(i).is_file()));
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(oasis(empty.path()).unwrap_err().to_string().contains("no OASIS.csv"));
    assert!(oasis(empty.path().join("none")).is_err());
}
