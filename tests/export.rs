//! Models for other programs: every network as ONNX, read back by a walker of a few lines; names, layouts, what is refused.
//! `EXPORT_DIR=FOLDER cargo test --test export every` leaves the files there, with pictures and outputs, for
//! `tests/export/run.sh`, which runs them in ONNX Runtime and PyTorch.

mod emoji;
#[path = "common/unsealed.rs"]
mod unsealed;

use deep_affect::data::Alpha;
use deep_affect::device::{self, Data, Session};
use deep_affect::export::onnx::{self, INLINE};
use deep_affect::export::source::Output;
use deep_affect::export::{ExportModel, Format, Layout, export};
use deep_affect::models::{self, Architecture, Config, Standardize, TowerOutput};
use deep_affect::ops::activation::{Act, Activate};
use deep_affect::preprocess::Preprocess;
use deep_affect::rng::{Rng, Stream};
use deep_affect::train::checkpoint::{self, Card};
use deep_affect::train::fit::{Settings, State};
use deep_affect::train::network::{Precision, Task};
use deep_affect::weights::import::{Foreign, Norm};
use deep_affect::weights::write::{self, Entry};
use deep_affect::weights::{Dtype, LAYOUT, TowerWeights, WeightFile, init};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use unsealed::unsealed;

/// A field of a protobuf message.
#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Int(u64),
    Four,
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn int(self) -> i64 {
        let Field::Int(n) = self else { panic!("{self:?} is no integer") };
        n as i64
    }
    fn bytes(self) -> &'a [u8] {
        let Field::Bytes(b) = self else { panic!("{self:?} is no bytes") };
        b
    }
    fn text(self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap()
    }
}

/// The fields of a message, to its last byte.
struct Walk<'a>(Vec<(u64, Field<'a>)>);

impl<'a> Walk<'a> {
    fn new(mut bytes: &'a [u8]) -> Self {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut n = 0;
            for shift in (0..).step_by(7) {
                let (b, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                n |= u64::from(b & 0x7f) << shift;
                if b & 0x80 == 0 {
                    break;
                }
            }
            n
        }
        let mut all = vec![];
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let field = match tag & 7 {
                0 => Field::Int(varint(&mut bytes)),
                2 => {
                    let n = varint(&mut bytes) as usize;
                    let (head, rest) = bytes.split_at(n);
                    bytes = rest;
                    Field::Bytes(head)
                }
                5 => {
                    bytes = &bytes[4..];
                    Field::Four
                }
                wire => panic!("wire type {wire}"),
            };
            all.push((tag >> 3, field));
        }
        Walk(all)
    }
    fn all(&self, field: u64) -> impl Iterator<Item = Field<'a>> {
        self.0.iter().filter(move |f| f.0 == field).map(|f| f.1)
    }
    fn one(&self, field: u64) -> Field<'a> {
        self.all(field).next().unwrap_or_else(|| panic!("no field {field}"))
    }
    fn inner(&self, field: u64) -> impl Iterator<Item = Walk<'a>> {
        self.all(field).map(|f| Walk::new(f.bytes()))
    }
}

/// Extents of a `ValueInfoProto`: numbers or symbols.
fn extents(info: &Walk) -> Vec<String> {
    fn of<'a>(w: &Walk<'a>, field: u64) -> Walk<'a> {
        Walk::new(w.one(field).bytes())
    }
    let shape = of(&of(&of(info, 2), 1), 2);
    shape.inner(1).map(|d| d.all(1).next().map_or_else(|| d.one(2).text().into(), |n| n.int().to_string())).collect()
}

/// A model that was read back.
#[derive(Default)]
struct Model {
    /// Op types in order.
    ops: Vec<String>,
    inputs: Vec<(String, Vec<String>)>,
    outputs: Vec<(String, Vec<String>)>,
    /// Extents and bytes by name; bytes from beside where they lie there.
    tensors: HashMap<String, (Vec<usize>, Vec<u8>)>,
    properties: BTreeMap<String, String>,
    outside: usize,
}

