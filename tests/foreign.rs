//! Files of other programs, written by those programs from one small network (`tests/foreign/tiny.py`): every one of them
//! comes to the same bits here, and they compute what PyTorch computes.

use deep_affect::device::{Data, Session, open};
use deep_affect::graph::Graph;
use deep_affect::nn::{Conv, Mode, Net};
use deep_affect::ops::norm::Convention;
use deep_affect::plan::Options;
use deep_affect::shape::{Type, Window};
use deep_affect::weights::diff::{TensorDifference, diff};
use deep_affect::weights::foreign::ArrayData;
use deep_affect::weights::import::{Foreign, Norm, SOURCE_FORMAT, SOURCE_SHA256};
use deep_affect::weights::inspect::inspect;
use deep_affect::weights::store::Store;
use deep_affect::weights::{TowerWeights, WeightFile, write};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name)
}

/// Blocks of (channels, convolutions), hidden dense layers, classes, side.
struct Shape {
    blocks: [(usize, usize); 5],
    dense: &'static [usize],
    classes: usize,
    side: usize,
    norm: bool,
}

const VGG16: Shape =
    Shape { blocks: [(3, 2), (4, 2), (5, 3), (6, 3), (7, 3)], dense: &[8, 9], classes: 10, side: 64, norm: false };
const FACE: Shape =
    Shape { blocks: [(3, 2), (4, 2), (5, 4), (6, 4), (8, 4)], dense: &[], classes: 7, side: 44, norm: false };

impl Shape {
    fn graph(&self, batch: usize) -> (Graph, deep_affect::graph::Value, deep_affect::graph::Value) {
        let mut g = Graph::default();
        let image = g.input("image", Type::f32(&[batch, self.side, self.side, 3]));
        let mut net = Net::new(&mut g, Mode::Eval);
        let mut x = image;
        for (b, (filters, convs)) in (1..).zip(self.blocks) {
            for c in 1..=convs {
                let conv = Conv { filters, window: Window::square(3, 1, 1), groups: 1, bias: true, relu: true };
                let name = format!("conv{b}_{c}");
                x = match self.norm {
                    true => net.conv_bn(&name, &format!("norm{b}_{c}"), x, conv, Convention::TORCH),
                    false => net.conv(&name, x, conv),
                };
            }
            x = net.maxpool(&format!("pool{b}"), x, Window::square(2, 2, 0));
        }
        for (i, n) in (1..).zip(self.dense) {
            x = net.dense(&format!("fc{i}"), x, *n, true);
        }
        x = net.dense(&format!("fc{}", self.dense.len() + 1), x, self.classes, false);
        let y = net.softmax("softmax", x);
        (g, image, y)
    }

    fn wanted(&self) -> Vec<(String, Vec<usize>)> {
        let (g, ..) = self.graph(1);
        g.stored().map(|v| (g.name(v).to_string(), g.dims(v).to_vec())).collect()
    }
}

/// Imports a fixture to a file that lives as long as the folder.
fn import(name: &str, shape: &Shape, norm: Norm, dir: &Path) -> (Foreign, Arc<WeightFile>) {
    let foreign = Foreign::open(fixture(name)).unwrap_or_else(|e| panic!("{e}"));
    let wanted = shape.wanted();
    foreign.check(&wanted, norm).unwrap_or_else(|e| panic!("{e}"));
    let out = dir.join(format!("{name}.safetensors"));
    let digest =
        foreign.write(&out, &wanted, norm, Store::Float32, &BTreeMap::new(), &()).unwrap_or_else(|e| panic!("{e}"));
    let file = WeightFile::open(&out).unwrap();
    assert_eq!((file.metadata()[SOURCE_SHA256].as_str(), digest.len()), (digest.as_str(), 64), "{name}");
    assert_eq!(file.metadata()[SOURCE_FORMAT], foreign.format().name(), "{name}");
    (foreign, file)
}

