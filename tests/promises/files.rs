//! Promises 12 to 17: whatever numbers, pictures and weight files are, the answer is right or one line, soon and in little
//! memory.

#[path = "../fuzz.rs"]
mod fuzz_tests;

use crate::common::each;
use crate::runs::{CHECKPOINT, folder, good, program, results, text, train};
use crate::{Form, Line, must};
use deep_affect::data::DecodeOptions;
use deep_affect::data::decode::decode;
use deep_affect::rng::{Rng, Stream};
use image::ImageFormat;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs a program to its end: what it said, its largest resident set in MiB (0 where the system does not tell), and seconds.
pub fn measured(command: &mut Command) -> (Output, f64, f64) {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    fn all(mut pipe: impl Read) -> Vec<u8> {
        let mut bytes = vec![];
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    }
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        let err = scope.spawn(move || all(err));
        let most = scope.spawn(move || {
            let mut most = 0f64;
            // The status of a process that has ended has no memory.
            while let Some(kib) = high_water(&status) {
                most = most.max(kib);
                std::thread::sleep(Duration::from_millis(2));
            }
            most / 1024.0
        });
        let (stdout, stderr) = (all(out), err.join().unwrap());
        let status = child.wait().unwrap();
        (Output { status, stdout, stderr }, most.join().unwrap(), start.elapsed().as_secs_f64())
    })
}