/// Reads a model and checks what every model must be: known versions, one name for one thing, operands before their use,
/// as many bytes as extents ask for.
fn read(path: &Path) -> Model {
    let bytes = fs::read(path).unwrap();
    let m = Walk::new(&bytes);
    assert_eq!((m.one(1).int(), m.one(2).text(), m.one(3).text()), (8, "deep-affect", env!("CARGO_PKG_VERSION")));
    assert_eq!(Walk::new(m.one(8).bytes()).one(2).int(), 17);
    let g = Walk::new(m.one(7).bytes());
    let mut model = Model::default();
    for t in g.inner(5) {
        let dims: Vec<usize> = t.all(1).map(|d| d.int() as usize).collect();
        let size = match t.one(2).int() {
            1 => 4,
            7 => 8,
            other => panic!("element type {other}"),
        };
        let name = t.one(8).text().to_string();
        let values = match t.all(14).next() {
            None => t.one(9).bytes().to_vec(),
            Some(place) => {
                assert_eq!(place.int(), 1);
                model.outside += 1;
                let at: HashMap<&str, &str> = t.inner(13).map(|e| (e.one(1).text(), e.one(2).text())).collect();
                let (from, len): (usize, usize) = (at["offset"].parse().unwrap(), at["length"].parse().unwrap());
                assert!(from.is_multiple_of(4096));
                fs::read(path.with_file_name(at["location"])).unwrap()[from..from + len].to_vec()
            }
        };
        assert_eq!(values.len(), size * dims.iter().product::<usize>(), "{name}");
        assert!(model.tensors.insert(name.clone(), (dims, values)).is_none(), "{name} twice");
    }
    let info = |field| g.inner(field).map(|i| (i.one(1).text().to_string(), extents(&i))).collect::<Vec<_>>();
    (model.inputs, model.outputs) = (info(11), info(12));
    let mut known: HashSet<&str> = model.tensors.keys().map(String::as_str).chain(["image"]).collect();
    for n in g.inner(1) {
        for x in n.all(1) {
            assert!(known.contains(x.text()), "`{}` is read before it is there", x.text());
        }
        assert!(known.insert(n.one(2).text()), "`{}` twice", n.one(2).text());
        model.ops.push(n.one(4).text().into());
    }
    assert!(model.outputs.iter().all(|o| known.contains(o.0.as_str())));
    model.properties = m.inner(14).map(|p| (p.one(1).text().into(), p.one(2).text().into())).collect();
    model
}

/// A parameter that keeps the size of numbers through a deep network.
fn draw(name: &str, dims: &[usize]) -> Vec<f32> {
    let part = name.rsplit('.').next().unwrap();
    let (centre, half) = match (dims, part) {
        ([_], "weight" | "running_var" | "inverse") => (1.0, 0.25),
        ([_], _) => (0.0, 0.125),
        _ => (0.0, (6.0 / dims[1..].iter().product::<usize>() as f32).sqrt()),
    };
    init::uniform(name, dims.iter().product(), 5, |x| centre + half * x)
}

/// Writes a checkpoint of drawn weights; an unfinished one keeps velocities and better weights beside them.
fn checkpoint(path: &Path, task: &Task, finished: bool) {
    let settings = Settings::default();
    let card = Card {
        format: checkpoint::FORMAT.into(),
        task: task.clone(),
        state: State { finished, ..State::new(&settings, 1).unwrap() },
        settings,
        train_mean: match task {
            Task::EndToEnd { config, .. } | Task::Head { config } => vec![5.0; config.targets.len()],
            _ => vec![],
        },
        classes: vec![],
        data: String::new(),
        made_by: "a test".into(),
        alpha: Alpha::Drop,
        tower_classes: Default::default(),
        origin: Default::default(),
    };
    let (g, ..) = task.whole().layers(1).unwrap();
    let mut all = vec![];
    for v in g.stored() {
        let (name, dims) = (g.name(v).to_string(), g.dims(v).to_vec());
        if !finished {
            let last = vec![0.5; g.ty(v).numel()];
            all.extend([(name.clone(), dims.clone(), last.clone()), (format!("velocity.{name}"), dims.clone(), last)]);
        }
        let x = draw(&name, &dims);
        all.push((if finished { name } else { format!("best.{name}") }, dims, x));
    }
    let metadata =
        [(checkpoint::CARD, serde_json::to_string(&card).unwrap()), (LAYOUT, "KRSC".into()), ("licence", "CC0".into())];
    let entries: Vec<Entry> = all.iter().map(|(n, d, x)| Entry::f32(n, d, x)).collect();
    write::write(path, &metadata.map(|(k, v)| (k.into(), v)).into(), &entries).unwrap();
}