/// Whoever reads a narrow file sees the same numbers: mapped tensors, `weights diff`, `weights inspect`; and they are those of
/// the file it was made from, within what the type allows.
#[test]
fn narrow_files_are_the_same_network_within_their_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = Foreign::open(fixture("torchvision.safetensors")).unwrap();
    let full = WeightFile::open(fixture("ours.safetensors")).unwrap();
    let of = |store| {
        let out = dir.path().join(format!("{store:?}.safetensors"));
        foreign.write(&out, &VGG16.wanted(), Norm::Keep, store, &BTreeMap::new(), &()).unwrap();
        (WeightFile::open(&out).unwrap(), out)
    };
    for (store, shown) in [(Store::F16, "F16 "), (Store::Int8, "I8, scaled")] {
        let (file, path) = of(store);
        TowerWeights::new(file.clone()).unwrap().match_to(&VGG16.wanted()).require_all().unwrap();
        let rows = diff(fixture("torchvision.safetensors"), &path).unwrap();
        assert_eq!(rows.len(), full.names().len());
        for name in full.names() {
            let (a, b) = (full.tensor(name).unwrap(), file.tensor(name).unwrap());
            let (x, y) = (a.to_f32().unwrap(), b.to_f32().unwrap());
            let wide: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
            assert_eq!(b.to_f64().unwrap(), wide, "{name}");
            let (narrow, filter) = (a.shape.len() >= 2, x.len() / a.shape[0]);
            let mut largest = 0.0f64;
            for (x, y) in x.chunks(filter).zip(y.chunks(filter)) {
                let magnitude = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (x, y) in x.iter().zip(y) {
                    let tolerance = match store {
                        _ if !narrow => 0.0,
                        // Half a unit in the last of 11 places, and of the smallest number.
                        Store::F16 => (x.abs() / 2048.0).max(f32::powi(2.0, -25)),
                        _ => 0.5 * magnitude / 127.0 * (1.0 + 1e-5),
                    };
                    assert!((x - y).abs() <= tolerance, "{store:?} {name}: {x} {y}");
                    largest = largest.max(f64::from((x - y).abs()));
                }
            }
            let row = rows.iter().find(|r| r.name == name).unwrap();
            let TensorDifference::Values { elements, largest: said, .. } = row.what else { panic!("{name}: {row:?}") };
            assert!(elements == x.len() && (said - largest).abs() <= 1e-7, "{name}: {said} {largest}");
            assert_eq!(largest > 0.0, narrow, "{name}");
        }
        let text = inspect(&path).unwrap();
        assert!(
            text.contains(shown) && !text.contains(".scale") && text.contains("deep-affect vgg16, 10 classes"),
            "{text}"
        );
    }
    // A scale for every filter, or none.
    let q = [1u8; 12];
    let entries = |scales: &'static [f32]| {
        let q = write::Entry::bytes("conv1_1.weight", safetensors::Dtype::I8, &[2, 1, 2, 3], &q);
        vec![q, write::Entry::f32("conv1_1.weight.scale", &[scales.len()], scales)]
    };
    let path = dir.path().join("scales.safetensors");
    write::write(&path, &BTreeMap::new(), &entries(&[0.5, 2.0])).unwrap();
    let read = WeightFile::open(&path).unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), ["conv1_1.weight"]);
    assert_eq!(read.tensor("conv1_1.weight").unwrap().to_f32().unwrap()[5..7], [0.5, 2.0]);
    write::write(&path, &BTreeMap::new(), &entries(&[0.5])).unwrap();
    let e = WeightFile::open(&path).err().unwrap().to_string();
    assert!(e.contains("tensor `conv1_1.weight.scale`: F32 [1] instead of F32 [2], one scale a filter"), "{e}");
}

/// File, and what it is recognised as.
const SAME: &[(&str, &str)] = &[
    ("torchvision.safetensors", "safetensors: torchvision vgg16"),
    ("timm.safetensors", "safetensors: timm vgg16"),
    ("torch.pth", "PyTorch zip: torchvision vgg16"),
    ("torch-protocol4.pth", "PyTorch zip: torchvision vgg16"),
    ("torch-module.pth", "PyTorch zip: torchvision vgg16"),
    ("torch-channels-last.pth", "PyTorch zip: torchvision vgg16"),
    ("torch-legacy.pth", "PyTorch legacy stream: torchvision vgg16"),
    ("torch-2017.pth", "PyTorch legacy stream: torchvision vgg16"),
    ("torchvision.npz", "npz: torchvision vgg16"),
    ("torchvision-compressed.npz", "npz: torchvision vgg16"),
    ("ours.npz", "npz: deep-affect names in OIHW layout vgg16"),
    ("keras1.h5", "Keras HDF5: Keras vgg16"),
    ("keras.h5", "Keras HDF5: Keras vgg16"),
    ("keras.weights.h5", "Keras HDF5: Keras vgg16"),
    ("keras.keras", "Keras zip: Keras vgg16"),
    ("caffe-v1.caffemodel", "caffemodel: Caffe vgg16"),
    ("tiny.onnx", "ONNX: torchvision vgg16"),
    ("torch.onnx", "ONNX: torchvision vgg16"),
];