fn high_water(status: &str) -> Option<f64> {
    let text = fs::read_to_string(status).ok()?;
    text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// One line that says what is wrong; None if it is one.
pub fn one_line(out: &Output, code: i32) -> Option<String> {
    let err = text(&out.stderr);
    must!(out.status.code() == Some(code), "{:?}: {err}", out.status);
    let line = err.strip_suffix('\n').unwrap_or(err);
    must!(line.starts_with("error: ") && !line.contains("panicked"), "{line}");
    must!(!line.chars().any(char::is_control) && line.chars().count() < 4200, "{line:?}");
    None
}

/// A small trained model, and the folder with its pictures.
fn model() -> tempfile::TempDir {
    let dir = folder();
    good(dir.path(), &train("2", &[]));
    dir
}

/// Numbers that are none, or that no run can go by: said within a step, and the checkpoint before stays.
pub fn numbers(_: Form) -> Vec<Line> {
    let dir = model();
    let p = dir.path();
    let want = results(p);
    let table = fs::read_to_string(p.join("set.csv")).unwrap();
    let rating = |value: &str| {
        let lines = table.lines().enumerate().map(|(i, l)| match i {
            5 => {
                l.splitn(3, ',').enumerate().map(|(j, f)| if j == 1 { value } else { f }).collect::<Vec<_>>().join(",")
            }
            _ => l.to_string(),
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    };
    let mut cases: Vec<(String, String, Vec<&str>)> = vec![];
    for value in ["nan", "inf", "-inf", "0.9", "9.1", "1e300", "x", "5;1", "0x5", "--5"] {
        cases.push((format!("a rating of {value}"), rating(value), train("3", &[])));
    }
    for flag in
        ["--lr=1e30", "--lr=1e6", "--lr=nan", "--lr=inf", "--momentum=nan", "--momentum=1", "--weight-decay=inf"]
    {
        cases.push((flag.into(), table.clone(), train("30", &[flag])));
    }
    let mut complaints = vec![];
    for (what, table, args) in &cases {
        fs::write(p.join("set.csv"), table).unwrap();
        let out = program(p, args).output().unwrap();
        let err = text(&out.stderr);
        let lines = err.lines().filter(|l| l.starts_with("error: ")).count();
        if !matches!(out.status.code(), Some(1 | 2)) || lines != 1 || err.contains("panicked") {
            complaints.push(format!("{what}: {:?} {err}", out.status));
        } else if what.starts_with("a rating") && !err.contains("set.csv: line 6") {
            complaints.push(format!("{what}: {err}"));
        } else if results(p) != want {
            complaints.push(format!("{what}: the checkpoint before is gone"));
        }
    }
    vec![Line::all("numbers that are none, refused", cases.len(), complaints)]
}

const FORMATS: [(&str, ImageFormat); 8] = [
    ("png", ImageFormat::Png),
    ("jpg", ImageFormat::Jpeg),
    ("gif", ImageFormat::Gif),
    ("bmp", ImageFormat::Bmp),
    ("webp", ImageFormat::WebP),
    ("tiff", ImageFormat::Tiff),
    ("ppm", ImageFormat::Pnm),
    ("tga", ImageFormat::Tga),
];

/// The same picture in every format that can be written here.
pub fn encoded() -> Vec<(&'static str, Vec<u8>)> {
    let mut rng = Rng::new(13, Stream::Test(0), 0);
    let mut pixel = |x: u32, y: u32| image::Rgb([(3 * x) as u8, (2 * y) as u8, rng.below(64) as u8]);
    let picture = image::RgbImage::from_fn(80, 60, &mut pixel);
    let one = |(name, format): (&'static str, ImageFormat)| {
        let mut out = Cursor::new(vec![]);
        image::DynamicImage::from(picture.clone()).write_to(&mut out, format).unwrap();
        (name, out.into_inner())
    };
    FORMATS.map(one).into()
}

/// Pictures with something changed somewhere: a row for each, a rating or a line.
pub fn pictures(form: Form) -> Vec<Line> {
    let dir = model();
    let p = dir.path();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut seeds: Vec<(&str, Vec<u8>)> = encoded();
    seeds.push(("jpg", fs::read(tests.join("pictures/ycck.jpg")).unwrap()));
    seeds.push(("png", fs::read(tests.join("emoji/emoji/noto-00a9.png")).unwrap()));
    let n = form.of(600, 20_000);
    fs::create_dir(p.join("bad")).unwrap();
    let mut rng = Rng::new(14, Stream::Test(0), 0);
    for i in 0..n {
        let (ending, seed) = &seeds[i % seeds.len()];
        let bytes = fuzz_tests::mutate(std::slice::from_ref(seed), &mut rng);
        fs::write(p.join(format!("bad/{i:05}.{ending}")), bytes).unwrap();
    }
    let mut folders = vec![("bad".to_string(), Some(n))];
    // Others have collected many: a folder of them is looked at too.
    if let (Form::Full, Ok(more)) = (form, std::env::var("BAD_IMAGES")) {
        folders.push((more, None));
    }
    let (mut tried, mut rated, mut complaints, mut most, mut took) = (0, 0, vec![], 0f64, 0f64);
    for (folder, count) in folders {
        let args = ["predict", &folder, "--model", CHECKPOINT, "--format", "jsonl", "--threads", "1"];
        let (out, mib, seconds) = measured(&mut program(p, &args));
        (most, took) = (most.max(mib), took + seconds);
        if !matches!(out.status.code(), Some(0 | 1)) || text(&out.stderr).contains("panicked") {
            complaints.push(format!("{:?}: {}", out.status, text(&out.stderr)));
        }
        let rows: Vec<serde_json::Value> =
            text(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        if count.is_some_and(|n| n != rows.len()) {
            complaints.push(format!("{} rows", rows.len()));
        }
        tried += rows.len();
        for row in &rows {
            let numbers = ["valence_1to9", "arousal_1to9"].map(|k| row[k].as_f64());
            match row["error"].as_str() {
                Some(line) if line.chars().any(char::is_control) || line.is_empty() => complaints.push(row.to_string()),
                None if numbers.iter().any(|n| n.is_none_or(|n| !n.is_finite())) => complaints.push(row.to_string()),
                Some(_) => {}
                None => rated += 1,
            }
        }
    }
    assert!(0 < rated && rated < tried, "{rated} of {tried} are rated: the test is blind");
    let mut lines = vec![Line::all(&format!("a rating ({rated}) or a line each"), tried, complaints)];
    lines.push(Line::most("milliseconds a picture", 1000.0 * took / tried as f64, 50.0, "ms"));
    lines.extend((most > 0.0).then(|| Line::most("memory for it", most, 256.0, "MiB")));
    lines
}

/// How many of the files that are cut after each percent are taken for whole.
fn taken(bytes: &[u8], accepts: impl Fn(&[u8]) -> bool) -> Vec<usize> {
    assert!(accepts(bytes), "the whole file is refused");
    (1..100).filter(|percent| accepts(&bytes[..bytes.len() * percent / 100])).collect()
}

pub fn cuts(_: Form) -> Vec<Line> {
    let options = DecodeOptions::default();
    let files = encoded();
    let cut = each(&files, |(name, bytes)| {
        let taken = taken(bytes, |b| decode(b, &options).is_ok());
        must!(taken.is_empty(), "{name} is taken when cut after {taken:?} %");
        None
    });
    // A decoder that fills up what is missing.
    let jpeg = &files.iter().find(|f| f.0 == "jpg").unwrap().1;
    let lenient = taken(jpeg, |b| image::load_from_memory(b).is_ok());
    let blind = Vec::from_iter(lenient.is_empty().then(|| "the lenient decoder takes no cut file".to_string()));

    let dir = model();
    let p = dir.path();
    let big = |side: u32| side.to_be_bytes();
    let png = |w: u32, h: u32| {
        let header = [&b"IHDR"[..], &big(w), &big(h), &[8, 2, 0, 0, 0]].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&header);
        [&b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..], &header, &crc.sum().to_be_bytes(), &[0; 64]].concat()
    };
    let mut bmp = files.iter().find(|f| f.0 == "bmp").unwrap().1.clone();
    bmp[18..26].copy_from_slice(&[30_000u32.to_le_bytes(), 30_000u32.to_le_bytes()].concat());
    let mut gif = files.iter().find(|f| f.0 == "gif").unwrap().1.clone();
    gif[6..10].fill(0xff);
    let frame = gif.windows(5).position(|w| w == [b',', 0, 0, 0, 0]).unwrap();
    gif[frame + 5..frame + 9].fill(0xff);
    let mut tga = files.iter().find(|f| f.0 == "tga").unwrap().1.clone();
    tga[12..16].fill(0xff);
    let ppm = b"P6\n65000 65000\n255\nxxxxxxxx".to_vec();
    let bombs = [
        ("a.png", png(30_000, 30_000)),
        ("b.png", png(u32::MAX >> 1, 3)),
        ("c.bmp", bmp),
        ("d.gif", gif),
        ("e.tga", tga),
        ("f.ppm", ppm),
    ];
    let (mut complaints, mut most, mut slowest) = (vec![], 0f64, 0f64);
    let alone = measured(&mut program(p, &["predict", "pictures/1.png", "--model", CHECKPOINT])).1;
    for (name, bytes) in &bombs {
        fs::write(p.join(name), bytes).unwrap();
        let (out, mib, seconds) = measured(&mut program(p, &["predict", name, "--model", CHECKPOINT]));
        complaints.extend(one_line(&out, 1).map(|e| format!("{name}: {e}")));
        (most, slowest) = (most.max(mib - alone), slowest.max(seconds));
    }
    vec![
        Line::all("formats, refused at each of 99 cuts", files.len(), cut),
        Line::all(&format!("planted decoders found (takes {} of 99)", lenient.len()), 1, blind),
        Line::all("small files of huge pictures refused", bombs.len(), complaints),
        Line::most("memory for it beside a picture's", most, 64.0, "MiB"),
        Line::most("the slowest", slowest, 1.0, "s"),
    ]
}

/// A safetensors file of such a header.
fn with_header(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}

pub fn weights(form: Form) -> Vec<Line> {
    let one = |body: &str, data: usize| with_header(format!("{{{body}}}").as_bytes(), data);
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[{from},{to}]}}")
    };
    let many = (0..200_000).map(|i| tensor(&format!("t{i}"), "0", 0, 0)).collect::<Vec<_>>().join(",");
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("a header of 2^64 - 1 bytes", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("a header of 2^63 bytes", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat()),
        ("a header longer than the file", [&1000u64.to_le_bytes()[..], b"{}"].concat()),
        ("no header", vec![0; 8]),
        ("seven bytes", vec![0; 7]),
        ("brackets a million deep", with_header(&[b'['; 1_000_000], 0)),
        ("objects a hundred thousand deep", with_header(&b"{\"a\":".repeat(100_000), 0)),
        ("a name twice", one(&[tensor("a", "1", 0, 4), tensor("a", "1", 4, 8)].join(","), 8)),
        ("two tensors on one place", one(&[tensor("a", "1", 0, 4), tensor("b", "1", 0, 4)].join(","), 4)),
        ("a gap", one(&[tensor("a", "1", 0, 4), tensor("b", "1", 8, 12)].join(","), 12)),
        ("offsets behind the end", one(&tensor("a", "1", 0, 1 << 40), 4)),
        ("offsets backwards", one(&tensor("a", "1", 4, 0), 4)),
        ("a shape of 2^96 elements", one(&tensor("a", "4294967296,4294967296,4294967296", 0, 4), 4)),
        ("a shape of 2^64 bytes", one(&tensor("a", "4611686018427387904", 0, 0), 0)),
        ("a shape that is another size", one(&tensor("a", "2", 0, 4), 4)),
        ("a negative shape", one(&tensor("a", "-1", 0, 4), 4)),
        ("a shape of a million dimensions", one(&tensor("a", &format!("{}1", "1,".repeat(999_999)), 0, 4), 4)),
        ("no such type", one("\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}", 4)),
        ("metadata of numbers", one("\"__metadata__\":{\"a\":1}", 0)),
        ("200,000 tensors", one(&many, 0)),
        ("a name of ten megabytes", one(&tensor(&"n".repeat(10 << 20), "1", 0, 4), 0)),
        ("no UTF-8", with_header(b"{\"\xff\xfe\":1}", 0)),
        ("bytes behind the last tensor", one(&tensor("a", "1", 0, 4), 400)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    fs::write(p.join("good.safetensors"), one(&tensor("a", "1", 0, 4), 4)).unwrap();
    good(p, &["weights", "inspect", "good.safetensors"]);
    let (mut complaints, mut most, mut slowest) = (vec![], 0f64, 0f64);
    for (what, bytes) in &hostile {
        fs::write(p.join("x.safetensors"), bytes).unwrap();
        let (out, mib, seconds) = measured(&mut program(p, &["weights", "inspect", "x.safetensors"]));
        complaints.extend(one_line(&out, 1).map(|e| format!("{what}: {}", e.chars().take(300).collect::<String>())));
        most = most.max(mib - bytes.len() as f64 / f64::from(1 << 20));
        slowest = slowest.max(seconds);
    }
    let mut lines = vec![
        Line::all("hostile headers of safetensors refused", hostile.len(), complaints),
        Line::most("memory beside the file", most, 64.0, "MiB"),
        Line::most("the slowest", slowest, 1.0, "s"),
    ];
    // Files of every other format, cut.
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    let is_data = |p: &Path| !["py", "sh", "proto"].iter().any(|e| p.extension().is_some_and(|x| x == *e));
    let files: Vec<_> = fs::read_dir(here).unwrap().map(|f| f.unwrap().path()).filter(|p| is_data(p)).collect();
    let cuts: Vec<(usize, usize)> = (0..files.len()).flat_map(|f| (1..form.of(5, 100)).map(move |c| (f, c))).collect();
    let parts = form.of(5, 100);
    let told = each(&cuts, |&(file, part)| {
        let (path, dir) = (&files[file], tempfile::tempdir().unwrap());
        let bytes = fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let n = (bytes.len() * part / parts).min(bytes.len() - 1);
        fs::write(dir.path().join(name), &bytes[..n]).unwrap();
        let out = program(dir.path(), &["weights", "inspect", name]).output().unwrap();
        one_line(&out, 1).map(|e| format!("{name} cut after {n} bytes: {}", e.chars().take(300).collect::<String>()))
    });
    lines.push(Line::all("weight files of all formats refused when cut", cuts.len(), told));
    lines
}

/// A zip archive of parts that are stored as they are.
fn zipped(parts: &[(&str, &str)]) -> Vec<u8> {
    let (mut file, mut directory) = (vec![], vec![]);
    for (name, text) in parts {
        let mut crc = flate2::Crc::new();
        crc.update(text.as_bytes());
        let numbers = [crc.sum(), text.len() as u32, text.len() as u32].map(u32::to_le_bytes).concat();
        let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0], &numbers[..], &(name.len() as u32).to_le_bytes()].concat();
        let start = (file.len() as u32).to_le_bytes();
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10], &start, name.as_bytes()].concat());
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), text.as_bytes()].concat());
    }
    let [n, size, start] = [parts.len(), directory.len(), file.len()].map(|n| (n as u32).to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0", &n[..2], &n[..2], &size, &start, &[0; 2]].concat();
    [file, directory, end].concat()
}

