/*! PyTorch's `.pth`, `.pt`, `.t7`, `.bin`, `.ckpt`: the same pickle in two containers (`torch/serialization.py`).

* Since 1.6 (2020), `_save`: a zip archive with `NAME/data.pkl`, storages `NAME/data/KEY`, `NAME/byteorder`.
* Before, `_legacy_save`: a stream of five pickles (magic number, protocol 1001, what machine it was, the object, the
  storages' keys in their order), then for each key the number of elements in 8 bytes and the elements. Nothing aligns
  them. torchvision's VGG files of 2017 are of this kind.

The object is a state dict, or a checkpoint, a dictionary that holds one among epochs and optimizers. Under which key it
was and what was passed over is told in [`Archive::notes`]. Filters are always [K,C,R,S].

Checked: the directory of the zip and the checksum of its pickle; that each storage has the bytes that its elements
need, no fewer and no more; that each element of each tensor lies in its storage. Not checked: the checksums of stored
storages (see [`super::zip`]). */

use super::pickle::{self, Heap, MAX_NAME, Pickled, SAVE_LESS, Storage, Tensor, what};
use super::zip::{self, ZipEntry};
use super::{Archive, Array, ArrayData, Fault, Format};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// What the stream begins with, `0x1950a86a20f9469cfc6c`.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Its only version.
const PROTOCOL: i64 = 1001;
/// Where checkpoints keep their weights, the likeliest first.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "net", "module", "weights"];
/// Most tensors of a state dict.
const MAX_TENSORS: usize = 1 << 15;
/// Largest pickle in an archive: that of a thousand tensors is 100 KB long.
const MAX_PICKLE: usize = 16 << 20;

/// Whether this is the stream: a protocol and the magic number, as an integer of ten bytes.
pub fn is_legacy(bytes: &[u8]) -> bool {
    let head = bytes.get(..14).unwrap_or(&[]);
    head.first() == Some(&0x80) && head.get(2..4) == Some(&[0x8a, MAGIC.len() as u8]) && head.ends_with(&MAGIC)
}

/// Both containers. Peak memory is that of the pickle's values, at most some 64 MiB.
pub fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    if bytes.starts_with(b"PK\x03\x04") { archive(bytes) } else { stream(bytes) }
}

/// The container since 1.6.
fn archive(bytes: &[u8]) -> Result<Archive, Fault> {
    let entries = zip::entries(bytes)?;
    let mut pickles = entries.iter().filter(|e| e.name == "data.pkl" || e.name.ends_with("/data.pkl"));
    let (pickle, prefix) = match (pickles.next(), pickles.next()) {
        (Some(p), None) => (p, p.name.strip_suffix("data.pkl").unwrap_or("")),
        (None, _) => return Err(Fault::of("zip archive", "has no `data.pkl`, so it is no file of PyTorch")),
        (_, Some(p)) => return Err(Fault::of(zip::place(&p.name), "is the second pickle; which one is meant?")),
    };
    let named: HashMap<&str, &ZipEntry> =
        entries.iter().filter_map(|e| Some((e.name.strip_prefix(prefix)?, e))).collect();
    if named.contains_key("constants.pkl") {
        return Err(Fault::of("zip archive", format!("holds a TorchScript program, and no state dict; {SAVE_LESS}")));
    }
    if let Some(order) = named.get("byteorder")
        && *order.read(bytes)? != *b"little"
    {
        return Err(Fault::of(zip::place(&order.name), "is not `little`; only little endian files are supported"));
    }
    if pickle.size > MAX_PICKLE {
        let problem = format!("{} bytes long, at most {MAX_PICKLE} are supported", pickle.size);
        return Err(Fault::of(zip::place(&pickle.name), problem));
    }
    let text = pickle.read(bytes)?;
    let (top, heap) = pickle::load(&text, &mut 0)
        .map_err(|f| Fault::of(format!("{}, {}", zip::place(&pickle.name), f.place), f.problem))?;
    arrays(Format::TorchZip, bytes.len(), top, &heap, |storage, skip| {
        let Some(entry) = named.get(format!("data/{}", storage.key).as_str()) else {
            return Err(format!("its storage `{}` is not in the archive", storage.key));
        };
        fits(storage, entry.size)?;
        Ok(entry.place(skip))
    })
}

