use super::*;
use crate::weights::foreign::{ArrayData, testing::fixture};
use std::time::Instant;

/// Reads everything there is.
fn read(bytes: &[u8]) -> Result<usize, Fault> {
    fn all(reader: &mut Reader, group: &HdfGroup, file: &[u8]) -> Result<usize, Fault> {
        group.members.iter().try_fold(0, |n, (name, node)| match node {
            HdfNode::HdfGroup(below) => Ok(n + all(reader, below, file)?),
            HdfNode::Dataset(dataset) => match reader.array(dataset, name, name.clone())?.place {
                ArrayData::Mapped(r) => Ok(n + r.len()),
                ArrayData::Packed(_, unpack) => Ok(n + unpack(file)?.len()),
                ArrayData::Beside(..) => unreachable!("HDF5 has no files beside it"),
            },
        })
    }
    let (mut reader, root) = Reader::open(bytes, 0..bytes.len())?;
    all(&mut reader, &root, bytes)
}

fn refusal(bytes: &[u8]) -> String {
    let start = Instant::now();
    let e = read(bytes).unwrap_err();
    assert!(start.elapsed().as_secs_f64() < 1.0);
    format!("{}: {}", e.place, e.problem)
}

/// A file of these object headers, each of the messages (type and bytes) of version 1; the first is the root.
fn file(objects: &[&[(u8, Vec<u8>)]]) -> Vec<u8> {
    let mut at = 48;
    let mut bodies = Vec::new();
    for messages in objects {
        let message = |(kind, data): &(u8, Vec<u8>)| [&[*kind, 0, data.len() as u8, 0, 0, 0, 0, 0][..], data].concat();
        let body: Vec<u8> = messages.iter().flat_map(message).collect();
        bodies.extend([&[1, 0, 1, 0, 1, 0, 0, 0, body.len() as u8, 0, 0, 0, 0, 0, 0, 0][..], &body].concat());
        at += 16 + body.len();
    }
    let address = |n: usize| (n as u64).to_le_bytes();
    let head = [SIGNATURE, &[2, 8, 8, 0], &address(0), &[255; 8], &address(at), &address(48), &[0; 4]].concat();
    [head, bodies].concat()
}

/// A link message of a name and an address.
fn link(name: &str, at: usize) -> (u8, Vec<u8>) {
    (6, [&[1, 0, name.len() as u8], name.as_bytes(), &(at as u64).to_le_bytes()].concat())
}

#[test]
fn hostile_headers_are_refused() {
    // A group whose links are not in a heap, as there are none.
    let empty = [(2, [vec![0; 2], vec![255; 16]].concat())];
    assert_eq!(read(&file(&[&[link("a", 84)], &empty])), Ok(0));
    // Each group is 36 bytes and links to the next.
    let chain: Vec<[_; 1]> = (1..40).map(|i| [link("a", 48 + 36 * i)]).collect();
    let chain: Vec<&[_]> = chain.iter().map(|m| &m[..]).collect();
    let continued = |at: u64, n: u64| (0x10, [at.to_le_bytes(), n.to_le_bytes()].concat());
    for (bytes, want) in [
        (file(&chain), "groups nested more than 32 deep"),
        (file(&[&[link("a", 48)]]), "byte 48: an object with a second link to it, or a circle of groups"),
        (file(&[&[continued(64, 24)]]), "more than 16 MiB of groups and attributes, or a circle of them"),
        (file(&[&[continued(64, 1 << 60)]]), "byte 64: object header continuation: 1152921504606846976 bytes where 24"),
        (file(&[&[continued(1 << 60, 24)]]), "object header"),
        (file(&[&[continued(u64::MAX, 24)]]), "an undefined address"),
        (file(&[&[link("a", 10000)]]), "byte 10000: object header up to byte"),
        (file(&[&[link("a", 104), link("b", 104)], &empty]), "byte 104: an object with a second link"),
        (file(&[&[(6, vec![1, 8, 1, 1, b'a', 0])]]), "link: of kind soft and version 1"),
        (file(&[&[(6, vec![1, 8, 64, 1, b'a', 0])]]), "link: of kind external and version 1"),
        (file(&[&[(2, [vec![0, 0], vec![1; 16]].concat())]]), "links in a fractal heap"),
        (file(&[&[(0x15, [vec![0, 1, 0, 0], vec![1; 16]].concat())]]), "attributes in a fractal heap"),
        (file(&[&[]]), "neither a group nor a dataset"),
        (file(&[&[(8, vec![3, 1])]]), "the root of the HDF5 file is not a group"),
        ([SIGNATURE, &[1; 60]].concat(), "superblock: version 1 is not supported"),
        (SIGNATURE.to_vec(), "byte 8: superblock: 1 bytes where 0 are left"),
    ] {
        let e = refusal(&bytes);
        assert!(e.contains(want), "{e}\n{want}");
    }
}