/// Workbooks of a few bytes whose sheets would be billions of cells, or gigabytes of text.
pub fn workbooks(_: Form) -> Vec<Line> {
    let ods = |rows: &str| {
        let table = format!("<table:table table:name='a'>{rows}</table:table>");
        zipped(&[("content.xml", &format!("<office:spreadsheet>{table}</office:spreadsheet>"))])
    };
    let xlsx = |strings: &str, cells: &str| {
        let relation = |kind: &str, to: &str| format!("<Relationship Id='{kind}' Type='x/{kind}' Target='{to}'/>");
        let relations = |all: &str| format!("<Relationships>{all}</Relationships>");
        let parts = relation("sharedStrings", "strings.xml") + &relation("worksheet", "sheet.xml");
        zipped(&[
            ("_rels/.rels", &relations(&relation("officeDocument", "xl/workbook.xml"))),
            ("xl/_rels/workbook.xml.rels", &relations(&parts)),
            ("xl/workbook.xml", "<workbook><sheets><sheet name='a' r:id='worksheet'/></sheets></workbook>"),
            ("xl/strings.xml", &format!("<sst><si><t>{strings}</t></si></sst>")),
            ("xl/sheet.xml", &format!("<worksheet><sheetData>{cells}</sheetData></worksheet>")),
        ])
    };
    let repeated = |rows: u64, columns: u64| {
        let cell = format!("<table:table-cell office:value='1' table:number-columns-repeated='{columns}'/>");
        ods(&format!("<table:table-row table:number-rows-repeated='{rows}'>{cell}</table:table-row>"))
    };
    let column = |name: &str, kind: &str| {
        let cell = |row: u32| format!("<row r='{row}'><c r='{name}{row}'{kind}><v>0</v></c></row>");
        (1..5000).map(cell).collect::<String>()
    };
    let small =
        xlsx("stimulus", "<row r='1'><c r='A1' t='s'><v>0</v></c></row><row r='2'><c r='A2'><v>7</v></c></row>");
    let books = [
        ("rows.ods", repeated(99_999_999_999, 1)),
        ("columns.ods", repeated(1, 99_999_999_999)),
        ("both.ods", repeated(1_048_576, 16_384)),
        ("twenty.ods", repeated(5_000, 4_000)),
        ("last.xlsx", xlsx("", "<row r='1'><c r='XFD1048576'><v>1</v></c></row>")),
        ("wide.xlsx", xlsx("", &column("FAN", ""))),
        ("texts.xlsx", xlsx(&"x".repeat(60_000), &column("A", " t='s'"))),
    ];
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    let read = |name: &str, bytes: &[u8]| {
        fs::write(p.join(name), bytes).unwrap();
        let args = ["import", "csv", name, "--path-col", "stimulus", "--keep", "stimulus", "--out", "out.csv"];
        measured(&mut program(p, &args))
    };
    let mut complaints = vec![];
    // A sheet of the same parts is read, to where its picture is not found.
    let (out, alone, _) = read("small.xlsx", &small);
    if text(&out.stderr).contains("small.xlsx: has a sheet") || !text(&out.stderr).contains('7') {
        complaints.push(format!("small.xlsx: {}", text(&out.stderr)));
    }
    let (mut most, mut slowest) = (0f64, 0f64);
    for (name, bytes) in &books {
        let (out, mib, seconds) = read(name, bytes);
        let line = one_line(&out, 1);
        let said = text(&out.stderr).contains("has a sheet of more than");
        complaints.extend(line.or((!said).then(|| text(&out.stderr).into())).map(|e| format!("{name}: {e}")));
        (most, slowest) = (most.max(mib - alone), slowest.max(seconds));
    }
    vec![
        Line::all("small workbooks of huge sheets refused", books.len(), complaints),
        Line::most("memory for it", most, 64.0, "MiB"),
        Line::most("the slowest", slowest, 1.0, "s"),
    ]
}