/// A fused model of two towers with unlike preprocessing.
fn fused(architecture: Architecture, tower_output: TowerOutput) -> Config {
    let mut c = Config::published(architecture, &["object".into(), "face".into()], 5).unwrap();
    for (t, preset) in c.towers.iter_mut().zip(["caffe-places", "torch"]) {
        (t.width, t.classes, t.preprocess) = (16, 6, Preprocess::preset(preset).unwrap());
        t.dense.iter_mut().for_each(|d| *d = 12);
    }
    let scaled = if tower_output == TowerOutput::Softmax { Standardize::No } else { Standardize::Yes };
    (c.tower_output, c.standardize) = (tower_output, scaled);
    (c.head, c.keep, c.image) = (vec![8, 7], vec![0.5; 2], 64);
    c
}

/// Large enough that every network's last image has several pixels.
fn side(n: &models::Network) -> usize {
    match n.name {
        name if name.starts_with("alexnet") => 131,
        name if name.starts_with("vgg") || name == "deep-affect" => 64,
        _ => n.smallest.max(75),
    }
}

/// All networks at a sixteenth of their width, the forms of the fused model, and the towers of tests/emoji.
fn sources(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut tasks: Vec<(String, Task)> = models::ALL
        .iter()
        .map(|n| {
            let task = Task::Classifier { network: n.name.into(), width: 16, classes: 5, image: side(n) };
            (n.name.to_string(), task)
        })
        .collect();
    for (name, architecture, output) in [
        ("shared-softmax", Architecture::Shared, TowerOutput::Softmax),
        ("split-pooled", Architecture::Split, TowerOutput::POOLED),
        ("shared-blocks", Architecture::Shared, "block4+block5".parse().unwrap()),
    ] {
        tasks.push((name.into(), Task::Head { config: fused(architecture, output) }));
    }
    let mut all: Vec<(String, PathBuf)> = vec![];
    for (name, task) in tasks {
        let path = dir.join(format!("{name}.safetensors"));
        checkpoint(&path, &task, true);
        all.push((name, path));
    }
    for (name, bytes) in emoji::towers() {
        let path = dir.join(format!("tower-{name}.safetensors"));
        fs::write(&path, bytes).unwrap();
        all.push((format!("tower-{name}"), path));
    }
    all
}

/// Three pictures and what the CPU path makes of them: ratings, or scores before the softmax.
fn answers(source: &ExportModel, path: &Path) {
    const N: usize = 3;
    let (g, x, outs) = source.task.evaluation(N, Precision::Float32).unwrap();
    let cpu = device::open("cpu", None).unwrap();
    let mut s = Session::new(g, &[&outs], cpu.spec().options, cpu).unwrap();
    for t in &source.tensors {
        let v = s.graph().find(source.graph.name(t.value)).unwrap();
        let mut bytes = vec![];
        source.values(t, Layout::Ours)(&mut bytes).unwrap();
        s.write(v, Data::F32(&bytemuck::pod_collect_to_vec(&bytes))).unwrap();
    }
    let mut rng = Rng::new(9, Stream::Test(0), 0);
    let pixels: Vec<u8> = (0..s.graph().ty(x[0]).numel()).map(|_| rng.below(256) as u8).collect();
    s.write(x[0], Data::U8(&pixels)).unwrap();
    s.run(0).unwrap();
    let dims = s.graph().dims(x[0]).to_vec();
    let mut entries = vec![Entry::bytes("image", Dtype::U8, &dims, &pixels)];
    let y: Vec<(Vec<usize>, Vec<f32>)> =
        outs.iter().map(|v| (s.graph().dims(*v).to_vec(), s.read(*v).unwrap())).collect();
    let names: Vec<String> = (0..y.len()).map(|i| format!("y{i}")).collect();
    entries.extend(names.iter().zip(&y).map(|(n, (d, y))| Entry::f32(n, d, y)));
    write::write(path, &BTreeMap::new(), &entries).unwrap();
}

