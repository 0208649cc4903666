use super::*;
use std::io::Cursor;

/// A header as POSIX has it.
fn header(name: &str, kind: u8, bytes: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{bytes:011o}\0").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    summed(block)
}

fn summed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, content.len());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn closed(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 2 * BLOCK]].concat()
}

/// Everything in an archive: from a file whose contents are read, the same passed over, and from a pipe.
fn all(bytes: &[u8]) -> (Vec<(Entry, Vec<u8>)>, Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let read = |mut archive: Archive, contents: bool| {
        let mut found = vec![];
        let end = loop {
            match archive.entry() {
                Ok(None) => break None,
                Ok(Some(entry)) => match contents.then(|| archive.content()) {
                    None => found.push((entry, vec![])),
                    Some(Ok(content)) => found.push((entry, content)),
                    Some(Err(e)) => break Some(e.to_string()),
                },
                Err(e) => break Some(e.to_string()),
            }
        };
        (found, end.map(|e| e.rsplit_once("a.tar: ").map_or(e.clone(), |e| e.1.into())))
    };
    let open = || Archive::open(&path).unwrap();
    let (found, end) = read(open(), true);
    assert_eq!(read(Archive::pipe(&path, Cursor::new(bytes.to_vec())), true), (found.clone(), end.clone()));
    for passed in [open(), Archive::pipe(&path, Cursor::new(bytes.to_vec()))] {
        let (names, ended) = read(passed, false);
        assert!(names.iter().zip(&found).all(|(a, b)| a.0 == b.0) && ended == end, "{ended:?} {end:?}");
    }
    (found, end)
}

fn names(bytes: &[u8]) -> Vec<String> {
    let (found, end) = all(bytes);
    assert_eq!(end, None);
    found.into_iter().filter(|f| f.0.file).map(|f| f.0.name).collect()
}

#[test]
fn what_gnu_and_posix_write_is_read() {
    let long = format!("{}/x.jpg", "folder".repeat(40));
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let digits = (rest.len() + 2).to_string().len();
        format!("{}{rest}", rest.len() + digits)
    };
    let mut prefixed = header("b.jpg", b'0', 3);
    prefixed[345..351].copy_from_slice(b"a/deep");
    let prefixed = [summed(prefixed), b"one".to_vec(), vec![0; BLOCK - 3]].concat();
    let mut large = header("large.jpg", b'0', 0);
    large[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
    let large = [summed(large), vec![7; 513], vec![0; BLOCK - 1]].concat();
    let bytes = closed(&[
        entry("pax_global_header", b'g', record("comment", "abc").as_bytes()),
        entry("dir/", b'5', b""),
        entry("dir/a.jpg", b'0', b"content"),
        prefixed,
        entry("././@LongLink", b'L', format!("{long}\0").as_bytes()),
        entry("cut.jpg", 0, b"two"),
        entry("PaxHeader", b'x', [record("mtime", "1.5"), record("path", "é/c.jpg")].concat().as_bytes()),
        entry("c.jpg", b'0', b"three"),
        large,
        entry("empty", b'0', b""),
        entry("v7/", 0, b""),
    ]);
    let (found, end) = all(&bytes);
    let files: Vec<_> = found.iter().filter(|f| f.0.file).map(|f| (f.0.name.as_str(), f.1.len())).collect();
    let want = [("dir/a.jpg", 7), ("a/deep/b.jpg", 3), (&long, 3), ("é/c.jpg", 5), ("large.jpg", 513), ("empty", 0)];
    assert_eq!((files, end), (want.to_vec(), None));
    // One behind another, as `cat` leaves them.
    let two = [&bytes[..], &[0; 9 * BLOCK], &closed(&[entry("d.jpg", b'0', b"four")])].concat();
    assert_eq!(names(&two).len(), want.len() + 1);
}

