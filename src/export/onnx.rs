/*! ONNX (onnx/onnx.proto, opset 17, IR 8): the evaluation graph op by op. Values that are [N,H,W,C] here are [N,C,H,W] there:
the picture is turned once, and weights are written in that order, so nothing is turned in between. N is symbolic. The
picture comes in as uint8 [N,S,S,3] and is preprocessed inside. Resizing is not: see the doc string of the input. */

use super::Values;
use super::proto::Message;
use super::source::{ExportModel, Layout, Output, Stored, is};
use crate::atomic;
use crate::error::{Error, Result, option};
use crate::graph::{Node, Value};
use crate::ops::activation::Relu;
use crate::ops::layout::Concat;
use crate::ops::lrn::Lrn;
use crate::ops::pool::{AvgPool, MaxPool, Over};
use crate::ops::softmax::Softmax;
use crate::ops::{arith, conv, dense, image, norm};
use crate::preprocess::{Crop, Order};
use crate::shape::Window;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of weights up to which they lie inside the model; protobuf ends at 2 GiB.
pub const INLINE: u64 = 1 << 30;
/// Where tensors beside a model begin: a multiple of this, so that they can be mapped. Smaller ones stay inside.
const PAGE: u64 = 4096;
/// Name of the input.
/// Name of a classifier's output.
const PROBABILITIES: &str = "probabilities";

/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
const UINT8: i64 = 2;
const INT64: i64 = 7;

/// Writes the model to `out` and, where its weights are more than `inline` bytes, those to `out.data` beside it. Fails
/// before it writes where an op has no translation.
pub fn write(source: &ExportModel, out: &Path, inline: u64) -> Result<Vec<PathBuf>> {
    let graph = translate(source)?;
    let bytes: u64 = source.tensors.iter().map(|t| 4 * t.numel() as u64).sum();
    if bytes <= inline {
        let tensors =
            source.tensors.iter().map(|t| tensor(source, t).values(9, 4 * t.numel() as u64, values(source, t)));
        let model = model(source, graph.message(tensors.collect()));
        atomic::write(out, |w| model.write(w))?;
        return Ok(vec![out.into()]);
    }
    let mut data = out.as_os_str().to_owned();
    data.push(".data");
    let data = PathBuf::from(data);
    let location = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut end, mut outside) = (0u64, vec![]);
    let tensors = source.tensors.iter().map(|t| {
        let len = 4 * t.numel() as u64;
        if len < PAGE {
            return tensor(source, t).values(9, len, values(source, t));
        }
        let at = end.next_multiple_of(PAGE);
        end = at + len;
        outside.push((at, t));
        let place = [("location", location.clone()), ("offset", at.to_string()), ("length", len.to_string())];
        // EXTERNAL
        tensor(source, t).messages(13, place.map(|(k, v)| Message::default().text(1, k).text(2, &v))).int(14, 1)
    });
    let tensors = tensors.collect();
    let model = model(source, graph.message(tensors));
    // The model is complete and waits for its name while the weights get theirs.
    atomic::write_file(out, |file| {
        let mut w = io::BufWriter::new(file);
        model.write(&mut w).and_then(|()| w.flush()).map_err(|e| Error::io(out, "write", e))?;
        atomic::write(&data, |w| {
            let mut at = 0;
            for (begin, t) in &outside {
                io::copy(&mut io::Read::take(io::repeat(0), begin - at), w)?;
                values(source, t)(w)?;
                at = begin + 4 * t.numel() as u64;
            }
            Ok(())
        })
    })?;
    Ok(vec![out.into(), data])
}

fn values<'a>(source: &'a ExportModel, t: &'a Stored) -> Values<'a> {
    source.values(t, Layout::Torch)
}

/// `TensorProto` of a weight without its values.
fn tensor<'a>(source: &ExportModel, t: &Stored) -> Message<'a> {
    let dims = t.dims(Layout::Torch).into_iter().map(|d| d as i64);
    Message::default().ints(1, dims).int(2, FLOAT).text(8, source.graph.name(t.value))
}

/// `ModelProto`.
fn model<'a>(source: &ExportModel, graph: Message<'a>) -> Message<'a> {
    let metadata = source.metadata();
    let notes = ["licence", "license"].iter().filter_map(|k| metadata.get(*k)).map(|v| format!("; licence: {v}"));
    let inputs: Vec<String> = (0..source.images.len()).map(|i| input(source, i)).collect();
    let about = format!("{}{}", inputs.join("; "), notes.collect::<String>());
    let properties = metadata.iter().map(|(k, v)| Message::default().text(1, k).text(2, v));
    Message::default()
        .int(1, 8)
        .text(2, env!("CARGO_PKG_NAME"))
        .text(3, env!("CARGO_PKG_VERSION"))
        .text(6, &about)
        .message(7, graph)
        .message(8, Message::default().text(1, "").int(2, 17))
        .messages(14, properties)
}