/// The container before.
fn stream(bytes: &[u8]) -> Result<Archive, Fault> {
    let at = &mut 0;
    // Whatever the file is, the pickle machine would only say at which opcode it gave up.
    if pickle::load(bytes, at).ok().map(|p| p.0) != Some(Pickled::Long(&MAGIC)) {
        return Err(Fault::at(0, "the magic number of PyTorch is not there"));
    }
    let start = *at;
    if pickle::load(bytes, at)?.0 != Pickled::Int(PROTOCOL) {
        return Err(Fault::at(start, format!("another protocol than {PROTOCOL}")));
    }
    let start = *at;
    let (system, heap) = pickle::load(bytes, at)?;
    let little = heap.dict(system).unwrap_or(&[]).iter().find(|p| p.0 == Pickled::Text("little_endian"));
    if little.map(|p| p.1) != Some(Pickled::Bool(true)) {
        return Err(Fault::at(start, "not written by a little endian machine; only such files are supported"));
    }
    let (top, heap) = pickle::load(bytes, at)?;
    let described: HashMap<&str, &Storage> = heap.storages.iter().map(|s| (s.key, s)).collect();
    let start = *at;
    let (keys, list) = pickle::load(bytes, at)?;
    let mut places: HashMap<&str, Range<usize>> = HashMap::new();
    for key in list.row(keys).unwrap_or(&[]) {
        let Pickled::Text(key) = *key else {
            return Err(Fault::at(start, format!("{} as a storage's key", what(*key))));
        };
        let Some(storage) = described.get(key) else {
            return Err(Fault::at(start, format!("storage `{key}` belongs to no tensor")));
        };
        let refuse = |problem: String| Fault::of(format!("byte {at}, storage `{key}`"), problem);
        let Some(head) = bytes.get(*at..).and_then(|b| b.first_chunk::<8>()) else {
            return Err(refuse("the file ends before it".into()));
        };
        let (elements, size) = (u64::from_le_bytes(*head), storage.dtype.bitsize() / 8);
        if elements != storage.elements as u64 {
            return Err(refuse(format!("{elements} elements, and the pickle says {}", storage.elements)));
        }
        let start = *at + 8;
        let end = storage.elements.checked_mul(size).and_then(|n| start.checked_add(n)).filter(|e| *e <= bytes.len());
        let end = end.ok_or_else(|| refuse(format!("{elements} elements, the file ends at {}", bytes.len())))?;
        if places.insert(key, start..end).is_some() {
            return Err(refuse("is there twice".into()));
        }
        *at = end;
    }
    if *at != bytes.len() {
        return Err(Fault::at(*at, format!("{} bytes behind the last storage", bytes.len() - *at)));
    }
    arrays(Format::TorchLegacy, bytes.len(), top, &heap, |storage, skip| {
        let Some(place) = places.get(storage.key) else {
            return Err(format!("its storage `{}` is not in the file", storage.key));
        };
        fits(storage, place.len())?;
        Ok(ArrayData::Mapped(place.start + skip.min(place.len())..place.end))
    })
}

/// Whether a storage has the bytes that its elements need.
fn fits(storage: &Storage, bytes: usize) -> Result<(), String> {
    let needs = storage.elements.checked_mul(storage.dtype.bitsize() / 8);
    if needs == Some(bytes) {
        return Ok(());
    }
    let (n, dtype) = (storage.elements, storage.dtype);
    Err(format!("its storage `{}` has {bytes} bytes for {n} elements of {dtype}", storage.key))
}

/// The tensors of the state dict in `top`; `find` gives the place of a storage's bytes from one of them on.
fn arrays(
    format: Format,
    file: usize,
    top: Pickled,
    heap: &Heap,
    find: impl Fn(&Storage, usize) -> Result<ArrayData, String>,
) -> Result<Archive, Fault> {
    let mut notes = BTreeMap::from([("layout".to_string(), "OIHW".to_string())]);
    let (state, tensors) = state_dict(top, heap, &mut notes)?;
    let passed = state.iter().filter(|p| !matches!(p.1, Pickled::Tensor(_))).count();
    if passed > 0 {
        notes.insert("no tensors".into(), format!("{passed} values beside the tensors passed over"));
    }
    let mut arrays = Vec::new();
    for (name, tensor) in tensors {
        let place = locate(tensor, heap, &find).map_err(|p| Fault::of(format!("tensor `{name}`"), p))?;
        arrays.push(Array {
            name: name.into(),
            dtype: heap.storages[tensor.storage].dtype,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            place,
        });
    }
    Archive { format, arrays, notes, beside: Vec::new() }.check(file)
}

