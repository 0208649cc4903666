/*! ONNX models (onnx/onnx.proto3): the initialisers of the graph under the names they have there, and, for those that were
given none, which layers they belong to. Constants that a layer multiplies by or adds are initialisers too. Values are raw
bytes or packed floats and lie in the file either way, or in files beside it (external data: PyTorch's exporter keeps them
in `NAME.onnx.data`). Shapes are the writer's: filters [O,I,H,W]; of dense layers [out, in] where the product
transposes them ([`OnnxLayer::transposed`]) and [in, out] where it does not. */

use super::proto::{self, Value, fields};
use super::{Archive, Array, ArrayData, BLOCKS, Fault, Format, row_major};
use crate::weights::header::MAX_RANK;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// Most initialisers and most layers.
const MAX_TENSORS: usize = 1 << 14;
/// Most inputs and outputs of a node.
const MAX_ENDS: usize = 1 << 12;

/// Whether this is an ONNX model: protobuf says nothing of what it is, but this has a version first and a graph.
pub fn is_onnx(bytes: &[u8]) -> bool {
    let mut fields = fields(bytes, 0..bytes.len()).map_while(Result::ok);
    matches!(fields.next(), Some((1, Value::Number(_)))) && fields.any(|f| matches!(f, (7, Value::Bytes(_))))
}

/// All initialisers, dense weights as [out, in]. Exporters that fold batch norm name nothing (`onnx::Conv_123`): where the
/// graph is a VGG, its layers get torchvision's names by their order.
pub fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    let (mut archive, constants) = initialisers(bytes)?;
    let layers = layers_of(bytes, &archive)?;
    // Of the constants those that are a layer's.
    let used: HashSet<&String> = layers.iter().flat_map(|l| &l.inputs).collect();
    archive.arrays.retain(|a| !constants.contains(&a.name) || used.contains(&a.name));
    let of = |ops: &[&str]| layers.iter().filter(|l| ops.contains(&l.op.as_str())).collect::<Vec<_>>();
    let (convs, dense, norms) = (of(&["Conv"]), of(&["Gemm", "MatMul"]), of(&["BatchNormalization"]));
    let mut names: HashMap<String, String> = HashMap::new();
    if let Some(blocks) = BLOCKS.iter().find(|b| b.iter().sum::<usize>() == convs.len() && dense.len() <= 3) {
        // Channels last, as TensorFlow's converters leave them: a dense weight behind that is in another order.
        let first = layers.iter().position(|l| l.op == "Conv").unwrap_or(0);
        if let Some(l) = layers[first..].iter().find(|l| l.op == "Transpose") {
            return Err(Fault::of(
                format!("node {}", l.op),
                "turns the axes between the layers; import the file that it was converted from",
            ));
        }
        let mut name = |layer: &'_ OnnxLayer, parts: &[&str], stem: String| {
            let of_parts = layer.inputs.iter().zip(parts).map(|(own, part)| (own.clone(), format!("{stem}.{part}")));
            names.extend(of_parts);
        };
        let (mut at, mut conv, step) = (0, convs.iter(), if norms.len() == convs.len() { 3 } else { 2 });
        let mut norm = norms.iter();
        for n in blocks {
            for layer in conv.by_ref().take(*n) {
                name(layer, &["weight", "bias"], format!("features.{at}"));
                if let Some(layer) = norm.next().filter(|_| step == 3) {
                    name(layer, &["weight", "bias", "running_mean", "running_var"], format!("features.{}", at + 1));
                }
                at += step;
            }
            at += 1;
        }
        for (i, layer) in dense.iter().enumerate() {
            let stem = if dense.len() == 1 { "classifier".into() } else { format!("classifier.{}", 3 * i) };
            name(layer, &["weight", "bias"], stem);
        }
    }
    let turned: HashSet<&str> =
        dense.iter().filter(|l| !l.transposed).filter_map(|l| l.inputs.first()).map(String::as_str).collect();
    for a in &mut archive.arrays {
        if turned.contains(a.name.as_str()) && a.shape.len() == 2 {
            a.shape.swap(0, 1);
            a.strides.swap(0, 1);
        }
        if let Some(name) = names.get(a.name.as_str()) {
            a.name = name.clone();
        }
    }
    archive.check(bytes.len())
}