#[test]
fn every_network_becomes_onnx() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("EXPORT_DIR").map(PathBuf::from);
    let dir = kept.as_deref().unwrap_or(temporary.path());
    for (name, path) in sources(dir) {
        let out = path.with_extension("onnx");
        assert_eq!(export(&path, Format::Onnx, &out).unwrap(), std::slice::from_ref(&out));
        let (source, model) = (ExportModel::open(&path).unwrap(), read(&out));
        let side = source.graph.dims(source.images[0])[1].to_string();
        let expected: Vec<String> = ["N", &side, &side, "3"].map(String::from).into();
        assert_eq!(model.inputs, [("image".to_string(), expected)], "{name}");
        match &source.task {
            Task::EndToEnd { .. } => {
                let want = ["valence", "arousal"].map(|t| (t.to_string(), vec!["N".to_string()]));
                assert_eq!(model.outputs, want);
            }
            _ => {
                assert_eq!((model.outputs.len(), model.outputs[0].0.as_str()), (1, "probabilities"), "{name}");
                assert_eq!((model.outputs[0].1.len(), model.outputs[0].1[0].as_str()), (2, "N"));
            }
        }
        for t in &source.tensors {
            let (dims, bytes) = &model.tensors[source.graph.name(t.value)];
            let mut values = vec![];
            source.values(t, Layout::Torch)(&mut values).unwrap();
            assert_eq!((dims, bytes), (&t.dims(Layout::Torch), &values), "{name}: {}", t.name);
        }
        assert!(!model.properties.contains_key(checkpoint::CARD) && model.properties.contains_key("model"));
        if name == "vgg11" {
            // Turn, cast, scale, mean, deviation; 8 convolutions and 2 hidden layers with ReLU; 5 pools, the rest.
            assert_eq!(model.ops.len(), 5 + 2 * 8 + 5 + 1 + 2 * 2 + 1 + 1);
            assert_eq!(model.ops.iter().filter(|o| *o == "Conv").count(), 8);
            assert_eq!(model.properties["licence"], "CC0");
        }
        // Nothing is turned but the picture, once for all towers.
        assert_eq!(model.ops.iter().filter(|o| *o == "Transpose").count(), 1, "{name}");
        if kept.is_some() {
            export(&path, Format::TorchNames, &path.with_extension("torch")).unwrap();
            answers(&source, &path.with_extension("answers"));
        }
    }
}