#[test]
fn hostile_changes_are_refused() {
    let float = [0x11, 0x20, 0x1f, 0, 4, 0, 0, 0];
    let extents = |a: u64, b: u64| [a.to_le_bytes(), b.to_le_bytes()].concat();
    for (name, find, skip, to, want) in [
        // The root is at byte 96; the object of the first link is made it.
        ("keras1.h5", &b"SNOD"[..], 16, &96u64.to_le_bytes()[..], "byte 96: an object with a second link"),
        ("keras1.h5", b"SNOD", 8, &[255; 4], "a name outside of its heap"),
        ("keras1.h5", b"SNOD", 24, &[2], "symbol table node: a soft link; only hard ones"),
        ("keras1.h5", b"SNOD", 0, b"SNOB", "symbol table node: does not begin with `SNOD`"),
        // The tree's lowest node becomes one that has itself below it, or a symbol table node.
        ("keras1.h5", b"TREE", 5, &[1], "does not begin with `TREE`"),
        ("keras1.h5", b"TREE", 4, &[1], "a node of kind 1 at level 0"),
        ("keras1.h5", b"TREE", 6, &[255, 255], "undefined address"),
        ("keras1.h5", b"HEAP", 8, &[255; 7], "local heap: 72057594037927935 bytes where"),
        ("keras1.h5", &extents(28, 8), 0, &extents(1 << 40, 1 << 40), "more bytes than can be counted"),
        ("keras1.h5", &extents(28, 8), 0, &extents(1 << 40, 8), "bytes of values, of which 896 are stored"),
        ("keras1.h5", &float, 1, &[0x21], "float of 4 bytes, big endian, is not supported"),
        ("keras1.h5", &float, 4, &[2], "float of 2 bytes in that form is not supported"),
        ("keras1.h5", &float, 0, &[0x16], "compound of 4 bytes is not supported"),
        ("keras1.h5", b"weight_names\0", -6, &[255; 2], "attribute: 65535 bytes where"),
        ("keras1.h5", b"weight_names\0", -4, &[255; 2], "attribute: 65535 bytes where"),
        ("keras1.h5", b"weight_names\0", 20, &[255; 4], "attribute: 4294967295 bytes where"),
        ("keras1.h5", b"\x89HDF", 40, &[255; 6], "truncated: the superblock speaks of"),
        ("keras1.h5", b"\x89HDF", 13, &[4], "addresses of 4 and lengths of 8 bytes"),
        ("keras.h5", b"GCOL", 8, &[255; 7], "global heap: 72057594037927935 bytes where"),
        ("keras.h5", b"GCOL", 16, &[77], "no object 1 in the global heap"),
        ("keras_gzip.h5", b"deflate\0", -8, &[3], "filter 3; only deflate (1) and shuffle (2) are supported"),
        ("keras_gzip.h5", b"shuffle\0", 8, &[8], "shuffled as elements of 8 bytes, which they are not"),
        ("keras_gzip.h5", b"TREE\x01\0", 6, &[1, 0], "1 chunks for a grid of"),
        ("keras_gzip.h5", b"TREE\x01\0", 24, &[255; 4], "chunk: 4294967295 bytes where"),
        ("keras_gzip.h5", b"TREE\x01\0", 24, &[1, 0, 0, 0], "the chunk is damaged"),
        ("keras_gzip.h5", b"TREE\x01\0", 32, &[1], "begins at 1 of"),
        ("keras_gzip.h5", &extents(28, 8), 0, &extents(1 << 50, 8), "chunks for a grid of"),
    ] {
        let mut bytes = fixture(name);
        let at = bytes.windows(find.len()).position(|w| w == find).expect(want);
        let at = at.checked_add_signed(skip).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        let e = refusal(&bytes);
        assert!(e.contains(want), "{e}\n{want}");
    }
    // A lowest node that becomes one of the level above, with itself below.
    let mut bytes = fixture("keras1.h5");
    let at = bytes.windows(4).position(|w| w == b"TREE").unwrap();
    bytes[at + 5..at + 8].copy_from_slice(&[1, 1, 0]);
    bytes[at + 32..at + 40].copy_from_slice(&(at as u64).to_le_bytes());
    assert!(refusal(&bytes).contains("a node of kind 0 at level 1, which does not belong there"));
}

#[test]
fn a_file_may_lie_inside_another() {
    let inner = fixture("keras_latest.h5");
    let outer = [&[7; 13], &inner[..], &[9; 5]].concat();
    let within = 13..13 + inner.len();
    let first = |bytes: &[u8], within: Range<usize>| {
        let (mut reader, root) = Reader::open(bytes, within).unwrap();
        let Some(HdfNode::Dataset(d)) = root.find("block1_conv1/block1_conv1_b_1:0") else { panic!("it is there") };
        match reader.array(d, "", String::new()).unwrap().place {
            ArrayData::Mapped(r) => r,
            p => panic!("{p:?}"),
        }
    };
    assert_eq!(first(&outer, within.clone()).start, first(&inner, 0..inner.len()).start + 13);
    assert!(Reader::open(&outer, 13..outer.len() + 1).is_err());
    let mut cut = outer;
    cut.truncate(within.end - 1);
    assert!(Reader::open(&cut, 13..cut.len()).is_err());
}