/// As the file has them, with its constants, and the names of those.
fn initialisers(bytes: &[u8]) -> Result<(Archive, HashSet<String>), Fault> {
    let (mut producer, mut graph) = ([String::new(), String::new()], None);
    for field in fields(bytes, 0..bytes.len()) {
        match field? {
            (n @ 2..=3, value) => producer[n as usize - 2] = proto::text(bytes, &value)?,
            (7, Value::Bytes(range)) => graph = Some(range),
            _ => {}
        }
    }
    let graph = graph.ok_or_else(|| Fault::at(0, "no graph: no ONNX model"))?;
    let (mut arrays, mut others) = (Vec::new(), 0);
    let (mut beside, mut constants) = (Vec::new(), HashSet::new());
    for field in fields(bytes, graph.clone()) {
        match field? {
            (5, Value::Bytes(tensor)) => match array(bytes, tensor, &mut beside)? {
                Some(array) => arrays.push(array),
                None => others += 1,
            },
            (1, Value::Bytes(node)) => {
                let node = Node::read(bytes, node)?;
                if let ("Constant", Some(tensor), [name]) = (node.op.as_str(), node.tensor, &node.outputs[..])
                    && let Some(array) = array(bytes, tensor, &mut beside)?
                {
                    constants.insert(name.clone());
                    arrays.push(Array { name: name.clone(), ..array });
                }
            }
            (15, Value::Bytes(sparse)) => return Err(Fault::at(sparse.start, "sparse initialisers are not supported")),
            _ => {}
        }
        if arrays.len() > MAX_TENSORS {
            return Err(Fault::at(graph.start, format!("more than {MAX_TENSORS} initialisers")));
        }
    }
    let mut notes = BTreeMap::from([("producer".to_string(), producer.join(" ").trim().to_string())]);
    if others > 0 {
        notes.insert("left out".to_string(), format!("{others} initialisers that are no floats"));
    }
    Ok((Archive { format: Format::Onnx, arrays, notes, beside }.check(bytes.len())?, constants))
}

/// TensorProto; None if it is not of floats: such are the extents that a Reshape wants, and no weights. Files that hold
/// values are added to `beside`.
fn array(bytes: &[u8], tensor: Range<usize>, beside: &mut Vec<String>) -> Result<Option<Array>, Fault> {
    let (mut name, mut shape, mut kind, mut external) = (String::new(), Vec::new(), 0, false);
    let mut data = BTreeMap::new();
    for field in fields(bytes, tensor.clone()) {
        match field? {
            (1, value) => proto::numbers(bytes, &value, MAX_RANK, &mut shape)?,
            (2, Value::Number(n)) => kind = n,
            (8, value) => name = proto::text(bytes, &value)?,
            (13, Value::Bytes(entry)) => {
                let mut pair = [String::new(), String::new()];
                for field in fields(bytes, entry) {
                    if let (n @ 1..=2, value) = field? {
                        pair[n as usize - 1] = proto::text(bytes, &value)?;
                    }
                }
                let [key, value] = pair;
                data.insert(key, value);
                external = true;
            }
            (14, Value::Number(1)) => external = true,
            _ => {}
        }
    }
    let refuse = |problem: String| Err(Fault::of(format!("initialiser `{name}`, byte {}", tensor.start), problem));
    // The field of values that are not raw; those of 16 bits would be numbers of any length there.
    let (dtype, field) = match kind {
        1 => (Dtype::F32, Some(4)),
        10 => (Dtype::F16, None),
        11 => (Dtype::F64, Some(10)),
        16 => (Dtype::BF16, None),
        _ => return Ok(None),
    };
    let width = dtype.bitsize() / 8;
    let needs = shape.iter().try_fold(width, |a, n| a.checked_mul(*n));
    if external {
        let location = data.get("location").map(|l| l.strip_prefix("./").unwrap_or(l)).filter(|l| !l.is_empty());
        let number = |key: &str| data.get(key).map_or(Ok(None), |n| n.trim().parse::<usize>().map(Some));
        let (Some(location), Ok(offset), Ok(length)) = (location, number("offset"), number("length")) else {
            return refuse("its values are elsewhere, and no file and place are named".into());
        };
        let (offset, length) = (offset.unwrap_or(0), length.or(needs));
        let (true, Some(end)) = (length == needs, length.and_then(|n| offset.checked_add(n))) else {
            return refuse(format!("{} bytes in `{location}` for {shape:?} of {dtype}", length.unwrap_or(0)));
        };
        let file = beside.iter().position(|b| b == location).unwrap_or_else(|| {
            beside.push(location.into());
            beside.len() - 1
        });
        return Ok(Some(Array {
            name,
            dtype,
            strides: row_major(&shape),
            shape,
            place: ArrayData::Beside(file, offset..end),
        }));
    }
    let (mut size, mut place) = proto::values(bytes, tensor.clone(), 9, width)?;
    if let (0, Some(field)) = (size, field) {
        (size, place) = proto::values(bytes, tensor.clone(), field, width)?;
    }
    if needs != Some(size) {
        return refuse(format!("{size} bytes of raw values for {shape:?} of {dtype}"));
    }
    Ok(Some(Array { name, dtype, strides: row_major(&shape), shape, place }))
}