#[test]
fn names_and_links_are_only_said() {
    let bytes = closed(&[
        entry("../../etc/passwd.jpg", b'0', b"x"),
        entry("/abs.jpg", b'0', b"x"),
        entry("link.jpg", b'2', b""),
        header("hard.jpg", b'1', 4000),
        entry("null.jpg", b'3', b""),
        entry("pipe.jpg", b'6', b""),
        entry("last.jpg", b'0', b"x"),
    ]);
    assert_eq!(names(&bytes), ["../../etc/passwd.jpg", "/abs.jpg", "last.jpg"]);
}

#[test]
fn what_is_cut_off_names_the_last_whole_entry() {
    let bytes = closed(&[entry("a.jpg", b'0', &[1; 700]), entry("b.jpg", b'0', &[2; 600])]);
    let b = BLOCK;
    let begun = "is truncated inside `b.jpg`, and `a.jpg` is its last whole entry; copy or download it again";
    let open = |name: &str| {
        format!("is truncated: it has no end, and `{name}` is its last whole entry; copy or download it again")
    };
    for (bytes, whole, want) in [
        (0, 0, "is empty, and no entry of it is whole; copy or download it again".into()),
        (300, 0, "is truncated: it has no end, and no entry of it is whole; copy or download it again".into()),
        (b + 699, 0, "is truncated inside `a.jpg`, and no entry of it is whole; copy or download it again".into()),
        (b + 700, 1, open("a.jpg")),
        (3 * b, 1, open("a.jpg")),
        (3 * b + 9, 1, open("a.jpg")),
        (4 * b + 1, 1, begun.to_string()),
        (4 * b + 599, 1, begun.to_string()),
        (6 * b, 2, open("b.jpg")),
    ]
    .map(|(n, whole, want): (usize, usize, String)| (&bytes[..n], whole, want))
    {
        let (found, end) = all(bytes);
        assert_eq!((found.len(), end), (whole, Some(want)), "{}", bytes.len());
    }
    // The second block of zeros and what fills the record may be missing.
    assert_eq!(names(&bytes[..7 * b]).len(), 2);
}

#[test]
fn what_is_no_archive_is_refused() {
    let good = entry("a.jpg", b'0', b"x");
    let with = |at: usize, byte: u8| {
        let mut second = entry("b.jpg", b'0', b"x");
        second[at] = byte;
        closed(&[good.clone(), second])
    };
    let end = |bytes: &[u8]| all(bytes).1.unwrap();
    for none in [&b"\x1f\x8b\x08 compressed"[..], &[0xff; 2000], &b"path\n".repeat(200)] {
        let said = end(none);
        assert!(said.contains("is no tar archive") || none.len() < BLOCK && said.contains("truncated"), "{said}");
    }
    assert_eq!(end(&with(0, b'B')), "is damaged at byte 1024, behind `a.jpg`; copy or download it again");
    // Sums that are right, and sizes that are not.
    for size in [
        &b"99999999999\0"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut block = header("b.jpg", b'0', 1);
        block[124..136].copy_from_slice(size);
        assert!(end(&closed(&[good.clone(), summed(block)])).contains("damaged at byte 1024"), "{size:?}");
    }
    let mut endless = header("b.jpg", b'0', 1);
    endless[124..136].copy_from_slice(b"77777777777\0");
    assert!(end(&closed(&[good.clone(), summed(endless)])).contains("truncated inside `b.jpg`"));
    for record in ["7 path=x\n", "path=x\n", "99 path=x\n", "8 path=x", "11 size=-1\n"] {
        let bytes = closed(&[entry("p", b'x', record.as_bytes()), good.clone()]);
        assert!(end(&bytes).contains("damaged at byte"), "{record}");
    }
    assert!(end(&closed(&[good.clone(), header("p", b'x', 2 << 20)])).contains("damaged"));
    assert!(end(&closed(&[entry("a.jpg", b'S', b"")])).contains("without --sparse"));
}
