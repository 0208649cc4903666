//! Small folders with the quirks of the real ones.

use super::sheet::{Group, Keep, Rated, Sheet};
use super::*;
use crate::data::manifest::TARGETS;
use std::path::PathBuf;

fn put(dir: &tempfile::TempDir, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|file| put(&dir, file, "x"));
    dir
}

const COLUMNS: Sheet = Sheet {
    valence: Rated { mean: &["valence"], sd: &[], n: &[] },
    arousal: Rated { mean: &["arousal"], sd: &[], n: &[] },
    ..Sheet::key(&["id"])
};

fn table(dir: &tempfile::TempDir, text: &[u8]) -> PathBuf {
    put(dir, "t.csv", text);
    dir.path().join("t.csv")
}

fn options(table: &Path) -> CsvOptions<'_> {
    CsvOptions {
        table,
        sheet: None,
        root: None,
        columns: COLUMNS,
        scales: [(1.0, 7.0); 3],
        dataset: None,
        skip_rows: 0,
        more_header: 0,
        delimiter: None,
    }
}

/// Reads a published set.
fn import(name: &str, dir: &tempfile::TempDir) -> Result<Import> {
    sets::set(name).unwrap().import(Unpacked::root(dir.path()))
}

/// Path and ratings of every row.
fn rows(import: &Import) -> Vec<(&str, &[f32])> {
    import.manifest.rows.iter().map(|r| (r.path.as_str(), &r.targets[..])).collect()
}

/// One column; empty texts where it is empty.
fn column(import: &Import, name: &str) -> Vec<String> {
    import.manifest.labels(name).unwrap().into_iter().map(Option::unwrap_or_default).collect()
}

fn reasons(import: &Import) -> Vec<String> {
    import.unmatched_rows.iter().map(|(row, why)| format!("{row}: {why}")).collect()
}