/// An operation with initialisers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnnxLayer {
    /// `Conv`, `Gemm`, `MatMul` or `BatchNormalization`.
    pub op: String,
    /// Its initialisers in the operation's order: weight and bias; of the last scale, bias, mean and variance. What is
    /// added to a MatMul's result is its bias.
    pub inputs: Vec<String>,
    /// A Gemm that transposes its weight, which therefore is [out, in].
    pub transposed: bool,
}

/// The layers along the graph, whose nodes are listed in an order in which they can run. Only operations that multiply by
/// an initialiser count.
pub fn layers(bytes: &[u8]) -> Result<Vec<OnnxLayer>, Fault> {
    layers_of(bytes, &initialisers(bytes)?.0)
}

fn layers_of(bytes: &[u8], archive: &Archive) -> Result<Vec<OnnxLayer>, Fault> {
    let names: HashSet<String> = archive.arrays.iter().map(|a| a.name.clone()).collect();
    let (mut layers, mut products) = (Vec::<OnnxLayer>::new(), HashMap::new());
    for field in fields(bytes, 0..bytes.len()) {
        let (7, Value::Bytes(graph)) = field? else { continue };
        for field in fields(bytes, graph) {
            let (1, Value::Bytes(range)) = field? else { continue };
            let node = Node::read(bytes, range.clone())?;
            let owned = |name: &&String| names.contains(*name);
            let inputs: Vec<String> = node.inputs.iter().filter(owned).cloned().collect();
            match node.op.as_str() {
                "Conv" | "Gemm" | "MatMul" | "BatchNormalization" if node.inputs.get(1).as_ref().is_some_and(owned) => {
                    if node.op == "MatMul" {
                        products.extend(node.outputs.into_iter().map(|o| (o, layers.len())));
                    }
                    layers.push(OnnxLayer { op: node.op, inputs, transposed: node.transposed });
                }
                "Transpose" => layers.push(OnnxLayer { op: node.op, inputs, transposed: false }),
                "Add" => {
                    let product = node.inputs.iter().find_map(|i| products.get(i)).and_then(|i| layers.get_mut(*i));
                    if let Some(layer) = product.filter(|l| l.inputs.len() == 1) {
                        layer.inputs.extend(inputs);
                    }
                }
                _ => {}
            }
            if layers.len() > MAX_TENSORS {
                return Err(Fault::at(range.start, format!("more than {MAX_TENSORS} layers")));
            }
        }
    }
    Ok(layers)
}

/// NodeProto.
#[derive(Default)]
struct Node {
    op: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    transposed: bool,
    /// The value of a Constant.
    tensor: Option<Range<usize>>,
}