/// Where a tensor's bytes are: in its storage, or in the part of it that a view has.
fn locate(
    t: &Tensor,
    heap: &Heap,
    find: &impl Fn(&Storage, usize) -> Result<ArrayData, String>,
) -> Result<ArrayData, String> {
    let storage = &heap.storages[t.storage];
    let (first, n) = storage.view.unwrap_or((0, storage.elements));
    let outside = || format!("begins outside its storage `{}`", storage.key);
    if first.checked_add(n).is_none_or(|end| end > storage.elements) || t.offset > n {
        return Err(outside());
    }
    let size = storage.dtype.bitsize() / 8;
    let place = find(storage, (first + t.offset).checked_mul(size).ok_or_else(outside)?)?;
    Ok(match place {
        // A view ends before its storage does.
        ArrayData::Mapped(r) => {
            ArrayData::Mapped(r.start..r.end.min(r.start.saturating_add((n - t.offset).saturating_mul(size))))
        }
        packed => packed,
    })
}

type Items<'h, 'a> = &'h [(Pickled<'a>, Pickled<'a>)];
type Named<'h, 'a> = Vec<(&'a str, &'h Tensor)>;

/// The dictionary whose values are the weights: one that checkpoints are known to keep them in, or the object itself,
/// or the only dictionary of tensors in it.
fn state_dict<'h, 'a>(
    top: Pickled<'a>,
    heap: &'h Heap<'a>,
    notes: &mut BTreeMap<String, String>,
) -> Result<(Items<'h, 'a>, Named<'h, 'a>), Fault> {
    let refuse = |problem| Err(Fault::of("pickle", problem));
    let Some(items) = heap.dict(top) else {
        return refuse(format!("holds {}, and no dictionary of tensors; {SAVE_LESS}", what(top)));
    };
    let inner: Vec<_> = items.iter().filter_map(|(key, v)| Some((*key, heap.weights(*v)?))).collect();
    let known = WRAPPERS.iter().find_map(|w| inner.iter().find(|(key, _)| *key == Pickled::Text(w)));
    let (state, key) = match (known, heap.weights(top), &inner[..]) {
        (Some((key, d)), ..) => (*d, Some(*key)),
        (None, Some(d), _) => (d, None),
        (None, None, [(key, d)]) => (*d, Some(*key)),
        (None, None, several) => {
            let names: Vec<_> = items.iter().filter_map(|p| key_text(p.0)).take(8).collect();
            let how = if several.is_empty() { "no dictionary" } else { "several dictionaries" };
            return refuse(format!("holds {how} of tensors among [{}]; {SAVE_LESS}", names.join(", ")));
        }
    };
    if let Some(key) = key {
        notes.insert("state dict".into(), key_text(key).unwrap_or_default());
        let beside: Vec<_> = items.iter().filter(|p| p.0 != key).filter_map(|p| key_text(p.0)).take(16).collect();
        if !beside.is_empty() {
            notes.insert("passed over".into(), beside.join(", "));
        }
    }
    let mut tensors = Vec::new();
    for (key, v) in state {
        let Pickled::Tensor(i) = *v else { continue };
        let Pickled::Text(name) = *key else { return refuse(format!("a tensor whose name is {}", what(*key))) };
        if name.len() > MAX_NAME || tensors.len() == MAX_TENSORS {
            return refuse(format!("a tensor with a name of {} bytes, or more than {MAX_TENSORS}", name.len()));
        }
        tensors.push((name, &heap.tensors[i]));
    }
    Ok((state, tensors))
}