#[test]
fn one_network_in_every_format_comes_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let ours = WeightFile::open(fixture("ours.safetensors")).unwrap();
    for (name, kind) in SAME {
        let (foreign, file) = import(name, &VGG16, Norm::Keep, dir.path());
        let said = format!("{}: {}", foreign.format().name(), foreign.kind().describe());
        assert_eq!(said, format!("{kind}, 10 classes"), "{name}");
        assert_eq!(file.names().len(), ours.names().len(), "{name}");
        for t in ours.names() {
            let (a, b) = (ours.tensor(t).unwrap(), file.tensor(t).unwrap());
            assert_eq!((&a.shape, a.bytes), (&b.shape, b.bytes), "{name}: {t}");
        }
        // What training maps.
        let tower = TowerWeights::new(file.clone()).unwrap();
        tower.match_to(&VGG16.wanted()).require_all().unwrap();
        let all = diff(fixture(name), file.path()).unwrap();
        assert!(all.iter().all(|r| r.what.equal()) && all.len() == ours.names().len(), "{name}: {all:?}");
    }
    println!("{} files, {} tensors each", SAME.len(), ours.names().len());
}

#[test]
fn half_precision_is_widened_and_a_file_without_its_classifier_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let ours = WeightFile::open(fixture("ours.safetensors")).unwrap();
    let (_, half) = import("torch-half.pth", &VGG16, Norm::Keep, dir.path());
    let (_, top) = import("keras1_notop.h5", &VGG16, Norm::Keep, dir.path());
    assert_eq!(top.names().len(), 26);
    // Names of Places365's last layer, with a class more: everything before it is the same.
    let (_, places) = import("caffe.caffemodel", &Shape { classes: 11, ..VGG16 }, Norm::Keep, dir.path());
    for t in ours.names().filter(|t| !t.starts_with("fc3")) {
        assert_eq!(places.tensor(t).unwrap().bytes, ours.tensor(t).unwrap().bytes, "{t}");
    }
    for t in ours.names() {
        let exact = ours.tensor(t).unwrap().to_f32().unwrap();
        let step = if t.starts_with("fc") { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        for (x, h) in exact.iter().zip(&*half.tensor(t).unwrap().to_f32().unwrap()) {
            assert!((x - h).abs() <= x.abs() * step + 1e-7, "{t}: {x} {h}");
        }
        if t.starts_with("conv") {
            assert_eq!(top.tensor(t).unwrap().bytes, ours.tensor(t).unwrap().bytes, "{t}");
        }
    }
}

/// Runs an imported file on the pictures of `features.safetensors` and returns the largest relative error.
fn error_of(file: &WeightFile, shape: &Shape, which: &str) -> f64 {
    let expected = WeightFile::open(fixture("features.safetensors")).unwrap();
    let (g, image, y) = shape.graph(2);
    let mut s = Session::new(g, &[&[y]], Options::default(), open("cpu", Some(1)).unwrap()).unwrap();
    for v in s.graph().stored().collect::<Vec<_>>() {
        let values = file.tensor(s.graph().name(v)).unwrap().to_f32().unwrap().into_owned();
        s.write(v, Data::F32(&values)).unwrap();
    }
    s.write(image, Data::F32(&expected.tensor(&format!("{which}.x")).unwrap().to_f32().unwrap())).unwrap();
    s.run(0).unwrap();
    let want = expected.tensor(&format!("{which}.y")).unwrap().to_f32().unwrap();
    let got = s.read(y).unwrap();
    assert_eq!(got.len(), want.len());
    got.iter().zip(&*want).map(|(a, b)| f64::from((a - b).abs() / b)).fold(0.0, |m, e| if e <= m { m } else { e })
}