impl Node {
    fn read(bytes: &[u8], range: Range<usize>) -> Result<Self, Fault> {
        let mut node = Self::default();
        let start = range.start;
        for field in fields(bytes, range) {
            match field? {
                (1, value) => node.inputs.push(proto::text(bytes, &value)?),
                (2, value) => node.outputs.push(proto::text(bytes, &value)?),
                (4, value) => node.op = proto::text(bytes, &value)?,
                (5, Value::Bytes(attribute)) => {
                    let (mut name, mut number, mut tensor) = (String::new(), 0, None);
                    for field in fields(bytes, attribute) {
                        match field? {
                            (1, value) => name = proto::text(bytes, &value)?,
                            (3, Value::Number(n)) => number = n,
                            (5, Value::Bytes(range)) => tensor = Some(range),
                            _ => {}
                        }
                    }
                    if name == "value" {
                        node.tensor = node.tensor.or(tensor);
                    }
                    node.transposed |= name == "transB" && number == 1;
                }
                _ => {}
            }
            if node.inputs.len() + node.outputs.len() > MAX_ENDS {
                return Err(Fault::at(start, "a node of too many inputs and outputs"));
            }
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fixture, reference, tensors, torment};
    use super::*;

    const FIXTURES: [&str; 3] = ["tiny.onnx", "torch.onnx", "torch-bn.onnx"];

    #[test]
    fn both_writers_keep_the_networks_values() {
        let plain = reference("torchvision.safetensors");
        let file = fixture("torch.onnx");
        let archive = read(&file).unwrap();
        assert_eq!(archive.notes["producer"].split('+').next(), Some("pytorch 2.15.0"));
        assert_eq!(archive.notes["left out"], "1 initialisers that are no floats");
        assert_eq!(tensors(&archive, &file), plain);

        // Its names are others, and its last layer a product of [9,10] and a sum.
        let file = fixture("tiny.onnx");
        assert_eq!(tensors(&read(&file).unwrap(), &file), plain);
    }

    #[test]
    fn layers_are_told_by_the_graph() {
        for name in FIXTURES {
            assert!(is_onnx(&fixture(name)), "{name}");
            let layers = layers(&fixture(name)).unwrap();
            let say = |i: usize| {
                let l: &OnnxLayer = &layers[i];
                format!("{} {} {}", l.op, l.inputs.join(" "), l.transposed)
            };
            let last = layers.len() - 1;
            match name {
                "tiny.onnx" => {
                    assert_eq!((last, say(0)), (15, "Conv conv1_1.weight conv1_1.bias false".into()));
                    assert_eq!(say(14), "Gemm fc2.weight fc2.bias true");
                    assert_eq!(say(last), "MatMul fc3.weight fc3.bias false");
                }
                "torch.onnx" => {
                    assert_eq!((last, say(1)), (15, "Conv features.2.weight features.2.bias false".into()));
                    assert_eq!(say(last), "Gemm classifier.6.weight classifier.6.bias true");
                }
                _ => {
                    assert_eq!((last, say(0)), (1, "Conv onnx::Conv_24 onnx::Conv_25 false".into()));
                    assert_eq!(say(1), "Conv onnx::Conv_27 onnx::Conv_28 false");
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
            [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
        }
        // Extents [2], type float, name `a`, and what else there is.
        let model =
            |parts: &[&[u8]]| field(7, &field(5, &[&[8, 2, 16, 1][..], &field(8, b"a"), &parts.concat()].concat()));
        let entry =
            |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
        let elsewhere = read(&model(&[&entry("location", "./w.data"), &entry("offset", "16")])).unwrap();
        assert_eq!(elsewhere.beside, ["w.data"]);
        assert!(matches!(&elsewhere.arrays[0].place, ArrayData::Beside(0, r) if *r == (16..24)));
        let good = field(9, &[0; 8]);
        assert!(read(&model(&[&good])).is_ok());
        let twice =
            field(7, &[1, 2].map(|_| field(5, &[&[8, 2, 16, 1][..], &field(8, b"a"), &good].concat())).concat());
        for (file, want) in [
            (model(&[]), "initialiser `a`, byte 4: 0 bytes of raw values for [2] of F32"),
            (model(&[&field(9, &[0; 7])]), "byte 13: 7 bytes of values of 4"),
            (
                model(&[&good, &[8, 255, 255, 255, 255, 255, 255, 255, 255, 127]]),
                "8 bytes of raw values for [2, 9223372036854775807]",
            ),
            (model(&[&good, &[8, 1].repeat(16)]), "more than 16 extents"),
            (model(&[&[16, 10]]), "0 bytes of raw values for [2] of F16"),
            (model(&[&[0x70, 1]]), "no file and place are named"),
            (model(&[&field(13, b"")]), "no file and place are named"),
            (model(&[&entry("location", "w"), &entry("length", "7")]), "7 bytes in `w` for [2] of F32"),
            (model(&[&entry("location", "w"), &entry("offset", "-1")]), "no file and place are named"),
            (model(&[&entry("location", "w"), &entry("offset", "18446744073709551615")]), "8 bytes in `w`"),
            (twice, "tensor `a`: the name is empty or comes twice"),
            (field(7, &field(15, b"")), "sparse initialisers are not supported"),
            (vec![8, 7], "byte 0: no graph: no ONNX model"),
        ] {
            let e = read(&file).unwrap_err();
            assert!(format!("{}: {}", e.place, e.problem).contains(want), "{e:?}\n{want}");
        }
    }

    #[test]
    fn constants_that_layers_use_are_initialisers() {
        fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
            [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
        }
        let constant = |name: &[u8]| {
            let tensor = [&[8, 1, 8, 2, 16, 1][..], &field(9, &[0; 8])].concat();
            let attribute = field(5, &[field(1, b"value"), field(5, &tensor)].concat());
            field(1, &[field(2, name), field(4, b"Constant"), attribute].concat())
        };
        let product = field(1, &[field(1, b"x"), field(1, b"w"), field(2, b"y"), field(4, b"MatMul")].concat());
        let file = field(7, &[constant(b"w"), constant(b"other"), product].concat());
        let archive = read(&file).unwrap();
        assert_eq!((archive.arrays.len(), archive.arrays[0].name.as_str()), (1, "w"));
        assert_eq!(archive.arrays[0].shape, [2, 1]);
    }

    #[test]
    fn damage_is_refused_or_harmless() {
        let read_all = |bytes: &[u8]| layers(bytes).and_then(|_| read(bytes));
        FIXTURES.iter().for_each(|f| torment(read_all, &fixture(f), 2000));
    }
}