/// A dictionary's key in an error or a note.
fn key_text(key: Pickled) -> Option<String> {
    match key {
        Pickled::Text(s) => Some(format!("`{}`", s.chars().take(64).collect::<String>())),
        Pickled::Int(n) => Some(n.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Tensors, archive, fixture, reference, tensors, torment};
    use super::*;
    use half::{bf16, f16};
    use safetensors::Dtype;

    const FIXTURES: [&str; 9] = [
        "torch.pth",
        "torch-protocol4.pth",
        "torch-legacy.pth",
        "torch-2017.pth",
        "torch-bn.pth",
        "torch-face.t7",
        "torch-module.pth",
        "torch-channels-last.pth",
        "torch-half.pth",
    ];

    fn open(name: &str) -> (Archive, Tensors) {
        let bytes = fixture(name);
        let archive = read(&bytes).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let tensors = tensors(&archive, &bytes);
        (archive, tensors)
    }

    #[test]
    fn every_kind_of_file_holds_the_same_values() {
        let plain = reference("torchvision.safetensors");
        for (name, format) in [
            ("torch.pth", Format::TorchZip),
            ("torch-protocol4.pth", Format::TorchZip),
            ("torch-legacy.pth", Format::TorchLegacy),
            ("torch-2017.pth", Format::TorchLegacy),
            ("torch-channels-last.pth", Format::TorchZip),
            ("torch-module.pth", Format::TorchZip),
        ] {
            let (archive, tensors) = open(name);
            assert_eq!(archive.format, format, "{name}");
            let bare = |n: &String| n.strip_prefix("module.").unwrap_or(n).to_string();
            let tensors: Tensors = tensors.into_iter().map(|(n, t)| (bare(&n), t)).collect();
            assert_eq!(tensors, plain, "{name}");
            assert_eq!(bare(&archive.arrays[0].name), "features.0.weight", "the writer's order");
        }
        assert_eq!(open("torch-bn.pth").1, reference("torchvision-bn.safetensors"));
        let half = open("torch-half.pth").1;
        for (name, (shape, values)) in &plain {
            let round = |v: &f64| match name.contains("classifier") {
                true => bf16::from_f64(*v).to_f64(),
                false => f16::from_f64(*v).to_f64(),
            };
            assert_eq!(half[name], (shape.clone(), values.iter().map(round).collect()), "{name}");
        }
        let last = open("torch-channels-last.pth").0;
        assert_eq!(last.arrays.iter().find(|a| a.name == "features.5.weight").unwrap().strides, [27, 1, 9, 3]);
    }

    #[test]
    fn checkpoints_hold_a_state_dict_among_other_things() {
        let (archive, tensors) = open("torch-face.t7");
        assert_eq!(tensors, reference("face.safetensors"));
        assert_eq!(archive.notes["state dict"], "`net`");
        assert_eq!(archive.notes["passed over"], "`acc`, `epoch`, `best`");
        let steps = archive.arrays.iter().find(|a| a.name == "features.1.num_batches_tracked").unwrap();
        assert_eq!((steps.dtype, steps.shape.len()), (Dtype::I64, 0));
        let notes = open("torch-module.pth").0.notes;
        assert_eq!(notes["state dict"], "`state_dict`");
        assert_eq!(notes["passed over"], "`epoch`, `optimizer`, `scheduler`");
    }

    #[test]
    fn damaged_files_are_refused_or_whole() {
        for name in FIXTURES {
            torment(read, &fixture(name), 2000);
        }
    }

    /// A stream with this object, and these storages behind it.
    fn stream_of(object: &[u8], storages: &[(&str, i64, &[u8])]) -> Vec<u8> {
        let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
        file.extend(b"\x80\x02}U\x0dlittle_endian\x88s.");
        file.extend(object);
        file.extend(b"\x80\x02](");
        for (key, ..) in storages {
            file.extend([b'U', key.len() as u8]);
            file.extend(key.as_bytes());
        }
        file.extend(b"e.");
        for (_, n, bytes) in storages {
            file.extend(n.to_le_bytes());
            file.extend(*bytes);
        }
        file
    }

    /// `{'w': tensor}` of six floats.
    fn object(tail: &str) -> Vec<u8> {
        let storage = "(U\x07storagectorch\nFloatStorage\nU\x01aU\x03cpuK\x06NtQ";
        format!("}}U\x01wctorch._utils\n_rebuild_tensor\n({storage}{tail}s.").into_bytes()
    }

    fn refusal(bytes: &[u8]) -> String {
        let fault = read(bytes).expect_err("a refusal");
        fault.error(std::path::Path::new("x.pth")).to_string()
    }

    #[test]
    fn tensors_and_storages_must_agree() {
        let six = ("a", 6, [0; 24].as_slice());
        assert_eq!(read(&stream_of(&object("K\x00(K\x02K\x03t(K\x03K\x01ttR"), &[six])).unwrap().arrays.len(), 1);
        for (tail, want) in [
            ("K\x01(K\x02K\x03t(K\x03K\x01ttR", "needs 24 bytes and has 20"),
            ("K\x07(K\x02K\x03t(K\x03K\x01ttR", "begins outside its storage `a`"),
            ("K\x00(K\x02K\x03t(K\x04K\x01ttR", "needs 28 bytes and has 24"),
            ("K\x00(K\x02K\x03t(J\u{0}\u{0}\u{0}\u{7f}K\x01ttR", "needs 8522825740 bytes and has 24"),
            ("K\x00(M\x0f\x27M\x0f\x27t(K\x00K\x00ttR", "needs 399920004 bytes and has 24"),
            ("K\x00(K\x02K\x03t(K\x03ttR", "a tensor of 2 extents and 1 strides"),
            ("K\x00(K\x02K\x03ttR", "a call with wrong arguments: a storage, a number, a tuple"),
            ("tR", "a call with wrong arguments: a storage"),
            ("K\x00(K\x02Nt(K\x03K\x01ttR", "None instead of a number of elements"),
            ("K\x00NNtR", "a tensor with None for extents"),
        ] {
            let line = refusal(&stream_of(&object(tail), &[six]));
            assert!(line.contains(want), "{line}");
        }
        // -1 is an int32 of all ones.
        let mut negative = object("K\x00(K\x02K\x03t(J????K\x01ttR");
        let at = negative.windows(4).position(|w| w == b"????").unwrap();
        negative[at..at + 4].fill(0xff);
        assert!(refusal(&stream_of(&negative, &[six])).contains("-1 elements"));

        let good = object("K\x00(K\x02K\x03t(K\x03K\x01ttR");
        for (storages, want) in [
            (&[("a", 7, [0; 28].as_slice())][..], "7 elements, and the pickle says 6"),
            (&[("a", i64::MAX, [0; 24].as_slice())], "elements, and the pickle says 6"),
            (&[("a", 6, [0; 20].as_slice())], "6 elements, the file ends at"),
            (&[("a", 6, [0; 28].as_slice())], "4 bytes behind the last storage"),
            (&[], "its storage `a` is not in the file"),
            (&[("b", 6, [0; 24].as_slice())], "storage `b` belongs to no tensor"),
            (&[six, six], "is there twice"),
        ] {
            let line = refusal(&stream_of(&good, storages));
            assert!(line.contains(want), "{line}");
        }
    }

    #[test]
    fn archives_must_be_whole() {
        let pickle = object("K\x00(K\x02K\x03t(K\x03K\x01ttR");
        let (p, six) = (("x/data.pkl", pickle.as_slice()), ("x/data/a", [0; 24].as_slice()));
        assert_eq!(read(&archive(&[p, ("x/byteorder", b"little"), six], true)).unwrap().arrays.len(), 1);
        // Without a folder, as someone packs it again.
        let again = archive(&[("data/a.z", &[0; 24]), ("data.pkl", &pickle)], false);
        assert!(refusal(&again).contains("its storage `a` is not in the archive"));
        for (entries, want) in [
            (&[six, p, ("y/data.pkl", b"N.")][..], "entry `y/data.pkl`: is the second pickle"),
            (&[six], "has no `data.pkl`"),
            (&[p], "tensor `w`: its storage `a` is not in the archive"),
            (&[p, ("data/a", &[0; 24])], "its storage `a` is not in the archive"),
            (&[p, ("x/data/a", &[0; 23])], "its storage `a` has 23 bytes for 6 elements of F32"),
            (&[p, ("x/data/a", &[0; 28])], "its storage `a` has 28 bytes for 6 elements of F32"),
            (&[p, six, ("x/byteorder", b"big")], "entry `x/byteorder`: is not `little`"),
            (&[p, six, ("x/constants.pkl", b"")], "holds a TorchScript program"),
            (&[("x/data.pkl", b"cos\nsystem\n."), six], "entry `x/data.pkl`, byte 0: `os.system` is not allowed"),
        ] {
            let line = refusal(&archive(entries, true));
            assert!(line.contains(want), "{line}");
        }
    }

    #[test]
    fn what_lies_beside_the_weights_is_passed_over() {
        let tensor = "ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x01aU\x03cpuK\x06NtQK\x00(K\x06t(K\x01ttR";
        for beside in [
            // argparse.Namespace(lr=1), a NumPy float and an array, a path, a date, a defaultdict, a set.
            "cargparse\nNamespace\n)\u{81}}U\x02lrK\x01sb",
            "cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(U\x02f8K\x00K\x01tRU\x08........\u{86}R",
            "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01K\x02tb",
            "cpathlib\nPosixPath\n(U\x01/tR",
            "cdatetime\ndatetime\nU\x01d\u{85}R",
            "ccollections\ndefaultdict\n(c__builtin__\nlist\ntRU\x01aK\x01s",
            "\u{8f}(K\x01\u{90}",
            "comegaconf.dictconfig\nDictConfig\n)\u{81}}b",
            "ctorch\nfloat32\n",
            "ctorch\ndevice\nU\x03cpu\u{85}R",
        ] {
            // Opcodes above 127 are single bytes.
            let beside: Vec<u8> = beside.chars().map(|c| c as u8).collect();
            let object = [b"}U\x04args", &beside[..], b"sU\x0astate_dict}U\x01w", tensor.as_bytes(), b"ss."].concat();
            let archive =
                read(&stream_of(&object, &[("a", 6, [0; 24].as_slice())])).unwrap_or_else(|e| panic!("{e:?}"));
            assert_eq!((archive.arrays.len(), archive.notes["passed over"].as_str()), (1, "`args`"));
        }
    }

    #[test]
    fn what_is_no_state_dict_is_named() {
        let tensor =
            "ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x01aU\x03cpuK\x06NtQK\x00(t(ttR";
        for (object, want) in [
            ("cos\nsystem\n(U\x02lstR.", "`os.system` is not allowed in a weight file; load it"),
            ("cnumpy.testing._private.utils\nrunstring\n.", "`numpy.testing._private.utils.runstring` is not allowed"),
            ("cbuiltins\neval\n.", "`builtins.eval` is not allowed"),
            ("ctorch\nload\n.", "`torch.load` is not allowed"),
            ("cargparse\nNamespace\n.", "save only the weights: torch.save(model.state_dict(), file)"),
            ("(U\x06modulectorch\nSize\nU\x01sU\x01stQ.", "a whole module, and no state dict"),
            ("K\x01.", "holds a number, and no dictionary of tensors"),
            ("}U\x03accK\x01s.", "holds no dictionary of tensors among [`acc`]"),
            (&format!("{tensor}U\x01wK\x01s."), "items for a tensor"),
            (&format!("{tensor}}}b."), "attributes for a tensor"),
            ("}}b.", "attributes for a dictionary"),
            ("}K\x01a.", "elements for a dictionary"),
            ("](K\x01K\x01u.", "items for a list"),
            ("K\x01)R.", "a call of a number"),
            ("ccollections\nOrderedDict\n(](]K\x01aetR.", "an OrderedDict of something else than pairs"),
            ("h\x05.", "value 5 was never remembered"),
            ("(K\x01.", "holds a number"),
            ("s.", "a value is missing"),
            ("e.", "a mark is missing"),
            ("K\x01(s.", "a value is missing"),
            ("X\u{7f}\u{7f}\u{7f}\u{7f}.", "2139062143 bytes are announced"),
            ("i.", "opcode 0x69 is not allowed"),
            (&format!("}}{tensor}{tensor}s."), "a tensor whose name is a tensor"),
            (&"(".repeat(65), "nested more than 64 deep"),
            (&"N".repeat(600_000), "more than 524288 values"),
        ] {
            let line = refusal(&stream_of(object.as_bytes(), &[]));
            assert!(line.starts_with("x.pth: ") && line.contains(want) && !line.contains('\n'), "{object:.40}\n{line}");
        }
        // A tuple in a tuple a hundred thousand times, and a list of lists that would be 2^100 long.
        let deep = [b")".to_vec(), vec![0x85; 100_000], b".".to_vec()].concat();
        assert!(refusal(&stream_of(&deep, &[])).contains("holds a tuple"));
        let mut bomb = b"]q\x00".to_vec();
        for i in 0..100u8 {
            bomb.extend([b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']);
        }
        bomb.push(b'.');
        assert!(refusal(&stream_of(&bomb, &[])).contains("holds a list"));
    }
}