#[test]
fn large_weights_lie_beside_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let (path, inside, beside) =
        (dir.path().join("m.safetensors"), dir.path().join("a.onnx"), dir.path().join("b.onnx"));
    let config = fused(Architecture::Shared, TowerOutput::Softmax);
    checkpoint(&path, &Task::EndToEnd { config, frozen: vec![] }, true);
    let source = ExportModel::open(&path).unwrap();
    onnx::write(&source, &inside, INLINE).unwrap();
    let data = dir.path().join("b.onnx.data");
    assert_eq!(onnx::write(&source, &beside, 1000).unwrap(), [beside.clone(), data.clone()]);
    let (a, b) = (read(&inside), read(&beside));
    assert!(a.outside == 0 && b.outside > 10 && b.outside < source.tensors.len());
    assert_eq!((a.tensors, a.ops), (b.tensors, b.ops));
    // A model that cannot have its data is not there either.
    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    let old = fs::read(&beside).unwrap();
    let e = onnx::write(&source, &beside, 0).unwrap_err().to_string();
    assert!(e.contains("b.onnx.data: cannot write: it is a folder"), "{e}");
    assert_eq!(fs::read(&beside).unwrap(), old);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn torch_names_come_back_as_the_same_tower() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("t.safetensors"), dir.path().join("torch.safetensors"));
    let mut tower = fused(Architecture::Shared, TowerOutput::Softmax).towers.remove(0);
    tower.preprocess = Preprocess::preset("keras").unwrap();
    checkpoint(&path, &Task::Tower { tower, image: 64 }, true);
    let source = ExportModel::open(&path).unwrap();
    export(&path, Format::TorchNames, &out).unwrap();
    let back = Foreign::open(&out).unwrap();
    assert_eq!(back.kind().describe(), "torchvision vgg16, 6 classes");
    assert_eq!(back.preprocess().unwrap().unwrap().name(), "keras");
    assert_eq!(back.arrays().len(), source.tensors.len());
    for t in &source.tensors {
        let full = source.graph.name(t.value);
        let expected = draw(full, source.graph.dims(t.value));
        assert_eq!(back.parameter(&t.name, Norm::Keep).unwrap(), expected, "{full}");
    }
    let w = WeightFile::open(&out).unwrap();
    assert_eq!(w.tensor("features.2.weight").unwrap().shape, [4, 4, 3, 3]);
    assert_eq!(w.tensor("classifier.0.weight").unwrap().shape, [12, 32 * 2 * 2]);
    // Half precision is exported as what it stands for.
    let half: Vec<(String, Vec<usize>, Vec<half::f16>)> = source
        .tensors
        .iter()
        .map(|t| {
            let dims = t.dims(Layout::Ours);
            (t.name.clone(), dims.clone(), draw(&t.name, &dims).iter().map(|x| half::f16::from_f32(*x)).collect())
        })
        .collect();
    let cast = |(n, d, x)| Entry::bytes(n, Dtype::F16, d, bytemuck::cast_slice::<half::f16, u8>(x));
    let entries: Vec<Entry> = half.iter().map(|(n, d, x): &(_, _, _)| cast((n, d, x))).collect();
    let metadata = [(LAYOUT, "KRSC"), ("preprocess", "torch")].map(|(k, v)| (k.to_string(), v.to_string()));
    write::write(&path, &metadata.into(), &entries).unwrap();
    export(&path, Format::TorchNames, &out).unwrap();
    let back = Foreign::open(&out).unwrap();
    for (name, _, x) in &half {
        assert!(back.parameter(name, Norm::Keep).unwrap().iter().zip(x).all(|(a, b)| *a == b.to_f32()), "{name}");
    }
}

#[test]
fn weights_alone_are_the_best_ones_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.safetensors"), dir.path().join("w.safetensors"));
    checkpoint(
        &path,
        &Task::EndToEnd { config: fused(Architecture::Split, TowerOutput::POOLED), frozen: vec!["face".into()] },
        false,
    );
    export(&path, Format::Safetensors, &out).unwrap();
    let (source, w) = (ExportModel::open(&path).unwrap(), WeightFile::open(&out).unwrap());
    assert_eq!(w.names().len(), source.tensors.len());
    for name in w.names() {
        let t = w.tensor(name).unwrap();
        assert_eq!(*t.to_f32().unwrap(), draw(name, &t.shape), "{name}");
    }
    let m = w.metadata();
    assert_eq!((m[LAYOUT].as_str(), m["licence"].as_str()), ("KRSC", "CC0"));
    assert!(m["model"].contains("\"frozen\":[]") && !m.contains_key(checkpoint::CARD) && !m.contains_key("preprocess"));

    // A tower keeps what `train --weights` and a second export need.
    let again = dir.path().join("again.safetensors");
    for (name, bytes) in emoji::towers() {
        fs::write(&path, bytes).unwrap();
        export(&path, Format::Safetensors, &out).unwrap();
        export(&out, Format::Safetensors, &again).unwrap();
        assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap());
        let (a, b) = (TowerWeights::open(&path).unwrap(), TowerWeights::open(&out).unwrap());
        assert_eq!(a.preprocess().unwrap(), b.preprocess().unwrap());
        let keys = ["tower", "classes"];
        assert!(keys.iter().all(|k| a.file.metadata()[*k] == b.file.metadata()[*k]), "{name}");
        assert!(a.file.names().all(|k| a.load(k).unwrap() == b.load(k).unwrap()));
    }
}