#[test]
fn scales_are_mapped_by_their_ends() {
    let dir = folder(&["a.jpg", "b.jpg"]);
    let file = table(&dir, b"id,valence,arousal\na,1,4\nb,7,2.5\n");
    let mut opts = options(&file);
    let rows = csv(&opts).unwrap().manifest.rows;
    assert_eq!((&rows[0].targets[..], &rows[1].targets[..]), (&[1.0, 5.0][..], &[9.0, 3.0][..]));
    opts.scales[1] = (-4.0, 4.0);
    assert_eq!(csv(&opts).unwrap().manifest.rows[0].targets[1], 9.0);
    opts.scales[1] = (1.0, 3.0);
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
fn dominance_is_a_third_rating_on_its_own_scale() {
    let dir = folder(&["a.jpg", "b.jpg"]);
    let file = table(&dir, b"id,valence,arousal,control,control_sd\na,1,7,50,25\nb,4,4,,\n");
    let dominance = Rated { mean: &["control"], sd: &["control_sd"], n: &[] };
    let mut opts = CsvOptions { columns: Sheet { dominance, ..COLUMNS }, ..options(&file) };
    opts.scales[2] = (0.0, 100.0);
    let found = csv(&opts).unwrap();
    assert_eq!((rows(&found), &*found.manifest.targets[2]), (vec![("a.jpg", &[1.0, 9.0, 5.0][..])], "dominance"));
    assert_eq!(column(&found, "dominance_sd"), ["2"]);
    assert_eq!(reasons(&found), ["line 3 `b`: no rating in column control"]);
    opts.scales[2] = (1.0, 9.0);
    assert!(csv(&opts).unwrap_err().to_string().contains("line 2, column control: `50` is outside the scale 1:9"));
}

#[test]
fn everything_unmatched_is_listed() {
    let text = b"about\nthe data\nid;valence;arousal;kind\nA 1;2;3;x\nnone;2;3;x\nb.bmp;4,5;3;y\na 1.jpg;2;2;x\nc;NA;3;x\n;1;1;z\n";
    let dir = folder(&["pics/A 1 .JPG", "pics/b.png", "pics/c.gif", "pics/d.jpg", "e.heic"]);
    let file = table(&dir, text);
    let keep = [Keep::new("what", &["Kind"])];
    let columns = Sheet { group: Group::Column("kind"), keep: &keep, ..COLUMNS };
    let opts = CsvOptions { skip_rows: 2, columns, ..options(&file) };
    let import = csv(&opts).unwrap();
    let paths: Vec<_> = import.manifest.rows.iter().map(|r| (r.path.as_str(), r.group.as_deref())).collect();
    assert_eq!(paths, [("pics/A 1 .JPG", Some("x")), ("pics/b.png", Some("y"))]);
    assert_eq!(import.manifest.rows[1].targets[0], 4.5_f32 / 6.0 * 8.0 - 8.0 / 6.0 + 1.0);
    assert_eq!(import.manifest.labels("what").unwrap(), [Some("x".to_string()), Some("y".to_string())]);
    let rows: Vec<_> = import.unmatched_rows.iter().map(|(row, why)| format!("{row}: {why}")).collect();
    assert_eq!(
        rows,
        [
            "line 8 `c`: no rating in column valence",
            "line 5 `none`: no such file",
            "line 7 `a 1.jpg`: pics/A 1 .JPG already has what line 4 says",
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
    let dir = folder(&["a.jpg"]);
    let file = table(&dir, b"id,valence,arousal\na,one,2\n");
    let opts = options(&file);
    let fails = |opts: CsvOptions, part: &str| {
        let e = csv(&opts).unwrap_err().to_string();
        assert!(e.contains(part) && !e.contains('\n'), "{e}");
    };
    fails(opts.clone(), "line 2, column valence: `one` is not a number");
    let columns = |key| Sheet { key, ..COLUMNS };
    fails(
        CsvOptions { columns: columns(&["name"]), ..opts.clone() },
        "no column `name`; choose one of: id, valence, arousal",
    );
    let sd = Sheet { valence: Rated { sd: &["sd"], ..COLUMNS.valence }, ..COLUMNS };
    fails(CsvOptions { columns: sd, ..opts.clone() }, "no column `sd`");
    fails(CsvOptions { table: &dir.path().join("none.csv"), ..opts.clone() }, "none.csv: cannot read");
    fails(CsvOptions { table: dir.path(), ..opts.clone() }, "is a folder");
    fails(CsvOptions { skip_rows: 9, ..opts.clone() }, "nothing is left");
    fails(CsvOptions { sheet: Some("a"), ..opts.clone() }, "is text and has no sheet `a`");
    table(&dir, b"id,valence,arousal\nz,1,2\n");
    fails(CsvOptions { root: Some(&dir.path().join("a.jpg")), ..opts.clone() }, "is not a folder");
    fails(opts.clone(), "none of 1 rows can be used, the first: line 2 `z`: no such file");
    table(&dir, b"PK\x03\x04....");
    fails(opts, "Save As");
}

#[test]
fn oasis_as_it_is_unpacked() {
    let table = b",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N\r\
        I1,Acorns 1,Object,Pixabay,4,1.5,100,2.5,1,101\rI2,Crosswalk 1 ,Scenery,x,1,1,9,7,1,9\rI3,War 2 ,Scene,x,1,1,9,7,1,9\r";
    let names = ["Acorns 1.jpg", "Crosswalk 1 .jpg", "War 2.JPG", "Left 1.jpg"];
    for inner in ["", "OASIS_database_2016/"] {
        let files = names.map(|n| format!("{inner}images/{n}"));
        let dir = folder(&files.each_ref().map(String::as_str));
        put(&dir, &format!("{inner}OASIS.csv"), table);
        let import = import("oasis", &dir).unwrap();
        assert_eq!(import.manifest.groups(), ["Acorns", "Crosswalk", "War"].map(|g| Some(g.to_string())));
        assert_eq!(import.manifest.rows[0].targets, [5.0, 3.0]);
        assert_eq!(import.manifest.labels("id").unwrap()[2].as_deref(), Some("I3"));
        assert_eq!((import.unmatched_rows.len(), import.unmatched_files.len()), (0, 1));
        assert_eq!((column(&import, "valence_sd")[0].as_str(), column(&import, "arousal_n")[0].as_str()), ("2", "101"));
        assert_eq!(column(&import, "category"), ["Object", "Scene", "Scene"]);
        for i in 0..3 {
            assert!(import.manifest.file(i).is_file());
        }
        let out = dir.path().join("manifest.csv");
        import.manifest.write(&out).unwrap();
        let back = Manifest::read(&out, &TARGETS).unwrap();
        assert!((0..3).all(|i| back.file(i).is_file()));
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(import("oasis", &empty).unwrap_err().to_string().contains("no OASIS.csv"));
    assert!(sets::set("oasis").unwrap().import(Unpacked::root(&empty.path().join("none"))).is_err());
}

#[test]
fn every_set_says_what_is_missing() {
    let empty = folder(&["notes.md"]);
    for set in SETS {
        let e = set.import(Unpacked::root(empty.path())).unwrap_err().to_string();
        assert!(e.contains("holds no ") && e.contains("; ") && !e.contains('\n'), "{}: {e}", set.name);
    }
}

/// Prose, tabs within the prose, spaces in names, missing dominance, ids that differ in their last zero, one id twice.
#[test]
fn iaps_after_its_prose() {
    let dir = folder(&["Images/2055.1.jpg", "Images/2055.10.JPG", "Images/1050.jpg"]);
    let text = "IAPS ratings\r\nAll subjects, sets 1-20\r\n\r\nPlease cite\tthe report.\r\n\r\n\r\n\
        desc\tIAPS\tvalmn\tvalsd\taromn\tarosd\tdom1mn\tdom1sd\tdom2mn\tdom2sd\tset\r\n\
        Snake\t1050\t3.46\t2.15\t6.87\t1.68\t3.08\t2.11\t.\t.\t1\r\n\
        Snake\t1050\t4.46\t2.15\t6.87\t1.68\t.\t.\t3.1\t2.0\t9\r\n\
        Crying Boy\t2055.1\t1\t1\t9\t1\t.\t.\t.\t.\t2\r\n\
        Crying Boy\t2055.10\t2\t1\t8\t1\t.\t.\t.\t.\t2\r\n\
        Gone\t9999\t2\t1\t8\t1\t.\t.\t.\t.\t2\r\n";
    put(&dir, "Tech Report/AllSubjects_1-20.txt", text);
    let import = import("iaps", &dir).unwrap();
    let paths = ["Images/1050.jpg", "Images/2055.1.jpg", "Images/2055.10.JPG"];
    assert_eq!(rows(&import).iter().map(|r| r.0).collect::<Vec<_>>(), paths);
    assert_eq!(import.manifest.rows[0].targets, [3.46, 6.87]);
    assert_eq!((column(&import, "id")[2].as_str(), column(&import, "category")[1].as_str()), ("2055.10", "Crying Boy"));
    let why = ["line 9 `1050`: Images/1050.jpg already has what line 8 says", "line 12 `9999`: no such file"];
    assert_eq!(reasons(&import), why);
}

#[test]
fn smid_whose_ids_have_no_ending() {
    let dir = folder(&["img/b10_p135_4.gif", "img/b1_p1_1.jpeg", "img/b2_p2_2.png"]);
    let head = "valence_mean,valence_sd,valence_n,arousal_mean,arousal_sd,arousal_n,moral_mean";
    let lines = "b10_p135_4,1,1,30,1,1,30,1\nb1_p1_1,3,0.5,31,5,1,32,2\nb2_p2_2,1,1,30,1,1,30,1\n";
    for first in ["", "img_name"] {
        put(&dir, "SMID_norms.csv", format!("{first},{head}\n{lines}"));
        let import = import("smid", &dir).unwrap();
        assert_eq!(rows(&import), [("b1_p1_1.jpeg", &[5.0, 9.0][..]), ("b2_p2_2.png", &[1.0, 1.0])]);
        assert_eq!(column(&import, "valence_sd"), ["1", "2"]);
        assert_eq!(column(&import, "arousal_n"), ["32", "30"]);
        assert_eq!(
            reasons(&import),
            ["line 2 `b10_p135_4`: b10_p135_4.gif is left out: a GIF or TIFF, as in the paper"]
        );
        assert!(import.summary().contains("1 GIF or TIFF files are left out"), "{}", import.summary());
    }
}

/// Twelve pictures, so that the order of names (1, 10, 11, 12, 2 …) is not that of numbers.
#[test]
fn ied_is_joined_by_number() {
    let names: Vec<String> = (1..=12).map(|n| format!("images/{n}.jpg")).collect();
    let dir = folder(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let numbers = |f: fn(usize) -> f64| (1..=12).map(|n| format!("{}\n", f(n))).collect::<String>();
    put(&dir, "valence_avg_10766_v2.txt", numbers(|n| 1.0 + n as f64 / 2.0));
    put(&dir, "arousal_avg_10766_v2.txt", numbers(|n| 9.0 - n as f64 / 2.0));
    let found = import("ied", &dir).unwrap();
    assert_eq!(found.manifest.rows.len(), 12);
    for (path, ratings) in rows(&found) {
        let n: f32 = path.trim_start_matches("images/").trim_end_matches(".jpg").parse().unwrap();
        assert_eq!(ratings, [1.0 + n / 2.0, 9.0 - n / 2.0], "{path}");
    }
    for (text, part) in [
        ("1\n2\n", "has 12 lines and "),
        ("1\n\n2\n", "line 2: `` is not a number"),
        ("0.5\n", "line 1: `0.5` is outside the scale 1:9"),
        ("NA\n", "has 12 lines and "),
    ] {
        put(&dir, "arousal_avg_10766_v2.txt", text);
        let e = import("ied", &dir).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
}

#[test]
fn naps_as_text() {
    let dir = folder(&["Animals_001_h.jpg", "Faces_002_v.JPG"]);
    put(&dir, "NAPS.tsv", "Filename\tValence\tArousal\nAnimals_001_h.jpg\t2.57\t6.44\nFaces_002_v.jpg \t9\t1\n");
    let first = import("naps", &dir).unwrap();
    assert_eq!(rows(&first), [("Animals_001_h.jpg", &[2.57, 6.44][..]), ("Faces_002_v.JPG", &[9.0, 1.0])]);
    std::fs::remove_file(dir.path().join("NAPS.tsv")).unwrap();
    let head = "ID,Category,Nr,V/H,Description,M valence,M arousal";
    put(&dir, "NAPS_H.csv", format!("{head}\nAnimals_001_h,Animals,1,h,\"a, b\",2.57,6.44\n"));
    let second = import("naps", &dir).unwrap();
    assert_eq!((rows(&second)[0].1, column(&second, "category")[0].as_str()), (&[2.57, 6.44][..], "Animals"));
}

#[test]
fn gaped_with_and_without_spread() {
    let dir = folder(&["GAPED/A/A001.bmp", "GAPED/H/H002.bmp", "GAPED/Sn/Sn003.bmp"]);
    put(&dir, "GAPED/A.txt", "A001.jpg\t50\t25\t10\t20\n\nA999.bmp\t1\t2\t3\t4\nA998.bmp\t7\n");
    put(&dir, "GAPED/H.txt", "wrong\n");
    put(&dir, "GAPED/H_with SD.txt", "Picture\tvalence\tarousal\nH002.bmp 0 (12.5) 100 (25)\n");
    put(&dir, "GAPED/Sn.txt", "Sn003.bmp\t\t100\t0\n");
    let found = import("gaped", &dir).unwrap();
    let paths = ["GAPED/A/A001.bmp", "GAPED/H/H002.bmp", "GAPED/Sn/Sn003.bmp"];
    let ratings = [&[5.0, 3.0][..], &[1.0, 9.0], &[9.0, 1.0]];
    assert_eq!(rows(&found), paths.into_iter().zip(ratings).collect::<Vec<_>>());
    assert_eq!(column(&found, "category"), ["A", "H", "Sn"]);
    assert_eq!(
        (column(&found, "valence_sd"), column(&found, "arousal_sd")[1].as_str()),
        (vec!["".into(), "1".into(), "".into()], "2")
    );
    assert!(found.summary().contains("no N.txt, P.txt, Sp.txt in the folder"), "{}", found.summary());
    assert_eq!(
        reasons(&found),
        ["A line 4 `A998.bmp`: no valence and arousal behind the name", "A line 3 `A999`: no such file"]
    );
    put(&dir, "GAPED/A.txt", "A001.bmp\t101\t25\n");
    assert!(import("gaped", &dir).unwrap_err().to_string().contains("A.txt: line 1: `101` is outside the scale 0:100"));
}

#[test]
fn emotion6_under_brackets() {
    let dir = folder(&["images/disgust/1.jpg", "images/joy/1.jpg", "images/joy/2.jpg"]);
    let head =
        "[image_filename]\t[valence]\t[arousal]\t[anger]\t[disgust]\t[fear]\t[joy]\t[sadness]\t[surprise]\t[neutral]";
    let lines = "disgust/1.jpg\t2.5\t3.8\t0.1333\t0.7\t0\t0\t0.1\t0\t0.0667\njoy/1.jpg\t9\t1\t0\t0\t0\t1\t0\t0\t0\njoy/2.jpg\t5\t5\t0\t0\t0\t0.5\t0\t0\t0.5\n";
    put(&dir, "ground_truth.txt", format!("{head}\n{lines}"));
    let found = import("emotion6", &dir).unwrap();
    assert_eq!(rows(&found)[0], ("images/disgust/1.jpg", &[2.5, 3.8][..]));
    assert_eq!(column(&found, "label"), ["disgust", "joy", ""]);
    assert_eq!((column(&found, "category")[2].as_str(), column(&found, "p_anger")[0].as_str()), ("joy", "0.1333"));
    assert!(found.summary().contains("1 pictures have no label"), "{}", found.summary());
    assert!(found.manifest.labels("split").is_err());
    put(&dir, "training_testing_split/training.txt", "disgust/1.jpg\r\njoy/2.jpg\r\n");
    put(&dir, "training_testing_split/testing.txt", "joy/1.jpg\n");
    assert_eq!(column(&import("emotionroi", &dir).unwrap(), "split"), ["train", "test", "train"]);
}

#[test]
fn emotic_averages_its_persons() {
    let dir = folder(&["emotic/mscoco/images/a.jpg", "emotic/framesdb/images/a.jpg"]);
    let head = "Index,Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels,Gender,Age";
    put(
        &dir,
        "train.csv",
        format!(
            "{head}\n0,mscoco/images,a.jpg,\"[640, 480]\",\"[1, 2, 3, 4]\",\"['Joy']\",\"[10, 1, 5]\",Male,Adult\n\
             1,mscoco/images,a.jpg,x,x,x,\"[1.0, 10.0, 5]\",Male,Adult\n2,framesdb/images,a.jpg,x,x,x,\"[1, 1, 1]\",Male,Kid\n"
        ),
    );
    let found = import("emotic", &dir).unwrap();
    assert_eq!(
        rows(&found),
        [("emotic/mscoco/images/a.jpg", &[5.0, 5.0][..]), ("emotic/framesdb/images/a.jpg", &[1.0, 1.0])]
    );
    assert_eq!(
        (column(&found, "persons"), column(&found, "split")[0].as_str()),
        (vec!["2".into(), "1".into()], "train")
    );
    assert!(found.summary().contains("3 persons in 2 pictures: averaged"));

    let dir = folder(&["images/b.jpg", "Annotations.mat"]);
    assert!(import("emotic", &dir).unwrap_err().to_string().contains("mat2py.py"));
    let head = "Filename,Arr_name,Crop_name,bbox,Joy,Valence,Arousal,Dominance";
    put(&dir, "annots_arrs/annot_arrs_extra_train.csv", format!("{head}\nb.jpg,x.npy,y.npy,\"[1,2]\",1,10,1,5\n"));
    let found = import("emotic", &dir).unwrap();
    assert_eq!((rows(&found)[0].1, column(&found, "split")[0].as_str()), (&[9.0, 1.0][..], "extra_train"));
    put(&dir, "annots_arrs/annot_arrs_extra_train.csv", format!("{head}\nb.jpg,x.npy,y.npy,z,1,0,1,5\n"));
    let e = import("emotic", &dir).unwrap_err().to_string();
    assert!(e.contains("line 2, column Valence: `0` is outside the scale 1:10"), "{e}");
}

#[test]
fn findingemo_has_two_scales() {
    let dir = folder(&["Run_1/adult excitement/x y.jpg"]);
    let head = "index,user,image_path,tags,age,valence,arousal,emotion,dec_factors,ambiguity,datetime";
    put(
        &dir,
        "annotations_single.ann",
        format!("{head}\n0,u1,/Run_1/adult excitement/x y.jpg,\"a,b\",\"Adult\",-3,6,Joy,x,2,2023\n"),
    );
    let found = import("findingemo", &dir).unwrap();
    assert_eq!(rows(&found), [("Run_1/adult excitement/x y.jpg", &[1.0, 9.0][..])]);
    assert_eq!((column(&found, "label"), column(&found, "rater")), (vec!["Joy".to_string()], vec!["u1".to_string()]));
}

#[test]
fn affectnet_tables() {
    let inner = "Manually_Annotated/Manually_Annotated_Images";
    let dir = folder(
        &["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.tif"].map(|f| format!("{inner}/{f}")).each_ref().map(|f| f.as_str()),
    );
    let head = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal";
    put(
        &dir,
        "training.csv",
        format!(
            "{head}\na/1.jpg,10,20,100,110,1.0;2.0;3.0,1,0.5,-1\na/2.jpg,-1,-1,-1,-1,,10,-2,-2\nb/3.tif,1,1,9,9,1;2,0,0,0\n"
        ),
    );
    put(&dir, "validation.csv", format!("{head}\nb/1.jpg,NULL,NULL,NULL,NULL,x,7,0,1\n"));
    let found = import("affectnet", &dir).unwrap();
    assert!(found.manifest.targets.is_empty());
    assert_eq!(column(&found, "label"), ["happiness", "no-face", "contempt"]);
    assert_eq!(
        (column(&found, "valence"), column(&found, "arousal")),
        (["7", "", "5"].map(String::from).into(), ["1", "", "9"].map(String::from).into())
    );
    assert_eq!(
        (column(&found, "face_x"), column(&found, "face_height")),
        (["10", "", ""].map(String::from).into(), ["110", "", ""].map(String::from).into())
    );
    assert_eq!(column(&found, "split"), ["train", "train", "val"]);
    assert_eq!(reasons(&found).len(), 1);
    assert!(found.summary().contains("labels: contempt 1, happiness 1, no-face 1"), "{}", found.summary());
    let rated = sets::set("affectnet").unwrap().import(Unpacked { rated: true, ..Unpacked::root(dir.path()) }).unwrap();
    assert_eq!((rated.manifest.targets.as_slice(), rated.manifest.rows.len()), (&TARGETS.map(String::from)[..], 2));
    assert_eq!(rated.manifest.rows[0].targets, [7.0, 1.0]);
    for (row, part) in [
        ("a/1.jpg,1,1,1,1,x,11,0,0", "line 2: `11` is no expression from 0 to 10"),
        ("a/1.jpg,1,1,1,1,x,1,-1.5,0", "line 2: `-1.5` is neither a number of the scale -1:1 nor -2"),
    ] {
        put(&dir, "training.csv", format!("{head}\n{row}\n"));
        let e = import("affectnet", &dir).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
    put(&dir, "training.csv", "file,expression\na/1.jpg,1\n");
    assert!(
        import("affectnet", &dir)
            .unwrap_err()
            .to_string()
            .contains("no column `subDirectory_filePath`; it has: file, expression")
    );
}

#[test]
fn affectnet_arrays() {
    let dir = folder(&["train_set/images/0.jpg", "train_set/images/10.jpg", "val_set/images/0.jpg"]);
    let array = |descr: &str, value: &[u8]| {
        let head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (), }}\n");
        [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), value].concat()
    };
    let text = |t: &str| {
        array(&format!("<U{}", t.len()), &t.chars().flat_map(|c| (c as u32).to_le_bytes()).collect::<Vec<_>>())
    };
    for (at, exp, val, aro) in [("train_set", "1", "0.5", "-1"), ("val_set", "7", "-2", "-2")] {
        put(&dir, &format!("{at}/annotations/0_exp.npy"), text(exp));
        put(&dir, &format!("{at}/annotations/0_val.npy"), text(val));
        put(&dir, &format!("{at}/annotations/0_aro.npy"), text(aro));
        put(&dir, &format!("{at}/annotations/0_lnd.npy"), "landmarks are not read");
    }
    put(&dir, "train_set/annotations/10_exp.npy", array("<i8", &4_i64.to_le_bytes()));
    put(&dir, "train_set/annotations/10_val.npy", array("<f8", &0_f64.to_le_bytes()));
    put(&dir, "train_set/annotations/10_aro.npy", array("<f4", &1_f32.to_le_bytes()));
    let found = import("affectnet-npy", &dir).unwrap();
    assert_eq!(
        rows(&found).iter().map(|r| r.0).collect::<Vec<_>>(),
        ["train_set/images/0.jpg", "train_set/images/10.jpg", "val_set/images/0.jpg"]
    );
    assert_eq!(column(&found, "label"), ["happiness", "fear", "contempt"]);
    assert_eq!(
        (column(&found, "valence"), column(&found, "split")),
        (["7", "5", ""].map(String::from).into(), ["train", "train", "val"].map(String::from).into())
    );
    put(&dir, "val_set/annotations/0_exp.npy", array("|O", b"pickle"));
    let e = import("affectnet-npy", &dir).unwrap_err().to_string();
    assert!(e.contains("0_exp.npy: holds `|O`"), "{e}");
    std::fs::remove_file(dir.path().join("train_set/annotations/0_val.npy")).unwrap();
    assert!(import("affectnet-npy", &dir).unwrap_err().to_string().contains("0_val.npy: cannot read"));
}

#[test]
fn folders_names_votes_and_lists() {
    let dir = folder(&["emotion_dataset/Awe/1.jpg", "emotion_dataset/sadness/1.jpg", "emotion_dataset/other/2.jpg"]);
    let found = import("fi", &dir).unwrap();
    assert_eq!(
        (column(&found, "label"), found.unmatched_files.len()),
        (["awe", "sadness"].map(String::from).into(), 1)
    );
    assert!(
        found.manifest.targets.is_empty()
            && found.summary().starts_with("2 pictures, 0 groups\nlabels: awe 1, sadness 1\n")
    );
    put(&dir, "train.json", "[[\"emotion_dataset/Awe/1.jpg\", 2]]");
    put(&dir, "test.json", "[[\"/data/sadness/1.jpg\", \"sadness\"]]");
    assert_eq!(column(&import("fi", &dir).unwrap(), "split"), ["train", "test"]);

    let dir = folder(&[
        "testImages_artphoto/amusement_0001.jpg",
        "testImages_artphoto/sad_0002.jpg",
        "testImages_artphoto/content_3.jpg",
        "ReadMe.rtf",
    ]);
    assert_eq!(column(&import("artphoto", &dir).unwrap(), "label"), ["amusement", "contentment", "sadness"]);

    let dir = folder(&["testImages_abstract/abstract_1.jpg", "testImages_abstract/abstract_2.jpg"]);
    let head = "'','Amusement','Anger','Awe','Content','Disgust','Excitement','Fear','Sad'";
    put(
        &dir,
        "testImages_abstract/ABSTRACT_groundTruth.csv",
        format!("{head}\n'abstract_1.jpg',1,0,0,5,0,0,0,2\n'abstract_2.jpg',3,0,0,3,0,0,0,0\n"),
    );
    let found = import("abstract", &dir).unwrap();
    assert_eq!(
        (column(&found, "label"), column(&found, "votes_sadness")),
        (vec!["contentment".to_string()], vec!["2".to_string()])
    );
    assert_eq!(reasons(&found), ["line 3 `abstract_2.jpg`: as many votes for amusement and contentment"]);
    put(&dir, "testImages_abstract/ABSTRACT_groundTruth.csv", "'','Anger'\n'abstract_1.jpg',1\n");
    assert!(import("abstract", &dir).unwrap_err().to_string().contains("has 1 of the columns amusement, "));

    let dir = folder(&["image/awe/awe_1.jpg", "image/fear/fear_2.jpg", "image/fear/fear_3.jpg"]);
    put(
        &dir,
        "train.json",
        "[[\"awe\",\"awe_1\",\"image/awe/awe_1.jpg\",\"annotation/awe/awe_1.json\"],[\"fear\",\"image/fear/fear_2.jpg\",\"annotation/fear/fear_2.json\"]]",
    );
    put(
        &dir,
        "val.json",
        "[[\"fear\",\"fear_3\",\"image/fear/fear_3.jpg\",\"x.json\"],[\"bored\",\"b\",\"image/b/b.jpg\",\"x\"]]",
    );
    let found = import("emoset", &dir).unwrap();
    assert_eq!(
        (column(&found, "label"), column(&found, "split")),
        (["awe", "fear", "fear"].map(String::from).into(), ["train", "train", "val"].map(String::from).into())
    );
    assert_eq!(reasons(&found), ["val.json row 2: names no emotion of the eight, or no picture"]);
    put(&dir, "train.json", "{\"a\": 1}");
    assert!(import("emoset", &dir).unwrap_err().to_string().contains("train.json: is no list of pictures"));
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets").join(name)).unwrap()
}

/// An .xls with nine columns called M under merged cells, an .xlsx whose header is on row 2, an .ods with ids as numbers.
#[test]
fn workbooks_as_they_are_handed_on() {
    let dir = folder(&["NAPS/Animals_001_h.jpg", "NAPS/Faces_002_v.JPG"]);
    let name = "Valence, arousal and approach-avoidance ratings (Marchewka et al., 2014).xls";
    put(&dir, name, fixture("naps.xls"));
    let found = import("naps", &dir).unwrap();
    assert_eq!(rows(&found), [("NAPS/Animals_001_h.jpg", &[2.57, 6.44][..]), ("NAPS/Faces_002_v.JPG", &[9.0, 1.0])]);
    assert_eq!(
        (column(&found, "arousal_sd"), column(&found, "category")[1].as_str()),
        (vec!["0.25".into(); 2], "Faces")
    );
    // The same by the joined names of both rows.
    let columns = Sheet {
        valence: Rated { mean: &["All valence M"], sd: &["All valence SD"], n: &[] },
        arousal: Rated { mean: &["all arousal m"], sd: &[], n: &[] },
        ..Sheet::key(&["ID"])
    };
    let file = dir.path().join(name);
    let opts = CsvOptions { columns, skip_rows: 1, more_header: 1, scales: [(1.0, 9.0); 3], ..options(&file) };
    assert_eq!(rows(&csv(&opts).unwrap()), rows(&found));
    let e = csv(&CsvOptions { sheet: Some("All"), ..opts }).unwrap_err().to_string();
    assert!(e.ends_with("has no sheet `All`; choose one of: ratings"), "{e}");

    let dir = folder(&["EM0083.jpg", "EM0084.JPG"]);
    put(&dir, "EMindex_18May_2023.xlsx", fixture("emomadrid.xlsx"));
    let found = import("emomadrid", &dir).unwrap();
    assert_eq!(rows(&found), [("EM0083.jpg", &[1.0, 9.0][..]), ("EM0084.JPG", &[6.0, 3.0])]);
    assert_eq!(reasons(&found), ["line 5 `EM0099`: no such file"]);
    let e = sets::set("emomadrid").unwrap().import(Unpacked { sheet: Some("notes"), ..Unpacked::root(dir.path()) });
    let e = e.unwrap_err().to_string();
    assert!(e.contains("is no table of emomadrid: ") && e.contains("choose one of: nothing here"), "{e}");

    let dir = folder(&["1050.jpg", "2055.1.jpg"]);
    put(&dir, "IAPS.ods", fixture("iaps.ods"));
    let found = import("iaps", &dir).unwrap();
    assert_eq!(rows(&found), [("1050.jpg", &[3.46, 6.87][..]), ("2055.1.jpg", &[1.0, 9.0])]);
}

/// Locked, cut short at every tenth byte, and with bytes turned: one line each, or a table.
#[test]
fn damaged_workbooks_are_refused_in_one_line() {
    let dir = folder(&["EM0083.jpg"]);
    let file = dir.path().join("t.csv");
    let columns = Sheet { valence: Rated { mean: &["#2"], sd: &[], n: &[] }, ..Sheet::key(&["#1"]) };
    let opts = CsvOptions { columns, scales: [(-1e9, 1e9); 3], ..options(&file) };
    table(&dir, &fixture("locked.xlsx"));
    let e = csv(&opts).unwrap_err().to_string();
    assert!(e.ends_with("t.csv: is locked by a password; open it, save it without one, and name that file"), "{e}");
    for name in ["naps.xls", "emomadrid.xlsx", "iaps.ods"] {
        let whole = fixture(name);
        for at in (4..whole.len()).step_by(whole.len() / 80) {
            let mut turned = whole.clone();
            turned[at] ^= 0x55;
            for bytes in [&whole[..at], &turned] {
                table(&dir, bytes);
                if let Err(e) = csv(&opts) {
                    let e = e.to_string();
                    assert!(e.contains("t.csv: ") && e.contains("; ") && !e.contains('\n'), "{name} {at}: {e}");
                }
            }
        }
    }
}