/// What an input has to be, for people.
fn input(source: &ExportModel, which: usize) -> String {
    let (image, view) = (source.graph.name(source.images[which]), source.views[which]);
    let (side, resize) = (view.side, serde_json::json!(view.resize));
    let resize = resize.as_str().unwrap_or_default();
    let grey = if view.grey { ", grey in all channels" } else { "" };
    let crop = |c: Crop| format!("the face box of the picture with {} % of it around it, ", c.margin);
    let crop = view.crop.map_or(String::new(), crop);
    format!(
        "{image}: uint8 RGB [N,{side},{side},3], {crop}resized by `{resize}`{grey}; channel order, scale, mean and deviation \
         are inside"
    )
}

/// What a model consists of, weights apart.
struct Translated<'a> {
    source: &'a ExportModel,
    nodes: Vec<Message<'a>>,
    /// `TensorProto`s of small numbers.
    constants: Vec<Message<'a>>,
    /// ONNX names of values.
    names: HashMap<Value, String>,
    /// Every name that is given.
    taken: HashSet<String>,
    /// The layer that is being translated.
    label: String,
    /// Inputs as float32 [N,3,S,S], in RGB and in BGR.
    pictures: HashMap<(String, &'static str), String>,
}

/// An attribute of a node.
enum Attribute {
    Int(&'static str, i64),
    Float(&'static str, f64),
    Ints(&'static str, Vec<i64>),
}
use Attribute::{Float, Int, Ints};

impl Attribute {
    /// `AttributeProto`.
    fn message<'a>(&self) -> Message<'a> {
        let new = |name| Message::default().text(1, name);
        match self {
            Float(name, x) => new(name).float(2, *x as f32).int(20, 1),
            Int(name, i) => new(name).int(3, *i).int(20, 2),
            Ints(name, all) => new(name).ints(8, all.iter().copied()).int(20, 7),
        }
    }
}

/// The whole graph.
fn translate(source: &ExportModel) -> Result<Translated<'_>> {
    let mut t = Translated {
        source,
        nodes: vec![],
        constants: vec![],
        names: HashMap::new(),
        taken: HashSet::new(),
        label: String::new(),
        pictures: HashMap::new(),
    };
    // The names that others see come first: whatever would be called so inside gets another.
    let weights = source.tensors.iter().map(|s| source.graph.name(s.value));
    let images = source.images.iter().map(|&x| source.graph.name(x));
    for name in images.clone().chain(source.outputs.iter().map(output_name)).chain(weights) {
        if name.is_empty() || !t.taken.insert(name.into()) {
            return Err(Error::file(source.file.path(), format!("two values would be called `{name}`"))
                .fix(format!("train with other names of {}", option("targets"))));
        }
    }
    t.names.extend(source.images.iter().copied().zip(images.map(String::from)));
    t.names.extend(source.tensors.iter().map(|s| (s.value, source.graph.name(s.value).to_string())));
    let g = &source.graph;
    let want: Vec<Value> = source
        .outputs
        .iter()
        .map(|o| match o {
            Output::Target { of, .. } | Output::Probabilities { of } => *of,
        })
        .collect();
    for i in g.needed(&want) {
        let node = &g.nodes()[i];
        t.label = node.label.clone();
        let y = t.node(node)?;
        t.names.insert(node.outs[0], y);
    }
    for output in &source.outputs {
        t.label = "output".into();
        match output {
            Output::Target { name, of, column } => {
                let column = t.constant("column", &[], INT64, &(*column as i64).to_le_bytes());
                t.put("Gather", &[t.names[of].clone(), column], &[Int("axis", 1)], name.clone());
            }
            Output::Probabilities { of } => {
                t.put("Softmax", &[t.names[of].clone()], &[Int("axis", 1)], PROBABILITIES.into());
            }
        }
    }
    Ok(t)
}

fn output_name(output: &Output) -> &str {
    match output {
        Output::Target { name, .. } => name,
        Output::Probabilities { .. } => PROBABILITIES,
    }
}

impl<'a> Translated<'a> {
    /// A name that nobody has yet.
    fn fresh(&mut self, name: &str) -> String {
        let numbered = (2..).map(|i| format!("{name}_{i}"));
        let name = std::iter::once(name.to_string()).chain(numbered).find(|n| !self.taken.contains(n));
        let name = name.expect("numbers do not end");
        self.taken.insert(name.clone());
        name
    }

    /// A `NodeProto` whose output is called `out`.
    fn put(&mut self, kind: &str, ins: &[String], attributes: &[Attribute], out: String) -> String {
        let ins = ins.iter().fold(Message::default(), |m, name| m.text(1, name));
        let node = ins.text(2, &out).text(3, &out).text(4, kind);
        self.nodes.push(node.messages(5, attributes.iter().map(Attribute::message)));
        out
    }

    /// The same, called after its layer.
    fn add(&mut self, kind: &str, ins: &[String], attributes: &[Attribute]) -> String {
        let out = self.fresh(&format!("{}/{kind}", self.label));
        self.put(kind, ins, attributes, out)
    }

    /// A `TensorProto` of numbers that are in no file.
    fn constant(&mut self, name: &str, dims: &[i64], kind: i64, bytes: &[u8]) -> String {
        let name = self.fresh(&format!("{}/{name}", self.label));
        let dims = Message::default().ints(1, dims.iter().copied());
        self.constants.push(dims.int(2, kind).text(8, &name).bytes(9, bytes));
        name
    }

    fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) -> String {
        self.constant(name, dims, FLOAT, bytemuck::cast_slice(values))
    }

    fn relu(&mut self, y: String, relu: bool) -> String {
        if relu { self.add("Relu", &[y], &[]) } else { y }
    }

    /// [N,C,H,W] as [N, C H W]; rows stay as they are.
    fn flat(&mut self, v: Value) -> String {
        let x = self.names[&v].clone();
        if self.source.graph.dims(v).len() == 2 { x } else { self.add("Flatten", &[x], &[Int("axis", 1)]) }
    }

    /// The nodes of one op; the name of its output.
    fn node(&mut self, n: &Node) -> Result<String> {
        let g = &self.source.graph;
        let (x, y) = (n.ins.first().map_or(&[][..], |v| g.dims(*v)), g.dims(n.outs[0]));
        let ins: Vec<String> = n.ins.iter().map(|v| self.names[v].clone()).collect();
        Ok(if let Some(op) = is::<image::Normalize>(n) {
            self.normalize(op, &ins[0])
        } else if let Some(op) = is::<conv::Fprop>(n) {
            let mut all = window(&op.window, x, y);
            all.push(Int("group", op.groups as i64));
            let y = self.add("Conv", &ins, &all);
            self.relu(y, op.relu)
        } else if let Some(op) = is::<norm::Eval>(n) {
            let y = self.add("BatchNormalization", &ins, &[Float("epsilon", op.eps)]);
            self.relu(y, op.relu)
        } else if let Some(op) = is::<dense::Fprop>(n) {
            let ins: Vec<String> = std::iter::once(self.flat(n.ins[0])).chain(ins.into_iter().skip(1)).collect();
            let y = self.add("Gemm", &ins, &[Int("transB", 1)]);
            self.relu(y, op.relu)
        } else if let Some(op) = is::<MaxPool>(n) {
            self.add("MaxPool", &ins, &window(&op.window, x, y))
        } else if let Some(AvgPool { over: Over::Image }) = is(n) {
            let y = self.add("GlobalAveragePool", &ins, &[]);
            self.add("Flatten", &[y], &[Int("axis", 1)])
        // Where a window hangs over the padding, ONNX and PyTorch count differently.
        } else if let Some(AvgPool { over: Over::Window { window: w @ Window { ceil: false, .. }, count_pad } }) = is(n)
        {
            let mut all = window(w, x, y);
            // The only attribute that came later than opset 17.
            all.retain(|a| !matches!(a, Ints("dilations", _)));
            all.push(Int("count_include_pad", i64::from(*count_pad)));
            self.add("AveragePool", &ins, &all)
        // Windows of an even size reach further down there, and further up here.
        } else if let Some(op) = is::<Lrn>(n).filter(|op| op.size % 2 == 1) {
            let numbers = [Float("alpha", op.alpha), Float("beta", op.beta), Float("bias", op.k)];
            let all: Vec<Attribute> = numbers.into_iter().chain([Int("size", op.size as i64)]).collect();
            self.add("LRN", &ins, &all)
        } else if is::<Relu>(n).is_some() {
            self.relu(ins[0].clone(), true)
        } else if is::<arith::Add>(n).is_some() {
            self.add("Add", &ins, &[])
        } else if is::<Concat>(n).is_some() {
            // Channels, or features.
            self.add("Concat", &ins, &[Int("axis", 1)])
        } else if is::<Softmax>(n).is_some() {
            self.add("Softmax", &ins, &[Int("axis", 1)])
        } else if is::<arith::Standardize>(n).is_some() {
            let y = self.add("Sub", &ins[..2], &[]);
            self.add("Mul", &[y, ins[2].clone()], &[])
        } else if let Some(op) = is::<arith::Scale>(n) {
            let by = self.floats("by", &[], &[op.by]);
            self.add("Mul", &[ins[0].clone(), by], &[])
        } else if let Some(op) = is::<arith::Fill>(n).filter(|_| y.len() == 1) {
            self.floats("fill", &[y[0] as i64], &vec![op.value as f32; y[0]])
        } else {
            let problem = format!("`{}` of this form has no translation to ONNX", n.op.name());
            return Err(Error::file(self.source.file.path(), problem)
                .at(format!("layer {}", n.label))
                .fix("export its weights as safetensors or torch-names"));
        })
    }

    /// (x scale - mean) / deviation, each operation in float32 as the engine does it.
    fn normalize(&mut self, op: &image::Normalize, image: &str) -> String {
        let label = std::mem::replace(&mut self.label, image.into());
        let mut x = self.picture(image, if op.order == Order::Bgr { "bgr" } else { "rgb" });
        self.label = label;
        if op.scale != 1.0 {
            let scale = self.floats("scale", &[], &[op.scale]);
            x = self.add("Mul", &[x, scale], &[]);
        }
        let mean = self.floats("mean", &[1, 3, 1, 1], &op.mean);
        x = self.add("Sub", &[x, mean], &[]);
        if op.std != [1.0; 3] {
            let std = self.floats("std", &[1, 3, 1, 1], &op.std);
            x = self.add("Div", &[x, std], &[]);
        }
        x
    }

    /// An input as float32 [N,3,S,S] in an order of channels, once for all towers.
    fn picture(&mut self, image: &str, order: &'static str) -> String {
        let key = (image.to_string(), order);
        if let Some(known) = self.pictures.get(&key) {
            return known.clone();
        }
        let x = if order == "rgb" {
            let x = self.add("Transpose", &[image.into()], &[Ints("perm", vec![0, 3, 1, 2])]);
            self.add("Cast", &[x], &[Int("to", FLOAT)])
        } else {
            let rgb = self.picture(image, "rgb");
            let order = self.constant("bgr", &[3], INT64, bytemuck::cast_slice(&[2i64, 1, 0]));
            self.add("Gather", &[rgb, order], &[Int("axis", 1)])
        };
        self.pictures.insert(key, x.clone());
        x
    }

    /// `GraphProto`.
    fn message(self, weights: Vec<Message<'a>>) -> Message<'a> {
        let g = &self.source.graph;
        let about = |o: &Output| match (o, self.source.classes.len()) {
            (Output::Target { .. }, _) => "rating, 1 to 9".to_string(),
            (Output::Probabilities { .. }, 0) => String::new(),
            (Output::Probabilities { .. }, _) => self.source.classes.join(", "),
        };
        let outputs = self.source.outputs.iter().map(|o| {
            let classes = match o {
                Output::Target { .. } => None,
                Output::Probabilities { of } => Some(g.dims(*of)[1] as i64),
            };
            typed(output_name(o), FLOAT, classes.as_slice(), &about(o))
        });
        let inputs = self.source.images.iter().enumerate().map(|(i, &x)| {
            let dims: Vec<i64> = g.dims(x)[1..].iter().map(|d| *d as i64).collect();
            typed(g.name(x), UINT8, &dims, &input(self.source, i))
        });
        Message::default()
            .messages(1, self.nodes)
            .text(2, env!("CARGO_PKG_NAME"))
            .messages(5, self.constants)
            .messages(5, weights)
            .messages(11, inputs)
            .messages(12, outputs)
    }
}

/// `ValueInfoProto` of a tensor [N, dims].
fn typed<'a>(name: &str, kind: i64, dims: &[i64], about: &str) -> Message<'a> {
    let n = Message::default().text(2, "N");
    let dims = std::iter::once(n).chain(dims.iter().map(|d| Message::default().int(1, *d)));
    let tensor = Message::default().int(1, kind).message(2, Message::default().messages(1, dims));
    Message::default().text(1, name).message(2, Message::default().message(1, tensor)).text(3, about)
}

/// Attributes of a window over x [N,H,W,C] with outputs y [N,P,Q,K]. What rounding up adds is padding here: zeros for a
/// convolution, nothing for a maximum.
fn window(w: &Window, x: &[usize], y: &[usize]) -> Vec<Attribute> {
    let all = |n: &[usize]| n.iter().map(|n| *n as i64).collect::<Vec<i64>>();
    let mut pad = w.pad;
    for a in 0..2 {
        let reach = (y[a + 1] - 1) * w.stride[a] + w.dilation[a] * (w.size[a] - 1) + 1;
        pad[a + 2] = pad[a + 2].max(reach.saturating_sub(x[a + 1] + w.pad[a]));
    }
    vec![
        Ints("kernel_shape", all(&w.size)),
        Ints("strides", all(&w.stride)),
        Ints("pads", all(&pad)),
        Ints("dilations", all(&w.dilation)),
    ]
}