#[test]
fn what_onnx_does_not_have_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("m.safetensors"), dir.path().join("m.onnx"));
    let mut config = fused(Architecture::Shared, TowerOutput::Softmax);
    checkpoint(&path, &Task::EndToEnd { config: config.clone(), frozen: vec![] }, true);
    let mut source = ExportModel::open(&path).unwrap();
    let Output::Target { of, .. } = source.outputs[0] else { panic!("a rating") };
    let of = source.graph.push1(Activate { act: Act::Gelu }, &[of]);
    source.outputs = vec![Output::Probabilities { of }];
    let e = onnx::write(&source, &out, INLINE).unwrap_err().to_string();
    assert!(e.contains("layer head.out: `gelu` of this form has no translation"), "{e}");
    config.targets[0] = "image".into();
    checkpoint(&path, &Task::EndToEnd { config, frozen: vec![] }, true);
    let e = export(&path, Format::Onnx, &out).unwrap_err().to_string();
    assert!(e.contains("would be called `image`"), "{e}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn bad_input_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    let task = Task::Classifier { network: "resnet18".into(), width: 64, classes: 2, image: 32 };
    checkpoint(&p.join("m.safetensors"), &task, true);
    fs::write(p.join("text"), "hello, these are no weights").unwrap();
    fs::create_dir(p.join("folder")).unwrap();
    let layout = |l: &str| [(LAYOUT.to_string(), l.to_string())].into();
    let w = [0.0f32; 4];
    write::write(p.join("other.safetensors"), &layout("OIHW"), &[Entry::f32("fc3.weight", &[2, 2], &w)]).unwrap();
    write::write(p.join("bare.safetensors"), &layout("KRSC"), &[Entry::f32("conv1_1.weight", &[4], &w)]).unwrap();
    write::write(p.join("fc.safetensors"), &layout("KRSC"), &[Entry::f32("fc1.weight", &[2, 2], &w)]).unwrap();
    let cut = fs::read(p.join("m.safetensors")).unwrap();
    fs::write(p.join("cut.safetensors"), &cut[..cut.len() - 9]).unwrap();
    // A header that asks for what would be asserted.
    let mut zero = unsealed(cut);
    let text = zero.windows(12).position(|w| w == br#"\"width\":64"#).unwrap();
    zero[text..][..12].copy_from_slice(br#"\"width\": 0"#);
    fs::write(p.join("zero.safetensors"), zero).unwrap();

    let formats = [("safetensors", Format::Safetensors), ("torch-names", Format::TorchNames), ("onnx", Format::Onnx)];
    for (format, which) in formats {
        for (file, out, parts) in [
            ("m.safetensors", "no/x", ["no/x: ", "check the path"]),
            ("m.safetensors", "folder", ["folder: ", "it is a folder"]),
            ("none", "x", ["none: ", "check the path"]),
            ("folder", "x", ["folder: ", "it is a folder"]),
            ("text", "x", ["text: ", "not a safetensors file"]),
            ("cut.safetensors", "x", ["cut.safetensors: ", "truncated"]),
            ("other.safetensors", "x", ["is neither a checkpoint nor a tower", "weights inspect"]),
            ("bare.safetensors", "x", ["bare.safetensors: ", "no classes"]),
            ("fc.safetensors", "x", ["fc.safetensors: ", "does not say what network it is"]),
            ("zero.safetensors", "x", ["zero.safetensors: ", "contradicts itself"]),
        ] {
            let program = env!("CARGO_BIN_EXE_deep-affect");
            let args = ["weights", "export", file, "--format", format, "--out", out];
            let got = Command::new(program).args(args).current_dir(p).output().unwrap();
            let said = String::from_utf8(got.stderr).unwrap();
            assert_eq!((got.status.code(), said.lines().count()), (Some(1), 1), "{args:?}: {said}");
            assert!(said.starts_with("error: ") && parts.iter().all(|t| said.contains(t)), "{args:?}: {said}");
            assert!(!p.join("x").exists());
        }
        #[cfg(target_os = "linux")]
        {
            let e = export(&p.join("m.safetensors"), which, Path::new("/dev/full")).unwrap_err().to_string();
            assert!(e.contains("/dev/full: ") && e.contains("free some space"), "{e}");
        }
    }
    let strays =
        fs::read_dir(p).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(strays.count(), 0);
}