#[test]
fn they_compute_what_pytorch_computes() {
    let dir = tempfile::tempdir().unwrap();
    let normed = Shape { norm: true, ..VGG16 };
    let fold = Norm::Fold { eps: 1e-5 };
    for (name, shape, norm, which) in [
        ("torch-2017.pth", &VGG16, Norm::Keep, "torchvision"),
        ("keras1.h5", &VGG16, Norm::Keep, "torchvision"),
        ("torch-bn.pth", &normed, Norm::Keep, "torchvision-bn"),
        ("torch-bn.pth", &VGG16, fold, "torchvision-bn"),
        ("torch-face.t7", &FACE, fold, "face"),
        ("torch-face.t7", &Shape { norm: true, ..FACE }, Norm::Keep, "face"),
    ] {
        let (_, file) = import(name, shape, norm, dir.path());
        let error = error_of(&file, shape, which);
        println!("{name} {norm:?}: largest relative error {error:.1e}");
        assert!(error <= 1e-4, "{name} {norm:?}: {error}");
    }
}

#[test]
fn what_is_wrong_is_one_line_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |name: &str, shape: &Shape, norm: Norm, want: &[&str]| {
        let foreign = Foreign::open(fixture(name)).unwrap();
        let e = foreign.check(&shape.wanted(), norm).unwrap_err().to_string();
        assert!(want.iter().all(|w| e.contains(w)) && !e.contains('\n'), "{name}: {e}");
    };
    refuse("torch-bn.pth", &VGG16, Norm::Keep, &["extra", "norm1_1"]);
    refuse("torch.pth", &FACE, Norm::Keep, &["mis-shaped", "missing"]);
    // What is missing is not drawn by an import, and no remedy says so.
    let e = Foreign::open(fixture("torch.pth")).unwrap().check(&FACE.wanted(), Norm::Keep).unwrap_err().to_string();
    assert!(e.ends_with("; give the file of the same network"), "{e}");
    // A tensor of NaN is named, and the file that was there stays.
    let source = Foreign::open(fixture("torchvision.safetensors")).unwrap();
    let (array, _) = source.arrays().find(|a| a.1.ours == "fc2.weight").unwrap();
    let ArrayData::Mapped(range) = &array.place else { panic!("mapped") };
    let mut bytes = std::fs::read(fixture("torchvision.safetensors")).unwrap();
    bytes[range.end - 4..range.end].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = dir.path().join("nan.pth");
    std::fs::write(&bad, bytes).unwrap();
    let out = dir.path().join("out.safetensors");
    std::fs::write(&out, b"old").unwrap();
    let foreign = Foreign::open(&bad).unwrap();
    let wanted = VGG16.wanted();
    foreign.check(&wanted, Norm::Keep).unwrap();
    let e = foreign.write(&out, &wanted, Norm::Keep, Store::Float32, &BTreeMap::new(), &()).unwrap_err().to_string();
    assert!(e.contains("nan.pth") && e.contains("tensor `classifier.3.weight`") && e.contains("NaN"), "{e}");
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    // A file that shrinks while it is mapped is an error, not a signal.
    std::fs::OpenOptions::new().write(true).open(&bad).unwrap().set_len(100).unwrap();
    let e = foreign.write(&out, &wanted, Norm::Keep, Store::Float32, &BTreeMap::new(), &()).unwrap_err().to_string();
    assert!(e.contains("changed while it was being read"), "{e}");
}

#[test]
fn contents_decide_and_not_names() {
    let dir = tempfile::tempdir().unwrap();
    for (name, ending) in [("keras.h5", "pth"), ("torch.pth", "h5"), ("caffe.caffemodel", "safetensors")] {
        let path = dir.path().join(format!("x.{ending}"));
        std::fs::copy(fixture(name), &path).unwrap();
        assert_eq!(Foreign::open(&path).unwrap().format(), Foreign::open(fixture(name)).unwrap().format());
    }
    for (bytes, want) in [
        (&b"version https://git-lfs.github.com/spec/v1\n"[..], "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
        (b"PK\x03\x04 and nothing more", "zip"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00", "pickle"),
        (b"1234567", "only 7 bytes"),
        (b"nothing that anyone knows of", "neither safetensors"),
    ] {
        let path = dir.path().join("y");
        std::fs::write(&path, bytes).unwrap();
        let e = Foreign::open(&path).err().expect("refused").to_string();
        assert!(e.contains(want) && !e.contains('\n'), "{e}");
    }
    // A safetensors file of one tensor is read as such whatever its name.
    let path = dir.path().join("z.bin");
    write::write(&path, &BTreeMap::new(), &[write::Entry::f32("a", &[1], &[1.0])]).unwrap();
    assert_eq!(Foreign::open(&path).unwrap().format().name(), "safetensors");
}