pub fn fuzz(form: Form) -> Vec<Line> {
    let seconds = Duration::from_millis(form.of(250, 5000));
    let executions = std::sync::atomic::AtomicU32::new(0);
    let complaints = each(fuzz_tests::TARGETS, |target| {
        let caught = std::panic::catch_unwind(|| fuzz_tests::fuzz(target, seconds));
        match caught {
            Ok((runs, _)) => {
                executions.fetch_add(runs, std::sync::atomic::Ordering::Relaxed);
                None
            }
            Err(e) => Some(e.downcast_ref::<String>().cloned().unwrap_or_else(|| target.0.to_string())),
        }
    });
    let name = format!("parsers, {} executions", executions.into_inner());
    vec![Line::all(&name, fuzz_tests::TARGETS.len(), complaints)]
}

/// Files that are changed while they are read: no process dies by a signal, and what is answered is right.
pub fn changes(form: Form) -> Vec<Line> {
    let dir = model();
    let p = dir.path();
    let old = fs::read(p.join(CHECKPOINT)).unwrap();
    good(p, &train("2", &["--seed", "2"]));
    let new = fs::read(p.join(CHECKPOINT)).unwrap();
    assert!(old != new && old.len() == new.len(), "two models of one size");
    /// What is done to a file, and another file's content.
    type Change = fn(&Path, &[u8]);
    let ways: [(&str, Change); 5] = [
        ("cut in place", |path, _| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("written over in place", |path, new| fs::write(path, new).unwrap()),
        ("removed", |path, _| fs::remove_file(path).unwrap()),
        ("replaced", |path, new| {
            let other = path.with_extension("new");
            fs::write(&other, new).unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("grown in place", |path, new| {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, new).unwrap();
        }),
    ];
    let rate = |dir: &Path| {
        program(dir, &["predict", "pictures", "--model", "m.safetensors", "--threads", "1", "--format", "csv"])
    };
    let folder_of = |model: &[u8]| {
        let copy = folder();
        fs::write(copy.path().join("m.safetensors"), model).unwrap();
        copy
    };
    let rows = |out: &Output| text(&out.stdout).lines().map(String::from).collect::<Vec<_>>();
    let truths = [&old, &new].map(|m| rows(&rate(folder_of(m).path()).output().unwrap()));
    let start = Instant::now();
    rate(folder_of(&old).path()).output().unwrap();
    let time = start.elapsed();
    let tries: Vec<(usize, usize, bool)> =
        (0..ways.len()).flat_map(|w| (0..form.of(4, 50)).flat_map(move |n| [(w, n, true), (w, n, false)])).collect();
    let said = std::sync::atomic::AtomicUsize::new(0);
    let complaints = each(&tries, |&(way, n, weights)| {
        let (dir, mut rng) = (folder_of(&old), Rng::new(17, Stream::Test(n as u32), way as u32));
        let child = rate(dir.path()).spawn().unwrap();
        std::thread::sleep(time.mul_f32(rng.uniform()));
        let (how, change) = ways[way];
        let picture = fs::read(dir.path().join("pictures/7.png")).unwrap();
        match weights {
            true => change(&dir.path().join("m.safetensors"), &new),
            false => change(&dir.path().join("pictures/20.png"), &picture),
        }
        let out = child.wait_with_output().unwrap();
        let err = text(&out.stderr);
        must!(matches!(out.status.code(), Some(0 | 1)), "{how}: {:?} {err}", out.status);
        must!(!err.contains("panicked"), "{how}: {err}");
        if out.status.code() == Some(1) {
            said.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            must!(err.lines().filter(|l| l.starts_with("error: ")).count() == 1, "{how}: {err}");
        }
        // Whoever maps a file is promised that it is not written over (`src/mapped.rs`): then a rating may come of both.
        let mixed = weights && how == "written over in place";
        // Of a picture that changed another rating is right.
        let known =
            |row: &String| mixed || !weights && row.contains("20.png") || truths.iter().any(|t| t.contains(row));
        let wrong = rows(&out).into_iter().find(|row| !known(row));
        must!(wrong.is_none(), "{how}: {:?} is no answer of either file", wrong.unwrap_or_default());
        None
    });
    let said = said.into_inner();
    vec![Line::all(&format!("files changed under a process ({said} said so)"), tries.len(), complaints)]
}
